/* cmd_caps.c - krg caps: Kerrighed capabilities of a process. */
#include "caps.h"

/* "+CAP,-CAP": a change, not an option. */
static bool is_change(const char *word)
{
	u32 drop, add;

	return (word[0] == '+' || word[0] == '-') && caps_parse(word, &drop, &add) == 0;
}

/* Effective and inheritable effective: for the process, and for what it forks from now on. */
static void change_add(struct epm_caps_change *c, const char *word)
{
	static const unsigned sets[] = {EPM_CAPS_EFFECTIVE, EPM_CAPS_INH_EFFECTIVE};
	u32 drop = 0, add = 0;

	ASSERT(caps_parse(word, &drop, &add) == 0);
	for (unsigned i = 0; i < KRG_NELEM(sets); i++) {
		c->drop[sets[i]] = (c->drop[sets[i]] | drop) & ~add;
		c->add[sets[i]] = (c->add[sets[i]] & ~drop) | add;
	}
}

/* Takes the changes out of argv.  Returns how many words are left. */
static int changes_take(int argc, char **argv, struct epm_caps_change *c, bool *ret_any)
{
	int n = 0;

	*ret_any = false;
	for (int i = 0; i < argc; i++) {
		if (i == 0 || !is_change(argv[i])) {
			argv[n++] = argv[i];
			continue;
		}
		change_add(c, argv[i]);
		*ret_any = true;
	}
	argv[n] = NULL;
	return n;
}

static void print_set(const char *what, u32 set)
{
	(void)printf("%-22s", what);
	for (unsigned bit = 0; bit < 32; bit++)
		if ((set >> bit & 1) != 0 && caps_name(bit) != NULL)
			(void)printf(" %s", caps_name(bit));
	(void)putchar('\n');
}

static int print(const struct cmd_common *common, i64 pid, i64 node, const struct epm_caps *caps)
{
	if (common->json)
		return caps_json(pid, node, caps);
	(void)printf("%-22s %lld (node %lld)\n", "process", (long long)pid, (long long)node);
	print_set("effective", caps->set[EPM_CAPS_EFFECTIVE]);
	print_set("permitted", caps->set[EPM_CAPS_PERMITTED]);
	print_set("inheritable effective", caps->set[EPM_CAPS_INH_EFFECTIVE]);
	print_set("inheritable permitted", caps->set[EPM_CAPS_INH_PERMITTED]);
	return CMD_OK;
}

int cmd_caps(const struct cmd *cmd, int argc, char **argv)
{
	struct cmd_common common = {.node = -1};
	struct epm_caps_change change = {0};
	struct epm_caps caps = {0};
	i64 pid = -1, node = -1;
	bool changes;
	long n;
	int opt, r;

	argc = changes_take(argc, argv, &change, &changes);
	while ((opt = cmd_getopt(cmd, &common, argc, argv, "p:", NULL)) == 'p') {
		if (!cmd_number(optarg, 1, INT32_MAX, &n))
			return cmd_usage(cmd, "-p '%s': not a process number", optarg);
		pid = n;
	}
	if (opt != -1)
		return opt == CMD_OPT_HELP ? CMD_OK : CMD_USAGE;
	if (optind < argc)
		return cmd_usage(cmd, "'%s': not +CAP or -CAP", argv[optind]);
	if (pid < 0)
		pid = caps_caller();
	if (pid < 0)
		return CMD_FAIL;
	r = caps_ask(&common, pid, changes ? &change : NULL, &caps, &node);
	/* a change is quiet, as chmod(1) is */
	if (r == CMD_OK && (!changes || common.json))
		r = print(&common, pid, node, &caps);
	return r;
}
