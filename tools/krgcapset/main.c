/* krgcapset - the original's command for Kerrighed capabilities, on the same door as krg. */
#include "caps.h"
#include <locale.h>

const char *cmd_prog(void)
{
	return "krgcapset";
}

static const struct cmd command = {
	"", "[-k PID] [-s] [-f] [-e|-p|-d|-i SET]…",
	"Show or change the Kerrighed capabilities of a process",
	"  -k, --pid PID                    of that process (default: who calls this)\n"
	"  -s, --show                       show them\n"
	"  -f, --force                      do not ask before CHANGE_KERRIGHED_CAP is lost\n"
	"  -e, --effective SET              change the effective set\n"
	"  -p, --permitted SET              the permitted one\n"
	"  -d, --inheritable-effective SET  what is effective in what it forks\n"
	"  -i, --inheritable-permitted SET  what is permitted there\n"
	"  -v, --version                    print the version\n"
	"  SET                              +CAP,-CAP,… changes the set; CAP,… or octal replaces "
	"it\n",
	NULL};

struct opts {
	struct cmd_common common;
	i64 pid;
	bool show, force, changes, version;
	struct epm_caps_change change;
};

/* Which set an option is of; EPM_CAPS_NR: none. */
static unsigned set_of(int opt)
{
	return opt == 'e'   ? EPM_CAPS_EFFECTIVE
	       : opt == 'p' ? EPM_CAPS_PERMITTED
	       : opt == 'd' ? EPM_CAPS_INH_EFFECTIVE
	       : opt == 'i' ? EPM_CAPS_INH_PERMITTED
			    : EPM_CAPS_NR;
}

static int set_option(struct opts *o, unsigned set, const char *text)
{
	u32 drop, add;

	if (caps_parse(text, &drop, &add) < 0)
		return -EINVAL;
	o->change.drop[set] = (o->change.drop[set] | drop) & ~add;
	o->change.add[set] = (o->change.add[set] & ~drop) | add;
	o->changes = true;
	return 0;
}

static int option(struct opts *o, int opt)
{
	long n;

	switch (opt) {
	case 'k':
		if (!cmd_number(optarg, 1, INT32_MAX, &n))
			return cmd_usage(&command, "-k '%s': not a process number", optarg);
		o->pid = n;
		return CMD_OK;
	case 's':
		o->show = true;
		return CMD_OK;
	case 'f':
		o->force = true;
		return CMD_OK;
	case 'v':
		o->version = true;
		return CMD_OK;
	default:
		if (set_of(opt) == EPM_CAPS_NR || set_option(o, set_of(opt), optarg) < 0)
			return cmd_usage(&command, "'%s': not a set of capabilities", optarg);
		return CMD_OK;
	}
}

/* As the original prints it: octal, then the names in lines of 80. */
static void print_set(const char *what, u32 set)
{
	unsigned at = 8;

	(void)printf("%s Capabilities: 0%o\n\t", what, set);
	for (unsigned bit = 0; bit < 32; bit++) {
		const char *name = (set >> bit & 1) != 0 ? caps_name(bit) : NULL;

		if (name == NULL)
			continue;
		if (at > 8 && at + strlen(name) + 2 >= 80) {
			(void)fputs("\n\t", stdout);
			at = 8;
		}
		(void)printf("%s%s", at > 8 ? ", " : "", name);
		at += (unsigned)strlen(name) + 2;
	}
	(void)putchar('\n');
}

static int print(const struct opts *o, const struct epm_caps *caps, i64 node)
{
	if (o->common.json)
		return caps_json(o->pid, node, caps);
	print_set("Permitted", caps->set[EPM_CAPS_PERMITTED]);
	print_set("Effective", caps->set[EPM_CAPS_EFFECTIVE]);
	print_set("Inheritable Permitted", caps->set[EPM_CAPS_INH_PERMITTED]);
	print_set("Inheritable Effective", caps->set[EPM_CAPS_INH_EFFECTIVE]);
	return CMD_OK;
}

/* Would it lose what it takes to change them back, and does nobody mind? */
static bool may_lose(const struct opts *o, const struct epm_caps *old)
{
	static const unsigned sets[] = {EPM_CAPS_PERMITTED, EPM_CAPS_EFFECTIVE};
	u32 bit = 1u << EPM_CAP_CHANGE_KERRIGHED_CAP, lost = 0;
	int answer;

	for (unsigned i = 0; i < KRG_NELEM(sets); i++) {
		unsigned s = sets[i];

		lost |= old->set[s] & ~((old->set[s] & ~o->change.drop[s]) | o->change.add[s]);
	}
	if (o->force || (lost & bit) == 0)
		return true;
	(void)fprintf(stderr, "Are you sure you want to lose the capability to change your "
			      "capabilities (y/N)? ");
	answer = getchar();
	return answer == 'y' || answer == 'Y';
}

static int act(struct opts *o)
{
	struct epm_caps caps = {0};
	i64 node = -1;
	int r;

	if (o->pid < 0)
		o->pid = caps_caller();
	if (o->pid < 0)
		return CMD_FAIL;
	r = caps_ask(&o->common, o->pid, NULL, &caps, &node);
	if (r == CMD_OK && o->changes) {
		if (!may_lose(o, &caps))
			return cmd_failf("pid %lld: not changed", (long long)o->pid);
		r = caps_ask(&o->common, o->pid, &o->change, &caps, &node);
	}
	return r == CMD_OK && o->show ? print(o, &caps, node) : r;
}

int main(int argc, char **argv)
{
	static const struct option longs[] = {
		{"pid", required_argument, NULL, 'k'},
		{"show", no_argument, NULL, 's'},
		{"force", no_argument, NULL, 'f'},
		{"effective", required_argument, NULL, 'e'},
		{"permitted", required_argument, NULL, 'p'},
		{"inheritable-effective", required_argument, NULL, 'd'},
		{"inheritable-permitted", required_argument, NULL, 'i'},
		{"version", no_argument, NULL, 'v'},
		{0}};
	struct opts o = {.common = {.node = -1}, .pid = -1};
	int opt, r;

	(void)setlocale(LC_CTYPE, "");
	while ((opt = cmd_getopt(&command, &o.common, argc, argv, "k:sfe:p:d:i:vh", longs)) != -1) {
		if (opt == 'h')
			cmd_help(&command, stdout);
		if (opt == 'h' || opt == CMD_OPT_HELP)
			return CMD_OK;
		r = opt == '?' ? CMD_USAGE : option(&o, opt);
		if (r != CMD_OK)
			return r;
	}
	if (optind < argc)
		return cmd_usage(&command, "what is '%s'?", argv[optind]);
	if (o.version) {
		(void)printf("krgcapset %s\n", KRG_VERSION);
		return CMD_OK;
	}
	if (!o.show && !o.changes) {
		cmd_help(&command, stdout);
		return CMD_OK;
	}
	return act(&o);
}
