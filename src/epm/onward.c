/* onward.c - a program that has moved executes, and goes on to a third node.
 *
 * Its deputy stays where it is: only the body changes its node.  Where it leaves, the new body is prepared as at a
 * home, and the old one is stopped in its call; then its home is asked.  There the word is spoken, once: from then on
 * the deputy's body is the new one, which gets COMMIT, and the old one is ended, having run no more.
 *
 * README: what stays, Races.
 */
#include "epm_impl.h"
#include <linux/securebits.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>

#define ERESTARTNOINTR 513
#define BELOW_STACK    512

/* ---- at the home ---- */

static int deputy_turn(struct epm *e, struct comm_req *req, const struct rec_epm_onward *m,
		       struct krg_err *err)
{
	TASK_AUTO_PUT struct task *t = task_find(e, TASK_DEPUTY, m->pid);
	struct vessel_msg name = {.type = VESSEL_NAME};
	KRG_AUTO_FREE char *path = krg_slice_strdup(m->path);
	const char *slash = path != NULL ? strrchr(path, '/') : NULL;
	bool turned = false;

	if (t == NULL || path == NULL || m->to == e->self || m->to == req->from)
		return krg_err_set(err, -ESRCH, "pid %d is not to go on", m->pid);
	if (t->nstreams > 0 || t->nchildren > 0)
		return krg_err_set(err, -EOPNOTSUPP, "pid %d has pipes or children at its home",
				   m->pid);
	if (!comm_is_member(e->comm, m->to) || FAULT_POINT(ONWARD_TURN))
		return krg_err_set(err, -EHOSTUNREACH, "pid %d: node %u is gone", m->pid, m->to);
	task_lock(&t->lock);
	while (t->signals > 0)
		krg_cond_wait(&t->cond, &t->lock);
	if (t->state == TASK_RUNNING && t->peer == req->from && t->exec_id == m->exec_id) {
		t->peer = m->to;
		t->exec_id = m->new_id;
		t->cpu_ns += m->used_us * KRG_USEC;
		t->before.utime_us += m->utime_us;
		t->before.stime_us += m->used_us - m->utime_us;
		keep_deputy_locked(e, t);
		turned = true;
	}
	task_unlock(&t->lock);
	if (!turned)
		return krg_err_set(err, -ESRCH, "pid %d is ending", m->pid);
	task_lock(&t->lock);
	timers_decode(t, m->timers);
	task_unlock(&t->lock);
	deputy_commit(e, t);
	(void)FAULT_POINT(ONWARD_TURNED);
	TRACE(DEPUTY_TURNED, m->new_id, m->pid, req->from, m->to);
	/* it went as its deputy was turned: then who hears of it may not have found it */
	if (!comm_is_member(e->comm, m->to))
		deputies_on_node_down(e, (nodeid)m->to);
	if (path[0] == '\0')
		return 0; /* the same program */
	(void)snprintf(name.text, sizeof(name.text), "%s", slash != NULL ? slash + 1 : path);
	(void)vessel_say(t, &name);
	return 0;
}

void handle_onward(void *ctx, struct comm_req *req)
{
	struct krg_rd rd = krg_rd_slice(req->body);
	struct krg_err err = {0};
	struct rec_epm_onward m;

	int r;

	if (rec_epm_onward_decode(&rd, &m) < 0 || m.utime_us > m.used_us)
		r = krg_err_set(&err, -EBADMSG, "onward");
	else
		r = deputy_turn(ctx, req, &m, &err);
	err.node = ((struct epm *)ctx)->self; /* home_ask(): it has answered */
	if (r < 0)
		comm_req_fail_err(req, &err);
	else
		comm_req_answer(req, NULL);
}

/* ---- where the new body is ---- */

/* The home is gone, and who asks does not know what it has said.  1: the body is the process; 0: it never was, nor will
 * be. */
void handle_give_up(void *ctx, struct comm_req *req)
{
	struct epm *e = ctx;
	struct krg_rd rd = krg_rd_slice(req->body);
	KRG_AUTO_BUF struct krg_buf b = {0};
	TASK_AUTO_PUT struct task *body = NULL;
	struct rec_epm_value v = {.value = 1};
	struct rec_epm_which w;

	if (rec_epm_which_decode(&rd, &w) == 0)
		body = task_find(e, TASK_BODY, w.pid);
	if (body != NULL && body->maker == req->from && body->exec_id == w.exec_id) {
		task_lock(&body->lock);
		if (body->state == TASK_HELD || body->state == TASK_MAKING) {
			task_move_locked(body, TASK_ENDED);
			v.value = 0;
		}
		task_unlock(&body->lock);
	}
	if (v.value == 0)
		task_remove(e, body);
	rec_epm_value_encode(&v, &b);
	comm_req_answer(req, &b);
}

/* ---- where it leaves ---- */

struct leaving {
	struct epm *e;
	pid_t tid;
	struct task *body;
	struct user_regs_struct regs; /* in its call */
	u64 mask;
	u64 kept[8], kept_at; /* what was below its stack */
	struct task_timer timer[EPM_TIMERS];
};

static int call(struct leaving *l, u64 nr, u64 arg0, u64 arg1, u64 arg2, u64 arg3, i64 *ret)
{
	const u64 arg[4] = {arg0, arg1, arg2, arg3};

	return call_through(l->tid, &l->regs, nr, arg, false, ret);
}

/* Its interval timers, which stop: the words below its stack are written meanwhile. */
static int timers_take(struct leaving *l)
{
	static const u64 off[4] = {0};
	u64 was[4];
	i64 result;
	int r = 0;

	for (u64 which = 0; which < EPM_TIMERS && r == 0; which++) {
		r = memwrite(l->tid, l->kept_at, off, sizeof(off));
		if (r == 0)
			r = call(l, SYS_setitimer, which, l->kept_at, l->kept_at + sizeof(off), 0,
				 &result);
		if (r == 0)
			r = memread_now(l->tid, l->kept_at + sizeof(off), was, sizeof(was));
		if (r == 0)
			l->timer[which] = (struct task_timer){was[2] * 1000000 + was[3],
							      was[0] * 1000000 + was[1]};
	}
	(void)memwrite(l->tid, l->kept_at, l->kept, sizeof(l->kept));
	return r;
}

static void timers_back(struct leaving *l)
{
	i64 result;

	for (u64 which = 0; which < EPM_TIMERS; which++) {
		const struct task_timer *t = &l->timer[which];
		u64 left = t->left_us > 0 ? t->left_us : t->interval_us;
		const u64 value[4] = {t->interval_us / 1000000, t->interval_us % 1000000,
				      left / 1000000, left % 1000000};

		if (left == 0 || memwrite(l->tid, l->kept_at, value, sizeof(value)) < 0)
			continue;
		(void)call(l, SYS_setitimer, which, l->kept_at, 0, 0, &result);
	}
	(void)memwrite(l->tid, l->kept_at, l->kept, sizeof(l->kept));
}

/* What only it can tell. */
static int look(struct leaving *l, struct krg_err *err)
{
	i64 children, bits;
	int r = call(l, SYS_waitid, P_ALL, 0, 0, WNOHANG | WNOWAIT | WEXITED | __WALL, &children);

	if (r == 0)
		r = call(l, SYS_prctl, PR_GET_SECUREBITS, 0, 0, 0, &bits);
	if (r < 0)
		return krg_err_set(err, r, "look at it");
	if (children != -ECHILD)
		return krg_err_set(err, -EOPNOTSUPP, "it has children here");
	if ((bits & ~SECBIT_KEEP_CAPS) != 0)
		return krg_err_set(err, -EOPNOTSUPP, "it has securebits");
	return 0;
}

static int stopped(struct leaving *l, struct krg_err *err)
{
	u64 all = ~0ull;

	if (ptrace(PTRACE_GETREGS, l->tid, 0, &l->regs) < 0 ||
	    ptrace(PTRACE_GETSIGMASK, l->tid, sizeof(l->mask), &l->mask) < 0)
		return krg_err_set(err, -errno, "read its registers");
	if ((i64)l->regs.rax != -ERESTARTNOINTR)
		return krg_err_set(err, -EPROTO, "it is not in its execve");
	l->kept_at = (l->regs.rsp - BELOW_STACK) & ~15ull;
	if (memread_now(l->tid, l->kept_at, l->kept, sizeof(l->kept)) < 0 ||
	    ptrace(PTRACE_SETSIGMASK, l->tid, sizeof(all), &all) < 0)
		return krg_err_set(err, -EFAULT, "its stack");
	return 0;
}

/* The home may go before its answer comes: what it said last, only the new body knows (GIVE_UP). */
int onward_ask(struct epm *e, struct task *body, pid_t tid, const struct onward *o,
	       struct krg_err *err)
{
	COMM_AUTO_REPLY struct comm_reply reply = {0}, word = {0};
	KRG_AUTO_BUF struct krg_buf b = {0}, timers = {0}, w = {0};
	struct rec_epm_which which = {.pid = body->pid, .exec_id = o->new_id};
	struct rec_epm_onward m = {.pid = body->pid,
				   .exec_id = body->exec_id,
				   .new_id = o->new_id,
				   .to = o->to,
				   .path = krg_slice_str(o->path)};
	struct proc_info p = {0};
	struct krg_err ignored;
	struct rec_epm_value v;
	struct krg_rd rd;
	pid_t sid;
	int r;

	if (proc_read_stat(tid, &p, &sid) == 0) {
		m.utime_us = p.utime_ticks * 10000;
		m.used_us = m.utime_us + p.stime_ticks * 10000;
	}
	timers_encode(o->timer, &timers);
	m.timers = krg_buf_slice(&timers);
	rec_epm_onward_encode(&m, &b);
	if (FAULT_POINT(ONWARD_ASK))
		return krg_err_set(err, -EIO, "ask its home");
	/* no deadline: its home answers, or is gone */
	r = comm_call(e->comm, body->peer, EPM_OP_ONWARD, &b, 0, &reply, err);
	if (r == 0 || err->node == body->peer)
		return r;
	/* what it said last, only the new body knows */
	rec_epm_which_encode(&which, &w);
	if (comm_call(e->comm, o->to, EPM_OP_GIVE_UP, &w, 0, &word, &ignored) < 0)
		return 0;
	rd = krg_rd_slice(word.body);
	return rec_epm_value_decode(&rd, &v) == 0 && v.value == 0 ? r : 0;
}

bool onward_signal(struct epm *e, const struct task *body, nodeid to, i32 tid, const siginfo_t *si)
{
	KRG_AUTO_BUF struct krg_buf b = {0};
	struct rec_epm_signal s = {.pid = body->pid,
				   .sig = si->si_signo,
				   .code = si->si_code,
				   .from_pid = si->si_pid,
				   .from_uid = si->si_uid,
				   .value = (i64)(uintptr_t)si->si_ptr,
				   .tid = tid};

	rec_epm_signal_encode(&s, &b);
	return comm_send(e->comm, to, EPM_OP_SIGNAL, &b) == 0;
}

struct following {
	struct leaving *l;
	nodeid to;
};

static int signal_follows(void *ctx, pid_t own_tid, const siginfo_t *si)
{
	const struct following *f = ctx;

	(void)own_tid; /* its program there has one thread */
	return onward_signal(f->l->e, f->l->body, f->to, 0, si) ? 0 : -EHOSTDOWN;
}

/* Signals that came while it stood still go after it. */
static void pending_send(struct leaving *l, nodeid to)
{
	struct following f = {l, to};

	if (ghost_signals(l->tid, 0, false, 0, signal_follows, &f) == 0)
		(void)ghost_signals(l->tid, 0, true, 0, signal_follows, &f);
}

/* The home's word may be lost with it. */
static void commit(struct epm *e, const struct task *body, const struct onward *o)
{
	KRG_AUTO_BUF struct krg_buf b = {0}, timers = {0};
	struct rec_epm_commit m = {.pid = body->pid, .exec_id = o->new_id};

	timers_encode(o->timer, &timers);
	m.timers = krg_buf_slice(&timers);
	rec_epm_commit_encode(&m, &b);
	if (comm_send(e->comm, o->to, EPM_OP_COMMIT, &b) < 0)
		LOG_D("epm", "body %d: node %u is gone", body->pid, o->to);
}

void onward_stands(struct task *body, bool leaves)
{
	KRG_GUARD(task, &body->lock);
	body->leaves = leaves;
}

void onward_heard(struct task *body)
{
	task_lock(&body->lock);
	signals_wait_locked(body);
	task_unlock(&body->lock);
}

void onward_left(struct epm *e, struct task *body, const struct onward *o)
{
	commit(e, body, o);
	TRACE(BODY_LEFT, body->exec_id, body->pid, o->to);
	task_lock(&body->lock);
	/* else it was killed, and that has been told */
	if (body->state == TASK_RUNNING) {
		body_left(e, body->pid, body->exec_id);
		task_move_locked(body, TASK_ENDED);
	}
	task_unlock(&body->lock);
	task_remove(e, body);
	keep_drop(e, body->orphan ? KEEP_ORPHAN : KEEP_BODY, body->pid);
}

static void leave(struct leaving *l, const struct onward *o)
{
	int status;

	onward_heard(l->body);
	pending_send(l, o->to);
	onward_left(l->e, l->body, o);
	(void)syscall(SYS_pidfd_send_signal, l->body->pidfd, SIGKILL, NULL, 0);
	for (;;) {
		pid_t r = waitpid(l->tid, &status, __WALL);

		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0 || !WIFSTOPPED(status))
			return;
		(void)ptrace(PTRACE_CONT, l->tid, 0, 0);
	}
}

int onward(struct gate_call *c, struct task *body, nodeid to, u64 new_id, const char *path,
	   struct krg_err *err)
{
	struct leaving l = {.e = c->e, .tid = (pid_t)c->req.pid, .body = body};
	struct onward o = {.to = to, .new_id = new_id, .path = path, .timer = l.timer};
	bool taken = false;
	int r = task_stop(c, l.tid, err);

	if (r < 0)
		return r;
	r = stopped(&l, err);
	if (r < 0) {
		ghost_detach(l.tid);
		return r;
	}
	onward_stands(body, true);
	r = look(&l, err);
	if (r == 0) {
		taken = true;
		r = timers_take(&l);
		if (r < 0)
			(void)krg_err_set(err, r, "its interval timers");
	}
	if (r == 0)
		r = onward_ask(c->e, body, l.tid, &o, err);
	if (r == 0) {
		leave(&l, &o);
		return 0;
	}
	onward_stands(body, false);
	if (taken)
		timers_back(&l);
	convert_let_go(c->e, l.tid, &l.regs, l.mask, -EBADF, 0);
	return r;
}
