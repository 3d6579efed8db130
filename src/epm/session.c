/* session.c - one nursery per session of this node's world.
 *
 * A process gets its session only by birth (setsid(2) makes a new one), so what is made for a session
 * is made by a nursery in it.  On the node where `krg run` made the session, the nursery is its
 * leader from the start; elsewhere it is a placeholder with the leader's pid.
 */
#include "epm_impl.h"
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>

static struct session *session_find_locked(struct epm *e, i32 sid)
{
	struct session *s = e->sessions;

	while (s != NULL && s->sid != sid)
		s = s->next;
	return s;
}

static int session_make_locked(struct epm *e, i32 sid, enum nursery_class class, int tty,
			       struct session **ret)
{
	struct nursery_req req = {.type = NURSERY_SESSION, .set_tid = sid};
	struct session *s;
	KRG_AUTO_FD int pidfd = -EBADF;
	int pair[2], fds[2], r;
	pid_t pid = 0;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return -errno;
	fds[0] = pair[1];
	fds[1] = tty;
	r = nursery_call(&e->root[class], &req, fds, tty >= 0 ? 2 : 1, &pid, &pidfd);
	(void)close(pair[1]);
	if (r < 0) {
		(void)close(pair[0]);
		return r;
	}
	s = krg_xalloc(sizeof(*s));
	krg_mutex_init(&s->nursery.lock);
	s->nursery.sock = pair[0];
	s->nursery.pid = pid;
	s->class = class;
	s->sid = pid;
	s->host_sid = pidfd_host_pid(pidfd);
	s->next = e->sessions;
	e->sessions = s;
	keep_session(e, s);
	*ret = s;
	return 0;
}

void session_adopt(struct epm *e, const struct rec_epm_keep_session *rec, int sock)
{
	struct krg_rd rd = krg_rd_slice(rec->outside);
	struct session *s = krg_xalloc(sizeof(*s));

	krg_mutex_init(&s->nursery.lock);
	s->nursery.sock = sock;
	s->nursery.pid = rec->sid;
	s->class = (enum nursery_class)rec->class;
	s->sid = rec->sid;
	s->host_sid = rec->host_sid;
	s->stale = rec->stale != 0;
	s->born = rec->born;
	while (krg_rd_left(&rd) >= 16 && s->noutside < SESSION_OUTSIDE_MAX) {
		s->outside[s->noutside].dev = krg_rd_u64(&rd);
		s->outside[s->noutside++].ino = krg_rd_u64(&rd);
	}
	KRG_GUARD(tasks, &e->sessions_lock);
	s->next = e->sessions;
	e->sessions = s;
}

void session_born(struct epm *e, struct session *s, u64 exec_id)
{
	KRG_GUARD(tasks, &e->sessions_lock);
	if (s->born != 0 || epm_pid_is_ours(e, s->sid))
		return;
	s->born = exec_id;
	keep_session(e, s);
}

static int session_try(struct epm *e, i32 sid, enum nursery_class class, int tty,
		       struct session **ret)
{
	struct session *s = NULL;
	int r = 0;

	KRG_GUARD(tasks, &e->sessions_lock);
	if (sid != 0)
		s = session_find_locked(e, sid);
	if (s != NULL && s->stale)
		return -EEXIST;
	if (s == NULL)
		r = session_make_locked(e, sid, class, tty, &s);
	if (r < 0)
		return r;
	ASSERT(s != NULL);
	if ((s->class == NURSERY_PLAIN) != (class == NURSERY_PLAIN))
		return -EPERM;
	atomic_fetch_add(&s->users, 1);
	*ret = s;
	return 0;
}

int session_get(struct epm *e, i32 sid, enum nursery_class class, int tty, struct session **ret,
		struct krg_err *err)
{
	int r = session_try(e, sid, class, tty, ret);

	/* its last nursery here has been told to end, and may not be through with it */
	for (int i = 0; r == -EEXIST && i < 10; i++) {
		(void)poll(NULL, 0, 2);
		r = session_try(e, sid, class, tty, ret);
	}
	if (r == -EPERM)
		return krg_err_set(err, r, "session %d takes no placed processes", sid);
	return r < 0 ? krg_err_set(err, r, "make session %d on this node", sid) : 0;
}

void session_put(struct session *s)
{
	ASSERT(atomic_fetch_sub(&s->users, 1) > 0);
}

void session_outside(struct epm *e, struct session *s, const int *fds, unsigned nfds)
{
	KRG_GUARD(tasks, &e->sessions_lock);
	for (unsigned i = 0; i < nfds && s->noutside < SESSION_OUTSIDE_MAX; i++) {
		struct stat st;

		if (fstat(fds[i], &st) < 0)
			continue;
		s->outside[s->noutside].dev = st.st_dev;
		s->outside[s->noutside++].ino = st.st_ino;
	}
	keep_session(e, s);
}

bool session_is_outside(struct epm *e, u64 dev, u64 ino)
{
	KRG_GUARD(tasks, &e->sessions_lock);
	for (struct session *s = e->sessions; s != NULL; s = s->next)
		for (unsigned i = 0; i < s->noutside; i++)
			if (s->outside[i].dev == dev && s->outside[i].ino == ino)
				return true;
	return false;
}

struct session *session_find(struct epm *e, i32 sid)
{
	KRG_GUARD(tasks, &e->sessions_lock);
	struct session *s = session_find_locked(e, sid);

	if (s != NULL)
		atomic_fetch_add(&s->users, 1);
	return s;
}

/* 0: there is one (tells: that tells); 1: there is room for one; -ENOSPC. */
static int placeholder_look(struct session *s, i32 pgid, bool tells)
{
	KRG_GUARD(world, &s->nursery.lock);
	for (unsigned i = 0; i < s->ngroups; i++)
		if (s->group[i].pgid == pgid && (s->group[i].tells || !tells))
			return 0;
	return s->ngroups < SESSION_GROUPS_MAX ? 1 : -ENOSPC;
}

/* It reads end of file, once the keeper has closed its copy, and exits. */
static void placeholder_end(struct epm *e, const struct placeholder *g)
{
	(void)close(g->sock);
	keep_drop(e, KEEP_GROUP, g->pid);
}

static int placeholder_add(struct epm *e, struct session *s, const struct placeholder *g)
{
	KRG_GUARD(world, &s->nursery.lock);
	if (s->ngroups == SESSION_GROUPS_MAX) {
		placeholder_end(e, g);
		return -ENOSPC;
	}
	s->group[s->ngroups++] = *g;
	keep_group(e, s->sid, g);
	return 0;
}

static int placeholder_make(struct epm *e, struct session *s, struct nursery_req *req, int tell)
{
	KRG_AUTO_FD int sock = -EBADF, other = -EBADF;
	struct placeholder g = {.pgid = req->pgid, .tells = tell >= 0};
	int pair[2], r;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return -errno;
	sock = pair[0];
	other = pair[1];
	sender_socket(sock);
	r = nursery_call(&s->nursery, req, (int[]){other, tell}, tell >= 0 ? 2 : 1, &g.pid, NULL);
	if (r < 0)
		return r;
	g.sock = TAKE_FD(sock);
	return placeholder_add(e, s, &g);
}

/* A herald has that number, and is gone in a moment: nobody else of ours has it. */
static bool is_heralds(struct epm *e, i32 pid)
{
	PROC_AUTO struct proc_info p = {0};

	return proc_read_world_stat(e, pid, &p) < 0 || p.sid == 0;
}

/* -EEXIST: a process with that number lives here. */
static int placeholder_new(struct epm *e, struct session *s, struct nursery_req *req, int tell)
{
	int r = placeholder_make(e, s, req, tell);

	for (int i = 0; r == -EEXIST && i < 10 && is_heralds(e, req->set_tid); i++) {
		(void)poll(NULL, 0, 1);
		r = placeholder_make(e, s, req, tell);
	}
	return r;
}

void session_adopt_group(struct epm *e, i32 sid, const struct placeholder *g)
{
	struct session *s = session_find(e, sid);

	if (s == NULL) { /* krgd died between the two */
		placeholder_end(e, g);
		return;
	}
	(void)placeholder_add(e, s, g);
	session_put(s);
}

int session_group(struct epm *e, struct session *s, i32 pgid)
{
	struct nursery_req req = {.type = NURSERY_GROUP, .set_tid = pgid, .pgid = pgid};
	int r;

	if (pgid == s->sid)
		return 0;
	r = placeholder_look(s, pgid, false);
	if (r <= 0)
		return r;
	r = placeholder_new(e, s, &req, -EBADF);
	/* a process with that pid lives here: then the group may exist, setpgid will tell */
	return r == -EEXIST ? 0 : r;
}

int session_group_tells(struct epm *e, struct session *s, i32 pgid)
{
	struct nursery_req req = {.type = NURSERY_GROUP, .set_tid = pgid, .pgid = pgid};
	int tell = tty_tell_socket(e), r = placeholder_look(s, pgid, true);

	if (pgid == s->sid || tell < 0)
		return 0;
	if (r <= 0)
		return r;
	/* the group may be here, and its leader may have been */
	if (epm_pid_is_ours(e, pgid))
		req.set_tid = 0;
	r = placeholder_new(e, s, &req, tell);
	if (r == -EEXIST) {
		req.set_tid = 0;
		r = placeholder_new(e, s, &req, tell);
	}
	return r;
}

/* The session that has the number, counted as used. */
static struct session *session_of_number(struct epm *e, i32 pid)
{
	KRG_GUARD(tasks, &e->sessions_lock);
	for (struct session *s = e->sessions; s != NULL; s = s->next) {
		bool has = s->nursery.pid == pid;

		KRG_GUARD(world, &s->nursery.lock);
		for (unsigned i = 0; i < s->ngroups; i++)
			has = has || s->group[i].pid == pid;
		if (!has)
			continue;
		atomic_fetch_add(&s->users, 1);
		return s;
	}
	return NULL;
}

static int nursery_signal(struct nursery *n, const struct herald_req *r, int pidfd)
{
	struct nursery_req req = {.type = NURSERY_KILL, .signal = *r};
	struct nursery_answer a = {0};
	unsigned nfds = 0;

	KRG_GUARD(world, &n->lock);
	if (n->sock < 0 || krg_send_fds(n->sock, &req, sizeof(req), &pidfd, 1) != sizeof(req) ||
	    krg_recv_fds(n->sock, &a, sizeof(a), NULL, &nfds) != sizeof(a))
		return -ENOTCONN;
	return a.pid;
}

static int placeholder_signal(struct epm *e, struct session *s, struct herald_req *r, int pidfd)
{
	KRG_GUARD(world, &s->nursery.lock);
	for (unsigned i = 0; i < s->ngroups; i++)
		if (s->group[i].pid == r->from_pid)
			return sender_ask(e, s->group[i].sock, r, pidfd);
	return -ENOENT;
}

int session_signal(struct epm *e, struct herald_req *r, int pidfd)
{
	struct session *s = session_of_number(e, r->from_pid);
	int result;

	if (s == NULL)
		return -ENOENT;
	result = s->nursery.pid == r->from_pid ? nursery_signal(&s->nursery, r, pidfd)
					       : placeholder_signal(e, s, r, pidfd);
	session_put(s);
	return result;
}

int session_front(struct session *s, i32 pgid)
{
	struct nursery_req req = {.type = NURSERY_FRONT, .pgid = pgid};
	struct nursery_answer a = {0};
	unsigned nfds = 0;

	KRG_GUARD(world, &s->nursery.lock);
	if (s->nursery.sock < 0 ||
	    krg_send_fds(s->nursery.sock, &req, sizeof(req), NULL, 0) != sizeof(req) ||
	    krg_recv_fds(s->nursery.sock, &a, sizeof(a), NULL, &nfds) != sizeof(a))
		return -ESRCH;
	return a.pid;
}

enum nursery_class session_class(struct epm *e, i32 sid, bool tty)
{
	KRG_GUARD(tasks, &e->sessions_lock);
	struct session *s = session_find_locked(e, sid);

	if (s != NULL)
		return s->class;
	return tty && !epm_pid_is_ours(e, sid) ? NURSERY_AWAY : NURSERY_EXEC;
}

bool session_is_away(struct epm *e, pid_t host_sid)
{
	KRG_GUARD(tasks, &e->sessions_lock);
	for (struct session *s = e->sessions; s != NULL; s = s->next)
		if (s->host_sid == host_sid)
			return !epm_pid_is_ours(e, s->sid);
	return false;
}

bool session_owns_pid(struct epm *e, i32 pid)
{
	if (tty_is_proxy(e, pid) || pages_is_keeper(e, pid))
		return true;
	KRG_GUARD(tasks, &e->sessions_lock);
	for (struct session *s = e->sessions; s != NULL; s = s->next) {
		if (s->nursery.pid == pid)
			return true;
		KRG_GUARD(world, &s->nursery.lock);
		for (unsigned i = 0; i < s->ngroups; i++)
			if (s->group[i].pid == pid)
				return true;
	}
	return false;
}

static void session_free(struct session *s)
{
	if (s->nursery.sock >= 0)
		(void)close(s->nursery.sock);
	krg_mutex_fini(&s->nursery.lock);
	free(s);
}

static void session_end(struct epm *e, struct session *s)
{
	i32 sid = s->sid;

	for (unsigned i = 0; i < s->ngroups; i++)
		placeholder_end(e, &s->group[i]);
	/* its nursery reads end of file, once the keeper has closed its copy, and exits */
	session_free(s);
	keep_drop(e, KEEP_SESSION, sid);
}

static bool is_placeholder_locked(const struct session *s, pid_t pid)
{
	for (unsigned i = 0; i < s->ngroups; i++)
		if (s->group[i].pid == pid)
			return true;
	return false;
}

/* Does anybody but its placeholders belong to the group? */
static bool group_has_members_locked(struct epm *e, const struct session *s, const pid_t *all,
				     unsigned n, i32 pgid)
{
	for (unsigned i = 0; i < n; i++) {
		PROC_AUTO struct proc_info p = {0};

		if (!is_placeholder_locked(s, all[i]) && proc_read_world(e, all[i], &p) == 0 &&
		    p.pgid == pgid)
			return true;
	}
	return false;
}

/* The group in front of the session's terminal, whose members may all be elsewhere. */
static i32 session_in_front(struct epm *e, const struct session *s)
{
	PROC_AUTO struct proc_info leader = {0};

	return proc_read_world(e, s->sid, &leader) == 0 && leader.tty != 0 ? leader.tty_front : 0;
}

/* Placeholders of groups that nobody here belongs to any more: a shell makes a group for each job. */
static void groups_sweep_locked(struct epm *e, struct session *s)
{
	KRG_AUTO_FREE pid_t *all = NULL;
	unsigned n = 0;
	i32 front;

	if (s->ngroups == 0)
		return;
	n = proc_all(e, &all);
	front = session_in_front(e, s);
	KRG_GUARD(world, &s->nursery.lock);
	for (unsigned i = 0; i < s->ngroups;) {
		if (s->group[i].pgid == front ||
		    group_has_members_locked(e, s, all, n, s->group[i].pgid)) {
			i++;
			continue;
		}
		placeholder_end(e, &s->group[i]);
		s->group[i] = s->group[--s->ngroups];
	}
}

void sessions_sweep(struct epm *e)
{
	struct init_sessions req = {0};
	struct init_sessions_answer a = {0};
	struct session **at;

	{
		KRG_GUARD(tasks, &e->sessions_lock);
		for (struct session *s = e->sessions; s != NULL && req.n < INIT_SESSIONS_MAX;
		     s = s->next) {
			if (atomic_load(&s->users) > 0)
				continue;
			groups_sweep_locked(e, s);
			req.session[req.n].sid = s->sid;
			req.session[req.n++].nursery_pid = s->nursery.pid;
		}
	}
	if (req.n == 0 || world_sessions_alive(e, &req, &a) < 0)
		return;
	KRG_GUARD(tasks, &e->sessions_lock);
	for (at = &e->sessions; *at != NULL;) {
		struct session *s = *at;
		bool dead = false;

		/* users are counted under this lock, and only they add members */
		for (u32 i = 0; i < req.n; i++)
			if (req.session[i].sid == s->sid && a.alive[i] == 0 &&
			    atomic_load(&s->users) == 0)
				dead = true;
		if (dead) {
			*at = s->next;
			session_end(e, s);
		} else {
			at = &s->next;
		}
	}
}

void sessions_on_node_down(struct epm *e, nodeid node)
{
	KRG_GUARD(tasks, &e->sessions_lock);
	for (struct session *s = e->sessions; s != NULL; s = s->next)
		if (epm_pid_home(s->sid) == node) {
			s->stale = true;
			keep_session(e, s);
		}
}

void sessions_on_return(struct epm *e, nodeid node, u64 since)
{
	KRG_GUARD(tasks, &e->sessions_lock);
	for (struct session *s = e->sessions; s != NULL; s = s->next)
		if (s->stale && epm_pid_home(s->sid) == node && s->born >= since) {
			s->stale = false;
			keep_session(e, s);
		}
}

bool sessions_are_stale(struct epm *e, nodeid node)
{
	KRG_GUARD(tasks, &e->sessions_lock);
	for (struct session *s = e->sessions; s != NULL; s = s->next)
		if (!s->stale && epm_pid_home(s->sid) == node)
			return false;
	return true;
}

void sessions_make_way(struct epm *e, nodeid home)
{
	bool any = false;

	{
		KRG_GUARD(tasks, &e->sessions_lock);
		for (struct session *s = e->sessions; s != NULL; s = s->next)
			any = any || (s->stale && epm_pid_home(s->sid) == home);
	}
	if (any)
		sessions_sweep(e);
}

void sessions_fini(struct epm *e)
{
	while (e->sessions != NULL) {
		struct session *s = e->sessions;

		e->sessions = s->next;
		if (e->adopted && !e->returned) {
			/* it goes on without us */
			for (unsigned i = 0; i < s->ngroups; i++) {
				(void)close(s->group[i].sock);
			}
			session_free(s);
		} else {
			session_end(e, s);
		}
	}
}
