#include "buf.h"
#include <stdarg.h>

void krg_buf_fini(struct krg_buf *b)
{
	free(b->data);
	*b = (struct krg_buf){0};
}

void krg_buf_reset(struct krg_buf *b)
{
	b->len = 0;
}

u8 *krg_buf_grow(struct krg_buf *b, size_t n)
{
	u8 *p;

	ASSERT(n <= SIZE_MAX / 4 - b->len);
	if (b->len + n > b->room || b->data == NULL) {
		b->room = KRG_MAX(b->len + n + 128, b->room * 2);
		b->data = krg_xrealloc(b->data, b->room);
	}
	p = b->data + b->len;
	b->len += n;
	return p;
}

void krg_buf_put(struct krg_buf *b, const void *p, size_t n)
{
	if (n > 0)
		memcpy(krg_buf_grow(b, n), p, n);
}

void krg_buf_put_u8(struct krg_buf *b, u8 v)
{
	*krg_buf_grow(b, 1) = v;
}

static void put_le(struct krg_buf *b, u64 v, unsigned n)
{
	u8 *p = krg_buf_grow(b, n);

	for (unsigned i = 0; i < n; i++)
		p[i] = (u8)(v >> 8 * i);
}

void krg_buf_put_u16(struct krg_buf *b, u16 v)
{
	put_le(b, v, 2);
}

void krg_buf_put_u32(struct krg_buf *b, u32 v)
{
	put_le(b, v, 4);
}

void krg_buf_put_u64(struct krg_buf *b, u64 v)
{
	put_le(b, v, 8);
}

void krg_buf_put_bytes(struct krg_buf *b, const void *p, size_t n)
{
	ASSERT(n <= UINT32_MAX);
	krg_buf_put_u32(b, (u32)n);
	krg_buf_put(b, p, n);
}

void krg_buf_put_str(struct krg_buf *b, const char *s)
{
	krg_buf_put_bytes(b, s, strlen(s));
}

void krg_buf_printf(struct krg_buf *b, const char *fmt, ...)
{
	char *s = NULL;
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vasprintf(&s, fmt, ap);
	va_end(ap);
	ASSERT(n >= 0);
	krg_buf_put(b, s, (size_t)n);
	free(s);
}

struct krg_rd krg_rd_make(const void *p, size_t n)
{
	const u8 *at = p != NULL ? p : (const u8 *)"";

	ASSERT(p != NULL || n == 0);
	return (struct krg_rd){.at = at, .end = at + n};
}

struct krg_rd krg_rd_slice(struct krg_slice s)
{
	return krg_rd_make(s.data, s.len);
}

bool krg_rd_ok(const struct krg_rd *r)
{
	return !r->bad;
}

size_t krg_rd_left(const struct krg_rd *r)
{
	return r->bad ? 0 : (size_t)(r->end - r->at);
}

struct krg_slice krg_rd_raw(struct krg_rd *r, size_t n)
{
	struct krg_slice s;

	if (r->bad || n > (size_t)(r->end - r->at)) {
		r->bad = true;
		return (struct krg_slice){(const u8 *)"", 0};
	}
	s = (struct krg_slice){r->at, n};
	r->at += n;
	return s;
}

static u64 get_le(struct krg_rd *r, unsigned n)
{
	struct krg_slice s = krg_rd_raw(r, n);
	u64 v = 0;

	for (unsigned i = 0; i < s.len; i++)
		v |= (u64)s.data[i] << 8 * i;
	return v;
}

u8 krg_rd_u8(struct krg_rd *r)
{
	return (u8)get_le(r, 1);
}

u16 krg_rd_u16(struct krg_rd *r)
{
	return (u16)get_le(r, 2);
}

u32 krg_rd_u32(struct krg_rd *r)
{
	return (u32)get_le(r, 4);
}

u64 krg_rd_u64(struct krg_rd *r)
{
	return get_le(r, 8);
}

struct krg_slice krg_rd_bytes(struct krg_rd *r, size_t max)
{
	u32 n = krg_rd_u32(r);

	if (n > max)
		r->bad = true;
	return krg_rd_raw(r, n);
}

void krg_rd_str(struct krg_rd *r, char *s, size_t room)
{
	struct krg_slice b;

	ASSERT(room > 0);
	b = krg_rd_bytes(r, room - 1);
	if (memchr(b.data, 0, b.len) != NULL) {
		r->bad = true;
		b.len = 0;
	}
	memcpy(s, b.data, b.len);
	s[b.len] = '\0';
}

char *krg_slice_strdup(struct krg_slice s)
{
	const u8 *data = s.data != NULL ? s.data : (const u8 *)"";
	char *p;

	ASSERT(s.data != NULL || s.len == 0);
	if (memchr(data, 0, s.len) != NULL)
		return NULL;
	p = krg_xalloc(s.len + 1);
	memcpy(p, data, s.len);
	return p;
}
