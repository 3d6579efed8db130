/* run_relay.c - copy one way, without ever waiting.  Where we may not set O_NONBLOCK (the person's
 * descriptors are shared with others), writes follow poll(2) and stay small. */
#include "run.h"
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>

#define ROOM  65536
#define SMALL 4096 /* PIPE_BUF: what poll(2) promises of a pipe */

static bool is_socket(int fd)
{
	struct stat st;

	return fstat(fd, &st) == 0 && S_ISSOCK(st.st_mode);
}

void run_relay_init(struct run_relay *r, int from, int to)
{
	*r = (struct run_relay){.from = from,
				.to = to,
				.from_socket = is_socket(from),
				.to_socket = is_socket(to),
				.eof_byte = -1,
				.buf = krg_xalloc(ROOM)};
}

static void close_from(struct run_relay *r)
{
	if (r->own_from)
		krg_closep(&r->from);
	r->from = -EBADF;
}

static void close_to(struct run_relay *r)
{
	if (r->own_to)
		krg_closep(&r->to);
	r->to = -EBADF;
}

void run_relay_fini(struct run_relay *r)
{
	close_from(r);
	close_to(r);
	free(r->buf);
	r->buf = NULL;
}

bool run_relay_done(const struct run_relay *r)
{
	return r->to < 0 || (r->from < 0 && r->at == r->len);
}

void run_relay_poll(const struct run_relay *r, struct pollfd *from, struct pollfd *to)
{
	bool full = r->at < r->len;

	*from = (struct pollfd){.fd = !full && !r->hold && r->to >= 0 ? r->from : -1,
				.events = POLLIN};
	*to = (struct pollfd){.fd = full ? r->to : -1, .events = POLLOUT};
}

static void relay_read(struct run_relay *r)
{
	ssize_t n = r->from_socket ? recv(r->from, r->buf, ROOM, MSG_DONTWAIT)
				   : read(r->from, r->buf, ROOM);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	r->at = 0;
	r->len = n > 0 ? (size_t)n : 0;
	if (n > 0)
		return;
	close_from(r); /* the end, or an error, which is an end as well */
	if (r->eof_byte >= 0) {
		r->buf[0] = (char)r->eof_byte;
		r->len = 1;
	}
}

static void relay_write(struct run_relay *r)
{
	size_t left = r->len - r->at;
	ssize_t n = r->to_socket ? send(r->to, r->buf + r->at, left, MSG_DONTWAIT | MSG_NOSIGNAL)
				 : write(r->to, r->buf + r->at, KRG_MIN(left, (size_t)SMALL));

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n < 0) {
		r->at = r->len = 0;
		close_to(r); /* nobody reads: the writer shall see that as well */
		close_from(r);
		return;
	}
	r->at += (size_t)n;
}

void run_relay_step(struct run_relay *r, bool can_read, bool can_write)
{
	if (can_read && r->from >= 0 && r->at == r->len)
		relay_read(r);
	if (can_write && r->to >= 0 && r->at < r->len)
		relay_write(r);
	if (r->from < 0 && r->at == r->len && r->eof_byte < 0)
		close_to(r);
}
