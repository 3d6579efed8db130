/* spawn.c - what a new process does between its birth in a nursery and its program. */
#include "krginit.h"
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <signal.h>
#include <termios.h>

static int spawn_sync = -EBADF;

static void tell(int code, const char *what)
{
	struct sync_msg m = {.code = code};

	(void)snprintf(m.what, sizeof(m.what), "%s", what);
	if (krg_write_all(spawn_sync, &m, sizeof(m)) < 0)
		_exit(127); /* krgd is gone */
}

static void must(long r, const char *what)
{
	if (r >= 0)
		return;
	tell(-errno, what);
	_exit(127);
}

static void spec_read(int spec, struct rec_epm_spawn *ret)
{
	struct stat st;
	struct krg_rd rd;
	void *p;

	must(fstat(spec, &st), "fstat the spawn record");
	p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, spec, 0);
	must(p == MAP_FAILED ? -1 : 0, "map the spawn record");
	rd = krg_rd_make(p, (size_t)st.st_size);
	errno = EBADMSG;
	must(rec_epm_spawn_decode(&rd, ret), "read the spawn record");
}

/* Before its program, as root: it needs pids of its choice. */
static void children(const struct rec_epm_spawn *s)
{
	struct krg_rd rd = krg_rd_slice(s->children);
	struct sync_msg m = {.code = SYNC_SHADOW};
	struct rec_epm_child child;
	int channel, r;

	while (krg_rd_left(&rd) > 0) {
		errno = EBADMSG;
		must(rec_epm_child_decode(&rd, &child), "read the list of children");
		r = shadow_make(&child, &channel);
		/* as in body_spawn() */
		for (int i = 0; r == -EEXIST && i < 10; i++) {
			(void)poll(NULL, 0, 2);
			r = shadow_make(&child, &channel);
		}
		errno = -r;
		must(r, r == -EEXIST ? "a child's number is taken on that node"
				     : "make the shadow of a child");
		if (krg_send_fds(spawn_sync, &m, sizeof(m), &channel, 1) != sizeof(m))
			_exit(127); /* krgd is gone */
		(void)close(channel);
	}
}

/* NUL-terminated strings, one after another, as a vector. */
static char **vector(struct krg_slice s)
{
	size_t count = 0, n = 0;
	char **v, *text;

	for (size_t i = 0; i < s.len; i++)
		count += s.data[i] == '\0';
	v = krg_xalloc((count + 1) * sizeof(*v));
	text = krg_xalloc(s.len + 1);
	memcpy(text, s.data, s.len);
	for (size_t i = 0; i < s.len && n < count; i += strlen(text + i) + 1)
		v[n++] = text + i;
	return v;
}

/* Bring the descriptors to their numbers: first all out of the way, above the highest. */
static void descriptors(const struct rec_epm_spawn *s, const int *fds, unsigned nfds)
{
	struct krg_rd rd = krg_rd_slice(s->fds);
	int top = spawn_sync, target[KRG_FDS_MAX], at[KRG_FDS_MAX], flags[KRG_FDS_MAX];

	errno = EBADMSG;
	must(s->fds.len == (size_t)nfds * 4 ? 0 : -1, "the list of descriptors");
	for (unsigned i = 0; i < nfds; i++) {
		u32 number = krg_rd_u32(&rd);

		flags[i] = (number & EPM_FD_CLOEXEC) != 0 ? O_CLOEXEC : 0;
		target[i] = (int)(number & ~EPM_FD_CLOEXEC);
		must(target[i] >= 0 ? 0 : -1, "a descriptor's number");
		top = KRG_MAX(top, target[i]);
		top = KRG_MAX(top, fds[i]);
	}
	for (unsigned i = 0; i < nfds; i++) {
		at[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, top + 1);
		must(at[i], "move a descriptor");
		top = KRG_MAX(top, at[i]);
	}
	spawn_sync = fcntl(spawn_sync, F_DUPFD_CLOEXEC, top + 1);
	must(spawn_sync, "move the sync socket");
	(void)close_range(0, nfds > 0 ? (unsigned)at[0] - 1 : (unsigned)spawn_sync - 1, 0);
	for (unsigned i = 0; i < nfds; i++) {
		must(dup3(at[i], target[i], flags[i]), "place a descriptor");
		(void)close(at[i]);
	}
}

static void limits(struct krg_slice s)
{
	struct krg_rd rd = krg_rd_slice(s);

	for (int r = 0; krg_rd_left(&rd) >= 16 && r < RLIMIT_NLIMITS; r++) {
		struct rlimit l = {.rlim_cur = krg_rd_u64(&rd), .rlim_max = krg_rd_u64(&rd)};

		must(setrlimit((__rlimit_resource_t)r, &l), "setrlimit");
	}
}

static void caps_set(u64 eff, u64 prm, u64 inh)
{
	struct __user_cap_header_struct h = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct d[2] = {
		{(u32)eff, (u32)prm, (u32)inh},
		{(u32)(eff >> 32), (u32)(prm >> 32), (u32)(inh >> 32)}};

	must(syscall(SYS_capset, &h, d), "capset");
}

static u64 caps_permitted(void)
{
	struct __user_cap_header_struct h = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct d[2] = {{0}};

	must(syscall(SYS_capget, &h, d), "capget");
	return (u64)d[1].permitted << 32 | d[0].permitted;
}

/* Securebits take CAP_SETPCAP, and may forbid ambient capabilities and PR_SET_KEEPCAPS from then on. */
static void capabilities(const struct rec_epm_spawn *s)
{
	u64 all = s->securebits != 0 ? caps_permitted() : 0;

	caps_set(s->cap_eff | all, s->cap_prm | all, s->cap_inh);
	for (unsigned long c = 0; c < 64; c++)
		if ((s->cap_amb >> c & 1) != 0)
			must(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, c, 0, 0),
			     "raise an ambient capability");
	must(prctl(PR_SET_KEEPCAPS, 0), "PR_SET_KEEPCAPS");
	if (s->securebits == 0)
		return;
	must(prctl(PR_SET_SECUREBITS, (unsigned long)s->securebits), "PR_SET_SECUREBITS");
	caps_set(s->cap_eff, s->cap_prm, s->cap_inh);
}

static void credentials(const struct rec_epm_spawn *s)
{
	size_t n = s->groups.len / 4;
	gid_t *groups = krg_xalloc((n + 1) * sizeof(*groups));
	struct krg_rd rd = krg_rd_slice(s->groups);

	for (size_t i = 0; i < n; i++)
		groups[i] = krg_rd_u32(&rd);
	for (unsigned long c = 0; c < 64; c++)
		if ((s->cap_bnd >> c & 1) == 0 && prctl(PR_CAPBSET_READ, c) == 1)
			must(prctl(PR_CAPBSET_DROP, c), "drop a capability from the bounding set");
	/* the raw calls: glibc's would signal threads, of which there are none */
	must(syscall(SYS_setgroups, n, groups), "setgroups");
	must(prctl(PR_SET_KEEPCAPS, 1), "PR_SET_KEEPCAPS");
	must(syscall(SYS_setresgid, s->gid, s->egid, s->sgid), "setresgid");
	must(syscall(SYS_setresuid, s->uid, s->euid, s->suid), "setresuid");
	capabilities(s);
	if ((s->flags & EPM_SPAWN_FLAG_NNP) != 0)
		must(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs");
	free(groups);
}

static void signals(const struct rec_epm_spawn *s)
{
	struct sigaction act = {.sa_handler = SIG_IGN};
	u64 mask = s->sig_blocked;

	for (int sig = 1; sig < NSIG; sig++)
		if ((s->sig_ignored >> (sig - 1) & 1) != 0)
			(void)sigaction(sig, &act, NULL);
	/* the raw call: glibc keeps two signals for itself */
	must(syscall(SYS_rt_sigprocmask, SIG_SETMASK, &mask, NULL, sizeof(mask)), "sigprocmask");
}

static void scheduling(const struct rec_epm_spawn *s)
{
	struct sched_param prio = {.sched_priority = (int)s->sched_prio};

	/* while it may (setpriority(2)); a higher value is set last */
	if (s->nice < getpriority(PRIO_PROCESS, 0))
		(void)setpriority(PRIO_PROCESS, 0, s->nice);
	if (s->sched_policy != 0)
		must(sched_setscheduler(0, (int)s->sched_policy, &prio), "sched_setscheduler");
	if (s->ioprio != 0)
		must(syscall(SYS_ioprio_set, 1, 0, s->ioprio), "ioprio_set");
	if (s->timer_slack != 0)
		must(prctl(PR_SET_TIMERSLACK, (unsigned long)s->timer_slack), "PR_SET_TIMERSLACK");
}

static void memory(const struct rec_epm_spawn *s)
{
	char text[16];

	(void)snprintf(text, sizeof(text), "%d", s->oom_score_adj);
	(void)!krg_write_file("/proc/self/oom_score_adj", text);
	/* a kernel without this file has no core files either */
	(void)snprintf(text, sizeof(text), "%u", s->core_filter);
	if (s->core_filter != EPM_SPAWN_NO_FILTER)
		(void)!krg_write_file("/proc/self/coredump_filter", text);
	must(prctl(PR_SET_THP_DISABLE, (unsigned long)s->no_thp, 0, 0, 0), "PR_SET_THP_DISABLE");
}

/* As root: it may be where it could not go by itself.  Unless root is nobody there (NFS): false. */
static bool directories(const struct rec_epm_spawn *s, const char *cwd)
{
	KRG_AUTO_FREE char *root = krg_slice_strdup(s->root);
	bool entered = chdir(cwd) == 0;

	if (s->root.len == 0)
		return entered;
	must(entered ? 0 : -1, "enter the directory");
	must(root != NULL ? chroot(root) : -1, "enter the root directory");
	return true;
}

/* Who it is comes with its memory (ghost.h), as do signals and threads: from root, which may make them. */
static _Noreturn void shell(const struct rec_epm_spawn *s, bool entered)
{
	must(entered ? 0 : -1, "enter the directory");
	(void)setpriority(PRIO_PROCESS, 0, s->nice);
	tell(0, "");
	(void)close(spawn_sync);
	for (;;)
		(void)pause();
}

_Noreturn void spawn_child(int spec, int sync, const int *fds, unsigned nfds)
{
	struct rec_epm_spawn s = {0};
	char **argv, **envp, *path, *cwd;
	bool entered;
	char go;

	spawn_sync = sync;
	spec_read(spec, &s);
	argv = vector(s.argv);
	envp = vector(s.env);
	path = krg_slice_strdup(s.path);
	cwd = krg_slice_strdup(s.cwd);
	if (s.pgid >= 0)
		must(setpgid(0, s.pgid), "join the process group");
	children(&s);
	descriptors(&s, fds, nfds);
	if ((s.flags & EPM_SPAWN_FLAG_CTTY) != 0)
		(void)tcsetpgrp(0, getpgrp());
	if (s.persona != 0)
		must(personality(s.persona), "personality");
	scheduling(&s);
	memory(&s);
	(void)umask(s.umask);
	limits(s.limits); /* as root: hard limits may be above the nursery's */
	entered = directories(&s, cwd);
	if ((s.flags & EPM_SPAWN_FLAG_SHELL) != 0)
		shell(&s, entered);
	credentials(&s);
	must(entered ? 0 : chdir(cwd), "enter the directory");
	tell(0, "");
	if (krg_read_all(spawn_sync, &go, 1) < 0)
		_exit(127);
	signals(&s);
	if (s.pdeathsig != 0)
		(void)prctl(PR_SET_PDEATHSIG, (unsigned long)s.pdeathsig, EXEC_MAGIC);
	if ((s.flags & EPM_SPAWN_FLAG_REAPER) != 0)
		(void)prctl(PR_SET_CHILD_SUBREAPER, 1, EXEC_MAGIC);
	/* last: until here somebody waits for krgd */
	(void)setpriority(PRIO_PROCESS, 0, s.nice);
	(void)syscall(SYS_execve, path, argv, envp, 0, 0,
		      (s.flags & EPM_SPAWN_FLAG_PLACE) != 0 ? 0 : EXEC_MAGIC);
	tell(-errno, "execve");
	_exit(127);
}
