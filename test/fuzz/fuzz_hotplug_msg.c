// part: hotplug
/* The decoder of the membership protocol, and its state machine behind it: whatever a node that has
 * the cluster's key may send, in any order, with any time in between.
 *
 * Input: a byte for the role that this node has at first (it leads, follows, or joins), then
 * messages: a byte of time, a byte of what is made right so that the message is not dropped at the
 * door, two bytes of length, the bytes. */
#include "view_msg.h"

#define MS 1000000ull

struct fuzz {
	struct vsm *sm;
	u64 cluster; /* as this node said last */
	u64 number;
};

static void on_send(void *ctx, const struct vsm_msg *m)
{
	struct fuzz *f = ctx;
	KRG_AUTO_BUF struct krg_buf b = {0};
	AUTO_VSM_MSG struct vsm_msg back = {0};

	/* What it says can be read, and is the same when it is said again. */
	f->cluster = m->cluster;
	vsm_msg_encode(m, &b);
	ASSERT(vsm_msg_decode(krg_buf_slice(&b), &back) == 0);
	KRG_AUTO_BUF struct krg_buf again = {0};

	vsm_msg_encode(&back, &again);
	ASSERT(again.len == b.len && memcmp(again.data, b.data, b.len) == 0);
}
static void on_view(void *ctx, const struct view *v)
{
	struct fuzz *f = ctx;

	ASSERT(v->number > f->number && v->n > 0);
	f->number = v->number;
}
static void on_quorum(void *ctx, bool have)
{
	(void)ctx, (void)have;
}
static void on_removed(void *ctx, const struct view *v, enum view_reason reason)
{
	(void)ctx, (void)v, (void)reason;
}
static void on_refused(void *ctx, int code, const char *text)
{
	(void)ctx;
	ASSERT(code < 0 && strlen(text) < VSM_TEXT_MAX);
}
static const struct vsm_ops ops = {.send = on_send,
				   .view = on_view,
				   .quorum = on_quorum,
				   .removed = on_removed,
				   .refused = on_refused};

static void make_right(const struct fuzz *f, struct vsm_msg *m, u8 what)
{
	if (what & 1) {
		m->to = 1;
		m->to_inc = m->type == VSM_MSG_JOIN ? 0 : 11;
	}
	if (what & 2)
		m->cluster = f->cluster != 0 ? f->cluster : 7;
	if (what & 4) {
		m->from = (nodeid)(m->from % 8);
		m->from_inc = m->from_inc % 4 + 1;
		m->info.node = m->from;
		m->info.inc = m->from_inc;
	}
	if (what & 8)
		m->term = vsm_get_term(f->sm);
	if (what & 16) {
		m->cfg_term = vsm_get_cfg(f->sm) != NULL ? vsm_get_cfg(f->sm)->term : 0;
		m->cfg_number = vsm_get_cfg(f->sm) != NULL ? vsm_get_cfg(f->sm)->number : 0;
		m->vote_term = vsm_get_term(f->sm) + (what >> 5 & 1);
	}
	if (what & 32)
		m->echo = m->stamp;
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);
int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	struct krg_rd rd = krg_rd_make(data, size);
	struct vsm_config c = {.heartbeat = 200 * MS, .fail_after = 2000 * MS, .seed = 1};
	struct fuzz f = {.sm = NULL};
	u64 now = MS;
	u8 role = krg_rd_u8(&rd);

	c.self = (struct view_member){.node = 1, .inc = 11, .port = 1, .name = "a", .addr = "b"};
	f.sm = vsm_new(&c, &ops, &f, now);
	if (role % 2 == 0)
		vsm_form(f.sm, now);
	else
		vsm_join(f.sm, now, role % 4 == 1);
	while (krg_rd_left(&rd) > 4) {
		struct vsm_msg m = {0};
		u8 time = krg_rd_u8(&rd), what = krg_rd_u8(&rd);
		u16 len = krg_rd_u16(&rd);
		struct krg_slice s = krg_rd_raw(&rd, KRG_MIN(len, krg_rd_left(&rd)));

		now += time * 10 * MS;
		if (now >= vsm_deadline(f.sm))
			vsm_tick(f.sm, now);
		if (what & 128 && vsm_wish(f.sm, now, VSM_WANT_DEL, (nodeid)(what % 8)) < 0)
			continue;
		if (vsm_msg_decode(s, &m) < 0)
			continue;
		make_right(&f, &m, what);
		vsm_recv(f.sm, now, &m);
		vsm_msg_fini(&m);
	}
	vsm_free(f.sm);
	return 0;
}
