/* ghost_lazy.c - memory that comes later, by userfaultfd.
 *
 * A memory (`mm`) is a table of pieces: where pages of the source stand now.  What the process gives up is cut out of
 * it; what has come is in `done`.  A page that is missed and is in no piece, or done, or not at the source, is zero.
 *
 * One lock: a piece is looked up and its pages are copied under it, and so are events read that change the
 * pieces.  Between the change and the reading of its event the kernel refuses copies (-EAGAIN,
 * mmap_changing), so nothing is ever copied to where a page was before.  Whoever gets -EAGAIN reads events itself.
 */
#include "ghost_lazy.h"
#include "ghost_image.h"
#include "lock.h"
#include "page_set.h"
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <time.h>

#define FEATURES                                                                                   \
	(UFFD_FEATURE_EVENT_FORK | UFFD_FEATURE_EVENT_REMAP | UFFD_FEATURE_EVENT_REMOVE |          \
	 UFFD_FEATURE_EVENT_UNMAP | UFFD_FEATURE_THREAD_ID)
#define AHEAD_MIN 8u
#define AHEAD_MAX 128u
#define COPY_MAX  32u  /* pages under one hold of the lock */
#define SMALL	  512u /* pages that are rather marked than cut out */
#define EVENTS	  16
#define NOWHERE	  (0x7ffffffff000ull - GHOST_PAGE) /* nothing is mapped above the stack's gap */
#define LOWEST	  (1ull << 20) /* programs map nothing below (vm.mmap_min_addr is less) */
#define PAUSE_NS  20000

struct piece {
	u64 at, src, npages;
};
struct mm {
	int fd;
	unsigned id;
	bool gone;
	struct piece *piece; /* by at, apart */
	unsigned n, room;
	struct page_set done; /* by src */
	u64 moved, moved_len; /* by mremap: its unmapping is still to be told */
	u64 next;	      /* behind what was asked for last */
	unsigned ahead;
};
struct want {
	u64 addr;
	unsigned n;
	pid_t stuck; /* not 0: it is that which waits for it */
};

struct ghost_lazy {
	const struct ghost_lazy_ops *ops;
	void *ctx;
	struct krg_mutex lock; /* class pages */
	int epoll;
	struct mm **mm;		       /* (o) */
	unsigned nmm, ids;	       /* (o) */
	struct page_set listed, asked; /* (o) by src */
	bool list_end, lost;	       /* (o) */
	bool blind;		       /* (c) it is not known what has come */
	unsigned putting;	       /* (o) who goes through the table */
	struct want *want;	       /* (o) to be told when the lock is free */
	unsigned nwant, want_room;
	struct ghost_lazy_stat stat; /* (o) */
};

/* ---- pieces ---- */

/* The first that ends above addr. */
static unsigned piece_above(const struct mm *m, u64 addr)
{
	unsigned low = 0, high = m->n;

	while (low < high) {
		unsigned mid = (low + high) / 2;

		if (m->piece[mid].at + m->piece[mid].npages * GHOST_PAGE > addr)
			high = mid;
		else
			low = mid + 1;
	}
	return low;
}

static void piece_insert(struct mm *m, unsigned i, struct piece p)
{
	if (m->n == m->room) {
		m->room = 2 * m->room + 16;
		m->piece = krg_xrealloc(m->piece, m->room * sizeof(*m->piece));
	}
	memmove(m->piece + i + 1, m->piece + i, (m->n - i) * sizeof(*m->piece));
	m->piece[i] = p;
	m->n++;
}

static void piece_delete(struct mm *m, unsigned i)
{
	m->n--;
	memmove(m->piece + i, m->piece + i + 1, (m->n - i) * sizeof(*m->piece));
}

/* No piece reaches over addr. */
static void piece_split(struct mm *m, u64 addr)
{
	unsigned i = piece_above(m, addr);
	struct piece *p, rest;

	if (i == m->n || m->piece[i].at >= addr)
		return;
	p = &m->piece[i];
	rest = (struct piece){.at = addr,
			      .src = p->src + (addr - p->at),
			      .npages = p->npages - (addr - p->at) / GHOST_PAGE};
	p->npages -= rest.npages;
	piece_insert(m, i + 1, rest);
}

static void cut(struct mm *m, u64 from, u64 to)
{
	piece_split(m, from);
	piece_split(m, to);
	for (unsigned i = piece_above(m, from); i < m->n && m->piece[i].at < to;)
		piece_delete(m, i);
}

static void move(struct mm *m, u64 from, u64 to, u64 len)
{
	struct piece *moved = NULL;
	unsigned n = 0, i;

	piece_split(m, from);
	piece_split(m, from + len);
	i = piece_above(m, from);
	while (i < m->n && m->piece[i].at < from + len) {
		moved = krg_xrealloc(moved, (n + 1) * sizeof(*moved));
		moved[n++] = m->piece[i];
		piece_delete(m, i);
	}
	cut(m, to, to + len);
	for (i = 0; i < n; i++) {
		moved[i].at = moved[i].at - from + to;
		piece_insert(m, piece_above(m, moved[i].at), moved[i]);
	}
	free(moved);
}

/* Given up, but still mapped. */
static void forget(struct mm *m, u64 from, u64 to)
{
	if ((to - from) / GHOST_PAGE > SMALL) {
		cut(m, from, to);
		return;
	}
	for (unsigned i = piece_above(m, from); i < m->n && m->piece[i].at < to; i++) {
		const struct piece *p = &m->piece[i];
		u64 a = KRG_MAX(from, p->at), b = KRG_MIN(to, p->at + p->npages * GHOST_PAGE);

		page_set_add(&m->done, p->src + (a - p->at), (b - a) / GHOST_PAGE);
	}
}

/* Where a page of the source stands, and how many stand behind it; 0: nowhere, and so many are nowhere. */
static u64 place_of(const struct mm *m, u64 src, u64 npages, u64 *ret_n)
{
	u64 nearest = src + npages * GHOST_PAGE;
	unsigned i = piece_above(m, src);

	/* most have not moved */
	if (i < m->n && m->piece[i].at <= src && m->piece[i].src == m->piece[i].at) {
		*ret_n = KRG_MIN(npages, m->piece[i].npages - (src - m->piece[i].at) / GHOST_PAGE);
		return src;
	}
	for (i = 0; i < m->n; i++) {
		const struct piece *p = &m->piece[i];

		if (src >= p->src && src < p->src + p->npages * GHOST_PAGE) {
			*ret_n = KRG_MIN(npages, p->npages - (src - p->src) / GHOST_PAGE);
			return p->at + (src - p->src);
		}
		if (p->src > src && p->src < nearest)
			nearest = p->src;
	}
	*ret_n = (nearest - src) / GHOST_PAGE;
	return 0;
}

/* ---- memories ---- */

static struct mm *mm_add(struct ghost_lazy *l, int fd)
{
	struct mm *m = krg_xalloc(sizeof(*m));
	struct epoll_event ev = {.events = EPOLLIN, .data.u64 = l->ids};

	m->fd = fd;
	m->id = l->ids++;
	m->ahead = AHEAD_MIN;
	l->mm = krg_xrealloc(l->mm, (l->nmm + 1) * sizeof(struct mm *));
	l->mm[l->nmm++] = m;
	(void)epoll_ctl(l->epoll, EPOLL_CTL_ADD, fd, &ev);
	l->ops->opened(l->ctx, m->id, fd);
	return m;
}

static void mm_free(struct ghost_lazy *l, struct mm *m)
{
	l->ops->closed(l->ctx, m->id);
	(void)close(m->fd);
	free(m->piece);
	page_set_fini(&m->done);
	free(m);
}

/* Those whose process has ended, or executes another program. */
static void mm_sweep(struct ghost_lazy *l)
{
	unsigned keep = 0;

	if (l->putting > 0)
		return;
	for (unsigned i = 0; i < l->nmm; i++) {
		if (l->mm[i]->gone)
			mm_free(l, l->mm[i]);
		else
			l->mm[keep++] = l->mm[i];
	}
	l->nmm = keep;
}

static void wake(const struct mm *m, u64 at)
{
	struct uffdio_range r = {at, GHOST_PAGE};

	(void)ioctl(m->fd, UFFDIO_WAKE, &r);
}

static void drain(struct ghost_lazy *l);

/* The process changes its memory: its event is to be read, and it must have run on. */
static void TSA(requires_capability(lc_pages)) let_change(struct ghost_lazy *l)
{
	struct timespec pause = {.tv_nsec = PAUSE_NS};

	drain(l);
	pages_unlock(&l->lock);
	(void)nanosleep(&pause, NULL);
	pages_lock(&l->lock);
}

/* One page at at is zero, if it is not there.  -EAGAIN: look again where it is. */
static int zero_page(struct ghost_lazy *l, struct mm *m, u64 at)
{
	struct uffdio_zeropage z = {.range = {at, GHOST_PAGE}};

	if (ioctl(m->fd, UFFDIO_ZEROPAGE, &z) == 0) {
		l->stat.zeroed++;
		return 0;
	}
	if (errno == EAGAIN)
		return -EAGAIN;
	if (errno == ESRCH)
		m->gone = true;
	else
		wake(m, at); /* it is there, or nobody can miss it any more */
	return 0;
}

/* ---- events ---- */

static void want_add(struct ghost_lazy *l, struct want w)
{
	if (l->nwant == l->want_room) {
		l->want_room = 2 * l->want_room + 16;
		l->want = krg_xrealloc(l->want, l->want_room * sizeof(*l->want));
	}
	l->want[l->nwant++] = w;
}

/* With growing read-ahead while it goes on where it was. */
static void ask(struct ghost_lazy *l, struct mm *m, u64 src)
{
	m->ahead = src >= m->next && src <= m->next + AHEAD_MIN * GHOST_PAGE
			   ? KRG_MIN(2 * m->ahead, AHEAD_MAX)
			   : AHEAD_MIN;
	m->next = src + m->ahead * GHOST_PAGE;
	page_set_add(&l->asked, src, 1);
	l->stat.wanted++;
	want_add(l, (struct want){.addr = src, .n = m->ahead});
}

/* False: it changes its memory; the fault is looked at again. */
static bool on_fault(struct ghost_lazy *l, struct mm *m, u64 at, pid_t tid)
{
	unsigned i = piece_above(m, at);
	u64 src = 0;
	bool here = i < m->n && m->piece[i].at <= at;

	l->stat.faults++;
	if (here)
		src = m->piece[i].src + (at - m->piece[i].at);
	if (!l->blind && (!here || page_set_has(&m->done, src) ||
			  (l->list_end && !page_set_has(&l->listed, src))))
		return zero_page(l, m, at) == 0;
	if (l->lost) {
		want_add(l, (struct want){.addr = at, .stuck = tid});
	} else if (!page_set_has(&l->asked, src)) {
		ask(l, m, src);
	}
	return true;
}

static void on_fork(struct ghost_lazy *l, const struct mm *parent, int fd)
{
	struct mm *m = mm_add(l, fd);

	l->stat.forks++;
	m->n = m->room = parent->n;
	m->piece = krg_xrealloc(NULL, KRG_MAX(m->n, 1u) * sizeof(*m->piece));
	if (m->n > 0)
		memcpy(m->piece, parent->piece, m->n * sizeof(*m->piece));
	page_set_copy(&m->done, &parent->done);
}

static void on_unmap(struct mm *m, u64 from, u64 to)
{
	/* of what mremap has moved away: that was told before */
	if (m->moved_len != 0 && from == m->moved && to == m->moved + m->moved_len) {
		m->moved_len = 0;
		return;
	}
	cut(m, from, to);
}

static void on_remap(struct mm *m, u64 from, u64 to, u64 len)
{
	move(m, from, to, len);
	m->moved = from;
	m->moved_len = len;
}

struct again {
	struct mm *m;
	u64 at;
	pid_t tid;
};

/* All that one of them has to say; faults that must be looked at again, at most room. */
static unsigned drain_one(struct ghost_lazy *l, struct mm *m, struct again *again, unsigned room)
{
	struct uffd_msg msg[EVENTS];
	unsigned n = 0;

	while (n + EVENTS <= room && !m->gone) {
		ssize_t got = read(m->fd, msg, sizeof(msg));

		if (got <= 0)
			break;
		for (size_t i = 0; i < (size_t)got / sizeof(msg[0]); i++) {
			const struct uffd_msg *e = &msg[i];
			u64 at = e->arg.pagefault.address & ~(u64)(GHOST_PAGE - 1);
			pid_t tid = (pid_t)e->arg.pagefault.feat.ptid;

			if (e->event == UFFD_EVENT_FORK)
				on_fork(l, m, (int)e->arg.fork.ufd);
			else if (e->event == UFFD_EVENT_REMAP)
				on_remap(m, e->arg.remap.from, e->arg.remap.to, e->arg.remap.len);
			else if (e->event == UFFD_EVENT_REMOVE)
				forget(m, e->arg.remove.start, e->arg.remove.end);
			else if (e->event == UFFD_EVENT_UNMAP)
				on_unmap(m, e->arg.remove.start, e->arg.remove.end);
			else if (e->event == UFFD_EVENT_PAGEFAULT && !on_fault(l, m, at, tid))
				again[n++] = (struct again){m, at, tid};
		}
	}
	return n;
}

static void drain(struct ghost_lazy *l)
{
	struct timespec pause = {.tv_nsec = PAUSE_NS};
	struct again again[64];
	unsigned n;

	do {
		n = 0;
		/* a fork adds to the table */
		for (unsigned i = 0; i < l->nmm; i++)
			n += drain_one(l, l->mm[i], again + n, KRG_NELEM(again) - n);
		if (n > 0)
			(void)nanosleep(&pause, NULL);
		for (unsigned i = 0; i < n; i++)
			/* else it is woken, and comes again */
			if (!on_fault(l, again[i].m, again[i].at, again[i].tid))
				wake(again[i].m, again[i].at);
	} while (n > 0);
}

/* What was found with the lock held is told without it. */
static void TSA(release_capability(lc_pages)) tell(struct ghost_lazy *l)
{
	struct want *w = l->want;
	unsigned n = l->nwant;

	l->want = NULL;
	l->nwant = l->want_room = 0;
	pages_unlock(&l->lock);
	for (unsigned i = 0; i < n; i++) {
		if (w[i].stuck != 0)
			l->ops->stuck(l->ctx, w[i].stuck, w[i].addr);
		else
			l->ops->want(l->ctx, w[i].addr, w[i].n);
	}
	free(w);
}

int ghost_lazy_fd(const struct ghost_lazy *l)
{
	return l->epoll;
}

void ghost_lazy_serve(struct ghost_lazy *l)
{
	pages_lock(&l->lock);
	drain(l);
	mm_sweep(l);
	tell(l);
}

/* ---- pages that come ---- */

/* n pages of src stand at at, and none of them is done.  How many have been seen to; -EAGAIN: look again. */
static i64 copy(struct mm *m, u64 at, u64 src, const u8 *p, u64 n)
{
	struct uffdio_copy c = {.dst = at, .src = (u64)(uintptr_t)p, .len = n * GHOST_PAGE};

	if (ioctl(m->fd, UFFDIO_COPY, &c) == 0)
		c.copy = (i64)c.len;
	else if (errno == ESRCH)
		m->gone = true;
	else if (errno == EEXIST || (errno == ENOENT && n == 1))
		/* it has come by another way, or there is no place for it any more */
		c.copy = GHOST_PAGE, wake(m, at);
	else if (errno == ENOENT)
		return copy(m, at, src, p, 1); /* an area ends in between */
	else if (errno != EAGAIN)
		return -errno;
	if (m->gone)
		return (i64)n;
	if (c.copy <= 0)
		return -EAGAIN;
	page_set_add(&m->done, src, (u64)c.copy / GHOST_PAGE);
	return c.copy / GHOST_PAGE;
}

/* p NULL: zero pages, which are put only where they are missed. */
static int TSA(requires_capability(lc_pages))
	put_mm(struct ghost_lazy *l, struct mm *m, u64 src, const u8 *p, u64 npages)
{
	while (npages > 0 && !m->gone) {
		bool done;
		u64 n = KRG_MIN(page_set_run(&m->done, src, npages, &done), (u64)COPY_MAX), at;
		i64 r = (i64)n;

		if (!done) {
			at = place_of(m, src, n, &n);
			r = (i64)n;
			if (at != 0 && p != NULL) {
				r = copy(m, at, src, p, n);
			} else if (at != 0 && page_set_has(&l->asked, src)) {
				r = zero_page(l, m, at) < 0 ? -EAGAIN : 1;
				if (r > 0)
					page_set_add(&m->done, src, 1);
			} else if (p == NULL) {
				r = 1;
				page_set_add(&m->done, src, 1);
			}
		}
		if (r == -EAGAIN) {
			let_change(l);
			continue;
		}
		if (r < 0)
			return (int)r;
		if (p != NULL)
			p += (u64)r * GHOST_PAGE;
		src += (u64)r * GHOST_PAGE;
		npages -= (u64)r;
	}
	return 0;
}

static int put(struct ghost_lazy *l, u64 src, const u8 *p, u64 npages)
{
	int r = 0;

	for (u64 n; r == 0 && npages > 0; npages -= n) {
		n = KRG_MIN(npages, (u64)COPY_MAX);
		pages_lock(&l->lock);
		l->putting++;
		/* let_change() lets others in: a fork adds to the table */
		for (unsigned i = 0; r == 0 && i < l->nmm; i++)
			r = put_mm(l, l->mm[i], src, p, n);
		l->putting--;
		page_set_del(&l->asked, src, n);
		l->stat.copied += p != NULL ? n : 0;
		mm_sweep(l);
		if (r == 0 && l->nmm == 0)
			r = -ESRCH;
		tell(l);
		src += n * GHOST_PAGE;
		p = p != NULL ? p + n * GHOST_PAGE : NULL;
	}
	return r;
}

int ghost_lazy_put(struct ghost_lazy *l, u64 addr, const void *p, u64 npages)
{
	return put(l, addr, p, npages);
}

int ghost_lazy_zero(struct ghost_lazy *l, u64 addr, u64 npages)
{
	return put(l, addr, NULL, npages);
}

void ghost_lazy_listed(struct ghost_lazy *l, u64 addr, u64 npages)
{
	KRG_GUARD(pages, &l->lock);
	page_set_add(&l->listed, addr, npages);
}

void ghost_lazy_list_end(struct ghost_lazy *l)
{
	KRG_GUARD(pages, &l->lock);
	l->list_end = true;
}

void ghost_lazy_early(struct ghost_lazy *l, u64 addr, u64 npages)
{
	KRG_GUARD(pages, &l->lock);
	if (l->nmm > 0)
		page_set_add(&l->mm[0]->done, addr, npages);
}

/* Who waits already asks again, and is found stuck. */
void ghost_lazy_lost(struct ghost_lazy *l)
{
	KRG_GUARD(pages, &l->lock);
	l->lost = true;
	for (unsigned i = 0; i < l->nmm; i++)
		for (unsigned k = 0; k < l->mm[i]->n; k++) {
			const struct piece *p = &l->mm[i]->piece[k];
			struct uffdio_range r = {p->at, p->npages * GHOST_PAGE};

			(void)ioctl(l->mm[i]->fd, UFFDIO_WAKE, &r);
		}
}

unsigned ghost_lazy_left(struct ghost_lazy *l)
{
	static const u8 page[GHOST_PAGE];
	KRG_GUARD(pages, &l->lock);

	for (unsigned i = 0; i < l->nmm; i++) {
		struct uffdio_copy c = {
			.dst = NOWHERE, .src = (u64)(uintptr_t)page, .len = GHOST_PAGE};

		if (ioctl(l->mm[i]->fd, UFFDIO_COPY, &c) < 0 && errno == ESRCH)
			l->mm[i]->gone = true;
	}
	mm_sweep(l);
	return l->nmm;
}

void ghost_lazy_stat(struct ghost_lazy *l, struct ghost_lazy_stat *ret)
{
	KRG_GUARD(pages, &l->lock);
	*ret = l->stat;
}

/* ---- begin and end ---- */

static int api(int fd)
{
	struct uffdio_api a = {.api = UFFD_API, .features = FEATURES};

	return ioctl(fd, UFFDIO_API, &a) < 0 ? -errno : 0;
}

bool ghost_lazy_possible(void)
{
	KRG_AUTO_FD int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	return fd >= 0 && api(fd) == 0;
}

static struct ghost_lazy *lazy_new(const struct ghost_lazy_ops *ops, void *ctx)
{
	struct ghost_lazy *l = krg_xalloc(sizeof(*l));

	l->ops = ops;
	l->ctx = ctx;
	l->epoll = epoll_create1(EPOLL_CLOEXEC);
	krg_mutex_init(&l->lock);
	return l;
}

void ghost_lazy_free(struct ghost_lazy *l)
{
	if (l == NULL)
		return;
	for (unsigned i = 0; i < l->nmm; i++)
		mm_free(l, l->mm[i]);
	free(l->mm);
	free(l->want);
	page_set_fini(&l->listed);
	page_set_fini(&l->asked);
	krg_closep(&l->epoll);
	krg_mutex_fini(&l->lock);
	free(l);
}

struct ghost_lazy *ghost_lazy_adopt(int uffd, const struct ghost_lazy_ops *ops, void *ctx)
{
	struct uffdio_range all = {LOWEST, NOWHERE - LOWEST};
	struct ghost_lazy *l = lazy_new(ops, ctx);

	l->lost = l->blind = true;
	(void)mm_add(l, uffd);
	/* who asked the other one has been read, and asks again */
	(void)ioctl(uffd, UFFDIO_WAKE, &all);
	return l;
}

/* A userfaultfd of the shell's memory: only a process itself can make one. */
static int uffd_of(struct ghost *g, struct krg_err *err)
{
	GHOST_AUTO_LIST struct ghost_list l = {0};
	KRG_AUTO_FD int pidfd = (int)syscall(SYS_pidfd_open, g->pid, 0), fd = -EBADF;
	const struct ghost_call *failed, *c;
	int own, r;

	ghost_list_init(&l, g);
	c = ghost_list_add(&l, SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK, 0, 0, 0, 0, 0);
	r = ghost_list_run(g, &g->thread[0], &l, &failed);
	if (r < 0)
		return krg_err_set(err, r, "pid %d: userfaultfd", g->shown);
	own = (int)c->ret;
	fd = (int)syscall(SYS_pidfd_getfd, pidfd, own, 0);
	r = fd < 0 ? -errno : api(fd);
	ghost_list_fini(&l);
	ghost_list_init(&l, g);
	ghost_list_add(&l, SYS_close, (u64)own, 0, 0, 0, 0, 0);
	(void)ghost_list_run(g, &g->thread[0], &l, &failed);
	return r < 0 ? krg_err_set(err, r, "pid %d: userfaultfd", g->shown) : TAKE_FD(fd);
}

int ghost_lazy_new(struct ghost *shell, const struct ghost_image *image,
		   const struct ghost_lazy_ops *ops, void *ctx, struct ghost_lazy **ret,
		   struct krg_err *err)
{
	struct ghost_lazy *l;
	struct mm *m;
	int fd = uffd_of(shell, err);

	if (fd < 0)
		return fd;
	l = lazy_new(ops, ctx);
	m = mm_add(l, fd);
	for (unsigned i = 0; i < image->nareas; i++) {
		const struct rec_ghost_area *a = &image->area[i];
		u64 npages = (a->end - a->start) / GHOST_PAGE;

		if (a->kind != GHOST_ANON)
			continue;
		if (m->n > 0 &&
		    m->piece[m->n - 1].at + m->piece[m->n - 1].npages * GHOST_PAGE == a->start)
			m->piece[m->n - 1].npages += npages;
		else
			piece_insert(m, m->n, (struct piece){a->start, a->start, npages});
	}
	*ret = l;
	return 0;
}

int ghost_lazy_arm(struct ghost_lazy *l, struct krg_err *err)
{
	KRG_GUARD(pages, &l->lock);
	for (unsigned i = 0; l->nmm > 0 && i < l->mm[0]->n; i++) {
		const struct piece *p = &l->mm[0]->piece[i];
		struct uffdio_register r = {.range = {p->at, p->npages * GHOST_PAGE},
					    .mode = UFFDIO_REGISTER_MODE_MISSING};

		if (ioctl(l->mm[0]->fd, UFFDIO_REGISTER, &r) < 0)
			return krg_err_set(err, -errno, "userfaultfd for memory at %llx",
					   (unsigned long long)p->at);
	}
	return 0;
}
