#!/bin/bash
# Bytes that nobody should send, and machines that are not as they should be: each gives one line that says what,
# where and why, or nothing at all; and the daemon lives.
# SEED=N: other bytes
# shellcheck source=test/live/lab_lib.sh
. "$(dirname "$0")/lab_lib.sh"
need_root
trap end_here EXIT
seed=${SEED:-1}
bad=$KRG_BIN/live_bad_input
port=$((20000 + $$ % 20000))
pids=()

end_here() {
	local pid
	for pid in "${pids[@]}"; do
		kill -9 "$pid" 2>/dev/null
		wait "$pid" 2>/dev/null
	done
	umount -l "$work"/full* 2>/dev/null
	clean_up
	finish
}

new_key() {
	head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \n' >"$1"
	chmod 600 "$1"
}

# daemon NAME NODE OPTION…: $pid; 0 when it is ready, else what it said is in $work/NAME.err.  WITHOUT=CALL…: those
# system calls are not there
daemon() {
	local name=$1 node=$2 word wrap=()
	shift 2
	read -ra wrap <<<"$WITHOUT"
	[ -n "$WITHOUT" ] && wrap=("$bad" without "${wrap[@]}" --)
	mkfifo "$work/$name.ready" 2>/dev/null
	"${wrap[@]}" "$KRG_BIN/krgd" --run-dir "$work/$name" --node "$node" --cluster bad --key "$work/key" \
		--listen "127.0.0.1:$((port + node))" --log "$work/$name.log" --ready-fd 9 "$@" \
		9>"$work/$name.ready" 2>"$work/$name.err" &
	pid=$!
	pids+=("$pid")
	read -r word <"$work/$name.ready"
	[ "$word" = ready ]
}

# refused PATTERN TEXT COMMAND…: it ends with 1 and one line on stderr that has PATTERN in it
refused() {
	local pattern=$1 text=$2 status
	shift 2
	timeout 20 "$@" >"$work/said" 2>&1
	status=$?
	[ $status -eq 1 ] && [ "$(wc -l <"$work/said")" -eq 1 ] && grep -Eq -- "$pattern" "$work/said"
	ok $? "$text: $(head -3 "$work/said")"
}

# a daemon that must refuse: the options that differ come last and win
krgd_refused() { # krgd_refused PATTERN TEXT OPTION…
	local pattern=$1 text=$2
	shift 2
	refused "$pattern" "$text" "$KRG_BIN/krgd" --run-dir "$work/x" --node 5 --cluster bad --key "$work/key" \
		--listen "127.0.0.1:$((port + 5))" --join-timeout 3 "$@"
}

fds() {
	find "/proc/$1/fd" -mindepth 1 2>/dev/null | wc -l
}

# The daemon answers, has as many descriptors as before (a thread may keep one, and there may be more threads), and both nodes are in.
lives() { # lives TEXT
	local i found=""
	for ((i = 0; i < 50; i++)); do
		found=$(timeout 10 "$KRG" --socket "$work/n0/krgd.sock" node ls 2>&1 | grep -c online)
		[ "$found" = 2 ] && [ "$(fds "$n0")" -le $((n0_fds + 6)) ] && break
		perl -e 'select undef, undef, undef, 0.1'
	done
	is "$found" 2 "$1: the daemon lives, and so does the cluster ($(fds "$n0") descriptors, $n0_fds before)"
	[ "$(fds "$n0")" -le $((n0_fds + 6)) ]
	ok $? "$1: no descriptor is left"
	is "$(timeout 20 "$KRG" --socket "$work/n0/krgd.sock" run -n 1 echo works 2>&1 </dev/null)" works "$1: programs run"
}

new_key "$work/key"
new_key "$work/key2"
mkdir "$work/full" "$work/full2"
chmod 755 "$work"
daemon n0 0 --policy off && n0=$pid && daemon n1 1 --seed "127.0.0.1:$port" --policy off
ok $? "two daemons: $(cat "$work/n0.err" "$work/n1.err")"
timeout 20 "$KRG" --socket "$work/n0/krgd.sock" run -n 1 true </dev/null >/dev/null 2>&1
n0_fds=$(fds "$n0")

# ---- bytes ----

timeout 60 "$bad" door "$work/n0/krgd.sock" "$seed" >"$work/said" 2>&1
ok $? "the door: what is no request is refused in words $(cat "$work/said")"
lives "the door"
timeout 60 setpriv --reuid 65534 --regid 65534 --clear-groups "$bad" door "$work/n0/krgd.sock" "$seed" >"$work/said" 2>&1
ok $? "the door, somebody: likewise $(cat "$work/said")"
lives "the door, somebody"
timeout 60 "$bad" link 127.0.0.1 "$port" "$seed" >"$work/said" 2>&1
ok $? "the port: strangers hear why $(cat "$work/said")"
lives "the port"
grep -q "protocol version 9, this is version 1" "$work/n0.log"
ok $? "and it is in the log"
[ "$(grep -c refused "$work/n0.log")" -lt 400 ]
ok $? "which they do not fill: $(grep -c refused "$work/n0.log") lines"
timeout 60 "$bad" peer 127.0.0.1 "$port" "$work/key" bad 9 "$seed" >"$work/said" 2>&1
ok $? "a node with the key $(cat "$work/said")"
lives "a node with the key"
timeout 60 "$bad" peer 127.0.0.1 "$port" "$work/key" bad 1 "$seed" >"$work/said" 2>&1
ok $? "one with a member's number $(cat "$work/said")"
lives "one with a member's number"

# A program that speaks for its own deputy: it can hurt itself only.
cat >"$work/channel.sh" <<-'EOT'
	cat "/proc/$1/comm"
	exec "$2" channel "$1" "$3"
EOT
timeout 30 "$KRG" --socket "$work/n0/krgd.sock" run -n 1 -- sh -c 'echo $$; exec sleep 20' >"$work/pid" 2>"$work/said" </dev/null &
away=$!
for ((i = 0; i < 100; i++)); do
	[ -s "$work/pid" ] && break
	perl -e 'select undef, undef, undef, 0.1'
done
timeout 30 "$KRG" --socket "$work/n0/krgd.sock" run -- bash "$work/channel.sh" "$(cat "$work/pid")" "$bad" "$seed" \
	>"$work/said2" 2>&1 </dev/null
ok $? "the channel of a deputy is taken: $(tr '\n' ' ' <"$work/said2")"
timeout 20 "$KRG" --socket "$work/n0/krgd.sock" kill -KILL "$(cat "$work/pid")"
ok $? "its program can still be killed"
wait "$away"
is $? 137 "and is"
lives "a deputy's channel"

# ---- who may not come ----

krgd_refused "cluster 'other'" "another cluster" --cluster other --seed "127.0.0.1:$port"
krgd_refused "127.0.0.1 port $port: .*key differs" "another key" --key "$work/key2" --seed "127.0.0.1:$port"
krgd_refused "node number 0 is taken by .* at 127.0.0.1:$port" "the seed's number" --node 0 --seed "127.0.0.1:$port"
krgd_refused "node number 1 is taken by .* at 127.0.0.1:$((port + 1))" "a member's number" --node 1 --seed "127.0.0.1:$port"
krgd_refused "no seed answers .*connect to 127.0.0.1 port $((port + 7))" "nobody there" --seed "127.0.0.1:$((port + 7))"
krgd_refused "no seed answers .*is this node" "only itself" --seed "127.0.0.1:$((port + 5))"
lives "who may not come"

# ---- machines that are not as they should be ----

krgd_refused "listen on 127.0.0.1 port $port: Address already in use" "a port that is taken" --listen "127.0.0.1:$port"
krgd_refused "listen on 192.0.2.1" "an address of somebody else" --listen "192.0.2.1:$port"
krgd_refused "another daemon uses $work/n0" "a run directory that is taken" --run-dir "$work/n0"
krgd_refused "$work/key/lock: Not a directory" "a run directory that is none" --run-dir "$work/key"
krgd_refused "key $work/none: No such file" "no key" --key "$work/none"
echo 1234 >"$work/short"
chmod 600 "$work/short"
krgd_refused "key $work/short: not 64 hex" "half a key" --key "$work/short"
cp "$work/key" "$work/open"
chmod 644 "$work/open"
krgd_refused "key $work/open: others may read it" "a key for all" --key "$work/open"
krgd_refused "log $work/none/log: No such file" "no place for the log" --log "$work/none/log"
krgd_refused "$work/none/krginit: No such file" "no krginit" --libexec "$work/none"
refused "needs root" "somebody starts a daemon" setpriv --reuid 65534 --regid 65534 --clear-groups "$KRG_BIN/krgd" \
	--run-dir "$work/x" --node 5 --cluster bad --key "$work/key" --listen "127.0.0.1:$((port + 5))"
refused "no cgroup hierarchy is mounted" "a lab without cgroups" unshare -m sh -c \
	'umount -R /sys/fs/cgroup && exec "$0" lab up -n 1 --name bad$$' "$KRG"

# A full disk: 64 KiB, of which nothing is left.
mount -t tmpfs -o size=64k tmpfs "$work/full"
mount -t tmpfs -o size=64k,nr_inodes=1 tmpfs "$work/full2"
head -c 100000 /dev/zero >"$work/full/zero" 2>/dev/null
krgd_refused "mkdir $work/full2/x: No space left" "no inode for the run directory" --run-dir "$work/full2/x"
daemon full/n2 2 --seed "127.0.0.1:$port" --policy off 2>/dev/null
ok $? "a daemon whose log and run directory are on a full disk comes up: $(head -1 "$work/full/n2.err" 2>/dev/null)"
is "$(timeout 20 "$KRG" --socket "$work/n0/krgd.sock" run -n 2 echo works 2>&1 </dev/null)" works "and programs run there"

# A kernel that lacks something: what, before anything is done.  Without FUSE all works but stand-ins.
for call in clone3 pidfd_open pidfd_getfd kcmp process_vm_readv close_range unshare seccomp; do
	refused "this kernel has no $call" "no $call" "$bad" without "$call" -- "$KRG_BIN/krgd" --run-dir "$work/x" \
		--node 5 --cluster bad --key "$work/key" --listen "127.0.0.1:$((port + 5))" --log "$work/x.log"
done
WITHOUT="fsopen userfaultfd" daemon n3 3 --seed "127.0.0.1:$port" --policy off
ok $? "a daemon without FUSE comes up: $(cat "$work/n3.err")"
grep -q "no stand-ins: fsopen fuse: Function not implemented" "$work/n3.log"
ok $? "and says in its log what it cannot do"
refused "node 3: no stand-ins here: FUSE is not mounted" "what needs one does not run there, and the reason is said" \
	"$KRG" --socket "$work/n0/krgd.sock" run -n 3 echo works </dev/null
# whose reader would wait if anything of it were left
is "$("$KRG" --socket "$work/n0/krgd.sock" run -n 3 echo works 2>&1 </dev/null | timeout 20 cat | grep -c FUSE)" 1 \
	"nothing of it is left: its pipe ends"
