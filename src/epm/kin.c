/* kin.c - children of a program that moves: they stay with its deputy, each with a shadow beside the body.
 *
 * A shadow is a child of the body with the child's pid (shadow.c), so wait(2) and SIGCHLD there are the
 * kernel's own.  The deputy waits for the child itself, and what became of it is told from here to
 * there.  At the deputy's node: kin_pids() to kin_settle(), handle_child_signal(); at the body's: the rest.
 */
#include "epm_impl.h"
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#define HELLO_MS 10000 /* a shadow that does not say it then has been stopped by force */

/* ---- where the deputy is ---- */

static void pids_of_thread(struct epm *e, const char *path, struct krg_buf *ret)
{
	KRG_AUTO_FD int fd = openat(e->world_proc, path, O_RDONLY | O_CLOEXEC);
	KRG_AUTO_BUF struct krg_buf text = {0};
	ssize_t n = 1;
	char *at;

	while (fd >= 0 && n > 0) {
		size_t had = text.len;

		n = read(fd, krg_buf_grow(&text, 4096), 4096);
		text.len = had + (n > 0 ? (size_t)n : 0);
	}
	krg_buf_put_u8(&text, 0);
	at = (char *)text.data;
	for (;;) {
		char *end;
		i32 pid = (i32)strtol(at, &end, 10);

		if (end == at)
			return;
		krg_buf_put(ret, &pid, sizeof(pid));
		at = end;
	}
}

unsigned kin_pids(struct epm *e, pid_t pid, i32 **ret)
{
	struct krg_buf all = {0};
	struct dirent *de;
	char path[300];
	DIR *d = NULL;
	int fd;

	(void)snprintf(path, sizeof(path), "%d/task", pid);
	fd = openat(e->world_proc, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd >= 0)
		d = fdopendir(fd);
	while (d != NULL && (de = readdir(d)) != NULL) {
		if (de->d_name[0] == '.')
			continue;
		(void)snprintf(path, sizeof(path), "%d/task/%s/children", pid, de->d_name);
		pids_of_thread(e, path, &all);
	}
	if (d != NULL)
		(void)closedir(d);
	*ret = (i32 *)(void *)all.data;
	return (unsigned)(all.len / sizeof(i32));
}

/* Its children end without a trace. */
static bool forgets(const struct proc_info *p)
{
	return (p->sig_ignored >> (SIGCHLD - 1) & 1) != 0;
}

static const char *describe_one(struct epm *e, const struct proc_info *p, nodeid to, i32 pid,
				bool leaders, struct krg_buf *ret)
{
	TASK_AUTO_PUT struct task *deputy = task_find(e, TASK_DEPUTY, pid);
	PROC_AUTO struct proc_info c = {0};
	struct rec_epm_child rec;

	if (deputy != NULL && deputy->peer == to)
		return "its child has moved to that node"; /* its number is taken there */
	if (proc_read_world(e, pid, &c) < 0)
		return forgets(p) ? NULL : "its children end";
	if (c.tracer == p->pid)
		return "it traces its child";
	if (c.sid != p->sid && c.sid != pid)
		return "its child is in another session";
	if ((c.pgid == pid) != leaders)
		return NULL;
	rec = (struct rec_epm_child){.pid = pid,
				     .pgid = c.pgid,
				     .leads = c.sid != p->sid,
				     .exit_signal = c.exit_signal,
				     .uid = c.uid[0],
				     .gid = c.gid[0]};
	rec_epm_child_encode(&rec, ret);
	return NULL;
}

const char *kin_describe(struct epm *e, const struct proc_info *p, nodeid to, const i32 *pids,
			 unsigned n, struct krg_buf *ret)
{
	const char *why = n > EPM_CHILDREN_MAX ? "it has too many children" : NULL;

	for (unsigned i = 0; why == NULL && i < n; i++)
		why = describe_one(e, p, to, pids[i], true, ret);
	for (unsigned i = 0; why == NULL && i < n; i++)
		why = describe_one(e, p, to, pids[i], false, ret);
	return why;
}

void kin_tell(struct epm *e, struct task *deputy, i32 child, i32 code, i32 status)
{
	KRG_AUTO_BUF struct krg_buf b = {0};
	struct rec_epm_kin m = {.pid = deputy->pid, .child = child, .code = code, .status = status};
	int r;

	/* what it wrote to its parent, and what it does not read any more, is known there first */
	for (unsigned i = 0; i < deputy->nstreams; i++)
		stream_push(e->stream, &deputy->streams[i]);
	rec_epm_kin_encode(&m, &b);
	r = comm_send(e->comm, deputy->peer, EPM_OP_CHILD, &b);
	if (r < 0 && r != -EHOSTDOWN && !atomic_load(&e->stopping))
		LOG_W("epm", "deputy %d: tell node %u of its child %d: %s", deputy->pid,
		      deputy->peer, child, strerror(-r));
}

static bool is_among(const i32 *pids, unsigned n, i32 pid)
{
	for (unsigned i = 0; i < n; i++)
		if (pids[i] == pid)
			return true;
	return false;
}

bool kin_is_same(struct epm *e, const struct task *deputy)
{
	KRG_AUTO_FREE i32 *now = NULL;
	unsigned n = kin_pids(e, deputy->pid, &now);

	for (unsigned i = 0; i < n; i++)
		if (!is_among(deputy->children, deputy->nchildren, now[i]))
			return false;
	/* if they end without a trace: kin_settle() */
	return n == deputy->nchildren || deputy->forgets;
}

/* With SIGCHLD ignored the kernel forgets them; so does the body's, whatever the status. */
void kin_settle(struct epm *e, struct task *deputy)
{
	KRG_AUTO_FREE i32 *now = NULL;
	unsigned n;

	if (!deputy->forgets)
		return;
	n = kin_pids(e, deputy->pid, &now);
	for (unsigned i = 0; i < deputy->nchildren; i++)
		if (!is_among(now, n, deputy->children[i]))
			kin_tell(e, deputy, deputy->children[i], CLD_EXITED, 0);
}

/* Somebody near the body sent it to the shadow. */
void handle_child_signal(void *ctx, struct comm_req *req)
{
	struct epm *e = ctx;
	struct krg_rd rd = krg_rd_slice(req->body);
	TASK_AUTO_PUT struct task *deputy = NULL;
	PROC_AUTO struct proc_info p = {0};
	struct rec_epm_signal s;

	if (rec_epm_signal_decode(&rd, &s) == 0 && s.sig > 0 && s.sig <= 64 &&
	    proc_read_world(e, s.pid, &p) == 0)
		deputy = task_find(e, TASK_DEPUTY, p.ppid);
	if (deputy != NULL && deputy->peer == req->from) {
		/* SIGKILL: the shadow is dead of it */
		struct rec_epm_kill k = {.target = s.pid,
					 .sig = s.sig,
					 .code = s.code,
					 .value = s.value,
					 .from_pid = s.from_pid,
					 .uid = s.from_uid,
					 .euid = s.from_uid,
					 .cap_kill = s.sig == SIGKILL};

		if (!signals_add_child(e, &k))
			LOG_W("epm", "too many signals wait: %d for pid %d is lost", s.sig, s.pid);
	}
	comm_req_done(req);
}

/* ---- where the body is ---- */

bool kin_is_shadow(struct epm *e, pid_t pid)
{
	TASK_AUTO_PUT struct task *t = NULL;

	if (atomic_load(&e->nshadows) > 0)
		t = task_find(e, TASK_SHADOW, pid);
	return t != NULL;
}

static int child_decode(struct krg_rd *rd, nodeid from, struct rec_epm_child *ret)
{
	if (rec_epm_child_decode(rd, ret) < 0 || epm_pid_home(ret->pid) != from || ret->pgid <= 0 ||
	    ret->exit_signal < 0 || ret->exit_signal > 64)
		return -EBADMSG;
	return 0;
}

int kin_groups(struct epm *e, struct session *s, const struct rec_epm_prepare *in,
	       struct krg_slice children, struct krg_err *err)
{
	struct krg_rd rd = krg_rd_slice(children);
	i32 leaders[EPM_CHILDREN_MAX];
	unsigned n = 0, nleaders = 0;
	struct rec_epm_child c;

	for (; krg_rd_left(&rd) > 0; n++) {
		int r;

		if (n == EPM_CHILDREN_MAX || child_decode(&rd, epm_pid_home(in->pid), &c) < 0)
			return krg_err_set(err, -EBADMSG, "PREPARE: the children");
		if (c.pgid == c.pid)
			leaders[nleaders++] = c.pid;
		if (is_among(leaders, nleaders, c.pgid) || c.pgid == in->pid || c.pgid == in->sid)
			continue;
		r = session_group(e, s, c.pgid);
		if (r < 0)
			return krg_err_set(err, r, "make group %d on this node", c.pgid);
	}
	return 0;
}

static int hello(int channel)
{
	struct pollfd p = {.fd = channel, .events = POLLIN};
	struct vessel_msg m;

	if (poll(&p, 1, HELLO_MS) != 1 ||
	    recv(channel, &m, sizeof(m), MSG_DONTWAIT) != (ssize_t)sizeof(m))
		return -ESRCH;
	return m.type == VESSEL_HELLO ? 0 : -EPROTO;
}

static int begin_one(struct epm *e, const struct task *body, const struct rec_epm_child *c,
		     int channel)
{
	TASK_AUTO_PUT struct task *t = task_new(e, TASK_SHADOW, c->pid, body->peer);
	char name[16];
	int r;

	t->channel = channel;
	t->ppid = body->pid;
	t->state = TASK_RUNNING;
	r = hello(channel);
	if (r < 0)
		return r;
	/* nobody has waited for it yet, so this is it; a directory of /proc is good as a pidfd */
	(void)snprintf(name, sizeof(name), "%d", c->pid);
	t->pidfd = openat(e->world_proc, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (t->pidfd < 0)
		return -ESRCH;
	r = task_insert(e, t);
	if (r == 0) {
		r = deputy_watch_shadow(e, t);
		if (r < 0)
			task_remove(e, t);
	}
	return r;
}

int kin_begin(struct epm *e, const struct task *body, struct krg_slice children,
	      struct shadow_channels *channels, struct krg_err *err)
{
	struct krg_rd rd = krg_rd_slice(children);
	struct rec_epm_child c;
	unsigned i;
	int r = 0;

	for (i = 0; r == 0 && krg_rd_left(&rd) > 0; i++) {
		r = i < channels->n ? child_decode(&rd, body->peer, &c) : -EPROTO;
		if (r < 0)
			break;
		r = begin_one(e, body, &c, channels->fd[i]);
		channels->fd[i] = -EBADF;
	}
	return r < 0 ? krg_err_set(err, r, "the shadow of a child") : 0;
}

static void shadow_signal(const struct task *shadow, int sig)
{
	(void)syscall(SYS_pidfd_send_signal, shadow->pidfd, sig, NULL, 0);
}

static void shadow_end(struct epm *e, struct task *shadow)
{
	task_lock(&shadow->lock);
	if (shadow->state != TASK_ENDED)
		task_move_locked(shadow, TASK_ENDED);
	task_unlock(&shadow->lock);
	shadow_signal(shadow, SIGKILL); /* it may stand */
	(void)epoll_ctl(e->deputy_epoll, EPOLL_CTL_DEL, shadow->channel, NULL);
	task_remove(e, shadow);
}

void kin_end(struct epm *e, const struct task *body)
{
	struct task **all;
	unsigned n;

	if (atomic_load(&e->nshadows) == 0)
		return;
	n = task_all(e, TASK_SHADOW, &all);
	for (unsigned i = 0; i < n; i++) {
		if (all[i]->ppid == body->pid)
			shadow_end(e, all[i]);
		task_put(all[i]);
	}
	free(all);
}

static void pass_home(struct epm *e, const struct task *shadow, const struct vessel_msg *m)
{
	KRG_AUTO_BUF struct krg_buf b = {0};
	struct rec_epm_signal s = {.pid = shadow->pid,
				   .sig = m->value,
				   .code = m->code,
				   .from_pid = m->pid,
				   .from_uid = m->uid,
				   .value = m->arg[0]};

	rec_epm_signal_encode(&s, &b);
	if (comm_send(e->comm, shadow->peer, EPM_OP_CHILD_SIGNAL, &b) < 0)
		LOG_D("epm", "shadow %d: signal %d is lost with node %u", shadow->pid, m->value,
		      shadow->peer);
}

void kin_on_channel(struct epm *e, struct task *shadow)
{
	struct vessel_msg m = {0};
	ssize_t n = recv(shadow->channel, &m, sizeof(m), MSG_DONTWAIT);
	bool killed;

	if (n == (ssize_t)sizeof(m)) {
		if (m.type == VESSEL_SIGNAL && m.value > 0 && m.value <= 64)
			pass_home(e, shadow, &m);
		else if (m.type == VESSEL_ANSWER)
			task_answered(shadow, &m);
		return;
	}
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	task_lock(&shadow->lock);
	killed = shadow->state == TASK_RUNNING;
	if (shadow->state != TASK_ENDED)
		task_move_locked(shadow, TASK_ENDED);
	task_unlock(&shadow->lock);
	if (killed) {
		m = (struct vessel_msg){.value = SIGKILL};
		pass_home(e, shadow, &m);
	}
	(void)epoll_ctl(e->deputy_epoll, EPOLL_CTL_DEL, shadow->channel, NULL);
	task_remove(e, shadow);
}

/* A terminal's stop signal does not stop an orphaned group, and the body's is one to its kernel. */
static bool group_is_bodys(struct epm *e, const struct task *shadow)
{
	PROC_AUTO struct proc_info s = {0}, b = {0};

	return proc_read_world(e, shadow->pid, &s) < 0 ||
	       proc_read_world(e, shadow->ppid, &b) < 0 || s.pgid == b.pgid;
}

static void do_alike(struct epm *e, struct task *shadow, i32 code, i32 status)
{
	struct vessel_msg v = {.type = VESSEL_STOP, .value = status};

	if (code == CLD_STOPPED) {
		if (!signal_is_tty_stop(status) || group_is_bodys(e, shadow))
			shadow_signal(shadow, SIGSTOP);
		else
			(void)vessel_say(shadow, &v);
		return;
	}
	if (code == CLD_CONTINUED) {
		v.type = VESSEL_GO;
	} else {
		task_lock(&shadow->lock);
		if (shadow->state == TASK_RUNNING)
			task_move_locked(shadow, TASK_ENDING);
		task_unlock(&shadow->lock);
		v.type = VESSEL_EXIT;
		v.value = wstatus_of(code, status);
	}
	(void)vessel_say(shadow, &v);
	shadow_signal(shadow, SIGCONT);
}

static void child(void *ctx, struct comm_req *req)
{
	struct epm *e = ctx;
	struct krg_rd rd = krg_rd_slice(req->body);
	TASK_AUTO_PUT struct task *shadow = NULL;
	struct rec_epm_kin m;

	if (rec_epm_kin_decode(&rd, &m) == 0)
		shadow = task_find(e, TASK_SHADOW, m.child);
	if (shadow != NULL && shadow->peer == req->from && shadow->ppid == m.pid)
		do_alike(e, shadow, m.code, m.status);
	comm_req_done(req);
}

void handle_child(void *ctx, struct comm_req *req)
{
	signals_news(ctx, req, child);
}

/* The children died with their home. */
void kin_on_node_down(struct epm *e, nodeid node)
{
	struct task **all;
	unsigned n;

	if (atomic_load(&e->nshadows) == 0)
		return;
	n = task_all(e, TASK_SHADOW, &all);
	for (unsigned i = 0; i < n; i++) {
		if (all[i]->peer == node)
			do_alike(e, all[i], CLD_KILLED, SIGKILL);
		task_put(all[i]);
	}
	free(all);
}
