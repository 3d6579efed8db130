/* kernetdev_shake.h - how two nodes find out that they belong to one cluster: the handshake at
 * the start of every connection, as a state machine over bytes.
 *
 *	connector                         acceptor
 *	HELLO  who, whom, why, nonce  ->
 *	                              <-  CHALLENGE  who, nonce, mac
 *	PROOF  last received, mac     ->
 *	                              <-  ACCEPT  last received, mac     or  REFUSE  code, text
 *
 * Each mac is HMAC-SHA256 (RFC 2104) with the cluster's key over a word for its place, the protocol
 * version, all of HELLO, and all of CHALLENGE but its mac (and the last number): so it binds both
 * nonces, both nodes and incarnations, the cluster's name, the channel or op.  Either side may send
 * REFUSE instead of its next step.  On the wire: u32 magic, u16 version, u16 length, one record.
 *
 * Errors    kd_shake_in(): -EACCES and a text: refused; -EBADMSG: not this protocol.
 * Ownership the state holds no memory; what it wants to send is in ->out.
 * Threads   one struct, one thread at a time.
 */
#ifndef KRG_KERNETDEV_SHAKE_H
#define KRG_KERNETDEV_SHAKE_H
#include "err.h"
#include "rec.h"

#define KD_SHAKE_MAGIC	 0x3147524bu /* "KRG1" */
#define KD_SHAKE_VERSION 1
#define KD_SHAKE_FRAME	 480
#define KD_NONCE	 32
#define KD_MAC		 32
#define KD_SHAKE_HEADER	 8

enum kd_shake_kind { KD_SHAKE_LINK, KD_SHAKE_RAW, KD_SHAKE_PROBE, KD_SHAKE_KIND_NR };

#define REC_SHAKE_HELLO(F)                                                                         \
	F(u8, kind)                                                                                \
	F(u8, chan)                                                                                \
	F(u16, op)                                                                                 \
	F(u64, tag)                                                                                \
	F(u16, from)                                                                               \
	F(u16, to) F(u64, incarnation) F(u64, known) F(bytes, nonce, KD_NONCE) F(str, cluster, 63)
#define REC_SHAKE_CHALLENGE(F)                                                                     \
	F(u16, node)                                                                               \
	F(u64, incarnation) F(u64, known) F(bytes, nonce, KD_NONCE) F(bytes, mac, KD_MAC)
#define REC_SHAKE_LAST(F)   F(u64, received) F(bytes, mac, KD_MAC)
#define REC_SHAKE_REFUSE(F) F(i32, code) F(str, text, 200)
KRG_RECORD(shake_hello, 1, REC_SHAKE_HELLO)
KRG_RECORD(shake_challenge, 2, REC_SHAKE_CHALLENGE)
KRG_RECORD(shake_proof, 3, REC_SHAKE_LAST)
KRG_RECORD(shake_accept, 4, REC_SHAKE_LAST)
KRG_RECORD(shake_refuse, 5, REC_SHAKE_REFUSE)

/* Where it stands.  IDENTIFY and DECIDE wait for the owner, who knows about links. */
enum kd_shake_state {
	KD_SHAKE_HELLO,	    /* acceptor: waits for HELLO */
	KD_SHAKE_IDENTIFY,  /* acceptor: who it claims to be is in ->peer; kd_shake_challenge() */
	KD_SHAKE_PROOF,	    /* acceptor: waits for PROOF */
	KD_SHAKE_DECIDE,    /* acceptor: the peer is who it says; kd_shake_accept() or _refuse() */
	KD_SHAKE_CHALLENGE, /* connector: waits for CHALLENGE */
	KD_SHAKE_RESPOND,   /* connector: the peer is who it says; kd_shake_proof() */
	KD_SHAKE_ACCEPT,    /* connector: waits for ACCEPT */
	KD_SHAKE_DONE,
	KD_SHAKE_REFUSED,
	KD_SHAKE_STATE_NR
};

struct kd_shake {
	enum kd_shake_state state;
	const char *cluster; /* (c) */
	const u8 *key;	     /* (c) */
	nodeid self;	     /* (c) */
	/* what it is about */
	u8 kind, chan;
	u16 op;
	u64 tag;
	nodeid peer;		/* connector: KRG_NODE_NONE: whoever is there */
	u64 incarnation, known; /* ours */
	u64 peer_incarnation, peer_known;
	u64 peer_received;
	/* transcript: what was said, as it was sent */
	u8 said[KD_SHAKE_FRAME * 2];
	size_t said_len;
	/* bytes that came and are not yet a frame; bytes to send */
	u8 in[KD_SHAKE_FRAME];
	size_t in_len;
	u8 out[KD_SHAKE_FRAME * 2];
	size_t out_len;
	bool peer_refused; /* it has told us why, and is not told again */
};

void kd_shake_acceptor_init(struct kd_shake *s, nodeid self, const char *cluster, const u8 *key);
/* Fills ->out with HELLO.  kind, chan, op, tag, peer, incarnation and known must be set. */
int kd_shake_connector_start(struct kd_shake *s, nodeid self, const char *cluster, const u8 *key,
			     struct krg_err *err) KRG_MUST_CHECK;
/* How many bytes it wants now: 0 unless it waits for the peer.  Never more than the handshake's
 * own, so that what follows stays in the connection. */
size_t kd_shake_want(const struct kd_shake *s);
/* Bytes that came; at most kd_shake_want() of them. */
int kd_shake_in(struct kd_shake *s, const u8 *p, size_t n, struct krg_err *err) KRG_MUST_CHECK;
int kd_shake_challenge(struct kd_shake *s, u64 incarnation, u64 known,
		       struct krg_err *err) KRG_MUST_CHECK;
void kd_shake_proof(struct kd_shake *s, u64 received);
void kd_shake_accept(struct kd_shake *s, u64 received);
void kd_shake_refuse(struct kd_shake *s, const struct krg_err *err);
#endif
