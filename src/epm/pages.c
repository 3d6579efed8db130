/* pages.c - the pages of a process that has moved before them (post-copy): from one node to another.
 *
 * Two connections, made before the process stands still.  `bulk`: all pages, one after another.  `urgent`: those that it
 * misses there, asked for and answered, past what waits in bulk.
 *
 * At the source (struct pages_out): the thread that moves the process traces the child that holds its memory
 * (ghost_hold.c), and pushes; a second one answers.  Where the process runs (struct pages_in): one thread serves the userfaultfds
 * and takes answers, a second one takes what is pushed.  When all has come the source is told, and ends its child.  When a connection
 * ends before, the process there is killed.
 */
#include "epm_impl.h"
#include "ghost_lazy.h"
#include "page_set.h"
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#define OPEN_MS	   3000
#define BATCH	   64u		/* pages of a message */
#define AHEAD_MAX  256u		/* pages that one question asks for */
#define RUNS_MAX   4096u	/* of a LIST */
#define LISTED_MAX (1ull << 28) /* pages of a process: 1 TiB */
#define LOST_MS	   500 /* how often it is looked whether anybody is left to lose anything */
#define PAUSE_NS   20000
#define PAGE	   ((u64)GHOST_PAGE)

enum frame_type {
	PAGES_READY = 0x6b726701, /* to the source: both connections are there */
	PAGES_LIST,		  /* n runs follow: u64 address, u64 pages */
	PAGES_LISTED,		  /* these were all */
	PAGES_DATA,		  /* n pages from addr on follow */
	PAGES_ZERO,		  /* n pages from addr on are zero */
	PAGES_ALL,		  /* nothing else comes here but answers */
	PAGES_WANT,		  /* to the source: n pages from addr on, the first one now */
	PAGES_DONE,		  /* to the source: it is not needed any more */
};
struct frame {
	u32 type, n;
	u64 addr;
};

static bool frame_ok(const struct frame *f)
{
	switch (f->type) {
	case PAGES_LIST:
		return f->n <= RUNS_MAX;
	case PAGES_DATA:
		return f->n > 0 && f->n <= BATCH && f->addr % PAGE == 0;
	case PAGES_ZERO:
	case PAGES_WANT:
		return f->n > 0 && f->n <= AHEAD_MAX && f->addr % PAGE == 0;
	default:
		return f->type >= PAGES_READY && f->type <= PAGES_DONE;
	}
}

static int send_all(int fd, struct iovec *v, unsigned n)
{
	struct msghdr m = {.msg_iov = v, .msg_iovlen = n};

	while (m.msg_iovlen > 0) {
		ssize_t r = sendmsg(fd, &m, MSG_NOSIGNAL);

		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0)
			return -errno;
		while (m.msg_iovlen > 0 && (size_t)r >= m.msg_iov->iov_len) {
			r -= (ssize_t)m.msg_iov->iov_len;
			m.msg_iov++;
			m.msg_iovlen--;
		}
		if (m.msg_iovlen > 0) {
			m.msg_iov->iov_base = (u8 *)m.msg_iov->iov_base + r;
			m.msg_iov->iov_len -= (size_t)r;
		}
	}
	return 0;
}

static int frame_send(int fd, enum frame_type type, u64 addr, u32 n, const void *p, size_t size)
{
	struct frame f = {type, n, addr};
	struct iovec v[2] = {{&f, sizeof(f)}, {(void *)(uintptr_t)p, size}};

	return send_all(fd, v, size > 0 ? 2 : 1);
}

static int frame_recv(int fd, struct frame *ret)
{
	int r = krg_read_all(fd, ret, sizeof(*ret));

	return r < 0 ? r : frame_ok(ret) ? 0 : -EBADMSG;
}

static void socket_tune(int fd)
{
	int one = 1;

	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
}

static void recv_timeout(int fd, unsigned ms)
{
	struct timeval tv = {.tv_sec = ms / 1000, .tv_usec = (suseconds_t)(ms % 1000) * 1000};

	(void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
}

/* ---- the table ---- */

struct pages_out {
	struct pages_out *next; /* (o) pages_lock */
	struct epm *e;
	i32 pid;
	nodeid to;
	u64 exec_id;
	int urgent, bulk;
	struct ghost_memory *memory;
	i32 keeper;	       /* (o) pages_lock: the world's number of what holds it, 0: not yet */
	struct krg_mutex lock; /* class leaf: what has been sent, and the order on urgent */
	struct page_set sent;  /* (o) */
	bool pushed;	       /* (o) ALL has been said on urgent */
	atomic_uint asking;    /* questions under way: bulk lets them pass */
	_Atomic u64 cursor;    /* (a) where it was missed last; 0: nowhere */
	atomic_bool done;      /* it has all, or needs no more */
	pthread_t thread;
	bool thread_runs;
	struct ghost_run {
		u64 addr, npages;
	} * run; /* what there is */
	unsigned nruns;
	u64 asked, sent_pages, zero_pages; /* for the log */
};

struct pages_in {
	struct pages_in *next; /* (o) pages_lock */
	atomic_uint refs;
	struct epm *e;
	nodeid from;
	u64 exec_id;
	i32 pid;
	int urgent, bulk; /* (o) pages_lock until both are there, then (c) */
	int wake;	  /* eventfd: the memory is there, or it is to end */
	u32 keep_id;	  /* (c) of its first userfaultfd with the keeper */
	_Atomic(struct ghost_lazy *) lazy;
	int pidfd;		    /* (c) once lazy is there: of the process */
	u64 listed;		    /* pages, by who reads bulk */
	struct krg_mutex send_lock; /* class leaf: questions on urgent */
	atomic_uint all;	    /* (a) how many of the connections have said ALL */
	atomic_bool dropped;	    /* it is given up before it runs */
	atomic_bool closed;	    /* a connection has ended, or is to */
};

static void in_put(struct pages_in *in)
{
	if (atomic_fetch_sub(&in->refs, 1) != 1)
		return;
	ghost_lazy_free(atomic_load(&in->lazy));
	krg_closep(&in->urgent);
	krg_closep(&in->bulk);
	krg_closep(&in->wake);
	krg_closep(&in->pidfd);
	krg_mutex_fini(&in->send_lock);
	free(in);
}

static void threads_add(struct epm *e, int n)
{
	KRG_GUARD(leaf, &e->pages_lock);
	e->npages_threads += n;
	krg_cond_broadcast(&e->pages_cond);
}

/* On a thread of its own that epm_stop() waits for. */
int pages_thread(struct epm *e, void *(*main)(void *), void *ctx)
{
	pthread_attr_t attr;
	pthread_t t;
	int r;

	threads_add(e, 1);
	(void)pthread_attr_init(&attr);
	(void)pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	r = pthread_create(&t, &attr, main, ctx);
	(void)pthread_attr_destroy(&attr);
	if (r != 0)
		threads_add(e, -1);
	return -r;
}

void pages_thread_ends(struct epm *e)
{
	threads_add(e, -1);
}

/* ---- the source ---- */

/* Pages that nobody has sent, from addr on: marked, *ret_n of them, behind *ret_skip that were. */
static void take_unsent(struct pages_out *o, u64 addr, u64 npages, u64 *ret_skip, u64 *ret_n)
{
	bool sent;
	u64 n;

	*ret_skip = *ret_n = 0;
	n = page_set_run(&o->sent, addr, npages, &sent);
	if (sent) {
		*ret_skip = n;
		if (n == npages)
			return;
		n = page_set_run(&o->sent, addr + n * PAGE, npages - n, &sent);
	}
	*ret_n = n;
	page_set_add(&o->sent, addr + *ret_skip * PAGE, n);
}

/* npages, at most BATCH, of what is there: as messages. */
static int send_pages(struct pages_out *o, int fd, u64 addr, u64 npages, u8 *buf)
{
	int r = ghost_memory_read(o->memory, addr, buf, npages * PAGE);

	for (u64 i = 0, n; r == 0 && i < npages; i += n) {
		bool zero = ghost_page_is_zero(buf + i * PAGE);

		n = 1;
		while (i + n < npages && ghost_page_is_zero(buf + (i + n) * PAGE) == zero)
			n++;
		r = zero ? frame_send(fd, PAGES_ZERO, addr + i * PAGE, (u32)n, NULL, 0)
			 : frame_send(fd, PAGES_DATA, addr + i * PAGE, (u32)n, buf + i * PAGE,
				      n * PAGE);
		*(zero ? &o->zero_pages : &o->sent_pages) += n;
	}
	return r;
}

/* The first page at once, whatever has been sent; then those behind it that are there and have not been. */
static int answer_locked(struct pages_out *o, const struct frame *f, u8 *buf)
{
	u64 at = f->addr + PAGE, left = f->n - 1, skip, n;
	int r = 0;

	if (!ghost_memory_has(o->memory, f->addr)) {
		for (n = 1; n < f->n && !ghost_memory_has(o->memory, f->addr + n * PAGE);)
			n++;
		return frame_send(o->urgent, PAGES_ZERO, f->addr, (u32)n, NULL, 0);
	}
	page_set_add(&o->sent, f->addr, 1);
	r = send_pages(o, o->urgent, f->addr, 1, buf);
	while (r == 0 && left > 0 && ghost_memory_has(o->memory, at)) {
		for (n = 1;
		     n < KRG_MIN(left, (u64)BATCH) && ghost_memory_has(o->memory, at + n * PAGE);)
			n++;
		take_unsent(o, at, n, &skip, &n);
		if (n > 0)
			r = send_pages(o, o->urgent, at + skip * PAGE, n, buf);
		at += (skip + n) * PAGE;
		left -= skip + n;
	}
	return r;
}

static void *answer_main(void *ctx)
{
	struct pages_out *o = ctx;
	KRG_AUTO_FREE u8 *buf = krg_xrealloc(NULL, BATCH * PAGE);
	struct frame f;

	while (frame_recv(o->urgent, &f) == 0) {
		int r;

		if (f.type == PAGES_DONE) {
			atomic_store(&o->done, true);
			break;
		}
		if (f.type != PAGES_WANT || FAULT_POINT(PAGES_ANSWER))
			break;
		atomic_fetch_add(&o->asking, 1);
		leaf_lock(&o->lock);
		r = answer_locked(o, &f, buf);
		o->asked++;
		leaf_unlock(&o->lock);
		atomic_store(&o->cursor, f.addr);
		atomic_fetch_sub(&o->asking, 1);
		if (r < 0)
			break;
	}
	/* whoever waits at the other connection sees that this is over */
	(void)shutdown(o->urgent, SHUT_RDWR);
	(void)shutdown(o->bulk, SHUT_RDWR);
	return NULL;
}

void pages_out_free(struct pages_out *o)
{
	if (o == NULL)
		return;
	leaf_lock(&o->e->pages_lock);
	for (struct pages_out **at = &o->e->pages_out; *at != NULL; at = &(*at)->next) {
		if (*at == o) {
			*at = o->next;
			break;
		}
	}
	leaf_unlock(&o->e->pages_lock);
	if (o->urgent >= 0)
		(void)shutdown(o->urgent, SHUT_RDWR);
	if (o->thread_runs)
		(void)pthread_join(o->thread, NULL);
	krg_closep(&o->urgent);
	krg_closep(&o->bulk);
	ghost_memory_close(o->memory);
	page_set_fini(&o->sent);
	krg_mutex_fini(&o->lock);
	free(o->run);
	free(o);
}

static int connect_both(struct pages_out *o, struct krg_err *err)
{
	struct frame f;
	int r = FAULT_POINT(PAGES_CONNECT)
			? krg_err_set(err, -EIO, "connect")
			: comm_raw_connect(o->e->comm, o->to, EPM_OP_PAGES_URGENT, o->exec_id,
					   &o->urgent, err);

	if (r == 0)
		r = comm_raw_connect(o->e->comm, o->to, EPM_OP_PAGES_BULK, o->exec_id, &o->bulk,
				     err);
	if (r < 0)
		return r;
	socket_tune(o->urgent);
	recv_timeout(o->urgent, OPEN_MS);
	r = frame_recv(o->urgent, &f);
	recv_timeout(o->urgent, 0);
	if (r < 0 || f.type != PAGES_READY)
		return krg_err_set(err, r < 0 ? r : -EPROTO, "node %u cannot take pages later",
				   o->to);
	return 0;
}

/* [net] */
int pages_out_open(struct epm *e, i32 pid, nodeid to, u64 exec_id, struct pages_out **ret,
		   struct krg_err *err)
{
	struct pages_out *o = krg_xalloc(sizeof(*o));
	int r;

	krg_assert_no_locks();
	o->e = e;
	o->pid = pid;
	o->to = to;
	o->exec_id = exec_id;
	o->urgent = o->bulk = -EBADF;
	krg_mutex_init(&o->lock);
	r = connect_both(o, err);
	if (r < 0) {
		pages_out_free(o);
		return r;
	}
	leaf_lock(&e->pages_lock);
	o->next = e->pages_out;
	e->pages_out = o;
	leaf_unlock(&e->pages_lock);
	*ret = o;
	return 0;
}

int pages_out_begin(struct pages_out *o, struct ghost *g, struct krg_err *err)
{
	int r = ghost_memory_open(g, &o->memory, err);

	if (r == 0 && pthread_create(&o->thread, NULL, answer_main, o) != 0)
		r = krg_err_set(err, -EAGAIN, "a thread for the pages of pid %d", o->pid);
	if (r == 0)
		o->thread_runs = true;
	return r;
}

void pages_out_early(struct pages_out *o, u64 addr, u64 npages)
{
	KRG_GUARD(leaf, &o->lock);
	page_set_add(&o->sent, addr, npages);
}

static int run_add(void *ctx, u64 addr, u64 npages)
{
	struct pages_out *o = ctx;

	if ((o->nruns & (o->nruns - 1)) == 0)
		o->run = krg_xrealloc(o->run, KRG_MAX(2 * o->nruns, 1u) * sizeof(*o->run));
	o->run[o->nruns++] = (struct ghost_run){addr, npages};
	return 0;
}

static int send_list(struct pages_out *o)
{
	int r = 0;

	for (unsigned i = 0; r == 0 && i < o->nruns; i += RUNS_MAX) {
		unsigned n = KRG_MIN(o->nruns - i, RUNS_MAX);

		r = frame_send(o->bulk, PAGES_LIST, 0, n, o->run + i, n * sizeof(*o->run));
	}
	return r == 0 ? frame_send(o->bulk, PAGES_LISTED, 0, 0, NULL, 0) : r;
}

static int push_run(struct pages_out *o, u64 addr, u64 npages, u8 *buf)
{
	struct timespec pause = {.tv_nsec = PAUSE_NS};

	while (npages > 0) {
		u64 skip, n;
		int r;

		/* who waits for a page needs the processor and the wire more */
		for (unsigned i = 0; i < 10 && atomic_load(&o->asking) > 0; i++)
			(void)nanosleep(&pause, NULL);
		leaf_lock(&o->lock);
		take_unsent(o, addr, KRG_MIN(npages, (u64)BATCH), &skip, &n);
		leaf_unlock(&o->lock);
		r = n > 0 ? send_pages(o, o->bulk, addr + skip * PAGE, n, buf) : 0;
		if (r < 0)
			return r;
		addr += (skip + n) * PAGE;
		npages -= skip + n;
	}
	return 0;
}

static int push(struct pages_out *o, struct krg_err *err)
{
	KRG_AUTO_FREE u8 *buf = krg_xrealloc(NULL, BATCH * PAGE);
	int r = ghost_memory_runs(o->memory, run_add, o, err);

	if (r == 0)
		r = send_list(o);
	for (unsigned i = 0; r == 0 && i < o->nruns; i++)
		r = FAULT_POINT(PAGES_PUSH) ? -EIO
					    : push_run(o, o->run[i].addr, o->run[i].npages, buf);
	if (r == 0)
		r = frame_send(o->bulk, PAGES_ALL, 0, 0, NULL, 0);
	if (r == 0) {
		leaf_lock(&o->lock);
		r = frame_send(o->urgent, PAGES_ALL, 0, 0, NULL, 0);
		leaf_unlock(&o->lock);
	}
	return r;
}

/* The process runs there; this thread traces what holds its memory, and ends it. */
int pages_out_serve(struct pages_out *o, struct ghost *keeper)
{
	u64 begin = krg_clock_now_ns();
	struct krg_err err = {0};
	int r;

	leaf_lock(&o->e->pages_lock);
	o->keeper = ghost_shown(keeper);
	leaf_unlock(&o->e->pages_lock);
	r = push(o, &err);
	if (r < 0)
		(void)shutdown(o->urgent, SHUT_RDWR);
	(void)pthread_join(o->thread, NULL);
	o->thread_runs = false;
	ghost_kill(keeper);
	/* nobody is left to miss anything: as good as all */
	r = atomic_load(&o->done) ? 0 : r < 0 ? r : -EPIPE;
	if (r < 0)
		LOG_W("epm", "pid %d: its pages have not all gone to node %u: %s", o->pid, o->to,
		      err.code < 0 ? err.text : strerror(-r));
	else
		LOG_D("epm",
		      "pid %d: %llu pages have gone to node %u, %llu zero, in %llu us; %llu times "
		      "asked for",
		      o->pid, (unsigned long long)o->sent_pages, o->to,
		      (unsigned long long)o->zero_pages,
		      (unsigned long long)(krg_clock_now_ns() - begin) / 1000,
		      (unsigned long long)o->asked);
	return r;
}

bool pages_is_keeper(struct epm *e, i32 pid)
{
	KRG_GUARD(leaf, &e->pages_lock);
	for (const struct pages_out *o = e->pages_out; o != NULL; o = o->next)
		if (o->keeper == pid)
			return true;
	return false;
}

/* ---- where the process runs ---- */

static void in_end(struct pages_in *in)
{
	u64 one = 1;

	atomic_store(&in->closed, true);
	leaf_lock(&in->e->pages_lock);
	if (in->urgent >= 0)
		(void)shutdown(in->urgent, SHUT_RDWR);
	if (in->bulk >= 0)
		(void)shutdown(in->bulk, SHUT_RDWR);
	leaf_unlock(&in->e->pages_lock);
	(void)!write(in->wake, &one, sizeof(one));
}

static void want(void *ctx, u64 addr, unsigned npages)
{
	struct pages_in *in = ctx;

	KRG_GUARD(leaf, &in->send_lock);
	/* if it does not go, the connection has ended: that is seen by who reads from it */
	(void)frame_send(in->urgent, PAGES_WANT, addr, KRG_MIN(npages, AHEAD_MAX), NULL, 0);
}

static void opened(void *ctx, unsigned id, int uffd)
{
	const struct pages_in *in = ctx;

	keep_pages(in->e, in->keep_id + id, uffd);
}

static void closed(void *ctx, unsigned id)
{
	const struct pages_in *in = ctx;

	keep_drop(in->e, KEEP_PAGES, (i32)(in->keep_id + id));
}

/* In that task's smaps: the area with addr waits for pages. */
static bool area_waits(int proc, pid_t tid, u64 addr)
{
	KRG_AUTO_FREE char *line = NULL;
	KRG_AUTO_FILE FILE *f = NULL;
	char name[32];
	size_t room = 0;
	bool here = false, waits = false;
	int fd;

	(void)snprintf(name, sizeof(name), "%d/smaps", tid);
	fd = openat(proc, name, O_RDONLY | O_CLOEXEC);
	f = fd < 0 ? NULL : fdopen(fd, "r");
	while (f != NULL && !waits && getline(&line, &room, f) >= 0) {
		unsigned long long from, to;

		if (sscanf(line, "%llx-%llx ", &from, &to) == 2)
			here = addr >= from && addr < to;
		else if (here && strncmp(line, "VmFlags:", 8) == 0)
			waits = strstr(line, " um") != NULL;
	}
	return waits;
}

/* A thread waits for a page that will not come.  (Its number is the world's; a thread of ours that reads the process's memory would be
 * named by ours, and is let go when the process has ended.) */
static void stuck(void *ctx, pid_t tid, u64 addr)
{
	const struct pages_in *in = ctx;
	KRG_AUTO_FD int dir = -EBADF;
	char name[48], status[8192];
	const char *at;

	if (!area_waits(in->e->world_proc, tid, addr))
		return;
	(void)snprintf(name, sizeof(name), "%d/status", tid);
	dir = openat(in->e->world_proc, name, O_RDONLY | O_CLOEXEC);
	if (dir < 0)
		return;
	{
		ssize_t n = read(dir, status, sizeof(status) - 1);

		status[n < 0 ? 0 : n] = '\0';
	}
	at = strstr(status, "\nTgid:");
	krg_closep(&dir);
	dir = -EBADF;
	if (at == NULL)
		return;
	(void)snprintf(name, sizeof(name), "%d", (int)strtol(at + 6, NULL, 10));
	dir = openat(in->e->world_proc, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	LOG_W("epm", "pid %s misses memory that is lost with node %u: it is killed", name,
	      in->from);
	(void)syscall(SYS_pidfd_send_signal, dir, SIGKILL, NULL, 0);
}

static const struct ghost_lazy_ops lazy_ops = {want, opened, closed, stuck};

static int runs_listed(struct pages_in *in, struct ghost_lazy *l, int fd, u32 n)
{
	KRG_AUTO_FREE struct ghost_run *run = krg_xrealloc(NULL, (n + 1) * sizeof(*run));
	int r = krg_read_all(fd, run, n * sizeof(*run));

	for (u32 i = 0; r == 0 && i < n; i++) {
		if (run[i].addr % PAGE != 0 || run[i].npages > LISTED_MAX - in->listed)
			return -EBADMSG;
		in->listed += run[i].npages;
		ghost_lazy_listed(l, run[i].addr, run[i].npages);
	}
	return r;
}

/* A message from the source.  1: that was all on this connection. */
static int take(struct pages_in *in, struct ghost_lazy *l, int fd, u8 *buf)
{
	struct frame f;
	int r = frame_recv(fd, &f);

	if (r < 0)
		return r;
	if (FAULT_POINT(PAGES_TAKE))
		return -EIO;
	switch (f.type) {
	case PAGES_LIST:
		return fd == in->bulk ? runs_listed(in, l, fd, f.n) : -EBADMSG;
	case PAGES_LISTED:
		ghost_lazy_list_end(l);
		return 0;
	case PAGES_DATA:
		r = krg_read_all(fd, buf, f.n * PAGE);
		return r < 0 ? r : ghost_lazy_put(l, f.addr, buf, f.n);
	case PAGES_ZERO:
		return ghost_lazy_zero(l, f.addr, f.n);
	case PAGES_ALL:
		return 1;
	default:
		return -EBADMSG;
	}
}

static void wake(struct pages_in *in)
{
	u64 one = 1;

	(void)!write(in->wake, &one, sizeof(one));
}

static void *bulk_main(void *ctx)
{
	struct pages_in *in = ctx;
	struct epm *e = in->e;
	KRG_AUTO_FREE u8 *buf = krg_xrealloc(NULL, BATCH * PAGE);
	struct pollfd p = {.fd = in->bulk, .events = POLLIN};
	int r = 0;

	/* nothing comes before the process runs, which has its memory then */
	while (poll(&p, 1, -1) < 0 && errno == EINTR)
		;
	while (r == 0) {
		struct ghost_lazy *l = atomic_load(&in->lazy);

		r = l == NULL ? -EPIPE : take(in, l, in->bulk, buf);
	}
	if (r == 1 || r == -ESRCH)
		atomic_fetch_add(&in->all, r == 1 ? 1 : 2);
	else
		in_end(in);
	wake(in);
	in_put(in);
	pages_thread_ends(e);
	return NULL;
}

/* The source is gone.  Who misses a page from now on is killed; first of all the process, without a question. */
static void lost(struct pages_in *in, struct ghost_lazy *l)
{
	struct pollfd p = {.fd = ghost_lazy_fd(l), .events = POLLIN};

	if (in->pid != 0)
		LOG_W("epm",
		      "pid %d: node %u is gone before all of its memory had come: it is killed",
		      in->pid, in->from);
	if (in->pidfd >= 0)
		(void)syscall(SYS_pidfd_send_signal, in->pidfd, SIGKILL, NULL, 0);
	ghost_lazy_lost(l);
	while (ghost_lazy_left(l) > 0 && !atomic_load(&in->e->stopping)) {
		(void)poll(&p, 1, LOST_MS);
		ghost_lazy_serve(l);
	}
}

/* Until all is there (0), or nothing comes any more. */
static int serve(struct pages_in *in)
{
	KRG_AUTO_FREE u8 *buf = krg_xrealloc(NULL, BATCH * PAGE);
	struct ghost_lazy *l = NULL;

	for (;;) {
		struct pollfd p[3] = {{.fd = in->urgent, .events = POLLIN},
				      {.fd = in->wake, .events = POLLIN},
				      {.fd = -1, .events = POLLIN}};
		u64 count;
		int r = 0;

		if (l == NULL)
			l = atomic_load(&in->lazy);
		if (l != NULL)
			p[2].fd = ghost_lazy_fd(l);
		if (poll(p, 3, -1) < 0)
			continue;
		if (p[1].revents != 0)
			(void)!read(in->wake, &count, sizeof(count));
		if (p[2].revents != 0)
			ghost_lazy_serve(l);
		if (p[0].revents != 0)
			r = l == NULL ? -EPIPE : take(in, l, in->urgent, buf);
		if (r == 1)
			atomic_fetch_add(&in->all, 1);
		if (r == -ESRCH || atomic_load(&in->all) >= 2)
			return 0;
		if (r < 0 || atomic_load(&in->closed))
			return r < 0 ? r : -EPIPE;
	}
}

static void in_forget(struct pages_in *in)
{
	bool found = false;

	leaf_lock(&in->e->pages_lock);
	for (struct pages_in **at = &in->e->pages_in; *at != NULL; at = &(*at)->next) {
		if (*at == in) {
			*at = in->next;
			found = true;
			break;
		}
	}
	leaf_unlock(&in->e->pages_lock);
	if (found)
		in_put(in);
}

static void *urgent_main(void *ctx)
{
	struct pages_in *in = ctx;
	struct epm *e = in->e;
	struct ghost_lazy *l;
	int r = frame_send(in->urgent, PAGES_READY, 0, 0, NULL, 0);

	if (r == 0)
		r = serve(in);
	l = atomic_load(&in->lazy);
	if (r == 0) {
		struct ghost_lazy_stat s;

		ghost_lazy_stat(l, &s);
		LOG_D("epm",
		      "pid %d has all its memory: %llu faults, %llu asked for, %llu zero, %llu "
		      "pages, %llu forks",
		      in->pid, (unsigned long long)s.faults, (unsigned long long)s.wanted,
		      (unsigned long long)s.zeroed, (unsigned long long)s.copied,
		      (unsigned long long)s.forks);
		(void)frame_send(in->urgent, PAGES_DONE, 0, 0, NULL, 0);
	}
	in_end(in);
	if (r < 0 && l != NULL && !atomic_load(&in->dropped))
		lost(in, l);
	in_forget(in);
	in_put(in);
	pages_thread_ends(e);
	return NULL;
}

static struct pages_in *in_find_or_new(struct epm *e, nodeid from, u64 exec_id)
{
	struct pages_in *in;

	for (in = e->pages_in; in != NULL; in = in->next)
		if (in->from == from && in->exec_id == exec_id)
			return in;
	in = krg_xalloc(sizeof(*in));
	atomic_store(&in->refs, 1);
	in->e = e;
	in->from = from;
	in->exec_id = exec_id;
	in->urgent = in->bulk = in->pidfd = -EBADF;
	in->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	in->keep_id = e->pages_keep_id;
	e->pages_keep_id += 1u << 16; /* children that it forks meanwhile */
	krg_mutex_init(&in->send_lock);
	in->next = e->pages_in;
	e->pages_in = in;
	return in;
}

static void connected(struct epm *e, nodeid from, u64 tag, int fd, bool bulk)
{
	struct pages_in *in;
	bool both;
	int *at;

	if (!ghost_lazy_possible() || atomic_load(&e->stopping)) {
		(void)close(fd);
		return;
	}
	socket_tune(fd);
	leaf_lock(&e->pages_lock);
	in = in_find_or_new(e, from, tag);
	at = bulk ? &in->bulk : &in->urgent;
	if (*at >= 0) {
		(void)close(fd);
		both = false;
	} else {
		*at = fd;
		both = in->bulk >= 0 && in->urgent >= 0;
		if (both)
			atomic_fetch_add(&in->refs, 2);
	}
	leaf_unlock(&e->pages_lock);
	if (!both)
		return;
	if (pages_thread(e, bulk_main, in) < 0) {
		in_end(in);
		in_put(in);
	}
	if (pages_thread(e, urgent_main, in) < 0) {
		in_end(in);
		in_forget(in);
		in_put(in);
	}
}

static void on_urgent(void *ctx, nodeid from, u64 tag, int fd)
{
	connected(ctx, from, tag, fd, false);
}

static void on_bulk(void *ctx, nodeid from, u64 tag, int fd)
{
	connected(ctx, from, tag, fd, true);
}

int pages_in_begin(struct epm *e, struct task *body, nodeid from, struct ghost *shell,
		   const struct ghost_image *image, struct pages_in **ret, struct krg_err *err)
{
	struct ghost_lazy *l;
	struct pages_in *in;
	int r;

	leaf_lock(&e->pages_lock);
	for (in = e->pages_in; in != NULL; in = in->next)
		if (in->from == from && in->exec_id == body->exec_id && in->bulk >= 0 &&
		    in->urgent >= 0)
			break;
	if (in != NULL) {
		atomic_fetch_add(&in->refs, 1);
		in->pid = body->pid;
	}
	leaf_unlock(&e->pages_lock);
	if (in == NULL)
		return -ENOENT;
	in->pidfd = fcntl(body->pidfd, F_DUPFD_CLOEXEC, 0);
	r = FAULT_POINT(PAGES_IN) ? krg_err_set(err, -EIO, "userfaultfd")
				  : ghost_lazy_new(shell, image, &lazy_ops, in, &l, err);
	if (r < 0) {
		in_put(in);
		return r;
	}
	atomic_store(&in->lazy, l);
	wake(in);
	*ret = in;
	return 0;
}

void pages_in_early(struct pages_in *in, u64 addr, u64 npages)
{
	ghost_lazy_early(atomic_load(&in->lazy), addr, npages);
}

int pages_in_arm(struct pages_in *in, struct krg_err *err)
{
	return FAULT_POINT(PAGES_ARM) ? krg_err_set(err, -EIO, "userfaultfd")
				      : ghost_lazy_arm(atomic_load(&in->lazy), err);
}

static bool in_of_locked(struct epm *e, i32 pid)
{
	for (const struct pages_in *in = e->pages_in; in != NULL; in = in->next)
		if (in->pid == pid)
			return true;
	return false;
}

bool pages_in_await(struct epm *e, i32 pid, u64 deadline_ns)
{
	bool left;

	KRG_GUARD(leaf, &e->pages_lock);
	while ((left = in_of_locked(e, pid)) && krg_clock_now_ns() < deadline_ns)
		(void)krg_cond_wait_until(&e->pages_cond, &e->pages_lock, deadline_ns);
	return !left;
}

void pages_in_end(struct pages_in *in, bool runs)
{
	if (in == NULL)
		return;
	if (!runs) {
		atomic_store(&in->dropped, true);
		in_end(in);
	}
	in_put(in);
}

/* ---- the whole ---- */

/* What another krgd served: nobody knows any more what had come.  Its body has been ended; who else shares or
 * inherited that memory is, once it misses something. */
static void *adopted_main(void *ctx)
{
	struct pages_in *in = ctx;
	struct epm *e = in->e;

	lost(in, atomic_load(&in->lazy));
	in_forget(in);
	in_put(in);
	pages_thread_ends(e);
	return NULL;
}

void pages_adopt(struct epm *e, int uffd)
{
	struct pages_in *in;

	leaf_lock(&e->pages_lock);
	in = in_find_or_new(e, KRG_NODE_NONE, ++e->pages_adopted);
	atomic_fetch_add(&in->refs, 1);
	leaf_unlock(&e->pages_lock);
	atomic_store(&in->lazy, ghost_lazy_adopt(uffd, &lazy_ops, in));
	if (pages_thread(e, adopted_main, in) < 0) {
		in_forget(in);
		in_put(in);
	}
}

static void shut(int fd)
{
	if (fd >= 0)
		(void)shutdown(fd, SHUT_RDWR);
}

/* Connections with a node, or with all: those that read from them see that it is over. */
static void shut_all(struct epm *e, nodeid node)
{
	KRG_GUARD(leaf, &e->pages_lock);
	for (struct pages_out *o = e->pages_out; o != NULL; o = o->next) {
		if (node != KRG_NODE_NONE && o->to != node)
			continue;
		shut(o->urgent);
		shut(o->bulk);
	}
	for (struct pages_in *in = e->pages_in; in != NULL; in = in->next) {
		if (node != KRG_NODE_NONE && in->from != node)
			continue;
		atomic_store(&in->closed, true);
		shut(in->urgent);
		shut(in->bulk);
		wake(in);
	}
}

void pages_on_node_down(struct epm *e, nodeid node)
{
	shut_all(e, node);
}

void pages_register(struct epm *e)
{
	comm_raw_register(e->comm, EPM_OP_PAGES_URGENT, on_urgent, e);
	comm_raw_register(e->comm, EPM_OP_PAGES_BULK, on_bulk, e);
}

void pages_init(struct epm *e)
{
	krg_mutex_init(&e->pages_lock);
	krg_cond_init(&e->pages_cond);
	e->pages_keep_id = (u32)(krg_clock_now_ns() >> 10) & 0xffff0000u;
}

void pages_stop(struct epm *e)
{
	shut_all(e, KRG_NODE_NONE);
}

/* Calls of theirs have ended with comm. */
void pages_fini(struct epm *e)
{
	KRG_GUARD(leaf, &e->pages_lock);
	while (e->npages_threads > 0)
		krg_cond_wait(&e->pages_cond, &e->pages_lock);
}
