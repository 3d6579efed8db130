#!/bin/bash
# What people type: completion, man pages, help, exit statuses, --json; and krg ps of what there is.
. "$(dirname "$0")/lab_lib.sh"
need_root
top=$(cd "$(dirname "$0")/../.." && pwd)
export PATH="$KRG_BIN:$PATH"
unset KRG_SOCKET KRG_LAB KRG_NODE

lab=t_$$
up $lab -n 3
ok $? "up: $(cat "$work/err")"

# ---- completion ----
# shellcheck source=tools/completion/krg.bash
. "$top/tools/completion/krg.bash"
completes() { # completes "LINE" WANT…: each is offered, and all that is offered begins as typed
	local line=$1 want word cur missing=""
	shift
	read -ra COMP_WORDS <<<"$line"
	[[ $line == *' ' ]] && COMP_WORDS+=("")
	COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
	cur=${COMP_WORDS[COMP_CWORD]}
	"_$(basename "${COMP_WORDS[0]}")" 2>"$work/err"
	for want in "$@"; do
		[[ " ${COMPREPLY[*]} " == *" $want "* ]] || missing+=" $want"
	done
	for word in "${COMPREPLY[@]}"; do
		[[ $word == "$cur"* ]] || missing+=" (but $word)"
	done
	missing+=$(cat "$work/err")
	is "$missing" "" "'$line': ${COMPREPLY[*]:0:8}"
}
completes "krg " lab node run sh ps kill migrate caps stat execs trace version help
completes "krg ca" caps
completes "krg --lab $lab node " 0 1 2 ls
completes "krg lab " up down ls exec stop start
completes "krg lab up --" --nodes --cpus --name --timeout --policy
completes "krg lab up --policy " load elsewhere off
completes "krg lab down --name t" $lab
completes "krg ps --lab t" $lab
completes "krg ps --lab $lab --node " 0 1 2
completes "krg lab exec --name $lab " 0 1 2
completes "krg lab stop --name $lab " 0 1 2 --crash --kill
completes "krg lab exec --name $lab 1 ech" echo
completes "krg node del --lab $lab " 0 1 2
completes "krg run --lab $lab -n " 0 1 2
completes "krg run --" --caps --lab --help
completes "krg run --caps +DISTANT_E" +DISTANT_EXEC
completes "krg run --caps +DEBUG,-CAN" +DEBUG,-CAN_MIGRATE
completes "krg run ech" echo
completes "krg run -n 1 -- ech" echo
completes "krg kill -s US" USR1 USR2
completes "krg caps -DIST" -DISTANT_EXEC -DISTANT_FORK
completes "krg caps -" -p --json
completes "krg help no" node
completes "krgadm " cluster nodes
completes "krgadm nodes " status add del
completes "krgadm nodes add -" -n -c -t -a
completes "krgcapset -" -k -s -f -e -p -d -i
completes "krgcapset --inheritable-effective +CHE" +CHECKPOINTABLE
completes "$KRG_BIN/krg node --lab $lab " 0 1 2

# ---- help, man pages, exit statuses ----
krg help >"$work/help"
ok $? "krg help"
for cmd in $(awk '/^  / { print $1 }' "$work/help" | sort -u); do
	krg help "$cmd" >"$work/out" 2>&1 || [ "$cmd" = help ]
	ok $? "krg help $cmd"
	krg "$cmd" --help >"$work/out" 2>&1
	ok $? "krg $cmd --help"
	krg "$cmd" --no-such-option >/dev/null 2>"$work/err"
	status=$?
	case $cmd in
	top | ipc | checkpoint | restart)
		is "$status $(cat "$work/err")" "1 krg: $cmd: not supported yet" "krg $cmd is known, and says so"
		continue
		;;
	esac
	is $status 2 "krg $cmd --no-such-option: $(head -c 60 "$work/err")"
	[ "$cmd" = help ] && continue
	page=$top/doc/man/krg-$cmd.1
	[ "$cmd" = sh ] && page=$top/doc/man/krg-run.1
	[ -e "$page" ]
	ok $? "krg $cmd has a page"
	missing=""
	for option in $(grep -v -e --socket -e '--lab NAME' -e '--node N' -e '--json' -e '--help' "$work/out" |
		grep -oE '^ +(-[a-z], )?--?[a-z-]+' | grep -oE -- '-[a-z]+|--[a-z-]+'); do
		grep -qE "F[l ].*[ -]-?${option##-*-}|Fl ${option#-}" "$page" || missing+=" $option"
	done
	is "$missing" "" "krg $cmd: its options are in its page"
done
for page in "$top"/doc/man/*.[18]; do
	command -v mandoc >/dev/null || break
	is "$(mandoc -Tlint -W warning "$page" 2>&1 | grep -v 'cross reference to self')" "" "$(basename "$page"): mandoc"
done
ln -s "$KRG_BIN/krg" "$work/migrate"
"$work/migrate" -q 2>"$work/err"
is "$? $(grep -c 'usage: krg migrate .*PID NODE' "$work/err")" "2 1" "by the original's name: migrate"
for cmd in checkpoint restart; do
	ln -s "$KRG_BIN/krg" "$work/$cmd"
	"$work/$cmd" -q 1 2 2>"$work/err"
	is "$? $(cat "$work/err")" "1 krg: $cmd: not supported yet" "by the original's name: $cmd"
done

# ---- --json ----
is_json() { # is_json CMD…
	"$@" >"$work/out" 2>"$work/err" && perl -MJSON::PP -0777 -ne 'decode_json($_)' "$work/out" 2>>"$work/err"
	ok $? "$* is JSON $(head -c 100 "$work/err")"
}
if perl -MJSON::PP -e 1 2>/dev/null; then
	for cmd in "lab ls" "node ls" "node 1" ps stat execs trace version; do
		# shellcheck disable=SC2086
		is_json krg --lab $lab $cmd --json
	done
	is_json krgadm nodes status --lab $lab --json
	is_json krgadm cluster status --lab $lab --json
fi
is "$(krgadm nodes status --lab $lab -n 1-2 --json | grep -c '"name"')" 2 "krgadm nodes status -n --json: those only"

# ---- krg ps ----
export KRG_LAB=$lab
cat >"$work/load" <<'EOT'
# two threads' worth of time, arguments with blanks, a zombie, a stopped child
$0 = "load";
my $end = (times)[0] + 0.3;
1 while (times)[0] < $end;
my $zombie = fork; exit 0 if $zombie == 0;
my $stopped = fork; if ($stopped == 0) { kill STOP => $$; exit 3 }
sub stat_of { open my $s, "<", "/proc/$_[0]/stat"; <$s> }
select undef, undef, undef, 0.02 until stat_of($stopped) =~ /\) T/;
open my $f, ">", "$ARGV[0]/here"; print $f "$$ $zombie $stopped\n"; close $f;
rename "$ARGV[0]/here", "$ARGV[0]/there";
<STDIN>;
kill KILL => $stopped;
EOT
for node in 0 1; do
	rm -f "$work/there"
	mkfifo "$work/go$node"
	krg run -n $node perl "$work/load" "$work" "with  blanks" "$(printf 'a\nline')" ü <"$work/go$node" &
	client=$!
	exec 5>"$work/go$node"
	until [ -e "$work/there" ]; do read -rt 0.01 <><(:); done
	read -r pid zombie stopped <"$work/there"
	for from in 0 2; do
		row() { # row PID: as awk sees it: node home state, time in 1/100 s, rss in KiB, command
			krg ps --node $from "$1" | awk -v pid="$1" '$1 == pid { split($7, t, /[:.]/)
				printf "%s %s %s %d %d ", $4, $5, $6, t[1] * 6000 + t[2] * 100 + t[3], $8
				for (i = 9; i <= NF; i++) printf "%s ", $i }'
		}
		read -r at home state time rss name <<<"$(row "$pid")"
		is "$at $home $state $name" "$node 0 S load" "on node $node, seen from node $from"
		true_that "$time >= 30 && $time < 500"
		ok $? "its processor time: $time / 100 s"
		true_that "$rss > 2000"
		ok $? "its memory: $rss KiB"
		is "$(row "$zombie" | cut -d' ' -f1,3,6-)" "$node Z [load] <defunct> " "a zombie"
		is "$(row "$stopped" | cut -d' ' -f1,3,6-)" "$node T load " "a stopped process"
	done
	is "$(krg ps --tree | awk -v a="$pid" -v b="$stopped" '$1 == a { x = index($0, "load") } $1 == b { y = index($0, "load") } END { print y - x }')" \
		2 "--tree: the child below its parent"
	is "$(krg ps --json "$stopped" | awk -F': ' '/"ppid"/ { print $2 + 0 }')" "$pid" "the parent"
	echo >&5
	exec 5>&-
	wait $client
	is $? 0 "it ends"
done
# its own arguments, threads, and the processor time of all of them
cat >"$work/threads.py" <<'EOT'
import sys, threading, time
def burn():
    end = time.thread_time() + 0.2
    while time.thread_time() < end:
        pass
t = [threading.Thread(target=burn) for _ in range(3)]
for x in t: x.start()
for x in t: x.join()
keep = threading.Thread(target=sys.stdin.read, daemon=True)
keep.start()
print("ready", flush=True)
keep.join()
EOT
if command -v python3 >/dev/null; then
	mkfifo "$work/go" "$work/said"
	python=$(python3 -c 'import sys; print(sys.executable)')
	krg run -n 2 "$python" "$work/threads.py" "two  blanks" "ü" <"$work/go" >"$work/said" &
	client=$!
	exec 5>"$work/go" 6<"$work/said"
	read -r _ <&6
	krg ps --node 1 --json >"$work/ps"
	is "$(perl -MJSON::PP -0777 -CO -ne 'for (@{decode_json($_)->{procs}}) { print "$_->{node} $_->{threads} $_->{cmdline}" if $_->{cmdline} =~ /threads.py/ }' "$work/ps")" \
		"2 2 $python $work/threads.py two  blanks ü" "threads and arguments"
	true_that "$(perl -MJSON::PP -0777 -ne 'for (@{decode_json($_)->{procs}}) { print $_->{cpu_ns} if $_->{cmdline} =~ /threads.py/ }' "$work/ps") >= 600000000"
	ok $? "the time of all its threads, also of those that have ended"
	exec 5>&- 6<&-
	wait $client
fi
# whose parent has ended: pid 1's, also when it is away
rm -f "$work/pid"
mkfifo "$work/go.orphan"
krg run -n 0 bash -c "(krg run -n 1 true; exec perl -e 'open F, \">$work/pid.new\"; print F \$\$; close F; rename \"$work/pid.new\", \"$work/pid\"; open G, \"$work/go.orphan\"; <G>' </dev/null) & exit 0"
until [ -e "$work/pid" ]; do read -rt 0.01 <><(:); done
is "$(krg ps --json "$(cat "$work/pid")" | awk -F': ' '/"ppid"/ { print $2 + 0 }')" 1 "an orphan's parent is 1"
echo >"$work/go.orphan"
krg ps 99999999 >/dev/null
is $? 1 "no such process"
krg ps x 2>/dev/null
is $? 2 "no process number"
until [ -z "$(krg ps | tail -n +2)" ]; do read -rt 0.05 <><(:); done
unset KRG_LAB
down $lab
ok $? "down"
finish
