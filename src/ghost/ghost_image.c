/* ghost_image.c - records from elsewhere, checked and taken apart.
 *
 * Every number is checked here, once: what ghost_build.c gets can be done, or the kernel says no.
 */
#include "ghost_image.h"
#include <linux/prctl.h>
#include <signal.h>
#include <sys/mman.h>

#define TOP	 0x7ffffffff000ull
#define USER_CS	 0x33
#define USER_SS	 0x2b
#define ALL_PROT (PROT_READ | PROT_WRITE | PROT_EXEC)

void ghost_image_free(struct ghost_image *image)
{
	if (image == NULL)
		return;
	free(image->area);
	free(image->thread);
	free(image->action);
	free(image->signal);
	free(image->creds);
	free(image);
}

pid_t ghost_image_pid(const struct ghost_image *image)
{
	return image->head.pid;
}

/* One more element of a table that grows by doubling. */
#define MORE(table, n)                                                                             \
	do {                                                                                       \
		if (((n) & ((n)-1)) == 0)                                                          \
			(table) = krg_xrealloc((table), KRG_MAX(2 * (n), 1u) * sizeof(*(table)));  \
	} while (0)

static const char *area_wrong(const struct rec_ghost_area *a, u64 above)
{
	bool file = a->kind == GHOST_FILE || a->kind == GHOST_SHARED_FILE;

	return a->kind >= GHOST_AREA_KINDS				   ? "of no kind"
	       : ((a->start | a->end | a->offset) & (GHOST_PAGE - 1)) != 0 ? "not of whole pages"
	       : a->start < above || a->end <= a->start || a->end > TOP ? "out of order or of range"
	       : (a->prot & ~ALL_PROT) != 0				? "of unknown protection"
	       : a->down > 1 || (a->down == 1 && a->kind != GHOST_ANON) ? "of unknown growth"
	       : file != (a->path.len > 0) || (file && a->path.data[0] != '/') ? "without its file"
	       : a->kind == GHOST_SHARED_FILE && (a->prot & PROT_WRITE) != 0 ? "shared and writable"
									     : NULL;
}

static int area(struct ghost_image *im, struct krg_rd *rd, struct krg_err *err)
{
	u64 above = im->nareas > 0 ? im->area[im->nareas - 1].end : GHOST_PAGE;
	struct rec_ghost_area a;
	const char *wrong;

	if (rec_ghost_area_decode(rd, &a) < 0)
		return -EBADMSG;
	wrong = area_wrong(&a, above);
	if (wrong != NULL || im->nareas == GHOST_AREAS_MAX)
		return krg_err_set(err, -EBADMSG, "ghost: area %llx is %s",
				   (unsigned long long)a.start,
				   wrong != NULL ? wrong : "one too many");
	MORE(im->area, im->nareas);
	im->area[im->nareas++] = a;
	return 0;
}

static bool has_thread(const struct ghost_image *im, i32 tid)
{
	for (unsigned i = 0; i < im->nthreads; i++)
		if (im->thread[i].tid == tid)
			return true;
	return false;
}

static int thread(struct ghost_image *im, struct krg_rd *rd, struct krg_err *err)
{
	struct rec_ghost_thread t;
	struct user_regs_struct regs;
	const char *wrong;

	if (rec_ghost_thread_decode(rd, &t) < 0)
		return -EBADMSG;
	if (t.regs.len != sizeof(regs))
		return krg_err_set(err, -EBADMSG, "ghost: thread %d without registers", t.tid);
	memcpy(&regs, t.regs.data, sizeof(regs));
	wrong = t.tid <= 0 || has_thread(im, t.tid)	     ? "is there twice"
		: im->nthreads == 0 && t.tid != im->head.pid ? "is not the first"
		: im->nthreads == GHOST_THREADS_MAX	     ? "is one too many"
		: regs.cs != USER_CS || regs.ss != USER_SS   ? "is not x86-64 code"
		: regs.fs_base >= TOP || regs.gs_base >= TOP || regs.rip >= TOP ? "is out of range"
		: t.death_signal > GHOST_NSIG ? "has a death signal of no number"
		: t.xstate.len < 576	      ? "has no floating point state"
					      : NULL;
	if (wrong != NULL)
		return krg_err_set(err, -EBADMSG, "ghost: thread %d %s", t.tid, wrong);
	MORE(im->thread, im->nthreads);
	im->thread[im->nthreads++] = t;
	return 0;
}

static int action(struct ghost_image *im, struct krg_rd *rd, struct krg_err *err)
{
	struct rec_ghost_action a;

	if (rec_ghost_action_decode(rd, &a) < 0)
		return -EBADMSG;
	if (a.sig < 1 || a.sig > GHOST_NSIG || a.sig == SIGKILL || a.sig == SIGSTOP ||
	    im->nactions == GHOST_NSIG)
		return krg_err_set(err, -EBADMSG, "ghost: disposition of signal %d", a.sig);
	MORE(im->action, im->nactions);
	im->action[im->nactions++] = a;
	return 0;
}

static int signal_pending(struct ghost_image *im, struct krg_rd *rd, struct krg_err *err)
{
	struct rec_ghost_signal s;
	siginfo_t info;

	if (rec_ghost_signal_decode(rd, &s) < 0)
		return -EBADMSG;
	if (s.info.len != sizeof(info) || im->nsignals == GHOST_SIGNALS_MAX)
		return krg_err_set(err, -EBADMSG, "ghost: a pending signal");
	memcpy(&info, s.info.data, sizeof(info));
	if (info.si_signo < 1 || info.si_signo > GHOST_NSIG ||
	    (s.tid != 0 && !has_thread(im, s.tid)))
		return krg_err_set(err, -EBADMSG, "ghost: pending signal %d for thread %d",
				   info.si_signo, s.tid);
	MORE(im->signal, im->nsignals);
	im->signal[im->nsignals++] = s;
	return 0;
}

static int creds(struct ghost_image *im, struct krg_rd *rd, struct krg_err *err)
{
	struct rec_ghost_creds c;

	if (rec_ghost_creds_decode(rd, &c) < 0)
		return -EBADMSG;
	/* in the order of the threads, which come first */
	if (im->ncreds >= im->nthreads || im->thread[im->ncreds].tid != c.tid ||
	    c.groups.len % 4 != 0 || c.no_new_privs > 1)
		return krg_err_set(err, -EBADMSG, "ghost: credentials of thread %d", c.tid);
	MORE(im->creds, im->ncreds);
	im->creds[im->ncreds++] = c;
	return 0;
}

static int itimer(struct ghost_image *im, struct krg_rd *rd, struct krg_err *err)
{
	struct rec_ghost_itimer t;

	if (rec_ghost_itimer_decode(rd, &t) < 0)
		return -EBADMSG;
	if (t.which > 2 || t.value_us == 0)
		return krg_err_set(err, -EBADMSG, "ghost: interval timer %u", t.which);
	im->itimer[t.which] = t;
	return 0;
}

static int head(struct ghost_image *im, struct krg_rd *rd, struct krg_err *err)
{
	struct rec_ghost_head *h = &im->head;

	if (rec_ghost_head_decode(rd, h) < 0)
		return krg_err_set(err, -EBADMSG, "ghost: no head");
	if (h->version != GHOST_VERSION)
		return krg_err_set(err, -EPROTO, "ghost of version %u, this is %u", h->version,
				   GHOST_VERSION);
	if (h->pid <= 0 || h->mm.len != sizeof(struct prctl_mm_map) || h->exe.len == 0 ||
	    h->exe.data[0] != '/' || h->auxv.len % 16 != 0 || h->dumpable > 2)
		return krg_err_set(err, -EBADMSG, "ghost: its head");
	return 0;
}

/* Records after the head, up to the end's. */
static int body(struct ghost_image *im, struct krg_rd *rd, struct krg_err *err)
{
	static int (*const reader[])(struct ghost_image *, struct krg_rd *, struct krg_err *) = {
		[REC_TYPE_ghost_area - REC_TYPE_ghost_head] = area,
		[REC_TYPE_ghost_thread - REC_TYPE_ghost_head] = thread,
		[REC_TYPE_ghost_action - REC_TYPE_ghost_head] = action,
		[REC_TYPE_ghost_signal - REC_TYPE_ghost_head] = signal_pending,
		[REC_TYPE_ghost_itimer - REC_TYPE_ghost_head] = itimer,
		[REC_TYPE_ghost_creds - REC_TYPE_ghost_head] = creds};
	struct rec_ghost_end end;
	unsigned count = 0;

	for (;; count++) {
		u16 type = krg_rec_peek(rd);
		unsigned i = (unsigned)type - REC_TYPE_ghost_head;
		int r;

		if (type == REC_TYPE_ghost_end)
			break;
		if (type < REC_TYPE_ghost_head || i >= KRG_NELEM(reader) || reader[i] == NULL)
			return krg_err_set(err, -EBADMSG, "ghost: unknown record %#x", type);
		r = reader[i](im, rd, err);
		if (r == -EBADMSG && err != NULL && err->code == 0)
			return krg_err_set(err, r, "ghost: broken record %#x", type);
		if (r < 0)
			return r;
	}
	if (rec_ghost_end_decode(rd, &end) < 0 || end.records != count || krg_rd_left(rd) != 0)
		return krg_err_set(err, -EBADMSG, "ghost: cut off, or with more behind its end");
	if (im->nthreads == 0 || im->nareas == 0)
		return krg_err_set(err, -EBADMSG, "ghost: without %s",
				   im->nareas == 0 ? "memory" : "threads");
	if (im->ncreds != im->nthreads)
		return krg_err_set(err, -EBADMSG, "ghost: without credentials");
	return 0;
}

int ghost_image_read(struct krg_slice state, struct ghost_image **ret, struct krg_err *err)
{
	struct ghost_image *im = krg_xalloc(sizeof(*im));
	struct krg_rd rd = krg_rd_slice(state);
	int r;

	krg_err_clear(err);
	r = state.len > GHOST_STATE_MAX ? krg_err_set(err, -EFBIG, "ghost: too big")
					: head(im, &rd, err);
	if (r == 0)
		r = body(im, &rd, err);
	if (r < 0) {
		ghost_image_free(im);
		return r;
	}
	*ret = im;
	return 0;
}
