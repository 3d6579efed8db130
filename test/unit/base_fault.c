/* base_fault.c - fault points: by name and count, one after another, from the environment. */
#include "fault.h"
#include "log.h"
#include "tap.h"
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>

static void by_name(void)
{
	tap_ok(!krg_fault_hit(FAULT_TEST), "nothing is armed at first");
	tap_eq(krg_fault_arm("TEST"), 0, "arm");
	tap_ok(!krg_fault_hit(FAULT_NET_SEND), "another point does not fire");
	tap_ok(!krg_fault_fired(), "not fired yet");
	tap_ok(krg_fault_hit(FAULT_TEST) && krg_fault_fired(), "fires");
	tap_ok(!krg_fault_hit(FAULT_TEST), "once");
	tap_eq(krg_fault_arm("TEST:3"), 0, "arm the third");
	tap_ok(!krg_fault_hit(FAULT_TEST) && !krg_fault_hit(FAULT_TEST), "two pass");
	tap_ok(krg_fault_hit(FAULT_TEST), "the third fires");
	tap_eq(krg_fault_arm("TEST"), 0, "arm");
	krg_fault_disarm();
	tap_ok(!krg_fault_hit(FAULT_TEST) && !krg_fault_fired(), "disarm");
}

static void wrong_specs(void)
{
	static const char *const bad[] = {
		"",	  "NOSUCH",  "TES",	 "TESTS",      "TEST:",	     "TEST:0",
		"TEST:x", "TEST:1:", "TEST:1:x", "TEST:kills", "TEST:1kill", "TEST:99999999"};

	for (unsigned i = 0; i < KRG_NELEM(bad); i++)
		tap_eq(krg_fault_arm(bad[i]), -EINVAL, "'%s' is refused", bad[i]);
	tap_ok(!krg_fault_hit(FAULT_TEST), "and arms nothing");
}

/* Three steps; each may fail, and undoes what was done. */
static int three_steps(int *done)
{
	int r = -EIO;

	if (krg_fault_hit(FAULT_EXEC_READ))
		return r;
	(*done)++;
	if (krg_fault_hit(FAULT_EXEC_DESCRIBE))
		goto undo1;
	(*done)++;
	if (krg_fault_hit(FAULT_EXEC_EXPORT))
		goto undo2;
	*done -= 2;
	return 0;
undo2:
	(*done)--;
undo1:
	(*done)--;
	return r;
}

static void sweep(void)
{
	unsigned nth = 1;
	int done = 0;

	for (;; nth++) {
		int r;

		krg_fault_arm_nth(nth);
		r = three_steps(&done);
		if (!krg_fault_fired()) {
			tap_eq(r, 0, "without a fault it works");
			break;
		}
		tap_ok(r == -EIO && done == 0, "fault %u: an error, and all undone", nth);
	}
	tap_eq(nth, 4, "the sweep drives each point once");
	krg_fault_disarm();
}

static void environment(void)
{
	int fds[2], status;
	char line[200] = "";
	pid_t pid;

	tap_eq(pipe2(fds, O_CLOEXEC), 0, "pipe");
	pid = fork();
	if (pid == 0) {
		krg_log_init(fds[1], 2, KRG_LOG_INFO);
		(void)setenv("KRG_FAULT", "STREAM_DATA:2:kill", 1);
		krg_fault_arm_env();
		(void)krg_fault_hit(FAULT_STREAM_DATA);
		(void)krg_fault_hit(FAULT_STREAM_DATA);
		_exit(0);
	}
	tap_ok(waitpid(pid, &status, 0) == pid && WIFSIGNALED(status) &&
		       WTERMSIG(status) == SIGKILL,
	       "KRG_FAULT=NAME:2:kill kills the process");
	tap_ok(read(fds[0], line, sizeof(line) - 1) > 0 && strstr(line, "fault STREAM_DATA\n"),
	       "and its log says so: %s", strtok(line, "\n"));
	(void)close(fds[0]);
	(void)close(fds[1]);
	(void)setenv("KRG_FAULT", "NOSUCH", 1);
	krg_fault_arm_env();
	(void)setenv("KRG_FAULT", "", 1);
	krg_fault_arm_env();
	tap_ok(!krg_fault_hit(FAULT_TEST), "an unknown name in KRG_FAULT arms nothing");
	tap_ok(strcmp(krg_fault_name(FAULT_TEST), "TEST") == 0, "names");
}

static void *hitter(void *arg)
{
	unsigned *fired = arg;

	for (int i = 0; i < 20000; i++)
		*fired += krg_fault_hit(FAULT_TEST);
	return NULL;
}

static void threads(void)
{
	pthread_t t[4];
	unsigned fired[4] = {0};

	tap_eq(krg_fault_arm("TEST:40000"), 0, "arm the 40,000th");
	for (int i = 0; i < 4; i++)
		ASSERT(pthread_create(&t[i], NULL, hitter, &fired[i]) == 0);
	for (int i = 0; i < 4; i++)
		ASSERT(pthread_join(t[i], NULL) == 0);
	tap_eq(fired[0] + fired[1] + fired[2] + fired[3], 1, "with four threads, one fires");
}

int main(void)
{
	by_name();
	wrong_specs();
	sweep();
	environment();
	threads();
	return tap_done();
}
