/* migrate.c - a process that runs goes to another node: `krg migrate`.  (On from where it has moved to: migrate_on.c.)
 *
 * At its home, by one thread: stop it, say all of it (PREPARE, with its ghost), send its pages, hear that it is ready to run there, and only then
 * let what is here become its deputy; the deputy's HELLO is the word for it to run (as after an exec: deputy.c).
 * Whatever fails before that: what was made there ends, having run nothing, and the process goes on here, as it was.
 */
#include "migrate_impl.h"
#include <linux/kcmp.h>
#include <signal.h>
#include <sys/syscall.h>

#define ARRIVE_MS   60000
#define MIGRATE_MS  300000 /* a call to the home: pages and all */
#define BATCH_BYTES (1u << 20)

/* Pages for one message. */
struct batch {
	struct exec *x;
	struct pages_out *later; /* NULL: none come later */
	struct krg_buf b;
};

static int batch_send(struct batch *s, struct krg_err *err)
{
	COMM_AUTO_REPLY struct comm_reply reply = {0};
	int r = s->b.len == 0 ? 0
			      : comm_call(s->x->e->comm, s->x->to, EPM_OP_PAGES, &s->b, ARRIVE_MS,
					  &reply, err);

	krg_buf_reset(&s->b);
	return r;
}

static int batch_add(void *ctx, u64 addr, const void *p, size_t n, struct krg_err *err)
{
	struct batch *s = ctx;
	struct rec_epm_pages rec = {
		.pid = s->x->p.pid, .exec_id = s->x->exec_id, .addr = addr, .data = {p, n}};

	rec_epm_pages_encode(&rec, &s->b);
	if (s->later != NULL)
		pages_out_early(s->later, addr, n / GHOST_PAGE);
	return s->b.len < BATCH_BYTES ? 0 : batch_send(s, err);
}

int move_pages(struct move *m, const struct ghost_image *image, struct krg_err *err)
{
	struct exec *x = m->x;
	struct batch s = {.x = x, .later = m->later};
	int r = m->later != NULL ? ghost_pages_first(x->running, image, batch_add, &s, err)
				 : ghost_pages(x->running, batch_add, &s, err);

	if (r == 0)
		r = batch_send(&s, err);
	krg_buf_fini(&s.b);
	return r;
}

int move_arrived(struct exec *x, struct krg_err *err)
{
	COMM_AUTO_REPLY struct comm_reply reply = {0};
	KRG_AUTO_BUF struct krg_buf b = {0};
	struct rec_epm_which w = {.pid = x->p.pid, .exec_id = x->exec_id};

	rec_epm_which_encode(&w, &b);
	return comm_call(x->e->comm, x->to, EPM_OP_ARRIVED, &b, ARRIVE_MS, &reply, err);
}

bool move_threads_share(const struct exec *x)
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

	if (why == NULL && !move_threads_share(x))
		why = "its threads have descriptors or directories of their own";
	if (why == NULL) {
		x->nchildren = kin_pids(x->e, x->p.pid, &x->child);
		why = kin_describe(x->e, &x->world, x->to, x->child, x->nchildren, &x->children);
	}
	return why != NULL ? krg_err_set(err, -EOPNOTSUPP, "pid %d: %s", x->p.pid, why) : 0;
}

/* Up to its being ready there.  *ret_there: what was exported is that node's to undo. */
static int send(struct move *m, struct task *deputy, const struct ghost_image *image,
		bool *ret_there, struct krg_err *err)
{
	struct exec *x = m->x;
	int r = exec_prepare(x, err);

	*ret_there = r == 0 || err->node == x->to;
	if (r == 0) {
		task_lock(&deputy->lock);
		deputy->prepared = true;
		task_unlock(&deputy->lock);
		r = move_pages(m, image, err);
	}
	if (r == 0)
		r = move_arrived(x, err);
	if (r == 0 && x->nchildren > 0 && !kin_is_same(x->e, deputy))
		r = krg_err_set(err, -EAGAIN, "pid %d: its children change", x->p.pid);
	if (r == 0 && FAULT_POINT(GHOST_ARRIVED))
		r = krg_err_set(err, -EIO, "arrived");
	return r;
}

/* What is here becomes the deputy. */
static int become(struct move *m, struct task *deputy, const struct ghost_image *image,
		  struct krg_err *err)
{
	struct exec *x = m->x;
	int channel = -EBADF, r;

	task_lock(&deputy->lock);
	deputy->host_tid = x->tid;
	deputy->pidfd = (int)syscall(SYS_pidfd_open, deputy->host_pid, 0);
	task_unlock(&deputy->lock);
	r = ghost_become(x->running, image, x->e->vessel_fd, "KRGV", &channel,
			 m->later != NULL ? &m->keeper : NULL, err);
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

int move_describe(struct move *m, struct ghost_image **ret, struct krg_err *err)
{
	struct exec *x = m->x;
	KRG_AUTO_FD int pidfd = (int)syscall(SYS_pidfd_open, x->p.host_tgid, 0);
	int r;

	if (pidfd < 0)
		return krg_err_set(err, -ESRCH, "pid %d", x->p.pid);
	r = exec_describe(x, err);
	if (r == 0)
		r = ghost_save(x->running, &x->ghost, err);
	if (r == 0)
		r = ghost_image_read(krg_buf_slice(&x->ghost), ret, err);
	if (r == 0 && FAULT_POINT(GHOST_SAVE))
		r = krg_err_set(err, -EIO, "save it");
	if (r == 0 && m->later != NULL)
		r = pages_out_begin(m->later, x->running, err);
	if (r == 0)
		r = exec_fds_export(x->e, &x->p, pidfd, x->to, true, &x->fds, err);
	return r;
}

/* It stands still. */
static int move_stopped(struct move *m, struct krg_err *err)
{
	struct exec *x = m->x;
	TASK_AUTO_PUT struct task *deputy = NULL;
	struct ghost_image *image = NULL;
	bool there = false;
	int r = move_describe(m, &image, err);

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
	r = send(m, deputy, image, &there, err);
	if (r == 0)
		r = become(m, deputy, image, err);
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

int move_is_allowed(struct exec *x, u32 uid, struct krg_err *err)
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
		return krg_err_set(err, -EBUSY, "pid %d has just left for node %u", pid,
				   deputy->peer);
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

static int move(struct move *m, struct krg_err *err)
{
	struct exec *x = m->x;
	struct krg_err why = {0};
	u64 begin;
	int r = m->on ? move_on_find(m, err) : find(x->e, m->m.pid, x, err);

	if (r == 0)
		r = move_is_allowed(x, m->m.uid, err);
	if (r < 0 || x->to == x->e->self)
		return r;
	proc_info_fini(&x->p);
	x->p = (struct proc_info){0};
	if (m->m.how != EPM_MIGRATE_STOP_COPY &&
	    pages_out_open(x->e, m->m.pid, x->to, x->exec_id, &m->later, &why) < 0)
		LOG_D("epm", "pid %d: all its pages go before it: %s", m->m.pid, why.text);
	begin = krg_clock_now_ns();
	r = ghost_stop(x->tid, m->m.pid, MOVE_STOP_MS, &x->running, err);
	if (r == 0)
		r = m->on ? move_on_look(x, err) : look(x, err);
	if (r == 0)
		r = m->on ? move_on_stopped(m, err) : move_stopped(m, err);
	m->stood_ns = krg_clock_now_ns() - begin;
	if (r == -ESRCH && x->running != NULL) {
		/* killed while it stood: nothing can be put back */
		ghost_kill(TAKE_PTR(x->running));
	}
	ghost_let_go(TAKE_PTR(x->running));
	return r;
}

static void say(struct move *m, int r)
{
	KRG_GUARD(leaf, &m->lock);
	if (m->said)
		return;
	m->result = r;
	m->said = true;
	krg_cond_broadcast(&m->cond);
}

static void move_put(struct move *m)
{
	bool last;

	leaf_lock(&m->lock);
	last = m->left;
	m->left = true;
	leaf_unlock(&m->lock);
	if (!last)
		return;
	krg_cond_fini(&m->cond);
	krg_mutex_fini(&m->lock);
	free(m);
}

static void *move_main(void *ctx)
{
	struct move *m = ctx;
	struct epm *e = m->x->e;
	int r = move(m, &m->err);

	if (r < 0 || m->keeper == NULL || m->m.how != EPM_MIGRATE_POST_SYNC)
		say(m, r);
	if (m->keeper != NULL) {
		r = pages_out_serve(m->later, TAKE_PTR(m->keeper));
		if (r < 0 && m->m.how == EPM_MIGRATE_POST_SYNC)
			(void)krg_err_set(&m->err, r, "pid %d: its memory has not all gone",
					  m->m.pid);
		say(m, r);
	}
	pages_out_free(m->later);
	exec_free(m->x);
	move_put(m);
	pages_thread_ends(e);
	return NULL;
}

static int run(struct epm *e, const struct rec_epm_migrate *rec, bool on, u64 *ret_stood_ns,
	       struct krg_err *err)
{
	struct move *m = krg_xalloc(sizeof(*m));
	int r;

	m->m = *rec;
	m->on = on;
	m->x = krg_xalloc(sizeof(*m->x));
	m->x->e = e;
	m->x->to = (nodeid)rec->to;
	m->x->exec_id = krg_trace_call_id(e->self);
	krg_mutex_init(&m->lock);
	krg_cond_init(&m->cond);
	r = pages_thread(e, move_main, m);
	if (r < 0) {
		exec_free(m->x);
		m->left = true;
		move_put(m);
		return krg_err_set(err, r, "a thread to move pid %d", rec->pid);
	}
	leaf_lock(&m->lock);
	while (!m->said)
		krg_cond_wait(&m->cond, &m->lock);
	r = m->result;
	if (err != NULL)
		*err = m->err;
	*ret_stood_ns = m->stood_ns;
	leaf_unlock(&m->lock);
	move_put(m);
	return r;
}

/* [net] That node does it. */
static int ask(struct epm *e, nodeid node, u32 op, const struct rec_epm_migrate *m,
	       u64 *ret_stood_ns, struct krg_err *err)
{
	COMM_AUTO_REPLY struct comm_reply reply = {0};
	KRG_AUTO_BUF struct krg_buf b = {0};
	struct rec_epm_migrated done;
	struct krg_rd rd;
	int r;

	rec_epm_migrate_encode(m, &b);
	r = comm_call(e->comm, node, op, &b, MIGRATE_MS, &reply, err);
	if (r < 0)
		return r;
	rd = krg_rd_slice(reply.body);
	if (rec_epm_migrated_decode(&rd, &done) < 0)
		return krg_err_set(err, -EBADMSG, "the answer of node %u", node);
	*ret_stood_ns = done.stood_ns;
	return 0;
}

/* At its home: it moves from here, or from where it has moved to. */
static int migrate(struct epm *e, const struct rec_epm_migrate *rec, u64 *ret_stood_ns,
		   struct krg_err *err)
{
	TASK_AUTO_PUT struct task *deputy = task_find(e, TASK_DEPUTY, rec->pid);

	bool runs;

	if (deputy == NULL)
		return run(e, rec, false, ret_stood_ns, err);
	task_lock(&deputy->lock);
	runs = deputy->state == TASK_RUNNING;
	task_unlock(&deputy->lock);
	if (!runs)
		return krg_err_set(err, -EBUSY, "pid %d is on its way to node %u, or ends",
				   rec->pid, deputy->peer);
	if (deputy->peer == rec->to)
		return 0;
	if (rec->to == e->self)
		return krg_err_set(err, -EOPNOTSUPP,
				   "pid %d has left for node %u: to come home is not possible yet",
				   rec->pid, deputy->peer);
	return ask(e, deputy->peer, EPM_OP_MIGRATE_ON, rec, ret_stood_ns, err);
}

int epm_migrate(struct epm *e, pid_t pid, nodeid to, uid_t uid, enum epm_migrate_how how,
		u64 *ret_stood_ns, struct krg_err *err)
{
	struct rec_epm_migrate m = {.pid = pid, .to = to, .uid = uid, .how = (u8)how};

	krg_assert_no_locks();
	*ret_stood_ns = 0;
	if (to >= KRG_NODES_MAX)
		return krg_err_set(err, -EINVAL, "node %u", to);
	if (pid < 1 << EPM_PID_SHIFT)
		return krg_err_set(err, -ESRCH, "pid %d", pid);
	if (epm_pid_is_ours(e, pid))
		return migrate(e, &m, ret_stood_ns, err);
	return ask(e, epm_pid_home(pid), EPM_OP_MIGRATE, &m, ret_stood_ns, err);
}

/* on: this is where it has moved to, and its home asks. */
static void handle(struct epm *e, struct comm_req *req, bool on)
{
	struct krg_rd rd = krg_rd_slice(req->body);
	KRG_AUTO_BUF struct krg_buf b = {0};
	struct rec_epm_migrate m;
	struct rec_epm_migrated done = {0};
	struct krg_err err = {0};
	int r;

	if (rec_epm_migrate_decode(&rd, &m) < 0 || m.to >= KRG_NODES_MAX ||
	    epm_pid_home(m.pid) != (on ? req->from : e->self)) {
		comm_req_fail(req, -EBADMSG, "MIGRATE");
		return;
	}
	r = on ? run(e, &m, true, &done.stood_ns, &err) : migrate(e, &m, &done.stood_ns, &err);
	if (r < 0) {
		comm_req_fail_err(req, &err);
		return;
	}
	rec_epm_migrated_encode(&done, &b);
	comm_req_answer(req, &b);
}

void handle_migrate(void *ctx, struct comm_req *req)
{
	handle(ctx, req, false);
}

void handle_migrate_on(void *ctx, struct comm_req *req)
{
	handle(ctx, req, true);
}
