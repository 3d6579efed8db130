/* epm_fail.c - an exec that fails gives its errno, wherever it would have gone, and harms nobody. */
#include "epm.h"
#include <sys/mman.h>
#include <sys/resource.h>

extern char **environ;

static volatile sig_atomic_t usr1;

static void on_usr1(int s)
{
	(void)s;
	usr1++;
}

static void file_make(const char *name, const char *text, size_t n, mode_t mode)
{
	int fd = open(in_work(name), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0755);

	ASSERT(fd >= 0);
	ASSERT(write(fd, text, n) == (ssize_t)n);
	(void)close(fd);
	(void)chmod(in_work(name), mode);
}

/* the errno of an exec that must fail, in this very process */
static int try_exec(const char *path, char **argv, char **envp, bool here)
{
	if (here)
		(void)exec_here(path, argv, envp);
	else
		(void)execve(path, argv, envp);
	return errno;
}

struct whole {
	u64 mask;
	u64 memory;
	int cloexec, plain;
	off_t at;
	char comm[16];
	char cwd[256];
};

static char memory[1 << 16];
static int fd_cloexec, fd_plain;

static void look(struct whole *w)
{
	memset(w, 0, sizeof(*w));
	(void)syscall(SYS_rt_sigprocmask, SIG_BLOCK, NULL, &w->mask, 8);
	for (size_t i = 0; i < sizeof(memory); i++)
		w->memory = w->memory * 31 + (u8)memory[i];
	w->cloexec = fcntl(fd_cloexec, F_GETFD);
	w->plain = fcntl(fd_plain, F_GETFD);
	w->at = lseek(fd_plain, 0, SEEK_CUR);
	(void)prctl(PR_GET_NAME, w->comm);
	(void)!getcwd(w->cwd, sizeof(w->cwd));
}

static void one(const char *what, const char *path, char **argv, char **envp, int want)
{
	struct whole before, after;
	int here, there;

	look(&before);
	here = try_exec(path, argv, envp, true);
	there = try_exec(path, argv, envp, false);
	look(&after);
	if (want != 0)
		tap_eq(here, want, "%s: the kernel says %s", what, strerror(want));
	tap_eq(there, here, "%s: so does the exec that would go: %s", what, strerror(there));
	tap_ok(memcmp(&before, &after, sizeof(before)) == 0, "%s: the caller is as it was", what);
	usr1 = 0;
	(void)raise(SIGUSR1);
	if (usr1 != 1)
		tap_ok(false, "%s: its handler", what);
}

static void the_cases(void)
{
	char *argv[] = {(char *)"x", NULL}, *big[70];
	char *huge = malloc(140001), *many = malloc(120001);
	char long_path[5000], elf[64] = "\177ELF\2\1\1";
	int busy;

	one("no such file", "/no/such/file", argv, environ, ENOENT);
	one("an empty path", "", argv, environ, ENOENT);
	one("a path below a file", "/etc/passwd/x", argv, environ, ENOTDIR);
	one("a directory", "/tmp", argv, environ, EACCES);
	file_make("not-executable", "#!/bin/sh\n", 10, 0644);
	one("not executable", in_work("not-executable"), argv, environ, EACCES);
	file_make("text", "just text\n", 10, 0755);
	one("text", in_work("text"), argv, environ, ENOEXEC);
	file_make("empty", "", 0, 0755);
	one("an empty file", in_work("empty"), argv, environ, ENOEXEC);
	file_make("half-elf", elf, sizeof(elf), 0755);
	one("half an ELF file", in_work("half-elf"), argv, environ, 0);
	file_make("lost", "#!/no/such/interpreter\n", 23, 0755);
	one("a missing interpreter", in_work("lost"), argv, environ, ENOENT);
	file_make("to-text", "#!", 2, 0755);
	file_make("bad", "#!/etc/passwd\n", 14, 0755);
	one("an interpreter that is not executable", in_work("bad"), argv, environ, EACCES);
	(void)symlink("loop", in_work("loop"));
	one("a loop of links", in_work("loop"), argv, environ, ELOOP);
	memset(long_path, 'a', sizeof(long_path) - 1);
	long_path[0] = '/';
	long_path[sizeof(long_path) - 1] = '\0';
	one("a long path", long_path, argv, environ, ENAMETOOLONG);
	one("a bad path", (const char *)8, argv, environ, EFAULT);
	one("bad arguments", "/bin/true", (char **)8, environ, EFAULT);
	one("a bad environment", "/bin/true", argv, (char **)8, EFAULT);
	memset(huge, 'x', 140000);
	huge[140000] = '\0';
	big[0] = huge;
	big[1] = NULL;
	one("one long argument", "/bin/true", big, environ, E2BIG);
	memset(many, 'x', 120000);
	many[120000] = '\0';
	for (int i = 0; i < 69; i++)
		big[i] = many;
	big[69] = NULL;
	one("8 MB of arguments", "/bin/true", big, environ, E2BIG);
	file_make("busy", "#!/bin/sh\n", 10, 0755);
	busy = open(in_work("busy"), O_WRONLY | O_CLOEXEC);
	/* from Linux 6.11 to 6.12 a file that is written may be executed */
	one("a file that is being written", in_work("busy"), argv, environ, 0);
	(void)close(busy);
	free(huge);
	free(many);
}

/* As a user, with a file of root's; and too many processes. */
static void as_user(void)
{
	char *argv[] = {(char *)"x", NULL};
	pid_t pid;

	file_make("root-only", "#!/bin/sh\n", 10, 0700);
	(void)mkdir(in_work("closed"), 0755);
	file_make("closed/x", "#!/bin/sh\n", 10, 0755);
	(void)chmod(in_work("closed"), 0700);
	if (geteuid() != 0)
		return;
	pid = fork();
	if (pid == 0) {
		ASSERT(setresuid(2001, 2001, 2001) == 0);
		_exit(try_exec(in_work("root-only"), argv, environ, false) == EACCES &&
				      try_exec(in_work("closed/x"), argv, environ, false) == EACCES
			      ? 0
			      : 1);
	}
	tap_eq(wait_ms(pid, 10000), 0, "another user's files: EACCES");
}

static void in_vfork(void)
{
	char *argv[] = {(char *)"x", NULL};
	volatile int code = 0;
	pid_t pid = vfork();

	if (pid == 0) {
		(void)execve(in_work("text"), argv, environ);
		code = errno;
		_exit(12);
	}
	tap_eq(wait_ms(pid, 10000), 12 << 8, "in vfork: the child goes on");
	tap_eq(code, ENOEXEC, "in vfork: its errno");
}

/* execvp tries one directory after another, and a shell for text */
static void along_path(void)
{
	pid_t pid = fork();

	if (pid == 0) {
		(void)setenv("PATH", "/no/such:/proc:/etc:/bin:/usr/bin", 1);
		(void)execlp("sh", "sh", "-c", "exit 21", (char *)NULL);
		_exit(90);
	}
	tap_eq(wait_ms(pid, 10000), 21 << 8, "execlp finds it at last");
}

int main(void)
{
	struct sigaction act = {.sa_handler = on_usr1};

	test_init("fail", 60);
	(void)sigaction(SIGUSR1, &act, NULL);
	(void)signal(SIGINT, SIG_IGN);
	for (size_t i = 0; i < sizeof(memory); i++)
		memory[i] = (char)(i * 7);
	fd_cloexec = open("/dev/null", O_RDONLY | O_CLOEXEC);
	file_make("data", "0123456789", 10, 0644);
	fd_plain = open(in_work("data"), O_RDONLY);
	(void)lseek(fd_plain, 4, SEEK_SET);
	the_cases();
	as_user();
	in_vfork();
	along_path();
	(void)chmod(in_work("closed"), 0755);
	test_fini();
	return tap_done();
}
