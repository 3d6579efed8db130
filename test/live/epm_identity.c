/* epm_identity.c - what a program finds after its exec has gone to another node is what it finds
 * when it stays: each case is done both ways, and the two descriptions are compared. */
#include "epm.h"
#include <grp.h>
#include <linux/capability.h>
#include <linux/kcmp.h>
#include <linux/securebits.h>
#include <sched.h>
#include <spawn.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/utsname.h>
#include <sys/xattr.h>

extern char **environ;

/* ---- the description ---- */

static u64 hash(u64 h, const char *s)
{
	for (; *s != '\0'; s++)
		h = (h ^ (u8)*s) * 0x100000001b3ull;
	return (h ^ 255) * 0x100000001b3ull;
}

static void show_status(FILE *f)
{
	static const char *const want[] = {
		"Name:",   "Umask:",  "Uid:",	 "Gid:",     "Groups:",
		"SigBlk:", "SigIgn:", "SigCgt:", "CapInh:",  "CapPrm:",
		"CapEff:", "CapBnd:", "CapAmb:", "Threads:", "NoNewPrivs:"};
	FILE *in = fopen("/proc/self/status", "re");
	char line[8192];

	while (in != NULL && fgets(line, sizeof(line), in) != NULL)
		for (unsigned i = 0; i < KRG_NELEM(want); i++)
			if (strncmp(line, want[i], strlen(want[i])) == 0)
				(void)fputs(line, f);
	if (in != NULL)
		(void)fclose(in);
}

static void show_fds(FILE *f)
{
	pid_t self = getpid();
	int seen[64], n = 0;

	for (int fd = 0; fd < 1100; fd++) {
		int flags = fcntl(fd, F_GETFL), same = -1;
		struct stat st;
		off_t at;

		if (flags < 0 || fd == fileno(f))
			continue;
		for (int i = 0; i < n && same < 0; i++)
			if (syscall(SYS_kcmp, self, self, KCMP_FILE, fd, seen[i]) == 0)
				same = seen[i];
		if (n < (int)KRG_NELEM(seen))
			seen[n++] = fd;
		if (fstat(fd, &st) < 0)
			st.st_mode = 0;
		at = S_ISREG(st.st_mode) ? lseek(fd, 0, SEEK_CUR) : -1;
		/* what the test was started with: its pipes may be of either kind */
		if (fd <= 2 && getenv("SHOW_STDIO") == NULL)
			continue;
		(void)fprintf(f, "fd %d flags %o type %o at %lld same %d cloexec %d\n", fd,
			      (unsigned)flags & (O_ACCMODE | O_APPEND | O_NONBLOCK),
			      st.st_mode & S_IFMT, (long long)at, same, fcntl(fd, F_GETFD));
	}
}

static void show_strings(FILE *f, char **argv)
{
	u64 h = 0xcbf29ce484222325ull;
	size_t n = 0, bytes = 0;

	for (n = 0; argv[n] != NULL; n++) {
		h = hash(h, argv[n]);
		bytes += strlen(argv[n]);
	}
	(void)fprintf(f, "argv %zu %zu %llx\n", n, bytes, (unsigned long long)h);
	h = 0xcbf29ce484222325ull;
	for (n = bytes = 0; environ[n] != NULL; n++) {
		h = hash(h, environ[n]);
		bytes += strlen(environ[n]);
	}
	(void)fprintf(f, "env %zu %zu %llx\n", n, bytes, (unsigned long long)h);
}

static void show_rest(FILE *f)
{
	char text[4200] = "?";
	sigset_t set;
	ssize_t n;

	for (int r = 0; r < RLIMIT_NLIMITS; r++) {
		struct rlimit l = {0};

		(void)getrlimit((__rlimit_resource_t)r, &l);
		(void)fprintf(f, "limit %d %llx %llx\n", r, (unsigned long long)l.rlim_cur,
			      (unsigned long long)l.rlim_max);
	}
	(void)fprintf(f, "nice %d\n", getpriority(PRIO_PROCESS, 0));
	(void)fprintf(f, "policy %d\n", sched_getscheduler(0));
	(void)fprintf(f, "ioprio %ld\n", syscall(SYS_ioprio_get, 1, 0));
	(void)fprintf(f, "slack %d\n", prctl(PR_GET_TIMERSLACK));
	(void)fprintf(f, "securebits %d\n", prctl(PR_GET_SECUREBITS));
	(void)fprintf(f, "dumpable %d\n", prctl(PR_GET_DUMPABLE));
	(void)fprintf(f, "personality %x\n", (unsigned)personality(0xffffffff));
	if (slurp("/proc/self/oom_score_adj", text, sizeof(text)) > 0)
		(void)fprintf(f, "oom %s", text);
	if (getcwd(text, sizeof(text)) == NULL)
		(void)snprintf(text, sizeof(text), "errno %d", errno);
	(void)fprintf(f, "cwd %s\n", text);
	n = readlink("/proc/self/exe", text, sizeof(text) - 1);
	text[n > 0 ? n : 0] = '\0';
	(void)fprintf(f, "exe %s\n", text);
	(void)sigpending(&set);
	for (int s = 1; s < NSIG; s++)
		if (sigismember(&set, s) == 1)
			(void)fprintf(f, "pending %d\n", s);
}

/* The number of the world's node, by its name. */
static long node(void)
{
	struct utsname u;
	char *at;

	if (uname(&u) < 0)
		return -1;
	at = strpbrk(u.nodename, "0123456789");
	return at != NULL ? strtol(at, NULL, 10) : -1;
}

/* argv: program --show OUT … */
static int show(char **argv)
{
	/* renamed into place: who finds it, finds it whole */
	char tmp[512];
	FILE *f;

	(void)snprintf(tmp, sizeof(tmp), "%s.new", argv[2]);
	f = fopen(tmp, "we");
	if (f == NULL)
		return 99;
	(void)fprintf(f,
		      "#pid %d\n#ppid %d\n#pgid %d\n#sid %d\n#where %llu\n#mono %llu\n#node %ld\n",
		      getpid(), getppid(), getpgrp(), getsid(0), (unsigned long long)where(),
		      (unsigned long long)now_ms(), node());
	show_status(f);
	show_strings(f, argv);
	show_rest(f);
	show_fds(f);
	(void)fclose(f);
	(void)chmod(tmp, 0666);
	return rename(tmp, argv[2]) == 0 ? 33 : 98;
}

/* ---- two ways, compared ---- */

static long long number(const char *text, const char *name)
{
	const char *at = strstr(text, name);

	return at != NULL ? strtoll(at + strlen(name), NULL, 10) : -1;
}

/* "same", or the first lines that differ, as comments */
static bool same(const char *a, const char *b)
{
	unsigned differ = 0;

	while (*a != '\0' || *b != '\0') {
		size_t na = strcspn(a, "\n"), nb = strcspn(b, "\n");

		if (*a != '#' && (na != nb || memcmp(a, b, na) != 0)) {
			if (++differ <= 5)
				printf("# here : %.*s\n# there: %.*s\n", (int)KRG_MIN(na, 200ul), a,
				       (int)KRG_MIN(nb, 200ul), b);
		}
		a += na + (a[na] != '\0');
		b += nb + (b[nb] != '\0');
	}
	return differ == 0;
}

#define SHOW_MAX 65536
static char out_path[300];

struct kind {
	const char *name;
	void (*prepare)(void); /* in the child, before the exec */
	bool moves;
};

static const char *exe_path = self_path; /* what is executed */
static pid_t group_of_sibling;
static int memfd;

static void p_none(void) {}
static void p_group(void)
{
	(void)setpgid(0, 0);
}
static void p_other_group(void)
{
	if (setpgid(0, group_of_sibling) < 0)
		_exit(91);
}
static void p_session(void)
{
	(void)setsid();
}
static void p_user(void)
{
	gid_t g[] = {7, 1000, 65534, 4000000};

	(void)fchmodat(AT_FDCWD, work_dir, 0777, 0);
	if (setgroups(4, g) < 0 || setresgid(1001, 1002, 1003) < 0 ||
	    setresuid(2001, 2001, 2001) < 0)
		_exit(91);
}
static void p_user_mixed(void)
{
	if (setresgid(1001, 1002, 1003) < 0 || setresuid(2001, 2002, 2003) < 0)
		_exit(91);
}
static void p_user_saved_root(void)
{
	if (setresuid(2001, 2002, 0) < 0)
		_exit(91);
}
static void p_many_groups(void)
{
	static gid_t g[3000];

	for (unsigned i = 0; i < 3000; i++)
		g[i] = 100000 + i;
	if (setgroups(3000, g) < 0)
		_exit(91);
}
static void p_bounding(void)
{
	(void)prctl(PR_CAPBSET_DROP, CAP_SYS_TIME);
	(void)prctl(PR_CAPBSET_DROP, CAP_NET_RAW);
}
static void caps_set(u64 eff, u64 prm, u64 inh)
{
	struct __user_cap_header_struct h = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct d[2] = {
		{(u32)eff, (u32)prm, (u32)inh},
		{(u32)(eff >> 32), (u32)(prm >> 32), (u32)(inh >> 32)}};

	if (syscall(SYS_capset, &h, d) < 0)
		_exit(91);
}
static void p_ambient(void)
{
	u64 some = 1ull << CAP_NET_BIND_SERVICE | 1ull << CAP_KILL;

	(void)prctl(PR_SET_KEEPCAPS, 1);
	if (setresuid(2001, 2001, 2001) < 0)
		_exit(91);
	caps_set(some, some, some);
	if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_NET_BIND_SERVICE, 0, 0) < 0)
		_exit(92);
}
static void p_inheritable(void)
{
	caps_set(1ull << CAP_KILL, 1ull << CAP_KILL, 1ull << CAP_KILL);
}
static void p_noroot(void)
{
	(void)prctl(PR_SET_SECUREBITS, SECBIT_NOROOT | SECBIT_NOROOT_LOCKED);
}
static void p_nnp(void)
{
	(void)prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
}
static void p_umask(void)
{
	(void)umask(0137);
}
static void p_nice(void)
{
	(void)setpriority(PRIO_PROCESS, 0, 7);
}
static void p_nice_negative(void)
{
	(void)setpriority(PRIO_PROCESS, 0, -3);
	(void)setresuid(2001, 2001, 2001);
}
static void p_batch(void)
{
	struct sched_param p = {0};

	(void)sched_setscheduler(0, SCHED_BATCH, &p);
}
static void p_slack(void)
{
	(void)prctl(PR_SET_TIMERSLACK, 123456);
}
static void p_limits(void)
{
	struct rlimit nofile = {250, 300}, core = {0, 0}, cpu = {1000, 2000},
		      stack = {4 << 20, 64 << 20}, fsize = {1 << 30, RLIM_INFINITY};

	(void)setrlimit(RLIMIT_NOFILE, &nofile);
	(void)setrlimit(RLIMIT_CORE, &core);
	(void)setrlimit(RLIMIT_CPU, &cpu);
	(void)setrlimit(RLIMIT_STACK, &stack);
	(void)setrlimit(RLIMIT_FSIZE, &fsize);
}
static void p_few_files(void)
{
	struct rlimit nofile = {20, 20};

	(void)dup2(open("/dev/null", O_RDWR | O_CLOEXEC), 90);
	(void)setrlimit(RLIMIT_NOFILE, &nofile);
}
static void p_nproc(void)
{
	struct rlimit nproc = {400, 400};

	(void)setrlimit(RLIMIT_NPROC, &nproc);
	(void)setresuid(2001, 2001, 2001);
}
static void p_mask(void)
{
	u64 mask = ~0ull;

	(void)syscall(SYS_rt_sigprocmask, SIG_SETMASK, &mask, NULL, 8);
}
static void p_mask_some(void)
{
	u64 mask = 1ull << (SIGUSR1 - 1) | 1ull << 32 | 1ull << 63;

	(void)syscall(SYS_rt_sigprocmask, SIG_SETMASK, &mask, NULL, 8);
}
static void nop_handler(int s)
{
	(void)s;
}
static void p_dispositions(void)
{
	(void)signal(SIGINT, SIG_IGN);
	(void)signal(SIGQUIT, SIG_IGN);
	(void)signal(SIGPIPE, SIG_IGN);
	(void)signal(SIGRTMIN + 5, SIG_IGN);
	(void)signal(SIGUSR1, nop_handler);
	(void)signal(SIGCHLD, SIG_IGN);
}
static void p_pending(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGRTMIN);
	(void)sigprocmask(SIG_BLOCK, &set, NULL);
	(void)raise(SIGUSR1);
	(void)kill(getpid(), SIGTERM);
	(void)kill(getpid(), SIGRTMIN);
}
static void p_personality(void)
{
	(void)personality(ADDR_NO_RANDOMIZE);
}
static void p_personality_uname(void)
{
	(void)personality(UNAME26);
}
static void p_oom(void)
{
	(void)!krg_write_file("/proc/self/oom_score_adj", "321");
}
static void p_cwd(void)
{
	(void)mkdir(in_work("dir with blanks\nand more"), 0755);
	(void)chdir(in_work("dir with blanks\nand more"));
}
static void p_cwd_private(void)
{
	(void)mkdir(in_work("private"), 0700);
	(void)chdir(in_work("private"));
	(void)setresuid(2001, 2001, 2001);
}
static void p_cwd_deleted(void)
{
	(void)mkdir(in_work("gone"), 0755);
	(void)chdir(in_work("gone"));
	(void)rmdir(in_work("gone"));
}

/* descriptors */
static int data_file(int flags)
{
	int fd = open(in_work("data"), O_RDWR | O_CREAT | O_TRUNC, 0666);

	(void)!write(fd, "0123456789", 10);
	(void)close(fd);
	return open(in_work("data"), flags);
}
static void p_fd_gaps(void)
{
	int a = data_file(O_RDWR);

	(void)lseek(a, 4, SEEK_SET);
	(void)dup2(a, 50);
	(void)dup2(a, 7);
	(void)close(a);
	(void)dup2(open("/dev/null", O_WRONLY | O_CLOEXEC), 61);
	(void)dup2(open("/dev/zero", O_RDONLY | O_CLOEXEC), 62);
	(void)dup2(open("/tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC), 199);
	(void)dup2(open("/dev/urandom", O_RDONLY | O_CLOEXEC), 1000);
}
static void p_fd_two_opens(void)
{
	int a = data_file(O_RDONLY), b = open(in_work("data"), O_WRONLY | O_APPEND);

	(void)lseek(a, 3, SEEK_SET);
	(void)dup2(a, 40);
	(void)dup2(b, 41);
	(void)dup2(b, 42);
	(void)dup2(a, 43);
	(void)close(a);
	(void)close(b);
}
static void p_fd_none(void)
{
	(void)close_range(0, ~0u, 0);
}
static void p_fd_deleted(void)
{
	int a = data_file(O_RDWR);

	(void)lseek(a, 6, SEEK_SET);
	(void)dup2(a, 30);
	(void)close(a);
	(void)unlink(in_work("data"));
}
static void p_fd_unreadable(void)
{
	int a = data_file(O_RDONLY);

	(void)chmod(in_work("data"), 0);
	(void)dup2(a, 30);
	(void)close(a);
	(void)setresuid(2001, 2001, 2001);
}
static void p_fd_written_ro(void)
{
	/* opened for writing once, now mode 0400 */
	int a = data_file(O_WRONLY);

	(void)chmod(in_work("data"), 0444);
	(void)dup2(a, 30);
	(void)close(a);
}
static void p_fd_memfd(void)
{
	(void)dup2(memfd, 30); /* one for both ways: its inode is compared */
}
static void p_fd_pipe(void)
{
	int p[2];

	(void)!pipe(p);
	(void)dup2(p[0], 30);
	(void)dup2(p[1], 31);
	(void)close(p[0]);
	(void)close(p[1]);
}
static void p_fd_nonblock_pipe(void)
{
	int p[2];

	(void)!pipe2(p, O_NONBLOCK);
	(void)dup2(p[0], 30);
	(void)dup2(p[1], 31);
	(void)close(p[0]);
	(void)close(p[1]);
}
static void p_fd_tty(void)
{
	int m = open("/dev/ptmx", O_RDWR | O_NOCTTY);

	(void)dup2(m, 30);
	(void)close(m);
}
static void p_fd_socket(void)
{
	(void)dup2(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), 30);
}
static void p_fd_eventfd(void)
{
	(void)dup2(eventfd(0, EFD_CLOEXEC), 30);
}
static void p_fd_path(void)
{
	(void)dup2(open("/tmp", O_PATH | O_CLOEXEC), 30);
}
static void p_fd_many(void)
{
	for (int i = 0; i < 150; i++)
		(void)dup2(memfd, 20 + i);
}
static void p_fd_too_many(void)
{
	for (int i = 0; i < 300; i++)
		(void)dup2(memfd, 20 + i);
}

/* ---- programs with more rights than their caller ---- */

static char suid_root[400], suid_user[400], sgid_group[400], with_caps[400], root_dir[400];

static void copy(const char *from, const char *to)
{
	char buf[65536];
	int in = open(from, O_RDONLY | O_CLOEXEC);
	int fd = open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0755);
	ssize_t n;

	while (in >= 0 && fd >= 0 && (n = read(in, buf, sizeof(buf))) > 0)
		ASSERT(write(fd, buf, (size_t)n) == n);
	(void)close(in);
	(void)close(fd);
}

static void set_id(char *path, const char *name, uid_t uid, gid_t gid, mode_t mode)
{
	(void)snprintf(path, 400, "%s", in_work(name));
	copy(self_path, path);
	ASSERT(chown(path, uid, gid) == 0 && chmod(path, mode) == 0);
}

static void set_caps(void)
{
	struct vfs_cap_data d = {.magic_etc = VFS_CAP_REVISION_2 | VFS_CAP_FLAGS_EFFECTIVE,
				 .data[0].permitted = 1u << CAP_NET_RAW | 1u << CAP_KILL};

	set_id(with_caps, "with_caps", 0, 0, 0755);
	ASSERT(setxattr(with_caps, "security.capability", &d, sizeof(d), 0) == 0);
}

static void make_dirs(char *path)
{
	for (char *at = strchr(path + 1, '/'); at != NULL; at = strchr(at + 1, '/')) {
		*at = '\0';
		(void)mkdir(path, 0755);
		*at = '/';
	}
}

/* A root directory with this program and what it is linked with. */
static void make_root(void)
{
	FILE *f = fopen("/proc/self/maps", "re");
	char line[5000], to[5000];

	(void)snprintf(root_dir, sizeof(root_dir), "%s", in_work("root"));
	(void)mkdir(root_dir, 0755);
	while (f != NULL && fgets(line, sizeof(line), f) != NULL) {
		char *at = strchr(line, '/');

		if (at == NULL)
			continue;
		at[strcspn(at, "\n")] = '\0';
		if (strstr(at, "/ld-linux") != NULL) {
			(void)snprintf(to, sizeof(to), "%s/lib64/ld-linux-x86-64.so.2", root_dir);
			make_dirs(to);
			copy(at, to);
		}
		(void)snprintf(to, sizeof(to), "%s%s", root_dir, at);
		make_dirs(to);
		copy(at, to);
	}
	if (f != NULL)
		(void)fclose(f);
	(void)snprintf(to, sizeof(to), "%s%s/x", root_dir, work_dir);
	make_dirs(to);
}

static void as_user(const char *path)
{
	exe_path = path;
	p_user();
}
static void p_suid_root(void)
{
	as_user(suid_root);
}
static void p_suid_user(void)
{
	as_user(suid_user);
}
static void p_suid_by_root(void)
{
	exe_path = suid_user;
}
static void p_sgid(void)
{
	as_user(sgid_group);
}
static void p_caps(void)
{
	as_user(with_caps);
}
static void p_suid_nnp(void)
{
	(void)prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	as_user(suid_root);
}
static void p_suid_unreadable(void)
{
	(void)chmod(suid_root, 04711);
	as_user(suid_root);
}
static void p_root(void)
{
	if (chdir(root_dir) < 0 || chroot(root_dir) < 0 || chdir("/lib64") < 0)
		_exit(91);
}

static const struct kind kinds[] = {
	{"nothing special", p_none, true},
	{"leads a group", p_group, true},
	{"in the group of a sibling", p_other_group, true},
	{"leads a session", p_session, false},
	{"another user, groups", p_user, true},
	{"three user ids", p_user_mixed, true},
	{"saved user id root", p_user_saved_root, true},
	{"3000 groups", p_many_groups, true},
	{"bounding set", p_bounding, true},
	{"ambient capability", p_ambient, true},
	{"inheritable capability", p_inheritable, true},
	{"root without privileges (securebits)", p_noroot, true},
	{"no_new_privs", p_nnp, true},
	{"umask", p_umask, true},
	{"nice", p_nice, true},
	{"negative nice, as a user", p_nice_negative, true},
	{"SCHED_BATCH", p_batch, false},
	{"timer slack", p_slack, false},
	{"limits", p_limits, true},
	{"fewer descriptors allowed than open", p_few_files, true},
	{"processes limited, as a user", p_nproc, true},
	{"all signals blocked", p_mask, true},
	{"some signals blocked", p_mask_some, true},
	{"ignored and caught signals", p_dispositions, true},
	{"pending signals", p_pending, true},
	{"personality", p_personality, true},
	{"personality UNAME26", p_personality_uname, true},
	{"oom_score_adj", p_oom, true},
	{"directory with a newline", p_cwd, true},
	{"directory of another user", p_cwd_private, true},
	{"directory deleted", p_cwd_deleted, false},
	{"descriptors with gaps and copies", p_fd_gaps, true},
	{"one file opened twice, copies", p_fd_two_opens, true},
	{"no descriptors", p_fd_none, true},
	{"a deleted file", p_fd_deleted, true},
	{"a file that could not be opened again", p_fd_unreadable, true},
	{"a file that was made read-only", p_fd_written_ro, true},
	{"a memfd", p_fd_memfd, true},
	{"both ends of a pipe", p_fd_pipe, false},
	{"both ends of a non-blocking pipe", p_fd_nonblock_pipe, false},
	{"a terminal's master", p_fd_tty, false},
	{"a socket", p_fd_socket, false},
	{"an eventfd", p_fd_eventfd, false},
	{"an O_PATH descriptor", p_fd_path, false},
	{"150 descriptors", p_fd_many, true},
	{"300 descriptors", p_fd_too_many, false},
	{"set-user-id root", p_suid_root, true},
	{"set-user-id to a user", p_suid_user, true},
	{"set-user-id to a user, by root", p_suid_by_root, true},
	{"set-group-id", p_sgid, true},
	{"file capabilities", p_caps, true},
	{"set-user-id with no_new_privs", p_suid_nnp, true},
	{"set-user-id, not readable", p_suid_unreadable, true},
	{"another root directory", p_root, true},
};

static ssize_t one_way(const struct kind *k, bool here, char **argv, char **envp, char *text,
		       pid_t *ret)
{
	pid_t pid;
	int status;

	(void)unlink(out_path);
	(void)fflush(stdout);
	pid = fork();
	if (pid == 0) {
		k->prepare();
		if (here)
			(void)exec_here(exe_path, argv, envp);
		else
			(void)execve(exe_path, argv, envp);
		_exit(90);
	}
	*ret = pid;
	status = wait_ms(pid, 10000);
	if (k->prepare == p_root) {
		char in_root[900];

		(void)snprintf(in_root, sizeof(in_root), "%s%s", root_dir, out_path);
		(void)rename(in_root, out_path);
	}
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 33) {
		printf("# %s, %s: status %#x\n", k->name, here ? "here" : "there",
		       (unsigned)status);
		if (!(k->prepare == p_dispositions && status >= 0)) /* SIGCHLD was its own */
			return -1;
	}
	return slurp(out_path, text, SHOW_MAX);
}

static void both_ways(const struct kind *k, char **argv, char **envp)
{
	static char here[SHOW_MAX], there[SHOW_MAX];
	pid_t pid, pid2;
	bool moved;

	if (one_way(k, true, argv, envp, here, &pid) <= 0 ||
	    one_way(k, false, argv, envp, there, &pid2) <= 0) {
		tap_ok(false, "%s: runs", k->name);
		return;
	}
	tap_ok(same(here, there), "%s: the same there as here", k->name);
	if (k->prepare == p_suid_root)
		tap_ok(strstr(there, "Uid:\t2001\t0\t0\t0\n") != NULL, "%s: it has its rights",
		       k->name);
	if (number(there, "#pid ") != pid2 || number(there, "#ppid ") != getpid() ||
	    number(there, "#pgid ") != (k->prepare == p_group || k->prepare == p_session ? pid2
					: k->prepare == p_other_group ? group_of_sibling
								      : getpgrp()) ||
	    number(there, "#sid ") != (k->prepare == p_session ? pid2 : getsid(0)))
		tap_ok(false, "%s: pid %lld (%d) of %lld (%d), group %lld, session %lld", k->name,
		       number(there, "#pid "), pid2, number(there, "#ppid "), getpid(),
		       number(there, "#pgid "), number(there, "#sid "));
	if (llabs(number(there, "#mono ") - (long long)now_ms()) > 5000)
		tap_ok(false, "%s: the clock", k->name);
	moved = k->prepare == p_root ? number(there, "#node ") != node()
				     : number(there, "#where ") != (long long)where();
	if (k->moves && expect_moves())
		tap_ok(moved, "%s: it went to another node", k->name);
	else
		printf("# %s: %s\n", k->name, moved ? "moved" : "stayed");
}

static void test_kinds(void)
{
	char *argv[] = {(char *)"show", (char *)"--show", out_path, NULL};
	pid_t leader = fork();

	if (leader == 0) {
		(void)setpgid(0, 0);
		for (;;)
			(void)pause();
	}
	(void)setpgid(leader, leader);
	group_of_sibling = leader;
	set_id(suid_root, "suid_root", 0, 0, 04755);
	set_id(suid_user, "suid_user", 2005, 2006, 04755);
	set_id(sgid_group, "sgid_group", 2005, 2006, 02755);
	set_caps();
	make_root();
	memfd = memfd_create("test", MFD_CLOEXEC);
	(void)!write(memfd, "hello", 5);
	for (unsigned i = 0; i < KRG_NELEM(kinds); i++)
		both_ways(&kinds[i], argv, environ);
	(void)kill(leader, SIGKILL);
	(void)waitpid(leader, NULL, 0);
}

static void test_strings(void)
{
	static const struct kind k = {"1 MB of arguments and environment", p_none, true},
				 none = {"no environment", p_none, true},
				 odd = {"odd strings", p_none, true};
	char *argv[40] = {(char *)"show", (char *)"--show", out_path}, *env[4000];
	char *big = malloc(60001), *none_env[] = {NULL};
	char *odd_argv[] = {(char *)"",	  (char *)"--show", out_path, (char *)"",
			    (char *)"\n", (char *)"\377\1", NULL};
	char *odd_env[] = {(char *)"",	  (char *)"=",	 (char *)"no equals",
			   (char *)"A=1", (char *)"A=2", (char *)"KRGV=3",
			   NULL};
	unsigned i;

	memset(big, 'x', 60000);
	big[60000] = '\0';
	for (i = 3; i < 12; i++)
		argv[i] = big;
	argv[i] = NULL;
	for (i = 0; i < 3999; i++)
		if (asprintf(&env[i], "VARIABLE_%u=%0*u", i, 100, i) < 0)
			return;
	env[i] = NULL;
	both_ways(&k, argv, env);
	argv[3] = NULL;
	both_ways(&none, argv, none_env);
	both_ways(&odd, odd_argv, odd_env);
	for (i = 0; i < 3999; i++)
		free(env[i]);
	free(big);
}

/* ---- the ways to start a program ---- */

static bool shown(const char *what, long long ppid, long long pid, bool moves)
{
	static char text[SHOW_MAX];
	bool ok = slurp(out_path, text, sizeof(text)) > 0;

	(void)unlink(out_path);
	if (!tap_ok(ok, "%s: ran", what))
		return false;
	if (ppid > 0)
		tap_eq(number(text, "#ppid "), ppid, "%s: its parent", what);
	if (pid > 0)
		tap_eq(number(text, "#pid "), pid, "%s: its pid", what);
	if (moves && expect_moves())
		tap_ok(number(text, "#where ") != (long long)where(), "%s: elsewhere", what);
	return true;
}

static void status_is_33(const char *what, int status)
{
	tap_ok(WIFEXITED(status) && WEXITSTATUS(status) == 33, "%s: its status (%#x)", what,
	       (unsigned)status);
}

static void test_ways(void)
{
	char *argv[] = {(char *)"show", (char *)"--show", out_path, NULL};
	char cmd[9000];
	pid_t pid;
	FILE *f;
	int fd;

	pid = vfork();
	if (pid == 0) {
		(void)execve(self_path, argv, environ);
		_exit(90);
	}
	status_is_33("vfork", wait_ms(pid, 10000));
	shown("vfork", getpid(), pid, true);

	tap_eq(posix_spawn(&pid, self_path, NULL, NULL, argv, environ), 0, "posix_spawn");
	status_is_33("posix_spawn", wait_ms(pid, 10000));
	shown("posix_spawn", getpid(), pid, true);

	(void)snprintf(cmd, sizeof(cmd), "%s --show %s", self_path, out_path);
	status_is_33("system", system(cmd));
	shown("system", 0, 0, false);
	(void)snprintf(cmd, sizeof(cmd), "%s --show %s; exit 33", self_path, out_path);
	status_is_33("system, two commands", system(cmd));
	shown("system, two commands", 0, 0, false);

	(void)snprintf(cmd, sizeof(cmd), "%s --show %s; echo said; exit 33", self_path, out_path);
	f = popen(cmd, "re");
	tap_ok(f != NULL && fgets(cmd, sizeof(cmd), f) != NULL && strcmp(cmd, "said\n") == 0,
	       "popen: its output");
	status_is_33("popen", f != NULL ? pclose(f) : -1);
	shown("popen", 0, 0, false);

	pid = fork();
	if (pid == 0) {
		(void)syscall(SYS_execveat, AT_FDCWD, self_path, argv, environ, 0);
		_exit(90);
	}
	status_is_33("execveat of a path", wait_ms(pid, 10000));
	shown("execveat of a path", getpid(), pid, true);

	fd = open(self_path, O_RDONLY | O_CLOEXEC);
	pid = fork();
	if (pid == 0) {
		(void)fexecve(fd, argv, environ);
		_exit(90);
	}
	(void)close(fd);
	status_is_33("fexecve", wait_ms(pid, 10000));
	shown("fexecve", getpid(), pid, false);

	/* relative to the directory */
	pid = fork();
	if (pid == 0) {
		char *slash = strrchr(self_path, '/');

		*slash = '\0';
		(void)chdir(self_path);
		(void)snprintf(cmd, sizeof(cmd), "./%s", slash + 1);
		(void)execve(cmd, argv, environ);
		_exit(90);
	}
	status_is_33("a relative path", wait_ms(pid, 10000));
	shown("a relative path", getpid(), pid, true);
}

static void script(const char *name, const char *fmt, const char *a)
{
	FILE *f = fopen(in_work(name), "we");

	if (f == NULL)
		return;
	(void)fprintf(f, fmt, a);
	(void)fclose(f);
	(void)chmod(in_work(name), 0755);
}

static void run_script(const char *name, const char *what, bool moves)
{
	char *argv[] = {(char *)"script", (char *)"--show", out_path, NULL};
	pid_t pid = fork();

	if (pid == 0) {
		(void)execve(in_work(name), argv, environ);
		_exit(90);
	}
	status_is_33(what, wait_ms(pid, 10000));
	/* a shell runs it as its child */
	shown(what, moves ? getpid() : 0, moves ? pid : 0, moves);
}

static void test_scripts(void)
{
	char cmd[9000];

	/* #! self -- the kernel calls: self --script SCRIPT --show OUT */
	(void)snprintf(cmd, sizeof(cmd), "#!%s --script\n", self_path);
	script("one", "%s", cmd);
	run_script("one", "a script", true);
	script("two", "#!%s\n", in_work("one"));
	run_script("two", "a script of a script", true);
	(void)snprintf(cmd, sizeof(cmd), "#!/bin/sh\n%s --show \"$2\"\nexit 33\n", self_path);
	script("three", "%s", cmd);
	run_script("three", "a shell script", false);
	(void)snprintf(cmd, sizeof(cmd), "%s --show \"$2\"\nexit 33\n", self_path);
	script("four", "%s", cmd);
	(void)snprintf(cmd, sizeof(cmd), "exec '%s' --show '%s'", in_work("four"), out_path);
	status_is_33("a script without #!, by the shell", system(cmd));
	shown("a script without #!", 0, 0, false);
}

/* A program that moved executes another; one that makes children, which go on to third nodes. */
static void test_chains(void)
{
	static const struct {
		const char *mode, *what;
	} chain[] = {{"--again", "exec again"},
		     {"--fork", "a grandchild"},
		     {"--spawn3", "great-grandchildren"}};

	for (unsigned i = 0; i < KRG_NELEM(chain); i++) {
		char *argv[] = {(char *)"chain", (char *)chain[i].mode, out_path, NULL};
		pid_t pid = fork();

		if (pid == 0) {
			(void)execve(self_path, argv, environ);
			_exit(90);
		}
		status_is_33(chain[i].what, wait_ms(pid, 10000));
		shown(chain[i].what, i == 0 ? getpid() : 0, i == 0 ? pid : 0, false);
	}
}

static int chain_fork(char **argv, int depth)
{
	char *next[] = {(char *)"show", (char *)"--show", argv[2], NULL};
	pid_t pid = fork();
	int status;

	if (pid == 0) {
		if (depth > 1)
			_exit(chain_fork(argv, depth - 1));
		(void)execve(self_path, next, environ);
		_exit(90);
	}
	if (waitpid(pid, &status, 0) != pid)
		return 80;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 81;
}

/* An alarm outlives an exec, and so does it here. */
static void test_alarm(void)
{
	char *argv[] = {(char *)"sleep", (char *)"20", NULL};
	pid_t pid = fork();
	int status;

	if (pid == 0) {
		(void)alarm(1);
		(void)execve("/bin/sleep", argv, environ);
		_exit(90);
	}
	status = wait_ms(pid, 8000);
	tap_ok(status >= 0 && WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM,
	       "an alarm set before the exec ends it (%#x)", (unsigned)status);
}

int main(int argc, char **argv)
{
	ssize_t n = readlink("/proc/self/exe", self_path, sizeof(self_path) - 1);

	self_path[n > 0 ? n : 0] = '\0';
	if (argc >= 3 && strcmp(argv[1], "--show") == 0)
		return show(argv);
	if (argc >= 4 && strcmp(argv[1], "--script") == 0) {
		/* self --script [SCRIPT…] --show OUT */
		while (argc > 3 && strcmp(argv[1], "--show") != 0) {
			argv++;
			argc--;
		}
		return show(argv);
	}
	if (argc >= 3 && strcmp(argv[1], "--again") == 0) {
		argv[1] = (char *)"--show";
		(void)execve(self_path, argv, environ);
		return 90;
	}
	if (argc >= 3 && strcmp(argv[1], "--fork") == 0)
		return chain_fork(argv, 1);
	if (argc >= 3 && strcmp(argv[1], "--spawn3") == 0)
		return chain_fork(argv, 3);
	test_init("identity", 120);
	(void)snprintf(out_path, sizeof(out_path), "%s/out", work_dir);
	test_kinds();
	test_strings();
	test_ways();
	test_scripts();
	test_chains();
	test_alarm();
	test_fini();
	return tap_done();
}
