/* tty_calls.c - calls on stand-ins that depend on who makes them: terminals from the background, and
 * calls that a signal interrupts (README, Terminals).
 *
 * Two threads: one asks other nodes; the other does what does not wait for them.
 */
#include "tty_impl.h"
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>

#define JOBS_MAX 4096 /* then as without job control, and as without SA_RESTART */

struct tty_job {
	struct tty_job *next;
	u32 tid;
	int sig; /* of the background; 0: interrupted */
	u64 unique;
};

struct tty_queue {
	struct tty_job *first, **last; /* (o) tty_state.lock */
	unsigned n;		       /* (o) */
	int wake;		       /* (c) eventfd */
	pthread_t thread;
	bool runs;
};

struct tty_state {
	struct epm *e;
	struct krg_mutex lock;	     /* class leaf */
	bool stopping;		     /* (o) */
	struct tty_queue asks, acts; /* who is in the background; who was interrupted */
};

int tty_tell_socket(struct epm *e)
{
	return e->tell[1];
}

/* ---- what stream asks ---- */

static void on_who(void *ctx, u32 tid, struct stream_caller *ret)
{
	struct caller who;

	(void)ctx;
	if (caller_read(tid, &who) < 0)
		return;
	*ret = (struct stream_caller){.sid = who.sid,
				      .pgid = who.pgid,
				      .ttin_acts = caller_hears(&who, SIGTTIN),
				      .ttou_acts = caller_hears(&who, SIGTTOU)};
}

static i32 on_front(void *ctx, u64 rdev, i32 sid)
{
	PROC_AUTO struct proc_info leader = {0};

	return tty_leader(ctx, rdev, sid, &leader) ? tty_group_meant(ctx, leader.tty_front) : 0;
}

static bool queue_put(struct tty_state *t, struct tty_queue *q, const struct tty_job *what)
{
	struct tty_job *job = krg_xalloc(sizeof(*job));

	*job = *what;
	job->next = NULL;
	{
		KRG_GUARD(leaf, &t->lock);
		if (!t->stopping && q->n < JOBS_MAX) {
			*q->last = job;
			q->last = &job->next;
			q->n++;
			job = NULL;
		}
	}
	if (job != NULL) {
		free(job);
		return false;
	}
	(void)eventfd_write(q->wake, 1);
	return true;
}

static struct tty_job *queue_take(struct tty_state *t, struct tty_queue *q)
{
	KRG_GUARD(leaf, &t->lock);
	struct tty_job *job = q->first;

	if (job == NULL)
		return NULL;
	q->first = job->next;
	if (q->first == NULL)
		q->last = &q->first;
	q->n--;
	return job;
}

static void on_background(void *ctx, u32 tid, int sig, u64 unique)
{
	struct epm *e = ctx;
	struct tty_job job = {.tid = tid, .sig = sig, .unique = unique};

	if (!queue_put(e->tty, &e->tty->asks, &job))
		stream_background_end(e->stream, unique, -EIO);
}

static bool on_interrupted(void *ctx, u32 tid, u64 unique)
{
	struct epm *e = ctx;
	struct tty_job job = {.tid = tid, .unique = unique};

	return queue_put(e->tty, &e->tty->acts, &job);
}

/* [net] */
static void do_background(struct epm *e, const struct tty_job *job)
{
	struct rec_epm_kill k = {.sig = job->sig, .cap_kill = 1};
	struct caller who;

	if (caller_read(job->tid, &who) < 0)
		return; /* it was killed, and its call with it */
	if (tty_is_orphan(e, who.pid)) {
		stream_background_end(e->stream, job->unique, -EIO);
		return;
	}
	k.target = who.pgid;
	k.sid = who.sid;
	(void)kill_group(e, &k);
}

/* ---- a call of a stand-in that was interrupted ---- */

static bool is_file_call(u64 nr)
{
	return nr == SYS_read || nr == SYS_write || nr == SYS_readv || nr == SYS_writev ||
	       nr == SYS_fcntl || nr == SYS_flock;
}

/* The task leaves its call, which FUSE can only end with EINTR.  Before it looks at its signals it stops for
 * us, and the call ends as in a driver of its own kernel: then it is restarted, or EINTR, as the signal has it. */
static void restart(pid_t tid)
{
	struct user_regs_struct regs;
	int status;
	pid_t r;

	do
		r = waitpid(tid, &status, __WALL);
	while (r < 0 && errno == EINTR);
	if (r != tid || !WIFSTOPPED(status))
		return;
	if (status >> 16 == PTRACE_EVENT_STOP && ptrace(PTRACE_GETREGS, tid, 0, &regs) == 0 &&
	    (i64)regs.rax == -EINTR && is_file_call(regs.orig_rax)) {
		regs.rax = (u64)-ERESTARTSYS;
		(void)ptrace(PTRACE_SETREGS, tid, 0, &regs);
	}
	while (ptrace(PTRACE_DETACH, tid, 0, (long)(status >> 16 == 0 ? WSTOPSIG(status) : 0)) <
	       0) {
		/* killed meanwhile: a zombie that its parent does not see before its tracer has */
		r = waitpid(tid, &status, __WALL);
		if ((r < 0 && errno != EINTR) || (r == tid && !WIFSTOPPED(status)))
			return;
	}
}

static void do_interrupted(struct epm *e, const struct tty_job *job)
{
	pid_t tid = (pid_t)job->tid;
	bool ours = ptrace(PTRACE_SEIZE, tid, 0, 0L) == 0;

	if (ours) /* failing, it is dying, which restart() sees */
		(void)ptrace(PTRACE_INTERRUPT, tid, 0, 0);
	stream_interrupted_end(e->stream, job->unique);
	if (ours) /* else another traces it: EINTR */
		restart(tid);
}

/* ---- threads ---- */

static bool is_stopping(struct tty_state *t)
{
	KRG_GUARD(leaf, &t->lock);
	return t->stopping;
}

static void *asks_main(void *ctx)
{
	struct tty_state *t = ctx;
	u64 count;

	(void)pthread_setname_np(pthread_self(), "epm-tty-ask");
	while (!is_stopping(t)) {
		KRG_AUTO_FREE struct tty_job *job = queue_take(t, &t->asks);

		if (job != NULL)
			do_background(t->e, job);
		else
			(void)!read(t->asks.wake, &count, sizeof(count));
	}
	return NULL;
}

static void groups_read(struct tty_state *t)
{
	struct group_signal m;

	while (recv(t->e->tell[0], &m, sizeof(m), MSG_DONTWAIT) == (ssize_t)sizeof(m))
		tty_tell_nodes(t->e, &m);
}

static void *acts_main(void *ctx)
{
	struct tty_state *t = ctx;
	struct pollfd p[2] = {{.fd = t->acts.wake, .events = POLLIN},
			      {.fd = t->e->tell[0], .events = POLLIN}};
	u64 count;

	(void)pthread_setname_np(pthread_self(), "epm-tty-act");
	while (!is_stopping(t)) {
		KRG_AUTO_FREE struct tty_job *job = queue_take(t, &t->acts);

		if (job != NULL) {
			do_interrupted(t->e, job);
			continue;
		}
		if (poll(p, KRG_NELEM(p), -1) < 0)
			continue;
		if (p[0].revents != 0)
			(void)!read(t->acts.wake, &count, sizeof(count));
		if (p[1].revents != 0)
			groups_read(t);
	}
	return NULL;
}

static int queue_start(struct tty_state *t, struct tty_queue *q, void *(*run)(void *ctx),
		       struct krg_err *err)
{
	if (pthread_create(&q->thread, NULL, run, t) != 0)
		return krg_err_set(err, -EAGAIN, "terminals: start a thread");
	q->runs = true;
	return 0;
}

int tty_start(struct epm *e, struct krg_err *err)
{
	static const struct stream_caller_ops ops = {.who = on_who,
						     .front = on_front,
						     .background = on_background,
						     .interrupted = on_interrupted};
	struct tty_state *t = krg_xalloc(sizeof(*t));
	int r;

	e->tty = t;
	t->e = e;
	krg_mutex_init(&t->lock);
	t->asks.last = &t->asks.first;
	t->acts.last = &t->acts.first;
	t->asks.wake = eventfd(0, EFD_CLOEXEC);
	t->acts.wake = eventfd(0, EFD_CLOEXEC);
	if (t->asks.wake < 0 || t->acts.wake < 0 ||
	    (e->tell[0] < 0 && socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, e->tell) < 0))
		return krg_err_set(err, -errno, "terminals: eventfd, socketpair");
	r = queue_start(t, &t->asks, asks_main, err);
	if (r == 0)
		r = queue_start(t, &t->acts, acts_main, err);
	if (r == 0)
		stream_set_caller_ops(e->stream, &ops, e);
	return r;
}

static void queue_stop(struct tty_state *t, struct tty_queue *q)
{
	struct tty_job *job;

	if (q->runs) {
		(void)eventfd_write(q->wake, 1);
		(void)pthread_join(q->thread, NULL);
	}
	while ((job = queue_take(t, q)) != NULL) {
		if (job->sig != 0)
			stream_background_end(t->e->stream, job->unique, -EIO);
		else
			stream_interrupted_end(t->e->stream, job->unique);
		free(job);
	}
}

/* The world has ended.  Calls that still come are answered at once (queue_put). */
void tty_stop(struct epm *e)
{
	struct tty_state *t = e->tty;

	if (t == NULL)
		return;
	leaf_lock(&t->lock);
	t->stopping = true;
	leaf_unlock(&t->lock);
	queue_stop(t, &t->asks);
	queue_stop(t, &t->acts);
}

void tty_free(struct epm *e)
{
	struct tty_state *t = e->tty;

	if (t == NULL)
		return;
	(void)close(t->asks.wake);
	(void)close(t->acts.wake);
	krg_mutex_fini(&t->lock);
	free(t);
	e->tty = NULL;
}
