/* sched_impl.h - inside sched. */
#ifndef KRG_SCHED_IMPL_H
#define KRG_SCHED_IMPL_H
#include "clock.h"
#include "lock.h"
#include "log.h"
#include "rec.h"
#include "sched.h"
#include <stdatomic.h>

#define SCHED_SAMPLE_MS 100 /* how often the own load is sampled */
#define SCHED_TELL_MS	800 /* … and told even if it has not changed: known a second old at most */
#define SCHED_QUIET_MS	10  /* … and at most so often */
#define SCHED_STALE_MS	5000	       /* a node not heard for so long gets nothing */
#define SCHED_FRESH_MS	1000	       /* a placement that never arrived is forgotten */
#define SCHED_FRESH_MAX 256	       /* placements remembered per node */
#define SCHED_STAY	0.5	       /* what going must gain, in tasks of one's own node */
#define SCHED_STAY_AWAY 1.5	       /* … for kin of a program that was placed here */
#define SCHED_GO_NS	(5 * KRG_MSEC) /* processor time that going costs, both nodes together */
#define SCHED_SHORT_NS	(5 * KRG_MSEC) /* programs that use less processor time stay */
#define SCHED_LONG_NS	(1 * KRG_NSEC) /* what is expected of a program that is not known */
#define SCHED_SHORT_MIN 3	       /* runs before that is believed */
#define SCHED_SHORT_TRY 64	       /* every so many it goes all the same, to learn */
#define SCHED_PATHS	512

#define SCHED_OP_LOAD COMM_OP(COMM_SVC_SCHED, 1)
#define REC_SCHED_LOAD(F)                                                                          \
	F(u32, runnable) /* with what just came and does not show yet */                           \
	F(u32, arrivals) /* programs that came from the receiver, ever: modulo 2^32 */             \
	F(u32, milli_cpus)
KRG_RECORD(sched_load, 0x581, REC_SCHED_LOAD)

/* Locks: c constant; s ->lock (class sched); a atomic */
struct sched_peer {
	bool member;		    /* (s) */
	bool heard;		    /* (s) */
	u32 runnable;		    /* (s) of the last sample */
	double cpus;		    /* (s) */
	u64 sampled_ns;		    /* (s) when the sample came */
	u32 arrivals;		    /* (s) programs that came from there */
	u32 acked;		    /* (s) … that went there, as it last said */
	unsigned nfresh;	    /* (s) */
	u64 fresh[SCHED_FRESH_MAX]; /* (s) when what the sample cannot show yet was placed; last:
				     * each exec looks at the rest of all peers */
};

struct sched_path {
	u64 hash;   /* (s) 0: free */
	u64 cpu_ns; /* (s) moving average, with children waited for */
	u64 used;   /* (s) for the choice of a victim */
	u32 runs;   /* (s) */
	u32 kept;   /* (s) since it last went */
};

struct sched {
	struct sched_config config; /* (c) but for policy */
	nodeid self;		    /* (c) */
	atomic_int policy;	    /* (a) */
	struct krg_mutex lock;
	struct krg_cond cond;  /* stop, news */
	bool stop, runs, news; /* (s) news: a program came, the others are to know */
	pthread_t thread;
	struct sched_peer peer[KRG_NODES_MAX];
	struct sched_path path[SCHED_PATHS];
	u64 path_clock; /* (s) */
	nodeid turn;	/* (s) ELSEWHERE: the last one chosen */
};

/* The choice, pure: sched_choose.c */
/* Where a program that will use so much processor time ends first; away: kin of one placed here. */
nodeid sched_best_locked(struct sched *s, u64 now_ns, u64 cpu_ns, bool away);
nodeid sched_choose_locked(struct sched *s, u64 now_ns, u64 cpu_ns,
			   bool away); /* … and take one's turn */
u64 sched_path_expect_locked(struct sched *s,
			     const char *path); /* processor time, with its children */
bool sched_path_is_short_locked(struct sched *s, const char *path);
void sched_path_ended_locked(struct sched *s, const char *path, u64 cpu_ns);
void sched_fresh_add_locked(struct sched_peer *p, u64 now_ns);
void sched_fresh_drop_locked(struct sched_peer *p);
#endif
