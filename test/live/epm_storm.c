/* epm_storm.c - spawners side by side, programs of all kinds, kills at random moments.
 * epm_storm SEED SECONDS [SPAWNERS] */
#include "epm.h"

extern char **environ;

#define SPAWNERS_MAX 64u

static const struct {
	const char *text;
	int status; /* -1: it is killed */
} job[] = {
	{"exit 0", 0},
	{"exit 7", 7 << 8},
	{"/bin/true; /bin/false; exit 4", 4 << 8},
	{"sleep 0.05; exit 1", 1 << 8},
	{"sleep 0.02; kill -TERM $$", SIGTERM},
	{"/bin/echo x | /bin/cat >/dev/null; exit 5", 5 << 8},
	{"/bin/true & wait $!; exit 6", 6 << 8},
	{"exec /bin/sh -c 'exit 8'", 8 << 8},
	{"sleep 30", -1},
};

static unsigned state;

static unsigned chance(unsigned n)
{
	state = state * 1664525u + 1013904223u;
	return (state >> 8) % n;
}

static int spawner(unsigned seed, u64 end)
{
	int bad = 0, n = 0;

	state = seed;
	while (now_ms() < end) {
		unsigned j = chance(KRG_NELEM(job));
		bool kills = job[j].status < 0 || chance(6) == 0;
		int sig = chance(2) != 0 ? SIGKILL : SIGTERM, status;
		pid_t pid = fork();

		if (pid == 0) {
			(void)setpgid(0, 0);
			(void)execl("/bin/sh", "sh", "-c", job[j].text, (char *)NULL);
			_exit(90);
		}
		(void)setpgid(pid, pid);
		if (kills) {
			struct timespec ts = {0, chance(8000) * 1000l};

			(void)nanosleep(&ts, NULL);
			(void)kill(-pid, sig);
		}
		status = wait_ms(pid, 30000);
		if (kills && job[j].status < 0)
			(void)kill(-pid, SIGKILL);
		n++;
		if (status == job[j].status || (kills && status == sig) ||
		    /* a shell tells of its killed child */
		    (kills && WIFEXITED(status) && status != -1))
			continue;
		bad++;
		printf("# sh -c '%s', %s: status %#x\n", job[j].text,
		       kills ? strsignal(sig) : "whole", (unsigned)status);
	}
	printf("# spawner: %d programs, %d bad\n", n, bad);
	(void)fflush(stdout);
	return bad == 0 && n > 0 ? 0 : 1;
}

int main(int argc, char **argv)
{
	unsigned seed = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 10) : 1;
	u64 seconds = argc > 2 ? strtoul(argv[2], NULL, 10) : 10, end = now_ms() + seconds * 1000;
	unsigned spawners = argc > 3 ? (unsigned)strtoul(argv[3], NULL, 10) : 8;
	pid_t pid[SPAWNERS_MAX];

	spawners = KRG_MIN(spawners, SPAWNERS_MAX);
	test_init("storm", (unsigned)seconds + 200);
	printf("# seed %u\n", seed);
	(void)fflush(stdout);
	for (unsigned i = 0; i < spawners; i++) {
		pid[i] = fork();
		if (pid[i] == 0) {
			(void)alarm(0);
			_exit(spawner(seed * 100 + i, end));
		}
	}
	for (unsigned i = 0; i < spawners; i++) {
		int status = -1;

		(void)waitpid(pid[i], &status, 0);
		tap_eq(status, 0, "spawner %u", i);
	}
	test_fini();
	return tap_done();
}
