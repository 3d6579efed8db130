#!/bin/bash
# Daemons in a chroot, as a build's (schroot, debootstrap): programs are placed from there, and see the chroot's paths.
# shellcheck source=test/live/lab_lib.sh
. "$(dirname "$0")/lab_lib.sh"
lab=chroot$$
need_root
trap finish_here EXIT

finish_here() {
	clean_up
	finish
}

# The machine's own files under another root directory; in mounts of their own, that end with this shell.
cat >"$work/inside.sh" <<-'EOT'
	set -e
	cd "$1/here"
	echo "a line" >in
	krg() { timeout 60 "$KRG_BIN/krg" --lab "$lab" --node 0 run "$@"; }
	for ((i = 0; i < 100; i++)); do # the nodes know of each other
		krg -n 1 hostname </dev/null >node 2>err && break
	done
	cat node err
	krg -n 1 bash -c 'pwd -P; cat; hostname' <in >out
	cat out
	krg bash -c "exec chroot $1/root $KRG_BIN/krg version" >/dev/null # a program's own chroot: it stays, and runs
	krg -n 1 chroot "$1/root" bash -c '/bin/hostname' </dev/null
EOT
mkdir -p "$work/root" "$work/here"
cat >"$work/outside.sh" <<-'EOT'
	mount --rbind / "$1/root"
	mkdir -p "$1/root$1/root" # the way back: the same files once more
	mount --rbind / "$1/root$1/root"
	chroot "$1/root" "$KRG_BIN/krg" lab up --name "$lab" -n 2 >"$1/up" 2>&1 &&
		chroot "$1/root" bash "$1/inside.sh" "$1"
	echo "status $?"
	chroot "$1/root" "$KRG_BIN/krg" lab down --name "$lab"
EOT
export lab KRG_BIN
labs+=("$lab")
timeout 200 unshare -m --propagation private bash "$work/outside.sh" "$work" >"$work/out" 2>"$work/err" </dev/null
ok $? "a lab in a chroot"
is "$(sed -n 1p "$work/out")" node1 "a program runs on the other node"
is "$(sed -n 2p "$work/out")" "$work/here" "in the directory that it was started in"
is "$(sed -n 3p "$work/out")" "a line" "with its file"
is "$(sed -n 4p "$work/out")" node1 "there"
is "$(sed -n 5p "$work/out")" node1 "a program that makes a chroot of its own may be placed before that"
grep -q '^status 0' "$work/out"
ok $? "all of them ended well"
[ $failed -eq 0 ] || sed 's/^/# /' "$work/out" "$work/err" "$work/up"
nothing_left "$lab" "" "nothing of the lab is left"
