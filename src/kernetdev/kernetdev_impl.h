/* kernetdev_impl.h - links and connections, for the files of this folder only.
 *
 * Locks:  c - const after new   l - link->lock   t - kd->lock (class links)   a - atomic
 *         i - the I/O context only   r - whoever has set conn->reading
 */
#ifndef KRG_KERNETDEV_IMPL_H
#define KRG_KERNETDEV_IMPL_H
#include "clock.h"
#include "kernetdev_driver.h"
#include "kernetdev_frame.h"
#include "kernetdev_shake.h"
#include "lock.h"
#include "rng.h"

#define KD_RBUF		  (64u << 10)
#define KD_IOV_MAX	  64
#define KD_WRITE_MAX	  (512u << 10)
#define KD_ACK_DELAY_NS	  (20 * KRG_MSEC) /* to twice this, see kd_link_tick() */
#define KD_ACK_BYTES	  (1u << 20)	  /* unacknowledged bytes or messages: an ACK at once */
#define KD_ACK_MESSAGES	  512
#define KD_SHAKE_NS	  (3 * KRG_NSEC) /* a handshake may take */
#define KD_STALL_NS	  (3 * KRG_NSEC) /* no ack for what was sent: the connection is dead */
#define KD_BACKOFF_MIN	  (10 * KRG_MSEC)
#define KD_BACKOFF_MAX	  KRG_NSEC
#define KD_STRANGERS_MAX  512		   /* connections accepted and not yet authenticated */
#define KD_SHAKE_GRACE_NS (300 * KRG_MSEC) /* that no stranger is cut short */
#define KD_STRANGE_LOGS	  20		   /* lines a second about refused connections */

/* A connection.  A table of what each state may become is in kernetdev_conn.c. */
enum kd_conn_state {
	KD_CONN_CONNECTING, /* outbound: the network is at it */
	KD_CONN_SHAKE,	    /* handshake */
	KD_CONN_PENDING,    /* authenticated, waits until the link's old connection is let go */
	KD_CONN_UP,	    /* it is link->conn */
	KD_CONN_DYING,	    /* closed for everybody, freed when nobody uses it */
	KD_CONN_STATE_NR
};

struct kd_link;

struct kd_conn {
	struct kd_conn *next;	  /* (i) kd->conns */
	struct kernetdev *kd;	  /* (c) */
	void *pipe;		  /* (c) from connect on */
	enum kd_conn_state state; /* (i) but UP -> DYING: (l), see ->dead */
	bool outbound;		  /* (c) */
	struct kd_link *link;	  /* (i) set once */
	struct kd_shake *shake;	  /* (i) NULL when up */
	u64 deadline_ns;	  /* (i) of the handshake */
	size_t shake_sent;	  /* (i) bytes of shake->out */
	/* once it is up */
	u32 session;		    /* (c) */
	bool dead;		    /* (l) to be let go of */
	int dead_code;		    /* (l) why */
	bool reading;		    /* (l) somebody reads it */
	bool led;		    /* (l) and that is not the I/O context */
	bool out_blocked;	    /* (l) waits for room in the network */
	_Atomic u64 received;	    /* (a) last seq; only the reader adds */
	u64 counted;		    /* (r) bytes of counted messages, as ->credit of the link */
	u8 *rbuf;		    /* (r) KD_RBUF */
	size_t rlen;		    /* (r) */
	struct kernetdev_msg *rmsg; /* (r) a long message that is being read in place */
	size_t rmsg_have;	    /* (r) */
	/* what the frames of this batch said */
	u64 batch_ack, batch_credit; /* (r) */
};

struct kd_link {
	struct kernetdev *kd; /* (c) */
	nodeid peer;	      /* (c) */
	u8 chan;	      /* (c) */
	struct krg_mutex lock;
	struct krg_cond room;
	/* session */
	u64 incarnation; /* (l) ours, random */
	u64 known;	 /* (l) the peer's; 0: none yet */
	bool gone;	 /* (l) given up since the last connection was made */
	u64 fresh_from; /* (l) messages from this on are for the peer's next life, if there is one; 0 */
	_Atomic u32 session; /* (l) counts resets */
	/* sending */
	struct kernetdev_msg *first, **last, *unsent; /* (l) first to unsent: not yet acked */
	size_t unsent_off;			      /* (l) bytes of ->unsent that are written */
	u64 next_seq;				      /* (l) */
	u64 acked;				      /* (l) */
	u64 counted; /* (l) bytes of counted messages ever queued in this session */
	u64 credit;  /* (l) of those, consumed by the peer */
	u64 queued_bytes, unsent_bytes; /* (l) */
	bool writing;			/* (l) somebody is in write, without the lock */
	bool ack_now;			/* (l) an ACK frame is wanted */
	u8 ack_frame[KERNETDEV_HEADER]; /* (l) being written */
	size_t ack_off;	 /* (l) bytes of it written; KERNETDEV_HEADER: none under way */
	u64 progress_ns; /* (l) the first tick since bytes last went or came; 0: none yet */
	/* receiving */
	u64 received;		   /* (l) as of when no connection is up */
	u64 received_counted;	   /* (l) the same, bytes */
	u64 consumed;		   /* (l) */
	u64 credit_told, ack_told; /* (l) */
	bool ack_pending;	   /* (l) there is something to tell */
	bool ack_seen;		   /* (l) and the last tick saw it */
	/* connection */
	struct kd_conn *conn;	 /* (l) up, or dead and not yet let go */
	struct kd_conn *attempt; /* (i) outbound, in handshake */
	_Atomic bool wanted;   /* (a) written under (l): to be connected when there is an address */
	bool abort_attempt;    /* (l) forget() wants it gone */
	bool forget_wanted;    /* (l) by the writer, when it is done */
	u64 retry_ns;	       /* (i) not before */
	u64 backoff_ns;	       /* (i) */
	unsigned waiting_room; /* (l) */
	int kick_fd;	       /* (l) eventfd; wakes a reader that waits in the network */
	_Atomic u64 activity;  /* (a) batches read */
	struct kernetdev_waiter *sleepers; /* (l) that wait while another reads */
	struct kernetdev_stat stat;	   /* (l) */
};

struct kd_addr {
	bool set;
	char addr[64];
	u16 port;
};

struct kernetdev {
	struct kernetdev_config config;					   /* (c) */
	const struct kernetdev_driver *drv;				   /* (c) */
	void *net;							   /* (c) */
	struct krg_mutex lock;						   /* class links */
	struct kd_addr addr[KRG_NODES_MAX];				   /* (t) */
	_Atomic(struct kd_link *) links[KRG_NODES_MAX][KERNETDEV_CHAN_NR]; /* (a) made under (t) */
	struct kd_conn *conns;						   /* (i) */
	unsigned strangers;						   /* (i) */
	u64 strange_log_ns;	  /* (i) refusals are logged at most so often */
	unsigned strange_dropped; /* (i) */
	_Atomic bool stopping;	  /* (a) */
	_Atomic u32 room_gen;	  /* (a) */
	_Atomic u64 next_tick_ns; /* (a) when the I/O context looks again */
	_Atomic bool soon;	  /* (a) next_tick_ns is within KD_ACK_DELAY_NS */
	_Atomic bool reap_wanted; /* (a) a connection has died */
	_Atomic bool work_wanted; /* (a) kernetdev_poke() */
	u64 work_ns;		  /* (i) when work() wants to be called */
	u64 activity;		  /* (i) messages seen by the last tick */
	struct krg_rng rng;	  /* (i) jitter */
	bool started;		  /* (c) */
};

void kd_conn_free_all(struct kernetdev *kd);

/* kernetdev_wait.c */
/* One that sleeps is to read: it is to be woken by kd_lead_wake(), without the lock.  NULL: there is none. */
_Atomic u32 *kd_lead_give_locked(struct kd_conn *c) TSA(requires_capability(lc_link));
void kd_lead_wake(_Atomic u32 *word);

/* kernetdev_link.c */
struct kd_link *kd_link_get(struct kernetdev *kd, nodeid peer, u8 chan);
struct kd_link *kd_link_find(struct kernetdev *kd, nodeid peer, u8 chan);
void kd_link_free(struct kd_link *l);
void kd_link_flush_locked(struct kd_link *l) TSA(requires_capability(lc_link));
void kd_link_reset_locked(struct kd_link *l, bool drop) TSA(requires_capability(lc_link));
void kd_link_renew_locked(struct kd_link *l) TSA(requires_capability(lc_link));
void kd_link_kick(struct kd_link *l);
void kd_link_forget_locked(struct kd_link *l) TSA(requires_capability(lc_link));
/* The I/O context is to look at everything no later than this. */
void kd_tick_arm(struct kernetdev *kd, u64 at_ns);
void kd_conn_interest_locked(struct kd_conn *c) TSA(requires_capability(lc_link));
/* acked up to seq, consumed up to credit.  -EBADMSG: more than was sent. */
int kd_link_acked_locked(struct kd_link *l, u64 seq, u64 credit) TSA(requires_capability(lc_link));
/* Nobody uses the connection: it stops being the link's. */
void kd_link_detach_locked(struct kd_link *l) TSA(requires_capability(lc_link));
void kd_link_attach_locked(struct kd_link *l, struct kd_conn *c) TSA(requires_capability(lc_link));
/* The connection is no good any more: everybody is to let go of it. */
void kd_conn_kill_locked(struct kd_conn *c, int code) TSA(requires_capability(lc_link));
/* Reads what is there (or waits for it) and delivers it; the caller has set ->reading.  Returns
 * false when the connection is dead. */
bool kd_conn_read(struct kd_conn *c, bool wait, u64 deadline_ns);
void kd_conn_read_end(struct kd_conn *c);
/* ACKs that are due; returns when to look again. */
u64 kd_link_tick(struct kd_link *l, u64 now);
u64 kd_link_received_locked(const struct kd_link *l) TSA(requires_capability(lc_link));

static inline u64 kd_msg_cost(const struct kernetdev_msg *m)
{
	return (u64)m->len + KERNETDEV_COST;
}
#endif
