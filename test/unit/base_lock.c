/* base_lock.c - locks with classes, their order, conditions. */
#include "lock.h"
#include "clock.h"
#include "tap.h"
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>

static struct krg_mutex m_door, m_task, m_task2, m_leaf;

static void right_order(void)
{
	door_lock(&m_door);
	task_lock(&m_task);
	leaf_lock(&m_leaf);
	door_unlock(&m_door); /* release in any order */
	leaf_unlock(&m_leaf);
	task_unlock(&m_task);
	krg_assert_no_locks();
	{
		KRG_GUARD(task, &m_task);
		KRG_GUARD(leaf, &m_leaf);
	}
	krg_assert_no_locks();
	task_lock(&m_task2);
	task_unlock(&m_task2);
	tap_ok(true, "locks in their order, one after another, by guard");
}

#ifdef KRG_CHECKS
static void bad_order(void)
{
	task_lock(&m_task);
	door_lock(&m_door);
}
static void bad_same_class(void)
{
	task_lock(&m_task);
	task_lock(&m_task2);
}
static void bad_twice(void)
{
	leaf_lock(&m_leaf);
	leaf_lock(&m_leaf);
}
static void bad_after_release(void)
{
	door_lock(&m_door);
	task_lock(&m_task);
	leaf_lock(&m_leaf);
	task_unlock(&m_task);
	task_lock(&m_task2); /* leaf is still held */
}
static void bad_unlock(void)
{
	task_unlock(&m_task);
}
static void bad_unlock_other(void)
{
	task_lock(&m_task);
	task_unlock(&m_task2);
}
static void bad_net(void)
{
	KRG_GUARD(task, &m_task);
	krg_assert_no_locks();
}
static void bad_wait(void)
{
	struct krg_cond c;

	krg_cond_init(&c);
	door_lock(&m_door);
	task_lock(&m_task);
	krg_cond_wait(&c, &m_door);
}
static void bad_wait_unlocked(void)
{
	struct krg_cond c;

	krg_cond_init(&c);
	(void)krg_cond_wait_until(&c, &m_task, 0);
}

/* In a child: it must abort, and say why. */
static void must_abort(void (*fn)(void), const char *says, const char *name)
{
	char text[512] = "";
	int fds[2], status = 0;
	ssize_t n;
	pid_t pid;

	ASSERT(pipe2(fds, O_CLOEXEC) == 0);
	pid = fork();
	ASSERT(pid >= 0);
	if (pid == 0) {
		(void)setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
		(void)alarm(20); /* a deadlock would be caught, too */
		(void)dup2(fds[1], STDERR_FILENO);
		fn();
		_exit(0);
	}
	(void)close(fds[1]);
	for (size_t at = 0; (n = read(fds[0], text + at, sizeof(text) - 1 - at)) > 0;)
		at += (size_t)n;
	(void)close(fds[0]);
	ASSERT(waitpid(pid, &status, 0) == pid);
	tap_ok(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT, "%s aborts", name);
	tap_ok(strstr(text, says) != NULL, "%s says: %s", name, says);
}

static void wrong_order(void)
{
	must_abort(bad_order, "lock order: taking door while holding task", "an outer lock inside");
	must_abort(bad_same_class, "taking task while holding task", "two of one class");
	must_abort(bad_twice, "taking leaf while holding leaf", "the same lock twice");
	must_abort(bad_after_release, "taking task while holding leaf", "order after a release");
	must_abort(bad_unlock, "PANIC", "release without acquire");
	must_abort(bad_unlock_other, "PANIC", "release of another one");
	must_abort(bad_net, "a wait for another node while holding task", "[net] with a lock");
	must_abort(bad_wait, "PANIC", "waiting with a lock inside");
	must_abort(bad_wait_unlocked, "PANIC", "waiting without the lock");
}
#else
static void wrong_order(void)
{
	printf("# the checker is not in this build\n");
}
#endif

static struct {
	struct krg_mutex lock;
	struct krg_cond cond;
	unsigned counter, turn; /* (o) */
} shared;

static void *adder(void *arg)
{
	unsigned n = *(unsigned *)arg;

	for (unsigned i = 0; i < n; i++) {
		KRG_GUARD(task, &shared.lock);
		shared.counter++;
	}
	return NULL;
}

static void *ping(void *arg)
{
	unsigned me = *(unsigned *)arg;

	for (int i = 0; i < 1000; i++) {
		KRG_GUARD(task, &shared.lock);
		while (shared.turn % 2 != me)
			krg_cond_wait(&shared.cond, &shared.lock);
		shared.turn++;
		krg_cond_broadcast(&shared.cond);
	}
	return NULL;
}

static void threads(void)
{
	pthread_t t[4];
	unsigned n = 20000, who[2] = {0, 1};

	krg_mutex_init(&shared.lock);
	krg_cond_init(&shared.cond);
	for (int i = 0; i < 4; i++)
		ASSERT(pthread_create(&t[i], NULL, adder, &n) == 0);
	for (int i = 0; i < 4; i++)
		ASSERT(pthread_join(t[i], NULL) == 0);
	tap_eq(shared.counter, 4 * n, "four threads count to 80,000");
	for (int i = 0; i < 2; i++)
		ASSERT(pthread_create(&t[i], NULL, ping, &who[i]) == 0);
	for (int i = 0; i < 2; i++)
		ASSERT(pthread_join(t[i], NULL) == 0);
	tap_eq(shared.turn, 2000, "two threads take turns");
}

static void deadlines(void)
{
	u64 begin = krg_clock_now_ns(), deadline = begin + 30 * KRG_MSEC;
	int r = 0;

	task_lock(&shared.lock);
	tap_eq(krg_cond_wait_until(&shared.cond, &shared.lock, begin), -ETIMEDOUT,
	       "a deadline in the past");
	while (r == 0)
		r = krg_cond_wait_until(&shared.cond, &shared.lock, deadline);
	tap_eq(r, -ETIMEDOUT, "a deadline");
	tap_ok(krg_clock_now_ns() >= deadline, "not before its time");
	shared.counter = 0; /* the lock is held again: TSan would say so */
	task_unlock(&shared.lock);
	krg_cond_signal(&shared.cond);
	krg_cond_fini(&shared.cond);
	krg_mutex_fini(&shared.lock);
}

static u64 frozen(void *ctx)
{
	return *(u64 *)ctx;
}

static void clocks(void)
{
	u64 t = 123, a, b;
	struct krg_clock clock = {.now_ns = frozen, .ctx = &t};

	krg_clock_set(&clock);
	a = krg_clock_now_ns();
	t++;
	b = krg_clock_now_ns();
	tap_ok(a == 123 && b == 124, "a clock of our own");
	krg_clock_set(NULL);
	a = krg_clock_now_ns();
	b = krg_clock_now_ns();
	tap_ok(a > 1000 && b >= a, "the machine's clock again");
}

int main(void)
{
	krg_mutex_init(&m_door);
	krg_mutex_init(&m_task);
	krg_mutex_init(&m_task2);
	krg_mutex_init(&m_leaf);
	right_order();
	wrong_order();
	threads();
	deadlines();
	clocks();
	return tap_done();
}
