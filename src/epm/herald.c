/* herald.c - signals that show who sent them, though the sender is on another node.
 *
 * The kernel lets nobody claim to be another process that calls kill(2).  So on a node where the sender's
 * number is free, a process with that number is made, which has the sender's user, calls, and ends: a
 * herald.  Where a placeholder of ours has the number, that calls (nursery.c, shadow.c, vessel.c).
 *
 * Stage 0 of krginit serves this.  Its children are in the world, and it is not: should the number be taken by
 * somebody who cannot be asked, the signal comes from stage 0 itself, and the kernel shows nobody (0).
 */
#include "krginit.h"
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

static bool is_queued(const struct herald_req *r)
{
	return r->code < 0 && r->code != SI_TKILL;
}

static int queue(const struct herald_req *r, int target)
{
	siginfo_t si = {.si_signo = r->sig, .si_code = r->code};

	si.si_pid = r->from_pid;
	si.si_uid = r->from_uid;
	si.si_ptr = (void *)(uintptr_t)r->value;
	if (r->tid != 0)
		return syscall(SYS_rt_tgsigqueueinfo, r->tgid, r->tid, r->sig, &si) < 0 ? -errno
											: 0;
	return syscall(SYS_pidfd_send_signal, target, r->sig, &si, 0) < 0 ? -errno : 0;
}

int herald_send(const struct herald_req *r, int target)
{
	long e;

	if (is_queued(r))
		return queue(r, target);
	/* the real user is shown; the effective one may send */
	if (syscall(SYS_setresuid, r->from_uid, 0, 0) < 0)
		return -errno;
	if (r->tgid < 0)
		e = syscall(SYS_kill, r->tgid, r->sig);
	else if (r->tid != 0)
		e = syscall(SYS_tgkill, r->tgid, r->tid, r->sig);
	else
		e = syscall(SYS_pidfd_send_signal, target, r->sig, NULL, 0);
	e = e < 0 ? -errno : 0;
	(void)syscall(SYS_setresuid, 0, 0, 0);
	return (int)e;
}

/* A process with that number (0: any), which sends and ends. */
static int herald_make(const struct herald_req *r, i32 number, int target, volatile int *result)
{
	pid_t set_tid = number;
	struct clone_args args = {.set_tid = number != 0 ? (u64)(uintptr_t)&set_tid : 0,
				  .set_tid_size = number != 0 ? 1 : 0};
	long pid;

	*result = -EINTR; /* killed before it sent */
	pid = syscall(SYS_clone3, &args, sizeof(args));
	if (pid < 0)
		return -errno;
	if (pid == 0) {
		(void)prctl(PR_SET_NAME, "krgherald");
		*result = herald_send(r, target);
		_exit(0);
	}
	while (waitpid((pid_t)pid, NULL, __WALL) < 0 && errno == EINTR)
		;
	return *result;
}

static int serve(const struct herald_req *r, int target, volatile int *result)
{
	int e = herald_make(r, r->from_pid, target, result);

	/* a queued one says by itself who sent it; a thread that is not the first has no other address */
	if (e == -EEXIST && (is_queued(r) || (r->tid != 0 && r->tid != r->tgid)))
		e = herald_make(r, 0, target, result);
	if (r->tgid > 0 && (e == -EEXIST || e == -EINTR || e == -EAGAIN || e == -ENOMEM))
		e = syscall(SYS_pidfd_send_signal, target, r->sig, NULL, 0) < 0 ? -errno : 0;
	return e;
}

bool herald_serve(int sock)
{
	static volatile int *result;
	struct herald_answer a = {0};
	struct herald_req r;
	int target = -EBADF;
	unsigned nfds = 1;
	ssize_t n;

	if (result == NULL) {
		void *p = mmap(NULL, sizeof(*result), PROT_READ | PROT_WRITE,
			       MAP_SHARED | MAP_ANONYMOUS, -1, 0);

		if (p == MAP_FAILED)
			return false;
		result = p;
	}
	n = krg_recv_fds(sock, &r, sizeof(r), &target, &nfds);
	if (n == (ssize_t)sizeof(r) && nfds == 1) {
		a.id = r.id;
		a.result = serve(&r, target, result);
		(void)krg_send_fds(sock, &a, sizeof(a), NULL, 0);
	}
	if (nfds == 1)
		(void)close(target);
	return n > 0;
}
