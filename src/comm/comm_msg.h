/* comm_msg.h - what stands in a message between two nodes.
 *
 * u8 kind, u8 flags, u16 op, i32 code, u64 call id, u64 view of the sender, then the body.
 *
 * Errors   -EBADMSG: too short, no such kind, a code that is no negative errno.
 * Threads  stateless.
 */
#ifndef KRG_COMM_MSG_H
#define KRG_COMM_MSG_H
#include "buf.h"
#include "err.h"
#include "kernetdev.h"

#define COMM_MSG_HEADER 24u

enum comm_msg_kind {
	COMM_MSG_CALL = 1,
	COMM_MSG_ONE_WAY = 2,
	COMM_MSG_ANSWER = 3,
	COMM_MSG_FAIL = 4,   /* body: u16 node, then the text */
	COMM_MSG_CANCEL = 5, /* the caller has given up */
};
enum comm_msg_flags { COMM_MSG_STALE = 1 /* FAIL: refused for its view, no handler has run */ };

struct comm_msg {
	u8 kind, flags;
	u16 op;
	i32 code;
	u64 id;
	u64 view;
	struct krg_slice body;
};

/* A message with room for the body; it is copied if body is not NULL. */
struct kernetdev_msg *comm_msg_make(const struct comm_msg *h, const void *body, size_t len);
int comm_msg_parse(struct kernetdev_msg *m, struct comm_msg *ret) KRG_MUST_CHECK;
struct kernetdev_msg *comm_msg_make_fail(const struct comm_msg *h, const struct krg_err *err);
/* The error that a FAIL brings. */
void comm_msg_parse_fail(const struct comm_msg *h, nodeid from, struct krg_err *ret);
#endif
