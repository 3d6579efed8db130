/* cmd_ps.c - krg ps and krg kill. */
#include "clock.h"
#include "conn.h"
#include <pwd.h>
#include <sys/ioctl.h>

struct proc {
	const json_t *j;
	i64 pid, ppid;
	bool shown;
};

struct list {
	struct proc *p;
	size_t n;
	unsigned width; /* of a line; 0: no limit */
};

static int by_pid(const void *a, const void *b)
{
	const struct proc *x = a, *y = b;

	return x->pid < y->pid ? -1 : x->pid > y->pid;
}

static const char *user_name(i64 uid, char *ret, size_t max)
{
	const struct passwd *pw = getpwuid((uid_t)uid);

	if (pw != NULL)
		(void)snprintf(ret, max, "%s", pw->pw_name);
	else
		(void)snprintf(ret, max, "%lld", (long long)uid);
	return ret;
}

static void print_head(void)
{
	(void)printf("%8s %8s %-8s %4s %4s %s %9s %9s %s\n", "PID", "PPID", "USER", "NODE", "HOME",
		     "S", "TIME", "RSS", "COMMAND");
}

/* As ps(1): what has ended and is still to be waited for has no arguments any more. */
static const char *command(const json_t *j, char *ret, size_t max)
{
	if (strcmp(conn_str(j, "state", "?"), "Z") != 0)
		return conn_str(j, "cmdline", conn_str(j, "comm", "?"));
	(void)snprintf(ret, max, "[%s] <defunct>", conn_str(j, "comm", "?"));
	return ret;
}

static void print_proc(const struct list *l, const struct proc *p, const char *indent)
{
	u64 cs = (u64)conn_int(p->j, "cpu_ns", 0) / (10 * KRG_MSEC);
	char user[33], line[1024], ended[80];
	int n;

	n = snprintf(line, sizeof(line),
		     "%8lld %8lld %-8.8s %4lld %4lld %s %5llu:%02llu.%02llu %8lldK %s%s",
		     (long long)p->pid, (long long)p->ppid,
		     user_name(conn_int(p->j, "uid", 0), user, sizeof(user)),
		     (long long)conn_int(p->j, "node", -1), (long long)conn_int(p->j, "home", -1),
		     conn_str(p->j, "state", "?"), (unsigned long long)(cs / 6000),
		     (unsigned long long)(cs / 100 % 60), (unsigned long long)(cs % 100),
		     (long long)conn_int(p->j, "rss", 0) / 1024, indent,
		     command(p->j, ended, sizeof(ended)));
	if (l->width > 0 && n > (int)l->width && l->width < sizeof(line))
		line[l->width] = '\0';
	(void)puts(line);
}

static void print_tree(struct list *l, i64 ppid, char *indent, size_t room)
{
	size_t len = strlen(indent);

	for (size_t i = 0; i < l->n; i++) {
		if (l->p[i].ppid != ppid || l->p[i].shown)
			continue;
		l->p[i].shown = true;
		print_proc(l, &l->p[i], indent);
		if (len + 3 < room)
			memcpy(indent + len, "  ", 3);
		print_tree(l, l->p[i].pid, indent, room);
		indent[len] = '\0';
	}
}

static bool has_parent(const struct list *l, const struct proc *p)
{
	struct proc key = {.pid = p->ppid};

	return bsearch(&key, l->p, l->n, sizeof(*l->p), by_pid) != NULL;
}

static void print_procs(const json_t *procs, bool tree)
{
	struct winsize ws;
	struct list l = {.n = json_array_size(procs)};
	char indent[64] = "";

	if (isatty(1) && ioctl(1, TIOCGWINSZ, &ws) == 0)
		l.width = ws.ws_col;
	l.p = krg_xalloc(l.n * sizeof(*l.p));
	for (size_t i = 0; i < l.n; i++) {
		l.p[i].j = json_array_get(procs, i);
		l.p[i].pid = conn_int(l.p[i].j, "pid", 0);
		l.p[i].ppid = conn_int(l.p[i].j, "ppid", 0);
	}
	qsort(l.p, l.n, sizeof(*l.p), by_pid);
	print_head();
	for (size_t i = 0; i < l.n; i++) {
		if (tree && (l.p[i].shown || has_parent(&l, &l.p[i])))
			continue;
		l.p[i].shown = true;
		print_proc(&l, &l.p[i], "");
		if (tree) {
			memcpy(indent, "  ", 3);
			print_tree(&l, l.p[i].pid, indent, sizeof(indent));
		}
	}
	free(l.p);
}

static void say_missing(const json_t *missing)
{
	size_t i;
	json_t *n;

	json_array_foreach(missing, i, n)(void) fprintf(
		stderr, "krg: ps: node %lld did not answer\n", (long long)json_integer_value(n));
}

static int pids_of(const struct cmd *cmd, int argc, char **argv, json_t *ret)
{
	long pid;

	for (int i = optind; i < argc; i++) {
		if (!cmd_number(argv[i], 1, INT32_MAX, &pid))
			return cmd_usage(cmd, "'%s': not a process number", argv[i]);
		(void)json_array_append_new(ret, json_integer(pid));
	}
	return CMD_OK;
}

int cmd_ps(const struct cmd *cmd, int argc, char **argv)
{
	static const struct option longs[] = {{"tree", no_argument, NULL, 't'}, {0}};
	struct cmd_common common = {.node = -1};
	json_t *pids = json_array(), *answer = NULL, *procs;
	bool tree = false, asked;
	int opt, r;

	while ((opt = cmd_getopt(cmd, &common, argc, argv, "", longs)) == 't')
		tree = true;
	r = opt == -1 ? pids_of(cmd, argc, argv, pids) : opt == CMD_OPT_HELP ? -1 : CMD_USAGE;
	if (r != CMD_OK) {
		json_decref(pids);
		return r < 0 ? CMD_OK : r;
	}
	asked = json_array_size(pids) > 0;
	r = conn_ask(&common,
		     asked ? json_pack("{s:s, s:o}", "op", "ps", "pids", pids)
			   : json_pack("{s:s}", "op", "ps"),
		     &answer);
	if (!asked)
		json_decref(pids);
	if (r != CMD_OK)
		return r;
	procs = json_object_get(answer, "procs");
	(void)json_object_del(answer, "ok");
	if (common.json)
		r = cmd_json(answer);
	else
		print_procs(procs, tree);
	say_missing(json_object_get(answer, "missing"));
	if (asked && json_array_size(procs) == 0)
		r = CMD_FAIL;
	json_decref(answer);
	return r;
}

static int kill_all(const struct cmd_common *common, int sig, const json_t *pids)
{
	size_t i;
	json_t *pid;
	int r = CMD_OK;

	json_array_foreach(pids, i, pid)
	{
		int one = conn_ask(
			common, json_pack("{s:s, s:O, s:i}", "op", "kill", "pid", pid, "sig", sig),
			NULL);

		r = r == CMD_OK ? one : r;
	}
	return r;
}

/* kill's own short form: -9, -TERM */
static bool short_signal(const char *arg, int *ret)
{
	if (arg == NULL || arg[0] != '-' || arg[1] == '\0' || arg[1] == '-' ||
	    (arg[1] == 's' && arg[2] == '\0'))
		return false;
	*ret = cmd_signal(arg + 1);
	return *ret >= 0;
}

int cmd_kill(const struct cmd *cmd, int argc, char **argv)
{
	struct cmd_common common = {.node = -1};
	json_t *pids;
	int opt, r = CMD_OK, sig = 15;

	if (argc > 1 && short_signal(argv[1], &sig)) {
		argv++;
		argc--;
	}
	while ((opt = cmd_getopt(cmd, &common, argc, argv, "s:", NULL)) == 's') {
		sig = cmd_signal(optarg);
		if (sig < 0)
			return cmd_usage(cmd, "'%s': no such signal", optarg);
	}
	if (opt != -1)
		return opt == CMD_OPT_HELP ? CMD_OK : CMD_USAGE;
	if (optind >= argc)
		return cmd_usage(cmd, "which processes?");
	pids = json_array();
	r = pids_of(cmd, argc, argv, pids);
	if (r == CMD_OK)
		r = kill_all(&common, sig, pids);
	json_decref(pids);
	return r;
}

int cmd_migrate(const struct cmd *cmd, int argc, char **argv)
{
	static const struct option longs[] = {{"sync", no_argument, NULL, 's'},
					      {"stop-copy", no_argument, NULL, 'c'},
					      {NULL, 0, NULL, 0}};
	struct cmd_common common = {.node = -1};
	const char *how = "post";
	json_t *answer = NULL;
	long pid, to;
	int opt, r;

	while ((opt = cmd_getopt(cmd, &common, argc, argv, "", longs)) == 's' || opt == 'c')
		how = opt == 's' ? "post-sync" : "stop-copy";
	if (opt != -1)
		return opt == CMD_OPT_HELP ? CMD_OK : CMD_USAGE;
	if (optind + 2 != argc || !cmd_number(argv[optind], 1, INT32_MAX, &pid))
		return cmd_usage(cmd, "which process, to which node?");
	if (!cmd_number(argv[optind + 1], 0, KRG_NODES_MAX - 1, &to))
		return cmd_usage(cmd, "'%s' is no node's number (krg node ls lists them)",
				 argv[optind + 1]);
	r = conn_ask(&common,
		     json_pack("{s:s, s:i, s:i, s:s}", "op", "migrate", "pid", (int)pid, "to",
			       (int)to, "how", how),
		     &answer);
	if (r != CMD_OK)
		return r;
	(void)json_object_del(answer, "ok");
	if (common.json)
		r = cmd_json(answer);
	else
		printf("pid %ld is on node %ld; it stood still for %.1f ms\n", pid, to,
		       (double)json_integer_value(json_object_get(answer, "stood_us")) / 1000);
	json_decref(answer);
	return r;
}
