#!/bin/bash
# Spawners over several nodes, with kills at random moments.  All the while each pid is there once; afterwards
# nothing is left of it: no process, no zombie, no deputy, no descriptor, no memory.
# SEED=N SECONDS_LONG=S NODES=N SPAWNERS=N
. "$(dirname "$0")/epm_lab.sh"

seed=${SEED:-$(date +%s)}
long=${SECONDS_LONG:-20} nodes=${NODES:-3} spawners=${SPAWNERS:-8}
deadline=$((long + 150))
all=$(seq -s ' ' 0 $((nodes - 1)))

memory_of() { # memory_of NODE: KiB that its daemon has
	awk '/^RssAnon:/ { print $2 }' "/proc/$(pid_of "$lab" "$1")/status"
}

# Pids that a listing of the whole cluster has more than once.
twice() {
	timeout 20 "$KRG" --lab "$lab" --node 0 ps --json | grep -o '"pid": *[0-9]*' | sort | uniq -d
}

epm_up "$nodes"
ok $? "a lab of $nodes nodes"
# What is made once and kept: threads, buffers.
self_checking 0 "a short one first" "$KRG_BIN/live_epm_storm" "$seed" 5 "$spawners"
# shellcheck disable=SC2086
idle $all
ok $? "every process of it has ended"
for node in $all; do
	before[node]=$(fds_of "$node") memory[node]=$(memory_of "$node")
done
(
	while [ ! -e "$work/over" ]; do
		twice >>"$work/twice"
		echo >>"$work/looks"
		perl -e 'select undef, undef, undef, 0.5'
	done
) &
looker=$!
self_checking 0 "storm of $long s, $spawners spawners, seed $seed" "$KRG_BIN/live_epm_storm" "$seed" "$long" "$spawners"
: >"$work/over"
wait $looker
[ "$(wc -l <"$work/looks")" -gt 1 ] && [ ! -s "$work/twice" ]
ok $? "each pid once, $(wc -l <"$work/looks") looks: $(sort -u "$work/twice" | head -3 | tr '\n' ' ')"
# shellcheck disable=SC2086
idle $all
ok $? "every process has ended, no deputy and no zombie is left"
for node in $all; do
	for ((i = 0; i < 50; i++)); do
		now=$(fds_of "$node")
		[ "$now" -le $((before[node] + 8)) ] && break
		perl -e 'select undef, undef, undef, 0.1'
	done
	true_that "$now <= ${before[node]} + 8"
	ok $? "node $node: $now descriptors, ${before[node]} before"
	ls -l "/proc/$(pid_of "$lab" "$node")/fd" >"$work/fds"
	[ "$now" -le $((before[node] + 8)) ] || awk '{ print "# " $NF }' "$work/fds" | sort | uniq -c | sort -rn | head -8
	now=$(memory_of "$node")
	true_that "$now <= ${memory[node]} * 1.5 + 8192"
	ok $? "node $node: $now KiB, ${memory[node]} before"
done
grep -hE "ASSERT|assert|PANIC|sanitizer" /run/krg/lab/"$lab"/node*/log | sed 's/^/# /'
epm_down
