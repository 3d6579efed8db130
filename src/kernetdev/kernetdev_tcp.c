/* The driver for TCP: one thread with epoll(7) is the I/O context. */
#include "clock.h"
#include "kernetdev_impl.h"
#include "kernetdev_tcp.h"
#include "log.h"
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>

#define EVENTS	     64
#define ACCEPT_BATCH 32
#define BLOCK_MS     5

struct tcp_pipe {
	int fd;			    /* (c) */
	struct tcp_net *net;	    /* (c) */
	struct kd_conn *conn;	    /* (i) NULL: not to be told of anything */
	struct tcp_pipe *dead_next; /* (i) freed after the events of this round */
};

struct tcp_net {
	struct kernetdev *kd;			    /* (c) */
	int listen_fd, epoll_fd, poke_fd, timer_fd; /* (c) */
	u64 timer_ns; /* (i) what the timer is set to; UINT64_MAX: not set */
	bool due;     /* (i) it has come */
	u16 port;     /* (c) */
	_Atomic bool stop;
	_Atomic bool poked;    /* (a) the eventfd is set */
	pthread_t thread;      /* (c) */
	struct tcp_pipe *dead; /* (i) */
	u64 accept_after_ns;   /* (i) out of descriptors: not before */
};

static _Thread_local struct tcp_net *io_of;

int kd_tcp_addr(const char *addr, u16 port, struct sockaddr_storage *ret, socklen_t *ret_len)
{
	struct sockaddr_in in4 = {.sin_family = AF_INET, .sin_port = htons(port)};
	struct sockaddr_in6 in6 = {.sin6_family = AF_INET6, .sin6_port = htons(port)};

	memset(ret, 0, sizeof(*ret));
	if (inet_pton(AF_INET, addr, &in4.sin_addr) == 1) {
		memcpy(ret, &in4, sizeof(in4));
		*ret_len = sizeof(in4);
		return 0;
	}
	if (inet_pton(AF_INET6, addr, &in6.sin6_addr) == 1) {
		memcpy(ret, &in6, sizeof(in6));
		*ret_len = sizeof(in6);
		return 0;
	}
	return -EINVAL;
}

void kd_tcp_setup(int fd)
{
	int one = 1;

	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	(void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
}

static int tcp_addr_check(const char *addr, u16 port)
{
	struct sockaddr_storage ss;
	socklen_t len;

	return port == 0 ? -EINVAL : kd_tcp_addr(addr, port, &ss, &len);
}

static int listener_make(const char *addr, u16 port, struct krg_err *err)
{
	KRG_AUTO_FD int fd = -EBADF;
	struct sockaddr_storage ss;
	socklen_t len;
	int one = 1;

	if (kd_tcp_addr(addr, port, &ss, &len) < 0)
		return krg_err_set(err, -EINVAL, "address '%s'", addr);
	fd = socket(ss.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return krg_err_set(err, -errno, "socket");
	(void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(fd, (struct sockaddr *)&ss, len) < 0 || listen(fd, 256) < 0)
		return krg_err_set(err, -errno, "listen on %s port %u", addr, port);
	return TAKE_FD(fd);
}

static u16 port_get(int fd)
{
	struct sockaddr_in6 a = {0}; /* an IPv4 one has its port in the same place */
	socklen_t len = sizeof(a);

	_Static_assert(offsetof(struct sockaddr_in, sin_port) ==
			       offsetof(struct sockaddr_in6, sin6_port),
		       "the port's place");
	return getsockname(fd, (struct sockaddr *)&a, &len) < 0 ? 0 : ntohs(a.sin6_port);
}

static void epoll_set(struct tcp_net *net, int op, int fd, u32 events, void *what)
{
	struct epoll_event ev = {.events = events, .data.ptr = what};

	if (epoll_ctl(net->epoll_fd, op, fd, &ev) < 0)
		ASSERT(errno == ENOMEM || errno == ENOSPC);
}

static void tcp_free(void *p)
{
	struct tcp_net *net = p;

	for (struct tcp_pipe *d; (d = net->dead) != NULL;) {
		net->dead = d->dead_next;
		free(d);
	}
	krg_closep(&net->listen_fd);
	krg_closep(&net->epoll_fd);
	krg_closep(&net->poke_fd);
	krg_closep(&net->timer_fd);
	free(net);
}

static int tcp_open(struct kernetdev *kd, void *driver_ctx, const char *addr, u16 port,
		    void **ret_net, struct krg_err *err)
{
	struct tcp_net *net = krg_xalloc(sizeof(*net));
	int fd = listener_make(addr, port, err);

	(void)driver_ctx;
	net->kd = kd;
	net->listen_fd = fd;
	net->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	net->poke_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	net->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	net->timer_ns = UINT64_MAX;
	if (fd >= 0 && (net->epoll_fd < 0 || net->poke_fd < 0 || net->timer_fd < 0))
		fd = krg_err_set(err, -EMFILE, "epoll");
	if (fd < 0) {
		tcp_free(net);
		return fd;
	}
	net->port = port_get(fd);
	epoll_set(net, EPOLL_CTL_ADD, net->listen_fd, EPOLLIN, &net->listen_fd);
	epoll_set(net, EPOLL_CTL_ADD, net->poke_fd, EPOLLIN, &net->poke_fd);
	epoll_set(net, EPOLL_CTL_ADD, net->timer_fd, EPOLLIN, &net->timer_fd);
	*ret_net = net;
	return 0;
}

static struct tcp_pipe *pipe_new(struct tcp_net *net, int fd, struct kd_conn *conn, u32 events)
{
	struct tcp_pipe *p = krg_xalloc(sizeof(*p));

	struct timeval block = {.tv_usec = BLOCK_MS * 1000};

	kd_tcp_setup(fd);
	/* Blocking, for read_wait(); everything else says MSG_DONTWAIT. */
	(void)fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK);
	(void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &block, sizeof(block));
	p->fd = fd;
	p->net = net;
	p->conn = conn;
	epoll_set(net, EPOLL_CTL_ADD, fd, events, p);
	return p;
}

static int tcp_connect(void *arg, const char *addr, u16 port, struct kd_conn *conn, void **ret_pipe)
{
	KRG_AUTO_FD int fd = -EBADF;
	struct tcp_net *net = arg;
	struct sockaddr_storage ss;
	socklen_t len;
	int r = kd_tcp_addr(addr, port, &ss, &len);

	if (r < 0)
		return r;
	fd = socket(ss.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	if (connect(fd, (struct sockaddr *)&ss, len) < 0 && errno != EINPROGRESS)
		return -errno;
	*ret_pipe = pipe_new(net, TAKE_FD(fd), conn, EPOLLOUT);
	return 0;
}

static void tcp_attach(void *arg, struct kd_conn *conn)
{
	struct tcp_pipe *p = arg;

	p->conn = conn;
}

static ssize_t tcp_write(void *arg, const struct iovec *iov, int n)
{
	struct tcp_pipe *p = arg;
	struct msghdr m = {.msg_iov = (struct iovec *)(uintptr_t)iov, .msg_iovlen = (size_t)n};
	ssize_t r;

	if (n == 0) { /* has connect() worked? */
		int e = 0;
		socklen_t len = sizeof(e);

		return getsockopt(p->fd, SOL_SOCKET, SO_ERROR, &e, &len) < 0 ? -errno : -e;
	}
	do
		r = sendmsg(p->fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
	while (r < 0 && errno == EINTR);
	return r < 0 ? -errno : r;
}

static ssize_t tcp_read(void *arg, void *to, size_t n)
{
	struct tcp_pipe *p = arg;
	ssize_t r;

	do
		r = recv(p->fd, to, n, MSG_DONTWAIT);
	while (r < 0 && errno == EINTR);
	return r < 0 ? -errno : r;
}

static void tcp_interest(void *arg, bool in, bool out)
{
	struct tcp_pipe *p = arg;

	epoll_set(p->net, EPOLL_CTL_MOD, p->fd, (in ? EPOLLIN : 0u) | (out ? EPOLLOUT : 0u), p);
}

static void tcp_shutdown(void *arg)
{
	struct tcp_pipe *p = arg;

	(void)shutdown(p->fd, SHUT_RDWR);
}

static void pipe_retire(struct tcp_pipe *p)
{
	p->conn = NULL;
	p->dead_next = p->net->dead;
	p->net->dead = p;
}

static void tcp_close(void *arg)
{
	struct tcp_pipe *p = arg;

	/* close() alone does not end its events while a caller reads it in another thread */
	epoll_set(p->net, EPOLL_CTL_DEL, p->fd, 0, p);
	(void)close(p->fd);
	pipe_retire(p);
}

static int tcp_detach(void *arg)
{
	struct tcp_pipe *p = arg;
	struct timeval none = {0};

	epoll_set(p->net, EPOLL_CTL_DEL, p->fd, 0, p);
	(void)setsockopt(p->fd, SOL_SOCKET, SO_RCVTIMEO, &none, sizeof(none));
	pipe_retire(p);
	return p->fd;
}

static ssize_t read_kickable(struct tcp_pipe *p, void *to, size_t n, int kick_fd, u64 deadline_ns)
{
	struct pollfd fds[2] = {{.fd = p->fd, .events = POLLIN}, {.fd = kick_fd, .events = POLLIN}};
	struct timespec ts, *timeout = NULL;
	u64 drain;

	if (deadline_ns != UINT64_MAX) {
		u64 now = krg_clock_now_ns();
		u64 left = deadline_ns > now ? deadline_ns - now : 0;

		ts = (struct timespec){(time_t)(left / KRG_NSEC), (long)(left % KRG_NSEC)};
		timeout = &ts;
	}
	if (ppoll(fds, 2, timeout, NULL) <= 0)
		return -EAGAIN;
	if (fds[1].revents != 0 && read(kick_fd, &drain, sizeof(drain)) < 0)
		return -EAGAIN;
	return tcp_read(p, to, n);
}

/* The usual wait is short, and one recv(2) is the cheapest way to wait: so that comes first, for
 * BLOCK_MS (SO_RCVTIMEO, set once), then poll(2) with everything that can end the wait. */
static ssize_t tcp_read_wait(void *arg, void *to, size_t n, int kick_fd, u64 deadline_ns)
{
	struct tcp_pipe *p = arg;

	if (deadline_ns == UINT64_MAX ||
	    krg_clock_now_ns() + 4 * BLOCK_MS * KRG_MSEC < deadline_ns) {
		ssize_t r = recv(p->fd, to, n, 0);

		if (r >= 0)
			return r;
		if (errno == EINTR)
			return -EAGAIN;
		if (errno != EAGAIN)
			return -errno;
	}
	return read_kickable(p, to, n, kick_fd, deadline_ns);
}

static void tcp_poke(void *arg)
{
	struct tcp_net *net = arg;
	u64 one = 1;

	if (io_of == net || atomic_exchange(&net->poked, true))
		return;
	if (write(net->poke_fd, &one, sizeof(one)) < 0)
		return; /* full: it is set */
}

static bool tcp_on_io(void *arg)
{
	return io_of == arg;
}

static void tcp_name_get(void *arg, char *name, size_t max)
{
	struct tcp_pipe *p = arg;
	struct sockaddr_storage ss = {0};
	socklen_t len = sizeof(ss);
	char text[INET6_ADDRSTRLEN] = "?";

	if (getpeername(p->fd, (struct sockaddr *)&ss, &len) == 0) {
		if (ss.ss_family == AF_INET)
			(void)inet_ntop(AF_INET, &((struct sockaddr_in *)(void *)&ss)->sin_addr,
					text, sizeof(text));
		else
			(void)inet_ntop(AF_INET6, &((struct sockaddr_in6 *)(void *)&ss)->sin6_addr,
					text, sizeof(text));
	}
	(void)snprintf(name, max, "%s", text);
}

static void accept_some(struct tcp_net *net)
{
	for (int i = 0; i < ACCEPT_BATCH; i++) {
		int fd = accept4(net->listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

		if (fd >= 0) {
			kd_on_accept(net->kd, pipe_new(net, fd, NULL, 0));
			continue;
		}
		if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
			LOG_E("kernetdev", "accept: %s", strerror(errno));
			epoll_set(net, EPOLL_CTL_MOD, net->listen_fd, 0, &net->listen_fd);
			net->accept_after_ns = krg_clock_now_ns() + 100 * KRG_MSEC;
		}
		return;
	}
}

static void handle(struct tcp_net *net, const struct epoll_event *ev)
{
	struct tcp_pipe *p = ev->data.ptr;
	u64 drain;

	if (ev->data.ptr == &net->listen_fd) {
		accept_some(net);
	} else if (ev->data.ptr == &net->poke_fd) {
		if (read(net->poke_fd, &drain, sizeof(drain)) > 0)
			atomic_store(&net->poked, false);
	} else if (ev->data.ptr == &net->timer_fd) {
		if (read(net->timer_fd, &drain, sizeof(drain)) > 0) {
			net->due = true;
			net->timer_ns = UINT64_MAX;
		}
	} else if (p->conn != NULL) {
		kd_on_event(p->conn, (ev->events & ~(u32)EPOLLOUT) != 0,
			    (ev->events & (EPOLLOUT | EPOLLERR | EPOLLHUP)) != 0);
	}
}

static u64 accept_again(struct tcp_net *net)
{
	if (net->accept_after_ns == 0)
		return UINT64_MAX;
	if (krg_clock_now_ns() < net->accept_after_ns)
		return net->accept_after_ns;
	net->accept_after_ns = 0;
	epoll_set(net, EPOLL_CTL_MOD, net->listen_fd, EPOLLIN, &net->listen_fd);
	return UINT64_MAX;
}

/* A timer that is set now and then costs less than a timeout for every wait. */
static void timer_set(struct tcp_net *net, u64 at)
{
	struct itimerspec t = {.it_value = {(time_t)(at / KRG_NSEC), (long)(at % KRG_NSEC)}};

	if (at == UINT64_MAX)
		t.it_value = (struct timespec){0};
	net->timer_ns = at;
	(void)timerfd_settime(net->timer_fd, TFD_TIMER_ABSTIME, &t, NULL);
}

static void io_round(struct tcp_net *net)
{
	struct epoll_event ev[EVENTS];
	bool due = net->due;
	u64 at;
	int n;

	net->due = false;
	at = kd_on_tick(net->kd, due);
	if (net->accept_after_ns != 0)
		at = KRG_MIN(at, accept_again(net));
	if (at == 0)
		net->due = true;
	else if (at < net->timer_ns) /* an earlier one than needed does no harm */
		timer_set(net, at);
	n = epoll_wait(net->epoll_fd, ev, EVENTS, at == 0 ? 0 : -1);
	for (int i = 0; i < n; i++)
		handle(net, &ev[i]);
	while (net->dead != NULL) {
		struct tcp_pipe *p = net->dead;

		net->dead = p->dead_next;
		free(p);
	}
}

static void *io_main(void *arg)
{
	struct tcp_net *net = arg;

	io_of = net;
	(void)pthread_setname_np(pthread_self(), "krg-link");
	while (!atomic_load(&net->stop))
		io_round(net);
	return NULL;
}

static int tcp_start(void *arg, struct krg_err *err)
{
	struct tcp_net *net = arg;
	int r = pthread_create(&net->thread, NULL, io_main, net);

	return r == 0 ? 0 : krg_err_set(err, -r, "thread");
}

static void tcp_stop(void *arg)
{
	struct tcp_net *net = arg;
	u64 one = 1;
	ssize_t r;

	atomic_store(&net->stop, true);
	r = write(net->poke_fd, &one, sizeof(one));
	(void)r;
	(void)pthread_join(net->thread, NULL);
	krg_closep(&net->listen_fd);
	net->listen_fd = -EBADF;
}

static u16 tcp_port(void *arg)
{
	struct tcp_net *net = arg;

	return net->port;
}

const struct kernetdev_driver kernetdev_tcp = {
	.name = "tcp",
	.open = tcp_open,
	.start = tcp_start,
	.stop = tcp_stop,
	.free = tcp_free,
	.port = tcp_port,
	.addr_check = tcp_addr_check,
	.connect = tcp_connect,
	.attach = tcp_attach,
	.write = tcp_write,
	.read = tcp_read,
	.interest = tcp_interest,
	.shutdown = tcp_shutdown,
	.close = tcp_close,
	.detach = tcp_detach,
	.read_wait = tcp_read_wait,
	.poke = tcp_poke,
	.on_io = tcp_on_io,
	.name_get = tcp_name_get,
};
