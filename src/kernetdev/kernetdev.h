/* kernetdev.h - links between nodes: messages that arrive once and in order, over connections
 * that may break.
 *
 *	kernetdev_new(&config, &kd, &err);  kernetdev_start(kd, &err);
 *	kernetdev_peer_set(kd, 2, "10.0.0.2", 4000);
 *	m = kernetdev_msg_new(len);  memcpy(kernetdev_msg_data(m), …);
 *	r = kernetdev_queue(kd, 2, 0, m, 0, &session);
 *	kernetdev_flush(kd, 2, 0);
 *
 * A link is one (peer, channel).  Its *session* lives as long as both ends remember it: over any
 * number of connections, messages are delivered exactly once and in order.  When the other end has
 * been restarted (or has forgotten this node) the session is over: the upcall reset() says so, and
 * what was queued or unacknowledged is gone.
 *
 * Errors     negative errno; bytes from the wire that are wrong drop the connection, with a log.
 * Ownership  a queued message is the link's; a received one is the upcall's until
 *            kernetdev_msg_done().
 * Threads    any.  Upcalls come with no lock held, from the I/O thread or from a thread inside
 *            kernetdev_wait(); those of one link never at once, those of two links may.
 * Blocking   only kernetdev_wait(), kernetdev_wait_room(), kernetdev_raw_connect(),
 *            kernetdev_probe(), kernetdev_stop().
 * Limits     KERNETDEV_MSG_MAX a message; KERNETDEV_WINDOW bytes sent and not yet consumed a link.
 */
#ifndef KRG_KERNETDEV_H
#define KRG_KERNETDEV_H
#include "base.h"
#include "err.h"
#include <stdatomic.h>

#define KERNETDEV_CHAN_NR 2
#define KERNETDEV_MSG_MAX ((16u << 20) + 4096)
#define KERNETDEV_WINDOW  (8u << 20)
#define KERNETDEV_COST	  256u /* a message counts as its length and this */
#define KERNETDEV_HEADER  32u

struct kernetdev;
struct kernetdev_driver;

struct kernetdev_msg {
	struct kernetdev_msg *next; /* whoever owns the message */
	u64 seq;
	u32 len;
	u32 session; /* of the link, when it was received */
	nodeid peer;
	u8 chan;
	bool counted; /* takes room in the window */
	u8 frame[];   /* header, then len bytes */
};
struct kernetdev_msg *kernetdev_msg_new(u32 len);
static inline u8 *kernetdev_msg_data(struct kernetdev_msg *m)
{
	return m->frame + KERNETDEV_HEADER;
}
/* One that was never queued. */
void kernetdev_msg_free(struct kernetdev_msg *m);

struct kernetdev_upcalls {
	void (*recv)(void *ctx, struct kernetdev_msg *m);
	/* The session before this number is over. */
	void (*reset)(void *ctx, nodeid peer, u8 chan, u32 session);
	/* A connection could not be made: code -EACCES, refused by what was said, else the network.
	 * It is tried again. */
	void (*unreachable)(void *ctx, nodeid peer, u8 chan, const struct krg_err *err);
	/* A raw connection; fd is the upcall's.  <0: refused before it is made (fd is -1). */
	int (*raw_check)(void *ctx, nodeid from, u16 op);
	void (*raw)(void *ctx, nodeid from, u16 op, u64 tag, int fd);
	/* Who has the key and that number asks who is here (kernetdev_probe()), before there is a link.  <0: it is
	 * told that it is refused, and why. */
	int (*probe_check)(void *ctx, nodeid from, u64 tag, struct krg_err *err);
	/* On the I/O thread, after kernetdev_poke() or when the time it returned last has come
	 * (monotonic ns, UINT64_MAX: none). */
	u64 (*work)(void *ctx, u64 now_ns);
};

struct kernetdev_config {
	nodeid self;
	const char *listen_addr; /* numeric */
	u16 listen_port;
	char cluster[64];
	u8 key[32];
	const struct kernetdev_upcalls *up;
	void *ctx;
	const struct kernetdev_driver *driver; /* NULL: tcp */
	void *driver_ctx;
};

int kernetdev_new(const struct kernetdev_config *config, struct kernetdev **ret,
		  struct krg_err *err) KRG_MUST_CHECK;
int kernetdev_start(struct kernetdev *kd, struct krg_err *err) KRG_MUST_CHECK;
/* Closes all connections and ends the I/O thread; no upcall comes afterwards, but from threads
 * that are still inside kernetdev_wait(). */
void kernetdev_stop(struct kernetdev *kd);
void kernetdev_free(struct kernetdev *kd);
u16 kernetdev_port(const struct kernetdev *kd);

/* -EINVAL: not a numeric address. */
int kernetdev_peer_set(struct kernetdev *kd, nodeid peer, const char *addr,
		       u16 port) KRG_MUST_CHECK;
/* Ends the sessions, without an upcall; connections are closed, and no more are made. */
void kernetdev_peer_forget(struct kernetdev *kd, nodeid peer);

/* A peer is given up; later it is back, perhaps as a new process that no connection has shown yet.
 * If so, what is queued from peer_again() on is not lost, but delivered in the new session. */
void kernetdev_peer_gone(struct kernetdev *kd, nodeid peer);
void kernetdev_peer_again(struct kernetdev *kd, nodeid peer);

/* Messages of these flags are not counted in the window: answers, and what must not wait. */
enum kernetdev_flags {
	KERNETDEV_UNCOUNTED = 1,
	KERNETDEV_SESSION = 2, /* only if the link's session is still *session: else -EHOSTDOWN */
};
/* Puts m at the end of the link's queue; *session becomes the link's.  -EAGAIN: the window is
 * full; -EHOSTDOWN: no address known and never heard of; -ECANCELED: stopped.  m stays the
 * caller's on error.  May be called with locks of outer classes held; so may kernetdev_flush(). */
int kernetdev_queue(struct kernetdev *kd, nodeid peer, u8 chan, struct kernetdev_msg *m,
		    unsigned flags, u32 *session) KRG_MUST_CHECK;
/* Writes what is queued, as far as the connection takes it. */
void kernetdev_flush(struct kernetdev *kd, nodeid peer, u8 chan);
/* Returns when there may be room for a message of len bytes, at the deadline, or when
 * kernetdev_wake_room() has been called since kernetdev_room_gen() returned gen. */
u32 kernetdev_room_gen(struct kernetdev *kd);
void kernetdev_wait_room(struct kernetdev *kd, nodeid peer, u8 chan, u32 len, u32 gen,
			 u64 deadline_ns);
void kernetdev_wake_room(struct kernetdev *kd);
/* The receiver has no more use for the message: gives the sender room again, and frees. */
void kernetdev_msg_done(struct kernetdev *kd, struct kernetdev_msg *m);

/* Somebody who waits for something that a message of this link will bring.  The waiting thread
 * reads the link itself when nobody else does, so that no other thread must be woken for it. */
struct kernetdev_waiter {
	_Atomic u32 state;		      /* (a) */
	_Atomic(void *) link;		      /* (a) */
	_Atomic u64 thread;		      /* (a) */
	struct kernetdev_waiter *next, *prev; /* (l) among those of the link that sleep */
	bool listed;			      /* (l) */
	void *given;			      /* (l) the connection that it is to read now */
};
void kernetdev_waiter_init(struct kernetdev_waiter *w);
/* Until done or the deadline (UINT64_MAX: none): returns whether done. */
bool kernetdev_wait(struct kernetdev *kd, nodeid peer, u8 chan, struct kernetdev_waiter *w,
		    u64 deadline_ns);
/* *w may be gone right after. */
void kernetdev_waiter_done(struct kernetdev_waiter *w);

/* The work() upcall soon. */
void kernetdev_poke(struct kernetdev *kd);
/* The driver is a simulator: one thread does everything, and nobody may wait. */
bool kernetdev_is_simulated(const struct kernetdev *kd);
bool kernetdev_on_io_thread(const struct kernetdev *kd);

/* A byte connection of its own, authenticated: a blocking socket, the caller's. */
int kernetdev_raw_connect(struct kernetdev *kd, nodeid peer, u16 op, u64 tag, u64 timeout_ms,
			  int *ret_fd, struct krg_err *err) KRG_MUST_CHECK;
/* Who listens there: it proves to have the cluster's key. */
int kernetdev_probe(struct kernetdev *kd, const char *addr, u16 port, u64 tag, u64 timeout_ms,
		    nodeid *ret_node, struct krg_err *err) KRG_MUST_CHECK;

struct kernetdev_stat {
	bool up;
	u64 messages_in, messages_out, bytes_in, bytes_out; /* frames, without resends */
	u64 connects, resent, resets;
	u64 queued_bytes; /* not yet acknowledged */
	u64 window_used;
};
/* -ENOENT: no such link. */
int kernetdev_stat_get(struct kernetdev *kd, nodeid peer, u8 chan,
		       struct kernetdev_stat *ret) KRG_MUST_CHECK;
/* For tests: the connection breaks as if the network had. */
void kernetdev_break(struct kernetdev *kd, nodeid peer, u8 chan);
#endif
