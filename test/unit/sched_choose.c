/* The choice of a node, without threads, clocks or links. */
#include "sched_impl.h"
#include "tap.h"

#define T0 (10 * KRG_NSEC)

static struct sched *make(unsigned nodes, double cpus)
{
	struct sched *s = krg_xalloc(sizeof(*s));

	krg_mutex_init(&s->lock);
	for (unsigned i = 0; i < KRG_NODES_MAX; i++)
		s->peer[i].cpus = cpus;
	for (unsigned i = 0; i < nodes; i++) {
		s->peer[i].member = s->peer[i].heard = true;
		s->peer[i].sampled_ns = T0;
	}
	return s;
}

static nodeid choose_and_count(struct sched *s, u64 now)
{
	nodeid to = sched_choose_locked(s, now, SCHED_LONG_NS, false);

	sched_fresh_add_locked(&s->peer[to], now);
	return to;
}

static void burst(void)
{
	struct sched *s = make(4, 0.4);
	unsigned got[4] = {0};

	for (unsigned i = 0; i < 32; i++)
		got[choose_and_count(s, T0)]++;
	for (unsigned i = 0; i < 4; i++)
		tap_eq(got[i], 8, "a burst of 32 spreads evenly: node %u", i);
	free(s);
}

static void alone_and_stale(void)
{
	struct sched *s = make(1, 1);

	s->peer[0].runnable = 50;
	tap_eq(sched_choose_locked(s, T0, SCHED_LONG_NS, false), 0, "alone: everything stays");
	s->peer[1].member = true;
	tap_eq(sched_choose_locked(s, T0, SCHED_LONG_NS, false), 0,
	       "a member that was never heard gets nothing");
	s->peer[1].heard = true;
	s->peer[1].sampled_ns = T0;
	tap_eq(sched_choose_locked(s, T0, SCHED_LONG_NS, false), 1, "heard: it goes there");
	tap_eq(sched_choose_locked(s, T0 + (SCHED_STALE_MS + 1) * KRG_MSEC, SCHED_LONG_NS, false),
	       0, "silent for long: nothing");
	free(s);
}

static void stays_when_little_is_gained(void)
{
	struct sched *s = make(2, 1);

	tap_eq(sched_choose_locked(s, T0, SCHED_LONG_NS, false), 0, "both idle: it stays");
	s->peer[0].runnable = 1;
	tap_eq(sched_choose_locked(s, T0, SCHED_LONG_NS, false), 1,
	       "one ahead of it here, none there: it goes");
	tap_eq(sched_choose_locked(s, T0, SCHED_LONG_NS, true), 0,
	       "… but not kin of a program placed here");
	s->peer[0].runnable = 3;
	tap_eq(sched_choose_locked(s, T0, SCHED_LONG_NS, true), 1, "… unless it is crowded here");
	free(s);
}

static void going_must_pay(void)
{
	struct sched *s = make(2, 1);

	s->peer[0].runnable = 1;
	tap_eq(sched_choose_locked(s, T0, 100 * KRG_MSEC, false), 1, "100 ms of work: it goes");
	tap_eq(sched_choose_locked(s, T0, 6 * KRG_MSEC, false), 0,
	       "6 ms: it would end later there");
	s->peer[0].runnable = 3;
	tap_eq(sched_choose_locked(s, T0, 6 * KRG_MSEC, false), 1, "… unless it is crowded here");
	free(s);
}

static void capacity(void)
{
	struct sched *s = make(2, 1);
	unsigned got[2] = {0};

	s->peer[1].cpus = 3;
	for (unsigned i = 0; i < 40; i++)
		got[choose_and_count(s, T0)]++;
	tap_ok(got[1] >= 28 && got[1] <= 32,
	       "a node of three processors gets three times as much (%u of 40)", got[1]);
	free(s);
}

static void policies(void)
{
	struct sched *s = make(3, 1);

	atomic_store(&s->policy, SCHED_OFF);
	s->peer[0].runnable = 99;
	tap_eq(sched_choose_locked(s, T0, SCHED_LONG_NS, false), 0, "off: it stays");
	atomic_store(&s->policy, SCHED_ELSEWHERE);
	tap_eq(sched_choose_locked(s, T0, SCHED_LONG_NS, false), 1, "elsewhere: in turn");
	tap_eq(sched_choose_locked(s, T0, SCHED_LONG_NS, false), 2, "elsewhere: in turn");
	tap_eq(sched_choose_locked(s, T0, SCHED_LONG_NS, false), 1, "elsewhere: never here");
	free(s);
}

static void short_programs(void)
{
	struct sched *s = make(2, 1);
	unsigned went = 0;

	for (int i = 0; i < SCHED_SHORT_MIN; i++) {
		tap_ok(!sched_path_is_short_locked(s, "/bin/true"),
		       "not known to be short after %d runs", i);
		sched_path_ended_locked(s, "/bin/true", KRG_MSEC);
	}
	tap_ok(sched_path_is_short_locked(s, "/bin/true"), "known to be short");
	tap_eq(sched_path_expect_locked(s, "/bin/true"), SCHED_LONG_NS, "tried again: it is to go");
	tap_ok(!sched_path_is_short_locked(s, "/bin/false"), "another is not");
	for (unsigned i = 0; i < SCHED_SHORT_TRY; i++)
		went += !sched_path_is_short_locked(s, "/bin/true");
	tap_eq(went, 1, "one in %u goes all the same", SCHED_SHORT_TRY);
	for (int i = 0; i < 8; i++)
		sched_path_ended_locked(s, "/bin/true", 100 * KRG_MSEC);
	tap_ok(!sched_path_is_short_locked(s, "/bin/true"), "it is not short any more");
	tap_ok(sched_path_expect_locked(s, "/bin/true") > 50 * KRG_MSEC,
	       "and so much is expected of it");
	free(s);
}

int main(void)
{
	burst();
	alone_and_stale();
	stays_when_little_is_gained();
	going_must_pay();
	capacity();
	policies();
	short_programs();
	return tap_done();
}
