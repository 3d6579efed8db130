/* krgd_nodes.c - the nodes of the cluster, as people want to see them, and their coming and going. */
#include "krgd.h"
#include "rec.h"

#define OP_NODE	  COMM_OP(COMM_SVC_KRGD, 3)
#define ASK_MS	  1000
#define CHANGE_MS 10000

/* What only the node itself knows. */
#define REC_KRGD_NODE(F)                                                                           \
	F(u64, mem_total) /* bytes */                                                              \
	F(u64, mem_free)  /* bytes that can be had without swapping */                             \
	F(u32, procs)	  /* of the world */
KRG_RECORD(krgd_node, 0x604, REC_KRGD_NODE)

static u64 meminfo(const char *text, const char *name)
{
	const char *at = strstr(text, name);

	return at != NULL ? strtoull(at + strlen(name), NULL, 10) * 1024 : 0;
}

static void handle_node(void *ctx, struct comm_req *req)
{
	KRG_AUTO_BUF struct krg_buf procs = {0};
	KRG_AUTO_BUF struct krg_buf b = {0};
	struct rec_krgd_node n = {0};
	struct krgd *k = ctx;
	char text[4096];

	if (krg_read_file("/proc/meminfo", text, sizeof(text)) > 0) {
		n.mem_total = meminfo(text, "MemTotal:");
		n.mem_free = meminfo(text, "MemAvailable:");
	}
	n.procs = epm_list_local(k->epm, &procs);
	rec_krgd_node_encode(&n, &b);
	comm_req_answer(req, &b);
}

void krgd_nodes_register(struct krgd *k)
{
	comm_register(k->comm, OP_NODE, 0, handle_node, k);
}

unsigned krgd_members(struct krgd *k, nodeid *ret)
{
	unsigned n = 0;

	for (nodeid node = 0; node < KRG_NODES_MAX; node++)
		if (comm_is_member(k->comm, node))
			ret[n++] = node;
	return n;
}

/* [net] Who does not answer keeps have[node] false. */
static void ask_members(struct krgd *k, struct rec_krgd_node *ret, bool *have)
{
	KRG_AUTO_BUF struct krg_buf args = {0};
	struct comm_reply reply[KRG_NODES_MAX] = {0};
	int code[KRG_NODES_MAX];
	nodeid to[KRG_NODES_MAX];
	unsigned n = krgd_members(k, to);

	(void)!comm_call_many(k->comm, to, n, OP_NODE, &args, ASK_MS, reply, code);
	for (unsigned i = 0; i < n; i++) {
		struct krg_rd rd;

		if (code[i] < 0)
			continue;
		rd = krg_rd_slice(reply[i].body);
		have[to[i]] = rec_krgd_node_decode(&rd, &ret[to[i]]) == 0;
		comm_reply_fini(&reply[i]);
	}
}

static const char *node_state(enum hotplug_node_state state)
{
	static const char *const name[] = {
		[HOTPLUG_ABSENT] = "absent",
		[HOTPLUG_PRESENT] = "present",
		[HOTPLUG_ONLINE] = "online",
	};

	ASSERT((size_t)state < KRG_NELEM(name));
	return name[state];
}

/* What sched knows of it; members only. */
static void put_load(struct krgd *k, json_t *node)
{
	struct sched_node load[KRG_NODES_MAX];
	unsigned n = sched_nodes(k->sched, load, KRG_NELEM(load));

	for (unsigned i = 0; i < KRG_MIN(n, (unsigned)KRG_NELEM(load)); i++) {
		if (load[i].node != json_integer_value(json_object_get(node, "node")))
			continue;
		(void)json_object_set_new(node, "load", json_real(load[i].load));
		(void)json_object_set_new(node, "cpus", json_real(load[i].cpus));
		(void)json_object_set_new(node, "runnable", json_integer(load[i].runnable));
	}
}

static json_t *node_json(struct krgd *k, const struct hotplug_node *node,
			 const struct rec_krgd_node *told)
{
	char addr[80];
	json_t *n;

	(void)snprintf(addr, sizeof(addr), "%s:%u", node->addr, node->port);
	n = json_pack("{s:i, s:o, s:o, s:s, s:I}", "node", (int)node->node, "name",
		      krgd_json_text(node->name, strlen(node->name)), "addr",
		      krgd_json_text(addr, strlen(addr)), "state", node_state(node->state),
		      "heard_ms_ago", (json_int_t)node->heard_ms_ago);
	if (node->state == HOTPLUG_ONLINE)
		put_load(k, n);
	if (told != NULL) {
		(void)json_object_set_new(n, "mem_total",
					  json_integer((json_int_t)told->mem_total));
		(void)json_object_set_new(n, "mem_free", json_integer((json_int_t)told->mem_free));
		(void)json_object_set_new(n, "procs", json_integer(told->procs));
	}
	return n;
}

int krgd_op_node_ls(void *ctx, struct door_req *req, json_t *answer, struct krg_err *err)
{
	struct krgd *k = ctx;
	struct rec_krgd_node told[KRG_NODES_MAX];
	bool have[KRG_NODES_MAX] = {false};
	struct hotplug_node node[KRG_NODES_MAX];
	unsigned count = hotplug_nodes(k->hotplug, node, KRG_NELEM(node));
	json_t *nodes = json_array();

	(void)req;
	(void)err;
	ask_members(k, told, have);
	for (unsigned i = 0; i < KRG_MIN(count, (unsigned)KRG_NELEM(node)); i++) {
		nodeid id = node[i].node;

		ASSERT(id < KRG_NODES_MAX);
		(void)json_array_append_new(nodes,
					    node_json(k, &node[i], have[id] ? &told[id] : NULL));
	}
	(void)json_object_set_new(answer, "view",
				  json_integer((json_int_t)hotplug_view(k->hotplug)));
	(void)json_object_set_new(answer, "quorum", json_boolean(hotplug_has_quorum(k->hotplug)));
	(void)json_object_set_new(answer, "nodes", nodes);
	return 0;
}

static int node_change(struct krgd *k, const struct door_req *req,
		       int (*change)(struct hotplug *h, nodeid node, u64 timeout_ms,
				     struct krg_err *err),
		       const char *what, struct krg_err *err)
{
	const json_t *nodes = json_object_get(req->body, "nodes"), *n;
	size_t i;

	if (!json_is_array(nodes) || json_array_size(nodes) > KRG_NODES_MAX)
		return krg_err_set(err, -EINVAL, "%s: nodes", what);
	json_array_foreach((json_t *)(uintptr_t)nodes, i,
			   n) if (!json_is_integer(n) || json_integer_value(n) < 0 ||
				  json_integer_value(n) >=
					  KRG_NODES_MAX) return krg_err_set(err, -EINVAL,
									    "%s: nodes[%zu]", what,
									    i);
	json_array_foreach((json_t *)(uintptr_t)nodes, i, n)
	{
		nodeid node = (nodeid)json_integer_value(n);
		int r = change(k->hotplug, node, CHANGE_MS, err);

		if (r < 0)
			return krg_err_prefix(err, r, "%s %u", what, node);
	}
	return 0;
}

int krgd_op_node_add(void *ctx, struct door_req *req, json_t *answer, struct krg_err *err)
{
	(void)answer;
	return node_change(ctx, req, hotplug_add, "node.add", err);
}

int krgd_op_node_del(void *ctx, struct door_req *req, json_t *answer, struct krg_err *err)
{
	(void)answer;
	return node_change(ctx, req, hotplug_del, "node.del", err);
}
