/* lab_cgroup.c - cgroups(7): a CPU quota per node (v1 cpu.cfs_quota_us, v2 cpu.max), and the list of
 * all processes of a lab, so that none is left behind. */
#include "lab_impl.h"
#include "clock.h"
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/pidfd.h>
#include <sys/stat.h>

#define PREFIX "krg-lab-"
/* A short period: a node that has used up its share stands still for less than this. */
#define PERIOD_US 20000

static void cg_path(char *ret, size_t max, const struct lab_hier *h, const char *name,
		    const char *sub, const char *file)
{
	int n = snprintf(ret, max, "%s/" PREFIX "%s%s%s%s%s", h->root, name, sub != NULL ? "/" : "",
			 sub != NULL ? sub : "", file != NULL ? "/" : "", file != NULL ? file : "");

	ASSERT(n > 0 && (size_t)n < max);
}

/* ---- which hierarchies ---- */

static bool has_word(const char *list, const char *word, const char *sep)
{
	size_t n = strlen(word);

	for (const char *at = list; *at != '\0'; at += strcspn(at, sep), at += strspn(at, sep))
		if (strncmp(at, word, n) == 0 && (at[n] == '\0' || strchr(sep, at[n]) != NULL))
			return true;
	return false;
}

bool lab_cgroups_parse(const char *line, struct lab_hier *ret)
{
	char root[LAB_PATH_MAX], type[32], super[256];
	const char *dash = strstr(line, " - ");

	/* proc(5): id parent major:minor root mountpoint options… - type source superoptions */
	if (dash == NULL || sscanf(line, "%*s %*s %*s %*s %159s", root) != 1 ||
	    sscanf(dash + 3, "%31s %*s %255s", type, super) != 2)
		return false;
	if (strcmp(type, "cgroup2") != 0 &&
	    !(strcmp(type, "cgroup") == 0 && has_word(super, "cpu", ",")))
		return false;
	*ret = (struct lab_hier){.v2 = type[6] == '2', .cpu = type[6] != '2'};
	memcpy(ret->root, root, sizeof(root));
	return true;
}

static bool v2_has_cpu(const struct lab_hier *h)
{
	char path[LAB_PATH_MAX + 32], text[256];

	(void)snprintf(path, sizeof(path), "%s/cgroup.controllers", h->root);
	return krg_read_file(path, text, sizeof(text)) >= 0 && has_word(text, "cpu", " \n");
}

int lab_cgroups_find(bool need_cpu, struct lab_cgroups *ret, struct krg_err *err)
{
	KRG_AUTO_FILE FILE *f = fopen("/proc/self/mountinfo", "re");
	struct lab_hier v1 = {0}, v2 = {0}, h;
	struct lab_cgroups c = {0};
	KRG_AUTO_FREE char *line = NULL;
	size_t room = 0;

	while (f != NULL && getline(&line, &room, f) > 0) {
		if (!lab_cgroups_parse(line, &h))
			continue;
		if (h.v2 && v2.root[0] == '\0') {
			v2 = h;
			v2.cpu = v2_has_cpu(&v2);
		} else if (!h.v2 && v1.root[0] == '\0') {
			v1 = h;
		}
	}
	if (v1.root[0] != '\0')
		c.hier[c.n++] = v1;
	if (v2.root[0] != '\0')
		c.hier[c.n++] = v2;
	if (c.n == 0)
		return krg_err_set(err, -ENOTSUP,
				   "lab: no cgroup hierarchy is mounted (v1 cpu or v2)");
	if (need_cpu && v1.root[0] == '\0' && !v2.cpu)
		return krg_err_set(err, -ENOTSUP, "lab: cgroup: %s has no cpu controller", v2.root);
	*ret = c;
	return 0;
}

/* ---- make, join ---- */

static int cg_mkdir(const struct lab_hier *h, const char *name, const char *sub,
		    struct krg_err *err)
{
	char path[2 * LAB_PATH_MAX];

	cg_path(path, sizeof(path), h, name, sub, NULL);
	if (mkdir(path, 0755) < 0 && errno != EEXIST)
		return krg_err_set(err, -errno, "lab %s: cgroup: mkdir %s", name, path);
	return 0;
}

static int cg_write(const struct lab_hier *h, const char *name, const char *sub, const char *file,
		    const char *text, struct krg_err *err)
{
	char path[2 * LAB_PATH_MAX];
	int r;

	cg_path(path, sizeof(path), h, name, sub, file);
	r = krg_write_file(path, text);
	return r < 0 ? krg_err_set(err, r, "lab %s: cgroup: write '%s' to %s", name, text, path)
		     : 0;
}

/* v2 hands a controller down level by level (no internal processes: cgroups(7)). */
static int v2_enable_cpu(const struct lab_hier *h, const char *name, struct krg_err *err)
{
	char path[LAB_PATH_MAX + 32];
	int r;

	(void)snprintf(path, sizeof(path), "%s/cgroup.subtree_control", h->root);
	r = krg_write_file(path, "+cpu");
	if (r < 0)
		return krg_err_set(err, r, "lab %s: cgroup: write '+cpu' to %s", name, path);
	return cg_write(h, name, NULL, "cgroup.subtree_control", "+cpu", err);
}

static int cg_quota(const struct lab_hier *h, const char *name, const char *sub, double cpus,
		    struct krg_err *err)
{
	long quota = (long)(cpus * PERIOD_US + 0.5);
	char text[64];
	int r;

	if (quota < 1000)
		return krg_err_set(err, -EINVAL, "lab %s: %g CPUs a node: at least %g", name, cpus,
				   1000.0 / PERIOD_US);
	if (h->v2) {
		(void)snprintf(text, sizeof(text), "%ld %d", quota, PERIOD_US);
		return cg_write(h, name, sub, "cpu.max", text, err);
	}
	(void)snprintf(text, sizeof(text), "%d", PERIOD_US);
	r = cg_write(h, name, sub, "cpu.cfs_period_us", text, err);
	if (r < 0)
		return r;
	(void)snprintf(text, sizeof(text), "%ld", quota);
	return cg_write(h, name, sub, "cpu.cfs_quota_us", text, err);
}

int lab_cgroups_make(const struct lab_cgroups *c, const char *name, const char *sub, double cpus,
		     struct krg_err *err)
{
	bool limited = cpus <= 0;

	for (unsigned i = 0; i < c->n; i++) {
		const struct lab_hier *h = &c->hier[i];
		bool here = !limited && h->cpu;
		int r = cg_mkdir(h, name, NULL, err);

		if (r == 0 && here && h->v2)
			r = v2_enable_cpu(h, name, err);
		if (r == 0)
			r = cg_mkdir(h, name, sub, err);
		if (r == 0 && here)
			r = cg_quota(h, name, sub, cpus, err);
		if (r < 0)
			return r;
		limited |= here;
	}
	return 0;
}

int lab_cgroups_join(const struct lab_cgroups *c, const char *name, const char *sub)
{
	char path[2 * LAB_PATH_MAX];

	for (unsigned i = 0; i < c->n; i++) {
		int r;

		cg_path(path, sizeof(path), &c->hier[i], name, sub, "cgroup.procs");
		r = krg_write_file(path, "0");
		if (r < 0)
			return r;
	}
	return 0;
}

/* ---- kill, remove ---- */

/* Calls f for dir and every cgroup below it, deepest first. */
static int cg_walk(const char *dir, int (*f)(const char *dir, void *ctx), void *ctx)
{
	DIR *d = opendir(dir);
	struct dirent *e;
	int r = 0, r2;

	if (d == NULL)
		return errno == ENOENT ? 0 : -errno;
	while ((e = readdir(d)) != NULL) {
		KRG_AUTO_FREE char *sub = NULL;

		if (e->d_type != DT_DIR || e->d_name[0] == '.')
			continue;
		sub = krg_xasprintf("%s/%s", dir, e->d_name);
		r2 = cg_walk(sub, f, ctx);
		r = r < 0 ? r : r2;
	}
	(void)closedir(d);
	r2 = f(dir, ctx);
	return r < 0 ? r : r2;
}

struct kill_ctx {
	u64 deadline_ns;
	unsigned found;
};

static int wait_gone(int pidfd, u64 deadline_ns)
{
	u64 now = krg_clock_now_ns();
	struct pollfd p = {.fd = pidfd, .events = POLLIN};
	int r;

	do
		r = poll(&p, 1, now < deadline_ns ? (int)((deadline_ns - now) / KRG_MSEC) + 1 : 0);
	while (r < 0 && errno == EINTR);
	return r > 0 ? 0 : -ETIMEDOUT;
}

/* The guard of a daemon ends when the daemon does, and helps it to (stream_guard.c): it is killed last. */
static bool is_guard(int pid)
{
	char path[32], name[32] = "";

	(void)snprintf(path, sizeof(path), "/proc/%d/comm", pid);
	return krg_read_file(path, name, sizeof(name)) > 0 && strcmp(name, "krgguard\n") == 0;
}

#define KILL_MAX 64u

/* Handles of the guards there, or of all others. */
static int cg_open(const char *dir, bool guards, int *fds, unsigned *ret_n)
{
	KRG_AUTO_FREE char *procs = krg_xasprintf("%s/cgroup.procs", dir);
	KRG_AUTO_FILE FILE *f = fopen(procs, "re");
	unsigned n = 0;
	int pid;

	if (f == NULL)
		return errno == ENOENT || errno == ENODEV ? 0 : -errno;
	while (n < KILL_MAX && fscanf(f, "%d", &pid) == 1) {
		/* 0: not in our pid namespace; cgroup.kill reaches it */
		if (pid <= 0 || pid == getpid() || is_guard(pid) != guards)
			continue;
		fds[n] = pidfd_open(pid, 0);
		n += fds[n] >= 0;
	}
	*ret_n = n;
	return 0;
}

/* One round: SIGKILL to all that are here, then wait for each. */
static int cg_kill_one(const char *dir, void *ctx)
{
	KRG_AUTO_FREE char *all = krg_xasprintf("%s/cgroup.kill", dir);
	struct kill_ctx *k = ctx;
	int fds[KILL_MAX], r, r2;
	unsigned n = 0;

	/* handles first: once killed, a pid may be another's */
	r = cg_open(dir, false, fds, &n);
	if (r == 0 && n == 0)
		r = cg_open(dir, true, fds, &n);
	k->found += n;
	for (unsigned i = 0; i < n; i++)
		(void)pidfd_send_signal(fds[i], SIGKILL, NULL, 0);
	for (unsigned i = 0; i < n; i++) {
		r2 = wait_gone(fds[i], k->deadline_ns);
		r = r < 0 ? r : r2;
		(void)close(fds[i]);
	}
	/* v2, Linux 5.14: those that were forked meanwhile, too */
	r2 = n > 0 && n < KILL_MAX ? krg_write_file(all, "1") : 0;
	return r < 0 || r2 == -ENOENT || r2 == -EACCES ? r : r2;
}

int lab_cgroups_kill(const struct lab_cgroups *c, const char *name, const char *sub, u64 wait_ms,
		     struct krg_err *err)
{
	struct kill_ctx k = {.deadline_ns = krg_clock_now_ns() + wait_ms * KRG_MSEC};

	do {
		k.found = 0;
		for (unsigned i = 0; i < c->n; i++) {
			char path[2 * LAB_PATH_MAX];
			int r;

			cg_path(path, sizeof(path), &c->hier[i], name, sub, NULL);
			r = cg_walk(path, cg_kill_one, &k);
			if (r < 0)
				return krg_err_set(err, r, "lab %s: kill what is in %s", name,
						   path);
		}
		if (krg_clock_now_ns() > k.deadline_ns && k.found > 0)
			return krg_err_set(err, -ETIMEDOUT, "lab %s: its processes do not end",
					   name);
	} while (k.found > 0);
	return 0;
}

static int cg_rmdir_one(const char *dir, void *ctx)
{
	u64 deadline = *(u64 *)ctx;

	/* a cgroup stays busy for a moment after its last process was reaped */
	while (rmdir(dir) < 0) {
		if (errno == ENOENT)
			return 0;
		if (errno != EBUSY || krg_clock_now_ns() > deadline)
			return -errno;
		(void)poll(NULL, 0, 2);
	}
	return 0;
}

int lab_cgroups_remove(const struct lab_cgroups *c, const char *name, struct krg_err *err)
{
	u64 deadline = krg_clock_now_ns() + 2 * KRG_NSEC;

	for (unsigned i = 0; i < c->n; i++) {
		char path[2 * LAB_PATH_MAX];
		int r;

		cg_path(path, sizeof(path), &c->hier[i], name, NULL, NULL);
		r = cg_walk(path, cg_rmdir_one, &deadline);
		if (r < 0)
			return krg_err_set(err, r, "lab %s: cgroup: remove %s", name, path);
	}
	return 0;
}

bool lab_cgroups_exist(const struct lab_cgroups *c, const char *name)
{
	for (unsigned i = 0; i < c->n; i++) {
		char path[2 * LAB_PATH_MAX];
		struct stat st;

		cg_path(path, sizeof(path), &c->hier[i], name, NULL, NULL);
		if (stat(path, &st) == 0)
			return true;
	}
	return false;
}
