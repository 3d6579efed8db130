#include "service.h"
#include "lock.h"
#include "log.h"
#include "trace.h"

#define SERVICE_MAX 64u /* services of a set */

struct entry {
	const struct service_ops *ops; /* (c) */
	void *ctx;		       /* (c) */
	enum service_state state;      /* (service) */
	unsigned pins;		       /* (service) callbacks under way: events, stat */
};

struct service_set {
	struct krg_mutex lock;	     /* class service */
	struct krg_cond changed;     /* a pin, the turn or the move was given back */
	struct entry e[SERVICE_MAX]; /* in order of registration */
	unsigned n;		     /* (service) */
	unsigned order[SERVICE_MAX]; /* (service) start order, made by start_all */
	bool moving;		     /* (service) a start_all or stop_all is under way */
	bool started;		     /* (service) */
	bool sorted;		     /* (service) order[] holds */
	bool turn;		     /* (service) a node event is being delivered */
	pthread_t turn_holder;	     /* (service) while turn */
	u64 up[KRG_NODES_MAX];	     /* (service) the view in which the node came, 0: down */
	u64 up_seq[KRG_NODES_MAX];   /* (service) order of coming */
	u64 seq;		     /* (service) */
};

/* Where a service may go; service_move() is the only writer of ->state. */
static const struct {
	const char *name;
	unsigned next;
} state_tbl[] = {
	[SERVICE_STOPPED] = {"stopped", 1u << SERVICE_STARTING},
	[SERVICE_STARTING] = {"starting", 1u << SERVICE_RUNNING | 1u << SERVICE_STOPPED},
	[SERVICE_RUNNING] = {"running", 1u << SERVICE_STOPPING},
	[SERVICE_STOPPING] = {"stopping", 1u << SERVICE_STOPPED},
};

const char *service_state_name(enum service_state state)
{
	ASSERT(state < KRG_NELEM(state_tbl));
	return state_tbl[state].name;
}

static void service_move(struct service_set *s, struct entry *e, enum service_state to)
{
	ASSERT(state_tbl[e->state].next >> to & 1);
	e->state = to;
	if (to == SERVICE_RUNNING)
		TRACE(SERVICE_START, 0, e - s->e);
	if (to == SERVICE_STOPPED)
		TRACE(SERVICE_STOP, 0, e - s->e);
}

struct service_set *service_set_new(void)
{
	struct service_set *s = krg_xalloc(sizeof(*s));

	krg_mutex_init(&s->lock);
	krg_cond_init(&s->changed);
	return s;
}

void service_set_free(struct service_set *s)
{
	if (s == NULL)
		return;
	for (unsigned i = 0; i < s->n; i++)
		ASSERT(s->e[i].state == SERVICE_STOPPED && s->e[i].pins == 0);
	krg_cond_fini(&s->changed);
	krg_mutex_fini(&s->lock);
	free(s);
}

static int find_locked(const struct service_set *s, const char *name)
{
	for (unsigned i = 0; i < s->n; i++)
		if (strcmp(s->e[i].ops->name, name) == 0)
			return (int)i;
	return -1;
}

int service_add(struct service_set *s, const struct service_ops *ops, void *ctx,
		struct krg_err *err)
{
	KRG_GUARD(service, &s->lock);

	ASSERT(ops->name != NULL);
	if (s->started || s->moving)
		return krg_err_set(err, -EBUSY, "service %s: the services have been started",
				   ops->name);
	if (find_locked(s, ops->name) >= 0)
		return krg_err_set(err, -EEXIST, "service %s: there is one already", ops->name);
	if (s->n == SERVICE_MAX)
		return krg_err_set(err, -ENOSPC, "service %s: more than %u services", ops->name,
				   SERVICE_MAX);
	s->e[s->n++] = (struct entry){.ops = ops, .ctx = ctx};
	s->sorted = false;
	return 0;
}

/* ---- the order ---- */

struct sort {
	struct service_set *s;
	struct krg_err *err;
	u8 mark[SERVICE_MAX]; /* 0 not seen, 1 on the path, 2 placed */
	unsigned path[SERVICE_MAX];
	unsigned depth, n;
};

static int refuse_cycle(struct sort *t, unsigned again)
{
	char text[160] = "";
	size_t len = 0;
	unsigned i = 0;

	while (t->path[i] != again)
		i++;
	for (; i < t->depth && len < sizeof(text); i++)
		len += (size_t)snprintf(text + len, sizeof(text) - len, "%s -> ",
					t->s->e[t->path[i]].ops->name);
	return krg_err_set(t->err, -ELOOP, "services wait for each other: %s%s", text,
			   t->s->e[again].ops->name);
}

/* Depth first: what i comes after is placed before i.  The depth is bounded by SERVICE_MAX. */
static int place(struct sort *t, unsigned i)
{
	const struct service_ops *ops = t->s->e[i].ops;

	if (t->mark[i] == 2)
		return 0;
	if (t->mark[i] == 1)
		return refuse_cycle(t, i);
	t->mark[i] = 1;
	t->path[t->depth++] = i;
	for (unsigned k = 0; ops->after != NULL && ops->after[k] != NULL; k++) {
		int dep = find_locked(t->s, ops->after[k]), r;

		if (dep < 0)
			return krg_err_set(t->err, -ENOENT,
					   "service %s comes after %s, which is not there",
					   ops->name, ops->after[k]);
		r = place(t, (unsigned)dep);
		if (r < 0)
			return r;
	}
	t->depth--;
	t->mark[i] = 2;
	t->s->order[t->n++] = i;
	return 0;
}

static int sort_locked(struct service_set *s, struct krg_err *err)
{
	struct sort t = {.s = s, .err = err};

	for (unsigned i = 0; i < s->n; i++) {
		int r = place(&t, i);

		if (r < 0)
			return r;
	}
	ASSERT(t.n == s->n);
	s->sorted = true;
	return 0;
}

/* ---- turns: node events one at a time ---- */

static void turn_begin(struct service_set *s)
{
	KRG_GUARD(service, &s->lock);

	/* An event that is made from inside an event would wait for itself. */
	ASSERT(IMPLIES(s->turn, !pthread_equal(s->turn_holder, pthread_self())));
	while (s->turn)
		krg_cond_wait(&s->changed, &s->lock);
	s->turn = true;
	s->turn_holder = pthread_self();
}

static void turn_end(struct service_set *s)
{
	KRG_GUARD(service, &s->lock);

	ASSERT(s->turn);
	s->turn = false;
	krg_cond_broadcast(&s->changed);
}

/* While pinned, a service that runs is not stopped. */
static bool pin(struct service_set *s, struct entry *e)
{
	KRG_GUARD(service, &s->lock);

	if (e->state != SERVICE_RUNNING)
		return false;
	e->pins++;
	return true;
}

static void unpin(struct service_set *s, struct entry *e)
{
	KRG_GUARD(service, &s->lock);

	ASSERT(e->pins > 0);
	if (--e->pins == 0)
		krg_cond_broadcast(&s->changed);
}

/* ---- start, stop ---- */

/* The nodes that came before the service ran, in the order in which they came. */
static unsigned nodes_up(struct service_set *s, nodeid *ret)
{
	KRG_GUARD(service, &s->lock);
	unsigned n = 0;

	for (unsigned i = 0; i < KRG_NODES_MAX; i++) {
		unsigned at = n;

		if (s->up[i] == 0)
			continue;
		for (; at > 0 && s->up_seq[ret[at - 1]] > s->up_seq[i]; at--)
			ret[at] = ret[at - 1];
		ret[at] = (nodeid)i;
		n++;
	}
	return n;
}

static void set_state(struct service_set *s, struct entry *e, enum service_state to)
{
	KRG_GUARD(service, &s->lock);

	service_move(s, e, to);
}

static int start_one(struct service_set *s, struct entry *e, struct krg_err *err)
{
	nodeid up[KRG_NODES_MAX];
	unsigned n;
	int r = 0;

	set_state(s, e, SERVICE_STARTING);
	if (e->ops->start != NULL)
		r = e->ops->start(e->ctx, err);
	if (r < 0) {
		set_state(s, e, SERVICE_STOPPED);
		return krg_err_prefix(err, r, "service %s", e->ops->name);
	}
	turn_begin(s);
	n = nodes_up(s, up);
	for (unsigned i = 0; i < n && e->ops->node_up != NULL; i++)
		e->ops->node_up(e->ctx, up[i], s->up[up[i]]);
	set_state(s, e, SERVICE_RUNNING);
	turn_end(s);
	return 0;
}

static void stop_one(struct service_set *s, struct entry *e)
{
	{
		KRG_GUARD(service, &s->lock);
		service_move(s, e, SERVICE_STOPPING);
		while (e->pins > 0)
			krg_cond_wait(&s->changed, &s->lock);
	}
	if (e->ops->stop != NULL)
		e->ops->stop(e->ctx);
	set_state(s, e, SERVICE_STOPPED);
}

static void stop_down_from(struct service_set *s, unsigned n)
{
	while (n > 0)
		stop_one(s, &s->e[s->order[--n]]);
}

static void move_begin(struct service_set *s)
{
	KRG_GUARD(service, &s->lock);

	while (s->moving)
		krg_cond_wait(&s->changed, &s->lock);
	s->moving = true;
}

static void move_end(struct service_set *s, bool started)
{
	KRG_GUARD(service, &s->lock);

	s->moving = false;
	s->started = started;
	krg_cond_broadcast(&s->changed);
}

static int order_make(struct service_set *s, struct krg_err *err)
{
	KRG_GUARD(service, &s->lock);

	if (s->started)
		return krg_err_set(err, -EALREADY, "the services have been started");
	s->sorted = false;
	return sort_locked(s, err);
}

int service_start_all(struct service_set *s, struct krg_err *err)
{
	bool was;
	int r;

	move_begin(s);
	was = s->started;
	r = order_make(s, err);
	for (unsigned i = 0; r == 0 && i < s->n; i++) {
		r = start_one(s, &s->e[s->order[i]], err);
		if (r < 0)
			stop_down_from(s, i);
	}
	move_end(s, was || r == 0);
	return r;
}

void service_stop_all(struct service_set *s)
{
	move_begin(s);
	if (s->started)
		stop_down_from(s, s->n);
	move_end(s, false);
}

/* ---- nodes come and go ---- */

static void note_node(struct service_set *s, nodeid node, u64 view, bool up)
{
	KRG_GUARD(service, &s->lock);

	s->up[node] = up ? view : 0;
	s->up_seq[node] = ++s->seq;
}

static void deliver(struct service_set *s, nodeid node, u64 view, bool up)
{
	unsigned order[SERVICE_MAX], n;

	ASSERT(node < KRG_NODES_MAX && view != 0);
	turn_begin(s);
	note_node(s, node, view, up);
	{
		KRG_GUARD(service, &s->lock);
		n = s->sorted ? s->n : 0;
		memcpy(order, s->order, sizeof(order));
	}
	for (unsigned i = 0; i < n; i++) {
		struct entry *e = &s->e[order[i]];
		void (*cb)(void *, nodeid, u64) = up ? e->ops->node_up : e->ops->node_down;

		if (cb == NULL || !pin(s, e))
			continue;
		cb(e->ctx, node, view);
		unpin(s, e);
	}
	turn_end(s);
}

void service_node_up(struct service_set *s, nodeid node, u64 view)
{
	deliver(s, node, view, true);
}

void service_node_down(struct service_set *s, nodeid node, u64 view)
{
	deliver(s, node, view, false);
}

/* ---- listing ---- */

struct stat_arg {
	void (*put_counter)(void *arg, const char *service, const char *name, const char *unit,
			    u64 value);
	void *arg;
	const char *service;
};

static void put_stat(void *arg, const char *name, const char *unit, u64 value)
{
	struct stat_arg *a = arg;

	a->put_counter(a->arg, a->service, name, unit, value);
}

static void list_one(struct service_set *s, struct entry *e, struct stat_arg *a)
{
	const struct service_ops *ops = e->ops;

	a->service = ops->name;
	for (unsigned i = 0; ops->counters != NULL && i < ops->counter_nr; i++)
		a->put_counter(a->arg, ops->name, ops->counters[i].name, ops->counters[i].unit,
			       atomic_load(&ops->counters[i].value));
	if (ops->stat == NULL || !pin(s, e))
		return;
	ops->stat(e->ctx, put_stat, a);
	unpin(s, e);
}

void service_list(struct service_set *s, void (*put)(void *arg, const struct service_info *info),
		  void (*put_counter)(void *arg, const char *service, const char *name,
				      const char *unit, u64 value),
		  void *arg)
{
	struct stat_arg a = {.put_counter = put_counter, .arg = arg};
	struct service_info info[SERVICE_MAX];
	unsigned order[SERVICE_MAX], n;

	{
		KRG_GUARD(service, &s->lock);
		n = s->n;
		for (unsigned i = 0; i < n; i++) {
			order[i] = s->sorted ? s->order[i] : i;
			info[i].name = s->e[order[i]].ops->name;
			info[i].state = s->e[order[i]].state;
		}
	}
	for (unsigned i = 0; i < n; i++) {
		put(arg, &info[i]);
		if (put_counter != NULL)
			list_one(s, &s->e[order[i]], &a);
	}
}
