#include "krgd.h"
#include "clock.h"
#include "log.h"
#include <dirent.h>

/* ---- what hotplug says ---- */

static void on_node_up(void *ctx, nodeid node, u64 view)
{
	LOG_I("krgd", "view %llu: node %u is in", (unsigned long long)view, node);
	service_node_up(((struct krgd *)ctx)->services, node, view);
}

static void on_node_down(void *ctx, nodeid node, u64 view)
{
	LOG_I("krgd", "view %llu: node %u is out", (unsigned long long)view, node);
	service_node_down(((struct krgd *)ctx)->services, node, view);
}

static void on_quorum(void *ctx, bool have, u64 view)
{
	(void)ctx;
	if (have)
		LOG_I("krgd", "view %llu: the majority is back", (unsigned long long)view);
	else
		LOG_W("krgd", "view %llu: the majority is gone", (unsigned long long)view);
}

static void on_removed(void *ctx, u64 view)
{
	(void)ctx;
	LOG_W("krgd", "view %llu: this node is not in any more", (unsigned long long)view);
}

static const struct hotplug_ops hotplug_ops = {
	.node_up = on_node_up,
	.node_down = on_node_down,
	.quorum = on_quorum,
	.removed = on_removed,
};

/* ---- make ---- */

/* krginit is forked by epm_new(): a child of a process with threads may hold anybody's lock. */
static void assert_one_thread(void)
{
	DIR *d = opendir("/proc/self/task");
	unsigned n = 0;

	while (d != NULL && readdir(d) != NULL)
		n++;
	if (d != NULL)
		(void)closedir(d);
	ASSERT(d == NULL || n == 3); /* ".", ".." and the one */
}

static int new_comm(struct krgd *k, struct krg_err *err)
{
	struct comm_config config = {.self = k->config.node,
				     .listen_addr = k->config.addr,
				     .listen_port = k->config.port,
				     .workers = 4};

	memcpy(config.cluster, k->config.cluster, sizeof(config.cluster));
	memcpy(config.key, k->config.key, sizeof(config.key));
	return comm_new(&config, &k->comm, err);
}

static int new_hotplug(struct krgd *k, struct krg_err *err)
{
	struct hotplug_config config = {.self = k->config.node,
					.port = k->config.port,
					.heartbeat_ms = k->config.heartbeat_ms,
					.fail_after_ms = 10 * k->config.heartbeat_ms,
					.seeds = k->config.seeds,
					.nseeds = k->config.nseeds};

	memcpy(config.name, k->config.name, sizeof(config.name));
	memcpy(config.addr, k->config.addr, sizeof(config.addr));
	return hotplug_new(k->comm, &config, &hotplug_ops, k, &k->hotplug, err);
}

static int new_epm(struct krgd *k, struct krg_err *err)
{
	struct epm_config config = {.comm = k->comm,
				    .stream = k->stream,
				    .run_dir = k->config.run_dir,
				    .libexec_dir = k->config.libexec,
				    .host_name = k->config.name,
				    .keep_ms = k->config.keep_ms};

	assert_one_thread();
	return epm_new(&config, &k->epm, err);
}

/* Tasks of this node's world that run or want to. */
static unsigned runnable(void *ctx)
{
	return epm_runnable(((struct krgd *)ctx)->epm);
}

static int new_sched(struct krgd *k, struct krg_err *err)
{
	struct sched_config config = {.comm = k->comm,
				      .cpus = k->config.cpus,
				      .policy = k->config.policy,
				      .runnable = runnable,
				      .ctx = k};
	int r = sched_new(&config, &k->sched, err);

	if (r == 0)
		epm_set_placement(k->epm, sched_placement_ops(), k->sched);
	return r;
}

static int new_parts(struct krgd *k, struct krg_err *err)
{
	struct stream_config sconfig = {.run_dir = k->config.run_dir};
	struct door_config dconfig = {.path = k->door_path,
				      .node = k->config.node,
				      .ops = krgd_ops,
				      .nops = krgd_ops_nr,
				      .ctx = k};
	int r = new_comm(k, err);

	if (r == 0)
		r = stream_new(k->comm, &sconfig, &k->stream, err);
	if (r == 0)
		r = new_epm(k, err);
	if (r == 0)
		r = new_sched(k, err);
	if (r == 0)
		r = new_hotplug(k, err);
	if (r == 0)
		r = door_new(&dconfig, &k->door, err);
	k->services = service_set_new();
	return r == 0 ? krgd_services_add(k, err) : r;
}

int krgd_new(const struct krgd_config *config, struct krgd **ret, struct krg_err *err)
{
	struct krgd *k = krg_xalloc(sizeof(*k));
	int r;

	k->config = *config;
	krg_mutex_init(&k->runs_lock);
	k->start_ns = krg_clock_now_ns();
	(void)snprintf(k->door_path, sizeof(k->door_path), "%s/%s", config->run_dir,
		       DOOR_SOCKET_NAME);
	r = new_parts(k, err);
	if (r < 0) {
		krgd_free(k);
		return r;
	}
	*ret = k;
	return 0;
}

int krgd_start(struct krgd *k, struct krg_err *err)
{
	int r;

	krgd_trace_register(k);
	krgd_nodes_register(k);
	krgd_execs_register(k);
	r = comm_start(k->comm, err);
	if (r < 0)
		return r;
	k->comm_started = true;
	r = service_start_all(k->services, err);
	if (r < 0)
		return r;
	k->services_started = true;
	LOG_I("krgd", "node %u of cluster %s serves after %llu ms", k->config.node,
	      k->config.cluster,
	      (unsigned long long)((krg_clock_now_ns() - k->start_ns) / KRG_MSEC));
	return 0;
}

void krgd_stop(struct krgd *k)
{
	if (k->services_started)
		service_stop_all(k->services);
	if (k->comm_started)
		comm_stop(k->comm);
	krgd_runs_end(k);
	door_stop(k->door);
	krgd_runs_end(k); /* of requests that were still under way */
	k->services_started = k->comm_started = false;
}

void krgd_free(struct krgd *k)
{
	if (k->door != NULL)
		door_free(k->door);
	if (k->hotplug != NULL)
		hotplug_free(k->hotplug);
	if (k->epm != NULL)
		epm_free(k->epm);
	if (k->sched != NULL)
		sched_free(k->sched);
	if (k->stream != NULL)
		stream_free(k->stream);
	if (k->comm != NULL)
		comm_free(k->comm);
	if (k->services != NULL)
		service_set_free(k->services);
	krg_mutex_fini(&k->runs_lock);
	free(k);
}
