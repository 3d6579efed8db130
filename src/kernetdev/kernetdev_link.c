#include "clock.h"
#include "fault.h"
#include "kernetdev_impl.h"
#include "log.h"
#include "trace.h"
#include <sys/eventfd.h>

/* The link whose messages this thread is delivering: what handlers send on it is written in one
 * go at the end of the batch. */
static _Thread_local struct kd_link *corked;

struct kernetdev_msg *kernetdev_msg_new(u32 len)
{
	struct kernetdev_msg *m;

	ASSERT(len <= KERNETDEV_MSG_MAX);
	m = malloc(sizeof(*m) + KERNETDEV_HEADER + len);
	ASSERT(m != NULL);
	*m = (struct kernetdev_msg){.len = len};
	return m;
}

void kernetdev_msg_free(struct kernetdev_msg *m)
{
	free(m);
}

struct kd_link *kd_link_find(struct kernetdev *kd, nodeid peer, u8 chan)
{
	ASSERT(peer < KRG_NODES_MAX && chan < KERNETDEV_CHAN_NR);
	return atomic_load_explicit(&kd->links[peer][chan], memory_order_acquire);
}

static u64 incarnation_new(void)
{
	u64 v = 0;

	while (v == 0)
		ASSERT(krg_rng_secret(&v, sizeof(v)) == 0);
	return v;
}

static void links_init(struct kd_link *l)
{
	krg_mutex_init(&l->lock);
	krg_cond_init(&l->room);
	l->incarnation = incarnation_new();
	l->last = &l->first;
	l->next_seq = 1;
	l->ack_off = KERNETDEV_HEADER;
	l->backoff_ns = KD_BACKOFF_MIN;
	l->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
}

struct kd_link *kd_link_get(struct kernetdev *kd, nodeid peer, u8 chan)
{
	struct kd_link *l = kd_link_find(kd, peer, chan);

	if (l != NULL)
		return l;
	KRG_GUARD(links, &kd->lock);
	l = atomic_load(&kd->links[peer][chan]);
	if (l != NULL)
		return l;
	l = krg_xalloc(sizeof(*l));
	l->kd = kd;
	l->peer = peer;
	l->chan = chan;
	links_init(l);
	atomic_store_explicit(&kd->links[peer][chan], l, memory_order_release);
	return l;
}

/* Messages before this number are gone; the others are the first of what comes next. */
static void queue_drop(struct kd_link *l, u64 before)
{
	while (l->first != NULL && l->first->seq < before) {
		struct kernetdev_msg *m = l->first;

		l->first = m->next;
		free(m);
	}
	if (l->first == NULL)
		l->last = &l->first;
	l->next_seq = 1;
	l->counted = l->queued_bytes = 0;
	for (struct kernetdev_msg *m = l->first; m != NULL; m = m->next) {
		m->seq = l->next_seq++;
		l->queued_bytes += kd_msg_cost(m);
		if (m->counted)
			l->counted += kd_msg_cost(m);
	}
}

void kd_link_free(struct kd_link *l)
{
	queue_drop(l, UINT64_MAX);
	if (l->kick_fd >= 0)
		(void)close(l->kick_fd);
	krg_mutex_fini(&l->lock);
	krg_cond_fini(&l->room);
	free(l);
}

void kd_tick_arm(struct kernetdev *kd, u64 at_ns)
{
	u64 old = atomic_load(&kd->next_tick_ns);

	while (at_ns < old) {
		if (atomic_compare_exchange_weak(&kd->next_tick_ns, &old, at_ns)) {
			kd->drv->poke(kd->net);
			return;
		}
	}
}

/* The usual case is that the I/O context will look soon anyway. */
static void kd_tick_soon(struct kernetdev *kd)
{
	if (!atomic_load_explicit(&kd->soon, memory_order_relaxed) &&
	    !atomic_exchange(&kd->soon, true))
		kd_tick_arm(kd, krg_clock_now_ns() + KD_ACK_DELAY_NS);
}

void kd_link_kick(struct kd_link *l)
{
	u64 one = 1;
	ssize_t r = write(l->kick_fd, &one, sizeof(one));

	(void)r; /* full means kicked */
}

void kd_conn_interest_locked(struct kd_conn *c)
{
	if (!c->dead)
		c->kd->drv->interest(c->pipe, !c->led, c->out_blocked);
}

void kd_conn_kill_locked(struct kd_conn *c, int code)
{
	if (c->dead)
		return;
	c->dead = true;
	c->dead_code = code;
	c->kd->drv->interest(c->pipe, false, false);
	c->kd->drv->shutdown(c->pipe);
	atomic_store(&c->kd->reap_wanted, true);
	c->kd->drv->poke(c->kd->net);
}

u64 kd_link_received_locked(const struct kd_link *l)
{
	if (l->conn != NULL && l->conn->session == atomic_load(&l->session))
		return atomic_load_explicit(&l->conn->received, memory_order_relaxed);
	return l->received;
}

/* The session is over: both directions start again at 1.  drop: what is queued was meant for the
 * peer that is gone. */
void kd_link_reset_locked(struct kd_link *l, bool drop)
{
	ASSERT(!l->writing);
	if (drop) {
		queue_drop(l, l->fresh_from != 0 ? l->fresh_from : UINT64_MAX);
		atomic_fetch_add(&l->session, 1);
		l->stat.resets++;
	}
	l->fresh_from = 0;
	l->acked = l->credit = 0;
	l->unsent = l->first;
	l->unsent_off = 0;
	l->unsent_bytes = l->queued_bytes;
	l->received = l->received_counted = l->consumed = 0;
	l->credit_told = l->ack_told = 0;
	l->ack_pending = l->ack_seen = false;
	l->known = 0;
	krg_cond_broadcast(&l->room);
}

/* --- sending --- */

static void prune(struct kd_link *l)
{
	while (l->first != l->unsent && l->first->seq <= l->acked) {
		struct kernetdev_msg *m = l->first;

		l->first = m->next;
		if (l->first == NULL)
			l->last = &l->first;
		l->queued_bytes -= kd_msg_cost(m);
		free(m);
	}
}

int kd_link_acked_locked(struct kd_link *l, u64 seq, u64 credit)
{
	if (seq >= l->next_seq || credit > l->counted)
		return -EBADMSG;
	if (seq > l->acked) {
		l->acked = seq;
		if (!l->writing) /* else the writer's messages would be freed under it */
			prune(l);
	}
	if (credit > l->credit) {
		l->credit = credit;
		if (l->waiting_room > 0)
			krg_cond_broadcast(&l->room);
	}
	return 0;
}

static void TSA(requires_capability(lc_link))
	header_fill(struct kd_link *l, struct kd_frame *f, u8 *to)
{
	f->ack = kd_link_received_locked(l);
	/* A peer that does not read its answers gets no room for new calls. */
	f->credit = l->unsent_bytes <= KERNETDEV_WINDOW ? l->consumed : l->credit_told;
	l->ack_told = f->ack;
	l->credit_told = f->credit;
	if (f->credit == l->consumed)
		l->ack_pending = false; /* else the tick tries again */
	l->ack_now = false;
	kd_frame_pack(f, to);
}

static unsigned TSA(requires_capability(lc_link)) iov_fill(struct kd_link *l, struct iovec *iov)
{
	struct kernetdev_msg *m = l->unsent;
	size_t total = 0;
	unsigned n = 0;

	if (m != NULL && l->unsent_off > 0) { /* the rest of one that is half written */
		iov[n++] = (struct iovec){m->frame + l->unsent_off,
					  KERNETDEV_HEADER + m->len - l->unsent_off};
		total += iov[0].iov_len;
		m = m->next;
	}
	if (l->ack_off == KERNETDEV_HEADER && l->ack_now && m == NULL) {
		struct kd_frame f = {.type = KD_FRAME_ACK};

		header_fill(l, &f, l->ack_frame);
		l->ack_off = 0;
	}
	if (l->ack_off < KERNETDEV_HEADER) {
		iov[n++] = (struct iovec){l->ack_frame + l->ack_off, KERNETDEV_HEADER - l->ack_off};
		return n; /* so that what was written is easy to tell */
	}
	for (; m != NULL && n < KD_IOV_MAX && total < KD_WRITE_MAX; m = m->next) {
		struct kd_frame f = {.len = m->len,
				     .seq = m->seq,
				     .type = m->counted ? KD_FRAME_COUNTED : KD_FRAME_UNCOUNTED};

		header_fill(l, &f, m->frame);
		iov[n++] = (struct iovec){m->frame, KERNETDEV_HEADER + m->len};
		total += KERNETDEV_HEADER + m->len;
	}
	return n;
}

static void written(struct kd_link *l, size_t n)
{
	while (n > 0) {
		struct kernetdev_msg *m = l->unsent;
		size_t rest;

		if (l->ack_off < KERNETDEV_HEADER && (m == NULL || l->unsent_off == 0)) {
			rest = KRG_MIN(n, KERNETDEV_HEADER - l->ack_off);
			l->ack_off += rest;
			n -= rest;
			continue;
		}
		ASSERT(m != NULL);
		rest = KERNETDEV_HEADER + m->len - l->unsent_off;
		if (n < rest) {
			l->unsent_off += n;
			return;
		}
		n -= rest;
		l->unsent_off = 0;
		l->unsent_bytes -= kd_msg_cost(m);
		l->unsent = m->next;
	}
}

/* One write.  Returns whether there may be more to write. */
static bool TSA(requires_capability(lc_link)) write_some(struct kd_link *l, struct kd_conn *c)
{
	struct iovec iov[KD_IOV_MAX + 2];
	unsigned n = iov_fill(l, iov);
	ssize_t r;

	if (n == 0)
		return false;
	link_unlock(&l->lock);
	r = FAULT_POINT(NET_SEND) ? -EIO : c->kd->drv->write(c->pipe, iov, (int)n);
	link_lock(&l->lock);
	if (r == -EAGAIN) {
		c->out_blocked = true;
		kd_conn_interest_locked(c);
		return false;
	}
	if (r < 0) {
		kd_conn_kill_locked(c, (int)r);
		return false;
	}
	l->progress_ns = 0;
	written(l, (size_t)r);
	return true;
}

/* One thread at a time writes, without the lock; what others queue meanwhile it takes along. */
void kd_link_flush_locked(struct kd_link *l)
{
	if (l->writing)
		return;
	l->writing = true;
	while (l->conn != NULL && !l->conn->dead && !l->conn->out_blocked) {
		if (!write_some(l, l->conn))
			break;
	}
	l->writing = false;
	if (l->conn != NULL && l->conn->dead) {
		atomic_store(&l->kd->reap_wanted, true);
		l->kd->drv->poke(l->kd->net);
	}
	if (l->forget_wanted)
		kd_link_forget_locked(l);
	prune(l);
}

/* As if this node had been restarted, for this link. */
void kd_link_renew_locked(struct kd_link *l)
{
	l->fresh_from = 0;
	kd_link_reset_locked(l, true);
	l->incarnation = incarnation_new();
}

void kd_link_forget_locked(struct kd_link *l)
{
	l->forget_wanted = l->writing;
	if (l->writing)
		return; /* the writer does it */
	if (l->conn != NULL)
		kd_conn_kill_locked(l->conn, -ECANCELED);
	kd_link_renew_locked(l);
	atomic_store(&l->wanted, false);
	l->abort_attempt = true;
	atomic_store(&l->kd->reap_wanted, true);
	l->kd->drv->poke(l->kd->net);
}

/* What is queued now will be of this session: the next, if the peer turns out to be another. */
static u32 session_now(const struct kd_link *l)
{
	return atomic_load_explicit(&l->session, memory_order_relaxed) + (l->fresh_from != 0);
}

void kernetdev_peer_again(struct kernetdev *kd, nodeid peer)
{
	for (u8 chan = 0; chan < KERNETDEV_CHAN_NR; chan++) {
		struct kd_link *l = kd_link_find(kd, peer, chan);

		if (l == NULL)
			continue;
		KRG_GUARD(link, &l->lock);
		if (!l->gone)
			continue; /* a connection made since has shown who it is */
		l->gone = false;
		if (l->known == 0)
			continue;
		l->fresh_from = l->next_seq;
		if (l->conn != NULL) /* the next one shows it */
			kd_conn_kill_locked(l->conn, -ECONNRESET);
	}
}

void kernetdev_peer_gone(struct kernetdev *kd, nodeid peer)
{
	for (u8 chan = 0; chan < KERNETDEV_CHAN_NR; chan++) {
		struct kd_link *l = kd_link_find(kd, peer, chan);

		if (l == NULL)
			continue;
		KRG_GUARD(link, &l->lock);
		l->gone = true;
	}
}

int kernetdev_queue(struct kernetdev *kd, nodeid peer, u8 chan, struct kernetdev_msg *m,
		    unsigned flags, u32 *session)
{
	struct kd_link *l = kd_link_find(kd, peer, chan);
	u64 cost = kd_msg_cost(m);
	bool first;

	if (l == NULL || !atomic_load_explicit(&l->wanted, memory_order_relaxed)) {
		links_lock(&kd->lock);
		first = kd->addr[peer].set;
		links_unlock(&kd->lock);
		if (!first)
			return -EHOSTDOWN;
		l = kd_link_get(kd, peer, chan);
	}
	if (atomic_load_explicit(&kd->stopping, memory_order_relaxed))
		return -ECANCELED;
	link_lock(&l->lock);
	if ((flags & KERNETDEV_SESSION) && *session != session_now(l)) {
		link_unlock(&l->lock);
		return -EHOSTDOWN;
	}
	m->counted = !(flags & KERNETDEV_UNCOUNTED);
	if (m->counted && l->counted != l->credit &&
	    l->counted - l->credit + cost > KERNETDEV_WINDOW) {
		link_unlock(&l->lock);
		return -EAGAIN;
	}
	first = l->first == NULL;
	m->seq = l->next_seq++;
	m->next = NULL;
	*l->last = m;
	l->last = &m->next;
	if (l->unsent == NULL)
		l->unsent = m;
	l->queued_bytes += cost;
	l->unsent_bytes += cost;
	if (m->counted)
		l->counted += cost;
	l->stat.messages_out++;
	l->stat.bytes_out += m->len;
	atomic_store(&l->wanted, true);
	*session = session_now(l);
	if (first) {
		l->progress_ns = 0;
		if (l->conn == NULL)
			kd_tick_arm(kd, krg_clock_now_ns());
		else
			kd_tick_soon(kd);
	}
	link_unlock(&l->lock);
	return 0;
}

void kernetdev_flush(struct kernetdev *kd, nodeid peer, u8 chan)
{
	struct kd_link *l = kd_link_find(kd, peer, chan);

	if (l == NULL || l == corked)
		return;
	KRG_GUARD(link, &l->lock);
	kd_link_flush_locked(l);
}

u32 kernetdev_room_gen(struct kernetdev *kd)
{
	return atomic_load(&kd->room_gen);
}

void kernetdev_wait_room(struct kernetdev *kd, nodeid peer, u8 chan, u32 len, u32 gen,
			 u64 deadline_ns)
{
	struct kd_link *l = kd_link_find(kd, peer, chan);
	u64 used;

	ASSERT(corked == NULL); /* what reads must not wait for room */
	if (l == NULL)
		return;
	KRG_GUARD(link, &l->lock);
	used = l->counted - l->credit;
	if (used == 0 || used + len + KERNETDEV_COST <= KERNETDEV_WINDOW ||
	    gen != atomic_load(&kd->room_gen))
		return;
	l->waiting_room++;
	if (deadline_ns == UINT64_MAX)
		krg_cond_wait(&l->room, &l->lock);
	else
		(void)krg_cond_wait_until(&l->room, &l->lock, deadline_ns);
	l->waiting_room--;
}

void kernetdev_wake_room(struct kernetdev *kd)
{
	atomic_fetch_add(&kd->room_gen, 1);
	for (unsigned i = 0; i < KRG_NODES_MAX * KERNETDEV_CHAN_NR; i++) {
		struct kd_link *l =
			kd_link_find(kd, (nodeid)(i / KERNETDEV_CHAN_NR), i % KERNETDEV_CHAN_NR);

		if (l == NULL)
			continue;
		KRG_GUARD(link, &l->lock);
		krg_cond_broadcast(&l->room);
	}
}

void kernetdev_msg_done(struct kernetdev *kd, struct kernetdev_msg *m)
{
	struct kd_link *l = kd_link_find(kd, m->peer, m->chan);

	if (m->counted && l != NULL) {
		KRG_GUARD(link, &l->lock);
		if (m->session == atomic_load(&l->session)) {
			l->consumed += kd_msg_cost(m);
			if (l->consumed - l->credit_told >= KD_ACK_BYTES) {
				l->ack_now = true;
				if (l != corked)
					kd_link_flush_locked(l);
			} else {
				l->ack_pending = true;
				kd_tick_soon(kd);
			}
		}
	}
	free(m);
}

/* --- receiving --- */

static int bad_frame(struct kd_conn *c, const char *what, u64 a, u64 b)
{
	LOG_W("kernetdev", "link %u of node %u: %s (%llu, %llu): dropped", c->link->chan,
	      c->link->peer, what, (unsigned long long)a, (unsigned long long)b);
	return -EBADMSG;
}

static struct kernetdev_msg *msg_begin(struct kd_conn *c, const struct kd_frame *f)
{
	struct kernetdev_msg *m = kernetdev_msg_new(f->len);

	m->seq = f->seq;
	m->session = c->session;
	m->peer = c->link->peer;
	m->chan = c->link->chan;
	m->counted = f->type == KD_FRAME_COUNTED;
	return m;
}

/* One frame from ->rbuf at *at, onto the list.  1: one more; 0: not all there; <0: wrong. */
static int parse_one(struct kd_conn *c, size_t *at, struct kernetdev_msg ***tail)
{
	struct kd_frame f;
	size_t have = c->rlen - *at;
	struct kernetdev_msg *m;

	if (have < KERNETDEV_HEADER)
		return 0;
	if (kd_frame_unpack(c->rbuf + *at, &f) < 0)
		return bad_frame(c, "a broken frame", c->rbuf[*at + 4], f.len);
	have -= KERNETDEV_HEADER;
	if (f.type != KD_FRAME_ACK) {
		u64 want = atomic_load_explicit(&c->received, memory_order_relaxed) + 1;

		if (f.seq != want)
			return bad_frame(c, "a message out of order", f.seq, want);
		if (have < f.len && KERNETDEV_HEADER + f.len <= KD_RBUF / 4)
			return 0;
	}
	c->batch_ack = KRG_MAX(c->batch_ack, f.ack);
	c->batch_credit = KRG_MAX(c->batch_credit, f.credit);
	*at += KERNETDEV_HEADER;
	if (f.type == KD_FRAME_ACK)
		return 1;
	m = msg_begin(c, &f);
	have = KRG_MIN(have, (size_t)f.len);
	memcpy(kernetdev_msg_data(m), c->rbuf + *at, have);
	*at += have;
	if (have < f.len) { /* a long one: the rest is read in place */
		c->rmsg = m;
		c->rmsg_have = have;
		return 0;
	}
	atomic_store_explicit(&c->received, f.seq, memory_order_relaxed);
	**tail = m;
	*tail = &m->next;
	return 1;
}

/* What came, as a list of whole messages.  <0: the connection is to be dropped. */
static int read_batch(struct kd_conn *c, bool wait, u64 deadline_ns, struct kernetdev_msg **ret)
{
	struct kernetdev_msg **tail = ret;
	size_t at = 0, room;
	ssize_t n;
	u8 *to;
	int r;

	*ret = NULL;
	if (FAULT_POINT(NET_RECV))
		return -EIO;
	to = c->rmsg != NULL ? kernetdev_msg_data(c->rmsg) + c->rmsg_have : c->rbuf + c->rlen;
	room = c->rmsg != NULL ? c->rmsg->len - c->rmsg_have : KD_RBUF - c->rlen;
	if (wait)
		n = c->kd->drv->read_wait(c->pipe, to, room, c->link->kick_fd, deadline_ns);
	else
		n = c->kd->drv->read(c->pipe, to, room);
	if (n == -EAGAIN)
		return 0;
	if (n <= 0)
		return n < 0 ? (int)n : -ECONNRESET;
	if (c->rmsg != NULL) {
		c->rmsg_have += (size_t)n;
		if (c->rmsg_have < c->rmsg->len)
			return 0;
		atomic_store_explicit(&c->received, c->rmsg->seq, memory_order_relaxed);
		*ret = TAKE_PTR(c->rmsg);
		return 0;
	}
	c->rlen += (size_t)n;
	while ((r = parse_one(c, &at, &tail)) > 0)
		;
	c->rlen -= at;
	memmove(c->rbuf, c->rbuf + at, c->rlen);
	return r;
}

/* The accounts of a batch, before it is delivered. */
static int TSA(requires_capability(lc_link))
	batch_account(struct kd_conn *c, const struct kernetdev_msg *list)
{
	struct kd_link *l = c->link;
	u64 received;

	for (const struct kernetdev_msg *m = list; m != NULL; m = m->next) {
		if (m->counted)
			c->counted += kd_msg_cost(m);
		l->stat.messages_in++;
		l->stat.bytes_in += m->len;
	}
	l->progress_ns = 0;
	atomic_fetch_add_explicit(&l->activity, 1, memory_order_relaxed);
	if (c->session != atomic_load(&l->session))
		return 0; /* forgotten meanwhile */
	if (c->counted - l->consumed > (u64)KERNETDEV_WINDOW + KERNETDEV_MSG_MAX + KERNETDEV_COST)
		return bad_frame(c, "more than the window", c->counted, l->consumed);
	if (kd_link_acked_locked(l, c->batch_ack, c->batch_credit) < 0)
		return bad_frame(c, "an ack of what was not sent", c->batch_ack, c->batch_credit);
	received = atomic_load_explicit(&c->received, memory_order_relaxed);
	if (received - l->ack_told >= KD_ACK_MESSAGES) {
		l->ack_now = true;
	} else if (received != l->ack_told) {
		l->ack_pending = true;
		kd_tick_soon(c->kd);
	}
	return 0;
}

static void deliver(struct kd_conn *c, struct kernetdev_msg *list)
{
	ASSERT(corked == NULL);
	corked = c->link;
	while (list != NULL) {
		struct kernetdev_msg *m = list;

		list = m->next;
		m->next = NULL;
		c->kd->config.up->recv(c->kd->config.ctx, m);
	}
	corked = NULL;
}

bool kd_conn_read(struct kd_conn *c, bool wait, u64 deadline_ns)
{
	struct kernetdev_msg *list;
	struct kd_link *l = c->link;
	int r = read_batch(c, wait, deadline_ns, &list), e;

	link_lock(&l->lock);
	e = batch_account(c, list);
	if (r >= 0)
		r = e;
	if (r < 0)
		kd_conn_kill_locked(c, r);
	link_unlock(&l->lock);
	if (list != NULL)
		deliver(c, list);
	KRG_GUARD(link, &l->lock);
	if (!l->ack_now && l->unsent == NULL)
		return !c->dead;
	kd_link_flush_locked(l);
	return !c->dead;
}

void kd_conn_read_end(struct kd_conn *c)
{
	_Atomic u32 *next = NULL;

	link_lock(&c->link->lock);
	if (c->led && !c->dead)
		next = kd_lead_give_locked(c);
	if (next == NULL) {
		c->reading = false;
		if (c->led) {
			c->led = false;
			kd_conn_interest_locked(c);
		}
		if (c->dead) {
			atomic_store(&c->kd->reap_wanted, true);
			c->kd->drv->poke(c->kd->net);
		}
	}
	link_unlock(&c->link->lock);
	if (next != NULL)
		kd_lead_wake(next);
}

u64 kd_link_tick(struct kd_link *l, u64 now)
{
	u64 next = UINT64_MAX;

	KRG_GUARD(link, &l->lock);
	if (l->conn == NULL || l->conn->dead)
		return UINT64_MAX;
	/* Whatever one tick saw and the next sees again has waited for long enough. */
	if (l->ack_pending && l->ack_seen) {
		l->ack_now = true;
		kd_link_flush_locked(l);
	}
	l->ack_seen = l->ack_pending;
	if (l->ack_pending)
		next = now + KD_ACK_DELAY_NS;
	if (l->first != NULL && l->conn != NULL && !l->conn->dead) {
		if (l->progress_ns == 0)
			l->progress_ns = now;
		if (now >= l->progress_ns + KD_STALL_NS)
			kd_conn_kill_locked(l->conn, -ETIMEDOUT);
		else
			next = KRG_MIN(next, l->progress_ns + KD_STALL_NS);
	}
	return next;
}

/* --- connections --- */

void kd_link_attach_locked(struct kd_link *l, struct kd_conn *c)
{
	ASSERT(l->conn == NULL && !l->writing);
	c->session = atomic_load(&l->session);
	atomic_store(&c->received, l->received);
	c->counted = l->received_counted;
	c->rbuf = krg_xrealloc(NULL, KD_RBUF);
	for (struct kernetdev_msg *m = l->first; m != l->unsent; m = m->next)
		l->stat.resent += m->seq > l->acked;
	l->gone = false;
	l->fresh_from = 0;
	l->unsent = NULL;
	prune(l);
	l->unsent = l->first;
	l->unsent_off = 0;
	l->unsent_bytes = l->queued_bytes;
	l->ack_off = KERNETDEV_HEADER;
	l->ack_now = true;
	l->progress_ns = 0;
	atomic_store(&l->wanted, true);
	l->conn = c;
	l->stat.connects++;
	l->stat.up = true;
	TRACE(NET_LINK_UP, 0, l->peer);
}

void kd_link_detach_locked(struct kd_link *l)
{
	struct kd_conn *c = l->conn;

	ASSERT(c != NULL && c->dead && !c->reading && !l->writing);
	if (c->session == atomic_load(&l->session)) {
		l->received = atomic_load(&c->received);
		l->received_counted = c->counted;
	}
	l->conn = NULL;
	l->stat.up = false;
	TRACE(NET_LINK_DOWN, 0, l->peer, -c->dead_code);
}
