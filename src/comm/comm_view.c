/* Who is in, and which messages are of which view. */
#include "comm_impl.h"
#include "log.h"
#include "trace.h"

u64 comm_view(const struct comm *c)
{
	return atomic_load(&c->view);
}

bool comm_is_member(const struct comm *c, nodeid node)
{
	return node < KRG_NODES_MAX && atomic_load(&c->since[node]) != 0;
}

bool comm_may_send(const struct comm *c, nodeid to, bool any_view)
{
	return any_view || comm_is_member(c, to);
}

static bool to_outsider(const struct call *k, const void *arg)
{
	const struct comm *c = arg;

	return !k->any_view && k->to != c->config.self && !comm_is_member(c, k->to);
}

void comm_view_set(struct comm *c, u64 view, const nodeid *members, unsigned n)
{
	bool in[KRG_NODES_MAX] = {false};

	for (unsigned i = 0; i < n; i++) {
		ASSERT(members[i] < KRG_NODES_MAX);
		in[members[i]] = true;
	}
	calls_lock(&c->lock);
	if (view < atomic_load(&c->view)) { /* the number only grows */
		calls_unlock(&c->lock);
		return;
	}
	for (nodeid i = 0; i < KRG_NODES_MAX; i++) {
		u64 since = atomic_load(&c->since[i]);

		atomic_store(&c->since[i], !in[i] ? 0 : since != 0 ? since : view);
		if (!in[i] && since != 0) {
			comm_reqs_cancel_locked(c, i, -1);
			kernetdev_peer_gone(c->kd, i);
		}
		if (in[i] && since == 0)
			kernetdev_peer_again(c->kd, i);
	}
	atomic_store(&c->view, view);
	comm_calls_end_locked(c, to_outsider, c, -EHOSTDOWN, "it left the cluster");
	krg_cond_broadcast(&c->cond);
	calls_unlock(&c->lock);
	kernetdev_wake_room(c->kd);
	kernetdev_poke(c->kd); /* messages that were held, calls that waited for the view */
}

static void refuse_stale(struct comm *c, struct kernetdev_msg *m, const struct comm_msg *h,
			 u64 view)
{
	struct krg_err err;

	TRACE(COMM_STALE, h->id, m->peer, h->op, h->view);
	calls_lock(&c->lock);
	c->stat.stale++;
	calls_unlock(&c->lock);
	if (h->kind == COMM_MSG_CALL) {
		(void)krg_err_set(&err, -ESTALE, "view %llu, node %u is at %llu",
				  (unsigned long long)h->view, c->config.self,
				  (unsigned long long)view);
		comm_refuse(c, m, h, &err, COMM_MSG_STALE);
	}
	kernetdev_msg_done(c->kd, m);
}

static void held_add(struct held *w, struct kernetdev_msg *m)
{
	if (w->first == NULL)
		w->last = &w->first;
	m->next = NULL;
	*w->last = m;
	w->last = &m->next;
}

enum verdict { PASS, HOLD, REFUSE };

/* A call must have exactly our view.  A one-way message of an older view is good if its sender
 * has been in ever since; so nothing that was sent between members is lost by a view change. */
static enum verdict judge(const struct comm *c, nodeid from, const struct comm_msg *h)
{
	u64 view = atomic_load(&c->view), since = atomic_load(&c->since[from]);
	const struct op *o = comm_op(c, h->op);

	if (from == c->config.self || h->kind == COMM_MSG_ANSWER || h->kind == COMM_MSG_FAIL ||
	    h->kind == COMM_MSG_CANCEL || (o != NULL && (o->flags & COMM_ANY_VIEW)))
		return PASS;
	if (h->view > view)
		return HOLD;
	if (since == 0)
		return REFUSE;
	if (h->view == view)
		return PASS;
	return h->kind == COMM_MSG_ONE_WAY && h->view >= since ? PASS : REFUSE;
}

bool comm_view_admit(struct comm *c, struct kernetdev_msg *m, const struct comm_msg *h)
{
	struct held *w = &c->held[m->peer][m->chan];
	enum verdict v;
	u64 view;

	if (h->kind == COMM_MSG_ANSWER || h->kind == COMM_MSG_FAIL)
		return true;
	calls_lock(&c->lock);
	v = judge(c, m->peer, h);
	view = atomic_load(&c->view);
	/* Behind what is held nothing of the same channel overtakes, but what is of any view. */
	if (v != HOLD && (w->first != NULL || w->busy) &&
	    (h->kind == COMM_MSG_CANCEL || v != PASS || h->view >= view))
		v = comm_op(c, h->op) != NULL && (comm_op(c, h->op)->flags & COMM_ANY_VIEW) &&
				    h->kind != COMM_MSG_CANCEL
			    ? PASS
			    : HOLD;
	if (v == HOLD) {
		held_add(w, m);
		c->held_some = true;
	}
	calls_unlock(&c->lock);
	if (v == REFUSE)
		refuse_stale(c, m, h, view);
	return v == PASS;
}

/* The first held message of this channel that is for now; the channel is ours until the next
 * call. */
static struct kernetdev_msg *held_next(struct comm *c, struct held *w, enum verdict *ret)
{
	struct kernetdev_msg *m = w->first;
	struct comm_msg h;

	w->busy = false;
	if (m == NULL || comm_msg_parse(m, &h) < 0)
		return NULL;
	*ret = judge(c, m->peer, &h);
	if (*ret == HOLD)
		return NULL;
	w->first = m->next;
	w->busy = true;
	m->next = NULL;
	return m;
}

static void held_run(struct comm *c, struct held *w)
{
	for (;;) {
		struct kernetdev_msg *m;
		struct comm_msg h;
		enum verdict v;

		calls_lock(&c->lock);
		m = held_next(c, w, &v);
		calls_unlock(&c->lock);
		if (m == NULL)
			return;
		if (comm_msg_parse(m, &h) < 0)
			ASSERT(!"held messages have been parsed");
		if (v == REFUSE)
			refuse_stale(c, m, &h, comm_view(c));
		else
			comm_deliver(c, m, &h);
	}
}

/* On the I/O thread. */
void comm_held_release(struct comm *c)
{
	bool some;

	calls_lock(&c->lock);
	some = c->held_some;
	c->held_some = false;
	calls_unlock(&c->lock);
	if (!some)
		return;
	for (nodeid i = 0; i < KRG_NODES_MAX; i++)
		for (unsigned chan = 0; chan < COMM_CHAN_NR; chan++)
			held_run(c, &c->held[i][chan]);
	calls_lock(&c->lock);
	for (nodeid i = 0; i < KRG_NODES_MAX && !c->held_some; i++)
		for (unsigned chan = 0; chan < COMM_CHAN_NR; chan++)
			c->held_some |= c->held[i][chan].first != NULL;
	calls_unlock(&c->lock);
}

void comm_held_drop(struct comm *c, nodeid peer, u8 chan)
{
	struct kernetdev_msg *m;

	calls_lock(&c->lock);
	m = c->held[peer][chan].first;
	c->held[peer][chan].first = NULL;
	calls_unlock(&c->lock);
	while (m != NULL) {
		struct kernetdev_msg *next = m->next;

		kernetdev_msg_done(c->kd, m);
		m = next;
	}
}
