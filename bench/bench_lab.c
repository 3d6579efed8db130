/* bench_lab.c - how long a lab takes to come up, and what its daemons and deputies keep in memory. */
#include "bench_lab_util.h"
#include <signal.h>
#include <sys/wait.h>

#define UPS	 7
#define DEPUTIES 200
#define WAIT_MS	 30000
#define PAUSE_US 10000 /* more at once than can be on their way would stay */

static void lab_up(void)
{
	double s[UPS];

	for (unsigned i = 0; i < UPS; i++) {
		s[i] = bench_lab_up('a', 4, NULL);
		bench_lab_down('a');
	}
	(void)bench_median(s, UPS);
	printf("krg lab up of 4 nodes, %d times: %.2f s to %.2f s\n", UPS, s[0], s[UPS - 1]);
	bench_figure("lab_up", "%.2f", bench_quantile(s, UPS, 0.5), "s", "<", 3);
}

/* The largest of the nodes' daemons. */
static void krgd_idle(void)
{
	u64 rss = 0, pss = 0;

	(void)bench_lab_up('a', 4, NULL);
	(void)sleep(3);
	for (unsigned i = 0; i < 4; i++) {
		pid_t krgd = bench_krgd('a', i);

		rss = KRG_MAX(rss, bench_rollup_kb(krgd, "\nRss:"));
		pss = KRG_MAX(pss, bench_rollup_kb(krgd, "\nPss:"));
	}
	printf("krgd idle, the largest of 4: RSS %.1f MB, PSS %.1f MB\n", (double)rss / 1024,
	       (double)pss / 1024);
	bench_figure("krgd_idle", "%.1f", (double)rss / 1024, "MB", "<=", 30);
	bench_lab_down('a');
}

/* ---- deputies ---- */

/* In the world: DEPUTIES children, each in a program that sleeps, until we are told to end them. */
static int sleepers(void)
{
	static pid_t pid[DEPUTIES];
	u32 word;

	while (bench_asked(&word, sizeof(word)) && word == 1) {
		for (unsigned i = 0; i < DEPUTIES; i++) {
			pid[i] = fork();
			if (pid[i] == 0) {
				(void)execl("/bin/sleep", "sleep", "1000", (char *)NULL);
				_exit(127);
			}
			(void)usleep(PAUSE_US);
		}
		bench_answer(&word, sizeof(word));
		if (!bench_asked(&word, sizeof(word)))
			break;
		for (unsigned i = 0; i < DEPUTIES; i++)
			if (pid[i] > 0)
				(void)kill(pid[i], SIGKILL);
		while (wait(NULL) > 0)
			;
		bench_answer(&word, sizeof(word));
	}
	return 0;
}

static unsigned vessels(pid_t *ret)
{
	static pid_t all[BENCH_PIDS];
	char path[64], exe[4096];
	unsigned n = bench_pids('a', 0, "sleep", all, BENCH_PIDS), found = 0;

	for (unsigned i = 0; i < n; i++) {
		ssize_t len;

		(void)snprintf(path, sizeof(path), "/proc/%d/exe", all[i]);
		len = readlink(path, exe, sizeof(exe) - 1);
		exe[len > 0 ? len : 0] = '\0';
		if (strstr(exe, "krgvessel") != NULL)
			ret[found++] = all[i];
	}
	return found;
}

struct memory {
	u64 home_kb, far_kb;
};

static struct memory daemons(void)
{
	return (struct memory){bench_rollup_kb(bench_krgd('a', 0), "\nRss:"),
			       bench_rollup_kb(bench_krgd('a', 1), "\nRss:")};
}

static void deputies(void)
{
	const char *self[] = {bench_self(), "sleepers", NULL};
	static pid_t pid[BENCH_PIDS];
	struct bench_worker w;
	struct memory before, after;
	const char *argv[BENCH_ARGS];
	u64 pss = 0, growth;
	u32 word = 1;
	unsigned n = 0;

	(void)bench_lab_up('a', 2, "elsewhere");
	bench_in_world('a', NULL, self, argv);
	bench_worker_start(&w, argv);
	(void)sleep(2);
	before = daemons();
	bench_worker_ask(&w, &word, sizeof(word), &word, sizeof(word));
	for (unsigned ms = 0; ms < WAIT_MS && n < DEPUTIES; ms += 500) {
		(void)usleep(500000);
		if (n > 0 && n == vessels(pid))
			break;
		n = vessels(pid);
	}
	if (n < DEPUTIES / 2) /* on a busy machine some stay */
		bench_die("%u of %d deputies", n, DEPUTIES);
	(void)sleep(1);
	after = daemons();
	for (unsigned i = 0; i < n; i++)
		pss += bench_rollup_kb(pid[i], "\nPss:");
	growth = after.home_kb > before.home_kb ? after.home_kb - before.home_kb : 0;
	printf("%u deputies: each %.1f KB (PSS of its process); krgd of home grew by %.1f KB for "
	       "each, that of the bodies' node by %.1f KB (RSS)\n",
	       n, (double)pss / n, (double)growth / n,
	       (double)((i64)after.far_kb - (i64)before.far_kb) / n);
	bench_figure("deputy", "%.0f", (double)(pss + growth) / n, "KB", "<=", 300);
	bench_worker_ask(&w, &word, sizeof(word), &word, sizeof(word));
	bench_worker_end(&w);
}

static void body(void)
{
	lab_up();
	krgd_idle();
	deputies();
}

int main(int argc, char **argv)
{
	(void)argv;
	return argc > 1 ? sleepers() : bench_main(body);
}
