#include "view_msg.h"
#include "rec.h"

#define REC_VSM_HEAD(F)                                                                            \
	F(u8, type)                                                                                \
	F(u8, flags)                                                                               \
	F(u8, out)                                                                                 \
	F(u16, from)                                                                               \
	F(u16, to)                                                                                 \
	F(u64, from_inc)                                                                           \
	F(u64, to_inc)                                                                             \
	F(u64, cluster)                                                                            \
	F(u64, term)                                                                               \
	F(u64, cfg_term)                                                                           \
	F(u64, cfg_number)                                                                         \
	F(u64, vote_term)                                                                          \
	F(u64, stamp)                                                                              \
	F(u64, echo)                                                                               \
	F(u64, bar)
KRG_RECORD(vsm_head, 0x101, REC_VSM_HEAD)

#define REC_VSM_BEAT(F)                                                                            \
	F(u64, agreed_term)                                                                        \
	F(u64, agreed_number)                                                                      \
	F(u64, lease_age)                                                                          \
	F(u64, deaf0)                                                                              \
	F(u64, deaf1)
KRG_RECORD(vsm_beat, 0x102, REC_VSM_BEAT)

#define REC_VSM_VIEW(F)                                                                            \
	F(u64, term)                                                                               \
	F(u64, number)                                                                             \
	F(u8, reason)                                                                              \
	F(u16, node)                                                                               \
	F(u64, inc)                                                                                \
	F(u16, n) /* so many vsm_member records follow */
KRG_RECORD(vsm_view, 0x103, REC_VSM_VIEW)

#define REC_VSM_MEMBER(F)                                                                          \
	F(u16, node)                                                                               \
	F(u16, port)                                                                               \
	F(u64, inc)                                                                                \
	F(str, name, VIEW_NAME_MAX)                                                                \
	F(str, addr, VIEW_NAME_MAX)
KRG_RECORD(vsm_member, 0x104, REC_VSM_MEMBER)

#define REC_VSM_REFUSE(F)                                                                          \
	F(i32, code)                                                                               \
	F(str, text, VSM_TEXT_MAX - 1)
KRG_RECORD(vsm_refuse, 0x105, REC_VSM_REFUSE)

#define REC_VSM_WANT(F)                                                                            \
	F(u8, want)                                                                                \
	F(u16, node)                                                                               \
	F(u64, inc)
KRG_RECORD(vsm_want, 0x106, REC_VSM_WANT)

static void put_member(const struct view_member *m, struct krg_buf *b)
{
	const struct rec_vsm_member r = {
		.node = m->node,
		.port = m->port,
		.inc = m->inc,
		.name = krg_slice_str(m->name),
		.addr = krg_slice_str(m->addr),
	};

	rec_vsm_member_encode(&r, b);
}

static void put_view(const struct view *v, struct krg_buf *b)
{
	const struct rec_vsm_view r = {
		.term = v->term,
		.number = v->number,
		.reason = (u8)v->reason,
		.node = v->node,
		.inc = v->inc,
		.n = (u16)v->n,
	};

	rec_vsm_view_encode(&r, b);
	for (unsigned i = 0; i < v->n; i++)
		put_member(&v->m[i], b);
}

static void put_beat(const struct vsm_msg *m, struct krg_buf *b)
{
	const struct rec_vsm_beat r = {
		.agreed_term = m->agreed_term,
		.agreed_number = m->agreed_number,
		.lease_age = m->lease_age,
		.deaf0 = m->deaf[0],
		.deaf1 = m->deaf[1],
	};

	rec_vsm_beat_encode(&r, b);
}

void vsm_msg_encode(const struct vsm_msg *m, struct krg_buf *b)
{
	const struct rec_vsm_head h = {
		.type = (u8)m->type,
		.flags = m->flags,
		.out = m->out,
		.from = m->from,
		.to = m->to,
		.from_inc = m->from_inc,
		.to_inc = m->to_inc,
		.cluster = m->cluster,
		.term = m->term,
		.cfg_term = m->cfg_term,
		.cfg_number = m->cfg_number,
		.vote_term = m->vote_term,
		.stamp = m->stamp,
		.echo = m->echo,
		.bar = m->bar,
	};
	const struct rec_vsm_refuse refuse = {.code = m->code, .text = krg_slice_str(m->text)};
	const struct rec_vsm_want want = {.want = (u8)m->want, .node = m->node, .inc = m->inc};

	rec_vsm_head_encode(&h, b);
	if (m->type == VSM_MSG_BEAT)
		put_beat(m, b);
	if (m->type == VSM_MSG_CONFIG) {
		put_view(m->cfg, b);
		if (m->view != NULL)
			put_view(m->view, b);
	}
	if (m->type == VSM_MSG_JOIN)
		put_member(&m->info, b);
	if (m->type == VSM_MSG_REFUSE)
		rec_vsm_refuse_encode(&refuse, b);
	if (m->type == VSM_MSG_WANT)
		rec_vsm_want_encode(&want, b);
}

static void copy_str(char *to, struct krg_slice s)
{
	if (s.len > 0)
		memcpy(to, s.data, s.len);
	to[s.len] = 0;
}

static int get_member(struct krg_rd *rd, struct view_member *ret)
{
	struct rec_vsm_member r;
	int e = rec_vsm_member_decode(rd, &r);

	if (e < 0)
		return e;
	if (r.node >= KRG_NODES_MAX || r.inc == 0)
		return -EBADMSG;
	ret->node = r.node;
	ret->port = r.port;
	ret->inc = r.inc;
	copy_str(ret->name, r.name);
	copy_str(ret->addr, r.addr);
	return 0;
}

static int get_view(struct krg_rd *rd, struct view **ret)
{
	AUTO_VIEW struct view *v = NULL;
	struct rec_vsm_view r;
	int e = rec_vsm_view_decode(rd, &r);

	if (e < 0)
		return e;
	if (r.n == 0 || r.term == 0 || r.number == 0 || r.n > KRG_NODES_MAX ||
	    r.reason >= VIEW_REASON_NR || r.term > VIEW_TERM_MAX || r.number > VIEW_TERM_MAX ||
	    r.node >= KRG_NODES_MAX)
		return -EBADMSG;
	v = view_make(r.n, r.term, r.number);
	v->reason = r.reason;
	v->node = r.node;
	v->inc = r.inc;
	for (unsigned i = 0; i < r.n; i++) {
		e = get_member(rd, &v->m[i]);
		if (e < 0)
			return e;
		if (i > 0 && v->m[i].node <= v->m[i - 1].node)
			return -EBADMSG;
	}
	*ret = TAKE_PTR(v);
	return 0;
}

static int get_head(struct krg_rd *rd, struct vsm_msg *m)
{
	struct rec_vsm_head h;
	int e = rec_vsm_head_decode(rd, &h);

	if (e < 0)
		return e;
	if (h.type < VSM_MSG_BEAT || h.type >= VSM_MSG_END || (h.flags & ~VSM_F_ALL) != 0)
		return -EBADMSG;
	m->type = h.type;
	m->flags = h.flags;
	m->out = h.out;
	m->from = h.from;
	m->to = h.to;
	m->from_inc = h.from_inc;
	m->to_inc = h.to_inc;
	m->cluster = h.cluster;
	m->term = h.term;
	m->cfg_term = h.cfg_term;
	m->cfg_number = h.cfg_number;
	m->vote_term = h.vote_term;
	m->stamp = h.stamp;
	m->echo = h.echo;
	m->bar = h.bar;
	return 0;
}

static int get_beat(struct krg_rd *rd, struct vsm_msg *m)
{
	struct rec_vsm_beat r;
	int e = rec_vsm_beat_decode(rd, &r);

	if (e < 0)
		return e;
	m->agreed_term = r.agreed_term;
	m->agreed_number = r.agreed_number;
	m->lease_age = r.lease_age;
	m->deaf[0] = r.deaf0;
	m->deaf[1] = r.deaf1;
	return 0;
}

static int get_refuse(struct krg_rd *rd, struct vsm_msg *m)
{
	struct rec_vsm_refuse r;
	int e = rec_vsm_refuse_decode(rd, &r);

	if (e < 0)
		return e;
	m->code = r.code < 0 ? r.code : -EPERM;
	copy_str(m->text, r.text);
	return 0;
}

static int get_want(struct krg_rd *rd, struct vsm_msg *m)
{
	struct rec_vsm_want r;
	int e = rec_vsm_want_decode(rd, &r);

	if (e < 0)
		return e;
	if (r.want >= VSM_WANT_NR)
		return -EBADMSG;
	m->want = r.want;
	m->node = r.node;
	m->inc = r.inc;
	return 0;
}

static int get_body(struct krg_rd *rd, struct vsm_msg *m)
{
	int e;

	switch (m->type) {
	case VSM_MSG_BEAT:
		return get_beat(rd, m);
	case VSM_MSG_CONFIG:
		e = get_view(rd, &m->cfg);
		if (e == 0 && krg_rec_peek(rd) == REC_TYPE_vsm_view)
			e = get_view(rd, &m->view);
		return e;
	case VSM_MSG_JOIN:
		return get_member(rd, &m->info);
	case VSM_MSG_REFUSE:
		return get_refuse(rd, m);
	case VSM_MSG_WANT:
		return get_want(rd, m);
	default:
		return 0;
	}
}

int vsm_msg_decode(struct krg_slice s, struct vsm_msg *ret)
{
	struct krg_rd rd = krg_rd_slice(s);
	AUTO_VSM_MSG struct vsm_msg m = {0};
	int e = get_head(&rd, &m);

	if (e == 0)
		e = get_body(&rd, &m);
	if (e < 0)
		return -EBADMSG;
	*ret = m;
	m.view = m.cfg = NULL;
	return 0;
}

void vsm_msg_fini(struct vsm_msg *m)
{
	view_unref(m->view);
	view_unref(m->cfg);
	m->view = m->cfg = NULL;
}
