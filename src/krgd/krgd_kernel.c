/* What krgd cannot do without.  Asked first, so that the reason is not some call's "Function not implemented"
 * in the middle of a program's life.  FUSE is not in the list: without it there are no stand-ins, and all else works. */
#include "krgd.h"
#include <linux/kcmp.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/uio.h>

static long has_clone3(void)
{
	return syscall(SYS_clone3, NULL, 0);
}

static long has_pidfd_open(void)
{
	return syscall(SYS_pidfd_open, -1, 0);
}

static long has_pidfd_getfd(void)
{
	return syscall(SYS_pidfd_getfd, -1, 0, 0);
}

static long has_pidfd_send_signal(void)
{
	return syscall(SYS_pidfd_send_signal, -1, 0, NULL, 0);
}

static long has_kcmp(void)
{
	return syscall(SYS_kcmp, getpid(), getpid(), KCMP_VM, 0, 0);
}

static long has_vm_readv(void)
{
	return process_vm_readv(getpid(), NULL, 0, NULL, 0, 0);
}

static long has_close_range(void)
{
	return syscall(SYS_close_range, ~0u, ~0u, 0);
}

static long has_unshare(void)
{
	return unshare(0);
}

/* No filter is given: a kernel that knows the flags says EFAULT, one that does not EINVAL. */
static long has_listener(void)
{
	long r = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER,
			 SECCOMP_FILTER_FLAG_NEW_LISTENER | SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV,
			 NULL);

	if (r < 0 && errno == EINVAL)
		errno = ENOSYS;
	return r;
}

static long has_time_namespaces(void)
{
	long r = access("/proc/self/ns/time_for_children", F_OK);

	if (r < 0)
		errno = ENOSYS;
	return r;
}

int krgd_kernel_check(struct krg_err *err)
{
	static const struct {
		const char *what;
		long (*ask)(void);
	} all[] = {
		{"clone3(2)", has_clone3},
		{"pidfd_open(2)", has_pidfd_open},
		{"pidfd_getfd(2)", has_pidfd_getfd},
		{"pidfd_send_signal(2)", has_pidfd_send_signal},
		{"kcmp(2)", has_kcmp},
		{"process_vm_readv(2)", has_vm_readv},
		{"close_range(2)", has_close_range},
		{"unshare(2)", has_unshare},
		{"seccomp(2) with a listener (WAIT_KILLABLE_RECV)", has_listener},
		{"time namespaces", has_time_namespaces},
	};

	/* What is asked for is not allowed or makes no sense: that is an answer, too. */
	for (size_t i = 0; i < KRG_NELEM(all); i++)
		if (all[i].ask() < 0 && errno == ENOSYS)
			return krg_err_set(err, -ENOSYS,
					   "this kernel has no %s; krgd needs Linux 6.1",
					   all[i].what);
	return 0;
}
