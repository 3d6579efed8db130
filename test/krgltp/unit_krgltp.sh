#!/bin/bash
# The driver itself: cases that fail, hang, skip, leave a process; known ones; LTP's format.
# shellcheck disable=SC2016
KRGLTP=${KRG_BIN:?}/krgltp
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
export TMPDIR=$work
n=0 failed=0

ok() { # ok STATUS TEXT
	n=$((n + 1))
	if [ "$1" -eq 0 ]; then
		echo "ok $n - $2"
	else
		failed=$((failed + 1))
		echo "not ok $n - $2"
		sed 's/^/# /' out | head -30
	fi
}

run() { # run STATUS ARG…: its status is that
	local want=$1
	shift
	timeout 60 "$KRGLTP" --mode plain -i 3 -t 20 --cases "$work" "$@" >out 2>&1
	[ $? -eq "$want" ]
}

case_is() { # case_is NAME SCRIPT
	printf '#!/bin/sh\n%s\n' "$2" >"$1"
	chmod 755 "$1"
	echo "$1 $1 # made up" >>list
}

case_is good 'exit 0'
case_is bad 'echo "fail: said so"; exit 1'
case_is one_bad '[ "$KRGLTP_INSTANCE" != 1 ]'
case_is dies 'kill -SEGV $$'
case_is skips 'exit 77'
case_is hangs 'exec sleep 1000'
case_is hangs_deep 'sh -c "sleep 1000 & wait"'
case_is leaks 'sleep 1000 & exit 0'
case_is leaks_session 'setsid sleep 1000 </dev/null >/dev/null 2>&1 & exit 0'
case_is orphan_ends 'mkfifo fifo; (read x <fifo) & echo >fifo; exit 0'
case_is own_dir 'mkdir d && [ "$(dirname "$PWD")" != / ] && [ "$TMPDIR" = "$PWD" ] && touch d/x'
case_is groups 'exec perl -e "exit !(getpgrp() == \$\$)"'

run 0 good own_dir groups orphan_ends
ok $? "cases that pass: status 0"
[ "$(grep -c '^pass ' out)" = 4 ] && grep -q '^4 passed, 0 failed, 0 skipped$' out
ok $? "… a line each, and the summary"
run 1 bad && grep -q '^FAIL .* bad .* 0 of 3' out && grep -q 'fail: said so' out
ok $? "one that fails, with what it said"
run 1 one_bad && grep -q '^FAIL .* 2 of 3' out && grep -q 'instance 1: status 1' out
ok $? "one instance of three"
run 1 dies && grep -q 'ended by signal 11' out
ok $? "a signal"
run 0 skips && grep -q '^skip ' out && grep -q '^0 passed, 0 failed, 1 skipped$' out
ok $? "one that skips"
run 1 -t 1 hangs && grep -q 'not ended in time' out
ok $? "one that hangs"
run 1 -t 1 hangs_deep && grep -q 'not ended in time' out
ok $? "one whose child hangs"
run 1 leaks && grep -q 'processes left: .* sleep' out
ok $? "a process that is left"
run 1 leaks_session && grep -q 'processes left: .* sleep' out
ok $? "… in a session of its own"
! grep -lzx 1000 /proc/[0-9]*/cmdline 2>/dev/null |
	xargs -r -I '{}' sh -c 'readlink "$(dirname {})/cwd"' | grep -q "^$work"
ok $? "none of it is there any more"
if [ "$(id -u)" -eq 0 ]; then
	case_is leaks_ipc 'exec perl -e "use IPC::SysV; msgget(IPC::SysV::IPC_PRIVATE(), 0600) // die; exit 0"'
	if perl -e 'use IPC::SysV' 2>/dev/null; then
		run 1 leaks_ipc && grep -q '3 System V objects left' out
		ok $? "System V objects that are left"
	fi
fi

printf 'bad * it is bad\ngood plain it was bad\nskips krg,elsewhere elsewhere only\n' >known
run 0 --known known good bad skips && grep -q '^known .* bad ' out && grep -q '^FIXED .* good ' out &&
	grep -q '^skip ' out
ok $? "known ones: they fail, they pass"
run 1 -t 2 --json json good bad hangs skips
perl -MJSON::PP -e 'local $/; my $j = decode_json(<>);
	my %r = map { $_->{case} => $_ } @{$j->{results}};
	exit !($j->{passed} == 1 && $j->{failed} == 2 && $j->{skipped} == 1 && $r{hangs}{late} == 3
		&& $r{bad}{result} eq "FAIL" && $r{bad}{reason} =~ /said so/ && $r{good}{passed} == 3)' <json
ok $? "the results as JSON"
run 0 --repeat 3 good && [ "$(grep -c '^pass ' out)" = 3 ]
ok $? "repeated"
run 0 --names && grep -q '^good  *made up$' out
ok $? "the names"
run 0 --keep good && kept=$(sed -n 's/^# kept: //p' out) && [ -d "$kept/good.plain/2" ]
ok $? "what is kept"
rm -rf "$kept"
[ -z "$(ls -d krgltp.* 2>/dev/null)" ]
ok $? "and nothing else is"

# an LTP tree: runtest lines are for a shell; statuses are a bit each
mkdir -p ltp/runtest ltp/testcases/bin
printf '#!/bin/sh\n[ -d "$LTPROOT/runtest" ] || exit 2\nexit $1\n' >ltp/testcases/bin/prog
chmod 755 ltp/testcases/bin/prog
printf '# a comment\npass01 prog 0\nfail01 prog 1\nconf01 prog 32\nwarn01 prog 4\nshell01 a=$(prog 0; echo 3); prog $((a - 3))\nnone01 no_such_program\n' \
	>ltp/runtest/syscalls
run 0 --ltp "$work/ltp" --list runtest/syscalls && [ "$(grep -c '^native ' out)" = 6 ]
ok $? "LTP's format"
grep -q 'fail01 .* fail' out && grep -q 'conf01 .* skip' out && grep -q 'shell01 .* pass' out &&
	grep -q 'warn01 .* pass' out && grep -q 'none01 .* fail' out
ok $? "LTP's statuses"

for args in "--mode nowhere" "-i 0" "-i 1000" "--list nothing" "--what" "no_such_case" \
	"--lab x --mode krg,elsewhere good" "--known list good"; do
	# shellcheck disable=SC2086
	run 2 $args
	ok $? "used wrongly: $args"
done
echo "a/b true" >bad_list
run 2 --list bad_list && grep -q "no name for a case" out
ok $? "a bad name"
echo "1..$n"
exit $((failed > 0))
