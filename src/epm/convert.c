/* convert.c - making a task that waits in a notified execve execute the vessel instead.
 *
 * The call was received with WAIT_KILLABLE, so the task cannot be stopped before it is answered:
 * interrupt it first, then answer -ERESTARTNOINTR, and it stops on its way out with the call's
 * registers whole (TECHNIQUES of seccomp and ptrace: README.md, "The deputy").  Then, all signals
 * blocked, a waitid() and a prctl() are made through it (look()), and its registers are set to
 *	execveat(vessel_fd, "", argv, env, AT_EMPTY_PATH)
 * where "" is the end of its own path string, argv its own (so that it looks as it did), and env a
 * place below its stack pointer, written when the call comes to the gate: then the channel's number is known.
 *
 * Other threads go on meanwhile, and are ended by that call, as by any execve; its caller becomes the first
 * thread.  Until then one of them may end it, by an exec of its own: so it is traced up to its end.
 */
#include "epm_impl.h"
#include <fcntl.h>
#include <linux/securebits.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>

#define ERESTARTNOINTR	513
#define SYSCALL_INSN	2   /* bytes of `syscall` */
#define ENV_BELOW_STACK 512 /* past the red zone (128), with room for the strings */
#define STOPS_MAX	64  /* of other kinds before we give up */

/* ---- who is on the way ---- */

static int converting_put(struct epm *e, const struct converting *v, bool purge)
{
	KRG_GUARD(leaf, &e->converting_lock);
	for (unsigned i = 0; i < CONVERTING_MAX; i++) {
		struct converting *at = &e->log->converting[i];

		/* one that was let go, and killed before it came to the gate again */
		if (purge && (at->state == CONVERTING_LOCAL || at->state == CONVERTING_UNDO) &&
		    kill(at->host_tid, 0) < 0)
			at->state = CONVERTING_NONE;
		if (at->state != CONVERTING_NONE && at->host_tid != v->host_tid)
			continue;
		at->state = CONVERTING_NONE; /* should we die now, it is all or nothing */
		atomic_signal_fence(memory_order_seq_cst);
		at->host_tid = v->host_tid;
		at->channel = v->channel;
		at->vessel = v->vessel;
		at->given = -EBADF;
		at->env_at = v->env_at;
		at->securebits = v->securebits;
		at->mask = v->mask;
		at->at_call = v->at_call;
		atomic_signal_fence(memory_order_seq_cst);
		at->state = v->state;
		return 0;
	}
	return -EAGAIN;
}

static int converting_add(struct epm *e, const struct converting *v)
{
	return converting_put(e, v, false) < 0 ? converting_put(e, v, true) : 0;
}

static struct converting *converting_find_locked(struct epm *e, pid_t tid)
{
	for (unsigned i = 0; i < CONVERTING_MAX; i++)
		if (e->log->converting[i].state != CONVERTING_NONE &&
		    e->log->converting[i].host_tid == tid)
			return &e->log->converting[i];
	return NULL;
}

/* At its second notification.  One that is sent off stays in the log, as gone; one that is called back, until it is. */
static bool converting_take(struct epm *e, pid_t tid, struct converting *ret)
{
	KRG_GUARD(leaf, &e->converting_lock);
	struct converting *at = converting_find_locked(e, tid);

	if (at == NULL || at->state == CONVERTING_GONE)
		return false;
	*ret = *at;
	if (at->state == CONVERTING_SENT)
		at->state = CONVERTING_GONE;
	else if (at->state == CONVERTING_LOCAL)
		at->state = CONVERTING_NONE;
	return true;
}

enum converting_state convert_state(struct epm *e, pid_t host_tid)
{
	KRG_GUARD(leaf, &e->converting_lock);
	const struct converting *at = converting_find_locked(e, host_tid);

	return at != NULL ? at->state : CONVERTING_NONE;
}

/* Its second call is still at the gate. */
static bool is_at_gate(struct epm *e, pid_t host_tid)
{
	for (int c = 0; c < NURSERY_NR; c++) {
		for (unsigned i = 0; i < EPM_GATE_THREADS; i++) {
			struct gate_slot *s = &e->log->slot[c][i];

			if (s->req.id != 0 && (pid_t)s->req.pid == host_tid &&
			    ioctl(e->listener[c], SECCOMP_IOCTL_NOTIF_ID_VALID, &s->req.id) == 0)
				return true;
		}
	}
	return false;
}

void convert_adopt(struct epm *e)
{
	KRG_GUARD(leaf, &e->converting_lock);
	for (unsigned i = 0; i < CONVERTING_MAX; i++) {
		struct converting *at = &e->log->converting[i];

		at->channel = -EBADF;
		if (at->state == CONVERTING_LOCAL)
			at->state = CONVERTING_NONE;
		else if (at->state == CONVERTING_SENT ||
			 (at->state == CONVERTING_GONE && is_at_gate(e, at->host_tid)))
			at->state = CONVERTING_UNDO;
	}
}

static void given(struct epm *e, pid_t host_tid, int fd)
{
	KRG_GUARD(leaf, &e->converting_lock);
	struct converting *at = converting_find_locked(e, host_tid);

	if (at != NULL)
		at->given = fd;
}

static int addfd(struct gate_call *c, int fd, u32 flags)
{
	struct seccomp_notif_addfd a = {.id = c->req.id, .srcfd = (u32)fd, .newfd_flags = flags};
	int r = ioctl(c->listener, SECCOMP_IOCTL_NOTIF_ADDFD, &a);

	return r < 0 ? -errno : r;
}

static void undo(struct gate_call *c, const struct converting *v);

void convert_forget(struct epm *e, pid_t host_tid)
{
	int channel = -EBADF;

	{
		KRG_GUARD(leaf, &e->converting_lock);
		struct converting *at = converting_find_locked(e, host_tid);

		if (at == NULL)
			return;
		if (at->state == CONVERTING_SENT)
			channel = at->channel;
		at->state = CONVERTING_NONE;
	}
	krg_closep(&channel);
}

bool convert_second(struct gate_call *c, u32 *ret_securebits)
{
	struct converting v;
	struct {
		u64 vector[2];
		char text[16];
	} env;
	int n;

	if (!converting_take(c->e, (pid_t)c->req.pid, &v))
		return false;
	gate_continue(c);
	if (v.state == CONVERTING_LOCAL) {
		*ret_securebits = v.securebits;
		return v.securebits == 0;
	}
	if (v.state == CONVERTING_UNDO) {
		undo(c, &v);
		return true;
	}
	(void)FAULT_POINT(EXEC_SECOND);
	if (c->req.data.nr != SYS_execveat || c->req.data.args[3] != v.env_at) {
		/* that one is gone, and another has its number */
		(void)close(v.channel);
		return false;
	}
	memset(&env, 0, sizeof(env));
	n = addfd(c, v.channel, 0);
	(void)close(v.channel);
	given(c->e, v.host_tid, n);
	if (n < 0) {
		gate_return(c, n);
		return true;
	}
	env.vector[0] = v.env_at + offsetof(__typeof__(env), text);
	(void)snprintf(env.text, sizeof(env.text), "KRGV=%d", n);
	if (memwrite((pid_t)c->req.pid, v.env_at, &env, sizeof(env)) < 0)
		gate_return(c, -ENOMEM);
	return true;
}

/* ---- ptrace ---- */

/* Wait for a stop of the task; what it is. */
static int stop_wait(pid_t tid, int *ret_status)
{
	pid_t r;

	do
		r = waitpid(tid, ret_status, __WALL);
	while (r < 0 && errno == EINTR);
	if (r != tid || !WIFSTOPPED(*ret_status))
		return -ESRCH;
	return 0;
}

static int stop_interrupted(pid_t tid)
{
	for (int i = 0; i < STOPS_MAX; i++) {
		int status, r = stop_wait(tid, &status);

		if (r < 0)
			return r;
		if (status >> 16 == PTRACE_EVENT_STOP)
			return 0;
		/* a signal on its way in: let it, our stop is still to come */
		if (ptrace(PTRACE_CONT, tid, 0, (long)WSTOPSIG(status)) < 0)
			return -errno;
	}
	return -EAGAIN;
}

/* A stop that is not the one waited for: go on, as it would without us.  A stop of its group lasts until it is
 * continued, if it waits; a signal that is not blocked (SIGSTOP) is not to be lost. */
static int pass_stop(pid_t tid, int status, bool waits)
{
	bool event = status >> 16 != 0;
	bool group = status >> 16 == PTRACE_EVENT_STOP && WSTOPSIG(status) != SIGTRAP;
	long sig = !event && WSTOPSIG(status) != SIGTRAP ? WSTOPSIG(status) : 0;

	return ptrace(group && waits ? PTRACE_LISTEN : PTRACE_SYSCALL, tid, 0, sig) < 0 ? -errno
											: 0;
}

/* Run to the next stop at a system call.  waits: for SIGCONT, if it is stopped. */
static int run_to_syscall(pid_t tid, bool waits)
{
	if (ptrace(PTRACE_SYSCALL, tid, 0, 0) < 0)
		return -errno;
	for (int i = 0; i < STOPS_MAX; i++) {
		int status, r = stop_wait(tid, &status);

		if (r < 0)
			return r;
		if (WSTOPSIG(status) == (SIGTRAP | 0x80))
			return 0;
		r = pass_stop(tid, status, waits);
		if (r < 0)
			return r;
	}
	return -EAGAIN;
}

int call_through(pid_t tid, const struct user_regs_struct *at_call, u64 nr, const u64 arg[4],
		 bool waits, i64 *ret)
{
	struct user_regs_struct regs = *at_call;
	int r;

	regs.rip -= SYSCALL_INSN;
	regs.orig_rax = ~0ull;
	regs.rax = nr;
	regs.rdi = arg[0];
	regs.rsi = arg[1];
	regs.rdx = arg[2];
	regs.r10 = arg[3];
	regs.r8 = 0;
	if (ptrace(PTRACE_SETREGS, tid, 0, &regs) < 0)
		return -errno;
	r = run_to_syscall(tid, waits);
	if (r == 0)
		r = run_to_syscall(tid, waits);
	if (r < 0)
		return r;
	if (ptrace(PTRACE_GETREGS, tid, 0, &regs) < 0)
		return -errno;
	*ret = (i64)regs.rax;
	return 0;
}

/* What only the task itself can tell: whether it waits for others than its children (it traces them; or
 * they cannot be listed), and its securebits (capabilities(7): they decide what an exec gives it, so its body
 * is made anew if it was made without). */
static int look(struct epm *e, pid_t tid, struct task *deputy,
		const struct user_regs_struct *at_call, u32 *ret_securebits, const char **ret_why)
{
	static const u64 wait[4] = {P_ALL, 0, 0, WNOHANG | WNOWAIT | WEXITED | __WALL};
	static const u64 get[4] = {PR_GET_SECUREBITS};
	i64 children, bits;
	int r = call_through(tid, at_call, SYS_waitid, wait, true, &children);

	if (r == 0)
		r = call_through(tid, at_call, SYS_prctl, get, true, &bits);
	if (r < 0)
		return r;
	bits &= ~(i64)SECBIT_KEEP_CAPS; /* an exec clears it */
	*ret_why = deputy->nchildren == 0 && children != -ECHILD      ? "it waits for others here"
		   : deputy->nchildren > 0 && !kin_is_same(e, deputy) ? "its children change"
		   : bits != deputy->securebits			      ? "it has securebits"
								      : NULL;
	if (*ret_why == NULL)
		return 0;
	/* once: it is the same call that comes to the gate again */
	if (bits != 0 && deputy->securebits == 0)
		*ret_securebits = (u32)bits;
	return -EOPNOTSUPP;
}

/* The exec goes on as it was.  securebits: its place is to be looked for again, with these. */
void convert_let_go(struct epm *e, pid_t tid, const struct user_regs_struct *at_call, u64 mask,
		    int vessel, u32 securebits)
{
	struct converting v = {.state = CONVERTING_LOCAL,
			       .host_tid = tid,
			       .channel = -EBADF,
			       .securebits = securebits};
	const u64 close_arg[4] = {(u64)vessel};
	struct user_regs_struct regs = *at_call;
	i64 closed;

	/* should its exec fail, it has what it had */
	if (vessel >= 0)
		(void)call_through(tid, at_call, SYS_close, close_arg, true, &closed);
	regs.rip -= SYSCALL_INSN;
	regs.rax = regs.orig_rax;
	regs.orig_rax = ~0ull;
	(void)converting_add(e, &v);
	(void)ptrace(PTRACE_SETREGS, tid, 0, &regs);
	(void)ptrace(PTRACE_SETSIGMASK, tid, sizeof(mask), &mask);
	ghost_detach(tid);
}

static int send_off(struct epm *e, pid_t tid, const struct user_regs_struct *at_call, u64 mask,
		    int vessel, u64 empty, int channel)
{
	bool at_execveat = at_call->orig_rax == SYS_execveat;
	struct user_regs_struct regs = *at_call;
	struct converting v = {.state = CONVERTING_SENT,
			       .host_tid = tid,
			       .channel = channel,
			       .vessel = vessel,
			       .mask = mask,
			       .at_call = *at_call,
			       .env_at = (at_call->rsp - ENV_BELOW_STACK) & ~15ull};

	regs.rip -= SYSCALL_INSN;
	regs.orig_rax = ~0ull;
	regs.rax = SYS_execveat;
	regs.rdx = at_execveat ? at_call->rdx : at_call->rsi;
	regs.rdi = (u64)vessel;
	regs.rsi = empty;
	regs.r10 = v.env_at;
	regs.r8 = AT_EMPTY_PATH;
	regs.r9 = 0;
	if (ptrace(PTRACE_SETREGS, tid, 0, &regs) < 0)
		return -errno;
	return converting_add(e, &v);
}

static int path_end(pid_t tid, u64 path, u64 *ret)
{
	KRG_AUTO_BUF struct krg_buf b = {0};
	MEMREAD_AUTO struct memread m;
	int r;

	memread_init(&m, tid);
	r = memread_str(&m, path, &b, 4096);
	if (r == 0)
		*ret = path + b.len - 1;
	return r;
}

/* With other threads about.  -ESRCH: one of them has ended it.  Other errors: its call has failed. */
static int see_off(pid_t tid)
{
	long options = PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACEEXEC;
	int r = run_to_syscall(tid, true);

	if (r == 0 && (ptrace(PTRACE_SETOPTIONS, tid, 0, options) < 0 ||
		       ptrace(PTRACE_SYSCALL, tid, 0, 0) < 0))
		r = -errno;
	while (r == 0) {
		int status;
		/* its number changes when it becomes the first; this thread traces nobody else */
		pid_t got = waitpid(-1, &status, __WALL | __WNOTHREAD);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0 || !WIFSTOPPED(status))
			return -ESRCH;
		if (status >> 16 == PTRACE_EVENT_EXEC) {
			ghost_detach(got);
			return 0;
		}
		if (WSTOPSIG(status) == (SIGTRAP | 0x80))
			return -ENOEXEC;
		r = pass_stop(got, status, true);
	}
	return r;
}

/* The task is stopped: look, and send it off.  It is detached when this returns. */
static int convert_stopped(struct epm *e, pid_t tid, struct task *deputy, int vessel, int *channel,
			   struct krg_err *err)
{
	u32 securebits = 0;
	u64 mask = 0, all = ~0ull, empty;
	struct user_regs_struct regs;
	const char *why = NULL;
	int r;

	if (ptrace(PTRACE_GETREGS, tid, 0, &regs) < 0 ||
	    ptrace(PTRACE_GETSIGMASK, tid, sizeof(mask), &mask) < 0) {
		r = -errno;
		ghost_detach(tid);
		return krg_err_set(err, r, "read its registers");
	}
	if ((i64)regs.rax != -ERESTARTNOINTR) {
		ghost_detach(tid);
		return krg_err_set(err, -EPROTO, "it is not in its execve");
	}
	r = path_end(tid, regs.orig_rax == SYS_execveat ? regs.rsi : regs.rdi, &empty);
	/* from here on it is changed: should we die, nobody could tell what it was, and it ends */
	if (r == 0 && ptrace(PTRACE_SETOPTIONS, tid, 0,
			     (long)(PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL)) < 0)
		r = -errno;
	if (r == 0 && ptrace(PTRACE_SETSIGMASK, tid, sizeof(all), &all) < 0)
		r = -errno;
	(void)FAULT_POINT(EXEC_STOPPED);
	if (r == 0)
		r = look(e, tid, deputy, &regs, &securebits, &why);
	if (r == 0 && FAULT_POINT(EXEC_STOP))
		r = -EIO;
	if (r == 0)
		r = send_off(e, tid, &regs, mask, vessel, empty, *channel);
	if (r == 0) {
		*channel = -EBADF;
		if (deputy->threaded)
			r = see_off(tid);
		else
			ghost_detach(tid);
		(void)FAULT_POINT(EXEC_SENT_OFF);
		if (r < 0)
			convert_forget(e, tid);
	}
	if (r == -ESRCH)
		ghost_detach(tid);
	else if (r < 0)
		convert_let_go(e, tid, &regs, mask, vessel, securebits);
	deputy->again = r < 0 && securebits != 0;
	if (r < 0)
		return krg_err_set(err, r, "%s", why != NULL ? why : "make it the deputy");
	return 0;
}

/* ---- a body's interval timers ---- */

static int timers_set(pid_t tid, const struct user_regs_struct *at, const struct task_timer *timer)
{
	int r = 0;

	for (u64 which = 0; which < EPM_TIMERS && r == 0; which++) {
		const struct task_timer *t = &timer[which];
		const u64 left = t->left_us > 0 ? t->left_us : t->interval_us;
		const u64 value[4] = {t->interval_us / 1000000, t->interval_us % 1000000,
				      left / 1000000, left % 1000000};
		const u64 to = (at->rsp - ENV_BELOW_STACK) & ~15ull;
		const u64 arg[4] = {which, to, 0, 0};
		i64 result = 0;

		if (left == 0)
			continue;
		r = memwrite(tid, to, value, sizeof(value));
		if (r == 0)
			r = call_through(tid, at, SYS_setitimer, arg, false, &result);
		if (r == 0)
			r = (int)result;
	}
	return r;
}

void timers_encode(const struct task_timer timer[EPM_TIMERS], struct krg_buf *ret)
{
	for (u8 i = 0; i < EPM_TIMERS; i++) {
		struct rec_epm_timer rec = {i, timer[i].left_us, timer[i].interval_us};

		if ((rec.left_us | rec.interval_us) != 0)
			rec_epm_timer_encode(&rec, ret);
	}
}

void timers_decode(struct task *t, struct krg_slice timers)
{
	struct krg_rd rd = krg_rd_slice(timers);
	struct rec_epm_timer rec;

	memset(t->timer, 0, sizeof(t->timer));
	/* what is no time is no timer (setitimer(2)) */
	while (krg_rd_left(&rd) > 0 && rec_epm_timer_decode(&rd, &rec) == 0)
		if (rec.which < EPM_TIMERS && rec.left_us <= INT64_MAX &&
		    rec.interval_us <= INT64_MAX)
			t->timer[rec.which] = (struct task_timer){rec.left_us, rec.interval_us};
}

/* Its first instruction is a system call for that while. */
int timers_give(pid_t tid, const struct task_timer timer[EPM_TIMERS])
{
	struct user_regs_struct regs, at;
	u64 mask, all = ~0ull;
	long first;
	int r;

	if (ptrace(PTRACE_SETOPTIONS, tid, 0, (long)(PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL)) <
		    0 ||
	    ptrace(PTRACE_GETSIGMASK, tid, sizeof(mask), &mask) < 0 ||
	    ptrace(PTRACE_SETSIGMASK, tid, sizeof(all), &all) < 0)
		return -errno;
	r = run_to_syscall(tid, false); /* the end of its execve */
	if (r < 0)
		return r;
	if (ptrace(PTRACE_GETREGS, tid, 0, &regs) < 0)
		return -errno;
	errno = 0;
	first = ptrace(PTRACE_PEEKTEXT, tid, regs.rip, 0);
	if (errno != 0 ||
	    ptrace(PTRACE_POKETEXT, tid, regs.rip, (first & ~0xffffl) | 0x050f /* syscall */) < 0)
		return -errno;
	at = regs;
	at.rip += SYSCALL_INSN;
	at.cs = 0x33; /* of a 32-bit program too */
	r = timers_set(tid, &at, timer);
	if (ptrace(PTRACE_POKETEXT, tid, regs.rip, first) < 0 ||
	    ptrace(PTRACE_SETREGS, tid, 0, &regs) < 0 ||
	    ptrace(PTRACE_SETSIGMASK, tid, sizeof(mask), &mask) < 0)
		return -ESRCH;
	return r;
}

/* ---- the conversion ---- */

static int stop_and_answer(int listener, u64 id, pid_t tid, bool *ret_answered, struct krg_err *err)
{
	struct seccomp_notif_resp resp = {.id = id, .error = -ERESTARTNOINTR};
	int r;

	if (ptrace(PTRACE_SEIZE, tid, 0, (long)PTRACE_O_TRACESYSGOOD) < 0)
		return krg_err_set(err, -errno, "trace it");
	if (ptrace(PTRACE_INTERRUPT, tid, 0, 0) < 0) {
		r = -errno; /* it is gone */
		ghost_detach(tid);
		return krg_err_set(err, r, "interrupt it");
	}
	*ret_answered = true;
	if (ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &resp) < 0) {
		r = -errno; /* it was killed */
		ghost_detach(tid);
		return krg_err_set(err, r, "answer its call");
	}
	r = stop_interrupted(tid);
	if (r < 0)
		ghost_detach(tid);
	return r < 0 ? krg_err_set(err, r, "stop it") : 0;
}

int task_stop(struct gate_call *c, pid_t tid, struct krg_err *err)
{
	return stop_and_answer(c->listener, c->req.id, tid, &c->answered, err);
}

void convert_again(int listener, const struct seccomp_notif *req)
{
	struct seccomp_notif_resp resp = {.id = req->id, .error = -EIO};
	pid_t tid = (pid_t)req->pid;
	bool answered = false;
	struct krg_err err;

	/* answered already, though its slot was not cleared: then it may be in another call, and not stop */
	if (ioctl(listener, SECCOMP_IOCTL_NOTIF_ID_VALID, &req->id) < 0)
		return;
	if (stop_and_answer(listener, req->id, tid, &answered, &err) == 0)
		ghost_detach(tid);
	if (answered)
		return;
	/* it is traced by another: what may go on does */
	if (req->data.nr == SYS_execve || req->data.nr == SYS_execveat) {
		resp.error = 0;
		resp.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
	}
	(void)ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &resp);
}

/* It was sent off by a krgd that died, and its body has ended: its exec is made here. */
static void undo(struct gate_call *c, const struct converting *v)
{
	pid_t tid = (pid_t)c->req.pid;
	struct krg_err err;

	if (c->req.data.nr != SYS_execveat || c->req.data.args[3] != v->env_at) {
		convert_forget(c->e, tid); /* that one is gone, and another has its number */
		return;
	}
	if (stop_and_answer(c->listener, c->req.id, tid, &c->answered, &err) == 0) {
		const u64 close_arg[4] = {(u64)v->given};
		i64 closed;

		(void)ptrace(PTRACE_SETOPTIONS, tid, 0,
			     (long)(PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL));
		if (v->given >= 0)
			(void)call_through(tid, &v->at_call, SYS_close, close_arg, false, &closed);
		convert_let_go(c->e, tid, &v->at_call, v->mask, v->vessel, 0);
	} else if (!c->answered) {
		LOG_W("epm", "task %u cannot have its exec back, and ends: %s", c->req.pid,
		      err.text);
		(void)kill(tid, SIGKILL);
	}
}

int convert(struct gate_call *c, struct task *deputy, struct krg_err *err)
{
	pid_t tid = (pid_t)c->req.pid;
	int pair[2], vessel, r;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return krg_err_set(err, -errno, "socketpair for a deputy");
	vessel = addfd(c, c->e->vessel_fd, O_CLOEXEC);
	if (vessel < 0) {
		(void)close(pair[0]);
		(void)close(pair[1]);
		return krg_err_set(err, vessel, "give it the vessel");
	}
	task_lock(&deputy->lock);
	deputy->channel = pair[0];
	deputy->host_tid = tid;
	deputy->pidfd = (int)syscall(SYS_pidfd_open, deputy->host_pid, 0);
	keep_deputy_locked(c->e, deputy);
	task_unlock(&deputy->lock);
	r = stop_and_answer(c->listener, c->req.id, tid, &c->answered, err);
	if (r == 0)
		r = convert_stopped(c->e, tid, deputy, vessel, &pair[1], err);
	if (pair[1] >= 0 && r < 0)
		(void)close(pair[1]);
	if (r == 0)
		r = deputy_watch(c->e, deputy);
	return r < 0 ? krg_err_prefix(err, r, "pid %d", deputy->pid) : 0;
}
