/* lab_spawn.c - the processes of a lab: the holder, whose network namespace has the bridge, and a
 * krgd per node.  A child joins its cgroup first, with its maker's lock still open: so whoever gets
 * the lock after the maker was killed finds every child in a cgroup. */
#include "lab_impl.h"
#include "clock.h"
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>

#define READY_FD 3
#define ARGS_MAX 48

/* An error whose text says it all. */
static int fail_as(struct krg_err *err, int code, const char *what, const char *why)
{
	(void)krg_err_set(err, 0, "%s%s%s", what, what[0] != '\0' ? ": " : "", why);
	if (err != NULL)
		err->code = code;
	return code;
}

static void child_signals(void)
{
	sigset_t none;

	(void)sigemptyset(&none);
	for (int sig = 1; sig < NSIG; sig++)
		(void)signal(sig, SIG_DFL);
	(void)sigprocmask(SIG_SETMASK, &none, NULL);
}

static _Noreturn void child_fail(int ready, const char *what, int code)
{
	char text[160];
	int n = snprintf(text, sizeof(text), "%s: %s\n", what, strerror(-code));
	int r = krg_write_all(ready, text, (size_t)n);

	_exit(r < 0 ? 2 : 1);
}

static void child_say(int ready, const char *word)
{
	if (krg_write_all(ready, word, strlen(word)) < 0)
		_exit(2);
}

/* stdin is empty, output goes to the log */
static int child_stdio(const char *log)
{
	int in = open("/dev/null", O_RDWR | O_CLOEXEC);
	int out = log == NULL ? in : open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);

	if (in < 0 || out < 0)
		return -errno;
	if (dup2(in, 0) < 0 || dup2(out, 1) < 0 || dup2(out, 2) < 0)
		return -errno;
	return 0;
}

static int pipe_wait(int fd, const char *what, struct krg_err *err)
{
	char text[200];
	ssize_t n;

	do
		n = read(fd, text, sizeof(text) - 1);
	while (n < 0 && errno == EINTR);
	text[n > 0 ? n : 0] = '\0';
	if (strcmp(text, "made\n") == 0)
		return 0;
	text[strcspn(text, "\n")] = '\0';
	return fail_as(err, -ECHILD, what, n > 0 ? text : "it ended");
}

int lab_spawn_holder(const struct lab_state *s, const struct lab_cgroups *c, struct lab_proc *ret,
		     struct krg_err *err)
{
	int p[2], r;
	pid_t pid;

	if (pipe2(p, O_CLOEXEC) < 0)
		return krg_err_set(err, -errno, "lab %s: pipe", s->name);
	pid = fork();
	if (pid < 0) {
		r = krg_err_set(err, -errno, "lab %s: fork", s->name);
		(void)close(p[0]);
		(void)close(p[1]);
		return r;
	}
	if (pid == 0) {
		child_signals();
		(void)setsid();
		(void)prctl(PR_SET_NAME, "krg-lab");
		r = lab_cgroups_join(c, s->name, "holder");
		if (r == 0)
			r = child_stdio(NULL);
		if (r < 0)
			child_fail(p[1], "join the cgroup", r);
		child_say(p[1], "made\n");
		(void)close_range(3, ~0u, 0);
		(void)chdir("/");
		for (;;)
			(void)pause();
	}
	*ret = lab_proc_of(pid);
	(void)close(p[1]);
	r = pipe_wait(p[0], "lab: the holder of the network", err);
	(void)close(p[0]);
	return r;
}

struct node_args {
	char *arg[ARGS_MAX];
	unsigned n;
};

static void arg_add(struct node_args *a, const char *opt, char *value)
{
	ASSERT(a->n + 3 <= ARGS_MAX);
	a->arg[a->n++] = krg_xstrdup(opt);
	a->arg[a->n++] = value;
	a->arg[a->n] = NULL;
}

static void args_make(struct node_args *a, const struct lab_state *s, unsigned node,
		      const struct lab_config *config, const struct lab_seeds *seeds)
{
	char dir[LAB_PATH_MAX], addr[32];

	lab_path(dir, sizeof(dir), s->name, NULL);
	lab_net_addr(node, addr, sizeof(addr));
	a->n = 0;
	a->arg[a->n++] = krg_xstrdup(config->krgd);
	arg_add(a, "--run-dir", krg_xasprintf("%s/node%u", dir, node));
	arg_add(a, "--node", krg_xasprintf("%u", node));
	arg_add(a, "--name", krg_xasprintf("node%u", node));
	arg_add(a, "--cluster", krg_xstrdup(s->name));
	arg_add(a, "--key", krg_xasprintf("%s/key", dir));
	arg_add(a, "--listen", krg_xasprintf("%s:%u", addr, LAB_PORT));
	arg_add(a, "--log", krg_xasprintf("%s/node%u/log", dir, node));
	arg_add(a, "--ready-fd", krg_xasprintf("%d", READY_FD));
	/* a bit earlier than we give up: so it is the node that says why */
	arg_add(a, "--join-timeout",
		krg_xasprintf("%llu",
			      (unsigned long long)lab_ready_ms(config) * 9 / 10 / 1000 + 1));
	/* all nodes share this machine's processors: of many, each says less often that it lives */
	if (s->nodes > LAB_BEATS_NODES)
		arg_add(a, "--heartbeat", krg_xasprintf("%u", 200 * s->nodes / LAB_BEATS_NODES));
	if (config->policy != NULL)
		arg_add(a, "--policy", krg_xstrdup(config->policy));
	if (s->cpus > 0)
		arg_add(a, "--cpus", krg_xasprintf("%g", s->cpus));
	for (unsigned i = 0; i < seeds->n; i++) {
		lab_net_addr(seeds->node[i], addr, sizeof(addr));
		arg_add(a, "--seed", krg_xasprintf("%u@%s:%u", seeds->node[i], addr, LAB_PORT));
	}
}

static _Noreturn void node_child(const struct lab_state *s, const struct lab_cgroups *c,
				 unsigned node, const struct node_args *a, int net, int go,
				 int ready)
{
	char sub[32], log[LAB_PATH_MAX], byte;
	int r;

	child_signals();
	(void)setsid();
	(void)snprintf(sub, sizeof(sub), "node%u", node);
	r = lab_cgroups_join(c, s->name, sub);
	if (r < 0)
		child_fail(ready, "join the cgroup", r);
	if ((net >= 0 ? setns(net, CLONE_NEWNET) : unshare(CLONE_NEWNET)) < 0)
		child_fail(ready, "network namespace", -errno);
	(void)snprintf(sub, sizeof(sub), "node%u/log", node);
	lab_path(log, sizeof(log), s->name, sub);
	r = child_stdio(log);
	if (r < 0)
		child_fail(ready, "open the log", r);
	(void)chdir("/");
	(void)umask(022);
	child_say(ready, "made\n");
	if (read(go, &byte, 1) != 1)
		_exit(1); /* its maker is gone */
	r = net >= 0 ? 0 : lab_net_address(node, s->nodes);
	if (r < 0)
		child_fail(ready, "network address", r);
	if (ready != READY_FD && dup2(ready, READY_FD) < 0)
		child_fail(ready, "dup2", -errno);
	(void)fcntl(READY_FD, F_SETFD, 0);
	(void)close_range(READY_FD + 1, ~0u, CLOSE_RANGE_CLOEXEC);
	(void)execv(a->arg[0], a->arg);
	child_fail(READY_FD, a->arg[0], -errno);
}

int lab_spawn_node(const struct lab_state *s, const struct lab_cgroups *c, unsigned node,
		   const struct lab_config *config, const struct lab_seeds *seeds, int net,
		   struct lab_child *ret, struct krg_err *err)
{
	struct lab_child child = {.go = -EBADF, .ready = -EBADF};
	struct node_args args;
	int go[2], ready[2];
	pid_t pid;

	if (pipe2(go, O_CLOEXEC) < 0)
		return krg_err_set(err, -errno, "lab %s: pipe", s->name);
	if (pipe2(ready, O_CLOEXEC) < 0) {
		(void)close(go[0]);
		(void)close(go[1]);
		return krg_err_set(err, -errno, "lab %s: pipe", s->name);
	}
	args_make(&args, s, node, config, seeds);
	pid = fork();
	if (pid == 0) {
		(void)close(go[1]);
		node_child(s, c, node, &args, net, go[0], ready[1]);
	}
	for (unsigned i = 0; i < args.n; i++)
		free(args.arg[i]);
	(void)close(go[0]);
	(void)close(ready[1]);
	child.go = go[1];
	child.ready = ready[0];
	if (pid < 0) {
		lab_child_fini(&child);
		return krg_err_set(err, -errno, "lab %s: fork", s->name);
	}
	child.proc = lab_proc_of(pid);
	*ret = child;
	return 0;
}

int lab_spawn_go(struct lab_child *child)
{
	int r = krg_write_all(child->go, "g", 1);

	(void)close(child->go);
	child->go = -EBADF;
	return r;
}

void lab_child_fini(struct lab_child *child)
{
	krg_closep(&child->go);
	krg_closep(&child->ready);
	child->go = child->ready = -EBADF;
}

/* ---- waiting for what they say ---- */

/* 1: it said the word; 0: not yet; or an error */
static int child_listen(struct lab_child *child, const char *word, struct krg_err *err)
{
	ssize_t n = read(child->ready, child->said + child->said_len,
			 sizeof(child->said) - 1 - child->said_len);
	size_t len = strlen(word);

	if (n < 0)
		return errno == EINTR ? 0 : krg_err_set(err, -errno, "read");
	child->said_len += (size_t)n;
	child->said[child->said_len] = '\0';
	if (child->said_len >= len && strncmp(child->said, word, len) == 0) {
		child->said_len -= len;
		memmove(child->said, child->said + len, child->said_len + 1);
		return 1;
	}
	if (n > 0 && child->said_len < sizeof(child->said) - 1)
		return 0;
	child->said[strcspn(child->said, "\n")] = '\0';
	return fail_as(err, -ECHILD, "", child->said_len > 0 ? child->said : "it ended");
}

static int wait_round(struct lab_child *child, unsigned n, bool *done, const char *word, int sigfd,
		      int timeout_ms, unsigned *ret_who, struct krg_err *err)
{
	struct pollfd p[LAB_NODES_MAX + 1];
	unsigned who[LAB_NODES_MAX + 1], np = 0, left = 0;
	int r;

	for (unsigned i = 0; i < n; i++) {
		if (done[i])
			continue;
		who[np] = i;
		p[np++] = (struct pollfd){.fd = child[i].ready, .events = POLLIN};
	}
	left = np;
	p[np] = (struct pollfd){.fd = sigfd, .events = POLLIN};
	if (left == 0)
		return 0;
	*ret_who = who[0];
	r = poll(p, np + 1, timeout_ms);
	if (r < 0 && errno != EINTR)
		return krg_err_set(err, -errno, "poll");
	if (r == 0)
		return fail_as(err, -ETIMEDOUT, "", "not ready in time");
	if (r > 0 && p[np].revents != 0)
		return fail_as(err, -EINTR, "", "interrupted");
	for (unsigned i = 0; r > 0 && i < np; i++) {
		int said;

		if (p[i].revents == 0)
			continue;
		*ret_who = who[i];
		said = child_listen(&child[who[i]], word, err);
		if (said < 0)
			return said;
		done[who[i]] = said > 0;
	}
	return 1;
}

int lab_spawn_wait(struct lab_child *child, unsigned n, const char *word, u64 deadline_ns,
		   int sigfd, unsigned *ret_who, struct krg_err *err)
{
	bool done[LAB_NODES_MAX] = {false};
	int r;

	ASSERT(n <= LAB_NODES_MAX);
	do {
		u64 now = krg_clock_now_ns();
		int ms = now < deadline_ns ? (int)((deadline_ns - now) / KRG_MSEC) + 1 : 0;

		r = wait_round(child, n, done, word, sigfd, ms, ret_who, err);
	} while (r > 0);
	return r;
}
