#include "trace.h"
#include "clock.h"
#include <pthread.h>
#include <stdatomic.h>

struct ring {
	struct ring *next; /* (c) */
	atomic_bool used;  /* (a) a living thread writes it */
	u32 number;	   /* (c) */
	_Atomic u64 head;  /* (a) entries ever written; the writer's thread only adds */
	struct {
		_Atomic u64 seq; /* (a) 2n + 1 while entry n is written, 2n + 2 when it is whole */
		_Atomic u64 word[6];
	} slot[TRACE_RING];
};

static _Atomic(struct ring *) rings;
static atomic_uint ring_count;
static _Thread_local struct ring *mine;
static pthread_key_t ring_key;
static pthread_once_t ring_once = PTHREAD_ONCE_INIT;

static const struct {
	const char *name, *part, *fmt;
} events[] = {
#define KRG_TRACE_EVENT(name, part, fmt) {#name, part, fmt},
#include "trace_events.def"
#undef KRG_TRACE_EVENT
};

static void ring_release(void *p)
{
	struct ring *r = p;

	mine = NULL;
	atomic_store(&r->used, false);
}

static void ring_key_make(void)
{
	ASSERT(pthread_key_create(&ring_key, ring_release) == 0);
}

static struct ring *ring_get(void)
{
	struct ring *r;

	(void)pthread_once(&ring_once, ring_key_make);
	for (r = atomic_load(&rings); r != NULL; r = r->next) {
		bool free_ = false;

		if (atomic_compare_exchange_strong(&r->used, &free_, true))
			break;
	}
	if (r == NULL) {
		r = krg_xalloc(sizeof(*r));
		r->number = atomic_fetch_add(&ring_count, 1);
		atomic_store(&r->used, true);
		r->next = atomic_load(&rings);
		while (!atomic_compare_exchange_weak(&rings, &r->next, r))
			;
	}
	mine = r;
	(void)pthread_setspecific(ring_key, r);
	return r;
}

void krg_trace(enum krg_trace_event event, u64 call_id, u64 a, u64 b, u64 c)
{
	struct ring *r = mine != NULL ? mine : ring_get();
	u64 n = atomic_load_explicit(&r->head, memory_order_relaxed);
	u64 word[6] = {krg_clock_now_ns(), call_id, a, b, c, (u64)event << 32 | r->number};

	atomic_store_explicit(&r->slot[n % TRACE_RING].seq, 2 * n + 1, memory_order_release);
	for (unsigned i = 0; i < 6; i++)
		atomic_store_explicit(&r->slot[n % TRACE_RING].word[i], word[i],
				      memory_order_release);
	atomic_store_explicit(&r->slot[n % TRACE_RING].seq, 2 * n + 2, memory_order_release);
	atomic_store_explicit(&r->head, n + 1, memory_order_release);
}

static _Atomic u64 last_call_id;

void krg_trace_call_id_begin(u64 unix_seconds)
{
	atomic_store(&last_call_id, (unix_seconds & 0x7fffffff) << 16);
}

u64 krg_trace_call_id(nodeid node)
{
	return (u64)node << 48 | (atomic_fetch_add(&last_call_id, 1) + 1);
}

static int entry_cmp(const void *a, const void *b)
{
	const struct krg_trace_entry *x = a, *y = b;

	return x->time_ns < y->time_ns ? -1 : x->time_ns > y->time_ns;
}

static bool slot_read(struct ring *r, u64 n, struct krg_trace_entry *ret)
{
	u64 word[6];

	if (atomic_load(&r->slot[n % TRACE_RING].seq) != 2 * n + 2)
		return false;
	for (unsigned i = 0; i < 6; i++)
		word[i] = atomic_load(&r->slot[n % TRACE_RING].word[i]);
	if (atomic_load(&r->slot[n % TRACE_RING].seq) != 2 * n + 2)
		return false;
	*ret = (struct krg_trace_entry){.time_ns = word[0],
					.call_id = word[1],
					.arg = {word[2], word[3], word[4]},
					.event = (u32)(word[5] >> 32),
					.thread = (u32)word[5]};
	return ret->event < KRG_TRACE_NR;
}

size_t krg_trace_snapshot(struct krg_trace_entry **ret)
{
	struct ring *first = atomic_load(&rings);
	size_t count = 0, room = 0;
	struct krg_trace_entry *e;

	for (struct ring *r = first; r != NULL; r = r->next)
		room += TRACE_RING;
	e = krg_xalloc(room * sizeof(*e));
	for (struct ring *r = first; r != NULL; r = r->next) {
		u64 head = atomic_load(&r->head);

		for (u64 n = head > TRACE_RING ? head - TRACE_RING : 0; n < head; n++)
			if (slot_read(r, n, &e[count]))
				count++;
	}
	qsort(e, count, sizeof(*e), entry_cmp);
	*ret = e;
	return count;
}

const char *krg_trace_event_name(u32 event)
{
	return event < KRG_TRACE_NR ? events[event].name : "?";
}

const char *krg_trace_event_part(u32 event)
{
	return event < KRG_TRACE_NR ? events[event].part : "?";
}

void krg_trace_format(const struct krg_trace_entry *e, char *text, size_t max)
{
	size_t n;

	(void)snprintf(text, max, "%s ", krg_trace_event_name(e->event));
	n = strlen(text);
	if (e->event >= KRG_TRACE_NR)
		return;
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
	(void)snprintf(text + n, max - n, events[e->event].fmt, (unsigned long long)e->arg[0],
		       (unsigned long long)e->arg[1], (unsigned long long)e->arg[2]);
#pragma GCC diagnostic pop
}
