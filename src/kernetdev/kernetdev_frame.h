/* kernetdev_frame.h - the header before each message of a link.
 *
 * u32 length of what follows the header, u8 type, u8[3] zero, u64 seq, u64 ack, u64 credit.
 *
 * Errors   -EBADMSG: no such type, bytes that must be zero, too long.
 * Threads  stateless.
 */
#ifndef KRG_KERNETDEV_FRAME_H
#define KRG_KERNETDEV_FRAME_H
#include "kernetdev.h"

enum kd_frame_type {
	KD_FRAME_COUNTED = 1,	/* a message that takes room in the window */
	KD_FRAME_UNCOUNTED = 2, /* an answer and the like */
	KD_FRAME_ACK = 3,	/* nothing but ack and credit */
};

struct kd_frame {
	u32 len;
	u8 type;
	u64 seq;    /* of this message, from 1 in a session; 0 in an ACK */
	u64 ack;    /* the last message that the sender of this frame has received */
	u64 credit; /* bytes (with KERNETDEV_COST each) that it has consumed in this session */
};

void kd_frame_pack(const struct kd_frame *f, u8 to[KERNETDEV_HEADER]);
int kd_frame_unpack(const u8 from[KERNETDEV_HEADER], struct kd_frame *ret) KRG_MUST_CHECK;
#endif
