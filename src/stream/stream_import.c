/* stream_import.c - the importer's table: one entry for each opened file of the FUSE file system. */
#include "stream_impl.h"
#include "fault.h"
#include "log.h"
#include "trace.h"
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

static const struct {
	const char *name;
	u32 to; /* where it may go, as bits */
} states[IMPORT_STATE_NR] = {
	[IMPORT_NEW] = {"new", 1u << IMPORT_OPEN | 1u << IMPORT_LOST | 1u << IMPORT_GONE},
	[IMPORT_OPEN] = {"open", 1u << IMPORT_LOST | 1u << IMPORT_GONE},
	[IMPORT_LOST] = {"lost", 1u << IMPORT_GONE},
	[IMPORT_GONE] = {"gone", 0},
};

static bool move_locked(struct import *imp, enum import_state to)
{
	ASSERT(to < IMPORT_STATE_NR);
	if ((states[imp->state].to & 1u << to) == 0)
		return false;
	LOG_D("stream", "import %llu: %s -> %s", (unsigned long long)imp->id,
	      states[imp->state].name, states[to].name);
	imp->state = to;
	return true;
}

bool import_move(struct import *imp, enum import_state to)
{
	KRG_GUARD(handles, &imp->s->imports_lock);

	return move_locked(imp, to);
}

enum import_state import_state(struct import *imp)
{
	KRG_GUARD(handles, &imp->s->imports_lock);

	return imp->state;
}

static struct import **slot(struct stream *s, u64 id)
{
	return &s->imports[stream_mix(id) % STREAM_HASH];
}

struct import *import_get(struct stream *s, u64 id)
{
	KRG_GUARD(handles, &s->imports_lock);
	struct import *imp = *slot(s, id);

	while (imp != NULL && imp->id != id)
		imp = imp->next;
	if (imp != NULL)
		imp->refs++;
	return imp;
}

/* The inode carries the id of the import it was made for; if only files that were opened again
 * through /proc are left, any of those will do. */
struct import *import_get_by_node(struct stream *s, u64 node)
{
	struct import *imp = import_get(s, node);

	if (imp != NULL)
		return imp;
	KRG_GUARD(handles, &s->imports_lock);
	for (u32 i = 0; i < STREAM_HASH; i++)
		for (imp = s->imports[i]; imp != NULL; imp = imp->next)
			if (imp->node == node) {
				imp->refs++;
				return imp;
			}
	return NULL;
}

void import_put(struct import *imp)
{
	struct stream *s = imp->s;
	bool last;

	handles_lock(&s->imports_lock);
	ASSERT(imp->refs > 0);
	last = --imp->refs == 0;
	ASSERT(IMPLIES(last, imp->state == IMPORT_GONE));
	handles_unlock(&s->imports_lock);
	if (!last)
		return;
	if (imp->pos_ep >= 0)
		(void)close(imp->pos_ep);
	krg_mutex_fini(&imp->lock);
	imp->magic = 0;
	free(imp);
}

int import_new(struct stream *s, const struct rec_stream_ref *ref, u64 node, struct import **ret,
	       struct krg_err *err)
{
	struct import *imp = krg_xalloc(sizeof(*imp));
	struct import **at;

	*imp = (struct import){
		.magic = IMPORT_MAGIC,
		.s = s,
		.ref = *ref,
		.file = !S_ISFIFO(ref->mode) && !S_ISSOCK(ref->mode) &&
			!(S_ISCHR(ref->mode) && ref->rdev >> 8 != 1),
		.seekable = S_ISREG(ref->mode) || S_ISBLK(ref->mode),
		.refs = 2, /* the table's, the caller's */
		.pos_ep = -EBADF,
		.expected = ref->pos >= 0 ? ref->pos : 0,
	};
	krg_mutex_init(&imp->lock);
	handles_lock(&s->imports_lock);
	if (s->import_nr == STREAM_IMPORTS_MAX) {
		handles_unlock(&s->imports_lock);
		krg_mutex_fini(&imp->lock);
		free(imp);
		return krg_err_set(err, -ENFILE, "%u imports are the limit", STREAM_IMPORTS_MAX);
	}
	imp->id = s->next_import++;
	imp->node = node != 0 ? node : imp->id;
	at = slot(s, imp->id);
	imp->next = *at;
	*at = imp;
	s->import_nr++;
	handles_unlock(&s->imports_lock);
	*ret = imp;
	return 0;
}

static bool unlink_import(struct import *imp)
{
	KRG_GUARD(handles, &imp->s->imports_lock);
	struct import **at = slot(imp->s, imp->id);

	if (!move_locked(imp, IMPORT_GONE))
		return false;
	while (*at != imp)
		at = &(*at)->next;
	*at = imp->next;
	imp->s->import_nr--;
	return true;
}

/* ---- what was closed, and who waits until that is known ---- */

/* A DROP under way. */
struct drop {
	struct drop *next;
	struct stream *s;
	u64 seq;
};
struct drop_wait {
	struct drop_wait *next;
	u64 seq; /* all up to this one */
	void (*done)(void *ctx);
	void *ctx;
};

static bool drops_are_done_locked(struct stream *s, u64 seq)
{
	for (struct drop *d = s->drops; d != NULL; d = d->next)
		if (d->seq <= seq)
			return false;
	return true;
}

static void drop_end(struct drop *d)
{
	struct stream *s = d->s;
	struct drop_wait *ready = NULL;

	handles_lock(&s->imports_lock);
	for (struct drop **at = &s->drops; *at != NULL; at = &(*at)->next)
		if (*at == d) {
			*at = d->next;
			break;
		}
	for (struct drop_wait **at = &s->drop_waits; *at != NULL;) {
		struct drop_wait *w = *at;

		if (!drops_are_done_locked(s, w->seq)) {
			at = &w->next;
			continue;
		}
		*at = w->next;
		w->next = ready;
		ready = w;
	}
	handles_unlock(&s->imports_lock);
	free(d);
	while (ready != NULL) {
		struct drop_wait *w = ready;

		ready = w->next;
		w->done(w->ctx);
		free(w);
	}
}

static void on_dropped(void *ctx, int code, struct comm_reply *reply, const struct krg_err *err)
{
	(void)code; /* an origin that is dead has closed it, too */
	(void)err;
	if (reply != NULL)
		comm_reply_fini(reply);
	drop_end(ctx);
}

static void drop_send(struct import *imp)
{
	KRG_AUTO_BUF struct krg_buf b = {0};
	struct stream *s = imp->s;
	struct rec_stream_name m = {.handle = imp->ref.id, .node = s->self};
	struct drop *d = krg_xalloc(sizeof(*d));
	u64 call;
	int r;

	rec_stream_name_encode(&m, &b);
	handles_lock(&s->imports_lock);
	*d = (struct drop){.next = s->drops, .s = s, .seq = ++s->drop_seq};
	s->drops = d;
	handles_unlock(&s->imports_lock);
	r = comm_call_async(s->comm, imp->ref.origin, STREAM_OP_DROP, &b, 0, on_dropped, d, &call,
			    NULL);
	if (r == 0)
		return;
	if (r == -EAGAIN) /* no room: then without an answer */
		r = comm_send(s->comm, imp->ref.origin, STREAM_OP_DROP, &b);
	if (r < 0)
		LOG_D("stream", "import %llu: its origin, node %u, is not there to be told",
		      (unsigned long long)imp->id, imp->ref.origin);
	drop_end(d);
}

void import_release(struct import *imp)
{
	bool lost = import_state(imp) == IMPORT_LOST;

	if (!unlink_import(imp))
		return;
	TRACE(STREAM_CLOSE, 0, imp->ref.id);
	if (!lost)
		drop_send(imp);
	import_put(imp);
}

void import_settled(struct stream *s, void (*done)(void *ctx), void *ctx)
{
	struct drop_wait *w = krg_xalloc(sizeof(*w));
	bool now;

	fuse_sync(s);
	handles_lock(&s->imports_lock);
	*w = (struct drop_wait){
		.next = s->drop_waits, .seq = s->drop_seq, .done = done, .ctx = ctx};
	now = drops_are_done_locked(s, w->seq);
	if (!now)
		s->drop_waits = w;
	handles_unlock(&s->imports_lock);
	if (!now)
		return;
	free(w);
	done(ctx);
}

static struct import *next_of_node(struct stream *s, nodeid node)
{
	KRG_GUARD(handles, &s->imports_lock);

	for (u32 i = 0; i < STREAM_HASH; i++)
		for (struct import *imp = s->imports[i]; imp != NULL; imp = imp->next)
			if (imp->ref.origin == node && move_locked(imp, IMPORT_LOST)) {
				imp->refs++;
				return imp;
			}
	return NULL;
}

/* Requests under way end by themselves: their calls do.  Those that poll are woken, to see
 * POLLERR. */
void import_node_down(struct stream *s, nodeid node)
{
	struct import *imp;

	while ((imp = next_of_node(s, node)) != NULL) {
		u64 kh;
		bool known;

		handle_lock(&imp->lock);
		kh = imp->poll_kh;
		known = imp->poll_known;
		handle_unlock(&imp->lock);
		if (known)
			fuse_notify_poll(s, kh);
		import_put(imp);
	}
}

void import_drop_all(struct stream *s)
{
	for (u32 i = 0; i < STREAM_HASH; i++) {
		struct import *imp;

		for (;;) {
			handles_lock(&s->imports_lock);
			imp = s->imports[i];
			if (imp != NULL)
				imp->refs++;
			handles_unlock(&s->imports_lock);
			if (imp == NULL)
				break;
			(void)unlink_import(imp);
			import_put(imp); /* the table's */
			import_put(imp);
		}
	}
}

/* The kernel keeps a file's offset to itself: FUSE is not told of lseek(2).  But an epoll shows the
 * offset of each file it watches in its fdinfo (proc(5)), and holds no reference to the file. */
static int watch_pos(struct import *imp, int fd)
{
	struct epoll_event ev = {0};
	KRG_AUTO_FD int ep = epoll_create1(EPOLL_CLOEXEC);

	if (ep < 0 || epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev) < 0)
		return -errno;
	handle_lock(&imp->lock);
	imp->pos_ep = TAKE_FD(ep);
	handle_unlock(&imp->lock);
	return 0;
}

i64 import_pos(struct import *imp)
{
	char path[48], text[512];
	const char *at = NULL;
	int ep;

	handle_lock(&imp->lock);
	ep = imp->pos_ep;
	handle_unlock(&imp->lock);
	if (ep < 0)
		return -1;
	(void)snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", ep);
	if (krg_read_file(path, text, sizeof(text)) > 0)
		at = strstr(text, "tfd:");
	if (at != NULL)
		at = strstr(at, "pos:");
	return at != NULL ? strtoll(at + 4, NULL, 10) : -1;
}

static int open_file(struct import *imp, struct krg_err *err)
{
	KRG_AUTO_FD int fd = -EBADF;
	char name[24];
	int r = 0;

	(void)snprintf(name, sizeof(name), "%llx", (unsigned long long)imp->id);
	/* Answered by a thread of the FUSE pool, which never waits: not a deadlock. */
	fd = openat(imp->s->fuse.mnt, name,
		    (int)(imp->ref.open_flags & (O_ACCMODE | O_APPEND)) | O_CLOEXEC | O_NOCTTY);
	if (fd < 0)
		return krg_err_set(err, -errno, "stand-in for handle %llu of node %u: %s",
				   (unsigned long long)imp->ref.id, imp->ref.origin,
				   strerror(errno));
	if (imp->seekable && imp->ref.pos > 0 && lseek(fd, imp->ref.pos, SEEK_SET) < 0)
		r = -errno;
	if (r == 0 && imp->seekable)
		r = watch_pos(imp, fd);
	if (r < 0)
		return krg_err_set(err, r, "stand-in: its offset: %s", strerror(-r));
	return TAKE_FD(fd);
}

int import_open(struct stream *s, const struct rec_stream_ref *ref, int *ret_fd,
		struct krg_err *err)
{
	struct import *imp;
	int r;

	if (s->fuse.fd < 0)
		return krg_err_set(err, -EOPNOTSUPP, "no stand-ins here: FUSE is not mounted");
	r = import_new(s, ref, 0, &imp, err);
	if (r < 0)
		return r;
	r = open_file(imp, err);
	if (r >= 0) {
		s->stat_imports++;
		TRACE(STREAM_IMPORT, 0, ref->id, ref->origin);
		*ret_fd = r;
		r = 0;
	} else if (import_state(imp) == IMPORT_NEW && unlink_import(imp)) {
		import_put(imp); /* not opened: the grant stays, for the caller to cancel */
	}
	import_put(imp);
	return r;
}

struct import *import_of_fd(struct stream *s, int fd)
{
	struct statx sx;
	u64 id = 0;

	if (s->fuse.fd < 0 ||
	    statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_TYPE, &sx) < 0)
		return NULL;
	if (((u64)sx.stx_dev_major << 32 | sx.stx_dev_minor) != s->fuse.dev)
		return NULL;
	if (ioctl(fd, STREAM_FUSE_IOC_ID, &id) < 0)
		return NULL;
	return import_get(s, id);
}

static void on_ready(void *ctx, struct comm_req *req)
{
	struct stream *s = ctx;
	struct krg_rd rd = krg_rd_slice(req->body);
	struct import *imp = NULL;
	struct rec_stream_name m;
	bool known = false;
	u64 kh = 0;

	if (rec_stream_name_decode(&rd, &m) == 0)
		imp = import_get(s, m.handle);
	if (imp != NULL && imp->ref.origin == req->from) {
		handle_lock(&imp->lock);
		known = imp->poll_known;
		kh = imp->poll_kh;
		handle_unlock(&imp->lock);
	}
	comm_req_answer(req, NULL);
	if (known)
		fuse_notify_poll(s, kh);
	if (imp != NULL)
		import_put(imp);
}

void import_register(struct stream *s)
{
	comm_register(s->comm, STREAM_OP_READY, COMM_INLINE, on_ready, s);
}
