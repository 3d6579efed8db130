/* list.c - the processes that run on this node, and on all; and the clock that the worlds share. */
#include "epm_impl.h"
#include <fcntl.h>
#include <time.h>

static void cmdline_read(struct epm *e, pid_t pid, struct krg_buf *b)
{
	KRG_AUTO_FD int fd = -EBADF;
	char name[32];
	ssize_t n;

	(void)snprintf(name, sizeof(name), "%d/cmdline", pid);
	fd = openat(e->world_proc, name, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return;
	n = read(fd, krg_buf_grow(b, 65536), 65536);
	b->len = n > 0 ? (size_t)n : 0;
}

static u64 ns_of_ticks(u64 ticks)
{
	return ticks * (KRG_NSEC / (u64)sysconf(_SC_CLK_TCK));
}

static u64 boot_epoch_ns(void)
{
	struct timespec real, boot;

	(void)clock_gettime(CLOCK_REALTIME, &real);
	(void)clock_gettime(CLOCK_BOOTTIME, &boot);
	return ((u64)real.tv_sec - (u64)boot.tv_sec) * KRG_NSEC + (u64)real.tv_nsec -
	       (u64)boot.tv_nsec;
}

/* Placeholders and shadows are not processes; deputies are where they run. */
static bool lists(struct epm *e, pid_t pid, bool deputies, bool *ret_deputy, nodeid *ret_node)
{
	TASK_AUTO_PUT struct task *deputy = NULL;

	*ret_deputy = false;
	*ret_node = e->self;
	if (pid < 32768 || session_owns_pid(e, pid) || kin_is_shadow(e, pid))
		return false;
	deputy = task_find(e, TASK_DEPUTY, pid);
	if (deputy == NULL)
		return true;
	task_lock(&deputy->lock);
	/* HELD: it is still itself, and its body has run nothing */
	*ret_deputy = deputy->state != TASK_HELD;
	*ret_node = *ret_deputy ? deputy->peer : e->self;
	task_unlock(&deputy->lock);
	return deputies || !*ret_deputy;
}

/* A body that is held has run nothing: the process is still at home. */
static bool body_held(struct task *body)
{
	bool held;

	task_lock(&body->lock);
	held = body->state == TASK_MAKING || body->state == TASK_HELD;
	task_unlock(&body->lock);
	return held;
}

static unsigned list_here(struct epm *e, bool deputies, struct krg_buf *ret)
{
	KRG_AUTO_BUF struct krg_buf cmdline = {0};
	KRG_AUTO_FREE pid_t *all = NULL;
	unsigned n = proc_all(e, &all), count = 0;
	u64 boot = boot_epoch_ns();

	for (unsigned i = 0; i < n; i++) {
		TASK_AUTO_PUT struct task *body = NULL;
		PROC_AUTO struct proc_info p = {0};
		struct rec_epm_proc rec;
		nodeid node;
		bool deputy;

		if (!lists(e, all[i], deputies, &deputy, &node) ||
		    proc_read_world(e, all[i], &p) < 0)
			continue;
		body = task_find(e, TASK_BODY, all[i]);
		if (body != NULL && body_held(body))
			continue;
		krg_buf_reset(&cmdline);
		if (!deputy)
			cmdline_read(e, all[i], &cmdline);
		rec = (struct rec_epm_proc){
			.pid = all[i],
			.ppid = body != NULL ? body->ppid : p.ppid,
			.pgid = p.pgid,
			.sid = p.sid,
			.uid = p.uid[1],
			.node = node,
			.home = epm_pid_home(all[i]),
			.state = (u8)p.state,
			.threads = p.threads,
			.cpu_ns = ns_of_ticks(p.utime_ticks + p.stime_ticks),
			.rss = p.rss_pages * (u64)sysconf(_SC_PAGESIZE),
			.start_ns = boot + ns_of_ticks(p.start_ticks),
			.comm = {(const u8 *)p.comm, strnlen(p.comm, sizeof(p.comm) - 1)},
			.cmdline = krg_buf_slice(&cmdline),
			.deputy = deputy};
		rec_epm_proc_encode(&rec, ret);
		count++;
	}
	return count;
}

unsigned epm_list_local(struct epm *e, struct krg_buf *ret)
{
	return list_here(e, false, ret);
}

void handle_list(void *ctx, struct comm_req *req)
{
	KRG_AUTO_BUF struct krg_buf b = {0};

	(void)list_here(ctx, true, &b);
	comm_req_answer(req, &b);
}

/* Of one pid: the body first, then the process itself at home, then the deputy. */
static int by_pid(const void *a, const void *b)
{
	const struct rec_epm_proc *x = a, *y = b;

	if (x->pid != y->pid)
		return x->pid < y->pid ? -1 : 1;
	if (x->deputy != y->deputy)
		return x->deputy < y->deputy ? -1 : 1;
	return (x->node == x->home) - (y->node == y->home);
}

/* One record for each process, whatever moved while the nodes were asked.  Of those that run elsewhere
 * their home knows better who the parent is (it may have ended meanwhile), when it began, and what it
 * used until it left.  Returns how many there are. */
static unsigned list_merge(struct krg_slice all, struct krg_buf *ret)
{
	struct krg_rd rd = krg_rd_slice(all);
	struct rec_epm_proc *v = NULL, p;
	unsigned n = 0, room = 0, count = 0;

	while (krg_rd_left(&rd) > 0 && rec_epm_proc_decode(&rd, &p) == 0) {
		if (n == room) {
			room = room * 2 + 64;
			v = krg_xrealloc(v, room * sizeof(*v));
		}
		v[n++] = p;
	}
	if (n > 0)
		qsort(v, n, sizeof(*v), by_pid);
	for (unsigned i = 0, next; i < n; i = next) {
		struct rec_epm_proc *deputy;

		for (next = i + 1; next < n && v[next].pid == v[i].pid;)
			next++;
		deputy = &v[next - 1];
		if (deputy != &v[i] && deputy->deputy != 0) {
			v[i].ppid = deputy->ppid;
			v[i].start_ns = deputy->start_ns;
			v[i].cpu_ns += deputy->cpu_ns;
		}
		v[i].deputy = 0;
		rec_epm_proc_encode(&v[i], ret);
		count++;
	}
	free(v);
	return count;
}

/* Another node's answer, as far as it is one. */
static void records_add(struct krg_slice s, struct krg_buf *ret)
{
	struct krg_rd rd = krg_rd_slice(s);
	struct rec_epm_proc rec;

	while (krg_rd_left(&rd) > 0 && rec_epm_proc_decode(&rd, &rec) == 0)
		rec_epm_proc_encode(&rec, ret);
}

int epm_list_all(struct epm *e, u64 timeout_ms, struct krg_buf *ret, unsigned *ret_count,
		 struct krg_err *err)
{
	struct comm_reply reply[KRG_NODES_MAX] = {0};
	nodeid to[KRG_NODES_MAX];
	int codes[KRG_NODES_MAX], r = 0;
	KRG_AUTO_BUF struct krg_buf missing = {0}, all = {0};
	unsigned n = 0;

	krg_assert_no_locks();
	(void)list_here(e, true, &all);
	for (nodeid i = 0; i < KRG_NODES_MAX; i++)
		if (i != e->self && comm_is_member(e->comm, i))
			to[n++] = i;
	if (n > 0 &&
	    comm_call_many(e->comm, to, n, EPM_OP_LIST, NULL, timeout_ms, reply, codes) > 0)
		r = -EAGAIN;
	for (unsigned i = 0; i < n; i++) {
		if (codes[i] != 0)
			krg_buf_printf(&missing, " %u", to[i]);
		else
			records_add(reply[i].body, &all);
		comm_reply_fini(&reply[i]);
	}
	*ret_count = list_merge(krg_buf_slice(&all), ret);
	krg_buf_put_u8(&missing, 0);
	return r < 0 ? krg_err_set(err, r, "no answer from node%s", (char *)missing.data) : 0;
}

/* ---- which execs went where ---- */

void history_add(struct epm *e, pid_t pid, nodeid node, const char *path)
{
	const char *slash = strrchr(path, '/');
	struct epm_exec_record *h;

	KRG_GUARD(leaf, &e->history_lock);
	h = &e->history[e->history_n++ % EPM_HISTORY];
	*h = (struct epm_exec_record){.time_ns = krg_clock_now_ns(), .pid = pid, .node = node};
	(void)snprintf(h->name, sizeof(h->name), "%s", slash != NULL ? slash + 1 : path);
}

unsigned epm_history(struct epm *e, struct epm_exec_record *ret, unsigned max)
{
	u64 first;
	unsigned n = 0;

	KRG_GUARD(leaf, &e->history_lock);
	first = e->history_n > EPM_HISTORY ? e->history_n - EPM_HISTORY : 0;
	if (e->history_n - first > max)
		first = e->history_n - max;
	for (u64 i = first; i < e->history_n; i++)
		ret[n++] = e->history[i % EPM_HISTORY];
	return n;
}

/* ---- the clock ---- */

#define REC_EPM_CLOCK(F)                                                                           \
	F(i64, monotonic_ns) /* of the world */                                                    \
	F(i64, offset_ns)                                                                          \
	F(str, boot_id, 64)
KRG_RECORD(epm_clock, 0x422, REC_EPM_CLOCK)

#define CLOCK_SAMPLES 8

static i64 monotonic_ns(void)
{
	struct timespec ts;

	(void)clock_gettime(CLOCK_MONOTONIC, &ts);
	return (i64)ts.tv_sec * (i64)KRG_NSEC + ts.tv_nsec;
}

static void boot_id(char *s, size_t max)
{
	int n = krg_read_file("/proc/sys/kernel/random/boot_id", s, max);

	s[n > 36 ? 36 : n > 0 ? n : 0] = '\0';
}

void handle_clock(void *ctx, struct comm_req *req)
{
	struct epm *e = ctx;
	KRG_AUTO_BUF struct krg_buf b = {0};
	char id[64];
	struct rec_epm_clock rec;

	boot_id(id, sizeof(id));
	rec = (struct rec_epm_clock){.monotonic_ns = monotonic_ns() + e->clock_offset_ns,
				     .offset_ns = e->clock_offset_ns,
				     .boot_id = krg_slice_str(id)};
	rec_epm_clock_encode(&rec, &b);
	comm_req_answer(req, &b);
}

/* The worlds' monotonic clocks agree: this node takes over what a member has (Cristian 1989: the
 * sample with the shortest round trip). */
int clock_agree(struct epm *e, struct krg_err *err)
{
	i64 best_rtt = INT64_MAX;
	nodeid peer = 0;
	char id[64];

	while (peer < KRG_NODES_MAX && (peer == e->self || !comm_is_member(e->comm, peer)))
		peer++;
	if (peer == KRG_NODES_MAX)
		return 0;
	boot_id(id, sizeof(id));
	for (int i = 0; i < CLOCK_SAMPLES; i++) {
		COMM_AUTO_REPLY struct comm_reply reply = {0};
		i64 before = monotonic_ns(), rtt;
		struct rec_epm_clock rec = {.boot_id = {(const u8 *)"", 0}};
		struct krg_rd rd;
		int r = comm_call(e->comm, peer, EPM_OP_CLOCK, NULL, 5000, &reply, err);

		rtt = monotonic_ns() - before;
		rd = krg_rd_slice(reply.body);
		if (r == 0 && rec_epm_clock_decode(&rd, &rec) < 0)
			r = krg_err_set(err, -EBADMSG, "the answer");
		if (r == -ENOSYS)
			return 0; /* it is starting too: as young as we are */
		if (r != 0)
			return krg_err_prefix(err, r, "ask node %u for the cluster's clock", peer);
		if (rec.boot_id.len == strlen(id) &&
		    memcmp(rec.boot_id.data, id, strlen(id)) == 0) {
			e->clock_offset_ns = rec.offset_ns; /* the same kernel */
			return 0;
		}
		if (rtt < best_rtt) {
			best_rtt = rtt;
			e->clock_offset_ns = rec.monotonic_ns + rtt / 2 - (before + rtt);
		}
	}
	return 0;
}
