/* stream_pump.c - moving the bytes of a pipe stream.  Nothing here waits: what cannot go on asks
 * epoll for the event that it needs. */
#include "stream_relay.h"
#include "fault.h"
#include "log.h"
#include "trace.h"
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#define PUMP_TURNS 16 /* then others of this thread get theirs */

/* ---- control messages ---- */

static bool send_ctl(struct relay *r, u16 op, u64 pos)
{
	KRG_AUTO_BUF struct krg_buf b = {0};
	struct rec_stream_pipe m = {.origin = r->origin, .id = r->id, .pos = pos};

	rec_stream_pipe_encode(&m, &b);
	return comm_try_send(r->s->comm, r->peer, op, &b) != -EAGAIN;
}

void pump_due_locked(struct relay *r)
{
	const struct {
		u32 due;
		u16 op;
		u64 pos;
	} all[] = {
		/* in this order: an ACK may be for less than its RESTART */
		{DUE_OPEN, STREAM_OP_PIPE_OPEN, 0},
		{DUE_BROKEN, STREAM_OP_PIPE_BROKEN, r->end},
		{DUE_RESTART, STREAM_OP_PIPE_RESTART, r->got},
		{DUE_ACK, STREAM_OP_PIPE_ACK, r->got - r->in.len},
		{DUE_EOF, STREAM_OP_PIPE_EOF, r->end},
		{DUE_SETTLE, STREAM_OP_PIPE_SETTLE, r->settle_pos},
		{DUE_CLOSED, STREAM_OP_PIPE_CLOSED, r->got},
	};

	for (size_t i = 0; i < KRG_NELEM(all) && r->due != 0; i++) {
		if ((r->due & all[i].due) == 0)
			continue;
		if (!r->peer_dead && !send_ctl(r, all[i].op, all[i].pos)) {
			relay_retry_locked(r);
			return;
		}
		r->due &= ~all[i].due;
	}
}

/* ---- sender ---- */

void pump_ack_locked(struct relay *r, u64 pos)
{
	if (pos > r->end) {
		LOG_W("stream", "node %u acknowledges what was not sent", r->peer);
		relay_close_locked(r, true);
		return;
	}
	r->arrived = KRG_MAX(r->arrived, pos);
	if (pos < r->acked) /* an older one, from before a restart */
		return;
	hold_drop(&r->hold, pos - r->acked);
	r->acked = pos;
	r->sent = KRG_MAX(r->sent, pos); /* after a restart: it had come already */
}

static void drop_sock(struct relay *r)
{
	if (r->sock < 0)
		return;
	relay_interest_locked(r, r->sock, &r->sock_events, RELAY_NO_EVENTS);
	(void)close(r->sock);
	r->sock = -EBADF;
	r->hello_n = 0;
}

/* Everything from pos on will be sent again. */
void pump_restart_locked(struct relay *r, u64 pos)
{
	if (pos < r->acked || pos > r->end) {
		LOG_W("stream", "node %u wants to restart where it cannot be", r->peer);
		relay_close_locked(r, true);
		return;
	}
	hold_flatten(&r->hold, r->teed > r->end ? r->teed - r->end : 0);
	r->teed = r->end;
	hold_drop(&r->hold, pos - r->acked);
	r->acked = r->sent = pos;
}

/* The connection is lost; both sides go back to messages, at the position that the receiver says. */
void pump_broken_locked(struct relay *r)
{
	/* Also how an orderly end looks, when the peer's CLOSED is still on its way. */
	LOG_D("stream", "stream %u/%llu: connection lost at %llu", r->origin,
	      (unsigned long long)r->id, (unsigned long long)(r->sender ? r->end : r->got));
	drop_sock(r);
	if (r->sender) {
		(void)relay_move_locked(r, RELAY_BROKEN);
		r->due |= DUE_BROKEN;
	} else if (r->peer_dead) {
		r->eof_known = true;
		r->eof_pos = r->got;
		(void)relay_move_locked(r, RELAY_MESSAGES);
	} else {
		(void)relay_move_locked(r, RELAY_MESSAGES);
		/* What was acknowledged on the connection may be lost. */
		r->told = r->got - r->in.len;
		r->due |= DUE_RESTART | DUE_ACK;
	}
	pump_due_locked(r);
}

enum step {
	STEP_ON,     /* something moved */
	STEP_SOURCE, /* nothing to send */
	STEP_SOCK,   /* the socket is full */
	STEP_ACK,    /* the window is full */
	STEP_END,    /* nothing more to do here */
};

static enum step send_raw(struct relay *r, const u8 *p, size_t n)
{
	ssize_t k = send(r->sock, p, n, MSG_NOSIGNAL | MSG_DONTWAIT);

	if (k < 0 && (errno == EAGAIN || errno == EINTR))
		return STEP_SOCK;
	if (k < 0) {
		pump_broken_locked(r);
		return STEP_END;
	}
	r->sent += (u64)k;
	return STEP_ON;
}

static enum step send_message(struct relay *r, const u8 *p, size_t n)
{
	KRG_AUTO_BUF struct krg_buf b = {0};
	struct rec_stream_pipe_data m = {
		.origin = r->origin,
		.id = r->id,
		.pos = r->sent,
		.data = {p, KRG_MIN(n, (size_t)STREAM_PIPE_MSG_MAX)},
	};
	int e;

	if (r->sent - r->arrived >= RELAY_WINDOW)
		return STEP_ACK;
	rec_stream_pipe_data_encode(&m, &b);
	e = comm_try_send(r->s->comm, r->peer, STREAM_OP_PIPE_DATA, &b);
	if (e == -EAGAIN) {
		relay_retry_locked(r);
		return STEP_ACK;
	}
	r->sent += m.data.len;
	r->msgs++;
	if (r->end >= RELAY_RAW_BYTES || r->msgs >= RELAY_RAW_MSGS)
		relay_want_connection_locked(r);
	return STEP_ON;
}

static enum step send_held(struct relay *r)
{
	size_t n = r->end - r->sent;
	const u8 *p = hold_mem_tail(&r->hold, n);

	return r->state == RELAY_RAW ? send_raw(r, p, n) : send_message(r, p, n);
}

static enum step source_ended(struct relay *r)
{
	r->eof = true;
	r->due |= DUE_EOF;
	pump_due_locked(r);
	return STEP_END;
}

/* A pipe that is a bottleneck becomes larger: for each of its fillings both sides have to be woken. */
static void widen(struct relay *r)
{
	if (r->widened)
		return;
	r->widened = true;
	if (fcntl(r->fd, F_GETPIPE_SZ) < RELAY_WIDE)
		(void)fcntl(r->fd, F_SETPIPE_SZ, RELAY_WIDE);
}

/* Pages go from the source to the socket; tee keeps them in the holding pipe as well. */
static enum step take_by_splice(struct relay *r)
{
	ssize_t n;

	widen(r);
	if (r->teed == r->end) {
		n = hold_tee(&r->hold, r->fd, RELAY_PIPE_SIZE);
		if (n == -EAGAIN)
			return STEP_ACK; /* the source has something, so it is the hold that is full */
		if (n <= 0)
			return n == 0 ? source_ended(r) : STEP_SOURCE;
		r->teed += (u64)n;
	}
	if (FAULT_POINT(STREAM_DATA))
		(void)shutdown(r->sock, SHUT_RDWR);
	n = splice(r->fd, NULL, r->sock, NULL, r->teed - r->end, SPLICE_F_NONBLOCK | SPLICE_F_MOVE);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return STEP_SOCK;
	if (n <= 0) {
		pump_broken_locked(r);
		return STEP_END;
	}
	r->end += (u64)n;
	r->sent = r->end;
	relay_count(r->s, (u64)n);
	return STEP_ON;
}

static enum step take_by_read(struct relay *r)
{
	u8 buf[STREAM_PIPE_MSG_MAX];
	ssize_t n;

	if (hold_mem_len(&r->hold) + sizeof(buf) > RELAY_HOLD_MAX ||
	    (r->state != RELAY_RAW && r->end - r->acked >= RELAY_WINDOW))
		return STEP_ACK;
	n = read(r->fd, buf, sizeof(buf));
	if (n == 0)
		return source_ended(r);
	if (n < 0 && errno == EAGAIN)
		r->had_writer = true;
	if (n < 0)
		return errno == EINTR ? STEP_ON : STEP_SOURCE;
	/* A short read: that was all.  No need to ask, epoll says so when more comes.  But of a FIFO whose writers had
	 * gone when own_end() opened it, it will not say that (no POLLHUP without a writer since): so ask once. */
	r->drained = n < (ssize_t)sizeof(buf) && r->had_writer;
	r->bulk = n == (ssize_t)sizeof(buf);
	hold_put(&r->hold, buf, (size_t)n);
	r->end += (u64)n;
	r->teed = r->end;
	relay_count(r->s, (u64)n);
	return STEP_ON;
}

static enum step take(struct relay *r)
{
	int there = 0;

	if (r->state != RELAY_RAW)
		return take_by_read(r);
	if (r->teed > r->end)
		return take_by_splice(r);
	if (r->bulk && ioctl(r->fd, FIONREAD, &there) == 0 && there > (int)RELAY_SMALL &&
	    hold_can_tee(&r->hold))
		return take_by_splice(r);
	return take_by_read(r);
}

static enum step send_step(struct relay *r)
{
	if (r->state != RELAY_MESSAGES && r->state != RELAY_RAW)
		return STEP_END;
	if (r->sent < r->end)
		return send_held(r);
	if (r->drained) {
		r->drained = false;
		return STEP_SOURCE;
	}
	return r->eof ? STEP_END : take(r);
}

static void pump_send(struct relay *r)
{
	enum step step = STEP_ON;
	bool more;

	for (int i = 0; i < PUMP_TURNS && step == STEP_ON; i++)
		step = send_step(r);
	if (r->state == RELAY_CLOSED)
		return;
	/* Not watched at all when not wanted: a pipe without writers would wake us for ever. */
	relay_interest_locked(r, r->fd, &r->fd_events,
			      step == STEP_ON || step == STEP_SOURCE ? EPOLLIN : RELAY_NO_EVENTS);
	more = step == STEP_ON && (r->sent < r->end || r->teed > r->end);
	if (r->sock >= 0)
		relay_interest_locked(r, r->sock, &r->sock_events,
				      EPOLLIN | (step == STEP_SOCK || more ? EPOLLOUT : 0u));
	else if (more)
		relay_retry_locked(r);
}

/* ---- receiver ---- */

static void ack(struct relay *r)
{
	u64 pos = r->got - r->in.len;
	u8 b[8];

	if (pos - r->told < (r->state == RELAY_RAW ? RELAY_RAW_ACK : RELAY_MSG_ACK) &&
	    (pos < r->want || r->told >= r->want))
		return;
	r->told = pos;
	if (r->state != RELAY_RAW) {
		r->due |= DUE_ACK;
		pump_due_locked(r);
		return;
	}
	for (int i = 0; i < 8; i++)
		b[i] = (u8)(pos >> (8 * i));
	/* Eight bytes fit, as they are rare; if not, the connection is as good as lost. */
	if (send(r->sock, b, 8, MSG_NOSIGNAL | MSG_DONTWAIT) != 8)
		pump_broken_locked(r);
}

/* 1: all of it; 0: the pipe is full; negative: nobody reads any more */
static int put_messages(struct relay *r)
{
	while (r->in.len > 0) {
		ssize_t n = write(r->fd, r->in.data, r->in.len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == EAGAIN ? 0 : -errno;
		memmove(r->in.data, r->in.data + n, r->in.len - (size_t)n);
		r->in.len -= (size_t)n;
	}
	return 1;
}

static int put_raw(struct relay *r)
{
	for (int i = 0; i < PUMP_TURNS; i++) {
		int there = 0;
		ssize_t n = splice(r->sock, NULL, r->fd, NULL, RELAY_PIPE_SIZE,
				   SPLICE_F_NONBLOCK | SPLICE_F_MOVE);

		if (n > 0) {
			r->got += (u64)n;
			ack(r);
			/* A few bytes were all there was; epoll says so when more come. */
			if (r->sock < 0 || n <= RELAY_FEW)
				return 1;
			continue;
		}
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EPIPE)
			return -EPIPE;
		if (n == 0 || errno != EAGAIN) {
			pump_broken_locked(r);
			return 1;
		}
		/* Which of the two is it? */
		if (ioctl(r->sock, FIONREAD, &there) < 0 || there == 0)
			return 1;
		if (r->widened)
			return 0;
		widen(r);
	}
	return 1;
}

static void pump_recv(struct relay *r)
{
	int room = put_messages(r);

	if (room > 0 && r->state == RELAY_RAW)
		room = put_raw(r);
	if (room < 0) {
		relay_close_locked(r, true);
		return;
	}
	ack(r);
	if (r->eof_known && r->got == r->eof_pos && r->in.len == 0) {
		relay_close_locked(r, true);
		return;
	}
	relay_interest_locked(r, r->fd, &r->fd_events, room > 0 ? 0 : EPOLLOUT);
	if (r->sock >= 0)
		relay_interest_locked(r, r->sock, &r->sock_events,
				      room > 0 ? EPOLLIN : RELAY_NO_EVENTS);
}

void pump_data_locked(struct relay *r, u64 pos, struct krg_slice data)
{
	/* On a connection of its own: what still comes here comes there, too.  After a restart:
	 * what was sent before the sender heard of it. */
	if (r->state != RELAY_MESSAGES || pos > r->got || pos + data.len <= r->got)
		return;
	data.data += r->got - pos;
	data.len -= r->got - pos;
	if (r->in.len + data.len > 2 * RELAY_WINDOW) {
		LOG_W("stream", "node %u sends more than was agreed", r->peer);
		relay_close_locked(r, true);
		return;
	}
	krg_buf_put(&r->in, data.data, data.len);
	r->got += data.len;
	pump_locked(r);
}

/* ---- both ---- */

void pump_locked(struct relay *r)
{
	if (r->state == RELAY_CLOSED || r->state == RELAY_WAITING)
		return;
	pump_due_locked(r);
	if (r->sender)
		pump_send(r);
	else
		pump_recv(r);
}

static u64 hello_pos(const u8 *b)
{
	u64 pos = 0;

	for (int i = 0; i < 8; i++)
		pos |= (u64)b[i] << (8 * i);
	return pos;
}

/* The sender's socket is readable: the position to begin at, then acknowledgements. */
void pump_sock_locked(struct relay *r)
{
	while (r->sender && r->sock >= 0) {
		ssize_t n = recv(r->sock, r->hello + r->hello_n, 8 - r->hello_n, MSG_DONTWAIT);

		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			break;
		if (n <= 0) {
			pump_broken_locked(r);
			break;
		}
		r->hello_n += (u32)n;
		if (r->hello_n < 8)
			break;
		r->hello_n = 0;
		if (r->state == RELAY_CONNECTING) {
			(void)relay_move_locked(r, RELAY_RAW);
			pump_restart_locked(r, hello_pos(r->hello));
		} else {
			pump_ack_locked(r, hello_pos(r->hello));
		}
	}
	pump_locked(r);
}
