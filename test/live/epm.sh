#!/bin/bash
# What programs see under `krg run` when every exec goes to another node: each checks itself.
. "$(dirname "$0")/epm_lab.sh"

dir=$(dirname "$(readlink -f "$0")")
epm_up 3
ok $? "a lab of 3 nodes, each exec elsewhere"
for node in 0 1 2; do
	before[node]=$(fds_of $node)
done
for test in ${TESTS:-identity fail wait signal pids standin kin threads}; do
	self_checking 0 "$test" "$KRG_BIN/live_epm_$test"
done
if [ -z "$TESTS" ] || [ -n "$MANY" ]; then
	for test in ${MANY:-kin threads}; do
		at_once 16 "$test" "$KRG_BIN/live_epm_$test"
	done
fi
[ -n "$TESTS" ] || self_checking 1 shell bash "$dir/epm_shell.sh"
idle 0 1 2
ok $? "every process has ended"
for node in 0 1 2; do
	for ((i = 0; i < 50 && $(fds_of $node) > before[node] + 8; i++)); do
		perl -e 'select undef, undef, undef, 0.1'
	done
	now=$(fds_of $node)
	true_that "$now <= ${before[node]} + 8"
	ok $? "node $node: $now descriptors, ${before[node]} before"
done
epm_down
