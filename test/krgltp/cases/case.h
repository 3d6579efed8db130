/* case.h - what the cases of krgltp share: pass, fail, skip, children that are this program in a role.
 *
 *	static void c_exit(void)
 *	{
 *		EXITS(spawn("exit", "7", NULL), 7);
 *	}
 *	const struct sub subs[] = {{"exit", c_exit}, {NULL, NULL}};
 *	const struct role roles[] = {{NULL, NULL}};
 *
 * `PROGRAM SUB [ARG]` runs a case and ends with 0, with 1 and a line that begins with "fail:", or with 77 and
 * one that begins with "skip:".  Between fork and exec a child is here, after it in a role, which may be
 * on another node.  A case waits for events, never for time to pass; what it makes is in its own directory.
 *
 * Threads    the calls here are for one thread, but for CHECK and its kin.
 * Blocking   as the calls under test; the driver's time limit ends what hangs.
 */
#ifndef KRGLTP_CASE_H
#define KRGLTP_CASE_H
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

struct sub {
	const char *name;
	void (*run)(void);
};
struct role {
	const char *name;
	int (*run)(int argc,
		   char **argv); /* argv[0]: the first of its arguments; its exit status */
};
extern const struct sub subs[];	  /* the program's; the last one's name is NULL */
extern const struct role roles[]; /* likewise; all have: exit N, hold, cat, die SIG, errno */

extern char self[]; /* the path of this program */
extern char *sub_arg;
extern char **environ;

#define NELEM(a) (sizeof(a) / sizeof((a)[0]))

_Noreturn void fail_at(const char *file, int line, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
_Noreturn void skip(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#define FAIL(...) fail_at(__FILE__, __LINE__, __VA_ARGS__)
#define CHECK(cond, ...)                                                                           \
	do {                                                                                       \
		if (!(cond))                                                                       \
			FAIL(__VA_ARGS__);                                                         \
	} while (0)
/* a number is what it should be */
#define EQ(got, want)                                                                              \
	do {                                                                                       \
		long long got_ = (long long)(got), want_ = (long long)(want);                      \
		CHECK(got_ == want_, "%s: %lld, not %lld", #got, got_, want_);                     \
	} while (0)
/* a call succeeds: its value */
#define OK(call)                                                                                   \
	({                                                                                         \
		long long ok_ = (long long)(call);                                                 \
		CHECK(ok_ >= 0, "%s: %s", #call, strerror(errno));                                 \
		ok_;                                                                               \
	})
/* a call fails with exactly that errno */
#define FAILS(call, error)                                                                         \
	do {                                                                                       \
		errno = 0;                                                                         \
		CHECK((call) == -1, "%s succeeded", #call);                                        \
		CHECK(errno == (error), "%s: %s, not %s", #call, strerror(errno), #error);         \
	} while (0)

/* This program again, in a role, by fork and execve.  Arguments end with NULL. */
pid_t spawn(const char *role, ...) __attribute__((sentinel));
/* The same; prepare(arg) runs in the child before. */
pid_t spawn_with(void (*prepare)(void *arg), void *arg, const char *role, ...)
	__attribute__((sentinel));
/* Any program. */
pid_t spawn_argv(const char *path, char *const argv[]);
pid_t spawn_sh(const char *script);
/* execve of ourselves; returns only when it fails. */
int become(const char *role, ...) __attribute__((sentinel));
/* A child that the functions above did not make: fail() ends it, too. */
pid_t mind(pid_t pid);
/* Its wait status; waits for its end. */
int status_of(pid_t pid);
#define EXITS(pid, code)                                                                           \
	do {                                                                                       \
		int status_ = status_of(pid);                                                      \
		CHECK(WIFEXITED(status_) && WEXITSTATUS(status_) == (code),                        \
		      "wait status %#x, not that of exit %d", (unsigned)status_, (int)(code));     \
	} while (0)
#define DIES(pid, sig)                                                                             \
	do {                                                                                       \
		int status_ = status_of(pid);                                                      \
		CHECK(WIFSIGNALED(status_) && WTERMSIG(status_) == (sig),                          \
		      "wait status %#x, not that of signal %d", (unsigned)status_, (int)(sig));    \
	} while (0)

/* A child to talk with: its standard input and output are pipes. */
struct chat {
	pid_t pid;
	int to, from;
};
struct chat chat_with(void (*prepare)(void *arg), void *arg, const char *role, ...)
	__attribute__((sentinel));
void tell(const struct chat *c, const char *line);	    /* a line, without its end */
const char *hear(const struct chat *c);			    /* the next line; "" at the end */
void expect_line(const struct chat *c, const char *wanted); /* the next line is this */
void leave(struct chat *c);				    /* closes both pipes */
#define BYE(c)                                                                                     \
	do {                                                                                       \
		leave(c);                                                                          \
		EXITS((c)->pid, 0);                                                                \
	} while (0)

/* In a role: a line to standard output, a line from standard input ("" at the end). */
void answer(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
const char *asked(void);

/* Whole files, pipes. */
void write_file(const char *path, const char *text);
const char *read_file(const char *path); /* a static buffer of 64 KiB */
void write_all(int fd, const void *p, size_t n);
size_t read_up_to(int fd, void *p, size_t n);	 /* until n bytes or the end */
void make_pipe(int p[2]);			 /* close-on-exec */
void script(const char *path, const char *text); /* an executable file */
const char *here(const char *name);		 /* its full path; few at a time */
void need_root(void);
/* A user id that no other instance has. */
uid_t own_uid(void);
/* Who gets orphans: pid 1, or who stands for it. */
pid_t reaper(void);
#endif
