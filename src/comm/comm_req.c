/* Messages that come. */
#include "comm_impl.h"
#include "fault.h"
#include "log.h"
#include "trace.h"
#include <stdarg.h>

/* This thread is reading the links: it must not wait. */
_Thread_local bool comm_in_upcall;

static struct req *req_of(struct comm_req *pub)
{
	return (struct req *)pub; /* its first field */
}

/* --- calls that have not been answered --- */

static void reqs_add(struct comm *c, struct req *q)
{
	struct req **b = &c->reqs[comm_bucket(q->pub.call_id)];

	KRG_GUARD(calls, &c->lock);
	q->hash_next = *b;
	q->in_table = true;
	*b = q;
}

static void reqs_del(struct comm *c, struct req *q)
{
	struct req **b = &c->reqs[comm_bucket(q->pub.call_id)];

	KRG_GUARD(calls, &c->lock);
	while (*b != q)
		b = &(*b)->hash_next;
	*b = q->hash_next;
	q->in_table = false;
}

void comm_reqs_cancel_locked(struct comm *c, nodeid from, int chan)
{
	for (unsigned i = 0; i < COMM_BUCKETS; i++)
		for (struct req *q = c->reqs[i]; q != NULL; q = q->hash_next)
			if (q->pub.from == from && (chan < 0 || q->m->chan == chan))
				atomic_store(&q->cancelled, true);
}

static void on_cancel(struct comm *c, struct kernetdev_msg *m, const struct comm_msg *h)
{
	calls_lock(&c->lock);
	for (struct req *q = c->reqs[comm_bucket(h->id)]; q != NULL; q = q->hash_next)
		if (q->pub.from == m->peer && q->pub.call_id == h->id)
			atomic_store(&q->cancelled, true);
	calls_unlock(&c->lock);
	kernetdev_msg_done(c->kd, m);
}

bool comm_req_cancelled(const struct comm_req *pub)
{
	const struct req *q = (const struct req *)pub;

	return atomic_load(&q->cancelled);
}

/* --- the end of a request --- */

static void own_bytes_back(struct comm *c, const struct kernetdev_msg *m)
{
	KRG_GUARD(calls, &c->lock);
	c->own_bytes -= m->len - COMM_MSG_HEADER + KERNETDEV_COST;
	krg_cond_broadcast(&c->cond);
}

static void msg_done(struct comm *c, struct kernetdev_msg *m)
{
	if (m->peer == c->config.self) {
		if (m->counted)
			own_bytes_back(c, m);
		kernetdev_msg_free(m);
		return;
	}
	kernetdev_msg_done(c->kd, m);
}

/* Sends an answer to where the message came from.  The message is done before, so that its room
 * goes back with the answer. */
static void answer_send(struct comm *c, nodeid to, u8 chan, u32 session, struct kernetdev_msg *a)
{
	if (to == c->config.self) {
		struct comm_msg h;

		a->peer = to;
		a->chan = chan;
		a->counted = false;
		if (comm_msg_parse(a, &h) < 0)
			ASSERT(!"an answer of our own");
		comm_on_answer(c, a, &h);
		return;
	}
	if (FAULT_POINT(COMM_REPLY))
		kernetdev_break(c->kd, to, chan);
	if (kernetdev_queue(c->kd, to, chan, a, KERNETDEV_UNCOUNTED | KERNETDEV_SESSION, &session) <
	    0)
		kernetdev_msg_free(a); /* nobody waits for it any more */
	else
		kernetdev_flush(c->kd, to, chan);
}

static void req_end(struct req *q, struct kernetdev_msg *answer)
{
	struct comm *c = q->c;
	nodeid to = q->m->peer;
	u8 chan = q->m->chan;
	u32 session = q->m->session;

	if (q->pub.wants_answer)
		reqs_del(c, q);
	msg_done(c, q->m);
	free(q);
	if (answer != NULL)
		answer_send(c, to, chan, session, answer);
}

static struct comm_msg answer_header(const struct req *q, u8 kind)
{
	return (struct comm_msg){.kind = kind,
				 .op = q->pub.op,
				 .id = q->pub.call_id,
				 .view = atomic_load(&q->c->view)};
}

void comm_req_answer(struct comm_req *pub, const struct krg_buf *body)
{
	struct req *q = req_of(pub);
	struct comm_msg h = answer_header(q, COMM_MSG_ANSWER);

	if (!pub->wants_answer) {
		comm_req_done(pub);
		return;
	}
	if (body != NULL && body->len > COMM_BODY_MAX) {
		comm_req_fail(pub, -EMSGSIZE, "an answer of %zu bytes", body->len);
		return;
	}
	req_end(q,
		comm_msg_make(&h, body != NULL ? body->data : NULL, body != NULL ? body->len : 0));
}

void comm_req_fail_err(struct comm_req *pub, const struct krg_err *err)
{
	struct req *q = req_of(pub);
	struct comm_msg h = answer_header(q, COMM_MSG_FAIL);
	struct krg_err e = *err;

	if (!pub->wants_answer) {
		LOG_D("comm", "one-way %#x of node %u: %s", pub->op, pub->from, err->text);
		comm_req_done(pub);
		return;
	}
	if (e.node == KRG_NODE_NONE)
		e.node = q->c->config.self;
	req_end(q, comm_msg_make_fail(&h, &e));
}

void comm_req_fail(struct comm_req *pub, int code, const char *fmt, ...)
{
	struct krg_err err;
	char text[sizeof(err.text)];
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	(void)krg_err_set(&err, code, "%s", text);
	comm_req_fail_err(pub, &err);
}

void comm_req_done(struct comm_req *pub)
{
	/* a node may call what is one-way: it is told so, and nothing else happens */
	if (pub->wants_answer)
		comm_req_fail(pub, -EPROTO, "op %#x has no answer", pub->op);
	else
		req_end(req_of(pub), NULL);
}

void comm_refuse(struct comm *c, const struct kernetdev_msg *m, const struct comm_msg *h,
		 const struct krg_err *err, u8 flags)
{
	struct comm_msg a = {.op = h->op, .id = h->id, .flags = flags, .view = comm_view(c)};
	struct krg_err e = *err;

	e.node = c->config.self;
	answer_send(c, m->peer, m->chan, m->session, comm_msg_make_fail(&a, &e));
}

/* --- dispatch --- */

static void job_run(struct job *j)
{
	struct req *q = (struct req *)(void *)((u8 *)j - offsetof(struct req, job));

	TRACE(COMM_HANDLE, q->pub.call_id, q->pub.from, q->pub.op, q->pub.body.len);
	q->op->handler(q->op->ctx, &q->pub);
}

/* At the end, a request that no worker took; a call is still in the table, and freed with it. */
static void job_drop(struct job *j)
{
	struct req *q = (struct req *)(void *)((u8 *)j - offsetof(struct req, job));

	if (q->in_table)
		return;
	kernetdev_msg_free(q->m);
	free(q);
}

static void inline_run(struct req *q)
{
	bool was = comm_in_upcall;

	comm_in_upcall = true;
	job_run(&q->job);
	comm_in_upcall = was;
}

void comm_deliver(struct comm *c, struct kernetdev_msg *m, const struct comm_msg *h)
{
	const struct op *o = comm_op(c, h->op);
	struct req *q;

	if (h->kind == COMM_MSG_CANCEL) {
		on_cancel(c, m, h);
		return;
	}
	if (o == NULL) {
		struct krg_err err;

		(void)krg_err_set(&err, -ENOSYS, "op %#x", h->op);
		if (h->kind == COMM_MSG_CALL)
			comm_refuse(c, m, h, &err, 0);
		msg_done(c, m);
		return;
	}
	q = krg_xalloc(sizeof(*q));
	q->pub = (struct comm_req){.from = m->peer,
				   .op = h->op,
				   .wants_answer = h->kind == COMM_MSG_CALL,
				   .call_id = h->id,
				   .view = h->view,
				   .body = h->body};
	q->c = c;
	q->m = m;
	q->op = o;
	q->job.run = job_run;
	q->job.drop = job_drop;
	if (q->pub.wants_answer)
		reqs_add(c, q);
	if (o->flags & COMM_INLINE)
		inline_run(q);
	else
		comm_job_queue(c, &q->job);
}

void comm_recv(void *ctx, struct kernetdev_msg *m)
{
	struct comm *c = ctx;
	struct comm_msg h;

	if (comm_msg_parse(m, &h) < 0) {
		LOG_W("comm", "node %u sends a broken message", m->peer);
		kernetdev_break(c->kd, m->peer, m->chan);
		kernetdev_msg_done(c->kd, m);
		return;
	}
	comm_in_upcall = true;
	if (h.kind == COMM_MSG_ANSWER || h.kind == COMM_MSG_FAIL)
		comm_on_answer(c, m, &h);
	else if (comm_view_admit(c, m, &h))
		comm_deliver(c, m, &h);
	comm_in_upcall = false;
}

/* --- messages to oneself --- */

/* now: the caller may run an inline handler itself (it waits for the answer, and holds no lock). */
void comm_own_send(struct comm *c, struct kernetdev_msg *m, bool now)
{
	struct comm_msg h;
	const struct op *o;
	bool queue;

	if (comm_msg_parse(m, &h) < 0)
		ASSERT(!"a message of our own");
	o = comm_op(c, h.op);
	calls_lock(&c->lock);
	/* An unknown op is answered, which may run done(): not here. */
	queue = (o == NULL || (o->flags & COMM_INLINE)) && (!now || c->own != NULL);
	if (queue) {
		if (c->own == NULL)
			c->own_last = &c->own;
		m->next = NULL;
		*c->own_last = m;
		c->own_last = &m->next;
	}
	calls_unlock(&c->lock);
	if (queue)
		kernetdev_poke(c->kd);
	else
		comm_deliver(c, m, &h);
}

void comm_own_run(struct comm *c)
{
	for (;;) {
		struct kernetdev_msg *m;
		struct comm_msg h;

		calls_lock(&c->lock);
		m = c->own;
		if (m != NULL)
			c->own = m->next;
		calls_unlock(&c->lock);
		if (m == NULL)
			return;
		m->next = NULL;
		if (comm_msg_parse(m, &h) == 0)
			comm_deliver(c, m, &h);
	}
}

/* At the end: what was never answered. */
void comm_reqs_free(struct comm *c)
{
	for (unsigned i = 0; i < COMM_BUCKETS; i++) {
		struct req *q;

		while ((q = c->reqs[i]) != NULL) {
			c->reqs[i] = q->hash_next;
			kernetdev_msg_free(q->m);
			free(q);
		}
	}
}
