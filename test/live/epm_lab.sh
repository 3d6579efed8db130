# epm_lab.sh - a lab whose nodes place each exec on another node, for the live tests of processes.
# shellcheck shell=bash
# KRG_TEST_LEVEL=debug: what the daemons log (shown when something failed).
# shellcheck source=test/live/lab_lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lab_lib.sh"

lab=epm$$
deadline=${DEADLINE:-120}
need_root
trap finish EXIT

# The daemon of node FAULT_NODE gets KRG_FAULT=FAULT.
cat >"$work/krgd" <<-EOT
	#!/bin/bash
	args=" \$* "
	unset KRG_FAULT
	if [[ -n \$FAULT && \$args == *" --node \$FAULT_NODE "* ]]; then export KRG_FAULT=\$FAULT; fi
	exec "$KRG_BIN/krgd" "\$@" --policy elsewhere --log-level ${KRG_TEST_LEVEL:-info}
EOT
chmod +x "$work/krgd"
chmod 755 "$work"

# krg run, with a deadline: status as timeout(1)
on() { # on NODE CMD…: from that node
	local node=$1
	shift
	timeout -k 5 "$deadline" "$KRG" --lab "$lab" --node "$node" run -- "$@"
}

# The nodes know of each other when an exec goes elsewhere.
placed_from() { # placed_from NODE
	local i
	for ((i = 0; i < 100; i++)); do
		[ "$(on "$1" /bin/hostname </dev/null)" != "node$1" ] && return 0
	done
	return 1
}

epm_up() { # epm_up NODES
	local i
	up "$lab" -n "$1" --krgd "$work/krgd" || cat "$work/err"
	for ((i = 0; i < $1; i++)); do
		placed_from "$i" || return 1
	done
	ours=$(namespaces_of "$lab")
}

wait_file() { # wait_file FILE [SECONDS]
	local i
	for ((i = 0; i < ${2:-15} * 20; i++)); do
		[ -s "$1" ] && return 0
		perl -e 'select undef, undef, undef, 0.05'
	done
	return 1
}

show_logs() {
	local f
	for f in /run/krg/lab/"$lab"/node*/log; do
		echo "# $f"
		tail -n "${LOG_LINES:-30}" "$f" | sed 's/^/#   /'
	done
}

# Everything has ended: no process, no deputy, on no node, in 5 s.
idle() { # idle NODE…
	local i node left
	for ((i = 0; i < 50; i++)); do
		left=$("$KRG" --lab "$lab" --node "$1" ps | tail -n +2)
		for node in "$@"; do
			left+=$(deputies "$node")
		done
		[ -z "$left" ] && return 0
		perl -e 'select undef, undef, undef, 0.1'
	done
	echo "$left" | sed 's/^/# left: /'
	return 1
}

# Processes of a node's world that are not its own furniture (krginit, nurseries, groups).
deputies() { # deputies NODE
	local ns p
	ns=$(world_of "$1")
	[ -n "$ns" ] || return # its daemon is dead
	for p in /proc/[0-9]*; do
		[ "$(readlink "$p/ns/pid" 2>/dev/null)" = "$ns" ] || continue
		case $(cat "$p/comm" 2>/dev/null) in krginit | krgnursery | krggroup | "") ;; *)
			echo "$(basename "$p") $(cat "$p/comm") $(tr '\0' ' ' <"$p/cmdline")"
			;;
		esac
	done
}

# The world of a node: the pid namespace of what its keeper made.
world_of() { # world_of NODE
	local dir pid
	for dir in $(cgroups_of "$lab"); do
		for pid in $(cat "$dir/node$1/cgroup.procs" 2>/dev/null); do
			[ "$(cat "/proc/$pid/comm" 2>/dev/null)" = krginit ] || continue
			readlink "/proc/$pid/ns/pid" && return
		done
	done
}

fds_of() { # fds_of NODE: descriptors of its daemon
	find "/proc/$(pid_of "$lab" "$1")/fd" -mindepth 1 2>/dev/null | wc -l
}

epm_down() {
	down "$lab"
	ok $? "lab down"
	nothing_left "$lab" "$ours" "nothing of the lab is left"
}

# Many of a program that checks itself, each in a session of its own.
at_once() { # at_once COUNT NAME CMD…
	local count=$1 name=$2 i failed_here=0 jobs=()
	shift 2
	for ((i = 0; i < count; i++)); do
		MAY_STAY=1 on $((i % 3)) "$@" </dev/null >"$work/tap$i" 2>&1 &
		jobs+=($!)
	done
	for ((i = 0; i < count; i++)); do
		wait "${jobs[i]}" && continue
		failed_here=$((failed_here + 1))
		[ $failed_here -gt 2 ] || grep -v '^ok' "$work/tap$i" | sed 's/^/# /' | head -40
	done
	[ $failed_here -eq 0 ]
	ok $? "$name, $count at once: $failed_here failed"
	[ $failed_here -eq 0 ] || show_logs
}

# A program that checks itself, under krg run: one line here, its own lines as comments when it fails.
self_checking() { # self_checking NODE NAME CMD…
	local node=$1 name=$2 start=$SECONDS status
	shift 2
	on "$node" "$@" </dev/null >"$work/tap" 2>&1
	status=$?
	ok $status "$name: $(grep -c '^ok' "$work/tap") checks, $(grep -c '^not ok' "$work/tap") failed, $((SECONDS - start)) s"
	if [ $status -ne 0 ]; then
		echo "# status $status"
		grep -v '^ok' "$work/tap" | sed 's/^/# /' | head -60
		show_logs
	fi
}
