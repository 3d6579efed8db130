/* krgd_execs.c - which programs executed where, of all nodes. */
#include "krgd.h"
#include "rec.h"

#define OP_EXECS   COMM_OP(COMM_SVC_KRGD, 2)
#define TIMEOUT_MS 5000

/* One exec that the gate of a node decided on. */
#define REC_KRGD_EXEC(F)                                                                           \
	F(u16, node) /* where it executes */                                                       \
	F(str, name, 64)
KRG_RECORD(krgd_exec, 0x603, REC_KRGD_EXEC)

static void handle_execs(void *ctx, struct comm_req *req)
{
	struct epm_exec_record *h = krg_xalloc(EPM_HISTORY * sizeof(*h));
	KRG_AUTO_BUF struct krg_buf b = {0};
	struct krgd *k = ctx;
	unsigned n = epm_history(k->epm, h, EPM_HISTORY);

	for (unsigned i = 0; i < n; i++) {
		struct rec_krgd_exec e = {.node = h[i].node, .name = krg_slice_str(h[i].name)};

		rec_krgd_exec_encode(&e, &b);
	}
	free(h);
	comm_req_answer(req, &b);
}

void krgd_execs_register(struct krgd *k)
{
	comm_register(k->comm, OP_EXECS, 0, handle_execs, k);
}

static void count(json_t *programs, struct krg_slice body)
{
	struct krg_rd rd = krg_rd_slice(body);
	struct rec_krgd_exec e;

	while (krg_rd_left(&rd) > 0 && rec_krgd_exec_decode(&rd, &e) == 0) {
		json_t *text = krgd_json_text(e.name.data, e.name.len), *nodes, *old;
		char key[8];

		(void)snprintf(key, sizeof(key), "%u", e.node);
		nodes = json_object_get(programs, json_string_value(text));
		if (nodes == NULL) {
			nodes = json_object();
			(void)json_object_set_new(programs, json_string_value(text), nodes);
		}
		old = json_object_get(nodes, key);
		(void)json_object_set_new(nodes, key, json_integer(json_integer_value(old) + 1));
		json_decref(text);
	}
}

/* {"programs": {"gcc": {"0": 12, "1": 11}}, "missing": []} */
int krgd_op_execs(void *ctx, struct door_req *req, json_t *answer, struct krg_err *err)
{
	json_t *programs = json_object(), *missing = json_array();
	struct comm_reply reply[KRG_NODES_MAX] = {0};
	int code[KRG_NODES_MAX];
	nodeid to[KRG_NODES_MAX];
	struct krgd *k = ctx;
	unsigned members = 0;

	(void)req;
	(void)err;
	for (nodeid node = 0; node < KRG_NODES_MAX; node++)
		if (comm_is_member(k->comm, node))
			to[members++] = node;
	(void)!comm_call_many(k->comm, to, members, OP_EXECS, NULL, TIMEOUT_MS, reply, code);
	for (unsigned i = 0; i < members; i++) {
		if (code[i] < 0)
			(void)json_array_append_new(missing, json_integer(to[i]));
		else
			count(programs, reply[i].body);
		comm_reply_fini(&reply[i]);
	}
	(void)json_object_set_new(answer, "programs", programs);
	(void)json_object_set_new(answer, "missing", missing);
	return 0;
}
