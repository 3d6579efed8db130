#!/bin/bash
# layers.sh [BUILD_DIR] - proves the layering: from the bottom up, each part is configured with
# nothing above it in the build, builds, and passes its unit tests; and a file in it that includes a
# header from above does not compile.
set -euo pipefail
cd "$(dirname "$0")/.."
build=${1:-build-layers}
rm -rf "$build"

parts=()
for part in $(sed -n 's/^set(KRG_PARTS \(.*\))$/\1/p' CMakeLists.txt); do
	[ ! -e "src/$part/CMakeLists.txt" ] || parts+=("$part")
done
[ ${#parts[@]} -gt 0 ]

# What a file includes, with the compiler and the options of a part's own files, from the build's compile commands.
includes_in() { # PART FILE
	local command
	command=$(python3 - "$build/compile_commands.json" "$PWD/src/$1/" <<'PY'
import json, shlex, sys
for entry in json.load(open(sys.argv[1])):
    if entry["file"].startswith(sys.argv[2]):
        words = shlex.split(entry["command"])
        del words[words.index("-o"):]
        print(shlex.join(words))
        break
else:
    sys.exit("no file of the part is compiled")
PY
	)
	(cd "$build" && eval "$command -M $2")
}

above=("${parts[@]}")
done_labels='^$'
for part in "${parts[@]}"; do
	above=("${above[@]:1}")
	cmake -S . -B "$build" -G Ninja -DKRG_UPTO="$part" >"$build.log" 2>&1 || {
		cat "$build.log"
		exit 1
	}
	mv "$build.log" "$build/configure.log"
	ninja -C "$build" --quiet
	ctest --test-dir "$build" -L unit -LE "$done_labels" --output-on-failure -j2 >"$build/ctest.log" 2>&1 || {
		cat "$build/ctest.log"
		exit 1
	}
	done_labels+="|$(ctest --test-dir "$build" --print-labels | sed -n 's/^ *\(part-.*\)$/^\1$/p' | paste -sd '|')"
	tests=$(sed -n 's/.*tests passed, 0 tests failed out of //p' "$build/ctest.log")

	probe=$PWD/$build/probe.c
	refused=0
	# the probe must be able to succeed: with one of the part's own headers (krgd's folder has two libraries)
	own=
	for header in src/"$part"/*.h; do
		[ -e "$header" ] || continue
		echo "#include \"${header##*/}\"" >"$probe"
		! includes_in "$part" "$probe" >/dev/null 2>&1 || own=$header
	done
	[ -n "$own" ] || {
		echo "$part: none of its own headers compiles: the probe is wrong"
		exit 1
	}
	for other in "${above[@]}"; do
		for header in src/"$other"/*.h; do
			[ -e "$header" ] || continue
			header=${header##*/}
			[ ! -e "src/$part/$header" ] || continue
			echo "#include \"$header\"" >"$probe"
			# (a header of the system may have the name: sched.h)
			if includes_in "$part" "$probe" >"$build/probe.d" 2>"$build/probe.log"; then
				if grep -q "/src/$other/$header" "$build/probe.d"; then
					echo "$part can include $header of $other, which is above it"
					exit 1
				fi
			elif ! grep -q "$header: No such file" "$build/probe.log"; then
				cat "$build/probe.log"
				exit 1
			fi
			refused=$((refused + 1))
		done
	done
	printf '%-10s builds alone, %s unit tests pass, %d headers from above are refused\n' \
		"$part" "${tests:-0}" "$refused"
done
