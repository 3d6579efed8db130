/* exec_fds.c - the descriptors of a program that goes: for each the best of the ways
 * (ARCHITECTURE.md section 5). */
#include "epm_impl.h"
#include <dirent.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>

struct fd_item {
	int number; /* in the task */
	int fd;	    /* krgd's duplicate */
	u32 flags;  /* of the open file description */
	u64 pos;
	struct stat st;
	int same_as; /* index of an earlier one of the same description, -1 */
	bool shared; /* another process holds the description */
	bool high; /* it is (also) above the standard descriptors: the gate does not see calls on it */
	bool locked; /* it holds a flock(2), which a closed description gives back */
};

/* Its locks (proc(5)): flock goes with the description, and so with a stand-in.  Record locks are the process's own
 * (POSIX), or could not be told from those (OFD): its deputy would give them back, as it would a lease. */
static int locks_look(const char *text, int number, bool *ret_locked, struct krg_err *err)
{
	for (const char *at = text; (at = strstr(at, "\nlock:\t")) != NULL;) {
		char kind[16] = "";

		at += 7;
		(void)sscanf(at, "%*d: %15s", kind);
		if (strcmp(kind, "FLOCK") != 0)
			return krg_err_set(err, -EOPNOTSUPP, "fd %d holds a %s", number,
					   kind[0] == 'L' ? "lease" : "record lock");
		*ret_locked = true;
	}
	return 0;
}

static int fdinfo(pid_t tid, int number, bool all, u32 *ret_flags, u64 *ret_pos, bool *ret_locked,
		  struct krg_err *err)
{
	char path[64], text[8192];
	const char *pos, *flags;

	(void)snprintf(path, sizeof(path), "/proc/%d/fdinfo/%d", tid, number);
	if (krg_read_file(path, text, sizeof(text)) <= 0)
		return -EBADF;
	pos = strstr(text, "pos:\t");
	flags = strstr(text, "flags:\t");
	if (pos == NULL || flags == NULL)
		return -EBADMSG;
	*ret_pos = strtoull(pos + 5, NULL, 10);
	*ret_flags = (u32)strtoul(flags + 7, NULL, 8);
	return (*ret_flags & O_CLOEXEC) != 0 && !all ? 0
						     : locks_look(text, number, ret_locked, err);
}

/* Those that the new program keeps (or all), in the order of their numbers. */
static int items_read(const struct proc_info *p, int pidfd, bool all, struct fd_item *item,
		      unsigned *ret_n, struct krg_err *err)
{
	char path[64];
	struct dirent *de;
	unsigned n = 0;
	int r = 0;
	DIR *d;

	(void)snprintf(path, sizeof(path), "/proc/%d/fd", p->host_tid);
	d = opendir(path);
	if (d == NULL)
		return krg_err_set(err, -ESRCH, "pid %d", p->pid);
	while (r == 0 && (de = readdir(d)) != NULL) {
		struct fd_item *it = &item[n];

		if (de->d_name[0] == '.')
			continue;
		*it = (struct fd_item){.number = (int)strtol(de->d_name, NULL, 10), .same_as = -1};
		r = fdinfo(p->host_tid, it->number, all, &it->flags, &it->pos, &it->locked, err);
		if (r == -EOPNOTSUPP)
			break;
		if (r < 0 || ((it->flags & O_CLOEXEC) != 0 && !all)) {
			r = 0;
			continue;
		}
		if (n == EPM_FDS_MAX - 1) {
			r = krg_err_set(err, -EMFILE, "pid %d: more than %u descriptors", p->pid,
					n);
			break;
		}
		it->fd = (int)syscall(SYS_pidfd_getfd, pidfd, it->number, 0);
		if (it->fd < 0)
			r = krg_err_set(err, -errno, "pid %d: fd %d", p->pid, it->number);
		else if (fstat(it->fd, &it->st) < 0)
			r = krg_err_set(err, -errno, "pid %d: fd %d", p->pid, it->number);
		n += it->fd >= 0;
	}
	(void)closedir(d);
	*ret_n = n;
	return r;
}

static void items_close(struct fd_item *item, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		(void)close(item[i].fd);
}

static bool same_description(const struct fd_item *a, const struct fd_item *b)
{
	pid_t self = getpid();

	return a->st.st_ino == b->st.st_ino && a->st.st_dev == b->st.st_dev &&
	       syscall(SYS_kcmp, self, self, KCMP_FILE, a->fd, b->fd) == 0;
}

/* Devices that are the same everywhere and keep nothing. */
static bool device_everywhere(const struct stat *st)
{
	unsigned minor_ = minor(st->st_rdev);

	return S_ISCHR(st->st_mode) && major(st->st_rdev) == 1 &&
	       (minor_ == 3 || minor_ == 5 || minor_ == 7 || minor_ == 8 || minor_ == 9);
}

static bool needs_share_check(struct epm *e, const struct fd_item *it)
{
	if (it->same_as >= 0 || it->locked)
		return false;
	if (S_ISFIFO(it->st.st_mode))
		return true;
	return S_ISREG(it->st.st_mode) && !stream_fd_is_standin(e->stream, it->fd);
}

/* A pipe with a name can be opened at any time, by anybody: what is read from it before somebody asks for it may
 * be another's. */
static bool has_name(const struct fd_item *it)
{
	struct statfs fs;

	return fstatfs(it->fd, &fs) < 0 || fs.f_type != PIPEFS_MAGIC;
}

/* The same end of the same pipe twice, by two descriptions (one was opened by /dev/fd/N): what comes for one would be
 * taken by the other. */
static bool has_twin(const struct fd_item *item, unsigned n, const struct fd_item *it)
{
	for (unsigned i = 0; i < n; i++)
		if (&item[i] != it && item[i].same_as < 0 && it->same_as < 0 &&
		    item[i].st.st_ino == it->st.st_ino && item[i].st.st_dev == it->st.st_dev &&
		    ((item[i].flags & O_ACCMODE) == O_RDWR ||
		     (item[i].flags & O_ACCMODE) == (it->flags & O_ACCMODE)))
			return true;
	return false;
}

static bool is_shared_pipe(struct epm *e, const struct fd_item *item, unsigned n,
			   const struct fd_item *it)
{
	return S_ISFIFO(it->st.st_mode) &&
	       (has_name(it) || has_twin(item, n, it) ||
		stream_pipe_is_exported(e->stream, &it->st, (int)it->flags & O_ACCMODE));
}

/* Who else holds them?  The parent most often, with the same number: asked first, and cheap. */
static int find_shared(struct epm *e, const struct proc_info *p, struct fd_item *item, unsigned n)
{
	int ask[INIT_SHARED_MAX], index[INIT_SHARED_MAX];
	u64 mask = 0, pipes = 0;
	unsigned asked = 0;
	int r;

	for (unsigned i = 0; i < n; i++) {
		if (!needs_share_check(e, &item[i]))
			continue;
		if (is_shared_pipe(e, item, n, &item[i]) ||
		    session_is_outside(e, item[i].st.st_dev, item[i].st.st_ino) ||
		    syscall(SYS_kcmp, p->host_tid, p->host_ppid, KCMP_FILE, item[i].number,
			    item[i].number) == 0 ||
		    asked == INIT_SHARED_MAX) {
			item[i].shared = true;
			continue;
		}
		if (S_ISFIFO(item[i].st.st_mode))
			pipes |= 1ull << asked;
		index[asked] = (int)i;
		ask[asked++] = item[i].number;
	}
	if (asked == 0)
		return 0;
	r = world_shared(e, p->pid, ask, asked, pipes, &mask);
	if (r < 0)
		return r;
	/* Who shared it may have gone to another node since it was asked for above: its export was there before its
	 * descriptor here was closed.  So look again, after the search. */
	for (unsigned k = 0; k < asked; k++) {
		struct fd_item *it = &item[index[k]];

		it->shared =
			(mask >> k & 1) != 0 ||
			stream_pipe_is_exported(e->stream, &it->st, (int)it->flags & O_ACCMODE);
	}
	return 0;
}

static int export_ref(struct epm *e, const struct fd_item *it, enum stream_kind kind, nodeid to,
		      struct exec_fds *f, struct rec_epm_fd *rec, struct krg_buf *ref,
		      struct krg_err *err)
{
	struct rec_stream_ref *slot = &f->ref[f->nrefs];
	int r = FAULT_POINT(EXEC_EXPORT) ? krg_err_set(err, -EIO, "export")
		: kind == STREAM_STANDIN && stream_fd_is_standin(e->stream, it->fd)
			? stream_ref_of_fd(e->stream, it->fd, to, slot, err)
			: stream_export(e->stream, it->fd, kind, to, slot, err);

	if (r < 0)
		return krg_err_prefix(err, r, "fd %d", it->number);
	stream_hold(e->stream, slot, true);
	f->nrefs++;
	rec->kind = EPM_FD_REF;
	rec_stream_ref_encode(slot, ref);
	rec->ref = krg_buf_slice(ref);
	return 0;
}

static int reopen(struct epm *e, const struct proc_info *p, const struct fd_item *it,
		  struct rec_epm_fd *rec, char *path, size_t max)
{
	char what[32];
	int n;

	(void)snprintf(what, sizeof(what), "fd/%d", it->number);
	n = proc_path(e->root_path, p->host_tid, what, path, max);
	if (n <= 0 || it->st.st_nlink == 0)
		return -ENOENT;
	rec->kind = EPM_FD_REOPEN;
	rec->flags = it->flags & ~(u32)(O_CREAT | O_EXCL | O_TRUNC | O_NOCTTY | O_CLOEXEC);
	rec->pos = it->pos;
	rec->ino = it->st.st_ino;
	rec->path = krg_slice_str(path);
	return 0;
}

static int item_export(struct epm *e, const struct proc_info *p, struct fd_item *it, nodeid to,
		       struct exec_fds *f, struct krg_err *err)
{
	KRG_AUTO_BUF struct krg_buf ref = {0};
	struct rec_epm_fd rec = {.number = it->number, .cloexec = (it->flags & O_CLOEXEC) != 0};
	mode_t type = it->st.st_mode & S_IFMT;
	char path[4096];
	int r = -ENOENT;

	if (it->same_as >= 0) {
		rec.kind = EPM_FD_DUP;
		rec.pos = (u64)it->same_as;
		r = 0;
	} else if ((type == S_IFSOCK && it->high) ||
		   (type == 0 && !stream_fd_is_standin(e->stream, it->fd))) {
		return krg_err_set(err, -EOPNOTSUPP, "fd %d is a %s", it->number,
				   type == S_IFSOCK ? "socket" : "kernel object without a file");
	} else if (device_everywhere(&it->st) || (type == S_IFDIR && !it->locked) ||
		   (type == S_IFREG && !it->shared && !it->locked &&
		    !stream_fd_is_standin(e->stream, it->fd))) {
		r = reopen(e, p, it, &rec, path, sizeof(path));
	} else if (type == S_IFIFO && !it->shared && (it->flags & O_ACCMODE) != O_RDWR) {
		r = export_ref(e, it,
			       (it->flags & O_ACCMODE) == O_WRONLY ? STREAM_PIPE_WRITE
								   : STREAM_PIPE_READ,
			       to, f, &rec, &ref, err);
		if (r < 0)
			return r;
	}
	if (r == -ENOENT)
		r = export_ref(e, it, STREAM_STANDIN, to, f, &rec, &ref, err);
	if (r < 0)
		return r;
	rec_epm_fd_encode(&rec, &f->records);
	return 0;
}

int exec_fds_export(struct epm *e, const struct proc_info *p, int pidfd, nodeid to, bool all,
		    struct exec_fds *ret, struct krg_err *err)
{
	struct fd_item *item = krg_xalloc(EPM_FDS_MAX * sizeof(*item));
	unsigned n = 0;
	int r = items_read(p, pidfd, all, item, &n, err);

	for (unsigned i = 1; r == 0 && i < n; i++)
		for (unsigned k = 0; k < i && item[i].same_as < 0; k++)
			if (item[k].same_as < 0 && same_description(&item[i], &item[k]))
				item[i].same_as = (int)k;
	for (unsigned i = 0; r == 0 && i < n; i++)
		if (item[i].number > 2)
			item[item[i].same_as >= 0 ? item[i].same_as : (int)i].high = true;
	if (r == 0) {
		r = find_shared(e, p, item, n);
		if (r < 0)
			(void)krg_err_set(err, r, "pid %d: who shares its descriptors", p->pid);
	}
	for (unsigned i = 0; r == 0 && i < n; i++)
		r = item_export(e, p, &item[i], to, ret, err);
	items_close(item, n);
	free(item);
	if (r < 0) {
		exec_fds_cancel(e, ret, to, false);
		return krg_err_prefix(err, r, "pid %d", p->pid);
	}
	return 0;
}

void exec_fds_cancel(struct epm *e, struct exec_fds *f, nodeid to, bool answered)
{
	for (unsigned i = 0; i < f->nrefs; i++)
		if (!answered || f->ref[i].kind != STREAM_STANDIN)
			stream_cancel(e->stream, &f->ref[i], to);
	f->nrefs = 0;
}

bool exec_fds_have_pipes(const struct exec_fds *f, nodeid self)
{
	for (unsigned i = 0; i < f->nrefs; i++)
		if (f->ref[i].kind != STREAM_STANDIN ||
		    (S_ISFIFO(f->ref[i].mode) && f->ref[i].origin == self))
			return true;
	return false;
}

struct rec_stream_ref *exec_fds_pipes(const struct exec_fds *f, unsigned *ret_n)
{
	struct rec_stream_ref *all = NULL;
	unsigned n = 0;

	for (unsigned i = 0; i < f->nrefs; i++) {
		if (f->ref[i].kind == STREAM_STANDIN)
			continue;
		if (all == NULL)
			all = krg_xalloc(f->nrefs * sizeof(*all));
		all[n++] = f->ref[i];
	}
	*ret_n = n;
	return all;
}

void exec_fds_fini(struct exec_fds *f)
{
	krg_buf_fini(&f->records);
}
