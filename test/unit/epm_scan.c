/* Who else holds a descriptor, while processes fork, end and move it from one number to another. */
#include "krginit.h"
#include "tap.h"
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/wait.h>

#define ASKED 400

static atomic_bool *over; /* shared with all of them */

static u64 shared(int fd, bool pipe)
{
	struct init_shared req = {.pid = getpid(), .nfds = 1, .pipes = pipe, .fds = {fd}};

	return scan_shared(&req);
}

static pid_t start(void (*role)(int fd), int fd)
{
	pid_t pid = fork();

	if (pid != 0)
		return pid;
	role(fd);
	_exit(0);
}

static void sleeps(int fd)
{
	(void)fd;
	while (!atomic_load(over))
		(void)usleep(1000);
}

static void opens_again(int fd)
{
	char path[40];

	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	(void)open(path, O_WRONLY);
	(void)close(fd);
	sleeps(fd);
}

/* One of a chain has it at any time: each gives it to its child, and ends. */
static void hands_on(int fd)
{
	(void)fd;
	while (!atomic_load(over)) {
		pid_t pid = fork();

		if (pid > 0)
			_exit(0);
	}
}

/* As a shell does around a redirection, and at no regular time. */
static void moves(int fd)
{
	while (!atomic_load(over)) {
		int to = 100 + rand() % 100;

		(void)dup2(fd, to);
		(void)close(fd);
		(void)usleep((useconds_t)(rand() % 100));
		(void)dup2(to, fd);
		(void)close(to);
		(void)usleep((useconds_t)(rand() % 100));
	}
}

static unsigned times_shared(int fd)
{
	unsigned n = 0;

	for (int i = 0; i < ASKED; i++)
		n += shared(fd, true) == 1;
	return n;
}

static void with_role(void (*role)(int fd), int fd, const char *what)
{
	atomic_store(over, false);
	ASSERT(start(role, fd) > 0);
	tap_eq(times_shared(fd), ASKED, "%s", what);
	atomic_store(over, true);
	while (wait(NULL) > 0 || errno == EINTR)
		;
	tap_eq(shared(fd, true), 0, "%s: it has ended, and nobody has it", what);
}

static int test(void)
{
	int p[2], null = open("/dev/null", O_RDONLY);
	pid_t pid;

	/* what the one who started us has counts, too */
	ASSERT(pipe(p) == 0 && null >= 0);
	tap_eq(shared(p[1], true), 0, "a pipe of one process");
	tap_eq(shared(null, false), 0, "a file of one process");
	atomic_store(over, false);
	pid = start(opens_again, p[1]);
	while (shared(p[1], false) == 1)
		(void)sched_yield(); /* until it has closed the one that it was given */
	tap_eq(shared(p[1], true), 1, "the same end by another description");
	atomic_store(over, true);
	tap_eq(waitpid(pid, NULL, 0), pid, "it ends");
	with_role(sleeps, p[1], "a child");
	with_role(moves, p[1], "one that moves it to other numbers");
	with_role(hands_on, p[1], "a chain of children that end at once");
	return tap_done();
}

/* A world of its own, with this as pid 1: orphans are its children. */
int main(void)
{
	int status;
	pid_t pid;

	over = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT(over != MAP_FAILED);
	if (unshare(CLONE_NEWPID | CLONE_NEWNS) < 0)
		return tap_skip_all("needs root");
	pid = fork();
	if (pid == 0) {
		if (mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
		    mount("proc", "/proc", "proc", 0, NULL) < 0)
			_exit(tap_skip_all("no /proc of its own"));
		_exit(test());
	}
	/* no more processes can be made here, which a leak checker would do at exit(3) */
	_exit(waitpid(pid, &status, 0) == pid && WIFEXITED(status) ? WEXITSTATUS(status) : 1);
}
