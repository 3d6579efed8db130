/* clock.h - time, behind a table so that a simulated cluster has its own.
 *
 * Units    nanoseconds, monotonic (CLOCK_MONOTONIC of the node, clock_gettime(2)).
 * Threads  any; the table is set once, before the first thread.
 */
#ifndef KRG_BASE_CLOCK_H
#define KRG_BASE_CLOCK_H
#include "base.h"

#define KRG_NSEC 1000000000ull
#define KRG_MSEC 1000000ull
#define KRG_USEC 1000ull

struct krg_clock {
	u64 (*now_ns)(void *ctx);
	void *ctx;
};

u64 krg_clock_now_ns(void);
/* NULL: the machine's clock again.  The table must outlive its use. */
void krg_clock_set(const struct krg_clock *clock);
#endif
