#include "view_sm_impl.h"

#ifdef VSM_BUGS
enum vsm_bug vsm_bug;
#endif

#define R(role) (1u << VSM_##role)
static const struct {
	const char *name;
	unsigned next;
} role_tbl[VSM_ROLE_NR] = {
	[VSM_OUTSIDE] = {"outside", R(FOLLOWER) | R(LEADER) | R(GONE)},
	[VSM_FOLLOWER] = {"follower", R(OUTSIDE) | R(ASKING) | R(CANDIDATE) | R(GONE)},
	[VSM_ASKING] = {"asking", R(OUTSIDE) | R(FOLLOWER) | R(CANDIDATE) | R(GONE)},
	[VSM_CANDIDATE] = {"candidate", R(OUTSIDE) | R(FOLLOWER) | R(ASKING) | R(LEADER) | R(GONE)},
	[VSM_LEADER] = {"leader", R(FOLLOWER) | R(GONE)},
	[VSM_GONE] = {"gone", 0},
};

const char *vsm_role_name(enum vsm_role role)
{
	ASSERT(role < VSM_ROLE_NR);
	return role_tbl[role].name;
}

void vsm_move(struct vsm *sm, enum vsm_role to)
{
	if (sm->role == to)
		return;
	ASSERT(role_tbl[sm->role].next >> to & 1);
	sm->role = to;
}

/* ---- sending ---- */

void vsm_send(struct vsm *sm, struct vsm_msg *m, enum vsm_type type, nodeid to, u64 inc)
{
	m->type = type;
	m->from = sm->c.self.node;
	m->from_inc = sm->c.self.inc;
	m->to = to;
	m->to_inc = inc;
	m->cluster = sm->cluster;
	m->term = sm->term;
	m->cfg_term = sm->cfg == NULL ? 0 : sm->cfg->term;
	m->cfg_number = sm->cfg == NULL ? 0 : sm->cfg->number;
	if (sm->role == VSM_LEADER)
		m->flags |= VSM_F_LEADER;
	sm->ops->send(sm->ctx, m);
}

static u64 left(u64 until, u64 now)
{
	return until > now ? until - now : 0;
}

static void send_beat(struct vsm *sm, u64 now, const struct view_member *to, const u64 *deaf)
{
	const struct vsm_peer *p = vsm_peer_look(sm, to);
	struct vsm_msg m = {.deaf = {deaf[0], deaf[1]}};

	if (sm->view != NULL) {
		m.agreed_term = sm->view->term;
		m.agreed_number = sm->view->number;
	}
	sm->last_stamp = KRG_MAX(now, sm->last_stamp + 1);
	m.stamp = sm->last_stamp;
	/* Who is being taken out gets no lease any more. */
	if (p != NULL && (sm->role != VSM_LEADER || view_has(sm->cfg, to->node, to->inc)))
		m.echo = KRG_MAX(p->stamp, p->cfg_stamp);
	if (sm->role == VSM_LEADER) {
		u64 confirmed = vsm_lead_confirmed(sm, now);

		m.lease_age = now - KRG_MIN(confirmed, now);
		m.bar = left(sm->bar, now);
		sm->ack_until = now + sm->c.fail_after;
	} else if (sm->leader == to->node && now - sm->leader_heard <= 2 * sm->c.heartbeat) {
		/* No promises to one that is silent: they would only delay its removal. */
		m.flags |= VSM_F_ACK;
		sm->ack_until = now + sm->c.fail_after;
	}
	vsm_send(sm, &m, VSM_MSG_BEAT, to->node, to->inc);
}

static void find_deaf(const struct vsm *sm, u64 now, u64 *ret)
{
	ret[0] = ret[1] = 0;
	for (unsigned i = 0; sm->cfg != NULL && i < sm->cfg->n; i++) {
		const struct view_member *m = &sm->cfg->m[i];
		const struct vsm_peer *p = vsm_peer_look(sm, m);

		if (!vsm_is_self(sm, m) && p != NULL &&
		    now - p->heard >= sm->c.fail_after - sm->c.heartbeat)
			vsm_bit_set(ret, m->node);
	}
}

void vsm_send_beats(struct vsm *sm, u64 now)
{
	u64 deaf[2];

	find_deaf(sm, now, deaf);
	for (unsigned i = 0; sm->cfg != NULL && i < sm->cfg->n; i++)
		if (!vsm_is_self(sm, &sm->cfg->m[i]))
			send_beat(sm, now, &sm->cfg->m[i], deaf);
	for (unsigned i = 0; sm->view != NULL && sm->view != sm->cfg && i < sm->view->n; i++)
		if (!vsm_is_self(sm, &sm->view->m[i]) &&
		    !view_has(sm->cfg, sm->view->m[i].node, sm->view->m[i].inc))
			send_beat(sm, now, &sm->view->m[i], deaf);
	sm->next_beat = now + sm->c.heartbeat;
}

static void beat_back(struct vsm *sm, u64 now, const struct vsm_msg *m)
{
	const struct view_member to = {.node = m->from, .inc = m->from_inc};
	u64 deaf[2];

	find_deaf(sm, now, deaf);
	send_beat(sm, now, &to, deaf);
}

void vsm_send_config(struct vsm *sm, u64 now, nodeid node, u64 inc)
{
	struct vsm_peer *p = &sm->peer[node];
	struct vsm_msg m = {.view = sm->view, .cfg = sm->cfg, .bar = left(sm->bar, now)};

	ASSERT(sm->cfg != NULL);
	if (sm->gone[node].inc == inc)
		m.out = (u8)(sm->gone[node].reason + 1);
	if (p->inc == inc)
		p->sent_cfg = now;
	sm->last_stamp = KRG_MAX(now, sm->last_stamp + 1);
	m.stamp = sm->last_stamp;
	vsm_send(sm, &m, VSM_MSG_CONFIG, node, inc);
}

static void send_join(struct vsm *sm, u64 now)
{
	struct vsm_msg m = {.info = sm->c.self, .flags = sm->want_in ? VSM_F_WANT_IN : 0};

	if (sm->view == NULL || now - sm->leader_heard > 5 * sm->c.heartbeat)
		vsm_send(sm, &m, VSM_MSG_JOIN, KRG_NODE_NONE, 0);
	for (unsigned i = 0; sm->view != NULL && i < sm->view->n; i++) {
		nodeid to = sm->view->m[i].node;

		m.echo = sm->peer[to].inc == sm->view->m[i].inc ? sm->peer[to].cfg_stamp : 0;
		if (to != sm->c.self.node)
			vsm_send(sm, &m, VSM_MSG_JOIN, to, 0); /* whoever has the number now */
	}
}

/* ---- what is known of others ---- */

const struct vsm_peer *vsm_peer_look(const struct vsm *sm, const struct view_member *m)
{
	return sm->peer[m->node].inc == m->inc ? &sm->peer[m->node] : NULL;
}

static void peer_begin(struct vsm *sm, u64 now, nodeid node, u64 inc)
{
	sm->peer[node] = (struct vsm_peer){.inc = inc, .heard = now, .since = now};
}

struct vsm_peer *vsm_peer_of(struct vsm *sm, nodeid node, u64 inc)
{
	const struct view_member *m = view_find(sm->cfg, node);

	if (m == NULL)
		m = view_find(sm->view, node);
	if (m != NULL && m->inc != inc)
		return NULL;
	if (sm->peer[node].inc != inc)
		peer_begin(sm, sm->last_now, node, inc);
	return &sm->peer[node];
}

/* ---- terms, configurations, views ---- */

static void elect_later(struct vsm *sm, u64 now)
{
	sm->elect_at = now + sm->c.fail_after / 2 + krg_rng_below(&sm->rng, sm->c.fail_after / 4);
}

/* The role of who neither leads nor is being elected. */
static void move_to_rest(struct vsm *sm, u64 now)
{
	if (sm->role == VSM_GONE)
		return;
	if (sm->role == VSM_LEADER || sm->role == VSM_CANDIDATE || sm->role == VSM_ASKING)
		vsm_move(sm, VSM_FOLLOWER);
	if (vsm_in(sm, sm->cfg) && sm->role == VSM_OUTSIDE) {
		elect_later(sm, now);
		vsm_move(sm, VSM_FOLLOWER);
	}
	if (!vsm_in(sm, sm->cfg))
		vsm_move(sm, VSM_OUTSIDE);
}

void vsm_step_down(struct vsm *sm, u64 now, u64 term)
{
	ASSERT(term >= sm->term);
	if (sm->role == VSM_LEADER)
		sm->lease_until =
			KRG_MAX(sm->lease_until, vsm_lead_confirmed(sm, now) + vsm_lease(sm));
	/* What was promised to the leader of the old term binds under the new one. */
	sm->bar = KRG_MAX(sm->bar, sm->ack_until);
	sm->term = term;
	sm->leader = KRG_NODE_NONE;
	elect_later(sm, now);
	move_to_rest(sm, now);
}

void vsm_set_cfg(struct vsm *sm, u64 now, struct view *cfg)
{
	ASSERT(sm->cfg == NULL || view_cmp(sm->cfg, cfg) < 0);
	(void)view_ref(cfg);
	view_unref(sm->cfg);
	sm->cfg = cfg;
	if (vsm_in(sm, cfg) && sm->in_since == 0)
		sm->in_since = cfg->number;
	for (unsigned i = 0; i < cfg->n; i++)
		if (sm->peer[cfg->m[i].node].inc != cfg->m[i].inc)
			peer_begin(sm, now, cfg->m[i].node, cfg->m[i].inc);
	if (sm->role != VSM_LEADER)
		move_to_rest(sm, now);
}

static void be_gone(struct vsm *sm)
{
	vsm_move(sm, VSM_GONE);
	sm->ops->removed(sm->ctx, sm->view, sm->out);
}

void vsm_set_view(struct vsm *sm, struct view *v)
{
	bool newer = sm->view == NULL || v->number > sm->view->number;

	ASSERT(sm->view == NULL || v->number >= sm->view->number);
	(void)view_ref(v);
	view_unref(sm->view);
	sm->view = v;
	if (!newer)
		return; /* the same members, agreed once more under a later leader */
	if (v->reason != VIEW_BACK && v->node < KRG_NODES_MAX && !view_has(v, v->node, v->inc)) {
		sm->gone[v->node].inc = v->inc;
		sm->gone[v->node].reason = v->reason;
		if (sm->known[v->node].m.inc == v->inc)
			sm->known[v->node] = (struct vsm_known){.told = 0};
	}
	sm->ops->view(sm->ctx, v);
	sm->online |= vsm_in(sm, v);
	/* Out: also when it never heard of the view that it was in. */
	if (sm->in_since == 0 || v->number < sm->in_since || vsm_in(sm, v))
		return;
	if (!sm->online)
		sm->out = VIEW_BACK;
	if (sm->gone[sm->c.self.node].inc == sm->c.self.inc)
		sm->out = sm->gone[sm->c.self.node].reason;
	be_gone(sm);
}

static void note_leader(struct vsm *sm, u64 now, nodeid leader)
{
	sm->leader = leader;
	sm->leader_heard = now;
	elect_later(sm, now);
	if (sm->role == VSM_ASKING || sm->role == VSM_CANDIDATE)
		move_to_rest(sm, now);
}

/* ---- election ---- */

static unsigned vote_count(const struct vsm *sm)
{
	unsigned n = 0;

	for (unsigned i = 0; i < sm->cfg->n; i++)
		n += vsm_bit(sm->votes, sm->cfg->m[i].node);
	return n;
}

static void send_votes(struct vsm *sm, u8 flags, u64 vote_term)
{
	for (unsigned i = 0; i < sm->cfg->n; i++) {
		struct vsm_msg m = {.flags = flags, .vote_term = vote_term};

		if (!vsm_is_self(sm, &sm->cfg->m[i]))
			vsm_send(sm, &m, VSM_MSG_VOTE, sm->cfg->m[i].node, sm->cfg->m[i].inc);
	}
}

static void votes_begin(struct vsm *sm, u64 now)
{
	sm->votes[0] = sm->votes[1] = 0;
	vsm_bit_set(sm->votes, sm->c.self.node);
	sm->elect_at = now + sm->c.heartbeat + krg_rng_below(&sm->rng, 3 * sm->c.heartbeat);
}

static void count_votes(struct vsm *sm, u64 now);

static void be_candidate(struct vsm *sm, u64 now, u8 flags)
{
	sm->bar = KRG_MAX(sm->bar, sm->ack_until);
	sm->term++;
	sm->leader = KRG_NODE_NONE;
	vsm_move(sm, VSM_CANDIDATE);
	votes_begin(sm, now);
	send_votes(sm, flags, sm->term);
	count_votes(sm, now);
}

static void count_votes(struct vsm *sm, u64 now)
{
	if (vote_count(sm) < view_majority(sm->cfg))
		return;
	if (sm->role == VSM_ASKING)
		be_candidate(sm, now, 0);
	else if (sm->role == VSM_CANDIDATE)
		vsm_lead_begin(sm, now);
}

static void ask_around(struct vsm *sm, u64 now)
{
	sm->leader = KRG_NODE_NONE;
	vsm_move(sm, VSM_ASKING);
	votes_begin(sm, now);
	send_votes(sm, VSM_F_PRE, sm->term + 1);
	count_votes(sm, now);
}

/* Has a leader that may well live. */
static bool is_led(const struct vsm *sm, u64 now)
{
	if (sm->role == VSM_LEADER)
		return now < vsm_lead_confirmed(sm, now) + vsm_lease(sm);
	return sm->leader != KRG_NODE_NONE && now - sm->leader_heard < sm->c.fail_after / 2;
}

static bool may_vote(const struct vsm *sm, u64 now, const struct vsm_msg *m)
{
	int cmp = sm->cfg == NULL
			  ? 1
			  : view_id_cmp(m->cfg_term, m->cfg_number, sm->cfg->term, sm->cfg->number);

	if (VSM_BUG(VOTE_OLD_CFG))
		cmp = 0;
	if (VSM_BUG(VOTE_TWICE) && m->vote_term == sm->term && cmp >= 0)
		return sm->role != VSM_LEADER;
	if (m->vote_term <= sm->term || cmp < 0)
		return false;
	return (m->flags & VSM_F_TRANSFER) != 0 || !is_led(sm, now);
}

static void handle_vote(struct vsm *sm, u64 now, const struct vsm_msg *m)
{
	struct vsm_msg a = {.flags = m->flags & VSM_F_PRE, .vote_term = m->vote_term};

	if (may_vote(sm, now, m)) {
		a.flags |= VSM_F_GRANTED;
		if ((m->flags & VSM_F_PRE) == 0)
			vsm_step_down(sm, now, m->vote_term);
	} else if (sm->cfg != NULL &&
		   view_id_cmp(m->cfg_term, m->cfg_number, sm->cfg->term, sm->cfg->number) < 0) {
		vsm_send_config(sm, now, m->from, m->from_inc);
	}
	a.bar = left(KRG_MAX(sm->bar, sm->ack_until), now);
	vsm_send(sm, &a, VSM_MSG_VOTED, m->from, m->from_inc);
}

static void handle_voted(struct vsm *sm, u64 now, const struct vsm_msg *m)
{
	bool pre = (m->flags & VSM_F_PRE) != 0;

	if ((m->flags & VSM_F_GRANTED) == 0 || !view_has(sm->cfg, m->from, m->from_inc))
		return;
	if (!(pre && sm->role == VSM_ASKING && m->vote_term == sm->term + 1) &&
	    !(!pre && sm->role == VSM_CANDIDATE && m->vote_term == sm->term))
		return;
	sm->bar = KRG_MAX(sm->bar, now + KRG_MIN(m->bar, sm->c.fail_after));
	vsm_bit_set(sm->votes, m->from);
	count_votes(sm, now);
}

static void handle_take_over(struct vsm *sm, u64 now, const struct vsm_msg *m)
{
	if (sm->role == VSM_FOLLOWER && sm->leader == m->from && m->term == sm->term)
		be_candidate(sm, now, VSM_F_TRANSFER);
}

/* ---- beats and configurations ---- */

static void hear_leader(struct vsm *sm, u64 now, const struct vsm_msg *m)
{
	note_leader(sm, now, m->from);
	sm->bar = KRG_MAX(sm->bar, now + KRG_MIN(m->bar, sm->c.fail_after));
	/* The leader had a majority lease_age before it sent this, and it sent this after I sent the
	 * beat that it echoes: so at that time of my clock, less lease_age, or later. */
	if (m->echo != 0 && m->echo <= sm->last_stamp && m->lease_age < m->echo)
		sm->lease_until = KRG_MAX(sm->lease_until, m->echo - m->lease_age + vsm_lease(sm));
	if (sm->cfg != NULL && m->agreed_term == sm->cfg->term &&
	    m->agreed_number == sm->cfg->number &&
	    (sm->view == NULL ||
	     (view_cmp(sm->view, sm->cfg) < 0 && sm->view->number <= sm->cfg->number)))
		vsm_set_view(sm, sm->cfg);
}

static void handle_beat(struct vsm *sm, u64 now, const struct vsm_msg *m, struct vsm_peer *p)
{
	bool stranger = !view_has(sm->view, m->from, m->from_inc) &&
			!view_has(sm->cfg, m->from, m->from_inc);
	int cmp;

	if (p == NULL || m->stamp <= p->stamp)
		return; /* an older one that came late */
	p->stamp = m->stamp;
	p->term = m->term;
	p->cfg_term = m->cfg_term;
	p->cfg_number = m->cfg_number;
	p->deaf[0] = m->deaf[0];
	p->deaf[1] = m->deaf[1];
	if (m->echo <= sm->last_stamp)
		p->echo = KRG_MAX(p->echo, m->echo);
	if (sm->role == VSM_LEADER && m->term == sm->term && (m->flags & VSM_F_ACK) != 0)
		p->acked = p->echo;
	if (sm->role != VSM_LEADER && m->term == sm->term && (m->flags & VSM_F_LEADER) != 0)
		hear_leader(sm, now, m);
	if (sm->role == VSM_GONE || sm->cfg == NULL)
		return;
	cmp = view_id_cmp(m->cfg_term, m->cfg_number, sm->cfg->term, sm->cfg->number);
	if ((!stranger && (sm->role != VSM_LEADER || cmp >= 0)) ||
	    (p->sent_cfg != 0 && now - p->sent_cfg < sm->c.heartbeat))
		return;
	if (cmp <= 0) {
		vsm_send_config(sm, now, m->from, m->from_inc);
		return;
	}
	p->sent_cfg = now;
	beat_back(sm, now, m); /* this node has slept: so it is seen */
}

/* The leader lets in who shows that it lives now: by the stamp of what it was just sent. */
static void join_back(struct vsm *sm, const struct vsm_msg *m)
{
	struct vsm_msg j = {.info = sm->c.self, .flags = sm->want_in ? VSM_F_WANT_IN : 0};

	j.echo = m->stamp;
	vsm_send(sm, &j, VSM_MSG_JOIN, m->from, m->from_inc);
}

static void handle_config(struct vsm *sm, u64 now, const struct vsm_msg *m)
{
	struct vsm_peer *p = vsm_peer_of(sm, m->from, m->from_inc);
	bool is_news;

	if (m->cfg == NULL || m->cfg->term > m->term || m->cfg->n == 0 ||
	    m->cfg->number > VIEW_TERM_MAX ||
	    (m->view != NULL && (m->view->n == 0 || m->view->number > m->cfg->number ||
				 view_cmp(m->view, m->cfg) > 0)) ||
	    (sm->view != NULL && m->cfg->number < sm->view->number))
		return;
	if (sm->cluster == 0)
		sm->cluster = m->cluster;
	sm->bar = KRG_MAX(sm->bar, now + KRG_MIN(m->bar, sm->c.fail_after));
	if (m->out > 0 && m->out <= VIEW_REASON_NR)
		sm->out = (enum view_reason)(m->out - 1);
	if (p != NULL)
		p->cfg_stamp = KRG_MAX(p->cfg_stamp, m->stamp);
	if (sm->role == VSM_LEADER)
		return; /* who leads this term makes its configurations */
	if (m->term == sm->term && (m->flags & VSM_F_LEADER) != 0)
		note_leader(sm, now, m->from);
	if (sm->cfg == NULL || view_cmp(sm->cfg, m->cfg) < 0)
		vsm_set_cfg(sm, now, m->cfg);
	is_news = m->view != NULL && (sm->view == NULL || m->view->number > sm->view->number);
	if (is_news)
		vsm_set_view(sm, m->view);
	if (m->out > 0 && sm->role == VSM_OUTSIDE && !vsm_in(sm, sm->view))
		be_gone(sm); /* it was in for a while, and never knew */
	if (sm->role == VSM_GONE)
		return;
	if (vsm_in(sm, sm->cfg) || vsm_in(sm, sm->view))
		beat_back(sm, now, m);
	else if ((m->flags & VSM_F_LEADER) != 0)
		join_back(sm, m);
	else if (is_news)
		send_join(sm, now); /* the leader may be among those that are known now */
}

/* Who talks to an earlier daemon of this node, or does not know that it is out, has slept. */
static void tell_sleeper(struct vsm *sm, u64 now, const struct vsm_msg *m)
{
	struct vsm_known *k = &sm->known[m->from];

	if (m->cluster != sm->cluster || !vsm_in(sm, sm->view) || m->from >= KRG_NODES_MAX ||
	    m->from == sm->c.self.node || m->from_inc == 0 ||
	    (k->told != 0 && now - k->told < sm->c.heartbeat))
		return;
	k->told = now;
	vsm_send_config(sm, now, m->from, m->from_inc);
}

static void handle_join(struct vsm *sm, u64 now, const struct vsm_msg *m)
{
	struct vsm_known *k = &sm->known[m->from];

	if (m->info.node != m->from || m->info.inc != m->from_inc || !vsm_in(sm, sm->view))
		return;
	if (sm->gone[m->from].inc == m->from_inc) {
		tell_sleeper(sm, now, m);
		return;
	}
	if (k->m.inc != m->from_inc)
		*k = (struct vsm_known){.first = now, .told = k->told};
	k->m = m->info;
	k->heard = now;
	if (m->echo <= sm->last_stamp)
		k->echo = KRG_MAX(k->echo, m->echo);
	k->want_in = (m->flags & VSM_F_WANT_IN) != 0;
	if (k->sent_cfg == 0 || now - k->sent_cfg >= sm->c.heartbeat) {
		k->sent_cfg = now;
		vsm_send_config(sm, now, m->from, m->from_inc);
	}
}

/* ---- in ---- */

static bool sensible(const struct vsm *sm, const struct vsm_msg *m)
{
	bool join = m->type == VSM_MSG_JOIN;

	if (m->from >= KRG_NODES_MAX || m->from_inc == 0 || m->type >= VSM_MSG_END)
		return false;
	if (m->from == sm->c.self.node && (!join || m->from_inc == sm->c.self.inc))
		return false;
	if ((m->to != sm->c.self.node || m->to_inc != sm->c.self.inc) && (!join || m->to_inc != 0))
		return false;
	if (m->term > VIEW_TERM_MAX || m->cfg_number > VIEW_TERM_MAX || m->cfg_term > m->term ||
	    m->vote_term > VIEW_TERM_MAX)
		return false;
	if (join)
		return m->cluster == 0 || m->cluster == sm->cluster;
	if (m->cluster == 0)
		return false;
	if (m->type == VSM_MSG_CONFIG || m->type == VSM_MSG_REFUSE)
		return sm->cluster == 0 || sm->cluster == m->cluster;
	return m->cluster == sm->cluster;
}

/* Time in which this node did nothing is not held against others. */
static void observe_now(struct vsm *sm, u64 now)
{
	u64 idle = now - sm->last_now, lag;

	ASSERT(now >= sm->last_now);
	sm->last_now = now;
	if (idle <= 2 * sm->c.heartbeat)
		return;
	lag = idle - sm->c.heartbeat;
	for (unsigned i = 0; i < KRG_NODES_MAX; i++)
		if (sm->peer[i].inc != 0)
			sm->peer[i].heard = KRG_MIN(now, sm->peer[i].heard + lag);
	sm->leader_heard = KRG_MIN(now, sm->leader_heard + lag);
	sm->elect_at += lag;
}

static void settle(struct vsm *sm, u64 now)
{
	bool have;

	if (sm->role == VSM_LEADER)
		vsm_lead_step(sm, now);
	have = vsm_has_quorum(sm, now);
	if (have == sm->had_quorum)
		return;
	sm->had_quorum = have;
	sm->ops->quorum(sm->ctx, have);
}

void vsm_recv(struct vsm *sm, u64 now, const struct vsm_msg *m)
{
	struct vsm_peer *p;

	observe_now(sm, now);
	if (sm->role == VSM_GONE)
		return;
	if (m->to == sm->c.self.node && m->to_inc != sm->c.self.inc &&
	    (m->type == VSM_MSG_BEAT || m->type == VSM_MSG_VOTE) && sm->cfg != NULL &&
	    view_id_cmp(m->cfg_term, m->cfg_number, sm->cfg->term, sm->cfg->number) < 0)
		tell_sleeper(sm, now, m);
	if (!sensible(sm, m))
		return;
	p = vsm_peer_of(sm, m->from, m->from_inc);
	if (p != NULL) {
		p->heard = now;
		p->suspected = false;
	}
	/* A vote brings its term along only if it is given. */
	if (m->term > sm->term && m->type != VSM_MSG_JOIN && m->type != VSM_MSG_VOTE)
		vsm_step_down(sm, now, m->term);
	switch (m->type) {
	case VSM_MSG_BEAT:
		handle_beat(sm, now, m, p);
		break;
	case VSM_MSG_CONFIG:
		handle_config(sm, now, m);
		break;
	case VSM_MSG_VOTE:
		handle_vote(sm, now, m);
		break;
	case VSM_MSG_VOTED:
		handle_voted(sm, now, m);
		break;
	case VSM_MSG_TAKE_OVER:
		handle_take_over(sm, now, m);
		break;
	case VSM_MSG_JOIN:
		handle_join(sm, now, m);
		break;
	case VSM_MSG_REFUSE:
		if (!vsm_in(sm, sm->cfg) && !vsm_in(sm, sm->view))
			sm->ops->refused(sm->ctx, m->code, m->text);
		break;
	case VSM_MSG_WANT:
		if (sm->role == VSM_LEADER)
			vsm_lead_told(sm, now, m->want, m->node, m->inc);
		break;
	case VSM_MSG_END:
		break;
	}
	settle(sm, now);
}

/* ---- wishes ---- */

static bool fulfilled(const struct vsm *sm, nodeid node)
{
	const struct vsm_mark *w = &sm->wish[node];

	return view_has(sm->view, node, w->inc) == (w->want == VSM_WANT_ADD);
}

static void push_wish(struct vsm *sm, u64 now, nodeid node)
{
	struct vsm_mark *w = &sm->wish[node];
	const struct view_member *leader = view_find(sm->cfg, sm->leader);
	struct vsm_msg m = {.want = w->want, .node = node, .inc = w->inc};

	if (fulfilled(sm, node))
		*w = (struct vsm_mark){.want = VSM_WANT_NONE};
	else if (sm->role == VSM_LEADER)
		vsm_lead_told(sm, now, w->want, node, w->inc);
	else if (leader != NULL)
		vsm_send(sm, &m, VSM_MSG_WANT, leader->node, leader->inc);
}

int vsm_wish(struct vsm *sm, u64 now, enum vsm_want want, nodeid node)
{
	const struct view_member *m = view_find(sm->view, node);
	struct vsm_mark *w = &sm->wish[node];

	ASSERT(node < KRG_NODES_MAX && want < VSM_WANT_NR);
	ASSERT(IMPLIES(want == VSM_WANT_LEAVE, node == sm->c.self.node));
	observe_now(sm, now);
	*w = (struct vsm_mark){.want = VSM_WANT_NONE};
	if (want == VSM_WANT_NONE)
		return 0;
	if (want == VSM_WANT_ADD) {
		const struct vsm_known *k = &sm->known[node];

		if (m != NULL)
			return -EALREADY;
		if (k->m.inc == 0 || now - k->heard > 5 * sm->c.heartbeat)
			return -ENOENT;
		m = &k->m;
	}
	if (m == NULL)
		return -ENOENT;
	*w = (struct vsm_mark){.want = want, .inc = m->inc};
	push_wish(sm, now, node);
	settle(sm, now);
	return 0;
}

/* ---- time ---- */

static void on_beat(struct vsm *sm, u64 now)
{
	struct vsm_msg m = {.echo = 0};

	if (sm->role == VSM_OUTSIDE && !vsm_in(sm, sm->view)) {
		send_join(sm, now);
		sm->next_beat = now + sm->c.heartbeat;
		return;
	}
	vsm_send_beats(sm, now);
	if (sm->role == VSM_LEADER)
		vsm_lead_remind(sm, now);
	if (sm->role != VSM_LEADER && now - sm->leader_heard > 3 * sm->c.fail_after)
		vsm_send(sm, &m, VSM_MSG_BEAT, KRG_NODE_NONE, 0); /* all may have moved on */
	for (unsigned i = 0; i < KRG_NODES_MAX; i++)
		if (sm->wish[i].want != VSM_WANT_NONE)
			push_wish(sm, now, (nodeid)i);
	for (unsigned i = 0; i < sm->cfg->n; i++) {
		struct vsm_peer *p = &sm->peer[sm->cfg->m[i].node];

		if (p->inc != sm->cfg->m[i].inc || p->suspected ||
		    vsm_is_self(sm, &sm->cfg->m[i]) || now - p->heard < sm->c.fail_after)
			continue;
		p->suspected = true;
		if (sm->ops->suspect != NULL)
			sm->ops->suspect(sm->ctx, sm->cfg->m[i].node);
	}
}

void vsm_tick(struct vsm *sm, u64 now)
{
	observe_now(sm, now);
	if (sm->role == VSM_GONE)
		return;
	if (now >= sm->next_beat)
		on_beat(sm, now);
	if (sm->role != VSM_LEADER && sm->role != VSM_OUTSIDE && now >= sm->elect_at)
		ask_around(sm, now);
	settle(sm, now);
}

u64 vsm_deadline(const struct vsm *sm)
{
	u64 at = sm->next_beat;

	if (sm->role == VSM_GONE)
		return UINT64_MAX;
	if (sm->role != VSM_LEADER && sm->role != VSM_OUTSIDE)
		at = KRG_MIN(at, sm->elect_at);
	if (sm->had_quorum && sm->lease_until > sm->last_now)
		at = KRG_MIN(at, sm->lease_until);
	return KRG_MAX(at, sm->last_now);
}

/* ---- begin, end, looking ---- */

struct vsm *vsm_new(const struct vsm_config *config, const struct vsm_ops *ops, void *ctx, u64 now)
{
	struct vsm *sm = krg_xalloc(sizeof(*sm));

	ASSERT(config->self.node < KRG_NODES_MAX && config->self.inc != 0 && now != 0);
	ASSERT(config->heartbeat > 0 && config->fail_after >= 5 * config->heartbeat);
	sm->c = *config;
	sm->ops = ops;
	sm->ctx = ctx;
	sm->leader = KRG_NODE_NONE;
	sm->out = VIEW_FAILED;
	sm->last_now = sm->next_beat = now;
	krg_rng_init(&sm->rng, config->seed);
	return sm;
}

void vsm_free(struct vsm *sm)
{
	if (sm == NULL)
		return;
	view_unref(sm->view);
	view_unref(sm->cfg);
	free(sm);
}

void vsm_form(struct vsm *sm, u64 now)
{
	AUTO_VIEW struct view *v = view_make(1, 1, 1);

	ASSERT(sm->cfg == NULL && sm->role == VSM_OUTSIDE);
	observe_now(sm, now);
	v->m[0] = sm->c.self;
	v->reason = VIEW_FORMED;
	v->node = sm->c.self.node;
	v->inc = sm->c.self.inc;
	sm->cluster = krg_rng_u64(&sm->rng) | 1;
	sm->term = 1;
	vsm_move(sm, VSM_LEADER);
	sm->leader = sm->c.self.node;
	sm->led_since = sm->cfg_since = now;
	vsm_set_cfg(sm, now, v);
	settle(sm, now);
}

void vsm_join(struct vsm *sm, u64 now, bool want_in)
{
	ASSERT(sm->role == VSM_OUTSIDE);
	observe_now(sm, now);
	sm->want_in = want_in;
	sm->next_beat = now;
	vsm_tick(sm, now);
}

enum vsm_role vsm_get_role(const struct vsm *sm)
{
	return sm->role;
}

u64 vsm_get_term(const struct vsm *sm)
{
	return sm->term;
}

nodeid vsm_get_leader(const struct vsm *sm)
{
	return sm->leader;
}

const struct view *vsm_get_view(const struct vsm *sm)
{
	return sm->view;
}

const struct view *vsm_get_cfg(const struct vsm *sm)
{
	return sm->cfg;
}

bool vsm_has_quorum(const struct vsm *sm, u64 now)
{
	if (sm->role == VSM_GONE || !vsm_in(sm, sm->view))
		return false;
	if (VSM_BUG(NO_LEASE))
		return true;
	return now < sm->lease_until ||
	       (sm->role == VSM_LEADER && now < vsm_lead_confirmed(sm, now) + vsm_lease(sm));
}

unsigned vsm_get_present(const struct vsm *sm, u64 now, struct vsm_present *ret, unsigned max)
{
	unsigned n = 0;

	for (unsigned i = 0; i < KRG_NODES_MAX && n < max; i++) {
		const struct vsm_known *k = &sm->known[i];

		if (k->m.inc == 0 || now - k->heard > 5 * sm->c.heartbeat ||
		    view_find(sm->view, (nodeid)i) != NULL)
			continue;
		ret[n++] =
			(struct vsm_present){.m = k->m, .heard = k->heard, .want_in = k->want_in};
	}
	return n;
}

u64 vsm_get_heard(const struct vsm *sm, nodeid node)
{
	const struct view_member *m = view_find(sm->view, node);

	return m == NULL || sm->peer[node].inc != m->inc ? 0 : sm->peer[node].heard;
}
