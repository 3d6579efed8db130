/* stream_relay.h - inside the stream part: pipe streams.
 *
 * A stream has two endpoints, on two nodes: the sender takes bytes out of a pipe, the receiver puts
 * them into one.  struct relay is an endpoint.  Bytes are named by their position since the
 * stream began; the sender holds what the receiver has not acknowledged, so a stream survives its connection, and can
 * change how it travels, at any position.
 *
 * Locks  (c) constant  (t) relay_set->lock, class handles  (r) relay->lock, class relay
 *
 * Nobody else includes this.
 */
#ifndef KRG_STREAM_RELAY_H
#define KRG_STREAM_RELAY_H
#include "stream_impl.h"

#define RELAYS_MAX	 16384u
#define RELAY_PIPE_SIZE	 (1 << 20)    /* of the importer's pipe and of the holding pipe */
#define RELAY_WIDE	 (256 << 10)  /* a pipe that is the bottleneck */
#define RELAY_WINDOW	 (64u << 10)  /* by messages: unacknowledged at most */
#define RELAY_MSG_ACK	 (16u << 10)  /* by messages: acknowledged every so many bytes */
#define RELAY_RAW_ACK	 (128u << 10) /* on a connection of its own */
#define RELAY_HOLD_MAX	 (256u << 10) /* copies held in memory; more than RELAY_RAW_ACK */
#define RELAY_SMALL	 (8u << 10)   /* up to here read and send, above tee and splice */
#define RELAY_FEW	 1024	      /* received at once: surely all there is for now */
#define RELAY_RAW_BYTES	 (64u << 10)  /* after so many bytes, or so many messages, */
#define RELAY_RAW_MSGS	 32u	      /* a stream gets its own connection */
#define RELAY_CONN_FAILS 3u	      /* then it stays with messages */
#define RELAY_RETRY_MS	 5	      /* a full send queue is tried again after */

enum relay_state {
	RELAY_WAITING,	  /* exported, and not imported yet */
	RELAY_MESSAGES,	  /* data travels in messages of comm */
	RELAY_CONNECTING, /* sender: has a connection, waits for the position to begin at */
	RELAY_RAW,	  /* data travels on a connection of its own */
	RELAY_BROKEN,	  /* sender: the connection is lost, waits for the position to go on from */
	RELAY_CLOSED,
	RELAY_STATE_NR
};

/* What was sent and is not acknowledged: pieces in order, in memory or in a pipe (tee(2): the
 * pages are shared with the socket, nothing is copied). */
struct hold_piece {
	bool in_pipe;
	u64 len;
};
struct hold {
	struct hold_piece *pieces; /* first .. first + nr, in order of position */
	u32 first, nr, room;
	struct krg_buf mem; /* from mem_first on */
	size_t mem_first;
	int pipe[2]; /* -EBADF: none; made when first needed */
	int null;    /* /dev/null, to drop bytes from the pipe */
};

/* Somebody waits until all below pos has arrived, and the end of file (or that nobody reads any more) is told. */
struct settle {
	struct settle *next;
	u64 pos;
	bool end; /* the pipe has no writer any more */
	void (*done)(void *ctx);
	void *ctx;
};

/* Control messages that are still to be sent (comm's queue was full). */
enum relay_due {
	DUE_OPEN = 1,
	DUE_EOF = 2,
	DUE_ACK = 4,
	DUE_RESTART = 8,
	DUE_BROKEN = 16,
	DUE_CLOSED = 32,
	DUE_SETTLE = 64
};

struct relay {
	unsigned magic;
#define RELAY_MAGIC 0x4e1a7000u
	struct stream *s;		  /* (c) */
	u64 num;			  /* (c) this node's own number for it, in epoll */
	nodeid origin;			  /* (c) with id: the stream's name on both nodes */
	u64 id;				  /* (c) */
	nodeid peer;			  /* (c) the other endpoint's node */
	bool sender;			  /* (c) */
	int ep;				  /* (c) the epoll of its thread */
	struct relay *num_next, *id_next; /* (t) */
	_Atomic u32 refs;		  /* the table's, and whoever works on it */
	bool unlinked, seen_down;	  /* (t) */

	struct krg_mutex lock;
	enum relay_state state; /* (r) */
	int fd;			/* (r) the pipe's end, never waits */
	int sock;		/* (r) RELAY_CONNECTING, RELAY_RAW */
	u32 fd_events,
		sock_events; /* (r) what epoll looks for; RELAY_NO_EVENTS: it does not know the fd */
#define RELAY_NO_EVENTS 0x40000000u
	u32 due;	/* (r) */
	bool again;	/* (r) to be tried again soon, though no event will come */
	bool peer_dead; /* (r) */
	bool widened;	/* (r) the pipe has been made larger */

	/* sender: acked <= sent <= end; hold has [acked, end) and, in its pipe, up to teed */
	u64 acked, sent, end, teed; /* (r) */
	/* all below is in the peer's pipe; a restart acknowledges also what still waits for room there */
	u64 arrived;		 /* (r) */
	struct hold hold;	 /* (r) */
	u32 msgs;		 /* (r) */
	bool eof;		 /* (r) the pipe has ended at `end` */
	bool drained;		 /* (r) the pipe had no more than was read last */
	bool had_writer;	 /* (r) since it is ours: its end will be an event */
	bool bulk;		 /* (r) it had: worth a splice */
	bool held, opened;	 /* (r) waiting: by stream_hold(); imported */
	bool connecting;	 /* (r) in the connector's queue */
	u32 conn_fails;		 /* (r) */
	struct relay *conn_next; /* the connector's lock */
	u8 hello[8];		 /* (r) the position, as it arrives; later: acks */
	u32 hello_n;		 /* (r) */

	struct settle *settles; /* (r) who waits for positions to arrive */
	u64 settle_pos;		/* (r) the highest of them */

	/* receiver */
	u64 want;	   /* (r) the sender waits for the acknowledgement of all below */
	u64 got, told;	   /* (r) have all below got; the sender knows of all below told, put in */
	struct krg_buf in; /* (r) came in messages, does not fit into the pipe yet */
	bool eof_known;	   /* (r) */
	u64 eof_pos;	   /* (r) */
};

/* stream_hold.c */
void hold_init(struct hold *h);
void hold_fini(struct hold *h);
void hold_put(struct hold *h, const void *p, size_t n);
/* Copies up to max bytes of pipe src without taking them.  -EAGAIN: full; -ENOSYS: cannot. */
ssize_t hold_tee(struct hold *h, int src, size_t max);
bool hold_can_tee(struct hold *h);
size_t hold_mem_len(const struct hold *h);
/* The last n bytes in memory. */
const u8 *hold_mem_tail(const struct hold *h, size_t n);
/* Forget the first n bytes. */
void hold_drop(struct hold *h, u64 n);
/* All of it into memory; the last `extra` bytes of the pipe are forgotten. */
void hold_flatten(struct hold *h, u64 extra);

/* stream_pump.c: relay->lock held */
void pump_locked(struct relay *r);
void pump_ack_locked(struct relay *r, u64 pos);
void pump_restart_locked(struct relay *r, u64 pos);
void pump_data_locked(struct relay *r, u64 pos, struct krg_slice data);
void pump_sock_locked(struct relay *r);
void pump_broken_locked(struct relay *r);
void pump_due_locked(struct relay *r);

/* stream_relay.c */
bool relay_move_locked(struct relay *r, enum relay_state to);
void relay_interest_locked(struct relay *r, int fd, u32 *have, u32 want);
/* Ends it here; the peer is told if tell (by who receives). */
void relay_close_locked(struct relay *r, bool tell);
void relay_want_connection_locked(struct relay *r);
void relay_retry_locked(struct relay *r);
void relay_count(struct stream *s, u64 bytes);
#endif
