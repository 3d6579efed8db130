/* lab.h - a cluster on one machine: N nodes, each with its own network namespace, krgd, run
 * directory and CPU quota.
 *
 *	struct lab_config config = {.name = "default", .nodes = 4, .cpus = 0.4, …};
 *	r = lab_up(&config, &err);
 *	…
 *	r = lab_down("default", LAB_GRACE_MS, &err);
 *
 * Everything of a lab is found by its name: RUN/lab/NAME and the cgroups krg-lab-NAME.  What a
 * crashed lab (or a killed `lab up`) left is removed by the next lab_up() or lab_down().
 *
 * Errors     negative errno and text: -EPERM not root, -EINVAL a bad name, -EEXIST it is up,
 *            -ENOENT it is not, -ENOTSUP no usable cgroup, -ETIMEDOUT a node was not ready in time.
 * Ownership  results are plain memory of the caller.
 * Threads    one: lab_up() and lab_down() fork and block signals; for single-threaded programs.
 * Blocking   up waits for the nodes' ready messages, down for the ends of their processes.
 * Limits     LAB_NODES_MAX nodes; names of LAB_NAME_MAX letters, digits, '-' and '_'.
 */
#ifndef KRG_LAB_H
#define KRG_LAB_H
#include "err.h"
#include <sys/types.h>

#define LAB_RUN_DIR	  "/run/krg"
#define LAB_DIR		  LAB_RUN_DIR "/lab"
#define LAB_NAME_DEFAULT  "default"
#define LAB_NAME_MAX	  32
#define LAB_NODES_MAX	  KRG_NODES_MAX
#define LAB_NODES_DEFAULT 4
#define LAB_PORT	  7700
#define LAB_READY_MS	  30000
#define LAB_GRACE_MS	  4000
#define LAB_PATH_MAX	  160

struct lab_config {
	const char *name;
	unsigned nodes;
	double cpus;	    /* per node; 0: no quota */
	const char *krgd;   /* path of the daemon */
	const char *policy; /* krgd --policy; NULL: its default */
	u64 ready_ms;	    /* how long until all are ready; 0: LAB_READY_MS and more for many */
	FILE *diag;	    /* NULL, or where the end of a failed node's log goes */
};

/* "making" until all nodes were ready, then "up"; "left" when its maker or all its daemons died. */
enum lab_phase { LAB_NONE, LAB_MAKING, LAB_UP, LAB_LEFT };
struct lab_info {
	char name[LAB_NAME_MAX + 1];
	enum lab_phase phase;
	unsigned nodes, alive; /* alive: nodes whose daemon runs */
	double cpus;
};

bool lab_name_ok(const char *name);
int lab_up(const struct lab_config *config, struct krg_err *err) KRG_MUST_CHECK;
/* SIGTERM to the daemons, grace_ms for them to end, then whatever is left is killed and removed.
 * 0 also when there was nothing; *ret_was (NULL: not asked) says whether there was. */
int lab_down(const char *name, u64 grace_ms, bool *ret_was, struct krg_err *err) KRG_MUST_CHECK;
/* Labs in order of their names; at most max.  Returns how many there are. */
unsigned lab_list(struct lab_info *ret, unsigned max);
int lab_get(const char *name, struct lab_info *ret, struct krg_err *err) KRG_MUST_CHECK;
/* Become a process of that node, outside its world (network namespace, cgroup, KRG_* set), and
 * execute argv.  Returns only with an error. */
int lab_exec(const char *name, unsigned node, char *const *argv, struct krg_err *err);
/* One node's daemon, or started again.  After LAB_STOP_CRASH its world waits for that (krgd --keep). */
enum lab_stop {
	LAB_STOP,	/* SIGTERM: it leaves the view, and ends its world */
	LAB_STOP_KILL,	/* SIGKILL to all that is there, as if the machine had failed */
	LAB_STOP_CRASH, /* SIGKILL to the daemon only */
};
int lab_node_stop(const char *name, unsigned node, enum lab_stop how,
		  struct krg_err *err) KRG_MUST_CHECK;
int lab_node_start(const char *name, unsigned node, const struct lab_config *config,
		   struct krg_err *err) KRG_MUST_CHECK;
/* The door of a node.  Says nothing about whether it is there. */
void lab_socket(const char *name, unsigned node, char *ret, size_t max);
const char *lab_phase_name(enum lab_phase phase);
#endif
