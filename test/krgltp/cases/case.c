/* case.c - case.h's functions, and main() of each program of cases. */
#include "case.h"
#include <stdarg.h>

char self[4096];
char *sub_arg = (char *)"";

static pid_t kids[512];
static pid_t owner; /* who made them: a child does not end its siblings */

pid_t mind(pid_t pid)
{
	for (unsigned i = 0; pid > 0 && i < NELEM(kids); i++)
		if (kids[i] == 0) {
			kids[i] = pid;
			break;
		}
	return pid;
}

static void end_kids(void)
{
	if (getpid() != owner)
		return;
	for (unsigned i = 0; i < NELEM(kids); i++)
		if (kids[i] > 0) {
			(void)kill(kids[i], SIGKILL);
			(void)waitpid(kids[i], NULL, 0);
		}
}

static void say(const char *word, const char *where, const char *fmt, va_list ap)
{
	char text[1024], line[1200];

	(void)vsnprintf(text, sizeof(text), fmt, ap);
	(void)snprintf(line, sizeof(line), "%s: %s%s\n", word, where, text);
	(void)!write(2, line, strlen(line));
}

void fail_at(const char *file, int line, const char *fmt, ...)
{
	const char *base = strrchr(file, '/');
	char where[128];
	va_list ap;

	(void)snprintf(where, sizeof(where), "%s:%d: ", base != NULL ? base + 1 : file, line);
	va_start(ap, fmt);
	say("fail", where, fmt, ap);
	va_end(ap);
	end_kids();
	_exit(1);
}

void skip(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	say("skip", "", fmt, ap);
	va_end(ap);
	end_kids();
	_exit(77);
}

/* ---- children ---- */

#define ARGS_MAX 32
static void collect(char **argv, const char *role, va_list ap)
{
	unsigned n = 0;

	argv[n++] = self;
	argv[n++] = (char *)"--role";
	argv[n++] = (char *)(uintptr_t)role;
	while (n < ARGS_MAX - 1 && (argv[n] = va_arg(ap, char *)) != NULL)
		n++;
	argv[n] = NULL;
}

static pid_t start(void (*prepare)(void *arg), void *arg, const char *path, char *const *argv)
{
	pid_t pid = fork();

	CHECK(pid >= 0, "fork: %s", strerror(errno));
	if (pid > 0)
		return mind(pid);
	if (prepare != NULL)
		prepare(arg);
	(void)execve(path, argv, environ);
	FAIL("execve of %s: %s", path, strerror(errno));
}

pid_t spawn(const char *role, ...)
{
	char *argv[ARGS_MAX];
	va_list ap;

	va_start(ap, role);
	collect(argv, role, ap);
	va_end(ap);
	return start(NULL, NULL, self, argv);
}

pid_t spawn_with(void (*prepare)(void *arg), void *arg, const char *role, ...)
{
	char *argv[ARGS_MAX];
	va_list ap;

	va_start(ap, role);
	collect(argv, role, ap);
	va_end(ap);
	return start(prepare, arg, self, argv);
}

pid_t spawn_argv(const char *path, char *const argv[])
{
	return start(NULL, NULL, path, argv);
}

pid_t spawn_sh(const char *text)
{
	char *argv[] = {(char *)"sh", (char *)"-c", (char *)(uintptr_t)text, NULL};

	return start(NULL, NULL, "/bin/sh", argv);
}

int become(const char *role, ...)
{
	char *argv[ARGS_MAX];
	va_list ap;

	va_start(ap, role);
	collect(argv, role, ap);
	va_end(ap);
	return execve(self, argv, environ);
}

int status_of(pid_t pid)
{
	int status;
	pid_t got;

	while ((got = waitpid(pid, &status, 0)) < 0 && errno == EINTR)
		;
	CHECK(got == pid, "waitpid(%d): %s", pid, got < 0 ? strerror(errno) : "another one");
	for (unsigned i = 0; i < NELEM(kids); i++)
		if (kids[i] == pid)
			kids[i] = 0;
	return status;
}

/* ---- talking ---- */

struct chat_start {
	void (*prepare)(void *arg);
	void *arg;
	int in, out;
};

static void chat_prepare(void *arg)
{
	struct chat_start *s = arg;

	(void)OK(dup2(s->in, 0));
	(void)OK(dup2(s->out, 1));
	if (s->prepare != NULL)
		s->prepare(s->arg);
}

struct chat chat_with(void (*prepare)(void *arg), void *arg, const char *role, ...)
{
	struct chat_start s = {.prepare = prepare, .arg = arg};
	char *argv[ARGS_MAX];
	struct chat c;
	int in[2], out[2];
	va_list ap;

	va_start(ap, role);
	collect(argv, role, ap);
	va_end(ap);
	make_pipe(in);
	make_pipe(out);
	s.in = in[0];
	s.out = out[1];
	c = (struct chat){.to = in[1], .from = out[0]};
	c.pid = start(chat_prepare, &s, self, argv);
	(void)close(in[0]);
	(void)close(out[1]);
	return c;
}

static const char *line_from(int fd)
{
	static char line[65536];
	size_t n = 0;

	while (n < sizeof(line) - 1) {
		ssize_t r = read(fd, line + n, 1);

		if (r < 0 && errno == EINTR)
			continue;
		CHECK(r >= 0, "read: %s", strerror(errno));
		if (r == 0 || line[n] == '\n')
			break;
		n++;
	}
	line[n] = '\0';
	return line;
}

void tell(const struct chat *c, const char *line)
{
	write_all(c->to, line, strlen(line));
	write_all(c->to, "\n", 1);
}

const char *hear(const struct chat *c)
{
	return line_from(c->from);
}

void expect_line(const struct chat *c, const char *wanted)
{
	const char *got = hear(c);

	CHECK(strcmp(got, wanted) == 0, "it says '%s', not '%s'", got, wanted);
}

void leave(struct chat *c)
{
	(void)close(c->to);
	(void)close(c->from);
}

void answer(const char *fmt, ...)
{
	char line[65536];
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(line, sizeof(line) - 1, fmt, ap);
	va_end(ap);
	line[n] = '\n';
	write_all(1, line, (size_t)n + 1);
}

const char *asked(void)
{
	return line_from(0);
}

/* ---- files ---- */

void write_all(int fd, const void *p, size_t n)
{
	const char *at = p;

	while (n > 0) {
		ssize_t w = write(fd, at, n);

		if (w < 0 && errno == EINTR)
			continue;
		CHECK(w > 0, "write: %s", w < 0 ? strerror(errno) : "nothing written");
		at += w;
		n -= (size_t)w;
	}
}

size_t read_up_to(int fd, void *p, size_t n)
{
	size_t got = 0;

	while (got < n) {
		ssize_t r = read(fd, (char *)p + got, n - got);

		if (r < 0 && errno == EINTR)
			continue;
		CHECK(r >= 0, "read: %s", strerror(errno));
		if (r == 0)
			break;
		got += (size_t)r;
	}
	return got;
}

void write_file(const char *path, const char *text)
{
	int fd = (int)OK(open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666));

	write_all(fd, text, strlen(text));
	(void)close(fd);
}

const char *read_file(const char *path)
{
	static char text[65537];
	int fd = (int)OK(open(path, O_RDONLY | O_CLOEXEC));

	text[read_up_to(fd, text, sizeof(text) - 1)] = '\0';
	(void)close(fd);
	return text;
}

void make_pipe(int p[2])
{
	(void)OK(pipe2(p, O_CLOEXEC));
}

void script(const char *path, const char *text)
{
	write_file(path, text);
	(void)OK(chmod(path, 0755));
}

const char *here(const char *name)
{
	static char path[8][4352];
	static unsigned next;
	char *p = path[next++ % NELEM(path)], cwd[4096];

	CHECK(getcwd(cwd, sizeof(cwd)) != NULL, "getcwd: %s", strerror(errno));
	(void)snprintf(p, sizeof(path[0]), "%s/%s", cwd, name);
	return p;
}

void need_root(void)
{
	if (geteuid() != 0)
		skip("needs root");
}

uid_t own_uid(void)
{
	const char *n = getenv("KRGLTP_INSTANCE");

	return 20000 + (n != NULL ? (uid_t)atoi(n) : 0);
}

pid_t reaper(void)
{
	const char *pid = getenv("KRGLTP_REAPER");

	return pid != NULL ? (pid_t)atoi(pid) : 1;
}

/* ---- roles that all have ---- */

static int r_exit(int argc, char **argv)
{
	return argc > 0 ? atoi(argv[0]) : 0;
}

/* ready, until standard input ends */
static int r_hold(int argc, char **argv)
{
	(void)argc;
	(void)argv;
	answer("ready");
	while (asked()[0] != '\0')
		;
	return 0;
}

static int r_cat(int argc, char **argv)
{
	static char buf[65536];
	ssize_t n;

	(void)argc;
	(void)argv;
	while ((n = read(0, buf, sizeof(buf))) > 0)
		write_all(1, buf, (size_t)n);
	return n == 0 ? 0 : 1;
}

static int r_die(int argc, char **argv)
{
	const struct rlimit none = {0, 0};
	int sig = argc > 0 ? atoi(argv[0]) : 0;
	sigset_t all;

	(void)setrlimit(RLIMIT_CORE, &none);
	(void)signal(sig, SIG_DFL);
	(void)sigfillset(&all);
	(void)sigprocmask(SIG_UNBLOCK, &all, NULL);
	(void)kill(getpid(), sig);
	return 99;
}

static const struct role common[] = {
	{"exit", r_exit}, {"hold", r_hold}, {"cat", r_cat}, {"die", r_die}, {NULL, NULL}};

static const struct role *role_named(const struct role *r, const char *name)
{
	while (r->name != NULL && strcmp(r->name, name) != 0)
		r++;
	return r->name != NULL ? r : NULL;
}

int main(int argc, char **argv)
{
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);

	owner = getpid();
	CHECK(n > 0, "/proc/self/exe: %s", strerror(errno));
	self[n] = '\0';
	if (argc > 2 && strcmp(argv[1], "--role") == 0) {
		const struct role *r = role_named(roles, argv[2]);

		if (r == NULL)
			r = role_named(common, argv[2]);
		CHECK(r != NULL, "no role '%s'", argv[2]);
		return r->run(argc - 3, argv + 3);
	}
	sub_arg = argc > 2 ? argv[2] : sub_arg;
	for (const struct sub *s = subs; argc > 1 && s->name != NULL; s++)
		if (strcmp(s->name, argv[1]) == 0) {
			s->run();
			return 0;
		}
	FAIL("no case '%s'", argc > 1 ? argv[1] : "");
}
