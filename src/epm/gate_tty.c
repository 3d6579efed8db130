/* gate_tty.c - what the gate answers for descriptors that are stand-ins: ioctls of terminals, fstat(2), lseek(2),
 * fcntl(2); and opens of /dev/tty. */
#include "epm_impl.h"
#include <asm/ioctls.h>
#include <asm/termbits.h>
#include <fcntl.h>
#include <linux/major.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>

/* The argument of a terminal's ioctl (ioctl_tty(2)): size, direction; 0: the value itself.  changes: not
 * from the background. */
struct tty_arg {
	u32 cmd, size;
	bool in, out, changes;
};
static const struct tty_arg tty_args[] = {
	{TCGETS, 36, false, true, false},    {TCSETS, 36, true, false, true},
	{TCSETSW, 36, true, false, true},    {TCSETSF, 36, true, false, true},
	{TCGETA, 18, false, true, false},    {TCSETA, 18, true, false, true},
	{TCSETAW, 18, true, false, true},    {TCSETAF, 18, true, false, true},
	{TCGETS2, 44, false, true, false},   {TCSETS2, 44, true, false, true},
	{TCSETSW2, 44, true, false, true},   {TCSETSF2, 44, true, false, true},
	{TCSBRK, 0, false, false, true},     {TCSBRKP, 0, false, false, true},
	{TCXONC, 0, false, false, true},     {TCFLSH, 0, false, false, true},
	{TIOCOUTQ, 4, false, true, false},   {FIONREAD, 4, false, true, false},
	{TIOCGWINSZ, 8, false, true, false}, {TIOCSWINSZ, 8, true, false, false},
	{TIOCGPTN, 4, false, true, false},
};

static const struct tty_arg *tty_arg_find(u32 cmd)
{
	for (unsigned i = 0; i < KRG_NELEM(tty_args); i++)
		if (tty_args[i].cmd == cmd)
			return &tty_args[i];
	return NULL;
}

static bool is_job_call(u32 cmd)
{
	return cmd == TIOCGPGRP || cmd == TIOCSPGRP || cmd == TIOCGSID || cmd == TIOCSCTTY ||
	       cmd == TIOCNOTTY;
}

int gate_fd_of_caller(struct gate_call *c, int number)
{
	KRG_AUTO_FD int pidfd = -EBADF;
	struct proc_info p;
	int fd;

	pidfd = (int)syscall(SYS_pidfd_open, (pid_t)c->req.pid, 0);
	if (pidfd < 0) {
		/* a thread that does not lead its process */
		if (proc_read((pid_t)c->req.pid, &p) < 0)
			return -ESRCH;
		proc_info_fini(&p);
		pidfd = (int)syscall(SYS_pidfd_open, p.host_tgid, 0);
	}
	fd = pidfd >= 0 ? (int)syscall(SYS_pidfd_getfd, pidfd, number, 0) : -1;
	return fd < 0 ? -EBADF : fd;
}

/* ---- /dev/tty ---- */

static bool path_is_tty(struct gate_call *c, u64 at)
{
	static const char name[] = "/dev/tty";
	char path[sizeof(name)];

	return memread_now((pid_t)c->req.pid, at, path, sizeof(path)) == 0 &&
	       memcmp(path, name, sizeof(name)) == 0;
}

void gate_handle_open(struct gate_call *c)
{
	bool at = c->req.data.nr == SYS_openat;
	u32 flags = (u32)c->req.data.args[at ? 2 : 1];
	KRG_AUTO_FD int fd = -EBADF;
	struct seccomp_notif_addfd a = {.id = c->req.id, .flags = SECCOMP_ADDFD_FLAG_SEND};
	int r;

	gate_continue(c);
	if (!path_is_tty(c, c->req.data.args[at ? 1 : 0]))
		return;
	r = tty_open(c->e, c->req.pid, flags, &fd);
	if (r == -ENXIO)
		return; /* the kernel says so, too, or it has one here */
	if (r < 0) {
		gate_return(c, r);
		return;
	}
	a.srcfd = (u32)fd;
	a.newfd_flags = flags & O_CLOEXEC;
	if (ioctl(c->listener, SECCOMP_IOCTL_NOTIF_ADDFD, &a) < 0)
		gate_return(c, errno == ENOENT ? -ESRCH : -errno);
	else
		c->answered = true;
}

/* ---- ioctls ---- */

static int tty_ioctl(struct gate_call *c, int fd, const struct rec_stream_ref *ref, u32 cmd)
{
	const struct tty_arg *a = tty_arg_find(cmd);
	pid_t tid = (pid_t)c->req.pid;
	u64 at = c->req.data.args[2];
	u8 arg[64] = {0};
	int r = 0;

	if (a == NULL)
		return -ENOTTY;
	if (a->in) {
		MEMREAD_AUTO struct memread m;

		memread_init(&m, tid);
		r = memread_bytes(&m, at, arg, a->size);
	}
	if (r == 0 && a->changes)
		r = tty_may_change(c, ref);
	if (r == 0)
		r = stream_ioctl(c->e->stream, fd, cmd, at, arg, a->size, NULL);
	if (r >= 0 && a->out && memwrite(tid, at, arg, a->size) < 0)
		r = -EFAULT;
	return r;
}

/* FIONBIO: F_SETFL by another name. */
static void set_nonblock(struct gate_call *c, int fd)
{
	MEMREAD_AUTO struct memread m;
	int on = 0, r;

	memread_init(&m, (pid_t)c->req.pid);
	r = memread_bytes(&m, c->req.data.args[2], &on, sizeof(on));
	if (r == 0)
		r = stream_fcntl(c->e->stream, fd, F_SETFL, on != 0 ? O_NONBLOCK : 0, O_NONBLOCK);
	gate_return(c, r);
}

/* TIOCGPGRP of a process whose terminal is here: true, if its kernel would not say it. */
static bool native_front(struct gate_call *c)
{
	KRG_AUTO_FD int fd = gate_fd_of_caller(c, (int)c->req.data.args[0]);
	i32 front;

	if (fd < 0 || !tty_front_is_proxy(c, fd, &front))
		return false;
	gate_return(c, memwrite((pid_t)c->req.pid, c->req.data.args[2], &front, sizeof(front)) < 0
			       ? -EFAULT
			       : 0);
	return true;
}

void gate_handle_ioctl(struct gate_call *c)
{
	KRG_AUTO_FD int fd = -EBADF;
	u32 cmd = (u32)c->req.data.args[1];
	struct rec_stream_ref ref;

	gate_continue(c);
	if (cmd == TIOCGPGRP && atomic_load(&c->e->nproxies) > 0 && native_front(c))
		return;
	if (!stream_has_standins(c->e->stream))
		return;
	if (cmd == FIONCLEX || cmd == FIOCLEX || cmd == FIOASYNC)
		return; /* of the descriptor itself */
	fd = gate_fd_of_caller(c, (int)c->req.data.args[0]);
	if (fd < 0 || stream_standin_ref(c->e->stream, fd, &ref) < 0)
		return;
	if (cmd == FIONBIO)
		set_nonblock(c, fd);
	else if (is_job_call(cmd))
		gate_return(c, S_ISCHR(ref.mode) ? tty_job_call(c, &ref, cmd, c->req.data.args[2])
						 : -ENOTTY);
	else
		gate_return(c, tty_ioctl(c, fd, &ref, cmd));
}

/* ---- fstat of a stand-in ---- */

/* What the real object shows; a terminal that is here too (a lab) shows its own entry, as ttyname(3)
 * looks for it. */
static void stat_fill(const struct rec_stream_ref *ref, struct stat *ret)
{
	char path[32];

	*ret = (struct stat){.st_dev = makedev(0, 0),
			     .st_ino = ref->ino,
			     .st_mode = ref->mode,
			     .st_nlink = 1,
			     .st_uid = ref->uid,
			     .st_gid = ref->gid,
			     .st_rdev = ref->rdev,
			     .st_blksize = S_ISCHR(ref->mode) ? 1024 : 4096};
	if (S_ISCHR(ref->mode) && major(ref->rdev) == UNIX98_PTY_SLAVE_MAJOR) {
		struct stat here;

		(void)snprintf(path, sizeof(path), "/dev/pts/%u", minor(ref->rdev));
		if (stat(path, &here) == 0 && here.st_rdev == ref->rdev)
			*ret = here;
	}
}

static struct statx_timestamp statx_time(const struct timespec *t)
{
	return (struct statx_timestamp){.tv_sec = t->tv_sec, .tv_nsec = (u32)t->tv_nsec};
}

static int stat_give(struct gate_call *c, const struct stat *st)
{
	const __u64 *arg = c->req.data.args;
	struct statx sx;

	if (c->req.data.nr == SYS_fstat)
		return memwrite((pid_t)c->req.pid, arg[1], st, sizeof(*st));
	if (c->req.data.nr == SYS_newfstatat)
		return memwrite((pid_t)c->req.pid, arg[2], st, sizeof(*st));
	sx = (struct statx){.stx_mask = STATX_BASIC_STATS,
			    .stx_blksize = (u32)st->st_blksize,
			    .stx_nlink = (u32)st->st_nlink,
			    .stx_uid = st->st_uid,
			    .stx_gid = st->st_gid,
			    .stx_mode = (u16)st->st_mode,
			    .stx_ino = st->st_ino,
			    .stx_size = (u64)st->st_size,
			    .stx_blocks = (u64)st->st_blocks,
			    .stx_atime = statx_time(&st->st_atim),
			    .stx_mtime = statx_time(&st->st_mtim),
			    .stx_ctime = statx_time(&st->st_ctim),
			    .stx_rdev_major = major(st->st_rdev),
			    .stx_rdev_minor = minor(st->st_rdev),
			    .stx_dev_major = major(st->st_dev),
			    .stx_dev_minor = minor(st->st_dev)};
	return memwrite((pid_t)c->req.pid, arg[4], &sx, sizeof(sx));
}

/* FUSE shows every stand-in as a regular file of its own device: stdio would buffer a terminal's lines, and
 * cat(1) not see that its input is its output. */
void gate_handle_stat(struct gate_call *c)
{
	KRG_AUTO_FD int fd = -EBADF;
	struct rec_stream_ref ref;
	struct stat st;
	char empty;

	gate_continue(c);
	if (!stream_has_standins(c->e->stream))
		return;
	/* AT_EMPTY_PATH allows a path, too; then the kernel looks it up */
	if (c->req.data.nr != SYS_fstat && c->req.data.args[1] != 0) {
		MEMREAD_AUTO struct memread m;

		memread_init(&m, (pid_t)c->req.pid);
		if (memread_bytes(&m, c->req.data.args[1], &empty, 1) < 0 || empty != '\0')
			return;
	}
	fd = gate_fd_of_caller(c, (int)c->req.data.args[0]);
	if (fd < 0 || stream_standin_ref(c->e->stream, fd, &ref) < 0)
		return;
	if (S_ISCHR(ref.mode) || S_ISFIFO(ref.mode) ||
	    S_ISSOCK(ref.mode)) /* nothing in them that changes */
		stat_fill(&ref, &st);
	else if (stream_standin_stat(c->e->stream, fd, &st, NULL) < 0)
		return; /* the kernel asks once more, and tells the error */
	gate_return(c, stat_give(c, &st));
}

/* ---- lseek of a stand-in ---- */

/* The kernel here does not know what others have done to the offset, and would tell nobody of what is done to it. */
void gate_handle_lseek(struct gate_call *c)
{
	const __u64 *arg = c->req.data.args;
	KRG_AUTO_FD int fd = -EBADF;
	i64 r;

	gate_continue(c);
	/* SEEK_DATA and SEEK_HOLE are asked there anyway */
	if (!stream_has_standins(c->e->stream) || (u32)arg[2] > SEEK_END)
		return;
	fd = gate_fd_of_caller(c, (int)arg[0]);
	if (fd < 0)
		return;
	r = stream_lseek(c->e->stream, fd, (i64)arg[1], (int)arg[2]);
	if (r != -ENOENT)
		gate_return(c, r);
}

/* ---- flags of a stand-in, and the size of its pipe ---- */

void gate_handle_fcntl(struct gate_call *c)
{
	const __u64 *arg = c->req.data.args;
	KRG_AUTO_FD int fd = -EBADF;
	int r;

	gate_continue(c);
	if (!stream_has_standins(c->e->stream))
		return;
	fd = gate_fd_of_caller(c, (int)arg[0]);
	if (fd < 0)
		return;
	r = stream_fcntl(c->e->stream, fd, (int)arg[1], (int)arg[2],
			 O_APPEND | O_NONBLOCK | O_DIRECT);
	if (r != -ENOENT)
		gate_return(c, r);
}
