#include "clock.h"
#include "kernetdev_impl.h"
#include "log.h"

int kernetdev_new(const struct kernetdev_config *config, struct kernetdev **ret,
		  struct krg_err *err)
{
	struct kernetdev *kd;
	u64 seed = 0;
	int r;

	if (config->self >= KRG_NODES_MAX)
		return krg_err_set(err, -EINVAL, "node %u", config->self);
	kd = krg_xalloc(sizeof(*kd));
	kd->config = *config;
	kd->config.listen_addr = NULL;
	kd->config.cluster[sizeof(kd->config.cluster) - 1] = '\0';
	kd->drv = config->driver != NULL ? config->driver : &kernetdev_tcp;
	atomic_store(&kd->next_tick_ns, UINT64_MAX);
	kd->work_ns = UINT64_MAX;
	if (krg_rng_secret(&seed, sizeof(seed)) < 0)
		seed = krg_clock_now_ns(); /* only jitter */
	krg_rng_init(&kd->rng, seed);
	r = kd->drv->open(kd, config->driver_ctx, config->listen_addr, config->listen_port,
			  &kd->net, err);
	if (r < 0) {
		free(kd);
		return r;
	}
	krg_mutex_init(&kd->lock);
	*ret = kd;
	return 0;
}

int kernetdev_start(struct kernetdev *kd, struct krg_err *err)
{
	int r = kd->drv->start(kd->net, err);

	kd->started = r == 0;
	return r;
}

void kernetdev_stop(struct kernetdev *kd)
{
	if (atomic_exchange(&kd->stopping, true))
		return;
	kernetdev_wake_room(kd);
	if (kd->started)
		kd->drv->stop(kd->net);
	for (unsigned i = 0; i < KRG_NODES_MAX * KERNETDEV_CHAN_NR; i++) {
		struct kd_link *l =
			kd_link_find(kd, (nodeid)(i / KERNETDEV_CHAN_NR), i % KERNETDEV_CHAN_NR);

		if (l == NULL)
			continue;
		KRG_GUARD(link, &l->lock);
		if (l->conn != NULL)
			kd_conn_kill_locked(l->conn, -ECANCELED);
	}
}

void kernetdev_free(struct kernetdev *kd)
{
	if (kd == NULL)
		return;
	kernetdev_stop(kd);
	kd_conn_free_all(kd);
	for (unsigned i = 0; i < KRG_NODES_MAX * KERNETDEV_CHAN_NR; i++) {
		struct kd_link *l =
			kd_link_find(kd, (nodeid)(i / KERNETDEV_CHAN_NR), i % KERNETDEV_CHAN_NR);

		if (l != NULL)
			kd_link_free(l);
	}
	kd->drv->free(kd->net);
	krg_mutex_fini(&kd->lock);
	explicit_bzero(kd->config.key, sizeof(kd->config.key));
	free(kd);
}

u16 kernetdev_port(const struct kernetdev *kd)
{
	return kd->drv->port(kd->net);
}

int kernetdev_peer_set(struct kernetdev *kd, nodeid peer, const char *addr, u16 port)
{
	struct kd_addr to = {.set = true, .port = port};

	if (peer >= KRG_NODES_MAX || peer == kd->config.self || strlen(addr) >= sizeof(to.addr) ||
	    kd->drv->addr_check(addr, port) < 0)
		return -EINVAL;
	memcpy(to.addr, addr, strlen(addr) + 1);
	links_lock(&kd->lock);
	kd->addr[peer] = to;
	links_unlock(&kd->lock);
	/* a link that waited for an address */
	kd_tick_arm(kd, krg_clock_now_ns());
	return 0;
}

void kernetdev_peer_forget(struct kernetdev *kd, nodeid peer)
{
	ASSERT(peer < KRG_NODES_MAX);
	links_lock(&kd->lock);
	kd->addr[peer].set = false;
	links_unlock(&kd->lock);
	for (u8 chan = 0; chan < KERNETDEV_CHAN_NR; chan++) {
		struct kd_link *l = kd_link_find(kd, peer, chan);

		if (l == NULL)
			continue;
		KRG_GUARD(link, &l->lock);
		kd_link_forget_locked(l);
	}
	kd_tick_arm(kd, krg_clock_now_ns());
}

void kernetdev_poke(struct kernetdev *kd)
{
	if (!atomic_exchange(&kd->work_wanted, true))
		kd->drv->poke(kd->net);
}

bool kernetdev_is_simulated(const struct kernetdev *kd)
{
	return kd->drv->read_wait == NULL;
}

bool kernetdev_on_io_thread(const struct kernetdev *kd)
{
	return kd->drv->on_io(kd->net);
}

/* --- looking --- */

int kernetdev_stat_get(struct kernetdev *kd, nodeid peer, u8 chan, struct kernetdev_stat *ret)
{
	struct kd_link *l = kd_link_find(kd, peer, chan);

	if (l == NULL)
		return -ENOENT;
	KRG_GUARD(link, &l->lock);
	*ret = l->stat;
	ret->queued_bytes = l->queued_bytes;
	ret->window_used = l->counted - l->credit;
	return 0;
}

void kernetdev_break(struct kernetdev *kd, nodeid peer, u8 chan)
{
	struct kd_link *l = kd_link_find(kd, peer, chan);

	if (l == NULL)
		return;
	KRG_GUARD(link, &l->lock);
	if (l->conn != NULL && !l->conn->dead)
		kd->drv->shutdown(l->conn->pipe);
}
