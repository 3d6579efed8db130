/* epm_threads.c - threads that execute while others run: the others end when the program goes, not
 * before, and not at all when its exec fails. */
#include "epm.h"
#include <pthread.h>
#include <semaphore.h>
#include <sys/syscall.h>

extern char **environ;

enum { THREADS = 6 };
static volatile unsigned long count[THREADS];
static volatile bool stop;
static int never[2]; /* a pipe that nobody writes to */
static sem_t begun;

/* What threads do: sleep, call the gate, wait for a pipe, for a child, for a lock. */
static void *works(void *arg)
{
	int what = (int)(intptr_t)arg;
	struct timespec ts = {.tv_nsec = 500000 + what * 300000}; /* many do this at once */
	pid_t child = -1;
	char c;

	if (what == 3) {
		int ready[2];

		if (pipe(ready) < 0)
			return NULL;
		child = fork();
		if (child == 0) {
			(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
			(void)!write(ready[1], "r", 1);
			(void)pause();
			_exit(0);
		}
		/* else this thread may be gone before it is asked for */
		(void)!read(ready[0], &c, 1);
		(void)close(ready[0]);
		(void)close(ready[1]);
	}
	(void)sem_post(&begun);
	while (!stop) {
		count[what]++;
		if (what == 2)
			(void)!read(never[0], &c, 1);
		else if (what == 3)
			(void)waitpid(child, NULL, 0);
		else if (what == 4)
			(void)syscall(SYS_getppid);
		(void)nanosleep(&ts, NULL);
	}
	return NULL;
}

static void threads_begin(pthread_t *t, bool child)
{
	(void)sem_init(&begun, 0, 0);
	ASSERT(pipe2(never, O_CLOEXEC) == 0);
	for (int i = 0; i < THREADS; i++)
		ASSERT(pthread_create(&t[i], NULL, works,
				      (void *)(intptr_t)(i == 3 && !child ? 1 : i)) == 0);
	for (int i = 0; i < THREADS; i++)
		(void)sem_wait(&begun);
}

/* ---- after the exec ---- */

/* argv: program --then OUT WHERE PID WORD */
static int then(char **argv)
{
	char status[8192], tmp[512], *at;
	FILE *f;
	int fds = 0;

	(void)snprintf(tmp, sizeof(tmp), "%s.new.%s", argv[2], argv[5]);
	f = fopen(tmp, "we");
	if (f == NULL || slurp("/proc/self/status", status, sizeof(status)) < 0)
		return 99;
	at = strstr(status, "\nThreads:\t");
	for (int fd = 0; fd < 100; fd++)
		fds += fcntl(fd, F_GETFD) >= 0;
	(void)fprintf(f, "moved %d pid %d tid %d threads %ld fds %d word %s\n",
		      where() != strtoull(argv[3], NULL, 10),
		      getpid() == (pid_t)strtol(argv[4], NULL, 10),
		      (pid_t)syscall(SYS_gettid) == getpid(),
		      at != NULL ? strtol(at + 10, NULL, 10) : -1, fds, argv[5]);
	(void)fclose(f);
	return rename(tmp, argv[2]) == 0 ? 7 : 98;
}

struct job {
	const char *file, *word;
	bool stay;
	pthread_barrier_t *together;
};

static void execute(const struct job *j)
{
	char place[32], pid[16];
	char *argv[] = {self_path,
			(char *)(uintptr_t) "--then",
			(char *)(uintptr_t)j->file,
			place,
			pid,
			(char *)(uintptr_t)j->word,
			NULL};

	(void)snprintf(place, sizeof(place), "%llu", (unsigned long long)where());
	(void)snprintf(pid, sizeof(pid), "%d", getpid());
	if (j->together != NULL)
		(void)pthread_barrier_wait(j->together);
	if (j->stay)
		(void)exec_here(self_path, argv, environ);
	else
		(void)execve(self_path, argv, environ);
	_exit(96);
}

static void *execute_thread(void *arg)
{
	execute(arg);
	return NULL;
}

/* ---- the cases ---- */

enum who { OF_A_THREAD, OF_THE_FIRST, OF_TWO };

static pid_t process(enum who who, const char *file, bool stay, bool child)
{
	pthread_t t[THREADS], mine[2];
	pthread_barrier_t together;
	struct job a = {file, "a", stay, NULL}, b = {file, "b", stay, NULL};
	pid_t pid;

	(void)fflush(stdout);
	pid = fork();
	if (pid != 0)
		return pid;
	(void)alarm(30);
	threads_begin(t, child);
	if (who == OF_THE_FIRST)
		execute(&a);
	if (who == OF_TWO) {
		ASSERT(pthread_barrier_init(&together, NULL, 2) == 0);
		a.together = b.together = &together;
		ASSERT(pthread_create(&mine[1], NULL, execute_thread, &b) == 0);
	}
	ASSERT(pthread_create(&mine[0], NULL, execute_thread, &a) == 0);
	(void)pthread_join(mine[0], NULL);
	_exit(95);
}

static void compare(enum who who, bool child, const char *what)
{
	char text[2][200] = {{0}};
	const char *file[2] = {in_work("a"), in_work("b")};
	pid_t pid[2];

	for (int k = 0; k < 2; k++) {
		(void)unlink(file[k]);
		pid[k] = process(who, file[k], k == 0, child);
		tap_eq(wait_ms(pid[k], 20000), 7 << 8, "%s, %s", what,
		       k == 0 ? "here" : "elsewhere");
		if (slurp(file[k], text[k], sizeof(text[k])) <= 0)
			(void)snprintf(text[k], sizeof(text[k]), "no result");
	}
	tap_ok(!expect_moves() || getenv("MAY_STAY") != NULL || strncmp(text[1], "moved 1", 7) == 0,
	       "%s: it has moved", what);
	tap_ok(strcmp(text[0] + 7, text[1] + 7) == 0, "%s: it sees the same", what);
	if (strcmp(text[0] + 7, text[1] + 7) != 0)
		printf("# here: %s# there: %s", text[0], text[1]);
}

/* one of them goes, and only one */
static void two(void)
{
	int right = 0, moved = 0;

	for (int i = 0; i < 20; i++) {
		char text[200];
		const char *file = in_work("two");
		pid_t pid;

		(void)unlink(file);
		pid = process(OF_TWO, file, false, false);
		if (wait_ms(pid, 20000) != 7 << 8 || slurp(file, text, sizeof(text)) <= 0)
			continue;
		right += strstr(text, " pid 1 tid 1 threads 1 ") != NULL;
		moved += strncmp(text, "moved 1", 7) == 0;
	}
	tap_eq(right, 20, "two threads execute at once: one program runs");
	printf("# of 20, %d moved\n", moved);
}

static int fds_open(void)
{
	int n = 0;

	for (int fd = 0; fd < 100; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

static void *failing(void *arg)
{
	char *argv[] = {(char *)(uintptr_t) "x", NULL};

	errno = 0;
	(void)execve(arg, argv, environ);
	return (void *)(intptr_t)errno;
}

static bool they_go_on(void)
{
	unsigned long before[THREADS];

	memcpy(before, (const void *)(uintptr_t)count, sizeof(before));
	/* a reader and a waiter count once */
	return WAIT_UNTIL(count[0] > before[0] && count[1] > before[1] && count[4] > before[4] &&
				  count[5] > before[5],
			  10000);
}

static void fails(void)
{
	static const struct {
		const char *text;
		mode_t mode;
		int want;
	} c[] = {{NULL, 0, ENOENT},
		 {"#!/nowhere\n", 0755, ENOENT},
		 {"garbage", 0755, ENOEXEC},
		 {"\177ELF\2\1\1", 0755, ENOEXEC},
		 {"#!/bin/sh\n", 0644, EACCES}};
	pthread_t t[THREADS];
	int fds;

	threads_begin(t, true);
	fds = fds_open();
	for (unsigned i = 0; i < KRG_NELEM(c); i++) {
		const char *path = in_work("bad");
		void *got = NULL;
		pthread_t one;

		(void)unlink(path);
		if (c[i].text != NULL) {
			int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, c[i].mode);

			ASSERT(fd >= 0 && write(fd, c[i].text, strlen(c[i].text)) > 0);
			(void)close(fd);
		}
		ASSERT(pthread_create(&one, NULL, failing, (void *)(uintptr_t)path) == 0);
		(void)pthread_join(one, &got);
		tap_eq((int)(intptr_t)got, c[i].want, "an exec that fails (%s)",
		       strerror(c[i].want));
		tap_ok(they_go_on(), "the other threads go on");
	}
	tap_eq(fds_open(), fds, "with the descriptors that they had");
	_exit(tap_done());
}

/* Killed at any moment: it is dead, whoever it was. */
static void killed(void)
{
	int right = 0;

	for (int i = 0; i < 30; i++) {
		const char *file = in_work("killed");
		pid_t pid = process(OF_A_THREAD, file, false, false);
		struct timespec ts = {.tv_nsec = i * 400000};
		int status;

		(void)nanosleep(&ts, NULL);
		(void)kill(pid, SIGKILL);
		status = wait_ms(pid, 20000);
		right += status == SIGKILL || status == 7 << 8;
	}
	tap_eq(right, 30, "killed while it goes");
}

static void *ends_first(void *arg)
{
	struct timespec ts = {.tv_nsec = 20000000};

	(void)nanosleep(&ts, NULL); /* the first thread has ended, most often */
	execute(arg);
	return NULL;
}

static void first_has_ended(void)
{
	const char *file = in_work("first");
	struct job a = {file, "a", false, NULL};
	char text[200];
	pid_t pid;

	(void)fflush(stdout);
	pid = fork();
	if (pid == 0) {
		pthread_t t;

		ASSERT(pthread_create(&t, NULL, ends_first, &a) == 0);
		pthread_exit(NULL);
	}
	tap_eq(wait_ms(pid, 20000), 7 << 8, "the first thread has ended, another executes");
	tap_ok(slurp(file, text, sizeof(text)) > 0 && strstr(text, "pid 1 tid 1 threads 1") != NULL,
	       "and is the first");
}

int main(int argc, char **argv)
{
	pid_t pid;

	if (argc > 5 && strcmp(argv[1], "--then") == 0)
		return then(argv);
	test_init("threads", 200);
	compare(OF_A_THREAD, false, "a thread executes");
	compare(OF_THE_FIRST, false, "the first thread executes");
	compare(OF_A_THREAD, true, "a thread executes, another waits for a child");
	compare(OF_THE_FIRST, true, "the first executes, another waits for a child");
	two();
	killed();
	first_has_ended();
	(void)fflush(stdout);
	pid = fork();
	if (pid == 0)
		fails();
	tap_eq(wait_ms(pid, 60000), 0, "execs that fail leave the threads as they were");
	test_fini();
	return tap_done();
}
