#!/bin/bash
# A node that was killed and comes back uses its numbers anew.  What stood on other nodes for sessions of
# its former life had these numbers still, for up to 2 s: meanwhile its programs could not be placed there.
KRG_TEST_LEVEL=debug # it says why an exec stays
# shellcheck source=test/live/epm_lab.sh
. "$(dirname "$0")/../live/epm_lab.sh"

epm_up 3
ok $? "a lab of 3 nodes"
for round in 1 2 3; do
	# sessions of this life, on both other nodes
	for i in 1 2 3 4; do
		on 1 sh -c '/bin/true; /bin/true' </dev/null
	done
	"$KRG" lab stop --name "$lab" --kill 1
	"$KRG" lab start --name "$lab" --krgd "$work/krgd" 1 >"$work/out" 2>&1 || cat "$work/out"
	for i in 1 2 3 4 5 6; do
		on 1 /bin/uname -n </dev/null
	done | sort | uniq -c >"$work/where"
	is "$(grep -c "stays: .*File exists" /run/krg/lab/"$lab"/node1/log)" 0 \
		"round $round: no number is taken: $(tr -s ' \n' ' ' <"$work/where")"
done
ours=$(namespaces_of "$lab")
epm_down
