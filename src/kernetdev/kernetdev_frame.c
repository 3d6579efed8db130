#include "kernetdev_frame.h"

static void put(u8 *p, u64 v, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		p[i] = (u8)(v >> 8 * i);
}

static u64 get(const u8 *p, unsigned n)
{
	u64 v = 0;

	for (unsigned i = 0; i < n; i++)
		v |= (u64)p[i] << 8 * i;
	return v;
}

void kd_frame_pack(const struct kd_frame *f, u8 to[KERNETDEV_HEADER])
{
	put(to, f->len, 4);
	put(to + 4, f->type, 4);
	put(to + 8, f->seq, 8);
	put(to + 16, f->ack, 8);
	put(to + 24, f->credit, 8);
}

int kd_frame_unpack(const u8 from[KERNETDEV_HEADER], struct kd_frame *ret)
{
	struct kd_frame f = {.len = (u32)get(from, 4),
			     .type = from[4],
			     .seq = get(from + 8, 8),
			     .ack = get(from + 16, 8),
			     .credit = get(from + 24, 8)};

	if (from[5] != 0 || from[6] != 0 || from[7] != 0 || f.len > KERNETDEV_MSG_MAX)
		return -EBADMSG;
	if (f.type == KD_FRAME_ACK) {
		if (f.len != 0 || f.seq != 0)
			return -EBADMSG;
	} else if ((f.type != KD_FRAME_COUNTED && f.type != KD_FRAME_UNCOUNTED) || f.seq == 0) {
		return -EBADMSG;
	}
	*ret = f;
	return 0;
}
