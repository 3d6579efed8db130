/* base.h - what every part uses: assertions, cleanup attributes, node ids.
 *
 * Errors     own bugs abort (ASSERT, always on); bytes from elsewhere never reach an ASSERT.
 * Ownership  KRG_AUTO_* free at the end of the scope; TAKE_* hands over.
 * Threads    everything here is stateless.
 */
#ifndef KRG_BASE_H
#define KRG_BASE_H
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifdef __clang_analyzer__
/* What clang's analyzer cannot know: after a call that failed, errno is positive.  Without it, every
 * `return -errno` looks like a success, and its caller as if it used what was never filled in. */
static inline int *krg_errno_known(void)
{
	int *e = &errno;

	if (*e <= 0)
		__builtin_unreachable();
	return e;
}
#undef errno
#define errno (*krg_errno_known())
#endif

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int32_t i32;
typedef int64_t i64;

/* A node's number, 0 to KRG_NODES_MAX - 1.  Its pids start at (node + 1) << KRG_PID_SHIFT. */
typedef u16 nodeid;
#define KRG_NODES_MAX 127
#define KRG_NODE_NONE ((nodeid)0xffff)

_Noreturn void krg_panic(const char *file, int line, const char *what);
#define ASSERT(e)                                                                                  \
	do {                                                                                       \
		if (__builtin_expect(!(e), 0))                                                     \
			krg_panic(__FILE__, __LINE__, #e);                                         \
	} while (0)
#define ASSERT_OBJ(p, m)                                                                           \
	do {                                                                                       \
		ASSERT((p) != NULL);                                                               \
		ASSERT((p)->magic == (m));                                                         \
	} while (0)
#define IMPLIES(a, b) (!(a) || (b))

static inline void krg_closep(int *fd)
{
	if (*fd >= 0)
		(void)close(*fd);
}
static inline void krg_freep(void *p)
{
	free(*(void **)p);
}
static inline void krg_fclosep(FILE **f)
{
	if (*f != NULL)
		(void)fclose(*f);
}
#define KRG_AUTO_FD   __attribute__((cleanup(krg_closep)))
#define KRG_AUTO_FREE __attribute__((cleanup(krg_freep)))
#define KRG_AUTO_FILE __attribute__((cleanup(krg_fclosep)))
#define TAKE_FD(fd)                                                                                \
	({                                                                                         \
		int take_ = (fd);                                                                  \
		(fd) = -EBADF;                                                                     \
		take_;                                                                             \
	})
#define TAKE_PTR(p)                                                                                \
	({                                                                                         \
		__typeof__(p) take_ = (p);                                                         \
		(p) = NULL;                                                                        \
		take_;                                                                             \
	})
#define KRG_MUST_CHECK	 __attribute__((warn_unused_result))
#define KRG_PRINTF(f, a) __attribute__((format(printf, f, a)))
#define KRG_NOT_NULL	 __attribute__((returns_nonnull))
#define KRG_UNUSED	 __attribute__((unused))

#define KRG_NELEM(a) (sizeof(a) / sizeof((a)[0]))
#define KRG_MIN(a, b)                                                                              \
	({                                                                                         \
		__typeof__(a) min_a_ = (a);                                                        \
		__typeof__(b) min_b_ = (b);                                                        \
		min_a_ < min_b_ ? min_a_ : min_b_;                                                 \
	})
#define KRG_MAX(a, b)                                                                              \
	({                                                                                         \
		__typeof__(a) max_a_ = (a);                                                        \
		__typeof__(b) max_b_ = (b);                                                        \
		max_a_ > max_b_ ? max_a_ : max_b_;                                                 \
	})

/* Memory or abort: a daemon that is out of memory for its own small tables cannot go on.  Sizes
 * that come from outside are bounded before they get here. */
void *krg_xalloc(size_t size) KRG_NOT_NULL;	       /* zeroed */
void *krg_xrealloc(void *p, size_t size) KRG_NOT_NULL; /* new part not zeroed */
char *krg_xstrdup(const char *s) KRG_NOT_NULL;
char *krg_xasprintf(const char *fmt, ...) KRG_PRINTF(1, 2) KRG_NOT_NULL;

/* Text from elsewhere in a line for people: each control character, and each byte that is no UTF-8,
 * becomes '?', in place. */
void krg_one_line(char *text);

/* Read or write all of it; EINTR is retried.  0, or negative errno (-EPIPE: end of file early). */
int krg_read_all(int fd, void *p, size_t n) KRG_MUST_CHECK;
int krg_write_all(int fd, const void *p, size_t n) KRG_MUST_CHECK;
/* A whole (small) file as a string, at most max - 1 bytes, NUL-terminated.  Returns its length. */
int krg_read_file(const char *path, char *buf, size_t max) KRG_MUST_CHECK;
/* Into a file that is there and is written as a whole (in /proc, /sys, a cgroup): it is neither
 * made nor shortened. */
int krg_write_file(const char *path, const char *text) KRG_MUST_CHECK;
/* One datagram or stream chunk with descriptors (SCM_RIGHTS, unix(7)).  recv: *ret_nfds in: room,
 * out: got; descriptors are CLOEXEC and the caller's.  Returns bytes, 0 at end, or negative errno.
 */
#define KRG_FDS_MAX 250
ssize_t krg_send_fds(int sock, const void *p, size_t n, const int *fds, unsigned nfds);
ssize_t krg_recv_fds(int sock, void *p, size_t n, int *fds, unsigned *ret_nfds);
#endif
