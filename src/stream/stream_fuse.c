/* stream_fuse.c - the FUSE file system of stand-ins: mounting, its threads, requests under way.
 *
 * We speak the kernel's protocol (fuse(4), linux/fuse.h) ourselves: libfuse 3.14 cannot open a file
 * as a stream (FOPEN_STREAM), without which a read that waits holds the offset's lock against
 * all writers of a tty.  The mount is a detached one (fsmount(2)): no other process sees it, and it ends with krgd.
 */
#include "stream_impl.h"
#include "log.h"
#include <fcntl.h>
#include <linux/fuse.h>
#include <linux/mount.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/vfs.h>

#define FUSE_BUF_SIZE (STREAM_IO_MAX + (64u << 10))

/* ---- answers ---- */

/* What a program may see.  Errors of the calls between nodes are an I/O error to it; and ENOSYS
 * would make the kernel never ask again. */
static int for_program(int error)
{
	switch (error) {
	case -EHOSTDOWN:
	case -ECANCELED:
	case -ESTALE:
	case -ENOSYS:
	case -EBADMSG:
	case -EBADF:
	case -ENOBUFS:
		return -EIO;
	default:
		return error > 0 || error <= -512 ? -EIO : error;
	}
}

int fuse_reply2(struct stream *s, u64 unique, const void *p, size_t n, const void *q, size_t m)
{
	struct fuse_out_header h = {.len = (u32)(sizeof(h) + n + m), .unique = unique};
	struct iovec iov[3] = {
		{.iov_base = &h, .iov_len = sizeof(h)},
		{.iov_base = (void *)(uintptr_t)p, .iov_len = n},
		{.iov_base = (void *)(uintptr_t)q, .iov_len = m},
	};

	return writev(s->fuse.fd, iov, 3) < 0 ? -errno : 0;
}

int fuse_reply(struct stream *s, u64 unique, int error, const void *p, size_t n)
{
	struct fuse_out_header h = {
		.len = sizeof(h),
		.unique = unique,
		.error = error < 0 ? for_program(error) : 0,
	};

	if (error >= 0)
		return fuse_reply2(s, unique, p, n, NULL, 0);
	return write(s->fuse.fd, &h, sizeof(h)) < 0 ? -errno : 0;
}

void fuse_notify_poll(struct stream *s, u64 kh)
{
	struct {
		struct fuse_out_header h;
		struct fuse_notify_poll_wakeup_out out;
	} m = {
		.h = {.len = sizeof(m), .error = FUSE_NOTIFY_POLL},
		.out = {.kh = kh},
	};

	/* ENOENT: nobody polls any more. */
	if (s->fuse.fd >= 0 && write(s->fuse.fd, &m, sizeof(m)) < 0 && errno != ENOENT)
		LOG_D("stream", "poll notification: %s", strerror(errno));
}

/* ---- requests that wait for an origin ---- */

struct fuse_op *fuse_op_begin(struct stream *s, struct import *imp, u64 unique, u32 pid, u32 opcode)
{
	struct fuse_op *op = krg_xalloc(sizeof(*op));
	struct fuse_op **at = &s->fuse.ops[stream_mix(unique) % STREAM_HASH];

	op->s = s;
	op->imp = imp;
	op->unique = unique;
	op->pid = pid;
	op->opcode = opcode;
	KRG_GUARD(leaf, &s->fuse.ops_lock);
	op->next = *at;
	*at = op;
	s->fuse.op_nr++;
	return op;
}

static struct fuse_op **find_locked(struct stream *s, u64 unique)
{
	struct fuse_op **at = &s->fuse.ops[stream_mix(unique) % STREAM_HASH];

	while (*at != NULL && (*at)->unique != unique)
		at = &(*at)->next;
	return at;
}

void fuse_op_end(struct fuse_op *op)
{
	struct stream *s = op->s;
	struct fuse_op **at;

	leaf_lock(&s->fuse.ops_lock);
	at = find_locked(s, op->unique);
	ASSERT(*at == op);
	*at = op->next;
	leaf_unlock(&s->fuse.ops_lock);
	import_put(op->imp);
	krg_buf_fini(&op->args);
	free(op);
	/* Last: fuse_stop() waits for this. */
	leaf_lock(&s->fuse.ops_lock);
	if (--s->fuse.op_nr == 0)
		krg_cond_broadcast(&s->fuse.ops_cond);
	leaf_unlock(&s->fuse.ops_lock);
}

void fuse_op_called(struct stream *s, u64 unique, u64 call)
{
	KRG_GUARD(leaf, &s->fuse.ops_lock);
	struct fuse_op *op = *find_locked(s, unique);

	if (op != NULL) /* else it was answered already */
		op->call = call;
}

int fuse_op_interrupt(struct stream *s, u64 unique, nodeid *ret_origin, u64 *ret_handle,
		      struct fuse_op **ret_parked)
{
	KRG_GUARD(leaf, &s->fuse.ops_lock);
	struct fuse_op *op = *find_locked(s, unique);

	if (op == NULL)
		return -EAGAIN;
	*ret_origin = op->imp->ref.origin;
	*ret_handle = op->imp->ref.id;
	/* a CANCEL must not come before what it cancels */
	bool waits_there = op->opcode == FUSE_READ || op->opcode == FUSE_SETLKW;

	if (waits_there && !op->parked && op->call == 0)
		return -EAGAIN;
	op->interrupted = true;
	if (!op->parked)
		return waits_there ? 0 : 2;
	op->parked = false;
	*ret_parked = op;
	return 1;
}

bool fuse_op_park(struct fuse_op *op)
{
	KRG_GUARD(leaf, &op->s->fuse.ops_lock);

	op->parked = !op->interrupted && !op->s->fuse.stopping;
	return op->parked;
}

struct fuse_op *fuse_op_unpark(struct stream *s, u64 unique, nodeid origin)
{
	KRG_GUARD(leaf, &s->fuse.ops_lock);

	for (u32 i = 0; i < STREAM_HASH; i++)
		for (struct fuse_op *op =
			     s->fuse.ops[unique != 0 ? stream_mix(unique) % STREAM_HASH : i];
		     op != NULL; op = op->next) {
			if (unique != 0 && op->unique != unique)
				continue;
			if (op->parked &&
			    (origin == KRG_NODE_NONE || op->imp->ref.origin == origin)) {
				op->parked = false;
				return op;
			}
			if (unique != 0)
				return NULL;
		}
	return NULL;
}

/* ---- threads ---- */

/* The kernel keeps requests in their order; so what was asked before a barrier has been read when that is, but may be
 * in another thread's hands still. */
void fuse_barrier_begin(struct stream *s, u64 unique)
{
	struct fuse_state *f = &s->fuse;
	struct fuse_barrier *b = krg_xalloc(sizeof(*b));

	KRG_GUARD(leaf, &f->ops_lock);
	b->unique = unique;
	b->next = f->barriers;
	f->barriers = b;
	f->barrier_nr++; /* before the turns are read: whoever is not seen at the end of its own sees this */
	for (unsigned i = 0; i < STREAM_FUSE_THREADS; i++)
		b->turn[i] = f->threads[i].turn;
}

static struct fuse_barrier *barrier_take(struct fuse_state *f, bool all)
{
	KRG_GUARD(leaf, &f->ops_lock);

	for (struct fuse_barrier **at = &f->barriers; *at != NULL; at = &(*at)->next) {
		struct fuse_barrier *b = *at;
		bool over = true;

		for (unsigned i = 0; i < STREAM_FUSE_THREADS; i++)
			if ((b->turn[i] & 1) != 0 && b->turn[i] == f->threads[i].turn)
				over = all;
		if (!over)
			continue;
		*at = b->next;
		f->barrier_nr--;
		return b;
	}
	return NULL;
}

static void barriers_end(struct stream *s, bool all)
{
	const struct fuse_statfs_out out = {.st = {.bsize = 4096, .frsize = 4096, .namelen = 255}};
	struct fuse_barrier *b;

	while ((b = barrier_take(&s->fuse, all)) != NULL) {
		(void)fuse_reply2(s, b->unique, &out, sizeof(out), NULL, 0);
		free(b);
	}
}

void fuse_sync(struct stream *s)
{
	struct statfs fs;

	krg_assert_no_locks();
	if (s->fuse.fd >= 0 && fstatfs(s->fuse.mnt, &fs) < 0)
		LOG_D("stream", "fuse: %s", strerror(errno));
}

static bool serve_one(struct fuse_thread *t, void *buf)
{
	struct stream *s = t->s;
	ssize_t n;
	int e;

	t->turn++;
	n = read(s->fuse.fd, buf, FUSE_BUF_SIZE);
	e = n < 0 ? errno : 0;
	if (n > 0)
		fuse_handle_request(s, buf, (size_t)n);
	t->turn++;
	if (s->fuse.barrier_nr > 0)
		barriers_end(s, false);
	if (n >= 0 || e == EINTR || e == ENOENT) /* ENOENT: it was taken back */
		return true;
	if (e != EAGAIN)
		LOG_D("stream", "fuse: %s", strerror(e));
	return false;
}

static void *fuse_main(void *arg)
{
	struct fuse_thread *t = arg;
	struct stream *s = t->s;
	KRG_AUTO_FREE void *buf = krg_xalloc(FUSE_BUF_SIZE);
	KRG_AUTO_FD int ep = epoll_create1(EPOLL_CLOEXEC);
	struct epoll_event ev = {.events = EPOLLIN | EPOLLEXCLUSIVE, .data.u64 = 1}, got;

	(void)pthread_setname_np(pthread_self(), "stream-fuse");
	ASSERT(ep >= 0);
	ASSERT(epoll_ctl(ep, EPOLL_CTL_ADD, s->fuse.fd, &ev) == 0);
	ev = (struct epoll_event){.events = EPOLLIN};
	ASSERT(epoll_ctl(ep, EPOLL_CTL_ADD, s->fuse.stop_ev, &ev) == 0);
	for (;;) {
		int n = epoll_wait(ep, &got, 1, -1);

		if (n < 0 && errno == EINTR)
			continue;
		ASSERT(n == 1);
		if (got.data.u64 == 0 || (got.events & EPOLLERR) != 0)
			return NULL;
		while (serve_one(t, buf))
			;
	}
}

/* ---- mount ---- */

static int fsconfig(int fs, unsigned cmd, const char *key, const char *value)
{
	return (int)syscall(SYS_fsconfig, fs, cmd, key, value, 0);
}

static int mount_detached(int fuse_fd, struct krg_err *err)
{
	KRG_AUTO_FD int fs = (int)syscall(SYS_fsopen, "fuse", FSOPEN_CLOEXEC);
	char text[16];
	int mnt;

	if (fs < 0)
		return krg_err_set(err, -errno, "fsopen fuse: %s", strerror(errno));
	(void)snprintf(text, sizeof(text), "%d", fuse_fd);
	if (fsconfig(fs, FSCONFIG_SET_STRING, "source", "kerrighed") < 0 ||
	    fsconfig(fs, FSCONFIG_SET_STRING, "fd", text) < 0 ||
	    fsconfig(fs, FSCONFIG_SET_STRING, "rootmode", "40000") < 0 ||
	    fsconfig(fs, FSCONFIG_SET_STRING, "user_id", "0") < 0 ||
	    fsconfig(fs, FSCONFIG_SET_STRING, "group_id", "0") < 0 ||
	    fsconfig(fs, FSCONFIG_SET_FLAG, "allow_other", NULL) < 0 ||
	    fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL) < 0)
		return krg_err_set(err, -errno, "fsconfig fuse: %s", strerror(errno));
	mnt = (int)syscall(SYS_fsmount, fs, FSMOUNT_CLOEXEC,
			   MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC);
	if (mnt < 0)
		return krg_err_set(err, -errno, "fsmount: %s", strerror(errno));
	return mnt;
}

static int start_threads(struct fuse_state *f, struct stream *s, struct krg_err *err)
{
	while (f->thread_nr < STREAM_FUSE_THREADS) {
		struct fuse_thread *t = &f->threads[f->thread_nr];
		int r;

		t->s = s;
		r = pthread_create(&t->thread, NULL, fuse_main, t);
		if (r != 0)
			return krg_err_set(err, -r, "fuse: thread: %s", strerror(r));
		f->thread_nr++;
	}
	return 0;
}

/* run_dir/fuse holds the connection's number: if the guard was killed together with this daemon (a whole
 * cgroup), a person can abort it (fusectl). */
static void note_connection(struct stream *s, u32 number)
{
	KRG_AUTO_FREE char *path = krg_xasprintf("%s/fuse", s->run_dir);
	KRG_AUTO_FD int fd = -EBADF;

	if (s->run_dir[0] == '\0')
		return;
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	if (fd < 0 || dprintf(fd, "%u\n", number) < 0)
		LOG_W("stream", "%s: %s", path, strerror(errno));
}

int fuse_start(struct stream *s, struct krg_err *err)
{
	struct fuse_state *f = &s->fuse;
	struct statx sx;
	int r;

	f->fd = open("/dev/fuse", O_RDWR | O_NONBLOCK | O_CLOEXEC);
	if (f->fd < 0)
		return krg_err_set(err, -errno, "/dev/fuse: %s", strerror(errno));
	f->mnt = mount_detached(f->fd, err);
	if (f->mnt < 0)
		return f->mnt;
	f->stop_ev = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (f->stop_ev < 0)
		return krg_err_set(err, -errno, "eventfd: %s", strerror(errno));
	/* DONT_SYNC: no request.  The guard knows the connection before anybody waits for it. */
	if (statx(f->mnt, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_TYPE, &sx) < 0)
		return krg_err_set(err, -errno, "fuse: %s", strerror(errno));
	f->dev = (u64)sx.stx_dev_major << 32 | sx.stx_dev_minor;
	r = guard_start(&s->guard, sx.stx_dev_minor, err);
	if (r == 0)
		r = start_threads(f, s, err);
	if (r == 0)
		note_connection(s, sx.stx_dev_minor);
	return r;
}

/* Some call that is under way, 0: none. */
static u64 some_call(struct fuse_state *f)
{
	KRG_GUARD(leaf, &f->ops_lock);

	for (u32 i = 0; i < STREAM_HASH; i++)
		for (struct fuse_op *op = f->ops[i]; op != NULL; op = op->next)
			if (op->call != 0) {
				u64 call = op->call;

				op->call = 0;
				return call;
			}
	return 0;
}

/* The answers of origins write to /dev/fuse, so it is closed when no call is under way. */
void fuse_stop(struct stream *s)
{
	KRG_AUTO_FREE char *path = krg_xasprintf("%s/fuse", s->run_dir);
	struct fuse_state *f = &s->fuse;
	u64 call;

	if (f->thread_nr > 0)
		(void)eventfd_write(f->stop_ev, 1);
	while (f->thread_nr > 0)
		(void)pthread_join(f->threads[--f->thread_nr].thread, NULL);
	barriers_end(s, true);
	leaf_lock(&f->ops_lock);
	f->stopping = true; /* nothing is parked from now on */
	leaf_unlock(&f->ops_lock);
	while ((call = some_call(f)) != 0)
		comm_cancel(s->comm, call);
	fuse_op_node_down(s, KRG_NODE_NONE);
	leaf_lock(&f->ops_lock);
	while (f->op_nr > 0)
		krg_cond_wait(&f->ops_cond, &f->ops_lock);
	leaf_unlock(&f->ops_lock);
	if (s->run_dir[0] != '\0')
		(void)unlink(path);
	krg_closep(&f->mnt);
	krg_closep(&f->fd);
	krg_closep(&f->stop_ev);
	f->mnt = f->fd = f->stop_ev = -EBADF;
}
