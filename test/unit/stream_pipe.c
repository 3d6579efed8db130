/* stream_pipe.c - pipe streams: an end of a pipe of node 0, used on node 1. */
#include "stream_nodes.h"
#include "fault.h"
#include "rng.h"
#include <arpa/inet.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>

static struct nodes n;

static long relays(unsigned node)
{
	struct stream_stat st;

	stream_stat_get(n.stream[node], &st);
	return (long)st.relays;
}

/* The end that moves is held by nobody else: the test closes its own. */
static int move_end(int fd, enum stream_kind kind)
{
	int got = move_fd(&n, fd, kind, 0, 1);

	(void)close(fd);
	return got;
}

struct flow {
	int fd;
	size_t total;
	u64 seed;
	size_t max; /* bytes a call */
	size_t done;
	bool same;
};

static void fill(u8 *p, size_t at, size_t len, u64 seed)
{
	for (size_t i = 0; i < len; i++) {
		u64 x = (at + i) * 0x9e3779b97f4a7c15ull + seed;

		p[i] = (u8)(x >> 56);
	}
}

static void *writes(void *arg)
{
	struct flow *f = arg;
	struct krg_rng rng;
	KRG_AUTO_FREE u8 *b = krg_xalloc(f->max);

	krg_rng_init(&rng, f->seed);
	while (f->done < f->total) {
		size_t len = KRG_MIN(1 + krg_rng_below(&rng, f->max), f->total - f->done);

		fill(b, f->done, len, f->seed);
		if (write(f->fd, b, len) != (ssize_t)len)
			break;
		f->done += len;
	}
	(void)close(f->fd);
	return NULL;
}

static void *reads(void *arg)
{
	struct flow *f = arg;
	KRG_AUTO_FREE u8 *b = krg_xalloc(f->max), *want = krg_xalloc(f->max);
	ssize_t got;

	f->same = true;
	while ((got = read(f->fd, b, f->max)) > 0) {
		fill(want, f->done, (size_t)got, f->seed);
		f->same = f->same && memcmp(b, want, (size_t)got) == 0;
		f->done += (size_t)got;
	}
	(void)close(f->fd);
	return NULL;
}

static void flow(enum stream_kind kind, size_t total, size_t max_w, size_t max_r, const char *what)
{
	struct flow w = {.total = total, .seed = total ^ max_w, .max = max_w};
	struct flow r = {.seed = total ^ max_w, .max = max_r};
	pthread_t t[2];
	int p[2];

	MUST(pipe2(p, O_CLOEXEC) == 0);
	if (kind == STREAM_PIPE_READ) {
		w.fd = p[1];
		r.fd = move_end(p[0], kind);
	} else {
		r.fd = p[0];
		w.fd = move_end(p[1], kind);
	}
	MUST(pthread_create(&t[0], NULL, writes, &w) == 0);
	MUST(pthread_create(&t[1], NULL, reads, &r) == 0);
	MUST(pthread_join(t[0], NULL) == 0 && pthread_join(t[1], NULL) == 0);
	tap_ok(r.done == total && r.same, "%s: %zu bytes of %zu, %s", what, r.done, total,
	       r.same ? "the same" : "not the same");
	tap_ok(WITHIN(relays(0) == 0 && relays(1) == 0), "and both ends are gone");
}

static void test_flows(void)
{
	flow(STREAM_PIPE_READ, 10, 10, 100, "a few bytes, read away");
	flow(STREAM_PIPE_WRITE, 10, 10, 100, "a few bytes, written away");
	flow(STREAM_PIPE_READ, 0, 10, 100, "nothing, read away");
	flow(STREAM_PIPE_WRITE, 0, 10, 100, "nothing, written away");
	flow(STREAM_PIPE_READ, 20000, 3, 100, "many small ones, read away");
	flow(STREAM_PIPE_WRITE, 20000, 3, 100, "many small ones, written away");
	flow(STREAM_PIPE_READ, 64 << 20, 200000, 200000, "64 MiB, read away");
	flow(STREAM_PIPE_WRITE, 64 << 20, 200000, 200000, "64 MiB, written away");
	flow(STREAM_PIPE_READ, 8 << 20, 20000, 300, "a slow reader");
	flow(STREAM_PIPE_WRITE, 8 << 20, 9000, 70000, "sizes around where splice begins");
}

/* Where a reader keeps up there may be no pieces large enough for the fault: then once more. */
static void break_flow(enum stream_kind kind, const char *spec, const char *what)
{
	MUST(krg_fault_arm(spec) == 0);
	for (int i = 0; i < 10 && !krg_fault_fired(); i++)
		flow(kind, 16 << 20, 100000, 60000, what);
	tap_ok(krg_fault_fired(), "the connection was broken");
	krg_fault_disarm();
}

static void break_flows(const char *spec, const char *what)
{
	break_flow(STREAM_PIPE_READ, spec, what);
	break_flow(STREAM_PIPE_WRITE, spec, what);
}

static void test_broken_connection(void)
{
	break_flows("STREAM_DATA", "connection lost at its beginning");
	break_flows("STREAM_DATA:10", "connection lost in the middle");
	break_flows("STREAM_DATA:40", "connection lost later");
}

static void test_reader_gone(void)
{
	int p[2], fd, st;

	/* the reader at the origin goes while all is idle: the writer away gets SIGPIPE */
	MUST(pipe2(p, O_CLOEXEC) == 0);
	fd = move_end(p[1], STREAM_PIPE_WRITE);
	MUST(write(fd, "x", 1) == 1);
	(void)close(p[0]);
	struct pollfd pf = {.fd = fd, .events = POLLOUT};
	tap_ok(WITHIN(poll(&pf, 1, 0) == 1 && (pf.revents & POLLERR) != 0),
	       "the reader goes: the writer away sees POLLERR though idle");
	st = IN_CHILD(signal(SIGPIPE, SIG_DFL); (void)!write(fd, "x", 1));
	tap_ok(WIFSIGNALED(st) && WTERMSIG(st) == SIGPIPE, "and SIGPIPE");
	(void)close(fd);
	tap_ok(WITHIN(relays(0) == 0 && relays(1) == 0), "and both ends are gone");
	/* the reader away goes: the writer at the origin */
	MUST(pipe2(p, O_CLOEXEC) == 0);
	fd = move_end(p[0], STREAM_PIPE_READ);
	MUST(write(p[1], "x", 1) == 1);
	(void)close(fd);
	pf = (struct pollfd){.fd = p[1], .events = POLLOUT};
	tap_ok(WITHIN(poll(&pf, 1, 0) == 1 && (pf.revents & POLLERR) != 0),
	       "the reader away goes: the writer sees it");
	(void)close(p[1]);
	tap_ok(WITHIN(relays(0) == 0 && relays(1) == 0), "and both ends are gone");
	/* there was none at all */
	MUST(pipe2(p, O_CLOEXEC) == 0);
	(void)close(p[0]);
	fd = move_end(p[1], STREAM_PIPE_WRITE);
	pf = (struct pollfd){.fd = fd, .events = POLLOUT};
	tap_ok(WITHIN(poll(&pf, 1, 0) == 1 && (pf.revents & POLLERR) != 0),
	       "exported without a reader: the same");
	(void)close(fd);
	tap_ok(WITHIN(relays(0) == 0 && relays(1) == 0), "and both ends are gone");
}

/* A reader that does not read: the writer stops at a bound, and goes on afterwards. */
static void test_back_pressure(enum stream_kind kind)
{
	static u8 block[65536];
	size_t wrote = 0, got = 0;
	int p[2], w, r;
	ssize_t k;
	unsigned still = 0;

	MUST(pipe2(p, O_CLOEXEC) == 0);
	w = kind == STREAM_PIPE_WRITE ? move_end(p[1], kind) : p[1];
	r = kind == STREAM_PIPE_READ ? move_end(p[0], kind) : p[0];
	MUST(fcntl(w, F_SETFL, O_WRONLY | O_NONBLOCK) == 0);
	while (still < 100 && wrote < (256u << 20)) {
		struct pollfd pf = {.fd = w, .events = POLLOUT};

		if (poll(&pf, 1, 5) == 0) {
			still++;
			continue;
		}
		k = write(w, block, sizeof(block));
		if (k > 0) {
			wrote += (size_t)k;
			still = 0;
		}
	}
	tap_ok(wrote > 65536 && wrote < (64u << 20), "the writer stops after %zu KiB", wrote >> 10);
	(void)close(w);
	while ((k = read(r, block, sizeof(block))) > 0)
		got += (size_t)k;
	tap_ok(got == wrote, "all of it arrives");
	(void)close(r);
	tap_ok(WITHIN(relays(0) == 0 && relays(1) == 0), "and both ends are gone");
}

/* As a network does it: links and streams alike. */
static void break_connections(void)
{
	struct sockaddr_in a;

	for (int fd = 3; fd < 1024; fd++) {
		socklen_t len = sizeof(a);

		if (getpeername(fd, (struct sockaddr *)&a, &len) == 0 && a.sin_family == AF_INET)
			(void)shutdown(fd, SHUT_RDWR);
	}
}

/* Writes until nothing more fits in. */
static size_t stuff(int w, size_t at, size_t piece)
{
	static u8 block[100000];
	unsigned still = 0;

	while (still < 60) {
		struct pollfd pf = {.fd = w, .events = POLLOUT};
		ssize_t k;

		fill(block, at, piece, 1);
		if (poll(&pf, 1, 5) == 1 && (k = write(w, block, piece)) > 0) {
			at += (size_t)k;
			still = 0;
		} else {
			still++;
		}
	}
	return at;
}

/* Nobody reads while connections are lost: what came before and what comes after both wait for room, and
 * it is never more than was agreed. */
static void stuffed_and_broken(size_t piece)
{
	static u8 block[100000], want[100000];
	size_t wrote = 0, got = 0;
	bool same = true;
	int p[2], w;
	ssize_t k;

	MUST(pipe2(p, O_CLOEXEC) == 0);
	w = move_end(p[1], STREAM_PIPE_WRITE);
	MUST(fcntl(w, F_SETFL, O_WRONLY | O_NONBLOCK) == 0);
	for (unsigned i = 0; i < 4; i++) {
		wrote = stuff(w, wrote, piece);
		break_connections();
	}
	(void)close(w);
	while ((k = read(p[0], block, sizeof(block))) > 0) {
		fill(want, got, (size_t)k, 1);
		same = same && memcmp(want, block, (size_t)k) == 0;
		got += (size_t)k;
	}
	tap_ok(got == wrote && same, "nobody reads, pieces of %zu: %zu bytes of %zu arrive", piece,
	       got, wrote);
	(void)close(p[0]);
	tap_ok(WITHIN(relays(0) == 0 && relays(1) == 0), "and both ends are gone");
}

static void test_stuffed_and_broken(void)
{
	static const size_t pieces[] = {100000, 65536, 33333, 777};

	for (unsigned i = 0; i < KRG_NELEM(pieces); i++)
		stuffed_and_broken(pieces[i]);
}

static void test_nonblock(void)
{
	int p[2], fd;
	char b[8];

	MUST(pipe2(p, O_CLOEXEC | O_NONBLOCK) == 0);
	fd = move_end(p[0], STREAM_PIPE_READ);
	tap_ok(read(fd, b, 8) < 0 && errno == EAGAIN, "O_NONBLOCK is kept: EAGAIN");
	struct pollfd pf = {.fd = fd, .events = POLLIN};
	tap_eq(poll(&pf, 1, 20), 0, "poll: nothing");
	MUST(write(p[1], "abc", 3) == 3);
	tap_eq(poll(&pf, 1, 5000), 1, "poll wakes");
	tap_eq(read(fd, b, 8), 3, "read");
	struct stat st;
	tap_ok(fstat(fd, &st) == 0 && S_ISFIFO(st.st_mode), "it is a real pipe");
	(void)close(p[1]);
	tap_ok(poll(&pf, 1, 5000) == 1 && (pf.revents & POLLHUP) != 0, "POLLHUP");
	tap_eq(read(fd, b, 8), 0, "end of file");
	(void)close(fd);
	tap_ok(WITHIN(relays(0) == 0 && relays(1) == 0), "and both ends are gone");
}

/* Long idle on a connection of its own, then a byte now and then. */
static void test_ping_pong(void)
{
	int there[2], back[2], a, b;
	bool same = true;

	MUST(pipe2(there, O_CLOEXEC) == 0 && pipe2(back, O_CLOEXEC) == 0);
	a = move_end(there[0], STREAM_PIPE_READ);
	b = move_end(back[1], STREAM_PIPE_WRITE);
	for (int i = 0; i < 500; i++) {
		u8 x = (u8)i, y = 0;

		MUST(write(there[1], &x, 1) == 1 && read(a, &y, 1) == 1 && write(b, &y, 1) == 1 &&
		     read(back[0], &y, 1) == 1);
		same = same && x == y;
	}
	tap_ok(same, "five hundred bytes there and back");
	(void)close(a);
	(void)close(b);
	(void)close(there[1]);
	(void)close(back[0]);
	tap_ok(WITHIN(relays(0) == 0 && relays(1) == 0), "and both ends are gone");
}

static void test_refused(void)
{
	struct rec_stream_ref ref;
	struct krg_err err = {0};
	int p[2], fd;

	MUST(pipe2(p, O_CLOEXEC) == 0);
	tap_eq(stream_export(n.stream[0], p[0], STREAM_PIPE_WRITE, 1, &ref, &err), -EOPNOTSUPP,
	       "the wrong end: %s", err.text);
	MUST(stream_export(n.stream[0], p[0], STREAM_PIPE_READ, 1, &ref, &err) == 0);
	MUST(stream_import(n.stream[1], &ref, &fd, &err) == 0);
	int again = -1;
	tap_eq(stream_import(n.stream[1], &ref, &again, &err), -EEXIST, "imported once only");
	(void)close(fd);
	tap_ok(WITHIN(relays(0) == 0 && relays(1) == 0), "both ends are gone");
	MUST(stream_export(n.stream[0], p[0], STREAM_PIPE_READ, 1, &ref, &err) == 0);
	tap_eq(relays(0), 1, "exported");
	stream_cancel(n.stream[0], &ref, 1);
	tap_eq(relays(0), 0, "cancelled");
	MUST(write(p[1], "k", 1) == 1);
	char c;
	tap_ok(read(p[0], &c, 1) == 1 && c == 'k', "and the pipe is as before");
	(void)close(p[0]);
	(void)close(p[1]);
}

static void test_death(void)
{
	int p[2], q[2], w, r, st;
	char b[8];

	MUST(pipe2(p, O_CLOEXEC) == 0 && pipe2(q, O_CLOEXEC) == 0);
	w = move_end(p[1], STREAM_PIPE_WRITE);
	r = move_end(q[0], STREAM_PIPE_READ);
	MUST(write(w, "last", 4) == 4);
	tap_eq(read(p[0], b, 4), 4, "before");
	nodes_down(&n, 1, 2);
	tap_eq(read(p[0], b, 4), 0, "the writer's node dies: end of file");
	st = IN_CHILD(signal(SIGPIPE, SIG_DFL); (void)!write(q[1], "x", 1));
	(void)close(r); /* the dead node's process */
	(void)close(w);
	st = IN_CHILD(signal(SIGPIPE, SIG_DFL); (void)!write(q[1], "x", 1));
	tap_ok(WIFSIGNALED(st) && WTERMSIG(st) == SIGPIPE, "the reader's node dies: SIGPIPE");
	tap_eq(relays(0), 0, "nothing is left");
	(void)close(p[0]);
	(void)close(q[1]);
}

/* An exec that stays after all: what the pipe held is still in it. */
static void test_held(void)
{
	struct rec_stream_ref ref;
	struct krg_err err = {0};
	int p[2], fd = -EBADF;
	char b[8];

	MUST(pipe2(p, O_CLOEXEC) == 0);
	MUST(write(p[1], "abcd", 4) == 4);
	MUST(stream_export(n.stream[0], p[0], STREAM_PIPE_READ, 1, &ref, &err) == 0);
	stream_hold(n.stream[0], &ref, true);
	MUST(stream_import(n.stream[1], &ref, &fd, &err) == 0);
	struct pollfd pf = {.fd = fd, .events = POLLIN};
	tap_eq(poll(&pf, 1, 50), 0, "held: nothing comes");
	stream_cancel(n.stream[0], &ref, 1);
	tap_eq(read(p[0], b, sizeof(b)), 4, "cancelled: all is still there");
	(void)close(fd);
	tap_ok(WITHIN(relays(0) == 0 && relays(1) == 0), "both ends are gone");
	fd = -EBADF;
	MUST(write(p[1], "efgh", 4) == 4);
	MUST(stream_export(n.stream[0], p[0], STREAM_PIPE_READ, 1, &ref, &err) == 0);
	stream_hold(n.stream[0], &ref, true);
	MUST(stream_import(n.stream[1], &ref, &fd, &err) == 0);
	stream_hold(n.stream[0], &ref, false);
	tap_eq(read(fd, b, sizeof(b)), 4, "let go: it comes");
	(void)close(p[0]);
	(void)close(p[1]);
	tap_eq(read(fd, b, sizeof(b)), 0, "and the end");
	(void)close(fd);
	tap_ok(WITHIN(relays(0) == 0 && relays(1) == 0), "both ends are gone");
}

/* ---- stream_settled(): what was written away is there before the writer's end is told ---- */

/* A pipe whose write end is on node 1. */
struct away {
	struct rec_stream_ref ref;
	int in, out; /* node 1's end, node 0's */
	size_t written, got;
	_Atomic int settled;
};

static void away_make(struct away *a)
{
	struct krg_err err = {0};
	int p[2];

	*a = (struct away){0};
	MUST(pipe2(p, O_CLOEXEC) == 0);
	MUST(fcntl(p[0], F_SETFL, O_RDONLY | O_NONBLOCK) == 0);
	MUST(stream_export(n.stream[0], p[1], STREAM_PIPE_WRITE, 1, &a->ref, &err) == 0);
	(void)close(p[1]);
	MUST(stream_import(n.stream[1], &a->ref, &a->in, &err) == 0);
	a->out = p[0];
}

static void on_settled(void *ctx)
{
	((struct away *)ctx)->settled++;
}

static void away_drain(struct away *a)
{
	static u8 block[65536];
	ssize_t k;

	while ((k = read(a->out, block, sizeof(block))) > 0)
		a->got += (size_t)k;
}

static void *away_write(void *arg)
{
	static u8 block[200000];
	struct away *a = arg;

	return (void *)(write(a->in, block, a->written) == (ssize_t)a->written ? 1L : 0L);
}

/* A burst, then its settling; the reader reads all the while.  True: when it was told, all was there. */
static bool burst(struct away *a, size_t len)
{
	pthread_t t;
	void *r;

	a->written = len;
	a->got = 0;
	a->settled = 0;
	MUST(pthread_create(&t, NULL, away_write, a) == 0);
	while (pthread_tryjoin_np(t, &r) != 0) {
		struct pollfd pf = {.fd = a->out, .events = POLLIN};

		(void)poll(&pf, 1, 1);
		away_drain(a);
	}
	MUST(r != NULL);
	stream_settled(n.stream[1], &a->ref, on_settled, a);
	if (!WITHIN((a->settled > 0 || (away_drain(a), false))))
		return false;
	away_drain(a);
	if (a->settled != 1 || a->got != len)
		printf("# of %zu bytes %zu had arrived\n", len, a->got);
	return a->settled == 1 && a->got == len;
}

/* Bursts over a stream whose connection is lost at its k-th piece of data. */
static void settle_broken(unsigned k)
{
	struct away a;
	struct krg_rng rng;
	unsigned good = 0, all;
	char spec[32];

	away_make(&a);
	krg_rng_init(&rng, k);
	(void)snprintf(spec, sizeof(spec), "STREAM_DATA:%u", k);
	MUST(krg_fault_arm(spec) == 0);
	for (all = 0; all < 200 && (all < 20 || !krg_fault_fired()); all++)
		good += burst(&a, 1 + krg_rng_below(&rng, all % 3 == 0 ? 100 : 200000));
	tap_ok(krg_fault_fired() && good == all,
	       "connection lost at piece %u: %u of %u times told when all was there", k, good, all);
	krg_fault_disarm();
	(void)close(a.in);
	(void)close(a.out);
	tap_ok(WITHIN(relays(0) == 0 && relays(1) == 0), "and both ends are gone");
}

/* Written, and nobody reads: it waits. */
static void away_stuff(struct away *a)
{
	static u8 block[65536];

	MUST(fcntl(a->in, F_SETFL, O_WRONLY | O_NONBLOCK) == 0);
	for (unsigned still = 0; still < 50;) {
		struct pollfd pf = {.fd = a->in, .events = POLLOUT};

		if (poll(&pf, 1, 5) == 1 && write(a->in, block, sizeof(block)) > 0)
			still = 0;
		else
			still++;
	}
	stream_settled(n.stream[1], &a->ref, on_settled, a);
	(void)poll(NULL, 0, 50);
	tap_eq(a->settled, 0, "nobody reads: not settled");
}

static void test_settled(void)
{
	struct away a;

	for (unsigned k = 1; k <= 40; k = k * 2 + 1)
		settle_broken(k);
	away_make(&a);
	away_stuff(&a);
	(void)close(a.out);
	tap_ok(WITHIN(a.settled == 1), "the reader goes: told, as nothing will arrive any more");
	(void)close(a.in);
	tap_ok(WITHIN(relays(0) == 0 && relays(1) == 0), "both ends are gone");
	stream_settled(n.stream[1], &a.ref, on_settled, &a);
	tap_eq(a.settled, 2, "a stream that is over: told at once");
}

static long write_fails(void *fd)
{
	return write(*(int *)fd, "x", 1) < 0 ? errno : 0;
}

static long reads_end(void *fd)
{
	char b[64];
	long k, all = 0;

	while ((k = read(*(int *)fd, b, sizeof(b))) > 0)
		all += k;
	return k == 0 ? all : -errno;
}

/* A process away ends: who hears of that writes into a pipe that nobody reads, and reads to the end of one that nobody
 * writes. */
static void test_settled_ends(void)
{
	int p[2], fd, rounds = 300, gone = 0, there = 0, end = 0;
	struct rec_stream_ref ref;
	struct krg_err err = {0};
	struct ending e = {.n = &n};
	struct away a;

	ending_begin(&e);
	for (int i = 0; i < rounds; i++) {
		MUST(pipe2(p, O_CLOEXEC) == 0);
		MUST(stream_export(n.stream[0], p[0], STREAM_PIPE_READ, 1, &ref, &err) == 0);
		(void)close(p[0]);
		MUST(stream_import(n.stream[1], &ref, &fd, &err) == 0);
		e.look = write_fails;
		e.arg = &p[1];
		if (i % 2 == 0) { /* somebody else has it */
			int other = dup(fd);

			(void)close(fd);
			there += ending_look(&e, &ref) == 0;
			fd = other;
		}
		(void)close(fd);
		gone += ending_look(&e, &ref) == EPIPE;
		(void)close(p[1]);

		away_make(&a);
		MUST(write(a.in, "abc", 3) == 3);
		(void)close(a.in);
		e.look = reads_end;
		e.arg = &a.out;
		end += ending_look(&e, &a.ref) == 3;
		(void)close(a.out);
	}
	tap_eq(gone, rounds, "nobody reads any more: EPIPE as soon as the end is told");
	tap_eq(there, rounds / 2, "somebody does: nothing is waited for");
	tap_eq(end, rounds, "nobody writes any more: all of it, and the end of file");
	tap_ok(WITHIN(relays(0) == 0 && relays(1) == 0), "and nothing is left");
}

/* The origin dies while it waits. */
static void test_settled_death(void)
{
	struct away a;

	away_make(&a);
	away_stuff(&a);
	nodes_down(&n, 0, 2);
	tap_ok(WITHIN(a.settled == 1), "the reader's node dies: told");
	(void)close(a.in);
	(void)close(a.out);
	tap_ok(WITHIN(relays(1) == 0), "and the end is gone");
}

int main(void)
{
	nodes_start(&n, 2);
	test_flows();
	test_broken_connection();
	test_reader_gone();
	test_back_pressure(STREAM_PIPE_READ);
	test_back_pressure(STREAM_PIPE_WRITE);
	test_stuffed_and_broken();
	test_nonblock();
	test_ping_pong();
	test_refused();
	test_held();
	test_settled();
	test_settled_ends();
	test_death();
	nodes_stop(&n);
	nodes_start(&n, 2);
	test_settled_death();
	nodes_stop(&n);
	return tap_done();
}
