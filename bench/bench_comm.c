/* bench_comm.c - a call of the Communication Library against a raw TCP round trip.
 *
 * Two processes on this machine.  The baseline is what a program would do by itself: a thread and a
 * connection a caller, blocking write and read, TCP_NODELAY.  Rounds of both alternate; each
 * figure is the median over rounds of the ratio of the medians of one round.
 */
#include "clock.h"
#include "comm.h"
#include "log.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <sys/wait.h>

#define SIZE	     64
#define ROUNDS	     15
#define ROUND_NS     (150 * KRG_MSEC)
#define CALLERS_MAX  64
#define SAMPLES_MAX  100000
#define OP_ECHO	     COMM_OP(COMM_SVC_TEST, 1)
#define OP_ECHO_WORK COMM_OP(COMM_SVC_TEST, 2)
#define TARGET	     1.5

struct hello {
	u16 comm_port, raw_port;
};

static struct comm *comm;
static u16 raw_port;
static pthread_barrier_t barrier;
static _Atomic u64 stop_at;

struct caller {
	pthread_t thread;
	bool raw;
	u16 op;
	int fd;
	u32 *samples; /* ns */
	unsigned n;
};

static void die(const char *what)
{
	perror(what);
	exit(1);
}

/* --- the other node --- */

static void on_echo(void *ctx, struct comm_req *req)
{
	struct krg_buf b = {.data = (u8 *)(uintptr_t)req->body.data, .len = req->body.len};

	(void)ctx;
	comm_req_answer(req, &b);
}

static void *raw_serve(void *arg)
{
	int fd = (int)(intptr_t)arg;
	u8 buf[SIZE];

	while (krg_read_all(fd, buf, SIZE) == 0 && krg_write_all(fd, buf, SIZE) == 0)
		;
	(void)close(fd);
	return NULL;
}

static int raw_listen(u16 *ret_port)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(a);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof(a)) < 0 || listen(fd, 128) < 0 ||
	    getsockname(fd, (struct sockaddr *)&a, &len) < 0)
		die("listen");
	*ret_port = ntohs(a.sin_port);
	return fd;
}

static struct comm *node_make(nodeid self)
{
	struct comm_config config = {.self = self, .listen_addr = "127.0.0.1", .cluster = "bench"};
	struct krg_err err;
	struct comm *c = NULL;

	if (comm_new(&config, &c, &err) < 0) {
		(void)fprintf(stderr, "%s\n", err.text);
		exit(1);
	}
	comm_register(c, OP_ECHO, COMM_INLINE, on_echo, NULL);
	comm_register(c, OP_ECHO_WORK, 0, on_echo, NULL);
	if (comm_start(c, &err) < 0)
		die("comm_start");
	return c;
}

static void view_set(struct comm *c)
{
	nodeid members[] = {0, 1};

	comm_view_set(c, 1, members, 2);
}

static _Noreturn void server(int to_parent)
{
	struct hello hello;
	int l = raw_listen(&hello.raw_port), one = 1;

	comm = node_make(1);
	view_set(comm);
	hello.comm_port = comm_port(comm);
	if (krg_write_all(to_parent, &hello, sizeof(hello)) < 0)
		exit(1);
	for (;;) {
		pthread_t t;
		int fd = accept(l, NULL, NULL);

		if (fd < 0)
			die("accept");
		(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
		if (pthread_create(&t, NULL, raw_serve, (void *)(intptr_t)fd) != 0)
			die("thread");
		(void)pthread_detach(t);
	}
}

/* --- callers --- */

static int raw_connect(void)
{
	struct sockaddr_in a = {.sin_family = AF_INET,
				.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
				.sin_port = htons(raw_port)};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;

	if (fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof(a)) < 0)
		die("connect");
	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	return fd;
}

static void call_once(struct caller *k, u8 *buf)
{
	if (k->raw) {
		if (krg_write_all(k->fd, buf, SIZE) < 0 || krg_read_all(k->fd, buf, SIZE) < 0)
			die("raw");
	} else {
		struct krg_buf b = {.data = buf, .len = SIZE};
		COMM_AUTO_REPLY struct comm_reply reply = {0};
		struct krg_err err;

		if (comm_call(comm, 1, k->op, &b, 10000, &reply, &err) < 0) {
			(void)fprintf(stderr, "%s\n", err.text);
			exit(1);
		}
	}
}

static void *caller_main(void *arg)
{
	struct caller *k = arg;
	u8 buf[SIZE] = {1};

	for (int i = 0; i < 20; i++)
		call_once(k, buf);
	pthread_barrier_wait(&barrier);
	pthread_barrier_wait(&barrier); /* stop_at is set */
	for (;;) {
		u64 start = krg_clock_now_ns();

		if (start >= atomic_load(&stop_at))
			return NULL;
		call_once(k, buf);
		if (k->n < SAMPLES_MAX)
			k->samples[k->n++] = (u32)(krg_clock_now_ns() - start);
	}
}

static int u32_cmp(const void *a, const void *b)
{
	u32 x = *(const u32 *)a, y = *(const u32 *)b;

	return x < y ? -1 : x > y;
}

static int double_cmp(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

struct result {
	double median_us, p99_us, mean_us, per_s;
};

static struct result round_run(unsigned callers, bool raw, u16 op)
{
	static struct caller k[CALLERS_MAX];
	static u32 all[CALLERS_MAX * 20000];
	struct result r = {0};
	u64 start, took;
	size_t n = 0;
	double sum = 0;

	pthread_barrier_init(&barrier, NULL, callers + 1);
	for (unsigned i = 0; i < callers; i++) {
		u32 *samples =
			k[i].samples != NULL ? k[i].samples : krg_xalloc(SAMPLES_MAX * sizeof(u32));

		k[i] = (struct caller){.raw = raw, .op = op, .samples = samples, .fd = -EBADF};
		if (raw)
			k[i].fd = raw_connect();
		if (pthread_create(&k[i].thread, NULL, caller_main, &k[i]) != 0)
			die("thread");
	}
	pthread_barrier_wait(&barrier);
	start = krg_clock_now_ns();
	atomic_store(&stop_at, start + ROUND_NS);
	pthread_barrier_wait(&barrier);
	for (unsigned i = 0; i < callers; i++) {
		(void)pthread_join(k[i].thread, NULL);
		krg_closep(&k[i].fd);
		for (unsigned j = 0; j < k[i].n && n < KRG_NELEM(all); j++)
			all[n++] = k[i].samples[j];
	}
	took = krg_clock_now_ns() - start;
	pthread_barrier_destroy(&barrier);
	if (n == 0)
		return r;
	qsort(all, n, sizeof(all[0]), u32_cmp);
	for (size_t i = 0; i < n; i++)
		sum += all[i];
	r.median_us = all[n / 2] / 1e3;
	r.p99_us = all[n * 99 / 100] / 1e3;
	r.mean_us = sum / (double)n / 1e3;
	r.per_s = (double)n * 1e9 / (double)took;
	return r;
}

static double median(double *v, unsigned n)
{
	qsort(v, n, sizeof(*v), double_cmp);
	return v[n / 2];
}

static void compare(unsigned callers, u16 op, const char *figure)
{
	struct result raw[ROUNDS], our[ROUNDS];
	double v[7][ROUNDS];
	double ratio;

	for (int i = 0; i < ROUNDS; i++) { /* which goes first alternates as well */
		if (i % 2 == 0)
			raw[i] = round_run(callers, true, 0);
		our[i] = round_run(callers, false, op);
		if (i % 2 == 1)
			raw[i] = round_run(callers, true, 0);
		v[0][i] = raw[i].median_us;
		v[1][i] = our[i].median_us;
		v[2][i] = our[i].median_us / raw[i].median_us;
		v[3][i] = raw[i].per_s;
		v[4][i] = our[i].per_s;
		v[5][i] = raw[i].mean_us;
		v[6][i] = our[i].mean_us;
	}
	ratio = median(v[2], ROUNDS);
	printf("%2u callers: raw TCP %.1f us (mean %.1f, %.0f/s), %s %.1f us (mean %.1f, %.0f/s)\n",
	       callers, median(v[0], ROUNDS), median(v[5], ROUNDS), median(v[3], ROUNDS),
	       op == OP_ECHO ? "comm_call" : "comm_call to a worker", median(v[1], ROUNDS),
	       median(v[6], ROUNDS), median(v[4], ROUNDS));
	if (figure != NULL)
		printf("figure %s_%u %.2f x target <= %.1f %s\n", figure, callers, ratio, TARGET,
		       ratio <= TARGET ? "ok" : "short");
	(void)fflush(stdout);
}

int main(void)
{
	static const unsigned callers[] = {1, 4, 16, 64};
	struct hello hello;
	int p[2];
	pid_t pid;

	if (pipe(p) < 0)
		die("pipe");
	pid = fork();
	if (pid < 0)
		die("fork");
	if (pid == 0)
		server(p[1]);
	krg_log_set_level(KRG_LOG_WARN);
	if (krg_read_all(p[0], &hello, sizeof(hello)) < 0)
		die("server");
	raw_port = hello.raw_port;
	comm = node_make(0);
	if (comm_peer_set(comm, 1, "127.0.0.1", hello.comm_port) < 0)
		die("peer");
	view_set(comm);
	for (size_t i = 0; i < KRG_NELEM(callers); i++)
		compare(callers[i], OP_ECHO, "comm_latency");
	compare(1, OP_ECHO_WORK, NULL);
	compare(16, OP_ECHO_WORK, NULL);
	comm_stop(comm);
	comm_free(comm);
	(void)kill(pid, SIGKILL);
	(void)waitpid(pid, NULL, 0);
	return 0;
}
