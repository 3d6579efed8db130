# lab_lib.sh - what the lab's tests share: TAP, and whether anything of a lab is left.
# shellcheck shell=bash
# LAB_ARGS: more arguments of `lab up` (another daemon, for trying the tests themselves)

n=0 failed=0
work=$(mktemp -d)
labs=()

# Some tests run programs as other users, who may not get to where they were built (root's home directory).
if [ "$(id -u)" -eq 0 ] &&
	! setpriv --reuid 65534 --regid 65534 --clear-groups test -x "${KRG_BIN:?}/krg"; then
	mkdir "$work/bin"
	cp -p "$KRG_BIN"/{krg*,live_*} "$work/bin"
	chmod 755 "$work" "$work/bin"
	KRG_BIN=$work/bin
	cd "$work" || exit 1 # nor may they move to a directory there
fi
KRG=${KRG_BIN:?}/krg

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

clean_up() {
	local lab
	for lab in "${labs[@]}"; do
		"$KRG" lab down -f --name "$lab" >/dev/null 2>&1
	done
	rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 1' TERM INT HUP

finish() {
	echo "1..$n"
	exit $((failed > 0))
}

need_root() {
	if [ "$(id -u)" -ne 0 ]; then
		echo "1..0 # SKIP needs root"
		exit 77
	fi
}

# up NAME ARG...: status is that of `lab up`
up() {
	local lab=$1
	shift
	labs+=("$lab")
	# shellcheck disable=SC2086
	"$KRG" lab up --name "$lab" $LAB_ARGS "$@" >"$work/out" 2>"$work/err"
}

down() {
	"$KRG" lab down --name "$1" >"$work/out" 2>"$work/err"
}

# lab_is NAME: "state nodes alive"
lab_is() {
	"$KRG" lab ls | awk -v name="$1" '$1 == name { print $2, $3, $4 }'
}

true_that() { # true_that EXPRESSION: as awk sees it
	awk "BEGIN { exit !($1) }"
}

cgroups_of() {
	find /sys/fs/cgroup -maxdepth 2 -type d -name "krg-lab-$1" 2>/dev/null
}

procs_of() {
	local dir
	for dir in $(cgroups_of "$1"); do
		find "$dir" -name cgroup.procs -exec cat {} + 2>/dev/null
	done | sort -un
}

pid_of() { # pid_of LAB NODE: its daemon
	awk -v node="$2" '/"pid":/ { pid = $2 + 0 } /"node":/ { if ($2 + 0 == node) print pid }' \
		"/run/krg/lab/$1/lab.json"
}

# The namespaces that only this lab's processes have, one inode a line.  Their numbers are soon given
# to others: so only processes that are there now are looked at later.
namespaces_of() {
	local pid
	ls -d /proc/[0-9]* >"$work/procs" 2>/dev/null
	for pid in $(procs_of "$1"); do
		readlink "/proc/$pid/ns/"{net,mnt,pid,ipc,uts,time} 2>/dev/null
	done | sort -u | grep -vxF "$(readlink /proc/self/ns/{net,mnt,pid,ipc,uts,time})"
}

dead() { # dead PID: gone, or only waiting for init to look
	local state line
	while read -r state line; do
		[ "$state" = State: ] || continue
		case $line in [ZX]*) return 0 ;; *) return 1 ;; esac
	done 2>/dev/null <"/proc/$1/status"
	return 0
}

# Of what was there, and is not dead yet.  What is in another lab's cgroup is that lab's: it may have the number
# of a namespace that a node of ours had before it was started again.
namespaces_alive() { # namespaces_alive LAB
	local dir cgroup
	local -a links=()
	for dir in $(<"$work/procs"); do
		dead "${dir#/proc/}" && continue
		{ IFS= read -rd '' cgroup <"$dir/cgroup"; } 2>/dev/null
		cgroup+=$'\n'
		[[ $cgroup == */krg-lab-* && $cgroup != */krg-lab-"$1"[/$'\n']* ]] && continue
		links+=("$dir"/ns/*)
	done
	[ ${#links[@]} -eq 0 ] || readlink "${links[@]}" 2>/dev/null | sort -u
}

# nothing_left LAB NAMESPACES TEXT
nothing_left() {
	local lab=$1 namespaces=$2 left=""
	[ -e "/run/krg/lab/$lab" ] && left+=" /run/krg/lab/$lab"
	[ -e "/run/krg/lab/$lab.lock" ] && left+=" /run/krg/lab/$lab.lock"
	left+=" $(cgroups_of "$lab")"
	left+=" $(grep -F "/lab/$lab/" /proc/self/mountinfo)"
	left+=" $(grep -lzF "/run/krg/lab/$lab/" /proc/[0-9]*/cmdline 2>/dev/null)"
	if [ -n "$namespaces" ]; then
		left+=" $(namespaces_alive "$lab" | grep -xF "$namespaces")"
	fi
	left+=" $(diff <(host_links) "$work/links")"
	is "$(echo $left)" "" "$3"
}

host_links() {
	sed -n 's/^ *\([^:]*\):.*/\1/p' /proc/net/dev | sort
}
host_links >"$work/links"
