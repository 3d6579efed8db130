/* ghost.c - processes that check themselves are taken apart and built anew, under way.
 *
 * In a pid namespace of its own, so that what is built has the same numbers; needs root for it.
 */
#include "ghost.h"
#include "ghost_lazy.h"
#include "ghost_victims.h"
#include "tap.h"
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define SANITIZER 1
#elif defined(__has_feature)
#define SANITIZER (__has_feature(thread_sanitizer) || __has_feature(address_sanitizer))
#else
#define SANITIZER 0
#endif

/* ---- the test ---- */

struct page {
	u64 addr;
	size_t n;
	void *data;
};
struct pages {
	struct page *page;
	unsigned n;
};

static int keep(void *ctx, u64 addr, const void *p, size_t n, struct krg_err *err)
{
	struct pages *all = ctx;

	(void)err;
	all->page = krg_xrealloc(all->page, (all->n + 1) * sizeof(*all->page));
	all->page[all->n] = (struct page){addr, n, krg_xrealloc(NULL, n)};
	memcpy(all->page[all->n++].data, p, n);
	return 0;
}

static pid_t fork_as(pid_t pid)
{
	struct clone_args a = {
		.exit_signal = SIGCHLD, .set_tid = (u64)(uintptr_t)&pid, .set_tid_size = 1};

	return (pid_t)syscall(SYS_clone3, &a, sizeof(a));
}

/* ---- pages that come when they are missed ---- */

struct later {
	struct pages pages;
	struct ghost_lazy *lazy;
	pthread_t thread;
	unsigned fds_open, fds_ever;
};

static void later_put(const struct later *l, u64 from, u64 npages)
{
	for (u64 addr = from; addr < from + npages * PAGE; addr += PAGE) {
		const struct page *p = NULL;

		for (unsigned i = 0; i < l->pages.n && p == NULL; i++)
			if (addr >= l->pages.page[i].addr &&
			    addr < l->pages.page[i].addr + l->pages.page[i].n)
				p = &l->pages.page[i];
		if (p == NULL)
			(void)ghost_lazy_zero(l->lazy, addr, 1);
		else
			(void)ghost_lazy_put(l->lazy, addr, (u8 *)p->data + (addr - p->addr), 1);
	}
}

static void later_want(void *ctx, u64 addr, unsigned npages)
{
	later_put(ctx, addr, npages < 4 ? npages : 4);
}

static void later_opened(void *ctx, unsigned id, int uffd)
{
	struct later *l = ctx;

	(void)id;
	(void)uffd;
	l->fds_open++;
	l->fds_ever++;
}

static void later_closed(void *ctx, unsigned id)
{
	struct later *l = ctx;

	(void)id;
	l->fds_open--;
}

static void later_stuck(void *ctx, pid_t tid, u64 addr)
{
	(void)ctx;
	(void)tid;
	(void)addr;
}

static const struct ghost_lazy_ops later_ops = {later_want, later_opened, later_closed,
						later_stuck};

/* Some pages are pushed between those that are missed; at last all are there. */
static void *later_main(void *ctx)
{
	struct later *l = ctx;
	struct pollfd p = {.fd = ghost_lazy_fd(l->lazy), .events = POLLIN};
	unsigned pushed = 0;

	for (unsigned i = 0; i < l->pages.n; i++) {
		for (size_t at = 0; at < l->pages.page[i].n; at += 2 * PAGE, pushed++) {
			for (unsigned k = 0; k < 4 && poll(&p, 1, pushed % 100 == 0) == 1; k++)
				ghost_lazy_serve(l->lazy);
			later_put(l, l->pages.page[i].addr + at,
				  KRG_MIN(l->pages.page[i].n - at, (size_t)2 * PAGE) / PAGE);
		}
	}
	ghost_lazy_free(l->lazy);
	for (unsigned i = 0; i < l->pages.n; i++)
		free(l->pages.page[i].data);
	free(l->pages.page);
	return NULL;
}

static int later_begin(struct later *l, struct ghost *g, const struct ghost_image *image,
		       struct krg_err *err)
{
	int r = ghost_lazy_new(g, image, &later_ops, l, &l->lazy, err);

	for (unsigned i = 0; r == 0 && i < l->pages.n; i++) {
		const struct page *p = &l->pages.page[i];

		if (!ghost_image_is_later(image, p->addr))
			r = ghost_page_put(g, p->addr, p->data, p->n);
		else
			ghost_lazy_listed(l->lazy, p->addr, p->n / PAGE);
	}
	ghost_lazy_list_end(l->lazy);
	if (r == 0)
		r = ghost_lazy_arm(l->lazy, err);
	if (r == 0 && pthread_create(&l->thread, NULL, later_main, l) != 0)
		r = -EAGAIN;
	return r;
}

/* Take it apart, end it, build it anew; how far it came. */
static const char *move(pid_t pid, struct later *later, struct krg_err *err)
{
	KRG_AUTO_BUF struct krg_buf state = {0};
	struct pages pages = {0};
	struct ghost_image *image = NULL;
	struct ghost *g = NULL;
	const char *at = "stop";
	int r = ghost_stop(pid, pid, 5000, &g, err);
	pid_t shell;

	if (r < 0)
		return at;
	at = "save";
	r = ghost_save(g, &state, err);
	if (r == 0)
		r = ghost_pages(g, keep, &pages, err);
	if (r < 0) {
		ghost_let_go(g);
		return at;
	}
	ghost_kill(g); /* we are its parent, too: that was the wait for it */
	at = "read";
	r = ghost_image_read(krg_buf_slice(&state), &image, err);
	if (r < 0)
		return at;
	shell = fork_as(pid);
	if (shell == 0)
		for (;;)
			(void)pause();
	at = "build";
	if (shell != pid)
		return at;
	r = ghost_build(shell, image, &g, err);
	if (r < 0)
		return at;
	at = "pages";
	if (later != NULL) {
		later->pages = pages;
		r = later_begin(later, g, image, err);
		pages.n = 0;
		pages.page = NULL;
	}
	for (unsigned i = 0; i < pages.n; i++) {
		if (r == 0)
			r = ghost_page_put(g, pages.page[i].addr, pages.page[i].data,
					   pages.page[i].n);
		free(pages.page[i].data);
	}
	free(pages.page);
	if (r == 0) {
		at = "finish";
		r = ghost_finish(g, image, err);
	}
	ghost_image_free(image);
	if (r < 0) {
		ghost_kill(g);
		return at;
	}
	ghost_let_go(g);
	return NULL;
}

static void pause_ms(unsigned ms)
{
	struct timespec t = {.tv_nsec = (long)ms * 1000000};

	(void)nanosleep(&t, NULL);
}

struct victim {
	pid_t pid;
	int to, from;
};

static struct victim start(void (*run)(void))
{
	int to[2], from[2];
	char c;
	struct victim v;

	if (pipe2(to, O_CLOEXEC) < 0 || pipe2(from, O_CLOEXEC) < 0)
		exit(1);
	v.pid = fork();
	if (v.pid == 0) {
		(void)dup2(to[0], TO_VICTIM);
		(void)dup2(from[1], FROM_VICTIM);
		run();
	}
	/* as the shells will have them */
	(void)dup2(to[0], TO_VICTIM);
	(void)dup2(from[1], FROM_VICTIM);
	(void)close(to[0]);
	(void)close(from[1]);
	v.to = to[1];
	v.from = from[0];
	(void)!read(v.from, &c, 1);
	return v;
}

static void end(struct victim *v, const char *name)
{
	char text[128] = {0};
	int status = 0;
	struct pollfd p = {.fd = v->from, .events = POLLIN};

	(void)!write(v->to, "x", 1);
	if (poll(&p, 1, 20000) == 1)
		(void)!read(v->from, text, sizeof(text) - 1);
	else
		(void)kill(v->pid, SIGKILL);
	(void)waitpid(v->pid, &status, __WALL);
	tap_ok(strcmp(text, "right") == 0, "%s: it finds everything right (%s, status %#x)", name,
	       text, status);
	(void)close(v->to);
	(void)close(v->from);
	(void)close(TO_VICTIM);
	(void)close(FROM_VICTIM);
}

static bool look_at(pid_t pid, struct krg_err *err)
{
	KRG_AUTO_BUF struct krg_buf state = {0};
	struct ghost *g;
	bool right;

	if (ghost_stop(pid, pid, 5000, &g, err) < 0)
		return false;
	right = ghost_save(g, &state, err) == 0;
	ghost_let_go(g);
	return right;
}

static void moved(const char *name, void (*run)(void), unsigned times, bool lazily)
{
	struct victim v = start(run);
	const char *failed = NULL;
	struct later later = {0};
	struct krg_err err = {0};
	unsigned i;

	for (i = 0; i < times && failed == NULL; i++) {
		/* now and then only looked at: what is interrupted twice is made again in another way */
		if (i % 3 == 1)
			failed = look_at(v.pid, &err) ? NULL : "look";
		pause_ms(i % 3);
		if (failed == NULL)
			failed = move(v.pid, lazily ? &later : NULL, &err);
		pause_ms(i % 7);
		if (lazily && failed == NULL)
			(void)pthread_join(later.thread, NULL);
	}
	if (lazily)
		tap_ok(later.fds_open == 0 && later.fds_ever >= i, "%s: nothing of it stays open",
		       name);
	tap_ok(failed == NULL, "%s: moved %u times%s%s%s: %s", name, i,
	       lazily ? ", its pages after it" : "", failed != NULL ? ", the last failed: " : "",
	       failed != NULL ? failed : "", err.text);
	end(&v, name);
}

/* Only looked at: it must not notice. */
static void looked_at(const char *name, void (*run)(void), unsigned times)
{
	struct victim v = start(run);
	struct krg_err err = {0};
	unsigned right = 0;

	for (unsigned i = 0; i < times; i++) {
		right += look_at(v.pid, &err);
		pause_ms(i % 5);
	}
	tap_eq(right, times, "%s: saved %u times, and let go: %s", name, times, err.text);
	end(&v, name);
}

/* What it becomes: it says who it is, and ends. */
static int other_program(const char *channel)
{
	int fd = (int)strtol(channel, NULL, 10);
	pid_t who[2] = {getpid(), getppid()};

	return write(fd, who, sizeof(who)) == sizeof(who) ? 7 : 8;
}

static void becomes(const char *name, void (*run)(void))
{
	KRG_AUTO_BUF struct krg_buf state = {0};
	KRG_AUTO_FD int self = open("/proc/self/exe", O_RDONLY | O_CLOEXEC), channel = -EBADF;
	struct victim v = start(run);
	struct ghost *g = NULL;
	struct ghost_image *image = NULL;
	struct krg_err err = {0};
	pid_t who[2] = {0};
	int r = ghost_stop(v.pid, v.pid, 5000, &g, &err), status = 0;

	if (r == 0)
		r = ghost_save(g, &state, &err);
	if (r == 0)
		r = ghost_image_read(krg_buf_slice(&state), &image, &err);
	/* what cannot be executed: nothing has happened */
	if (r == 0)
		tap_eq(ghost_become(g, image, v.to, "GHOST_TEST", &channel, NULL, &err), -EACCES,
		       "%s: a pipe is no program", name);
	if (r == 0)
		r = ghost_become(g, image, self, "GHOST_TEST", &channel, NULL, &err);
	tap_ok(r == 0, "%s: becomes another program: %s", name, err.text);
	if (r == 0) {
		tap_eq(read(channel, who, sizeof(who)), sizeof(who), "%s: which speaks", name);
		tap_ok(who[0] == v.pid && who[1] == getpid(), "%s: with its number and its parent",
		       name);
	}
	ghost_image_free(image);
	(void)waitpid(v.pid, &status, 0);
	tap_eq(status, 7 << 8, "%s: and its status", name);
	(void)close(v.to);
	(void)close(v.from);
	(void)close(TO_VICTIM);
	(void)close(FROM_VICTIM);
}

/* After a failure to become another program, it goes on. */
static void becomes_nothing(const char *name, void (*run)(void))
{
	struct victim v = start(run);
	struct krg_err err = {0};
	unsigned right = 0;

	for (unsigned i = 0; i < 10; i++) {
		KRG_AUTO_BUF struct krg_buf state = {0};
		struct ghost_image *image = NULL;
		struct ghost *g;
		int channel;

		if (ghost_stop(v.pid, v.pid, 5000, &g, &err) < 0)
			break;
		right +=
			ghost_save(g, &state, &err) == 0 &&
			ghost_image_read(krg_buf_slice(&state), &image, &err) == 0 &&
			ghost_become(g, image, v.to, "GHOST_TEST", &channel, NULL, &err) == -EACCES;
		ghost_image_free(image);
		ghost_let_go(g);
		pause_ms(i % 5);
	}
	tap_eq(right, 10, "%s: ten times it could not become another: %s", name, err.text);
	end(&v, name);
}

static int all(void)
{
	becomes("memory", memory_victim);
	becomes("threads", threads_victim);
	becomes("signals", signals_victim);
	becomes_nothing("signals", signals_victim);
	becomes_nothing("threads", threads_victim);

	looked_at("memory", memory_victim, 40);
	looked_at("threads", threads_victim, 40);
	looked_at("signals", signals_victim, 40);
	moved("memory", memory_victim, 20, false);
	moved("threads", threads_victim, 40, false);
	moved("signals", signals_victim, 40, false);
	moved("changes", changes_alone_victim, 10, false);
	moved("memory", memory_victim, 20, true);
	moved("threads", threads_victim, 40, true);
	moved("signals", signals_victim, 40, true);
	moved("changes", changes_alone_victim, 20, true);
	return tap_done();
}

int main(void)
{
	int status;
	pid_t pid;

	if (getenv("GHOST_TEST") != NULL)
		return other_program(getenv("GHOST_TEST"));
#if SANITIZER
	return tap_skip_all("what it takes apart would be the sanitizer's runtime");
#endif
	if (geteuid() != 0)
		return tap_skip_all("needs root, for numbers of its choice");
	if (unshare(CLONE_NEWPID | CLONE_NEWNS) < 0)
		return tap_skip_all("needs namespaces");
	pid = fork();
	if (pid == 0) {
		(void)mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL);
		if (mount("proc", "/proc", "proc", 0, NULL) < 0)
			exit(1);
		_exit(all());
	}
	/* no more processes can be made here, which a leak checker would do at exit(3) */
	_exit(waitpid(pid, &status, 0) == pid && WIFEXITED(status) ? WEXITSTATUS(status) : 1);
}
