/* ghost.h - a process as a stream of typed records, and a process from that stream.
 *
 *	ghost_stop(pid, pid, 2000, &g, &err);                // all its threads stand still
 *	ghost_save(g, &state, &err);               // records: areas, threads, signals, timers
 *	ghost_pages(g, send_page, ctx, &err);      // what its memory holds that is in no file
 *	ghost_let_go(g);                           // it goes on as if nothing had been; or it is killed
 *
 *	ghost_image_read(state, &image, &err);     // checked: it comes from elsewhere
 *	ghost_build(shell, image, &g, &err);       // a process made for it gets the areas
 *	ghost_page_put(g, addr, page, n);          // and their contents
 *	ghost_finish(g, image, &err);              // and threads, signals, timers
 *	ghost_let_go(g);                           // it runs
 *
 * What a ghost holds is what the kernel knows of memory, threads, signals and timers.  Who the process
 * is (credentials, limits, kin, descriptors, directory) is its maker's to give the shell.
 * Sources: ptrace(2), proc(5), prctl(2) PR_SET_MM_MAP, rseq (include/uapi/linux/rseq.h).
 *
 * Errors     negative errno and text.  -EOPNOTSUPP: it has what cannot be in a ghost, named.  After any
 *            error of ghost_stop() and ghost_save() the process is (or can be let go) as it was.
 * Ownership  a struct ghost is freed by ghost_let_go() or ghost_kill(), an image by ghost_image_free().
 * Threads    one ghost belongs to one thread, from begin to end: that thread is the tracer.
 * Blocking   ghost_stop() waits for the process, at most for its timeout.
 */
#ifndef KRG_GHOST_H
#define KRG_GHOST_H
#include "buf.h"
#include "err.h"
#include <signal.h>
#include <sys/types.h>

#define GHOST_PAGE	  4096u
#define GHOST_THREADS_MAX 4096u
#define GHOST_AREAS_MAX	  65536u
#define GHOST_STATE_MAX	  (64u << 20) /* bytes of a ghost without its pages */

struct ghost;
struct ghost_image;

/* pid: as this process sees it; shown: as people do.  timeout_ms: how long a thread may take to stop (one that waits for its
 * vfork child, or in an uninterruptible call, does not); then nothing has happened: -EBUSY. */
int ghost_stop(pid_t pid, pid_t shown, unsigned timeout_ms, struct ghost **ret,
	       struct krg_err *err);

/* Its number, as it sees itself. */
pid_t ghost_shown(const struct ghost *g);
/* Its threads, the first one first: *ret is the caller's to free. */
unsigned ghost_threads(const struct ghost *g, pid_t **ret);

/* Append the records. */
int ghost_save(struct ghost *g, struct krg_buf *out, struct krg_err *err);

/* A run of whole pages that are neither zero nor in a file; n is a multiple of GHOST_PAGE, at most
 * GHOST_RUN_MAX.  Not 0: stop, and return that. */
#define GHOST_RUN_MAX (256u << 10)
typedef int ghost_page_fn(void *ctx, u64 addr, const void *p, size_t n, struct krg_err *err);
int ghost_pages(struct ghost *g, ghost_page_fn *fn, void *ctx, struct krg_err *err);

/* The same, but only what cannot come later (changed pages of files) or is needed at once. */
int ghost_pages_first(struct ghost *g, const struct ghost_image *image, ghost_page_fn *fn,
		      void *ctx, struct krg_err *err);

/* Its memory, for any thread to read: as long as somebody holds it, also when it has become another program. */
struct ghost_memory;
int ghost_memory_open(struct ghost *g, struct ghost_memory **ret, struct krg_err *err);
void ghost_memory_close(struct ghost_memory *m);
/* Which pages there are of those that can come later.  Not 0: stop, and return that. */
typedef int ghost_run_fn(void *ctx, u64 addr, u64 npages);
int ghost_memory_runs(struct ghost_memory *m, ghost_run_fn *fn, void *ctx, struct krg_err *err);
bool ghost_memory_has(struct ghost_memory *m, u64 addr);
int ghost_memory_read(struct ghost_memory *m, u64 addr, void *p, size_t n);
bool ghost_page_is_zero(const void *p);

/* Check and take apart; the image points into state. */
int ghost_image_read(struct krg_slice state, struct ghost_image **ret, struct krg_err *err);
void ghost_image_free(struct ghost_image *image);
pid_t ghost_image_pid(const struct ghost_image *image);
bool ghost_image_is_later(const struct ghost_image *image, u64 addr); /* that page can come later */

/* shell: a process of one thread with the image's pid in its namespace, child or not of the caller, whose
 * memory is worth nothing.  When this fails, it is fit for nothing but SIGKILL. */
int ghost_build(pid_t shell, const struct ghost_image *image, struct ghost **ret,
		struct krg_err *err);
int ghost_page_put(struct ghost *g, u64 addr, const void *p, size_t n);
int ghost_finish(struct ghost *g, const struct ghost_image *image, struct krg_err *err);

/* Of any traced task: it is traced no more.  One that was killed meanwhile is a zombie that its parent does not see
 * before its tracer has. */
void ghost_detach(pid_t tid);

/* It runs on, untraced.  Frees g. */
void ghost_let_go(struct ghost *g);
/* The stopped process executes `program` (an open file) in place of itself: with its arguments, the environment
 * "ENV_NAME=<descriptor>" and that descriptor's other end in *ret_channel (SOCK_SEQPACKET), all signals but
 * SIGTRAP blocked.  What saved (its ghost, just taken) holds of it ends with it, pending signals and timers
 * too.  Frees g; after an error the process can be let go as it was, but -ESRCH: it has been killed.
 * ret_keeper: if not NULL, a child that holds the memory as it was, for this thread to ghost_kill(). */
int ghost_become(struct ghost *g, const struct ghost_image *saved, int program,
		 const char *env_name, int *ret_channel, struct ghost **ret_keeper,
		 struct krg_err *err);

/* For a process that goes on elsewhere, and ends here: a child that holds its memory as it is (*ret_keeper, for this
 * thread to ghost_kill()), and nothing is written to that as its threads end.  After it, either ghost_kill(g), or
 * ghost_stay() and it is as it was. */
int ghost_leave(struct ghost *g, const struct ghost_image *saved, struct ghost **ret_keeper,
		struct krg_err *err);
void ghost_stay(struct ghost *g, const struct ghost_image *saved, struct ghost *keeper);
/* Pending signals of a stopped task (or, shared, of its process) but the first `skip`, in order.  own_tid: the thread's number as it
 * sees it, 0: of the process.  Not 0: stop, and return that. */
typedef int ghost_signal_fn(void *ctx, pid_t own_tid, const siginfo_t *info);
int ghost_signals(pid_t tid, pid_t own_tid, bool shared, u64 skip, ghost_signal_fn *fn, void *ctx);
/* Those that have come since it was saved. */
int ghost_signals_since(struct ghost *g, const struct ghost_image *saved, ghost_signal_fn *fn,
			void *ctx);

/* It is killed, and all its threads have ended when this returns; its parent will see.  Frees g. */
void ghost_kill(struct ghost *g);
#endif
