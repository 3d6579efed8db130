/* ghost_pages.c - the pages of a stopped process: those that are in no file, those that it needs at once, and
 * those that can follow. */
#include "ghost_image.h"
#include <fcntl.h>
#include <linux/prctl.h>
#include <sys/ioctl.h>

#define GHOST_SPARSE_MAX (256ull << 30) /* bytes of an area that is looked through page by page */

#define PM_PRESENT (1ull << 63)
#define PM_SWAP	   (1ull << 62)
#define PM_FILE	   (1ull << 61) /* of a file, or shared */

struct give {
	struct ghost *g;
	u8 *page; /* GHOST_RUN_MAX */
	ghost_page_fn *fn;
	void *ctx;
};
/* Pages of one area, which the process has changed or made. */
typedef int run_fn(void *ctx, u64 from, u64 to, bool file, struct krg_err *err);

static bool is_zero(const u8 *p)
{
	return p[0] == 0 && memcmp(p, p + 1, GHOST_PAGE - 1) == 0;
}

/* The pages of [from, to) are the process's own: read them, and give out runs without zero pages.  In an
 * area of a file, a zero page is a change too. */
static int give_run(void *ctx, u64 from, u64 to, bool file, struct krg_err *err)
{
	const struct give *give = ctx;
	u8 *page = give->page;

	while (from < to) {
		size_t n = KRG_MIN(to - from, (u64)GHOST_RUN_MAX), begin = 0;
		ssize_t got = pread(give->g->mem, page, n, (off_t)from);

		if (got != (ssize_t)n)
			return krg_err_set(err, got < 0 ? -errno : -EFAULT,
					   "pid %d: read its memory at %llx", give->g->shown,
					   (unsigned long long)from);
		for (size_t i = 0; i <= n; i += GHOST_PAGE) {
			int r = 0;

			if (i < n && (file || !is_zero(page + i)))
				continue;
			if (i > begin)
				r = give->fn(give->ctx, from + begin, page + begin, i - begin, err);
			if (r != 0)
				return r;
			begin = i + GHOST_PAGE;
		}
		from += n;
	}
	return 0;
}

/* PAGEMAP_SCAN (Linux 6.7, include/uapi/linux/fs.h): what is in use, at the cost of that only. */
#define PAGE_IS_FILE	(1u << 2)
#define PAGE_IS_PRESENT (1u << 3)
#define PAGE_IS_SWAPPED (1u << 4)
#define PAGE_IS_PFNZERO (1u << 5)
struct page_region {
	u64 start, end, categories;
};
struct pm_scan_arg {
	u64 size, flags, start, end, walk_end, vec, vec_len, max_pages, category_inverted,
		category_mask, category_anyof_mask, return_mask;
};
#define PAGEMAP_SCAN _IOWR('f', 16, struct pm_scan_arg)

/* -ENOTTY: this kernel has not got it. */
static int area_scan(pid_t shown, int pagemap, const struct ghost_area *a, run_fn *fn, void *ctx,
		     struct krg_err *err)
{
	struct page_region region[256];
	struct pm_scan_arg arg = {.size = sizeof(arg),
				  .start = a->start,
				  .end = a->end,
				  .vec = (u64)(uintptr_t)region,
				  .vec_len = KRG_NELEM(region),
				  .category_inverted = PAGE_IS_FILE | PAGE_IS_PFNZERO,
				  .category_mask = PAGE_IS_FILE | PAGE_IS_PFNZERO,
				  .category_anyof_mask = PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
				  .return_mask = PAGE_IS_PRESENT | PAGE_IS_SWAPPED};

	while (arg.start < a->end) {
		int n = ioctl(pagemap, PAGEMAP_SCAN, &arg);

		if (n < 0)
			return errno == ENOTTY || errno == EINVAL
				       ? -ENOTTY
				       : krg_err_set(err, -errno, "pid %d: look for its pages",
						     shown);
		for (int i = 0; i < n; i++) {
			int r = fn(ctx, region[i].start, region[i].end, a->kind == GHOST_FILE, err);

			if (r != 0)
				return r;
		}
		if (arg.walk_end <= arg.start)
			break;
		arg.start = arg.walk_end;
	}
	return 0;
}

static int area_pages(pid_t shown, int pagemap, const struct ghost_area *a, run_fn *fn, void *ctx,
		      struct krg_err *err)
{
	u64 entry[4096], run = 0;
	bool file = a->kind == GHOST_FILE;

	for (u64 at = a->start; at < a->end;) {
		u64 n = KRG_MIN((a->end - at) / GHOST_PAGE, (u64)KRG_NELEM(entry));
		ssize_t got = pread(pagemap, entry, n * 8, (off_t)(at / GHOST_PAGE * 8));

		if (got <= 0)
			return krg_err_set(err, got < 0 ? -errno : -EFAULT, "pid %d: its pagemap",
					   shown);
		n = (u64)got / 8;
		for (u64 i = 0; i < n; i++, at += GHOST_PAGE) {
			bool own = (entry[i] & (PM_PRESENT | PM_SWAP)) != 0 &&
				   (entry[i] & PM_FILE) == 0;
			int r = 0;

			if (own && run == 0)
				run = at;
			if (!own && run != 0) {
				r = fn(ctx, run, at, file, err);
				run = 0;
			}
			if (r != 0)
				return r;
		}
	}
	return run != 0 ? fn(ctx, run, a->end, file, err) : 0;
}

static int area_runs(pid_t shown, int pagemap, const struct ghost_area *a, run_fn *fn, void *ctx,
		     struct krg_err *err)
{
	int r = area_scan(shown, pagemap, a, fn, ctx, err);

	if (r == -ENOTTY && a->end - a->start > GHOST_SPARSE_MAX)
		return krg_err_set(err, -EOPNOTSUPP,
				   "pid %d has an area of %llu GiB, too much to look through "
				   "with this kernel",
				   shown, (unsigned long long)(a->end - a->start) >> 30);
	return r == -ENOTTY ? area_pages(shown, pagemap, a, fn, ctx, err) : r;
}

static int pagemap_open(const struct ghost *g, struct krg_err *err)
{
	char path[64];
	int fd;

	(void)snprintf(path, sizeof(path), "/proc/%d/pagemap", g->pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	return fd < 0 ? krg_err_set(err, -errno, "open %s", path) : fd;
}

static int pages(struct ghost *g, bool anon, ghost_page_fn *fn, void *ctx, struct krg_err *err)
{
	GHOST_AUTO_MAPS struct ghost_maps maps = {0};
	KRG_AUTO_FD int pagemap = pagemap_open(g, err);
	KRG_AUTO_FREE u8 *page = krg_xrealloc(NULL, GHOST_RUN_MAX);
	struct give give = {g, page, fn, ctx};
	int r = pagemap < 0 ? pagemap : ghost_maps_read(g->pid, g->shown, false, &maps, err);

	for (unsigned i = 0; r == 0 && i < maps.n; i++)
		if ((anon && maps.area[i].kind == GHOST_ANON) || maps.area[i].kind == GHOST_FILE)
			r = area_runs(g->shown, pagemap, &maps.area[i], give_run, &give, err);
	return r;
}

int ghost_pages(struct ghost *g, ghost_page_fn *fn, void *ctx, struct krg_err *err)
{
	return pages(g, true, fn, ctx, err);
}

/* ---- what is needed at once ---- */

#define HOT_MAX 64u /* pages of arguments and environment */

struct hot {
	u64 *page;
	unsigned n, room;
};

static void hot_add(struct hot *h, u64 from, u64 to)
{
	for (u64 at = from & ~(u64)(GHOST_PAGE - 1); at < to; at += GHOST_PAGE) {
		if (h->n == h->room) {
			h->room = 2 * h->room + 64;
			h->page = krg_xrealloc(h->page, h->room * sizeof(*h->page));
		}
		h->page[h->n++] = at;
	}
}

/* The frames at the top of each stack, thread-local storage with what the kernel writes and reads there, code
 * that is in no file, what /proc shows of its arguments. */
static void hot_list(const struct ghost_image *im, struct hot *h)
{
	struct prctl_mm_map mm;

	for (unsigned i = 0; i < im->nthreads; i++) {
		const struct rec_ghost_thread *t = &im->thread[i];
		struct user_regs_struct regs;

		memcpy(&regs, t->regs.data, sizeof(regs));
		hot_add(h, regs.rsp - 256, regs.rsp + 2 * GHOST_PAGE);
		hot_add(h, regs.rip, regs.rip + 1);
		hot_add(h, regs.fs_base - 1, regs.fs_base + 1);
		if (t->rseq != 0)
			hot_add(h, t->rseq, t->rseq + t->rseq_size);
		if (t->robust != 0)
			hot_add(h, t->robust, t->robust + t->robust_len);
		if (t->clear_tid != 0)
			hot_add(h, t->clear_tid, t->clear_tid + 4);
	}
	memcpy(&mm, im->head.mm.data, sizeof(mm));
	if (mm.env_end > mm.arg_start && mm.env_end - mm.arg_start < HOT_MAX * GHOST_PAGE)
		hot_add(h, mm.arg_start, mm.env_end);
}

static int by_address(const void *a, const void *b)
{
	u64 x = *(const u64 *)a, y = *(const u64 *)b;

	return x < y ? -1 : x > y;
}

bool ghost_image_is_later(const struct ghost_image *im, u64 addr)
{
	for (unsigned i = 0; i < im->nareas; i++)
		if (addr >= im->area[i].start && addr < im->area[i].end)
			return im->area[i].kind == GHOST_ANON;
	return false;
}

static bool is_own(int pagemap, u64 addr)
{
	u64 entry = 0;

	return pread(pagemap, &entry, sizeof(entry), (off_t)(addr / GHOST_PAGE * 8)) == 8 &&
	       (entry & (PM_PRESENT | PM_SWAP)) != 0 && (entry & PM_FILE) == 0;
}

int ghost_pages_first(struct ghost *g, const struct ghost_image *im, ghost_page_fn *fn, void *ctx,
		      struct krg_err *err)
{
	KRG_AUTO_FD int pagemap = pagemap_open(g, err);
	KRG_AUTO_FREE u8 *page = krg_xrealloc(NULL, GHOST_RUN_MAX);
	struct give give = {g, page, fn, ctx};
	struct hot hot = {0};
	int r = pagemap < 0 ? pagemap : pages(g, false, fn, ctx, err);

	hot_list(im, &hot);
	if (hot.n > 0)
		qsort(hot.page, hot.n, sizeof(*hot.page), by_address);
	for (unsigned i = 0; r == 0 && i < hot.n; i++)
		if ((i == 0 || hot.page[i] != hot.page[i - 1]) &&
		    ghost_image_is_later(im, hot.page[i]) && is_own(pagemap, hot.page[i]))
			r = give_run(&give, hot.page[i], hot.page[i] + GHOST_PAGE, false, err);
	free(hot.page);
	return r;
}

/* ---- memory that is read later ---- */

struct ghost_memory {
	pid_t shown;
	int mem, pagemap;
	struct ghost_maps maps;
};

int ghost_memory_open(struct ghost *g, struct ghost_memory **ret, struct krg_err *err)
{
	struct ghost_memory *m = krg_xalloc(sizeof(*m));
	int r;

	m->shown = g->shown;
	m->mem = fcntl(g->mem, F_DUPFD_CLOEXEC, 0);
	r = m->pagemap = pagemap_open(g, err);
	if (r >= 0)
		r = m->mem < 0 ? krg_err_set(err, -errno, "pid %d: its memory", g->shown)
			       : ghost_maps_read(g->pid, g->shown, false, &m->maps, err);
	if (r < 0) {
		ghost_memory_close(m);
		return r;
	}
	*ret = m;
	return 0;
}

void ghost_memory_close(struct ghost_memory *m)
{
	if (m == NULL)
		return;
	krg_closep(&m->mem);
	krg_closep(&m->pagemap);
	ghost_maps_fini(&m->maps);
	free(m);
}

struct runs {
	ghost_run_fn *fn;
	void *ctx;
};

static int tell_run(void *ctx, u64 from, u64 to, bool file, struct krg_err *err)
{
	const struct runs *r = ctx;

	(void)file;
	(void)err;
	return r->fn(r->ctx, from, (to - from) / GHOST_PAGE);
}

int ghost_memory_runs(struct ghost_memory *m, ghost_run_fn *fn, void *ctx, struct krg_err *err)
{
	struct runs runs = {fn, ctx};
	int r = 0;

	for (unsigned i = 0; r == 0 && i < m->maps.n; i++)
		if (m->maps.area[i].kind == GHOST_ANON)
			r = area_runs(m->shown, m->pagemap, &m->maps.area[i], tell_run, &runs, err);
	return r;
}

int ghost_memory_read(struct ghost_memory *m, u64 addr, void *p, size_t n)
{
	ssize_t r = pread(m->mem, p, n, (off_t)addr);

	return r == (ssize_t)n ? 0 : r < 0 ? -errno : -EFAULT;
}

bool ghost_memory_has(struct ghost_memory *m, u64 addr)
{
	return is_own(m->pagemap, addr);
}

bool ghost_page_is_zero(const void *p)
{
	return is_zero(p);
}
