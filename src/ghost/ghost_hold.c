/* ghost_hold.c - memory that outlives the program that it is of.
 *
 * A process that executes another program gives up its memory.  So that its pages can be read later, it makes a
 * child that shares it (CLONE_VM) and runs nothing: it stands from its birth on, traced by this thread.  What the kernel
 * writes to memory as threads end (PR_SET_CHILD_TID's zero, robust futexes) is called off before, or it would
 * be written to what the child holds.
 *
 * To its parent it is a child without an exit signal: as long as that has executed nothing it is waited for only with
 * __WALL, and then its end is told with SIGCHLD (kernel/signal.c, do_notify_parent: another parent_exec_id).
 */
#include "ghost_image.h"
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#ifndef CLOSE_RANGE_UNSHARE
#define CLOSE_RANGE_UNSHARE 2u
#endif
#define OPTIONS (PTRACE_O_TRACESYSGOOD | PTRACE_O_SUSPEND_SECCOMP | PTRACE_O_EXITKILL)

static int fail(const struct ghost *g, const struct ghost_call *c, int r, struct krg_err *err)
{
	return krg_err_set(err, r, "pid %d: hold its memory%s%u", g->shown,
			   c != NULL ? ": call " : "", c != NULL ? (unsigned)c->nr : 0);
}

/* Its own session, so that no signal to the group or terminal reaches it; no descriptors (those of the program
 * stay with it, and are copied for nobody); a name for who looks. */
static int settle(struct ghost *k, struct krg_err *err)
{
	GHOST_AUTO_LIST struct ghost_list l = {0};
	const struct ghost_call *failed;
	int r;

	ghost_list_init(&l, k);
	ghost_list_add(&l, SYS_close_range, 0, ~0u, CLOSE_RANGE_UNSHARE, 0, 0, 0);
	ghost_list_add(&l, SYS_setsid, 0, 0, 0, 0, 0, 0);
	ghost_list_add(&l, SYS_prctl, PR_SET_NAME, ghost_list_data(&l, "krgpages", 9, NULL), 0, 0,
		       0, 0);
	r = ghost_list_run(k, &k->thread[0], &l, &failed);
	return r < 0 ? fail(k, failed, r, err) : 0;
}

int ghost_hold(struct ghost *g, struct ghost **ret, struct krg_err *err)
{
	GHOST_AUTO_LIST struct ghost_list l = {0};
	const struct ghost_call *failed, *c;
	struct ghost *k;
	int r, status;

	g->cloned = 0;
	ghost_list_init(&l, g);
	c = ghost_list_add(&l, SYS_clone, CLONE_VM | CLONE_FILES, 0, 0, 0, 0, 0);
	if (ptrace(PTRACE_SETOPTIONS, g->thread[0].tid, 0, (long)(OPTIONS | PTRACE_O_TRACECLONE)) <
	    0)
		return fail(g, NULL, -errno, err);
	r = ghost_list_run(g, &g->thread[0], &l, &failed);
	(void)ptrace(PTRACE_SETOPTIONS, g->thread[0].tid, 0, (long)OPTIONS);
	if (r < 0 || g->cloned == 0)
		return fail(g, failed, r < 0 ? r : -EPROTO, err);
	k = ghost_new(g->cloned, (pid_t)c->ret);
	k->insn = g->insn;
	k->scratch = g->scratch;
	k->mem = fcntl(g->mem, F_DUPFD_CLOEXEC, 0);
	(void)ghost_thread_add(k, g->cloned);
	if (k->mem < 0 || ghost_wait(k->pid, &status) < 0 ||
	    ghost_thread_stopped(&k->thread[0]) < 0)
		r = fail(g, NULL, -ESRCH, err);
	if (r == 0)
		r = settle(k, err);
	k->scratch.at = 0;
	if (r < 0) {
		ghost_unhold(g, k);
		return r;
	}
	*ret = k;
	return 0;
}

/* Its parent waits for it: no trace of it is left. */
void ghost_unhold(struct ghost *g, struct ghost *keeper)
{
	GHOST_AUTO_LIST struct ghost_list l = {0};
	const struct ghost_call *failed;
	pid_t pid = keeper->shown;

	ghost_kill(keeper);
	if (g->scratch.at == 0)
		return;
	ghost_list_init(&l, g);
	ghost_list_add(&l, SYS_wait4 | GHOST_MAY_FAIL, (u64)pid, 0, __WALL, 0, 0, 0);
	(void)ghost_list_run(g, &g->thread[0], &l, &failed);
}

/* What its threads have told the kernel to write as they end: called off, or said again. */
int ghost_exit_writes(struct ghost *g, const struct ghost_image *im, bool off, struct krg_err *err)
{
	for (unsigned i = 0; i < g->nthreads && i < im->nthreads; i++) {
		GHOST_AUTO_LIST struct ghost_list l = {0};
		const struct rec_ghost_thread *t = &im->thread[i];
		const struct ghost_call *failed;
		int r;

		ghost_list_init(&l, g);
		ghost_list_add(&l, SYS_set_robust_list, off ? 0 : t->robust,
			       off ? 24 : t->robust_len, 0, 0, 0, 0);
		ghost_list_add(&l, SYS_set_tid_address, off ? 0 : t->clear_tid, 0, 0, 0, 0, 0);
		r = ghost_list_run(g, &g->thread[i], &l, &failed);
		if (r < 0)
			return fail(g, failed, r, err);
	}
	return 0;
}

pid_t ghost_shown(const struct ghost *g)
{
	return g->shown;
}
