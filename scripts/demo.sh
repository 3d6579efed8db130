#!/usr/bin/env bash
# demo.sh - the main job, end to end: a real build and a real compression over a lab of nodes.
#
#	scripts/demo.sh [BUILD_DIR]
#
# Builds this project from a clean copy with `make -j8` under `krg run`, then compresses a few
# hundred real files with find | xargs -P8 xz; first without Kerrighed (the results to compare
# with), then on a lab of 1 node, then of KRG_DEMO_NODES (4), each node limited to KRG_DEMO_CPUS
# (0.4) processors.  Shows where the processes ran, and the times.  Exit status 0: the results are equal.
#
# KRG_DEMO=short: a smaller job, for CI.
set -euo pipefail

src=$(cd "$(dirname "$0")/.." && pwd)
bin=$(cd "${1:-$src/build-release}" && pwd)/bin
nodes=${KRG_DEMO_NODES:-4}
cpus=${KRG_DEMO_CPUS:-0.4}
short=$([ "${KRG_DEMO:-}" = short ] && echo 1 || true)
tmp=$(mktemp -d "${TMPDIR:-/tmp}/krg-demo.XXXXXX")
krg=$bin/krg
labs=()

cleanup() {
	for l in "${labs[@]}"; do "$krg" lab down --name "$l" >/dev/null 2>&1 || true; done
	rm -rf "$tmp"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

say() { printf '\n== %s\n' "$*"; }
now() { date +%s.%N; }
took() { awk -v a="$1" -v b="$2" 'BEGIN { printf "%.1f", b - a }'; }

# ---- the jobs: the same commands everywhere ----

say "a clean copy of this project, and files to compress"
mkdir "$tmp/src" "$tmp/files" "$tmp/out"
if git -C "$src" rev-parse HEAD >/dev/null 2>&1; then
	git -C "$src" archive HEAD | tar -x -C "$tmp/src"
else
	tar -C "$src" --exclude=./build --exclude='./build-*' -cf - . | tar -x -C "$tmp/src"
fi
want=$([ -n "$short" ] && echo 60 || echo 320)
# (head ends the pipe early: not an error)
(find /usr/bin /usr/lib/x86_64-linux-gnu -maxdepth 1 -type f -size +40k -size -400k | LC_ALL=C sort | head -n "$want" || true) |
	xargs cp -t "$tmp/files"
count=$(find "$tmp/files" -type f | wc -l)
echo "$count files, $(du -sh "$tmp/files" | cut -f1)"

target=$([ -n "$short" ] && echo krg_base krg_comm || echo all)
configure() {
	rm -rf "$tmp/build" && cmake -S "$tmp/src" -B "$tmp/build" -G 'Unix Makefiles' -DBUILD_TESTING=ON >/dev/null
}
build_cmd=(make -j8 -C "$tmp/build" $target)
xz_cmd=(sh -c "cd $tmp/work && find . -type f -print | xargs -P8 -n2 xz -6")

results() { # DIR: what the jobs made
	(cd "$tmp/build" && find . -name '*.o' -o -name '*.a' -o -path './bin/*' -type f | LC_ALL=C sort | xargs sha256sum
	 cd "$tmp/work" && find . -type f | LC_ALL=C sort | xargs sha256sum) >"$1"
}

# run NAME PREFIX...: both jobs under a command prefix; times in t_build and t_xz
run() {
	local name=$1 a b; shift
	configure
	rm -rf "$tmp/work" && cp -r "$tmp/files" "$tmp/work"
	a=$(now); "$@" "${build_cmd[@]}" >"$tmp/out/$name.build" 2>&1 || { tail -n 30 "$tmp/out/$name.build"; echo "demo: the build failed under: $*" >&2; exit 1; }
	b=$(now); t_build=$(took "$a" "$b")
	a=$(now); "$@" "${xz_cmd[@]}" >"$tmp/out/$name.xz" 2>&1 || { tail -n 30 "$tmp/out/$name.xz"; echo "demo: the compression failed under: $*" >&2; exit 1; }
	b=$(now); t_xz=$(took "$a" "$b")
	results "$tmp/out/$name.sum"
	echo "$name: make -j8 ${t_build} s, xz ${t_xz} s"
}

say "without Kerrighed, all of this machine"
run plain env

on_lab() { # N
	local lab=demo$$-$1
	say "a lab of $1 node(s), $cpus processors each"
	labs+=("$lab")
	"$krg" lab up -n "$1" --cpus "$cpus" --name "$lab"
	run "nodes-$1" "$krg" --lab "$lab" run
	if [ "$1" -gt 1 ]; then
		echo "where the programs ran:"
		"$krg" --lab "$lab" execs
	fi
	"$krg" lab down --name "$lab"
}
on_lab 1; b1=$t_build x1=$t_xz
on_lab "$nodes"; b4=$t_build x4=$t_xz

say "results"
bad=0
for n in 1 "$nodes"; do
	if cmp -s "$tmp/out/plain.sum" "$tmp/out/nodes-$n.sum"; then
		echo "$n node(s): $(wc -l <"$tmp/out/plain.sum") files equal to those made without Kerrighed"
	else
		bad=1
		echo "$n node(s): results DIFFER:"
		diff "$tmp/out/plain.sum" "$tmp/out/nodes-$n.sum" | head -n 10
	fi
done
awk -v b1="$b1" -v b4="$b4" -v x1="$x1" -v x4="$x4" -v n="$nodes" 'BEGIN {
	printf "%-12s %10s %10s %8s\n", "", "1 node", n " nodes", "faster"
	printf "%-12s %8.1f s %8.1f s %7.2fx\n", "make -j8", b1, b4, b1 / b4
	printf "%-12s %8.1f s %8.1f s %7.2fx\n", "xargs -P8 xz", x1, x4, x1 / x4
	r = (b1 + x1) / (b4 + x4)
	printf "%-12s %8.1f s %8.1f s %7.2fx\n", "together", b1 + x1, b4 + x4, r
	if (n == 4) {
		# (mawk takes a >= here for a redirection)
		make_ok = b1 < 3 * b4 ? "short" : "ok"
		xz_ok = x1 < 3 * x4 ? "short" : "ok"
		printf "figure demo_make %.2f x target >= 3 %s\n", b1 / b4, make_ok
		printf "figure demo_xz %.2f x target >= 3 %s\n", x1 / x4, xz_ok
	}
}'
exit $bad
