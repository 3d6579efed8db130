/* The driver of the membership protocol: one thread, comm's messages, the machine's clock. */
#include "clock.h"
#include "hotplug.h"
#include "lock.h"
#include "kernetdev.h"
#include "log.h"
#include "rng.h"
#include "trace.h"
#include "view_msg.h"

#define OP_HOTPLUG_MSG	 COMM_OP(COMM_SVC_HOTPLUG, 1)
#define HOTPLUG_QUEUE	 8192u		 /* messages that wait for the thread; more are dropped */
#define HOTPLUG_FORGET	 (30 * KRG_NSEC) /* links to those who are silent and not in */
#define HOTPLUG_PROBE_MS 500u

enum hotplug_phase { PH_NEW, PH_RUNNING, PH_REFUSED, PH_LEFT, PH_STOPPED };

struct event {
	struct event *next;
	enum { EV_VIEW, EV_QUORUM, EV_REMOVED, EV_REFUSED } kind;
	struct view *view;
	bool have;
	enum view_reason reason;
	struct krg_err err;
};

struct msg {
	struct msg *next;
	struct comm_req *req;
};

/* What is known of a node's address, and when it was heard. */
struct contact {
	char addr[64];
	u16 port;
	u64 heard;
};

/* Letters: c - constant after hotplug_new()   m - lock (class member)   q - qlock (class leaf)
 *          n - hotplug's thread */
struct hotplug {
	struct comm *comm;	    /* (c) */
	struct hotplug_config c;    /* (c) */
	struct hotplug_seed *seeds; /* (c) */
	const struct hotplug_ops *ops;
	void *ctx;

	struct krg_mutex lock;
	struct krg_cond changed;  /* (m) something that a caller may wait for */
	struct vsm *sm;		  /* (m) NULL before start and after leaving */
	enum hotplug_phase phase; /* (m) */
	struct krg_err refused;	  /* (m) with PH_REFUSED */
	struct view *shown;	  /* (m) the view that the ops know; NULL: not a member */
	struct event *events, **events_last;   /* (m) */
	struct contact contact[KRG_NODES_MAX]; /* (m) */

	struct krg_mutex qlock;
	struct krg_cond wake;
	struct msg *queue, **queue_last; /* (q) */
	unsigned queued, dropped;	 /* (q) */
	bool poked, stop;		 /* (q) */

	pthread_t thread; /* (m) with has_thread */
	bool has_thread;
	u64 inc;       /* (n) this node's incarnation; (m) to write */
	u64 forget_at; /* (n) */
};

static u64 now_ns(void)
{
	u64 now = krg_clock_now_ns();

	return now == 0 ? 1 : now;
}

/* ---- what the machine says; with the lock ---- */

static struct event *event_add(struct hotplug *h, int kind)
{
	struct event *e = krg_xalloc(sizeof(*e));

	e->kind = kind;
	*h->events_last = e;
	h->events_last = &e->next;
	return e;
}

static void send_to(struct hotplug *h, nodeid to, const struct krg_buf *b)
{
	int r = comm_try_send(h->comm, to, OP_HOTPLUG_MSG, b);

	if (r < 0)
		LOG_D("hotplug", "to node %u: %s", to, strerror(-r));
}

static void on_send(void *ctx, const struct vsm_msg *m)
{
	struct hotplug *h = ctx;
	KRG_AUTO_BUF struct krg_buf b = {0};

	vsm_msg_encode(m, &b);
	if (m->to != KRG_NODE_NONE) {
		send_to(h, m->to, &b);
		return;
	}
	for (unsigned i = 0; i < KRG_NODES_MAX; i++)
		if (h->contact[i].port != 0 && i != h->c.self)
			send_to(h, (nodeid)i, &b);
}

static void on_view(void *ctx, const struct view *v)
{
	struct hotplug *h = ctx;

	event_add(h, EV_VIEW)->view = view_make_same(v, v->term, v->number);
}

static void on_quorum(void *ctx, bool have)
{
	event_add(ctx, EV_QUORUM)->have = have;
}

static void on_removed(void *ctx, const struct view *v, enum view_reason reason)
{
	struct hotplug *h = ctx;
	struct event *e = event_add(h, EV_REMOVED);

	e->view = view_make_same(v, v->term, v->number);
	e->reason = reason;
}

static void on_refused(void *ctx, int code, const char *text)
{
	struct hotplug *h = ctx;

	(void)krg_err_set(&event_add(h, EV_REFUSED)->err, code, "%s", text);
}

static void on_suspect(void *ctx, nodeid node)
{
	(void)ctx;
	TRACE(HOTPLUG_SUSPECT, 0, node);
	LOG_W("hotplug", "node %u is not heard", node);
}

static const struct vsm_ops sm_ops = {
	.send = on_send,
	.view = on_view,
	.quorum = on_quorum,
	.removed = on_removed,
	.refused = on_refused,
	.suspect = on_suspect,
};

/* Another incarnation: what others know of the earlier one does not bind it. */
static void sm_make_locked(struct hotplug *h)
{
	struct vsm_config c = {
		.heartbeat = h->c.heartbeat_ms * KRG_MSEC,
		.fail_after = h->c.fail_after_ms * KRG_MSEC,
		.self = {.node = h->c.self, .port = h->c.port},
	};
	u64 secret[2];

	if (krg_rng_secret(secret, sizeof(secret)) < 0)
		ASSERT(!"getrandom(2) works");
	c.self.inc = h->inc = secret[0] | 1;
	c.seed = secret[1];
	memcpy(c.self.name, h->c.name, sizeof(c.self.name));
	memcpy(c.self.addr, h->c.addr, sizeof(c.self.addr));
	vsm_free(h->sm);
	h->sm = vsm_new(&c, &sm_ops, h, now_ns());
}

static void poke(struct hotplug *h)
{
	KRG_GUARD(leaf, &h->qlock);

	h->poked = true;
	krg_cond_signal(&h->wake);
}

/* ---- what follows from it; on the thread, with no lock ---- */

static void learn(struct hotplug *h, const struct view_member *m)
{
	bool is_new;

	if (m->node == h->c.self || m->port == 0)
		return;
	{
		KRG_GUARD(member, &h->lock);
		struct contact *k = &h->contact[m->node];

		is_new = k->port != m->port || strcmp(k->addr, m->addr) != 0;
		if (is_new) {
			memcpy(k->addr, m->addr, sizeof(k->addr));
			k->port = m->port;
			k->heard = now_ns();
		}
	}
	if (is_new && comm_peer_set(h->comm, m->node, m->addr, m->port) < 0)
		LOG_W("hotplug", "node %u: '%s' is no address", m->node, m->addr);
}

static void learn_view(struct hotplug *h, const struct view *v)
{
	for (unsigned i = 0; v != NULL && i < v->n; i++)
		learn(h, &v->m[i]);
}

static void comm_view_of(struct hotplug *h, u64 number, const struct view *v,
			 const struct view *but)
{
	nodeid m[KRG_NODES_MAX];
	unsigned n = 0;

	for (unsigned i = 0; i < v->n; i++)
		if (but == NULL || view_has(but, v->m[i].node, v->m[i].inc) ||
		    view_find(but, v->m[i].node) == NULL)
			m[n++] = v->m[i].node;
	comm_view_set(h->comm, number, m, n);
}

static void tell_downs(struct hotplug *h, const struct view *was, const struct view *v, u64 number)
{
	for (unsigned i = 0; was != NULL && i < was->n; i++)
		if (was->m[i].node != h->c.self && !view_has(v, was->m[i].node, was->m[i].inc))
			h->ops->node_down(h->ctx, was->m[i].node, number);
}

static void tell_ups(struct hotplug *h, const struct view *was, const struct view *v)
{
	if (was == NULL)
		h->ops->node_up(h->ctx, h->c.self, v->number);
	for (unsigned i = 0; i < v->n; i++)
		if (v->m[i].node != h->c.self && !view_has(was, v->m[i].node, v->m[i].inc))
			h->ops->node_up(h->ctx, v->m[i].node, v->number);
}

static struct view *show(struct hotplug *h, struct view *v)
{
	KRG_GUARD(member, &h->lock);
	struct view *was = h->shown;

	h->shown = v;
	krg_cond_broadcast(&h->changed);
	return was;
}

static void deliver_view(struct hotplug *h, struct event *e)
{
	AUTO_VIEW struct view *was = NULL;
	struct view *v = e->view;

	learn_view(h, v);
	if (!view_has(v, h->c.self, h->inc))
		return; /* of others, or of an earlier daemon with this number */
	TRACE(HOTPLUG_VIEW, 0, v->number, v->n);
	LOG_I("hotplug", "view %llu: %u members (node %u %s)", (unsigned long long)v->number, v->n,
	      v->node, view_reason_name(v->reason));
	was = h->shown; /* only this thread writes it */
	/* Who was replaced by its next incarnation since is out for a moment: calls to it end. */
	comm_view_of(h, v->number, v, was);
	comm_view_of(h, v->number, v, NULL);
	tell_downs(h, was, v, v->number);
	tell_ups(h, was, v);
	(void)show(h, TAKE_PTR(e->view));
}

static void deliver_removed(struct hotplug *h, struct event *e)
{
	AUTO_VIEW struct view *was = NULL;
	bool left = e->reason == VIEW_LEFT;

	LOG_W("hotplug", "taken out in view %llu: %s", (unsigned long long)e->view->number,
	      view_reason_name(e->reason));
	if (h->shown != NULL) {
		comm_view_set(h->comm, e->view->number, &h->c.self, 1);
		tell_downs(h, h->shown, NULL, e->view->number);
		h->ops->node_down(h->ctx, h->c.self, e->view->number);
		was = show(h, NULL);
		if (!left)
			h->ops->removed(h->ctx, e->view->number);
	}
	KRG_GUARD(member, &h->lock);
	if (left) {
		h->phase = PH_LEFT;
		vsm_free(h->sm);
		h->sm = NULL;
	} else {
		bool want_in = e->reason == VIEW_BACK	  ? !h->c.stay_present
			       : e->reason == VIEW_FAILED ? !h->c.stay_out
							  : false;

		sm_make_locked(h);
		vsm_join(h->sm, now_ns(), want_in);
	}
	krg_cond_broadcast(&h->changed);
}

static void deliver_refused(struct hotplug *h, const struct event *e)
{
	KRG_GUARD(member, &h->lock);

	if (h->phase == PH_RUNNING && h->shown == NULL)
		h->refused = e->err;
	krg_cond_broadcast(&h->changed);
}

static void deliver_quorum(struct hotplug *h, const struct event *e)
{
	LOG_I("hotplug", "quorum: %s", e->have ? "yes" : "no");
	h->ops->quorum(h->ctx, e->have, hotplug_view(h));
	KRG_GUARD(member, &h->lock);
	krg_cond_broadcast(&h->changed);
}

static struct event *event_take(struct hotplug *h)
{
	KRG_GUARD(member, &h->lock);
	struct event *e = h->events;

	if (e != NULL && (h->events = e->next) == NULL)
		h->events_last = &h->events;
	return e;
}

static void deliver_events(struct hotplug *h)
{
	struct event *e;

	while ((e = event_take(h)) != NULL) {
		if (e->kind == EV_VIEW)
			deliver_view(h, e);
		if (e->kind == EV_REMOVED)
			deliver_removed(h, e);
		if (e->kind == EV_REFUSED)
			deliver_refused(h, e);
		if (e->kind == EV_QUORUM)
			deliver_quorum(h, e);
		view_unref(e->view);
		free(e);
	}
}

/* ---- messages ---- */

/* On the I/O thread of comm. */
static void handle_msg(void *ctx, struct comm_req *req)
{
	struct hotplug *h = ctx;
	struct msg *m = NULL;

	leaf_lock(&h->qlock);
	if (!h->stop && h->queued < HOTPLUG_QUEUE) {
		m = krg_xalloc(sizeof(*m));
		m->req = req;
		*h->queue_last = m;
		h->queue_last = &m->next;
		h->queued++;
		krg_cond_signal(&h->wake);
	} else {
		h->dropped++;
	}
	leaf_unlock(&h->qlock);
	if (m == NULL)
		comm_req_done(req);
}

static void take_msg(struct hotplug *h, struct comm_req *req)
{
	AUTO_VSM_MSG struct vsm_msg m = {0};
	int r = vsm_msg_decode(req->body, &m);

	if (r < 0 || m.from != req->from) {
		LOG_W("hotplug", "node %u: a message that makes no sense", req->from);
		return;
	}
	if (m.to == KRG_NODE_NONE)
		m.to = h->c.self;
	if (m.type == VSM_MSG_CONFIG) {
		learn_view(h, m.view);
		learn_view(h, m.cfg);
	}
	if (m.type == VSM_MSG_JOIN && m.info.node == m.from)
		learn(h, &m.info);
	KRG_GUARD(member, &h->lock);
	h->contact[m.from].heard = now_ns();
	if (h->sm != NULL)
		vsm_recv(h->sm, now_ns(), &m);
}

static void msg_free(struct msg *m)
{
	comm_req_done(m->req);
	free(m);
}

/* ---- the thread ---- */

static u64 tick(struct hotplug *h)
{
	KRG_GUARD(member, &h->lock);
	u64 now = now_ns();

	if (h->sm == NULL)
		return UINT64_MAX;
	if (now >= vsm_deadline(h->sm))
		vsm_tick(h->sm, now);
	return vsm_deadline(h->sm);
}

static bool is_forgettable(struct hotplug *h, nodeid node, u64 now)
{
	KRG_GUARD(member, &h->lock);
	struct contact *k = &h->contact[node];

	if (k->port == 0 || node == h->c.self || now - k->heard < HOTPLUG_FORGET || h->sm == NULL ||
	    view_find(vsm_get_view(h->sm), node) != NULL ||
	    view_find(vsm_get_cfg(h->sm), node) != NULL || h->shown == NULL)
		return false;
	k->port = 0;
	return true;
}

static void forget_silent(struct hotplug *h)
{
	u64 now = now_ns();

	if (now < h->forget_at)
		return;
	h->forget_at = now + KRG_NSEC;
	for (unsigned i = 0; i < KRG_NODES_MAX; i++)
		if (is_forgettable(h, (nodeid)i, now))
			comm_peer_forget(h->comm, (nodeid)i);
}

static bool wait_for_work(struct hotplug *h, u64 deadline, struct msg **ret)
{
	KRG_GUARD(leaf, &h->qlock);

	while (h->queue == NULL && !h->poked && !h->stop)
		if (deadline == UINT64_MAX)
			krg_cond_wait(&h->wake, &h->qlock);
		else if (krg_cond_wait_until(&h->wake, &h->qlock, deadline) < 0)
			break;
	*ret = h->queue;
	h->queue = NULL;
	h->queue_last = &h->queue;
	h->queued = 0;
	h->poked = false;
	return !h->stop;
}

static void *thread_main(void *arg)
{
	struct hotplug *h = arg;
	u64 deadline = 0;
	struct msg *m;
	bool go = true;

	(void)pthread_setname_np(pthread_self(), "krg-hotplug");
	while (go) {
		go = wait_for_work(h, deadline, &m);
		while (m != NULL) {
			struct msg *next = m->next;

			if (go) {
				take_msg(h, m->req);
				deliver_events(h);
			}
			msg_free(m);
			m = next;
		}
		if (!go)
			break;
		deadline = tick(h);
		deliver_events(h);
		forget_silent(h);
	}
	return NULL;
}

/* ---- numbers ---- */

/* An address and port as one number (FNV-1a); all that a probe can carry. */
static u64 place_of(const char *addr, u16 port)
{
	u64 x = 0xcbf29ce484222325ull;

	for (; *addr != '\0'; addr++)
		x = (x ^ (u8)*addr) * 0x100000001b3ull;
	x = (x ^ (port & 0xff)) * 0x100000001b3ull;
	return (x ^ port >> 8) * 0x100000001b3ull;
}

static bool lives_locked(struct hotplug *h, nodeid node)
{
	struct kernetdev_stat link;

	if (node == h->c.self)
		return true;
	return kernetdev_stat_get(comm_kernetdev(h->comm), node, COMM_CHAN_CALL, &link) == 0 &&
	       link.up && now_ns() - vsm_get_heard(h->sm, node) < h->c.fail_after_ms * KRG_MSEC / 2;
}

/* Who wants to join asks a seed first, before it has links: a number that a living member has elsewhere is refused
 * here, so that the two do not take each other's links (README, rule 17).  From the member's own place it is the
 * next daemon of that machine. */
static int check_number(void *ctx, nodeid from, u64 place, struct krg_err *err)
{
	struct hotplug *h = ctx;
	KRG_GUARD(member, &h->lock);
	const struct view *v = h->sm != NULL ? vsm_get_view(h->sm) : NULL;
	const struct view_member *m = v != NULL ? view_find(v, from) : NULL;

	if (m == NULL || place_of(m->addr, m->port) == place || !lives_locked(h, from))
		return 0;
	return krg_err_set(err, -EADDRINUSE, "node number %u is taken by %.40s at %.40s:%u", from,
			   m->name, m->addr, m->port);
}

/* ---- begin ---- */

int hotplug_new(struct comm *c, const struct hotplug_config *config, const struct hotplug_ops *ops,
		void *ctx, struct hotplug **ret, struct krg_err *err)
{
	struct hotplug *h;

	if (config->self >= KRG_NODES_MAX || config->self != comm_self(c))
		return krg_err_set(err, -EINVAL, "node number %u", config->self);
	h = krg_xalloc(sizeof(*h));
	h->comm = c;
	h->c = *config;
	h->ops = ops;
	h->ctx = ctx;
	h->c.name[sizeof(h->c.name) - 1] = h->c.addr[sizeof(h->c.addr) - 1] = 0;
	if (h->c.heartbeat_ms == 0)
		h->c.heartbeat_ms = 200;
	if (h->c.fail_after_ms == 0)
		h->c.fail_after_ms = 2000;
	h->c.fail_after_ms = KRG_MAX(h->c.fail_after_ms, 5 * h->c.heartbeat_ms);
	h->seeds = krg_xalloc((config->nseeds + 1) * sizeof(*h->seeds));
	if (config->nseeds > 0)
		memcpy(h->seeds, config->seeds, config->nseeds * sizeof(*h->seeds));
	h->c.seeds = h->seeds;
	h->events_last = &h->events;
	h->queue_last = &h->queue;
	krg_mutex_init(&h->lock);
	krg_mutex_init(&h->qlock);
	krg_cond_init(&h->changed);
	krg_cond_init(&h->wake);
	comm_register(c, OP_HOTPLUG_MSG, COMM_INLINE | COMM_ANY_VIEW, handle_msg, h);
	comm_probe_register(c, check_number, h);
	*ret = h;
	return 0;
}

static int begin(struct hotplug *h, struct krg_err *err)
{
	KRG_GUARD(member, &h->lock);
	int r;

	if (h->phase != PH_NEW)
		return krg_err_set(err, -EALREADY, "hotplug has been started");
	if (h->c.port == 0)
		h->c.port = comm_port(h->comm);
	r = pthread_create(&h->thread, NULL, thread_main, h);
	if (r != 0)
		return krg_err_set(err, -r, "making the thread of hotplug");
	h->has_thread = true;
	h->phase = PH_RUNNING;
	sm_make_locked(h);
	if (h->c.nseeds == 0)
		vsm_form(h->sm, now_ns());
	return 0;
}

static void add_seed(struct hotplug *h, const struct hotplug_seed *s, nodeid node)
{
	struct view_member m = {.node = node, .port = s->port};

	(void)snprintf(m.addr, sizeof(m.addr), "%s", s->addr);
	learn(h, &m);
}

/* Ask each seed for its number: one that answers is enough to begin with. */
static int find_seeds(struct hotplug *h, bool *found, u64 deadline, struct krg_err *err)
{
	int r = -EHOSTUNREACH;

	for (unsigned i = 0; i < h->c.nseeds; i++) {
		u64 now = now_ns(), left = deadline > now ? (deadline - now) / KRG_MSEC : 0;
		nodeid node;

		if (found[i])
			continue;
		left = KRG_MIN(left, (u64)HOTPLUG_PROBE_MS);
		r = comm_probe(h->comm, h->seeds[i].addr, h->seeds[i].port,
			       place_of(h->c.addr, h->c.port), KRG_MAX(left, 1ull), &node, err);
		if (r == -EACCES || r == -EADDRINUSE)
			return r;
		if (r < 0)
			continue;
		found[i] = true;
		if (node == h->c.self) {
			(void)krg_err_set(err, 0, "%s port %u is this node", h->seeds[i].addr,
					  h->seeds[i].port);
			continue;
		}
		add_seed(h, &h->seeds[i], node);
	}
	return 0;
}

static bool has_contact(struct hotplug *h)
{
	KRG_GUARD(member, &h->lock);

	for (unsigned i = 0; i < KRG_NODES_MAX; i++)
		if (h->contact[i].port != 0)
			return true;
	return false;
}

/* 1: in (or present, as asked); 0: not yet */
static int is_in_locked(struct hotplug *h, struct krg_err *err)
{
	if (h->refused.code != 0) {
		*err = h->refused;
		return err->code;
	}
	if (h->phase != PH_RUNNING)
		return krg_err_set(err, -ECANCELED, "hotplug was stopped");
	if (h->shown != NULL)
		return vsm_has_quorum(h->sm, now_ns());
	return h->c.stay_present && vsm_get_view(h->sm) != NULL;
}

static int wait_in(struct hotplug *h, u64 until, struct krg_err *err)
{
	KRG_GUARD(member, &h->lock);
	int r;

	while ((r = is_in_locked(h, err)) == 0)
		if (krg_cond_wait_until(&h->changed, &h->lock, until) < 0)
			return is_in_locked(h, err);
	return r;
}

static void begin_join(struct hotplug *h)
{
	KRG_GUARD(member, &h->lock);

	if (h->sm != NULL)
		vsm_join(h->sm, now_ns(), !h->c.stay_present);
}

/* Until in, an error, or the deadline.  1: in */
static int join(struct hotplug *h, u64 deadline, bool *ret_joining, struct krg_err *err)
{
	KRG_AUTO_FREE bool *found = krg_xalloc(h->c.nseeds + 1);
	bool taken = false;
	int r = 0;

	*ret_joining = h->c.nseeds == 0;
	while (r == 0 && now_ns() < deadline) {
		r = find_seeds(h, found, deadline, err);
		if (r == -EADDRINUSE && !taken) {
			/* By one that has just died, perhaps: then its link is down in a moment. */
			taken = true;
			r = wait_in(h, now_ns() + h->c.heartbeat_ms * KRG_MSEC, err);
			continue;
		}
		if (r < 0)
			break;
		if (!*ret_joining && has_contact(h)) {
			*ret_joining = true;
			begin_join(h);
		}
		poke(h);
		r = wait_in(h, KRG_MIN(deadline, now_ns() + 200 * KRG_MSEC), err);
	}
	return r;
}

int hotplug_start(struct hotplug *h, u64 timeout_ms, struct krg_err *err)
{
	struct krg_err why = {0};
	bool joining;
	int r;

	krg_assert_no_locks();
	r = begin(h, err);
	if (r < 0)
		return r;
	r = join(h, now_ns() + timeout_ms * KRG_MSEC, &joining, &why);
	if (r > 0)
		return 0;
	hotplug_stop(h);
	if (r < 0) {
		if (err != NULL)
			*err = why;
		return krg_err_prefix(err, r, "joining");
	}
	if (!joining)
		return krg_err_set(err, -EHOSTUNREACH, "joining: no seed answers (%s)", why.text);
	return krg_err_set(err, -ETIMEDOUT, "joining: not in after %llu ms",
			   (unsigned long long)timeout_ms);
}

/* ---- wishes ---- */

static bool is_fulfilled_locked(const struct hotplug *h, enum vsm_want want, nodeid node, u64 inc)
{
	if (h->shown == NULL)
		return want != VSM_WANT_ADD && node == h->c.self;
	if (want == VSM_WANT_ADD)
		return view_find(h->shown, node) != NULL;
	return !view_has(h->shown, node, inc);
}

static int wish(struct hotplug *h, enum vsm_want want, nodeid node, u64 timeout_ms,
		struct krg_err *err)
{
	u64 deadline = now_ns() + timeout_ms * KRG_MSEC;
	const struct view_member *m;
	u64 inc;
	int r;

	krg_assert_no_locks();
	KRG_GUARD(member, &h->lock);
	if (node >= KRG_NODES_MAX)
		return krg_err_set(err, -EINVAL, "node %u: there are %u", node, KRG_NODES_MAX);
	if (h->sm == NULL || h->shown == NULL)
		return krg_err_set(err, -ENOTCONN, "this node is in no view");
	m = view_find(h->shown, node);
	inc = m == NULL ? 0 : m->inc;
	if (want != VSM_WANT_ADD && m != NULL && h->shown->n == 1)
		return krg_err_set(err, -EBUSY, "node %u is the last one", node);
	r = vsm_wish(h->sm, now_ns(), want, node);
	poke(h);
	if (r == -EALREADY)
		return 0;
	if (r < 0)
		return krg_err_set(err, r, "node %u is not %s", node,
				   want == VSM_WANT_ADD ? "present" : "online");
	while (!is_fulfilled_locked(h, want, node, inc)) {
		if (krg_cond_wait_until(&h->changed, &h->lock, deadline) == 0)
			continue;
		if (h->sm != NULL && vsm_wish(h->sm, now_ns(), VSM_WANT_NONE, node) < 0)
			ASSERT(!"a wish can be taken back");
		return krg_err_set(
			err, -ETIMEDOUT, "node %u: not %s after %llu ms%s", node,
			want == VSM_WANT_ADD ? "in" : "out", (unsigned long long)timeout_ms,
			h->sm != NULL && vsm_has_quorum(h->sm, now_ns()) ? ""
									 : ": no majority answers");
	}
	return 0;
}

int hotplug_add(struct hotplug *h, nodeid node, u64 timeout_ms, struct krg_err *err)
{
	return wish(h, VSM_WANT_ADD, node, timeout_ms, err);
}

int hotplug_del(struct hotplug *h, nodeid node, u64 timeout_ms, struct krg_err *err)
{
	return wish(h, VSM_WANT_DEL, node, timeout_ms, err);
}

static bool leave_alone(struct hotplug *h)
{
	KRG_GUARD(member, &h->lock);

	if (h->sm != NULL && h->shown != NULL && h->shown->n > 1)
		return false;
	h->phase = PH_LEFT;
	vsm_free(h->sm);
	h->sm = NULL;
	return true;
}

int hotplug_leave(struct hotplug *h, u64 timeout_ms, struct krg_err *err)
{
	if (leave_alone(h))
		return 0;
	return wish(h, VSM_WANT_LEAVE, h->c.self, timeout_ms, err);
}

/* ---- end ---- */

void hotplug_stop(struct hotplug *h)
{
	bool has;

	{
		KRG_GUARD(member, &h->lock);
		has = h->has_thread;
		h->has_thread = false;
		h->phase = PH_STOPPED;
		krg_cond_broadcast(&h->changed);
	}
	{
		KRG_GUARD(leaf, &h->qlock);
		h->stop = true;
		krg_cond_signal(&h->wake);
	}
	if (has && pthread_join(h->thread, NULL) != 0)
		ASSERT(!"hotplug's thread can be joined");
}

void hotplug_free(struct hotplug *h)
{
	struct event *e;

	if (h == NULL)
		return;
	hotplug_stop(h);
	while ((e = event_take(h)) != NULL) {
		view_unref(e->view);
		free(e);
	}
	ASSERT(h->queue == NULL);
	vsm_free(h->sm);
	view_unref(h->shown);
	krg_cond_fini(&h->changed);
	krg_cond_fini(&h->wake);
	krg_mutex_fini(&h->lock);
	krg_mutex_fini(&h->qlock);
	free(h->seeds);
	free(h);
}

/* ---- looking ---- */

u64 hotplug_view(struct hotplug *h)
{
	KRG_GUARD(member, &h->lock);

	return h->shown == NULL ? 0 : h->shown->number;
}

bool hotplug_has_quorum(struct hotplug *h)
{
	KRG_GUARD(member, &h->lock);

	return h->sm != NULL && h->shown != NULL && vsm_has_quorum(h->sm, now_ns());
}

static void node_fill(struct hotplug_node *n, const struct view_member *m,
		      enum hotplug_node_state state, u64 heard, u64 now)
{
	*n = (struct hotplug_node){.node = m->node, .state = state, .port = m->port};
	memcpy(n->name, m->name, sizeof(n->name));
	memcpy(n->addr, m->addr, sizeof(n->addr));
	n->heard_ms_ago = heard == 0 || heard > now ? 0 : (now - heard) / KRG_MSEC;
}

static int by_number(const void *a, const void *b)
{
	return (int)((const struct hotplug_node *)a)->node -
	       (int)((const struct hotplug_node *)b)->node;
}

unsigned hotplug_nodes(struct hotplug *h, struct hotplug_node *ret, unsigned max)
{
	KRG_AUTO_FREE struct vsm_present *p = krg_xalloc(KRG_NODES_MAX * sizeof(*p));
	KRG_GUARD(member, &h->lock);
	const struct view *v = h->sm == NULL ? NULL : vsm_get_view(h->sm);
	u64 now = now_ns();
	unsigned n = 0, np = h->sm == NULL ? 0 : vsm_get_present(h->sm, now, p, KRG_NODES_MAX);

	for (unsigned i = 0; v != NULL && i < v->n && n < max; i++)
		node_fill(&ret[n++], &v->m[i], HOTPLUG_ONLINE,
			  v->m[i].node == h->c.self ? now : vsm_get_heard(h->sm, v->m[i].node),
			  now);
	for (unsigned i = 0; i < np && n < max; i++)
		node_fill(&ret[n++], &p[i].m, HOTPLUG_PRESENT, p[i].heard, now);
	if (h->shown == NULL && view_find(v, h->c.self) == NULL && h->sm != NULL && n < max) {
		struct view_member self = {.node = h->c.self, .port = h->c.port};

		memcpy(self.name, h->c.name, sizeof(self.name));
		memcpy(self.addr, h->c.addr, sizeof(self.addr));
		node_fill(&ret[n++], &self, HOTPLUG_PRESENT, now, now);
	}
	qsort(ret, n, sizeof(*ret), by_number);
	return n;
}
