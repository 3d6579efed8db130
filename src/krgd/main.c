/* krgd - the daemon of a node.  Runs in the foreground; SIGTERM: leave the view, end the world. */
#include "clock.h"
#include "fault.h"
#include "krgd.h"
#include "log.h"
#include <fcntl.h>
#include <getopt.h>
#include <malloc.h>
#include <netdb.h>
#include <sched.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>

struct options {
	struct krgd_config config;
	const char *key_file, *log_file;
	int ready_fd;
	enum krg_log_level level;
	bool have_node, have_listen, log_open;
};

static const char usage_text[] =
	"Usage: krgd --run-dir DIR --node ID --cluster NAME --key FILE --listen ADDR:PORT "
	"[OPTION…]\n"
	"\n"
	"      --run-dir DIR       where the socket and the mounts of this node are (made if "
	"missing)\n"
	"      --node ID           this node's number, 0 to 126\n"
	"      --cluster NAME      the cluster's name\n"
	"      --key FILE          the cluster's key: 64 hexadecimal digits, readable by root "
	"only\n"
	"      --listen ADDR:PORT  where the other nodes reach this one (numeric; [ADDR]:PORT for "
	"IPv6)\n"
	"      --seed ADDR:PORT    join through that node (may be given several times; "
	"NODE@ADDR:PORT\n"
	"                          is accepted).  Without seeds this node forms the cluster\n"
	"      --name NAME         this node's name (default: the host's)\n"
	"      --cpus F            CPUs this node has to give (default: all)\n"
	"      --policy P          where programs execute: load (default), elsewhere, off\n"
	"      --libexec DIR       where krginit and krgvessel are (default: beside krgd)\n"
	"      --heartbeat MS      how often members tell each other that they live (default 200); "
	"one\n"
	"                          that is silent for ten of them is voted out\n"
	"      --join-timeout S    how long joining may take (default 25)\n"
	"      --keep S            how long this node's processes wait for another krgd when this "
	"one\n"
	"                          has died (default 60; 0: they end with it)\n"
	"      --ready-fd FD       \"ready\" is written there once this node serves\n"
	"      --log FILE          default: standard error\n"
	"      --log-level L       error, warn, info (default) or debug\n"
	"      --version, --help\n";

/* ---- options ---- */

static int usage(const char *what, const char *value)
{
	(void)fprintf(stderr, "krgd: %s%s%s (krgd --help)\n", what, value != NULL ? ": " : "",
		      value != NULL ? value : "");
	return 2;
}

static bool parse_u(const char *text, unsigned max, unsigned *ret)
{
	unsigned long v;
	char *end;

	if (text[0] < '0' || text[0] > '9')
		return false;
	errno = 0;
	v = strtoul(text, &end, 10);
	if (errno != 0 || *end != '\0' || v > max)
		return false;
	*ret = (unsigned)v;
	return true;
}

/* "1.2.3.4:77", "[::1]:77" */
static bool parse_addr(const char *text, char *addr, size_t room, u16 *port)
{
	const char *colon = strrchr(text, ':');
	struct addrinfo hint = {.ai_flags = AI_NUMERICHOST}, *ai = NULL;
	size_t n;
	unsigned p;

	if (colon == NULL || !parse_u(colon + 1, 65535, &p))
		return false;
	n = (size_t)(colon - text);
	if (n >= 2 && text[0] == '[' && text[n - 1] == ']') {
		text++;
		n -= 2;
	}
	if (n == 0 || n >= room)
		return false;
	memcpy(addr, text, n);
	addr[n] = '\0';
	if (getaddrinfo(addr, NULL, &hint, &ai) != 0)
		return false;
	freeaddrinfo(ai);
	*port = (u16)p;
	return true;
}

static bool parse_seed(struct krgd_config *c, const char *text)
{
	const char *at = strchr(text, '@');
	struct hotplug_seed *s = &c->seeds[c->nseeds];

	if (c->nseeds == KRGD_SEEDS)
		return false;
	c->nseeds++;
	return parse_addr(at != NULL ? at + 1 : text, s->addr, sizeof(s->addr), &s->port);
}

static bool parse_level(const char *text, enum krg_log_level *ret)
{
	static const char *const name[] = {[KRG_LOG_ERROR] = "error",
					   [KRG_LOG_WARN] = "warn",
					   [KRG_LOG_INFO] = "info",
					   [KRG_LOG_DEBUG] = "debug"};

	for (unsigned i = 0; i < KRG_NELEM(name); i++) {
		if (strcmp(name[i], text) == 0) {
			*ret = (enum krg_log_level)i;
			return true;
		}
	}
	return false;
}

static bool copy_text(char *to, size_t room, const char *text)
{
	size_t n = strlen(text);

	if (n == 0 || n >= room)
		return false;
	memcpy(to, text, n + 1);
	return true;
}

static bool one_option(struct options *o, int opt)
{
	struct krgd_config *c = &o->config;
	unsigned n;
	char *end;

	switch (opt) {
	case 'r':
		return optarg[0] == '/' && copy_text(c->run_dir, sizeof(c->run_dir), optarg);
	case 'n':
		o->have_node = parse_u(optarg, KRG_NODES_MAX - 1, &n);
		c->node = (nodeid)n;
		return o->have_node;
	case 'c':
		return copy_text(c->cluster, sizeof(c->cluster), optarg);
	case 'k':
		o->key_file = optarg;
		return true;
	case 'l':
		o->have_listen = parse_addr(optarg, c->addr, sizeof(c->addr), &c->port);
		return o->have_listen && c->port != 0;
	case 's':
		return parse_seed(c, optarg);
	case 'N':
		return copy_text(c->name, sizeof(c->name), optarg);
	case 'C':
		c->cpus = strtod(optarg, &end);
		return *end == '\0' && end != optarg && c->cpus >= 0 && c->cpus <= 4096;
	case 'p':
		return sched_policy_parse(optarg, &c->policy) == 0;
	case 'x':
		return copy_text(c->libexec, sizeof(c->libexec), optarg);
	case 'j':
		if (!parse_u(optarg, 86400, &n) || n == 0)
			return false;
		c->join_ms = n * 1000u;
		return true;
	case 'K':
		if (!parse_u(optarg, 86400, &n))
			return false;
		c->keep_ms = n * 1000u;
		return true;
	case 'H':
		if (!parse_u(optarg, 60000, &n) || n < 10)
			return false;
		c->heartbeat_ms = n;
		return true;
	case 'f':
		if (!parse_u(optarg, INT32_MAX, &n))
			return false;
		o->ready_fd = (int)n;
		return fcntl(o->ready_fd, F_SETFD, FD_CLOEXEC) == 0;
	case 'L':
		o->log_file = optarg;
		return true;
	case 'v':
		return parse_level(optarg, &o->level);
	default:
		return false;
	}
}

/* -1: go on; else the exit status */
static int parse(struct options *o, int argc, char **argv)
{
	static const struct option longs[] = {
		{"run-dir", required_argument, NULL, 'r'},
		{"node", required_argument, NULL, 'n'},
		{"cluster", required_argument, NULL, 'c'},
		{"key", required_argument, NULL, 'k'},
		{"listen", required_argument, NULL, 'l'},
		{"seed", required_argument, NULL, 's'},
		{"name", required_argument, NULL, 'N'},
		{"cpus", required_argument, NULL, 'C'},
		{"join-timeout", required_argument, NULL, 'j'},
		{"heartbeat", required_argument, NULL, 'H'},
		{"keep", required_argument, NULL, 'K'},
		{"libexec", required_argument, NULL, 'x'},
		{"ready-fd", required_argument, NULL, 'f'},
		{"log", required_argument, NULL, 'L'},
		{"log-level", required_argument, NULL, 'v'},
		{"policy", required_argument, NULL, 'p'},
		{"version", no_argument, NULL, 'V'},
		{"help", no_argument, NULL, 'h'},
		{0},
	};
	int opt, at;

	opterr = 0;
	while (at = optind, (opt = getopt_long(argc, argv, "", longs, NULL)) != -1) {
		if (opt == 'h')
			return fputs(usage_text, stdout) == EOF;
		if (opt == 'V')
			return printf("krgd %s\n", KRG_VERSION) < 0;
		if (!one_option(o, opt))
			return usage("wrong option or value", argv[at]);
	}
	if (optind < argc)
		return usage("what is this", argv[optind]);
	if (o->config.run_dir[0] == '\0' || !o->have_node || o->config.cluster[0] == '\0' ||
	    o->key_file == NULL || !o->have_listen)
		return usage("--run-dir, --node, --cluster, --key and --listen are needed", NULL);
	return -1;
}

/* ---- what is there before the parts ---- */

static int read_key(const char *path, u8 *ret, struct krg_err *err)
{
	char text[128];
	struct stat st;
	int n;

	if (stat(path, &st) < 0)
		return krg_err_set(err, -errno, "key %s", path);
	if (st.st_mode & 077)
		return krg_err_set(err, -EPERM, "key %s: others may read it (mode %o)", path,
				   st.st_mode & 0777);
	n = krg_read_file(path, text, sizeof(text));
	if (n < 0)
		return krg_err_set(err, n, "key %s", path);
	for (unsigned i = 0; i < 64; i++) {
		const char *hex = "0123456789abcdef";
		const char *d = text[i] != '\0' ? strchr(hex, text[i] | 0x20) : NULL;

		if (d == NULL)
			return krg_err_set(err, -EINVAL, "key %s: not 64 hexadecimal digits", path);
		ret[i / 2] = (u8)(ret[i / 2] << 4 | (u8)(d - hex));
	}
	n = text[64 + strspn(text + 64, "\n")] == '\0' ? 0 : -EINVAL;
	explicit_bzero(text, sizeof(text));
	return n < 0 ? krg_err_set(err, n, "key %s: not 64 hexadecimal digits", path) : 0;
}

static int open_log(struct options *o, struct krg_err *err)
{
	int fd = STDERR_FILENO;

	if (o->log_file != NULL) {
		fd = open(o->log_file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
		if (fd < 0)
			return krg_err_set(err, -errno, "log %s", o->log_file);
	}
	krg_log_init(fd, o->config.node, o->level);
	o->log_open = true;
	return 0;
}

/* One daemon a directory.  The lock's descriptor stays open as long as the daemon. */
static int lock_run_dir(const char *dir, struct krg_err *err)
{
	char path[128];
	int fd;

	if (mkdir(dir, 0755) < 0 && errno != EEXIST)
		return krg_err_set(err, -errno, "mkdir %s", dir);
	(void)snprintf(path, sizeof(path), "%s/lock", dir);
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0)
		return krg_err_set(err, -errno, "open %s", path);
	if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
		(void)close(fd);
		return krg_err_set(err, -EBUSY, "another daemon uses %s", dir);
	}
	return 0;
}

/* What is mounted from here on is seen here only, and ends with the last process here. */
static int own_mounts(struct krg_err *err)
{
	if (unshare(CLONE_NEWNS) < 0)
		return krg_err_set(err, -errno, "mount namespace");
	if (mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0)
		return krg_err_set(err, -errno, "mount namespace: make / a slave");
	return 0;
}

static void raise_limits(void)
{
	struct rlimit lim;

	if (getrlimit(RLIMIT_NOFILE, &lim) == 0) {
		lim.rlim_cur = lim.rlim_max;
		(void)setrlimit(RLIMIT_NOFILE, &lim);
	}
}

static void find_names(struct krgd_config *c)
{
	char dir[sizeof(c->libexec) - 32], path[sizeof(c->libexec)];
	ssize_t n;

	if (c->name[0] == '\0' && gethostname(c->name, sizeof(c->name) - 1) < 0)
		(void)snprintf(c->name, sizeof(c->name), "node%u", c->node);
	if (c->libexec[0] != '\0')
		return;
	n = readlink("/proc/self/exe", dir, sizeof(dir) - 1);
	dir[n > 0 ? n : 0] = '\0';
	*(strrchr(dir, '/') != NULL ? strrchr(dir, '/') : dir) = '\0';
	/* beside krgd in a build folder, in lib when installed */
	(void)snprintf(path, sizeof(path), "%s/krginit", dir);
	(void)snprintf(c->libexec, sizeof(c->libexec), "%s%s", dir,
		       access(path, X_OK) == 0 ? "" : "/../lib/kerrighed");
}

#define KRGD_NICE (-10)

static int prepare(struct options *o, struct krg_err *err)
{
	int r = geteuid() != 0 ? krg_err_set(err, -EPERM, "krgd needs root") : 0;

	if (r == 0)
		r = lock_run_dir(o->config.run_dir, err);
	if (r == 0)
		r = open_log(o, err);
	if (r == 0)
		r = read_key(o->key_file, o->config.key, err);
	if (r < 0)
		return r;
	r = krgd_kernel_check(err);
	if (r < 0)
		return r;
	find_names(&o->config); /* as the caller's mounts name things */
	r = own_mounts(err);
	if (r < 0)
		return r;
	raise_limits();
	/* Somebody waits for whatever it does: before the programs, which give their own value to
	 * what is made for them.  (A node's links answer while all its processors are busy.) */
	(void)setpriority(PRIO_PROCESS, 0, KRGD_NICE);
	krg_fault_arm_env();
	return 0;
}

/* ---- run ---- */

static int signals_open(struct krg_err *err)
{
	sigset_t set;
	int fd;

	(void)sigemptyset(&set);
	(void)sigaddset(&set, SIGTERM);
	(void)sigaddset(&set, SIGINT);
	(void)sigaddset(&set, SIGHUP);
	(void)signal(SIGPIPE, SIG_IGN);
	(void)sigprocmask(SIG_BLOCK, &set, NULL);
	fd = signalfd(-1, &set, SFD_CLOEXEC);
	return fd < 0 ? krg_err_set(err, -errno, "signalfd") : fd;
}

static int wait_for_term(int sigfd)
{
	struct signalfd_siginfo si;
	int r;

	do
		r = krg_read_all(sigfd, &si, sizeof(si));
	while (r == 0 && si.ssi_signo == SIGHUP);
	LOG_I("krgd", "signal %u: leaving", r == 0 ? si.ssi_signo : 0);
	return r;
}

static int say_ready(int *fd, struct krg_err *err)
{
	KRG_AUTO_FD int ready = TAKE_FD(*fd);
	int r = ready < 0 ? 0 : krg_write_all(ready, "ready\n", 6);

	return r < 0 ? krg_err_set(err, r, "ready-fd %d", ready) : 0;
}

static int serve(struct options *o, struct krg_err *err)
{
	KRG_AUTO_FD int sigfd = -EBADF;
	struct krgd *k = NULL;
	int r = sigfd = signals_open(err);

	if (r >= 0)
		r = krgd_new(&o->config, &k, err);
	if (r < 0)
		return r;
	r = krgd_start(k, err);
	if (r == 0)
		r = say_ready(&o->ready_fd, err);
	if (r == 0)
		r = wait_for_term(sigfd);
	krgd_stop(k);
	krgd_free(k);
	return r;
}

/* A burst of programs with megabytes of arguments is not to stay in the heap for ever: by itself malloc(3) stops
 * mapping what is large once one of that size has been freed, and keeps an arena for each few threads. */
static void memory_returns(void)
{
	(void)mallopt(M_MMAP_THRESHOLD, 512 << 10);
	(void)mallopt(M_TRIM_THRESHOLD, 512 << 10);
	(void)mallopt(M_ARENA_MAX, 4);
}

int main(int argc, char **argv)
{
	struct options o = {.ready_fd = -EBADF,
			    .level = KRG_LOG_INFO,
			    .config = {.join_ms = KRGD_JOIN_MS, .keep_ms = KRGD_KEEP_MS}};
	struct krg_err err = {.node = KRG_NODE_NONE};
	int r = parse(&o, argc, argv);

	if (r >= 0)
		return r;
	memory_returns();
	r = prepare(&o, &err);
	if (r == 0)
		r = serve(&o, &err);
	if (r == 0) {
		LOG_I("krgd", "ended");
		return 0;
	}
	if (o.log_file != NULL && o.log_open) /* else it would be said twice */
		LOG_E("krgd", "%s", err.text);
	(void)fprintf(stderr, "krgd: %s\n", err.text);
	if (o.ready_fd >= 0)
		(void)dprintf(o.ready_fd, "%s\n", err.text);
	return 1;
}
