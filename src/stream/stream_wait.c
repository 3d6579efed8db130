/* stream_wait.c - reads, writes and polls of pipes and ttys at the origin, which may have to wait.
 *
 * Nobody waits in a system call: each try is made on a description of our own that does not wait
 * (handle->op_fd); what finds nothing joins the handle's list, and one thread with epoll tries again.
 * So a request is either in a list (and has taken nothing, or for a write a known part) or
 * answered, and a CANCEL ends it without losing a byte.
 */
#include "stream_impl.h"
#include "fault.h"
#include "log.h"
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

void wait_list_init(struct wait_list *l)
{
	l->first = NULL;
	l->last = &l->first;
}

static void list_add(struct wait_list *l, struct wait_op *op)
{
	op->next = NULL;
	*l->last = op;
	l->last = &op->next;
}

/* *at is taken out. */
static struct wait_op *list_take(struct wait_list *l, struct wait_op **at)
{
	struct wait_op *op = *at;

	*at = op->next;
	if (l->last == &op->next)
		l->last = at;
	op->next = NULL;
	return op;
}

/* ---- one try ---- */

static u32 poll_now(struct handle *h, u32 events)
{
	struct pollfd p = {.fd = h->fd, .events = (short)events};

	if (poll(&p, 1, 0) < 0)
		return POLLERR;
	return (u32)p.revents & 0xffffu;
}

static int read_back_locked(struct handle *h, struct wait_op *op)
{
	size_t n = KRG_MIN((size_t)op->size, h->back.len);
	struct rec_stream_data d = {.data = {h->back.data, n}};

	rec_stream_data_encode(&d, &op->answer);
	if (op->peek)
		return (int)n;
	memmove(h->back.data, h->back.data + n, h->back.len - n);
	h->back.len -= n;
	return (int)n;
}

#define READ_SMALL 16384u

/* The descriptor to be asked. */
static int asked_fd(const struct handle *h)
{
	return h->sock ? h->fd : h->op_fd;
}

static ssize_t read_now(struct handle *h, void *p, size_t n, bool peek)
{
	return h->sock ? recv(h->fd, p, n, MSG_DONTWAIT | (peek ? MSG_PEEK : 0))
		       : read(h->op_fd, p, n);
}

static int try_read_locked(struct handle *h, struct wait_op *op)
{
	u8 small[READ_SMALL];
	KRG_AUTO_FREE u8 *large = NULL;
	u32 size = op->size;
	int there = 0;
	ssize_t n;

	if (h->back.len > 0)
		return read_back_locked(h, op);
	if (asked_fd(h) < 0)
		return -EBADF;
	/* A tty's VMIN counts for poll, but not for a read that does not wait. */
	if (h->tty && poll_now(h, POLLIN) == 0)
		return -EAGAIN;
	/* Most programs ask for much and get little. */
	if (size > READ_SMALL && ioctl(asked_fd(h), FIONREAD, &there) == 0 &&
	    there > (int)READ_SMALL)
		large = krg_xalloc(size);
	else
		size = KRG_MIN(size, READ_SMALL);
	do
		n = read_now(h, large != NULL ? large : small, size, op->peek);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	struct rec_stream_data d = {.data = {large != NULL ? large : small, (size_t)n}};
	rec_stream_data_encode(&d, &op->answer);
	return (int)n;
}

/* Who waits to write has left its bytes at home: it is told when there is room. */
static int try_write_locked(struct handle *h)
{
	return (poll_now(h, POLLOUT) & (POLLOUT | POLLERR | POLLHUP)) != 0 ? 0 : -EAGAIN;
}

static int try_poll_locked(struct handle *h, struct wait_op *op)
{
	u32 got = poll_now(h, op->events);

	if (h->back.len > 0)
		got |= POLLIN | POLLRDNORM;
	return (got & (op->events | POLLERR | POLLHUP)) != 0 ? 0 : -EAGAIN;
}

static int try_locked(struct handle *h, struct wait_op *op)
{
	switch (op->kind) {
	case WAIT_READ:
		return try_read_locked(h, op);
	case WAIT_WRITE:
		return try_write_locked(h);
	case WAIT_POLL:
		return try_poll_locked(h, op);
	case WAIT_KIND_NR:
		break;
	}
	ASSERT(!"wait kind");
	return -EINVAL;
}

/* ---- waiting ---- */

static u32 wanted_locked(const struct handle *h)
{
	u32 events = 0;

	if (h->wait[WAIT_READ].first != NULL)
		events |= EPOLLIN;
	if (h->wait[WAIT_WRITE].first != NULL)
		events |= EPOLLOUT;
	for (const struct wait_op *op = h->wait[WAIT_POLL].first; op != NULL; op = op->next)
		events |= op->events & 0xffffu;
	return events;
}

/* Level-triggered once: arming looks again at what is there, so nothing is missed between a try
 * and the arming. */
static void arm_locked(struct handle *h)
{
	struct epoll_event ev = {.events = wanted_locked(h), .data.u64 = h->id};
	int op = h->in_epoll ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;

	if (h->wait_nr == 0)
		return;
	ev.events |= EPOLLONESHOT;
	if (epoll_ctl(h->s->wait_ep, op, h->fd, &ev) < 0)
		LOG_E("stream", "handle %llu: epoll: %s", (unsigned long long)h->id,
		      strerror(errno));
	else
		h->in_epoll = true;
}

static void push_back(struct handle *h, const struct wait_op *op)
{
	struct krg_rd rd = krg_rd_slice(krg_buf_slice(&op->answer));
	struct rec_stream_data d;

	if (rec_stream_data_decode(&rd, &d) < 0 || d.data.len == 0)
		return;
	handle_lock(&h->lock);
	if (h->back.len + d.data.len <= STREAM_BACK_MAX)
		krg_buf_put(&h->back, d.data.data, d.data.len);
	arm_locked(h);
	handle_unlock(&h->lock);
	LOG_I("stream", "handle %llu: %zu bytes kept, their reader's node died",
	      (unsigned long long)h->id, d.data.len);
}

static void send_ready(struct stream *s, const struct wait_op *op, u16 comm_op)
{
	KRG_AUTO_BUF struct krg_buf b = {0};
	struct rec_stream_name m = {.handle = op->opid, .node = s->self};

	rec_stream_name_encode(&m, &b);
	if (comm_try_send(s->comm, op->node, comm_op, &b) == -EAGAIN)
		LOG_E("stream", "wake-up for node %u not sent: queue full", op->node);
}

/* No lock held.  Answers them all and frees them. */
static void answer_all(struct handle *h, struct wait_op *op)
{
	while (op != NULL) {
		struct wait_op *next = op->next;

		if (op->kind != WAIT_READ) {
			if (op->code != -EBADF)
				send_ready(h->s, op,
					   op->kind == WAIT_POLL ? STREAM_OP_READY
								 : STREAM_OP_WRITABLE);
		} else if (op->code < 0) {
			comm_req_fail(op->req, op->code, "%s", strerror(-op->code));
		} else {
			if (comm_req_cancelled(op->req) && !op->peek)
				push_back(h, op);
			comm_req_answer(op->req, &op->answer);
		}
		krg_buf_fini(&op->answer);
		free(op);
		op = next;
	}
}

static void finish(struct wait_op ***tail, struct wait_op *op, int code)
{
	op->code = code;
	op->next = NULL;
	**tail = op;
	*tail = &op->next;
}

/* Try all that wait; those of one kind in their order, until one finds nothing.  Of the writers one is
 * woken, and the next when there is still room. */
static struct wait_op *run_locked(struct handle *h)
{
	struct wait_op *done = NULL, **tail = &done;

	for (int k = 0; k < WAIT_KIND_NR; k++) {
		struct wait_op **at = &h->wait[k].first;

		while (*at != NULL) {
			int r = try_locked(h, *at);

			if (r == -EAGAIN && k != WAIT_POLL)
				break;
			if (r == -EAGAIN) {
				at = &(*at)->next;
				continue;
			}
			h->wait_nr--;
			finish(&tail, list_take(&h->wait[k], at), r < 0 ? r : 0);
			if (k == WAIT_WRITE)
				break;
		}
	}
	return done;
}

static void on_ready(struct stream *s, u64 id)
{
	struct handle *h = handle_get(s, id);
	struct wait_op *done;

	if (h == NULL)
		return;
	handle_lock(&h->lock);
	done = run_locked(h);
	arm_locked(h);
	handle_unlock(&h->lock);
	answer_all(h, done);
	handle_put(h);
}

static void *waiter_main(void *arg)
{
	struct stream *s = arg;
	struct epoll_event ev[64];

	(void)pthread_setname_np(pthread_self(), "stream-wait");
	for (;;) {
		int n = epoll_wait(s->wait_ep, ev, KRG_NELEM(ev), -1);

		if (n < 0 && errno != EINTR)
			ASSERT(!"epoll_wait");
		for (int i = 0; i < n; i++) {
			if (ev[i].data.u64 == 0)
				return NULL;
			on_ready(s, ev[i].data.u64);
		}
	}
}

/* The request takes part: tried at once, and if nothing is there it waits.  Takes over op. */
static void submit(struct handle *h, struct wait_op *op)
{
	struct wait_op *done = NULL, **tail = &done;
	int r = -EAGAIN;

	handle_lock(&h->lock);
	/* Nobody overtakes those who wait, but who would not wait anyway. */
	if (h->wait[op->kind].first == NULL || op->nonblock || op->kind != WAIT_READ)
		r = try_locked(h, op);
	if (r == -EAGAIN && !op->nonblock) {
		if (h->wait_nr < STREAM_WAITING_MAX) {
			list_add(&h->wait[op->kind], op);
			h->wait_nr++;
			arm_locked(h);
			op = NULL;
		} else {
			r = -ENOBUFS;
		}
	}
	handle_unlock(&h->lock);
	if (op == NULL)
		return;
	finish(&tail, op, r < 0 ? r : 0);
	answer_all(h, done);
}

void wait_end(struct handle *h, nodeid node, int code)
{
	struct wait_op *done = NULL, **tail = &done;

	handle_lock(&h->lock);
	for (int k = 0; k < WAIT_KIND_NR; k++) {
		struct wait_op **at = &h->wait[k].first;

		while (*at != NULL) {
			if (node != KRG_NODE_NONE && (*at)->node != node) {
				at = &(*at)->next;
				continue;
			}
			h->wait_nr--;
			finish(&tail, list_take(&h->wait[k], at), k != WAIT_READ ? -EBADF : code);
		}
	}
	arm_locked(h);
	handle_unlock(&h->lock);
	answer_all(h, done);
}

/* ---- messages ---- */

/* The handle named, if it is the sender's and of the right sort; else the request is answered. */
static struct handle *handle_of(struct stream *s, struct comm_req *req, u64 id)
{
	struct handle *h = handle_get_for(s, id, req->from);

	if (h != NULL && h->way == HANDLE_EVENT)
		return h;
	if (h != NULL)
		handle_put(h);
	comm_req_fail(req, h == NULL ? -EBADF : -EINVAL, "handle %llu is not node %u's",
		      (unsigned long long)id, req->from);
	return NULL;
}

static bool nonblock_now(struct handle *h, u32 flags)
{
	return (flags & O_NONBLOCK) != 0 || (fcntl(h->fd, F_GETFL) & O_NONBLOCK) != 0;
}

static struct wait_op *op_new(enum wait_kind kind, struct comm_req *req, u64 opid)
{
	struct wait_op *op = krg_xalloc(sizeof(*op));

	op->kind = kind;
	op->node = req->from;
	op->req = req;
	op->opid = opid;
	return op;
}

static void on_read(void *ctx, struct comm_req *req)
{
	struct stream *s = ctx;
	struct krg_rd rd = krg_rd_slice(req->body);
	struct rec_stream_read m;
	struct handle *h;
	struct wait_op *op;

	if (rec_stream_read_decode(&rd, &m) < 0 || m.size > STREAM_IO_MAX) {
		comm_req_fail(req, -EBADMSG, "read: broken request");
		return;
	}
	h = handle_of(s, req, m.handle);
	if (h == NULL)
		return;
	s->stat_ops++;
	if (caller_is_behind(h, m.sid, m.pgid, SIGTTIN)) {
		comm_req_fail(req, STREAM_BACKGROUND, "read from the background");
		handle_put(h);
		return;
	}
	op = op_new(WAIT_READ, req, m.opid);
	op->size = m.size;
	op->nonblock = nonblock_now(h, m.flags);
	op->peek = (m.flags & STREAM_READ_PEEK) != 0 && h->sock && op->nonblock;
	submit(h, op);
	handle_put(h);
}

/* Writes what fits.  0, or negative errno if nothing was written. */
static int write_now(struct handle *h, const struct rec_stream_write *m, u32 *ret_n)
{
	u32 done = 0;

	while (done < m->data.len) {
		const u8 *p = m->data.data + done;
		size_t len = m->data.len - done;
		ssize_t n = h->sock	   ? send(h->fd, p, len, MSG_DONTWAIT | MSG_NOSIGNAL)
			    : h->op_fd < 0 ? (errno = EPIPE, -1) /* exported without a reader */
					   : write(h->op_fd, p, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && done == 0)
			return -errno;
		if (n < 0)
			break;
		done += (u32)n;
	}
	*ret_n = done;
	return 0;
}

static void watch(struct handle *h, enum wait_kind kind, nodeid node, u64 opid, u32 events);

/* A write does not wait here: a request that waits takes up its sender's window (comm), and its
 * bytes are many.  What does not fit stays with the importer until WRITABLE. */
static void on_write(void *ctx, struct comm_req *req)
{
	struct stream *s = ctx;
	struct krg_rd rd = krg_rd_slice(req->body);
	KRG_AUTO_BUF struct krg_buf answer = {0};
	struct rec_stream_done d = {0};
	struct rec_stream_write m;
	nodeid from = req->from;
	struct handle *h;
	u64 opid;
	int r;

	if (rec_stream_write_decode(&rd, &m) < 0) {
		comm_req_fail(req, -EBADMSG, "write: broken request");
		return;
	}
	h = handle_of(s, req, m.handle);
	if (h == NULL)
		return;
	s->stat_ops++;
	opid = m.opid;
	r = caller_is_behind(h, m.sid, m.pgid, SIGTTOU) ? STREAM_BACKGROUND
							: write_now(h, &m, &d.n);
	d.wait = (r == 0 || r == -EAGAIN) && d.n < m.data.len && !nonblock_now(h, m.flags);
	if (r < 0 && !d.wait) {
		comm_req_fail(req, r, "write: %s", strerror(-r));
	} else {
		rec_stream_done_encode(&d, &answer);
		comm_req_answer(req, &answer);
	}
	if (d.wait) /* after the answer, as WRITABLE must come after it */
		watch(h, WAIT_WRITE, from, opid, POLLOUT);
	handle_put(h);
}

/* One watch an import or a write: a later one replaces it with the events of both. */
static void watch(struct handle *h, enum wait_kind kind, nodeid node, u64 opid, u32 events)
{
	struct wait_op *op;

	handle_lock(&h->lock);
	for (op = h->wait[kind].first; op != NULL; op = op->next)
		if (op->node == node && op->opid == opid)
			break;
	if (op != NULL) {
		op->events |= events & 0xffffu;
		arm_locked(h);
	}
	handle_unlock(&h->lock);
	if (op != NULL)
		return;
	op = krg_xalloc(sizeof(*op));
	op->kind = kind;
	op->node = node;
	op->opid = opid;
	op->events = events & 0xffffu;
	submit(h, op);
}

static void on_poll(void *ctx, struct comm_req *req)
{
	struct stream *s = ctx;
	struct krg_rd rd = krg_rd_slice(req->body);
	KRG_AUTO_BUF struct krg_buf answer = {0};
	struct rec_stream_revents r = {0};
	struct rec_stream_poll m;
	nodeid from = req->from;
	struct handle *h;

	if (rec_stream_poll_decode(&rd, &m) < 0) {
		comm_req_fail(req, -EBADMSG, "poll: broken request");
		return;
	}
	h = handle_of(s, req, m.handle);
	if (h == NULL)
		return;
	s->stat_ops++;
	handle_lock(&h->lock);
	r.revents = poll_now(h, m.events);
	if (h->back.len > 0)
		r.revents |= (POLLIN | POLLRDNORM) & m.events;
	handle_unlock(&h->lock);
	rec_stream_revents_encode(&r, &answer);
	/* The answer goes first: a READY that came before it would find nobody. */
	comm_req_answer(req, &answer);
	if (m.watch && r.revents == 0)
		watch(h, WAIT_POLL, from, m.import, m.events);
	handle_put(h);
}

static void on_cancel(void *ctx, struct comm_req *req)
{
	struct stream *s = ctx;
	struct krg_rd rd = krg_rd_slice(req->body);
	struct wait_op *done = NULL, **tail = &done;
	struct rec_stream_cancel m;
	struct handle *h = NULL;

	if (rec_stream_cancel_decode(&rd, &m) == 0)
		h = handle_get_for(s, m.handle, req->from);
	for (int k = 0; h != NULL && k < WAIT_POLL; k++) {
		handle_lock(&h->lock);
		for (struct wait_op **at = &h->wait[k].first; *at != NULL; at = &(*at)->next) {
			if ((*at)->opid != m.opid || (*at)->node != req->from)
				continue;
			h->wait_nr--;
			finish(&tail, list_take(&h->wait[k], at), k == WAIT_READ ? -EINTR : -EBADF);
			break;
		}
		handle_unlock(&h->lock);
	}
	if (h != NULL)
		lock_cancel(s, req->from, m.opid);
	comm_req_answer(req, NULL);
	if (h == NULL)
		return;
	answer_all(h, done);
	handle_put(h);
}

void wait_register(struct stream *s)
{
	comm_register(s->comm, STREAM_OP_READ, COMM_INLINE, on_read, s);
	comm_register(s->comm, STREAM_OP_WRITE, COMM_INLINE, on_write, s);
	comm_register(s->comm, STREAM_OP_POLL, COMM_INLINE, on_poll, s);
	comm_register(s->comm, STREAM_OP_CANCEL, COMM_INLINE, on_cancel, s);
}

int wait_start(struct stream *s, struct krg_err *err)
{
	struct epoll_event ev = {.events = EPOLLIN, .data.u64 = 0};
	int r;

	s->wait_ep = epoll_create1(EPOLL_CLOEXEC);
	s->wait_stop_ev = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (s->wait_ep < 0 || s->wait_stop_ev < 0 ||
	    epoll_ctl(s->wait_ep, EPOLL_CTL_ADD, s->wait_stop_ev, &ev) < 0)
		return krg_err_set(err, -errno, "stream: epoll: %s", strerror(errno));
	r = pthread_create(&s->waiter, NULL, waiter_main, s);
	if (r != 0)
		return krg_err_set(err, -r, "stream: thread: %s", strerror(r));
	s->waiter_runs = true;
	return 0;
}

void wait_stop(struct stream *s)
{
	if (s->waiter_runs) {
		(void)eventfd_write(s->wait_stop_ev, 1);
		(void)pthread_join(s->waiter, NULL);
	}
	s->waiter_runs = false;
}
