/* prctl.c - what a process has asked of its kernel by prctl(2), which nobody else can read, and which moves with it.
 *
 * PR_SET_PDEATHSIG is a thread's, PR_SET_CHILD_SUBREAPER a process's; both outlive an exec and are not inherited over
 * fork(2).  So they are written down when they are set, with the start of who set them.  A body's parent is at home:
 * its deputy hears of the parent's end.
 */
#include "epm_impl.h"
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#define ASKED_MAX 4096 /* of those that live; more are not known when they move */

struct asked {
	struct asked *next;
	pid_t tid; /* in krgd's namespace; of a subreaper the first thread's */
	u64 start_ticks;
	i32 option;
	u32 value;
};

static struct asked **asked_find_locked(struct epm *e, pid_t tid, i32 option)
{
	struct asked **at = &e->asked;

	while (*at != NULL && ((*at)->tid != tid || (*at)->option != option))
		at = &(*at)->next;
	return at;
}

static void asked_drop_locked(struct epm *e, struct asked **at)
{
	struct asked *a = *at;

	*at = a->next;
	e->nasked--;
	free(a);
}

static void asked_set(struct epm *e, pid_t tid, u64 start_ticks, i32 option, u32 value)
{
	struct asked **at, *a;

	KRG_GUARD(leaf, &e->asked_lock);
	at = asked_find_locked(e, tid, option);
	if (*at != NULL)
		asked_drop_locked(e, at);
	if (value == 0 || e->nasked == ASKED_MAX)
		return;
	a = krg_xalloc(sizeof(*a));
	*a = (struct asked){e->asked, tid, start_ticks, option, value};
	e->asked = a;
	e->nasked++;
}

static u32 asked_get(struct epm *e, pid_t tid, u64 start_ticks, i32 option)
{
	const struct asked *a;

	KRG_GUARD(leaf, &e->asked_lock);
	a = *asked_find_locked(e, tid, option);
	return a != NULL && a->start_ticks == start_ticks ? a->value : 0;
}

void asked_describe(struct epm *e, const struct proc_info *p, u32 *ret_pdeathsig,
		    bool *ret_subreaper)
{
	PROC_AUTO struct proc_info first = {0};

	*ret_pdeathsig = asked_get(e, p->host_tid, p->start_ticks, PR_SET_PDEATHSIG);
	*ret_subreaper = proc_read(p->host_tgid, &first) == 0 &&
			 asked_get(e, p->host_tgid, first.start_ticks, PR_SET_CHILD_SUBREAPER) != 0;
}

void asked_sweep(struct epm *e)
{
	KRG_GUARD(leaf, &e->asked_lock);
	for (struct asked **at = &e->asked; *at != NULL;) {
		if (kill((*at)->tid, 0) < 0 && errno == ESRCH)
			asked_drop_locked(e, at);
		else
			at = &(*at)->next;
	}
}

void asked_fini(struct epm *e)
{
	KRG_GUARD(leaf, &e->asked_lock);
	while (e->asked != NULL)
		asked_drop_locked(e, &e->asked);
}

void gate_handle_prctl(struct gate_call *c)
{
	i32 option = (i32)c->req.data.args[0];
	u64 value = c->req.data.args[1];
	TASK_AUTO_PUT struct task *body = NULL;
	PROC_AUTO struct proc_info p = {0}, first = {0};
	struct rec_epm_call call;

	gate_continue(c);
	/* what the kernel refuses */
	if (option == PR_SET_PDEATHSIG && value > 64)
		return;
	if (proc_read((pid_t)c->req.pid, &p) < 0 || proc_read(p.host_tgid, &first) < 0)
		return;
	if (option == PR_SET_CHILD_SUBREAPER) {
		asked_set(c->e, p.host_tgid, first.start_ticks, option, value != 0);
		return;
	}
	asked_set(c->e, p.host_tid, p.start_ticks, option, (u32)value);
	body = gate_body(c);
	if (body == NULL)
		return;
	call = (struct rec_epm_call){
		.pid = body->pid, .nr = SYS_prctl, .arg0 = option, .arg1 = (i64)value};
	(void)gate_call_deputy(c->e, body, &call);
}
