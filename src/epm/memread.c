/* memread.c - reading a stopped or waiting task's memory, a page at a time, each page once. */
#include "epm_impl.h"
#include <sys/uio.h>

void memread_init(struct memread *m, pid_t tid)
{
	*m = (struct memread){.tid = tid};
}

void memread_fini(struct memread *m)
{
	for (unsigned i = 0; i < MEMREAD_PAGES; i++)
		free(m->slot[i].data);
}

int memread_now(pid_t tid, u64 at, void *p, size_t n)
{
	struct iovec to = {p, n};
	struct iovec from = {(void *)(uintptr_t)at, n};

	return process_vm_readv(tid, &to, 1, &from, 1, 0) == (ssize_t)n ? 0 : -EFAULT;
}

static int page_get(struct memread *m, u64 page, const u8 **ret)
{
	unsigned i = (unsigned)(page / 4096 % MEMREAD_PAGES);

	if (m->slot[i].data == NULL || m->slot[i].page != page) {
		u8 *data = m->slot[i].data != NULL ? m->slot[i].data : krg_xrealloc(NULL, 4096);
		struct iovec to = {data, 4096};
		struct iovec from = {(void *)(uintptr_t)page, 4096};

		m->slot[i].data = NULL;
		if (process_vm_readv(m->tid, &to, 1, &from, 1, 0) != 4096) {
			free(data);
			return -EFAULT;
		}
		m->slot[i].page = page;
		m->slot[i].data = data;
	}
	*ret = m->slot[i].data;
	return 0;
}

int memread_bytes(struct memread *m, u64 at, void *p, size_t n)
{
	u8 *to = p;

	while (n > 0) {
		u64 page = at & ~4095ull;
		size_t here = KRG_MIN(n, (size_t)(page + 4096 - at));
		const u8 *data;
		int r = page_get(m, page, &data);

		if (r < 0)
			return r;
		memcpy(to, data + (at - page), here);
		to += here;
		at += here;
		n -= here;
	}
	return 0;
}

int memread_str(struct memread *m, u64 at, struct krg_buf *b, size_t max)
{
	for (;;) {
		u64 page = at & ~4095ull;
		size_t here = (size_t)(page + 4096 - at);
		const u8 *data, *nul;
		int r = page_get(m, page, &data);

		if (r < 0)
			return r;
		nul = memchr(data + (at - page), 0, here);
		if (nul != NULL)
			here = (size_t)(nul - (data + (at - page))) + 1;
		if (b->len + here > max)
			return -E2BIG;
		krg_buf_put(b, data + (at - page), here);
		if (nul != NULL)
			return 0;
		at += here;
	}
}

int memread_strv(struct memread *m, u64 vector, struct krg_buf *b, size_t max, u32 *ret_count)
{
	u32 count = 0;

	for (; vector != 0; vector += 8, count++) {
		u64 at;
		int r = memread_bytes(m, vector, &at, sizeof(at));

		if (r < 0)
			return r;
		if (at == 0)
			break;
		r = memread_str(m, at, b, max);
		if (r < 0)
			return r;
	}
	*ret_count = count;
	return 0;
}

int memwrite(pid_t tid, u64 at, const void *p, size_t n)
{
	struct iovec from = {(void *)(uintptr_t)p, n};
	struct iovec to = {(void *)(uintptr_t)at, n};

	return process_vm_writev(tid, &from, 1, &to, 1, 0) == (ssize_t)n ? 0 : -EFAULT;
}
