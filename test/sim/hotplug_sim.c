/* hotplug_sim - up to 64 nodes of the membership protocol in one process, under virtual time and
 * one seed: joins, leaves, deletions, crashes, restarts, pauses, partitions, one-way links, loss,
 * delay, reordering, uneven clocks; then the faults end, and all must agree.
 *
 *	hotplug_sim [SCHEDULES [FIRST_SEED]]     (or KRG_SIM_SCHEDULES)
 *	hotplug_sim -v SEED                      one schedule, told in full
 *
 * The rules it checks are in src/hotplug/README.md, by the letters used here (S1…, L1…).  With
 * -DVSM_BUGS it breaks the protocol in each known way and expects to notice.
 */
#include "rng.h"
#include "tap.h"
#include "view_msg.h"
#include <setjmp.h>

#define MS	1000000ull
#define SEC	(1000 * MS)
#define NODES	64u
#define INCS	4096u
#define NUMBERS 8192u
#define RECENT	64u
#ifdef __has_feature
#define IS_SLOW (__has_feature(address_sanitizer) || __has_feature(thread_sanitizer))
#else
#define IS_SLOW 0
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || IS_SLOW
#define SCHEDULES 300
#else
#define SCHEDULES 2000
#endif

enum fault {
	F_LOSS = 1,
	F_DELAY = 2,
	F_PART = 4,
	F_ONEWAY = 8,
	F_CRASH = 16,
	F_LEAVE = 32,
	F_DEL = 64,
	F_PAUSE = 128,
	F_SKEW = 256,
	F_MOVE = 512,	   /* restarts at another address */
	F_WIRE = 1024,	   /* messages go through bytes */
	F_RECKLESS = 2048, /* crashes may take a majority: safety only */
};

struct event {
	u64 at, seq;
	struct vsm_msg *msg; /* NULL: a timer */
	nodeid node;
};

struct node {
	struct vsm *sm; /* NULL: not running */
	u64 inc, ppm, offset, timer_at, paused_until;
	u64 number; /* of its newest view */
	nodeid id;
	u16 port;
	bool leaving, wants_in, gone, deleted, back;
};

struct sim {
	u64 seed, now, seq, hash, end;
	struct krg_rng rng;
	unsigned n, faults, loss, nrecent;
	u64 delay, delay_max;
	struct event *heap;
	unsigned heap_n, heap_room;
	struct vsm_msg **free_msg;
	unsigned free_n, free_room;
	struct node node[NODES];
	u8 group[NODES];
	bool oneway[NODES][NODES];
	u64 incs;
	/* what an observer who sees everything knows */
	struct {
		u64 term, number;
		bool failed; /* taken out because it was not heard */
	} inc[INCS];
	struct view *agreed[NUMBERS];
	u64 top;
	u64 leader_of[NUMBERS]; /* by term: incarnation */
	struct {
		struct view *cfg;
		u64 at;
	} recent[RECENT];
	bool healed, verbose;
	u64 events, messages, views, crashes, refused;
};

static jmp_buf broken;
static char broken_text[300];
static u64 current_seed;

__attribute__((format(printf, 1, 2), noreturn)) static void broken_rule(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(broken_text, sizeof(broken_text), fmt, ap);
	va_end(ap);
	longjmp(broken, 1);
}
#define RULE(name, cond, fmt, ...)                                                                 \
	do {                                                                                       \
		if (!(cond))                                                                       \
			broken_rule("%s at %.3f s: " fmt, name, (double)s->now / 1e9,              \
				    ##__VA_ARGS__);                                                \
	} while (0)
#define TELL(...)                                                                                  \
	do {                                                                                       \
		if (s->verbose) {                                                                  \
			printf("# %8.3f ", (double)s->now / 1e9);                                  \
			printf(__VA_ARGS__);                                                       \
			printf("\n");                                                              \
		}                                                                                  \
	} while (0)

static void mix(struct sim *s, u64 v)
{
	s->hash = (s->hash ^ v) * 0x9e3779b97f4a7c15ull;
	s->hash ^= s->hash >> 29;
}

/* ---- time ---- */

static u64 local_time(const struct node *n, u64 t)
{
	return n->offset + t + t / 1000000 * n->ppm;
}

static u64 true_time(const struct node *n, u64 local)
{
	u64 t = local - n->offset;

	return t - t / (1000000 + n->ppm) * n->ppm;
}

static bool before(const struct event *a, const struct event *b)
{
	return a->at != b->at ? a->at < b->at : a->seq < b->seq;
}

static void push(struct sim *s, u64 at, nodeid node, struct vsm_msg *msg)
{
	struct event e = {.at = at, .seq = s->seq++, .msg = msg, .node = node};
	unsigned i = s->heap_n++;

	if (s->heap_n > s->heap_room) {
		s->heap_room = s->heap_room * 2 + 256;
		s->heap = krg_xrealloc(s->heap, s->heap_room * sizeof(e));
	}
	for (; i > 0 && before(&e, &s->heap[(i - 1) / 2]); i = (i - 1) / 2)
		s->heap[i] = s->heap[(i - 1) / 2];
	s->heap[i] = e;
}

static struct event pop(struct sim *s)
{
	struct event top = s->heap[0], last = s->heap[--s->heap_n];
	unsigned i = 0;

	for (;;) {
		unsigned c = 2 * i + 1;

		if (c >= s->heap_n)
			break;
		if (c + 1 < s->heap_n && before(&s->heap[c + 1], &s->heap[c]))
			c++;
		if (!before(&s->heap[c], &last))
			break;
		s->heap[i] = s->heap[c];
		i = c;
	}
	if (s->heap_n > 0)
		s->heap[i] = last;
	return top;
}

/* ---- network ---- */

static struct vsm_msg *msg_copy(struct sim *s, const struct vsm_msg *m)
{
	struct vsm_msg *c = s->free_n > 0 ? s->free_msg[--s->free_n] : krg_xalloc(sizeof(*c));

	if ((s->faults & F_WIRE) != 0) {
		KRG_AUTO_BUF struct krg_buf b = {0};

		vsm_msg_encode(m, &b);
		ASSERT(vsm_msg_decode(krg_buf_slice(&b), c) == 0);
		return c;
	}
	*c = *m;
	if (c->view != NULL)
		(void)view_ref(c->view);
	if (c->cfg != NULL)
		(void)view_ref(c->cfg);
	return c;
}

static void msg_free(struct sim *s, struct vsm_msg *m)
{
	vsm_msg_fini(m);
	if (s->free_n == s->free_room) {
		s->free_room = s->free_room * 2 + 64;
		s->free_msg = krg_xrealloc(s->free_msg, s->free_room * sizeof(m));
	}
	s->free_msg[s->free_n++] = m;
}

static bool passes(struct sim *s, nodeid from, nodeid to)
{
	if (s->group[from] != s->group[to] || s->oneway[from][to])
		return false;
	return krg_rng_below(&s->rng, 1000) >= s->loss;
}

static void transmit(struct sim *s, nodeid from, nodeid to, const struct vsm_msg *m)
{
	u64 delay;

	if (to >= s->n || to == from || !passes(s, from, to))
		return;
	delay = 50000 + krg_rng_below(&s->rng, s->delay);
	if (s->delay_max > 0 && krg_rng_once_in(&s->rng, 50))
		delay += krg_rng_below(&s->rng, s->delay_max);
	s->messages++;
	push(s, s->now + delay, to, msg_copy(s, m));
}

/* ---- the observer ---- */

static void remember_cfg(struct sim *s, struct view *cfg)
{
	unsigned oldest = 0;

	for (unsigned i = 0; i < RECENT; i++) {
		if (s->recent[i].cfg != NULL && view_cmp(s->recent[i].cfg, cfg) == 0) {
			s->recent[i].at = s->now;
			return;
		}
		if (s->recent[i].at < s->recent[oldest].at)
			oldest = i;
	}
	view_unref(s->recent[oldest].cfg);
	s->recent[oldest].cfg = view_make_same(cfg, cfg->term, cfg->number);
	s->recent[oldest].at = s->now;
}

static bool same_members(const struct view *a, const struct view *b)
{
	if (a->n != b->n)
		return false;
	for (unsigned i = 0; i < a->n; i++)
		if (a->m[i].node != b->m[i].node || a->m[i].inc != b->m[i].inc)
			return false;
	return true;
}

static unsigned difference(const struct view *a, const struct view *b)
{
	unsigned d = 0;

	for (unsigned i = 0; i < a->n; i++)
		d += !view_has(b, a->m[i].node, a->m[i].inc);
	for (unsigned i = 0; i < b->n; i++)
		d += !view_has(a, b->m[i].node, b->m[i].inc);
	return d;
}

static void check_no_quorum(struct sim *s, const struct node *n)
{
	RULE("S5", !s->inc[n->inc].failed || !vsm_has_quorum(n->sm, local_time(n, s->now)),
	     "node %u.%llu was taken out as failed, and believes to have a quorum", n->id,
	     (unsigned long long)n->inc);
}

/* The first time that anybody takes a view for agreed. */
static void first_agreed(struct sim *s, const struct view *v)
{
	const struct view *below = NULL, *above = NULL;
	unsigned have = 0;
	u64 i;

	for (i = v->number; i-- > 0 && below == NULL;)
		below = s->agreed[i];
	for (i = v->number + 1; i <= s->top && above == NULL; i++)
		above = s->agreed[i];
	RULE("S2", below == NULL || difference(below, v) <= 1, "view %llu is no step from %llu",
	     (unsigned long long)v->number, (unsigned long long)below->number);
	RULE("S2", above == NULL || difference(above, v) <= 1, "view %llu is no step to %llu",
	     (unsigned long long)v->number, (unsigned long long)above->number);
	for (i = 0; i < v->n; i++)
		have += view_id_cmp(s->inc[v->m[i].inc].term, s->inc[v->m[i].inc].number, v->term,
				    v->number) >= 0;
	RULE("S3", have >= view_majority(v), "view %llu was agreed by %u of %u",
	     (unsigned long long)v->number, have, v->n);
	s->agreed[v->number] = view_make_same(v, v->term, v->number);
	s->top = KRG_MAX(s->top, v->number);
	s->views++;
	if (v->reason == VIEW_ADDED && v->inc < INCS)
		s->inc[v->inc].failed = false; /* it never knew that it was in */
	if (v->reason == VIEW_FAILED && v->inc < INCS) {
		struct node *n = &s->node[v->node];

		s->inc[v->inc].failed = true;
		if (n->sm != NULL && n->inc == v->inc)
			check_no_quorum(s, n);
	}
}

static void observe(struct sim *s, struct node *n)
{
	const struct view *cfg = vsm_get_cfg(n->sm);
	u64 term = vsm_get_term(n->sm);

	if (cfg != NULL) {
		RULE("S4",
		     view_id_cmp(cfg->term, cfg->number, s->inc[n->inc].term,
				 s->inc[n->inc].number) >= 0,
		     "node %u went back to an older configuration", n->id);
		s->inc[n->inc].term = cfg->term;
		s->inc[n->inc].number = cfg->number;
	}
	if (vsm_get_role(n->sm) == VSM_LEADER && term < NUMBERS) {
		if (s->leader_of[term] == 0)
			TELL("node %u leads term %llu", n->id, (unsigned long long)term);
		RULE("S1", s->leader_of[term] == 0 || s->leader_of[term] == n->inc,
		     "two leaders of term %llu: %llu and %llu", (unsigned long long)term,
		     (unsigned long long)s->leader_of[term], (unsigned long long)n->inc);
		s->leader_of[term] = n->inc;
	}
	check_no_quorum(s, n);
}

/* ---- what the machines say ---- */

struct cb {
	struct sim *s;
	struct node *n;
};
static struct cb cbs[NODES];

static void on_send(void *ctx, const struct vsm_msg *m)
{
	struct cb *c = ctx;
	struct sim *s = c->s;

	mix(s, m->type + 16ull * m->to + 65536ull * c->n->id);
	if (m->type == VSM_MSG_CONFIG)
		remember_cfg(s, m->cfg);
	if (m->to != KRG_NODE_NONE)
		transmit(s, c->n->id, m->to, m);
	for (unsigned i = 0; m->to == KRG_NODE_NONE && i < s->n; i++) {
		struct vsm_msg copy = *m;

		copy.to = (nodeid)i;
		transmit(s, c->n->id, (nodeid)i, &copy);
	}
}

static void on_view(void *ctx, const struct view *v)
{
	struct cb *c = ctx;
	struct sim *s = c->s;

	mix(s, v->number * 31 + v->term);
	RULE("S4", v->number > c->n->number, "node %u: view %llu after %llu", c->n->id,
	     (unsigned long long)v->number, (unsigned long long)c->n->number);
	c->n->number = v->number;
	RULE("S0", v->number < NUMBERS, "view number %llu", (unsigned long long)v->number);
	TELL("node %u: view %llu.%llu, %u members, %u %s", c->n->id, (unsigned long long)v->term,
	     (unsigned long long)v->number, v->n, v->node, view_reason_name(v->reason));
	if (s->agreed[v->number] == NULL) {
		/* The leader has it before it says so. */
		s->inc[c->n->inc].term = vsm_get_cfg(c->n->sm)->term;
		s->inc[c->n->inc].number = vsm_get_cfg(c->n->sm)->number;
		first_agreed(s, v);
	}
	RULE("S2", same_members(s->agreed[v->number], v), "two views %llu",
	     (unsigned long long)v->number);
}

static void on_quorum(void *ctx, bool have)
{
	struct cb *c = ctx;
	struct sim *s = c->s;

	mix(s, have);
	TELL("node %u: quorum %d", c->n->id, have);
}

static void on_removed(void *ctx, const struct view *v, enum view_reason reason)
{
	struct cb *c = ctx;
	struct sim *s = c->s;

	mix(s, reason);
	TELL("node %u.%llu: removed in view %llu: %s", c->n->id, (unsigned long long)c->n->inc,
	     (unsigned long long)v->number, view_reason_name(reason));
	c->n->gone = true;
	c->n->deleted = reason == VIEW_DELETED;
	c->n->back = reason == VIEW_BACK;
}

static void on_refused(void *ctx, int code, const char *text)
{
	struct cb *c = ctx;
	struct sim *s = c->s;

	mix(s, (u64)(unsigned)code);
	TELL("node %u: refused: %s", c->n->id, text);
	s->refused++;
}

static const struct vsm_ops ops = {
	.send = on_send,
	.view = on_view,
	.quorum = on_quorum,
	.removed = on_removed,
	.refused = on_refused,
};

/* ---- nodes ---- */

static void schedule(struct sim *s, struct node *n)
{
	u64 at = true_time(n, vsm_deadline(n->sm)) + 1000;

	at = KRG_MAX(at, s->now + 1000);
	if (n->timer_at > s->now && n->timer_at <= at)
		return;
	n->timer_at = at;
	push(s, at, n->id, NULL);
}

static void start(struct sim *s, struct node *n, bool want_in)
{
	struct vsm_config c = {.heartbeat = 200 * MS, .fail_after = 2 * SEC};

	ASSERT(n->sm == NULL);
	if (++s->incs >= INCS)
		return;
	n->inc = s->incs;
	n->ppm = (s->faults & F_SKEW) != 0 ? krg_rng_below(&s->rng, 30000) : 0;
	n->offset = 1 + krg_rng_below(&s->rng, 1000 * SEC);
	n->number = 0;
	n->gone = n->leaving = n->deleted = false;
	n->wants_in = want_in;
	n->timer_at = n->paused_until = 0;
	if ((s->faults & F_MOVE) != 0 && krg_rng_once_in(&s->rng, 3))
		n->port++;
	c.self = (struct view_member){.node = n->id, .port = n->port, .inc = n->inc};
	(void)snprintf(c.self.addr, sizeof(c.self.addr), "10.0.0.%u", n->id);
	(void)snprintf(c.self.name, sizeof(c.self.name), "node%u", n->id);
	c.seed = krg_rng_u64(&s->rng);
	cbs[n->id] = (struct cb){s, n};
	n->sm = vsm_new(&c, &ops, &cbs[n->id], local_time(n, s->now));
	TELL("node %u.%llu starts%s", n->id, (unsigned long long)n->inc,
	     want_in ? "" : ", present");
	if (s->incs == 1)
		vsm_form(n->sm, local_time(n, s->now));
	else
		vsm_join(n->sm, local_time(n, s->now), want_in);
	schedule(s, n);
}

static void stop(struct node *n)
{
	vsm_free(n->sm);
	n->sm = NULL;
}

/* What follows from the upcalls, once the machine has returned. */
static void after(struct sim *s, struct node *n)
{
	observe(s, n);
	if (!n->gone) {
		schedule(s, n);
		return;
	}
	bool leaving = n->leaving, want_in = n->back ? n->wants_in : !n->deleted;

	stop(n);
	if (!leaving)
		start(s, n, want_in);
}

static void handle(struct sim *s, struct event *e)
{
	struct node *n = &s->node[e->node];

	if (n->sm != NULL && n->paused_until > s->now) {
		push(s, n->paused_until, e->node, e->msg);
		if (e->msg == NULL)
			n->timer_at = n->paused_until;
		return;
	}
	if (n->sm == NULL || (e->msg == NULL && n->timer_at != e->at)) {
		if (e->msg != NULL)
			msg_free(s, e->msg);
		return;
	}
	s->events++;
	mix(s, e->at + e->node);
	if (e->msg != NULL) {
		vsm_recv(n->sm, local_time(n, s->now), e->msg);
		msg_free(s, e->msg);
	} else {
		n->timer_at = 0;
		vsm_tick(n->sm, local_time(n, s->now));
	}
	after(s, n);
}

/* ---- faults ---- */

static bool runs(const struct sim *s, nodeid node, u64 inc)
{
	return s->node[node].sm != NULL && s->node[node].inc == inc;
}

static bool survives_without(const struct sim *s, const struct view *v, const struct node *gone)
{
	unsigned have = 0;

	for (unsigned i = 0; v != NULL && i < v->n; i++)
		have += v->m[i].node != gone->id && runs(s, v->m[i].node, v->m[i].inc);
	return v == NULL || have >= view_majority(v);
}

/* Every configuration that is or may come into force keeps a majority. */
static bool may_crash(const struct sim *s, const struct node *n)
{
	if ((s->faults & F_RECKLESS) != 0)
		return true;
	for (unsigned i = 0; i < s->n; i++)
		if (s->node[i].sm != NULL && vsm_get_role(s->node[i].sm) != VSM_OUTSIDE &&
		    !survives_without(s, vsm_get_cfg(s->node[i].sm), n))
			return false;
	for (unsigned i = 0; i < RECENT; i++)
		if (s->recent[i].cfg != NULL && s->now - s->recent[i].at < 8 * SEC &&
		    !survives_without(s, s->recent[i].cfg, n))
			return false;
	return survives_without(s, s->agreed[s->top], n);
}

static void fault_crash(struct sim *s, struct node *n)
{
	if (n->sm == NULL) {
		start(s, n, !krg_rng_once_in(&s->rng, 10));
		return;
	}
	if (!may_crash(s, n))
		return;
	TELL("node %u.%llu crashes", n->id, (unsigned long long)n->inc);
	s->crashes++;
	stop(n);
	if (krg_rng_once_in(&s->rng, 3))
		start(s, n, true);
}

static void fault_partition(struct sim *s)
{
	unsigned kind = (unsigned)krg_rng_below(&s->rng, 4), parts;

	memset(s->group, 0, sizeof(s->group));
	if (kind == 0)
		return;
	if (kind == 1) {
		s->group[krg_rng_below(&s->rng, s->n)] = 1;
		return;
	}
	parts = 2 + (unsigned)krg_rng_below(&s->rng, 2);
	for (unsigned i = 0; i < s->n; i++)
		s->group[i] = (u8)krg_rng_below(&s->rng, parts);
}

static void fault_oneway(struct sim *s)
{
	if (krg_rng_once_in(&s->rng, 3)) {
		memset(s->oneway, 0, sizeof(s->oneway));
		return;
	}
	for (unsigned i = 0; i < 1 + s->n / 4; i++)
		s->oneway[krg_rng_below(&s->rng, s->n)][krg_rng_below(&s->rng, s->n)] = true;
}

static void wish(struct sim *s, struct node *by, enum vsm_want want, nodeid node)
{
	if (by->sm == NULL || by->gone || by->paused_until > s->now ||
	    (by->leaving && by->id == node))
		return;
	by->leaving |= want == VSM_WANT_LEAVE && view_has(vsm_get_view(by->sm), node, by->inc);
	if (vsm_wish(by->sm, local_time(by, s->now), want, node) == 0 && want != VSM_WANT_NONE)
		TELL("node %u wishes %d of node %u", by->id, want, node);
	after(s, by);
}

static void fault(struct sim *s)
{
	struct node *n = &s->node[krg_rng_below(&s->rng, s->n)];
	struct node *other = &s->node[krg_rng_below(&s->rng, s->n)];
	unsigned kind = 1u << krg_rng_below(&s->rng, 10);

	if ((kind & s->faults) == 0)
		kind = 0;
	switch (kind) {
	case F_PART:
		fault_partition(s);
		break;
	case F_ONEWAY:
		fault_oneway(s);
		break;
	case F_CRASH:
		fault_crash(s, n);
		break;
	case F_LEAVE:
		if (n->sm != NULL && s->agreed[s->top]->n > 2) {
			wish(s, n, VSM_WANT_LEAVE, n->id);
		}
		break;
	case F_DEL:
		if (s->agreed[s->top]->n > 2)
			wish(s, n, VSM_WANT_DEL, other->id);
		break;
	case F_PAUSE:
		n->paused_until = s->now + krg_rng_below(&s->rng, 4 * SEC);
		break;
	default:
		wish(s, n, VSM_WANT_ADD, other->id);
		if (n->sm == NULL && (s->faults & F_CRASH) == 0)
			start(s, n, true);
		break;
	}
}

/* ---- phases ---- */

static void run_until(struct sim *s, u64 end)
{
	while (s->heap_n > 0 && s->heap[0].at <= end) {
		struct event e = pop(s);

		s->now = KRG_MAX(s->now, e.at);
		handle(s, &e);
	}
	s->now = end;
}

static void start_all(struct sim *s, u64 within)
{
	start(s, &s->node[0], true);
	for (unsigned i = 1; i < s->n; i++) {
		run_until(s, s->now + krg_rng_below(&s->rng, within / s->n + 1));
		if (s->node[i].sm == NULL)
			start(s, &s->node[i], true);
	}
}

static void heal(struct sim *s)
{
	TELL("healed");
	s->healed = true;
	memset(s->group, 0, sizeof(s->group));
	memset(s->oneway, 0, sizeof(s->oneway));
	s->loss = 0;
	s->delay_max = 0;
	s->delay = MS;
	for (unsigned i = 0; i < s->n; i++)
		s->node[i].paused_until = 0;
	for (unsigned i = 0; i < s->n; i++)
		for (unsigned j = 0; j < s->n; j++)
			if (!(i == j && s->node[i].leaving))
				wish(s, &s->node[i], VSM_WANT_NONE, (nodeid)j);
}

/* Wishes to add go on, as an administrator would. */
static void add_present(struct sim *s)
{
	for (unsigned i = 0; i < s->n; i++)
		if (s->node[i].sm != NULL && !s->node[i].wants_in)
			for (unsigned j = 0; j < s->n; j++)
				if (j != i)
					wish(s, &s->node[j], VSM_WANT_ADD, (nodeid)i);
}

static const char *why_not_one(struct sim *s)
{
	const struct view *top = s->agreed[s->top];
	static char text[200];
	unsigned leaders = 0, in = 0;

	for (unsigned i = 0; i < s->n; i++) {
		struct node *n = &s->node[i];
		const struct view *v;

		if (n->sm == NULL)
			continue;
		v = vsm_get_view(n->sm);
		if (n->leaving && v->n == 1)
			n->leaving = false; /* the last one cannot */
		leaders += vsm_get_role(n->sm) == VSM_LEADER;
		in++;
		(void)snprintf(text, sizeof(text), "node %u.%llu: %s, view %llu of %llu, quorum %d",
			       i, (unsigned long long)n->inc, vsm_role_name(vsm_get_role(n->sm)),
			       (unsigned long long)(v == NULL ? 0 : v->number),
			       (unsigned long long)s->top,
			       vsm_has_quorum(n->sm, local_time(n, s->now)));
		if (n->leaving || v == NULL || v->number != s->top ||
		    !view_has(v, (nodeid)i, n->inc) ||
		    !vsm_has_quorum(n->sm, local_time(n, s->now)))
			return text;
	}
	(void)snprintf(text, sizeof(text), "%u leaders; %u run, view %llu has %u", leaders, in,
		       (unsigned long long)s->top, top->n);
	return leaders == 1 && in == top->n ? NULL : text;
}

static void check_liveness(struct sim *s)
{
	u64 since = s->now;
	const char *why = "";

	run_until(s, s->now + 4 * SEC); /* what is under way arrives: delays are up to 3 s */
	while (why != NULL && s->now < since + 60 * SEC) {
		run_until(s, s->now + SEC);
		add_present(s);
		why = why_not_one(s);
	}
	RULE("L1", why == NULL, "a minute after the faults ended, no one view: %s", why);
	/* And it stays so. */
	u64 number = s->top;

	run_until(s, s->now + 5 * SEC);
	why = why_not_one(s);
	RULE("L2", why == NULL && number == s->top, "the view does not stay: %s",
	     why == NULL ? "a new one" : why);
}

static unsigned pick_size(struct krg_rng *r)
{
	switch (krg_rng_below(r, 64)) {
	case 0:
		return 33 + (unsigned)krg_rng_below(r, 32);
	case 1 ... 4:
		return 13 + (unsigned)krg_rng_below(r, 20);
	case 5 ... 20:
		return 6 + (unsigned)krg_rng_below(r, 7);
	default:
		return 3 + (unsigned)krg_rng_below(r, 3);
	}
}

static void setup(struct sim *s, unsigned n, unsigned faults)
{
	s->n = n;
	s->faults = faults;
	s->loss = (faults & F_LOSS) != 0 ? (unsigned)krg_rng_below(&s->rng, 300) : 0;
	s->delay = (faults & F_DELAY) != 0 ? MS + krg_rng_below(&s->rng, 100 * MS) : MS;
	s->delay_max = (faults & F_DELAY) != 0 ? krg_rng_below(&s->rng, 3 * SEC) : 0;
	for (unsigned i = 0; i < n; i++) {
		s->node[i].id = (nodeid)i;
		s->node[i].port = 4000;
	}
}

static void chaos(struct sim *s)
{
	u64 end, gap;

	/* Each schedule has some kinds of faults, not all: a quarter of the bits, half, or all. */
	unsigned mask = (unsigned)krg_rng_u64(&s->rng);

	if (krg_rng_once_in(&s->rng, 2))
		mask &= (unsigned)krg_rng_u64(&s->rng);
	if (krg_rng_once_in(&s->rng, 4))
		mask = ~(unsigned)F_RECKLESS;
	if (!krg_rng_once_in(&s->rng, 3))
		mask &= ~(unsigned)F_RECKLESS;
	setup(s, pick_size(&s->rng), mask & 0xfff);
	start_all(s, krg_rng_below(&s->rng, 8 * SEC));
	end = s->now + 5 * SEC + krg_rng_below(&s->rng, (s->n > 32 ? 10 : 40) * SEC);
	gap = 20 * MS + krg_rng_below(&s->rng, 3 * SEC);
	while (s->now < end) {
		run_until(s, s->now + krg_rng_below(&s->rng, 2 * gap));
		fault(s);
	}
	heal(s);
	if ((s->faults & F_RECKLESS) == 0)
		check_liveness(s);
	else
		run_until(s, s->now + 10 * SEC);
}

/* A quiet cluster in which one node dies, often the leader: out in less than 3 s. */
static void detect(struct sim *s)
{
	struct node *victim;
	u64 crash;

	setup(s, 3 + (unsigned)krg_rng_below(&s->rng, krg_rng_once_in(&s->rng, 10) ? 62 : 6),
	      F_CRASH | F_SKEW);
	start_all(s, SEC);
	run_until(s, s->now + 3 * SEC + krg_rng_below(&s->rng, SEC));
	victim = &s->node[krg_rng_below(&s->rng, s->n)];
	for (unsigned i = 0; i < s->n && krg_rng_once_in(&s->rng, 2); i++)
		if (vsm_get_role(s->node[i].sm) == VSM_LEADER)
			victim = &s->node[i];
	RULE("L3", why_not_one(s) == NULL, "%u nodes did not form within 3 s", s->n);
	TELL("node %u crashes", victim->id);
	stop(victim);
	crash = s->now;
	while (why_not_one(s) != NULL && s->now < crash + 10 * SEC)
		run_until(s, s->now + 10 * MS);
	RULE("L4", s->now - crash < 3 * SEC, "%u nodes: failure detected after %.3f s", s->n,
	     (double)(s->now - crash) / 1e9);
}

/* ---- runs ---- */

struct result {
	u64 hash, events, messages, views, crashes;
	unsigned nodes;
	bool ok;
};

static void tell_node(const struct sim *s, const struct node *n)
{
	const struct view *v, *c;

	if (n->sm == NULL)
		return;
	v = vsm_get_view(n->sm);
	c = vsm_get_cfg(n->sm);
	printf("# node %u.%llu: %s of term %llu, leader %u, view %llu, cfg %llu.%llu:", n->id,
	       (unsigned long long)n->inc, vsm_role_name(vsm_get_role(n->sm)),
	       (unsigned long long)vsm_get_term(n->sm), vsm_get_leader(n->sm),
	       (unsigned long long)(v == NULL ? 0 : v->number),
	       (unsigned long long)(c == NULL ? 0 : c->term),
	       (unsigned long long)(c == NULL ? 0 : c->number));
	for (unsigned i = 0; c != NULL && i < c->n; i++)
		printf(" %u.%llu%s", c->m[i].node, (unsigned long long)c->m[i].inc,
		       s->node[c->m[i].node].inc == c->m[i].inc ? "" : " (dead)");
	printf("\n");
}

static void sim_free(struct sim *s)
{
	for (unsigned i = 0; i < s->n; i++)
		vsm_free(s->node[i].sm);
	while (s->heap_n > 0) {
		struct event e = s->heap[--s->heap_n];

		if (e.msg != NULL)
			msg_free(s, e.msg);
	}
	for (unsigned i = 0; i < s->free_n; i++)
		free(s->free_msg[i]);
	for (unsigned i = 0; i < NUMBERS; i++)
		view_unref(s->agreed[i]);
	for (unsigned i = 0; i < RECENT; i++)
		view_unref(s->recent[i].cfg);
	free(s->free_msg);
	free(s->heap);
	free(s);
}

static struct result run(u64 seed, bool quiet_cluster, bool verbose)
{
	struct sim *s = krg_xalloc(sizeof(*s));
	struct result r;

	current_seed = seed;
	s->seed = seed;
	s->verbose = verbose;
	krg_rng_init(&s->rng, seed);
	if (setjmp(broken) == 0) {
		if (quiet_cluster)
			detect(s);
		else
			chaos(s);
		broken_text[0] = 0;
	}
	for (unsigned i = 0; verbose && i < s->n; i++)
		tell_node(s, &s->node[i]);
	r = (struct result){.hash = s->hash,
			    .events = s->events,
			    .messages = s->messages,
			    .views = s->views,
			    .crashes = s->crashes,
			    .nodes = s->n,
			    .ok = broken_text[0] == 0};
	sim_free(s);
	return r;
}

static void __attribute__((unused)) run_all(u64 first, u64 count)
{
	struct result sum = {0};
	u64 bad = 0, other = 0, slow = 0;

	for (u64 seed = first; seed < first + count; seed++) {
		struct result r = run(seed, false, false);

		if (!r.ok && bad++ < 20) {
			printf("# seed %llu, %u nodes: %s\n", (unsigned long long)seed, r.nodes,
			       broken_text);
		}
		if (seed % 50 == 0 && run(seed, false, false).hash != r.hash) {
			other++;
			printf("# seed %llu: the same seed ran differently\n",
			       (unsigned long long)seed);
		}
		sum.events += r.events;
		sum.messages += r.messages;
		sum.views += r.views;
		sum.crashes += r.crashes;
	}
	printf("# %llu schedules: %llu events, %llu messages, %llu views, %llu crashes\n",
	       (unsigned long long)count, (unsigned long long)sum.events,
	       (unsigned long long)sum.messages, (unsigned long long)sum.views,
	       (unsigned long long)sum.crashes);
	tap_eq(bad, 0, "safety and one view in the end, in %llu schedules",
	       (unsigned long long)count);
	tap_eq(other, 0, "the same seed is the same run");
	for (u64 seed = first; seed < first + count / 8; seed++)
		if (!run(seed, true, false).ok) {
			slow++;
			printf("# quiet seed %llu: %s\n", (unsigned long long)seed, broken_text);
		}
	tap_eq(slow, 0, "a dead node is out in less than 3 s, in %llu schedules",
	       (unsigned long long)(count / 8));
}

#ifdef VSM_BUGS
#include <sys/wait.h>

/* A bug may also trip an assertion: each runs in a process of its own. */
static void run_bugs(u64 first, u64 count)
{
	for (unsigned bug = 1; bug < VSM_BUG_NR; bug++) {
		int status = 0;
		pid_t pid;

		(void)fflush(stdout);
		pid = fork();
		ASSERT(pid >= 0);
		if (pid == 0) {
			vsm_bug = bug;
			for (u64 seed = first; seed < first + count; seed++)
				if (!run(seed, false, false).ok) {
					printf("# bug %u, seed %llu: %s\n", bug,
					       (unsigned long long)seed, broken_text);
					(void)fflush(stdout);
					_exit(1);
				}
			_exit(0);
		}
		ASSERT(waitpid(pid, &status, 0) == pid);
		tap_ok(status != 0, "bug %u is noticed", bug);
	}
}
#endif

int main(int argc, char **argv)
{
	const char *env = getenv("KRG_SIM_SCHEDULES");
	u64 count = env != NULL ? strtoull(env, NULL, 0) : SCHEDULES, first = 1;

	if (argc > 2 && strcmp(argv[1], "-v") == 0) {
		bool quiet = argc > 3 && strcmp(argv[3], "quiet") == 0;
		struct result r = run(strtoull(argv[2], NULL, 0), quiet, true);

		printf("# hash %016llx, %llu events\n", (unsigned long long)r.hash,
		       (unsigned long long)r.events);
		tap_ok(r.ok, "%s", broken_text);
		return tap_done();
	}
	if (argc > 1)
		count = strtoull(argv[1], NULL, 0);
	if (argc > 2)
		first = strtoull(argv[2], NULL, 0);
#ifdef VSM_BUGS
	run_bugs(first, count);
#else
	run_all(first, count);
#endif
	return tap_done();
}
