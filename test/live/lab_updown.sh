#!/bin/bash
# A lab comes up, is what it says, and goes down without a trace; two of them do not meet.
. "$(dirname "$0")/lab_lib.sh"

"$KRG" lab up --name 'a/b' 2>"$work/err"
is $? 2 "a bad name is wrong usage"
"$KRG" lab up -n 0 2>/dev/null
is $? 2 "no nodes is wrong usage"
"$KRG" lab up -n 128 2>/dev/null
is $? 2 "128 nodes is wrong usage"
"$KRG" lab exec 0 true --name 2>/dev/null
is $? 1 "exec in a lab that is not there"
need_root

up t1_$$ -n 4 --cpus 0.4
ok $? "up: $(cat "$work/out" "$work/err")"
seconds=$(sed -n 's/.*up in \([0-9.]*\) s.*/\1/p' "$work/out")
true_that "${seconds:-9} < 3"
ok $? "4 nodes in less than 3 s: ${seconds:-?}"
is "$(lab_is t1_$$)" "up 4 4" "lab ls"
"$KRG" lab ls --json | grep -q '"state": "up"'
ok $? "lab ls --json"
up t1_$$
is $? 1 "up a second time fails"
is "$(wc -l <"$work/err")" 1 "with one line: $(cat "$work/err")"
is "$(stat -c %a /run/krg/lab/t1_$$/key)" 600 "the key is root's only"

ns=$(for i in 0 1 2 3; do "$KRG" lab exec --name t1_$$ $i -- readlink /proc/self/ns/net; done | sort -u | wc -l)
is "$ns" 4 "a network namespace for each"
for i in 0 1 2 3; do
	"$KRG" lab exec --name t1_$$ 1 -- bash -c "exec 3<>/dev/tcp/10.77.0.$((i + 1))/7700"
	ok $? "node 1 reaches node $i"
done
is "$("$KRG" lab exec --name t1_$$ 2 -- sh -c 'echo $KRG_LAB $KRG_NODE $KRG_SOCKET')" \
	"t1_$$ 2 /run/krg/lab/t1_$$/node2/krgd.sock" "exec tells which node it is"
"$KRG" lab exec --name t1_$$ 3 sh -c 'exit 5'
is $? 5 "exec's status"

# two processes that would like two seconds of CPU each get 0.4 of one together
"$KRG" lab exec --name t1_$$ 1 -- bash -c '
	for i in 1 2; do timeout 1.5 bash -c "while :; do :; done" & done; wait; times' >"$work/times"
used=$(tail -1 "$work/times" | awk -F'[ms ]+' '{ print $2 + $4 }')
true_that "$used > 0.35 && $used < 0.85"
ok $? "0.4 CPUs for 1.5 s: $used s"

up t2_$$ -n 2
ok $? "another lab beside it"
"$KRG" lab exec --name t2_$$ 0 -- bash -c "exec 3<>/dev/tcp/10.77.0.2/7700"
ok $? "it has its own network"
"$KRG" lab exec --name t2_$$ 0 -- bash -c "exec 3<>/dev/tcp/10.77.0.3/7700" 2>/dev/null
is $? 1 "and does not see the first one's"
spaces1=$(namespaces_of t1_$$) spaces2=$(namespaces_of t2_$$)
down t2_$$
ok $? "down"
nothing_left t2_$$ "$spaces2" "nothing of the second is left"
is "$("$KRG" lab exec --name t1_$$ 0 -- echo here)" here "the first is still there"
down t1_$$
ok $? "down"
nothing_left t1_$$ "$spaces1" "nothing of the first is left"
down t1_$$
ok $? "down of what is not up is no error"
is "$(cat "$work/out")" "lab t1_$$: was not up" "but it says so"

# as somebody else
if id nobody >/dev/null 2>&1; then
	cp "$KRG" "$work/krg" && chmod 755 "$work" "$work/krg"
	setpriv --reuid nobody --clear-groups "$work/krg" lab up --krgd /bin/true 2>"$work/err"
	is "$?" 1 "not root: fails"
	grep -q "needs root" "$work/err"
	ok $? "and says so: $(cat "$work/err")"
fi
finish
