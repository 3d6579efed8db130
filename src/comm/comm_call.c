/* Calls that this node makes. */
#include "comm_impl.h"
#include "fault.h"
#include "log.h"
#include "trace.h"

const struct op *comm_op(const struct comm *c, u16 op)
{
	if (op >= COMM_OPS)
		return NULL;
	return atomic_load_explicit(&c->ops[op], memory_order_acquire);
}

static u8 op_chan(const struct op *o)
{
	return o != NULL && (o->flags & COMM_BULK) ? COMM_CHAN_BULK : COMM_CHAN_CALL;
}

static bool op_any_view(const struct op *o)
{
	return o != NULL && (o->flags & COMM_ANY_VIEW);
}

void comm_reply_fini(struct comm_reply *r)
{
	free(r->storage);
	*r = (struct comm_reply){0};
}

/* --- the table --- */

static void table_add(struct comm *c, struct call *k)
{
	struct call **b = &c->calls[comm_bucket(k->id)];

	k->hash_next = *b;
	*b = k;
	k->next = c->all;
	k->prev = &c->all;
	if (c->all != NULL)
		c->all->prev = &k->next;
	c->all = k;
	c->stat.in_flight++;
}

static struct call *table_find(struct comm *c, u64 id)
{
	struct call *k = c->calls[comm_bucket(id)];

	while (k != NULL && k->id != id)
		k = k->hash_next;
	return k;
}

static void table_del(struct comm *c, struct call *k)
{
	struct call **b = &c->calls[comm_bucket(k->id)];

	while (*b != k)
		b = &(*b)->hash_next;
	*b = k->hash_next;
	*k->prev = k->next;
	if (k->next != NULL)
		k->next->prev = k->prev;
	c->stat.in_flight--;
}

/* --- the end of a call --- */

static void call_free(struct call *k)
{
	krg_buf_fini(&k->args);
	free(k);
}

static void stat_end(struct comm *c, const struct call *k)
{
	u64 took = krg_clock_now_ns() - k->start_ns;

	if (k->code == 0)
		c->stat.answers++;
	else
		c->stat.errors++;
	c->stat.latency_ns_sum += took;
	c->stat.latency_ns_max = KRG_MAX(c->stat.latency_ns_max, took);
}

static void done_run(struct call *k)
{
	bool was = comm_in_upcall;

	comm_in_upcall = true;
	k->done(k->ctx, k->code, &k->reply, k->code < 0 ? &k->err : NULL);
	comm_in_upcall = was;
	call_free(k);
}

/* k is out of the table, and has its code and reply.  A thread that waits for it may be gone with
 * *k right after. */
static void call_end_locked(struct comm *c, struct call *k)
{
	stat_end(c, k);
	if (k->done == NULL) {
		kernetdev_waiter_done(&k->waiter);
		return;
	}
	k->done_next = NULL;
	*c->finished_last = k;
	c->finished_last = &k->done_next;
}

void comm_calls_end_locked(struct comm *c, comm_call_test test, const void *arg, int code,
			   const char *why)
{
	struct call *k, *next;

	for (k = c->all; k != NULL; k = next) {
		next = k->next;
		if (!test(k, arg))
			continue;
		table_del(c, k);
		k->code = krg_err_set(&k->err, code, "call %#x to node %u: %s", k->op, k->to, why);
		call_end_locked(c, k);
	}
	if (c->finished != NULL)
		kernetdev_poke(c->kd);
}

void comm_finished_run(struct comm *c)
{
	for (;;) {
		struct call *k;

		calls_lock(&c->lock);
		k = c->finished;
		if (k != NULL) {
			c->finished = k->done_next;
			if (c->finished == NULL)
				c->finished_last = &c->finished;
		}
		calls_unlock(&c->lock);
		if (k == NULL)
			return;
		done_run(k);
	}
}

static void call_cancel_send(struct comm *c, nodeid to, u8 chan, u64 id, u32 session)
{
	struct comm_msg h = {.kind = COMM_MSG_CANCEL, .id = id, .view = atomic_load(&c->view)};
	struct kernetdev_msg *m = comm_msg_make(&h, NULL, 0);

	if (to == c->config.self) {
		m->peer = to;
		m->chan = chan;
		m->counted = false;
		comm_own_send(c, m, false);
		return;
	}
	if (kernetdev_queue(c->kd, to, chan, m, KERNETDEV_UNCOUNTED | KERNETDEV_SESSION, &session) <
	    0)
		kernetdev_msg_free(m);
	else
		kernetdev_flush(c->kd, to, chan);
}

void comm_cancel(struct comm *c, u64 id)
{
	struct call *k;
	nodeid to;
	u8 chan;
	u32 session;

	calls_lock(&c->lock);
	k = table_find(c, id);
	if (k == NULL) {
		calls_unlock(&c->lock);
		return;
	}
	table_del(c, k);
	to = k->to;
	chan = k->chan;
	session = k->session;
	k->code = krg_err_set(&k->err, -ECANCELED, "call %#x to node %u", k->op, k->to);
	call_end_locked(c, k);
	calls_unlock(&c->lock);
	kernetdev_poke(c->kd);
	call_cancel_send(c, to, chan, id, session);
}

/* --- answers --- */

static void answer_take(struct call *k, struct kernetdev_msg *m, const struct comm_msg *h)
{
	if (h->kind == COMM_MSG_ANSWER) {
		k->code = 0;
		k->reply = (struct comm_reply){.body = h->body, .storage = m};
		return;
	}
	comm_msg_parse_fail(h, m->peer, &k->err);
	k->code = h->code;
	k->stale = h->code == -ESTALE && (h->flags & COMM_MSG_STALE);
	k->code_view = h->view;
	kernetdev_msg_free(m);
}

static int call_send_locked(struct comm *c, struct call *k, const void *args, size_t len)
	TSA(requires_capability(lc_calls));

/* A call without a thread that was refused for its view: again, now or when we have that view.
 * Returns false if it is to end. */
static bool stale_again_locked(struct comm *c, struct call *k) TSA(requires_capability(lc_calls));

void comm_on_answer(struct comm *c, struct kernetdev_msg *m, const struct comm_msg *h)
{
	struct call *k;

	calls_lock(&c->lock);
	k = table_find(c, h->id);
	if (k == NULL || k->to != m->peer || k->chan != m->chan) {
		calls_unlock(&c->lock);
		kernetdev_msg_free(m); /* given up meanwhile */
		return;
	}
	table_del(c, k);
	TRACE(COMM_ANSWER, k->id, k->to, k->op, -h->code);
	answer_take(k, m, h);
	if (k->done == NULL) {
		stat_end(c, k);
		calls_unlock(&c->lock);
		/* without the lock, which is what it takes next */
		kernetdev_waiter_done(&k->waiter);
		return;
	}
	if (k->stale && stale_again_locked(c, k)) {
		nodeid to = k->to; /* k may be gone any time */
		u8 chan = k->chan;

		calls_unlock(&c->lock);
		kernetdev_flush(c->kd, to, chan);
		return;
	}
	if (!comm_in_upcall || c->finished != NULL) {
		call_end_locked(c, k);
		calls_unlock(&c->lock);
		kernetdev_poke(c->kd);
		return;
	}
	stat_end(c, k);
	calls_unlock(&c->lock);
	done_run(k);
}

/* --- sending --- */

static struct kernetdev_msg *call_msg(const struct comm *c, const struct call *k, const void *args,
				      size_t len)
{
	struct comm_msg h = {.kind = COMM_MSG_CALL, .op = k->op, .id = k->id, .view = k->view};
	struct kernetdev_msg *m = comm_msg_make(&h, args, len);

	(void)c;
	m->peer = k->to;
	m->chan = k->chan;
	m->counted = false;
	return m;
}

static int call_send_locked(struct comm *c, struct call *k, const void *args, size_t len)
{
	struct kernetdev_msg *m;
	int r;

	if (c->stopping)
		return -ECANCELED;
	if (!comm_may_send(c, k->to, k->any_view))
		return -EHOSTDOWN;
	k->view = atomic_load_explicit(&c->view, memory_order_relaxed);
	k->stale = false;
	m = call_msg(c, k, args, len);
	table_add(c, k);
	r = kernetdev_queue(c->kd, k->to, k->chan, m, 0, &k->session);
	if (r < 0) {
		table_del(c, k);
		kernetdev_msg_free(m);
	}
	return r;
}

static void call_init(struct comm *c, struct call *k, nodeid to, u16 op)
{
	const struct op *o = comm_op(c, op);

	*k = (struct call){.to = to, .op = op, .chan = op_chan(o), .any_view = op_any_view(o)};
	k->start_ns = krg_clock_now_ns();
	k->id = krg_trace_call_id(c->config.self);
	kernetdev_waiter_init(&k->waiter);
	k->err.node = KRG_NODE_NONE;
}

static int send_error(struct krg_err *err, int r, nodeid to, u16 op)
{
	const char *why = r == -EHOSTDOWN   ? "it is not in the cluster"
			  : r == -EAGAIN    ? "too much is queued"
			  : r == -ETIMEDOUT ? "no room in time"
					    : "stopped";

	return krg_err_set(err, r, "call %#x to node %u: %s", op, to, why);
}

/* The view of the node that refused us is newer: we will have it soon.  True: it is worth trying
 * again. */
static bool view_wait(struct comm *c, const struct call *k, u64 deadline_ns)
{
	u64 until = KRG_MIN(deadline_ns, krg_clock_now_ns() + COMM_VIEW_WAIT_NS);

	KRG_GUARD(calls, &c->lock);
	while (atomic_load(&c->view) < k->code_view && !c->stopping) {
		if (krg_cond_wait_until(&c->cond, &c->lock, until) < 0)
			break;
	}
	return atomic_load(&c->view) > k->view;
}

static void inside_begin(struct comm *c)
{
	atomic_fetch_add(&c->inside, 1);
}

static void inside_end(struct comm *c)
{
	if (atomic_load(&c->stopping)) {
		/* Under the lock: comm_stop() waits for the last, and then frees. */
		KRG_GUARD(calls, &c->lock);
		atomic_fetch_sub(&c->inside, 1);
		krg_cond_broadcast(&c->cond);
		return;
	}
	atomic_fetch_sub(&c->inside, 1);
}

/* Puts the call on its way; waits for room if need be. */
static int call_start(struct comm *c, struct call *k, const struct krg_buf *args, u64 deadline_ns)
{
	const void *p = args != NULL ? args->data : NULL;
	size_t len = args != NULL ? args->len : 0;

	for (;;) {
		u32 gen = kernetdev_room_gen(c->kd);
		int r;

		calls_lock(&c->lock);
		r = call_send_locked(c, k, p, len);
		calls_unlock(&c->lock);
		if (r != -EAGAIN) {
			if (r == 0)
				kernetdev_flush(c->kd, k->to, k->chan);
			return r;
		}
		if (krg_clock_now_ns() >= deadline_ns)
			return -ETIMEDOUT;
		kernetdev_wait_room(c->kd, k->to, k->chan, (u32)len + COMM_MSG_HEADER, gen,
				    deadline_ns);
	}
}

static void call_start_own(struct comm *c, struct call *k, const struct krg_buf *args)
{
	struct kernetdev_msg *m;
	bool stopping;

	k->view = atomic_load(&c->view);
	m = call_msg(c, k, args != NULL ? args->data : NULL, args != NULL ? args->len : 0);
	calls_lock(&c->lock);
	stopping = c->stopping;
	if (!stopping)
		table_add(c, k);
	calls_unlock(&c->lock);
	if (!stopping) {
		comm_own_send(c, m, k->done == NULL);
		return;
	}
	kernetdev_msg_free(m);
	k->code = send_error(&k->err, -ECANCELED, k->to, k->op);
	kernetdev_waiter_done(&k->waiter);
}

/* Until the call has ended: by an answer, or by us because it is late. */
static void call_wait(struct comm *c, struct call *k, u64 deadline_ns)
{
	bool ours;

	if (kernetdev_wait(c->kd, k->to, k->chan, &k->waiter, deadline_ns))
		return;
	calls_lock(&c->lock);
	ours = table_find(c, k->id) == k;
	if (ours) {
		table_del(c, k);
		k->code = krg_err_set(&k->err, -ETIMEDOUT, "call %#x to node %u", k->op, k->to);
		stat_end(c, k);
	}
	calls_unlock(&c->lock);
	if (ours)
		call_cancel_send(c, k->to, k->chan, k->id, k->session);
	else /* somebody is just ending it */
		(void)kernetdev_wait(c->kd, k->to, k->chan, &k->waiter, UINT64_MAX);
}

static u64 deadline_of(u64 timeout_ms)
{
	return timeout_ms == 0 || timeout_ms > UINT64_MAX / KRG_MSEC / 2
		       ? UINT64_MAX
		       : krg_clock_now_ns() + timeout_ms * KRG_MSEC;
}

static int call_begin(struct comm *c, struct call *k, nodeid to, u16 op, const struct krg_buf *args,
		      u64 deadline_ns)
{
	int r;

	call_init(c, k, to, op);
	TRACE(COMM_CALL, k->id, to, op, args != NULL ? args->len : 0);
	if (FAULT_POINT(COMM_CALL))
		return krg_err_set(&k->err, -EIO, "call %#x to node %u", op, to);
	if (to == c->config.self) {
		call_start_own(c, k, args);
		return 0;
	}
	r = call_start(c, k, args, deadline_ns);
	return r < 0 ? send_error(&k->err, r, to, op) : 0;
}

static int call_check(const struct comm *c, nodeid to, const struct krg_buf *args,
		      struct krg_err *err)
{
	(void)c;
	if (to >= KRG_NODES_MAX)
		return krg_err_set(err, -EINVAL, "node %u", to);
	if (args != NULL && args->len > COMM_BODY_MAX)
		return krg_err_set(err, -EMSGSIZE, "a call of %zu bytes", args->len);
	return 0;
}

static int call_do(struct comm *c, struct call *k, nodeid to, u16 op, const struct krg_buf *args,
		   u64 deadline)
{
	for (;;) {
		int r = call_begin(c, k, to, op, args, deadline);

		if (r < 0)
			return r;
		call_wait(c, k, deadline);
		if (!k->stale || !view_wait(c, k, deadline))
			return k->code;
	}
}

int comm_call(struct comm *c, nodeid to, u16 op, const struct krg_buf *args, u64 timeout_ms,
	      struct comm_reply *ret, struct krg_err *err)
{
	struct call k;
	int r = call_check(c, to, args, err);

	if (r < 0)
		return r;
	krg_assert_no_locks();
	ASSERT(!comm_in_upcall && !kernetdev_is_simulated(c->kd));
	inside_begin(c);
	comm_worker_wait_begin(c);
	r = call_do(c, &k, to, op, args, deadline_of(timeout_ms));
	comm_worker_wait_end(c);
	inside_end(c);
	if (r == 0)
		*ret = k.reply;
	else if (err != NULL)
		*err = k.err;
	return r;
}

/* --- without waiting --- */

static void deadline_note_locked(struct comm *c, u64 deadline_ns)
{
	if (deadline_ns >= c->next_deadline_ns)
		return;
	c->next_deadline_ns = deadline_ns;
	kernetdev_poke(c->kd);
}

static bool stale_again_locked(struct comm *c, struct call *k)
{
	if (atomic_load(&c->view) > k->view) {
		if (call_send_locked(c, k, k->args.data, k->args.len) == 0)
			return true;
		return false; /* it ends with -ESTALE */
	}
	if (k->code_view <= k->view)
		return false;
	k->parked_until_ns = KRG_MIN(krg_clock_now_ns() + COMM_VIEW_WAIT_NS, k->deadline_ns);
	table_add(c, k);
	deadline_note_locked(c, k->parked_until_ns);
	return true;
}

int comm_call_async(struct comm *c, nodeid to, u16 op, const struct krg_buf *args, u64 timeout_ms,
		    comm_done done, void *ctx, u64 *ret_call, struct krg_err *err)
{
	struct call *k;
	u64 id;
	u8 chan;
	int r = call_check(c, to, args, err);

	if (r < 0)
		return r;
	k = krg_xalloc(sizeof(*k));
	call_init(c, k, to, op);
	k->done = done;
	k->ctx = ctx;
	k->deadline_ns = deadline_of(timeout_ms);
	if (!k->any_view && args != NULL)
		krg_buf_put(&k->args, args->data, args->len);
	id = k->id;
	chan = k->chan;
	TRACE(COMM_CALL, id, to, op, args != NULL ? args->len : 0);
	if (ret_call != NULL)
		*ret_call = id; /* before done can run */
	calls_lock(&c->lock);
	if (FAULT_POINT(COMM_CALL))
		r = -EIO;
	else if (c->stopping)
		r = -ECANCELED;
	else if (to == c->config.self)
		table_add(c, k);
	else
		r = call_send_locked(c, k, args != NULL ? args->data : NULL,
				     args != NULL ? args->len : 0);
	if (r == 0)
		deadline_note_locked(c, k->deadline_ns);
	calls_unlock(&c->lock);
	if (r < 0) {
		call_free(k);
		return send_error(err, r, to, op);
	}
	if (to == c->config.self) {
		struct comm_msg h = {
			.kind = COMM_MSG_CALL, .op = op, .id = id, .view = atomic_load(&c->view)};
		struct kernetdev_msg *m = comm_msg_make(&h, args != NULL ? args->data : NULL,
							args != NULL ? args->len : 0);

		m->peer = to;
		m->chan = chan;
		m->counted = false;
		comm_own_send(c, m, false);
	} else {
		kernetdev_flush(c->kd, to, chan);
	}
	return 0;
}

/* What is late, and what waits for a view.  Returns when to look again. */
static u64 TSA(requires_capability(lc_calls))
	calls_scan_locked(struct comm *c, u64 now, nodeid *flush, unsigned *nflush,
			  struct call **late)
{
	u64 next = UINT64_MAX, view = atomic_load(&c->view);
	struct call *k, *k_next;

	for (k = c->all; k != NULL; k = k_next) {
		k_next = k->next;
		if (k->done == NULL)
			continue;
		if (now >= k->deadline_ns) {
			table_del(c, k);
			k->code = krg_err_set(&k->err, -ETIMEDOUT, "call %#x to node %u", k->op,
					      k->to);
			k->done_next = *late;
			*late = k;
			continue;
		}
		if (k->parked_until_ns != 0 && view > k->view && *nflush < KRG_NODES_MAX) {
			table_del(c, k);
			k->parked_until_ns = 0;
			if (call_send_locked(c, k, k->args.data, k->args.len) == 0)
				flush[(*nflush)++] = k->to;
			else
				call_end_locked(c, k);
			continue;
		}
		if (k->parked_until_ns != 0 && now >= k->parked_until_ns) {
			table_del(c, k);
			call_end_locked(c, k);
			continue;
		}
		next = KRG_MIN(next, k->deadline_ns);
		if (k->parked_until_ns != 0)
			next = KRG_MIN(next, k->parked_until_ns);
	}
	return next;
}

static void late_end(struct comm *c, struct call *k)
{
	while (k != NULL) {
		struct call *next = k->done_next;

		call_cancel_send(c, k->to, k->chan, k->id, k->session);
		calls_lock(&c->lock);
		call_end_locked(c, k);
		calls_unlock(&c->lock);
		k = next;
	}
}

u64 comm_calls_work(struct comm *c, u64 now)
{
	nodeid flush[KRG_NODES_MAX];
	struct call *late = NULL;
	unsigned n = 0;
	u64 next;

	calls_lock(&c->lock);
	c->next_deadline_ns = UINT64_MAX;
	next = calls_scan_locked(c, now, flush, &n, &late);
	c->next_deadline_ns = KRG_MIN(c->next_deadline_ns, next);
	if (n == KRG_NODES_MAX)
		c->next_deadline_ns = now; /* there may be more */
	next = c->next_deadline_ns;
	calls_unlock(&c->lock);
	late_end(c, late);
	for (unsigned i = 0; i < n; i++) {
		kernetdev_flush(c->kd, flush[i], COMM_CHAN_CALL);
		kernetdev_flush(c->kd, flush[i], COMM_CHAN_BULK);
	}
	comm_finished_run(c);
	return next;
}

/* --- one-way --- */

static int send_msg(struct comm *c, nodeid to, u16 op, const struct krg_buf *body, u8 *ret_chan)
{
	const struct op *o = comm_op(c, op);
	struct comm_msg h = {.kind = COMM_MSG_ONE_WAY, .op = op};
	struct kernetdev_msg *m;
	u32 session;
	int r;

	*ret_chan = op_chan(o);
	KRG_GUARD(calls, &c->lock);
	if (c->stopping)
		return -ECANCELED;
	if (!comm_may_send(c, to, op_any_view(o)))
		return -EHOSTDOWN;
	h.view = atomic_load(&c->view);
	h.id = krg_trace_call_id(c->config.self);
	m = comm_msg_make(&h, body != NULL ? body->data : NULL, body != NULL ? body->len : 0);
	r = kernetdev_queue(c->kd, to, *ret_chan, m, 0, &session);
	if (r < 0)
		kernetdev_msg_free(m);
	return r;
}

static int send_own(struct comm *c, u16 op, const struct krg_buf *body, bool wait)
{
	struct comm_msg h = {.kind = COMM_MSG_ONE_WAY, .op = op, .view = atomic_load(&c->view)};
	struct kernetdev_msg *m;
	u64 cost = (body != NULL ? body->len : 0) + KERNETDEV_COST;

	calls_lock(&c->lock);
	while (wait && !c->stopping && c->own_bytes + cost > COMM_QUEUE_MAX && c->own_bytes > 0)
		krg_cond_wait(&c->cond, &c->lock);
	if (c->stopping || (c->own_bytes + cost > COMM_QUEUE_MAX && c->own_bytes > 0)) {
		calls_unlock(&c->lock);
		return c->stopping ? -ECANCELED : -EAGAIN;
	}
	c->own_bytes += cost;
	calls_unlock(&c->lock);
	h.id = krg_trace_call_id(c->config.self);
	m = comm_msg_make(&h, body != NULL ? body->data : NULL, body != NULL ? body->len : 0);
	m->peer = c->config.self;
	m->chan = op_chan(comm_op(c, op));
	m->counted = true; /* here: in own_bytes */
	comm_own_send(c, m, false);
	return 0;
}

int comm_try_send(struct comm *c, nodeid to, u16 op, const struct krg_buf *body)
{
	u8 chan;
	int r = call_check(c, to, body, NULL);

	if (r < 0)
		return r;
	if (to == c->config.self)
		return send_own(c, op, body, false);
	r = send_msg(c, to, op, body, &chan);
	if (r == 0)
		kernetdev_flush(c->kd, to, chan);
	return r;
}

int comm_send(struct comm *c, nodeid to, u16 op, const struct krg_buf *body)
{
	u8 chan;
	int r = call_check(c, to, body, NULL);

	if (r < 0)
		return r;
	krg_assert_no_locks();
	/* What reads the links must not wait for room in them. */
	if (comm_in_upcall || kernetdev_is_simulated(c->kd))
		return comm_try_send(c, to, op, body);
	inside_begin(c);
	comm_worker_wait_begin(c);
	for (;;) {
		u32 gen = kernetdev_room_gen(c->kd);

		if (to == c->config.self) {
			r = send_own(c, op, body, true);
			break;
		}
		r = send_msg(c, to, op, body, &chan);
		if (r == 0)
			kernetdev_flush(c->kd, to, chan);
		if (r != -EAGAIN)
			break;
		kernetdev_wait_room(c->kd, to, chan,
				    (u32)(body != NULL ? body->len : 0) + COMM_MSG_HEADER, gen,
				    UINT64_MAX);
	}
	comm_worker_wait_end(c);
	inside_end(c);
	return r;
}

/* --- to many --- */

int comm_call_many(struct comm *c, const nodeid *to, unsigned n, u16 op, const struct krg_buf *args,
		   u64 timeout_ms, struct comm_reply *ret, int *codes)
{
	KRG_AUTO_FREE struct call *k = krg_xalloc((n + 1) * sizeof(*k));
	u64 deadline = deadline_of(timeout_ms);
	int failed = 0;

	krg_assert_no_locks();
	ASSERT(!comm_in_upcall && !kernetdev_is_simulated(c->kd));
	inside_begin(c);
	comm_worker_wait_begin(c);
	for (unsigned i = 0; i < n; i++) {
		codes[i] = call_check(c, to[i], args, NULL);
		if (codes[i] == 0)
			codes[i] = call_begin(c, &k[i], to[i], op, args, deadline);
	}
	for (unsigned i = 0; i < n; i++) {
		if (codes[i] < 0) {
			failed++;
			continue;
		}
		call_wait(c, &k[i], deadline);
		codes[i] = k[i].code;
		if (k[i].stale && view_wait(c, &k[i], deadline))
			codes[i] = call_do(c, &k[i], to[i], op, args, deadline);
		if (codes[i] == 0)
			ret[i] = k[i].reply;
		else
			failed++;
	}
	comm_worker_wait_end(c);
	inside_end(c);
	return failed;
}
