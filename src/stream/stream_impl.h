/* stream_impl.h - inside the stream part: handles (origin), imports, the FUSE file system, relays.
 *
 * Locks  (c) constant  (t) the table's lock, class handles  (o) the object's own lock, class handle
 *        (r) the relay's lock, class relay  (a) atomic  (n) the thread that owns it
 *
 * Nobody else includes this.
 */
#ifndef KRG_STREAM_IMPL_H
#define KRG_STREAM_IMPL_H
#include "lock.h"
#include "stream.h"
#include "stream_msg.h"
#include <pthread.h>
#include <stdatomic.h>
#include <sys/stat.h>

/* Limits, named in README.md. */
#define STREAM_HANDLES_MAX 65536u
#define STREAM_IMPORTS_MAX 65536u
#define STREAM_GRANTS_MAX  256u	 /* (to, by) pairs of one handle */
#define STREAM_WAITING_MAX 4096u /* requests that wait at one handle */
#define STREAM_BACK_MAX	   (1u << 20)
#define STREAM_PIPE_SIZE_MAX                                                                       \
	(1 << 20) /* F_SETPIPE_SZ through a stand-in: the kernel's own default limit */
#define STREAM_HASH	     1024u
#define STREAM_FUSE_THREADS  2u
#define STREAM_RELAY_THREADS 2u

/* ---- origin: handles (stream_handle.c, stream_wait.c, stream_file.c) ---- */

enum handle_way {
	HANDLE_EVENT, /* pipe, FIFO, tty: may wait; done without waiting, again when epoll says so */
	HANDLE_FILE,  /* regular file, block device, /dev/zero: never waits for long; on a worker */
};

struct grant {
	nodeid to, by; /* who may use it, who said so */
	u32 count;
};

enum wait_kind { WAIT_READ, WAIT_WRITE, WAIT_POLL, WAIT_KIND_NR };

/* A request at a handle, from its arrival to its answer. */
struct wait_op {
	struct wait_op *next;
	enum wait_kind kind;
	nodeid node;
	bool nonblock, peek;
	u64 opid;	      /* WAIT_POLL: the import */
	struct comm_req *req; /* WAIT_READ */
	u32 size;	      /* WAIT_READ */
	u32 done;	      /* WAIT_WRITE: bytes taken */
	u32 events;	      /* WAIT_POLL */
	int code;	      /* the answer */
	struct krg_buf answer;
};
struct wait_list {
	struct wait_op *first, **last;
};

struct handle {
	unsigned magic;
#define HANDLE_MAGIC 0x57a3d10eu
	struct stream *s; /* (c) */
	u64 id;		  /* (c) */
	int fd;		  /* (c) a dup of the real description */
	int op_fd; /* (c) HANDLE_EVENT: a description of our own, O_NONBLOCK, of the same object */
	enum handle_way way;		   /* (c) */
	bool tty, sock;			   /* (c) */
	u32 mode;			   /* (c) st_mode */
	u64 dev, ino, rdev;		   /* (c) */
	struct handle *id_next, *ino_next; /* (t) */
	u32 refs;			   /* (t) the table's, and whoever works on it */
	bool dead;			   /* (t) out of the table */
	struct grant *grants;		   /* (t) */
	u32 grant_nr;			   /* (t) */
	u64 grant_total;		   /* (t) 0: the handle ends */
	struct krg_mutex lock;
	struct wait_list wait[WAIT_KIND_NR]; /* (o) */
	u32 wait_nr;			     /* (o) */
	bool in_epoll;			     /* (o) */
	struct krg_buf back;		     /* (o) read for a node that died before it got it */
};

/* ---- importer (stream_import.c, stream_fuse.c) ---- */

enum import_state {
	IMPORT_NEW,  /* krgd is opening the file */
	IMPORT_OPEN, /* a process, or krgd for one, has it open */
	IMPORT_LOST, /* the origin is dead: EIO */
	IMPORT_GONE, /* released */
	IMPORT_STATE_NR
};

struct import {
	unsigned magic;
#define IMPORT_MAGIC 0x1359047au
	struct stream *s; /* (c) */
	u64 id;		  /* (c) the FUSE file handle */
	u64 node;	  /* (c) the FUSE inode: the id of the import that it was opened as first */
	struct rec_stream_ref ref; /* (c) */
	bool file;		   /* (c) FREAD and FWRITE, not READ and WRITE */
	bool seekable;		   /* (c) has an offset */
	struct import *next;	   /* (t) */
	u32 refs;		   /* (t) */
	enum import_state state;   /* (t) */
	struct krg_mutex lock;
	atomic_bool records; /* (a) record locks were taken through it */
	int pos_ep;	     /* (o) epoll that shows the file's offset; -EBADF: none */
	i64 expected;	     /* (o) where our own last operation left the offset */
	u64 poll_kh;	     /* (o) the kernel's name for it in a poll notification */
	bool poll_known;     /* (o) */
};

/* A FUSE request that waits for the origin. */
struct fuse_op {
	struct fuse_op *next; /* (fo) fuse_ops */
	struct stream *s;
	struct import *imp; /* a reference */
	u64 unique;
	u64 call; /* (fo) of comm, 0: not known yet */
	u32 pid;
	u32 opcode;
	u32 size;
	u32 events;
	u32 where;
	i64 off;
	i64 flush_pos;
	/* FUSE_WRITE: the request, which is made again when there was no room for all of it */
	struct krg_buf args;
	u32 done;
	bool ttin_acts;	  /* FUSE_READ of a terminal */
	bool parked;	  /* (fo) waits for WRITABLE, or for a signal */
	bool interrupted; /* (fo) does not want to wait any more */
};

/* Its turn is odd while it may have a request that it has not handled. */
struct fuse_thread {
	struct stream *s;
	pthread_t thread;
	_Atomic u64 turn;
};

/* A FUSE_STATFS: answered when all that the kernel asked before it has been handled. */
struct fuse_barrier {
	struct fuse_barrier *next;
	u64 unique;
	u64 turn[STREAM_FUSE_THREADS]; /* even: not to be waited for */
};

struct fuse_state {
	int fd;	     /* (c) /dev/fuse; -EBADF: not mounted */
	int mnt;     /* (c) the detached mount */
	int stop_ev; /* (c) */
	u64 dev;     /* (c) st_dev of our files */
	struct fuse_thread threads[STREAM_FUSE_THREADS];
	unsigned thread_nr;
	struct krg_mutex ops_lock;     /* class leaf */
	struct fuse_barrier *barriers; /* (ops_lock) */
	_Atomic u32 barrier_nr;	       /* (ops_lock) to write */
	struct krg_cond ops_cond;
	struct fuse_op *ops[STREAM_HASH]; /* (ops_lock) */
	u32 op_nr;			  /* (ops_lock) */
	bool stopping;			  /* (ops_lock) */
};

/* The process that aborts the FUSE connection when krgd was killed. */
struct guard {
	pid_t pid;		/* (c) */
	pthread_mutex_t *alive; /* (c) robust, shared with it; held by thread */
	u32 connection;		/* (c) */
	int said, stop_ev;	/* (c) */
	pthread_t thread;
	bool runs;
};

struct relay_set;

struct stream {
	unsigned magic;
#define STREAM_MAGIC 0x57a3a300u
	struct comm *comm; /* (c) */
	nodeid self;	   /* (c) */
	char *run_dir;	   /* (c) */
	atomic_bool stopping;

	struct krg_mutex handles_lock;
	struct handle *by_id[STREAM_HASH];  /* (t) */
	struct handle *by_ino[STREAM_HASH]; /* (t) */
	u64 next_id;			    /* (t) */
	u32 handle_nr;			    /* (t) */
	int wait_ep, wait_stop_ev;	    /* (c) */
	pthread_t waiter;
	bool waiter_runs;

	struct krg_mutex imports_lock;	     /* class handles */
	struct import *imports[STREAM_HASH]; /* (t) */
	u64 next_import;		     /* (t) */
	_Atomic u32 import_nr;		     /* (t) to write */
	struct drop *drops;		     /* (t) DROPs without an answer yet */
	struct drop_wait *drop_waits;	     /* (t) */
	u64 drop_seq;			     /* (t) */
	struct fuse_state fuse;
	struct guard guard;

	struct relay_set *relays; /* (c) */

	struct lock_set *locks; /* (c) from start */
	atomic_bool records;	/* (a) record locks were taken from this node */

	_Atomic(const struct stream_caller_ops *) caller_ops; /* (a) set once; NULL: nobody knows */
	void *caller_ctx;				      /* (c) before caller_ops */

	_Atomic u64 stat_exports, stat_imports, stat_ops;
};

static inline u64 stream_mix(u64 x)
{
	x ^= x >> 33;
	x *= 0xff51afd7ed558ccdull;
	x ^= x >> 33;
	x *= 0xc4ceb9fe1a85ec53ull;
	return x ^ x >> 33;
}

/* stream_handle.c: the table of handles */
struct handle *handle_get(struct stream *s, u64 id); /* NULL: none */
/* The same, if `node` may use it. */
struct handle *handle_get_for(struct stream *s, u64 id, nodeid node);
void handle_put(struct handle *h);
int handle_export(struct stream *s, int fd, nodeid to, nodeid by, struct rec_stream_ref *ret,
		  struct krg_err *err) KRG_MUST_CHECK;
void handle_ref_fill(struct handle *h, struct rec_stream_ref *ret);
/* One grant less for `to`; by: KRG_NODE_NONE for any giver.  -ENOENT: there is none. */
int handle_drop(struct stream *s, u64 id, nodeid to, nodeid by);
int handle_grant(struct stream *s, u64 id, nodeid to, nodeid by, struct rec_stream_ref *ret,
		 struct krg_err *err) KRG_MUST_CHECK;
void handle_node_down(struct stream *s, nodeid node);
void handle_drop_all(struct stream *s);
void handle_register(struct stream *s);
/* The stand-in's name for an object: the same for the same object, wherever it is seen. */
u64 handle_ino(nodeid origin, u64 dev, u64 ino);

/* stream_wait.c: requests that may wait */
int wait_start(struct stream *s, struct krg_err *err) KRG_MUST_CHECK;
void wait_stop(struct stream *s);
void wait_register(struct stream *s);
/* End the requests of a node (KRG_NODE_NONE: all) at a handle. */
void wait_end(struct handle *h, nodeid node, int code);
void wait_list_init(struct wait_list *l);

/* stream_file.c: operations that do not wait, or only for a disk */
void file_register(struct stream *s);
int file_ioctl(struct handle *h, u32 cmd, u64 val, void *arg, u32 argsize, struct krg_err *err);

/* stream_import.c */
int import_open(struct stream *s, const struct rec_stream_ref *ref, int *ret_fd,
		struct krg_err *err) KRG_MUST_CHECK;
/* Made, in the table, with a reference for the caller; end with import_put(). */
int import_new(struct stream *s, const struct rec_stream_ref *ref, u64 node, struct import **ret,
	       struct krg_err *err) KRG_MUST_CHECK;
struct import *import_get(struct stream *s, u64 id);
struct import *import_get_by_node(struct stream *s, u64 node);
void import_put(struct import *imp);
/* imports_lock held, or the caller is alone with it.  False: not from where it is. */
bool import_move(struct import *imp, enum import_state to);
enum import_state import_state(struct import *imp);
/* The last copy was closed: out of the table, and the origin is told. */
void import_release(struct import *imp);
void import_settled(struct stream *s, void (*done)(void *ctx), void *ctx);
void import_node_down(struct stream *s, nodeid node);
void import_drop_all(struct stream *s);
void import_register(struct stream *s);
/* The file's offset as the kernel has it, or -1. */
i64 import_pos(struct import *imp);
/* The import behind a descriptor, with a reference.  NULL: it is no stand-in of ours. */
struct import *import_of_fd(struct stream *s, int fd);

/* stream_fuse.c: the file system; stream_fuse_op.c: its operations */
#define STREAM_FUSE_IOC_ID _IOR('K', 0x33, u64) /* which import is this file? */
int fuse_start(struct stream *s, struct krg_err *err) KRG_MUST_CHECK;
void fuse_stop(struct stream *s);
/* Waits until all that the kernel has asked so far has been handled: not until it is answered. */
void fuse_sync(struct stream *s);
void fuse_barrier_begin(struct stream *s, u64 unique);
/* 0 or negative errno; -ENOENT: the kernel does not wait for it any more */
int fuse_reply(struct stream *s, u64 unique, int error, const void *p, size_t n);
int fuse_reply2(struct stream *s, u64 unique, const void *p, size_t n, const void *q, size_t m);
void fuse_notify_poll(struct stream *s, u64 kh);
/* One request of n bytes, as read from /dev/fuse. */
void fuse_handle_request(struct stream *s, const void *p, size_t n);
struct fuse_op *fuse_op_begin(struct stream *s, struct import *imp, u64 unique, u32 pid,
			      u32 opcode);
void fuse_op_end(struct fuse_op *op);
void fuse_op_called(struct stream *s, u64 unique, u64 call);
/* A signal for the process that waits.  0: a CANCEL of *ret_handle has to be sent to *ret_origin;
 * 1: *ret_parked is the caller's to end; 2: it will end; -EAGAIN: not (yet, or any more) under way. */
int fuse_op_interrupt(struct stream *s, u64 unique, nodeid *ret_origin, u64 *ret_handle,
		      struct fuse_op **ret_parked);
/* False: it was interrupted. */
bool fuse_op_park(struct fuse_op *op);
/* The parked request of that number (0: any) at that node (KRG_NODE_NONE: any), now the caller's; or NULL. */
struct fuse_op *fuse_op_unpark(struct stream *s, u64 unique, nodeid origin);
/* Answer an operation that has no more to do; and the operation itself is the caller's to end. */
void fuse_op_fail(struct fuse_op *op, int code);
/* Park an operation, which may be over as soon as it is.  False: it is over, and answered. */
bool fuse_op_wait(struct fuse_op *op);
void fuse_op_register(struct stream *s);
/* End parked requests of a node that died (KRG_NODE_NONE: all). */
void fuse_op_node_down(struct stream *s, nodeid node);

/* stream_guard.c */
/* Forks: before the process has threads that could hold anybody's lock. */
int guard_new(struct guard *g, struct krg_err *err) KRG_MUST_CHECK;
int guard_start(struct guard *g, u32 connection, struct krg_err *err) KRG_MUST_CHECK;
/* After /dev/fuse is closed. */
void guard_free(struct guard *g);
/* All requests of that FUSE connection end with an error. */
int guard_abort(u32 connection);

/* stream_lock.c: locks, at the origin */
int lock_start(struct stream *s, struct krg_err *err) KRG_MUST_CHECK;
void lock_stop(struct stream *s);
void lock_free(struct stream *s);
void lock_register(struct stream *s);
/* A signal came for who waits: it is answered with EINTR. */
void lock_cancel(struct stream *s, nodeid node, u64 opid);
void lock_node_down(struct stream *s, nodeid node);
/* Nobody has the handle any more. */
void lock_handle_end(struct stream *s, u64 handle);
/* The importer: the last copy is closed. */
void lock_on_release(struct import *imp);

/* stream_caller.c: terminals from the background, interrupted calls */
/* A terminal's importer: who calls, as bits of the message. */
void caller_who(struct import *imp, u32 tid, struct stream_caller *ret);
/* Its origin: is the caller in the background, and must not do this (sig: SIGTTIN, SIGTTOU)? */
bool caller_is_behind(struct handle *h, i32 sid, i32 pgid, int sig);
/* STREAM_BACKGROUND was the answer.  False: the operation is over. */
bool caller_background(struct fuse_op *op);
/* The answer of a call that a signal ended before it did anything. */
void caller_interrupted(struct fuse_op *op);

/* stream_relay.c, stream_pipe.c */
struct relay_set *relay_set_new(struct stream *s);
int relay_start(struct stream *s, struct krg_err *err) KRG_MUST_CHECK;
void relay_stop(struct stream *s);
void relay_free(struct stream *s);
void relay_register(struct stream *s);
void relay_node_down(struct stream *s, nodeid node);
int relay_export(struct stream *s, int fd, enum stream_kind kind, nodeid to,
		 struct rec_stream_ref *ret, struct krg_err *err) KRG_MUST_CHECK;
int relay_import(struct stream *s, const struct rec_stream_ref *ref, int *ret_fd,
		 struct krg_err *err) KRG_MUST_CHECK;
void relay_settled(struct stream *s, const struct rec_stream_ref *ref, void (*done)(void *ctx),
		   void *ctx);
void relay_push(struct stream *s, const struct rec_stream_ref *ref);
void relay_hold(struct stream *s, u64 id, bool hold);
void relay_cancel(struct stream *s, u64 id, nodeid to);
void relay_stat(struct stream *s, u64 *ret_bytes, u64 *ret_relays);
#endif
