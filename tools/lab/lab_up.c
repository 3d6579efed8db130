/* lab_up.c - up, down, and one node at a time. */
#include "lab_impl.h"
#include "clock.h"
#include "rng.h"
#include <fcntl.h>
#include <ftw.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/pidfd.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

#define LOCK_WAIT_MS 20000
#define KILL_WAIT_MS 10000
#define TAIL_LINES   12
#define WAVE	     32

/* ---- removing ---- */

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
	(void)st;
	(void)flag;
	(void)ftw;
	return remove(path) < 0 && errno != ENOENT ? -1 : 0;
}

/* krgd's mounts are in its own namespace and end with it; this is for what went wrong. */
static void unmount_below(const char *dir)
{
	KRG_AUTO_FILE FILE *f = fopen("/proc/self/mountinfo", "re");
	KRG_AUTO_FREE char *line = NULL;
	size_t room = 0, n = strlen(dir);

	while (f != NULL && getline(&line, &room, f) > 0) {
		char at[512];

		if (sscanf(line, "%*s %*s %*s %*s %511s", at) == 1 && strncmp(at, dir, n) == 0 &&
		    at[n] == '/')
			(void)umount2(at, MNT_DETACH);
	}
}

static int remove_dir(const char *name, struct krg_err *err)
{
	char dir[LAB_PATH_MAX];

	lab_path(dir, sizeof(dir), name, NULL);
	unmount_below(dir);
	if (nftw(dir, remove_one, 32, FTW_DEPTH | FTW_PHYS | FTW_MOUNT) < 0 && errno != ENOENT)
		return krg_err_set(err, -errno, "lab %s: remove %s", name, dir);
	return 0;
}

static void wait_end(int pidfd, u64 deadline_ns)
{
	struct pollfd p = {.fd = pidfd, .events = POLLIN};
	int r;

	do {
		u64 now = krg_clock_now_ns();

		r = poll(&p, 1, now < deadline_ns ? (int)((deadline_ns - now) / KRG_MSEC) + 1 : 0);
	} while (r < 0 && errno == EINTR);
}

/* SIGTERM to one daemon after the other, the first node last: so there is a majority for each to
 * leave, and none waits for a view that nobody can agree on. */
static void daemons_term(const struct lab_state *s, u64 deadline_ns)
{
	for (unsigned i = s->nodes; i-- > 0;) {
		KRG_AUTO_FD int fd = lab_proc_open(&s->node[i]);

		if (fd >= 0 && pidfd_send_signal(fd, SIGTERM, NULL, 0) == 0)
			wait_end(fd, deadline_ns);
	}
}

/* With the lock held: nothing of that name is left afterwards.  Our own children are reaped. */
static int clean(const struct lab_cgroups *c, const char *name, struct krg_err *err)
{
	int r = lab_cgroups_kill(c, name, NULL, KILL_WAIT_MS, err);

	while (waitpid(-1, NULL, WNOHANG) > 0)
		;
	if (r == 0)
		r = lab_cgroups_remove(c, name, err);
	return r < 0 ? r : remove_dir(name, err);
}

int lab_down(const char *name, u64 grace_ms, bool *ret_was, struct krg_err *err)
{
	struct lab_cgroups c;
	struct lab_state s;
	bool was;
	int lock, r;

	if (!lab_name_ok(name))
		return krg_err_set(err, -EINVAL, "lab: name '%s'", name);
	r = lab_need_root(err);
	if (r == 0)
		r = lab_cgroups_find(false, &c, err);
	if (r == 0)
		r = lab_lock(name, LOCK_WAIT_MS, &lock, err);
	if (r < 0)
		return r;
	r = lab_state_read(name, &s);
	was = r == 0 || lab_cgroups_exist(&c, name);
	/* with some dead there may be no majority to leave: no use in waiting long */
	if (r == 0 && lab_state_alive(&s) < s.nodes)
		grace_ms = KRG_MIN(grace_ms, (u64)LAB_GRACE_MS / 4);
	if (r == 0 && grace_ms > 0)
		daemons_term(&s, krg_clock_now_ns() + grace_ms * KRG_MSEC);
	r = clean(&c, name, err);
	if (r < 0) {
		(void)close(lock);
		return r;
	}
	lab_unlock_remove(name, lock);
	if (ret_was != NULL)
		*ret_was = was;
	return 0;
}

/* ---- up ---- */

u64 lab_ready_ms(const struct lab_config *config)
{
	return config->ready_ms != 0 ? config->ready_ms : LAB_READY_MS + 500ull * config->nodes;
}

static int write_key(const char *name, struct krg_err *err)
{
	static const char hex[] = "0123456789abcdef";
	KRG_AUTO_FD int fd = -EBADF;
	char path[LAB_PATH_MAX], text[65];
	u8 key[32];
	int r = krg_rng_secret(key, sizeof(key));

	if (r < 0)
		return krg_err_set(err, r, "lab %s: random key", name);
	for (unsigned i = 0; i < sizeof(key); i++) {
		text[2 * i] = hex[key[i] >> 4];
		text[2 * i + 1] = hex[key[i] & 15];
	}
	text[64] = '\n';
	lab_path(path, sizeof(path), name, "key");
	fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	r = fd < 0 ? -errno : krg_write_all(fd, text, sizeof(text));
	explicit_bzero(key, sizeof(key));
	explicit_bzero(text, sizeof(text));
	return r < 0 ? krg_err_set(err, r, "lab %s: write %s", name, path) : 0;
}

static int make_dir(const char *name, const char *sub, struct krg_err *err)
{
	char path[LAB_PATH_MAX];

	lab_path(path, sizeof(path), name, sub);
	if (mkdir(path, 0755) < 0 && errno != EEXIST)
		return krg_err_set(err, -errno, "lab %s: mkdir %s", name, path);
	return 0;
}

static int make_files(struct lab_state *s, const struct lab_cgroups *c, struct krg_err *err)
{
	int r = make_dir(s->name, NULL, err);

	if (r == 0)
		r = lab_state_write(s, err);
	if (r == 0)
		r = write_key(s->name, err);
	if (r == 0)
		r = lab_cgroups_make(c, s->name, "holder", 0, err);
	for (unsigned i = 0; r == 0 && i < s->nodes; i++) {
		char sub[32];

		(void)snprintf(sub, sizeof(sub), "node%u", i);
		r = make_dir(s->name, sub, err);
		if (r == 0)
			r = lab_cgroups_make(c, s->name, sub, s->cpus, err);
	}
	return r;
}

/* The end of a node's log, for the person who waits. */
static void show_tail(FILE *diag, const char *name, unsigned node)
{
	char sub[32], path[LAB_PATH_MAX], text[4097];
	KRG_AUTO_FILE FILE *f = NULL;
	const char *at;
	size_t n;

	(void)snprintf(sub, sizeof(sub), "node%u/log", node);
	lab_path(path, sizeof(path), name, sub);
	f = fopen(path, "re");
	if (f == NULL || diag == NULL)
		return;
	if (fseek(f, -(long)(sizeof(text) - 1), SEEK_END) < 0)
		rewind(f);
	n = fread(text, 1, sizeof(text) - 1, f);
	text[n] = '\0';
	at = text + n;
	for (unsigned lines = 0; at > text; at--)
		if (at[-1] == '\n' && ++lines > TAIL_LINES)
			break;
	if (*at != '\0')
		(void)fprintf(diag, "--- the end of %s\n%s%s---\n", path, at,
			      at[strlen(at) - 1] == '\n' ? "" : "\n");
}

/* child[0] is that of node `first`. */
static int wait_all(struct lab_child *child, unsigned first, unsigned n, const char *word,
		    const struct lab_config *config, u64 deadline_ns, int sigfd,
		    struct krg_err *err)
{
	unsigned who = 0;
	int r = lab_spawn_wait(child, n, word, deadline_ns, sigfd, &who, err);

	if (r == 0 || r == -EINTR)
		return r == 0 ? 0 : krg_err_prefix(err, r, "lab %s", config->name);
	who += first;
	show_tail(config->diag, config->name, who);
	return krg_err_prefix(err, r, "lab %s: node %u", config->name, who);
}

/* So many nodes at a time: more joins at once only wait for each other on this machine's processors. */
static int start_wave(const struct lab_state *s, const struct lab_config *config,
		      struct lab_child *child, unsigned first, u64 deadline, int sigfd,
		      struct krg_err *err)
{
	unsigned n = KRG_MIN(s->nodes - first, (unsigned)WAVE);

	for (unsigned i = first; i < first + n; i++)
		if (lab_spawn_go(&child[i]) < 0)
			return krg_err_set(err, -ECHILD, "lab %s: node %u died", s->name, i);
	return wait_all(&child[first], first, n, "ready\n", config, deadline, sigfd, err);
}

/* The nodes: made, joined to the bridge, started, ready. */
static int make_nodes(struct lab_state *s, const struct lab_cgroups *c,
		      const struct lab_config *config, struct lab_child *child, int sigfd,
		      struct krg_err *err)
{
	u64 deadline = krg_clock_now_ns() + lab_ready_ms(config) * KRG_MSEC;
	int r = 0;

	for (unsigned i = 0; r == 0 && i < s->nodes; i++) {
		struct lab_seeds seeds = {.n = i > 0}; /* node 0 */

		r = lab_spawn_node(s, c, i, config, &seeds, -1, &child[i], err);
		s->node[i] = child[i].proc;
	}
	if (r == 0)
		r = lab_state_write(s, err);
	if (r == 0)
		r = wait_all(child, 0, s->nodes, "made\n", config, deadline, sigfd, err);
	for (unsigned i = 0; r == 0 && i < s->nodes; i++)
		r = lab_net_attach(i, child[i].proc.pid, err);
	for (unsigned i = 0; r == 0 && i < s->nodes; i += WAVE)
		r = start_wave(s, config, child, i, deadline, sigfd, err);
	return r;
}

static int make_lab(struct lab_state *s, const struct lab_cgroups *c,
		    const struct lab_config *config, int sigfd, struct krg_err *err)
{
	struct lab_child child[LAB_NODES_MAX];
	int r;

	for (unsigned i = 0; i < LAB_NODES_MAX; i++)
		child[i] = (struct lab_child){.go = -EBADF, .ready = -EBADF};
	r = make_files(s, c, err);
	if (r == 0 && unshare(CLONE_NEWNET) < 0)
		r = krg_err_set(err, -errno, "lab %s: network namespace", s->name);
	if (r == 0)
		r = lab_net_bridge(err);
	if (r == 0)
		r = lab_spawn_holder(s, c, &s->holder, err);
	if (r == 0)
		r = lab_state_write(s, err);
	if (r == 0)
		r = make_nodes(s, c, config, child, sigfd, err);
	for (unsigned i = 0; i < LAB_NODES_MAX; i++)
		lab_child_fini(&child[i]);
	if (r < 0)
		return r;
	s->phase = LAB_UP;
	return lab_state_write(s, err);
}

/* An interrupt becomes readable, so that what is half made can be removed. */
static int signals_open(struct krg_err *err)
{
	sigset_t set;
	int fd;

	(void)sigemptyset(&set);
	(void)sigaddset(&set, SIGINT);
	(void)sigaddset(&set, SIGTERM);
	(void)sigaddset(&set, SIGHUP);
	(void)sigprocmask(SIG_BLOCK, &set, NULL);
	fd = signalfd(-1, &set, SFD_CLOEXEC);
	return fd < 0 ? krg_err_set(err, -errno, "lab: signalfd") : fd;
}

static int config_check(const struct lab_config *config, struct krg_err *err)
{
	if (!lab_name_ok(config->name))
		return krg_err_set(err, -EINVAL, "lab: name '%s' (up to %d of A-Z a-z 0-9 - _)",
				   config->name, LAB_NAME_MAX);
	if (config->nodes < 1 || config->nodes > LAB_NODES_MAX)
		return krg_err_set(err, -EINVAL, "lab %s: %u nodes (1 to %d)", config->name,
				   config->nodes, LAB_NODES_MAX);
	if (!(config->cpus >= 0 && config->cpus <= 4096))
		return krg_err_set(err, -EINVAL, "lab %s: %g CPUs a node", config->name,
				   config->cpus);
	if (access(config->krgd, X_OK) < 0)
		return krg_err_set(err, -errno, "lab %s: %s", config->name, config->krgd);
	return lab_need_root(err);
}

int lab_up(const struct lab_config *config, struct krg_err *err)
{
	struct lab_state s = {.phase = LAB_MAKING, .nodes = config->nodes, .cpus = config->cpus};
	KRG_AUTO_FD int sigfd = -EBADF;
	struct lab_cgroups c;
	struct lab_info old;
	int lock, r = config_check(config, err);

	if (r == 0)
		r = lab_cgroups_find(config->cpus > 0, &c, err);
	if (r == 0)
		r = lab_lock(config->name, LOCK_WAIT_MS, &lock, err);
	if (r < 0)
		return r;
	(void)snprintf(s.name, sizeof(s.name), "%s", config->name);
	if (lab_get(s.name, &old, NULL) == 0 && old.phase == LAB_UP) {
		(void)close(lock);
		(void)krg_err_set(err, 0, "lab %s: already up, %u of %u nodes live (krg lab down)",
				  s.name, old.alive, old.nodes);
		return -EEXIST;
	}
	r = clean(&c, s.name, err);
	if (r == 0)
		r = sigfd = signals_open(err);
	if (r >= 0)
		r = make_lab(&s, &c, config, sigfd, err);
	if (r == 0) {
		(void)close(lock);
		return 0;
	}
	if (clean(&c, s.name, NULL) == 0)
		lab_unlock_remove(s.name, lock);
	else
		(void)close(lock);
	return r;
}

/* ---- one node ---- */

static int node_get(const char *name, unsigned node, struct lab_state *ret, struct krg_err *err)
{
	int r = lab_name_ok(name) ? lab_state_read(name, ret) : -EINVAL;

	if (r == -ENOENT)
		return krg_err_set(err, r, "lab %s: not up", name);
	if (r < 0)
		return krg_err_set(err, r, "lab %s", name);
	if (ret->phase != LAB_UP)
		return krg_err_set(err, -ENOENT, "lab %s: %s, not up", name,
				   lab_phase_name(ret->phase));
	if (node >= ret->nodes)
		return krg_err_set(err, -ENOENT, "lab %s: node %u (it has %u)", name, node,
				   ret->nodes);
	return 0;
}

int lab_exec(const char *name, unsigned node, char *const *argv, struct krg_err *err)
{
	KRG_AUTO_FD int fd = -EBADF;
	char sub[32], text[LAB_PATH_MAX];
	struct lab_cgroups c;
	struct lab_state s;
	int r = lab_need_root(err);

	if (r == 0)
		r = node_get(name, node, &s, err);
	if (r == 0)
		r = lab_cgroups_find(false, &c, err);
	if (r < 0)
		return r;
	fd = lab_proc_open(&s.node[node]);
	if (fd < 0)
		return krg_err_set(err, fd, "lab %s: the daemon of node %u", name, node);
	if (setns(fd, CLONE_NEWNET) < 0)
		return krg_err_set(err, -errno, "lab %s: enter the network of node %u", name, node);
	(void)snprintf(sub, sizeof(sub), "node%u", node);
	r = lab_cgroups_join(&c, name, sub);
	if (r < 0)
		return krg_err_set(err, r, "lab %s: enter the cgroup of node %u", name, node);
	lab_socket(name, node, text, sizeof(text));
	(void)setenv("KRG_SOCKET", text, 1);
	(void)setenv("KRG_LAB", name, 1);
	(void)snprintf(text, sizeof(text), "%u", node);
	(void)setenv("KRG_NODE", text, 1);
	(void)execvp(argv[0], argv);
	return krg_err_set(err, -errno, "lab %s: node %u: exec %s", name, node, argv[0]);
}

/* Only the daemon: its world waits for another (krg lab start). */
static int daemon_crash(const char *name, unsigned node, const struct lab_proc *daemon,
			struct krg_err *err)
{
	KRG_AUTO_FD int fd = lab_proc_open(daemon);

	if (fd < 0 || pidfd_send_signal(fd, SIGKILL, NULL, 0) < 0)
		return krg_err_set(err, -ESRCH, "lab %s: node %u: its daemon does not run", name,
				   node);
	wait_end(fd, krg_clock_now_ns() + KILL_WAIT_MS * KRG_MSEC);
	return 0;
}

/* The network namespace of a world whose daemon has died, and that waits for another; -1: there is none. */
static int world_net(const char *name, unsigned node)
{
	struct sockaddr_un at = {.sun_family = AF_UNIX};
	KRG_AUTO_FD int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	struct ucred keeper;
	socklen_t len = sizeof(keeper);
	char file[32], path[LAB_PATH_MAX];

	(void)snprintf(file, sizeof(file), "node%u/keep.sock", node);
	lab_path(path, sizeof(path), name, file);
	if (strlen(path) >= sizeof(at.sun_path))
		return -1;
	memcpy(at.sun_path, path, strlen(path) + 1);
	if (fd < 0 || connect(fd, (struct sockaddr *)&at, sizeof(at)) < 0 ||
	    getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &keeper, &len) < 0 || keeper.uid != 0)
		return -1;
	(void)snprintf(path, sizeof(path), "/proc/%d/ns/net", keeper.pid);
	return open(path, O_RDONLY | O_CLOEXEC);
}

int lab_node_stop(const char *name, unsigned node, enum lab_stop how, struct krg_err *err)
{
	KRG_AUTO_FD int lock = -EBADF;
	struct lab_state s, one;
	struct lab_cgroups c;
	char sub[32];
	int r = lab_need_root(err);

	if (r == 0)
		r = lab_cgroups_find(false, &c, err);
	if (r == 0)
		r = node_get(name, node, &s, err);
	if (r == 0)
		r = lab_lock(name, LOCK_WAIT_MS, &lock, err);
	if (r < 0)
		return r;
	if (how == LAB_STOP_CRASH)
		return daemon_crash(name, node, &s.node[node], err);
	if (how == LAB_STOP) {
		one = s;
		for (unsigned i = 0; i < s.nodes; i++)
			if (i != node)
				one.node[i] = (struct lab_proc){0};
		daemons_term(&one, krg_clock_now_ns() + 2 * LAB_GRACE_MS * KRG_MSEC);
	}
	(void)snprintf(sub, sizeof(sub), "node%u", node);
	return lab_cgroups_kill(&c, name, sub, KILL_WAIT_MS, err);
}

/* In the holder's network namespace, as the lab's maker was. */
static int node_start(struct lab_state *s, const struct lab_cgroups *c, unsigned node,
		      const struct lab_config *config, int net, struct krg_err *err)
{
	struct lab_child child = {.go = -EBADF, .ready = -EBADF};
	struct lab_seeds seeds = {0};
	u64 deadline = krg_clock_now_ns() + lab_ready_ms(config) * KRG_MSEC;
	int r;

	for (unsigned i = 0; i < s->nodes && seeds.n < KRG_NELEM(seeds.node); i++) {
		KRG_AUTO_FD int fd = i != node ? lab_proc_open(&s->node[i]) : -EBADF;

		if (fd >= 0)
			seeds.node[seeds.n++] = i;
	}
	r = lab_spawn_node(s, c, node, config, &seeds, net, &child, err);
	if (r < 0)
		return r;
	s->node[node] = child.proc;
	r = lab_state_write(s, err);
	if (r == 0)
		r = wait_all(&child, node, 1, "made\n", config, deadline, -1, err);
	if (net < 0)
		lab_net_detach(node);
	if (r == 0 && net < 0)
		r = lab_net_attach(node, child.proc.pid, err);
	if (r == 0)
		r = lab_spawn_go(&child);
	if (r == 0)
		r = wait_all(&child, node, 1, "ready\n", config, deadline, -1, err);
	lab_child_fini(&child);
	return r;
}

int lab_node_start(const char *name, unsigned node, const struct lab_config *config,
		   struct krg_err *err)
{
	KRG_AUTO_FD int lock = -EBADF;
	KRG_AUTO_FD int holder = -EBADF;
	KRG_AUTO_FD int old = -EBADF;
	KRG_AUTO_FD int net = -EBADF;
	struct lab_cgroups c;
	struct lab_state s;
	char sub[32];
	int r = lab_need_root(err);

	if (r == 0)
		r = lab_cgroups_find(false, &c, err);
	if (r == 0)
		r = lab_lock(name, LOCK_WAIT_MS, &lock, err);
	if (r == 0)
		r = node_get(name, node, &s, err);
	if (r < 0)
		return r;
	old = lab_proc_open(&s.node[node]);
	if (old >= 0)
		return krg_err_set(err, -EEXIST, "lab %s: node %u: its daemon runs", name, node);
	holder = lab_proc_open(&s.holder);
	if (holder < 0 || setns(holder, CLONE_NEWNET) < 0)
		return krg_err_set(err, holder < 0 ? holder : -errno, "lab %s: its network", name);
	(void)snprintf(sub, sizeof(sub), "node%u", node);
	net = world_net(name, node);
	if (net < 0)
		r = lab_cgroups_kill(&c, name, sub, KILL_WAIT_MS, err);
	if (r == 0)
		r = node_start(&s, &c, node, config, net, err);
	return r;
}
