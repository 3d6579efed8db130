// part: stream
/* fuzz_stream_msg.c - everything that another node can say to the stream part, in any order.
 *
 * Node 1 has exported stand-ins and pipe streams to node 0, which is hostile: the input is a program of
 * messages, each raw bytes or a record with fields from the input and the name of something
 * that exists (or not).  At the end node 0 "dies", and nothing may be left.
 */
#include "stream_msg.h"
#include <fcntl.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <stdlib.h>
#include <poll.h>
#include <signal.h>
#include <sys/resource.h>

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const u8 *data, size_t size);

#define MESSAGES_MAX 48

static struct comm *comms[2];
static struct stream *streams[2];
static atomic_uint pending;
static u64 ids[6];

static const u16 ops[] = {
	STREAM_OP_READ,		STREAM_OP_WRITE,       STREAM_OP_FREAD,	      STREAM_OP_FWRITE,
	STREAM_OP_POLL,		STREAM_OP_CANCEL,      STREAM_OP_GETATTR,     STREAM_OP_SETATTR,
	STREAM_OP_CTL,		STREAM_OP_IOCTL,       STREAM_OP_DROP,	      STREAM_OP_GRANT,
	STREAM_OP_UNGRANT,	STREAM_OP_REOPEN,      STREAM_OP_READY,	      STREAM_OP_WRITABLE,
	STREAM_OP_PIPE_OPEN,	STREAM_OP_PIPE_DATA,   STREAM_OP_PIPE_EOF,    STREAM_OP_PIPE_ACK,
	STREAM_OP_PIPE_RESTART, STREAM_OP_PIPE_BROKEN, STREAM_OP_PIPE_CLOSED, STREAM_OP_LOCK,
	STREAM_OP_LOCK_DROP,
};

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	const struct rlimit small = {1 << 20, 1 << 20};
	const nodeid members[2] = {0, 1};
	struct krg_err err = {0};

	(void)argc;
	(void)argv;
	(void)setrlimit(RLIMIT_FSIZE, &small);
	(void)signal(SIGXFSZ, SIG_IGN);
	for (int i = 0; i < 2; i++) {
		struct comm_config cc = {.self = (nodeid)i,
					 .listen_addr = "127.0.0.1",
					 .cluster = "f",
					 .workers = 2};
		struct stream_config sc = {.run_dir = "/tmp"};

		ASSERT(comm_new(&cc, &comms[i], &err) == 0 && comm_start(comms[i], &err) == 0);
		ASSERT(stream_new(comms[i], &sc, &streams[i], &err) == 0);
		ASSERT(stream_start(streams[i], &err) == 0);
	}
	for (int i = 0; i < 2; i++)
		ASSERT(comm_peer_set(comms[i], (nodeid)!i, "127.0.0.1", comm_port(comms[!i])) == 0);
	for (int i = 0; i < 2; i++)
		comm_view_set(comms[i], 1, members, 2);
	return 0;
}

static void on_done(void *ctx, int code, struct comm_reply *reply, const struct krg_err *err)
{
	(void)ctx;
	(void)code;
	(void)err;
	if (reply != NULL)
		comm_reply_fini(reply);
	pending--;
}

static u64 some_id(struct krg_rd *in)
{
	u8 k = krg_rd_u8(in);

	return k < KRG_NELEM(ids) * 32 ? ids[k / 32] : krg_rd_u64(in);
}

/* Most fields are small in real life. */
static u64 some_number(struct krg_rd *in)
{
	u8 k = krg_rd_u8(in);

	return k < 160 ? k : k < 220 ? krg_rd_u16(in) : krg_rd_u64(in);
}

static struct krg_slice some_bytes(struct krg_rd *in, size_t max)
{
	size_t n = some_number(in) % (max + 1);

	return krg_rd_raw(in, KRG_MIN(n, krg_rd_left(in)));
}

static void make_io(u16 op, struct krg_rd *in, struct krg_buf *b)
{
	if (op == STREAM_OP_WRITE || op == STREAM_OP_FWRITE) {
		struct rec_stream_write m = {.handle = some_id(in), .opid = some_number(in)};

		m.flags = krg_rd_u32(in);
		m.where = krg_rd_u8(in) % 4;
		m.off = (i64)some_number(in);
		m.data = some_bytes(in, 4096);
		rec_stream_write_encode(&m, b);
	} else {
		struct rec_stream_read m = {.handle = some_id(in), .opid = some_number(in)};

		m.flags = krg_rd_u32(in);
		m.size = (u32)some_number(in);
		m.where = krg_rd_u8(in) % 4;
		m.off = (i64)some_number(in);
		rec_stream_read_encode(&m, b);
	}
}

static void make_file(u16 op, struct krg_rd *in, struct krg_buf *b)
{
	struct rec_stream_setattr a = {.handle = some_id(in), .valid = (u32)some_number(in)};
	struct rec_stream_ctl c = {.handle = a.handle, .code = a.valid};
	struct rec_stream_ioctl i = {.handle = a.handle, .cmd = 0x5400u | krg_rd_u8(in)};
	struct rec_stream_reopen r = {
		.handle = a.handle, .flags = a.valid, .uid = krg_rd_u8(in) & 1};

	switch (op) {
	case STREAM_OP_SETATTR:
		a.size = some_number(in);
		a.mode = krg_rd_u16(in);
		a.atime_ns = (i64)some_number(in);
		a.by_uid = krg_rd_u8(in) & 1;
		rec_stream_setattr_encode(&a, b);
		break;
	case STREAM_OP_CTL:
		c.a = (i64)some_number(in);
		c.b = (i64)some_number(in);
		c.c = (i64)some_number(in);
		rec_stream_ctl_encode(&c, b);
		break;
	case STREAM_OP_IOCTL:
		i.arg = some_bytes(in, STREAM_IOCTL_MAX);
		rec_stream_ioctl_encode(&i, b);
		break;
	default:
		rec_stream_reopen_encode(&r, b);
		break;
	}
}

static void make_lock(u16 op, struct krg_rd *in, struct krg_buf *b)
{
	struct rec_stream_lock m = {.handle = some_id(in), .opid = some_number(in)};
	struct rec_stream_lock_drop d = {.handle = m.handle, .owner = m.opid % 4, .pos = -1};

	if (op == STREAM_OP_LOCK) {
		m.owner = m.opid % 4;
		m.import = krg_rd_u8(in) % 4;
		m.kind = krg_rd_u8(in) % 4;
		m.how = krg_rd_u8(in) % 5;
		m.type = krg_rd_u8(in) % 4;
		m.start = (i64)some_number(in);
		m.len = (i64)some_number(in);
		rec_stream_lock_encode(&m, b);
	} else {
		d.import = krg_rd_u8(in) % 4;
		rec_stream_lock_drop_encode(&d, b);
	}
}

static void make_pipe(u16 op, struct krg_rd *in, struct krg_buf *b)
{
	struct rec_stream_pipe m = {.origin = 1, .id = some_id(in), .pos = some_number(in)};
	struct rec_stream_pipe_data d = {.origin = 1, .id = m.id, .pos = m.pos};

	if (op == STREAM_OP_PIPE_DATA) {
		d.data = some_bytes(in, STREAM_PIPE_MSG_MAX);
		rec_stream_pipe_data_encode(&d, b);
	} else {
		rec_stream_pipe_encode(&m, b);
	}
}

static void make(u16 op, struct krg_rd *in, struct krg_buf *b)
{
	struct rec_stream_poll p;
	struct rec_stream_cancel c;
	struct rec_stream_name n;

	switch (op) {
	case STREAM_OP_READ:
	case STREAM_OP_WRITE:
	case STREAM_OP_FREAD:
	case STREAM_OP_FWRITE:
		make_io(op, in, b);
		break;
	case STREAM_OP_SETATTR:
	case STREAM_OP_CTL:
	case STREAM_OP_IOCTL:
	case STREAM_OP_REOPEN:
		make_file(op, in, b);
		break;
	case STREAM_OP_LOCK:
	case STREAM_OP_LOCK_DROP:
		make_lock(op, in, b);
		break;
	case STREAM_OP_POLL:
		p = (struct rec_stream_poll){some_id(in), some_number(in), krg_rd_u16(in),
					     krg_rd_u8(in)};
		rec_stream_poll_encode(&p, b);
		break;
	case STREAM_OP_CANCEL:
		c = (struct rec_stream_cancel){some_id(in), some_number(in)};
		rec_stream_cancel_encode(&c, b);
		break;
	case STREAM_OP_GETATTR:
	case STREAM_OP_DROP:
	case STREAM_OP_GRANT:
	case STREAM_OP_UNGRANT:
	case STREAM_OP_READY:
	case STREAM_OP_WRITABLE:
		n = (struct rec_stream_name){some_id(in), krg_rd_u8(in) % 4};
		rec_stream_name_encode(&n, b);
		break;
	default:
		make_pipe(op, in, b);
		break;
	}
}

static void send_one(struct krg_rd *in)
{
	KRG_AUTO_BUF struct krg_buf b = {0};
	u16 op = ops[krg_rd_u8(in) % KRG_NELEM(ops)];
	u8 how = krg_rd_u8(in);
	u64 call;

	if (how & 1) {
		struct krg_slice raw = some_bytes(in, 256);

		krg_buf_put(&b, raw.data, raw.len);
	} else {
		make(op, in, &b);
	}
	if (how & 2) {
		(void)comm_send(comms[0], 1, op, &b);
		return;
	}
	pending++;
	if (comm_call_async(comms[0], 1, op, &b, 0, on_done, NULL, &call, NULL) < 0)
		pending--;
}

static void export_one(int fd, enum stream_kind kind, u64 *ret_id)
{
	struct rec_stream_ref ref;
	struct krg_err err = {0};

	if (stream_export(streams[1], fd, kind, 0, &ref, &err) == 0)
		*ret_id = ref.id;
}

/* An inline op on the same channel: all before it has been handled. */
static void settle(void)
{
	COMM_AUTO_REPLY struct comm_reply reply = {0};
	KRG_AUTO_BUF struct krg_buf b = {0};

	(void)comm_call(comms[0], 1, STREAM_OP_READ, &b, 0, &reply, NULL);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	struct krg_rd in = krg_rd_make(data, size);
	int p[2], q[2], f = memfd_create("fuzz", MFD_CLOEXEC);
	struct stream_stat st;

	ASSERT(f >= 0 && pipe2(p, O_CLOEXEC | O_NONBLOCK) == 0 && pipe2(q, O_CLOEXEC) == 0);
	ASSERT(write(p[1], "some bytes", 10) == 10 && write(q[1], "more", 4) == 4);
	export_one(p[0], STREAM_STANDIN, &ids[0]);
	export_one(q[0], STREAM_STANDIN, &ids[1]);
	export_one(q[1], STREAM_STANDIN, &ids[2]);
	export_one(f, STREAM_STANDIN, &ids[3]);
	export_one(p[0], STREAM_PIPE_READ, &ids[4]);
	export_one(p[1], STREAM_PIPE_WRITE, &ids[5]);
	for (int i = 0; i < MESSAGES_MAX && krg_rd_left(&in) > 0; i++)
		send_one(&in);
	settle();
	stream_node_down(streams[1], 0);
	/* What runs on workers may still be at it, and may even have made a handle since. */
	while (pending > 0)
		(void)poll(NULL, 0, 1);
	stream_node_down(streams[1], 0);
	for (nodeid n = 1; n < 4; n++) /* those that GRANT was asked for */
		stream_node_down(streams[1], n);
	stream_stat_get(streams[1], &st);
	/* a one-way message to an op of the workers: nobody hears when it is done */
	for (int i = 0; i < 2000 && (st.handles != 0 || st.relays != 0); i++) {
		(void)poll(NULL, 0, 1);
		for (nodeid n = 0; n < 4; n++)
			stream_node_down(streams[1], n);
		stream_stat_get(streams[1], &st);
	}
	ASSERT(st.handles == 0 && st.relays == 0);
	for (int i = 0; i < 2; i++) {
		(void)close(p[i]);
		(void)close(q[i]);
	}
	(void)close(f);
	return 0;
}
