/* stream.c - pipe streams between two nodes (in one process, over loopback) against a bare relay:
 * pipe to TCP to pipe by splice(2), a thread each, nothing else.  Raw TCP is shown beside them.
 *
 * The three take turns, in one run; ratios are of the medians.
 */
#include "clock.h"
#include "comm.h"
#include "stream.h"
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>

#define ROUNDS 9
#define BYTES  (256u << 20)
#define BLOCK  (128u << 10)
#define PINGS  2000
#define WARM   2000 /* until the scheduler has found places for all threads */

#define MUST(e)                                                                                    \
	do {                                                                                       \
		if (!(e)) {                                                                        \
			(void)fprintf(stderr, "%s:%d %s: %s\n", __FILE__, __LINE__, #e,            \
				      strerror(errno));                                            \
			exit(1);                                                                   \
		}                                                                                  \
	} while (0)

/* A way from in to out; raw TCP has the same descriptor for nothing else. */
struct way {
	int in, out;
};

static struct stream *streams[2];
static struct comm *comms[2];

static void nodes_start(void)
{
	const nodeid members[2] = {0, 1};
	struct krg_err err = {0};

	for (int i = 0; i < 2; i++) {
		struct comm_config cc = {.self = (nodeid)i,
					 .listen_addr = "127.0.0.1",
					 .cluster = "b",
					 .workers = 4};
		struct stream_config sc = {.run_dir = "/tmp"};

		MUST(comm_new(&cc, &comms[i], &err) == 0 && comm_start(comms[i], &err) == 0);
		MUST(stream_new(comms[i], &sc, &streams[i], &err) == 0);
		MUST(stream_start(streams[i], &err) == 0);
	}
	for (int i = 0; i < 2; i++)
		MUST(comm_peer_set(comms[i], (nodeid)!i, "127.0.0.1", comm_port(comms[!i])) == 0);
	for (int i = 0; i < 2; i++)
		comm_view_set(comms[i], 1, members, 2);
}

static void nodes_stop(void)
{
	for (int i = 0; i < 2; i++)
		stream_stop(streams[i]);
	for (int i = 0; i < 2; i++)
		comm_stop(comms[i]);
	for (int i = 0; i < 2; i++) {
		stream_free(streams[i]);
		comm_free(comms[i]);
	}
}

static struct way way_tcp(void)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(a);
	int l = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
	struct way w = {.in = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};

	MUST(bind(l, (void *)&a, len) == 0 && listen(l, 1) == 0);
	MUST(getsockname(l, (void *)&a, &len) == 0 && connect(w.in, (void *)&a, len) == 0);
	w.out = accept4(l, NULL, NULL, SOCK_CLOEXEC);
	MUST(w.out >= 0);
	MUST(setsockopt(w.in, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)) == 0);
	(void)close(l);
	return w;
}

/* splice(2) from a socket waits with the pipe locked, so that nobody can read what is there
 * already: the data has to be waited for before. */
static void *splice_main(void *arg)
{
	struct way *w = arg;
	struct pollfd p = {.fd = w->in, .events = POLLIN};

	while (poll(&p, 1, -1) == 1 &&
	       splice(w->in, NULL, w->out, NULL, 1 << 20, SPLICE_F_MOVE) > 0)
		;
	(void)close(w->in);
	(void)close(w->out);
	free(w);
	return NULL;
}

static void splice_start(int in, int out)
{
	struct way *w = krg_xalloc(sizeof(*w));
	pthread_t t;

	*w = (struct way){in, out};
	MUST(pthread_create(&t, NULL, splice_main, w) == 0 && pthread_detach(t) == 0);
}

static struct way way_bare(void)
{
	struct way tcp = way_tcp();
	int a[2], b[2];

	MUST(pipe2(a, O_CLOEXEC) == 0 && pipe2(b, O_CLOEXEC) == 0);
	splice_start(a[0], tcp.in);
	splice_start(tcp.out, b[1]);
	return (struct way){a[1], b[0]};
}

/* The reader is on node 1 (away), or the writer is. */
static struct way way_stream(bool reader_away)
{
	struct rec_stream_ref ref;
	struct krg_err err = {0};
	struct way w;
	int a[2];

	MUST(pipe2(a, O_CLOEXEC) == 0);
	w = (struct way){a[1], a[0]};
	MUST(stream_export(streams[0], reader_away ? a[0] : a[1],
			   reader_away ? STREAM_PIPE_READ : STREAM_PIPE_WRITE, 1, &ref, &err) == 0);
	(void)close(reader_away ? a[0] : a[1]);
	MUST(stream_import(streams[1], &ref, reader_away ? &w.out : &w.in, &err) == 0);
	return w;
}

static struct way way_away(void)
{
	return way_stream(true);
}

static struct way way_home(void)
{
	return way_stream(false);
}

static void *write_main(void *arg)
{
	static u8 block[BLOCK];
	int fd = *(int *)arg;
	size_t left = BYTES;

	while (left > 0) {
		ssize_t n = write(fd, block, KRG_MIN(left, sizeof(block)));

		MUST(n > 0);
		left -= (size_t)n;
	}
	(void)close(fd);
	return NULL;
}

/* bytes a second */
static double throughput(struct way (*make)(void))
{
	static u8 block[BLOCK];
	struct way w = make();
	u64 begin = krg_clock_now_ns();
	size_t got = 0;
	pthread_t t;
	ssize_t n;

	MUST(pthread_create(&t, NULL, write_main, &w.in) == 0);
	while ((n = read(w.out, block, sizeof(block))) > 0)
		got += (size_t)n;
	MUST(got == BYTES && pthread_join(t, NULL) == 0);
	(void)close(w.out);
	return (double)BYTES * 1e9 / (double)(krg_clock_now_ns() - begin);
}

static void *echo_main(void *arg)
{
	struct way *w = arg;
	u8 b;

	while (read(w->in, &b, 1) == 1 && write(w->out, &b, 1) == 1)
		;
	(void)close(w->in);
	(void)close(w->out);
	return NULL;
}

/* nanoseconds of a byte's way there and back */
static double roundtrip(struct way (*there)(void), struct way (*back)(void))
{
	struct way a = there(), b = back(), echo = {a.out, b.in};
	u64 begin = 0;
	pthread_t t;
	u8 x = 1;

	MUST(pthread_create(&t, NULL, echo_main, &echo) == 0);
	for (int i = -WARM; i < PINGS; i++) {
		if (i == 0)
			begin = krg_clock_now_ns();
		MUST(write(a.in, &x, 1) == 1 && read(b.out, &x, 1) == 1);
	}
	begin = krg_clock_now_ns() - begin;
	(void)close(a.in);
	MUST(pthread_join(t, NULL) == 0);
	(void)close(b.out);
	return (double)begin / PINGS;
}

/* nanoseconds until a byte has come through a stream that was made just now */
static double first_byte(struct way (*make)(void))
{
	u64 begin = krg_clock_now_ns();
	struct way w = make();
	u8 x = 1;

	MUST(write(w.in, &x, 1) == 1 && read(w.out, &x, 1) == 1);
	begin = krg_clock_now_ns() - begin;
	(void)close(w.in);
	(void)close(w.out);
	return (double)begin;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double median(double *v)
{
	qsort(v, ROUNDS, sizeof(*v), by_value);
	return v[ROUNDS / 2];
}

static void figure(const char *name, double value, const char *op, double target)
{
	bool ok = op[0] == '>' ? value >= target : value <= target;

	printf("figure %s %.2f x target %s %.1f %s\n", name, value, op, target,
	       ok ? "ok" : "short");
}

int main(void)
{
	double tcp[ROUNDS], bare[ROUNDS], away[ROUNDS], home[ROUNDS], first[ROUNDS];
	double m_bare, m_away, m_home;

	nodes_start();
	for (int i = 0; i < ROUNDS; i++) {
		tcp[i] = throughput(way_tcp);
		bare[i] = throughput(way_bare);
		away[i] = throughput(way_away);
		home[i] = throughput(way_home);
	}
	m_bare = median(bare);
	m_away = median(away);
	m_home = median(home);
	printf("# throughput MB/s: raw tcp %.0f, bare relay %.0f, read away %.0f, written away "
	       "%.0f\n",
	       median(tcp) / 1e6, m_bare / 1e6, m_away / 1e6, m_home / 1e6);
	figure("pipe_throughput", KRG_MIN(m_away, m_home) / m_bare, ">=", 0.9);
	nodes_stop();
	for (int i = 0; i < ROUNDS; i++) {
		/* The bare relay's threads are new in each round: so are ours.  On which CPUs they
		 * were before decides much, as waking an idle one takes longer than all the rest. */
		nodes_start();
		tcp[i] = roundtrip(way_tcp, way_tcp);
		bare[i] = roundtrip(way_bare, way_bare);
		away[i] = roundtrip(way_away, way_home);
		first[i] = first_byte(way_away);
		nodes_stop();
	}
	m_bare = median(bare);
	m_away = median(away);
	printf("# a byte there and back, us: raw tcp %.1f, bare relay %.1f, stream %.1f; a new "
	       "stream's first byte %.0f\n",
	       median(tcp) / 1e3, m_bare / 1e3, m_away / 1e3, median(first) / 1e3);
	figure("pipe_roundtrip", m_away / m_bare, "<=", 1.3);
	return 0;
}
