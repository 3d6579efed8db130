/* epm.h - processes: the world of this node, its gate, distant exec, signals.
 *
 * Errors     negative errno and text.
 * Threads    any.  [net] = waits for other nodes: no lock held.
 * Sources    seccomp_unotify(2), ptrace(2), clone3(2), pid_namespaces(7), wait(2).
 */
#ifndef KRG_EPM_H
#define KRG_EPM_H
#include "comm.h"
#include "rec.h"
#include "stream.h"
#include <sys/types.h>

struct epm;

struct epm_config {
	struct comm *comm;
	struct stream *stream;
	const char *run_dir;	 /* /run/krg/… of this node */
	const char *libexec_dir; /* where krginit and krgvessel are */
	const char *host_name;	 /* of the world's uts namespace */
	i64 clock_offset_ns;	 /* the world's monotonic clock less the node's */
	u32 keep_ms; /* how long the world outlives krgd, for another one to find; 0: not at all */
};

int epm_new(const struct epm_config *config, struct epm **ret, struct krg_err *err) KRG_MUST_CHECK;
/* Makes the world, or finds the one of a krgd that died (README.md, Restart).  krginit must be forked before the
 * first thread, so epm_new() (which forks it) comes before comm_start(). */
int epm_start(struct epm *e, struct krg_err *err) KRG_MUST_CHECK;
/* [net] Once this node is in the view: a world that was found is served again.  Else nothing. */
int epm_return(struct epm *e, struct krg_err *err) KRG_MUST_CHECK;
/* Ends every process of the world. */
void epm_stop(struct epm *e);
void epm_free(struct epm *e);
void epm_node_up(struct epm *e, nodeid node, u64 view);
void epm_node_down(struct epm *e, nodeid node, u64 view);

/* Are calls that a signal interrupts before the gate has them made again (README.md, The gate)? */
bool epm_makes_again(const struct epm *e);

/* Kerrighed capabilities (bits as in the original; DISTANT_EXEC is new). */
enum epm_cap {
	EPM_CAP_CHANGE_KERRIGHED_CAP = 0,
	EPM_CAP_CAN_MIGRATE = 1,
	EPM_CAP_DISTANT_FORK = 2,
	EPM_CAP_FORK_DELAY = 3,
	EPM_CAP_CHECKPOINTABLE = 4,
	EPM_CAP_USE_REMOTE_MEMORY = 5,
	EPM_CAP_USE_INTRA_CLUSTER_KERSTREAMS = 6,
	EPM_CAP_USE_INTER_CLUSTER_KERSTREAMS = 7,
	EPM_CAP_USE_WORLD_VISIBLE_KERSTREAMS = 8,
	EPM_CAP_SEE_LOCAL_PROC_STAT = 9,
	EPM_CAP_DEBUG = 10,
	EPM_CAP_DISTANT_EXEC = 16,
};
#define EPM_CAPS_ALL (0x7ffu | 1u << EPM_CAP_DISTANT_EXEC)
/* Effective, when nobody says otherwise. */
#define EPM_CAPS_DEFAULT                                                                           \
	(1u << EPM_CAP_CHANGE_KERRIGHED_CAP | 1u << EPM_CAP_CAN_MIGRATE |                          \
	 1u << EPM_CAP_CHECKPOINTABLE | 1u << EPM_CAP_DISTANT_EXEC)

enum epm_caps_set {
	EPM_CAPS_EFFECTIVE,
	EPM_CAPS_PERMITTED,
	EPM_CAPS_INH_EFFECTIVE,
	EPM_CAPS_INH_PERMITTED,
	EPM_CAPS_NR,
};
struct epm_caps {
	u32 set[EPM_CAPS_NR];
};
struct epm_caps_change { /* of each set: first what goes, then what comes */
	u32 drop[EPM_CAPS_NR], add[EPM_CAPS_NR];
};
/* Of the first process of a session, for `krg run --caps`. */
struct epm_caps epm_caps_at_birth(u32 effective);
/* P'(permitted) = P(inheritable permitted), P'(effective) = P(inheritable effective) & P'(permitted). */
struct epm_caps epm_caps_fork(const struct epm_caps *parent);
/* -EINVAL: bits that are none, or an effective set beyond its permitted one.  -EPERM: only root
 * adds to what is permitted. */
int epm_caps_apply(const struct epm_caps *old, const struct epm_caps_change *change, bool root,
		   struct epm_caps *ret, struct krg_err *err) KRG_MUST_CHECK;
/* [net] What pid has, wherever it runs (*ret_node), after the change, if there is one (NULL: only look).
 * To change it takes its uid or root; and an asker (its number in krgd's namespace) that is a process
 * of the world needs CHANGE_KERRIGHED_CAP. */
int epm_caps(struct epm *e, pid_t pid, uid_t uid, pid_t asker, const struct epm_caps_change *change,
	     struct epm_caps *ret, nodeid *ret_node, struct krg_err *err) KRG_MUST_CHECK;

/* ---- placement: registered by sched ---- */
struct epm_exec_info {
	pid_t pid;
	uid_t uid;
	const char *path; /* as the caller gave it */
	bool moved;	  /* it has come from another node itself, and counts here already */
	bool away; /* its session came here from another node: kin of a program that was placed */
};
struct epm_placement_ops {
	/* False: whatever it is, it would stay.  Then nothing else is asked (the fast way). */
	bool (*may_move)(void *ctx);
	/* False: this program would stay wherever it is called.  Asked before what takes long is looked at. */
	bool (*path_may_move)(void *ctx, const char *path);
	/* The node to execute on; comm_self() is local.  Must not wait (runs on a gate thread). */
	nodeid (*place)(void *ctx, const struct epm_exec_info *info);
	/* It did go there (so that what was just placed counts), or did not (errno). */
	void (*placed)(void *ctx, const struct epm_exec_info *info, nodeid node, int code);
	/* Another node is placing a program here. */
	void (*arrived)(void *ctx, nodeid from);
	/* What was placed ended: its program, how long it ran, what it and its children used. */
	void (*ended)(void *ctx, const char *path, u64 wall_ns, u64 cpu_ns);
};
void epm_set_placement(struct epm *e, const struct epm_placement_ops *ops, void *ctx);

/* ---- krg run ---- */
/* Strings in argv and env are NUL-terminated, one after another. */
#define REC_EPM_RUN(F)                                                                             \
	F(u32, uid)                                                                                \
	F(u32, gid)                                                                                \
	F(bytes, groups, 65536 * 4) /* u32 each */                                                 \
	F(i32, node)		    /* where the first exec goes; -1: as the scheduler says */     \
	F(u32, caps)		    /* effective Kerrighed capabilities */                         \
	F(u32, umask)                                                                              \
	F(i32, nice)                                                                               \
	F(u8, new_session) /* setsid(), and fd 0 is the controlling terminal if a tty */           \
	F(str, cwd, 4096)                                                                          \
	F(bytes, argv, 4 << 20)                                                                    \
	F(bytes, env, 4 << 20)                                                                     \
	F(bytes, limits, 16 * 16) /* u64 cur, max for each resource of getrlimit(2), in order */
KRG_RECORD(epm_run, 0x401, REC_EPM_RUN)

struct epm_run_ops {
	/* Once, with a wait(2) status; on any thread. */
	void (*ended)(void *ctx, pid_t pid, int wstatus);
};
/* fds become 0..nfds-1 of the process (dup'ed).  argv[0] is looked up in the PATH of env.  Returns when
 * the process exists; *ret_pid.  An exec that fails gives the errno here.  [net] */
int epm_run(struct epm *e, const struct rec_epm_run *run, const int *fds, unsigned nfds,
	    const struct epm_run_ops *ops, void *ctx, pid_t *ret_pid,
	    struct krg_err *err) KRG_MUST_CHECK;

/* ---- signals from outside (krg kill) ---- */
/* [net] To the process wherever its body is.  uid: who asks; the kernel's permission rules (kill(2)). */
int epm_kill(struct epm *e, pid_t pid, int sig, uid_t uid, struct krg_err *err) KRG_MUST_CHECK;

/* ---- moving a process that runs (krg migrate) ---- */
enum epm_migrate_how {
	EPM_MIGRATE_POST,      /* its pages follow it */
	EPM_MIGRATE_POST_SYNC, /* the same; this waits until it has all */
	EPM_MIGRATE_STOP_COPY, /* its pages go before it, while it stands still */
};
/* [net] With all its threads, to another node; called on any.  uid: who asks: root, or its user.
 * *ret_stood_ns: how long it stood still.  -EOPNOTSUPP: it has something that does not move, named.  After an
 * error it goes on where it was. */
int epm_migrate(struct epm *e, pid_t pid, nodeid to, uid_t uid, enum epm_migrate_how how,
		u64 *ret_stood_ns, struct krg_err *err) KRG_MUST_CHECK;

/* ---- listing (krg ps): bodies and home processes that run on this node; deputies are not listed ---- */
#define REC_EPM_PROC(F)                                                                            \
	F(i32, pid)                                                                                \
	F(i32, ppid)                                                                               \
	F(i32, pgid)                                                                               \
	F(i32, sid)                                                                                \
	F(u32, uid)                                                                                \
	F(u16, node) /* where it runs */                                                           \
	F(u16, home) /* where it was forked */                                                     \
	F(u8, state) /* letter of /proc/PID/stat */                                                \
	F(u32, threads)                                                                            \
	F(u64, cpu_ns)                                                                             \
	F(u64, rss)	 /* bytes */                                                               \
	F(u64, start_ns) /* since the epoch */                                                     \
	F(str, comm, 64)                                                                           \
	F(bytes, cmdline, 65536)                                                                   \
	F(u8, deputy) /* between nodes only: its place at home, not the process */
KRG_RECORD(epm_proc, 0x402, REC_EPM_PROC)
/* Appends one epm_proc record each.  Returns how many. */
unsigned epm_list_local(struct epm *e, struct krg_buf *ret);
/* [net] All nodes of the view; nodes that do not answer in timeout_ms are left out and named in err (-EAGAIN). */
int epm_list_all(struct epm *e, u64 timeout_ms, struct krg_buf *ret, unsigned *ret_count,
		 struct krg_err *err) KRG_MUST_CHECK;

/* ---- which execs went where, the last EPM_HISTORY of this node, oldest first ---- */
#define EPM_HISTORY 8192
struct epm_exec_record {
	u64 time_ns; /* monotonic */
	pid_t pid;
	nodeid node;   /* where it executes */
	char name[32]; /* last part of the path */
};
/* Fills at most max; returns how many. */
unsigned epm_history(struct epm *e, struct epm_exec_record *ret, unsigned max);

/* Tasks of this node's world that run or want a processor. */
unsigned epm_runnable(struct epm *e);

struct epm_stat {
	u64 gate_calls, execs_local, execs_placed, bodies, deputies, signals;
};
void epm_stat_get(struct epm *e, struct epm_stat *ret);
#endif
