/* stream_standin.c - stand-ins: a descriptor of node 0 used on nodes 1 and 2. */
#include "stream_nodes.h"
#include <pty.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <termios.h>

static struct nodes n;

static long handles(unsigned node)
{
	struct stream_stat st;

	stream_stat_get(n.stream[node], &st);
	return (long)st.handles;
}

/* ---- pipes ---- */

struct reader {
	int fd;
	u8 seen[256 * 16];
	unsigned count;
};

static void *read_tokens(void *arg)
{
	struct reader *r = arg;
	u8 b[2];

	while (read(r->fd, b, 2) == 2) {
		r->seen[(b[0] << 4 | b[1]) % sizeof(r->seen)]++;
		r->count++;
	}
	return NULL;
}

/* Several readers on two nodes and one native: each token exactly once. */
static void test_many_readers(void)
{
	struct reader r[5] = {0};
	pthread_t t[5];
	unsigned total = 0;
	bool once = true;
	int p[2];

	MUST(pipe2(p, O_CLOEXEC) == 0);
	for (int i = 0; i < 5; i++)
		r[i].fd = i == 4 ? dup(p[0])
				 : move_fd(&n, p[0], STREAM_STANDIN, 0, 1 + (unsigned)i % 2);
	for (int i = 0; i < 5; i++)
		MUST(pthread_create(&t[i], NULL, read_tokens, &r[i]) == 0);
	for (int i = 0; i < 256 * 16; i++) {
		u8 b[2] = {(u8)(i >> 4), (u8)(i & 15)};

		MUST(write(p[1], b, 2) == 2);
	}
	(void)close(p[1]);
	for (int i = 0; i < 5; i++) {
		MUST(pthread_join(t[i], NULL) == 0);
		total += r[i].count;
		(void)close(r[i].fd);
	}
	for (int i = 0; i < 256 * 16; i++) {
		unsigned seen = 0;

		for (int k = 0; k < 5; k++)
			seen += r[k].seen[i];
		once = once && seen == 1;
	}
	tap_eq(total, 256 * 16, "five readers on three nodes take all tokens");
	tap_ok(once, "each token once");
	(void)close(p[0]);
	tap_ok(WITHIN(handles(0) == 0), "the handle ends with its last copy");
}

static void test_eof_and_eagain(void)
{
	int p[2], fd, fl;
	char b[8];
	struct pollfd pf;

	MUST(pipe2(p, O_CLOEXEC) == 0);
	fd = move_fd(&n, p[0], STREAM_STANDIN, 0, 1);
	fl = fcntl(fd, F_GETFL);
	tap_eq(fl & O_ACCMODE, O_RDONLY, "access mode is kept");
	MUST(fcntl(fd, F_SETFL, fl | O_NONBLOCK) == 0);
	tap_ok(read(fd, b, 8) < 0 && errno == EAGAIN, "O_NONBLOCK: EAGAIN");
	pf = (struct pollfd){.fd = fd, .events = POLLIN};
	tap_eq(poll(&pf, 1, 0), 0, "poll: nothing yet");
	MUST(write(p[1], "abc", 3) == 3);
	tap_eq(poll(&pf, 1, 5000), 1, "poll wakes");
	tap_eq(read(fd, b, 8), 3, "what is there");
	MUST(fcntl(fd, F_SETFL, fl) == 0);
	(void)close(p[1]);
	tap_eq(read(fd, b, 8), 0, "end of file");
	tap_ok(poll(&pf, 1, 0) == 1 && (pf.revents & POLLHUP) != 0, "poll: POLLHUP");
	(void)close(fd);
	(void)close(p[0]);
}

static void *write_later(void *arg)
{
	(void)poll(NULL, 0, 100);
	MUST(write(*(int *)arg, "x", 1) == 1);
	return NULL;
}

static void test_poll_waits(void)
{
	int p[2], fd;
	struct pollfd pf;
	pthread_t t;
	char b;

	MUST(pipe2(p, O_CLOEXEC) == 0);
	fd = move_fd(&n, p[0], STREAM_STANDIN, 0, 1);
	pf = (struct pollfd){.fd = fd, .events = POLLIN};
	for (int i = 0; i < 3; i++) {
		MUST(pthread_create(&t, NULL, write_later, &p[1]) == 0);
		tap_ok(poll(&pf, 1, 5000) == 1 && pf.revents == POLLIN,
		       "poll wakes when data comes");
		MUST(pthread_join(t, NULL) == 0);
		MUST(read(fd, &b, 1) == 1);
	}
	MUST(pthread_create(&t, NULL, write_later, &p[1]) == 0);
	tap_eq(read(fd, &b, 1), 1, "read waits for data");
	MUST(pthread_join(t, NULL) == 0);
	(void)close(fd);
	(void)close(p[0]);
	(void)close(p[1]);
}

static void test_epipe(void)
{
	int p[2], fd, st;

	MUST(pipe2(p, O_CLOEXEC) == 0);
	fd = move_fd(&n, p[1], STREAM_STANDIN, 0, 1);
	(void)close(p[0]);
	st = IN_CHILD(signal(SIGPIPE, SIG_DFL); (void)!write(fd, "x", 1));
	tap_ok(WIFSIGNALED(st) && WTERMSIG(st) == SIGPIPE, "no reader: SIGPIPE (status %#x)", st);
	st = IN_CHILD(signal(SIGPIPE, SIG_IGN);
		      _exit(write(fd, "x", 1) < 0 && errno == EPIPE ? 7 : 1));
	tap_ok(WIFEXITED(st) && WEXITSTATUS(st) == 7, "SIGPIPE ignored: EPIPE");
	(void)close(fd);
	(void)close(p[1]);
	/* Exported when there is no reader already. */
	MUST(pipe2(p, O_CLOEXEC) == 0);
	(void)close(p[0]);
	fd = move_fd(&n, p[1], STREAM_STANDIN, 0, 1);
	st = IN_CHILD(signal(SIGPIPE, SIG_IGN);
		      _exit(write(fd, "x", 1) < 0 && errno == EPIPE ? 7 : 1));
	tap_ok(WIFEXITED(st) && WEXITSTATUS(st) == 7, "EPIPE when the reader was gone before");
	(void)close(fd);
	(void)close(p[1]);
}

/* The writer waits while the pipe is full, and the bytes arrive in order. */
static void *write_much(void *arg)
{
	static u8 block[300000];

	for (size_t i = 0; i < sizeof(block); i++)
		block[i] = (u8)(i * 7 + i / 251);
	MUST(write(*(int *)arg, block, sizeof(block)) == (ssize_t)sizeof(block));
	(void)close(*(int *)arg);
	return NULL;
}

static void test_full_pipe(void)
{
	int p[2], fd;
	pthread_t t;
	size_t at = 0;
	bool same = true;
	ssize_t got;
	u8 b[5000];

	MUST(pipe2(p, O_CLOEXEC) == 0);
	fd = move_fd(&n, p[1], STREAM_STANDIN, 0, 1);
	(void)close(p[1]);
	MUST(pthread_create(&t, NULL, write_much, &fd) == 0);
	while ((got = read(p[0], b, sizeof(b))) > 0)
		for (ssize_t i = 0; i < got; i++, at++)
			same = same && b[i] == (u8)(at * 7 + at / 251);
	MUST(pthread_join(t, NULL) == 0);
	tap_ok(at == 300000 && same, "a large write passes a small pipe whole (%zu bytes)", at);
	(void)close(p[0]);
}

static void on_alarm(int sig)
{
	(void)sig;
}

static void test_interrupt(void)
{
	int p[2], fd, st, q[2];
	char b[4] = "";

	MUST(pipe2(p, O_CLOEXEC) == 0 && pipe2(q, O_CLOEXEC) == 0);
	fd = move_fd(&n, p[0], STREAM_STANDIN, 0, 1);
	st = IN_CHILD(struct sigaction sa = {.sa_handler = on_alarm};
		      struct itimerval it = {.it_value = {.tv_usec = 100000}};
		      sigaction(SIGALRM, &sa, NULL); setitimer(ITIMER_REAL, &it, NULL);
		      _exit(read(fd, b, 4) < 0 && errno == EINTR ? 7 : 1));
	tap_ok(WIFEXITED(st) && WEXITSTATUS(st) == 7, "a signal interrupts a read: EINTR");
	st = IN_CHILD(alarm(1); signal(SIGALRM, SIG_DFL); (void)!read(fd, b, 4));
	tap_ok(WIFSIGNALED(st) && WTERMSIG(st) == SIGALRM, "a killed reader goes at once");
	MUST(write(p[1], "ab", 2) == 2);
	tap_ok(read(p[0], b, 4) == 2 && b[0] == 'a' && b[1] == 'b', "neither took anything");
	/* A write that is interrupted says how far it came. */
	(void)close(fd);
	fd = move_fd(&n, p[1], STREAM_STANDIN, 0, 1);
	st = IN_CHILD(static char big[100000]; struct sigaction sa = {.sa_handler = on_alarm};
		      struct itimerval it = {.it_value = {.tv_usec = 100000}};
		      sigaction(SIGALRM, &sa, NULL); setitimer(ITIMER_REAL, &it, NULL);
		      ssize_t w = write(fd, big, sizeof(big)); (void)!write(q[1], &w, sizeof(w)));
	ssize_t wrote = 0;
	int there = 0;
	MUST(read(q[0], &wrote, sizeof(wrote)) == sizeof(wrote));
	MUST(ioctl(p[0], FIONREAD, &there) == 0);
	tap_ok(wrote > 0 && wrote == there, "an interrupted write counts: %zd", wrote);
	(void)close(fd);
	for (int i = 0; i < 2; i++) {
		(void)close(p[i]);
		(void)close(q[i]);
	}
}

/* Many interrupts at random moments against tokens that come and go. */
static void test_interrupt_storm(void)
{
	int p[2], q[2], fd, st;
	pid_t pid;
	unsigned got = 0, sent = 0;
	struct sigaction sa = {.sa_handler = on_alarm};

	MUST(pipe2(p, O_CLOEXEC) == 0 && pipe2(q, O_CLOEXEC) == 0);
	fd = move_fd(&n, p[0], STREAM_STANDIN, 0, 1);
	(void)fflush(stdout);
	MUST(sigaction(SIGUSR1, &sa, NULL) == 0);
	pid = fork();
	if (pid == 0) {
		unsigned count = 0;
		char b;

		(void)close(p[1]);
		for (;;) {
			ssize_t r = read(fd, &b, 1);

			if (r == 0)
				break;
			count += r == 1;
		}
		(void)!write(q[1], &count, sizeof(count));
		_exit(0);
	}
	for (sent = 0; sent < 2000; sent++) {
		MUST(write(p[1], "t", 1) == 1);
		(void)kill(pid, SIGUSR1);
		if (sent % 16 == 0)
			(void)poll(NULL, 0, 1);
	}
	(void)close(p[1]);
	MUST(waitpid(pid, &st, 0) == pid && read(q[0], &got, sizeof(got)) == sizeof(got));
	tap_eq(got, sent, "no token is lost to interrupted reads");
	(void)close(fd);
	(void)close(p[0]);
	(void)close(q[0]);
	(void)close(q[1]);
}

/* One that waits to write must not hold up others of its node. */
static void *fill_pipe(void *arg)
{
	static char big[200000];
	ssize_t w = write(*(int *)arg, big, sizeof(big));

	MUST(w == (ssize_t)sizeof(big));
	return NULL;
}

static bool is_full(int fd)
{
	struct pollfd pf = {.fd = fd, .events = POLLOUT};

	return poll(&pf, 1, 0) == 0;
}

static void test_side_by_side(void)
{
	int p[2], fd, st;
	pthread_t t;
	size_t total = 0;
	char b[4096];

	MUST(pipe2(p, O_CLOEXEC) == 0);
	fd = move_fd(&n, p[1], STREAM_STANDIN, 0, 1);
	MUST(pthread_create(&t, NULL, fill_pipe, &fd) == 0);
	tap_ok(WITHIN(is_full(p[1])), "the pipe is full");
	st = IN_CHILD(alarm(3); signal(SIGALRM, SIG_DFL); fcntl(fd, F_SETFL, O_WRONLY | O_NONBLOCK);
		      _exit(write(fd, "x", 1) < 0 && errno == EAGAIN ? 7 : 1));
	tap_ok(WIFEXITED(st) && WEXITSTATUS(st) == 7,
	       "EAGAIN while another writer of the same description waits (%#x)", st);
	MUST(fcntl(fd, F_SETFL, O_WRONLY) == 0);
	while (total < 200000) {
		ssize_t got = read(p[0], b, sizeof(b));

		MUST(got > 0);
		total += (size_t)got;
	}
	MUST(pthread_join(t, NULL) == 0);
	tap_eq(total, 200000, "and it gets through");
	(void)close(fd);
	(void)close(p[0]);
	(void)close(p[1]);
}

/* ---- files ---- */

static int tmp_file(int flags)
{
	char path[] = "/tmp/stream-XXXXXX";
	int fd = mkostemp(path, flags | O_CLOEXEC);

	MUST(fd >= 0 && unlink(path) == 0);
	return fd;
}

static void test_shared_offset(void)
{
	int f = tmp_file(0), a, b;
	char text[64] = "";
	struct stat st;

	a = move_fd(&n, f, STREAM_STANDIN, 0, 1);
	b = move_fd(&n, f, STREAM_STANDIN, 0, 2);
	MUST(write(f, "0", 1) == 1);
	MUST(write(a, "1", 1) == 1);
	MUST(write(b, "2", 1) == 1);
	MUST(write(f, "3", 1) == 1);
	MUST(write(a, "4", 1) == 1);
	MUST(write(b, "5", 1) == 1);
	MUST(pread(f, text, sizeof(text), 0) == 6);
	tap_ok(strcmp(text, "012345") == 0, "three nodes write on one offset: %s", text);
	MUST(fstat(a, &st) == 0);
	tap_ok(st.st_size == 6 && S_ISREG(st.st_mode), "fstat sees the real size");
	tap_ok(pwrite(a, "X", 1, 3) == 1 && write(b, "6", 1) == 1 && write(a, "7", 1) == 1,
	       "pwrite");
	memset(text, 0, sizeof(text));
	MUST(pread(f, text, sizeof(text), 0) == 8);
	tap_ok(strcmp(text, "012X4567") == 0, "pwrite leaves the offset: %s", text);
	tap_eq(ftruncate(a, 4), 0, "ftruncate");
	MUST(fstat(f, &st) == 0);
	tap_eq(st.st_size, 4, "shortens the real file");
	tap_eq(lseek(b, 0, SEEK_END), 4, "SEEK_END knows the real size");
	tap_eq(fsync(a), 0, "fsync");
	tap_eq(fallocate(a, 0, 0, 8192), 0, "fallocate");
	MUST(fstat(f, &st) == 0);
	tap_eq(st.st_size, 8192, "grows the real file");
	tap_eq(fchmod(a, 0640), 0, "fchmod");
	MUST(fstat(f, &st) == 0);
	tap_eq(st.st_mode & 0777, 0640, "changes the real file");
	(void)close(a);
	(void)close(b);
	(void)close(f);
}

/* head(1): reads a block, seeks back to behind the line, closes; the next reader goes on there. */
static void test_seek_back(void)
{
	int f = tmp_file(0), a;
	char b[16] = "";

	MUST(pwrite(f, "one\ntwo\nthree\n", 14, 0) == 14);
	a = move_fd(&n, f, STREAM_STANDIN, 0, 1);
	MUST(read(a, b, 14) == 14);
	tap_eq(lseek(a, -10, SEEK_CUR), 4, "seek back after reading too much");
	(void)close(a);
	tap_ok(WITHIN(lseek(f, 0, SEEK_CUR) == 4), "the real offset follows when it is closed");
	a = move_fd(&n, f, STREAM_STANDIN, 0, 1);
	tap_eq(lseek(a, 0, SEEK_CUR), 4, "an import begins at the real offset");
	memset(b, 0, sizeof(b));
	MUST(read(a, b, 4) == 4);
	tap_ok(strcmp(b, "two\n") == 0, "and reads there");
	MUST(lseek(a, 0, SEEK_SET) == 0 && read(a, b, 4) == 4);
	tap_ok(memcmp(b, "one\n", 4) == 0, "lseek and read");
	tap_eq(lseek(f, 0, SEEK_CUR), 4, "moves the shared offset");
	MUST(pread(a, b, 5, 8) == 5);
	tap_ok(memcmp(b, "three", 5) == 0, "pread");
	tap_eq(lseek(f, 0, SEEK_CUR), 4, "does not move the shared offset");
	(void)close(a);
	(void)close(f);
}

/* What the gate does for a standard descriptor: one offset, whoever moved it, and however. */
static void test_lseek(void)
{
	int f = tmp_file(0), a = move_fd(&n, f, STREAM_STANDIN, 0, 1);
	int b = move_fd(&n, f, STREAM_STANDIN, 0, 2), p[2], q;
	struct stream *s1 = n.stream[1], *s2 = n.stream[2];
	char text[100];

	MUST(ftruncate(f, 3000) == 0);
	MUST(read(f, text, 100) == 100 && read(b, text, 20) == 20);
	tap_eq(stream_lseek(s1, a, 0, SEEK_CUR), 120, "lseek knows what others have read");
	tap_eq(stream_lseek(s1, a, 1000, SEEK_SET), 1000, "SEEK_SET");
	tap_eq(lseek(f, 0, SEEK_CUR), 1000, "is seen at home");
	tap_eq(stream_lseek(s2, b, -10, SEEK_CUR), 990, "and from a third node");
	MUST(read(a, text, 10) == 10);
	tap_eq(lseek(f, 0, SEEK_CUR), 1000, "a read goes on there");
	tap_eq(stream_lseek(s1, a, -1, SEEK_END), 2999, "SEEK_END");
	tap_eq(stream_lseek(s1, a, -1, SEEK_SET), -EINVAL, "before the beginning");
	tap_eq(lseek(f, 0, SEEK_CUR), 2999, "moves nothing");
	/* one that the kernel has done alone */
	MUST(lseek(a, 50, SEEK_SET) == 50);
	tap_eq(stream_lseek(s1, a, 7, SEEK_CUR), 57, "after an lseek that we were not asked about");
	tap_eq(lseek(f, 0, SEEK_CUR), 57, "which is seen then, too");
	tap_eq(stream_lseek(s1, f, 0, SEEK_CUR), -ENOENT, "no stand-in");
	MUST(pipe2(p, O_CLOEXEC) == 0);
	q = move_fd(&n, p[1], STREAM_STANDIN, 0, 1);
	tap_eq(stream_lseek(s1, q, 0, SEEK_CUR), -ENOENT,
	       "a pipe has no offset: the kernel says so");
	(void)close(q);
	(void)close(p[0]);
	(void)close(p[1]);
	(void)close(a);
	(void)close(b);
	(void)close(f);
}

/* F_SETFL and its kin are of the description, which is everybody's. */
static void test_fcntl(void)
{
	const int all = O_APPEND | O_NONBLOCK | O_DIRECT;
	int f = tmp_file(0), a = move_fd(&n, f, STREAM_STANDIN, 0, 1), p[2], w, r;
	struct stream *s1 = n.stream[1];
	struct pollfd pf;
	char b[16];

	MUST(ftruncate(f, 10) == 0 && fcntl(f, F_SETFL, O_APPEND) == 0);
	tap_ok((stream_fcntl(s1, a, F_GETFL, 0, 0) & O_APPEND) != 0, "O_APPEND, set at home");
	tap_ok(write(a, "x", 1) == 1 && pread(f, b, 16, 10) == 1 && b[0] == 'x', "is obeyed");
	tap_eq(stream_fcntl(s1, a, F_SETFL, 0, all), 0, "F_SETFL away");
	tap_eq(fcntl(f, F_GETFL) & all, 0, "is seen at home");
	MUST(lseek(f, 0, SEEK_SET) == 0 && lseek(a, 0, SEEK_SET) == 0);
	tap_ok(write(a, "y", 1) == 1 && pread(f, b, 16, 0) == 11 && b[0] == 'y', "and obeyed");
	tap_eq(stream_fcntl(s1, a, F_GETPIPE_SZ, 0, 0), -EBADF, "a file has no pipe's size");
	(void)close(a);
	(void)close(f);

	MUST(pipe2(p, O_CLOEXEC | O_NONBLOCK) == 0);
	r = move_fd(&n, p[0], STREAM_STANDIN, 0, 1);
	w = move_fd(&n, p[1], STREAM_STANDIN, 0, 1);
	tap_ok(read(r, b, 1) < 0 && errno == EAGAIN, "O_NONBLOCK since it was moved");
	tap_eq(stream_fcntl(s1, r, F_SETFL, 0, O_NONBLOCK), 0, "taken away");
	pf = (struct pollfd){.fd = p[0]};
	tap_ok((fcntl(p[0], F_GETFL) & O_NONBLOCK) == 0 && poll(&pf, 1, 0) == 0, "at home, too");
	MUST(write(p[1], "1", 1) == 1);
	tap_eq(read(r, b, 1), 1, "and it reads");
	tap_eq(stream_fcntl(s1, w, F_SETFL, O_DIRECT, O_DIRECT), 0, "O_DIRECT: packets");
	MUST(write(w, "ab", 2) == 2 && write(w, "cde", 3) == 3);
	tap_eq(read(p[0], b, sizeof(b)), 2, "a read takes one");
	tap_eq(read(r, b, sizeof(b)), 3, "as away");
	tap_eq(stream_fcntl(s1, w, F_SETPIPE_SZ, 1 << 17, 0), 1 << 17, "F_SETPIPE_SZ");
	tap_eq(fcntl(p[0], F_GETPIPE_SZ), 1 << 17, "is the real pipe's");
	tap_eq(stream_fcntl(s1, r, F_GETPIPE_SZ, 0, 0), 1 << 17, "F_GETPIPE_SZ");
	tap_eq(stream_fcntl(s1, w, F_SETPIPE_SZ, 1 << 30, 0), -EPERM, "no more than anybody may");
	tap_eq(stream_fcntl(s1, p[0], F_GETFL, 0, 0), -ENOENT, "no stand-in");
	(void)close(r);
	(void)close(w);
	(void)close(p[0]);
	(void)close(p[1]);
}

static void test_append(void)
{
	char path[] = "/tmp/stream-XXXXXX", b[16] = "";
	int f = mkostemp(path, O_APPEND | O_CLOEXEC), a, other;

	other = open(path, O_WRONLY | O_APPEND | O_CLOEXEC);
	MUST(f >= 0 && other >= 0 && unlink(path) == 0);
	a = move_fd(&n, f, STREAM_STANDIN, 0, 1);
	tap_ok((fcntl(a, F_GETFL) & O_APPEND) != 0, "O_APPEND is kept");
	for (int i = 0; i < 3; i++) {
		MUST(write(a, "a", 1) == 1);
		MUST(write(other, "o", 1) == 1);
		MUST(write(f, "f", 1) == 1);
	}
	MUST(pread(f, b, sizeof(b), 0) == 9);
	tap_ok(memcmp(b, "aofaofaof", 9) == 0, "everybody appends: %.9s", b);
	(void)close(a);
	(void)close(f);
	(void)close(other);
}

/* ---- ttys ---- */

static void test_tty(void)
{
	struct winsize ws = {.ws_row = 33, .ws_col = 99}, got = {0};
	struct krg_err err = {0};
	struct termios tio;
	u8 ktio[36];
	int m, t, fd;
	char b[32] = "";

	MUST(openpty(&m, &t, NULL, NULL, &ws) == 0);
	fd = move_fd(&n, t, STREAM_STANDIN, 0, 1);
	tap_eq(fcntl(fd, F_GETFL) & O_ACCMODE, O_RDWR, "a tty is opened for both");
	MUST(write(m, "hello\n", 6) == 6);
	tap_ok(read(fd, b, sizeof(b)) == 6 && memcmp(b, "hello\n", 6) == 0, "read from a tty");
	tap_eq(write(fd, "out\n", 4), 4, "write to a tty");
	memset(b, 0, sizeof(b));
	tap_ok(WITHIN(read(m, b, sizeof(b)) > 0 && strstr(b, "out") != NULL), "arrives");
	tap_eq(stream_ioctl(n.stream[1], fd, TIOCGWINSZ, 0, &got, sizeof(got), &err), 0,
	       "TIOCGWINSZ");
	tap_ok(got.ws_row == 33 && got.ws_col == 99, "the window's size");
	tap_eq(stream_ioctl(n.stream[1], fd, TCGETS, 0, ktio, sizeof(ktio), &err), 0, "TCGETS");
	tap_eq(stream_ioctl(n.stream[1], fd, TCFLSH, TCIFLUSH, NULL, 0, &err), 0, "TCFLSH");
	tap_eq(stream_ioctl(n.stream[1], fd, TIOCSTI, 0, b, 1, &err), -ENOTTY,
	       "TIOCSTI is refused");
	/* Not a line: VMIN */
	MUST(tcgetattr(t, &tio) == 0);
	tio.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
	tio.c_cc[VMIN] = 3;
	tio.c_cc[VTIME] = 0;
	MUST(tcsetattr(t, TCSANOW, &tio) == 0);
	MUST(write(m, "ab", 2) == 2);
	struct pollfd pf = {.fd = fd, .events = POLLIN};
	tap_eq(poll(&pf, 1, 50), 0, "VMIN 3: two are not enough");
	MUST(write(m, "c", 1) == 1);
	tap_eq(read(fd, b, 8), 3, "three are");
	tap_ok(stream_fd_is_standin(n.stream[1], fd), "it is known as a stand-in");
	tap_ok(!stream_fd_is_standin(n.stream[1], t), "and a tty is not");
	(void)close(m);
	tap_ok(read(fd, b, 8) <= 0, "hang-up ends the read");
	(void)close(fd);
	(void)close(t);
}

/* ---- who has what ---- */

static void test_pass_on(void)
{
	struct rec_stream_ref ref;
	struct krg_err err = {0};
	int p[2], a, b, home;
	struct stat s1, s2;
	char c[4];

	MUST(pipe2(p, O_CLOEXEC) == 0);
	a = move_fd(&n, p[0], STREAM_STANDIN, 0, 1);
	tap_eq(stream_ref_of_fd(n.stream[1], a, 2, &ref, &err), 0, "passed on: %s", err.text);
	tap_eq(ref.origin, 0, "to the origin");
	(void)close(a);
	tap_eq(stream_import(n.stream[2], &ref, &b, &err), 0, "imported on a third node");
	MUST(write(p[1], "xy", 2) == 2);
	tap_eq(read(b, c, 1), 1, "and it reads");
	tap_eq(stream_ref_of_fd(n.stream[2], b, 0, &ref, &err), 0, "home again");
	tap_eq(stream_import(n.stream[0], &ref, &home, &err), 0, "imported at home");
	MUST(fstat(home, &s1) == 0 && fstat(p[0], &s2) == 0);
	tap_ok(s1.st_dev == s2.st_dev && s1.st_ino == s2.st_ino && S_ISFIFO(s1.st_mode),
	       "is the real pipe");
	tap_eq(read(home, c, 1), 1, "and reads natively");
	(void)close(b);
	(void)close(home);
	tap_ok(WITHIN(handles(0) == 0), "and nothing is left");
	tap_eq(stream_ref_of_fd(n.stream[1], p[0], 2, &ref, &err), -ENOENT,
	       "a pipe is no stand-in");
	/* cancelled exports */
	MUST(stream_export(n.stream[0], p[0], STREAM_STANDIN, 1, &ref, &err) == 0);
	tap_eq(handles(0), 1, "exported");
	stream_cancel(n.stream[0], &ref, 1);
	tap_eq(handles(0), 0, "cancelled");
	a = move_fd(&n, p[0], STREAM_STANDIN, 0, 1);
	MUST(stream_ref_of_fd(n.stream[1], a, 2, &ref, &err) == 0);
	(void)close(a);
	stream_cancel(n.stream[1], &ref, 2);
	tap_ok(WITHIN(handles(0) == 0), "a pass-on cancelled by who made it");
	(void)close(p[0]);
	(void)close(p[1]);
}

static void test_dedup(void)
{
	struct rec_stream_ref r1, r2, r3;
	struct krg_err err = {0};
	int p[2], d;

	MUST(pipe2(p, O_CLOEXEC) == 0);
	d = dup(p[0]);
	MUST(stream_export(n.stream[0], p[0], STREAM_STANDIN, 1, &r1, &err) == 0);
	MUST(stream_export(n.stream[0], d, STREAM_STANDIN, 1, &r2, &err) == 0);
	MUST(stream_export(n.stream[0], p[1], STREAM_STANDIN, 1, &r3, &err) == 0);
	tap_ok(r1.id == r2.id, "one description, one handle");
	tap_ok(r1.id != r3.id, "another description, another handle");
	stream_cancel(n.stream[0], &r1, 1);
	stream_cancel(n.stream[0], &r2, 1);
	stream_cancel(n.stream[0], &r3, 1);
	tap_eq(handles(0), 0, "all cancelled");
	(void)close(d);
	(void)close(p[0]);
	(void)close(p[1]);
}

static long lock_fails(void *fd)
{
	return flock(*(int *)fd, LOCK_EX | LOCK_NB) < 0 ? errno : 0;
}

static void *copies(void *arg)
{
	const atomic_bool *over = arg;
	int p[2];

	MUST(pipe2(p, O_CLOEXEC) == 0);
	while (!atomic_load(over))
		(void)close(move_fd(&n, p[1], STREAM_STANDIN, 0, 1));
	(void)close(p[0]);
	(void)close(p[1]);
	return NULL;
}

/* A process away ends: what it had locked is free when its end is told, while others open and close theirs. */
static void test_settled(void)
{
	char path[] = "/tmp/krg-stream-XXXXXX";
	int fd = mkstemp(path), other = open(path, O_RDWR | O_CLOEXEC), rounds = 300, good = 0;
	struct ending e = {.n = &n, .look = lock_fails, .arg = &other};
	struct rec_stream_ref ref;
	struct krg_err err = {0};
	atomic_bool over = false;
	pthread_t t;

	MUST(fd >= 0 && other >= 0);
	(void)close(fd);
	ending_begin(&e);
	MUST(pthread_create(&t, NULL, copies, &over) == 0);
	for (int i = 0; i < rounds; i++) {
		int away;

		fd = open(path, O_RDWR | O_CLOEXEC);
		MUST(fd >= 0 && flock(fd, LOCK_EX) == 0);
		MUST(stream_export(n.stream[0], fd, STREAM_STANDIN, 1, &ref, &err) == 0);
		(void)close(fd);
		MUST(stream_import(n.stream[1], &ref, &away, &err) == 0);
		MUST(flock(other, LOCK_EX | LOCK_NB) < 0);
		(void)close(away);
		good += ending_look(&e, &ref) == 0;
		MUST(flock(other, LOCK_UN) == 0);
	}
	atomic_store(&over, true);
	MUST(pthread_join(t, NULL) == 0);
	tap_eq(good, rounds, "a lock is free as soon as its holder's end is told");
	(void)close(other);
	(void)unlink(path);
	tap_ok(WITHIN(handles(0) == 0), "and nothing is left");
}

/* ---- sockets ---- */

static bool exports(int fd)
{
	struct rec_stream_ref ref;
	struct krg_err err = {0};

	if (stream_export(n.stream[0], fd, STREAM_STANDIN, 1, &ref, &err) < 0)
		return false;
	stream_cancel(n.stream[0], &ref, 1);
	return true;
}

static void *send_much(void *arg)
{
	static u8 block[300000];

	memset(block, 'x', sizeof(block));
	return (void *)(write(*(int *)arg, block, sizeof(block)) == sizeof(block) ? 1L : 0L);
}

static void test_socket(void)
{
	struct sockaddr_un name = {.sun_family = AF_UNIX};
	struct stream *s1 = n.stream[1];
	int p[2], d[2], fd, named;
	struct rec_stream_ref ref;
	static char b[65536];
	struct pollfd pf;
	pthread_t t;
	size_t got = 0;
	ssize_t k;
	void *r;

	MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, p) == 0);
	fd = move_fd(&n, p[1], STREAM_STANDIN, 0, 1);
	(void)close(p[1]);
	MUST(stream_standin_ref(s1, fd, &ref) == 0);
	tap_ok(S_ISSOCK(ref.mode), "what it is");
	pf = (struct pollfd){.fd = fd, .events = POLLIN | POLLOUT};
	tap_ok(poll(&pf, 1, 0) == 1 && pf.revents == POLLOUT, "it can be written to");
	tap_ok(write(fd, "abc", 3) == 3 && read(p[0], b, 9) == 3, "away to home");
	tap_ok(write(p[0], "defg", 4) == 4 && read(fd, b, 2) == 2 && b[0] == 'd', "home to away");
	pf.events = POLLIN;
	tap_ok(poll(&pf, 1, 5000) == 1 && pf.revents == POLLIN, "there is more");
	tap_ok(stream_recv(s1, fd, b, 9, true) == 2 && b[0] == 'f', "MSG_PEEK");
	tap_ok(stream_recv(s1, fd, b, 9, false) == 2 && b[1] == 'g', "takes nothing; recv does");
	tap_eq(stream_recv(s1, fd, b, 9, false), -EAGAIN, "nothing is left");
	tap_ok(stream_send(s1, fd, "h", 1) == 1 && read(p[0], b, 9) == 1 && b[0] == 'h', "send");
	/* one side reads while the other writes, on one descriptor */
	MUST(pthread_create(&t, NULL, send_much, &fd) == 0);
	(void)poll(NULL, 0, 50); /* it is full by now, and waits */
	MUST(write(p[0], "i", 1) == 1);
	tap_ok(read(fd, b, 1) == 1 && b[0] == 'i', "a writer who waits holds up no reader");
	while (got < 300000 && (k = read(p[0], b, sizeof(b))) > 0)
		got += (size_t)k;
	MUST(pthread_join(t, &r) == 0);
	tap_ok(r != NULL && got == 300000, "a long write: all %zu bytes", got);
	tap_eq(stream_socket(s1, fd, STREAM_GETSOCKOPT, SO_TYPE, 0), SOCK_STREAM, "SO_TYPE");
	tap_ok(stream_socket(s1, fd, STREAM_SETSOCKOPT, SO_SNDBUF, 20000) == 0 &&
		       stream_socket(s1, fd, STREAM_GETSOCKOPT, SO_SNDBUF, 0) == 40000,
	       "SO_SNDBUF");
	tap_eq(stream_socket(s1, fd, STREAM_SETSOCKOPT, SO_PASSCRED, 1), -ENOPROTOOPT,
	       "what is not known from another node");
	tap_eq(stream_socket(s1, fd, STREAM_SHUTDOWN, SHUT_WR, 0), 0, "shutdown");
	tap_eq(read(p[0], b, 9), 0, "is the end of file at home");
	tap_eq(stream_send(s1, fd, "j", 1), -EPIPE, "and EPIPE away");
	tap_ok(write(p[0], "k", 1) == 1 && read(fd, b, 9) == 1, "the other way goes on");
	(void)close(p[0]);
	tap_eq(read(fd, b, 9), 0, "and ends when home closes");
	pf.events = POLLIN;
	tap_ok(poll(&pf, 1, 5000) == 1 && (pf.revents & POLLHUP) != 0, "POLLHUP");
	(void)close(fd);

	MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, p) == 0);
	fd = move_fd(&n, p[1], STREAM_STANDIN, 0, 1);
	(void)close(p[1]);
	MUST(write(fd, "unread", 6) == 6);
	(void)close(p[0]);
	tap_ok(read(fd, b, 1) < 0 && errno == ECONNRESET, "closed with something unread: %s",
	       strerror(errno));
	tap_ok(write(fd, "x", 1) < 0 && errno == EPIPE, "EPIPE");
	(void)close(fd);

	MUST(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, d) == 0);
	tap_ok(!exports(d[0]), "not datagrams");
	(void)close(d[0]);
	(void)close(d[1]);
	named = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	tap_ok(named >= 0 && !exports(named), "nor one that is not connected");
	MUST(bind(named, (struct sockaddr *)&name, sizeof(sa_family_t)) == 0);
	MUST(listen(named, 1) == 0);
	tap_ok(!exports(named), "nor one that listens");
	(void)close(named);
	tap_ok(WITHIN(handles(0) == 0), "and nothing is left");
}

/* A reference that was not made for this node is worth nothing. */
static void test_stolen_ref(void)
{
	struct rec_stream_ref ref;
	struct krg_err err = {0};
	int p[2], fd;
	char b;

	MUST(pipe2(p, O_CLOEXEC) == 0);
	MUST(stream_export(n.stream[0], p[0], STREAM_STANDIN, 1, &ref, &err) == 0);
	MUST(write(p[1], "s", 1) == 1);
	MUST(stream_import(n.stream[2], &ref, &fd, &err) == 0);
	tap_ok(read(fd, &b, 1) < 0 && errno == EIO, "a node without a grant reads nothing");
	(void)close(fd);
	tap_eq(read(p[0], &b, 1), 1, "and takes nothing");
	stream_cancel(n.stream[0], &ref, 1);
	(void)close(p[0]);
	(void)close(p[1]);
}

/* echo >/dev/stderr where that is a stand-in */
static void test_reopen(void)
{
	char path[40];
	int p[2], fd, again;
	char b[4];

	MUST(pipe2(p, O_CLOEXEC) == 0);
	fd = move_fd(&n, p[1], STREAM_STANDIN, 0, 1);
	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	again = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
	tap_ok(again >= 0, "opened again through /proc: %s", again < 0 ? strerror(errno) : "ok");
	(void)close(fd);
	tap_eq(write(again, "yes", 3), 3, "written");
	tap_eq(read(p[0], b, 4), 3, "arrived");
	(void)close(again);
	tap_ok(WITHIN(handles(0) == 0), "and nothing is left");
	(void)close(p[0]);
	(void)close(p[1]);
}

/* Given, and not imported: whoever was given it says so, and nothing is held. */
static void test_given_back(void)
{
	struct rec_stream_ref ref;
	struct krg_err err = {0};
	int p[2];
	char b;

	MUST(pipe2(p, O_CLOEXEC) == 0);
	MUST(stream_export(n.stream[0], p[1], STREAM_STANDIN, 1, &ref, &err) == 0);
	stream_refuse(n.stream[2], &ref);
	(void)poll(NULL, 0, 50);
	tap_eq(handles(0), 1, "who was not given it cannot give it back");
	stream_refuse(n.stream[1], &ref);
	tap_ok(WITHIN(handles(0) == 0), "given back");
	(void)close(p[1]);
	tap_eq(read(p[0], &b, 1), 0, "the pipe's end is held by nobody");
	MUST(stream_export(n.stream[0], p[0], STREAM_STANDIN, 0, &ref, &err) == 0);
	stream_refuse(n.stream[0], &ref);
	tap_eq(handles(0), 0, "also to its own node");
	(void)close(p[0]);
}

static void test_refused(void)
{
	struct rec_stream_ref ref;
	struct krg_err err = {0};
	int fd = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	tap_eq(stream_export(n.stream[0], fd, STREAM_STANDIN, 1, &ref, &err), -EOPNOTSUPP,
	       "a directory is refused: %s", err.text);
	(void)close(fd);
	fd = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC);
	tap_eq(stream_export(n.stream[0], fd, STREAM_STANDIN, 1, &ref, &err), -EOPNOTSUPP,
	       "a pty's master is refused: %s", err.text);
	(void)close(fd);
}

static void *read_lost(void *arg)
{
	char b;

	return (void *)(read(*(int *)arg, &b, 1) < 0 && errno == EIO ? 1L : 0L);
}

static void *poll_lost(void *arg)
{
	struct pollfd pf = {.fd = *(int *)arg, .events = POLLIN};

	return (void *)(poll(&pf, 1, 5000) == 1 && (pf.revents & POLLERR) != 0 ? 1L : 0L);
}

static void test_death(void)
{
	int p[2], q[2], fd, gone;
	pthread_t t[2];
	void *r[2];
	char b;

	MUST(pipe2(p, O_CLOEXEC) == 0 && pipe2(q, O_CLOEXEC) == 0);
	/* an importer dies: the origin drops its exports, waiting reads of it take nothing */
	gone = move_fd(&n, p[0], STREAM_STANDIN, 0, 2);
	MUST(handles(0) == 1);
	(void)close(gone);
	gone = move_fd(&n, p[0], STREAM_STANDIN, 0, 2);
	nodes_down(&n, 2, 2);
	tap_eq(handles(0), 0, "a dead importer's handles end");
	MUST(write(p[1], "z", 1) == 1);
	tap_eq(read(p[0], &b, 1), 1, "and its reads took nothing");
	tap_ok(read(gone, &b, 1) < 0, "its own processes see an error: %s", strerror(errno));
	(void)close(gone);
	/* an origin dies */
	fd = move_fd(&n, p[0], STREAM_STANDIN, 0, 1);
	MUST(pthread_create(&t[0], NULL, read_lost, &fd) == 0);
	MUST(pthread_create(&t[1], NULL, poll_lost, &fd) == 0);
	(void)poll(NULL, 0, 100);
	nodes_down(&n, 0, 3);
	MUST(pthread_join(t[0], &r[0]) == 0 && pthread_join(t[1], &r[1]) == 0);
	tap_ok(r[0] != NULL, "the origin dies: a waiting read gets EIO");
	tap_ok(r[1] != NULL, "a waiting poll gets POLLERR");
	tap_ok(read(fd, &b, 1) < 0 && errno == EIO, "later reads get EIO");
	(void)close(fd);
}

int main(void)
{
	if (geteuid() != 0 || access("/dev/fuse", R_OK | W_OK) < 0)
		return tap_skip_all("needs root and /dev/fuse");
	nodes_start(&n, 3);
	test_many_readers();
	test_eof_and_eagain();
	test_poll_waits();
	test_epipe();
	test_full_pipe();
	test_interrupt();
	test_interrupt_storm();
	test_side_by_side();
	test_shared_offset();
	test_seek_back();
	test_append();
	test_lseek();
	test_fcntl();
	test_tty();
	test_pass_on();
	test_dedup();
	test_settled();
	test_socket();
	test_stolen_ref();
	test_reopen();
	test_given_back();
	test_refused();
	test_death();
	nodes_stop(&n);
	return tap_done();
}
