#include "bench_lab_util.h"
#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#define END_WAIT_MS 10000

char bench_dir[64];
static char lab_prefix[24];

void bench_die(const char *fmt, ...)
{
	va_list ap;

	(void)fflush(stdout);
	(void)fputs("bench: ", stderr);
	va_start(ap, fmt);
	(void)vfprintf(stderr, fmt, ap);
	va_end(ap);
	(void)fputc('\n', stderr);
	exit(1);
}

const char *bench_self(void)
{
	static char path[4096];
	ssize_t n = path[0] == '\0' ? readlink("/proc/self/exe", path, sizeof(path) - 1) : 1;

	if (n <= 0)
		bench_die("/proc/self/exe: %s", strerror(errno));
	return path;
}

const char *bench_bin(const char *program)
{
	static char path[4200];
	const char *self = bench_self();

	(void)snprintf(path, sizeof(path), "%.*s/%s", (int)(strrchr(self, '/') - self), self,
		       program);
	return path;
}

/* ---- running programs ---- */

int bench_spawn_wait(const char *const *argv, int out)
{
	int status;
	pid_t pid = vfork();

	if (pid == 0) {
		if (out >= 0 && (dup2(out, 1) < 0 || dup2(out, 2) < 0))
			_exit(127);
		(void)execv(argv[0], (char *const *)(uintptr_t)argv);
		_exit(127);
	}
	if (pid < 0)
		bench_die("vfork: %s", strerror(errno));
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			bench_die("wait: %s", strerror(errno));
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

u64 bench_exec_median(const char *const *argv, unsigned n)
{
	u64 *took = krg_xalloc(n * sizeof(*took)), r;

	for (unsigned i = 0; i < n; i++) {
		u64 start = krg_clock_now_ns();
		int rc = bench_spawn_wait(argv, -1);

		took[i] = krg_clock_now_ns() - start;
		if (rc != 0)
			bench_die("%s: exit status %d", argv[0], rc);
	}
	r = bench_median_u64(took, n);
	free(took);
	return r;
}

static int null_fd(void)
{
	static int fd = -1;

	if (fd < 0)
		fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	return fd;
}

/* ---- labs ---- */

const char *bench_lab_name(char letter)
{
	static char name[2][32];
	char *ret = name[letter == 'b'];

	(void)snprintf(ret, sizeof(name[0]), "%s-%c", lab_prefix, letter);
	return ret;
}

double bench_lab_up(char letter, unsigned nodes, const char *policy)
{
	char count[16];
	const char *argv[] = {bench_bin("krg"),
			      "lab",
			      "up",
			      "-n",
			      count,
			      "--name",
			      bench_lab_name(letter),
			      policy != NULL ? "--policy" : NULL,
			      policy,
			      NULL};
	u64 start = krg_clock_now_ns();
	int rc;

	(void)snprintf(count, sizeof(count), "%u", nodes);
	rc = bench_spawn_wait(argv, STDERR_FILENO);
	if (rc != 0)
		bench_die("krg lab up -n %u: exit status %d", nodes, rc);
	start = krg_clock_now_ns() - start;
	/* until a node has told its load, nothing goes there */
	if (policy != NULL)
		(void)usleep(1500000);
	return (double)start / 1e9;
}

void bench_lab_down(char letter)
{
	const char *argv[] = {bench_bin("krg"),	      "lab", "down", "--name",
			      bench_lab_name(letter), NULL};

	if (bench_spawn_wait(argv, null_fd()) != 0)
		(void)fprintf(stderr, "bench: krg lab down --name %s failed\n",
			      bench_lab_name(letter));
}

static unsigned put(const char **ret, unsigned n, const char *arg)
{
	ASSERT(n < BENCH_ARGS - 1);
	ret[n++] = krg_xstrdup(arg);
	ret[n] = NULL;
	return n;
}

void bench_in_world(char letter, const char *caps, const char *const *argv, const char **ret)
{
	unsigned n = put(ret, 0, bench_bin("krg"));

	n = put(ret, n, "--lab");
	n = put(ret, n, bench_lab_name(letter));
	n = put(ret, n, "run");
	if (caps == NULL) {
		n = put(ret, n, "-n");
		n = put(ret, n, "0");
	}
	if (caps != NULL) {
		n = put(ret, n, "--caps");
		n = put(ret, n, caps);
	}
	for (n = put(ret, n, "--"); *argv != NULL; argv++)
		n = put(ret, n, *argv);
}

void bench_beside(char letter, unsigned node, const char *const *argv, const char **ret)
{
	char number[16];
	unsigned n = put(ret, 0, bench_bin("krg"));

	(void)snprintf(number, sizeof(number), "%u", node);
	n = put(ret, n, "lab");
	n = put(ret, n, "exec");
	n = put(ret, n, "--name");
	n = put(ret, n, bench_lab_name(letter));
	n = put(ret, n, number);
	for (n = put(ret, n, "--"); *argv != NULL; argv++)
		n = put(ret, n, *argv);
}

/* ---- workers ---- */

void bench_worker_start(struct bench_worker *w, const char *const *argv)
{
	int in[2], out[2];

	if (pipe2(in, O_CLOEXEC) < 0 || pipe2(out, O_CLOEXEC) < 0)
		bench_die("pipe: %s", strerror(errno));
	w->pid = fork();
	if (w->pid < 0)
		bench_die("fork: %s", strerror(errno));
	if (w->pid == 0) {
		if (dup2(in[0], 0) < 0 || dup2(out[1], 1) < 0)
			_exit(127);
		(void)execv(argv[0], (char *const *)(uintptr_t)argv);
		_exit(127);
	}
	(void)close(in[0]);
	(void)close(out[1]);
	w->to = in[1];
	w->from = out[0];
}

void bench_worker_ask(struct bench_worker *w, const void *what, size_t n, void *ret, size_t max)
{
	if (krg_write_all(w->to, what, n) < 0 || krg_read_all(w->from, ret, max) < 0)
		bench_die("a worker ended early");
}

void bench_worker_end(struct bench_worker *w)
{
	krg_closep(&w->to);
	(void)waitpid(w->pid, NULL, 0);
	krg_closep(&w->from);
}

bool bench_asked(void *ret, size_t n)
{
	return krg_read_all(STDIN_FILENO, ret, n) == 0;
}

void bench_answer(const void *what, size_t n)
{
	if (krg_write_all(STDOUT_FILENO, what, n) < 0)
		exit(1);
}

/* ---- numbers ---- */

static int double_cmp(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

static int u64_cmp(const void *a, const void *b)
{
	u64 x = *(const u64 *)a, y = *(const u64 *)b;

	return x < y ? -1 : x > y;
}

double bench_quantile(const double *sorted, unsigned n, double q)
{
	double at = q * (n - 1);
	unsigned i = (unsigned)at;

	return i + 1 < n ? sorted[i] + (at - i) * (sorted[i + 1] - sorted[i]) : sorted[n - 1];
}

double bench_median(double *v, unsigned n)
{
	ASSERT(n > 0);
	qsort(v, n, sizeof(*v), double_cmp);
	return bench_quantile(v, n, 0.5);
}

u64 bench_median_u64(u64 *v, unsigned n)
{
	ASSERT(n > 0);
	qsort(v, n, sizeof(*v), u64_cmp);
	return v[n / 2];
}

void bench_figure(const char *name, const char *format, double value, const char *unit,
		  const char *op, double target)
{
	char text[32];
	bool ok;

	/* what is printed is what is judged */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
	(void)snprintf(text, sizeof(text), format, value);
#pragma GCC diagnostic pop
	value = strtod(text, NULL);
	ok = strcmp(op, "<=") == 0  ? value <= target
	     : strcmp(op, "<") == 0 ? value < target
				    : value >= target;
	(void)printf("figure %s %s %s target %s %g %s\n", name, text, unit, op, target,
		     ok ? "ok" : "short");
	(void)fflush(stdout);
}

/* ---- processes of a node ---- */

static bool is_of(pid_t pid, const char *cgroup, const char *comm)
{
	char path[64], text[8192];
	int n;

	(void)snprintf(path, sizeof(path), "/proc/%d/comm", pid);
	n = krg_read_file(path, text, sizeof(text));
	if (n <= 0)
		return false;
	text[n - 1] = '\0';
	if (strcmp(text, comm) != 0)
		return false;
	(void)snprintf(path, sizeof(path), "/proc/%d/cgroup", pid);
	n = krg_read_file(path, text, sizeof(text));
	return n > 0 && strstr(text, cgroup) != NULL;
}

unsigned bench_pids(char letter, unsigned node, const char *comm, pid_t *ret, unsigned max)
{
	char cgroup[80];
	struct dirent *de;
	unsigned n = 0;
	DIR *d = opendir("/proc");

	(void)snprintf(cgroup, sizeof(cgroup), "/krg-lab-%s/node%u\n", bench_lab_name(letter),
		       node);
	while (d != NULL && n < max && (de = readdir(d)) != NULL) {
		pid_t pid = (pid_t)strtol(de->d_name, NULL, 10);

		if (pid > 0 && is_of(pid, cgroup, comm))
			ret[n++] = pid;
	}
	if (d != NULL)
		(void)closedir(d);
	return n;
}

pid_t bench_krgd(char letter, unsigned node)
{
	pid_t pid[2];
	unsigned n = bench_pids(letter, node, "krgd", pid, 2);

	if (n != 1)
		bench_die("node %u has %u processes krgd", node, n);
	return pid[0];
}

u64 bench_rollup_kb(pid_t pid, const char *field)
{
	char path[64], text[4096];
	const char *at;

	(void)snprintf(path, sizeof(path), "/proc/%d/smaps_rollup", pid);
	if (krg_read_file(path, text, sizeof(text)) <= 0)
		return 0;
	at = strstr(text, field);
	return at != NULL ? strtoull(at + strlen(field), NULL, 10) : 0;
}

u64 bench_cpu_ns(pid_t pid)
{
	char path[300], text[128];
	struct dirent *de;
	u64 sum = 0;
	DIR *d;

	(void)snprintf(path, sizeof(path), "/proc/%d/task", pid);
	d = opendir(path);
	while (d != NULL && (de = readdir(d)) != NULL) {
		(void)snprintf(path, sizeof(path), "/proc/%d/task/%s/schedstat", pid, de->d_name);
		if (de->d_name[0] != '.' && krg_read_file(path, text, sizeof(text)) > 0)
			sum += strtoull(text, NULL, 10);
	}
	if (d != NULL)
		(void)closedir(d);
	return sum;
}

/* ---- begin and end ---- */

static volatile sig_atomic_t interrupted;

static void on_signal(int sig)
{
	interrupted = sig;
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
	(void)st;
	(void)flag;
	(void)ftw;
	(void)remove(path);
	return 0;
}

/* wait(2) status of the child; if we are interrupted it and all that it started are ended. */
static int body_wait(pid_t pid)
{
	int status = 0;

	for (unsigned ms = 0; waitpid(pid, &status, interrupted ? WNOHANG : 0) != pid; ms++) {
		if (!interrupted)
			continue;
		if (ms % 1000 == 0)
			(void)kill(-pid, ms < 3000 ? SIGTERM : SIGKILL);
		if (ms > END_WAIT_MS)
			break;
		(void)usleep(1000);
	}
	(void)kill(-pid, SIGKILL);
	return status;
}

int bench_main(void (*body)(void))
{
	struct sigaction act = {.sa_handler = on_signal};
	int status;
	pid_t pid;

	if (geteuid() != 0) {
		(void)fputs("a lab needs root\n", stderr);
		return BENCH_SKIPPED;
	}
	(void)snprintf(lab_prefix, sizeof(lab_prefix), "bench%d", getpid());
	(void)snprintf(bench_dir, sizeof(bench_dir), "/tmp/krg-bench.XXXXXX");
	if (mkdtemp(bench_dir) == NULL)
		bench_die("mkdtemp: %s", strerror(errno));
	(void)unsetenv("KRG_LAB");
	(void)unsetenv("KRG_SOCKET");
	(void)unsetenv("KRG_NODE");
	(void)fflush(stdout);
	(void)sigaction(SIGINT, &act, NULL);
	(void)sigaction(SIGTERM, &act, NULL);
	(void)sigaction(SIGHUP, &act, NULL);
	pid = fork();
	if (pid == 0) {
		(void)setpgid(0, 0);
		(void)signal(SIGINT, SIG_DFL);
		(void)signal(SIGTERM, SIG_DFL);
		(void)signal(SIGHUP, SIG_DFL);
		(void)signal(SIGPIPE, SIG_IGN);
		body();
		exit(0);
	}
	status = pid > 0 ? body_wait(pid) : 0;
	bench_lab_down('a');
	bench_lab_down('b');
	(void)nftw(bench_dir, remove_one, 32, FTW_DEPTH | FTW_PHYS);
	if (interrupted) {
		(void)signal(interrupted, SIG_DFL);
		(void)raise(interrupted);
	}
	return pid > 0 && WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

/* ---- TCP ---- */

int bench_tcp_listen(u16 *ret_port)
{
	struct sockaddr_in a = {.sin_family = AF_INET};
	socklen_t len = sizeof(a);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || bind(fd, (struct sockaddr *)&a, len) < 0 || listen(fd, 4) < 0 ||
	    getsockname(fd, (struct sockaddr *)&a, &len) < 0)
		bench_die("listen: %s", strerror(errno));
	*ret_port = ntohs(a.sin_port);
	return fd;
}

int bench_tcp_no_delay(int fd)
{
	int one = 1;

	if (fd < 0)
		bench_die("socket: %s", strerror(errno));
	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	return fd;
}

int bench_tcp_connect(const struct sockaddr_in *a)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || connect(fd, (const struct sockaddr *)a, sizeof(*a)) < 0)
		bench_die("connect: %s", strerror(errno));
	return bench_tcp_no_delay(fd);
}

u32 bench_own_addr(void)
{
	struct ifaddrs *all, *i;
	u32 addr = 0;

	if (getifaddrs(&all) < 0)
		bench_die("getifaddrs: %s", strerror(errno));
	for (i = all; i != NULL; i = i->ifa_next)
		if (i->ifa_addr != NULL && i->ifa_addr->sa_family == AF_INET &&
		    (i->ifa_flags & IFF_LOOPBACK) == 0)
			addr = ((struct sockaddr_in *)(void *)i->ifa_addr)->sin_addr.s_addr;
	freeifaddrs(all);
	return addr;
}
