/* cmd_execs.c - krg execs: which programs executed on which node. */
#include "conn.h"

static long long total(const json_t *nodes)
{
	long long sum = 0;
	const char *node;
	json_t *n;

	json_object_foreach((json_t *)(uintptr_t)nodes, node, n) sum += json_integer_value(n);
	return sum;
}

static int nodes_of(const json_t *programs)
{
	const char *name, *node;
	json_t *nodes, *n;
	int top = -1;

	json_object_foreach((json_t *)(uintptr_t)programs, name, nodes)
		json_object_foreach(nodes, node, n) top = KRG_MAX(top, (int)strtol(node, NULL, 10));
	return top + 1;
}

static void print_row(const char *name, const json_t *nodes, int n)
{
	(void)printf("%-20s", name);
	for (int i = 0; i < n; i++) {
		char key[16];

		(void)snprintf(key, sizeof(key), "%d", i);
		(void)printf(" %8lld", (long long)json_integer_value(json_object_get(nodes, key)));
	}
	(void)printf(" %8lld\n", total(nodes));
}

static void print_execs(const json_t *answer)
{
	json_t *programs = json_object_get(answer, "programs"), *nodes;
	int n = nodes_of(programs);
	const char *name;

	(void)printf("%-20s", "PROGRAM");
	for (int i = 0; i < n; i++)
		(void)printf("   NODE %d", i);
	(void)printf("    TOTAL\n");
	json_object_foreach(programs, name, nodes) print_row(name, nodes, n);
}

int cmd_execs(const struct cmd *cmd, int argc, char **argv)
{
	return conn_listing(cmd, argc, argv, "execs", print_execs);
}
