/* cmd_stat.c - krg stat, krg trace, krg version: what the daemon does and is. */
#include "conn.h"

/* "name value unit" for each counter; a counter is a number, or {value, unit}. */
static void print_counters(const json_t *counters)
{
	const char *name;
	json_t *c;

	json_object_foreach((json_t *)(uintptr_t)counters, name, c)
	{
		const json_t *v = json_is_object(c) ? json_object_get(c, "value") : c;
		const char *unit = conn_str(c, "unit", "");

		(void)printf("  %-24s %16lld %s\n", name, (long long)json_integer_value(v),
			     strcmp(unit, "1") == 0 ? "" : unit);
	}
}

static void print_stat(const json_t *answer)
{
	json_t *s;
	size_t i;

	json_array_foreach(json_object_get(answer, "services"), i, s)
	{
		(void)printf("%s (%s)\n", conn_str(s, "name", "?"), conn_str(s, "state", "?"));
		print_counters(json_object_get(s, "counters"));
	}
	json_array_foreach(json_object_get(answer, "links"), i, s)
	{
		(void)printf("link to node %lld\n", (long long)conn_int(s, "node", -1));
		print_counters(json_object_get(s, "counters"));
	}
}

int cmd_stat(const struct cmd *cmd, int argc, char **argv)
{
	return conn_listing(cmd, argc, argv, "stat", print_stat);
}

int cmd_trace(const struct cmd *cmd, int argc, char **argv)
{
	struct cmd_common common = {.node = -1};
	json_t *answer = NULL, *e;
	long max = 1000;
	size_t i;
	int opt, r;

	while ((opt = cmd_getopt(cmd, &common, argc, argv, "n:", NULL)) == 'n')
		if (!cmd_number(optarg, 1, 1000000, &max))
			return cmd_usage(cmd, "-n '%s': not a number of events", optarg);
	if (opt != -1)
		return opt == CMD_OPT_HELP ? CMD_OK : CMD_USAGE;
	if (optind < argc)
		return cmd_usage(cmd, "what is '%s'?", argv[optind]);
	r = conn_ask(&common, json_pack("{s:s, s:i}", "op", "trace", "max", (int)max), &answer);
	if (r != CMD_OK)
		return r;
	(void)json_object_del(answer, "ok");
	if (common.json) {
		r = cmd_json(answer);
	} else {
		json_array_foreach(json_object_get(answer, "events"), i, e)
		{
			u64 ns = (u64)conn_int(e, "time_ns", 0);

			(void)printf("%8llu.%06llu node %-3lld %016llx %s\n",
				     (unsigned long long)(ns / 1000000000),
				     (unsigned long long)(ns / 1000 % 1000000),
				     (long long)conn_int(e, "node", -1),
				     (unsigned long long)conn_int(e, "call", 0),
				     conn_str(e, "text", "?"));
		}
	}
	json_decref(answer);
	return r;
}

static void print_version(const json_t *a)
{
	const char *name;
	json_t *v;

	if (a == NULL)
		return;
	(void)printf("daemon %s, protocol %lld, node %lld of cluster %s\nkernel %s\n",
		     conn_str(a, "version", "?"), (long long)conn_int(a, "protocol", -1),
		     (long long)conn_int(a, "node", -1), conn_str(a, "cluster", "?"),
		     conn_str(a, "kernel", "?"));
	json_object_foreach(json_object_get(a, "features"), name, v)(void)
		printf("  %-24s %s\n", name, json_is_true(v) ? "yes" : "no");
}

/* Of this command in any case; of the daemon, if there is one. */
int cmd_version(const struct cmd *cmd, int argc, char **argv)
{
	KRG_AUTO_FD int fd = -EBADF;
	struct cmd_common common = {.node = -1};
	struct krg_err err = {.node = KRG_NODE_NONE};
	json_t *answer = NULL, *all;
	int r = cmd_getopt_none(cmd, &common, argc, argv);

	if (r != CMD_OK)
		return r < 0 ? CMD_OK : r;
	r = conn_open(&common, &fd, &err);
	if (r == 0)
		r = door_call(fd, json_pack("{s:s}", "op", "version"), NULL, 0, &answer, &err);
	if (common.json) {
		all = json_pack("{s:s}", "krg", KRG_VERSION);
		if (answer != NULL) {
			(void)json_object_del(answer, "ok");
			(void)json_object_set(all, "daemon", answer);
		}
		(void)cmd_json(all);
		json_decref(all);
	} else {
		(void)printf("krg %s\n", KRG_VERSION);
		print_version(answer);
	}
	json_decref(answer);
	/* that no daemon is there is no error, unless one was asked for */
	if (r < 0 && (common.socket != NULL || common.lab != NULL || common.node >= 0))
		return cmd_fail(&err);
	return CMD_OK;
}
