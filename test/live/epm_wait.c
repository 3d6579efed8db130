/* epm_wait.c - parents and children on different nodes: statuses, stops, orphans, SIGCHLD. */
#include "epm.h"

extern char **environ;

/* a child that executes `sh -c SCRIPT` elsewhere */
static pid_t sh(const char *text)
{
	pid_t pid;

	(void)fflush(stdout);
	pid = fork();
	if (pid == 0) {
		(void)execl("/bin/sh", "sh", "-c", text, (char *)NULL);
		_exit(90);
	}
	return pid;
}

static void statuses(void)
{
	static const struct {
		const char *text;
		int status;
	} c[] = {{"exit 0", 0},
		 {"exit 1", 1 << 8},
		 {"exit 255", 255 << 8},
		 {"kill -TERM $$", SIGTERM},
		 {"kill -KILL $$", SIGKILL},
		 {"kill -USR1 $$", SIGUSR1},
		 {"ulimit -c 0; kill -SEGV $$", SIGSEGV},
		 {"ulimit -c 0; kill -ABRT $$", SIGABRT},
		 {"kill -35 $$", 35},
		 {"/bin/true; exit 7", 7 << 8},
		 {"/bin/false; exit $?", 1 << 8},
		 {"sh -c 'exit 9'; exit $?", 9 << 8},
		 {"sh -c 'kill -9 $$' >/dev/null 2>&1; exit $?", (128 + 9) << 8}};

	for (unsigned i = 0; i < KRG_NELEM(c); i++)
		tap_eq(wait_ms(sh(c[i].text), 10000) & ~0x80, c[i].status, "sh -c '%s'", c[i].text);
}

static void nohang_and_groups(void)
{
	pid_t a = sh("read x < /dev/tty; sleep 30"), b, got;
	int status;

	(void)kill(a, SIGKILL);
	(void)waitpid(a, NULL, 0);
	a = sh("sleep 30");
	tap_eq(waitpid(a, &status, WNOHANG), 0, "WNOHANG: not yet");
	tap_eq(waitpid(-1, &status, WNOHANG), 0, "WNOHANG, any: not yet");
	b = fork();
	if (b == 0) {
		(void)setpgid(0, 0);
		(void)execl("/bin/sh", "sh", "-c", "exit 3", (char *)NULL);
		_exit(90);
	}
	(void)setpgid(b, b);
	got = waitpid(-b, &status, 0);
	tap_ok(got == b && status == 3 << 8, "waitpid of a group (%d, %#x)", got, (unsigned)status);
	errno = 0;
	tap_ok(waitpid(-b, &status, 0) < 0 && errno == ECHILD, "and it is empty");
	(void)kill(a, SIGTERM);
	tap_eq(wait_ms(a, 10000), SIGTERM, "SIGTERM ends it");
	errno = 0;
	tap_ok(waitpid(-1, &status, 0) < 0 && errno == ECHILD, "no children are left");
}

static volatile sig_atomic_t chld;

static void on_chld(int s, siginfo_t *si, void *u)
{
	(void)s;
	(void)u;
	if (si->si_code == CLD_EXITED && si->si_status == 5)
		chld = si->si_pid;
}

static void sigchld(void)
{
	struct sigaction act = {.sa_sigaction = on_chld, .sa_flags = SA_SIGINFO | SA_RESTART};
	siginfo_t si = {0};
	pid_t pid;

	(void)sigaction(SIGCHLD, &act, NULL);
	pid = sh("exit 5");
	tap_ok(WAIT_UNTIL(chld == pid, 10000), "SIGCHLD tells who and how");
	tap_ok(waitid(P_PID, (id_t)pid, &si, WEXITED | WNOWAIT) == 0 && si.si_pid == pid &&
		       si.si_status == 5 && si.si_code == CLD_EXITED,
	       "waitid, WNOWAIT");
	tap_eq(wait_ms(pid, 1000), 5 << 8, "and again");
	act.sa_handler = SIG_IGN;
	act.sa_flags = 0;
	(void)sigaction(SIGCHLD, &act, NULL);
	pid = sh("exit 5");
	errno = 0;
	tap_ok(waitpid(pid, NULL, 0) < 0 && errno == ECHILD, "SIGCHLD ignored: no zombies");
	act.sa_handler = SIG_DFL;
	(void)sigaction(SIGCHLD, &act, NULL);
}

static int wait_for(pid_t pid, int options)
{
	int status = 0;
	pid_t got = 0;

	(void)WAIT_UNTIL((got = waitpid(pid, &status, options | WNOHANG)) != 0, 10000);
	return got == pid ? status : -1;
}

/* wait(2) sees a stop as in its kernel: 0x137f; and going on: 0xffff */
static void stops(void)
{
	static const int sigs[] = {SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU};
	pid_t pid;

	for (unsigned i = 0; i < KRG_NELEM(sigs); i++) {
		/* a group of its own, not orphaned: else SIGTSTP and its kin are passed over */
		pid = fork();
		if (pid == 0) {
			(void)setpgid(0, 0);
			(void)execl("/bin/sleep", "sleep", "30", (char *)NULL);
			_exit(90);
		}
		(void)setpgid(pid, pid);
		(void)WAIT_UNTIL(waitpid(pid, NULL, WNOHANG) == 0, 10);
		(void)poll(NULL, 0, 100); /* it sleeps */
		(void)kill(pid, sigs[i]);
		tap_eq(wait_for(pid, WUNTRACED), sigs[i] << 8 | 0x7f, "%s: seen stopped",
		       strsignal(sigs[i]));
		(void)kill(pid, SIGCONT);
		tap_eq(wait_for(pid, WCONTINUED), 0xffff, "%s: seen to go on", strsignal(sigs[i]));
		tap_eq(waitpid(pid, NULL, WNOHANG | WUNTRACED | WCONTINUED), 0, "nothing more");
		(void)kill(pid, sigs[i]);
		tap_eq(wait_for(pid, WUNTRACED), sigs[i] << 8 | 0x7f, "stopped again");
		(void)kill(pid, SIGKILL);
		tap_eq(wait_for(pid, 0), SIGKILL, "SIGKILL ends it while it stands");
	}
	pid = sh("kill -STOP $$; exit 6");
	tap_eq(wait_for(pid, WUNTRACED), SIGSTOP << 8 | 0x7f, "it stops itself");
	(void)kill(pid, SIGCONT);
	tap_eq(wait_ms(pid, 10000), 6 << 8, "and goes on to its end");
	pid = sh("trap 'exit 8' TERM; kill -STOP $$; while :; do sleep 0.05; done");
	tap_eq(wait_for(pid, WUNTRACED), SIGSTOP << 8 | 0x7f, "it stops itself");
	(void)kill(pid, SIGTERM);
	(void)kill(pid, SIGCONT);
	tap_eq(wait_ms(pid, 10000), 8 << 8, "a signal from while it stood is handled then");
}

static bool ended(const char *file)
{
	char text[32];

	return slurp(in_work(file), text, sizeof(text)) > 0;
}

/* A child makes a grandchild and ends: the grandchild goes on, as somebody else's. */
static void orphans(void)
{
	char text[900];
	pid_t pid;

	(void)snprintf(text, sizeof(text), "(sleep 0.3; echo done > %s) & exit 2",
		       in_work("orphan"));
	pid = sh(text);
	tap_eq(wait_ms(pid, 10000), 2 << 8, "the child ends first");
	tap_ok(WAIT_UNTIL(ended("orphan"), 10000), "the orphan goes on");

	(void)snprintf(text, sizeof(text),
		       "perl -e 'my $p = getppid(); while (getppid() == $p) { select undef, undef, "
		       "undef, 0.02 } open F, \">%s\"; print F getppid()' & sleep 0.2; kill -9 $$",
		       in_work("perl"));
	pid = sh(text);
	tap_eq(wait_ms(pid, 10000), SIGKILL, "the parent is killed");
	tap_ok(WAIT_UNTIL(ended("perl"), 10000), "the orphan sees it by getppid()");
}

/* many at once */
static void crowd(void)
{
	enum { N = 60 };
	pid_t pid[N];
	char text[64];
	int right = 0, status;

	for (int i = 0; i < N; i++) {
		(void)snprintf(text, sizeof(text), "exit %d", i);
		pid[i] = sh(text);
	}
	for (int i = 0; i < N; i++) {
		pid_t got = waitpid(-1, &status, 0);

		for (int k = 0; k < N; k++)
			right += pid[k] == got && status == k << 8;
	}
	tap_eq(right, N, "%d children at once: each status", N);
}

int main(void)
{
	test_init("wait", 100);
	statuses();
	nohang_and_groups();
	sigchld();
	stops();
	orphans();
	crowd();
	test_fini();
	return tap_done();
}
