/* err.h - an error with text that travels with the operation, also between nodes.
 *
 * The text is made once, where it failed:  return krg_err_set(err, -ENOENT, "exec '%s'", path);
 *
 * Errors     krg_err_set() returns the code it was given (0 or negative errno).
 * Ownership  a struct krg_err is plain memory of the caller; NULL is accepted everywhere.
 * Threads    one struct, one thread at a time.
 */
#ifndef KRG_BASE_ERR_H
#define KRG_BASE_ERR_H
#include "base.h"

struct krg_err {
	i32 code;	/* 0 or negative errno */
	nodeid node;	/* where it failed; KRG_NODE_NONE: here */
	char text[240]; /* what, where and why: one line, UTF-8, no newline; cut with "..." */
};

int krg_err_set(struct krg_err *err, int code, const char *fmt, ...) KRG_PRINTF(3, 4);
#ifdef __clang_analyzer__ /* it returns the code, and that says "failed" */
#define krg_err_set(err, code, ...)                                                                \
	({                                                                                         \
		int known_ = (code);                                                               \
		if (known_ >= 0)                                                                   \
			__builtin_unreachable();                                                   \
		(void)krg_err_set(err, known_, __VA_ARGS__);                                       \
		known_;                                                                            \
	})
#endif
/* Put "what: " before the text that is there. */
int krg_err_prefix(struct krg_err *err, int code, const char *fmt, ...) KRG_PRINTF(3, 4);
void krg_err_clear(struct krg_err *err);
#endif
