/* tty.c - terminals: a program on a pseudo-terminal, wherever it is; job control.
 *
 * The case holds the master.  A leader makes the session and starts one job in a group of its own, in the
 * foreground or not; it tells what wait says of it through descriptor 9. */
#include "case.h"
#include <poll.h>
#include <sys/ioctl.h>
#include <termios.h>

struct term {
	int master, statuses;
	char name[64];
	pid_t leader;
};

static struct {
	const char *name;
	int out;
} leader;

static void be_leader(void *arg)
{
	int fd;

	(void)arg;
	(void)OK(setsid());
	fd = (int)OK(open(leader.name, O_RDWR)); /* becomes its controlling terminal */
	for (int i = 0; i < 3; i++)
		(void)OK(dup2(fd, i));
	(void)OK(dup2(leader.out, 9));
	if (fd > 2 && fd != 9)
		(void)close(fd);
}

/* how: "fg", "bg", or "keeps": in the foreground, and it keeps descriptor 9 */
static struct term start(const char *how, const char *role)
{
	struct winsize ws = {.ws_row = 33, .ws_col = 77};
	struct term t = {.master = (int)OK(posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC))};
	struct termios tio;
	int p[2];

	(void)OK(grantpt(t.master));
	(void)OK(unlockpt(t.master));
	EQ(ptsname_r(t.master, t.name, sizeof(t.name)), 0);
	(void)OK(ioctl(t.master, TIOCSWINSZ, &ws));
	(void)OK(tcgetattr(t.master, &tio));
	tio.c_oflag &= ~(tcflag_t)OPOST; /* no carriage returns */
	(void)OK(tcsetattr(t.master, TCSANOW, &tio));
	make_pipe(p);
	leader.name = t.name;
	leader.out = p[1];
	t.leader = spawn_with(be_leader, NULL, "leader", how, role, NULL);
	(void)close(p[1]);
	t.statuses = p[0];
	return t;
}

static void own_group(void *arg)
{
	(void)OK(setpgid(0, 0));
	if (strcmp(arg, "bg") != 0) {
		sigset_t set;

		(void)sigemptyset(&set);
		(void)sigaddset(&set, SIGTTOU);
		(void)sigprocmask(SIG_BLOCK, &set, NULL);
		(void)OK(tcsetpgrp(0, getpid()));
		(void)sigprocmask(SIG_UNBLOCK, &set, NULL);
	}
	if (strcmp(arg, "keeps") != 0)
		(void)fcntl(9, F_SETFD, FD_CLOEXEC);
}

static int r_leader(int argc, char **argv)
{
	const struct rlimit none = {0, 0};
	int status;
	pid_t pid;

	(void)argc;
	(void)setrlimit(RLIMIT_CORE, &none);
	pid = spawn_with(own_group, argv[0], argv[1], NULL);
	(void)signal(SIGTTOU, SIG_IGN);
	for (;;) {
		pid_t got = waitpid(pid, &status, WUNTRACED);

		if (got < 0 && errno == EINTR)
			continue;
		CHECK(got == pid, "waitpid: %s", strerror(errno));
		(void)dprintf(9, "%d\n", status);
		if (!WIFSTOPPED(status))
			break;
		if (WSTOPSIG(status) == SIGTTIN || WSTOPSIG(status) == SIGTTOU)
			(void)OK(tcsetpgrp(0, pid));
		(void)OK(kill(-pid, SIGCONT));
	}
	return 0;
}

/* What the terminal shows next: exactly this. */
static void shows(const struct term *t, const char *want)
{
	size_t n = strlen(want);
	char got[512];

	for (size_t i = 0; i < n; i++) {
		ssize_t r;

		while ((r = read(t->master, got + i, 1)) < 0 && errno == EINTR)
			;
		got[i + 1] = '\0';
		CHECK(r == 1, "the terminal ends after '%.*s', not '%s'", (int)i, got, want);
		CHECK(got[i] == want[i], "the terminal shows '%s', not '%s'", got, want);
	}
}

static void types(const struct term *t, const char *keys)
{
	write_all(t->master, keys, strlen(keys));
}

static int job_status(const struct term *t)
{
	char line[32] = "";

	for (size_t i = 0; i < sizeof(line) - 1; i++) {
		EQ(read_up_to(t->statuses, line + i, 1), 1);
		if (line[i] == '\n')
			break;
	}
	return atoi(line);
}

static void ends(struct term *t, int status)
{
	EQ(job_status(t), status);
	EXITS(t->leader, 0);
	(void)close(t->master);
}

/* ---- what it is ---- */

static int r_is_tty(int argc, char **argv)
{
	struct stat st;
	char name[64];

	(void)argc;
	(void)argv;
	for (int i = 0; i < 3; i++) {
		EQ(isatty(i), 1);
		EQ(ttyname_r(i, name, sizeof(name)), 0);
		(void)OK(fstat(i, &st));
		EQ(S_ISCHR(st.st_mode), true);
		answer("%s", name);
	}
	return 0;
}

static void c_is_tty(void)
{
	struct term t = start("fg", "is_tty");

	for (int i = 0; i < 3; i++) {
		shows(&t, t.name);
		shows(&t, "\n");
	}
	ends(&t, 0);
}

static int r_reader(int argc, char **argv)
{
	(void)argc;
	(void)argv;
	answer("ready");
	for (;;) {
		const char *line = asked();

		if (line[0] == '\0')
			break;
		answer("<%s>", line);
	}
	answer("end");
	return 4;
}

static void c_lines(void)
{
	struct term t = start("fg", "reader");

	shows(&t, "ready\n");
	types(&t, "hellX\177o\r"); /* a key that erases */
	shows(&t, "hellX\b \bo\n<hello>\n");
	types(&t, "again\r");
	shows(&t, "again\n<again>\n");
	types(&t, "\4"); /* ^D */
	shows(&t, "end\n");
	ends(&t, 4 << 8);
}

static int r_size(int argc, char **argv)
{
	struct winsize ws;
	sigset_t set;
	int sig;

	(void)argc;
	(void)argv;
	(void)sigemptyset(&set);
	(void)sigaddset(&set, SIGWINCH);
	(void)sigprocmask(SIG_BLOCK, &set, NULL);
	(void)OK(ioctl(0, TIOCGWINSZ, &ws));
	answer("%d %d", ws.ws_row, ws.ws_col);
	EQ(sigwait(&set, &sig), 0);
	(void)OK(ioctl(0, TIOCGWINSZ, &ws));
	answer("%d %d", ws.ws_row, ws.ws_col);
	return 0;
}

static void c_size(void)
{
	struct winsize ws = {.ws_row = 5, .ws_col = 6};
	struct term t = start("fg", "size");

	shows(&t, "33 77\n");
	(void)OK(ioctl(t.master, TIOCSWINSZ, &ws));
	shows(&t, "5 6\n");
	ends(&t, 0);
}

static int r_raw(int argc, char **argv)
{
	struct termios tio;
	char c[3];

	(void)argc;
	(void)argv;
	(void)OK(tcgetattr(0, &tio));
	EQ((tio.c_lflag & ICANON) != 0, true);
	cfmakeraw(&tio);
	(void)OK(tcsetattr(0, TCSAFLUSH, &tio));
	answer("raw");
	EQ(read_up_to(0, c, 3), 3);
	answer("%d %d %d", c[0], c[1], c[2]);
	return 0;
}

static void c_raw(void)
{
	struct term t = start("fg", "raw");
	struct termios tio;

	shows(&t, "raw\n");
	(void)OK(tcgetattr(t.master, &tio));
	EQ(tio.c_lflag & (ICANON | ECHO | ISIG), 0);
	types(&t, "\3\4x"); /* keys that mean nothing now */
	shows(&t, "3 4 120\n");
	ends(&t, 0);
}

static int r_dev_tty(int argc, char **argv)
{
	int fd = (int)OK(open("/dev/tty", O_RDWR | O_CLOEXEC));

	(void)argc;
	(void)argv;
	EQ(isatty(fd), 1);
	EQ(tcgetpgrp(fd), getpgrp());
	write_all(fd, "by name\n", 8);
	return 0;
}

static void c_dev_tty(void)
{
	struct term t = start("fg", "dev_tty");

	shows(&t, "by name\n");
	ends(&t, 0);
}

static int r_groups(int argc, char **argv)
{
	(void)argc;
	(void)argv;
	EQ(tcgetpgrp(0), getpgrp());
	EQ(tcgetsid(0), getsid(0));
	return 0;
}

static void c_groups(void)
{
	struct term t = start("fg", "groups");

	ends(&t, 0);
}

/* ---- keys, background ---- */

static int r_waits(int argc, char **argv)
{
	(void)argc;
	(void)argv;
	answer("ready");
	while (pause() < 0)
		;
	return 0;
}

static void c_interrupt(void)
{
	struct term t = start("fg", "waits");

	shows(&t, "ready\n");
	types(&t, "\3");
	ends(&t, SIGINT);
}

static void c_quit(void)
{
	struct term t = start("fg", "waits");

	shows(&t, "ready\n");
	types(&t, "\034");
	ends(&t, SIGQUIT);
}

static void on_cont(int s)
{
	(void)s;
	(void)!write(1, "on\n", 3);
}

static int r_goes_on(int argc, char **argv)
{
	(void)signal(SIGCONT, on_cont);
	return r_waits(argc, argv);
}

static void c_suspend(void)
{
	struct term t = start("fg", "goes_on");

	shows(&t, "ready\n");
	for (int i = 0; i < 3; i++) {
		types(&t, "\32");
		EQ(job_status(&t), SIGTSTP << 8 | 0x7f); /* the leader continues it */
		shows(&t, "^Zon\n");
	}
	types(&t, "\3");
	ends(&t, SIGINT);
}

/* The leader ends by it, and then the job in the foreground. */
static void c_hangup(void)
{
	struct term t = start("keeps", "waits");
	char b;

	shows(&t, "ready\n");
	(void)close(t.master);
	DIES(t.leader, SIGHUP);
	EQ(read(t.statuses, &b, 1), 0); /* nobody has its other end */
}

static int r_bg_reads(int argc, char **argv)
{
	const char *line;

	(void)argc;
	(void)argv;
	line = asked();
	answer("<%s>", line);
	return 0;
}

static void c_ttin(void)
{
	struct term t = start("bg", "bg_reads");

	EQ(job_status(&t), SIGTTIN << 8 | 0x7f); /* the leader puts it into the foreground */
	types(&t, "line\r");
	shows(&t, "line\n<line>\n");
	ends(&t, 0);
}

static int r_bg_writes(int argc, char **argv)
{
	struct termios tio;

	(void)argc;
	(void)argv;
	(void)OK(tcgetattr(0, &tio));
	tio.c_lflag |= TOSTOP;
	(void)OK(tcsetattr(0, TCSANOW, &tio)); /* stops it, the first time */
	answer("written");
	return 0;
}

static void c_ttou(void)
{
	struct term t = start("bg", "bg_writes");

	EQ(job_status(&t), SIGTTOU << 8 | 0x7f);
	shows(&t, "written\n");
	ends(&t, 0);
}

static int r_eio(int argc, char **argv)
{
	char c;

	(void)argc;
	(void)argv;
	(void)signal(SIGTTIN, SIG_IGN);
	FAILS(read(0, &c, 1), EIO);
	return 0;
}

static void c_eio(void)
{
	struct term t = start("bg", "eio");

	ends(&t, 0);
}

/* ---- a shell ---- */

static int r_bash(int argc, char **argv)
{
	(void)argc;
	(void)argv;
	(void)execl("/bin/bash", "bash", "--norc", "--noprofile", "-c",
		    "set -m; /bin/echo here; /bin/cat | /bin/cat; echo status $?", (char *)NULL);
	return 99;
}

/* A pipeline of it is a group of its own in the foreground, and reads the terminal. */
static void c_shell(void)
{
	struct term t = start("fg", "bash");

	shows(&t, "here\n");
	types(&t, "x\r");
	shows(&t, "x\nx\n");
	types(&t, "\4");
	shows(&t, "status 0\n");
	ends(&t, 0);
}

static int r_group_in_front(int argc, char **argv)
{
	(void)argc;
	(void)argv;
	EQ(tcgetpgrp(0), getpgrp());
	answer("%d", getpgrp());
	(void)asked();
	return 0;
}

static void to_front(void *arg)
{
	(void)arg;
	(void)signal(SIGTTOU, SIG_IGN);
	(void)OK(setpgid(0, 0));
	(void)OK(tcsetpgrp(0, getpid()));
}

/* What a shell does with one job: it says what becomes of it, and brings it to the foreground again. */
static int job_in_front(const char *role)
{
	pid_t pid = spawn_with(to_front, NULL, role, NULL);
	int status;

	(void)signal(SIGTTOU, SIG_IGN);
	for (;;) {
		EQ(waitpid(pid, &status, WUNTRACED), pid);
		(void)OK(tcsetpgrp(0, getpgrp()));
		if (!WIFSTOPPED(status))
			return status;
		answer("stopped %d", WSTOPSIG(status));
		(void)OK(tcsetpgrp(0, pid));
		(void)OK(kill(-pid, SIGCONT));
	}
}

static int r_shell_keys(int argc, char **argv)
{
	(void)argc;
	(void)argv;
	answer("ended %d", job_in_front("waits"));
	answer("ended %d", job_in_front("goes_on"));
	answer("ended %d", job_in_front("cat"));
	return 0;
}

/* ^C and ^Z reach the job of a job, and not who started it. */
static void c_shell_keys(void)
{
	struct term t = start("fg", "shell_keys");

	shows(&t, "ready\n");
	types(&t, "\3");
	shows(&t, "^Cended 2\nready\n");
	for (int i = 0; i < 3; i++) {
		types(&t, "\32");
		shows(&t, "^Zstopped 20\non\n");
	}
	types(&t, "\34");
	shows(&t, "^\\ended 3\n");
	types(&t, "x\r");
	shows(&t, "x\nx\n");
	types(&t, "\4");
	shows(&t, "ended 0\n");
	ends(&t, 0);
}

static int r_has_job(int argc, char **argv)
{
	(void)argc;
	(void)argv;
	EQ(job_in_front("group_in_front"), 0);
	return 0;
}

/* The group in front of the terminal is the job's job's: for itself, and at the other end. */
static void c_front(void)
{
	struct term t = start("fg", "has_job");
	char want[32];

	/* it says its own number */
	for (size_t i = 0; i < sizeof(want) - 1; i++) {
		EQ(read_up_to(t.master, want + i, 1), 1);
		want[i + 1] = '\0';
		if (want[i] == '\n')
			break;
	}
	EQ(tcgetpgrp(t.master), atoi(want));
	types(&t, "\r");
	shows(&t, "\n");
	ends(&t, 0);
}

const struct sub subs[] = {{"is_tty", c_is_tty},
			   {"lines", c_lines},
			   {"size", c_size},
			   {"raw", c_raw},
			   {"dev_tty", c_dev_tty},
			   {"groups", c_groups},
			   {"interrupt", c_interrupt},
			   {"quit", c_quit},
			   {"suspend", c_suspend},
			   {"hangup", c_hangup},
			   {"ttin", c_ttin},
			   {"ttou", c_ttou},
			   {"eio", c_eio},
			   {"shell", c_shell},
			   {"shell_keys", c_shell_keys},
			   {"front", c_front},
			   {NULL, NULL}};
const struct role roles[] = {{"leader", r_leader},
			     {"is_tty", r_is_tty},
			     {"reader", r_reader},
			     {"size", r_size},
			     {"raw", r_raw},
			     {"dev_tty", r_dev_tty},
			     {"groups", r_groups},
			     {"waits", r_waits},
			     {"goes_on", r_goes_on},
			     {"bg_reads", r_bg_reads},
			     {"bg_writes", r_bg_writes},
			     {"eio", r_eio},
			     {"bash", r_bash},
			     {"shell_keys", r_shell_keys},
			     {"group_in_front", r_group_in_front},
			     {"has_job", r_has_job},
			     {NULL, NULL}};
