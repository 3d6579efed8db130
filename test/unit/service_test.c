#include "service.h"
#include "lock.h"
#include "tap.h"
#include <pthread.h>

/* What happened, as text: "+a" started, "-a" stopped, "a3" node 3 up at a, "a!3" down. */
static struct krg_mutex log_lock;
static char log_text[4096];
static size_t log_len;

__attribute__((format(printf, 1, 2))) static void note(const char *fmt, ...)
{
	KRG_GUARD(leaf, &log_lock);
	va_list ap;

	va_start(ap, fmt);
	log_len += (size_t)vsnprintf(log_text + log_len, sizeof(log_text) - log_len, fmt, ap);
	va_end(ap);
}

static bool noted(const char *want)
{
	KRG_GUARD(leaf, &log_lock);
	bool same = strcmp(log_text, want) == 0;

	if (!same)
		printf("# got  '%s'\n# want '%s'\n", log_text, want);
	log_len = 0;
	log_text[0] = 0;
	return same;
}

static int start(void *ctx, struct krg_err *err)
{
	const char *name = ctx;

	if (name[0] == 'F')
		return krg_err_set(err, -EIO, "no disk");
	note("+%s ", name);
	return 0;
}
static void stop(void *ctx)
{
	note("-%s ", (const char *)ctx);
}
static void up(void *ctx, nodeid node, u64 view)
{
	note("%s%u@%llu ", (const char *)ctx, node, (unsigned long long)view);
}
static void down(void *ctx, nodeid node, u64 view)
{
	note("%s!%u@%llu ", (const char *)ctx, node, (unsigned long long)view);
}

#define OPS(n, ...)                                                                                \
	(&(struct service_ops){.name = (n),                                                        \
			       .after = (const char *const[]){__VA_ARGS__ __VA_OPT__(, ) NULL},    \
			       .start = start,                                                     \
			       .stop = stop,                                                       \
			       .node_up = up,                                                      \
			       .node_down = down})

static void add(struct service_set *s, const struct service_ops *ops)
{
	struct krg_err err;

	tap_eq(service_add(s, ops, (void *)(uintptr_t)ops->name, &err), 0, "add %s", ops->name);
}

static void test_order(void)
{
	struct service_set *s = service_set_new();
	struct krg_err err;

	add(s, OPS("c", "b", "a"));
	add(s, OPS("b", "a"));
	add(s, OPS("a"));
	add(s, OPS("d"));
	tap_eq(service_add(s, OPS("a"), NULL, &err), -EEXIST, "a name once: %s", err.text);
	tap_eq(service_start_all(s, &err), 0, "start");
	tap_ok(noted("+a +b +c +d "), "started after what they need");
	tap_eq(service_start_all(s, &err), -EALREADY, "not twice: %s", err.text);
	tap_eq(service_add(s, OPS("e"), NULL, &err), -EBUSY, "none added late: %s", err.text);
	service_node_up(s, 3, 7);
	service_node_down(s, 3, 8);
	tap_ok(noted("a3@7 b3@7 c3@7 d3@7 a!3@8 b!3@8 c!3@8 d!3@8 "), "events in start order");
	service_stop_all(s);
	tap_ok(noted("-d -c -b -a "), "stopped in reverse");
	service_node_up(s, 1, 9);
	service_node_up(s, 0, 10);
	tap_ok(noted(""), "no events for the stopped");
	tap_eq(service_start_all(s, &err), 0, "again");
	tap_ok(noted("+a a1@9 a0@10 +b b1@9 b0@10 +c c1@9 c0@10 +d d1@9 d0@10 "),
	       "told at start of the nodes that are up, in their order");
	service_stop_all(s);
	service_stop_all(s);
	tap_ok(noted("-d -c -b -a "), "stopped once");
	service_set_free(s);
}

static void test_refused(void)
{
	struct service_set *s = service_set_new();
	struct krg_err err;

	add(s, OPS("a", "c"));
	add(s, OPS("b", "a"));
	add(s, OPS("c", "b"));
	tap_eq(service_start_all(s, &err), -ELOOP, "a cycle is refused: %s", err.text);
	tap_ok(strstr(err.text, "a -> c -> b -> a") != NULL, "and shown");
	service_set_free(s);

	s = service_set_new();
	add(s, OPS("a", "nowhere"));
	tap_eq(service_start_all(s, &err), -ENOENT, "a missing one is refused: %s", err.text);
	service_set_free(s);

	s = service_set_new();
	add(s, OPS("a"));
	add(s, OPS("b", "a"));
	add(s, OPS("Fail", "b"));
	add(s, OPS("z", "Fail"));
	tap_eq(service_start_all(s, &err), -EIO, "a failing start: %s", err.text);
	tap_ok(strncmp(err.text, "service Fail: ", 14) == 0, "names the service");
	tap_ok(noted("+a +b -b -a "), "what was started is stopped");
	service_set_free(s);
}

static struct service_counter counters[] = {{.name = "calls", .unit = "1", .value = 5}};

static void put_info(void *arg, const struct service_info *info)
{
	(void)arg;
	note("[%s %s] ", info->name, service_state_name(info->state));
}
static void put_counter(void *arg, const char *service, const char *name, const char *unit,
			u64 value)
{
	(void)arg;
	note("%s.%s=%llu%s ", service, name, (unsigned long long)value, unit);
}
static void stat_now(void *ctx, void (*put)(void *, const char *, const char *, u64), void *arg)
{
	(void)ctx;
	put(arg, "live", "bytes", 9);
}

static const char *const after_y[] = {"y", NULL};
static const char *const after_a[] = {"a", NULL};

static void test_list(void)
{
	struct service_set *s = service_set_new();
	static const struct service_ops ops = {
		.name = "x",
		.counters = counters,
		.counter_nr = 1,
		.stat = stat_now,
		.after = after_y,
	};
	static const struct service_ops y = {.name = "y"};
	struct krg_err err;

	tap_eq(service_add(s, &ops, NULL, &err), 0, "add x");
	tap_eq(service_add(s, &y, NULL, &err), 0, "add y");
	service_list(s, put_info, put_counter, NULL);
	tap_ok(noted("[x stopped] x.calls=51 [y stopped] "), "list of the stopped");
	tap_eq(service_start_all(s, &err), 0, "start");
	service_list(s, put_info, put_counter, NULL);
	tap_ok(noted("[y running] [x running] x.calls=51 x.live=9bytes "), "list in start order");
	service_stop_all(s);
	service_set_free(s);
}

/* ---- threads: events, lists, start and stop at once ---- */

struct race {
	struct service_set *s;
	atomic_bool end;
	atomic_int in_event, bad, running, events;
};

static int race_start(void *ctx, struct krg_err *err)
{
	(void)err;
	atomic_fetch_add(&((struct race *)ctx)->running, 1);
	return 0;
}
static void race_stop(void *ctx)
{
	atomic_fetch_sub(&((struct race *)ctx)->running, 1);
}
static void race_event(void *ctx, nodeid node, u64 view)
{
	struct race *r = ctx;

	(void)node;
	(void)view;
	if (atomic_fetch_add(&r->in_event, 1) != 0 || atomic_load(&r->running) == 0)
		atomic_fetch_add(&r->bad, 1);
	atomic_fetch_add(&r->events, 1);
	atomic_fetch_sub(&r->in_event, 1);
}
static void race_stat(void *ctx, void (*put)(void *, const char *, const char *, u64), void *arg)
{
	struct race *r = ctx;

	if (atomic_load(&r->running) == 0)
		atomic_fetch_add(&r->bad, 1);
	put(arg, "n", "1", 1);
}
static void *race_nodes(void *arg)
{
	struct race *r = arg;

	for (u64 view = 1; !atomic_load(&r->end); view++) {
		service_node_up(r->s, (nodeid)(view % 8), view);
		service_node_down(r->s, (nodeid)(view % 8), view);
	}
	return NULL;
}
static void put_nothing(void *arg, const struct service_info *info)
{
	(void)arg;
	(void)info;
}
static void put_no_counter(void *arg, const char *a, const char *b, const char *c, u64 v)
{
	(void)arg, (void)a, (void)b, (void)c, (void)v;
}
static void *race_list(void *arg)
{
	struct race *r = arg;

	while (!atomic_load(&r->end))
		service_list(r->s, put_nothing, put_no_counter, NULL);
	return NULL;
}

static void test_race(void)
{
	static const struct service_ops ops[2] = {
		{.name = "a",
		 .start = race_start,
		 .stop = race_stop,
		 .node_up = race_event,
		 .node_down = race_event,
		 .stat = race_stat},
		{.name = "b", .after = after_a, .node_up = race_event, .node_down = race_event},
	};
	struct race r = {.s = service_set_new()};
	pthread_t t[4];
	struct krg_err err;

	for (unsigned i = 0; i < 2; i++)
		tap_eq(service_add(r.s, &ops[i], &r, &err), 0, "add");
	for (unsigned i = 0; i < KRG_NELEM(t); i++)
		ASSERT(pthread_create(&t[i], NULL, i < 2 ? race_nodes : race_list, &r) == 0);
	for (unsigned i = 0; i < 300; i++) {
		ASSERT(service_start_all(r.s, &err) == 0);
		service_stop_all(r.s);
	}
	ASSERT(service_start_all(r.s, &err) == 0);
	for (int seen = atomic_load(&r.events); atomic_load(&r.events) < seen + 10;)
		(void)sched_yield();
	atomic_store(&r.end, true);
	for (unsigned i = 0; i < KRG_NELEM(t); i++)
		ASSERT(pthread_join(t[i], NULL) == 0);
	service_stop_all(r.s);
	tap_eq(atomic_load(&r.bad), 0, "one event at a time, none outside start and stop");
	service_set_free(r.s);
}

int main(void)
{
	krg_mutex_init(&log_lock);
	test_order();
	test_refused();
	test_list();
	test_race();
	return tap_done();
}
