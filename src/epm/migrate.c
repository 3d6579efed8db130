/* migrate.c - a process that runs goes to another node: `krg migrate`.
 *
 * At its home, by one thread: stop it, say all of it (PREPARE, with its ghost), send its pages, hear that it is ready to run there, and only then
 * let what is here become its deputy; the deputy's HELLO is the word for it to run (as after an exec: deputy.c).
 * Whatever fails before that: what was made there ends, having run nothing, and the process goes on here, as it was.
 */
#include "exec_impl.h"
#include <linux/kcmp.h>
#include <signal.h>
#include <sys/syscall.h>

#define STOP_MS	   2000 /* how long a thread may take to stand still */
#define ARRIVE_MS  60000
#define MIGRATE_MS 300000 /* a call to the home: pages and all */

static int send_pages(void *ctx, u64 addr, const void *p, size_t n, struct krg_err *err)
{
	struct exec *x = ctx;
	COMM_AUTO_REPLY struct comm_reply reply = {0};
	KRG_AUTO_BUF struct krg_buf b = {0};
	struct rec_epm_pages rec = {
		.pid = x->p.pid, .exec_id = x->exec_id, .addr = addr, .data = {p, n}};

	rec_epm_pages_encode(&rec, &b);
	return comm_call(x->e->comm, x->to, EPM_OP_PAGES, &b, ARRIVE_MS, &reply, err);
}

static int arrived(struct exec *x, struct krg_err *err)
{
	COMM_AUTO_REPLY struct comm_reply reply = {0};
	KRG_AUTO_BUF struct krg_buf b = {0};
	struct rec_epm_which w = {.pid = x->p.pid, .exec_id = x->exec_id};

	rec_epm_which_encode(&w, &b);
	return comm_call(x->e->comm, x->to, EPM_OP_ARRIVED, &b, ARRIVE_MS, &reply, err);
}

/* Each of its threads has descriptors, directory and the rest in common with the first. */
static bool threads_share(const struct exec *x)
{
	static const int what[] = {KCMP_FILES, KCMP_FS, KCMP_SIGHAND};
	KRG_AUTO_FREE pid_t *tid = NULL;
	unsigned n = ghost_threads(x->running, &tid);

	for (unsigned i = 1; i < n; i++)
		for (unsigned k = 0; k < KRG_NELEM(what); k++)
			if (syscall(SYS_kcmp, tid[0], tid[i], what[k], 0, 0) != 0)
				return false;
	return true;
}

static int look(struct exec *x, struct krg_err *err)
{
	const char *why = exec_cannot_move(x);

	if (why == NULL && !threads_share(x))
		why = "its threads have descriptors or directories of their own";
	if (why == NULL) {
		x->nchildren = kin_pids(x->e, x->p.pid, &x->child);
		why = kin_describe(x->e, &x->world, x->to, x->child, x->nchildren, &x->children);
	}
	return why != NULL ? krg_err_set(err, -EOPNOTSUPP, "pid %d: %s", x->p.pid, why) : 0;
}

/* Up to its being ready there.  *ret_there: what was exported is that node's to undo. */
static int send(struct exec *x, struct task *deputy, bool *ret_there, struct krg_err *err)
{
	int r = exec_prepare(x, err);

	*ret_there = r == 0 || err->node == x->to;
	if (r == 0) {
		task_lock(&deputy->lock);
		deputy->prepared = true;
		task_unlock(&deputy->lock);
		r = ghost_pages(x->running, send_pages, x, err);
	}
	if (r == 0)
		r = arrived(x, err);
	if (r == 0 && x->nchildren > 0 && !kin_is_same(x->e, deputy))
		r = krg_err_set(err, -EAGAIN, "pid %d: its children change", x->p.pid);
	if (r == 0 && FAULT_POINT(GHOST_ARRIVED))
		r = krg_err_set(err, -EIO, "arrived");
	return r;
}

/* What is here becomes the deputy. */
static int become(struct exec *x, struct task *deputy, const struct ghost_image *image,
		  struct krg_err *err)
{
	int channel = -EBADF, r;

	task_lock(&deputy->lock);
	deputy->host_tid = x->tid;
	deputy->pidfd = (int)syscall(SYS_pidfd_open, deputy->host_pid, 0);
	task_unlock(&deputy->lock);
	r = ghost_become(x->running, image, x->e->vessel_fd, "KRGV", &channel, err);
	if (r < 0)
		return r;
	x->running = NULL;
	task_lock(&deputy->lock);
	deputy->channel = channel;
	task_unlock(&deputy->lock);
	return deputy_watch(x->e, deputy);
}

static void await_running(struct task *deputy)
{
	task_lock(&deputy->lock);
	while (deputy->state == TASK_HELD)
		krg_cond_wait(&deputy->cond, &deputy->lock);
	task_unlock(&deputy->lock);
}

/* It stands still. */
static int move_stopped(struct exec *x, struct krg_err *err)
{
	KRG_AUTO_FD int pidfd = (int)syscall(SYS_pidfd_open, x->tid, 0);
	TASK_AUTO_PUT struct task *deputy = NULL;
	struct ghost_image *image = NULL;
	bool there = false;
	int r;

	if (pidfd < 0)
		return krg_err_set(err, -ESRCH, "pid %d", x->p.pid);
	r = exec_describe(x, err);
	if (r == 0)
		r = ghost_save(x->running, &x->ghost, err);
	if (r == 0)
		r = ghost_image_read(krg_buf_slice(&x->ghost), &image, err);
	if (r == 0 && FAULT_POINT(GHOST_SAVE))
		r = krg_err_set(err, -EIO, "save it");
	if (r == 0)
		r = exec_fds_export(x->e, &x->p, pidfd, x->to, true, &x->fds, err);
	if (r < 0) {
		ghost_image_free(image);
		return r;
	}
	tty_task_goes(x->e, &x->p, &x->world);
	deputy = exec_deputy_new(x);
	r = task_insert(x->e, deputy);
	if (r < 0) {
		exec_fds_cancel(x->e, &x->fds, x->to, false);
		ghost_image_free(image);
		return krg_err_set(err, r, "pid %d is on its way already", x->p.pid);
	}
	usage_deputy_made(x->e, deputy);
	r = send(x, deputy, &there, err);
	if (r == 0)
		r = become(x, deputy, image, err);
	ghost_image_free(image);
	if (r < 0) {
		exec_fds_cancel(x->e, &x->fds, x->to, there);
		exec_give_up(x);
		task_remove(x->e, deputy);
		return r;
	}
	await_running(deputy);
	return 0;
}

static int may_migrate(struct exec *x, u32 uid, struct krg_err *err)
{
	struct epm_caps caps = caps_of(x->e, x->p.pid);

	/* whoever may trace it (ptrace(2)), by its user */
	if (uid != 0 && (uid != x->p.uid[0] || uid != x->p.uid[1] || uid != x->p.uid[2]))
		return krg_err_set(err, -EPERM, "pid %d is not yours", x->p.pid);
	if ((caps.set[EPM_CAPS_EFFECTIVE] & 1u << EPM_CAP_CAN_MIGRATE) == 0)
		return krg_err_set(err, -EPERM, "pid %d has not the capability CAN_MIGRATE",
				   x->p.pid);
	return 0;
}

static int find(struct epm *e, i32 pid, struct exec *x, struct krg_err *err)
{
	TASK_AUTO_PUT struct task *deputy = task_find(e, TASK_DEPUTY, pid);

	if (deputy != NULL)
		return krg_err_set(
			err, -EOPNOTSUPP,
			"pid %d has left for node %u: to move on from there is not possible yet",
			pid, deputy->peer);
	if (session_owns_pid(e, pid) || kin_is_shadow(e, pid) ||
	    proc_read_world(e, pid, &x->world) < 0)
		return krg_err_set(err, -ESRCH, "pid %d", pid);
	x->tid = proc_host_pid(e, pid);
	if (x->tid <= 0 || proc_read(x->tid, &x->p) < 0 || x->p.pid != pid)
		return krg_err_set(err, -ESRCH, "pid %d", pid);
	proc_info_fini(&x->world);
	x->world = (struct proc_info){0};
	return 0;
}

static int migrate(struct epm *e, const struct rec_epm_migrate *m, u64 *ret_stood_ns,
		   struct krg_err *err)
{
	struct exec *x = krg_xalloc(sizeof(*x));
	u64 begin = 0;
	int r;

	x->e = e;
	x->to = (nodeid)m->to;
	x->exec_id = krg_trace_call_id(e->self);
	r = find(e, m->pid, x, err);
	if (r == 0)
		r = may_migrate(x, m->uid, err);
	if (r == 0 && x->to != e->self) {
		proc_info_fini(&x->p);
		x->p = (struct proc_info){0};
		begin = krg_clock_now_ns();
		r = ghost_stop(x->tid, m->pid, STOP_MS, &x->running, err);
		if (r == 0)
			r = look(x, err);
		if (r == 0)
			r = move_stopped(x, err);
		*ret_stood_ns = krg_clock_now_ns() - begin;
	}
	if (r == -ESRCH && x->running != NULL) {
		/* killed while it stood: nothing can be put back */
		ghost_kill(TAKE_PTR(x->running));
	}
	ghost_let_go(x->running);
	exec_free(x);
	return r;
}

int epm_migrate(struct epm *e, pid_t pid, nodeid to, uid_t uid, u64 *ret_stood_ns,
		struct krg_err *err)
{
	COMM_AUTO_REPLY struct comm_reply reply = {0};
	KRG_AUTO_BUF struct krg_buf b = {0};
	struct rec_epm_migrate m = {.pid = pid, .to = to, .uid = uid};
	struct rec_epm_migrated done;
	struct krg_rd rd;
	int r;

	krg_assert_no_locks();
	*ret_stood_ns = 0;
	if (to >= KRG_NODES_MAX)
		return krg_err_set(err, -EINVAL, "node %u", to);
	if (pid < 1 << EPM_PID_SHIFT)
		return krg_err_set(err, -ESRCH, "pid %d", pid);
	if (epm_pid_is_ours(e, pid))
		return migrate(e, &m, ret_stood_ns, err);
	rec_epm_migrate_encode(&m, &b);
	r = comm_call(e->comm, epm_pid_home(pid), EPM_OP_MIGRATE, &b, MIGRATE_MS, &reply, err);
	if (r < 0)
		return r;
	rd = krg_rd_slice(reply.body);
	if (rec_epm_migrated_decode(&rd, &done) < 0)
		return krg_err_set(err, -EBADMSG, "the answer of node %u", epm_pid_home(pid));
	*ret_stood_ns = done.stood_ns;
	return 0;
}

void handle_migrate(void *ctx, struct comm_req *req)
{
	struct epm *e = ctx;
	struct krg_rd rd = krg_rd_slice(req->body);
	KRG_AUTO_BUF struct krg_buf b = {0};
	struct rec_epm_migrate m;
	struct rec_epm_migrated done = {0};
	struct krg_err err = {0};
	int r;

	if (rec_epm_migrate_decode(&rd, &m) < 0 || m.to >= KRG_NODES_MAX ||
	    !epm_pid_is_ours(e, m.pid)) {
		comm_req_fail(req, -EBADMSG, "MIGRATE");
		return;
	}
	r = migrate(e, &m, &done.stood_ns, &err);
	if (r < 0) {
		comm_req_fail_err(req, &err);
		return;
	}
	rec_epm_migrated_encode(&done, &b);
	comm_req_answer(req, &b);
}
