#include "door_impl.h"
#include "clock.h"
#include "log.h"
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#define CLIENTS_DEFAULT	   1024
#define WORKERS_DEFAULT	   48
#define MESSAGE_MS_DEFAULT 10000
#define SHARE		   4 /* one uid but root gets a quarter of clients and workers */
#define SWEEP_MS	   250
#define FLUSH_MS	   500

static void wake(struct door *d)
{
	u64 one = 1;
	ssize_t n = write(d->wake_fd, &one, sizeof(one));

	ASSERT(n == sizeof(one) || errno == EAGAIN);
}

/* ---- connections, from any thread ---- */

struct door_conn *door_conn_ref(struct door_conn *c)
{
	KRG_GUARD(door, &c->door->lock);
	ASSERT(c->refs > 0);
	c->refs++;
	return c;
}

void door_conn_unref(struct door_conn *c)
{
	struct door *d = c->door;
	bool last;

	door_lock(&d->lock);
	ASSERT(c->refs > 0);
	last = --c->refs == 0;
	door_unlock(&d->lock);
	if (!last)
		return;
	door_conn_free(c);
	door_lock(&d->lock);
	d->nlive--;
	door_unlock(&d->lock);
}

/* The I/O thread shall look at it: there is something to send, or it may read again. */
static void conn_dirty_locked(struct door_conn *c)
{
	struct door *d = c->door;

	if (c->dirty || c->state == CONN_CLOSED)
		return;
	c->dirty = true;
	c->refs++;
	c->dnext = d->dirty;
	d->dirty = c;
	wake(d);
}

/* Its slot is free once its socket is closed and no worker has it: so that nobody gets more than a
 * share by closing early. */
static void conn_release_locked(struct door_conn *c)
{
	struct door *d = c->door;

	if (c->state != CONN_CLOSED || c->queued || d->conn[c->slot] != c)
		return;
	d->conn[c->slot] = NULL;
	d->nconn--;
}

void door_conn_event(struct door_conn *c, json_t *j)
{
	KRG_AUTO_BUF struct krg_buf b = {0};

	door_pack(j, &b);
	json_decref(j);
	KRG_GUARD(door, &c->door->lock);
	if (c->state == CONN_CLOSED || c->out.len + c->held.len + b.len > DOOR_OUT_MAX)
		return;
	c->door->stat.events++;
	if (c->state == CONN_BUSY) {
		krg_buf_put(&c->held, b.data, b.len);
		return;
	}
	krg_buf_put(&c->out, b.data, b.len);
	conn_dirty_locked(c);
}

void door_conn_user_set(struct door_conn *c, void *user, void (*drop)(void *user))
{
	KRG_GUARD(door, &c->door->lock);
	ASSERT(c->user == NULL);
	c->user = user;
	c->drop = drop;
}

void *door_conn_user(struct door_conn *c)
{
	KRG_GUARD(door, &c->door->lock);
	return c->user;
}

/* ---- workers ---- */

static unsigned busy_of_uid_locked(const struct door *d, uid_t uid)
{
	unsigned n = 0;

	for (unsigned i = 0; i < d->nworkers; i++)
		n += d->worker[i].busy && d->worker[i].uid == uid;
	return n;
}

/* The first request whose uid has not got its share of the workers yet. */
static struct door_conn *queue_take_locked(struct door *d)
{
	unsigned share = KRG_MAX(d->config.workers / SHARE, 1u);

	for (struct door_conn **at = &d->queue; *at != NULL; at = &(*at)->qnext) {
		struct door_conn *c = *at;

		if (c->peer.uid != 0 && busy_of_uid_locked(d, c->peer.uid) >= share)
			continue;
		*at = c->qnext;
		c->qnext = NULL;
		return c;
	}
	return NULL;
}

static void queue_put_locked(struct door_conn *c)
{
	struct door_conn **at = &c->door->queue;

	ASSERT(!c->queued);
	while (*at != NULL)
		at = &(*at)->qnext;
	*at = c;
	c->queued = true;
	c->refs++;
	krg_cond_signal(&c->door->work);
}

/* Its descriptors are closed here, where waiting harms nobody else. */
static void conn_message_reset(struct door_conn *c)
{
	for (unsigned i = 0; i < c->nfds; i++)
		krg_closep(&c->fds[i]);
	c->nfds = 0;
	c->head_len = 0;
	c->want = 0;
	if (c->in.room > sizeof(c->head) << 12) {
		krg_buf_fini(&c->in);
		c->in = (struct krg_buf){0};
	}
	krg_buf_reset(&c->in);
}

static void conn_work(struct door_conn *c, bool serve)
{
	KRG_AUTO_BUF struct krg_buf answer = {0};
	struct door *d = c->door;

	if (serve)
		door_conn_serve(c, &answer);
	conn_message_reset(c);
	door_lock(&d->lock);
	c->queued = false;
	if (c->state == CONN_BUSY) {
		krg_buf_put(&c->out, answer.data, answer.len);
		krg_buf_put(&c->out, c->held.data, c->held.len);
		krg_buf_reset(&c->held);
		c->state = CONN_READ;
		conn_dirty_locked(c);
	}
	conn_release_locked(c);
	door_unlock(&d->lock);
	door_conn_unref(c);
}

static void *worker_main(void *arg)
{
	struct door_worker *w = arg;
	struct door *d = w->door;

	(void)pthread_setname_np(pthread_self(), "krg-door-work");
	door_lock(&d->lock);
	for (;;) {
		struct door_conn *c = queue_take_locked(d);
		bool serve;

		if (c == NULL) {
			if (d->ended)
				break;
			krg_cond_wait(&d->work, &d->lock);
			continue;
		}
		w->busy = true;
		w->uid = c->peer.uid;
		d->nbusy++;
		serve = c->state == CONN_BUSY;
		d->stat.requests += serve;
		door_unlock(&d->lock);
		conn_work(c, serve);
		door_lock(&d->lock);
		w->busy = false;
		d->nbusy--;
		if (d->queue != NULL)
			krg_cond_signal(&d->work); /* one that waited for its share */
	}
	door_unlock(&d->lock);
	return NULL;
}

static unsigned queue_len_locked(const struct door *d)
{
	unsigned n = 0;

	for (const struct door_conn *c = d->queue; c != NULL; c = c->qnext)
		n++;
	return n;
}

/* A thread more, if more requests wait than threads. */
static void workers_grow(struct door *d)
{
	KRG_GUARD(door, &d->lock);
	struct door_worker *w;

	if (queue_len_locked(d) <= d->nworkers - d->nbusy || d->nworkers == d->config.workers)
		return;
	w = &d->worker[d->nworkers];
	*w = (struct door_worker){.door = d};
	if (pthread_create(&w->thread, NULL, worker_main, w) == 0)
		d->nworkers++;
	else if (d->nworkers == 0)
		LOG_E("door", "no thread can be made");
}

/* ---- the I/O thread ---- */

static void poll_set(struct door_conn *c, u32 events)
{
	struct epoll_event ev = {.events = events, .data.ptr = c};

	if (c->polled == events)
		return;
	c->polled = events;
	(void)epoll_ctl(c->door->epoll_fd, EPOLL_CTL_MOD, c->fd, &ev);
}

static void conn_drop(struct door_conn *c, int why)
{
	struct door *d = c->door;

	if (c->fd < 0)
		return;
	(void)epoll_ctl(d->epoll_fd, EPOLL_CTL_DEL, c->fd, NULL);
	(void)close(c->fd);
	c->fd = -EBADF;
	door_lock(&d->lock);
	c->state = CONN_CLOSED;
	if (!c->queued && c->nfds > 0)
		queue_put_locked(c);
	conn_release_locked(c);
	d->stat.broken += why != -ENOTCONN;
	door_unlock(&d->lock);
	if (why != -ENOTCONN)
		LOG_D("door", "uid %u pid %d: dropped: %s", c->peer.uid, c->peer.pid,
		      strerror(-why));
	workers_grow(d);
	door_conn_unref(c);
}

static void conn_queue(struct door_conn *c)
{
	struct door *d = c->door;

	c->in_since = 0;
	door_lock(&d->lock);
	c->state = CONN_BUSY;
	queue_put_locked(c);
	door_unlock(&d->lock);
	workers_grow(d);
}

/* Send, then read: so a client that shut its side down still gets its answer. */
static void conn_progress(struct door_conn *c, u64 now_ns)
{
	struct door *d = c->door;
	int sent, got = 0;
	bool reading;

	if (c->fd < 0)
		return;
	sent = door_conn_write(c, now_ns);
	if (sent < 0) {
		conn_drop(c, sent);
		return;
	}
	door_lock(&d->lock);
	reading = c->state == CONN_READ;
	door_unlock(&d->lock);
	if (reading) {
		got = door_conn_read(c, now_ns);
		if (got < 0) {
			conn_drop(c, got);
			return;
		}
		if (got > 0)
			conn_queue(c);
	}
	d->sweep |= c->in_since != 0 || c->out_since != 0;
	poll_set(c, (reading && got == 0 ? (u32)EPOLLIN : 0) | (sent == 0 ? (u32)EPOLLOUT : 0));
}

static void conn_on_event(struct door_conn *c, u32 events, u64 now_ns)
{
	/* both sides are closed: with no EPOLLIN asked for, only dropping it silences epoll */
	if ((events & (EPOLLHUP | EPOLLERR)) && !(c->polled & EPOLLIN))
		conn_drop(c, -ENOTCONN);
	else
		conn_progress(c, now_ns);
}

static void dirty_all(struct door *d, u64 now_ns)
{
	struct door_conn *list, *next;

	door_lock(&d->lock);
	list = d->dirty;
	d->dirty = NULL;
	for (struct door_conn *c = list; c != NULL; c = c->dnext)
		c->dirty = false;
	door_unlock(&d->lock);
	for (struct door_conn *c = list; c != NULL; c = next) {
		next = c->dnext;
		conn_progress(c, now_ns);
		door_conn_unref(c);
	}
}

static bool too_many(struct door *d, const struct door_peer *peer)
{
	unsigned same = 0, all = d->config.clients;

	KRG_GUARD(door, &d->lock);
	if (d->nconn >= all)
		return true;
	if (peer->uid == 0)
		return false;
	for (unsigned i = 0; i < all; i++)
		same += d->conn[i] != NULL && d->conn[i]->peer.uid == peer->uid;
	/* a last piece is root's, who may have to look after things */
	return same >= KRG_MAX(all / SHARE, 1u) || d->nconn >= all - all / 16;
}

static void conn_add(struct door *d, struct door_conn *c)
{
	struct epoll_event ev = {.events = EPOLLIN, .data.ptr = c};

	c->polled = EPOLLIN;
	door_lock(&d->lock);
	for (c->slot = 0; d->conn[c->slot] != NULL; c->slot++)
		ASSERT(c->slot < d->config.clients);
	d->conn[c->slot] = c;
	d->nconn++;
	d->nlive++;
	d->stat.accepted++;
	door_unlock(&d->lock);
	if (epoll_ctl(d->epoll_fd, EPOLL_CTL_ADD, c->fd, &ev) < 0)
		conn_drop(c, -errno);
}

/* Says why, as far as that goes without waiting. */
static void turn_away(struct door *d, struct door_conn *c)
{
	KRG_AUTO_BUF struct krg_buf b = {0};
	json_t *j = json_pack("{s:b, s:i, s:s, s:i}", "ok", 0, "errno", EAGAIN, "error",
			      "door: too many clients", "node", (int)d->config.node);

	door_pack(j, &b);
	json_decref(j);
	(void)send(c->fd, b.data, b.len, MSG_NOSIGNAL | MSG_DONTWAIT);
	(void)close(c->fd);
	c->fd = -EBADF;
	c->refs = 0;
	door_conn_free(c);
	KRG_GUARD(door, &d->lock);
	d->stat.refused++;
}

static void listen_set(struct door *d, bool on)
{
	struct epoll_event ev = {.events = on ? (u32)EPOLLIN : 0, .data.ptr = &d->listen_fd};

	d->listening = on;
	(void)epoll_ctl(d->epoll_fd, EPOLL_CTL_MOD, d->listen_fd, &ev);
}

static void accept_some(struct door *d)
{
	for (unsigned i = 0; i < 64; i++) {
		int fd = accept4(d->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		struct door_conn *c;

		if (fd < 0) {
			/* no descriptors or memory left: try again at the next sweep */
			if (errno == EMFILE || errno == ENFILE || errno == ENOMEM ||
			    errno == ENOBUFS) {
				listen_set(d, false);
				d->sweep = true;
			}
			return;
		}
		c = door_conn_new(d, fd);
		if (c == NULL)
			continue;
		if (too_many(d, &c->peer))
			turn_away(d, c);
		else
			conn_add(d, c);
	}
}

/* A message that takes too long, to come or to be taken, ends its client. */
static void sweep(struct door *d, u64 now_ns)
{
	u64 limit = d->config.message_ms * KRG_MSEC;

	d->sweep = false;
	for (unsigned i = 0; i < d->config.clients; i++) {
		struct door_conn *c;
		u64 since;

		door_lock(&d->lock);
		c = d->conn[i];
		door_unlock(&d->lock);
		if (c == NULL || c->fd < 0) /* only this thread drops: it stays */
			continue;
		since = c->in_since != 0 ? c->in_since : c->out_since;
		if (since != 0 && now_ns - since > limit)
			conn_drop(c, -ETIMEDOUT);
		else if (since != 0)
			d->sweep = true;
	}
	if (!d->listening)
		listen_set(d, true);
}

/* Is an answer or event still on its way? */
static bool draining(struct door *d)
{
	KRG_GUARD(door, &d->lock);

	for (unsigned i = 0; i < d->config.clients; i++) {
		const struct door_conn *c = d->conn[i];

		if (c != NULL && c->state != CONN_CLOSED &&
		    (c->queued || c->out.len > 0 || c->polled & EPOLLOUT))
			return true;
	}
	return false;
}

static bool is_stopping(struct door *d)
{
	KRG_GUARD(door, &d->lock);
	return d->stopping;
}

static void io_round(struct door *d, int timeout_ms)
{
	struct epoll_event ev[64];
	int n = epoll_wait(d->epoll_fd, ev, KRG_NELEM(ev), timeout_ms);
	u64 now_ns = krg_clock_now_ns();

	for (int i = 0; i < n; i++) {
		u64 count;

		if (ev[i].data.ptr == &d->listen_fd)
			accept_some(d);
		else if (ev[i].data.ptr == &d->wake_fd)
			(void)!read(d->wake_fd, &count, sizeof(count));
		else
			conn_on_event(ev[i].data.ptr, ev[i].events, now_ns);
	}
	dirty_all(d, now_ns);
}

static void *io_main(void *arg)
{
	struct door *d = arg;
	u64 swept = 0, deadline = 0;

	(void)pthread_setname_np(pthread_self(), "krg-door");
	while (!is_stopping(d)) {
		io_round(d, d->sweep ? SWEEP_MS : -1);
		if (d->sweep && krg_clock_now_ns() - swept > SWEEP_MS * KRG_MSEC) {
			swept = krg_clock_now_ns();
			sweep(d, swept);
		}
	}
	(void)epoll_ctl(d->epoll_fd, EPOLL_CTL_DEL, d->listen_fd, NULL);
	deadline = krg_clock_now_ns() + FLUSH_MS * KRG_MSEC;
	while (draining(d) && krg_clock_now_ns() < deadline)
		io_round(d, 20);
	for (unsigned i = 0; i < d->config.clients; i++) {
		struct door_conn *c;

		door_lock(&d->lock);
		c = d->conn[i];
		door_unlock(&d->lock);
		if (c != NULL)
			conn_drop(c, -ENOTCONN);
	}
	dirty_all(d, deadline);
	return NULL;
}

/* ---- the door ---- */

static int listen_on(const char *path, int *ret_fd, struct krg_err *err)
{
	KRG_AUTO_FD int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct sockaddr_un sa = {.sun_family = AF_UNIX};

	if (fd < 0)
		return krg_err_set(err, -errno, "door: socket");
	if (strlen(path) >= sizeof(sa.sun_path))
		return krg_err_set(err, -ENAMETOOLONG, "door: %s", path);
	memcpy(sa.sun_path, path, strlen(path) + 1);
	(void)unlink(path);
	if (bind(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0)
		return krg_err_set(err, -errno, "door: bind %s", path);
	/* everybody may knock; who it is, is asked then */
	if (chmod(path, 0666) < 0 || listen(fd, SOMAXCONN) < 0)
		return krg_err_set(err, -errno, "door: listen on %s", path);
	*ret_fd = TAKE_FD(fd);
	return 0;
}

static int epoll_make(struct door *d, struct krg_err *err)
{
	struct epoll_event ev = {.events = EPOLLIN, .data.ptr = &d->listen_fd};

	d->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	d->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (d->epoll_fd < 0 || d->wake_fd < 0 ||
	    epoll_ctl(d->epoll_fd, EPOLL_CTL_ADD, d->listen_fd, &ev) < 0)
		return krg_err_set(err, -errno, "door: epoll");
	d->listening = true;
	ev.data.ptr = &d->wake_fd;
	if (epoll_ctl(d->epoll_fd, EPOLL_CTL_ADD, d->wake_fd, &ev) < 0)
		return krg_err_set(err, -errno, "door: epoll");
	return 0;
}

int door_new(const struct door_config *config, struct door **ret, struct krg_err *err)
{
	struct door *d = krg_xalloc(sizeof(*d));
	int r;

	d->config = *config;
	d->config.clients = config->clients != 0 ? config->clients : CLIENTS_DEFAULT;
	d->config.workers = config->workers != 0 ? config->workers : WORKERS_DEFAULT;
	d->config.message_ms = config->message_ms != 0 ? config->message_ms : MESSAGE_MS_DEFAULT;
	d->path = krg_xstrdup(config->path);
	d->config.path = d->path;
	d->listen_fd = d->epoll_fd = d->wake_fd = -EBADF;
	d->conn = krg_xalloc(d->config.clients * sizeof(struct door_conn *));
	d->worker = krg_xalloc(d->config.workers * sizeof(struct door_worker));
	krg_mutex_init(&d->lock);
	krg_cond_init(&d->work);
	json_object_seed(0); /* before there are threads */
	r = listen_on(d->path, &d->listen_fd, err);
	if (r == 0)
		r = epoll_make(d, err);
	if (r < 0) {
		door_free(d);
		return r;
	}
	*ret = d;
	return 0;
}

int door_start(struct door *d, struct krg_err *err)
{
	int r = pthread_create(&d->io, NULL, io_main, d);

	if (r != 0)
		return krg_err_set(err, -r, "door: thread");
	d->io_started = true;
	return 0;
}

void door_refuse(struct door *d)
{
	KRG_GUARD(door, &d->lock);
	d->refusing = true;
}

bool door_is_refusing(struct door *d)
{
	KRG_GUARD(door, &d->lock);
	return d->refusing;
}

void door_stop(struct door *d)
{
	if (!d->io_started)
		return;
	door_lock(&d->lock);
	d->refusing = d->stopping = true;
	door_unlock(&d->lock);
	wake(d);
	(void)pthread_join(d->io, NULL);
	d->io_started = false;
	door_lock(&d->lock);
	d->ended = true;
	krg_cond_broadcast(&d->work);
	door_unlock(&d->lock);
	/* nobody adds workers any more */
	for (unsigned i = 0; i < d->nworkers; i++)
		(void)pthread_join(d->worker[i].thread, NULL);
	(void)unlink(d->path);
}

void door_free(struct door *d)
{
	bool kept;

	krg_closep(&d->listen_fd);
	d->listen_fd = -EBADF;
	door_lock(&d->lock);
	kept = d->nlive > 0;
	door_unlock(&d->lock);
	if (kept) {
		LOG_W("door", "%u connections are still kept", d->nlive);
		return; /* they know the door: it stays */
	}
	krg_closep(&d->epoll_fd);
	krg_closep(&d->wake_fd);
	krg_cond_fini(&d->work);
	krg_mutex_fini(&d->lock);
	free(d->conn);
	free(d->worker);
	free(d->path);
	free(d);
}

void door_stat_get(struct door *d, struct door_stat *ret)
{
	KRG_GUARD(door, &d->lock);

	*ret = d->stat;
	ret->clients = d->nconn;
	ret->workers = d->nworkers;
	ret->queued = queue_len_locked(d);
}
