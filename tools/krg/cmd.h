/* cmd.h - what the subcommands of krg share: options, errors, exit status.
 *
 * A subcommand is a row of the table in main.c.  It parses its options with cmd_getopt(), which
 * takes --socket, --lab, --node, --json and --help out, and returns the exit status: 0, 1 with one
 * line on stderr, 2 wrong usage.
 *
 * Threads  one.
 */
#ifndef KRG_CMD_H
#define KRG_CMD_H
#include "err.h"
#include <getopt.h>
#include <jansson.h>

enum { CMD_OK = 0, CMD_FAIL = 1, CMD_USAGE = 2 };

struct cmd {
	const char *name; /* "lab up": words */
	const char *args; /* "[-n N] …" */
	const char *what; /* one line */
	const char *help; /* the options, for --help */
	int (*run)(const struct cmd *cmd, int argc, char **argv);
};
extern const struct cmd cmd_table[];
const char *cmd_prog(void); /* "krg" or "krgadm" */

/* Where to and how, from options and environment. */
struct cmd_common {
	const char *socket, *lab;
	int node; /* -1: not said */
	bool json;
};
/* getopt_long(3) with the common options added.  -1: no more; '?': wrong usage (said);
 * CMD_OPT_HELP: the help was printed, exit 0.  shorts begins with '+' if CMD… follows. */
#define CMD_OPT_HELP  1
#define CMD_LONGS_MAX 16
int cmd_getopt(const struct cmd *cmd, struct cmd_common *common, int argc, char **argv,
	       const char *shorts, const struct option *longs);
/* For commands with no options of their own: CMD_OK go on; CMD_USAGE; -1 help was printed. */
int cmd_getopt_none(const struct cmd *cmd, struct cmd_common *common, int argc, char **argv);
void cmd_help(const struct cmd *cmd, FILE *f);

/* "krg: …" on stderr; returns CMD_FAIL / CMD_USAGE. */
int cmd_fail(const struct krg_err *err);
int cmd_failf(const char *fmt, ...) KRG_PRINTF(1, 2);
int cmd_usage(const struct cmd *cmd, const char *fmt, ...) KRG_PRINTF(2, 3);

/* A whole decimal number from lo to hi; false: it is none. */
bool cmd_number(const char *text, long lo, long hi, long *ret);
/* A node list: "1,3,6-10".  -EINVAL: it is none.  Appends to an array of integers. */
int cmd_node_list(const char *text, json_t *ret);
/* A signal by name (TERM, SIGTERM, RTMIN+1) or number; -1: none. */
int cmd_signal(const char *text);
const char *cmd_signal_name(int sig);
/* Print as the listing's --json output. */
int cmd_json(json_t *j);
/* Directory of this program. */
void cmd_self_dir(char *ret, size_t max);

int cmd_lab_up(const struct cmd *cmd, int argc, char **argv);
int cmd_lab_down(const struct cmd *cmd, int argc, char **argv);
int cmd_lab_ls(const struct cmd *cmd, int argc, char **argv);
int cmd_lab_exec(const struct cmd *cmd, int argc, char **argv);
int cmd_lab_stop(const struct cmd *cmd, int argc, char **argv);
int cmd_lab_start(const struct cmd *cmd, int argc, char **argv);
int cmd_node_ls(const struct cmd *cmd, int argc, char **argv);
int cmd_node_add(const struct cmd *cmd, int argc, char **argv);
int cmd_node_del(const struct cmd *cmd, int argc, char **argv);
int cmd_node_show(const struct cmd *cmd, int argc, char **argv);
int cmd_run(const struct cmd *cmd, int argc, char **argv);
int cmd_sh(const struct cmd *cmd, int argc, char **argv);
int cmd_ps(const struct cmd *cmd, int argc, char **argv);
int cmd_kill(const struct cmd *cmd, int argc, char **argv);
int cmd_migrate(const struct cmd *cmd, int argc, char **argv);
int cmd_caps(const struct cmd *cmd, int argc, char **argv);
int cmd_stat(const struct cmd *cmd, int argc, char **argv);
int cmd_execs(const struct cmd *cmd, int argc, char **argv);
int cmd_trace(const struct cmd *cmd, int argc, char **argv);
int cmd_version(const struct cmd *cmd, int argc, char **argv);
#endif
