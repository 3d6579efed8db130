/* migrate_on.c - a process that has moved moves on, as it runs: from here to a third node.
 *
 * Its deputy stays where it is: only the body changes its node, as when it executes (onward.c).  The new body is made and
 * filled while the old one stands still; then its home is asked, which speaks the word, once.  From then on the old one
 * is nobody: it ends, and a child of it holds what the new one has not got yet of its memory.
 */
#include "migrate_impl.h"
#include <signal.h>

#define PAGES_MS 60000 /* until its own memory is there */

int move_on_find(struct move *m, struct krg_err *err)
{
	struct exec *x = m->x;
	bool runs;

	x->body = task_find(x->e, TASK_BODY, m->m.pid);
	if (x->body == NULL)
		return krg_err_set(err, -ESRCH, "pid %d is not on node %u any more", m->m.pid,
				   x->e->self);
	task_lock(&x->body->lock);
	runs = x->body->state == TASK_RUNNING && !x->body->orphan;
	task_unlock(&x->body->lock);
	x->tid = x->body->host_pid;
	if (!runs || proc_read(x->tid, &x->p) < 0 || x->p.pid != m->m.pid)
		return krg_err_set(err, -ESRCH, "pid %d is on its way, or ends", m->m.pid);
	/* what has not come yet could not go on */
	if (!pages_in_await(x->e, m->m.pid, krg_clock_now_ns() + PAGES_MS * KRG_MSEC))
		return krg_err_set(err, -EBUSY,
				   "pid %d: its memory is still to come from where it was",
				   m->m.pid);
	return 0;
}

int move_on_look(struct exec *x, struct krg_err *err)
{
	const char *why = exec_cannot_move(x);

	if (why == NULL && !move_threads_share(x))
		why = "its threads have descriptors or directories of their own";
	if (why == NULL && kin_pids(x->e, x->p.pid, &x->child) > 0)
		why = "it has moved here, and has children";
	return why != NULL ? krg_err_set(err, -EOPNOTSUPP, "pid %d: %s", x->p.pid, why) : 0;
}

/* Up to its being ready there.  *ret_there: what was exported is that node's to undo. */
static int send(struct move *m, const struct ghost_image *image, bool *ret_there,
		struct krg_err *err)
{
	struct exec *x = m->x;
	int r = exec_prepare(x, err);

	*ret_there = r == 0 || err->node == x->to;
	if (r == 0)
		r = move_pages(m, image, err);
	if (r == 0)
		r = move_arrived(x, err);
	if (r == 0 && FAULT_POINT(GHOST_ARRIVED))
		r = krg_err_set(err, -EIO, "arrived");
	return r;
}

static int signal_follows(void *ctx, pid_t own_tid, const siginfo_t *si)
{
	const struct exec *x = ctx;

	/* its interval timers have run on here, and do so there */
	if (si->si_code == SI_KERNEL &&
	    (si->si_signo == SIGALRM || si->si_signo == SIGVTALRM || si->si_signo == SIGPROF))
		return 0;
	return onward_signal(x->e, x->body, x->to, own_tid, si) ? 0 : -EHOSTDOWN;
}

int move_on_stopped(struct move *m, struct krg_err *err)
{
	static const struct task_timer none[EPM_TIMERS]; /* its ghost has them */
	struct exec *x = m->x;
	struct onward o = {.to = x->to, .new_id = x->exec_id, .path = "", .timer = none};
	struct ghost_image *image = NULL;
	struct ghost *keeper = NULL;
	bool there = false, prepared = false;
	int r;

	onward_stands(x->body, true);
	r = move_describe(m, &image, err);
	if (r == 0 && exec_fds_have_pipes(&x->fds, x->e->self))
		r = krg_err_set(err, -EOPNOTSUPP, "pid %d has moved here, and has pipes", x->p.pid);
	if (r == 0) {
		prepared = true;
		r = send(m, image, &there, err);
	}
	if (r == 0)
		r = ghost_leave(x->running, image, &keeper, err);
	if (r == 0) {
		r = onward_ask(x->e, x->body, x->tid, &o, err);
		if (r < 0)
			ghost_stay(x->running, image, keeper);
	}
	if (r == 0) {
		onward_heard(x->body);
		onward_left(x->e, x->body, &o);
		/* as late as can be: one that was sent from here before it stood may come only now */
		(void)ghost_signals_since(x->running, image, signal_follows, x);
		ghost_kill(TAKE_PTR(x->running));
		if (m->later != NULL)
			m->keeper = keeper;
		else
			ghost_kill(keeper);
	} else {
		onward_stands(x->body, false);
		exec_fds_cancel(x->e, &x->fds, x->to, there);
		if (prepared)
			exec_give_up(x);
	}
	ghost_image_free(image);
	return r;
}
