/* Descriptors that a moved program shares with its parent: stand-ins, which must do as the real ones do.
 * Each check runs in a child that executes this program again, on another node; fd 3 is the object. */
#include "base.h"
#include "tap.h"
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define FD 3

static char file[64];
static const char *self;

/* What the child checks: a failure is told on stderr and ends it. */
#define must(cond)                                                                                 \
	do {                                                                                       \
		if (!(cond)) {                                                                     \
			dprintf(2, "# %s:%d: %s (%s)\n", __FILE__, __LINE__, #cond,                \
				strerror(errno));                                                  \
			exit(1);                                                                   \
		}                                                                                  \
	} while (0)

/* ---- in the child ---- */

static volatile sig_atomic_t alarms;

static void on_alarm(int sig)
{
	(void)sig;
	alarms++;
}

static void alarm_in(int ms, int flags)
{
	struct sigaction act = {.sa_handler = on_alarm, .sa_flags = flags};
	struct itimerval t = {.it_value.tv_usec = ms * 1000};

	must(sigaction(SIGALRM, &act, NULL) == 0);
	must(setitimer(ITIMER_REAL, &t, NULL) == 0);
}

/* fd 4: a pipe whose writing says go on */
static void go_on(void)
{
	must(write(4, "g", 1) == 1);
}

static void *go_on_late(void *arg)
{
	(void)arg;
	while (alarms == 0)
		(void)poll(NULL, 0, 5);
	go_on();
	return NULL;
}

static void child_restart(void)
{
	sigset_t set;
	pthread_t t;
	char c;

	/* the handler runs here, the other thread sees that it did */
	(void)sigemptyset(&set);
	(void)sigaddset(&set, SIGALRM);
	must(pthread_sigmask(SIG_BLOCK, &set, NULL) == 0);
	must(pthread_create(&t, NULL, go_on_late, NULL) == 0);
	must(pthread_sigmask(SIG_UNBLOCK, &set, NULL) == 0);
	alarm_in(100, SA_RESTART);
	must(read(FD, &c, 1) == 1 && c == 'x');
	must(alarms == 1);
	must(pthread_join(t, NULL) == 0);
}

static void child_eintr(void)
{
	char c;

	alarm_in(100, 0);
	must(read(FD, &c, 1) == -1 && errno == EINTR);
	must(alarms == 1);
	go_on();
	must(read(FD, &c, 1) == 1 && c == 'x');
}

static void child_write_eintr(void)
{
	static char big[1 << 20];

	alarm_in(200, 0);
	must(fcntl(FD, F_SETFL, O_NONBLOCK) == 0);
	while (write(FD, big, sizeof(big)) > 0)
		;
	must(errno == EAGAIN);
	must(fcntl(FD, F_SETFL, 0) == 0);
	alarms = 0;
	alarm_in(200, 0);
	must(write(FD, big, 1) == -1 && errno == EINTR);
	must(alarms == 1);
}

static void child_nonblock(void)
{
	struct epoll_event ev = {.events = EPOLLIN}, got;
	struct pollfd p = {.fd = FD, .events = POLLIN};
	struct timeval none = {0}, some = {.tv_sec = 10};
	int ep = epoll_create1(0);
	fd_set set;
	char c[10];

	must(fcntl(FD, F_SETFL, O_NONBLOCK) == 0);
	must(read(FD, c, 1) == -1 && errno == EAGAIN);
	must(poll(&p, 1, 0) == 0);
	FD_ZERO(&set);
	FD_SET(FD, &set);
	must(select(FD + 1, &set, NULL, NULL, &none) == 0);
	must(epoll_ctl(ep, EPOLL_CTL_ADD, FD, &ev) == 0);
	must(epoll_wait(ep, &got, 1, 0) == 0);
	go_on();
	must(poll(&p, 1, 10000) == 1 && p.revents == POLLIN);
	must(epoll_wait(ep, &got, 1, 10000) == 1 && got.events == EPOLLIN);
	FD_SET(FD, &set);
	must(select(FD + 1, &set, NULL, NULL, &some) == 1);
	must(read(FD, c, sizeof(c)) == 1 && c[0] == 'x');
	must(poll(&p, 1, 0) == 0);
	must(fcntl(FD, F_SETFL, 0) == 0 && (fcntl(FD, F_GETFL) & O_NONBLOCK) == 0);
}

/* argv: what fstat showed at home */
static struct stat told;

static void same_file(int fd, bool all)
{
	struct stat st;

	must(fstat(fd, &st) == 0);
	must(st.st_size == told.st_size && st.st_mode == told.st_mode);
	must(st.st_nlink == told.st_nlink && st.st_uid == told.st_uid);
	if (all)
		must(st.st_dev == told.st_dev && st.st_ino == told.st_ino);
}

static void child_stat(void)
{
	struct timespec t[2] = {{.tv_sec = 1000}, {.tv_sec = 2000, .tv_nsec = 5}};
	struct statx sx;
	struct stat st;

	same_file(FD, false);
	same_file(0, true);
	must(statx(0, "", AT_EMPTY_PATH, STATX_BASIC_STATS, &sx) == 0);
	must(sx.stx_ino == told.st_ino && sx.stx_size == (u64)told.st_size);
	must(makedev(sx.stx_dev_major, sx.stx_dev_minor) == told.st_dev);
	must(fchmod(FD, 0640) == 0);
	must(fstat(FD, &st) == 0 && (st.st_mode & 07777) == 0640);
	must(futimens(FD, t) == 0);
	must(fstat(FD, &st) == 0 && st.st_mtim.tv_sec == 2000 && st.st_mtim.tv_nsec == 5 &&
	     st.st_atim.tv_sec == 1000);
	must(fchown(FD, 7, 8) == 0);
	must(fstat(FD, &st) == 0 && st.st_uid == 7 && st.st_gid == 8);
}

static void child_file(void)
{
	struct iovec v[2] = {{(char[]){"ab"}, 2}, {(char[]){"cd"}, 2}};
	char b[32] = "";
	struct stat st;

	must(lseek(FD, 0, SEEK_CUR) == 4);
	must(read(FD, b, 3) == 3 && memcmp(b, "456", 3) == 0);
	must(lseek(FD, 0, SEEK_CUR) == 7);
	must(pread(FD, b, 2, 1) == 2 && memcmp(b, "12", 2) == 0);
	must(lseek(FD, 0, SEEK_CUR) == 7);
	must(pwrite(FD, "X", 1, 0) == 1);
	must(writev(FD, v, 2) == 4);
	must(lseek(FD, 0, SEEK_CUR) == 11);
	must(lseek(FD, -1, SEEK_END) == 10);
	must(read(FD, b, 10) == 1 && b[0] == 'd');
	must(read(FD, b, 10) == 0);
	must(ftruncate(FD, 8) == 0 && fstat(FD, &st) == 0 && st.st_size == 8);
	must(fallocate(FD, 0, 0, 100) == 0 && fstat(FD, &st) == 0 && st.st_size == 100);
	must(ftruncate(FD, 8) == 0);
	must(fsync(FD) == 0 && fdatasync(FD) == 0);
	must(lseek(FD, 2, SEEK_SET) == 2);
	/* the parent reads on from there */
}

static void child_append(void)
{
	must(lseek(FD, 0, SEEK_SET) == 0);
	must(write(FD, "end", 3) == 3);
	must(lseek(FD, 0, SEEK_CUR) == 13);
}

static void child_mmap(void)
{
	char *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, FD, 0);

	must(p != MAP_FAILED && memcmp(p, "0123456789", 10) == 0);
	p[0] = 'Y';
	must(munmap(p, 4096) == 0);
	must(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, FD, 0) == MAP_FAILED &&
	     errno == ENODEV);
	must(mmap(NULL, 4096, PROT_READ, MAP_SHARED, FD, 0) == MAP_FAILED && errno == ENODEV);
}

static void child_poll_file(void)
{
	struct pollfd p = {.fd = FD, .events = POLLIN | POLLOUT};

	must(poll(&p, 1, 0) == 1 && p.revents == (POLLIN | POLLOUT));
}

/* ---- locks: by another description of the same file, on the other node ---- */

static int file_again(void)
{
	int fd = open(file, O_RDWR | O_CLOEXEC);

	must(fd >= 0);
	return fd;
}

static void child_flock(void)
{
	int other = file_again();

	/* the parent has it, through the description that we share */
	must(flock(other, LOCK_EX | LOCK_NB) == -1 && errno == EWOULDBLOCK);
	must(flock(FD, LOCK_EX | LOCK_NB) == 0);
	must(flock(FD, LOCK_UN) == 0);
	must(flock(other, LOCK_EX | LOCK_NB) == 0);
	must(flock(FD, LOCK_SH | LOCK_NB) == -1 && errno == EWOULDBLOCK);
	must(flock(other, LOCK_UN) == 0);
	must(flock(FD, LOCK_SH) == 0); /* for the parent to see */
}

static void child_flock_waits(void)
{
	int other = file_again();

	must(flock(other, LOCK_EX) == 0);
	alarm_in(100, 0);
	must(flock(FD, LOCK_EX) == -1 && errno == EINTR && alarms == 1);
	must(flock(other, LOCK_UN) == 0);
	must(flock(FD, LOCK_EX) == 0);
}

/* It executed with the lock, and holds it until it is told. */
static void child_holds(void)
{
	char c;

	go_on();
	must(read(0, &c, 1) >= 0);
}

static int record(int fd, int how, short type, off_t start, off_t len)
{
	struct flock l = {.l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = len};

	return fcntl(fd, how, &l) < 0 ? -1 : how == F_GETLK || how == F_OFD_GETLK ? l.l_type : 0;
}

static void child_record(void)
{
	int other = file_again();

	must(record(FD, F_SETLK, F_WRLCK, 2, 3) == 0);
	must(record(FD, F_GETLK, F_WRLCK, 0, 0) == F_UNLCK); /* its own is not in its way */
	must(record(other, F_OFD_SETLK, F_WRLCK, 4, 1) == -1 && errno == EAGAIN);
	must(record(other, F_OFD_SETLK, F_WRLCK, 5, 1) == 0);
	must(record(FD, F_SETLK, F_RDLCK, 0, 0) == -1 && errno == EAGAIN);
	must(record(FD, F_GETLK, F_RDLCK, 0, 0) == F_WRLCK);
	alarm_in(100, 0);
	must(record(FD, F_SETLKW, F_RDLCK, 0, 0) == -1 && errno == EINTR && alarms == 1);
	must(record(other, F_OFD_SETLK, F_UNLCK, 0, 0) == 0);
	must(record(FD, F_SETLKW, F_RDLCK, 0, 0) == 0);
	/* closing any descriptor of the file gives them back */
	must(close(dup(FD)) == 0);
	must(record(other, F_OFD_SETLK, F_WRLCK, 0, 0) == 0);
	must(record(other, F_OFD_SETLK, F_UNLCK, 0, 0) == 0);
	must(record(FD, F_SETLK, F_WRLCK, 0, 0) == 0); /* until it ends */
}

static const struct {
	const char *name;
	void (*run)(void);
} children[] = {
	{"restart", child_restart},
	{"eintr", child_eintr},
	{"write_eintr", child_write_eintr},
	{"nonblock", child_nonblock},
	{"stat", child_stat},
	{"file", child_file},
	{"append", child_append},
	{"mmap", child_mmap},
	{"poll_file", child_poll_file},
	{"flock", child_flock},
	{"flock_waits", child_flock_waits},
	{"holds", child_holds},
	{"record", child_record},
};

/* ---- in the parent ---- */

static pid_t child(const char *name, int fd, int in, int go)
{
	pid_t pid = fork();

	if (pid == 0) {
		char st[9][32];
		struct stat s = {0};

		(void)fstat(fd, &s);
		(void)snprintf(st[0], 32, "%llu", (unsigned long long)s.st_dev);
		(void)snprintf(st[1], 32, "%llu", (unsigned long long)s.st_ino);
		(void)snprintf(st[2], 32, "%u", s.st_mode);
		(void)snprintf(st[3], 32, "%llu", (unsigned long long)s.st_size);
		(void)snprintf(st[4], 32, "%u", (unsigned)s.st_nlink);
		(void)snprintf(st[5], 32, "%u", s.st_uid);
		if (in >= 0)
			(void)dup2(in, 0);
		(void)dup2(fd, 10);
		if (go >= 0)
			(void)dup2(go, 4);
		(void)dup2(10, FD);
		(void)close_range(go >= 0 ? 5 : 4, ~0u, 0);
		(void)execl(self, self, name, file, st[0], st[1], st[2], st[3], st[4], st[5],
			    (char *)NULL);
		_exit(127);
	}
	return pid;
}

static bool ended_well(pid_t pid)
{
	int status;

	return waitpid(pid, &status, 0) == pid && status == 0;
}

static int file_fresh(int flags)
{
	int fd = open(file, O_RDWR | O_CREAT | O_TRUNC | flags, 0600);

	ASSERT(fd >= 0 && write(fd, "0123456789", 10) == 10);
	return fd;
}

/* A pipe that both hold, and one that says go on. */
static void with_pipe(const char *name, bool reads, const char *what)
{
	int p[2], go[2];
	char c;
	pid_t pid;

	ASSERT(pipe(p) == 0 && pipe(go) == 0);
	pid = child(name, p[reads ? 0 : 1], -1, go[1]);
	(void)close(go[1]);
	if (read(go[0], &c, 1) == 1)
		ASSERT(write(p[1], "x", 1) == 1);
	tap_ok(ended_well(pid), "%s", what);
	for (int i = 0; i < 2; i++)
		(void)close(p[i]);
	(void)close(go[0]);
}

static void with_file(const char *name, int flags, off_t pos, const char *after, const char *what)
{
	int fd = file_fresh(flags);
	char b[64] = "";

	(void)lseek(fd, pos, SEEK_SET);
	tap_ok(ended_well(child(name, fd, fd, -1)), "%s", what);
	if (after != NULL) {
		ssize_t n = read(fd, b, sizeof(b) - 1);

		tap_ok(n == (ssize_t)strlen(after) && strcmp(b, after) == 0,
		       "%s: what the parent reads on: '%s'", what, b);
	}
	(void)close(fd);
	(void)unlink(file);
}

static void locks(void)
{
	int fd = file_fresh(0), other = open(file, O_RDWR | O_CLOEXEC);

	ASSERT(other >= 0 && flock(fd, LOCK_EX) == 0);
	tap_ok(ended_well(child("flock", fd, -1, -1)), "flock of a description that both hold");
	tap_ok(flock(other, LOCK_EX | LOCK_NB) == -1 && flock(other, LOCK_SH | LOCK_NB) == 0,
	       "as the child left it");
	(void)flock(other, LOCK_UN);
	(void)flock(fd, LOCK_UN);
	tap_ok(ended_well(child("flock_waits", fd, -1, -1)),
	       "flock that waits, and is interrupted");
	(void)flock(fd, LOCK_UN);
	tap_ok(ended_well(child("record", fd, -1, -1)), "record locks of a moved program");
	tap_ok(record(other, F_SETLK, F_WRLCK, 0, 0) == 0, "they end with it");
	(void)close(other);
	(void)close(fd);
}

/* A program that holds a lock, and nobody else its descriptor, executes. */
static void held_over_exec(bool whole, const char *what)
{
	int in[2], go[2], other = file_fresh(O_CLOEXEC);
	char c;
	pid_t pid;

	ASSERT(pipe2(in, O_CLOEXEC) == 0 && pipe2(go, O_CLOEXEC) == 0);
	pid = fork();
	if (pid == 0) {
		int out = fcntl(go[1], F_DUPFD_CLOEXEC, 20),
		    end = fcntl(in[0], F_DUPFD_CLOEXEC, 20);
		int fd = fcntl(open(file, O_RDWR | O_CLOEXEC), F_DUPFD_CLOEXEC, 20);

		(void)close_range(3, 19, 0);
		(void)dup2(out, 4);
		(void)dup2(end, 0);
		(void)dup2(fd, FD);
		(void)close(fd);
		if (whole ? flock(FD, LOCK_EX) < 0 : record(FD, F_SETLK, F_WRLCK, 0, 0) < 0)
			_exit(126);
		(void)execl(self, self, "holds", file, "0", "0", "0", "0", "0", "0", (char *)NULL);
		_exit(127);
	}
	(void)close(go[1]);
	(void)close(in[0]);
	ASSERT(read(go[0], &c, 1) == 1);
	if (whole)
		tap_ok(flock(other, LOCK_EX | LOCK_NB) == -1 && errno == EWOULDBLOCK, "%s", what);
	else
		tap_ok(record(other, F_SETLK, F_WRLCK, 0, 0) == -1 && errno == EAGAIN, "%s", what);
	(void)close(in[1]);
	tap_ok(ended_well(pid), "it ends");
	tap_ok(whole ? flock(other, LOCK_EX | LOCK_NB) == 0
		     : record(other, F_SETLK, F_WRLCK, 0, 0) == 0,
	       "and its lock with it");
	(void)close(other);
	(void)close(go[0]);
}

static int be_child(char **argv)
{
	(void)snprintf(file, sizeof(file), "%s", argv[2]);
	told = (struct stat){.st_dev = strtoull(argv[3], NULL, 10),
			     .st_ino = strtoull(argv[4], NULL, 10),
			     .st_mode = (mode_t)strtoul(argv[5], NULL, 10),
			     .st_size = (off_t)strtoull(argv[6], NULL, 10),
			     .st_nlink = strtoul(argv[7], NULL, 10),
			     .st_uid = (uid_t)strtoul(argv[8], NULL, 10)};
	for (size_t i = 0; i < KRG_NELEM(children); i++)
		if (strcmp(children[i].name, argv[1]) == 0) {
			children[i].run();
			return 0;
		}
	return 2;
}

int main(int argc, char **argv)
{
	if (argc == 9)
		return be_child(argv);
	self = argv[0];
	(void)snprintf(file, sizeof(file), "/tmp/epm_standin.%d", getpid());
	with_pipe("restart", true, "a read that a signal interrupts is restarted (SA_RESTART)");
	with_pipe("eintr", true, "or EINTR, and nothing is lost");
	with_pipe("write_eintr", false, "a write to a full pipe: EAGAIN, EINTR");
	with_pipe("nonblock", true, "O_NONBLOCK by fcntl; poll, select, epoll");
	with_file("stat", 0, 0, NULL, "fstat, fchmod, fchown, futimens");
	with_file("file", 0, 4, "23456a", "lseek, pread, pwrite, ftruncate, fallocate, fsync");
	with_file("append", O_APPEND, 0, "", "O_APPEND");
	with_file("mmap", 0, 0, "0123456789", "mmap: private; shared is refused");
	with_file("poll_file", 0, 0, NULL, "poll of a file");
	locks();
	held_over_exec(true, "a flock is held over an exec elsewhere");
	held_over_exec(false, "a record lock is held over an exec, which stays");
	(void)unlink(file);
	return tap_done();
}
