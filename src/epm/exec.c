/* exec.c - distant exec, at the node where execve was called.
 *
 * ARCHITECTURE.md section 4 has the steps.  Whatever goes wrong before the task is the deputy ends
 * in the same way: the body is given up, having run nothing, and the exec goes on here.
 */
#include "exec_impl.h"
#include <fcntl.h>
#include <linux/kcmp.h>
#include <sched.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#define PATH_CHUNK 128 /* of a path, at a time */

/* Most paths are short, and most execs stay: nothing is allocated for them. */
static int path_read(struct gate_call *c, char *path, size_t max)
{
	const __u64 *arg = c->req.data.args;
	u64 at = arg[0];

	if (c->req.data.nr == SYS_execveat) {
		if ((i32)arg[0] != AT_FDCWD || arg[4] != 0)
			return -EOPNOTSUPP;
		at = arg[1];
	}
	if (FAULT_POINT(EXEC_READ))
		return -EFAULT;
	for (size_t n = 0; n < max;) {
		size_t here = KRG_MIN(PATH_CHUNK - at % PATH_CHUNK, max - n);

		if (memread_now((pid_t)c->req.pid, at, path + n, here) < 0)
			return -EFAULT;
		if (memchr(path + n, 0, here) != NULL)
			return 0;
		n += here;
		at += here;
	}
	return -ENAMETOOLONG;
}

/* Worth a journey?  What is not an ordinary executable gets its errno here at once. */
static bool file_can_move(struct exec *x)
{
	char full[4300];
	struct stat st;

	if (x->path[0] == '/')
		(void)snprintf(full, sizeof(full), "/proc/%d/root%s", x->tid, x->path);
	else
		(void)snprintf(full, sizeof(full), "/proc/%d/cwd/%s", x->tid, x->path);
	if (stat(full, &st) < 0 || !S_ISREG(st.st_mode) || (st.st_mode & 0111) == 0)
		return false;
	return strncmp(x->path, "/proc/", 6) != 0;
}

static bool same_namespaces(struct exec *x)
{
	static const char *const kinds[] = {"ns/mnt", "ns/user", "ns/net", "ns/ipc", "ns/uts"};
	const char *at = x->e->ns_ids;
	char link[64];

	for (unsigned i = 0; i < KRG_NELEM(kinds); i++) {
		int n = proc_link(x->tid, kinds[i], link, sizeof(link));

		if (n < 0 || strncmp(at, link, (size_t)n) != 0)
			return false;
		at += n + 1;
	}
	return true;
}

static bool is_deleted(const char *link, int n)
{
	return n > 10 && strcmp(link + n - 10, " (deleted)") == 0;
}

/* Empty: the world's. */
static bool root_read(struct exec *x)
{
	int n = proc_path(x->e->root_path, x->tid, "root", x->root, sizeof(x->root));

	if (n < 1 || x->root[0] != '/' || is_deleted(x->root, n))
		return false;
	if (n == 1)
		x->root[0] = '\0';
	return true;
}

/* A mask that leaves out processors of this node names processors of this node. */
static bool is_pinned(pid_t tid)
{
	cpu_set_t node, task;

	if (sched_getaffinity(getpid(), sizeof(node), &node) < 0 ||
	    sched_getaffinity(tid, sizeof(task), &task) < 0)
		return false; /* more processors than the set can hold */
	for (int i = 0; i < CPU_SETSIZE; i++)
		if (CPU_ISSET(i, &node) && !CPU_ISSET(i, &task))
			return true;
	return false;
}

static bool body_has_pipes(const struct task *body)
{
	for (unsigned i = 0; i < body->nstreams; i++)
		if (body->streams[i].kind != STREAM_STANDIN)
			return true;
	return false;
}

/* NULL: the task can move; else why not. */
const char *exec_cannot_move(struct exec *x)
{
	if (proc_read(x->tid, &x->p) < 0 || proc_read_world(x->e, x->p.pid, &x->world) < 0)
		return "it has ended";
	if (x->world.state == 'Z')
		return "its first thread has ended"; /* /proc says little of it */
	if (syscall(SYS_kcmp, x->tid, x->p.host_tgid, KCMP_FILES, 0, 0) != 0)
		return "its threads have descriptors of their own";
	if (x->p.tracer != 0 && x->running == NULL)
		return "it is traced";
	if (x->p.seccomp_filters != 1)
		return "it has a seccomp filter of its own";
	if (!epm_pid_is_ours(x->e, x->p.pid) && x->body == NULL)
		return "it has moved here";
	if (x->body != NULL && x->p.threads > 1 && x->running == NULL)
		return "it has moved here, and has threads";
	if (x->body != NULL && x->to == x->body->peer)
		return "it would go home";
	if (x->body != NULL && x->p.sig_pending != 0 && x->running == NULL)
		return "it has moved here, and has pending signals";
	if (x->body != NULL && body_has_pipes(x->body))
		return "it has moved here, and has pipes";
	if (!same_namespaces(x))
		return "it has namespaces of its own";
	if (is_pinned(x->tid))
		return "it is bound to processors of this node";
	if (!root_read(x))
		return "its root directory is not to be found";
	return NULL;
}

static int args_read(struct exec *x)
{
	const __u64 *arg = x->c->req.data.args;
	int first = x->c->req.data.nr == SYS_execveat ? 2 : 1;
	u32 count;
	int r = memread_strv(&x->mem, arg[first], &x->argv, EPM_ARGS_MAX, &count);

	if (r < 0)
		return r;
	if (count == 0)
		return -EINVAL; /* the kernel has a special case for it */
	return memread_strv(&x->mem, arg[first + 1], &x->env, EPM_ARGS_MAX, &count);
}

/* From /proc: prlimit(2) of another user's process wants a capability that krgd may not have. */
static int limits_read(pid_t tid, struct krg_buf *b)
{
	char path[64], text[4096];
	const char *line = text;

	(void)snprintf(path, sizeof(path), "/proc/%d/limits", tid);
	if (krg_read_file(path, text, sizeof(text)) <= 0)
		return -ESRCH;
	/* a head, then a line per resource in the order of their numbers; names are 25 wide */
	for (int r = 0; r < RLIMIT_NLIMITS; r++) {
		char soft[24], hard[24];

		line = strchr(line, '\n');
		if (line == NULL || strlen(++line) < 26 ||
		    sscanf(line + 25, "%23s %23s", soft, hard) != 2)
			return -EBADMSG;
		krg_buf_put_u64(b, soft[0] == 'u' ? RLIM_INFINITY : strtoull(soft, NULL, 10));
		krg_buf_put_u64(b, hard[0] == 'u' ? RLIM_INFINITY : strtoull(hard, NULL, 10));
	}
	return 0;
}

static u32 number_read(pid_t tid, const char *what, int base)
{
	char path[64], text[32];

	(void)snprintf(path, sizeof(path), "/proc/%d/%s", tid, what);
	return krg_read_file(path, text, sizeof(text)) > 0 ? (u32)strtol(text, NULL, base) : 0;
}

static u32 core_filter_read(pid_t tid)
{
	char path[64], text[32];

	(void)snprintf(path, sizeof(path), "/proc/%d/coredump_filter", tid);
	return krg_read_file(path, text, sizeof(text)) > 0 ? (u32)strtoul(text, NULL, 16)
							   : EPM_SPAWN_NO_FILTER;
}

int exec_describe(struct exec *x, struct krg_err *err)
{
	KRG_AUTO_BUF struct krg_buf limits = {0}, groups = {0};
	char cwd[4096];
	int n = proc_path(x->e->root_path, x->tid, "cwd", cwd, sizeof(cwd));
	const struct proc_info *p = &x->p;
	struct sched_param prio = {0};
	struct rec_epm_spawn s;
	bool subreaper;
	u32 pdeathsig;

	if (n < 0 || FAULT_POINT(EXEC_DESCRIBE))
		return krg_err_set(err, n < 0 ? n : -EIO, "pid %d: its directory", p->pid);
	if (is_deleted(cwd, n))
		return krg_err_set(err, -ENOENT, "pid %d: its directory is deleted", p->pid);
	if (limits_read(x->tid, &limits) < 0 || sched_getparam(x->tid, &prio) < 0)
		return krg_err_set(err, -ESRCH, "pid %d: its limits", p->pid);
	for (unsigned i = 0; i < p->ngroups; i++)
		krg_buf_put_u32(&groups, p->groups[i]);
	asked_describe(x->e, p, &pdeathsig, &subreaper);
	s = (struct rec_epm_spawn){.pgid = x->world.pgid == p->pid ? 0 : x->world.pgid,
				   .uid = p->uid[0],
				   .euid = p->uid[1],
				   .suid = p->uid[2],
				   .gid = p->gid[0],
				   .egid = p->gid[1],
				   .sgid = p->gid[2],
				   .groups = krg_buf_slice(&groups),
				   .cap_inh = p->cap_inh,
				   .cap_prm = p->cap_prm,
				   .cap_eff = p->cap_eff,
				   .cap_bnd = p->cap_bnd,
				   .cap_amb = p->cap_amb,
				   .flags = (p->nnp ? EPM_SPAWN_FLAG_NNP : 0) |
					    (subreaper ? EPM_SPAWN_FLAG_REAPER : 0),
				   .umask = p->umask,
				   .nice = p->nice,
				   .sched_policy = (u32)sched_getscheduler(x->tid),
				   .sched_prio = (u32)prio.sched_priority,
				   .ioprio = (u32)syscall(SYS_ioprio_get, 1, x->tid),
				   .timer_slack = number_read(x->tid, "timerslack_ns", 10),
				   .oom_score_adj = (i32)number_read(x->tid, "oom_score_adj", 10),
				   .pdeathsig = pdeathsig,
				   .persona = number_read(x->tid, "personality", 16),
				   .securebits = x->securebits,
				   .core_filter = core_filter_read(x->tid),
				   .no_thp = p->no_thp,
				   .sig_blocked = p->sig_blocked,
				   .sig_ignored = p->sig_ignored,
				   .cwd = krg_slice_str(cwd),
				   .root = krg_slice_str(x->root),
				   .path = krg_slice_str(x->path),
				   .argv = krg_buf_slice(&x->argv),
				   .env = krg_buf_slice(&x->env),
				   .limits = krg_buf_slice(&limits),
				   .children = krg_buf_slice(&x->children)};
	rec_epm_spawn_encode(&s, &x->spawn);
	return 0;
}

int exec_prepare(struct exec *x, struct krg_err *err)
{
	COMM_AUTO_REPLY struct comm_reply reply = {0};
	KRG_AUTO_BUF struct krg_buf b = {0};
	struct epm_caps caps = caps_of(x->e, x->p.pid);
	struct rec_epm_prepare req = {.pid = x->p.pid,
				      .ppid = x->body != NULL ? x->body->ppid : x->world.ppid,
				      .home = x->body != NULL ? x->body->peer : x->e->self,
				      .pgid = x->world.pgid,
				      .sid = x->world.sid,
				      .effective = caps.set[EPM_CAPS_EFFECTIVE],
				      .permitted = caps.set[EPM_CAPS_PERMITTED],
				      .inh_effective = caps.set[EPM_CAPS_INH_EFFECTIVE],
				      .inh_permitted = caps.set[EPM_CAPS_INH_PERMITTED],
				      .exec_id = x->exec_id,
				      .tty = tty_has(x->e, &x->p, &x->world),
				      .spawn = krg_buf_slice(&x->spawn),
				      .fds = krg_buf_slice(&x->fds.records),
				      .ghost = krg_buf_slice(&x->ghost)};

	if (FAULT_POINT(EXEC_PREPARE_SEND))
		return krg_err_set(err, -EIO, "PREPARE");
	rec_epm_prepare_encode(&req, &b);
	return comm_call(x->e->comm, x->to, EPM_OP_PREPARE, &b, 60000, &reply, err);
}

void exec_give_up(struct exec *x)
{
	KRG_AUTO_BUF struct krg_buf b = {0};
	struct rec_epm_which w = {.pid = x->p.pid, .exec_id = x->exec_id};
	int r;

	rec_epm_which_encode(&w, &b);
	r = comm_send(x->e->comm, x->to, EPM_OP_ABORT, &b);
	if (r < 0 && r != -EHOSTDOWN)
		LOG_W("epm", "pid %d: ABORT to node %u: %s", x->p.pid, x->to, strerror(-r));
}

struct task *exec_deputy_new(struct exec *x)
{
	struct task *deputy = task_new(x->e, TASK_DEPUTY, x->p.pid, x->to);

	deputy->exec_id = x->exec_id;
	deputy->host_pid = x->p.host_tgid;
	deputy->threaded = x->p.threads > 1;
	deputy->path = krg_xstrdup(x->path);
	deputy->streams = exec_fds_pipes(&x->fds, &deputy->nstreams);
	deputy->state = TASK_HELD;
	deputy->children = TAKE_PTR(x->child);
	deputy->nchildren = x->nchildren;
	deputy->securebits = x->securebits;
	deputy->forgets = (x->p.sig_ignored >> (SIGCHLD - 1) & 1) != 0;
	return deputy;
}

/* A body goes on to a third node. */
static int move_on(struct exec *x, struct krg_err *err)
{
	KRG_AUTO_FD int pidfd = (int)syscall(SYS_pidfd_open, x->p.host_tgid, 0);
	bool imported = false;
	int r;

	if (pidfd < 0)
		return krg_err_set(err, -ESRCH, "pid %d", x->p.pid);
	r = exec_describe(x, err);
	if (r == 0)
		r = exec_fds_export(x->e, &x->p, pidfd, x->to, false, &x->fds, err);
	if (r < 0)
		return r;
	if (exec_fds_have_pipes(&x->fds, x->e->self))
		r = krg_err_set(err, -EOPNOTSUPP, "it has moved here, and has pipes");
	if (r == 0) {
		r = exec_prepare(x, err);
		imported = r == 0 || err->node == x->to;
		if (r == 0)
			r = onward(x->c, x->body, x->to, x->exec_id, x->path, err);
		if (r < 0)
			exec_give_up(x);
	}
	if (r < 0)
		exec_fds_cancel(x->e, &x->fds, x->to, imported);
	else
		atomic_fetch_add(&x->e->count.execs_placed, 1);
	return r;
}

/* 0: it goes.  Negative: it stays, *err says why. */
static int move(struct exec *x, struct krg_err *err)
{
	KRG_AUTO_FD int pidfd = (int)syscall(SYS_pidfd_open, x->p.host_tgid, 0);
	TASK_AUTO_PUT struct task *deputy = NULL;
	bool imported;
	int r;

	if (pidfd < 0)
		return krg_err_set(err, -ESRCH, "pid %d", x->p.pid);
	r = exec_describe(x, err);
	if (r < 0)
		return r;
	r = exec_fds_export(x->e, &x->p, pidfd, x->to, false, &x->fds, err);
	if (r < 0)
		return r;
	if (!gate_call_valid(x->c)) {
		exec_fds_cancel(x->e, &x->fds, x->to, false);
		return krg_err_set(err, -ESRCH, "pid %d", x->p.pid);
	}
	tty_task_goes(x->e, &x->p, &x->world);
	deputy = exec_deputy_new(x);
	r = task_insert(x->e, deputy);
	if (r < 0) {
		exec_fds_cancel(x->e, &x->fds, x->to, false);
		return krg_err_set(err, r, "pid %d: a deputy of it is ending", x->p.pid);
	}
	usage_deputy_made(x->e, deputy);
	r = exec_prepare(x, err);
	imported = r == 0 || err->node == x->to;
	task_lock(&deputy->lock);
	deputy->prepared = r == 0;
	task_unlock(&deputy->lock);
	if (r == 0)
		r = convert(x->c, deputy, err);
	if (r < 0) {
		x->again = deputy->again;
		exec_fds_cancel(x->e, &x->fds, x->to, imported);
		exec_give_up(x);
		keep_drop(x->e, KEEP_DEPUTY, deputy->pid);
		task_remove(x->e, deputy);
	}
	return r;
}

/* `krg run -n`: the node; else -1. */
static i32 told_node(struct exec *x)
{
	i32 told = -1;

	if (x->run != NULL) {
		task_lock(&x->run->lock);
		told = x->run->run_node;
		task_unlock(&x->run->lock);
	}
	return told;
}

/* The node for this exec; self: it stays. */
static nodeid choose(struct exec *x, struct epm_exec_info *info)
{
	const struct epm_placement_ops *ops = atomic_load(&x->e->placement);
	i32 told = told_node(x);

	if (told >= 0)
		return (nodeid)told;
	if (!caps_may_exec(x->e, x->tid))
		return x->e->self;
	return ops != NULL ? ops->place(x->e->placement_ctx, info) : x->e->self;
}

void exec_free(struct exec *x)
{
	if (x->run != NULL)
		task_put(x->run);
	if (x->body != NULL)
		task_put(x->body);
	memread_fini(&x->mem);
	proc_info_fini(&x->p);
	proc_info_fini(&x->world);
	krg_buf_fini(&x->argv);
	krg_buf_fini(&x->env);
	krg_buf_fini(&x->spawn);
	krg_buf_fini(&x->children);
	krg_buf_fini(&x->ghost);
	free(x->child);
	exec_fds_fini(&x->fds);
	free(x);
}

static void stays(struct exec *x, struct epm_exec_info *info, const struct krg_err *err)
{
	const struct epm_placement_ops *ops = atomic_load(&x->e->placement);

	LOG_D("epm", "exec of '%s' by pid %d stays: %s", x->path, x->p.pid, err->text);
	if (ops != NULL && x->to != x->e->self)
		ops->placed(x->e->placement_ctx, info, x->to, err->code);
	if (x->again)
		return;
	atomic_fetch_add(&x->e->count.execs_local, 1);
	TRACE(EXEC_LOCAL, x->exec_id, x->p.pid, -err->code);
	if (x->run == NULL)
		return;
	task_lock(&x->run->lock);
	/* it was told to go there: then not going is an error */
	if (x->run->run_node >= 0 && x->run->run_node != x->e->self) {
		x->run->run_err = *err;
		if (!x->c->answered)
			gate_return(x->c, err->code < 0 ? err->code : -EIO);
	}
	task_unlock(&x->run->lock);
}

static int moves(struct exec *x, struct epm_exec_info *info, struct krg_err *err)
{
	const char *why;
	int r;

	why = exec_cannot_move(x);
	if (why == NULL && x->body != NULL) {
		if (kin_pids(x->e, x->p.pid, &x->child) > 0)
			why = "it has moved here, and has children";
	} else if (why == NULL) {
		x->nchildren = kin_pids(x->e, x->p.pid, &x->child);
		why = kin_describe(x->e, &x->world, x->to, x->child, x->nchildren, &x->children);
	}
	if (why != NULL)
		return krg_err_set(err, -EOPNOTSUPP, "%s", why);
	info->pid = x->p.pid;
	info->uid = x->p.uid[0];
	r = args_read(x);
	if (r < 0)
		return krg_err_set(err, r, "its arguments");
	if (atomic_fetch_add(&x->e->nmoves, 1) < EPM_MOVES_MAX)
		r = x->body != NULL ? move_on(x, err) : move(x, err);
	else
		r = krg_err_set(err, -EAGAIN, "%u programs are on their way", EPM_MOVES_MAX);
	atomic_fetch_sub(&x->e->nmoves, 1);
	return r;
}

static bool may_move(struct epm *e)
{
	const struct epm_placement_ops *ops = atomic_load(&e->placement);

	return ops != NULL && ops->may_move(e->placement_ctx);
}

static bool path_may_move(struct epm *e, const char *path)
{
	const struct epm_placement_ops *ops = atomic_load(&e->placement);

	return ops != NULL && ops->path_may_move(e->placement_ctx, path);
}

/* The path is read.  The cheap questions come first: most execs stay. */
static void place(struct exec *x)
{
	struct epm_exec_info info = {.pid = x->tid, .path = x->path};
	struct krg_err err = {0};
	struct epm *e = x->e;
	pid_t host_sid;

	if (!file_can_move(x))
		return;
	info.away = proc_read_stat(x->tid, &x->p, &host_sid) == 0 && session_is_away(e, host_sid);
	info.moved = x->body != NULL;
	x->to = choose(x, &info);
	x->exec_id = krg_trace_call_id(e->self);
	if (x->to == e->self)
		atomic_fetch_add(&e->count.execs_local, 1);
	else if (moves(x, &info, &err) < 0) {
		stays(x, &info, &err);
		x->to = e->self;
	}
	if (!x->again)
		history_add(e, x->p.pid, x->to, x->path);
}

void gate_handle_exec(struct gate_call *c)
{
	struct epm *e = c->e;
	TASK_AUTO_PUT struct task *body = NULL;
	char path[PATH_SIZE];
	u32 securebits = 0;
	struct task *run;
	struct exec *x;

	gate_continue(c);
	if (convert_second(c, &securebits) || atomic_load(&e->nodes) <= 1)
		return;
	body = task_find_body_by_host_pid(e, (pid_t)c->req.pid);
	if (body == NULL && atomic_load(&e->nruns) == 0 && !may_move(e)) {
		atomic_fetch_add(&e->count.execs_local, 1);
		return;
	}
	if (path_read(c, path, sizeof(path)) < 0)
		return;
	run = atomic_load(&e->nruns) > 0 ? run_find_by_host_pid(e, (pid_t)c->req.pid) : NULL;
	if (run == NULL && !path_may_move(e, path)) {
		atomic_fetch_add(&e->count.execs_local, 1);
		history_add(e, 0, e->self, path);
		return;
	}
	x = krg_xalloc(sizeof(*x));
	x->c = c;
	x->e = e;
	x->to = e->self;
	x->tid = (pid_t)c->req.pid;
	x->run = run;
	x->securebits = securebits;
	x->body = TAKE_PTR(body);
	memcpy(x->path, path, strlen(path) + 1);
	memread_init(&x->mem, x->tid);
	place(x);
	exec_free(x);
}
