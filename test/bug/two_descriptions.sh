#!/bin/bash
# One end of a pipe with two open file descriptions (/dev/fd/N opens it anew): when the program with one of them
# went to another node, the end counted as that program's alone, and bytes were lost with it.
# shellcheck source=test/live/epm_lab.sh
. "$(dirname "$0")/../live/epm_lab.sh"

epm_up 3
ok $? "a lab of 3 nodes"
cat >"$work/substitute.sh" <<-'EOT'
	for i in $(seq 40); do cat < <(/bin/echo "$i"); done
EOT
on 0 bash "$work/substitute.sh" </dev/null >"$work/out"
is "$(md5sum <"$work/out")" "$(seq 40 | md5sum)" "process substitution"
mkfifo "$work/fifo"
on 0 bash -c '/bin/cat "$1" & for i in $(seq 40); do /bin/echo "$i"; done >"$1"; wait' - "$work/fifo" </dev/null >"$work/out"
is "$(md5sum <"$work/out")" "$(seq 40 | md5sum)" "a named FIFO"
epm_down
