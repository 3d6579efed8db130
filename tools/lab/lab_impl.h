/* lab_impl.h - the inside of the lab: nobody else includes it. */
#ifndef KRG_LAB_IMPL_H
#define KRG_LAB_IMPL_H
#include "lab.h"

/* A process that may be gone and its pid reused: known by pid and start time (proc(5), stat 22). */
struct lab_proc {
	pid_t pid;
	u64 start;
};
struct lab_proc lab_proc_of(pid_t pid);
/* A pidfd of it (CLOEXEC, the caller's); -ESRCH: it is gone. */
int lab_proc_open(const struct lab_proc *p);

/* ---- lab.c: names, the lock, lab.json ---- */
struct lab_state {
	char name[LAB_NAME_MAX + 1];
	enum lab_phase phase;
	unsigned nodes;
	double cpus;
	struct lab_proc holder;
	struct lab_proc node[LAB_NODES_MAX];
};
void lab_path(char *ret, size_t max, const char *name, const char *file);
int lab_need_root(struct krg_err *err);
/* The lock of a name: -EBUSY when someone works on that lab for longer than wait_ms. */
int lab_lock(const char *name, u64 wait_ms, int *ret_fd, struct krg_err *err) KRG_MUST_CHECK;
/* Removes the lock's file as well, and the directories above if they are empty. */
void lab_unlock_remove(const char *name, int fd);
/* -ENOENT: no such lab; -EBADMSG: the file makes no sense. */
int lab_state_read(const char *name, struct lab_state *ret) KRG_MUST_CHECK;
int lab_state_write(const struct lab_state *s, struct krg_err *err) KRG_MUST_CHECK;
unsigned lab_state_alive(const struct lab_state *s);

/* ---- lab_cgroup.c ---- */
#define LAB_HIER_MAX 2
struct lab_cgroups {
	struct lab_hier {
		char root[LAB_PATH_MAX];
		bool v2;
		bool cpu; /* the cpu controller is here */
	} hier[LAB_HIER_MAX];
	unsigned n;
};
/* The mounted hierarchies that a lab uses: the one with the cpu controller, and v2 for tracking. */
int lab_cgroups_find(bool need_cpu, struct lab_cgroups *ret, struct krg_err *err) KRG_MUST_CHECK;
/* Parse one line of mountinfo; true: it is a hierarchy that a lab can use. */
bool lab_cgroups_parse(const char *line, struct lab_hier *ret);
/* sub: "holder" or "nodeN" */
int lab_cgroups_make(const struct lab_cgroups *c, const char *name, const char *sub, double cpus,
		     struct krg_err *err) KRG_MUST_CHECK;
/* Put the calling process in. */
int lab_cgroups_join(const struct lab_cgroups *c, const char *name, const char *sub) KRG_MUST_CHECK;
/* SIGKILL for all below krg-lab-NAME (sub NULL) or one part; waits for their ends. */
int lab_cgroups_kill(const struct lab_cgroups *c, const char *name, const char *sub, u64 wait_ms,
		     struct krg_err *err) KRG_MUST_CHECK;
int lab_cgroups_remove(const struct lab_cgroups *c, const char *name,
		       struct krg_err *err) KRG_MUST_CHECK;
bool lab_cgroups_exist(const struct lab_cgroups *c, const char *name);

/* ---- lab_up.c ---- */
u64 lab_ready_ms(const struct lab_config *config);

#define LAB_BEATS_NODES 32u /* up to so many nodes have krgd's own heartbeat */

/* ---- lab_net.c: rtnetlink(7), in the calling process's network namespace ---- */
int lab_net_bridge(struct krg_err *err) KRG_MUST_CHECK;
/* A link from the bridge here to eth0 in the namespace of pid. */
int lab_net_attach(unsigned node, pid_t pid, struct krg_err *err) KRG_MUST_CHECK;
/* Remove what an earlier namespace of that node left; nothing is not an error. */
void lab_net_detach(unsigned node);
/* In the node: lo up, eth0 up with its address. */
int lab_net_address(unsigned node, unsigned nodes) KRG_MUST_CHECK;
void lab_net_addr(unsigned node, char *ret, size_t max);

/* ---- lab_spawn.c: the processes of a lab ---- */
struct lab_child {
	struct lab_proc proc;
	int go;	   /* write a byte: the network is there */
	int ready; /* "made\n", then "ready\n", or the text of an error and the end of file */
	char said[200];
	size_t said_len;
};
int lab_spawn_holder(const struct lab_state *s, const struct lab_cgroups *c, struct lab_proc *ret,
		     struct krg_err *err) KRG_MUST_CHECK;
/* seeds: nodes through which this one joins; empty: it forms the cluster. */
struct lab_seeds {
	unsigned node[8], n;
};
/* net: the network namespace of a world that waits for another daemon; -1: a new one. */
int lab_spawn_node(const struct lab_state *s, const struct lab_cgroups *c, unsigned node,
		   const struct lab_config *config, const struct lab_seeds *seeds, int net,
		   struct lab_child *ret, struct krg_err *err) KRG_MUST_CHECK;
/* The network is there: go on to krgd. */
int lab_spawn_go(struct lab_child *child) KRG_MUST_CHECK;
void lab_child_fini(struct lab_child *child);
/* Wait until all n said `word`.  sigfd: readable means that the user wants to stop (-EINTR).
 * *ret_who: the child that failed. */
int lab_spawn_wait(struct lab_child *child, unsigned n, const char *word, u64 deadline_ns,
		   int sigfd, unsigned *ret_who, struct krg_err *err) KRG_MUST_CHECK;
#endif
