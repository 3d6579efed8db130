#!/bin/bash
# A daemon is killed: what it held ends, everything else goes on, and nobody waits for ever.
. "$(dirname "$0")/epm_lab.sh"

up_again() { # up_again NODE…
	local node
	for node in "$@"; do
		"$KRG" lab start --name "$lab" --krgd "$work/krgd" "$node" >"$work/out" 2>&1 || cat "$work/out"
	done
	for node in 0 1 2; do
		placed_from $node
	done
	ours+=$'\n'$(namespaces_of "$lab")
}

crash() {
	"$KRG" lab stop --name "$lab" --kill "$1"
}

# Which node it runs on: the world's host name.
cat >"$work/child.sh" <<-'EOT'
	/bin/hostname >/dev/null
	uname -n >"$1.new" && mv "$1.new" "$1"
	while :; do sleep 0.2; done
EOT
# exec'ed elsewhere by its shebang, so that it is itself the body
cat >"$work/child" <<-'EOT'
	#!/usr/bin/perl
	use POSIX;
	open F, ">$ARGV[0].new"; print F ((POSIX::uname())[1], " $$\n"); close F; rename "$ARGV[0].new", $ARGV[0];
	sleep 1 while 1;
EOT
chmod +x "$work/child"

epm_up 3
ok $? "a lab of 3 nodes"

# ---- the node of the body dies ----
cat >"$work/parent.sh" <<-'EOT'
	work=$1
	"$work/child" "$work/c1" &
	c1=$!
	"$work/child" "$work/c2" &
	c2=$!
	echo $$ >"$work/parent"
	wait $c1
	echo "$?" >"$work/s1"
	wait $c2
	echo "$?" >"$work/s2"
	exit 17
EOT
# from node 0; the shell itself stays there
"$KRG" --lab "$lab" --node 0 run -n 0 -- bash "$work/parent.sh" "$work" >/dev/null 2>"$work/run1" </dev/null &
run=$!
wait_file "$work/c1" && wait_file "$work/c2"
ok $? "two children run on other nodes"
read -r node1 pid1 <"$work/c1"
read -r node2 pid2 <"$work/c2"
is "$([ "$node1" != node0 ] && [ "$node2" != node0 ] && [ "$node1" != "$node2" ] && echo right)" right "on two nodes: $node1, $node2"
crash "${node1#node}"
wait_file "$work/s1"
is "$(cat "$work/s1")" 137 "node of the first killed: its parent sees it killed by SIGKILL"
kill -0 $run
ok $? "the parent goes on"
sleep_until_gone() { # PID
	local i
	for ((i = 0; i < 300; i++)); do
		kill -0 "$1" 2>/dev/null || return 0
		perl -e 'select undef, undef, undef, 0.05'
	done
	return 1
}
"$KRG" --lab "$lab" --node 0 kill -TERM "$pid2" 2>"$work/err" || cat "$work/err"
wait_file "$work/s2"
is "$(cat "$work/s2")" 143 "the other child went on, until it was told"
sleep_until_gone $run || kill $run
wait $run
is $? 17 "krg run: the parent's status"
"$KRG" --lab "$lab" --node 0 run -- /bin/true
ok $? "programs run on the nodes that are left"
up_again "${node1#node}"
idle 0 1 2
ok $? "nothing is left"

# ---- a whole pipeline whose middle is on a node that dies ----
rm -f "$work"/c[12] "$work"/s[12]
cat >"$work/pipes.sh" <<-'EOT'
	work=$1
	perl -e '$| = 1; while (1) { print "x" x 1000 or last }' | perl -e 'use POSIX; open F, ">$ARGV[0].new"; print F ((POSIX::uname())[1], "\n"); close F; rename "$ARGV[0].new", $ARGV[0]; while (sysread STDIN, $b, 65536) { print $b or last }' "$work/c1" | (cat >/dev/null; echo end >"$work/c2")
	echo "${PIPESTATUS[*]}" >"$work/s1"
EOT
timeout 60 "$KRG" --lab "$lab" --node 0 run -n 0 -- bash "$work/pipes.sh" "$work" >/dev/null 2>&1 </dev/null &
run=$!
wait_file "$work/c1"
ok $? "a pipeline over the nodes"
read -r node1 <"$work/c1"
if [ "$node1" != node0 ]; then
	crash "${node1#node}"
	wait_file "$work/s1" 30
	is "$(cat "$work/c2" 2>/dev/null)" end "its middle's node dies: the reader sees the end"
	is "$(awk '{ print ($2 == 137 || $2 == 141) }' "$work/s1")" 1 "the middle was killed: $(cat "$work/s1")"
	up_again "${node1#node}"
else
	echo "# the middle stayed on node 0"
fi
sleep_until_gone $run || kill $run
wait $run

# ---- the home dies ----
rm -f "$work"/c[12] "$work"/s[12]
cat >"$work/parent2.sh" <<-'EOT'
	work=$1
	"$work/child" "$work/c1" &
	"$work/child" "$work/c2" &
	wait
EOT
timeout 60 "$KRG" --lab "$lab" --node 1 run -n 1 -- bash "$work/parent2.sh" "$work" >/dev/null 2>"$work/run3" </dev/null &
run=$!
wait_file "$work/c1" && wait_file "$work/c2"
ok $? "two children of node 1 run elsewhere"
read -r node1 pid1 <"$work/c1"
read -r node2 pid2 <"$work/c2"
crash 1
sleep_until_gone $run
ok $? "their home is killed: krg run ends"
wait $run
status=$?
[ $status -ne 0 ] && [ $status -ne 124 ]
ok $? "with an error ($status: $(head -1 "$work/run3"))"
for other in 0 2; do
	timeout 10 "$KRG" --lab "$lab" --node $other ps >"$work/ps" 2>&1
	ok $? "node $other: krg ps answers"
	timeout 20 "$KRG" --lab "$lab" --node $other run -- sh -c '/bin/true; exit 3' </dev/null
	is $? 3 "node $other: programs run"
done
# orphans go on, and hear signals: one from a program elsewhere, one from outside
timeout 10 "$KRG" --lab "$lab" --node 0 run -- sh -c "/bin/kill -KILL $pid1; kill -0 $pid2" </dev/null
ok $? "a program kills an orphan, and sees the other"
up_again 1
timeout 10 "$KRG" --lab "$lab" --node 0 kill -KILL "$pid2" >/dev/null 2>"$work/err"
ok $? "krg kill ends the other, when the home is back: $(cat "$work/err")"
idle 0 1 2
ok $? "nothing is left"
timeout 20 "$KRG" --lab "$lab" --node 1 run -- sh -c '/bin/true; exit 3' </dev/null
is $? 3 "the home is back: programs run there"

# ---- a program that left its child behind: their home dies ----
rm -f "$work"/c[12] "$work"/s[12]
mkfifo "$work/never"
cat >"$work/parent3.sh" <<-'EOT'
	work=$1
	"$work/child" "$work/c1" &
	exec 9<>"$work/never"
	until [ -s "$work/c1" ]; do read -rt 0.05 -u 9; done
	exec 9<&-
	exec perl -e '
		use POSIX; my $work = shift;
		open F, ">$work/c2.new"; print F ((POSIX::uname())[1], "\n"); close F; rename "$work/c2.new", "$work/c2";
		my $got = wait; my $status = $?;
		open F, ">$work/s1.new"; print F "$got $status\n"; close F; rename "$work/s1.new", "$work/s1"' "$work"
EOT
timeout 60 "$KRG" --lab "$lab" --node 1 run -n 1 -- bash "$work/parent3.sh" "$work" >/dev/null 2>&1 </dev/null &
run=$!
wait_file "$work/c1" && wait_file "$work/c2"
read -r node1 pid1 <"$work/c1"
read -r node2 <"$work/c2"
is "$([ "$node1" != node1 ] && [ "$node2" != node1 ] && [ "$node1" != "$node2" ] && echo right)" right "parent and child on two nodes, at home on a third: $node2, $node1"
crash 1
wait_file "$work/s1"
is "$(cat "$work/s1" 2>/dev/null)" "$pid1 9" "their home is killed: the parent sees its child killed"
wait $run
timeout 10 "$KRG" --lab "$lab" --node 0 kill -KILL "$pid1" 2>"$work/err"
ok $? "which goes on as an orphan, until it is killed: $(cat "$work/err")"
up_again 1
idle 0 1 2
ok $? "nothing is left"

# ---- everything at once ----
timeout 60 "$KRG" --lab "$lab" --node 0 run -- bash -c 'while :; do /bin/true; done' </dev/null >/dev/null 2>&1 &
run=$!
perl -e 'select undef, undef, undef, 0.5'
crash 2 &
crash 0 &
crash 1 &
wait $!
sleep_until_gone $run
ok $? "all daemons are killed: krg run ends"
wait
epm_down
