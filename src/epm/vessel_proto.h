/* vessel_proto.h - between krgd and the vessel of a deputy: fixed structs over SOCK_SEQPACKET.
 * Included by the vessel, which has no C library: only fixed-width types here. */
#ifndef KRG_EPM_VESSEL_PROTO_H
#define KRG_EPM_VESSEL_PROTO_H
#include <stdint.h>

enum vessel_type {
	VESSEL_HELLO = 1, /* vessel: all signals are blocked, all descriptors but this are closed */
	VESSEL_SIGNAL,	  /* vessel: this signal came */
	VESSEL_EXIT, /* krgd: end with this wait(2) status; fd: where to leave a core, if its flag is set */
	VESSEL_STOP,   /* krgd: the body stopped by signal `value`: stop alike */
	VESSEL_CALL,   /* krgd: make this system call */
	VESSEL_ANSWER, /* vessel: its result */
	VESSEL_NAME,   /* krgd: text is the name to show (comm) */
	VESSEL_GO,     /* krgd: SIGCONT follows: a stop told before it is over */
	VESSEL_TOLD, /* a proxy `pid` of the vessel (tty_front.c): signal `value` came, with `code` */
	VESSEL_TIMER, /* vessel, before HELLO: interval timer `code` was set: arg[0] us left, arg[1] interval */
	VESSEL_CHILD, /* vessel: a child `pid` ended, stopped or continued: code CLD_…, value */
};

/* In the sixth argument register of execve: made by the nursery itself, not to be placed.  A program that
 * forges it only keeps its exec local.  In the third of prctl: made by our own programs. */
#define EXEC_MAGIC 0x6b65727269676864ull

/* VESSEL_CALL: no system call, but to pass on the signals that have come. */
#define VESSEL_DRAIN (-1)

struct vessel_msg {
	uint32_t type;
	int32_t value;	/* signal, status, or the call's result */
	int32_t code;	/* si_code, or the call's number */
	int32_t pid;	/* si_pid */
	uint32_t uid;	/* si_uid */
	uint32_t id;	/* of a call */
	int64_t arg[3]; /* si_value, or the call's arguments */
	char text[16];
};
#endif
