/* krgd_run.c - krg run: a client's record and descriptors become a process of the world. */
#include "krgd.h"
#include "log.h"
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define RECORD_MAX (9u << 20)
#define GROUP_MS   2000

/* Where each world has its own node's run directory (krginit): the daemon of the node where a program runs. */
#define WORLD_DOOR "/run/krg/world/krgd.sock"

#define JOB_ENDED (-1)

/* One process that a client started, as long as either is there. */
struct run_job {
	struct krgd *krgd;	/* (c) */
	struct door_conn *conn; /* (c) */
	_Atomic unsigned refs;
	_Atomic int pid;      /* 0: not there yet; JOB_ENDED */
	struct run_job *next; /* (o) runs_lock: in krgd->runs, until it ends */
};

static void job_unref(struct run_job *job)
{
	if (atomic_fetch_sub(&job->refs, 1) == 1)
		free(job);
}

static void job_drop(void *user)
{
	job_unref(user);
}

static void job_list(struct run_job *job)
{
	KRG_GUARD(leaf, &job->krgd->runs_lock);

	job->next = job->krgd->runs;
	job->krgd->runs = job;
}

/* False: it was not there any more. */
static bool job_unlist(struct run_job *job)
{
	KRG_GUARD(leaf, &job->krgd->runs_lock);

	for (struct run_job **at = &job->krgd->runs; *at != NULL; at = &(*at)->next) {
		if (*at != job)
			continue;
		*at = job->next;
		return true;
	}
	return false;
}

static void job_ended(void *ctx, pid_t pid, int wstatus)
{
	struct run_job *job = ctx;
	struct door_conn *conn = job->conn;

	(void)pid;
	if (!job_unlist(job))
		return;
	atomic_store(&job->pid, JOB_ENDED);
	door_conn_event(conn, json_pack("{s:s, s:i}", "event", "exit", "status", wstatus));
	job_unref(job);
	door_conn_unref(conn);
}

void krgd_runs_end(struct krgd *k)
{
	for (;;) {
		struct run_job *job;

		leaf_lock(&k->runs_lock);
		job = k->runs;
		leaf_unlock(&k->runs_lock);
		if (job == NULL)
			return;
		job_ended(job, 0, SIGKILL);
	}
}

static const struct epm_run_ops run_ops = {.ended = job_ended};

/* ---- the record ---- */

/* A sealable memfd cannot make us wait, as a file of somebody's file system could. */
static int record_read(int fd, struct krg_buf *ret, struct krg_err *err)
{
	struct stat st;
	size_t at = 0;
	u8 *p;

	if (fcntl(fd, F_GET_SEALS) < 0)
		return krg_err_set(err, -EINVAL, "run: the last descriptor is no memfd");
	if (fstat(fd, &st) < 0)
		return krg_err_set(err, -errno, "run: memfd");
	if (st.st_size < 0 || st.st_size > RECORD_MAX)
		return krg_err_set(err, -E2BIG, "run: a record of %lld bytes",
				   (long long)st.st_size);
	p = krg_buf_grow(ret, (size_t)st.st_size);
	while (at < ret->len) {
		ssize_t n = pread(fd, p + at, ret->len - at, (off_t)at);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return krg_err_set(err, n < 0 ? -errno : -EBADMSG, "run: memfd");
		at += (size_t)n;
	}
	return 0;
}

static u64 get_u64(const u8 *p)
{
	struct krg_rd rd = krg_rd_make(p, sizeof(u64));

	return krg_rd_u64(&rd);
}

static bool strings_ok(struct krg_slice s)
{
	return s.len == 0 || s.data[s.len - 1] == '\0';
}

static int fields_check(const struct rec_epm_run *run, struct krg_err *err)
{
	if (run->argv.len < 2 || run->argv.data[0] == '\0' || !strings_ok(run->argv))
		return krg_err_set(err, -EINVAL, "run: argv");
	if (!strings_ok(run->env))
		return krg_err_set(err, -EINVAL, "run: env");
	if (run->cwd.len == 0 || run->cwd.data[0] != '/')
		return krg_err_set(err, -EINVAL, "run: cwd");
	if (run->groups.len % sizeof(u32) != 0)
		return krg_err_set(err, -EINVAL, "run: groups");
	if (run->node < -1 || run->node >= KRG_NODES_MAX)
		return krg_err_set(err, -EINVAL, "run: node %d", run->node);
	if (run->umask > 0777 || run->nice < -20 || run->nice > 19 || run->new_session > 1)
		return krg_err_set(err, -EINVAL, "run: umask, nice or session");
	if (run->limits.len != 16 * 16)
		return krg_err_set(err, -EINVAL, "run: limits");
	for (unsigned i = 0; i < 16; i++)
		if (get_u64(run->limits.data + 16 * i) > get_u64(run->limits.data + 16 * i + 8))
			return krg_err_set(err, -EINVAL, "run: limits[%u]", i);
	return 0;
}

/* Nobody but root gets more than the asking process has itself. */
static int privileges_check(const struct rec_epm_run *run, const struct krgd_limits *have,
			    struct krg_err *err)
{
	if (run->nice < have->nice)
		return krg_err_set(err, -EPERM, "run: nice %d", run->nice);
	for (unsigned i = 0; i < 16; i++)
		if (get_u64(run->limits.data + 16 * i + 8) > have->cur_max[2 * i + 1])
			return krg_err_set(err, -EPERM, "run: limit %u", i);
	return 0;
}

int krgd_run_check(struct rec_epm_run *run, const struct door_peer *peer,
		   const struct krgd_limits *peer_limits, struct krg_err *err)
{
	int r = fields_check(run, err);

	if (r < 0 || peer->uid == 0)
		return r;
	r = privileges_check(run, peer_limits, err);
	if (r < 0)
		return r;
	run->uid = peer->uid;
	run->gid = peer->gid;
	run->groups = (struct krg_slice){(const u8 *)peer->groups, peer->ngroups * sizeof(gid_t)};
	return 0;
}

/* proc(5): the rows of /proc/PID/limits stand in the order of getrlimit(2)'s numbers, and can be read
 * where prlimit(2) would take CAP_SYS_RESOURCE. */
int krgd_limits_parse(const char *text, struct krgd_limits *ret)
{
	const char *line = strchr(text, '\n'); /* behind the heading */

	for (unsigned i = 0; i < 16; i++) {
		if (line == NULL || strlen(line + 1) < 64)
			return -EBADMSG;
		for (unsigned j = 0; j < 2; j++) {
			const char *field = line + 1 + 26 + 21 * j;
			char *end;

			errno = 0;
			ret->cur_max[2 * i + j] = strncmp(field, "unlimited", 9) == 0
							  ? (u64)RLIM_INFINITY
							  : strtoull(field, &end, 10);
			if (errno != 0 || (*field != 'u' && (*field < '0' || *field > '9')))
				return -EBADMSG;
		}
		line = strchr(line + 1, '\n');
	}
	return 0;
}

static int limits_of(pid_t pid, struct krgd_limits *ret, struct krg_err *err)
{
	char path[32], text[4096];
	int r;

	(void)snprintf(path, sizeof(path), "/proc/%d/limits", pid);
	r = krg_read_file(path, text, sizeof(text));
	if (r >= 0)
		r = krgd_limits_parse(text, ret);
	if (r < 0)
		return krg_err_set(err, r, "run: the limits of pid %d", pid);
	errno = 0;
	ret->nice = getpriority(PRIO_PROCESS, (id_t)pid);
	return errno != 0 ? krg_err_set(err, -errno, "run: the priority of pid %d", pid) : 0;
}

void krgd_run_env(const struct rec_epm_run *run, const char *path, struct krg_buf *ret)
{
	static const char name[] = "KRG_SOCKET=";
	size_t at = 0;

	while (at < run->env.len) {
		const char *s = (const char *)run->env.data + at;
		size_t n = strlen(s) + 1; /* the last one ends with a NUL: checked */

		if (strncmp(s, name, sizeof(name) - 1) != 0)
			krg_buf_put(ret, s, n);
		at += n;
	}
	krg_buf_put(ret, name, sizeof(name) - 1);
	krg_buf_put(ret, path, strlen(path) + 1);
}

/* ---- ops ---- */

static int run_start(struct krgd *k, struct door_req *req, const struct rec_epm_run *run,
		     pid_t *ret_pid, struct krg_err *err)
{
	struct run_job *job = krg_xalloc(sizeof(*job));
	int none = 0, r;

	atomic_init(&job->refs, 2); /* the connection's and the process's */
	job->krgd = k;
	job->conn = door_conn_ref(req->conn);
	job_list(job);
	door_conn_user_set(req->conn, job, job_drop);
	r = epm_run(k->epm, run, req->fds, req->nfds - 1, &run_ops, job, ret_pid, err);
	if (r < 0) {
		/* unless krgd_runs_end() has done it */
		if (job_unlist(job)) {
			door_conn_unref(job->conn);
			job_unref(job);
		}
		return r;
	}
	/* it may have ended already; the connection's reference keeps the job */
	(void)atomic_compare_exchange_strong(&job->pid, &none, *ret_pid);
	return 0;
}

int krgd_op_run(void *ctx, struct door_req *req, json_t *answer, struct krg_err *err)
{
	KRG_AUTO_BUF struct krg_buf record = {0};
	KRG_AUTO_BUF struct krg_buf env = {0};
	const json_t *nfds = json_object_get(req->body, "nfds");
	struct krgd_limits limits = {0};
	struct krgd *k = ctx;
	struct rec_epm_run run;
	struct krg_rd rd;
	pid_t pid = 0;
	int r;

	if (req->nfds < 1 || !json_is_integer(nfds) || json_integer_value(nfds) != req->nfds - 1)
		return krg_err_set(err, -EINVAL, "run: nfds and the descriptors do not agree");
	if (door_conn_user(req->conn) != NULL)
		return krg_err_set(err, -EBUSY, "run: one a connection");
	r = record_read(req->fds[req->nfds - 1], &record, err);
	if (r < 0)
		return r;
	rd = krg_rd_slice(krg_buf_slice(&record));
	if (rec_epm_run_decode(&rd, &run) < 0)
		return krg_err_set(err, -EBADMSG, "run: the record");
	if (req->peer->uid != 0)
		r = limits_of(req->peer->pid, &limits, err);
	if (r == 0)
		r = krgd_run_check(&run, req->peer, &limits, err);
	if (r < 0)
		return r;
	krgd_run_env(&run, WORLD_DOOR, &env);
	run.env = krg_buf_slice(&env);
	if (run.env.len > 4 << 20)
		return krg_err_set(err, -E2BIG, "run: env");
	r = run_start(k, req, &run, &pid, err);
	if (r == 0)
		(void)json_object_set_new(answer, "pid", json_integer(pid));
	return r;
}

/* [net] What a terminal's driver does: to all of the group of pid, wherever they are.  Returns how many
 * there were, or an error. */
static int signal_group(struct krgd *k, pid_t pid, int sig, uid_t uid, struct krg_err *err)
{
	KRG_AUTO_BUF struct krg_buf b = {0};
	struct rec_epm_proc p;
	unsigned count = 0;
	struct krg_rd rd;
	i32 pgid = 0;
	int n = 0, r = epm_list_all(k->epm, GROUP_MS, &b, &count, err);

	if (r < 0 && r != -EAGAIN)
		return r;
	rd = krg_rd_slice(krg_buf_slice(&b));
	while (krg_rd_left(&rd) > 0 && rec_epm_proc_decode(&rd, &p) == 0)
		pgid = p.pid == pid ? p.pgid : pgid;
	rd = krg_rd_slice(krg_buf_slice(&b));
	while (pgid > 0 && krg_rd_left(&rd) > 0 && rec_epm_proc_decode(&rd, &p) == 0)
		n += p.pgid == pgid && epm_kill(k->epm, p.pid, sig, uid, err) == 0;
	return n;
}

int krgd_op_signal(void *ctx, struct door_req *req, json_t *answer, struct krg_err *err)
{
	const json_t *sig = json_object_get(req->body, "sig");
	struct run_job *job = door_conn_user(req->conn);
	struct krgd *k = ctx;
	pid_t pid = job != NULL ? atomic_load(&job->pid) : 0;
	uid_t uid = req->peer->uid;

	(void)answer;
	if (!json_is_integer(sig) || json_integer_value(sig) < 0 || json_integer_value(sig) > 64)
		return krg_err_set(err, -EINVAL, "signal: sig");
	if (pid <= 0)
		return krg_err_set(err, -ESRCH, "signal: no process of this connection runs");
	if (json_is_true(json_object_get(req->body, "group")) &&
	    signal_group(k, pid, (int)json_integer_value(sig), uid, err) > 0)
		return 0;
	return epm_kill(k->epm, pid, (int)json_integer_value(sig), uid, err);
}
