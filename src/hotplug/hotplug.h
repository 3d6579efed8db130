/* hotplug.h - which nodes are in.
 *
 * The view is a list of members with a number that only grows, agreed by a majority (view_sm.h, the
 * pure protocol; README.md says which publications it follows).
 *
 *	hotplug_new(comm, &config, &ops, ctx, &h, &err);
 *	comm_start(comm, &err);  hotplug_start(h, 5000, &err);    // form, or join through a seed
 *
 * present: the node answers and has the key; online: it is a member of the view.
 *
 * Errors   negative errno and text.
 * Threads  any; ops run on hotplug's own thread, in view order, with no lock held.  They must not
 *          call functions of hotplug that wait ([net]).
 */
#ifndef KRG_HOTPLUG_H
#define KRG_HOTPLUG_H
#include "comm.h"

struct hotplug;

enum hotplug_node_state { HOTPLUG_ABSENT, HOTPLUG_PRESENT, HOTPLUG_ONLINE };

struct hotplug_seed {
	char addr[64]; /* numeric */
	u16 port;
};

struct hotplug_config {
	nodeid self;
	char name[64]; /* host name shown to people */
	char addr[64]; /* how others reach this node, numeric */
	u16 port;      /* 0: comm_port() */
	const struct hotplug_seed *seeds;
	unsigned nseeds;   /* 0: form the cluster */
	u64 heartbeat_ms;  /* 0: 200 */
	u64 fail_after_ms; /* 0: 2000, detected in under 3 s */
	bool stay_present; /* join as present only: hotplug_add() takes it in */
	bool stay_out;	   /* do not join again by itself after it was taken out as failed */
};

struct hotplug_ops {
	void (*node_up)(void *ctx, nodeid node, u64 view);   /* also for oneself, first */
	void (*node_down)(void *ctx, nodeid node, u64 view); /* left or failed */
	/* The majority is gone (false): stop serving, others may be about to be without this node;
	 * or it is back. */
	void (*quorum)(void *ctx, bool have, u64 view);
	/* This node was taken out (voted out, deleted), but has not asked for it.  node_down() has
	 * been called for all others, then for itself: for this node the cluster is gone.  If it was
	 * not deleted it joins anew when this returns, as another incarnation. */
	void (*removed)(void *ctx, u64 view);
};

struct hotplug_node {
	nodeid node;
	enum hotplug_node_state state;
	char name[64], addr[64];
	u16 port;
	u64 heard_ms_ago;
};

/* Registers its op with c.  Nothing is sent before hotplug_start(). */
int hotplug_new(struct comm *c, const struct hotplug_config *config, const struct hotplug_ops *ops,
		void *ctx, struct hotplug **ret, struct krg_err *err) KRG_MUST_CHECK;
/* [net] Returns when this node is a member of a view (or present, with stay_present), or with an
 * error: -EACCES wrong key or cluster, -EADDRINUSE number taken, -EHOSTUNREACH no seed answers,
 * -ETIMEDOUT.  After an error it is stopped, for good. */
int hotplug_start(struct hotplug *h, u64 timeout_ms, struct krg_err *err) KRG_MUST_CHECK;
/* [net] Ask to be taken out of the view; returns when it is so, or at the deadline.  The last node
 * just goes.  No op is called for it but node_down. */
int hotplug_leave(struct hotplug *h, u64 timeout_ms, struct krg_err *err) KRG_MUST_CHECK;
/* No op is called afterwards.  Before comm_stop(). */
void hotplug_stop(struct hotplug *h);
/* After comm_stop(): messages may still come until then. */
void hotplug_free(struct hotplug *h);

u64 hotplug_view(struct hotplug *h); /* 0: not a member */
/* Now: also false at once when this node was stopped for long. */
bool hotplug_has_quorum(struct hotplug *h);
/* By number; members and who is present.  Returns how many. */
unsigned hotplug_nodes(struct hotplug *h, struct hotplug_node *ret, unsigned max);
/* [net] Take present nodes in / members out, by the view protocol.  0 also if it is so already;
 * -ENOENT: not present, no member; -EBUSY: the last member. */
int hotplug_add(struct hotplug *h, nodeid node, u64 timeout_ms, struct krg_err *err) KRG_MUST_CHECK;
int hotplug_del(struct hotplug *h, nodeid node, u64 timeout_ms, struct krg_err *err) KRG_MUST_CHECK;
#endif
