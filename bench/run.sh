#!/bin/bash
# run.sh [NAME]... - runs the benches and prints their figures as a table and as lines.
#
# A bench is a program build-release/bin/bench_NAME or a script bench/NAME.sh (not run.sh); it may
# print what people read, and for each figure with a target a line
#	figure NAME VALUE UNIT target OP NUMBER ok|short
# A script finds the programs in $KRG_BIN.  Short figures are counted, never an error: a figure says how
# fast it is here, a test says whether it works.  A bench that fails is an error.
set -euo pipefail
cd "$(dirname "$0")/.."
build=build-release

if [ ! -e $build/build.ninja ]; then
	cmake -S . -B $build -G Ninja -DKRG_CHECKS=OFF -DBUILD_TESTING=OFF >/dev/null
fi
ninja -C $build --quiet
export KRG_BIN=$PWD/$build/bin

names=("$@")
if [ ${#names[@]} -eq 0 ]; then
	for f in "$KRG_BIN"/bench_*; do
		[ ! -x "$f" ] || names+=("$(basename "${f/bench_/}")")
	done
	for f in bench/*.sh; do
		[ "$f" = bench/run.sh ] || names+=("$(basename "$f" .sh)")
	done
fi
if [ ${#names[@]} -eq 0 ]; then
	echo "there is no bench" >&2
	exit 1
fi

# The figures are shown once, at the end.
show() {
	tee $build/bench.out | { grep --line-buffered -v '^figure ' || true; }
}

lines=$build/figures
: >$lines
failed=()
for name in "${names[@]}"; do
	echo "== $name"
	rc=0
	if [ -x "$KRG_BIN/bench_$name" ]; then
		"$KRG_BIN/bench_$name" </dev/null | show || rc=$?
	else
		bash "bench/$name.sh" </dev/null | show || rc=$?
	fi
	if [ $rc -eq 77 ]; then
		echo "$name: skipped"
	elif [ $rc -ne 0 ]; then
		failed+=("$name")
	fi
	grep '^figure ' $build/bench.out >>$lines || true
done

echo
printf '%-44s %12s %-8s %-14s\n' figure value unit target
while read -r _ name value unit _ op number verdict; do
	printf '%-44s %12s %-8s %-14s %s\n' "$name" "$value" "$unit" "$op $number" "$verdict"
done <$lines
echo
cat $lines
echo "$(grep -c ' ok$' $lines || true) figures reach their targets, $(grep -c ' short$' $lines || true) are short"
if [ ${#failed[@]} -gt 0 ]; then
	echo "benches that failed: ${failed[*]}"
	exit 1
fi
