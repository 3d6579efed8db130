/* gate_sock.c - calls on a standard descriptor that is a stand-in of a socket (an end of a socketpair(2)): the kernel
 * here takes it for a file, and would say ENOTSOCK.  read, write and poll do not come here.
 *
 * What has to wait does so in poll(2) of the stand-in, a moment at a time: a notified call is not left for a signal, so
 * it is looked for one in between.
 */
#include "epm_impl.h"
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>

#define SOCK_LOOK_MS 20
#define SOCK_IOV_MAX 1024
#define SOCK_CHUNK   (64u << 10)

/* One recv or send, of any of the calls. */
struct sock_io {
	struct gate_call *c;
	int fd; /* krgd's duplicate */
	int flags;
	struct iovec *iov;
	unsigned niov;
	size_t total, done;
};

static int peek_int(struct gate_call *c, u64 at, int *ret)
{
	return memread_now((pid_t)c->req.pid, at, ret, sizeof(*ret));
}

/* As the kernel gives a value of n bytes to a caller with room for *at_len. */
static int give(struct gate_call *c, u64 at, u64 at_len, const void *p, int n, bool whole_len)
{
	int room, r = peek_int(c, at_len, &room);

	if (r < 0)
		return -EFAULT;
	if (room < 0)
		return -EINVAL;
	if (memwrite((pid_t)c->req.pid, at, p, (size_t)KRG_MIN(room, n)) < 0)
		return -EFAULT;
	if (!whole_len)
		n = KRG_MIN(room, n);
	return memwrite((pid_t)c->req.pid, at_len, &n, sizeof(n)) < 0 ? -EFAULT : 0;
}

static int get_option(struct gate_call *c, int fd)
{
	const __u64 *arg = c->req.data.args;
	u8 none[sizeof(struct timeval)] = {0};
	i64 r;
	int value;

	if ((int)arg[1] != SOL_SOCKET)
		return -EOPNOTSUPP;
	if ((int)arg[2] == SO_RCVTIMEO || (int)arg[2] == SO_SNDTIMEO) /* else it had not moved */
		return give(c, arg[3], arg[4], none, sizeof(struct timeval), false);
	if ((int)arg[2] == SO_LINGER)
		return give(c, arg[3], arg[4], none, sizeof(struct linger), false);
	r = stream_socket(c->e->stream, fd, STREAM_GETSOCKOPT, (int)arg[2], 0);
	if (r < 0)
		return (int)r;
	value = (int)r;
	return give(c, arg[3], arg[4], &value, sizeof(value), false);
}

static int set_option(struct gate_call *c, int fd)
{
	const __u64 *arg = c->req.data.args;
	int value;

	if ((int)arg[1] != SOL_SOCKET)
		return -EOPNOTSUPP;
	if ((int)arg[4] < (int)sizeof(value))
		return -EINVAL;
	if (peek_int(c, arg[3], &value) < 0)
		return -EFAULT;
	return (int)stream_socket(c->e->stream, fd, STREAM_SETSOCKOPT, (int)arg[2], value);
}

/* ---- send and receive ---- */

/* A signal that the caller would leave its call for: what the call returns, else 0. */
static int signal_waits(struct gate_call *c)
{
	PROC_AUTO struct proc_info p = {0};

	if (proc_read((pid_t)c->req.pid, &p) < 0)
		return -ESRCH;
	if ((p.sig_pending & ~p.sig_blocked & ~p.sig_ignored) == 0)
		return 0;
	/* Of several threads another may take it: the kernel would then not know what a restart means. */
	return p.threads > 1 ? -EINTR : -512 /* ERESTARTSYS */;
}

/* 0: try again. */
static int wait_for(struct sock_io *io, short events)
{
	struct pollfd p = {.fd = io->fd, .events = events};
	struct epm *e = io->c->e;
	int r = 0;

	if ((io->flags & MSG_DONTWAIT) != 0)
		return -EAGAIN;
	r = stream_fcntl(e->stream, io->fd, F_GETFL, 0, 0);
	if (r < 0 || (r & O_NONBLOCK) != 0)
		return r < 0 ? r : -EAGAIN;
	if (atomic_fetch_add(&e->nsockwaits, 1) >= EPM_SOCK_WAITS) {
		r = -ENOBUFS;
	} else {
		do
			r = poll(&p, 1, SOCK_LOOK_MS) != 0 ? 1
			    : !gate_call_valid(io->c)	   ? -ESRCH
							   : signal_waits(io->c);
		while (r == 0);
	}
	atomic_fetch_sub(&e->nsockwaits, 1);
	return r > 0 ? 0 : r;
}

/* n bytes of the caller's buffers from io->done on, to or from p. */
static int copy_now(const struct sock_io *io, u8 *p, size_t n, bool to_caller)
{
	pid_t tid = (pid_t)io->c->req.pid;
	size_t skip = io->done;

	for (unsigned i = 0; i < io->niov && n > 0; i++) {
		size_t len = io->iov[i].iov_len, here;
		u64 at = (u64)(uintptr_t)io->iov[i].iov_base + skip;

		if (skip >= len) {
			skip -= len;
			continue;
		}
		here = KRG_MIN(len - skip, n);
		if ((to_caller ? memwrite(tid, at, p, here) : memread_now(tid, at, p, here)) < 0)
			return -EFAULT;
		p += here;
		n -= here;
		skip = 0;
	}
	return 0;
}

static i64 receive(struct sock_io *io)
{
	KRG_AUTO_FREE u8 *buf = krg_xalloc(SOCK_CHUNK);
	bool peek = (io->flags & MSG_PEEK) != 0;
	i64 r = 0;

	while (io->done < io->total) {
		size_t n = KRG_MIN(io->total - io->done, (size_t)SOCK_CHUNK);

		r = stream_recv(io->c->e->stream, io->fd, buf, (u32)n, peek);
		if (r == -EAGAIN) {
			r = wait_for(io, POLLIN);
			if (r < 0)
				break;
			continue;
		}
		if (r > 0 && copy_now(io, buf, (size_t)r, true) < 0)
			r = -EFAULT;
		if (r <= 0)
			break;
		io->done += (size_t)r;
		if (peek || (io->flags & MSG_WAITALL) == 0)
			break;
	}
	return io->done > 0 ? (i64)io->done : r;
}

static i64 send_all(struct sock_io *io)
{
	KRG_AUTO_FREE u8 *buf = krg_xalloc(SOCK_CHUNK);
	i64 r = 0;

	while (io->done < io->total) {
		size_t n = KRG_MIN(io->total - io->done, (size_t)SOCK_CHUNK);

		r = copy_now(io, buf, n, false);
		if (r == 0)
			r = stream_send(io->c->e->stream, io->fd, buf, (u32)n);
		if (r == -EAGAIN) {
			r = wait_for(io, POLLOUT);
			if (r == 0)
				continue;
		}
		if (r < 0)
			break;
		io->done += (size_t)r;
	}
	if (r == -EPIPE && io->done == 0 && (io->flags & MSG_NOSIGNAL) == 0)
		(void)syscall(SYS_tkill, (pid_t)io->c->req.pid, SIGPIPE);
	return io->done > 0 ? (i64)io->done : r;
}

static int flags_known(int flags, bool receives)
{
	const int common = MSG_DONTWAIT | MSG_NOSIGNAL;
	int known = receives ? common | MSG_PEEK | MSG_WAITALL | MSG_CMSG_CLOEXEC
			     : common | MSG_MORE | MSG_EOR;

	return (flags & ~known) == 0 ? 0 : -EOPNOTSUPP;
}

static int iov_add(struct sock_io *io)
{
	for (unsigned i = 0; i < io->niov; i++) {
		if (io->iov[i].iov_len > (size_t)INT32_MAX - io->total)
			return -EINVAL;
		io->total += io->iov[i].iov_len;
	}
	return 0;
}

/* recvfrom, sendto: the peer has no name, and a connected socket takes none. */
static i64 io_plain(struct sock_io *io, bool receives)
{
	const __u64 *arg = io->c->req.data.args;
	struct iovec iov = {.iov_base = (void *)(uintptr_t)arg[1], .iov_len = arg[2]};
	int none = 0;
	i64 r;

	io->flags = (int)arg[3];
	io->iov = &iov;
	io->niov = 1;
	r = flags_known(io->flags, receives);
	if (r == 0 && !receives && arg[4] != 0 && arg[5] != 0)
		r = -EISCONN;
	if (r == 0)
		r = iov_add(io);
	if (r == 0)
		r = receives ? receive(io) : send_all(io);
	if (r >= 0 && receives && arg[4] != 0 && arg[5] != 0 &&
	    memwrite((pid_t)io->c->req.pid, arg[5], &none, sizeof(none)) < 0)
		r = -EFAULT;
	io->iov = NULL;
	io->niov = 0;
	return r;
}

/* recvmsg, sendmsg.  Descriptors and credentials do not cross nodes. */
static i64 io_message(struct sock_io *io, bool receives)
{
	const __u64 *arg = io->c->req.data.args;
	pid_t tid = (pid_t)io->c->req.pid;
	KRG_AUTO_FREE struct iovec *iov = NULL;
	struct msghdr m;
	i64 r;

	io->flags = (int)arg[2];
	if (memread_now(tid, arg[1], &m, sizeof(m)) < 0)
		return -EFAULT;
	r = flags_known(io->flags, receives);
	if (r == 0 && m.msg_iovlen > SOCK_IOV_MAX)
		r = -EMSGSIZE;
	if (r == 0 && !receives && (m.msg_namelen > 0 || m.msg_controllen > 0))
		r = m.msg_namelen > 0 ? -EISCONN : -EOPNOTSUPP;
	if (r < 0)
		return r;
	iov = krg_xalloc((m.msg_iovlen + 1) * sizeof(*iov));
	if (m.msg_iovlen > 0 &&
	    memread_now(tid, (u64)(uintptr_t)m.msg_iov, iov, m.msg_iovlen * sizeof(*iov)) < 0)
		return -EFAULT;
	io->iov = iov;
	io->niov = (unsigned)m.msg_iovlen;
	r = iov_add(io);
	if (r == 0)
		r = receives ? receive(io) : send_all(io);
	m.msg_namelen = 0;
	m.msg_controllen = 0;
	m.msg_flags = 0;
	if (r >= 0 && receives && memwrite(tid, arg[1], &m, sizeof(m)) < 0)
		r = -EFAULT;
	return r;
}

static i64 sock_call(struct gate_call *c, int fd)
{
	const __u64 *arg = c->req.data.args;
	struct sock_io io = {.c = c, .fd = fd};
	const sa_family_t unnamed = AF_UNIX;

	switch (c->req.data.nr) {
	case SYS_getsockname:
	case SYS_getpeername:
		return give(c, arg[1], arg[2], &unnamed, sizeof(unnamed), true);
	case SYS_getsockopt:
		return get_option(c, fd);
	case SYS_setsockopt:
		return set_option(c, fd);
	case SYS_shutdown:
		return stream_socket(c->e->stream, fd, STREAM_SHUTDOWN, (int)arg[1], 0);
	case SYS_recvfrom:
	case SYS_sendto:
		return io_plain(&io, c->req.data.nr == SYS_recvfrom);
	default:
		return io_message(&io, c->req.data.nr == SYS_recvmsg);
	}
}

void gate_handle_socket(struct gate_call *c)
{
	KRG_AUTO_FD int fd = -EBADF;
	struct rec_stream_ref ref;

	gate_continue(c);
	if (!stream_has_standins(c->e->stream))
		return;
	fd = gate_fd_of_caller(c, (int)c->req.data.args[0]);
	if (fd < 0 || stream_standin_ref(c->e->stream, fd, &ref) < 0 || !S_ISSOCK(ref.mode))
		return; /* the kernel's own, or not a socket */
	gate_return(c, sock_call(c, fd));
}
