/* world_proto.h - what krgd, krginit, the nurseries and the vessels say to each other.
 *
 * All of it stays on one node and between programs of one build: fixed structs over AF_UNIX
 * SOCK_SEQPACKET (unix(7)), descriptors by SCM_RIGHTS.  krgd still checks what a vessel says: a
 * vessel runs with its process's credentials.
 */
#ifndef KRG_EPM_WORLD_PROTO_H
#define KRG_EPM_WORLD_PROTO_H
#include "base.h"
#include "rec.h"
#include "vessel_proto.h"

#define WORLD_PROTO_VERSION 3u

/* ---- krgd <-> krginit ---- */
enum init_type {
	INIT_WORLD = 1, /* krgd: make the world.  fd: none */
	INIT_READY, /* krginit: struct init_ready.  fds: /proc, then listener and socket of each nursery */
	INIT_ENDED,  /* krginit: a child ended, stopped or continued */
	INIT_SHARED, /* krgd: who else holds these descriptors? */
	INIT_SHARED_ANSWER,
	INIT_SESSIONS, /* krgd: which of these sessions have members besides their nursery? */
	INIT_SESSIONS_ANSWER,
	INIT_FAILED, /* krginit: struct init_failed */
};

struct init_world {
	u32 type, version;
	i32 pid_low, pid_high; /* [low, high): this node's pids */
	i64 clock_offset_ns;
	char host_name[64];
	u32 keep_ms; /* how long the world waits for another krgd when its krgd has died; 0: not at all */
	char run_dir[200]; /* bound to /run/krg/world, so that tools find this node's daemon */
};

struct init_ready {
	u32 type, version;
};

struct init_failed {
	u32 type;
	i32 code; /* negative errno */
	char what[120];
};

/* As struct rusage (getrusage(2)). */
struct usage {
	u64 utime_us, stime_us, maxrss_kb, minflt, majflt, inblock, oublock, nvcsw, nivcsw;
};

struct init_ended {
	u32 type;
	i32 pid;
	i32 code;   /* CLD_EXITED, CLD_KILLED, CLD_DUMPED, CLD_STOPPED, CLD_CONTINUED (waitid(2)) */
	i32 status; /* exit code or signal */
	struct usage used;
};

#define INIT_SHARED_MAX 64
struct init_shared {
	u32 type, id;
	i32 pid; /* whose descriptors */
	u32 nfds;
	i32 fds[INIT_SHARED_MAX];
	u64 pipes; /* bit i: fds[i] is an end of a pipe without a name */
};
struct init_shared_answer {
	u32 type, id;
	/* bit i: another process of the world holds the open file description of fds[i], or one of the
	 * same end of the same pipe (it opened /dev/fd/N) */
	u64 mask;
};

#define INIT_SESSIONS_MAX 256
struct init_sessions {
	u32 type, id;
	u32 n;
	struct {
		i32 sid, nursery_pid;
	} session[INIT_SESSIONS_MAX];
};
struct init_sessions_answer {
	u32 type, id;
	u8 alive[INIT_SESSIONS_MAX];
};

/* ---- krgd <-> whoever has a sender's number: stage 0 (for heralds), nurseries, placeholders ---- */
struct herald_req {
	u32 id;
	i32 sig;
	i32 code; /* SI_USER, SI_TKILL, or of a queued one */
	i32 from_pid;
	u32 from_uid;
	i32 tgid, tid; /* tid 0: for the process; tgid negative: for a group */
	i64 value;     /* of a queued one */
		       /* fd: the target's pidfd; of a group: any */
};
struct herald_answer {
	u32 id;
	i32 result; /* 0 or negative errno */
};

/* ---- krgd <-> the keeper (stage 0 of krginit), which holds for the next krgd what this one would take with it ----
 * A message is a keep_msg and, behind it, what to know of the thing (an epm_keep_… record, which the keeper does not
 * look at).  Nothing is answered, but a CLAIM. */
#define KEEP_SOCKET   "keep.sock" /* in the run directory: where the next krgd asks */
#define KEEP_BLOB_MAX 16384
#define KEEP_FDS_MAX  16
enum keep_type {
	KEEP_PUT = 1, /* krgd: this is there, or has changed (its descriptors, too).  fds: copies */
	KEEP_DROP,    /* krgd: it has ended */
	KEEP_CLAIM,   /* the next krgd: struct keep_claim */
	KEEP_HAVE,    /* keeper: one of those that were put */
	KEEP_ALL,     /* keeper: that was all; from now on the next krgd is krgd */
	KEEP_REFUSED, /* keeper: of another build */
};
enum keep_kind {
	KEEP_WORLD =
		1, /* fds: krgd's end of the socket to krginit, /proc, the log of the gate, both ends of the tell
			 * socket, krgd's of the heralds', then listener and socket of each nursery */
	KEEP_SESSION, /* fd: its nursery */
	KEEP_GROUP,   /* fd: a placeholder's socket */
	KEEP_DEPUTY,  /* fds: channel, pidfd */
	KEEP_BODY, /* fd: its pidfd.  The keeper ends it when krgd dies: its home sees this node fail */
	KEEP_ORPHAN,	   /* fd: its pidfd.  A body whose home is gone */
	KEEP_CAPS,	   /* Kerrighed capabilities of a process, */
	KEEP_CAPS_SESSION, /* of a session */
	KEEP_PAGES, /* fd: a userfaultfd, so that nobody gets zero for a page that is still to come */
	KEEP_KIND_NR,
};
struct keep_msg {
	u32 type, kind;
	u64 id;
};
struct keep_claim {
	u32 type, version;
};

/* ---- krgd <-> nursery ---- */
enum nursery_class {
	NURSERY_EXEC, /* filter: signals, exec, and what a body's kin decide */
	NURSERY_AWAY, /* the same, and opens of /dev/tty: for sessions whose terminal is on another node */
	NURSERY_PLAIN, /* filter: signals only; for programs whose execs are never placed */
	NURSERY_NR,
};

enum nursery_type {
	NURSERY_SPAWN = 1,
	NURSERY_SESSION,
	NURSERY_GROUP,
	NURSERY_FRONT,
	NURSERY_KILL,
	NURSERY_SYNC,
};

struct nursery_req {
	u32 type;
	i32 set_tid;		  /* 0: the next free pid */
	i32 pgid;		  /* GROUP, FRONT */
	struct herald_req signal; /* KILL */
	/* SPAWN    fds: memfd with an epm_spawn record, the sync socket, the process's descriptors
	 * SESSION  fds: the new nursery's socket, then a terminal if the session gets one
	 * GROUP    a placeholder in the process group pgid (which it leads if set_tid is that).  fds: a socket for
	 *          herald requests; then none, or one where it tells of the signals that the kernel sends to the group
	 * FRONT    no process: bring the group to the front of the session's terminal
	 * KILL     no process: send a signal as the session's leader.  fd: the target's pidfd
	 * SYNC     no process: the answer is pgid.  What comes before it was asked by a krgd that died */
};
/* From a placeholder. */
struct group_signal {
	i32 sid, pgid, sig;
};
struct nursery_answer {
	i32 pid; /* in the world, or negative errno; fd: its pidfd */
};

/* The sync socket of a child: it writes one sync_msg when it is set up (or failed), waits for one
 * byte, and executes.  If that fails it writes another sync_msg.  EOF: it executes the program, or died. */
#define SYNC_SHADOW 1
struct sync_msg {
	i32 code; /* 0: ready; SYNC_SHADOW: a shadow is made, fd: its channel; else negative errno */
	char what[60];
};

/* A child that stays with the deputy: what its shadow, beside the body, looks like (shadow.c). */
#define EPM_CHILDREN_MAX 64
#define REC_EPM_CHILD(F)                                                                           \
	F(i32, pid)                                                                                \
	F(i32, pgid)                                                                               \
	F(u8, leads)	    /* it made a session of its own */                                     \
	F(i32, exit_signal) /* as clone(2) */                                                      \
	F(u32, uid)                                                                                \
	F(u32, gid)
KRG_RECORD(epm_child, 0x420, REC_EPM_CHILD)

#define EPM_SPAWN_NO_FILTER   0xffffffffu
#define EPM_FD_CLOEXEC	      (1u << 31) /* with a descriptor's number */
#define EPM_SPAWN_FLAG_NNP    1u
#define EPM_SPAWN_FLAG_CTTY   2u  /* make the terminal at descriptor 0 show this group in front */
#define EPM_SPAWN_FLAG_REAPER 8u  /* PR_SET_CHILD_SUBREAPER */
#define EPM_SPAWN_FLAG_SHELL  16u /* no program: its memory will be made for it */
#define EPM_SPAWN_FLAG_PLACE  4u  /* its exec goes through the gate, to be placed */
#define REC_EPM_SPAWN(F)                                                                           \
	F(i32, pgid) /* 0: leads a new group; -1: the nursery's; else join (it must exist) */      \
	F(u32, uid)                                                                                \
	F(u32, euid)                                                                               \
	F(u32, suid)                                                                               \
	F(u32, gid)                                                                                \
	F(u32, egid)                                                                               \
	F(u32, sgid)                                                                               \
	F(bytes, groups, 65536 * 4)                                                                \
	F(u64, cap_inh)                                                                            \
	F(u64, cap_prm)                                                                            \
	F(u64, cap_eff)                                                                            \
	F(u64, cap_bnd)                                                                            \
	F(u64, cap_amb)                                                                            \
	F(u32, flags)                                                                              \
	F(u32, umask)                                                                              \
	F(i32, nice)                                                                               \
	F(u32, sched_policy) /* as sched_setscheduler(2) */                                        \
	F(u32, sched_prio)                                                                         \
	F(u32, ioprio)	    /* as ioprio_set(2); 0: from nice */                                   \
	F(u32, timer_slack) /* ns; 0: the default */                                               \
	F(i32, oom_score_adj)                                                                      \
	F(u32, pdeathsig) /* 0: none */                                                            \
	F(u32, persona)                                                                            \
	F(u32, securebits)  /* as prctl(PR_SET_SECUREBITS) */                                      \
	F(u32, core_filter) /* as /proc/self/coredump_filter; EPM_SPAWN_NO_FILTER: the node's */   \
	F(u8, no_thp)	    /* as prctl(PR_SET_THP_DISABLE) */                                     \
	F(u64, sig_blocked)                                                                        \
	F(u64, sig_ignored)                                                                        \
	F(str, cwd, 4096)                                                                          \
	F(str, root, 4096) /* its root directory; empty: the world's */                            \
	F(str, path, 4096)                                                                         \
	F(bytes, argv, 8 << 20) /* NUL-terminated strings */                                       \
	F(bytes, env, 8 << 20)                                                                     \
	F(bytes, limits, 16 * 16) /* u64 cur, max each */                                          \
	F(bytes, fds, 4096)	  /* i32 number each, in the order of the descriptors sent */      \
	F(bytes, children, 8192)  /* epm_child records: groups' leaders first */
KRG_RECORD(epm_spawn, 0x410, REC_EPM_SPAWN)

#endif
