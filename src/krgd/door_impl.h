/* door_impl.h - the inside of the door: door.c (threads), door_conn.c (one connection). */
#ifndef KRG_DOOR_IMPL_H
#define KRG_DOOR_IMPL_H
#include "door.h"
#include "lock.h"

/* Where a connection is; moved under the door's lock. */
enum conn_state {
	CONN_READ,   /* waits for a request */
	CONN_BUSY,   /* a request is queued or handled */
	CONN_CLOSED, /* its socket is closed or about to be */
};

/* (c) constant, (o) the door's lock, (n) the I/O thread, (w) the worker that has it while BUSY */
struct door_conn {
	struct door *door;	 /* (c) */
	struct door_peer peer;	 /* (c) */
	gid_t *groups;		 /* (c) */
	int fd;			 /* (n) */
	u32 polled;		 /* (n) events epoll looks for */
	unsigned refs;		 /* (o) */
	unsigned slot;		 /* (o) in door->conn */
	enum conn_state state;	 /* (o) */
	bool queued;		 /* (o) in the queue of requests, or with a worker */
	bool dirty;		 /* (o) on the list of those the I/O thread must look at */
	struct door_conn *qnext; /* (o) in the queue of requests */
	struct door_conn *dnext; /* (o) in the list of the dirty */
	/* the message that comes in: (n), or (w) while queued */
	u8 head[4];
	unsigned head_len;
	u32 want;
	struct krg_buf in;
	int fds[DOOR_FDS_MAX];
	unsigned nfds;
	u64 in_since;		  /* (n) when it began; 0: none */
	struct krg_buf out;	  /* (o) */
	struct krg_buf sending;	  /* (n) */
	size_t sent;		  /* (n) */
	u64 out_since;		  /* (n) since when nothing could be sent; 0: not waiting */
	struct krg_buf held;	  /* (o) events until the answer */
	void *user;		  /* (o) */
	void (*drop)(void *user); /* (o) */
};

struct door_worker {
	struct door *door; /* (c) */
	pthread_t thread;  /* (c) */
	bool busy;	   /* (o) */
	uid_t uid;	   /* (o) whose request */
};

struct door {
	struct door_config config; /* (c) */
	char *path;		   /* (c) */
	int listen_fd;		   /* (n) */
	int epoll_fd, wake_fd;	   /* (c) */
	bool listening;		   /* (n) */
	bool sweep;		   /* (n) somebody has a deadline */
	pthread_t io;		   /* (c) */
	bool io_started;	   /* (c) after door_start() */
	struct krg_mutex lock;
	struct krg_cond work;		/* (o) a request was queued, or may be taken now */
	struct door_conn **conn;	/* (o) by slot */
	unsigned nconn;			/* (o) taken slots */
	unsigned nlive;			/* (o) allocated */
	struct door_conn *dirty;	/* (o) */
	struct door_conn *queue;	/* (o) */
	struct door_worker *worker;	/* (o) */
	unsigned nworkers, nbusy;	/* (o) */
	bool refusing, stopping, ended; /* (o) */
	struct door_stat stat;		/* (o) */
};

bool door_is_refusing(struct door *d);

/* ---- door_conn.c ---- */
/* I/O thread.  Takes fd; NULL: its credentials cannot be had. */
struct door_conn *door_conn_new(struct door *d, int fd);
void door_conn_free(struct door_conn *c);
/* I/O thread: read what is there.  1: a message is complete; 0: not yet; <0: drop the client. */
int door_conn_read(struct door_conn *c, u64 now_ns);
/* I/O thread: send what can be sent.  1: all; 0: more later; <0: drop the client. */
int door_conn_write(struct door_conn *c, u64 now_ns);
/* Worker: the message that came in, to its answer. */
void door_conn_serve(struct door_conn *c, struct krg_buf *ret);
#endif
