/* epm_signal.c - signals between processes on different nodes. */
#include "epm.h"

extern char **environ;

/* ---- children: this program, elsewhere ----
 * --count FILE SIG…   counts signals; writes FILE ("ready", then "SIG CODE VALUE UID from PID" lines), ends by SIGTERM
 * --kill PID SIG      kill(2), exit status: errno
 * --sleep             until it is killed */

static pid_t start(char **argv, bool group)
{
	pid_t pid;

	(void)fflush(stdout);
	pid = fork();
	if (pid == 0) {
		if (group)
			(void)setpgid(0, 0);
		(void)execv(self_path, argv);
		_exit(90);
	}
	if (group)
		(void)setpgid(pid, pid);
	return pid;
}

static pid_t start_count(const char *file, bool group)
{
	char *argv[] = {(char *)"signal", (char *)"--count", (char *)file, NULL};

	return start(argv, group);
}

static int count_main(const char *file)
{
	FILE *f = fopen(file, "we");
	siginfo_t si;
	sigset_t set;

	if (f == NULL)
		return 99;
	sigfillset(&set);
	(void)sigprocmask(SIG_SETMASK, &set, NULL);
	(void)fprintf(f, "ready %d %llu\n", getpid(), (unsigned long long)where());
	(void)fflush(f);
	for (;;) {
		/* not glibc's, which makes SI_TKILL SI_USER */
		int sig = (int)syscall(SYS_rt_sigtimedwait, &set, &si, NULL, 8);

		if (sig < 0)
			continue;
		(void)fprintf(f, "%d %d %d %u from %d\n", sig, si.si_code,
			      si.si_code == SI_QUEUE ? si.si_value.sival_int : 0, si.si_uid,
			      si.si_pid);
		(void)fflush(f);
		if (sig == SIGTERM)
			return 44;
	}
}

static bool file_has(const char *file, const char *text, unsigned times)
{
	char all[16384];
	const char *at = all;
	unsigned n = 0;

	if (slurp(file, all, sizeof(all)) < 0)
		return false;
	while ((at = strstr(at, text)) != NULL) {
		n++;
		at++;
	}
	return n >= times;
}

static bool file_has_signal(const char *file, int sig, int code, pid_t from)
{
	char line[64];

	(void)snprintf(line, sizeof(line), "\n%d %d 0 %u from %d\n", sig, code, getuid(), from);
	return file_has(file, line, 1);
}

static unsigned long long where_is(const char *file)
{
	char all[16384];
	int pid;
	unsigned long long w = 0;

	if (slurp(file, all, sizeof(all)) > 0)
		(void)sscanf(all, "ready %d %llu", &pid, &w);
	return w;
}

static void to_child(void)
{
	const char *f = in_work("one");
	union sigval v = {.sival_int = 4711};
	pid_t pid = start_count(f, false);

	tap_ok(WAIT_UNTIL(file_has(f, "ready", 1), 10000), "the child runs");
	if (expect_moves())
		tap_ok(where_is(f) != where(), "on another node");
	tap_eq(kill(pid, 0), 0, "kill 0: it is there");
	tap_eq(kill(pid, SIGUSR1), 0, "kill");
	tap_ok(WAIT_UNTIL(file_has(f, "\n10 ", 1), 10000), "SIGUSR1 arrives");
	tap_eq(kill(pid, SIGHUP), 0, "kill");
	tap_ok(WAIT_UNTIL(file_has(f, "\n1 ", 1), 10000), "SIGHUP arrives");
	tap_eq(sigqueue(pid, SIGRTMIN + 3, v), 0, "sigqueue");
	tap_ok(WAIT_UNTIL(file_has(f, "\n37 -1 4711", 1), 10000), "its value arrives");
	for (int i = 0; i < 20; i++) {
		v.sival_int = 1000 + i;
		if (sigqueue(pid, SIGRTMIN, v) < 0)
			tap_ok(false, "sigqueue %d", i);
	}
	tap_ok(WAIT_UNTIL(file_has(f, "\n34 -1 10", 20), 10000), "twenty are queued, none is lost");
	tap_eq(syscall(SYS_tgkill, pid, pid, SIGUSR2), 0, "tgkill");
	tap_ok(WAIT_UNTIL(file_has(f, "\n12 ", 1), 10000), "arrives");
	tap_ok(kill(pid, 99) < 0 && errno == EINVAL, "a bad signal: EINVAL");
	tap_eq(kill(pid, SIGTERM), 0, "SIGTERM");
	tap_eq(wait_ms(pid, 10000), 44 << 8, "and it ends as it wants");
	tap_ok(kill(pid, 0) < 0 && errno == ESRCH, "then: ESRCH");
	tap_ok(kill(pid, SIGTERM) < 0 && errno == ESRCH, "then: ESRCH");
}

static pid_t start_kill(pid_t pid, int sig, bool group)
{
	char a[16], b[16];
	char *argv[] = {(char *)"signal", (char *)"--kill", a, b, NULL};

	(void)snprintf(a, sizeof(a), "%d", pid);
	(void)snprintf(b, sizeof(b), "%d", sig);
	return start(argv, group);
}

static int do_kill(pid_t pid, int sig)
{
	return wait_ms(start_kill(pid, sig, false), 10000) >> 8 & 0xff;
}

static volatile sig_atomic_t told_pid, told_code;

static void on_info(int s, siginfo_t *si, void *u)
{
	(void)s;
	(void)u;
	told_code = si->si_code;
	told_pid = si->si_pid;
}

/* Who sent it, as the kernel shows it: here, from here, between two that are elsewhere, to a group. */
static void senders(void)
{
	struct sigaction act = {.sa_sigaction = on_info, .sa_flags = SA_RESTART | SA_SIGINFO};
	const char *a = in_work("from");
	pid_t pid = start_count(a, true), by;
	int right = 0;

	tap_ok(WAIT_UNTIL(file_has(a, "ready", 1), 10000), "a child in a group of its own");
	(void)kill(pid, SIGUSR1);
	tap_ok(WAIT_UNTIL(file_has_signal(a, SIGUSR1, SI_USER, getpid()), 10000), "kill: from us");
	(void)syscall(SYS_tgkill, pid, pid, SIGUSR2);
	tap_ok(WAIT_UNTIL(file_has_signal(a, SIGUSR2, SI_TKILL, getpid()), 10000),
	       "tgkill: from us, SI_TKILL");
	by = start_kill(pid, SIGHUP, false);
	tap_eq(wait_ms(by, 10000), 0, "a sibling elsewhere kills it");
	tap_ok(WAIT_UNTIL(file_has_signal(a, SIGHUP, SI_USER, by), 10000), "from the sibling");
	by = start_kill(pid, SIGWINCH, true);
	tap_eq(wait_ms(by, 10000), 0, "one that leads a group, too");
	tap_ok(WAIT_UNTIL(file_has_signal(a, SIGWINCH, SI_USER, by), 10000), "from that");
	by = start_kill(-pid, SIGURG, false);
	tap_eq(wait_ms(by, 10000), 0, "its group is killed from elsewhere");
	tap_ok(WAIT_UNTIL(file_has_signal(a, SIGURG, SI_USER, by), 10000), "from that one");
	(void)kill(-pid, SIGALRM);
	tap_ok(WAIT_UNTIL(file_has_signal(a, SIGALRM, SI_USER, getpid()), 10000),
	       "a group, from here: from us");
	(void)kill(pid, SIGTERM);
	tap_eq(wait_ms(pid, 10000), 44 << 8, "it ends");
	/* a child that signals its parent and ends at once is still known */
	(void)sigaction(SIGUSR1, &act, NULL);
	for (int i = 0; i < 20; i++) {
		told_pid = 0;
		by = start_kill(getpid(), SIGUSR1, false);
		(void)WAIT_UNTIL(told_pid != 0, 2000);
		right += wait_ms(by, 10000) == 0 && told_pid == by && told_code == SI_USER;
	}
	tap_eq(right, 20, "a child's signal to its parent, and its end at once");
	(void)signal(SIGUSR1, SIG_DFL);
}

static volatile sig_atomic_t got_usr1, got_usr2;

static void on_signal(int s)
{
	if (s == SIGUSR1)
		got_usr1++;
	else
		got_usr2++;
}

static void from_child(void)
{
	struct sigaction act = {.sa_handler = on_signal, .sa_flags = SA_RESTART};

	(void)sigaction(SIGUSR1, &act, NULL);
	(void)sigaction(SIGUSR2, &act, NULL);
	tap_eq(do_kill(getpid(), SIGUSR1), 0, "the child kills its parent");
	tap_ok(WAIT_UNTIL(got_usr1 == 1, 10000), "it arrives");
	tap_eq(do_kill(getpid(), 0), 0, "kill 0 of the parent");
	(void)signal(SIGUSR1, SIG_DFL);
	(void)signal(SIGUSR2, SIG_DFL);
}

static void siblings(void)
{
	const char *a = in_work("a"), *b = in_work("b"), *c = in_work("c");
	pid_t pa = start_count(a, false), pb = start_count(b, false), pc = start_count(c, false);

	tap_ok(WAIT_UNTIL(file_has(a, "ready", 1) && file_has(b, "ready", 1) &&
				  file_has(c, "ready", 1),
			  10000),
	       "three siblings on other nodes");
	tap_eq(do_kill(pa, SIGUSR1), 0, "a fourth kills the first");
	tap_eq(do_kill(pb, SIGUSR2), 0, "a fifth kills the second");
	tap_eq(do_kill(pc, SIGHUP), 0, "a sixth kills the third");
	tap_ok(WAIT_UNTIL(file_has(a, "\n10 ", 1) && file_has(b, "\n12 ", 1) &&
				  file_has(c, "\n1 ", 1),
			  10000),
	       "each got its own");
	tap_eq(do_kill(pa, SIGKILL), 0, "SIGKILL from a sibling");
	tap_eq(wait_ms(pa, 10000), SIGKILL, "it is dead");
	tap_eq(do_kill(pa, 0), ESRCH, "ESRCH, from elsewhere");
	tap_eq(do_kill(pb, SIGSTOP), 0, "SIGSTOP from a sibling");
	int status = 0;
	(void)WAIT_UNTIL(waitpid(pb, &status, WUNTRACED | WNOHANG) != 0, 10000);
	tap_eq(status, SIGSTOP << 8 | 0x7f, "it stands");
	tap_eq(do_kill(pb, SIGCONT), 0, "SIGCONT from a sibling");
	tap_eq(do_kill(pb, SIGTERM), 0, "SIGTERM from a sibling");
	tap_eq(wait_ms(pb, 10000), 44 << 8, "it goes on, and ends");
	(void)kill(pc, SIGTERM);
	tap_eq(wait_ms(pc, 10000), 44 << 8, "so does the third");
}

/* A group with members on several nodes. */
static void groups(void)
{
	const char *a = in_work("ga"), *b = in_work("gb");
	pid_t pa = start_count(a, true), pb;
	pid_t here = fork();
	char text[64];

	if (here == 0) {
		(void)setpgid(0, pa);
		for (;;)
			(void)pause();
	}
	(void)setpgid(here, pa);
	pb = fork();
	if (pb == 0) {
		(void)setpgid(0, pa);
		(void)execl(self_path, "signal", "--count", b, (char *)NULL);
		_exit(90);
	}
	(void)setpgid(pb, pa);
	tap_ok(WAIT_UNTIL(file_has(a, "ready", 1) && file_has(b, "ready", 1), 10000),
	       "a group on nodes");
	tap_eq(getpgid(pb), pa, "getpgid of a remote child");
	tap_eq(kill(-pa, 0), 0, "kill 0 of the group");
	tap_eq(killpg(pa, SIGUSR2 + 0 * SIGUSR1), 0, "killpg");
	tap_ok(WAIT_UNTIL(file_has(a, "\n12 ", 1) && file_has(b, "\n12 ", 1), 10000),
	       "every member elsewhere gets it");
	tap_eq(wait_ms(here, 10000), SIGUSR2, "and the one here");
	tap_eq(do_kill(-pa, SIGHUP), 0, "a group, from another node");
	tap_ok(WAIT_UNTIL(file_has(a, "\n1 ", 1) && file_has(b, "\n1 ", 1), 10000),
	       "it gets there");
	(void)snprintf(text, sizeof(text), "kill -TERM -%d", pa);
	tap_eq(system(text), 0, "a shell's kill of the group");
	tap_eq(wait_ms(pa, 10000), 44 << 8, "one ends");
	tap_eq(wait_ms(pb, 10000), 44 << 8, "the other, too");
	tap_ok(kill(-pa, 0) < 0 && errno == ESRCH, "the group is gone: ESRCH");
	tap_eq(do_kill(-pa, SIGTERM), ESRCH, "ESRCH, from elsewhere");
}

/* kill(0): one's own group, here and there */
static void own_group(void)
{
	pid_t pid = fork();
	int status;

	if (pid == 0) {
		pid_t kid[3];

		(void)setpgid(0, 0);
		for (int i = 0; i < 3; i++)
			kid[i] =
				start((char *[]){(char *)"signal", (char *)"--sleep", NULL}, false);
		(void)signal(SIGTERM, SIG_IGN);
		(void)poll(NULL, 0, 300);
		(void)kill(0, SIGTERM);
		for (int i = 0; i < 3; i++)
			if (waitpid(kid[i], &status, 0) != kid[i] || status != SIGTERM)
				_exit(1);
		_exit(55);
	}
	(void)setpgid(pid, pid);
	tap_eq(wait_ms(pid, 10000), 55 << 8, "kill 0: the own group, wherever its members are");
	/* from a member that is elsewhere itself */
	pid = fork();
	if (pid == 0) {
		(void)setpgid(0, 0);
		(void)signal(SIGTERM, SIG_IGN);
		pid_t kid = start((char *[]){(char *)"signal", (char *)"--kill", (char *)"0",
					     (char *)"1", NULL},
				  false);

		_exit(waitpid(kid, &status, 0) == kid && status == SIGHUP ? 1 : 2);
	}
	(void)setpgid(pid, pid);
	tap_eq(wait_ms(pid, 10000), SIGHUP, "kill 0 by a child elsewhere ends its parent");
}

static void permission(void)
{
	const char *f = in_work("perm");
	pid_t root, pid;

	if (geteuid() != 0)
		return;
	root = start_count(f, false);
	(void)WAIT_UNTIL(file_has(f, "ready", 1), 10000);
	pid = fork();
	if (pid == 0) {
		ASSERT(setresuid(2001, 2001, 2001) == 0);
		_exit(kill(root, SIGTERM) < 0 && errno == EPERM && kill(root, 0) < 0 &&
				      errno == EPERM
			      ? do_kill(root, SIGTERM)
			      : 1);
	}
	tap_eq(wait_ms(pid, 15000), EPERM << 8,
	       "another user's process: EPERM, here and elsewhere");
	pid = fork();
	if (pid == 0) {
		/* SIGCONT within the session is allowed */
		ASSERT(setresuid(2001, 2001, 2001) == 0);
		_exit(kill(root, SIGCONT) < 0 ? errno : do_kill(root, SIGCONT));
	}
	tap_eq(wait_ms(pid, 15000), 0, "but SIGCONT, in the same session");
	tap_ok(WAIT_UNTIL(file_has(f, "\n18 ", 1), 10000), "and it arrives");
	tap_ok(!file_has(f, "\n15 ", 1), "no SIGTERM did");
	(void)kill(root, SIGKILL);
	tap_eq(wait_ms(root, 10000), SIGKILL, "root may");
}

static void nobody(void)
{
	/* pids of every node's range that nobody has, and of no node's */
	static const pid_t pids[] = {65000, 97000, 130000, 4000000, 33000};

	for (unsigned i = 0; i < KRG_NELEM(pids); i++)
		tap_ok(kill(pids[i], SIGTERM) < 0 && errno == ESRCH, "kill %d: ESRCH", pids[i]);
	tap_ok(kill(-65000, SIGTERM) < 0 && errno == ESRCH, "a group that nobody is in: ESRCH");
}

/* Signals before, during and after the exec: handled, deadly, or ignored, never lost in between. */
static void during_exec(void)
{
	enum { N = 60 };
	int right = 0;

	for (int i = 0; i < N; i++) {
		pid_t pid = start((char *[]){(char *)"signal", (char *)"--sleep", NULL}, false);
		int status;

		(void)poll(NULL, 0, 0);
		for (volatile int k = 0; k < i * 20000; k++)
			;
		(void)kill(pid, i % 2 == 0 ? SIGTERM : SIGKILL);
		status = wait_ms(pid, 10000);
		if (status == (i % 2 == 0 ? SIGTERM : SIGKILL))
			right++;
		else
			printf("# %d: status %#x\n", i, (unsigned)status);
	}
	tap_eq(right, N, "a deadly signal at any moment of an exec ends it");
	right = 0;
	for (int i = 0; i < 20; i++) {
		pid_t pid = fork();

		if (pid == 0) {
			(void)signal(SIGUSR1, SIG_IGN);
			(void)execl("/bin/sh", "sh", "-c", "/bin/true; exit 3", (char *)NULL);
			_exit(90);
		}
		(void)poll(NULL, 0, 1);
		for (int k = 0; k < 100; k++)
			(void)kill(pid, SIGWINCH);
		/* stops and continues, too */
		for (int k = 0; k < 5; k++) {
			(void)kill(pid, SIGSTOP);
			(void)poll(NULL, 0, k);
			(void)kill(pid, SIGCONT);
		}
		right += wait_ms(pid, 10000) == 3 << 8;
	}
	tap_eq(right, 20, "a storm of ignored signals and stops harms no exec");
}

static void pending_blocked(void)
{
	const char *f = in_work("blocked");
	pid_t pid = fork();

	if (pid == 0) {
		sigset_t set;

		sigfillset(&set);
		(void)sigprocmask(SIG_SETMASK, &set, NULL);
		(void)raise(SIGUSR2);
		(void)sigqueue(getpid(), SIGRTMIN + 1, (union sigval){.sival_int = 99});
		(void)execl(self_path, "signal", "--count", f, (char *)NULL);
		_exit(90);
	}
	tap_ok(WAIT_UNTIL(file_has(f, "\n12 ", 1) && file_has(f, "\n35 -1 99", 1), 10000),
	       "what was pending before the exec is pending after it");
	(void)kill(pid, SIGTERM);
	tap_eq(wait_ms(pid, 10000), 44 << 8, "it ends");
}

int main(int argc, char **argv)
{
	ssize_t n = readlink("/proc/self/exe", self_path, sizeof(self_path) - 1);

	self_path[n > 0 ? n : 0] = '\0';
	if (argc >= 3 && strcmp(argv[1], "--count") == 0)
		return count_main(argv[2]);
	if (argc >= 4 && strcmp(argv[1], "--kill") == 0)
		return kill((pid_t)strtol(argv[2], NULL, 10), (int)strtol(argv[3], NULL, 10)) < 0
			       ? errno
			       : 0;
	if (argc >= 2 && strcmp(argv[1], "--sleep") == 0)
		for (;;)
			(void)pause();
	test_init("signal", 100);
	to_child();
	senders();
	from_child();
	siblings();
	groups();
	own_group();
	permission();
	nobody();
	during_exec();
	pending_blocked();
	test_fini();
	return tap_done();
}
