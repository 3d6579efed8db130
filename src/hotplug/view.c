#include "view.h"

struct view *view_make(unsigned n, u64 term, u64 number)
{
	struct view *v;

	ASSERT(n <= KRG_NODES_MAX);
	v = krg_xalloc(sizeof(*v) + n * sizeof(v->m[0]));
	v->refs = 1;
	v->n = n;
	v->term = term;
	v->number = number;
	v->node = KRG_NODE_NONE;
	return v;
}

struct view *view_make_same(const struct view *v, u64 term, u64 number)
{
	struct view *w = view_make(v->n, term, number);

	memcpy(w->m, v->m, v->n * sizeof(v->m[0]));
	w->reason = v->reason;
	w->node = v->node;
	w->inc = v->inc;
	return w;
}

struct view *view_make_with(const struct view *v, const struct view_member *m, u64 number)
{
	struct view *w = view_make(v->n + 1, v->term, number);
	unsigned at = 0;

	ASSERT(view_find(v, m->node) == NULL);
	while (at < v->n && v->m[at].node < m->node)
		at++;
	memcpy(w->m, v->m, at * sizeof(v->m[0]));
	w->m[at] = *m;
	memcpy(w->m + at + 1, v->m + at, (v->n - at) * sizeof(v->m[0]));
	w->reason = VIEW_ADDED;
	w->node = m->node;
	w->inc = m->inc;
	return w;
}

struct view *view_make_without(const struct view *v, nodeid node, u64 number)
{
	const struct view_member *gone = view_find(v, node);
	struct view *w;
	size_t at;

	ASSERT(gone != NULL && v->n > 1);
	w = view_make(v->n - 1, v->term, number);
	at = (size_t)(gone - v->m);
	memcpy(w->m, v->m, at * sizeof(v->m[0]));
	memcpy(w->m + at, v->m + at + 1, (v->n - at - 1) * sizeof(v->m[0]));
	w->reason = VIEW_FAILED;
	w->node = node;
	w->inc = gone->inc;
	return w;
}

struct view *view_ref(struct view *v)
{
	ASSERT(v->refs > 0);
	v->refs++;
	return v;
}

void view_unref(struct view *v)
{
	if (v == NULL)
		return;
	ASSERT(v->refs > 0);
	if (--v->refs == 0)
		free(v);
}

const struct view_member *view_find(const struct view *v, nodeid node)
{
	unsigned lo = 0, hi = v == NULL ? 0 : v->n;

	while (lo < hi) {
		unsigned mid = (lo + hi) / 2;

		if (v->m[mid].node == node)
			return &v->m[mid];
		if (v->m[mid].node < node)
			lo = mid + 1;
		else
			hi = mid;
	}
	return NULL;
}

bool view_has(const struct view *v, nodeid node, u64 inc)
{
	const struct view_member *m = view_find(v, node);

	return m != NULL && m->inc == inc;
}

const char *view_reason_name(enum view_reason reason)
{
	static const char *const names[] = {"formed", "added",	 "failed",
					    "left",   "deleted", "taken back"};

	ASSERT(reason < VIEW_REASON_NR);
	return names[reason];
}
