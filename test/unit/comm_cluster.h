/* comm_cluster.h - some nodes in one process, over TCP on 127.0.0.1, for the tests of comm.
 *
 *	struct cluster k;  cluster_up(&k, 2);  … k.c[0], k.c[1] …  cluster_down(&k);
 */
#ifndef KRG_TEST_COMM_CLUSTER_H
#define KRG_TEST_COMM_CLUSTER_H
#include "clock.h"
#include "comm.h"
#include "kernetdev.h"
#include "log.h"
#include "rec.h"
#include "tap.h"
#include <pthread.h>

#define CLUSTER_MAX 4

struct cluster {
	unsigned n;
	struct comm *c[CLUSTER_MAX];
	void (*setup)(struct comm *c, void *ctx); /* registers the handlers */
	void *ctx;
};

static inline struct comm *cluster_node(nodeid self, const char *name, u8 key, u16 port,
					unsigned workers)
{
	struct comm_config config = {
		.self = self, .listen_addr = "127.0.0.1", .listen_port = port, .workers = workers};
	struct krg_err err;
	struct comm *c = NULL;

	(void)snprintf(config.cluster, sizeof(config.cluster), "%s", name);
	memset(config.key, key, sizeof(config.key));
	if (comm_new(&config, &c, &err) < 0) {
		printf("# %s\n", err.text);
		abort();
	}
	return c;
}

static inline void cluster_start(struct comm *c)
{
	struct krg_err err;

	if (comm_start(c, &err) < 0)
		abort();
}

static inline void cluster_meet(struct comm *a, struct comm *b)
{
	if (comm_peer_set(a, comm_self(b), "127.0.0.1", comm_port(b)) < 0)
		abort();
}

static inline void cluster_view(struct cluster *k, u64 view, unsigned members)
{
	nodeid m[CLUSTER_MAX];

	for (unsigned i = 0; i < members; i++)
		m[i] = (nodeid)i;
	for (unsigned i = 0; i < members; i++)
		if (k->c[i] != NULL)
			comm_view_set(k->c[i], view, m, members);
}

static inline void cluster_up(struct cluster *k, unsigned n)
{
	k->n = n;
	for (unsigned i = 0; i < n; i++) {
		k->c[i] = cluster_node((nodeid)i, "test", 7, 0, 2);
		if (k->setup != NULL)
			k->setup(k->c[i], k->ctx);
		cluster_start(k->c[i]);
	}
	for (unsigned i = 0; i < n; i++)
		for (unsigned j = 0; j < n; j++)
			if (i != j)
				cluster_meet(k->c[i], k->c[j]);
	cluster_view(k, 1, n);
}

static inline void cluster_down(struct cluster *k)
{
	for (unsigned i = 0; i < k->n; i++)
		if (k->c[i] != NULL)
			comm_stop(k->c[i]);
	for (unsigned i = 0; i < k->n; i++)
		comm_free(k->c[i]);
}
#endif
