/* stream_caller.c - what depends on who calls: job control of terminals, and calls that a signal ended.
 *
 * The part above knows processes (struct stream_caller_ops); without it every caller is in the
 * foreground, and an interrupted call is EINTR.
 */
#include "stream_impl.h"
#include <linux/fuse.h>
#include <signal.h>
#include <termios.h>

void stream_set_caller_ops(struct stream *s, const struct stream_caller_ops *ops, void *ctx)
{
	ASSERT_OBJ(s, STREAM_MAGIC);
	s->caller_ctx = ctx;
	atomic_store(&s->caller_ops, ops);
}

void caller_who(struct import *imp, u32 tid, struct stream_caller *ret)
{
	const struct stream_caller_ops *ops = atomic_load(&imp->s->caller_ops);

	*ret = (struct stream_caller){0};
	if (ops != NULL && !imp->file && S_ISCHR(imp->ref.mode) && tid != 0)
		ops->who(imp->s->caller_ctx, tid, ret);
}

/* As the terminal's driver (n_tty): readers always, writers if TOSTOP is set. */
bool caller_is_behind(struct handle *h, i32 sid, i32 pgid, int sig)
{
	const struct stream_caller_ops *ops = atomic_load(&h->s->caller_ops);
	struct termios t;
	i32 front;

	if (!h->tty || pgid <= 0 || ops == NULL)
		return false;
	if (sig == SIGTTOU && (tcgetattr(h->fd, &t) < 0 || (t.c_lflag & TOSTOP) == 0))
		return false;
	front = ops->front(h->s->caller_ctx, h->rdev, sid);
	return front > 0 && front != pgid;
}

bool caller_background(struct fuse_op *op)
{
	struct stream *s = op->s;
	const struct stream_caller_ops *ops = atomic_load(&s->caller_ops);
	int sig = op->opcode == FUSE_READ ? SIGTTIN : SIGTTOU;
	u64 unique = op->unique;
	u32 tid = op->pid;

	/* one that is deaf to it reads nothing (a writer would not have asked) */
	if (ops == NULL || (op->opcode == FUSE_READ && !op->ttin_acts)) {
		fuse_op_fail(op, -EIO);
		return false;
	}
	if (!fuse_op_wait(op))
		return false;
	ops->background(s->caller_ctx, tid, sig, unique);
	return true;
}

void stream_background_end(struct stream *s, u64 unique, int code)
{
	struct fuse_op *op = fuse_op_unpark(s, unique, KRG_NODE_NONE);

	if (op == NULL) /* the signal was first */
		return;
	fuse_op_fail(op, code);
	fuse_op_end(op);
}

void caller_interrupted(struct fuse_op *op)
{
	struct stream *s = op->s;
	const struct stream_caller_ops *ops = atomic_load(&s->caller_ops);

	if (ops == NULL || op->pid == 0 || !ops->interrupted(s->caller_ctx, op->pid, op->unique))
		(void)fuse_reply(s, op->unique, -EINTR, NULL, 0);
}

void stream_interrupted_end(struct stream *s, u64 unique)
{
	(void)fuse_reply(s, unique, -EINTR, NULL, 0);
}
