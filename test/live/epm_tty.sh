#!/bin/bash
# What somebody sees at the terminal of a shell that runs on another node: its jobs there, and elsewhere.
. "$(dirname "$0")/epm_lab.sh"

sits() { # sits NODE TEXT: the shell's node
	timeout -k 5 "$deadline" "$KRG_BIN/live_epm_pty" "$KRG" "$lab" "$1" >"$work/tap" 2>&1
	ok $? "$2: $(grep -c '^ok' "$work/tap") checks, $(grep -c '^not ok' "$work/tap") failed"
	if grep -qv '^ok' <(grep -v '^1\.\.' "$work/tap"); then
		grep -v '^ok' "$work/tap" | sed 's/^/# /' | head -60
	fi
}

epm_up 3
ok $? "a lab of 3 nodes, each exec elsewhere"
sits 1 "a shell on node 1, its programs on others"
sits 0 "a shell at home, its programs on others"
idle 0 1 2
ok $? "every process has ended"
epm_down
lab=${lab}off
sed -i 's/--policy elsewhere/--policy off/' "$work/krgd"
up "$lab" -n 2 --krgd "$work/krgd"
ok $? "a lab of 2 nodes, execs stay"
ours=$(namespaces_of "$lab")
sits 1 "a shell on node 1, its programs, too"
idle 0 1
ok $? "every process has ended"
epm_down
