#include "lab_impl.h"
#include "clock.h"
#include <dirent.h>
#include <fcntl.h>
#include <jansson.h>
#include <poll.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <time.h>

static const char *const phase_name[] = {
	[LAB_NONE] = "none",
	[LAB_MAKING] = "making",
	[LAB_UP] = "up",
	[LAB_LEFT] = "left",
};

const char *lab_phase_name(enum lab_phase phase)
{
	ASSERT((size_t)phase < KRG_NELEM(phase_name));
	return phase_name[phase];
}

bool lab_name_ok(const char *name)
{
	size_t n = strlen(name);

	return n >= 1 && n <= LAB_NAME_MAX && name[0] != '-' &&
	       strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") ==
		       n;
}

void lab_path(char *ret, size_t max, const char *name, const char *file)
{
	int n = snprintf(ret, max, LAB_DIR "/%s%s%s", name, file != NULL ? "/" : "",
			 file != NULL ? file : "");

	ASSERT(n > 0 && (size_t)n < max);
}

void lab_socket(const char *name, unsigned node, char *ret, size_t max)
{
	char file[32];

	(void)snprintf(file, sizeof(file), "node%u/krgd.sock", node);
	lab_path(ret, max, name, file);
}

int lab_need_root(struct krg_err *err)
{
	if (geteuid() != 0)
		return krg_err_set(err, -EPERM, "lab: needs root");
	return 0;
}

/* ---- processes ---- */

struct lab_proc lab_proc_of(pid_t pid)
{
	struct lab_proc p = {.pid = pid};
	char path[32], text[1024];
	const char *at;

	(void)snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	if (krg_read_file(path, text, sizeof(text)) < 0)
		return (struct lab_proc){0};
	at = strrchr(text, ')'); /* the name may hold anything */
	for (int field = 2; at != NULL && field < 22; field++)
		at = strchr(at + 1, ' ');
	if (at == NULL)
		return (struct lab_proc){0};
	p.start = strtoull(at, NULL, 10);
	return p;
}

int lab_proc_open(const struct lab_proc *p)
{
	struct pollfd pfd = {.events = POLLIN};
	struct lab_proc now;
	int fd;

	if (p->pid <= 0)
		return -ESRCH;
	fd = pidfd_open(p->pid, 0);
	if (fd < 0)
		return -errno;
	now = lab_proc_of(p->pid);
	pfd.fd = fd;
	if (now.pid == 0 || now.start != p->start || poll(&pfd, 1, 0) != 0) {
		(void)close(fd);
		return -ESRCH;
	}
	return fd;
}

/* ---- the lock ---- */

static int make_dirs(struct krg_err *err)
{
	static const char *const dir[] = {LAB_RUN_DIR, LAB_DIR};

	for (unsigned i = 0; i < KRG_NELEM(dir); i++)
		if (mkdir(dir[i], 0755) < 0 && errno != EEXIST)
			return krg_err_set(err, -errno, "lab: mkdir %s", dir[i]);
	return 0;
}

static void on_alarm(int sig)
{
	(void)sig;
}

/* flock(2) has no deadline of its own: a timer interrupts it. */
static int flock_until(int fd, u64 wait_ms)
{
	struct sigaction act = {.sa_handler = on_alarm}, old;
	struct itimerspec when = {.it_value = {.tv_sec = (time_t)(wait_ms / 1000),
					       .tv_nsec = (long)(wait_ms % 1000 * KRG_MSEC)},
				  .it_interval = {.tv_nsec = 50 * (long)KRG_MSEC}};
	struct sigevent ev = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGALRM};
	timer_t timer;
	int r;

	if (flock(fd, LOCK_EX | LOCK_NB) == 0)
		return 0;
	if (wait_ms == 0)
		return -EBUSY;
	if (sigaction(SIGALRM, &act, &old) < 0 || timer_create(CLOCK_MONOTONIC, &ev, &timer) < 0)
		return -errno;
	(void)timer_settime(timer, 0, &when, NULL);
	r = flock(fd, LOCK_EX) == 0 ? 0 : errno == EINTR ? -EBUSY : -errno;
	(void)timer_delete(timer);
	(void)sigaction(SIGALRM, &old, NULL);
	return r;
}

int lab_lock(const char *name, u64 wait_ms, int *ret_fd, struct krg_err *err)
{
	u64 deadline = krg_clock_now_ns() + wait_ms * KRG_MSEC;
	char path[LAB_PATH_MAX];

	(void)snprintf(path, sizeof(path), LAB_DIR "/%s.lock", name);
	for (;;) {
		KRG_AUTO_FD int fd = -EBADF;
		struct stat st, now;
		u64 at = krg_clock_now_ns();
		int r = make_dirs(err);

		if (r < 0)
			return r;
		fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
		if (fd < 0 && errno == ENOENT)
			continue; /* the directory was removed by a lab that went down */
		if (fd < 0)
			return krg_err_set(err, -errno, "lab %s: open %s", name, path);
		r = flock_until(fd, at < deadline ? (deadline - at) / KRG_MSEC : 0);
		if (r < 0)
			return krg_err_set(err, r, "lab %s: another command works on it", name);
		/* whoever had it may have removed the file: then ours is not the one any more */
		if (fstat(fd, &st) < 0)
			return krg_err_set(err, -errno, "lab %s: stat %s", name, path);
		if (stat(path, &now) < 0 || now.st_ino != st.st_ino || now.st_dev != st.st_dev)
			continue;
		*ret_fd = TAKE_FD(fd);
		return 0;
	}
}

void lab_unlock_remove(const char *name, int fd)
{
	char path[LAB_PATH_MAX];

	(void)snprintf(path, sizeof(path), LAB_DIR "/%s.lock", name);
	(void)unlink(path);
	(void)rmdir(LAB_DIR);
	(void)rmdir(LAB_RUN_DIR);
	(void)close(fd);
}

/* ---- lab.json ---- */

static json_t *proc_pack(const struct lab_proc *p)
{
	return json_pack("{s:i, s:I}", "pid", (int)p->pid, "start", (json_int_t)p->start);
}

static void proc_unpack(const json_t *j, struct lab_proc *ret)
{
	json_int_t pid = json_integer_value(json_object_get(j, "pid"));
	json_int_t start = json_integer_value(json_object_get(j, "start"));

	if (pid > 0 && pid <= INT32_MAX && start >= 0)
		*ret = (struct lab_proc){.pid = (pid_t)pid, .start = (u64)start};
}

static int file_replace(const char *path, const char *text)
{
	KRG_AUTO_FD int fd = -EBADF;
	char tmp[LAB_PATH_MAX + 8];
	int r;

	(void)snprintf(tmp, sizeof(tmp), "%s.new", path);
	fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0644);
	if (fd < 0)
		return -errno;
	r = krg_write_all(fd, text, strlen(text));
	if (r < 0)
		return r;
	return rename(tmp, path) < 0 ? -errno : 0;
}

int lab_state_write(const struct lab_state *s, struct krg_err *err)
{
	json_t *nodes = json_array(), *j;
	char path[LAB_PATH_MAX];
	char *text;
	int r;

	for (unsigned i = 0; i < s->nodes; i++) {
		json_t *n = proc_pack(&s->node[i]);
		char addr[32];

		lab_net_addr(i, addr, sizeof(addr));
		(void)json_object_set_new(n, "node", json_integer(i));
		(void)json_object_set_new(n, "addr", json_string(addr));
		(void)json_array_append_new(nodes, n);
	}
	j = json_pack("{s:s, s:s, s:f, s:o, s:o}", "name", s->name, "phase",
		      lab_phase_name(s->phase), "cpus", s->cpus, "holder", proc_pack(&s->holder),
		      "nodes", nodes);
	ASSERT(j != NULL);
	text = json_dumps(j, JSON_INDENT(1) | JSON_REAL_PRECISION(6));
	json_decref(j);
	ASSERT(text != NULL);
	lab_path(path, sizeof(path), s->name, "lab.json");
	r = file_replace(path, text);
	free(text);
	return r < 0 ? krg_err_set(err, r, "lab %s: write %s", s->name, path) : 0;
}

static enum lab_phase phase_parse(const char *text)
{
	for (unsigned i = 0; text != NULL && i < KRG_NELEM(phase_name); i++)
		if (strcmp(phase_name[i], text) == 0)
			return (enum lab_phase)i;
	return LAB_LEFT;
}

int lab_state_read(const char *name, struct lab_state *ret)
{
	struct lab_state s = {0};
	char path[LAB_PATH_MAX];
	struct stat st;
	json_t *j, *nodes;

	lab_path(path, sizeof(path), name, NULL);
	if (lstat(path, &st) < 0)
		return -errno;
	(void)snprintf(s.name, sizeof(s.name), "%s", name);
	s.phase = LAB_LEFT;
	lab_path(path, sizeof(path), name, "lab.json");
	j = json_load_file(path, 0, NULL);
	if (j != NULL) {
		s.phase = phase_parse(json_string_value(json_object_get(j, "phase")));
		s.cpus = json_number_value(json_object_get(j, "cpus"));
		nodes = json_object_get(j, "nodes");
		s.nodes = (unsigned)KRG_MIN(json_array_size(nodes), (size_t)LAB_NODES_MAX);
		proc_unpack(json_object_get(j, "holder"), &s.holder);
		for (unsigned i = 0; i < s.nodes; i++)
			proc_unpack(json_array_get(nodes, i), &s.node[i]);
		json_decref(j);
	}
	*ret = s;
	return 0;
}

unsigned lab_state_alive(const struct lab_state *s)
{
	unsigned n = 0;

	for (unsigned i = 0; i < s->nodes; i++) {
		KRG_AUTO_FD int fd = lab_proc_open(&s->node[i]);

		n += fd >= 0;
	}
	return n;
}

/* ---- listing ---- */

static void info_fill(const struct lab_state *s, struct lab_info *ret)
{
	char path[LAB_PATH_MAX];

	*ret = (struct lab_info){.phase = s->phase, .nodes = s->nodes, .cpus = s->cpus};
	memcpy(ret->name, s->name, sizeof(ret->name));
	ret->alive = lab_state_alive(s);
	if (s->phase == LAB_UP && ret->alive == 0)
		ret->phase = LAB_LEFT;
	if (s->phase == LAB_MAKING) { /* is its maker at work? */
		KRG_AUTO_FD int fd = -EBADF;

		(void)snprintf(path, sizeof(path), LAB_DIR "/%s.lock", s->name);
		fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd < 0 || flock(fd, LOCK_SH | LOCK_NB) == 0)
			ret->phase = LAB_LEFT;
	}
}

int lab_get(const char *name, struct lab_info *ret, struct krg_err *err)
{
	struct lab_state s;
	int r;

	if (!lab_name_ok(name))
		return krg_err_set(err, -EINVAL, "lab: name '%s'", name);
	r = lab_state_read(name, &s);
	if (r == -ENOENT)
		return krg_err_set(err, r, "lab %s: not up", name);
	if (r < 0)
		return krg_err_set(err, r, "lab %s", name);
	info_fill(&s, ret);
	return 0;
}

static int is_lab(const struct dirent *d)
{
	return lab_name_ok(d->d_name);
}

unsigned lab_list(struct lab_info *ret, unsigned max)
{
	struct dirent **d = NULL;
	int n = scandir(LAB_DIR, &d, is_lab, alphasort);
	unsigned got = 0;

	for (int i = 0; i < n; i++) {
		struct lab_state s;

		if (lab_state_read(d[i]->d_name, &s) == 0) {
			if (got < max)
				info_fill(&s, &ret[got]);
			got++;
		}
		free(d[i]);
	}
	free(d);
	return got;
}
