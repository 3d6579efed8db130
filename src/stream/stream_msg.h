/* stream_msg.h - what the stream parts of two nodes say to each other.
 *
 * Ops of service COMM_SVC_STREAM and the records of their bodies.  "O" is the origin of a handle (it
 * holds the real open file description), "I" the node that imported it.
 *
 * Nobody else includes this.
 */
#ifndef KRG_STREAM_MSG_H
#define KRG_STREAM_MSG_H
#include "comm.h"
#include "rec.h"
#include "stream.h"

/* One request moves at most this much: a request stays one message, and small calls that come
 * after it do not wait long. */
#define STREAM_IO_MAX	 (128u << 10)
#define STREAM_IOCTL_MAX 64u

/* The answer to a read or write of a terminal from the background: nothing was done. */
#define STREAM_BACKGROUND (-EBADE)

enum stream_op {
	STREAM_OP_READ = COMM_OP(COMM_SVC_STREAM, 1),	    /* I->O, inline: pipe or tty */
	STREAM_OP_WRITE = COMM_OP(COMM_SVC_STREAM, 2),	    /* I->O, inline: pipe or tty */
	STREAM_OP_FREAD = COMM_OP(COMM_SVC_STREAM, 3),	    /* I->O, worker: file */
	STREAM_OP_FWRITE = COMM_OP(COMM_SVC_STREAM, 4),	    /* I->O, worker: file */
	STREAM_OP_POLL = COMM_OP(COMM_SVC_STREAM, 5),	    /* I->O, inline */
	STREAM_OP_CANCEL = COMM_OP(COMM_SVC_STREAM, 6),	    /* I->O, inline, one-way */
	STREAM_OP_GETATTR = COMM_OP(COMM_SVC_STREAM, 7),    /* I->O, worker */
	STREAM_OP_SETATTR = COMM_OP(COMM_SVC_STREAM, 8),    /* I->O, worker */
	STREAM_OP_CTL = COMM_OP(COMM_SVC_STREAM, 9),	    /* I->O, worker */
	STREAM_OP_IOCTL = COMM_OP(COMM_SVC_STREAM, 10),	    /* I->O, worker */
	STREAM_OP_DROP = COMM_OP(COMM_SVC_STREAM, 11),	    /* I->O, worker, one-way */
	STREAM_OP_GRANT = COMM_OP(COMM_SVC_STREAM, 12),	    /* I->O, worker */
	STREAM_OP_UNGRANT = COMM_OP(COMM_SVC_STREAM, 13),   /* I->O, worker, one-way */
	STREAM_OP_REOPEN = COMM_OP(COMM_SVC_STREAM, 14),    /* I->O, worker */
	STREAM_OP_READY = COMM_OP(COMM_SVC_STREAM, 15),	    /* O->I, inline, one-way */
	STREAM_OP_LOCK = COMM_OP(COMM_SVC_STREAM, 17),	    /* I->O, inline */
	STREAM_OP_LOCK_DROP = COMM_OP(COMM_SVC_STREAM, 18), /* I->O, inline */
	STREAM_OP_WRITABLE =
		COMM_OP(COMM_SVC_STREAM, 16), /* O->I, inline, one-way: handle is the opid */
	/* pipe streams: all between the two ends' nodes, inline, one-way */
	STREAM_OP_PIPE_OPEN = COMM_OP(COMM_SVC_STREAM, 32), /* importer -> origin: it is there */
	STREAM_OP_PIPE_DATA = COMM_OP(COMM_SVC_STREAM, 33), /* sender -> receiver */
	STREAM_OP_PIPE_EOF = COMM_OP(COMM_SVC_STREAM, 34),  /* sender -> receiver: pos is the end */
	STREAM_OP_PIPE_ACK =
		COMM_OP(COMM_SVC_STREAM, 35), /* receiver -> sender: has all below pos */
	STREAM_OP_PIPE_RESTART =
		COMM_OP(COMM_SVC_STREAM, 36), /* receiver -> sender: again from pos */
	STREAM_OP_PIPE_BROKEN =
		COMM_OP(COMM_SVC_STREAM, 37), /* sender -> receiver: connection lost */
	STREAM_OP_PIPE_CLOSED = COMM_OP(
		COMM_SVC_STREAM, 38), /* receiver -> sender: no more wanted; else: given up */
	STREAM_OP_PIPE_SETTLE = COMM_OP(
		COMM_SVC_STREAM, 39), /* sender -> receiver: say so when you have put up to pos */
	/* raw connections, made by the sender; the tag is the id */
	STREAM_OP_RAW_FROM_ORIGIN = COMM_OP(COMM_SVC_STREAM, 40), /* who connects is the origin */
	STREAM_OP_RAW_TO_ORIGIN = COMM_OP(COMM_SVC_STREAM, 41),	  /* who accepts is */
};

/* How a file is to be positioned (FREAD, FWRITE). */
enum stream_where {
	STREAM_SEQ = 0, /* at the shared offset, which moves */
	STREAM_AT = 1,	/* at off; the shared offset stays: pread(2), pwrite(2) */
	STREAM_SEEK =
		2, /* the shared offset becomes off, then as STREAM_SEQ: lseek(2) came before */
};

/* READ and FREAD, POLL's common part */
#define STREAM_READ_PEEK 1u /* of a socket: the bytes stay there */
#define REC_STREAM_READ(F)                                                                         \
	F(u64, handle)                                                                             \
	F(u64, opid)  /* names the request in a CANCEL */                                          \
	F(u32, flags) /* O_NONBLOCK of the description that was read; PEEK */                      \
	F(u32, size)                                                                               \
	F(u32, where)                                                                              \
	F(i64, off)                                                                                \
	F(i32, sid)  /* of a terminal: who reads */                                                \
	F(i32, pgid) /* 0: nobody that job control is for */
KRG_RECORD(stream_read, 0x310, REC_STREAM_READ)

#define REC_STREAM_DATA(F) F(bytes, data, STREAM_IO_MAX)
KRG_RECORD(stream_data, 0x311, REC_STREAM_DATA)

#define REC_STREAM_WRITE(F)                                                                        \
	F(u64, handle)                                                                             \
	F(u64, opid)                                                                               \
	F(u32, flags) /* O_NONBLOCK, O_APPEND */                                                   \
	F(u32, where)                                                                              \
	F(i64, off)                                                                                \
	F(i32, sid)  /* of a terminal: who writes */                                               \
	F(i32, pgid) /* 0: nobody that job control is for */                                       \
	F(bytes, data, STREAM_IO_MAX)
KRG_RECORD(stream_write, 0x312, REC_STREAM_WRITE)

#define REC_STREAM_DONE(F)                                                                         \
	F(u32, n)                                                                                  \
	F(u8, wait) /* the rest did not fit: WRITABLE will say when to try again */
KRG_RECORD(stream_done, 0x313, REC_STREAM_DONE)

#define REC_STREAM_POLL(F)                                                                         \
	F(u64, handle)                                                                             \
	F(u64, import) /* whom READY names */                                                      \
	F(u32, events)                                                                             \
	F(u8, watch) /* say READY once one of them is there */
KRG_RECORD(stream_poll, 0x314, REC_STREAM_POLL)

#define REC_STREAM_REVENTS(F) F(u32, revents)
KRG_RECORD(stream_revents, 0x315, REC_STREAM_REVENTS)

#define REC_STREAM_CANCEL(F)                                                                       \
	F(u64, handle)                                                                             \
	F(u64, opid)
KRG_RECORD(stream_cancel, 0x316, REC_STREAM_CANCEL)

/* GETATTR, DROP, GRANT, UNGRANT (node: for whom), READY (handle: the import) */
#define REC_STREAM_NAME(F)                                                                         \
	F(u64, handle)                                                                             \
	F(u16, node)
KRG_RECORD(stream_name, 0x317, REC_STREAM_NAME)

#define REC_STREAM_ATTR(F)                                                                         \
	F(u64, size)                                                                               \
	F(u64, blocks)                                                                             \
	F(i64, atime_ns)                                                                           \
	F(i64, mtime_ns)                                                                           \
	F(i64, ctime_ns)                                                                           \
	F(u32, mode)                                                                               \
	F(u32, nlink)                                                                              \
	F(u32, uid)                                                                                \
	F(u32, gid)                                                                                \
	F(u32, blksize)                                                                            \
	F(u64, dev)                                                                                \
	F(u64, ino)                                                                                \
	F(u64, rdev)
KRG_RECORD(stream_attr, 0x318, REC_STREAM_ATTR)

enum stream_setattr {
	STREAM_SET_SIZE = 1,
	STREAM_SET_MODE = 2,
	STREAM_SET_UID = 4,
	STREAM_SET_GID = 8,
	STREAM_SET_ATIME = 16,
	STREAM_SET_MTIME = 32,
	STREAM_SET_ATIME_NOW = 64,
	STREAM_SET_MTIME_NOW = 128,
};
#define REC_STREAM_SETATTR(F)                                                                      \
	F(u64, handle)                                                                             \
	F(u32, valid)                                                                              \
	F(u64, size)                                                                               \
	F(u32, mode)                                                                               \
	F(u32, uid)                                                                                \
	F(u32, gid)                                                                                \
	F(i64, atime_ns)                                                                           \
	F(i64, mtime_ns)                                                                           \
	F(u32, by_uid) /* who asks */                                                              \
	F(u8, by_fd)   /* ftruncate(2): the descriptor's mode was checked by the kernel */
KRG_RECORD(stream_setattr, 0x319, REC_STREAM_SETATTR)

enum stream_ctl {
	STREAM_CTL_FSYNC = 1,
	STREAM_CTL_FDATASYNC = 2,
	STREAM_CTL_SEEK = 3,	  /* a: offset, b: whence */
	STREAM_CTL_FALLOCATE = 4, /* a: offset, b: mode, c: length */
	/* fcntl(2) */
	STREAM_CTL_GETFL = 5,
	STREAM_CTL_SETFL = 6,	/* a: O_APPEND, O_NONBLOCK, O_DIRECT; b: those that are set so */
	STREAM_CTL_GETPIPE = 7, /* size */
	STREAM_CTL_SETPIPE = 8, /* a: size */
	/* sockets */
	STREAM_CTL_SHUTDOWN = 9,    /* a: how */
	STREAM_CTL_GETSOCKOPT = 10, /* of SOL_SOCKET, an int.  a: which */
	STREAM_CTL_SETSOCKOPT = 11, /* a: which, b: to what */
};
#define REC_STREAM_CTL(F)                                                                          \
	F(u64, handle)                                                                             \
	F(u32, code)                                                                               \
	F(i64, a)                                                                                  \
	F(i64, b)                                                                                  \
	F(i64, c)
KRG_RECORD(stream_ctl, 0x31a, REC_STREAM_CTL)

enum stream_lock_kind { STREAM_LOCK_FLOCK = 1, STREAM_LOCK_RECORD = 2 };
enum stream_lock_how { STREAM_LOCK_GET = 1, STREAM_LOCK_TRY = 2, STREAM_LOCK_WAIT = 3 };
/* LOCK; its answer has the lock that is in the way (GET) */
#define REC_STREAM_LOCK(F)                                                                         \
	F(u64, handle)                                                                             \
	F(u64, opid)                                                                               \
	F(u64, import)                                                                             \
	F(u64, owner) /* RECORD: a process of the importer, or an open file (OFD) */               \
	F(u8, kind)                                                                                \
	F(u8, how)                                                                                 \
	F(u16, type)  /* F_RDLCK, F_WRLCK, F_UNLCK */                                              \
	F(i64, start) /* RECORD: [start, start + len); len 0: to the end */                        \
	F(i64, len)
KRG_RECORD(stream_lock, 0x31f, REC_STREAM_LOCK)

/* LOCK_DROP: all of an owner's locks of the handle's file (import 0), or all taken through an import */
#define REC_STREAM_LOCK_DROP(F)                                                                    \
	F(u64, handle)                                                                             \
	F(u64, owner)                                                                              \
	F(u64, import)                                                                             \
	F(i64, pos) /* and the shared offset becomes that; -1: not */
KRG_RECORD(stream_lock_drop, 0x322, REC_STREAM_LOCK_DROP)

#define REC_STREAM_RESULT(F) F(i64, value)
KRG_RECORD(stream_result, 0x31b, REC_STREAM_RESULT)

#define REC_STREAM_IOCTL(F)                                                                        \
	F(u64, handle)                                                                             \
	F(u32, cmd)                                                                                \
	F(u64, val)                                                                                \
	F(bytes, arg, STREAM_IOCTL_MAX)
KRG_RECORD(stream_ioctl, 0x31c, REC_STREAM_IOCTL)

#define REC_STREAM_IOCTL_R(F)                                                                      \
	F(i32, result)                                                                             \
	F(bytes, arg, STREAM_IOCTL_MAX)
KRG_RECORD(stream_ioctl_r, 0x31d, REC_STREAM_IOCTL_R)

#define REC_STREAM_REOPEN(F)                                                                       \
	F(u64, handle)                                                                             \
	F(u32, flags) /* O_ACCMODE, O_APPEND, O_NONBLOCK, O_TRUNC */                               \
	F(u32, uid)                                                                                \
	F(u32, gid)
KRG_RECORD(stream_reopen, 0x31e, REC_STREAM_REOPEN)

/* All pipe stream messages but DATA */
#define REC_STREAM_PIPE(F)                                                                         \
	F(u16, origin) /* of the id */                                                             \
	F(u64, id)                                                                                 \
	F(u64, pos) /* bytes since the stream began */
KRG_RECORD(stream_pipe, 0x320, REC_STREAM_PIPE)

#define STREAM_PIPE_MSG_MAX (16u << 10)
#define REC_STREAM_PIPE_DATA(F)                                                                    \
	F(u16, origin)                                                                             \
	F(u64, id)                                                                                 \
	F(u64, pos) /* of the first byte */                                                        \
	F(bytes, data, STREAM_PIPE_MSG_MAX)
KRG_RECORD(stream_pipe_data, 0x321, REC_STREAM_PIPE_DATA)
#endif
