/* gate.c - threads that take notified calls from a listener, one call at a time, to its end.
 *
 * All threads of a listener wait in SECCOMP_IOCTL_NOTIF_RECV; the kernel wakes one per call.  A
 * handler that waits for another node holds its thread, so the pool grows while nobody is idle.
 */
#include "epm_impl.h"
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#ifndef SECCOMP_IOCTL_NOTIF_SET_FLAGS
#define SECCOMP_IOCTL_NOTIF_SET_FLAGS	   SECCOMP_IOW(4, __u64)
#define SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP (1UL << 0)
#endif

#define GATE_THREADS_FIRST 2
#define GATE_STOP_SIGNAL   SIGUSR2

bool gate_call_valid(struct gate_call *c)
{
	return ioctl(c->listener, SECCOMP_IOCTL_NOTIF_ID_VALID, &c->req.id) == 0;
}

struct task *gate_body(struct gate_call *c)
{
	pid_t tid = (pid_t)c->req.pid;
	struct task *t = task_find_body_by_host_pid(c->e, tid);
	struct proc_info p;

	if (t != NULL || atomic_load(&c->e->nbodies) == 0)
		return t;
	/* a thread that does not lead its process */
	if (proc_read(tid, &p) < 0)
		return NULL;
	if (p.host_tgid != tid)
		t = task_find_body_by_host_pid(c->e, p.host_tgid);
	proc_info_fini(&p);
	return t;
}

static i64 call_home(struct task *body, u16 op, const struct krg_buf *args, struct epm *e)
{
	COMM_AUTO_REPLY struct comm_reply reply = {0};
	struct rec_epm_value v;
	struct krg_err err;
	struct krg_rd rd;
	int r = comm_call(e->comm, body->peer, op, args, 10000, &reply, &err);

	if (r < 0)
		return r;
	rd = krg_rd_slice(reply.body);
	r = rec_epm_value_decode(&rd, &v);
	return r < 0 ? r : v.value;
}

i64 gate_call_deputy(struct epm *e, struct task *body, const struct rec_epm_call *call)
{
	KRG_AUTO_BUF struct krg_buf args = {0};

	rec_epm_call_encode(call, &args);
	return call_home(body, EPM_OP_DEPUTY_CALL, &args, e);
}

/* A body's parent is at home.  If home is gone it is an orphan: pid 1's. */
static void handle_getppid(struct gate_call *c)
{
	TASK_AUTO_PUT struct task *body = gate_body(c);
	KRG_AUTO_BUF struct krg_buf args = {0};
	struct rec_epm_which which;
	i64 ppid;

	if (body == NULL) {
		gate_continue(c);
		return;
	}
	which = (struct rec_epm_which){.pid = body->pid};
	rec_epm_which_encode(&which, &args);
	ppid = call_home(body, EPM_OP_PARENT, &args, c->e);
	gate_return(c, ppid < 0 ? 1 : ppid);
}

/* A group of another node whose members are all elsewhere is known to the kernel here by a placeholder. */
static void group_is_here(struct epm *e, const struct task *body, i32 pgid)
{
	struct session *s;
	struct proc_info p;

	if (epm_pid_is_ours(e, pgid) || proc_read_world_stat(e, body->pid, &p) < 0)
		return;
	s = session_find(e, p.sid);
	if (s == NULL)
		return;
	(void)session_group(e, s, pgid); /* without it the call fails here: EPERM */
	session_put(s);
}

/* setpgid and setsid of a body: first at home, where its kin see it, then here. */
static void handle_group_call(struct gate_call *c)
{
	TASK_AUTO_PUT struct task *body = gate_body(c);
	struct rec_epm_call call;
	i64 r;

	gate_continue(c);
	if (body == NULL)
		return;
	call = (struct rec_epm_call){.pid = body->pid, .nr = c->req.data.nr};
	if (c->req.data.nr == SYS_setpgid) {
		i32 pid = (i32)c->req.data.args[0];

		/* of a child of the body: that is here, unless it is a shadow */
		if (pid != 0 && pid != body->pid) {
			if (!kin_is_shadow(c->e, pid))
				return;
			call.arg0 = pid;
		}
		call.arg1 = (i32)c->req.data.args[1];
	}
	r = gate_call_deputy(c->e, body, &call);
	if (r < 0 && r != -EHOSTDOWN)
		gate_return(c, r);
	else if (call.arg1 != 0 && call.arg1 != body->pid)
		group_is_here(c->e, body, (i32)call.arg1);
}

static void dispatch(struct gate_call *c)
{
	switch (c->req.data.nr) {
	case SYS_execve:
	case SYS_execveat:
		gate_handle_exec(c);
		break;
	case SYS_getppid:
		handle_getppid(c);
		break;
	case SYS_setpgid:
	case SYS_setsid:
		handle_group_call(c);
		break;
	case SYS_prctl:
		gate_handle_prctl(c);
		break;
	case SYS_wait4:
	case SYS_waitid:
	case SYS_getrusage:
	case SYS_times:
		gate_handle_usage(c);
		break;
	case SYS_ioctl:
		gate_handle_ioctl(c);
		break;
	case SYS_open:
	case SYS_openat:
		gate_handle_open(c);
		break;
	case SYS_fstat:
	case SYS_newfstatat:
	case SYS_statx:
		gate_handle_stat(c);
		break;
	case SYS_getsockname:
	case SYS_getpeername:
	case SYS_getsockopt:
	case SYS_setsockopt:
	case SYS_shutdown:
	case SYS_recvfrom:
	case SYS_sendto:
	case SYS_recvmsg:
	case SYS_sendmsg:
		gate_handle_socket(c);
		break;
	case SYS_fcntl:
		gate_handle_fcntl(c);
		break;
	case SYS_lseek:
		gate_handle_lseek(c);
		break;
	default:
		gate_handle_signal(c);
		break;
	}
}

void gate_answer(struct gate_call *c)
{
	struct seccomp_notif_resp resp = {.id = c->req.id};

	if (c->answered)
		return;
	if (c->cont)
		resp.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
	else if (c->error != 0)
		resp.error = c->error;
	else
		resp.val = c->value;
	if (c->slot->done == GATE_BEGUN && !c->cont) {
		c->slot->error = c->error;
		c->slot->value = c->value;
		c->slot->done = GATE_KNOWN;
	}
	(void)FAULT_POINT(GATE_DONE);
	/* ENOENT: the task was killed meanwhile */
	if (ioctl(c->listener, SECCOMP_IOCTL_NOTIF_SEND, &resp) < 0 && errno != ENOENT)
		LOG_W("epm", "answer call %d of task %u: %s", c->req.data.nr, c->req.pid,
		      strerror(errno));
}

static void *gate_main(void *ctx);

static void thread_fill(struct epm *e, enum nursery_class class, unsigned n)
{
	e->gate[class][n] = (struct gate_thread){.e = e,
						 .listener = e->listener[class],
						 .class = class,
						 .slot = &e->log->slot[class][n]};
}

static void pool_grow(struct epm *e, enum nursery_class class)
{
	struct gate_thread *g;
	unsigned n;

	KRG_GUARD(leaf, &e->gate_lock);
	n = atomic_load(&e->gate_threads[class]);
	if (n == EPM_GATE_THREADS || atomic_load(&e->gate_idle[class]) > 0 ||
	    atomic_load(&e->stopping))
		return;
	g = &e->gate[class][n];
	thread_fill(e, class, n);
	atomic_fetch_add(&e->gate_idle[class], 1);
	if (pthread_create(&g->thread, NULL, gate_main, g) == 0)
		atomic_store(&e->gate_threads[class], n + 1);
	else
		atomic_fetch_sub(&e->gate_idle[class], 1);
}

static void *gate_main(void *ctx)
{
	struct gate_thread *g = ctx;
	struct epm *e = g->e;
	struct gate_call c;

	while (!atomic_load(&e->stopping)) {
		/* Into the log at once: should we die now, the next krgd knows of the call. */
		if (ioctl(g->listener, SECCOMP_IOCTL_NOTIF_RECV, &g->slot->req) < 0) {
			if (errno == EINTR || errno == ENOENT)
				continue;
			if (!atomic_load(&e->stopping))
				LOG_E("epm", "the gate is closed: %s", strerror(errno));
			break;
		}
		c = (struct gate_call){
			.e = e, .listener = g->listener, .slot = g->slot, .req = g->slot->req};
		if (atomic_fetch_sub(&e->gate_idle[g->class], 1) == 1)
			pool_grow(e, g->class);
		atomic_fetch_add_explicit(&e->count.gate_calls, 1, memory_order_relaxed);
		(void)FAULT_POINT(GATE_RECEIVED);
		dispatch(&c);
		atomic_fetch_add(&e->gate_idle[g->class], 1);
		gate_answer(&c);
		memset(g->slot, 0, sizeof(*g->slot));
	}
	return NULL;
}

/* What was begun and may not be done twice has an end that nobody knows. */
static void slot_end(int listener, const struct gate_slot *s)
{
	struct seccomp_notif_resp resp = {.id = s->req.id, .error = -EIO};

	LOG_D("epm", "call %d of task %u was with a daemon that died: %s", s->req.data.nr,
	      s->req.pid,
	      s->done == GATE_BEGUN   ? "EIO"
	      : s->done == GATE_KNOWN ? "its result"
				      : "again");
	if (s->done == GATE_NOTHING) {
		convert_again(listener, &s->req);
		return;
	}
	if (s->done == GATE_KNOWN) {
		resp.error = s->error;
		resp.val = s->error == 0 ? s->value : 0;
	}
	(void)ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &resp); /* or it has been answered */
}

void gate_restart(struct epm *e)
{
	for (int c = 0; c < NURSERY_NR; c++) {
		for (unsigned i = 0; i < EPM_GATE_THREADS; i++) {
			struct gate_slot *s = &e->log->slot[c][i];

			if (s->req.id != 0)
				slot_end(e->listener[c], s);
			memset(s, 0, sizeof(*s));
		}
	}
}

static void interrupted(int sig)
{
	(void)sig; /* only to make an ioctl return EINTR */
}

int gate_start(struct epm *e, struct krg_err *err)
{
	struct sigaction act = {.sa_handler = interrupted};
	u64 flags = SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP;

	(void)sigaction(GATE_STOP_SIGNAL, &act, NULL);
	for (int c = 0; c < NURSERY_NR; c++) {
		/* 6.6; before it, wake-ups may cross processors: slower, no less right */
		(void)ioctl(e->listener[c], SECCOMP_IOCTL_NOTIF_SET_FLAGS, flags);
		for (unsigned i = 0; i < GATE_THREADS_FIRST; i++) {
			struct gate_thread *g = &e->gate[c][i];

			thread_fill(e, (enum nursery_class)c, i);
			atomic_fetch_add(&e->gate_idle[c], 1);
			if (pthread_create(&g->thread, NULL, gate_main, g) != 0)
				return krg_err_set(err, -EAGAIN, "gate: start a thread");
			atomic_fetch_add(&e->gate_threads[c], 1);
		}
	}
	return 0;
}

/* After the world has ended: its tasks are gone, so the threads only need to be woken. */
void gate_stop(struct epm *e)
{
	for (int c = 0; c < NURSERY_NR; c++) {
		unsigned n;

		leaf_lock(&e->gate_lock);
		n = atomic_load(&e->gate_threads[c]);
		leaf_unlock(&e->gate_lock);
		for (unsigned i = 0; i < n; i++) {
			struct timespec ts;
			int r;

			/* the signal may come just before the ioctl: again until it has ended */
			do {
				(void)pthread_kill(e->gate[c][i].thread, GATE_STOP_SIGNAL);
				(void)clock_gettime(CLOCK_REALTIME, &ts);
				ts.tv_nsec += 5000000;
				if (ts.tv_nsec >= 1000000000) {
					ts.tv_sec++;
					ts.tv_nsec -= 1000000000;
				}
				r = pthread_timedjoin_np(e->gate[c][i].thread, NULL, &ts);
			} while (r == ETIMEDOUT);
		}
		atomic_store(&e->gate_threads[c], 0);
	}
}
