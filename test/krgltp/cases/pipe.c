/* pipe.c - pipes and FIFOs between processes that are anywhere. */
#include "case.h"
#include <poll.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/select.h>
#include <time.h>

static char *number(long n)
{
	static char text[16][24];
	static unsigned next;
	char *t = text[next++ % NELEM(text)];

	(void)snprintf(t, sizeof(text[0]), "%ld", n);
	return t;
}

/* In the child: these become its standard input and output, where they are not -1. */
struct ends {
	int in, out;
};

static void take_ends(void *arg)
{
	const struct ends *e = arg;

	if (e->in >= 0)
		(void)OK(dup2(e->in, 0));
	if (e->out >= 0)
		(void)OK(dup2(e->out, 1));
}

static pid_t with_ends(int in, int out, const char *role, const char *arg)
{
	struct ends e = {in, out};

	return spawn_with(take_ends, &e, role, arg, NULL);
}

/* Bytes that say where they are. */
static unsigned char at(size_t i)
{
	return (unsigned char)(i * 7 + i / 251);
}

static int r_produce(int argc, char **argv)
{
	static unsigned char buf[10007];
	size_t total = (size_t)atol(argv[0]), i = 0;

	(void)argc;
	while (i < total) {
		size_t n = total - i < sizeof(buf) ? total - i : sizeof(buf);

		for (size_t k = 0; k < n; k++)
			buf[k] = at(i + k);
		write_all(1, buf, n);
		i += n;
	}
	return 0;
}

static void consume(int fd, size_t total)
{
	static unsigned char buf[30011];
	size_t i = 0;

	for (;;) {
		ssize_t n = read(fd, buf, sizeof(buf));

		if (n < 0 && errno == EINTR)
			continue;
		CHECK(n >= 0, "read: %s", strerror(errno));
		if (n == 0)
			break;
		for (ssize_t k = 0; k < n; k++)
			CHECK(buf[k] == at(i + (size_t)k), "byte %zu is another", i + (size_t)k);
		i += (size_t)n;
	}
	EQ(i, total);
}

static int r_consume(int argc, char **argv)
{
	(void)argc;
	consume(0, (size_t)atol(argv[0]));
	return 0;
}

static void c_from_child(void)
{
	int p[2];
	pid_t pid;

	make_pipe(p);
	pid = with_ends(-1, p[1], "produce", "1000000");
	(void)close(p[1]);
	consume(p[0], 1000000);
	EXITS(pid, 0);
}

static void c_to_child(void)
{
	unsigned char buf[4096];
	int p[2];
	pid_t pid;

	make_pipe(p);
	pid = with_ends(p[0], -1, "consume", "1024000");
	(void)close(p[0]);
	for (size_t i = 0; i < 1024000; i += sizeof(buf)) {
		for (size_t k = 0; k < sizeof(buf); k++)
			buf[k] = at(i + k);
		write_all(p[1], buf, sizeof(buf));
	}
	(void)close(p[1]);
	EXITS(pid, 0);
}

static void c_between(void)
{
	int p[2];
	pid_t a, b;

	make_pipe(p);
	a = with_ends(-1, p[1], "produce", "500000");
	b = with_ends(p[0], -1, "consume", "500000");
	(void)close(p[0]);
	(void)close(p[1]);
	EXITS(a, 0);
	EXITS(b, 0);
}

static void c_long(void)
{
	enum { N = 12 };
	pid_t pids[N + 1];
	int in, p[2];

	make_pipe(p);
	pids[N] = with_ends(-1, p[1], "produce", "100000");
	(void)close(p[1]);
	in = p[0];
	for (int i = 0; i < N; i++) {
		make_pipe(p);
		pids[i] = with_ends(in, p[1], "cat", NULL);
		(void)close(in);
		(void)close(p[1]);
		in = p[0];
	}
	consume(in, 100000);
	for (int i = 0; i <= N; i++)
		EXITS(pids[i], 0);
}

static void c_shell(void)
{
	EQ(system("[ $(seq 1 3000 | cat | tac | cat | sort -n | tail -1) = 3000 ] && exit 5"),
	   5 << 8);
}

static void c_to_and_fro(void)
{
	struct chat c = chat_with(NULL, NULL, "cat", NULL);

	for (int i = 0; i < 100; i++) {
		tell(&c, number(i));
		expect_line(&c, number(i));
	}
	BYE(&c);
}

/* ---- the end ---- */

static void c_eof(void)
{
	struct chat c = chat_with(NULL, NULL, "exit", "3", NULL);
	char b;

	EQ(read(c.from, &b, 1), 0);
	EQ(read(c.from, &b, 1), 0);
	EXITS(c.pid, 3);
	leave(&c);
}

/* The end comes only when the last writer has gone. */
static void c_eof_last(void)
{
	struct pollfd p;
	pid_t a, b;
	int q[2], hold[2];
	char c;

	make_pipe(q);
	make_pipe(hold);
	a = with_ends(-1, q[1], "exit", "1");
	b = with_ends(hold[0], q[1], "hold", NULL);
	(void)close(q[1]);
	(void)close(hold[0]);
	EXITS(a, 1);
	EQ(read_up_to(q[0], (char[6]){0}, 6), 6); /* ready */
	p = (struct pollfd){.fd = q[0], .events = POLLIN};
	EQ(poll(&p, 1, 0), 0);
	(void)close(hold[1]);
	EQ(read(q[0], &c, 1), 0);
	EXITS(b, 0);
}

static void c_eof_killed(void)
{
	struct chat c = chat_with(NULL, NULL, "hold", NULL);

	expect_line(&c, "ready");
	(void)OK(kill(c.pid, SIGKILL));
	expect_line(&c, "");
	DIES(c.pid, SIGKILL);
	leave(&c);
}

static int r_writes(int argc, char **argv)
{
	static char buf[4096];
	ssize_t n;

	if (argc > 0 && strcmp(argv[0], "ignore") == 0)
		(void)signal(SIGPIPE, SIG_IGN);
	else
		(void)signal(SIGPIPE, SIG_DFL);
	do
		n = write(1, buf, sizeof(buf));
	while (n > 0);
	return errno == EPIPE ? 32 : 33;
}

static void c_sigpipe(void)
{
	struct chat c = chat_with(NULL, NULL, "writes", NULL);
	char b;

	EQ(read(c.from, &b, 1), 1);
	leave(&c);
	DIES(c.pid, SIGPIPE);
}

static void c_epipe(void)
{
	struct chat c = chat_with(NULL, NULL, "writes", "ignore", NULL);
	char b;

	EQ(read(c.from, &b, 1), 1);
	leave(&c);
	EXITS(c.pid, 32);
}

/* The reader is elsewhere, and ends. */
static void c_epipe_here(void)
{
	int p[2];
	pid_t pid;

	make_pipe(p);
	pid = with_ends(p[0], -1, "exit", "0");
	(void)close(p[0]);
	EXITS(pid, 0);
	(void)signal(SIGPIPE, SIG_IGN);
	FAILS(write(p[1], "x", 1), EPIPE);
}

/* Pipes to and from a child that is there before the exec, as 20 and 21. */
static void with_child(void *arg)
{
	int p[2], q[2];
	char c;

	(void)arg;
	make_pipe(p);
	make_pipe(q);
	if (OK(fork()) == 0) {
		(void)close(p[0]);
		(void)close(q[1]);
		_exit(read(q[0], &c, 1) == 1 && write(p[1], "abc", 3) == 3 ? 0 : 1);
	}
	(void)OK(dup2(p[0], 20));
	(void)OK(dup2(q[1], 21));
}

/* Once it has ended: what it wrote is there, and that it writes and reads no more. */
static int r_child_ends(int argc, char **argv)
{
	char b[10];
	int st;

	(void)argc;
	(void)argv;
	(void)signal(SIGPIPE, SIG_IGN);
	EQ(write(21, "x", 1), 1);
	(void)OK(wait(&st));
	EQ(st, 0);
	(void)OK(fcntl(20, F_SETFL, O_NONBLOCK));
	EQ(read(20, b, sizeof(b)), 3);
	EQ(read(20, b, sizeof(b)), 0);
	FAILS(write(21, "y", 1), EPIPE);
	return 0;
}

static void c_kept_child(void)
{
	EXITS(spawn_with(with_child, NULL, "child_ends", NULL), 0);
}

static void c_yes(void)
{
	EQ(system("yes | head -1 >out"), 0);
	CHECK(strcmp(read_file("out"), "y\n") == 0, "'%s'", read_file("out"));
	EQ(system("bash -c 'yes | head -100 >/dev/null; exit ${PIPESTATUS[0]}'"), 141 << 8);
}

/* Close-on-exec of a pipe says that the exec succeeded: its end is seen, and only then. */
static void c_exec_seen(void)
{
	int p[2], q[2];
	char c;
	pid_t pid;

	make_pipe(p);
	make_pipe(q);
	pid = with_ends(q[0], -1, "cat", NULL);
	(void)close(p[1]);
	EQ(read(p[0], &c, 1), 0); /* it lives: the end of the pipe is by its exec */
	EQ(waitpid(pid, NULL, WNOHANG), 0);
	(void)close(q[0]);
	(void)close(q[1]);
	(void)status_of(pid);
}

/* ---- without blocking ---- */

static void c_eagain_empty(void)
{
	struct chat c = chat_with(NULL, NULL, "hold", NULL);
	char b;

	expect_line(&c, "ready");
	(void)OK(fcntl(c.from, F_SETFL, O_NONBLOCK));
	FAILS(read(c.from, &b, 1), EAGAIN);
	leave(&c);
	EXITS(c.pid, 0);
}

static int r_nonblock_read(int argc, char **argv)
{
	struct pollfd p = {.fd = 0, .events = POLLIN};
	char b;

	(void)argc;
	(void)argv;
	CHECK((fcntl(0, F_GETFL) & O_NONBLOCK) != 0, "O_NONBLOCK is gone");
	FAILS(read(0, &b, 1), EAGAIN);
	EQ(poll(&p, 1, 0), 0);
	answer("empty");
	EQ(poll(&p, 1, -1), 1);
	EQ(read(0, &b, 1), 1);
	EQ(b, 'x');
	answer("got it");
	EQ(poll(&p, 1, -1), 1);
	EQ(read(0, &b, 1), 0);
	return 0;
}

static void set_nonblock(void *arg)
{
	(void)OK(fcntl(*(int *)arg, F_SETFL, O_NONBLOCK));
}

static void c_nonblock_read(void)
{
	int in = 0;
	struct chat c = chat_with(set_nonblock, &in, "nonblock_read", NULL);

	expect_line(&c, "empty");
	write_all(c.to, "x", 1);
	expect_line(&c, "got it");
	BYE(&c);
}

/* A full pipe: EAGAIN, after a bounded number of bytes; then it is writable when it is read. */
static int r_fill(int argc, char **argv)
{
	static char buf[4096];
	struct pollfd p = {.fd = 1, .events = POLLOUT};
	long total = 0;
	ssize_t n;

	(void)argc;
	(void)argv;
	while ((n = write(1, buf, sizeof(buf))) > 0)
		total += n;
	EQ(errno, EAGAIN);
	EQ(poll(&p, 1, 0), 0);
	(void)dprintf(2, "%ld\n", total);
	EQ(poll(&p, 1, -1), 1);
	CHECK((p.revents & POLLOUT) != 0, "events %#x", (unsigned)p.revents);
	EQ(write(1, buf, 1), 1);
	return 0;
}

static void fill_prepare(void *arg)
{
	int *fds = arg;

	(void)OK(dup2(fds[0], 1));
	(void)OK(dup2(fds[1], 2));
	(void)OK(fcntl(1, F_SETFL, O_NONBLOCK));
}

static void c_fill(void)
{
	int p[2], say[2], fds[2];
	static char buf[65536];
	char line[32] = "";
	long total, got = 0;
	ssize_t n;
	pid_t pid;

	make_pipe(p);
	make_pipe(say);
	fds[0] = p[1];
	fds[1] = say[1];
	pid = spawn_with(fill_prepare, fds, "fill", NULL);
	(void)close(p[1]);
	(void)close(say[1]);
	for (size_t i = 0; i < sizeof(line) - 1 && read(say[0], line + i, 1) == 1; i++)
		if (line[i] == '\n')
			break;
	total = atol(line);
	CHECK(total >= 65536 && total <= 4 << 20, "%ld bytes fit", total);
	while ((n = read(p[0], buf, sizeof(buf))) > 0)
		got += n;
	EQ(n, 0);
	EQ(got, total + 1);
	EXITS(pid, 0);
}

static void c_fionread(void)
{
	int p[2], n;
	pid_t pid;

	make_pipe(p);
	pid = with_ends(-1, p[1], "produce", "1000");
	(void)close(p[1]);
	EXITS(pid, 0);
	do /* it has ended, and all of its bytes are in the pipe */
		(void)OK(ioctl(p[0], FIONREAD, &n));
	while (n < 1000 && poll(NULL, 0, 1) == 0);
	EQ(n, 1000);
	consume(p[0], 1000);
}

/* All that it wrote is there when it has ended. */
static void c_all_there(void)
{
	int p[2], n;
	pid_t pid;

	make_pipe(p);
	pid = with_ends(-1, p[1], "produce", "1000");
	(void)close(p[1]);
	EXITS(pid, 0);
	(void)OK(ioctl(p[0], FIONREAD, &n));
	EQ(n, 1000);
	(void)OK(fcntl(p[0], F_SETFL, O_NONBLOCK));
	consume(p[0], 1000);
}

/* ---- waiting for several ---- */

static int r_polls(int argc, char **argv)
{
	const char *how = argv[0];
	char b;

	(void)argc;
	for (int round = 0; round < 3; round++) {
		answer("waits");
		if (strcmp(how, "poll") == 0) {
			struct pollfd p = {.fd = 0, .events = POLLIN};

			EQ(poll(&p, 1, -1), 1);
			CHECK((p.revents & (POLLIN | POLLHUP)) != 0, "%#x", (unsigned)p.revents);
		} else if (strcmp(how, "select") == 0) {
			fd_set r;

			FD_ZERO(&r);
			FD_SET(0, &r);
			EQ(select(1, &r, NULL, NULL, NULL), 1);
			EQ(FD_ISSET(0, &r) != 0, true);
		} else {
			int e = (int)OK(epoll_create1(EPOLL_CLOEXEC));
			struct epoll_event ev = {.events = EPOLLIN};

			(void)OK(epoll_ctl(e, EPOLL_CTL_ADD, 0, &ev));
			EQ(epoll_wait(e, &ev, 1, -1), 1);
			(void)close(e);
		}
		EQ(read(0, &b, 1), round == 2 ? 0 : 1);
	}
	return 0;
}

static void c_polls(void)
{
	struct chat c = chat_with(NULL, NULL, "polls", sub_arg, NULL);

	expect_line(&c, "waits");
	write_all(c.to, "1", 1);
	expect_line(&c, "waits");
	write_all(c.to, "2", 1);
	expect_line(&c, "waits");
	BYE(&c);
}

static void c_poll_here(void)
{
	struct chat a = chat_with(NULL, NULL, "cat", NULL), b = chat_with(NULL, NULL, "cat", NULL);
	struct pollfd p[2] = {{.fd = a.from, .events = POLLIN}, {.fd = b.from, .events = POLLIN}};

	EQ(poll(p, 2, 0), 0);
	tell(&b, "b");
	EQ(poll(p, 2, -1), 1);
	EQ(p[1].revents, POLLIN);
	expect_line(&b, "b");
	tell(&a, "a");
	EQ(poll(p, 2, -1), 1);
	EQ(p[0].revents, POLLIN);
	expect_line(&a, "a");
	(void)close(a.to);
	EXITS(a.pid, 0);
	EQ(poll(p, 1, -1), 1);
	EQ(p[0].revents, POLLHUP);
	(void)close(a.from);
	BYE(&b);
}

static int r_poll_out(int argc, char **argv)
{
	struct pollfd p = {.fd = 1, .events = POLLOUT};

	(void)argc;
	(void)argv;
	EQ(poll(&p, 1, -1), 1);
	EQ(p.revents, POLLOUT);
	(void)signal(SIGPIPE, SIG_IGN);
	write_all(2, "x", 1);
	do /* until its reader has gone */
		EQ(poll(&p, 1, -1), 1);
	while ((p.revents & POLLERR) == 0 && poll(NULL, 0, 1) == 0);
	FAILS(write(1, "x", 1), EPIPE);
	return 0;
}

static void c_poll_error(void)
{
	int p[2], say[2], fds[2];
	char c;
	pid_t pid;

	make_pipe(p);
	make_pipe(say);
	fds[0] = p[1];
	fds[1] = say[1];
	pid = spawn_with(fill_prepare, fds, "poll_out", NULL);
	(void)close(p[1]);
	(void)close(say[1]);
	EQ(read(say[0], &c, 1), 1);
	(void)close(p[0]);
	EXITS(pid, 0);
}

/* ---- several writers, several readers ---- */

enum { RECORDS = 60, RECORD = 4096 };

static int r_records(int argc, char **argv)
{
	static char rec[RECORD];

	(void)argc;
	memset(rec, argv[0][0], sizeof(rec));
	for (int i = 0; i < RECORDS; i++)
		EQ(write(1, rec, sizeof(rec)), RECORD);
	return 0;
}

static void c_atomic(void)
{
	static char rec[RECORD];
	int p[2], n[4] = {0};
	pid_t pids[4];

	make_pipe(p);
	for (int i = 0; i < 4; i++) {
		char who[2] = {(char)('a' + i), '\0'};

		pids[i] = with_ends(-1, p[1], "records", who);
	}
	(void)close(p[1]);
	for (int r = 0; r < 4 * RECORDS; r++) {
		EQ(read_up_to(p[0], rec, RECORD), RECORD);
		for (int k = 1; k < RECORD; k++)
			CHECK(rec[k] == rec[0], "record %d: byte %d is another's", r, k);
		n[rec[0] - 'a']++;
	}
	EQ(read(p[0], rec, 1), 0);
	for (int i = 0; i < 4; i++) {
		EQ(n[i], RECORDS);
		EXITS(pids[i], 0);
	}
}

/* Each takes bytes of one pipe until it ends, and says which. */
static int r_takes_bytes(int argc, char **argv)
{
	char seen[600];
	int n = 0;
	char b;

	(void)argc;
	(void)argv;
	while (read(0, &b, 1) == 1)
		n += snprintf(seen + n, sizeof(seen) - (size_t)n, "%02x", (unsigned char)b);
	seen[n] = '\0';
	answer("%s", seen);
	return 0;
}

static void c_readers(void)
{
	int p[2], out[2], counts[200] = {0};
	char line[4096] = "", hex[3] = "";
	pid_t pids[4];
	unsigned char b;
	size_t n;

	make_pipe(p);
	make_pipe(out);
	for (int i = 0; i < 4; i++)
		pids[i] = with_ends(p[0], out[1], "takes_bytes", NULL);
	(void)close(p[0]);
	(void)close(out[1]);
	for (b = 0; b < 200; b++)
		write_all(p[1], &b, 1);
	(void)close(p[1]);
	n = read_up_to(out[0], line, sizeof(line) - 1);
	for (size_t i = 0; i + 1 < n; i += 2) {
		while (i < n && line[i] == '\n')
			i++;
		if (i + 1 >= n)
			break;
		memcpy(hex, line + i, 2);
		counts[strtol(hex, NULL, 16)]++;
	}
	for (int i = 0; i < 200; i++)
		EQ(counts[i], 1);
	for (int i = 0; i < 4; i++)
		EXITS(pids[i], 0);
}

/* As make's job server: tokens are taken and given back. */
static int r_jobs(int argc, char **argv)
{
	(void)argc;
	(void)argv;
	for (int i = 0; i < 10; i++) {
		char token;

		EQ(read(8, &token, 1), 1);
		CHECK(token == 'T', "token %d", token);
		EQ(write(9, &token, 1), 1);
	}
	return 0;
}

static void take_jobs(void *arg)
{
	int *p = arg;

	(void)OK(dup2(p[0], 8));
	(void)OK(dup2(p[1], 9));
}

static void c_job_server(void)
{
	char tokens[8];
	pid_t pids[5];
	int p[2];

	make_pipe(p);
	write_all(p[1], "TT", 2);
	for (int i = 0; i < 5; i++)
		pids[i] = spawn_with(take_jobs, p, "jobs", NULL);
	for (int i = 0; i < 5; i++)
		EXITS(pids[i], 0);
	(void)close(p[1]);
	EQ(read_up_to(p[0], tokens, sizeof(tokens)), 2);
}

static void c_make(void)
{
	if (system("make --version >/dev/null 2>&1") != 0)
		skip("no make");
	write_file("Makefile",
		   "all: a b c d\na b c d:\n\t@/bin/echo $@ >$@\nrec: ; +@$(MAKE) -s all\n");
	EQ(system("make -s -j3 rec"), 0);
	for (const char *f = "abcd"; *f != '\0'; f++) {
		char name[2] = {*f, '\0'}, want[3] = {*f, '\n', '\0'};

		CHECK(strcmp(read_file(name), want) == 0, "%s says '%s'", name, read_file(name));
	}
}

/* ---- back-pressure, sizes ---- */

static void c_pressure(void)
{
	struct chat c;
	int p[2], n;
	pid_t pid;

	/* a writer with much more than fits does not end before it is read */
	make_pipe(p);
	pid = with_ends(-1, p[1], "produce", "3000000");
	(void)close(p[1]);
	do
		(void)OK(ioctl(p[0], FIONREAD, &n));
	while (n < 60000 && poll(NULL, 0, 1) == 0);
	c = chat_with(NULL, NULL, "cat", NULL); /* something else works meanwhile */
	tell(&c, "x");
	expect_line(&c, "x");
	BYE(&c);
	EQ(waitpid(pid, NULL, WNOHANG), 0);
	consume(p[0], 3000000);
	EXITS(pid, 0);
}

static int r_size(int argc, char **argv)
{
	(void)argc;
	(void)argv;
	CHECK(fcntl(1, F_GETPIPE_SZ) > 0, "F_GETPIPE_SZ: %s", strerror(errno));
	CHECK(lseek(1, 0, SEEK_CUR) == -1 && errno == ESPIPE, "lseek: %s", strerror(errno));
	FAILS(pwrite(1, "x", 1, 0), ESPIPE);
	FAILS(read(1, (char[1]){0}, 1), EBADF);
	return 0;
}

static void c_is_pipe(void)
{
	struct chat c = chat_with(NULL, NULL, "size", NULL);

	expect_line(&c, "");
	BYE(&c);
}

static int r_stat(int argc, char **argv)
{
	int fd = atoi(argv[0]);
	struct stat st;

	(void)argc;
	(void)OK(fstat(fd, &st));
	EQ(S_ISFIFO(st.st_mode), true);
	EQ(fcntl(fd, F_GETFL) & O_ACCMODE, fd == 0 || fd == 20 ? O_RDONLY : O_WRONLY);
	return 0;
}

static void at_twenty(void *arg)
{
	(void)OK(dup2(*(int *)arg, 20));
}

static void c_fstat(void)
{
	int p[2];

	make_pipe(p);
	EXITS(with_ends(p[0], -1, "stat", "0"), 0);
	EXITS(with_ends(-1, p[1], "stat", "1"), 0);
	EXITS(spawn_with(at_twenty, &p[0], "stat", "20", NULL), 0);
}

/* O_DIRECT: a read takes one packet. */
static int r_packets(int argc, char **argv)
{
	char buf[100];

	(void)argc;
	(void)argv;
	EQ(read(0, buf, sizeof(buf)), 3);
	EQ(read(0, buf, sizeof(buf)), 5);
	EQ(read(0, buf, 2), 2); /* the rest of it is lost */
	EQ(read(0, buf, sizeof(buf)), 1);
	return 0;
}

static void c_packets(void)
{
	int p[2];
	pid_t pid;

	(void)OK(pipe2(p, O_DIRECT | O_CLOEXEC));
	write_all(p[1], "abc", 3);
	write_all(p[1], "defgh", 5);
	write_all(p[1], "ijkl", 4);
	write_all(p[1], "m", 1);
	pid = with_ends(p[0], -1, "packets", NULL);
	EXITS(pid, 0);
}

/* ---- FIFOs ---- */

static int r_fifo_writes(int argc, char **argv)
{
	int fd = (int)OK(open("fifo", O_WRONLY | O_CLOEXEC));

	for (int i = 0; i < atoi(argv[0]); i++)
		write_all(fd, argv[argc - 1], strlen(argv[argc - 1]));
	return 0;
}

static void c_fifo(void)
{
	char buf[64];
	int fd;
	pid_t pid;

	(void)OK(mkfifo("fifo", 0666));
	pid = spawn("fifo_writes", "2", "hello", NULL);
	fd = (int)OK(open("fifo", O_RDONLY | O_CLOEXEC)); /* both wait for each other */
	EQ(read_up_to(fd, buf, sizeof(buf)), 10);
	EXITS(pid, 0);
	/* before: or the next writer would find a reader that goes, and its bytes with it */
	(void)close(fd);
	pid = spawn("fifo_writes", "1", "again", NULL);
	fd = (int)OK(open("fifo", O_RDONLY | O_CLOEXEC));
	EQ(read_up_to(fd, buf, sizeof(buf)), 5);
	EXITS(pid, 0);
}

static int r_fifo_errors(int argc, char **argv)
{
	int fd;
	char b;

	(void)argc;
	(void)argv;
	FAILS(open("fifo", O_WRONLY | O_NONBLOCK), ENXIO);
	fd = (int)OK(open("fifo", O_RDONLY | O_NONBLOCK | O_CLOEXEC));
	EQ(read(fd, &b, 1), 0);
	(void)close(fd);
	return 0;
}

static void c_fifo_errors(void)
{
	(void)OK(mkfifo("fifo", 0666));
	EXITS(spawn("fifo_errors", NULL), 0);
}

static void c_fifo_writers(void)
{
	static char buf[100000];
	int n[3] = {0}, fd;
	pid_t pids[3];
	size_t got;

	(void)OK(mkfifo("fifo", 0666));
	pids[0] = spawn("fifo_writes", "500", "aaaaaaaaa\n", NULL);
	pids[1] = spawn("fifo_writes", "500", "bbbbbbbbb\n", NULL);
	pids[2] = spawn("fifo_writes", "500", "ccccccccc\n", NULL);
	fd = (int)OK(open("fifo", O_RDONLY | O_CLOEXEC));
	/* ends may come before all have opened it: until all is there */
	for (got = 0; got < 15000;)
		got += read_up_to(fd, buf + got, 15000 - got);
	for (size_t i = 0; i < got; i += 10) {
		for (size_t k = 0; k < 9; k++)
			EQ(buf[i + k], buf[i]);
		EQ(buf[i + 9], '\n');
		n[buf[i] - 'a']++;
	}
	for (int i = 0; i < 3; i++) {
		EQ(n[i], 500);
		EXITS(pids[i], 0);
	}
}

/* A FIFO that is open is given to a child. */
static void c_fifo_given(void)
{
	char buf[8];
	int fd;
	pid_t pid;

	(void)OK(mkfifo("fifo", 0666));
	fd = (int)OK(open("fifo", O_RDWR | O_CLOEXEC));
	pid = with_ends(-1, fd, "hold", NULL);
	EQ(read_up_to(fd, buf, 6), 6);
	(void)status_of(pid);
	CHECK(memcmp(buf, "ready\n", 6) == 0, "'%.6s'", buf);
}

static void c_fifo_shell(void)
{
	EQ(system("mkfifo f; (/bin/cat <f >out) & /bin/echo text >f; wait; grep -q text out && "
		  "exit 6"),
	   6 << 8);
}

const struct sub subs[] = {{"from_child", c_from_child},
			   {"to_child", c_to_child},
			   {"between", c_between},
			   {"long", c_long},
			   {"shell", c_shell},
			   {"to_and_fro", c_to_and_fro},
			   {"eof", c_eof},
			   {"eof_last", c_eof_last},
			   {"eof_killed", c_eof_killed},
			   {"sigpipe", c_sigpipe},
			   {"epipe", c_epipe},
			   {"epipe_here", c_epipe_here},
			   {"kept_child", c_kept_child},
			   {"yes", c_yes},
			   {"exec_seen", c_exec_seen},
			   {"eagain_empty", c_eagain_empty},
			   {"nonblock_read", c_nonblock_read},
			   {"fill", c_fill},
			   {"fionread", c_fionread},
			   {"all_there", c_all_there},
			   {"polls", c_polls},
			   {"poll_here", c_poll_here},
			   {"poll_error", c_poll_error},
			   {"atomic", c_atomic},
			   {"readers", c_readers},
			   {"job_server", c_job_server},
			   {"make", c_make},
			   {"pressure", c_pressure},
			   {"is_pipe", c_is_pipe},
			   {"fstat", c_fstat},
			   {"packets", c_packets},
			   {"fifo", c_fifo},
			   {"fifo_errors", c_fifo_errors},
			   {"fifo_writers", c_fifo_writers},
			   {"fifo_given", c_fifo_given},
			   {"fifo_shell", c_fifo_shell},
			   {NULL, NULL}};
const struct role roles[] = {{"produce", r_produce},
			     {"consume", r_consume},
			     {"writes", r_writes},
			     {"nonblock_read", r_nonblock_read},
			     {"fill", r_fill},
			     {"child_ends", r_child_ends},
			     {"polls", r_polls},
			     {"poll_out", r_poll_out},
			     {"records", r_records},
			     {"takes_bytes", r_takes_bytes},
			     {"jobs", r_jobs},
			     {"size", r_size},
			     {"stat", r_stat},
			     {"packets", r_packets},
			     {"fifo_writes", r_fifo_writes},
			     {"fifo_errors", r_fifo_errors},
			     {NULL, NULL}};
