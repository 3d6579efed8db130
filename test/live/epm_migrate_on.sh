#!/bin/bash
# Processes that have moved are moved on as they run, many times and back to where they were; and what goes wrong on the way costs nothing.
. "$(dirname "$0")/epm_lab.sh"
. "$(dirname "$0")/migrate_lib.sh"

# Placement off: nothing leaves but what is told to.
sed -i 's/--policy elsewhere/--policy off/' "$work/krgd"
up "$lab" -n 4 --krgd "$work/krgd" || cat "$work/err"
ok $? "a lab of 4 nodes"
ours=$(namespaces_of "$lab")

goes_to() { # goes_to NODE TEXT [OPTION]
	migrate "$pid" "$1" "${3:-}"
	is "$? $(node_of "$pid")" "0 $1" "$2: to node $1 ($(cat "$work/moved" "$work/err"))"
}

for name in memory threads signals; do
	for how in "" --sync --stop-copy; do
		begin_victim $name 16
		for to in 1 2 3 1 2; do
			goes_to $to "$name $how" $how
		done
		told "$name $how"
	done
done

# ---- signals on its way: each once ----
cat >"$work/counts.py" <<'EOT'
import os, signal, sys
def say(name, text):
    open(name + ".new", "w").write(text)
    os.rename(name + ".new", name)
name, sig = sys.argv[1], signal.SIGRTMIN + 3
signal.pthread_sigmask(signal.SIG_BLOCK, [sig])
say(name, "%d\n" % os.getpid())
n = idle = 0
while idle < 20:
    if signal.sigtimedwait([sig], 0.5) is not None:
        n, idle = n + 1, 0
        if n == 100:
            say(name + ".some", "100\n")
    elif os.path.exists(name + ".sent") and n >= int(open(name + ".sent").read()):
        break
    else:
        idle += 1
print(n)
EOT
cat >"$work/sends.py" <<'EOT'
import os, signal, sys, time
n = 0
while not os.path.exists(sys.argv[2]):
    os.kill(int(sys.argv[1]), signal.SIGRTMIN + 3)
    n += 1
    time.sleep(0.004)
print(n)
EOT
rm -f "$work"/pid*
on 0 python3 "$work/counts.py" "$work/pid" >"$work/got" 2>"$work/err.py" &
run=$!
wait_file "$work/pid"
pid=$(cat "$work/pid")
on 0 python3 "$work/sends.py" "$pid" "$work/enough" >"$work/sent0" &
first=$!
on 3 python3 "$work/sends.py" "$pid" "$work/enough" >"$work/sent3" &
second=$!
wait_file "$work/pid.some"
moves=0
for to in 1 2 3 2 1 3; do
	migrate "$pid" $to && moves=$((moves + 1))
done
is $moves 6 "it moves while signals come: $(cat "$work/err")"
: >"$work/enough"
wait $first
wait $second
sent=$(($(<"$work/sent0") + $(<"$work/sent3")))
echo $sent >"$work/sent"
mv "$work/sent" "$work/pid.sent"
wait $run
is "$? $(cat "$work/got")" "0 $sent" "$sent signals, each once ($(cat "$work/err.py"))"

# ---- two at once ----
begin_victim threads
migrate "$pid" 1
timeout 60 "$KRG" --lab "$lab" migrate "$pid" 2 >/dev/null 2>"$work/err2" &
timeout 60 "$KRG" --lab "$lab" migrate "$pid" 3 >/dev/null 2>"$work/err3"
three=$?
wait $!
two=$?
at=$(node_of "$pid")
[[ "$two $three $at" =~ ^(0 1 2|1 0 3|0 0 [23])$ ]]
ok $? "to two nodes at once: $two, $three, it is on node $at ($(cat "$work/err2" "$work/err3"))"
told "to two nodes at once"

# ---- killed on its way ----
for wait in 0 0.01 0.02 0.04; do
	begin_victim threads 32
	migrate "$pid" 1
	timeout 60 "$KRG" --lab "$lab" migrate "$pid" 2 >/dev/null 2>"$work/err2" &
	perl -e "select undef, undef, undef, $wait"
	timeout 10 "$KRG" --lab "$lab" kill -KILL "$pid"
	wait $run
	is $? 137 "killed after $wait s of a move"
	wait $!
	exec 8>&-
done

# ---- what does not move on is named, and goes on ----
cat >"$work/pipe.sh" <<'EOT'
echo $BASHPID >"$1/pid"
read -r line
echo "$line $BASHPID"
EOT
rm -f "$work/pid"
{
	wait_file "$work/pid"
	migrate "$(cat "$work/pid")" 1
	migrate "$(cat "$work/pid")" 2
	echo "$? $(grep -c pipes "$work/err")" >"$work/refused"
	echo through
} | on 0 bash -c 'cat | bash "$0" "$1"' "$work/pipe.sh" "$work" >"$work/got"
is "$(cat "$work/refused") $(cat "$work/got")" "1 1 through $(cat "$work/pid")" "a pipe of its home is refused, and works"
epm_down

# ---- each step fails once: it goes on where it was ----
for fault in GHOST_SAVE@1 EXEC_DESCRIBE@1 EXEC_EXPORT@1 EXEC_PREPARE_SEND@1 EXEC_PREPARE_RECV@2 EXEC_SPAWN@2 GHOST_BUILD@2 EXEC_PREPARED@2 \
	GHOST_PAGES@2 GHOST_FINISH@2 GHOST_ARRIVED@1 ONWARD_ASK@1 ONWARD_TURN@0 GHOST_BUILD:1:kill@2 GHOST_FINISH:1:kill@2; do
	fault_up "$fault"
	begin_victim threads
	migrate "$pid" 1
	ok $? "$fault: to node 1 $(cat "$work/err")"
	stays_once "$fault" 1 2
	told "$fault"
	fault_down "$fault"
done

# ---- a daemon dies ----
# Where it leaves, before the word: its body dies there; after it, with its memory still to come, as if the node had failed.
for fault in GHOST_ARRIVED:1:kill@1 PAGES_PUSH:1:kill@1; do
	fault_up "$fault"
	begin_victim memory 64
	migrate "$pid" 1
	migrate "$pid" 2
	wait $run
	is $? 137 "$fault: the program ends by SIGKILL"
	exec 8>&-
	fault_down "$fault"
done
# Its home, having said the word: it goes on there.  (What it reads and writes is not its home's.)
cat >"$work/beats.py" <<'EOT'
import os, sys, time
open(sys.argv[1] + ".new", "w").write("%d\n" % os.getpid())
os.rename(sys.argv[1] + ".new", sys.argv[1])
while not os.path.exists(sys.argv[2] + ".stop"):
    open(sys.argv[2], "w").write("beat\n")
    time.sleep(0.01)
open(sys.argv[2] + ".end", "w").write("%d\n" % os.getpid())
EOT
fault_up ONWARD_TURNED:1:kill@0
rm -f "$work/pid"
on 0 python3 "$work/beats.py" "$work/pid" "$work/beat" </dev/null >/dev/null 2>&1 &
run=$!
wait_file "$work/pid"
pid=$(cat "$work/pid")
migrate "$pid" 1
migrate "$pid" 2
wait $run
rm -f "$work/beat"
wait_file "$work/beat"
ok $? "its home dies as it has spoken: it goes on"
# The word may have been lost with it before it left that node: then the new body never was.
at=$("$KRG" --lab "$lab" --node 1 ps 2>/dev/null | awk -v pid="$pid" '$1 == pid { print $4 }')
[[ $at == [12] ]]
ok $? "in one place: on node $at"
: >"$work/beat.stop"
wait_file "$work/beat.end"
is "$(cat "$work/beat.end")" "$pid" "as the process that it was"
fault_down ONWARD_TURNED
