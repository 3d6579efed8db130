/* bench_lab_compile.c - a compile under `krg run` with placement off against one without Kerrighed.
 *
 * `make -j2` of this project's base part, cleaned before each run, in a clean copy.  Both run on node 0 of a lab
 * without limits (same cgroup, so the same share of the machine), one in its world with the
 * capability DISTANT_EXEC off, one beside it.  Pairs alternate in order.  Wall time is from before the
 * command (`krg run …`) to its end.  Processor time is user and system of all that was executed; for
 * krg run also that of krg itself, and what the node's krgd and krginit used meanwhile.
 */
#include "bench_lab_util.h"
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/wait.h>

#define PAIRS 41

static char build_dir[128], src_dir[128];

static u64 rusage_ns(const struct rusage *u)
{
	return ((u64)u->ru_utime.tv_sec + (u64)u->ru_stime.tv_sec) * KRG_NSEC +
	       ((u64)u->ru_utime.tv_usec + (u64)u->ru_stime.tv_usec) * KRG_USEC;
}

static int quiet(void)
{
	char path[160];

	(void)snprintf(path, sizeof(path), "%s/log", bench_dir);
	return open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
}

static void run_or_die(const char *const *argv, const char *what)
{
	int out = quiet();

	if (bench_spawn_wait(argv, out) != 0)
		bench_die("%s failed (%s)", what, argv[0]);
	(void)close(out);
}

/* ---- inside: runs the command, says its processor time ---- */

static int timed(const char *const *argv)
{
	struct rusage u, self;
	u64 cpu_ns;
	int rc = bench_spawn_wait(argv, quiet());

	if (rc != 0)
		return rc;
	if (getrusage(RUSAGE_CHILDREN, &u) < 0 || getrusage(RUSAGE_SELF, &self) < 0)
		return 1;
	cpu_ns = rusage_ns(&u) + rusage_ns(&self);
	bench_answer(&cpu_ns, sizeof(cpu_ns));
	return 0;
}

/* ---- the bench ---- */

struct cost {
	double wall_s, cpu_s;
};

static u64 daemons_ns(void)
{
	pid_t pid[16];
	u64 sum = bench_cpu_ns(bench_krgd('a', 0));
	unsigned n = bench_pids('a', 0, "krginit", pid, KRG_NELEM(pid));

	for (unsigned i = 0; i < n; i++)
		sum += bench_cpu_ns(pid[i]);
	return sum;
}

static struct cost run_once(const char *const *argv, bool world)
{
	struct bench_worker w;
	struct rusage u;
	u64 before = world ? daemons_ns() : 0, start = krg_clock_now_ns(), cpu_ns, wall_ns;
	int status;

	bench_worker_start(&w, argv);
	if (krg_read_all(w.from, &cpu_ns, sizeof(cpu_ns)) < 0)
		bench_die("the compile failed");
	if (wait4(w.pid, &status, 0, &u) < 0 || status != 0)
		bench_die("the compile failed (%#x)", status);
	wall_ns = krg_clock_now_ns() - start;
	(void)close(w.to);
	(void)close(w.from);
	if (world) /* krg's own; beside, wait4() gives what timed() said */
		cpu_ns += rusage_ns(&u) + daemons_ns() - before;
	return (struct cost){(double)wall_ns / 1e9, (double)cpu_ns / 1e9};
}

static void copy_and_configure(void)
{
	const char *copy[] = {
		"/bin/sh",
		"-c",
		"mkdir \"$1\" && cd \"$0\" && cp -r CMakeLists.txt cmake src include \"$1\"",
		BENCH_SOURCE_DIR,
		src_dir,
		NULL};
	const char *configure[] = {"/usr/bin/cmake",  "-S", src_dir,	      "-B",
				   build_dir,	      "-G", "Unix Makefiles", "-DBUILD_TESTING=OFF",
				   "-DKRG_UPTO=base", NULL};

	(void)snprintf(src_dir, sizeof(src_dir), "%s/src", bench_dir);
	(void)snprintf(build_dir, sizeof(build_dir), "%s/build", bench_dir);
	run_or_die(copy, "the copy of the sources");
	run_or_die(configure, "cmake");
}

static void body(void)
{
	const char *make[] = {bench_self(), bench_dir, "/usr/bin/make", "-j2",
			      "-C",	    build_dir, "krg_base",	NULL};
	const char *clean[] = {"/usr/bin/make", "-C", build_dir, "clean", NULL};
	double cpu[2][PAIRS], wall[2][PAIRS], cpu_ratio[PAIRS], wall_ratio[PAIRS];
	const char *argv[2][BENCH_ARGS];

	copy_and_configure();
	(void)bench_lab_up('a', 2, NULL);
	bench_beside('a', 0, make, argv[0]);
	bench_in_world('a', "-DISTANT_EXEC", make, argv[1]);
	(void)run_once(argv[0], false);
	for (unsigned i = 0; i < 2 * PAIRS; i++) {
		bool world = (i % 4 == 1 || i % 4 == 2);
		struct cost c;

		run_or_die(clean, "make clean");
		c = run_once(argv[world], world);
		cpu[world][i / 2] = c.cpu_s;
		wall[world][i / 2] = c.wall_s;
	}
	for (unsigned i = 0; i < PAIRS; i++) {
		cpu_ratio[i] = cpu[1][i] / cpu[0][i];
		wall_ratio[i] = wall[1][i] / wall[0][i];
	}
	(void)bench_median(cpu_ratio, PAIRS);
	(void)bench_median(wall_ratio, PAIRS);
	printf("make -j2 of src/base, %d pairs: without Kerrighed %.3f s wall, %.3f s processor; "
	       "krg run --caps -DISTANT_EXEC %.3f s, %.3f s\n"
	       "half of the ratios: processor %.3f to %.3f, wall %.3f to %.3f\n",
	       PAIRS, bench_median(wall[0], PAIRS), bench_median(cpu[0], PAIRS),
	       bench_median(wall[1], PAIRS), bench_median(cpu[1], PAIRS),
	       bench_quantile(cpu_ratio, PAIRS, 0.25), bench_quantile(cpu_ratio, PAIRS, 0.75),
	       bench_quantile(wall_ratio, PAIRS, 0.25), bench_quantile(wall_ratio, PAIRS, 0.75));
	bench_figure("compile_off_cpu", "%.3f", bench_quantile(cpu_ratio, PAIRS, 0.5), "x",
		     "<=", 1.01);
	bench_figure("compile_off_wall", "%.3f", bench_quantile(wall_ratio, PAIRS, 0.5), "x",
		     "<=", 1.01);
}

int main(int argc, char **argv)
{
	if (argc > 2) {
		(void)snprintf(bench_dir, sizeof(bench_dir), "%s", argv[1]);
		return timed((const char *const *)argv + 2);
	}
	return bench_main(body);
}
