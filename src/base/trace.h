/* trace.h - typed events, always on, in a ring per thread.
 *
 *	TRACE(EPM_EXEC_PLACED, call_id, pid, node);
 *
 * Events are listed in trace_events.def.  A call id is made where an operation starts and goes
 * with it to other nodes, so that the traces of all nodes can be joined.
 *
 * Threads  a thread writes its own ring without a lock; a dump reads them all and drops
 *          entries that were being written.
 * Limits   TRACE_RING entries a thread; rings of ended threads are reused.
 */
#ifndef KRG_BASE_TRACE_H
#define KRG_BASE_TRACE_H
#include "base.h"

#define TRACE_RING 1024

enum krg_trace_event {
#define KRG_TRACE_EVENT(name, part, fmt) TRACE_##name,
#include "trace_events.def"
#undef KRG_TRACE_EVENT
	KRG_TRACE_NR
};

struct krg_trace_entry {
	u64 time_ns; /* monotonic */
	u64 call_id;
	u64 arg[3];
	u32 event;
	u32 thread; /* ring number */
};

void krg_trace(enum krg_trace_event event, u64 call_id, u64 a, u64 b, u64 c);
#define TRACE_4(ev, id, a, b, c, ...) krg_trace(TRACE_##ev, (id), (u64)(a), (u64)(b), (u64)(c))
#define TRACE(ev, ...)		      TRACE_4(ev, __VA_ARGS__, 0, 0, 0, 0)

/* A number that no other call of this node has; the node is in the top 16 bits. */
u64 krg_trace_call_id(nodeid node);
/* Before the first: so that those of a daemon are greater than those of the one before it on this node. */
void krg_trace_call_id_begin(u64 unix_seconds);
/* Entries of all threads, oldest first.  *ret is the caller's to free.  Returns the count. */
size_t krg_trace_snapshot(struct krg_trace_entry **ret);
const char *krg_trace_event_name(u32 event);
const char *krg_trace_event_part(u32 event);
/* "name part args" as text for people. */
void krg_trace_format(const struct krg_trace_entry *e, char *text, size_t max);
#endif
