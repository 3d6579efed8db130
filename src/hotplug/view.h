/* view.h - a view: who is in, with a number; immutable once made, counted references.
 *
 * A view is known by (term, number): of two, the one with the higher term, then the higher number,
 * is newer.  Among the views that were agreed, the number alone tells them apart (README.md).
 *
 * Ownership  view_ref() and view_unref(); view_make*() give one reference.
 * Threads    the count is plain: all references of a view belong to one thread at a time.
 */
#ifndef KRG_HOTPLUG_VIEW_H
#define KRG_HOTPLUG_VIEW_H
#include "base.h"

#define VIEW_NAME_MAX 63u
#define VIEW_TERM_MAX (1ull << 48) /* larger terms and numbers are refused: no overflow */

/* A node number and the incarnation that has it: a daemon that starts anew is another member. */
struct view_member {
	nodeid node;
	u16 port;
	u64 inc;
	char name[VIEW_NAME_MAX + 1], addr[VIEW_NAME_MAX + 1];
};

/* How a view differs from the one before it. */
enum view_reason {
	VIEW_FORMED,
	VIEW_ADDED,   /* ->node came */
	VIEW_FAILED,  /* ->node was not heard any more */
	VIEW_LEFT,    /* ->node asked to leave */
	VIEW_DELETED, /* somebody asked for ->node to be taken out */
	VIEW_BACK,    /* the addition of ->node was taken back before it was agreed */
	VIEW_REASON_NR
};

struct view {
	u32 refs;
	u32 n;
	u64 term, number;
	enum view_reason reason;
	nodeid node;
	u64 inc;
	struct view_member m[]; /* by node number, each once */
};

struct view *view_make(unsigned n, u64 term, u64 number);
/* The same members with another (term, number). */
struct view *view_make_same(const struct view *v, u64 term, u64 number);
struct view *view_make_with(const struct view *v, const struct view_member *m, u64 number);
struct view *view_make_without(const struct view *v, nodeid node, u64 number);
struct view *view_ref(struct view *v);
void view_unref(struct view *v); /* NULL is accepted */
static inline void view_unrefp(struct view **v)
{
	view_unref(*v);
}
#define AUTO_VIEW __attribute__((cleanup(view_unrefp)))

/* < 0: a is older, 0: the same */
static inline int view_id_cmp(u64 a_term, u64 a_number, u64 b_term, u64 b_number)
{
	if (a_term != b_term)
		return a_term < b_term ? -1 : 1;
	return a_number < b_number ? -1 : a_number > b_number;
}
static inline int view_cmp(const struct view *a, const struct view *b)
{
	return view_id_cmp(a->term, a->number, b->term, b->number);
}
static inline unsigned view_majority(const struct view *v)
{
	return v->n / 2 + 1;
}
/* NULL: not a member.  v may be NULL. */
const struct view_member *view_find(const struct view *v, nodeid node);
bool view_has(const struct view *v, nodeid node, u64 inc);
const char *view_reason_name(enum view_reason reason);
#endif
