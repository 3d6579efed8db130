/* nursery.c - processes that make processes: each has the gate's filter, and one session. */
#include "krginit.h"
#include <fcntl.h>
#include <linux/sched.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>

static int tid_fork(u64 flags, u64 exit_signal, i32 set_tid, int *ret_pidfd)
{
	pid_t tid = set_tid;
	struct clone_args args = {.flags = flags | CLONE_PIDFD,
				  .exit_signal = exit_signal,
				  .pidfd = (u64)(uintptr_t)ret_pidfd,
				  .set_tid = set_tid != 0 ? (u64)(uintptr_t)&tid : 0,
				  .set_tid_size = set_tid != 0 ? 1 : 0};
	long r = syscall(SYS_clone3, &args, sizeof(args));

	return r < 0 ? -errno : (int)r;
}

int sibling_fork(i32 set_tid, int *ret_pidfd)
{
	return tid_fork(CLONE_PARENT, 0, set_tid, ret_pidfd);
}

static void signals_reset(void)
{
	struct sigaction act = {.sa_handler = SIG_DFL};

	for (int s = 1; s < NSIG; s++)
		(void)sigaction(s, &act, NULL);
}

/* A nursery for a session of its own: it leads the session and outlives its members, so that
 * their session number stays theirs on this node. */
_Noreturn static void session_child(const int *fds, unsigned nfds)
{
	int sock = fds[0];

	(void)prctl(PR_SET_PDEATHSIG, SIGKILL, EXEC_MAGIC);
	(void)setsid();
	if (nfds > 1) {
		(void)ioctl(fds[1], TIOCSCTTY, 0);
		(void)close(fds[1]);
	}
	nursery_run(sock);
}

/* What the terminal's driver sends to the group is told; what processes send comes by the gate. */
static void group_tell(int to, int sigfd)
{
	struct signalfd_siginfo si;
	struct group_signal m = {.sid = getsid(0), .pgid = getpgrp()};

	if (read(sigfd, &si, sizeof(si)) != sizeof(si))
		return;
	m.sig = (i32)si.ssi_signo;
	if (si.ssi_code == SI_KERNEL && send(to, &m, sizeof(m), MSG_NOSIGNAL) < 0)
		_exit(1); /* krgd is gone */
}

/* It has the number of a process that is elsewhere, which sends a signal to one that is here. */
static void group_signal(int sock)
{
	struct herald_answer a = {0};
	struct herald_req r;
	int target = -EBADF;
	unsigned nfds = 1;
	ssize_t n = krg_recv_fds(sock, &r, sizeof(r), &target, &nfds);

	if (n == 0)
		_exit(0);
	if (n == (ssize_t)sizeof(r) && nfds == 1) {
		a.id = r.id;
		a.result = herald_send(&r, target);
		(void)krg_send_fds(sock, &a, sizeof(a), NULL, 0);
	}
	if (nfds == 1)
		(void)close(target);
}

_Noreturn static void group_run(int sock, int to, int sigfd)
{
	struct pollfd p[2] = {{sock, POLLIN, 0}, {sigfd, POLLIN, 0}};

	for (;;) {
		if (poll(p, 2, -1) < 0)
			continue;
		if (p[1].revents != 0)
			group_tell(to, sigfd);
		if (p[0].revents != 0)
			group_signal(sock);
	}
}

/* Holds a process group's number on this node.  Signals to the group pass it by. */
_Noreturn static void group_child(int made, i32 pgid, int sock, int tell)
{
	int sigfd = -EBADF;
	sigset_t all;

	(void)prctl(PR_SET_PDEATHSIG, SIGKILL, EXEC_MAGIC);
	(void)prctl(PR_SET_NAME, "krggroup");
	sigfillset(&all);
	(void)sigprocmask(SIG_SETMASK, &all, NULL);
	if (tell >= 0)
		sigfd = signalfd(-1, &all, SFD_CLOEXEC);
	if (setpgid(0, pgid) < 0 || (tell >= 0 && sigfd < 0))
		_exit(1); /* the group has ended meanwhile */
	(void)!write(made, "g", 1);
	/* nothing else stays open */
	sock = fcntl(sock, F_DUPFD_CLOEXEC, 3);
	if (tell >= 0) {
		tell = fcntl(tell, F_DUPFD_CLOEXEC, 3);
		sigfd = fcntl(sigfd, F_DUPFD_CLOEXEC, 3);
		(void)dup3(tell, 1, O_CLOEXEC);
		(void)dup3(sigfd, 2, O_CLOEXEC);
	}
	(void)dup3(sock, 0, O_CLOEXEC);
	(void)close_range(tell >= 0 ? 3 : 1, ~0u, 0);
	group_run(0, 1, tell >= 0 ? 2 : -EBADF);
}

/* The group is there when this returns: who joins it next does not wait. */
static int group_make(const struct nursery_req *req, int sock, int tell, int *ret_pidfd)
{
	int made[2], pid;
	char c;

	if (pipe2(made, O_CLOEXEC) < 0)
		return -errno;
	/* One that tells is the nursery's child: a parent in the session and in another group, so that to the
	 * kernel the group is no orphan, and stops when it reads the terminal from the background. */
	pid = tell >= 0 ? tid_fork(0, SIGCHLD, req->set_tid, ret_pidfd)
			: sibling_fork(req->set_tid, ret_pidfd);
	if (pid == 0)
		group_child(made[1], req->pgid, sock, tell);
	(void)close(made[1]);
	if (pid > 0 && krg_read_all(made[0], &c, 1) < 0)
		pid = -ECHILD;
	(void)close(made[0]);
	return pid;
}

static int front_set(i32 pgid)
{
	int fd = open("/dev/tty", O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC), r;

	if (fd < 0)
		return -errno;
	r = tcsetpgrp(fd, pgid) < 0 ? -errno : 0;
	(void)close(fd);
	return r;
}

static void serve(int sock, const struct nursery_req *req, const int *fds, unsigned nfds)
{
	struct nursery_answer a = {.pid = -EINVAL};
	int pidfd = -EBADF;

	if (req->type == NURSERY_SPAWN && nfds >= 2) {
		a.pid = sibling_fork(req->set_tid, &pidfd);
		if (a.pid == 0) {
			(void)close(sock);
			signals_reset();
			spawn_child(fds[0], fds[1], fds + 2, nfds - 2);
		}
	} else if (req->type == NURSERY_SESSION && nfds >= 1) {
		a.pid = sibling_fork(req->set_tid, &pidfd);
		if (a.pid == 0) {
			(void)close(sock);
			session_child(fds, nfds);
		}
	} else if (req->type == NURSERY_GROUP && nfds >= 1) {
		a.pid = group_make(req, fds[0], nfds > 1 ? fds[1] : -EBADF, &pidfd);
	} else if (req->type == NURSERY_KILL && nfds == 1) {
		a.pid = herald_send(&req->signal, fds[0]);
	} else if (req->type == NURSERY_FRONT) {
		a.pid = front_set(req->pgid);
	} else if (req->type == NURSERY_SYNC) {
		a.pid = req->pgid;
	}
	(void)krg_send_fds(sock, &a, sizeof(a), &pidfd, a.pid > 0 ? 1 : 0);
	if (pidfd >= 0)
		(void)close(pidfd);
}

_Noreturn void nursery_run(int sock)
{
	sigset_t all;

	/* signals to its session or group are not meant for it; its children set their own mask */
	sigfillset(&all);
	(void)sigprocmask(SIG_SETMASK, &all, NULL);
	(void)signal(SIGCHLD, SIG_IGN); /* nobody waits for its children */
	for (;;) {
		struct nursery_req req;
		int fds[KRG_FDS_MAX];
		unsigned nfds = KRG_NELEM(fds);
		ssize_t n = krg_recv_fds(sock, &req, sizeof(req), fds, &nfds);

		if (n == (ssize_t)sizeof(req))
			serve(sock, &req, fds, nfds);
		for (unsigned i = 0; i < nfds; i++)
			(void)close(fds[i]);
		if (n <= 0)
			_exit(0);
	}
}
