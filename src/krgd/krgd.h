/* krgd.h - the daemon: what it is told, and the parts it wires together.
 *
 * main.c parses, krgd.c makes, starts and stops the parts, krgd_ops.c and krgd_run.c are the ops of
 * the door, krgd_trace.c the calls to other daemons.
 *
 * Threads  krgd_new() makes none (krginit is forked there), krgd_start() makes them all.
 */
#ifndef KRG_KRGD_H
#define KRG_KRGD_H
#include "comm.h"
#include "door.h"
#include "epm.h"
#include "hotplug.h"
#include "lock.h"
#include "sched.h"
#include "service.h"
#include "stream.h"

#define KRGD_PROTOCOL 1
#define KRGD_SEEDS    16
#define KRGD_JOIN_MS  25000
#define KRGD_LEAVE_MS 2000
#define KRGD_KEEP_MS  60000

struct krgd_config {
	char run_dir[80]; /* so that a socket's path has room */
	char libexec[256];
	char name[64];
	char cluster[64];
	char addr[64];
	u16 port;
	u8 key[32];
	nodeid node;
	double cpus; /* 0: all of the machine's */
	enum sched_policy policy;
	u64 heartbeat_ms; /* 0: hotplug's default */
	u64 join_ms;
	u32 keep_ms; /* how long the world outlives a krgd that dies */
	struct hotplug_seed seeds[KRGD_SEEDS];
	unsigned nseeds;
};

struct krgd {
	struct krgd_config config; /* (c) */
	char door_path[108];	   /* (c) */
	struct comm *comm;
	struct stream *stream;
	struct epm *epm;
	struct sched *sched;
	struct hotplug *hotplug;
	struct service_set *services;
	struct door *door;
	bool comm_started, services_started;
	u64 start_ns;
	struct krg_mutex runs_lock; /* class leaf */
	struct run_job *runs;	    /* (o) what was started here and has not ended */
};

/* ---- krgd.c ---- */
/* -ENOSYS and what this kernel lacks. */
int krgd_kernel_check(struct krg_err *err) KRG_MUST_CHECK;
int krgd_new(const struct krgd_config *config, struct krgd **ret,
	     struct krg_err *err) KRG_MUST_CHECK;
/* Returns when this node is in the view and the door is open. */
int krgd_start(struct krgd *k, struct krg_err *err) KRG_MUST_CHECK;
/* Leaves the view, ends the world. */
void krgd_stop(struct krgd *k);
void krgd_free(struct krgd *k);

/* ---- krgd_services.c ---- */
int krgd_services_add(struct krgd *k, struct krg_err *err) KRG_MUST_CHECK;

/* ---- krgd_ops.c, krgd_run.c ---- */
extern const struct door_op krgd_ops[];
extern const unsigned krgd_ops_nr;
int krgd_op_run(void *ctx, struct door_req *req, json_t *answer, struct krg_err *err);
int krgd_op_signal(void *ctx, struct door_req *req, json_t *answer, struct krg_err *err);
/* An epm_run record as a client sent it: checked, and cut down to what the peer may. */
struct krgd_limits {
	u64 cur_max[2 * 16]; /* as in epm_run.limits */
	int nice;
};
int krgd_limits_parse(const char *text, struct krgd_limits *ret) KRG_MUST_CHECK;
int krgd_run_check(struct rec_epm_run *run, const struct door_peer *peer,
		   const struct krgd_limits *peer_limits, struct krg_err *err) KRG_MUST_CHECK;
/* The environment with KRG_SOCKET=path. */
void krgd_run_env(const struct rec_epm_run *run, const char *path, struct krg_buf *ret);
/* The world is gone: clients hear that what they started was killed. */
void krgd_runs_end(struct krgd *k);
/* Text that may not be UTF-8. */
json_t *krgd_json_text(const void *p, size_t n);

/* ---- krgd_nodes.c ---- */
void krgd_nodes_register(struct krgd *k);
/* The members of the view; ret has room for KRG_NODES_MAX.  Returns how many. */
unsigned krgd_members(struct krgd *k, nodeid *ret);
int krgd_op_node_ls(void *ctx, struct door_req *req, json_t *answer, struct krg_err *err);
int krgd_op_node_add(void *ctx, struct door_req *req, json_t *answer, struct krg_err *err);
int krgd_op_node_del(void *ctx, struct door_req *req, json_t *answer, struct krg_err *err);

/* ---- krgd_trace.c ---- */
void krgd_trace_register(struct krgd *k);
int krgd_op_trace(void *ctx, struct door_req *req, json_t *answer, struct krg_err *err);

/* ---- krgd_execs.c ---- */
void krgd_execs_register(struct krgd *k);
int krgd_op_execs(void *ctx, struct door_req *req, json_t *answer, struct krg_err *err);
#endif
