# migrate_lib.sh - processes that are moved as they run, for the live tests of that; after epm_lab.sh.
# shellcheck shell=bash

migrate() { # migrate PID NODE [OPTION]
	timeout 60 "$KRG" --lab "$lab" migrate ${3:+"$3"} "$1" "$2" >"$work/moved" 2>"$work/err"
}

node_of() { # node_of PID
	"$KRG" --lab "$lab" ps "$1" | awk -v pid="$1" '$1 == pid { print $4 }'
}

# What was made of it there ends a moment after its home has heard that it failed.
stays_at() { # stays_at PID NODE
	local i
	for ((i = 0; i < 100; i++)); do
		[ "$(node_of "$1")" = "$2" ] && break
		perl -e 'select undef, undef, undef, 0.02'
	done
	node_of "$1"
}

# A program that checks itself, at home on node 0: $pid; it is told to end by `told`.
begin_victim() { # begin_victim NAME [MIB]
	rm -f "$work/pid" "$work/found" "$work/fifo"
	mkfifo "$work/fifo"
	: >"$work/found"
	on 0 env VICTIM_MIB="${2:-}" "$KRG_BIN/live_epm_victim" "$1" "$work/pid" <"$work/fifo" >"$work/found" 2>"$work/victim.err" &
	run=$!
	exec 8>"$work/fifo"
	wait_file "$work/found"
	pid=$(cat "$work/pid")
}

told() { # told TEXT
	echo >&8
	exec 8>&-
	wait $run
	is "$? $(cat "$work/found")" "0 .right" "$1: it finds everything right"
}

# ---- a lab of 3 nodes, in which one thing fails ----
fault_up() { # fault_up FAULT@NODE
	lab=${lab}f
	FAULT=${1%@*} FAULT_NODE=${1#*@} up "$lab" -n 3 --krgd "$work/krgd" || cat "$work/err"
	ours=$(namespaces_of "$lab")
}

fault_down() { # fault_down TEXT
	down "$lab"
	nothing_left "$lab" "$ours" "$1: nothing is left"
}

# $pid is at FROM: it does not go to TO, but the next time, if nobody has died.
stays_once() { # stays_once FAULT@NODE FROM TO
	migrate "$pid" "$3"
	is "$? $(stays_at "$pid" "$2")" "1 $2" "$1: it stays: $(head -1 "$work/err")"
	[[ $1 == *kill* ]] && return
	migrate "$pid" "$3"
	is "$? $(node_of "$pid")" "0 $3" "$1: and moves the next time: $(cat "$work/err")"
}
