#!/bin/bash
# Processes that run are moved to another node, and check themselves; and what goes wrong on the way costs nothing.
. "$(dirname "$0")/epm_lab.sh"
. "$(dirname "$0")/migrate_lib.sh"

# Placement off: nothing leaves but what is told to.
sed -i 's/--policy elsewhere/--policy off/' "$work/krgd"
up "$lab" -n 3 --krgd "$work/krgd" || cat "$work/err"
ok $? "a lab of 3 nodes"
ours=$(namespaces_of "$lab")

for name in memory threads signals; do
	begin_victim $name
	migrate "$pid" 1
	ok $? "$name: moved ($(cat "$work/moved" "$work/err"))"
	is "$(node_of "$pid")" 1 "$name: it is there"
	perl -e 'select undef, undef, undef, 0.3'
	told "$name"
done
idle 0 1 2
ok $? "nothing is left"

# ---- a thread of a program that has moved is there to others, by its number ----
cat >"$work/thread.py" <<-'EOT'
	import os, signal, sys, threading
	def wait():
	    with open(sys.argv[1] + ".new", "w") as f:
	        f.write("%d %d\n" % (os.getpid(), threading.get_native_id()))
	    os.rename(sys.argv[1] + ".new", sys.argv[1])
	    print(signal.sigwaitinfo({signal.SIGUSR1}).si_pid, flush=True)
	signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
	t = threading.Thread(target=wait)
	t.start()
	t.join()
EOT
cat >"$work/tgkill.py" <<-'EOT'
	import ctypes, os, sys
	libc = ctypes.CDLL(None, use_errno=True)
	r = libc.syscall(234, int(sys.argv[1]), int(sys.argv[2]), 10)
	print(os.getpid() if r == 0 else os.strerror(ctypes.get_errno()))
EOT
rm -f "$work/tid"
on 0 python3 "$work/thread.py" "$work/tid" >"$work/got" 2>"$work/err.py" &
run=$!
wait_file "$work/tid"
read -r pid tid <"$work/tid"
migrate "$pid" 1
is "$? $(node_of "$pid")" "0 1" "a program with a thread that waits for a signal moves ($(cat "$work/moved" "$work/err"))"
is "$(on 2 python3 "$work/tgkill.py" "$pid" $((tid + 900)))" "No such process" "tgkill of a thread that is not there"
by=$(on 2 python3 "$work/tgkill.py" "$pid" "$tid")
wait $run
is "$? $(cat "$work/got")" "0 $by" "tgkill of its thread, from a third node: from $by"

# ---- what does not move is named, and goes on ----
begin_victim memory
timeout 10 "$KRG" --lab "$lab" kill -STOP "$pid"
for ((i = 0; i < 100; i++)); do
	[ "$("$KRG" --lab "$lab" ps "$pid" | awk -v pid="$pid" '$1 == pid { print $6 }')" = T ] && break
	perl -e 'select undef, undef, undef, 0.02'
done
migrate "$pid" 1
is "$? $(grep -c 'is stopped' "$work/err")" "1 1" "a stopped process is refused: $(cat "$work/err")"
timeout 10 "$KRG" --lab "$lab" kill -CONT "$pid"
migrate "$pid" 77
is $? 1 "a node that is not there: $(cat "$work/err")"
migrate $((pid + 900)) 1
is $? 1 "a process that is not there: $(cat "$work/err")"
told "refused: memory"
cat >"$work/pair.py" <<-'EOT'
	import socket, sys, os
	a, b = socket.socketpair()
	open(sys.argv[1], "w").write("%d\n" % os.getpid())
	print(".", end="", flush=True)
	sys.stdin.readline()
	a.send(b"right")
	print(b.recv(9).decode(), end="")
EOT
rm -f "$work/pid" "$work/fifo"
mkfifo "$work/fifo"
: >"$work/found"
on 0 python3 "$work/pair.py" "$work/pid" <"$work/fifo" >"$work/found" 2>&1 &
run=$!
exec 8>"$work/fifo"
wait_file "$work/found"
pid=$(cat "$work/pid")
migrate "$pid" 1
is "$? $(grep -c 'socket' "$work/err")" "1 1" "a socket is refused: $(cat "$work/err")"
told "refused: socket"

# ---- as part of pipelines, with children, with a shared offset ----
head -c 20000000 /dev/urandom >"$work/in"
cat >"$work/pipeline.sh" <<-'EOT'
	cat "$1/in" | (echo "$BASHPID" >"$1/pid"; exec xz -1 -c -T1) | sha256sum >"$1/sum"
	echo "${PIPESTATUS[*]}" >"$1/status"
EOT
rm -f "$work/pid"
on 0 bash "$work/pipeline.sh" "$work" </dev/null &
run=$!
wait_file "$work/pid"
perl -e 'select undef, undef, undef, 0.2'
migrate "$(cat "$work/pid")" 2
ok $? "the middle of a pipeline: $(cat "$work/moved" "$work/err")"
wait $run
is "$(cat "$work/status") $(cat "$work/sum")" "0 0 0 $(xz -1 -c -T1 <"$work/in" | sha256sum)" "nothing is lost"

cat >"$work/shell.sh" <<-'EOT'
	exec 7<>"$1/never"
	echo $$ >"$1/pid"
	for i in 1 2 3; do (read -rt 0.5 -u 7; exit $i) & done
	wait -n; echo "first $?"
	wait; echo all
	for i in $(seq 20); do echo "$i"; /bin/true || echo bad; done
	uname -n
EOT
rm -f "$work/pid" "$work/never"
mkfifo "$work/never"
on 0 bash "$work/shell.sh" "$work" </dev/null >"$work/out" 2>&1 &
run=$!
wait_file "$work/pid"
perl -e 'select undef, undef, undef, 0.1'
migrate "$(cat "$work/pid")" 1
ok $? "a shell that waits for its children: $(cat "$work/moved" "$work/err")"
wait $run
is "$? $(grep -cE '^(first [123]|all|node1)$' "$work/out") $(wc -l <"$work/out")" "0 3 23" "it waits for them, and goes on there"

# ---- several at once, and one by two ----
for i in 1 2 3 4 5 6 7 8; do
	(
		work=$work/at$i
		mkdir "$work"
		begin_victim threads
		timeout 60 "$KRG" --lab "$lab" migrate "$pid" 1 >/dev/null 2>"$work/err1" &
		timeout 60 "$KRG" --lab "$lab" migrate "$pid" 2 >/dev/null 2>"$work/err2"
		two=$?
		wait $!
		one=$?
		echo >&8
		exec 8>&-
		wait $run
		found="$? $(cat "$work/found"), $one and $two"
		echo "$found" >"$work/result"
		[[ $found =~ ^0\ .right,\ (0\ and\ [01]|1\ and\ 0)$ ]]
	) &
	jobs8+=($!)
done
wrong=0
for i in 0 1 2 3 4 5 6 7; do
	wait "${jobs8[i]}" || { wrong=$((wrong + 1)); head -3 "$work/at$((i + 1))"/{result,err1,err2} | sed 's/^/# /'; }
done
is $wrong 0 "eight at once, each moved by two: one of them does, or both, and it finds everything right"
idle 0 1 2
ok $? "nothing is left"
epm_down

# ---- each step fails once: it goes on at home ----
for fault in GHOST_SAVE@0 EXEC_DESCRIBE@0 EXEC_EXPORT@0 EXEC_PREPARE_SEND@0 EXEC_PREPARE_RECV@1 EXEC_IMPORT@1 EXEC_SPAWN@1 \
	GHOST_BUILD@1 EXEC_PREPARED@1 GHOST_PAGES@1 GHOST_FINISH@1 GHOST_ARRIVED@0 GHOST_BUILD:1:kill@1 GHOST_PAGES:1:kill@1 \
	GHOST_FINISH:1:kill@1; do
	fault_up "$fault"
	begin_victim threads
	stays_once "$fault" 0 1
	told "$fault"
	fault_down "$fault"
done
