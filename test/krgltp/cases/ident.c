/* ident.c - what a process is, before and after execve: the same, but for what execve changes.
 *
 * A property is described by a function; the child describes itself before its exec, and after.  Each case
 * changes the property first, so that a default does not pass for what was kept. */
#include "case.h"
#include <grp.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/time.h>
#include <time.h>

#define TEXT_MAX 60000

struct property {
	const char *name;
	void (*change)(void);	    /* in the child, before its exec */
	void (*describe)(char *to); /* TEXT_MAX bytes */
	const char *after;	    /* NULL: as before; else this */
};

__attribute__((format(printf, 2, 3))) static void put(char *to, const char *fmt, ...)
{
	size_t used = strlen(to);
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(to + used, TEXT_MAX - used, fmt, ap);
	va_end(ap);
}

/* Lines of /proc/self/status that begin so. */
static void put_status(char *to, const char *begin)
{
	FILE *f = fopen("/proc/self/status", "re");
	char line[32768];

	CHECK(f != NULL, "/proc/self/status: %s", strerror(errno));
	while (fgets(line, sizeof(line), f) != NULL)
		if (strncmp(line, begin, strlen(begin)) == 0)
			put(to, "%s", line);
	(void)fclose(f);
}

/* ---- numbers, kin ---- */

static void nothing(void) {}

static void d_pid(char *to)
{
	put(to, "%d %ld", getpid(), syscall(SYS_gettid));
}
static void d_ppid(char *to)
{
	put(to, "%d", getppid());
}
static void ch_pgid(void)
{
	(void)OK(setpgid(0, 0));
}
static void d_pgid(char *to)
{
	put(to, "%d %d %d", getpgrp(), getpgid(0), getpgid(getpid()));
}
static void ch_sid(void)
{
	(void)OK(setsid());
}
static void d_sid(char *to)
{
	put(to, "%d %d %d", getsid(0), getsid(getpid()), getpgrp());
}

/* ---- credentials ---- */

static void ch_uids(void)
{
	need_root();
	(void)OK(setresuid(2001, 2002, 2003));
}
static void d_uids(char *to)
{
	uid_t r, e, s;

	(void)getresuid(&r, &e, &s);
	put(to, "%u %u %u\n", r, e, s);
	put_status(to, "Uid:");
}
static void ch_gids(void)
{
	need_root();
	(void)OK(setresgid(1001, 1002, 1003));
}
static void d_gids(char *to)
{
	gid_t r, e, s;

	(void)getresgid(&r, &e, &s);
	put(to, "%u %u %u\n", r, e, s);
	put_status(to, "Gid:");
}
static void ch_groups(void)
{
	const gid_t g[] = {7, 1000, 65534, 4000000};

	need_root();
	(void)OK(setgroups(NELEM(g), g));
}
static void ch_groups_none(void)
{
	need_root();
	(void)OK(setgroups(0, NULL));
}
static void ch_groups_many(void)
{
	static gid_t g[3000];

	need_root();
	for (unsigned i = 0; i < NELEM(g); i++)
		g[i] = 100000 + i;
	(void)OK(setgroups(NELEM(g), g));
}
static void d_groups(char *to)
{
	static gid_t g[65536];
	int n = getgroups(NELEM(g), g);

	for (int i = 0; i < n; i++)
		put(to, "%u ", g[i]);
	put(to, "(%d)", n);
}
static void caps_set(unsigned long eff, unsigned long prm, unsigned long inh)
{
	struct __user_cap_header_struct h = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct d[2] = {
		{(unsigned)eff, (unsigned)prm, (unsigned)inh},
		{(unsigned)(eff >> 32), (unsigned)(prm >> 32), (unsigned)(inh >> 32)}};

	(void)OK(syscall(SYS_capset, &h, d));
}
static void ch_caps_bounding(void)
{
	need_root();
	(void)OK(prctl(PR_CAPBSET_DROP, CAP_SYS_TIME));
	(void)OK(prctl(PR_CAPBSET_DROP, CAP_NET_RAW));
	caps_set(1ul << CAP_KILL, 1ul << CAP_KILL, 1ul << CAP_KILL);
	/* what root gets by an exec: all of the bounding set */
}
static void d_caps_bounding(char *to)
{
	put_status(to, "CapBnd:");
	put_status(to, "CapInh:");
}
static void ch_caps_ambient(void)
{
	unsigned long some = 1ul << CAP_NET_BIND_SERVICE | 1ul << CAP_KILL;

	need_root();
	(void)OK(prctl(PR_SET_KEEPCAPS, 1));
	(void)OK(setresuid(2001, 2001, 2001));
	caps_set(1ul << CAP_NET_BIND_SERVICE, some, some);
	(void)OK(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_NET_BIND_SERVICE, 0, 0));
}
static void d_caps_ambient(char *to)
{
	put_status(to, "CapAmb:");
	put_status(to, "CapEff:");
	put_status(to, "CapInh:");
}
static void ch_caps_lost(void)
{
	need_root();
	(void)OK(prctl(PR_SET_KEEPCAPS, 1));
	(void)OK(setresuid(2001, 2001, 2001));
}
static void d_caps_lost(char *to)
{
	put_status(to, "CapPrm:");
	put_status(to, "CapEff:");
	put(to, "keep %d", prctl(PR_GET_KEEPCAPS));
}
static void ch_nnp(void)
{
	(void)OK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
}
static void d_nnp(char *to)
{
	put(to, "%d", prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
}
static void ch_securebits(void)
{
	need_root();
	(void)OK(prctl(PR_SET_SECUREBITS, SECBIT_NOROOT | SECBIT_NO_SETUID_FIXUP));
}
static void d_securebits(char *to)
{
	put(to, "%d", prctl(PR_GET_SECUREBITS));
}
/* root is nobody then: its programs have no capabilities, but for ambient ones */
static void ch_noroot_ambient(void)
{
	struct __user_cap_header_struct h = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct d[2];

	need_root();
	(void)OK(syscall(SYS_capget, &h, d));
	d[0].inheritable = d[0].permitted;
	(void)OK(syscall(SYS_capset, &h, d));
	(void)OK(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_CHOWN, 0, 0));
	(void)OK(prctl(PR_SET_SECUREBITS,
		       SECBIT_NOROOT | SECBIT_NOROOT_LOCKED | SECBIT_NO_CAP_AMBIENT_RAISE |
			       SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED | SECBIT_KEEP_CAPS_LOCKED));
}
static void d_noroot_ambient(char *to)
{
	put(to, "%d\n", prctl(PR_GET_SECUREBITS));
	put_status(to, "CapPrm:");
	put_status(to, "CapEff:");
	put_status(to, "CapAmb:");
}

/* ---- files' context ---- */

static void ch_cwd(void)
{
	(void)OK(mkdir("a b\nc", 0755));
	(void)OK(chdir("a b\nc"));
}
static void ch_cwd_deleted(void)
{
	(void)OK(mkdir("gone", 0755));
	(void)OK(chdir("gone"));
	(void)OK(rmdir("../gone"));
}
static void d_cwd(char *to)
{
	char cwd[4096] = "";
	struct stat st;

	if (syscall(SYS_getcwd, cwd, sizeof(cwd)) < 0)
		put(to, "%s ", strerror(errno));
	(void)OK(stat(".", &st));
	put(to, "%s %lu %lu links %lu", cwd, st.st_dev, st.st_ino, st.st_nlink);
}
static void ch_cwd_private(void)
{
	need_root();
	(void)OK(mkdir("private", 0700));
	(void)OK(chdir("private"));
	(void)OK(setresuid(2001, 2001, 2001));
}
static void d_cwd_private(char *to)
{
	put(to, "%s", access(".", R_OK) == 0 ? "readable" : strerror(errno));
}
static void ch_umask(void)
{
	(void)umask(0137);
}
static void d_umask(char *to)
{
	mode_t m = umask(0);

	(void)umask(m);
	put(to, "%o", m);
}

/* ---- limits ---- */

static const struct {
	const char *name;
	int resource;
	rlim_t soft;
} limits[] = {{"as", RLIMIT_AS, 8ull << 30},
	      {"core", RLIMIT_CORE, 12345},
	      {"cpu", RLIMIT_CPU, 1000},
	      {"data", RLIMIT_DATA, 4ull << 30},
	      {"fsize", RLIMIT_FSIZE, 1 << 30},
	      {"locks", RLIMIT_LOCKS, 77},
	      {"memlock", RLIMIT_MEMLOCK, 1 << 20},
	      {"msgqueue", RLIMIT_MSGQUEUE, 700000},
	      {"nice", RLIMIT_NICE, 10},
	      {"nofile", RLIMIT_NOFILE, 250},
	      {"nproc", RLIMIT_NPROC, 5000},
	      {"rss", RLIMIT_RSS, 1 << 30},
	      {"rtprio", RLIMIT_RTPRIO, 5},
	      {"rttime", RLIMIT_RTTIME, 5000000},
	      {"sigpending", RLIMIT_SIGPENDING, 3000},
	      {"stack", RLIMIT_STACK, 4 << 20}};

static unsigned limit_index(void)
{
	for (unsigned i = 0; i < NELEM(limits); i++)
		if (strcmp(limits[i].name, sub_arg) == 0)
			return i;
	FAIL("no limit '%s'", sub_arg);
}
static void ch_rlimit(void)
{
	struct rlimit l;
	unsigned i = limit_index();

	(void)OK(getrlimit((__rlimit_resource_t)limits[i].resource, &l));
	if (l.rlim_max != RLIM_INFINITY && l.rlim_max < limits[i].soft + 1 && geteuid() != 0)
		skip("the limit is lower here");
	l = (struct rlimit){limits[i].soft, limits[i].soft + 1};
	if (setrlimit((__rlimit_resource_t)limits[i].resource, &l) < 0)
		skip("the limit cannot be raised: %s", strerror(errno));
}
static void d_rlimit(char *to)
{
	struct rlimit l = {0, 0};

	(void)OK(getrlimit((__rlimit_resource_t)limits[limit_index()].resource, &l));
	put(to, "%lu %lu", l.rlim_cur, l.rlim_max);
}

/* ---- scheduling ---- */

static void ch_nice(void)
{
	(void)OK(setpriority(PRIO_PROCESS, 0, 7));
}
static void ch_nice_negative(void)
{
	need_root();
	(void)OK(setpriority(PRIO_PROCESS, 0, -3));
	(void)OK(setresuid(2001, 2001, 2001));
}
static void d_nice(char *to)
{
	put(to, "%d", getpriority(PRIO_PROCESS, 0));
}
static void ch_ioprio(void)
{
	(void)OK(syscall(SYS_ioprio_set, 1, 0, 2 << 13 | 6));
}
static void d_ioprio(char *to)
{
	put(to, "%ld", syscall(SYS_ioprio_get, 1, 0));
}
static void ch_policy(void)
{
	struct sched_param p = {0};

	(void)OK(
		sched_setscheduler(0, strcmp(sub_arg, "idle") == 0 ? SCHED_IDLE : SCHED_BATCH, &p));
}
static void d_policy(char *to)
{
	put(to, "%d", sched_getscheduler(0));
}
static void ch_policy_rt(void)
{
	struct sched_param p = {.sched_priority = 3};

	need_root();
	if (sched_setscheduler(0, strcmp(sub_arg, "rr") == 0 ? SCHED_RR : SCHED_FIFO, &p) < 0)
		skip("no real-time scheduling: %s", strerror(errno));
}
static void d_policy_rt(char *to)
{
	struct sched_param p;

	(void)OK(sched_getparam(0, &p));
	put(to, "%d %d", sched_getscheduler(0), p.sched_priority);
}
static void ch_affinity(void)
{
	cpu_set_t one, all;
	int cpu = 0;

	(void)OK(sched_getaffinity(0, sizeof(all), &all));
	if (CPU_COUNT(&all) < 2)
		skip("one processor");
	while (!CPU_ISSET(cpu, &all))
		cpu++;
	CPU_ZERO(&one);
	CPU_SET(cpu, &one);
	(void)OK(sched_setaffinity(0, sizeof(one), &one));
}
static void d_affinity(char *to)
{
	cpu_set_t set;

	(void)OK(sched_getaffinity(0, sizeof(set), &set));
	put(to, "%d processors", CPU_COUNT(&set));
}
static void ch_slack(void)
{
	(void)OK(prctl(PR_SET_TIMERSLACK, 123456));
}
static void d_slack(char *to)
{
	put(to, "%d", prctl(PR_GET_TIMERSLACK));
}
static void ch_oom(void)
{
	int fd = (int)OK(open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC));

	write_all(fd, "321", 3);
}
static void d_oom(char *to)
{
	put(to, "%s", read_file("/proc/self/oom_score_adj"));
}
static void ch_personality(void)
{
	(void)OK(personality(ADDR_NO_RANDOMIZE));
}
static void ch_personality_26(void)
{
	(void)OK(personality(UNAME26));
}
static void d_personality(char *to)
{
	put(to, "%x", (unsigned)personality(0xffffffff));
}
static void ch_core_filter(void)
{
	int fd = (int)OK(open("/proc/self/coredump_filter", O_WRONLY | O_CLOEXEC));

	write_all(fd, "0x11", 4);
}
static void d_core_filter(char *to)
{
	put(to, "%s", read_file("/proc/self/coredump_filter"));
}
static void ch_thp(void)
{
	(void)OK(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0));
}
static void d_thp(char *to)
{
	put(to, "%d", prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0));
}

/* ---- signals, timers ---- */

static void d_mask(char *to)
{
	put_status(to, "SigBlk:");
}
static void ch_mask_all(void)
{
	sigset_t all;

	(void)sigfillset(&all);
	(void)sigprocmask(SIG_SETMASK, &all, NULL);
}
static void ch_mask_some(void)
{
	unsigned long mask = 1ul << (SIGUSR1 - 1) | 1ul << 33 | 1ul << 63;

	(void)OK(syscall(SYS_rt_sigprocmask, SIG_SETMASK, &mask, NULL, 8));
}
static void handler(int s)
{
	(void)s;
}
static void ch_ignored(void)
{
	(void)signal(SIGINT, SIG_IGN);
	(void)signal(SIGPIPE, SIG_IGN);
	(void)signal(SIGHUP, SIG_IGN);
	(void)signal(SIGTSTP, SIG_IGN);
	(void)signal(SIGRTMIN + 5, SIG_IGN);
}
static void ch_ignored_chld(void)
{
	(void)signal(SIGCHLD, SIG_IGN);
}
static void d_ignored(char *to)
{
	put_status(to, "SigIgn:");
}
static void ch_handlers(void)
{
	(void)signal(SIGINT, handler);
	(void)signal(SIGUSR1, handler);
	(void)signal(SIGCHLD, handler);
	(void)signal(SIGRTMAX, handler);
}
static void d_handlers(char *to)
{
	for (int s = 1; s < NSIG; s++) {
		struct sigaction a;

		if (sigaction(s, NULL, &a) == 0 && a.sa_handler != SIG_DFL)
			put(to, "%d ", s);
	}
}
static void ch_pending(void)
{
	sigset_t set;

	(void)sigemptyset(&set);
	(void)sigaddset(&set, SIGUSR1);
	(void)sigaddset(&set, SIGTERM);
	(void)sigaddset(&set, SIGRTMIN);
	(void)sigprocmask(SIG_BLOCK, &set, NULL);
	(void)raise(SIGUSR1);
	(void)kill(getpid(), SIGTERM);
	(void)kill(getpid(), SIGRTMIN);
	(void)kill(getpid(), SIGRTMIN);
}
static void d_pending(char *to)
{
	struct timespec now = {0, 0};
	sigset_t set;

	(void)sigpending(&set);
	for (int s = 1; s < NSIG; s++)
		if (sigismember(&set, s) == 1)
			put(to, "%d ", s);
	/* after the exec: they can be taken, the queued one twice */
	if (to[0] != '\0' && getenv("KRGLTP_AFTER") != NULL) {
		(void)sigemptyset(&set);
		(void)sigaddset(&set, SIGRTMIN);
		EQ(sigtimedwait(&set, NULL, &now), SIGRTMIN);
		EQ(sigtimedwait(&set, NULL, &now), SIGRTMIN);
		FAILS(sigtimedwait(&set, NULL, &now), EAGAIN);
	}
}
static void ch_altstack(void)
{
	static char stack[65536];
	stack_t s = {.ss_sp = stack, .ss_size = sizeof(stack)};

	(void)OK(sigaltstack(&s, NULL));
}
static void d_altstack(char *to)
{
	stack_t s;

	(void)OK(sigaltstack(NULL, &s));
	put(to, "%s", s.ss_flags == SS_DISABLE ? "none" : "some");
}
static int which_timer(void)
{
	return strcmp(sub_arg, "virtual") == 0 ? ITIMER_VIRTUAL
	       : strcmp(sub_arg, "prof") == 0  ? ITIMER_PROF
					       : ITIMER_REAL;
}
static void ch_itimer(void)
{
	const struct itimerval t = {{7, 0}, {1000, 0}};

	(void)OK(setitimer(which_timer(), &t, NULL));
}
static void d_itimer(char *to)
{
	struct itimerval t;

	(void)OK(getitimer(which_timer(), &t));
	put(to, "%s, interval %ld",
	    t.it_value.tv_sec > 900 && t.it_value.tv_sec <= 1000 ? "set" : "not set",
	    t.it_interval.tv_sec);
}
static void ch_timers(void)
{
	const struct itimerspec at = {{0, 0}, {1000, 0}};
	timer_t t;

	(void)OK(timer_create(CLOCK_MONOTONIC, NULL, &t));
	(void)OK(timer_settime(t, 0, &at, NULL));
}
static void d_timers(char *to)
{
	put(to, "%s", read_file("/proc/self/timers")[0] == '\0' ? "none" : "some");
}
static void ch_mlock(void)
{
	if (mlockall(MCL_FUTURE) < 0)
		skip("mlockall: %s", strerror(errno));
}
static void d_mlock(char *to)
{
	put_status(to, "VmLck:");
}

/* ---- kin and name ---- */

static void ch_subreaper(void)
{
	(void)OK(prctl(PR_SET_CHILD_SUBREAPER, 1));
}
static void d_subreaper(char *to)
{
	int v = -1;

	(void)OK(prctl(PR_GET_CHILD_SUBREAPER, &v));
	put(to, "%d", v);
}
static void ch_pdeathsig(void)
{
	(void)OK(prctl(PR_SET_PDEATHSIG, SIGUSR2));
}
static void d_pdeathsig(char *to)
{
	int v = -1;

	(void)OK(prctl(PR_GET_PDEATHSIG, &v));
	put(to, "%d", v);
}
static void ch_comm(void)
{
	(void)OK(prctl(PR_SET_NAME, "another name"));
}
static void d_comm(char *to)
{
	char name[20] = "";

	(void)OK(prctl(PR_GET_NAME, name));
	put(to, "%s", name);
}
static void d_exe(char *to)
{
	char path[4096] = "";

	(void)OK(readlink("/proc/self/exe", path, sizeof(path) - 1));
	put(to, "%s", path);
}
static void ch_dumpable(void)
{
	(void)OK(prctl(PR_SET_DUMPABLE, 0));
}
static void d_dumpable(char *to)
{
	put(to, "%d", prctl(PR_GET_DUMPABLE));
}
static void ch_time(void)
{
	struct rusage u;

	do /* some time of its own: it is the process's, over its exec */
		(void)getrusage(RUSAGE_SELF, &u);
	while (u.ru_utime.tv_sec * 1000000 + u.ru_utime.tv_usec + u.ru_stime.tv_usec < 30000);
}
static void d_time(char *to)
{
	struct rusage u;

	(void)getrusage(RUSAGE_SELF, &u);
	put(to, "%s", u.ru_utime.tv_usec + u.ru_stime.tv_usec >= 30000 ? "30 ms" : "less");
}
static void d_starttime(char *to)
{
	const char *at = strrchr(read_file("/proc/self/stat"), ')');

	for (int i = 0; at != NULL && i < 20; i++)
		at = strchr(at + 1, ' ');
	CHECK(at != NULL, "/proc/self/stat");
	put(to, "%ld", strtol(at, NULL, 10));
}
static void d_clocks(char *to)
{
	struct timespec mono, boot;

	(void)clock_gettime(CLOCK_MONOTONIC, &mono);
	(void)clock_gettime(CLOCK_BOOTTIME, &boot);
	if (getenv("MONO") != NULL) {
		CHECK(atol(getenv("MONO")) <= mono.tv_sec + 1, "CLOCK_MONOTONIC went back");
		CHECK(atol(getenv("MONO")) >= mono.tv_sec - 20, "CLOCK_MONOTONIC went on");
		CHECK(atol(getenv("BOOT")) <= boot.tv_sec + 1, "CLOCK_BOOTTIME went back");
		CHECK(atol(getenv("BOOT")) >= boot.tv_sec - 20, "CLOCK_BOOTTIME went on");
	}
	put(to, "near");
}
static void ch_clocks(void)
{
	struct timespec t;
	char text[32];

	(void)clock_gettime(CLOCK_MONOTONIC, &t);
	(void)snprintf(text, sizeof(text), "%ld", t.tv_sec);
	(void)setenv("MONO", text, 1);
	(void)clock_gettime(CLOCK_BOOTTIME, &t);
	(void)snprintf(text, sizeof(text), "%ld", t.tv_sec);
	(void)setenv("BOOT", text, 1);
}

static const struct property properties[] = {
	{"pid", nothing, d_pid, NULL},
	{"ppid", nothing, d_ppid, NULL},
	{"pgid", ch_pgid, d_pgid, NULL},
	{"sid", ch_sid, d_sid, NULL},
	{"uids", ch_uids, d_uids, "2001 2002 2002\nUid:\t2001\t2002\t2002\t2002\n"},
	{"gids", ch_gids, d_gids, "1001 1002 1002\nGid:\t1001\t1002\t1002\t1002\n"},
	{"groups", ch_groups, d_groups, NULL},
	{"groups_none", ch_groups_none, d_groups, NULL},
	{"groups_many", ch_groups_many, d_groups, NULL},
	{"caps_bounding", ch_caps_bounding, d_caps_bounding, NULL},
	{"caps_ambient", ch_caps_ambient, d_caps_ambient, NULL},
	{"caps_lost", ch_caps_lost, d_caps_lost,
	 "CapPrm:\t0000000000000000\nCapEff:\t0000000000000000\nkeep 0"},
	{"nnp", ch_nnp, d_nnp, NULL},
	{"securebits", ch_securebits, d_securebits, NULL},
	{"noroot_ambient", ch_noroot_ambient, d_noroot_ambient,
	 "227\nCapPrm:\t0000000000000001\nCapEff:\t0000000000000001\nCapAmb:\t0000000000000001\n"},
	{"cwd", ch_cwd, d_cwd, NULL},
	{"cwd_deleted", ch_cwd_deleted, d_cwd, NULL},
	{"cwd_private", ch_cwd_private, d_cwd_private, NULL},
	{"umask", ch_umask, d_umask, NULL},
	{"rlimit", ch_rlimit, d_rlimit, NULL},
	{"nice", ch_nice, d_nice, NULL},
	{"nice_negative", ch_nice_negative, d_nice, NULL},
	{"ioprio", ch_ioprio, d_ioprio, NULL},
	{"policy", ch_policy, d_policy, NULL},
	{"policy_rt", ch_policy_rt, d_policy_rt, NULL},
	{"affinity", ch_affinity, d_affinity, NULL},
	{"slack", ch_slack, d_slack, NULL},
	{"oom", ch_oom, d_oom, NULL},
	{"personality", ch_personality, d_personality, NULL},
	{"personality_26", ch_personality_26, d_personality, NULL},
	{"core_filter", ch_core_filter, d_core_filter, NULL},
	{"thp", ch_thp, d_thp, NULL},
	{"mask_all", ch_mask_all, d_mask, NULL},
	{"mask_some", ch_mask_some, d_mask, NULL},
	{"ignored", ch_ignored, d_ignored, NULL},
	{"ignored_chld", ch_ignored_chld, d_ignored, NULL},
	{"handlers", ch_handlers, d_handlers, ""},
	{"pending", ch_pending, d_pending, NULL},
	{"altstack", ch_altstack, d_altstack, "none"},
	{"itimer", ch_itimer, d_itimer, NULL},
	{"timers", ch_timers, d_timers, "none"},
	{"mlock", ch_mlock, d_mlock, "VmLck:\t       0 kB\n"},
	{"subreaper", ch_subreaper, d_subreaper, NULL},
	{"pdeathsig", ch_pdeathsig, d_pdeathsig, NULL},
	{"comm", ch_comm, d_comm, "ident"},
	{"exe", nothing, d_exe, NULL},
	{"dumpable", ch_dumpable, d_dumpable, "1"},
	{"time", ch_time, d_time, NULL},
	{"starttime", nothing, d_starttime, NULL},
	{"clocks", ch_clocks, d_clocks, NULL},
};

static const struct property *named(const char *name)
{
	for (unsigned i = 0; i < NELEM(properties); i++)
		if (strcmp(properties[i].name, name) == 0)
			return &properties[i];
	FAIL("no property '%s'", name);
}

static char text[TEXT_MAX], before[TEXT_MAX];

static int execs_on(const struct property *p, int out);
static char after_path[4096];

/* before: through a pipe that is gone with the exec; after: through one that is not */
static void compare(const char *name, int (*child)(const struct property *p, int out))
{
	const struct property *p = named(name);
	int b[2], a[2], status;
	pid_t pid;

	(void)snprintf(after_path, sizeof(after_path), "%s", here("after"));
	make_pipe(b);
	make_pipe(a);
	pid = fork();
	if (pid == 0) {
		p->change();
		text[0] = '\0';
		p->describe(text);
		write_all(b[1], text, strlen(text));
		(void)dup2(a[1], 5);
		(void)setenv("KRGLTP_AFTER", "1", 1);
		_exit(child(p, 5));
	}
	(void)close(a[1]);
	(void)close(b[1]);
	before[read_up_to(b[0], before, TEXT_MAX - 1)] = '\0';
	text[read_up_to(a[0], text, TEXT_MAX - 1)] = '\0';
	status = status_of(mind(pid));
	if (status == 77 << 8)
		_exit(77);
	EQ(status, 0);
	if (text[0] == '\0' && child == execs_on)
		(void)snprintf(text, sizeof(text), "%s", read_file(after_path));
	if (p->after == NULL)
		CHECK(strcmp(text, before) == 0, "%s: '%.300s' before, '%.300s' after", name,
		      before, text);
	else
		CHECK(strcmp(text, p->after) == 0, "%s: '%.300s' after, not '%.300s'", name, text,
		      p->after);
}

static int execs(const struct property *p, int out)
{
	(void)out;
	(void)become("describe", p->name, sub_arg, NULL);
	return 99;
}

/* Three execs in a row: a program that has moved goes on. */
static int execs_on(const struct property *p, int out)
{
	/* a file: with a pipe it would stay where it is */
	int fd = (int)OK(open(after_path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666));

	(void)OK(dup3(fd, out, 0));
	(void)become("on", "3", p->name, sub_arg, NULL);
	return 99;
}

static int r_on(int argc, char **argv)
{
	char n[2] = {(char)(argv[0][0] - 1), '\0'};

	if (n[0] > '0')
		(void)become("on", n, argv[1], argc > 2 ? argv[2] : NULL, NULL);
	else
		(void)become("describe", argv[1], argc > 2 ? argv[2] : NULL, NULL);
	return 99;
}

static int r_describe(int argc, char **argv)
{
	const struct property *p = named(argv[0]);

	sub_arg = argc > 1 ? argv[1] : sub_arg;
	text[0] = '\0';
	p->describe(text);
	write_all(5, text, strlen(text));
	return 0;
}

static void kept_by(int (*child)(const struct property *p, int out))
{
	char *colon = strchr(sub_arg, ':');
	const char *name = sub_arg;

	if (colon != NULL) {
		*colon = '\0';
		sub_arg = colon + 1;
	}
	compare(name, child);
}

static void c_kept(void)
{
	kept_by(execs);
}

static void c_on(void)
{
	kept_by(execs_on);
}

/* Queued signals that come on the way are there at the end, each once. */
static int r_on_queued(int argc, char **argv)
{
	char n[2] = {(char)(argv[0][0] - 1), '\0'};
	bool had[100] = {false};
	siginfo_t si;
	sigset_t set;

	(void)argc;
	if (n[0] > '0') {
		(void)become("on_queued", n, NULL);
		return 99;
	}
	(void)sigemptyset(&set);
	(void)sigaddset(&set, SIGRTMIN + 1);
	for (unsigned i = 0; i < NELEM(had); i++) {
		EQ(sigwaitinfo(&set, &si), SIGRTMIN + 1);
		CHECK(si.si_value.sival_int >= 0 && si.si_value.sival_int < (int)NELEM(had) &&
			      !had[si.si_value.sival_int],
		      "value %d", si.si_value.sival_int);
		had[si.si_value.sival_int] = true;
	}
	(void)sigpending(&set);
	EQ(sigismember(&set, SIGRTMIN + 1), 0);
	return 0;
}

static void block_queued(void *arg)
{
	sigset_t set;

	(void)arg;
	(void)sigemptyset(&set);
	(void)sigaddset(&set, SIGRTMIN + 1);
	(void)sigprocmask(SIG_BLOCK, &set, NULL);
}

static void c_on_queued(void)
{
	pid_t pid;

	block_queued(NULL); /* before the fork: it may be signalled before it blocks them */
	pid = spawn("on_queued", sub_arg, NULL);
	for (int i = 0; i < 100; i++) {
		union sigval v = {.sival_int = i};

		(void)OK(sigqueue(pid, SIGRTMIN + 1, v));
		if (i % 10 == 0)
			(void)sched_yield();
	}
	EXITS(pid, 0);
}

/* A child that is killed somewhere on its way ends once, by that signal. */
static void c_on_killed(void)
{
	for (int i = 0; i < 8; i++) {
		pid_t pid = spawn("on_and_on", NULL);

		for (int k = 0; k < i * 200; k++)
			(void)getpid();
		(void)poll(NULL, 0, i);
		(void)OK(kill(pid, SIGKILL));
		DIES(pid, SIGKILL);
	}
}

static int r_on_and_on(int argc, char **argv)
{
	(void)argc;
	(void)argv;
	(void)become("on_and_on", NULL);
	return 99;
}

/* An exec that fails, after one that went: its caller is as it was. */
static int r_on_fails(int argc, char **argv)
{
	char *const args[] = {(char *)"x", NULL};
	pid_t pid = getpid();

	(void)argc;
	(void)argv;
	write_file("no_program", "");
	FAILS(execv("no_program", args), EACCES);
	OK(chmod("no_program", 0755));
	FAILS(execv("no_program", args), ENOEXEC);
	FAILS(execv("none", args), ENOENT);
	EQ(getpid(), pid);
	(void)become("exit", "9", NULL);
	return 99;
}

static void c_on_fails(void)
{
	EXITS(spawn("on_fails", NULL), 9);
}

/* ---- a timer goes on ---- */

static int r_ticks(int argc, char **argv)
{
	struct itimerval off = {{0, 0}, {0, 0}}, was;
	struct timespec now = {0, 0};
	sigset_t set;

	(void)argc;
	(void)argv;
	(void)sigemptyset(&set);
	(void)sigaddset(&set, SIGALRM);
	for (int i = 0; i < 3; i++)
		EQ(sigwaitinfo(&set, NULL), SIGALRM);
	(void)OK(setitimer(ITIMER_REAL, &off, &was));
	EQ(was.it_interval.tv_sec, 0);
	EQ(was.it_interval.tv_usec, 2500);
	/* one may have come before it was taken away, and none comes later */
	(void)sigtimedwait(&set, NULL, &now);
	(void)OK(getitimer(ITIMER_REAL, &was));
	EQ(was.it_value.tv_usec, 0);
	FAILS(sigtimedwait(&set, NULL, &(struct timespec){0, 10000000}), EAGAIN);
	return 0;
}

static void ticks(void *arg)
{
	const struct itimerval t = {{0, 2500}, {0, 2500}};
	sigset_t set;

	(void)arg;
	(void)sigemptyset(&set);
	(void)sigaddset(&set, SIGALRM);
	(void)sigprocmask(SIG_BLOCK, &set, NULL);
	(void)OK(setitimer(ITIMER_REAL, &t, NULL));
}

static void c_ticks(void)
{
	EXITS(spawn_with(ticks, NULL, "ticks", NULL), 0);
}

static int r_alarm_off(int argc, char **argv)
{
	unsigned left = alarm(0);

	(void)argc;
	(void)argv;
	CHECK(left > 900 && left <= 1000, "alarm: %u s", left);
	EQ(alarm(0), 0);
	return 0;
}

static void alarm_on(void *arg)
{
	(void)arg;
	(void)alarm(1000);
}

static void c_alarm_off(void)
{
	EXITS(spawn_with(alarm_on, NULL, "alarm_off", NULL), 0);
}

/* ---- without an exec of the process itself ---- */

static void c_parent(void)
{
	struct chat c = chat_with(NULL, NULL, "ppid", NULL);
	char want[20];

	(void)snprintf(want, sizeof(want), "%d", getpid());
	expect_line(&c, want);
	BYE(&c);
}

static int r_ppid(int argc, char **argv)
{
	(void)argc;
	(void)argv;
	answer("%d", getppid());
	(void)asked();
	return 0;
}

static void c_proc_self(void)
{
	struct chat c = chat_with(NULL, NULL, "proc", "an argument", NULL);
	char want[9000];

	(void)snprintf(want, sizeof(want), "%d %s|--role|proc|an argument|", c.pid, self);
	expect_line(&c, want);
	BYE(&c);
}

static int r_proc(int argc, char **argv)
{
	char link[32] = "", line[8192];
	int fd = (int)OK(open("/proc/self/cmdline", O_RDONLY | O_CLOEXEC));
	size_t n = read_up_to(fd, line, sizeof(line) - 1);

	(void)argc;
	(void)argv;
	for (size_t i = 0; i < n; i++)
		line[i] = line[i] == '\0' ? '|' : line[i];
	line[n] = '\0';
	(void)OK(readlink("/proc/self", link, sizeof(link) - 1));
	answer("%s %s", link, line);
	(void)asked();
	return 0;
}

/* What a child is started with counts, not what its parent is made later. */
static void c_env_file(void)
{
	(void)setenv("KRGLTP_MARK", "before", 1);
	(void)unsetenv("HOME");
	EXITS(spawn("env", NULL), 0);
}

static int r_env(int argc, char **argv)
{
	const char *mark = getenv("KRGLTP_MARK");

	(void)argc;
	(void)argv;
	CHECK(mark != NULL && strcmp(mark, "before") == 0, "the variable");
	CHECK(getenv("HOME") == NULL, "a variable that was taken away");
	return 0;
}

static void to_user(void *arg)
{
	(void)arg;
	(void)OK(setgroups(0, NULL));
	(void)OK(setresgid(2002, 2002, 2002));
	(void)OK(setresuid(own_uid(), own_uid(), own_uid()));
}

/* Rights are those of the user that it runs as. */
static void c_rights(void)
{
	need_root();
	write_file("secret", "x");
	(void)OK(chmod("secret", 0600));
	(void)OK(mkdir("his", 0700));
	(void)OK(chown("his", own_uid(), 2002));
	EXITS(spawn_with(to_user, NULL, "rights", NULL), 0);
}

static int r_rights(int argc, char **argv)
{
	struct stat st;

	(void)argc;
	(void)argv;
	FAILS(open("secret", O_RDONLY), EACCES);
	FAILS(setuid(0), EPERM);
	FAILS(setgroups(0, NULL), EPERM);
	(void)OK(open("his/file", O_WRONLY | O_CREAT | O_CLOEXEC, 0640));
	(void)OK(stat("his/file", &st));
	EQ(st.st_uid, own_uid());
	EQ(st.st_gid, 2002);
	return 0;
}

const struct sub subs[] = {{"kept", c_kept},	       {"parent", c_parent},
			   {"proc", c_proc_self},      {"env", c_env_file},
			   {"rights", c_rights},       {"ticks", c_ticks},
			   {"alarm_off", c_alarm_off}, {"on", c_on},
			   {"on_queued", c_on_queued}, {"on_killed", c_on_killed},
			   {"on_fails", c_on_fails},   {NULL, NULL}};
const struct role roles[] = {{"describe", r_describe},	 {"ppid", r_ppid},
			     {"proc", r_proc},		 {"env", r_env},
			     {"rights", r_rights},	 {"ticks", r_ticks},
			     {"alarm_off", r_alarm_off}, {"on", r_on},
			     {"on_queued", r_on_queued}, {"on_and_on", r_on_and_on},
			     {"on_fails", r_on_fails},	 {NULL, NULL}};
