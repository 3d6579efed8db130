/* The simulated driver: pipes of bytes between nodes of one process, in virtual time, from one
 * seed.  Bytes are delayed, come in pieces, and are lost with their connection, as with TCP. */
#include "kernetdev_impl.h"
#include "log.h"

#define PIPE_ROOM (128u << 10)
#define HELD_NS	  (50 * KRG_MSEC) /* a partition is looked at again */
#define PIECE_MAX (16u << 10)

enum sim_event_kind { EV_ARRIVE, EV_CONNECT, EV_NOTIFY, EV_TICK, EV_BREAK, EV_CALL };

/* What is under way; no data: the end. */
struct sim_piece {
	struct sim_piece *next;
	u64 time_ns;
	size_t len;
	u8 data[];
};

struct sim_pipe {
	struct sim_pipe *next, **prev; /* all of the net */
	struct sim_net *net;	       /* NULL: its node is gone */
	struct sim_pipe *peer;	       /* NULL: not connected, or gone */
	struct kd_conn *conn;
	nodeid self, to;
	struct sim_piece *out, **out_last; /* to the peer, in order */
	unsigned refs;			   /* events, the node, the peer */
	struct krg_buf rx;
	size_t rx_at, in_flight; /* bytes to the peer that it has not read */
	u64 last_ns;		 /* nothing arrives before what was sent before it */
	bool want_in, want_out, connected, ended, notified, closed;
	int broken; /* errno */
};

struct sim_net {
	struct kernetdev *kd;
	struct kernetdev_simnet *sim;
	nodeid node;
	bool started;
	unsigned refs;
	u64 tick_ns; /* when the next tick is; UINT64_MAX: none */
	struct sim_pipe *pipes;
};

struct sim_event {
	u64 time_ns, order;
	enum sim_event_kind kind;
	struct sim_pipe *pipe;
	struct sim_net *net;
	void (*fn)(void *);
	void *ctx;
};

struct kernetdev_simnet {
	struct kernetdev_sim_config config;
	struct krg_clock clock;
	struct krg_rng rng;
	u64 now_ns, order;
	struct sim_event *heap;
	size_t events, room;
	struct sim_net *nodes[KRG_NODES_MAX];
	u8 side[KRG_NODES_MAX];
	bool quiet;
};

/* --- events --- */

static bool before(const struct sim_event *a, const struct sim_event *b)
{
	return a->time_ns != b->time_ns ? a->time_ns < b->time_ns : a->order < b->order;
}

static void swap(struct sim_event *a, struct sim_event *b)
{
	struct sim_event t = *a;

	*a = *b;
	*b = t;
}

static void event_add(struct kernetdev_simnet *sim, struct sim_event e)
{
	size_t i = sim->events++;

	if (sim->events > sim->room) {
		sim->room = sim->room * 2 + 64;
		sim->heap = krg_xrealloc(sim->heap, sim->room * sizeof(e));
	}
	e.order = sim->order++;
	if (e.pipe != NULL)
		e.pipe->refs++;
	if (e.net != NULL)
		e.net->refs++;
	sim->heap[i] = e;
	for (; i > 0 && before(&sim->heap[i], &sim->heap[(i - 1) / 2]); i = (i - 1) / 2)
		swap(&sim->heap[i], &sim->heap[(i - 1) / 2]);
}

static struct sim_event event_take(struct kernetdev_simnet *sim)
{
	struct sim_event e = sim->heap[0];
	size_t i = 0;

	sim->heap[0] = sim->heap[--sim->events];
	for (;;) {
		size_t least = i;

		for (size_t c = 2 * i + 1; c <= 2 * i + 2 && c < sim->events; c++)
			if (before(&sim->heap[c], &sim->heap[least]))
				least = c;
		if (least == i)
			return e;
		swap(&sim->heap[i], &sim->heap[least]);
		i = least;
	}
}

static u64 delay(struct kernetdev_simnet *sim)
{
	u64 min = sim->config.delay_min_ns;

	return min + krg_rng_below(&sim->rng, sim->config.delay_max_ns - min + 1);
}

static void pipe_unref(struct sim_pipe *p)
{
	if (p == NULL || --p->refs > 0)
		return;
	while (p->out != NULL) {
		struct sim_piece *c = p->out;

		p->out = c->next;
		free(c);
	}
	krg_buf_fini(&p->rx);
	pipe_unref(p->peer);
	free(p);
}

static void net_unref(struct sim_net *net)
{
	if (net != NULL && --net->refs == 0)
		free(net);
}

/* --- pipes --- */

static struct sim_pipe *pipe_new(struct sim_net *net, nodeid to)
{
	struct sim_pipe *p = krg_xalloc(sizeof(*p));

	p->net = net;
	p->self = net->node;
	p->to = to;
	p->out_last = &p->out;
	p->refs = 1;
	p->next = net->pipes;
	p->prev = &net->pipes;
	if (p->next != NULL)
		p->next->prev = &p->next;
	net->pipes = p;
	return p;
}

static void pipe_unlink(struct sim_pipe *p)
{
	*p->prev = p->next;
	if (p->next != NULL)
		p->next->prev = p->prev;
	p->net = NULL;
	p->conn = NULL;
	p->closed = true;
}

static size_t rx_left(const struct sim_pipe *p)
{
	return p->rx.len - p->rx_at;
}

static bool can_read(const struct sim_pipe *p)
{
	return rx_left(p) > 0 || p->ended || p->broken != 0;
}

static bool can_write(const struct sim_pipe *p)
{
	return p->broken != 0 || (p->connected && p->in_flight < PIPE_ROOM);
}

static void notify(struct sim_pipe *p)
{
	if (p->net == NULL || p->notified ||
	    !((p->want_in && can_read(p)) || (p->want_out && can_write(p))))
		return;
	p->notified = true;
	event_add(p->net->sim,
		  (struct sim_event){.time_ns = p->net->sim->now_ns, .kind = EV_NOTIFY, .pipe = p});
}

static void break_pipe(struct sim_pipe *p, int code)
{
	if (p == NULL || p->broken != 0)
		return;
	p->broken = code;
	krg_buf_reset(&p->rx);
	p->rx_at = 0;
	notify(p);
}

/* To the peer, behind everything that is under way. */
static void to_peer(struct sim_pipe *p, const u8 *data, size_t len)
{
	struct kernetdev_simnet *sim = p->net->sim;
	struct sim_piece *c = krg_xalloc(sizeof(*c) + len);

	p->last_ns = KRG_MAX(p->last_ns, sim->now_ns + delay(sim));
	c->time_ns = p->last_ns;
	c->len = len;
	if (len > 0)
		memcpy(c->data, data, len);
	*p->out_last = c;
	p->out_last = &c->next;
	event_add(sim, (struct sim_event){.time_ns = p->last_ns, .kind = EV_ARRIVE, .pipe = p});
}

static bool is_cut(const struct kernetdev_simnet *sim, nodeid a, nodeid b)
{
	return sim->side[a] != sim->side[b];
}

static void tick_at(struct sim_net *net, u64 at)
{
	struct kernetdev_simnet *sim = net->sim;

	at = KRG_MAX(at, sim->now_ns);
	if (!net->started || at >= net->tick_ns)
		return;
	net->tick_ns = at;
	event_add(sim, (struct sim_event){.time_ns = at, .kind = EV_TICK, .net = net});
}

static void after_event(struct sim_net *net, bool due)
{
	u64 at = kd_on_tick(net->kd, due);

	if (at != UINT64_MAX)
		tick_at(net, at);
}

/* --- what happens --- */

static void on_arrive(struct kernetdev_simnet *sim, struct sim_pipe *p)
{
	struct sim_pipe *to = p->peer;

	while (p->out != NULL && p->out->time_ns <= sim->now_ns) {
		struct sim_piece *c = p->out;

		if (is_cut(sim, p->self, p->to)) { /* the sender's kernel sends it again */
			event_add(sim, (struct sim_event){.time_ns = sim->now_ns + HELD_NS,
							  .kind = EV_ARRIVE,
							  .pipe = p});
			return;
		}
		p->out = c->next;
		if (p->out == NULL)
			p->out_last = &p->out;
		if (to != NULL && to->broken == 0 && c->len == 0)
			to->ended = true;
		else if (to != NULL && to->broken == 0)
			krg_buf_put(&to->rx, c->data, c->len);
		free(c);
	}
	if (to != NULL)
		notify(to);
}

static void on_connect(struct kernetdev_simnet *sim, struct sim_pipe *p)
{
	struct sim_net *to = sim->nodes[p->to];
	struct sim_pipe *q;

	if (p->net == NULL || p->broken != 0)
		return;
	if (is_cut(sim, p->net->node, p->to))
		return; /* nothing is heard of it: the handshake's time runs out */
	if (to == NULL || !to->started) {
		break_pipe(p, ECONNREFUSED);
		p->want_out = true;
		notify(p);
		return;
	}
	q = pipe_new(to, p->net->node);
	q->connected = p->connected = true;
	q->peer = p;
	p->peer = q;
	q->refs++;
	p->refs++;
	kd_on_accept(to->kd, q);
	after_event(to, false);
	notify(p);
}

static void on_notify(struct sim_pipe *p)
{
	struct sim_net *net = p->net;

	p->notified = false;
	if (net == NULL || p->conn == NULL)
		return;
	net->refs++;
	kd_on_event(p->conn, p->want_in && can_read(p), p->want_out && can_write(p));
	notify(p);
	after_event(net, false);
	net_unref(net);
}

static void break_at_random(struct kernetdev_simnet *sim)
{
	struct sim_pipe *found = NULL;
	u64 n = 0;

	for (unsigned i = 0; i < KRG_NODES_MAX; i++) {
		if (sim->nodes[i] == NULL)
			continue;
		for (struct sim_pipe *p = sim->nodes[i]->pipes; p != NULL; p = p->next)
			if (krg_rng_below(&sim->rng, ++n) == 0)
				found = p;
	}
	if (found == NULL)
		return;
	break_pipe(found->peer, ECONNRESET);
	break_pipe(found, ECONNRESET);
}

static void break_later(struct kernetdev_simnet *sim)
{
	if (sim->config.break_mean_ns == 0)
		return;
	event_add(sim, (struct sim_event){
			       .time_ns = sim->now_ns + 1 +
					  krg_rng_below(&sim->rng, 2 * sim->config.break_mean_ns),
			       .kind = EV_BREAK});
}

static void run_one(struct kernetdev_simnet *sim)
{
	struct sim_event e = event_take(sim);

	sim->now_ns = KRG_MAX(sim->now_ns, e.time_ns);
	switch (e.kind) {
	case EV_ARRIVE:
		on_arrive(sim, e.pipe);
		break;
	case EV_CONNECT:
		on_connect(sim, e.pipe);
		break;
	case EV_NOTIFY:
		on_notify(e.pipe);
		break;
	case EV_TICK:
		if (e.net->started && e.net->tick_ns == e.time_ns) {
			e.net->tick_ns = UINT64_MAX;
			after_event(e.net, true);
		}
		break;
	case EV_BREAK:
		if (!sim->quiet)
			break_at_random(sim);
		break_later(sim);
		break;
	case EV_CALL:
		e.fn(e.ctx);
		break;
	}
	pipe_unref(e.pipe);
	net_unref(e.net);
}

/* --- the driver --- */

static int sim_open(struct kernetdev *kd, void *driver_ctx, const char *addr, u16 port,
		    void **ret_net, struct krg_err *err)
{
	struct kernetdev_simnet *sim = driver_ctx;
	struct sim_net *net;

	(void)addr;
	(void)port;
	if (sim->nodes[kd->config.self] != NULL)
		return krg_err_set(err, -EADDRINUSE, "node %u", kd->config.self);
	net = krg_xalloc(sizeof(*net));
	net->kd = kd;
	net->sim = sim;
	net->node = kd->config.self;
	net->refs = 1;
	net->tick_ns = UINT64_MAX;
	sim->nodes[net->node] = net;
	krg_rng_init(&kd->rng, krg_rng_u64(&sim->rng)); /* so that the seed decides everything */
	*ret_net = net;
	return 0;
}

static int sim_start(void *arg, struct krg_err *err)
{
	struct sim_net *net = arg;

	(void)err;
	net->started = true;
	tick_at(net, 0);
	return 0;
}

static void sim_stop(void *arg)
{
	struct sim_net *net = arg;

	net->started = false;
}

static void sim_free(void *arg)
{
	struct sim_net *net = arg;

	ASSERT(net->pipes == NULL);
	net->started = false;
	net->sim->nodes[net->node] = NULL;
	net_unref(net);
}

static u16 sim_port(void *arg)
{
	const struct sim_net *net = arg;

	return net->node + 1;
}

static int sim_addr_check(const char *addr, u16 port)
{
	return strcmp(addr, "sim") == 0 && port >= 1 && port <= KRG_NODES_MAX ? 0 : -EINVAL;
}

static int sim_connect(void *arg, const char *addr, u16 port, struct kd_conn *conn, void **ret_pipe)
{
	struct sim_net *net = arg;
	struct sim_pipe *p = pipe_new(net, port - 1);

	(void)addr;
	p->conn = conn;
	p->want_out = true;
	event_add(net->sim, (struct sim_event){.time_ns = net->sim->now_ns + delay(net->sim),
					       .kind = EV_CONNECT,
					       .pipe = p});
	*ret_pipe = p;
	return 0;
}

static void sim_attach(void *arg, struct kd_conn *conn)
{
	struct sim_pipe *p = arg;

	p->conn = conn;
}

static ssize_t sim_write(void *arg, const struct iovec *iov, int n)
{
	struct sim_pipe *p = arg;
	struct krg_rng *rng = &p->net->sim->rng;
	ssize_t done = 0;

	if (p->broken != 0)
		return -p->broken;
	if (n == 0)
		return p->connected ? 0 : -ENOTCONN;
	for (int i = 0; i < n; i++) {
		size_t at = 0;

		while (at < iov[i].iov_len) {
			size_t len = KRG_MIN(iov[i].iov_len - at, (size_t)PIECE_MAX);

			if (p->in_flight >= PIPE_ROOM)
				return done > 0 ? done : -EAGAIN;
			if (krg_rng_once_in(rng, 4)) /* pieces end anywhere */
				len = 1 + krg_rng_below(rng, len);
			to_peer(p, (const u8 *)iov[i].iov_base + at, len);
			p->in_flight += len;
			at += len;
			done += (ssize_t)len;
			if (krg_rng_once_in(rng, 20)) /* and so do writes */
				return done;
		}
	}
	return done;
}

static ssize_t sim_read(void *arg, void *to, size_t n)
{
	struct sim_pipe *p = arg;
	size_t len = KRG_MIN(n, rx_left(p));

	if (p->broken != 0)
		return -p->broken;
	if (len == 0)
		return p->ended ? 0 : -EAGAIN;
	if (krg_rng_once_in(&p->net->sim->rng, 8))
		len = 1 + krg_rng_below(&p->net->sim->rng, len);
	memcpy(to, p->rx.data + p->rx_at, len);
	p->rx_at += len;
	if (rx_left(p) == 0) {
		krg_buf_reset(&p->rx);
		p->rx_at = 0;
	}
	if (p->peer != NULL) {
		p->peer->in_flight -= KRG_MIN(len, p->peer->in_flight);
		notify(p->peer);
	}
	return (ssize_t)len;
}

static void sim_interest(void *arg, bool in, bool out)
{
	struct sim_pipe *p = arg;

	p->want_in = in;
	p->want_out = out;
	notify(p);
}

static void sim_shutdown(void *arg)
{
	struct sim_pipe *p = arg;

	if (p->broken != 0)
		return;
	if (p->connected)
		to_peer(p, NULL, 0);
	break_pipe(p, ECONNRESET);
}

static void sim_close(void *arg)
{
	struct sim_pipe *p = arg;
	struct sim_pipe *peer = p->peer;

	sim_shutdown(p);
	pipe_unlink(p);
	if (peer != NULL) { /* it forgets us; we keep it until all that is under way has arrived */
		peer->peer = NULL;
		p->refs--;
	}
	pipe_unref(p);
}

static void sim_poke(void *arg)
{
	struct sim_net *net = arg;

	tick_at(net, 0);
}

static bool sim_on_io(void *arg)
{
	(void)arg;
	return true;
}

static void sim_name_get(void *arg, char *name, size_t max)
{
	const struct sim_pipe *p = arg;

	(void)snprintf(name, max, "node %u", p->to);
}

const struct kernetdev_driver kernetdev_sim = {
	.name = "sim",
	.open = sim_open,
	.start = sim_start,
	.stop = sim_stop,
	.free = sim_free,
	.port = sim_port,
	.addr_check = sim_addr_check,
	.connect = sim_connect,
	.attach = sim_attach,
	.write = sim_write,
	.read = sim_read,
	.interest = sim_interest,
	.shutdown = sim_shutdown,
	.close = sim_close,
	.poke = sim_poke,
	.on_io = sim_on_io,
	.name_get = sim_name_get,
};

/* --- for tests --- */

static u64 clock_now(void *ctx)
{
	const struct kernetdev_simnet *sim = ctx;

	return sim->now_ns;
}

struct kernetdev_simnet *kernetdev_sim_new(const struct kernetdev_sim_config *config)
{
	struct kernetdev_simnet *sim = krg_xalloc(sizeof(*sim));

	ASSERT(config->delay_max_ns >= config->delay_min_ns);
	sim->config = *config;
	sim->now_ns = KRG_NSEC;
	krg_rng_init(&sim->rng, config->seed);
	sim->clock = (struct krg_clock){clock_now, sim};
	krg_clock_set(&sim->clock);
	break_later(sim);
	return sim;
}

void kernetdev_sim_free(struct kernetdev_simnet *sim)
{
	for (unsigned i = 0; i < KRG_NODES_MAX; i++)
		ASSERT(sim->nodes[i] == NULL);
	while (sim->events > 0) {
		struct sim_event e = event_take(sim);

		pipe_unref(e.pipe);
		net_unref(e.net);
	}
	krg_clock_set(NULL);
	free(sim->heap);
	free(sim);
}

u64 kernetdev_sim_run(struct kernetdev_simnet *sim, u64 until_ns)
{
	u64 n = 0;

	for (; sim->events > 0 && sim->heap[0].time_ns <= until_ns; n++)
		run_one(sim);
	sim->now_ns = KRG_MAX(sim->now_ns, until_ns);
	return n;
}

u64 kernetdev_sim_now(const struct kernetdev_simnet *sim)
{
	return sim->now_ns;
}

void kernetdev_sim_partition(struct kernetdev_simnet *sim, nodeid node, u8 side)
{
	sim->side[node] = side;
}

void kernetdev_sim_heal(struct kernetdev_simnet *sim)
{
	memset(sim->side, 0, sizeof(sim->side));
}

void kernetdev_sim_break_one(struct kernetdev_simnet *sim)
{
	break_at_random(sim);
}

void kernetdev_sim_quiet(struct kernetdev_simnet *sim)
{
	sim->quiet = true;
}

void kernetdev_sim_at(struct kernetdev_simnet *sim, u64 time_ns, void (*fn)(void *), void *ctx)
{
	event_add(sim, (struct sim_event){.time_ns = KRG_MAX(time_ns, sim->now_ns),
					  .kind = EV_CALL,
					  .fn = fn,
					  .ctx = ctx});
}
