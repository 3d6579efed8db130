/* krg run against a door whose `run` is a plain fork: what the client owes its program and its
 * terminal, whatever the daemon is. */
#include "door.h"
#include "epm.h"
#include "tap.h"
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>

static char path[64], krg[512], seen[64];
static pthread_mutex_t seen_lock = PTHREAD_MUTEX_INITIALIZER;

/* What the last run asked for. */
static const char *asked(void)
{
	static char copy[64];

	(void)pthread_mutex_lock(&seen_lock);
	memcpy(copy, seen, sizeof(copy));
	(void)pthread_mutex_unlock(&seen_lock);
	return copy;
}

/* ---- the daemon's side ---- */

struct job {
	struct door_conn *conn;
	_Atomic pid_t pid;
};

static char **vector(struct krg_slice s)
{
	size_t n = 0, at = 0;
	char **v;

	for (size_t i = 0; i < s.len; i++)
		n += s.data[i] == 0;
	v = krg_xalloc((n + 1) * sizeof(char *));
	for (size_t i = 0; i < n; i++) {
		v[i] = krg_xstrdup((const char *)s.data + at);
		at += strlen(v[i]) + 1;
	}
	return v;
}

static void *job_wait(void *arg)
{
	struct door_conn *conn;
	struct job *job = arg;
	int status = 0;

	while (waitpid(job->pid, &status, 0) < 0 && errno == EINTR)
		;
	job->pid = 0;
	conn = job->conn; /* the job goes with the connection */
	door_conn_event(conn, json_pack("{s:s, s:i}", "event", "exit", "status", status));
	door_conn_unref(conn);
	return NULL;
}

static void child(const struct rec_epm_run *run, const int *fds, char **argv, char **env,
		  const char *cwd)
{
	sigset_t none;

	(void)setsid();
	for (int i = 0; i < 3; i++)
		(void)dup2(fds[i], i);
	(void)close_range(3, ~0u, 0);
	if (run->new_session && isatty(0))
		(void)ioctl(0, TIOCSCTTY, 0);
	(void)umask((mode_t)run->umask);
	if (chdir(cwd) < 0)
		_exit(99);
	(void)sigemptyset(&none);
	(void)sigprocmask(SIG_SETMASK, &none, NULL);
	(void)signal(SIGPIPE, SIG_DFL);
	(void)execve(argv[0], argv, env);
	_exit(98);
}

static void vector_free(char **v)
{
	for (char **at = v; *at != NULL; at++)
		free(*at);
	free(v);
}

static pid_t spawn(const struct rec_epm_run *run, const int *fds, struct krg_err *err)
{
	char **argv = vector(run->argv), **env = vector(run->env),
	     *cwd = krg_slice_strdup(run->cwd);
	pid_t pid;

	pid = access(argv[0], X_OK) < 0 ? krg_err_set(err, -errno, "exec '%s'", argv[0]) : fork();
	if (pid == 0)
		child(run, fds, argv, env, cwd);
	vector_free(argv);
	vector_free(env);
	free(cwd);
	return pid;
}

static int on_run(void *ctx, struct door_req *req, json_t *answer, struct krg_err *err)
{
	KRG_AUTO_FREE char *text = krg_xalloc(1 << 20);
	struct rec_epm_run run;
	ssize_t n = pread(req->fds[req->nfds - 1], text, 1 << 20, 0);
	struct krg_rd rd = krg_rd_make(text, n > 0 ? (size_t)n : 0);
	struct job *job;
	pthread_t t;
	pid_t pid;

	(void)ctx;
	if (req->nfds != 4 || rec_epm_run_decode(&rd, &run) < 0)
		return krg_err_set(err, -EBADMSG, "run");
	(void)pthread_mutex_lock(&seen_lock);
	(void)snprintf(seen, sizeof(seen), "node %d caps %#x session %d", run.node, run.caps,
		       run.new_session);
	(void)pthread_mutex_unlock(&seen_lock);
	pid = spawn(&run, req->fds, err);
	if (pid < 0)
		return pid;
	job = krg_xalloc(sizeof(*job));
	job->conn = door_conn_ref(req->conn);
	job->pid = pid;
	door_conn_user_set(req->conn, job, free);
	(void)json_object_set_new(answer, "pid", json_integer(pid));
	(void)pthread_create(&t, NULL, job_wait, job);
	(void)pthread_detach(t);
	return 0;
}

static int on_signal(void *ctx, struct door_req *req, json_t *answer, struct krg_err *err)
{
	struct job *job = door_conn_user(req->conn);
	pid_t pid = job->pid;

	(void)ctx;
	(void)answer;
	(void)err;
	return pid > 0 ? kill(pid, (int)json_integer_value(json_object_get(req->body, "sig"))) : 0;
}

static const struct door_op ops[] = {{"run", 0, on_run}, {"signal", 0, on_signal}};

/* ---- the client's side ---- */

struct prog {
	pid_t pid;
	int in, out, err; /* our ends */
};

static void prog_child(const int *fds, bool tty, const char *const *args)
{
	const char *argv[24] = {krg, "run"};
	unsigned n = 2;

	for (; args[n - 2] != NULL; n++)
		argv[n] = args[n - 2];
	if (tty) {
		(void)setsid();
		(void)ioctl(fds[0], TIOCSCTTY, 0);
	}
	for (int i = 0; i < 3; i++) {
		if (fds[i] < 0)
			(void)close(i);
		else
			(void)dup2(fds[i], i);
	}
	(void)close_range(3, ~0u, 0);
	(void)setenv("KRG_SOCKET", path, 1);
	(void)execv(krg, (char *const *)(uintptr_t)argv);
	_exit(97);
}

static pid_t prog_start(const int *fds, bool tty, const char *const *args)
{
	pid_t pid = fork();

	if (pid == 0)
		prog_child(fds, tty, args);
	return pid;
}

enum how { PIPES, SOCKETS };

static struct prog prog_new(enum how how, const char *const *args)
{
	int p[3][2], fds[3];
	struct prog prog;

	for (int i = 0; i < 3; i++) {
		if (how == SOCKETS ? socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, p[i])
				   : pipe2(p[i], O_CLOEXEC))
			abort();
	}
	fds[0] = p[0][0];
	fds[1] = p[1][1];
	fds[2] = p[2][1];
	prog.pid = prog_start(fds, false, args);
	for (int i = 0; i < 3; i++)
		(void)close(fds[i]);
	prog.in = p[0][1];
	prog.out = p[1][0];
	prog.err = p[2][0];
	return prog;
}

static size_t read_some(int fd, char *text, size_t max, const char *until)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	size_t n = 0;

	text[0] = '\0';
	while (n < max - 1 && poll(&p, 1, 10000) == 1) {
		ssize_t r = read(fd, text + n, max - 1 - n);

		if (r <= 0)
			break;
		n += (size_t)r;
		text[n] = '\0';
		if (until != NULL && strstr(text, until) != NULL)
			break;
	}
	return n;
}

static int prog_end(struct prog *p)
{
	int status = -1;

	if (waitpid(p->pid, &status, 0) != p->pid)
		return -1;
	if (p->in >= 0)
		(void)close(p->in);
	(void)close(p->out);
	(void)close(p->err);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

static int run_quiet(const char *const *args)
{
	struct prog p = prog_new(PIPES, args);

	return prog_end(&p);
}

#define RUN(...) ((const char *const[]){__VA_ARGS__, NULL})
#define SH(...)	 RUN("/bin/sh", "-c", __VA_ARGS__)

static void test_status(void)
{
	tap_eq(run_quiet(SH("exit 0")), 0, "status 0");
	tap_eq(run_quiet(SH("exit 7")), 7, "status 7");
	tap_eq(run_quiet(SH("kill -TERM $$")), 128 + SIGTERM, "128 + SIGTERM");
	tap_eq(run_quiet(SH("kill -KILL $$")), 128 + SIGKILL, "128 + SIGKILL");
	tap_eq(run_quiet(RUN("/no/such/program")), 127, "not found");
	tap_eq(run_quiet(RUN("/etc/passwd")), 126, "not executable");
	tap_eq(run_quiet(RUN("-n", "x", "/bin/true")), 2, "wrong usage");
	tap_eq(run_quiet(RUN("--caps", "+NO_SUCH", "/bin/true")), 2, "a capability that is none");
	tap_eq(run_quiet(RUN("--caps", "DEBUG,+CAN_MIGRATE", "/bin/true")), 2, "signs or none");
	tap_eq(run_quiet(RUN("-n", "3", "--caps", "-DISTANT_EXEC", "/bin/true")), 0, "options");
	tap_ok(strcmp(asked(), "node 3 caps 0x13 session 0") == 0, "they came: %s", asked());
	tap_eq(run_quiet(RUN("--caps", "010", "--", "/bin/true")), 0, "octal, and --");
	tap_ok(strcmp(asked(), "node -1 caps 0x8 session 0") == 0, "they came: %s", asked());
}

static void test_stdio(enum how how, const char *name)
{
	struct prog p = prog_new(how, SH("cat; echo err >&2; pwd; umask"));
	char text[256];

	tap_eq(krg_write_all(p.in, "through", 7), 0, "%s: write", name);
	(void)close(p.in);
	p.in = -1;
	(void)read_some(p.out, text, sizeof(text), NULL);
	tap_ok(strncmp(text, "through/", 8) == 0 && strstr(text, "0022") != NULL,
	       "%s: stdin to stdout, directory, umask: %s", name, text);
	(void)read_some(p.err, text, sizeof(text), NULL);
	tap_ok(strcmp(text, "err\n") == 0, "%s: stderr", name);
	tap_eq(prog_end(&p), 0, "%s: status", name);
}

static void test_bulk(enum how how, const char *name)
{
	struct prog p = prog_new(how, SH("head -c 20000000 /dev/zero"));
	static char buf[1 << 16];
	size_t n = 0;
	ssize_t r;

	while ((r = read(p.out, buf, sizeof(buf))) > 0)
		n += (size_t)r;
	tap_eq(n, 20000000, "%s: all of 20 MB", name);
	tap_eq(prog_end(&p), 0, "%s: status", name);
}

/* The program ends, its child goes on writing: the status comes at once, the bytes later. */
static void test_orphan_output(void)
{
	struct prog p = prog_new(SOCKETS, SH("(read x </tmp/krg-run-fifo; echo late) & exit 3"));
	int status = -1, fd;
	char text[64];

	tap_ok(waitpid(p.pid, &status, 0) == p.pid && WEXITSTATUS(status) == 3,
	       "its status does not wait for its children");
	fd = open("/tmp/krg-run-fifo", O_WRONLY | O_CLOEXEC);
	(void)close(fd);
	(void)read_some(p.out, text, sizeof(text), NULL);
	tap_ok(strcmp(text, "late\n") == 0, "what they write arrives all the same");
	(void)close(p.in);
	(void)close(p.out);
	(void)close(p.err);
}

static void test_signals(void)
{
	static const int sigs[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2};
	char text[64];

	for (unsigned i = 0; i < KRG_NELEM(sigs); i++) {
		char script[128];
		struct prog p;

		(void)snprintf(script, sizeof(script),
			       "trap 'echo got; exit 4' %d; echo on; while :; do sleep 0.05; done",
			       sigs[i]);
		p = prog_new(PIPES, SH(script));
		(void)read_some(p.out, text, sizeof(text), "on\n");
		(void)kill(p.pid, sigs[i]);
		(void)read_some(p.out, text, sizeof(text), "got\n");
		tap_eq(prog_end(&p), 4, "signal %d is passed on", sigs[i]);
	}
	{
		struct prog p = prog_new(PIPES, SH("echo on; sleep 100"));

		(void)read_some(p.out, text, sizeof(text), "on\n");
		(void)kill(p.pid, SIGTERM);
		tap_eq(prog_end(&p), 128 + SIGTERM, "it ends as its program does");
	}
}

static void test_closed_stdin(void)
{
	int p[2], q[2], status, fds[3];
	char text[64];
	pid_t pid;

	if (pipe2(p, O_CLOEXEC) < 0 || pipe2(q, O_CLOEXEC) < 0)
		abort();
	fds[0] = -1;
	fds[1] = p[1];
	fds[2] = q[1];
	pid = prog_start(fds, false, SH("cat; echo end"));
	(void)close(p[1]);
	(void)close(q[1]);
	(void)read_some(p[0], text, sizeof(text), NULL);
	tap_ok(strcmp(text, "end\n") == 0, "without a stdin there is /dev/null: %s", text);
	tap_ok(waitpid(pid, &status, 0) == pid && status == 0, "status");
	(void)close(p[0]);
	(void)close(q[0]);
}

/* ---- on a terminal ---- */

static int tty_new(int *ret_slave)
{
	int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
	struct winsize ws = {.ws_row = 33, .ws_col = 77};
	char name[64];

	if (master < 0 || grantpt(master) < 0 || unlockpt(master) < 0 ||
	    ptsname_r(master, name, sizeof(name)) != 0)
		abort();
	*ret_slave = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
	(void)ioctl(master, TIOCSWINSZ, &ws);
	return master;
}

static int tty_end(pid_t pid)
{
	int status = -1;

	if (waitpid(pid, &status, 0) != pid)
		return -1;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

static bool same_modes(const struct termios *a, const struct termios *b)
{
	return a->c_iflag == b->c_iflag && a->c_oflag == b->c_oflag && a->c_lflag == b->c_lflag &&
	       a->c_cflag == b->c_cflag;
}

static void test_tty(void)
{
	int slave, master = tty_new(&slave), fds[3] = {slave, slave, slave};
	struct winsize ws = {.ws_row = 44, .ws_col = 88};
	struct termios before, in, after;
	char text[512], *mine = ttyname(slave);
	pid_t pid;

	(void)tcgetattr(slave, &before);
	pid = prog_start(fds, true,
			 SH("tty; stty size; : >/dev/tty && echo ctty; trap 'stty size' WINCH; "
			    "trap 'echo int; exit 5' INT; echo on; while :; do sleep 0.05; done"));
	(void)read_some(master, text, sizeof(text), "on\r\n");
	tap_ok(strstr(text, mine) == NULL && strstr(text, "/dev/pts/") != NULL,
	       "a terminal of its own: %s", text);
	tap_ok(strstr(text, "33 77") != NULL, "of the same size");
	tap_ok(strstr(text, "ctty") != NULL, "it controls");
	tap_ok(strstr(asked(), "session 1") != NULL, "in a session of its own");
	(void)tcgetattr(slave, &in);
	tap_ok(!(in.c_lflag & (ICANON | ECHO | ISIG)), "ours is raw meanwhile");
	(void)ioctl(master, TIOCSWINSZ, &ws);
	(void)read_some(master, text, sizeof(text), "88");
	tap_ok(strstr(text, "44 88") != NULL, "a new size goes along");
	tap_eq(write(master, "\003", 1), 1, "control-C");
	(void)read_some(master, text, sizeof(text), "int\r\n");
	tap_eq(tty_end(pid), 5, "is the program's SIGINT");
	(void)tcgetattr(slave, &after);
	tap_ok(same_modes(&before, &after), "the terminal's modes are as before");

	pid = prog_start(fds, true, SH("read x; echo \"<$x>\""));
	tap_eq(write(master, "typed\r", 6), 6, "keys");
	(void)read_some(master, text, sizeof(text), "<typed>");
	tap_ok(strstr(text, "<typed>") != NULL, "go to the program");
	tap_eq(tty_end(pid), 0, "status");

	pid = prog_start(fds, true, SH("echo on; kill -KILL $$"));
	(void)read_some(master, text, sizeof(text), "on\r\n");
	tap_eq(tty_end(pid), 128 + SIGKILL, "a program that is killed");
	(void)tcgetattr(slave, &after);
	tap_ok(same_modes(&before, &after), "leaves the terminal as before");
	(void)close(slave);
	(void)close(master);
}

/* stdout goes elsewhere: no terminal of its own, or `krg run ls | less` would fight over the keys */
static void test_tty_stdin_only(void)
{
	int slave, master = tty_new(&slave), p[2], fds[3];
	char text[256];
	pid_t pid;

	if (pipe2(p, O_CLOEXEC) < 0)
		abort();
	fds[0] = fds[2] = slave;
	fds[1] = p[1];
	pid = prog_start(fds, true, SH("tty; stty -a | grep -c -- -icanon"));
	(void)close(p[1]);
	(void)read_some(p[0], text, sizeof(text), NULL);
	tap_ok(strstr(text, ttyname(slave)) != NULL, "stdout is a pipe: the terminal itself: %s",
	       text);
	tap_eq(tty_end(pid), 1, "and its modes are left alone");
	(void)close(p[0]);
	(void)close(slave);
	(void)close(master);
}

static void test_t_without_tty(void)
{
	struct prog p = prog_new(PIPES, RUN("-t", "/bin/sh", "-c", "tty; cat; echo end"));
	char text[256];

	tap_eq(krg_write_all(p.in, "line\n", 5), 0, "-t without a terminal");
	(void)close(p.in);
	p.in = -1;
	(void)read_some(p.out, text, sizeof(text), NULL);
	tap_ok(strstr(text, "/dev/pts/") != NULL, "makes one: %s", text);
	tap_ok(strstr(text, "line") != NULL && strstr(text, "end") != NULL, "with an end of file");
	tap_eq(prog_end(&p), 0, "status");
}

int main(void)
{
	const char *bin = getenv("KRG_BIN");
	struct door_config config = {.path = path, .ops = ops, .nops = KRG_NELEM(ops)};
	struct door *d;
	struct krg_err err;

	if (bin == NULL)
		return tap_skip_all("KRG_BIN is not set");
	(void)snprintf(krg, sizeof(krg), "%s/krg", bin);
	(void)snprintf(path, sizeof(path), "/tmp/krg-test-run-%d", getpid());
	(void)chdir("/");
	(void)umask(022);
	(void)unlink("/tmp/krg-run-fifo");
	if (mkfifo("/tmp/krg-run-fifo", 0600) < 0)
		abort();
	tap_eq(door_new(&config, &d, &err), 0, "door_new");
	tap_eq(door_start(d, &err), 0, "door_start");
	test_status();
	test_stdio(PIPES, "pipes");
	test_stdio(SOCKETS, "sockets");
	test_bulk(PIPES, "pipes");
	test_bulk(SOCKETS, "sockets");
	test_orphan_output();
	test_signals();
	test_closed_stdin();
	test_tty();
	test_tty_stdin_only();
	test_t_without_tty();
	door_stop(d);
	door_free(d);
	(void)unlink("/tmp/krg-run-fifo");
	return tap_done();
}
