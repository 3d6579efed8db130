#!/bin/bash
# Whatever fails on the way of a moved exec: the program runs once, here or there, and all of its output
# arrives; or, where a daemon dies, the process ends killed.  Nothing hangs, nothing is left.
. "$(dirname "$0")/epm_lab.sh"

deadline=20
points=${POINTS:-EXEC_READ EXEC_DESCRIBE EXEC_EXPORT EXEC_PREPARE_SEND EXEC_PREPARE_RECV EXEC_IMPORT EXEC_SPAWN
	EXEC_PREPARED EXEC_STOP EXEC_DEPUTY EXEC_COMMIT_RECV ONWARD_ASK ONWARD_TURN ONWARD_TURNED BODY_EXIT STREAM_EXPORT STREAM_IMPORT STREAM_DATA
	STANDIN_OP COMM_CALL COMM_REPLY}

# Twice: a program with a file of its own, one on a pipe, one with a shared file, one that goes on and on, one whose
# parent has moved, too; then what came out.
# Each line goes out by one write, so that half a line would be a torn one.
cat >"$work/job.sh" <<-'EOT'
	out=$1
	: >"$out"
	for i in 1 2; do
		/bin/echo "file $i" >"$out.$i"
		/bin/echo "pipe $i" | /bin/cat >>"$out"
		/bin/echo "shared $i"
		/bin/nice /bin/nice /bin/echo "on $i" >"$out.on.$i"
		/bin/sh -c "/bin/nice /bin/nice /bin/echo 'deep $i'; :" >"$out.deep.$i"
		cat "$out.$i" "$out.on.$i" "$out.deep.$i" >>"$out"
	done >"$out.shared"
	sort "$out" "$out.shared" >"$out.new"
	mv "$out.new" "$out.done"
	exit 7
EOT
want=$'deep 1\ndeep 2\nfile 1\nfile 2\non 1\non 2\npipe 1\npipe 2\nshared 1\nshared 2'

alive() {
	kill -0 "$(pid_of "$lab" "$1")" 2>/dev/null
}

# the node is there again, without a fault
restart() { # restart NODE
	local i
	if alive "$1"; then "$KRG" lab stop --name "$lab" --kill "$1"; fi
	for ((i = 0; i < 3; i++)); do
		FAULT=$fault FAULT_NODE=$1 "$KRG" lab start --name "$lab" --krgd "$work/krgd" "$1" >"$work/out" 2>&1 && break
	done
	[ "$i" -lt 3 ] || sed 's/^/# /' "$work/out"
	ours+=$'\n'$(namespaces_of "$lab")
}

fired() { # fired POINT NODE: how often, in all of the node's lives
	grep -c "fault ${1%%:*}" "/run/krg/lab/$lab/node$2/log"
}

# A process that was killed has ended: its last thread, too, which may wait where no signal reaches it.
ended() { # ended PID
	local i
	for ((i = 0; i < 50; i++)); do
		[ "$(ls "/proc/$1/task" 2>/dev/null | wc -l)" -le 1 ] && dead "$1" && return 0
		perl -e 'select undef, undef, undef, 0.1'
	done
	return 1
}

# one POINT[:N][:kill] NODE-WITH-IT
one() {
	local node=$2 status start=$SECONDS killed=0 text fired before pid
	[[ $1 == *:kill ]] && killed=1
	fault=$1 restart "$node"
	before=$(fired "$1" "$node") pid=$(pid_of "$lab" "$node")
	rm -f "$work"/result*
	on 0 bash "$work/job.sh" "$work/result" </dev/null >"$work/job" 2>&1
	status=$?
	text=$(cat "$work/result.done" 2>/dev/null)
	fired=$(($(fired "$1" "$node") - before))
	[ $status -ne 124 ] && [ $status -ne 137 -o $killed -eq 1 ]
	ok $? "$1 on node $node: no hang ($((SECONDS - start)) s, status $status, fired $fired)"
	if [ $killed -eq 1 ] && [ "$fired" -gt 0 ]; then
		ended "$pid"
		ok $? "$1 on node $node: the daemon has ended, without help"
	fi
	if [ "$1" = STANDIN_OP ]; then
		: # the program sees the error
	elif [ $killed -eq 0 ]; then
		is "$status:$text" "7:$want" "$1 on node $node: all ran once"
	elif [ $status -eq 7 ] && [ "$text" != "$want" ]; then
		# what was on the node that died is gone; nothing may have run twice
		is "$(sort "$work"/result "$work"/result.shared | uniq -d)" "" "$1 on node $node: nothing ran twice"
	fi
	[ $failed -eq "$failed_before" ] || {
		sed 's/^/# job: /' "$work/job" | head -5
		show_logs
	}
	failed_before=$failed
}

epm_up 3
ok $? "a lab of 3 nodes"
failed_before=$failed

check_idle() {
	idle 0 1 2 >"$work/idle"
	status=$?
	[ $status -eq 0 ] || { ok $status "$1: nothing is left" && cat "$work/idle"; }
}

# LONG=1: every point on both nodes
for point in $points; do
	nodes="0 1"
	case $point in
	EXEC_READ | EXEC_DESCRIBE | EXEC_EXPORT | EXEC_PREPARE_SEND | EXEC_STOP | EXEC_DEPUTY | STREAM_EXPORT | COMM_CALL)
		nodes=0
		;;
	EXEC_* | ONWARD_ASK | BODY_EXIT | STREAM_IMPORT)
		nodes=1
		;;
	esac
	[ -n "$LONG" ] && nodes="0 1"
	for node in $nodes; do
		one "$point" "$node"
		check_idle "$point"
	done
	# a daemon that dies where krg run came from takes all with it: nothing to see
	one "$point:kill" 1
	fault='' restart 1
	check_idle "$point:kill"
done
epm_down
