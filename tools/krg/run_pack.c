#include "run.h"
#include "caps.h"
#include <dirent.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>

int run_caps_parse(const char *text, u32 *ret)
{
	u32 drop, add;
	int r = caps_parse(text, &drop, &add);

	if (r == 0)
		*ret = (EPM_CAPS_DEFAULT & ~drop) | add;
	return r;
}

static void put_strings(struct krg_buf *b, char *const *v)
{
	for (; *v != NULL; v++)
		krg_buf_put(b, *v, strlen(*v) + 1);
}

static void put_limits(struct krg_buf *b)
{
	for (int i = 0; i < RLIMIT_NLIMITS; i++) {
		struct rlimit lim = {RLIM_INFINITY, RLIM_INFINITY};

		(void)getrlimit((__rlimit_resource_t)i, &lim);
		krg_buf_put_u64(b, lim.rlim_cur);
		krg_buf_put_u64(b, lim.rlim_max);
	}
}

/* As the kernel does it: relative to what is the directory now. */
static int find_dir(const char *dir, char *ret, size_t max, struct krg_err *err)
{
	char *full;

	if (dir == NULL) {
		if (getcwd(ret, max) == NULL)
			return krg_err_set(err, -errno, "run: the directory");
		return 0;
	}
	full = realpath(dir, NULL);
	if (full == NULL)
		return krg_err_set(err, -errno, "run: -d %s", dir);
	(void)snprintf(ret, max, "%s", full);
	free(full);
	return 0;
}

static int memfd_of(const struct krg_buf *b, int *ret_fd, struct krg_err *err)
{
	KRG_AUTO_FD int fd = memfd_create("krg-run", MFD_CLOEXEC);
	int r = fd < 0 ? -errno : krg_write_all(fd, b->data, b->len);

	if (r < 0)
		return krg_err_set(err, r, "run: memfd");
	*ret_fd = TAKE_FD(fd);
	return 0;
}

int run_pack(const struct run_opts *o, bool new_session, int *ret_fd, struct krg_err *err)
{
	KRG_AUTO_BUF struct krg_buf argv = {0};
	KRG_AUTO_BUF struct krg_buf env = {0};
	KRG_AUTO_BUF struct krg_buf limits = {0};
	KRG_AUTO_BUF struct krg_buf b = {0};
	struct rec_epm_run run = {.uid = getuid(), .gid = getgid(), .node = o->node};
	char cwd[4096];
	gid_t groups[NGROUPS_MAX];
	int r, n = getgroups(KRG_NELEM(groups), groups);

	r = find_dir(o->dir, cwd, sizeof(cwd), err);
	if (r < 0)
		return r;
	if (n < 0)
		return krg_err_set(err, -errno, "run: groups");
	run.groups = (struct krg_slice){(const u8 *)groups, (size_t)n * sizeof(gid_t)};
	run.caps = o->caps;
	run.umask = umask(0);
	(void)umask((mode_t)run.umask);
	run.nice = getpriority(PRIO_PROCESS, 0);
	run.new_session = new_session;
	run.cwd = krg_slice_str(cwd);
	put_strings(&argv, o->argv);
	put_strings(&env, environ);
	put_limits(&limits);
	if (argv.len > 4 << 20 || env.len > 4 << 20)
		return krg_err_set(err, -E2BIG, "run: arguments or environment");
	run.argv = krg_buf_slice(&argv);
	run.env = krg_buf_slice(&env);
	run.limits = krg_buf_slice(&limits);
	rec_epm_run_encode(&run, &b);
	return memfd_of(&b, ret_fd, err);
}
