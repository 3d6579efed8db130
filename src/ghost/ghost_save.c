/* ghost_save.c - a stopped process as records. */
#include "ghost_impl.h"
#include <elf.h>
#include <fcntl.h>
#include <linux/prctl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>

#define STATUS_MAX	65536 /* bytes of /proc/PID/status: it lists all groups */
#define SIGNALS_AT_ONCE 32

/* What the process says of itself, with its own calls. */
struct answers {
	u64 brk;
	u32 personality, dumpable, subreaper;
	u64 caught;
	struct {
		u64 handler, flags, restorer, mask;
	} action[GHOST_NSIG];
	struct itimerval itimer[3];
};
struct thread_answers {
	u32 securebits;
	stack_t alt;
	u64 clear_tid;
	u32 death_signal;
};

static int fail_call(const struct ghost *g, const struct ghost_call *c, int r, struct krg_err *err)
{
	if (c == NULL)
		return krg_err_set(err, r, "pid %d: make calls through it", g->shown);
	return krg_err_set(err, r, "pid %d: call %u made through it", g->shown, (unsigned)c->nr);
}

/* ---- /proc ---- */

static int proc_file(const struct ghost *g, const char *name, char *text, size_t room,
		     struct krg_err *err)
{
	char path[80];
	int r;

	(void)snprintf(path, sizeof(path), "/proc/%d/%s", g->pid, name);
	r = krg_read_file(path, text, room);
	return r < 0 ? krg_err_set(err, r, "read %s", path) : r;
}

static u64 status_hex(const char *status, const char *name)
{
	const char *at = strstr(status, name);

	return at == NULL ? 0 : strtoull(at + strlen(name), NULL, 16);
}

/* Fields of /proc/PID/stat, from 3 on (proc(5)); comm may hold anything. */
static int stat_fields(const char *text, u64 *field, unsigned n)
{
	const char *at = strrchr(text, ')');

	if (at == NULL)
		return -EPROTO;
	at += 2;
	for (unsigned i = 3; i < n; i++) {
		char *end;

		field[i] = strtoull(at, &end, 10);
		if (i > 3 && end == at)
			return -EPROTO;
		at = strchr(at, ' ');
		if (at == NULL)
			return i + 1 == n ? 0 : -EPROTO;
		at++;
	}
	return 0;
}

static int mm_read(const struct ghost *g, u64 brk, struct prctl_mm_map *ret, struct krg_err *err)
{
	char text[2048];
	u64 f[53] = {0};
	int r = proc_file(g, "stat", text, sizeof(text), err);

	if (r < 0)
		return r;
	if (stat_fields(text, f, 52) < 0)
		return krg_err_set(err, -EPROTO, "/proc/%d/stat", g->pid);
	*ret = (struct prctl_mm_map){.start_code = f[26],
				     .end_code = f[27],
				     .start_stack = f[28],
				     .start_data = f[45],
				     .end_data = f[46],
				     .start_brk = f[47],
				     .brk = brk,
				     .arg_start = f[48],
				     .arg_end = f[49],
				     .env_start = f[50],
				     .env_end = f[51]};
	return 0;
}

/* ---- what it is asked ---- */

static int ask_process(struct ghost *g, struct answers *a, struct krg_err *err)
{
	GHOST_AUTO_LIST struct ghost_list l = {0};
	const struct ghost_call *failed, *brk, *pers, *dump;
	void *action[GHOST_NSIG] = {0}, *itimer[3], *reaper;
	int r;

	ghost_list_init(&l, g);
	brk = ghost_list_add(&l, SYS_brk, 0, 0, 0, 0, 0, 0);
	pers = ghost_list_add(&l, SYS_personality, 0xffffffff, 0, 0, 0, 0, 0);
	ghost_list_add(&l, SYS_prctl, PR_GET_CHILD_SUBREAPER,
		       ghost_list_data(&l, NULL, sizeof(int), &reaper), 0, 0, 0, 0);
	dump = ghost_list_add(&l, SYS_prctl, PR_GET_DUMPABLE, 0, 0, 0, 0, 0);
	for (unsigned i = 0; i < GHOST_NSIG; i++)
		if ((a->caught >> i & 1) != 0)
			ghost_list_add(&l, SYS_rt_sigaction, i + 1, 0,
				       ghost_list_data(&l, NULL, sizeof(a->action[i]), &action[i]),
				       8, 0, 0);
	for (unsigned i = 0; i < 3; i++)
		ghost_list_add(&l, SYS_getitimer, i,
			       ghost_list_data(&l, NULL, sizeof(a->itimer[i]), &itimer[i]), 0, 0, 0,
			       0);
	r = ghost_list_run(g, &g->thread[0], &l, &failed);
	if (r < 0)
		return fail_call(g, failed, r, err);
	a->brk = (u64)brk->ret;
	a->personality = (u32)pers->ret;
	a->dumpable = (u32)dump->ret;
	memcpy(&a->subreaper, reaper, sizeof(a->subreaper));
	for (unsigned i = 0; i < GHOST_NSIG; i++)
		if (action[i] != NULL)
			memcpy(&a->action[i], action[i], sizeof(a->action[i]));
	for (unsigned i = 0; i < 3; i++)
		memcpy(&a->itimer[i], itimer[i], sizeof(a->itimer[i]));
	return 0;
}

static int ask_thread(struct ghost *g, struct ghost_thread *t, struct thread_answers *a,
		      struct krg_err *err)
{
	GHOST_AUTO_LIST struct ghost_list l = {0};
	const struct ghost_call *failed, *tid, *bits;
	void *alt, *clear, *death;
	int r;

	ghost_list_init(&l, g);
	ghost_list_add(&l, SYS_sigaltstack, 0, ghost_list_data(&l, NULL, sizeof(a->alt), &alt), 0,
		       0, 0, 0);
	ghost_list_add(&l, SYS_prctl, PR_GET_TID_ADDRESS, ghost_list_data(&l, NULL, 8, &clear), 0,
		       0, 0, 0);
	ghost_list_add(&l, SYS_prctl, PR_GET_PDEATHSIG,
		       ghost_list_data(&l, NULL, sizeof(int), &death), 0, 0, 0, 0);
	tid = ghost_list_add(&l, SYS_gettid, 0, 0, 0, 0, 0, 0);
	bits = ghost_list_add(&l, SYS_prctl, PR_GET_SECUREBITS, 0, 0, 0, 0, 0);
	r = ghost_list_run(g, t, &l, &failed);
	if (r < 0)
		return fail_call(g, failed, r, err);
	memcpy(&a->alt, alt, sizeof(a->alt));
	memcpy(&a->death_signal, death, sizeof(a->death_signal));
	memcpy(&a->clear_tid, clear, sizeof(a->clear_tid));
	t->own_tid = (pid_t)tid->ret;
	a->securebits = (u32)bits->ret;
	return 0;
}

/* ---- records ---- */

static void put_area(const struct ghost_area *a, struct krg_buf *out)
{
	struct rec_ghost_area rec = {.start = a->start,
				     .end = a->end,
				     .kind = (u8)a->kind,
				     .prot = a->prot,
				     .down = a->down,
				     .offset = a->offset,
				     .ino = a->ino,
				     .size = a->size,
				     .mtime_ns = a->mtime_ns,
				     .path = krg_slice_str(a->path)};

	rec_ghost_area_encode(&rec, out);
}

int ghost_signals(pid_t tid, pid_t own_tid, bool shared, u64 skip, ghost_signal_fn *fn, void *ctx)
{
	struct __ptrace_peeksiginfo_args args = {.off = skip,
						 .flags = shared ? PTRACE_PEEKSIGINFO_SHARED : 0,
						 .nr = SIGNALS_AT_ONCE};
	siginfo_t info[SIGNALS_AT_ONCE];
	long n;
	int r = 0;

	while (r == 0 && (n = ptrace(PTRACE_PEEKSIGINFO, tid, &args, info)) != 0) {
		if (n < 0)
			return -errno;
		for (long i = 0; i < n && r == 0; i++)
			r = fn(ctx, own_tid, &info[i]);
		args.off += (u64)n;
	}
	return r;
}

struct signals_out {
	struct krg_buf *b;
	unsigned *count;
};

static int put_signal(void *ctx, pid_t own_tid, const siginfo_t *info)
{
	struct signals_out *out = ctx;
	struct rec_ghost_signal rec = {.tid = own_tid, .info = {(const u8 *)info, sizeof(*info)}};

	rec_ghost_signal_encode(&rec, out->b);
	++*out->count;
	return 0;
}

static int put_signals(const struct ghost *g, struct krg_buf *b, unsigned *count,
		       struct krg_err *err)
{
	struct signals_out out = {b, count};
	int r = 0;

	for (unsigned i = 0; r == 0 && i < g->nthreads; i++)
		r = ghost_signals(g->thread[i].tid, g->thread[i].own_tid, false, 0, put_signal,
				  &out);
	if (r == 0)
		r = ghost_signals(g->pid, 0, true, 0, put_signal, &out);
	return r < 0 ? krg_err_set(err, r, "pid %d: its pending signals", g->shown) : 0;
}

static void status_ids(const char *status, const char *name, u32 ret[4])
{
	const char *at = strstr(status, name);
	char *end;

	for (unsigned i = 0; i < 4; i++) {
		ret[i] = at == NULL ? 0 : (u32)strtoul(i == 0 ? at + strlen(name) : at, &end, 10);
		at = at == NULL ? NULL : end;
	}
}

static void status_groups(const char *status, struct krg_buf *ret)
{
	const char *at = strstr(status, "\nGroups:");
	char *end;

	if (at == NULL)
		return;
	for (at += 8;; at = end) {
		u32 gid;

		at += strspn(at, "\t ");
		gid = (u32)strtoul(at, &end, 10);
		if (end == at)
			return;
		krg_buf_put_u32(ret, gid);
	}
}

static int put_creds(struct ghost *g, const struct ghost_thread *t, u32 securebits,
		     struct krg_buf *out, struct krg_err *err)
{
	KRG_AUTO_BUF struct krg_buf groups = {0};
	KRG_AUTO_FREE char *status = krg_xrealloc(NULL, STATUS_MAX);
	char name[48];
	u32 uid[4], gid[4];
	struct rec_ghost_creds rec;
	int r;

	(void)snprintf(name, sizeof(name), "task/%d/status", t->tid);
	r = proc_file(g, name, status, STATUS_MAX, err);
	if (r < 0)
		return r;
	status_ids(status, "\nUid:", uid);
	status_ids(status, "\nGid:", gid);
	status_groups(status, &groups);
	rec = (struct rec_ghost_creds){.tid = t->own_tid,
				       .uid = uid[0],
				       .euid = uid[1],
				       .suid = uid[2],
				       .fsuid = uid[3],
				       .gid = gid[0],
				       .egid = gid[1],
				       .sgid = gid[2],
				       .fsgid = gid[3],
				       .groups = krg_buf_slice(&groups),
				       .cap_inh = status_hex(status, "\nCapInh:"),
				       .cap_prm = status_hex(status, "\nCapPrm:"),
				       .cap_eff = status_hex(status, "\nCapEff:"),
				       .cap_bnd = status_hex(status, "\nCapBnd:"),
				       .cap_amb = status_hex(status, "\nCapAmb:"),
				       .securebits = securebits,
				       .no_new_privs = status_hex(status, "\nNoNewPrivs:") != 0};
	rec_ghost_creds_encode(&rec, out);
	return 0;
}

/* A call with a timeout that has been interrupted before is made again as restart_syscall(2), which says nothing to
 * another kernel: which one it is stands in the program, `mov $nr, %eax; syscall` (in C libraries).  Elsewhere it
 * ends with EINTR, as such a call may. */
static void regs_name_call(const struct ghost *g, struct user_regs_struct *r)
{
	static const u32 calls[] = {SYS_poll, SYS_nanosleep, SYS_futex, SYS_clock_nanosleep};
	u8 code[7];
	u32 nr;

	if (r->orig_rax != SYS_restart_syscall || (i64)r->rax != -ERESTART_RESTARTBLOCK ||
	    pread(g->mem, code, sizeof(code), (off_t)(r->rip - sizeof(code))) != sizeof(code) ||
	    code[0] != 0xb8 || code[5] != 0x0f || code[6] != 0x05)
		return;
	memcpy(&nr, code + 1, sizeof(nr));
	for (unsigned i = 0; i < KRG_NELEM(calls); i++)
		if (calls[i] == nr)
			r->orig_rax = nr;
}

static int put_thread(struct ghost *g, struct ghost_thread *t, struct krg_buf *out,
		      struct krg_buf *creds, struct krg_err *err)
{
	struct thread_answers a = {0};
	struct rec_ghost_thread rec;
	struct user_regs_struct regs = t->regs;
	struct __ptrace_rseq_configuration rseq = {0};
	u8 xstate[GHOST_XSTATE_MAX];
	struct iovec io = {xstate, sizeof(xstate)};
	char name[32], path[80];
	void *robust = NULL;
	size_t robust_len = 0;
	int r = ask_thread(g, t, &a, err);

	if (r < 0)
		return r;
	if (ptrace(PTRACE_GETREGSET, t->tid, NT_X86_XSTATE, &io) < 0)
		return krg_err_set(err, -errno, "pid %d: registers of thread %d", g->shown, t->tid);
	(void)ptrace(PTRACE_GET_RSEQ_CONFIGURATION, t->tid, sizeof(rseq), &rseq);
	if (syscall(SYS_get_robust_list, t->tid, &robust, &robust_len) < 0)
		return krg_err_set(err, -errno, "pid %d: robust futexes of thread %d", g->shown,
				   t->tid);
	(void)snprintf(path, sizeof(path), "/proc/%d/task/%d/comm", g->pid, t->tid);
	if (krg_read_file(path, name, sizeof(name)) < 0)
		return krg_err_set(err, -ESRCH, "thread %d is gone", t->tid);
	name[strcspn(name, "\n")] = '\0';
	regs_name_call(g, &regs);
	rec = (struct rec_ghost_thread){.tid = t->own_tid,
					.regs = {(const u8 *)&regs, sizeof(regs)},
					.xstate = {xstate, io.iov_len},
					.mask = t->mask,
					.alt_sp = (u64)(uintptr_t)a.alt.ss_sp,
					.alt_size = a.alt.ss_size,
					.alt_flags = (u32)a.alt.ss_flags,
					.clear_tid = a.clear_tid,
					.robust = (u64)(uintptr_t)robust,
					.robust_len = robust_len,
					.rseq = rseq.rseq_abi_pointer,
					.rseq_size = rseq.rseq_abi_size,
					.rseq_sig = rseq.signature,
					.name = krg_slice_str(name),
					.death_signal = a.death_signal};
	rec_ghost_thread_encode(&rec, out);
	return put_creds(g, t, a.securebits, creds, err);
}

static unsigned put_process(const struct answers *a, struct krg_buf *out)
{
	unsigned n = 0;

	for (unsigned i = 0; i < GHOST_NSIG; i++) {
		struct rec_ghost_action rec = {.sig = (i32)i + 1,
					       .handler = a->action[i].handler,
					       .flags = a->action[i].flags,
					       .restorer = a->action[i].restorer,
					       .mask = a->action[i].mask};

		if ((a->caught >> i & 1) == 0)
			continue;
		rec_ghost_action_encode(&rec, out);
		n++;
	}
	for (unsigned i = 0; i < 3; i++) {
		const struct itimerval *t = &a->itimer[i];
		struct rec_ghost_itimer rec = {
			.which = i,
			.value_us = (u64)t->it_value.tv_sec * 1000000 + (u64)t->it_value.tv_usec,
			.interval_us =
				(u64)t->it_interval.tv_sec * 1000000 + (u64)t->it_interval.tv_usec};

		/* it has run out, and starts again as its signal is taken (which is pending) */
		if (rec.value_us == 0)
			rec.value_us = rec.interval_us;
		if (rec.value_us == 0)
			continue;
		rec_ghost_itimer_encode(&rec, out);
		n++;
	}
	return n;
}

/* What it has of the kernel's that is in no record yet. */
static int obstacles(const struct ghost *g, const char *status, struct krg_err *err)
{
	char text[512];
	int r = proc_file(g, "timers", text, sizeof(text), err);

	if (r < 0)
		return r;
	if (text[0] != '\0')
		return krg_err_set(err, -EOPNOTSUPP, "pid %d has POSIX timers (timer_create)",
				   g->shown);
	if (strstr(status, "x86_Thread_features:\t") != NULL &&
	    strstr(status, "x86_Thread_features:\t\n") == NULL &&
	    strstr(status, "x86_Thread_features:\tshstk") != NULL)
		return krg_err_set(err, -EOPNOTSUPP, "pid %d has a shadow stack", g->shown);
	for (unsigned i = 0; i < g->nthreads; i++)
		if (g->thread[i].regs.cs != 0x33)
			return krg_err_set(err, -EOPNOTSUPP, "pid %d: thread %d is not x86-64 code",
					   g->shown, g->thread[i].tid);
	return 0;
}

static int put_head(struct ghost *g, const struct answers *a, u64 ignored, struct krg_buf *out,
		    struct krg_err *err)
{
	struct prctl_mm_map mm;
	char exe[GHOST_PATH_MAX], path[64], auxv[2048];
	ssize_t n, auxv_len;
	KRG_AUTO_FD int fd = -EBADF;
	u64 xcr0[1];
	u8 xstate[GHOST_XSTATE_MAX];
	struct iovec io = {xstate, sizeof(xstate)};
	struct rec_ghost_head rec;
	int r = mm_read(g, a->brk, &mm, err);

	if (r < 0)
		return r;
	(void)snprintf(path, sizeof(path), "/proc/%d/exe", g->pid);
	n = readlink(path, exe, sizeof(exe) - 1);
	if (n < 0)
		return krg_err_set(err, -errno, "read %s", path);
	exe[n] = '\0';
	(void)snprintf(path, sizeof(path), "/proc/%d/auxv", g->pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	auxv_len = fd < 0 ? -1 : read(fd, auxv, sizeof(auxv));
	if (auxv_len < 0)
		return krg_err_set(err, -errno, "read %s", path);
	if (ptrace(PTRACE_GETREGSET, g->thread[0].tid, NT_X86_XSTATE, &io) < 0 || io.iov_len < 512)
		return krg_err_set(err, -errno, "pid %d: registers", g->shown);
	/* the layout's software bytes say which components this machine saves (asm/sigcontext.h) */
	memcpy(xcr0, xstate + 464, sizeof(xcr0));
	rec = (struct rec_ghost_head){.version = GHOST_VERSION,
				      .pid = g->thread[0].own_tid,
				      .xcr0 = xcr0[0],
				      .personality = a->personality,
				      .dumpable = a->dumpable,
				      .subreaper = a->subreaper,
				      .ignored = ignored,
				      .mm = {(const u8 *)&mm, sizeof(mm)},
				      .auxv = {(const u8 *)auxv, (size_t)auxv_len},
				      .exe = krg_slice_str(exe)};
	rec_ghost_head_encode(&rec, out);
	return 0;
}

int ghost_save(struct ghost *g, struct krg_buf *out, struct krg_err *err)
{
	GHOST_AUTO_MAPS struct ghost_maps maps = {0};
	KRG_AUTO_BUF struct krg_buf threads = {0}, creds = {0};
	struct answers *a = NULL;
	KRG_AUTO_FREE void *free_a = NULL;
	KRG_AUTO_FREE char *status = krg_xrealloc(NULL, STATUS_MAX);
	unsigned count = 0;
	u64 ignored;
	int r = ghost_maps_read(g->pid, g->shown, false, &maps, err);

	if (r == 0)
		r = proc_file(g, "status", status, STATUS_MAX, err);
	if (r >= 0)
		r = obstacles(g, status, err);
	if (r >= 0)
		r = ghost_find_insn(g, &maps, err);
	if (r < 0)
		return r;
	a = free_a = krg_xalloc(sizeof(*a));
	a->caught = status_hex(status, "\nSigCgt:");
	ignored = status_hex(status, "\nSigIgn:");
	g->trap_ignored = (ignored >> (SIGTRAP - 1) & 1) != 0;
	r = ghost_scratch_begin(g, 0, err);
	if (r == 0)
		r = ask_process(g, a, err);
	for (unsigned i = 0; r == 0 && i < g->nthreads; i++, count += 2)
		r = put_thread(g, &g->thread[i], &threads, &creds, err);
	krg_buf_put(&threads, creds.data, creds.len);
	if (r == 0)
		r = put_signals(g, &threads, &count, err);
	if (r == 0)
		r = put_head(g, a, ignored, out, err);
	if (r == 0) {
		struct rec_ghost_end end;

		for (unsigned i = 0; i < maps.n; i++, count++)
			put_area(&maps.area[i], out);
		krg_buf_put(out, threads.data, threads.len);
		count += put_process(a, out);
		end.records = count;
		rec_ghost_end_encode(&end, out);
	}
	if (g->scratch.at != 0) {
		int e = ghost_scratch_end(g);

		if (r == 0 && e < 0)
			r = krg_err_set(err, e, "pid %d: take the memory for its calls away",
					g->shown);
	}
	return r;
}
