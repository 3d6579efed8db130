/* bench_lab_pipe.c - pipes between two nodes: bytes per second, and a byte's round trip.
 *
 * Ours: a program on node 0 under `krg run` makes two pipes and a child that takes one end of each
 * and executes on node 1.  Bare: the same program and the same child, outside the world, with a bare relay
 * between the same two nodes: per direction, pipe to TCP by splice in one process, TCP to pipe in
 * another, and nothing else.  Raw: TCP in place of the pipes.  Rounds alternate; the figures are medians of the ratios
 * of one round.
 */
#include "bench_lab_util.h"
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

#define ROUNDS	  21
#define BYTES	  (512ull << 20)
#define TRIPS	  2000
#define PIPE_SIZE (1 << 20)
#define CHUNK	  (128 << 10)

/* To the far end: swallow n bytes and say so with one; or give n single bytes back. */
enum { SINK = 1, ECHO = 2 };
struct order {
	u32 kind, pad;
	u64 n;
};

static u8 buffer[CHUNK];

/* ---- the far end: stdin and stdout ---- */

static void sink(u64 n)
{
	while (n > 0) {
		ssize_t r = read(0, buffer, KRG_MIN(n, (u64)sizeof(buffer)));

		if (r <= 0)
			exit(1);
		n -= (u64)r;
	}
	bench_answer(buffer, 1);
}

static int far_end(void)
{
	struct order o;

	while (bench_asked(&o, sizeof(o))) {
		if (o.kind == SINK)
			sink(o.n);
		for (; o.kind == ECHO && o.n > 0; o.n--) {
			if (!bench_asked(buffer, 1))
				return 1;
			bench_answer(buffer, 1);
		}
	}
	return 0;
}

/* ---- the near end: to and from the far one; asked by the bench ---- */

static double sink_gbps(int to, int from, u64 n)
{
	struct order o = {.kind = SINK, .n = n};
	u64 start = krg_clock_now_ns();

	if (krg_write_all(to, &o, sizeof(o)) < 0)
		bench_die("write: the far end is gone");
	for (u64 left = n; left > 0;) {
		u64 k = KRG_MIN(left, (u64)sizeof(buffer));

		if (krg_write_all(to, buffer, k) < 0)
			bench_die("write: the far end is gone");
		left -= k;
	}
	if (krg_read_all(from, buffer, 1) < 0)
		bench_die("read: the far end is gone");
	return (double)n / (double)(krg_clock_now_ns() - start);
}

static double trip_us(int to, int from, u64 n)
{
	static u64 took[1 << 16];
	struct order o = {.kind = ECHO, .n = n};

	ASSERT(n > 0 && n <= KRG_NELEM(took));
	if (krg_write_all(to, &o, sizeof(o)) < 0)
		bench_die("write: the far end is gone");
	for (u64 i = 0; i < n; i++) {
		u64 start = krg_clock_now_ns();

		if (krg_write_all(to, buffer, 1) < 0 || krg_read_all(from, buffer, 1) < 0)
			bench_die("the far end is gone");
		took[i] = krg_clock_now_ns() - start;
	}
	return (double)bench_median_u64(took, (unsigned)n) / 1e3;
}

static int near_end(int to, int from)
{
	struct order o;

	while (bench_asked(&o, sizeof(o))) {
		double r = o.kind == SINK ? sink_gbps(to, from, o.n) : trip_us(to, from, o.n);

		bench_answer(&r, sizeof(r));
	}
	return 0;
}

static void pipes_make(int there[2], int back[2])
{
	if (pipe2(there, O_CLOEXEC) < 0 || pipe2(back, O_CLOEXEC) < 0)
		bench_die("pipe: %s", strerror(errno));
	(void)fcntl(there[0], F_SETPIPE_SZ, PIPE_SIZE);
	(void)fcntl(back[0], F_SETPIPE_SZ, PIPE_SIZE);
}

/* Ours: the child executes once nobody else has its ends, as a shell's pipeline does. */
static int ours(void)
{
	int there[2], back[2], go[2];
	char byte;
	pid_t pid;

	pipes_make(there, back);
	if (pipe2(go, O_CLOEXEC) < 0)
		bench_die("pipe: %s", strerror(errno));
	pid = fork();
	if (pid == 0) {
		(void)close(go[1]);
		(void)!read(go[0], &byte, 1);
		if (dup2(there[0], 0) < 0 || dup2(back[1], 1) < 0)
			_exit(127);
		(void)execl(bench_self(), "bench_pipe", "far", (char *)NULL);
		_exit(127);
	}
	(void)close(there[0]);
	(void)close(back[1]);
	(void)close(go[0]);
	(void)close(go[1]);
	return near_end(there[1], back[0]);
}

/* ---- TCP ---- */

/* The bare relay: nothing but this.  (splice(2) from a socket holds the pipe's lock while it waits,
 * so that nobody could read what is in the pipe: it waits with poll(2).) */
static void relay(int from, int to)
{
	struct pollfd p = {.fd = from, .events = POLLIN};
	ssize_t n;

	if (fork() != 0)
		return;
	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	/* the other ends are not its own to keep open */
	p.fd = dup2(from, 0);
	to = dup2(to, 1);
	from = p.fd;
	(void)close_range(3, ~0U, 0);
	do {
		(void)poll(&p, 1, -1);
		n = splice(from, NULL, to, NULL, PIPE_SIZE, SPLICE_F_MOVE);
	} while (n > 0 || (n < 0 && errno == EINTR));
	_exit(0);
}

/* On node 1: says where it listens, takes two connections, becomes the far end. */
static int far_tcp(bool relayed)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = bench_own_addr()};
	int there[2], back[2], s[2];
	u16 port;
	int l = bench_tcp_listen(&port);

	a.sin_port = htons(port);
	bench_answer(&a, sizeof(a));
	s[0] = bench_tcp_no_delay(accept4(l, NULL, NULL, SOCK_CLOEXEC));
	s[1] = bench_tcp_no_delay(accept4(l, NULL, NULL, SOCK_CLOEXEC));
	if (!relayed) {
		there[0] = s[0];
		back[1] = s[1];
	} else {
		pipes_make(there, back);
		relay(s[0], there[1]);
		relay(back[0], s[1]);
		(void)close(there[1]);
		(void)close(back[0]);
	}
	if (dup2(there[0], 0) < 0 || dup2(back[1], 1) < 0)
		return 1;
	return far_end();
}

/* On node 0: where to comes from the bench. */
static int near_tcp(bool relayed)
{
	struct sockaddr_in a;
	int there[2], back[2], s[2];

	if (!bench_asked(&a, sizeof(a)))
		return 1;
	s[0] = bench_tcp_connect(&a);
	s[1] = bench_tcp_connect(&a);
	if (!relayed)
		return near_end(s[0], s[1]);
	pipes_make(there, back);
	relay(there[0], s[0]);
	relay(s[1], back[1]);
	(void)close(there[0]);
	(void)close(back[1]);
	return near_end(there[1], back[0]);
}

/* ---- the bench ---- */

enum { OURS, BARE, RAW, NR };
static const char *const name_of[NR] = {"krg run", "bare relay", "raw TCP"};

static struct bench_worker near_w[NR], far_w[NR];

static void start_tcp(int which)
{
	const char *self = bench_self(), *argv[BENCH_ARGS];
	struct sockaddr_in a;

	bench_beside('a', 1, (const char *[]){self, which == BARE ? "far-bare" : "far-raw", NULL},
		     argv);
	bench_worker_start(&far_w[which], argv);
	if (krg_read_all(far_w[which].from, &a, sizeof(a)) < 0)
		bench_die("%s: the far end did not start", name_of[which]);
	bench_beside('a', 0, (const char *[]){self, which == BARE ? "near-bare" : "near-raw", NULL},
		     argv);
	bench_worker_start(&near_w[which], argv);
	if (krg_write_all(near_w[which].to, &a, sizeof(a)) < 0)
		bench_die("%s: the near end did not start", name_of[which]);
}

static double ask(int which, u32 kind, u64 n)
{
	struct order o = {.kind = kind, .n = n};
	double r;

	bench_worker_ask(&near_w[which], &o, sizeof(o), &r, sizeof(r));
	return r;
}

/* ret[which][round] */
static void rounds(u32 kind, u64 n, double ret[NR][ROUNDS])
{
	for (unsigned i = 0; i < ROUNDS; i++)
		for (unsigned k = 0; k < NR; k++) {
			unsigned which = (i + k) % NR;

			ret[which][i] = ask((int)which, kind, n);
		}
}

static double ratio_of(double v[NR][ROUNDS], double *ret_low, double *ret_high)
{
	double ratio[ROUNDS], r;

	for (unsigned i = 0; i < ROUNDS; i++)
		ratio[i] = v[OURS][i] / v[BARE][i];
	r = bench_median(ratio, ROUNDS);
	*ret_low = bench_quantile(ratio, ROUNDS, 0.25);
	*ret_high = bench_quantile(ratio, ROUNDS, 0.75);
	return r;
}

static void body(void)
{
	const char *self = bench_self(), *argv[BENCH_ARGS];
	double gbps[NR][ROUNDS], us[NR][ROUNDS], low, high, r;

	(void)bench_lab_up('a', 2, "elsewhere");
	bench_in_world('a', NULL, (const char *[]){self, "ours", NULL}, argv);
	bench_worker_start(&near_w[OURS], argv);
	start_tcp(BARE);
	start_tcp(RAW);
	for (int i = 0; i < NR; i++) { /* warm; and it works */
		(void)ask(i, SINK, BYTES / 8);
		(void)ask(i, ECHO, 100);
	}
	rounds(SINK, BYTES, gbps);
	rounds(ECHO, TRIPS, us);
	r = ratio_of(gbps, &low, &high);
	printf("a pipe between two nodes, %llu MB: krg run %.2f GB/s, bare relay %.2f GB/s, raw "
	       "TCP "
	       "%.2f GB/s (half of the ratios between %.2f and %.2f)\n",
	       BYTES >> 20, bench_median(gbps[OURS], ROUNDS), bench_median(gbps[BARE], ROUNDS),
	       bench_median(gbps[RAW], ROUNDS), low, high);
	bench_figure("lab_pipe_throughput", "%.2f", r, "x", ">=", 0.9);
	r = ratio_of(us, &low, &high);
	printf("a byte's round trip: krg run %.1f us, bare relay %.1f us, raw TCP %.1f us (half of "
	       "the ratios between %.2f and %.2f)\n",
	       bench_median(us[OURS], ROUNDS), bench_median(us[BARE], ROUNDS),
	       bench_median(us[RAW], ROUNDS), low, high);
	bench_figure("lab_pipe_round_trip", "%.2f", r, "x", "<=", 1.3);
	for (int i = 0; i < NR; i++)
		bench_worker_end(&near_w[i]);
	bench_worker_end(&far_w[BARE]);
	bench_worker_end(&far_w[RAW]);
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";

	if (strcmp(what, "ours") == 0)
		return ours();
	if (strcmp(what, "far") == 0)
		return far_end();
	if (strncmp(what, "far-", 4) == 0)
		return far_tcp(strcmp(what, "far-bare") == 0);
	if (strncmp(what, "near-", 5) == 0)
		return near_tcp(strcmp(what, "near-bare") == 0);
	return bench_main(body);
}
