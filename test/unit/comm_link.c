/* comm_link.c - what happens to messages when connections break, nodes die, queues are full, and
 * many threads call at once. */
#include "comm_cluster.h"
#include "rng.h"
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>

enum {
	OP_WAY = COMM_OP(COMM_SVC_TEST, 1),
	OP_BULK = COMM_OP(COMM_SVC_TEST, 2),
	OP_ADD = COMM_OP(COMM_SVC_TEST, 3),
	OP_ADD_WORK = COMM_OP(COMM_SVC_TEST, 4),
	OP_HOLD = COMM_OP(COMM_SVC_TEST, 5), /* never answered */
	OP_SLOW = COMM_OP(COMM_SVC_TEST, 6), /* worker: waits for the gate */
};

static _Atomic u64 way_last[2], way_bad, way_count;
static _Atomic u64 adds;
static sem_t way_sem, hold_came, gate;

static void on_way(void *ctx, struct comm_req *req)
{
	unsigned which = (unsigned)(uintptr_t)ctx;
	struct krg_rd rd = krg_rd_slice(req->body);
	u64 seq = krg_rd_u64(&rd);

	if (seq != atomic_load(&way_last[which]) + 1)
		atomic_fetch_add(&way_bad, 1);
	atomic_store(&way_last[which], seq);
	atomic_fetch_add(&way_count, 1);
	comm_req_done(req);
	sem_post(&way_sem);
}

static void on_add(void *ctx, struct comm_req *req)
{
	KRG_AUTO_BUF struct krg_buf b = {0};
	struct krg_rd rd = krg_rd_slice(req->body);

	(void)ctx;
	atomic_fetch_add(&adds, 1);
	krg_buf_put_u64(&b, krg_rd_u64(&rd) + 1);
	comm_req_answer(req, &b);
}

static void on_hold(void *ctx, struct comm_req *req)
{
	(void)ctx;
	(void)req; /* freed with the node */
	sem_post(&hold_came);
}

static void on_slow(void *ctx, struct comm_req *req)
{
	(void)ctx;
	sem_wait(&gate);
	comm_req_done(req);
	sem_post(&gate);
}

static void setup(struct comm *c, void *ctx)
{
	(void)ctx;
	comm_register(c, OP_WAY, COMM_INLINE, on_way, (void *)0);
	comm_register(c, OP_BULK, COMM_INLINE | COMM_BULK, on_way, (void *)1);
	comm_register(c, OP_ADD, COMM_INLINE, on_add, NULL);
	comm_register(c, OP_ADD_WORK, COMM_BULK, on_add, NULL);
	comm_register(c, OP_HOLD, COMM_INLINE, on_hold, NULL);
	comm_register(c, OP_SLOW, 0, on_slow, NULL);
}

static int way(struct comm *c, u16 op, u64 seq, size_t len)
{
	KRG_AUTO_BUF struct krg_buf b = {0};

	krg_buf_put_u64(&b, seq);
	memset(krg_buf_grow(&b, len), 0, len);
	return comm_send(c, 1, op, &b);
}

/* --- breaks in the middle of a stream --- */

/* The connection breaks; one end or the other sees it first. */
static void break_now(struct cluster *k, struct krg_rng *rng, u8 chan)
{
	unsigned end = (unsigned)krg_rng_below(rng, 2);
	struct kernetdev_stat s;

	do
		sched_yield();
	while (kernetdev_stat_get(comm_kernetdev(k->c[end]), 1 - (nodeid)end, chan, &s) < 0 ||
	       !s.up);
	kernetdev_break(comm_kernetdev(k->c[end]), 1 - (nodeid)end, chan);
}

#define STREAM 8000

static void *stream_main(void *arg)
{
	struct cluster *k = arg;
	struct krg_rng rng;

	krg_rng_init(&rng, 7);
	for (u64 i = 1; i <= STREAM; i++) {
		if (i % 500 == 0)
			break_now(k, &rng, 1);
		if (way(k->c[0], OP_BULK, i,
			krg_rng_once_in(&rng, 100) ? krg_rng_below(&rng, 300000) : 100) < 0)
			return (void *)1;
	}
	return NULL;
}

struct calls {
	struct cluster *k;
	unsigned node, count;
	u16 op;
	u64 failed;
};

static void *calls_main(void *arg)
{
	struct calls *a = arg;

	for (u64 i = 0; i < a->count; i++) {
		KRG_AUTO_BUF struct krg_buf b = {0};
		COMM_AUTO_REPLY struct comm_reply reply = {0};
		struct krg_err err;
		struct krg_rd rd;

		krg_buf_put_u64(&b, i);
		if (comm_call(a->k->c[a->node], 1 - (nodeid)a->node, a->op, &b, 0, &reply, &err) <
		    0) {
			printf("# call: %s\n", err.text);
			a->failed++;
			continue;
		}
		rd = krg_rd_slice(reply.body);
		a->failed += krg_rd_u64(&rd) != i + 1;
	}
	return NULL;
}

static void test_breaks(void)
{
	struct cluster k = {.setup = setup};
	pthread_t stream, caller[4];
	struct krg_rng rng;
	struct calls a[4];
	struct kernetdev_stat s, t;
	void *failed;
	u64 wrong = 0;

	cluster_up(&k, 2);
	krg_rng_init(&rng, 42);
	(void)pthread_create(&stream, NULL, stream_main, &k);
	for (unsigned i = 0; i < 4; i++) {
		a[i] = (struct calls){&k, i % 2, 600, i < 2 ? OP_ADD : OP_ADD_WORK, 0};
		(void)pthread_create(&caller[i], NULL, calls_main, &a[i]);
	}
	for (u64 i = 1; i <= STREAM / 2; i++) {
		if (i % 400 == 0)
			break_now(&k, &rng, 0);
		if (way(k.c[0], OP_WAY, i, 10) < 0)
			atomic_fetch_add(&way_bad, 1);
	}
	(void)pthread_join(stream, &failed);
	for (unsigned i = 0; i < 4; i++) {
		(void)pthread_join(caller[i], NULL);
		wrong += a[i].failed;
	}
	for (unsigned i = 0; i < STREAM + STREAM / 2; i++)
		sem_wait(&way_sem);
	tap_ok(failed == NULL && atomic_load(&way_bad) == 0, "all one-way messages, in order");
	tap_ok(atomic_load(&way_last[0]) == STREAM / 2 && atomic_load(&way_last[1]) == STREAM,
	       "none lost, none twice");
	tap_eq(wrong, 0, "all calls answered");
	tap_eq(atomic_load(&adds), 2400, "each call handled once");
	if (kernetdev_stat_get(comm_kernetdev(k.c[0]), 1, 0, &s) < 0 ||
	    kernetdev_stat_get(comm_kernetdev(k.c[0]), 1, 1, &t) < 0)
		abort();
	tap_ok(s.connects + t.connects >= 10 && s.resets + t.resets == 0,
	       "over %llu connections (%llu messages sent again)",
	       (unsigned long long)(s.connects + t.connects),
	       (unsigned long long)(s.resent + t.resent));
	cluster_down(&k);
}

/* --- death --- */

struct one_call {
	struct cluster *k;
	u16 op;
	nodeid to;
	int code;
	struct krg_err err;
};

static void *one_call_main(void *arg)
{
	struct one_call *o = arg;
	COMM_AUTO_REPLY struct comm_reply reply = {0};

	o->code = comm_call(o->k->c[0], o->to, o->op, NULL, 0, &reply, &o->err);
	return NULL;
}

static atomic_int async_ends;
static sem_t async_sem;

static void on_async(void *ctx, int code, struct comm_reply *reply, const struct krg_err *err)
{
	(void)err;
	*(int *)ctx = code;
	comm_reply_fini(reply);
	atomic_fetch_add(&async_ends, 1);
	sem_post(&async_sem);
}

static void hold_begin(struct cluster *k, struct one_call *o, pthread_t *t, int *async_code)
{
	struct krg_err err;

	*o = (struct one_call){.k = k, .op = OP_HOLD, .to = 1};
	(void)pthread_create(t, NULL, one_call_main, o);
	if (comm_call_async(k->c[0], 1, OP_HOLD, NULL, 0, on_async, async_code, NULL, &err) < 0)
		abort();
	sem_wait(&hold_came);
	sem_wait(&hold_came);
}

static void test_death(void)
{
	struct cluster k = {.setup = setup};
	struct one_call o;
	pthread_t t;
	u16 port;
	int code = 1;

	cluster_up(&k, 3);
	hold_begin(&k, &o, &t, &code);
	comm_stop(k.c[1]);
	cluster_view(&k, 2, 1); /* node 0 alone */
	(void)pthread_join(t, NULL);
	sem_wait(&async_sem);
	tap_eq(o.code, -EHOSTDOWN, "a call ends when the view says that the node is dead");
	tap_eq(code, -EHOSTDOWN, "and so does one without a thread (%s)", o.err.text);
	tap_eq(way(k.c[0], OP_WAY, 1, 0), -EHOSTDOWN, "no message to it");
	port = comm_port(k.c[1]);
	comm_free(k.c[1]);

	k.c[1] = cluster_node(1, "test", 7, port, 2);
	setup(k.c[1], NULL);
	cluster_start(k.c[1]);
	cluster_view(&k, 3, 3);
	hold_begin(&k, &o, &t, &code);
	tap_ok(true, "the node is back");
	comm_stop(k.c[1]);
	comm_free(k.c[1]);
	k.c[1] = cluster_node(1, "test", 7, port, 2);
	setup(k.c[1], NULL);
	cluster_start(k.c[1]);
	cluster_view(&k, 3, 3);
	(void)pthread_join(t, NULL);
	sem_wait(&async_sem);
	tap_eq(o.code, -EHOSTDOWN, "a call ends when the node has been restarted unnoticed");
	tap_eq(code, -EHOSTDOWN, "and so does one without a thread (%s)", o.err.text);

	hold_begin(&k, &o, &t, &code);
	comm_peer_forget(k.c[0], 1);
	(void)pthread_join(t, NULL);
	sem_wait(&async_sem);
	tap_eq(o.code, -EHOSTDOWN, "a call ends when the node is forgotten");
	cluster_meet(k.c[0], k.c[1]);
	hold_begin(&k, &o, &t, &code);
	comm_stop(k.c[0]);
	(void)pthread_join(t, NULL);
	sem_wait(&async_sem);
	tap_eq(o.code, -ECANCELED, "calls end when this node stops");
	tap_eq(code, -ECANCELED, "of both kinds");
	tap_eq(atomic_load(&async_ends), 4, "each ended once");
	cluster_down(&k);
}

/* --- a full queue --- */

static void *sender_main(void *arg)
{
	struct cluster *k = arg;
	KRG_AUTO_BUF struct krg_buf b = {0};

	memset(krg_buf_grow(&b, 1 << 20), 0, 1 << 20);
	for (int i = 0; i < 20; i++)
		if (comm_send(k->c[0], 1, OP_SLOW, &b) < 0)
			return (void *)1;
	return NULL;
}

static void test_full(void)
{
	struct cluster k = {.setup = setup};
	KRG_AUTO_BUF struct krg_buf b = {0};
	struct kernetdev_stat s;
	pthread_t t;
	void *failed;
	int n = 0, r;

	cluster_up(&k, 2);
	memset(krg_buf_grow(&b, 1 << 20), 0, 1 << 20);
	while ((r = comm_try_send(k.c[0], 1, OP_SLOW, &b)) == 0)
		n++;
	tap_ok(r == -EAGAIN && n == 7, "%d messages of 1 MiB fit while nobody takes them", n);
	(void)pthread_create(&t, NULL, sender_main, &k);
	if (kernetdev_stat_get(comm_kernetdev(k.c[0]), 1, 0, &s) < 0)
		abort();
	tap_ok(s.window_used <= COMM_QUEUE_MAX, "the window is kept");
	sem_post(&gate);
	(void)pthread_join(t, &failed);
	tap_ok(failed == NULL, "a sender waits for room");
	cluster_down(&k);
	sem_wait(&gate);
}

/* --- many threads --- */

static void test_stress(void)
{
	struct cluster k = {.setup = setup};
	pthread_t t[32];
	struct calls a[32];
	u64 wrong = 0, before = atomic_load(&adds);

	cluster_up(&k, 2);
	for (unsigned i = 0; i < 32; i++) {
		a[i] = (struct calls){&k, i % 2, 400, i % 4 < 2 ? OP_ADD : OP_ADD_WORK, 0};
		(void)pthread_create(&t[i], NULL, calls_main, &a[i]);
	}
	for (unsigned i = 0; i < 32; i++) {
		(void)pthread_join(t[i], NULL);
		wrong += a[i].failed;
	}
	tap_eq(wrong, 0, "32 threads on 2 nodes get their own answers");
	tap_eq(atomic_load(&adds) - before, 32 * 400, "each call handled once");
	cluster_down(&k);
}

/* Both ends connect at once, over and over. */
static void test_crossing(void)
{
	struct cluster k = {.setup = setup};
	struct calls a[2] = {{&k, 0, 1, OP_ADD, 0}, {&k, 1, 1, OP_ADD, 0}};
	u64 wrong = 0;

	for (int i = 0; i < 50; i++) {
		pthread_t t[2];

		cluster_up(&k, 2);
		for (int j = 0; j < 2; j++)
			(void)pthread_create(&t[j], NULL, calls_main, &a[j]);
		for (int j = 0; j < 2; j++)
			(void)pthread_join(t[j], NULL);
		cluster_down(&k);
	}
	for (int j = 0; j < 2; j++)
		wrong += a[j].failed;
	tap_eq(wrong, 0, "50 times both ends connect at once");
}

int main(void)
{
	krg_log_set_level(KRG_LOG_WARN);
	sem_init(&way_sem, 0, 0);
	sem_init(&hold_came, 0, 0);
	sem_init(&async_sem, 0, 0);
	sem_init(&gate, 0, 0);
	test_breaks();
	test_death();
	test_full();
	test_stress();
	test_crossing();
	return tap_done();
}
