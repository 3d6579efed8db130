/* page_set.c - a hash table of bitmaps. */
#include "page_set.h"

#define PAGE	    4096ull
#define CHUNK	    (512 * PAGE)
#define KEY(addr)   ((addr) / CHUNK + 1)
#define INDEX(addr) ((unsigned)((addr) / PAGE % 512))

void page_set_fini(struct page_set *s)
{
	free(s->slot);
	*s = (struct page_set){0};
}

void page_set_copy(struct page_set *to, const struct page_set *from)
{
	*to = *from;
	if (from->room == 0)
		return;
	to->slot = krg_xrealloc(NULL, from->room * sizeof(*to->slot));
	memcpy(to->slot, from->slot, from->room * sizeof(*to->slot));
}

static struct page_chunk *find(const struct page_set *s, u64 key)
{
	size_t i;

	if (s->room == 0)
		return NULL;
	for (i = key * 0x9e3779b97f4a7c15ull >> 20 & (s->room - 1); s->slot[i].key != 0;
	     i = (i + 1) & (s->room - 1))
		if (s->slot[i].key == key)
			break;
	return &s->slot[i];
}

static struct page_chunk *find_or_make(struct page_set *s, u64 key)
{
	struct page_chunk *c = find(s, key);

	if (c != NULL && c->key == key)
		return c;
	if (2 * (s->used + 1) > s->room) {
		struct page_set bigger = {.room = KRG_MAX(2 * s->room, (size_t)16),
					  .used = s->used};

		bigger.slot = krg_xalloc(bigger.room * sizeof(*bigger.slot));
		for (size_t i = 0; i < s->room; i++)
			if (s->slot[i].key != 0)
				*find(&bigger, s->slot[i].key) = s->slot[i];
		free(s->slot);
		*s = bigger;
		c = find(s, key);
	}
	ASSERT(c != NULL);
	s->used++;
	c->key = key;
	return c;
}

static u64 mask(unsigned from, unsigned n)
{
	return (n == 64 ? ~0ull : (1ull << n) - 1) << from;
}

bool page_set_has(const struct page_set *s, u64 addr)
{
	const struct page_chunk *c = find(s, KEY(addr));

	return c != NULL && c->key != 0 && (c->bits[INDEX(addr) / 64] >> INDEX(addr) % 64 & 1) != 0;
}

/* The words that hold the pages, one after another. */
static void change(struct page_set *s, u64 addr, u64 npages, bool in)
{
	while (npages > 0) {
		unsigned i = INDEX(addr);
		unsigned n = (unsigned)KRG_MIN(npages, (u64)(64 - i % 64));
		struct page_chunk *c = in ? find_or_make(s, KEY(addr)) : find(s, KEY(addr));

		if (in)
			c->bits[i / 64] |= mask(i % 64, n);
		else if (c != NULL && c->key != 0)
			c->bits[i / 64] &= ~mask(i % 64, n);
		addr += n * PAGE;
		npages -= n;
	}
}

void page_set_add(struct page_set *s, u64 addr, u64 npages)
{
	change(s, addr, npages, true);
}

void page_set_del(struct page_set *s, u64 addr, u64 npages)
{
	change(s, addr, npages, false);
}

u64 page_set_run(const struct page_set *s, u64 addr, u64 npages, bool *ret_in)
{
	bool in = page_set_has(s, addr);
	u64 run = 0;

	*ret_in = in;
	while (run < npages) {
		const struct page_chunk *c = find(s, KEY(addr));
		unsigned i = INDEX(addr);
		u64 here = KRG_MIN(npages - run, (u64)(64 - i % 64));
		u64 word = c != NULL && c->key != 0 ? c->bits[i / 64] >> i % 64 : 0;
		u64 other = in ? ~word : word; /* the first bit of the other kind ends it */
		u64 alike = other == 0 ? 64 : (u64)__builtin_ctzll(other);

		run += KRG_MIN(here, alike);
		if (alike < here)
			break;
		addr += here * PAGE;
	}
	return run;
}
