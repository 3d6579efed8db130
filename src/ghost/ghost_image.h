/* ghost_image.h - a ghost's records, taken apart: ghost_image.c fills it, ghost_build.c uses it. */
#ifndef KRG_GHOST_IMAGE_H
#define KRG_GHOST_IMAGE_H
#include "ghost_impl.h"

#define GHOST_SIGNALS_MAX 65536u

struct ghost_image {
	struct rec_ghost_head head;
	struct rec_ghost_area *area; /* in order, apart */
	struct rec_ghost_thread *thread;
	struct rec_ghost_action *action;
	struct rec_ghost_signal *signal;
	struct rec_ghost_creds *creds;	   /* one for each thread */
	struct rec_ghost_itimer itimer[3]; /* value_us 0: not running */
	unsigned nareas, nthreads, nactions, nsignals, ncreds;
};

/* Calls that bring back the pending signals of the process and of its first thread, and the timers. */
void ghost_signals_put(const struct ghost_image *im, struct ghost_list *l);
/* ghost_hold.c: what the kernel writes as its threads end */
int ghost_exit_writes(struct ghost *g, const struct ghost_image *im, bool off, struct krg_err *err);
#endif
