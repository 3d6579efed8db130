/* rec.h - typed records: one description gives struct, encode, decode, bounds checks.
 *
 *	#define REC_LOAD(F) F(u32, running) F(u64, memory) F(str, name, 64) F(bytes, blob, 4096)
 *	KRG_RECORD(load, 3, REC_LOAD)     // struct rec_load; type number 3
 *
 *	rec_load_encode(&load, &buf);
 *	r = rec_load_decode(&rd, &load);  // 0 or -EBADMSG
 *
 * On the wire: u16 type, u16 flags, u32 length of what follows, then the fields in order.
 * A longer record than known is accepted (what was added at the end is skipped) unless its flag
 * REC_REQUIRED says that skipping it is wrong; a shorter one or another type is refused.
 *
 * Fields     u8 u16 u32 u64 i32 i64; str: at most max bytes, no NUL inside; bytes: at most max.
 *            str and bytes are struct krg_slice.
 * Ownership  decoded slices point into the bytes read and live as long as those.
 * Errors     -EBADMSG, and the cursor is bad.
 */
#ifndef KRG_BASE_REC_H
#define KRG_BASE_REC_H
#include "buf.h"

#define REC_REQUIRED 1u /* flags: a reader that does not know all fields must refuse */

/* encode: where the length stands, to be filled in by end */
size_t krg_rec_begin(struct krg_buf *b, u16 type, u16 flags);
void krg_rec_end(struct krg_buf *b, size_t begin);
/* decode: a cursor over the record's fields; the outer one is moved behind it */
int krg_rec_enter(struct krg_rd *r, u16 type, struct krg_rd *ret_in, u16 *ret_flags);
int krg_rec_leave(struct krg_rd *r, const struct krg_rd *in, u16 flags);
/* The type of the record that comes next; 0 at the end or when it is broken. */
u16 krg_rec_peek(const struct krg_rd *r);

#define KRG_REC_T_u8(n, ...)	u8 n;
#define KRG_REC_T_u16(n, ...)	u16 n;
#define KRG_REC_T_u32(n, ...)	u32 n;
#define KRG_REC_T_u64(n, ...)	u64 n;
#define KRG_REC_T_i32(n, ...)	i32 n;
#define KRG_REC_T_i64(n, ...)	i64 n;
#define KRG_REC_T_str(n, max)	struct krg_slice n;
#define KRG_REC_T_bytes(n, max) struct krg_slice n;

#define KRG_REC_E_u8(n, ...)  krg_buf_put_u8(b_, v_->n);
#define KRG_REC_E_u16(n, ...) krg_buf_put_u16(b_, v_->n);
#define KRG_REC_E_u32(n, ...) krg_buf_put_u32(b_, v_->n);
#define KRG_REC_E_u64(n, ...) krg_buf_put_u64(b_, v_->n);
#define KRG_REC_E_i32(n, ...) krg_buf_put_u32(b_, (u32)v_->n);
#define KRG_REC_E_i64(n, ...) krg_buf_put_u64(b_, (u64)v_->n);
#define KRG_REC_E_str(n, max)                                                                      \
	ASSERT(v_->n.len <= (max));                                                                \
	krg_buf_put_bytes(b_, v_->n.data, v_->n.len);
#define KRG_REC_E_bytes(n, max) KRG_REC_E_str(n, max)

#define KRG_REC_D_u8(n, ...)  t_.n = krg_rd_u8(&in_);
#define KRG_REC_D_u16(n, ...) t_.n = krg_rd_u16(&in_);
#define KRG_REC_D_u32(n, ...) t_.n = krg_rd_u32(&in_);
#define KRG_REC_D_u64(n, ...) t_.n = krg_rd_u64(&in_);
#define KRG_REC_D_i32(n, ...) t_.n = (i32)krg_rd_u32(&in_);
#define KRG_REC_D_i64(n, ...) t_.n = (i64)krg_rd_u64(&in_);
#define KRG_REC_D_str(n, max)                                                                      \
	t_.n = krg_rd_bytes(&in_, (max));                                                          \
	if (memchr(t_.n.data, 0, t_.n.len) != NULL)                                                \
		in_.bad = true;
#define KRG_REC_D_bytes(n, max) t_.n = krg_rd_bytes(&in_, (max));

#define KRG_REC_FIELD_T(type, ...) KRG_REC_T_##type(__VA_ARGS__)
#define KRG_REC_FIELD_E(type, ...) KRG_REC_E_##type(__VA_ARGS__)
#define KRG_REC_FIELD_D(type, ...) KRG_REC_D_##type(__VA_ARGS__)

#define KRG_RECORD(name, number, FIELDS)                                                           \
	enum { REC_TYPE_##name = (number) };                                                       \
	struct rec_##name {                                                                        \
		FIELDS(KRG_REC_FIELD_T)                                                            \
	};                                                                                         \
	KRG_UNUSED static inline void rec_##name##_encode(const struct rec_##name *v_,             \
							  struct krg_buf *b_)                      \
	{                                                                                          \
		size_t at_ = krg_rec_begin(b_, (number), 0);                                       \
		FIELDS(KRG_REC_FIELD_E)                                                            \
		krg_rec_end(b_, at_);                                                              \
	}                                                                                          \
	KRG_UNUSED KRG_MUST_CHECK static inline int rec_##name##_decode(struct krg_rd *r_,         \
									struct rec_##name *v_)     \
	{                                                                                          \
		struct rec_##name t_ = {0};                                                        \
		struct krg_rd in_;                                                                 \
		u16 flags_;                                                                        \
		int e_ = krg_rec_enter(r_, (number), &in_, &flags_);                               \
		if (e_ < 0)                                                                        \
			return e_;                                                                 \
		FIELDS(KRG_REC_FIELD_D)                                                            \
		e_ = krg_rec_leave(r_, &in_, flags_);                                              \
		if (e_ < 0)                                                                        \
			return e_;                                                                 \
		*v_ = t_;                                                                          \
		return 0;                                                                          \
	}
#endif
