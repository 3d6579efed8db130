/* body.c - distant exec, at the node where the program runs.
 *
 * PREPARE makes the body: born in a nursery of its session with its own pid, set up, and into its
 * program, where ptrace holds it at its first instruction.  The thread that seized it (a tracer is a
 * thread) answers, waits for COMMIT or ABORT, and lets it go or ends it.
 */
#include "epm_impl.h"
#include <fcntl.h>
#include <linux/capability.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <sys/xattr.h>

struct bodyfds {
	int number[EPM_FDS_MAX], fd[EPM_FDS_MAX];
	bool cloexec[EPM_FDS_MAX];
	unsigned n;
};

/* What its end is told after: what it wrote into its home's pipes, and what it closed, must be there.  Of stand-ins one
 * is enough. */
struct streams {
	struct rec_stream_ref ref[EPM_FDS_MAX];
	unsigned n;
	bool standin;
};

static void bodyfds_fini(struct bodyfds *f)
{
	for (unsigned i = 0; i < f->n; i++)
		if (f->fd[i] >= 0)
			(void)close(f->fd[i]);
	f->n = 0;
}

static int reopen(const struct rec_epm_fd *rec, int *ret, struct krg_err *err)
{
	KRG_AUTO_FREE char *path = krg_slice_strdup(rec->path);
	KRG_AUTO_FD int fd = -EBADF;
	struct stat st;

	if (path == NULL || path[0] != '/' ||
	    (rec->flags & (u32)(O_CREAT | O_TRUNC | O_EXCL | O_PATH)) != 0)
		return krg_err_set(err, -EBADMSG, "fd %d", rec->number);
	/* O_NONBLOCK only while opening: the device or file may not be what it was */
	fd = open(path, (int)rec->flags | O_CLOEXEC | O_NOCTTY);
	if (fd < 0)
		return krg_err_set(err, -errno, "fd %d: open '%s'", rec->number, path);
	if (fstat(fd, &st) < 0 || (!S_ISCHR(st.st_mode) && st.st_ino != rec->ino))
		return krg_err_set(err, -ESTALE, "fd %d: '%s' is another file here", rec->number,
				   path);
	if (S_ISREG(st.st_mode) && lseek(fd, (off_t)rec->pos, SEEK_SET) < 0)
		return krg_err_set(err, -errno, "fd %d: seek '%s'", rec->number, path);
	*ret = TAKE_FD(fd);
	return 0;
}

static int fd_import(struct epm *e, const struct rec_epm_fd *rec, const struct bodyfds *f, int *ret,
		     struct streams *streams, struct krg_err *err)
{
	struct rec_stream_ref ref;
	struct krg_rd rd;

	if (FAULT_POINT(EXEC_IMPORT))
		return krg_err_set(err, -EIO, "import");
	switch (rec->kind) {
	case EPM_FD_REOPEN:
		return reopen(rec, ret, err);
	case EPM_FD_REF:
		rd = krg_rd_slice(rec->ref);
		if (rec_stream_ref_decode(&rd, &ref) < 0)
			return krg_err_set(err, -EBADMSG, "fd %d", rec->number);
		if (ref.origin != e->self && (ref.kind != STREAM_STANDIN || !streams->standin)) {
			streams->ref[streams->n++] = ref;
			streams->standin |= ref.kind == STREAM_STANDIN;
		}
		return stream_import(e->stream, &ref, ret, err);
	case EPM_FD_DUP:
		if (rec->pos >= f->n)
			return krg_err_set(err, -EBADMSG, "fd %d", rec->number);
		*ret = fcntl(f->fd[rec->pos], F_DUPFD_CLOEXEC, 0);
		return *ret < 0 ? krg_err_set(err, -errno, "fd %d", rec->number) : 0;
	default:
		return krg_err_set(err, -EBADMSG, "fd %d: kind %u", rec->number, rec->kind);
	}
}

static int fds_import(struct epm *e, struct krg_slice records, struct bodyfds *f,
		      struct streams *streams, struct krg_err *err)
{
	struct krg_rd rd = krg_rd_slice(records);
	struct rec_epm_fd rec;
	int r;

	while (krg_rd_left(&rd) > 0) {
		if (rec_epm_fd_decode(&rd, &rec) < 0 || f->n == EPM_FDS_MAX || rec.number < 0)
			return krg_err_set(err, -EBADMSG, "descriptors");
		f->number[f->n] = rec.number;
		f->cloexec[f->n] = rec.cloexec != 0;
		f->fd[f->n] = -EBADF;
		r = fd_import(e, &rec, f, &f->fd[f->n], streams, err);
		if (r < 0)
			return r;
		f->n++;
	}
	return krg_rd_ok(&rd) ? 0 : krg_err_set(err, -EBADMSG, "descriptors");
}

/* What was exported to this node, and is not imported: all but the first `done`.  (A pipe's ends are
 * of its home, which undoes them itself.) */
static void fds_undo(struct epm *e, struct krg_slice records, unsigned done)
{
	struct krg_rd rd = krg_rd_slice(records), sub;
	struct rec_stream_ref ref;
	struct rec_epm_fd rec;

	for (unsigned i = 0; krg_rd_left(&rd) > 0 && rec_epm_fd_decode(&rd, &rec) == 0; i++) {
		sub = krg_rd_slice(rec.ref);
		if (i >= done && rec.kind == EPM_FD_REF && rec_stream_ref_decode(&sub, &ref) == 0 &&
		    ref.kind == STREAM_STANDIN)
			stream_refuse(e->stream, &ref);
	}
}

static int memfd_of(const struct krg_buf *b)
{
	int fd = memfd_create("krg-spawn", MFD_CLOEXEC);

	if (fd >= 0 && krg_write_all(fd, b->data, b->len) < 0) {
		(void)close(fd);
		fd = -1;
	}
	return fd;
}

/* channels: of its shadows, which are told first. */
static int sync_read(int sync, struct shadow_channels *channels, struct krg_err *err)
{
	for (;;) {
		struct sync_msg m;
		unsigned nfds = 1;
		int fd = -EBADF;
		ssize_t n = krg_recv_fds(sync, &m, sizeof(m), &fd, &nfds);

		if (n == (ssize_t)sizeof(m) && m.code == SYNC_SHADOW && nfds == 1 &&
		    channels != NULL && channels->n < EPM_CHILDREN_MAX) {
			channels->fd[channels->n++] = fd;
			continue;
		}
		if (nfds == 1)
			(void)close(fd);
		if (n == 0)
			return krg_err_set(err, -ESRCH, "it was killed while it was made");
		if (n != (ssize_t)sizeof(m))
			return krg_err_set(err, -EPROTO, "its sync socket");
		m.what[sizeof(m.what) - 1] = '\0';
		return m.code == 0 ? 0
				   : krg_err_set(err, m.code < 0 ? m.code : -EPROTO, "%s", m.what);
	}
}

int body_spawn(struct epm *e, struct session *s, pid_t set_tid, int tries,
	       const struct krg_buf *spawn, const int *fds, unsigned nfds,
	       struct shadow_channels *channels, pid_t *ret_pid, int *ret_pidfd, int *ret_sync,
	       struct krg_err *err)
{
	struct nursery_req req = {.type = NURSERY_SPAWN, .set_tid = set_tid};
	KRG_AUTO_FD int spec = memfd_of(spawn), pidfd = -EBADF, sync = -EBADF;
	int pair[2], send[EPM_FDS_MAX + 2], r;
	pid_t pid = 0;

	(void)e;
	if (spec < 0)
		return krg_err_set(err, -errno, "memfd for a new process");
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return krg_err_set(err, -errno, "socketpair for a new process");
	sync = pair[0];
	send[0] = spec;
	send[1] = pair[1];
	memcpy(send + 2, fds, nfds * sizeof(*fds));
	r = nursery_call(&s->nursery, &req, send, nfds + 2, &pid, &pidfd);
	/* who had the number has been told to end, and may not be through with it */
	for (int i = 1; r == -EEXIST && i < tries; i++) {
		(void)poll(NULL, 0, 2);
		r = nursery_call(&s->nursery, &req, send, nfds + 2, &pid, &pidfd);
	}
	(void)close(pair[1]);
	if (r < 0)
		return krg_err_set(err, r, "make process %d", set_tid);
	r = sync_read(sync, channels, err);
	if (r < 0)
		return r;
	*ret_pid = pid;
	*ret_pidfd = TAKE_FD(pidfd);
	*ret_sync = TAKE_FD(sync);
	return 0;
}

/* ---- PREPARE ---- */

struct prepare {
	struct epm *e;
	struct comm_req *req; /* until it is answered */
	struct rec_epm_prepare in;
	struct rec_epm_spawn spawn;
	struct session *session;
	struct bodyfds fds;
	unsigned imported;
	struct shadow_channels channels;
	struct krg_buf ghost; /* of a process that runs */
	struct ghost_image *image;
	struct task *body;
	struct streams streams;
	struct epm_caps caps;
};

static int decode(struct prepare *p, struct krg_err *err)
{
	struct krg_rd rd = krg_rd_slice(p->req->body), sub;

	if (rec_epm_prepare_decode(&rd, &p->in) < 0)
		return krg_err_set(err, -EBADMSG, "PREPARE");
	if (FAULT_POINT(EXEC_PREPARE_RECV))
		return krg_err_set(err, -EIO, "PREPARE");
	sub = krg_rd_slice(p->in.spawn);
	if (rec_epm_spawn_decode(&sub, &p->spawn) < 0)
		return krg_err_set(err, -EBADMSG, "PREPARE: the process");
	/* a body that goes on is made by the one that leaves */
	if (epm_pid_home(p->in.pid) != p->in.home ||
	    (p->in.home != p->req->from && p->in.home == p->e->self))
		return krg_err_set(err, -EINVAL, "PREPARE: pid %d is not of node %u", p->in.pid,
				   p->req->from);
	if (p->in.sid <= 0 || p->in.pgid <= 0)
		return krg_err_set(err, -EINVAL, "PREPARE: session %d, group %d", p->in.sid,
				   p->in.pgid);
	p->spawn.pgid = p->in.pgid == p->in.pid ? 0 : p->in.pgid == p->in.sid ? -1 : p->in.pgid;
	p->spawn.flags &= EPM_SPAWN_FLAG_NNP | EPM_SPAWN_FLAG_REAPER;
	if (p->in.ghost.len > 0) {
		int r;

		/* the request is gone when it is answered */
		krg_buf_put(&p->ghost, p->in.ghost.data, p->in.ghost.len);
		r = ghost_image_read(krg_buf_slice(&p->ghost), &p->image, err);
		if (r < 0)
			return r;
		if (ghost_image_pid(p->image) != p->in.pid)
			return krg_err_set(err, -EBADMSG, "PREPARE: a ghost of another process");
		p->spawn.flags |= EPM_SPAWN_FLAG_SHELL;
	}
	p->caps = (struct epm_caps){
		.set = {[EPM_CAPS_EFFECTIVE] = p->in.effective & EPM_CAPS_ALL,
			[EPM_CAPS_PERMITTED] = p->in.permitted & EPM_CAPS_ALL,
			[EPM_CAPS_INH_EFFECTIVE] = p->in.inh_effective & EPM_CAPS_ALL,
			[EPM_CAPS_INH_PERMITTED] = p->in.inh_permitted & EPM_CAPS_ALL}};
	return 0;
}

/* Seize it before it executes, let it execute, hold it at its first instruction. */
static int exec_held(pid_t host_pid, int sync, struct krg_err *err)
{
	int status;
	pid_t r;

	if (ptrace(PTRACE_SEIZE, host_pid, 0, (long)(PTRACE_O_TRACEEXEC | PTRACE_O_EXITKILL)) < 0)
		return krg_err_set(err, -errno, "trace the body");
	if (krg_write_all(sync, "g", 1) < 0)
		return krg_err_set(err, -ESRCH, "the body was killed");
	for (;;) {
		do
			r = waitpid(host_pid, &status, __WALL);
		while (r < 0 && errno == EINTR);
		if (r < 0)
			return krg_err_set(err, -ESRCH, "the body was killed");
		if (!WIFSTOPPED(status)) {
			int code = sync_read(sync, NULL, err);

			return code < 0 ? code : krg_err_set(err, -ESRCH, "the body was killed");
		}
		if (status >> 16 == PTRACE_EVENT_EXEC)
			return 0;
		/* a signal before it runs is not its yet; stops too */
		if (ptrace(PTRACE_CONT, host_pid, 0, 0) < 0)
			return krg_err_set(err, -ESRCH, "the body was killed");
	}
}

/* The kernel ignores set-user-id bits and file capabilities under a tracer that may not trace all
 * (capabilities(7)): then the program would be another one than at home. */
static int privileges_kept(pid_t host_pid, struct krg_err *err)
{
	PROC_AUTO struct proc_info self = {0};
	char path[64], cap[64];
	struct stat st;

	(void)snprintf(path, sizeof(path), "/proc/%d/exe", host_pid);
	if (stat(path, &st) < 0)
		return krg_err_set(err, -ESRCH, "the body was killed");
	if ((st.st_mode & (S_ISUID | S_ISGID)) == 0 &&
	    getxattr(path, "security.capability", cap, sizeof(cap)) < 0)
		return 0;
	if (proc_read(getpid(), &self) == 0 && (self.cap_eff >> CAP_SYS_PTRACE & 1) != 0)
		return 0;
	return krg_err_set(err, -EPERM, "set-user-id, without CAP_SYS_PTRACE");
}

static void reap_held(struct task *body)
{
	int status;

	(void)syscall(SYS_pidfd_send_signal, body->pidfd, SIGKILL, NULL, 0);
	/* the tracer must see the end before krginit can */
	for (;;) {
		pid_t r = waitpid(body->host_pid, &status, __WALL);

		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0 || !WIFSTOPPED(status))
			return;
		(void)ptrace(PTRACE_CONT, body->host_pid, 0, 0);
	}
}

/* The shell has its descriptors and its place: now its memory, to be filled. */
static int shell_build(struct prepare *p, int sync, struct krg_err *err)
{
	struct pages_in *pages = NULL;
	struct ghost *g = NULL;
	char end;
	int r;

	/* it closes its end as it starts to wait */
	if (recv(sync, &end, 1, 0) != 0)
		return krg_err_set(err, -ESRCH, "the body was killed");
	r = FAULT_POINT(GHOST_BUILD) ? krg_err_set(err, -EIO, "build it")
				     : ghost_build(p->body->host_pid, p->image, &g, err);
	if (r == 0) {
		r = pages_in_begin(p->e, p->body, p->req->from, g, p->image, &pages, err);
		r = r == -ENOENT ? 0 : r;
		if (r < 0) {
			ghost_kill(g);
			return r;
		}
	}
	if (r < 0) {
		(void)syscall(SYS_pidfd_send_signal, p->body->pidfd, SIGKILL, NULL, 0);
		return r;
	}
	task_lock(&p->body->lock);
	p->body->ghost = g;
	p->body->pages = pages;
	p->body->arrival = ARRIVAL_PAGES;
	task_unlock(&p->body->lock);
	return 0;
}

static int make(struct prepare *p, struct krg_err *err)
{
	KRG_AUTO_BUF struct krg_buf b = {0}, numbers = {0};
	KRG_AUTO_FD int sync = -EBADF;
	struct task *body = p->body;
	pid_t pid;
	/* with securebits, its first body has just been given up: exec.c */
	int tries = p->spawn.securebits != 0 ? 200 : 10;
	int r;

	sessions_make_way(p->e, p->in.home);
	r = session_get(p->e, p->in.sid, session_class(p->e, p->in.sid, p->in.tty != 0), -EBADF,
			&p->session, err);
	if (r < 0)
		return r;
	session_born(p->e, p->session, p->in.exec_id);
	if (p->spawn.pgid > 0) {
		r = session_group(p->e, p->session, p->spawn.pgid);
		if (r < 0)
			return krg_err_set(err, r, "make group %d on this node", p->spawn.pgid);
	}
	r = kin_groups(p->e, p->session, &p->in, p->spawn.children, err);
	if (r < 0)
		return r;
	r = fds_import(p->e, p->in.fds, &p->fds, &p->streams, err);
	p->imported = p->fds.n;
	if (r < 0)
		return r;
	for (unsigned i = 0; i < p->fds.n; i++)
		krg_buf_put_u32(&numbers,
				(u32)p->fds.number[i] | (p->fds.cloexec[i] ? EPM_FD_CLOEXEC : 0));
	p->spawn.fds = krg_buf_slice(&numbers);
	rec_epm_spawn_encode(&p->spawn, &b);
	if (FAULT_POINT(EXEC_SPAWN))
		return krg_err_set(err, -EIO, "spawn");
	r = body_spawn(p->e, p->session, p->in.pid, tries, &b, p->fds.fd, p->fds.n, &p->channels,
		       &pid, &body->pidfd, &sync, err);
	bodyfds_fini(&p->fds);
	if (r == 0)
		r = kin_begin(p->e, body, p->spawn.children, &p->channels, err);
	if (r < 0)
		return r;
	tty_body_comes(p->e, p->session, p->in.pgid);
	body->host_pid = pidfd_host_pid(body->pidfd);
	if (body->host_pid <= 0)
		return krg_err_set(err, -ESRCH, "the body was killed");
	if (p->streams.n > 0) {
		body->nstreams = p->streams.n;
		body->streams = krg_xalloc(p->streams.n * sizeof(*body->streams));
		memcpy(body->streams, p->streams.ref, p->streams.n * sizeof(*body->streams));
	}
	caps_of_body(p->e, p->in.pid, p->in.sid, &p->caps);
	if (p->image != NULL)
		return shell_build(p, sync, err);
	r = exec_held(body->host_pid, sync, err);
	if (r == 0)
		r = privileges_kept(body->host_pid, err);
	if (r < 0)
		reap_held(body);
	return r;
}

/* All its pages are there: what is left to do is this thread's, which traces it. */
static void arrive(struct prepare *p, struct ghost *g)
{
	struct krg_err err = {0};
	int r = FAULT_POINT(GHOST_FINISH) ? krg_err_set(&err, -EIO, "finish it") : 0;

	if (r == 0 && p->body->pages != NULL)
		r = pages_in_arm(p->body->pages, &err);
	if (r == 0)
		r = ghost_finish(g, p->image, &err);

	task_lock(&p->body->lock);
	p->body->arrival = r == 0 ? ARRIVAL_READY : ARRIVAL_FAILED;
	p->body->arrival_err = err;
	krg_cond_broadcast(&p->body->cond);
	task_unlock(&p->body->lock);
}

/* As hold(), of a process on its way. */
static void hold_arrival(struct prepare *p)
{
	struct task *body = p->body;
	struct pages_in *pages;
	struct ghost *g;
	bool run;

	task_lock(&body->lock);
	g = body->ghost;
	while (body->state == TASK_HELD) {
		if (body->arrival == ARRIVAL_ALL) {
			task_unlock(&body->lock);
			arrive(p, g);
			task_lock(&body->lock);
			continue;
		}
		krg_cond_wait(&body->cond, &body->lock);
	}
	run = body->state == TASK_RUNNING && body->arrival == ARRIVAL_READY;
	if (run)
		keep_body_locked(p->e, body);
	body->ghost = NULL;
	pages = TAKE_PTR(body->pages);
	if (body->arrival != ARRIVAL_READY)
		body->arrival = ARRIVAL_FAILED;
	krg_cond_broadcast(&body->cond);
	task_unlock(&body->lock);
	if (run) {
		ghost_let_go(g);
		pages_in_end(pages, true);
		return;
	}
	pages_in_end(pages, false);
	ghost_kill(g);
	kin_end(p->e, body);
}

static bool body_has_timers(const struct task *body)
{
	for (unsigned i = 0; i < EPM_TIMERS; i++)
		if ((body->timer[i].left_us | body->timer[i].interval_us) != 0)
			return true;
	return false;
}

/* Then an end that is told is of one that had its number before: given up, or gone on. */
bool body_lives(const struct task *body)
{
	struct pollfd p = {.fd = body->pidfd, .events = POLLIN};

	return body->pidfd >= 0 && poll(&p, 1, 0) == 0;
}

/* Wait for the word; then the body runs, or ends having run nothing. */
static void hold(struct epm *e, struct task *body)
{
	bool run;

	task_lock(&body->lock);
	while (body->state == TASK_HELD)
		krg_cond_wait(&body->cond, &body->lock);
	run = body->state == TASK_RUNNING;
	/* what was pending is so at its first instruction */
	if (run) {
		signals_wait_locked(body);
		keep_body_locked(e, body);
	}
	task_unlock(&body->lock);
	if (run && body_has_timers(body) && timers_give(body->host_pid, body->timer) < 0)
		LOG_W("epm", "body %d: its interval timers are lost", body->pid);
	if (run && ptrace(PTRACE_DETACH, body->host_pid, 0, 0) == 0)
		return;
	/* another of its number may come at once, and end before this end has been told */
	if (!run && body_lives(body))
		body_left(e, body->pid, body->exec_id);
	reap_held(body);
	kin_end(e, body);
}

static void prepare_fini(struct prepare *p)
{
	bodyfds_fini(&p->fds);
	for (unsigned i = 0; i < p->channels.n; i++)
		if (p->channels.fd[i] >= 0)
			(void)close(p->channels.fd[i]);
	if (p->session != NULL)
		session_put(p->session);
	ghost_image_free(p->image);
	krg_buf_fini(&p->ghost);
	if (p->body != NULL)
		task_put(p->body);
}

/* Nothing is left here of what was exported when the home hears of it. */
static void prepare_fail(struct prepare *p, struct krg_err *err)
{
	bodyfds_fini(&p->fds);
	if (p->body != NULL)
		kin_end(p->e, p->body);
	fds_undo(p->e, p->in.fds, p->imported);
	err->node = p->e->self; /* exec.c: the destination has answered */
	comm_req_fail_err(p->req, err);
	prepare_fini(p);
}

static void notify_sched(struct epm *e, nodeid from)
{
	const struct epm_placement_ops *ops = atomic_load(&e->placement);

	if (ops != NULL && ops->arrived != NULL)
		ops->arrived(e->placement_ctx, from);
}

static void reap_made(struct task *body)
{
	struct pages_in *pages;
	struct ghost *g;

	task_lock(&body->lock);
	g = TAKE_PTR(body->ghost);
	pages = TAKE_PTR(body->pages);
	task_unlock(&body->lock);
	pages_in_end(pages, false);
	if (g != NULL)
		ghost_kill(g);
	else
		reap_held(body);
}

void handle_prepare(void *ctx, struct comm_req *req)
{
	struct prepare p = {.e = ctx, .req = req};
	struct krg_err err = {0};
	int r = decode(&p, &err);

	if (r == 0) {
		p.body = task_new(p.e, TASK_BODY, p.in.pid, p.in.home);
		p.body->maker = req->from != p.in.home ? req->from : KRG_NODE_NONE;
		p.body->exec_id = p.in.exec_id;
		p.body->ppid = p.in.ppid;
		p.body->path = krg_slice_strdup(p.spawn.path);
		r = task_insert(p.e, p.body);
		if (r < 0)
			(void)krg_err_set(&err, r, "pid %d is here already", p.in.pid);
	}
	if (r < 0) {
		prepare_fail(&p, &err);
		return;
	}
	notify_sched(p.e, req->from);
	r = make(&p, &err);
	if (r == 0 && FAULT_POINT(EXEC_PREPARED)) {
		reap_made(p.body);
		r = krg_err_set(&err, -EIO, "PREPARE");
	}
	task_lock(&p.body->lock);
	/* an ABORT or the home's death may have come first */
	if (p.body->state == TASK_ENDED && r == 0) {
		task_unlock(&p.body->lock);
		reap_made(p.body);
		task_lock(&p.body->lock);
		r = krg_err_set(&err, -ECANCELED, "given up");
	}
	if (p.body->state == TASK_MAKING)
		task_move_locked(p.body, r == 0 ? TASK_HELD : TASK_ENDED);
	task_unlock(&p.body->lock);
	if (r < 0) {
		task_remove(p.e, p.body);
		prepare_fail(&p, &err);
		return;
	}
	atomic_fetch_add(&p.e->count.bodies, 1);
	TRACE(BODY_MADE, p.in.exec_id, p.in.pid, p.in.home);
	comm_req_answer(req, NULL);
	if (p.image != NULL)
		hold_arrival(&p);
	else
		hold(p.e, p.body);
	prepare_fini(&p);
}

/* ---- of a process on its way ---- */

static struct task *arriving(struct epm *e, const struct comm_req *req, i32 pid, u64 exec_id)
{
	struct task *body = task_find(e, TASK_BODY, pid);

	if (body != NULL &&
	    ((body->maker != KRG_NODE_NONE ? body->maker : body->peer) != req->from ||
	     body->exec_id != exec_id)) {
		task_put(body);
		return NULL;
	}
	return body;
}

static int pages_put(struct task *body, const struct rec_epm_pages *in)
{
	int r = -ESRCH;

	KRG_GUARD(task, &body->lock);
	if (body->ghost == NULL || body->arrival != ARRIVAL_PAGES)
		return -ESRCH;
	r = FAULT_POINT(GHOST_PAGES)
		    ? -EIO
		    : ghost_page_put(body->ghost, in->addr, in->data.data, in->data.len);
	if (r == 0 && body->pages != NULL)
		pages_in_early(body->pages, in->addr, in->data.len / GHOST_PAGE);
	return r;
}

/* One record or more. */
void handle_pages(void *ctx, struct comm_req *req)
{
	struct krg_rd rd = krg_rd_slice(req->body);
	struct rec_epm_pages in;
	int r = 0;

	while (r == 0 && krg_rd_left(&rd) > 0) {
		TASK_AUTO_PUT struct task *body = NULL;

		r = -EBADMSG;
		if (rec_epm_pages_decode(&rd, &in) == 0 && in.data.len % GHOST_PAGE == 0 &&
		    in.addr % GHOST_PAGE == 0) {
			body = arriving(ctx, req, in.pid, in.exec_id);
			r = body == NULL ? -ESRCH : pages_put(body, &in);
		}
	}
	if (r < 0)
		comm_req_fail(req, r, "pages of a process on its way");
	else
		comm_req_answer(req, NULL);
}

void handle_arrived(void *ctx, struct comm_req *req)
{
	struct krg_rd rd = krg_rd_slice(req->body);
	TASK_AUTO_PUT struct task *body = NULL;
	struct krg_err err = {0};
	struct rec_epm_which w;
	bool ready = false;

	if (rec_epm_which_decode(&rd, &w) == 0)
		body = arriving(ctx, req, w.pid, w.exec_id);
	if (body == NULL) {
		comm_req_fail(req, -ESRCH, "a process on its way");
		return;
	}
	task_lock(&body->lock);
	if (body->ghost != NULL && body->arrival == ARRIVAL_PAGES) {
		body->arrival = ARRIVAL_ALL;
		krg_cond_broadcast(&body->cond);
		while (body->arrival == ARRIVAL_ALL)
			krg_cond_wait(&body->cond, &body->lock);
		ready = body->arrival == ARRIVAL_READY;
		err = body->arrival_err;
	}
	task_unlock(&body->lock);
	if (ready)
		comm_req_answer(req, NULL);
	else if (err.code < 0)
		comm_req_fail_err(req, &err);
	else
		comm_req_fail(req, -ECANCELED, "it was given up");
}

/* ---- the word ---- */

/* Its maker died as its home made it the process: so it ends. */
static void lost_tell(struct epm *e, nodeid home, i32 pid)
{
	KRG_AUTO_BUF struct krg_buf b = {0};
	struct rec_epm_ended m = {.pid = pid, .code = CLD_KILLED, .status = SIGKILL};

	LOG_W("epm", "body %d: it was let go, and is not here", pid);
	rec_epm_ended_encode(&m, &b);
	if (comm_send(e->comm, home, EPM_OP_ENDED, &b) < 0)
		return; /* it is gone */
}

/* Its maker's word came before its home's, and by now it has ended (its end is told once its pipes have settled), or gone on. */
static bool was_here(struct epm *e, nodeid home, const struct rec_epm_commit *w)
{
	struct rec_epm_ended rec;

	if (body_ended_find(e, home, w->pid, w->exec_id, &rec))
		return true;
	KRG_GUARD(leaf, &e->ends_lock);
	for (unsigned i = 0; i < KRG_NELEM(e->left_id); i++)
		if (e->left_id[i] == w->exec_id)
			return true;
	return false;
}

static void decide(struct epm *e, struct comm_req *req, const struct rec_epm_commit *w,
		   enum task_state to)
{
	TASK_AUTO_PUT struct task *body = task_find(e, TASK_BODY, w->pid);
	bool remove = false;

	if (body != NULL && (body->peer == req->from || body->maker == req->from) &&
	    body->exec_id == w->exec_id) {
		task_lock(&body->lock);
		if (body->state == TASK_HELD || (body->state == TASK_MAKING && to == TASK_ENDED)) {
			timers_decode(body, w->timers);
			/* before it runs: its end may come at once */
			remove = to == TASK_ENDED;
			task_move_locked(body, to);
		}
		task_unlock(&body->lock);
	}
	if (remove)
		task_remove(e, body);
	if (body == NULL && to == TASK_RUNNING && epm_pid_home(w->pid) == req->from &&
	    !was_here(e, req->from, w))
		lost_tell(e, req->from, w->pid);
	comm_req_done(req);
}

void handle_commit(void *ctx, struct comm_req *req)
{
	struct krg_rd rd = krg_rd_slice(req->body);
	struct rec_epm_commit w;

	(void)FAULT_POINT(EXEC_COMMIT_RECV);
	if (rec_epm_commit_decode(&rd, &w) == 0)
		decide(ctx, req, &w, TASK_RUNNING);
	else
		comm_req_done(req);
}

/* Also for a body that runs: its deputy was killed. */
void handle_abort(void *ctx, struct comm_req *req)
{
	struct epm *e = ctx;
	struct krg_rd rd = krg_rd_slice(req->body);
	TASK_AUTO_PUT struct task *body = NULL;
	struct rec_epm_which w;
	bool runs = false;

	if (rec_epm_which_decode(&rd, &w) < 0) {
		comm_req_done(req);
		return;
	}
	body = task_find(e, TASK_BODY, w.pid);
	if (body != NULL && body->exec_id == w.exec_id) {
		task_lock(&body->lock);
		runs = body->state == TASK_RUNNING;
		task_unlock(&body->lock);
	}
	if (!runs) {
		const struct rec_epm_commit which = {.pid = w.pid, .exec_id = w.exec_id};

		decide(e, req, &which, TASK_ENDED);
		return;
	}
	if (body->peer == req->from)
		(void)syscall(SYS_pidfd_send_signal, body->pidfd, SIGKILL, NULL, 0);
	comm_req_done(req);
}

void bodies_on_node_down(struct epm *e, nodeid node)
{
	struct task **all;
	unsigned n = task_all(e, TASK_BODY, &all);

	for (unsigned i = 0; i < n; i++) {
		struct task *t = all[i];
		bool remove = false;

		if (t->peer == node || t->maker == node) {
			task_lock(&t->lock);
			t->orphan = t->orphan || t->peer == node;
			if (t->peer == node && t->state == TASK_RUNNING)
				keep_body_locked(e, t);
			/* not committed: it never ran, and never will; if the home is gone, its maker says so, who has
			 * the program still */
			if ((t->state == TASK_HELD || t->state == TASK_MAKING) &&
			    (t->maker == KRG_NODE_NONE || t->maker == node)) {
				task_move_locked(t, TASK_ENDED);
				remove = true;
			}
			task_unlock(&t->lock);
		}
		if (remove)
			task_remove(e, t);
		task_put(t);
	}
	free(all);
}
