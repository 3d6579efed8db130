/* sched_choose.c - the choice of a node, from what is known. */
#include "sched_impl.h"

void sched_fresh_add_locked(struct sched_peer *p, u64 now_ns)
{
	if (p->nfresh < SCHED_FRESH_MAX)
		p->fresh[p->nfresh++] = now_ns;
}

/* One of them has ended, most likely the oldest. */
void sched_fresh_drop_locked(struct sched_peer *p)
{
	if (p->nfresh == 0)
		return;
	memmove(p->fresh, p->fresh + 1, --p->nfresh * sizeof(p->fresh[0]));
}

/* The share of a processor that one more task would have there, inverted: smaller is better. */
static double crowd(const struct sched_peer *p)
{
	return (p->runnable + p->nfresh + 1) / p->cpus;
}

static bool usable(const struct sched *s, nodeid n, u64 now_ns)
{
	const struct sched_peer *p = &s->peer[n];

	return n == s->self ||
	       (p->member && p->heard && now_ns - p->sampled_ns < SCHED_STALE_MS * KRG_MSEC);
}

static nodeid next_in_turn(struct sched *s, u64 now_ns)
{
	for (unsigned i = 1; i <= KRG_NODES_MAX; i++) {
		nodeid n = (nodeid)((s->turn + i) % KRG_NODES_MAX);

		if (n != s->self && usable(s, n, now_ns))
			return n;
	}
	return s->self;
}

nodeid sched_best_locked(struct sched *s, u64 now_ns, u64 cpu_ns, bool away)
{
	enum sched_policy policy = (enum sched_policy)atomic_load(&s->policy);
	const struct sched_peer *own = &s->peer[s->self];
	nodeid best = s->self;
	double here, there;

	if (policy == SCHED_OFF)
		return s->self;
	if (policy == SCHED_ELSEWHERE)
		return next_in_turn(s, now_ns);
	/* start behind the last choice, so that equals are used in turn */
	for (unsigned i = 1; i <= KRG_NODES_MAX; i++) {
		nodeid n = (nodeid)((s->turn + i) % KRG_NODES_MAX);

		if (n != s->self && usable(s, n, now_ns) &&
		    (best == s->self || crowd(&s->peer[n]) < crowd(&s->peer[best])))
			best = n;
	}
	if (best == s->self)
		return best;
	/* when it would have ended, in wall time */
	here = (crowd(own) - (away ? SCHED_STAY_AWAY : SCHED_STAY) / own->cpus) * (double)cpu_ns;
	there = crowd(&s->peer[best]) * ((double)cpu_ns + SCHED_GO_NS);
	return there < here ? best : s->self;
}

nodeid sched_choose_locked(struct sched *s, u64 now_ns, u64 cpu_ns, bool away)
{
	nodeid to = sched_best_locked(s, now_ns, cpu_ns, away);

	if (to != s->self)
		s->turn = to;
	return to;
}

/* ---- short programs ---- */

/* FNV-1a, Fowler, Noll, Vo */
static u64 path_hash(const char *path)
{
	u64 h = 0xcbf29ce484222325ull;

	for (; *path != '\0'; path++)
		h = (h ^ (u8)*path) * 0x100000001b3ull;
	return h != 0 ? h : 1;
}

static struct sched_path *path_find(struct sched *s, u64 hash, bool make)
{
	struct sched_path *victim = NULL;

	/* eight places by hash, the one longest unused gives way */
	for (unsigned i = 0; i < 8; i++) {
		struct sched_path *p = &s->path[(hash + i) % SCHED_PATHS];

		if (p->hash == hash)
			return p;
		if (victim == NULL || p->used < victim->used)
			victim = p;
	}
	if (!make)
		return NULL;
	*victim = (struct sched_path){.hash = hash};
	return victim;
}

bool sched_path_is_short_locked(struct sched *s, const char *path)
{
	struct sched_path *p = path_find(s, path_hash(path), false);

	if (p == NULL)
		return false;
	p->used = ++s->path_clock;
	if (p->runs < SCHED_SHORT_MIN || p->cpu_ns >= SCHED_SHORT_NS)
		return false;
	if (++p->kept < SCHED_SHORT_TRY)
		return true;
	p->kept = 0;
	return false;
}

u64 sched_path_expect_locked(struct sched *s, const char *path)
{
	const struct sched_path *p = path_find(s, path_hash(path), false);

	/* one that is tried again is to go */
	if (p == NULL || p->runs < SCHED_SHORT_MIN || p->cpu_ns < SCHED_SHORT_NS)
		return SCHED_LONG_NS;
	return p->cpu_ns;
}

void sched_path_ended_locked(struct sched *s, const char *path, u64 cpu_ns)
{
	struct sched_path *p = path_find(s, path_hash(path), true);

	p->used = ++s->path_clock;
	p->cpu_ns = p->runs == 0 ? cpu_ns : (p->cpu_ns * 3 + cpu_ns) / 4;
	p->runs++;
}
