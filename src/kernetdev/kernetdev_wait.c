/* kernetdev_wait.c - threads that wait for a message of a link: one of them reads it, the others sleep.
 *
 * Who reads and has what it waited for leaves the reading to one that sleeps, so that no other thread is between the
 * network and the callers while there are any; the last one leaves it to the I/O thread.
 */
#include "clock.h"
#include "kernetdev_impl.h"
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>

/* GIVEN: it slept, or was about to, and is to read. */
enum { WAITER_IDLE, WAITER_DONE, WAITER_SLEEPS, WAITER_READS, WAITER_GIVEN };

static _Thread_local char thread_mark; /* its address is this thread's number */

void kernetdev_waiter_init(struct kernetdev_waiter *w)
{
	atomic_init(&w->state, WAITER_IDLE);
	atomic_init(&w->link, NULL);
	atomic_init(&w->thread, 0);
	w->listed = false;
	w->given = NULL;
}

static void futex_wait(_Atomic u32 *word, u32 value, u64 deadline_ns)
{
	struct timespec ts = {.tv_sec = (time_t)(deadline_ns / KRG_NSEC),
			      .tv_nsec = (long)(deadline_ns % KRG_NSEC)};

	(void)syscall(SYS_futex, word, FUTEX_WAIT_BITSET | FUTEX_PRIVATE_FLAG, value,
		      deadline_ns == UINT64_MAX ? NULL : &ts, NULL, FUTEX_BITSET_MATCH_ANY);
}

static void futex_wake(_Atomic u32 *word)
{
	(void)syscall(SYS_futex, word, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, 1);
}

void kernetdev_waiter_done(struct kernetdev_waiter *w)
{
	u32 was = atomic_load(&w->state);
	struct kd_link *l;
	u64 thread;

	/* After the exchange *w may be gone: what is needed of it is read before. */
	do {
		ASSERT(was != WAITER_DONE);
		l = atomic_load(&w->link);
		thread = atomic_load(&w->thread);
	} while (!atomic_compare_exchange_weak(&w->state, &was, WAITER_DONE));
	if (was == WAITER_SLEEPS)
		futex_wake(&w->state);
	else if (was == WAITER_READS && thread != (u64)(uintptr_t)&thread_mark)
		kd_link_kick(l);
}

static bool waiter_moves(struct kernetdev_waiter *w, u32 from, u32 to)
{
	return atomic_compare_exchange_strong(&w->state, &from, to);
}

static void list_add_locked(struct kd_link *l, struct kernetdev_waiter *w)
	TSA(requires_capability(lc_link))
{
	w->listed = true;
	w->prev = NULL;
	w->next = l->sleepers;
	if (l->sleepers != NULL)
		l->sleepers->prev = w;
	l->sleepers = w;
}

static void list_del_locked(struct kd_link *l, struct kernetdev_waiter *w)
	TSA(requires_capability(lc_link))
{
	w->listed = false;
	if (w->next != NULL)
		w->next->prev = w->prev;
	if (w->prev != NULL)
		w->prev->next = w->next;
	else
		l->sleepers = w->next;
}

/* The connection, to be read by this thread; or NULL: it may sleep. */
static struct kd_conn *lead_begin(struct kd_link *l, struct kernetdev_waiter *w)
{
	struct kd_conn *c;

	KRG_GUARD(link, &l->lock);
	c = l->conn;
	if (c == NULL || c->dead || c->reading) {
		list_add_locked(l, w);
		return NULL;
	}
	c->reading = c->led = true;
	kd_conn_interest_locked(c);
	return c;
}

/* It has slept, and is not asleep any more: the connection, if it was given to it. */
static struct kd_conn *lead_taken(struct kd_link *l, struct kernetdev_waiter *w)
{
	KRG_GUARD(link, &l->lock);
	if (w->listed)
		list_del_locked(l, w);
	(void)waiter_moves(w, WAITER_GIVEN, WAITER_IDLE);
	return TAKE_PTR(w->given);
}

/* Who came last is served last, and reads longest. */
_Atomic u32 *kd_lead_give_locked(struct kd_conn *c)
{
	struct kd_link *l = c->link;

	while (l->sleepers != NULL) {
		struct kernetdev_waiter *w = l->sleepers;
		u32 was = atomic_load(&w->state);

		list_del_locked(l, w);
		while (was != WAITER_DONE &&
		       !atomic_compare_exchange_weak(&w->state, &was, WAITER_GIVEN))
			;
		if (was == WAITER_DONE)
			continue; /* on its way out: it waits for our lock */
		w->given = c;
		return &w->state;
	}
	return NULL;
}

void kd_lead_wake(_Atomic u32 *word)
{
	futex_wake(word);
}

static bool is_late(u64 deadline_ns)
{
	return deadline_ns != UINT64_MAX && krg_clock_now_ns() >= deadline_ns;
}

/* This thread reads the link until it is served. */
static void lead(struct kd_link *l, struct kd_conn *c, struct kernetdev_waiter *w, u64 deadline_ns)
{
	bool alive = true;

	atomic_store(&w->link, l);
	atomic_store(&w->thread, (u64)(uintptr_t)&thread_mark);
	if (waiter_moves(w, WAITER_IDLE, WAITER_READS)) {
		do
			alive = kd_conn_read(c, true, deadline_ns);
		while (alive && atomic_load(&w->state) != WAITER_DONE && !is_late(deadline_ns));
		(void)waiter_moves(w, WAITER_READS, WAITER_IDLE);
	}
	kd_conn_read_end(c);
}

bool kernetdev_wait(struct kernetdev *kd, nodeid peer, u8 chan, struct kernetdev_waiter *w,
		    u64 deadline_ns)
{
	struct kd_link *l = kd_link_find(kd, peer, chan);
	bool reads = l != NULL && kd->drv->read_wait != NULL;

	while (atomic_load(&w->state) != WAITER_DONE) {
		struct kd_conn *c = reads ? lead_begin(l, w) : NULL;

		if (c == NULL) {
			if (waiter_moves(w, WAITER_IDLE, WAITER_SLEEPS)) {
				futex_wait(&w->state, WAITER_SLEEPS, deadline_ns);
				(void)waiter_moves(w, WAITER_SLEEPS, WAITER_IDLE);
			}
			c = reads ? lead_taken(l, w) : NULL;
		}
		if (c != NULL)
			lead(l, c, w, deadline_ns);
		if (atomic_load(&w->state) != WAITER_DONE && is_late(deadline_ns))
			return false;
	}
	return true;
}
