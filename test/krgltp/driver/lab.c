/* lab.c - the lab that cases run in: brought up for a mode, or one that is there. */
#include "krgltp.h"
#include <dirent.h>
#include <signal.h>
#include <spawn.h>
#include <sys/stat.h>
#include <sys/wait.h>

extern char **environ;

const char *program(const char *name)
{
	static char path[4200];
	char *slash;
	ssize_t n = readlink("/proc/self/exe", path, sizeof(path) - NAME_LEN - 2);

	ASSERT(n > 0);
	path[n] = '\0';
	slash = strrchr(path, '/');
	(void)snprintf(slash + 1, NAME_LEN, "%s", name);
	return access(path, X_OK) == 0 ? path : name;
}

static int read_all(int fd, char **ret)
{
	size_t n = 0, max = 65536;
	char *text = krg_xalloc(max);
	ssize_t r;

	while ((r = read(fd, text + n, max - 1 - n)) != 0) {
		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0)
			break;
		n += (size_t)r;
		if (n + 1 >= max)
			text = krg_xrealloc(text, max *= 2);
	}
	text[n] = '\0';
	*ret = text;
	return r < 0 ? -errno : 0;
}

int command_output(char *const argv[], char **ret, struct krg_err *err)
{
	posix_spawn_file_actions_t fa;
	int p[2], status = 0, r;
	char *text = NULL;
	pid_t pid;

	if (pipe2(p, 02000000 /* O_CLOEXEC */) < 0)
		return krg_err_set(err, -errno, "a pipe: %s", strerror(errno));
	(void)posix_spawn_file_actions_init(&fa);
	(void)posix_spawn_file_actions_adddup2(&fa, p[1], 1);
	r = posix_spawnp(&pid, argv[0], &fa, NULL, argv, environ);
	(void)posix_spawn_file_actions_destroy(&fa);
	(void)close(p[1]);
	if (r == 0) {
		(void)read_all(p[0], &text);
		while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
			;
	}
	(void)close(p[0]);
	if (r != 0)
		return krg_err_set(err, -r, "%s: %s", argv[0], strerror(r));
	if (status != 0) {
		free(text);
		return krg_err_set(err, -ECHILD, "%s %s: failed (%#x)", argv[0],
				   argv[1] != NULL ? argv[1] : "", (unsigned)status);
	}
	*ret = text;
	return 0;
}

static int krg(char *const argv[], struct krg_err *err)
{
	KRG_AUTO_FREE char *text = NULL;

	return command_output(argv, &text, err);
}

static int up(struct lab_use *lab, enum mode m, struct krg_err *err)
{
	char nodes[16];
	char *argv[] = {(char *)program("krg"),
			(char *)"lab",
			(char *)"up",
			(char *)"--name",
			lab->name,
			(char *)"-n",
			nodes,
			(char *)"--policy",
			(char *)(m == MODE_ELSEWHERE ? "elsewhere" : "off"),
			NULL};

	(void)snprintf(nodes, sizeof(nodes), "%u", lab->nodes);
	return krg(argv, err);
}

/* Is it the first process of that node's world?  (Its parent is the node's keeper, which outlives krgd.) */
static bool is_init(const char *pid, const char *lab, size_t node)
{
	char path[64], text[4096], want[128], *ns;

	(void)snprintf(path, sizeof(path), "/proc/%.20s/comm", pid);
	if (krg_read_file(path, text, sizeof(text)) < 0 || strcmp(text, "krginit\n") != 0)
		return false;
	(void)snprintf(path, sizeof(path), "/proc/%.20s/status", pid);
	if (krg_read_file(path, text, sizeof(text)) < 0 || (ns = strstr(text, "\nNSpid:")) == NULL)
		return false;
	ns[1 + strcspn(ns + 1, "\n")] = '\0';
	if (strlen(ns) < 3 || strcmp(ns + strlen(ns) - 2, "\t1") != 0)
		return false;
	(void)snprintf(path, sizeof(path), "/proc/%.20s/cgroup", pid);
	(void)snprintf(want, sizeof(want), "/krg-lab-%s/node%zu\n", lab, node);
	return krg_read_file(path, text, sizeof(text)) >= 0 && strstr(text, want) != NULL;
}

static pid_t find_init(const char *lab, size_t node)
{
	struct dirent *de;
	pid_t found = 0;
	DIR *d = opendir("/proc");

	while (d != NULL && found == 0 && (de = readdir(d)) != NULL)
		if (de->d_name[0] >= '1' && de->d_name[0] <= '9' && is_init(de->d_name, lab, node))
			found = (pid_t)atoi(de->d_name);
	if (d != NULL)
		(void)closedir(d);
	return found;
}

static u64 pid_ns(pid_t pid)
{
	char path[64];
	struct stat st;

	(void)snprintf(path, sizeof(path), "/proc/%d/ns/pid", pid);
	return stat(path, &st) == 0 ? st.st_ino : 0;
}

static int look(struct lab_use *lab, struct krg_err *err)
{
	KRG_AUTO_FREE char *path = krg_xasprintf("/run/krg/lab/%s/lab.json", lab->name);
	json_t *root = json_load_file(path, 0, NULL);
	json_t *nodes = json_object_get(root, "nodes"), *node;
	size_t i;
	int r = 0;

	lab->nodes = 0;
	json_array_foreach(nodes, i, node)
	{
		pid_t krgd = (pid_t)json_integer_value(json_object_get(node, "pid"));

		if (i >= NODES_MAX)
			break;
		lab->krgd[i] = krgd;
		lab->init[i] = find_init(lab->name, i);
		lab->world[i] = lab->init[i] > 0 ? pid_ns(lab->init[i]) : 0;
		if (lab->world[i] == 0)
			r = krg_err_set(err, -ENOENT, "lab %s: node %zu has no world", lab->name,
					i);
		lab->nodes++;
	}
	if (r == 0 && lab->nodes == 0)
		r = krg_err_set(err, -ENOENT, "no lab '%s'", lab->name);
	json_decref(root);
	return r;
}

/* The nodes know of each other's when an exec goes elsewhere. */
static int placed(const struct lab_use *lab, struct krg_err *err)
{
	char *argv[] = {(char *)program("krg"),
			(char *)"run",
			(char *)"--lab",
			(char *)lab->name,
			(char *)"--",
			(char *)"/bin/hostname",
			NULL};

	for (unsigned i = 0; i < 100; i++) {
		KRG_AUTO_FREE char *text = NULL;
		int r = command_output(argv, &text, err);

		if (r < 0)
			return r;
		if (strcmp(text, "node0\n") != 0)
			return 0;
	}
	return krg_err_set(err, -EAGAIN, "lab %s: no program is placed on another node", lab->name);
}

int lab_use_begin(struct lab_use *lab, const struct options *opt, enum mode m, struct krg_err *err)
{
	int r = 0;

	*lab = (struct lab_use){.ours = opt->lab == NULL, .nodes = opt->nodes};
	if (geteuid() != 0)
		return krg_err_set(err, -EPERM, "a lab needs root");
	if (lab->ours)
		(void)snprintf(lab->name, sizeof(lab->name), "ltp%d", getpid());
	else
		(void)snprintf(lab->name, sizeof(lab->name), "%s", opt->lab);
	if (lab->ours)
		r = up(lab, m, err);
	if (r == 0)
		r = look(lab, err);
	if (r == 0 && m == MODE_ELSEWHERE)
		r = placed(lab, err);
	if (r < 0)
		(void)lab_use_end(lab, NULL);
	return r;
}

int lab_use_end(struct lab_use *lab, struct krg_err *err)
{
	char *argv[] = {(char *)program("krg"), (char *)"lab", (char *)"down",
			(char *)"--name",	lab->name,     (char *)NULL};

	return lab->ours ? krg(argv, err) : 0;
}

bool lab_use_alive(const struct lab_use *lab)
{
	for (unsigned i = 0; i < lab->nodes; i++)
		if (kill(lab->krgd[i], 0) < 0 || pid_ns(lab->init[i]) != lab->world[i])
			return false;
	return true;
}
