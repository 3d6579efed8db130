/* vessel.c - what a deputy runs: a placeholder that keeps a process's place among its kin.
 *
 * It blocks all signals and passes them on to krgd, ends as its body ended, stops as its body
 * stopped, waits for the children that stayed here and tells krgd what became of them, and makes the
 * few calls that must be made here (setpgid, setsid).  No C library: a
 * deputy costs a few pages, and starts in the time of an exec.
 *
 * Started by krgd in place of the program (execveat of this file's descriptor) with the
 * environment "KRGV=<fd>": its channel.  When the channel closes, krgd is gone: it ends.
 */
#include "vessel_proto.h"
#include <asm/unistd.h>
#include <linux/prctl.h>
#include <linux/signal.h>
#include <stdbool.h>
#include <stddef.h>

#define SIGSET_SIZE 8
#define ALL_SIGNALS (~0ull)
#define CHANNEL_MAX 1048576

static long call6(long nr, long a, long b, long c, long d, long e, long f)
{
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;
	long ret;

	__asm__ volatile("syscall"
			 : "=a"(ret)
			 : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return ret;
}
#define call0(nr)	      call6(nr, 0, 0, 0, 0, 0, 0)
#define call1(nr, a)	      call6(nr, (long)(a), 0, 0, 0, 0, 0)
#define call2(nr, a, b)	      call6(nr, (long)(a), (long)(b), 0, 0, 0, 0)
#define call3(nr, a, b, c)    call6(nr, (long)(a), (long)(b), (long)(c), 0, 0, 0)
#define call4(nr, a, b, c, d) call6(nr, (long)(a), (long)(b), (long)(c), (long)(d), 0, 0)

/* the compiler may emit these */
void *memset(void *p, int c, size_t n);
void *memset(void *p, int c, size_t n)
{
	char *at = p;

	while (n-- > 0)
		*at++ = (char)c;
	return p;
}
void *memcpy(void *to, const void *from, size_t n);
void *memcpy(void *to, const void *from, size_t n)
{
	char *t = to;
	const char *f = from;

	while (n-- > 0)
		*t++ = *f++;
	return to;
}

_Noreturn static void quit(int code)
{
	for (;;)
		(void)call1(__NR_exit_group, code);
}

/* SIG_DFL is 0, so a zeroed kernel_sigaction is the default action. */
struct kernel_sigaction {
	void *handler;
	unsigned long flags;
	void *restorer;
	uint64_t mask;
};

static bool next_ends_stop(int channel)
{
	struct vessel_msg next;

	return call6(__NR_recvfrom, channel, (long)&next, sizeof(next), 0x42 /* PEEK, DONTWAIT */,
		     0, 0) == (long)sizeof(next) &&
	       (next.type == VESSEL_GO || next.type == VESSEL_EXIT);
}

/* Not kill(2), which may go to the gate, and on to a body elsewhere. */
static int32_t send_signal(int32_t pid, int32_t sig)
{
	long fd = call2(__NR_pidfd_open, pid, 0), r = fd;

	if (fd >= 0) {
		r = call4(__NR_pidfd_send_signal, fd, sig, 0, 0);
		(void)call1(__NR_close, fd);
	}
	return (int32_t)r;
}

static void raise_here(int sig)
{
	(void)send_signal((int32_t)call0(__NR_getpid), sig);
}

/* Take a signal's default action: die or stop of it.  channel: not if the next word there ends a stop.
 * The signal is pending when that is looked at: a SIGCONT from then on takes it back. */
static void suffer(int sig, int channel)
{
	struct kernel_sigaction act;
	uint64_t bit = 1ull << (sig - 1), all = ALL_SIGNALS;

	memset(&act, 0, sizeof(act));
	(void)call4(__NR_rt_sigaction, sig, &act, 0, SIGSET_SIZE);
	(void)call2(__NR_kill, call0(__NR_getpid), sig);
	if (channel >= 0 && next_ends_stop(channel)) {
		act.handler = (void *)1; /* SIG_IGN: nothing stays pending */
		(void)call4(__NR_rt_sigaction, sig, &act, 0, SIGSET_SIZE);
		act.handler = (void *)0;
		(void)call4(__NR_rt_sigaction, sig, &act, 0, SIGSET_SIZE);
		return;
	}
	(void)call4(__NR_rt_sigprocmask, SIG_UNBLOCK, &bit, 0, SIGSET_SIZE);
	(void)call4(__NR_rt_sigprocmask, SIG_BLOCK, &all, 0, SIGSET_SIZE);
}

/* The body has left a core, or none.  core: a directory that nobody sees; what is left there makes the kernel
 * tell of a core. */
static void core_allow(int core)
{
	uint64_t limit[2] = {0, 0};

	if (core >= 0 && call1(__NR_fchdir, core) == 0 &&
	    call4(__NR_prlimit64, 0, 4 /* RLIMIT_CORE */, 0, limit) == 0) {
		limit[0] = limit[1];
		(void)call2(__NR_prctl, PR_SET_DUMPABLE, 1);
	}
	(void)call4(__NR_prlimit64, 0, 4, limit, 0);
}

_Noreturn static void end_as(int wstatus, int core)
{
	int sig = wstatus & 0x7f;

	if (sig != 0) {
		core_allow((wstatus & 0x80) != 0 ? core : -1);
		suffer(sig, -1);
		(void)call2(__NR_kill, call0(__NR_getpid), 9);
	}
	quit(wstatus >> 8 & 0xff);
}

/* From krgd, with a descriptor or -1. */
static long hear(int channel, struct vessel_msg *m, int *fd)
{
	struct {
		uint64_t len;
		int level, type, fd, pad;
	} control;
	struct {
		void *base;
		uint64_t len;
	} iov = {m, sizeof(*m)};
	struct {
		void *name;
		uint64_t name_len;
		void *iov;
		uint64_t iov_len;
		void *control;
		uint64_t control_len;
		int flags;
	} msg = {0, 0, &iov, 1, &control, sizeof(control), 0};
	long r = call3(__NR_recvmsg, channel, &msg, 0x40000000 /* MSG_CMSG_CLOEXEC */);

	*fd = r > 0 && msg.control_len >= sizeof(control) - 4 &&
			      control.level == 1 /* SOL_SOCKET */ &&
			      control.type == 1 /* SCM_RIGHTS */
		      ? control.fd
		      : -1;
	return r;
}

static int channel_find(char **envp)
{
	for (; *envp != NULL; envp++) {
		const char *s = *envp;
		int fd = 0;

		if (s[0] != 'K' || s[1] != 'R' || s[2] != 'G' || s[3] != 'V' || s[4] != '=')
			continue;
		for (s += 5; *s >= '0' && *s <= '9' && fd < CHANNEL_MAX; s++)
			fd = fd * 10 + (*s - '0');
		return fd;
	}
	return -1;
}

static bool say(int channel, const struct vessel_msg *m)
{
	long r;

	do
		r = call3(__NR_write, channel, m, sizeof(*m));
	while (r == -4 /* EINTR */);
	return r == (long)sizeof(*m);
}

/* Bring a group to the front of our controlling terminal.  SIGTTOU is blocked, as all are. */
static int32_t front_set(int32_t pgid)
{
	long fd = call4(__NR_openat, -100 /* AT_FDCWD */, "/dev/tty", 02000000 | 04000 | 0400 | 02,
			0);
	long r = fd;

	if (fd >= 0) {
		r = call3(__NR_ioctl, fd, 0x5410 /* TIOCSPGRP */, &pgid);
		(void)call1(__NR_close, fd);
	}
	return (int32_t)r;
}

_Noreturn static void proxy(int channel, int sigfd)
{
	struct {
		int fd;
		short events, revents;
	} p[2] = {{sigfd, 1 /* POLLIN */, 0}, {channel, 0, 0}};
	int32_t self = (int32_t)call0(__NR_getpid);
	uint32_t si[32]; /* signalfd_siginfo: signo, errno, code … */
	struct vessel_msg m;

	(void)call2(__NR_prctl, PR_SET_PDEATHSIG, 9);
	(void)call2(__NR_prctl, PR_SET_NAME, "krggroup");
	for (;;) {
		if (call4(__NR_ppoll, p, 2, 0, 0) < 0)
			continue;
		if (p[1].revents != 0)
			quit(0); /* krgd is gone, or the vessel was before it could be said */
		if (call3(__NR_read, sigfd, si, sizeof(si)) != (long)sizeof(si))
			continue;
		memset(&m, 0, sizeof(m));
		m.type = VESSEL_TOLD;
		m.value = (int32_t)si[0];
		m.code = (int32_t)si[2];
		m.pid = self;
		if (!say(channel, &m))
			quit(0);
	}
}

/* A child that leads a group of its own, and tells what the terminal's driver sends to it. */
static int32_t proxy_make(int channel, int sigfd)
{
	long pid = call6(__NR_clone, 17 /* SIGCHLD */, 0, 0, 0, 0, 0);

	if (pid == 0)
		proxy(channel, sigfd);
	if (pid > 0)
		(void)call2(__NR_setpgid, pid, pid);
	return (int32_t)pid;
}

/* The program takes its interval timers along: they are stopped here.  One that has just run out says 0 left. */
static bool timers(int channel)
{
	int64_t off[4] = {0, 0, 0, 0}, was[4];
	struct vessel_msg m;

	for (int which = 0; which < 3; which++) {
		if (call3(__NR_setitimer, which, off, was) < 0 ||
		    (was[0] | was[1] | was[2] | was[3]) == 0)
			continue;
		memset(&m, 0, sizeof(m));
		m.type = VESSEL_TIMER;
		m.code = which;
		m.arg[0] = was[2] * 1000000 + was[3];
		m.arg[1] = was[0] * 1000000 + was[1];
		if (!say(channel, &m))
			return false;
	}
	return true;
}

struct vessel {
	int channel, sigfd;
	bool chld; /* SIGCHLD has come: children are to be waited for */
	bool cont; /* SIGCONT was passed on */
};

/* One of those that came: its number, or 0: there is none.  Negative: krgd is gone. */
static int pass_signal(struct vessel *v)
{
	struct {
		uint32_t signo;
		int32_t err, code;
		uint32_t pid, uid;
		int32_t fd;
		uint32_t tid, band, overrun, trapno;
		int32_t status, value_int;
		uint64_t value_ptr, utime, stime, addr;
		uint16_t addr_lsb, pad2;
		int32_t sys;
		uint64_t call_addr;
		uint32_t arch;
		uint8_t pad[28];
	} si;
	struct vessel_msg m;

	_Static_assert(sizeof(si) == 128, "signalfd_siginfo");
	if (call3(__NR_read, v->sigfd, &si, sizeof(si)) != (long)sizeof(si))
		return 0;
	v->chld = v->chld || si.signo == 17 /* SIGCHLD */;
	v->cont = v->cont || si.signo == 18 /* SIGCONT */;
	/* the kernel's own: the body gets its like from its shadows */
	if (si.signo == 17 && si.code > 0)
		return 17;
	memset(&m, 0, sizeof(m));
	m.type = VESSEL_SIGNAL;
	m.value = (int32_t)si.signo;
	m.code = si.code;
	m.pid = (int32_t)si.pid;
	m.uid = si.uid;
	m.arg[0] = (int64_t)si.value_ptr;
	m.arg[1] = si.status;
	return say(v->channel, &m) ? (int)si.signo : -1;
}

static void pass_pending(struct vessel *v)
{
	int sig;

	do
		sig = pass_signal(v);
	while (sig > 0);
	if (sig < 0)
		end_as(9, -1); /* krgd is gone */
}

/* What became of its children: the shadows beside the body do alike.  What one has sent before goes first: its
 * shadow sends that there. */
static void children(struct vessel *v)
{
	struct {
		int32_t signo, err, code, pad;
		int32_t pid;
		uint32_t uid;
		int32_t status;
		int32_t rest[32 - 7];
	} si;
	struct vessel_msg m;

	_Static_assert(sizeof(si) == 128, "siginfo_t");
	for (;;) {
		memset(&si, 0, sizeof(si));
		/* WNOHANG, WSTOPPED, WEXITED, WCONTINUED, __WALL */
		if (call6(__NR_waitid, 0 /* P_ALL */, 0, (long)&si, 1 | 2 | 4 | 8 | 0x40000000, 0,
			  0) < 0 ||
		    si.pid == 0)
			return;
		pass_pending(v);
		memset(&m, 0, sizeof(m));
		m.type = VESSEL_CHILD;
		m.pid = si.pid;
		m.code = si.code;
		m.value = si.status;
		if (!say(v->channel, &m))
			end_as(9, -1);
	}
}

static void pass_signals(struct vessel *v)
{
	pass_pending(v);
	while (v->chld) {
		v->chld = false;
		children(v);
		pass_pending(v);
	}
}

/* The body has stopped.  A SIGCONT that is still to be passed on would be lost with the stop, and goes first:
 * the body will go on. */
static void stop_as(struct vessel *v, int sig)
{
	v->cont = false;
	pass_signals(v);
	if (!v->cont && sig != 19 /* SIGSTOP */)
		suffer(sig, v->channel);
	else if (!v->cont && !next_ends_stop(v->channel))
		raise_here(sig);
}

static void obey(struct vessel *v, const struct vessel_msg *m, int fd)
{
	struct vessel_msg answer;

	switch (m->type) {
	case VESSEL_EXIT:
		end_as(m->value, fd);
	case VESSEL_STOP:
		if (m->value > 0 && m->value <= 64)
			stop_as(v, m->value);
		break;
	case VESSEL_NAME:
		(void)call2(__NR_prctl, PR_SET_NAME, m->text);
		break;
	case VESSEL_CALL:
		memset(&answer, 0, sizeof(answer));
		answer.type = VESSEL_ANSWER;
		answer.id = m->id;
		if (m->code == __NR_setpgid || m->code == __NR_setsid || m->code == __NR_tgkill ||
		    m->code == __NR_kill)
			answer.value = (int32_t)call3(m->code, m->arg[0], m->arg[1], m->arg[2]);
		else if (m->code == __NR_pidfd_send_signal)
			answer.value = send_signal((int32_t)m->arg[0], (int32_t)m->arg[1]);
		else if (m->code == __NR_prctl && m->arg[0] == PR_SET_PDEATHSIG)
			answer.value = (int32_t)call3(__NR_prctl, m->arg[0], m->arg[1], EXEC_MAGIC);
		else if (m->code == VESSEL_DRAIN)
			pass_signals(v);
		else if (m->code == __NR_ioctl && m->arg[0] == 0x5410 /* TIOCSPGRP */)
			answer.value = front_set((int32_t)m->arg[1]);
		else if (m->code == __NR_clone)
			answer.value = proxy_make(v->channel, v->sigfd);
		else
			answer.value = -38; /* ENOSYS */
		(void)say(v->channel, &answer);
		break;
	default:
		break;
	}
}

__attribute__((used)) _Noreturn static void vessel_main(long *stack)
{
	long argc = *stack;
	char **envp = (char **)(stack + 1 + argc + 1);
	int channel = channel_find(envp);
	struct vessel v = {.channel = channel};
	uint64_t all = ALL_SIGNALS;
	struct kernel_sigaction act;
	struct {
		int fd;
		short events, revents;
	} p[2];
	struct vessel_msg m;
	int fd;

	(void)call4(__NR_rt_sigprocmask, SIG_SETMASK, &all, 0, SIGSET_SIZE);
	if (channel < 0)
		quit(127);
	if (channel > 0)
		(void)call3(__NR_close_range, 0, channel - 1, 0);
	(void)call3(__NR_close_range, channel + 1, ~0u, 0);
	v.sigfd = (int)call4(__NR_signalfd4, -1, &all, SIGSET_SIZE, 02000000 | 04000);
	if (v.sigfd < 0)
		quit(127);
	/* if it was ignored, children would end unseen */
	memset(&act, 0, sizeof(act));
	(void)call4(__NR_rt_sigaction, 17 /* SIGCHLD */, &act, 0, SIGSET_SIZE);
	if (!timers(channel))
		quit(127);
	/* what is pending is so before the body runs */
	pass_pending(&v);
	memset(&m, 0, sizeof(m));
	m.type = VESSEL_HELLO;
	if (!say(channel, &m))
		quit(127);
	v.chld = true;
	pass_signals(&v);
	p[0].fd = channel;
	p[1].fd = v.sigfd;
	for (;;) {
		p[0].events = p[1].events = 1 /* POLLIN */;
		p[0].revents = p[1].revents = 0;
		if (call4(__NR_ppoll, p, 2, 0, 0) < 0)
			continue;
		if (p[1].revents != 0)
			pass_signals(&v);
		if (p[0].revents != 0) {
			long r = hear(channel, &m, &fd);

			if (r == (long)sizeof(m))
				obey(&v, &m, fd);
			else if (r != -4 && r != -11)
				end_as(9, -1); /* krgd is gone, and with it the body's place */
		}
	}
}

__asm__(".globl _start\n_start:\n\txor %ebp, %ebp\n\tmov %rsp, %rdi\n\tand $-16, %rsp\n\tcall "
	"vessel_main\n");
