/* stream.c - the part's door: start and stop, and which of the two ways a descriptor goes. */
#include "stream_impl.h"
#include "fault.h"
#include "log.h"
#include "rng.h"
#include <fcntl.h>
#include <signal.h>

static void on_sigpipe(int sig)
{
	(void)sig;
}

/* Writing for others must not kill krgd.  A handler, not SIG_IGN: that would be inherited by
 * what is executed. */
static void catch_sigpipe(void)
{
	struct sigaction sa, old;

	if (sigaction(SIGPIPE, NULL, &old) < 0 || old.sa_handler != SIG_DFL)
		return;
	sa = (struct sigaction){.sa_handler = on_sigpipe, .sa_flags = SA_RESTART};
	(void)sigaction(SIGPIPE, &sa, NULL);
}

int stream_new(struct comm *c, const struct stream_config *config, struct stream **ret,
	       struct krg_err *err)
{
	struct stream *s = krg_xalloc(sizeof(*s));
	int r;

	s->magic = STREAM_MAGIC;
	s->comm = c;
	s->self = comm_self(c);
	s->run_dir = krg_xstrdup(config->run_dir != NULL ? config->run_dir : "");
	s->wait_ep = s->wait_stop_ev = -EBADF;
	s->fuse.fd = s->fuse.mnt = s->fuse.stop_ev = -EBADF;
	s->guard.said = s->guard.stop_ev = -EBADF;
	krg_mutex_init(&s->handles_lock);
	krg_mutex_init(&s->imports_lock);
	krg_mutex_init(&s->fuse.ops_lock);
	krg_cond_init(&s->fuse.ops_cond);
	s->relays = relay_set_new(s);
	/* Names of an earlier life of this node do not mean anything now. */
	r = krg_rng_secret(&s->next_id, sizeof(s->next_id));
	if (r < 0)
		(void)krg_err_set(err, r, "stream: no random numbers: %s", strerror(-r));
	else
		r = guard_new(&s->guard, err);
	if (r < 0) {
		stream_free(s);
		return r;
	}
	s->next_id = (s->next_id >> 2) + 1;
	s->next_import = 2; /* 1 is the root inode */
	*ret = s;
	return 0;
}

int stream_start(struct stream *s, struct krg_err *err)
{
	int r;

	ASSERT_OBJ(s, STREAM_MAGIC);
	catch_sigpipe();
	r = wait_start(s, err);
	if (r == 0)
		r = lock_start(s, err);
	if (r == 0)
		r = relay_start(s, err);
	if (r < 0) {
		stream_stop(s);
		return r;
	}
	/* A node without FUSE still has pipes; imports of stand-ins are refused with the reason. */
	if (fuse_start(s, err) < 0) {
		LOG_W("stream", "no stand-ins: %s", err != NULL ? err->text : "");
		krg_err_clear(err);
		fuse_stop(s);
	}
	handle_register(s);
	wait_register(s);
	file_register(s);
	lock_register(s);
	import_register(s);
	fuse_op_register(s);
	relay_register(s);
	return 0;
}

void stream_stop(struct stream *s)
{
	ASSERT_OBJ(s, STREAM_MAGIC);
	if (atomic_exchange(&s->stopping, true))
		return;
	fuse_stop(s);
	relay_stop(s);
	wait_stop(s);
	lock_stop(s);
	handle_drop_all(s);
	import_drop_all(s);
}

/* After comm_stop(): no handler runs any more. */
void stream_free(struct stream *s)
{
	ASSERT_OBJ(s, STREAM_MAGIC);
	ASSERT(s->handle_nr == 0 && s->import_nr == 0);
	relay_free(s);
	guard_free(&s->guard);
	lock_free(s);
	krg_closep(&s->wait_ep);
	krg_closep(&s->wait_stop_ev);
	krg_cond_fini(&s->fuse.ops_cond);
	krg_mutex_fini(&s->fuse.ops_lock);
	krg_mutex_fini(&s->imports_lock);
	krg_mutex_fini(&s->handles_lock);
	free(s->run_dir);
	s->magic = 0;
	free(s);
}

void stream_node_down(struct stream *s, nodeid node)
{
	handle_node_down(s, node);
	lock_node_down(s, node);
	import_node_down(s, node);
	fuse_op_node_down(s, node);
	relay_node_down(s, node);
}

int stream_export(struct stream *s, int fd, enum stream_kind kind, nodeid to,
		  struct rec_stream_ref *ret, struct krg_err *err)
{
	ASSERT_OBJ(s, STREAM_MAGIC);
	ASSERT(to < KRG_NODES_MAX);
	if (stream_fd_is_standin(s, fd))
		return krg_err_set(err, -EOPNOTSUPP, "a stand-in is passed on by its reference");
	if (kind == STREAM_STANDIN)
		return handle_export(s, fd, to, s->self, ret, err);
	return relay_export(s, fd, kind, to, ret, err);
}

void stream_settled(struct stream *s, const struct rec_stream_ref *ref, void (*done)(void *ctx),
		    void *ctx)
{
	if (ref->origin == s->self)
		done(ctx);
	else if (ref->kind == STREAM_STANDIN)
		import_settled(s, done, ctx);
	else
		relay_settled(s, ref, done, ctx);
}

void stream_push(struct stream *s, const struct rec_stream_ref *ref)
{
	if (ref->kind != STREAM_STANDIN)
		relay_push(s, ref);
}

void stream_hold(struct stream *s, const struct rec_stream_ref *ref, bool hold)
{
	if (ref->kind == STREAM_PIPE_READ && ref->origin == s->self)
		relay_hold(s, ref->id, hold);
}

void stream_cancel(struct stream *s, const struct rec_stream_ref *ref, nodeid to)
{
	KRG_AUTO_BUF struct krg_buf b = {0};
	struct rec_stream_name m = {.handle = ref->id, .node = to};

	if (ref->origin == s->self && ref->kind != STREAM_STANDIN) {
		relay_cancel(s, ref->id, to);
		return;
	}
	if (ref->origin == s->self) {
		if (handle_drop(s, ref->id, to, s->self) < 0)
			LOG_D("stream", "cancel: no such grant");
		return;
	}
	rec_stream_name_encode(&m, &b);
	if (comm_send(s->comm, ref->origin, STREAM_OP_UNGRANT, &b) < 0)
		LOG_D("stream", "cancel: node %u is not there to be told", ref->origin);
}

void stream_refuse(struct stream *s, const struct rec_stream_ref *ref)
{
	KRG_AUTO_BUF struct krg_buf b = {0};
	struct rec_stream_name m = {.handle = ref->id, .node = s->self};

	if (ref->kind != STREAM_STANDIN)
		return;
	if (ref->origin == s->self) {
		if (handle_drop(s, ref->id, s->self, KRG_NODE_NONE) < 0)
			LOG_D("stream", "refuse: no such grant");
		return;
	}
	rec_stream_name_encode(&m, &b);
	if (comm_send(s->comm, ref->origin, STREAM_OP_DROP, &b) < 0)
		LOG_D("stream", "refuse: node %u is not there to be told", ref->origin);
}

/* Home again: the real description itself. */
static int import_own(struct stream *s, const struct rec_stream_ref *ref, int *ret_fd,
		      struct krg_err *err)
{
	struct handle *h = handle_get_for(s, ref->id, s->self);
	int fd, r = 0;

	if (h == NULL)
		return krg_err_set(err, -EBADF, "handle %llu is not here",
				   (unsigned long long)ref->id);
	fd = fcntl(h->fd, F_DUPFD_CLOEXEC, 3);
	if (fd < 0)
		r = krg_err_set(err, -errno, "dup: %s", strerror(errno));
	handle_put(h);
	if (r < 0)
		return r;
	(void)handle_drop(s, ref->id, s->self, KRG_NODE_NONE);
	*ret_fd = fd;
	return 0;
}

int stream_import(struct stream *s, const struct rec_stream_ref *ref, int *ret_fd,
		  struct krg_err *err)
{
	ASSERT_OBJ(s, STREAM_MAGIC);
	krg_assert_no_locks();
	if (FAULT_POINT(STREAM_IMPORT))
		return krg_err_set(err, -EIO, "import: fault point");
	switch (ref->kind) {
	case STREAM_STANDIN:
		if (ref->origin == s->self)
			return import_own(s, ref, ret_fd, err);
		return import_open(s, ref, ret_fd, err);
	case STREAM_PIPE_READ:
	case STREAM_PIPE_WRITE:
		return relay_import(s, ref, ret_fd, err);
	default:
		return krg_err_set(err, -EBADMSG, "reference of kind %u", ref->kind);
	}
}

/* A program's lseek(2) that the origin has not heard of yet. */
static int sync_pos(struct stream *s, struct import *imp, int fd, struct krg_err *err)
{
	KRG_AUTO_BUF struct krg_buf b = {0};
	COMM_AUTO_REPLY struct comm_reply reply = {0};
	struct rec_stream_ctl m = {.handle = imp->ref.id, .code = STREAM_CTL_SEEK, .b = SEEK_SET};
	i64 expected;
	int r;

	if (!imp->seekable)
		return 0;
	m.a = lseek(fd, 0, SEEK_CUR);
	handle_lock(&imp->lock);
	expected = imp->expected;
	handle_unlock(&imp->lock);
	if (m.a < 0 || m.a == expected)
		return 0;
	rec_stream_ctl_encode(&m, &b);
	r = comm_call(s->comm, imp->ref.origin, STREAM_OP_CTL, &b, 0, &reply, err);
	if (r < 0)
		return r;
	handle_lock(&imp->lock);
	imp->expected = m.a;
	handle_unlock(&imp->lock);
	return 0;
}

static int ctl_errno(int r)
{
	static const int ok[] = {-EINVAL, -EOVERFLOW,	-EPERM,	  -EBUSY,
				 -ENOMEM, -ENOPROTOOPT, -ENOTCONN};

	for (size_t i = 0; i < KRG_NELEM(ok); i++)
		if (ok[i] == r)
			return r;
	return -EIO;
}

/* STREAM_OP_CTL: its result, or negative errno as a program may see it. */
static i64 ctl_at_origin(struct import *imp, struct rec_stream_ctl *m)
{
	KRG_AUTO_BUF struct krg_buf b = {0};
	COMM_AUTO_REPLY struct comm_reply reply = {0};
	struct rec_stream_result res = {0};
	struct krg_rd rd;
	int r;

	m->handle = imp->ref.id;
	rec_stream_ctl_encode(m, &b);
	r = comm_call(imp->s->comm, imp->ref.origin, STREAM_OP_CTL, &b, 0, &reply, NULL);
	if (r < 0)
		return ctl_errno(r);
	rd = krg_rd_slice(reply.body);
	return rec_stream_result_decode(&rd, &res) < 0 || res.value < 0 ? -EIO : res.value;
}

/* Two at once, or one beside a read by another thread, are in either order, as natively. */
i64 stream_lseek(struct stream *s, int fd, i64 off, int whence)
{
	struct rec_stream_ctl m = {.code = STREAM_CTL_SEEK, .a = off, .b = whence};
	struct import *imp = import_of_fd(s, fd);
	i64 r;

	krg_assert_no_locks();
	if (imp == NULL || !imp->seekable) {
		if (imp != NULL)
			import_put(imp);
		return -ENOENT;
	}
	/* by another number of the same description, which nobody was asked about */
	r = sync_pos(s, imp, fd, NULL) < 0 ? -EIO : ctl_at_origin(imp, &m);
	if (r >= 0 && lseek(fd, r, SEEK_SET) < 0)
		r = -errno;
	if (r >= 0) {
		handle_lock(&imp->lock);
		imp->expected = r;
		handle_unlock(&imp->lock);
	}
	import_put(imp);
	return r;
}

int stream_fcntl(struct stream *s, int fd, int cmd, int arg, int which)
{
	struct rec_stream_ctl m = {.a = arg, .b = which};
	struct import *imp = import_of_fd(s, fd);
	bool pipe = cmd == F_GETPIPE_SZ || cmd == F_SETPIPE_SZ;
	i64 r = -EBADF;

	krg_assert_no_locks();
	if (imp == NULL)
		return -ENOENT;
	m.code = cmd == F_GETFL	       ? STREAM_CTL_GETFL
		 : cmd == F_SETFL      ? STREAM_CTL_SETFL
		 : cmd == F_GETPIPE_SZ ? STREAM_CTL_GETPIPE
				       : STREAM_CTL_SETPIPE;
	if (!pipe || S_ISFIFO(imp->ref.mode))
		r = ctl_at_origin(imp, &m);
	/* the kernel here looks at one of them: where a write goes */
	if (r >= 0 && cmd == F_SETFL && (which & O_APPEND) != 0)
		(void)fcntl(fd, F_SETFL, (fcntl(fd, F_GETFL) & ~O_APPEND) | (arg & O_APPEND));
	import_put(imp);
	return (int)r;
}

static struct import *socket_of_fd(struct stream *s, int fd)
{
	struct import *imp = import_of_fd(s, fd);

	krg_assert_no_locks();
	if (imp == NULL || S_ISSOCK(imp->ref.mode))
		return imp;
	import_put(imp);
	return NULL;
}

i64 stream_socket(struct stream *s, int fd, enum stream_socket what, int a, int b)
{
	struct rec_stream_ctl m = {.code = what == STREAM_SHUTDOWN     ? STREAM_CTL_SHUTDOWN
					   : what == STREAM_GETSOCKOPT ? STREAM_CTL_GETSOCKOPT
								       : STREAM_CTL_SETSOCKOPT,
				   .a = a,
				   .b = b};
	struct import *imp = socket_of_fd(s, fd);
	i64 r;

	if (imp == NULL)
		return -ENOENT;
	r = ctl_at_origin(imp, &m);
	import_put(imp);
	return r;
}

/* What a call on the socket itself may say; else the origin is not there. */
static i64 socket_errno(int r)
{
	return r == -EAGAIN || r == -EPIPE || r == -ECONNRESET ? r : -EIO;
}

i64 stream_recv(struct stream *s, int fd, void *p, u32 n, bool peek)
{
	KRG_AUTO_BUF struct krg_buf b = {0};
	COMM_AUTO_REPLY struct comm_reply reply = {0};
	struct rec_stream_read m = {.size = KRG_MIN(n, STREAM_IO_MAX),
				    .flags = O_NONBLOCK | (peek ? STREAM_READ_PEEK : 0)};
	struct import *imp = socket_of_fd(s, fd);
	struct rec_stream_data d;
	struct krg_rd rd;
	int r;

	if (imp == NULL)
		return -ENOENT;
	m.handle = imp->ref.id;
	rec_stream_read_encode(&m, &b);
	r = comm_call(s->comm, imp->ref.origin, STREAM_OP_READ, &b, 0, &reply, NULL);
	import_put(imp);
	if (r < 0)
		return socket_errno(r);
	rd = krg_rd_slice(reply.body);
	if (rec_stream_data_decode(&rd, &d) < 0 || d.data.len > m.size)
		return -EIO;
	if (d.data.len > 0)
		memcpy(p, d.data.data, d.data.len);
	return (i64)d.data.len;
}

i64 stream_send(struct stream *s, int fd, const void *p, u32 n)
{
	KRG_AUTO_BUF struct krg_buf b = {0};
	COMM_AUTO_REPLY struct comm_reply reply = {0};
	struct rec_stream_write m = {.flags = O_NONBLOCK, .data = {p, KRG_MIN(n, STREAM_IO_MAX)}};
	struct import *imp = socket_of_fd(s, fd);
	struct rec_stream_done d;
	struct krg_rd rd;
	int r;

	if (imp == NULL)
		return -ENOENT;
	m.handle = imp->ref.id;
	rec_stream_write_encode(&m, &b);
	r = comm_call(s->comm, imp->ref.origin, STREAM_OP_WRITE, &b, 0, &reply, NULL);
	import_put(imp);
	if (r < 0)
		return socket_errno(r);
	rd = krg_rd_slice(reply.body);
	return rec_stream_done_decode(&rd, &d) < 0 || d.n > m.data.len ? -EIO : (i64)d.n;
}

static int grant_for(struct stream *s, struct import *imp, nodeid to, struct rec_stream_ref *ret,
		     struct krg_err *err)
{
	KRG_AUTO_BUF struct krg_buf b = {0};
	COMM_AUTO_REPLY struct comm_reply reply = {0};
	struct rec_stream_name m = {.handle = imp->ref.id, .node = to};
	struct krg_rd rd;
	int r;

	rec_stream_name_encode(&m, &b);
	r = comm_call(s->comm, imp->ref.origin, STREAM_OP_GRANT, &b, 0, &reply, err);
	if (r < 0)
		return r;
	rd = krg_rd_slice(reply.body);
	if (rec_stream_ref_decode(&rd, ret) < 0 || ret->origin != imp->ref.origin ||
	    ret->kind != STREAM_STANDIN)
		return krg_err_set(err, -EBADMSG, "grant: broken answer");
	return 0;
}

int stream_ref_of_fd(struct stream *s, int fd, nodeid to, struct rec_stream_ref *ret,
		     struct krg_err *err)
{
	struct import *imp;
	int r;

	ASSERT_OBJ(s, STREAM_MAGIC);
	krg_assert_no_locks();
	imp = import_of_fd(s, fd);
	if (imp == NULL)
		return krg_err_set(err, -ENOENT, "not a stand-in");
	/* the locks are those of the process that is here */
	r = atomic_load(&imp->records) ? krg_err_set(err, -EOPNOTSUPP, "it has record locks")
				       : sync_pos(s, imp, fd, err);
	if (r == 0)
		r = grant_for(s, imp, to, ret, err);
	import_put(imp);
	return r;
}

int stream_standin_ref(struct stream *s, int fd, struct rec_stream_ref *ret)
{
	struct import *imp = import_of_fd(s, fd);

	if (imp == NULL)
		return -ENOENT;
	*ret = imp->ref;
	import_put(imp);
	return 0;
}

static struct timespec timespec_of(i64 ns)
{
	i64 rest = ns % 1000000000;

	return (struct timespec){.tv_sec = ns / 1000000000 - (rest < 0),
				 .tv_nsec = rest + (rest < 0 ? 1000000000 : 0)};
}

int stream_standin_stat(struct stream *s, int fd, struct stat *ret, struct krg_err *err)
{
	KRG_AUTO_BUF struct krg_buf b = {0};
	COMM_AUTO_REPLY struct comm_reply reply = {0};
	struct rec_stream_name m = {.node = s->self};
	struct import *imp = import_of_fd(s, fd);
	struct rec_stream_attr a;
	struct krg_rd rd;
	int r;

	krg_assert_no_locks();
	if (imp == NULL)
		return krg_err_set(err, -ENOENT, "not a stand-in");
	m.handle = imp->ref.id;
	rec_stream_name_encode(&m, &b);
	r = comm_call(s->comm, imp->ref.origin, STREAM_OP_GETATTR, &b, 0, &reply, err);
	import_put(imp);
	if (r < 0)
		return r;
	rd = krg_rd_slice(reply.body);
	if (rec_stream_attr_decode(&rd, &a) < 0)
		return krg_err_set(err, -EBADMSG, "fstat: broken answer");
	*ret = (struct stat){.st_dev = a.dev,
			     .st_ino = a.ino,
			     .st_mode = a.mode,
			     .st_nlink = a.nlink,
			     .st_uid = a.uid,
			     .st_gid = a.gid,
			     .st_rdev = a.rdev,
			     .st_size = (off_t)(a.size & INT64_MAX),
			     .st_blksize = a.blksize,
			     .st_blocks = (blkcnt_t)(a.blocks & INT64_MAX),
			     .st_atim = timespec_of(a.atime_ns),
			     .st_mtim = timespec_of(a.mtime_ns),
			     .st_ctim = timespec_of(a.ctime_ns)};
	return 0;
}

bool stream_has_standins(struct stream *s)
{
	return atomic_load(&s->import_nr) > 0;
}

bool stream_fd_is_standin(struct stream *s, int fd)
{
	struct statx sx;

	return s->fuse.fd >= 0 &&
	       statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_TYPE, &sx) == 0 &&
	       ((u64)sx.stx_dev_major << 32 | sx.stx_dev_minor) == s->fuse.dev;
}

static int ioctl_at_origin(struct stream *s, struct import *imp, struct rec_stream_ioctl *m,
			   void *arg, struct krg_err *err)
{
	KRG_AUTO_BUF struct krg_buf b = {0};
	COMM_AUTO_REPLY struct comm_reply reply = {0};
	struct rec_stream_ioctl_r res;
	struct krg_rd rd;
	int r;

	rec_stream_ioctl_encode(m, &b);
	r = comm_call(s->comm, imp->ref.origin, STREAM_OP_IOCTL, &b, 0, &reply, err);
	if (r < 0)
		return r;
	rd = krg_rd_slice(reply.body);
	if (rec_stream_ioctl_r_decode(&rd, &res) < 0 || res.arg.len != m->arg.len || res.result < 0)
		return krg_err_set(err, -EBADMSG, "ioctl: broken answer");
	if (res.arg.len > 0)
		memcpy(arg, res.arg.data, res.arg.len);
	return res.result;
}

int stream_ioctl(struct stream *s, int fd, u32 cmd, u64 val, void *arg, u32 argsize,
		 struct krg_err *err)
{
	struct rec_stream_ioctl m = {.cmd = cmd, .val = val};
	struct import *imp;
	int r;

	ASSERT_OBJ(s, STREAM_MAGIC);
	krg_assert_no_locks();
	if (argsize > STREAM_IOCTL_MAX)
		return krg_err_set(err, -EINVAL, "ioctl %#x: argument of %u bytes", cmd, argsize);
	imp = import_of_fd(s, fd);
	if (imp == NULL)
		return krg_err_set(err, -ENOENT, "not a stand-in");
	m.handle = imp->ref.id;
	m.arg = (struct krg_slice){arg, argsize};
	r = ioctl_at_origin(s, imp, &m, arg, err);
	import_put(imp);
	return r;
}

void stream_stat_get(struct stream *s, struct stream_stat *ret)
{
	*ret = (struct stream_stat){
		.exports = s->stat_exports,
		.imports = s->stat_imports,
		.standin_ops = s->stat_ops,
	};
	handles_lock(&s->handles_lock);
	ret->handles = s->handle_nr;
	handles_unlock(&s->handles_lock);
	handles_lock(&s->imports_lock);
	ret->standins = s->import_nr;
	handles_unlock(&s->imports_lock);
	relay_stat(s, &ret->relayed_bytes, &ret->relays);
}
