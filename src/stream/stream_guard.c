/* stream_guard.c - a killed krgd ends, though it waits for its own file system.
 *
 * A thread of krgd that closes a seekable stand-in (FUSE_FLUSH) or opens one waits for an answer of krgd's FUSE
 * threads.  If krgd is killed then, those end first, the answer never comes, and the wait cannot be
 * interrupted (the kernel's request_wait_answer(): "already in userspace, or forced: wait it out").  The
 * kernel would abort the connection when /dev/fuse is closed, but the waiting thread holds krgd's
 * descriptors.
 *
 * So the guard, a process that is forked before krgd's first thread and does nothing else, aborts the connection
 * (fusectl, "Aborting a filesystem connection" in the kernel's fuse documentation).  How it learns of krgd's
 * end: not by a pidfd or a pipe, which tell only when all threads are gone.  A thread that never waits for a
 * stand-in holds a robust mutex (pthread_mutexattr_setrobust(3)) in memory shared with the guard, and the kernel
 * gives that on as soon as this one thread ends.
 */
#include "stream_impl.h"
#include <fcntl.h>
#include <linux/mount.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

/* fusectl, mounted nowhere: it goes with its descriptor. */
static int fusectl_open(void)
{
	int fs = (int)syscall(SYS_fsopen, "fusectl", FSOPEN_CLOEXEC);

	if (fs < 0 || syscall(SYS_fsconfig, fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
		return -errno;
	return (int)syscall(SYS_fsmount, fs, FSMOUNT_CLOEXEC, 0);
}

int guard_abort(u32 connection)
{
	KRG_AUTO_FD int ctl = fusectl_open(), fd = -EBADF;
	char path[32];

	(void)snprintf(path, sizeof(path), "%u/abort", connection);
	if (ctl >= 0)
		fd = openat(ctl, path, O_WRONLY | O_CLOEXEC);
	return fd < 0 || write(fd, "1", 1) != 1 ? -errno : 0;
}

/* Nothing of krgd's is kept: neither its terminal, nor its lock of the run directory. */
static _Noreturn void guard_main(pthread_mutex_t *alive, int said)
{
	u32 connection;

	(void)prctl(PR_SET_NAME, "krgguard");
	(void)dup2(said, 0);
	(void)syscall(SYS_close_range, 1, ~0u, 0);
	(void)!chdir("/");
	if (krg_read_all(0, &connection, sizeof(connection)) == 0 &&
	    pthread_mutex_lock(alive) == EOWNERDEAD)
		(void)guard_abort(connection);
	_exit(0);
}

static void mutex_init(pthread_mutex_t *m)
{
	pthread_mutexattr_t attr;

	ASSERT(pthread_mutexattr_init(&attr) == 0);
	ASSERT(pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED) == 0);
	ASSERT(pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST) == 0);
	ASSERT(pthread_mutex_init(m, &attr) == 0);
	(void)pthread_mutexattr_destroy(&attr);
}

int guard_new(struct guard *g, struct krg_err *err)
{
	KRG_AUTO_FD int in = -EBADF;
	sigset_t all, old;
	int p[2];

	g->alive = mmap(NULL, sizeof(pthread_mutex_t), PROT_READ | PROT_WRITE,
			MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (g->alive == MAP_FAILED) {
		g->alive = NULL;
		return krg_err_set(err, -errno, "stream: memory for the guard");
	}
	mutex_init(g->alive);
	if (pipe2(p, O_CLOEXEC) < 0)
		return krg_err_set(err, -errno, "stream: a pipe to the guard");
	in = p[0];
	g->said = p[1];
	/* What ends krgd in good order is not for the guard, which ends when krgd does. */
	(void)sigfillset(&all);
	(void)pthread_sigmask(SIG_SETMASK, &all, &old);
	g->pid = fork();
	if (g->pid == 0)
		guard_main(g->alive, in);
	(void)pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (g->pid < 0)
		return krg_err_set(err, -errno, "stream: fork the guard");
	return 0;
}

/* The one that lives as long as krgd does, and waits for nothing else. */
static void *alive_main(void *arg)
{
	struct guard *g = arg;
	eventfd_t v;

	(void)pthread_setname_np(pthread_self(), "stream-alive");
	ASSERT(pthread_mutex_lock(g->alive) == 0);
	/* A guard that is dead (EPIPE) does not keep krgd from its work. */
	(void)!write(g->said, &g->connection, sizeof(g->connection));
	while (eventfd_read(g->stop_ev, &v) < 0)
		ASSERT(errno == EINTR);
	ASSERT(pthread_mutex_unlock(g->alive) == 0);
	return NULL;
}

int guard_start(struct guard *g, u32 connection, struct krg_err *err)
{
	int r;

	g->connection = connection;
	g->stop_ev = eventfd(0, EFD_CLOEXEC);
	if (g->stop_ev < 0)
		return krg_err_set(err, -errno, "stream: eventfd");
	r = pthread_create(&g->thread, NULL, alive_main, g);
	if (r != 0)
		return krg_err_set(err, -r, "stream: thread: %s", strerror(r));
	g->runs = true;
	return 0;
}

void guard_free(struct guard *g)
{
	if (g->runs) {
		(void)eventfd_write(g->stop_ev, 1);
		(void)pthread_join(g->thread, NULL);
	}
	krg_closep(&g->said); /* it ends, if it was told nothing yet */
	krg_closep(&g->stop_ev);
	if (g->pid > 0)
		while (waitpid(g->pid, NULL, 0) < 0 && errno == EINTR)
			;
	if (g->alive != NULL)
		(void)munmap(g->alive, sizeof(pthread_mutex_t));
	*g = (struct guard){.said = -EBADF, .stop_ev = -EBADF};
}
