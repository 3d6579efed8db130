/* epm_lazy.c - a program with much memory that is moved, and does one thing as soon as it has arrived: NAME FILE. */
#include "base.h"
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>

#define PAGE  4096ull
#define PAGES (200ull << 20 >> 12)

static u64 *memory;
static const char *file;

static u64 word(u64 page)
{
	return page * 0x9e3779b97f4a7c15ull + 1;
}

/* Every step-th page is what it was; in an order that no read-ahead foresees. */
static bool right(u64 step)
{
	for (u64 i = 0; i < PAGES; i += step) {
		u64 page = i * 7919 % PAGES;

		if (memory[page * PAGE / 8] != word(page))
			return false;
	}
	return true;
}

static void say(const char *path, const char *text)
{
	char name[4096];
	int fd;

	(void)snprintf(name, sizeof(name), "%s.new", path);
	fd = open(name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	if (fd < 0 || write(fd, text, strlen(text)) < 0 || close(fd) < 0 || rename(name, path) < 0)
		_exit(90);
}

static void arrive(void)
{
	struct timespec pause = {.tv_nsec = 200000};
	struct utsname home, now;
	char text[32];

	(void)uname(&home);
	(void)snprintf(text, sizeof(text), "%d\n", getpid());
	say(file, text);
	do {
		(void)nanosleep(&pause, NULL);
		(void)uname(&now);
	} while (strcmp(home.nodename, now.nodename) == 0);
}

/* Each misses what its parent misses. */
static int children(void)
{
	int status = 0, wrong = 0;

	for (unsigned i = 0; i < 4; i++)
		if (fork() == 0)
			_exit(right(1 + i) ? 0 : 1);
	if (!right(3))
		wrong++;
	while (wait(&status) > 0)
		wrong += status != 0;
	return wrong;
}

/* A child that looks at its memory only when its parent, and what that depended on, is gone. */
static int orphan(void)
{
	char path[4096];
	sigset_t set;
	pid_t parent = getpid();

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	(void)sigprocmask(SIG_BLOCK, &set, NULL);
	if (fork() == 0) {
		int sig;

		if (prctl(PR_SET_PDEATHSIG, SIGUSR1) == 0 && getppid() == parent)
			(void)sigwait(&set, &sig);
		(void)snprintf(path, sizeof(path), "%s.survived", file);
		say(path, right(1) ? "right\n" : "wrong\n");
		_exit(0);
	}
	for (unsigned i = 0; i < 1000; i++)
		if (!right(1))
			return 1;
	return 0;
}

int main(int argc, char **argv)
{
	if (argc != 3)
		return 2;
	file = argv[2];
	memory = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
		      0);
	if (memory == MAP_FAILED)
		return 2;
	for (u64 i = 0; i < PAGES; i++)
		memory[i * PAGE / 8] = word(i);
	arrive();
	if (strcmp(argv[1], "right") == 0)
		return right(1) ? 0 : 1;
	if (strcmp(argv[1], "exec") == 0)
		execl("/bin/true", "true", (char *)NULL);
	if (strcmp(argv[1], "killed") == 0)
		(void)raise(SIGKILL);
	if (strcmp(argv[1], "ends") == 0)
		_exit(0);
	if (strcmp(argv[1], "unmap") == 0)
		return munmap(memory, PAGES * PAGE) == 0 ? 0 : 1;
	if (strcmp(argv[1], "children") == 0)
		return children();
	if (strcmp(argv[1], "orphan") == 0)
		return orphan();
	return 3;
}
