/* ghost_leave.c - a process that has been saved goes on elsewhere, and leaves nothing here but, for a while, its memory. */
#include "ghost_image.h"
#include <signal.h>
#include <sys/ptrace.h>

#define PEEK_AT_ONCE 32

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

/* Signals are queued at the end, and while it stands still none is taken: those that were saved come first. */
static int queue_since(const struct ghost_image *saved, pid_t tid, pid_t own_tid, u32 flags,
		       ghost_signal_fn *fn, void *ctx)
{
	struct __ptrace_peeksiginfo_args args = {.flags = flags, .nr = PEEK_AT_ONCE};
	siginfo_t info[PEEK_AT_ONCE];
	long n;
	int r = 0;

	for (unsigned i = 0; i < saved->nsignals; i++)
		args.off += saved->signal[i].tid == own_tid;
	while (r == 0 && (n = ptrace(PTRACE_PEEKSIGINFO, tid, &args, info)) > 0) {
		for (long i = 0; i < n && r == 0; i++)
			r = fn(ctx, own_tid, &info[i]);
		args.off += (u64)n;
	}
	return r;
}

int ghost_signals_since(struct ghost *g, const struct ghost_image *saved, ghost_signal_fn *fn,
			void *ctx)
{
	int r = queue_since(saved, g->pid, 0, PTRACE_PEEKSIGINFO_SHARED, fn, ctx);

	for (unsigned i = 0; r == 0 && i < g->nthreads; i++)
		r = queue_since(saved, g->thread[i].tid, g->thread[i].own_tid, 0, fn, ctx);
	return r;
}
