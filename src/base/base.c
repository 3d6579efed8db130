#include "base.h"
#include <fcntl.h>
#include <stdarg.h>
#include <sys/socket.h>

_Noreturn void krg_panic(const char *file, int line, const char *what)
{
	(void)fprintf(stderr, "PANIC %s:%d: %s\n", file, line, what);
	abort();
}

void *krg_xalloc(size_t size)
{
	void *p = calloc(1, size != 0 ? size : 1);

	ASSERT(p != NULL);
	return p;
}

void *krg_xrealloc(void *p, size_t size)
{
	p = realloc(p, size != 0 ? size : 1);
	ASSERT(p != NULL);
	return p;
}

char *krg_xstrdup(const char *s)
{
	char *p = strdup(s);

	ASSERT(p != NULL);
	return p;
}

char *krg_xasprintf(const char *fmt, ...)
{
	char *p = NULL;
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vasprintf(&p, fmt, ap);
	va_end(ap);
	ASSERT(n >= 0);
	return p;
}

/* Bytes of the UTF-8 character at s (RFC 3629), or 0: there is none. */
static unsigned utf8_len(const u8 *s)
{
	unsigned n = s[0] < 0x80 ? 1 : s[0] < 0xc2 ? 0 : s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : 4;

	if (s[0] > 0xf4)
		return 0;
	for (unsigned i = 1; i < n; i++)
		if ((s[i] & 0xc0) != 0x80)
			return 0;
	if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f) ||
	    (s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] > 0x8f))
		return 0; /* too long a form, a surrogate, past the last character */
	return n;
}

void krg_one_line(char *text)
{
	u8 *s = (u8 *)text;

	while (*s != '\0') {
		unsigned n = utf8_len(s);

		if (n == 0 || *s < 0x20 || *s == 0x7f) {
			*s = '?';
			n = 1;
		}
		s += n;
	}
}

int krg_read_all(int fd, void *p, size_t n)
{
	u8 *at = p;

	while (n > 0) {
		ssize_t r = read(fd, at, n);

		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0)
			return -errno;
		if (r == 0)
			return -EPIPE;
		at += r;
		n -= (size_t)r;
	}
	return 0;
}

int krg_write_all(int fd, const void *p, size_t n)
{
	const u8 *at = p;

	while (n > 0) {
		ssize_t r = write(fd, at, n);

		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0)
			return -errno;
		at += r;
		n -= (size_t)r;
	}
	return 0;
}

int krg_read_file(const char *path, char *buf, size_t max)
{
	KRG_AUTO_FD int fd = open(path, O_RDONLY | O_CLOEXEC);
	size_t n = 0;

	ASSERT(max > 0);
	if (fd < 0)
		return -errno;
	while (n < max - 1) {
		ssize_t r = read(fd, buf + n, max - 1 - n);

		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0)
			return -errno;
		if (r == 0)
			break;
		n += (size_t)r;
	}
	buf[n] = '\0';
	return (int)n;
}

int krg_write_file(const char *path, const char *text)
{
	KRG_AUTO_FD int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	return krg_write_all(fd, text, strlen(text));
}

ssize_t krg_send_fds(int sock, const void *p, size_t n, const int *fds, unsigned nfds)
{
	union {
		char buf[CMSG_SPACE(sizeof(int) * KRG_FDS_MAX)];
		struct cmsghdr align;
	} u;
	struct iovec iov = {.iov_base = (void *)(uintptr_t)p, .iov_len = n};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
	ssize_t r;

	ASSERT(nfds <= KRG_FDS_MAX);
	if (nfds > 0) {
		struct cmsghdr *c;

		memset(&u, 0, CMSG_SPACE(sizeof(int) * nfds));
		msg.msg_control = u.buf;
		msg.msg_controllen = CMSG_SPACE(sizeof(int) * nfds);
		c = CMSG_FIRSTHDR(&msg);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int) * nfds);
		memcpy(CMSG_DATA(c), fds, sizeof(int) * nfds);
	}
	do
		r = sendmsg(sock, &msg, MSG_NOSIGNAL);
	while (r < 0 && errno == EINTR);
	return r < 0 ? -errno : r;
}

ssize_t krg_recv_fds(int sock, void *p, size_t n, int *fds, unsigned *ret_nfds)
{
	union {
		char buf[CMSG_SPACE(sizeof(int) * KRG_FDS_MAX)];
		struct cmsghdr align;
	} u;
	struct iovec iov = {.iov_base = p, .iov_len = n};
	struct msghdr msg = {.msg_iov = &iov,
			     .msg_iovlen = 1,
			     .msg_control = u.buf,
			     .msg_controllen = sizeof(u.buf)};
	unsigned room = *ret_nfds, got = 0;
	ssize_t r;

	do
		r = recvmsg(sock, &msg, MSG_CMSG_CLOEXEC);
	while (r < 0 && errno == EINTR);
	if (r < 0)
		return -errno;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&msg); c != NULL; c = CMSG_NXTHDR(&msg, c)) {
		unsigned here;

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		here = (unsigned)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
		for (unsigned i = 0; i < here; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(c) + sizeof(int) * i, sizeof(int));
			if (got < room)
				fds[got++] = fd;
			else
				(void)close(fd);
		}
	}
	*ret_nfds = got;
	return r;
}
