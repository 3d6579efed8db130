/* epm_rec.h - what epm says: its calls between nodes, and the records in them and with the keeper. */
#ifndef KRG_EPM_REC_H
#define KRG_EPM_REC_H
#include "comm.h"
#include "rec.h"

enum epm_op {
	EPM_OP_PREPARE = COMM_OP(COMM_SVC_EPM, 1),     /* call: make the body, up to its program */
	EPM_OP_COMMIT = COMM_OP(COMM_SVC_EPM, 2),      /* let it go */
	EPM_OP_ABORT = COMM_OP(COMM_SVC_EPM, 3),       /* end it: it never ran */
	EPM_OP_SIGNAL = COMM_OP(COMM_SVC_EPM, 4),      /* home to body */
	EPM_OP_ENDED = COMM_OP(COMM_SVC_EPM, 5),       /* body to home: ended, stopped, continued */
	EPM_OP_KILL = COMM_OP(COMM_SVC_EPM, 6),	       /* call, to the home: kill(2) */
	EPM_OP_KILL_GROUP = COMM_OP(COMM_SVC_EPM, 7),  /* call, to all: kill(2) of a group or all */
	EPM_OP_PARENT = COMM_OP(COMM_SVC_EPM, 8),      /* call, to the home: getppid(2) */
	EPM_OP_DEPUTY_CALL = COMM_OP(COMM_SVC_EPM, 9), /* call, to the home: setpgid, setsid */
	EPM_OP_LIST = COMM_OP(COMM_SVC_EPM, 10),       /* call: the processes that run there */
	EPM_OP_CLOCK = COMM_OP(COMM_SVC_EPM, 11),      /* call: the world's monotonic clock */
	EPM_OP_TTY = COMM_OP(COMM_SVC_EPM, 40),	       /* call, to a session's home: its terminal */
	EPM_OP_TTY_SIGNAL = COMM_OP(COMM_SVC_EPM, 41), /* a terminal's signal to a group, to all */
	EPM_OP_TTY_OPEN =
		COMM_OP(COMM_SVC_EPM, 43),	   /* call, to a session's home: a stand-in of it */
	EPM_OP_ORPHAN = COMM_OP(COMM_SVC_EPM, 42), /* call, to the home: is its group orphaned? */
	EPM_OP_CAPS = COMM_OP(COMM_SVC_EPM, 14),   /* call: Kerrighed capabilities of a process */
	EPM_OP_MIGRATE = COMM_OP(COMM_SVC_EPM, 90),	/* call, to the home: move a process */
	EPM_OP_MIGRATE_ON = COMM_OP(COMM_SVC_EPM, 100), /* call, to where a body runs: move it on */
	EPM_OP_PAGES = COMM_OP(COMM_SVC_EPM, 91),	/* call: of a process on its way */
	EPM_OP_ARRIVED = COMM_OP(COMM_SVC_EPM, 92), /* call: that was all; is it ready to run? */
	EPM_OP_PAGES_URGENT = COMM_OP(COMM_SVC_EPM, 96), /* raw, to where it goes: pages.c */
	EPM_OP_PAGES_BULK = COMM_OP(COMM_SVC_EPM, 97),	 /* the same */
	EPM_OP_CHILD = COMM_OP(COMM_SVC_EPM, 12),	 /* home to body: of a child that stayed */
	EPM_OP_CHILD_SIGNAL = COMM_OP(COMM_SVC_EPM, 13), /* body to home: to a child that stayed */
	EPM_OP_SIGNALS_DONE =
		COMM_OP(COMM_SVC_EPM, 60), /* call: bodies have the signals sent before */
	EPM_OP_ONWARD =
		COMM_OP(COMM_SVC_EPM, 80), /* call, to the home: the body is elsewhere now */
	EPM_OP_GIVE_UP = COMM_OP(COMM_SVC_EPM, 81), /* call: end a body, unless it is the process */
	EPM_OP_RETURN =
		COMM_OP(COMM_SVC_EPM, 70), /* call, to all: my krgd died, my world is still there */
};

/* A descriptor of a program that moves (section 5 of ARCHITECTURE.md). */
enum epm_fd_kind { EPM_FD_REOPEN = 1, EPM_FD_REF = 2, EPM_FD_DUP = 3 };
#define REC_EPM_FD(F)                                                                              \
	F(i32, number)                                                                             \
	F(u8, kind)                                                                                \
	F(u32, flags) /* REOPEN: open(2) flags */                                                  \
	F(u64, pos)   /* REOPEN: offset; DUP: index of the descriptor it shares */                 \
	F(u64, ino)   /* REOPEN: must match */                                                     \
	F(str, path, 4096)                                                                         \
	F(bytes, ref, 256) /* REF: a stream_ref record */                                          \
	F(u8, cloexec)
KRG_RECORD(epm_fd, 0x411, REC_EPM_FD)

#define REC_EPM_PREPARE(F)                                                                         \
	F(i32, pid)                                                                                \
	F(i32, ppid)                                                                               \
	F(i32, pgid)                                                                               \
	F(i32, sid)                                                                                \
	F(u32, effective) /* Kerrighed capabilities */                                             \
	F(u32, permitted)                                                                          \
	F(u32, inh_effective)                                                                      \
	F(u32, inh_permitted)                                                                      \
	F(u64, exec_id)		  /* names this attempt in COMMIT and ABORT */                     \
	F(u16, home)		  /* of its deputy, which says COMMIT */                           \
	F(u8, tty)		  /* its session has a terminal */                                 \
	F(bytes, spawn, 17 << 20) /* an epm_spawn record, without descriptors */                   \
	F(bytes, fds, 1 << 20)	  /* epm_fd records */                                             \
	F(bytes, ghost, 16 << 20) /* of a process that runs; empty: a program that starts */
KRG_RECORD(epm_prepare, 0x412, REC_EPM_PREPARE)

#define REC_EPM_MIGRATE(F)                                                                         \
	F(i32, pid)                                                                                \
	F(u32, to)                                                                                 \
	F(u32, uid) /* who asks */                                                                 \
	F(u8, how)  /* enum epm_migrate_how */
KRG_RECORD(epm_migrate, 0x460, REC_EPM_MIGRATE)

#define REC_EPM_MIGRATED(F) F(u64, stood_ns)
KRG_RECORD(epm_migrated, 0x461, REC_EPM_MIGRATED)

#define REC_EPM_PAGES(F)                                                                           \
	F(i32, pid)                                                                                \
	F(u64, exec_id)                                                                            \
	F(u64, addr)                                                                               \
	F(bytes, data, 262144) /* whole pages */
KRG_RECORD(epm_pages, 0x462, REC_EPM_PAGES)

#define REC_EPM_WHICH(F)                                                                           \
	F(i32, pid)                                                                                \
	F(u64, exec_id)
KRG_RECORD(epm_which, 0x413, REC_EPM_WHICH)

/* With the deputy's interval timers, as the vessel found them. */
#define REC_EPM_COMMIT(F)                                                                          \
	F(i32, pid)                                                                                \
	F(u64, exec_id)                                                                            \
	F(bytes, timers, 128) /* epm_timer records: those that are set */
KRG_RECORD(epm_commit, 0x450, REC_EPM_COMMIT)

#define REC_EPM_TIMER(F)                                                                           \
	F(u8, which) /* ITIMER_REAL … */                                                         \
	F(u64, left_us)                                                                            \
	F(u64, interval_us)
KRG_RECORD(epm_timer, 0x451, REC_EPM_TIMER)

#define REC_EPM_SIGNAL(F)                                                                          \
	F(i32, pid)                                                                                \
	F(i32, sig)                                                                                \
	F(u8, stops) /* SIGTSTP, SIGTTIN, SIGTTOU: its group is not an orphan */                   \
	F(i32, code)                                                                               \
	F(i32, from_pid)                                                                           \
	F(u32, from_uid)                                                                           \
	F(i64, value)                                                                              \
	F(i32, tid) /* of that thread; 0: of the first, if SI_TKILL, else of the process */
KRG_RECORD(epm_signal, 0x414, REC_EPM_SIGNAL)

#define REC_EPM_ENDED(F)                                                                           \
	F(i32, pid)                                                                                \
	F(i32, code) /* CLD_… */                                                                 \
	F(i32, status)                                                                             \
	F(u64, utime_us)                                                                           \
	F(u64, stime_us)                                                                           \
	F(u64, maxrss_kb)                                                                          \
	F(u64, minflt)                                                                             \
	F(u64, majflt)                                                                             \
	F(u64, inblock)                                                                            \
	F(u64, oublock)                                                                            \
	F(u64, nvcsw)                                                                              \
	F(u64, nivcsw)
KRG_RECORD(epm_ended, 0x415, REC_EPM_ENDED)

/* A child of a deputy ended, stopped or continued: its shadow does alike. */
#define REC_EPM_KIN(F)                                                                             \
	F(i32, pid) /* the body */                                                                 \
	F(i32, child)                                                                              \
	F(i32, code) /* CLD_… */                                                                 \
	F(i32, status)
KRG_RECORD(epm_kin, 0x421, REC_EPM_KIN)

#define EPM_GROUP_MAX 4096 /* members of a group that are told of by number */
/* kill(2) on behalf of a process: who it is, whom it means. */
#define REC_EPM_KILL(F)                                                                            \
	F(i32, target) /* pid; KILL_GROUP: the group, or -1 for everybody */                       \
	F(i32, tid)    /* 0: the process; else one of its threads */                               \
	F(u8, tkill)   /* of whatever process: the target is the thread */                         \
	F(i32, sig)                                                                                \
	F(i32, code) /* 0: kill; SI_TKILL; SI_QUEUE …: rt_sigqueueinfo */                        \
	F(i64, value)                                                                              \
	F(i32, from_pid)                                                                           \
	F(u32, uid)                                                                                \
	F(u32, euid)                                                                               \
	F(u8, cap_kill)                                                                            \
	F(i32, sid)
KRG_RECORD(epm_kill, 0x416, REC_EPM_KILL)

#define REC_EPM_COUNT(F)                                                                           \
	F(u32, found)                                                                              \
	F(u32, permitted)                                                                          \
	F(bytes, delegated, EPM_GROUP_MAX * 4) /* i32 each: that run where the sender does */
KRG_RECORD(epm_count, 0x417, REC_EPM_COUNT)

#define REC_EPM_CALL(F)                                                                            \
	F(i32, pid)                                                                                \
	F(i32, nr)                                                                                 \
	F(i64, arg0)                                                                               \
	F(i64, arg1)
KRG_RECORD(epm_call, 0x418, REC_EPM_CALL)

#define REC_EPM_VALUE(F) F(i64, value)
KRG_RECORD(epm_value, 0x419, REC_EPM_VALUE)

/* What a process asks of its controlling terminal.  Answered where the session's leader is. */
#define REC_EPM_TTY(F)                                                                             \
	F(u32, cmd) /* TIOCGPGRP …; 0: only who is in front */                                   \
	F(i32, pid) /* who asks */                                                                 \
	F(i32, sid)                                                                                \
	F(i32, pgid)	 /* TIOCSPGRP: the group */                                                \
	F(u8, elsewhere) /* TIOCSPGRP: it has members at the asking node */                        \
	F(u64, rdev)	 /* of the terminal */
KRG_RECORD(epm_tty, 0x41f, REC_EPM_TTY)

#define REC_EPM_TTY_R(F)                                                                           \
	F(i32, result) /* of the call: negative errno, or 0 */                                     \
	F(i32, front)  /* the group in front; -1: it is not the session's terminal */
KRG_RECORD(epm_tty_r, 0x41b, REC_EPM_TTY_R)

#define REC_EPM_TTY_OPEN(F)                                                                        \
	F(i32, sid)                                                                                \
	F(u32, flags) /* open(2): O_ACCMODE, O_APPEND, O_NONBLOCK */
KRG_RECORD(epm_tty_open, 0x41a, REC_EPM_TTY_OPEN)

/* The terminal's driver signalled a group on the session's home. */
#define REC_EPM_TTY_SIGNAL(F)                                                                      \
	F(i32, sid)                                                                                \
	F(i32, pgid)                                                                               \
	F(i32, sig)                                                                                \
	F(u8, stops) /* SIGTSTP …: the group is not an orphan */
KRG_RECORD(epm_tty_signal, 0x41c, REC_EPM_TTY_SIGNAL)

#define REC_EPM_CAPS_ASK(F)                                                                        \
	F(i32, pid)                                                                                \
	F(u32, uid) /* who asks */                                                                 \
	F(u8, may_change)                                                                          \
	F(u8, changes) /* else only a look */                                                      \
	F(u32, drop0)  /* enum epm_caps_set */                                                     \
	F(u32, drop1)                                                                              \
	F(u32, drop2)                                                                              \
	F(u32, drop3)                                                                              \
	F(u32, add0)                                                                               \
	F(u32, add1)                                                                               \
	F(u32, add2)                                                                               \
	F(u32, add3)
KRG_RECORD(epm_caps_ask, 0x41d, REC_EPM_CAPS_ASK)

#define REC_EPM_CAPS(F)                                                                            \
	F(u16, node) /* where the process is: if elsewhere, that is to be asked */                 \
	F(u32, effective)                                                                          \
	F(u32, permitted)                                                                          \
	F(u32, inh_effective)                                                                      \
	F(u32, inh_permitted)
KRG_RECORD(epm_caps, 0x41e, REC_EPM_CAPS)

/* A body has been made elsewhere, in place of the one that asks. */
#define REC_EPM_ONWARD(F)                                                                          \
	F(i32, pid)                                                                                \
	F(u64, exec_id) /* of the body that asks */                                                \
	F(u64, new_id)                                                                             \
	F(u16, to)                                                                                 \
	F(u64, used_us) /* CPU time of the body that asks */                                       \
	F(u64, utime_us)                                                                           \
	F(bytes, timers, 128) /* as epm_commit */                                                  \
	F(str, path, 4096)
KRG_RECORD(epm_onward, 0x452, REC_EPM_ONWARD)
/* A node is back with its world (restart.c): which deputies of those it asks have their bodies there. */
#define REC_EPM_RETURN(F)                                                                          \
	F(u64, since)		  /* exec_ids of this world are not less */                        \
	F(bytes, which, 16 << 20) /* an epm_which record each */
KRG_RECORD(epm_return, 0x445, REC_EPM_RETURN)
/* An epm_ended record for each, in that order.  code: CLD_…, and these. */
enum { RETURN_RUNS = 0, RETURN_GONE = -1 };
#define REC_EPM_RETURN_R(F) F(bytes, ended, 16 << 20)
KRG_RECORD(epm_return_r, 0x446, REC_EPM_RETURN_R)

/* ---- what the keeper holds (keep.c), by enum keep_kind ---- */
#define REC_EPM_KEEP_WORLD(F)                                                                      \
	F(u16, node)                                                                               \
	F(u32, log_size) /* of struct gate_log */                                                  \
	F(u64, since)	 /* the first exec_id of this world */                                     \
	F(i64, clock_offset_ns)
KRG_RECORD(epm_keep_world, 0x440, REC_EPM_KEEP_WORLD)

#define REC_EPM_KEEP_SESSION(F)                                                                    \
	F(i32, sid)                                                                                \
	F(i32, host_sid)                                                                           \
	F(u8, class)                                                                               \
	F(u8, stale)                                                                               \
	F(u64, born)                                                                               \
	F(bytes, outside, 16 * 16)
KRG_RECORD(epm_keep_session, 0x441, REC_EPM_KEEP_SESSION)

#define REC_EPM_KEEP_GROUP(F)                                                                      \
	F(i32, sid)                                                                                \
	F(i32, pgid)                                                                               \
	F(i32, pid)                                                                                \
	F(u8, tells)
KRG_RECORD(epm_keep_group, 0x442, REC_EPM_KEEP_GROUP)

#define REC_EPM_KEEP_DEPUTY(F)                                                                     \
	F(i32, pid)                                                                                \
	F(i32, host_pid)                                                                           \
	F(i32, host_tid)                                                                           \
	F(u16, peer)                                                                               \
	F(u8, runs) /* it has said HELLO */                                                        \
	F(u64, exec_id)                                                                            \
	F(str, path, 4096)                                                                         \
	F(bytes, children, 64 * 4)
KRG_RECORD(epm_keep_deputy, 0x443, REC_EPM_KEEP_DEPUTY)

#define REC_EPM_KEEP_BODY(F)                                                                       \
	F(i32, pid)                                                                                \
	F(i32, ppid)                                                                               \
	F(i32, host_pid)                                                                           \
	F(u16, peer)                                                                               \
	F(u64, exec_id)                                                                            \
	F(str, path, 4096)
KRG_RECORD(epm_keep_body, 0x444, REC_EPM_KEEP_BODY)

#define REC_EPM_KEEP_CAPS(F)                                                                       \
	F(i32, pid)                                                                                \
	F(u64, start)                                                                              \
	F(u8, plain)                                                                               \
	F(u32, effective)                                                                          \
	F(u32, permitted)                                                                          \
	F(u32, inh_effective)                                                                      \
	F(u32, inh_permitted)
KRG_RECORD(epm_keep_caps, 0x447, REC_EPM_KEEP_CAPS)
#endif
