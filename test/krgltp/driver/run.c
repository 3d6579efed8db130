/* run.c - N instances of a case at once, by a runner: a process that no descendant escapes.
 *
 * Outside Kerrighed the runner is pid 1 of a pid, mount and IPC namespace (without root: a subreaper),
 * so that what a case leaves is found, and ends with the runner.  For a case in a lab its children are
 * the `krg run`s; what runs in the worlds is probe.c's to find. */
#include "krgltp.h"
#include "clock.h"
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#define LEFT_MS 2000 /* how long a process that nobody waits for may take to end */

/* ---- the command ---- */

struct argv {
	char **v;
	unsigned n;
};

static void push(struct argv *a, const char *text)
{
	a->v = krg_xrealloc(a->v, (a->n + 2) * sizeof(*a->v));
	a->v[a->n++] = krg_xstrdup(text);
	a->v[a->n] = NULL;
}

/* The words of a command; a program of the cases' folder by its full path. */
static void push_words(struct argv *a, const char *command, const char *cases)
{
	KRG_AUTO_FREE char *copy = krg_xstrdup(command);
	char *save = NULL;
	bool first = true;

	for (char *w = strtok_r(copy, " \t", &save); w != NULL; w = strtok_r(NULL, " \t", &save)) {
		KRG_AUTO_FREE char *path = krg_xasprintf("%s/%s", cases, w);

		push(a, first && access(path, X_OK) == 0 ? path : w);
		first = false;
	}
}

char **run_argv(const struct run_spec *spec, unsigned i)
{
	struct argv a = {NULL, 0};

	if (spec->lab != NULL) {
		push(&a, program("krg"));
		push(&a, "run");
		push(&a, "--lab");
		push(&a, spec->lab);
		/* every second one starts at home: its children go elsewhere, not itself */
		if (spec->mode == MODE_ELSEWHERE && i % 2 == 1) {
			push(&a, "-n");
			push(&a, "0");
		}
		push(&a, "--");
	}
	if (spec->shell) {
		push(&a, "/bin/sh");
		push(&a, "-c");
		push(&a, spec->kase->command);
	} else {
		push_words(&a, spec->kase->command, spec->opt->cases);
	}
	return a.v;
}

void run_argv_free(char **argv)
{
	for (char **p = argv; *p != NULL; p++)
		free(*p);
	free(argv);
}

/* ---- in the runner ---- */

struct shared {
	struct run run;
	int error;
};

static void environment(const struct run_spec *spec, unsigned i, const char *dir)
{
	char text[32];

	(void)snprintf(text, sizeof(text), "%u", i);
	(void)setenv("KRGLTP_INSTANCE", text, 1);
	(void)setenv("KRGLTP_MODE", mode_name(spec->mode), 1);
	(void)setenv("KRGLTP_DIR", dir, 1);
	(void)setenv("TMPDIR", dir, 1);
	(void)snprintf(text, sizeof(text), "%d", spec->lab != NULL ? 1 : getppid());
	(void)setenv("KRGLTP_REAPER", text, 1);
	if (spec->opt->ltp != NULL) {
		KRG_AUTO_FREE char *path =
			krg_xasprintf("%s/testcases/bin:%s", spec->opt->ltp,
				      getenv("PATH") != NULL ? getenv("PATH") : "/usr/bin:/bin");

		(void)setenv("LTPROOT", spec->opt->ltp, 1);
		(void)setenv("PATH", path, 1);
	}
}

_Noreturn static void become(const struct run_spec *spec, unsigned i)
{
	KRG_AUTO_FREE char *dir = krg_xasprintf("%s/%u", spec->dir, i);
	KRG_AUTO_FREE char *out = krg_xasprintf("%s.out", dir);
	char **argv = run_argv(spec, i);
	int in = open("/dev/null", O_RDONLY | O_CLOEXEC);
	int fd = open(out, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
	sigset_t none;

	environment(spec, i, dir);
	(void)setpgid(0, 0);
	if (chdir(dir) < 0 || in < 0 || fd < 0 || dup2(in, 0) < 0 || dup2(fd, 1) < 0 ||
	    dup2(fd, 2) < 0)
		_exit(126);
	(void)close_range(3, ~0u, CLOSE_RANGE_CLOEXEC);
	(void)signal(SIGINT, SIG_DFL);
	(void)signal(SIGTERM, SIG_DFL);
	(void)signal(SIGPIPE, SIG_DFL);
	(void)sigemptyset(&none);
	(void)sigprocmask(SIG_SETMASK, &none, NULL);
	(void)execvp(argv[0], argv);
	(void)dprintf(2, "fail: %s: %s\n", argv[0], strerror(errno));
	_exit(127);
}

static enum how how_of(const struct run_spec *spec, int status)
{
	if (spec->opt->ltp != NULL)
		return ltp_how(status);
	if (WIFEXITED(status) && WEXITSTATUS(status) == EXIT_SKIP)
		return HOW_SKIP;
	return status == 0 ? HOW_PASS : HOW_FAIL;
}

static void wait_child(const sigset_t *chld, u64 deadline)
{
	u64 now = krg_clock_now_ns();
	u64 left = deadline > now ? deadline - now : 0;
	struct timespec ts = {(time_t)(left / 1000000000), (long)(left % 1000000000)};

	(void)sigtimedwait(chld, NULL, &ts);
}

/* Our children: the numbers, as text. */
static void children(char *text, size_t max)
{
	KRG_AUTO_FREE char *path =
		krg_xasprintf("/proc/self/task/%ld/children", syscall(SYS_gettid));

	if (krg_read_file(path, text, max) < 0)
		text[0] = '\0';
}

/* "pid name, …" */
static void name_children(char *text, size_t max)
{
	char pids[4096], *save = NULL;
	size_t used = 0;

	text[0] = '\0';
	children(pids, sizeof(pids));
	for (char *w = strtok_r(pids, " \n", &save); w != NULL; w = strtok_r(NULL, " \n", &save)) {
		KRG_AUTO_FREE char *comm = krg_xasprintf("/proc/%s/comm", w);
		char name[32];

		if (krg_read_file(comm, name, sizeof(name)) < 0)
			continue;
		name[strcspn(name, "\n")] = '\0';
		krg_one_line(name);
		used += (size_t)snprintf(text + used, max - used, "%s%s %s", used > 0 ? ", " : "",
					 w, name);
		if (used >= max)
			return;
	}
}

/* System V objects in our IPC namespace: each line but the first of a file. */
static unsigned count_ipc(void)
{
	static const char *const kinds[] = {"shm", "msg", "sem"};
	unsigned n = 0;

	for (unsigned i = 0; i < KRG_NELEM(kinds); i++) {
		KRG_AUTO_FREE char *path = krg_xasprintf("/proc/sysvipc/%s", kinds[i]);
		KRG_AUTO_FILE FILE *f = fopen(path, "re");
		int c, lines = 0;

		while (f != NULL && (c = getc(f)) != EOF)
			lines += c == '\n';
		n += lines > 1 ? (unsigned)lines - 1 : 0;
	}
	return n;
}

static void look_for_left(struct run *run, const sigset_t *chld, bool isolated)
{
	u64 end = krg_clock_now_ns() + LEFT_MS * 1000000ull;
	unsigned ipc = isolated ? count_ipc() : 0;
	char names[900];
	pid_t pid;

	/* orphans that are about to end come to us */
	while ((pid = waitpid(-1, NULL, WNOHANG)) >= 0 && krg_clock_now_ns() < end)
		if (pid == 0)
			wait_child(chld, end);
	if (pid >= 0) {
		name_children(names, sizeof(names));
		(void)snprintf(run->left, sizeof(run->left), "processes left: %s", names);
	} else if (ipc > 0) {
		(void)snprintf(run->left, sizeof(run->left), "%u System V objects left", ipc);
	}
}

static void kill_children(void)
{
	char pids[4096], *save = NULL;

	children(pids, sizeof(pids));
	for (char *w = strtok_r(pids, " \n", &save); w != NULL; w = strtok_r(NULL, " \n", &save))
		(void)kill((pid_t)atoi(w), SIGKILL);
}

/* Their children become ours, and are ended next. */
static void end_all(void)
{
	do {
		kill_children();
	} while (waitpid(-1, NULL, 0) > 0);
}

static void wait_all(const struct run_spec *spec, struct run *run, const pid_t *pids,
		     const sigset_t *chld, u64 deadline)
{
	unsigned running = run->n;

	while (running > 0) {
		int status;
		pid_t pid = waitpid(-1, &status, WNOHANG);

		if (pid == 0 && krg_clock_now_ns() >= deadline)
			return;
		if (pid == 0)
			wait_child(chld, deadline);
		for (unsigned i = 0; pid > 0 && i < run->n; i++)
			if (pids[i] == pid) {
				run->one[i].status = status;
				run->one[i].how = how_of(spec, status);
				running--;
			}
		if (pid < 0 && errno != EINTR)
			return;
	}
}

_Noreturn static void runner(const struct run_spec *spec, struct shared *sh, bool isolated,
			     const sigset_t *chld)
{
	struct run *run = &sh->run;
	pid_t pids[INSTANCES_MAX];
	u64 begin = krg_clock_now_ns();
	bool late = false;

	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	(void)signal(SIGINT, SIG_DFL);
	(void)signal(SIGTERM, SIG_DFL);
	(void)setsid();
	if (isolated &&
	    (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
	     mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0)) {
		sh->error = -errno;
		_exit(1);
	}
	if (!isolated)
		(void)prctl(PR_SET_CHILD_SUBREAPER, 1);
	for (unsigned i = 0; i < run->n; i++) {
		run->one[i].how = HOW_LATE;
		pids[i] = fork();
		if (pids[i] == 0)
			become(spec, i);
		if (pids[i] < 0) {
			sh->error = -errno;
			_exit(1);
		}
		(void)setpgid(pids[i], pids[i]);
	}
	wait_all(spec, run, pids, chld, begin + spec->opt->limit_s * 1000000000ull);
	run->ms = (krg_clock_now_ns() - begin) / 1000000;
	for (unsigned i = 0; i < run->n; i++)
		late |= run->one[i].how == HOW_LATE;
	if (!late)
		look_for_left(run, chld, isolated);
	if (late || run->left[0] != '\0')
		end_all();
	_exit(0);
}

/* ---- in the driver ---- */

static int make_dirs(const struct run_spec *spec, unsigned n, struct krg_err *err)
{
	if (mkdir(spec->dir, 0777) < 0 && errno != EEXIST)
		return krg_err_set(err, -errno, "%s: %s", spec->dir, strerror(errno));
	(void)chmod(spec->dir, 0777);
	for (unsigned i = 0; i < n; i++) {
		KRG_AUTO_FREE char *dir = krg_xasprintf("%s/%u", spec->dir, i);

		if (mkdir(dir, 0777) < 0 && errno != EEXIST)
			return krg_err_set(err, -errno, "%s: %s", dir, strerror(errno));
		(void)chmod(dir, 0777);
	}
	return 0;
}

static pid_t fork_runner(bool isolated)
{
	(void)fflush(stdout);
	if (isolated)
		return (pid_t)syscall(SYS_clone,
				      CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC | SIGCHLD, NULL,
				      NULL, NULL, 0);
	return fork();
}

int run_instances(const struct run_spec *spec, struct run *ret, struct krg_err *err)
{
	bool isolated = spec->lab == NULL && geteuid() == 0;
	struct shared *sh;
	sigset_t chld, old;
	int status = 0, r;
	pid_t pid;

	r = make_dirs(spec, spec->opt->instances, err);
	if (r < 0)
		return r;
	sh = mmap(NULL, sizeof(*sh), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (sh == MAP_FAILED)
		return krg_err_set(err, -errno, "memory: %s", strerror(errno));
	sh->run.n = spec->opt->instances;
	(void)sigemptyset(&chld);
	(void)sigaddset(&chld, SIGCHLD);
	(void)sigprocmask(SIG_BLOCK, &chld, &old); /* the runner needs it so from its start */
	pid = fork_runner(isolated);
	if (pid == 0)
		runner(spec, sh, isolated, &chld);
	(void)sigprocmask(SIG_SETMASK, &old, NULL);
	if (pid < 0)
		r = krg_err_set(err, -errno, "a runner: %s", strerror(errno));
	while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
		if (stop_wanted)
			(void)kill(pid, SIGKILL);
	if (stop_wanted)
		r = -EINTR;
	else if (r == 0 && (sh->error < 0 || status != 0))
		r = krg_err_set(err, sh->error < 0 ? sh->error : -ECHILD, "the runner: %s",
				sh->error < 0 ? strerror(-sh->error) : "it was killed");
	*ret = sh->run;
	(void)munmap(sh, sizeof(*sh));
	return r;
}
