#!/bin/bash
# Daemons that die, commands that are killed: nothing is left, and the next one works.
. "$(dirname "$0")/lab_lib.sh"
need_root

"$KRG" lab up --name c0_$$ --krgd /bin/false >/dev/null 2>"$work/err"
is $? 1 "a daemon that does not start"
grep -q "^krg: lab c0_$$: node [0-3]: " "$work/err"
ok $? "is named: $(tail -1 "$work/err")"
nothing_left c0_$$ "" "nothing is left of it"
"$KRG" lab up --name c0_$$ --krgd /no/such/daemon >/dev/null 2>"$work/err"
is $? 1 "no daemon: $(cat "$work/err")"
nothing_left c0_$$ "" "nothing is left of it"

up c1_$$ -n 3
ok $? "up: $(cat "$work/err")"
spaces=$(namespaces_of c1_$$)
kill -9 "$(pid_of c1_$$ 1)"
down c1_$$
ok $? "down after kill -9 of a daemon"
nothing_left c1_$$ "$spaces" "nothing is left"

up c1_$$ -n 3
ok $? "up: $(cat "$work/err")"
spaces=$(namespaces_of c1_$$)
pids=$(procs_of c1_$$)
for pid in $pids; do kill -9 "$pid" 2>/dev/null; done
until [ "$(lab_is c1_$$)" = "left 3 0" ]; do read -rt 0.01 <><(:); done
ok 0 "a lab whose daemons are all dead is left over"
up c1_$$ -n 2
ok $? "up again after kill -9 of everything: $(cat "$work/err")"
spaces+=$'\n'$(namespaces_of c1_$$)
down c1_$$
nothing_left c1_$$ "$spaces" "nothing is left of both"

# kill -9 of the command in the middle, earlier and later each time
left=0 redone=0
for ms in 002 005 010 015 020 030 040 060 080 120 160 240; do
	# shellcheck disable=SC2086
	(timeout -s KILL 0.$ms "$KRG" lab up --name c2_$$ -n 3 $LAB_ARGS; :) >/dev/null 2>&1
	labs+=(c2_$$)
	if [ $((10#$ms % 4)) -eq 0 ]; then
		up c2_$$ -n 2 || { grep -q 'already up' "$work/err"; } || redone=$((redone + 1))
	fi
	down c2_$$ || left=$((left + 1))
	[ -e /run/krg/lab/c2_$$ ] && left=$((left + 1))
	[ -z "$(cgroups_of c2_$$)" ] || left=$((left + 1))
done
is "$left" 0 "kill -9 of lab up at 12 moments: down cleans up"
is "$redone" 0 "or the next up does"
nothing_left c2_$$ "" "nothing is left"

# the same with a polite signal: it cleans up itself
left=0
for ms in 010 030 060 120; do
	# shellcheck disable=SC2086
	timeout -s TERM 0.$ms "$KRG" lab up --name c3_$$ -n 3 $LAB_ARGS >"$work/out" 2>/dev/null
	if grep -q "up in" "$work/out"; then
		down c3_$$ # the signal came too late
	fi
	[ -z "$(cgroups_of c3_$$)" ] || left=$((left + 1))
done
down c3_$$
is "$left" 0 "SIGTERM to lab up: it takes down what it made"
nothing_left c3_$$ "" "nothing is left"

# two at once: one makes it, the other says that it is up
(up c4_$$ -n 2; echo $? >"$work/a") &
("$KRG" lab up --name c4_$$ -n 2 $LAB_ARGS >/dev/null 2>&1; echo $? >"$work/b") &
wait
labs+=(c4_$$)
is "$(sort "$work/a" "$work/b" | tr '\n' ' ')" "0 1 " "two ups of one name: one of them"
is "$(lab_is c4_$$)" "up 2 2" "it is up"

# one node stops, is killed, comes again
"$KRG" lab stop --name c4_$$ 1
ok $? "stop of a node"
"$KRG" lab exec --name c4_$$ 1 true 2>"$work/err"
is $? 1 "it is not there: $(cat "$work/err")"
# shellcheck disable=SC2086
"$KRG" lab start --name c4_$$ $LAB_ARGS 1
ok $? "start again"
is "$("$KRG" lab exec --name c4_$$ 1 -- echo here)" here "it is there"
"$KRG" lab exec --name c4_$$ 0 -- bash -c "exec 3<>/dev/tcp/10.77.0.2/7700"
ok $? "and reached"
"$KRG" lab stop --kill --name c4_$$ 1
ok $? "kill of a node"
# shellcheck disable=SC2086
"$KRG" lab start --name c4_$$ $LAB_ARGS 1
ok $? "start again"
spaces=$(namespaces_of c4_$$)
down c4_$$
nothing_left c4_$$ "$spaces" "nothing is left"
finish
