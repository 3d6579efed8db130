/* kill.c - a signal from a tool. */
#include "epm_impl.h"

int epm_kill(struct epm *e, pid_t pid, int sig, uid_t uid, struct krg_err *err)
{
	struct rec_epm_kill k = {
		.target = pid, .sig = sig, .uid = uid, .euid = uid, .cap_kill = uid == 0};
	int r;

	krg_assert_no_locks();
	if (sig < 0 || sig > 64)
		return krg_err_set(err, -EINVAL, "signal %d", sig);
	if (pid < 32768 || session_owns_pid(e, pid))
		return krg_err_set(err, -ESRCH, "pid %d", pid);
	r = kill_pid(e, &k, err);
	/* its home may have died, and come back without it */
	if (r == -ESRCH && kill_orphan(e, &k) == 0)
		r = 0;
	return r;
}
