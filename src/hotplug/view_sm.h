/* view_sm.h - the membership protocol as a state machine: messages, time and wishes in; messages
 * and upcalls out.  No thread, clock, socket or randomness of its own: a simulated cluster runs the
 * same code (test/sim/hotplug_sim.c).
 *
 * Source   Raft (Ongaro and Ousterhout, USENIX ATC 2014; Ongaro's thesis 2014, chapter 4: changes
 *          of one server at a time, pre-vote, leadership transfer, and the fix of 2015), with the
 *          log reduced to its newest configuration as in MongoRaftReconfig (Schultz, Dardik,
 *          Tripakis: "Design and Analysis of a Logless Dynamic Reconfiguration Protocol", OPODIS
 *          2021).  README.md says what was added.
 *
 *	sm = vsm_new(&config, &ops, ctx, now);
 *	vsm_form(sm, now) or vsm_join(sm, now, true);
 *	loop: vsm_recv(sm, now, &msg) for each message; vsm_tick(sm, now) at vsm_deadline(sm);
 *
 * Units      time is ns of this node's monotonic clock, never 0, never back.
 * Errors     a message that makes no sense is dropped.
 * Ownership  messages and the views in them stay the caller's (views are referenced).
 * Threads    one struct, one thread at a time.  Ops must not call back into the machine.
 */
#ifndef KRG_HOTPLUG_VIEW_SM_H
#define KRG_HOTPLUG_VIEW_SM_H
#include "view.h"

#define VSM_TEXT_MAX 160u

struct vsm;

enum vsm_role {
	VSM_OUTSIDE, /* not in the newest configuration it knows */
	VSM_FOLLOWER,
	VSM_ASKING, /* asks whether it would be elected (pre-vote) */
	VSM_CANDIDATE,
	VSM_LEADER,
	VSM_GONE, /* was in an agreed view and is in none any more; the end */
	VSM_ROLE_NR
};
const char *vsm_role_name(enum vsm_role role);

enum vsm_type {
	VSM_MSG_BEAT = 1, /* I live; what I know; echo of your last one */
	VSM_MSG_CONFIG,	  /* the newest agreed view, and the newest configuration */
	VSM_MSG_VOTE,	  /* vote (or pre-vote) for me */
	VSM_MSG_VOTED,
	VSM_MSG_TAKE_OVER, /* leader to follower: be elected now */
	VSM_MSG_JOIN,	   /* I am present, and want in or not */
	VSM_MSG_REFUSE,	   /* you cannot join, and why */
	VSM_MSG_WANT,	   /* somebody wishes a node in or out */
	VSM_MSG_END
};
enum vsm_want { VSM_WANT_NONE, VSM_WANT_ADD, VSM_WANT_DEL, VSM_WANT_LEAVE, VSM_WANT_NR };

enum {
	VSM_F_LEADER = 1,
	VSM_F_ACK = 2,
	VSM_F_PRE = 4,
	VSM_F_GRANTED = 8,
	VSM_F_TRANSFER = 16,
	VSM_F_WANT_IN = 32,
	VSM_F_ALL = 63
};

struct vsm_msg {
	enum vsm_type type;
	u8 flags;
	nodeid from, to;      /* to KRG_NODE_NONE: to the seeds */
	u64 from_inc, to_inc; /* to_inc 0: whoever has that number */
	u64 cluster;	      /* 0: not in one yet */
	u64 term;	      /* the sender's */
	u64 cfg_term, cfg_number;

	/* beat */
	u64 agreed_term, agreed_number; /* newest agreed view */
	u64 stamp, echo;		/* sender's clock; receiver's clock as last heard */
	u64 lease_age;			/* leader: ns since a majority was with it */
	u64 bar;		 /* ns until leases of earlier leaders have run out (also VOTED) */
	u64 deaf[2];		 /* members that the sender does not hear, by node number */
	u64 vote_term;		 /* vote, voted */
	struct view *view, *cfg; /* config; view may be NULL */
	u8 out;			 /* config: why the receiver was taken out, + 1; 0: unknown */
	struct view_member info; /* join */
	i32 code;		 /* refuse */
	char text[VSM_TEXT_MAX];
	enum vsm_want want; /* want */
	nodeid node;
	u64 inc;
};

struct vsm_config {
	struct view_member self;
	u64 heartbeat;	/* 200 ms */
	u64 fail_after; /* 2 s; at least 5 heartbeats */
	u64 seed;	/* of its random numbers */
};

struct vsm_ops {
	void (*send)(void *ctx, const struct vsm_msg *m);
	/* A newer view was agreed.  Numbers grow; some may be skipped. */
	void (*view)(void *ctx, const struct view *v);
	/* The majority is there, or not. */
	void (*quorum)(void *ctx, bool have);
	/* This node was in, and is not any more (the role is VSM_GONE). */
	void (*removed)(void *ctx, const struct view *v, enum view_reason reason);
	/* The leader will not let this node in. */
	void (*refused)(void *ctx, int code, const char *text);
	void (*suspect)(void *ctx, nodeid node); /* for traces; may be NULL */
};

struct vsm *vsm_new(const struct vsm_config *config, const struct vsm_ops *ops, void *ctx, u64 now);
void vsm_free(struct vsm *sm);

void vsm_form(struct vsm *sm, u64 now);
void vsm_join(struct vsm *sm, u64 now, bool want_in);
void vsm_recv(struct vsm *sm, u64 now, const struct vsm_msg *m);
void vsm_tick(struct vsm *sm, u64 now);
u64 vsm_deadline(const struct vsm *sm);
/* A standing wish: told to the leader again and again until the agreed view fulfils it, or until it
 * is taken back with VSM_WANT_NONE.  LEAVE only for oneself.  -ENOENT: no such node (ADD: not
 * present, DEL: not a member); -EALREADY: it is so. */
int vsm_wish(struct vsm *sm, u64 now, enum vsm_want want, nodeid node) KRG_MUST_CHECK;

enum vsm_role vsm_get_role(const struct vsm *sm);
u64 vsm_get_term(const struct vsm *sm);
nodeid vsm_get_leader(const struct vsm *sm);	       /* KRG_NODE_NONE: not known */
const struct view *vsm_get_view(const struct vsm *sm); /* agreed; NULL before the first */
const struct view *vsm_get_cfg(const struct vsm *sm);  /* newest known; NULL before the first */
/* This node is in its view, and no view without it can have been agreed because of failure. */
bool vsm_has_quorum(const struct vsm *sm, u64 now);
/* Nodes that are present and not members; returns how many.  heard: when, by this node's clock. */
struct vsm_present {
	struct view_member m;
	u64 heard;
	bool want_in;
};
unsigned vsm_get_present(const struct vsm *sm, u64 now, struct vsm_present *ret, unsigned max);
/* When the member was last heard; 0: never. */
u64 vsm_get_heard(const struct vsm *sm, nodeid node);

#ifdef VSM_BUGS
/* The simulation proves that it can fail: each bug breaks one rule of README.md. */
enum vsm_bug {
	VSM_BUG_NONE,
	VSM_BUG_COMMIT_ALONE,
	VSM_BUG_VOTE_OLD_CFG,
	VSM_BUG_VOTE_TWICE,
	VSM_BUG_NO_TERM_REWRITE,
	VSM_BUG_CHANGE_UNAGREED,
	VSM_BUG_NO_BAR,
	VSM_BUG_NO_LEASE,
	VSM_BUG_BACK_ANY_TERM,
	VSM_BUG_NR
};
extern enum vsm_bug vsm_bug;
#define VSM_BUG(name) (vsm_bug == VSM_BUG_##name)
#else
#define VSM_BUG(name) false
#endif
#endif
