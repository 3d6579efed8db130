/* bench_gate.c - a call that krgd answers against a bare notified call (seccomp_unotify(2)).
 *
 * Ours: inside `krg run`, kill(2) of a pid that no node can have: the gate says ESRCH.  Bare: a
 * process with a filter that notifies kill(2) and nothing else, and a supervisor of one thread in a
 * loop of RECV and SEND, with the gate's flags and priority.  Rounds alternate; the figure is the median over
 * rounds of the ratio of the medians of one round.
 */
#include "bench_lab_util.h"
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#ifndef SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
#define SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV (1UL << 5)
#endif
#ifndef SECCOMP_IOCTL_NOTIF_SET_FLAGS
#define SECCOMP_IOCTL_NOTIF_SET_FLAGS	   SECCOMP_IOW(4, __u64)
#define SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP (1UL << 0)
#endif

#define NOBODY	 ((KRG_NODES_MAX + 1) << 15 | 7)
#define ROUNDS	 101
#define CALLS	 1000
#define PRIORITY (-10)

/* ---- the caller ---- */

static void caller(void)
{
	static u64 took[65536];
	u32 n;

	while (bench_asked(&n, sizeof(n)) && n > 0 && n <= KRG_NELEM(took)) {
		u64 median;

		for (u32 i = 0; i < n; i++) {
			u64 start = krg_clock_now_ns();

			if (kill(NOBODY, 0) == 0 || errno != ESRCH)
				bench_die("kill: %s", strerror(errno));
			took[i] = krg_clock_now_ns() - start;
		}
		median = bench_median_u64(took, n);
		bench_answer(&median, sizeof(median));
	}
}

/* ---- bare ---- */

static int filter_install(void)
{
	struct sock_filter insn[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_kill, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = {KRG_NELEM(insn), insn};

	return (int)syscall(
		SYS_seccomp, SECCOMP_SET_MODE_FILTER,
		SECCOMP_FILTER_FLAG_NEW_LISTENER | SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, &prog);
}

static _Noreturn void supervise(int listener)
{
	u64 flags = SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP;

	(void)ioctl(listener, SECCOMP_IOCTL_NOTIF_SET_FLAGS, flags);
	(void)setpriority(PRIO_PROCESS, 0, PRIORITY);
	for (;;) {
		struct seccomp_notif req = {0};
		struct seccomp_notif_resp resp = {.error = -ESRCH};
		struct pollfd p = {.fd = listener};

		if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &req) < 0) {
			if (poll(&p, 1, 0) < 0 || (p.revents & POLLHUP) != 0)
				_exit(0); /* the caller has ended */
			continue;
		}
		resp.id = req.id;
		(void)ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &resp);
	}
}

/* The supervisor is another process, as krgd is. */
static int bare(void)
{
	_Atomic int *number =
		mmap(NULL, sizeof(int), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pid_t self = getpid(), pid;
	int fd;

	if (number == MAP_FAILED)
		bench_die("mmap: %s", strerror(errno));
	*number = -1;
	pid = fork();
	if (pid < 0)
		bench_die("fork: %s", strerror(errno));
	if (pid == 0) {
		int pidfd = (int)syscall(SYS_pidfd_open, self, 0);

		(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
		while (*number < 0)
			(void)usleep(1000);
		supervise((int)syscall(SYS_pidfd_getfd, pidfd, *number, 0));
	}
	fd = filter_install();
	if (fd < 0)
		bench_die("seccomp: %s", strerror(errno));
	*number = fd;
	caller();
	return 0;
}

/* ---- the bench ---- */

static u64 round_of(struct bench_worker *w)
{
	u32 n = CALLS;
	u64 median;

	bench_worker_ask(w, &n, sizeof(n), &median, sizeof(median));
	return median;
}

static void start(struct bench_worker *w, bool world)
{
	const char *self[] = {bench_self(), world ? "ours" : "bare", NULL};
	const char *argv[BENCH_ARGS];

	if (world)
		bench_in_world('a', NULL, self, argv);
	else
		bench_beside('a', 0, self, argv);
	bench_worker_start(w, argv);
	(void)round_of(w);
}

static void body(void)
{
	double ratio[ROUNDS], us[2][ROUNDS];
	struct bench_worker w[2];
	double r;

	(void)bench_lab_up('a', 2, NULL);
	start(&w[0], false);
	start(&w[1], true);
	for (unsigned i = 0; i < ROUNDS; i++) {
		unsigned first = i % 2;

		us[first][i] = (double)round_of(&w[first]) / 1e3;
		us[!first][i] = (double)round_of(&w[!first]) / 1e3;
		ratio[i] = us[1][i] / us[0][i];
	}
	r = bench_median(ratio, ROUNDS);
	printf("a notified call: bare %.2f us, answered by krgd's gate %.2f us (medians of %d "
	       "rounds of %d; half of the ratios between %.2f and %.2f)\n",
	       bench_median(us[0], ROUNDS), bench_median(us[1], ROUNDS), ROUNDS, CALLS,
	       bench_quantile(ratio, ROUNDS, 0.25), bench_quantile(ratio, ROUNDS, 0.75));
	bench_figure("gate_call", "%.2f", r, "x", "<=", 1.5);
	bench_worker_end(&w[0]);
	bench_worker_end(&w[1]);
}

int main(int argc, char **argv)
{
	if (argc > 1 && strcmp(argv[1], "bare") == 0)
		return bare();
	if (argc > 1) {
		caller();
		return 0;
	}
	return bench_main(body);
}
