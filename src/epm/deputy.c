/* deputy.c - the deputies of this node: their channels, their ends.
 *
 * One thread hears all vessels.  A deputy's end is seen by its pidfd (it also covers one that
 * was killed before its vessel ran); then the body must end too, unless it already has.
 */
#include "epm_impl.h"
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#define SWEEP_MS 2000 /* how often sessions without members are ended */
#define KEY_WAKE UINT64_MAX
enum key { KEY_CHANNEL, KEY_PIDFD, KEY_SHADOW };
#define KEY(pid, is) ((u64)(u32)(pid) << 2 | (is))

static void abort_body(struct epm *e, struct task *t)
{
	KRG_AUTO_BUF struct krg_buf b = {0};
	struct rec_epm_which w = {.pid = t->pid};
	nodeid to;
	int r;

	task_lock(&t->lock);
	w.exec_id = t->exec_id;
	to = t->peer;
	task_unlock(&t->lock);
	rec_epm_which_encode(&w, &b);
	r = comm_send(e->comm, to, EPM_OP_ABORT, &b);
	if (r < 0 && r != -EHOSTDOWN && !atomic_load(&e->stopping))
		LOG_W("epm", "deputy %d: tell node %u: %s", t->pid, t->peer, strerror(-r));
}

void deputy_commit(struct epm *e, struct task *t)
{
	KRG_AUTO_BUF struct krg_buf b = {0}, timers = {0};
	struct rec_epm_commit m = {.pid = t->pid};
	nodeid to;
	int r;

	task_lock(&t->lock);
	m.exec_id = t->exec_id;
	to = t->peer;
	timers_encode(t->timer, &timers);
	task_unlock(&t->lock);
	m.timers = krg_buf_slice(&timers);
	rec_epm_commit_encode(&m, &b);
	r = comm_send(e->comm, to, EPM_OP_COMMIT, &b);
	if (r < 0 && r != -EHOSTDOWN && !atomic_load(&e->stopping))
		LOG_W("epm", "deputy %d: tell node %u: %s", t->pid, t->peer, strerror(-r));
}

static bool vessel_say_fd(struct task *t, const struct vessel_msg *m, int fd)
{
	bool ok = false;

	task_lock(&t->lock);
	if (t->channel >= 0)
		ok = fd >= 0 ? krg_send_fds(t->channel, m, sizeof(*m), &fd, 1) == sizeof(*m)
			     : send(t->channel, m, sizeof(*m), MSG_NOSIGNAL | MSG_DONTWAIT) ==
				       (ssize_t)sizeof(*m);
	task_unlock(&t->lock);
	return ok;
}

bool vessel_say(struct task *t, const struct vessel_msg *m)
{
	return vessel_say_fd(t, m, -EBADF);
}

/* A directory on a file system of its own, which is mounted nowhere and goes with its last user.  Negative: a core
 * would be left elsewhere (core(5)), where the body's own is. */
static int core_directory(void)
{
	KRG_AUTO_FD int fs = -EBADF;
	char pattern[256];

	if (krg_read_file("/proc/sys/kernel/core_pattern", pattern, sizeof(pattern)) <= 0 ||
	    strchr("|/@\n", pattern[0]) != NULL)
		return -EOPNOTSUPP;
	fs = (int)syscall(SYS_fsopen, "tmpfs", FSOPEN_CLOEXEC);
	if (fs < 0 || syscall(SYS_fsconfig, fs, FSCONFIG_SET_STRING, "mode", "1777", 0) < 0 ||
	    syscall(SYS_fsconfig, fs, FSCONFIG_SET_STRING, "size", "4m", 0) < 0 ||
	    syscall(SYS_fsconfig, fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
		return -errno;
	return (int)syscall(SYS_fsmount, fs, FSMOUNT_CLOEXEC, 0);
}

static void notify_sched(struct epm *e, struct task *t, int code)
{
	const struct epm_placement_ops *ops = atomic_load(&e->placement);
	struct epm_exec_info info = {.pid = t->pid, .path = t->path};

	if (ops != NULL)
		ops->placed(e->placement_ctx, &info, t->peer, code);
}

/* It is the deputy now: the point of no return is behind it. */
static void on_hello(struct epm *e, struct task *t)
{
	const char *slash = strrchr(t->path, '/');
	struct vessel_msg m = {.type = VESSEL_NAME};
	bool stopped;

	task_lock(&t->lock);
	if (t->state != TASK_HELD) {
		task_unlock(&t->lock);
		return;
	}
	task_move_locked(t, TASK_RUNNING);
	stopped = t->stop_early;
	keep_deputy_locked(e, t); /* before its body goes */
	task_unlock(&t->lock);
	convert_forget(e, t->host_tid);
	(void)FAULT_POINT(EXEC_DEPUTY);
	for (unsigned i = 0; i < t->nstreams; i++)
		stream_hold(e->stream, &t->streams[i], false);
	deputy_commit(e, t);
	if (stopped)
		stop_settle(e, t);
	atomic_fetch_add(&e->count.execs_placed, 1);
	atomic_fetch_add(&e->count.deputies, 1);
	TRACE(DEPUTY_MADE, t->exec_id, t->pid, t->peer);
	(void)snprintf(m.text, sizeof(m.text), "%s", slash != NULL ? slash + 1 : t->path);
	(void)vessel_say(t, &m);
	notify_sched(e, t, 0);
	if (t->nchildren > 0)
		kin_settle(e, t);
}

/* Counted: what is sent to a body that goes on is there before the word that it may (deputy_turn()). */
int deputy_signal(struct epm *e, struct task *t, const struct rec_epm_signal *s)
{
	KRG_AUTO_BUF struct krg_buf b = {0};
	nodeid to;
	int r;

	rec_epm_signal_encode(s, &b);
	task_lock(&t->lock);
	to = t->peer;
	t->signals++;
	task_unlock(&t->lock);
	r = comm_send(e->comm, to, EPM_OP_SIGNAL, &b);
	task_lock(&t->lock);
	t->signals--;
	krg_cond_broadcast(&t->cond);
	task_unlock(&t->lock);
	return r;
}

static void on_signal(struct epm *e, struct task *t, const struct vessel_msg *m)
{
	struct rec_epm_signal s = {.pid = t->pid,
				   .sig = m->value,
				   .code = m->code,
				   .from_pid = m->pid,
				   .from_uid = m->uid,
				   .value = m->arg[0]};

	if (m->value <= 0 || m->value > 64)
		return;
	/* its body's group is an orphan to the kernel there, always: the question is decided here */
	if (signal_is_tty_stop(m->value))
		s.stops = !proc_group_is_orphan(e, t->pid);
	if (m->value == SIGCONT) {
		task_lock(&t->lock);
		t->stands = false;
		task_unlock(&t->lock);
	}
	tty_deputy_heard(e, t, m->value, m->code);
	atomic_fetch_add(&e->count.signals, 1);
	TRACE(SIGNAL_SENT, t->exec_id, t->pid, m->value, t->peer);
	if (deputy_signal(e, t, &s) < 0)
		LOG_D("epm", "deputy %d: signal %d is lost with node %u", t->pid, m->value,
		      t->peer);
}

static void on_timer(struct task *t, const struct vessel_msg *m)
{
	KRG_GUARD(task, &t->lock);
	if (t->state != TASK_HELD || m->code < 0 || m->code >= EPM_TIMERS || m->arg[0] < 0 ||
	    m->arg[1] < 0)
		return;
	t->timer[m->code] = (struct task_timer){(u64)m->arg[0], (u64)m->arg[1]};
}

void task_answered(struct task *t, const struct vessel_msg *m)
{
	KRG_GUARD(task, &t->lock);
	t->answered_id = m->id;
	t->answer = m->value;
	krg_cond_broadcast(&t->cond);
}

static void on_channel(struct epm *e, struct task *t)
{
	struct vessel_msg m;
	ssize_t n;

	n = recv(t->channel, &m, sizeof(m), MSG_DONTWAIT);
	if (n != (ssize_t)sizeof(m)) {
		if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
			/* closed: its end comes by the pidfd */
			(void)epoll_ctl(e->deputy_epoll, EPOLL_CTL_DEL, t->channel, NULL);
		return;
	}
	if (m.type == VESSEL_HELLO)
		on_hello(e, t);
	else if (m.type == VESSEL_TIMER)
		on_timer(t, &m);
	else if (m.type == VESSEL_SIGNAL)
		on_signal(e, t, &m);
	else if (m.type == VESSEL_TOLD)
		tty_proxy_heard(e, t, m.pid, m.value, m.code);
	else if (m.type == VESSEL_ANSWER)
		task_answered(t, &m);
	else if (m.type == VESSEL_CHILD && t->nchildren > 0)
		kin_tell(e, t, m.pid, m.code, m.value);
}

static void on_ended(struct epm *e, struct task *t)
{
	const struct epm_placement_ops *ops = atomic_load(&e->placement);
	bool body_lives;

	task_lock(&t->lock);
	body_lives = t->state == TASK_HELD || t->state == TASK_RUNNING;
	if (t->state != TASK_ENDED)
		task_move_locked(t, TASK_ENDED);
	task_unlock(&t->lock);
	(void)epoll_ctl(e->deputy_epoll, EPOLL_CTL_DEL, t->pidfd, NULL);
	(void)epoll_ctl(e->deputy_epoll, EPOLL_CTL_DEL, t->channel, NULL);
	convert_forget(e, t->host_tid);
	tty_deputy_ends(e, t->pid);
	keep_drop(e, KEEP_DEPUTY, t->pid);
	if (body_lives)
		abort_body(e, t);
	TRACE(DEPUTY_ENDED, t->exec_id, t->pid);
	task_remove(e, t);
	if (ops != NULL && ops->ended != NULL)
		ops->ended(e->placement_ctx, t->path, krg_clock_now_ns() - t->start_ns, t->cpu_ns);
}

static void *deputy_main(void *ctx)
{
	struct epm *e = ctx;
	u64 swept = krg_clock_now_ns();
	struct epoll_event ev[64];

	while (!atomic_load(&e->stopping)) {
		int n = epoll_wait(e->deputy_epoll, ev, KRG_NELEM(ev), SWEEP_MS);

		for (int i = 0; i < n; i++) {
			enum key is = ev[i].data.u64 & 3;
			struct task *t;

			if (ev[i].data.u64 == KEY_WAKE) {
				u64 count;

				(void)!read(e->deputy_wake, &count, sizeof(count));
				body_ends_tell(e);
				continue;
			}
			t = task_find(e, is == KEY_SHADOW ? TASK_SHADOW : TASK_DEPUTY,
				      (pid_t)(ev[i].data.u64 >> 2));
			if (t == NULL)
				continue;
			if (is == KEY_SHADOW)
				kin_on_channel(e, t);
			else if (is == KEY_PIDFD)
				on_ended(e, t);
			else
				on_channel(e, t);
			task_put(t);
		}
		if (krg_clock_now_ns() - swept >= SWEEP_MS * KRG_MSEC) {
			sessions_sweep(e);
			caps_sweep(e);
			asked_sweep(e);
			usage_sweep(e);
			swept = krg_clock_now_ns();
		}
	}
	return NULL;
}

int deputy_watch(struct epm *e, struct task *t)
{
	struct epoll_event ev = {.events = EPOLLIN, .data.u64 = KEY(t->pid, KEY_CHANNEL)};

	if (epoll_ctl(e->deputy_epoll, EPOLL_CTL_ADD, t->channel, &ev) < 0)
		return -errno;
	ev.data.u64 = KEY(t->pid, KEY_PIDFD);
	if (epoll_ctl(e->deputy_epoll, EPOLL_CTL_ADD, t->pidfd, &ev) < 0)
		return -errno;
	return 0;
}

int deputy_watch_shadow(struct epm *e, struct task *t)
{
	struct epoll_event ev = {.events = EPOLLIN, .data.u64 = KEY(t->pid, KEY_SHADOW)};

	return epoll_ctl(e->deputy_epoll, EPOLL_CTL_ADD, t->channel, &ev) < 0 ? -errno : 0;
}

int deputy_open(struct epm *e, struct krg_err *err)
{
	struct epoll_event ev = {.events = EPOLLIN, .data.u64 = KEY_WAKE};

	e->deputy_epoll = epoll_create1(EPOLL_CLOEXEC);
	e->deputy_wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (e->deputy_epoll < 0 || e->deputy_wake < 0 ||
	    epoll_ctl(e->deputy_epoll, EPOLL_CTL_ADD, e->deputy_wake, &ev) < 0)
		return krg_err_set(err, -errno, "deputies: epoll");
	return 0;
}

int deputy_start(struct epm *e, struct krg_err *err)
{
	if (pthread_create(&e->deputy_thread, NULL, deputy_main, e) != 0)
		return krg_err_set(err, -EAGAIN, "deputies: start a thread");
	e->deputy_thread_runs = true;
	return 0;
}

void deputy_wake(struct epm *e)
{
	u64 one = 1;

	if (e->deputy_wake >= 0)
		(void)!write(e->deputy_wake, &one, sizeof(one));
}

void deputy_stop(struct epm *e)
{
	if (e->deputy_thread_runs) {
		deputy_wake(e);
		(void)pthread_join(e->deputy_thread, NULL);
		e->deputy_thread_runs = false;
	}
	if (e->deputy_epoll >= 0)
		(void)close(e->deputy_epoll);
	if (e->deputy_wake >= 0)
		(void)close(e->deputy_wake);
	e->deputy_epoll = e->deputy_wake = -EBADF;
}

/* ---- from the body's node ---- */

/* The body stopped, or goes on: so does the deputy. */
static void mirror_stop(struct task *t, const struct rec_epm_ended *m)
{
	struct vessel_msg v = {.type = VESSEL_STOP, .value = m->status};
	bool stood;

	task_lock(&t->lock);
	stood = t->stands;
	t->stands = m->code == CLD_STOPPED;
	task_unlock(&t->lock);
	if (m->code == CLD_STOPPED) {
		/* not SIGSTOP from here: it would take a SIGCONT that is to be passed on with it */
		(void)vessel_say(t, &v);
	} else if (stood) {
		/* by somebody near the body: else the deputy went on first.  The vessel passes it
		 * on, which a running body does not notice. */
		v.type = VESSEL_GO;
		(void)vessel_say(t, &v);
		(void)syscall(SYS_pidfd_send_signal, t->pidfd, SIGCONT, NULL, 0);
	}
}

void deputy_hear(struct epm *e, struct task *t, const struct rec_epm_ended *m)
{
	struct vessel_msg v = {.type = VESSEL_EXIT, .value = wstatus_of(m->code, m->status)};
	struct usage used = {m->utime_us, m->stime_us, m->maxrss_kb, m->minflt, m->majflt,
			     m->inblock,  m->oublock,  m->nvcsw,     m->nivcsw};
	KRG_AUTO_FD int core = -EBADF;

	if (m->code == CLD_STOPPED || m->code == CLD_CONTINUED) {
		mirror_stop(t, m);
		return;
	}
	task_lock(&t->lock);
	if (t->state == TASK_RUNNING)
		task_move_locked(t, TASK_ENDING);
	t->cpu_ns += (m->utime_us + m->stime_us) * KRG_USEC;
	used.utime_us += t->before.utime_us;
	used.stime_us += t->before.stime_us;
	task_unlock(&t->lock);
	usage_body_ended(e, t, &used);
	if (m->code == CLD_DUMPED)
		core = core_directory();
	/* it may stand, stopped with its body: an end ends that */
	if (!vessel_say_fd(t, &v, core))
		(void)syscall(SYS_pidfd_send_signal, t->pidfd, SIGKILL, NULL, 0);
	else
		(void)syscall(SYS_pidfd_send_signal, t->pidfd, SIGCONT, NULL, 0);
}

static void ended(void *ctx, struct comm_req *req)
{
	struct epm *e = ctx;
	struct krg_rd rd = krg_rd_slice(req->body);
	TASK_AUTO_PUT struct task *t = NULL;
	struct rec_epm_ended m;

	if (rec_epm_ended_decode(&rd, &m) == 0)
		t = task_find(e, TASK_DEPUTY, m.pid);
	if (t != NULL && t->peer == req->from)
		deputy_hear(e, t, &m);
	comm_req_done(req);
}

void handle_ended(void *ctx, struct comm_req *req)
{
	signals_news(ctx, req, ended);
}

void handle_parent(void *ctx, struct comm_req *req)
{
	struct krg_rd rd = krg_rd_slice(req->body);
	KRG_AUTO_BUF struct krg_buf b = {0};
	PROC_AUTO struct proc_info p = {0};
	struct rec_epm_which w = {0};
	struct rec_epm_value v;

	if (rec_epm_which_decode(&rd, &w) < 0 || proc_read_world(ctx, w.pid, &p) < 0) {
		comm_req_fail(req, -ESRCH, "pid %d", w.pid);
		return;
	}
	v.value = p.ppid;
	rec_epm_value_encode(&v, &b);
	comm_req_answer(req, &b);
}

/* Wait while it is so, and the task runs. */
static bool call_waits_locked(struct task *t, u64 until_ns)
{
	if (t->state != TASK_RUNNING)
		return false;
	if (until_ns != 0)
		return krg_cond_wait_until(&t->cond, &t->lock, until_ns) == 0;
	krg_cond_wait(&t->cond, &t->lock);
	return true;
}

i32 task_call(struct task *t, i32 nr, i64 arg0, i64 arg1, i64 arg2, u64 timeout_ms)
{
	struct vessel_msg m = {.type = VESSEL_CALL, .code = nr, .arg = {arg0, arg1, arg2}};
	u64 until = timeout_ms != 0 ? krg_clock_now_ns() + timeout_ms * KRG_MSEC : 0;
	i32 result = -ESRCH;

	KRG_GUARD(task, &t->lock);
	while (t->calling)
		if (!call_waits_locked(t, until))
			return t->state == TASK_RUNNING ? -ETIMEDOUT : -ESRCH;
	t->calling = true;
	m.id = ++t->call_id;
	if (t->channel >= 0 && send(t->channel, &m, sizeof(m), MSG_NOSIGNAL) > 0) {
		while (t->answered_id != m.id)
			if (!call_waits_locked(t, until))
				break;
		if (t->answered_id == m.id)
			result = t->answer;
		else if (t->state == TASK_RUNNING)
			result = -ETIMEDOUT;
	}
	t->calling = false;
	krg_cond_broadcast(&t->cond);
	return result;
}

void handle_deputy_call(void *ctx, struct comm_req *req)
{
	struct epm *e = ctx;
	struct krg_rd rd = krg_rd_slice(req->body);
	KRG_AUTO_BUF struct krg_buf b = {0};
	TASK_AUTO_PUT struct task *t = NULL;
	struct rec_epm_call call;
	struct rec_epm_value v = {.value = -ESRCH};

	if (rec_epm_call_decode(&rd, &call) == 0)
		t = task_find(e, TASK_DEPUTY, call.pid);
	if (t != NULL && t->peer == req->from)
		v.value = task_call(t, call.nr, call.arg0, call.arg1, 0, 0);
	rec_epm_value_encode(&v, &b);
	comm_req_answer(req, &b);
}

/* The bodies died with their node: their deputies end as if killed. */
void deputies_on_node_down(struct epm *e, nodeid node)
{
	struct task **all;
	unsigned n = task_all(e, TASK_DEPUTY, &all);

	for (unsigned i = 0; i < n; i++) {
		struct task *t = all[i];

		if (t->peer == node) {
			bool had;

			task_lock(&t->lock);
			/* HELD: the exec is still under way, and will hear of it itself, unless
			 * the vessel already runs */
			had = t->state == TASK_RUNNING;
			if (had)
				task_move_locked(t, TASK_ENDING);
			task_unlock(&t->lock);
			if (had)
				(void)syscall(SYS_pidfd_send_signal, t->pidfd, SIGKILL, NULL, 0);
		}
		task_put(t);
	}
	free(all);
}
