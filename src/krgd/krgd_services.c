/* krgd_services.c - the parts as services.  Started in this order: what answers other nodes first,
 * then the view, then the door; stopped the other way round. */
#include "krgd.h"
#include "log.h"

static int stream_svc_start(void *ctx, struct krg_err *err)
{
	return stream_start(((struct krgd *)ctx)->stream, err);
}

static void stream_svc_stop(void *ctx)
{
	stream_stop(((struct krgd *)ctx)->stream);
}

static void stream_svc_down(void *ctx, nodeid node, u64 view)
{
	(void)view;
	stream_node_down(((struct krgd *)ctx)->stream, node);
}

typedef void (*stat_put)(void *arg, const char *name, const char *unit, u64 value);

static void stream_svc_stat(void *ctx, stat_put put, void *arg)
{
	struct stream_stat st;

	stream_stat_get(((struct krgd *)ctx)->stream, &st);
	put(arg, "exports", "1", st.exports);
	put(arg, "imports", "1", st.imports);
	put(arg, "standin_ops", "1", st.standin_ops);
	put(arg, "relays", "1", st.relays);
	put(arg, "relayed_bytes", "bytes", st.relayed_bytes);
}

static int epm_svc_start(void *ctx, struct krg_err *err)
{
	return epm_start(((struct krgd *)ctx)->epm, err);
}

static void epm_svc_stop(void *ctx)
{
	epm_stop(((struct krgd *)ctx)->epm);
}

static void epm_svc_up(void *ctx, nodeid node, u64 view)
{
	epm_node_up(((struct krgd *)ctx)->epm, node, view);
}

static void epm_svc_down(void *ctx, nodeid node, u64 view)
{
	epm_node_down(((struct krgd *)ctx)->epm, node, view);
}

static void epm_svc_stat(void *ctx, stat_put put, void *arg)
{
	struct epm_stat st;

	epm_stat_get(((struct krgd *)ctx)->epm, &st);
	put(arg, "gate_calls", "1", st.gate_calls);
	put(arg, "execs_local", "1", st.execs_local);
	put(arg, "execs_placed", "1", st.execs_placed);
	put(arg, "bodies", "1", st.bodies);
	put(arg, "deputies", "1", st.deputies);
	put(arg, "signals", "1", st.signals);
}

static int sched_svc_start(void *ctx, struct krg_err *err)
{
	return sched_start(((struct krgd *)ctx)->sched, err);
}

static void sched_svc_stop(void *ctx)
{
	sched_stop(((struct krgd *)ctx)->sched);
}

static void sched_svc_up(void *ctx, nodeid node, u64 view)
{
	sched_node_up(((struct krgd *)ctx)->sched, node, view);
}

static void sched_svc_down(void *ctx, nodeid node, u64 view)
{
	sched_node_down(((struct krgd *)ctx)->sched, node, view);
}

static int hotplug_svc_start(void *ctx, struct krg_err *err)
{
	struct krgd *k = ctx;

	return hotplug_start(k->hotplug, k->config.join_ms, err);
}

static void hotplug_svc_stop(void *ctx)
{
	struct krg_err err;
	struct krgd *k = ctx;

	if (hotplug_leave(k->hotplug, KRGD_LEAVE_MS, &err) < 0)
		LOG_W("krgd", "leave the view: %s", err.text);
	hotplug_stop(k->hotplug);
}

static void hotplug_svc_stat(void *ctx, stat_put put, void *arg)
{
	struct krgd *k = ctx;
	struct comm_stat st;

	comm_stat_get(k->comm, &st);
	put(arg, "view", "1", hotplug_view(k->hotplug));
	put(arg, "comm_calls", "1", st.calls);
	put(arg, "comm_answers", "1", st.answers);
	put(arg, "comm_errors", "1", st.errors);
	put(arg, "comm_stale", "1", st.stale);
	put(arg, "comm_in_flight", "1", st.in_flight);
	put(arg, "comm_latency_mean", "ns", st.answers > 0 ? st.latency_ns_sum / st.answers : 0);
	put(arg, "comm_latency_max", "ns", st.latency_ns_max);
	put(arg, "comm_workers", "1", st.workers);
	put(arg, "comm_workers_busy", "1", st.workers_busy);
	put(arg, "comm_queued", "1", st.queued);
}

static int return_svc_start(void *ctx, struct krg_err *err)
{
	return epm_return(((struct krgd *)ctx)->epm, err);
}

static int door_svc_start(void *ctx, struct krg_err *err)
{
	return door_start(((struct krgd *)ctx)->door, err);
}

static void door_svc_stop(void *ctx)
{
	/* refuses from now on; krgd_stop() closes it once the ends of processes were told */
	door_refuse(((struct krgd *)ctx)->door);
}

static void door_svc_stat(void *ctx, stat_put put, void *arg)
{
	struct door_stat st;

	door_stat_get(((struct krgd *)ctx)->door, &st);
	put(arg, "accepted", "1", st.accepted);
	put(arg, "refused", "1", st.refused);
	put(arg, "requests", "1", st.requests);
	put(arg, "events", "1", st.events);
	put(arg, "broken", "1", st.broken);
	put(arg, "clients", "1", st.clients);
	put(arg, "workers", "1", st.workers);
}

static const struct service_ops services[] = {
	{.name = "stream",
	 .start = stream_svc_start,
	 .stop = stream_svc_stop,
	 .node_down = stream_svc_down,
	 .stat = stream_svc_stat},
	{.name = "epm",
	 .after = (const char *const[]){"stream", NULL},
	 .start = epm_svc_start,
	 .stop = epm_svc_stop,
	 .node_up = epm_svc_up,
	 .node_down = epm_svc_down,
	 .stat = epm_svc_stat},
	{.name = "sched",
	 .after = (const char *const[]){"epm", NULL},
	 .start = sched_svc_start,
	 .stop = sched_svc_stop,
	 .node_up = sched_svc_up,
	 .node_down = sched_svc_down},
	{.name = "hotplug",
	 .after = (const char *const[]){"stream", "epm", "sched", NULL},
	 .start = hotplug_svc_start,
	 .stop = hotplug_svc_stop,
	 .stat = hotplug_svc_stat},
	/* a world that was found is served again, once the others can be asked */
	{.name = "return",
	 .after = (const char *const[]){"hotplug", NULL},
	 .start = return_svc_start},
	{.name = "door",
	 .after = (const char *const[]){"return", NULL},
	 .start = door_svc_start,
	 .stop = door_svc_stop,
	 .stat = door_svc_stat},
};

int krgd_services_add(struct krgd *k, struct krg_err *err)
{
	int r = 0;

	for (unsigned i = 0; r == 0 && i < KRG_NELEM(services); i++)
		r = service_add(k->services, &services[i], k, err);
	return r;
}
