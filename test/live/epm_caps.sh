#!/bin/bash
# Kerrighed capabilities: who is placed and who is not, in a lab where each exec goes elsewhere that may.
. "$(dirname "$0")/epm_lab.sh"

export PATH="$KRG_BIN:$PATH"
epm_up 3
ok $? "a lab of 3 nodes, each exec elsewhere"

run() { # run NODE OPTION… CMD…: krg run, asked of that node
	local node=$1
	shift
	timeout -k 5 60 "$KRG" --lab "$lab" --node "$node" run "$@"
}

# A shell that reads its lines from us: what it says comes back by a file.
mkfifo "$work/in"
shell() { # shell NODE: begins, at home
	: >"$work/pid"
	run "$1" -n "$1" bash -c "echo \$\$ >$work/pid; while read -r line <>$work/in; do eval \"\$line\"; done" \
		2>"$work/err" &
	client=$!
	until [ -s "$work/pid" ]; do read -rt 0.01 <><(:); done
	shell=$(<"$work/pid")
}
say() { # say LINE: to the shell; waits for its end
	rm -f "$work/said" "$work/status"
	echo "{ $1; } >$work/said 2>&1; echo \$? >$work/status.new; mv $work/status.new $work/status" >"$work/in"
	until [ -e "$work/status" ]; do read -rt 0.01 <><(:); done
	cat "$work/said"
	return "$(<"$work/status")"
}
bye() {
	echo exit >"$work/in"
	wait "$client"
}
elsewhere() { # elsewhere NODE GOT TEXT
	[ -n "$2" ] && [ "$2" != "node$1" ] && [[ $2 == node? ]]
	ok $? "$3: $2"
}
sets() { # sets PID: effective, inheritable effective, as words
	"$KRG" --lab "$lab" --node 2 caps -p "$1" --json | tr -d '\n ' |
		sed 's/.*"effective":\[\([^]]*\)\].*"inheritable_effective":\[\([^]]*\)\].*/\1 \2/; s/"//g'
}
all=CHANGE_KERRIGHED_CAP,CAN_MIGRATE,CHECKPOINTABLE
here=hostname # a program: bash has no such built-in

shell 0
is "$(sets "$shell")" "$all,DISTANT_EXEC $all,DISTANT_EXEC" "the default, seen from another node"
elsewhere 0 "$(say $here)" "it is placed"

# children of before, one for each phase; they answer when they are told to
child() { # child NAME: a subshell that waits, then executes
	mkfifo "$work/go.$1"
	say "( read -r _ <>$work/go.$1; $here >$work/is.$1.new; mv $work/is.$1.new $work/is.$1 ) & true" >/dev/null
}
answer() { # answer NAME
	echo >"$work/go.$1"
	until [ -e "$work/is.$1" ]; do read -rt 0.01 <><(:); done
	cat "$work/is.$1"
}
child before
say "krg caps -DISTANT_EXEC"
ok $? "krg caps -DISTANT_EXEC, in the shell: $(cat "$work/said")"
is "$(sets "$shell")" "$all $all" "the shell has it no more"
for i in 1 2 3; do
	is "$(say $here)" node0 "its programs stay"
done
is "$(say "bash -c '( ( $here ); true )'")" node0 "and those of its children's children"
is "$(say "bash -c 'krg caps --json; true' | grep -c DISTANT_EXEC")" 2 "which have it permitted, not effective"
child off
# its parent ends before it executes anything
mkfifo "$work/go.orphan"
say "bash -c '( read -r _ <>$work/go.orphan; $here >$work/is.orphan.new; mv $work/is.orphan.new $work/is.orphan ) & exit 0'" >/dev/null
elsewhere 0 "$(answer before)" "a child of before is placed as before"
is "$(answer orphan)" node0 "one that has lost its parent is not"
say "krg caps +DISTANT_EXEC"
ok $? "krg caps +DISTANT_EXEC: $(cat "$work/said")"
elsewhere 0 "$(say $here)" "it is placed again"
is "$(answer off)" node0 "a child of between is not"

# the original's command: of the shell that calls it, each set alone
is "$(say "krgcapset -s | head -2 | tr -d '\n\t'")" \
	"Permitted Capabilities: 0200027CHANGE_KERRIGHED_CAP, CAN_MIGRATE, DISTANT_FORK, CHECKPOINTABLE" "krgcapset -s"
say "krgcapset -d -DISTANT_EXEC"
is "$(say "$here; krgcapset -s | sed -n 's/^Effective Capabilities: //p; s/^Inheritable Effective Capabilities: //p' | tr '\n' ' '" |
	tr '\n' ' ')" "node0 0200023 023 " "-d: what it forks stays, it itself may go"
say "krgcapset --inheritable-effective 0200023 --show >/dev/null"
elsewhere 0 "$(say $here)" "octal, long options"
say "krgcapset -e +DEBUG" >/dev/null
is $? 1 "not permitted: $(cat "$work/said")"
say "krgcapset -p +DEBUG -i +DEBUG -e +DEBUG -d +DEBUG && bash -c 'krg caps; true' | grep -c DEBUG" >/dev/null
is "$(cat "$work/said")" 4 "root permits; what has moved has it, too"
say "krgcapset -k $shell -e -DEBUG -d -DEBUG; krgcapset -k 99 -s" >/dev/null
is $? 1 "of no process: $(cat "$work/said")"
say "echo n | krgcapset -e -CHANGE_KERRIGHED_CAP -d -CHANGE_KERRIGHED_CAP" >/dev/null
is $? 1 "it asks first: $(cat "$work/said")"
say "krgcapset -f -e -CHANGE_KERRIGHED_CAP -d -CHANGE_KERRIGHED_CAP"
ok $? "-f does not"
say "krg caps +CHANGE_KERRIGHED_CAP" >/dev/null
is $? 1 "given away: $(cat "$work/said")"
"$KRG" --lab "$lab" caps -p "$shell" +CHANGE_KERRIGHED_CAP
ok $? "from outside it can be given back"
say 'krg caps -p 1' >"$work/out1"
is $? 1 "krginit has none: $(cat "$work/out1")"
bye
ok $? "the shell ends"

# a shell on another node than its home
shell 0
say "exec 2>&1; krg caps -DISTANT_EXEC -p $shell"
bye
ok $? "-p"
: >"$work/pid"
run 0 -n 1 bash -c "krg caps -DISTANT_EXEC; hostname; krg caps +DISTANT_EXEC; hostname; krg caps --json; true" >"$work/out1" 2>&1
is "$(sed -n 1p "$work/out1")" node1 "moved, and told: what it executes stays with it"
elsewhere 1 "$(sed -n 2p "$work/out1")" "and goes on when it may"
grep -q '"node": 1' "$work/out1"
ok $? "it is known to be there"
is "$(run 0 -n 1 --caps -DISTANT_EXEC bash -c 'hostname; hostname' | tr '\n' ' ')" "node1 node1 " \
	"-n with --caps -DISTANT_EXEC: there, and no further"

# without DISTANT_EXEC from the start
is "$(run 0 --caps -DISTANT_EXEC bash -c 'hostname; krg caps --json | tr -d "\n " | grep -c "\"effective\":\[[^]]*DISTANT_EXEC"; hostname' | tr '\n' ' ')" \
	"node0 0 node0 " "krg run --caps -DISTANT_EXEC"
run 0 --caps -DISTANT_EXEC bash -c 'krg caps +DISTANT_EXEC; exit $?' 2>"$work/err"
is $? 1 "it cannot be given what its gate does not see: $(cat "$work/err")"
elsewhere 0 "$(on 0 hostname)" "others are placed meanwhile"

if user=$(id -u nobody 2>/dev/null); then
	shell 0
	setpriv --reuid "$user" --regid "$user" --clear-groups "$KRG" --lab "$lab" caps -p "$shell" -DISTANT_EXEC 2>"$work/err"
	is $? 1 "another user: $(cat "$work/err")"
	setpriv --reuid "$user" --regid "$user" --clear-groups "$KRG" --lab "$lab" caps -p "$shell" >/dev/null
	ok $? "who may look"
	bye
	is "$(cd / && setpriv --reuid "$user" --regid "$user" --clear-groups "$KRG" --lab "$lab" run -n 0 bash -c 'krg caps -DISTANT_EXEC; hostname; true')" \
		node0 "a user's own"
fi
"$KRG" --lab "$lab" caps 2>"$work/err"
is $? 1 "outside, of nobody: $(cat "$work/err")"
"$KRG" --lab "$lab" caps -p x 2>/dev/null
is $? 2 "wrong usage"
"$KRG" --lab "$lab" caps -p 40000 -NO_SUCH 2>/dev/null
is $? 2 "no such capability"
"$KRG_BIN/krgcapset" -e NO_SUCH 2>/dev/null
is $? 2 "krgcapset: no such capability"
idle 0 1 2
ok $? "every process has ended"
epm_down
