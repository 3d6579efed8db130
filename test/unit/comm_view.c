/* comm_view.c - view numbers: what is refused, what waits, and that nothing between members is
 * lost when views change at different times. */
#include "comm_cluster.h"
#include <semaphore.h>
#include <stdatomic.h>

enum {
	OP_WAY = COMM_OP(COMM_SVC_TEST, 1),
	OP_CALL = COMM_OP(COMM_SVC_TEST, 2),
	OP_ANY = COMM_OP(COMM_SVC_TEST, 3),
};

static sem_t came;
static _Atomic u64 last, bad, last_view;

static void on_way(void *ctx, struct comm_req *req)
{
	struct krg_rd rd = krg_rd_slice(req->body);
	u64 seq = krg_rd_u64(&rd);

	(void)ctx;
	if (seq != atomic_load(&last) + 1)
		atomic_fetch_add(&bad, 1);
	atomic_store(&last, seq);
	atomic_store(&last_view, req->view);
	comm_req_done(req);
	sem_post(&came);
}

static void on_call(void *ctx, struct comm_req *req)
{
	(void)ctx;
	comm_req_answer(req, NULL);
}

static void setup(struct comm *c, void *ctx)
{
	(void)ctx;
	comm_register(c, OP_WAY, COMM_INLINE, on_way, NULL);
	comm_register(c, OP_CALL, COMM_INLINE, on_call, NULL);
	comm_register(c, OP_ANY, COMM_INLINE | COMM_ANY_VIEW, on_call, NULL);
}

static void view(struct comm *c, u64 number, unsigned members)
{
	nodeid m[CLUSTER_MAX] = {0, 1, 2, 3};

	comm_view_set(c, number, m, members);
}

static int call(struct comm *c, nodeid to, u16 op, u64 timeout_ms)
{
	COMM_AUTO_REPLY struct comm_reply reply = {0};
	struct krg_err err;

	return comm_call(c, to, op, NULL, timeout_ms, &reply, &err);
}

static int way(struct comm *c, u64 seq)
{
	KRG_AUTO_BUF struct krg_buf b = {0};

	krg_buf_put_u64(&b, seq);
	return comm_send(c, 1, OP_WAY, &b);
}

struct later {
	struct comm *c;
	u64 view;
	int code;
};

static void *call_main(void *arg)
{
	struct later *l = arg;

	l->code = call(l->c, 1, OP_CALL, 5000);
	return NULL;
}

/* The condition comes soon; a test that never sees it is ended by its own time limit. */
#define until(cond)                                                                                \
	while (!(cond))                                                                            \
	sched_yield()

static u64 stale_count(struct comm *c)
{
	struct comm_stat s;

	comm_stat_get(c, &s);
	return s.stale;
}

static void test_calls(struct cluster *k)
{
	struct later l = {.c = k->c[0]};
	pthread_t t;
	u64 before;

	tap_eq(call(k->c[0], 1, OP_CALL, 0), 0, "the same view");
	view(k->c[0], 2, 3);
	tap_eq(call(k->c[0], 1, OP_CALL, 100), -ETIMEDOUT, "a newer view waits");
	(void)pthread_create(&t, NULL, call_main, &l);
	until(({
		struct comm_stat s;
		comm_stat_get(k->c[0], &s);
		s.in_flight == 1;
	}));
	view(k->c[1], 2, 3);
	(void)pthread_join(t, NULL);
	tap_eq(l.code, 0, "until the receiver has that view");
	view(k->c[1], 3, 3);
	tap_eq(call(k->c[0], 1, OP_CALL, 5000), -ESTALE, "an older view is refused");
	tap_eq(call(k->c[0], 1, OP_ANY, 5000), 0, "but not for ops of any view");
	before = stale_count(k->c[1]);
	(void)pthread_create(&t, NULL, call_main, &l);
	until(stale_count(k->c[1]) > before);
	view(k->c[0], 3, 3);
	(void)pthread_join(t, NULL);
	tap_eq(l.code, 0, "a refused call is made again when the caller has the new view");
}

static void test_one_way(struct cluster *k)
{
	u64 v = comm_view(k->c[0]);

	/* node 1 is ahead: nothing is lost */
	view(k->c[1], v + 1, 3);
	tap_eq(way(k->c[0], 1), 0, "one-way of an older view");
	sem_wait(&came);
	tap_eq(atomic_load(&last_view), v, "from a member that stays: taken");
	/* node 1 is behind */
	view(k->c[0], v + 2, 3);
	for (u64 i = 2; i <= 5; i++)
		if (way(k->c[0], i) < 0)
			atomic_fetch_add(&bad, 1);
	tap_eq(call(k->c[0], 1, OP_ANY, 5000), 0, "ops of any view pass");
	tap_eq(atomic_load(&last), 1, "one-way of a newer view wait");
	view(k->c[1], v + 2, 3);
	for (u64 i = 6; i <= 8; i++)
		if (way(k->c[0], i) < 0)
			atomic_fetch_add(&bad, 1);
	for (u64 i = 2; i <= 8; i++)
		sem_wait(&came);
	tap_ok(atomic_load(&bad) == 0 && atomic_load(&last) == 8, "and come in order");

	/* node 0 is put out and taken in again: what it said before is not heard any more */
	view(k->c[0], v + 3, 3);
	for (unsigned i = 3; i <= 5; i++) {
		nodeid without[] = {1, 2};

		if (i == 4)
			comm_view_set(k->c[1], v + i, without, 2);
		else
			view(k->c[1], v + i, 3);
	}
	tap_eq(way(k->c[0], 99), 0, "one-way of a view before it was put out");
	tap_eq(call(k->c[0], 1, OP_ANY, 5000), 0, "(that is processed)");
	tap_eq(atomic_load(&last), 8, "is not taken");
	tap_eq(call(k->c[0], 1, OP_CALL, 5000), -ESTALE, "nor is a call");
	view(k->c[0], v + 5, 3);
	tap_eq(way(k->c[0], 9), 0, "one-way of the view it is in again");
	sem_wait(&came);
	tap_eq(atomic_load(&last), 9, "is taken");
}

static void test_members(struct cluster *k)
{
	u64 v = comm_view(k->c[0]);

	view(k->c[0], v - 1, 1);
	tap_ok(comm_view(k->c[0]) == v && comm_is_member(k->c[0], 2), "a view never goes back");
	view(k->c[0], v + 1, 2);
	tap_ok(!comm_is_member(k->c[0], 2) && comm_is_member(k->c[0], 1), "members");
	tap_eq(call(k->c[0], 2, OP_CALL, 1000), -EHOSTDOWN, "no calls to others");
	tap_eq(call(k->c[0], 2, OP_ANY, 5000), 0, "but those of any view");
	tap_eq(call(k->c[2], 0, OP_CALL, 5000), -ESTALE, "who is out is refused");
}

int main(void)
{
	struct cluster k = {.setup = setup};

	krg_log_set_level(KRG_LOG_WARN);
	sem_init(&came, 0, 0);
	cluster_up(&k, 3);
	test_calls(&k);
	test_one_way(&k);
	test_members(&k);
	cluster_down(&k);
	return tap_done();
}
