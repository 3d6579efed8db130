/* door.h - the server of the door: clients, messages, workers.  What the ops do is the caller's.
 *
 *	static const struct door_op ops[] = {{"version", 0, on_version}, …};
 *	door_new(&config, &door, &err); door_start(door, &err); … door_stop(door); door_free(door);
 *
 * A handler runs on a worker thread, may wait, and fills the answer object (0) or says why not
 * (negative errno).  It may keep the connection (door_conn_ref()) to send events later; an event
 * that comes while a request of the same connection is handled goes out after its answer.
 *
 * Errors     negative errno and text.
 * Ownership  a request's descriptors are closed after the handler, but for those it took with
 *            TAKE_FD().  Events are taken by door_conn_event().
 * Threads    any.  One I/O thread (never blocks, never closes a client's descriptor: close(2) may
 *            wait for a FUSE server), up to `workers` worker threads.
 * Limits     `clients` connections (a quarter of them for one uid but root), `workers` requests at
 *            a time (a quarter for one uid but root), DOOR_REQUEST_MAX bytes a request,
 *            `message_ms` for a message to arrive or to be taken, DOOR_OUT_MAX bytes that wait.
 */
#ifndef KRG_DOOR_H
#define KRG_DOOR_H
#include "door_wire.h"
#include <sys/types.h>

struct door;
struct door_conn;

#define DOOR_OUT_MAX (2 * DOOR_ANSWER_MAX)

struct door_peer {
	pid_t pid;
	uid_t uid;
	gid_t gid;
	const gid_t *groups;
	unsigned ngroups;
};

struct door_req {
	struct door_conn *conn;
	const struct door_peer *peer;
	const json_t *body;
	int *fds;
	unsigned nfds;
};

enum door_flags {
	DOOR_ROOT = 1, /* only for uid 0 */
};
struct door_op {
	const char *name;
	unsigned flags;
	int (*handle)(void *ctx, struct door_req *req, json_t *answer, struct krg_err *err);
};

struct door_config {
	const char *path; /* of the socket; what is there is replaced */
	nodeid node;	  /* said in errors */
	const struct door_op *ops;
	unsigned nops;
	void *ctx;
	unsigned clients, workers; /* 0: 1024, 48 */
	u64 message_ms;		   /* 0: 10000 */
};

int door_new(const struct door_config *config, struct door **ret,
	     struct krg_err *err) KRG_MUST_CHECK;
int door_start(struct door *d, struct krg_err *err) KRG_MUST_CHECK;
/* New requests are refused from now on (-ESHUTDOWN); events still go out. */
void door_refuse(struct door *d);
/* What waits to go out goes out (for at most half a second); requests under way are waited for. */
void door_stop(struct door *d);
/* No connection is kept any more by then. */
void door_free(struct door *d);

struct door_conn *door_conn_ref(struct door_conn *c);
void door_conn_unref(struct door_conn *c);
/* Queued; dropped if the client is gone. */
void door_conn_event(struct door_conn *c, json_t *j);
/* Something of the handlers' that lives as long as the connection; drop is called once. */
void door_conn_user_set(struct door_conn *c, void *user, void (*drop)(void *user));
void *door_conn_user(struct door_conn *c);

struct door_stat {
	u64 accepted, refused, requests, errors, events, broken;
	u32 clients, workers, queued;
};
void door_stat_get(struct door *d, struct door_stat *ret);
#endif
