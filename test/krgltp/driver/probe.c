/* probe.c - what a lab holds: processes, descriptors, threads, memory, kernel objects.
 *
 * Sessions and groups without members are ended by krgd every 2 s; until then there is a process for each, and one
 * descriptor in krgd for each of these.  So descriptors are compared without them, and nobody has to wait. */
#include "krgltp.h"
#include "clock.h"
#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/stat.h>

#define SETTLE_MS   5000
#define THREADS_MAX 200 /* the pools of a krgd, all full (src/epm/README.md, limits) */

static u64 status_field(pid_t pid, const char *name)
{
	KRG_AUTO_FREE char *path = krg_xasprintf("/proc/%d/status", pid);
	char text[4096];
	const char *at;

	if (krg_read_file(path, text, sizeof(text)) < 0)
		return 0;
	at = strstr(text, name);
	return at != NULL ? strtoull(at + strlen(name), NULL, 10) : 0;
}

static u64 count_entries(pid_t pid, const char *folder)
{
	KRG_AUTO_FREE char *path = krg_xasprintf("/proc/%d/%s", pid, folder);
	DIR *d = opendir(path);
	u64 n = 0;

	if (d == NULL)
		return 0;
	for (struct dirent *e = readdir(d); e != NULL; e = readdir(d))
		n += e->d_name[0] != '.';
	(void)closedir(d);
	return n;
}

static u64 count_lines(const char *path)
{
	KRG_AUTO_FILE FILE *f = fopen(path, "re");
	u64 n = 0;
	int c;

	while (f != NULL && (c = getc(f)) != EOF)
		n += c == '\n';
	return n;
}

static u64 count_mounts(pid_t pid)
{
	KRG_AUTO_FREE char *path = krg_xasprintf("/proc/%d/mountinfo", pid);

	return count_lines(path);
}

/* System V objects and message queues' mount aside: what ipcs(1) would show in that world. */
static u64 count_ipc(pid_t init)
{
	static const char *const kinds[] = {"/proc/sysvipc/shm", "/proc/sysvipc/msg",
					    "/proc/sysvipc/sem"};
	KRG_AUTO_FREE char *path = krg_xasprintf("/proc/%d/ns/ipc", init);
	KRG_AUTO_FD int own = open("/proc/self/ns/ipc", O_RDONLY | O_CLOEXEC);
	KRG_AUTO_FD int its = open(path, O_RDONLY | O_CLOEXEC);
	u64 n = 0;

	if (own < 0 || its < 0 || setns(its, CLONE_NEWIPC) < 0)
		return 0;
	for (unsigned i = 0; i < KRG_NELEM(kinds); i++)
		n += KRG_MAX(count_lines(kinds[i]), 1ul) - 1;
	if (setns(own, CLONE_NEWIPC) < 0)
		krg_panic(__FILE__, __LINE__, "no way back to our own IPC namespace");
	return n;
}

static u64 dirs;
static int count_dir(const char *path, const struct stat *st, int kind, struct FTW *f)
{
	(void)path;
	(void)st;
	(void)f;
	dirs += kind == FTW_D;
	return 0;
}

static u64 count_cgroups(const char *lab)
{
	KRG_AUTO_FREE char *two = krg_xasprintf("/sys/fs/cgroup/krg-lab-%s", lab);
	KRG_AUTO_FREE char *one = krg_xasprintf("/sys/fs/cgroup/cpu/krg-lab-%s", lab);

	dirs = 0;
	(void)nftw(two, count_dir, 8, FTW_PHYS);
	(void)nftw(one, count_dir, 8, FTW_PHYS);
	return dirs;
}

/* Krgd's own processes in a world: one for each session, one for each group that has no member here. */
static bool furniture(const char *comm)
{
	return strcmp(comm, "krginit") == 0 || strcmp(comm, "krgnursery") == 0 ||
	       strcmp(comm, "krggroup") == 0;
}

static void one_process(const struct lab_use *lab, struct probe *p, pid_t pid)
{
	char path[64], comm[32];
	struct stat st;

	(void)snprintf(path, sizeof(path), "/proc/%d/ns/pid", pid);
	if (stat(path, &st) < 0)
		return;
	for (unsigned i = 0; i < lab->nodes; i++) {
		if (st.st_ino != lab->world[i])
			continue;
		(void)snprintf(path, sizeof(path), "/proc/%d/comm", pid);
		if (krg_read_file(path, comm, sizeof(comm)) < 0)
			return;
		comm[strcspn(comm, "\n")] = '\0';
		if (furniture(comm))
			p->node[i].kept++;
		else if (p->npids < PIDS_MAX)
			p->pids[p->npids++] = pid;
	}
}

static void walk(const struct lab_use *lab, struct probe *p)
{
	DIR *d = opendir("/proc");

	if (d == NULL)
		return;
	for (struct dirent *e = readdir(d); e != NULL; e = readdir(d))
		if (e->d_name[0] >= '0' && e->d_name[0] <= '9')
			one_process(lab, p, (pid_t)atoi(e->d_name));
	(void)closedir(d);
}

void probe_take(const struct lab_use *lab, struct probe *ret)
{
	*ret = (struct probe){.cgroups = count_cgroups(lab->name)};
	walk(lab, ret);
	for (unsigned i = 0; i < lab->nodes; i++) {
		struct node_probe *n = &ret->node[i];

		n->rss_kib = status_field(lab->krgd[i], "VmRSS:");
		n->threads = status_field(lab->krgd[i], "Threads:");
		n->fds = count_entries(lab->krgd[i], "fd");
		n->mounts = count_mounts(lab->krgd[i]) + count_mounts(lab->init[i]);
		n->ipc = count_ipc(lab->init[i]);
	}
}

void probe_raise(const struct lab_use *lab, struct probe *p, const struct probe *once)
{
	for (unsigned i = 0; i < lab->nodes; i++) {
		struct node_probe *n = &p->node[i];

		n->fds = KRG_MAX(n->fds, once->node[i].fds + n->kept - once->node[i].kept);
	}
}

static u64 placed_by(const struct lab_use *lab, unsigned node)
{
	char number[16];
	char *argv[] = {(char *)program("krg"), (char *)"stat",	  (char *)"--json", (char *)"--lab",
			(char *)lab->name,	(char *)"--node", number,	    NULL};
	KRG_AUTO_FREE char *text = NULL;
	json_t *root, *s;
	u64 n = 0;
	size_t i;

	(void)snprintf(number, sizeof(number), "%u", node);
	if (command_output(argv, &text, NULL) < 0)
		return 0;
	root = json_loads(text, 0, NULL);
	json_array_foreach(json_object_get(root, "services"), i, s)
	{
		json_t *c = json_object_get(json_object_get(s, "counters"), "execs_placed");

		n += (u64)json_integer_value(json_object_get(c, "value"));
	}
	json_decref(root);
	return n;
}

u64 probe_placed(const struct lab_use *lab)
{
	u64 n = 0;

	for (unsigned i = 0; i < lab->nodes; i++)
		n += placed_by(lab, i);
	return n;
}

static bool was_there(const struct probe *before, pid_t pid)
{
	for (unsigned i = 0; i < before->npids; i++)
		if (before->pids[i] == pid)
			return true;
	return false;
}

__attribute__((format(printf, 3, 4))) static void say(char *text, size_t max, const char *fmt, ...)
{
	size_t used = strlen(text);
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(text + used, max - used, fmt, ap);
	va_end(ap);
}

static void name_new(const struct probe *before, const struct probe *now, char *text, size_t max)
{
	for (unsigned i = 0; i < now->npids; i++) {
		char path[64], line[80] = "?";
		int n;

		if (was_there(before, now->pids[i]))
			continue;
		(void)snprintf(path, sizeof(path), "/proc/%d/cmdline", now->pids[i]);
		n = krg_read_file(path, line, sizeof(line));
		for (int k = 0; k < n - 1; k++)
			line[k] = line[k] == '\0' ? ' ' : line[k];
		krg_one_line(line);
		say(text, max, "a process is left: %s\n", line);
	}
}

static void compare(const struct lab_use *lab, const struct probe *before, const struct probe *now,
		    char *text, size_t max)
{
	text[0] = '\0';
	name_new(before, now, text, max);
	if (now->cgroups > before->cgroups)
		say(text, max, "%llu control groups, %llu before\n",
		    (unsigned long long)now->cgroups, (unsigned long long)before->cgroups);
	for (unsigned i = 0; i < lab->nodes; i++) {
		const struct node_probe *a = &before->node[i], *b = &now->node[i];

		if (b->fds + a->kept > a->fds + b->kept)
			say(text, max,
			    "node %u: %llu descriptors (%llu for sessions and groups), "
			    "%llu (%llu) before\n",
			    i, (unsigned long long)b->fds, (unsigned long long)b->kept,
			    (unsigned long long)a->fds, (unsigned long long)a->kept);
		if (b->threads > THREADS_MAX)
			say(text, max, "node %u: %llu threads\n", i,
			    (unsigned long long)b->threads);
		if (b->mounts > a->mounts)
			say(text, max, "node %u: %llu mounts, %llu before\n", i,
			    (unsigned long long)b->mounts, (unsigned long long)a->mounts);
		if (b->ipc > a->ipc)
			say(text, max, "node %u: %llu System V objects, %llu before\n", i,
			    (unsigned long long)b->ipc, (unsigned long long)a->ipc);
	}
}

bool probe_left(const struct lab_use *lab, const struct probe *before, char *text, size_t max)
{
	u64 end = krg_clock_now_ns() + SETTLE_MS * KRG_MSEC;
	struct probe *now = krg_xalloc(sizeof(*now));

	for (;;) {
		probe_take(lab, now);
		compare(lab, before, now, text, max);
		if (text[0] == '\0' || krg_clock_now_ns() >= end)
			break;
		(void)poll(NULL, 0, 10);
	}
	free(now);
	return text[0] != '\0';
}

bool probe_memory_grew(const struct lab_use *lab, const struct probe *before, u64 bound_kib,
		       char *text, size_t max)
{
	text[0] = '\0';
	for (unsigned i = 0; i < lab->nodes; i++) {
		u64 was = before->node[i].rss_kib, now = status_field(lab->krgd[i], "VmRSS:");

		if (now > was + bound_kib)
			say(text, max, "node %u: krgd has %llu KiB of memory, %llu before\n", i,
			    (unsigned long long)now, (unsigned long long)was);
	}
	return text[0] != '\0';
}

void probe_kill_new(const struct lab_use *lab, const struct probe *before)
{
	struct probe *now = krg_xalloc(sizeof(*now));

	probe_take(lab, now);
	for (unsigned i = 0; i < now->npids; i++)
		if (!was_there(before, now->pids[i]))
			(void)kill(now->pids[i], SIGKILL);
	free(now);
}
