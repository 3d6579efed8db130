/* restart.c - a krgd that finds the world of another, which has died (README.md, Restart).
 *
 * epm_start() rebuilds the tables from what the keeper held; nothing is served yet, so that nobody hears "no such
 * process" of a node that is only not in the view yet.  epm_return(), in the view again, asks the nodes of the bodies
 * what became of them, ends what has lost its other half, sees to the calls that the other krgd had received, and
 * begins to serve.  Between the two, a krgd that fails leaves all as it was for the next one.
 */
#include "epm_impl.h"
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#define RETURN_TRIES 100 /* so often, 50 ms apart, a node is asked that has not yet seen us fail */
#define RETURN_MS    10000

/* ---- the tables ---- */

static int take_world(struct epm *e, struct kept *k, struct krg_err *err)
{
	struct krg_rd rd = krg_rd_slice(krg_buf_slice(&k->blob));
	struct rec_epm_keep_world w;
	struct stat st;
	void *p;

	if (k->nfds != KEEP_WORLD_FDS || rec_epm_keep_world_decode(&rd, &w) < 0)
		return krg_err_set(err, -EBADMSG, "world: what the keeper has of it");
	e->since = w.since;
	e->clock_offset_ns = w.clock_offset_ns;
	e->init_sock = TAKE_FD(k->fd[0]);
	e->world_proc = TAKE_FD(k->fd[1]);
	e->log_fd = TAKE_FD(k->fd[2]);
	e->tell[0] = TAKE_FD(k->fd[3]);
	e->tell[1] = TAKE_FD(k->fd[4]);
	e->herald.sock = TAKE_FD(k->fd[5]);
	for (int c = 0; c < NURSERY_NR; c++) {
		e->listener[c] = TAKE_FD(k->fd[6 + 2 * c]);
		e->root[c].sock = TAKE_FD(k->fd[7 + 2 * c]);
		if (nursery_sync(&e->root[c]) < 0)
			return krg_err_set(err, -ESRCH, "world: a nursery is gone");
	}
	if (fstat(e->log_fd, &st) < 0 || st.st_size != sizeof(*e->log))
		return krg_err_set(err, -EBADMSG, "world: the log of the gate");
	p = mmap(NULL, sizeof(*e->log), PROT_READ | PROT_WRITE, MAP_SHARED, e->log_fd, 0);
	if (p == MAP_FAILED)
		return krg_err_set(err, -errno, "world: the log of the gate");
	e->log = p;
	return 0;
}

static void take_session(struct epm *e, struct kept *k)
{
	struct krg_rd rd = krg_rd_slice(krg_buf_slice(&k->blob));
	struct rec_epm_keep_session rec;
	struct nursery n = {.sock = k->fd[0]};
	int r;

	if (k->nfds != 1 || rec_epm_keep_session_decode(&rd, &rec) < 0 || rec.class >= NURSERY_NR)
		return;
	krg_mutex_init(&n.lock);
	r = nursery_sync(&n);
	krg_mutex_fini(&n.lock);
	if (r < 0)
		keep_drop(e, KEEP_SESSION, rec.sid);
	else
		session_adopt(e, &rec, TAKE_FD(k->fd[0]));
}

static void take_group(struct epm *e, struct kept *k)
{
	struct krg_rd rd = krg_rd_slice(krg_buf_slice(&k->blob));
	struct rec_epm_keep_group rec;
	struct placeholder g;

	if (k->nfds != 1 || rec_epm_keep_group_decode(&rd, &rec) < 0)
		return;
	g = (struct placeholder){.pgid = rec.pgid,
				 .pid = rec.pid,
				 .tells = rec.tells != 0,
				 .sock = TAKE_FD(k->fd[0])};
	session_adopt_group(e, rec.sid, &g);
}

static bool has_ended(int pidfd)
{
	struct pollfd p = {.fd = pidfd, .events = POLLIN};

	return poll(&p, 1, 0) != 0;
}

static void end_by_pidfd(int pidfd)
{
	(void)syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0);
}

static void child_end(struct epm *e, i32 pid)
{
	KRG_AUTO_FD int dir = -EBADF;
	char name[16];

	(void)snprintf(name, sizeof(name), "%d", pid);
	/* a directory of /proc is good as a pidfd (pidfd_send_signal(2)) */
	dir = openat(e->world_proc, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir >= 0)
		end_by_pidfd(dir);
}

/* The body saw its shadows end by SIGKILL, when its node saw this one fail. */
static void children_end(struct epm *e, const struct rec_epm_keep_deputy *rec)
{
	struct krg_rd rd = krg_rd_slice(rec->children);

	while (krg_rd_left(&rd) >= 4) {
		struct proc_info p;
		i32 child = (i32)krg_rd_u32(&rd);

		if (proc_read_world_stat(e, child, &p) == 0 && p.ppid == rec->pid)
			child_end(e, child);
	}
}

static void take_deputy(struct epm *e, struct kept *k)
{
	struct krg_rd rd = krg_rd_slice(krg_buf_slice(&k->blob));
	struct rec_epm_keep_deputy rec;
	struct task *t;

	if (k->nfds != 2 || rec_epm_keep_deputy_decode(&rd, &rec) < 0 || rec.peer >= KRG_NODES_MAX)
		return;
	/* Not told to go: its body has ended, with nothing run.  If it is not the deputy yet, it makes its exec again. */
	if (rec.runs == 0 && convert_state(e, rec.host_tid) == CONVERTING_GONE)
		end_by_pidfd(k->fd[1]);
	if (rec.runs == 0 || has_ended(k->fd[1])) {
		if (convert_state(e, rec.host_tid) == CONVERTING_GONE)
			convert_forget(e, rec.host_tid);
		keep_drop(e, KEEP_DEPUTY, rec.pid);
		return;
	}
	children_end(e, &rec);
	t = task_new(e, TASK_DEPUTY, rec.pid, rec.peer);
	t->state = TASK_RUNNING;
	t->exec_id = rec.exec_id;
	t->host_pid = rec.host_pid;
	t->host_tid = rec.host_tid;
	t->path = krg_slice_strdup(rec.path);
	t->channel = TAKE_FD(k->fd[0]);
	t->pidfd = TAKE_FD(k->fd[1]);
	t->call_id = (u32)(krg_clock_now_ns() >> 10); /* no answer to the other krgd is one to us */
	if (task_insert(e, t) == 0)
		(void)deputy_watch(e, t);
	task_put(t);
}

static void take_orphan(struct epm *e, struct kept *k)
{
	struct krg_rd rd = krg_rd_slice(krg_buf_slice(&k->blob));
	struct rec_epm_keep_body rec;
	struct task *t;

	if (k->nfds != 1 || rec_epm_keep_body_decode(&rd, &rec) < 0 || rec.peer >= KRG_NODES_MAX)
		return;
	t = task_new(e, TASK_BODY, rec.pid, rec.peer);
	t->state = TASK_RUNNING;
	t->orphan = true;
	t->exec_id = rec.exec_id;
	t->ppid = rec.ppid;
	t->host_pid = rec.host_pid;
	t->path = krg_slice_strdup(rec.path);
	t->pidfd = TAKE_FD(k->fd[0]);
	(void)task_insert(e, t);
	task_put(t);
}

static void take_caps(struct epm *e, struct kept *k)
{
	struct krg_rd rd = krg_rd_slice(krg_buf_slice(&k->blob));
	struct rec_epm_keep_caps rec;

	if (rec_epm_keep_caps_decode(&rd, &rec) == 0)
		caps_adopt(e, k->m.kind, &rec);
}

static void take_pages(struct epm *e, struct kept *k)
{
	keep_drop(e, KEEP_PAGES, (i32)k->m.id);
	if (k->nfds == 1)
		pages_adopt(e, TAKE_FD(k->fd[0]));
}

int world_adopt(struct epm *e, struct krg_err *err)
{
	static const enum keep_kind order[] = {KEEP_SESSION, KEEP_GROUP,  KEEP_CAPS_SESSION,
					       KEEP_CAPS,    KEEP_DEPUTY, KEEP_ORPHAN,
					       KEEP_PAGES};
	static void (*const take[])(struct epm *, struct kept *) = {
		take_session, take_group,  take_caps, take_caps,
		take_deputy,  take_orphan, take_pages};
	unsigned n[KEEP_KIND_NR] = {0};
	int r = -ENOENT;

	for (struct kept *k = e->kept; k != NULL; k = k->next)
		if (k->m.kind == KEEP_WORLD)
			r = take_world(e, k, err);
	if (r == -ENOENT)
		return krg_err_set(err, r, "the keeper has no world");
	if (r == 0)
		r = world_look(e, err);
	if (r == 0)
		r = deputy_open(e, err);
	if (r < 0)
		return r;
	convert_adopt(e);
	for (unsigned i = 0; i < KRG_NELEM(order); i++) {
		for (struct kept *k = e->kept; k != NULL; k = k->next) {
			if (k->m.kind != order[i])
				continue;
			take[i](e, k);
			n[k->m.kind]++;
		}
	}
	kept_free(e->kept);
	e->kept = NULL;
	LOG_I("epm", "the world is taken over: %u sessions, %u deputies, %u orphans",
	      n[KEEP_SESSION], n[KEEP_DEPUTY], n[KEEP_ORPHAN]);
	return 0;
}

/* ---- the node of the bodies: a home is back ---- */

/* A body of its, as it is now, or as it ended. */
static void look_at(struct epm *e, nodeid home, const struct rec_epm_which *w,
		    struct rec_epm_ended *ret)
{
	TASK_AUTO_PUT struct task *t = task_find(e, TASK_BODY, w->pid);
	PROC_AUTO struct proc_info p = {0};

	*ret = (struct rec_epm_ended){.pid = w->pid, .code = RETURN_GONE};
	if (t != NULL && t->peer == home && t->exec_id == w->exec_id) {
		KRG_GUARD(task, &t->lock);
		if (t->state == TASK_RUNNING) {
			t->orphan = false;
			keep_body_locked(e, t);
			ret->code = RETURN_RUNS;
		}
	}
	if (ret->code == RETURN_RUNS && proc_read_world(e, w->pid, &p) == 0 && p.state == 'T') {
		ret->code = CLD_STOPPED;
		ret->status = SIGSTOP;
	}
	if (ret->code == RETURN_GONE)
		(void)body_ended_find(e, home, w->pid, w->exec_id, ret);
}

/* Have all its bodies here, of its former life, been made orphans? */
static bool saw_it_fail(struct epm *e, nodeid home)
{
	struct task **all;
	unsigned n = task_all(e, TASK_BODY, &all);
	bool saw = sessions_are_stale(e, home);

	for (unsigned i = 0; i < n; i++) {
		task_lock(&all[i]->lock);
		saw = saw && (all[i]->peer != home || all[i]->orphan);
		task_unlock(&all[i]->lock);
		task_put(all[i]);
	}
	free(all);
	return saw;
}

/* Its world's, but not among those that it asked for: their deputies have ended. */
static void others_end(struct epm *e, nodeid home, u64 since)
{
	struct task **all;
	unsigned n = task_all(e, TASK_BODY, &all);

	for (unsigned i = 0; i < n; i++) {
		bool ends;

		task_lock(&all[i]->lock);
		ends = all[i]->peer == home && all[i]->orphan && all[i]->exec_id >= since;
		task_unlock(&all[i]->lock);
		if (ends)
			end_by_pidfd(all[i]->pidfd);
		task_put(all[i]);
	}
	free(all);
}

void handle_return(void *ctx, struct comm_req *req)
{
	struct epm *e = ctx;
	struct krg_rd rd = krg_rd_slice(req->body), list;
	KRG_AUTO_BUF struct krg_buf b = {0}, ended = {0};
	struct rec_epm_return_r answer;
	struct rec_epm_return m;

	if (rec_epm_return_decode(&rd, &m) < 0) {
		comm_req_fail(req, -EBADMSG, "RETURN");
		return;
	}
	/* the view is here, but what it means may not have been told yet */
	if (!saw_it_fail(e, req->from)) {
		comm_req_fail(req, -EAGAIN, "node %u has not seen you fail yet", e->self);
		return;
	}
	list = krg_rd_slice(m.which);
	while (krg_rd_left(&list) > 0) {
		struct rec_epm_ended one;
		struct rec_epm_which w;

		if (rec_epm_which_decode(&list, &w) < 0) {
			comm_req_fail(req, -EBADMSG, "RETURN");
			return;
		}
		look_at(e, req->from, &w, &one);
		rec_epm_ended_encode(&one, &ended);
	}
	others_end(e, req->from, m.since);
	sessions_on_return(e, req->from, m.since);
	answer.ended = krg_buf_slice(&ended);
	rec_epm_return_r_encode(&answer, &b);
	comm_req_answer(req, &b);
}

/* ---- the home: back in the view ---- */

static void which_list(struct epm *e, nodeid node, struct krg_buf *ret)
{
	struct task **all;
	unsigned n = task_all(e, TASK_DEPUTY, &all);

	for (unsigned i = 0; i < n; i++) {
		struct rec_epm_which w = {.pid = all[i]->pid, .exec_id = all[i]->exec_id};

		if (all[i]->peer == node)
			rec_epm_which_encode(&w, ret);
		task_put(all[i]);
	}
	free(all);
}

/* [net] */
static int ask(struct epm *e, nodeid node, struct comm_reply *ret)
{
	KRG_AUTO_BUF struct krg_buf which = {0}, b = {0};
	struct rec_epm_return m = {.since = e->since};
	struct krg_err err = {0};
	int r = -EAGAIN;

	which_list(e, node, &which);
	m.which = krg_buf_slice(&which);
	rec_epm_return_encode(&m, &b);
	for (unsigned i = 0; r == -EAGAIN && i < RETURN_TRIES; i++) {
		comm_reply_fini(ret);
		*ret = (struct comm_reply){0};
		if (i > 0)
			(void)poll(NULL, 0, 50);
		r = comm_call(e->comm, node, EPM_OP_RETURN, &b, RETURN_MS, ret, &err);
	}
	if (r < 0)
		LOG_W("epm", "node %u does not give back what runs there: %s", node, err.text);
	return r;
}

static void settle(struct epm *e, nodeid node, const struct rec_epm_ended *m)
{
	TASK_AUTO_PUT struct task *t = task_find(e, TASK_DEPUTY, m->pid);
	PROC_AUTO struct proc_info p = {0};
	struct rec_epm_ended goes_on = {.pid = m->pid, .code = CLD_CONTINUED};

	if (t == NULL || t->peer != node)
		return;
	if (m->code == RETURN_GONE) {
		end_by_pidfd(t->pidfd);
	} else if (m->code != RETURN_RUNS) {
		deputy_hear(e, t, m);
	} else if (proc_read_world(e, m->pid, &p) == 0 && p.state == 'T') {
		task_lock(&t->lock);
		t->stands = true;
		task_unlock(&t->lock);
		deputy_hear(e, t, &goes_on);
	}
}

static void return_from(struct epm *e, nodeid node)
{
	COMM_AUTO_REPLY struct comm_reply reply = {0};
	struct rec_epm_return_r answer = {0};
	struct rec_epm_ended one;
	struct krg_rd rd;
	int r = ask(e, node, &reply);

	rd = krg_rd_slice(reply.body);
	if (r < 0 || rec_epm_return_r_decode(&rd, &answer) < 0) {
		/* nobody speaks for the bodies: as if they had died with their node */
		deputies_on_node_down(e, node);
		return;
	}
	rd = krg_rd_slice(answer.ended);
	while (krg_rd_left(&rd) > 0 && rec_epm_ended_decode(&rd, &one) == 0)
		settle(e, node, &one);
}

int epm_return(struct epm *e, struct krg_err *err)
{
	int r;

	if (!e->adopted)
		return 0;
	krg_assert_no_locks();
	for (nodeid i = 0; i < KRG_NODES_MAX; i++) {
		if (i == e->self)
			continue;
		if (comm_is_member(e->comm, i))
			return_from(e, i);
		else
			deputies_on_node_down(e, i);
	}
	gate_restart(e);
	e->returned = true;
	r = world_hear(e, err);
	if (r == 0)
		r = deputy_start(e, err);
	return r == 0 ? gate_start(e, err) : r;
}
