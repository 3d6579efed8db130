/* kernetdev_shake.c - the handshake as a state machine: two that agree, each single changed bit,
 * replay, reflection; and the frame header. */
#include "kernetdev_frame.h"
#include "kernetdev_shake.h"
#include "tap.h"

static const u8 key[32] = {1, 2, 3}, other_key[32] = {1, 2, 4};

struct pair {
	struct kd_shake c, a; /* connector (node 1), acceptor (node 2) */
	struct krg_err err;
};

static void pair_make(struct pair *p, const u8 *ckey, const u8 *akey)
{
	memset(p, 0, sizeof(*p));
	p->c = (struct kd_shake){.kind = KD_SHAKE_LINK, .chan = 1, .peer = 2, .incarnation = 11};
	if (kd_shake_connector_start(&p->c, 1, "test", ckey, &p->err) < 0)
		abort();
	kd_shake_acceptor_init(&p->a, 2, "test", akey);
}

/* Gives all that from wants to say to to, in pieces, with bit flip (if >= 0) changed.  -EAGAIN: it
 * was changed so that it waits for more. */
static int pass(struct kd_shake *from, struct kd_shake *to, long flip, struct krg_err *err)
{
	size_t at = 0;
	int r = 0;

	if (flip >= 0)
		from->out[flip / 8] ^= (u8)(1 << flip % 8);
	while (r == 0 && at < from->out_len && kd_shake_want(to) > 0) {
		size_t n = KRG_MIN(from->out_len - at, kd_shake_want(to));

		n = KRG_MIN(n, (size_t)7);
		r = kd_shake_in(to, from->out + at, n, err);
		at += n;
	}
	if (r == 0 && kd_shake_want(to) > 0)
		r = -EAGAIN;
	from->out_len = 0;
	return r;
}

/* The whole handshake; the flip is made in message which (0 to 3).  0: both are done. */
static int pair_run(struct pair *p, int which, long flip)
{
	int r = pass(&p->c, &p->a, which == 0 ? flip : -1, &p->err);

	if (r == 0)
		r = kd_shake_challenge(&p->a, 22, 0, &p->err);
	if (r == 0)
		r = pass(&p->a, &p->c, which == 1 ? flip : -1, &p->err);
	if (r == 0) {
		kd_shake_proof(&p->c, 5);
		r = pass(&p->c, &p->a, which == 2 ? flip : -1, &p->err);
	}
	if (r == 0) {
		kd_shake_accept(&p->a, 6);
		r = pass(&p->a, &p->c, which == 3 ? flip : -1, &p->err);
	}
	return r;
}

static void test_good(void)
{
	struct pair p;

	pair_make(&p, key, key);
	tap_eq(pair_run(&p, -1, -1), 0, "two nodes with one key");
	tap_ok(p.c.state == KD_SHAKE_DONE && p.a.state == KD_SHAKE_DONE, "both are done");
	tap_ok(p.a.peer == 1 && p.a.chan == 1 && p.a.peer_incarnation == 11 &&
		       p.c.peer_incarnation == 22 && p.a.peer_received == 5 &&
		       p.c.peer_received == 6,
	       "and know about each other");
	pair_make(&p, key, other_key);
	tap_eq(pair_run(&p, -1, -1), -EACCES, "two keys: %s", p.err.text);
	tap_ok(p.c.state == KD_SHAKE_CHALLENGE,
	       "the connector, who is told first, gives nothing away");
}

static void test_bits(void)
{
	struct pair p;
	unsigned good = 0, n = 0;

	for (int which = 0; which < 4; which++) {
		for (long bit = 0;; bit++) {
			size_t len;

			pair_make(&p, key, key);
			/* how long is it? */
			if (which == 0)
				len = p.c.out_len;
			else
				len = which == 1 ? 8 + 8 + 2 + 8 + 8 + 36 + 36 : 8 + 8 + 8 + 36;
			if (bit >= (long)len * 8)
				break;
			n++;
			good += pair_run(&p, which, bit) == 0;
		}
	}
	/* the flag bits of the four records are not looked at, but are part of what is signed: of the
	 * bare PROOF and ACCEPT only fields are */
	tap_ok(good <= 2 * 15, "%u single bits changed, %u of them without a meaning", n, good);
}

static void test_replay(void)
{
	struct pair p, q;
	u8 hello[KD_SHAKE_FRAME], proof[KD_SHAKE_FRAME];
	size_t hello_len, proof_len;

	pair_make(&p, key, key);
	hello_len = p.c.out_len;
	memcpy(hello, p.c.out, hello_len);
	if (pass(&p.c, &p.a, -1, &p.err) < 0 || kd_shake_challenge(&p.a, 22, 0, &p.err) < 0 ||
	    pass(&p.a, &p.c, -1, &p.err) < 0)
		abort();
	kd_shake_proof(&p.c, 5);
	proof_len = p.c.out_len;
	memcpy(proof, p.c.out, proof_len);
	tap_eq(pass(&p.c, &p.a, -1, &p.err), 0, "a proof");

	pair_make(&q, key, key);
	memcpy(q.c.out, hello, hello_len);
	q.c.out_len = hello_len;
	if (pass(&q.c, &q.a, -1, &q.err) < 0 || kd_shake_challenge(&q.a, 22, 0, &q.err) < 0)
		abort();
	memcpy(q.c.out, proof, proof_len);
	q.c.out_len = proof_len;
	tap_eq(pass(&q.c, &q.a, -1, &q.err), -EACCES, "is good only once");
}

/* A stranger that has no key lets two handshakes of the same node answer each other. */
static void test_reflection(void)
{
	struct pair p;
	struct kd_shake a;

	pair_make(&p, key, key);
	kd_shake_acceptor_init(&a, 1, "test", key);
	tap_eq(pass(&p.c, &a, -1, &p.err), -EACCES, "a node does not talk to itself: %s",
	       p.err.text);
	kd_shake_refuse(&a, &p.err);
	tap_eq(pass(&a, &p.c, -1, &p.err), -EACCES, "and says why: %s", p.err.text);
	p.err.code = -EACCES;
	kd_shake_refuse(&p.c, &p.err);
	tap_eq(p.c.out_len, 0, "who was refused does not refuse back");
}

static void test_frame(void)
{
	struct kd_frame f = {.len = 7, .type = KD_FRAME_COUNTED, .seq = 1, .ack = 2, .credit = 3},
			g;
	u8 b[KERNETDEV_HEADER];

	kd_frame_pack(&f, b);
	tap_ok(kd_frame_unpack(b, &g) == 0 && g.len == 7 && g.type == f.type && g.seq == 1 &&
		       g.ack == 2 && g.credit == 3,
	       "a frame");
	b[5] = 1;
	tap_eq(kd_frame_unpack(b, &g), -EBADMSG, "bytes that must be zero");
	f.len = KERNETDEV_MSG_MAX + 1;
	kd_frame_pack(&f, b);
	tap_eq(kd_frame_unpack(b, &g), -EBADMSG, "too long");
	f = (struct kd_frame){.type = 9, .seq = 1};
	kd_frame_pack(&f, b);
	tap_eq(kd_frame_unpack(b, &g), -EBADMSG, "no such type");
	f = (struct kd_frame){.type = KD_FRAME_UNCOUNTED};
	kd_frame_pack(&f, b);
	tap_eq(kd_frame_unpack(b, &g), -EBADMSG, "a message without a number");
	f = (struct kd_frame){.type = KD_FRAME_ACK, .len = 1};
	kd_frame_pack(&f, b);
	tap_eq(kd_frame_unpack(b, &g), -EBADMSG, "an ack with a body");
}

int main(void)
{
	test_good();
	test_bits();
	test_replay();
	test_reflection();
	test_frame();
	return tap_done();
}
