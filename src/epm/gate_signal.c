/* gate_signal.c - kill(2) and its kin across nodes.
 *
 * A signal to a process goes to its home, whose kernel gives it to the process or to its deputy; the
 * deputy's vessel passes it to the body.  So the order of signals and their merging are one
 * kernel's.  A signal to a group or to everybody goes to each node, which signals the members that are
 * its own (not bodies: theirs comes by their deputies).  A thread is signalled where it is.  Who makes the
 * call, so that the sender is shown: sender.c.
 */
#include "epm_impl.h"
#include <signal.h>
#include <sys/syscall.h>

bool kill_may(const struct rec_epm_kill *k, const struct proc_info *target)
{
	if (k->cap_kill || k->from_pid == target->pid || k->euid == target->uid[0] ||
	    k->euid == target->uid[2] || k->uid == target->uid[0] || k->uid == target->uid[2])
		return true;
	return k->sig == SIGCONT && k->sid != 0 && k->sid == target->sid;
}

static int stop_body(struct epm *e, struct task *deputy)
{
	struct rec_epm_signal s = {.pid = deputy->pid, .sig = SIGSTOP};

	return deputy_signal(e, deputy, &s) < 0 ? -ESRCH : 0;
}

/* Of a task on its way, which is not the deputy yet: it stops as any, and goes on its way when it is continued. */
static bool stops_itself(struct task *deputy)
{
	KRG_GUARD(task, &deputy->lock);
	if (deputy->state != TASK_HELD)
		return false;
	deputy->stop_early = true;
	return true;
}

void stop_settle(struct epm *e, struct task *deputy)
{
	PROC_AUTO struct proc_info p = {0};

	if (proc_read_world(e, deputy->pid, &p) == 0 && p.state == 'T')
		(void)stop_body(e, deputy);
}

static int deliver(struct epm *e, const struct rec_epm_kill *k, pid_t pid, pid_t tid)
{
	struct herald_req r = {.sig = k->sig,
			       .code = k->code,
			       .from_pid = k->from_pid,
			       .from_uid = k->uid,
			       .tgid = pid,
			       .tid = tid,
			       .value = k->value};
	KRG_AUTO_FD int fd = -EBADF;
	int result = proc_open(e, pid, &fd);

	return result < 0 ? result : signal_send(e, &r, fd);
}

/* To a thread of a process that runs here. */
static int signal_thread(struct epm *e, const struct rec_epm_kill *k)
{
	PROC_AUTO struct proc_info p = {0};
	pid_t tgid;

	if (proc_read_world(e, k->tid, &p) < 0)
		return -ESRCH;
	tgid = p.host_tgid; /* as the world's /proc has it */
	if (k->tkill == 0 && k->target != tgid)
		return -ESRCH;
	if (!kill_may(k, &p))
		return -EPERM;
	if (k->sig == 0)
		return 0;
	atomic_fetch_add(&e->count.signals, 1);
	TRACE(SIGNAL_SENT, 0, k->tid, k->sig, e->self);
	return deliver(e, k, tgid, k->tid);
}

/* [net] A thread whose number was made here: here, or gone with its program, which moved as it ran. */
static int signal_thread_of_here(struct epm *e, const struct rec_epm_kill *k)
{
	TASK_AUTO_PUT struct task *deputy = NULL;
	COMM_AUTO_REPLY struct comm_reply reply = {0};
	KRG_AUTO_BUF struct krg_buf b = {0};
	struct krg_err err;
	int r = signal_thread(e, k);

	if (r == -ESRCH && k->tkill == 0)
		deputy = task_find(e, TASK_DEPUTY, k->target);
	if (deputy == NULL)
		return r;
	rec_epm_kill_encode(k, &b);
	r = comm_call(e->comm, deputy->peer, EPM_OP_KILL, &b, 10000, &reply, &err);
	return r == -EHOSTDOWN ? -ESRCH : r;
}

int kill_one(struct epm *e, const struct rec_epm_kill *k, pid_t pid)
{
	TASK_AUTO_PUT struct task *deputy = task_find(e, TASK_DEPUTY, pid);
	PROC_AUTO struct proc_info p = {0};
	int r = proc_read_world(e, pid, &p);

	if (r < 0)
		return -ESRCH;
	if (k->tid != 0 && p.host_tgid != pid)
		return signal_thread(e, k);
	if (!kill_may(k, &p))
		return -EPERM;
	if (k->sig == 0)
		return 0;
	atomic_fetch_add(&e->count.signals, 1);
	TRACE(SIGNAL_SENT, 0, pid, k->sig, e->self);
	/* the vessel cannot catch it: the body stops first, and the deputy as it */
	if (k->sig == SIGSTOP && deputy != NULL && !stops_itself(deputy)) {
		/* a SIGCONT that came before goes before */
		(void)signals_drain(e, deputy);
		return stop_body(e, deputy);
	}
	return deliver(e, k, pid, k->tid != 0 ? pid : 0);
}

int kill_here(struct epm *e, const struct rec_epm_kill *k)
{
	return kill_one(e, k, k->target);
}

/* [net] As kill(2): it is pending when this returns, at the body, too. */
static int kill_and_flush(struct epm *e, const struct rec_epm_kill *k)
{
	TASK_AUTO_PUT struct task *deputy = task_find(e, TASK_DEPUTY, k->target);
	int r = kill_one(e, k, k->target);

	if (r == 0 && deputy != NULL && k->sig != 0 && k->sig != SIGKILL)
		signals_flush(e, &deputy, 1);
	return r;
}

/* A body here whose home died. */
static int signal_orphan(struct epm *e, const struct rec_epm_kill *k)
{
	TASK_AUTO_PUT struct task *body = task_find(e, TASK_BODY, k->target);
	bool orphan;

	if (body == NULL)
		return -ESRCH;
	task_lock(&body->lock);
	orphan = body->orphan;
	task_unlock(&body->lock);
	return orphan ? kill_one(e, k, k->target) : -ESRCH;
}

/* [net] Nobody's home knows it: an orphan can be anywhere. */
int kill_orphan(struct epm *e, const struct rec_epm_kill *k)
{
	KRG_AUTO_BUF struct krg_buf b = {0};
	struct comm_reply reply[KRG_NODES_MAX] = {0};
	nodeid to[KRG_NODES_MAX];
	int codes[KRG_NODES_MAX], r = signal_orphan(e, k);
	unsigned n = 0;

	for (nodeid i = 0; r == -ESRCH && i < KRG_NODES_MAX; i++)
		if (i != e->self && i != epm_pid_home(k->target) && comm_is_member(e->comm, i))
			to[n++] = i;
	if (n == 0)
		return r;
	rec_epm_kill_encode(k, &b);
	if (comm_call_many(e->comm, to, n, EPM_OP_KILL, &b, 10000, reply, codes) > 0)
		LOG_D("epm", "pid %d: not all nodes know it", k->target);
	for (unsigned i = 0; i < n; i++) {
		if (codes[i] == 0 || codes[i] == -EPERM)
			r = codes[i];
		comm_reply_fini(&reply[i]);
	}
	return r;
}

/* [net] */
int kill_pid(struct epm *e, const struct rec_epm_kill *k, struct krg_err *err)
{
	COMM_AUTO_REPLY struct comm_reply reply = {0};
	KRG_AUTO_BUF struct krg_buf b = {0};
	/* a thread is where its number was made: programs leave their threads behind */
	bool is_thread = k->tid != 0 && k->tid != k->target;
	nodeid home = epm_pid_home(is_thread ? k->tid : k->target);
	int r;

	if (home == KRG_NODE_NONE)
		return krg_err_set(err, -ESRCH, "pid %d", k->target);
	if (home != e->self && !comm_is_member(e->comm, home)) {
		r = is_thread ? -ESRCH : kill_orphan(e, k);
		return r < 0 ? krg_err_set(err, r, "pid %d", k->target) : 0;
	}
	if (home == e->self) {
		r = is_thread ? signal_thread_of_here(e, k) : kill_and_flush(e, k);
		return r < 0 ? krg_err_set(err, r, "pid %d", k->target) : 0;
	}
	rec_epm_kill_encode(k, &b);
	r = comm_call(e->comm, home, EPM_OP_KILL, &b, 10000, &reply, err);
	return r == -EHOSTDOWN ? krg_err_set(err, -ESRCH, "pid %d", k->target) : r;
}

void handle_kill(void *ctx, struct comm_req *req)
{
	struct krg_rd rd = krg_rd_slice(req->body);
	struct rec_epm_kill k;
	int r;

	if (rec_epm_kill_decode(&rd, &k) < 0 || k.sig < 0 || k.sig > 64) {
		comm_req_fail(req, -EBADMSG, "kill");
		return;
	}
	if (k.tid != 0 && k.tid != k.target)
		r = signal_thread_of_here(ctx, &k);
	else
		r = epm_pid_is_ours(ctx, k.target) ? kill_and_flush(ctx, &k)
						   : signal_orphan(ctx, &k);
	if (r < 0)
		comm_req_fail(req, r, "pid %d", k.target);
	else
		comm_req_answer(req, NULL);
}

/* The body does nothing about a terminal's stop signal: it is to stop.  Remembers by what. */
static bool stops_by_default(struct epm *e, struct task *body, int sig)
{
	PROC_AUTO struct proc_info p = {0};

	if (proc_read_world(e, body->pid, &p) < 0 ||
	    ((p.sig_caught | p.sig_ignored | p.sig_blocked) >> (sig - 1) & 1) != 0)
		return false;
	task_lock(&body->lock);
	body->stop_as = sig;
	task_unlock(&body->lock);
	return true;
}

void body_signal(struct epm *e, struct task *body, const struct rec_epm_signal *s)
{
	struct herald_req r = {.sig = s->sig,
			       .code = s->code,
			       .from_pid = s->from_pid,
			       .from_uid = s->from_uid,
			       .tgid = body->pid,
			       .tid = s->tid != 0	    ? s->tid
				      : s->code == SI_TKILL ? body->pid
							    : 0,
			       .value = s->value};
	i32 pgid;

	if (s->sig == SIGCONT) {
		task_lock(&body->lock);
		body->stop_as = 0;
		task_unlock(&body->lock);
	}
	/* the kernel here sees an orphaned group, which its like does not stop */
	if (s->stops != 0 && stops_by_default(e, body, s->sig))
		r.sig = SIGSTOP;
	/* it may end by it */
	pgid = group_watched(e, body);
	(void)signal_send(e, &r, body->pidfd);
	group_body_heard(e, pgid, s->sig);
}

/* From the home of a body on this node. */
void handle_signal(void *ctx, struct comm_req *req)
{
	struct krg_rd rd = krg_rd_slice(req->body);
	TASK_AUTO_PUT struct task *body = NULL;
	struct rec_epm_signal s;

	if (rec_epm_signal_decode(&rd, &s) == 0 && s.sig > 0 && s.sig <= 64)
		body = task_find(ctx, TASK_BODY, s.pid);
	if (body != NULL && (body->peer == req->from || body->maker == req->from) &&
	    !signals_add(ctx, body, &s))
		LOG_W("epm", "body %d: too many signals wait, signal %d is lost", s.pid, s.sig);
	comm_req_done(req);
}

/* ---- the gate ---- */

static void sender_fill(const struct proc_info *p, struct rec_epm_kill *k)
{
	k->from_pid = p->pid;
	k->uid = p->uid[0];
	k->euid = p->uid[1];
	k->cap_kill = (p->cap_eff >> 5 & 1) != 0; /* CAP_KILL */
}

/* The caller's group and session, by its pid in the world. */
static void kin_fill(struct epm *e, struct rec_epm_kill *k, i32 *ret_pgid)
{
	struct proc_info w;

	*ret_pgid = 0;
	if (proc_read_world_stat(e, k->from_pid, &w) == 0) {
		*ret_pgid = w.pgid;
		k->sid = w.sid;
	}
}

static int info_fill(struct gate_call *c, u64 at, struct rec_epm_kill *k)
{
	MEMREAD_AUTO struct memread m;
	siginfo_t si;
	int r;

	memread_init(&m, (pid_t)c->req.pid);
	r = memread_bytes(&m, at, &si, sizeof(si));
	if (r < 0)
		return r;
	if (si.si_code >= 0 || si.si_code == SI_TKILL)
		return -EPERM; /* as rt_sigqueueinfo(2): only to oneself */
	k->code = si.si_code;
	k->value = (i64)(uintptr_t)si.si_ptr;
	return 0;
}

/* What is made here may be given up, and what stands to leave may have left: then the signal would end with it. */
static bool body_stays(struct task *body)
{
	KRG_GUARD(task, &body->lock);
	return body->state == TASK_RUNNING && !body->leaves;
}

/* The kernel's own work, with the true sender. */
static bool is_local(struct epm *e, const struct rec_epm_kill *k)
{
	TASK_AUTO_PUT struct task *body = task_find(e, TASK_BODY, k->target);
	TASK_AUTO_PUT struct task *deputy = NULL;

	/* a body of this node; but whether a terminal's signal stops it is decided at home */
	if (body != NULL)
		return !signal_is_tty_stop(k->sig) && body_stays(body);
	if (k->tid != 0 && k->tid != k->target)
		return epm_pid_is_ours(e, k->tid);
	if (!epm_pid_is_ours(e, k->target))
		return false;
	/* notified for SIGSTOP's sake: only a deputy needs us */
	deputy = task_find(e, TASK_DEPUTY, k->target);
	return deputy == NULL || k->sig != SIGSTOP;
}

static void gate_signal_pid(struct gate_call *c, struct rec_epm_kill *k, u64 info)
{
	struct proc_info p;
	i32 pgid;
	int r;

	if (is_local(c->e, k)) {
		gate_continue(c);
		return;
	}
	/* cheap first: nobody can have this pid */
	if (epm_pid_home(k->tid != 0 ? k->tid : k->target) == KRG_NODE_NONE) {
		gate_return(c, -ESRCH);
		return;
	}
	r = info != 0 ? info_fill(c, info, k) : 0;
	if (r < 0) {
		gate_return(c, r);
		return;
	}
	if (proc_read((pid_t)c->req.pid, &p) < 0)
		return;
	sender_fill(&p, k);
	proc_info_fini(&p);
	if (k->sig == SIGCONT)
		kin_fill(c->e, k, &pgid);
	gate_begin(c);
	(void)FAULT_POINT(GATE_BEGUN);
	gate_return(c, kill_pid(c->e, k, NULL));
}

/* A vessel, a nursery or a placeholder. */
static bool is_ours(struct epm *e, pid_t pid)
{
	TASK_AUTO_PUT struct task *deputy = task_find(e, TASK_DEPUTY, pid);

	if (deputy == NULL)
		return session_owns_pid(e, pid) || kin_is_shadow(e, pid);
	KRG_GUARD(task, &deputy->lock);
	return deputy->state != TASK_HELD;
}

static void gate_signal_group(struct gate_call *c, struct rec_epm_kill *k)
{
	struct proc_info p;
	i32 pgid = 0;
	int r;

	if (atomic_load(&c->e->nodes) <= 1 && k->target != -1) {
		gate_continue(c);
		return;
	}
	if (proc_read((pid_t)c->req.pid, &p) < 0)
		return;
	sender_fill(&p, k);
	proc_info_fini(&p);
	/* it does that for a process of that number (signal_send_group()) */
	if (is_ours(c->e, k->from_pid)) {
		gate_continue(c);
		return;
	}
	kin_fill(c->e, k, &pgid);
	if (k->target == 0)
		k->target = pgid;
	else if (k->target != -1)
		k->target = -k->target;
	if (k->target == 0 || k->target == INT32_MIN) {
		gate_return(c, -ESRCH);
		return;
	}
	gate_begin(c);
	(void)FAULT_POINT(GATE_BEGUN);
	r = kill_group_and_go_on(c->e, k);
	if (r == 1)
		gate_continue(c);
	else
		gate_return(c, r);
}

void gate_handle_signal(struct gate_call *c)
{
	const __u64 *arg = c->req.data.args;
	struct rec_epm_kill k = {.target = (i32)arg[0]};
	bool of_thread = false, no_signal;
	u64 info = 0;

	gate_continue(c);
	switch (c->req.data.nr) {
	case SYS_kill:
		k.sig = (i32)arg[1];
		break;
	case SYS_tkill:
		k.tid = k.target;
		k.tkill = 1;
		k.sig = (i32)arg[1];
		k.code = SI_TKILL;
		of_thread = true;
		break;
	case SYS_tgkill:
		k.tid = (i32)arg[1];
		k.sig = (i32)arg[2];
		k.code = SI_TKILL;
		of_thread = true;
		break;
	case SYS_rt_sigqueueinfo:
		k.sig = (i32)arg[1];
		info = arg[2];
		break;
	case SYS_rt_tgsigqueueinfo:
		k.tid = (i32)arg[1];
		k.sig = (i32)arg[2];
		info = arg[3];
		of_thread = true;
		break;
	default:
		return;
	}
	/* what the kernel refuses, it refuses itself */
	if ((k.target <= 0 && c->req.data.nr != SYS_kill) || (of_thread && k.tid <= 0))
		return;
	/* it would look for the target first, which may be elsewhere */
	no_signal = k.sig < 0 || k.sig > 64;
	if (no_signal)
		k.sig = 0;
	if (k.target <= 0)
		gate_signal_group(c, &k);
	else
		gate_signal_pid(c, &k, info);
	if (no_signal && !c->cont && c->error != -ESRCH)
		gate_return(c, -EINVAL);
	if (signal_is_tty_stop(k.sig))
		tty_stop_wait(c, &k);
}
