/* other.c - devices, sockets and the rest that a descriptor can be: it works for who is given it. */
#include "case.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/un.h>

static void give(void *arg)
{
	(void)OK(dup2(*(int *)arg, 7));
}

static pid_t with_fd(int fd, const char *role)
{
	return spawn_with(give, &fd, role, NULL);
}

/* ---- devices ---- */

static int r_null(int argc, char **argv)
{
	struct stat st;
	char b;

	(void)argc;
	(void)argv;
	EQ(read(7, &b, 1), 0);
	EQ(write(7, "x", 1), 1);
	(void)OK(fstat(7, &st));
	EQ(S_ISCHR(st.st_mode), true);
	EQ(st.st_rdev, 0x103);
	return 0;
}

static void c_null(void)
{
	EXITS(with_fd((int)OK(open("/dev/null", O_RDWR | O_CLOEXEC)), "null"), 0);
}

static int r_zero(int argc, char **argv)
{
	char b[100];

	(void)argc;
	(void)argv;
	memset(b, 1, sizeof(b));
	EQ(read(7, b, sizeof(b)), sizeof(b));
	for (size_t i = 0; i < sizeof(b); i++)
		EQ(b[i], 0);
	return 0;
}

static void c_zero(void)
{
	EXITS(with_fd((int)OK(open("/dev/zero", O_RDONLY | O_CLOEXEC)), "zero"), 0);
}

static int r_full(int argc, char **argv)
{
	(void)argc;
	(void)argv;
	FAILS(write(7, "x", 1), ENOSPC);
	return 0;
}

static void c_full(void)
{
	EXITS(with_fd((int)OK(open("/dev/full", O_WRONLY | O_CLOEXEC)), "full"), 0);
}

static int r_random(int argc, char **argv)
{
	unsigned char a[32], b[32];

	(void)argc;
	(void)argv;
	EQ(read(7, a, sizeof(a)), sizeof(a));
	EQ(read(7, b, sizeof(b)), sizeof(b));
	CHECK(memcmp(a, b, sizeof(a)) != 0, "twice the same");
	return 0;
}

static void c_random(void)
{
	EXITS(with_fd((int)OK(open("/dev/urandom", O_RDONLY | O_CLOEXEC)), "random"), 0);
	EXITS(with_fd((int)OK(open("/dev/random", O_RDONLY | O_CLOEXEC)), "random"), 0);
}

static int r_ptmx(int argc, char **argv)
{
	(void)argc;
	(void)argv;
	EQ(write(7, "keys\n", 5), 5);
	return 0;
}

static void c_ptmx(void)
{
	int master = (int)OK(posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC)), slave;
	char b[16];

	(void)OK(grantpt(master));
	(void)OK(unlockpt(master));
	slave = (int)OK(open(ptsname(master), O_RDWR | O_NOCTTY | O_CLOEXEC));
	EXITS(with_fd(master, "ptmx"), 0);
	EQ(read(slave, b, sizeof(b)), 5);
}

/* ---- sockets ---- */

static int r_socket(int argc, char **argv)
{
	struct stat st;
	char b[16];
	int type = 0;
	socklen_t n = sizeof(type);

	(void)argc;
	(void)argv;
	(void)OK(fstat(7, &st));
	EQ(S_ISSOCK(st.st_mode), true);
	(void)OK(getsockopt(7, SOL_SOCKET, SO_TYPE, &type, &n));
	EQ(type, SOCK_STREAM);
	EQ(recv(7, b, sizeof(b), 0), 5);
	EQ(send(7, "reply", 5, MSG_NOSIGNAL), 5);
	EQ(recv(7, b, sizeof(b), 0), 0); /* shut down */
	EQ(send(7, "last", 4, MSG_NOSIGNAL), 4);
	return 0;
}

static void c_socketpair(void)
{
	char b[16];
	int s[2];
	pid_t pid;

	(void)OK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s));
	pid = with_fd(s[1], "socket");
	(void)close(s[1]);
	EQ(send(s[0], "hello", 5, 0), 5);
	EQ(read_up_to(s[0], b, 5), 5);
	(void)OK(shutdown(s[0], SHUT_WR));
	EQ(read_up_to(s[0], b, sizeof(b)), 4);
	EXITS(pid, 0);
}

static int r_std_socket(int argc, char **argv)
{
	char b[6] = "";

	(void)argc;
	(void)argv;
	EQ(read_up_to(0, b, 5), 5);
	write_all(1, b, 5);
	return 0;
}

static void std_socket(void *arg)
{
	(void)OK(dup2(*(int *)arg, 0));
	(void)OK(dup2(*(int *)arg, 1));
}

/* As inetd does: a socket is standard input and output. */
static void c_inetd(void)
{
	char b[6] = "";
	int s[2];
	pid_t pid;

	(void)OK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s));
	pid = spawn_with(std_socket, &s[1], "std_socket", NULL);
	(void)close(s[1]);
	write_all(s[0], "inetd", 5);
	EQ(read_up_to(s[0], b, 6), 5);
	CHECK(strcmp(b, "inetd") == 0, "'%s'", b);
	EXITS(pid, 0);
}

static int pipes_heard, alarms_heard;

static void on_pipe(int sig)
{
	(void)sig;
	pipes_heard++;
}

static void on_alarm(int sig)
{
	(void)sig;
	alarms_heard++;
	EQ(send(0, "rang", 4, 0), 4);
}

static void names_and_options(void)
{
	struct sockaddr_un a = {.sun_family = 77};
	socklen_t n = sizeof(a);
	struct stat st;
	int v = -1;

	(void)OK(fstat(0, &st));
	EQ(S_ISSOCK(st.st_mode), true);
	FAILS(lseek(0, 0, SEEK_CUR), ESPIPE);
	EQ(isatty(0), 0);
	(void)OK(getsockname(0, (struct sockaddr *)&a, &n));
	EQ(n, sizeof(sa_family_t));
	EQ(a.sun_family, AF_UNIX);
	n = sizeof(a);
	(void)OK(getpeername(0, (struct sockaddr *)&a, &n));
	EQ(n, sizeof(sa_family_t));
	n = sizeof(v);
	(void)OK(getsockopt(0, SOL_SOCKET, SO_TYPE, &v, &n));
	EQ(v, SOCK_STREAM);
	(void)OK(getsockopt(0, SOL_SOCKET, SO_ERROR, &v, &n));
	EQ(v, 0);
	FAILS(getsockopt(0, IPPROTO_TCP, 1, &v, &n), EOPNOTSUPP);
	v = 50000;
	(void)OK(setsockopt(0, SOL_SOCKET, SO_SNDBUF, &v, sizeof(v)));
	(void)OK(getsockopt(0, SOL_SOCKET, SO_SNDBUF, &v, &n));
	EQ(v, 100000);
	FAILS(setsockopt(0, SOL_SOCKET, SO_SNDBUF, &v, 1), EINVAL);
}

static void in_parts(void)
{
	char b[16], x[3], y[16];
	struct iovec out[2] = {{(char *)(uintptr_t) "one", 3}, {(char *)(uintptr_t) "two", 3}};
	struct iovec in[2] = {{x, 3}, {y, 16}};
	struct msghdr m = {.msg_iov = out, .msg_iovlen = 2};

	EQ(sendmsg(0, &m, 0), 6);
	m = (struct msghdr){.msg_iov = in, .msg_iovlen = 2, .msg_name = b, .msg_namelen = 16};
	EQ(recvmsg(0, &m, 0), 6);
	EQ(m.msg_namelen, 0);
	EQ(memcmp(x, "uno", 3), 0);
	EQ(memcmp(y, "due", 3), 0);
}

/* What can be done with a socket but read and write. */
static int r_std_calls(int argc, char **argv)
{
	static char big[300000];
	struct sigaction sa = {.sa_handler = on_alarm, .sa_flags = SA_RESTART};
	struct itimerval it = {0};
	char b[16];

	(void)argc;
	(void)argv;
	(void)signal(SIGPIPE, on_pipe);
	(void)OK(sigaction(SIGALRM, &sa, NULL));
	write_all(1, "hello", 5);
	EQ(recv(0, b, sizeof(b), MSG_PEEK), 5);
	EQ(recv(0, b, 2, 0), 2);
	EQ(recv(0, b + 2, 3, MSG_WAITALL), 3);
	CHECK(memcmp(b, "reply", 5) == 0, "'%.5s'", b);
	FAILS(recv(0, b, 1, MSG_DONTWAIT), EAGAIN);
	in_parts();
	/* it waits, and a signal comes: restarted */
	it.it_value.tv_usec = 20000;
	(void)OK(setitimer(ITIMER_REAL, &it, NULL));
	EQ(recv(0, b, sizeof(b), 0), 4);
	EQ(alarms_heard, 1);
	/* and not; again and again, as one may come too early */
	sa = (struct sigaction){.sa_handler = on_pipe};
	(void)OK(sigaction(SIGALRM, &sa, NULL));
	it.it_interval = it.it_value;
	(void)OK(setitimer(ITIMER_REAL, &it, NULL));
	FAILS(recv(0, b, sizeof(b), 0), EINTR);
	(void)OK(setitimer(ITIMER_REAL, &(struct itimerval){0}, NULL));
	pipes_heard = 0;
	EQ(send(0, big, sizeof(big), 0), (ssize_t)sizeof(big));
	(void)OK(shutdown(1, SHUT_WR));
	FAILS(send(0, "x", 1, MSG_NOSIGNAL), EPIPE);
	EQ(pipes_heard, 0);
	FAILS(send(0, "x", 1, 0), EPIPE);
	EQ(pipes_heard, 1);
	EQ(recv(0, b, sizeof(b), 0), 3);
	EQ(recv(0, b, sizeof(b), 0), 0);
	return 0;
}

static int r_std_names(int argc, char **argv)
{
	(void)argc;
	(void)argv;
	names_and_options();
	return 0;
}

static void c_std_names(void)
{
	int s[2];

	(void)OK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s));
	EXITS(spawn_with(std_socket, &s[1], "std_names", NULL), 0);
}

static void c_std_calls(void)
{
	static char big[300000];
	char b[16];
	int s[2];
	pid_t pid;

	(void)OK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s));
	pid = spawn_with(std_socket, &s[1], "std_calls", NULL);
	(void)close(s[1]);
	EQ(read_up_to(s[0], b, 5), 5);
	write_all(s[0], "reply", 5);
	EQ(read_up_to(s[0], b, 6), 6);
	EQ(memcmp(b, "onetwo", 6), 0);
	write_all(s[0], "unodue", 6);
	EQ(read_up_to(s[0], b, 4), 4);
	write_all(s[0], "done", 4);
	EQ(read_up_to(s[0], big, sizeof(big)), (ssize_t)sizeof(big));
	EQ(read(s[0], b, 1), 0);
	write_all(s[0], "end", 3);
	(void)OK(shutdown(s[0], SHUT_WR));
	EXITS(pid, 0);
}

/* As a shell, and its commands, have it from a program that waits until they execute (uv_spawn, subprocess). */
static void c_std_shell(void)
{
	char b[32] = "";
	int s[2];

	(void)OK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s));
	if (OK(fork()) == 0) {
		std_socket(&s[1]);
		(void)execl("/bin/sh", "sh", "-c", "/bin/cat | /bin/tr a-z A-Z; /bin/echo end",
			    NULL);
		_exit(1);
	}
	write_all(s[0], "some text\n", 10);
	(void)OK(shutdown(s[0], SHUT_WR));
	EQ(read_up_to(s[0], b, 14), 14);
	CHECK(strcmp(b, "SOME TEXT\nend\n") == 0, "'%s'", b);
	(void)OK(wait(NULL));
}

static int r_accepts(int argc, char **argv)
{
	int fd = (int)OK(accept4(7, NULL, NULL, SOCK_CLOEXEC));

	(void)argc;
	(void)argv;
	write_all(fd, "hello", 5);
	return 0;
}

static void c_listener(void)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
	socklen_t n = sizeof(a);
	int l = (int)OK(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)), c;
	char b[8];
	pid_t pid;

	(void)OK(bind(l, (struct sockaddr *)&a, sizeof(a)));
	(void)OK(listen(l, 5));
	(void)OK(getsockname(l, (struct sockaddr *)&a, &n));
	pid = with_fd(l, "accepts");
	c = (int)OK(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
	(void)OK(connect(c, (struct sockaddr *)&a, sizeof(a)));
	EQ(read_up_to(c, b, sizeof(b)), 5);
	EXITS(pid, 0);
}

static int r_gets_fd(int argc, char **argv)
{
	char byte, control[CMSG_SPACE(sizeof(int))], b[8];
	struct iovec io = {&byte, 1};
	struct msghdr m = {.msg_iov = &io,
			   .msg_iovlen = 1,
			   .msg_control = control,
			   .msg_controllen = sizeof(control)};
	struct cmsghdr *c;
	int fd;

	(void)argc;
	(void)argv;
	EQ(recvmsg(7, &m, 0), 1);
	c = CMSG_FIRSTHDR(&m);
	CHECK(c != NULL && c->cmsg_type == SCM_RIGHTS, "no descriptor");
	memcpy(&fd, CMSG_DATA(c), sizeof(fd));
	EQ(read_up_to(fd, b, sizeof(b)), 4);
	CHECK(memcmp(b, "text", 4) == 0, "'%.4s'", b);
	return 0;
}

static void c_scm_rights(void)
{
	char control[CMSG_SPACE(sizeof(int))] = "", byte = 'x';
	struct iovec io = {&byte, 1};
	struct msghdr m = {.msg_iov = &io,
			   .msg_iovlen = 1,
			   .msg_control = control,
			   .msg_controllen = sizeof(control)};
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);
	int s[2], fd;
	pid_t pid;

	write_file("f", "text");
	fd = (int)OK(open("f", O_RDONLY | O_CLOEXEC));
	(void)OK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s));
	pid = with_fd(s[1], "gets_fd");
	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(c), &fd, sizeof(fd));
	EQ(sendmsg(s[0], &m, 0), 1);
	EXITS(pid, 0);
}

static int r_connects(int argc, char **argv)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX, .sun_path = "sock"};
	int fd = (int)OK(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));

	(void)argc;
	(void)argv;
	(void)OK(connect(fd, (struct sockaddr *)&a, sizeof(a)));
	write_all(fd, "hello", 5);
	return 0;
}

/* A socket that has a name in the file tree. */
static void c_named_socket(void)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX, .sun_path = "sock"};
	int l = (int)OK(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)), c;
	char b[8];
	pid_t pid;

	(void)OK(bind(l, (struct sockaddr *)&a, sizeof(a)));
	(void)OK(listen(l, 1));
	pid = spawn("connects", NULL);
	c = (int)OK(accept4(l, NULL, NULL, SOCK_CLOEXEC));
	EQ(read_up_to(c, b, sizeof(b)), 5);
	EXITS(pid, 0);
}

/* ---- the kernel's small objects ---- */

static int r_eventfd(int argc, char **argv)
{
	uint64_t v = 0;

	(void)argc;
	(void)argv;
	EQ(read(7, &v, 8), 8);
	EQ(v, 5);
	v = 7;
	EQ(write(7, &v, 8), 8);
	return 0;
}

static void c_eventfd(void)
{
	int fd = (int)OK(eventfd(5, EFD_CLOEXEC));
	uint64_t v = 0;

	EXITS(with_fd(fd, "eventfd"), 0);
	EQ(read(fd, &v, 8), 8);
	EQ(v, 7);
}

static int r_timerfd(int argc, char **argv)
{
	struct itimerspec left;
	uint64_t n = 0;

	(void)argc;
	(void)argv;
	(void)OK(timerfd_gettime(7, &left));
	EQ(read(7, &n, 8), 8);
	CHECK(n >= 1, "%lu times", n);
	return 0;
}

static void c_timerfd(void)
{
	const struct itimerspec t = {{0, 1000000}, {0, 1000000}};
	int fd = (int)OK(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC));

	(void)OK(timerfd_settime(fd, 0, &t, NULL));
	EXITS(with_fd(fd, "timerfd"), 0);
}

static int r_signalfd(int argc, char **argv)
{
	struct signalfd_siginfo si;

	(void)argc;
	(void)argv;
	(void)kill(getpid(), SIGUSR1);
	EQ(read(7, &si, sizeof(si)), sizeof(si));
	EQ(si.ssi_signo, SIGUSR1);
	return 0;
}

static void c_signalfd(void)
{
	sigset_t set;

	(void)sigemptyset(&set);
	(void)sigaddset(&set, SIGUSR1);
	(void)sigprocmask(SIG_BLOCK, &set, NULL);
	EXITS(with_fd((int)OK(signalfd(-1, &set, SFD_CLOEXEC)), "signalfd"), 0);
}

static int r_epoll(int argc, char **argv)
{
	struct epoll_event ev;

	(void)argc;
	(void)argv;
	EQ(epoll_wait(7, &ev, 1, -1), 1);
	EQ(ev.data.u32, 4711);
	EQ(ev.events, EPOLLIN);
	return 0;
}

static void c_epoll(void)
{
	struct epoll_event ev = {.events = EPOLLIN, .data = {.u32 = 4711}};
	int e = (int)OK(epoll_create1(EPOLL_CLOEXEC)), p[2];
	pid_t pid;

	make_pipe(p);
	(void)OK(epoll_ctl(e, EPOLL_CTL_ADD, p[0], &ev));
	pid = with_fd(e, "epoll");
	write_all(p[1], "x", 1);
	EXITS(pid, 0);
}

static int r_inotify(int argc, char **argv)
{
	char buf[4096] __attribute__((aligned(8)));
	const struct inotify_event *ev = (const struct inotify_event *)buf;

	(void)argc;
	(void)argv;
	CHECK(read(7, buf, sizeof(buf)) > 0, "read: %s", strerror(errno));
	CHECK(strcmp(ev->name, "made") == 0, "'%s'", ev->name);
	return 0;
}

static void c_inotify(void)
{
	int fd = (int)OK(inotify_init1(IN_CLOEXEC));
	pid_t pid;

	(void)OK(mkdir("d", 0755));
	(void)OK(inotify_add_watch(fd, "d", IN_CREATE));
	pid = with_fd(fd, "inotify");
	write_file("d/made", "");
	EXITS(pid, 0);
}

static int r_pidfd(int argc, char **argv)
{
	struct pollfd p = {.fd = 7, .events = POLLIN};

	(void)argc;
	(void)argv;
	(void)OK(syscall(SYS_pidfd_send_signal, 7, SIGKILL, NULL, 0));
	EQ(poll(&p, 1, -1), 1);
	return 0;
}

static void c_pidfd(void)
{
	struct chat c = chat_with(NULL, NULL, "hold", NULL);
	int fd;

	expect_line(&c, "ready");
	fd = (int)OK(syscall(SYS_pidfd_open, c.pid, 0));
	EXITS(with_fd(fd, "pidfd"), 0);
	DIES(c.pid, SIGKILL);
	leave(&c);
}

/* A program that is in no file. */
static void c_memfd_program(void)
{
	char *argv[] = {(char *)"m", (char *)"--role", (char *)"exit", (char *)"9", NULL};
	int fd = (int)OK(memfd_create("program", MFD_CLOEXEC)), in;
	static char buf[65536];
	ssize_t n;
	pid_t pid;

	in = (int)OK(open(self, O_RDONLY | O_CLOEXEC));
	while ((n = read(in, buf, sizeof(buf))) > 0)
		write_all(fd, buf, (size_t)n);
	pid = fork();
	if (pid == 0) {
		(void)fexecve(fd, argv, environ);
		_exit(99);
	}
	EXITS(mind(pid), 9);
}

/* Memory that is shared by a file in the tree. */
static int r_shared(int argc, char **argv)
{
	(void)argc;
	(void)argv;
	CHECK(strcmp(read_file("f"), "before") == 0, "'%s'", read_file("f"));
	write_file("f", "after");
	return 0;
}

static void c_file_seen(void)
{
	write_file("f", "before");
	EXITS(spawn("shared", NULL), 0);
	CHECK(strcmp(read_file("f"), "after") == 0, "'%s'", read_file("f"));
}

const struct sub subs[] = {{"null", c_null},
			   {"zero", c_zero},
			   {"full", c_full},
			   {"random", c_random},
			   {"ptmx", c_ptmx},
			   {"socketpair", c_socketpair},
			   {"inetd", c_inetd},
			   {"std_names", c_std_names},
			   {"std_calls", c_std_calls},
			   {"std_shell", c_std_shell},
			   {"listener", c_listener},
			   {"scm_rights", c_scm_rights},
			   {"named_socket", c_named_socket},
			   {"eventfd", c_eventfd},
			   {"timerfd", c_timerfd},
			   {"signalfd", c_signalfd},
			   {"epoll", c_epoll},
			   {"inotify", c_inotify},
			   {"pidfd", c_pidfd},
			   {"memfd_program", c_memfd_program},
			   {"file_seen", c_file_seen},
			   {NULL, NULL}};
const struct role roles[] = {{"null", r_null},
			     {"zero", r_zero},
			     {"full", r_full},
			     {"random", r_random},
			     {"ptmx", r_ptmx},
			     {"socket", r_socket},
			     {"std_socket", r_std_socket},
			     {"std_names", r_std_names},
			     {"std_calls", r_std_calls},
			     {"accepts", r_accepts},
			     {"gets_fd", r_gets_fd},
			     {"connects", r_connects},
			     {"eventfd", r_eventfd},
			     {"timerfd", r_timerfd},
			     {"signalfd", r_signalfd},
			     {"epoll", r_epoll},
			     {"inotify", r_inotify},
			     {"pidfd", r_pidfd},
			     {"shared", r_shared},
			     {NULL, NULL}};
