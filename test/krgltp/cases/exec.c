/* exec.c - the ways to execute a program; its arguments and environment. */
#include "case.h"
#include <pthread.h>
#include <spawn.h>

/* ---- ways ---- */

static void c_fork(void)
{
	EXITS(spawn("exit", "41", NULL), 41);
}

static void c_vfork(void)
{
	char *argv[] = {self, (char *)"--role", (char *)"exit", (char *)"42", NULL};
	volatile int after = 0;
	pid_t pid = vfork();

	if (pid == 0) {
		after = 1; /* seen by the parent: one memory */
		(void)execve(self, argv, environ);
		_exit(99);
	}
	CHECK(pid > 0, "vfork: %s", strerror(errno));
	EQ(after, 1);
	EXITS(mind(pid), 42);
}

static void c_vfork_fails(void)
{
	char *argv[] = {(char *)"x", NULL};
	volatile int error = 0;
	pid_t pid = vfork();

	if (pid == 0) {
		(void)execve("no such file", argv, environ);
		error = errno;
		_exit(3);
	}
	EXITS(mind(pid), 3);
	EQ(error, ENOENT);
}

static void c_spawn(void)
{
	char *argv[] = {self, (char *)"--role", (char *)"exit", (char *)"43", NULL};
	pid_t pid;

	EQ(posix_spawn(&pid, self, NULL, NULL, argv, environ), 0);
	EXITS(mind(pid), 43);
}

static void c_spawn_fails(void)
{
	char *argv[] = {(char *)"x", NULL};
	pid_t pid;

	EQ(posix_spawn(&pid, "no such file", NULL, NULL, argv, environ), ENOENT);
	EQ(posix_spawn(&pid, ".", NULL, NULL, argv, environ), EACCES);
	FAILS(waitpid(-1, NULL, 0), ECHILD);
}

static int r_show_attr(int argc, char **argv)
{
	sigset_t mask;
	struct sigaction usr2;

	(void)argc;
	(void)argv;
	(void)sigprocmask(SIG_BLOCK, NULL, &mask);
	(void)sigaction(SIGUSR2, NULL, &usr2);
	return (getpgrp() == getpid()) | sigismember(&mask, SIGUSR1) << 1 |
	       (usr2.sa_handler == SIG_DFL) << 2;
}

static void c_spawn_attr(void)
{
	char *argv[] = {self, (char *)"--role", (char *)"attr", NULL};
	posix_spawnattr_t a;
	sigset_t set;
	pid_t pid;

	(void)signal(SIGUSR2, SIG_IGN);
	(void)posix_spawnattr_init(&a);
	(void)posix_spawnattr_setflags(&a, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK |
						   POSIX_SPAWN_SETSIGDEF);
	(void)posix_spawnattr_setpgroup(&a, 0);
	(void)sigemptyset(&set);
	(void)sigaddset(&set, SIGUSR1);
	(void)posix_spawnattr_setsigmask(&a, &set);
	(void)sigemptyset(&set);
	(void)sigaddset(&set, SIGUSR2);
	(void)posix_spawnattr_setsigdefault(&a, &set);
	EQ(posix_spawn(&pid, self, NULL, &a, argv, environ), 0);
	EXITS(mind(pid), 7);
}

static void c_spawn_actions(void)
{
	char *argv[] = {self, (char *)"--role", (char *)"cat", NULL};
	posix_spawn_file_actions_t fa;
	pid_t pid;

	write_file("in", "some text\n");
	(void)posix_spawn_file_actions_init(&fa);
	(void)posix_spawn_file_actions_addopen(&fa, 0, "in", O_RDONLY, 0);
	(void)posix_spawn_file_actions_addopen(&fa, 9, "out", O_WRONLY | O_CREAT, 0644);
	(void)posix_spawn_file_actions_adddup2(&fa, 9, 1);
	(void)posix_spawn_file_actions_addclose(&fa, 9);
	EQ(posix_spawn(&pid, self, &fa, NULL, argv, environ), 0);
	EXITS(mind(pid), 0);
	CHECK(strcmp(read_file("out"), "some text\n") == 0, "the file says '%s'", read_file("out"));
}

static void c_spawnp(void)
{
	char *argv[] = {(char *)"found", (char *)"5", NULL};
	pid_t pid;

	(void)OK(mkdir("bin", 0755));
	script("bin/found", "#!/bin/sh\nexit $1\n");
	(void)setenv("PATH", here("bin"), 1);
	EQ(posix_spawnp(&pid, "found", NULL, NULL, argv, environ), 0);
	EXITS(mind(pid), 5);
	EQ(posix_spawnp(&pid, "not found", NULL, NULL, argv, environ), ENOENT);
}

static void c_system(void)
{
	EQ(system("exit 7"), 7 << 8);
	EQ(system("/bin/true"), 0);
	EQ(system("/bin/false; exit $?"), 1 << 8);
	EQ(system("kill -9 $$"), SIGKILL);
	EQ(system("exec /no/such/program 2>/dev/null"), 127 << 8);
	EQ(system(NULL) != 0, true);
}

static void c_popen_read(void)
{
	FILE *f = popen("echo one; /bin/echo two; exit 9", "re");
	char a[20], b[20];

	CHECK(f != NULL, "popen: %s", strerror(errno));
	CHECK(fgets(a, sizeof(a), f) != NULL && strcmp(a, "one\n") == 0, "the first line");
	CHECK(fgets(b, sizeof(b), f) != NULL && strcmp(b, "two\n") == 0, "the second line");
	EQ(pclose(f), 9 << 8);
}

static void c_popen_write(void)
{
	FILE *f = popen("/bin/cat >out; exit 4", "we");

	CHECK(f != NULL, "popen: %s", strerror(errno));
	(void)fputs("text\n", f);
	EQ(pclose(f), 4 << 8);
	CHECK(strcmp(read_file("out"), "text\n") == 0, "what was written");
}

static void c_chain(void)
{
	/* one process, 12 programs, one after the other */
	EXITS(spawn("again", "12", NULL), 12);
}

static int r_again(int argc, char **argv)
{
	int left = argc > 0 ? atoi(argv[0]) : 0;
	char n[16], pid[16];

	if (argc > 1 && atoi(argv[1]) != getpid())
		return 90;
	if (left == 0)
		return 12;
	(void)snprintf(n, sizeof(n), "%d", left - 1);
	(void)snprintf(pid, sizeof(pid), "%d", getpid());
	(void)become("again", n, pid, NULL);
	return 91;
}

static int r_nest(int argc, char **argv)
{
	int left = argc > 0 ? atoi(argv[0]) : 0;
	char n[16];

	if (left == 0)
		return 0;
	(void)snprintf(n, sizeof(n), "%d", left - 1);
	EXITS(spawn("nest", n, NULL), left - 1);
	return left;
}

static void c_nest(void)
{
	EXITS(spawn("nest", "6", NULL), 6);
}

static void c_fexecve(void)
{
	char *argv[] = {(char *)"f", (char *)"--role", (char *)"exit", (char *)"44", NULL};
	int fd = (int)OK(open(self, O_RDONLY | O_CLOEXEC));
	pid_t pid = fork();

	if (pid == 0) {
		(void)fexecve(fd, argv, environ);
		_exit(99);
	}
	EXITS(mind(pid), 44);
}

static void c_execveat_dir(void)
{
	char *argv[] = {(char *)"script", (char *)"6", NULL};
	int dir;
	pid_t pid;

	(void)OK(mkdir("d", 0755));
	script("d/s", "#!/bin/sh\nexit $1\n");
	dir = (int)OK(open("d", O_PATH | O_DIRECTORY)); /* a script needs it in its own turn */
	pid = fork();
	if (pid == 0) {
		(void)execveat(dir, "s", argv, environ, 0);
		_exit(99);
	}
	EXITS(mind(pid), 6);
	pid = fork();
	if (pid == 0) {
		(void)fcntl(dir, F_SETFD, FD_CLOEXEC);
		(void)execveat(dir, "s", argv, environ, 0);
		_exit(errno == ENOENT ? 8 : 99); /* the interpreter could not open it */
	}
	EXITS(mind(pid), 8);
}

static void c_execveat_flags(void)
{
	char *argv[] = {(char *)"x", NULL};

	(void)OK(symlink(self, "link"));
	FAILS(execveat(AT_FDCWD, "link", argv, environ, AT_SYMLINK_NOFOLLOW), ELOOP);
	FAILS(execveat(AT_FDCWD, "link", argv, environ, 1), EINVAL);
	FAILS(execveat(1000000, "link", argv, environ, 0), EBADF);
	FAILS(execveat(AT_FDCWD, "", argv, environ, 0), ENOENT);
}

static void c_execlp(void)
{
	pid_t pid;

	(void)OK(mkdir("bin", 0755));
	(void)OK(symlink(self, "bin/program"));
	(void)setenv("PATH", here("bin"), 1);
	pid = fork();
	if (pid == 0) {
		(void)execlp("program", "program", "--role", "exit", "45", (char *)NULL);
		_exit(99);
	}
	EXITS(mind(pid), 45);
}

static void c_relative(void)
{
	pid_t pid;

	(void)OK(mkdir("d", 0755));
	(void)OK(symlink(self, "program"));
	pid = fork();
	if (pid == 0) {
		(void)OK(chdir("d"));
		(void)execl("../program", "p", "--role", "exit", "46", (char *)NULL);
		_exit(99);
	}
	EXITS(mind(pid), 46);
}

/* ---- threads ---- */

static void *exec_thread(void *arg)
{
	(void)become("mypid", arg, NULL);
	return NULL;
}

static void *wait_thread(void *arg)
{
	while (pause() < 0)
		;
	return arg;
}

static int r_mypid(int argc, char **argv)
{
	return argc > 0 && atoi(argv[0]) == getpid() && syscall(SYS_gettid) == getpid() ? 21 : 22;
}

/* A thread that is not the first executes: it is the process then, under the process's pid. */
static void c_thread_execs(void)
{
	pid_t pid = fork();

	if (pid == 0) {
		char text[16];
		pthread_t t;

		(void)snprintf(text, sizeof(text), "%d", getpid());
		(void)pthread_create(&t, NULL, wait_thread, NULL);
		(void)pthread_create(&t, NULL, exec_thread, text);
		(void)wait_thread(NULL);
	}
	EXITS(mind(pid), 21);
}

static void c_leader_execs(void)
{
	pid_t pid = fork();

	if (pid == 0) {
		char text[16];
		pthread_t t;

		(void)snprintf(text, sizeof(text), "%d", getpid());
		(void)pthread_create(&t, NULL, wait_thread, NULL);
		(void)pthread_create(&t, NULL, wait_thread, NULL);
		(void)become("mypid", text, NULL);
		_exit(99);
	}
	EXITS(mind(pid), 21);
}

static void *spawn_thread(void *arg)
{
	char *argv[] = {self, (char *)"--role", (char *)"exit", (char *)arg, NULL};
	int status;
	pid_t pid;

	EQ(posix_spawn(&pid, self, NULL, NULL, argv, environ), 0);
	EQ(waitpid(pid, &status, 0), pid);
	EQ(status, atoi(arg) << 8);
	return NULL;
}

static void c_threads_spawn(void)
{
	static char codes[4][4] = {"11", "12", "13", "14"};
	pthread_t t[4];

	for (unsigned i = 0; i < 4; i++)
		EQ(pthread_create(&t[i], NULL, spawn_thread, codes[i]), 0);
	for (unsigned i = 0; i < 4; i++)
		EQ(pthread_join(t[i], NULL), 0);
}

/* ---- scripts ---- */

static void c_script(void)
{
	char *argv[] = {(char *)"zero", (char *)"one", (char *)"two words", NULL};

	script("s",
	       "#!/bin/sh\n[ \"$0\" = ./s ] && [ \"$1\" = one ] && [ \"$2\" = 'two words' ] && "
	       "[ $# = 2 ] && exit 23\n");
	EXITS(spawn_argv("./s", argv), 23);
}

static int r_args(int argc, char **argv)
{
	for (int i = 0; i < argc; i++)
		(void)dprintf(1, "[%s]", argv[i]);
	return 0;
}

static const char *output_of(const char *command)
{
	static char text[8192];
	FILE *f = popen(command, "re");
	size_t n;

	CHECK(f != NULL, "popen: %s", strerror(errno));
	n = fread(text, 1, sizeof(text) - 1, f);
	text[n] = '\0';
	EQ(pclose(f), 0);
	return text;
}

/* What follows the interpreter is one argument, blanks and all; then the script, then the rest. */
static void c_script_argument(void)
{
	const char *got;

	script("s", "#!./interpreter  --role args \n");
	script("interpreter.sh", "");
	(void)OK(symlink(self, "interpreter"));
	script("t", "#!/bin/echo one  two \n");
	got = output_of("./t three 'four five'");
	CHECK(strcmp(got, "one  two ./t three four five\n") == 0, "it prints '%s'", got);
	/* "--role args" as one argument is no case */
	EQ(system("./s 2>/dev/null"), 1 << 8);
}

static void c_script_nested(void)
{
	char text[4500];

	script("a", "#!/bin/sh\nexit 31\n");
	(void)snprintf(text, sizeof(text), "#!%s\n", here("a"));
	script("b", text);
	(void)snprintf(text, sizeof(text), "#!%s\n", here("b"));
	script("c", text);
	EQ(system("./c"), 31 << 8);
}

static void c_script_loop(void)
{
	char text[4500], name[2] = "b";
	char *argv[] = {(char *)"x", NULL};

	script("a", "#!/bin/sh\n");
	for (char c = 'b'; c < 'j'; c++) {
		(void)snprintf(text, sizeof(text), "#!%s/%c\n", here("."), c - 1);
		name[0] = c;
		script(name, text);
	}
	FAILS(execve("i", argv, environ), ELOOP);
}

static void c_script_plain(void)
{
	pid_t pid;

	script("s", "exit 32\n");
	FAILS(execl("./s", "s", (char *)NULL), ENOEXEC);
	pid = fork();
	if (pid == 0) {
		(void)execlp("./s", "s", (char *)NULL); /* by /bin/sh then */
		_exit(99);
	}
	EXITS(mind(pid), 32);
	EQ(system("./s"), 32 << 8);
}

static void c_script_long(void)
{
	char text[300];
	char *argv[] = {(char *)"x", NULL};

	/* a first line that is longer than what the kernel reads of it */
	memset(text, 'a', sizeof(text));
	memcpy(text, "#!/", 3);
	text[298] = '\n';
	text[299] = '\0';
	script("s", text);
	FAILS(execve("./s", argv, environ), ENOEXEC);
}

/* A shell reads its script from a descriptor that what it executes shares. */
static int r_line(int argc, char **argv)
{
	(void)argc;
	(void)argv;
	answer("%s", asked());
	return 0;
}

static void c_script_stdin(void)
{
	char text[9000];

	(void)snprintf(text, sizeof(text),
		       "x=$('%s' --role line)\nthis is data\n'%s' --role line >out\nmore data\n"
		       "[ \"$x\" = 'this is data' ] && /bin/true && exit 33\n",
		       self, self);
	write_file("s", text);
	EQ(system("/bin/bash <s"), 33 << 8);
	CHECK(strcmp(read_file("out"), "more data\n") == 0, "'%s'", read_file("out"));
}

static void c_here_document(void)
{
	EQ(system("x=$(/bin/cat <<END\none\ntwo\nEND\n); [ \"$x\" = 'one\ntwo' ] && exit 34"),
	   34 << 8);
}

/* ---- arguments ---- */

static unsigned long hash(char *const *v)
{
	unsigned long h = 5381;

	for (; *v != NULL; v++)
		for (const char *p = *v;; p++) {
			h = h * 33 + (unsigned char)*p;
			if (*p == '\0')
				break;
		}
	return h;
}

static int r_hash(int argc, char **argv)
{
	(void)argc;
	answer("%lu %lu", hash(argv), hash(environ));
	return 0;
}

static void strings_arrive(char **argv, char **envp)
{
	char want[64], got[64];
	size_t n;
	int p[2];
	pid_t pid;

	(void)snprintf(want, sizeof(want), "%lu %lu\n", hash(argv + 3), hash(envp));
	make_pipe(p);
	pid = fork();
	if (pid == 0) {
		(void)dup2(p[1], 1);
		(void)execve(self, argv, envp);
		_exit(99);
	}
	(void)close(p[1]);
	n = read_up_to(p[0], got, sizeof(got) - 1);
	got[n] = '\0';
	EXITS(mind(pid), 0);
	CHECK(strcmp(got, want) == 0, "hashes %s, not %s", got, want);
	(void)close(p[0]);
}

static char **many(unsigned n, size_t each, const char *prefix, unsigned first)
{
	char **v = calloc(n + 4, sizeof(*v));

	for (unsigned i = 0; i < n; i++) {
		v[first + i] = malloc(each + 1);
		memset(v[first + i], 'a' + (int)(i % 26), each);
		v[first + i][each] = '\0';
		(void)snprintf(v[first + i], each + 1, "%s%u=", prefix, i);
		v[first + i][strlen(v[first + i])] = 'x';
	}
	if (first == 3) {
		v[0] = self;
		v[1] = (char *)"--role";
		v[2] = (char *)"hash";
	}
	return v;
}

static void c_args_odd(void)
{
	char *argv[] = {self,
			(char *)"--role",
			(char *)"hash",
			(char *)"",
			(char *)"\n",
			(char *)" a  b ",
			(char *)"\377\1\t",
			(char *)"-",
			(char *)"$HOME",
			NULL};
	char *envp[] = {(char *)"",    (char *)"=",   (char *)"no equals",
			(char *)"A=1", (char *)"A=2", (char *)"B=\n",
			NULL};
	char *none[] = {NULL};

	strings_arrive(argv, envp);
	strings_arrive(argv, none);
}

static void c_args_many(void)
{
	strings_arrive(many(20000, 20, "", 3), environ);
}

static void c_args_megabyte(void)
{
	strings_arrive(many(10, 100000, "", 3), environ);
}

static void c_args_longest(void)
{
	strings_arrive(many(1, 131071, "", 3), environ); /* MAX_ARG_STRLEN with its end */
	FAILS(execve(self, many(1, 131072, "", 3), environ), E2BIG);
}

static void c_env_megabyte(void)
{
	strings_arrive(many(0, 0, "", 3), many(100, 10000, "V", 0));
}

static void c_args_too_big(void)
{
	/* a quarter of the stack limit, 2 MiB of 8, and at most 6 MiB */
	const struct rlimit stack = {1 << 20, 1 << 20};

	(void)OK(setrlimit(RLIMIT_STACK, &stack));
	FAILS(execve(self, many(3, 100000, "", 3), environ), E2BIG);
	EXITS(spawn("exit", "1", NULL), 1);
}

static void c_args_none(void)
{
	char *none[] = {NULL};
	pid_t pid = fork();

	if (pid == 0) {
		/* argv is at least "" since Linux 5.18: no case "" then, and 1 */
		(void)close(2);
		(void)execve(self, none, environ);
		_exit(99);
	}
	EXITS(mind(pid), 1);
	pid = fork();
	if (pid == 0) {
		(void)close(2);
		(void)syscall(SYS_execve, self, NULL, NULL);
		_exit(99);
	}
	EXITS(mind(pid), 1);
}

const struct sub subs[] = {{"fork", c_fork},
			   {"vfork", c_vfork},
			   {"vfork_fails", c_vfork_fails},
			   {"spawn", c_spawn},
			   {"spawn_fails", c_spawn_fails},
			   {"spawn_attr", c_spawn_attr},
			   {"spawn_actions", c_spawn_actions},
			   {"spawnp", c_spawnp},
			   {"system", c_system},
			   {"popen_read", c_popen_read},
			   {"popen_write", c_popen_write},
			   {"chain", c_chain},
			   {"nest", c_nest},
			   {"fexecve", c_fexecve},
			   {"execveat_dir", c_execveat_dir},
			   {"execveat_flags", c_execveat_flags},
			   {"execlp", c_execlp},
			   {"relative", c_relative},
			   {"thread_execs", c_thread_execs},
			   {"leader_execs", c_leader_execs},
			   {"threads_spawn", c_threads_spawn},
			   {"script", c_script},
			   {"script_argument", c_script_argument},
			   {"script_nested", c_script_nested},
			   {"script_loop", c_script_loop},
			   {"script_plain", c_script_plain},
			   {"script_long", c_script_long},
			   {"script_stdin", c_script_stdin},
			   {"here_document", c_here_document},
			   {"args_odd", c_args_odd},
			   {"args_many", c_args_many},
			   {"args_megabyte", c_args_megabyte},
			   {"args_longest", c_args_longest},
			   {"args_too_big", c_args_too_big},
			   {"args_none", c_args_none},
			   {"env_megabyte", c_env_megabyte},
			   {NULL, NULL}};
const struct role roles[] = {{"attr", r_show_attr}, {"again", r_again}, {"nest", r_nest},
			     {"mypid", r_mypid},    {"args", r_args},	{"hash", r_hash},
			     {"line", r_line},	    {NULL, NULL}};
