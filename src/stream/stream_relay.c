/* stream_relay.c - the endpoints of pipe streams on this node: their table, states, threads,
 * messages and connections. */
#include "stream_relay.h"
#include "fault.h"
#include "log.h"
#include "trace.h"
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

struct relay_thread {
	struct relay_set *set;
	int ep, ev; /* (c) */
	pthread_t thread;
	bool runs;
	atomic_bool again; /* some relay of this thread is to be tried again */
};

struct relay_set {
	struct stream *s;
	struct krg_mutex lock;		   /* class handles */
	struct relay *by_num[STREAM_HASH]; /* (t) */
	struct relay *by_id[STREAM_HASH];  /* (t) */
	u64 next_num;			   /* (t) */
	u32 nr;				   /* (t) */
	struct relay_thread threads[STREAM_RELAY_THREADS];
	_Atomic u64 bytes;

	struct krg_mutex conn_lock; /* class leaf */
	struct krg_cond conn_cond;
	struct relay *conn_first, **conn_last; /* (conn_lock) */
	bool conn_stop;			       /* (conn_lock) */
	pthread_t connector;
	bool connector_runs;
};

/* ---- states ---- */

#define TO(s) (1u << RELAY_##s)
static const struct {
	const char *name;
	u32 to; /* where it may go, as bits */
} states[RELAY_STATE_NR] = {
	[RELAY_WAITING] = {"waiting", TO(MESSAGES) | TO(CLOSED)},
	[RELAY_MESSAGES] = {"messages", TO(CONNECTING) | TO(RAW) | TO(CLOSED)},
	[RELAY_CONNECTING] = {"connecting", TO(RAW) | TO(MESSAGES) | TO(BROKEN) | TO(CLOSED)},
	[RELAY_RAW] = {"raw", TO(MESSAGES) | TO(BROKEN) | TO(CLOSED)},
	[RELAY_BROKEN] = {"broken", TO(MESSAGES) | TO(CLOSED)},
	[RELAY_CLOSED] = {"closed", 0},
};

bool relay_move_locked(struct relay *r, enum relay_state to)
{
	if (r->state == to)
		return true;
	if ((states[r->state].to & 1u << to) == 0) {
		LOG_W("stream", "stream %u/%llu: %s cannot become %s", r->origin,
		      (unsigned long long)r->id, states[r->state].name, states[to].name);
		return false;
	}
	TRACE(STREAM_STATE, 0, r->id, r->state, to);
	r->state = to;
	return true;
}

/* ---- table ---- */

static struct relay **slot_num(struct relay_set *set, u64 num)
{
	return &set->by_num[stream_mix(num) % STREAM_HASH];
}

static struct relay **slot_id(struct relay_set *set, nodeid origin, u64 id)
{
	return &set->by_id[stream_mix(id ^ (u64)origin << 48) % STREAM_HASH];
}

static void relay_put(struct relay *r)
{
	if (atomic_fetch_sub(&r->refs, 1) != 1)
		return;
	ASSERT(r->unlinked && r->fd < 0 && r->sock < 0);
	krg_mutex_fini(&r->lock);
	r->magic = 0;
	free(r);
}

static struct relay *relay_get_num(struct relay_set *set, u64 num)
{
	KRG_GUARD(handles, &set->lock);
	struct relay *r = *slot_num(set, num);

	while (r != NULL && r->num != num)
		r = r->num_next;
	if (r != NULL)
		r->refs++;
	return r;
}

static struct relay *relay_get(struct relay_set *set, nodeid origin, u64 id)
{
	KRG_GUARD(handles, &set->lock);
	struct relay *r = *slot_id(set, origin, id);

	while (r != NULL && (r->id != id || r->origin != origin))
		r = r->id_next;
	if (r != NULL)
		r->refs++;
	return r;
}

static void relay_unlink(struct relay *r)
{
	struct relay_set *set = r->s->relays;
	struct relay **at;

	handles_lock(&set->lock);
	if (r->unlinked) {
		handles_unlock(&set->lock);
		return;
	}
	for (at = slot_num(set, r->num); *at != r;)
		at = &(*at)->num_next;
	*at = r->num_next;
	for (at = slot_id(set, r->origin, r->id); *at != r;)
		at = &(*at)->id_next;
	*at = r->id_next;
	r->unlinked = true;
	set->nr--;
	handles_unlock(&set->lock);
	TRACE(STREAM_CLOSE, 0, r->id, r->sender ? r->end : r->got);
	relay_put(r); /* the table's */
}

/* Those whose bytes have arrived, or never will. */
static struct settle *settled_take_locked(struct relay *r)
{
	struct settle *take = NULL, **at = &r->settles;

	while (*at != NULL) {
		struct settle *w = *at;
		bool told = w->end ? r->eof && (r->due & DUE_EOF) == 0 : true;

		if (r->state == RELAY_CLOSED ? (r->due & DUE_CLOSED) != 0
					     : r->arrived < w->pos || !told) {
			at = &w->next;
			continue;
		}
		*at = w->next;
		w->next = take;
		take = w;
	}
	return take;
}

/* The end of every piece of work on a relay: lock and reference are given back. */
static void relay_leave(struct relay *r) TSA(release_capability(lc_relay))
{
	struct settle *settled = settled_take_locked(r);
	bool over = r->state == RELAY_CLOSED && r->due == 0;

	relay_unlock(&r->lock);
	while (settled != NULL) {
		struct settle *w = settled;

		settled = w->next;
		w->done(w->ctx);
		free(w);
	}
	if (over)
		relay_unlink(r);
	relay_put(r);
}

static struct relay *relay_new(struct stream *s, nodeid origin, u64 id, nodeid peer, bool sender,
			       int fd)
{
	struct relay_set *set = s->relays;
	struct relay *r = krg_xalloc(sizeof(*r));
	struct relay **at;

	*r = (struct relay){
		.magic = RELAY_MAGIC,
		.s = s,
		.origin = origin,
		.id = id,
		.peer = peer,
		.sender = sender,
		.refs = 2, /* the table's, the caller's */
		.state = RELAY_WAITING,
		.fd = fd,
		.sock = -EBADF,
		.fd_events = RELAY_NO_EVENTS,
		.sock_events = RELAY_NO_EVENTS,
	};
	krg_mutex_init(&r->lock);
	hold_init(&r->hold);
	KRG_GUARD(handles, &set->lock);
	if (set->nr == RELAYS_MAX) {
		krg_mutex_fini(&r->lock);
		free(r);
		return NULL;
	}
	set->nr++;
	r->num = set->next_num++;
	r->ep = set->threads[r->num % STREAM_RELAY_THREADS].ep;
	at = slot_num(set, r->num);
	r->num_next = *at;
	*at = r;
	at = slot_id(set, origin, id);
	r->id_next = *at;
	*at = r;
	return r;
}

/* ---- what the pumps need ---- */

void relay_interest_locked(struct relay *r, int fd, u32 *have, u32 want)
{
	struct epoll_event ev = {.events = want, .data.u64 = r->num << 1 | (fd == r->sock)};
	int op = EPOLL_CTL_MOD;

	if (*have == want || fd < 0)
		return;
	if (want == RELAY_NO_EVENTS)
		op = EPOLL_CTL_DEL;
	else if (*have == RELAY_NO_EVENTS)
		op = EPOLL_CTL_ADD;
	if (epoll_ctl(r->ep, op, fd, &ev) < 0)
		LOG_E("stream", "stream %u/%llu: epoll: %s", r->origin, (unsigned long long)r->id,
		      strerror(errno));
	*have = want;
}

void relay_close_locked(struct relay *r, bool tell)
{
	if (r->state == RELAY_CLOSED)
		return;
	(void)relay_move_locked(r, RELAY_CLOSED);
	relay_interest_locked(r, r->fd, &r->fd_events, RELAY_NO_EVENTS);
	relay_interest_locked(r, r->sock, &r->sock_events, RELAY_NO_EVENTS);
	krg_closep(&r->fd);
	krg_closep(&r->sock);
	r->fd = r->sock = -EBADF;
	hold_fini(&r->hold);
	krg_buf_fini(&r->in);
	r->due = tell && !r->peer_dead ? DUE_CLOSED : 0;
	pump_due_locked(r);
}

void relay_retry_locked(struct relay *r)
{
	struct relay_thread *t = &r->s->relays->threads[r->num % STREAM_RELAY_THREADS];

	r->again = true;
	if (!atomic_exchange(&t->again, true))
		(void)eventfd_write(t->ev, 1);
}

void relay_want_connection_locked(struct relay *r)
{
	struct relay_set *set = r->s->relays;

	if (r->connecting || r->conn_fails >= RELAY_CONN_FAILS || r->state != RELAY_MESSAGES)
		return;
	r->connecting = true;
	r->refs++;
	KRG_GUARD(leaf, &set->conn_lock);
	r->conn_next = NULL;
	*set->conn_last = r;
	set->conn_last = &r->conn_next;
	krg_cond_signal(&set->conn_cond);
}

void relay_count(struct stream *s, u64 bytes)
{
	s->relays->bytes += bytes;
}

/* ---- connections of their own ---- */

static void tune(int sock)
{
	int one = 1;

	(void)fcntl(sock, F_SETFL, fcntl(sock, F_GETFL) | O_NONBLOCK);
	(void)setsockopt(sock, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
}

static void connect_one(struct relay *r)
{
	u16 op = r->origin == r->s->self ? STREAM_OP_RAW_FROM_ORIGIN : STREAM_OP_RAW_TO_ORIGIN;
	struct krg_err err = {0};
	int sock = -EBADF;
	int e = comm_raw_connect(r->s->comm, r->peer, op, r->id, &sock, &err);

	relay_lock(&r->lock);
	r->connecting = false;
	if (e < 0) {
		r->conn_fails++;
		LOG_I("stream", "stream %u/%llu stays with messages: %s", r->origin,
		      (unsigned long long)r->id, err.text);
	} else if (r->state == RELAY_MESSAGES) {
		tune(sock);
		r->conn_fails = 0;
		r->sock = sock;
		r->hello_n = 0;
		(void)relay_move_locked(r, RELAY_CONNECTING);
		relay_interest_locked(r, r->sock, &r->sock_events, EPOLLIN);
	} else {
		(void)close(sock);
	}
	relay_leave(r);
}

static void *connector_main(void *arg)
{
	struct relay_set *set = arg;

	(void)pthread_setname_np(pthread_self(), "stream-conn");
	for (;;) {
		struct relay *r;

		leaf_lock(&set->conn_lock);
		while (set->conn_first == NULL && !set->conn_stop)
			krg_cond_wait(&set->conn_cond, &set->conn_lock);
		if (set->conn_stop) {
			leaf_unlock(&set->conn_lock);
			return NULL;
		}
		r = set->conn_first;
		set->conn_first = r->conn_next;
		if (set->conn_first == NULL)
			set->conn_last = &set->conn_first;
		leaf_unlock(&set->conn_lock);
		connect_one(r);
	}
}

/* The sender has connected: it is told where to begin. */
static void accept_raw(struct stream *s, nodeid origin, nodeid from, u64 id, int sock)
{
	struct relay *r = relay_get(s->relays, origin, id);
	u8 b[8];

	if (r == NULL) {
		(void)close(sock);
		return;
	}
	relay_lock(&r->lock);
	if (r->peer != from || r->sender || (r->state != RELAY_MESSAGES && r->state != RELAY_RAW)) {
		(void)close(sock);
		relay_leave(r);
		return;
	}
	if (r->sock >= 0) {
		relay_interest_locked(r, r->sock, &r->sock_events, RELAY_NO_EVENTS);
		(void)close(r->sock);
	}
	tune(sock);
	r->sock = sock;
	r->told = 0; /* what was said on another connection may be lost */
	(void)relay_move_locked(r, RELAY_RAW);
	for (int i = 0; i < 8; i++)
		b[i] = (u8)(r->got >> (8 * i));
	if (send(sock, b, 8, MSG_NOSIGNAL | MSG_DONTWAIT) != 8)
		pump_broken_locked(r);
	pump_locked(r);
	relay_leave(r);
}

static void on_raw_from_origin(void *ctx, nodeid from, u64 tag, int fd)
{
	accept_raw(ctx, from, from, tag, fd);
}

static void on_raw_to_origin(void *ctx, nodeid from, u64 tag, int fd)
{
	struct stream *s = ctx;

	accept_raw(s, s->self, from, tag, fd);
}

/* ---- messages ---- */

/* The endpoint that a message is for, a reference; NULL: none, or it is not the sender's. */
static struct relay *relay_of(struct stream *s, struct comm_req *req, struct rec_stream_pipe *ret)
{
	struct krg_rd rd = krg_rd_slice(req->body);
	struct relay *r;

	if (rec_stream_pipe_decode(&rd, ret) < 0)
		return NULL;
	r = relay_get(s->relays, ret->origin, ret->id);
	if (r == NULL || r->peer == req->from)
		return r;
	relay_put(r);
	return NULL;
}

/* The origin's end begins when it is imported and not held. */
static void begin_locked(struct relay *r)
{
	if (r->origin != r->s->self || r->state != RELAY_WAITING || r->held || !r->opened)
		return;
	(void)relay_move_locked(r, RELAY_MESSAGES);
	if (r->fd < 0) /* its reader was gone before it was exported */
		relay_close_locked(r, true);
	pump_locked(r);
}

void relay_hold(struct stream *s, u64 id, bool hold)
{
	struct relay *r = relay_get(s->relays, s->self, id);

	if (r == NULL)
		return;
	relay_lock(&r->lock);
	r->held = hold;
	begin_locked(r);
	relay_leave(r);
}

static void on_open(void *ctx, struct comm_req *req)
{
	struct stream *s = ctx;
	struct rec_stream_pipe m;
	struct relay *r = relay_of(s, req, &m);

	if (r != NULL) {
		relay_lock(&r->lock);
		r->opened = true;
		begin_locked(r);
		relay_leave(r);
	}
	comm_req_answer(req, NULL);
}

static void on_data(void *ctx, struct comm_req *req)
{
	struct stream *s = ctx;
	struct krg_rd rd = krg_rd_slice(req->body);
	struct rec_stream_pipe_data m;
	struct relay *r = NULL;

	if (rec_stream_pipe_data_decode(&rd, &m) == 0)
		r = relay_get(s->relays, m.origin, m.id);
	if (r != NULL) {
		relay_lock(&r->lock);
		if (r->peer == req->from && !r->sender)
			pump_data_locked(r, m.pos, m.data);
		relay_leave(r);
	}
	comm_req_answer(req, NULL);
}

static void on_eof(void *ctx, struct comm_req *req)
{
	struct rec_stream_pipe m;
	struct relay *r = relay_of(ctx, req, &m);

	if (r != NULL) {
		relay_lock(&r->lock);
		if (!r->sender && r->state != RELAY_WAITING && !r->eof_known && m.pos >= r->got) {
			r->eof_known = true;
			r->eof_pos = m.pos;
			pump_locked(r);
		}
		relay_leave(r);
	}
	comm_req_answer(req, NULL);
}

static void on_ack(void *ctx, struct comm_req *req)
{
	struct rec_stream_pipe m;
	struct relay *r = relay_of(ctx, req, &m);

	if (r != NULL) {
		relay_lock(&r->lock);
		if (r->sender && r->state != RELAY_CLOSED) {
			pump_ack_locked(r, m.pos);
			pump_locked(r);
		}
		relay_leave(r);
	}
	comm_req_answer(req, NULL);
}

static void on_restart(void *ctx, struct comm_req *req)
{
	struct rec_stream_pipe m;
	struct relay *r = relay_of(ctx, req, &m);

	if (r != NULL) {
		relay_lock(&r->lock);
		/* Older than what a new connection has said meanwhile: means nothing any more. */
		if (r->sender && r->state != RELAY_CLOSED && r->state != RELAY_WAITING &&
		    m.pos >= r->acked) {
			relay_interest_locked(r, r->sock, &r->sock_events, RELAY_NO_EVENTS);
			krg_closep(&r->sock);
			r->sock = -EBADF;
			(void)relay_move_locked(r, RELAY_MESSAGES);
			pump_restart_locked(r, m.pos);
			pump_locked(r);
		}
		relay_leave(r);
	}
	comm_req_answer(req, NULL);
}

static void on_broken(void *ctx, struct comm_req *req)
{
	struct rec_stream_pipe m;
	struct relay *r = relay_of(ctx, req, &m);

	if (r != NULL) {
		relay_lock(&r->lock);
		if (!r->sender && (r->state == RELAY_RAW || r->state == RELAY_MESSAGES))
			pump_broken_locked(r);
		relay_leave(r);
	}
	comm_req_answer(req, NULL);
}

static void on_settle(void *ctx, struct comm_req *req)
{
	struct rec_stream_pipe m;
	struct relay *r = relay_of(ctx, req, &m);

	if (r != NULL) {
		relay_lock(&r->lock);
		if (!r->sender && r->state != RELAY_WAITING) {
			r->want = KRG_MAX(r->want, m.pos);
			pump_locked(r);
		}
		relay_leave(r);
	}
	comm_req_answer(req, NULL);
}

static void on_closed(void *ctx, struct comm_req *req)
{
	struct rec_stream_pipe m;
	struct relay *r = relay_of(ctx, req, &m);

	if (r != NULL) {
		relay_lock(&r->lock);
		relay_close_locked(r, false);
		relay_leave(r);
	}
	comm_req_answer(req, NULL);
}

void relay_register(struct stream *s)
{
	static const struct {
		u16 op;
		comm_handler handler;
	} all[] = {
		{STREAM_OP_PIPE_OPEN, on_open},	      {STREAM_OP_PIPE_DATA, on_data},
		{STREAM_OP_PIPE_EOF, on_eof},	      {STREAM_OP_PIPE_ACK, on_ack},
		{STREAM_OP_PIPE_RESTART, on_restart}, {STREAM_OP_PIPE_BROKEN, on_broken},
		{STREAM_OP_PIPE_CLOSED, on_closed},   {STREAM_OP_PIPE_SETTLE, on_settle},
	};

	for (size_t i = 0; i < KRG_NELEM(all); i++)
		comm_register(s->comm, all[i].op, COMM_INLINE, all[i].handler, s);
	comm_raw_register(s->comm, STREAM_OP_RAW_FROM_ORIGIN, on_raw_from_origin, s);
	comm_raw_register(s->comm, STREAM_OP_RAW_TO_ORIGIN, on_raw_to_origin, s);
}

/* ---- threads ---- */

static void on_event(struct relay_set *set, const struct epoll_event *ev)
{
	struct relay *r = relay_get_num(set, ev->data.u64 >> 1);

	if (r == NULL)
		return;
	relay_lock(&r->lock);
	if ((ev->data.u64 & 1) != 0)
		pump_sock_locked(r);
	else if (!r->sender && (ev->events & EPOLLERR) != 0)
		relay_close_locked(r, true); /* no reader any more */
	else
		pump_locked(r);
	relay_leave(r);
}

/* The next relay of this thread that is to be tried again. */
static struct relay *next_again(struct relay_thread *t, u64 *num)
{
	struct relay_set *set = t->set;

	for (;;) {
		struct relay *r;
		u64 end;

		handles_lock(&set->lock);
		end = set->next_num;
		handles_unlock(&set->lock);
		if (*num >= end)
			return NULL;
		r = relay_get_num(set, (*num)++);
		if (r != NULL && r->ep == t->ep)
			return r;
		if (r != NULL)
			relay_put(r);
	}
}

static void try_again(struct relay_thread *t)
{
	struct relay *r;
	u64 num = 0;

	atomic_store(&t->again, false);
	while ((r = next_again(t, &num)) != NULL) {
		relay_lock(&r->lock);
		if (r->again) {
			r->again = false;
			pump_due_locked(r);
			pump_locked(r);
		}
		relay_leave(r);
	}
}

static void *relay_main(void *arg)
{
	struct relay_thread *t = arg;
	struct epoll_event ev[64];

	(void)pthread_setname_np(pthread_self(), "stream-relay");
	for (;;) {
		int n = epoll_wait(t->ep, ev, KRG_NELEM(ev),
				   atomic_load(&t->again) ? RELAY_RETRY_MS : -1);

		ASSERT(n >= 0 || errno == EINTR);
		for (int i = 0; i < n; i++) {
			eventfd_t v;

			if (ev[i].data.u64 != 0)
				on_event(t->set, &ev[i]);
			else if (atomic_load(&t->set->s->stopping))
				return NULL;
			else
				(void)eventfd_read(t->ev, &v);
		}
		if (n == 0)
			try_again(t);
	}
}

int relay_start(struct stream *s, struct krg_err *err)
{
	struct relay_set *set = s->relays;
	int r;

	for (unsigned i = 0; i < STREAM_RELAY_THREADS; i++) {
		struct relay_thread *t = &set->threads[i];
		struct epoll_event ev = {.events = EPOLLIN};

		if (t->ep < 0 || t->ev < 0 || epoll_ctl(t->ep, EPOLL_CTL_ADD, t->ev, &ev) < 0)
			return krg_err_set(err, -errno, "stream: epoll: %s", strerror(errno));
		r = pthread_create(&t->thread, NULL, relay_main, t);
		if (r != 0)
			return krg_err_set(err, -r, "stream: thread: %s", strerror(r));
		t->runs = true;
	}
	r = pthread_create(&set->connector, NULL, connector_main, set);
	if (r != 0)
		return krg_err_set(err, -r, "stream: thread: %s", strerror(r));
	set->connector_runs = true;
	return 0;
}

static void stop_connector(struct relay_set *set)
{
	leaf_lock(&set->conn_lock);
	set->conn_stop = true;
	krg_cond_broadcast(&set->conn_cond);
	leaf_unlock(&set->conn_lock);
	if (set->connector_runs)
		(void)pthread_join(set->connector, NULL);
	set->connector_runs = false;
	while (set->conn_first != NULL) {
		struct relay *r = set->conn_first;

		set->conn_first = r->conn_next;
		relay_put(r);
	}
	set->conn_last = &set->conn_first;
}

static struct relay *first_relay(struct relay_set *set)
{
	KRG_GUARD(handles, &set->lock);

	for (u32 i = 0; i < STREAM_HASH; i++)
		if (set->by_num[i] != NULL) {
			set->by_num[i]->refs++;
			return set->by_num[i];
		}
	return NULL;
}

/* s->stopping is set. */
void relay_stop(struct stream *s)
{
	struct relay_set *set = s->relays;
	struct relay *r;

	for (unsigned i = 0; i < STREAM_RELAY_THREADS; i++) {
		struct relay_thread *t = &set->threads[i];

		if (t->runs) {
			(void)eventfd_write(t->ev, 1);
			(void)pthread_join(t->thread, NULL);
		}
		t->runs = false;
	}
	stop_connector(set);
	while ((r = first_relay(set)) != NULL) {
		relay_lock(&r->lock);
		relay_close_locked(r, false);
		r->due = 0;
		relay_leave(r);
	}
}

struct relay_set *relay_set_new(struct stream *s)
{
	struct relay_set *set = krg_xalloc(sizeof(*set));

	set->s = s;
	set->next_num = 1;
	set->conn_last = &set->conn_first;
	krg_mutex_init(&set->lock);
	krg_mutex_init(&set->conn_lock);
	krg_cond_init(&set->conn_cond);
	for (unsigned i = 0; i < STREAM_RELAY_THREADS; i++) {
		set->threads[i].set = set;
		set->threads[i].ep = epoll_create1(EPOLL_CLOEXEC);
		set->threads[i].ev = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	}
	return set;
}

void relay_free(struct stream *s)
{
	struct relay_set *set = s->relays;

	if (set == NULL)
		return;
	ASSERT(set->nr == 0);
	for (unsigned i = 0; i < STREAM_RELAY_THREADS; i++) {
		krg_closep(&set->threads[i].ep);
		krg_closep(&set->threads[i].ev);
	}
	krg_cond_fini(&set->conn_cond);
	krg_mutex_fini(&set->conn_lock);
	krg_mutex_fini(&set->lock);
	free(set);
}

static struct relay *next_of_peer(struct relay_set *set, nodeid node)
{
	KRG_GUARD(handles, &set->lock);

	for (u32 i = 0; i < STREAM_HASH; i++)
		for (struct relay *r = set->by_num[i]; r != NULL; r = r->num_next)
			if (r->peer == node && !r->seen_down) {
				r->seen_down = true;
				r->refs++;
				return r;
			}
	return NULL;
}

/* As Unix would show it: a writer whose readers are gone gets EPIPE; a reader whose writers are
 * gone gets what came, then the end of file. */
void relay_node_down(struct stream *s, nodeid node)
{
	struct relay *r;

	while ((r = next_of_peer(s->relays, node)) != NULL) {
		relay_lock(&r->lock);
		r->peer_dead = true;
		r->due = 0;
		if (r->sender || r->state == RELAY_WAITING) {
			relay_close_locked(r, false);
		} else {
			if (r->state != RELAY_RAW && r->state != RELAY_CLOSED) {
				r->eof_known = true;
				r->eof_pos = r->got;
			}
			pump_locked(r);
		}
		relay_leave(r);
	}
}

/* ---- export and import ---- */

/* A description of our own of the end, that never waits; -ENXIO: no reader any more. */
static int own_end(int fd, enum stream_kind kind, struct krg_err *err)
{
	int flags = fcntl(fd, F_GETFL), want = kind == STREAM_PIPE_READ ? O_RDONLY : O_WRONLY, own;
	char path[40];
	struct stat st;

	if (flags < 0 || fstat(fd, &st) < 0)
		return krg_err_set(err, -errno, "pipe: %s", strerror(errno));
	if (!S_ISFIFO(st.st_mode) || (flags & O_ACCMODE) != want || (flags & O_DIRECT) != 0)
		return krg_err_set(err, -EOPNOTSUPP, "not %s end of a pipe",
				   kind == STREAM_PIPE_READ ? "the read" : "the write");
	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	own = open(path, want | O_NONBLOCK | O_CLOEXEC);
	if (own < 0 && errno != ENXIO)
		return krg_err_set(err, -errno, "pipe: %s", strerror(errno));
	return own < 0 ? -ENXIO : own;
}

int relay_export(struct stream *s, int fd, enum stream_kind kind, nodeid to,
		 struct rec_stream_ref *ret, struct krg_err *err)
{
	struct relay *r;
	struct stat st;
	int own;
	u64 id;

	if (FAULT_POINT(STREAM_EXPORT))
		return krg_err_set(err, -EIO, "export: fault point");
	if (to == s->self)
		return krg_err_set(err, -EINVAL, "a pipe stream to the same node");
	own = own_end(fd, kind, err);
	if (own < 0 && own != -ENXIO)
		return own;
	(void)fstat(fd, &st);
	handles_lock(&s->handles_lock);
	id = s->next_id++;
	handles_unlock(&s->handles_lock);
	r = relay_new(s, s->self, id, to, kind == STREAM_PIPE_READ, own);
	if (r == NULL) {
		krg_closep(&own);
		return krg_err_set(err, -ENFILE, "%u pipe streams are the limit", RELAYS_MAX);
	}
	*ret = (struct rec_stream_ref){
		.origin = s->self,
		.kind = (u16)kind,
		.id = id,
		.open_flags = (u32)fcntl(fd, F_GETFL) & (O_ACCMODE | O_NONBLOCK),
		.mode = st.st_mode,
		.ino = handle_ino(s->self, st.st_dev, st.st_ino),
		.uid = st.st_uid,
		.gid = st.st_gid,
		.pos = -1,
	};
	relay_put(r);
	s->stat_exports++;
	TRACE(STREAM_EXPORT, 0, id, kind, to);
	return 0;
}

void relay_cancel(struct stream *s, u64 id, nodeid to)
{
	struct relay *r = relay_get(s->relays, s->self, id);

	if (r == NULL)
		return;
	relay_lock(&r->lock);
	if (r->peer == to && r->state == RELAY_WAITING)
		relay_close_locked(r, r->opened);
	relay_leave(r);
}

/* A pipe for the process, and our end of it. */
static int make_pipe(const struct rec_stream_ref *ref, int *ret_own, int *ret_theirs)
{
	bool reads = ref->kind == STREAM_PIPE_READ; /* the process does */
	int p[2];

	if (pipe2(p, O_CLOEXEC) < 0)
		return -errno;
	(void)fcntl(p[0], F_SETPIPE_SZ, RELAY_PIPE_SIZE); /* or the default size */
	*ret_own = p[reads ? 1 : 0];
	*ret_theirs = p[reads ? 0 : 1];
	(void)fcntl(*ret_own, F_SETFL, O_NONBLOCK);
	if ((ref->open_flags & O_NONBLOCK) != 0)
		(void)fcntl(*ret_theirs, F_SETFL, O_NONBLOCK);
	return 0;
}

int relay_import(struct stream *s, const struct rec_stream_ref *ref, int *ret_fd,
		 struct krg_err *err)
{
	struct relay *r;
	int own = -EBADF, theirs = -EBADF, e;

	if (ref->origin == s->self || ref->origin >= KRG_NODES_MAX)
		return krg_err_set(err, -EINVAL, "a pipe stream of node %u", ref->origin);
	r = relay_get(s->relays, ref->origin, ref->id);
	if (r != NULL) {
		relay_put(r);
		return krg_err_set(err, -EEXIST, "pipe stream %llu is imported already",
				   (unsigned long long)ref->id);
	}
	e = make_pipe(ref, &own, &theirs);
	if (e < 0)
		return krg_err_set(err, e, "pipe: %s", strerror(-e));
	r = relay_new(s, ref->origin, ref->id, ref->origin, ref->kind == STREAM_PIPE_WRITE, own);
	if (r == NULL) {
		(void)close(own);
		(void)close(theirs);
		return krg_err_set(err, -ENFILE, "%u pipe streams are the limit", RELAYS_MAX);
	}
	relay_lock(&r->lock);
	(void)relay_move_locked(r, RELAY_MESSAGES);
	r->due |= DUE_OPEN;
	pump_locked(r);
	relay_leave(r);
	s->stat_imports++;
	TRACE(STREAM_IMPORT, 0, ref->id, ref->origin);
	*ret_fd = theirs;
	return 0;
}

/* The thread that watches it sees that nobody reads, or what there is to read, too: perhaps a moment too late. */
static void look_locked(struct relay *r)
{
	struct pollfd p = {.fd = r->fd};

	if (!r->sender && r->fd >= 0 && poll(&p, 1, 0) == 1 && (p.revents & POLLERR) != 0)
		relay_close_locked(r, true);
	else
		pump_locked(r);
}

void relay_push(struct stream *s, const struct rec_stream_ref *ref)
{
	struct relay *r = relay_get(s->relays, ref->origin, ref->id);

	if (r == NULL)
		return;
	relay_lock(&r->lock);
	look_locked(r);
	pump_locked(r); /* once more: after the last bytes it may be the end */
	relay_leave(r);
}

void relay_settled(struct stream *s, const struct rec_stream_ref *ref, void (*done)(void *ctx),
		   void *ctx)
{
	struct relay *r = relay_get(s->relays, ref->origin, ref->id);
	struct pollfd p = {.events = 0};
	struct settle *w;
	int there = 0;

	if (r == NULL) {
		done(ctx);
		return;
	}
	w = krg_xalloc(sizeof(*w));
	relay_lock(&r->lock);
	if (!r->sender)
		look_locked(r);
	p.fd = r->fd;
	if (r->sender && r->fd >= 0 && !r->eof) {
		(void)poll(&p, 1, 0);
		(void)ioctl(r->fd, FIONREAD, &there);
	}
	*w = (struct settle){.next = r->settles,
			     .pos = r->end + (u64)there,
			     .end = r->sender && (r->eof || (p.revents & POLLHUP) != 0),
			     .done = done,
			     .ctx = ctx};
	r->settles = w;
	if (r->sender && r->state != RELAY_CLOSED && (r->arrived < w->pos || w->end)) {
		r->settle_pos = KRG_MAX(r->settle_pos, w->pos);
		r->due |= DUE_SETTLE;
		pump_locked(r);
	}
	relay_leave(r);
}

void relay_stat(struct stream *s, u64 *ret_bytes, u64 *ret_relays)
{
	struct relay_set *set = s->relays;
	KRG_GUARD(handles, &set->lock);

	*ret_bytes = set->bytes;
	*ret_relays = set->nr;
}
