/* Connections that are made by the thread that wants them: raw ones, and to find out who is there. */
#include "clock.h"
#include "kernetdev_impl.h"
#include "kernetdev_tcp.h"
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>

static int fd_wait(int fd, short events, u64 deadline_ns)
{
	struct pollfd p = {.fd = fd, .events = events};
	u64 now = krg_clock_now_ns();
	int n;

	if (now >= deadline_ns)
		return -ETIMEDOUT;
	n = poll(&p, 1, (int)KRG_MIN((deadline_ns - now) / KRG_MSEC + 1, (u64)60000));
	if (n < 0 && errno != EINTR)
		return -errno;
	return 0;
}

static int connect_wait(const char *addr, u16 port, u64 deadline_ns, int *ret_fd,
			struct krg_err *err)
{
	KRG_AUTO_FD int fd = -EBADF;
	struct sockaddr_storage ss;
	socklen_t len;
	int r, e = EINPROGRESS;

	if (port == 0 || kd_tcp_addr(addr, port, &ss, &len) < 0)
		return krg_err_set(err, -EINVAL, "address '%s' port %u", addr, port);
	fd = socket(ss.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return krg_err_set(err, -errno, "socket");
	r = connect(fd, (struct sockaddr *)&ss, len) < 0 ? -errno : 0;
	if (r == -EINPROGRESS) {
		struct pollfd p = {.fd = fd, .events = POLLOUT};

		do {
			r = fd_wait(fd, POLLOUT, deadline_ns);
		} while (r == 0 && poll(&p, 1, 0) == 0);
		len = sizeof(e);
		if (r == 0 && getsockopt(fd, SOL_SOCKET, SO_ERROR, &e, &len) == 0)
			r = -e;
	}
	if (r < 0)
		return krg_err_set(err, r, "connect to %s port %u", addr, port);
	kd_tcp_setup(fd);
	*ret_fd = TAKE_FD(fd);
	return 0;
}

static int out_send(int fd, struct kd_shake *s, u64 deadline_ns)
{
	size_t at = 0;
	int r = 0;

	while (r == 0 && at < s->out_len) {
		ssize_t n = send(fd, s->out + at, s->out_len - at, MSG_NOSIGNAL);

		if (n >= 0)
			at += (size_t)n;
		else if (errno == EAGAIN)
			r = fd_wait(fd, POLLOUT, deadline_ns);
		else if (errno != EINTR)
			r = -errno;
	}
	s->out_len = 0;
	return r;
}

static int in_recv(int fd, struct kd_shake *s, u64 deadline_ns, struct krg_err *err)
{
	u8 buf[KD_SHAKE_FRAME];
	ssize_t n = recv(fd, buf, KRG_MIN(kd_shake_want(s), sizeof(buf)), 0);
	int r;

	if (n > 0)
		return kd_shake_in(s, buf, (size_t)n, err);
	if (n == 0)
		return krg_err_set(err, -ECONNRESET, "closed in the handshake");
	if (errno != EAGAIN && errno != EINTR)
		return krg_err_set(err, -errno, "handshake");
	r = fd_wait(fd, POLLIN, deadline_ns);
	return r < 0 ? krg_err_set(err, r, "handshake") : 0;
}

static int shake_do(int fd, struct kernetdev *kd, struct kd_shake *s, u64 deadline_ns,
		    struct krg_err *err)
{
	int r = kd_shake_connector_start(s, kd->config.self, kd->config.cluster, kd->config.key,
					 err);

	while (r == 0 && s->state != KD_SHAKE_DONE) {
		if (s->state == KD_SHAKE_RESPOND)
			kd_shake_proof(s, 0);
		r = out_send(fd, s, deadline_ns);
		if (r < 0)
			return krg_err_set(err, r, "handshake");
		r = in_recv(fd, s, deadline_ns, err);
	}
	return r;
}

static int raw_connect(struct kernetdev *kd, const char *addr, u16 port, struct kd_shake *s,
		       u64 timeout_ms, int *ret_fd, struct krg_err *err)
{
	KRG_AUTO_FD int fd = -EBADF;
	u64 deadline = krg_clock_now_ns() + timeout_ms * KRG_MSEC;
	int r;

	if (kd->drv->detach == NULL)
		return krg_err_set(err, -EOPNOTSUPP, "driver %s", kd->drv->name);
	r = connect_wait(addr, port, deadline, &fd, err);
	if (r < 0)
		return r;
	r = shake_do(fd, kd, s, deadline, err);
	if (r < 0)
		return krg_err_prefix(err, r, "%s port %u", addr, port);
	(void)fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK);
	*ret_fd = TAKE_FD(fd);
	return 0;
}

int kernetdev_raw_connect(struct kernetdev *kd, nodeid peer, u16 op, u64 tag, u64 timeout_ms,
			  int *ret_fd, struct krg_err *err)
{
	struct kd_shake s = {.kind = KD_SHAKE_RAW, .op = op, .tag = tag, .peer = peer};
	struct kd_addr to;

	if (peer >= KRG_NODES_MAX)
		return krg_err_set(err, -EINVAL, "node %u", peer);
	links_lock(&kd->lock);
	to = kd->addr[peer];
	links_unlock(&kd->lock);
	if (!to.set)
		return krg_err_set(err, -EHOSTDOWN, "node %u has no address", peer);
	return raw_connect(kd, to.addr, to.port, &s, timeout_ms, ret_fd, err);
}

int kernetdev_probe(struct kernetdev *kd, const char *addr, u16 port, u64 tag, u64 timeout_ms,
		    nodeid *ret_node, struct krg_err *err)
{
	struct kd_shake s = {.kind = KD_SHAKE_PROBE, .tag = tag, .peer = KRG_NODE_NONE};
	KRG_AUTO_FD int fd = -EBADF;
	int r = raw_connect(kd, addr, port, &s, timeout_ms, &fd, err);

	if (r == 0)
		*ret_node = s.peer;
	return r;
}
