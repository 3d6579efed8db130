/* kerrighed.h - the cluster from a C program: who is in, what runs where, signals.
 *
 *	struct kerrighed *k;
 *	int r = kerrighed_open(NULL, &k);
 *	if (r == 0) {
 *		printf("node %d of %d\n", kerrighed_self(k), kerrighed_nodes(k, NULL, 0));
 *		kerrighed_close(k);
 *	}
 *
 * Link with -lkerrighed.  What is not here (moving processes, capabilities, checkpoints) the daemon
 * does not offer yet.
 *
 * Errors     0 or more, or a negative errno; kerrighed_error() has the text, with the node where it
 *            failed.  -ECONNREFUSED, -ENOENT: no daemon here.  -ETIMEDOUT: it did not answer in
 *            time; -EPROTO: it answered what this library does not understand.  After these two the
 *            connection is of no use (-ENOTCONN): open another.
 * Ownership  everything handed out lives until the next call on the same handle, or its close.
 * Threads    one handle, one thread at a time.
 * Blocking   every call waits for the daemon, at most the timeout (10 s unless set).
 */
#ifndef KERRIGHED_H
#define KERRIGHED_H
#include <stdint.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

struct kerrighed;

/* Connect to the daemon at `socket_path`; NULL: $KRG_SOCKET, or /run/krg/krgd.sock. */
int kerrighed_open(const char *socket_path, struct kerrighed **ret);
void kerrighed_close(struct kerrighed *k);
void kerrighed_set_timeout(struct kerrighed *k, unsigned timeout_ms); /* 0: for ever */
/* Of the last call that failed; "" before. */
const char *kerrighed_error(const struct kerrighed *k);

/* The node whose daemon this is; as said when the connection was made. */
int kerrighed_self(const struct kerrighed *k);
const char *kerrighed_cluster(const struct kerrighed *k);
const char *kerrighed_version(const struct kerrighed *k);

enum kerrighed_state { KERRIGHED_ABSENT, KERRIGHED_PRESENT, KERRIGHED_ONLINE };

struct kerrighed_node {
	int node;
	enum kerrighed_state state;
	double load, cpus; /* cpus 0: not known (yet) */
	char name[64], addr[64];
};
/* Fills at most max of them; returns how many there are. */
int kerrighed_nodes(struct kerrighed *k, struct kerrighed_node *ret, unsigned max);

struct kerrighed_proc {
	pid_t pid, ppid;
	uid_t uid;
	int node, home; /* where it runs, where it was forked */
	char state;	/* letter as in /proc/PID/stat */
	uint64_t cpu_ns, rss;
	char comm[64];
};
/* Processes of the cluster.  As kerrighed_nodes().  Nodes that did not answer are left out; *ret_missing
 * (may be NULL) says how many. */
int kerrighed_procs(struct kerrighed *k, struct kerrighed_proc *ret, unsigned max,
		    unsigned *ret_missing);

/* kill(2), wherever the process is; the same permissions. */
int kerrighed_kill(struct kerrighed *k, pid_t pid, int sig);

#ifdef __cplusplus
}
#endif
#endif
