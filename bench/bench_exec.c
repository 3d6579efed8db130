/* bench_exec.c - what an exec costs: native, under the gate but local, on another node, by ssh.
 *
 * Each is vfork, execve and wait of /bin/true.  Rounds alternate; the figures are medians over
 * rounds of ratios (or differences) of the medians of one round.
 */
#include "bench_lab_util.h"
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#define ROUNDS	     41
#define EXECS	     200
#define REMOTE_EXECS 40
#define SSH_EXECS    3
#define SSH_ROUNDS   7

static const char *const true_argv[] = {"/bin/true", NULL};

static int worker(void)
{
	u32 n;

	while (bench_asked(&n, sizeof(n)) && n > 0) {
		u64 median = bench_exec_median(true_argv, n);

		bench_answer(&median, sizeof(median));
	}
	return 0;
}

static double round_of(struct bench_worker *w, u32 n)
{
	u64 median;

	bench_worker_ask(w, &n, sizeof(n), &median, sizeof(median));
	return (double)median / 1e3;
}

/* ---- ssh ---- */

static pid_t sshd = -1;

static void run_or_die(const char *const *argv)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	if (bench_spawn_wait(argv, null) != 0)
		bench_die("%s %s failed", argv[0], argv[1]);
	(void)close(null);
}

static void key_make(const char *name)
{
	char path[128];
	const char *argv[] = {
		"/usr/bin/ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path, NULL};

	(void)snprintf(path, sizeof(path), "%s/%s", bench_dir, name);
	run_or_die(argv);
}

static char *opt(const char *fmt, const char *arg)
{
	char *text;

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
	if (asprintf(&text, fmt, arg) < 0)
		abort();
#pragma GCC diagnostic pop
	return text;
}

static bool sshd_start(char *port, size_t max)
{
	const char *argv[] = {"/usr/sbin/sshd",
			      "-D",
			      "-q",
			      "-f",
			      "/dev/null",
			      "-p",
			      port,
			      "-o",
			      "ListenAddress=127.0.0.1",
			      "-o",
			      "PidFile=none",
			      "-o",
			      "UsePAM=no",
			      "-o",
			      "StrictModes=no",
			      "-o",
			      "PermitRootLogin=yes",
			      "-o",
			      opt("HostKey=%s/host", bench_dir),
			      "-o",
			      opt("AuthorizedKeysFile=%s/user.pub", bench_dir),
			      NULL};

	if (access(argv[0], X_OK) < 0 || access("/usr/bin/ssh", X_OK) < 0)
		return false;
	(void)mkdir("/run/sshd",
		    0755); /* sshd's own directory, on every machine where it ever ran */
	(void)snprintf(port, max, "%d", 20000 + getpid() % 20000);
	key_make("host");
	key_make("user");
	sshd = fork();
	if (sshd == 0) {
		(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
		(void)execv(argv[0], (char *const *)(uintptr_t)argv);
		_exit(127);
	}
	return sshd > 0;
}

/* The command line of `ssh localhost true`, as fast as it can be had. */
static void ssh_argv(const char **ret, char *port)
{
	const char *argv[] = {"/usr/bin/ssh",
			      "-F",
			      "/dev/null",
			      "-q",
			      "-p",
			      port,
			      "-i",
			      opt("%s/user", bench_dir),
			      "-o",
			      "BatchMode=yes",
			      "-o",
			      "IdentitiesOnly=yes",
			      "-o",
			      "StrictHostKeyChecking=no",
			      "-o",
			      "LogLevel=ERROR",
			      "-o",
			      opt("UserKnownHostsFile=%s/known", bench_dir),
			      "127.0.0.1",
			      "true",
			      NULL};

	memcpy(ret, argv, sizeof(argv));
}

/* ---- the bench ---- */

static void start(struct bench_worker *w, char lab, bool world, u32 warm)
{
	const char *self[] = {bench_self(), "worker", NULL};
	const char *argv[BENCH_ARGS];

	if (world)
		bench_in_world(lab, NULL, self, argv);
	else
		bench_beside(lab, 0, self, argv);
	bench_worker_start(w, argv);
	(void)round_of(w, warm);
}

static void local(struct bench_worker *native, struct bench_worker *gate)
{
	double us[2][ROUNDS], ratio[ROUNDS], r;

	for (unsigned i = 0; i < ROUNDS; i++) {
		if (i % 2 == 0)
			us[0][i] = round_of(native, EXECS);
		us[1][i] = round_of(gate, EXECS);
		if (i % 2 == 1)
			us[0][i] = round_of(native, EXECS);
		ratio[i] = us[1][i] / us[0][i];
	}
	r = bench_median(ratio, ROUNDS);
	printf("vfork, execve, wait of /bin/true: native %.1f us, under the gate and local %.1f us "
	       "(half of the ratios between %.3f and %.3f)\n",
	       bench_median(us[0], ROUNDS), bench_median(us[1], ROUNDS),
	       bench_quantile(ratio, ROUNDS, 0.25), bench_quantile(ratio, ROUNDS, 0.75));
	bench_figure("exec_local", "%.3f", r, "x", "<=", 1.05);
}

static double remote(struct bench_worker *native, struct bench_worker *far)
{
	double us[2][ROUNDS], more[ROUNDS], r;

	for (unsigned i = 0; i < ROUNDS; i++) {
		us[0][i] = round_of(native, REMOTE_EXECS);
		us[1][i] = round_of(far, REMOTE_EXECS);
		more[i] = (us[1][i] - us[0][i]) / 1e3;
	}
	r = bench_median(more, ROUNDS);
	printf("the same, placed on another node: %.0f us, local %.0f us\n",
	       bench_median(us[1], ROUNDS), bench_median(us[0], ROUNDS));
	bench_figure("exec_remote_more", "%.2f", r, "ms", "<=", 4);
	return r;
}

static void against_ssh(struct bench_worker *far)
{
	double us[2][SSH_ROUNDS], ratio[SSH_ROUNDS], r;
	const char *argv[32];
	char port[16];
	int tries = 100;

	if (!sshd_start(port, sizeof(port))) {
		printf("no sshd here: not compared with ssh\n");
		return;
	}
	ssh_argv(argv, port);
	while (bench_spawn_wait(argv, -1) != 0) {
		if (--tries == 0 || waitpid(sshd, NULL, WNOHANG) == sshd)
			bench_die("ssh to an sshd on port %s failed", port);
		(void)usleep(50000);
	}
	for (unsigned i = 0; i < SSH_ROUNDS; i++) {
		us[0][i] = (double)bench_exec_median(argv, SSH_EXECS) / 1e3;
		us[1][i] = round_of(far, REMOTE_EXECS);
		ratio[i] = us[0][i] / us[1][i];
	}
	r = bench_median(ratio, SSH_ROUNDS);
	printf("ssh localhost true: %.1f ms; placed on another node: %.2f ms\n",
	       bench_median(us[0], SSH_ROUNDS) / 1e3, bench_median(us[1], SSH_ROUNDS) / 1e3);
	bench_figure("exec_remote_than_ssh", "%.1f", r, "x-less", ">=", 5);
	(void)kill(sshd, SIGTERM);
	(void)waitpid(sshd, NULL, 0);
}

static void body(void)
{
	struct bench_worker native, gate, far;

	(void)bench_lab_up('a', 2, NULL);
	(void)bench_lab_up('b', 2, "elsewhere");
	start(&native, 'a', false, EXECS);
	start(&gate, 'a', true, EXECS);
	local(&native, &gate);
	start(&far, 'b', true, REMOTE_EXECS);
	(void)remote(&native, &far);
	against_ssh(&far);
	bench_worker_end(&native);
	bench_worker_end(&gate);
	bench_worker_end(&far);
}

int main(int argc, char **argv)
{
	(void)argv;
	return argc > 1 ? worker() : bench_main(body);
}
