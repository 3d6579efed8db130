/* tty_impl.h - between tty.c (job control) and tty_calls.c (calls on stand-ins). */
#ifndef KRG_EPM_TTY_IMPL_H
#define KRG_EPM_TTY_IMPL_H
#include "epm_impl.h"

#define ERESTARTSYS 512 /* of the kernel: as SA_RESTART says, if there is a signal */

/* Who makes a call, as job control sees it. */
struct caller {
	i32 pid, pgid, sid; /* in the world */
	u64 blocked, ignored, caught, pending;
};
int caller_read(u32 tid, struct caller *ret);
/* The signal is neither blocked nor ignored. */
bool caller_hears(const struct caller *who, int sig);

/* The session's leader, if that is its terminal and this its home. */
bool tty_leader(struct epm *e, u64 rdev, i32 sid, struct proc_info *ret);
/* Has the group members on this node (1), and in this session (else -EPERM)?  0: none. */
int tty_group_is_here(struct epm *e, i32 pgid, i32 sid);
/* The terminal's driver sends such signals. */
bool tty_is_of_driver(int sig, int code);

/* ---- tty_front.c ---- */
/* TIOCSPGRP in a session without a nursery at its home, this node. */
int tty_front_by_deputy(struct epm *e, const struct rec_epm_tty *m);
/* The group that the kernel's number in front stands for. */
i32 tty_group_meant(struct epm *e, i32 pgid);

/* [net] Its group is an orphan, as the kernel of its home sees it. */
bool tty_is_orphan(struct epm *e, i32 pid);
/* [net] The terminal's driver has signalled the group: to the nodes. */
void tty_tell_nodes(struct epm *e, const struct group_signal *g);
#endif
