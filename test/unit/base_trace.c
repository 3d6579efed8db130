/* base_trace.c - rings per thread, read while they are written. */
#include "trace.h"
#include "clock.h"
#include "tap.h"
#include <pthread.h>
#include <stdatomic.h>

#define WRITERS 4
#define EVENTS	30000u

static size_t count_call(u64 call, struct krg_trace_entry *last)
{
	struct krg_trace_entry *e;
	size_t n = krg_trace_snapshot(&e), found = 0;

	for (size_t i = 0; i < n; i++) {
		if (e[i].call_id != call)
			continue;
		*last = e[i];
		found++;
	}
	free(e);
	return found;
}

static void one(void)
{
	struct krg_trace_entry e = {0};
	char text[100];
	u64 id = krg_trace_call_id(3), id2 = krg_trace_call_id(3);

	tap_ok(id >> 48 == 3 && id2 >> 48 == 3 && id != id2, "call ids: the node on top, unique");
	tap_eq(count_call(id, &e), 0, "nothing yet");
	TRACE(EXEC_PLACED, id, 4711, 2);
	tap_eq(count_call(id, &e), 1, "one event");
	tap_ok(e.event == TRACE_EXEC_PLACED && e.arg[0] == 4711 && e.arg[1] == 2 && e.arg[2] == 0,
	       "its arguments");
	tap_ok(e.time_ns > 0 && e.time_ns <= krg_clock_now_ns(), "its time");
	krg_trace_format(&e, text, sizeof(text));
	tap_ok(strcmp(text, "EXEC_PLACED pid 4711 node 2") == 0, "as text: %s", text);
	krg_trace_format(&e, text, 8);
	tap_ok(strcmp(text, "EXEC_PL") == 0, "cut: %s", text);
	e.event = KRG_TRACE_NR;
	krg_trace_format(&e, text, sizeof(text));
	tap_ok(strcmp(text, "? ") == 0 && strcmp(krg_trace_event_part(99999), "?") == 0,
	       "an unknown event has a text, too");
}

static void wrap(void)
{
	struct krg_trace_entry *e;
	size_t n, mine = 0, wrong = 0;
	u64 last = 0;

	for (u64 i = 1; i <= 3 * TRACE_RING + 7; i++)
		TRACE(SIGNAL_SENT, 77, i);
	n = krg_trace_snapshot(&e);
	for (size_t i = 0; i < n; i++) {
		wrong += i > 0 && e[i].time_ns < e[i - 1].time_ns;
		if (e[i].call_id != 77)
			continue;
		mine++;
		last = KRG_MAX(last, e[i].arg[0]);
	}
	free(e);
	tap_eq(mine, TRACE_RING, "a ring keeps the last %d", TRACE_RING);
	tap_eq(last, 3 * TRACE_RING + 7, "up to the newest");
	tap_eq(wrong, 0, "oldest first");
}

static atomic_uint running;
static pthread_barrier_t all_here;

static void *writer(void *arg)
{
	u64 me = *(u64 *)arg;

	/* everybody has a ring before anybody ends, and leaves it to another */
	TRACE(GATE_CALL, me, 0, 0, ~0ull);
	(void)pthread_barrier_wait(&all_here);
	for (u64 i = 1; i <= EVENTS; i++)
		TRACE(GATE_CALL, me, i, i * 3, ~i);
	atomic_fetch_sub(&running, 1);
	return NULL;
}

static void concurrent(void)
{
	pthread_t t[WRITERS];
	u64 id[WRITERS];
	unsigned snapshots = 0, torn = 0;
	size_t seen = 0;

	ASSERT(pthread_barrier_init(&all_here, NULL, WRITERS) == 0);
	atomic_store(&running, WRITERS);
	for (unsigned i = 0; i < WRITERS; i++) {
		id[i] = 1000 + i;
		ASSERT(pthread_create(&t[i], NULL, writer, &id[i]) == 0);
	}
	do {
		struct krg_trace_entry *e;
		size_t n = krg_trace_snapshot(&e);

		for (size_t i = 0; i < n; i++) {
			if (e[i].call_id < 1000 || e[i].call_id >= 1000 + WRITERS)
				continue;
			seen++;
			torn += e[i].event != TRACE_GATE_CALL || e[i].arg[1] != e[i].arg[0] * 3 ||
				e[i].arg[2] != ~e[i].arg[0];
		}
		free(e);
		snapshots++;
	} while (atomic_load(&running) > 0);
	for (unsigned i = 0; i < WRITERS; i++)
		ASSERT(pthread_join(t[i], NULL) == 0);
	tap_eq(torn, 0, "no torn entry in %u snapshots of %zu entries", snapshots, seen);
	for (unsigned i = 0; i < WRITERS; i++) {
		struct krg_trace_entry e = {0};

		tap_ok(count_call(id[i], &e) > 0 && e.arg[0] == EVENTS,
		       "writer %u is there, up to its end", i);
	}
}

static void *one_event(void *arg)
{
	TRACE(DEPUTY_ENDED, 55, (u64)(uintptr_t)arg);
	return NULL;
}

static void reuse(void)
{
	struct krg_trace_entry e = {0};
	u32 highest = 0;
	pthread_t t;

	for (uintptr_t i = 0; i < 200; i++) {
		ASSERT(pthread_create(&t, NULL, one_event, (void *)i) == 0);
		ASSERT(pthread_join(t, NULL) == 0);
		(void)count_call(55, &e);
		highest = KRG_MAX(highest, e.thread);
	}
	tap_ok(highest < 2 + WRITERS, "rings of ended threads are reused: highest is %u", highest);
	tap_eq(e.arg[0], 199, "the last thread's event is there");
}

int main(void)
{
	one();
	wrap();
	concurrent();
	reuse();
	return tap_done();
}
