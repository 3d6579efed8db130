/* stream_file.c - operations at the origin that do not wait, or only for a disk: files, attributes,
 * ioctls.  They run on comm's workers. */
#include "stream_impl.h"
#include "fault.h"
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <asm/termbits.h>

static i64 ns_of(struct timespec t)
{
	return (i64)t.tv_sec * 1000000000 + t.tv_nsec;
}

static struct timespec timespec_of(i64 ns)
{
	struct timespec t = {.tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000};

	if (t.tv_nsec < 0) {
		t.tv_sec--;
		t.tv_nsec += 1000000000;
	}
	return t;
}

/* The handle named, if it is the sender's; else the request is answered. */
static struct handle *handle_of(struct stream *s, struct comm_req *req, u64 id)
{
	struct handle *h = handle_get_for(s, id, req->from);

	if (h == NULL)
		comm_req_fail(req, -EBADF, "handle %llu is not node %u's", (unsigned long long)id,
			      req->from);
	else
		s->stat_ops++;
	return h;
}

static void answer_errno(struct comm_req *req, const char *what, int code)
{
	comm_req_fail(req, code, "%s: %s", what, strerror(-code));
}

static void on_fread(void *ctx, struct comm_req *req)
{
	struct stream *s = ctx;
	struct krg_rd rd = krg_rd_slice(req->body);
	KRG_AUTO_BUF struct krg_buf answer = {0}, data = {0};
	struct rec_stream_read m;
	struct rec_stream_data d;
	struct handle *h;
	ssize_t n = 0;

	if (rec_stream_read_decode(&rd, &m) < 0 || m.size > STREAM_IO_MAX ||
	    m.where > STREAM_SEEK) {
		comm_req_fail(req, -EBADMSG, "read: broken request");
		return;
	}
	h = handle_of(s, req, m.handle);
	if (h == NULL)
		return;
	if (h->way != HANDLE_FILE)
		n = (errno = EINVAL, -1);
	else if (m.where == STREAM_SEEK)
		n = lseek(h->fd, m.off, SEEK_SET) < 0 ? -1 : 0;
	if (n == 0) {
		u8 *p = krg_buf_grow(&data, m.size);

		n = m.where == STREAM_AT ? pread(h->fd, p, m.size, m.off) : read(h->fd, p, m.size);
	}
	if (n < 0) {
		answer_errno(req, "read", -errno);
	} else {
		d.data = (struct krg_slice){data.data, (size_t)n};
		rec_stream_data_encode(&d, &answer);
		comm_req_answer(req, &answer);
	}
	handle_put(h);
}

static ssize_t write_file(struct handle *h, const struct rec_stream_write *m)
{
	if (h->way != HANDLE_FILE) {
		errno = EINVAL;
		return -1;
	}
	if (m->where == STREAM_AT)
		return pwrite(h->fd, m->data.data, m->data.len, m->off);
	if (m->where == STREAM_SEEK && lseek(h->fd, m->off, SEEK_SET) < 0)
		return -1;
	return write(h->fd, m->data.data, m->data.len);
}

static void on_fwrite(void *ctx, struct comm_req *req)
{
	struct stream *s = ctx;
	struct krg_rd rd = krg_rd_slice(req->body);
	KRG_AUTO_BUF struct krg_buf answer = {0};
	struct rec_stream_done d = {0};
	struct rec_stream_write m;
	struct handle *h;
	ssize_t n;

	if (rec_stream_write_decode(&rd, &m) < 0 || m.where > STREAM_SEEK) {
		comm_req_fail(req, -EBADMSG, "write: broken request");
		return;
	}
	h = handle_of(s, req, m.handle);
	if (h == NULL)
		return;
	n = write_file(h, &m);
	if (n < 0) {
		answer_errno(req, "write", -errno);
	} else {
		d.n = (u32)n;
		rec_stream_done_encode(&d, &answer);
		comm_req_answer(req, &answer);
	}
	handle_put(h);
}

static void answer_attr(struct comm_req *req, struct handle *h)
{
	KRG_AUTO_BUF struct krg_buf answer = {0};
	struct rec_stream_attr a;
	struct stat st;

	if (fstat(h->fd, &st) < 0) {
		answer_errno(req, "fstat", -errno);
		return;
	}
	a = (struct rec_stream_attr){
		.size = (u64)st.st_size,
		.blocks = (u64)st.st_blocks,
		.atime_ns = ns_of(st.st_atim),
		.mtime_ns = ns_of(st.st_mtim),
		.ctime_ns = ns_of(st.st_ctim),
		.mode = st.st_mode,
		.nlink = (u32)st.st_nlink,
		.uid = st.st_uid,
		.gid = st.st_gid,
		.blksize = (u32)st.st_blksize,
		.dev = st.st_dev,
		.ino = st.st_ino,
		.rdev = st.st_rdev,
	};
	rec_stream_attr_encode(&a, &answer);
	comm_req_answer(req, &answer);
}

static void on_getattr(void *ctx, struct comm_req *req)
{
	struct krg_rd rd = krg_rd_slice(req->body);
	struct rec_stream_name m;
	struct handle *h;

	if (rec_stream_name_decode(&rd, &m) < 0) {
		comm_req_fail(req, -EBADMSG, "getattr: broken request");
		return;
	}
	h = handle_of(ctx, req, m.handle);
	if (h == NULL)
		return;
	answer_attr(req, h);
	handle_put(h);
}

static int set_times(struct handle *h, const struct rec_stream_setattr *m)
{
	struct timespec t[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_nsec = UTIME_OMIT}};

	if ((m->valid & STREAM_SET_ATIME_NOW) != 0)
		t[0].tv_nsec = UTIME_NOW;
	else if ((m->valid & STREAM_SET_ATIME) != 0)
		t[0] = timespec_of(m->atime_ns);
	if ((m->valid & STREAM_SET_MTIME_NOW) != 0)
		t[1].tv_nsec = UTIME_NOW;
	else if ((m->valid & STREAM_SET_MTIME) != 0)
		t[1] = timespec_of(m->mtime_ns);
	return futimens(h->fd, t) < 0 ? -errno : 0;
}

/* The kernel of the importer checks what a descriptor allows; what an owner may do is checked here,
 * as FUSE leaves it to us. */
static int setattr_allowed(const struct rec_stream_setattr *m, const struct stat *st)
{
	const u32 owner = STREAM_SET_MODE | STREAM_SET_GID | STREAM_SET_ATIME | STREAM_SET_MTIME |
			  STREAM_SET_ATIME_NOW | STREAM_SET_MTIME_NOW;

	if (m->by_uid == 0)
		return 0;
	if ((m->valid & STREAM_SET_UID) != 0 ||
	    ((m->valid & owner) != 0 && m->by_uid != st->st_uid))
		return -EPERM;
	if ((m->valid & STREAM_SET_SIZE) != 0 && !m->by_fd && m->by_uid != st->st_uid)
		return -EACCES;
	return 0;
}

static int setattr(struct handle *h, const struct rec_stream_setattr *m)
{
	const u32 times =
		STREAM_SET_ATIME | STREAM_SET_MTIME | STREAM_SET_ATIME_NOW | STREAM_SET_MTIME_NOW;
	struct stat st;
	int r;

	if (fstat(h->fd, &st) < 0)
		return -errno;
	r = setattr_allowed(m, &st);
	if (r < 0)
		return r;
	if ((m->valid & STREAM_SET_SIZE) != 0 && ftruncate(h->fd, (off_t)m->size) < 0)
		return -errno;
	if ((m->valid & (STREAM_SET_UID | STREAM_SET_GID)) != 0 &&
	    fchown(h->fd, (m->valid & STREAM_SET_UID) != 0 ? m->uid : (uid_t)-1,
		   (m->valid & STREAM_SET_GID) != 0 ? m->gid : (gid_t)-1) < 0)
		return -errno;
	if ((m->valid & STREAM_SET_MODE) != 0 && fchmod(h->fd, m->mode & 07777) < 0)
		return -errno;
	return (m->valid & times) != 0 ? set_times(h, m) : 0;
}

static void on_setattr(void *ctx, struct comm_req *req)
{
	struct krg_rd rd = krg_rd_slice(req->body);
	struct rec_stream_setattr m;
	struct handle *h;
	int r;

	if (rec_stream_setattr_decode(&rd, &m) < 0) {
		comm_req_fail(req, -EBADMSG, "setattr: broken request");
		return;
	}
	h = handle_of(ctx, req, m.handle);
	if (h == NULL)
		return;
	r = setattr(h, &m);
	if (r < 0)
		answer_errno(req, "setattr", r);
	else
		answer_attr(req, h);
	handle_put(h);
}

/* The flags of the open file description, which are everybody's; our own description keeps O_NONBLOCK. */
static i64 set_flags(struct handle *h, i64 to, i64 which)
{
	const int all = O_APPEND | O_NONBLOCK | O_DIRECT;
	int flags = fcntl(h->fd, F_GETFL);

	if (flags < 0)
		return -1;
	flags = (flags & ~((int)which & all)) | ((int)to & (int)which & all);
	if (fcntl(h->fd, F_SETFL, flags) < 0)
		return -1;
	/* a pipe of packets, or not */
	return h->op_fd < 0 ? 0 : fcntl(h->op_fd, F_SETFL, (flags & O_DIRECT) | O_NONBLOCK);
}

/* krgd may more than those it does this for. */
static i64 set_pipe_size(struct handle *h, i64 size)
{
	if (size < 0 || size > STREAM_PIPE_SIZE_MAX)
		return (errno = size < 0 ? EINVAL : EPERM, -1);
	return fcntl(h->fd, F_SETPIPE_SZ, (int)size);
}

/* Ints of SOL_SOCKET that mean the same from another node. */
static i64 socket_option(struct handle *h, int name, bool set, i64 to)
{
	static const struct {
		int name;
		bool set;
	} known[] = {{SO_TYPE, false},	   {SO_ERROR, false},	   {SO_DOMAIN, false},
		     {SO_PROTOCOL, false}, {SO_ACCEPTCONN, false}, {SO_SNDBUF, true},
		     {SO_RCVBUF, true},	   {SO_KEEPALIVE, true},   {SO_REUSEADDR, true},
		     {SO_BROADCAST, true}, {SO_OOBINLINE, true},   {SO_RCVLOWAT, true}};
	socklen_t len = sizeof(int);
	int value = (int)to;

	for (size_t i = 0; i < KRG_NELEM(known); i++) {
		if (known[i].name != name || (set && !known[i].set))
			continue;
		if (set)
			return setsockopt(h->fd, SOL_SOCKET, name, &value, sizeof(value));
		return getsockopt(h->fd, SOL_SOCKET, name, &value, &len) < 0 ? -1 : value;
	}
	errno = ENOPROTOOPT;
	return -1;
}

static i64 ctl(struct handle *h, const struct rec_stream_ctl *m)
{
	i64 r = -1;

	errno = EINVAL;
	switch (m->code) {
	case STREAM_CTL_FSYNC:
		r = fsync(h->fd);
		break;
	case STREAM_CTL_FDATASYNC:
		r = fdatasync(h->fd);
		break;
	case STREAM_CTL_SEEK:
		r = lseek(h->fd, m->a, (int)m->b);
		break;
	case STREAM_CTL_FALLOCATE:
		r = fallocate(h->fd, (int)m->b, m->a, m->c);
		break;
	case STREAM_CTL_GETFL:
		r = fcntl(h->fd, F_GETFL);
		break;
	case STREAM_CTL_SETFL:
		r = set_flags(h, m->a, m->b);
		break;
	case STREAM_CTL_GETPIPE:
		r = fcntl(h->fd, F_GETPIPE_SZ);
		break;
	case STREAM_CTL_SETPIPE:
		r = set_pipe_size(h, m->a);
		break;
	case STREAM_CTL_SHUTDOWN:
		r = shutdown(h->fd, (int)m->a);
		break;
	case STREAM_CTL_GETSOCKOPT:
		r = socket_option(h, (int)m->a, false, 0);
		break;
	case STREAM_CTL_SETSOCKOPT:
		r = socket_option(h, (int)m->a, true, m->b);
		break;
	default:
		break;
	}
	return r < 0 ? -errno : r;
}

static void on_ctl(void *ctx, struct comm_req *req)
{
	struct krg_rd rd = krg_rd_slice(req->body);
	KRG_AUTO_BUF struct krg_buf answer = {0};
	struct rec_stream_result res;
	struct rec_stream_ctl m;
	struct handle *h;

	if (rec_stream_ctl_decode(&rd, &m) < 0) {
		comm_req_fail(req, -EBADMSG, "ctl: broken request");
		return;
	}
	h = handle_of(ctx, req, m.handle);
	if (h == NULL)
		return;
	res.value = ctl(h, &m);
	if (res.value < 0) {
		answer_errno(req, "ctl", (int)res.value);
	} else {
		rec_stream_result_encode(&res, &answer);
		comm_req_answer(req, &answer);
	}
	handle_put(h);
}

/* ---- ioctls ---- */

/* What may be asked of a tty from another node, and how many bytes the argument has in the
 * kernel (0: it is the value itself).  Those about sessions and groups (TIOCGPGRP, TIOCSCTTY, ...)
 * mean the caller's own: only its deputy can make them. */
static const struct {
	u32 cmd;
	u32 size;
} ioctls[] = {
	{TCGETS, 36},	{TCSETS, 36},	{TCSETSW, 36},	   {TCSETSF, 36},   {TCGETA, 18},
	{TCSETA, 18},	{TCSETAW, 18},	{TCSETAF, 18},	   {TCGETS2, 44},   {TCSETS2, 44},
	{TCSETSW2, 44}, {TCSETSF2, 44}, {TIOCGWINSZ, 8},   {TIOCSWINSZ, 8}, {FIONREAD, 4},
	{TIOCOUTQ, 4},	{TIOCGETD, 4},	{TIOCGSOFTCAR, 4}, {TIOCMGET, 4},   {TIOCGPTN, 4},
	{TCSBRK, 0},	{TCSBRKP, 0},	{TCFLSH, 0},	   {TCXONC, 0},
};

int file_ioctl(struct handle *h, u32 cmd, u64 val, void *arg, u32 argsize, struct krg_err *err)
{
	u8 copy[STREAM_IOCTL_MAX] = {0};
	size_t i = 0;
	int r;

	while (i < KRG_NELEM(ioctls) && ioctls[i].cmd != cmd)
		i++;
	if (i == KRG_NELEM(ioctls))
		return krg_err_set(err, -ENOTTY, "ioctl %#x is not done from another node", cmd);
	if (argsize > sizeof(copy) || argsize < ioctls[i].size)
		return krg_err_set(err, -EINVAL, "ioctl %#x: argument of %u bytes", cmd, argsize);
	if (ioctls[i].size > 0)
		memcpy(copy, arg, argsize);
	r = ioctls[i].size > 0 ? ioctl(h->fd, cmd, copy) : ioctl(h->fd, cmd, val);
	if (r < 0)
		return krg_err_set(err, -errno, "ioctl %#x: %s", cmd, strerror(errno));
	if (ioctls[i].size > 0)
		memcpy(arg, copy, argsize);
	return r;
}

static void on_ioctl(void *ctx, struct comm_req *req)
{
	struct krg_rd rd = krg_rd_slice(req->body);
	KRG_AUTO_BUF struct krg_buf answer = {0};
	u8 arg[STREAM_IOCTL_MAX];
	struct rec_stream_ioctl_r res;
	struct rec_stream_ioctl m;
	struct krg_err err = {0};
	struct handle *h;

	if (rec_stream_ioctl_decode(&rd, &m) < 0) {
		comm_req_fail(req, -EBADMSG, "ioctl: broken request");
		return;
	}
	h = handle_of(ctx, req, m.handle);
	if (h == NULL)
		return;
	if (m.arg.len > 0)
		memcpy(arg, m.arg.data, m.arg.len);
	res.result = file_ioctl(h, m.cmd, m.val, arg, (u32)m.arg.len, &err);
	if (res.result < 0) {
		comm_req_fail_err(req, &err);
	} else {
		res.arg = (struct krg_slice){arg, m.arg.len};
		rec_stream_ioctl_r_encode(&res, &answer);
		comm_req_answer(req, &answer);
	}
	handle_put(h);
}

/* ---- opened again, through /proc/self/fd or /dev/stderr ---- */

static int may_open(const struct stat *st, u32 flags, u32 uid, u32 gid)
{
	u32 acc = flags & O_ACCMODE;
	u32 want = (acc != O_WRONLY ? 4 : 0) | (acc != O_RDONLY ? 2 : 0);
	u32 bits = st->st_mode;

	if (uid == 0)
		return 0;
	if (uid == st->st_uid)
		bits >>= 6;
	else if (gid == st->st_gid)
		bits >>= 3;
	return (bits & want) == want ? 0 : -EACCES;
}

static int reopen(struct stream *s, struct handle *h, nodeid node,
		  const struct rec_stream_reopen *m, struct rec_stream_ref *ret,
		  struct krg_err *err)
{
	KRG_AUTO_FD int fd = -EBADF;
	char path[40];
	struct stat st;
	int r;

	if (fstat(h->fd, &st) < 0)
		return krg_err_set(err, -errno, "fstat: %s", strerror(errno));
	r = may_open(&st, m->flags, m->uid, m->gid);
	if (r < 0)
		return krg_err_set(err, r, "opened again by uid %u: not allowed", m->uid);
	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", h->fd);
	/* O_NONBLOCK: the open of a FIFO does not wait for its other end here. */
	fd = open(path, (int)(m->flags & (O_ACCMODE | O_APPEND | O_TRUNC)) | O_NONBLOCK | O_NOCTTY |
				O_CLOEXEC);
	if (fd < 0)
		return krg_err_set(err, -errno, "opened again: %s", strerror(errno));
	if ((m->flags & O_NONBLOCK) == 0 && fcntl(fd, F_SETFL, (int)(m->flags & O_APPEND)) < 0)
		return krg_err_set(err, -errno, "F_SETFL: %s", strerror(errno));
	return handle_export(s, fd, node, s->self, ret, err);
}

static void on_reopen(void *ctx, struct comm_req *req)
{
	struct krg_rd rd = krg_rd_slice(req->body);
	KRG_AUTO_BUF struct krg_buf answer = {0};
	struct rec_stream_reopen m;
	struct rec_stream_ref ref;
	struct krg_err err = {0};
	struct handle *h;

	if (rec_stream_reopen_decode(&rd, &m) < 0) {
		comm_req_fail(req, -EBADMSG, "open: broken request");
		return;
	}
	h = handle_of(ctx, req, m.handle);
	if (h == NULL)
		return;
	if (reopen(ctx, h, req->from, &m, &ref, &err) < 0) {
		comm_req_fail_err(req, &err);
	} else {
		rec_stream_ref_encode(&ref, &answer);
		comm_req_answer(req, &answer);
	}
	handle_put(h);
}

void file_register(struct stream *s)
{
	comm_register(s->comm, STREAM_OP_FREAD, 0, on_fread, s);
	comm_register(s->comm, STREAM_OP_FWRITE, 0, on_fwrite, s);
	comm_register(s->comm, STREAM_OP_GETATTR, 0, on_getattr, s);
	comm_register(s->comm, STREAM_OP_SETATTR, 0, on_setattr, s);
	comm_register(s->comm, STREAM_OP_CTL, 0, on_ctl, s);
	comm_register(s->comm, STREAM_OP_IOCTL, 0, on_ioctl, s);
	comm_register(s->comm, STREAM_OP_REOPEN, 0, on_reopen, s);
}
