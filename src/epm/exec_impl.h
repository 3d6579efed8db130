/* exec_impl.h - a process that leaves for another node: what exec.c (at its execve) and migrate.c (as it runs) share. */
#ifndef KRG_EPM_EXEC_IMPL_H
#define KRG_EPM_EXEC_IMPL_H
#include "epm_impl.h"

#define PATH_SIZE 4096 /* PATH_MAX of the kernel */

struct exec {
	struct gate_call *c; /* NULL: it is moved as it runs */
	struct epm *e;
	pid_t tid;		/* in krgd's namespace */
	struct memread mem;	/* the task's memory */
	char path[PATH_SIZE];	/* as the caller gave it */
	char root[PATH_SIZE];	/* its root directory; empty: the world's */
	struct proc_info p;	/* of the task */
	struct proc_info world; /* group, session, parent */
	struct krg_buf argv, env, spawn, children;
	i32 *child; /* those of `children` */
	unsigned nchildren;
	struct exec_fds fds;
	nodeid to;
	struct ghost *running; /* what runs, while it stands still */
	struct krg_buf ghost;  /* of it */
	u64 exec_id;
	struct task *run;  /* it is the first exec of a `krg run` */
	u32 securebits;	   /* known since it was stopped once before */
	bool again;	   /* it comes to the gate again */
	struct task *body; /* it has moved here before, or NULL */
};

/* NULL: the task can move; else why not.  Fills in what /proc says of it. */
const char *exec_cannot_move(struct exec *x);
/* Who it is: x->spawn. */
int exec_describe(struct exec *x, struct krg_err *err);
/* The call to the other node; err->node is that when it has answered. */
int exec_prepare(struct exec *x, struct krg_err *err);
void exec_give_up(struct exec *x);
struct task *exec_deputy_new(struct exec *x);
void exec_free(struct exec *x);
#endif
