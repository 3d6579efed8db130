/* krgadm - the original's administration command, on the same door as krg. */
#include "conn.h"
#include <locale.h>

const char *cmd_prog(void)
{
	return "krgadm";
}

struct nodes {
	json_t *answer, *list;
};

static int ask_nodes(const struct cmd_common *common, struct nodes *ret)
{
	int r = conn_ask(common, json_pack("{s:s}", "op", "node.ls"), &ret->answer);

	if (r == CMD_OK)
		ret->list = json_object_get(ret->answer, "nodes");
	return r;
}

static bool in_state(const json_t *node, const char *state)
{
	return strcmp(conn_str(node, "state", ""), state) == 0;
}

static unsigned count(const struct nodes *n, const char *state)
{
	unsigned c = 0;
	size_t i;
	json_t *node;

	json_array_foreach(n->list, i, node) c += in_state(node, state);
	return c;
}

/* ---- cluster ---- */

static int cluster_status(const struct cmd *cmd, int argc, char **argv)
{
	struct cmd_common common = {.node = -1};
	struct nodes n;
	unsigned online;
	int r = cmd_getopt_none(cmd, &common, argc, argv);

	if (r == CMD_OK)
		r = ask_nodes(&common, &n);
	if (r != CMD_OK)
		return r < 0 ? CMD_OK : r;
	online = count(&n, "online");
	if (common.json)
		r = cmd_json(n.answer);
	else
		(void)printf("status: up on %u node%s\n", online, online == 1 ? "" : "s");
	json_decref(n.answer);
	return r;
}

static int cluster_power(const struct cmd *cmd, int argc, char **argv)
{
	struct cmd_common common = {.node = -1};
	int r = cmd_getopt_none(cmd, &common, argc, argv);

	if (r != CMD_OK)
		return r < 0 ? CMD_OK : r;
	return cmd_failf("%s: not supported yet: stop krgd on each node, then the machine",
			 cmd->name);
}

/* ---- nodes ---- */

struct pick {
	json_t *list; /* -n */
	long number, total;
	bool all;
	unsigned given;
};

static int pick_getopt(const struct cmd *cmd, struct cmd_common *common, struct pick *p, int argc,
		       char **argv, const char *shorts)
{
	int opt;

	*p = (struct pick){.list = json_array(), .number = -1, .total = -1};
	while ((opt = cmd_getopt(cmd, common, argc, argv, shorts, NULL)) != -1) {
		if (opt == CMD_OPT_HELP)
			return -1;
		if (opt == '?')
			return CMD_USAGE;
		p->given++;
		if (opt == 'n' && cmd_node_list(optarg, p->list) < 0)
			return cmd_usage(cmd, "-n '%s': not a list of nodes", optarg);
		if (opt == 'c' && !cmd_number(optarg, 1, KRG_NODES_MAX, &p->number))
			return cmd_usage(cmd, "-c '%s': not a number of nodes", optarg);
		if (opt == 't' && !cmd_number(optarg, 1, KRG_NODES_MAX, &p->total))
			return cmd_usage(cmd, "-t '%s': not a number of nodes", optarg);
		p->all |= opt == 'a';
	}
	if (optind < argc)
		return cmd_usage(cmd, "what is '%s'?", argv[optind]);
	return CMD_OK;
}

static bool listed(const json_t *list, i64 node)
{
	size_t i;
	json_t *n;

	json_array_foreach((json_t *)(uintptr_t)list, i,
			   n) if (json_integer_value(n) == node) return true;
	return false;
}

static int nodes_status(const struct cmd *cmd, int argc, char **argv)
{
	struct cmd_common common = {.node = -1};
	struct nodes n;
	struct pick p;
	json_t *node;
	size_t i;
	int r = pick_getopt(cmd, &common, &p, argc, argv, "n:");

	if (r == CMD_OK)
		r = ask_nodes(&common, &n);
	for (i = r == CMD_OK && p.given > 0 ? json_array_size(n.list) : 0; i-- > 0;)
		if (!listed(p.list, conn_int(json_array_get(n.list, i), "node", -1)))
			(void)json_array_remove(n.list, i);
	if (r == CMD_OK && common.json)
		r = cmd_json(n.answer);
	else if (r == CMD_OK)
		json_array_foreach(n.list, i, node)(void)
			printf("%lld:%s\n", (long long)conn_int(node, "node", -1),
			       conn_str(node, "state", "?"));
	if (r == CMD_OK)
		json_decref(n.answer);
	json_decref(p.list);
	return r < 0 ? CMD_OK : r;
}

/* As many as wanted of those in `state`, lowest first when they come, highest first when they go;
 * never the node that is asked. */
static int choose(const struct pick *p, const struct nodes *n, bool add, i64 self, json_t *ret)
{
	size_t have = json_array_size(n->list);
	long online = (long)count(n, "online"), want = p->number;

	if (p->total >= 0)
		want = add ? p->total - online : online - p->total;
	if (p->all)
		want = KRG_NODES_MAX;
	for (size_t i = 0; i < have && want > 0; i++) {
		const json_t *node = json_array_get(n->list, add ? i : have - 1 - i);
		i64 id = conn_int(node, "node", -1);

		if (id == self || !in_state(node, add ? "present" : "online"))
			continue;
		(void)json_array_append_new(ret, json_integer(id));
		want--;
	}
	return p->all || want <= 0 ? CMD_OK : cmd_failf("nodes: %ld too few are there", want);
}

static int ask_self(const struct cmd_common *common, i64 *ret)
{
	json_t *answer = NULL;
	int r = conn_ask(common, json_pack("{s:s}", "op", "version"), &answer);

	if (r == CMD_OK)
		*ret = conn_int(answer, "node", -1);
	json_decref(answer);
	return r;
}

static int pick_nodes(const struct cmd_common *common, const struct pick *p, bool add, json_t *ret)
{
	struct nodes n;
	i64 self = -1;
	int r;

	if (json_array_size(p->list) > 0)
		return json_array_extend(ret, p->list) < 0 ? CMD_FAIL : CMD_OK;
	r = ask_self(common, &self);
	if (r == CMD_OK)
		r = ask_nodes(common, &n);
	if (r != CMD_OK)
		return r;
	r = choose(p, &n, add, self, ret);
	json_decref(n.answer);
	return r;
}

static int nodes_change(const struct cmd *cmd, bool add, int argc, char **argv)
{
	struct cmd_common common = {.node = -1};
	json_t *nodes = json_array();
	struct pick p;
	int r = pick_getopt(cmd, &common, &p, argc, argv, "n:c:t:a");

	if (r == CMD_OK && p.given != 1)
		r = cmd_usage(cmd, "one of -n, -c, -t, -a");
	if (r == CMD_OK)
		r = pick_nodes(&common, &p, add, nodes);
	if (r == CMD_OK && json_array_size(nodes) > 0)
		r = conn_ask(&common,
			     json_pack("{s:s, s:O}", "op", add ? "node.add" : "node.del", "nodes",
				       nodes),
			     NULL);
	json_decref(nodes);
	json_decref(p.list);
	return r < 0 ? CMD_OK : r;
}

static int nodes_add(const struct cmd *cmd, int argc, char **argv)
{
	return nodes_change(cmd, true, argc, argv);
}

static int nodes_del(const struct cmd *cmd, int argc, char **argv)
{
	return nodes_change(cmd, false, argc, argv);
}

#define CHANGE_HELP                                                                                \
	"  -n LIST              these: 1,3,6-10\n"                                                 \
	"  -c COUNT             so many\n"                                                         \
	"  -t TOTAL             so that TOTAL are online\n"                                        \
	"  -a                   all that can\n"

static const struct cmd table[] = {
	{"cluster status", "", "Say on how many nodes the cluster is up", NULL, cluster_status},
	{"cluster poweroff", "", "Switch all nodes off (not supported yet)", NULL, cluster_power},
	{"cluster reboot", "", "Restart all nodes (not supported yet)", NULL, cluster_power},
	{"nodes status", "[-n LIST]", "List the nodes: present or online",
	 "  -n LIST              these only: 1,3,6-10\n", nodes_status},
	{"nodes add", "-n LIST | -c COUNT | -t TOTAL | -a", "Take present nodes into the cluster",
	 CHANGE_HELP, nodes_add},
	{"nodes del", "-n LIST | -c COUNT | -t TOTAL | -a",
	 "Take nodes out of the cluster (never the one that is asked, but with -n)", CHANGE_HELP,
	 nodes_del},
};

static void help_all(FILE *f)
{
	(void)fprintf(f, "Usage: krgadm COMMAND …\n\n");
	for (unsigned i = 0; i < KRG_NELEM(table); i++)
		(void)fprintf(f, "  %-16s %s\n", table[i].name, table[i].what);
}

int main(int argc, char **argv)
{
	char name[64];

	(void)setlocale(LC_CTYPE, "");
	if (argc == 2 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "help") == 0)) {
		help_all(stdout);
		return CMD_OK;
	}
	(void)snprintf(name, sizeof(name), "%s %s", argc > 1 ? argv[1] : "",
		       argc > 2 ? argv[2] : "");
	for (unsigned i = 0; argc > 2 && i < KRG_NELEM(table); i++)
		if (strcmp(table[i].name, name) == 0)
			return table[i].run(&table[i], argc - 2, argv + 2);
	if (argc < 2)
		help_all(stderr);
	return cmd_usage(NULL, "no command '%s' (krgadm --help)", name);
}
