#include "door_impl.h"
#include "log.h"
#include <sys/socket.h>

/* ---- birth and death ---- */

static int peer_groups(int fd, gid_t **ret, unsigned *ret_n)
{
	gid_t *groups = NULL;
	socklen_t len = 0;

	/* asked with too little room, the kernel says how much it takes (socket(7)) */
	if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, NULL, &len) < 0 && errno != ERANGE)
		return -errno;
	if (len > 0) {
		groups = krg_xalloc(len);
		if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups, &len) < 0) {
			free(groups);
			return -errno;
		}
	}
	*ret = groups;
	*ret_n = (unsigned)(len / sizeof(gid_t));
	return 0;
}

struct door_conn *door_conn_new(struct door *d, int fd)
{
	struct door_conn *c = krg_xalloc(sizeof(*c));
	socklen_t len = sizeof(struct ucred);
	struct ucred cred;

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0 ||
	    peer_groups(fd, &c->groups, &c->peer.ngroups) < 0) {
		(void)close(fd);
		free(c);
		return NULL;
	}
	c->door = d;
	c->fd = fd;
	c->refs = 1;
	c->peer.pid = cred.pid;
	c->peer.uid = cred.uid;
	c->peer.gid = cred.gid;
	c->peer.groups = c->groups;
	return c;
}

void door_conn_free(struct door_conn *c)
{
	ASSERT(c->refs == 0 && c->nfds == 0 && c->fd < 0);
	if (c->drop != NULL)
		c->drop(c->user);
	krg_buf_fini(&c->in);
	krg_buf_fini(&c->out);
	krg_buf_fini(&c->sending);
	krg_buf_fini(&c->held);
	free(c->groups);
	free(c);
}

/* ---- a message comes in ---- */

static int head_done(struct door_conn *c)
{
	c->want = (u32)c->head[0] | (u32)c->head[1] << 8 | (u32)c->head[2] << 16 |
		  (u32)c->head[3] << 24;
	return c->want == 0 || c->want > DOOR_REQUEST_MAX ? -EMSGSIZE : 0;
}

/* Descriptors ride on the first byte: later ones have no place. */
static int take_fds(struct door_conn *c, const int *fds, unsigned nfds, bool first)
{
	unsigned room = DOOR_FDS_MAX - c->nfds, n = KRG_MIN(nfds, room);

	memcpy(&c->fds[c->nfds], fds, n * sizeof(int));
	c->nfds += n;
	for (unsigned i = n; i < nfds; i++)
		(void)close(fds[i]); /* krg_recv_fds() got one more than fits at most */
	return nfds > n || (nfds > 0 && !first) ? -EBADMSG : 0;
}

/* Reads the length alone, then no further than the message: so descriptors of the next message
 * cannot be taken for this one's. */
int door_conn_read(struct door_conn *c, u64 now_ns)
{
	for (;;) {
		bool first = c->head_len == 0, head = c->head_len < sizeof(c->head);
		size_t want = head ? sizeof(c->head) - c->head_len : c->want - c->in.len;
		int fds[DOOR_FDS_MAX + 1];
		unsigned nfds = KRG_NELEM(fds);
		u8 bytes[4096];
		ssize_t n;
		int r;

		if (!head && want == 0)
			return 1;
		n = krg_recv_fds(c->fd, bytes, KRG_MIN(want, sizeof(bytes)), fds, &nfds);
		if (n == -EAGAIN)
			return 0;
		if (n < 0)
			return (int)n;
		r = take_fds(c, fds, nfds, first);
		if (n == 0)
			return first ? -ENOTCONN
				     : -EBADMSG; /* an end between messages is no fault */
		if (r < 0)
			return r;
		if (first)
			c->in_since = now_ns;
		if (!head) {
			krg_buf_put(&c->in, bytes, (size_t)n);
			continue;
		}
		memcpy(c->head + c->head_len, bytes, (size_t)n);
		c->head_len += (unsigned)n;
		if (c->head_len == sizeof(c->head) && head_done(c) < 0)
			return -EMSGSIZE;
	}
}

/* ---- answers and events go out ---- */

int door_conn_write(struct door_conn *c, u64 now_ns)
{
	for (;;) {
		ssize_t n;

		if (c->sent == c->sending.len) {
			KRG_GUARD(door, &c->door->lock);
			struct krg_buf done = c->sending;

			krg_buf_reset(&done);
			c->sending = c->out;
			c->out = done;
			c->sent = 0;
			if (c->sending.len == 0) {
				c->out_since = 0;
				return 1;
			}
		}
		n = send(c->fd, c->sending.data + c->sent, c->sending.len - c->sent,
			 MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN) {
			if (c->out_since == 0)
				c->out_since = now_ns;
			return 0;
		}
		if (n < 0)
			return -errno;
		c->sent += (size_t)n;
		c->out_since = 0;
	}
}

/* ---- a request ---- */

static const struct door_op *find_op(const struct door *d, const char *name)
{
	for (unsigned i = 0; i < d->config.nops; i++)
		if (strcmp(d->config.ops[i].name, name) == 0)
			return &d->config.ops[i];
	return NULL;
}

static int serve(struct door_conn *c, json_t *body, json_t *answer, struct krg_err *err)
{
	const char *name = json_string_value(json_object_get(body, "op"));
	const struct door_op *op = name != NULL ? find_op(c->door, name) : NULL;
	struct door_req req = {
		.conn = c, .peer = &c->peer, .body = body, .fds = c->fds, .nfds = c->nfds};

	if (door_is_refusing(c->door))
		return krg_err_set(err, -ESHUTDOWN, "door: this node is leaving");
	if (op == NULL)
		return krg_err_set(err, -EOPNOTSUPP, "door: op '%.40s'", name != NULL ? name : "");
	if ((op->flags & DOOR_ROOT) && c->peer.uid != 0)
		return krg_err_set(err, -EPERM, "%s: uid %u", name, c->peer.uid);
	return op->handle(c->door->config.ctx, &req, answer, err);
}

static json_t *refusal(const struct door *d, int code, const struct krg_err *err)
{
	nodeid node = err->node != KRG_NODE_NONE ? err->node : d->config.node;
	json_t *text = json_string(err->text);

	if (text == NULL) /* not UTF-8 */
		text = json_string(strerror(-code));
	return json_pack("{s:b, s:i, s:o, s:i}", "ok", 0, "errno", -code, "error", text, "node",
			 (int)node);
}

void door_conn_serve(struct door_conn *c, struct krg_buf *ret)
{
	struct krg_err err = {.node = KRG_NODE_NONE};
	json_t *body = NULL, *answer = json_object();
	int r;

	r = door_parse(c->in.data, c->in.len, &body, &err);
	if (r == 0)
		r = serve(c, body, answer, &err);
	if (r < 0) {
		json_decref(answer);
		answer = refusal(c->door, r, &err);
	} else {
		(void)json_object_set_new(answer, "ok", json_true());
	}
	door_pack(answer, ret);
	if (ret->len > DOOR_ANSWER_MAX) {
		krg_buf_reset(ret);
		json_decref(answer);
		r = krg_err_set(&err, -EMSGSIZE, "door: the answer has more than %u bytes",
				DOOR_ANSWER_MAX);
		answer = refusal(c->door, r, &err);
		door_pack(answer, ret);
	}
	json_decref(answer);
	json_decref(body);
	if (r < 0)
		LOG_D("door", "uid %u pid %d: %s", c->peer.uid, c->peer.pid, err.text);
}
