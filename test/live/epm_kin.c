/* epm_kin.c - a program that has children and executes: they stay, it goes, and it waits for them from
 * there.  Each case is done where it is and elsewhere, and must say the same. */
#include "epm.h"
#include <sys/resource.h>
#include <sys/time.h>

extern char **environ;

static FILE *out;
#define SAY(...) ((void)fprintf(out, __VA_ARGS__))

/* ---- children, made before the exec; they do as they are told by signals after it ---- */

#define KIDS_MAX 20
static pid_t kid[KIDS_MAX];
static int nkids;

static void nothing(int sig)
{
	(void)sig;
}

/* Until SIGUSR1 (exit), or what it does by default. */
_Noreturn static void idle(int code)
{
	struct sigaction act = {.sa_handler = nothing};
	struct rlimit none = {0, 0};
	sigset_t set, old;

	(void)alarm(60); /* whatever becomes of the test */
	(void)setrlimit(RLIMIT_CORE, &none);
	(void)sigaction(SIGUSR1, &act, NULL);
	act.sa_handler = SIG_DFL;
	(void)sigaction(SIGCHLD, &act, NULL);
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	(void)sigprocmask(SIG_BLOCK, &set, &old);
	sigdelset(&old, SIGUSR1);
	(void)sigsuspend(&old);
	_exit(code);
}

enum { GROUP_SAME = 0, GROUP_OWN = -1, SESSION_OWN = -2 };

/* clone(2) with another exit signal, as fork: its memory is its own */
static pid_t child_like_fork(int exit_signal)
{
	return (pid_t)syscall(SYS_clone, exit_signal, 0, 0, 0, 0);
}

static void make(int code, int group, int exit_signal)
{
	int ready[2];
	char c;
	pid_t pid;

	ASSERT(nkids < KIDS_MAX && pipe2(ready, O_CLOEXEC) == 0);
	pid = child_like_fork(exit_signal);
	if (pid == 0) {
		sigset_t set;

		if (group == SESSION_OWN)
			(void)setsid();
		else if (group != GROUP_SAME)
			(void)setpgid(0, group == GROUP_OWN ? 0 : group);
		/* from here on SIGUSR1 waits for it */
		sigemptyset(&set);
		sigaddset(&set, SIGUSR1);
		(void)sigprocmask(SIG_BLOCK, &set, NULL);
		(void)!write(ready[1], "r", 1);
		(void)close(ready[0]);
		(void)close(ready[1]);
		idle(code);
	}
	(void)close(ready[1]);
	ASSERT(pid > 0 && read(ready[0], &c, 1) == 1);
	(void)close(ready[0]);
	kid[nkids++] = pid;
}

/* ---- what is said of them ---- */

static int index_of(pid_t pid)
{
	for (int i = 0; i < nkids; i++)
		if (kid[i] == pid)
			return i;
	return pid > 0 ? 99 : (int)pid;
}

static void say_wait(const char *what, pid_t got, int status)
{
	if (got < 0)
		SAY("%s: errno %d\n", what, errno);
	else
		SAY("%s: %d %#x\n", what, index_of(got), got > 0 ? (unsigned)status & ~0x80u : 0);
}

static void do_wait(const char *what, pid_t pid, int options)
{
	int status = 0;
	pid_t got = waitpid(pid, &status, options);

	say_wait(what, got, status);
}

static void do_waitid(const char *what, idtype_t type, id_t id, int options)
{
	siginfo_t si = {0};

	if (waitid(type, id, &si, options) < 0)
		SAY("%s: errno %d\n", what, errno);
	else
		SAY("%s: %d code %d status %d uid %d sig %d\n", what, index_of(si.si_pid),
		    si.si_code, si.si_status, si.si_pid > 0 ? (int)si.si_uid : -1, si.si_signo);
}

/* ---- the cases: children; then, after the exec, what is done ---- */

static void make_five(void)
{
	for (int i = 0; i < 5; i++)
		make(i == 0 ? 0 : i == 1 ? 255 : 10 + i, GROUP_SAME, SIGCHLD);
}

static void statuses(void)
{
	static const int sig[5] = {SIGUSR1, SIGUSR1, SIGTERM, SIGSEGV, 40};

	do_wait("not yet", -1, WNOHANG);
	do_wait("not this", kid[3], WNOHANG);
	for (int i = 4; i >= 0; i--) {
		struct rusage ru;
		int status = 0;
		pid_t got;

		SAY("kill %d\n", kill(kid[i], sig[i]));
		got = wait4(i % 2 == 0 ? kid[i] : -1, &status, 0, &ru);
		say_wait("ended", got, status);
		do_wait("again", kid[i], 0);
	}
	do_wait("nobody", -1, 0);
	do_wait("nobody", -1, WNOHANG);
}

static void make_groups(void)
{
	make(1, GROUP_OWN, SIGCHLD);
	make(2, kid[0], SIGCHLD);
	make(3, GROUP_SAME, SIGCHLD);
	make(4, SESSION_OWN, SIGCHLD);
}

static void groups(void)
{
	SAY("groups %d %d %d %d\n", index_of(getpgid(kid[0])), index_of(getpgid(kid[1])),
	    getpgid(kid[2]) == getpgrp(), index_of(getpgid(kid[3])));
	SAY("sessions %d %d\n", getsid(kid[0]) == getsid(0), index_of(getsid(kid[3])));
	do_wait("group, not yet", -kid[0], WNOHANG);
	SAY("kill %d\n", kill(kid[2], SIGUSR1));
	do_wait("own group", 0, 0);
	do_wait("own group", 0, 0);
	SAY("kill %d\n", kill(-kid[0], SIGTERM));
	do_waitid("pid", P_PID, (id_t)kid[0], WEXITED | WNOWAIT);
	do_waitid("pid", P_PID, (id_t)kid[1], WEXITED | WNOWAIT);
	do_waitid("group", P_PGID, (id_t)kid[0], WEXITED | WNOWAIT);
	do_wait("its first", kid[0], 0);
	do_wait("group", -kid[0], 0);
	do_wait("group", -kid[0], 0);
	SAY("kill %d\n", kill(kid[3], SIGUSR1));
	do_wait("session", -1, 0);
}

static void make_one(void)
{
	make(7, GROUP_OWN, SIGCHLD);
}

static void stops(void)
{
	static const int sigs[] = {SIGSTOP, SIGTSTP, SIGTTIN};

	for (unsigned i = 0; i < KRG_NELEM(sigs); i++) {
		SAY("kill %d\n", kill(kid[0], sigs[i]));
		do_waitid("stop, peeked", P_PID, (id_t)kid[0], WSTOPPED | WNOWAIT);
		do_wait("stop", kid[0], WUNTRACED);
		do_wait("once", kid[0], WUNTRACED | WNOHANG);
		SAY("kill %d\n", kill(kid[0], SIGCONT));
		do_wait("goes on", kid[0], WCONTINUED);
		do_wait("once", kid[0], WUNTRACED | WCONTINUED | WNOHANG);
	}
	SAY("kill %d\n", kill(kid[0], SIGSTOP));
	do_wait("stop", -1, WUNTRACED);
	SAY("kill %d\n", kill(kid[0], SIGKILL));
	do_wait("killed while it stands", -1, 0);
}

static void make_signals(void)
{
	make(1, GROUP_SAME, SIGUSR2); /* after the exec: SIGCHLD */
	make(2, GROUP_SAME, 0);
	make(3, GROUP_SAME, SIGCHLD);
}

static siginfo_t seen;
static volatile sig_atomic_t nseen;

static void see(int sig, siginfo_t *si, void *u)
{
	(void)sig;
	(void)u;
	seen = *si;
	nseen++;
}

static void say_seen(const char *what)
{
	(void)WAIT_UNTIL(nseen > 0, 10000);
	SAY("%s: %d times sig %d code %d pid %d status %d uid %d\n", what, (int)nseen,
	    seen.si_signo, seen.si_code, index_of(seen.si_pid), seen.si_status, (int)seen.si_uid);
	nseen = 0;
	memset(&seen, 0, sizeof(seen));
}

static void exit_signals(void)
{
	struct sigaction act = {.sa_sigaction = see, .sa_flags = SA_SIGINFO | SA_RESTART};

	(void)sigaction(SIGCHLD, &act, NULL);
	(void)sigaction(SIGUSR2, &act, NULL);
	do_wait("not one of clone's", kid[0], WNOHANG);
	do_wait("clone's", kid[0], WNOHANG | __WCLONE);
	SAY("kill %d\n", kill(kid[0], SIGUSR1));
	do_wait("any", kid[0], __WALL);
	say_seen("its signal");
	SAY("kill %d\n", kill(kid[1], SIGUSR1));
	do_wait("clone's", -1, __WCLONE);
	SAY("seen %d\n", (int)nseen);
	nseen = 0;
	SAY("kill %d\n", kill(kid[2], SIGTERM));
	say_seen("its signal");
	do_wait("fork's", -1, 0);
}

static void sigchld(void)
{
	struct sigaction act = {.sa_sigaction = see, .sa_flags = SA_SIGINFO | SA_RESTART};

	(void)sigaction(SIGCHLD, &act, NULL);
	SAY("kill %d\n", kill(kid[0], SIGSTOP));
	say_seen("stop");
	SAY("kill %d\n", kill(kid[0], SIGCONT));
	say_seen("goes on");
	SAY("kill %d\n", kill(getpid(), SIGCHLD));
	say_seen("by hand");
	SAY("kill %d\n", kill(kid[0], SIGUSR1));
	say_seen("end");
	do_wait("end", -1, 0);
}

/* a wait is broken by a handler, or goes on after it */
static void interrupted(void)
{
	struct itimerval in = {.it_value.tv_usec = 50000};
	struct sigaction act = {.sa_handler = nothing};
	pid_t me = getpid(), helper;

	(void)sigaction(SIGALRM, &act, NULL);
	(void)setitimer(ITIMER_REAL, &in, NULL);
	do_wait("a handler", kid[0], 0);
	(void)setitimer(ITIMER_REAL, &in, NULL);
	do_waitid("a handler", P_ALL, 0, WEXITED | WSTOPPED);
	act.sa_flags = SA_RESTART;
	(void)sigaction(SIGALRM, &act, NULL);
	(void)fflush(out);
	helper = fork();
	if (helper == 0) {
		(void)kill(me, SIGALRM);
		(void)kill(kid[0], SIGUSR1);
		_exit(0);
	}
	do_wait("SA_RESTART", kid[0], 0);
	SAY("helper %d\n", waitpid(helper, NULL, 0) == helper);
}

static void make_ignored(void)
{
	(void)signal(SIGCHLD, SIG_IGN);
	make(1, GROUP_SAME, SIGCHLD);
	make(2, GROUP_SAME, SIGCHLD);
	(void)kill(kid[1], SIGUSR1); /* perhaps before the exec, perhaps after */
}

static void ignored(void)
{
	SAY("kill %d\n", kill(kid[0], SIGUSR1));
	do_wait("ignored", -1, 0);
	(void)signal(SIGCHLD, SIG_DFL);
}

static void ignored_later(void)
{
	(void)signal(SIGCHLD, SIG_IGN);
	SAY("kill %d\n", kill(kid[0], SIGUSR1));
	do_wait("ignored", kid[0], 0);
	do_wait("ignored", -1, WNOHANG);
}

static void make_ended(void)
{
	siginfo_t si;

	make(1, GROUP_OWN, SIGCHLD);
	make(2, GROUP_OWN, SIGCHLD);
	make(3, GROUP_OWN, SIGCHLD);
	(void)kill(kid[0], SIGUSR1);
	(void)waitid(P_PID, (id_t)kid[0], &si, WEXITED | WNOWAIT);
	(void)kill(kid[1], SIGKILL);
	(void)waitid(P_PID, (id_t)kid[1], &si, WEXITED | WNOWAIT);
	(void)kill(kid[2], SIGSTOP);
	(void)waitid(P_PID, (id_t)kid[2], &si, WSTOPPED | WNOWAIT);
}

static void ended_before(void)
{
	do_wait("ended before", kid[1], 0);
	do_wait("stopped before", kid[2], WUNTRACED);
	SAY("kill %d\n", kill(kid[2], SIGKILL));
	do_wait("killed", kid[2], 0);
	do_wait("ended before", -1, 0);
	do_wait("nobody", -1, 0);
}

/* children that it makes where it runs are among them */
static void merged(void)
{
	int status, own = 0, kin = 0, wrong = 0;
	pid_t pid[8], got;

	for (int i = 0; i < 8; i++) {
		pid[i] = fork();
		if (pid[i] == 0) {
			if (i % 2 == 0)
				_exit(100 + i);
			(void)execl("/bin/sh", "sh", "-c", "exit 55", (char *)NULL);
			_exit(99);
		}
		if (i < 5)
			(void)kill(kid[i], SIGUSR1);
	}
	while ((got = wait(&status)) > 0) {
		int at = index_of(got);

		if (at < nkids) {
			kin++;
			wrong += status != (at == 0 ? 0 : at == 1 ? 255 : 10 + at) << 8;
			continue;
		}
		for (int i = 0; i < 8; i++) {
			if (pid[i] != got)
				continue;
			own++;
			wrong += status != (i % 2 == 0 ? 100 + i : 55) << 8;
		}
	}
	SAY("kin %d own %d wrong %d errno %d\n", kin, own, wrong, errno);
}

/* by pidfd the signal does not pass the gate */
static void pidfds(void)
{
	int fd = (int)syscall(SYS_pidfd_open, kid[0], 0);
	int fd2 = (int)syscall(SYS_pidfd_open, kid[1], 0);
	struct pollfd p = {.fd = fd, .events = POLLIN};

	SAY("open %d %d\n", fd >= 0, fd2 >= 0);
	SAY("not yet %d\n", poll(&p, 1, 0));
	SAY("signal %ld\n", syscall(SYS_pidfd_send_signal, fd, SIGUSR1, NULL, 0));
	SAY("it ends %d\n", poll(&p, 1, 10000));
	do_waitid("pidfd", P_PIDFD, (id_t)fd, WEXITED);
	SAY("signal %ld\n", syscall(SYS_pidfd_send_signal, fd2, SIGKILL, NULL, 0));
	do_waitid("pidfd", P_PIDFD, (id_t)fd2, WEXITED);
	/* and the child itself is gone */
	errno = 0;
	SAY("gone %d %d\n", WAIT_UNTIL(kill(kid[1], 0) < 0 && errno == ESRCH, 10000), errno);
	for (int i = 2; i < 5; i++)
		(void)kill(kid[i], SIGUSR1);
	for (int i = 2; i < 5; i++)
		do_wait("rest", kid[i], 0);
}

static void set_groups(void)
{
	SAY("setpgid %d\n", setpgid(kid[1], kid[1]));
	SAY("group %d\n", index_of(getpgid(kid[1])));
	SAY("setpgid %d\n", setpgid(kid[2], kid[1]));
	SAY("kill %d\n", kill(-kid[1], SIGTERM));
	do_wait("its first", kid[1], 0);
	do_wait("group", -kid[1], 0);
	do_wait("group", -kid[1], WNOHANG);
	for (int i = 0; i < 5; i++)
		(void)kill(kid[i], SIGUSR1);
	do_wait("rest", kid[0], 0);
	do_wait("rest", kid[3], 0);
	do_wait("rest", kid[4], 0);
}

static void make_executing(void)
{
	int ready[2];
	char c;

	/* it executes when it is told to, anywhere */
	ASSERT(pipe2(ready, O_CLOEXEC) == 0);
	kid[nkids] = fork();
	if (kid[nkids] == 0) {
		sigset_t set;
		int sig;

		sigemptyset(&set);
		sigaddset(&set, SIGUSR1);
		(void)sigprocmask(SIG_BLOCK, &set, NULL);
		(void)!write(ready[1], "r", 1);
		(void)sigwait(&set, &sig);
		(void)execl("/bin/sh", "sh", "-c", "kill -STOP $$; exit 33", (char *)NULL);
		_exit(99);
	}
	(void)close(ready[1]);
	ASSERT(read(ready[0], &c, 1) == 1);
	(void)close(ready[0]);
	nkids++;
}

static void executing(void)
{
	SAY("kill %d\n", kill(kid[0], SIGUSR1));
	do_wait("stop", -1, WUNTRACED);
	SAY("kill %d\n", kill(kid[0], SIGCONT));
	do_wait("end", -1, 0);
}

static void make_many(void)
{
	for (int i = 0; i < KIDS_MAX; i++)
		make(i, GROUP_SAME, SIGCHLD);
}

static void many(void)
{
	int right = 0, status;

	for (int i = 0; i < nkids; i++)
		(void)kill(kid[i], SIGUSR1);
	for (int i = 0; i < nkids; i++) {
		pid_t got = wait(&status);

		right += got > 0 && status == index_of(got) << 8;
	}
	SAY("right %d\n", right);
}

static const struct test_case {
	const char *name;
	void (*make)(void);
	void (*then)(void);
} cases[] = {{"statuses", make_five, statuses},
	     {"groups and sessions", make_groups, groups},
	     {"stops", make_one, stops},
	     {"exit signals", make_signals, exit_signals},
	     {"SIGCHLD", make_one, sigchld},
	     {"interrupted waits", make_one, interrupted},
	     {"SIGCHLD ignored", make_ignored, ignored},
	     {"SIGCHLD ignored later", make_one, ignored_later},
	     {"ended before", make_ended, ended_before},
	     {"with children of its own", make_five, merged},
	     {"by pidfd", make_five, pidfds},
	     {"setpgid", make_five, set_groups},
	     {"a child that executes", make_executing, executing},
	     {"twenty", make_many, many}};

/* argv: program --then CASE OUT WHERE KIDS… */
static int then(char **argv)
{
	const struct test_case *c = &cases[strtol(argv[2], NULL, 10)];
	char tmp[512];

	(void)alarm(60);
	(void)snprintf(tmp, sizeof(tmp), "%s.new", argv[3]);
	out = fopen(tmp, "we");
	if (out == NULL)
		return 99;
	SAY("#moved %d\n", where() != strtoull(argv[4], NULL, 10));
	for (char **at = argv + 5; *at != NULL; at++)
		kid[nkids++] = (pid_t)strtol(*at, NULL, 10);
	c->then();
	(void)fclose(out);
	return rename(tmp, argv[3]) == 0 ? 0 : 98;
}

/* ---- the test ---- */

static void run(int i, const char *file, bool stay)
{
	char number[16], place[32], kids[KIDS_MAX][16];
	char *argv[6 + KIDS_MAX] = {self_path, (char *)(uintptr_t) "--then", number,
				    (char *)(uintptr_t)file, place};

	nkids = 0;
	cases[i].make();
	(void)snprintf(number, sizeof(number), "%d", i);
	(void)snprintf(place, sizeof(place), "%llu", (unsigned long long)where());
	for (int k = 0; k < nkids; k++) {
		(void)snprintf(kids[k], sizeof(kids[k]), "%d", kid[k]);
		argv[5 + k] = kids[k];
	}
	if (stay)
		(void)exec_here(self_path, argv, environ);
	else
		(void)execve(self_path, argv, environ);
	_exit(97);
}

static void make_pair(int i)
{
	static char text[2][16384];
	char name[2][64];
	pid_t pid[2];
	int status[2];

	(void)fflush(stdout);
	for (int k = 0; k < 2; k++) {
		(void)snprintf(name[k], sizeof(name[k]), "case%d-%d", i, k);
		pid[k] = fork();
		if (pid[k] == 0)
			run(i, in_work(name[k]), k == 0);
	}
	for (int k = 0; k < 2; k++) {
		status[k] = wait_ms(pid[k], 60000);
		if (slurp(in_work(name[k]), text[k], sizeof(text[k])) < 0)
			(void)snprintf(text[k], sizeof(text[k]), "no result\n");
	}
	tap_ok(status[0] == 0 && status[1] == 0, "%s: it ends well (%#x, %#x)", cases[i].name,
	       (unsigned)status[0], (unsigned)status[1]);
	/* of very many at once, some find a session or a group of theirs just ending there */
	tap_ok(!expect_moves() || getenv("MAY_STAY") != NULL ||
		       strncmp(text[1], "#moved 1", 8) == 0,
	       "%s: it has moved", cases[i].name);
	tap_ok(strcmp(text[0] + 8, text[1] + 8) == 0, "%s: it sees the same", cases[i].name);
	if (strcmp(text[0] + 8, text[1] + 8) != 0)
		printf("# here:\n%s\n# there:\n%s\n", text[0], text[1]);
}

static pid_t orphan_of(pid_t *ret_kid, const char *how)
{
	int p[2];
	pid_t pid;

	ASSERT(pipe(p) == 0);
	pid = fork();
	if (pid == 0) {
		make(3, GROUP_SAME, SIGCHLD);
		(void)!write(p[1], &kid[0], sizeof(kid[0]));
		(void)close(p[0]);
		(void)close(p[1]);
		(void)execl("/bin/sh", "sh", "-c", how, (char *)NULL);
		_exit(97);
	}
	ASSERT(read(p[0], ret_kid, sizeof(*ret_kid)) == (ssize_t)sizeof(*ret_kid));
	(void)close(p[0]);
	(void)close(p[1]);
	return pid;
}

static bool parent_is(pid_t pid, pid_t parent)
{
	char path[64], text[512], *at;
	int ppid = -1;

	(void)snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	if (slurp(path, text, sizeof(text)) <= 0)
		return false;
	at = strrchr(text, ')');
	return at != NULL && sscanf(at + 1, " %*c %d", &ppid) == 1 && ppid == parent;
}

/* The body ends, is killed, its deputy is killed: the child goes on, as an orphan. */
static void orphans(void)
{
	pid_t child, pid = orphan_of(&child, "exit 4");

	tap_eq(wait_ms(pid, 20000), 4 << 8, "it ends before its child");
	tap_ok(kill(child, 0) == 0, "which goes on");
	tap_ok(WAIT_UNTIL(!parent_is(child, pid), 5000), "as an orphan");
	(void)kill(child, SIGKILL);
	pid = orphan_of(&child, "kill -9 $$");
	tap_eq(wait_ms(pid, 20000), SIGKILL, "it is killed before its child");
	tap_ok(kill(child, 0) == 0 && WAIT_UNTIL(!parent_is(child, pid), 5000), "which goes on");
	(void)kill(child, SIGKILL);
	pid = orphan_of(&child, "sleep 60");
	(void)kill(pid, SIGKILL);
	tap_eq(wait_ms(pid, 20000), SIGKILL, "killed at home");
	tap_ok(kill(child, 0) == 0 && WAIT_UNTIL(!parent_is(child, pid), 5000), "which goes on");
	(void)kill(child, SIGKILL);
}

/* An exec that fails leaves its caller with its children. */
static void fails(void)
{
	static const char *const paths[] = {"/nowhere", "/", NULL};
	int fd = open(in_work("bad"), O_WRONLY | O_CREAT | O_CLOEXEC, 0755);
	int status;

	ASSERT(fd >= 0 && write(fd, "#!/nowhere\n", 11) == 11 && close(fd) == 0);
	nkids = 0;
	make_five();
	for (unsigned i = 0; i < 3; i++) {
		const char *path = paths[i] != NULL ? paths[i] : in_work("bad");

		errno = 0;
		(void)execl(path, path, (char *)NULL);
		tap_ok(errno == (i == 1 ? EACCES : ENOENT), "exec of '%s' fails", path);
		(void)kill(kid[i], SIGTERM);
		tap_ok(waitpid(kid[i], &status, 0) == kid[i] && status == SIGTERM,
		       "and its child is its child");
	}
	for (int i = 3; i < 5; i++) {
		(void)kill(kid[i], SIGKILL);
		(void)waitpid(kid[i], NULL, 0);
	}
}

static void shells(void)
{
	static const struct {
		const char *text, *shown;
	} c[] = {
		{"(sleep 0.2; exit 3) & exec sh -c 'echo hi; exit 6'", "hi\n"},
		{"sleep 0.2 & sleep 0.3 & exec perl -e '$n = 0; while ((my $p = wait) > 0) "
		 "{ $n += 1 + $? } print \"$n\\n\"; exit 6'",
		 "2\n"},
		{"sleep 60 & p=$!; exec perl -e 'kill 15, $ARGV[0]; waitpid $ARGV[0], 0; print "
		 "\"$?\\n\"; "
		 "exit 6' $p",
		 "15\n"},
	};
	char text[600], got[100];

	for (unsigned i = 0; i < KRG_NELEM(c); i++) {
		pid_t pid;

		(void)fflush(stdout);
		pid = fork();
		if (pid == 0) {
			int fd = open(in_work("shell"), O_WRONLY | O_CREAT | O_TRUNC, 0644);
			char *argv[] = {(char *)(uintptr_t) "sh", (char *)(uintptr_t) "-c", text,
					NULL};

			(void)dup2(fd, 1);
			(void)close(fd);
			(void)snprintf(text, sizeof(text), "%s", c[i].text);
			(void)exec_here("/bin/sh", argv, environ);
			_exit(97);
		}
		tap_eq(wait_ms(pid, 20000), 6 << 8, "sh -c '%s'", c[i].text);
		(void)slurp(in_work("shell"), got, sizeof(got));
		tap_ok(strcmp(got, c[i].shown) == 0, "and what it shows (%s)", got);
	}
}

int main(int argc, char **argv)
{
	if (argc > 4 && strcmp(argv[1], "--then") == 0)
		return then(argv);
	test_init("kin", 200);
	for (unsigned i = 0; i < KRG_NELEM(cases); i++)
		if (argc < 2 || strstr(cases[i].name, argv[1]) != NULL)
			make_pair((int)i);
	if (argc < 2) {
		orphans();
		fails();
		shells();
	}
	test_fini();
	return tap_done();
}
