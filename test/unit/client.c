/* client.c - the client library against a daemon that answers what the test tells it to. */
#include "base.h"
#include "kerrighed/kerrighed.h"
#include "tap.h"
#include <pthread.h>
#include <sys/socket.h>
#include <sys/un.h>

#define HELLO "{\"ok\":true,\"version\":\"0.1\",\"protocol\":1,\"node\":3,\"cluster\":\"lab\"}"
#define NODE                                                                                       \
	"{\"node\":%d,\"name\":\"n\",\"addr\":\"10.0.0.1:7000\",\"state\":\"%s\",\"load\":0.5,"    \
	"\"cpus\":2}"
#define NODE_NEW "{\"node\":5,\"name\":\"n5\",\"addr\":\"10.0.0.5:7000\",\"state\":\"present\"}"
#define PROC                                                                                       \
	"{\"pid\":131073,\"ppid\":1,\"uid\":0,\"node\":1,\"home\":3,\"state\":\"R\","              \
	"\"cpu_ns\":5,\"rss\":4096,\"comm\":\"cc1\"}"

/* What the daemon says, one answer after another.  NULL ends it: it closes.  "" is silence: it waits
 * for the client to close. */
struct script {
	int listener;
	const char *answers[6];
	char asked[1024];
};

static void say(int fd, const char *text)
{
	u32 n = (u32)strlen(text);
	u8 head[4] = {(u8)n, (u8)(n >> 8), (u8)(n >> 16), (u8)(n >> 24)};

	/* in two writes, the first one short: the client must put it together */
	if (krg_write_all(fd, head, 3) < 0 || krg_write_all(fd, head + 3, 1) < 0 ||
	    krg_write_all(fd, text, n) < 0)
		printf("# the client was gone\n");
}

static void *daemon_main(void *arg)
{
	struct script *s = arg;
	KRG_AUTO_FD int fd = accept4(s->listener, NULL, NULL, SOCK_CLOEXEC);

	for (const char **a = s->answers; *a != NULL; a++) {
		char text[512];
		u8 head[4];
		u32 n;

		if (krg_read_all(fd, head, 4) < 0)
			break;
		n = (u32)head[0] | (u32)head[1] << 8;
		if (n >= sizeof(text) || krg_read_all(fd, text, n) < 0)
			break;
		text[n] = '\0';
		(void)strncat(s->asked, text, sizeof(s->asked) - strlen(s->asked) - 1);
		if (**a == '\0')
			(void)!read(fd, head, 1);
		else if (**a == '!') /* raw: a length that is a lie */
			(void)!write(fd, "\xff\xff\xff\xff{}", 6);
		else
			say(fd, *a);
	}
	return NULL;
}

static struct script s;
static pthread_t thread;

static struct kerrighed *start(const char *path, const char *first, const char *second)
{
	struct kerrighed *k = NULL;

	s.asked[0] = '\0';
	s.answers[0] = HELLO;
	s.answers[1] = first;
	s.answers[2] = second;
	ASSERT(pthread_create(&thread, NULL, daemon_main, &s) == 0);
	ASSERT(kerrighed_open(path, &k) == 0);
	return k;
}

static void stop(struct kerrighed *k)
{
	kerrighed_close(k);
	ASSERT(pthread_join(thread, NULL) == 0);
}

static void good(const char *path)
{
	KRG_AUTO_FREE char *nodes = krg_xasprintf(
		"{\"ok\":true,\"view\":4,\"nodes\":[" NODE "," NODE_NEW "]}", 0, "online");
	struct kerrighed_node n[3] = {0};
	struct kerrighed_proc p = {0};
	unsigned missing = 9;
	struct kerrighed *k;

	s.answers[3] = "{\"ok\":true,\"procs\":[" PROC "],\"missing\":[2]}";
	k = start(path, nodes, nodes);
	tap_ok(kerrighed_self(k) == 3 && strcmp(kerrighed_cluster(k), "lab") == 0, "who it is");
	tap_eq(kerrighed_nodes(k, n, 1), 2, "two nodes, room for one");
	tap_ok(n[0].node == 0 && n[0].state == KERRIGHED_ONLINE && n[0].cpus > 1.9 &&
		       n[0].load > 0.4 && n[1].name[0] == '\0',
	       "the first is filled in, and no more");
	tap_eq(kerrighed_nodes(k, n, 3), 2, "and with room for three");
	tap_ok(n[1].node == 5 && n[1].state == KERRIGHED_PRESENT && n[1].cpus == 0,
	       "a node whose load is not known");
	tap_eq(kerrighed_procs(k, &p, 1, &missing), 1, "one process");
	tap_ok(p.pid == 131073 && p.node == 1 && p.home == 3 && p.state == 'R' &&
		       strcmp(p.comm, "cc1") == 0 && missing == 1,
	       "its fields, and one node missing");
	tap_ok(kerrighed_kill(k, 5, 15) == -ECONNRESET && kerrighed_kill(k, 5, 15) == -ENOTCONN,
	       "the daemon ends: said once, then not connected");
	stop(k);
	s.answers[3] = NULL;
	tap_ok(strstr(s.asked, "\"node.ls\"") != NULL && strstr(s.asked, "\"ps\"") != NULL,
	       "what was asked");
}

static void refusals(const char *path)
{
	struct kerrighed *k = start(
		path, "{\"ok\":false,\"errno\":3,\"error\":\"pid 5: No such process\",\"node\":1}",
		"{\"ok\":true}");

	tap_eq(kerrighed_kill(k, 5, 15), -ESRCH, "its errno");
	tap_ok(strcmp(kerrighed_error(k), "node 1: pid 5: No such process") == 0, "its text: %s",
	       kerrighed_error(k));
	tap_eq(kerrighed_kill(k, 6, 9), 0, "and the connection goes on");
	stop(k);
	tap_ok(strstr(s.asked, "\"pid\":6,\"sig\":9") != NULL, "pid and signal");
}

static void nonsense(const char *path)
{
	KRG_AUTO_FREE char *far =
		krg_xasprintf("{\"ok\":true,\"nodes\":[" NODE "]}", 500, "online");
	KRG_AUTO_FREE char *odd = krg_xasprintf("{\"ok\":true,\"nodes\":[" NODE "]}", 1, "dead");
	const char *const bad[] = {"[]",
				   "{",
				   "{\"ok\":1}",
				   "!",
				   "{\"ok\":true}",
				   "{\"ok\":true,\"nodes\":{}}",
				   "{\"ok\":true,\"nodes\":[1]}",
				   "{\"ok\":false}",
				   "{\"ok\":false,\"errno\":-3,\"error\":\"x\"}",
				   far,
				   odd};

	for (unsigned i = 0; i < KRG_NELEM(bad); i++) {
		struct kerrighed *k = start(path, bad[i], NULL);
		struct kerrighed_node n = {.node = 77};

		tap_ok(kerrighed_nodes(k, &n, 1) == -EPROTO && n.node == 77,
		       "'%s' is refused, nothing filled in", bad[i]);
		tap_eq(kerrighed_nodes(k, &n, 1), -ENOTCONN, "and breaks the handle");
		stop(k);
	}
}

static void silence(const char *path)
{
	struct kerrighed *k = start(path, "", NULL);

	kerrighed_set_timeout(k, 30);
	tap_eq(kerrighed_kill(k, 1, 0), -ETIMEDOUT, "a daemon that does not answer");
	stop(k);
}

int main(void)
{
	char dir[] = "/tmp/krg_client.XXXXXX", longer[300];
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	struct kerrighed *k;

	ASSERT(mkdtemp(dir) != NULL);
	(void)snprintf(sa.sun_path, sizeof(sa.sun_path), "%s/sock", dir);
	tap_eq(kerrighed_open(sa.sun_path, &k), -ENOENT, "no socket");
	memset(longer, 'x', sizeof(longer));
	longer[sizeof(longer) - 1] = '\0';
	tap_eq(kerrighed_open(longer, &k), -ENAMETOOLONG, "a path too long");
	s.listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	ASSERT(bind(s.listener, (struct sockaddr *)&sa, sizeof(sa)) == 0);
	tap_eq(kerrighed_open(sa.sun_path, &k), -ECONNREFUSED, "nobody listens");
	ASSERT(listen(s.listener, 4) == 0);
	good(sa.sun_path);
	refusals(sa.sun_path);
	nonsense(sa.sun_path);
	silence(sa.sun_path);
	ASSERT(setenv("KRG_SOCKET", sa.sun_path, 1) == 0);
	stop(start(NULL, NULL, NULL));
	tap_ok(true, "$KRG_SOCKET");
	(void)close(s.listener);
	(void)unlink(sa.sun_path);
	(void)rmdir(dir);
	return tap_done();
}
