/* krgltp.h - the non-regression suite's driver, inside: nobody else includes it.
 *
 * A case is a command that ends with 0 (pass), 77 (skip) or anything else.  It is run as N instances
 * at once, by a runner process (run.c) that can lose no descendant; what the cluster holds before and after
 * is compared (probe.c).  With an LTP tree the same commands also run outside Kerrighed, and only
 * what differs counts (ltp.c).
 *
 * Errors     negative errno, and text where it says so.
 * Threads    one.
 * Blocking   everything is bounded by the time limit of a case, or of the lab's own commands.
 */
#ifndef KRGLTP_H
#define KRGLTP_H
#include "err.h"
#include <jansson.h>
#include <sys/types.h>

#define INSTANCES_MAX 256
#define NODES_MAX     16
#define NAME_LEN      64
#define EXIT_SKIP     77

/* ---- what to run ---- */

enum mode { MODE_PLAIN, MODE_KRG, MODE_ELSEWHERE, MODE_N };
struct kase {
	char *name, *command, *what;
};
struct known {
	char *name, *reason;
	unsigned modes; /* bits of enum mode */
};
struct list {
	struct kase *cases;
	struct known *known;
	unsigned ncases, nknown;
};

const char *mode_name(enum mode m);
int mode_parse(const char *text, unsigned *ret_modes) KRG_MUST_CHECK; /* "plain,krg" */
/* NAME COMMAND # WHAT, a line each; an LTP runtest file is one (without WHAT). */
int list_read(struct list *l, const char *path, struct krg_err *err) KRG_MUST_CHECK;
/* NAME MODE REASON, a line each; MODE: `*` is all. */
int list_read_known(struct list *l, const char *path, struct krg_err *err) KRG_MUST_CHECK;
/* NULL: it is not expected to fail. */
const char *list_reason(const struct list *l, const char *name, enum mode m);

struct options {
	const char *list, *known, *cases, *ltp, *lab, *json, *work;
	char **match; /* NULL-terminated patterns; none: all */
	unsigned modes, instances, nodes, limit_s, repeat;
	bool keep, verbose;
};

/* ---- running it ---- */

enum how { HOW_PASS, HOW_FAIL, HOW_SKIP, HOW_LATE };
struct instance {
	enum how how;
	int status; /* of waitpid */
};
struct run {
	unsigned n;
	struct instance one[INSTANCES_MAX];
	char left[1024]; /* what was left in the runner's own world; "": nothing */
	u64 ms;
};
struct run_spec {
	const struct kase *kase;
	const struct options *opt;
	const char *lab; /* NULL: outside Kerrighed */
	const char *dir; /* holds N/ and N.out of each instance */
	enum mode mode;
	bool shell; /* the command is for sh -c */
};

/* Makes the directories, runs, waits.  *ret is complete also when instances failed.  -EINTR: the
 * user wants it to end. */
int run_instances(const struct run_spec *spec, struct run *ret, struct krg_err *err) KRG_MUST_CHECK;
/* Argument vectors of instance i: free with run_argv_free(). */
char **run_argv(const struct run_spec *spec, unsigned i);
void run_argv_free(char **argv);

/* ---- the lab ---- */

struct lab_use {
	char name[NAME_LEN];
	bool ours;
	unsigned nodes;
	pid_t krgd[NODES_MAX], init[NODES_MAX];
	u64 world[NODES_MAX]; /* inode of its pid namespace */
};

int lab_use_begin(struct lab_use *lab, const struct options *opt, enum mode m,
		  struct krg_err *err) KRG_MUST_CHECK;
int lab_use_end(struct lab_use *lab, struct krg_err *err);
/* The daemons and their worlds are those that lab_use_begin() saw. */
bool lab_use_alive(const struct lab_use *lab);
/* A program of ours: beside this one. */
const char *program(const char *name);
/* Standard output is the caller's to free. */
int command_output(char *const argv[], char **ret, struct krg_err *err) KRG_MUST_CHECK;

/* ---- what the cluster holds ---- */

#define PIDS_MAX 4096
struct node_probe {
	u64 rss_kib, fds, threads, mounts, ipc;
	u64 kept; /* krgd's own processes there, which come and go with sessions and groups */
};
struct probe {
	struct node_probe node[NODES_MAX];
	u64 cgroups;
	unsigned npids; /* processes of programs, in all worlds */
	pid_t pids[PIDS_MAX];
};

void probe_take(const struct lab_use *lab, struct probe *ret);
/* A probe that met sessions on their way to their end has too few descriptors: no fewer than once. */
void probe_raise(const struct lab_use *lab, struct probe *p, const struct probe *once);
/* Programs placed on other nodes so far, all nodes together. */
u64 probe_placed(const struct lab_use *lab);
/* Waits (bounded) until what there is now is no more than before; else says what is left.
 * Returns whether something is left. */
bool probe_left(const struct lab_use *lab, const struct probe *before, char *text, size_t max);
/* Growth of the daemons' memory since before: text when it is above the bound. */
bool probe_memory_grew(const struct lab_use *lab, const struct probe *before, u64 bound_kib,
		       char *text, size_t max);
/* SIGKILL to programs in the lab's worlds that were not there before. */
void probe_kill_new(const struct lab_use *lab, const struct probe *before);

/* ---- what came of it ---- */

enum verdict { V_PASS, V_FAIL, V_SKIP, V_KNOWN, V_FIXED, V_NATIVE, V_N };
struct outcome {
	const char *name;
	enum mode mode;
	enum verdict verdict;
	unsigned instances, passed, skipped, late;
	u64 ms, placed;
	const char *known; /* its line's reason, or NULL */
	char reason[1200]; /* why it did not pass; lines */
	enum how native;   /* LTP: what it came to */
};
struct report {
	json_t *results;
	unsigned count[V_N];
	const char *last_mode;
};

void report_init(struct report *r);
/* Prints its line; its reason as comments. */
void report_add(struct report *r, const struct outcome *o);
/* Prints the summary, writes the file.  0, 1: something failed, or negative errno. */
int report_end(struct report *r, const char *json_path, struct krg_err *err) KRG_MUST_CHECK;

/* ---- LTP ---- */

/* LTP's exit statuses: a bit each for FAIL, BROK, WARN, CONF; 0 is pass. */
enum how ltp_how(int status);
/* The worst of the instances: LATE, FAIL, then PASS; SKIP when all were. */
enum how run_worst(const struct run *run);
const char *how_name(enum how how);

extern volatile int stop_wanted; /* a signal asked for the end */
#endif
