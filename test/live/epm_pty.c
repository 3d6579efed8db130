/* What somebody sees who sits at a terminal: an interactive shell that runs on another node, its jobs on that node
 * or on others, job control, the window's size, programs that use the whole screen.
 *
 *	live_epm_pty KRG LAB NODE    KRG's `run -n NODE bash -i`, on a pty of our own; TAP
 *	live_epm_pty - - -           the same without Kerrighed: what it should be
 */
#include "base.h"
#include "tap.h"
#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define PROMPT	"krg> "
#define WAIT_MS 20000

static int pty = -1;
static pid_t child;
static char seen[1 << 20]; /* what came and was not yet expected */
static size_t nseen;

static long now_ms(void)
{
	struct timespec t;

	(void)clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* Something came.  False: not in time, or the other end is closed. */
static bool more(long until)
{
	struct pollfd p = {.fd = pty, .events = POLLIN};
	long left = until - now_ms();
	ssize_t n;

	if (left <= 0 || poll(&p, 1, (int)left) <= 0)
		return false;
	if (nseen > sizeof(seen) / 2) {
		memmove(seen, seen + nseen / 2, nseen - nseen / 2);
		nseen -= nseen / 2;
	}
	n = read(pty, seen + nseen, sizeof(seen) - 1 - nseen);
	if (n <= 0)
		return false;
	for (ssize_t i = 0; i < n; i++)
		if (seen[nseen + (size_t)i] == '\0')
			seen[nseen + (size_t)i] = '?';
	nseen += (size_t)n;
	seen[nseen] = '\0';
	return true;
}

static void show_seen(const char *wanted)
{
	size_t from = nseen > 600 ? nseen - 600 : 0;

	printf("# wanted '%s', seen: '", wanted);
	for (size_t i = from; i < nseen; i++)
		if (seen[i] == '\n')
			printf("\n#   ");
		else if (seen[i] >= ' ')
			putchar(seen[i]);
	printf("'\n");
}

/* The text comes; what came up to its end is dropped. */
static bool expect_ms(const char *text, long ms)
{
	long until = now_ms() + ms;

	for (;;) {
		char *at = strstr(seen, text);

		if (at != NULL) {
			at += strlen(text);
			nseen -= (size_t)(at - seen);
			memmove(seen, at, nseen + 1);
			return true;
		}
		if (!more(until)) {
			show_seen(text);
			return false;
		}
	}
}

static bool expect(const char *text)
{
	return expect_ms(text, WAIT_MS);
}

static void type(const char *text)
{
	ASSERT(write(pty, text, strlen(text)) == (ssize_t)strlen(text));
}

/* A line for the shell; what it shows ends with `want`, then the prompt. */
static bool line(const char *text, const char *want)
{
	type(text);
	type("\r");
	return (want == NULL || expect(want)) && expect(PROMPT);
}

static void start(char **argv)
{
	struct winsize ws = {.ws_row = 24, .ws_col = 80};

	nseen = 0;
	seen[0] = '\0';
	child = forkpty(&pty, NULL, NULL, &ws);
	ASSERT(child >= 0);
	if (child == 0) {
		(void)setenv("PS1", PROMPT, 1);
		(void)setenv("TERM", "dumb", 1);
		(void)setenv("INPUTRC", "/dev/null", 1);
		(void)setenv("HISTFILE", "", 1);
		(void)unsetenv("PROMPT_COMMAND");
		(void)execv(argv[0], argv);
		_exit(127);
	}
}

/* Its status, or -1 when it does not end. */
static int end(void)
{
	long until = now_ms() + WAIT_MS;
	int status;

	while (more(until))
		;
	for (; now_ms() < until; (void)poll(NULL, 0, 10))
		if (waitpid(child, &status, WNOHANG) == child) {
			(void)close(pty);
			return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
		}
	(void)kill(child, SIGKILL);
	(void)waitpid(child, &status, 0);
	(void)close(pty);
	return -1;
}

static void shell_starts(char **argv, const char *node)
{
	char want[32];

	start(argv);
	tap_ok(expect(PROMPT), "a prompt");
	(void)snprintf(want, sizeof(want), "at node%s", node);
	if (node[0] != '-')
		tap_ok(line("echo at $(</proc/sys/kernel/hostname)", want),
		       "the shell runs on node %s", node);
	tap_ok(line("echo mode=$-.", "m") && line("set -o | grep monitor", "on"),
	       "it has job control");
	tap_ok(line("[ -t 0 ] && [ -t 1 ] && [ -t 2 ] && echo tty''s", "ttys"),
	       "its terminal is one");
	tap_ok(line("tty", "/dev/pts/"), "ttyname");
	tap_ok(line("echo by na''me >/dev/tty", "by name\r\n"), "/dev/tty is written");
	tap_ok(line("/bin/sh -c 'echo by ano''ther >/dev/tty; stty size </dev/tty'",
		    "by another\r\n24 80"),
	       "by a program, too");
	type("read -p 'rea''dy? ' x </dev/tty; echo got=$x.\r");
	tap_ok(expect("ready? ") && (type("it\r"), expect("got=it.")) && expect(PROMPT),
	       "and read");
	tap_ok(line("setsid -w /bin/sh -c 'cat </dev/tty 2>/dev/null || echo no''ne'", "none"),
	       "a session without a terminal has none");
}

static void foreground(const char *sleep_)
{
	char text[200];

	(void)snprintf(text, sizeof(text), "%s\r", sleep_);
	type(text);
	tap_ok(expect(sleep_) && (poll(NULL, 0, 300), true), "%s: in front", sleep_);
	type("\003");
	tap_ok(expect(PROMPT) && line("echo status=$?.", "status=130."), "^C ends it");
	type(text);
	(void)(expect(sleep_) && poll(NULL, 0, 300));
	type("\032");
	tap_ok(expect("Stopped") && expect(PROMPT), "^Z stops it");
	tap_ok(line("jobs", "Stopped"), "jobs: stopped");
	tap_ok(line("bg", "&"), "bg");
	tap_ok(line("jobs", "Running"), "jobs: running");
	type("fg\r");
	tap_ok(expect(sleep_) && (poll(NULL, 0, 300), true), "fg");
	type("\003");
	tap_ok(expect(PROMPT) && line("echo status=$?.", "status=130."), "^C ends it again");
	(void)snprintf(text, sizeof(text), "%s\r", sleep_);
	type(text);
	(void)(expect(sleep_) && poll(NULL, 0, 300));
	type("\034");
	tap_ok(expect("Quit") && expect(PROMPT), "^\\ ends it with SIGQUIT");
}

static void background(void)
{
	tap_ok(line("cat &", "[1]") && line("wait %1", "Stopped"),
	       "a reader in the background stops");
	tap_ok(line("jobs -l", "tty input"), "by SIGTTIN");
	type("fg\r");
	tap_ok(expect("cat"), "it is brought to the front");
	type("typed\r");
	tap_ok(expect("typed") && expect("typed"), "and reads");
	type("\004");
	tap_ok(expect(PROMPT), "end of file");
	tap_ok(line("stty tostop; /bin/echo loud &", "[1]") && line("wait %1", "Stopped"),
	       "a writer in the background stops (tostop)");
	tap_ok(line("jobs -l", "tty output"), "by SIGTTOU");
	type("fg\r");
	tap_ok(expect("loud\r\n") && expect(PROMPT), "it writes in front");
	tap_ok(line("stty -tostop; /bin/echo lo''ud & wait", "loud\r\n"), "it writes (-tostop)");
	tap_ok(line("stty -echo & wait", "Stopped"), "stty in the background stops");
	tap_ok(line("kill -9 %1", NULL) && line("wait; jobs -l; echo en''d", "end"),
	       "it is killed");
}

static void window(void)
{
	struct winsize ws = {.ws_row = 33, .ws_col = 111};

	tap_ok(line("stty size", "24 80"), "the window's size");
	tap_ok(line("trap 'echo win''ch $(stty size)' WINCH", NULL), "trap SIGWINCH");
	ASSERT(ioctl(pty, TIOCSWINSZ, &ws) == 0);
	tap_ok(line("", "winch 33 111"), "it changes");
	tap_ok(line("trap - WINCH; stty rows 20; stty size", "20 111"), "set from there");
}

static void programs(void)
{
	type("read -p 'wo''rd? ' w; echo got=$w.\r");
	tap_ok(expect("word? ") && (type("thing\r"), expect("got=thing.")) && expect(PROMPT),
	       "read -p");
	type("stty raw -echo; printf 're''ady '; c=$(head -c 1 | od -An -tx1); stty sane; echo "
	     "raw=$c.\r");
	tap_ok(expect("ready ") && (type("\003"), expect("raw= 03.")) && expect(PROMPT),
	       "raw: ^C is a byte");
	for (int i = 0; i < 3; i++) {
		type("sh -c 'kill -TSTP $$; echo a\"g\"ain'\r");
		tap_ok(expect("Stopped") && expect(PROMPT), "one stops itself (SIGTSTP)");
		type("fg\r");
		tap_ok(expect("\nagain\r\n") && expect(PROMPT), "and goes on");
	}
	tap_ok(line("(sleep 0.2; echo a) | cat", "a\r\n"), "a pipeline in front");
	tap_ok(line("x=$(cat </dev/null); echo \"<$x>\"", "<>"), "a substitution");
	type("echo g''o; cat | cat\r");
	tap_ok(expect("go\r\n") && (type("twice\r"), expect("twice") && expect("twice")),
	       "a pipeline that reads");
	type("\003");
	tap_ok(expect(PROMPT), "^C ends all of it");
	/* a session that is made there; what is left of it is found in the end (epm_tty.sh: idle) */
	type("script -qc \"sh -c 'sh -c \\\"echo g\\\"\\\"o; sleep 4321; :\\\"; :'\" /dev/null\r");
	tap_ok(expect("go\r\n") && (poll(NULL, 0, 500), true),
	       "script(1), a shell in it, a shell in that");
	type("\003");
	tap_ok(expect(PROMPT), "^C ends them");
	type("bash --norc -i\r");
	tap_ok(expect(PROMPT) && line("echo in''ner", "inner"), "a shell in the shell");
	tap_ok(line("sleep 100 &", "[1]") && line("kill %1; wait; jobs -l; echo en''d", "end\r\n"),
	       "with jobs");
	type("suspend -f\r");
	tap_ok(expect("Stopped") && expect(PROMPT), "it suspends itself");
	type("fg\r");
	tap_ok(expect("bash") && line("", NULL) && line("exit", NULL), "and goes on");
}

/* A read that signals interrupt, but does not end (SA_RESTART); and one that they end. */
static void interrupted(void)
{
	type("sh -c 'trap \"echo trapped\" USR1; echo p\"id\"=$$; while read x; do echo got=$x; "
	     "done'\r");
	tap_ok(expect("pid="), "a reader");
	type("\032");
	tap_ok(expect("Stopped") && expect(PROMPT), "stopped while it reads");
	type("fg\r");
	(void)expect("done'");
	type("one\r");
	tap_ok(expect("got=one"), "its read goes on after fg");
	type("\004");
	tap_ok(expect(PROMPT), "end of file");
}

int main(int argc, char **argv)
{
	char *shell[] = {argv[1],
			 (char[]){"--lab"},
			 argv[2],
			 (char[]){"run"},
			 (char[]){"-n"},
			 argv[3],
			 (char[]){"--"},
			 (char[]){"bash"},
			 (char[]){"--norc"},
			 (char[]){"--noprofile"},
			 (char[]){"-i"},
			 NULL};

	char *plain[] = {(char[]){"/bin/bash"}, (char[]){"--norc"}, (char[]){"--noprofile"},
			 (char[]){"-i"}, NULL};

	ASSERT(argc == 4);
	(void)signal(SIGPIPE, SIG_IGN);
	setvbuf(stdout, NULL, _IOLBF, 0);
	shell_starts(argv[1][0] == '-' ? plain : shell, argv[3]);
	foreground("sleep 100");
	background();
	window();
	interrupted();
	programs();
	type("exit 7\r");
	tap_eq(end(), 7, "exit 7");
	return tap_done();
}
