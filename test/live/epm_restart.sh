#!/bin/bash
# krgd dies by SIGKILL, and another takes its place: the world, its processes, its deputies and the calls that waited
# go on; what cannot go on has an end.  Nothing hangs, nothing is left.
. "$(dirname "$0")/epm_lab.sh"

deadline=60

crash() { # crash NODE: only its daemon
	"$KRG" lab stop --name "$lab" --crash "$1"
}

again() { # again NODE [FAULT]
	local status i
	# a daemon that was killed may not be through with it yet
	for ((i = 0; i < 100; i++)); do
		FAULT=$2 FAULT_NODE=$1 "$KRG" lab start --name "$lab" --krgd "$work/krgd" "$1" >"$work/out" 2>&1
		status=$?
		grep -q "its daemon runs" "$work/out" || break
		perl -e 'select undef, undef, undef, 0.05'
	done
	[ $status -eq 0 ] || sed 's/^/# /' "$work/out"
	return $status
}

wait_gone() { # wait_gone PID
	local i
	for ((i = 0; i < 300; i++)); do
		dead "$1" && return 0
		perl -e 'select undef, undef, undef, 0.05'
	done
	return 1
}

taken_over() { # taken_over NODE: how often it says so
	grep -c "the world is taken over" "/run/krg/lab/$lab/node$1/log"
}

settled() { # settled TEXT
	local node
	for node in 0 1 2; do
		placed_from $node || echo "# node $node places nothing"
	done
	idle 0 1 2
	ok $? "$1: nothing is left"
}

# Stays where it is called: only what it calls goes.
on_home() { # on_home NODE CMD…
	timeout -k 5 "$deadline" "$KRG" --lab "$lab" --node "$1" run -n "$1" -- "${@:2}"
}

children_are() { # children_are PIDS TEXT: those of $parent that have not ended
	local i got
	for ((i = 0; i < 100; i++)); do
		got=$("$KRG" --lab "$lab" --node 0 ps | awk -v ppid="$parent" '$2 == ppid && $6 != "Z" { print $1 }' | sort -n | tr '\n' ' ')
		[ "$got" = "$1" ] && break
		perl -e 'select undef, undef, undef, 0.05'
	done
	is "$got" "$1" "$2"
}

epm_up 3
ok $? "a lab of 3 nodes"

# Itself the body, with nothing of its home's but its parent.
cat >"$work/child" <<-'EOT'
	#!/usr/bin/perl
	use POSIX;
	$SIG{USR1} = sub { open F, ">$ARGV[0].usr1"; print F "heard\n"; close F };
	open F, ">$ARGV[0].new"; print F ((POSIX::uname())[1], " $$ ", getppid, "\n"); close F; rename "$ARGV[0].new", $ARGV[0];
	until (-e "$ARGV[0].end") { select undef, undef, undef, 0.05 }
	open F, ">$ARGV[0].ppid"; print F getppid, "\n"; close F;
	exit $ARGV[1];
EOT
chmod +x "$work/child"

# ---- a shell with jobs of its own node, its calls, its pipelines ----
cat >"$work/shell.sh" <<-'EOT'
	work=$1
	trap 'echo caught >>"$work/shell"' USR1
	echo before >"$work/shell"
	until [ -e "$work/go" ]; do read -rt 0.05 -u 9 9<>"$work/never"; done
	(exit 5)
	echo "forks $?" >>"$work/shell"
	/bin/true && echo execs >>"$work/shell"
	kill -USR1 $$
	sh -c 'kill -TERM $$'
	echo "signals $?" >>"$work/shell"
	echo a | cat | cat >>"$work/shell"
	mv "$work/shell" "$work/shell.done"
EOT
mkfifo "$work/never"
cat >"$work/pipeline" <<-'EOT'
	pipe my ($r1, $w1); pipe my ($r2, $w2); pipe my ($r3, $w3);
	if (fork == 0) { # no call of theirs needs a daemon
		close $_ for $r1, $r2, $r3, $w2, $w3;
		for my $i (1 .. 8) { syswrite $w1, "line $i\n"; select undef, undef, undef, 0.25 }
		exit 0;
	}
	if (fork == 0) {
		close $_ for $w1, $r2, $r3, $w3;
		while (sysread $r1, my $b, 4096) { syswrite $w2, uc $b }
		exit 0;
	}
	close $_ for $w1, $w2, $w3;
	open my $out, ">", $ARGV[0];
	while (sysread $r2, my $b, 4096) { syswrite $out, $b }
	exit 0;
EOT
on_home 0 bash "$work/shell.sh" "$work" </dev/null >/dev/null 2>"$work/run1" &
run=$!
on_home 0 perl "$work/pipeline" "$work/pipe" </dev/null >/dev/null 2>&1 &
perl -e 'select undef, undef, undef, 0.5'
before=$(world_of 0)
crash 0
ok $? "the daemon of node 0 is killed"
wait $run
[ $? -ne 0 ]
ok $? "krg run ends, and says what goes on: $(tail -1 "$work/run1")"
grep -q "goes on" "$work/run1"
ok $? "(it says that)"
wait_file "$work/shell"
perl -e 'select undef, undef, undef, 2.5'
is "$(cat "$work/pipe")" "$(for i in 1 2 3 4 5 6 7 8; do echo "LINE $i"; done)" "a pipeline of its node goes on meanwhile"
"$KRG" --lab "$lab" --node 1 ps >/dev/null
ok $? "the others are served"
again 0
ok $? "another daemon starts"
is "$(world_of 0)" "$before" "with the same world"
is "$(taken_over 0)" 1 "and says so"
"$KRG" --lab "$lab" --node 1 ps | grep -q "shell.sh"
ok $? "krg ps on another node shows the shell"
touch "$work/go"
wait_file "$work/shell.done"
is "$(tr '\n' ' ' <"$work/shell.done")" "before forks 5 execs caught signals 143 a " "it forks, executes, signals, pipes as before"
is "$(on_home 0 sh -c 'echo new; exit 3'; echo $?)" $'new\n3' "krg run works"
settled "a shell"

# ---- a terminal, and what processes may do ----
mkfifo "$work/keys"
"$KRG" --lab "$lab" --node 0 run -t -n 0 -- cat <"$work/keys" >"$work/screen" 2>"$work/run1" &
run=$!
exec 7>"$work/keys"
echo one >&7
"$KRG" --lab "$lab" --node 0 run --caps -DISTANT_EXEC -n 0 -- sh -c 'echo $$ >"$1"; read -r x' - "$work/restricted" <"$work/never" >/dev/null 2>&1 &
other=$!
exec 8>"$work/never"
wait_file "$work/restricted"
restricted=$(cat "$work/restricted")
had=$("$KRG" --lab "$lab" --node 0 caps -p "$restricted")
[ -n "$had" ]
ok $? "a program on a terminal, a restricted one: ${had//$'\n'/, }"
crash 0
echo two >&7
for ((i = 0; i < 100; i++)); do
	grep -q two "$work/screen" && break
	perl -e 'select undef, undef, undef, 0.05'
done
grep -q two "$work/screen"
ok $? "the terminal goes on without a daemon"
again 0
is "$("$KRG" --lab "$lab" --node 0 caps -p "$restricted")" "$had" "Kerrighed capabilities are what they were"
exec 7>&- 8>&-
wait $run
is "$? $(grep -c "goes on" "$work/run1")" "1 1" "krg run ends with the terminal's last program, and says that it does not know how"
wait $other
settled "a terminal"

# ---- an orphan ----
rm -f "$work"/c1*
on_home 1 bash -c 'trap : HUP; "$1/child" "$1/c1" 7 </dev/null >/dev/null 2>&1 & wait' - "$work" </dev/null >/dev/null 2>&1 &
run=$!
wait_file "$work/c1"
read -r where orphan _ <"$work/c1"
"$KRG" lab stop --name "$lab" --kill 1
wait $run
again 1 # without it, there would be no majority
ours+=$'\n'$(namespaces_of "$lab")
crash "${where#node}"
again "${where#node}"
timeout 10 "$KRG" --lab "$lab" --node 0 kill -USR1 "$orphan" 2>"$work/err"
ok $? "an orphan is known to the next daemon of $where: $(cat "$work/err")"
wait_file "$work/c1.usr1"
ok $? "and hears signals"
touch "$work/c1.end"
settled "an orphan"

# ---- a call that waits while there is no daemon ----
on_home 0 bash -c 'until [ -e "$1/go2" ]; do read -rt 0.05 -u 9 9<>"$1/never"; done; /bin/echo out >"$1/waited"' - "$work" </dev/null >/dev/null 2>&1 &
run=$!
perl -e 'select undef, undef, undef, 0.4'
crash 0
touch "$work/go2"
perl -e 'select undef, undef, undef, 1'
[ ! -s "$work/waited" ]
ok $? "execve waits while there is no daemon"
again 0
wait_file "$work/waited"
is "$(cat "$work/waited")" out "and is made when there is one"
wait $run
settled "a call that waited"

# ---- programs of this node that run on others ----
cat >"$work/parent.sh" <<-'EOT'
	work=$1
	for i in 1 2 3 4; do "$work/child" "$work/c$i" $((20 + i)) </dev/null >/dev/null 2>&1 & pids[i]=$!; done
	echo $$ "${pids[@]}" >"$work/parent"
	until [ -e "$work/go3" ]; do read -rt 0.05 -u 9 9<>"$work/never"; done
	kill -USR1 "${pids[1]}"
	kill -KILL "${pids[3]}"
	for i in 1 2 3 4; do wait "${pids[i]}"; status[i]=$?; done
	echo "${status[@]}" >"$work/statuses"
EOT
rm -f "$work"/c[1-4]*
on_home 0 bash "$work/parent.sh" "$work" </dev/null >/dev/null 2>&1 &
run=$!
for i in 1 2 3 4; do wait_file "$work/c$i"; done
read -r parent pid1 pid2 pid3 pid4 <"$work/parent"
is "$(cat "$work"/c[1-4] | grep -vc node0)" 4 "four children on other nodes"
crash 0
wait $run
touch "$work/c2.end"
wait_file "$work/c2.ppid"
is "$(cat "$work/c2.ppid")" 1 "one ends while its home has no daemon"
again 0
children_are "$pid1 $pid3 $pid4 " "the others are their parent's children again"
touch "$work/go3"
wait_file "$work/c1.usr1"
is "$(cat "$work/c1.usr1")" heard "one hears a signal of its parent's"
touch "$work/c1.end"
wait_file "$work/c1.ppid"
is "$(cat "$work/c1.ppid")" "$parent" "it knows its parent"
"$KRG" --lab "$lab" --node 1 kill -TERM "$pid4"
ok $? "one is ended from elsewhere"
wait_file "$work/statuses"
is "$(cat "$work/statuses")" "21 22 137 143" "their parent has all their ends"
settled "programs on other nodes"

# One of the deputies is killed while there is no daemon: so is its body, when there is one.  One stops.
rm -f "$work"/c[1-4]* "$work"/go3 "$work"/statuses
on_home 0 bash "$work/parent.sh" "$work" </dev/null >/dev/null 2>&1 &
run=$!
for i in 1 2 3 4; do wait_file "$work/c$i"; done
read -r parent pid1 pid2 pid3 pid4 <"$work/parent"
ns=$(world_of 0)
host_pid() { # host_pid PID: of a process of node 0's world
	local p
	for p in /proc/[0-9]*; do
		[ "$(readlink "$p/ns/pid" 2>/dev/null)" = "$ns" ] || continue
		[ "$(awk '/^NSpid:/ { print $NF }' "$p/status" 2>/dev/null)" = "$1" ] && echo "${p#/proc/}"
	done
}
victim=$(host_pid "$pid2")
crash 0
kill -KILL "$victim"
ok $? "a deputy is killed while there is no daemon"
timeout 10 "$KRG" --lab "$lab" --node 1 kill -STOP "$pid4"
again 0
children_are "$pid1 $pid3 $pid4 " "its body is ended when there is one"
touch "$work"/c1.end "$work"/c4.end "$work/go3"
timeout 10 "$KRG" --lab "$lab" --node 1 kill -CONT "$pid4"
ok $? "one that was stopped goes on"
wait_file "$work/statuses"
is "$(cat "$work/statuses")" "21 137 137 24" "their parent has all their ends"
settled "programs on other nodes, again"

# ---- programs of other nodes that run here ----
rm -f "$work"/c[1-4]* "$work"/go3 "$work"/statuses
on_home 0 bash "$work/parent.sh" "$work" </dev/null >/dev/null 2>&1 &
run=$!
for i in 1 2 3 4; do wait_file "$work/c$i"; done
here=$(grep -l node1 "$work"/c[1-4])
crash 1
for ((i = 0; i < 100; i++)); do
	[ -z "$(pgrep -f "$work/child" --ns "$$" | xargs -r -I{} readlink /proc/{}/ns/pid | grep -xF "$(world_of 1)")" ] && break
	perl -e 'select undef, undef, undef, 0.02'
done
[ "$i" -lt 100 ]
ok $? "what other nodes have here ends with the daemon: $(wc -w <<<"$here")"
again 1
touch "$work"/c{1,2,4}.end "$work/go3"
wait_file "$work/statuses"
for i in 1 2 3 4; do
	want=$((20 + i))
	[ $i -eq 3 ] && want=137
	[[ $here == *c$i* ]] && want=137
	echo -n "$want "
done >"$work/want"
is "$(cat "$work/statuses") " "$(cat "$work/want")" "their parent sees them killed"
wait $run
settled "programs of other nodes"

# ---- pipes and shared files between nodes: they end, nobody hangs ----
for from in 0 1; do
	rm -f "$work"/c1 "$work"/pipe.*
	cat >"$work/pipes.sh" <<-'EOT'
		work=$1
		perl -e '$| = 1; print "x" x 1000 or exit 3 while 1' | perl -e 'use POSIX; open F, ">$ARGV[0].new"; print F ((POSIX::uname())[1], "\n"); close F; rename "$ARGV[0].new", $ARGV[0]; while (sysread STDIN, $b, 65536) { print $b or exit 3 }' "$work/c1" | (cat >/dev/null; echo end >"$work/pipe.end")
		echo "${PIPESTATUS[*]}" >"$work/pipe.status"
	EOT
	on_home 0 bash "$work/pipes.sh" "$work" </dev/null >"$work/shared" 2>&1 &
	run=$!
	wait_file "$work/c1"
	crash $from
	again $from
	wait_file "$work/pipe.status" 30
	is "$(cat "$work/pipe.end" 2>/dev/null)" end "a pipeline over nodes ends, as node $from's daemon is killed: $(cat "$work/pipe.status" 2>/dev/null)"
	wait $run
	settled "pipes of node $from"
done

# ---- killed at its points: one call is at the gate ----
# exec: made again, once, here or there.  LONG=1: at all points
cat >"$work/exec.sh" <<-'EOT'
	work=$1
	for i in 1 2 3 4; do /bin/echo "$i $$" >>"$work/execs" || echo "failed $?" >>"$work/execs"; done
	echo end >>"$work/execs"
EOT
points="GATE_RECEIVED:5 EXEC_STOPPED:2 EXEC_SENT_OFF:2 EXEC_SECOND:2 EXEC_DEPUTY:2"
[ -n "$LONG" ] && points+=" GATE_DONE:5 EXEC_READ:2 EXEC_PREPARE_SEND:2 EXEC_STOP:2"
for point in ${POINTS:-$points}; do
	"$KRG" lab stop --name "$lab" 0
	again 0 "$point:kill" || continue
	rm -f "$work/execs"
	ours+=$'\n'$(namespaces_of "$lab")
	victim=$(pid_of "$lab" 0)
	on_home 0 bash "$work/exec.sh" "$work" </dev/null >/dev/null 2>&1 &
	run=$!
	wait_gone "$victim"
	ok $? "$point: the daemon died there"
	perl -e 'select undef, undef, undef, 0.2'
	again 0
	for ((i = 0; i < 200; i++)); do
		grep -q end "$work/execs" 2>/dev/null && break
		perl -e 'select undef, undef, undef, 0.05'
	done
	got=$(awk '{ printf "%s ", $1 }' "$work/execs")
	case $point in
	EXEC_STOP:* | EXEC_STOPPED:* | EXEC_DEPUTY:*)
		# one of them was killed: it ran nothing, and the others all ran
		[[ $got =~ ^(1 )?(2 )?(failed )?(2 )?(3 )?(4 )?end\ $ ]] && [ "$(tr ' ' '\n' <<<"$got" | sort | uniq -d)" = "" ]
		ok $? "$point: one may be killed, none runs twice: $got"
		;;
	*)
		is "$got" "1 2 3 4 end " "$point: each ran once"
		;;
	esac
	wait $run
	settled "$point"
	[ $failed -eq 0 ] || show_logs
done

# a signal to a foreign pid: not begun: again; begun: EIO; done: its result
for point in GATE_RECEIVED GATE_BEGUN GATE_DONE; do
	"$KRG" lab stop --name "$lab" 0
	again 0
	placed_from 1
	rm -f "$work"/target*
	on_home 1 perl -e 'my $n = 0; $SIG{USR1} = sub { $n++ }; open F, ">$ARGV[0].new"; print F "$$\n"; close F; rename "$ARGV[0].new", $ARGV[0];
		select undef, undef, undef, 0.1 until -e "$ARGV[0].end"; open F, ">$ARGV[0].count"; print F "$n\n"' "$work/target" </dev/null &
	target=$!
	wait_file "$work/target"
	on_home 0 perl -e '
		my $go = "$ARGV[1].go"; open F, ">$ARGV[1].ready"; print F "r\n"; close F;
		select undef, undef, undef, 0.05 until -e $go;
		my $r = kill("USR1", $ARGV[0]); my $e = $r ? "sent" : "$!";
		open F, ">$ARGV[1].said"; print F "$e\n"' "$(cat "$work/target")" "$work/target" </dev/null >/dev/null 2>&1 &
	run=$!
	wait_file "$work/target.ready"
	crash 0
	again 0 "$point:kill"
	victim=$(pid_of "$lab" 0)
	touch "$work/target.go"
	wait_gone "$victim"
	ok $? "kill(2), $point: the daemon died there"
	again 0
	wait_file "$work/target.said"
	touch "$work/target.end"
	wait_file "$work/target.count"
	case $point in
	GATE_BEGUN) is "$(cat "$work/target.said" "$work/target.count" | tr '\n' ' ')" "Input/output error 0 " "kill(2), $point: nobody knows: an error" ;;
	*) is "$(cat "$work/target.said" "$work/target.count" | tr '\n' ' ')" "sent 1 " "kill(2), $point: sent, once" ;;
	esac
	wait $run $target
	settled "kill(2), $point"
done
# ---- nobody takes over ----
"$KRG" lab stop --name "$lab" 2
cat >"$work/krgd2" <<-EOT
	#!/bin/bash
	exec "$work/krgd" "\$@" --keep 1
EOT
chmod +x "$work/krgd2"
"$KRG" lab start --name "$lab" --krgd "$work/krgd2" 2
placed_from 2
ours+=$'\n'$(namespaces_of "$lab")
on_home 2 sh -c 'read -r x' <"$work/never" >/dev/null 2>&1 &
run=$!
exec 8>"$work/never"
perl -e 'select undef, undef, undef, 0.3'
ns=$(world_of 2)
crash 2
[ -n "$(world_of 2)" ]
ok $? "a world waits for a daemon"
for ((i = 0; i < 100; i++)); do
	[ -z "$(world_of 2)" ] && break
	perl -e 'select undef, undef, undef, 0.05'
done
is "$(world_of 2)" "" "for so long as --keep says"
wait $run
again 2
[ "$(world_of 2)" != "$ns" ]
ok $? "the next daemon makes another"
exec 8>&-

# ---- the keeper dies, too ----
on_home 2 sleep 100 </dev/null >/dev/null 2>&1 &
run=$!
perl -e 'select undef, undef, undef, 0.3'
ns=$(world_of 2)
keeper=$(pgrep -P "$(pid_of "$lab" 2)" krgkeeper)
crash 2
kill -KILL "$keeper"
wait_gone "$keeper"
again 2
ok $? "the keeper is killed as well: the next daemon starts"
[ "$(world_of 2)" != "$ns" ]
ok $? "in a world of its own"
wait $run
settled "without the keeper"

# ---- down, with a world that waits ----
crash 1
epm_down
