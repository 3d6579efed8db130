#!/bin/bash
# fuzz.sh [SECONDS] - every fuzzer in test/fuzz, for SECONDS (default 60) in total, two at a time.
# What it finds is left in build-fuzz/found/.
set -euo pipefail
cd "$(dirname "$0")/.."
total=${1:-${FUZZ_SECONDS:-60}}
build=build-fuzz

if [ ! -e $build/build.ninja ]; then
	cmake -S . -B $build -G Ninja -DCMAKE_C_COMPILER=clang -DKRG_FUZZ=ON >/dev/null
fi
ninja -C $build --quiet
fuzzers=($build/bin/fuzz_*)
[ -x "${fuzzers[0]}" ]
each=$((total * 2 / ${#fuzzers[@]}))
[ $each -ge 2 ] || each=2
[ $each -le "$total" ] || each=$total
mkdir -p $build/found

one() { # PROGRAM SECONDS
	local name=${1##*/fuzz_} corpus log
	corpus=$(mktemp -d)
	log=build-fuzz/$name.log
	mkdir -p "test/fuzz/corpus/$name"
	if "$1" -max_total_time="$2" -max_len=65536 -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
		-artifact_prefix="build-fuzz/found/$name-" "$corpus" "test/fuzz/corpus/$name" \
		>"$log" 2>&1; then
		printf '%-24s %10s runs, %s covered\n' "$name" \
			"$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")" \
			"$(grep -o 'cov: [0-9]*' "$log" | tail -n 1)"
	else
		tail -n 60 "$log"
		echo "fuzz_$name failed; $(grep -o 'Test unit written to .*' "$log" || true)"
		rm -rf "$corpus"
		return 1
	fi
	rm -rf "$corpus"
}
export -f one
printf '%s\n' "${fuzzers[@]}" | xargs -P 2 -I '{}' bash -c "one {} $each"
