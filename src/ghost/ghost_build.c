/* ghost_build.c - a process made for it becomes the process of a ghost.
 *
 * In the shell, from outside to inside: its own areas go, all but the vdso's, which move to where the
 * ghost's were; the areas of the ghost are mapped; then the kernel is told of code, heap, arguments (PR_SET_MM_MAP).
 * Contents follow from outside (ghost_page_put).  Then come threads, each of which sets what only it
 * can; and at last dispositions, pending signals, timers.
 *
 * The shell's own rseq area must be given up before its memory: the kernel writes there.
 */
#include "ghost_image.h"
#include <dirent.h>
#include <elf.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/prctl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>

#ifndef SYS_rseq
#define SYS_rseq 334
#endif
#define RSEQ_UNREGISTER 1
#define XSTATE_XCR0	464 /* in the software bytes of the layout (asm/sigcontext.h) */
#define XSTATE_BV	512

static int fail_list(const struct ghost *g, const struct ghost_call *c, int r, const char *what,
		     struct krg_err *err)
{
	return c != NULL ? krg_err_set(err, r, "pid %d: %s: call %u of %llx", g->shown, what,
				       (unsigned)c->nr, (unsigned long long)c->a[0])
			 : krg_err_set(err, r, "pid %d: %s", g->shown, what);
}

static int flush(struct ghost *g, struct ghost_thread *t, struct ghost_list *l, const char *what,
		 struct krg_err *err)
{
	const struct ghost_call *failed;
	int r = ghost_list_run(g, t, l, &failed);

	if (r < 0)
		return fail_list(g, failed, r, what, err);
	ghost_list_fini(l);
	ghost_list_init(l, g);
	return 0;
}

/* ---- the shell ---- */

static int shell_stop(struct ghost *g, struct krg_err *err)
{
	struct ghost_thread *t = &g->thread[0];
	char path[64], status[8192];
	const char *at;
	int st, r = ghost_seize(t->tid);

	if (r < 0)
		return krg_err_set(err, r, "trace pid %d", g->shown);
	for (;;) {
		if (ghost_wait(t->tid, &st) < 0)
			return krg_err_set(err, -ESRCH, "pid %d has ended", g->shown);
		if (st >> 16 == PTRACE_EVENT_STOP)
			break;
		(void)ptrace(PTRACE_CONT, t->tid, 0, (long)WSTOPSIG(st));
	}
	if (ghost_thread_stopped(t) < 0)
		return krg_err_set(err, -ESRCH, "pid %d has ended", g->shown);
	(void)snprintf(path, sizeof(path), "/proc/%d/mem", g->pid);
	g->mem = open(path, O_RDWR | O_CLOEXEC);
	if (g->mem < 0)
		return krg_err_set(err, -errno, "open %s", path);
	(void)snprintf(path, sizeof(path), "/proc/%d/status", g->pid);
	r = krg_read_file(path, status, sizeof(status));
	if (r < 0)
		return krg_err_set(err, r, "read %s", path);
	at = strstr(status, "\nSigIgn:");
	g->trap_ignored = at != NULL && (strtoull(at + 8, NULL, 16) >> (SIGTRAP - 1) & 1) != 0;
	at = strstr(status, "\nCapPrm:");
	g->caps = at == NULL ? 0 : strtoull(at + 8, NULL, 16);
	at = strstr(status, "\nThreads:");
	if (at == NULL || strtoul(at + 9, NULL, 10) != 1)
		return krg_err_set(err, -EINVAL, "pid %d has more than one thread", g->shown);
	return 0;
}

static bool is_special(unsigned kind)
{
	return kind == GHOST_VDSO || kind == GHOST_VVAR || kind == GHOST_VVAR_VCLOCK;
}

static const struct rec_ghost_area *special_of(const struct ghost_image *im, unsigned kind)
{
	for (unsigned i = 0; i < im->nareas; i++)
		if (im->area[i].kind == kind)
			return &im->area[i];
	return NULL;
}

/* The same areas of the same size on both kernels: what the program knows of the vdso is its layout. */
static int special_check(const struct ghost *g, const struct ghost_image *im,
			 const struct ghost_maps *m, u64 *ret_size, struct krg_err *err)
{
	unsigned ours = 0, theirs = 0;

	*ret_size = 0;
	for (unsigned i = 0; i < m->n; i++) {
		const struct ghost_area *a = &m->area[i];
		const struct rec_ghost_area *b = special_of(im, a->kind);

		if (!is_special(a->kind))
			continue;
		ours++;
		if (b == NULL || b->end - b->start != a->end - a->start)
			return krg_err_set(err, -EOPNOTSUPP,
					   "pid %d: its vdso is of another kernel", g->shown);
		*ret_size += a->end - a->start;
	}
	for (unsigned i = 0; i < im->nareas; i++)
		theirs += is_special(im->area[i].kind);
	if (ours != theirs)
		return krg_err_set(err, -EOPNOTSUPP, "pid %d: its vdso is of another kernel",
				   g->shown);
	return 0;
}

static void image_maps(const struct ghost_image *im, struct ghost_maps *ret)
{
	ret->area = krg_xalloc(KRG_MAX(im->nareas, 1u) * sizeof(*ret->area));
	ret->n = im->nareas;
	for (unsigned i = 0; i < im->nareas; i++)
		ret->area[i] =
			(struct ghost_area){.start = im->area[i].start, .end = im->area[i].end};
}

static int rseq_give_up(struct ghost *g, struct ghost_list *l, struct krg_err *err)
{
	struct __ptrace_rseq_configuration c = {0};

	if (ptrace(PTRACE_GET_RSEQ_CONFIGURATION, g->thread[0].tid, sizeof(c), &c) > 0 &&
	    c.rseq_abi_pointer != 0)
		ghost_list_add(l, SYS_rseq, c.rseq_abi_pointer, c.rseq_abi_size, RSEQ_UNREGISTER,
			       c.signature, 0, 0);
	ghost_list_add(l, SYS_set_robust_list, 0, 24, 0, 0, 0, 0);
	ghost_list_add(l, SYS_set_tid_address, 0, 0, 0, 0, 0, 0);
	ghost_list_add(
		l, SYS_sigaltstack,
		ghost_list_data(l, &(stack_t){.ss_flags = SS_DISABLE}, sizeof(stack_t), NULL), 0, 0,
		0, 0, 0);
	return flush(g, &g->thread[0], l, "leave its own state", err);
}

/* Away with what is there; the vdso by way of `aside`, as the two places may overlap. */
static int clear_out(struct ghost *g, const struct ghost_image *im, const struct ghost_maps *m,
		     u64 aside, struct ghost_list *l, struct krg_err *err)
{
	u64 at = aside, flags = MREMAP_MAYMOVE | MREMAP_FIXED;
	int r;

	for (unsigned i = 0; i < m->n; i++) {
		const struct ghost_area *a = &m->area[i];
		u64 size = a->end - a->start;

		if (!is_special(a->kind)) {
			ghost_list_add(l, SYS_munmap, a->start, size, 0, 0, 0, 0);
		} else {
			ghost_list_add(l, SYS_mremap, a->start, size, size, flags, at, 0);
			at += size;
		}
		if (ghost_list_full(l, 0)) {
			r = flush(g, &g->thread[0], l, "give up its memory", err);
			if (r < 0)
				return r;
		}
	}
	at = aside;
	for (unsigned i = 0; i < m->n; i++) {
		const struct ghost_area *a = &m->area[i];
		u64 size = a->end - a->start;

		if (!is_special(a->kind))
			continue;
		ghost_list_add(l, SYS_mremap, at, size, size, flags, special_of(im, a->kind)->start,
			       0);
		if (a->kind == GHOST_VDSO)
			g->insn = g->insn - a->start + special_of(im, GHOST_VDSO)->start;
		at += size;
	}
	return flush(g, &g->thread[0], l, "give up its memory", err);
}

/* ---- files ---- */

struct open_files {
	struct krg_slice *path;
	int *fd; /* in the shell */
	unsigned n;
};

static void open_files_fini(struct open_files *f)
{
	free(f->path);
	free(f->fd);
}

static int file_find(const struct open_files *f, struct krg_slice path)
{
	/* areas of one file stand side by side */
	for (unsigned i = f->n; i > 0; i--)
		if (f->path[i - 1].len == path.len &&
		    memcmp(f->path[i - 1].data, path.data, path.len) == 0)
			return (int)i - 1;
	return -1;
}

static void file_add(struct open_files *f, struct krg_slice path)
{
	if (file_find(f, path) >= 0)
		return;
	f->path = krg_xrealloc(f->path, (f->n + 1) * sizeof(*f->path));
	f->fd = krg_xrealloc(f->fd, (f->n + 1) * sizeof(*f->fd));
	f->path[f->n] = path;
	f->fd[f->n++] = -EBADF;
}

static int files_open(struct ghost *g, const struct ghost_image *im, struct open_files *f,
		      struct ghost_list *l, struct krg_err *err)
{
	const struct ghost_call *failed;
	unsigned done = 0;

	file_add(f, im->head.exe);
	for (unsigned i = 0; i < im->nareas; i++)
		if (im->area[i].path.len > 0)
			file_add(f, im->area[i].path);
	while (done < f->n) {
		const struct ghost_call *c[GHOST_LIST_CALLS];
		unsigned n = 0;
		int r;

		while (done + n < f->n && !ghost_list_full(l, f->path[done + n].len + 1)) {
			void *text;
			u64 at = ghost_list_data(l, NULL, f->path[done + n].len + 1, &text);

			memcpy(text, f->path[done + n].data, f->path[done + n].len);
			c[n++] = ghost_list_add(l, SYS_openat, (u64)AT_FDCWD, at,
						O_RDONLY | O_CLOEXEC, 0, 0, 0);
		}
		r = ghost_list_run(g, &g->thread[0], l, &failed);
		if (r < 0 && failed != NULL && failed->nr == SYS_openat)
			return krg_err_set(
				err, r, "pid %d: open '%.*s' here", g->shown,
				(int)f->path[done + (unsigned)(failed - c[0])].len,
				(const char *)f->path[done + (unsigned)(failed - c[0])].data);
		if (r < 0)
			return fail_list(g, failed, r, "open its files", err);
		for (unsigned i = 0; i < n; i++)
			f->fd[done + i] = (int)c[i]->ret;
		done += n;
		ghost_list_fini(l);
		ghost_list_init(l, g);
	}
	return 0;
}

/* The file that stands under that name here must be the one that was mapped there. */
static int file_same(const struct ghost *g, const struct rec_ghost_area *a, int fd,
		     struct krg_err *err)
{
	char path[64];
	struct stat st;

	(void)snprintf(path, sizeof(path), "/proc/%d/fd/%d", g->pid, fd);
	if (stat(path, &st) < 0)
		return krg_err_set(err, -errno, "look at %s", path);
	if (!S_ISREG(st.st_mode) || st.st_ino != a->ino || (u64)st.st_size != a->size ||
	    (u64)st.st_mtim.tv_sec * 1000000000ull + (u64)st.st_mtim.tv_nsec != a->mtime_ns)
		return krg_err_set(err, -ESTALE, "pid %d: '%.*s' is another file here", g->shown,
				   (int)a->path.len, (const char *)a->path.data);
	return 0;
}

static int map_areas(struct ghost *g, const struct ghost_image *im, const struct open_files *f,
		     struct ghost_list *l, struct krg_err *err)
{
	for (unsigned i = 0; i < im->nareas; i++) {
		const struct rec_ghost_area *a = &im->area[i];
		u64 flags = MAP_FIXED_NOREPLACE |
			    (a->kind == GHOST_SHARED_FILE ? MAP_SHARED : MAP_PRIVATE);
		int fd = a->path.len > 0 ? f->fd[file_find(f, a->path)] : -1, r = 0;

		if (is_special(a->kind))
			continue;
		if (fd < 0)
			flags |= MAP_ANONYMOUS | MAP_NORESERVE |
				 (a->down ? MAP_GROWSDOWN | MAP_STACK : 0);
		else
			r = file_same(g, a, fd, err);
		if (r == 0 && ghost_list_full(l, 0))
			r = flush(g, &g->thread[0], l, "map its memory", err);
		if (r < 0)
			return r;
		ghost_list_add(l, SYS_mmap, a->start, a->end - a->start, a->prot, flags,
			       (u64)(i64)fd, fd < 0 ? 0 : a->offset);
	}
	return flush(g, &g->thread[0], l, "map its memory", err);
}

static int tell_mm(struct ghost *g, const struct ghost_image *im, const struct open_files *f,
		   struct ghost_list *l, struct krg_err *err)
{
	struct prctl_mm_map mm;

	memcpy(&mm, im->head.mm.data, sizeof(mm));
	mm.auxv =
		(void *)(uintptr_t)ghost_list_data(l, im->head.auxv.data, im->head.auxv.len, NULL);
	mm.auxv_size = (u32)im->head.auxv.len;
	mm.exe_fd = (u32)f->fd[0];
	ghost_list_add(l, SYS_prctl, PR_SET_MM, PR_SET_MM_MAP,
		       ghost_list_data(l, &mm, sizeof(mm), NULL), sizeof(mm), 0, 0);
	ghost_list_add(l, SYS_personality, im->head.personality, 0, 0, 0, 0, 0);
	for (unsigned i = 0; i < f->n; i++) {
		int r = ghost_list_full(l, 0)
				? flush(g, &g->thread[0], l, "its memory's limits", err)
				: 0;

		if (r < 0)
			return r;
		ghost_list_add(l, SYS_close, (u64)f->fd[i], 0, 0, 0, 0, 0);
	}
	return flush(g, &g->thread[0], l, "its memory's limits", err);
}

static int build(struct ghost *g, const struct ghost_image *im, struct krg_err *err)
{
	GHOST_AUTO_MAPS struct ghost_maps ours = {0}, theirs = {0};
	GHOST_AUTO_LIST struct ghost_list l = {0};
	__attribute__((cleanup(open_files_fini))) struct open_files f = {0};
	u64 size = 0, hole;
	int r = shell_stop(g, err);

	if (r == 0)
		r = ghost_maps_read(g->pid, g->shown, true, &ours, err);
	if (r == 0)
		r = ghost_find_insn(g, &ours, err);
	if (r == 0)
		r = special_check(g, im, &ours, &size, err);
	if (r < 0)
		return r;
	image_maps(im, &theirs);
	hole = ghost_maps_hole(&ours, &theirs, GHOST_SCRATCH + size);
	if (hole == 0)
		return krg_err_set(err, -ENOMEM, "pid %d: no room in its memory", g->shown);
	r = ghost_scratch_begin(g, hole, err);
	if (r < 0)
		return r;
	ghost_list_init(&l, g);
	r = files_open(g, im, &f, &l, err);
	if (r == 0)
		r = rseq_give_up(g, &l, err);
	if (r == 0)
		r = clear_out(g, im, &ours, hole + GHOST_SCRATCH, &l, err);
	if (r == 0)
		r = map_areas(g, im, &f, &l, err);
	if (r == 0)
		r = tell_mm(g, im, &f, &l, err);
	return r;
}

int ghost_build(pid_t shell, const struct ghost_image *image, struct ghost **ret,
		struct krg_err *err)
{
	struct ghost *g = ghost_new(shell, image->head.pid);
	int r;

	ghost_thread_add(g, shell);
	r = build(g, image, err);
	if (r < 0) {
		ghost_kill(g);
		return r;
	}
	*ret = g;
	return 0;
}

int ghost_page_put(struct ghost *g, u64 addr, const void *p, size_t n)
{
	/* as its tracer, also where the process itself may not write */
	ssize_t r = pwrite(g->mem, p, n, (off_t)addr);

	return r == (ssize_t)n ? 0 : r < 0 ? -errno : -EFAULT;
}

/* ---- threads ---- */

static int threads_make(struct ghost *g, const struct ghost_image *im, struct ghost_list *l,
			struct krg_err *err)
{
	u64 flags =
		CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM;
	long options = PTRACE_O_TRACESYSGOOD | PTRACE_O_SUSPEND_SECCOMP | PTRACE_O_EXITKILL |
		       PTRACE_O_TRACECLONE;
	int r = 0;

	if (im->nthreads == 1)
		return 0;
	if (ptrace(PTRACE_SETOPTIONS, g->thread[0].tid, 0, options) < 0)
		return krg_err_set(err, -errno, "trace the threads of pid %d", g->shown);
	for (unsigned i = 1; r == 0 && i < im->nthreads; i++) {
		i32 tid = im->thread[i].tid;
		struct clone_args a = {.flags = flags,
				       .set_tid = ghost_list_data(l, &tid, sizeof(tid), NULL),
				       .set_tid_size = 1};

		ghost_list_add(l, SYS_clone3, ghost_list_data(l, &a, sizeof(a), NULL), sizeof(a), 0,
			       0, 0, 0);
		if (ghost_list_full(l, sizeof(a) + 128))
			r = flush(g, &g->thread[0], l, "make its threads", err);
	}
	return r == 0 ? flush(g, &g->thread[0], l, "make its threads", err) : r;
}

/* The number by which a thread knows itself: the last of NSpid. */
static pid_t own_tid(pid_t pid, pid_t tid)
{
	char path[80], text[4096], *at, *last;

	(void)snprintf(path, sizeof(path), "/proc/%d/task/%d/status", pid, tid);
	if (krg_read_file(path, text, sizeof(text)) < 0)
		return -1;
	at = strstr(text, "\nNSpid:");
	if (at == NULL)
		return -1;
	at[strcspn(at + 1, "\n") + 1] = '\0';
	last = strrchr(at, '\t');
	return last == NULL ? -1 : (pid_t)strtol(last, NULL, 10);
}

/* Each new thread stops before it does anything.  In g they stand in the order of the image. */
static int threads_find(struct ghost *g, const struct ghost_image *im, struct krg_err *err)
{
	unsigned known = 1;
	char path[64];
	struct dirent *d;
	DIR *dir;

	for (unsigned i = 1; i < im->nthreads; i++)
		ghost_thread_add(g, 0);
	(void)snprintf(path, sizeof(path), "/proc/%d/task", g->pid);
	dir = opendir(path);
	while (dir != NULL && (d = readdir(dir)) != NULL) {
		pid_t tid = (pid_t)strtol(d->d_name, NULL, 10), own;

		if (tid <= 0 || tid == g->pid)
			continue;
		own = own_tid(g->pid, tid);
		for (unsigned i = 1; i < im->nthreads; i++)
			if (im->thread[i].tid == own) {
				g->thread[i].tid = tid;
				known++;
			}
	}
	if (dir != NULL)
		(void)closedir(dir);
	if (known != im->nthreads)
		return krg_err_set(err, -ESRCH, "pid %d: %u of %u threads are there", g->shown,
				   known, im->nthreads);
	for (unsigned i = 1; i < im->nthreads; i++) {
		u64 mask = ~(1ull << (SIGTRAP - 1));
		int st;

		if (ghost_wait(g->thread[i].tid, &st) < 0 ||
		    ghost_thread_stopped(&g->thread[i]) < 0 ||
		    ptrace(PTRACE_SETSIGMASK, g->thread[i].tid, sizeof(mask), &mask) < 0)
			return krg_err_set(err, -ESRCH, "a thread of pid %d is gone", g->shown);
	}
	return 0;
}

/* Who it is.  Its shell is root, with all capabilities: what root alone may do comes first, and the
 * capabilities that it is to have at last (capabilities(7)). */
static int credentials(struct ghost *g, struct ghost_thread *to, const struct rec_ghost_creds *c,
		       struct ghost_list *l, struct krg_err *err)
{
	struct {
		u32 version;
		i32 pid;
	} head = {_LINUX_CAPABILITY_VERSION_3, 0};
	u64 all = g->caps, h = ghost_list_data(l, &head, sizeof(head), NULL);
	u32 full[6] = {(u32)all,	 (u32)all,	   (u32)c->cap_inh,
		       (u32)(all >> 32), (u32)(all >> 32), (u32)(c->cap_inh >> 32)};
	u32 last[6] = {(u32)c->cap_eff,		(u32)c->cap_prm,	 (u32)c->cap_inh,
		       (u32)(c->cap_eff >> 32), (u32)(c->cap_prm >> 32), (u32)(c->cap_inh >> 32)};

	ghost_list_add(l, SYS_setgroups, c->groups.len / 4,
		       ghost_list_data(l, c->groups.data, c->groups.len, NULL), 0, 0, 0, 0);
	ghost_list_add(l, SYS_prctl, PR_SET_KEEPCAPS, 1, 0, 0, 0, 0);
	ghost_list_add(l, SYS_setresgid, c->gid, c->egid, c->sgid, 0, 0, 0);
	ghost_list_add(l, SYS_setresuid, c->uid, c->euid, c->suid, 0, 0, 0);
	/* these two say what was before, never an error */
	ghost_list_add(l, SYS_setfsgid | GHOST_MAY_FAIL, c->fsgid, 0, 0, 0, 0, 0);
	ghost_list_add(l, SYS_setfsuid | GHOST_MAY_FAIL, c->fsuid, 0, 0, 0, 0, 0);
	ghost_list_add(l, SYS_capset, h, ghost_list_data(l, full, sizeof(full), NULL), 0, 0, 0, 0);
	for (unsigned i = 0; i <= CAP_LAST_CAP; i++)
		if ((c->cap_amb >> i & 1) != 0)
			ghost_list_add(l, SYS_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, i, 0, 0,
				       0);
	for (unsigned i = 0; i <= CAP_LAST_CAP; i++)
		if ((c->cap_bnd >> i & 1) == 0)
			ghost_list_add(l, SYS_prctl | GHOST_MAY_FAIL, PR_CAPBSET_DROP, i, 0, 0, 0,
				       0);
	ghost_list_add(l, SYS_prctl, PR_SET_SECUREBITS, c->securebits, 0, 0, 0, 0);
	ghost_list_add(l, SYS_capset, h, ghost_list_data(l, last, sizeof(last), NULL), 0, 0, 0, 0);
	if (c->no_new_privs != 0)
		ghost_list_add(l, SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0);
	return flush(g, to, l, "its credentials", err);
}

static void signal_add(const struct ghost_image *im, const struct rec_ghost_signal *s,
		       struct ghost_list *l)
{
	siginfo_t info;
	u64 at;

	memcpy(&info, s->info.data, sizeof(info));
	at = ghost_list_data(l, &info, sizeof(info), NULL);
	/* each by the one whom it is for: to itself a thread may send whatever the sender said */
	if (s->tid == 0)
		ghost_list_add(l, SYS_rt_sigqueueinfo, (u64)im->head.pid, (u64)info.si_signo, at, 0,
			       0, 0);
	else
		ghost_list_add(l, SYS_rt_tgsigqueueinfo, (u64)im->head.pid, (u64)s->tid,
			       (u64)info.si_signo, at, 0, 0);
}

static void itimers_add(const struct ghost_image *im, struct ghost_list *l)
{
	for (unsigned i = 0; i < 3; i++) {
		const struct rec_ghost_itimer *t = &im->itimer[i];
		struct itimerval v = {.it_value = {(time_t)(t->value_us / 1000000),
						   (suseconds_t)(t->value_us % 1000000)},
				      .it_interval = {(time_t)(t->interval_us / 1000000),
						      (suseconds_t)(t->interval_us % 1000000)}};

		if (t->value_us != 0)
			ghost_list_add(l, SYS_setitimer, i, ghost_list_data(l, &v, sizeof(v), NULL),
				       0, 0, 0, 0);
	}
}

void ghost_signals_put(const struct ghost_image *im, struct ghost_list *l)
{
	for (unsigned k = 0; k < im->nsignals; k++)
		if (im->signal[k].tid == 0 || im->signal[k].tid == im->head.pid)
			signal_add(im, &im->signal[k], l);
	itimers_add(im, l);
}

static int thread_state(struct ghost *g, const struct ghost_image *im, unsigned i,
			struct ghost_list *l, struct krg_err *err)
{
	const struct rec_ghost_thread *t = &im->thread[i];
	struct ghost_thread *to = &g->thread[i];
	stack_t alt = {.ss_sp = (void *)(uintptr_t)t->alt_sp,
		       .ss_size = t->alt_size,
		       .ss_flags = (int)(t->alt_flags & ~(u32)SS_ONSTACK)};
	void *name;
	u64 at;
	int r;

	ghost_list_add(l, SYS_set_tid_address, t->clear_tid, 0, 0, 0, 0, 0);
	if (t->robust != 0)
		ghost_list_add(l, SYS_set_robust_list, t->robust, t->robust_len, 0, 0, 0, 0);
	if (t->rseq != 0)
		ghost_list_add(l, SYS_rseq, t->rseq, t->rseq_size, 0, t->rseq_sig, 0, 0);
	ghost_list_add(l, SYS_sigaltstack, ghost_list_data(l, &alt, sizeof(alt), NULL), 0, 0, 0, 0,
		       0);
	at = ghost_list_data(l, NULL, t->name.len + 1, &name);
	memcpy(name, t->name.data, t->name.len);
	ghost_list_add(l, SYS_prctl, PR_SET_NAME, at, 0, 0, 0, 0);
	for (unsigned k = 0; k < im->nsignals; k++) {
		r = ghost_list_full(l, sizeof(siginfo_t))
			    ? flush(g, to, l, "its thread's state", err)
			    : 0;
		if (r < 0)
			return r;
		if (im->signal[k].tid == t->tid)
			signal_add(im, &im->signal[k], l);
	}
	r = flush(g, to, l, "its thread's state", err);
	if (r == 0)
		r = credentials(g, to, &im->creds[i], l, err);
	if (r < 0)
		return r;
	/* last: other credentials take it away */
	ghost_list_add(l, SYS_prctl, PR_SET_PDEATHSIG, t->death_signal, 0, 0, 0, 0);
	return flush(g, to, l, "its thread's state", err);
}

/* A call that was interrupted by our stop is made again.  What the kernel knew of its timeout is lost with
 * the thread there: it begins anew, but that sleeps that are told what is left (nanosleep(t, t)) do sleep that. */
static void regs_restart(struct user_regs_struct *r)
{
	if ((i64)r->rax != -ERESTART_RESTARTBLOCK || (i64)r->orig_rax < 0)
		return;
	if (r->orig_rax == SYS_restart_syscall) {
		r->rax = (u64) - (i64)EINTR;
		r->orig_rax = ~0ull;
	} else {
		r->rax = (u64) - (i64)ERESTARTNOHAND;
	}
}

/* The floating point state as this machine lays it out. */
static int xstate_set(struct ghost *g, const struct rec_ghost_thread *t, struct ghost_thread *to,
		      struct krg_err *err)
{
	u8 now[GHOST_XSTATE_MAX];
	struct iovec io = {now, sizeof(now)};
	u64 here, used;
	size_t n;

	if (ptrace(PTRACE_GETREGSET, to->tid, NT_X86_XSTATE, &io) < 0)
		return krg_err_set(err, -errno, "registers of pid %d", g->shown);
	n = KRG_MIN(io.iov_len, t->xstate.len);
	memcpy(&here, now + XSTATE_XCR0, sizeof(here));
	memcpy(&used, t->xstate.data + XSTATE_BV, sizeof(used));
	if ((used & ~here) != 0)
		return krg_err_set(err, -EOPNOTSUPP,
				   "pid %d uses registers that this machine has not (%#llx)",
				   g->shown, (unsigned long long)(used & ~here));
	memset(now, 0, io.iov_len);
	memcpy(now, t->xstate.data, n);
	memcpy(now + XSTATE_XCR0, &here, sizeof(here));
	if (ptrace(PTRACE_SETREGSET, to->tid, NT_X86_XSTATE, &io) < 0)
		return krg_err_set(err, -errno, "set the registers of pid %d", g->shown);
	return 0;
}

/* ---- the whole ---- */

static void dispositions(const struct ghost_image *im, struct ghost_list *l)
{
	for (int sig = 1; sig <= GHOST_NSIG; sig++) {
		struct {
			u64 handler, flags, restorer, mask;
		} sa = {0};

		if (sig == SIGKILL || sig == SIGSTOP)
			continue;
		/* SIGTRAP is ours until the end: ghost_scratch_end() */
		if ((im->head.ignored >> (sig - 1) & 1) != 0 && sig != SIGTRAP)
			sa.handler = (u64)(uintptr_t)SIG_IGN;
		for (unsigned i = 0; i < im->nactions; i++)
			if (im->action[i].sig == sig) {
				sa.handler = im->action[i].handler;
				sa.flags = im->action[i].flags;
				sa.restorer = im->action[i].restorer;
				sa.mask = im->action[i].mask;
			}
		ghost_list_add(l, SYS_rt_sigaction, (u64)sig,
			       ghost_list_data(l, &sa, sizeof(sa), NULL), 0, 8, 0, 0);
	}
}

static int process_state(struct ghost *g, const struct ghost_image *im, struct ghost_list *l,
			 struct krg_err *err)
{
	for (unsigned k = 0; k < im->nsignals; k++) {
		int r = ghost_list_full(l, sizeof(siginfo_t))
				? flush(g, &g->thread[0], l, "its signals", err)
				: 0;

		if (r < 0)
			return r;
		if (im->signal[k].tid == 0)
			signal_add(im, &im->signal[k], l);
	}
	ghost_list_add(l, SYS_prctl, PR_SET_CHILD_SUBREAPER, im->head.subreaper != 0, 0, 0, 0, 0);
	ghost_list_add(l, SYS_prctl, PR_SET_DUMPABLE, im->head.dumpable == 1, 0, 0, 0, 0);
	itimers_add(im, l);
	return flush(g, &g->thread[0], l, "its signals and timers", err);
}

int ghost_finish(struct ghost *g, const struct ghost_image *im, struct krg_err *err)
{
	GHOST_AUTO_LIST struct ghost_list l = {0};
	int r;

	ghost_list_init(&l, g);
	r = threads_make(g, im, &l, err);
	if (r == 0)
		r = threads_find(g, im, err);
	/* dispositions first: a signal that is pending and ignored would be dropped */
	if (r == 0) {
		dispositions(im, &l);
		r = flush(g, &g->thread[0], &l, "its dispositions", err);
	}
	for (unsigned i = 0; r == 0 && i < im->nthreads; i++)
		r = thread_state(g, im, i, &l, err);
	if (r == 0)
		r = process_state(g, im, &l, err);
	if (r < 0)
		return r;
	g->trap_ignored = (im->head.ignored >> (SIGTRAP - 1) & 1) != 0;
	r = ghost_scratch_end(g);
	if (r < 0)
		return krg_err_set(err, r, "pid %d: take the memory for its calls away", g->shown);
	for (unsigned i = 0; r == 0 && i < im->nthreads; i++) {
		r = xstate_set(g, &im->thread[i], &g->thread[i], err);
		memcpy(&g->thread[i].regs, im->thread[i].regs.data, sizeof(g->thread[i].regs));
		regs_restart(&g->thread[i].regs);
		g->thread[i].mask = im->thread[i].mask;
	}
	return r;
}
