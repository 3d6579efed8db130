/* fault.h - named places where a test makes things fail, by name and count or one after another.
 *
 *	fd = FAULT_POINT(STREAM_OPEN) ? (errno = EIO, -1) : open(…);
 *
 * The names stand in fault_points.def.  Without KRG_CHECKS a fault point is the constant false.
 * A daemon in a test build is armed with KRG_FAULT=NAME[:N] (the N-th time it is reached, default
 * the first) and prints "fault NAME" to its log when it fires.  A point may also kill the daemon:
 * KRG_FAULT=NAME[:N]:kill.
 *
 * Threads  any.
 */
#ifndef KRG_BASE_FAULT_H
#define KRG_BASE_FAULT_H
#include "base.h"

enum krg_fault {
#define KRG_FAULT_POINT(name, what) FAULT_##name,
#include "fault_points.def"
#undef KRG_FAULT_POINT
	KRG_FAULT_NR
};

bool krg_fault_hit(enum krg_fault point);
/* "NAME[:N][:kill]".  -EINVAL: no such point. */
int krg_fault_arm(const char *spec) KRG_MUST_CHECK;
void krg_fault_arm_env(void); /* KRG_FAULT */
void krg_fault_disarm(void);
/* The sweep: the nth point reached fails, whichever it is. */
void krg_fault_arm_nth(unsigned nth);
bool krg_fault_fired(void);
const char *krg_fault_name(enum krg_fault point);

#ifdef KRG_CHECKS
#define FAULT_POINT(name) krg_fault_hit(FAULT_##name)
#else
#define FAULT_POINT(name) false
#endif
#endif
