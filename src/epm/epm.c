/* epm.c - the part's life, and the table of tasks. */
#include "epm_impl.h"
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>

#define B(s) (1u << TASK_##s)
static const struct {
	const char *name;
	u32 next;
} state_table[TASK_STATE_NR] = {
#define X(name, next) [TASK_##name] = {#name, next},
	TASK_STATES(X)
#undef X
};

/* ---- tasks ---- */

void task_move_locked(struct task *t, enum task_state to)
{
	ASSERT_OBJ(t, TASK_MAGIC);
	ASSERT(to < TASK_STATE_NR);
	ASSERT((state_table[t->state].next >> to & 1) != 0);
	t->state = to;
	krg_cond_broadcast(&t->cond);
}

struct task *task_new(struct epm *e, enum task_kind kind, pid_t pid, nodeid peer)
{
	struct task *t = krg_xalloc(sizeof(*t));

	(void)e;
	t->magic = TASK_MAGIC;
	atomic_store(&t->refs, 1);
	t->kind = kind;
	t->pid = pid;
	t->peer = peer;
	t->maker = KRG_NODE_NONE;
	t->start_ns = krg_clock_now_ns();
	t->pidfd = t->channel = -EBADF;
	t->run_node = -1;
	krg_mutex_init(&t->lock);
	krg_cond_init(&t->cond);
	return t;
}

void task_put(struct task *t)
{
	ASSERT_OBJ(t, TASK_MAGIC);
	if (atomic_fetch_sub(&t->refs, 1) != 1)
		return;
	if (t->pidfd >= 0)
		(void)close(t->pidfd);
	if (t->channel >= 0)
		(void)close(t->channel);
	krg_cond_fini(&t->cond);
	krg_mutex_fini(&t->lock);
	free(t->path);
	free(t->streams);
	free(t->children);
	t->magic = 0;
	free(t);
}

static struct task **bucket(struct epm *e, pid_t pid)
{
	return &e->tasks[(unsigned)pid % EPM_TASK_BUCKETS];
}

int task_insert(struct epm *e, struct task *t)
{
	KRG_GUARD(tasks, &e->tasks_lock);
	for (struct task *o = *bucket(e, t->pid); o != NULL; o = o->next)
		if (o->pid == t->pid && o->kind == t->kind)
			return -EEXIST;
	t->next = *bucket(e, t->pid);
	*bucket(e, t->pid) = t;
	atomic_fetch_add(&t->refs, 1);
	if (t->kind == TASK_BODY)
		atomic_fetch_add(&e->nbodies, 1);
	if (t->kind == TASK_SHADOW)
		atomic_fetch_add(&e->nshadows, 1);
	return 0;
}

void task_remove(struct epm *e, struct task *t)
{
	bool found = false;

	tasks_lock(&e->tasks_lock);
	for (struct task **at = bucket(e, t->pid); *at != NULL; at = &(*at)->next) {
		if (*at == t) {
			*at = t->next;
			found = true;
			break;
		}
	}
	if (found && t->kind == TASK_BODY)
		atomic_fetch_sub(&e->nbodies, 1);
	if (found && t->kind == TASK_SHADOW)
		atomic_fetch_sub(&e->nshadows, 1);
	tasks_unlock(&e->tasks_lock);
	if (found)
		task_put(t);
}

struct task *task_find(struct epm *e, enum task_kind kind, pid_t pid)
{
	KRG_GUARD(tasks, &e->tasks_lock);
	for (struct task *t = *bucket(e, pid); t != NULL; t = t->next) {
		if (t->pid == pid && t->kind == kind) {
			atomic_fetch_add(&t->refs, 1);
			return t;
		}
	}
	return NULL;
}

struct task *task_find_body_by_host_pid(struct epm *e, pid_t host_pid)
{
	if (atomic_load(&e->nbodies) == 0)
		return NULL;
	KRG_GUARD(tasks, &e->tasks_lock);
	for (unsigned i = 0; i < EPM_TASK_BUCKETS; i++) {
		for (struct task *t = e->tasks[i]; t != NULL; t = t->next) {
			if (t->kind == TASK_BODY && t->host_pid == host_pid) {
				atomic_fetch_add(&t->refs, 1);
				return t;
			}
		}
	}
	return NULL;
}

unsigned task_all(struct epm *e, enum task_kind kind, struct task ***ret)
{
	unsigned n = 0, room = 64;
	struct task **all = krg_xalloc(room * sizeof(struct task *));

	KRG_GUARD(tasks, &e->tasks_lock);
	for (unsigned i = 0; i < EPM_TASK_BUCKETS; i++) {
		for (struct task *t = e->tasks[i]; t != NULL; t = t->next) {
			if (t->kind != kind)
				continue;
			if (n == room) {
				room *= 2;
				all = krg_xrealloc(all, room * sizeof(struct task *));
			}
			atomic_fetch_add(&t->refs, 1);
			all[n++] = t;
		}
	}
	*ret = all;
	return n;
}

/* ---- life ---- */

int epm_new(const struct epm_config *config, struct epm **ret, struct krg_err *err)
{
	struct epm *e = krg_xalloc(sizeof(*e));
	struct timespec now;
	int r;

	(void)clock_gettime(CLOCK_REALTIME, &now);
	krg_trace_call_id_begin((u64)now.tv_sec);
	ASSERT(config->comm != NULL && config->run_dir != NULL && config->libexec_dir != NULL);
	e->comm = config->comm;
	e->stream = config->stream;
	e->self = comm_self(config->comm);
	e->low = (e->self + 1) << EPM_PID_SHIFT;
	e->high = (e->self + 2) << EPM_PID_SHIFT;
	e->run_dir = krg_xstrdup(config->run_dir);
	e->libexec_dir = krg_xstrdup(config->libexec_dir);
	e->host_name = krg_xstrdup(config->host_name != NULL ? config->host_name : "kerrighed");
	e->clock_offset_ns = config->clock_offset_ns;
	e->init_sock = e->world_proc = e->vessel_fd = e->deputy_epoll = e->deputy_wake = -EBADF;
	e->keep_sock = e->keeper = e->log_fd = e->tell[0] = e->tell[1] = -EBADF;
	e->again.map = e->again.link = -EBADF;
	e->keep_ms = config->keep_ms;
	/* answers to what another krgd asked are not ours */
	e->ask_id = e->ask_answered = (u32)(krg_clock_now_ns() >> 10);
	atomic_store(&e->herald_id, (u32)(krg_clock_now_ns() >> 10));
	for (int c = 0; c < NURSERY_NR; c++) {
		e->listener[c] = e->root[c].sock = -EBADF;
		krg_mutex_init(&e->root[c].lock);
	}
	e->herald.sock = -EBADF;
	krg_mutex_init(&e->herald.lock);
	krg_mutex_init(&e->signals_lock);
	krg_mutex_init(&e->watch_lock);
	krg_cond_init(&e->signals_cond);
	krg_mutex_init(&e->ask_lock);
	krg_cond_init(&e->ask_cond);
	krg_mutex_init(&e->sessions_lock);
	krg_mutex_init(&e->tasks_lock);
	krg_mutex_init(&e->converting_lock);
	krg_mutex_init(&e->proxies_lock);
	krg_mutex_init(&e->gate_lock);
	krg_mutex_init(&e->history_lock);
	krg_mutex_init(&e->ends_lock);
	krg_mutex_init(&e->caps_lock);
	krg_mutex_init(&e->asked_lock);
	pages_init(e);
	e->history = krg_xalloc(EPM_HISTORY * sizeof(*e->history));
	r = world_fork(e, err);
	if (r < 0) {
		epm_free(e);
		return r;
	}
	*ret = e;
	return 0;
}

static void ops_register(struct epm *e)
{
	static const struct {
		u16 op;
		unsigned flags;
		comm_handler handler;
	} table[] = {
		{EPM_OP_PREPARE, 0, handle_prepare},
		{EPM_OP_MIGRATE, 0, handle_migrate},
		{EPM_OP_MIGRATE_ON, 0, handle_migrate_on},
		{EPM_OP_PAGES, 0, handle_pages},
		{EPM_OP_ARRIVED, 0, handle_arrived},
		{EPM_OP_COMMIT, COMM_INLINE, handle_commit},
		{EPM_OP_ABORT, COMM_INLINE, handle_abort},
		{EPM_OP_SIGNAL, COMM_INLINE, handle_signal},
		{EPM_OP_ENDED, COMM_INLINE, handle_ended},
		{EPM_OP_KILL, 0, handle_kill},
		{EPM_OP_KILL_GROUP, 0, handle_kill_group},
		{EPM_OP_PARENT, 0, handle_parent},
		{EPM_OP_DEPUTY_CALL, 0, handle_deputy_call},
		{EPM_OP_LIST, 0, handle_list},
		{EPM_OP_CLOCK, COMM_INLINE, handle_clock},
		{EPM_OP_TTY, 0, handle_tty},
		{EPM_OP_TTY_SIGNAL, 0, handle_tty_signal},
		{EPM_OP_TTY_OPEN, 0, handle_tty_open},
		{EPM_OP_ORPHAN, 0, handle_orphan},
		{EPM_OP_CAPS, 0, handle_caps},
		{EPM_OP_CHILD, COMM_INLINE, handle_child},
		{EPM_OP_CHILD_SIGNAL, COMM_INLINE, handle_child_signal},
		{EPM_OP_SIGNALS_DONE, COMM_INLINE, handle_signals_done},
		{EPM_OP_ONWARD, 0, handle_onward},
		{EPM_OP_GIVE_UP, 0, handle_give_up},
		{EPM_OP_RETURN, 0, handle_return},
	};

	for (unsigned i = 0; i < KRG_NELEM(table); i++)
		comm_register(e->comm, table[i].op, table[i].flags, table[i].handler, e);
	pages_register(e);
}

int epm_start(struct epm *e, struct krg_err *err)
{
	int r = 0;

	if (e->adopted) {
		r = world_adopt(e, err);
	} else {
		e->since = krg_trace_call_id(e->self);
		r = clock_agree(e, err);
		if (r == 0)
			r = world_start(e, err);
	}
	if (r == 0 && !e->adopted)
		r = deputy_open(e, err);
	if (r == 0)
		r = signals_start(e, err);
	if (r == 0)
		r = tty_start(e, err);
	if (r == 0)
		r = usage_start(e);
	if (r == 0)
		gate_again_start(e);
	if (r == 0 && !e->adopted) {
		keep_world(e);
		r = deputy_start(e, err);
		if (r == 0)
			r = gate_start(e, err);
	}
	if (r < 0) {
		epm_stop(e);
		return r;
	}
	ops_register(e);
	return 0;
}

void epm_stop(struct epm *e)
{
	struct task **all;
	unsigned n;

	atomic_store(&e->stopping, true);
	pages_stop(e);
	world_stop(e);
	gate_stop(e);
	gate_again_stop(e);
	signals_stop(e);
	usage_stop(e);
	tty_stop(e);
	deputy_stop(e);
	for (int kind = TASK_BODY; kind <= TASK_RUN; kind++) {
		n = task_all(e, (enum task_kind)kind, &all);
		for (unsigned i = 0; i < n; i++) {
			task_lock(&all[i]->lock);
			if (all[i]->state != TASK_ENDED)
				task_move_locked(all[i], TASK_ENDED);
			task_unlock(&all[i]->lock);
			task_remove(e, all[i]);
			task_put(all[i]);
		}
		free(all);
	}
	sessions_fini(e);
}

static void fd_end(int *fd)
{
	if (*fd >= 0)
		(void)close(*fd);
	*fd = -EBADF;
}

void epm_free(struct epm *e)
{
	if (e == NULL)
		return;
	pages_fini(e);
	world_stop(e);
	body_ends_drop(e);
	kept_free(e->kept);
	tty_free(e);
	usage_free(e);
	caps_fini(e);
	asked_fini(e);
	groups_fini(e);
	fd_end(&e->init_sock);
	fd_end(&e->herald.sock);
	fd_end(&e->world_proc);
	fd_end(&e->vessel_fd);
	fd_end(&e->keep_sock);
	fd_end(&e->keeper);
	fd_end(&e->log_fd);
	fd_end(&e->tell[0]);
	fd_end(&e->tell[1]);
	if (e->log != NULL)
		(void)munmap(e->log, sizeof(*e->log));
	free(e->ended);
	for (int c = 0; c < NURSERY_NR; c++) {
		fd_end(&e->listener[c]);
		fd_end(&e->root[c].sock);
	}
	free(e->run_dir);
	free(e->libexec_dir);
	free(e->host_name);
	free(e->ns_ids);
	free(e->root_path);
	free(e->history);
	free(e);
}

void epm_node_up(struct epm *e, nodeid node, u64 view)
{
	(void)node;
	(void)view;
	atomic_fetch_add(&e->nodes, 1);
}

void epm_node_down(struct epm *e, nodeid node, u64 view)
{
	(void)view;
	atomic_fetch_sub(&e->nodes, 1);
	pages_on_node_down(e, node);
	bodies_on_node_down(e, node);
	deputies_on_node_down(e, node);
	kin_on_node_down(e, node);
	sessions_on_node_down(e, node);
}

void epm_set_placement(struct epm *e, const struct epm_placement_ops *ops, void *ctx)
{
	e->placement_ctx = ctx;
	atomic_store(&e->placement, ops);
}

void epm_stat_get(struct epm *e, struct epm_stat *ret)
{
	*ret = (struct epm_stat){.gate_calls = atomic_load(&e->count.gate_calls),
				 .execs_local = atomic_load(&e->count.execs_local),
				 .execs_placed = atomic_load(&e->count.execs_placed),
				 .bodies = atomic_load(&e->count.bodies),
				 .deputies = atomic_load(&e->count.deputies),
				 .signals = atomic_load(&e->count.signals)};
}
