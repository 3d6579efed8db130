/* run.h - krg run: a program of the world, with this terminal, these descriptors, these signals.
 *
 * run_pack.c makes the request, run_tty.c a terminal of its own, run_relay.c copies bytes, run.c
 * is the loop around them.
 *
 * Threads  one; signals are blocked and read from a signalfd(2).
 */
#ifndef KRG_RUN_H
#define KRG_RUN_H
#include "conn.h"
#include <termios.h>

struct run_opts {
	struct cmd_common common;
	int node; /* -1: as the scheduler says */
	bool tty; /* -t */
	u32 caps;
	const char *dir;
	char **argv;
};

/* ---- run_pack.c ---- */
/* "+CAP,-CAP", "CAP,CAP" or octal.  -EINVAL. */
int run_caps_parse(const char *text, u32 *ret) KRG_MUST_CHECK;
/* This process's arguments, environment, directory, limits… as a memfd with an epm_run record. */
int run_pack(const struct run_opts *o, bool new_session, int *ret_fd,
	     struct krg_err *err) KRG_MUST_CHECK;

/* ---- run_tty.c ---- */
struct run_tty {
	int master, slave;
	int user; /* the person's terminal (0, 1 or 2), or -EBADF */
	bool raw;
	struct termios saved;
};
/* With the size and modes of the person's terminal, if there is one. */
int run_tty_open(struct run_tty *t, struct krg_err *err) KRG_MUST_CHECK;
void run_tty_resize(const struct run_tty *t);
/* Raw mode, if we are in the foreground; again after SIGCONT. */
void run_tty_raw(struct run_tty *t);
void run_tty_restore(struct run_tty *t);
void run_tty_close(struct run_tty *t);

/* ---- run_relay.c ---- */
struct run_relay {
	int from, to; /* -EBADF: closed */
	bool from_socket, to_socket;
	bool own_from, own_to; /* closed at the end */
	bool hold;	       /* do not read now */
	int eof_byte; /* written to `to` at the end of `from`, instead of closing; -1: none */
	char *buf;
	size_t at, len;
};
void run_relay_init(struct run_relay *r, int from, int to);
void run_relay_fini(struct run_relay *r);
bool run_relay_done(const struct run_relay *r);
/* For poll(2): what it waits for. */
struct pollfd;
void run_relay_poll(const struct run_relay *r, struct pollfd *from, struct pollfd *to);
/* Copy what can be copied without waiting. */
void run_relay_step(struct run_relay *r, bool can_read, bool can_write);
#endif
