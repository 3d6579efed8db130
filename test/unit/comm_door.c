/* comm_door.c - who gets in: keys, clusters, versions, garbage, strangers; raw connections. */
#include "comm_cluster.h"
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <sys/socket.h>

enum {
	OP_ECHO = COMM_OP(COMM_SVC_TEST, 1),
	OP_JOIN = COMM_OP(COMM_SVC_TEST, 2),
	OP_RAW = COMM_OP(COMM_SVC_TEST, 3),
};

static char log_path[] = "/tmp/krg-comm-door-XXXXXX";
static sem_t raw_came;
static int raw_fd;
static u64 raw_tag;
static nodeid raw_from;

static void on_echo(void *ctx, struct comm_req *req)
{
	struct krg_buf b = {.data = (u8 *)(uintptr_t)req->body.data, .len = req->body.len};

	(void)ctx;
	comm_req_answer(req, &b);
}

static void on_raw(void *ctx, nodeid from, u64 tag, int fd)
{
	(void)ctx;
	raw_from = from;
	raw_tag = tag;
	raw_fd = fd;
	sem_post(&raw_came);
}

static void setup(struct comm *c, void *ctx)
{
	(void)ctx;
	comm_register(c, OP_ECHO, COMM_INLINE, on_echo, NULL);
	comm_register(c, OP_JOIN, COMM_ANY_VIEW, on_echo, NULL);
	comm_raw_register(c, OP_RAW, on_raw, NULL);
}

static bool logged(const char *what)
{
	static char text[1 << 18];

	return krg_read_file(log_path, text, sizeof(text)) >= 0 && strstr(text, what) != NULL;
}

static int call(struct comm *c, nodeid to, u16 op, struct krg_err *err)
{
	COMM_AUTO_REPLY struct comm_reply reply = {0};

	return comm_call(c, to, op, NULL, 5000, &reply, err);
}

static int dial(const struct comm *c)
{
	struct sockaddr_in a = {.sin_family = AF_INET,
				.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
				.sin_port = htons(comm_port(c))};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof(a)) < 0)
		abort();
	return fd;
}

/* Until the other end closes; 10 s at most. */
static bool is_closed(int fd)
{
	char buf[512];

	for (;;) {
		struct pollfd p = {.fd = fd, .events = POLLIN};
		ssize_t n;

		if (poll(&p, 1, 10000) <= 0)
			return false;
		n = recv(fd, buf, sizeof(buf), 0);
		if (n <= 0)
			return true;
	}
}

static void stranger(struct comm *to, nodeid self, const char *cluster, u8 key, const char *why,
		     const char *text)
{
	struct comm *c = cluster_node(self, cluster, key, 0, 1);
	struct krg_err err;
	nodeid node;

	setup(c, NULL);
	cluster_start(c);
	cluster_meet(c, to);
	tap_eq(call(c, comm_self(to), OP_JOIN, &err), -EACCES, "%s: refused", why);
	tap_ok(strstr(err.text, text) != NULL, "with the reason (%s)", err.text);
	tap_ok(logged(text), "which is in the log");
	tap_eq(comm_probe(c, "127.0.0.1", comm_port(to), 0, 2000, &node, &err), -EACCES,
	       "%s: probe too (%s)", why, err.text);
	comm_stop(c);
	comm_free(c);
}

static void test_strangers(struct cluster *k)
{
	struct comm *c;
	struct krg_err err;
	nodeid node = KRG_NODE_NONE;

	stranger(k->c[0], 3, "test", 8, "another key", "the cluster's key differs");
	stranger(k->c[0], 3, "other", 7, "another cluster", "cluster 'other', this is 'test'");
	c = cluster_node(3, "test", 7, 0, 1);
	setup(c, NULL);
	cluster_start(c);
	if (comm_peer_set(c, 1, "127.0.0.1", comm_port(k->c[0])) < 0)
		abort();
	tap_eq(call(c, 1, OP_JOIN, &err), -EACCES, "another node is there (%s)", err.text);
	comm_peer_forget(c, 1);
	tap_eq(comm_probe(c, "127.0.0.1", comm_port(k->c[0]), 7, 2000, &node, &err), 0, "a probe");
	tap_eq(node, 0, "finds the node");
	cluster_meet(c, k->c[0]);
	tap_eq(call(c, 0, OP_JOIN, &err), 0, "the right key: an op of any view, not yet a member");
	tap_eq(call(c, 0, OP_ECHO, &err), -EHOSTDOWN, "others not");
	tap_eq(call(k->c[0], 3, OP_JOIN, &err), 0, "and back, without an address");
	comm_stop(c);
	comm_free(c);

	c = cluster_node(3, "test", 7, 0, 1);
	cluster_start(c);
	setup(c, NULL);
	if (comm_peer_set(c, 0, "127.0.0.1", 1) < 0)
		abort();
	tap_eq(call(c, 0, OP_JOIN, &err), -EHOSTDOWN, "nobody there (%s)", err.text);
	comm_stop(c);
	comm_free(c);
}

static void test_garbage(struct cluster *k)
{
	static const struct {
		const char *what;
		u8 bytes[12];
		size_t len;
		const char *log;
	} t[] = {
		{"garbage", "GET / HTTP/", 11, "not a Kerrighed node"},
		{"another version", {'K', 'R', 'G', '1', 9, 0, 40, 0}, 8, "protocol version 9"},
		{"a handshake of 0 bytes", {'K', 'R', 'G', '1', 1, 0, 0, 0}, 8, "of 0 bytes"},
		{"an oversized one", {'K', 'R', 'G', '1', 1, 0, 255, 255}, 8, "of 65535 bytes"},
		{"a broken record",
		 {'K', 'R', 'G', '1', 1, 0, 4, 0, 1, 2, 3, 4},
		 12,
		 "broken HELLO"},
	};
	struct krg_err err;

	for (size_t i = 0; i < KRG_NELEM(t); i++) {
		int fd = dial(k->c[0]);

		if (krg_write_all(fd, t[i].bytes, t[i].len) < 0)
			abort();
		tap_ok(is_closed(fd), "%s: closed", t[i].what);
		tap_ok(logged(t[i].log), "and logged");
		(void)close(fd);
	}
	tap_eq(call(k->c[1], 0, OP_ECHO, &err), 0, "the others do not notice");
}

static void test_slow(struct cluster *k)
{
	u64 start = krg_clock_now_ns();
	int fd[700];
	unsigned closed = 0;
	struct krg_err err;

	for (unsigned i = 0; i < KRG_NELEM(fd); i++)
		fd[i] = dial(k->c[0]); /* and not a word */
	kernetdev_break(comm_kernetdev(k->c[1]), 0, 0);
	tap_eq(call(k->c[1], 0, OP_ECHO, &err), 0,
	       "a node gets in while 700 strangers hold connections");
	for (unsigned i = 0; i < KRG_NELEM(fd); i++) {
		closed += is_closed(fd[i]);
		(void)close(fd[i]);
	}
	tap_eq(closed, KRG_NELEM(fd), "they are closed");
	tap_ok(krg_clock_now_ns() - start < 8 * KRG_NSEC, "in a few seconds");
}

static void test_raw(struct cluster *k)
{
	struct krg_err err;
	char buf[6] = {0};
	int fd = -1;

	tap_eq(comm_raw_connect(k->c[0], 1, OP_RAW, 4711, &fd, &err), 0, "a raw connection");
	sem_wait(&raw_came);
	tap_ok(raw_from == 0 && raw_tag == 4711, "with who and what");
	tap_ok((fcntl(raw_fd, F_GETFL) & O_NONBLOCK) == 0 && (fcntl(fd, F_GETFL) & O_NONBLOCK) == 0,
	       "both ends block");
	if (krg_write_all(fd, "hello", 5) < 0 || krg_read_all(raw_fd, buf, 5) < 0)
		abort();
	tap_ok(strcmp(buf, "hello") == 0, "bytes");
	if (krg_write_all(raw_fd, "HELLO", 5) < 0 || krg_read_all(fd, buf, 5) < 0)
		abort();
	tap_ok(strcmp(buf, "HELLO") == 0, "both ways");
	(void)close(fd);
	tap_eq(krg_read_all(raw_fd, buf, 1), -EPIPE, "and the end");
	(void)close(raw_fd);
	tap_eq(comm_raw_connect(k->c[0], 0, OP_RAW, 5, &fd, &err), 0, "to oneself");
	sem_wait(&raw_came);
	tap_eq(raw_from, 0, "from oneself");
	(void)close(raw_fd);
	(void)close(fd);
	tap_eq(comm_raw_connect(k->c[0], 1, OP_ECHO, 1, &fd, &err), -ENOSYS,
	       "an unknown raw op (%s)", err.text);
	tap_eq(comm_raw_connect(k->c[0], 3, OP_RAW, 1, &fd, &err), -EHOSTDOWN, "to nobody");
}

int main(void)
{
	struct cluster k = {.setup = setup};
	int fd = mkstemp(log_path);
	struct rlimit limit;

	/* both ends of all the strangers' connections are here */
	if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
		limit.rlim_cur = limit.rlim_max;
		(void)setrlimit(RLIMIT_NOFILE, &limit);
	}
	krg_log_init(fd, 0, KRG_LOG_INFO);
	sem_init(&raw_came, 0, 0);
	cluster_up(&k, 2);
	test_strangers(&k);
	test_garbage(&k);
	test_slow(&k);
	test_raw(&k);
	cluster_down(&k);
	(void)unlink(log_path);
	return tap_done();
}
