/* krginit.h - inside krginit: pid 1 of a world, its nurseries, and what a new process does before
 * it executes.  All of it is single-threaded and static; nothing here is linked into krgd.
 */
#ifndef KRG_EPM_KRGINIT_H
#define KRG_EPM_KRGINIT_H
#include "world_proto.h"

/* A nursery's life: serves requests on sock until it closes.  Never returns. */
_Noreturn void nursery_run(int sock);

/* A new process's way to its program: sets itself up as spec (an epm_spawn record in memfd) says,
 * reports on sync, waits for the word, executes.  fds: the process's descriptors.  Never returns. */
_Noreturn void spawn_child(int spec, int sync, const int *fds, unsigned nfds);

/* As fork(2), with a chosen pid (0: any) and the caller's parent as parent.  Returns as fork;
 * *ret_pidfd (in the caller) is CLOEXEC. */
int sibling_fork(i32 set_tid, int *ret_pidfd);

/* Make a child of the calling process that stands for one that stayed at home.  The caller gets its
 * channel to krgd (struct vessel_msg) in *ret_channel.  0 or negative errno. */
int shadow_make(const struct rec_epm_child *child, int *ret_channel);

/* Send a signal as this process, which has the sender's number: its user for the time of the call.  target: a
 * pidfd.  0 or negative errno. */
int herald_send(const struct herald_req *r, int target);
/* At stage 0: make a herald for krgd.  False: there is nobody who asks any more. */
bool herald_serve(int sock);

/* The keeper: what outlives krgd, and for how long.  keeper_open() before pid 1 is made; keeper_run() is stage 0's
 * life, and never returns. */
int keeper_open(const char *run_dir);
_Noreturn void keeper_run(int krgd, int herald, int door, pid_t world, u32 keep_ms);

/* Answers to INIT_SHARED and INIT_SESSIONS, from the world's /proc. */
u64 scan_shared(const struct init_shared *req);
void scan_sessions(const struct init_sessions *req, struct init_sessions_answer *ret);
#endif
