#include "kernetdev_shake.h"
#include "rng.h"
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>

static const struct {
	bool waits; /* for bytes of the peer */
	u32 next;   /* states it may go to */
} states[] = {
#define B(s) (1u << KD_SHAKE_##s)
	[KD_SHAKE_HELLO] = {true, B(IDENTIFY) | B(REFUSED)},
	[KD_SHAKE_IDENTIFY] = {false, B(PROOF) | B(REFUSED)},
	[KD_SHAKE_PROOF] = {true, B(DECIDE) | B(REFUSED)},
	[KD_SHAKE_DECIDE] = {false, B(DONE) | B(REFUSED)},
	[KD_SHAKE_CHALLENGE] = {true, B(RESPOND) | B(REFUSED)},
	[KD_SHAKE_RESPOND] = {false, B(ACCEPT) | B(REFUSED)},
	[KD_SHAKE_ACCEPT] = {true, B(DONE) | B(REFUSED)},
	[KD_SHAKE_DONE] = {false, B(REFUSED)},
	[KD_SHAKE_REFUSED] = {false, B(REFUSED)},
#undef B
};
_Static_assert(KRG_NELEM(states) == KD_SHAKE_STATE_NR, "a row for each state");

static void move(struct kd_shake *s, enum kd_shake_state to)
{
	ASSERT(states[s->state].next >> to & 1);
	s->state = to;
}

static void say(struct kd_shake *s, const struct krg_buf *body)
{
	u8 *p = s->out + s->out_len;

	ASSERT(s->out_len + KD_SHAKE_HEADER + body->len <= sizeof(s->out));
	p[0] = KD_SHAKE_MAGIC & 0xff;
	p[1] = KD_SHAKE_MAGIC >> 8 & 0xff;
	p[2] = KD_SHAKE_MAGIC >> 16 & 0xff;
	p[3] = KD_SHAKE_MAGIC >> 24 & 0xff;
	p[4] = KD_SHAKE_VERSION;
	p[5] = 0;
	p[6] = (u8)body->len;
	p[7] = (u8)(body->len >> 8);
	memcpy(p + KD_SHAKE_HEADER, body->data, body->len);
	s->out_len += KD_SHAKE_HEADER + body->len;
}

static void said_add(struct kd_shake *s, const void *p, size_t n)
{
	ASSERT(s->said_len + n <= sizeof(s->said));
	memcpy(s->said + s->said_len, p, n);
	s->said_len += n;
}

/* place: which of the macs this is, so that none can be used for another */
static void mac_make(const struct kd_shake *s, const char *place, u64 received, u8 ret[KD_MAC])
{
	KRG_AUTO_BUF struct krg_buf b = {0};
	unsigned n = KD_MAC;

	krg_buf_put_str(&b, place);
	krg_buf_put_u32(&b, KD_SHAKE_MAGIC);
	krg_buf_put_u16(&b, KD_SHAKE_VERSION);
	krg_buf_put_u64(&b, received);
	krg_buf_put_bytes(&b, s->said, s->said_len);
	ASSERT(HMAC(EVP_sha256(), s->key, 32, b.data, b.len, ret, &n) != NULL);
	ASSERT(n == KD_MAC);
}

static bool mac_good(const struct kd_shake *s, const char *place, u64 received,
		     struct krg_slice mac)
{
	u8 want[KD_MAC];

	mac_make(s, place, received, want);
	return mac.len == KD_MAC && CRYPTO_memcmp(want, mac.data, KD_MAC) == 0;
}

void kd_shake_acceptor_init(struct kd_shake *s, nodeid self, const char *cluster, const u8 *key)
{
	*s = (struct kd_shake){.state = KD_SHAKE_HELLO,
			       .self = self,
			       .cluster = cluster,
			       .key = key,
			       .peer = KRG_NODE_NONE};
}

int kd_shake_connector_start(struct kd_shake *s, nodeid self, const char *cluster, const u8 *key,
			     struct krg_err *err)
{
	KRG_AUTO_BUF struct krg_buf b = {0};
	struct rec_shake_hello hello;
	u8 nonce[KD_NONCE];
	int r;

	s->state = KD_SHAKE_CHALLENGE;
	s->self = self;
	s->cluster = cluster;
	s->key = key;
	s->said_len = s->in_len = s->out_len = 0;
	r = krg_rng_secret(nonce, sizeof(nonce));
	if (r < 0)
		return krg_err_set(err, r, "random numbers");
	hello = (struct rec_shake_hello){.kind = s->kind,
					 .chan = s->chan,
					 .op = s->op,
					 .tag = s->tag,
					 .from = self,
					 .to = s->peer,
					 .incarnation = s->incarnation,
					 .known = s->known,
					 .nonce = {nonce, sizeof(nonce)},
					 .cluster = krg_slice_str(cluster)};
	rec_shake_hello_encode(&hello, &b);
	said_add(s, b.data, b.len);
	say(s, &b);
	return 0;
}

void kd_shake_refuse(struct kd_shake *s, const struct krg_err *err)
{
	KRG_AUTO_BUF struct krg_buf b = {0};
	struct rec_shake_refuse no = {.code = err->code, .text = krg_slice_str(err->text)};

	no.text.len = KRG_MIN(no.text.len, (size_t)200);
	move(s, KD_SHAKE_REFUSED);
	if (s->peer_refused)
		return;
	rec_shake_refuse_encode(&no, &b);
	s->out_len = 0;
	say(s, &b);
}

static int on_hello(struct kd_shake *s, struct krg_rd *rd, struct krg_err *err)
{
	struct rec_shake_hello hello;
	const u8 *start = rd->at;
	char cluster[64];

	if (rec_shake_hello_decode(rd, &hello) < 0 || krg_rd_left(rd) != 0 ||
	    hello.nonce.len != KD_NONCE || hello.kind >= KD_SHAKE_KIND_NR)
		return krg_err_set(err, -EBADMSG, "a broken HELLO");
	memcpy(cluster, hello.cluster.data, hello.cluster.len);
	cluster[hello.cluster.len] = '\0';
	for (char *c = cluster; *c != '\0'; c++)
		if (*c < ' ' || *c > '~')
			*c = '?';
	if (strcmp(cluster, s->cluster) != 0)
		return krg_err_set(err, -EACCES, "a node of cluster '%s', this is '%s'", cluster,
				   s->cluster);
	if (hello.from >= KRG_NODES_MAX)
		return krg_err_set(err, -EACCES, "node %u: no such number", hello.from);
	if (hello.kind != KD_SHAKE_PROBE && hello.from == s->self)
		return krg_err_set(err, -EACCES, "node %u has this node's number", hello.from);
	if (hello.to != s->self && !(hello.kind == KD_SHAKE_PROBE && hello.to == KRG_NODE_NONE))
		return krg_err_set(err, -EACCES, "it looks for node %u, this is node %u", hello.to,
				   s->self);
	s->kind = hello.kind;
	s->chan = hello.chan;
	s->op = hello.op;
	s->tag = hello.tag;
	s->peer = hello.from;
	s->peer_incarnation = hello.incarnation;
	s->peer_known = hello.known;
	said_add(s, start, (size_t)(rd->at - start));
	move(s, KD_SHAKE_IDENTIFY);
	return 0;
}

/* The challenge without its mac goes into the transcript. */
static void said_challenge(struct kd_shake *s, const struct rec_shake_challenge *ch)
{
	KRG_AUTO_BUF struct krg_buf b = {0};
	struct rec_shake_challenge bare = *ch;

	bare.mac = (struct krg_slice){(const u8 *)"", 0};
	rec_shake_challenge_encode(&bare, &b);
	said_add(s, b.data, b.len);
}

int kd_shake_challenge(struct kd_shake *s, u64 incarnation, u64 known, struct krg_err *err)
{
	KRG_AUTO_BUF struct krg_buf b = {0};
	struct rec_shake_challenge ch;
	u8 nonce[KD_NONCE], mac[KD_MAC];
	int r = krg_rng_secret(nonce, sizeof(nonce));

	if (r < 0)
		return krg_err_set(err, r, "random numbers");
	s->incarnation = incarnation;
	s->known = known;
	ch = (struct rec_shake_challenge){.node = s->self,
					  .incarnation = incarnation,
					  .known = known,
					  .nonce = {nonce, sizeof(nonce)}};
	said_challenge(s, &ch);
	mac_make(s, "krg challenge", 0, mac);
	ch.mac = (struct krg_slice){mac, sizeof(mac)};
	rec_shake_challenge_encode(&ch, &b);
	say(s, &b);
	move(s, KD_SHAKE_PROOF);
	return 0;
}

static int on_challenge(struct kd_shake *s, struct krg_rd *rd, struct krg_err *err)
{
	struct rec_shake_challenge ch;

	if (rec_shake_challenge_decode(rd, &ch) < 0 || krg_rd_left(rd) != 0 ||
	    ch.nonce.len != KD_NONCE || ch.mac.len != KD_MAC)
		return krg_err_set(err, -EBADMSG, "a broken CHALLENGE");
	said_challenge(s, &ch);
	if (!mac_good(s, "krg challenge", 0, ch.mac))
		return krg_err_set(err, -EACCES, "the cluster's key differs");
	if (ch.node >= KRG_NODES_MAX || (s->peer != KRG_NODE_NONE && ch.node != s->peer))
		return krg_err_set(err, -EACCES, "it is node %u, not node %u", ch.node, s->peer);
	s->peer = ch.node;
	s->peer_incarnation = ch.incarnation;
	s->peer_known = ch.known;
	move(s, KD_SHAKE_RESPOND);
	return 0;
}

void kd_shake_proof(struct kd_shake *s, u64 received)
{
	KRG_AUTO_BUF struct krg_buf b = {0};
	u8 mac[KD_MAC];
	struct rec_shake_proof proof = {.received = received, .mac = {mac, sizeof(mac)}};

	mac_make(s, "krg proof", received, mac);
	rec_shake_proof_encode(&proof, &b);
	say(s, &b);
	move(s, KD_SHAKE_ACCEPT);
}

static int on_proof(struct kd_shake *s, struct krg_rd *rd, struct krg_err *err)
{
	struct rec_shake_proof proof;

	if (rec_shake_proof_decode(rd, &proof) < 0 || krg_rd_left(rd) != 0)
		return krg_err_set(err, -EBADMSG, "a broken PROOF");
	if (!mac_good(s, "krg proof", proof.received, proof.mac))
		return krg_err_set(err, -EACCES, "the cluster's key differs");
	s->peer_received = proof.received;
	move(s, KD_SHAKE_DECIDE);
	return 0;
}

void kd_shake_accept(struct kd_shake *s, u64 received)
{
	KRG_AUTO_BUF struct krg_buf b = {0};
	u8 mac[KD_MAC];
	struct rec_shake_accept yes = {.received = received, .mac = {mac, sizeof(mac)}};

	mac_make(s, "krg accept", received, mac);
	rec_shake_accept_encode(&yes, &b);
	say(s, &b);
	move(s, KD_SHAKE_DONE);
}

static int on_accept(struct kd_shake *s, struct krg_rd *rd, struct krg_err *err)
{
	struct rec_shake_accept yes;

	if (rec_shake_accept_decode(rd, &yes) < 0 || krg_rd_left(rd) != 0)
		return krg_err_set(err, -EBADMSG, "a broken ACCEPT");
	if (!mac_good(s, "krg accept", yes.received, yes.mac))
		return krg_err_set(err, -EACCES, "the cluster's key differs");
	s->peer_received = yes.received;
	move(s, KD_SHAKE_DONE);
	return 0;
}

/* The peer's word is not to be trusted, but good enough for a log and a retry. */
static int on_refuse(struct kd_shake *s, struct krg_rd *rd, struct krg_err *err)
{
	struct rec_shake_refuse no;
	char text[201];
	int code;

	s->peer_refused = true;
	if (rec_shake_refuse_decode(rd, &no) < 0)
		return krg_err_set(err, -EBADMSG, "a broken REFUSE");
	for (size_t i = 0; i < no.text.len; i++)
		text[i] = no.text.data[i] >= ' ' && no.text.data[i] <= '~' ? (char)no.text.data[i]
									   : '?';
	text[no.text.len] = '\0';
	code = no.code == -EALREADY || no.code == -ENOSYS || no.code == -EADDRINUSE ? no.code
										    : -EACCES;
	return krg_err_set(err, code, "refused by the other end: %s", text);
}

static int on_record(struct kd_shake *s, const u8 *p, size_t n, struct krg_err *err)
{
	struct krg_rd rd = krg_rd_make(p, n);

	if (krg_rec_peek(&rd) == REC_TYPE_shake_refuse)
		return on_refuse(s, &rd, err);
	switch (s->state) {
	case KD_SHAKE_HELLO:
		return on_hello(s, &rd, err);
	case KD_SHAKE_CHALLENGE:
		return on_challenge(s, &rd, err);
	case KD_SHAKE_PROOF:
		return on_proof(s, &rd, err);
	default:
		ASSERT(s->state == KD_SHAKE_ACCEPT);
		return on_accept(s, &rd, err);
	}
}

static size_t body_len(const struct kd_shake *s)
{
	return (size_t)s->in[6] | (size_t)s->in[7] << 8;
}

static int header_check(const struct kd_shake *s, struct krg_err *err)
{
	u32 magic = (u32)s->in[0] | (u32)s->in[1] << 8 | (u32)s->in[2] << 16 | (u32)s->in[3] << 24;
	unsigned version = (unsigned)s->in[4] | (unsigned)s->in[5] << 8;

	if (magic != KD_SHAKE_MAGIC)
		return krg_err_set(err, -EBADMSG, "not a Kerrighed node");
	if (version != KD_SHAKE_VERSION)
		return krg_err_set(err, -EACCES, "protocol version %u, this is version %u", version,
				   KD_SHAKE_VERSION);
	if (body_len(s) == 0 || body_len(s) > KD_SHAKE_FRAME - KD_SHAKE_HEADER)
		return krg_err_set(err, -EBADMSG, "a handshake of %zu bytes", body_len(s));
	return 0;
}

size_t kd_shake_want(const struct kd_shake *s)
{
	if (!states[s->state].waits)
		return 0;
	if (s->in_len < KD_SHAKE_HEADER)
		return KD_SHAKE_HEADER - s->in_len;
	return KD_SHAKE_HEADER + body_len(s) - s->in_len;
}

int kd_shake_in(struct kd_shake *s, const u8 *p, size_t n, struct krg_err *err)
{
	int r = 0;

	ASSERT(n <= kd_shake_want(s));
	memcpy(s->in + s->in_len, p, n);
	s->in_len += n;
	if (s->in_len == KD_SHAKE_HEADER)
		return header_check(s, err);
	if (s->in_len > KD_SHAKE_HEADER && kd_shake_want(s) == 0) {
		size_t len = s->in_len - KD_SHAKE_HEADER;

		s->in_len = 0;
		r = on_record(s, s->in + KD_SHAKE_HEADER, len, err);
	}
	return r;
}
