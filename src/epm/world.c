/* world.c - krgd's side of krginit: the world is made, told of, ended. */
#include "epm_impl.h"
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define SOCKETS 3 /* control, heralds, keeper */

/* Its sockets get numbers in a row, behind what they have. */
_Noreturn static void krginit_exec(const char *path, const int *sock)
{
	char number[SOCKETS][16];
	int at = 3;

	for (int i = 0; i < SOCKETS; i++)
		at = KRG_MAX(at, sock[i] + 1);
	for (int i = 0; i < SOCKETS; i++) {
		if (dup2(sock[i], at + i) < 0)
			_exit(127);
		(void)snprintf(number[i], sizeof(number[i]), "%d", at + i);
	}
	(void)execl(path, "krginit", number[0], number[1], number[2], (char *)NULL);
	_exit(127);
}

static int pair_open(int *ret_ours, int *ret_theirs, struct krg_err *err)
{
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return krg_err_set(err, -errno, "socketpair for krginit");
	*ret_ours = pair[0];
	*ret_theirs = pair[1];
	return 0;
}

int world_fork(struct epm *e, struct krg_err *err)
{
	KRG_AUTO_FREE char *path = krg_xasprintf("%s/krginit", e->libexec_dir);
	KRG_AUTO_FD int control = -EBADF, herald = -EBADF, keep = -EBADF;
	int r;

	if (access(path, X_OK) < 0)
		return krg_err_set(err, -errno, "%s", path);
	if (keep_claim(e) > 0)
		return 0;
	r = pair_open(&e->init_sock, &control, err);
	if (r == 0)
		r = pair_open(&e->herald.sock, &herald, err);
	if (r == 0)
		r = pair_open(&e->keep_sock, &keep, err);
	if (r < 0)
		return r;
	e->stage0 = fork();
	if (e->stage0 < 0)
		return krg_err_set(err, -errno, "fork krginit");
	if (e->stage0 == 0)
		krginit_exec(path, (int[]){control, herald, keep});
	return 0;
}

/* ---- questions to krginit: one at a time ---- */

static int ask(struct epm *e, void *req, size_t n, u32 *id_field, void *answer, size_t answer_size)
{
	int r = 0;

	KRG_GUARD(gate, &e->ask_lock);
	while (e->ask_busy && !e->init_gone)
		krg_cond_wait(&e->ask_cond, &e->ask_lock);
	if (e->init_gone)
		return -ESRCH;
	e->ask_busy = true;
	*id_field = ++e->ask_id;
	if (krg_send_fds(e->init_sock, req, n, NULL, 0) != (ssize_t)n)
		r = -EPIPE;
	while (r == 0 && e->ask_answered != e->ask_id && !e->init_gone)
		krg_cond_wait(&e->ask_cond, &e->ask_lock);
	if (r == 0 && e->init_gone)
		r = -ESRCH;
	if (r == 0)
		memcpy(answer, e->ask_answer, answer_size);
	e->ask_busy = false;
	krg_cond_broadcast(&e->ask_cond);
	return r;
}

int world_shared(struct epm *e, pid_t pid, const int *fds, unsigned n, u64 pipes, u64 *ret_mask)
{
	struct init_shared req = {.type = INIT_SHARED, .pid = pid, .nfds = n, .pipes = pipes};
	struct init_shared_answer a;
	int r;

	ASSERT(n <= INIT_SHARED_MAX);
	memcpy(req.fds, fds, n * sizeof(*fds));
	r = ask(e, &req, sizeof(req), &req.id, &a, sizeof(a));
	if (r == 0)
		*ret_mask = a.mask;
	return r;
}

int world_sessions_alive(struct epm *e, struct init_sessions *req, struct init_sessions_answer *ret)
{
	req->type = INIT_SESSIONS;
	return ask(e, req, sizeof(*req), &req->id, ret, sizeof(*ret));
}

static void answer_in(struct epm *e, const u8 *m, size_t n)
{
	struct init_shared_answer head;

	KRG_GUARD(gate, &e->ask_lock);
	memcpy(&head, m, 8);
	if (n > sizeof(e->ask_answer) || head.id != e->ask_id)
		return;
	memcpy(e->ask_answer, m, n);
	e->ask_answered = head.id;
	krg_cond_broadcast(&e->ask_cond);
}

/* ---- the thread that hears krginit ---- */

static void *init_thread(void *ctx)
{
	struct epm *e = ctx;
	_Alignas(8) u8 m[4096];

	for (;;) {
		unsigned nfds = 0;
		ssize_t n = krg_recv_fds(e->init_sock, m, sizeof(m), NULL, &nfds);
		struct init_ended ended;
		u32 type;

		if (n < 8)
			break;
		memcpy(&type, m, sizeof(type));
		if (type == INIT_ENDED && n == sizeof(ended)) {
			memcpy(&ended, m, sizeof(ended));
			body_on_ended(e, &ended);
			run_on_ended(e, &ended);
		} else if (type == INIT_SHARED_ANSWER || type == INIT_SESSIONS_ANSWER) {
			answer_in(e, m, (size_t)n);
		}
	}
	if (!atomic_load(&e->stopping))
		LOG_E("epm", "krginit is gone: the world of this node has ended");
	gate_lock(&e->ask_lock);
	e->init_gone = true;
	krg_cond_broadcast(&e->ask_cond);
	gate_unlock(&e->ask_lock);
	return NULL;
}

static int ready_wait(struct epm *e, int *fds, struct krg_err *err)
{
	union {
		u32 type;
		struct init_ready ready;
		struct init_failed failed;
	} m = {0};
	unsigned nfds = 1 + 2 * NURSERY_NR;
	ssize_t n = krg_recv_fds(e->init_sock, &m, sizeof(m), fds, &nfds);

	if (n >= (ssize_t)sizeof(m.failed) && m.type == INIT_FAILED) {
		m.failed.what[sizeof(m.failed.what) - 1] = '\0';
		return krg_err_set(err, m.failed.code < 0 ? m.failed.code : -EIO, "world: %s",
				   m.failed.what);
	}
	if (n < (ssize_t)sizeof(m.ready) || m.type != INIT_READY ||
	    m.ready.version != WORLD_PROTO_VERSION || nfds != 1 + 2 * NURSERY_NR)
		return krg_err_set(err, -EPROTO, "world: krginit did not start");
	return 0;
}

/* The names of the world's namespaces: a task with others stays where it is. */
static int ns_ids_read(struct epm *e, struct krg_err *err)
{
	static const char *const kinds[] = {"ns/mnt", "ns/user", "ns/net", "ns/ipc", "ns/uts"};
	struct krg_buf b = {0};
	char link[64], path[32];

	for (unsigned i = 0; i < KRG_NELEM(kinds); i++) {
		ssize_t n;

		(void)snprintf(path, sizeof(path), "1/%s", kinds[i]);
		n = readlinkat(e->world_proc, path, link, sizeof(link) - 1);
		if (n < 0) {
			krg_buf_fini(&b);
			return krg_err_set(err, -errno, "world: read %s", kinds[i]);
		}
		krg_buf_put(&b, link, (size_t)n);
		krg_buf_put(&b, " ", 1);
	}
	krg_buf_put_u8(&b, 0);
	e->ns_ids = (char *)b.data;
	return 0;
}

static int root_read(struct epm *e, struct krg_err *err)
{
	char path[4096];
	ssize_t n = readlinkat(e->world_proc, "1/root", path, sizeof(path) - 1);

	if (n <= 0)
		return krg_err_set(err, n < 0 ? -errno : -ENOENT, "world: its root directory");
	path[n] = '\0';
	e->root_path = krg_xstrdup(n == 1 ? "" : path);
	return 0;
}

/* Shared with the next krgd, by way of the keeper. */
static int log_make(struct epm *e, struct krg_err *err)
{
	void *p;

	e->log_fd = memfd_create("krg-gate", MFD_CLOEXEC);
	if (e->log_fd < 0 || ftruncate(e->log_fd, sizeof(*e->log)) < 0)
		return krg_err_set(err, -errno, "world: the log of the gate");
	p = mmap(NULL, sizeof(*e->log), PROT_READ | PROT_WRITE, MAP_SHARED, e->log_fd, 0);
	if (p == MAP_FAILED)
		return krg_err_set(err, -errno, "world: the log of the gate");
	e->log = p;
	return 0;
}

int world_start(struct epm *e, struct krg_err *err)
{
	struct init_world w = {.type = INIT_WORLD,
			       .version = WORLD_PROTO_VERSION,
			       .pid_low = e->low,
			       .pid_high = e->high,
			       .clock_offset_ns = e->clock_offset_ns,
			       .keep_ms = e->keep_ms};
	int fds[1 + 2 * NURSERY_NR], r;

	if (strlen(e->run_dir) >= sizeof(w.run_dir))
		return krg_err_set(err, -ENAMETOOLONG, "run directory '%s'", e->run_dir);
	(void)snprintf(w.run_dir, sizeof(w.run_dir), "%s", e->run_dir);
	(void)snprintf(w.host_name, sizeof(w.host_name), "%s", e->host_name);
	if (krg_send_fds(e->init_sock, &w, sizeof(w), NULL, 0) != sizeof(w))
		return krg_err_set(err, -EPIPE, "world: krginit is gone");
	r = ready_wait(e, fds, err);
	if (r < 0)
		return r;
	e->world_proc = fds[0];
	for (int c = 0; c < NURSERY_NR; c++) {
		e->listener[c] = fds[1 + 2 * c];
		e->root[c].sock = fds[2 + 2 * c];
	}
	r = log_make(e, err);
	if (r == 0)
		r = world_look(e, err);
	return r < 0 ? r : world_hear(e, err);
}

int world_look(struct epm *e, struct krg_err *err)
{
	KRG_AUTO_FREE char *vessel = krg_xasprintf("%s/krgvessel", e->libexec_dir);
	int r;

	e->vessel_fd = open(vessel, O_RDONLY | O_CLOEXEC);
	if (e->vessel_fd < 0)
		return krg_err_set(err, -errno, "%s", vessel);
	r = ns_ids_read(e, err);
	return r == 0 ? root_read(e, err) : r;
}

int world_hear(struct epm *e, struct krg_err *err)
{
	if (pthread_create(&e->init_thread, NULL, init_thread, e) != 0)
		return krg_err_set(err, -EAGAIN, "world: start a thread");
	e->init_thread_runs = true;
	return 0;
}

void world_wait(int pidfd)
{
	struct pollfd p = {.fd = pidfd, .events = POLLIN};

	while (poll(&p, 1, -1) < 0 && errno == EINTR)
		;
}

void world_stop(struct epm *e)
{
	char path[128];

	if (e->adopted && !e->returned) {
		/* it is not ours to end: another krgd may do better */
		krg_closep(&e->keep_sock);
		e->keep_sock = -EBADF;
		return;
	}
	/* pid 1 dies with its parent, and the world with pid 1 */
	if (e->stage0 > 0) {
		(void)kill(e->stage0, SIGKILL);
		while (waitpid(e->stage0, NULL, 0) < 0 && errno == EINTR)
			;
	} else if (e->keeper >= 0) {
		(void)syscall(SYS_pidfd_send_signal, e->keeper, SIGKILL, NULL, 0);
		world_wait(e->keeper);
		krg_closep(&e->keeper);
		e->keeper = -EBADF;
	}
	if (e->stage0 > 0 || e->adopted) {
		(void)snprintf(path, sizeof(path), "%s/" KEEP_SOCKET, e->run_dir);
		(void)unlink(path);
	}
	e->stage0 = 0;
	if (e->init_thread_runs) {
		(void)pthread_join(e->init_thread, NULL);
		e->init_thread_runs = false;
	}
}

/* No pid and no errno. */
#define SYNC_COOKIE (-0x40000000)

int nursery_sync(struct nursery *n)
{
	i32 cookie = SYNC_COOKIE - (i32)(krg_clock_now_ns() / KRG_MSEC % 0x1000000);
	struct nursery_req req = {.type = NURSERY_SYNC, .pgid = cookie};

	KRG_GUARD(world, &n->lock);
	if (n->sock < 0 || krg_send_fds(n->sock, &req, sizeof(req), NULL, 0) != sizeof(req))
		return -ESRCH;
	for (;;) {
		struct nursery_answer a;
		unsigned got = 1;
		int pidfd = -EBADF;
		ssize_t r = krg_recv_fds(n->sock, &a, sizeof(a), &pidfd, &got);

		if (got == 1) {
			/* it has executed nothing: its krgd did not hear of it */
			(void)syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0);
			(void)close(pidfd);
		}
		if (r != sizeof(a))
			return -ESRCH;
		if (a.pid == cookie)
			return 0;
	}
}

int nursery_call(struct nursery *n, const struct nursery_req *req, const int *fds, unsigned nfds,
		 pid_t *ret_pid, int *ret_pidfd)
{
	struct nursery_answer a = {0};
	int pidfd = -EBADF;
	unsigned got = 1;
	ssize_t r;

	{
		KRG_GUARD(world, &n->lock);
		if (n->sock < 0)
			return -ESRCH;
		r = krg_send_fds(n->sock, req, sizeof(*req), fds, nfds);
		if (r != sizeof(*req))
			return r < 0 ? (int)r : -EPIPE;
		r = krg_recv_fds(n->sock, &a, sizeof(a), &pidfd, &got);
	}
	if (r != sizeof(a))
		return -ESRCH;
	if (a.pid <= 0)
		return a.pid < 0 ? a.pid : -EPROTO;
	if (got != 1)
		return -EPROTO;
	*ret_pid = a.pid;
	if (ret_pidfd != NULL)
		*ret_pidfd = pidfd;
	else
		(void)close(pidfd);
	return 0;
}
