#!/bin/bash
# try-kernel-guest.sh [lab] [programs] [unit] [NAME…] - what try-kernel.sh runs as the machine's first process.

export PATH=/krg/bin:/bin:/sbin:/usr/bin KRG_BIN=/krg/bin HOME=/root TMPDIR=/tmp
export TERM=dumb KRG_TEST_SLOW=6
n=0 failed=0
ok() { # ok STATUS TEXT
	n=$((n + 1))
	if [ "$1" -eq 0 ]; then
		echo "ok $n - $2"
	else
		failed=$((failed + 1))
		echo "not ok $n - $2"
	fi
}
is() { # is GOT WANT TEXT
	[ "$1" = "$2" ]
	ok $? "$3"
	[ "$1" = "$2" ] || echo "# got '$1', want '$2'"
}

mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
exec </dev/ttyS0 >/dev/ttyS0 2>&1 # as /dev/console it could not be shared between nodes
mkdir -p /dev/pts /dev/shm /sys/fs/cgroup
mount -t devpts -o ptmxmode=666 devpts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t tmpfs run /run
mount -t tmpfs tmp /tmp
chmod 1777 /tmp /dev/shm
mount -t cgroup2 cgroup2 /sys/fs/cgroup
for m in llc stp bridge veth fuse; do
	[ ! -e /modules/$m.ko ] || insmod /modules/$m.ko
done
ip link set lo up
echo "# $(uname -r), $(cut -d' ' -f1 /proc/uptime) s"

run() { # run OPTION… CMD…
	timeout -k 5 60 krg run "$@" </dev/null
}

lab() {
	krg lab up -n 2 --cpus 0.5 --timeout 120 --policy elsewhere
	ok $? "lab up -n 2 --cpus 0.5"
	krg version
	is "$(sort -u /sys/fs/cgroup/krg-lab-default/node*/cpu.max)" "10000 20000" "cpu.max"
	krg node ls
	run sh -c 'exit 7'
	is $? 7 "an exit status"
	is "$(run -n 1 hostname)" node1 "on node 1"
	run -n 1 sh -c 'kill -TERM $$'
	is $? 143 "a signal's, from node 1"
	run -n 1 /no/such
	is $? 127 "no such program"
	is "$(echo through | timeout 60 krg run -n 1 cat)" through "stdin to stdout over node 1"
	is "$(run -n 0 bash -c 'for i in 1 2 3 4 5; do /bin/echo $i; done | /bin/cat | /bin/sort -r | /bin/cat' | tr '\n' ' ')" \
		"5 4 3 2 1 " "pipes over nodes"
	is "$(run -n 0 bash -c '(/bin/echo a; /bin/hostname; /bin/echo c) >/tmp/shared; /bin/cat /tmp/shared' | tr '\n' ' ')" \
		"a node1 c " "a file whose offset is shared: stand-ins"
	is "$(run -n 0 bash -c 'head -c 3000000 /dev/zero | xz -T1 | xz -d | wc -c')" 3000000 "bytes through pipes"
	krg run -n 1 sleep 1000 &
	client=$!
	until pid=$(krg ps | awk "/sleep 1000/ { print \$1 }") && [ -n "$pid" ]; do kill -0 $client 2>/dev/null || break; sleep 0.1; done
	krg ps
	krg kill -s USR1 "$pid"
	wait $client
	is $? 138 "krg kill"
	is "$(run -n 0 bash -c 'krg caps -DISTANT_EXEC; hostname; krg caps +DISTANT_EXEC; hostname; true' | tr '\n' ' ')" \
		"node0 node1 " "krg caps"
	krg lab stop --kill 1
	krg lab start --timeout 120 --policy elsewhere 1
	ok $? "a node dies and comes back"
	is "$(run -n 1 hostname)" node1 "and runs programs"
	krg lab down
	ok $? "lab down"
	is "$(ls -d /sys/fs/cgroup/krg-lab* /run/krg/lab/* 2>/dev/null)" "" "nothing is left"
}

programs() { # NAME…: of live_epm
	local name
	krg lab up -n 3 --timeout 120 --policy elsewhere
	ok $? "lab up -n 3, every exec elsewhere"
	for name in "$@"; do
		[ -x "/krg/bin/live_epm_$name" ] || continue
		timeout -k 5 600 krg run /krg/bin/live_epm_$name </dev/null >/tmp/out 2>&1
		ok $? "$name: $(grep -c '^ok' /tmp/out) checks, $(grep -c '^not ok' /tmp/out) failed"
		grep -v '^ok' /tmp/out | sed 's/^/# /' | head -n 40
		tail -n 1 /tmp/out
	done
	krg lab down
	ok $? "lab down"
}

unit() {
	local test status
	for test in /krg/bin/unit_*; do
		timeout -k 5 180 "$test" </dev/null >/tmp/out 2>&1
		status=$?
		[ $status -eq 77 ] && status=0
		ok $status "$(basename "$test"): $(grep -c '^ok' /tmp/out) checks"
		[ $status -eq 0 ] || grep -v '^ok' /tmp/out | sed 's/^/# /' | head -n 20
	done
}

names=()
for what in ${@:-lab programs unit}; do
	case $what in
	lab | unit) "$what" ;;
	programs) names+=(identity fail wait signal kin standin) ;; # not pids: it counts on speed
	*) names+=("$what") ;;
	esac
	echo "# $what: $(cut -d' ' -f1 /proc/uptime) s"
done
[ ${#names[@]} -eq 0 ] || programs "${names[@]}"
dmesg | grep -E 'BUG:|WARNING:|Oops|hung task|blocked for more' | head
echo "1..$n"
if [ $failed -eq 0 ] && [ $n -gt 0 ]; then
	echo "TRY-KERNEL: all passed"
else
	echo "TRY-KERNEL: $failed failed"
fi
sync
poweroff -f
