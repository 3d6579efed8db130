/* keeper.c - stage 0 of krginit: holds, for the next krgd, what this one would take with it when it dies.
 *
 * krgd puts copies of descriptors here, with a name and what to know of each, as it makes them, and does not wait.  As
 * long as a copy of a listener, of a nursery's socket or of a vessel's channel is open, nobody at the other end sees
 * that krgd has died: they wait.  When krgd's socket ends without a word, the keeper waits for another krgd, at most
 * keep_ms; then it ends, and the world with it.  An orderly krgd ends the keeper first.
 *
 * Who may ask   whoever can connect to the socket (root; 0600) and holds the lock of the run directory, as every krgd
 *               does: there is one at a time.
 * Limits        KEEP_MAX things; more are not kept, and end with krgd.
 */
#include "krginit.h"
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>

#define KEEP_MAX     65536u
#define KEEP_BUCKETS 4096u
#define CLAIM_S	     5 /* the next krgd says what it wants, and reads what it gets, in that time */

struct thing {
	struct thing *next;
	u32 kind;
	u64 id;
	int fd[KEEP_FDS_MAX];
	unsigned nfds;
	size_t len;
	u8 blob[];
};

static struct {
	struct thing *bucket[KEEP_BUCKETS];
	unsigned n;
} kept;

static struct thing **find(u32 kind, u64 id)
{
	struct thing **at = &kept.bucket[(id * KEEP_KIND_NR + kind) % KEEP_BUCKETS];

	while (*at != NULL && ((*at)->kind != kind || (*at)->id != id))
		at = &(*at)->next;
	return at;
}

static void drop(struct thing **at)
{
	struct thing *t = *at;

	if (t == NULL)
		return;
	*at = t->next;
	for (unsigned i = 0; i < t->nfds; i++)
		(void)close(t->fd[i]);
	free(t);
	kept.n--;
}

static void put(const struct keep_msg *m, const u8 *blob, size_t len, int *fds, unsigned nfds)
{
	struct thing *t;

	drop(find(m->kind, m->id));
	if (kept.n == KEEP_MAX || m->kind == 0 || m->kind >= KEEP_KIND_NR) {
		for (unsigned i = 0; i < nfds; i++)
			(void)close(fds[i]);
		return;
	}
	t = krg_xalloc(sizeof(*t) + len);
	t->kind = m->kind;
	t->id = m->id;
	t->nfds = nfds;
	t->len = len;
	memcpy(t->fd, fds, nfds * sizeof(*fds));
	memcpy(t->blob, blob, len);
	*find(m->kind, m->id) = t;
	kept.n++;
}

/* False: krgd is gone. */
static bool hear(int krgd)
{
	static _Alignas(8) u8 buf[sizeof(struct keep_msg) + KEEP_BLOB_MAX];
	int fds[KEEP_FDS_MAX];
	unsigned nfds = KRG_NELEM(fds);
	struct keep_msg m;
	ssize_t n = krg_recv_fds(krgd, buf, sizeof(buf), fds, &nfds);

	if (n < (ssize_t)sizeof(m)) {
		for (unsigned i = 0; i < nfds; i++)
			(void)close(fds[i]);
		return n > 0;
	}
	memcpy(&m, buf, sizeof(m));
	if (m.type == KEEP_PUT) {
		put(&m, buf + sizeof(m), (size_t)n - sizeof(m), fds, nfds);
		return true;
	}
	if (m.type == KEEP_DROP)
		drop(find(m.kind, m.id));
	for (unsigned i = 0; i < nfds; i++)
		(void)close(fds[i]);
	return true;
}

/* Programs of other nodes: their homes are about to see this node fail, and end what stands for them there.  They end
 * here first, so that nobody runs while its parent takes it for dead. */
static void end_bodies(void)
{
	for (unsigned i = 0; i < KEEP_BUCKETS; i++) {
		for (struct thing **at = &kept.bucket[i]; *at != NULL;) {
			if ((*at)->kind != KEEP_BODY) {
				at = &(*at)->next;
				continue;
			}
			if ((*at)->nfds > 0)
				(void)syscall(SYS_pidfd_send_signal, (*at)->fd[0], SIGKILL, NULL,
					      0);
			drop(at);
		}
	}
}

static bool give(int to)
{
	static _Alignas(8) u8 buf[sizeof(struct keep_msg) + KEEP_BLOB_MAX];
	struct keep_msg m = {.type = KEEP_HAVE};

	for (unsigned i = 0; i < KEEP_BUCKETS; i++) {
		for (const struct thing *t = kept.bucket[i]; t != NULL; t = t->next) {
			m.kind = t->kind;
			m.id = t->id;
			memcpy(buf, &m, sizeof(m));
			memcpy(buf + sizeof(m), t->blob, t->len);
			if (krg_send_fds(to, buf, sizeof(m) + t->len, t->fd, t->nfds) < 0)
				return false;
		}
	}
	m = (struct keep_msg){.type = KEEP_ALL};
	return krg_send_fds(to, &m, sizeof(m), NULL, 0) > 0;
}

/* The next krgd, or -1: it was none, or is gone already. */
static int claimed(int door)
{
	struct timeval tv = {.tv_sec = CLAIM_S};
	int fd = accept4(door, NULL, NULL, SOCK_CLOEXEC);
	struct keep_claim c = {0};
	unsigned nfds = 0;

	if (fd < 0)
		return -1;
	(void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
	(void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof(tv));
	if (krg_recv_fds(fd, &c, sizeof(c), NULL, &nfds) == sizeof(c) && c.type == KEEP_CLAIM) {
		if (c.version == WORLD_PROTO_VERSION && give(fd)) {
			tv.tv_sec = 0;
			(void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
			return fd;
		}
		c.type = KEEP_REFUSED;
		(void)krg_send_fds(fd, &c, sizeof(c), NULL, 0);
	}
	(void)close(fd);
	return -1;
}

static struct sockaddr_un address = {.sun_family = AF_UNIX};

_Noreturn static void end(void)
{
	(void)unlink(address.sun_path);
	_exit(0);
}

static u64 now_ms(void)
{
	struct timespec ts;

	(void)clock_gettime(CLOCK_MONOTONIC, &ts);
	return (u64)ts.tv_sec * 1000 + (u64)ts.tv_nsec / 1000000;
}

int keeper_open(const char *run_dir)
{
	int n = snprintf(address.sun_path, sizeof(address.sun_path), "%s/" KEEP_SOCKET, run_dir);
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0), r;
	mode_t mask;

	if (fd < 0)
		return -errno;
	if (n < 0 || (size_t)n >= sizeof(address.sun_path))
		return -ENAMETOOLONG;
	(void)unlink(address.sun_path);
	mask = umask(0177);
	r = bind(fd, (struct sockaddr *)&address, sizeof(address));
	(void)umask(mask);
	return r < 0 || listen(fd, 4) < 0 ? -errno : fd;
}

_Noreturn void keeper_run(int krgd, int herald, int door, pid_t world, u32 keep_ms)
{
	struct rlimit lim;
	u64 until = 0;
	sigset_t all;
	struct pollfd p[4];

	(void)prctl(PR_SET_NAME, "krgkeeper");
	sigfillset(&all);
	(void)sigprocmask(SIG_BLOCK, &all, NULL); /* in the world anybody may signal a herald */
	if (getrlimit(RLIMIT_NOFILE, &lim) == 0) {
		lim.rlim_cur = lim.rlim_max;
		(void)setrlimit(RLIMIT_NOFILE, &lim);
	}
	p[2] = (struct pollfd){(int)syscall(SYS_pidfd_open, world, 0), POLLIN, 0};
	p[3] = (struct pollfd){herald, POLLIN, 0};
	for (;;) {
		int wait = -1;

		if (krgd < 0) {
			u64 now = now_ms();

			if (now >= until)
				end();
			wait = (int)(until - now);
		}
		p[0] = (struct pollfd){krgd, POLLIN, 0};
		/* while there is a krgd, the next one waits to be accepted: it may have seen this one's end first */
		p[1] = (struct pollfd){krgd < 0 ? door : -1, POLLIN, 0};
		if (poll(p, 4, wait) < 0)
			continue;
		if (p[2].revents != 0)
			end();
		/* (its other end is kept, too: it does not close) */
		if (p[3].revents != 0 && !herald_serve(herald))
			p[3].fd = -1;
		if (p[0].revents != 0 && !hear(krgd)) {
			(void)close(krgd);
			krgd = -1;
			/* before it had a world, there is nothing to go on with */
			if (*find(KEEP_WORLD, 0) == NULL || keep_ms == 0)
				end();
			end_bodies();
			until = now_ms() + keep_ms;
		} else if (p[1].revents != 0) {
			krgd = claimed(door);
		}
	}
}
