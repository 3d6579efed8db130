/* run.c - `krg run`: a process is born here, in a session of its own, and its first exec may be
 * placed like any other. */
#include "epm_impl.h"
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>

struct task *run_find_by_host_pid(struct epm *e, pid_t host_pid)
{
	struct task **all, *found = NULL;
	unsigned n = task_all(e, TASK_RUN, &all);

	for (unsigned i = 0; i < n; i++) {
		task_lock(&all[i]->lock);
		if (found == NULL && all[i]->host_pid == host_pid && all[i]->state == TASK_HELD)
			found = all[i];
		task_unlock(&all[i]->lock);
		if (all[i] != found)
			task_put(all[i]);
	}
	free(all);
	return found;
}

static const char *env_find(struct krg_slice env, const char *name)
{
	size_t n = strlen(name);

	for (size_t i = 0; i < env.len;) {
		const char *s = (const char *)env.data + i;
		size_t len = strnlen(s, env.len - i);

		if (len == env.len - i)
			return NULL; /* not terminated */
		if (len > n && strncmp(s, name, n) == 0 && s[n] == '=')
			return s + n + 1;
		i += len + 1;
	}
	return NULL;
}

static bool executable(const char *cwd, const char *path)
{
	KRG_AUTO_FREE char *full =
		path[0] == '/' ? krg_xstrdup(path) : krg_xasprintf("%s/%s", cwd, path);
	struct stat st;

	return stat(full, &st) == 0 && S_ISREG(st.st_mode) && (st.st_mode & 0111) != 0;
}

/* As execvp(3). */
static int program_find(const char *cwd, const char *name, const char *path, char *ret, size_t max,
			struct krg_err *err)
{
	if (strchr(name, '/') != NULL) {
		if ((size_t)snprintf(ret, max, "%s", name) >= max)
			return krg_err_set(err, -ENAMETOOLONG, "%s", name);
		return 0;
	}
	for (const char *at = path != NULL ? path : "/usr/local/bin:/usr/bin:/bin"; at != NULL;) {
		const char *colon = strchr(at, ':');
		int n = colon != NULL ? (int)(colon - at) : (int)strlen(at);

		if ((size_t)snprintf(ret, max, "%.*s%s%s", n, at, n > 0 ? "/" : "./", name) < max &&
		    executable(cwd, ret))
			return 0;
		at = colon != NULL ? colon + 1 : NULL;
	}
	return krg_err_set(err, -ENOENT, "%s", name);
}

static int run_check(const struct rec_epm_run *run, unsigned nfds, struct krg_err *err)
{
	if (run->argv.len == 0 || run->argv.data[run->argv.len - 1] != '\0' ||
	    (run->env.len > 0 && run->env.data[run->env.len - 1] != '\0'))
		return krg_err_set(err, -EINVAL, "run: arguments are not terminated");
	if (nfds > EPM_FDS_MAX || run->groups.len % 4 != 0 || run->limits.len % 16 != 0)
		return krg_err_set(err, -EINVAL, "run: malformed");
	if (run->node >= KRG_NODES_MAX)
		return krg_err_set(err, -EINVAL, "run: no node %d", run->node);
	if ((run->caps & ~EPM_CAPS_ALL) != 0)
		return krg_err_set(err, -EINVAL, "run: no such capabilities: %#o",
				   run->caps & ~EPM_CAPS_ALL);
	return 0;
}

/* root's process gets what krgd has */
static u64 own_caps(void)
{
	PROC_AUTO struct proc_info self = {0};

	return proc_read(getpid(), &self) == 0 ? self.cap_prm : 0;
}

static void spawn_fill(const struct rec_epm_run *run, const char *cwd, const char *path, bool tty,
		       bool place, struct krg_slice numbers, struct krg_buf *ret)
{
	u64 caps = run->uid == 0 ? own_caps() : 0;
	struct rec_epm_spawn s = {.pgid = 0,
				  .uid = run->uid,
				  .euid = run->uid,
				  .suid = run->uid,
				  .gid = run->gid,
				  .egid = run->gid,
				  .sgid = run->gid,
				  .groups = run->groups,
				  .cap_prm = caps,
				  .cap_eff = caps,
				  .cap_bnd = ~0ull,
				  .flags = (tty ? EPM_SPAWN_FLAG_CTTY : 0) |
					   (place ? EPM_SPAWN_FLAG_PLACE : 0),
				  .umask = run->umask & 0777,
				  .nice = run->nice,
				  .cwd = krg_slice_str(cwd),
				  .path = krg_slice_str(path),
				  .argv = run->argv,
				  .env = run->env,
				  .limits = run->limits,
				  .fds = numbers};

	rec_epm_spawn_encode(&s, ret);
}

/* The program runs, or the errno of its exec. */
static int exec_result(struct epm *e, struct task *run, int sync, struct krg_err *err)
{
	struct sync_msg m;
	ssize_t n;

	do
		n = read(sync, &m, sizeof(m));
	while (n < 0 && errno == EINTR);
	task_lock(&run->lock);
	if (run->state == TASK_HELD)
		task_move_locked(run, TASK_RUNNING);
	task_unlock(&run->lock);
	atomic_fetch_sub(&e->nruns, 1);
	if (n != (ssize_t)sizeof(m))
		return 0; /* closed: it executes (or was killed, as its status will say) */
	if (run->run_err.code < 0) {
		*err = run->run_err;
		return err->code;
	}
	return krg_err_set(err, m.code < 0 ? m.code : -EPROTO, "%s", run->path);
}

static int run_spawn(struct epm *e, struct session *s, struct task **ret_run,
		     const struct krg_buf *spawn, const int *fds, unsigned nfds,
		     const struct rec_epm_run *rec, const char *path, const struct epm_run_ops *ops,
		     void *ctx, struct krg_err *err)
{
	KRG_AUTO_FD int pidfd = -EBADF, sync = -EBADF;
	struct task *run;
	pid_t pid;
	int r = body_spawn(e, s, 0, 1, spawn, fds, nfds, NULL, &pid, &pidfd, &sync, err);

	if (r < 0)
		return r;
	run = task_new(e, TASK_RUN, pid, e->self);
	run->state = TASK_HELD;
	run->path = krg_xstrdup(path);
	run->run_ops = ops;
	run->run_ctx = ctx;
	run->run_node = rec->node >= 0 ? rec->node : -1;
	run->host_pid = pidfd_host_pid(pidfd);
	run->pidfd = TAKE_FD(pidfd);
	r = task_insert(e, run);
	ASSERT(r == 0); /* a pid is given out once */
	atomic_fetch_add(&e->nruns, 1);
	if (krg_write_all(sync, "g", 1) < 0)
		LOG_D("epm", "run: pid %d was killed", pid); /* its status will say so */
	r = exec_result(e, run, sync, err);
	if (r < 0) {
		/* its end is nobody's business but ours */
		task_lock(&run->lock);
		run->run_ops = NULL;
		task_unlock(&run->lock);
	}
	*ret_run = run;
	return r;
}

int epm_run(struct epm *e, const struct rec_epm_run *run, const int *fds, unsigned nfds,
	    const struct epm_run_ops *ops, void *ctx, pid_t *ret_pid, struct krg_err *err)
{
	KRG_AUTO_BUF struct krg_buf spawn = {0}, numbers = {0};
	KRG_AUTO_FREE char *cwd = krg_slice_strdup(run->cwd);
	TASK_AUTO_PUT struct task *task = NULL;
	bool tty = run->new_session != 0 && nfds > 0 && isatty(fds[0]) == 1;
	bool place = (run->caps >> EPM_CAP_DISTANT_EXEC & 1) != 0 ||
		     (run->node >= 0 && run->node != e->self);
	struct epm_caps caps = epm_caps_at_birth(run->caps);
	struct session *s;
	char path[4096];
	int r = run_check(run, nfds, err);

	krg_assert_no_locks();
	if (r < 0)
		return r;
	if (run->node >= 0 && run->node != e->self && !comm_is_member(e->comm, (nodeid)run->node))
		return krg_err_set(err, -EHOSTDOWN, "node %d is not online", run->node);
	if (cwd == NULL || cwd[0] != '/')
		return krg_err_set(err, -EINVAL, "run: directory");
	r = program_find(cwd, (const char *)run->argv.data, env_find(run->env, "PATH"), path,
			 sizeof(path), err);
	if (r < 0)
		return r;
	for (unsigned i = 0; i < nfds; i++)
		krg_buf_put_u32(&numbers, i);
	spawn_fill(run, cwd, path, tty, place, krg_buf_slice(&numbers), &spawn);
	r = session_get(e, 0, place ? NURSERY_EXEC : NURSERY_PLAIN, tty ? fds[0] : -EBADF, &s, err);
	if (r < 0)
		return r;
	caps_of_session(e, s->sid, &caps, !place);
	session_outside(e, s, fds, KRG_MIN(nfds, (unsigned)SESSION_OUTSIDE_MAX));
	r = run_spawn(e, s, &task, &spawn, fds, nfds, run, path, ops, ctx, err);
	session_put(s);
	if (r == 0)
		*ret_pid = task->pid;
	return r;
}

void run_on_ended(struct epm *e, const struct init_ended *m)
{
	TASK_AUTO_PUT struct task *run = task_find(e, TASK_RUN, m->pid);
	const struct epm_run_ops *ops;

	if (run == NULL || m->code == CLD_STOPPED || m->code == CLD_CONTINUED ||
	    m->code == CLD_TRAPPED)
		return;
	task_remove(e, run);
	task_lock(&run->lock);
	task_move_locked(run, TASK_ENDED);
	ops = run->run_ops;
	task_unlock(&run->lock);
	if (ops != NULL)
		ops->ended(run->run_ctx, m->pid, wstatus_of(m->code, m->status));
}
