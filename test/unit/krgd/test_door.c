/* The door with handlers of the test's own: honest clients, many at once, and hostile ones. */
#include "clock.h"
#include "door.h"
#include "tap.h"
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

static char path[64];
static struct door_conn *kept;
static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
static atomic_int in_slow;

static int on_echo(void *ctx, struct door_req *req, json_t *answer, struct krg_err *err)
{
	(void)ctx;
	(void)err;
	(void)json_object_set(answer, "text", json_object_get(req->body, "text"));
	(void)json_object_set_new(answer, "uid", json_integer(req->peer->uid));
	(void)json_object_set_new(answer, "pid", json_integer(req->peer->pid));
	return 0;
}

static int on_fail(void *ctx, struct door_req *req, json_t *answer, struct krg_err *err)
{
	(void)ctx;
	(void)req;
	(void)json_object_set_new(answer, "half", json_true());
	return krg_err_set(err, -ENOENT, "fail: on purpose");
}

static int on_fds(void *ctx, struct door_req *req, json_t *answer, struct krg_err *err)
{
	(void)ctx;
	(void)json_object_set_new(answer, "nfds", json_integer(req->nfds));
	if (req->nfds > 0 && krg_write_all(req->fds[0], "seen", 4) < 0)
		return krg_err_set(err, -EIO, "fds: write");
	return 0;
}

/* Keeps the connection, and sends an event even before the answer. */
static int on_keep(void *ctx, struct door_req *req, json_t *answer, struct krg_err *err)
{
	(void)ctx;
	(void)answer;
	(void)err;
	kept = door_conn_ref(req->conn);
	door_conn_event(kept, json_pack("{s:s}", "event", "early"));
	return 0;
}

static int on_slow(void *ctx, struct door_req *req, json_t *answer, struct krg_err *err)
{
	(void)ctx;
	(void)req;
	(void)answer;
	(void)err;
	atomic_fetch_add(&in_slow, 1);
	(void)pthread_mutex_lock(&gate);
	(void)pthread_mutex_unlock(&gate);
	return 0;
}

static int on_big(void *ctx, struct door_req *req, json_t *answer, struct krg_err *err)
{
	size_t n = (size_t)json_integer_value(json_object_get(req->body, "n"));
	char *text = krg_xalloc(n + 1);

	(void)ctx;
	(void)err;
	memset(text, 'x', n);
	(void)json_object_set_new(answer, "text", json_string(text));
	free(text);
	return 0;
}

static const struct door_op ops[] = {
	{"echo", 0, on_echo},	      {"fail", 0, on_fail}, {"fds", 0, on_fds},
	{"keep", 0, on_keep},	      {"slow", 0, on_slow}, {"big", 0, on_big},
	{"root", DOOR_ROOT, on_echo},
};

static struct door *open_door(unsigned clients, u64 message_ms)
{
	struct door_config config = {.path = path,
				     .node = 5,
				     .ops = ops,
				     .nops = KRG_NELEM(ops),
				     .clients = clients,
				     .workers = 8,
				     .message_ms = message_ms};
	struct krg_err err;
	struct door *d = NULL;

	tap_eq(door_new(&config, &d, &err), 0, "door_new");
	tap_eq(door_start(d, &err), 0, "door_start");
	return d;
}

static void close_door(struct door *d)
{
	door_stop(d);
	door_free(d);
}

static int client(void)
{
	int fd = -1;

	if (door_connect(path, &fd, NULL) < 0)
		tap_ok(false, "connect");
	return fd;
}

static json_t *call(int fd, json_t *req, int want, const char *what)
{
	struct krg_err err = {0};
	json_t *answer = NULL;

	tap_eq(door_call(fd, req, NULL, 0, &answer, &err), want, "%s (%s)", what, err.text);
	return answer;
}

static void test_plain(void)
{
	struct door *d = open_door(0, 0);
	int fd = client();
	struct krg_err err = {0};
	json_t *a = call(fd, json_pack("{s:s, s:s}", "op", "echo", "text", "hé"), 0, "echo");

	tap_ok(strcmp(json_string_value(json_object_get(a, "text")), "hé") == 0, "text is back");
	tap_eq(json_integer_value(json_object_get(a, "uid")), getuid(), "uid is the kernel's");
	tap_eq(json_integer_value(json_object_get(a, "pid")), getpid(), "pid is the kernel's");
	json_decref(a);
	tap_eq(door_call(fd, json_pack("{s:s}", "op", "fail"), NULL, 0, NULL, &err), -ENOENT,
	       "an error of a handler");
	tap_ok(err.node == 5 && strstr(err.text, "on purpose") != NULL, "with node and text");
	(void)call(fd, json_pack("{s:s}", "op", "nothing"), -EOPNOTSUPP, "an unknown op");
	(void)call(fd, json_pack("{s:i}", "op", 3), -EOPNOTSUPP, "an op that is no string");
	(void)call(fd, json_object(), -EOPNOTSUPP, "no op");
	json_decref(call(fd, json_pack("{s:s, s:i}", "op", "big", "n", 9 << 20), 0, "9 MiB back"));
	(void)call(fd, json_pack("{s:s, s:i}", "op", "big", "n", 17 << 20), -EMSGSIZE,
		   "an answer that is too long");
	door_refuse(d);
	(void)call(fd, json_pack("{s:s}", "op", "echo"), -ESHUTDOWN, "refused when leaving");
	(void)close(fd);
	close_door(d);
	tap_ok(access(path, F_OK) < 0, "the socket is gone");
}

static void test_fds(void)
{
	struct door *d = open_door(0, 0);
	int fd = client(), p[2], many[DOOR_FDS_MAX];
	struct krg_err err;
	char text[8] = "";
	json_t *a = NULL;

	if (pipe2(p, O_CLOEXEC) < 0)
		abort();
	tap_eq(door_call(fd, json_pack("{s:s}", "op", "fds"), &p[1], 1, &a, &err), 0,
	       "a descriptor");
	(void)close(p[1]);
	tap_eq(read(p[0], text, sizeof(text)), 4, "it was written to");
	tap_eq(read(p[0], text, sizeof(text)), 0, "and closed by the door");
	json_decref(a);
	for (unsigned i = 0; i < DOOR_FDS_MAX; i++)
		many[i] = open("/dev/null", O_RDWR | O_CLOEXEC);
	tap_eq(door_call(fd, json_pack("{s:s}", "op", "fds"), many, DOOR_FDS_MAX, &a, &err), 0,
	       "as many as may be");
	tap_eq(json_integer_value(json_object_get(a, "nfds")), DOOR_FDS_MAX, "all came");
	json_decref(a);
	for (unsigned i = 0; i < DOOR_FDS_MAX; i++)
		(void)close(many[i]);
	(void)close(p[0]);
	(void)close(fd);
	close_door(d);
}

static void test_events(void)
{
	struct door *d = open_door(0, 0);
	int fd = client();
	json_t *e = NULL;

	json_decref(call(fd, json_pack("{s:s}", "op", "keep"), 0, "the answer comes first"));
	tap_eq(door_recv(fd, &e, NULL), 0, "then the early event");
	json_decref(e);
	door_conn_event(kept, json_pack("{s:s}", "event", "late"));
	tap_eq(door_recv(fd, &e, NULL), 0, "then the late one");
	tap_ok(strcmp(json_string_value(json_object_get(e, "event")), "late") == 0, "it is that");
	json_decref(e);
	(void)close(fd);
	for (unsigned i = 0; i < 1000; i++)
		door_conn_event(kept, json_pack("{s:s}", "event", "to nobody"));
	door_conn_unref(kept);
	close_door(d);
}

/* The door must end this client, and must go on serving others. */
static void expect_dropped(int fd, const char *what)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	int other = client();
	char byte[64];
	ssize_t n = -1;

	while (poll(&p, 1, 5000) == 1 && (n = read(fd, byte, sizeof(byte))) > 0)
		;
	tap_ok(n == 0 || (n < 0 && errno == ECONNRESET), "%s: dropped", what);
	json_decref(call(other, json_pack("{s:s}", "op", "echo"), 0, "others are served"));
	(void)close(other);
	(void)close(fd);
}

static void hostile_bytes(const void *p, size_t n, const char *what)
{
	int fd = client();

	tap_eq(krg_write_all(fd, p, n), 0, "%s: sent", what);
	expect_dropped(fd, what);
}

static void hostile_fds(unsigned late, unsigned nfds, const char *what)
{
	int fd = client(), p[2], many[KRG_FDS_MAX];
	u8 msg[] = {15,	 0,   0,   0,	'{', '"', 'o', 'p', '"',
		    ':', '"', 'e', 'c', 'h', 'o', '"', '}', ' '};
	char byte;

	if (pipe2(p, O_CLOEXEC) < 0)
		abort();
	for (unsigned i = 0; i < nfds; i++)
		many[i] = p[1];
	if (late > 0)
		(void)krg_send_fds(fd, msg, late, NULL, 0);
	(void)krg_send_fds(fd, msg + late, sizeof(msg) - late, many, nfds);
	(void)close(p[1]);
	expect_dropped(fd, what);
	tap_eq(read(p[0], &byte, 1), 0, "%s: every descriptor is closed", what);
	(void)close(p[0]);
}

static void answer_of(const char *text, int want, const char *what)
{
	int fd = client();
	u32 n = (u32)strlen(text);
	u8 head[4] = {(u8)n, (u8)(n >> 8), (u8)(n >> 16), (u8)(n >> 24)};
	json_t *a = NULL;
	struct krg_err err;

	tap_ok(krg_write_all(fd, head, 4) == 0 && krg_write_all(fd, text, n) == 0, "%s: sent",
	       what);
	tap_eq(door_recv(fd, &a, NULL), 0, "%s: answered", what);
	tap_eq(door_answer_check(a, &err), want, "%s: refused", what);
	json_decref(a);
	json_decref(call(fd, json_pack("{s:s}", "op", "echo"), 0, "the same client goes on"));
	(void)close(fd);
}

static void test_hostile(void)
{
	struct door *d = open_door(0, 300);
	static char deep[DOOR_REQUEST_MAX];
	struct door_stat st;
	int fd;

	hostile_bytes("\xff\xff\xff\xff{}", 6, "a length of 4 GiB");
	hostile_bytes("\0\0\1\0{}", 6, "a length just too much");
	hostile_bytes("\0\0\0\0", 4, "no length");
	hostile_bytes("\4\0", 2, "half a length, then silence");
	hostile_bytes("\x10\0\0\0{\"op\"", 9, "half a message, then silence");
	hostile_fds(2, 1, "descriptors on the second byte on");
	hostile_fds(0, DOOR_FDS_MAX + 1, "a descriptor too many");
	hostile_fds(0, KRG_FDS_MAX, "many descriptors too many");
	memset(deep, '[', sizeof(deep) - 1);
	answer_of(deep, -EBADMSG, "65535 brackets");
	answer_of("[1]", -EBADMSG, "no object");
	answer_of("{\"op\":\"echo\"", -EBADMSG, "cut off JSON");
	answer_of("{\"op\":\"echo\",\"op\":\"root\"}", -EBADMSG, "a key twice");
	answer_of("{\"op\":\"\xff\xfe\"}", -EBADMSG, "bytes that are not UTF-8");
	answer_of("{\"op\":\"ec\\u0000ho\"}", -EBADMSG, "a NUL in a string");
	/* a client that asks and never reads */
	fd = client();
	for (unsigned i = 0; i < 3; i++)
		(void)!door_send(fd, json_pack("{s:s, s:i}", "op", "big", "n", 8 << 20), NULL, 0,
				 NULL);
	{
		struct pollfd p = {.fd = fd, .events = 0};

		tap_ok(poll(&p, 1, 30000) == 1 && (p.revents & POLLHUP),
		       "one that never reads: dropped");
		(void)close(fd);
	}
	door_stat_get(d, &st);
	tap_ok(st.broken >= 9, "they were counted: %llu", (unsigned long long)st.broken);
	close_door(d);
}

static void test_limits(void)
{
	struct door *d = open_door(16, 0);
	int fd[20], n = 0, other;
	struct krg_err err;
	json_t *a = NULL;

	for (int i = 0; i < 16; i++)
		fd[n++] = client();
	json_decref(call(fd[15], json_pack("{s:s}", "op", "echo"), 0, "the last one that fits"));
	other = client();
	tap_eq(door_recv(other, &a, NULL), 0, "one more is told");
	tap_eq(door_answer_check(a, &err), -EAGAIN, "that there are too many");
	json_decref(a);
	(void)close(other);
	for (int i = 0; i < n; i++)
		(void)close(fd[i]);
	for (int i = 0; i < 200; i++) {
		fd[0] = client();
		(void)!door_send(fd[0], json_pack("{s:s}", "op", "echo"), NULL, 0, NULL);
		(void)close(fd[0]);
	}
	close_door(d);
}

/* A uid's requests that hang leave workers for others (needs root to be somebody else). */
static void test_share(void)
{
	struct door *d = open_door(64, 0);
	int fd, status;
	pid_t pid;

	(void)pthread_mutex_lock(&gate);
	pid = fork();
	if (pid == 0) {
		json_t *a = NULL;
		int mine[12];

		if (setgid(4000) < 0 || setuid(4000) < 0)
			_exit(9);
		for (unsigned i = 0; i < KRG_NELEM(mine); i++)
			if (door_connect(path, &mine[i], NULL) < 0 ||
			    door_send(mine[i], json_pack("{s:s}", "op", "slow"), NULL, 0, NULL) < 0)
				_exit(8);
		for (unsigned i = 0; i < KRG_NELEM(mine); i++)
			if (door_recv(mine[i], &a, NULL) < 0)
				_exit(7);
		if (door_connect(path, &mine[0], NULL) < 0 ||
		    door_call(mine[0], json_pack("{s:s}", "op", "root"), NULL, 0, &a, NULL) !=
			    -EPERM)
			_exit(6);
		_exit(0);
	}
	while (atomic_load(&in_slow) < 2)
		(void)poll(NULL, 0, 1);
	fd = client();
	json_decref(call(fd, json_pack("{s:s}", "op", "echo"), 0, "served beside 12 that hang"));
	tap_eq(atomic_load(&in_slow), 2, "they have a quarter of the workers");
	(void)pthread_mutex_unlock(&gate);
	tap_ok(waitpid(pid, &status, 0) == pid && status == 0, "all were served in the end (%#x)",
	       (unsigned)status);
	(void)close(fd);
	close_door(d);
}

#define THREADS 16
static void *many_main(void *arg)
{
	int fd = client();
	long bad = 0;

	(void)arg;
	for (int i = 0; i < 300; i++) {
		json_t *a = NULL;
		char text[32];

		(void)snprintf(text, sizeof(text), "%d", i);
		if (door_call(fd, json_pack("{s:s, s:s}", "op", "echo", "text", text), NULL, 0, &a,
			      NULL) < 0 ||
		    strcmp(json_string_value(json_object_get(a, "text")), text) != 0)
			bad++;
		json_decref(a);
		if (i % 50 == 49) {
			(void)close(fd);
			fd = client();
		}
	}
	(void)close(fd);
	return (void *)bad;
}

static void test_many(void)
{
	struct door *d = open_door(0, 0);
	pthread_t t[THREADS];
	long bad = 0;

	for (int i = 0; i < THREADS; i++)
		(void)pthread_create(&t[i], NULL, many_main, NULL);
	for (int i = 0; i < THREADS; i++) {
		void *one;

		(void)pthread_join(t[i], &one);
		bad += (long)one;
	}
	tap_eq(bad, 0, "%d clients, 300 requests each", THREADS);
	close_door(d);
}

int main(void)
{
	(void)snprintf(path, sizeof(path), "/tmp/krg-test-door-%d", getpid());
	test_plain();
	test_fds();
	test_events();
	test_hostile();
	test_limits();
	if (getuid() == 0)
		test_share();
	test_many();
	(void)unlink(path);
	return tap_done();
}
