/* krgd_trace.c - the traces of all nodes as one. */
#include "krgd.h"
#include "rec.h"
#include "trace.h"
#include <time.h>

#define OP_TRACE   COMM_OP(COMM_SVC_KRGD, 1)
#define EVENTS_MAX 20000
#define TIMEOUT_MS 2000

#define REC_KRGD_TRACE_ASK(F) F(u32, max)
KRG_RECORD(krgd_trace_ask, 0x601, REC_KRGD_TRACE_ASK)

/* time_ns: since the epoch, so that the times of nodes can be compared as far as their clocks agree */
#define REC_KRGD_TRACE(F)                                                                          \
	F(u64, time_ns)                                                                            \
	F(u64, call)                                                                               \
	F(u16, node)                                                                               \
	F(str, part, 32)                                                                           \
	F(str, event, 64)                                                                          \
	F(str, text, 256)
KRG_RECORD(krgd_trace, 0x602, REC_KRGD_TRACE)

static u64 clock_ns(clockid_t id)
{
	struct timespec ts;

	(void)clock_gettime(id, &ts);
	return (u64)ts.tv_sec * 1000000000u + (u64)ts.tv_nsec;
}

static void pack_local(nodeid self, u32 max, struct krg_buf *ret)
{
	struct krg_trace_entry *entry = NULL;
	size_t n = krg_trace_snapshot(&entry);
	u64 offset = clock_ns(CLOCK_REALTIME) - clock_ns(CLOCK_MONOTONIC);

	for (size_t i = n > max ? n - max : 0; i < n; i++) {
		char text[256];
		struct rec_krgd_trace t = {
			.time_ns = entry[i].time_ns + offset,
			.call = entry[i].call_id,
			.node = self,
			.part = krg_slice_str(krg_trace_event_part(entry[i].event)),
			.event = krg_slice_str(krg_trace_event_name(entry[i].event))};

		krg_trace_format(&entry[i], text, sizeof(text));
		t.text = krg_slice_str(text);
		rec_krgd_trace_encode(&t, ret);
	}
	free(entry);
}

static void handle_trace(void *ctx, struct comm_req *req)
{
	KRG_AUTO_BUF struct krg_buf b = {0};
	struct krg_rd rd = krg_rd_slice(req->body);
	struct rec_krgd_trace_ask ask;
	struct krgd *k = ctx;

	if (rec_krgd_trace_ask_decode(&rd, &ask) < 0) {
		comm_req_fail(req, -EBADMSG, "trace");
		return;
	}
	pack_local(k->config.node, KRG_MIN(ask.max, (u32)EVENTS_MAX), &b);
	comm_req_answer(req, &b);
}

void krgd_trace_register(struct krgd *k)
{
	comm_register(k->comm, OP_TRACE, 0, handle_trace, k);
}

struct event {
	u64 time_ns;
	json_t *j;
};

static int by_time(const void *a, const void *b)
{
	const struct event *x = a, *y = b;

	return x->time_ns < y->time_ns ? -1 : x->time_ns > y->time_ns;
}

static void unpack(struct krg_slice body, struct event **list, size_t *n)
{
	struct krg_rd rd = krg_rd_slice(body);
	struct rec_krgd_trace t;

	for (size_t got = 0; got < EVENTS_MAX && krg_rd_left(&rd) > 0; got++) {
		struct event *e;

		if (rec_krgd_trace_decode(&rd, &t) < 0)
			return;
		*list = krg_xrealloc(*list, (*n + 1) * sizeof(**list));
		e = &(*list)[(*n)++];
		e->time_ns = t.time_ns;
		e->j = json_pack("{s:I, s:I, s:i}", "time_ns", (json_int_t)t.time_ns, "call",
				 (json_int_t)t.call, "node", (int)t.node);
		(void)json_object_set_new(e->j, "part", krgd_json_text(t.part.data, t.part.len));
		(void)json_object_set_new(e->j, "event", krgd_json_text(t.event.data, t.event.len));
		(void)json_object_set_new(e->j, "text", krgd_json_text(t.text.data, t.text.len));
	}
}

/* [net] Members of the view, oneself too; those that do not answer are in `missing`. */
static void collect(struct krgd *k, u32 max, struct event **list, size_t *n, json_t *missing)
{
	KRG_AUTO_BUF struct krg_buf args = {0};
	struct rec_krgd_trace_ask ask = {.max = max};
	struct comm_reply reply[KRG_NODES_MAX] = {0};
	int code[KRG_NODES_MAX];
	nodeid to[KRG_NODES_MAX];
	unsigned members = krgd_members(k, to);

	rec_krgd_trace_ask_encode(&ask, &args);
	(void)!comm_call_many(k->comm, to, members, OP_TRACE, &args, TIMEOUT_MS, reply, code);
	for (unsigned i = 0; i < members; i++) {
		if (code[i] < 0) {
			(void)json_array_append_new(missing, json_integer(to[i]));
			continue;
		}
		unpack(reply[i].body, list, n);
		comm_reply_fini(&reply[i]);
	}
}

int krgd_op_trace(void *ctx, struct door_req *req, json_t *answer, struct krg_err *err)
{
	const json_t *want = json_object_get(req->body, "max");
	json_t *events = json_array(), *missing = json_array();
	struct event *list = NULL;
	size_t n = 0, max = 1000;

	(void)err;
	if (json_is_integer(want) && json_integer_value(want) > 0)
		max = KRG_MIN((size_t)json_integer_value(want), (size_t)EVENTS_MAX);
	collect(ctx, (u32)max, &list, &n, missing);
	if (n > 0)
		qsort(list, n, sizeof(*list), by_time);
	for (size_t i = 0; i < n; i++) {
		if (i + max >= n)
			(void)json_array_append_new(events, list[i].j);
		else
			json_decref(list[i].j);
	}
	free(list);
	(void)json_object_set_new(answer, "events", events);
	(void)json_object_set_new(answer, "missing", missing);
	return 0;
}
