/* comm_impl.h - calls, requests and workers, for the files of this folder only.
 *
 * Locks:  c - const after new   k - c->lock (class calls)   w - c->work_lock (class workers)
 *         a - atomic   n - its own thread
 */
#ifndef KRG_COMM_IMPL_H
#define KRG_COMM_IMPL_H
#include "clock.h"
#include "comm.h"
#include "comm_msg.h"
#include "kernetdev_driver.h"
#include "lock.h"

#define COMM_OPS	  4096 /* services 0 to 15 */
#define COMM_BUCKETS	  1024
#define COMM_WORKERS_MAX  64
#define COMM_GROW_NS	  (5 * KRG_MSEC)  /* a job waited so long: one more worker */
#define COMM_SHRINK_NS	  (10 * KRG_NSEC) /* a worker had nothing to do so long: it ends */
#define COMM_VIEW_WAIT_NS KRG_NSEC	  /* how long a call waits for the view that refused it */
#define COMM_RAW_MS	  5000

struct op {
	unsigned flags;
	comm_handler handler;
	void *ctx;
};
struct raw_op {
	comm_raw_handler handler;
	void *ctx;
};

/* A call of this node that has not ended.  Where it stands is where it is: in the table (nobody
 * has ended it); out of it (whoever took it out ends it). */
struct call {
	struct call *hash_next;	   /* (k) */
	struct call *next, **prev; /* (k) all, for scans */
	u64 id;			   /* (c) */
	nodeid to;		   /* (c) */
	u16 op;
	u8 chan;
	bool any_view;
	u32 session; /* (k) of the link, when it was sent */
	u64 view;    /* (k) that it was sent with */
	u64 start_ns;
	struct kernetdev_waiter waiter; /* who waits, if done is NULL */
	/* the end, written by who took it out of the table */
	int code;
	bool stale; /* refused for its view, which is older than ->code_view */
	u64 code_view;
	struct comm_reply reply;
	struct krg_err err;
	/* calls without a waiting thread */
	comm_done done;
	void *ctx;
	u64 deadline_ns;
	u64 parked_until_ns;	/* (k) waits for a newer view; 0: does not */
	struct krg_buf args;	/* to send it again */
	struct call *done_next; /* (k) c->finished */
};

/* What a worker does. */
struct job {
	struct job *next;
	void (*run)(struct job *j); /* frees it */
	void (*drop)(struct job *j);
	u64 queued_ns;
};

struct req {
	struct comm_req pub; /* first */
	struct job job;
	struct comm *c;
	struct kernetdev_msg *m;
	const struct op *op;
	_Atomic bool cancelled; /* (a) */
	struct req *hash_next;	/* (k) calls only */
	bool in_table;		/* (k) */
};

/* What a node newer than our view has sent, until we have that view. */
struct held {
	struct kernetdev_msg *first, **last; /* (k) */
	bool busy;			     /* (k) the first of it is being handled */
};

struct comm {
	struct comm_config config;		    /* (c) */
	struct kernetdev *kd;			    /* (c) */
	_Atomic(struct op *) ops[COMM_OPS];	    /* (a) */
	_Atomic(struct raw_op *) raw_ops[COMM_OPS]; /* (a) */
	comm_probe_check probe_check;		    /* (c) after start */
	void *probe_ctx;			    /* (c) after start */

	struct krg_mutex lock;		  /* class calls */
	struct krg_cond cond;		  /* the view has changed, or stop; self queue has room */
	struct call *calls[COMM_BUCKETS]; /* (k) */
	struct call *all;		  /* (k) */
	struct req *reqs[COMM_BUCKETS];	  /* (k) calls that came */
	struct call *finished, **finished_last; /* (k) done() is to be called */
	_Atomic u64 view;			/* (a) written under (k) */
	_Atomic u64 since
		[KRG_NODES_MAX]; /* (a) written under (k): the view that it joined in; 0: not in */
	struct held held[KRG_NODES_MAX][COMM_CHAN_NR]; /* (k) */
	bool held_some;				       /* (k) */
	struct kernetdev_msg *own, **own_last; /* (k) messages to oneself, for the I/O thread */
	u64 own_bytes;			       /* (k) one-way ones that are not done */
	_Atomic bool stopping;		       /* (a) written under (k) */
	_Atomic unsigned inside;	       /* (a) threads in a function that waits */
	u64 next_deadline_ns;		       /* (k) work() looks no later */
	struct comm_stat stat;		       /* (k) */

	struct krg_mutex work_lock; /* class workers */
	struct krg_cond work_cond;
	struct job *jobs, **jobs_last;	 /* (w) */
	unsigned jobs_nr, workers, idle; /* (w) */
	unsigned waiting;		 /* (w) workers that wait in a call */
	bool work_stop;			 /* (w) */
	struct krg_cond work_end;	 /* (w) a worker has ended */
};

/* comm_view.c */
bool comm_may_send(const struct comm *c, nodeid to, bool any_view);
void comm_held_release(struct comm *c);
void comm_held_drop(struct comm *c, nodeid peer, u8 chan);
/* Is the message for now?  False: it was taken (held or refused). */
bool comm_view_admit(struct comm *c, struct kernetdev_msg *m, const struct comm_msg *h);

/* comm_call.c */
const struct op *comm_op(const struct comm *c, u16 op);
void comm_on_answer(struct comm *c, struct kernetdev_msg *m, const struct comm_msg *h);
/* Ends the calls that the test says yes to.  The lock is held. */
typedef bool (*comm_call_test)(const struct call *k, const void *arg);
void comm_calls_end_locked(struct comm *c, comm_call_test test, const void *arg, int code,
			   const char *why) TSA(requires_capability(lc_calls));
/* done() of calls that have ended elsewhere; deadlines; calls that wait for a view */
u64 comm_calls_work(struct comm *c, u64 now);
void comm_finished_run(struct comm *c);

/* comm_req.c */
void comm_recv(void *ctx, struct kernetdev_msg *m);
void comm_deliver(struct comm *c, struct kernetdev_msg *m, const struct comm_msg *h);
void comm_refuse(struct comm *c, const struct kernetdev_msg *m, const struct comm_msg *h,
		 const struct krg_err *err, u8 flags);
void comm_own_send(struct comm *c, struct kernetdev_msg *m, bool now);
void comm_own_run(struct comm *c);
void comm_reqs_cancel_locked(struct comm *c, nodeid from, int chan)
	TSA(requires_capability(lc_calls));
void comm_reqs_free(struct comm *c);
extern _Thread_local bool comm_in_upcall;

/* comm_work.c */
void comm_job_queue(struct comm *c, struct job *j);
/* A worker that is about to wait, and has waited. */
void comm_worker_wait_begin(struct comm *c);
void comm_worker_wait_end(struct comm *c);
u64 comm_workers_work(struct comm *c, u64 now);
void comm_workers_start(struct comm *c);
void comm_workers_stop(struct comm *c);
int comm_raw_check(void *ctx, nodeid from, u16 op);
void comm_raw_ready(void *ctx, nodeid from, u16 op, u64 tag, int fd);

static inline unsigned comm_bucket(u64 id)
{
	return (unsigned)(id % COMM_BUCKETS);
}
#endif
