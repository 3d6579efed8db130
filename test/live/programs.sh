#!/bin/bash
# Real programs under krg run, each exec on another node: the same results as without.
# ROUNDS=N: as often (default 1; for an hour, 200).
. "$(dirname "$0")/epm_lab.sh"

cat >"$work/programs" <<-'EOT'
	cd "$1" || exit 1
	have() { command -v "$1" >/dev/null; }
	mkdir -p src
	for i in 1 2 3 4 5 6; do
		printf 'int f%d(int x)\n{\n\treturn x * %d + 1;\n}\n' $i $i >src/f$i.c
	done
	printf '#include <stdio.h>\nint f1(int), f2(int), f3(int), f4(int), f5(int), f6(int);\nint main(void)\n{\n\tprintf("%%d\\n", f1(f2(f3(f4(f5(f6(3)))))));\n\treturn 0;\n}\n' >src/main.c
	printf 'OBJ = main.o f1.o f2.o f3.o f4.o f5.o f6.o\nprog: $(OBJ)\n\tgcc -o $@ $(OBJ)\n%%.o: %%.c\n\tgcc -O1 -c -o $@ $<\n' >src/Makefile
	have gcc && have make && make -s -j4 -C src && src/prog
	tar -cf - -C src . | tar -tf - | grep -c '\.c$'
	find src -name '*.c' | sort | xargs -n2 -P3 md5sum | sort
	have xz && tar -cf - --sort=name --mtime=@0 --owner=0 --group=0 -C src main.c f1.c | xz -T1 | xz -d | md5sum
	find /usr/share/doc -maxdepth 1 -type d | sort -r | head -200 | sort | md5sum
	have perl && perl -e 'my @k; for my $i (1 .. 5) { open my $f, "-|", "/bin/echo $i" or die; push @k, <$f>; close $f } print @k; print system("/bin/false") >> 8, "\n"'
	have sqlite3 && sqlite3 data.db 'create table t(a, b); insert into t values (1, 2), (3, 4);' && sqlite3 data.db 'select sum(a * b) from t' && echo 'select count(*) from t;' | sqlite3 data.db
	have python3 && python3 -c 'import subprocess, multiprocessing as m, sys
	def f(x): return int(subprocess.run(["/bin/echo", str(x * x)], stdout=subprocess.PIPE).stdout)
	with m.get_context("fork").Pool(4) as p: print(sum(p.map(f, range(40))))
	p = subprocess.Popen(["sort", "-n"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
	print(len(p.communicate("\n".join(map(str, range(5000, 0, -1))).encode())[0]))'
	seq 1 20000 | awk '{ s += $1 } END { print s }'
	for i in 1 2 3; do (exit $i); echo $?; done | sort | uniq -c
EOT
sed -i 's/^\t//' "$work/programs"
epm_up 3
ok $? "a lab of 3 nodes"
for ((round = 0; round < ${ROUNDS:-1}; round++)); do
	rm -rf "$work/native" "$work/there"
	mkdir "$work/native" "$work/there"
	bash "$work/programs" "$work/native" </dev/null >"$work/want" 2>&1
	on $((round % 3)) bash "$work/programs" "$work/there" </dev/null >"$work/got" 2>&1
	diff "$work/want" "$work/got" >"$work/diff"
	ok $? "round $round: $(wc -l <"$work/want") lines, the same"
	sed 's/^/# /' "$work/diff" | head -20
done
idle 0 1 2
ok $? "every process has ended"
epm_down
