/* ghost_leave.c - a process that has been saved goes on elsewhere, and leaves nothing here but, for a while, its memory. */
#include "ghost_image.h"
#include <signal.h>

int ghost_leave(struct ghost *g, const struct ghost_image *saved, struct ghost **ret_keeper,
		struct krg_err *err)
{
	struct ghost *keeper = NULL;
	int r = ghost_scratch_begin(g, 0, err);

	if (r == 0)
		r = ghost_hold(g, &keeper, err);
	if (r == 0)
		r = ghost_exit_writes(g, saved, true, err);
	if (r < 0) {
		ghost_stay(g, saved, keeper);
		return r;
	}
	*ret_keeper = keeper;
	return 0;
}

void ghost_stay(struct ghost *g, const struct ghost_image *saved, struct ghost *keeper)
{
	if (keeper != NULL) {
		(void)ghost_exit_writes(g, saved, false, NULL);
		ghost_unhold(g, keeper);
	}
	if (g->scratch.at != 0)
		(void)ghost_scratch_end(g);
}

static u64 saved_of(const struct ghost_image *saved, pid_t own_tid)
{
	u64 n = 0;

	for (unsigned i = 0; i < saved->nsignals; i++)
		n += saved->signal[i].tid == own_tid;
	return n;
}

/* Signals are queued at the end, and while it stands still none is taken: those that were saved come first. */
int ghost_signals_since(struct ghost *g, const struct ghost_image *saved, ghost_signal_fn *fn,
			void *ctx)
{
	int r = ghost_signals(g->pid, 0, true, saved_of(saved, 0), fn, ctx);

	for (unsigned i = 0; r == 0 && i < g->nthreads; i++) {
		pid_t own = g->thread[i].own_tid;

		r = ghost_signals(g->thread[i].tid, own, false, saved_of(saved, own), fn, ctx);
	}
	return r;
}
