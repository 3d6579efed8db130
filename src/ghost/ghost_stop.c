/* ghost_stop.c - all threads of a process stand still, and go on.
 *
 * A thread may make another one as we look: the list of threads is read again until it has nobody new.
 * PTRACE_O_SUSPEND_SECCOMP: calls that we make through it are not for the gate.
 */
#include "clock.h"
#include "ghost_impl.h"
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <time.h>

/* Calls are made through it: should we die in one, nobody could put it back, and it ends. */
#define SEIZE_MS 20
#define OPTIONS	 (PTRACE_O_TRACESYSGOOD | PTRACE_O_SUSPEND_SECCOMP | PTRACE_O_EXITKILL)

struct ghost *ghost_new(pid_t pid, pid_t shown)
{
	struct ghost *g = krg_xalloc(sizeof(*g));

	g->pid = pid;
	g->shown = shown;
	g->mem = -EBADF;
	return g;
}

void ghost_forget(struct ghost *g)
{
	if (g == NULL)
		return;
	krg_closep(&g->mem);
	free(g->thread);
	free(g);
}

struct ghost_thread *ghost_thread_add(struct ghost *g, pid_t tid)
{
	g->thread = krg_xrealloc(g->thread, (g->nthreads + 1) * sizeof(*g->thread));
	g->thread[g->nthreads] = (struct ghost_thread){.tid = tid};
	return &g->thread[g->nthreads++];
}

unsigned ghost_threads(const struct ghost *g, pid_t **ret)
{
	*ret = krg_xalloc((g->nthreads + 1) * sizeof(**ret));
	for (unsigned i = 0; i < g->nthreads; i++)
		(*ret)[i] = g->thread[i].tid;
	return g->nthreads;
}

static bool known(const struct ghost *g, pid_t tid)
{
	for (unsigned i = 0; i < g->nthreads; i++)
		if (g->thread[i].tid == tid)
			return true;
	return false;
}

int ghost_seize(pid_t tid)
{
	if (ptrace(PTRACE_SEIZE, tid, 0, (long)OPTIONS) < 0)
		return -errno;
	return ptrace(PTRACE_INTERRUPT, tid, 0, 0) < 0 ? -errno : 0;
}

int ghost_thread_stopped(struct ghost_thread *t)
{
	t->stopped = true;
	if (ptrace(PTRACE_GETREGS, t->tid, 0, &t->regs) < 0 ||
	    ptrace(PTRACE_GETSIGMASK, t->tid, sizeof(t->mask), &t->mask) < 0)
		return -ESRCH;
	return 0;
}

static bool traced_by_this(pid_t tid)
{
	char path[64], text[4096];
	const char *at;

	(void)snprintf(path, sizeof(path), "/proc/%d/status", tid);
	at = krg_read_file(path, text, sizeof(text)) < 0 ? NULL : strstr(text, "\nTracerPid:");
	return at != NULL && strtol(at + strlen("\nTracerPid:"), NULL, 10) == getpid();
}

/* Another thread of this process may trace it for a moment (a call is made again after a signal). */
static int seize_patiently(pid_t tid)
{
	struct timespec pause = {.tv_nsec = 100000};
	u64 deadline = krg_clock_now_ns() + SEIZE_MS * KRG_MSEC;
	int r = ghost_seize(tid);

	while (r == -EPERM && traced_by_this(tid) && krg_clock_now_ns() < deadline) {
		(void)nanosleep(&pause, NULL);
		r = ghost_seize(tid);
	}
	return r;
}

/* Seize whoever is not known yet; how many. */
static int seize_new(struct ghost *g, struct krg_err *err)
{
	char path[64];
	struct dirent *d;
	int found = 0, r = 0;
	DIR *dir;

	(void)snprintf(path, sizeof(path), "/proc/%d/task", g->pid);
	dir = opendir(path);
	if (dir == NULL)
		return krg_err_set(err, -ESRCH, "pid %d: no such process", g->shown);
	while (r >= 0 && (d = readdir(dir)) != NULL) {
		pid_t tid = (pid_t)strtol(d->d_name, NULL, 10);

		if (tid <= 0 || known(g, tid))
			continue;
		if (g->nthreads == GHOST_THREADS_MAX) {
			r = krg_err_set(err, -EOPNOTSUPP, "pid %d has more than %u threads",
					g->shown, GHOST_THREADS_MAX);
			break;
		}
		r = seize_patiently(tid);
		if (r == -ESRCH) { /* it has just ended */
			r = 0;
			continue;
		}
		if (r < 0) {
			(void)krg_err_set(err, r == -EPERM ? -EBUSY : r,
					  "pid %d is traced by another (thread %d)", g->shown, tid);
			break;
		}
		ghost_thread_add(g, tid);
		found++;
	}
	(void)closedir(dir);
	return r < 0 ? r : found;
}

/* Where it is, for who wonders why. */
static int does_not_stop(const struct ghost *g, pid_t tid, struct krg_err *err)
{
	char path[64], where[64], call[128], text[512];
	const char *state;

	(void)snprintf(path, sizeof(path), "/proc/%d/task/%d/wchan", g->pid, tid);
	if (krg_read_file(path, where, sizeof(where)) < 0)
		where[0] = '\0';
	(void)snprintf(path, sizeof(path), "/proc/%d/task/%d/syscall", g->pid, tid);
	if (krg_read_file(path, call, sizeof(call)) < 0)
		call[0] = '\0';
	call[strcspn(call, " \n")] = '\0';
	(void)snprintf(path, sizeof(path), "/proc/%d/task/%d/stat", g->pid, tid);
	state = krg_read_file(path, text, sizeof(text)) < 0 ? NULL : strrchr(text, ')');
	return krg_err_set(err, -EBUSY,
			   "pid %d: a thread does not stop (state %c, in %s, system call %s)",
			   g->shown, state != NULL ? state[2] : '?', where, call);
}

/* Its end, or its stop by our PTRACE_INTERRUPT.  waitpid(2) has no timeout: ask, with growing pauses. */
static int await(struct ghost *g, struct ghost_thread *t, u64 deadline, struct krg_err *err)
{
	struct timespec pause = {.tv_nsec = 20000};

	for (;;) {
		int status;
		pid_t r = waitpid(t->tid, &status, __WALL | WNOHANG);

		if (r == 0) {
			if (krg_clock_now_ns() >= deadline)
				return does_not_stop(g, t->tid, err);
			(void)nanosleep(&pause, NULL);
			pause.tv_nsec = KRG_MIN(pause.tv_nsec * 2, 1000000L);
			continue;
		}
		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0 || !WIFSTOPPED(status)) {
			t->tid = 0; /* it has ended */
			return 0;
		}
		if (status >> 16 == PTRACE_EVENT_STOP && WSTOPSIG(status) == SIGTRAP)
			return ghost_thread_stopped(t) == 0
				       ? 0
				       : krg_err_set(err, -ESRCH, "thread %d is gone", t->tid);
		if (status >> 16 == PTRACE_EVENT_STOP) {
			t->stopped = true;
			return krg_err_set(err, -EAGAIN, "pid %d is stopped", g->shown);
		}
		/* a signal on its way in: it gets it, and our stop is still to come */
		if (ptrace(PTRACE_CONT, t->tid, 0, (long)WSTOPSIG(status)) < 0)
			return krg_err_set(err, -ESRCH, "thread %d is gone", t->tid);
	}
}

static void drop_ended(struct ghost *g)
{
	unsigned keep = 0;

	for (unsigned i = 0; i < g->nthreads; i++)
		if (g->thread[i].tid != 0)
			g->thread[keep++] = g->thread[i];
	g->nthreads = keep;
}

static int open_mem(struct ghost *g, struct krg_err *err)
{
	char path[64];

	(void)snprintf(path, sizeof(path), "/proc/%d/mem", g->pid);
	g->mem = open(path, O_RDWR | O_CLOEXEC);
	return g->mem < 0 ? krg_err_set(err, -errno, "open %s", path) : 0;
}

int ghost_stop(pid_t pid, pid_t shown, unsigned timeout_ms, struct ghost **ret, struct krg_err *err)
{
	struct ghost *g = ghost_new(pid, shown);
	u64 deadline = krg_clock_now_ns() + timeout_ms * KRG_MSEC;
	int r, found;

	do {
		unsigned from = g->nthreads;

		found = r = seize_new(g, err);
		for (unsigned i = from; r >= 0 && i < g->nthreads; i++)
			r = await(g, &g->thread[i], deadline, err);
		drop_ended(g);
	} while (r >= 0 && found > 0);
	if (r >= 0 && (g->nthreads == 0 || g->thread[0].tid != pid))
		r = krg_err_set(err, -ESRCH, "pid %d has ended, or its first thread has", pid);
	if (r >= 0)
		r = open_mem(g, err);
	if (r < 0) {
		ghost_let_go(g);
		return r;
	}
	*ret = g;
	return 0;
}

/* A thread's end is its tracer's to see first, and the process's end comes after that of all threads. */
static void end_wait(pid_t tid)
{
	int status;
	pid_t r;

	do
		r = waitpid(tid, &status, __WALL);
	while ((r < 0 && errno == EINTR) || (r == tid && WIFSTOPPED(status)));
}

void ghost_kill(struct ghost *g)
{
	if (g == NULL)
		return;
	(void)kill(g->pid, SIGKILL);
	for (unsigned i = g->nthreads; i > 1; i--)
		if (g->thread[i - 1].tid != 0)
			end_wait(g->thread[i - 1].tid);
	if (g->nthreads > 0)
		end_wait(g->thread[0].tid);
	ghost_forget(g);
}

/* A thread that was not seen to stop: let it, or end. */
static void stop_late(struct ghost_thread *t)
{
	int status;

	/* detaching one that runs is not possible: it will stop, or be killed, once it can */
	while (!t->stopped && ghost_wait(t->tid, &status) == 0) {
		if (status >> 16 == PTRACE_EVENT_STOP)
			t->stopped = true;
		else if (ptrace(PTRACE_CONT, t->tid, 0, (long)WSTOPSIG(status)) < 0)
			return;
	}
}

void ghost_detach(pid_t tid)
{
	int status;

	while (ptrace(PTRACE_DETACH, tid, 0, 0) < 0) {
		pid_t r = waitpid(tid, &status, __WALL);

		if (r < 0 && errno == EINTR)
			continue;
		if (r != tid || !WIFSTOPPED(status))
			return;
	}
}

void ghost_let_go(struct ghost *g)
{
	if (g == NULL)
		return;
	if (g->scratch.at != 0)
		(void)ghost_scratch_end(g);
	for (unsigned i = 0; i < g->nthreads; i++) {
		struct ghost_thread *t = &g->thread[i];

		if (t->tid == 0)
			continue;
		if (t->regs.cs == 0)
			continue;
		(void)ptrace(PTRACE_SETREGS, t->tid, 0, &t->regs);
		(void)ptrace(PTRACE_SETSIGMASK, t->tid, sizeof(t->mask), &t->mask);
		/* it goes on by way of the kernel's signal code, where an interrupted call is made again:
		 * a stop at the end of a call of ours is not there */
		(void)ptrace(PTRACE_INTERRUPT, t->tid, 0, 0);
	}
	/* what came meanwhile; before they run, so that none of them runs on */
	if (g->stop_seen)
		(void)kill(g->pid, SIGSTOP);
	/* the first one last: its end comes after that of all others */
	for (unsigned i = g->nthreads; i-- > 0;)
		if (g->thread[i].tid != 0 && g->thread[i].stopped)
			ghost_detach(g->thread[i].tid);
	for (unsigned i = g->nthreads; i-- > 0;)
		if (g->thread[i].tid != 0 && !g->thread[i].stopped) {
			stop_late(&g->thread[i]);
			ghost_detach(g->thread[i].tid);
		}
	ghost_forget(g);
}
