/* What only the leader does: agree on its configuration, then make the next one. */
#include "view_sm_impl.h"

/* When a majority of the configuration was last known to take this node for its leader. */
u64 vsm_lead_confirmed(const struct vsm *sm, u64 now)
{
	u64 best[KRG_NODES_MAX / 2 + 1];
	unsigned n = 0, want = view_majority(sm->cfg);

	for (unsigned i = 0; i < sm->cfg->n; i++) {
		const struct view_member *m = &sm->cfg->m[i];
		const struct vsm_peer *p = vsm_peer_look(sm, m);
		u64 t = vsm_is_self(sm, m) ? now : p == NULL ? 0 : p->acked;
		unsigned at = n;

		while (at > 0 && best[at - 1] < t)
			at--;
		if (at == want)
			continue;
		n = KRG_MIN(n + 1, want);
		memmove(best + at + 1, best + at, (n - at - 1) * sizeof(best[0]));
		best[at] = t;
	}
	ASSERT(n == want);
	return best[want - 1];
}

static void send_config_to_all(struct vsm *sm, u64 now)
{
	for (unsigned i = 0; i < sm->cfg->n; i++)
		if (!vsm_is_self(sm, &sm->cfg->m[i]))
			vsm_send_config(sm, now, sm->cfg->m[i].node, sm->cfg->m[i].inc);
}

/* From here on the configuration counts, for this node; it is agreed when a majority has it. */
static void propose(struct vsm *sm, u64 now, struct view *cfg)
{
	sm->lease_until = KRG_MAX(sm->lease_until, vsm_lead_confirmed(sm, now) + vsm_lease(sm));
	ASSERT(vsm_in(sm, cfg));
	vsm_set_cfg(sm, now, cfg);
	sm->cfg_since = now;
	send_config_to_all(sm, now);
}

/* Who has slept may know neither this leader nor that it should answer it. */
void vsm_lead_remind(struct vsm *sm, u64 now)
{
	for (unsigned i = 0; i < sm->cfg->n; i++) {
		const struct view_member *m = &sm->cfg->m[i];
		const struct vsm_peer *p = vsm_peer_look(sm, m);

		if (!vsm_is_self(sm, m) && p != NULL && now - p->sent_cfg >= sm->c.heartbeat &&
		    view_id_cmp(p->cfg_term, p->cfg_number, sm->cfg->term, sm->cfg->number) < 0)
			vsm_send_config(sm, now, m->node, m->inc);
	}
}

void vsm_lead_begin(struct vsm *sm, u64 now)
{
	AUTO_VIEW struct view *cfg = view_make_same(sm->cfg, sm->term, sm->cfg->number);

	vsm_move(sm, VSM_LEADER);
	sm->leader = sm->c.self.node;
	sm->led_since = now;
	sm->asked_at = 0;
	for (unsigned i = 0; i < KRG_NODES_MAX; i++)
		sm->peer[i].acked = 0;
	memset(sm->told, 0, sizeof(sm->told));
	sm->cfg_since = now;
	if (VSM_BUG(NO_TERM_REWRITE))
		send_config_to_all(sm, now);
	else
		propose(sm, now, cfg);
	vsm_send_beats(sm, now);
}

/* ---- agreeing ---- */

static bool has_mine(const struct vsm *sm, const struct view_member *m)
{
	const struct vsm_peer *p = vsm_peer_look(sm, m);

	if (vsm_is_self(sm, m))
		return true;
	return p != NULL && p->term == sm->term && p->cfg_term == sm->cfg->term &&
	       p->cfg_number == sm->cfg->number;
}

static bool is_agreed(const struct vsm *sm)
{
	return sm->view != NULL && view_cmp(sm->view, sm->cfg) == 0;
}

static bool agree(struct vsm *sm, u64 now)
{
	const struct view *v = sm->cfg;
	unsigned n = 0;

	ASSERT(VSM_BUG(NO_TERM_REWRITE) || v->term == sm->term);
	for (unsigned i = 0; i < v->n; i++)
		n += has_mine(sm, &v->m[i]);
	if (n < (VSM_BUG(COMMIT_ALONE) ? 1 : view_majority(v)))
		return false;
	vsm_set_view(sm, sm->cfg);
	vsm_send_beats(sm, now);
	if (!view_has(v, v->node, v->inc) && v->node < KRG_NODES_MAX)
		vsm_send_config(sm, now, v->node, v->inc); /* it may still hear */
	return true;
}

/* A change that finds no majority (the newcomer does not answer, too many died at once) is taken
 * back: the members are those of the agreed view again, whose majorities meet those of the change.
 * Only when that view was agreed in this term: else older configurations may still be alive, whose
 * majorities need not meet (the fault of 2015 once more). */
static bool take_back(struct vsm *sm, u64 now)
{
	const struct view *c = sm->cfg;
	bool added = c->reason == VIEW_ADDED && view_has(c, c->node, c->inc);

	if (sm->view == NULL || sm->view->number + 1 != c->number ||
	    (sm->view->term != sm->term && !VSM_BUG(BACK_ANY_TERM)))
		return false;
	if (now - sm->cfg_since < 4 * sm->c.heartbeat ||
	    (now - sm->cfg_since < sm->c.fail_after / 4 * 3 &&
	     !(added && now - sm->peer[c->node].heard > 3 * sm->c.heartbeat)))
		return false;
	AUTO_VIEW struct view *back = view_make_same(sm->view, sm->term, c->number + 1);

	back->reason = VIEW_BACK;
	back->node = c->node;
	back->inc = c->inc;
	sm->known[c->node].not_before = now + 2 * sm->c.fail_after;
	propose(sm, now, back);
	return true;
}

/* ---- the next change ---- */

static bool is_fresh(const struct vsm *sm, u64 now, u64 heard)
{
	return now - heard <= 3 * sm->c.heartbeat;
}

/* A change is not begun that could not be agreed. */
static bool could_agree(const struct vsm *sm, u64 now, const struct view *cfg)
{
	unsigned n = 0;

	for (unsigned i = 0; i < cfg->n; i++) {
		const struct vsm_peer *p = vsm_peer_look(sm, &cfg->m[i]);

		n += vsm_is_self(sm, &cfg->m[i]) || (p != NULL && is_fresh(sm, now, p->heard)) ||
		     (cfg->reason == VIEW_ADDED && cfg->m[i].node == cfg->node);
	}
	return n >= view_majority(cfg);
}

/* Nor one that takes a living member out, before a majority of the rest has answered a question
 * that was asked for this: who has just died would be missed then. */
static bool rest_answers(struct vsm *sm, u64 now, const struct view *cfg)
{
	unsigned n = 0;

	for (unsigned i = 0; i < cfg->n; i++) {
		const struct vsm_peer *p = vsm_peer_look(sm, &cfg->m[i]);

		n += vsm_is_self(sm, &cfg->m[i]) ||
		     (p != NULL && sm->asked_at != 0 && p->acked >= sm->asked_at);
	}
	if (n >= view_majority(cfg) && now - sm->asked_at <= sm->c.heartbeat)
		return true;
	if (now - sm->asked_at > sm->c.heartbeat) {
		sm->asked_at = now;
		send_config_to_all(sm, now);
	}
	return view_majority(cfg) == 1;
}

static bool take_out(struct vsm *sm, u64 now, nodeid node, enum view_reason reason)
{
	AUTO_VIEW struct view *cfg = view_make_without(sm->cfg, node, sm->cfg->number + 1);

	cfg->reason = reason;
	cfg->term = sm->term;
	if (!could_agree(sm, now, cfg) || (reason != VIEW_FAILED && !rest_answers(sm, now, cfg)))
		return false;
	propose(sm, now, cfg);
	return true;
}

static bool is_failed(const struct vsm *sm, u64 now, const struct view_member *m)
{
	const struct vsm_peer *p = vsm_peer_look(sm, m);
	unsigned deaf = 1;

	if (p == NULL || now - p->heard < sm->c.fail_after)
		return false;
	if (now - p->heard >= 3 * sm->c.fail_after)
		return true;
	for (unsigned i = 0; i < sm->cfg->n; i++) {
		const struct vsm_peer *q = vsm_peer_look(sm, &sm->cfg->m[i]);

		if (q != NULL && q != p && !vsm_is_self(sm, &sm->cfg->m[i]) &&
		    now - q->heard < sm->c.fail_after)
			deaf += vsm_bit(q->deaf, m->node);
	}
	return deaf >= view_majority(sm->cfg);
}

static bool take_out_failed(struct vsm *sm, u64 now)
{
	const struct view_member *worst = NULL;

	if (now < sm->bar && !VSM_BUG(NO_BAR))
		return false;
	if (now >= vsm_lead_confirmed(sm, now) + vsm_lease(sm))
		return false;
	for (unsigned i = 0; i < sm->cfg->n; i++) {
		const struct view_member *m = &sm->cfg->m[i];

		if (vsm_is_self(sm, m) || !is_failed(sm, now, m))
			continue;
		if (worst == NULL || sm->peer[m->node].heard < sm->peer[worst->node].heard)
			worst = m;
	}
	return worst != NULL && take_out(sm, now, worst->node, VIEW_FAILED);
}

static void hand_over(struct vsm *sm, u64 now)
{
	const struct view_member *best = NULL;
	struct vsm_msg m = {.want = VSM_WANT_NONE};

	for (unsigned i = 0; i < sm->cfg->n; i++) {
		const struct view_member *c = &sm->cfg->m[i];

		if (vsm_is_self(sm, c) || !has_mine(sm, c) ||
		    !is_fresh(sm, now, sm->peer[c->node].heard))
			continue;
		if (best == NULL || sm->peer[c->node].heard > sm->peer[best->node].heard)
			best = c;
	}
	if (best != NULL)
		vsm_send(sm, &m, VSM_MSG_TAKE_OVER, best->node, best->inc);
}

static bool take_out_told(struct vsm *sm, u64 now)
{
	for (unsigned i = 0; i < sm->cfg->n; i++) {
		const struct view_member *m = &sm->cfg->m[i];
		struct vsm_mark *t = &sm->told[m->node];

		if ((t->want != VSM_WANT_DEL && t->want != VSM_WANT_LEAVE) || t->inc != m->inc ||
		    !is_fresh(sm, now, t->at) || sm->cfg->n == 1)
			continue;
		if (!vsm_is_self(sm, m)) {
			if (take_out(sm, now, m->node,
				     t->want == VSM_WANT_DEL ? VIEW_DELETED : VIEW_LEFT))
				return true;
			continue;
		}
		/* A leader cannot take itself out: the next one will, the wish is repeated. */
		t->want = VSM_WANT_NONE;
		AUTO_VIEW struct view *without = view_make_without(sm->cfg, m->node, 0);

		if (could_agree(sm, now, without))
			hand_over(sm, now);
	}
	return false;
}

static void refuse(struct vsm *sm, const struct vsm_known *k, const struct view_member *m)
{
	struct vsm_msg r = {.code = -EADDRINUSE};

	(void)snprintf(r.text, sizeof(r.text), "node number %u is taken by %.40s at %.40s:%u",
		       m->node, m->name, m->addr, m->port);
	vsm_send(sm, &r, VSM_MSG_REFUSE, k->m.node, k->m.inc);
}

/* A newcomer has the number of a member.  At the same address, it is the same machine's next
 * daemon, and the old one is dead; elsewhere, the old one may live. */
static bool resolve_number(struct vsm *sm, u64 now, struct vsm_known *k)
{
	const struct view_member *m = view_find(sm->cfg, k->m.node);

	if (m == NULL || m->inc == k->m.inc)
		return false;
	if (!vsm_is_self(sm, m) && k->echo > sm->peer[m->node].since && m->port == k->m.port &&
	    strcmp(m->addr, k->m.addr) == 0)
		return take_out(sm, now, m->node, VIEW_FAILED);
	if ((vsm_is_self(sm, m) || sm->peer[m->node].heard > k->first + sm->c.fail_after / 2) &&
	    now >= k->not_before) {
		k->not_before = now + 2 * sm->c.heartbeat;
		refuse(sm, k, m);
	}
	return false;
}

static bool take_in(struct vsm *sm, u64 now)
{
	for (unsigned i = 0; i < KRG_NODES_MAX; i++) {
		struct vsm_known *k = &sm->known[i];
		const struct vsm_mark *t = &sm->told[i];

		if (k->m.inc == 0 || k->m.inc == sm->gone[i].inc || !is_fresh(sm, now, k->heard))
			continue;
		if (view_find(sm->cfg, (nodeid)i) != NULL) {
			if (resolve_number(sm, now, k))
				return true;
			continue;
		}
		if (now < k->not_before || k->echo == 0 || now - k->echo > sm->c.fail_after ||
		    (!k->want_in &&
		     (t->want != VSM_WANT_ADD || t->inc != k->m.inc || !is_fresh(sm, now, t->at))))
			continue;
		AUTO_VIEW struct view *cfg = view_make_with(sm->cfg, &k->m, sm->cfg->number + 1);

		cfg->term = sm->term;
		if (!could_agree(sm, now, cfg))
			return false;
		propose(sm, now, cfg);
		return true;
	}
	return false;
}

void vsm_lead_told(struct vsm *sm, u64 now, enum vsm_want want, nodeid node, u64 inc)
{
	if (node >= KRG_NODES_MAX || want == VSM_WANT_NONE || want >= VSM_WANT_NR)
		return;
	sm->told[node] = (struct vsm_mark){.want = want, .inc = inc, .at = now};
}

void vsm_lead_step(struct vsm *sm, u64 now)
{
	u64 with_majority;

	for (;;) {
		if (!is_agreed(sm) && !agree(sm, now) && !VSM_BUG(CHANGE_UNAGREED)) {
			if (!take_back(sm, now))
				break;
			continue;
		}
		if (!take_out_failed(sm, now) && !take_out_told(sm, now) && !take_in(sm, now))
			break;
	}
	with_majority = vsm_lead_confirmed(sm, now);
	with_majority = KRG_MAX(with_majority, sm->led_since);
	with_majority = KRG_MAX(with_majority, sm->cfg_since);
	if (now - with_majority > sm->c.fail_after)
		vsm_step_down(sm, now, sm->term);
}
