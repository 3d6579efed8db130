#include "comm_msg.h"

#define CODE_MAX 4095 /* as for system calls: errno is in 1 to 4095 */

static void put(u8 *p, u64 v, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		p[i] = (u8)(v >> 8 * i);
}

struct kernetdev_msg *comm_msg_make(const struct comm_msg *h, const void *body, size_t len)
{
	struct kernetdev_msg *m;
	u8 *p;

	ASSERT(len <= KERNETDEV_MSG_MAX - COMM_MSG_HEADER);
	m = kernetdev_msg_new((u32)len + COMM_MSG_HEADER);
	p = kernetdev_msg_data(m);
	p[0] = h->kind;
	p[1] = h->flags;
	put(p + 2, h->op, 2);
	put(p + 4, (u32)h->code, 4);
	put(p + 8, h->id, 8);
	put(p + 16, h->view, 8);
	if (len > 0)
		memcpy(p + COMM_MSG_HEADER, body, len);
	return m;
}

int comm_msg_parse(struct kernetdev_msg *m, struct comm_msg *ret)
{
	struct krg_rd rd = krg_rd_make(kernetdev_msg_data(m), m->len);
	struct comm_msg h = {.kind = krg_rd_u8(&rd), .flags = krg_rd_u8(&rd)};

	h.op = krg_rd_u16(&rd);
	h.code = (i32)krg_rd_u32(&rd);
	h.id = krg_rd_u64(&rd);
	h.view = krg_rd_u64(&rd);
	if (!krg_rd_ok(&rd) || h.kind < COMM_MSG_CALL || h.kind > COMM_MSG_CANCEL)
		return -EBADMSG;
	if (h.kind == COMM_MSG_FAIL ? h.code >= 0 || h.code < -CODE_MAX : h.code != 0)
		return -EBADMSG;
	h.body = krg_rd_raw(&rd, krg_rd_left(&rd));
	*ret = h;
	return 0;
}

struct kernetdev_msg *comm_msg_make_fail(const struct comm_msg *h, const struct krg_err *err)
{
	KRG_AUTO_BUF struct krg_buf b = {0};
	struct comm_msg fail = *h;

	fail.kind = COMM_MSG_FAIL;
	fail.code = err->code < 0 && err->code >= -CODE_MAX ? err->code : -EIO;
	krg_buf_put_u16(&b, err->node);
	krg_buf_put(&b, err->text, strnlen(err->text, sizeof(err->text)));
	return comm_msg_make(&fail, b.data, b.len);
}

void comm_msg_parse_fail(const struct comm_msg *h, nodeid from, struct krg_err *ret)
{
	struct krg_rd rd = krg_rd_slice(h->body);
	size_t n;

	krg_err_clear(ret);
	ret->code = h->code;
	ret->node = krg_rd_u16(&rd);
	if (ret->node >= KRG_NODES_MAX)
		ret->node = from;
	n = KRG_MIN(krg_rd_left(&rd), sizeof(ret->text) - 1);
	for (size_t i = 0; i < n; i++) /* it goes to logs and terminals */
		ret->text[i] = rd.at[i] >= ' ' && rd.at[i] != 0x7f ? (char)rd.at[i] : '?';
	if (n == 0)
		(void)snprintf(ret->text, sizeof(ret->text), "%s", strerror(-h->code));
}
