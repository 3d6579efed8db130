#include "door_wire.h"
#include <sys/socket.h>
#include <sys/un.h>

/* jansson's parser recurses, so depth is looked at before it runs. */
static bool depth_ok(const char *text, size_t n)
{
	unsigned depth = 0;
	bool in_str = false;

	for (size_t i = 0; i < n; i++) {
		char c = text[i];

		if (in_str) {
			if (c == '\\')
				i++;
			else if (c == '"')
				in_str = false;
		} else if (c == '"') {
			in_str = true;
		} else if (c == '{' || c == '[') {
			if (++depth > DOOR_DEPTH_MAX)
				return false;
		} else if ((c == '}' || c == ']') && depth > 0) {
			depth--;
		}
	}
	return true;
}

int door_parse(const void *text, size_t n, json_t **ret, struct krg_err *err)
{
	json_error_t je;
	json_t *j;

	if (!depth_ok(text, n))
		return krg_err_set(err, -EBADMSG, "door: values nested more than %d deep",
				   DOOR_DEPTH_MAX);
	j = json_loadb(text, n, JSON_REJECT_DUPLICATES, &je);
	if (j == NULL)
		return krg_err_set(err, -EBADMSG, "door: message, byte %d: %s", je.position,
				   je.text);
	if (!json_is_object(j)) {
		json_decref(j);
		return krg_err_set(err, -EBADMSG, "door: message is not an object");
	}
	*ret = j;
	return 0;
}

static int dump_put(const char *text, size_t n, void *ctx)
{
	krg_buf_put(ctx, text, n);
	return 0;
}

void door_pack(const json_t *j, struct krg_buf *ret)
{
	size_t at = ret->len;
	u32 n;
	int r;

	krg_buf_put_u32(ret, 0);
	r = json_dump_callback(j, dump_put, ret, JSON_COMPACT);
	ASSERT(r == 0);
	n = (u32)(ret->len - at - sizeof(u32));
	for (unsigned i = 0; i < sizeof(n); i++)
		ret->data[at + i] = (u8)(n >> (8 * i));
}

int door_connect(const char *path, int *ret_fd, struct krg_err *err)
{
	KRG_AUTO_FD int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct sockaddr_un sa = {.sun_family = AF_UNIX};

	if (fd < 0)
		return krg_err_set(err, -errno, "socket");
	if (strlen(path) >= sizeof(sa.sun_path))
		return krg_err_set(err, -ENAMETOOLONG, "connect to %s", path);
	memcpy(sa.sun_path, path, strlen(path) + 1);
	if (connect(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0)
		return krg_err_set(err, -errno, "connect to %s", path);
	*ret_fd = TAKE_FD(fd);
	return 0;
}

int door_send(int fd, json_t *j, const int *fds, unsigned nfds, struct krg_err *err)
{
	KRG_AUTO_BUF struct krg_buf b = {0};
	size_t at = 0;

	ASSERT(nfds <= DOOR_FDS_MAX);
	door_pack(j, &b);
	json_decref(j);
	while (at < b.len) {
		ssize_t n = krg_send_fds(fd, b.data + at, b.len - at, fds, at == 0 ? nfds : 0);

		if (n < 0)
			return krg_err_set(err, (int)n, "door: send");
		at += (size_t)n;
	}
	return 0;
}

static int recv_all(int fd, void *p, size_t n, struct krg_err *err)
{
	int r = krg_read_all(fd, p, n);

	if (r == -EPIPE)
		r = -ECONNRESET;
	return r < 0 ? krg_err_set(err, r, "door: the daemon closed the connection") : 0;
}

int door_recv(int fd, json_t **ret, struct krg_err *err)
{
	KRG_AUTO_FREE char *text = NULL;
	u8 head[4];
	u32 n;
	int r = recv_all(fd, head, sizeof(head), err);

	if (r < 0)
		return r;
	n = (u32)head[0] | (u32)head[1] << 8 | (u32)head[2] << 16 | (u32)head[3] << 24;
	if (n > DOOR_ANSWER_MAX)
		return krg_err_set(err, -EBADMSG, "door: a message of %u bytes", n);
	text = krg_xalloc(n);
	r = recv_all(fd, text, n, err);
	return r < 0 ? r : door_parse(text, n, ret, err);
}

int door_answer_check(const json_t *answer, struct krg_err *err)
{
	const json_t *node = json_object_get(answer, "node");
	json_int_t code = json_integer_value(json_object_get(answer, "errno"));
	const char *text = json_string_value(json_object_get(answer, "error"));

	if (json_is_true(json_object_get(answer, "ok")))
		return 0;
	if (code <= 0 || code > 4095)
		code = EPROTO;
	(void)krg_err_set(err, 0, "%s", text != NULL ? text : strerror((int)code));
	if (err != NULL) {
		err->code = -(int)code;
		err->node =
			json_is_integer(node) ? (nodeid)json_integer_value(node) : KRG_NODE_NONE;
	}
	return -(int)code;
}

int door_call(int fd, json_t *j, const int *fds, unsigned nfds, json_t **ret, struct krg_err *err)
{
	json_t *answer = NULL;
	int r = door_send(fd, j, fds, nfds, err);

	/* a client that was turned away may not get to send, but is told why */
	if (r == 0 || r == -EPIPE)
		r = door_recv(fd, &answer, err);
	if (r < 0)
		return r;
	r = door_answer_check(answer, err);
	if (r < 0 || ret == NULL)
		json_decref(answer);
	else
		*ret = answer;
	return r;
}
