/* stream.h - Dynamic Stream: descriptors that work on a node other than the one where the real
 * open file description is.
 *
 * Export, at the origin: a real descriptor becomes a reference (struct stream_ref, plain bytes)
 * that another node can import.  Import, elsewhere: a reference becomes a descriptor to be put into
 * a process.  Kinds:
 *
 *   STREAM_PIPE_READ / STREAM_PIPE_WRITE  a pipe end that nobody else holds at the origin.  The importer gets the
 *       end of a real local pipe; bytes are relayed between it and the origin's pipe (splice), with
 *       EOF, EPIPE and back-pressure.
 *   STREAM_STANDIN  anything readable, writable or pollable that is shared at the origin, or cannot
 *       move.  The importer gets a FUSE file; each operation is done on the real description.
 *
 * A stand-in descriptor found in a process (stream_ref_of_fd) is passed on by its reference to the
 * origin, never as a chain.
 *
 * Ownership  An export lives until every importer has closed its last copy or died, or the origin
 *            cancels it before it was imported (stream_cancel).  fds given in are dup'ed.
 * Errors     negative errno and text.  -EOPNOTSUPP: this descriptor cannot be exported (why: text).
 * Threads    any.  [net] = waits for other nodes.
 */
#ifndef KRG_STREAM_H
#define KRG_STREAM_H
#include "comm.h"
#include "rec.h"
#include <sys/stat.h>

struct stream;

enum stream_kind { STREAM_PIPE_READ = 1, STREAM_PIPE_WRITE = 2, STREAM_STANDIN = 3 };

/* What a reference names: handle `id` at node `origin`. */
#define REC_STREAM_REF(F)                                                                          \
	F(u16, origin)                                                                             \
	F(u16, kind)                                                                               \
	F(u64, id)                                                                                 \
	F(u32, open_flags) /* O_ACCMODE, O_APPEND, O_NONBLOCK of the real description */           \
	F(u32, mode)	   /* st_mode of the real object */                                        \
	F(u64, rdev)	   /* st_rdev */                                                           \
	F(u64, ino)	   /* st_ino, shown by fstat of a stand-in */                              \
	F(u32, uid)	   /* st_uid */                                                            \
	F(u32, gid)	   /* st_gid */                                                            \
	F(u64, size)	   /* st_size at the time */                                               \
	F(i64, pos)	   /* a regular file's offset at the time; -1: it has none */
KRG_RECORD(stream_ref, 0x301, REC_STREAM_REF)

struct stream_config {
	const char
		*run_dir; /* of the node; nothing is left there: the FUSE mount is a detached one */
};

int stream_new(struct comm *c, const struct stream_config *config, struct stream **ret,
	       struct krg_err *err) KRG_MUST_CHECK;
int stream_start(struct stream *s, struct krg_err *err) KRG_MUST_CHECK;
void stream_stop(struct stream *s);
void stream_free(struct stream *s);
/* Node events (from service): all imports from / exports to it end. */
void stream_node_down(struct stream *s, nodeid node);

/* Origin.  fd is a descriptor of krgd on the real description (pidfd_getfd).  Exporting the same open file
 * description twice gives the same stand-in handle. */
int stream_export(struct stream *s, int fd, enum stream_kind kind, nodeid to,
		  struct rec_stream_ref *ret, struct krg_err *err) KRG_MUST_CHECK;
/* Origin: does another node have a stand-in for this end (O_RDONLY, O_WRONLY) of this pipe?  Then it is
 * shared, though only one process here may hold it. */
bool stream_pipe_is_exported(struct stream *s, const struct stat *st, int end);
/* Origin, after exporting a read end (others need none of this): while it is held, all that is in the pipe stays
 * there, and it can be cancelled though it was imported.  For an exec that may still stay. */
void stream_hold(struct stream *s, const struct rec_stream_ref *ref, bool hold);
/* The importer never imported it (the exec failed): undo one export. */
void stream_cancel(struct stream *s, const struct rec_stream_ref *ref, nodeid to);

/* Importer.  Returns a descriptor for the process, CLOEXEC, the caller's.  [net] */
int stream_import(struct stream *s, const struct rec_stream_ref *ref, int *ret_fd,
		  struct krg_err *err) KRG_MUST_CHECK;

/* Importer, of a stand-in that it was given and does not import (it cannot, or something else failed): the grant
 * goes back, whoever gave it. */
void stream_refuse(struct stream *s, const struct rec_stream_ref *ref);

/* Importer, as a process that had it has ended: a message that is sent to the origin from done on comes after what
 * that process did.  Pipe, write end: all that was written here up to now is in the origin's pipe, and the end of file
 * is said if nobody writes any more.  Read end: nobody reads it any more, and that is said, or somebody does.
 * Stand-in: all that was closed here up to now (of any stand-in) is closed at its origin.  done runs once, on any thread,
 * with no lock held; it must not wait.  Waits for the threads that serve stand-ins, which never wait. */
void stream_settled(struct stream *s, const struct rec_stream_ref *ref, void (*done)(void *ctx),
		    void *ctx);

/* Origin, of a pipe: what happened to the end here up to now (bytes, the end of file, nobody reads any more) is sent
 * on at once, as far as that goes without waiting.  What is sent to the importer after that comes after it, but for
 * a stream that has its own connection by now, whose bytes may come later.  Other kinds: nothing. */
void stream_push(struct stream *s, const struct rec_stream_ref *ref);

/* Terminals and signals: what only the part that knows processes can say.  Registered once.
 * tid is of krgd's pid namespace.  None of these waits; no lock is held. */
struct stream_caller {
	i32 sid, pgid;		   /* in the worlds; pgid 0: nobody that job control is for */
	bool ttin_acts, ttou_acts; /* SIGTTIN, SIGTTOU: neither ignored nor blocked */
};
struct stream_caller_ops {
	/* Importer: who calls? */
	void (*who)(void *ctx, u32 tid, struct stream_caller *ret);
	/* Origin: the group in front of a terminal, if it is the controlling one of that session; else 0. */
	i32 (*front)(void *ctx, u64 rdev, i32 sid);
	/* Importer: a call on a terminal from the background.  The caller's group gets the signal; the call waits
	 * for that, or for stream_background_end(). */
	void (*background)(void *ctx, u32 tid, int sig, u64 unique);
	/* Importer: a call was interrupted before it did anything.  True: stream_interrupted_end() will answer it,
	 * so that the kernel restarts it where it would (SA_RESTART). */
	bool (*interrupted)(void *ctx, u32 tid, u64 unique);
};
void stream_set_caller_ops(struct stream *s, const struct stream_caller_ops *ops, void *ctx);
void stream_background_end(struct stream *s, u64 unique, int code);
void stream_interrupted_end(struct stream *s, u64 unique);

/* If fd (of krgd, dup'ed from a process) is a stand-in: its reference, to pass on to `to`
 * ([net]: the origin is told).  -ENOENT: it is none. */
int stream_ref_of_fd(struct stream *s, int fd, nodeid to, struct rec_stream_ref *ret,
		     struct krg_err *err) KRG_MUST_CHECK;
/* What the real object is, of a stand-in: mode, rdev, ino, owner.  -ENOENT: fd is none.  Never waits. */
int stream_standin_ref(struct stream *s, int fd, struct rec_stream_ref *ret);
/* [net] What fstat(2) shows of the real object.  -ENOENT: fd is no stand-in. */
int stream_standin_stat(struct stream *s, int fd, struct stat *ret, struct krg_err *err);
/* [net] lseek(2), as all who share it see it: SEEK_SET, SEEK_CUR, SEEK_END.  The offset, or negative errno.
 * -ENOENT: fd is no stand-in, or of something that has no offset. */
i64 stream_lseek(struct stream *s, int fd, i64 off, int whence);
/* [net] fcntl(2) of what all who share the description have: F_GETFL, F_SETFL, F_GETPIPE_SZ, F_SETPIPE_SZ; of F_SETFL
 * only what is in `which`.  The call's result, or negative errno.  -ENOENT: fd is no stand-in. */
int stream_fcntl(struct stream *s, int fd, int cmd, int arg, int which);
/* Sockets.  [net], but nothing waits for the other end of the socket.  -ENOENT: fd is no stand-in of a socket. */
enum stream_socket { STREAM_SHUTDOWN = 1, STREAM_GETSOCKOPT = 2, STREAM_SETSOCKOPT = 3 };
/* shutdown(2) (a: how), getsockopt(2), setsockopt(2) of SOL_SOCKET (a: which, b: to what): the result or the int. */
i64 stream_socket(struct stream *s, int fd, enum stream_socket what, int a, int b);
/* recv(2), send(2) with MSG_DONTWAIT, and without SIGPIPE: bytes or negative errno; n up to 128 KiB. */
i64 stream_recv(struct stream *s, int fd, void *p, u32 n, bool peek);
i64 stream_send(struct stream *s, int fd, const void *p, u32 n);
/* Stand-ins that processes of this node have, now. */
bool stream_has_standins(struct stream *s);
/* Is it one?  Never waits. */
bool stream_fd_is_standin(struct stream *s, int fd);

/* ioctl(2) and fcntl(2) on the real description behind a stand-in (tty ioctls from the gate).  arg is
 * in/out, argsize bytes (0: the argument is the value `val`).  Returns the call's result or negative errno.  [net] */
int stream_ioctl(struct stream *s, int fd, u32 cmd, u64 val, void *arg, u32 argsize,
		 struct krg_err *err);

struct stream_stat {
	u64 exports, imports, standin_ops, relayed_bytes; /* since the start */
	u64 handles, standins, relays;			  /* now */
};
void stream_stat_get(struct stream *s, struct stream_stat *ret);
#endif
