/* buf.h - a growing byte buffer to write, and a bounded cursor to read.
 *
 * Integers are little-endian.  A cursor never reads past its end: the first failure sticks in
 * ->bad, later gets return zeroes, and the caller checks once.
 *
 * Errors     krg_buf_* cannot fail (memory or abort); a cursor's owner checks krg_rd_ok().
 * Ownership  krg_buf_fini() frees; KRG_AUTO_BUF does so at the end of the scope.  Slices point
 *            into the bytes that are read.
 * Threads    one struct, one thread at a time.
 */
#ifndef KRG_BASE_BUF_H
#define KRG_BASE_BUF_H
#include "base.h"

struct krg_buf {
	u8 *data;
	size_t len, room;
};
struct krg_slice {
	const u8 *data;
	size_t len;
};
struct krg_rd {
	const u8 *at, *end;
	bool bad;
};

void krg_buf_fini(struct krg_buf *b);
#define KRG_AUTO_BUF __attribute__((cleanup(krg_buf_fini)))
void krg_buf_reset(struct krg_buf *b); /* keeps the memory */
/* Room for n more bytes at the end; the caller fills them.  len grows by n. */
u8 *krg_buf_grow(struct krg_buf *b, size_t n);
void krg_buf_put(struct krg_buf *b, const void *p, size_t n);
void krg_buf_put_u8(struct krg_buf *b, u8 v);
void krg_buf_put_u16(struct krg_buf *b, u16 v);
void krg_buf_put_u32(struct krg_buf *b, u32 v);
void krg_buf_put_u64(struct krg_buf *b, u64 v);
/* u32 length, then the bytes */
void krg_buf_put_bytes(struct krg_buf *b, const void *p, size_t n);
void krg_buf_put_str(struct krg_buf *b, const char *s);
void krg_buf_printf(struct krg_buf *b, const char *fmt, ...) KRG_PRINTF(2, 3);
static inline struct krg_slice krg_buf_slice(const struct krg_buf *b)
{
	return (struct krg_slice){b->data, b->len};
}
static inline struct krg_slice krg_slice_str(const char *s)
{
	return (struct krg_slice){(const u8 *)s, strlen(s)};
}

struct krg_rd krg_rd_make(const void *p, size_t n);
struct krg_rd krg_rd_slice(struct krg_slice s);
bool krg_rd_ok(const struct krg_rd *r);
size_t krg_rd_left(const struct krg_rd *r);
u8 krg_rd_u8(struct krg_rd *r);
u16 krg_rd_u16(struct krg_rd *r);
u32 krg_rd_u32(struct krg_rd *r);
u64 krg_rd_u64(struct krg_rd *r);
/* n bytes, or an empty slice and ->bad */
struct krg_slice krg_rd_raw(struct krg_rd *r, size_t n);
/* u32 length, then the bytes; longer than max is bad */
struct krg_slice krg_rd_bytes(struct krg_rd *r, size_t max);
/* as krg_rd_bytes(), copied with a NUL; a NUL inside is bad */
void krg_rd_str(struct krg_rd *r, char *s, size_t room);
/* A slice as a new string (the caller frees); NULL if it holds a NUL. */
char *krg_slice_strdup(struct krg_slice s);
#endif
