/* shadow.c - what stands beside a body for a child that stayed with the deputy.
 *
 * A child of the body with the child's own pid, group and exit signal: so wait(2) in all its forms,
 * and SIGCHLD, are the kernel's own.  krgd tells it what became of the child (VESSEL_EXIT, _STOP,
 * _GO), and it does alike.  It never executes: its parent may change its group, as it may at home.
 * Signals that somebody sends to it (pidfd_send_signal(2); kill(2) goes home through the gate) it
 * passes on.  When the channel closes, the body has ended, and nobody waits for it any more.
 */
#include "krginit.h"
#include "vessel_proto.h"
#include <grp.h>
#include <linux/sched.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>

static int self = -EBADF; /* pidfd */

static void mask(int how, u64 set)
{
	/* the raw call: glibc keeps two signals for itself */
	(void)syscall(SYS_rt_sigprocmask, how, &set, NULL, sizeof(set));
}

/* Not kill(2): to the gate this number is of another node. */
static void raise_here(int sig)
{
	(void)syscall(SYS_pidfd_send_signal, self, sig, NULL, 0);
}

static bool next_ends_stop(int channel)
{
	struct vessel_msg next;

	return recv(channel, &next, sizeof(next), MSG_PEEK | MSG_DONTWAIT) ==
		       (ssize_t)sizeof(next) &&
	       (next.type == VESSEL_GO || next.type == VESSEL_EXIT);
}

/* The signal is pending when the next word is looked at: a SIGCONT from then on takes it back. */
static void stop_by(int sig, int channel)
{
	struct sigaction act = {.sa_handler = SIG_IGN};

	raise_here(sig);
	if (next_ends_stop(channel)) {
		(void)sigaction(sig, &act, NULL); /* nothing stays pending */
		act.sa_handler = SIG_DFL;
		(void)sigaction(sig, &act, NULL);
		return;
	}
	mask(SIG_UNBLOCK, 1ull << (sig - 1));
	mask(SIG_SETMASK, ~0ull);
}

_Noreturn static void end_as(int wstatus)
{
	struct rlimit none = {0, 0};
	int sig = wstatus & 0x7f;

	if (sig != 0) {
		(void)setrlimit(RLIMIT_CORE, &none);
		raise_here(sig);
		mask(SIG_UNBLOCK, 1ull << (sig - 1));
		raise_here(SIGKILL);
	}
	_exit(wstatus >> 8 & 0xff);
}

/* The child, which is at home, signals one that is here. */
static i32 send_signal(const struct vessel_msg *m)
{
	int fd = -EBADF;
	long r;

	if (m->code == SYS_kill)
		r = syscall(SYS_kill, m->arg[0], m->arg[1]);
	else if (m->code == SYS_tgkill)
		r = syscall(SYS_tgkill, m->arg[0], m->arg[1], m->arg[2]);
	else
		r = fd = (int)syscall(SYS_pidfd_open, m->arg[0], 0);
	if (fd >= 0)
		r = syscall(SYS_pidfd_send_signal, fd, m->arg[1], NULL, 0);
	r = r < 0 ? -errno : 0;
	if (fd >= 0)
		(void)close(fd);
	return (i32)r;
}

static void obey(int channel, const struct vessel_msg *m)
{
	struct vessel_msg answer = {.type = VESSEL_ANSWER, .id = m->id, .value = -ENOSYS};

	if (m->type == VESSEL_EXIT)
		end_as(m->value);
	if (m->type == VESSEL_STOP && m->value > 0 && m->value <= 64)
		stop_by(m->value, channel);
	if (m->type == VESSEL_CALL) {
		if (m->code == SYS_pidfd_send_signal || m->code == SYS_tgkill ||
		    m->code == SYS_kill)
			answer.value = send_signal(m);
		(void)send(channel, &answer, sizeof(answer), MSG_NOSIGNAL);
	}
}

/* krgd's own (SIGCONT) has no sender here. */
static void pass_signal(int channel, int sigfd)
{
	struct vessel_msg m = {.type = VESSEL_SIGNAL};
	struct signalfd_siginfo si;

	if (read(sigfd, &si, sizeof(si)) != (ssize_t)sizeof(si) || si.ssi_pid == 0)
		return;
	m.value = (i32)si.ssi_signo;
	m.code = si.ssi_code;
	m.pid = (i32)si.ssi_pid;
	m.uid = si.ssi_uid;
	m.arg[0] = (i64)si.ssi_ptr;
	(void)send(channel, &m, sizeof(m), MSG_NOSIGNAL);
}

/* Of the child: the sender of SIGCHLD has its number and user, and who may signal it is decided by these.  What it
 * sends for the child was allowed at home. */
static void become(const struct rec_epm_child *child)
{
	if (setgroups(0, NULL) < 0 || setresgid(child->gid, child->gid, child->gid) < 0 ||
	    setresuid(child->uid, 0, child->uid) < 0)
		_exit(127);
}

_Noreturn static void shadow_run(const struct rec_epm_child *child, int channel)
{
	struct vessel_msg m = {.type = VESSEL_HELLO};
	struct pollfd p[2];
	sigset_t all;

	mask(SIG_SETMASK, ~0ull);
	if (channel > 0)
		(void)close_range(0, (unsigned)channel - 1, 0);
	(void)close_range((unsigned)channel + 1, ~0u, 0);
	if (child->leads != 0)
		(void)setsid();
	(void)prctl(PR_SET_NAME, "krgshadow");
	become(child);
	sigfillset(&all);
	self = (int)syscall(SYS_pidfd_open, getpid(), 0);
	p[0] = (struct pollfd){channel, POLLIN, 0};
	p[1] = (struct pollfd){signalfd(-1, &all, SFD_CLOEXEC | SFD_NONBLOCK), POLLIN, 0};
	if (self < 0 || p[1].fd < 0 || send(channel, &m, sizeof(m), MSG_NOSIGNAL) < 0)
		_exit(127);
	for (;;) {
		if (poll(p, 2, -1) < 0)
			continue;
		if (p[1].revents != 0)
			pass_signal(channel, p[1].fd);
		if (p[0].revents != 0) {
			ssize_t r = recv(channel, &m, sizeof(m), MSG_DONTWAIT);

			if (r == (ssize_t)sizeof(m))
				obey(channel, &m);
			else if (r >= 0 || (errno != EAGAIN && errno != EINTR))
				_exit(0);
		}
	}
}

int shadow_make(const struct rec_epm_child *child, int *ret_channel)
{
	pid_t set_tid = child->pid;
	struct clone_args args = {.exit_signal = (u64)(u32)child->exit_signal,
				  .set_tid = (u64)(uintptr_t)&set_tid,
				  .set_tid_size = 1};
	int pair[2], r = 0;
	long pid;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return -errno;
	pid = syscall(SYS_clone3, &args, sizeof(args));
	if (pid == 0)
		shadow_run(child, pair[1]);
	/* its parent sets its group: who comes next may join it */
	if (pid < 0 || (child->leads == 0 && setpgid((pid_t)pid, child->pgid) < 0))
		r = -errno;
	(void)close(pair[1]);
	if (r < 0) {
		(void)close(pair[0]);
		return r;
	}
	*ret_channel = pair[0];
	return 0;
}
