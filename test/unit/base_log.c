/* base_log.c - one line per event, whatever is in it. */
#include "log.h"
#include "tap.h"
#include <ctype.h>
#include <fcntl.h>
#include <pthread.h>

static int fds[2];

static ssize_t next(char *line, size_t room)
{
	ssize_t n = read(fds[0], line, room - 1);

	line[n > 0 ? n : 0] = '\0';
	return n;
}

static void lines(void)
{
	char line[4096], big[2000];

	errno = ENOTTY;
	LOG_W("epm", "pid %d", 7);
	tap_eq(errno, ENOTTY, "errno is kept");
	(void)next(line, sizeof(line));
	tap_ok(isdigit((unsigned char)line[0]) && line[2] == ':' && line[8] == '.' &&
		       strcmp(line + 15, " 5 W epm: pid 7\n") == 0,
	       "a line: %.*s", (int)strlen(line) - 1, line);
	LOG_D("epm", "not shown");
	krg_log_set_level(KRG_LOG_DEBUG);
	LOG_D("epm", "shown");
	(void)next(line, sizeof(line));
	tap_ok(strstr(line, " D epm: shown\n") != NULL && strstr(line, "not shown") == NULL,
	       "levels");
	LOG_E("epm", "a\nE forged\r\033[1m%s", "\x7f");
	(void)next(line, sizeof(line));
	tap_ok(strstr(line, "a?E forged??[1m?\n") != NULL,
	       "control characters cannot forge a line");
	memset(big, 'x', sizeof(big));
	big[sizeof(big) - 1] = '\0';
	LOG_I("epm", "%s", big);
	tap_ok(next(line, sizeof(line)) < 1024 && strchr(line, '\n') == line + strlen(line) - 1,
	       "a long text is cut, with its newline");
	LOG_I(big, "%s", big);
	tap_ok(next(line, sizeof(line)) < 1024 && strchr(line, '\n') == line + strlen(line) - 1,
	       "a long part name, too");
	krg_log_init(-1, 5, KRG_LOG_INFO);
	LOG_I("epm", "lost");
	tap_ok(true, "a log that cannot be written is dropped");
	krg_log_init(fds[1], 5, KRG_LOG_INFO);
}

static void *logger(void *arg)
{
	for (int i = 0; i < 200; i++)
		LOG_I((const char *)arg, "%0100d", i);
	return NULL;
}

static void threads(void)
{
	static const char *const name[4] = {"aa", "bb", "cc", "dd"};
	unsigned seen[4] = {0}, wrong = 0;
	KRG_AUTO_FILE FILE *f = NULL;
	char line[300];
	pthread_t t[4];

	for (int i = 0; i < 4; i++)
		ASSERT(pthread_create(&t[i], NULL, logger, (void *)(uintptr_t)name[i]) == 0);
	f = fdopen(fds[0], "r");
	ASSERT(f != NULL);
	for (int n = 0; n < 800 && fgets(line, sizeof(line), f) != NULL; n++) {
		int i = line[20] - 'a';

		if (strlen(line) != 125 || i < 0 || i > 3 ||
		    strtoul(line + 24, NULL, 10) != seen[i])
			wrong++;
		else
			seen[i]++;
	}
	for (int i = 0; i < 4; i++)
		ASSERT(pthread_join(t[i], NULL) == 0);
	tap_eq(wrong, 0, "lines of four threads are whole and in order");
	tap_eq(seen[0] + seen[1] + seen[2] + seen[3], 800, "all of them");
}

int main(void)
{
	tap_eq(pipe2(fds, O_CLOEXEC), 0, "pipe");
	krg_log_init(fds[1], 5, KRG_LOG_INFO);
	lines();
	threads();
	return tap_done();
}
