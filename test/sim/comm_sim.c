/* comm_sim.c - nodes in one process, virtual time, one seed a run: connections break, the network
 * is cut, views change at different times, nodes are restarted; what was sent arrives once and in
 * order, and each call ends once.
 *
 * comm_sim [RUNS [FIRST_SEED]]
 */
#include "clock.h"
#include "comm.h"
#include "kernetdev.h"
#include "kernetdev_driver.h"
#include "log.h"
#include "rng.h"
#include "tap.h"

#define NODES	 4
#define OPS	 2 /* one a channel */
#define OP_WAY	 COMM_OP(COMM_SVC_TEST, 1)
#define OP_WAY_B COMM_OP(COMM_SVC_TEST, 2)
#define OP_CALL	 COMM_OP(COMM_SVC_TEST, 3)
#define OP_CALLB COMM_OP(COMM_SVC_TEST, 4)
#define RUN_NS	 (20 * KRG_NSEC)
#define QUIET_NS (40 * KRG_NSEC)
#define CALLS	 6000

struct world;

struct node {
	struct world *w;
	nodeid id;
	struct comm *c;
	u32 life;    /* how often it was started */
	u32 noticed; /* the life that the others took in by a view */
	u64 view;
	u64 sent[NODES][OPS];
	/* what came last of a node, and from which life of it */
	u64 got[NODES][OPS];
	u32 got_life[NODES][OPS];
};

struct call_slot {
	bool used, ended;
	int code;
	nodeid from, to;
	u32 life, to_life;
	unsigned handled;
};

struct world {
	struct kernetdev_simnet *sim;
	struct krg_rng rng;
	struct node node[NODES];
	struct call_slot call[CALLS];
	unsigned calls;
	u64 view;
	size_t long_max;
	bool restarts, bad, sending;
	u64 n_sent, n_again, n_stale;
};

static void bad(struct world *w, const char *what, u64 a, u64 b, u64 c)
{
	if (!w->bad)
		printf("# %s: %llu %llu %llu at %.6f s\n", what, (unsigned long long)a,
		       (unsigned long long)b, (unsigned long long)c,
		       (double)kernetdev_sim_now(w->sim) / 1e9);
	w->bad = true;
}

static void on_way(struct node *n, struct comm_req *req, unsigned op)
{
	struct krg_rd rd = krg_rd_slice(req->body);
	u32 life = krg_rd_u32(&rd);
	u64 seq = krg_rd_u64(&rd);

	if (life != n->got_life[req->from][op]) {
		if (life < n->got_life[req->from][op])
			bad(n->w, "a message of an old life", req->from, life, seq);
		n->got_life[req->from][op] = life;
		n->got[req->from][op] = 0;
	}
	/* After this node's own restart the first thing that comes is in the middle. */
	if (n->got[req->from][op] != 0 || n->life == 1) {
		if (n->w->restarts ? seq <= n->got[req->from][op]
				   : seq != n->got[req->from][op] + 1)
			bad(n->w, "out of order", req->from, seq, n->got[req->from][op]);
	}
	n->got[req->from][op] = seq;
	comm_req_done(req);
}

static void on_way_call(void *ctx, struct comm_req *req)
{
	on_way(ctx, req, 0);
}

static void on_way_bulk(void *ctx, struct comm_req *req)
{
	on_way(ctx, req, 1);
}

static void on_call(void *ctx, struct comm_req *req)
{
	struct node *n = ctx;
	struct krg_rd rd = krg_rd_slice(req->body);
	u32 slot = krg_rd_u32(&rd);

	if (++n->w->call[slot].handled > 1)
		bad(n->w, "a call was handled twice", slot, req->from, n->id);
	if (krg_rng_once_in(&n->w->rng, 10))
		comm_req_fail(req, -ENOENT, "as the dice said");
	else
		comm_req_answer(req, NULL);
}

static void node_start(struct world *w, nodeid id)
{
	struct node *n = &w->node[id];
	struct comm_config config = {.self = id,
				     .listen_addr = "sim",
				     .cluster = "sim",
				     .driver = &kernetdev_sim,
				     .driver_ctx = w->sim};
	nodeid all[NODES];
	struct krg_err err;

	memset(n->got, 0, sizeof(n->got));
	memset(n->got_life, 0, sizeof(n->got_life));
	memset(n->sent, 0, sizeof(n->sent));
	n->w = w;
	n->id = id;
	n->life++;
	if (comm_new(&config, &n->c, &err) < 0)
		abort();
	comm_register(n->c, OP_WAY, COMM_INLINE, on_way_call, n);
	comm_register(n->c, OP_WAY_B, COMM_INLINE | COMM_BULK, on_way_bulk, n);
	comm_register(n->c, OP_CALL, COMM_INLINE, on_call, n);
	comm_register(n->c, OP_CALLB, COMM_BULK, on_call, n);
	if (comm_start(n->c, &err) < 0)
		abort();
	for (nodeid i = 0; i < NODES; i++) {
		all[i] = i;
		/* only some know addresses: the others are found by them */
		if (i != id && (id < i || w->restarts) &&
		    comm_peer_set(n->c, i, "sim", (u16)(i + 1)) < 0)
			abort();
	}
	n->view = w->view;
	comm_view_set(n->c, n->view, all, NODES);
}

static void on_done(void *ctx, int code, struct comm_reply *reply, const struct krg_err *err)
{
	struct call_slot *s = ctx;

	(void)err;
	if (s->ended)
		s->code = 1; /* seen at the end */
	else
		s->code = code;
	s->ended = true;
	comm_reply_fini(reply);
}

static void send_way(struct node *n, nodeid to, unsigned op)
{
	KRG_AUTO_BUF struct krg_buf b = {0};
	size_t len = krg_rng_once_in(&n->w->rng, 30) ? krg_rng_below(&n->w->rng, n->w->long_max)
						     : krg_rng_below(&n->w->rng, 300);
	int r;

	krg_buf_put_u32(&b, n->life);
	krg_buf_put_u64(&b, n->sent[to][op] + 1);
	memset(krg_buf_grow(&b, len), 0x5a, len);
	r = comm_try_send(n->c, to, op == 0 ? OP_WAY : OP_WAY_B, &b);
	if (r == 0) {
		n->sent[to][op]++;
		n->w->n_sent++;
	} else if (r == -EAGAIN) {
		n->w->n_again++;
	} else if (r != -EHOSTDOWN) {
		bad(n->w, "send", (u64)-r, n->id, to);
	}
}

static void send_call(struct node *n, nodeid to)
{
	KRG_AUTO_BUF struct krg_buf b = {0};
	struct world *w = n->w;
	struct call_slot *s = &w->call[w->calls];
	u64 timeout = krg_rng_once_in(&w->rng, 4) ? 1 + krg_rng_below(&w->rng, 50) : 0;
	int r;

	if (w->calls == CALLS)
		return;
	krg_buf_put_u32(&b, w->calls);
	*s = (struct call_slot){.used = true,
				.from = n->id,
				.to = to,
				.life = n->life,
				.to_life = w->node[to].life};
	r = comm_call_async(n->c, to, krg_rng_once_in(&w->rng, 2) ? OP_CALL : OP_CALLB, &b, timeout,
			    on_done, s, NULL, NULL);
	if (r == 0)
		w->calls++;
	else if (r != -EAGAIN && r != -EHOSTDOWN)
		bad(w, "call", (u64)-r, n->id, to);
}

/* The others notice that it is dead, and later that it is back (which it is a moment later). */
static void voted_out(struct world *w, nodeid dead)
{
	w->view += 2;
	for (nodeid i = 0; i < NODES; i++) {
		nodeid rest[NODES], all[NODES] = {0, 1, 2, 3};
		unsigned n = 0;

		for (nodeid j = 0; j < NODES; j++)
			if (j != dead)
				rest[n++] = j;
		if (i == dead)
			continue;
		comm_view_set(w->node[i].c, w->view - 1, rest, n);
		comm_view_set(w->node[i].c, w->view, all, NODES);
		w->node[i].view = w->view;
	}
	w->node[dead].noticed = w->node[dead].life + 1;
}

static void step(void *ctx)
{
	struct world *w = ctx;
	struct node *n = &w->node[krg_rng_below(&w->rng, NODES)];
	nodeid to = (nodeid)krg_rng_below(&w->rng, NODES);
	nodeid all[NODES] = {0, 1, 2, 3};

	if (!w->sending)
		return;
	kernetdev_sim_at(w->sim, kernetdev_sim_now(w->sim) + krg_rng_below(&w->rng, 20 * KRG_MSEC),
			 step, w);
	if (to != n->id) {
		for (u64 i = krg_rng_below(&w->rng, 6); i > 0; i--)
			send_way(n, to, (unsigned)krg_rng_below(&w->rng, OPS));
	}
	if (krg_rng_once_in(&w->rng, 2))
		send_call(n, to);
	if (krg_rng_once_in(&w->rng, 60) && n->view == w->view)
		w->view++;
	if (krg_rng_once_in(&w->rng, 3) && n->view < w->view) {
		n->view++;
		comm_view_set(n->c, n->view, all, NODES);
	}
	if (krg_rng_once_in(&w->rng, 300))
		kernetdev_sim_partition(w->sim, n->id, 1);
	if (krg_rng_once_in(&w->rng, 100))
		kernetdev_sim_heal(w->sim);
	if (w->restarts && krg_rng_once_in(&w->rng, 200)) {
		comm_stop(n->c);
		comm_free(n->c);
		if (krg_rng_once_in(&w->rng, 2))
			voted_out(w, n->id);
		node_start(w, n->id);
	}
}

static void check_calls(struct world *w)
{
	for (unsigned i = 0; i < w->calls; i++) {
		struct call_slot *s = &w->call[i];
		bool lived = s->life == w->node[s->from].life && s->to_life == w->node[s->to].life;

		if (!s->ended || s->code > 0)
			bad(w, "a call ended not once", i, s->from, s->to);
		else if (s->code == 0 && s->handled != 1)
			bad(w, "an answer without a handler", i, s->from, s->to);
		else if (lived && s->code < 0 && s->code != -ENOENT && s->code != -ETIMEDOUT &&
			 s->code != -ESTALE &&
			 !(w->restarts && s->code == -EHOSTDOWN &&
			   w->node[s->to].noticed != s->to_life))
			bad(w, "a call failed", i, (u64)-s->code, s->to);
		if (s->code == -ESTALE)
			w->n_stale++;
	}
}

static void check_ways(struct world *w)
{
	for (nodeid a = 0; a < NODES; a++)
		for (nodeid b = 0; b < NODES; b++)
			for (unsigned op = 0; op < OPS; op++)
				if (w->node[a].sent[b][op] != w->node[b].got[a][op])
					bad(w, "lost", a * 10u + b, w->node[a].sent[b][op],
					    w->node[b].got[a][op]);
}

static bool run(u64 seed, bool restarts)
{
	struct world *w = krg_xalloc(sizeof(*w));
	nodeid all[NODES] = {0, 1, 2, 3};
	u64 connects = 0, resent = 0;
	bool good;

	w->sim = kernetdev_sim_new(&(struct kernetdev_sim_config){
		.seed = seed,
		.delay_min_ns = 20 * KRG_USEC,
		.delay_max_ns = seed % 3 == 0 ? 30 * KRG_MSEC : KRG_MSEC,
		.break_mean_ns = 20 * KRG_MSEC * (1 + seed % 50)});
	krg_rng_init(&w->rng, seed ^ 0x5eed);
	w->view = 1;
	w->restarts = restarts;
	w->long_max = seed % 10 == 0 ? 3 << 20 : 200000; /* so that windows are full */
	w->sending = true;
	for (nodeid i = 0; i < NODES; i++)
		node_start(w, i);
	step(w);
	(void)kernetdev_sim_run(w->sim, kernetdev_sim_now(w->sim) + RUN_NS);
	w->sending = false;
	kernetdev_sim_quiet(w->sim);
	kernetdev_sim_heal(w->sim);
	for (nodeid i = 0; i < NODES; i++)
		comm_view_set(w->node[i].c, w->view + 1, all, NODES);
	(void)kernetdev_sim_run(w->sim, kernetdev_sim_now(w->sim) + QUIET_NS);
	if (!restarts)
		check_ways(w);
	check_calls(w);
	for (nodeid i = 0; i < NODES; i++)
		for (nodeid j = 0; j < NODES; j++) {
			struct kernetdev_stat s;

			if (kernetdev_stat_get(comm_kernetdev(w->node[i].c), j, 0, &s) == 0) {
				connects += s.connects;
				resent += s.resent;
			}
		}
	for (nodeid i = 0; i < NODES; i++)
		comm_stop(w->node[i].c);
	for (nodeid i = 0; i < NODES; i++)
		comm_free(w->node[i].c);
	kernetdev_sim_free(w->sim);
	if (w->bad || seed % 50 == 0)
		printf("# seed %llu%s: %llu messages, %u calls (%llu stale), %llu connections, "
		       "%llu "
		       "sent again, %llu views, %llu times full\n",
		       (unsigned long long)seed, restarts ? " with restarts" : "",
		       (unsigned long long)w->n_sent, w->calls, (unsigned long long)w->n_stale,
		       (unsigned long long)connects, (unsigned long long)resent,
		       (unsigned long long)w->view, (unsigned long long)w->n_again);
	good = !w->bad;
	free(w);
	return good;
}

int main(int argc, char **argv)
{
	u64 runs = argc > 1 ? strtoull(argv[1], NULL, 0) : 30;
	u64 first = argc > 2 ? strtoull(argv[2], NULL, 0) : 1;
	unsigned failed[2] = {0};

	krg_log_set_level(argc > 2 ? KRG_LOG_DEBUG : KRG_LOG_ERROR);
	for (u64 seed = first; seed < first + runs; seed++) {
		failed[0] += !run(seed, false);
		failed[1] += !run(seed, true);
	}
	tap_eq(failed[0], 0, "%llu seeds: once and in order, over breaks, cuts and views",
	       (unsigned long long)runs);
	tap_eq(failed[1], 0, "%llu seeds with restarts: in order, each call ends once",
	       (unsigned long long)runs);
	return tap_done();
}
