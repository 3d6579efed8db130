/* migrate_impl.h - a process that moves as it runs: what migrate.c (from its home) and migrate_on.c (from where it
 * has moved to) share. */
#ifndef KRG_EPM_MIGRATE_IMPL_H
#define KRG_EPM_MIGRATE_IMPL_H
#include "exec_impl.h"

#define MOVE_STOP_MS 2000 /* how long a thread may take to stand still */

/* One process on its way, by a thread of its own, which traces it, and afterwards what holds its memory. */
struct move {
	struct exec *x;
	struct rec_epm_migrate m;
	bool on;		 /* from where it has moved to */
	struct pages_out *later; /* its pages come later */
	struct ghost *keeper;
	struct krg_mutex lock; /* class leaf */
	struct krg_cond cond;
	bool said;	    /* (o) the result is there */
	bool left;	    /* (o) one of the two has gone: the other frees this */
	int result;	    /* (c) once said */
	struct krg_err err; /* (c) likewise */
	u64 stood_ns;	    /* (c) likewise */
};

/* Whoever may trace it (ptrace(2)), by its user, and its capability. */
int move_is_allowed(struct exec *x, u32 uid, struct krg_err *err);
/* Each of its threads has descriptors, directory and the rest in common with the first. */
bool move_threads_share(const struct exec *x);
/* [net] Those pages that cannot come later, or all. */
int move_pages(struct move *m, const struct ghost_image *image, struct krg_err *err);
/* [net] That was all: it is ready to run there. */
int move_arrived(struct exec *x, struct krg_err *err);

/* All that is said of it in PREPARE; *ret is the caller's, after an error, too. */
int move_describe(struct move *m, struct ghost_image **ret, struct krg_err *err);

/* ---- migrate_on.c ---- */
int move_on_find(struct move *m, struct krg_err *err);
int move_on_look(struct exec *x, struct krg_err *err);
/* [net] It stands still. */
int move_on_stopped(struct move *m, struct krg_err *err);
#endif
