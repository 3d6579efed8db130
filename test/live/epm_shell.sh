#!/bin/bash
# What shells do, when each program they start executes on another node.  Run by krg run; TAP.
n=0 failed=0
work=$(mktemp -d)
cd "$work" || exit 1

is() { # is GOT WANT TEXT
	n=$((n + 1))
	if [ "$1" = "$2" ]; then
		echo "ok $n - $3"
	else
		failed=$((failed + 1))
		echo "not ok $n - $3"
		echo "# got '${1:0:300}', want '${2:0:300}'"
	fi
}

# ---- descriptors ----
(
	echo one
	/bin/echo two
	/bin/echo three
	sh -c 'echo four; /bin/echo five'
	echo six
) >out
is "$(cat out | tr '\n' ' ')" "one two three four five six " "a shared offset: ( ; ) > out"
for i in 1 2 3; do /bin/echo $i; done >>out
is "$(wc -l <out)" 9 "appended, by several"
: >log
for i in 1 2 3 4 5 6; do
	sh -c 'for k in 1 2 3 4 5 6 7 8 9 10; do /bin/echo "$0 $k 0123456789012345678901234567890123456789"; done' $i >>log &
done
wait
is "$(wc -l <log) $(sort -u log | wc -l)" "60 60" "O_APPEND from six at once: no line is lost or torn"
printf '1\n2\n3\n4\n5\n' >in
{
	read -r a
	b=$(head -c 2)
	read -r c
	d=$(cat | tr '\n' ' ')
} <in
is "$a $b $c $d" "1 2 3 4 5 " "reading on where the other stopped"
printf 'echo a\n/bin/echo b\nread x\nthis is read\n/bin/echo "$x"\nexit 5\n' >script
bash <script >out
is "$? $(tr '\n' ' ' <out)" "5 a b this is read " "a script from stdin, which it reads, too"
exec 7<>both
/bin/echo hello >&7
exec 7>&-
is "$(cat both)" hello "a descriptor opened for both"
exec 8<in
sh -c 'read x <&8; echo $x' >out
sh -c 'read x <&8; echo $x' >>out
read -r x <&8
is "$(tr '\n' ' ' <out)$x" "1 2 3" "a file read in turns through descriptor 8"
exec 8<&-
echo data >gone
exec 9<gone
rm gone
is "$(cat <&9)" data "a deleted file"
exec 9<&-
/bin/echo lost >/dev/null
is "$?" 0 "/dev/null"
is "$(head -c 10 /dev/zero | od -An -tx1 | tr -d ' ')" 00000000000000000000 "/dev/zero"
/bin/echo x 2>/dev/null >/dev/full
is "$?" 1 "/dev/full: ENOSPC"
sh -c '/bin/echo out; /bin/echo err >&2' >both 2>&1
is "$(tr '\n' ' ' <both)" "out err " ">both 2>&1"
is "$(cat <<-EOT
	here $((1 + 1))
EOT
)" "here 2" "a here document"
is "$(for i in $(seq 20); do cat < <(/bin/echo $i); done | wc -l)" 20 "process substitution: two descriptions of one end"
is "$(seq 2000 | {
	for k in 1 2 3; do (read -r line) done
	exec cat
} | wc -l)" 1997 "what one reader of a pipe leaves is the next one's"
seq 5000 | {
	/bin/cat >x1 &
	exec /bin/cat >x2
}
wait
is "$(cat x1 x2 | tr -d '\n' | wc -c)" 18893 "two readers of a pipe: each byte once"
/bin/echo seq | tee a b >c
is "$(cat a b c | tr '\n' ' ')" "seq seq seq " "tee"

# ---- pipes ----
sum=$(head -c 5000000 /dev/zero | tr '\0' 'x' | md5sum | cut -d' ' -f1)
is "$(head -c 5000000 /dev/zero | tr '\0' 'x' | cat | cat | md5sum | cut -d' ' -f1)" "$sum" "5 MB through five programs"
seq 1 200000 >numbers
is "$(cat numbers | sort -rn | sort -n | cmp - numbers && echo same)" same "sorted twice"
is "$(xz -c numbers | cat | xz -dc | md5sum)" "$(md5sum <numbers)" "xz | cat | xz -d"
is "$(yes | head -1)" y "yes | head -1"
yes 2>/dev/null | head -1 >/dev/null
is "${PIPESTATUS[0]}" 141 "yes ends by SIGPIPE"
is "$(sh -c 'trap "" PIPE; yes 2>&1 >&3 | cat' 3>&1 | head -1)" y "EPIPE, too, when SIGPIPE is ignored"
is "$(
	/bin/true | /bin/false | sh -c 'exit 3' | /bin/true
	echo "${PIPESTATUS[@]}"
)" "0 1 3 0" "PIPESTATUS"
(sleep 0.3; echo late) | cat >out
is "$(cat out)" late "a writer that is late"
sh -c 'echo first; sleep 0.2; echo second' | (
	read -r a
	b=$(cat)
	echo "$b $a"
) >out
is "$(cat out)" "second first" "line by line"
# several readers of one pipe, each record once
awk 'BEGIN { for (i = 0; i < 3000; i++) printf "%07d\n", i }' | (
	for i in 1 2 3; do dd bs=8 status=none >part$i & done
	wait
)
is "$(cat part1 part2 part3 | sort | uniq | wc -l) $(cat part1 part2 part3 | wc -c)" "3000 24000" "three readers of one pipe: each record once"
# several writers of one pipe
is "$( (
	for i in 1 2 3 4; do sh -c 'for k in $(seq 1 50); do /bin/echo $0-$k; done' $i & done
	wait
) | sort -u | wc -l)" 200 "four writers of one pipe"
mkfifo fifo
/bin/echo through >fifo &
is "$(cat fifo)" through "a named pipe between two nodes"
wait
coproc tr a-z A-Z
exec 7<&"${COPROC[0]}" # bash closes its own when the coprocess has ended
/bin/echo question >&"${COPROC[1]}"
eval "exec ${COPROC[1]}>&-"
is "$(cat <&7)" QUESTION "a coprocess"
exec 7<&-
wait

# ---- jobs ----
sleep 30 &
kill %%
wait $! 2>/dev/null
is $? 143 "kill %%; wait"
sh -c 'trap "echo caught; exit 9" TERM; echo ready; while :; do sleep 0.05; done' >trap_out &
pid=$!
until grep -q ready trap_out; do sleep 0.02; done
kill $pid
wait $pid
is "$? $(tail -1 trap_out)" "9 caught" "trap"
pids=()
for i in $(seq 1 20); do
	sh -c "/bin/true; exit $i" &
	pids+=($!)
done
sum=0
for p in "${pids[@]}"; do
	wait "$p"
	sum=$((sum + $?))
done
is $sum 210 "wait for twenty"
timeout 0.3 sleep 30
is $? 124 "timeout"
timeout -s KILL 0.3 sh -c 'sleep 30' 2>/dev/null
is $? 137 "timeout -s KILL"
is "$(nice -n 5 nice)" $(($(nice) + 5)) "nice"
is "$(env -i A=1 /usr/bin/env)" A=1 "env -i"
is "$(sh -c 'ulimit -n 77; sh -c "ulimit -n"')" 77 "ulimit"
is "$(umask 027; sh -c umask)" 0027 "umask"
is "$(find . -name 'part?' | sort | xargs -n1 -P3 basename | sort | tr '\n' ' ')" "part1 part2 part3 " "find | xargs -P3"
is "$(seq 1 60 | xargs -P4 -n3 sh -c 'expr $0 + $1 + $2' | awk '{ s += $1 } END { print s }')" 1830 "xargs -P4"
nohup sh -c 'exit 4' >/dev/null 2>&1
is $? 4 "nohup"
setsid -w sh -c 'exit 6'
is $? 6 "setsid"

# ---- make's job server ----
mkdir -p tree/sub1 tree/sub2 tree/sub3
cat >tree/Makefile <<-'EOT'
	all: sub1 sub2 sub3 a b c d
	sub1 sub2 sub3: ; +@$(MAKE) -s -C $@
	a b c d: ; @sh ../work.sh $@
	.PHONY: all sub1 sub2 sub3 a b c d
EOT
for d in 1 2 3; do
	cat >tree/sub$d/Makefile <<-'EOT'
		all: p q r s
		p q r s: ; @sh ../../work.sh $(notdir $(CURDIR))-$@
		.PHONY: all p q r s
	EOT
done
# how many work at once never exceeds -j: each leaves a mark while it works
cat >work.sh <<-'EOT'
	top=$(dirname "$(readlink -f "$0")")
	mkdir "$top/at.$1"
	ls -d "$top"/at.* 2>/dev/null | wc -l >>"$top/most"
	sleep 0.05
	rmdir "$top/at.$1"
	echo "$1" >>"$top/done"
EOT
make -s -j4 -C tree
is $? 0 "make -j4, recursive: status"
is "$(sort -u done | wc -l) $(wc -l <done)" "16 16" "every target once"
most=$(sort -n most | tail -1)
is "$([ "$most" -le 4 ] && [ "$most" -ge 2 ] && echo right)" right "at most 4 at once ($most)"
printf 'all: ; @exit 3\n' >fails.mk
make -s -f fails.mk 2>/dev/null
is $? 2 "make tells of an error"

cd / && rm -rf "$work"
echo "1..$n"
exit $((failed > 0))
