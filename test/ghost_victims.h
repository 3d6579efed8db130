/* ghost_victims.h - programs that check themselves while they are taken apart and built anew, or moved.
 *
 * Each works until there is something to read from TO_VICTIM, then writes what it found to FROM_VICTIM ("right", or what is
 * wrong), and ends.  A "." says that it has begun.
 */
#ifndef KRG_TEST_GHOST_VICTIMS_H
#define KRG_TEST_GHOST_VICTIMS_H
#include "base.h"
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>

#define TO_VICTIM   50
#define FROM_VICTIM 51
#define PAGE	    4096u

static _Noreturn void verdict(const char *what)
{
	(void)!write(FROM_VICTIM, what, strlen(what));
	_exit(0);
}

static bool told_to_end(void)
{
	struct pollfd p = {.fd = TO_VICTIM, .events = POLLIN};

	return poll(&p, 1, 0) == 1;
}

static void ready(void)
{
	(void)!write(FROM_VICTIM, ".", 1);
}

static size_t own_file(const char *path, char *text, size_t room)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = read(fd, text, room);

	(void)close(fd);
	return n < 0 ? 0 : (size_t)n;
}

/* Of its maps, what must not change; what comes and goes is the test's heap. */
static _Noreturn void memory_victim(void)
{
	enum { PAGES = 4096 };
	static char before[3][8192], after[3][8192];
	static const char *const file[3] = {"/proc/self/cmdline", "/proc/self/environ",
					    "/proc/self/auxv"};
	size_t size[3];
	char link[2][512] = {{0}, {0}};
	int self = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	u64 *p = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
		      0);
	u8 *fixed =
		mmap(NULL, 16 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	u8 *none = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	u8 *changed = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, self, 0);
	u8 *plain = mmap(NULL, 4 * PAGE, PROT_READ, MAP_SHARED, self, 0);
	void *brk = sbrk(64 * PAGE);
	u64 round = 0;

	if (p == MAP_FAILED || fixed == MAP_FAILED || none == MAP_FAILED || changed == MAP_FAILED ||
	    plain == MAP_FAILED || brk == (void *)-1)
		verdict("mmap");
	(void)close(self);
	for (unsigned i = 0; i < 3; i++)
		size[i] = own_file(file[i], before[i], sizeof(before[i]));
	(void)!readlink("/proc/self/exe", link[0], sizeof(link[0]) - 1);
	memset(fixed, 7, 16 * PAGE);
	(void)mprotect(fixed, 16 * PAGE, PROT_READ);
	memset(none, 9, 4 * PAGE);
	(void)mprotect(none, 4 * PAGE, PROT_NONE);
	memset(changed + PAGE, 0, PAGE); /* a zero page that is not the file's */
	memset(brk, 5, 64 * PAGE);
	ready();
	do {
		round++;
		for (u64 i = 0; i < PAGES; i++) {
			u64 *at = p + i * (PAGE / 8) + round % (PAGE / 8);

			if (*at != (round <= PAGE / 8 ? 0 : (round - PAGE / 8) * i))
				verdict("a word of its memory is another");
			*at = round * i;
		}
	} while (!told_to_end());
	(void)mprotect(none, 4 * PAGE, PROT_READ);
	for (unsigned i = 0; i < 4 * PAGE; i++)
		if (none[i] != 9 || fixed[i] != 7 || fixed[i * 4] != 7 || ((u8 *)brk)[i] != 5)
			verdict("memory that it may not write is another");
	if (changed[PAGE + 5] != 0 || memcmp(changed, plain, PAGE) != 0 ||
	    memcmp(plain, "\177ELF", 4) != 0)
		verdict("a file in its memory is another");
	if (sbrk(0) != (u8 *)brk + 64 * PAGE || sbrk(PAGE) == (void *)-1)
		verdict("its heap ends elsewhere");
	for (unsigned i = 0; i < 3; i++)
		if (own_file(file[i], after[i], sizeof(after[i])) != size[i] ||
		    memcmp(before[i], after[i], size[i]) != 0)
			verdict(file[i]);
	(void)!readlink("/proc/self/exe", link[1], sizeof(link[1]) - 1);
	if (strcmp(link[0], link[1]) != 0)
		verdict("/proc/self/exe");
	verdict("right");
}

/* ---- threads ---- */

#define WORKERS 6
static pthread_mutex_t turn_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t turn_cond = PTHREAD_COND_INITIALIZER;
static unsigned turn;
static atomic_bool over;
static atomic_uint sleeps;
static _Thread_local u64 own_value;

static void *worker(void *arg)
{
	unsigned me = (unsigned)(uintptr_t)arg;
	pid_t tid = (pid_t)syscall(SYS_gettid);
	char name[16] = {0}, want[16];
	double x = 1, y = 1;
	unsigned long rounds = 0;

	(void)snprintf(want, sizeof(want), "worker-%u", me);
	(void)prctl(PR_SET_NAME, want);
	own_value = me * 1000;
	while (!atomic_load(&over)) {
		/* the same, in two registers */
		for (unsigned i = 1; i < 2000; i++) {
			x = x * 1.0000001 + i;
			y = y * 1.0000001 + i;
		}
		if (x != y || own_value != me * 1000 || syscall(SYS_gettid) != tid)
			return (void *)"a thread's registers or numbers";
		(void)pthread_mutex_lock(&turn_lock);
		while (turn != me && !atomic_load(&over))
			(void)pthread_cond_wait(&turn_cond, &turn_lock);
		turn = (me + 1) % WORKERS;
		(void)pthread_cond_broadcast(&turn_cond);
		(void)pthread_mutex_unlock(&turn_lock);
		rounds++;
	}
	(void)prctl(PR_GET_NAME, name);
	return strcmp(name, want) != 0 ? (void *)"a thread's name"
	       : rounds == 0	       ? (void *)"a thread did nothing"
				       : NULL;
}

static void *sleeper(void *arg)
{
	(void)arg;
	while (!atomic_load(&over)) {
		struct timespec t = {.tv_nsec = 3000000};

		while (nanosleep(&t, &t) != 0)
			if (errno != EINTR)
				return (void *)"nanosleep";
		atomic_fetch_add(&sleeps, 1);
	}
	return NULL;
}

static _Noreturn void threads_victim(void)
{
	pthread_t th[WORKERS + 1];
	void *found;
	const char *what = "right";
	struct pollfd p = {.fd = TO_VICTIM, .events = POLLIN};

	for (unsigned i = 0; i < WORKERS; i++)
		if (pthread_create(&th[i], NULL, worker, (void *)(uintptr_t)i) != 0)
			verdict("pthread_create");
	(void)pthread_create(&th[WORKERS], NULL, sleeper, NULL);
	ready();
	/* waits in the kernel, over all moves */
	if (poll(&p, 1, -1) != 1)
		what = "poll";
	atomic_store(&over, true);
	(void)pthread_mutex_lock(&turn_lock);
	(void)pthread_cond_broadcast(&turn_cond);
	(void)pthread_mutex_unlock(&turn_lock);
	for (unsigned i = 0; i <= WORKERS; i++) {
		(void)pthread_join(th[i], &found);
		if (found != NULL)
			what = found;
	}
	if (atomic_load(&sleeps) == 0)
		what = "no sleep came to its end";
	verdict(what);
}

/* ---- signals ---- */

static atomic_uint alarms, wrong_stack;
static u8 alt_stack[64 << 10];

static void on_alarm(int sig)
{
	u8 here;

	(void)sig;
	atomic_fetch_add(&alarms, 1);
	if (&here < alt_stack || &here > alt_stack + sizeof(alt_stack))
		atomic_fetch_add(&wrong_stack, 1);
}

static _Noreturn void signals_victim(void)
{
	struct sigaction sa = {.sa_handler = on_alarm, .sa_flags = SA_ONSTACK | SA_RESTART}, got;
	struct itimerval it = {{0, 2000}, {0, 2000}}, now;
	stack_t ss = {.ss_sp = alt_stack, .ss_size = sizeof(alt_stack)}, ss_got;
	sigset_t set, old;
	siginfo_t info;
	union sigval v;
	int death = 0, reaper = 0;

	(void)sigaddset(&sa.sa_mask, SIGUSR2);
	(void)sigaltstack(&ss, NULL);
	(void)sigaction(SIGALRM, &sa, NULL);
	(void)signal(SIGTRAP, SIG_IGN);
	(void)signal(SIGHUP, SIG_IGN);
	(void)sigemptyset(&set);
	(void)sigaddset(&set, SIGRTMIN);
	(void)sigaddset(&set, SIGUSR1);
	(void)sigprocmask(SIG_BLOCK, &set, NULL);
	for (v.sival_int = 0; v.sival_int < 40; v.sival_int++)
		(void)sigqueue(getpid(), SIGRTMIN, v);
	(void)syscall(SYS_tgkill, getpid(), syscall(SYS_gettid), SIGUSR1);
	(void)setitimer(ITIMER_REAL, &it, NULL);
	(void)prctl(PR_SET_PDEATHSIG, SIGUSR2);
	(void)prctl(PR_SET_CHILD_SUBREAPER, 1);
	ready();
	while (!told_to_end())
		(void)poll(NULL, 0, 1);
	for (int i = 0; i < 40; i++)
		if (syscall(SYS_rt_sigtimedwait, &set, &info, NULL, 8) < 0 ||
		    (info.si_signo == SIGRTMIN &&
		     (info.si_value.sival_int != i - 1 || info.si_pid != getpid() ||
		      info.si_code != SI_QUEUE)) ||
		    (info.si_signo == SIGUSR1 && (i != 0 || info.si_code != SI_TKILL)))
			verdict("a pending signal");
	(void)sigprocmask(SIG_BLOCK, NULL, &old);
	if (sigismember(&old, SIGRTMIN) != 1 || sigismember(&old, SIGUSR2) != 0)
		verdict("its mask");
	(void)sigaction(SIGTRAP, NULL, &got);
	if (got.sa_handler != SIG_IGN)
		verdict("SIGTRAP, which was ignored");
	(void)sigaction(SIGHUP, NULL, &got);
	if (got.sa_handler != SIG_IGN)
		verdict("SIGHUP, which was ignored");
	(void)sigaction(SIGALRM, NULL, &got);
	if (got.sa_handler != on_alarm || (got.sa_flags & SA_ONSTACK) == 0 ||
	    !sigismember(&got.sa_mask, SIGUSR2))
		verdict("its handler");
	(void)sigaltstack(NULL, &ss_got);
	if (ss_got.ss_sp != alt_stack || atomic_load(&wrong_stack) != 0)
		verdict("its stack for signals");
	(void)prctl(PR_GET_PDEATHSIG, &death);
	(void)prctl(PR_GET_CHILD_SUBREAPER, &reaper);
	if (death != SIGUSR2 || reaper != 1)
		verdict("its signal for its parent's death, or its being a subreaper");
	(void)getitimer(ITIMER_REAL, &now);
	if (now.it_interval.tv_usec != 2000 || atomic_load(&alarms) == 0)
		verdict("its interval timer");
	verdict("right");
}

/* ---- memory that is changed in all ways while it is looked at ---- */

enum { BLOCKS = 64 };
struct block {
	u8 *at;
	unsigned npages;
	u32 *version; /* of each page; 0: it is zero */
	bool split;   /* it is several areas, which not every kernel moves in one call */
};
struct changes {
	struct block block[BLOCKS];
	u64 random;
	int pipe[2];
	bool alone; /* no children, no descriptors */
};

static u64 random_next(struct changes *c)
{
	c->random ^= c->random << 13;
	c->random ^= c->random >> 7;
	c->random ^= c->random << 17;
	return c->random;
}

static u64 page_word(unsigned b, unsigned page, u32 version, unsigned word)
{
	return version == 0 ? 0
			    : (u64)version * 0x9e3779b97f4a7c15ull + b * 1000003ull + page * 64ull +
				      word;
}

static void page_fill(const struct block *b, unsigned i, unsigned page, u32 version)
{
	u64 *p = (u64 *)(void *)(b->at + page * (size_t)PAGE);

	for (unsigned w = 0; w < PAGE / 8; w += 37)
		p[w] = page_word(i, page, version, w);
	b->version[page] = version;
}

static bool page_right(const struct block *b, unsigned i, unsigned page)
{
	const volatile u64 *p = (const volatile u64 *)(void *)(b->at + page * (size_t)PAGE);

	for (unsigned w = 0; w < PAGE / 8; w += 37)
		if (p[w] != page_word(i, page, b->version[page], w))
			return false;
	return true;
}

static bool all_right(const struct changes *c, unsigned step)
{
	for (unsigned i = 0; i < BLOCKS; i++)
		for (unsigned page = 0; page < c->block[i].npages; page += step)
			if (!page_right(&c->block[i], i, page))
				return false;
	return true;
}

static void *fresh(size_t npages)
{
	return mmap(NULL, npages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
		    0);
}

/* A part of it becomes zero: by MADV_DONTNEED, or unmapped and mapped anew. */
static bool give_up(struct changes *c, struct block *b, bool unmap)
{
	unsigned from = (unsigned)(random_next(c) % b->npages), n = b->npages - from;
	u8 *at = b->at + from * (size_t)PAGE;

	n = n > 16 ? 16 : n;
	if (!unmap && madvise(at, n * (size_t)PAGE, MADV_DONTNEED) < 0)
		return false;
	b->split |= unmap;
	if (unmap && (munmap(at, n * (size_t)PAGE) < 0 ||
		      mmap(at, n * (size_t)PAGE, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != at))
		return false;
	memset(b->version + from, 0, n * sizeof(*b->version));
	return true;
}

/* To another place, where something else was, or one of the kernel's choice. */
static bool move_away(struct block *b)
{
	size_t size = b->npages * (size_t)PAGE;
	u8 *to, *at;

	if (b->split)
		return true;
	to = fresh(b->npages + 2);
	if (to == MAP_FAILED)
		return false;
	to[PAGE] = 1;
	at = mremap(b->at, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, to + PAGE);
	if (at == MAP_FAILED)
		return false;
	(void)munmap(to, PAGE);
	(void)munmap(to + PAGE + size, PAGE);
	b->at = at;
	return true;
}

/* A child has what its parent had, and keeps it while that goes on. */
static bool fork_and_look(struct changes *c, bool exec)
{
	int status;
	pid_t pid = fork();

	if (pid == 0 && exec) {
		execl("/bin/true", "true", (char *)NULL);
		_exit(3);
	}
	if (pid == 0) {
		struct block *b = &c->block[random_next(c) % BLOCKS];

		if (!all_right(c, 1 + (unsigned)(random_next(c) % 60)))
			_exit(1);
		if (!move_away(b) || !give_up(c, b, true))
			_exit(2);
		_exit(all_right(c, 7) ? 0 : 4);
	}
	for (unsigned i = 0; i < 20; i++) {
		unsigned k = (unsigned)(random_next(c) % BLOCKS);
		struct block *b = &c->block[k];

		page_fill(b, k, (unsigned)(random_next(c) % b->npages), (u32)random_next(c) | 1);
	}
	return pid > 0 && waitpid(pid, &status, 0) == pid && status == 0;
}

/* The kernel reads and writes what is not there yet. */
static bool through_the_kernel(struct changes *c, struct block *b, unsigned i)
{
	unsigned from = (unsigned)(random_next(c) % b->npages);
	unsigned to = (unsigned)(random_next(c) % b->npages);
	u8 *source = b->at + from * (size_t)PAGE, *target = b->at + to * (size_t)PAGE;

	if (c->alone) {
		struct iovec of = {source, PAGE}, in = {target, PAGE};

		if (process_vm_readv(getpid(), &in, 1, &of, 1, 0) != PAGE)
			return false;
	} else if (write(c->pipe[1], source, PAGE) != PAGE ||
		   read(c->pipe[0], target, PAGE) != PAGE) {
		return false;
	}
	if (memcmp(source, target, PAGE) != 0)
		return false;
	b->version[to] = 0;
	memset(target, 0, PAGE);
	page_fill(b, i, to, (u32)random_next(c) | 1);
	return true;
}

static const char *change(struct changes *c)
{
	unsigned i = (unsigned)(random_next(c) % BLOCKS);
	struct block *b = &c->block[i];
	unsigned page = (unsigned)(random_next(c) % b->npages);
	size_t size = b->npages * (size_t)PAGE;

	switch (random_next(c) % 400) {
	case 0:
		return give_up(c, b, false) ? NULL : "MADV_DONTNEED";
	case 1:
		return give_up(c, b, true) ? NULL : "munmap";
	case 2:
		return move_away(b) ? NULL : "mremap";
	case 3:
		return c->alone || fork_and_look(c, false) ? NULL : "a child";
	case 4:
		return c->alone || random_next(c) % 4 != 0 || fork_and_look(c, true) ? NULL
										     : "an exec";
	case 5:
		return through_the_kernel(c, b, i) ? NULL : "the kernel's copy";
	case 6:
		return mprotect(b->at, size, PROT_NONE) == 0 &&
				       mprotect(b->at, size, PROT_READ | PROT_WRITE) == 0
			       ? NULL
			       : "mprotect";
	default:
		if (!page_right(b, i, page))
			return "a page";
		if (page % 2 == 0)
			page_fill(b, i, page, (u32)random_next(c) | 1);
		return NULL;
	}
}

/* VICTIM_MIB of it; a third of the pages is never touched, and a tenth is zero. */
static _Noreturn void changes(bool alone)
{
	static struct changes c = {.random = 88172645463325252ull};
	const char *mib = getenv("VICTIM_MIB"), *wrong = NULL;
	unsigned npages = (mib != NULL ? (unsigned)strtoul(mib, NULL, 10) : 16) * 256 / BLOCKS;

	c.random += (u64)getpid() * 7919;
	c.alone = alone;
	if (pipe2(c.pipe, O_CLOEXEC) < 0)
		verdict("pipe");
	for (unsigned i = 0; i < BLOCKS; i++) {
		struct block *b = &c.block[i];

		b->npages = npages;
		b->at = fresh(npages);
		b->version = calloc(npages, sizeof(*b->version));
		if (b->at == MAP_FAILED || b->version == NULL)
			verdict("memory");
		for (unsigned page = 0; page < npages; page++)
			if (page % 3 != 0)
				page_fill(b, i, page, page % 10 == 0 ? 0 : page + 1);
	}
	ready();
	while (wrong == NULL && !told_to_end())
		wrong = change(&c);
	if (wrong == NULL && !all_right(&c, 1))
		wrong = "at the end";
	verdict(wrong == NULL ? "right" : wrong);
}

static KRG_UNUSED _Noreturn void changes_victim(void)
{
	changes(false);
}

static KRG_UNUSED _Noreturn void changes_alone_victim(void)
{
	changes(true);
}
#endif
