/* stream_fuse_op.c - what the kernel asks of a stand-in, and how it goes to the origin and back.
 *
 * A FUSE thread only starts a call; the answer is written by the call's completion.  So no thread
 * waits, however long a read takes.
 */
#include "stream_impl.h"
#include "fault.h"
#include "log.h"
#include <fcntl.h>
#include <linux/fuse.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

/* The inode's size while nobody asked for it (fstat(2) shows 0): the kernel lets writers of one
 * file go side by side only below it, and a writer who waits must not hold up one who would not.
 * The low 32 bits are 0, for what the kernel answers to FIONREAD itself. */
#define STREAM_SIZE_UNSEEN (1ull << 62)

struct request {
	struct stream *s;
	const struct fuse_in_header *h;
	const void *arg;
	size_t arg_size;
};

static void reply_error(const struct request *rq, int error)
{
	(void)fuse_reply(rq->s, rq->h->unique, error, NULL, 0);
}

/* ---- calls to the origin ---- */

static void on_done(void *ctx, int code, struct comm_reply *reply, const struct krg_err *err);

/* The import's reference goes to the operation. */
static struct fuse_op *begin(const struct request *rq, struct import *imp)
{
	return fuse_op_begin(imp->s, imp, rq->h->unique, rq->h->pid, rq->h->opcode);
}

static void call(struct fuse_op *op, u16 comm_op, const struct krg_buf *args)
{
	struct stream *s = op->s;
	u64 unique = op->unique, id = 0;
	struct krg_err err = {0};
	int r = import_state(op->imp) == IMPORT_LOST ? -EIO : 0;

	if (r == 0 && FAULT_POINT(STANDIN_OP))
		r = -EIO;
	if (r == 0)
		r = comm_call_async(s->comm, op->imp->ref.origin, comm_op, args, 0, on_done, op,
				    &id, &err);
	if (r < 0) {
		on_done(op, r == -EAGAIN ? -EIO : r, NULL, &err); /* not the program's EAGAIN */
		return;
	}
	fuse_op_called(s, unique, id);
}

/* ---- completions: on comm's I/O thread ---- */

static void done_read(struct fuse_op *op, struct krg_rd *rd)
{
	struct rec_stream_data d;

	if (rec_stream_data_decode(rd, &d) < 0 || d.data.len > op->size) {
		(void)fuse_reply(op->s, op->unique, -EIO, NULL, 0);
		return;
	}
	if (op->where != STREAM_AT) {
		handle_lock(&op->imp->lock);
		op->imp->expected = op->off + (i64)d.data.len;
		handle_unlock(&op->imp->lock);
	}
	(void)fuse_reply2(op->s, op->unique, d.data.data, d.data.len, NULL, 0);
}

static void reply_written(struct fuse_op *op)
{
	struct fuse_write_out out = {.size = op->done};

	if (op->where != STREAM_AT) {
		handle_lock(&op->imp->lock);
		op->imp->expected = op->off + (i64)op->done;
		handle_unlock(&op->imp->lock);
	}
	(void)fuse_reply2(op->s, op->unique, &out, sizeof(out), NULL, 0);
}

/* As write(2): part of it counts, else it was interrupted or failed. */
void fuse_op_fail(struct fuse_op *op, int code)
{
	if (op->opcode == FUSE_WRITE && op->done > 0)
		reply_written(op);
	else if (code == -EINTR)
		caller_interrupted(op);
	else
		(void)fuse_reply(op->s, op->unique, code, NULL, 0);
}

bool fuse_op_wait(struct fuse_op *op)
{
	struct stream *s = op->s;
	struct import *imp = op->imp;
	u64 unique = op->unique;
	bool lost;

	handles_lock(&s->imports_lock);
	imp->refs++; /* op may be over as soon as it is parked */
	handles_unlock(&s->imports_lock);
	if (!fuse_op_park(op)) {
		import_put(imp);
		fuse_op_fail(op, -EINTR);
		return false;
	}
	/* A node's death looks for parked requests after it has marked the imports: one of us sees it. */
	lost = import_state(imp) == IMPORT_LOST;
	import_put(imp);
	if (!lost || (op = fuse_op_unpark(s, unique, KRG_NODE_NONE)) == NULL)
		return true;
	fuse_op_fail(op, -EIO);
	return false;
}

/* False: it waits for room. */
static bool done_write(struct fuse_op *op, struct krg_rd *rd)
{
	struct rec_stream_done d;

	if (rec_stream_done_decode(rd, &d) < 0 || d.n > op->size - op->done) {
		fuse_op_fail(op, -EIO);
		return true;
	}
	op->done += d.n;
	if (d.wait && op->done < op->size) {
		return !fuse_op_wait(op);
	}
	reply_written(op);
	return true;
}

static void attr_fill(struct import *imp, const struct rec_stream_attr *a, struct fuse_attr *ret)
{
	*ret = (struct fuse_attr){
		.ino = imp->ref.ino,
		.size = imp->seekable ? a->size & INT64_MAX : 0,
		.blocks = a->blocks,
		.atime = (u64)(a->atime_ns / 1000000000),
		.mtime = (u64)(a->mtime_ns / 1000000000),
		.ctime = (u64)(a->ctime_ns / 1000000000),
		.atimensec = (u32)(a->atime_ns % 1000000000),
		.mtimensec = (u32)(a->mtime_ns % 1000000000),
		.ctimensec = (u32)(a->ctime_ns % 1000000000),
		/* FUSE cannot have S_IFCHR or S_IFIFO: the kernel would serve those itself. */
		.mode = S_IFREG | (a->mode & 07777),
		.nlink = a->nlink,
		.uid = a->uid,
		.gid = a->gid,
		.blksize = a->blksize,
	};
}

static void attr_of_ref(struct import *imp, struct fuse_attr *ret)
{
	const struct rec_stream_attr a = {
		.size = imp->ref.size,
		.mode = imp->ref.mode,
		.nlink = 1,
		.uid = imp->ref.uid,
		.gid = imp->ref.gid,
		.blksize = 4096,
	};

	attr_fill(imp, &a, ret);
}

static void done_attr(struct fuse_op *op, struct krg_rd *rd)
{
	struct fuse_attr_out out = {0};
	struct rec_stream_attr a;

	if (rec_stream_attr_decode(rd, &a) < 0) {
		(void)fuse_reply(op->s, op->unique, -EIO, NULL, 0);
		return;
	}
	attr_fill(op->imp, &a, &out.attr);
	(void)fuse_reply2(op->s, op->unique, &out, sizeof(out), NULL, 0);
}

static void done_lock(struct fuse_op *op, struct krg_rd *rd)
{
	struct fuse_lk_out out = {0};
	struct rec_stream_lock m;

	if (rec_stream_lock_decode(rd, &m) < 0) {
		(void)fuse_reply(op->s, op->unique, -EIO, NULL, 0);
		return;
	}
	out.lk.type = m.type;
	out.lk.start = (u64)m.start;
	out.lk.end = m.len > 0 ? (u64)(m.start + m.len - 1) : (u64)INT64_MAX;
	(void)fuse_reply2(op->s, op->unique, &out, op->opcode == FUSE_GETLK ? sizeof(out) : 0, NULL,
			  0);
}

static void done_poll(struct fuse_op *op, struct krg_rd *rd)
{
	struct fuse_poll_out out = {.revents = POLLERR};
	struct rec_stream_revents r;

	if (rec_stream_revents_decode(rd, &r) == 0)
		out.revents = r.revents & 0xffffu;
	(void)fuse_reply2(op->s, op->unique, &out, sizeof(out), NULL, 0);
}

static void done_ctl(struct fuse_op *op, struct krg_rd *rd)
{
	struct fuse_lseek_out out = {0};
	struct rec_stream_result r;

	if (rec_stream_result_decode(rd, &r) < 0) {
		(void)fuse_reply(op->s, op->unique, -EIO, NULL, 0);
		return;
	}
	if (op->opcode == FUSE_FLUSH && op->flush_pos >= 0) {
		handle_lock(&op->imp->lock);
		op->imp->expected = op->flush_pos;
		handle_unlock(&op->imp->lock);
	}
	out.offset = (u64)r.value;
	(void)fuse_reply2(op->s, op->unique, &out, op->opcode == FUSE_LSEEK ? sizeof(out) : 0, NULL,
			  0);
}

static struct fuse_open_out open_out(const struct import *imp)
{
	struct fuse_open_out out = {.fh = imp->id};

	out.open_flags = FOPEN_DIRECT_IO | FOPEN_PARALLEL_DIRECT_WRITES;
	/* No offset, and no lock of it; nothing to be done when a copy is closed. */
	if (!imp->seekable)
		out.open_flags |= FOPEN_STREAM | FOPEN_NONSEEKABLE | FOPEN_NOFLUSH;
	return out;
}

static void done_reopen(struct fuse_op *op, struct krg_rd *rd)
{
	struct rec_stream_ref ref;
	struct fuse_open_out out;
	struct import *imp;

	if (rec_stream_ref_decode(rd, &ref) < 0 || ref.origin != op->imp->ref.origin ||
	    import_new(op->s, &ref, op->imp->node, &imp, NULL) < 0) {
		(void)fuse_reply(op->s, op->unique, -EIO, NULL, 0);
		return;
	}
	(void)import_move(imp, IMPORT_OPEN);
	out = open_out(imp);
	/* Not wanted any more (the process was killed): as if closed. */
	if (fuse_reply(op->s, op->unique, 0, &out, sizeof(out)) < 0)
		import_release(imp);
	import_put(imp);
}

/* write(2) to a pipe without readers also raises SIGPIPE, in the thread that writes.  It still
 * waits in its write, so its tid is its own. */
static void done_error(struct fuse_op *op, int code)
{
	struct fuse_poll_out lost = {.revents = POLLERR | POLLHUP};

	if (op->opcode == FUSE_POLL) {
		(void)fuse_reply2(op->s, op->unique, &lost, sizeof(lost), NULL, 0);
		return;
	}
	if (op->opcode == FUSE_WRITE && code == -EPIPE && op->pid != 0)
		(void)syscall(SYS_tkill, op->pid, SIGPIPE);
	fuse_op_fail(op, code);
}

/* False: it is not over. */
static bool done_ok(struct fuse_op *op, struct krg_rd *rd)
{
	switch (op->opcode) {
	case FUSE_READ:
		done_read(op, rd);
		break;
	case FUSE_WRITE:
		return done_write(op, rd);
	case FUSE_GETATTR:
	case FUSE_SETATTR:
		done_attr(op, rd);
		break;
	case FUSE_POLL:
		done_poll(op, rd);
		break;
	case FUSE_OPEN:
		done_reopen(op, rd);
		break;
	case FUSE_GETLK:
	case FUSE_SETLK:
	case FUSE_SETLKW:
		done_lock(op, rd);
		break;
	default:
		done_ctl(op, rd);
		break;
	}
	return true;
}

static void on_done(void *ctx, int code, struct comm_reply *reply, const struct krg_err *err)
{
	struct fuse_op *op = ctx;
	bool over = true;

	(void)err;
	if (code == STREAM_BACKGROUND && (op->opcode == FUSE_READ || op->opcode == FUSE_WRITE)) {
		over = !caller_background(op);
	} else if (code < 0) {
		done_error(op, code);
	} else {
		struct krg_rd rd = krg_rd_slice(reply->body);

		over = done_ok(op, &rd);
	}
	if (reply != NULL)
		comm_reply_fini(reply);
	if (over)
		fuse_op_end(op);
}

/* The rest of a write that did not fit before. */
static void write_again(struct fuse_op *op)
{
	struct krg_rd rd = krg_rd_slice(krg_buf_slice(&op->args));
	KRG_AUTO_BUF struct krg_buf b = {0};
	struct rec_stream_write m;

	if (rec_stream_write_decode(&rd, &m) < 0)
		ASSERT(!"a request of our own");
	m.data.data += op->done;
	m.data.len -= op->done;
	rec_stream_write_encode(&m, &b);
	call(op, STREAM_OP_WRITE, &b);
}

static void on_writable(void *ctx, struct comm_req *req)
{
	struct stream *s = ctx;
	struct krg_rd rd = krg_rd_slice(req->body);
	struct fuse_op *op = NULL;
	struct rec_stream_name m;

	if (rec_stream_name_decode(&rd, &m) == 0 && m.handle != 0)
		op = fuse_op_unpark(s, m.handle, req->from);
	comm_req_answer(req, NULL);
	if (op == NULL)
		return;
	if (op->opcode == FUSE_WRITE) {
		write_again(op);
		return;
	}
	fuse_op_fail(op, -EIO); /* no writer: the origin does not know what it says */
	fuse_op_end(op);
}

void fuse_op_node_down(struct stream *s, nodeid node)
{
	struct fuse_op *op;

	while ((op = fuse_op_unpark(s, 0, node)) != NULL) {
		fuse_op_fail(op, -EIO);
		fuse_op_end(op);
	}
}

void fuse_op_register(struct stream *s)
{
	comm_register(s->comm, STREAM_OP_WRITABLE, COMM_INLINE, on_writable, s);
}

/* ---- requests ---- */

static struct import *import_of(const struct request *rq, u64 fh)
{
	struct import *imp = import_get(rq->s, fh);

	if (imp == NULL)
		reply_error(rq, -EIO);
	return imp;
}

static void do_init(const struct request *rq)
{
	const struct fuse_init_in *in = rq->arg;
	struct fuse_init_out out = {
		.major = FUSE_KERNEL_VERSION,
		.minor = KRG_MIN((u32)FUSE_KERNEL_MINOR_VERSION, in->minor),
		.flags = in->flags & (FUSE_ATOMIC_O_TRUNC | FUSE_BIG_WRITES | FUSE_AUTO_INVAL_DATA |
				      FUSE_POSIX_LOCKS | FUSE_FLOCK_LOCKS | FUSE_MAX_PAGES),
		.max_background = 1024,
		.congestion_threshold = 1024,
		.max_write = STREAM_IO_MAX,
		.max_pages = STREAM_IO_MAX / 4096,
		.time_gran = 1,
	};

	(void)fuse_reply2(rq->s, rq->h->unique, &out, sizeof(out), NULL, 0);
}

/* Only krgd has a descriptor of the root, so only import_open() asks. */
static void do_lookup(const struct request *rq)
{
	char name[24] = "", *end = NULL;
	struct fuse_entry_out out = {0};
	struct import *imp;
	u64 id;

	memcpy(name, rq->arg, KRG_MIN(rq->arg_size, sizeof(name) - 1));
	id = strtoull(name, &end, 16);
	imp = *end == '\0' ? import_get(rq->s, id) : NULL;
	if (imp == NULL || import_state(imp) != IMPORT_NEW) {
		reply_error(rq, -ENOENT);
	} else {
		out.nodeid = imp->id;
		attr_of_ref(imp, &out.attr);
		if (!imp->seekable && (imp->ref.open_flags & O_APPEND) == 0)
			out.attr.size = STREAM_SIZE_UNSEEN;
		(void)fuse_reply2(rq->s, rq->h->unique, &out, sizeof(out), NULL, 0);
	}
	if (imp != NULL)
		import_put(imp);
}

static void do_getattr(const struct request *rq)
{
	const struct fuse_getattr_in *in = rq->arg;
	KRG_AUTO_BUF struct krg_buf b = {0};
	struct rec_stream_name m = {.node = rq->s->self};
	struct fuse_attr_out out = {0};
	struct import *imp;

	if (rq->h->nodeid == FUSE_ROOT_ID) {
		out.attr = (struct fuse_attr){.ino = 1, .mode = S_IFDIR | 0700, .nlink = 2};
		(void)fuse_reply2(rq->s, rq->h->unique, &out, sizeof(out), NULL, 0);
		return;
	}
	imp = (in->getattr_flags & FUSE_GETATTR_FH) != 0 ? import_get(rq->s, in->fh)
							 : import_get_by_node(rq->s, rq->h->nodeid);
	if (imp == NULL) {
		reply_error(rq, -EIO);
		return;
	}
	if (!imp->seekable) { /* nothing in them that changes and that anybody asks for */
		attr_of_ref(imp, &out.attr);
		(void)fuse_reply2(rq->s, rq->h->unique, &out, sizeof(out), NULL, 0);
		import_put(imp);
		return;
	}
	m.handle = imp->ref.id;
	rec_stream_name_encode(&m, &b);
	call(begin(rq, imp), STREAM_OP_GETATTR, &b);
}

static i64 ns_of(u64 sec, u32 nsec)
{
	return (i64)sec * 1000000000 + nsec;
}

static void do_setattr(const struct request *rq)
{
	static const struct {
		u32 fattr, set;
	} bits[] = {
		{FATTR_SIZE, STREAM_SET_SIZE},
		{FATTR_MODE, STREAM_SET_MODE},
		{FATTR_UID, STREAM_SET_UID},
		{FATTR_GID, STREAM_SET_GID},
		{FATTR_ATIME, STREAM_SET_ATIME},
		{FATTR_MTIME, STREAM_SET_MTIME},
		{FATTR_ATIME_NOW, STREAM_SET_ATIME_NOW},
		{FATTR_MTIME_NOW, STREAM_SET_MTIME_NOW},
	};
	const struct fuse_setattr_in *in = rq->arg;
	bool by_fh = (in->valid & FATTR_FH) != 0;
	struct import *imp =
		by_fh ? import_get(rq->s, in->fh) : import_get_by_node(rq->s, rq->h->nodeid);
	KRG_AUTO_BUF struct krg_buf b = {0};
	struct rec_stream_setattr m = {
		.size = in->size,
		.mode = in->mode,
		.uid = in->uid,
		.gid = in->gid,
		.atime_ns = ns_of(in->atime, in->atimensec),
		.mtime_ns = ns_of(in->mtime, in->mtimensec),
		.by_uid = rq->h->uid,
		.by_fd = by_fh,
	};

	if (imp == NULL) {
		reply_error(rq, -EIO);
		return;
	}
	for (size_t i = 0; i < KRG_NELEM(bits); i++)
		if ((in->valid & bits[i].fattr) != 0)
			m.valid |= bits[i].set;
	m.handle = imp->ref.id;
	rec_stream_setattr_encode(&m, &b);
	call(begin(rq, imp), STREAM_OP_SETATTR, &b);
}

/* The first open of an import is krgd's own.  Later ones are programs that open /proc/self/fd/N or
 * /dev/stderr: a new description of the same object, made at the origin. */
static void do_open(const struct request *rq)
{
	const struct fuse_open_in *in = rq->arg;
	struct import *imp = import_get_by_node(rq->s, rq->h->nodeid);
	KRG_AUTO_BUF struct krg_buf b = {0};
	struct rec_stream_reopen m = {
		.flags = in->flags & (u32)(O_ACCMODE | O_APPEND | O_NONBLOCK | O_TRUNC),
		.uid = rq->h->uid,
		.gid = rq->h->gid,
	};
	struct fuse_open_out out;

	if (imp == NULL) {
		reply_error(rq, -ENXIO);
		return;
	}
	if (imp->id == rq->h->nodeid && import_move(imp, IMPORT_OPEN)) {
		out = open_out(imp);
		if (fuse_reply(rq->s, rq->h->unique, 0, &out, sizeof(out)) < 0)
			import_release(imp);
		import_put(imp);
		return;
	}
	m.handle = imp->ref.id;
	rec_stream_reopen_encode(&m, &b);
	call(begin(rq, imp), STREAM_OP_REOPEN, &b);
}

/* Which sort of access is it, from where the kernel says it is (README, "Offsets")? */
static u32 where_of(struct import *imp, i64 off, bool by_page)
{
	i64 expected;

	if (!imp->seekable)
		return STREAM_SEQ;
	if (by_page)
		return STREAM_AT;
	handle_lock(&imp->lock);
	expected = imp->expected;
	handle_unlock(&imp->lock);
	if (off == expected)
		return STREAM_SEQ;
	return import_pos(imp) == off ? STREAM_SEEK : STREAM_AT;
}

/* A full answer makes the kernel ask for the rest of a larger read(2) at once, and wait for it.  A
 * stream's is never full if there can be a rest. */
static u32 stream_read_size(u32 size)
{
	return size > STREAM_IO_MAX - 4096 ? size - 1 : size;
}

static void do_read(const struct request *rq)
{
	const struct fuse_read_in *in = rq->arg;
	struct import *imp = import_of(rq, in->fh);
	KRG_AUTO_BUF struct krg_buf b = {0};
	struct rec_stream_read m = {.opid = rq->h->unique, .flags = in->flags};
	bool by_page = (in->read_flags & FUSE_READ_LOCKOWNER) == 0;
	struct stream_caller who;
	struct fuse_op *op;

	if (imp == NULL)
		return;
	if (in->size > STREAM_IO_MAX || (!imp->seekable && by_page)) { /* splice(2), mmap(2) */
		reply_error(rq, -EINVAL);
		import_put(imp);
		return;
	}
	op = begin(rq, imp);
	op->size = m.size = imp->file ? in->size : stream_read_size(in->size);
	op->off = m.off = (i64)in->offset;
	op->where = m.where = where_of(imp, m.off, by_page);
	m.handle = imp->ref.id;
	m.flags &= O_NONBLOCK;
	caller_who(imp, rq->h->pid, &who);
	m.sid = who.sid;
	m.pgid = who.pgid;
	op->ttin_acts = who.ttin_acts;
	rec_stream_read_encode(&m, &b);
	call(op, imp->file ? STREAM_OP_FREAD : STREAM_OP_READ, &b);
}

static void do_write(const struct request *rq)
{
	const struct fuse_write_in *in = rq->arg;
	struct import *imp = import_of(rq, in->fh);
	struct rec_stream_write m = {.opid = rq->h->unique};
	struct stream_caller who;
	struct fuse_op *op;

	if (imp == NULL)
		return;
	if (in->size > STREAM_IO_MAX || in->size > rq->arg_size - sizeof(*in)) {
		reply_error(rq, -EINVAL);
		import_put(imp);
		return;
	}
	op = begin(rq, imp);
	op->size = in->size;
	op->off = m.off = (i64)in->offset;
	m.flags = in->flags & (u32)(O_NONBLOCK | O_APPEND);
	op->where = m.where =
		(m.flags & O_APPEND) != 0
			? STREAM_SEQ
			: where_of(imp, m.off, (in->write_flags & FUSE_WRITE_CACHE) != 0);
	m.handle = imp->ref.id;
	m.data = (struct krg_slice){(const u8 *)(in + 1), in->size};
	caller_who(imp, rq->h->pid, &who);
	m.sid = who.sid;
	m.pgid = who.ttou_acts ? who.pgid : 0;
	rec_stream_write_encode(&m, &op->args);
	call(op, imp->file ? STREAM_OP_FWRITE : STREAM_OP_WRITE, &op->args);
}

static void do_poll(const struct request *rq)
{
	const struct fuse_poll_in *in = rq->arg;
	struct import *imp = import_of(rq, in->fh);
	struct fuse_poll_out out = {.revents = POLLIN | POLLOUT | POLLRDNORM | POLLWRNORM};
	KRG_AUTO_BUF struct krg_buf b = {0};
	struct rec_stream_poll m = {0};
	struct fuse_op *op;

	if (imp == NULL)
		return;
	if (imp->file) {
		(void)fuse_reply2(rq->s, rq->h->unique, &out, sizeof(out), NULL, 0);
		import_put(imp);
		return;
	}
	m.handle = imp->ref.id;
	m.import = imp->id;
	m.events = in->events & 0xffffu;
	m.watch = (in->flags & FUSE_POLL_SCHEDULE_NOTIFY) != 0;
	handle_lock(&imp->lock);
	imp->poll_kh = in->kh;
	imp->poll_known = true;
	handle_unlock(&imp->lock);
	op = begin(rq, imp);
	op->events = m.events;
	rec_stream_poll_encode(&m, &b);
	call(op, STREAM_OP_POLL, &b);
}

static void call_ctl(const struct request *rq, struct import *imp, u32 code, i64 a, i64 b, i64 c)
{
	KRG_AUTO_BUF struct krg_buf buf = {0};
	struct rec_stream_ctl m = {.handle = imp->ref.id, .code = code, .a = a, .b = b, .c = c};
	struct fuse_op *op = begin(rq, imp);

	op->flush_pos = a;
	rec_stream_ctl_encode(&m, &buf);
	call(op, STREAM_OP_CTL, &buf);
}

static void do_fsync(const struct request *rq)
{
	const struct fuse_fsync_in *in = rq->arg;
	struct import *imp = import_of(rq, in->fh);

	if (imp != NULL)
		call_ctl(rq, imp,
			 (in->fsync_flags & FUSE_FSYNC_FDATASYNC) != 0 ? STREAM_CTL_FDATASYNC
								       : STREAM_CTL_FSYNC,
			 0, 0, 0);
}

static void do_fallocate(const struct request *rq)
{
	const struct fuse_fallocate_in *in = rq->arg;
	struct import *imp = import_of(rq, in->fh);

	if (imp != NULL)
		call_ctl(rq, imp, STREAM_CTL_FALLOCATE, (i64)in->offset, in->mode, (i64)in->length);
}

/* SEEK_DATA and SEEK_HOLE; the others are the kernel's own (README, "Offsets"). */
static void do_lseek(const struct request *rq)
{
	const struct fuse_lseek_in *in = rq->arg;
	struct import *imp = import_of(rq, in->fh);

	if (imp != NULL)
		call_ctl(rq, imp, STREAM_CTL_SEEK, (i64)in->offset, in->whence, 0);
}

/* A process gives back its record locks of a file when it closes any descriptor of it (fcntl(2)). */
static void flush_locks(const struct request *rq, struct import *imp, u64 owner, i64 pos)
{
	KRG_AUTO_BUF struct krg_buf b = {0};
	struct rec_stream_lock_drop m = {.handle = imp->ref.id, .owner = owner, .pos = pos};
	struct fuse_op *op = begin(rq, imp);

	op->flush_pos = pos;
	rec_stream_lock_drop_encode(&m, &b);
	call(op, STREAM_OP_LOCK_DROP, &b);
}

/* A copy of the descriptor is closed: the last chance to hear of an lseek(2) with nothing after
 * it, as by a program that puts back what it read too much. */
static void do_flush(const struct request *rq)
{
	const struct fuse_flush_in *in = rq->arg;
	struct import *imp = import_of(rq, in->fh);
	i64 pos, expected;

	if (imp == NULL)
		return;
	pos = imp->seekable ? import_pos(imp) : -1;
	handle_lock(&imp->lock);
	expected = imp->expected;
	handle_unlock(&imp->lock);
	if (pos == expected)
		pos = -1;
	if (imp->seekable && atomic_load(&imp->s->records)) {
		flush_locks(rq, imp, in->lock_owner, pos);
		return;
	}
	if (pos >= 0) {
		call_ctl(rq, imp, STREAM_CTL_SEEK, pos, SEEK_SET, 0);
		return;
	}
	reply_error(rq, 0);
	import_put(imp);
}

static void do_release(const struct request *rq)
{
	const struct fuse_release_in *in = rq->arg;
	struct import *imp = import_get(rq->s, in->fh);

	reply_error(rq, 0);
	if (imp == NULL)
		return;
	lock_on_release(imp);
	import_release(imp);
	import_put(imp);
}

static void do_lock(const struct request *rq)
{
	const struct fuse_lk_in *in = rq->arg;
	struct import *imp = import_of(rq, in->fh);
	bool whole = (in->lk_flags & FUSE_LK_FLOCK) != 0;
	KRG_AUTO_BUF struct krg_buf b = {0};
	struct rec_stream_lock m = {
		.opid = rq->h->unique,
		.owner = in->owner,
		.kind = whole ? STREAM_LOCK_FLOCK : STREAM_LOCK_RECORD,
		.how = rq->h->opcode == FUSE_GETLK   ? STREAM_LOCK_GET
		       : rq->h->opcode == FUSE_SETLK ? STREAM_LOCK_TRY
						     : STREAM_LOCK_WAIT,
		.type = (u16)in->lk.type,
		.start = (i64)(in->lk.start & INT64_MAX),
	};

	if (imp == NULL)
		return;
	if (in->lk.end < (u64)INT64_MAX)
		m.len = (i64)(in->lk.end - in->lk.start) + 1;
	if (!whole && m.how != STREAM_LOCK_GET && m.type != F_UNLCK) {
		atomic_store(&imp->records, true);
		atomic_store(&imp->s->records, true);
	}
	m.handle = imp->ref.id;
	m.import = imp->id;
	rec_stream_lock_encode(&m, &b);
	call(begin(rq, imp), STREAM_OP_LOCK, &b);
}

static void do_ioctl(const struct request *rq)
{
	const struct fuse_ioctl_in *in = rq->arg;
	struct fuse_ioctl_out out = {0};

	if (in->cmd != STREAM_FUSE_IOC_ID || in->out_size < sizeof(in->fh))
		reply_error(rq, -ENOTTY);
	else
		(void)fuse_reply2(rq->s, rq->h->unique, &out, sizeof(out), &in->fh, sizeof(in->fh));
}

/* EAGAIN: the request is still on its way to us in another thread; the kernel says it again. */
static void do_interrupt(const struct request *rq)
{
	const struct fuse_interrupt_in *in = rq->arg;
	KRG_AUTO_BUF struct krg_buf b = {0};
	struct rec_stream_cancel m = {.opid = in->unique};
	struct fuse_op *parked = NULL;
	nodeid origin;
	int r;

	r = fuse_op_interrupt(rq->s, in->unique, &origin, &m.handle, &parked);
	if (r == -EAGAIN)
		(void)fuse_reply(rq->s, rq->h->unique, -EAGAIN, NULL, 0);
	if (r < 0 || r == 2)
		return;
	rec_stream_cancel_encode(&m, &b);
	if (comm_send(rq->s->comm, origin, STREAM_OP_CANCEL, &b) < 0)
		LOG_D("stream", "no cancel to node %u: it is not there", origin);
	if (r == 1) {
		fuse_op_fail(parked, -EINTR);
		fuse_op_end(parked);
	}
}

static void do_statfs(const struct request *rq)
{
	fuse_barrier_begin(rq->s, rq->h->unique);
}

/* EINVAL and not ENOSYS: the kernel would copy through its page cache then; programs read and
 * write instead. */
static void do_copy(const struct request *rq)
{
	reply_error(rq, -EINVAL);
}

static void do_nothing(const struct request *rq)
{
	(void)rq; /* these have no answer */
}

static const struct {
	size_t size;
	void (*handle)(const struct request *rq);
} ops[] = {
	[FUSE_INIT] = {8, do_init}, /* older kernels send less than the whole struct */
	[FUSE_LOOKUP] = {2, do_lookup},
	[FUSE_GETATTR] = {sizeof(struct fuse_getattr_in), do_getattr},
	[FUSE_SETATTR] = {sizeof(struct fuse_setattr_in), do_setattr},
	[FUSE_OPEN] = {sizeof(struct fuse_open_in), do_open},
	[FUSE_READ] = {sizeof(struct fuse_read_in), do_read},
	[FUSE_WRITE] = {sizeof(struct fuse_write_in), do_write},
	[FUSE_POLL] = {sizeof(struct fuse_poll_in), do_poll},
	[FUSE_FSYNC] = {sizeof(struct fuse_fsync_in), do_fsync},
	[FUSE_FALLOCATE] = {sizeof(struct fuse_fallocate_in), do_fallocate},
	[FUSE_LSEEK] = {sizeof(struct fuse_lseek_in), do_lseek},
	[FUSE_FLUSH] = {sizeof(struct fuse_flush_in), do_flush},
	[FUSE_RELEASE] = {sizeof(struct fuse_release_in), do_release},
	[FUSE_GETLK] = {sizeof(struct fuse_lk_in), do_lock},
	[FUSE_SETLK] = {sizeof(struct fuse_lk_in), do_lock},
	[FUSE_SETLKW] = {sizeof(struct fuse_lk_in), do_lock},
	[FUSE_IOCTL] = {sizeof(struct fuse_ioctl_in), do_ioctl},
	[FUSE_INTERRUPT] = {sizeof(struct fuse_interrupt_in), do_interrupt},
	[FUSE_STATFS] = {0, do_statfs},
	[FUSE_COPY_FILE_RANGE] = {0, do_copy},
	[FUSE_FORGET] = {0, do_nothing},
	[FUSE_BATCH_FORGET] = {0, do_nothing},
	[FUSE_DESTROY] = {0, do_nothing},
};

void fuse_handle_request(struct stream *s, const void *p, size_t n)
{
	const struct fuse_in_header *h = p;
	struct request rq = {.s = s, .h = h, .arg = h + 1};

	if (n < sizeof(*h) || h->len != n)
		return;
	rq.arg_size = n - sizeof(*h);
	if (h->opcode >= KRG_NELEM(ops) || ops[h->opcode].handle == NULL) {
		struct fuse_out_header out = {
			.len = sizeof(out), .error = -ENOSYS, .unique = h->unique};

		if (write(s->fuse.fd, &out, sizeof(out)) < 0)
			LOG_D("stream", "fuse: %s", strerror(errno));
		return;
	}
	if (rq.arg_size < ops[h->opcode].size)
		reply_error(&rq, -EINVAL);
	else
		ops[h->opcode].handle(&rq);
}
