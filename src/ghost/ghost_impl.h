/* ghost_impl.h - what the files of this part share. */
#ifndef KRG_GHOST_IMPL_H
#define KRG_GHOST_IMPL_H
#include "ghost.h"
#include "rec.h"
#include <sys/user.h>

#define GHOST_VERSION	 1u
#define GHOST_XSTATE_MAX 16384u /* AMX has 11 KiB */
#define GHOST_PATH_MAX	 4096u
#define GHOST_NSIG	 64

/* In rax of a call that was interrupted (include/linux/errno.h). */
#define ERESTARTNOHAND	      514
#define ERESTART_RESTARTBLOCK 516

/* ---- records ---- */

#define REC_GHOST_HEAD(F)                                                                          \
	F(u32, version)                                                                            \
	F(i32, pid)                                                                                \
	F(u64, xcr0) /* what its registers may use */                                              \
	F(u32, personality)                                                                        \
	F(u32, dumpable)                                                                           \
	F(u32, subreaper)                                                                          \
	F(u64, ignored)	   /* signals, bit 0 is signal 1 */                                        \
	F(bytes, mm, 1024) /* a struct prctl_mm_map without pointers */                            \
	F(bytes, auxv, 4096)                                                                       \
	F(str, exe, 4096)
KRG_RECORD(ghost_head, 0x501, REC_GHOST_HEAD)

#define REC_GHOST_AREA(F)                                                                          \
	F(u64, start)                                                                              \
	F(u64, end)                                                                                \
	F(u8, kind) /* enum ghost_area_kind */                                                     \
	F(u8, prot) /* PROT_… */                                                                 \
	F(u8, down) /* grows down */                                                               \
	F(u64, offset)                                                                             \
	F(u64, ino) /* of its file, which must be the same there */                                \
	F(u64, size)                                                                               \
	F(u64, mtime_ns)                                                                           \
	F(str, path, 4096)
KRG_RECORD(ghost_area, 0x502, REC_GHOST_AREA)

#define REC_GHOST_THREAD(F)                                                                        \
	F(i32, tid)                                                                                \
	F(bytes, regs, 512)                                                                        \
	F(bytes, xstate, 16384)                                                                    \
	F(u64, mask)                                                                               \
	F(u64, alt_sp)                                                                             \
	F(u64, alt_size)                                                                           \
	F(u32, alt_flags)                                                                          \
	F(u64, clear_tid)                                                                          \
	F(u64, robust)                                                                             \
	F(u64, robust_len)                                                                         \
	F(u64, rseq)                                                                               \
	F(u32, rseq_size)                                                                          \
	F(u32, rseq_sig)                                                                           \
	F(str, name, 16)                                                                           \
	F(u32, death_signal)
KRG_RECORD(ghost_thread, 0x503, REC_GHOST_THREAD)

#define REC_GHOST_ACTION(F)                                                                        \
	F(i32, sig)                                                                                \
	F(u64, handler)                                                                            \
	F(u64, flags)                                                                              \
	F(u64, restorer)                                                                           \
	F(u64, mask)
KRG_RECORD(ghost_action, 0x504, REC_GHOST_ACTION)

/* A pending signal; tid 0: the process's. */
#define REC_GHOST_SIGNAL(F)                                                                        \
	F(i32, tid)                                                                                \
	F(bytes, info, 128)
KRG_RECORD(ghost_signal, 0x505, REC_GHOST_SIGNAL)

#define REC_GHOST_ITIMER(F)                                                                        \
	F(u32, which)                                                                              \
	F(u64, value_us)                                                                           \
	F(u64, interval_us)
KRG_RECORD(ghost_itimer, 0x506, REC_GHOST_ITIMER)

/* Who a thread is: each has credentials of its own. */
#define REC_GHOST_CREDS(F)                                                                         \
	F(i32, tid)                                                                                \
	F(u32, uid)                                                                                \
	F(u32, euid)                                                                               \
	F(u32, suid)                                                                               \
	F(u32, fsuid)                                                                              \
	F(u32, gid)                                                                                \
	F(u32, egid)                                                                               \
	F(u32, sgid)                                                                               \
	F(u32, fsgid)                                                                              \
	F(bytes, groups, 262144) /* u32 each */                                                    \
	F(u64, cap_inh)                                                                            \
	F(u64, cap_prm)                                                                            \
	F(u64, cap_eff)                                                                            \
	F(u64, cap_bnd)                                                                            \
	F(u64, cap_amb)                                                                            \
	F(u32, securebits)                                                                         \
	F(u8, no_new_privs)
KRG_RECORD(ghost_creds, 0x508, REC_GHOST_CREDS)

/* The last one: nothing was cut off. */
#define REC_GHOST_END(F) F(u32, records)
KRG_RECORD(ghost_end, 0x507, REC_GHOST_END)

/* ---- the process ---- */

struct ghost_thread {
	pid_t tid;		      /* as we see it */
	pid_t own_tid;		      /* as it sees itself */
	bool stopped;		      /* in a ptrace stop of ours */
	struct user_regs_struct regs; /* to go on with */
	u64 mask;		      /* signals it blocks */
};

/* A place in its memory that is ours for a while: a page of code, then data. */
#define GHOST_SCRATCH (1u << 20)
struct ghost_scratch {
	u64 at; /* 0: none */
};

struct ghost {
	pid_t pid, shown;	     /* for us, and for people */
	int mem;		     /* /proc/PID/mem */
	struct ghost_thread *thread; /* the first is the leader */
	unsigned nthreads;
	u64 insn; /* a system call instruction in its vdso */
	struct ghost_scratch scratch;
	bool trap_ignored; /* SIGTRAP: its disposition is to be put back */
	bool stop_seen;	   /* a SIGSTOP that we kept from it */
	u64 caps;	   /* a shell's: what it may set */
	pid_t cloned;	   /* the last one that a call made, as we see it */
};

/* ---- ghost_maps.c ---- */

enum ghost_area_kind {
	GHOST_ANON,
	GHOST_FILE,	   /* private */
	GHOST_SHARED_FILE, /* read only */
	GHOST_VDSO,
	GHOST_VVAR,
	GHOST_VVAR_VCLOCK,
	GHOST_AREA_KINDS
};
struct ghost_area {
	u64 start, end, offset;
	enum ghost_area_kind kind;
	u8 prot;
	bool down;
	u64 ino, size, mtime_ns;
	char *path; /* "" but for files */
};
struct ghost_maps {
	struct ghost_area *area;
	unsigned n;
};
void ghost_maps_fini(struct ghost_maps *m);
#define GHOST_AUTO_MAPS __attribute__((cleanup(ghost_maps_fini)))
/* any: also those that cannot be in a ghost, as GHOST_ANON. */
int ghost_maps_read(pid_t pid, pid_t shown, bool any, struct ghost_maps *ret, struct krg_err *err);
/* Where size bytes are free in both (b may be NULL); 0: nowhere. */
u64 ghost_maps_hole(const struct ghost_maps *a, const struct ghost_maps *b, u64 size);

/* ---- ghost_calls.c: system calls made by the process ---- */

struct ghost_call {
	u64 nr; /* GHOST_MAY_FAIL may be added */
	u64 a[6];
	i64 ret;
};
#define GHOST_MAY_FAIL (1ull << 32)

/* A list of calls with what they point to; both as they will stand in the scratch. */
struct ghost_list {
	u64 base; /* of the data there */
	u8 *data;
	u32 used; /* bytes of what they point to, from the end of data down */
	unsigned n;
};
#define GHOST_LIST_CALLS 2048u
void ghost_list_init(struct ghost_list *l, const struct ghost *g);
void ghost_list_fini(struct ghost_list *l);
#define GHOST_AUTO_LIST __attribute__((cleanup(ghost_list_fini)))
/* Room for size bytes (p, or zeroes): its address in the process; *ret_here: in this one, also for
 * the results. */
u64 ghost_list_data(struct ghost_list *l, const void *p, size_t size, void **ret_here);
struct ghost_call *ghost_list_add(struct ghost_list *l, u64 nr, u64 a0, u64 a1, u64 a2, u64 a3,
				  u64 a4, u64 a5);
bool ghost_list_full(const struct ghost_list *l, size_t more);
/* Make them in order, by that thread; results are in the list.  The first one that fails and must not
 * ends it: its error, and *ret_failed. */
int ghost_list_run(struct ghost *g, struct ghost_thread *t, struct ghost_list *l,
		   const struct ghost_call **ret_failed);

/* One call, through the vdso. */
int ghost_call_one(struct ghost *g, struct ghost_thread *t, u64 nr, const u64 a[6], i64 *ret);
int ghost_scratch_begin(struct ghost *g, u64 at, struct krg_err *err);
int ghost_scratch_end(struct ghost *g);
int ghost_find_insn(struct ghost *g, const struct ghost_maps *m, struct krg_err *err);
/* Wait for the next stop of a thread: 0, or -ESRCH.  Others' stops stay. */
int ghost_wait(pid_t tid, int *ret_status);

/* ---- ghost_stop.c ---- */

struct ghost *ghost_new(pid_t pid, pid_t shown);
void ghost_forget(struct ghost *g); /* only free it */
struct ghost_thread *ghost_thread_add(struct ghost *g, pid_t tid);
int ghost_thread_stopped(struct ghost_thread *t); /* read what it will go on with */
int ghost_seize(pid_t tid);

/* ---- ghost_hold.c ---- */

/* A child that holds its memory: ghost_kill() ends it.  It must have a scratch. */
int ghost_hold(struct ghost *g, struct ghost **ret, struct krg_err *err);
void ghost_unhold(struct ghost *g, struct ghost *keeper);
#endif
