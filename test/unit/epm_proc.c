/* What epm reads of a task: its memory, its /proc.  The task is this one. */
#include "epm_impl.h"
#include "tap.h"
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>

static void strings(void)
{
	char *page =
		mmap(NULL, 3 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	KRG_AUTO_BUF struct krg_buf b = {0};
	struct memread m;
	char *vector[3];
	u32 count = 0;

	ASSERT(page != MAP_FAILED && mprotect(page + 2 * 4096, 4096, PROT_NONE) == 0);
	memread_init(&m, getpid());
	memset(page, 'a', 5000);
	tap_eq(memread_str(&m, (u64)(uintptr_t)page, &b, 4096), -E2BIG, "longer than allowed");
	krg_buf_reset(&b);
	tap_ok(memread_str(&m, (u64)(uintptr_t)page, &b, 8192) == 0 && b.len == 5001 &&
		       b.data[5000] == '\0',
	       "a string over two pages");
	krg_buf_reset(&b);
	memset(page, 'b', 2 * 4096);
	memread_fini(&m);
	memread_init(&m, getpid());
	tap_eq(memread_str(&m, (u64)(uintptr_t)page, &b, 1 << 20), -EFAULT, "it runs into a hole");
	tap_eq(memread_str(&m, 8, &b, 100), -EFAULT, "nothing is mapped there");
	vector[0] = strcpy(page, "one");
	vector[1] = strcpy(page + 4090, "three");
	vector[2] = NULL;
	memread_fini(&m);
	memread_init(&m, getpid());
	krg_buf_reset(&b);
	tap_ok(memread_strv(&m, (u64)(uintptr_t)vector, &b, 100, &count) == 0 && count == 2 &&
		       b.len == 10 && memcmp(b.data, "one\0three", 10) == 0,
	       "a vector of strings");
	tap_ok(memread_strv(&m, 0, &b, 100, &count) == 0 && count == 0, "no vector: no strings");
	memread_fini(&m);
	tap_ok(memwrite(getpid(), (u64)(uintptr_t)page, "x", 2) == 0 && strcmp(page, "x") == 0,
	       "written");
	tap_eq(memwrite(getpid(), 8, "x", 2), -EFAULT, "written where nothing is");
	(void)munmap(page, 3 * 4096);
}

static void process(void)
{
	PROC_AUTO struct proc_info p = {0}, none = {0};
	struct sigaction act = {.sa_handler = SIG_IGN};
	sigset_t set;
	mode_t mask = umask(027);

	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	ASSERT(sigaction(SIGUSR1, &act, NULL) == 0 && sigprocmask(SIG_BLOCK, &set, NULL) == 0);
	tap_eq(proc_read(getpid(), &p), 0, "proc_read");
	(void)umask(mask);
	tap_eq(p.host_tgid, getpid(), "its process");
	tap_eq(p.host_ppid, getppid(), "its parent");
	tap_eq(p.uid[1], geteuid(), "its user");
	tap_eq(p.gid[1], getegid(), "its group");
	tap_eq(p.umask, 027, "its umask");
	tap_ok((p.sig_ignored >> (SIGUSR1 - 1) & 1) == 1, "an ignored signal");
	tap_ok((p.sig_blocked >> (SIGUSR2 - 1) & 1) == 1, "a blocked signal");
	tap_eq(p.tracer, 0, "nobody traces it");
	tap_ok(p.threads >= 1, "its threads");
	tap_eq(proc_read(0x7ffffffe, &none), -ESRCH, "there is no such task");
}

static void pids(void)
{
	struct epm e = {.low = 1 << 15, .high = 2 << 15};

	tap_eq(epm_pid_home(32767), KRG_NODE_NONE, "a node-local pid is no node's");
	tap_eq(epm_pid_home(32768), 0, "the first of node 0");
	tap_eq(epm_pid_home((2 << 15) - 1), 0, "the last of node 0");
	tap_eq(epm_pid_home(127 << 15), 126, "the first of node 126");
	tap_eq(epm_pid_home(128 << 15), KRG_NODE_NONE, "past the last node");
	tap_eq(epm_pid_home(-5), KRG_NODE_NONE, "a negative number");
	tap_ok(epm_pid_is_ours(&e, 1 << 15) && !epm_pid_is_ours(&e, 2 << 15), "ours, and not");
	tap_eq(wstatus_of(1, 300), (300 & 0xff) << 8, "exited");
	tap_eq(wstatus_of(2, 9), 9, "killed");
	tap_eq(wstatus_of(3, 11), 11 | 0x80, "dumped");
}

/* As krgd in a chroot sees it. */
static void paths(void)
{
	char path[64];

	ASSERT(chdir("/proc/sys") == 0);
	tap_eq(proc_path("", getpid(), "cwd", path, sizeof(path)), 9, "a path");
	tap_ok(strcmp(path, "/proc/sys") == 0, "as it is: %s", path);
	tap_eq(proc_path("/proc", getpid(), "cwd", path, sizeof(path)), 4, "below a root");
	tap_ok(strcmp(path, "/sys") == 0, "from there: %s", path);
	tap_eq(proc_path("/proc/sys", getpid(), "cwd", path, sizeof(path)), 1, "the root itself");
	tap_ok(strcmp(path, "/") == 0, "is %s", path);
	tap_eq(proc_path("/pro", getpid(), "cwd", path, sizeof(path)), -EXDEV,
	       "half a name is no root");
	tap_eq(proc_path("/tmp", getpid(), "cwd", path, sizeof(path)), -EXDEV, "not below it");
	tap_eq(proc_path("", getpid(), "ns/mnt", path, sizeof(path)), -EXDEV, "no path at all");
}

int main(void)
{
	strings();
	paths();
	process();
	pids();
	return tap_done();
}
