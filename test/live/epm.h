/* epm.h - helpers of the live tests of processes: programs that check themselves under `krg run`.
 *
 * They run in a lab whose nodes place each exec on another node (`--policy elsewhere`).  What a
 * program sees there is compared with what it sees when its exec is kept here (exec_here()).
 * KRG_TEST_SLOW=N: so many times as long until the test is given up (an emulated machine).
 * KRG_NATIVE=1: no cluster; nothing is expected to move (checks the tests themselves).
 */
#ifndef KRG_TEST_LIVE_EPM_H
#define KRG_TEST_LIVE_EPM_H
#include "tap.h"
#include "world_proto.h"
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#define UNUSED __attribute__((unused))

/* This program, and where it keeps files: the same on all nodes. */
static char self_path[4096], work_dir[256];

UNUSED static bool expect_moves(void)
{
	return getenv("KRG_NATIVE") == NULL;
}

UNUSED static u64 now_ms(void)
{
	struct timespec ts;

	(void)clock_gettime(CLOCK_MONOTONIC, &ts);
	return (u64)ts.tv_sec * 1000 + (u64)ts.tv_nsec / 1000000;
}

/* Each node's world has its own pid namespace: its number says where we are. */
UNUSED static u64 where(void)
{
	struct stat st;

	return stat("/proc/self/ns/pid", &st) == 0 ? st.st_ino : 0;
}

/* execve that stays: placement passes by what has the mark of krgd's own processes. */
UNUSED static int exec_here(const char *path, char *const argv[], char *const envp[])
{
	return (int)syscall(SYS_execve, path, argv, envp, 0, 0, EXEC_MAGIC);
}

/* wait(2) status of pid, or -1 when it has not ended after ms (then it is killed). */
UNUSED static int wait_ms(pid_t pid, u64 ms)
{
	u64 end = now_ms() + ms;
	int status, pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	struct pollfd p = {.fd = pidfd, .events = POLLIN};

	while (now_ms() < end && poll(&p, 1, 50) <= 0)
		; /* or a signal came */
	if (pidfd >= 0)
		(void)close(pidfd);
	/* a pidfd can tell of its end before a tracer has let it go to its parent */
	for (;;) {
		pid_t got = waitpid(pid, &status, WNOHANG);

		if (got != 0)
			return got == pid ? status : -1;
		if (now_ms() < end) {
			(void)poll(NULL, 0, 1);
			continue;
		}
		(void)kill(pid, SIGKILL);
		(void)waitpid(pid, &status, 0);
		return -1;
	}
}

/* Whole small file; a static buffer per call site would not do, so the caller's. */
UNUSED static ssize_t slurp(const char *path, char *buf, size_t max)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	size_t n = 0;
	ssize_t r;

	if (fd < 0)
		return -1;
	while (n < max - 1 && (r = read(fd, buf + n, max - 1 - n)) > 0)
		n += (size_t)r;
	(void)close(fd);
	buf[n] = '\0';
	return (ssize_t)n;
}

/* Until the condition holds, at most ms; it is evaluated no more once it held. */
#define WAIT_UNTIL(cond, ms)                                                                       \
	({                                                                                         \
		u64 end_ = now_ms() + (ms);                                                        \
		bool held_;                                                                        \
		while (!(held_ = (cond)) && now_ms() < end_)                                       \
			(void)poll(NULL, 0, 5);                                                    \
		held_;                                                                             \
	})

UNUSED static void test_init(const char *name, unsigned deadline_s)
{
	ssize_t n = readlink("/proc/self/exe", self_path, sizeof(self_path) - 1);

	ASSERT(n > 0);
	self_path[n] = '\0';
	(void)snprintf(work_dir, sizeof(work_dir), "%s/krg-%s-XXXXXX",
		       getenv("TMPDIR") != NULL ? getenv("TMPDIR") : "/tmp", name);
	if (mkdtemp(work_dir) == NULL)
		perror(work_dir);
	(void)chmod(work_dir, 0777);
	(void)setvbuf(stdout, NULL, _IOLBF, 0);
	if (getenv("KRG_TEST_SLOW") != NULL)
		deadline_s *= (unsigned)strtoul(getenv("KRG_TEST_SLOW"), NULL, 10);
	(void)alarm(deadline_s);
	if (geteuid() == 0)
		return;
	printf("# not root: some checks are left out\n");
}

UNUSED static void test_fini(void)
{
	char cmd[400];

	(void)snprintf(cmd, sizeof(cmd), "rm -rf '%s'", work_dir);
	if (system(cmd) != 0)
		printf("# %s is left\n", work_dir);
}

UNUSED static const char *in_work(const char *name)
{
	static char path[8][400];
	static unsigned next;
	char *p = path[next++ % 8];

	(void)snprintf(p, sizeof(path[0]), "%s/%s", work_dir, name);
	return p;
}
#endif
