/* bench_lab_util.h - what the benches that need a lab have in common.
 *
 *	int main(int argc, char **argv)
 *	{
 *		if (argc > 1)
 *			return worker(argc, argv);
 *		return bench_main(body);
 *	}
 *
 * bench_main() runs body() in a child; whatever ends it (also a signal), labs and files are removed
 * afterwards.  What is compared runs in workers: processes that live through the whole bench, on a node,
 * in its world or not, and do one round each time they are asked.  So rounds alternate, and
 * whatever else the machine does meets both.
 *
 * Errors   end the bench, with a line on stderr.
 * Threads  one.
 */
#ifndef BENCH_LAB_UTIL_H
#define BENCH_LAB_UTIL_H
#include "clock.h"
#include <netinet/in.h>
#include <sys/types.h>

#define BENCH_SKIPPED 77
#define BENCH_ARGS    24

_Noreturn void bench_die(const char *fmt, ...) KRG_PRINTF(1, 2);
int bench_main(void (*body)(void));

extern char bench_dir[64];    /* removed at the end */
const char *bench_self(void); /* this program */
const char *bench_bin(const char *program);
/* The lab named with that letter, 'a' or 'b'. */
const char *bench_lab_name(char letter);
double bench_lab_up(char letter, unsigned nodes, const char *policy); /* seconds */
void bench_lab_down(char letter);

/* argv in the world of node 0 of that lab (caps: NULL or of `krg run --caps`), or beside it: as on
 * that node (its network and its share of the processors), without Kerrighed. */
void bench_in_world(char letter, const char *caps, const char *const *argv, const char **ret);
void bench_beside(char letter, unsigned node, const char *const *argv, const char **ret);

struct bench_worker {
	pid_t pid;
	int to, from; /* its stdin and stdout */
};
void bench_worker_start(struct bench_worker *w, const char *const *argv);
void bench_worker_ask(struct bench_worker *w, const void *what, size_t n, void *ret, size_t max);
void bench_worker_end(struct bench_worker *w);
/* For the worker: false at the end. */
bool bench_asked(void *ret, size_t n);
void bench_answer(const void *what, size_t n);

/* vfork, execve, wait; its exit status.  out: what becomes its stdout and stderr. */
int bench_spawn_wait(const char *const *argv, int out);
/* How long n of them took: the median, in ns. */
u64 bench_exec_median(const char *const *argv, unsigned n);

double bench_median(double *v, unsigned n); /* sorts */
double bench_quantile(const double *sorted, unsigned n, double q);
u64 bench_median_u64(u64 *v, unsigned n); /* sorts */
void bench_figure(const char *name, const char *format, double value, const char *unit,
		  const char *op, double target);

/* ---- processes of a node, by name ---- */
#define BENCH_PIDS 1024
unsigned bench_pids(char letter, unsigned node, const char *comm, pid_t *ret, unsigned max);
pid_t bench_krgd(char letter, unsigned node);
u64 bench_rollup_kb(pid_t pid, const char *field); /* "Pss:", "Rss:" of smaps_rollup */
u64 bench_cpu_ns(pid_t pid);			   /* of all its threads */

/* ---- TCP, without Kerrighed ---- */
int bench_tcp_listen(u16 *ret_port);
int bench_tcp_connect(const struct sockaddr_in *a);
int bench_tcp_no_delay(int fd); /* fd, or the end */
u32 bench_own_addr(void);	/* this node's address in its lab, network order */
#endif
