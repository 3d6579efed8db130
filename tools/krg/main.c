/* krg - the command: one table of subcommands. */
#include "cmd.h"
#include <fcntl.h>
#include <locale.h>

#define RUN_HELP                                                                                      \
	"  -n NODE              the first program runs there (default: as the scheduler says)\n"      \
	"  -t                   with a terminal of its own (default when stdin is a terminal)\n"      \
	"      --caps LIST      Kerrighed capabilities: +CAP,-CAP,… changes the default, CAP,…\n" \
	"                       or an octal number replaces it\n"                                     \
	"  -d DIR               in that directory\n"

static int cmd_not_yet(const struct cmd *cmd, int argc, char **argv);

const struct cmd cmd_table[] = {
	{"lab up", "[-n N] [--cpus F] [--name L]", "Bring up a cluster of N nodes on this machine",
	 "  -n, --nodes N        how many nodes (default 4)\n"
	 "      --cpus F         each limited to F CPUs (default: no limit)\n"
	 "      --name L         its name (default: \"default\")\n"
	 "      --timeout S      how long the nodes may take to get ready (default 30 and more)\n"
	 "      --krgd PATH      another daemon\n"
	 "      --policy P       where programs execute: load (default), elsewhere, off\n",
	 cmd_lab_up},
	{"lab down", "[-f] [--name L]", "Take a lab down; nothing of it is left",
	 "  -f, --force          kill at once\n"
	 "      --name L         its name\n",
	 cmd_lab_down},
	{"lab ls", "", "List the labs", NULL, cmd_lab_ls},
	{"lab exec", "[--name L] NODE [--] CMD…", "Run CMD as on that node, outside the world",
	 "      --name L         the lab's name\n", cmd_lab_exec},
	{"lab stop", "[--kill|--crash] [--name L] NODE", "Stop one node's daemon",
	 "      --kill           kill all that is there, as if the machine had failed\n"
	 "      --crash          kill the daemon only: its processes wait for `krg lab start'\n"
	 "      --name L         the lab's name\n",
	 cmd_lab_stop},
	{"lab start", "[--name L] NODE", "Start one node's daemon again; it joins the others",
	 "      --name L         the lab's name\n"
	 "      --timeout S      how long it may take to get ready (default 30 and more)\n"
	 "      --krgd PATH      another daemon\n"
	 "      --policy P       where programs execute: load (default), elsewhere, off\n",
	 cmd_lab_start},
	{"node ls", "", "List the nodes: state, load, memory, processes", NULL, cmd_node_ls},
	{"node add", "LIST…", "Take present nodes into the cluster; LIST is 1,3,6-10", NULL,
	 cmd_node_add},
	{"node del", "LIST…", "Take nodes out of the cluster", NULL, cmd_node_del},
	{"node", "ID", "Show one node", NULL, cmd_node_show},
	{"run", "[-n NODE] [-t] [--caps LIST] [-d DIR] [--] CMD…",
	 "Run CMD in the world; the exit status is CMD's, or 128 + the signal that ended it",
	 RUN_HELP, cmd_run},
	{"sh", "[-n NODE] [--caps LIST] [-d DIR] [ARG…]", "A shell in the world", RUN_HELP, cmd_sh},
	{"ps", "[--tree] [PID…]", "List the processes of the cluster",
	 "      --tree           children below their parents\n", cmd_ps},
	{"kill", "[-s SIG | -SIG] PID…", "Send a signal to processes anywhere",
	 "  -s SIG               name or number (default TERM)\n", cmd_kill},
	{"migrate", "[--sync | --stop-copy] PID NODE", "Move a process that runs to another node",
	 "The process goes on there with all its threads; what does not move yet is named.\n"
	 "      --sync           wait until all its memory is there, and the old node is not "
	 "needed\n"
	 "      --stop-copy      its memory goes before it, while it stands still\n",
	 cmd_migrate},
	{"caps", "[-p PID] [±CAP…]", "Show or change the Kerrighed capabilities of a process",
	 "  -p PID               of that process (default: who calls this)\n"
	 "  +CAP,…               it, and what it forks from now on, gets them\n"
	 "  -CAP,…               and loses them: -DISTANT_EXEC keeps its programs on the node\n",
	 cmd_caps},
	{"stat", "", "Show the services of a node and their counters", NULL, cmd_stat},
	{"execs", "", "Show which programs executed on which node", NULL, cmd_execs},
	{"trace", "[-n MAX]", "Show what the daemons did last, of all nodes",
	 "  -n MAX               at most so many events (default 1000)\n", cmd_trace},
	{"top", "", "Nodes and processes, live (not there yet)", NULL, cmd_not_yet},
	{"ipc", "ls", "Shared memory, semaphores and queues of the cluster (not there yet)", NULL,
	 cmd_not_yet},
	{"checkpoint", "[OPTION…] PID", "Write an application to files (not there yet)", NULL,
	 cmd_not_yet},
	{"restart", "[OPTION…] APP [VERSION]", "Start it again from them (not there yet)", NULL,
	 cmd_not_yet},
	{"version", "", "Show versions and what the kernel can do", NULL, cmd_version},
};

const char *cmd_prog(void)
{
	return "krg";
}

static int words(const char *name)
{
	int n = 1;

	for (; *name != '\0'; name++)
		n += *name == ' ';
	return n;
}

/* Do argv's first words name it? */
static bool matches(const struct cmd *cmd, int argc, char **argv)
{
	const char *at = cmd->name;
	int n = words(cmd->name);

	if (argc < n)
		return false;
	for (int i = 0; i < n; i++) {
		size_t len = strcspn(at, " ");

		if (strlen(argv[i]) != len || memcmp(argv[i], at, len) != 0)
			return false;
		at += len + (at[len] == ' ');
	}
	return true;
}

static void help_all(FILE *f)
{
	(void)fprintf(f, "Usage: krg COMMAND …\nOne machine out of many.\n\n");
	for (unsigned i = 0; i < KRG_NELEM(cmd_table); i++)
		(void)fprintf(f, "  %-10s %s\n", cmd_table[i].name, cmd_table[i].what);
	(void)fprintf(f, "  %-10s %s\n\n%s\n", "help", "This text, or that of a command",
		      "krg COMMAND --help says more.");
}

static int help(int argc, char **argv)
{
	bool any = false;

	if (argc == 0 || strcmp(argv[0], "--help") == 0) {
		help_all(stdout);
		return CMD_OK;
	}
	for (unsigned i = 0; i < KRG_NELEM(cmd_table); i++) {
		const char *name = cmd_table[i].name;
		size_t len = strlen(argv[0]);

		if (!matches(&cmd_table[i], argc, argv) &&
		    !(argc == 1 && strncmp(name, argv[0], len) == 0 && name[len] == ' '))
			continue;
		(void)fputs(any ? "\n" : "", stdout);
		cmd_help(&cmd_table[i], stdout);
		any = true;
	}
	return any ? CMD_OK : cmd_usage(NULL, "help: no command '%s'", argv[0]);
}

static int usage(int argc, char **argv)
{
	if (argc == 0) {
		help_all(stderr);
		return CMD_USAGE;
	}
	for (unsigned i = 0; i < KRG_NELEM(cmd_table); i++) {
		size_t len = strlen(argv[0]);

		if (strncmp(cmd_table[i].name, argv[0], len) != 0 || cmd_table[i].name[len] != ' ')
			continue;
		return cmd_usage(NULL, "%s: which? (krg %s --help)", argv[0], argv[0]);
	}
	return cmd_usage(NULL, "no command '%s' (krg help)", argv[0]);
}

/* Planned, and known by name: whatever its options are. */
static int cmd_not_yet(const struct cmd *cmd, int argc, char **argv)
{
	if (argc > 1 && strcmp(argv[1], "--help") == 0) {
		cmd_help(cmd, stdout);
		return CMD_OK;
	}
	return cmd_failf("%s: not supported yet", cmd->name);
}

/* Closed standard descriptors would be the next ones that are opened: a socket as stdin. */
static void stdio_sane(void)
{
	int fd;

	do
		fd = open("/dev/null", O_RDWR);
	while (fd >= 0 && fd < 3);
	if (fd >= 0)
		(void)close(fd);
}

/* --socket, --lab and --node may stand before the command too: there they are what the environment
 * would say.  Returns how many words they are; -1: wrong. */
static int globals(int argc, char **argv)
{
	static const char *const option[][2] = {
		{"--socket", "KRG_SOCKET"}, {"--lab", "KRG_LAB"}, {"--node", "KRG_NODE"}};
	int at = 0;

	while (at < argc && strncmp(argv[at], "--", 2) == 0 && strcmp(argv[at], "--help") != 0) {
		unsigned i = 0;
		size_t n;

		for (n = 0; i < KRG_NELEM(option); i++) {
			n = strlen(option[i][0]);
			if (strncmp(argv[at], option[i][0], n) == 0 &&
			    (argv[at][n] == '\0' || argv[at][n] == '='))
				break;
		}
		if (i == KRG_NELEM(option) || (argv[at][n] == '\0' && at + 1 == argc))
			return -1;
		(void)setenv(option[i][1], argv[at][n] == '=' ? argv[at] + n + 1 : argv[++at], 1);
		if (i == 1)
			(void)unsetenv("KRG_SOCKET"); /* a lab that is named counts */
		at++;
	}
	return at;
}

int main(int argc, char **argv)
{
	const char *name;
	int skip;

	stdio_sane();
	(void)setlocale(LC_CTYPE, "");
	name = argc > 0 ? strrchr(argv[0], '/') : NULL;
	name = name != NULL ? name + 1 : argc > 0 ? argv[0] : "";
	for (unsigned i = 0; i < KRG_NELEM(cmd_table); i++) /* the original's names */
		if (strcmp(name, cmd_table[i].name) == 0)
			return cmd_table[i].run(&cmd_table[i], argc, argv);
	argc--;
	argv++;
	skip = globals(argc, argv);
	if (skip < 0)
		return cmd_usage(NULL, "'%s': what is that? (krg help)", argv[0]);
	argc -= skip;
	argv += skip;
	if (argc > 0 && strcmp(argv[0], "help") == 0)
		return help(argc - 1, argv + 1);
	if (argc > 0 && strcmp(argv[0], "--help") == 0)
		return help(0, NULL);
	if (argc == 2 && strcmp(argv[1], "--help") == 0)
		return help(1, argv);
	for (unsigned i = 0; i < KRG_NELEM(cmd_table); i++) {
		int n = words(cmd_table[i].name);

		if (matches(&cmd_table[i], argc, argv))
			return cmd_table[i].run(&cmd_table[i], argc - n + 1, argv + n - 1);
	}
	return usage(argc, argv);
}
