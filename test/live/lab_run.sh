#!/bin/bash
# The door of a real daemon: krg run, ps, kill, node, trace, by root and by others.
. "$(dirname "$0")/lab_lib.sh"
need_root

lab=r_$$
up $lab -n 3
ok $? "up: $(cat "$work/err")"
export KRG_LAB=$lab
unset KRG_SOCKET KRG_NODE
run() { timeout 20 "$KRG" run "$@"; }

run sh -c 'exit 7'
is $? 7 "exit status"
run sh -c 'kill -TERM $$'
is $? 143 "a signal is 128 + its number"
run -n 2 sh -c 'kill -KILL $$'
is $? 137 "also from another node"
run /no/such/program 2>"$work/err"
is $? 127 "not found: $(cat "$work/err")"
run /etc/passwd 2>/dev/null
is $? 126 "not executable"
is "$(echo through | run -n 1 cat)" through "stdin to stdout over a node"
is "$(run -d /usr pwd)" /usr "-d"
is "$(run sh -c 'echo $KRG_SOCKET')" /run/krg/world/krgd.sock "KRG_SOCKET"
for node in 0 2; do
	is "$(run -n $node "$KRG" version | grep -o 'node [0-9]*')" "node $node" "inside the world: the daemon of node $node, there"
done
is "$(run sh -c "$KRG node ls --json | grep -c '\"state\": \"online\"'")" 3 "krg inside the world"
for node in 0 1 2; do
	pid=$(run -n $node sh -c 'echo $$')
	true_that "$pid > 32768 && $pid < 65536"
	ok $? "a pid of its home, wherever it runs: $pid"
done

# the caller's own user, groups, limits, umask, nice value: not more, not less
if user=$(id -u nobody 2>/dev/null); then
	as="setpriv --reuid $user --regid 4321 --groups 100,200"
	chmod 755 "$work"
	for node in 0 2; do
		is "$($as "$KRG" run -n $node -d / sh -c 'id -u; id -g; id -G' | tr '\n' ' ')" "$user 4321 4321 100 200 " \
			"user and groups, node $node"
		is "$($as bash -c "ulimit -n 500; umask 027; nice -n 3 $KRG run -n $node -d / sh -c 'ulimit -n; umask; nice'" |
			tr '\n' ' ')" "500 0027 $(($(nice) + 3)) " "limit, umask, nice value, node $node"
	done
	"$KRG" run sh -c 'echo $$; exec sleep 100' >"$work/pid" &
	client=$!
	until [ -s "$work/pid" ]; do read -rt 0.01 <><(:); done
	$as "$KRG" kill "$(cat "$work/pid")" 2>"$work/err"
	is $? 1 "somebody does not kill root's process: $(cat "$work/err")"
	$as "$KRG" node del 2 2>/dev/null
	is $? 1 "nor takes a node out"
	"$KRG" ps | grep -q "sleep 100"
	ok $? "ps shows it"
	"$KRG" kill -s USR1 "$(cat "$work/pid")"
	ok $? "root kills it"
	wait $client
	is $? 138 "it ends by that"
fi

# signals to the client are the program's, on any node
for node in 0 1; do
	: >"$work/pid"
	"$KRG" run -n $node bash -c 'trap "exit 9" USR2; echo $$; while :; do read -rt 0.02 <><(:); done' >"$work/pid" &
	client=$!
	until [ -s "$work/pid" ]; do read -rt 0.01 <><(:); done
	kill -USR2 $client
	wait $client
	is $? 9 "a signal is passed on, node $node"
done

# stopping the client stops the program's whole group, and it goes on with it
: >"$work/pid"
"$KRG" run sh -c 'echo $$; sleep 100; exit 3' >"$work/pid" &
client=$!
states() { "$KRG" ps | awk '/sleep 100/ { print $6 }' | sort | tr '\n' ' '; }
# (the shell alone shows "sleep 100" too, in its arguments, before it has forked)
until "$KRG" ps | awk '$NF == 100 && $9 == "sleep" { found = 1 } END { exit !found }'; do read -rt 0.01 <><(:); done
kill -TSTP $client
until [ "$(states)" = "T T " ]; do read -rt 0.05 <><(:); done
ok 0 "SIGTSTP: both processes are stopped"
until grep -q '^State:.T' /proc/$client/status; do read -rt 0.01 <><(:); done
ok 0 "and the client"
kill -CONT $client
until [ "$(states)" = "S S " ]; do read -rt 0.05 <><(:); done
ok 0 "SIGCONT: they go on"
"$KRG" kill "$("$KRG" ps | awk '$NF == 100 && $9 == "sleep" { print $1 }')"
wait $client
is $? 3 "to the end"

# a client that is killed leaves its program alone
: >"$work/pid"
"$KRG" run sh -c 'echo $$; exec sleep 100' >"$work/pid" &
client=$!
until [ -s "$work/pid" ]; do read -rt 0.01 <><(:); done
kill -9 $client
wait $client 2>/dev/null
"$KRG" ps "$(cat "$work/pid")" >/dev/null
ok $? "kill -9 of krg run: the program goes on"
"$KRG" kill -9 "$(cat "$work/pid")"
until ! "$KRG" ps "$(cat "$work/pid")" >/dev/null; do read -rt 0.01 <><(:); done
ok 0 "until it is killed itself"

# 40 clients at once
for i in $(seq 40); do run -n $((i % 3)) sh -c "exit $i" & pids[i]=$!; done
bad=0
for i in $(seq 40); do
	wait "${pids[i]}"
	[ $? -eq "$i" ] || bad=$((bad + 1))
done
is $bad 0 "40 at once, each with its own status"

# bytes that are no message
sock=/run/krg/lab/$lab/node0/krgd.sock
if command -v python3 >/dev/null; then
	python3 - "$sock" <<'PY'
import os, socket, sys
for bad in (b"\xff" * 64, b"\0" * 64, b"\5\0\0\0hello", b"\2\0\0\0{}", b"\x40\0\0\0" + b"[" * 64):
    s = socket.socket(socket.AF_UNIX)
    s.connect(sys.argv[1])
    s.send(bad)
    s.shutdown(socket.SHUT_WR)
    try:
        while s.recv(4096):
            pass
    except ConnectionResetError:
        pass
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
m = b'{"op":"run","nfds":0}'
r = os.open("/etc/passwd", os.O_RDONLY)
socket.send_fds(s, [len(m).to_bytes(4, "little") + m], [r])
assert b"no memfd" in s.recv(4096)
r = os.memfd_create("x")
os.write(r, os.urandom(5000))
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
socket.send_fds(s, [len(m).to_bytes(4, "little") + m], [r])
assert b'"ok":false' in s.recv(4096)
PY
	ok $? "hostile bytes are refused"
	"$KRG" version --node 0 >/dev/null
	ok $? "and the daemon lives"
fi

is "$("$KRG" trace -n 100000 --json | grep -o '"node": [0-9]*' | sort -u | wc -l)" 3 "a trace of all nodes"
"$KRG" stat | grep -q '^door (running)'
ok $? "stat"
adm="$(dirname "$KRG")/krgadm"
is "$("$adm" cluster status)" "status: up on 3 nodes" "krgadm cluster status"
"$adm" nodes del -n 2 && is "$("$adm" nodes status | tr '\n' ' ')" "0:online 1:online 2:present " "nodes del"
"$adm" nodes add -t 3 && is "$("$adm" nodes status -n 0-2 | tr '\n' ' ')" "0:online 1:online 2:online " "nodes add"
"$adm" cluster poweroff 2>/dev/null
is $? 1 "poweroff says that it cannot"
"$adm" nodes add 2>/dev/null
is $? 2 "wrong usage"

spaces=$(namespaces_of $lab)
unset KRG_LAB
down $lab
nothing_left $lab "$spaces" "nothing is left"
finish
