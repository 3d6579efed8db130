/* file.c - files that processes share, wherever they are: offsets, locks, modes, what is deleted. */
#include "case.h"
#include <dirent.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/sendfile.h>

static char *number(long n)
{
	static char text[16][24];
	static unsigned next;
	char *t = text[next++ % NELEM(text)];

	(void)snprintf(t, sizeof(text[0]), "%ld", n);
	return t;
}

struct give {
	int fd, as;
};

static void give_prepare(void *arg)
{
	const struct give *g = arg;

	(void)OK(dup2(g->fd, g->as));
}

/* A child that has fd as its 7. */
static struct chat with_fd(int fd, const char *role, const char *arg)
{
	struct give g = {fd, 7};

	return chat_with(give_prepare, &g, role, arg, NULL);
}

static int open_data(int flags)
{
	write_file("data", "0123456789abcdefghijklmnopqrstuvwxyz");
	return (int)OK(open("data", flags | O_CLOEXEC, 0644));
}

/* Orders, a line each, for descriptor 7, or that of its argument; it answers with a line each. */
static int r_does(int argc, char **argv)
{
	int fd = argc > 0 ? atoi(argv[0]) : 7;
	char order[256], buf[4096];
	long n;

	while (snprintf(order, sizeof(order), "%s", asked()) > 0) {
		if (sscanf(order, "read %ld", &n) == 1) {
			ssize_t got = read(fd, buf, (size_t)n);

			answer("%.*s", got > 0 ? (int)got : 0, got >= 0 ? buf : strerror(errno));
		} else if (strncmp(order, "write ", 6) == 0) {
			answer("%zd %d", write(fd, order + 6, strlen(order + 6)), errno);
		} else if (sscanf(order, "seek %ld", &n) == 1) {
			answer("%ld", (long)lseek(fd, n, SEEK_SET));
		} else if (strcmp(order, "where") == 0) {
			answer("%ld", (long)lseek(fd, 0, SEEK_CUR));
		} else if (sscanf(order, "truncate %ld", &n) == 1) {
			answer("%d", ftruncate(fd, n));
		} else if (strcmp(order, "size") == 0) {
			struct stat st;

			answer("%ld", fstat(fd, &st) == 0 ? (long)st.st_size : -1L);
		} else if (sscanf(order, "flock %ld", &n) == 1) {
			int r = flock(fd, (int)n);

			answer("%d", r == 0 ? 0 : errno);
		} else if (strcmp(order, "flags") == 0) {
			answer("%o",
			       (unsigned)fcntl(fd, F_GETFL) & (O_ACCMODE | O_APPEND | O_NONBLOCK));
		} else if (sscanf(order, "setfl %lo", (unsigned long *)&n) == 1) {
			answer("%d", fcntl(fd, F_SETFL, (int)n));
		} else {
			answer("what?");
		}
	}
	return 0;
}

static void order(const struct chat *c, const char *what, const char *want)
{
	const char *got;

	tell(c, what);
	got = hear(c);
	CHECK(strcmp(got, want) == 0, "'%s': '%s', not '%s'", what, got, want);
}

/* ---- one offset ---- */

/* The descriptor that a case is about. */
static int its_number(void)
{
	return *sub_arg != '\0' ? atoi(sub_arg) : 7;
}

static void c_read_offset(void)
{
	struct give g = {open_data(O_RDONLY), its_number()};
	struct chat c = chat_with(give_prepare, &g, "does", number(g.as), NULL);
	char buf[4];
	int fd = g.fd;

	order(&c, "read 3", "012");
	EQ(read(fd, buf, 4), 4);
	CHECK(memcmp(buf, "3456", 4) == 0, "'%.4s'", buf);
	order(&c, "read 3", "789");
	order(&c, "where", "10");
	EQ(lseek(fd, 0, SEEK_CUR), 10);
	EQ(read(fd, buf, 2), 2);
	order(&c, "where", "12");
	BYE(&c);
	EQ(lseek(fd, 0, SEEK_CUR), 12);
}

static void c_seek(void)
{
	struct give g = {open_data(O_RDWR), its_number()};
	struct chat c = chat_with(give_prepare, &g, "does", number(g.as), NULL);
	int fd = g.fd;
	char b;

	order(&c, "seek 20", "20");
	EQ(read(fd, &b, 1), 1);
	EQ(b, 'k');
	EQ(lseek(fd, 5, SEEK_SET), 5);
	order(&c, "where", "5");
	order(&c, "read 2", "56");
	BYE(&c);
	EQ(lseek(fd, 0, SEEK_CUR), 7);
}

static void c_write_offset(void)
{
	int fd = (int)OK(open("out", O_RDWR | O_CREAT | O_CLOEXEC, 0644));
	struct chat a = with_fd(fd, "does", NULL), b = with_fd(fd, "does", NULL);

	order(&a, "write one ", "4 0");
	order(&b, "write two ", "4 0");
	write_all(fd, "three ", 6);
	order(&a, "write four", "4 0");
	BYE(&a);
	BYE(&b);
	CHECK(strcmp(read_file("out"), "one two three four") == 0, "'%s'", read_file("out"));
}

static void c_shell_out(void)
{
	EQ(system("(/bin/echo a; /bin/echo b; (/bin/echo c; /bin/echo d)) >out; /bin/echo e >>out"),
	   0);
	CHECK(strcmp(read_file("out"), "a\nb\nc\nd\ne\n") == 0, "'%s'", read_file("out"));
}

static void c_shell_in(void)
{
	EQ(system("seq 1 10 >in; (head -c 4 >/dev/null; read x; read y; echo $x $y >out) <in"), 0);
	CHECK(strcmp(read_file("out"), "3 4\n") == 0, "'%s'", read_file("out"));
}

/* A loop that reads lines, and programs in it that read nothing. */
static void c_shell_loop(void)
{
	EQ(system("seq 1 5 >in; while read x; do /bin/echo $x; done <in >out"), 0);
	CHECK(strcmp(read_file("out"), "1\n2\n3\n4\n5\n") == 0, "'%s'", read_file("out"));
}

static void c_stdin_file(void)
{
	EQ(system("seq 1 1000 >in; [ $(/usr/bin/wc -l <in) = 1000 ] && [ $(sort -rn <in | head -1) "
		  "= 1000 ]"),
	   0);
}

static int r_appends(int argc, char **argv)
{
	char line[32];

	(void)argc;
	for (int i = 0; i < 50; i++) {
		(void)snprintf(line, sizeof(line), "%s%06d\n", argv[0], i);
		EQ(write(7, line, 8), 8);
	}
	return 0;
}

static void c_append(void)
{
	static const char *const names[] = {"a", "b", "c", "d"};
	int n[4] = {0};
	struct chat c[4];
	const char *text;

	write_file("log", "");
	for (int i = 0; i < 4; i++) { /* two share one, the others have their own */
		static int shared = -1;
		int fd = i == 1 ? shared : (int)OK(open("log", O_WRONLY | O_APPEND | O_CLOEXEC));

		shared = fd;
		c[i] = with_fd(fd, "appends", names[i]);
	}
	for (int i = 0; i < 4; i++)
		BYE(&c[i]);
	text = read_file("log");
	EQ(strlen(text), 4 * 50 * 8);
	for (; *text != '\0'; text += 8) {
		int k = text[0] - 'a';

		CHECK(k >= 0 && k < 4, "'%.8s'", text);
		EQ(atoi(text + 1), n[k]);
		n[k]++;
	}
}

static void c_truncate(void)
{
	int fd = open_data(O_RDWR);
	struct chat c = with_fd(fd, "does", NULL);
	struct stat st;

	order(&c, "truncate 4", "0");
	(void)OK(fstat(fd, &st));
	EQ(st.st_size, 4);
	(void)OK(ftruncate(fd, 9));
	order(&c, "size", "9");
	BYE(&c);
}

/* The flags of the open file description are shared, too. */
static void c_flags(void)
{
	int fd = open_data(O_RDWR);
	struct chat c = with_fd(fd, "does", NULL);
	char want[32];

	(void)snprintf(want, sizeof(want), "%o", O_RDWR);
	order(&c, "flags", want);
	(void)OK(fcntl(fd, F_SETFL, O_APPEND));
	(void)snprintf(want, sizeof(want), "%o", O_RDWR | O_APPEND);
	order(&c, "flags", want);
	order(&c, "setfl 0", "0");
	EQ(fcntl(fd, F_GETFL) & O_APPEND, 0);
	BYE(&c);
}

/* ---- modes ---- */

static int r_modes(int argc, char **argv)
{
	char b[4];

	(void)argc;
	(void)asked();
	if (strcmp(argv[0], "r") == 0) {
		FAILS(write(7, "x", 1), EBADF);
		FAILS(ftruncate(7, 0), EINVAL);
		EQ(read(7, b, 1), 1);
	} else {
		FAILS(read(7, b, 1), EBADF);
		EQ(write(7, "x", 1), 1);
	}
	EQ(pread(7, b, 2, 10), strcmp(argv[0], "r") == 0 ? 2 : -1);
	return 0;
}

static void c_modes(void)
{
	struct chat c = with_fd(open_data(O_RDONLY), "modes", "r");

	BYE(&c);
	c = with_fd(open_data(O_WRONLY), "modes", "w");
	BYE(&c);
}

static void drop_root(void *arg)
{
	give_prepare(arg);
	(void)OK(setresuid(own_uid(), own_uid(), own_uid()));
}

/* What could not be opened any more. */
static void c_rights_lost(void)
{
	struct give g = {open_data(O_RDWR), 7};
	struct chat c;

	need_root();
	(void)OK(chmod("data", 0));
	c = chat_with(drop_root, &g, "does", NULL);
	order(&c, "read 4", "0123");
	order(&c, "write X", "1 0");
	BYE(&c);
	EQ(lseek(g.fd, 0, SEEK_CUR), 5);
}

static void c_deleted(void)
{
	int fd = open_data(O_RDWR);
	struct chat c;
	char b;

	(void)OK(unlink("data"));
	c = with_fd(fd, "does", NULL);
	order(&c, "read 2", "01");
	order(&c, "write XY", "2 0");
	order(&c, "size", "36");
	BYE(&c);
	EQ(pread(fd, &b, 1, 3), 1);
	EQ(b, 'Y');
}

static void c_renamed(void)
{
	int fd = open_data(O_RDWR);
	struct chat c;

	(void)OK(rename("data", "other"));
	write_file("data", "another file");
	c = with_fd(fd, "does", NULL);
	order(&c, "read 3", "012");
	BYE(&c);
}

static void c_tmpfile(void)
{
	int fd = open(".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	struct chat c;
	char b[6];

	if (fd < 0)
		skip("no O_TMPFILE: %s", strerror(errno));
	c = with_fd(fd, "does", NULL);
	order(&c, "write hello", "5 0");
	BYE(&c);
	EQ(pread(fd, b, 6, 0), 5);
	CHECK(memcmp(b, "hello", 5) == 0, "'%.5s'", b);
}

static void c_memfd(void)
{
	int fd = (int)OK(memfd_create("krgltp", MFD_CLOEXEC));
	struct chat c;
	char b[6];

	write_all(fd, "abc", 3);
	c = with_fd(fd, "does", NULL);
	order(&c, "write def", "3 0");
	order(&c, "seek 1", "1");
	order(&c, "read 3", "bcd");
	BYE(&c);
	EQ(pread(fd, b, 6, 0), 6);
	CHECK(memcmp(b, "abcdef", 6) == 0, "'%.6s'", b);
}

/* ---- descriptors ---- */

static int r_fds(int argc, char **argv)
{
	(void)asked();
	for (int i = 0; i < argc; i++) {
		int fd = atoi(argv[i]);

		if (fd >= 0) {
			EQ(fcntl(fd, F_GETFD), 0);
		} else {
			FAILS(fcntl(-fd, F_GETFD), EBADF);
		}
	}
	return 0;
}

static void many_fds(void *arg)
{
	int fd = *(int *)arg;

	(void)OK(dup2(fd, 30));
	(void)OK(dup2(fd, 199));
	(void)OK(dup2(fd, 1000));
	(void)OK(dup3(fd, 31, O_CLOEXEC));
	(void)OK(fcntl(199, F_SETFD, FD_CLOEXEC));
}

static void c_cloexec(void)
{
	int fd = open_data(O_RDONLY);
	struct chat c =
		chat_with(many_fds, &fd, "fds", "30", "1000", "-31", "-199", number(-fd), NULL);

	BYE(&c);
}

static void hundreds(void *arg)
{
	for (int i = 0; i < *(int *)arg; i++)
		(void)OK(dup2(1, 20 + i));
}

static int r_count_fds(int argc, char **argv)
{
	int n = 0;

	(void)argc;
	(void)argv;
	for (int i = 3; i < 1024; i++)
		n += fcntl(i, F_GETFD) >= 0;
	answer("%d", n);
	return 0;
}

static void c_many(void)
{
	int few = 150, more = 400;
	struct chat c = chat_with(hundreds, &few, "count_fds", NULL);

	expect_line(&c, "150");
	BYE(&c);
	c = chat_with(hundreds, &more, "count_fds", NULL);
	expect_line(&c, "400");
	BYE(&c);
}

static void close_std(void *arg)
{
	(void)arg;
	(void)close(0);
	(void)close(2);
}

static int r_std(int argc, char **argv)
{
	(void)argc;
	(void)argv;
	if (fcntl(0, F_GETFD) != -1 || fcntl(2, F_GETFD) != -1)
		return 1;
	return open("/dev/null", O_RDONLY) == 0 ? 0 : 2; /* the lowest that is free */
}

static void c_closed_std(void)
{
	EXITS(spawn_with(close_std, NULL, "std", NULL), 0);
}

static void dup_pair(void *arg)
{
	(void)OK(dup2(*(int *)arg, 7));
	(void)OK(dup2(*(int *)arg, 8));
}

static int r_same(int argc, char **argv)
{
	(void)argc;
	(void)argv;
	(void)OK(lseek(7, 11, SEEK_SET));
	EQ(lseek(8, 0, SEEK_CUR), 11);
	(void)OK(fcntl(8, F_SETFL, O_APPEND));
	EQ((fcntl(7, F_GETFL) & O_APPEND) != 0, true);
	return 0;
}

static void c_dup(void)
{
	int fd = open_data(O_RDWR);

	EXITS(spawn_with(dup_pair, &fd, "same", NULL), 0);
	EQ(lseek(fd, 0, SEEK_CUR), 11);
}

static int r_directory(int argc, char **argv)
{
	DIR *d = fdopendir(7);
	unsigned n = 0;
	char cwd[4096];

	(void)argc;
	(void)asked();
	CHECK(d != NULL, "fdopendir: %s", strerror(errno));
	for (struct dirent *e = readdir(d); e != NULL; e = readdir(d))
		n += strncmp(e->d_name, "file", 4) == 0;
	EQ(n, 3);
	(void)OK(openat(7, "file2", O_RDONLY | O_CLOEXEC));
	(void)OK(fchdir(7));
	CHECK(getcwd(cwd, sizeof(cwd)) != NULL && strcmp(cwd, argv[0]) == 0, "in %s", cwd);
	return 0;
}

static void c_directory(void)
{
	struct chat c;

	(void)OK(mkdir("d", 0755));
	write_file("d/file1", "");
	write_file("d/file2", "");
	write_file("d/file3", "");
	c = with_fd((int)OK(open("d", O_RDONLY | O_DIRECTORY | O_CLOEXEC)), "directory", here("d"));
	BYE(&c);
}

static int r_path(int argc, char **argv)
{
	struct stat st;
	char b;

	(void)argc;
	(void)argv;
	(void)asked();
	FAILS(read(7, &b, 1), EBADF);
	(void)OK(fstat(7, &st));
	EQ(st.st_size, 36);
	(void)OK(open("/proc/self/fd/7", O_RDONLY | O_CLOEXEC));
	return 0;
}

static void c_path(void)
{
	struct chat c;

	(void)close(open_data(O_RDONLY));
	c = with_fd((int)OK(open("data", O_PATH | O_CLOEXEC)), "path", NULL);
	BYE(&c);
}

/* ---- what files can do ---- */

static int r_mmap(int argc, char **argv)
{
	char *m = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, 7, 0);

	(void)argc;
	(void)argv;
	(void)asked();
	CHECK(m != MAP_FAILED, "mmap: %s", strerror(errno));
	CHECK(memcmp(m, "0123", 4) == 0, "'%.4s'", m);
	memcpy(m, "MMAP", 4);
	(void)OK(msync(m, 4096, MS_SYNC));
	return 0;
}

static void c_mmap(void)
{
	int fd = open_data(O_RDWR);
	struct chat c = with_fd(fd, "mmap", NULL);
	char b[4];

	BYE(&c);
	EQ(pread(fd, b, 4, 0), 4);
	CHECK(memcmp(b, "MMAP", 4) == 0, "'%.4s'", b);
}

static int r_sendfile(int argc, char **argv)
{
	off_t at = 10;

	(void)argc;
	(void)argv;
	(void)asked();
	EQ(sendfile(1, 7, &at, 5), 5);
	EQ(at, 15);
	EQ(lseek(7, 0, SEEK_CUR), 0);
	EQ(sendfile(1, 7, NULL, 3), 3);
	EQ(lseek(7, 0, SEEK_CUR), 3);
	return 0;
}

static void c_sendfile(void)
{
	struct chat c = with_fd(open_data(O_RDONLY), "sendfile", NULL);
	char b[9] = "";

	tell(&c, "go");
	EQ(read_up_to(c.from, b, 8), 8);
	CHECK(strcmp(b, "abcde012") == 0, "'%s'", b);
	BYE(&c);
}

static int r_stat(int argc, char **argv)
{
	struct stat st, by_name;

	(void)argc;
	(void)asked();
	(void)OK(fstat(7, &st));
	(void)OK(stat(argv[0], &by_name));
	EQ(st.st_ino, by_name.st_ino);
	EQ(st.st_dev, by_name.st_dev);
	EQ(st.st_nlink, 1);
	EQ(st.st_mode, by_name.st_mode);
	EQ(S_ISREG(st.st_mode), true);
	return 0;
}

static void c_stat(void)
{
	struct chat c = with_fd(open_data(O_RDONLY), "stat", here("data"));

	BYE(&c);
}

static int r_proc_fd(int argc, char **argv)
{
	char path[4096];
	ssize_t n = readlink("/proc/self/fd/7", path, sizeof(path) - 1);

	(void)argc;
	(void)asked();
	CHECK(n > 0, "readlink: %s", strerror(errno));
	path[n] = '\0';
	CHECK(strcmp(path, argv[0]) == 0, "it is '%s'", path);
	return 0;
}

static void c_proc_fd(void)
{
	struct chat c = with_fd(open_data(O_RDONLY), "proc_fd", here("data"));

	BYE(&c);
}

static int r_big(int argc, char **argv)
{
	static char buf[300000];

	(void)argc;
	(void)argv;
	(void)asked();
	for (size_t i = 0; i < sizeof(buf); i++)
		buf[i] = (char)(i % 253);
	EQ(write(7, buf, sizeof(buf)), sizeof(buf));
	EQ(lseek(7, 0, SEEK_SET), 0);
	memset(buf, 0, sizeof(buf));
	EQ(read_up_to(7, buf, sizeof(buf)), sizeof(buf));
	for (size_t i = 0; i < sizeof(buf); i++)
		EQ(buf[i], (char)(i % 253));
	return 0;
}

static void c_big(void)
{
	struct chat c =
		with_fd((int)OK(open("big", O_RDWR | O_CREAT | O_CLOEXEC, 0600)), "big", NULL);

	BYE(&c);
}

static void limit_size(void *arg)
{
	const struct rlimit l = {20, 20};

	give_prepare(arg);
	(void)OK(setrlimit(RLIMIT_FSIZE, &l));
}

static int r_fsize(int argc, char **argv)
{
	static char buf[100];

	(void)asked();
	if (argc > 0 && strcmp(argv[0], "ignore") == 0)
		(void)signal(SIGXFSZ, SIG_IGN);
	EQ(write(7, buf, 100), 20);
	FAILS(write(7, buf, 1), EFBIG);
	return 0;
}

static void c_fsize(void)
{
	const struct rlimit none = {0, 0};
	struct give g = {(int)OK(open("f", O_WRONLY | O_CREAT | O_CLOEXEC, 0600)), 7};
	struct chat c = chat_with(limit_size, &g, "fsize", "ignore", NULL);

	BYE(&c);
	(void)OK(ftruncate(g.fd, 0));
	(void)OK(lseek(g.fd, 0, SEEK_SET));
	(void)OK(setrlimit(RLIMIT_CORE, &none));
	c = chat_with(limit_size, &g, "fsize", NULL);
	leave(&c);
	DIES(c.pid, SIGXFSZ);
}

/* ---- locks ---- */

static void c_flock(void)
{
	int fd = open_data(O_RDWR), other = (int)OK(open("data", O_RDWR | O_CLOEXEC));
	struct chat mine, his;

	(void)OK(flock(fd, LOCK_EX));
	mine = with_fd(fd, "does", NULL);
	his = with_fd(other, "does", NULL);
	order(&his, "flock 6", number(EWOULDBLOCK)); /* LOCK_EX | LOCK_NB */
	order(&mine, "flock 6", "0");		     /* the same lock */
	FAILS(flock(other, LOCK_SH | LOCK_NB), EWOULDBLOCK);
	order(&mine, "flock 8", "0"); /* LOCK_UN, for all who share it */
	order(&his, "flock 6", "0");
	FAILS(flock(fd, LOCK_EX | LOCK_NB), EWOULDBLOCK);
	BYE(&mine);
	BYE(&his);
}

static void lock_before(void *arg)
{
	give_prepare(arg);
	(void)OK(flock(7, LOCK_EX));
}

/* Taken before the exec, held after it, given back at its end. */
static void c_flock_exec(void)
{
	struct give g = {open_data(O_RDWR), 7};
	int other = (int)OK(open("data", O_RDWR | O_CLOEXEC));
	struct chat c = chat_with(lock_before, &g, "hold", NULL);

	expect_line(&c, "ready");
	(void)close(g.fd);
	FAILS(flock(other, LOCK_EX | LOCK_NB), EWOULDBLOCK);
	BYE(&c);
	(void)OK(flock(other, LOCK_EX | LOCK_NB));
}

static void posix_lock_before(void *arg)
{
	struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 3, .l_len = 4};

	give_prepare(arg);
	/* a process's locks on a file end with any descriptor of it that it closes */
	(void)close_range(3, 6, 0);
	(void)close_range(8, ~0u, 0);
	(void)OK(fcntl(7, F_SETLK, &l));
}

static int r_posix_lock(int argc, char **argv)
{
	struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET};

	(void)argc;
	answer("ready");
	(void)asked();
	/* one's own locks are in nobody's way */
	(void)OK(fcntl(7, F_GETLK, &l));
	EQ(l.l_type, F_UNLCK);
	(void)argv;
	return 0;
}

static void c_posix_lock_exec(void)
{
	struct give g = {open_data(O_RDWR), 7};
	int other = (int)OK(open("data", O_RDWR | O_CLOEXEC));
	struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
	struct chat c = chat_with(posix_lock_before, &g, "posix_lock", NULL);

	expect_line(&c, "ready");
	(void)OK(fcntl(other, F_GETLK, &l));
	EQ(l.l_type, F_WRLCK);
	EQ(l.l_start, 3);
	EQ(l.l_len, 4);
	EQ(l.l_pid, c.pid);
	l = (struct flock){.l_type = F_RDLCK, .l_whence = SEEK_SET};
	FAILS(fcntl(other, F_SETLK, &l), EAGAIN);
	BYE(&c);
	(void)OK(fcntl(other, F_SETLK, &l));
}

static int r_posix_conflict(int argc, char **argv)
{
	struct flock l = {.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 1};

	(void)argc;
	(void)asked();
	FAILS(fcntl(7, F_SETLK, &l), EAGAIN); /* the parent has it, and did not give it to us */
	l.l_type = F_WRLCK;
	(void)OK(fcntl(7, F_GETLK, &l));
	EQ(l.l_type, F_WRLCK);
	EQ(l.l_pid, atoi(argv[0]));
	l = (struct flock){.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 20, .l_len = 1};
	(void)OK(fcntl(7, F_SETLK, &l));
	return 0;
}

static void c_posix_lock_child(void)
{
	struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 10};
	int fd = open_data(O_RDWR);
	struct chat c;

	(void)OK(fcntl(fd, F_SETLK, &l));
	c = with_fd(fd, "posix_conflict", number(getpid()));
	BYE(&c);
	l = (struct flock){.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 20, .l_len = 1};
	(void)OK(fcntl(fd, F_GETLK, &l));
	EQ(l.l_type, F_UNLCK); /* its lock ended with it */
}

static int r_ofd_lock(int argc, char **argv)
{
	struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
	int other = (int)OK(open("data", O_RDWR | O_CLOEXEC));

	(void)argc;
	(void)argv;
	(void)asked();
	(void)OK(fcntl(7, F_OFD_SETLK, &l)); /* ours, by the description that we share */
	FAILS(fcntl(other, F_OFD_SETLK, &l), EAGAIN);
	return 0;
}

static void c_ofd_lock(void)
{
	struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
	int fd = open_data(O_RDWR);
	struct chat c;

	(void)OK(fcntl(fd, F_OFD_SETLK, &l));
	c = with_fd(fd, "ofd_lock", NULL);
	BYE(&c);
}

/* Opened and locked by programs that are anywhere: one after the other in the middle. */
static int r_critical(int argc, char **argv)
{
	int fd = (int)OK(open("counter", O_RDWR | O_CLOEXEC));

	(void)argc;
	for (int i = 0; i < 20; i++) {
		char text[16] = "";
		struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET};

		if (strcmp(argv[0], "flock") == 0)
			(void)OK(flock(fd, LOCK_EX));
		else
			(void)OK(fcntl(fd, F_SETLKW, &l));
		EQ(pread(fd, text, sizeof(text) - 1, 0), 6);
		(void)snprintf(text, sizeof(text), "%06d", atoi(text) + 1);
		EQ(pwrite(fd, text, 6, 0), 6);
		l.l_type = F_UNLCK;
		if (strcmp(argv[0], "flock") == 0)
			(void)OK(flock(fd, LOCK_UN));
		else
			(void)OK(fcntl(fd, F_SETLK, &l));
	}
	return 0;
}

static void c_critical(void)
{
	pid_t pids[4];

	write_file("counter", "000000");
	for (int i = 0; i < 4; i++)
		pids[i] = spawn("critical", sub_arg, NULL);
	for (int i = 0; i < 4; i++)
		EXITS(pids[i], 0);
	CHECK(strcmp(read_file("counter"), "000080") == 0, "%s", read_file("counter"));
}

static void c_creates(void)
{
	struct stat st;

	(void)umask(027);
	EQ(system("/usr/bin/touch made; /bin/mkdir madedir"), 0);
	(void)OK(stat("made", &st));
	EQ(st.st_mode & 07777, 0640);
	EQ(st.st_uid, geteuid());
	(void)OK(stat("madedir", &st));
	EQ(st.st_mode & 07777, 0750);
}

const struct sub subs[] = {{"read_offset", c_read_offset},
			   {"seek", c_seek},
			   {"write_offset", c_write_offset},
			   {"shell_out", c_shell_out},
			   {"shell_in", c_shell_in},
			   {"shell_loop", c_shell_loop},
			   {"stdin_file", c_stdin_file},
			   {"append", c_append},
			   {"truncate", c_truncate},
			   {"flags", c_flags},
			   {"modes", c_modes},
			   {"rights_lost", c_rights_lost},
			   {"deleted", c_deleted},
			   {"renamed", c_renamed},
			   {"tmpfile", c_tmpfile},
			   {"memfd", c_memfd},
			   {"cloexec", c_cloexec},
			   {"many", c_many},
			   {"closed_std", c_closed_std},
			   {"dup", c_dup},
			   {"directory", c_directory},
			   {"path", c_path},
			   {"mmap", c_mmap},
			   {"sendfile", c_sendfile},
			   {"stat", c_stat},
			   {"proc_fd", c_proc_fd},
			   {"big", c_big},
			   {"fsize", c_fsize},
			   {"flock", c_flock},
			   {"flock_exec", c_flock_exec},
			   {"posix_lock_exec", c_posix_lock_exec},
			   {"posix_lock_child", c_posix_lock_child},
			   {"ofd_lock", c_ofd_lock},
			   {"critical", c_critical},
			   {"creates", c_creates},
			   {NULL, NULL}};
const struct role roles[] = {{"does", r_does},
			     {"appends", r_appends},
			     {"modes", r_modes},
			     {"fds", r_fds},
			     {"count_fds", r_count_fds},
			     {"std", r_std},
			     {"same", r_same},
			     {"directory", r_directory},
			     {"path", r_path},
			     {"mmap", r_mmap},
			     {"sendfile", r_sendfile},
			     {"stat", r_stat},
			     {"proc_fd", r_proc_fd},
			     {"big", r_big},
			     {"fsize", r_fsize},
			     {"posix_lock", r_posix_lock},
			     {"posix_conflict", r_posix_conflict},
			     {"ofd_lock", r_ofd_lock},
			     {"critical", r_critical},
			     {NULL, NULL}};
