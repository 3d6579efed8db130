#include "comm_impl.h"
#include "log.h"

static bool is_old_session(const struct call *k, const void *arg)
{
	const struct call *like = arg;

	return k->to == like->to && k->chan == like->chan && (i32)(k->session - like->session) < 0;
}

static void on_reset(void *ctx, nodeid peer, u8 chan, u32 session)
{
	struct comm *c = ctx;
	struct call like = {.to = peer, .chan = chan, .session = session};

	comm_held_drop(c, peer, chan);
	calls_lock(&c->lock);
	comm_calls_end_locked(c, is_old_session, &like, -EHOSTDOWN, "it was restarted");
	comm_reqs_cancel_locked(c, peer, chan);
	calls_unlock(&c->lock);
}

static bool is_to(const struct call *k, const void *arg)
{
	return k->to == *(const nodeid *)arg;
}

/* A member is waited for until the view says that it is dead.  Others are not worth it. */
static void on_unreachable(void *ctx, nodeid peer, u8 chan, const struct krg_err *err)
{
	struct comm *c = ctx;

	(void)chan;
	KRG_GUARD(calls, &c->lock);
	if (!comm_is_member(c, peer))
		comm_calls_end_locked(c, is_to, &peer, err->code == -EACCES ? -EACCES : -EHOSTDOWN,
				      err->text);
}

static u64 on_work(void *ctx, u64 now)
{
	struct comm *c = ctx;
	u64 next;

	comm_own_run(c);
	comm_held_release(c);
	next = comm_workers_work(c, now);
	return KRG_MIN(next, comm_calls_work(c, now));
}

static int on_probe(void *ctx, nodeid from, u64 tag, struct krg_err *err);

static const struct kernetdev_upcalls upcalls = {
	.recv = comm_recv,
	.reset = on_reset,
	.unreachable = on_unreachable,
	.raw_check = comm_raw_check,
	.raw = comm_raw_ready,
	.probe_check = on_probe,
	.work = on_work,
};

int comm_new(const struct comm_config *config, struct comm **ret, struct krg_err *err)
{
	struct comm *c = krg_xalloc(sizeof(*c));
	struct kernetdev_config kc = {.self = config->self,
				      .listen_addr = config->listen_addr,
				      .listen_port = config->listen_port,
				      .up = &upcalls,
				      .ctx = c,
				      .driver = config->driver,
				      .driver_ctx = config->driver_ctx};
	int r;

	memcpy(kc.cluster, config->cluster, sizeof(kc.cluster));
	memcpy(kc.key, config->key, sizeof(kc.key));
	c->config = *config;
	if (c->config.workers == 0)
		c->config.workers = 4;
	c->config.workers = KRG_MIN(c->config.workers, (unsigned)COMM_WORKERS_MAX);
	c->finished_last = &c->finished;
	c->next_deadline_ns = UINT64_MAX;
	krg_mutex_init(&c->lock);
	krg_mutex_init(&c->work_lock);
	krg_cond_init(&c->cond);
	krg_cond_init(&c->work_cond);
	krg_cond_init(&c->work_end);
	r = kernetdev_new(&kc, &c->kd, err);
	explicit_bzero(kc.key, sizeof(kc.key));
	explicit_bzero(c->config.key, sizeof(c->config.key));
	if (r < 0) {
		comm_free(c);
		return r;
	}
	*ret = c;
	return 0;
}

int comm_start(struct comm *c, struct krg_err *err)
{
	int r = kernetdev_start(c->kd, err);

	if (r == 0)
		comm_workers_start(c);
	return r;
}

static bool is_any(const struct call *k, const void *arg)
{
	(void)k;
	(void)arg;
	return true;
}

void comm_stop(struct comm *c)
{
	calls_lock(&c->lock);
	if (atomic_load(&c->stopping)) {
		calls_unlock(&c->lock);
		return;
	}
	atomic_store(&c->stopping, true);
	comm_calls_end_locked(c, is_any, NULL, -ECANCELED, "this node stops");
	krg_cond_broadcast(&c->cond);
	calls_unlock(&c->lock);
	kernetdev_wake_room(c->kd);
	comm_workers_stop(c);
	calls_lock(&c->lock);
	while (atomic_load(&c->inside) > 0) /* the last may miss that we wait */
		(void)krg_cond_wait_until(&c->cond, &c->lock, krg_clock_now_ns() + 5 * KRG_MSEC);
	calls_unlock(&c->lock);
	kernetdev_stop(c->kd);
	comm_finished_run(c);
}

static void msgs_free(struct kernetdev_msg *m)
{
	while (m != NULL) {
		struct kernetdev_msg *next = m->next;

		kernetdev_msg_free(m);
		m = next;
	}
}

/* One-way requests that no worker took; calls are freed by the table. */
static void jobs_free(struct comm *c)
{
	while (c->jobs != NULL) {
		struct job *j = c->jobs;

		c->jobs = j->next;
		j->drop(j);
	}
}

void comm_free(struct comm *c)
{
	if (c == NULL)
		return;
	if (c->kd != NULL) {
		comm_stop(c);
		jobs_free(c);
		comm_reqs_free(c);
		msgs_free(c->own);
		for (nodeid i = 0; i < KRG_NODES_MAX; i++)
			for (unsigned chan = 0; chan < COMM_CHAN_NR; chan++)
				msgs_free(c->held[i][chan].first);
		kernetdev_free(c->kd);
	}
	for (unsigned i = 0; i < COMM_OPS; i++) {
		free(atomic_load(&c->ops[i]));
		free(atomic_load(&c->raw_ops[i]));
	}
	krg_mutex_fini(&c->lock);
	krg_mutex_fini(&c->work_lock);
	krg_cond_fini(&c->cond);
	krg_cond_fini(&c->work_cond);
	krg_cond_fini(&c->work_end);
	free(c);
}

u16 comm_port(const struct comm *c)
{
	return kernetdev_port(c->kd);
}

nodeid comm_self(const struct comm *c)
{
	return c->config.self;
}

struct kernetdev *comm_kernetdev(struct comm *c)
{
	return c->kd;
}

void comm_register(struct comm *c, u16 op, unsigned flags, comm_handler handler, void *ctx)
{
	struct op *o = krg_xalloc(sizeof(*o));

	ASSERT(op < COMM_OPS && handler != NULL);
	*o = (struct op){.flags = flags, .handler = handler, .ctx = ctx};
	ASSERT(atomic_exchange(&c->ops[op], o) == NULL); /* each op once */
}

int comm_peer_set(struct comm *c, nodeid node, const char *addr, u16 port)
{
	return kernetdev_peer_set(c->kd, node, addr, port);
}

void comm_peer_forget(struct comm *c, nodeid node)
{
	kernetdev_peer_forget(c->kd, node);
	calls_lock(&c->lock);
	comm_calls_end_locked(c, is_to, &node, -EHOSTDOWN, "it was forgotten");
	comm_reqs_cancel_locked(c, node, -1);
	calls_unlock(&c->lock);
	for (u8 chan = 0; chan < COMM_CHAN_NR; chan++)
		comm_held_drop(c, node, chan);
	kernetdev_wake_room(c->kd);
}

int comm_probe(struct comm *c, const char *addr, u16 port, u64 tag, u64 timeout_ms,
	       nodeid *ret_node, struct krg_err *err)
{
	krg_assert_no_locks();
	return kernetdev_probe(c->kd, addr, port, tag, timeout_ms, ret_node, err);
}

void comm_probe_register(struct comm *c, comm_probe_check check, void *ctx)
{
	ASSERT(c->probe_check == NULL);
	c->probe_check = check;
	c->probe_ctx = ctx;
}

static int on_probe(void *ctx, nodeid from, u64 tag, struct krg_err *err)
{
	struct comm *c = ctx;

	return c->probe_check != NULL ? c->probe_check(c->probe_ctx, from, tag, err) : 0;
}

void comm_stat_get(struct comm *c, struct comm_stat *ret)
{
	calls_lock(&c->lock);
	*ret = c->stat;
	calls_unlock(&c->lock);
	ret->calls = ret->answers + ret->errors + ret->in_flight;
	workers_lock(&c->work_lock);
	ret->workers = c->workers;
	ret->workers_busy = c->workers - c->idle;
	ret->queued = c->jobs_nr;
	workers_unlock(&c->work_lock);
}
