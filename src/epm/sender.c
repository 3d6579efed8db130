/* sender.c - signals that krgd delivers here, with the sender that the kernel would show.
 *
 * Whoever has the sender's number on this node calls: its deputy, the shadow of a child that stayed at home,
 * the nursery that leads its session, the placeholder of its group; if nobody has it, a herald is made
 * (herald.c).  If the sender itself is here, its own call did not come this way, but for groups.
 *
 * To bodies, signals go one after another, on one thread: the order of their deputies is kept, and who has told
 * of a signal does not wait.
 */
#include "epm_impl.h"
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>

#define CALL_MS	    2000 /* a deputy or a placeholder that does not send it then stands, or is gone */
#define DRAIN_MS    20	 /* between looks whether it stands */
#define SIGNALS_MAX 65536 /* that wait for the thread; more come without a sender */

static bool is_queued(const struct herald_req *r)
{
	return r->code < 0 && r->code != SI_TKILL;
}

/* The kernel shows nobody. */
static int send_plain(const struct herald_req *r, int pidfd)
{
	return syscall(SYS_pidfd_send_signal, pidfd, r->sig, NULL, 0) < 0 ? -errno : 0;
}

/* A request and its answer, one at a time: the caller has the lock.  -ENOTCONN: there was none. */
static int ask(int sock, struct herald_req *r, int pidfd)
{
	struct herald_answer a = {0};
	ssize_t n;

	if (krg_send_fds(sock, r, sizeof(*r), &pidfd, 1) != (ssize_t)sizeof(*r))
		return -ENOTCONN;
	do { /* one that came too late is not ours */
		unsigned nfds = 0;

		n = krg_recv_fds(sock, &a, sizeof(a), NULL, &nfds);
	} while (n == (ssize_t)sizeof(a) && a.id != r->id);
	return n == (ssize_t)sizeof(a) ? a.result : -ENOTCONN;
}

int sender_ask(struct epm *e, int sock, struct herald_req *r, int pidfd)
{
	r->id = (u32)atomic_fetch_add(&e->herald_id, 1) + 1;
	return ask(sock, r, pidfd);
}

void sender_socket(int sock)
{
	struct timeval t = {.tv_sec = CALL_MS / 1000};

	(void)setsockopt(sock, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof(t));
	(void)setsockopt(sock, SOL_SOCKET, SO_SNDTIMEO, &t, sizeof(t));
}

static int by_herald(struct epm *e, struct herald_req *r, int pidfd)
{
	KRG_GUARD(world, &e->herald.lock);
	return sender_ask(e, e->herald.sock, r, pidfd);
}

/* It has the credentials that the program had when it left. */
static bool deputy_may(struct epm *e, const struct herald_req *r)
{
	PROC_AUTO struct proc_info from = {0}, to = {0};

	if (proc_read_world(e, r->from_pid, &from) < 0 || from.uid[0] != r->from_uid)
		return false;
	/* of a group all were looked at: so may it, if it is still the same user */
	if (r->tgid < 0)
		return from.uid[1] == r->from_uid || (from.cap_eff >> 5 & 1) != 0;
	if (proc_read_world(e, r->tgid, &to) < 0)
		return false;
	return (from.cap_eff >> 5 & 1) != 0 /* CAP_KILL */ || from.uid[1] == to.uid[0] ||
	       from.uid[1] == to.uid[2] || from.uid[0] == to.uid[0] || from.uid[0] == to.uid[2];
}

/* Also one that has ended. */
static bool is_stopped(struct epm *e, pid_t pid)
{
	struct proc_info p;

	return proc_read_world_stat(e, pid, &p) < 0 || p.state == 'T' || p.state == 'Z';
}

static bool stands(struct epm *e, struct task *t)
{
	bool runs;

	task_lock(&t->lock);
	runs = t->state == TASK_RUNNING && !t->stands;
	task_unlock(&t->lock);
	return !runs || is_stopped(e, t->pid);
}

/* -ENOENT: its number is not a deputy's or a shadow's. */
static int by_stand_in(struct epm *e, const struct herald_req *r)
{
	TASK_AUTO_PUT struct task *t = task_find(e, TASK_DEPUTY, r->from_pid);
	bool may = t == NULL || deputy_may(e, r);
	int result;

	if (t == NULL && atomic_load(&e->nshadows) > 0)
		t = task_find(e, TASK_SHADOW, r->from_pid);
	if (t == NULL)
		return -ENOENT;
	if (!may || stands(e, t))
		return -EPERM;
	if (r->tgid < 0)
		result = task_call(t, SYS_kill, r->tgid, r->sig, 0, CALL_MS);
	else if (r->tid != 0)
		result = task_call(t, SYS_tgkill, r->tgid, r->tid, r->sig, CALL_MS);
	else
		result = task_call(t, SYS_pidfd_send_signal, r->tgid, r->sig, 0, CALL_MS);
	return result == -ETIMEDOUT ? 0 : result;
}

int signal_send_group(struct epm *e, struct herald_req *r)
{
	int result = by_stand_in(e, r);

	if (result == -ENOENT)
		result = session_signal(e, r, e->world_proc);
	return result == -ENOENT ? by_herald(e, r, e->world_proc) : result;
}

int signal_send(struct epm *e, struct herald_req *r, int pidfd)
{
	int result = -ENOENT;

	/* of these two nobody sees the sender */
	if (r->sig == 0 || r->sig == SIGKILL || r->sig == SIGSTOP ||
	    epm_pid_home(r->from_pid) == KRG_NODE_NONE)
		return send_plain(r, pidfd);
	if (!is_queued(r))
		result = by_stand_in(e, r);
	if (!is_queued(r) && result == -ENOENT)
		result = session_signal(e, r, pidfd);
	if (result == -ENOENT)
		result = by_herald(e, r, pidfd);
	if (result == -EPERM || result == -ENOTCONN) {
		LOG_D("epm", "signal %d for pid %d: %d cannot be its sender here", r->sig, r->tgid,
		      r->from_pid);
		result = send_plain(r, pidfd);
	}
	return result;
}

/* ---- signals to bodies ---- */

/* What waits for its turn. */
struct signal_due {
	struct signal_due *next;
	enum due_kind {
		DUE_SIGNAL, /* to a body */
		DUE_CHILD,  /* to a child that stayed here */
		DUE_ASKED,  /* nothing: somebody waits for those before */
		DUE_NEWS, /* of the end of a body or a child, which may have sent one of those before */
		DUE_END, /* a body's end, which is to be told when its parent's deputy has passed on what came */
	} kind;
	struct task *task; /* SIGNAL: the body; END: the deputy */
	struct rec_epm_signal s;
	struct rec_epm_kill child;
	struct comm_req *req; /* ASKED, NEWS */
	void (*news)(void *, struct comm_req *);
	struct body_end *end;
};

static struct signal_due *due_take(struct epm *e)
{
	struct signal_due *due;

	KRG_GUARD(leaf, &e->signals_lock);
	e->signals_busy = false;
	while (e->signals == NULL && !e->signals_stop)
		krg_cond_wait(&e->signals_cond, &e->signals_lock);
	due = e->signals;
	if (due == NULL)
		return NULL;
	e->signals_busy = true;
	e->signals = due->next;
	e->nsignals--;
	return due;
}

static void due_free(struct signal_due *due)
{
	if (due->kind == DUE_SIGNAL) {
		ASSERT(due->task != NULL);
		task_lock(&due->task->lock);
		due->task->nsignals--;
		krg_cond_broadcast(&due->task->cond);
		task_unlock(&due->task->lock);
	}
	if (due->task != NULL)
		task_put(due->task);
	free(due);
}

static void due_do(struct epm *e, struct signal_due *due)
{
	switch (due->kind) {
	case DUE_SIGNAL:
		body_signal(e, due->task, &due->s);
		break;
	case DUE_CHILD:
		if (kill_here(e, &due->child) < 0)
			LOG_D("epm", "pid %d: signal %d is not allowed", due->child.target,
			      due->child.sig);
		break;
	case DUE_ASKED:
		comm_req_answer(due->req, NULL);
		break;
	case DUE_NEWS:
		due->news(e, due->req);
		break;
	case DUE_END:
		(void)signals_drain(e, due->task);
		body_end_tell(due->end);
		break;
	}
}

static void *signals_main(void *ctx)
{
	struct epm *e = ctx;
	struct signal_due *due;

	while ((due = due_take(e)) != NULL) {
		due_do(e, due);
		due_free(due);
	}
	return NULL;
}

/* busy_only: not if nothing is before it. */
static bool due_add(struct epm *e, const struct signal_due *v, bool busy_only)
{
	struct signal_due *due = krg_xalloc(sizeof(*due));
	bool added = false;

	*due = *v;
	if (due->task != NULL)
		atomic_fetch_add(&due->task->refs, 1);
	if (due->kind == DUE_SIGNAL) {
		struct task *t = due->task;

		ASSERT(t != NULL);
		task_lock(&t->lock);
		t->nsignals++;
		task_unlock(&t->lock);
	}
	leaf_lock(&e->signals_lock);
	if (e->nsignals < SIGNALS_MAX && !e->signals_stop &&
	    (!busy_only || e->signals_busy || e->signals != NULL)) {
		*(e->signals == NULL ? &e->signals : &e->signals_last->next) = due;
		e->signals_last = due;
		e->nsignals++;
		krg_cond_signal(&e->signals_cond);
		added = true;
	}
	leaf_unlock(&e->signals_lock);
	if (!added)
		due_free(due);
	return added;
}

bool signals_add(struct epm *e, struct task *body, const struct rec_epm_signal *s)
{
	return due_add(e, &(struct signal_due){.kind = DUE_SIGNAL, .task = body, .s = *s}, false);
}

bool signals_add_child(struct epm *e, const struct rec_epm_kill *k)
{
	return due_add(e, &(struct signal_due){.kind = DUE_CHILD, .child = *k}, false);
}

void handle_signals_done(void *ctx, struct comm_req *req)
{
	if (!due_add(ctx, &(struct signal_due){.kind = DUE_ASKED, .req = req}, true))
		comm_req_answer(req, NULL);
}

void signals_news(struct epm *e, struct comm_req *req, void (*news)(void *, struct comm_req *))
{
	if (!due_add(e, &(struct signal_due){.kind = DUE_NEWS, .req = req, .news = news}, true))
		news(e, req);
}

bool signals_end(struct epm *e, struct task *deputy, struct body_end *end)
{
	return due_add(e, &(struct signal_due){.kind = DUE_END, .task = deputy, .end = end}, false);
}

/* ---- where the deputies are ---- */

bool signals_drain(struct epm *e, struct task *deputy)
{
	int r = -ETIMEDOUT;

	/* one that stands has passed on what came: SIGCONT would have let it go on */
	for (unsigned ms = 0; r == -ETIMEDOUT && ms < CALL_MS && !is_stopped(e, deputy->pid);
	     ms += DRAIN_MS)
		r = task_call(deputy, VESSEL_DRAIN, 0, 0, 0, DRAIN_MS);
	return r == 0;
}

void signals_flush(struct epm *e, struct task *const *deputies, unsigned n)
{
	bool of[KRG_NODES_MAX] = {false};

	for (unsigned i = 0; i < n; i++)
		if (signals_drain(e, deputies[i]))
			of[deputies[i]->peer] = true;
	for (nodeid i = 0; i < KRG_NODES_MAX; i++) {
		COMM_AUTO_REPLY struct comm_reply reply = {0};
		struct krg_err err;

		if (of[i] &&
		    comm_call(e->comm, i, EPM_OP_SIGNALS_DONE, NULL, CALL_MS, &reply, &err) < 0)
			LOG_D("epm", "signals for node %u: %s", i, err.text);
	}
}

void signals_wait_locked(struct task *body)
{
	while (body->nsignals > 0)
		krg_cond_wait(&body->cond, &body->lock);
}

int signals_start(struct epm *e, struct krg_err *err)
{
	sender_socket(e->herald.sock);
	if (pthread_create(&e->signals_thread, NULL, signals_main, e) != 0)
		return krg_err_set(err, -EAGAIN, "signals: start a thread");
	e->signals_thread_runs = true;
	return 0;
}

/* What waits is delivered first, or fails with the world. */
void signals_stop(struct epm *e)
{
	if (!e->signals_thread_runs)
		return;
	leaf_lock(&e->signals_lock);
	e->signals_stop = true;
	krg_cond_broadcast(&e->signals_cond);
	leaf_unlock(&e->signals_lock);
	(void)pthread_join(e->signals_thread, NULL);
	e->signals_thread_runs = false;
}
