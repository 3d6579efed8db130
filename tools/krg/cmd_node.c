/* cmd_node.c - krg node: who is in. */
#include "conn.h"

static const char *size_text(i64 bytes, char *ret, size_t max)
{
	static const char unit[] = "BKMGTP";
	double v = (double)bytes;
	unsigned u = 0;

	if (bytes < 0)
		return "-";
	while (v >= 1024 && u + 2 < sizeof(unit)) {
		v /= 1024;
		u++;
	}
	(void)snprintf(ret, max, u > 0 && v < 100 ? "%.1f%c" : "%.0f%c", v, unit[u]);
	return ret;
}

static const char *real_text(double v, char *ret, size_t max)
{
	if (v < 0)
		return "-";
	(void)snprintf(ret, max, "%.2f", v);
	return ret;
}

static void print_nodes(const json_t *answer)
{
	size_t i;
	json_t *n;

	(void)printf("%4s %-16s %-22s %-8s %6s %6s %7s %7s %6s\n", "NODE", "NAME", "ADDRESS",
		     "STATE", "LOAD", "CPUS", "MEMORY", "FREE", "PROCS");
	json_array_foreach(json_object_get(answer, "nodes"), i, n)
	{
		char load[32], cpus[32], total[32], free_mem[32], procs[32] = "-";
		i64 np = conn_int(n, "procs", -1);

		if (np >= 0)
			(void)snprintf(procs, sizeof(procs), "%lld", (long long)np);
		(void)printf("%4lld %-16s %-22s %-8s %6s %6s %7s %7s %6s\n",
			     (long long)conn_int(n, "node", -1), conn_str(n, "name", "-"),
			     conn_str(n, "addr", "-"), conn_str(n, "state", "-"),
			     real_text(conn_real(n, "load", -1), load, sizeof(load)),
			     real_text(conn_real(n, "cpus", -1), cpus, sizeof(cpus)),
			     size_text(conn_int(n, "mem_total", -1), total, sizeof(total)),
			     size_text(conn_int(n, "mem_free", -1), free_mem, sizeof(free_mem)),
			     procs);
	}
	(void)printf("view %lld, %s\n", (long long)conn_int(answer, "view", -1),
		     json_is_true(json_object_get(answer, "quorum")) ? "quorum" : "NO QUORUM");
}

int cmd_node_ls(const struct cmd *cmd, int argc, char **argv)
{
	return conn_listing(cmd, argc, argv, "node.ls", print_nodes);
}

static int change(const struct cmd *cmd, const char *op, int argc, char **argv)
{
	struct cmd_common common = {.node = -1};
	json_t *nodes = json_array();
	int r = cmd_getopt_none(cmd, &common, argc, argv);

	if (r == CMD_OK && optind >= argc)
		r = cmd_usage(cmd, "which nodes?");
	for (int i = optind; r == CMD_OK && i < argc; i++)
		if (cmd_node_list(argv[i], nodes) < 0)
			r = cmd_usage(cmd, "'%s': not a list of nodes", argv[i]);
	if (r != CMD_OK) {
		json_decref(nodes);
		return r < 0 ? CMD_OK : r;
	}
	return conn_ask(&common, json_pack("{s:s, s:o}", "op", op, "nodes", nodes), NULL);
}

int cmd_node_add(const struct cmd *cmd, int argc, char **argv)
{
	return change(cmd, "node.add", argc, argv);
}

int cmd_node_del(const struct cmd *cmd, int argc, char **argv)
{
	return change(cmd, "node.del", argc, argv);
}

/* krg node ID: everything about one. */
int cmd_node_show(const struct cmd *cmd, int argc, char **argv)
{
	struct cmd_common common = {.node = -1};
	json_t *answer = NULL, *n, *found = NULL;
	const char *key;
	json_t *value;
	size_t i;
	long id;
	int r = cmd_getopt_none(cmd, &common, argc, argv);

	if (r != CMD_OK)
		return r < 0 ? CMD_OK : r;
	if (optind + 1 != argc)
		return cmd_usage(cmd, "which node?");
	if (!cmd_number(argv[optind], 0, KRG_NODES_MAX - 1, &id))
		return cmd_usage(cmd, "'%s' is no node's number (krg node ls lists them)",
				 argv[optind]);
	r = conn_ask(&common, json_pack("{s:s}", "op", "node.ls"), &answer);
	if (r != CMD_OK)
		return r;
	json_array_foreach(json_object_get(answer, "nodes"), i,
			   n) if (conn_int(n, "node", -1) == id) found = n;
	if (found == NULL) {
		r = cmd_failf("node %ld: not known", id);
	} else if (common.json) {
		r = cmd_json(found);
	} else {
		json_object_foreach(found, key, value)
		{
			char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_REAL_PRECISION(4));

			(void)printf("%-10s %s\n", key,
				     json_is_string(value) ? json_string_value(value) : text);
			free(text);
		}
	}
	json_decref(answer);
	return r;
}
