/* comm.h - typed calls between nodes.
 *
 *	r = comm_call(c, to, OP_EPM_PREPARE, &args, timeout_ms, &reply, &err);   // [net]
 *	…decode reply.body…
 *	comm_reply_fini(&reply);
 *
 * An op is (service << 8 | n).  The body is one or more records (rec.h).  Handlers are registered
 * before comm_start() or at any time after.
 *
 * Delivery  A call is delivered at most once, and answered exactly once: by the handler, or with an
 *           error: -EHOSTDOWN the node is not in the view or died, -ETIMEDOUT, -ECANCELED,
 *           -ENOSYS no such op, -ESTALE the view number was refused, -EMSGSIZE.
 *           Messages from one node to another on one channel are delivered in order, exactly once
 *           while both live, also over a reconnect.
 * Errors    negative errno and text; an error of a handler travels with its text and node.
 * Ownership args stay the caller's; a reply is the caller's and must be fini'd.
 * Threads   any, many at once.  [net]: call with no lock held.
 * Limits    COMM_BODY_MAX a message; COMM_QUEUE_MAX bytes queued a peer and channel: senders wait
 *           (comm_call, comm_send) or get -EAGAIN (comm_try_send).
 */
#ifndef KRG_COMM_H
#define KRG_COMM_H
#include "buf.h"
#include "err.h"

struct comm;
struct kernetdev;
struct kernetdev_driver;

enum comm_service {
	COMM_SVC_COMM = 0,
	COMM_SVC_HOTPLUG = 1,
	COMM_SVC_SERVICE = 2,
	COMM_SVC_STREAM = 3,
	COMM_SVC_EPM = 4,
	COMM_SVC_SCHED = 5,
	COMM_SVC_KRGD = 6,
	COMM_SVC_TEST = 7,
};
#define COMM_OP(service, n) ((u16)((service) << 8 | (n)))

/* Small calls never wait behind bulk: each channel is a link of its own. */
enum comm_channel { COMM_CHAN_CALL, COMM_CHAN_BULK, COMM_CHAN_NR };

#define COMM_BODY_MAX  (16u << 20)
#define COMM_QUEUE_MAX (8u << 20)

enum comm_flags {
	/* The handler runs on the thread that reads the link (the I/O thread, or one that waits in
	 * comm_call()), in order of arrival from that peer and channel; handlers for other peers may
	 * run at the same time.  It must not wait for anything, not even a contended lock for long.
	 * Without it: on a worker, which may wait; side by side with others. */
	COMM_INLINE = 1,
	/* Messages of nodes outside the view are accepted too (hotplug only). */
	COMM_ANY_VIEW = 2,
	/* The op goes over COMM_CHAN_BULK. */
	COMM_BULK = 4,
};

struct comm_reply {
	struct krg_slice body; /* the handler's answer */
	void *storage;
};
void comm_reply_fini(struct comm_reply *r);
#define COMM_AUTO_REPLY __attribute__((cleanup(comm_reply_fini)))

/* One incoming message.  A call must be answered exactly once, from any thread, now or later;
 * the answer frees it.  A one-way message is freed by comm_req_done(). */
struct comm_req {
	nodeid from;
	u16 op;
	bool wants_answer;
	u64 call_id; /* of the trace, made by the caller */
	u64 view;    /* the sender's */
	struct krg_slice body;
};
typedef void (*comm_handler)(void *ctx, struct comm_req *req);

void comm_req_answer(struct comm_req *req, const struct krg_buf *body); /* NULL: empty */
void comm_req_fail(struct comm_req *req, int code, const char *fmt, ...) KRG_PRINTF(3, 4);
void comm_req_fail_err(struct comm_req *req, const struct krg_err *err);
void comm_req_done(struct comm_req *req); /* one-way only */
/* True once the caller has given up (cancel, deadline, death): long handlers look now and then. */
bool comm_req_cancelled(const struct comm_req *req);

struct comm_config {
	nodeid self;
	const char *listen_addr; /* numeric IPv4 or IPv6 */
	u16 listen_port;	 /* 0: any, see comm_port() */
	char cluster[64];
	u8 key[32];	  /* the cluster's key: both ends of a link prove that they have it */
	unsigned workers; /* threads for handlers that wait; grows up to 64 while all wait */
	/* Tests: another driver of kernetdev (kernetdev_driver.h); NULL: tcp. */
	const struct kernetdev_driver *driver;
	void *driver_ctx;
};

int comm_new(const struct comm_config *config, struct comm **ret,
	     struct krg_err *err) KRG_MUST_CHECK;
int comm_start(struct comm *c, struct krg_err *err) KRG_MUST_CHECK;
/* Calls end with -ECANCELED, links close, threads end. */
void comm_stop(struct comm *c);
void comm_free(struct comm *c);
u16 comm_port(const struct comm *c);
nodeid comm_self(const struct comm *c);

/* Each op once, and with the same flags on all nodes: the caller, too, takes them from its table. */
void comm_register(struct comm *c, u16 op, unsigned flags, comm_handler handler, void *ctx);

/* Who may be talked to.  Set by hotplug: address of a node (also before it is in the view, for a
 * join), the members of the view with its number.  Calls to nodes that are no longer members end
 * with -EHOSTDOWN (not those of COMM_ANY_VIEW ops).  A call with an older view number than the
 * receiver's is refused with -ESTALE, unless the op is COMM_ANY_VIEW, and made again when the
 * caller has that view; a one-way message is taken if its sender has been a member since.  What
 * is newer is held until this node has that view.  README.md, Views. */
int comm_peer_set(struct comm *c, nodeid node, const char *addr, u16 port) KRG_MUST_CHECK;
void comm_peer_forget(struct comm *c, nodeid node);
/* [net] Which node listens there (a seed is known by its address only)?  Both ends prove that they
 * have the cluster's key, and the other hears tag.  -EACCES: refused, the text says why; -EADDRINUSE: so did
 * the other's check. */
int comm_probe(struct comm *c, const char *addr, u16 port, u64 tag, u64 timeout_ms,
	       nodeid *ret_node, struct krg_err *err) KRG_MUST_CHECK;
/* May a node of that number come?  Asked on a link thread, with no lock held; must not wait.  Before
 * comm_start(), once. */
typedef int (*comm_probe_check)(void *ctx, nodeid from, u64 tag, struct krg_err *err);
void comm_probe_register(struct comm *c, comm_probe_check check, void *ctx);
/* The links, for their statistics and for tests. */
struct kernetdev *comm_kernetdev(struct comm *c);
void comm_view_set(struct comm *c, u64 view, const nodeid *members, unsigned n);
u64 comm_view(const struct comm *c);
bool comm_is_member(const struct comm *c, nodeid node);

/* [net] Call and answer.  timeout_ms 0: none (ends when the node dies).  A call to oneself runs the
 * handler here. */
int comm_call(struct comm *c, nodeid to, u16 op, const struct krg_buf *args, u64 timeout_ms,
	      struct comm_reply *ret, struct krg_err *err) KRG_MUST_CHECK;

/* The same without waiting: done runs once, as an inline handler does (must not wait, no lock is
 * held), with code 0 or an error.  The reply is done's to fini.  May be called with locks held;
 * -EAGAIN: the queue is full. */
typedef void (*comm_done)(void *ctx, int code, struct comm_reply *reply, const struct krg_err *err);
int comm_call_async(struct comm *c, nodeid to, u16 op, const struct krg_buf *args, u64 timeout_ms,
		    comm_done done, void *ctx, u64 *ret_call, struct krg_err *err) KRG_MUST_CHECK;
/* The call ends with -ECANCELED, unless it has ended. */
void comm_cancel(struct comm *c, u64 call);

/* [net] One-way.  0 means queued: it arrives unless this node or that dies.  In an inline handler
 * it does not wait: see comm_try_send(). */
int comm_send(struct comm *c, nodeid to, u16 op, const struct krg_buf *body) KRG_MUST_CHECK;
/* Never waits; -EAGAIN: the queue is full.  May be called with locks held. */
int comm_try_send(struct comm *c, nodeid to, u16 op, const struct krg_buf *body) KRG_MUST_CHECK;

/* [net] One call to many at once; ret[i] and codes[i] belong to to[i].  Returns how many failed. */
int comm_call_many(struct comm *c, const nodeid *to, unsigned n, u16 op, const struct krg_buf *args,
		   u64 timeout_ms, struct comm_reply *ret, int *codes) KRG_MUST_CHECK;

/* Bulk data without copying it around: a raw byte connection of its own to a peer, authenticated
 * like a link, handed to the caller as a connected, blocking TCP socket (for splice(2),
 * sendfile(2); to oneself: a Unix one).  The peer's acceptor gets the other end with the tag, on
 * a worker.  -ENOSYS: nobody there accepts this op.  [net] */
typedef void (*comm_raw_handler)(void *ctx, nodeid from, u64 tag, int fd /* the handler's */);
int comm_raw_connect(struct comm *c, nodeid to, u16 op, u64 tag, int *ret_fd,
		     struct krg_err *err) KRG_MUST_CHECK;
void comm_raw_register(struct comm *c, u16 op, comm_raw_handler handler, void *ctx);

struct comm_stat {
	u64 calls, answers, errors, stale, in_flight;
	u64 latency_ns_sum, latency_ns_max;
	u32 workers, workers_busy, queued;
};
void comm_stat_get(struct comm *c, struct comm_stat *ret);
#endif
