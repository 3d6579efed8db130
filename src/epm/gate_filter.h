/* gate_filter.h - the gate's seccomp filters (seccomp(2), seccomp_unotify(2)).
 *
 * One filter per nursery class, installed by the nursery, inherited by all it makes.  What is
 * caught and why: README.md, "The gate".
 *
 * Errors   negative errno.
 * Threads  the calling thread gets the filter.
 */
#ifndef KRG_EPM_GATE_FILTER_H
#define KRG_EPM_GATE_FILTER_H
#include "world_proto.h"

/* pids in [low, high) are this node's.  *ret_listener is CLOEXEC and the caller's. */
int gate_filter_install(enum nursery_class class, i32 low, i32 high,
			int *ret_listener) KRG_MUST_CHECK;
#endif
