/* cmd_lab.c - krg lab: a cluster on this machine. */
#include "cmd.h"
#include "clock.h"
#include "lab.h"

static const char *lab_name(const struct cmd_common *common, const char *name)
{
	const char *env = getenv("KRG_LAB");

	if (name != NULL)
		return name;
	if (common->lab != NULL)
		return common->lab;
	return env != NULL && env[0] != '\0' ? env : LAB_NAME_DEFAULT;
}

/* Beside krg (build/bin), or where `make install` puts it. */
static void find_krgd(char *ret, size_t max)
{
	static const char *const where[] = {"krgd", "../sbin/krgd"};
	char dir[4096];

	cmd_self_dir(dir, sizeof(dir));
	for (unsigned i = 0; i < KRG_NELEM(where); i++) {
		(void)snprintf(ret, max, "%s/%s", dir, where[i]);
		if (access(ret, X_OK) == 0)
			return;
	}
	(void)snprintf(ret, max, "%s/%s", dir, where[0]);
}

struct lab_opts {
	struct cmd_common common;
	struct lab_config config;
	const char *name;
	bool force, crash;
	char krgd[4200];
};

static bool opt_seconds(const char *text, u64 *ret_ms)
{
	char *end;
	double v = strtod(text, &end);

	if (end == text || *end != '\0' || !(v > 0 && v < 1e6))
		return false;
	*ret_ms = (u64)(v * 1000);
	return true;
}

static bool opt_cpus(const char *text, double *ret)
{
	char *end;
	double v = strtod(text, &end);

	if (end == text || *end != '\0' || !(v >= 0 && v <= 4096))
		return false;
	*ret = v;
	return true;
}

static int lab_opt(struct lab_opts *o, int opt)
{
	long n;

	switch (opt) {
	case 'n':
		if (!cmd_number(optarg, 1, LAB_NODES_MAX, &n))
			return -EINVAL;
		o->config.nodes = (unsigned)n;
		return 0;
	case 'c':
		return opt_cpus(optarg, &o->config.cpus) ? 0 : -EINVAL;
	case 'N':
		o->name = optarg;
		return 0;
	case 'k':
		o->config.krgd = optarg;
		return 0;
	case 'p':
		o->config.policy = optarg;
		return 0;
	case 't':
		return opt_seconds(optarg, &o->config.ready_ms) ? 0 : -EINVAL;
	case 'f':
	case '9':
		o->force = true;
		return 0;
	case 'x':
		o->crash = true;
		return 0;
	default:
		return -EINVAL;
	}
}

/* CMD_OK: go on.  -1: the help was printed. */
static int lab_getopt(const struct cmd *cmd, struct lab_opts *o, int argc, char **argv,
		      const char *shorts, const struct option *longs)
{
	int opt;

	*o = (struct lab_opts){
		.common = {.node = -1},
		.config = {.nodes = LAB_NODES_DEFAULT, .krgd = o->krgd, .diag = stderr}};
	find_krgd(o->krgd, sizeof(o->krgd));
	while ((opt = cmd_getopt(cmd, &o->common, argc, argv, shorts, longs)) != -1) {
		if (opt == CMD_OPT_HELP)
			return -1;
		if (opt == '?')
			return CMD_USAGE;
		if (lab_opt(o, opt) < 0)
			return cmd_usage(cmd, "'%s': not a value of this option", optarg);
	}
	o->config.name = lab_name(&o->common, o->name);
	if (!lab_name_ok(o->config.name))
		return cmd_usage(cmd, "name '%s': up to %d of A-Z a-z 0-9 - _", o->config.name,
				 LAB_NAME_MAX);
	return CMD_OK;
}

int cmd_lab_up(const struct cmd *cmd, int argc, char **argv)
{
	static const struct option longs[] = {
		{"nodes", required_argument, NULL, 'n'},
		{"cpus", required_argument, NULL, 'c'},
		{"name", required_argument, NULL, 'N'},
		{"krgd", required_argument, NULL, 'k'},
		{"timeout", required_argument, NULL, 't'},
		{"policy", required_argument, NULL, 'p'},
		{0},
	};
	u64 start = krg_clock_now_ns();
	struct krg_err err = {0};
	struct lab_opts o;
	int r = lab_getopt(cmd, &o, argc, argv, "n:", longs);

	if (r != CMD_OK)
		return r < 0 ? CMD_OK : r;
	if (optind < argc)
		return cmd_usage(cmd, "what is '%s'?", argv[optind]);
	r = lab_up(&o.config, &err);
	if (r < 0) {
		err.node = KRG_NODE_NONE;
		return cmd_fail(&err);
	}
	(void)printf("lab %s: %u node%s up in %.2f s\n", o.config.name, o.config.nodes,
		     o.config.nodes == 1 ? "" : "s",
		     (double)(krg_clock_now_ns() - start) / KRG_NSEC);
	return CMD_OK;
}

int cmd_lab_down(const struct cmd *cmd, int argc, char **argv)
{
	static const struct option longs[] = {
		{"name", required_argument, NULL, 'N'}, {"force", no_argument, NULL, 'f'}, {0}};
	struct krg_err err = {0};
	struct lab_opts o;
	bool was;
	int r = lab_getopt(cmd, &o, argc, argv, "f", longs);

	if (r != CMD_OK)
		return r < 0 ? CMD_OK : r;
	if (optind < argc)
		return cmd_usage(cmd, "what is '%s'?", argv[optind]);
	r = lab_down(o.config.name, o.force ? 0 : LAB_GRACE_MS, &was, &err);
	if (r < 0) {
		err.node = KRG_NODE_NONE;
		return cmd_fail(&err);
	}
	(void)printf("lab %s: %s\n", o.config.name, was ? "down" : "was not up");
	return CMD_OK;
}

int cmd_lab_ls(const struct cmd *cmd, int argc, char **argv)
{
	struct cmd_common common = {.node = -1};
	struct lab_info lab[64];
	json_t *list;
	unsigned n;
	int r = cmd_getopt_none(cmd, &common, argc, argv);

	if (r != CMD_OK)
		return r < 0 ? CMD_OK : r;
	n = KRG_MIN(lab_list(lab, KRG_NELEM(lab)), (unsigned)KRG_NELEM(lab));
	if (!common.json && n > 0)
		(void)printf("%-16s %-7s %5s %5s %s\n", "NAME", "STATE", "NODES", "ALIVE", "CPUS");
	list = json_array();
	for (unsigned i = 0; i < n; i++) {
		const char *phase = lab_phase_name(lab[i].phase);

		(void)json_array_append_new(
			list, json_pack("{s:s, s:s, s:i, s:i, s:f}", "name", lab[i].name, "state",
					phase, "nodes", (int)lab[i].nodes, "alive",
					(int)lab[i].alive, "cpus", lab[i].cpus));
		if (!common.json)
			(void)printf("%-16s %-7s %5u %5u %g\n", lab[i].name, phase, lab[i].nodes,
				     lab[i].alive, lab[i].cpus);
	}
	r = common.json ? cmd_json(list) : CMD_OK;
	json_decref(list);
	return r;
}

/* NODE from the arguments */
static int lab_node(const struct cmd *cmd, int argc, char **argv, unsigned *ret)
{
	long n;

	if (optind >= argc)
		return cmd_usage(cmd, "which node?");
	if (!cmd_number(argv[optind], 0, LAB_NODES_MAX - 1, &n))
		return cmd_usage(cmd, "'%s': not a node's number", argv[optind]);
	optind++;
	*ret = (unsigned)n;
	return CMD_OK;
}

int cmd_lab_exec(const struct cmd *cmd, int argc, char **argv)
{
	static const struct option longs[] = {{"name", required_argument, NULL, 'N'}, {0}};
	struct krg_err err = {0};
	struct lab_opts o;
	unsigned node;
	int r = lab_getopt(cmd, &o, argc, argv, "+", longs);

	if (r == CMD_OK)
		r = lab_node(cmd, argc, argv, &node);
	if (r != CMD_OK)
		return r < 0 ? CMD_OK : r;
	if (optind < argc && strcmp(argv[optind], "--") == 0)
		optind++;
	if (optind >= argc)
		return cmd_usage(cmd, "what is to be executed?");
	(void)lab_exec(o.config.name, node, &argv[optind], &err);
	err.node = KRG_NODE_NONE;
	return cmd_fail(&err);
}

int cmd_lab_stop(const struct cmd *cmd, int argc, char **argv)
{
	static const struct option longs[] = {
		{"name", required_argument, NULL, 'N'},
		{"kill", no_argument, NULL, '9'},
		{"crash", no_argument, NULL, 'x'},
		{0},
	};
	struct krg_err err = {0};
	struct lab_opts o;
	unsigned node;
	int r = lab_getopt(cmd, &o, argc, argv, "9", longs);

	if (r == CMD_OK)
		r = lab_node(cmd, argc, argv, &node);
	if (r != CMD_OK)
		return r < 0 ? CMD_OK : r;
	if (o.crash && o.force)
		return cmd_usage(cmd, "--kill or --crash?");
	r = lab_node_stop(o.config.name, node,
			  o.crash   ? LAB_STOP_CRASH
			  : o.force ? LAB_STOP_KILL
				    : LAB_STOP,
			  &err);
	err.node = KRG_NODE_NONE;
	return r < 0 ? cmd_fail(&err) : CMD_OK;
}

int cmd_lab_start(const struct cmd *cmd, int argc, char **argv)
{
	static const struct option longs[] = {{"name", required_argument, NULL, 'N'},
					      {"krgd", required_argument, NULL, 'k'},
					      {"policy", required_argument, NULL, 'p'},
					      {"timeout", required_argument, NULL, 't'},
					      {0}};
	struct krg_err err = {0};
	struct lab_opts o;
	unsigned node;
	int r = lab_getopt(cmd, &o, argc, argv, "", longs);

	if (r == CMD_OK)
		r = lab_node(cmd, argc, argv, &node);
	if (r != CMD_OK)
		return r < 0 ? CMD_OK : r;
	r = lab_node_start(o.config.name, node, &o.config, &err);
	err.node = KRG_NODE_NONE;
	return r < 0 ? cmd_fail(&err) : CMD_OK;
}
