/* group.c - signals to process groups, and to everybody.
 *
 * Each node signals the members whose home it is; bodies hear of it by their deputies.  Nobody may escape by
 * forking meanwhile, and nobody is to have the signal twice.  README.md, Signals.
 */
#include "epm_impl.h"
#include <signal.h>

#define GROUP_PASSES 16
#define GROUP_FLUSH  256   /* deputies whose bodies are waited for */
#define WATCHES_MAX  1024  /* signals to groups whose bodies have not all heard of it */
#define WATCH_MS     10000 /* by then they have */

/* A signal to a group, or to everybody, on this node. */
struct group_kill {
	struct epm *e;
	const struct rec_epm_kill *k;
	nodeid asker;		/* the sender runs there */
	struct krg_buf done;	/* i32 each: members that have been dealt with */
	struct krg_buf members; /* i32 each: of this node's to signal, this time */
	struct krg_buf delegated;
	u32 found, permitted;
	i32 nbodies;	/* whose homes are elsewhere: they hear of it by their deputies */
	bool all_plain; /* nobody in the group but members, and all permitted: one call does it */
	struct task *deputy[GROUP_FLUSH];
	unsigned ndeputies;
};

static void group_fini(struct group_kill *g)
{
	for (unsigned i = 0; i < g->ndeputies; i++)
		task_put(g->deputy[i]);
	krg_buf_fini(&g->done);
	krg_buf_fini(&g->members);
	krg_buf_fini(&g->delegated);
}
#define GROUP_AUTO __attribute__((cleanup(group_fini)))

static bool pid_is_in(struct krg_slice pids, pid_t pid)
{
	for (size_t at = 0; at + sizeof(pid) <= pids.len; at += sizeof(pid))
		if (memcmp(pids.data + at, &pid, sizeof(pid)) == 0)
			return true;
	return false;
}

static bool body_is_orphan(struct task *body)
{
	KRG_GUARD(task, &body->lock);
	return body->orphan;
}

/* The sender's own call reaches its body, with its name: said to the asker. */
static bool delegates(struct group_kill *g, struct task *deputy)
{
	bool ready = false;

	if (deputy == NULL || deputy->peer != g->asker || g->asker == g->e->self ||
	    g->k->from_pid == 0 || g->k->target == -1 || g->k->sig == SIGKILL ||
	    g->k->sig == SIGSTOP || g->k->sig == SIGCONT || signal_is_tty_stop(g->k->sig) ||
	    g->delegated.len == EPM_GROUP_MAX * sizeof(i32))
		return false;
	task_lock(&deputy->lock);
	ready = deputy->state == TASK_RUNNING && !deputy->stands;
	task_unlock(&deputy->lock);
	return ready;
}

static void member_add(struct group_kill *g, pid_t pid, const struct proc_info *p)
{
	TASK_AUTO_PUT struct task *deputy = task_find(g->e, TASK_DEPUTY, pid);

	krg_buf_put(&g->done, &pid, sizeof(pid));
	g->found++;
	if (!kill_may(g->k, p)) {
		g->all_plain = false;
		return;
	}
	g->permitted++;
	if (delegates(g, deputy)) {
		g->all_plain = false;
		krg_buf_put(&g->delegated, &pid, sizeof(pid));
		return;
	}
	krg_buf_put(&g->members, &pid, sizeof(pid));
	if (deputy != NULL && g->k->sig != 0 && g->k->sig != SIGKILL && g->ndeputies < GROUP_FLUSH)
		g->deputy[g->ndeputies++] = TAKE_PTR(deputy);
}

/* It ends by the signal, or has: so it forked before. */
static bool ends_by_it(struct epm *e, pid_t pid, int sig)
{
	PROC_AUTO struct proc_info p = {0};

	if (sig == SIGCHLD || sig == SIGCONT || sig == SIGURG || sig == SIGWINCH ||
	    signal_is_tty_stop(sig))
		return pid == 1;
	return pid == 1 || proc_read_world(e, pid, &p) < 0 ||
	       ((p.sig_caught | p.sig_ignored | p.sig_blocked) >> (sig - 1) & 1) == 0;
}

/* Look at the group's members (or all processes) that are this node's to signal, but for those that have been dealt
 * with.  again: who was forked meanwhile, if by one that ends by the signal; by another, it has been forked after it.
 * theirs: bodies that are to be signalled here. */
static void group_look(struct group_kill *g, bool again, struct krg_slice theirs)
{
	const struct rec_epm_kill *k = g->k;
	KRG_AUTO_FREE pid_t *all = NULL;
	unsigned n = proc_all(g->e, &all);

	krg_buf_reset(&g->members);
	g->all_plain = true;
	g->nbodies = again ? g->nbodies : 0;
	for (unsigned i = 0; i < n; i++) {
		TASK_AUTO_PUT struct task *body = NULL;
		PROC_AUTO struct proc_info p = {0};

		if (all[i] < 32768 || pid_is_in(krg_buf_slice(&g->done), all[i]) ||
		    (k->target == -1 && all[i] == k->from_pid) ||
		    proc_read_world(g->e, all[i], &p) < 0 || p.sid < 32768 ||
		    (k->target != -1 && p.pgid != k->target) || session_owns_pid(g->e, all[i]))
			continue;
		if (again && k->sig != SIGKILL && !ends_by_it(g->e, p.ppid, k->sig))
			continue;
		if (kin_is_shadow(g->e, all[i])) {
			g->all_plain = false;
			continue;
		}
		body = task_find(g->e, TASK_BODY, all[i]);
		/* a body that has just ended */
		if (body == NULL && !epm_pid_is_ours(g->e, all[i]))
			continue;
		/* theirs comes by their deputies; but an end must not wait while they fork */
		if (body != NULL && !body_is_orphan(body) && k->sig != SIGKILL) {
			g->nbodies += !again;
			g->all_plain = g->all_plain && pid_is_in(theirs, all[i]);
			g->permitted += g->all_plain && kill_may(k, &p);
			continue;
		}
		member_add(g, all[i], &p);
	}
}

/* One call for all, which no fork escapes, by whoever has the sender's number here.  False: not possible. */
static bool group_at_once(struct group_kill *g)
{
	const struct rec_epm_kill *k = g->k;
	struct herald_req r = {
		.sig = k->sig, .from_pid = k->from_pid, .from_uid = k->uid, .tgid = -k->target};

	/* what nobody can block would end the placeholders as well */
	if (!g->all_plain || k->target == -1 || k->sig == SIGKILL || k->sig == SIGSTOP ||
	    k->from_pid == 0)
		return false;
	return signal_send_group(g->e, &r) == 0;
}

static void group_each(struct group_kill *g)
{
	for (size_t at = 0; at < g->members.len; at += sizeof(pid_t)) {
		pid_t pid;

		memcpy(&pid, g->members.data + at, sizeof(pid));
		(void)kill_one(g->e, g->k, pid);
	}
}

/* Who was forked meanwhile. */
static void group_rest(struct group_kill *g)
{
	for (int i = 0; i < GROUP_PASSES; i++) {
		group_look(g, true, (struct krg_slice){0});
		if (g->members.len == 0)
			break;
		group_each(g);
	}
}

/* ---- bodies that have not heard of it yet may still fork ---- */

/* Kept until they should have: then who was forked by them meanwhile is found. */
struct group_watch {
	struct group_watch *next;
	struct rec_epm_kill k;
	struct krg_buf done;
	u64 until_ns; /* then they all have */
	i32 left;     /* bodies that have not, those that have while it was counted taken off */
	bool at_work; /* somebody has it */
	bool hit;     /* a body has got the signal meanwhile */
};

static void watch_free(struct group_watch *w)
{
	krg_buf_fini(&w->done);
	free(w);
}

static void watch_unlink_locked(struct epm *e, struct group_watch *w)
{
	struct group_watch **at = &e->watches;

	while (*at != w)
		at = &(*at)->next;
	*at = w->next;
	e->nwatches--;
}

static struct group_watch *watch_new(struct epm *e, const struct rec_epm_kill *k)
{
	struct group_watch *w;
	u64 now = krg_clock_now_ns();

	KRG_GUARD(leaf, &e->watch_lock);
	for (struct group_watch **at = &e->watches; *at != NULL;) {
		struct group_watch *old = *at;

		if (old->at_work || old->until_ns > now) {
			at = &old->next;
			continue;
		}
		*at = old->next;
		e->nwatches--;
		watch_free(old);
	}
	if (e->nwatches == WATCHES_MAX)
		return NULL;
	w = krg_xalloc(sizeof(*w));
	*w = (struct group_watch){.next = e->watches,
				  .k = *k,
				  .until_ns = now + WATCH_MS * KRG_MSEC,
				  .at_work = true};
	e->watches = w;
	e->nwatches++;
	return w;
}

static bool watches_hit(struct epm *e, i32 pgid, int sig)
{
	bool any = false;

	KRG_GUARD(leaf, &e->watch_lock);
	for (struct group_watch *w = e->watches; w != NULL; w = w->next)
		if (w->k.target == pgid && w->k.sig == sig) {
			any = w->hit = true;
			w->left--;
		}
	return any;
}

/* One that was hit, and that nobody is at.  NULL: none. */
static struct group_watch *watch_take(struct epm *e)
{
	KRG_GUARD(leaf, &e->watch_lock);
	for (struct group_watch *w = e->watches; w != NULL; w = w->next) {
		if (!w->hit || w->at_work)
			continue;
		w->at_work = true;
		return w;
	}
	return NULL;
}

/* Until no body has got the signal meanwhile.  [net] */
static void watch_work(struct epm *e, struct group_watch *w)
{
	bool again, ends;

	do {
		GROUP_AUTO struct group_kill g = {.e = e, .k = &w->k, .asker = e->self};

		leaf_lock(&e->watch_lock);
		again = w->hit;
		w->hit = false;
		w->at_work = again;
		ends = !again && w->left <= 0;
		if (ends)
			watch_unlink_locked(e, w);
		leaf_unlock(&e->watch_lock);
		if (ends)
			watch_free(w);
		if (!again)
			break;
		g.done = w->done;
		w->done = (struct krg_buf){0};
		group_rest(&g);
		w->done = g.done;
		g.done = (struct krg_buf){0};
	} while (again);
}

i32 group_watched(struct epm *e, const struct task *body)
{
	struct proc_info p;

	return atomic_load(&e->nwatches) > 0 && proc_read_world_stat(e, body->pid, &p) == 0 ? p.pgid
											    : 0;
}

void group_body_heard(struct epm *e, i32 pgid, int sig)
{
	struct group_watch *w;

	if (pgid == 0 || !watches_hit(e, pgid, sig))
		return;
	while ((w = watch_take(e)) != NULL)
		watch_work(e, w);
}

void groups_fini(struct epm *e)
{
	KRG_GUARD(leaf, &e->watch_lock);
	while (e->watches != NULL) {
		struct group_watch *w = e->watches;

		e->watches = w->next;
		watch_free(w);
	}
}

/* [net] The kernel lets nobody fork out of a group while it signals it; here, who was forked meanwhile is found again. */
static void group_here(struct group_kill *g)
{
	const struct rec_epm_kill *k = g->k;
	struct group_watch *w = NULL;

	if (k->sig != 0 && k->target != -1 && k->sig != SIGKILL && atomic_load(&g->e->nbodies) > 0)
		w = watch_new(g->e, k);
	group_look(g, false, (struct krg_slice){0});
	if (k->sig != 0 && g->members.len > 0 && !group_at_once(g)) {
		group_each(g);
		if (k->target != -1)
			group_rest(g);
	}
	if (w != NULL) {
		krg_buf_put(&w->done, g->done.data, g->done.len);
		leaf_lock(&g->e->watch_lock);
		w->left += g->nbodies;
		leaf_unlock(&g->e->watch_lock);
		watch_work(g->e, w);
	}
	signals_flush(g->e, g->deputy, g->ndeputies);
}

void handle_kill_group(void *ctx, struct comm_req *req)
{
	struct krg_rd rd = krg_rd_slice(req->body);
	KRG_AUTO_BUF struct krg_buf b = {0};
	struct rec_epm_kill k;
	GROUP_AUTO struct group_kill g = {.e = ctx, .k = &k, .asker = req->from};
	struct rec_epm_count count;

	if (rec_epm_kill_decode(&rd, &k) < 0 || k.sig < 0 || k.sig > 64 ||
	    (k.target <= 1 && k.target != -1)) {
		comm_req_fail(req, -EBADMSG, "kill of a group");
		return;
	}
	group_here(&g);
	count = (struct rec_epm_count){.found = g.found,
				       .permitted = g.permitted,
				       .delegated = krg_buf_slice(&g.delegated)};
	rec_epm_count_encode(&count, &b);
	comm_req_answer(req, &b);
}

/* [net] The other nodes' members; theirs: bodies of this node that are left to us. */
static void group_elsewhere(struct epm *e, const struct rec_epm_kill *k, struct rec_epm_count *sum,
			    struct krg_buf *theirs)
{
	KRG_AUTO_BUF struct krg_buf b = {0};
	struct comm_reply reply[KRG_NODES_MAX] = {0};
	struct rec_epm_count one;
	nodeid to[KRG_NODES_MAX];
	int codes[KRG_NODES_MAX];
	unsigned n = 0;

	rec_epm_kill_encode(k, &b);
	for (nodeid i = 0; i < KRG_NODES_MAX; i++)
		if (i != e->self && comm_is_member(e->comm, i))
			to[n++] = i;
	if (n > 0 && comm_call_many(e->comm, to, n, EPM_OP_KILL_GROUP, &b, 10000, reply, codes) > 0)
		LOG_D("epm", "a signal to group %d did not reach all nodes", k->target);
	for (unsigned i = 0; i < n; i++) {
		struct krg_rd rd = krg_rd_slice(reply[i].body);

		if (codes[i] == 0 && rec_epm_count_decode(&rd, &one) == 0) {
			sum->found += one.found;
			sum->permitted += one.permitted;
			krg_buf_put(theirs, one.delegated.data, one.delegated.len);
		}
		comm_reply_fini(&reply[i]);
	}
}

/* Left to us, but the sender's own call cannot be used. */
static void group_theirs(struct epm *e, const struct rec_epm_kill *k, struct krg_slice theirs)
{
	for (size_t at = 0; at + sizeof(pid_t) <= theirs.len; at += sizeof(pid_t)) {
		struct rec_epm_signal s = {.sig = k->sig,
					   .code = k->code,
					   .from_pid = k->from_pid,
					   .from_uid = k->uid};
		TASK_AUTO_PUT struct task *body = NULL;

		memcpy(&s.pid, theirs.data + at, sizeof(s.pid));
		body = task_find(e, TASK_BODY, s.pid);
		if (body == NULL)
			continue;
		(void)signals_add(e, body, &s);
		task_lock(&body->lock);
		signals_wait_locked(body);
		task_unlock(&body->lock);
	}
}

/* Would the sender's own call, let go on, reach all members here and nobody else? */
static bool group_natively(struct epm *e, const struct rec_epm_kill *k, struct krg_slice theirs)
{
	GROUP_AUTO struct group_kill g = {.e = e, .k = k, .asker = e->self};

	if (k->target == -1 || k->sig == 0 || k->sig == SIGKILL || k->sig == SIGSTOP ||
	    k->from_pid == 0)
		return false;
	group_look(&g, false, theirs);
	/* at least one: then it succeeds */
	return g.all_plain && g.permitted > 0;
}

/* [net] 1: the sender's own call does the rest. */
static int group_all(struct epm *e, const struct rec_epm_kill *k, bool may_go_on)
{
	GROUP_AUTO struct group_kill g = {.e = e, .k = k, .asker = e->self};
	KRG_AUTO_BUF struct krg_buf theirs = {0};
	struct rec_epm_count sum = {0};

	group_elsewhere(e, k, &sum, &theirs);
	/* oneself last: the signal may end the caller */
	if (may_go_on && group_natively(e, k, krg_buf_slice(&theirs)))
		return 1;
	group_theirs(e, k, krg_buf_slice(&theirs));
	group_here(&g);
	sum.found += g.found;
	sum.permitted += g.permitted;
	return sum.found == 0 ? -ESRCH : sum.permitted == 0 ? -EPERM : 0;
}

int kill_group(struct epm *e, const struct rec_epm_kill *k)
{
	return group_all(e, k, false);
}

int kill_group_and_go_on(struct epm *e, const struct rec_epm_kill *k)
{
	return group_all(e, k, true);
}
