/* caps.c - Kerrighed capabilities: four sets per process, and who has which.
 *
 * fork(2) is not seen, so what a process has is concluded when it is asked for: from the nearest
 * ancestor that is in the table, by the rules of fork; from its session, if there is none.  Before
 * an ancestor is changed, everybody is put into the table as they are: so later children follow the
 * change, earlier ones do not.  README.md, "Kerrighed capabilities", has the limits.
 */
#include "epm_impl.h"

#define DISTANT_EXEC  (1u << EPM_CAP_DISTANT_EXEC)
#define ANCESTORS_MAX 4096

/* What a process has that nobody said anything about. */
static const struct epm_caps caps_default = {
	.set = {[EPM_CAPS_EFFECTIVE] = EPM_CAPS_DEFAULT,
		[EPM_CAPS_PERMITTED] = EPM_CAPS_DEFAULT | 1u << EPM_CAP_DISTANT_FORK,
		[EPM_CAPS_INH_EFFECTIVE] = EPM_CAPS_DEFAULT,
		[EPM_CAPS_INH_PERMITTED] = EPM_CAPS_DEFAULT | 1u << EPM_CAP_DISTANT_FORK}};

struct caps_entry {
	struct caps_entry *next;
	i32 pid;   /* or session */
	u64 start; /* ticks of /proc/PID/stat; of a session: 0 */
	struct epm_caps caps;
	bool plain; /* its execs do not come to the gate */
};

struct epm_caps epm_caps_at_birth(u32 effective)
{
	u32 permitted = effective | caps_default.set[EPM_CAPS_PERMITTED];

	return (struct epm_caps){.set = {[EPM_CAPS_EFFECTIVE] = effective,
					 [EPM_CAPS_PERMITTED] = permitted,
					 [EPM_CAPS_INH_EFFECTIVE] = effective,
					 [EPM_CAPS_INH_PERMITTED] = permitted}};
}

struct epm_caps epm_caps_fork(const struct epm_caps *parent)
{
	u32 ie = parent->set[EPM_CAPS_INH_EFFECTIVE], ip = parent->set[EPM_CAPS_INH_PERMITTED];

	return (struct epm_caps){.set = {[EPM_CAPS_EFFECTIVE] = ie & ip,
					 [EPM_CAPS_PERMITTED] = ip,
					 [EPM_CAPS_INH_EFFECTIVE] = ie,
					 [EPM_CAPS_INH_PERMITTED] = ip}};
}

int epm_caps_apply(const struct epm_caps *old, const struct epm_caps_change *change, bool root,
		   struct epm_caps *ret, struct krg_err *err)
{
	const u32 *was = old->set;
	struct epm_caps new;

	for (unsigned i = 0; i < EPM_CAPS_NR; i++) {
		new.set[i] = (was[i] & ~change->drop[i]) | change->add[i];
		if ((new.set[i] & ~EPM_CAPS_ALL) != 0)
			return krg_err_set(err, -EINVAL, "no such capabilities: %#o",
					   new.set[i] & ~EPM_CAPS_ALL);
	}
	if ((new.set[EPM_CAPS_EFFECTIVE] & ~new.set[EPM_CAPS_PERMITTED]) != 0)
		return krg_err_set(err, -EINVAL, "effective has %#o, permitted has not",
				   new.set[EPM_CAPS_EFFECTIVE] & ~new.set[EPM_CAPS_PERMITTED]);
	if ((new.set[EPM_CAPS_INH_EFFECTIVE] & ~new.set[EPM_CAPS_INH_PERMITTED]) != 0)
		return krg_err_set(err, -EINVAL,
				   "inheritable effective has %#o, inheritable permitted has not",
				   new.set[EPM_CAPS_INH_EFFECTIVE] &
					   ~new.set[EPM_CAPS_INH_PERMITTED]);
	if (!root && ((new.set[EPM_CAPS_PERMITTED] & ~was[EPM_CAPS_PERMITTED]) != 0 ||
		      (new.set[EPM_CAPS_INH_PERMITTED] &
		       ~(was[EPM_CAPS_PERMITTED] | was[EPM_CAPS_INH_PERMITTED])) != 0))
		return krg_err_set(err, -EPERM, "only root adds to what is permitted");
	*ret = new;
	return 0;
}

/* ---- the table ---- */

static bool caps_same(const struct epm_caps *a, const struct epm_caps *b)
{
	return memcmp(a, b, sizeof(*a)) == 0;
}

/* It, or what it forks, must not be placed: then execs have to be looked at. */
static bool restricts(const struct caps_entry *c)
{
	const u32 *s = c->caps.set;

	return !c->plain && (s[EPM_CAPS_EFFECTIVE] & s[EPM_CAPS_INH_EFFECTIVE] &
			     s[EPM_CAPS_INH_PERMITTED] & DISTANT_EXEC) == 0;
}

static struct caps_entry **bucket(struct epm *e, i32 pid)
{
	return &e->caps[(unsigned)pid % EPM_CAPS_BUCKETS];
}

static struct caps_entry **find_locked(struct caps_entry **at, i32 pid)
{
	while (*at != NULL && (*at)->pid != pid)
		at = &(*at)->next;
	return at;
}

static enum keep_kind kept_as(const struct caps_entry *c)
{
	return c->start == 0 ? KEEP_CAPS_SESSION : KEEP_CAPS;
}

static void drop_locked(struct epm *e, struct caps_entry **at)
{
	struct caps_entry *c = *at;

	keep_drop(e, kept_as(c), c->pid);

	*at = c->next;
	atomic_fetch_sub(&e->ncaps, 1);
	if (restricts(c))
		atomic_fetch_sub(&e->ncaps_off, 1);
	free(c);
}

static void put_locked(struct epm *e, struct caps_entry **list, const struct caps_entry *value)
{
	struct caps_entry **at = find_locked(list, value->pid), *c;

	if (*at != NULL)
		drop_locked(e, at);
	c = krg_xalloc(sizeof(*c));
	*c = *value;
	c->next = *list;
	*list = c;
	atomic_fetch_add(&e->ncaps, 1);
	if (restricts(c))
		atomic_fetch_add(&e->ncaps_off, 1);
	keep_caps(e, kept_as(c), c->pid, c->start, &c->caps, c->plain);
}

void caps_adopt(struct epm *e, enum keep_kind kind, const struct rec_epm_keep_caps *rec)
{
	struct caps_entry c = {.pid = rec->pid,
			       .start = kind == KEEP_CAPS ? rec->start : 0,
			       .plain = rec->plain != 0,
			       .caps = {.set = {[EPM_CAPS_EFFECTIVE] = rec->effective,
						[EPM_CAPS_PERMITTED] = rec->permitted,
						[EPM_CAPS_INH_EFFECTIVE] = rec->inh_effective,
						[EPM_CAPS_INH_PERMITTED] = rec->inh_permitted}}};

	KRG_GUARD(leaf, &e->caps_lock);
	put_locked(e, kind == KEEP_CAPS ? bucket(e, c.pid) : &e->caps_sessions, &c);
}

/* The nearest ancestor that is known (or the process itself), else its session, else the default.
 * Of the rules of fork it does not matter how often they are applied. */
static int conclude_locked(struct epm *e, i32 pid, struct caps_entry *ret)
{
	struct proc_info p;
	const struct caps_entry *c = NULL;
	i32 sid = 0, at = pid;
	int r = proc_read_world_stat(e, pid, &p);

	if (r < 0)
		return r;
	*ret = (struct caps_entry){.pid = pid, .start = p.start_ticks, .caps = caps_default};
	sid = p.sid;
	for (unsigned i = 0; i < ANCESTORS_MAX; i++) {
		struct caps_entry **known = find_locked(bucket(e, at), at);

		if (*known != NULL && (*known)->start == p.start_ticks) {
			c = *known;
			break;
		}
		at = p.ppid;
		if (at < 32768 || proc_read_world_stat(e, at, &p) < 0)
			break;
	}
	if (c == NULL)
		c = *find_locked(&e->caps_sessions, sid);
	if (c == NULL)
		return 0;
	ret->plain = c->plain;
	ret->caps = c->pid == pid && c->start != 0 ? c->caps : epm_caps_fork(&c->caps);
	return 0;
}

/* Everybody as they are now: what is changed later does not reach them. */
static void all_known_locked(struct epm *e)
{
	KRG_AUTO_FREE pid_t *all = NULL;
	unsigned n = proc_all(e, &all);

	for (unsigned i = 0; i < n; i++) {
		struct caps_entry c;

		if (all[i] >= 32768 && conclude_locked(e, all[i], &c) == 0)
			put_locked(e, bucket(e, c.pid), &c);
	}
}

struct epm_caps caps_of(struct epm *e, i32 pid)
{
	struct caps_entry c;

	if (atomic_load(&e->ncaps) == 0)
		return caps_default;
	KRG_GUARD(leaf, &e->caps_lock);
	return conclude_locked(e, pid, &c) == 0 ? c.caps : caps_default;
}

bool caps_may_exec(struct epm *e, pid_t host_tid)
{
	PROC_AUTO struct proc_info p = {0};
	struct caps_entry c;

	if (atomic_load(&e->ncaps_off) == 0)
		return true;
	if (proc_read(host_tid, &p) < 0 || p.threads != 1)
		return false; /* it has ended, or stays for its threads */
	KRG_GUARD(leaf, &e->caps_lock);
	if (conclude_locked(e, p.pid, &c) < 0)
		return false;
	put_locked(e, bucket(e, c.pid), &c);
	return (c.caps.set[EPM_CAPS_EFFECTIVE] & DISTANT_EXEC) != 0;
}

void caps_of_session(struct epm *e, i32 sid, const struct epm_caps *caps, bool plain)
{
	struct caps_entry c = {.pid = sid, .caps = *caps, .plain = plain};

	if (caps_same(caps, &caps_default) && !plain)
		return;
	KRG_GUARD(leaf, &e->caps_lock);
	put_locked(e, &e->caps_sessions, &c);
}

void caps_of_body(struct epm *e, i32 pid, i32 sid, const struct epm_caps *caps)
{
	struct caps_entry c = {.pid = pid, .caps = *caps}, session = {.pid = sid, .caps = *caps};
	struct proc_info p;

	if (caps_same(caps, &caps_default) && atomic_load(&e->ncaps) == 0)
		return;
	KRG_GUARD(leaf, &e->caps_lock);
	if (proc_read_world_stat(e, pid, &p) < 0)
		return;
	c.start = p.start_ticks;
	put_locked(e, bucket(e, pid), &c);
	if (!caps_same(caps, &caps_default) && *find_locked(&e->caps_sessions, sid) == NULL)
		put_locked(e, &e->caps_sessions, &session);
}

/* What has ended goes; and while somebody is not to be placed, who came since the last look is
 * remembered before it can lose its parent. */
void caps_sweep(struct epm *e)
{
	struct proc_info p;

	if (atomic_load(&e->ncaps) == 0)
		return;
	KRG_GUARD(leaf, &e->caps_lock);
	for (unsigned i = 0; i < EPM_CAPS_BUCKETS; i++) {
		for (struct caps_entry **at = &e->caps[i]; *at != NULL;) {
			if (proc_read_world_stat(e, (*at)->pid, &p) == 0 &&
			    p.start_ticks == (*at)->start)
				at = &(*at)->next;
			else
				drop_locked(e, at);
		}
	}
	for (struct caps_entry **at = &e->caps_sessions; *at != NULL;) {
		if (proc_read_world_stat(e, (*at)->pid, &p) == 0)
			at = &(*at)->next;
		else
			drop_locked(e, at);
	}
	if (atomic_load(&e->ncaps_off) > 0)
		all_known_locked(e);
}

void caps_fini(struct epm *e)
{
	KRG_GUARD(leaf, &e->caps_lock);
	for (unsigned i = 0; i < EPM_CAPS_BUCKETS; i++)
		while (e->caps[i] != NULL)
			drop_locked(e, &e->caps[i]);
	while (e->caps_sessions != NULL)
		drop_locked(e, &e->caps_sessions);
}

/* ---- looking and changing, at the node where the process runs ---- */

struct caps_ask {
	i32 pid;
	u32 uid;
	bool may_change; /* who asks has CHANGE_KERRIGHED_CAP, or is no process of the world */
	bool changes;
	struct epm_caps_change change;
};

/* first: its session, if `krg run` made it, for those who lose their parents. */
static int change_locked(struct epm *e, const struct caps_ask *ask, i32 first, struct caps_entry *c,
			 struct krg_err *err)
{
	struct caps_entry session = {.pid = first, .plain = c->plain};
	struct epm_caps new;
	int r = epm_caps_apply(&c->caps, &ask->change, ask->uid == 0, &new, err);

	if (r < 0)
		return krg_err_prefix(err, r, "pid %d", ask->pid);
	if (c->plain &&
	    ((new.set[EPM_CAPS_EFFECTIVE] | new.set[EPM_CAPS_INH_EFFECTIVE]) & DISTANT_EXEC) != 0)
		return krg_err_set(err, -EOPNOTSUPP,
				   "pid %d was started without DISTANT_EXEC and cannot get it",
				   ask->pid);
	all_known_locked(e);
	c->caps = new;
	put_locked(e, bucket(e, c->pid), c);
	session.caps = epm_caps_fork(&new);
	if (first != 0)
		put_locked(e, &e->caps_sessions, &session);
	return 0;
}

/* 0: *ret_node is this node, and the sets are there; or another, where it runs. */
static int caps_here(struct epm *e, const struct caps_ask *ask, struct epm_caps *ret,
		     nodeid *ret_node, struct krg_err *err)
{
	TASK_AUTO_PUT struct task *deputy = task_find(e, TASK_DEPUTY, ask->pid);
	TASK_AUTO_PUT struct task *run = task_find(e, TASK_RUN, ask->pid);
	PROC_AUTO struct proc_info p = {0};
	struct caps_entry c;
	int r;

	if (ask->pid < 32768 || session_owns_pid(e, ask->pid) ||
	    proc_read_world(e, ask->pid, &p) < 0)
		return krg_err_set(err, -ESRCH, "pid %d", ask->pid);
	if (deputy != NULL) {
		*ret_node = deputy->peer;
		return 0;
	}
	if (ask->changes && ask->uid != 0 && ask->uid != p.uid[0] && ask->uid != p.uid[2])
		return krg_err_set(err, -EPERM, "pid %d is another user's", ask->pid);
	if (ask->changes && !ask->may_change)
		return krg_err_set(err, -EPERM, "pid %d: CHANGE_KERRIGHED_CAP is needed", ask->pid);
	KRG_GUARD(leaf, &e->caps_lock);
	r = conclude_locked(e, ask->pid, &c);
	if (r < 0)
		return krg_err_set(err, -ESRCH, "pid %d", ask->pid);
	if (ask->changes)
		r = change_locked(e, ask, run != NULL ? p.sid : 0, &c, err);
	*ret = c.caps;
	*ret_node = e->self;
	return r;
}

/* Of a process of this node's world (by its number in krgd's); others count as having it. */
static bool asker_may_change(struct epm *e, pid_t host_pid)
{
	PROC_AUTO struct proc_info p = {0};
	char world[64], its[64];
	ssize_t n = readlinkat(e->world_proc, "1/ns/pid", world, sizeof(world));
	int m = proc_link(host_pid, "ns/pid", its, sizeof(its));
	struct epm_caps caps;

	if (n <= 0 || m != n || memcmp(world, its, (size_t)n) != 0 || proc_read(host_pid, &p) < 0)
		return true;
	caps = caps_of(e, p.pid);
	return (caps.set[EPM_CAPS_EFFECTIVE] >> EPM_CAP_CHANGE_KERRIGHED_CAP & 1) != 0;
}

/* ---- between nodes ---- */

static void ask_pack(const struct caps_ask *a, struct krg_buf *b)
{
	const struct epm_caps_change *c = &a->change;
	struct rec_epm_caps_ask rec = {
		.pid = a->pid,
		.uid = a->uid,
		.may_change = a->may_change,
		.changes = a->changes,
		.drop0 = c->drop[0],
		.drop1 = c->drop[1],
		.drop2 = c->drop[2],
		.drop3 = c->drop[3],
		.add0 = c->add[0],
		.add1 = c->add[1],
		.add2 = c->add[2],
		.add3 = c->add[3],
	};

	rec_epm_caps_ask_encode(&rec, b);
}

void handle_caps(void *ctx, struct comm_req *req)
{
	struct krg_rd rd = krg_rd_slice(req->body);
	struct epm *e = ctx;
	KRG_AUTO_BUF struct krg_buf b = {0};
	struct krg_err err = {0};
	struct epm_caps caps = {0};
	struct rec_epm_caps_ask rec;
	struct rec_epm_caps answer;
	nodeid node = e->self;
	struct caps_ask ask;
	int r;

	if (rec_epm_caps_ask_decode(&rd, &rec) < 0) {
		comm_req_fail(req, -EBADMSG, "capabilities");
		return;
	}
	ask = (struct caps_ask){.pid = rec.pid,
				.uid = rec.uid,
				.may_change = rec.may_change != 0,
				.changes = rec.changes != 0,
				.change = {.drop = {rec.drop0, rec.drop1, rec.drop2, rec.drop3},
					   .add = {rec.add0, rec.add1, rec.add2, rec.add3}}};
	r = caps_here(e, &ask, &caps, &node, &err);
	if (r < 0) {
		err.node = e->self;
		comm_req_fail_err(req, &err);
		return;
	}
	answer = (struct rec_epm_caps){.node = node,
				       .effective = caps.set[EPM_CAPS_EFFECTIVE],
				       .permitted = caps.set[EPM_CAPS_PERMITTED],
				       .inh_effective = caps.set[EPM_CAPS_INH_EFFECTIVE],
				       .inh_permitted = caps.set[EPM_CAPS_INH_PERMITTED]};
	rec_epm_caps_encode(&answer, &b);
	comm_req_answer(req, &b);
}

static int answer_read(struct krg_slice body, struct epm_caps *ret, nodeid *ret_node)
{
	struct krg_rd rd = krg_rd_slice(body);
	struct rec_epm_caps a;

	if (rec_epm_caps_decode(&rd, &a) < 0 || a.node >= KRG_NODES_MAX)
		return -EBADMSG;
	*ret = (struct epm_caps){.set = {[EPM_CAPS_EFFECTIVE] = a.effective,
					 [EPM_CAPS_PERMITTED] = a.permitted,
					 [EPM_CAPS_INH_EFFECTIVE] = a.inh_effective,
					 [EPM_CAPS_INH_PERMITTED] = a.inh_permitted}};
	*ret_node = a.node;
	return 0;
}

/* [net] */
static int ask_node(struct epm *e, nodeid node, const struct caps_ask *ask, struct epm_caps *ret,
		    nodeid *ret_node, struct krg_err *err)
{
	COMM_AUTO_REPLY struct comm_reply reply = {0};
	KRG_AUTO_BUF struct krg_buf b = {0};
	int r;

	if (node == e->self)
		return caps_here(e, ask, ret, ret_node, err);
	ask_pack(ask, &b);
	r = comm_call(e->comm, node, EPM_OP_CAPS, &b, 10000, &reply, err);
	if (r < 0)
		return r;
	r = answer_read(reply.body, ret, ret_node);
	return r < 0 ? krg_err_set(err, r, "pid %d: the answer of node %u", ask->pid, node) : 0;
}

/* [net] Its home is gone: an orphan can be anywhere. */
static int ask_all(struct epm *e, const struct caps_ask *ask, struct epm_caps *ret,
		   nodeid *ret_node, struct krg_err *err)
{
	struct krg_err last = {0};

	for (nodeid n = 0; n < KRG_NODES_MAX; n++) {
		int r;

		if (n != e->self && !comm_is_member(e->comm, n))
			continue;
		r = ask_node(e, n, ask, ret, ret_node, &last);
		if (r == 0 || (r != -ESRCH && r != -EHOSTDOWN)) {
			*err = last;
			return r;
		}
	}
	return krg_err_set(err, -ESRCH, "pid %d", ask->pid);
}

int epm_caps(struct epm *e, pid_t pid, uid_t uid, pid_t asker, const struct epm_caps_change *change,
	     struct epm_caps *ret, nodeid *ret_node, struct krg_err *err)
{
	struct caps_ask ask = {.pid = pid, .uid = uid, .changes = change != NULL};
	nodeid at = epm_pid_home(pid), from;
	int r;

	krg_assert_no_locks();
	if (at == KRG_NODE_NONE)
		return krg_err_set(err, -ESRCH, "pid %d", pid);
	if (change != NULL) {
		ask.change = *change;
		ask.may_change = asker_may_change(e, asker);
	}
	if (at != e->self && !comm_is_member(e->comm, at))
		return ask_all(e, &ask, ret, ret_node, err);
	/* at home they know where it is; there it is, or it has just ended */
	for (int hop = 0; hop < 2; hop++) {
		from = at;
		r = ask_node(e, from, &ask, ret, &at, err);
		if (r == -ESRCH && hop > 0)
			break;
		if (r < 0)
			return r;
		if (at == from) {
			*ret_node = at;
			return 0;
		}
	}
	return krg_err_set(err, -EAGAIN, "pid %d is on its way: ask again", pid);
}
