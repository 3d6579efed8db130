/* lock.h - mutexes with a class each; the classes have one order, checked at run time in test
 * builds (KRG_CHECKS) and by clang's thread-safety analysis.
 *
 *	krg_mutex_init(&t->lock);
 *	KRG_GUARD(tasks, &t->lock);        // until the end of the scope
 *
 * The order stands in lock_classes.def, outermost first.  Two locks of one class are never held
 * together.
 *
 * Errors   taking a lock out of order aborts with both names.
 * Threads  any.  Functions marked [net] wait for other nodes: they call krg_assert_no_locks().
 */
#ifndef KRG_BASE_LOCK_H
#define KRG_BASE_LOCK_H
#include "base.h"
#include <pthread.h>

#ifdef __clang__
#define TSA(...) __attribute__((__VA_ARGS__))
#else
#define TSA(...)
#endif

struct krg_mutex {
	pthread_mutex_t mtx;
};
struct krg_cond {
	pthread_cond_t cond; /* CLOCK_MONOTONIC */
};

struct TSA(capability("mutex")) krg_lock_cap {
	char unused;
};
extern struct krg_lock_cap lc_root;
#define KRG_LOCK_CLASS(name, outer, what)                                                          \
	extern struct krg_lock_cap lc_##name TSA(acquired_after(lc_##outer));
#include "lock_classes.def"
#undef KRG_LOCK_CLASS

enum krg_lock_rank {
	LR_root,
#define KRG_LOCK_CLASS(name, outer, what) LR_##name,
#include "lock_classes.def"
#undef KRG_LOCK_CLASS
};

void krg_mutex_init(struct krg_mutex *m);
void krg_mutex_fini(struct krg_mutex *m);
void krg_mutex_acquire(struct krg_mutex *m, enum krg_lock_rank rank);
void krg_mutex_release(struct krg_mutex *m, enum krg_lock_rank rank);
/* abort unless this thread holds nothing: the entry check of every [net] function */
void krg_assert_no_locks(void);

void krg_cond_init(struct krg_cond *c);
void krg_cond_fini(struct krg_cond *c);
/* The mutex must be the last one this thread took.  May wake without cause. */
void krg_cond_wait(struct krg_cond *c, struct krg_mutex *m);
/* deadline_ns: monotonic.  -ETIMEDOUT when it has passed, else 0. */
int krg_cond_wait_until(struct krg_cond *c, struct krg_mutex *m, u64 deadline_ns);
void krg_cond_signal(struct krg_cond *c);
void krg_cond_broadcast(struct krg_cond *c);

#define KRG_LOCK_CLASS(name, outer, what)                                                          \
	static inline void name##_lock(struct krg_mutex *m) TSA(acquire_capability(lc_##name))     \
		TSA(no_thread_safety_analysis)                                                     \
	{                                                                                          \
		krg_mutex_acquire(m, LR_##name);                                                   \
	}                                                                                          \
	static inline void name##_unlock(struct krg_mutex *m) TSA(release_capability(lc_##name))   \
		TSA(no_thread_safety_analysis)                                                     \
	{                                                                                          \
		krg_mutex_release(m, LR_##name);                                                   \
	}                                                                                          \
	static inline void name##_unlockp(struct krg_mutex **m) TSA(release_capability(lc_##name)) \
		TSA(no_thread_safety_analysis)                                                     \
	{                                                                                          \
		krg_mutex_release(*m, LR_##name);                                                  \
	}                                                                                          \
	static inline struct krg_mutex *name##_lock_scoped(struct krg_mutex *m)                    \
		TSA(acquire_capability(lc_##name)) TSA(no_thread_safety_analysis)                  \
	{                                                                                          \
		krg_mutex_acquire(m, LR_##name);                                                   \
		return m;                                                                          \
	}
#include "lock_classes.def"
#undef KRG_LOCK_CLASS

#define KRG_GUARD(name, m)                                                                         \
	__attribute__((cleanup(name##_unlockp), unused)) struct krg_mutex *guard_##name =          \
		name##_lock_scoped(m)
#endif
