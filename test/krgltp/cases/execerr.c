/* execerr.c - an exec that fails: the errno is exact, and the caller is unharmed. */
#include "case.h"
#include <pthread.h>
#include <sys/mman.h>

static char *args[] = {(char *)"x", NULL};

static void c_enoent(void)
{
	FAILS(execve("no such file", args, environ), ENOENT);
	FAILS(execve("", args, environ), ENOENT);
	FAILS(execve("no/such/folder/file", args, environ), ENOENT);
	(void)OK(symlink("nowhere", "dangling"));
	FAILS(execve("dangling", args, environ), ENOENT);
}

static void c_enoent_interpreter(void)
{
	script("s", "#!/no/such/interpreter\n");
	FAILS(execve("./s", args, environ), ENOENT);
}

static void c_eacces_mode(void)
{
	write_file("f", "#!/bin/sh\n");
	(void)OK(chmod("f", 0644));
	FAILS(execve("./f", args, environ), EACCES);
	(void)OK(chmod("f", 0));
	FAILS(execve("./f", args, environ), EACCES);
}

static void c_eacces_directory(void)
{
	(void)OK(mkdir("d", 0755));
	FAILS(execve("d", args, environ), EACCES);
	FAILS(execve("/", args, environ), EACCES);
	script("s", "#!/tmp\n");
	FAILS(execve("./s", args, environ), EACCES);
}

static void c_eacces_special(void)
{
	FAILS(execve("/dev/null", args, environ), EACCES);
	(void)OK(mkfifo("fifo", 0777));
	FAILS(execve("fifo", args, environ), EACCES);
}

static void c_eacces_search(void)
{
	need_root();
	(void)OK(mkdir("d", 0700));
	script("d/s", "#!/bin/sh\nexit 0\n");
	script("s", "#!/bin/sh\nexit 0\n");
	(void)OK(chmod("s", 0700));
	(void)OK(setresuid(2001, 2001, 2001));
	FAILS(execve("d/s", args, environ), EACCES);
	FAILS(execve("s", args, environ), EACCES);
}

static void c_enoexec(void)
{
	int fd;

	script("empty", "");
	FAILS(execve("./empty", args, environ), ENOEXEC);
	script("text", "hello\n");
	FAILS(execve("./text", args, environ), ENOEXEC);
	script("elf", "\177ELF");
	FAILS(execve("./elf", args, environ), ENOEXEC);
	script("bare", "#!\n");
	FAILS(execve("./bare", args, environ), ENOEXEC);
	/* an ELF file whose header says another machine */
	fd = (int)OK(open("machine", O_RDWR | O_CREAT | O_CLOEXEC, 0755));
	write_all(fd, read_file(self), 4096);
	(void)OK(pwrite(fd, "\377\377", 2, 18));
	(void)close(fd);
	FAILS(execve("./machine", args, environ), ENOEXEC);
}

static void c_eloop(void)
{
	(void)OK(symlink("b", "a"));
	(void)OK(symlink("a", "b"));
	FAILS(execve("a", args, environ), ELOOP);
}

static void c_enametoolong(void)
{
	static char name[5000];

	memset(name, 'n', 256);
	FAILS(execve(name, args, environ), ENAMETOOLONG);
	for (unsigned i = 0; i < 4998; i += 2)
		memcpy(name + i, "./", 2);
	FAILS(execve(name, args, environ), ENAMETOOLONG);
}

static void c_enotdir(void)
{
	write_file("f", "");
	FAILS(execve("f/x", args, environ), ENOTDIR);
	FAILS(execve("/bin/sh/", args, environ), ENOTDIR);
}

static void c_efault(void)
{
	char *hole = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *bad[] = {(char *)"x", hole, NULL};

	FAILS(syscall(SYS_execve, hole, args, environ), EFAULT);
	FAILS(syscall(SYS_execve, self, hole, environ), EFAULT);
	FAILS(syscall(SYS_execve, self, args, hole), EFAULT);
	FAILS(syscall(SYS_execve, self, bad, environ), EFAULT);
	FAILS(syscall(SYS_execve, self, args, bad), EFAULT);
}

static void c_etxtbsy(void)
{
	int fd, in = (int)OK(open(self, O_RDONLY | O_CLOEXEC));
	static char buf[65536];
	ssize_t n;

	fd = (int)OK(open("program", O_WRONLY | O_CREAT | O_CLOEXEC, 0755));
	while ((n = read(in, buf, sizeof(buf))) > 0)
		write_all(fd, buf, (size_t)n);
	FAILS(execve("./program", args, environ), ETXTBSY);
	(void)close(fd);
}

/* What runs cannot be opened for writing, wherever it runs. */
static void c_running_is_busy(void)
{
	char text[9000];
	int ready[2], stay[2];
	pid_t pid;
	char c;

	(void)snprintf(text, sizeof(text), "cp '%s' program", self);
	EQ(system(text), 0);
	make_pipe(ready);
	make_pipe(stay);
	pid = fork();
	if (pid == 0) {
		(void)dup2(stay[0], 0);
		(void)dup2(ready[1], 1);
		(void)execl("./program", "p", "--role", "hold", (char *)NULL);
		_exit(99);
	}
	(void)close(stay[0]);
	EQ(read_up_to(ready[0], &c, 1), 1);
	FAILS(open("program", O_WRONLY), ETXTBSY);
	(void)close(stay[1]);
	EXITS(mind(pid), 0);
	(void)OK(open("program", O_WRONLY));
}

/* A short text for all of it: signals, mask, descriptors, memory, directory. */
static volatile sig_atomic_t handled;
static void on_usr1(int s)
{
	(void)s;
	handled++;
}

static void c_unharmed(void)
{
	int fd = (int)OK(open("/dev/null", O_RDONLY | O_CLOEXEC));
	char *mem = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	char comm[20] = "";
	sigset_t set, now;

	strcpy(mem, "kept");
	(void)signal(SIGUSR1, on_usr1);
	(void)sigemptyset(&set);
	(void)sigaddset(&set, SIGUSR2);
	(void)sigprocmask(SIG_BLOCK, &set, NULL);
	(void)prctl(PR_SET_NAME, "unharmed");
	script("bad", "#!/no/such/interpreter\n");
	for (int i = 0; i < 5; i++) {
		FAILS(execve("./bad", args, environ), ENOENT);
		FAILS(execve(".", args, environ), EACCES);
	}
	EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
	CHECK(strcmp(mem, "kept") == 0, "memory");
	(void)raise(SIGUSR1);
	EQ(handled, 1);
	(void)sigprocmask(SIG_BLOCK, NULL, &now);
	EQ(sigismember(&now, SIGUSR2), 1);
	EQ(sigismember(&now, SIGTERM), 0);
	(void)prctl(PR_GET_NAME, comm);
	CHECK(strcmp(comm, "unharmed") == 0, "name '%s'", comm);
	EXITS(spawn("exit", "3", NULL), 3);
}

static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
static void *other(void *arg)
{
	(void)pthread_mutex_lock(&gate);
	(void)pthread_mutex_unlock(&gate);
	return arg;
}

static void c_threads_unharmed(void)
{
	void *ret = NULL;
	pthread_t t;

	(void)pthread_mutex_lock(&gate);
	EQ(pthread_create(&t, NULL, other, &gate), 0);
	FAILS(execve("no such file", args, environ), ENOENT);
	FAILS(execve(".", args, environ), EACCES);
	(void)pthread_mutex_unlock(&gate);
	EQ(pthread_join(t, &ret), 0);
	EQ(ret == &gate, true);
}

static int r_fails(int argc, char **argv)
{
	(void)argc;
	(void)argv;
	FAILS(execve("no such file", args, environ), ENOENT);
	FAILS(execve("/", args, environ), EACCES);
	FAILS(execve("/etc/passwd", args, environ), EACCES);
	(void)become("exit", "51", NULL);
	return 99;
}

/* In a program that was executed itself, then one that succeeds. */
static void c_then_succeeds(void)
{
	EXITS(spawn("fails", NULL), 51);
}

static void be_user(void *arg)
{
	(void)arg;
	(void)OK(setresuid(own_uid(), own_uid(), own_uid()));
}

/* A user over the limit: fork fails, and so does an exec after the change to that user. */
static void c_nproc(void)
{
	const struct rlimit none = {0, 0};
	struct chat c;
	pid_t pid;

	need_root();
	c = chat_with(be_user, NULL, "hold", NULL);
	expect_line(&c, "ready");
	pid = fork();
	if (pid == 0) {
		(void)OK(setrlimit(RLIMIT_NPROC, &none));
		be_user(NULL);
		FAILS(fork(), EAGAIN);
		FAILS(execve(self, args, environ), EAGAIN);
		_exit(0);
	}
	EXITS(mind(pid), 0);
	BYE(&c);
}

/* ---- set-user-id ---- */

static int r_ids(int argc, char **argv)
{
	uid_t r, e, s;
	gid_t gr, ge, gs;

	(void)argc;
	(void)argv;
	(void)getresuid(&r, &e, &s);
	(void)getresgid(&gr, &ge, &gs);
	answer("%u %u %u %u %u %u", r, e, s, gr, ge, gs);
	return 0;
}

static const char *set_id_output(mode_t mode, bool nnp)
{
	static char got[100];
	char text[9000];
	int p[2];
	pid_t pid;

	need_root();
	(void)snprintf(text, sizeof(text), "cp '%s' suid", self);
	EQ(system(text), 0);
	(void)OK(chown("suid", 3001, 3002));
	(void)OK(chmod("suid", mode));
	make_pipe(p);
	pid = fork();
	if (pid == 0) {
		(void)dup2(p[1], 1);
		if (nnp)
			(void)prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
		(void)OK(setresgid(2002, 2002, 2002));
		(void)OK(setresuid(2001, 2001, 2001));
		(void)execl("./suid", "suid", "--role", "ids", (char *)NULL);
		_exit(99);
	}
	(void)close(p[1]);
	got[read_up_to(p[0], got, sizeof(got) - 1)] = '\0';
	EXITS(mind(pid), 0);
	return got;
}

static void set_id_is(const char *got, const char *want)
{
	CHECK(strcmp(got, want) == 0, "ids %s, not %s", got, want);
}

static void c_setuid(void)
{
	set_id_is(set_id_output(04755, false), "2001 3001 3001 2002 2002 2002\n");
}

static void c_setgid(void)
{
	set_id_is(set_id_output(02755, false), "2001 2001 2001 2002 3002 3002\n");
}

static void c_setuid_nnp(void)
{
	set_id_is(set_id_output(06755, true), "2001 2001 2001 2002 2002 2002\n");
}

const struct sub subs[] = {{"enoent", c_enoent},
			   {"enoent_interpreter", c_enoent_interpreter},
			   {"eacces_mode", c_eacces_mode},
			   {"eacces_directory", c_eacces_directory},
			   {"eacces_special", c_eacces_special},
			   {"eacces_search", c_eacces_search},
			   {"enoexec", c_enoexec},
			   {"eloop", c_eloop},
			   {"enametoolong", c_enametoolong},
			   {"enotdir", c_enotdir},
			   {"efault", c_efault},
			   {"etxtbsy", c_etxtbsy},
			   {"running_is_busy", c_running_is_busy},
			   {"unharmed", c_unharmed},
			   {"threads_unharmed", c_threads_unharmed},
			   {"then_succeeds", c_then_succeeds},
			   {"nproc", c_nproc},
			   {"setuid", c_setuid},
			   {"setgid", c_setgid},
			   {"setuid_nnp", c_setuid_nnp},
			   {NULL, NULL}};
const struct role roles[] = {{"fails", r_fails}, {"ids", r_ids}, {NULL, NULL}};
