#include "rec.h"

#define REC_HEADER 8u

size_t krg_rec_begin(struct krg_buf *b, u16 type, u16 flags)
{
	ASSERT(type != 0);
	krg_buf_put_u16(b, type);
	krg_buf_put_u16(b, flags);
	krg_buf_put_u32(b, 0);
	return b->len;
}

void krg_rec_end(struct krg_buf *b, size_t begin)
{
	size_t n = b->len - begin;

	ASSERT(begin >= REC_HEADER && n <= UINT32_MAX);
	for (unsigned i = 0; i < 4; i++)
		b->data[begin - 4 + i] = (u8)(n >> 8 * i);
}

int krg_rec_enter(struct krg_rd *r, u16 type, struct krg_rd *ret_in, u16 *ret_flags)
{
	u16 got = krg_rd_u16(r), flags = krg_rd_u16(r);
	u32 len = krg_rd_u32(r);
	struct krg_slice body = krg_rd_raw(r, len);

	if (got != type || (flags & ~REC_REQUIRED) != 0)
		r->bad = true;
	if (r->bad)
		return -EBADMSG;
	*ret_in = krg_rd_slice(body);
	*ret_flags = flags;
	return 0;
}

int krg_rec_leave(struct krg_rd *r, const struct krg_rd *in, u16 flags)
{
	if (in->bad || ((flags & REC_REQUIRED) != 0 && in->at != in->end))
		r->bad = true;
	return r->bad ? -EBADMSG : 0;
}

u16 krg_rec_peek(const struct krg_rd *r)
{
	struct krg_rd copy = *r;
	u16 type = krg_rd_u16(&copy);

	return krg_rd_ok(&copy) ? type : 0;
}
