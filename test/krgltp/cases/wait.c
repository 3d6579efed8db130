/* wait.c - parents and children: statuses in every form, SIGCHLD, stops, orphans. */
#include "case.h"
#include <dirent.h>
#include <sys/times.h>
#include <poll.h>
#include <pthread.h>
#include <sys/signalfd.h>
#include <sys/time.h>

#ifndef P_PIDFD
#define P_PIDFD 3
#endif

static char *number(int n)
{
	static char text[16][16];
	static unsigned next;
	char *t = text[next++ % NELEM(text)];

	(void)snprintf(t, sizeof(text[0]), "%d", n);
	return t;
}

/* ---- statuses ---- */

static void c_exit_codes(void)
{
	static const int codes[] = {0, 1, 2, 63, 127, 128, 200, 255};

	for (unsigned i = 0; i < NELEM(codes); i++)
		EXITS(spawn("exit", number(codes[i]), NULL), codes[i]);
	EXITS(spawn("exit", "256", NULL), 0);
	EXITS(spawn("exit", "-1", NULL), 255);
}

static void c_signals(void)
{
	static const int sigs[] = {SIGHUP,  SIGINT,  SIGQUIT, SIGILL,	 SIGTRAP, SIGABRT,
				   SIGBUS,  SIGFPE,  SIGKILL, SIGUSR1,	 SIGSEGV, SIGUSR2,
				   SIGPIPE, SIGALRM, SIGTERM, SIGSTKFLT, SIGXCPU, SIGXFSZ,
				   SIGPROF, SIGPWR,  SIGSYS,  34,	 64};

	for (unsigned i = 0; i < NELEM(sigs); i++)
		DIES(spawn("die", number(sigs[i]), NULL), sigs[i]);
}

static void c_core_flag(void)
{
	/* no core file is allowed: no flag either */
	EQ(status_of(spawn("die", number(SIGSEGV), NULL)), SIGSEGV);
	EQ(status_of(spawn("die", number(SIGABRT), NULL)), SIGABRT);
}

static int r_dumps(int argc, char **argv)
{
	struct rlimit l;

	(void)argc;
	(void)argv;
	(void)getrlimit(RLIMIT_CORE, &l);
	l.rlim_cur = l.rlim_max;
	(void)OK(setrlimit(RLIMIT_CORE, &l));
	abort();
}

/* In the directory of the case; what it is called, the system says (core(5)). */
static unsigned cores_gone(void)
{
	unsigned n = 0;
	struct dirent *de;
	DIR *d = opendir(".");

	CHECK(d != NULL, "opendir: %s", strerror(errno));
	while ((de = readdir(d)) != NULL)
		if (strstr(de->d_name, "core") != NULL) {
			struct stat st;

			(void)OK(stat(de->d_name, &st));
			CHECK(st.st_size > 40000, "%s has %ld bytes", de->d_name, st.st_size);
			(void)OK(unlink(de->d_name));
			n++;
		}
	(void)closedir(d);
	return n;
}

static void c_core_dumped(void)
{
	const char *pattern = read_file("/proc/sys/kernel/core_pattern");
	struct rlimit l;
	siginfo_t si;
	pid_t pid;
	int status;

	(void)getrlimit(RLIMIT_CORE, &l);
	if (strstr(pattern, "core") == NULL || pattern[0] == '|' || pattern[0] == '/' ||
	    l.rlim_max < 1 << 20)
		skip("no core files here");
	pid = spawn("dumps", NULL);
	(void)OK(waitid(P_PID, (id_t)pid, &si, WEXITED | WNOWAIT));
	EQ(si.si_code, CLD_DUMPED);
	EQ(si.si_status, SIGABRT);
	status = status_of(pid);
	CHECK(WIFSIGNALED(status) && WCOREDUMP(status), "wait status %#x", (unsigned)status);
	EQ(cores_gone(), 1);
}

static void c_crash(void)
{
	DIES(spawn("crash", NULL), SIGSEGV);
}

static int r_crash(int argc, char **argv)
{
	const struct rlimit none = {0, 0};
	volatile char *volatile nowhere = NULL;

	(void)argc;
	(void)argv;
	(void)setrlimit(RLIMIT_CORE, &none);
	*nowhere = 1;
	return 0;
}

static void *ender(void *arg)
{
	(void)arg;
	_exit(17); /* exit_group of a thread */
}

static int r_thread_exit(int argc, char **argv)
{
	pthread_t t;

	(void)argc;
	(void)argv;
	(void)pthread_create(&t, NULL, ender, NULL);
	while (pause() < 0)
		;
	return 1;
}

static void c_thread_exit(void)
{
	EXITS(spawn("thread_exit", NULL), 17);
}

/* ---- which child ---- */

static void c_any(void)
{
	pid_t a = spawn("exit", "1", NULL), b = spawn("exit", "2", NULL), got[2];
	int status[2];

	for (int i = 0; i < 2; i++)
		got[i] = (pid_t)OK(wait(&status[i]));
	CHECK((got[0] == a && got[1] == b) || (got[0] == b && got[1] == a), "other pids");
	for (int i = 0; i < 2; i++)
		EQ(status[i], got[i] == a ? 1 << 8 : 2 << 8);
	FAILS(wait(NULL), ECHILD);
}

static void c_one_of_many(void)
{
	pid_t pids[10];

	for (int i = 0; i < 10; i++)
		pids[i] = spawn("exit", number(i), NULL);
	for (int i = 9; i >= 0; i--)
		EXITS(pids[i], i);
	FAILS(waitpid(pids[3], NULL, 0), ECHILD);
}

static void lead(void *arg)
{
	(void)setpgid(0, *(pid_t *)arg);
}

static void c_group(void)
{
	pid_t group = 0, b, other;
	struct chat a = chat_with(lead, &group, "hold", NULL);
	int status;

	expect_line(&a, "ready"); /* it leads the group */
	group = a.pid;
	b = spawn_with(lead, &group, "exit", "4", NULL);
	other = spawn("exit", "5", NULL);
	EQ(waitpid(-group, &status, 0), b);
	EQ(status, 4 << 8);
	EQ(waitpid(-group, &status, WNOHANG), 0);
	leave(&a);
	EQ(waitpid(-group, &status, 0), a.pid);
	FAILS(waitpid(-group, &status, 0), ECHILD);
	EXITS(other, 5);
}

static void c_own_group(void)
{
	pid_t group = 0, other = spawn_with(lead, &group, "exit", "6", NULL), mine;
	int status;

	(void)setpgid(other, other);
	mine = spawn("exit", "7", NULL);
	EQ(waitpid(0, &status, 0), mine);
	EQ(status, 7 << 8);
	FAILS(waitpid(0, &status, 0), ECHILD);
	EXITS(other, 6);
}

static void c_echild(void)
{
	siginfo_t si;

	FAILS(waitpid(-1, NULL, 0), ECHILD);
	FAILS(waitpid(getppid(), NULL, 0), ECHILD);
	FAILS(waitpid(1, NULL, WNOHANG), ECHILD);
	FAILS(waitpid(-getpgrp(), NULL, WNOHANG), ECHILD);
	FAILS(waitid(P_ALL, 0, &si, WEXITED), ECHILD);
	FAILS(wait4(-1, NULL, 0, NULL), ECHILD);
	EXITS(spawn("echild", NULL), 0);
}

static int r_echild(int argc, char **argv)
{
	(void)argc;
	(void)argv;
	FAILS(waitpid(-1, NULL, 0), ECHILD);
	FAILS(waitpid(getppid(), NULL, 0), ECHILD);
	return 0;
}

static void c_einval(void)
{
	siginfo_t si;

	FAILS(waitpid(-1, NULL, 0x40), EINVAL);
	FAILS(waitid(P_ALL, 0, &si, 0), EINVAL);
	FAILS(waitid((idtype_t)77, 0, &si, WEXITED), EINVAL);
	FAILS(waitpid((pid_t)0x80000000, NULL, 0), ESRCH);
}

static void c_nohang(void)
{
	struct chat c = chat_with(NULL, NULL, "hold", NULL);
	siginfo_t si = {.si_pid = 99};
	int status = 12345;

	expect_line(&c, "ready");
	EQ(waitpid(c.pid, &status, WNOHANG), 0);
	EQ(waitpid(-1, &status, WNOHANG), 0);
	EQ(status, 12345);
	EQ(waitid(P_PID, (id_t)c.pid, &si, WEXITED | WNOHANG), 0);
	EQ(si.si_pid, 0);
	BYE(&c);
	FAILS(waitpid(-1, NULL, WNOHANG), ECHILD);
}

/* ---- waitid ---- */

static void exited_is(const siginfo_t *si, pid_t pid, int code, int status)
{
	EQ(si->si_signo, SIGCHLD);
	EQ(si->si_pid, pid);
	EQ(si->si_uid, getuid());
	EQ(si->si_code, code);
	EQ(si->si_status, status);
}

static void c_waitid(void)
{
	pid_t pid = spawn("exit", "21", NULL);
	siginfo_t si = {0};

	(void)OK(waitid(P_PID, (id_t)pid, &si, WEXITED));
	exited_is(&si, pid, CLD_EXITED, 21);
	pid = spawn("die", number(SIGTERM), NULL);
	(void)OK(waitid(P_ALL, 0, &si, WEXITED));
	exited_is(&si, pid, CLD_KILLED, SIGTERM);
}

static void c_waitid_nowait(void)
{
	pid_t pid = spawn("exit", "22", NULL);
	siginfo_t si = {0};

	for (int i = 0; i < 3; i++) {
		(void)OK(waitid(P_PID, (id_t)pid, &si, WEXITED | WNOWAIT));
		exited_is(&si, pid, CLD_EXITED, 22);
	}
	EQ(kill(pid, 0), 0); /* a zombie is there */
	EXITS(pid, 22);
	FAILS(kill(pid, 0), ESRCH);
}

static void c_waitid_group(void)
{
	pid_t group = 0, pid = spawn_with(lead, &group, "exit", "23", NULL);
	siginfo_t si = {0};

	(void)setpgid(pid, pid);
	FAILS(waitid(P_PGID, (id_t)getpgrp(), &si, WEXITED), ECHILD);
	(void)OK(waitid(P_PGID, (id_t)pid, &si, WEXITED));
	exited_is(&si, pid, CLD_EXITED, 23);
}

static void c_waitid_pidfd(void)
{
	struct chat c = chat_with(NULL, NULL, "hold", NULL);
	int fd = (int)OK(syscall(SYS_pidfd_open, c.pid, 0));
	struct pollfd p = {.fd = fd, .events = POLLIN};
	siginfo_t si = {0};

	expect_line(&c, "ready");
	EQ(poll(&p, 1, 0), 0);
	leave(&c);
	EQ(poll(&p, 1, -1), 1);
	(void)OK(waitid((idtype_t)P_PIDFD, (id_t)fd, &si, WEXITED));
	exited_is(&si, c.pid, CLD_EXITED, 0);
	FAILS(waitid((idtype_t)P_PIDFD, (id_t)fd, &si, WEXITED), ECHILD);
	FAILS(syscall(SYS_pidfd_send_signal, fd, 0, NULL, 0), ESRCH);
}

static void c_wall(void)
{
	pid_t pid = spawn("exit", "24", NULL);
	int status;

	FAILS(waitpid(pid, &status, __WCLONE), ECHILD); /* it is no clone child */
	EQ(waitpid(pid, &status, __WALL | __WNOTHREAD), pid);
	EQ(status, 24 << 8);
}

/* ---- stops ---- */

static void c_stop(void)
{
	static const int sigs[] = {SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU};
	pid_t group = 0;

	for (unsigned i = 0; i < NELEM(sigs); i++) {
		struct chat c = chat_with(lead, &group, "hold", NULL);
		int status;

		expect_line(&c, "ready");
		EQ(waitpid(c.pid, &status, WUNTRACED | WNOHANG), 0);
		(void)OK(kill(c.pid, sigs[i]));
		EQ(waitpid(c.pid, &status, WUNTRACED), c.pid);
		EQ(status, sigs[i] << 8 | 0x7f);
		EQ(waitpid(c.pid, &status, WUNTRACED | WNOHANG), 0); /* once */
		(void)OK(kill(c.pid, SIGCONT));
		EQ(waitpid(c.pid, &status, WCONTINUED), c.pid);
		EQ(status, 0xffff);
		EQ(waitpid(c.pid, &status, WCONTINUED | WNOHANG), 0);
		BYE(&c);
	}
}

static void c_stop_waitid(void)
{
	struct chat c = chat_with(NULL, NULL, "hold", NULL);
	siginfo_t si = {0};

	expect_line(&c, "ready");
	(void)OK(kill(c.pid, SIGSTOP));
	(void)OK(waitid(P_PID, (id_t)c.pid, &si, WSTOPPED | WNOWAIT));
	exited_is(&si, c.pid, CLD_STOPPED, SIGSTOP);
	(void)OK(waitid(P_PID, (id_t)c.pid, &si, WSTOPPED));
	exited_is(&si, c.pid, CLD_STOPPED, SIGSTOP);
	(void)OK(kill(c.pid, SIGCONT));
	(void)OK(waitid(P_PID, (id_t)c.pid, &si, WCONTINUED));
	exited_is(&si, c.pid, CLD_CONTINUED, SIGCONT);
	BYE(&c);
}

static void c_stop_self(void)
{
	pid_t pid = spawn("stops", NULL);
	int status;

	for (int i = 0; i < 5; i++) {
		EQ(waitpid(pid, &status, WUNTRACED), pid);
		EQ(status, SIGSTOP << 8 | 0x7f);
		(void)OK(kill(pid, SIGCONT));
	}
	EXITS(pid, 25);
}

static int r_stops(int argc, char **argv)
{
	(void)argc;
	(void)argv;
	for (int i = 0; i < 5; i++)
		(void)raise(SIGSTOP);
	return 25;
}

static void c_stop_then_kill(void)
{
	struct chat c = chat_with(NULL, NULL, "hold", NULL);
	int status;

	expect_line(&c, "ready");
	(void)OK(kill(c.pid, SIGSTOP));
	EQ(waitpid(c.pid, &status, WUNTRACED), c.pid);
	(void)OK(kill(c.pid, SIGTERM)); /* waits until it goes on */
	EQ(waitpid(c.pid, &status, WNOHANG), 0);
	(void)OK(kill(c.pid, SIGCONT));
	DIES(c.pid, SIGTERM);
	leave(&c);
	c = chat_with(NULL, NULL, "hold", NULL);
	expect_line(&c, "ready");
	(void)OK(kill(c.pid, SIGSTOP));
	EQ(waitpid(c.pid, &status, WUNTRACED), c.pid);
	(void)OK(kill(c.pid, SIGKILL)); /* does not */
	DIES(c.pid, SIGKILL);
	leave(&c);
}

/* ---- resource usage ---- */

static void burn(long us)
{
	struct rusage u;

	do
		(void)getrusage(RUSAGE_SELF, &u);
	while (u.ru_utime.tv_sec * 1000000 + u.ru_utime.tv_usec + u.ru_stime.tv_sec * 1000000 +
		       u.ru_stime.tv_usec <
	       us);
}

static int r_burn(int argc, char **argv)
{
	(void)argc;
	burn(atol(argv[0]));
	return 0;
}

static long used(const struct rusage *u)
{
	return u->ru_utime.tv_sec * 1000000 + u->ru_utime.tv_usec + u->ru_stime.tv_sec * 1000000 +
	       u->ru_stime.tv_usec;
}

static void c_rusage(void)
{
	pid_t pid = spawn("burn", "60000", NULL);
	struct rusage u;
	int status;

	EQ(wait4(pid, &status, 0, &u), pid);
	EQ(status, 0);
	CHECK(used(&u) >= 60000 && used(&u) < 5000000, "wait4 says %ld us", used(&u));
}

static void c_rusage_children(void)
{
	struct rusage u;

	EXITS(spawn("burn", "60000", NULL), 0);
	(void)OK(getrusage(RUSAGE_CHILDREN, &u));
	CHECK(used(&u) >= 60000 && used(&u) < 5000000, "RUSAGE_CHILDREN says %ld us", used(&u));
}

static int r_burns_by_child(int argc, char **argv)
{
	(void)argc;
	EXITS(spawn("burn", argv[0], NULL), 0);
	return 0;
}

/* What a child's children used is its parent's once it has been waited for, and not before. */
static void c_rusage_tree(void)
{
	pid_t pid = spawn("burns_by_child", "60000", NULL);
	struct rusage u;
	siginfo_t si;
	int status;

	(void)OK(waitid(P_PID, (id_t)pid, &si, WEXITED | WNOWAIT));
	(void)OK(getrusage(RUSAGE_CHILDREN, &u));
	CHECK(used(&u) < 60000, "before the wait RUSAGE_CHILDREN says %ld us", used(&u));
	EQ(wait4(pid, &status, WNOHANG, &u), pid);
	EQ(status, 0);
	CHECK(used(&u) >= 60000 && used(&u) < 5000000, "wait4 says %ld us", used(&u));
	(void)OK(getrusage(RUSAGE_CHILDREN, &u));
	CHECK(used(&u) >= 60000 && used(&u) < 5000000, "RUSAGE_CHILDREN says %ld us", used(&u));
}

/* The system call, which has a fifth argument. */
static void c_rusage_waitid(void)
{
	pid_t pid = spawn("burn", "60000", NULL);
	struct tms before, after;
	struct rusage u;
	siginfo_t si;
	int status;

	for (int i = 0; i < 2; i++) { /* it can be looked at before it is waited for */
		(void)OK(syscall(SYS_waitid, P_PID, pid, &si, WEXITED | WNOWAIT, &u));
		EQ(si.si_pid, pid);
		CHECK(used(&u) >= 60000 && used(&u) < 5000000, "waitid says %ld us", used(&u));
	}
	(void)OK(times(&before));
	EQ(waitpid(pid, &status, 0), pid);
	(void)OK(times(&after));
	CHECK(after.tms_cutime + after.tms_cstime - before.tms_cutime - before.tms_cstime >= 4,
	      "times says %ld ticks more",
	      after.tms_cutime + after.tms_cstime - before.tms_cutime - before.tms_cstime);
}

static volatile sig_atomic_t ticks;
static int ended_by_tick;
static void on_tick(int sig)
{
	(void)sig;
	if (++ticks == 5 && ended_by_tick > 0)
		(void)!write(ended_by_tick, "\n", 1);
}

/* A wait that asks for usage is interrupted as any. */
static void c_rusage_eintr(void)
{
	const struct itimerval soon = {{0, 5000}, {0, 5000}}, never = {{0, 0}, {0, 0}};
	struct sigaction a = {.sa_handler = on_tick};
	struct chat c = chat_with(NULL, NULL, "hold", NULL);
	struct rusage u;
	int status;

	expect_line(&c, "ready");
	(void)sigaction(SIGALRM, &a, NULL);
	(void)OK(setitimer(ITIMER_REAL, &soon, NULL));
	FAILS(wait4(c.pid, &status, 0, &u), EINTR);
	FAILS(wait4(c.pid, &status, 0, &u), EINTR);
	a.sa_flags = SA_RESTART;
	(void)sigaction(SIGALRM, &a, NULL);
	ended_by_tick = c.to;
	ticks = 0;
	EQ(wait4(c.pid, &status, 0, &u), c.pid);
	(void)OK(setitimer(ITIMER_REAL, &never, NULL));
	EQ(status, 0);
	CHECK(ticks >= 5, "%d ticks", (int)ticks);
	leave(&c);
}

/* ---- SIGCHLD ---- */

static volatile sig_atomic_t chld;
static siginfo_t chld_info;
static void on_chld(int s, siginfo_t *si, void *u)
{
	(void)s;
	(void)u;
	chld_info = *si;
	chld++;
}

static void catch_chld(int flags, sigset_t *ret_old)
{
	struct sigaction a = {.sa_sigaction = on_chld, .sa_flags = SA_SIGINFO | flags};
	sigset_t set;

	(void)sigemptyset(&set);
	(void)sigaddset(&set, SIGCHLD);
	(void)sigprocmask(SIG_BLOCK, &set, ret_old);
	(void)sigaction(SIGCHLD, &a, NULL);
}

static void await_chld(const sigset_t *old, int n)
{
	while (chld < n)
		(void)sigsuspend(old);
}

static void c_sigchld(void)
{
	sigset_t old;
	pid_t pid;

	catch_chld(SA_RESTART, &old);
	pid = spawn("exit", "31", NULL);
	await_chld(&old, 1);
	exited_is(&chld_info, pid, CLD_EXITED, 31);
	EXITS(pid, 31);
	pid = spawn("die", number(SIGUSR1), NULL);
	await_chld(&old, 2);
	exited_is(&chld_info, pid, CLD_KILLED, SIGUSR1);
	DIES(pid, SIGUSR1);
}

static void c_sigchld_stop(void)
{
	struct chat c;
	sigset_t old;

	catch_chld(0, &old);
	c = chat_with(NULL, NULL, "hold", NULL);
	expect_line(&c, "ready");
	(void)OK(kill(c.pid, SIGSTOP));
	await_chld(&old, 1);
	exited_is(&chld_info, c.pid, CLD_STOPPED, SIGSTOP);
	(void)OK(kill(c.pid, SIGCONT));
	await_chld(&old, 2);
	exited_is(&chld_info, c.pid, CLD_CONTINUED, SIGCONT);
	BYE(&c);
}

static void c_sigchld_nocldstop(void)
{
	struct chat c;
	sigset_t old;
	int status;

	catch_chld(SA_NOCLDSTOP, &old);
	c = chat_with(NULL, NULL, "hold", NULL);
	expect_line(&c, "ready");
	(void)OK(kill(c.pid, SIGSTOP));
	EQ(waitpid(c.pid, &status, WUNTRACED), c.pid);
	(void)OK(kill(c.pid, SIGCONT));
	EQ(waitpid(c.pid, &status, WCONTINUED), c.pid);
	leave(&c);
	await_chld(&old, 1);
	exited_is(&chld_info, c.pid, CLD_EXITED, 0);
	EXITS(c.pid, 0);
	EQ(chld, 1);
}

static void c_sigchld_ignored(void)
{
	pid_t pid;

	(void)signal(SIGCHLD, SIG_IGN);
	pid = spawn("exit", "1", NULL);
	FAILS(waitpid(pid, NULL, 0), ECHILD); /* once it has ended */
	/* the kernel says so just before it takes the number away */
	while (kill(pid, 0) == 0)
		(void)poll(NULL, 0, 1);
	EQ(errno, ESRCH);
}

static void c_sigchld_nocldwait(void)
{
	sigset_t old;
	pid_t pid;

	catch_chld(SA_NOCLDWAIT, &old);
	pid = spawn("exit", "32", NULL);
	FAILS(waitpid(pid, NULL, 0), ECHILD);
	await_chld(&old, 1);
	exited_is(&chld_info, pid, CLD_EXITED, 32);
}

static void c_sigwaitinfo(void)
{
	siginfo_t si;
	sigset_t set;
	pid_t pid;

	(void)sigemptyset(&set);
	(void)sigaddset(&set, SIGCHLD);
	(void)sigprocmask(SIG_BLOCK, &set, NULL);
	pid = spawn("exit", "33", NULL);
	EQ(sigwaitinfo(&set, &si), SIGCHLD);
	exited_is(&si, pid, CLD_EXITED, 33);
	EXITS(pid, 33);
}

static void c_signalfd(void)
{
	struct signalfd_siginfo si;
	sigset_t set;
	pid_t pid;
	int fd;

	(void)sigemptyset(&set);
	(void)sigaddset(&set, SIGCHLD);
	(void)sigprocmask(SIG_BLOCK, &set, NULL);
	fd = (int)OK(signalfd(-1, &set, SFD_CLOEXEC));
	pid = spawn("exit", "34", NULL);
	EQ(read(fd, &si, sizeof(si)), sizeof(si));
	EQ(si.ssi_signo, SIGCHLD);
	EQ(si.ssi_pid, pid);
	EQ(si.ssi_status, 34);
	EXITS(pid, 34);
}

/* ---- waits that are interrupted ---- */

static volatile sig_atomic_t handled;
static void on_signal(int s)
{
	(void)s;
	handled++;
}

static void c_eintr(void)
{
	const struct itimerval soon = {{0, 10000}, {0, 10000}}, never = {{0, 0}, {0, 0}};
	struct sigaction a = {.sa_handler = on_signal};
	struct chat c = chat_with(NULL, NULL, "hold", NULL);

	expect_line(&c, "ready");
	(void)sigaction(SIGALRM, &a, NULL);
	(void)setitimer(ITIMER_REAL, &soon, NULL);
	FAILS(waitpid(c.pid, NULL, 0), EINTR);
	(void)setitimer(ITIMER_REAL, &never, NULL);
	CHECK(handled >= 1, "no signal");
	BYE(&c);
}

static volatile int release_fd = -1;
static void on_alarm(int s)
{
	(void)s;
	handled++;
	if (handled == 3)
		(void)close(release_fd); /* now the child ends */
}

static void c_restart(void)
{
	struct sigaction a = {.sa_handler = on_alarm, .sa_flags = SA_RESTART};
	const struct itimerval soon = {{0, 10000}, {0, 10000}}, never = {{0, 0}, {0, 0}};
	struct chat c = chat_with(NULL, NULL, "hold", NULL);
	int status;

	expect_line(&c, "ready");
	release_fd = c.to;
	(void)sigaction(SIGALRM, &a, NULL);
	(void)setitimer(ITIMER_REAL, &soon, NULL);
	EQ(waitpid(c.pid, &status, 0), c.pid);
	(void)setitimer(ITIMER_REAL, &never, NULL);
	EQ(status, 0);
	CHECK(handled >= 3, "%d signals only", (int)handled);
}

/* ---- threads ---- */

static void *start_child(void *arg)
{
	*(pid_t *)arg = spawn("exit", "36", NULL);
	return NULL;
}

static void c_other_thread(void)
{
	pthread_t t;
	pid_t pid;

	EQ(pthread_create(&t, NULL, start_child, &pid), 0);
	EQ(pthread_join(t, NULL), 0);
	EXITS(pid, 36);
}

/* ---- orphans ---- */

static int r_orphan(int argc, char **argv)
{
	char buf[16];

	(void)argc;
	answer("%s", argv[0]);		   /* who was our parent, and may be gone */
	(void)asked();			   /* until our parent has ended, says who knows */
	while (getppid() == atoi(argv[0])) /* the last of it may still be under way */
		(void)poll(NULL, 0, 1);
	(void)snprintf(buf, sizeof(buf), "%d", getppid());
	answer("%s", buf);
	(void)asked();
	return 0;
}

static int r_parent_of_orphan(int argc, char **argv)
{
	char me[16];

	(void)argc;
	(void)argv;
	(void)snprintf(me, sizeof(me), "%d", getpid());
	(void)spawn("orphan", me, NULL); /* with our input and output */
	return 0;
}

/* A child that makes a child and ends; its pipes are the grandchild's. */
static struct chat grandchild(void)
{
	struct chat c = chat_with(NULL, NULL, "parent_of_orphan", NULL);
	char want[16];

	(void)snprintf(want, sizeof(want), "%d", c.pid);
	expect_line(&c, want);
	EXITS(c.pid, 0);
	tell(&c, "go");
	return c;
}

static void c_orphan(void)
{
	struct chat c = grandchild();
	char want[16];

	(void)snprintf(want, sizeof(want), "%d", reaper());
	expect_line(&c, want);
	leave(&c);
	FAILS(waitpid(-1, NULL, 0), ECHILD);
}

static void c_subreaper(void)
{
	struct chat c;
	char want[16];
	int status;

	(void)OK(prctl(PR_SET_CHILD_SUBREAPER, 1));
	c = grandchild();
	(void)snprintf(want, sizeof(want), "%d", getpid());
	expect_line(&c, want);
	leave(&c);
	(void)OK(wait(&status));
	EQ(status, 0);
	FAILS(waitpid(-1, NULL, 0), ECHILD);
}

/* A program that made itself subreaper and then executes another stays it. */
static int r_reaps(int argc, char **argv)
{
	(void)argc;
	(void)argv;
	{
		struct chat c = grandchild();
		char want[16];
		int status;

		(void)snprintf(want, sizeof(want), "%d", getpid());
		expect_line(&c, want);
		leave(&c);
		(void)OK(wait(&status));
		EQ(status, 0);
	}
	return 0;
}

static void be_subreaper(void *arg)
{
	(void)arg;
	(void)OK(prctl(PR_SET_CHILD_SUBREAPER, 1));
}

static void c_subreaper_exec(void)
{
	EXITS(spawn_with(be_subreaper, NULL, "reaps", NULL), 0);
}

static void want_death(void *arg)
{
	(void)arg;
	(void)OK(prctl(PR_SET_PDEATHSIG, SIGKILL));
}

static int r_parent_of_mortal(int argc, char **argv)
{
	(void)argc;
	(void)argv;
	(void)spawn_with(want_death, NULL, "hold", NULL);
	(void)asked(); /* it shares our input: one of the two gets the line */
	return 0;
}

static void c_pdeathsig(void)
{
	struct chat c = chat_with(NULL, NULL, "parent_of_mortal", NULL);

	expect_line(&c, "ready");
	(void)OK(kill(c.pid, SIGKILL));
	DIES(c.pid, SIGKILL);
	expect_line(&c, ""); /* the end of its output: nobody holds it */
	leave(&c);
}

/* Sets it itself, after its exec. */
static int r_mortal(int argc, char **argv)
{
	int sig = atoi(argv[0]), v = -1;
	siginfo_t si;
	sigset_t set;

	(void)argc;
	(void)sigemptyset(&set);
	(void)sigaddset(&set, SIGUSR1);
	(void)sigprocmask(SIG_BLOCK, &set, NULL);
	(void)OK(prctl(PR_SET_PDEATHSIG, sig));
	(void)OK(prctl(PR_GET_PDEATHSIG, &v));
	EQ(v, sig);
	FAILS(prctl(PR_SET_PDEATHSIG, 65), EINVAL);
	answer("ready");
	EQ(sigwaitinfo(&set, &si), SIGUSR1);
	answer("it came");
	return 0;
}

static int r_parent_of_mortals(int argc, char **argv)
{
	(void)argc;
	(void)spawn("mortal", argv[0], NULL);
	(void)asked();
	return 0;
}

static void c_pdeathsig_own(void)
{
	for (int i = 0; i < 2; i++) {
		struct chat c =
			chat_with(NULL, NULL, "parent_of_mortals", i == 0 ? "9" : "10", NULL);

		expect_line(&c, "ready");
		(void)OK(kill(c.pid, SIGKILL));
		DIES(c.pid, SIGKILL);
		expect_line(&c, i == 0 ? "" : "it came");
		leave(&c);
	}
}

static void c_daemon(void)
{
	struct chat c = chat_with(NULL, NULL, "daemon", NULL);
	const char *got;
	int pid, ppid, sid;

	EXITS(c.pid, 0);
	got = hear(&c);
	EQ(sscanf(got, "%d %d %d", &pid, &ppid, &sid), 3);
	EQ(ppid, reaper());
	CHECK(sid != getsid(0) && sid != pid, "session %d, pid %d", sid, pid);
	(void)OK(kill(pid, 0));
	leave(&c);
}

static int r_daemon(int argc, char **argv)
{
	int parent = getpid();
	char text[16];

	(void)argc;
	(void)argv;
	(void)snprintf(text, sizeof(text), "%d", parent);
	if (fork() > 0)
		return 0;
	(void)OK(setsid());
	(void)snprintf(text, sizeof(text), "%d", getpid());
	if (fork() > 0)
		_exit(0);
	(void)become("daemon2", text, NULL);
	return 99;
}

static int r_daemon2(int argc, char **argv)
{
	(void)argc;
	while (getppid() == atoi(argv[0]))
		(void)poll(NULL, 0, 1);
	answer("%d %d %d", getpid(), getppid(), getsid(0));
	(void)asked();
	return 0;
}

/* Many children, made and waited for by an executed program. */
static int r_many(int argc, char **argv)
{
	pid_t pids[20];

	(void)argc;
	(void)argv;
	for (int i = 0; i < 20; i++)
		pids[i] = spawn("exit", number(i), NULL);
	for (int i = 0; i < 20; i++) {
		int status;
		pid_t got = (pid_t)OK(wait(&status));
		int k = 0;

		while (k < 20 && pids[k] != got)
			k++;
		EQ(status, k << 8);
		(void)mind(0);
	}
	return 0;
}

static void c_many(void)
{
	EXITS(spawn("many", NULL), 0);
}

const struct sub subs[] = {{"exit_codes", c_exit_codes},
			   {"signals", c_signals},
			   {"core_flag", c_core_flag},
			   {"core_dumped", c_core_dumped},
			   {"crash", c_crash},
			   {"thread_exit", c_thread_exit},
			   {"any", c_any},
			   {"one_of_many", c_one_of_many},
			   {"group", c_group},
			   {"own_group", c_own_group},
			   {"echild", c_echild},
			   {"einval", c_einval},
			   {"nohang", c_nohang},
			   {"waitid", c_waitid},
			   {"waitid_nowait", c_waitid_nowait},
			   {"waitid_group", c_waitid_group},
			   {"waitid_pidfd", c_waitid_pidfd},
			   {"wall", c_wall},
			   {"stop", c_stop},
			   {"stop_waitid", c_stop_waitid},
			   {"stop_self", c_stop_self},
			   {"stop_then_kill", c_stop_then_kill},
			   {"rusage", c_rusage},
			   {"rusage_children", c_rusage_children},
			   {"rusage_tree", c_rusage_tree},
			   {"rusage_waitid", c_rusage_waitid},
			   {"rusage_eintr", c_rusage_eintr},
			   {"sigchld", c_sigchld},
			   {"sigchld_stop", c_sigchld_stop},
			   {"sigchld_nocldstop", c_sigchld_nocldstop},
			   {"sigchld_ignored", c_sigchld_ignored},
			   {"sigchld_nocldwait", c_sigchld_nocldwait},
			   {"sigwaitinfo", c_sigwaitinfo},
			   {"signalfd", c_signalfd},
			   {"eintr", c_eintr},
			   {"restart", c_restart},
			   {"other_thread", c_other_thread},
			   {"orphan", c_orphan},
			   {"subreaper", c_subreaper},
			   {"subreaper_exec", c_subreaper_exec},
			   {"pdeathsig", c_pdeathsig},
			   {"pdeathsig_own", c_pdeathsig_own},
			   {"daemon", c_daemon},
			   {"many", c_many},
			   {NULL, NULL}};
const struct role roles[] = {{"burns_by_child", r_burns_by_child},
			     {"dumps", r_dumps},
			     {"crash", r_crash},
			     {"thread_exit", r_thread_exit},
			     {"echild", r_echild},
			     {"stops", r_stops},
			     {"burn", r_burn},
			     {"orphan", r_orphan},
			     {"parent_of_orphan", r_parent_of_orphan},
			     {"reaps", r_reaps},
			     {"parent_of_mortal", r_parent_of_mortal},
			     {"mortal", r_mortal},
			     {"parent_of_mortals", r_parent_of_mortals},
			     {"daemon", r_daemon},
			     {"daemon2", r_daemon2},
			     {"many", r_many},
			     {NULL, NULL}};
