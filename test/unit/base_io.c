/* base_io.c - whole reads and writes, small files, descriptors over a socket, cleanup attributes.
 */
#include "base.h"
#include "tap.h"
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>

static void whole(void)
{
	KRG_AUTO_FD int rd = -EBADF;
	KRG_AUTO_FD int wr = -EBADF;
	int p[2];
	char got[8] = "";

	ASSERT(pipe2(p, O_CLOEXEC) == 0);
	rd = p[0], wr = p[1];
	tap_eq(krg_write_all(wr, "abcdef", 6), 0, "write_all");
	tap_ok(krg_read_all(rd, got, 6) == 0 && memcmp(got, "abcdef", 6) == 0, "read_all");
	tap_eq(krg_read_all(rd, got, 0), 0, "read_all of nothing");
	tap_eq(krg_write_all(wr, "abc", 3), 0, "write_all");
	(void)close(TAKE_FD(wr));
	tap_eq(wr, -EBADF, "TAKE_FD leaves -EBADF");
	tap_eq(krg_read_all(rd, got, 4), -EPIPE, "an early end is -EPIPE");
	tap_eq(krg_read_all(-EBADF, got, 1), -EBADF, "errors are negative errno");
	(void)close(TAKE_FD(rd));
	tap_eq(krg_write_all(-EBADF, got, 1), -EBADF, "also on write");
}

static void on_signal(int sig)
{
	(void)sig;
}

struct slow {
	int fd;
	pthread_t reader;
};

/* Feeds a pipe byte by byte, each followed by a signal to the reader. */
static void *slow_writer(void *arg)
{
	struct slow *s = arg;

	for (int i = 0; i < 1000; i++) {
		char c = (char)i;

		if (write(s->fd, &c, 1) != 1)
			break;
		(void)pthread_kill(s->reader, SIGUSR1);
	}
	return NULL;
}

static void interrupted(void)
{
	struct sigaction act = {.sa_handler = on_signal};
	struct slow s = {.reader = pthread_self()};
	static char got[1000];
	unsigned wrong = 0;
	pthread_t t;
	int p[2];

	ASSERT(sigaction(SIGUSR1, &act, NULL) == 0 && pipe2(p, O_CLOEXEC) == 0);
	s.fd = p[1];
	tap_eq(pthread_create(&t, NULL, slow_writer, &s), 0, "thread");
	tap_eq(krg_read_all(p[0], got, sizeof(got)), 0, "read_all through a thousand signals");
	for (int i = 0; i < 1000; i++)
		wrong += got[i] != (char)i;
	tap_eq(wrong, 0, "and nothing is lost");
	(void)pthread_join(t, NULL);
	(void)close(p[0]);
	(void)close(p[1]);
}

static void files(void)
{
	char path[] = "/tmp/krg_base_io.XXXXXX", got[16];
	int fd = mkstemp(path);

	tap_ok(fd >= 0, "mkstemp");
	(void)close(fd);
	tap_eq(krg_write_file(path, "0123456789"), 0, "write_file");
	tap_eq(krg_read_file(path, got, sizeof(got)), 10, "read_file returns the length");
	tap_ok(strcmp(got, "0123456789") == 0, "and the text");
	tap_eq(krg_read_file(path, got, 5), 4, "cut at max - 1");
	tap_ok(strcmp(got, "0123") == 0, "with its NUL");
	tap_eq(krg_read_file(path, got, 1), 0, "room for the NUL alone");
	tap_eq(krg_read_file(path, got, 11), 10, "room that just fits");
	(void)unlink(path);
	tap_eq(krg_read_file(path, got, sizeof(got)), -ENOENT, "no such file to read");
	tap_eq(krg_write_file(path, "x"), -ENOENT, "write_file makes none");
}

static bool same_file(int a, int b)
{
	struct stat x, y;

	return fstat(a, &x) == 0 && fstat(b, &y) == 0 && x.st_dev == y.st_dev &&
	       x.st_ino == y.st_ino;
}

static void passing(void)
{
	int sv[2], out[KRG_FDS_MAX], in[KRG_FDS_MAX];
	unsigned n = KRG_FDS_MAX, wrong = 0;
	char got[8];

	ASSERT(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv) == 0);
	for (unsigned i = 0; i < KRG_FDS_MAX; i++)
		out[i] = sv[i % 2];
	tap_eq(krg_send_fds(sv[0], "hi", 2, out, KRG_FDS_MAX), 2, "send %d descriptors",
	       KRG_FDS_MAX);
	tap_eq(krg_recv_fds(sv[1], got, sizeof(got), in, &n), 2, "receive them");
	tap_eq(n, KRG_FDS_MAX, "all of them");
	for (unsigned i = 0; i < n; i++) {
		wrong += !same_file(in[i], out[i]) || fcntl(in[i], F_GETFD) != FD_CLOEXEC;
		(void)close(in[i]);
	}
	tap_eq(wrong, 0, "in order, CLOEXEC");
	n = 2;
	tap_eq(krg_send_fds(sv[0], "hi", 2, out, 5), 2, "send 5");
	tap_eq(krg_recv_fds(sv[1], got, sizeof(got), in, &n), 2, "room for 2");
	tap_eq(n, 2, "2 are handed out");
	(void)close(in[0]);
	(void)close(in[1]);
	tap_eq(krg_send_fds(sv[0], "hi", 2, NULL, 0), 2, "send none");
	n = KRG_FDS_MAX;
	tap_eq(krg_recv_fds(sv[1], got, sizeof(got), in, &n), 2, "receive");
	tap_eq(n, 0, "none");
	(void)close(sv[0]);
	tap_eq(krg_recv_fds(sv[1], got, sizeof(got), in, &n), 0, "0 at the end");
	tap_eq(krg_send_fds(sv[1], "x", 1, NULL, 0), -EPIPE, "-EPIPE, and no signal");
	(void)close(sv[1]);
}

static unsigned open_fds(void)
{
	unsigned n = 0;

	for (int fd = 0; fd < 1024; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

static int keep_or_not(bool keep)
{
	KRG_AUTO_FD int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	KRG_AUTO_FREE char *text = krg_xasprintf("%d", fd);
	KRG_AUTO_FREE char *copy = krg_xstrdup(text);

	ASSERT(strcmp(text, copy) == 0);
	return keep ? TAKE_FD(fd) : -EBADF;
}

static void cleanup(void)
{
	unsigned before = open_fds();
	int fd;
	char *p = krg_xstrdup("x"), *q = TAKE_PTR(p);

	(void)keep_or_not(false);
	tap_eq(open_fds(), before, "KRG_AUTO_FD closes");
	fd = keep_or_not(true);
	tap_ok(fd >= 0 && open_fds() == before + 1, "TAKE_FD hands over");
	(void)close(fd);
	tap_ok(p == NULL && *q == 'x', "TAKE_PTR");
	free(q);
	p = krg_xalloc(0);
	tap_ok(p != NULL, "xalloc(0) is memory");
	p = krg_xrealloc(p, 0);
	tap_ok(p != NULL, "xrealloc(0) too");
	free(p);
}

int main(void)
{
	unsigned before = open_fds();

	whole();
	interrupted();
	files();
	passing();
	cleanup();
	tap_eq(open_fds(), before, "no descriptor is left over");
	return tap_done();
}
