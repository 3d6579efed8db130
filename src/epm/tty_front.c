/* tty_front.c - groups without members at their session's home, in front of its terminal.
 *
 * The kernel brings only groups in front that it knows.  In a session of `krg run` a nursery makes a placeholder with
 * the group's number.  A session that was made inside the world has none, and nobody there may choose a
 * number: a deputy that is in the session makes a *proxy*, a group of its own with a number of this node.  To
 * the cluster its number is the group's that it stands for; it tells what the driver signals.
 */
#include "tty_impl.h"
#include <asm/ioctls.h>
#include <linux/major.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>

#define FRONT_MS     5000 /* a deputy may stand */
#define PROXIES_KEPT 2 /* of a session: what was in front before may still have something to tell */

static void proxy_kill(struct epm *e, i32 pid)
{
	KRG_AUTO_FD int pidfd = -EBADF;

	if (proc_open(e, pid, &pidfd) == 0)
		(void)syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0);
}

static void proxy_end(struct epm *e, struct tty_proxy *p)
{
	proxy_kill(e, p->pid);
	p->pid = 0;
	atomic_fetch_sub(&e->nproxies, 1);
}

/* Room for one more of the session. */
static struct tty_proxy *proxy_room_locked(struct epm *e, i32 sid)
{
	struct tty_proxy *room = NULL, *oldest = NULL;
	unsigned n = 0;

	for (unsigned i = 0; i < EPM_PROXIES_MAX; i++) {
		struct tty_proxy *p = &e->proxy[i];

		if (p->pid == 0) {
			room = p;
		} else if (p->sid == sid) {
			n++;
			if (oldest == NULL || p->made < oldest->made)
				oldest = p;
		}
	}
	if (n < PROXIES_KEPT)
		return room;
	proxy_end(e, oldest);
	return oldest;
}

/* The session's that stands for the group, or 0. */
static i32 proxy_of_locked(struct epm *e, i32 sid, i32 pgid)
{
	for (unsigned i = 0; i < EPM_PROXIES_MAX; i++)
		if (e->proxy[i].pid != 0 && e->proxy[i].sid == sid && e->proxy[i].pgid == pgid)
			return e->proxy[i].pid;
	return 0;
}

static i32 proxy_of(struct epm *e, i32 sid, i32 pgid)
{
	KRG_GUARD(leaf, &e->proxies_lock);
	return proxy_of_locked(e, sid, pgid);
}

/* The one that the group has now, which may be another's; -EAGAIN. */
static i32 proxy_add(struct epm *e, i32 sid, i32 pgid, i32 pid, i32 deputy)
{
	KRG_GUARD(leaf, &e->proxies_lock);
	struct tty_proxy *p;
	i32 has = proxy_of_locked(e, sid, pgid);

	if (has != 0) /* parent and child bring it to the front at once, as shells do */
		return has;
	p = proxy_room_locked(e, sid);
	if (p == NULL)
		return -EAGAIN;
	*p = (struct tty_proxy){sid, pgid, pid, deputy, ++e->proxies_made};
	atomic_fetch_add(&e->nproxies, 1);
	return pid;
}

static bool proxy_find(struct epm *e, i32 pid, struct tty_proxy *ret)
{
	if (atomic_load(&e->nproxies) == 0 || pid <= 0)
		return false;
	KRG_GUARD(leaf, &e->proxies_lock);
	for (unsigned i = 0; i < EPM_PROXIES_MAX; i++) {
		if (e->proxy[i].pid != pid)
			continue;
		*ret = e->proxy[i];
		return true;
	}
	return false;
}

bool tty_is_proxy(struct epm *e, i32 pid)
{
	struct tty_proxy p;

	return proxy_find(e, pid, &p);
}

i32 tty_group_meant(struct epm *e, i32 pgid)
{
	struct tty_proxy p;

	return proxy_find(e, pgid, &p) ? p.pgid : pgid;
}

/* A deputy that is in the session and moves: the caller's own, or another. */
static struct task *deputy_in(struct epm *e, i32 sid, i32 pid)
{
	struct task *found = task_find(e, TASK_DEPUTY, pid), **all;
	unsigned n = found == NULL ? task_all(e, TASK_DEPUTY, &all) : 0;

	if (found != NULL)
		return found;
	for (unsigned i = 0; i < n; i++) {
		struct proc_info p = {0};
		bool runs;

		task_lock(&all[i]->lock);
		runs = all[i]->state == TASK_RUNNING && !all[i]->stands;
		task_unlock(&all[i]->lock);
		if (found == NULL && runs && proc_read_world_stat(e, all[i]->pid, &p) == 0 &&
		    p.sid == sid && p.tty != 0)
			found = all[i];
		else
			task_put(all[i]);
	}
	free(all);
	return found;
}

static int proxy_front(struct epm *e, struct task *t, i32 sid, i32 pgid)
{
	i32 pid = proxy_of(e, sid, pgid), made;

	if (pid == 0) {
		made = task_call(t, SYS_clone, 0, 0, 0, FRONT_MS);
		if (made < 0)
			return made;
		pid = proxy_add(e, sid, pgid, made, t->pid);
		if (pid != made)
			proxy_kill(e, made);
		if (pid < 0)
			return pid;
	}
	return task_call(t, SYS_ioctl, TIOCSPGRP, pid, 0, FRONT_MS);
}

int tty_front_by_deputy(struct epm *e, const struct rec_epm_tty *m)
{
	TASK_AUTO_PUT struct task *t = deputy_in(e, m->sid, m->pid);

	if (t == NULL)
		return -ENOTTY;
	if (m->elsewhere && tty_group_is_here(e, m->pgid, m->sid) == 0)
		return proxy_front(e, t, m->sid, m->pgid);
	return task_call(t, SYS_ioctl, TIOCSPGRP, m->pgid, 0, FRONT_MS);
}

void tty_proxy_heard(struct epm *e, const struct task *deputy, i32 pid, int sig, int code)
{
	struct group_signal g = {.sig = sig};
	struct tty_proxy p;

	if (!tty_is_of_driver(sig, code) || !proxy_find(e, pid, &p) || p.deputy != deputy->pid)
		return;
	g.sid = p.sid;
	g.pgid = p.pgid;
	tty_tell_nodes(e, &g);
}

/* They end with it. */
void tty_deputy_ends(struct epm *e, i32 deputy)
{
	if (atomic_load(&e->nproxies) == 0)
		return;
	KRG_GUARD(leaf, &e->proxies_lock);
	for (unsigned i = 0; i < EPM_PROXIES_MAX; i++)
		if (e->proxy[i].pid != 0 && e->proxy[i].deputy == deputy)
			proxy_end(e, &e->proxy[i]);
}

/* Of a pseudo-terminal's other end, whose front the kernel says to anybody. */
static i32 front_of_master(int fd)
{
	PROC_AUTO struct proc_info p = {0};
	pid_t host;

	return ioctl(fd, TIOCGPGRP, &host) == 0 && host > 0 && proc_read(host, &p) == 0 ? p.pid : 0;
}

static i32 front_of_leader(struct gate_call *c, const struct stat *st)
{
	struct proc_info leader = {0};
	struct caller who;

	if (caller_read((u32)c->req.pid, &who) < 0 ||
	    proc_read_world_stat(c->e, who.sid, &leader) < 0 || leader.sid != who.sid ||
	    (u32)leader.tty != (u32)st->st_rdev)
		return 0;
	return leader.tty_front;
}

/* A process of this node asks its own kernel, which says the proxy's number. */
bool tty_front_is_proxy(struct gate_call *c, int fd, i32 *ret)
{
	struct stat st;
	i32 front;

	if (atomic_load(&c->e->nproxies) == 0 || fstat(fd, &st) < 0 || !S_ISCHR(st.st_mode))
		return false;
	front = st.st_rdev == makedev(TTYAUX_MAJOR, 2) ? front_of_master(fd)
						       : front_of_leader(c, &st);
	*ret = tty_group_meant(c->e, front);
	return *ret != front;
}
