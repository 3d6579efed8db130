// part: comm
/* fuzz_comm_frame.c - whatever another machine may send: handshakes (as a stranger), frames and
 * messages (as an authenticated peer).  The first byte says which. */
#include "comm_msg.h"
#include "kernetdev_impl.h"
#include "log.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct feed {
	const u8 *at;
	size_t left;
};

/* --- a network that has only these bytes to give --- */

static int fz_open(struct kernetdev *kd, void *ctx, const char *addr, u16 port, void **ret_net,
		   struct krg_err *err)
{
	(void)kd;
	(void)addr;
	(void)port;
	(void)err;
	*ret_net = ctx;
	return 0;
}

static int fz_start(void *net, struct krg_err *err)
{
	(void)net;
	(void)err;
	return 0;
}

static void fz_nothing(void *p)
{
	(void)p;
}

static void fz_attach(void *pipe, struct kd_conn *c)
{
	(void)pipe;
	(void)c;
}

static ssize_t fz_write(void *pipe, const struct iovec *iov, int n)
{
	ssize_t all = 0;

	(void)pipe;
	for (int i = 0; i < n; i++)
		all += (ssize_t)iov[i].iov_len;
	return all;
}

static ssize_t fz_read(void *pipe, void *p, size_t n)
{
	struct feed *f = pipe;

	n = KRG_MIN(n, f->left);
	if (n == 0)
		return 0;
	memcpy(p, f->at, n);
	f->at += n;
	f->left -= n;
	return (ssize_t)n;
}

static void fz_interest(void *pipe, bool in, bool out)
{
	(void)pipe;
	(void)in;
	(void)out;
}

static void fz_name(void *pipe, char *name, size_t max)
{
	(void)pipe;
	(void)snprintf(name, max, "fuzz");
}

static const struct kernetdev_driver driver = {
	.name = "fuzz",
	.open = fz_open,
	.start = fz_start,
	.stop = fz_nothing,
	.free = fz_nothing,
	.attach = fz_attach,
	.write = fz_write,
	.read = fz_read,
	.interest = fz_interest,
	.shutdown = fz_nothing,
	.close = fz_nothing,
	.poke = fz_nothing,
	.name_get = fz_name,
};

static struct kernetdev *kd;

static void on_recv(void *ctx, struct kernetdev_msg *m)
{
	struct comm_msg h;
	struct krg_err err;

	(void)ctx;
	if (comm_msg_parse(m, &h) == 0 && h.kind == COMM_MSG_FAIL)
		comm_msg_parse_fail(&h, 1, &err);
	kernetdev_msg_done(kd, m);
}

static void on_reset(void *ctx, nodeid peer, u8 chan, u32 session)
{
	(void)ctx;
	(void)peer;
	(void)chan;
	(void)session;
}

static const struct kernetdev_upcalls up = {.recv = on_recv, .reset = on_reset};

static void kd_make(void)
{
	struct kernetdev_config config = {
		.self = 0, .cluster = "fuzz", .up = &up, .driver = &driver};
	struct krg_err err;

	krg_log_init(-1, 0, KRG_LOG_ERROR);
	if (kernetdev_new(&config, &kd, &err) < 0)
		abort();
}

/* --- the three places where bytes come in --- */

static void as_stranger(struct feed *f)
{
	kd_on_accept(kd, f);
	if (kd->conns != NULL)
		kd_on_event(kd->conns, true, false);
	kd_conn_free_all(kd);
}

static void as_seed(struct feed *f)
{
	struct kd_shake s = {.kind = KD_SHAKE_LINK, .peer = 1, .incarnation = 1};
	struct krg_err err;
	int r = kd_shake_connector_start(&s, 0, "fuzz", kd->config.key, &err);

	while (r == 0 && f->left > 0 && kd_shake_want(&s) > 0) {
		size_t n = KRG_MIN(f->left, kd_shake_want(&s));

		r = kd_shake_in(&s, f->at, n, &err);
		f->at += n;
		f->left -= n;
	}
}

static void as_peer(struct feed *f)
{
	struct kd_link *l = kd_link_get(kd, 1, 0);
	struct kd_conn c = {.kd = kd, .pipe = f, .link = l, .state = KD_CONN_UP};
	struct kernetdev_msg *m = kernetdev_msg_new(10);
	u32 session;
	bool alive;

	link_lock(&l->lock);
	kd_link_attach_locked(l, &c);
	c.reading = true;
	link_unlock(&l->lock);
	memset(kernetdev_msg_data(m), 0, 10);
	if (kernetdev_queue(kd, 1, 0, m, 0, &session) < 0) /* something to be acked */
		abort();
	kernetdev_flush(kd, 1, 0);
	do
		alive = kd_conn_read(&c, false, 0);
	while (alive);
	link_lock(&l->lock);
	c.reading = false;
	kd_link_detach_locked(l);
	kd_link_renew_locked(l);
	link_unlock(&l->lock);
	free(c.rbuf);
	free(c.rmsg);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct feed f = {data + 1, size - 1};

	if (kd == NULL)
		kd_make();
	if (size == 0)
		return 0;
	if (data[0] % 3 == 0)
		as_stranger(&f);
	else if (data[0] % 3 == 1)
		as_seed(&f);
	else
		as_peer(&f);
	return 0;
}
