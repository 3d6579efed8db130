#include "lock.h"
#include "clock.h"
#include <time.h>

struct krg_lock_cap lc_root;
#define KRG_LOCK_CLASS(name, outer, what) struct krg_lock_cap lc_##name;
#include "lock_classes.def"
#undef KRG_LOCK_CLASS

#ifdef KRG_CHECKS
static const char *const rank_name[] = {
	"root",
#define KRG_LOCK_CLASS(name, outer, what) #name,
#include "lock_classes.def"
#undef KRG_LOCK_CLASS
};

static _Thread_local struct {
	unsigned n;
	enum krg_lock_rank rank[16];
	const struct krg_mutex *mutex[16];
} held;

static void held_push(const struct krg_mutex *m, enum krg_lock_rank rank)
{
	ASSERT(held.n < KRG_NELEM(held.rank));
	if (held.n > 0 && held.rank[held.n - 1] >= rank) {
		(void)fprintf(stderr, "lock order: taking %s while holding %s\n", rank_name[rank],
			      rank_name[held.rank[held.n - 1]]);
		krg_panic(__FILE__, __LINE__, "lock order");
	}
	held.mutex[held.n] = m;
	held.rank[held.n++] = rank;
}

/* Release in any order: what matters is the order of taking. */
static void held_pop(const struct krg_mutex *m, enum krg_lock_rank rank)
{
	unsigned i = held.n;

	while (i > 0 && held.rank[i - 1] != rank)
		i--;
	ASSERT(i > 0 && held.mutex[i - 1] == m);
	for (; i < held.n; i++) {
		held.rank[i - 1] = held.rank[i];
		held.mutex[i - 1] = held.mutex[i];
	}
	held.n--;
}

/* Whoever sleeps on a condition keeps every other lock it holds: so there must be none inside. */
static void held_check_last(const struct krg_mutex *m)
{
	ASSERT(held.n > 0 && held.mutex[held.n - 1] == m);
}

void krg_assert_no_locks(void)
{
	if (held.n == 0)
		return;
	(void)fprintf(stderr, "lock order: a wait for another node while holding %s\n",
		      rank_name[held.rank[held.n - 1]]);
	krg_panic(__FILE__, __LINE__, "a lock is held");
}
#else
static void held_push(const struct krg_mutex *m, enum krg_lock_rank rank)
{
	(void)m, (void)rank;
}
static void held_pop(const struct krg_mutex *m, enum krg_lock_rank rank)
{
	(void)m, (void)rank;
}
static void held_check_last(const struct krg_mutex *m)
{
	(void)m;
}
void krg_assert_no_locks(void) {}
#endif

void krg_mutex_init(struct krg_mutex *m)
{
	pthread_mutexattr_t attr;

	/* no lock is held across a wait: who finds one taken gets it soon */
	ASSERT(pthread_mutexattr_init(&attr) == 0);
	ASSERT(pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_ADAPTIVE_NP) == 0);
	ASSERT(pthread_mutex_init(&m->mtx, &attr) == 0);
	ASSERT(pthread_mutexattr_destroy(&attr) == 0);
}

void krg_mutex_fini(struct krg_mutex *m)
{
	ASSERT(pthread_mutex_destroy(&m->mtx) == 0);
}

void krg_mutex_acquire(struct krg_mutex *m, enum krg_lock_rank rank)
{
	held_push(m, rank);
	ASSERT(pthread_mutex_lock(&m->mtx) == 0);
}

void krg_mutex_release(struct krg_mutex *m, enum krg_lock_rank rank)
{
	held_pop(m, rank);
	ASSERT(pthread_mutex_unlock(&m->mtx) == 0);
}

void krg_cond_init(struct krg_cond *c)
{
	pthread_condattr_t attr;

	ASSERT(pthread_condattr_init(&attr) == 0);
	ASSERT(pthread_condattr_setclock(&attr, CLOCK_MONOTONIC) == 0);
	ASSERT(pthread_cond_init(&c->cond, &attr) == 0);
	(void)pthread_condattr_destroy(&attr);
}

void krg_cond_fini(struct krg_cond *c)
{
	ASSERT(pthread_cond_destroy(&c->cond) == 0);
}

void krg_cond_wait(struct krg_cond *c, struct krg_mutex *m)
{
	held_check_last(m);
	ASSERT(pthread_cond_wait(&c->cond, &m->mtx) == 0);
}

int krg_cond_wait_until(struct krg_cond *c, struct krg_mutex *m, u64 deadline_ns)
{
	struct timespec ts = {.tv_sec = (time_t)(deadline_ns / KRG_NSEC),
			      .tv_nsec = (long)(deadline_ns % KRG_NSEC)};
	int r;

	held_check_last(m);
	r = pthread_cond_timedwait(&c->cond, &m->mtx, &ts);
	ASSERT(r == 0 || r == ETIMEDOUT);
	return -r;
}

void krg_cond_signal(struct krg_cond *c)
{
	ASSERT(pthread_cond_signal(&c->cond) == 0);
}

void krg_cond_broadcast(struct krg_cond *c)
{
	ASSERT(pthread_cond_broadcast(&c->cond) == 0);
}
