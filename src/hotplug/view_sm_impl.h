/* view_sm_impl.h - inside of the membership protocol: view_sm.c and view_lead.c only. */
#ifndef KRG_HOTPLUG_VIEW_SM_IMPL_H
#define KRG_HOTPLUG_VIEW_SM_IMPL_H
#include "rng.h"
#include "view_sm.h"

/* What this node knows of another one, by node number; of one incarnation at a time. */
struct vsm_peer {
	u64 inc;
	u64 heard; /* when anything came; when it became a member, at first */
	u64 stamp; /* its newest, to be echoed */
	u64 echo;  /* my newest that it has echoed */
	u64 acked; /* the same, while it takes me for its leader in my term */
	u64 term;  /* as it said last */
	u64 cfg_term, cfg_number;
	u64 deaf[2];
	u64 since;	/* when this incarnation became known */
	u64 cfg_stamp;	/* of its newest configuration message */
	u64 sent_cfg;	/* when it was sent a configuration, 0: never */
	bool suspected; /* the suspicion was traced */
};

struct vsm_known { /* present, not a member */
	struct view_member m;
	u64 heard, first, sent_cfg;
	u64 echo;	/* my newest stamp that it has shown: it lived then */
	u64 told;	/* as a sleeper */
	u64 not_before; /* a failed addition is not tried again before */
	bool want_in;
};

struct vsm_mark { /* a wish, or what the leader was told of one */
	enum vsm_want want;
	u64 inc;
	u64 at;
};

struct vsm {
	struct vsm_config c;
	const struct vsm_ops *ops;
	void *ctx;
	struct krg_rng rng;

	enum vsm_role role; /* vsm_move() writes it */
	u64 cluster, term;
	struct view *view, *cfg;
	nodeid leader; /* of this term, KRG_NODE_NONE: not known */
	u64 leader_heard;
	bool want_in, had_quorum, online; /* online: was in an agreed view */

	u64 last_now, last_stamp, next_beat, elect_at;
	u64 ack_until;	 /* this node's promise to the leader that it has now */
	u64 bar;	 /* leases of earlier leaders may hold until */
	u64 lease_until; /* not leading: own lease */
	u64 led_since;
	u64 asked_at;  /* leading: when a majority was asked whether it lives */
	u64 cfg_since; /* leading: when cfg was made */
	u64 votes[2];
	u64 in_since;	      /* number of the first configuration with this node; 0: none */
	enum view_reason out; /* why this node was taken out, as far as it was told */

	struct vsm_peer peer[KRG_NODES_MAX];
	struct vsm_known known[KRG_NODES_MAX];
	struct {
		u64 inc;
		enum view_reason reason;
	} gone[KRG_NODES_MAX];		     /* the last incarnation that was taken out, and why */
	struct vsm_mark wish[KRG_NODES_MAX]; /* of this node's users */
	struct vsm_mark told[KRG_NODES_MAX]; /* leading: wishes of all */
};

static inline u64 vsm_lease(const struct vsm *sm)
{
	return sm->c.fail_after / 10 * 9; /* the rest is for clocks that run unevenly */
}
static inline bool vsm_bit(const u64 *set, nodeid n)
{
	return set[n / 64] >> n % 64 & 1;
}
static inline void vsm_bit_set(u64 *set, nodeid n)
{
	set[n / 64] |= 1ull << n % 64;
}
static inline bool vsm_is_self(const struct vsm *sm, const struct view_member *m)
{
	return m->node == sm->c.self.node && m->inc == sm->c.self.inc;
}
static inline bool vsm_in(const struct vsm *sm, const struct view *v)
{
	return view_has(v, sm->c.self.node, sm->c.self.inc);
}

void vsm_move(struct vsm *sm, enum vsm_role to);
/* NULL: what is kept is of another incarnation */
struct vsm_peer *vsm_peer_of(struct vsm *sm, nodeid node, u64 inc);
const struct vsm_peer *vsm_peer_look(const struct vsm *sm, const struct view_member *m);
void vsm_set_cfg(struct vsm *sm, u64 now, struct view *cfg);
void vsm_set_view(struct vsm *sm, struct view *v);
void vsm_step_down(struct vsm *sm, u64 now, u64 term);
void vsm_send_beats(struct vsm *sm, u64 now);
void vsm_send_config(struct vsm *sm, u64 now, nodeid node, u64 inc);
void vsm_send(struct vsm *sm, struct vsm_msg *m, enum vsm_type type, nodeid to, u64 inc);

/* view_lead.c: what only the leader does */
u64 vsm_lead_confirmed(const struct vsm *sm, u64 now); /* when a majority was with it */
void vsm_lead_begin(struct vsm *sm, u64 now);
void vsm_lead_step(struct vsm *sm, u64 now);
void vsm_lead_remind(struct vsm *sm, u64 now); /* who does not have the configuration yet */
void vsm_lead_told(struct vsm *sm, u64 now, enum vsm_want want, nodeid node, u64 inc);
#endif
