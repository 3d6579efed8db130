#!/bin/bash
# sanitize.sh asan|tsan - unit, simulated and short live tests under AddressSanitizer with UBSan, or
# under ThreadSanitizer, built with clang.
set -euo pipefail
cd "$(dirname "$0")/.."

case ${1:-} in
asan) sanitizers=address,undefined ;;
tsan) sanitizers=thread ;;
*)
	echo "usage: sanitize.sh asan|tsan" >&2
	exit 2
	;;
esac
build=build-$1
if [ ! -e "$build/build.ninja" ]; then
	cmake -S . -B "$build" -G Ninja -DCMAKE_C_COMPILER=clang -DKRG_SANITIZE=$sanitizers >/dev/null
fi
ninja -C "$build" --quiet
run=()
# ThreadSanitizer of clang 14 cannot place its memory when mmap is randomized over more bits.
if [ "$1" = tsan ] && [ "$(cat /proc/sys/vm/mmap_rnd_bits 2>/dev/null || echo 28)" -gt 28 ]; then
	run=(setarch -R)
fi
"${run[@]}" ctest --test-dir "$build" --output-on-failure --no-tests=error --no-label-summary -j2 -L 'unit|sim|short'
