#include "clock.h"
#include <stdatomic.h>
#include <time.h>

static _Atomic(const struct krg_clock *) current;

u64 krg_clock_now_ns(void)
{
	const struct krg_clock *c = atomic_load_explicit(&current, memory_order_acquire);
	struct timespec ts;

	if (c != NULL)
		return c->now_ns(c->ctx);
	(void)clock_gettime(CLOCK_MONOTONIC, &ts);
	return (u64)ts.tv_sec * KRG_NSEC + (u64)ts.tv_nsec;
}

void krg_clock_set(const struct krg_clock *clock)
{
	atomic_store_explicit(&current, clock, memory_order_release);
}
