#include "kerrighed/kerrighed.h"
#include <errno.h>
#include <jansson.h>
#include <limits.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define API	   __attribute__((visibility("default")))
#define ANSWER_MAX (16u << 20)
#define SOCKET	   "/run/krg/krgd.sock"

struct kerrighed {
	int fd; /* -EBADF once broken */
	unsigned timeout_ms;
	int self;
	char cluster[64], version[32];
	char error[256];
};

__attribute__((format(printf, 3, 4))) static int fail(struct kerrighed *k, int code,
						      const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(k->error, sizeof(k->error), fmt, ap);
	va_end(ap);
	return code;
}

static int broken(struct kerrighed *k, int code, const char *what)
{
	if (k->fd >= 0)
		(void)close(k->fd);
	k->fd = -EBADF;
	return fail(k, code, "krgd: %s: %s", what, strerror(-code));
}

static int64_t now_ms(void)
{
	struct timespec ts;

	(void)clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* All n bytes, in or out, by the deadline (-1: none). */
static int transfer(int fd, void *p, size_t n, bool out, int64_t deadline)
{
	char *at = p;

	while (n > 0) {
		struct pollfd pfd = {.fd = fd, .events = out ? POLLOUT : POLLIN};
		int64_t left = deadline < 0 ? -1 : deadline - now_ms();
		ssize_t r;

		if (deadline >= 0 && left <= 0)
			return -ETIMEDOUT;
		r = poll(&pfd, 1, left > INT_MAX ? INT_MAX : (int)left);
		if (r <= 0) {
			if (r == 0 || errno == EINTR)
				continue;
			return -errno;
		}
		r = out ? send(fd, at, n, MSG_NOSIGNAL | MSG_DONTWAIT)
			: recv(fd, at, n, MSG_DONTWAIT);
		if (r < 0 && (errno == EINTR || errno == EAGAIN))
			continue;
		if (r == 0 || (r < 0 && errno == EPIPE))
			return -ECONNRESET;
		if (r < 0)
			return -errno;
		at += r;
		n -= (size_t)r;
	}
	return 0;
}

static int send_request(struct kerrighed *k, json_t *request, int64_t deadline)
{
	char *text = json_dumps(request, JSON_COMPACT);
	uint32_t n;
	uint8_t head[4];
	int r;

	if (text == NULL)
		return -ENOMEM;
	n = (uint32_t)strlen(text);
	for (int i = 0; i < 4; i++)
		head[i] = (uint8_t)(n >> 8 * i);
	r = transfer(k->fd, head, sizeof(head), true, deadline);
	if (r == 0)
		r = transfer(k->fd, text, n, true, deadline);
	free(text);
	return r;
}

static int recv_answer(struct kerrighed *k, int64_t deadline, json_t **ret)
{
	uint8_t head[4];
	uint32_t n = 0;
	json_t *answer = NULL;
	char *text;
	int r = transfer(k->fd, head, sizeof(head), false, deadline);

	if (r < 0)
		return r;
	for (int i = 0; i < 4; i++)
		n |= (uint32_t)head[i] << 8 * i;
	if (n == 0 || n > ANSWER_MAX)
		return -EPROTO;
	text = malloc(n);
	if (text == NULL)
		return -ENOMEM;
	r = transfer(k->fd, text, n, false, deadline);
	answer = r == 0 ? json_loadb(text, n, JSON_REJECT_DUPLICATES, NULL) : NULL;
	free(text);
	if (r < 0)
		return r;
	if (!json_is_object(answer) || !json_is_boolean(json_object_get(answer, "ok"))) {
		json_decref(answer);
		return -EPROTO;
	}
	*ret = answer;
	return 0;
}

/* The daemon said no. */
static int refused(struct kerrighed *k, json_t *answer)
{
	json_int_t code = json_integer_value(json_object_get(answer, "errno"));
	const char *text = json_string_value(json_object_get(answer, "error"));
	json_t *node = json_object_get(answer, "node");

	if (code <= 0 || code > 4095 || text == NULL)
		return broken(k, -EPROTO, "an error without its number or text");
	if (json_is_integer(node) && json_integer_value(node) != k->self)
		return fail(k, -(int)code, "node %d: %s", (int)json_integer_value(node), text);
	return fail(k, -(int)code, "%s", text);
}

/* Takes the request.  0: *ret is the caller's. */
static int ask(struct kerrighed *k, json_t *request, json_t **ret)
{
	int64_t deadline = k->timeout_ms != 0 ? now_ms() + k->timeout_ms : -1;
	json_t *answer = NULL;
	int r;

	if (request == NULL)
		return fail(k, -ENOMEM, "no memory");
	if (k->fd < 0) {
		json_decref(request);
		return fail(k, -ENOTCONN, "krgd: the connection broke before");
	}
	r = send_request(k, request, deadline);
	json_decref(request);
	if (r == 0)
		r = recv_answer(k, deadline, &answer);
	if (r < 0)
		return broken(k, r, "no answer");
	if (!json_is_true(json_object_get(answer, "ok"))) {
		r = refused(k, answer);
		json_decref(answer);
		return r;
	}
	*ret = answer;
	return 0;
}

/* Fields of an answer; the first that is missing or out of range makes *bad. */
static int64_t get_int(const json_t *o, const char *key, int64_t lo, int64_t hi, bool *bad)
{
	const json_t *v = json_object_get(o, key);
	int64_t i = json_integer_value(v);

	if (!json_is_integer(v) || i < lo || i > hi) {
		*bad = true;
		return lo;
	}
	return i;
}

static double get_real(const json_t *o, const char *key, bool *bad)
{
	const json_t *v = json_object_get(o, key);

	if (!json_is_number(v))
		*bad = true;
	return json_number_value(v);
}

static void get_text(const json_t *o, const char *key, char *text, size_t room, bool *bad)
{
	const char *s = json_string_value(json_object_get(o, key));

	if (s == NULL)
		*bad = true;
	(void)snprintf(text, room, "%s", s != NULL ? s : "");
}

static int greet(struct kerrighed *k)
{
	json_t *answer = NULL;
	bool bad = false;
	int r = ask(k, json_pack("{s:s}", "op", "version"), &answer);

	if (r < 0)
		return r;
	k->self = (int)get_int(answer, "node", 0, 126, &bad);
	get_text(answer, "cluster", k->cluster, sizeof(k->cluster), &bad);
	get_text(answer, "version", k->version, sizeof(k->version), &bad);
	json_decref(answer);
	return bad ? broken(k, -EPROTO, "version") : 0;
}

API int kerrighed_open(const char *socket_path, struct kerrighed **ret)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	struct kerrighed *k;
	int r;

	if (socket_path == NULL)
		socket_path = getenv("KRG_SOCKET");
	if (socket_path == NULL || *socket_path == '\0')
		socket_path = SOCKET;
	if (strlen(socket_path) >= sizeof(sa.sun_path))
		return -ENAMETOOLONG;
	memcpy(sa.sun_path, socket_path, strlen(socket_path) + 1);
	k = calloc(1, sizeof(*k));
	if (k == NULL)
		return -ENOMEM;
	k->timeout_ms = 10000;
	k->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (k->fd < 0 || connect(k->fd, (struct sockaddr *)&sa, sizeof(sa)) < 0)
		r = -errno;
	else
		r = greet(k);
	if (r < 0) {
		kerrighed_close(k);
		return r;
	}
	*ret = k;
	return 0;
}

API void kerrighed_close(struct kerrighed *k)
{
	if (k == NULL)
		return;
	if (k->fd >= 0)
		(void)close(k->fd);
	free(k);
}

API void kerrighed_set_timeout(struct kerrighed *k, unsigned timeout_ms)
{
	k->timeout_ms = timeout_ms;
}

API const char *kerrighed_error(const struct kerrighed *k)
{
	return k->error;
}

API int kerrighed_self(const struct kerrighed *k)
{
	return k->self;
}

API const char *kerrighed_cluster(const struct kerrighed *k)
{
	return k->cluster;
}

API const char *kerrighed_version(const struct kerrighed *k)
{
	return k->version;
}

static struct kerrighed_node node_of(const json_t *o, bool *bad)
{
	static const char *const states[] = {"absent", "present", "online"};
	struct kerrighed_node n = {0};
	char state[16];
	unsigned i = 0;

	n.node = (int)get_int(o, "node", 0, 126, bad);
	get_text(o, "name", n.name, sizeof(n.name), bad);
	get_text(o, "addr", n.addr, sizeof(n.addr), bad);
	get_text(o, "state", state, sizeof(state), bad);
	while (i < 3 && strcmp(state, states[i]) != 0)
		i++;
	if (i == 3)
		*bad = true;
	n.state = (enum kerrighed_state)i;
	if (json_object_get(o, "cpus") == NULL)
		return n; /* a node's load is known a little after it has come */
	n.load = get_real(o, "load", bad);
	n.cpus = get_real(o, "cpus", bad);
	return n;
}

API int kerrighed_nodes(struct kerrighed *k, struct kerrighed_node *ret, unsigned max)
{
	bool bad = false;
	json_t *answer = NULL, *nodes, *o;
	size_t i;
	int r = ask(k, json_pack("{s:s}", "op", "node.ls"), &answer);

	if (r < 0)
		return r;
	nodes = json_object_get(answer, "nodes");
	bad = !json_is_array(nodes);
	json_array_foreach(nodes, i, o)(void) node_of(o, &bad);
	r = (int)json_array_size(nodes);
	json_array_foreach(nodes, i, o) if (!bad && i < max) ret[i] = node_of(o, &bad);
	json_decref(answer);
	return bad ? broken(k, -EPROTO, "node.ls") : r;
}

static struct kerrighed_proc proc_of(const json_t *o, bool *bad)
{
	struct kerrighed_proc p = {0};
	char state[2];

	p.pid = (pid_t)get_int(o, "pid", 1, INT_MAX, bad);
	p.ppid = (pid_t)get_int(o, "ppid", 0, INT_MAX, bad);
	p.uid = (uid_t)get_int(o, "uid", 0, UINT32_MAX, bad);
	p.node = (int)get_int(o, "node", 0, 126, bad);
	p.home = (int)get_int(o, "home", 0, 126, bad);
	get_text(o, "state", state, sizeof(state), bad);
	p.state = state[0];
	p.cpu_ns = (uint64_t)get_int(o, "cpu_ns", 0, INT64_MAX, bad);
	p.rss = (uint64_t)get_int(o, "rss", 0, INT64_MAX, bad);
	get_text(o, "comm", p.comm, sizeof(p.comm), bad);
	return p;
}

API int kerrighed_procs(struct kerrighed *k, struct kerrighed_proc *ret, unsigned max,
			unsigned *ret_missing)
{
	bool bad = false;
	json_t *answer = NULL, *procs, *o;
	size_t i;
	int r = ask(k, json_pack("{s:s}", "op", "ps"), &answer);

	if (r < 0)
		return r;
	procs = json_object_get(answer, "procs");
	bad = !json_is_array(procs);
	json_array_foreach(procs, i, o)(void) proc_of(o, &bad);
	r = (int)json_array_size(procs);
	json_array_foreach(procs, i, o) if (!bad && i < max) ret[i] = proc_of(o, &bad);
	if (!bad && ret_missing != NULL)
		*ret_missing = (unsigned)json_array_size(json_object_get(answer, "missing"));
	json_decref(answer);
	return bad ? broken(k, -EPROTO, "ps") : r;
}

API int kerrighed_kill(struct kerrighed *k, pid_t pid, int sig)
{
	json_t *answer = NULL;
	int r = ask(k, json_pack("{s:s, s:i, s:i}", "op", "kill", "pid", (int)pid, "sig", sig),
		    &answer);

	if (r < 0)
		return r;
	json_decref(answer);
	return 0;
}
