/* What happens on the I/O context: accepting, connecting, handshakes, letting go of dead
 * connections, time. */
#include "clock.h"
#include "fault.h"
#include "kernetdev_impl.h"
#include "log.h"

static const struct {
	const char *name;
	u32 next;
} states[] = {
#define B(s) (1u << KD_CONN_##s)
	[KD_CONN_CONNECTING] = {"connecting", B(SHAKE) | B(DYING)},
	[KD_CONN_SHAKE] = {"handshake", B(PENDING) | B(UP) | B(DYING)},
	[KD_CONN_PENDING] = {"pending", B(UP) | B(DYING)},
	[KD_CONN_UP] = {"up", B(DYING)},
	[KD_CONN_DYING] = {"dying", 0},
#undef B
};
_Static_assert(KRG_NELEM(states) == KD_CONN_STATE_NR, "a row for each state");

static void move(struct kd_conn *c, enum kd_conn_state to)
{
	ASSERT(states[c->state].next >> to & 1);
	c->state = to;
}

static struct kd_conn *conn_new(struct kernetdev *kd, bool outbound)
{
	struct kd_conn *c = krg_xalloc(sizeof(*c));

	c->kd = kd;
	c->outbound = outbound;
	c->state = outbound ? KD_CONN_CONNECTING : KD_CONN_SHAKE;
	c->deadline_ns = krg_clock_now_ns() + KD_SHAKE_NS;
	c->shake = krg_xalloc(sizeof(*c->shake));
	c->next = kd->conns;
	kd->conns = c;
	if (!outbound)
		kd->strangers++;
	kd_tick_arm(kd, c->deadline_ns);
	return c;
}

static void shake_end(struct kd_conn *c)
{
	if (c->shake != NULL && !c->outbound)
		c->kd->strangers--;
	free(c->shake);
	c->shake = NULL;
}

static void conn_free(struct kd_conn *c)
{
	struct kd_conn **at = &c->kd->conns;

	while (*at != c)
		at = &(*at)->next;
	*at = c->next;
	shake_end(c);
	if (c->pipe != NULL)
		c->kd->drv->close(c->pipe);
	free(c->rbuf);
	free(c->rmsg);
	free(c);
}

void kd_conn_free_all(struct kernetdev *kd)
{
	while (kd->conns != NULL)
		conn_free(kd->conns);
}

/* --- failures --- */

static void retry_later(struct kd_link *l, bool grow)
{
	struct kernetdev *kd = l->kd;
	u64 wait = l->backoff_ns / 2 + krg_rng_below(&kd->rng, l->backoff_ns);

	/* Both ends notice a break at once: the lower number goes first. */
	if (kd->config.self > l->peer)
		wait += 2 * KD_BACKOFF_MIN;
	if (grow)
		l->backoff_ns = KRG_MIN(l->backoff_ns * 2, (u64)KD_BACKOFF_MAX);
	l->retry_ns = krg_clock_now_ns() + wait;
	kd_tick_arm(kd, l->retry_ns);
}

/* Somebody may make a lot of these: not more than some lines a second. */
static void log_stranger(struct kd_conn *c, const struct krg_err *err)
{
	struct kernetdev *kd = c->kd;
	char name[80];
	u64 now = krg_clock_now_ns();

	if (now - kd->strange_log_ns > KRG_NSEC) {
		if (kd->strange_dropped > KD_STRANGE_LOGS)
			LOG_W("kernetdev", "%u more connections refused",
			      kd->strange_dropped - KD_STRANGE_LOGS);
		kd->strange_log_ns = now;
		kd->strange_dropped = 0;
	}
	if (++kd->strange_dropped > KD_STRANGE_LOGS)
		return;
	kd->drv->name_get(c->pipe, name, sizeof(name));
	LOG_W("kernetdev", "connection from %s refused: %s", name, err->text);
}

static void push_out(struct kd_conn *c)
{
	while (c->shake_sent < c->shake->out_len) {
		struct iovec iov = {c->shake->out + c->shake_sent,
				    c->shake->out_len - c->shake_sent};
		ssize_t n = c->kd->drv->write(c->pipe, &iov, 1);

		if (n < 0)
			return;
		c->shake_sent += (size_t)n;
	}
	c->shake_sent = c->shake->out_len = 0;
}

/* A connection that never came up ends. */
static void shake_fail(struct kd_conn *c, struct krg_err *err)
{
	struct kernetdev *kd = c->kd;
	struct kd_link *l = c->link;
	bool attempt = l != NULL && l->attempt == c;

	if (c->state == KD_CONN_SHAKE && c->shake->state != KD_SHAKE_DONE &&
	    err->code != -ETIMEDOUT && err->code != -ECONNRESET && err->code != -ENOTCONN) {
		/* A reason that is of use to the other end, in the hope that it takes a few bytes. */
		kd_shake_refuse(c->shake, err);
		push_out(c);
	}
	if (attempt)
		l->attempt = NULL;
	if (attempt && err->code != -EALREADY) {
		if (l->backoff_ns == KD_BACKOFF_MIN) /* the first of a row */
			LOG_W("kernetdev", "node %u: %s", l->peer, err->text);
		kd->config.up->unreachable(kd->config.ctx, l->peer, l->chan, err);
	} else if (!c->outbound && err->code != -EALREADY && err->code != -ECONNRESET) {
		log_stranger(c, err);
	}
	if (attempt)
		retry_later(l, err->code != -EALREADY);
	conn_free(c);
}

static void attempt_drop(struct kd_link *l)
{
	struct kd_conn *c = TAKE_PTR(l->attempt);

	if (c != NULL)
		conn_free(c);
}

/* --- the session: do both ends mean the same one? --- */

/* Both ends know the same four numbers here, and so come to the same answer. */
static bool session_agrees(const struct kd_shake *s)
{
	return (s->peer_known == 0 || s->peer_known == s->incarnation) &&
	       (s->known == 0 || s->known == s->peer_incarnation);
}

/* The handshake is good.  Makes the session the one that was agreed on.  False: what was said in
 * the handshake is not true any more. */
static bool TSA(requires_capability(lc_link))
	session_adopt_locked(struct kd_link *l, const struct kd_shake *s, bool *ret_reset)
{
	bool broken = false;

	*ret_reset = false;
	if (s->incarnation != l->incarnation || s->known != l->known)
		return false;
	if (!session_agrees(s)) {
		*ret_reset = l->known != 0;
		kd_link_reset_locked(l, l->known != 0);
		broken = s->peer_received != 0;
	}
	l->known = s->peer_incarnation;
	if (!broken && s->peer_received >= l->acked &&
	    kd_link_acked_locked(l, s->peer_received, 0) == 0)
		return true;
	/* The peer has what was never sent, or lacks what it had: start again. */
	*ret_reset = true;
	kd_link_renew_locked(l);
	return false;
}

static void tell_reset(struct kd_link *l)
{
	struct kernetdev *kd = l->kd;

	LOG_I("kernetdev", "link %u of node %u: a new session, the old one is lost", l->chan,
	      l->peer);
	kd->config.up->reset(kd->config.ctx, l->peer, l->chan, atomic_load(&l->session));
}

/* Takes the link's old connection away from it, if nobody is using it. */
static bool link_vacate(struct kd_link *l, int code)
{
	struct kd_conn *old;

	link_lock(&l->lock);
	old = l->conn;
	if (old != NULL) {
		kd_conn_kill_locked(old, code);
		if (old->reading || l->writing) {
			link_unlock(&l->lock);
			return false;
		}
		kd_link_detach_locked(l);
	}
	link_unlock(&l->lock);
	if (old != NULL) {
		move(old, KD_CONN_DYING);
		conn_free(old);
	}
	return true;
}

/* The last step of the handshake, after the reset (if any) has been told. */
static void conn_up(struct kd_conn *c)
{
	struct kd_link *l = c->link;
	bool same;

	link_lock(&l->lock);
	same = l->incarnation == c->shake->incarnation && l->known == c->shake->peer_incarnation;
	if (same) {
		kd_link_attach_locked(l, c);
		move(c, KD_CONN_UP);
		kd_conn_interest_locked(c);
		l->backoff_ns = KD_BACKOFF_MIN;
		shake_end(c);
		kd_link_flush_locked(l);
	}
	link_unlock(&l->lock);
	if (!same) { /* forgotten this moment */
		conn_free(c);
		return;
	}
	LOG_D("kernetdev", "link %u of node %u is up", l->chan, l->peer);
}

/* Acceptor: the peer is who it says, and the link is free. */
static void link_accept(struct kd_conn *c)
{
	struct kd_link *l = c->link;
	struct krg_err err;
	bool good, reset;
	u64 received;

	link_lock(&l->lock);
	good = session_adopt_locked(l, c->shake, &reset);
	received = l->received;
	link_unlock(&l->lock);
	if (reset)
		tell_reset(l);
	if (!good) {
		(void)krg_err_set(&err, -EALREADY, "things changed meanwhile, try again");
		shake_fail(c, &err);
		return;
	}
	kd_shake_accept(c->shake, received);
	push_out(c);
	if (c->shake->out_len > 0) { /* 60 bytes that a new connection does not take */
		(void)krg_err_set(&err, -ECONNRESET, "ACCEPT could not be sent");
		shake_fail(c, &err);
		return;
	}
	conn_up(c);
}

static void decide_link(struct kd_conn *c)
{
	struct kd_link *l = c->link;
	struct krg_err err;

	if (l->attempt != NULL && l->attempt->state == KD_CONN_SHAKE &&
	    c->kd->config.self < l->peer) {
		(void)krg_err_set(&err, -EALREADY, "node %u is connecting itself",
				  c->kd->config.self);
		shake_fail(c, &err);
		return;
	}
	attempt_drop(l);
	if (link_vacate(l, -ECONNRESET)) {
		link_accept(c);
		return;
	}
	if (c->state == KD_CONN_SHAKE)
		move(c, KD_CONN_PENDING);
	c->kd->drv->interest(c->pipe, false, false);
}

static void decide_raw(struct kd_conn *c)
{
	struct kernetdev *kd = c->kd;
	struct krg_err err;
	int fd;

	if (kd->drv->detach == NULL ||
	    kd->config.up->raw_check(kd->config.ctx, c->shake->peer, c->shake->op) < 0) {
		(void)krg_err_set(&err, -ENOSYS, "raw op %#x", c->shake->op);
		shake_fail(c, &err);
		return;
	}
	kd_shake_accept(c->shake, 0);
	push_out(c);
	if (c->shake->out_len > 0) {
		conn_free(c);
		return;
	}
	fd = kd->drv->detach(TAKE_PTR(c->pipe));
	kd->config.up->raw(kd->config.ctx, c->shake->peer, c->shake->op, c->shake->tag, fd);
	conn_free(c);
}

static void decide_probe(struct kd_conn *c)
{
	const struct kernetdev_config *config = &c->kd->config;
	struct krg_err err = {.node = KRG_NODE_NONE};

	if (config->up->probe_check != NULL &&
	    config->up->probe_check(config->ctx, c->shake->peer, c->shake->tag, &err) < 0) {
		shake_fail(c, &err);
		return;
	}
	kd_shake_accept(c->shake, 0);
	push_out(c);
	conn_free(c);
}

static int on_identify(struct kd_conn *c, struct krg_err *err)
{
	struct kd_shake *s = c->shake;
	struct kd_link *l;
	u64 incarnation, known;

	if (s->kind != KD_SHAKE_LINK)
		return kd_shake_challenge(s, 0, 0, err);
	if (s->chan >= KERNETDEV_CHAN_NR)
		return krg_err_set(err, -EBADMSG, "channel %u", s->chan);
	l = kd_link_get(c->kd, s->peer, s->chan);
	c->link = l;
	if (l->attempt != NULL && l->attempt->state == KD_CONN_SHAKE &&
	    c->kd->config.self < l->peer)
		return krg_err_set(err, -EALREADY, "node %u is connecting itself",
				   c->kd->config.self);
	link_lock(&l->lock);
	incarnation = l->incarnation;
	known = l->known;
	link_unlock(&l->lock);
	return kd_shake_challenge(s, incarnation, known, err);
}

/* Connector: what we last received counts only if it is the same session. */
static void on_respond(struct kd_conn *c)
{
	struct kd_link *l = c->link;
	u64 received;

	link_lock(&l->lock);
	received = session_agrees(c->shake) ? l->received : 0;
	link_unlock(&l->lock);
	kd_shake_proof(c->shake, received);
}

static void on_accepted(struct kd_conn *c)
{
	struct kd_link *l = c->link;
	struct krg_err err;
	bool good, reset;

	ASSERT(l->attempt == c);
	l->attempt = NULL;
	if (!link_vacate(l, -ECONNRESET)) { /* cannot be: an attempt is made only without one */
		conn_free(c);
		return;
	}
	link_lock(&l->lock);
	good = session_adopt_locked(l, c->shake, &reset);
	link_unlock(&l->lock);
	if (reset)
		tell_reset(l);
	if (good) {
		conn_up(c);
		return;
	}
	(void)krg_err_set(&err, -ECONNRESET, "things changed meanwhile");
	l->attempt = c;
	shake_fail(c, &err);
}

/* What the handshake asks of us.  True: it goes on; false: c is not in handshake any more, or
 * gone. */
static bool shake_step(struct kd_conn *c)
{
	struct krg_err err;
	int r = 0;

	switch (c->shake->state) {
	case KD_SHAKE_IDENTIFY:
		r = on_identify(c, &err);
		break;
	case KD_SHAKE_DECIDE:
		if (c->shake->kind == KD_SHAKE_LINK) {
			decide_link(c);
			return false;
		}
		if (c->shake->kind == KD_SHAKE_RAW) {
			decide_raw(c);
			return false;
		}
		decide_probe(c);
		return false;
	case KD_SHAKE_RESPOND:
		on_respond(c);
		break;
	case KD_SHAKE_DONE:
		on_accepted(c);
		return false;
	default:
		break;
	}
	if (r < 0) {
		shake_fail(c, &err);
		return false;
	}
	return true;
}

static void shake_interest(struct kd_conn *c)
{
	c->kd->drv->interest(c->pipe, true, c->shake->out_len > 0);
}

static void on_shake(struct kd_conn *c)
{
	struct krg_err err;

	push_out(c);
	for (;;) {
		u8 buf[KD_SHAKE_FRAME];
		size_t want = kd_shake_want(c->shake);
		ssize_t n = c->kd->drv->read(c->pipe, buf, KRG_MIN(want, sizeof(buf)));

		if (n == -EAGAIN)
			break;
		if (n <= 0) {
			(void)krg_err_set(&err, -ECONNRESET, "closed in the handshake");
			shake_fail(c, &err);
			return;
		}
		if (kd_shake_in(c->shake, buf, (size_t)n, &err) < 0) {
			shake_fail(c, &err);
			return;
		}
		if (!shake_step(c))
			return;
		push_out(c);
	}
	shake_interest(c);
}

static void on_connected(struct kd_conn *c)
{
	struct kd_link *l = c->link;
	struct kernetdev *kd = c->kd;
	struct kd_shake *s = c->shake;
	struct krg_err err;
	struct iovec none = {0};
	ssize_t r = FAULT_POINT(NET_CONNECT) ? -ECONNREFUSED : kd->drv->write(c->pipe, &none, 0);

	if (r < 0) {
		(void)krg_err_set(&err, (int)r, "connect");
		shake_fail(c, &err);
		return;
	}
	s->kind = KD_SHAKE_LINK;
	s->chan = l->chan;
	s->peer = l->peer;
	link_lock(&l->lock);
	s->incarnation = l->incarnation;
	s->known = l->known;
	link_unlock(&l->lock);
	if (kd_shake_connector_start(s, kd->config.self, kd->config.cluster, kd->config.key, &err) <
	    0) {
		shake_fail(c, &err);
		return;
	}
	move(c, KD_CONN_SHAKE);
	on_shake(c);
}

void kd_on_event(struct kd_conn *c, bool in, bool out)
{
	struct kd_link *l = c->link;

	switch (c->state) {
	case KD_CONN_CONNECTING:
		on_connected(c);
		return;
	case KD_CONN_SHAKE:
		on_shake(c);
		return;
	case KD_CONN_UP:
		break;
	default:
		return;
	}
	link_lock(&l->lock);
	if (out && c->out_blocked && !c->dead) {
		c->out_blocked = false;
		kd_conn_interest_locked(c);
		kd_link_flush_locked(l);
	}
	if (!in || c->dead || c->reading) {
		link_unlock(&l->lock);
		return;
	}
	c->reading = true;
	link_unlock(&l->lock);
	(void)kd_conn_read(c, false, 0);
	kd_conn_read_end(c);
}

void kd_on_accept(struct kernetdev *kd, void *pipe)
{
	struct kd_conn *c, *oldest = NULL;

	if (kd->strangers >= KD_STRANGERS_MAX) {
		for (c = kd->conns; c != NULL; c = c->next)
			if (c->state == KD_CONN_SHAKE && !c->outbound)
				oldest = c; /* the list has the newest first */
		/* Who floods us shall not keep others out, but a handshake needs some time. */
		if (oldest == NULL ||
		    krg_clock_now_ns() + KD_SHAKE_NS < oldest->deadline_ns + KD_SHAKE_GRACE_NS) {
			kd->drv->close(pipe);
			return;
		}
		conn_free(oldest);
	}
	c = conn_new(kd, false);
	c->pipe = pipe;
	kd->drv->attach(pipe, c);
	kd_shake_acceptor_init(c->shake, kd->config.self, kd->config.cluster, kd->config.key);
	shake_interest(c);
}

/* --- time --- */

static void link_connect(struct kd_link *l)
{
	struct kernetdev *kd = l->kd;
	struct kd_addr to;
	struct kd_conn *c;
	struct krg_err err;
	int r;

	links_lock(&kd->lock);
	to = kd->addr[l->peer];
	links_unlock(&kd->lock);
	if (!to.set)
		return; /* the peer must come to us */
	c = conn_new(kd, true);
	c->link = l;
	l->attempt = c;
	r = kd->drv->connect(kd->net, to.addr, to.port, c, &c->pipe);
	if (r < 0) {
		(void)krg_err_set(&err, r, "connect to %s port %u", to.addr, to.port);
		shake_fail(c, &err);
	}
}

static u64 link_on_tick(struct kd_link *l, u64 now)
{
	bool want, drop;

	link_lock(&l->lock);
	want = atomic_load(&l->wanted) && l->conn == NULL;
	drop = l->abort_attempt;
	l->abort_attempt = false;
	link_unlock(&l->lock);
	if (drop)
		attempt_drop(l);
	if (!want || l->attempt != NULL)
		return kd_link_tick(l, now);
	if (now < l->retry_ns)
		return l->retry_ns;
	link_connect(l);
	return UINT64_MAX;
}

static bool link_busy(struct kd_link *l)
{
	KRG_GUARD(link, &l->lock);
	return l->conn != NULL && (l->conn->reading || l->writing);
}

/* A dead connection that nobody uses is let go of; then one that waits for that comes up. */
static void reap(struct kernetdev *kd)
{
	struct kd_conn *c, *next;

	for (c = kd->conns; c != NULL; c = next) {
		struct kd_link *l = c->link;
		int code = 0;

		next = c->next;
		if (c->state != KD_CONN_UP)
			continue;
		link_lock(&l->lock);
		if (c->dead && !c->reading && !l->writing) {
			kd_link_detach_locked(l);
			code = c->dead_code;
		}
		link_unlock(&l->lock);
		if (code == 0)
			continue;
		LOG_I("kernetdev", "link %u of node %u is down: %s", l->chan, l->peer,
		      strerror(-code));
		move(c, KD_CONN_DYING);
		conn_free(c);
		retry_later(l, false);
	}
	for (c = kd->conns; c != NULL; c = next) {
		next = c->next;
		if (c->state == KD_CONN_PENDING && !link_busy(c->link)) {
			decide_link(c);
			next = kd->conns; /* others may be gone too */
		}
	}
}

static u64 conns_timeout(struct kernetdev *kd, u64 now)
{
	u64 when = UINT64_MAX;
	struct kd_conn *c, *next;

	for (c = kd->conns; c != NULL; c = next) {
		next = c->next;
		if (c->state >= KD_CONN_UP)
			continue;
		if (now >= c->deadline_ns) {
			struct krg_err err;

			(void)krg_err_set(&err, -ETIMEDOUT, "%s", states[c->state].name);
			shake_fail(c, &err);
			continue;
		}
		when = KRG_MIN(when, c->deadline_ns);
	}
	return when;
}

static void next_tick_min(struct kernetdev *kd, u64 at)
{
	u64 old = atomic_load(&kd->next_tick_ns);

	while (at < old && !atomic_compare_exchange_weak(&kd->next_tick_ns, &old, at))
		;
}

static void tick(struct kernetdev *kd, u64 now)
{
	u64 next, activity = 0;

	atomic_store(&kd->soon, false);
	atomic_store(&kd->next_tick_ns, UINT64_MAX);
	next = conns_timeout(kd, now);
	for (unsigned i = 0; i < KRG_NODES_MAX * KERNETDEV_CHAN_NR; i++) {
		struct kd_link *l =
			kd_link_find(kd, (nodeid)(i / KERNETDEV_CHAN_NR), i % KERNETDEV_CHAN_NR);

		if (l == NULL)
			continue;
		next = KRG_MIN(next, link_on_tick(l, now));
		activity += atomic_load_explicit(&l->activity, memory_order_relaxed);
	}
	/* While messages come, the next ACK will be wanted soon: better to look than to be woken. */
	if (activity != kd->activity)
		next = KRG_MIN(next, now + KD_ACK_DELAY_NS);
	kd->activity = activity;
	next_tick_min(kd, next);
	if (next <= now + KD_ACK_DELAY_NS)
		atomic_store(&kd->soon, true);
}

u64 kd_on_tick(struct kernetdev *kd, bool due)
{
	bool work;
	u64 now;

	if (atomic_load_explicit(&kd->reap_wanted, memory_order_relaxed) &&
	    atomic_exchange(&kd->reap_wanted, false))
		reap(kd);
	work = atomic_load_explicit(&kd->work_wanted, memory_order_relaxed) &&
	       atomic_exchange(&kd->work_wanted, false);
	if (work || due) {
		now = krg_clock_now_ns();
		if (now >= atomic_load(&kd->next_tick_ns))
			tick(kd, now);
		if (work || now >= kd->work_ns)
			kd->work_ns = kd->config.up->work(kd->config.ctx, now);
	}
	if (atomic_load(&kd->work_wanted) || atomic_load(&kd->reap_wanted))
		return 0; /* what was wanted by what was just done */
	return KRG_MIN(kd->work_ns, atomic_load(&kd->next_tick_ns));
}
