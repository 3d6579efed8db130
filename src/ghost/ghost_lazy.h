/* ghost_lazy.h - a process runs before its memory is there: each page comes when it is missed, or before.
 *
 *	ghost_lazy_new(shell, image, &ops, ctx, &l, &err);   // by the shell's tracer, after ghost_build()
 *	ghost_page_put(…); ghost_lazy_early(l, addr, n);     // what it needs at once
 *	ghost_lazy_arm(l, &err);                             // from now on pages are missed
 *	…poll(ghost_lazy_fd(l)): ghost_lazy_serve(l)…        // ops->want: it misses pages
 *	ghost_lazy_put(l, addr, data, n);                    // they have come
 *	ghost_lazy_free(l);                                  // all have: it is native again
 *
 * Addresses are the source's: what the process does meanwhile (mremap, munmap, MADV_DONTNEED, fork) is followed here.  A
 * child that it forks misses the same pages, and gets them, too.
 * Sources: userfaultfd(2), ioctl_userfaultfd(2), Linux fs/userfaultfd.c, mm/userfaultfd.c.
 *
 * Errors     negative errno.  -ESRCH: nobody is left who misses anything.
 * Threads    any; ops are called by the thread that calls in, want and stuck without a lock of this part.
 * Blocking   no function waits for a page.  Whoever serves must not touch the process's memory: it
 *            would wait for itself.
 */
#ifndef KRG_GHOST_LAZY_H
#define KRG_GHOST_LAZY_H
#include "ghost.h"

struct ghost_lazy;
struct ghost_lazy_ops {
	/* A page is missed, and what follows may be soon: npages from addr on. */
	void (*want)(void *ctx, u64 addr, unsigned npages);
	/* Another memory, and its end: uffd stays this part's, copies may be kept until then.  With the lock held. */
	void (*opened)(void *ctx, unsigned id, int uffd);
	void (*closed)(void *ctx, unsigned id);
	/* After ghost_lazy_lost(): who misses a page that will not come, in its own numbers. */
	void (*stuck)(void *ctx, pid_t tid, u64 addr);
};

/* Can it be done on this machine? */
bool ghost_lazy_possible(void);
int ghost_lazy_new(struct ghost *shell, const struct ghost_image *image,
		   const struct ghost_lazy_ops *ops, void *ctx, struct ghost_lazy **ret,
		   struct krg_err *err);
/* Of a memory about which nothing is known any more: all that it misses is lost.  Takes the descriptor. */
struct ghost_lazy *ghost_lazy_adopt(int uffd, const struct ghost_lazy_ops *ops, void *ctx);
int ghost_lazy_arm(struct ghost_lazy *l, struct krg_err *err);
void ghost_lazy_free(struct ghost_lazy *l);

int ghost_lazy_fd(const struct ghost_lazy *l); /* readable: serve */
void ghost_lazy_serve(struct ghost_lazy *l);

/* Which pages are at the source; then that these are all. */
void ghost_lazy_listed(struct ghost_lazy *l, u64 addr, u64 npages);
void ghost_lazy_list_end(struct ghost_lazy *l);
void ghost_lazy_early(struct ghost_lazy *l, u64 addr, u64 npages);
int ghost_lazy_put(struct ghost_lazy *l, u64 addr, const void *p, u64 npages);
/* They are zero. */
int ghost_lazy_zero(struct ghost_lazy *l, u64 addr, u64 npages);
/* Nothing comes any more. */
void ghost_lazy_lost(struct ghost_lazy *l);
/* How many memories are left; looks whether they live. */
unsigned ghost_lazy_left(struct ghost_lazy *l);

struct ghost_lazy_stat {
	u64 faults, wanted, zeroed, copied, forks;
};
void ghost_lazy_stat(struct ghost_lazy *l, struct ghost_lazy_stat *ret);
#endif
