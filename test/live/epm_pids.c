/* epm_pids.c - tasks by the ten thousand on one node: every pid is of its range. */
#include "epm.h"
#include <pthread.h>
#include <sched.h>

#define TASKS 100000
#define MAX_S 15

static int one(void *arg)
{
	(void)arg;
	return 0;
}

int main(void)
{
	static char stack[4][65536] __attribute__((aligned(16)));
	pid_t self = getpid(), low = 0, high = 0, first, last = 0;
	unsigned made = 0, outside = 0, wraps = 0;
	u64 end;
	int status;

	test_init("pids", 60);
	/* where this program runs, its children are born */
	first = fork();
	if (first == 0)
		_exit(0);
	(void)waitpid(first, &status, 0);
	if (expect_moves()) {
		low = first & ~32767;
		high = low + 32768;
		tap_ok(low >= 32768 && self >= 32768, "pid %d, a child's %d", self, first);
	} else {
		high = 1 << 22;
	}
	end = now_ms() + MAX_S * 1000ul;
	while (made < TASKS && now_ms() < end) {
		pid_t pid[4];

		for (int i = 0; i < 4; i++)
			pid[i] = clone(one, stack[i] + sizeof(stack[i]), CLONE_VM | SIGCHLD, NULL);
		for (int i = 0; i < 4; i++) {
			if (pid[i] < low || pid[i] >= high)
				outside++;
			wraps += pid[i] < last;
			last = pid[i];
			(void)waitpid(pid[i], &status, 0);
		}
		made += 4;
	}
	printf("# %u tasks, the range began again %u times\n", made, wraps);
	tap_eq(outside, 0, "no pid was outside of the node's range");
	tap_ok(made >= 50000 || !expect_moves(), "%u tasks were made", made);
	test_fini();
	return tap_done();
}
