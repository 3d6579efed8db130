/* stream_killed.c - a daemon that is killed while it waits for its own file system ends. */
#include "stream_impl.h"
#include "stream_nodes.h"
#include <sys/stat.h>
#include <sys/syscall.h>

/* What the child says of itself. */
struct said {
	u32 connection;
	pid_t guard;
};

static int tell;

/* The origin never answers: the FLUSH that asked waits, and was taken by the importer's FUSE thread. */
static void never(void *ctx, struct comm_req *req)
{
	(void)ctx;
	(void)req;
	MUST(write(tell, "f", 1) == 1);
	for (;;)
		(void)pause();
}

static struct comm *comm_up(nodeid self)
{
	struct comm_config cc = {
		.self = self, .listen_addr = "127.0.0.1", .cluster = "test", .workers = 4};
	struct krg_err err = {0};
	struct comm *c = NULL;

	MUST(comm_new(&cc, &c, &err) == 0 && comm_start(c, &err) == 0);
	return c;
}

/* Node 1 is a daemon, node 0 no more than an origin that does not answer.  The daemon closes a stand-in whose
 * offset has to be passed on, and hangs there. */
static _Noreturn void daemon_closes(void)
{
	const struct rec_stream_ref ref = {
		.kind = STREAM_STANDIN, .id = 1, .open_flags = O_RDWR, .mode = S_IFREG | 0600};
	struct stream_config sc = {.run_dir = ""};
	static const nodeid members[] = {0, 1};
	struct comm *origin = comm_up(0), *own = comm_up(1);
	struct krg_err err = {0};
	struct stream *s = NULL;
	struct said said;
	int fd = -EBADF;

	comm_register(origin, STREAM_OP_CTL, 0, never, NULL);
	MUST(stream_new(own, &sc, &s, &err) == 0 && stream_start(s, &err) == 0);
	MUST(comm_peer_set(own, 0, "127.0.0.1", comm_port(origin)) == 0);
	comm_view_set(origin, 1, members, 2);
	comm_view_set(own, 1, members, 2);
	MUST(stream_import(s, &ref, &fd, &err) == 0 && lseek(fd, 7, SEEK_SET) == 7);
	said = (struct said){.connection = s->guard.connection, .guard = s->guard.pid};
	MUST(write(tell, &said, sizeof(said)) == sizeof(said));
	(void)close(fd);
	_exit(3);
}

static bool ends(int pidfd)
{
	struct pollfd p = {.fd = pidfd, .events = POLLIN};

	return poll(&p, 1, 10000) == 1;
}

static void test_killed(void)
{
	int p[2], pidfd, guard, st = 0;
	struct said said;
	bool ended;
	pid_t pid;
	char c;

	MUST(pipe2(p, O_CLOEXEC) == 0);
	(void)fflush(stdout);
	pid = fork();
	if (pid == 0) {
		tell = p[1];
		daemon_closes();
	}
	(void)close(p[1]);
	MUST(pid > 0 && read(p[0], &said, sizeof(said)) == sizeof(said));
	pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	guard = (int)syscall(SYS_pidfd_open, said.guard, 0);
	MUST(pidfd >= 0 && guard >= 0);
	tap_ok(read(p[0], &c, 1) == 1 && c == 'f', "a close waits for the daemon's own answer");
	MUST(kill(pid, SIGKILL) == 0);
	ended = ends(pidfd);
	tap_ok(ended, "killed, the daemon ends");
	if (!ended)
		MUST(guard_abort(said.connection) == 0);
	MUST(waitpid(pid, &st, 0) == pid);
	tap_ok(WIFSIGNALED(st) && WTERMSIG(st) == SIGKILL, "by the signal");
	tap_ok(ends(guard), "and so does its guard");
	(void)close(p[0]);
	(void)close(pidfd);
	(void)close(guard);
}

static void test_stopped(void)
{
	struct nodes n;

	nodes_start(&n, 2);
	MUST(kill(n.stream[1]->guard.pid, SIGKILL) == 0);
	nodes_stop(&n);
	tap_ok(waitpid(-1, NULL, 0) < 0 && errno == ECHILD,
	       "stopped in good order, with a guard that was killed: no process is left");
}

int main(void)
{
	if (geteuid() != 0 || access("/dev/fuse", R_OK | W_OK) < 0)
		return tap_skip_all("needs root and /dev/fuse");
	test_killed();
	test_stopped();
	return tap_done();
}
