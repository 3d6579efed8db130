/* sched.c - samples, what the others say, and the table that epm asks. */
#include "sched_impl.h"

static const char *const policy_name[] = {
	[SCHED_LOAD] = "load", [SCHED_ELSEWHERE] = "elsewhere", [SCHED_OFF] = "off"};

int sched_policy_parse(const char *name, enum sched_policy *ret)
{
	for (unsigned i = 0; i < KRG_NELEM(policy_name); i++) {
		if (strcmp(name, policy_name[i]) == 0) {
			*ret = (enum sched_policy)i;
			return 0;
		}
	}
	return -EINVAL;
}

const char *sched_policy_name(enum sched_policy policy)
{
	ASSERT((unsigned)policy < KRG_NELEM(policy_name));
	return policy_name[policy];
}

void sched_set_policy(struct sched *s, enum sched_policy policy)
{
	atomic_store(&s->policy, (int)policy);
}

enum sched_policy sched_get_policy(struct sched *s)
{
	return (enum sched_policy)atomic_load(&s->policy);
}

/* ---- samples ---- */

static void fresh_forget_locked(struct sched_peer *p, u64 age_ns, u64 now_ns)
{
	unsigned keep = 0;

	for (unsigned i = 0; i < p->nfresh; i++)
		if (p->fresh[i] + age_ns > now_ns)
			p->fresh[keep++] = p->fresh[i];
	p->nfresh = keep;
}

static void sample_in_locked(struct sched *s, nodeid n, u32 runnable, double cpus, u64 now_ns)
{
	struct sched_peer *p = &s->peer[n];

	p->heard = true;
	p->runnable = runnable;
	p->cpus = cpus;
	p->sampled_ns = now_ns;
}

static void load_in_locked(struct sched *s, nodeid n, const struct rec_sched_load *l, u64 now_ns)
{
	struct sched_peer *p = &s->peer[n];

	sample_in_locked(s, n, l->runnable, l->milli_cpus / 1000.0, now_ns);
	/* what has arrived is in its number now */
	for (; p->acked != l->arrivals && p->nfresh > 0; p->acked++)
		sched_fresh_drop_locked(p);
	p->acked = l->arrivals;
	fresh_forget_locked(p, SCHED_FRESH_MS * KRG_MSEC, now_ns);
}

static void handle_load(void *ctx, struct comm_req *req)
{
	struct sched *s = ctx;
	struct krg_rd rd = krg_rd_slice(req->body);
	struct rec_sched_load l;

	if (rec_sched_load_decode(&rd, &l) == 0 && l.milli_cpus > 0 && req->from < KRG_NODES_MAX) {
		KRG_GUARD(sched, &s->lock);
		load_in_locked(s, req->from, &l, krg_clock_now_ns());
	}
	comm_req_done(req);
}

static void tell_one(struct sched *s, nodeid n, u32 runnable)
{
	KRG_AUTO_BUF struct krg_buf b = {0};
	struct rec_sched_load l = {.runnable = runnable,
				   .milli_cpus = (u32)(s->config.cpus * 1000 + 0.5)};

	sched_lock(&s->lock);
	l.arrivals = s->peer[n].arrivals;
	sched_unlock(&s->lock);
	rec_sched_load_encode(&l, &b);
	/* a full queue: the next one will do */
	(void)!comm_try_send(s->config.comm, n, SCHED_OP_LOAD, &b);
}

static void tell(struct sched *s, u32 runnable)
{
	for (nodeid n = 0; n < KRG_NODES_MAX; n++)
		if (n != s->self && comm_is_member(s->config.comm, n))
			tell_one(s, n, runnable);
}

static void sample(struct sched *s, u64 now_ns)
{
	u32 runnable = s->config.runnable(s->config.ctx);

	KRG_GUARD(sched, &s->lock);
	sample_in_locked(s, s->self, runnable, s->config.cpus, now_ns);
	/* what came or stayed before the last half of this time shows, or has ended */
	fresh_forget_locked(&s->peer[s->self], SCHED_SAMPLE_MS * KRG_MSEC / 2, now_ns);
}

/* Until it is time for a sample, or for news.  False: stop. */
static bool rest(struct sched *s, u64 sample_ns, u64 quiet_ns)
{
	u64 now = krg_clock_now_ns();

	KRG_GUARD(sched, &s->lock);
	while (!s->stop && now < sample_ns && !(s->news && now >= quiet_ns)) {
		(void)krg_cond_wait_until(&s->cond, &s->lock,
					  s->news ? KRG_MIN(sample_ns, quiet_ns) : sample_ns);
		now = krg_clock_now_ns();
	}
	return !s->stop;
}

static void *sched_main(void *ctx)
{
	struct sched *s = ctx;
	u64 told_ns = 0, sample_ns = krg_clock_now_ns();
	u32 last = UINT32_MAX;

	do {
		u64 now = krg_clock_now_ns();
		u32 load;

		if (now >= sample_ns) {
			sample(s, now);
			sample_ns = KRG_MAX(sample_ns + SCHED_SAMPLE_MS * KRG_MSEC, now);
		}
		sched_lock(&s->lock);
		load = s->peer[s->self].runnable + s->peer[s->self].nfresh;
		s->news = false;
		sched_unlock(&s->lock);
		if (load != last || now - told_ns >= SCHED_TELL_MS * KRG_MSEC) {
			tell(s, load);
			told_ns = now;
			last = load;
		}
	} while (rest(s, sample_ns, told_ns + SCHED_QUIET_MS * KRG_MSEC));
	return NULL;
}

/* ---- what epm asks ---- */

static bool may_move(void *ctx)
{
	struct sched *s = ctx;
	u64 now = krg_clock_now_ns();

	if (atomic_load(&s->policy) == SCHED_OFF)
		return false;
	KRG_GUARD(sched, &s->lock);
	if (sched_best_locked(s, now, SCHED_LONG_NS, false) != s->self)
		return true;
	sched_fresh_add_locked(&s->peer[s->self], now);
	return false;
}

/* A short program does not count as placed: it has ended before the next sample. */
static bool path_may_move(void *ctx, const char *path)
{
	struct sched *s = ctx;

	if (atomic_load(&s->policy) != SCHED_LOAD)
		return true;
	KRG_GUARD(sched, &s->lock);
	return !sched_path_is_short_locked(s, path);
}

static nodeid place(void *ctx, const struct epm_exec_info *info)
{
	struct sched *s = ctx;
	u64 now = krg_clock_now_ns();
	nodeid to;

	KRG_GUARD(sched, &s->lock);
	to = sched_choose_locked(s, now, sched_path_expect_locked(s, info->path),
				 info->away || info->moved);
	if (!info->moved || to != s->self) /* else it is counted */
		sched_fresh_add_locked(&s->peer[to], now);
	return to;
}

static void placed(void *ctx, const struct epm_exec_info *info, nodeid node, int code)
{
	struct sched *s = ctx;

	if (code == 0)
		return;
	/* it stayed after all */
	KRG_GUARD(sched, &s->lock);
	sched_fresh_drop_locked(&s->peer[node]);
	if (!info->moved)
		sched_fresh_add_locked(&s->peer[s->self], krg_clock_now_ns());
}

static void arrived(void *ctx, nodeid from)
{
	struct sched *s = ctx;

	KRG_GUARD(sched, &s->lock);
	s->peer[from].arrivals++;
	sched_fresh_add_locked(&s->peer[s->self], krg_clock_now_ns());
	/* the others are to know before they send theirs here as well */
	s->news = true;
	krg_cond_broadcast(&s->cond);
}

static void ended(void *ctx, const char *path, u64 wall_ns, u64 cpu_ns)
{
	struct sched *s = ctx;

	(void)wall_ns;
	KRG_GUARD(sched, &s->lock);
	sched_path_ended_locked(s, path, cpu_ns);
}

const struct epm_placement_ops *sched_placement_ops(void)
{
	static const struct epm_placement_ops ops = {.may_move = may_move,
						     .path_may_move = path_may_move,
						     .place = place,
						     .placed = placed,
						     .arrived = arrived,
						     .ended = ended};

	return &ops;
}

/* ---- life ---- */

int sched_new(const struct sched_config *config, struct sched **ret, struct krg_err *err)
{
	struct sched *s;

	ASSERT(config->comm != NULL && config->runnable != NULL);
	if (config->cpus < 0 || config->cpus > 4096)
		return krg_err_set(err, -EINVAL, "sched: %g processors", config->cpus);
	s = krg_xalloc(sizeof(*s));
	s->config = *config;
	if (s->config.cpus == 0)
		s->config.cpus = (double)sysconf(_SC_NPROCESSORS_ONLN);
	s->self = comm_self(config->comm);
	atomic_store(&s->policy, (int)config->policy);
	krg_mutex_init(&s->lock);
	krg_cond_init(&s->cond);
	for (unsigned i = 0; i < KRG_NODES_MAX; i++)
		s->peer[i].cpus = 1;
	s->peer[s->self].cpus = s->config.cpus;
	s->turn = s->self;
	*ret = s;
	return 0;
}

int sched_start(struct sched *s, struct krg_err *err)
{
	comm_register(s->config.comm, SCHED_OP_LOAD, COMM_INLINE, handle_load, s);
	if (pthread_create(&s->thread, NULL, sched_main, s) != 0)
		return krg_err_set(err, -EAGAIN, "sched: start a thread");
	s->runs = true;
	return 0;
}

void sched_stop(struct sched *s)
{
	sched_lock(&s->lock);
	s->stop = true;
	krg_cond_broadcast(&s->cond);
	sched_unlock(&s->lock);
	if (s->runs)
		(void)pthread_join(s->thread, NULL);
	s->runs = false;
}

void sched_free(struct sched *s)
{
	if (s == NULL)
		return;
	krg_cond_fini(&s->cond);
	krg_mutex_fini(&s->lock);
	free(s);
}

void sched_node_up(struct sched *s, nodeid node, u64 view)
{
	u32 runnable;

	(void)view;
	sched_lock(&s->lock);
	s->peer[node].member = true;
	/* its count starts anew, as ours does there */
	s->peer[node].arrivals = s->peer[node].acked = 0;
	runnable = s->peer[s->self].runnable;
	sched_unlock(&s->lock);
	/* it is to know at once, not with the next sample */
	if (node != s->self)
		tell_one(s, node, runnable);
}

void sched_node_down(struct sched *s, nodeid node, u64 view)
{
	(void)view;
	KRG_GUARD(sched, &s->lock);
	s->peer[node].member = s->peer[node].heard = false;
	s->peer[node].nfresh = 0;
}

unsigned sched_nodes(struct sched *s, struct sched_node *ret, unsigned max)
{
	u64 now = krg_clock_now_ns();
	unsigned n = 0;

	KRG_GUARD(sched, &s->lock);
	for (nodeid i = 0; i < KRG_NODES_MAX && n < max; i++) {
		const struct sched_peer *p = &s->peer[i];

		if (!p->heard || (i != s->self && !p->member))
			continue;
		ret[n++] = (struct sched_node){.node = i,
					       .cpus = p->cpus,
					       .load = (p->runnable + p->nfresh) / p->cpus,
					       .runnable = p->runnable,
					       .age_ms = (u32)((now - p->sampled_ns) / KRG_MSEC)};
	}
	return n;
}
