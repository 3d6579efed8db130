/* proc.c - what /proc says of a process (proc(5)). */
#include "epm_impl.h"
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/syscall.h>

#define STATUS_MAX (1u << 20)

static const char *field(const char *text, const char *name)
{
	const char *at = strstr(text, name);

	return at != NULL ? at + strlen(name) : NULL;
}

static u64 field_hex(const char *text, const char *name)
{
	const char *at = field(text, name);

	return at != NULL ? strtoull(at, NULL, 16) : 0;
}

static long field_dec(const char *text, const char *name)
{
	const char *at = field(text, name);

	return at != NULL ? strtol(at, NULL, 10) : 0;
}

static void four(const char *text, const char *name, u32 *ret)
{
	const char *at = field(text, name);
	char *end;

	for (int i = 0; at != NULL && i < 4; i++, at = end)
		ret[i] = (u32)strtoul(at, &end, 10);
}

static void groups(const char *text, struct proc_info *p)
{
	const char *at = field(text, "\nGroups:\t");
	unsigned room = 0;

	while (at != NULL && *at != '\n' && *at != '\0') {
		char *end;
		unsigned long g = strtoul(at, &end, 10);

		if (end == at)
			break;
		if (p->ngroups == room) {
			room = room * 2 + 16;
			p->groups = krg_xrealloc(p->groups, room * sizeof(*p->groups));
		}
		p->groups[p->ngroups++] = (u32)g;
		at = end;
		while (*at == ' ')
			at++;
	}
}

static void status_parse(const char *text, struct proc_info *p)
{
	const char *ns = field(text, "\nNStgid:");

	p->host_tgid = (pid_t)field_dec(text, "\nTgid:\t");
	p->tracer = (pid_t)field_dec(text, "\nTracerPid:\t");
	p->umask = (u32)strtoul(field(text, "Umask:\t") != NULL ? field(text, "Umask:\t") : "22",
				NULL, 8);
	four(text, "\nUid:\t", p->uid);
	four(text, "\nGid:\t", p->gid);
	groups(text, p);
	for (p->ns_depth = 0; ns != NULL && *ns == '\t'; p->ns_depth++) {
		char *end;

		p->pid = (pid_t)strtol(ns, &end, 10);
		ns = end;
	}
	p->threads = (unsigned)field_dec(text, "\nThreads:\t");
	p->sig_pending = field_hex(text, "\nSigPnd:\t") | field_hex(text, "\nShdPnd:\t");
	p->sig_blocked = field_hex(text, "\nSigBlk:\t");
	p->sig_ignored = field_hex(text, "\nSigIgn:\t");
	p->sig_caught = field_hex(text, "\nSigCgt:\t");
	p->cap_inh = field_hex(text, "\nCapInh:\t");
	p->cap_prm = field_hex(text, "\nCapPrm:\t");
	p->cap_eff = field_hex(text, "\nCapEff:\t");
	p->cap_bnd = field_hex(text, "\nCapBnd:\t");
	p->cap_amb = field_hex(text, "\nCapAmb:\t");
	p->nnp = field_dec(text, "\nNoNewPrivs:\t") != 0;
	p->no_thp = field(text, "\nTHP_enabled:\t0") != NULL;
	p->seccomp_filters = (unsigned)field_dec(text, "\nSeccomp_filters:\t");
}

static int stat_parse(const char *text, struct proc_info *p, pid_t *ret_ppid, pid_t *ret_pgid,
		      pid_t *ret_sid)
{
	const char *open = strchr(text, '('), *close = strrchr(text, ')');
	unsigned long long utime, stime, start;
	long nice, rss;
	int n;

	if (open == NULL || close == NULL || close < open)
		return -EBADMSG;
	(void)snprintf(p->comm, sizeof(p->comm), "%.*s", (int)(close - open - 1), open + 1);
	n = sscanf(close + 1,
		   " %c %d %d %d %d %d %*u %*u %*u %*u %*u %llu %llu %*d %*d %*d %ld %*d %*d %llu "
		   "%*u %ld %*u %*u %*u %*u %*u %*u %*u %*u %*u %*u %*u %*u %*u %d",
		   &p->state, ret_ppid, ret_pgid, ret_sid, &p->tty, &p->tty_front, &utime, &stime,
		   &nice, &start, &rss, &p->exit_signal);
	if (n != 12)
		return -EBADMSG;
	p->utime_ticks = utime;
	p->stime_ticks = stime;
	p->start_ticks = start;
	p->nice = (i32)nice;
	p->rss_pages = rss > 0 ? (u64)rss : 0;
	return 0;
}

static int file_at(int dir, pid_t pid, const char *name, char *buf, size_t max)
{
	KRG_AUTO_FD int fd = -EBADF;
	char path[64];
	size_t n = 0;

	(void)snprintf(path, sizeof(path), "%s%d/%s", dir == AT_FDCWD ? "/proc/" : "", pid, name);
	fd = openat(dir, path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -ESRCH;
	while (n < max - 1) {
		ssize_t r = read(fd, buf + n, max - 1 - n);

		if (r < 0)
			return -ESRCH;
		if (r == 0)
			break;
		n += (size_t)r;
	}
	buf[n] = '\0';
	return (int)n;
}

static int read_at(int dir, pid_t pid, struct proc_info *ret, pid_t *ppid, pid_t *pgid, pid_t *sid)
{
	KRG_AUTO_FREE char *big = NULL;
	char text[8192];
	int r;

	*ret = (struct proc_info){.host_tid = pid};
	r = file_at(dir, pid, "status", text, sizeof(text));
	if (r == sizeof(text) - 1) {
		/* it is in very many groups (65536 at most) */
		big = krg_xalloc(STATUS_MAX);
		r = file_at(dir, pid, "status", big, STATUS_MAX);
	}
	if (r < 0)
		return r;
	status_parse(big != NULL ? big : text, ret);
	r = file_at(dir, pid, "stat", text, sizeof(text));
	if (r >= 0)
		r = stat_parse(text, ret, ppid, pgid, sid);
	if (r < 0)
		proc_info_fini(ret);
	return r;
}

/* State, session (in krgd's numbers) and nothing else: for those asked often. */
int proc_read_stat(pid_t host_tid, struct proc_info *ret, pid_t *ret_host_sid)
{
	pid_t pgid;
	char text[1024];
	int r;

	*ret = (struct proc_info){.host_tid = host_tid};
	r = file_at(AT_FDCWD, host_tid, "stat", text, sizeof(text));
	return r < 0 ? r : stat_parse(text, ret, &ret->host_ppid, &pgid, ret_host_sid);
}

/* Threads of one process that run or want to.  (Not those that wait in state D: for a disk, for the
 * gate, for a child of vfork; none of them wants a processor.) */
static unsigned runnable_threads(struct epm *e, pid_t pid)
{
	char text[256], path[32];
	const char *close_;
	unsigned count = 0;
	struct dirent *de;
	long threads = 0;
	char state = 0;
	DIR *d = NULL;
	int fd;

	if (file_at(e->world_proc, pid, "stat", text, sizeof(text)) < 0)
		return 0;
	close_ = strrchr(text, ')');
	if (close_ == NULL ||
	    sscanf(close_ + 1,
		   " %c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %ld",
		   &state, &threads) != 2)
		return 0;
	if (threads == 1)
		return state == 'R';
	(void)snprintf(path, sizeof(path), "%d/task", pid);
	fd = openat(e->world_proc, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd >= 0)
		d = fdopendir(fd);
	while (d != NULL && (de = readdir(d)) != NULL) {
		(void)snprintf(path, sizeof(path), "task/%.10s/stat", de->d_name);
		if (de->d_name[0] == '.' ||
		    file_at(e->world_proc, pid, path, text, sizeof(text)) < 0)
			continue;
		close_ = strrchr(text, ')');
		count += close_ != NULL && close_[2] == 'R';
	}
	if (d != NULL)
		(void)closedir(d);
	else if (fd >= 0)
		(void)close(fd);
	return count;
}

unsigned epm_runnable(struct epm *e)
{
	KRG_AUTO_FREE pid_t *all = NULL;
	unsigned n = proc_all(e, &all), count = 0;

	for (unsigned i = 0; i < n; i++)
		if (all[i] >= 32768)
			count += runnable_threads(e, all[i]);
	return count;
}

int proc_read(pid_t host_tid, struct proc_info *ret)
{
	pid_t pgid, sid;

	/* group and session are in krgd's numbers here, of no use */
	return read_at(AT_FDCWD, host_tid, ret, &ret->host_ppid, &pgid, &sid);
}

int proc_read_world(struct epm *e, pid_t pid, struct proc_info *ret)
{
	pid_t ppid, pgid, sid;
	int r = read_at(e->world_proc, pid, ret, &ppid, &pgid, &sid);

	if (r < 0)
		return r;
	ret->pid = pid;
	ret->ppid = ppid;
	ret->pgid = pgid;
	ret->sid = sid;
	return 0;
}

int proc_read_world_stat(struct epm *e, pid_t pid, struct proc_info *ret)
{
	char text[1024];
	int r;

	*ret = (struct proc_info){.pid = pid};
	r = file_at(e->world_proc, pid, "stat", text, sizeof(text));
	return r < 0 ? r : stat_parse(text, ret, &ret->ppid, &ret->pgid, &ret->sid);
}

void proc_info_fini(struct proc_info *p)
{
	free(p->groups);
	p->groups = NULL;
	p->ngroups = 0;
}

int proc_link(pid_t host_tid, const char *what, char *buf, size_t max)
{
	char path[64];
	ssize_t n;

	(void)snprintf(path, sizeof(path), "/proc/%d/%s", host_tid, what);
	n = readlink(path, buf, max - 1);
	if (n < 0)
		return -errno;
	buf[n] = '\0';
	return (int)n;
}

/* The kernel names paths of another mount namespace from that namespace's root on: when krgd was started in a
 * chroot(2), with the way to it in front. */
int proc_path(const char *root, pid_t host_tid, const char *what, char *buf, size_t max)
{
	size_t skip = strlen(root);
	int n = proc_link(host_tid, what, buf, max);

	if (n < 0)
		return n;
	if (buf[0] != '/' || strncmp(buf, root, skip) != 0)
		return -EXDEV;
	if (skip == 0)
		return n;
	if (buf[skip] != '/' && buf[skip] != '\0')
		return -EXDEV;
	if (buf[skip] == '\0')
		return snprintf(buf, max, "/");
	memmove(buf, buf + skip, (size_t)n - skip + 1);
	return n - (int)skip;
}

unsigned proc_all(struct epm *e, pid_t **ret)
{
	int fd = openat(e->world_proc, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
	unsigned n = 0, room = 0;
	pid_t *all = NULL;
	struct dirent *de;

	if (d == NULL) {
		if (fd >= 0)
			(void)close(fd);
		*ret = NULL;
		return 0;
	}
	while ((de = readdir(d)) != NULL) {
		if (de->d_name[0] < '1' || de->d_name[0] > '9')
			continue;
		if (n == room) {
			room = room * 2 + 64;
			all = krg_xrealloc(all, room * sizeof(*all));
		}
		all[n++] = (pid_t)strtol(de->d_name, NULL, 10);
	}
	(void)closedir(d);
	*ret = all;
	return n;
}

pid_t pidfd_host_pid(int pidfd)
{
	char path[64], text[512];
	const char *at;

	(void)snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", pidfd);
	if (krg_read_file(path, text, sizeof(text)) <= 0)
		return -1;
	at = field(text, "\nPid:\t");
	return at != NULL ? (pid_t)strtol(at, NULL, 10) : -1;
}

int proc_open(struct epm *e, pid_t pid, int *ret_fd)
{
	char name[16];
	int fd;

	(void)snprintf(name, sizeof(name), "%d", pid);
	/* a directory of /proc is good as a pidfd (pidfd_send_signal(2)) */
	fd = openat(e->world_proc, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -ESRCH;
	*ret_fd = fd;
	return 0;
}

static bool proc_has_parent_outside(struct epm *e, const struct proc_info *p)
{
	PROC_AUTO struct proc_info parent = {0};

	return p->ppid > 1 && proc_read_world(e, p->ppid, &parent) == 0 && parent.sid == p->sid &&
	       parent.pgid != p->pgid;
}

bool proc_group_is_orphan(struct epm *e, pid_t pid)
{
	KRG_AUTO_FREE pid_t *all = NULL;
	PROC_AUTO struct proc_info p = {0};
	unsigned n;

	/* most often itself */
	if (proc_read_world(e, pid, &p) < 0 || proc_has_parent_outside(e, &p))
		return false;
	n = proc_all(e, &all);
	for (unsigned i = 0; i < n; i++) {
		PROC_AUTO struct proc_info q = {0};

		if (proc_read_world(e, all[i], &q) == 0 && q.pgid == p.pgid && q.sid == p.sid &&
		    proc_has_parent_outside(e, &q))
			return false;
	}
	return true;
}

pid_t proc_host_pid(struct epm *e, pid_t pid)
{
	char path[64], world[64], link[64];
	struct dirent *de;
	pid_t found = 0;
	ssize_t n;
	DIR *d;

	(void)snprintf(path, sizeof(path), "%d/ns/pid", pid);
	n = readlinkat(e->world_proc, path, world, sizeof(world));
	d = n > 0 ? opendir("/proc") : NULL;
	while (d != NULL && found == 0 && (de = readdir(d)) != NULL) {
		PROC_AUTO struct proc_info p = {0};
		pid_t host = (pid_t)strtol(de->d_name, NULL, 10);

		if (host > 0 && proc_link(host, "ns/pid", link, sizeof(link)) == n &&
		    memcmp(link, world, (size_t)n) == 0 && proc_read(host, &p) == 0 && p.pid == pid)
			found = host;
	}
	if (d != NULL)
		(void)closedir(d);
	return found;
}
