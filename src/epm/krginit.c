/* krginit.c - pid 1 of a node's world.
 *
 * Started by krgd, before its first thread, with the descriptor numbers of three sockets.  First outside
 * (stage 0): waits for INIT_WORLD, makes the namespaces, and stays as the parent of pid 1 and of heralds, and as the
 * keeper (keeper.c).  Then as pid 1: mounts, nurseries, and a loop that reaps, steers the pid allocator and answers krgd.
 *
 * Ends   stage 0 with krgd, unless another krgd comes in time (keeper.c); pid 1 with stage 0
 *        (PR_SET_PDEATHSIG).  With pid 1 the kernel ends the world.
 */
#include "krginit.h"
#include "gate_filter.h"
#include <fcntl.h>
#include <linux/sched.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/wait.h>

/* How often the allocator's cursor is looked at, and how many pids are left when it goes back to
 * the start of the range.  A node would have to make PID_MARGIN tasks in one period to leave it. */
#define STEER_PERIOD_MS 20
#define PID_MARGIN	16384

static struct {
	int krgd;     /* the control socket */
	bool full;    /* krgd does not read what it is told: it is dead, and the next one will */
	int last_pid; /* /proc/sys/kernel/ns_last_pid */
	i32 low, high;
	int keep[NURSERY_NR]; /* duplicates of the listeners: notified calls outlive krgd */
} init = {.krgd = -EBADF, .last_pid = -EBADF};

_Noreturn static void fail(int code, const char *what)
{
	struct init_failed m = {.type = INIT_FAILED, .code = code};

	(void)snprintf(m.what, sizeof(m.what), "%s", what);
	(void)krg_send_fds(init.krgd, &m, sizeof(m), NULL, 0);
	_exit(1);
}

static void check(int r, const char *what)
{
	if (r < 0)
		fail(-errno, what);
}

static void die_with_parent(void)
{
	check(prctl(PR_SET_PDEATHSIG, SIGKILL), "PR_SET_PDEATHSIG");
}

/* ---- pids ---- */

static long cursor_read(void)
{
	char text[32];
	ssize_t n = pread(init.last_pid, text, sizeof(text) - 1, 0);

	if (n <= 0)
		return -1;
	text[n] = '\0';
	return strtol(text, NULL, 10);
}

static void cursor_write(long last)
{
	char text[32];
	int n = snprintf(text, sizeof(text), "%ld", last);

	if (pwrite(init.last_pid, text, (size_t)n, 0) != n)
		fail(-errno, "write ns_last_pid");
}

static void steer(void)
{
	long last = cursor_read();

	if (last < init.low - 1 || last >= init.high - PID_MARGIN)
		cursor_write(init.low - 1);
}

/* ---- making the world ---- */

static void mounts_make(const struct init_world *w)
{
	check(mount("", "/", NULL, MS_REC | MS_SLAVE, NULL), "make / a slave mount");
	check(mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL),
	      "mount /proc of the world");
	(void)mkdir("/run/krg", 0755);
	(void)mkdir("/run/krg/world", 0755);
	check(mount(w->run_dir, "/run/krg/world", NULL, MS_BIND, NULL), "bind the run directory");
}

static void nursery_make(enum nursery_class class, int *ret_listener, int *ret_sock)
{
	int pair[2], listener, boot[2];
	unsigned n = 1;
	char c;
	pid_t pid;

	check(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), "socketpair");
	check(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, boot), "socketpair");
	pid = fork();
	check(pid, "fork a nursery");
	if (pid == 0) {
		int r;

		die_with_parent();
		(void)prctl(PR_SET_NAME, "krgnursery");
		(void)close(init.krgd);
		r = gate_filter_install(class, init.low, init.high, &listener);
		if (r < 0)
			_exit(1);
		if (krg_send_fds(boot[1], "l", 1, &listener, 1) != 1)
			_exit(1);
		(void)close(listener);
		(void)close(boot[0]);
		(void)close(boot[1]);
		(void)close(pair[0]);
		nursery_run(pair[1]);
	}
	(void)close(boot[1]);
	(void)close(pair[1]);
	if (krg_recv_fds(boot[0], &c, 1, &listener, &n) != 1 || n != 1)
		fail(-EPERM, "a nursery could not install its seccomp filter");
	(void)close(boot[0]);
	*ret_listener = listener;
	*ret_sock = pair[0];
}

static void world_make(const struct init_world *w)
{
	struct init_ready ready = {.type = INIT_READY, .version = WORLD_PROTO_VERSION};
	int fds[1 + 2 * NURSERY_NR];
	sigset_t all;

	init.low = w->pid_low;
	init.high = w->pid_high;
	mounts_make(w);
	check(sethostname(w->host_name, strnlen(w->host_name, sizeof(w->host_name))),
	      "sethostname");
	errno = EPERM;
	check(krg_write_file("/proc/sys/kernel/pid_max", "4194304"), "set pid_max");
	init.last_pid = open("/proc/sys/kernel/ns_last_pid", O_RDWR | O_CLOEXEC);
	check(init.last_pid, "open ns_last_pid");
	for (int c = 0; c < NURSERY_NR; c++) {
		nursery_make((enum nursery_class)c, &fds[1 + 2 * c], &fds[2 + 2 * c]);
		init.keep[c] = fds[1 + 2 * c];
	}
	cursor_write(init.low - 1);
	fds[0] = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	check(fds[0], "open /proc");
	sigfillset(&all);
	check(sigprocmask(SIG_BLOCK, &all, NULL), "sigprocmask");
	if (krg_send_fds(init.krgd, &ready, sizeof(ready), fds, KRG_NELEM(fds)) < 0)
		_exit(1);
	(void)close(fds[0]);
	for (int c = 0; c < NURSERY_NR; c++)
		(void)close(fds[2 + 2 * c]);
}

/* ---- the loop ---- */

/* Nothing here may wait for krgd, which may be dead: what does not fit waits as a zombie. */
static bool has_room(void)
{
	struct pollfd p = {init.krgd, POLLOUT, 0};

	init.full = poll(&p, 1, 0) == 1 && (p.revents & POLLOUT) == 0;
	if (p.revents == 0)
		init.full = true;
	return !init.full;
}

static void reap(void)
{
	while (has_room()) {
		struct init_ended m = {.type = INIT_ENDED};
		struct rusage ru;
		siginfo_t si = {0};

		if (syscall(SYS_waitid, P_ALL, 0, &si, WEXITED | WSTOPPED | WCONTINUED | WNOHANG,
			    &ru) < 0 ||
		    si.si_pid == 0)
			return;
		m.pid = si.si_pid;
		m.code = si.si_code;
		m.status = si.si_status;
		m.used = (struct usage){
			.utime_us = (u64)ru.ru_utime.tv_sec * 1000000 + (u64)ru.ru_utime.tv_usec,
			.stime_us = (u64)ru.ru_stime.tv_sec * 1000000 + (u64)ru.ru_stime.tv_usec,
			.maxrss_kb = (u64)ru.ru_maxrss,
			.minflt = (u64)ru.ru_minflt,
			.majflt = (u64)ru.ru_majflt,
			.inblock = (u64)ru.ru_inblock,
			.oublock = (u64)ru.ru_oublock,
			.nvcsw = (u64)ru.ru_nvcsw,
			.nivcsw = (u64)ru.ru_nivcsw};
		if (krg_send_fds(init.krgd, &m, sizeof(m), NULL, 0) < 0)
			_exit(1);
	}
}

static void handle_shared(const void *p, size_t n)
{
	const struct init_shared *req = p;
	struct init_shared_answer a = {.type = INIT_SHARED_ANSWER};

	if (n != sizeof(*req) || req->nfds > INIT_SHARED_MAX)
		return;
	a.id = req->id;
	a.mask = scan_shared(req);
	(void)krg_send_fds(init.krgd, &a, sizeof(a), NULL, 0);
}

static void handle_sessions(const void *p, size_t n)
{
	const struct init_sessions *req = p;
	struct init_sessions_answer a = {.type = INIT_SESSIONS_ANSWER};

	if (n != sizeof(*req) || req->n > INIT_SESSIONS_MAX)
		return;
	a.id = req->id;
	scan_sessions(req, &a);
	(void)krg_send_fds(init.krgd, &a, sizeof(a), NULL, 0);
}

static void handle_krgd(void)
{
	static _Alignas(8) u8 m[16384];
	unsigned nfds = 0;
	ssize_t n = krg_recv_fds(init.krgd, m, sizeof(m), NULL, &nfds);
	u32 type;

	if (n < (ssize_t)sizeof(type))
		_exit(0); /* krgd is gone */
	memcpy(&type, m, sizeof(type));
	if (type == INIT_SHARED)
		handle_shared(m, (size_t)n);
	else if (type == INIT_SESSIONS)
		handle_sessions(m, (size_t)n);
}

_Noreturn static void loop(void)
{
	struct itimerspec period = {.it_interval.tv_nsec = STEER_PERIOD_MS * 1000000,
				    .it_value.tv_nsec = STEER_PERIOD_MS * 1000000};
	struct pollfd p[3];
	sigset_t set;
	u64 ticks;

	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	p[0] = (struct pollfd){init.krgd, POLLIN, 0};
	p[1] = (struct pollfd){signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK), POLLIN, 0};
	p[2] = (struct pollfd){timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK), POLLIN,
			       0};
	check(p[1].fd, "signalfd");
	check(p[2].fd, "timerfd");
	check(timerfd_settime(p[2].fd, 0, &period, NULL), "timerfd_settime");
	for (;;) {
		struct signalfd_siginfo si;

		p[0].events = init.full ? POLLOUT : POLLIN;
		if (poll(p, 3, -1) < 0)
			continue;
		if (p[2].revents != 0 && read(p[2].fd, &ticks, sizeof(ticks)) > 0)
			steer();
		if (p[1].revents != 0) {
			while (read(p[1].fd, &si, sizeof(si)) > 0)
				;
			reap();
		}
		if (p[0].revents == POLLOUT)
			reap(); /* there is room again */
		else if (p[0].revents != 0 && has_room())
			handle_krgd();
	}
}

/* ---- stage 0 ---- */

static void clock_offset(i64 ns)
{
	char text[128];
	i64 sec = ns / 1000000000, rest = ns % 1000000000;

	if (rest < 0) {
		sec--;
		rest += 1000000000;
	}
	(void)snprintf(text, sizeof(text), "monotonic %lld %lld\nboottime %lld %lld\n",
		       (long long)sec, (long long)rest, (long long)sec, (long long)rest);
	if (krg_write_file("/proc/self/timens_offsets", text) < 0)
		fail(-EINVAL, "write timens_offsets");
}

int main(int argc, char **argv)
{
	struct init_world w;
	unsigned nfds = 0;
	int herald, keep, door;
	pid_t pid;
	ssize_t n;

	if (argc != 4)
		return 2;
	init.krgd = (int)strtol(argv[1], NULL, 10);
	herald = (int)strtol(argv[2], NULL, 10);
	keep = (int)strtol(argv[3], NULL, 10);
	if (init.krgd < 3 || herald != init.krgd + 1 || keep != herald + 1)
		return 2;
	for (int fd = init.krgd; fd <= keep; fd++)
		if (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
			return 2;
	if (init.krgd > 3)
		(void)close_range(3, (unsigned)init.krgd - 1, 0);
	(void)close_range((unsigned)keep + 1, ~0u, 0);
	(void)setsid(); /* what a terminal sends to krgd is krgd's */
	n = krg_recv_fds(init.krgd, &w, sizeof(w), NULL, &nfds);
	if (n == 0)
		return 0;
	if (n != sizeof(w) || w.type != INIT_WORLD || w.version != WORLD_PROTO_VERSION)
		fail(-EPROTO, "krgd and krginit are of different builds");
	w.host_name[sizeof(w.host_name) - 1] = w.run_dir[sizeof(w.run_dir) - 1] = '\0';
	door = keeper_open(w.run_dir);
	check(door < 0 ? (errno = -door, -1) : 0, "the keeper's socket");
	check(unshare(CLONE_NEWTIME), "make a time namespace");
	clock_offset(w.clock_offset_ns);
	check(unshare(CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS),
	      "make the world's namespaces");
	pid = fork();
	check(pid, "fork pid 1 of the world");
	if (pid == 0) {
		die_with_parent();
		(void)setsid();
		(void)close(herald);
		(void)close(keep);
		(void)close(door);
		world_make(&w);
		loop();
	}
	(void)close(init.krgd);
	keeper_run(keep, herald, door, pid, w.keep_ms);
}
