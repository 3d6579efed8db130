/* sched.h - where a program executes.
 *
 *	sched_new(&config, &s); sched_start(s); epm_set_placement(e, sched_placement_ops(), s);
 *
 * Each node samples how many tasks of its world want a processor, and tells the others at least once
 * a second.  A program goes to the node where it would have most of a processor, counting what was
 * just placed and has not shown in a sample yet.  README.md has the formula.
 *
 * Errors   negative errno and text.
 * Threads  any; place() never waits.
 */
#ifndef KRG_SCHED_H
#define KRG_SCHED_H
#include "comm.h"
#include "epm.h"

struct sched;

enum sched_policy {
	SCHED_LOAD,	 /* least loaded */
	SCHED_ELSEWHERE, /* any node but this, in turn: for tests and measurements */
	SCHED_OFF,	 /* everything stays */
};

struct sched_config {
	struct comm *comm;
	double cpus; /* what this node has; 0: what is online.  A lab's node has a fraction. */
	enum sched_policy policy;
	/* Tasks of this node's world that run or want to. */
	unsigned (*runnable)(void *ctx);
	void *ctx;
};

struct sched_node {
	nodeid node;
	double cpus;
	double load; /* runnable tasks per processor, with what was just placed from here */
	u32 runnable;
	u32 age_ms; /* of the sample */
};

int sched_new(const struct sched_config *config, struct sched **ret,
	      struct krg_err *err) KRG_MUST_CHECK;
int sched_start(struct sched *s, struct krg_err *err) KRG_MUST_CHECK;
void sched_stop(struct sched *s);
void sched_free(struct sched *s);
void sched_node_up(struct sched *s, nodeid node, u64 view);
void sched_node_down(struct sched *s, nodeid node, u64 view);
/* Table for epm_set_placement(); its ctx is the struct sched. */
const struct epm_placement_ops *sched_placement_ops(void);

void sched_set_policy(struct sched *s, enum sched_policy policy);
int sched_policy_parse(const char *name, enum sched_policy *ret) KRG_MUST_CHECK; /* "load" … */
const char *sched_policy_name(enum sched_policy policy);
enum sched_policy sched_get_policy(struct sched *s);
/* What is known of the members.  Returns how many. */
unsigned sched_nodes(struct sched *s, struct sched_node *ret, unsigned max);
#endif
