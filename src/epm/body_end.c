/* body_end.c - a body ends, stops or goes on: its home is told, an end once its pipes have settled. */
#include "epm_impl.h"
#include <poll.h>
#include <signal.h>

/* An end (or a stop) that is to be told; an end once the body's pipes have settled. */
struct body_end {
	struct body_end *next;
	struct epm *e;
	atomic_uint waits;
	struct task *body;
	bool ended; /* else stopped or continued */
	struct rec_epm_ended rec;
};

void body_end_tell(struct body_end *end)
{
	KRG_AUTO_BUF struct krg_buf b = {0};
	struct task *body = end->body;
	int r;

	rec_epm_ended_encode(&end->rec, &b);
	r = comm_send(end->e->comm, body->peer, EPM_OP_ENDED, &b);
	if (r < 0 && r != -EHOSTDOWN)
		LOG_W("epm", "body %d: tell node %u of its end: %s", body->pid, body->peer,
		      strerror(-r));
	task_put(body);
	free(end);
}

/* Its parent is elsewhere as well, and on its home: what it signalled by its deputy here comes there first, while
 * it still has its number. */
static void end_tell(struct epm *e, struct body_end *end)
{
	TASK_AUTO_PUT struct task *parent = NULL;

	if (end->ended)
		parent = task_find(e, TASK_DEPUTY, end->body->ppid);
	if (parent == NULL || parent->peer != end->body->peer || !signals_end(e, parent, end))
		body_end_tell(end);
}

/* On any thread. */
static void end_settled(void *ctx)
{
	struct body_end *end = ctx;
	struct epm *e = end->e;

	if (atomic_fetch_sub(&end->waits, 1) != 1)
		return;
	leaf_lock(&e->ends_lock);
	end->next = e->ends;
	e->ends = end;
	leaf_unlock(&e->ends_lock);
	deputy_wake(e);
}

static struct body_end *end_take(struct epm *e)
{
	struct body_end *end;

	KRG_GUARD(leaf, &e->ends_lock);
	end = e->ends;
	if (end != NULL)
		e->ends = end->next;
	return end;
}

void body_ends_tell(struct epm *e)
{
	struct body_end *end;

	while ((end = end_take(e)) != NULL)
		end_tell(e, end);
}

void body_ends_drop(struct epm *e)
{
	struct body_end *end;

	while ((end = end_take(e)) != NULL) {
		task_put(end->body);
		free(end);
	}
	while (e->left != NULL) {
		struct left *l = e->left;

		e->left = l->next;
		free(l);
	}
}

#define ENDED_MAX 4096u

static void ended_add(struct epm *e, const struct task *body, const struct rec_epm_ended *rec)
{
	struct ended *at;

	KRG_GUARD(leaf, &e->ends_lock);
	if (e->ended == NULL)
		e->ended = krg_xalloc(ENDED_MAX * sizeof(*e->ended));
	at = &e->ended[e->ended_n++ % ENDED_MAX];
	*at = (struct ended){.home = body->peer, .exec_id = body->exec_id, .rec = *rec};
}

bool body_ended_find(struct epm *e, nodeid home, i32 pid, u64 exec_id, struct rec_epm_ended *ret)
{
	KRG_GUARD(leaf, &e->ends_lock);
	for (u64 i = 0; i < KRG_MIN(e->ended_n, (u64)ENDED_MAX); i++) {
		const struct ended *at = &e->ended[i];

		if (at->home != home || at->rec.pid != pid || at->exec_id != exec_id)
			continue;
		*ret = at->rec;
		return true;
	}
	return false;
}

void body_left(struct epm *e, i32 pid, u64 exec_id)
{
	struct left *l = krg_xalloc(sizeof(*l));

	l->pid = pid;
	KRG_GUARD(leaf, &e->ends_lock);
	e->left_id[e->left_n++ % KRG_NELEM(e->left_id)] = exec_id;
	l->next = e->left;
	e->left = l;
}

/* An end that krginit tells may be that of one who left, though another of its number has come and ended since: ends of one
 * number come in order, so the first one is. */
static bool has_left(struct epm *e, i32 pid)
{
	KRG_GUARD(leaf, &e->ends_lock);
	for (struct left **at = &e->left; *at != NULL; at = &(*at)->next) {
		struct left *l = *at;

		if (l->pid != pid)
			continue;
		*at = l->next;
		free(l);
		return true;
	}
	return false;
}

void body_on_ended(struct epm *e, const struct init_ended *m)
{
	TASK_AUTO_PUT struct task *body = task_find(e, TASK_BODY, m->pid);
	bool ended = m->code != CLD_STOPPED && m->code != CLD_CONTINUED && m->code != CLD_TRAPPED;
	struct usage used = m->used;
	struct rec_epm_ended rec = {.pid = m->pid, .code = m->code, .status = m->status};
	struct body_end *end;
	bool orphan;

	if ((ended && has_left(e, m->pid)) || body == NULL || (ended && body_lives(body)))
		return;
	task_lock(&body->lock);
	if (m->code == CLD_STOPPED && m->status == SIGSTOP && body->stop_as != 0) {
		rec.status = body->stop_as;
		body->stop_as = 0;
	}
	if (body->state != TASK_RUNNING) {
		/* made in vain: whoever waits for it knows; or it has left just now */
		task_unlock(&body->lock);
		if (ended)
			(void)has_left(e, m->pid);
		return;
	}
	if (ended)
		task_move_locked(body, TASK_ENDED);
	orphan = body->orphan;
	task_unlock(&body->lock);
	if (ended)
		usage_of_body(e, m->pid, &used);
	rec.utime_us = used.utime_us;
	rec.stime_us = used.stime_us;
	rec.maxrss_kb = used.maxrss_kb;
	rec.minflt = used.minflt;
	rec.majflt = used.majflt;
	rec.inblock = used.inblock;
	rec.oublock = used.oublock;
	rec.nvcsw = used.nvcsw;
	rec.nivcsw = used.nivcsw;
	if (ended) {
		(void)FAULT_POINT(BODY_EXIT);
		TRACE(BODY_ENDED, body->exec_id, m->pid, wstatus_of(m->code, m->status));
		ended_add(e, body, &rec);
		task_remove(e, body);
		keep_drop(e, orphan ? KEEP_ORPHAN : KEEP_BODY, m->pid);
		kin_end(e, body);
	}
	end = krg_xalloc(sizeof(*end));
	end->e = e;
	end->ended = ended;
	end->rec = rec;
	end->body = TAKE_PTR(body);
	if (!ended || end->body->nstreams == 0) {
		end_tell(e, end);
		return;
	}
	atomic_store(&end->waits, end->body->nstreams + 1);
	for (unsigned i = 0; i < end->body->nstreams; i++) {
		/* one that is killed does not wait for room: what it could not write is not written */
		if (m->code != CLD_EXITED && end->body->streams[i].kind == STREAM_PIPE_WRITE)
			end_settled(end);
		else
			stream_settled(e->stream, &end->body->streams[i], end_settled, end);
	}
	end_settled(end);
}
