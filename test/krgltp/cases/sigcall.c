/* sigcall.c - what signals and timers do to a call: interrupt it, or let it go on, or nothing. */
#include "case.h"
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <sys/time.h>
#include <time.h>

static volatile sig_atomic_t handled;

static void on_sig(int s)
{
	(void)s;
	handled++;
}

/* Says when it begins to read, then what the read came to. */
static int r_reads(int argc, char **argv)
{
	struct sigaction a = {.sa_handler = on_sig};
	char c;
	ssize_t r;

	(void)argc;
	(void)argv;
	(void)sigaction(SIGUSR1, &a, NULL);
	answer("%d", getpid());
	errno = 0;
	r = read(0, &c, 1);
	answer("%zd %d %d", r, r < 0 ? errno : 0, (int)handled);
	return 0;
}

/* It reads: its state is "sleeping" in a system call.  /proc of another node cannot be asked, so the signal is sent
 * until it has an effect. */
static void c_eintr(void)
{
	struct chat c = chat_with(NULL, NULL, "reads", NULL);
	struct pollfd p = {.fd = c.from, .events = POLLIN};
	const char *got;
	int r, error, n;

	(void)hear(&c);
	do
		(void)OK(kill(c.pid, SIGUSR1));
	while (poll(&p, 1, 5) == 0);
	got = hear(&c);
	EQ(sscanf(got, "%d %d %d", &r, &error, &n), 3);
	EQ(r, -1);
	EQ(error, EINTR);
	CHECK(n >= 1, "no handler ran");
	BYE(&c);
}

static void on_sig_says(int s)
{
	(void)s;
	(void)!write(1, "handled\n", 8);
}

static int r_restarts(int argc, char **argv)
{
	struct sigaction a = {.sa_handler = on_sig_says, .sa_flags = SA_RESTART};
	char c = 0;
	ssize_t r;

	(void)argc;
	(void)argv;
	(void)sigaction(SIGUSR1, &a, NULL);
	answer("ready");
	errno = 0;
	r = read(0, &c, 1);
	answer("%zd %d %c", r, r < 0 ? errno : 0, c);
	(void)asked();
	return 0;
}

static void c_restart(void)
{
	struct chat c = chat_with(NULL, NULL, "restarts", NULL);

	expect_line(&c, "ready");
	for (int i = 0; i < 5; i++) {
		(void)OK(kill(c.pid, SIGUSR1));
		expect_line(&c, "handled");
	}
	tell(&c, "x");
	expect_line(&c, "1 0 x");
	BYE(&c);
}

static int r_alarm(int argc, char **argv)
{
	const struct itimerval soon = {{0, 3000}, {0, 3000}};
	struct sigaction a = {.sa_handler = on_sig};

	(void)argc;
	(void)argv;
	(void)sigaction(SIGALRM, &a, NULL);
	(void)OK(setitimer(ITIMER_REAL, &soon, NULL));
	while (handled < 5)
		(void)poll(NULL, 0, 1000);
	return 0;
}

static void c_alarm(void)
{
	EXITS(spawn("alarm", NULL), 0);
}

static int r_timer(int argc, char **argv)
{
	struct sigevent ev = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN + 4};
	const struct itimerspec at = {{0, 0}, {0, 2000000}};
	siginfo_t si;
	sigset_t set;
	timer_t t;

	(void)argc;
	(void)argv;
	(void)sigemptyset(&set);
	(void)sigaddset(&set, SIGRTMIN + 4);
	(void)sigprocmask(SIG_BLOCK, &set, NULL);
	ev.sigev_value.sival_int = 4711;
	(void)OK(timer_create(CLOCK_MONOTONIC, &ev, &t));
	(void)OK(timer_settime(t, 0, &at, NULL));
	EQ(sigwaitinfo(&set, &si), SIGRTMIN + 4);
	EQ(si.si_code, SI_TIMER);
	EQ(si.si_value.sival_int, 4711);
	return 0;
}

static void c_timer(void)
{
	EXITS(spawn("timer", NULL), 0);
}

/* ---- calls that no signal interrupts ---- */

static void execs_fail(void)
{
	char *none[] = {NULL};

	FAILS(execve("/nonexistent/program", none, none), ENOENT);
	FAILS(execve("/dev/null", none, none), EACCES);
}

static void asks(void)
{
	struct rusage ru;
	struct stat st;
	pid_t r;

	CHECK((r = getppid()) > 0, "getppid: %d", (int)r);
	OK(fstat(0, &st));
	OK(fcntl(1, F_GETFL));
	CHECK(lseek(0, 0, SEEK_CUR) >= 0 || errno == ESPIPE, "lseek: %s", strerror(errno));
	OK(kill(0, 0));
	OK(setpgid(0, getpgrp()));
	OK(getrusage(RUSAGE_CHILDREN, &ru));
	FAILS(wait4(-1, NULL, WNOHANG, &ru), ECHILD);
}

/* In a handler without SA_RESTART, many times, wherever in the call. */
static int r_uninterrupted(int argc, char **argv)
{
	struct sigaction sa = {.sa_handler = on_sig};
	struct itimerval every = {{0, 300}, {0, 300}};
	void (*f)(void) = strcmp(argv[0], "exec") == 0 ? execs_fail : asks;

	(void)argc;
	OK(sigaction(SIGALRM, &sa, NULL));
	OK(setitimer(ITIMER_REAL, &every, NULL));
	while (handled < 300)
		f();
	OK(setitimer(ITIMER_REAL, &(struct itimerval){{0, 0}, {0, 0}}, NULL));
	return 0;
}

static void c_uninterrupted(void)
{
	EXITS(spawn("uninterrupted", sub_arg, NULL), 0);
}

/* The first thread is interrupted all the while; another executes this again, and has the first one's number then. */
static void *executes(void *arg)
{
	char left[16];
	sigset_t set;

	(void)sigemptyset(&set);
	(void)sigaddset(&set, SIGALRM);
	(void)pthread_sigmask(SIG_BLOCK, &set, NULL); /* the new program has no handler yet */
	while (handled < 3)
		(void)sched_yield();
	(void)snprintf(left, sizeof(left), "%d", *(int *)arg - 1);
	(void)become("executed", left, NULL);
	FAIL("execve: %s", strerror(errno));
}

static int r_executed(int argc, char **argv)
{
	struct sigaction sa = {.sa_handler = on_sig};
	struct itimerval every = {{0, 300}, {0, 300}};
	int left = atoi(argv[0]);
	sigset_t set;
	pthread_t t;

	(void)argc;
	if (left == 0)
		return 0;
	OK(sigaction(SIGALRM, &sa, NULL));
	OK(setitimer(ITIMER_REAL, &every, NULL));
	EQ(pthread_create(&t, NULL, executes, &left), 0);
	(void)sigemptyset(&set);
	(void)sigaddset(&set, SIGALRM);
	(void)pthread_sigmask(SIG_UNBLOCK, &set, NULL);
	for (;;)
		(void)getppid();
}

static void c_executed(void)
{
	EXITS(spawn("executed", "12", NULL), 0);
}

const struct sub subs[] = {{"eintr", c_eintr},
			   {"restart", c_restart},
			   {"alarm", c_alarm},
			   {"timer", c_timer},
			   {"uninterrupted", c_uninterrupted},
			   {"executed", c_executed},
			   {NULL, NULL}};
const struct role roles[] = {
	{"reads", r_reads}, {"restarts", r_restarts},		{"alarm", r_alarm},
	{"timer", r_timer}, {"uninterrupted", r_uninterrupted}, {"executed", r_executed},
	{NULL, NULL}};
