/* service.h - which services a node runs, in what order they start and stop, who sees nodes come
 * and go, and the counters that `krg stat` shows.
 *
 * A service is a constant table.  service_add() all, then service_start_all(): dependencies
 * first.  Stop is the reverse.  Node events are delivered in view order, one at a time, to every
 * running service in dependency order.
 *
 * Errors   negative errno and text.  A failing start stops what was started.
 * Threads  callbacks run with no lock held, on the caller's thread (start, stop) or on the thread
 *          of hotplug (node events): those must not wait for other nodes.
 */
#ifndef KRG_SERVICE_H
#define KRG_SERVICE_H
#include "err.h"
#include <stdatomic.h>

struct service_counter {
	const char *name; /* "calls" */
	const char *unit; /* "1", "bytes", "ns" */
	_Atomic u64 value;
};

enum service_state { SERVICE_STOPPED, SERVICE_STARTING, SERVICE_RUNNING, SERVICE_STOPPING };

struct service_ops {
	const char *name;
	const char *const *after; /* names, NULL-terminated; NULL: none */
	int (*start)(void *ctx, struct krg_err *err);
	void (*stop)(void *ctx);
	void (*node_up)(void *ctx, nodeid node, u64 view);
	void (*node_down)(void *ctx, nodeid node, u64 view);
	struct service_counter *counters; /* NULL: none */
	unsigned counter_nr;
	/* values that are asked for: called for each listing; may be NULL */
	void (*stat)(void *ctx,
		     void (*put)(void *arg, const char *name, const char *unit, u64 value),
		     void *arg);
};

struct service_set;
struct service_set *service_set_new(void);
void service_set_free(struct service_set *s);
int service_add(struct service_set *s, const struct service_ops *ops, void *ctx,
		struct krg_err *err) KRG_MUST_CHECK;
int service_start_all(struct service_set *s, struct krg_err *err) KRG_MUST_CHECK;
void service_stop_all(struct service_set *s);
void service_node_up(struct service_set *s, nodeid node, u64 view);
void service_node_down(struct service_set *s, nodeid node, u64 view);

struct service_info {
	const char *name;
	enum service_state state;
};
/* In start order.  put is called per service, then put_counter per counter of it. */
void service_list(struct service_set *s, void (*put)(void *arg, const struct service_info *info),
		  void (*put_counter)(void *arg, const char *service, const char *name,
				      const char *unit, u64 value),
		  void *arg);
const char *service_state_name(enum service_state state);
#endif
