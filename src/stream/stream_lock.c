/* stream_lock.c - locks on stand-ins, at the origin: flock(2), and record locks (fcntl(2), POSIX and OFD).
 *
 * flock belongs to the open file description, which is here: it is taken on that.  A record lock belongs to a
 * process: each owner gets a description of its own (an agent) and OFD locks on that, which everybody else's
 * locks are in the way of, as they should be.
 *
 * The kernel tells nobody but a thread that waits in the call that a lock is free.  One thread tries for all who wait,
 * at once when a lock is given back through us, and else a few times a second.
 */
#include "stream_impl.h"
#include "clock.h"
#include "log.h"
#include <fcntl.h>
#include <sys/file.h>

#define LOCK_AGENTS_MAX 4096u
#define LOCK_WAITS_MAX	1024u
#define LOCK_TRY_MS	20

struct agent {
	struct agent *next;
	nodeid node;
	u64 owner, import;
	u64 dev, ino;
	int fd;
};

struct lock_wait {
	struct lock_wait *next;
	struct comm_req *req;
	nodeid node;
	u64 opid;
	struct rec_stream_lock m;
	int fd; /* ours, of the same description */
};

struct lock_set {
	struct stream *s;
	struct krg_mutex lock; /* class leaf */
	struct krg_cond cond;
	struct agent *agents;	 /* (o) */
	unsigned nagents;	 /* (o) */
	struct lock_wait *waits; /* (o) in the order of arrival */
	unsigned nwaits;	 /* (o) */
	bool again, stopping;	 /* (o) */
	pthread_t thread;
	bool runs;
};

/* ---- one try ---- */

static int try_flock(int fd, u16 type)
{
	int op = type == F_RDLCK ? LOCK_SH : type == F_WRLCK ? LOCK_EX : LOCK_UN;

	return flock(fd, op | LOCK_NB) < 0 ? -errno : 0;
}

static int try_record(int fd, struct rec_stream_lock *m)
{
	struct flock l = {.l_type = (short)m->type,
			  .l_whence = SEEK_SET,
			  .l_start = m->start,
			  .l_len = m->len};

	if (fcntl(fd, m->how == STREAM_LOCK_GET ? F_OFD_GETLK : F_OFD_SETLK, &l) < 0)
		return errno == EACCES ? -EAGAIN : -errno;
	if (m->how == STREAM_LOCK_GET) {
		m->type = (u16)l.l_type;
		m->start = l.l_start;
		m->len = l.l_len;
	}
	return 0;
}

static int try_lock(int fd, struct rec_stream_lock *m)
{
	return m->kind == STREAM_LOCK_FLOCK ? try_flock(fd, m->type) : try_record(fd, m);
}

/* ---- agents ---- */

static struct agent **agent_find_locked(struct lock_set *ls, struct handle *h, nodeid node,
					u64 owner)
{
	struct agent **at = &ls->agents;

	while (*at != NULL && ((*at)->node != node || (*at)->owner != owner ||
			       (*at)->dev != h->dev || (*at)->ino != h->ino))
		at = &(*at)->next;
	return at;
}

static int agent_open(struct handle *h)
{
	char path[40];
	int fd;

	if (h->way != HANDLE_FILE)
		return -EINVAL; /* opening a pipe again would keep its end open */
	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", h->fd);
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		fd = open(path, (fcntl(h->fd, F_GETFL) & O_ACCMODE) | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

/* A descriptor of the owner's agent: the caller's to close. */
static int agent_fd(struct lock_set *ls, struct handle *h, nodeid node,
		    const struct rec_stream_lock *m)
{
	struct agent *a;
	int fd;

	KRG_GUARD(leaf, &ls->lock);
	a = *agent_find_locked(ls, h, node, m->owner);
	if (a == NULL) {
		if (ls->nagents == LOCK_AGENTS_MAX)
			return -ENOLCK;
		fd = agent_open(h);
		if (fd < 0)
			return fd;
		a = krg_xalloc(sizeof(*a));
		*a = (struct agent){.next = ls->agents,
				    .node = node,
				    .owner = m->owner,
				    .import = m->import,
				    .dev = h->dev,
				    .ino = h->ino,
				    .fd = fd};
		ls->agents = a;
		ls->nagents++;
	}
	fd = fcntl(a->fd, F_DUPFD_CLOEXEC, 3);
	return fd < 0 ? -errno : fd;
}

static void again_locked(struct lock_set *ls)
{
	ls->again = true;
	krg_cond_signal(&ls->cond);
}

/* Closing its description gives its locks back. */
static void agent_end_locked(struct lock_set *ls, struct agent **at)
{
	struct agent *a = *at;

	*at = a->next;
	(void)close(a->fd);
	free(a);
	ls->nagents--;
	again_locked(ls);
}

/* ---- who waits ---- */

static void answer(struct comm_req *req, int r, const struct rec_stream_lock *m)
{
	KRG_AUTO_BUF struct krg_buf b = {0};

	if (r < 0) {
		comm_req_fail(req, r, "lock: %s", strerror(-r));
		return;
	}
	rec_stream_lock_encode(m, &b);
	comm_req_answer(req, &b);
}

static void wait_free(struct lock_wait *w)
{
	(void)close(w->fd);
	free(w);
}

static bool wait_add(struct lock_set *ls, struct comm_req *req, const struct rec_stream_lock *m,
		     int fd)
{
	struct lock_wait *w = krg_xalloc(sizeof(*w)), **at = &ls->waits;

	*w = (struct lock_wait){.req = req, .node = req->from, .opid = m->opid, .m = *m, .fd = fd};
	KRG_GUARD(leaf, &ls->lock);
	if (ls->stopping || ls->nwaits == LOCK_WAITS_MAX) {
		free(w);
		return false;
	}
	while (*at != NULL)
		at = &(*at)->next;
	*at = w;
	ls->nwaits++;
	again_locked(ls);
	return true;
}

/* The first that waits of a node (KRG_NODE_NONE: any), with that opid (0: any), at that handle (0: any): out of the
 * list. */
static struct lock_wait *wait_take(struct lock_set *ls, nodeid node, u64 opid, u64 handle)
{
	KRG_GUARD(leaf, &ls->lock);
	for (struct lock_wait **at = &ls->waits; *at != NULL; at = &(*at)->next) {
		struct lock_wait *w = *at;

		if ((node != KRG_NODE_NONE && w->node != node) || (opid != 0 && w->opid != opid) ||
		    (handle != 0 && w->m.handle != handle))
			continue;
		*at = w->next;
		ls->nwaits--;
		return w;
	}
	return NULL;
}

/* Those who have it now (or an error), out of the list. */
static struct lock_wait *try_all_locked(struct lock_set *ls, int *ret)
{
	for (struct lock_wait **at = &ls->waits; *at != NULL; at = &(*at)->next) {
		struct lock_wait *w = *at;
		int r = try_lock(w->fd, &w->m);

		if (r == -EAGAIN)
			continue;
		*at = w->next;
		ls->nwaits--;
		*ret = r;
		return w;
	}
	return NULL;
}

static void *lock_main(void *arg)
{
	struct lock_set *ls = arg;

	(void)pthread_setname_np(pthread_self(), "stream-lock");
	for (;;) {
		struct lock_wait *w;
		int r = 0;

		leaf_lock(&ls->lock);
		while (!ls->stopping && ls->nwaits == 0)
			krg_cond_wait(&ls->cond, &ls->lock);
		if (!ls->again && !ls->stopping)
			(void)krg_cond_wait_until(&ls->cond, &ls->lock,
						  krg_clock_now_ns() + LOCK_TRY_MS * KRG_MSEC);
		ls->again = false;
		if (ls->stopping) {
			leaf_unlock(&ls->lock);
			return NULL;
		}
		w = try_all_locked(ls, &r);
		if (w != NULL)
			ls->again = true;
		leaf_unlock(&ls->lock);
		if (w != NULL) {
			answer(w->req, r, &w->m);
			wait_free(w);
		}
	}
}

void lock_cancel(struct stream *s, nodeid node, u64 opid)
{
	struct lock_wait *w = opid != 0 ? wait_take(s->locks, node, opid, 0) : NULL;

	if (w == NULL)
		return;
	answer(w->req, -EINTR, NULL);
	wait_free(w);
}

void lock_handle_end(struct stream *s, u64 handle)
{
	struct lock_wait *w;

	while (s->locks != NULL && (w = wait_take(s->locks, KRG_NODE_NONE, 0, handle)) != NULL) {
		answer(w->req, -EBADF, NULL);
		wait_free(w);
	}
}

static void end_all(struct lock_set *ls, nodeid node)
{
	struct lock_wait *w;

	while ((w = wait_take(ls, node, 0, 0)) != NULL) {
		answer(w->req, -EHOSTDOWN, NULL);
		wait_free(w);
	}
	KRG_GUARD(leaf, &ls->lock);
	for (struct agent **at = &ls->agents; *at != NULL;)
		if (node == KRG_NODE_NONE || (*at)->node == node)
			agent_end_locked(ls, at);
		else
			at = &(*at)->next;
}

void lock_node_down(struct stream *s, nodeid node)
{
	end_all(s->locks, node);
}

/* ---- messages ---- */

static bool is_sound(const struct rec_stream_lock *m)
{
	return (m->kind == STREAM_LOCK_FLOCK || m->kind == STREAM_LOCK_RECORD) &&
	       m->how >= STREAM_LOCK_GET && m->how <= STREAM_LOCK_WAIT &&
	       (m->type == F_RDLCK || m->type == F_WRLCK || m->type == F_UNLCK) &&
	       (m->kind == STREAM_LOCK_RECORD || m->how != STREAM_LOCK_GET) && m->start >= 0 &&
	       m->len >= 0;
}

static void on_lock(void *ctx, struct comm_req *req)
{
	struct stream *s = ctx;
	struct krg_rd rd = krg_rd_slice(req->body);
	struct rec_stream_lock m;
	struct handle *h;
	int fd, r;

	if (rec_stream_lock_decode(&rd, &m) < 0 || !is_sound(&m)) {
		comm_req_fail(req, -EBADMSG, "lock: broken request");
		return;
	}
	h = handle_get_for(s, m.handle, req->from);
	if (h == NULL) {
		answer(req, -EBADF, NULL);
		return;
	}
	s->stat_ops++;
	fd = m.kind == STREAM_LOCK_FLOCK ? fcntl(h->fd, F_DUPFD_CLOEXEC, 3)
					 : agent_fd(s->locks, h, req->from, &m);
	handle_put(h);
	r = fd >= 0 ? try_lock(fd, &m) : fd == -1 ? -ENOLCK : fd;
	if (r == -EAGAIN && m.how == STREAM_LOCK_WAIT) {
		if (wait_add(s->locks, req, &m, fd))
			return;
		r = -ENOLCK;
	}
	if (fd >= 0)
		(void)close(fd);
	answer(req, r, &m);
	if (r == 0 &&
	    m.how != STREAM_LOCK_GET) { /* given back, or made smaller: others may have it */
		KRG_GUARD(leaf, &s->locks->lock);
		again_locked(s->locks);
	}
}

static void drop_locked(struct lock_set *ls, struct handle *h, nodeid from,
			const struct rec_stream_lock_drop *m)
{
	struct agent **at = agent_find_locked(ls, h, from, m->owner);

	if (m->import == 0 && *at != NULL)
		agent_end_locked(ls, at);
	for (at = &ls->agents; m->import != 0 && *at != NULL;)
		if ((*at)->node == from && (*at)->import == m->import)
			agent_end_locked(ls, at);
		else
			at = &(*at)->next;
}

static void on_lock_drop(void *ctx, struct comm_req *req)
{
	struct stream *s = ctx;
	struct krg_rd rd = krg_rd_slice(req->body);
	KRG_AUTO_BUF struct krg_buf b = {0};
	struct rec_stream_result res = {0};
	struct rec_stream_lock_drop m;
	struct handle *h = NULL;

	if (rec_stream_lock_drop_decode(&rd, &m) == 0)
		h = handle_get_for(s, m.handle, req->from);
	if (h == NULL) {
		answer(req, -EBADF, NULL);
		return;
	}
	{
		KRG_GUARD(leaf, &s->locks->lock);
		drop_locked(s->locks, h, req->from, &m);
	}
	if (m.pos >= 0 && h->way == HANDLE_FILE)
		(void)lseek(h->fd, m.pos, SEEK_SET);
	handle_put(h);
	rec_stream_result_encode(&res, &b);
	comm_req_answer(req, &b);
}

void lock_register(struct stream *s)
{
	comm_register(s->comm, STREAM_OP_LOCK, COMM_INLINE, on_lock, s);
	comm_register(s->comm, STREAM_OP_LOCK_DROP, COMM_INLINE, on_lock_drop, s);
}

/* ---- life ---- */

int lock_start(struct stream *s, struct krg_err *err)
{
	struct lock_set *ls = krg_xalloc(sizeof(*ls));
	int r;

	s->locks = ls;
	ls->s = s;
	krg_mutex_init(&ls->lock);
	krg_cond_init(&ls->cond);
	r = pthread_create(&ls->thread, NULL, lock_main, ls);
	if (r != 0)
		return krg_err_set(err, -r, "stream: thread: %s", strerror(r));
	ls->runs = true;
	return 0;
}

void lock_stop(struct stream *s)
{
	struct lock_set *ls = s->locks;

	if (ls == NULL)
		return;
	leaf_lock(&ls->lock);
	ls->stopping = true;
	krg_cond_signal(&ls->cond);
	leaf_unlock(&ls->lock);
	if (ls->runs)
		(void)pthread_join(ls->thread, NULL);
	ls->runs = false;
	end_all(ls, KRG_NODE_NONE);
}

void lock_free(struct stream *s)
{
	struct lock_set *ls = s->locks;

	if (ls == NULL)
		return;
	ASSERT(ls->agents == NULL && ls->waits == NULL);
	krg_cond_fini(&ls->cond);
	krg_mutex_fini(&ls->lock);
	free(ls);
	s->locks = NULL;
}

/* ---- the importer ---- */

/* Those of the open file itself (OFD); a process's own went when it closed its descriptor. */
void lock_on_release(struct import *imp)
{
	KRG_AUTO_BUF struct krg_buf b = {0};
	struct rec_stream_lock_drop m = {.handle = imp->ref.id, .import = imp->id, .pos = -1};

	if (!atomic_load(&imp->records) || import_state(imp) != IMPORT_OPEN)
		return;
	rec_stream_lock_drop_encode(&m, &b);
	if (comm_send(imp->s->comm, imp->ref.origin, STREAM_OP_LOCK_DROP, &b) < 0)
		LOG_D("stream", "locks of handle %llu: node %u is not there to be told",
		      (unsigned long long)imp->ref.id, imp->ref.origin);
}
