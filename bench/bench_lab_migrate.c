/* bench_lab_migrate.c - a process that runs moves to another node, and its memory after it.
 *
 * A program under `krg run` on node 0 has so much memory and so many threads, each of which beats: it looks at the clock and
 * at one of its pages, twice a millisecond, and notes the longest gap.  It is moved to node 1, and asked when all of its memory is
 * there.  Each move is of a new program.  Beside that, between the same two nodes: how long 1 GiB takes by raw TCP, and a byte
 * there and back; and on this machine, how long a fault takes that another thread serves from memory (userfaultfd(2)).
 */
#include "bench_lab_util.h"
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>

#define MOVES	    20
#define PULLS	    7
#define THREADS_MAX 16
#define BEAT_NS	    (500 * KRG_USEC)
#define PAGE	    4096ull
#define GIB	    (1ull << 30)
#define TRIPS	    2000
#define FAULTS_MAX  65536
/* What takes longer than a page that is there, and shorter than to stand still: a page that was missed. */
#define MISSED_NS (10 * KRG_USEC)
#define STOOD_NS  (4 * KRG_MSEC)

/* ---- the program that is moved ---- */

enum { RESET = 1, REPORT = 2 };
struct report {
	u64 gap_ns, nfaults, fault_ns; /* the longest; how many pages were missed, their median */
};

static u8 *memory;
static u64 npages;
static _Atomic u64 longest_ns;
static u64 fault[FAULTS_MAX];
static u64 nfaults;

static u64 random_page(u64 *seed)
{
	*seed = *seed * 6364136223846793005ull + 1442695040888963407ull;
	return (*seed >> 33) % npages;
}

static void beat(u64 *last, u64 *seed)
{
	u64 now, was = atomic_load(&longest_ns);

	(void)*(volatile u8 *)(memory + random_page(seed) * PAGE);
	now = krg_clock_now_ns();
	while (now - *last > was && !atomic_compare_exchange_weak(&longest_ns, &was, now - *last))
		;
	*last = now;
}

static void *beats(void *arg)
{
	u64 seed = (u64)(uintptr_t)arg, last = krg_clock_now_ns();
	const struct timespec pause = {.tv_nsec = BEAT_NS};

	for (;;) {
		(void)nanosleep(&pause, NULL);
		beat(&last, &seed);
	}
	return NULL;
}

static void touch(u64 *seed)
{
	for (unsigned i = 0; i < 64; i++) {
		u64 begin = krg_clock_now_ns(), took;

		(void)*(volatile u8 *)(memory + random_page(seed) * PAGE);
		took = krg_clock_now_ns() - begin;
		if (took > MISSED_NS && took < STOOD_NS && nfaults < FAULTS_MAX)
			fault[nfaults++] = took;
	}
}

static bool answer(void)
{
	struct report r;
	u64 pid = (u64)getpid();
	u32 order;

	if (!bench_asked(&order, sizeof(order)))
		return false;
	if (order == RESET) {
		atomic_store(&longest_ns, 0);
		nfaults = 0;
		bench_answer(&pid, sizeof(pid));
		return true;
	}
	r = (struct report){atomic_load(&longest_ns), nfaults,
			    nfaults > 0 ? bench_median_u64(fault, (unsigned)nfaults) : 0};
	bench_answer(&r, sizeof(r));
	return true;
}

/* arguments: MiB, threads, "beat" or "touch" */
static int program(char **argv)
{
	const struct timespec pause = {.tv_nsec = BEAT_NS}, none = {0};
	bool touches = strcmp(argv[2], "touch") == 0;
	struct pollfd p = {.fd = 0, .events = POLLIN};
	u64 seed = 1, last;
	pthread_t t;

	npages = strtoull(argv[0], NULL, 10) * 256;
	memory = mmap(NULL, npages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
		      0);
	if (memory == MAP_FAILED)
		bench_die("memory: %s", strerror(errno));
	(void)madvise(memory, npages * PAGE, MADV_NOHUGEPAGE);
	for (u64 i = 0; i < npages; i++)
		memset(memory + i * PAGE, (int)(i % 255) + 1, PAGE);
	for (uintptr_t i = 1; i < strtoul(argv[1], NULL, 10); i++)
		if (pthread_create(&t, NULL, beats, (void *)(i * 77)) != 0)
			bench_die("a thread: %s", strerror(errno));
	last = krg_clock_now_ns();
	for (;;) {
		int r = ppoll(&p, 1, touches ? &none : &pause, NULL);

		if (touches)
			touch(&seed);
		else
			beat(&last, &seed);
		if (r == 1 && !answer())
			return 0;
	}
}

/* ---- raw TCP ---- */

static int far_end(void)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = bench_own_addr()};
	static u8 buffer[256 << 10];
	u16 port;
	int l = bench_tcp_listen(&port), s;
	u64 n;

	a.sin_port = htons(port);
	bench_answer(&a, sizeof(a));
	s = bench_tcp_no_delay(accept4(l, NULL, NULL, SOCK_CLOEXEC));
	while (krg_read_all(s, &n, sizeof(n)) == 0) {
		while (n > 0) {
			ssize_t r = read(s, buffer, KRG_MIN(n, (u64)sizeof(buffer)));

			if (r <= 0)
				return 1;
			n -= (u64)r;
		}
		if (krg_write_all(s, buffer, 1) < 0)
			return 1;
	}
	return 0;
}

/* For each number: so many bytes there and one back; how long that took. */
static int near_end(void)
{
	static u8 buffer[256 << 10];
	struct sockaddr_in a;
	u64 n;
	int s;

	if (!bench_asked(&a, sizeof(a)))
		return 1;
	s = bench_tcp_connect(&a);
	while (bench_asked(&n, sizeof(n))) {
		u64 begin = krg_clock_now_ns(), took;

		if (krg_write_all(s, &n, sizeof(n)) < 0)
			return 1;
		for (u64 left = n, k; left > 0; left -= k) {
			k = KRG_MIN(left, (u64)sizeof(buffer));
			if (krg_write_all(s, buffer, k) < 0)
				return 1;
		}
		if (krg_read_all(s, buffer, 1) < 0)
			return 1;
		took = krg_clock_now_ns() - begin;
		bench_answer(&took, sizeof(took));
	}
	return 0;
}

static struct bench_worker near_w, far_w;

static void start_tcp(void)
{
	const char *argv[BENCH_ARGS];
	struct sockaddr_in a;

	bench_beside('a', 1, (const char *[]){bench_self(), "far", NULL}, argv);
	bench_worker_start(&far_w, argv);
	if (krg_read_all(far_w.from, &a, sizeof(a)) < 0)
		bench_die("raw TCP: the far end did not start");
	bench_beside('a', 0, (const char *[]){bench_self(), "near", NULL}, argv);
	bench_worker_start(&near_w, argv);
	if (krg_write_all(near_w.to, &a, sizeof(a)) < 0)
		bench_die("raw TCP: the near end did not start");
}

static u64 tcp_ns(u64 n)
{
	u64 took;

	bench_worker_ask(&near_w, &n, sizeof(n), &took, sizeof(took));
	return took;
}

static double tcp_trip_us(void)
{
	static u64 took[TRIPS];

	for (unsigned i = 0; i < TRIPS; i++)
		took[i] = tcp_ns(1);
	return (double)bench_median_u64(took, TRIPS) / 1e3;
}

/* ---- a fault that is served here ---- */

static int uffd;

static void *serve(void *arg)
{
	static u8 page[PAGE];
	struct pollfd p = {.fd = uffd, .events = POLLIN};

	(void)arg;
	memset(page, 1, sizeof(page));
	while (poll(&p, 1, -1) == 1) {
		struct uffd_msg m;
		struct uffdio_copy c = {.src = (u64)(uintptr_t)page, .len = PAGE};

		if (read(uffd, &m, sizeof(m)) != sizeof(m))
			continue;
		c.dst = m.arg.pagefault.address & ~(PAGE - 1);
		(void)ioctl(uffd, UFFDIO_COPY, &c);
	}
	return NULL;
}

static double local_fault_us(void)
{
	struct uffdio_api api = {.api = UFFD_API};
	struct uffdio_register r = {.mode = UFFDIO_REGISTER_MODE_MISSING};
	static u64 took[TRIPS];
	u8 *m = mmap(NULL, TRIPS * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
		     0);
	pthread_t t;

	uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	r.range.start = (u64)(uintptr_t)m;
	r.range.len = TRIPS * PAGE;
	if (m == MAP_FAILED || uffd < 0 || ioctl(uffd, UFFDIO_API, &api) < 0 ||
	    ioctl(uffd, UFFDIO_REGISTER, &r) < 0 || pthread_create(&t, NULL, serve, NULL) != 0)
		bench_die("userfaultfd: %s", strerror(errno));
	for (unsigned i = 0; i < TRIPS; i++) {
		u64 begin = krg_clock_now_ns();

		(void)*(volatile u8 *)(m + i * PAGE);
		took[i] = krg_clock_now_ns() - begin;
	}
	return (double)bench_median_u64(took, TRIPS) / 1e3;
}

/* ---- the bench ---- */

struct moved {
	u64 took_ns; /* until all was there */
	struct report report;
};

static struct moved move(const char *mib, const char *threads, const char *how)
{
	const char *argv[BENCH_ARGS];
	char pid_text[24];
	struct bench_worker w;
	struct moved m;
	u32 order = RESET;
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	u64 pid, begin;

	bench_in_world('a', NULL,
		       (const char *[]){bench_self(), "program", mib, threads, how, NULL}, argv);
	bench_worker_start(&w, argv);
	bench_worker_ask(&w, &order, sizeof(order), &pid, sizeof(pid));
	(void)snprintf(pid_text, sizeof(pid_text), "%llu", (unsigned long long)pid);
	begin = krg_clock_now_ns();
	if (bench_spawn_wait((const char *[]){bench_bin("krg"), "--lab", bench_lab_name('a'),
					      "migrate", "--sync", pid_text, "1", NULL},
			     null) != 0)
		bench_die("krg migrate %s 1 failed", pid_text);
	m.took_ns = krg_clock_now_ns() - begin;
	order = REPORT;
	bench_worker_ask(&w, &order, sizeof(order), &m.report, sizeof(m.report));
	bench_worker_end(&w);
	(void)close(null);
	return m;
}

static void gaps(const char *mib, const char *threads, double target)
{
	double ms[MOVES];
	char name[64];
	double median;

	for (unsigned i = 0; i < MOVES; i++)
		ms[i] = (double)move(mib, threads, "beat").report.gap_ns / 1e6;
	median = bench_median(ms, MOVES);
	printf("%4s MiB, %2s threads: longest gap %.1f ms (half of them between %.1f and %.1f)\n",
	       mib, threads, median, bench_quantile(ms, MOVES, 0.25),
	       bench_quantile(ms, MOVES, 0.75));
	(void)snprintf(name, sizeof(name), "migrate_gap_%sm_%st", mib, threads);
	bench_figure(name, "%.1f", median, "ms", "<=", target);
}

static u64 krgd_cpu_ns(unsigned node)
{
	return bench_cpu_ns(bench_krgd('a', node));
}

static void pull(void)
{
	double ratio[PULLS], ours[PULLS], raw[PULLS], us[PULLS], cpu[2][PULLS], base, median;
	u64 missed = 0;

	for (unsigned i = 0; i < PULLS; i++) {
		u64 before[2] = {krgd_cpu_ns(0), krgd_cpu_ns(1)};
		struct moved m = move("1024", "1", "touch");

		for (unsigned n = 0; n < 2; n++)
			cpu[n][i] = (double)(krgd_cpu_ns(n) - before[n]) / 1e9;
		ours[i] = (double)GIB / (double)m.took_ns;
		raw[i] = (double)GIB / (double)tcp_ns(GIB);
		ratio[i] = ours[i] / raw[i];
		us[i] = (double)m.report.fault_ns / 1e3;
		missed += m.report.nfaults;
	}
	median = bench_median(ratio, PULLS);
	printf("1 GiB follows at %.2f GB/s, while the program touches it; raw TCP %.2f GB/s; krgd "
	       "needs %.2f s of processor "
	       "time at the source, %.2f s where it runs\n",
	       bench_median(ours, PULLS), bench_median(raw, PULLS), bench_median(cpu[0], PULLS),
	       bench_median(cpu[1], PULLS));
	bench_figure("migrate_pull", "%.2f", median, "x", ">=", 0.5);
	base = 2 * tcp_trip_us() + local_fault_us();
	median = bench_median(us, PULLS);
	printf("a page that is missed meanwhile (%llu were) takes %.0f us; two round trips and a "
	       "fault served here %.0f us\n",
	       (unsigned long long)missed, median, base);
	bench_figure("migrate_fault", "%.2f", median / base, "x", "<=", 1.0);
}

static void body(void)
{
	static const char *const mib[] = {"8", "128", "1024"};

	(void)bench_lab_up('a', 2, "off");
	start_tcp();
	(void)move("8", "1", "beat"); /* warm; and it works */
	for (unsigned i = 0; i < KRG_NELEM(mib); i++) {
		gaps(mib[i], "1", 10);
		gaps(mib[i], "16", 20);
	}
	pull();
	bench_worker_end(&near_w);
	bench_worker_end(&far_w);
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";

	if (strcmp(what, "program") == 0 && argc == 5)
		return program(argv + 2);
	if (strcmp(what, "far") == 0)
		return far_end();
	if (strcmp(what, "near") == 0)
		return near_end();
	return bench_main(body);
}
