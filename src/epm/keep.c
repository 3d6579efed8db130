/* keep.c - krgd's side of the keeper: what the next krgd will need is put there as it comes to be. */
#include "epm_impl.h"
#include <signal.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>

#define CLAIM_S 10 /* the keeper answers as soon as it sees the other krgd's end */

/* Without a keeper the world is about to end: nothing to say. */
static void put(struct epm *e, enum keep_kind kind, i32 id, struct krg_buf *blob, const int *fds,
		unsigned nfds)
{
	struct keep_msg m = {.type = KEEP_PUT, .kind = kind, .id = (u32)id};
	KRG_AUTO_BUF struct krg_buf b = {0};

	ASSERT(blob->len <= KEEP_BLOB_MAX && nfds <= KEEP_FDS_MAX);
	krg_buf_put(&b, &m, sizeof(m));
	krg_buf_put(&b, blob->data, blob->len);
	if (e->keep_sock >= 0)
		(void)krg_send_fds(e->keep_sock, b.data, b.len, fds, nfds);
}

void keep_drop(struct epm *e, enum keep_kind kind, i32 id)
{
	struct keep_msg m = {.type = KEEP_DROP, .kind = kind, .id = (u32)id};

	if (e->keep_sock >= 0)
		(void)krg_send_fds(e->keep_sock, &m, sizeof(m), NULL, 0);
}

void keep_world(struct epm *e)
{
	struct rec_epm_keep_world w = {.node = e->self,
				       .log_size = sizeof(struct gate_log),
				       .since = e->since,
				       .clock_offset_ns = e->clock_offset_ns};
	KRG_AUTO_BUF struct krg_buf b = {0};
	int fds[KEEP_WORLD_FDS] = {e->init_sock, e->world_proc, e->log_fd,
				   e->tell[0],	 e->tell[1],	e->herald.sock};

	_Static_assert(KEEP_WORLD_FDS <= KEEP_FDS_MAX, "too many nurseries");
	for (int c = 0; c < NURSERY_NR; c++) {
		fds[6 + 2 * c] = e->listener[c];
		fds[7 + 2 * c] = e->root[c].sock;
	}
	rec_epm_keep_world_encode(&w, &b);
	put(e, KEEP_WORLD, 0, &b, fds, KRG_NELEM(fds));
}

void keep_session(struct epm *e, const struct session *s)
{
	KRG_AUTO_BUF struct krg_buf b = {0}, outside = {0};
	struct rec_epm_keep_session r = {.sid = s->sid,
					 .host_sid = s->host_sid,
					 .class = (u8)s->class,
					 .stale = s->stale,
					 .born = s->born};

	for (unsigned i = 0; i < s->noutside; i++) {
		krg_buf_put_u64(&outside, s->outside[i].dev);
		krg_buf_put_u64(&outside, s->outside[i].ino);
	}
	r.outside = krg_buf_slice(&outside);
	rec_epm_keep_session_encode(&r, &b);
	put(e, KEEP_SESSION, s->sid, &b, &s->nursery.sock, 1);
}

void keep_group(struct epm *e, i32 sid, const struct placeholder *g)
{
	struct rec_epm_keep_group r = {
		.sid = sid, .pgid = g->pgid, .pid = g->pid, .tells = g->tells};
	KRG_AUTO_BUF struct krg_buf b = {0};

	rec_epm_keep_group_encode(&r, &b);
	put(e, KEEP_GROUP, g->pid, &b, &g->sock, 1);
}

void keep_caps(struct epm *e, enum keep_kind kind, i32 pid, u64 start, const struct epm_caps *caps,
	       bool plain)
{
	struct rec_epm_keep_caps r = {.pid = pid,
				      .start = start,
				      .plain = plain,
				      .effective = caps->set[EPM_CAPS_EFFECTIVE],
				      .permitted = caps->set[EPM_CAPS_PERMITTED],
				      .inh_effective = caps->set[EPM_CAPS_INH_EFFECTIVE],
				      .inh_permitted = caps->set[EPM_CAPS_INH_PERMITTED]};
	KRG_AUTO_BUF struct krg_buf b = {0};

	rec_epm_keep_caps_encode(&r, &b);
	put(e, kind, pid, &b, NULL, 0);
}

void keep_deputy_locked(struct epm *e, const struct task *t)
{
	KRG_AUTO_BUF struct krg_buf b = {0}, children = {0};
	struct rec_epm_keep_deputy r = {.pid = t->pid,
					.host_pid = t->host_pid,
					.host_tid = t->host_tid,
					.peer = t->peer,
					.runs = t->state != TASK_HELD,
					.exec_id = t->exec_id,
					.path = krg_slice_str(t->path)};
	int fds[2] = {t->channel, t->pidfd};

	for (unsigned i = 0; i < t->nchildren; i++)
		krg_buf_put_u32(&children, (u32)t->children[i]);
	r.children = krg_buf_slice(&children);
	rec_epm_keep_deputy_encode(&r, &b);
	put(e, KEEP_DEPUTY, t->pid, &b, fds, 2);
}

void keep_body_locked(struct epm *e, const struct task *t)
{
	KRG_AUTO_BUF struct krg_buf b = {0};
	struct rec_epm_keep_body r = {.pid = t->pid,
				      .ppid = t->ppid,
				      .host_pid = t->host_pid,
				      .peer = t->peer,
				      .exec_id = t->exec_id,
				      .path = krg_slice_str(t->path != NULL ? t->path : "")};

	rec_epm_keep_body_encode(&r, &b);
	put(e, t->orphan ? KEEP_ORPHAN : KEEP_BODY, t->pid, &b, &t->pidfd, 1);
	keep_drop(e, t->orphan ? KEEP_BODY : KEEP_ORPHAN, t->pid);
}

void keep_pages(struct epm *e, u32 id, int uffd)
{
	KRG_AUTO_BUF struct krg_buf b = {0};

	put(e, KEEP_PAGES, (i32)id, &b, &uffd, 1);
}

/* ---- the next krgd ---- */

void kept_free(struct kept *k)
{
	while (k != NULL) {
		struct kept *next = k->next;

		for (unsigned i = 0; i < k->nfds; i++)
			if (k->fd[i] >= 0)
				(void)close(k->fd[i]);
		krg_buf_fini(&k->blob);
		free(k);
		k = next;
	}
}

static int keeper_connect(struct epm *e, struct ucred *ret)
{
	struct timeval tv = {.tv_sec = CLAIM_S};
	struct sockaddr_un at = {.sun_family = AF_UNIX};
	socklen_t len = sizeof(*ret);
	KRG_AUTO_FD int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	(void)snprintf(at.sun_path, sizeof(at.sun_path), "%s/" KEEP_SOCKET, e->run_dir);
	if (fd < 0 || connect(fd, (struct sockaddr *)&at, sizeof(at)) < 0 ||
	    getsockopt(fd, SOL_SOCKET, SO_PEERCRED, ret, &len) < 0 || ret->uid != 0 ||
	    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv)) < 0)
		return -ENOENT;
	return TAKE_FD(fd);
}

static int take_all(struct epm *e, int sock)
{
	static u8 buf[sizeof(struct keep_msg) + KEEP_BLOB_MAX];
	struct keep_claim c = {.type = KEEP_CLAIM, .version = WORLD_PROTO_VERSION};
	struct kept **last = &e->kept;

	if (krg_send_fds(sock, &c, sizeof(c), NULL, 0) != sizeof(c))
		return -EPIPE;
	for (;;) {
		struct kept *k = krg_xalloc(sizeof(*k));
		ssize_t n;

		k->nfds = KRG_NELEM(k->fd);
		n = krg_recv_fds(sock, buf, sizeof(buf), k->fd, &k->nfds);
		if (n >= (ssize_t)sizeof(k->m))
			memcpy(&k->m, buf, sizeof(k->m));
		if (k->m.type != KEEP_HAVE) {
			bool all = k->m.type == KEEP_ALL;

			kept_free(k);
			return all ? 0 : n < 0 ? (int)n : -EPROTO;
		}
		krg_buf_put(&k->blob, buf + sizeof(k->m), (size_t)n - sizeof(k->m));
		*last = k;
		last = &k->next;
	}
}

/* Of this node, and by a krgd whose log of the gate we can read. */
static bool is_ours(const struct epm *e)
{
	for (const struct kept *k = e->kept; k != NULL; k = k->next) {
		struct krg_rd rd = krg_rd_slice(krg_buf_slice(&k->blob));
		struct rec_epm_keep_world w;

		if (k->m.kind == KEEP_WORLD)
			return rec_epm_keep_world_decode(&rd, &w) == 0 && w.node == e->self &&
			       w.log_size == sizeof(struct gate_log) && k->nfds == KEEP_WORLD_FDS;
	}
	return false;
}

/* A world that is not for us: it ends, and we make another. */
static void keeper_end(int pidfd)
{
	(void)syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0);
	world_wait(pidfd);
}

int keep_claim(struct epm *e)
{
	KRG_AUTO_FD int sock = -EBADF, pidfd = -EBADF;
	struct timeval tv = {0};
	struct ucred peer;
	int r;

	sock = keeper_connect(e, &peer);
	if (sock < 0)
		return 0;
	pidfd = (int)syscall(SYS_pidfd_open, peer.pid, 0);
	if (pidfd < 0)
		return 0; /* it has just ended */
	r = take_all(e, sock);
	if (r == 0 && !is_ours(e))
		r = -ESTALE;
	if (r < 0) {
		LOG_W("epm", "the world of an earlier daemon cannot be taken over (%s): it ends",
		      strerror(-r));
		kept_free(e->kept);
		e->kept = NULL;
		keeper_end(pidfd);
		return 0;
	}
	(void)setsockopt(sock, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
	e->keep_sock = TAKE_FD(sock);
	e->keeper = TAKE_FD(pidfd);
	e->adopted = true;
	return 1;
}
