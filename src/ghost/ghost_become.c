/* ghost_become.c - the process that was saved executes another program in place of itself.
 *
 * What it keeps is its place: pid, parent, children, group, session.  A socket pair is made in it, one end taken from it
 * (pidfd_getfd(2)), and the program's descriptor handed over through that.  Up to its execveat(2)
 * everything can be undone; the pending signals and timers that its ghost has are taken away just before, so
 * that they are not in two places.
 */
#include "ghost_image.h"
#include <fcntl.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>

#define ARGS_MAX (256u << 10)

static int fail(const struct ghost *g, const struct ghost_call *c, int r, struct krg_err *err)
{
	return c == NULL ? krg_err_set(err, r, "pid %d: calls made through it", g->shown)
			 : krg_err_set(err, r, "pid %d: call %u made through it", g->shown,
				       (unsigned)c->nr);
}

/* A socket pair in it: ret_own is its end there, ret_ours the other one, here. */
static int channel_make(struct ghost *g, int *ret_own, int *ret_ours, struct krg_err *err)
{
	GHOST_AUTO_LIST struct ghost_list l = {0};
	KRG_AUTO_FD int pidfd = (int)syscall(SYS_pidfd_open, g->pid, 0);
	const struct ghost_call *failed;
	void *at;
	int pair[2], r;

	if (pidfd < 0)
		return krg_err_set(err, -errno, "pid %d", g->shown);
	ghost_list_init(&l, g);
	ghost_list_add(&l, SYS_socketpair, AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0,
		       ghost_list_data(&l, NULL, sizeof(pair), &at), 0, 0);
	r = ghost_list_run(g, &g->thread[0], &l, &failed);
	if (r < 0)
		return fail(g, failed, r, err);
	memcpy(pair, at, sizeof(pair));
	*ret_own = pair[1];
	*ret_ours = (int)syscall(SYS_pidfd_getfd, pidfd, pair[0], 0);
	ghost_list_fini(&l);
	ghost_list_init(&l, g);
	ghost_list_add(&l, SYS_close, (u64)pair[0], 0, 0, 0, 0, 0);
	if (*ret_ours < 0)
		ghost_list_add(&l, SYS_close, (u64)pair[1], 0, 0, 0, 0, 0);
	r = *ret_ours < 0 ? -errno : 0;
	(void)ghost_list_run(g, &g->thread[0], &l, &failed);
	return r < 0 ? krg_err_set(err, r, "pid %d: take a descriptor from it", g->shown) : 0;
}

/* The program's descriptor, as it has it. */
static int hand_over(struct ghost *g, int own, int ours, int program, int *ret, struct krg_err *err)
{
	GHOST_AUTO_LIST struct ghost_list l = {0};
	union {
		struct cmsghdr head;
		char room[CMSG_SPACE(sizeof(int))];
	} control = {0};
	struct iovec io = {(void *)(uintptr_t) "", 1};
	struct msghdr m = {.msg_iov = &io,
			   .msg_iovlen = 1,
			   .msg_control = &control,
			   .msg_controllen = sizeof(control)};
	const struct ghost_call *failed;
	void *got;
	u64 at;
	int r;

	control.head = (struct cmsghdr){.cmsg_level = SOL_SOCKET,
					.cmsg_type = SCM_RIGHTS,
					.cmsg_len = CMSG_LEN(sizeof(int))};
	memcpy(CMSG_DATA(&control.head), &program, sizeof(program));
	if (sendmsg(ours, &m, MSG_NOSIGNAL) != 1)
		return krg_err_set(err, -errno, "pid %d: send it a descriptor", g->shown);
	ghost_list_init(&l, g);
	io.iov_base = (void *)(uintptr_t)ghost_list_data(&l, NULL, 1, NULL);
	at = ghost_list_data(&l, &io, sizeof(io), NULL);
	m.msg_iov = (struct iovec *)(uintptr_t)at;
	m.msg_control = (void *)(uintptr_t)ghost_list_data(&l, NULL, sizeof(control), &got);
	ghost_list_add(&l, SYS_recvmsg, (u64)own, ghost_list_data(&l, &m, sizeof(m), NULL),
		       MSG_CMSG_CLOEXEC | MSG_DONTWAIT, 0, 0, 0);
	r = ghost_list_run(g, &g->thread[0], &l, &failed);
	if (r < 0)
		return fail(g, failed, r, err);
	memcpy(&control, got, sizeof(control));
	if (control.head.cmsg_type != SCM_RIGHTS || control.head.cmsg_len != CMSG_LEN(sizeof(int)))
		return krg_err_set(err, -EMFILE, "pid %d has no room for a descriptor", g->shown);
	memcpy(ret, CMSG_DATA(&control.head), sizeof(*ret));
	return 0;
}

/* Its own arguments, so that it looks as it did, and one string of environment. */
static int vectors(struct ghost *g, struct ghost_list *l, const char *env, u64 *ret_argv,
		   u64 *ret_env, struct krg_err *err)
{
	KRG_AUTO_FREE char *text = krg_xalloc(ARGS_MAX);
	KRG_AUTO_FREE u64 *v = NULL;
	char path[64];
	u64 at, env_vector[2] = {0};
	size_t n = 0, count = 0;
	KRG_AUTO_FD int fd = -EBADF;
	ssize_t got;

	(void)snprintf(path, sizeof(path), "/proc/%d/cmdline", g->pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	while (fd >= 0 && n < ARGS_MAX - 1 && (got = read(fd, text + n, ARGS_MAX - 1 - n)) > 0)
		n += (size_t)got;
	if (fd < 0)
		return krg_err_set(err, -errno, "read %s", path);
	text[n] = '\0'; /* what is longer is cut */
	for (size_t i = 0; i < n; i += strlen(text + i) + 1)
		count++;
	/* a text of many empty arguments has more pointers than text: all of it in the scratch's room */
	if (count > ARGS_MAX / 8)
		count = ARGS_MAX / 8;
	at = ghost_list_data(l, text, n + 1, NULL);
	v = krg_xalloc((count + 2) * sizeof(*v));
	for (size_t i = 0, k = 0; k < count; i += strlen(text + i) + 1)
		v[k++] = at + i;
	if (count == 0)
		v[0] = at;
	*ret_argv = ghost_list_data(l, v, (count + 2) * sizeof(*v), NULL);
	env_vector[0] = ghost_list_data(l, env, strlen(env) + 1, NULL);
	*ret_env = ghost_list_data(l, env_vector, sizeof(env_vector), NULL);
	return 0;
}

/* One signal of that number less, for each that the ghost has of the process or its first thread: others
 * of the same number that came since stay, as they stand behind them. */
static void drain(const struct ghost_image *im, struct ghost_list *l)
{
	struct timespec none = {0};
	struct itimerval off = {0};
	u64 zero = ghost_list_data(l, &none, sizeof(none), NULL);
	u64 disarm = ghost_list_data(l, &off, sizeof(off), NULL);

	for (unsigned i = 0; i < 3; i++)
		ghost_list_add(l, SYS_setitimer, i, disarm, 0, 0, 0, 0);
	for (unsigned i = 0; i < im->nsignals; i++) {
		siginfo_t info;
		u64 set;

		if (im->signal[i].tid != 0 && im->signal[i].tid != im->head.pid)
			continue;
		memcpy(&info, im->signal[i].info.data, sizeof(info));
		set = 1ull << (info.si_signo - 1);
		ghost_list_add(l, SYS_rt_sigtimedwait | GHOST_MAY_FAIL,
			       ghost_list_data(l, &set, sizeof(set), NULL), 0, zero, 8, 0, 0);
	}
}

/* Run to its exec.  The other threads end: their tracer sees it first. */
static int exec_wait(struct ghost *g)
{
	pid_t leader = g->thread[0].tid;
	bool entered = false;
	int status, r;

	for (;;) {
		if (ptrace(PTRACE_SYSCALL, leader, 0, 0) < 0)
			return -ESRCH;
		for (;;) {
			pid_t got = waitpid(-1, &status, __WALL | __WNOTHREAD);

			if (got < 0 && errno == EINTR)
				continue;
			if (got < 0)
				return -ESRCH;
			if (got == leader)
				break;
			/* another thread: it has ended, or stops on its way to its end */
			if (WIFSTOPPED(status))
				(void)ptrace(PTRACE_CONT, got, 0, 0);
		}
		if (!WIFSTOPPED(status))
			return -ESRCH;
		if (status >> 16 == PTRACE_EVENT_EXEC)
			return 0;
		if (status >> 16 == 0 && WSTOPSIG(status) == (SIGTRAP | 0x80)) {
			struct user_regs_struct regs;

			if (!entered) {
				entered = true;
				continue;
			}
			r = ptrace(PTRACE_GETREGS, leader, 0, &regs) < 0 ? -ESRCH
									 : (int)(i64)regs.rax;
			return r < 0 ? r : -EPROTO;
		}
		if (status >> 16 == 0 && WSTOPSIG(status) == SIGSTOP)
			g->stop_seen = true;
	}
}

static int become(struct ghost *g, const struct ghost_image *im, int own, int program,
		  const char *name, bool *ret_drained, struct krg_err *err)
{
	GHOST_AUTO_LIST struct ghost_list l = {0};
	struct ghost_thread *t = &g->thread[0];
	struct user_regs_struct regs = t->regs;
	const struct ghost_call *failed;
	u64 empty, argv = 0, envp = 0;
	char env[64];
	int r;

	ghost_list_init(&l, g);
	(void)snprintf(env, sizeof(env), "%s=%d", name, own);
	r = vectors(g, &l, env, &argv, &envp, err);
	if (r < 0)
		return r;
	empty = ghost_list_data(&l, "", 1, NULL);
	ghost_list_add(&l, SYS_fcntl, (u64)own, F_SETFD, 0, 0, 0, 0);
	r = ghost_list_run(g, t, &l, &failed);
	if (r < 0)
		return fail(g, failed, r, err);
	/* the point of no return begins here: what follows is the process's, and its ghost has it */
	l.n = 0;
	drain(im, &l);
	*ret_drained = true;
	r = ghost_list_run(g, t, &l, &failed);
	if (r < 0)
		return fail(g, failed, r, err);
	regs.rip = g->insn;
	regs.orig_rax = ~0ull;
	regs.rax = SYS_execveat;
	regs.rdi = (u64)program;
	regs.rsi = empty;
	regs.rdx = argv;
	regs.r10 = envp;
	regs.r8 = AT_EMPTY_PATH;
	if (ptrace(PTRACE_SETREGS, t->tid, 0, &regs) < 0 ||
	    ptrace(PTRACE_SETOPTIONS, t->tid, 0,
		   (long)(PTRACE_O_TRACESYSGOOD | PTRACE_O_SUSPEND_SECCOMP | PTRACE_O_EXITKILL |
			  PTRACE_O_TRACEEXEC)) < 0)
		return krg_err_set(err, -ESRCH, "pid %d has ended", g->shown);
	r = exec_wait(g);
	return r < 0 ? krg_err_set(err, r, "pid %d: execute what keeps its place", g->shown) : 0;
}

int ghost_become(struct ghost *g, const struct ghost_image *saved, int program,
		 const char *env_name, int *ret_channel, struct ghost **ret_keeper,
		 struct krg_err *err)
{
	KRG_AUTO_FD int ours = -EBADF;
	struct ghost *keeper = NULL;
	int own = -EBADF, at = -EBADF, r;
	bool drained = false;

	if (saved->nsignals > GHOST_LIST_CALLS / 2)
		return krg_err_set(err, -EOPNOTSUPP, "pid %d has %u pending signals", g->shown,
				   saved->nsignals);
	r = ghost_scratch_begin(g, 0, err);
	if (r == 0)
		r = channel_make(g, &own, &ours, err);
	if (r == 0)
		r = hand_over(g, own, ours, program, &at, err);
	if (r == 0 && ret_keeper != NULL)
		r = ghost_hold(g, &keeper, err);
	if (r == 0 && keeper != NULL)
		r = ghost_exit_writes(g, saved, true, err);
	if (r == 0)
		r = become(g, saved, own, at, env_name, &drained, err);
	if (r < 0 && r != -ESRCH && g->scratch.at != 0) {
		GHOST_AUTO_LIST struct ghost_list l = {0};
		const struct ghost_call *failed;

		ghost_list_init(&l, g);
		if (keeper != NULL) {
			(void)ghost_exit_writes(g, saved, false, NULL);
			ghost_unhold(g, TAKE_PTR(keeper));
		}
		if (drained)
			ghost_signals_put(saved, &l);
		if (own >= 0)
			ghost_list_add(&l, SYS_close | GHOST_MAY_FAIL, (u64)own, 0, 0, 0, 0, 0);
		if (at >= 0)
			ghost_list_add(&l, SYS_close | GHOST_MAY_FAIL, (u64)at, 0, 0, 0, 0, 0);
		(void)ghost_list_run(g, &g->thread[0], &l, &failed);
	}
	if (r < 0 && r != -ESRCH)
		(void)ghost_scratch_end(g);
	if (r < 0) {
		ghost_kill(keeper);
		return r;
	}
	if (g->stop_seen)
		(void)kill(g->pid, SIGSTOP);
	ghost_detach(g->thread[0].tid);
	ghost_forget(g);
	*ret_channel = TAKE_FD(ours);
	if (ret_keeper != NULL)
		*ret_keeper = keeper;
	return 0;
}
