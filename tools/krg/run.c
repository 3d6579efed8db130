#include "run.h"
#include "epm.h"
#include <fcntl.h>
#include <poll.h>
#include <pwd.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>

#define CTRL_D 4
#define RELAYS 3

struct run {
	struct run_opts o;
	struct run_tty tty;
	bool has_tty;
	int door, sigfd;
	int fd[3];   /* what the program gets */
	bool own[3]; /* closed here once it is sent */
	struct run_relay relay[RELAYS];
	unsigned nrelay;
	struct run_relay *keys; /* of the terminal; NULL: none */
	bool started, ended;
	bool lost;   /* the daemon: what the program writes through us still comes */
	int pid;     /* as the cluster knows it */
	int status;  /* wait(2) */
	u32 waiting; /* signals that came before the program was there */
	struct krg_err err;
};

static const int forwarded[] = {SIGINT,	 SIGTERM, SIGHUP,  SIGQUIT, SIGUSR1,
				SIGUSR2, SIGCONT, SIGTSTP, SIGWINCH};

/* ---- descriptors ---- */

static struct run_relay *relay_add(struct run *r, int from, int to)
{
	struct run_relay *relay = &r->relay[r->nrelay++];

	ASSERT(r->nrelay <= RELAYS);
	run_relay_init(relay, from, to);
	return relay;
}

/* A socket cannot follow a program to another node: it gets a pipe, and we copy. */
static int socket_pipe(struct run *r, int i)
{
	struct run_relay *relay;
	int p[2], mine;

	if (pipe2(p, O_CLOEXEC) < 0)
		return krg_err_set(&r->err, -errno, "run: pipe");
	mine = i == 0 ? p[1] : p[0];
	(void)fcntl(mine, F_SETFL, O_NONBLOCK);
	relay = i == 0 ? relay_add(r, 0, mine) : relay_add(r, mine, i);
	relay->own_from = i != 0;
	relay->own_to = i == 0;
	r->fd[i] = i == 0 ? p[0] : p[1];
	r->own[i] = true;
	return 0;
}

static int stdio_one(struct run *r, int i)
{
	struct stat st;

	if (r->has_tty && (r->o.tty || isatty(i))) {
		r->fd[i] = r->tty.slave;
		return 0;
	}
	if (fstat(i, &st) < 0)
		return krg_err_set(&r->err, -errno, "run: descriptor %d", i);
	if (S_ISSOCK(st.st_mode))
		return socket_pipe(r, i);
	r->fd[i] = i;
	return 0;
}

static int stdio_make(struct run *r)
{
	int rc = 0;

	r->has_tty = r->o.tty || (isatty(0) && isatty(1));
	if (r->has_tty)
		rc = run_tty_open(&r->tty, &r->err);
	for (int i = 0; rc == 0 && i < 3; i++)
		rc = stdio_one(r, i);
	if (rc < 0 || !r->has_tty)
		return rc;
	r->keys = relay_add(r, 0, r->tty.master);
	if (!isatty(0))
		r->keys->eof_byte = CTRL_D;
	(void)relay_add(r, r->tty.master, 1);
	return 0;
}

static void stdio_close(struct run *r)
{
	for (int i = 0; i < 3; i++)
		if (r->own[i])
			krg_closep(&r->fd[i]);
	if (r->has_tty) {
		krg_closep(&r->tty.slave);
		r->tty.slave = -EBADF;
	}
}

/* ---- the request ---- */

static int request(struct run *r)
{
	KRG_AUTO_FD int record = -EBADF;
	int fds[4], rc = run_pack(&r->o, r->has_tty, &record, &r->err);

	if (rc < 0)
		return rc;
	memcpy(fds, r->fd, sizeof(r->fd));
	fds[3] = record;
	return door_send(r->door, json_pack("{s:s, s:i}", "op", "run", "nfds", 3), fds, 4, &r->err);
}

static int send_signal(struct run *r, int sig, bool group)
{
	return door_send(r->door,
			 json_pack("{s:s, s:i, s:b}", "op", "signal", "sig", sig, "group", group),
			 NULL, 0, &r->err);
}

static int on_started(struct run *r, const json_t *j)
{
	int rc = door_answer_check(j, &r->err);

	for (int sig = 1; rc == 0 && sig < 32; sig++)
		if (r->waiting & 1u << sig)
			rc = send_signal(r, sig, false);
	r->started = rc == 0;
	r->pid = (int)conn_int(j, "pid", 0);
	return rc;
}

/* The daemon has died.  The program has not, if another daemon takes over; how it ends we shall not hear. */
static int door_lost(struct run *r, int code)
{
	(void)krg_err_set(&r->err, 0,
			  "run: the daemon has died; the program (pid %d) goes on without it, and "
			  "how it ends is not known here",
			  r->pid);
	r->err.code = code;
	r->lost = true;
	return 0;
}

static int on_door(struct run *r)
{
	json_t *j = NULL;
	int rc = door_recv(r->door, &j, &r->err);

	if (rc < 0)
		return r->started ? door_lost(r, rc) : rc;
	if (!r->started) {
		rc = on_started(r, j);
	} else if (strcmp(conn_str(j, "event", ""), "exit") == 0) {
		r->ended = true;
		r->status = (int)conn_int(j, "status", 0xff00);
	} /* else the answer to a signal: the program may be gone, and then it does not matter */
	json_decref(j);
	return rc;
}

/* ---- signals ---- */

/* The person may have put us into the background, or back. */
static void terminal_again(struct run *r)
{
	if (!r->has_tty)
		return;
	run_tty_raw(&r->tty);
	run_tty_resize(&r->tty);
	r->keys->hold = isatty(0) && !r->tty.raw;
}

static int stop_ourselves(struct run *r)
{
	int rc = r->started && !r->lost ? send_signal(r, SIGSTOP, true) : 0;

	if (r->has_tty)
		run_tty_restore(&r->tty);
	(void)raise(SIGSTOP);
	terminal_again(r);
	return rc;
}

static int on_signal(struct run *r)
{
	struct signalfd_siginfo si;
	int sig;

	if (read(r->sigfd, &si, sizeof(si)) != sizeof(si))
		return 0;
	sig = (int)si.ssi_signo;
	if (sig == SIGWINCH) {
		if (r->has_tty)
			run_tty_resize(&r->tty);
		return 0;
	}
	if (sig == SIGTSTP)
		return stop_ourselves(r);
	if (sig == SIGCONT)
		terminal_again(r);
	if (r->lost)
		return sig == SIGCONT ? 0 : r->err.code;
	if (r->started)
		return send_signal(r, sig, si.ssi_code == SI_KERNEL || sig == SIGCONT);
	/* asked twice before it even runs: leave it */
	if ((r->waiting & 1u << sig) && (sig == SIGINT || sig == SIGTERM))
		return krg_err_set(&r->err, -EINTR, "run");
	r->waiting |= 1u << sig;
	return 0;
}

static int signals_open(struct krg_err *err)
{
	struct sigaction act;
	sigset_t set;
	int fd;

	(void)sigemptyset(&set);
	for (unsigned i = 0; i < KRG_NELEM(forwarded); i++) {
		/* what the caller ignores (nohup) is not for us either */
		if (sigaction(forwarded[i], NULL, &act) == 0 && act.sa_handler != SIG_IGN)
			(void)sigaddset(&set, forwarded[i]);
	}
	(void)signal(SIGPIPE, SIG_IGN);
	(void)sigprocmask(SIG_BLOCK, &set, NULL);
	fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	return fd < 0 ? krg_err_set(err, -errno, "run: signalfd") : fd;
}

/* ---- the loop ---- */

/* One turn: wait (timeout_ms as poll(2)), copy, listen.  1: something moved; 0: nothing. */
static int turn(struct run *r, int timeout_ms)
{
	struct pollfd p[2 + 2 * RELAYS] = {
		{.fd = r->ended || r->lost ? -1 : r->door, .events = POLLIN},
		{.fd = r->sigfd, .events = POLLIN}};
	int n, rc = 0;

	for (unsigned i = 0; i < r->nrelay; i++)
		run_relay_poll(&r->relay[i], &p[2 + 2 * i], &p[3 + 2 * i]);
	n = poll(p, 2 + 2 * r->nrelay, timeout_ms);
	if (n < 0)
		return errno == EINTR ? 1 : krg_err_set(&r->err, -errno, "run: poll");
	for (unsigned i = 0; n > 0 && i < r->nrelay; i++)
		run_relay_step(&r->relay[i], p[2 + 2 * i].revents != 0, p[3 + 2 * i].revents != 0);
	if (p[1].revents != 0)
		rc = on_signal(r);
	if (rc == 0 && p[0].revents != 0)
		rc = on_door(r);
	return rc < 0 ? rc : n > 0;
}

/* The program has ended: nothing more goes in. */
static void input_end(struct run *r)
{
	for (unsigned i = 0; i < r->nrelay; i++)
		if (r->relay[i].from == 0 || &r->relay[i] == r->keys)
			run_relay_fini(&r->relay[i]);
}

static bool output_left(const struct run *r)
{
	for (unsigned i = 0; i < r->nrelay; i++)
		if (r->relay[i].buf != NULL && !run_relay_done(&r->relay[i]))
			return true;
	return false;
}

/* What is there is passed on; what children of the program still write, too, but we do not wait for
 * that: as if they held the socket themselves. */
static void drain(struct run *r)
{
	input_end(r);
	while (output_left(r) && turn(r, 0) > 0)
		;
	if (r->has_tty || !output_left(r) || fork() != 0)
		return;
	(void)setsid();
	while (output_left(r) && turn(r, -1) >= 0)
		;
	_exit(0);
}

static int run_loop(struct run *r)
{
	int rc = request(r);

	stdio_close(r);
	if (r->has_tty)
		terminal_again(r);
	while (rc >= 0 && !r->ended && (!r->lost || output_left(r)))
		rc = turn(r, -1);
	if (rc >= 0 && !r->lost)
		drain(r);
	if (r->has_tty)
		run_tty_close(&r->tty);
	return rc < 0 ? rc : r->lost ? r->err.code : 0;
}

/* As a shell: 127 not found, 126 found but not to be executed. */
static int failed(const struct run *r, int rc)
{
	(void)cmd_fail(&r->err);
	if (r->started)
		return CMD_FAIL;
	return rc == -ENOENT ? 127 : rc == -EACCES || rc == -ENOEXEC ? 126 : CMD_FAIL;
}

static int run_program(const struct run_opts *o)
{
	struct run r = {.o = *o, .door = -EBADF, .sigfd = -EBADF, .err = {.node = KRG_NODE_NONE}};
	int rc = conn_open(&o->common, &r.door, &r.err);

	r.tty.master = r.tty.slave = r.tty.user = -EBADF;
	if (rc < 0)
		return cmd_fail(&r.err); /* no daemon is not "no such program" */
	rc = stdio_make(&r);
	if (rc == 0)
		rc = r.sigfd = signals_open(&r.err);
	if (rc >= 0)
		rc = run_loop(&r);
	for (unsigned i = 0; i < r.nrelay; i++)
		run_relay_fini(&r.relay[i]);
	krg_closep(&r.door);
	krg_closep(&r.sigfd);
	if (rc < 0)
		return failed(&r, rc);
	if (WIFSIGNALED(r.status))
		return 128 + WTERMSIG(r.status);
	return WEXITSTATUS(r.status);
}

/* CMD_OK: go on.  -1: the help was printed. */
static int run_getopt(const struct cmd *cmd, struct run_opts *o, int argc, char **argv)
{
	static const struct option longs[] = {{"caps", required_argument, NULL, 'c'}, {0}};
	long n;
	int opt;

	*o = (struct run_opts){.common = {.node = -1}, .node = -1, .caps = EPM_CAPS_DEFAULT};
	while ((opt = cmd_getopt(cmd, &o->common, argc, argv, "+n:td:", longs)) != -1) {
		if (opt == CMD_OPT_HELP)
			return -1;
		if (opt == '?')
			return CMD_USAGE;
		if (opt == 't')
			o->tty = true;
		else if (opt == 'd')
			o->dir = optarg;
		else if (opt == 'c' && run_caps_parse(optarg, &o->caps) < 0)
			return cmd_usage(cmd, "--caps '%s': not a list of capabilities", optarg);
		if (opt != 'n')
			continue;
		if (!cmd_number(optarg, 0, KRG_NODES_MAX - 1, &n))
			return cmd_usage(cmd, "-n '%s': not a node's number", optarg);
		o->node = (int)n;
	}
	return CMD_OK;
}

int cmd_run(const struct cmd *cmd, int argc, char **argv)
{
	struct run_opts o;
	int r = run_getopt(cmd, &o, argc, argv);

	if (r != CMD_OK)
		return r < 0 ? CMD_OK : r;
	if (optind >= argc)
		return cmd_usage(cmd, "what is to be run?");
	o.argv = &argv[optind];
	return run_program(&o);
}

int cmd_sh(const struct cmd *cmd, int argc, char **argv)
{
	const char *shell = getenv("SHELL");
	const struct passwd *pw;
	struct run_opts o;
	int r = run_getopt(cmd, &o, argc, argv);
	char **args;

	if (r != CMD_OK)
		return r < 0 ? CMD_OK : r;
	if (shell == NULL || shell[0] != '/') {
		pw = getpwuid(getuid());
		shell = pw != NULL && pw->pw_shell[0] == '/' ? pw->pw_shell : "/bin/sh";
	}
	args = krg_xalloc((size_t)(argc - optind + 2) * sizeof(char *));
	args[0] = krg_xstrdup(shell);
	for (int i = optind; i < argc; i++)
		args[i - optind + 1] = argv[i];
	o.argv = args;
	r = run_program(&o);
	free(args[0]);
	free(args);
	return r;
}
