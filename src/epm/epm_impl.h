/* epm_impl.h - inside epm: the structures its files share.  README.md: states, locks, races. */
#ifndef KRG_EPM_IMPL_H
#define KRG_EPM_IMPL_H
#include "clock.h"
#include "epm.h"
#include "epm_rec.h"
#include "fault.h"
#include "ghost.h"
#include "lock.h"
#include "log.h"
#include "trace.h"
#include "vessel_proto.h"
#include "world_proto.h"
#include <linux/seccomp.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/user.h>

#define EPM_PID_SHIFT	 15
#define EPM_ARGS_MAX	 (4u << 20) /* argv or envp of a moved exec */
#define EPM_FDS_MAX	 200	    /* descriptors of a moved exec */
#define EPM_GATE_THREADS 64	    /* a notified call that waits holds one */
#define EPM_SOCK_WAITS	 16u	    /* calls on stand-ins of sockets that wait, of those */
/* Programs on their way at once; the threads left take the second calls of the deputies, without
 * which no program arrives. */
#define EPM_MOVES_MAX	 (EPM_GATE_THREADS - 16u - EPM_SOCK_WAITS)
#define EPM_TASK_BUCKETS 1024
#define EPM_CAPS_BUCKETS 256

/* ---- tasks: what krgd knows of single processes ---- */
#define EPM_TIMERS 3 /* ITIMER_REAL, ITIMER_VIRTUAL, ITIMER_PROF */
struct task_timer {
	u64 left_us, interval_us;
};
enum task_kind { TASK_BODY, TASK_DEPUTY, TASK_SHADOW, TASK_RUN };
#define TASK_STATES(X)                                                                             \
	/* state     may move to */                                                                \
	X(MAKING, B(HELD) | B(ENDED))  /* body: its nursery works on it */                         \
	X(HELD, B(RUNNING) | B(ENDED)) /* body: at its first instruction; deputy: no HELLO yet */  \
	X(RUNNING, B(ENDING) | B(ENDED)) /* body or deputy: it is the process now */               \
	X(ENDING, B(ENDED))		 /* deputy: told to end */                                 \
	X(ENDED, 0)
enum task_state {
#define X(name, next) TASK_##name,
	TASK_STATES(X)
#undef X
		TASK_STATE_NR
};

#define USAGE_UP_MAX 16 /* of those above a deputy: the lowest */
struct usage_kin {
	i32 pid;
	u64 start;
};

/* Locks: c constant; o ->lock (class task); t epm->tasks_lock; a atomic */
/* A process on its way: its pages come, that was all, it can run, it cannot. */
enum task_arrival { ARRIVAL_NONE, ARRIVAL_PAGES, ARRIVAL_ALL, ARRIVAL_READY, ARRIVAL_FAILED };

struct task {
	unsigned magic;
#define TASK_MAGIC 0x7a5c0001
	struct task *next;   /* (t) */
	atomic_uint refs;    /* (a) */
	enum task_kind kind; /* (c) */
	pid_t pid;	     /* (c) in the worlds */
	_Atomic nodeid
		peer; /* (a) body, shadow: home; deputy: the body's node, written under (o) */
	_Atomic u64 exec_id; /* (a) likewise */
	nodeid maker;	     /* (c) body: who made it, if not its home; else KRG_NODE_NONE */
	char *path;	     /* (c) program, or NULL */
	u64 start_ns;	     /* (c) */
	struct krg_mutex lock;
	struct krg_cond cond;		   /* body: COMMIT or ABORT came */
	enum task_state state;		   /* (o) */
	bool orphan;			   /* (o) body: its home died */
	bool leaves;			   /* (o) body: it stands still, to go on elsewhere */
	_Atomic pid_t host_pid;		   /* (a) body, deputy: in krgd's namespace */
	i32 ppid;			   /* (c) body: at home, when it left; shadow: its body */
	i32 stop_as;			   /* (o) body: the signal that SIGSTOP stands for, or 0 */
	bool stop_early;		   /* (o) deputy: SIGSTOP came before its HELLO */
	bool stands;			   /* (o) deputy: it was stopped with its body */
	bool prepared;			   /* (o) deputy: its body is in its program, if held */
	int pidfd;			   /* (c) body, deputy */
	int channel;			   /* (o) deputy, shadow: to its vessel */
	u64 start_ticks;		   /* (c) deputy: of its process */
	struct usage_kin up[USAGE_UP_MAX]; /* (c) likewise: its parent, and on */
	unsigned nup;			   /* (c) */
	unsigned signals;		   /* (o) deputy: being sent to its body */
	struct usage before;		   /* (o) deputy: of the bodies before this one */
	u64 cpu_ns;			   /* (o) deputy: what the body and its children used */
	u32 call_id;			   /* (o) deputy: last VESSEL_CALL */
	u32 answered_id;		   /* (o) */
	i32 answer;			   /* (o) */
	bool calling;			   /* (o) deputy, shadow: one call at a time */
	unsigned nsignals;		   /* (o) body: that are still to be delivered */
	const struct epm_run_ops *run_ops; /* (c) run */
	void *run_ctx;			   /* (c) run */
	i32 run_node;			   /* (o) run: where its first exec goes, -1: anywhere */
	struct krg_err run_err;		   /* (o) run: why that failed */
	struct rec_stream_ref *streams;	   /* (c) body: its pipes of its home, one stand-in; deputy:
					    * the pipes of here that its body has */
	unsigned nstreams;		   /* (c) */
	i32 *children;			   /* (c) deputy: those that have a shadow */
	unsigned nchildren;		   /* (c) */
	pid_t host_tid;			   /* (o) deputy: the thread that executes */
	bool threaded;			   /* (c) deputy: it has other threads */
	bool forgets;			   /* (c) deputy: SIGCHLD was ignored: no zombies */
	struct ghost *ghost;	    /* (o) body: of a process on its way, while it takes pages */
	enum task_arrival arrival;  /* (o) body */
	struct pages_in *pages;	    /* (o) body: of a process on its way, whose pages come later */
	struct krg_err arrival_err; /* (o) body: why it could not */
	struct task_timer timer[EPM_TIMERS]; /* (o) before the body runs: what it shall have */
	u32 securebits;			     /* (c) deputy: what its body was made with */
	bool again; /* (h) deputy: to be made with those of its task instead */
};

/* ---- a nursery of this world, as krgd sees it ---- */
struct nursery {
	struct krg_mutex lock; /* class world: one request at a time */
	int sock;	       /* (o) -EBADF: closed */
	pid_t pid;	       /* (c) */
};

#define SESSION_GROUPS_MAX  64
#define SESSION_OUTSIDE_MAX 16
struct session {
	struct session *next; /* (t) epm->sessions_lock */
	struct nursery nursery;
	enum nursery_class class; /* (c) */
	i32 sid;		  /* (c) */
	pid_t host_sid;		  /* (c) in krgd's namespace */
	atomic_uint users;	  /* (a) spawns under way, runs: not to be ended */
	bool stale; /* (t) of an earlier life of its home: only orphans are left in it */
	u64 born;   /* (t) exec_id of the program that it was first made for; 0: `krg run` */
	struct placeholder {
		i32 pgid, pid;
		int sock;	     /* where it serves; its end ends it */
		bool tells;	     /* the terminal's signals to the group */
	} group[SESSION_GROUPS_MAX]; /* (o) nursery.lock */
	unsigned ngroups;	     /* (o) */
	/* What `krg run` was given: somebody outside the world holds it too. */
	struct {
		u64 dev, ino;
	} outside[SESSION_OUTSIDE_MAX]; /* (c) after the first spawn */
	unsigned noutside;		/* (c) */
};

/* A task on its way to be a deputy: its exec is expected at the gate once more. */
#define CONVERTING_MAX 256
enum converting_state {
	CONVERTING_NONE,
	CONVERTING_LOCAL, /* no: the exec goes on here */
	CONVERTING_SENT,  /* it goes: at the second notification it gets its channel */
	CONVERTING_GONE,  /* it has got that: it is the deputy, or about to be */
	CONVERTING_UNDO,  /* its krgd died: at the second notification it gets back what it had */
};
struct converting {
	enum converting_state state;
	pid_t host_tid;
	int channel;	/* vessel's end; -EBADF when local */
	int vessel;	/* its descriptor of the vessel */
	int given;	/* GONE: its descriptor of the channel, or -EBADF */
	u64 env_at;	/* where the vessel's environment may be written */
	u32 securebits; /* LOCAL: not so if they are known now (else 0): it may be placed after all */
	u64 mask;	/* what it had */
	struct user_regs_struct at_call;
};

/* What the next krgd must know of calls under way: in memory that the keeper holds. */
enum { GATE_NOTHING, GATE_BEGUN, GATE_KNOWN };
struct gate_slot {		  /* of one gate thread */
	struct seccomp_notif req; /* the kernel writes it here; id 0: none */
	u32 done;  /* GATE_BEGUN: it may have had its effect, and must not have it twice */
	i32 error; /* GATE_KNOWN */
	i64 value;
};
struct gate_log {
	struct gate_slot slot[NURSERY_NR][EPM_GATE_THREADS];
	struct converting converting[CONVERTING_MAX]; /* (o) converting_lock */
};

/* A group that stands for one that has no members at its session's home. */
#define EPM_PROXIES_MAX 64
struct tty_proxy {
	i32 sid, pgid;	 /* what it stands for */
	i32 pid, deputy; /* 0: free; whose child it is */
	u64 made;
};

/* ---- gate_again.c ---- */
#define AGAIN_TOLD_MAX 64 /* beyond, calls fail with EINTR */
struct perf_buffer;
/* A call that would end so. */
struct told {
	u64 pid_tgid; /* bpf_get_current_pid_tgid() */
	u64 nr, ip, sp;
};
struct again_cpu {
	struct gate_again *again;
	pthread_t thread;
	int cpu;
	unsigned index; /* of its ring */
	unsigned ntold;
	struct told told[AGAIN_TOLD_MAX]; /* whose tasks are to stop */
};
struct gate_again {
	struct perf_buffer *rings; /* one for each processor */
	struct again_cpu *cpu;
	unsigned ncpu, running;
	int map, link; /* BPF's */
	_Atomic bool ends;
};

struct epm {
	struct comm *comm;			 /* (c) */
	struct stream *stream;			 /* (c) */
	nodeid self;				 /* (c) */
	i32 low, high;				 /* (c) this node's pids */
	char *run_dir, *libexec_dir, *host_name; /* (c) */
	i64 clock_offset_ns;			 /* (c) after start */

	/* the world */
	pid_t stage0;	       /* (c) */
	struct nursery herald; /* stage 0 as a maker of heralds */
	_Atomic u32 herald_id;
	int init_sock;			 /* (c) */
	int world_proc;			 /* (c) /proc of the world */
	int vessel_fd;			 /* (c) */
	int listener[NURSERY_NR];	 /* (c) */
	struct nursery root[NURSERY_NR]; /* first in class: makes sessions */
	char *ns_ids;			 /* (c) what the world's namespaces are called */
	char *root_path; /* (c) its root directory as /proc names it; "": the machine's */
	pthread_t init_thread, deputy_thread;
	bool init_thread_runs, deputy_thread_runs; /* (c) after start */
	struct krg_mutex ask_lock;		   /* class gate: questions to krginit */
	struct krg_cond ask_cond;
	u32 ask_id, ask_answered;			    /* (o) ask_lock */
	bool ask_busy, init_gone;			    /* (o) ask_lock */
	u8 ask_answer[sizeof(struct init_sessions_answer)]; /* (o) */

	struct krg_mutex sessions_lock; /* class tasks */
	struct session *sessions;

	struct krg_mutex tasks_lock; /* class tasks */
	struct task *tasks[EPM_TASK_BUCKETS];

	/* the keeper, and what the next krgd finds: keep.c, restart.c */
	int keep_sock;	      /* (c) after new; -EBADF: nobody keeps anything */
	int keeper;	      /* (c) after new: its pidfd, if another krgd forked it */
	u32 keep_ms;	      /* (c) */
	u64 since;	      /* (c) after start: the first exec_id of this world */
	bool adopted;	      /* (c) after new: the world was there */
	bool returned;	      /* (c) after start: it is served; until then it stays if we fail */
	struct kept *kept;    /* what was got from the keeper, until it is in our tables */
	struct gate_log *log; /* (c) after start */
	int log_fd;	      /* (c) after start */
	int tell[2];	      /* (c) after start: from placeholders: ours, theirs */

	struct krg_mutex converting_lock; /* class leaf */

	/* ends of bodies that are to be told, by the deputy thread */
	struct krg_mutex ends_lock; /* class leaf */
	struct body_end *ends;	    /* (o) ends_lock */
	/* bodies that ended, the last ENDED_MAX: a home that comes back asks for them */
	struct ended {
		nodeid home;
		u64 exec_id;
		struct rec_epm_ended rec;
	} * ended;   /* (o) ends_lock */
	u64 ended_n; /* (o) ever written */
	/* bodies that went on from here, whose end here is nobody's */
	struct left {
		struct left *next;
		i32 pid;
	} * left;		   /* (o) ends_lock */
	u64 left_id[1024], left_n; /* (o) ends_lock: the last of them */

	/* signals that are to be given to bodies: sender.c */
	struct krg_mutex signals_lock; /* class leaf */
	struct krg_cond signals_cond;
	struct signal_due *signals, *signals_last; /* (o) signals_lock */
	unsigned nsignals;			   /* (o) */
	bool signals_busy;			   /* (o) the thread is at one of them */
	bool signals_stop;			   /* (o) */
	struct gate_again again;
	pthread_t signals_thread;
	bool signals_thread_runs; /* (c) after start */

	/* group.c */
	struct krg_mutex watch_lock; /* class leaf */
	struct group_watch *watches; /* (o) watch_lock */
	atomic_uint nwatches;

	struct usage_state *usage; /* (c) from start to stop */

	/* terminals: tty.c */
	struct tty_state *tty; /* (c) from start to stop */

	/* pages.c */
	struct krg_mutex pages_lock; /* class leaf */
	struct krg_cond pages_cond;
	struct pages_out *pages_out; /* (o) pages_lock */
	struct pages_in *pages_in;   /* (o) */
	unsigned npages_threads;     /* (o) */
	u32 pages_keep_id;	     /* (o) */
	u64 pages_adopted;	     /* (o) */

	struct krg_mutex proxies_lock;		 /* class leaf */
	struct tty_proxy proxy[EPM_PROXIES_MAX]; /* (o) proxies_lock */
	u64 proxies_made;			 /* (o) */
	atomic_uint nproxies;			 /* (a) */

	/* deputies */
	int deputy_epoll; /* (c) */
	int deputy_wake;  /* (c) eventfd: stop */

	/* gate */
	struct gate_thread {
		struct epm *e;
		pthread_t thread;
		int listener;
		enum nursery_class class;
		struct gate_slot *slot;
	} gate[NURSERY_NR][EPM_GATE_THREADS];
	atomic_uint gate_threads[NURSERY_NR], gate_idle[NURSERY_NR]; /* (a) */
	struct krg_mutex gate_lock; /* class leaf: growing the pool */
	atomic_bool stopping;	    /* (a) */

	_Atomic(const struct epm_placement_ops *) placement; /* (a) set once */
	void *placement_ctx;				     /* (c) before placement */
	atomic_uint nodes;				     /* (a) members of the view */
	atomic_uint nbodies;				     /* (a) */
	atomic_uint nshadows;				     /* (a) */
	atomic_uint nsockwaits; /* (a) calls on sockets that wait in threads of the gate */
	atomic_uint nmoves;	/* (a) programs on their way: at most EPM_MOVES_MAX */
	atomic_uint nruns;	/* (a) runs whose first exec is still to come */
	_Atomic u64 exec_id;

	/* caps.c */
	struct krg_mutex caps_lock;		   /* class leaf */
	struct caps_entry *caps[EPM_CAPS_BUCKETS]; /* (o) caps_lock */
	struct caps_entry *caps_sessions;	   /* (o) */
	atomic_uint ncaps;			   /* (a) in both */
	atomic_uint ncaps_off;			   /* (a) of those: whose execs must be looked at */

	/* prctl.c */
	struct krg_mutex asked_lock; /* class leaf */
	struct asked *asked;	     /* (o) asked_lock */
	unsigned nasked;	     /* (o) */

	struct krg_mutex history_lock; /* class leaf */
	struct epm_exec_record *history;
	u64 history_n; /* (o) ever written */

	struct {
		_Atomic u64 gate_calls, execs_local, execs_placed, bodies, deputies, signals;
	} count;
};

static inline bool epm_pid_is_ours(const struct epm *e, i32 pid)
{
	return pid >= e->low && pid < e->high;
}
/* The node whose range a pid is in; KRG_NODE_NONE: no node's. */
static inline nodeid epm_pid_home(i32 pid)
{
	i32 n = (pid >> EPM_PID_SHIFT) - 1;

	return n >= 0 && n < KRG_NODES_MAX ? (nodeid)n : KRG_NODE_NONE;
}

/* ---- keep.c: what the keeper holds for the next krgd ---- */
#define KEEP_WORLD_FDS (6 + 2 * NURSERY_NR)
struct kept {
	struct kept *next;
	struct keep_msg m;
	int fd[KEEP_FDS_MAX];
	unsigned nfds;
	struct krg_buf blob;
};
/* 1: there is a world whose krgd died, and it is ours now; 0: there is none. */
int keep_claim(struct epm *e);
void kept_free(struct kept *k);
void keep_drop(struct epm *e, enum keep_kind kind, i32 pid);
void keep_world(struct epm *e);
void keep_session(struct epm *e, const struct session *s);
void keep_group(struct epm *e, i32 sid, const struct placeholder *g);
void keep_caps(struct epm *e, enum keep_kind kind, i32 pid, u64 start, const struct epm_caps *caps,
	       bool plain);
void keep_pages(struct epm *e, u32 id, int uffd);
/* With its lock held. */
void keep_deputy_locked(struct epm *e, const struct task *t);
void keep_body_locked(struct epm *e, const struct task *t);

/* ---- restart.c: a krgd that finds the world of another ---- */
/* Its tables, from what the keeper held.  Nothing is served yet. */
int world_adopt(struct epm *e, struct krg_err *err);
void handle_return(void *ctx, struct comm_req *req);

/* ---- world.c ---- */
int world_fork(struct epm *e, struct krg_err *err);
int world_start(struct epm *e, struct krg_err *err);
/* What is known of the world's namespaces, once there is a world. */
int world_look(struct epm *e, struct krg_err *err);
/* Begin to hear krginit. */
int world_hear(struct epm *e, struct krg_err *err);
void world_stop(struct epm *e);
/* Until that process is gone. */
void world_wait(int pidfd);
/* Which of these descriptors of pid are also held by another process (bit i)?  pipes: which are ends of pipes
 * without a name; another description of the same end counts, too.  Waits for krginit. */
int world_shared(struct epm *e, pid_t pid, const int *fds, unsigned n, u64 pipes, u64 *ret_mask);
int world_sessions_alive(struct epm *e, struct init_sessions *req,
			 struct init_sessions_answer *ret);
/* After another krgd: what it asked and did not hear is ended.  -ESRCH: the nursery is gone. */
int nursery_sync(struct nursery *n);
/* One request to a nursery.  *ret_pidfd may be NULL. */
int nursery_call(struct nursery *n, const struct nursery_req *req, const int *fds, unsigned nfds,
		 pid_t *ret_pid, int *ret_pidfd);

/* ---- session.c ---- */
/* A session of this node's world for processes with session number sid (0: a new one), counted as used. */
int session_get(struct epm *e, i32 sid, enum nursery_class class, int tty, struct session **ret,
		struct krg_err *err);
void session_put(struct session *s);
/* These descriptors are held outside the world as well. */
void session_outside(struct epm *e, struct session *s, const int *fds, unsigned nfds);
bool session_is_outside(struct epm *e, u64 dev, u64 ino);
/* Make sure that the group exists in the session. */
int session_group(struct epm *e, struct session *s, i32 pgid);
/* The session, counted as used: session_put().  NULL: it has none of ours. */
struct session *session_find(struct epm *e, i32 sid);
/* The same, with a member that tells of the terminal's signals to the group. */
int session_group_tells(struct epm *e, struct session *s, i32 pgid);
/* The sender's number is its nursery's or a placeholder's: that sends.  -ENOENT: it is not. */
int session_signal(struct epm *e, struct herald_req *r, int pidfd);
/* Bring the group to the front of the session's terminal. */
int session_front(struct session *s, i32 pgid);
/* The session came from another node (sid in krgd's numbers)? */
bool session_is_away(struct epm *e, pid_t host_sid);
/* The class for a session's processes here. */
enum nursery_class session_class(struct epm *e, i32 sid, bool tty);
bool session_owns_pid(struct epm *e, i32 pid); /* a nursery or a placeholder, not a process */
void sessions_sweep(struct epm *e);
/* The node's sessions are of an earlier life from now on: their orphans may stay in them. */
void sessions_on_node_down(struct epm *e, nodeid node);
/* A node uses its numbers anew after a restart: end its stale sessions that have no members left. */
void sessions_make_way(struct epm *e, nodeid home);
/* The node is back with its world: its sessions since then are alive. */
void sessions_on_return(struct epm *e, nodeid node, u64 since);
/* All of its sessions here are known to be of an earlier life. */
bool sessions_are_stale(struct epm *e, nodeid node);
void session_born(struct epm *e, struct session *s, u64 exec_id);
/* From the keeper.  Takes the descriptors. */
void session_adopt(struct epm *e, const struct rec_epm_keep_session *rec, int sock);
void session_adopt_group(struct epm *e, i32 sid, const struct placeholder *g);
void sessions_fini(struct epm *e);

/* ---- epm.c: tasks ---- */
struct task *task_new(struct epm *e, enum task_kind kind, pid_t pid, nodeid peer);
int task_insert(struct epm *e, struct task *t); /* -EEXIST */
void task_remove(struct epm *e, struct task *t);
struct task *task_find(struct epm *e, enum task_kind kind, pid_t pid); /* a reference */
struct task *task_find_body_by_host_pid(struct epm *e, pid_t host_pid);
void task_put(struct task *t);
void task_move_locked(struct task *t, enum task_state to);
/* All tasks of a kind, each with a reference.  The array is the caller's. */
unsigned task_all(struct epm *e, enum task_kind kind, struct task ***ret);
#define TASK_AUTO_PUT __attribute__((cleanup(task_putp)))
static inline void task_putp(struct task **t)
{
	if (*t != NULL)
		task_put(*t);
}

/* ---- proc.c: /proc ---- */
struct proc_info {
	pid_t host_tid, host_tgid, host_ppid, tracer;
	pid_t pid, ppid, pgid,
		sid; /* of the process, in the world; ppid only by proc_read_world() */
	int exit_signal;
	unsigned threads, seccomp_filters, ns_depth;
	char state;
	u32 uid[4], gid[4]; /* real, effective, saved, file system */
	u32 *groups;
	unsigned ngroups;
	u64 cap_inh, cap_prm, cap_eff, cap_bnd, cap_amb;
	u64 sig_blocked, sig_ignored, sig_caught, sig_pending;
	u32 umask;
	bool nnp;
	bool no_thp; /* transparent huge pages: PR_SET_THP_DISABLE, or the kernel has none */
	i32 nice;
	int tty;
	i32 tty_front; /* the group in front of its terminal; only by proc_read_world() */
	u64 utime_ticks, stime_ticks, start_ticks;
	u64 rss_pages;
	char comm[64];
};
/* Of a task by its number in krgd's namespace. */
int proc_read(pid_t host_tid, struct proc_info *ret);
int proc_read_stat(pid_t host_tid, struct proc_info *ret, pid_t *ret_host_sid);
/* Of a process by its number in the world: through the world's /proc. */
int proc_read_world(struct epm *e, pid_t pid, struct proc_info *ret);
/* Only its kin, its state and its start. */
int proc_read_world_stat(struct epm *e, pid_t pid, struct proc_info *ret);
void proc_info_fini(struct proc_info *p);
#define PROC_AUTO __attribute__((cleanup(proc_info_fini)))
int proc_link(pid_t host_tid, const char *what, char *buf, size_t max);
/* A link that is a path, as the world names it, whose root directory is root ("": krgd's own is the machine's).
 * Returns its length.  -EXDEV: it is not below. */
int proc_path(const char *root, pid_t host_tid, const char *what, char *buf, size_t max);
/* A process group without a member whose parent is in the session, but in another group: what the
 * terminal's stop signals do not stop (setpgid(2)). */
bool proc_group_is_orphan(struct epm *e, pid_t pid);
static inline bool signal_is_tty_stop(int sig)
{
	return sig == SIGTSTP || sig == SIGTTIN || sig == SIGTTOU;
}
/* All pids of the world.  The array is the caller's. */
unsigned proc_all(struct epm *e, pid_t **ret);
/* The number in krgd's namespace behind a pidfd. */
pid_t pidfd_host_pid(int pidfd);
/* The number in krgd's namespace of a process of the world: a search.  0: there is none. */
pid_t proc_host_pid(struct epm *e, pid_t pid);
/* A process of the world, by its number there: what pidfd_send_signal(2) takes. */
int proc_open(struct epm *e, pid_t pid, int *ret_fd);

/* ---- memread.c: a task's memory ---- */
#define MEMREAD_PAGES 64
struct memread {
	pid_t tid;
	struct {
		u64 page;
		u8 *data; /* NULL: not read */
	} slot[MEMREAD_PAGES];
};
void memread_init(struct memread *m, pid_t tid);
void memread_fini(struct memread *m);
#define MEMREAD_AUTO __attribute__((cleanup(memread_fini)))
/* Once, without keeping the pages. */
int memread_now(pid_t tid, u64 at, void *p, size_t n);
int memread_bytes(struct memread *m, u64 at, void *p, size_t n);
/* Appends with its NUL.  -E2BIG past max. */
int memread_str(struct memread *m, u64 at, struct krg_buf *b, size_t max);
/* A NULL-terminated vector of strings; *ret_count.  vector 0: none. */
int memread_strv(struct memread *m, u64 vector, struct krg_buf *b, size_t max, u32 *ret_count);
int memwrite(pid_t tid, u64 at, const void *p, size_t n);

/* ---- gate.c ---- */
struct gate_call {
	struct epm *e;
	int listener;
	struct gate_slot *slot; /* NULL: nobody's */
	struct seccomp_notif req;
	bool answered; /* already, by the handler */
	bool cont;     /* let the call go on */
	i32 error;     /* else: negative errno */
	i64 value;     /* else: the result */
};
int gate_start(struct epm *e, struct krg_err *err);
/* Of calls that signals interrupt before the gate has them; where the kernel does not let us, the log says so. */
void gate_again_start(struct epm *e);
void gate_again_stop(struct epm *e);
/* Calls that another krgd had received, and died: they are answered, or made again. */
void gate_restart(struct epm *e);
void gate_stop(struct epm *e);
bool gate_call_valid(struct gate_call *c);
void gate_answer(struct gate_call *c);
static inline void gate_continue(struct gate_call *c)
{
	c->cont = true;
}
static inline void gate_return(struct gate_call *c, i64 value)
{
	c->cont = false;
	c->error = value < 0 ? (i32)value : 0;
	c->value = value < 0 ? 0 : value;
}
/* From here on the call may have its effect, and must not have it twice. */
static inline void gate_begin(struct gate_call *c)
{
	if (c->slot != NULL)
		c->slot->done = GATE_BEGUN;
}
/* The body that the calling task belongs to, or NULL. */
struct task *gate_body(struct gate_call *c);

/* [net] A call by the deputy of a body of this node.  Its result. */
i64 gate_call_deputy(struct epm *e, struct task *body, const struct rec_epm_call *call);

/* ---- prctl.c: PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER ---- */
void gate_handle_prctl(struct gate_call *c);
/* What the thread, and its process, have asked for. */
void asked_describe(struct epm *e, const struct proc_info *p, u32 *ret_pdeathsig,
		    bool *ret_subreaper);
void asked_sweep(struct epm *e);
void asked_fini(struct epm *e);

/* ---- gate_tty.c ---- */
void gate_handle_open(struct gate_call *c);
void gate_handle_ioctl(struct gate_call *c);
void gate_handle_stat(struct gate_call *c);
void gate_handle_lseek(struct gate_call *c);
void gate_handle_fcntl(struct gate_call *c);
/* A duplicate of the caller's descriptor: krgd's to close.  Negative: there is none. */
int gate_fd_of_caller(struct gate_call *c, int number);

/* ---- gate_sock.c ---- */
void gate_handle_socket(struct gate_call *c);

/* ---- tty.c: job control over nodes ---- */
int tty_start(struct epm *e, struct krg_err *err);
void tty_stop(struct epm *e);
void tty_free(struct epm *e);
/* [net] What a process asks about its terminal, by ioctl (TIOCGPGRP …).  Its result. */
int tty_job_call(struct gate_call *c, const struct rec_stream_ref *ref, u32 cmd, u64 at);
/* [net] May it change the terminal, or is it in the background?  0, or the call's result. */
int tty_may_change(struct gate_call *c, const struct rec_stream_ref *ref);
/* [net] A body has sent itself, or its group, a terminal's stop signal: kill(2) does not return before it is there. */
void tty_stop_wait(struct gate_call *c, const struct rec_epm_kill *k);
/* A program with a terminal goes: its group here tells what it cannot hear there. */
void tty_task_goes(struct epm *e, const struct proc_info *host, const struct proc_info *world);
/* A body was made in a session that has its home here: to its group's kernel it is no orphan. */
void tty_body_comes(struct epm *e, struct session *s, i32 pgid);
/* Where the members of groups send word. */
int tty_tell_socket(struct epm *e);
/* A proxy of the deputy was signalled (tty_front.c); the deputy ends; is that one?  What TIOCGPGRP of a process
 * of this node is to say, if it is not what its kernel says. */
void tty_proxy_heard(struct epm *e, const struct task *deputy, i32 pid, int sig, int code);
void tty_deputy_ends(struct epm *e, i32 deputy);
bool tty_is_proxy(struct epm *e, i32 pid);
bool tty_front_is_proxy(struct gate_call *c, int fd, i32 *ret);
/* A deputy got a signal: in a session without placeholders one of the group's deputies tells. */
void tty_deputy_heard(struct epm *e, struct task *t, int sig, int code);
void handle_tty(void *ctx, struct comm_req *req);
void handle_tty_signal(void *ctx, struct comm_req *req);
void handle_orphan(void *ctx, struct comm_req *req);
void handle_tty_open(void *ctx, struct comm_req *req);
/* [net] Open the caller's controlling terminal, which is elsewhere: its stand-in.  -ENXIO: it has none. */
int tty_open(struct epm *e, u32 tid, u32 flags, int *ret_fd);
/* Does the session of that process have a terminal, here or elsewhere? */
bool tty_has(struct epm *e, const struct proc_info *host, const struct proc_info *world);

/* ---- sender.c: signals with their sender ---- */
/* To a process (or thread) of this world; pidfd: of that process.  0 or negative errno.  Waits for whoever sends. */
int signal_send(struct epm *e, struct herald_req *r, int pidfd);
/* To all of a group on this node, at once; tgid: -pgid.  0, or nobody has got it. */
int signal_send_group(struct epm *e, struct herald_req *r);
/* One question to somebody who serves herald requests; the caller has its lock.  -ENOTCONN: it does not answer. */
int sender_ask(struct epm *e, int sock, struct herald_req *r, int pidfd);
/* It is such a socket. */
void sender_socket(int sock);
/* To a body, after those before.  False: too many wait. */
bool signals_add(struct epm *e, struct task *body, const struct rec_epm_signal *s);
/* To a child that stayed here with a deputy, by somebody near the body. */
bool signals_add_child(struct epm *e, const struct rec_epm_kill *k);
void handle_signals_done(void *ctx, struct comm_req *req);
/* News of an end: after the signals that came before it. */
void signals_news(struct epm *e, struct comm_req *req, void (*news)(void *, struct comm_req *));
/* The end of a body, which may have signalled its parent, whose deputy is here: told after that.  False: too many wait. */
struct body_end;
bool signals_end(struct epm *e, struct task *deputy, struct body_end *end);
/* What this deputy of this node was sent has been passed on, when this returns: unless it stands. */
bool signals_drain(struct epm *e, struct task *deputy);
/* [net] What these deputies of this node were sent has reached their bodies, when this returns: unless they stand. */
void signals_flush(struct epm *e, struct task *const *deputies, unsigned n);
/* Until the body has got what was told so far. */
void signals_wait_locked(struct task *body);
int signals_start(struct epm *e, struct krg_err *err);
void signals_stop(struct epm *e);

/* ---- group.c ---- */
/* [net] To the members of a group, or to everybody, wherever they are. */
int kill_group(struct epm *e, const struct rec_epm_kill *k);
/* [net] The same; 1: the caller's own call does the rest. */
int kill_group_and_go_on(struct epm *e, const struct rec_epm_kill *k);
/* A body is to be given a signal: its group, if that may be what is meant, or 0. */
i32 group_watched(struct epm *e, const struct task *body);
/* It has been: now its children that it forked before. */
void group_body_heard(struct epm *e, i32 pgid, int sig);
void handle_kill_group(void *ctx, struct comm_req *req);
void groups_fini(struct epm *e);

/* ---- gate_signal.c ---- */
void body_signal(struct epm *e, struct task *body, const struct rec_epm_signal *s);
void gate_handle_signal(struct gate_call *c);
bool kill_may(const struct rec_epm_kill *k, const struct proc_info *target);
/* To a process of this node, or its deputy. */
int kill_one(struct epm *e, const struct rec_epm_kill *k, pid_t pid);
void handle_kill(void *ctx, struct comm_req *req);
/* The deputy has said HELLO after a SIGSTOP: if it stands, so does its body. */
void stop_settle(struct epm *e, struct task *deputy);
void handle_signal(void *ctx, struct comm_req *req);
/* [net] A body whose home is gone. */
int kill_orphan(struct epm *e, const struct rec_epm_kill *k);
/* A process of this node. */
int kill_here(struct epm *e, const struct rec_epm_kill *k);
int kill_pid(struct epm *e, const struct rec_epm_kill *k, struct krg_err *err);

/* ---- exec.c, exec_fds.c, convert.c ---- */
void gate_handle_exec(struct gate_call *c);
/* Describe the descriptors of a task that goes to `to`.  What was exported is in refs, to be
 * cancelled if it does not go. */
struct exec_fds {
	struct krg_buf records;
	struct rec_stream_ref ref[EPM_FDS_MAX];
	unsigned nrefs;
};
/* all: also those that an exec closes. */
int exec_fds_export(struct epm *e, const struct proc_info *p, int pidfd, nodeid to, bool all,
		    struct exec_fds *ret, struct krg_err *err);
/* The program stays: undo what was exported.  answered: the destination imported all or undid it. */
void exec_fds_cancel(struct epm *e, struct exec_fds *f, nodeid to, bool answered);
/* The pipe streams, to be begun when the program goes: the caller's.  *ret_n of them. */
struct rec_stream_ref *exec_fds_pipes(const struct exec_fds *f, unsigned *ret_n);
/* Is one of them a pipe of this node? */
bool exec_fds_have_pipes(const struct exec_fds *f, nodeid self);
void exec_fds_fini(struct exec_fds *f);
/* Make the calling task (in a notified execve) execute the vessel.  0: it will say HELLO on its
 * channel, or the channel ends.  Negative: its exec goes on as it was; *c says what to do. */
int convert(struct gate_call *c, struct task *deputy, struct krg_err *err);
/* The second notification of a task on its way.  True: it was one, and is dealt with.  False: it may be
 * placed; *ret_securebits: what is known of it (0: nothing). */
bool convert_second(struct gate_call *c, u32 *ret_securebits);
/* Stop a task in a notified call, as a tracer, and answer that; its call is whole.  Then end that. */
int task_stop(struct gate_call *c, pid_t tid, struct krg_err *err);
struct user_regs_struct;
/* Make a system call (of four arguments) through a task that this thread has stopped after one: at_call are its
 * registers there, TRACESYSGOOD is set, signals are blocked.  waits: a stopped process first goes on. */
int call_through(pid_t tid, const struct user_regs_struct *at_call, u64 nr, const u64 arg[4],
		 bool waits, i64 *ret);
/* Its exec goes on here, as it was.  vessel: a descriptor to close, or -EBADF; securebits: convert.c */
void convert_let_go(struct epm *e, pid_t tid, const struct user_regs_struct *at_call, u64 mask,
		    int vessel, u32 securebits);
/* Give a body, which is held at its first instruction by this thread, its interval timers. */
int timers_give(pid_t tid, const struct task_timer timer[EPM_TIMERS]);
/* epm_timer records. */
void timers_encode(const struct task_timer timer[EPM_TIMERS], struct krg_buf *ret);
void timers_decode(struct task *t, struct krg_slice timers);
/* ---- onward.c ---- */
/* [net] A body in its notified execve goes on to where another was prepared.  0: it has.  Negative: its call goes on
 * as it was. */
int onward(struct gate_call *c, struct task *body, nodeid to, u64 new_id, const char *path,
	   struct krg_err *err);
struct onward {
	nodeid to;
	u64 new_id;			/* there */
	const char *path;		/* what it executes; empty: nothing */
	const struct task_timer *timer; /* EPM_TIMERS of them: what it shall have */
};
/* [net] Its home's word.  0: it is elsewhere now.  Negative: it is not, and never will be. */
int onward_ask(struct epm *e, struct task *body, pid_t tid, const struct onward *o,
	       struct krg_err *err);
/* Before: it stands still to leave, and who signals it asks its home; or it has not left.  Then: it has been given all signals that had come for it; those that it will not take go after it (false: that node
 * is gone); and it is no body of here any more, only to be ended. */
void onward_stands(struct task *body, bool leaves);
void onward_heard(struct task *body);
bool onward_signal(struct epm *e, const struct task *body, nodeid to, i32 tid, const siginfo_t *si);
void onward_left(struct epm *e, struct task *body, const struct onward *o);
void handle_onward(void *ctx, struct comm_req *req);
void handle_give_up(void *ctx, struct comm_req *req);
/* A task waits in a call that nobody will see to: it makes it again. */
void convert_again(int listener, const struct seccomp_notif *req);
/* What the log of another krgd says of a task. */
enum converting_state convert_state(struct epm *e, pid_t host_tid);
/* The log is another krgd's: those who were sent off, and have not been let go, are called back. */
void convert_adopt(struct epm *e);
/* It died on its way, or has arrived. */
void convert_forget(struct epm *e, pid_t host_tid);

/* ---- caps.c ---- */
struct epm_caps caps_of(struct epm *e, i32 pid);
/* False: the process must not be placed.  Costs nothing while nobody's set says so. */
bool caps_may_exec(struct epm *e, pid_t host_tid);
/* What `krg run` gives to the first process of a session.  plain: its execs do not come to the gate. */
void caps_of_session(struct epm *e, i32 sid, const struct epm_caps *caps, bool plain);
/* What a body brought along. */
void caps_of_body(struct epm *e, i32 pid, i32 sid, const struct epm_caps *caps);
void caps_sweep(struct epm *e);
/* From the keeper. */
void caps_adopt(struct epm *e, enum keep_kind kind, const struct rec_epm_keep_caps *rec);
void caps_fini(struct epm *e);
void handle_caps(void *ctx, struct comm_req *req);

/* ---- usage.c: of children that moved ---- */
int usage_start(struct epm *e);
void usage_stop(struct epm *e);
void usage_free(struct epm *e);
void gate_handle_usage(struct gate_call *c);
/* There will be a deputy; its body has ended, before it. */
void usage_deputy_made(struct epm *e, struct task *deputy);
void usage_body_ended(struct epm *e, const struct task *deputy, const struct usage *used);
/* What the body's children used elsewhere. */
void usage_of_body(struct epm *e, i32 pid, struct usage *used);
void usage_sweep(struct epm *e);

/* ---- list.c ---- */
void history_add(struct epm *e, pid_t pid, nodeid node, const char *path);

/* ---- kin.c: children that stay with the deputy, and their shadows beside the body ---- */
struct shadow_channels {
	int fd[EPM_CHILDREN_MAX];
	unsigned n;
};
/* The children of a process of this node, as pids: the caller's.  Ended ones that nobody has waited
 * for are among them. */
unsigned kin_pids(struct epm *e, pid_t pid, i32 **ret);
/* As epm_child records, groups' leaders first; NULL: done, else why not. */
const char *kin_describe(struct epm *e, const struct proc_info *p, nodeid to, const i32 *pids,
			 unsigned n, struct krg_buf *ret);
/* The groups that the shadows will join. */
int kin_groups(struct epm *e, struct session *s, const struct rec_epm_prepare *in,
	       struct krg_slice children, struct krg_err *err);
/* The shadows are made: know them.  Takes the channels. */
int kin_begin(struct epm *e, const struct task *body, struct krg_slice children,
	      struct shadow_channels *channels, struct krg_err *err);
/* The body is gone: its shadows end. */
void kin_end(struct epm *e, const struct task *body);
bool kin_is_shadow(struct epm *e, pid_t pid);
void kin_on_channel(struct epm *e, struct task *shadow);
void kin_on_node_down(struct epm *e, nodeid node);
/* It stands still: those that have shadows are those that it has. */
bool kin_is_same(struct epm *e, const struct task *deputy);
/* A deputy runs: children that ended without a trace before it did. */
void kin_settle(struct epm *e, struct task *deputy);
void kin_tell(struct epm *e, struct task *deputy, i32 child, i32 code, i32 status);
void handle_child(void *ctx, struct comm_req *req);
void handle_child_signal(void *ctx, struct comm_req *req);

/* ---- pages.c: pages that follow a process ---- */
struct pages_out;
struct pages_in;
/* [net] To where it goes, before it stands still. */
int pages_out_open(struct epm *e, i32 pid, nodeid to, u64 exec_id, struct pages_out **ret,
		   struct krg_err *err);
/* It stands: from now on questions are answered. */
int pages_out_begin(struct pages_out *o, struct ghost *g, struct krg_err *err);
/* These have gone before it. */
void pages_out_early(struct pages_out *o, u64 addr, u64 npages);
/* It runs there: until it has all.  By the tracer of the keeper, which ends. */
int pages_out_serve(struct pages_out *o, struct ghost *keeper);
void pages_out_free(struct pages_out *o);
bool pages_is_keeper(struct epm *e, i32 pid);
/* The shell of a process whose pages come later.  -ENOENT: they come before it runs. */
int pages_in_begin(struct epm *e, struct task *body, nodeid from, struct ghost *shell,
		   const struct ghost_image *image, struct pages_in **ret, struct krg_err *err);
void pages_in_early(struct pages_in *in, u64 addr, u64 npages);
int pages_in_arm(struct pages_in *in, struct krg_err *err);
/* It runs, or never will. */
void pages_in_end(struct pages_in *in, bool runs);
/* All pages of pid that are to come are there, by then. */
bool pages_in_await(struct epm *e, i32 pid, u64 deadline_ns);
/* What the keeper had of another krgd's.  Takes the descriptor. */
void pages_adopt(struct epm *e, int uffd);
void pages_on_node_down(struct epm *e, nodeid node);
/* A thread that epm_free() waits for: it calls pages_thread_ends() last. */
int pages_thread(struct epm *e, void *(*main)(void *), void *ctx);
void pages_thread_ends(struct epm *e);
void pages_register(struct epm *e);
void pages_init(struct epm *e);
void pages_stop(struct epm *e);
void pages_fini(struct epm *e);

/* ---- body.c ---- */
void handle_prepare(void *ctx, struct comm_req *req);
void handle_pages(void *ctx, struct comm_req *req);
void handle_arrived(void *ctx, struct comm_req *req);
void handle_migrate(void *ctx, struct comm_req *req);
void handle_migrate_on(void *ctx, struct comm_req *req);
void handle_commit(void *ctx, struct comm_req *req);
void handle_abort(void *ctx, struct comm_req *req);
void body_on_ended(struct epm *e, const struct init_ended *m);
void bodies_on_node_down(struct epm *e, nodeid node);
/* Tell the homes of bodies whose ends are due.  [net] */
void body_ends_tell(struct epm *e);
void body_ends_drop(struct epm *e);
void body_end_tell(struct body_end *end);
/* How a body of that home ended, if it is known. */
bool body_lives(const struct task *body);
/* The body goes on elsewhere, and ends here: that is not to be told. */
void body_left(struct epm *e, i32 pid, u64 exec_id);
bool body_ended_find(struct epm *e, nodeid home, i32 pid, u64 exec_id, struct rec_epm_ended *ret);
/* Make a process in a session, up to the point where it waits for the word on *ret_sync.  channels:
 * of its shadows, those made (the caller's also on failure); NULL: it has none. */
int body_spawn(struct epm *e, struct session *s, pid_t set_tid, int tries,
	       const struct krg_buf *spawn, const int *fds, unsigned nfds,
	       struct shadow_channels *channels, pid_t *ret_pid, int *ret_pidfd, int *ret_sync,
	       struct krg_err *err);

/* ---- deputy.c ---- */
int deputy_open(struct epm *e, struct krg_err *err);
int deputy_start(struct epm *e, struct krg_err *err);
/* What its body's node says of the body. */
void deputy_hear(struct epm *e, struct task *t, const struct rec_epm_ended *m);
void deputy_stop(struct epm *e);
int deputy_watch(struct epm *e, struct task *t);
int deputy_watch_shadow(struct epm *e, struct task *t);
/* A signal to the body. */
int deputy_signal(struct epm *e, struct task *t, const struct rec_epm_signal *s);
/* COMMIT to the body's node. */
void deputy_commit(struct epm *e, struct task *t);
bool vessel_say(struct task *t, const struct vessel_msg *m);
/* Its thread runs body_ends_tell() and looks at e->stopping. */
void deputy_wake(struct epm *e);
void handle_ended(void *ctx, struct comm_req *req);
void handle_parent(void *ctx, struct comm_req *req);
void handle_deputy_call(void *ctx, struct comm_req *req);
/* Make a call through the vessel or the shadow; its result.  timeout_ms 0: until it ends; else -ETIMEDOUT. */
i32 task_call(struct task *t, i32 nr, i64 arg0, i64 arg1, i64 arg2, u64 timeout_ms);
void task_answered(struct task *t, const struct vessel_msg *m);
void deputies_on_node_down(struct epm *e, nodeid node);

/* ---- run.c, list.c, kill.c ---- */
void run_on_ended(struct epm *e, const struct init_ended *m);
/* The `krg run` whose process this is, until its first exec has been made.  A reference, or NULL. */
struct task *run_find_by_host_pid(struct epm *e, pid_t host_pid);
void handle_list(void *ctx, struct comm_req *req);
void handle_clock(void *ctx, struct comm_req *req);
int clock_agree(struct epm *e, struct krg_err *err);
static inline int wstatus_of(i32 code, i32 status)
{
	return code == 1 /* CLD_EXITED */ ? (status & 0xff) << 8
					  : (status & 0x7f) |
						    (code == 3 /* CLD_DUMPED */ ? 0x80 : 0);
}
#endif
