#include "cmd.h"
#include <limits.h>
#include <signal.h>
#include <stdarg.h>

enum { OPT_SOCKET = 0x1000, OPT_LAB, OPT_NODE, OPT_JSON, OPT_HELP };

static const struct option common_longs[] = {
	{"socket", required_argument, NULL, OPT_SOCKET}, {"lab", required_argument, NULL, OPT_LAB},
	{"node", required_argument, NULL, OPT_NODE},	 {"json", no_argument, NULL, OPT_JSON},
	{"help", no_argument, NULL, OPT_HELP},		 {0},
};

static const char common_help[] = "      --socket PATH    the daemon's door (KRG_SOCKET)\n"
				  "      --lab NAME       that lab (KRG_LAB)\n"
				  "      --node N         the lab's node N (KRG_NODE; default 0)\n"
				  "      --json           print JSON, where something is listed\n"
				  "      --help           this text\n";

void cmd_help(const struct cmd *cmd, FILE *f)
{
	(void)fprintf(f, "Usage: %s %s%s%s\n%s.\n\n%s%s", cmd_prog(), cmd->name,
		      cmd->args[0] != '\0' ? " " : "", cmd->args, cmd->what,
		      cmd->help != NULL ? cmd->help : "", common_help);
}

static int common_option(const struct cmd *cmd, struct cmd_common *common, int opt)
{
	long n;

	switch (opt) {
	case OPT_SOCKET:
		common->socket = optarg;
		return 0;
	case OPT_LAB:
		common->lab = optarg;
		return 0;
	case OPT_NODE:
		if (!cmd_number(optarg, 0, KRG_NODES_MAX - 1, &n)) {
			(void)cmd_usage(cmd, "--node '%s': not a node's number", optarg);
			return '?';
		}
		common->node = (int)n;
		return 0;
	case OPT_JSON:
		common->json = true;
		return 0;
	case OPT_HELP:
		cmd_help(cmd, stdout);
		return CMD_OPT_HELP;
	default:
		return opt;
	}
}

int cmd_getopt(const struct cmd *cmd, struct cmd_common *common, int argc, char **argv,
	       const char *shorts, const struct option *longs)
{
	struct option all[CMD_LONGS_MAX + KRG_NELEM(common_longs)];
	unsigned n = 0;

	for (; longs != NULL && longs->name != NULL; longs++) {
		ASSERT(n < CMD_LONGS_MAX);
		all[n++] = *longs;
	}
	memcpy(&all[n], common_longs, sizeof(common_longs));
	opterr = 0;
	for (;;) {
		int at = optind > 0 ? optind : 1;
		int opt = getopt_long(argc, argv, shorts, all, NULL);

		if (opt == -1)
			return -1;
		if (opt == '?' || opt == ':') {
			(void)cmd_usage(cmd,
					"option '%s': unknown, or its value is missing or wrong",
					at < argc ? argv[at] : "");
			return '?';
		}
		opt = common_option(cmd, common, opt);
		if (opt != 0)
			return opt;
	}
}

int cmd_getopt_none(const struct cmd *cmd, struct cmd_common *common, int argc, char **argv)
{
	int opt = cmd_getopt(cmd, common, argc, argv, "", NULL);

	return opt == -1 ? CMD_OK : opt == CMD_OPT_HELP ? -1 : CMD_USAGE;
}

int cmd_fail(const struct krg_err *err)
{
	if (err->node != KRG_NODE_NONE)
		(void)fprintf(stderr, "%s: node %u: %s\n", cmd_prog(), err->node, err->text);
	else
		(void)fprintf(stderr, "%s: %s\n", cmd_prog(), err->text);
	return CMD_FAIL;
}

int cmd_failf(const char *fmt, ...)
{
	va_list ap;

	(void)fprintf(stderr, "%s: ", cmd_prog());
	va_start(ap, fmt);
	(void)vfprintf(stderr, fmt, ap);
	va_end(ap);
	(void)fputc('\n', stderr);
	return CMD_FAIL;
}

int cmd_usage(const struct cmd *cmd, const char *fmt, ...)
{
	va_list ap;

	(void)fprintf(stderr, "%s: %s%s", cmd_prog(), cmd != NULL ? cmd->name : "",
		      cmd != NULL && cmd->name[0] != '\0' ? ": " : "");
	va_start(ap, fmt);
	(void)vfprintf(stderr, fmt, ap);
	va_end(ap);
	if (cmd != NULL)
		(void)fprintf(stderr, " (usage: %s %s %s)", cmd_prog(), cmd->name, cmd->args);
	(void)fputc('\n', stderr);
	return CMD_USAGE;
}

bool cmd_number(const char *text, long lo, long hi, long *ret)
{
	char *end;
	long v;

	errno = 0;
	v = strtol(text, &end, 10);
	if (errno != 0 || end == text || *end != '\0' || v < lo || v > hi)
		return false;
	*ret = v;
	return true;
}

int cmd_node_list(const char *text, json_t *ret)
{
	const char *at = text;

	for (;;) {
		char *end;
		unsigned long lo, hi;

		if (*at < '0' || *at > '9')
			return -EINVAL;
		lo = hi = strtoul(at, &end, 10);
		if (*end == '-') {
			if (end[1] < '0' || end[1] > '9')
				return -EINVAL;
			hi = strtoul(end + 1, &end, 10);
		}
		if (lo > hi || hi >= KRG_NODES_MAX)
			return -EINVAL;
		for (; lo <= hi; lo++)
			(void)json_array_append_new(ret, json_integer((json_int_t)lo));
		if (*end == '\0')
			return 0;
		if (*end != ',')
			return -EINVAL;
		at = end + 1;
	}
}

const char *cmd_signal_name(int sig)
{
	const char *name = sig > 0 && sig < NSIG ? sigabbrev_np(sig) : NULL;

	return name != NULL ? name : "?";
}

int cmd_signal(const char *text)
{
	long n;

	if (cmd_number(text, 0, SIGRTMAX, &n))
		return (int)n;
	if (strncasecmp(text, "SIG", 3) == 0)
		text += 3;
	for (int sig = 1; sig < NSIG; sig++) {
		const char *name = sigabbrev_np(sig);

		if (name != NULL && strcasecmp(name, text) == 0)
			return sig;
	}
	if (strncasecmp(text, "RTMIN", 5) == 0 &&
	    (text[5] == '\0' || cmd_number(text + 5, 0, SIGRTMAX - SIGRTMIN, &n)))
		return SIGRTMIN + (text[5] != '\0' ? (int)n : 0);
	return -1;
}

int cmd_json(json_t *j)
{
	int r = json_dumpf(j, stdout, JSON_INDENT(2));

	if (r < 0 || putchar('\n') == EOF || fflush(stdout) == EOF)
		return cmd_failf("stdout: %s", strerror(errno));
	return CMD_OK;
}

void cmd_self_dir(char *ret, size_t max)
{
	ssize_t n = readlink("/proc/self/exe", ret, max - 1);
	char *slash;

	ret[n > 0 ? n : 0] = '\0';
	slash = strrchr(ret, '/');
	if (slash != NULL)
		*slash = '\0';
}
