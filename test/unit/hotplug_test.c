/* hotplug over real links on 127.0.0.1: several nodes in this process. */
#include "clock.h"
#include "hotplug.h"
#include "kernetdev.h"
#include "lock.h"
#include "tap.h"

#define NODES 6u

struct inst {
	struct comm *comm;
	struct hotplug *h;
	nodeid node;
	/* with lock */
	u64 view;
	unsigned ups, downs, removed, bad;
	bool up[KRG_NODES_MAX], quorum;
};
static struct krg_mutex lock;
static struct krg_cond changed;
static struct inst in[NODES];
static u64 fail_ms = 1000;

static void on_up(void *ctx, nodeid node, u64 view)
{
	KRG_GUARD(leaf, &lock);
	struct inst *i = ctx;

	/* Oneself first, nobody twice, numbers grow. */
	if (i->up[node] || view < i->view || (node != i->node && !i->up[i->node]) ||
	    !comm_is_member(i->comm, node))
		i->bad++;
	i->up[node] = true;
	i->view = view;
	i->ups++;
	krg_cond_broadcast(&changed);
}

static void on_down(void *ctx, nodeid node, u64 view)
{
	KRG_GUARD(leaf, &lock);
	struct inst *i = ctx;

	if (!i->up[node] || view < i->view)
		i->bad++;
	i->up[node] = false;
	i->view = view;
	i->downs++;
	krg_cond_broadcast(&changed);
}

static void on_quorum(void *ctx, bool have, u64 view)
{
	KRG_GUARD(leaf, &lock);
	struct inst *i = ctx;

	(void)view;
	if (i->quorum == have)
		i->bad++;
	i->quorum = have;
	krg_cond_broadcast(&changed);
}

static void on_removed(void *ctx, u64 view)
{
	KRG_GUARD(leaf, &lock);
	struct inst *i = ctx;

	(void)view;
	i->removed++;
	krg_cond_broadcast(&changed);
}

static const struct hotplug_ops ops = {
	.node_up = on_up, .node_down = on_down, .quorum = on_quorum, .removed = on_removed};

static struct hotplug_seed seed_of(const struct inst *i)
{
	struct hotplug_seed s = {.addr = "127.0.0.1", .port = comm_port(i->comm)};

	return s;
}

static int start(struct inst *i, nodeid node, const struct inst *seed, const char *key,
		 bool present, struct krg_err *err)
{
	struct comm_config c = {.self = node, .listen_addr = "127.0.0.1", .cluster = "test"};
	struct hotplug_config hc = {.self = node,
				    .addr = "127.0.0.1",
				    .heartbeat_ms = fail_ms / 10,
				    .fail_after_ms = fail_ms,
				    .stay_present = present};
	struct hotplug_seed s;
	int r;

	*i = (struct inst){.node = node};
	(void)snprintf((char *)c.key, sizeof(c.key), "%s", key);
	(void)snprintf(hc.name, sizeof(hc.name), "host%u", node);
	r = comm_new(&c, &i->comm, err);
	ASSERT(r == 0);
	if (seed != NULL) {
		s = seed_of(seed);
		hc.seeds = &s;
		hc.nseeds = 1;
	}
	r = hotplug_new(i->comm, &hc, &ops, i, &i->h, err);
	ASSERT(r == 0);
	r = comm_start(i->comm, err);
	ASSERT(r == 0);
	return hotplug_start(i->h, 10000, err);
}

/* As if it had died: nobody is told. */
static void crash(struct inst *i)
{
	hotplug_stop(i->h);
	comm_stop(i->comm);
	comm_free(i->comm);
	hotplug_free(i->h);
	i->h = NULL;
}

/* Waits for an upcall of i that makes it so. */
#define AWAIT(i, secs, cond)                                                                       \
	({                                                                                         \
		u64 end_ = krg_clock_now_ns() + (u64)((secs)*1e9);                                 \
		bool ok_;                                                                          \
		leaf_lock(&lock);                                                                  \
		while (!(ok_ = (cond)) && krg_cond_wait_until(&changed, &lock, end_) == 0)         \
			;                                                                          \
		leaf_unlock(&lock);                                                                \
		(void)(i);                                                                         \
		ok_;                                                                               \
	})

static unsigned count_up(const struct inst *i)
{
	unsigned n = 0;

	for (unsigned k = 0; k < KRG_NODES_MAX; k++)
		n += i->up[k];
	return n;
}

static void join_all(unsigned n)
{
	struct krg_err err = {0};

	tap_eq(start(&in[0], 0, NULL, "key", false, &err), 0, "node 0 forms: %s", err.text);
	tap_eq(hotplug_view(in[0].h), 1, "view 1");
	for (unsigned k = 1; k < n; k++)
		tap_eq(start(&in[k], (nodeid)k, &in[k - 1], "key", false, &err), 0,
		       "node %u joins: %s", k, err.text);
	for (unsigned k = 0; k < n; k++)
		tap_ok(AWAIT(&in[k], 10, count_up(&in[k]) == n && in[k].quorum),
		       "node %u sees %u nodes and a quorum", k, n);
}

static void end_all(unsigned n)
{
	for (unsigned k = 0; k < n; k++) {
		if (in[k].h != NULL)
			crash(&in[k]);
		tap_eq(in[k].bad, 0, "node %u: upcalls in order", k);
	}
}

static enum hotplug_node_state state_of(struct inst *at, nodeid node)
{
	struct hotplug_node nodes[KRG_NODES_MAX];
	unsigned n = hotplug_nodes(at->h, nodes, KRG_NODES_MAX);

	for (unsigned i = 0; i < n; i++)
		if (nodes[i].node == node)
			return nodes[i].state;
	return HOTPLUG_ABSENT;
}

static void test_crash_and_rejoin(void)
{
	struct krg_err err = {0};
	u64 t, view;

	fail_ms = 2000;
	join_all(4);
	tap_eq(state_of(&in[1], 3), HOTPLUG_ONLINE, "node 3 is online");
	view = hotplug_view(in[0].h);
	t = krg_clock_now_ns();
	crash(&in[0]); /* the leader, for the longest case */
	for (unsigned k = 1; k < 4; k++)
		tap_ok(AWAIT(&in[k], 10, !in[k].up[0]), "node %u: node 0 is down", k);
	t = (krg_clock_now_ns() - t) / KRG_MSEC;
	tap_ok(t < 3000, "in %llu ms", (unsigned long long)t);
	tap_ok(in[1].view > view, "in a newer view");
	tap_ok(hotplug_has_quorum(in[1].h) && in[1].quorum, "three of four are a majority");
	tap_eq(start(&in[0], 0, &in[2], "key", false, &err), 0, "node 0 joins again: %s", err.text);
	for (unsigned k = 0; k < 4; k++)
		tap_ok(AWAIT(&in[k], 10, count_up(&in[k]) == 4), "node %u sees 4 nodes", k);
	/* So quickly that the others have not missed it. */
	for (unsigned round = 0; round < 3; round++) {
		crash(&in[3]);
		tap_eq(start(&in[3], 3, &in[0], "key", false, &err), 0, "restarted at once: %s",
		       err.text);
		tap_ok(AWAIT(&in[1], 10, in[1].downs >= 2 + round && count_up(&in[1]) == 4),
		       "down and up at the others");
	}
	end_all(4);
}

static void test_leave_del_add(void)
{
	struct krg_err err = {0};

	fail_ms = 1000;
	join_all(4);
	tap_eq(hotplug_del(in[1].h, 9, 1000, &err), -ENOENT, "no such member: %s", err.text);
	tap_eq(hotplug_add(in[1].h, 9, 1000, &err), -ENOENT, "nobody present: %s", err.text);
	tap_eq(hotplug_add(in[1].h, 3, 1000, &err), 0, "in already");
	tap_eq(hotplug_del(in[1].h, 3, 5000, &err), 0, "node 3 is taken out: %s", err.text);
	tap_ok(AWAIT(&in[3], 10, in[3].removed == 1 && count_up(&in[3]) == 0),
	       "it is told, and sees nobody");
	tap_eq(hotplug_view(in[3].h), 0, "it has no view");
	tap_ok(AWAIT(&in[0], 10, count_up(&in[0]) == 3), "the others are three");
	for (unsigned k = 0; k < 100 && state_of(&in[0], 3) != HOTPLUG_PRESENT; k++)
		(void)AWAIT(&in[0], 0.05, false);
	tap_eq(state_of(&in[0], 3), HOTPLUG_PRESENT, "it is present");
	tap_eq(state_of(&in[3], 3), HOTPLUG_PRESENT, "it knows so");
	tap_eq(hotplug_add(in[0].h, 3, 5000, &err), 0, "it is taken in again: %s", err.text);
	tap_ok(AWAIT(&in[3], 10, count_up(&in[3]) == 4 && in[3].quorum), "it sees all");
	/* The leader goes, then all but one. */
	tap_eq(hotplug_leave(in[0].h, 5000, &err), 0, "node 0 leaves: %s", err.text);
	tap_eq(in[0].removed, 0, "not as removed");
	tap_ok(AWAIT(&in[1], 10, count_up(&in[1]) == 3), "three are left");
	tap_eq(hotplug_leave(in[1].h, 5000, &err), 0, "node 1 leaves: %s", err.text);
	tap_eq(hotplug_leave(in[2].h, 5000, &err), 0, "node 2 leaves: %s", err.text);
	tap_ok(AWAIT(&in[3], 10, count_up(&in[3]) == 1 && in[3].quorum), "the last one serves on");
	tap_eq(hotplug_del(in[3].h, 3, 10000, &err), -EBUSY, "and stays: %s", err.text);
	tap_eq(hotplug_leave(in[3].h, 5000, &err), 0, "until it goes too");
	end_all(4);
}

static u64 connects(struct inst *at, nodeid to)
{
	struct kernetdev_stat st;

	return kernetdev_stat_get(comm_kernetdev(at->comm), to, COMM_CHAN_CALL, &st) == 0
		       ? st.connects
		       : 0;
}

static void test_refused(void)
{
	struct krg_err err = {0};
	u64 before;

	fail_ms = 1000;
	join_all(2);
	tap_eq(start(&in[2], 2, &in[0], "other key", false, &err), -EACCES, "wrong key: %s",
	       err.text);
	crash(&in[2]);
	before = connects(&in[0], 1);
	tap_eq(start(&in[2], 1, &in[0], "key", false, &err), -EADDRINUSE, "number taken: %s",
	       err.text);
	crash(&in[2]);
	tap_eq(start(&in[2], 0, &in[0], "key", false, &err), -EADDRINUSE, "the seed's own: %s",
	       err.text);
	crash(&in[2]);
	tap_ok(before > 0 && connects(&in[0], 1) == before, "and nobody's link was touched");
	tap_ok(AWAIT(&in[0], 10, count_up(&in[0]) == 2 && in[0].quorum) &&
		       AWAIT(&in[1], 10, count_up(&in[1]) == 2 && in[1].quorum),
	       "who has it stays");
	tap_eq(start(&in[2], 2, &in[1], "key", true, &err), 0, "present only: %s", err.text);
	tap_eq(hotplug_view(in[2].h), 0, "is not in");
	tap_eq(state_of(&in[2], 2), HOTPLUG_PRESENT, "is present");
	for (unsigned k = 0; k < 100 && state_of(&in[1], 2) != HOTPLUG_PRESENT; k++)
		(void)AWAIT(&in[1], 0.05, false);
	tap_eq(hotplug_add(in[1].h, 2, 5000, &err), 0, "until it is added: %s", err.text);
	tap_ok(AWAIT(&in[2], 10, count_up(&in[2]) == 3), "then it is in");
	crash(&in[2]);
	crash(&in[1]); /* two of three: what is left is no majority */
	tap_ok(AWAIT(&in[0], 10, !in[0].quorum), "the survivor of three has no quorum");
	tap_ok(!hotplug_has_quorum(in[0].h), "and knows");
	tap_eq(count_up(&in[0]), 3, "and takes nobody out");
	tap_eq(hotplug_leave(in[0].h, 300, &err), -ETIMEDOUT, "and cannot leave: %s", err.text);
	crash(&in[0]);
}

static void test_no_seed(void)
{
	struct hotplug_seed s = {.addr = "127.0.0.1", .port = 1};
	struct comm_config c = {.self = 5, .listen_addr = "127.0.0.1", .cluster = "test"};
	struct hotplug_config hc = {.self = 5, .addr = "127.0.0.1", .seeds = &s, .nseeds = 1};
	struct krg_err err = {0};

	in[5] = (struct inst){.node = 5};
	ASSERT(comm_new(&c, &in[5].comm, &err) == 0);
	ASSERT(hotplug_new(in[5].comm, &hc, &ops, &in[5], &in[5].h, &err) == 0);
	ASSERT(comm_start(in[5].comm, &err) == 0);
	tap_eq(hotplug_start(in[5].h, 1000, &err), -EHOSTUNREACH, "no seed: %s", err.text);
	crash(&in[5]);
}

int main(void)
{
	krg_mutex_init(&lock);
	krg_cond_init(&changed);
	test_crash_and_rejoin();
	test_leave_del_add();
	test_refused();
	test_no_seed();
	return tap_done();
}
