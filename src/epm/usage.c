/* usage.c - resource usage of children that moved, for those who ask (getrusage(2), wait4(2), waitid(2), times(2)).
 *
 * To the kernel a moved child used what its deputy did, which is nothing.  What its body used is written down here when
 * it ends, with the processes above it at that time.  It belongs to the usage of a process's children once all
 * between the two have been waited for: then they are gone.  The calls that can tell come to the gate, and only if there
 * is something to add are they amended: the call is let run to its end by ptrace, and its result changed in the
 * caller's memory.
 */
#include "epm_impl.h"
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/times.h>
#include <sys/user.h>
#include <sys/wait.h>

#define AMENDS_MAX     64    /* calls at once; one more says what the kernel says */
#define ENTRIES_MAX    16384 /* then what is new is not counted */
#define ERESTARTNOINTR 513
#define TICKS_PER_S    100 /* of times(2) */

struct entry {
	i32 pid;
	u64 start;
	bool children; /* of its children that it has waited for; else its own, for who waits for it */
	struct usage used;
	unsigned nup;
	struct usage_kin up[USAGE_UP_MAX]; /* the processes above it, its parent first */
};

struct amend {
	bool busy;	    /* (o) usage_state.lock */
	bool expects;	    /* (o) its call comes to the gate again */
	pid_t tid;	    /* (c) while busy */
	struct gate_call c; /* (n) */
	struct usage_state *u;
};

struct usage_state {
	struct epm *e;
	struct krg_mutex lock; /* class leaf */
	struct krg_cond cond;  /* namends fell */
	struct entry *entry;   /* (o) */
	unsigned n, room;      /* (o) */
	struct amend amend[AMENDS_MAX];
	unsigned namends;     /* (o) */
	atomic_uint nentries; /* (a) as n */
};

int usage_start(struct epm *e)
{
	struct usage_state *u = krg_xalloc(sizeof(*u));

	u->e = e;
	krg_mutex_init(&u->lock);
	krg_cond_init(&u->cond);
	e->usage = u;
	return 0;
}

/* After the world has ended: the calls have, too. */
void usage_stop(struct epm *e)
{
	struct usage_state *u = e->usage;

	if (u == NULL)
		return;
	KRG_GUARD(leaf, &u->lock);
	while (u->namends > 0)
		krg_cond_wait(&u->cond, &u->lock);
}

void usage_free(struct epm *e)
{
	struct usage_state *u = e->usage;

	if (u == NULL)
		return;
	free(u->entry);
	krg_mutex_fini(&u->lock);
	free(u);
	e->usage = NULL;
}

/* ---- what was used ---- */

static void add(struct usage *to, const struct usage *what)
{
	to->utime_us += what->utime_us;
	to->stime_us += what->stime_us;
	to->maxrss_kb = KRG_MAX(to->maxrss_kb, what->maxrss_kb);
	to->minflt += what->minflt;
	to->majflt += what->majflt;
	to->inblock += what->inblock;
	to->oublock += what->oublock;
	to->nvcsw += what->nvcsw;
	to->nivcsw += what->nivcsw;
}

static bool is_gone(struct epm *e, i32 pid, u64 start)
{
	struct proc_info p;

	return proc_read_world_stat(e, pid, &p) < 0 || p.start_ticks != start;
}

/* How many of those above it have been waited for, it too: 0: not even it; nup + 1: all. */
static unsigned gone_of(struct epm *e, const struct entry *at)
{
	unsigned n = 0;

	if (!is_gone(e, at->pid, at->start))
		return 0;
	while (n < at->nup && is_gone(e, at->up[n].pid, at->up[n].start))
		n++;
	return n + 1;
}

/* The entries that may count for the process: the caller's array. */
static unsigned entries_of(struct usage_state *u, i32 pid, struct entry **ret)
{
	struct entry *all = NULL;
	unsigned n = 0;

	KRG_GUARD(leaf, &u->lock);
	for (unsigned i = 0; i < u->n; i++) {
		const struct entry *at = &u->entry[i];
		bool counts = at->pid == pid;

		for (unsigned j = 0; j < at->nup && !counts; j++)
			counts = at->up[j].pid == pid;
		if (!counts)
			continue;
		if ((n & (n - 1)) == 0)
			all = krg_xrealloc(all, (n == 0 ? 1 : 2 * n) * sizeof(*all));
		all[n++] = *at;
	}
	*ret = all;
	return n;
}

/* What the kernel does not know of the process's children, those that it has waited for; and_self: and of itself. */
static struct usage usage_of(struct usage_state *u, i32 pid, bool and_self)
{
	KRG_AUTO_FREE struct entry *all = NULL;
	unsigned n = entries_of(u, pid, &all);
	struct usage sum = {0};

	for (unsigned i = 0; i < n; i++) {
		const struct entry *at = &all[i];
		unsigned gone, above = 0;

		if (at->pid == pid) {
			if (at->children || and_self)
				add(&sum, &at->used);
			continue;
		}
		while (at->up[above].pid != pid)
			above++;
		gone = gone_of(u->e, at);
		/* it is among the gone itself, when it was just waited for */
		if (gone > above)
			add(&sum, &at->used);
	}
	return sum;
}

void usage_of_body(struct epm *e, i32 pid, struct usage *used)
{
	struct usage more = {0};

	if (e->usage != NULL && atomic_load(&e->usage->nentries) > 0)
		more = usage_of(e->usage, pid, false);
	add(used, &more);
}

static void entry_put(struct usage_state *u, const struct entry *what)
{
	KRG_GUARD(leaf, &u->lock);
	for (unsigned i = 0; i < u->n; i++) {
		struct entry *at = &u->entry[i];

		if (at->children && what->children && at->pid == what->pid &&
		    at->start == what->start) {
			add(&at->used, &what->used);
			return;
		}
	}
	if (u->n == ENTRIES_MAX)
		return;
	if (u->n == u->room) {
		u->room = u->room * 2 + 64;
		u->entry = krg_xrealloc(u->entry, u->room * sizeof(*u->entry));
	}
	u->entry[u->n++] = *what;
	atomic_store(&u->nentries, u->n);
}

static bool entry_take(struct usage_state *u, i32 pid, u64 start, bool children, struct entry *ret)
{
	KRG_GUARD(leaf, &u->lock);
	for (unsigned i = 0; i < u->n; i++) {
		struct entry *at = &u->entry[i];

		if (at->pid != pid || at->start != start || at->children != children)
			continue;
		*ret = *at;
		*at = u->entry[--u->n];
		atomic_store(&u->nentries, u->n);
		return true;
	}
	return false;
}

/* One whose lower part is gone becomes its first living ancestor's; without one it is nobody's. */
static void entry_settle(struct usage_state *u, const struct entry *was)
{
	unsigned gone = gone_of(u->e, was);
	struct entry at;

	if (gone == 0 || !entry_take(u, was->pid, was->start, was->children, &at) || gone > at.nup)
		return;
	at.pid = at.up[gone - 1].pid;
	at.start = at.up[gone - 1].start;
	at.children = true;
	at.nup -= gone;
	memmove(at.up, at.up + gone, at.nup * sizeof(at.up[0]));
	entry_put(u, &at);
}

void usage_sweep(struct epm *e)
{
	struct usage_state *u = e->usage;
	KRG_AUTO_FREE struct entry *all = NULL;
	unsigned n;

	if (u == NULL || atomic_load(&u->nentries) == 0)
		return;
	leaf_lock(&u->lock);
	n = u->n;
	all = krg_xalloc((n + 1) * sizeof(*all));
	memcpy(all, u->entry, n * sizeof(*all));
	leaf_unlock(&u->lock);
	for (unsigned i = 0; i < n; i++)
		entry_settle(u, &all[i]);
}

/* ---- deputies ---- */

void usage_deputy_made(struct epm *e, struct task *deputy)
{
	struct proc_info p;
	unsigned n = 0;

	if (proc_read_world_stat(e, deputy->pid, &p) < 0)
		return;
	deputy->start_ticks = p.start_ticks;
	while (n < USAGE_UP_MAX && p.ppid >= 1 << EPM_PID_SHIFT) {
		i32 pid = p.ppid;

		if (proc_read_world_stat(e, pid, &p) < 0)
			break;
		deputy->up[n++] = (struct usage_kin){pid, p.start_ticks};
	}
	deputy->nup = n;
}

void usage_body_ended(struct epm *e, const struct task *deputy, const struct usage *used)
{
	struct entry at = {.pid = deputy->pid,
			   .start = deputy->start_ticks,
			   .used = *used,
			   .nup = deputy->nup};
	struct proc_info p;

	/* an orphan's is nobody's */
	if (deputy->nup == 0 || proc_read_world_stat(e, deputy->pid, &p) < 0 ||
	    p.ppid != deputy->up[0].pid)
		return;
	memcpy(at.up, deputy->up, sizeof(at.up));
	entry_put(e->usage, &at);
}

/* ---- calls ---- */

static bool rusage_amend(pid_t tid, u64 at, const struct usage *more)
{
	struct rusage ru;
	u64 us;

	if (at == 0 || memread_now(tid, at, &ru, sizeof(ru)) < 0)
		return false;
	us = (u64)ru.ru_utime.tv_usec + more->utime_us;
	ru.ru_utime.tv_sec += (time_t)(us / 1000000);
	ru.ru_utime.tv_usec = (suseconds_t)(us % 1000000);
	us = (u64)ru.ru_stime.tv_usec + more->stime_us;
	ru.ru_stime.tv_sec += (time_t)(us / 1000000);
	ru.ru_stime.tv_usec = (suseconds_t)(us % 1000000);
	ru.ru_maxrss = KRG_MAX(ru.ru_maxrss, (long)more->maxrss_kb);
	ru.ru_minflt += (long)more->minflt;
	ru.ru_majflt += (long)more->majflt;
	ru.ru_inblock += (long)more->inblock;
	ru.ru_oublock += (long)more->oublock;
	ru.ru_nvcsw += (long)more->nvcsw;
	ru.ru_nivcsw += (long)more->nivcsw;
	return memwrite(tid, at, &ru, sizeof(ru)) == 0;
}

static void times_amend(pid_t tid, u64 at, const struct usage *more)
{
	struct tms t;

	if (at == 0 || memread_now(tid, at, &t, sizeof(t)) < 0)
		return;
	t.tms_cutime += (clock_t)(more->utime_us * TICKS_PER_S / 1000000);
	t.tms_cstime += (clock_t)(more->stime_us * TICKS_PER_S / 1000000);
	(void)memwrite(tid, at, &t, sizeof(t));
}

static i32 caller_pid(pid_t tid)
{
	PROC_AUTO struct proc_info p = {0};

	return proc_read(tid, &p) == 0 ? p.pid : 0;
}

/* The call has ended well, with this value. */
static void result_amend(const struct amend *a, i64 value)
{
	const __u64 *arg = a->c.req.data.args;
	i32 child[5] = {0}; /* the beginning of siginfo_t: the pid is the fifth */
	struct usage more;

	switch (a->c.req.data.nr) {
	case SYS_wait4:
		if (value <= 0)
			return;
		more = usage_of(a->u, (i32)value, true);
		(void)rusage_amend(a->tid, arg[3], &more);
		return;
	case SYS_waitid:
		if (arg[2] == 0 || memread_now(a->tid, arg[2], child, sizeof(child)) < 0 ||
		    child[0] != SIGCHLD)
			return;
		more = usage_of(a->u, child[4], true);
		(void)rusage_amend(a->tid, arg[4], &more);
		return;
	case SYS_getrusage:
		more = usage_of(a->u, caller_pid(a->tid), false);
		(void)rusage_amend(a->tid, arg[1], &more);
		return;
	default:
		more = usage_of(a->u, caller_pid(a->tid), false);
		times_amend(a->tid, arg[0], &more);
	}
}

/* From here on its calls are new ones. */
static void amend_lets_go(struct amend *a)
{
	KRG_GUARD(leaf, &a->u->lock);
	a->expects = false;
}

/* To its next stop.  False: it is at none of the call's, and goes on as it would. */
static bool call_step(struct amend *a, bool *ret_ends)
{
	struct __ptrace_syscall_info info;
	int status;
	pid_t r;

	if (ptrace(PTRACE_SYSCALL, a->tid, 0, 0) < 0)
		return false;
	do
		r = waitpid(a->tid, &status, __WALL);
	while (r < 0 && errno == EINTR);
	if (r != a->tid || !WIFSTOPPED(status))
		return false;
	if (WSTOPSIG(status) != (SIGTRAP | 0x80) ||
	    ptrace(PTRACE_GET_SYSCALL_INFO, a->tid, sizeof(info), &info) <= 0) {
		/* a signal: its call is made again after it, and comes here again */
		amend_lets_go(a);
		(void)ptrace(PTRACE_DETACH, a->tid, 0,
			     (long)(status >> 16 == 0 ? WSTOPSIG(status) : 0));
		return false;
	}
	*ret_ends = info.op == PTRACE_SYSCALL_INFO_EXIT;
	if (*ret_ends && info.exit.rval >= 0)
		result_amend(a, info.exit.rval);
	if (!*ret_ends && (int)info.entry.nr == a->c.req.data.nr)
		return true;
	amend_lets_go(a);
	ghost_detach(a->tid);
	return false;
}

static void amend_end(struct amend *a)
{
	struct usage_state *u = a->u;

	KRG_GUARD(leaf, &u->lock);
	a->busy = a->expects = false;
	u->namends--;
	krg_cond_broadcast(&u->cond);
}

static void *amend_main(void *ctx)
{
	struct amend *a = ctx;
	struct krg_err err;
	bool ends = false;

	(void)pthread_setname_np(pthread_self(), "epm-usage");
	if (task_stop(&a->c, a->tid, &err) == 0)
		while (!ends && call_step(a, &ends))
			;
	else if (!a->c.answered)
		gate_answer(&a->c); /* another traces it: as the kernel says */
	amend_end(a);
	return NULL;
}

/* NULL: the call is one that is being amended, or there are too many. */
static struct amend *amend_begin(struct usage_state *u, const struct gate_call *c)
{
	struct amend *room = NULL;

	KRG_GUARD(leaf, &u->lock);
	for (unsigned i = 0; i < AMENDS_MAX; i++) {
		struct amend *a = &u->amend[i];

		if (a->expects && a->tid == (pid_t)c->req.pid)
			return NULL;
		if (!a->busy)
			room = a;
	}
	if (room == NULL)
		return NULL;
	*room = (struct amend){
		.busy = true, .expects = true, .tid = (pid_t)c->req.pid, .c = *c, .u = u};
	u->namends++;
	return room;
}

/* A child that it waits for may still go away, and end there. */
static bool call_waits(const struct gate_call *c)
{
	const __u64 *arg = c->req.data.args;

	return (c->req.data.nr == SYS_wait4 && (arg[2] & WNOHANG) == 0) ||
	       (c->req.data.nr == SYS_waitid && (arg[3] & WNOHANG) == 0);
}

/* A thread for each: a wait may last, and the call comes to the gate again. */
void gate_handle_usage(struct gate_call *c)
{
	struct usage_state *u = c->e->usage;
	pthread_attr_t attr;
	struct amend *a;
	pthread_t thread;

	gate_continue(c);
	if (atomic_load(&c->e->nodes) <= 1 || (atomic_load(&u->nentries) == 0 && !call_waits(c)))
		return;
	a = amend_begin(u, c);
	if (a == NULL)
		return;
	(void)pthread_attr_init(&attr);
	(void)pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	c->answered = true; /* by the thread */
	if (pthread_create(&thread, &attr, amend_main, a) != 0) {
		c->answered = false;
		amend_end(a);
	}
	(void)pthread_attr_destroy(&attr);
}
