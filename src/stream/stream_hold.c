/* stream_hold.c - bytes that were sent and are not acknowledged. */
#include "stream_relay.h"
#include <fcntl.h>
#include <sys/ioctl.h>

void hold_init(struct hold *h)
{
	*h = (struct hold){.pipe = {-EBADF, -EBADF}, .null = -EBADF};
}

void hold_fini(struct hold *h)
{
	krg_buf_fini(&h->mem);
	free(h->pieces);
	krg_closep(&h->pipe[0]);
	krg_closep(&h->pipe[1]);
	krg_closep(&h->null);
	hold_init(h);
}

static void piece_add(struct hold *h, bool in_pipe, u64 len)
{
	struct hold_piece *last = h->nr > 0 ? &h->pieces[h->first + h->nr - 1] : NULL;

	if (last != NULL && last->in_pipe == in_pipe) {
		last->len += len;
		return;
	}
	ASSERT(h->room == 0 || h->pieces != NULL);
	if (h->first + h->nr == h->room && h->first > 0 && h->pieces != NULL) {
		memmove(h->pieces, h->pieces + h->first, h->nr * sizeof(*h->pieces));
		h->first = 0;
	}
	if (h->first + h->nr == h->room) {
		h->room = h->room == 0 ? 8 : h->room * 2;
		h->pieces = krg_xrealloc(h->pieces, h->room * sizeof(*h->pieces));
	}
	ASSERT(h->pieces != NULL);
	h->pieces[h->first + h->nr++] = (struct hold_piece){in_pipe, len};
}

size_t hold_mem_len(const struct hold *h)
{
	return h->mem.len - h->mem_first;
}

const u8 *hold_mem_tail(const struct hold *h, size_t n)
{
	ASSERT(n <= hold_mem_len(h));
	return h->mem.data + h->mem.len - n;
}

void hold_put(struct hold *h, const void *p, size_t n)
{
	if (h->mem_first > 0 && h->mem_first >= h->mem.len / 2) {
		memmove(h->mem.data, h->mem.data + h->mem_first, hold_mem_len(h));
		h->mem.len -= h->mem_first;
		h->mem_first = 0;
	}
	krg_buf_put(&h->mem, p, n);
	piece_add(h, false, n);
}

bool hold_can_tee(struct hold *h)
{
	int size;

	if (h->pipe[0] >= 0)
		return true;
	if (h->null == -ENOSYS)
		return false;
	h->null = open("/dev/null", O_WRONLY | O_CLOEXEC);
	if (h->null >= 0 && pipe2(h->pipe, O_NONBLOCK | O_CLOEXEC) == 0) {
		/* Smaller than two acknowledgements it would stand still. */
		size = fcntl(h->pipe[1], F_SETPIPE_SZ, RELAY_PIPE_SIZE);
		if (size >= RELAY_PIPE_SIZE)
			return true;
		krg_closep(&h->pipe[0]);
		krg_closep(&h->pipe[1]);
	}
	krg_closep(&h->null);
	h->pipe[0] = h->pipe[1] = -EBADF;
	h->null = -ENOSYS;
	return false;
}

ssize_t hold_tee(struct hold *h, int src, size_t max)
{
	ssize_t n = tee(src, h->pipe[1], max, SPLICE_F_NONBLOCK);

	if (n < 0)
		return -errno;
	if (n > 0)
		piece_add(h, true, (u64)n);
	return n;
}

static void drop_from_pipe(struct hold *h, u64 n)
{
	while (n > 0) {
		ssize_t k = splice(h->pipe[0], NULL, h->null, NULL, n, SPLICE_F_NONBLOCK);

		if (k < 0 && errno == EINTR)
			continue;
		ASSERT(k > 0); /* we put it there */
		n -= (u64)k;
	}
}

void hold_drop(struct hold *h, u64 n)
{
	while (n > 0) {
		struct hold_piece *p = &h->pieces[h->first];
		u64 k;

		ASSERT(h->nr > 0);
		k = KRG_MIN(n, p->len);
		if (p->in_pipe)
			drop_from_pipe(h, k);
		else
			h->mem_first += k;
		p->len -= k;
		n -= k;
		if (p->len == 0) {
			h->first++;
			h->nr--;
		}
	}
	if (h->nr == 0) {
		h->first = 0;
		krg_buf_reset(&h->mem);
		h->mem_first = 0;
	}
}

void hold_flatten(struct hold *h, u64 extra)
{
	struct krg_buf flat = {0};
	size_t at = h->mem_first;

	for (u32 i = h->first; i < h->first + h->nr; i++) {
		const struct hold_piece *p = &h->pieces[i];

		if (p->in_pipe) {
			u8 *to = krg_buf_grow(&flat, p->len);
			int r = krg_read_all(h->pipe[0], to, p->len);

			ASSERT(r == 0); /* we put it there */
		} else {
			krg_buf_put(&flat, h->mem.data + at, p->len);
			at += p->len;
		}
	}
	ASSERT(flat.len >= extra);
	flat.len -= extra;
	krg_buf_fini(&h->mem);
	h->mem = flat;
	h->mem_first = 0;
	h->first = h->nr = 0;
	if (flat.len > 0)
		piece_add(h, false, flat.len);
}
