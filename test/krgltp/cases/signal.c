/* signal.c - signals between processes that are anywhere. */
#include "case.h"
#include <poll.h>
#include <pthread.h>
#include <time.h>

static char *number(long n)
{
	static char text[16][24];
	static unsigned next;
	char *t = text[next++ % NELEM(text)];

	(void)snprintf(t, sizeof(text[0]), "%ld", n);
	return t;
}

/* ---- a child that says what it gets ---- */

/* Takes N signals of any kind, and says of each: signo code pid uid value. */
static int r_takes(int argc, char **argv)
{
	int n = atoi(argv[0]);
	sigset_t set;

	(void)argc;
	(void)sigfillset(&set);
	(void)sigprocmask(SIG_BLOCK, &set, NULL);
	answer("ready");
	for (int i = 0; i < n; i++) {
		siginfo_t si;
		/* not glibc's, which makes SI_TKILL SI_USER */
		int sig = (int)OK(syscall(SYS_rt_sigtimedwait, &set, &si, NULL, 8));

		answer("%d %d %d %u %d", sig, si.si_code, si.si_pid, si.si_uid,
		       si.si_code == SI_QUEUE ? si.si_value.sival_int : 0);
	}
	(void)asked();
	return 0;
}

static struct chat taker(int n)
{
	struct chat c = chat_with(NULL, NULL, "takes", number(n), NULL);

	expect_line(&c, "ready");
	return c;
}

static void took(const struct chat *c, int sig, int code, int value)
{
	char want[64];

	(void)snprintf(want, sizeof(want), "%d %d %d %u %d", sig, code, getpid(), getuid(), value);
	expect_line(c, want);
}

static void c_each(void)
{
	struct chat c = taker(60);

	for (int s = 1; s <= SIGRTMAX; s++) {
		const char *got;
		int n;

		if (s == SIGKILL || s == SIGSTOP || s == 32 || s == 33)
			continue;
		(void)OK(kill(c.pid, s));
		got = hear(&c);
		n = atoi(got);
		EQ(n, s);
	}
	BYE(&c);
}

static void c_kill_info(void)
{
	struct chat c = taker(2);

	(void)OK(kill(c.pid, SIGUSR1));
	took(&c, SIGUSR1, SI_USER, 0);
	(void)OK(kill(c.pid, SIGRTMIN + 3));
	took(&c, SIGRTMIN + 3, SI_USER, 0);
	BYE(&c);
}

static void c_tgkill_info(void)
{
	struct chat c = taker(2);

	(void)OK(syscall(SYS_tgkill, c.pid, c.pid, SIGUSR1));
	took(&c, SIGUSR1, SI_TKILL, 0);
	(void)OK(syscall(SYS_tkill, c.pid, SIGUSR2));
	took(&c, SIGUSR2, SI_TKILL, 0);
	BYE(&c);
}

static void c_sigqueue(void)
{
	struct chat c = taker(3);

	for (int i = 1; i <= 3; i++) {
		(void)OK(sigqueue(c.pid, i == 2 ? SIGUSR1 : SIGRTMIN + 1,
				  (union sigval){.sival_int = i * 1000}));
		took(&c, i == 2 ? SIGUSR1 : SIGRTMIN + 1, SI_QUEUE, i * 1000);
	}
	BYE(&c);
}

static void c_pidfd(void)
{
	struct chat c = taker(1);
	int fd = (int)OK(syscall(SYS_pidfd_open, c.pid, 0));

	(void)OK(syscall(SYS_pidfd_send_signal, fd, 0, NULL, 0));
	(void)OK(syscall(SYS_pidfd_send_signal, fd, SIGUSR1, NULL, 0));
	took(&c, SIGUSR1, SI_USER, 0);
	FAILS(syscall(SYS_pidfd_send_signal, fd, 1000, NULL, 0), EINVAL);
	BYE(&c);
	FAILS(syscall(SYS_pidfd_send_signal, fd, SIGUSR1, NULL, 0), ESRCH);
}

/* Queued: each once and in order, by number; the others once.  The last to be sent is SIGRTMAX: the last in
 * order too, so all are there when it is. */
static int r_queue(int argc, char **argv)
{
	const struct timespec now = {0, 0};
	siginfo_t si;
	sigset_t set, last;
	int sig;

	(void)argc;
	(void)argv;
	(void)sigfillset(&set);
	(void)sigprocmask(SIG_BLOCK, &set, NULL);
	(void)sigemptyset(&last);
	(void)sigaddset(&last, SIGRTMAX);
	answer("ready");
	EQ(sigwaitinfo(&last, &si), SIGRTMAX);
	while ((sig = sigtimedwait(&set, &si, &now)) > 0)
		answer("%d %d", sig, sig >= SIGRTMIN ? si.si_value.sival_int : 0);
	answer("end");
	return 0;
}

static void c_queue_order(void)
{
	struct chat c = chat_with(NULL, NULL, "queue", NULL);
	char want[64];

	expect_line(&c, "ready");
	for (int i = 0; i < 10; i++) {
		(void)OK(sigqueue(c.pid, SIGRTMIN + 2, (union sigval){.sival_int = i}));
		(void)OK(sigqueue(c.pid, SIGRTMIN + 1, (union sigval){.sival_int = 100 + i}));
		(void)OK(kill(c.pid, SIGUSR1));
	}
	(void)OK(kill(c.pid, SIGRTMAX));
	(void)snprintf(want, sizeof(want), "%d 0", SIGUSR1);
	expect_line(&c, want);
	for (int i = 0; i < 20; i++) {
		(void)snprintf(want, sizeof(want), "%d %d", SIGRTMIN + (i < 10 ? 1 : 2),
			       i < 10 ? 100 + i : i - 10);
		expect_line(&c, want);
	}
	expect_line(&c, "end");
	BYE(&c);
}

/* Sent while it is on its way to its program: none is lost, none doubled. */
static void block_all(void *arg)
{
	sigset_t set;

	(void)arg;
	(void)sigfillset(&set);
	(void)sigprocmask(SIG_BLOCK, &set, NULL);
	answer("blocked");
}

static void c_during_exec(void)
{
	struct chat c = chat_with(block_all, NULL, "queue", NULL);
	char want[64];

	expect_line(&c, "blocked");
	for (int i = 0; i < 100; i++)
		(void)OK(sigqueue(c.pid, SIGRTMIN + 2, (union sigval){.sival_int = i}));
	expect_line(&c, "ready");
	(void)OK(kill(c.pid, SIGRTMAX));
	for (int i = 0; i < 100; i++) {
		(void)snprintf(want, sizeof(want), "%d %d", SIGRTMIN + 2, i);
		expect_line(&c, want);
	}
	expect_line(&c, "end");
	BYE(&c);
}

/* A signal that was sent is there before bytes that were written later. */
static int r_pending(int argc, char **argv)
{
	sigset_t set;

	(void)argc;
	(void)argv;
	(void)sigfillset(&set);
	(void)sigprocmask(SIG_BLOCK, &set, NULL);
	answer("ready");
	(void)asked();
	(void)sigpending(&set);
	answer("%d", sigismember(&set, SIGUSR1));
	(void)asked();
	return 0;
}

static void c_before_bytes(void)
{
	struct chat c = chat_with(NULL, NULL, "pending", NULL);

	expect_line(&c, "ready");
	(void)OK(kill(c.pid, SIGUSR1));
	tell(&c, "is it there?");
	expect_line(&c, "1");
	BYE(&c);
}

static void tell_blocked_not(void *arg)
{
	(void)arg;
	answer("going");
}

/* Killed while it is on its way. */
static void c_kill_during_exec(void)
{
	for (int i = 0; i < 5; i++) {
		struct chat c = chat_with(tell_blocked_not, NULL, "hold", NULL);

		expect_line(&c, "going");
		(void)OK(kill(c.pid, i % 2 == 0 ? SIGKILL : SIGTERM));
		DIES(c.pid, i % 2 == 0 ? SIGKILL : SIGTERM);
		while (hear(&c)[0] != '\0')
			;
		leave(&c);
	}
}

/* Stopped and continued at any moment of its way: it stops and goes on as it was told. */
static void c_stop_during_exec(void)
{
	int status;

	for (int i = 0; i < 12; i++) {
		struct chat c = chat_with(tell_blocked_not, NULL, "hold", NULL);

		expect_line(&c, "going");
		for (volatile int k = 0; k < i * 100000; k++)
			;
		(void)OK(kill(c.pid, SIGSTOP));
		EQ(waitpid(c.pid, &status, WUNTRACED), c.pid);
		EQ(status, SIGSTOP << 8 | 0x7f);
		(void)OK(kill(c.pid, SIGCONT));
		EQ(waitpid(c.pid, &status, WCONTINUED), c.pid);
		EQ(status, 0xffff);
		expect_line(&c, "ready");
		BYE(&c);
	}
}

/* The last word counts. */
static void c_stop_storm(void)
{
	int status;

	for (int i = 0; i < 8; i++) {
		struct chat c = chat_with(tell_blocked_not, NULL, "hold", NULL);
		bool stops = i % 2 == 0;

		expect_line(&c, "going");
		for (int k = 0; k < 10; k++) {
			(void)OK(kill(c.pid, SIGSTOP));
			for (volatile int n = 0; n < i * k * 1000; n++)
				;
			(void)OK(kill(c.pid, SIGCONT));
		}
		if (stops) {
			(void)OK(kill(c.pid, SIGSTOP));
			do
				EQ(waitpid(c.pid, &status, WUNTRACED), c.pid);
			while (status != (SIGSTOP << 8 | 0x7f));
			(void)OK(kill(c.pid, SIGCONT));
		}
		expect_line(&c, "ready");
		tell(&c, "still there?");
		BYE(&c);
	}
}

/* ---- the other way, and to oneself ---- */

static volatile sig_atomic_t count;
static siginfo_t info;
static void on_info(int s, siginfo_t *si, void *u)
{
	(void)s;
	(void)u;
	info = *si;
	count++;
}

static void catch_blocked(int sig, sigset_t *ret_old)
{
	struct sigaction a = {.sa_sigaction = on_info, .sa_flags = SA_SIGINFO};
	sigset_t set;

	(void)sigemptyset(&set);
	(void)sigaddset(&set, sig);
	(void)sigprocmask(SIG_BLOCK, &set, ret_old);
	(void)sigdelset(ret_old, sig);
	(void)sigaction(sig, &a, NULL);
}

static int r_kills_parent(int argc, char **argv)
{
	(void)argc;
	(void)OK(kill(getppid(), atoi(argv[0])));
	return 0;
}

static void c_to_parent(void)
{
	sigset_t old;
	pid_t pid;

	catch_blocked(SIGUSR1, &old);
	pid = spawn("kills_parent", number(SIGUSR1), NULL);
	while (count < 1)
		(void)sigsuspend(&old);
	EQ(info.si_signo, SIGUSR1);
	EQ(info.si_code, SI_USER);
	EQ(info.si_pid, pid);
	EQ(info.si_uid, getuid());
	EXITS(pid, 0);
	EQ(count, 1);
}

static int r_queues_parent(int argc, char **argv)
{
	(void)argc;
	(void)argv;
	for (int i = 0; i < 20; i++)
		(void)OK(sigqueue(getppid(), SIGRTMIN, (union sigval){.sival_int = i}));
	return 0;
}

static void c_queue_to_parent(void)
{
	sigset_t old, set;
	pid_t pid;

	catch_blocked(SIGRTMIN, &old);
	pid = spawn("queues_parent", NULL);
	(void)sigemptyset(&set);
	(void)sigaddset(&set, SIGRTMIN);
	for (int i = 0; i < 20; i++) {
		siginfo_t si;

		EQ(sigwaitinfo(&set, &si), SIGRTMIN);
		EQ(si.si_code, SI_QUEUE);
		EQ(si.si_value.sival_int, i);
		EQ(si.si_pid, pid);
	}
	EXITS(pid, 0);
}

static int r_ping(int argc, char **argv)
{
	int n = atoi(argv[0]);
	sigset_t set;

	(void)argc;
	(void)sigemptyset(&set);
	(void)sigaddset(&set, SIGUSR1);
	for (int i = 0; i < n; i++) {
		int sig;

		EQ(sigwait(&set, &sig), 0);
		(void)OK(kill(getppid(), SIGUSR2));
	}
	return 0;
}

static void c_ping_pong(void)
{
	sigset_t set;
	pid_t pid;

	(void)sigemptyset(&set);
	(void)sigaddset(&set, SIGUSR1);
	(void)sigaddset(&set, SIGUSR2);
	(void)sigprocmask(SIG_BLOCK, &set, NULL);
	(void)sigdelset(&set, SIGUSR1);
	pid = spawn("ping", "50", NULL);
	for (int i = 0; i < 50; i++) {
		int sig;

		(void)OK(kill(pid, SIGUSR1));
		EQ(sigwait(&set, &sig), 0);
		EQ(sig, SIGUSR2);
	}
	EXITS(pid, 0);
}

static int r_self(int argc, char **argv)
{
	sigset_t old;

	(void)argc;
	(void)argv;
	catch_blocked(SIGUSR1, &old);
	(void)OK(kill(getpid(), SIGUSR1));
	while (count < 1)
		(void)sigsuspend(&old);
	EQ(info.si_pid, getpid());
	EQ(info.si_code, SI_USER);
	(void)OK(raise(SIGUSR1));
	while (count < 2)
		(void)sigsuspend(&old);
	EQ(info.si_code, SI_TKILL);
	(void)OK(sigqueue(getpid(), SIGUSR1, (union sigval){.sival_int = 5}));
	while (count < 3)
		(void)sigsuspend(&old);
	EQ(info.si_value.sival_int, 5);
	EQ(kill(getpid(), 0), 0);
	return 0;
}

static void c_self(void)
{
	EXITS(spawn("self", NULL), 0);
}

/* Siblings, each elsewhere; neither is the other's parent. */
static int r_signals(int argc, char **argv)
{
	(void)argc;
	(void)OK(kill(atoi(argv[0]), atoi(argv[1])));
	return 0;
}

static void c_sibling(void)
{
	struct chat c = taker(1);
	pid_t pid = spawn("signals", number(c.pid), number(SIGUSR1), NULL);
	char want[64];

	(void)snprintf(want, sizeof(want), "%d %d %d %u 0", SIGUSR1, SI_USER, pid, getuid());
	expect_line(&c, want);
	EXITS(pid, 0);
	BYE(&c);
	c = chat_with(NULL, NULL, "hold", NULL);
	expect_line(&c, "ready");
	EXITS(spawn("signals", number(c.pid), number(SIGKILL), NULL), 0);
	DIES(c.pid, SIGKILL);
	leave(&c);
}

/* ---- errors and rights ---- */

static int r_errors(int argc, char **argv)
{
	pid_t gone = atoi(argv[0]);

	(void)argc;
	FAILS(kill(gone, 0), ESRCH);
	FAILS(kill(gone, SIGKILL), ESRCH);
	FAILS(kill(getpid(), 65), EINVAL);
	FAILS(kill(getppid(), -1), EINVAL);
	FAILS(kill(-gone, SIGTERM), ESRCH);
	FAILS(syscall(SYS_tgkill, 0, 1, 0), EINVAL);
	FAILS(syscall(SYS_tgkill, gone, gone, 0), ESRCH);
	FAILS(syscall(SYS_tgkill, getpid(), getppid(), 0), ESRCH);
	FAILS(syscall(SYS_tkill, 0, SIGTERM), EINVAL);
	FAILS(syscall(SYS_tkill, gone, SIGTERM), ESRCH);
	FAILS(sigqueue(gone, SIGUSR1, (union sigval){.sival_int = 0}), ESRCH);
	FAILS(sigqueue(getppid(), 65, (union sigval){.sival_int = 0}), EINVAL);
	FAILS(syscall(SYS_pidfd_open, gone, 0), ESRCH);
	EQ(kill(getppid(), 0), 0);
	return 0;
}

static void c_errors(void)
{
	pid_t gone = spawn("exit", "0", NULL);

	EXITS(gone, 0);
	EXITS(spawn("errors", number(gone), NULL), 0);
	FAILS(kill(gone, 0), ESRCH);
	FAILS(kill(getpid(), 65), EINVAL);
	FAILS(kill(-gone, 0), ESRCH);
}

static void be_user(void *arg)
{
	uid_t u = own_uid() + *(uid_t *)arg;

	(void)OK(setresgid(2002, 2002, 2002));
	(void)OK(setresuid(u, u, u));
}

static int r_forbidden(int argc, char **argv)
{
	pid_t pid = atoi(argv[0]);

	(void)argc;
	FAILS(kill(pid, 0), EPERM);
	FAILS(kill(pid, SIGTERM), EPERM);
	FAILS(syscall(SYS_tgkill, pid, pid, SIGTERM), EPERM);
	FAILS(sigqueue(pid, SIGTERM, (union sigval){.sival_int = 0}), EPERM);
	FAILS(kill(1, SIGTERM), EPERM);
	(void)OK(kill(pid, SIGCONT)); /* in one session it is allowed */
	return 0;
}

static void c_eperm(void)
{
	uid_t one = 0, two = 100;
	struct chat c;

	need_root();
	c = chat_with(be_user, &one, "hold", NULL);
	expect_line(&c, "ready");
	EXITS(spawn_with(be_user, &two, "forbidden", number(c.pid), NULL), 0);
	EXITS(spawn_with(be_user, &one, "signals", number(c.pid), number(SIGTERM), NULL), 0);
	DIES(c.pid, SIGTERM);
	leave(&c);
}

/* The real or the saved id counts, not the effective one of the target. */
static void be_mixed(void *arg)
{
	(void)arg;
	(void)OK(setresuid(own_uid(), own_uid() + 200, own_uid() + 300));
}

static int r_mixed(int argc, char **argv)
{
	(void)argc;
	(void)OK(kill(atoi(argv[0]), SIGUSR1)); /* ruid == ruid */
	return 0;
}

static void c_rights_mixed(void)
{
	uid_t same = 0, other = 200;
	struct chat c;
	int status;

	need_root();
	c = chat_with(be_mixed, NULL, "takes", "1", NULL);
	expect_line(&c, "ready");
	/* the effective id of the target does not count; it became the saved one by the exec, which does */
	EXITS(spawn_with(be_user, &other, "mixed", number(c.pid), NULL), 0);
	CHECK(atoi(hear(&c)) == SIGUSR1, "the signal");
	EXITS(spawn_with(be_user, &same, "mixed", number(c.pid), NULL), 0);
	leave(&c);
	status = status_of(c.pid);
	CHECK(status == 0 || status == SIGUSR1, "status %#x", (unsigned)status);
}

/* ---- many at once ---- */

static void lead(void *arg)
{
	(void)OK(setpgid(0, *(pid_t *)arg));
}

static void c_group(void)
{
	struct chat c[4];
	pid_t group = 0;

	for (int i = 0; i < 4; i++) {
		c[i] = chat_with(lead, &group, "takes", "1", NULL);
		expect_line(&c[i], "ready");
		group = c[0].pid;
	}
	(void)OK(kill(-group, 0));
	(void)OK(kill(-group, SIGUSR1));
	for (int i = 0; i < 4; i++)
		took(&c[i], SIGUSR1, SI_USER, 0);
	for (int i = 0; i < 4; i++)
		BYE(&c[i]);
	FAILS(kill(-group, 0), ESRCH);
}

static int r_own_group(int argc, char **argv)
{
	(void)argc;
	(void)argv;
	(void)signal(SIGUSR1, SIG_IGN);
	(void)OK(kill(0, SIGUSR1)); /* to all of the group */
	return 0;
}

static void c_own_group(void)
{
	struct chat c[2];
	pid_t group = 0, pid;
	char want[64];

	for (int i = 0; i < 2; i++) {
		c[i] = chat_with(lead, &group, "takes", "1", NULL);
		expect_line(&c[i], "ready");
		group = c[0].pid;
	}
	pid = spawn_with(lead, &group, "own_group", NULL);
	(void)snprintf(want, sizeof(want), "%d %d %d %u 0", SIGUSR1, SI_USER, pid, getuid());
	for (int i = 0; i < 2; i++)
		expect_line(&c[i], want);
	EXITS(pid, 0);
	for (int i = 0; i < 2; i++)
		BYE(&c[i]);
}

/* Signals that are queued show whether each came once. */
static int r_own_group_queued(int argc, char **argv)
{
	const struct timespec now = {0, 0};
	sigset_t set;
	int n = 0;

	(void)argc;
	(void)argv;
	(void)sigfillset(&set);
	(void)sigprocmask(SIG_BLOCK, &set, NULL);
	for (int i = 0; i < 5; i++)
		(void)OK(kill(0, SIGRTMIN + 1));
	(void)OK(kill(0, SIGRTMAX));
	(void)sigemptyset(&set);
	(void)sigaddset(&set, SIGRTMIN + 1);
	while (sigtimedwait(&set, NULL, &now) > 0)
		n++;
	EQ(n, 5); /* itself, before kill returns */
	return 0;
}

static void c_group_once(void)
{
	struct chat c[4];
	pid_t group = 0;
	char want[64];

	for (int i = 0; i < 4; i++) {
		c[i] = chat_with(lead, &group, "queue", NULL);
		expect_line(&c[i], "ready");
		group = c[0].pid;
	}
	EXITS(spawn_with(lead, &group, "own_group_queued", NULL), 0);
	(void)snprintf(want, sizeof(want), "%d 0", SIGRTMIN + 1);
	for (int i = 0; i < 4; i++) {
		for (int k = 0; k < 5; k++)
			expect_line(&c[i], want);
		expect_line(&c[i], "end");
		BYE(&c[i]);
	}
}

/* One that makes children without end, until it is full: none of them may escape. */
static int r_forks(int argc, char **argv)
{
	(void)argc;
	(void)argv;
	answer("ready");
	for (int i = 0; i < 60; i++) {
		if (OK(fork()) == 0)
			for (;;)
				(void)pause();
	}
	for (;;)
		(void)pause();
}

static void c_group_forks(void)
{
	struct chat c[2];
	pid_t group = 0;

	for (int i = 0; i < 2; i++) {
		c[i] = chat_with(lead, &group, "forks", NULL);
		expect_line(&c[i], "ready");
		group = c[0].pid;
	}
	(void)OK(kill(-group, SIGTERM));
	for (int i = 0; i < 2; i++) {
		DIES(c[i].pid, SIGTERM);
		expect_line(&c[i], ""); /* the end of its output: nobody holds it */
		leave(&c[i]);
	}
}

/* A user's kill(-1): all of that user's processes, but the caller; nobody else's. */
static int r_all(int argc, char **argv)
{
	(void)argc;
	(void)argv;
	(void)OK(kill(-1, SIGTERM));
	return 0;
}

static void c_everybody(void)
{
	uid_t one = 400, two = 500;
	struct chat c[3];

	need_root();
	for (int i = 0; i < 3; i++) {
		c[i] = chat_with(be_user, i == 2 ? &two : &one, "hold", NULL);
		expect_line(&c[i], "ready");
	}
	EXITS(spawn_with(be_user, &one, "all", NULL), 0);
	for (int i = 0; i < 2; i++) {
		DIES(c[i].pid, SIGTERM);
		leave(&c[i]);
	}
	EQ(waitpid(c[2].pid, NULL, WNOHANG), 0);
	BYE(&c[2]);
}

static void c_group_stop(void)
{
	struct chat c[3];
	pid_t group = 0;
	int status;

	for (int i = 0; i < 3; i++) {
		c[i] = chat_with(lead, &group, "hold", NULL);
		expect_line(&c[i], "ready");
		group = c[0].pid;
	}
	(void)OK(kill(-group, SIGTSTP));
	for (int i = 0; i < 3; i++) {
		EQ(waitpid(c[i].pid, &status, WUNTRACED), c[i].pid);
		EQ(status, SIGTSTP << 8 | 0x7f);
	}
	(void)OK(kill(-group, SIGCONT));
	for (int i = 0; i < 3; i++) {
		EQ(waitpid(c[i].pid, &status, WCONTINUED), c[i].pid);
		EQ(status, 0xffff);
	}
	(void)OK(kill(-group, SIGKILL));
	for (int i = 0; i < 3; i++) {
		DIES(c[i].pid, SIGKILL);
		leave(&c[i]);
	}
}

/* ---- one thread, and none ---- */

static void *in_thread(void *arg)
{
	sigset_t set;
	int sig;

	(void)sigemptyset(&set);
	(void)sigaddset(&set, SIGUSR1);
	(void)arg;
	answer("%ld", syscall(SYS_gettid));
	EQ(sigwait(&set, &sig), 0);
	answer("got %d", sig);
	return NULL;
}

static int r_thread(int argc, char **argv)
{
	pthread_t t;
	sigset_t set;

	(void)argc;
	(void)argv;
	(void)sigemptyset(&set);
	(void)sigaddset(&set, SIGUSR1);
	(void)sigprocmask(SIG_BLOCK, &set, NULL);
	EQ(pthread_create(&t, NULL, in_thread, NULL), 0);
	EQ(pthread_join(t, NULL), 0);
	(void)asked();
	return 0;
}

/* A signal for one thread of a process. */
static void c_thread(void)
{
	struct chat c = chat_with(NULL, NULL, "thread", NULL);
	pid_t tid = (pid_t)atoi(hear(&c));

	CHECK(tid != c.pid, "thread %d", tid);
	FAILS(syscall(SYS_tgkill, getpid(), tid, SIGUSR1), ESRCH);
	(void)OK(syscall(SYS_tgkill, c.pid, tid, SIGUSR1));
	expect_line(&c, "got 10");
	BYE(&c);
}

/* Takes three that are sent to it, and says of each: signo code pid value. */
static void *takes_in_thread(void *arg)
{
	sigset_t set;

	(void)sigfillset(&set);
	(void)arg;
	answer("%ld", syscall(SYS_gettid));
	for (int i = 0; i < 3; i++) {
		siginfo_t si;
		int sig = (int)OK(syscall(SYS_rt_sigtimedwait, &set, &si, NULL, 8));

		answer("%d %d %d %d", sig, si.si_code, si.si_pid,
		       si.si_code == SI_QUEUE ? si.si_value.sival_int : 0);
	}
	return NULL;
}

static int r_takes_in_thread(int argc, char **argv)
{
	pthread_t t;
	sigset_t set;

	(void)argc;
	(void)argv;
	(void)sigfillset(&set);
	(void)sigprocmask(SIG_BLOCK, &set, NULL);
	EQ(pthread_create(&t, NULL, takes_in_thread, NULL), 0);
	EQ(pthread_join(t, NULL), 0);
	answer("taken");
	(void)asked();
	return 0;
}

/* By somebody who is neither its parent nor its child: each call to one thread, and what fails. */
static int r_signals_thread(int argc, char **argv)
{
	pid_t pid = atoi(argv[0]), tid = atoi(argv[1]), gone = atoi(argv[2]);
	siginfo_t si = {.si_code = SI_QUEUE};

	(void)argc;
	EQ(syscall(SYS_tgkill, pid, tid, 0), 0);
	EQ(syscall(SYS_tkill, tid, 0), 0);
	FAILS(syscall(SYS_tgkill, getpid(), tid, SIGUSR1), ESRCH);
	FAILS(syscall(SYS_tgkill, tid, tid, SIGUSR1), ESRCH);
	FAILS(syscall(SYS_tgkill, tid, pid, SIGUSR1), ESRCH);
	FAILS(syscall(SYS_tgkill, gone, tid, SIGUSR1), ESRCH);
	FAILS(syscall(SYS_tgkill, pid, gone, SIGUSR1), ESRCH);
	FAILS(syscall(SYS_tgkill, pid, tid, 65), EINVAL);
	FAILS(syscall(SYS_tgkill, pid, 0, SIGUSR1), EINVAL);
	si.si_pid = getpid();
	si.si_uid = getuid();
	si.si_value.sival_int = 4711;
	FAILS(syscall(SYS_rt_tgsigqueueinfo, getpid(), tid, SIGRTMIN, &si), ESRCH);
	(void)OK(syscall(SYS_tgkill, pid, tid, SIGUSR1));
	(void)OK(syscall(SYS_tkill, tid, SIGUSR2));
	(void)OK(syscall(SYS_rt_tgsigqueueinfo, pid, tid, SIGRTMIN, &si));
	return 0;
}

static int r_forbidden_thread(int argc, char **argv)
{
	(void)argc;
	FAILS(syscall(SYS_tgkill, atoi(argv[0]), atoi(argv[1]), SIGUSR1), EPERM);
	FAILS(syscall(SYS_tkill, atoi(argv[1]), 0), EPERM);
	return 0;
}

static void c_thread_by_sibling(void)
{
	struct chat c = chat_with(NULL, NULL, "takes_in_thread", NULL);
	pid_t tid = (pid_t)atoi(hear(&c)), gone = spawn("exit", "0", NULL), by;
	uid_t two = 100;
	char want[64];

	EXITS(gone, 0);
	if (geteuid() == 0)
		EXITS(spawn_with(be_user, &two, "forbidden_thread", number(c.pid), number(tid),
				 NULL),
		      0);
	by = spawn("signals_thread", number(c.pid), number(tid), number(gone), NULL);
	(void)snprintf(want, sizeof(want), "%d %d %d 0", SIGUSR1, SI_TKILL, by);
	expect_line(&c, want);
	(void)snprintf(want, sizeof(want), "%d %d %d 0", SIGUSR2, SI_TKILL, by);
	expect_line(&c, want);
	(void)snprintf(want, sizeof(want), "%d %d %d 4711", SIGRTMIN, SI_QUEUE, by);
	expect_line(&c, want);
	expect_line(&c, "taken");
	EXITS(by, 0);
	BYE(&c);
	FAILS(syscall(SYS_tgkill, c.pid, tid, 0), ESRCH);
}

static void c_ignored(void)
{
	struct chat c;

	(void)signal(SIGTERM, SIG_IGN);
	(void)signal(SIGHUP, SIG_IGN);
	c = chat_with(NULL, NULL, "hold", NULL);
	expect_line(&c, "ready");
	(void)OK(kill(c.pid, SIGTERM));
	(void)OK(kill(c.pid, SIGHUP));
	(void)OK(kill(c.pid, SIGCONT));
	(void)OK(kill(c.pid, SIGCHLD));
	BYE(&c);
}

static void c_shell_trap(void)
{
	struct chat c = {0, -1, -1};
	int out[2], in[2];

	make_pipe(out);
	make_pipe(in);
	c.pid = fork();
	if (c.pid == 0) {
		(void)dup2(in[0], 0);
		(void)dup2(out[1], 1);
		(void)execl("/bin/sh", "sh", "-c",
			    "trap 'echo trapped; exit 9' TERM; echo ready; read x; exit 8",
			    (char *)NULL);
		_exit(99);
	}
	(void)mind(c.pid);
	(void)close(out[1]);
	(void)close(in[0]);
	c.from = out[0];
	c.to = in[1];
	expect_line(&c, "ready");
	(void)OK(kill(c.pid, SIGTERM));
	expect_line(&c, "trapped");
	EXITS(c.pid, 9);
}

const struct sub subs[] = {{"each", c_each},
			   {"kill_info", c_kill_info},
			   {"tgkill_info", c_tgkill_info},
			   {"sigqueue", c_sigqueue},
			   {"pidfd", c_pidfd},
			   {"queue_order", c_queue_order},
			   {"during_exec", c_during_exec},
			   {"kill_during_exec", c_kill_during_exec},
			   {"stop_during_exec", c_stop_during_exec},
			   {"stop_storm", c_stop_storm},
			   {"before_bytes", c_before_bytes},
			   {"to_parent", c_to_parent},
			   {"queue_to_parent", c_queue_to_parent},
			   {"ping_pong", c_ping_pong},
			   {"self", c_self},
			   {"sibling", c_sibling},
			   {"errors", c_errors},
			   {"eperm", c_eperm},
			   {"rights_mixed", c_rights_mixed},
			   {"group", c_group},
			   {"own_group", c_own_group},
			   {"everybody", c_everybody},
			   {"group_stop", c_group_stop},
			   {"group_once", c_group_once},
			   {"group_forks", c_group_forks},
			   {"thread_by_sibling", c_thread_by_sibling},
			   {"thread", c_thread},
			   {"ignored", c_ignored},
			   {"shell_trap", c_shell_trap},
			   {NULL, NULL}};
const struct role roles[] = {{"takes", r_takes},
			     {"queue", r_queue},
			     {"kills_parent", r_kills_parent},
			     {"queues_parent", r_queues_parent},
			     {"ping", r_ping},
			     {"self", r_self},
			     {"signals", r_signals},
			     {"errors", r_errors},
			     {"forbidden", r_forbidden},
			     {"mixed", r_mixed},
			     {"own_group", r_own_group},
			     {"own_group_queued", r_own_group_queued},
			     {"forks", r_forks},
			     {"takes_in_thread", r_takes_in_thread},
			     {"signals_thread", r_signals_thread},
			     {"forbidden_thread", r_forbidden_thread},
			     {"all", r_all},
			     {"pending", r_pending},
			     {"thread", r_thread},
			     {NULL, NULL}};
