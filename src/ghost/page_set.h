/* page_set.h - a set of pages, by address, at the cost of the 2 MiB that they are in. */
#ifndef KRG_GHOST_PAGE_SET_H
#define KRG_GHOST_PAGE_SET_H
#include "base.h"

struct page_chunk {
	u64 key;     /* 0: free */
	u64 bits[8]; /* one a page */
};
struct page_set {
	struct page_chunk *slot;
	size_t room, used; /* room: 0 or a power of two */
};
void page_set_fini(struct page_set *s);
void page_set_copy(struct page_set *to, const struct page_set *from);
bool page_set_has(const struct page_set *s, u64 addr);
void page_set_add(struct page_set *s, u64 addr, u64 npages);
void page_set_del(struct page_set *s, u64 addr, u64 npages);
/* How many of npages, from addr on, are alike: all in it, or all not; at least 1. */
u64 page_set_run(const struct page_set *s, u64 addr, u64 npages, bool *ret_in);
#endif
