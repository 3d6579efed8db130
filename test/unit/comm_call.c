/* comm_call.c - call and answer between nodes of one process: what comes back, and when it ends. */
#include "comm_cluster.h"
#include <semaphore.h>
#include <stdatomic.h>

enum {
	OP_ECHO = COMM_OP(COMM_SVC_TEST, 1),	  /* inline */
	OP_ECHO_WORK = COMM_OP(COMM_SVC_TEST, 2), /* on a worker */
	OP_FAIL = COMM_OP(COMM_SVC_TEST, 3),
	OP_NEVER = COMM_OP(COMM_SVC_TEST, 4), /* answers when the caller has given up */
	OP_BULK = COMM_OP(COMM_SVC_TEST, 5),
	OP_NOBODY = COMM_OP(COMM_SVC_TEST, 6),
	OP_RELAY = COMM_OP(COMM_SVC_TEST, 7), /* worker: calls node (self + 1) % n, depth times */
	OP_COUNT = COMM_OP(COMM_SVC_TEST, 8), /* one-way */
	OP_LATER = COMM_OP(COMM_SVC_TEST, 9), /* kept until OP_NOW */
	OP_NOW = COMM_OP(COMM_SVC_TEST, 10),
};

struct node_ctx {
	struct comm *c;
	struct cluster *k;
};
static struct node_ctx nodes[CLUSTER_MAX];
static sem_t never_came, never_gone, counted;
static _Atomic(struct comm_req *) later;

static void on_echo(void *ctx, struct comm_req *req)
{
	struct krg_buf b = {.data = (u8 *)(uintptr_t)req->body.data, .len = req->body.len};

	(void)ctx;
	comm_req_answer(req, &b);
}

static void on_fail(void *ctx, struct comm_req *req)
{
	(void)ctx;
	comm_req_fail(req, -ENOTDIR, "no '%s' on node", "thing");
}

static void on_never(void *ctx, struct comm_req *req)
{
	(void)ctx;
	sem_post(&never_came);
	while (!comm_req_cancelled(req))
		sched_yield();
	comm_req_answer(req, NULL);
	sem_post(&never_gone);
}

static void on_relay(void *ctx, struct comm_req *req)
{
	struct node_ctx *n = ctx;
	KRG_AUTO_BUF struct krg_buf b = {0};
	COMM_AUTO_REPLY struct comm_reply reply = {0};
	struct krg_err err;
	u8 depth = req->body.data[0];

	krg_buf_put_u8(&b, (u8)(depth - 1));
	if (depth == 0)
		comm_req_answer(req, NULL);
	else if (comm_call(n->c, (nodeid)((comm_self(n->c) + 1) % n->k->n), OP_RELAY, &b, 10000,
			   &reply, &err) < 0)
		comm_req_fail_err(req, &err);
	else
		comm_req_answer(req, NULL);
}

static void on_count(void *ctx, struct comm_req *req)
{
	(void)ctx;
	comm_req_done(req);
	sem_post(&counted);
}

static void on_later(void *ctx, struct comm_req *req)
{
	(void)ctx;
	atomic_store(&later, req);
	sem_post(&counted);
}

static void on_now(void *ctx, struct comm_req *req)
{
	struct comm_req *l = atomic_exchange(&later, NULL);

	(void)ctx;
	comm_req_answer(l, NULL);
	comm_req_answer(req, NULL);
}

static void setup(struct comm *c, void *ctx)
{
	struct node_ctx *n = &nodes[comm_self(c)];

	*n = (struct node_ctx){c, ctx};
	comm_register(c, OP_ECHO, COMM_INLINE, on_echo, n);
	comm_register(c, OP_ECHO_WORK, 0, on_echo, n);
	comm_register(c, OP_FAIL, COMM_INLINE, on_fail, n);
	comm_register(c, OP_NEVER, 0, on_never, n);
	comm_register(c, OP_BULK, COMM_BULK, on_echo, n);
	comm_register(c, OP_RELAY, 0, on_relay, n);
	comm_register(c, OP_COUNT, COMM_INLINE, on_count, n);
	comm_register(c, OP_LATER, COMM_INLINE, on_later, n);
	comm_register(c, OP_NOW, COMM_INLINE, on_now, n);
}

static bool echo(struct comm *c, nodeid to, u16 op, size_t len)
{
	KRG_AUTO_BUF struct krg_buf b = {0};
	COMM_AUTO_REPLY struct comm_reply reply = {0};
	struct krg_err err;
	u8 *p = krg_buf_grow(&b, len);
	int r;

	for (size_t i = 0; i < len; i++)
		p[i] = (u8)(i * 7 + len);
	r = comm_call(c, to, op, &b, 20000, &reply, &err);
	if (r < 0)
		printf("# echo: %s\n", err.text);
	return r == 0 && reply.body.len == len && memcmp(reply.body.data, p, len) == 0;
}

static void test_answers(struct cluster *k)
{
	struct comm_reply reply = {0};
	struct krg_err err;

	tap_ok(echo(k->c[0], 1, OP_ECHO, 10), "a call, inline");
	tap_ok(echo(k->c[0], 1, OP_ECHO_WORK, 1000), "a call, worker");
	tap_ok(echo(k->c[1], 0, OP_ECHO, 0), "an empty call, the other way");
	tap_ok(echo(k->c[0], 1, OP_ECHO, 100000), "longer than the buffer");
	tap_ok(echo(k->c[0], 1, OP_BULK, COMM_BODY_MAX), "the longest, bulk");
	tap_ok(echo(k->c[2], 2, OP_ECHO, 100), "oneself, inline");
	tap_ok(echo(k->c[2], 2, OP_ECHO_WORK, 100), "oneself, worker");

	tap_eq(comm_call(k->c[0], 1, OP_FAIL, NULL, 0, &reply, &err), -ENOTDIR, "an error");
	tap_ok(strcmp(err.text, "no 'thing' on node: Not a directory") == 0 && err.node == 1,
	       "with its text and node (%s, %u)", err.text, err.node);
	tap_eq(comm_call(k->c[0], 0, OP_FAIL, NULL, 0, &reply, &err), -ENOTDIR,
	       "an error of oneself");
	tap_eq(comm_call(k->c[0], 1, OP_NOBODY, NULL, 0, &reply, &err), -ENOSYS, "an unknown op");
	tap_eq(comm_call(k->c[0], 0, OP_NOBODY, NULL, 0, &reply, &err), -ENOSYS,
	       "an unknown op of oneself");
	tap_eq(comm_call(k->c[0], 3, OP_ECHO, NULL, 0, &reply, &err), -EHOSTDOWN,
	       "not in the view");
	tap_ok(reply.storage == NULL, "nothing in the reply");
}

static void test_deadline(struct cluster *k)
{
	struct comm_reply reply = {0};
	struct krg_err err;
	u64 start = krg_clock_now_ns();

	tap_eq(comm_call(k->c[0], 1, OP_NEVER, NULL, 50, &reply, &err), -ETIMEDOUT, "a deadline");
	tap_ok(krg_clock_now_ns() - start >= 50 * KRG_MSEC, "not before its time");
	sem_wait(&never_gone);
	tap_ok(true, "the handler sees that the caller has given up");
	tap_eq(comm_call(k->c[0], 0, OP_NEVER, NULL, 50, &reply, &err), -ETIMEDOUT,
	       "a deadline of oneself");
	sem_wait(&never_gone);
	sem_wait(&never_came);
	sem_wait(&never_came);
}

struct async {
	sem_t sem;
	int code, times;
	char text[240];
};

static void on_async(void *ctx, int code, struct comm_reply *reply, const struct krg_err *err)
{
	struct async *a = ctx;

	a->code = code;
	a->times++;
	if (err != NULL)
		(void)snprintf(a->text, sizeof(a->text), "%s", err->text);
	comm_reply_fini(reply);
	sem_post(&a->sem);
}

static void test_async(struct cluster *k)
{
	struct async a = {.code = 99};
	struct krg_err err;
	u64 id;

	sem_init(&a.sem, 0, 0);
	tap_eq(comm_call_async(k->c[0], 1, OP_ECHO, NULL, 0, on_async, &a, NULL, &err), 0, "async");
	sem_wait(&a.sem);
	tap_eq(a.code, 0, "async is answered");
	tap_eq(comm_call_async(k->c[0], 0, OP_ECHO, NULL, 0, on_async, &a, NULL, &err), 0,
	       "async to oneself");
	sem_wait(&a.sem);
	tap_eq(a.code, 0, "async to oneself is answered");
	tap_eq(comm_call_async(k->c[0], 0, OP_NOBODY, NULL, 0, on_async, &a, NULL, &err), 0,
	       "async to oneself, unknown op");
	sem_wait(&a.sem);
	tap_eq(a.code, -ENOSYS, "-ENOSYS");
	tap_eq(comm_call_async(k->c[0], 1, OP_NEVER, NULL, 30, on_async, &a, NULL, &err), 0,
	       "async with a deadline");
	sem_wait(&a.sem);
	tap_eq(a.code, -ETIMEDOUT, "it comes");
	sem_wait(&never_came);
	sem_wait(&never_gone);
	tap_eq(comm_call_async(k->c[0], 1, OP_NEVER, NULL, 0, on_async, &a, &id, &err), 0, "async");
	sem_wait(&never_came);
	comm_cancel(k->c[0], id);
	sem_wait(&a.sem);
	tap_eq(a.code, -ECANCELED, "cancelled");
	sem_wait(&never_gone);
	comm_cancel(k->c[0], id);
	tap_eq(a.times, 5, "each call ends once");
	sem_destroy(&a.sem);
}

static void test_later(struct cluster *k)
{
	struct async a = {.code = 99};
	struct comm_reply reply = {0};
	struct krg_err err;

	sem_init(&a.sem, 0, 0);
	tap_eq(comm_call_async(k->c[0], 1, OP_LATER, NULL, 0, on_async, &a, NULL, &err), 0,
	       "a call that is answered later");
	sem_wait(&counted);
	tap_eq(comm_call(k->c[0], 1, OP_NOW, NULL, 0, &reply, &err), 0, "now");
	comm_reply_fini(&reply);
	sem_wait(&a.sem);
	tap_eq(a.code, 0, "it is answered");
	sem_destroy(&a.sem);
}

static void test_many(struct cluster *k)
{
	nodeid to[] = {0, 1, 2, 3};
	struct comm_reply reply[4] = {0};
	int codes[4];

	tap_eq(comm_call_many(k->c[0], to, 4, OP_ECHO, NULL, 5000, reply, codes), 1,
	       "to many: one fails");
	tap_ok(codes[0] == 0 && codes[1] == 0 && codes[2] == 0 && codes[3] == -EHOSTDOWN,
	       "the one that is not there");
	for (int i = 0; i < 4; i++)
		comm_reply_fini(&reply[i]);
}

static void test_one_way(struct cluster *k)
{
	tap_eq(comm_send(k->c[0], 1, OP_COUNT, NULL), 0, "one-way");
	tap_eq(comm_send(k->c[0], 0, OP_COUNT, NULL), 0, "one-way to oneself");
	tap_eq(comm_try_send(k->c[2], 1, OP_COUNT, NULL), 0, "try");
	tap_eq(comm_send(k->c[0], 3, OP_COUNT, NULL), -EHOSTDOWN, "one-way to nobody");
	for (int i = 0; i < 3; i++)
		sem_wait(&counted);
}

static void test_relay(struct cluster *k)
{
	KRG_AUTO_BUF struct krg_buf b = {0};
	COMM_AUTO_REPLY struct comm_reply reply = {0};
	struct krg_err err;
	struct comm_stat stat;

	krg_buf_put_u8(&b, 60);
	tap_eq(comm_call(k->c[0], 0, OP_RELAY, &b, 20000, &reply, &err), 0,
	       "60 handlers wait in a chain, with 2 workers to begin with");
	comm_stat_get(k->c[1], &stat);
	tap_ok(stat.workers > 2 && stat.workers <= 64, "%u workers", stat.workers);
}

static void test_stats(struct cluster *k)
{
	struct kernetdev_stat s;
	struct comm_stat stat;

	comm_stat_get(k->c[0], &stat);
	tap_ok(stat.answers > 0 && stat.errors > 0 && stat.latency_ns_max > 0, "counts of calls");
	tap_eq(stat.in_flight, 0, "none under way");
	tap_eq(kernetdev_stat_get(comm_kernetdev(k->c[0]), 1, 0, &s), 0, "counts of a link");
	tap_ok(s.up && s.messages_in > 0 && s.messages_out > 0 && s.bytes_in > 0 &&
		       s.connects == 1 && s.resent == 0,
	       "connected once, nothing sent twice");
}

int main(void)
{
	struct cluster k = {.setup = setup, .ctx = &k};

	sem_init(&never_came, 0, 0);
	sem_init(&never_gone, 0, 0);
	sem_init(&counted, 0, 0);
	cluster_up(&k, 3);
	test_answers(&k);
	test_deadline(&k);
	test_async(&k);
	test_later(&k);
	test_many(&k);
	test_one_way(&k);
	test_relay(&k);
	test_stats(&k);
	cluster_down(&k);
	return tap_done();
}
