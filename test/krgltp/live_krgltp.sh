#!/bin/bash
# All cases of krgltp: plainly, and with every exec on another node of a lab of 3.
# KRGLTP_INSTANCES=N: as many at once (default 16).  KRGLTP_JSON=FILE: the results.
KRG_BIN=${KRG_BIN:?}
dir=$(dirname "$(readlink -f "$0")")
if [ "$(id -u)" -ne 0 ]; then
	echo "1..0 # SKIP needs root"
	exit 77
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
n=0 failed=0
for mode in plain elsewhere; do
	"$KRG_BIN/krgltp" --mode $mode -i "${KRGLTP_INSTANCES:-16}" -t 20 --known "$dir/known" \
		--json "${KRGLTP_JSON:-$work/json}" >"$work/out" 2>&1
	status=$?
	n=$((n + 1))
	if [ $status -eq 0 ]; then
		echo "ok $n - $mode: $(tail -n 1 "$work/out")"
	else
		failed=$((failed + 1))
		echo "not ok $n - $mode: $(tail -n 1 "$work/out")"
		grep -A 12 -E '^FAIL|^krgltp:' "$work/out" | grep -v '^pass' | sed 's/^/# /'
	fi
	grep '^FIXED' "$work/out" | sed 's/^/# /'
done
echo "1..$n"
exit $failed
