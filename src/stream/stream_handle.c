/* stream_handle.c - the origin's table of handles: export, who may use them, when they end. */
#include "stream_impl.h"
#include "fault.h"
#include "log.h"
#include "trace.h"
#include <fcntl.h>
#include <linux/kcmp.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <sys/un.h>
#include <termios.h>

u64 handle_ino(nodeid origin, u64 dev, u64 ino)
{
	u64 x = stream_mix(stream_mix(((u64)origin << 48 | 1) ^ stream_mix(dev)) ^ ino);

	return x >> 1 | 1; /* positive, and never 0 */
}

static struct handle **slot_id(struct stream *s, u64 id)
{
	return &s->by_id[stream_mix(id) % STREAM_HASH];
}

static struct handle **slot_ino(struct stream *s, u64 dev, u64 ino)
{
	return &s->by_ino[stream_mix(dev ^ stream_mix(ino)) % STREAM_HASH];
}

static struct handle *find_locked(struct stream *s, u64 id)
{
	struct handle *h = *slot_id(s, id);

	while (h != NULL && h->id != id)
		h = h->id_next;
	return h;
}

static struct grant *grant_find_locked(struct handle *h, nodeid to, nodeid by)
{
	for (u32 i = 0; i < h->grant_nr; i++)
		if (h->grants[i].to == to && (by == KRG_NODE_NONE || h->grants[i].by == by))
			return &h->grants[i];
	return NULL;
}

struct handle *handle_get(struct stream *s, u64 id)
{
	KRG_GUARD(handles, &s->handles_lock);
	struct handle *h = find_locked(s, id);

	if (h != NULL)
		h->refs++;
	return h;
}

struct handle *handle_get_for(struct stream *s, u64 id, nodeid node)
{
	KRG_GUARD(handles, &s->handles_lock);
	struct handle *h = find_locked(s, id);

	if (h == NULL || grant_find_locked(h, node, KRG_NODE_NONE) == NULL)
		return NULL;
	h->refs++;
	return h;
}

static void handle_free(struct handle *h)
{
	ASSERT_OBJ(h, HANDLE_MAGIC);
	for (int k = 0; k < WAIT_KIND_NR; k++)
		ASSERT(h->wait[k].first == NULL);
	if (h->fd >= 0)
		(void)close(h->fd);
	if (h->op_fd >= 0)
		(void)close(h->op_fd);
	krg_buf_fini(&h->back);
	krg_mutex_fini(&h->lock);
	free(h->grants);
	h->magic = 0;
	free(h);
}

void handle_put(struct handle *h)
{
	bool last;

	handles_lock(&h->s->handles_lock);
	ASSERT(h->refs > 0);
	last = --h->refs == 0;
	ASSERT(IMPLIES(last, h->dead));
	handles_unlock(&h->s->handles_lock);
	if (last)
		handle_free(h);
}

static void unlink_locked(struct stream *s, struct handle *h)
{
	struct handle **at = slot_id(s, h->id);

	while (*at != h)
		at = &(*at)->id_next;
	*at = h->id_next;
	at = slot_ino(s, h->dev, h->ino);
	while (*at != h)
		at = &(*at)->ino_next;
	*at = h->ino_next;
	h->dead = true;
	s->handle_nr--;
}

/* Out of the table already, the table's reference is the caller's: nobody new finds it. */
static void handle_end(struct handle *h)
{
	handle_lock(&h->lock);
	if (h->in_epoll)
		(void)epoll_ctl(h->s->wait_ep, EPOLL_CTL_DEL, h->fd, NULL);
	h->in_epoll = false;
	handle_unlock(&h->lock);
	wait_end(h, KRG_NODE_NONE, -EBADF);
	lock_handle_end(h->s, h->id);
	TRACE(STREAM_CLOSE, 0, h->id);
	handle_put(h);
}

void handle_ref_fill(struct handle *h, struct rec_stream_ref *ret)
{
	int flags = fcntl(h->fd, F_GETFL);
	struct stat st = {0};

	(void)fstat(h->fd, &st);
	*ret = (struct rec_stream_ref){
		.origin = h->s->self,
		.kind = STREAM_STANDIN,
		.id = h->id,
		.open_flags = (u32)flags & (O_ACCMODE | O_APPEND | O_NONBLOCK),
		.mode = h->mode,
		.rdev = h->rdev,
		.ino = handle_ino(h->s->self, h->dev, h->ino),
		.uid = st.st_uid,
		.gid = st.st_gid,
		.size = (u64)st.st_size,
		.pos = -1,
	};
	if (S_ISREG(h->mode) || S_ISBLK(h->mode))
		ret->pos = lseek(h->fd, 0, SEEK_CUR);
}

static bool same_description(int a, int b)
{
	return syscall(SYS_kcmp, getpid(), getpid(), KCMP_FILE, a, b) == 0;
}

static int grant_add_locked(struct handle *h, nodeid to, nodeid by)
{
	struct grant *g = NULL;

	for (u32 i = 0; i < h->grant_nr && g == NULL; i++)
		if (h->grants[i].to == to && h->grants[i].by == by)
			g = &h->grants[i];
	if (g == NULL) {
		if (h->grant_nr == STREAM_GRANTS_MAX)
			return -ENOSPC;
		h->grants = krg_xrealloc(h->grants, (h->grant_nr + 1) * sizeof(*h->grants));
		g = &h->grants[h->grant_nr++];
		*g = (struct grant){.to = to, .by = by};
	}
	g->count++;
	h->grant_total++;
	return 0;
}

static void grant_remove_locked(struct handle *h, struct grant *g, u32 count)
{
	ASSERT(g->count >= count && h->grant_total >= count);
	g->count -= count;
	h->grant_total -= count;
	if (g->count == 0)
		*g = h->grants[--h->grant_nr];
}

/* A description of our own of the same pipe or tty, that never waits.  The real one's flags are
 * everybody's, so O_NONBLOCK cannot be set there.  Neither kind has an offset, so reading here or
 * there is the same.  It is closed together with our dup of the real one, so that it never
 * keeps an end alive that nobody has. */
static int open_own(int fd, int flags)
{
	char path[40];

	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	fd = open(path, (flags & (O_ACCMODE | O_DIRECT)) | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

/* A plain end of a socketpair(2): AF_UNIX, a stream, without names.  All that one can do with it but read, write,
 * poll and close is then known (stream_socket()). */
static int socket_check(int fd, struct krg_err *err)
{
	static const struct {
		int name, want;
	} opts[] = {{SO_DOMAIN, AF_UNIX}, {SO_TYPE, SOCK_STREAM}, {SO_ACCEPTCONN, 0},
		    {SO_PASSCRED, 0},	  {SO_PASSSEC, 0},	  {SO_PEEK_OFF, -1}};
	struct timeval t[2] = {0};
	struct sockaddr_un a;
	socklen_t len;

	for (size_t i = 0; i < KRG_NELEM(opts); i++) {
		int value = 0;

		len = sizeof(value);
		if (getsockopt(fd, SOL_SOCKET, opts[i].name, &value, &len) < 0 ||
		    value != opts[i].want)
			return krg_err_set(err, -EOPNOTSUPP, "a socket, not of socketpair(2)");
	}
	for (int i = 0; i < 2; i++) {
		len = sizeof(a);
		if ((i == 0 ? getsockname(fd, (struct sockaddr *)&a, &len)
			    : getpeername(fd, (struct sockaddr *)&a, &len)) < 0 ||
		    len > sizeof(sa_family_t))
			return krg_err_set(err, -EOPNOTSUPP, "a socket with a name");
		len = sizeof(t[i]);
		if (getsockopt(fd, SOL_SOCKET, i == 0 ? SO_RCVTIMEO : SO_SNDTIMEO, &t[i], &len) <
			    0 ||
		    t[i].tv_sec != 0 || t[i].tv_usec != 0)
			return krg_err_set(err, -EOPNOTSUPP, "a socket with a time limit");
	}
	return 0;
}

/* Which way an object is worked on, or why it cannot be. */
static int classify(int fd, const struct stat *st, int flags, struct handle *h, struct krg_err *err)
{
	unsigned maj = major(st->st_rdev);

	h->op_fd = -EBADF;
	if ((flags & O_PATH) != 0)
		return krg_err_set(err, -EOPNOTSUPP, "an O_PATH descriptor");
	if (S_ISREG(st->st_mode) || S_ISBLK(st->st_mode) || (S_ISCHR(st->st_mode) && maj == 1)) {
		h->way = HANDLE_FILE;
		return 0;
	}
	h->way = HANDLE_EVENT;
	if (S_ISSOCK(st->st_mode)) { /* it has calls of its own that do not wait */
		h->sock = true;
		return socket_check(fd, err);
	}
	if (S_ISCHR(st->st_mode)) {
		struct termios tio;

		/* 5:x opens another tty than the one it is: /dev/tty, /dev/ptmx, /dev/console. */
		if (maj == 5 || tcgetattr(fd, &tio) < 0)
			return krg_err_set(err, -EOPNOTSUPP,
					   "character device %u:%u cannot be shared", maj,
					   minor(st->st_rdev));
		h->tty = true;
	} else if (!S_ISFIFO(st->st_mode)) {
		return krg_err_set(err, -EOPNOTSUPP, "file type %o cannot be shared between nodes",
				   st->st_mode & S_IFMT);
	}
	h->op_fd = open_own(fd, flags);
	if (h->op_fd == -ENXIO) /* a pipe without readers: EPIPE for whoever writes */
		return 0;
	if (h->op_fd < 0)
		return krg_err_set(err, h->op_fd == -ENOMEM ? -ENOMEM : -EOPNOTSUPP,
				   "own description of %u:%u inode %llu: %s", major(st->st_dev),
				   minor(st->st_dev), (unsigned long long)st->st_ino,
				   strerror(-h->op_fd));
	return 0;
}

static struct handle *handle_new(struct stream *s, int fd, const struct stat *st,
				 struct krg_err *err)
{
	int flags = fcntl(fd, F_GETFL);
	struct handle *h = krg_xalloc(sizeof(*h));

	*h = (struct handle){
		.magic = HANDLE_MAGIC,
		.s = s,
		.fd = -EBADF,
		.op_fd = -EBADF,
		.mode = st->st_mode,
		.dev = st->st_dev,
		.ino = st->st_ino,
		.rdev = st->st_rdev,
		.refs = 1,
	};
	krg_mutex_init(&h->lock);
	for (int k = 0; k < WAIT_KIND_NR; k++)
		wait_list_init(&h->wait[k]);
	if (classify(fd, st, flags, h, err) == 0) {
		h->fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
		if (h->fd >= 0)
			return h;
		(void)krg_err_set(err, -errno, "dup: %s", strerror(errno));
	}
	handle_free(h);
	return NULL;
}

/* The handle of fd's description, new or the one there is, with a grant and a reference. */
static struct handle *export_locked(struct stream *s, int fd, const struct stat *st,
				    struct handle *fresh)
{
	struct handle **at = slot_ino(s, st->st_dev, st->st_ino);

	for (struct handle *h = *at; h != NULL; h = h->ino_next)
		if (h->dev == st->st_dev && h->ino == st->st_ino && same_description(h->fd, fd))
			return h;
	if (fresh == NULL || s->handle_nr == STREAM_HANDLES_MAX)
		return NULL;
	fresh->id = s->next_id++;
	fresh->ino_next = *at;
	*at = fresh;
	at = slot_id(s, fresh->id);
	fresh->id_next = *at;
	*at = fresh;
	s->handle_nr++;
	return fresh;
}

int handle_export(struct stream *s, int fd, nodeid to, nodeid by, struct rec_stream_ref *ret,
		  struct krg_err *err)
{
	struct handle *h, *fresh = NULL;
	struct stat st;
	int r = 0;

	if (FAULT_POINT(STREAM_EXPORT))
		return krg_err_set(err, -EIO, "export: fault point");
	if (fstat(fd, &st) < 0)
		return krg_err_set(err, -errno, "export: fstat: %s", strerror(errno));
	for (int turn = 0;; turn++) {
		handles_lock(&s->handles_lock);
		h = export_locked(s, fd, &st, fresh);
		if (h != NULL) {
			r = grant_add_locked(h, to, by);
			if (h == fresh) {
				fresh = NULL;
				ASSERT(r == 0);
			}
			if (r == 0)
				h->refs++;
		}
		handles_unlock(&s->handles_lock);
		if (h != NULL || turn > 0)
			break;
		fresh = handle_new(s, fd, &st, err);
		if (fresh == NULL)
			return err != NULL ? err->code : -EOPNOTSUPP;
	}
	if (fresh != NULL)
		handle_free(fresh);
	if (h == NULL)
		return krg_err_set(err, -ENFILE, "%u handles are the limit", STREAM_HANDLES_MAX);
	if (r < 0)
		return krg_err_set(err, r, "handle %llu: too many grants",
				   (unsigned long long)h->id);
	handle_ref_fill(h, ret);
	handle_put(h);
	s->stat_exports++;
	TRACE(STREAM_EXPORT, 0, ret->id, ret->kind, to);
	return 0;
}

bool stream_pipe_is_exported(struct stream *s, const struct stat *st, int end)
{
	KRG_GUARD(handles, &s->handles_lock);
	for (struct handle *h = *slot_ino(s, st->st_dev, st->st_ino); h != NULL; h = h->ino_next) {
		int mode;

		if (h->dev != st->st_dev || h->ino != st->st_ino)
			continue;
		mode = fcntl(h->fd, F_GETFL) & O_ACCMODE;
		if (mode == end || mode == O_RDWR)
			return true;
	}
	return false;
}

int handle_drop(struct stream *s, u64 id, nodeid to, nodeid by)
{
	struct handle *h;
	struct grant *g = NULL;
	bool ends;

	handles_lock(&s->handles_lock);
	h = find_locked(s, id);
	if (h != NULL)
		g = grant_find_locked(h, to, by);
	if (g == NULL) {
		handles_unlock(&s->handles_lock);
		return -ENOENT;
	}
	grant_remove_locked(h, g, 1);
	ends = h->grant_total == 0;
	if (ends)
		unlink_locked(s, h);
	handles_unlock(&s->handles_lock);
	if (ends)
		handle_end(h);
	return 0;
}

int handle_grant(struct stream *s, u64 id, nodeid to, nodeid by, struct rec_stream_ref *ret,
		 struct krg_err *err)
{
	struct handle *h = handle_get_for(s, id, by);
	int r = -EBADF;

	if (h == NULL)
		return krg_err_set(err, -EBADF, "handle %llu is not node %u's",
				   (unsigned long long)id, by);
	handles_lock(&s->handles_lock);
	if (!h->dead)
		r = grant_add_locked(h, to, by);
	handles_unlock(&s->handles_lock);
	if (r == 0)
		handle_ref_fill(h, ret);
	else
		(void)krg_err_set(err, r, "handle %llu: no grant for node %u",
				  (unsigned long long)id, to);
	handle_put(h);
	return r;
}

/* One handle that has something of `node` left (KRG_NODE_NONE: any handle); its grants are
 * removed, and *ret_ends says whether it is out of the table. */
static struct handle *node_down_step(struct stream *s, nodeid node, bool *ret_ends)
{
	KRG_GUARD(handles, &s->handles_lock);

	for (u32 i = 0; i < STREAM_HASH; i++)
		for (struct handle *h = s->by_id[i]; h != NULL; h = h->id_next) {
			struct grant *g;
			bool found = node == KRG_NODE_NONE;

			while (node != KRG_NODE_NONE &&
			       (g = grant_find_locked(h, node, KRG_NODE_NONE)) != NULL) {
				grant_remove_locked(h, g, g->count);
				found = true;
			}
			if (!found)
				continue;
			*ret_ends = node == KRG_NODE_NONE || h->grant_total == 0;
			if (*ret_ends)
				unlink_locked(s, h);
			else
				h->refs++;
			return h;
		}
	return NULL;
}

void handle_node_down(struct stream *s, nodeid node)
{
	struct handle *h;
	bool ends;

	while ((h = node_down_step(s, node, &ends)) != NULL) {
		if (ends) {
			handle_end(h);
		} else {
			wait_end(h, node, -EHOSTDOWN);
			handle_put(h);
		}
	}
}

void handle_drop_all(struct stream *s)
{
	handle_node_down(s, KRG_NODE_NONE);
}

/* ---- messages ---- */

static void on_drop(void *ctx, struct comm_req *req)
{
	struct stream *s = ctx;
	struct krg_rd rd = krg_rd_slice(req->body);
	struct rec_stream_name m;

	if (rec_stream_name_decode(&rd, &m) < 0 ||
	    handle_drop(s, m.handle, req->from, KRG_NODE_NONE) < 0)
		LOG_D("stream", "node %u dropped a handle that it has not", req->from);
	comm_req_answer(req, NULL);
}

static void on_ungrant(void *ctx, struct comm_req *req)
{
	struct stream *s = ctx;
	struct krg_rd rd = krg_rd_slice(req->body);
	struct rec_stream_name m;

	if (rec_stream_name_decode(&rd, &m) < 0 || handle_drop(s, m.handle, m.node, req->from) < 0)
		LOG_D("stream", "node %u took back what it had not given", req->from);
	comm_req_answer(req, NULL);
}

static void on_grant(void *ctx, struct comm_req *req)
{
	struct stream *s = ctx;
	struct krg_rd rd = krg_rd_slice(req->body);
	KRG_AUTO_BUF struct krg_buf answer = {0};
	struct rec_stream_name m;
	struct rec_stream_ref ref;
	struct krg_err err = {0};

	if (rec_stream_name_decode(&rd, &m) < 0 || m.node >= KRG_NODES_MAX) {
		comm_req_fail(req, -EBADMSG, "grant: broken request");
		return;
	}
	if (handle_grant(s, m.handle, m.node, req->from, &ref, &err) < 0) {
		comm_req_fail_err(req, &err);
		return;
	}
	rec_stream_ref_encode(&ref, &answer);
	comm_req_answer(req, &answer);
}

void handle_register(struct stream *s)
{
	comm_register(s->comm, STREAM_OP_DROP, 0, on_drop, s);
	comm_register(s->comm, STREAM_OP_UNGRANT, 0, on_ungrant, s);
	comm_register(s->comm, STREAM_OP_GRANT, 0, on_grant, s);
}
