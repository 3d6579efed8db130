#!/bin/bash
# Processes run elsewhere before their memory is there: it comes when they miss it; whatever they do, and whoever dies, meanwhile.
. "$(dirname "$0")/epm_lab.sh"
. "$(dirname "$0")/migrate_lib.sh"

sed -i 's/--policy elsewhere/--policy off/' "$work/krgd"
export KRG_TEST_LEVEL=debug # what has gone when is in the log
sed -i 's/--log-level [a-z]*/--log-level debug/' "$work/krgd"

# In the logs of this lab so far: that program's pages were sent.
log_has() { # log_has NODE PATTERN
	local i
	for ((i = 0; i < 100; i++)); do
		grep -qE "$2" "/run/krg/lab/$lab/node$1/log" && return 0
		perl -e 'select undef, undef, undef, 0.05'
	done
	return 1
}

begin() { # begin NAME: $pid of a program of 200 MiB, at home on node 0
	rm -f "$work"/at*
	on 0 "$KRG_BIN/live_epm_lazy" "$1" "$work/at" </dev/null 2>"$work/victim.err" &
	run=$!
	wait_file "$work/at" || echo "# $1 does not begin"
	pid=$(cat "$work/at")
}

ends() { # ends WANT TEXT
	wait $run
	is $? "$1" "$2"
}

up "$lab" -n 3 --krgd "$work/krgd" || cat "$work/err"
ok $? "a lab of 3 nodes"
ours=$(namespaces_of "$lab")

# once, so that threads and links that stay are there
begin right
migrate "$pid" 1
ends 0 "200 MiB, looked at in no order, as they come: $(cat "$work/moved" "$work/err")"
log_has 0 "pid $pid: [0-9]+ pages have gone .* [1-9][0-9]* times asked for"
ok $? "some were asked for"
idle 0 1 2
fds="$(fds_of 0) $(fds_of 1)"

begin right
migrate "$pid" 1 --sync
ok $? "--sync: $(cat "$work/moved" "$work/err")"
log_has 0 "pid $pid: [0-9]+ pages have gone"
is "$? $(deputies 0 | grep -c krgpages)" "0 0" "when it says so, nothing holds its memory any more"
ends 0 "--sync: it finds everything right"

for mib in 64 200; do
	for how in "" --sync; do
		begin_victim changes $mib
		migrate "$pid" 1 $how
		ok $? "changes, $mib MiB $how: $(cat "$work/moved" "$work/err")"
		perl -e 'select undef, undef, undef, 0.5'
		told "changes, $mib MiB $how: fork, mremap, munmap, MADV_DONTNEED, kernel's copies"
	done
done
early=0
for what in "exec 0" "killed 137" "ends 0" "unmap 0" "children 0"; do
	begin "${what% *}"
	migrate "$pid" 1
	ends "${what#* }" "$what: as soon as it has arrived"
	log_has 0 "pid $pid: [0-9]+ pages have gone"
	ok $? "$what: it is over at the source, too"
	sent=$(sed -n "s/.*pid $pid: \([0-9]*\) pages have gone.*/\1/p" "/run/krg/lab/$lab/node0/log")
	[ "$sent" -lt 51000 ] && early=$((early + 1))
done
[ $early -gt 0 ]
ok $? "while their pages were on their way: $early of 5"
idle 0 1 2
ok $? "nothing is left: no keeper of memory"
fewer() { # what was there before may have gone: sessions
	read -r a b <<<"$fds"
	[ "$(fds_of 0)" -le "$a" ] && [ "$(fds_of 1)" -le "$b" ]
}
for ((i = 0; i < 40; i++)); do
	fewer && break
	perl -e 'select undef, undef, undef, 0.05'
done
fewer
ok $? "nor any descriptor: $(fds_of 0) and $(fds_of 1), $fds before"
begin killed
migrate "$pid" 1 --stop-copy
ends 137 "--stop-copy: $(cat "$work/moved")"
grep -q "pid $pid: [0-9]* pages have gone" "/run/krg/lab/$lab/node0/log"
is $? 1 "--stop-copy: nothing follows it"
epm_down

# ---- each step fails once ----
stays() { # stays FAULT: it goes on at home, and moves the next time
	migrate "$pid" 1
	is "$? $(stays_at "$pid" 0)" "1 0" "$1: it stays: $(head -1 "$work/err")"
	migrate "$pid" 1
	ok $? "$1: and moves the next time: $(cat "$work/err")"
	ends 0 "$1: it finds everything right"
}

# The program is killed where it runs, the log says why, and nothing of it is left.
killed() { # killed FAULT
	migrate "$pid" 1
	ends 137 "$1: it is killed"
	log_has 1 "pid $pid: node 0 is gone before all of its memory had come"
	ok $? "$1: the log says why"
}

for fault in PAGES_CONNECT@0 PAGES_IN@1 PAGES_ARM@1 PAGES_PUSH@0 PAGES_ANSWER@0 PAGES_TAKE@1 PAGES_TAKE:40@1; do
	lab=${lab}f
	FAULT=${fault%@*} FAULT_NODE=${fault#*@} up "$lab" -n 2 --krgd "$work/krgd" || cat "$work/err"
	ours=$(namespaces_of "$lab")
	begin right
	case $fault in
	PAGES_CONNECT*)
		migrate "$pid" 1
		ends 0 "$fault: all goes before it: $(cat "$work/moved")"
		;;
	PAGES_IN* | PAGES_ARM*) stays "$fault" ;;
	*) killed "$fault" ;;
	esac
	idle 0 1
	ok $? "$fault: nothing is left"
	down "$lab"
	nothing_left "$lab" "$ours" "$fault: nothing of the lab is left"
done

# ---- a daemon dies on the way ----
lab=${lab}s
FAULT=PAGES_ANSWER:60:kill FAULT_NODE=0 up "$lab" -n 3 --krgd "$work/krgd" || cat "$work/err"
ours=$(namespaces_of "$lab")
begin orphan
migrate "$pid" 1
wait $run
log_has 1 "pid $pid: node 0 is gone before all of its memory had come"
ok $? "the source dies: the process is killed, and the log says why"
log_has 1 "misses memory that is lost"
ok $? "so is a child of it, as it misses a page"
idle 1 2
is "$? $(cat "$work/at.survived" 2>/dev/null)" "0 " "nobody goes on with zeroes"
"$KRG" lab down -f --name "$lab" >/dev/null 2>&1
nothing_left "$lab" "$ours" "nothing of the lab is left"

lab=${lab}d
# late enough for the program to have forked
FAULT=PAGES_TAKE:400:kill FAULT_NODE=1 up "$lab" -n 3 --krgd "$work/krgd" || cat "$work/err"
ours=$(namespaces_of "$lab")
begin orphan
migrate "$pid" 1
ends 137 "the destination dies: the process with it"
idle 0 2
ok $? "nothing holds its memory at the source"
"$KRG" lab start --name "$lab" --krgd "$work/krgd" 1 >"$work/out" 2>&1 || cat "$work/out"
log_has 1 "misses memory that is lost"
ok $? "a child of it, which goes on there, is killed as it misses a page"
idle 0 1 2
is "$? $(cat "$work/at.survived" 2>/dev/null)" "0 " "nobody goes on with zeroes"
"$KRG" lab down -f --name "$lab" >/dev/null 2>&1
nothing_left "$lab" "$ours" "nothing of the lab is left"
