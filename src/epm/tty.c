/* tty.c - job control of terminals over nodes.
 *
 * A terminal is the controlling one where its session's leader is (the session's home): there the kernel keeps the
 * group in front, and signals it.  Members of the session on other nodes have it as a stand-in.  What they ask
 * of it goes there; what they may not do from the background is found there; and what the terminal's driver
 * signals there is told by a member of the group (krggroup) to the members that are at home elsewhere.
 */
#include "tty_impl.h"
#include <asm/ioctls.h>
#include <fcntl.h>
#include <linux/major.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>

#define SIGNAL_WAIT_MS 2000

/* ---- who ---- */

static i32 last_number(const char *text, const char *name)
{
	const char *at = strstr(text, name);
	long v = 0;

	for (at = at != NULL ? at + strlen(name) : NULL; at != NULL && *at == '\t';) {
		char *end;

		v = strtol(at, &end, 10);
		at = end;
	}
	return (i32)v;
}

static u64 mask_of(const char *text, const char *name)
{
	const char *at = strstr(text, name);

	return at != NULL ? strtoull(at + strlen(name), NULL, 16) : 0;
}

int caller_read(u32 tid, struct caller *ret)
{
	char path[32], text[8192];

	(void)snprintf(path, sizeof(path), "/proc/%u/status", tid);
	if (krg_read_file(path, text, sizeof(text)) <= 0)
		return -ESRCH;
	*ret = (struct caller){.pid = last_number(text, "\nNStgid:"),
			       .pgid = last_number(text, "\nNSpgid:"),
			       .sid = last_number(text, "\nNSsid:"),
			       .pending =
				       mask_of(text, "\nSigPnd:\t") | mask_of(text, "\nShdPnd:\t"),
			       .blocked = mask_of(text, "\nSigBlk:\t"),
			       .ignored = mask_of(text, "\nSigIgn:\t"),
			       .caught = mask_of(text, "\nSigCgt:\t")};
	return ret->sid > 0 ? 0 : -ESRCH;
}

bool caller_hears(const struct caller *who, int sig)
{
	return ((who->blocked | who->ignored) >> (sig - 1) & 1) == 0;
}

/* ---- at the session's home ---- */

/* The session's leader, if that is its terminal. */
bool tty_leader(struct epm *e, u64 rdev, i32 sid, struct proc_info *ret)
{
	return proc_read_world(e, sid, ret) == 0 && ret->sid == sid && ret->tty != 0 &&
	       (u32)ret->tty == (u32)rdev;
}

static void group_tells(struct epm *e, struct session *s, i32 pgid)
{
	int r = session_group_tells(e, s, pgid);

	if (r < 0)
		LOG_D("epm", "group %d of session %d: nobody tells its signals: %s", pgid, s->sid,
		      strerror(-r));
}

/* Somebody in the session must ask for it: its nursery, or a deputy. */
static int front_set(struct epm *e, const struct rec_epm_tty *m)
{
	struct session *s = session_find(e, m->sid);
	int r;

	if (s == NULL)
		return tty_front_by_deputy(e, m);
	if (m->elsewhere)
		group_tells(e, s, m->pgid);
	r = session_front(s, m->pgid);
	session_put(s);
	return r;
}

static void tty_serve(struct epm *e, const struct rec_epm_tty *m, struct rec_epm_tty_r *ret)
{
	PROC_AUTO struct proc_info leader = {0};

	*ret = (struct rec_epm_tty_r){.result = -ENOTTY, .front = -1};
	if (!tty_leader(e, m->rdev, m->sid, &leader))
		return;
	ret->front = tty_group_meant(e, leader.tty_front);
	ret->result = m->cmd == TIOCSPGRP ? front_set(e, m) : 0;
}

void handle_tty(void *ctx, struct comm_req *req)
{
	struct krg_rd rd = krg_rd_slice(req->body);
	KRG_AUTO_BUF struct krg_buf b = {0};
	struct rec_epm_tty_r r;
	struct rec_epm_tty m;

	if (rec_epm_tty_decode(&rd, &m) < 0) {
		comm_req_fail(req, -EBADMSG, "terminal");
		return;
	}
	tty_serve(ctx, &m, &r);
	rec_epm_tty_r_encode(&r, &b);
	comm_req_answer(req, &b);
}

/* [net] */
static int tty_ask(struct epm *e, const struct rec_epm_tty *m, struct rec_epm_tty_r *ret)
{
	COMM_AUTO_REPLY struct comm_reply reply = {0};
	KRG_AUTO_BUF struct krg_buf b = {0};
	nodeid home = epm_pid_home(m->sid);
	struct krg_err err;
	struct krg_rd rd;
	int r;

	*ret = (struct rec_epm_tty_r){.result = -ENOTTY, .front = -1};
	if (home == KRG_NODE_NONE)
		return 0;
	if (home == e->self) {
		tty_serve(e, m, ret);
		return 0;
	}
	rec_epm_tty_encode(m, &b);
	r = comm_call(e->comm, home, EPM_OP_TTY, &b, 10000, &reply, &err);
	if (r < 0)
		return -EIO;
	rd = krg_rd_slice(reply.body);
	return rec_epm_tty_r_decode(&rd, ret) < 0 || ret->result > 0 ? -EIO : 0;
}

void handle_orphan(void *ctx, struct comm_req *req)
{
	struct krg_rd rd = krg_rd_slice(req->body);
	KRG_AUTO_BUF struct krg_buf b = {0};
	struct rec_epm_value v;
	struct rec_epm_which w;

	if (rec_epm_which_decode(&rd, &w) < 0) {
		comm_req_fail(req, -EBADMSG, "orphan");
		return;
	}
	v.value = proc_group_is_orphan(ctx, w.pid);
	rec_epm_value_encode(&v, &b);
	comm_req_answer(req, &b);
}

/* [net] As the kernel of its home sees it. */
bool tty_is_orphan(struct epm *e, i32 pid)
{
	TASK_AUTO_PUT struct task *body = task_find(e, TASK_BODY, pid);
	COMM_AUTO_REPLY struct comm_reply reply = {0};
	KRG_AUTO_BUF struct krg_buf b = {0};
	struct rec_epm_which w = {.pid = pid};
	struct rec_epm_value v;
	struct krg_err err;
	struct krg_rd rd;

	if (body == NULL)
		return proc_group_is_orphan(e, pid);
	rec_epm_which_encode(&w, &b);
	if (comm_call(e->comm, body->peer, EPM_OP_ORPHAN, &b, 10000, &reply, &err) < 0)
		return true;
	rd = krg_rd_slice(reply.body);
	return rec_epm_value_decode(&rd, &v) < 0 || v.value != 0;
}

/* ---- /dev/tty ---- */

bool tty_has(struct epm *e, const struct proc_info *host, const struct proc_info *world)
{
	return host->tty != 0 || session_class(e, world->sid, false) == NURSERY_AWAY;
}

/* A description of its own of the session's terminal, by its name in /dev. */
static int terminal_open(struct epm *e, i32 sid, u32 flags)
{
	PROC_AUTO struct proc_info leader = {0};
	unsigned major_, minor_;
	struct stat st;
	char path[64];
	int fd;

	if (proc_read_world(e, sid, &leader) < 0 || leader.sid != sid || leader.tty == 0)
		return -ENXIO;
	major_ = major((dev_t)(u32)leader.tty);
	minor_ = minor((dev_t)(u32)leader.tty);
	if (major_ >= UNIX98_PTY_SLAVE_MAJOR && major_ < UNIX98_PTY_SLAVE_MAJOR + 8)
		(void)snprintf(path, sizeof(path), "/dev/pts/%u",
			       (major_ - UNIX98_PTY_SLAVE_MAJOR) * 256 + minor_);
	else
		(void)snprintf(path, sizeof(path), "/dev/char/%u:%u", major_, minor_);
	/* O_NONBLOCK: a serial line's open waits for a carrier, which /dev/tty's would not */
	fd = open(path, (int)(flags & O_ACCMODE) | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	if (fd < 0)
		return -ENXIO;
	if (fstat(fd, &st) < 0 || (u32)st.st_rdev != (u32)leader.tty ||
	    fcntl(fd, F_SETFL, (int)(flags & (O_NONBLOCK | O_APPEND))) < 0) {
		(void)close(fd);
		return -ENXIO;
	}
	return fd;
}

void handle_tty_open(void *ctx, struct comm_req *req)
{
	struct epm *e = ctx;
	struct krg_rd rd = krg_rd_slice(req->body);
	KRG_AUTO_BUF struct krg_buf b = {0};
	KRG_AUTO_FD int fd = -EBADF;
	struct rec_epm_tty_open m;
	struct rec_stream_ref ref;
	struct krg_err err = {0};

	if (rec_epm_tty_open_decode(&rd, &m) < 0) {
		comm_req_fail(req, -EBADMSG, "open of a terminal");
		return;
	}
	fd = terminal_open(e, m.sid, m.flags);
	if (fd < 0) {
		comm_req_fail(req, fd, "session %d has no terminal", m.sid);
	} else if (stream_export(e->stream, fd, STREAM_STANDIN, req->from, &ref, &err) < 0) {
		comm_req_fail_err(req, &err);
	} else {
		rec_stream_ref_encode(&ref, &b);
		comm_req_answer(req, &b);
	}
}

int tty_open(struct epm *e, u32 tid, u32 flags, int *ret_fd)
{
	COMM_AUTO_REPLY struct comm_reply reply = {0};
	KRG_AUTO_BUF struct krg_buf b = {0};
	struct rec_epm_tty_open m = {.flags = flags};
	struct rec_stream_ref ref;
	struct krg_err err;
	struct caller who;
	struct krg_rd rd;
	nodeid home;
	int r;

	if (caller_read(tid, &who) < 0)
		return -ENXIO;
	home = epm_pid_home(who.sid);
	if (home == e->self || home == KRG_NODE_NONE)
		return -ENXIO;
	m.sid = who.sid;
	rec_epm_tty_open_encode(&m, &b);
	r = comm_call(e->comm, home, EPM_OP_TTY_OPEN, &b, 10000, &reply, &err);
	if (r < 0)
		return r == -ENXIO ? r : -EIO;
	rd = krg_rd_slice(reply.body);
	if (rec_stream_ref_decode(&rd, &ref) < 0 || ref.origin != home)
		return -EIO;
	r = stream_import(e->stream, &ref, ret_fd, &err);
	if (r < 0)
		stream_cancel(e->stream, &ref, e->self);
	return r < 0 ? -EIO : 0;
}

/* ---- what the terminal's driver signals ---- */

void tty_body_comes(struct epm *e, struct session *s, i32 pgid)
{
	PROC_AUTO struct proc_info leader = {0};

	if (epm_pid_is_ours(e, s->sid) && proc_read_world(e, s->sid, &leader) == 0 &&
	    leader.tty != 0)
		group_tells(e, s, pgid);
}

void tty_task_goes(struct epm *e, const struct proc_info *host, const struct proc_info *world)
{
	struct session *s = host->tty != 0 ? session_find(e, world->sid) : NULL;

	if (s == NULL)
		return;
	group_tells(e, s, world->pgid);
	session_put(s);
}

void tty_tell_nodes(struct epm *e, const struct group_signal *g)
{
	KRG_AUTO_BUF struct krg_buf b = {0};
	struct rec_epm_tty_signal m = {.sid = g->sid, .pgid = g->pgid, .sig = g->sig};

	if (g->sig <= 0 || g->sig > 64 || epm_pid_home(g->sid) != e->self)
		return;
	/* asked of one that is in the group here; a group that has only members elsewhere has its
	 * parents there, too */
	if (signal_is_tty_stop(g->sig))
		m.stops = 1;
	rec_epm_tty_signal_encode(&m, &b);
	for (nodeid i = 0; i < KRG_NODES_MAX; i++)
		if (i != e->self && comm_is_member(e->comm, i) &&
		    comm_send(e->comm, i, EPM_OP_TTY_SIGNAL, &b) < 0)
			LOG_D("epm", "signal %d for group %d: node %u is gone", g->sig, g->pgid, i);
}

bool tty_is_of_driver(int sig, int code)
{
	return code == SI_KERNEL && (sig == SIGINT || sig == SIGQUIT || sig == SIGHUP ||
				     sig == SIGCONT || sig == SIGWINCH || signal_is_tty_stop(sig));
}

/* The first deputy of the group. */
static bool is_teller(struct epm *e, const struct task *t, const struct proc_info *own)
{
	struct task **all;
	unsigned n = task_all(e, TASK_DEPUTY, &all);
	bool first = true;

	for (unsigned i = 0; i < n; i++) {
		PROC_AUTO struct proc_info p = {0};

		if (first && all[i]->pid < t->pid && proc_read_world(e, all[i]->pid, &p) == 0 &&
		    p.pgid == own->pgid && p.state != 'Z')
			first = false;
		task_put(all[i]);
	}
	free(all);
	return first;
}

void tty_deputy_heard(struct epm *e, struct task *t, int sig, int code)
{
	PROC_AUTO struct proc_info p = {0};
	struct group_signal g = {.sig = sig};
	struct session *s;

	if (!tty_is_of_driver(sig, code) || proc_read_world(e, t->pid, &p) < 0 || p.tty == 0)
		return;
	s = session_find(e, p.sid);
	if (s != NULL) { /* its placeholder tells */
		session_put(s);
		return;
	}
	g.sid = p.sid;
	g.pgid = p.pgid;
	if (is_teller(e, t, &p))
		tty_tell_nodes(e, &g);
}

static void signal_member(struct epm *e, const struct rec_epm_tty_signal *m,
			  const struct proc_info *p)
{
	KRG_AUTO_FD int fd = -EBADF;
	int sig = m->sig;

	/* Its kernel knows only of the group's members here, and may take the group for an orphan, which
	 * is not stopped by these. */
	if (m->stops != 0 &&
	    ((p->sig_caught | p->sig_ignored | p->sig_blocked) >> (sig - 1) & 1) == 0 &&
	    proc_group_is_orphan(e, p->pid))
		sig = SIGSTOP;
	if (proc_open(e, p->pid, &fd) == 0)
		(void)syscall(SYS_pidfd_send_signal, fd, sig, NULL, 0);
}

/* Its body has taken its place.  Before that signals for the body are dropped: they are for its home. */
static bool is_prepared(struct task *deputy)
{
	KRG_GUARD(task, &deputy->lock);
	return deputy->prepared;
}

/* To the group's members that are at home here: the others' deputies hear of it where they are, and what was moved to
 * the sender's node has heard of it there. */
void handle_tty_signal(void *ctx, struct comm_req *req)
{
	struct epm *e = ctx;
	struct krg_rd rd = krg_rd_slice(req->body);
	KRG_AUTO_FREE pid_t *all = NULL;
	struct rec_epm_tty_signal m;
	unsigned n = 0;

	if (rec_epm_tty_signal_decode(&rd, &m) == 0 && m.sig > 0 && m.sig <= 64 &&
	    epm_pid_home(m.sid) == req->from)
		n = proc_all(e, &all);
	for (unsigned i = 0; i < n; i++) {
		TASK_AUTO_PUT struct task *deputy = NULL;
		PROC_AUTO struct proc_info p = {0};

		if (!epm_pid_is_ours(e, all[i]) || proc_read_world(e, all[i], &p) < 0 ||
		    p.pgid != m.pgid || p.sid != m.sid || session_owns_pid(e, all[i]))
			continue;
		deputy = task_find(e, TASK_DEPUTY, all[i]);
		if (deputy == NULL || deputy->peer != req->from || !is_prepared(deputy))
			signal_member(e, &m, &p);
	}
	comm_req_done(req);
}

/* ---- ioctls ---- */

/* A signal on its way by another node has come: the task acts on it when its call returns. */
static bool signal_comes(u32 tid)
{
	u64 until = krg_clock_now_ns() + SIGNAL_WAIT_MS * KRG_MSEC;
	struct caller now;

	while (caller_read(tid, &now) == 0) {
		if ((now.pending & ~now.blocked) != 0)
			return true;
		if (krg_clock_now_ns() > until)
			return false;
		(void)poll(NULL, 0, 1);
	}
	return false;
}

/* [net] The caller's group gets SIGTTOU, and the call is made again when it goes on. */
static int from_background(struct gate_call *c, const struct caller *who)
{
	struct rec_epm_kill k = {
		.target = who->pgid, .sig = SIGTTOU, .cap_kill = 1, .sid = who->sid};

	if (tty_is_orphan(c->e, who->pid))
		return -EIO;
	(void)kill_group(c->e, &k);
	return signal_comes((u32)c->req.pid) ? -ERESTARTSYS : -EIO;
}

void tty_stop_wait(struct gate_call *c, const struct rec_epm_kill *k)
{
	TASK_AUTO_PUT struct task *body = NULL;
	struct caller who;

	if (c->cont || c->error != 0 || caller_read((u32)c->req.pid, &who) < 0 ||
	    (k->target != who.pid && k->target != who.pgid) || !caller_hears(&who, k->sig))
		return;
	body = task_find(c->e, TASK_BODY, who.pid);
	/* an orphan's home drops it, unless there is a handler */
	if (body != NULL &&
	    ((who.caught >> (k->sig - 1) & 1) != 0 || !tty_is_orphan(c->e, who.pid)))
		(void)signal_comes((u32)c->req.pid);
}

static int may_change(struct gate_call *c, const struct caller *who, i32 front)
{
	if (front <= 0 || front == who->pgid || !caller_hears(who, SIGTTOU))
		return 0;
	return from_background(c, who);
}

int tty_may_change(struct gate_call *c, const struct rec_stream_ref *ref)
{
	struct rec_epm_tty m = {.rdev = ref->rdev};
	struct rec_epm_tty_r res;
	struct caller who;

	if (!S_ISCHR(ref->mode) || caller_read((u32)c->req.pid, &who) < 0)
		return 0;
	m.sid = who.sid;
	return tty_ask(c->e, &m, &res) < 0 ? 0 : may_change(c, &who, res.front);
}

int tty_group_is_here(struct epm *e, i32 pgid, i32 sid)
{
	KRG_AUTO_FREE pid_t *all = NULL;
	unsigned n = proc_all(e, &all);

	for (unsigned i = 0; i < n; i++) {
		PROC_AUTO struct proc_info p = {0};

		if (proc_read_world(e, all[i], &p) == 0 && p.pgid == pgid &&
		    !session_owns_pid(e, all[i]))
			return p.sid == sid ? 1 : -EPERM;
	}
	return 0;
}

/* [net] */
static int bring_to_front(struct gate_call *c, const struct caller *who, struct rec_epm_tty *m,
			  u64 at)
{
	struct rec_epm_tty_r res;
	int r;

	if (memread_now((pid_t)c->req.pid, at, &m->pgid, sizeof(m->pgid)) < 0)
		return -EFAULT;
	r = tty_ask(c->e, m, &res);
	if (r == 0 && res.front < 0)
		return -ENOTTY;
	if (r == 0)
		r = may_change(c, who, res.front);
	if (r == 0 && m->pgid < 0)
		r = -EINVAL;
	if (r == 0)
		r = tty_group_is_here(c->e, m->pgid, who->sid);
	if (r < 0)
		return r;
	m->elsewhere = r > 0;
	m->cmd = TIOCSPGRP;
	r = tty_ask(c->e, m, &res);
	return r < 0 ? r : res.result;
}

int tty_job_call(struct gate_call *c, const struct rec_stream_ref *ref, u32 cmd, u64 at)
{
	struct rec_epm_tty m = {.rdev = ref->rdev};
	struct rec_epm_tty_r res;
	struct caller who;
	i32 value;
	int r;

	if (caller_read((u32)c->req.pid, &who) < 0)
		return -ENOTTY;
	m.pid = who.pid;
	m.sid = who.sid;
	if (cmd == TIOCSPGRP)
		return bring_to_front(c, &who, &m, at);
	r = tty_ask(c->e, &m, &res);
	if (r < 0)
		return r;
	if (res.front < 0)
		return cmd == TIOCSCTTY ? -EPERM : -ENOTTY;
	if (cmd == TIOCSCTTY)
		return 0; /* it has it */
	if (cmd == TIOCNOTTY)
		return -EPERM; /* only one's own session can leave it: README, Known differences */
	value = cmd == TIOCGSID ? who.sid : res.front;
	return memwrite((pid_t)c->req.pid, at, &value, sizeof(value)) < 0 ? -EFAULT : 0;
}
