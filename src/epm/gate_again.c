/* gate_again.c - a call that a signal interrupted before the gate had received it is made again.
 *
 * Until then the kernel waits for the gate interruptibly, so that a handler without SA_RESTART makes the call fail with EINTR
 * (seccomp_unotify(2)), which most of those calls never do by themselves.  Here such a call is made to end as the kernel ends those that must not
 * be interrupted (ERESTARTNOINTR): the frame that the handler returns to gets the call's number and address instead of -EINTR, so that the call is
 * made once more after the handler, and never if the handler jumps away.
 *
 * A BPF program sees each signal that is delivered in this world's pid namespace, before its frame is made, and tells of those that interrupt such a
 * call.  A thread of krgd for each processor hears it: it is bound to that, so that it comes before the handler's first instruction
 * however short that is, stops the task there (PTRACE_INTERRUPT), and changes the frame.  (BPF itself may not write, where the kernel is locked
 * down: kernel_lockdown(7).)  Without krgd, without BPF, or if the task is traced already, the call fails.
 *
 * Sources: bpf(2), bpf-helpers(7), ptrace(2); the frame: struct rt_sigframe (arch/x86/include/asm/sigframe.h of the kernel).
 */
#include "epm_impl.h"
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/perf_event.h>
#include <limits.h>
#include <mntent.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>

#define SIGNAL_DELIVER "signal_deliver" /* tracepoint: (int sig, siginfo *, struct k_sigaction *) */
#define KERNEL_RESTART 512		/* ERESTARTSYS (include/linux/errno.h of the kernel) */
#define INIT_PID_NS    0xEFFFFFFCu	/* PROC_PID_INIT_INO of the kernel */
#define HANDLER_FIRST  2		/* SIG_DFL 0, SIG_IGN 1 */
#define INSN_MAX       512
#define RING_PAGES     1
#define STACK_BYTES    (64u << 10)

/* In the kernel's struct pt_regs, whose names differ from ptrace's. */
#define REG(name) ((int16_t)offsetof(struct user_regs_struct, name))
/* In a frame, the registers are after the handler's return address and flags, link and stack of struct ucontext. */
#define FRAME_REGS  48
#define SYSCALL_LEN 2 /* of the instruction */

enum when { ALWAYS, IS, HAS };
/* Calls that the gate is notified of, or may be, and that do not wait for what signals interrupt. */
static const struct {
	u32 nr;
	enum when when;
	int16_t arg; /* its register */
	u32 value;
} calls[] = {
	{SYS_execve, ALWAYS, 0, 0},
	{SYS_execveat, ALWAYS, 0, 0},
	{SYS_fstat, ALWAYS, 0, 0},
	{SYS_newfstatat, ALWAYS, 0, 0},
	{SYS_statx, ALWAYS, 0, 0},
	{SYS_lseek, ALWAYS, 0, 0},
	{SYS_fcntl, IS, REG(rsi), F_GETFL},
	{SYS_fcntl, IS, REG(rsi), F_SETFL},
	{SYS_fcntl, IS, REG(rsi), F_GETPIPE_SZ},
	{SYS_fcntl, IS, REG(rsi), F_SETPIPE_SZ},
	{SYS_ioctl, IS, REG(rsi), TCGETS},
	{SYS_ioctl, IS, REG(rsi), TIOCGPGRP},
	{SYS_ioctl, IS, REG(rsi), TIOCGSID},
	{SYS_ioctl, IS, REG(rsi), TIOCGWINSZ},
	{SYS_ioctl, IS, REG(rsi), TIOCSWINSZ},
	{SYS_ioctl, IS, REG(rsi), FIONREAD},
	{SYS_ioctl, IS, REG(rsi), FIONBIO},
	{SYS_ioctl, IS, REG(rsi), FIOASYNC},
	{SYS_ioctl, IS, REG(rsi), FIOCLEX},
	{SYS_ioctl, IS, REG(rsi), FIONCLEX},
	{SYS_wait4, HAS, REG(rdx), WNOHANG},
	{SYS_waitid, HAS, REG(r10), WNOHANG},
	{SYS_recvfrom, HAS, REG(r10), MSG_DONTWAIT},
	{SYS_sendto, HAS, REG(r10), MSG_DONTWAIT},
	{SYS_recvmsg, HAS, REG(rdx), MSG_DONTWAIT},
	{SYS_sendmsg, HAS, REG(rdx), MSG_DONTWAIT},
	{SYS_getsockname, ALWAYS, 0, 0},
	{SYS_getpeername, ALWAYS, 0, 0},
	{SYS_getsockopt, ALWAYS, 0, 0},
	{SYS_setsockopt, ALWAYS, 0, 0},
	{SYS_shutdown, ALWAYS, 0, 0},
	{SYS_getrusage, ALWAYS, 0, 0},
	{SYS_times, ALWAYS, 0, 0},
	{SYS_getppid, ALWAYS, 0, 0},
	{SYS_setpgid, ALWAYS, 0, 0},
	{SYS_setsid, ALWAYS, 0, 0},
	{SYS_prctl, ALWAYS, 0, 0},
	{SYS_kill, ALWAYS, 0, 0},
	{SYS_tkill, ALWAYS, 0, 0},
	{SYS_tgkill, ALWAYS, 0, 0},
	{SYS_rt_sigqueueinfo, ALWAYS, 0, 0},
	{SYS_rt_tgsigqueueinfo, ALWAYS, 0, 0},
};

/* A small assembler: jumps forward to ends whose places are known later. */
enum end { TO_TELL = 1, TO_LEAVE };
struct prog {
	struct bpf_insn insn[INSN_MAX];
	u8 to[INSN_MAX]; /* enum end */
	unsigned n;
};

/* BPF_IMM, BPF_K, BPF_ADD are 0 and left out where there are two of them. */
static void emit(struct prog *p, u8 code, u8 dst, u8 src, int16_t off, i32 imm)
{
	ASSERT(p->n < INSN_MAX);
	p->insn[p->n++] = (struct bpf_insn){
		.code = code, .dst_reg = dst & 0xf, .src_reg = src & 0xf, .off = off, .imm = imm};
}

static void mov(struct prog *p, u8 dst, u8 src)
{
	emit(p, BPF_ALU64 | BPF_MOV | BPF_X, dst, src, 0, 0);
}

static void set(struct prog *p, u8 dst, i32 value)
{
	emit(p, BPF_ALU64 | BPF_MOV | BPF_K, dst, 0, 0, value);
}

static void set64(struct prog *p, u8 dst, u64 value)
{
	emit(p, BPF_LD | BPF_DW, dst, 0, 0, (i32)(u32)value);
	emit(p, 0, 0, 0, 0, (i32)(value >> 32));
}

static void set_map(struct prog *p, u8 dst, int map)
{
	emit(p, BPF_LD | BPF_DW, dst, BPF_PSEUDO_MAP_FD, 0, map);
	emit(p, 0, 0, 0, 0, 0);
}

static void get(struct prog *p, u8 dst, u8 src, int16_t off)
{
	emit(p, BPF_LDX | BPF_MEM | BPF_DW, dst, src, off, 0);
}

static void put(struct prog *p, u8 dst, int16_t off, u8 src)
{
	emit(p, BPF_STX | BPF_MEM | BPF_DW, dst, src, off, 0);
}

static void address(struct prog *p, u8 dst, int16_t stack)
{
	mov(p, dst, BPF_REG_10);
	emit(p, BPF_ALU64 | BPF_ADD, dst, 0, 0, stack);
}

static void call(struct prog *p, enum bpf_func_id f)
{
	emit(p, BPF_JMP | BPF_CALL, 0, 0, 0, (i32)f);
}

/* if (reg OP value) goto there */
static void when(struct prog *p, u8 op, u8 reg, i32 value, enum end there)
{
	p->to[p->n] = (u8)there;
	emit(p, BPF_JMP | op | BPF_K, reg, 0, 0, value);
}

static void go(struct prog *p, enum end there)
{
	p->to[p->n] = (u8)there;
	emit(p, BPF_JMP | BPF_JA, 0, 0, 0, 0);
}

static void end_is_here(struct prog *p, enum end here)
{
	for (unsigned i = 0; i < p->n; i++)
		if (p->to[i] == here)
			p->insn[i].off = (int16_t)(p->n - i - 1);
}

static void leave(struct prog *p)
{
	set(p, BPF_REG_0, 0);
	emit(p, BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
}

/* r8 has its number, r7 the registers. */
static void is_one_of_calls(struct prog *p)
{
	for (unsigned i = 0; i < KRG_NELEM(calls); i++) {
		unsigned skip = p->n;

		emit(p, BPF_JMP | BPF_JNE | BPF_K, BPF_REG_8, 0, 0, (i32)calls[i].nr);
		if (calls[i].when == ALWAYS) {
			go(p, TO_TELL);
		} else {
			emit(p, BPF_LDX | BPF_MEM | BPF_W, BPF_REG_1, BPF_REG_7, calls[i].arg, 0);
			when(p, calls[i].when == IS ? BPF_JEQ : BPF_JSET, BPF_REG_1,
			     (i32)calls[i].value, TO_TELL);
		}
		p->insn[skip].off = (int16_t)(p->n - skip - 1);
	}
	go(p, TO_LEAVE);
}

/* The first signal that is delivered after a call decides how it ends; further ones interrupt its handler. */
static void deliver(struct prog *p, int rings, const struct stat *pid_ns)
{
	enum { PIDS = -8, ACTION = PIDS - 16, TOLD = ACTION - (int)sizeof(struct told) };

	mov(p, BPF_REG_6, BPF_REG_1);
	set64(p, BPF_REG_1, (u64)major(pid_ns->st_dev) << 20 | minor(pid_ns->st_dev));
	set64(p, BPF_REG_2, pid_ns->st_ino);
	address(p, BPF_REG_3, PIDS);
	set(p, BPF_REG_4, sizeof(struct bpf_pidns_info));
	call(p, BPF_FUNC_get_ns_current_pid_tgid);
	when(p, BPF_JNE, BPF_REG_0, 0, TO_LEAVE);
	call(p, BPF_FUNC_get_current_task_btf);
	mov(p, BPF_REG_1, BPF_REG_0);
	call(p, BPF_FUNC_task_pt_regs);
	mov(p, BPF_REG_7, BPF_REG_0);
	get(p, BPF_REG_8, BPF_REG_7, REG(orig_rax));
	when(p, BPF_JSLT, BPF_REG_8, 0, TO_LEAVE);
	get(p, BPF_REG_1, BPF_REG_7, REG(rax));
	when(p, BPF_JNE, BPF_REG_1, -KERNEL_RESTART, TO_LEAVE);
	/* struct k_sigaction begins with the handler and its flags */
	address(p, BPF_REG_1, ACTION);
	set(p, BPF_REG_2, 16);
	get(p, BPF_REG_3, BPF_REG_6, 16);
	call(p, BPF_FUNC_probe_read_kernel);
	when(p, BPF_JNE, BPF_REG_0, 0, TO_LEAVE);
	get(p, BPF_REG_1, BPF_REG_10, ACTION);
	when(p, BPF_JLT, BPF_REG_1, HANDLER_FIRST, TO_LEAVE);
	get(p, BPF_REG_1, BPF_REG_10, ACTION + 8);
	when(p, BPF_JSET, BPF_REG_1, SA_RESTART, TO_LEAVE);
	is_one_of_calls(p);

	end_is_here(p, TO_TELL);
	call(p, BPF_FUNC_get_current_pid_tgid);
	put(p, BPF_REG_10, TOLD + (int16_t)offsetof(struct told, pid_tgid), BPF_REG_0);
	put(p, BPF_REG_10, TOLD + (int16_t)offsetof(struct told, nr), BPF_REG_8);
	get(p, BPF_REG_1, BPF_REG_7, REG(rip));
	put(p, BPF_REG_10, TOLD + (int16_t)offsetof(struct told, ip), BPF_REG_1);
	get(p, BPF_REG_1, BPF_REG_7, REG(rsp));
	put(p, BPF_REG_10, TOLD + (int16_t)offsetof(struct told, sp), BPF_REG_1);
	mov(p, BPF_REG_1, BPF_REG_6);
	set_map(p, BPF_REG_2, rings);
	set64(p, BPF_REG_3, BPF_F_CURRENT_CPU);
	address(p, BPF_REG_4, TOLD);
	set(p, BPF_REG_5, sizeof(struct told));
	call(p, BPF_FUNC_perf_event_output);
	end_is_here(p, TO_LEAVE);
	leave(p);
}

/* ---- the threads that change frames ---- */

static _Thread_local struct again_cpu *again_mine;

/* It stands: where its handler begins, the frame on its stack, or, too late for that, where the handler has returned to. */
static void stopped(const struct told *t, pid_t tid)
{
	struct user_regs_struct regs;
	struct sigcontext saved;
	struct iovec here, there;

	if (ptrace(PTRACE_GETREGS, tid, 0, &regs) < 0)
		return;
	if (regs.rax == (u64)-EINTR && regs.rip == t->ip && regs.rsp == t->sp) {
		regs.rax = t->nr;
		regs.rip -= SYSCALL_LEN;
		regs.orig_rax = (u64)-1; /* no call to restart */
		(void)ptrace(PTRACE_SETREGS, tid, 0, &regs);
		return;
	}
	/* NOLINTNEXTLINE(performance-no-int-to-ptr): its address, not ours */
	there = (struct iovec){(void *)(regs.rsp + FRAME_REGS),
			       offsetof(struct sigcontext, eflags)};
	here = (struct iovec){&saved, there.iov_len};
	if (process_vm_readv(tid, &here, 1, &there, 1, 0) != (ssize_t)there.iov_len ||
	    saved.rax != (u64)-EINTR || saved.rip != t->ip || saved.rsp != t->sp)
		return; /* it was not stopped in time, or has changed its frame */
	saved.rax = t->nr;
	saved.rip -= SYSCALL_LEN;
	(void)process_vm_writev(tid, &here, 1, &there, 1, 0);
}

/* Where it is said of a task; else behind all. */
static unsigned told_find(const struct again_cpu *c, pid_t tid)
{
	unsigned i = 0;

	while (i < c->ntold && (pid_t)(u32)c->told[i].pid_tgid != tid)
		i++;
	return i;
}

/* It stops, or has ended. */
static void goes_on(struct again_cpu *c, pid_t tid, int status)
{
	unsigned i = told_find(c, tid);
	int sig = 0;

	if (i < c->ntold) {
		if (WIFSTOPPED(status))
			stopped(&c->told[i], tid);
		c->told[i] = c->told[--c->ntold];
	}
	if (!WIFSTOPPED(status))
		return;
	if (status >> 16 == 0)
		sig = WSTOPSIG(status); /* another was about to be delivered, and is */
	if (ptrace(PTRACE_DETACH, tid, 0, (long)sig) < 0)
		ghost_detach(tid);
}

static void hear(struct again_cpu *c, const struct told *t)
{
	pid_t tid = (pid_t)(u32)t->pid_tgid;
	unsigned i = told_find(c, tid);

	if (i == AGAIN_TOLD_MAX || ptrace(PTRACE_SEIZE, tid, 0, 0L) < 0)
		return;
	(void)ptrace(PTRACE_INTERRUPT, tid, 0, 0);
	/* what was said of that number was of a first thread that is gone, unheard: another executed */
	c->told[i] = *t;
	c->ntold = KRG_MAX(c->ntold, i + 1);
}

/* Of a ring, whose size is a power of two. */
static void ring_copy(const u8 *ring, u64 size, u64 at, void *to, size_t n)
{
	for (size_t i = 0; i < n; i++)
		((u8 *)to)[i] = ring[(at + i) & (size - 1)];
}

/* What the ring has (perf_event_open(2)); not by libbpf, which may allocate. */
static void ring_read(struct again_cpu *c)
{
	struct perf_event_mmap_page *head = NULL;
	size_t len = 0;
	u64 at, end, size;
	const u8 *ring;

	if (perf_buffer__buffer(c->again->rings, (int)c->index, (void **)&head, &len) < 0)
		return;
	ring = (const u8 *)head + head->data_offset;
	size = head->data_size;
	end = __atomic_load_n(&head->data_head, __ATOMIC_ACQUIRE);
	for (at = head->data_tail; at < end;) {
		struct perf_event_header event;
		struct told t;

		ring_copy(ring, size, at, &event, sizeof(event));
		if (event.size < sizeof(event))
			break;
		/* PERF_SAMPLE_RAW: a length of four bytes, and what was put out */
		if (event.type == PERF_RECORD_SAMPLE &&
		    event.size >= sizeof(event) + 4 + sizeof(t)) {
			ring_copy(ring, size, at + sizeof(event) + 4, &t, sizeof(t));
			hear(c, &t);
		}
		at += event.size;
	}
	__atomic_store_n(&head->data_tail, at, __ATOMIC_RELEASE);
}

/* The thread itself only waits. */
static void on_sigio(int sig)
{
	int e = errno;

	(void)sig;
	if (again_mine != NULL)
		ring_read(again_mine);
	errno = e;
}

/* libbpf's reader, which is not used. */
static enum bpf_perf_event_ret unread(void *ctx, int cpu, struct perf_event_header *event)
{
	(void)ctx;
	(void)cpu;
	(void)event;
	return LIBBPF_PERF_EVENT_CONT;
}

/* Control groups of version 1 have no time for real-time threads unless somebody gives it to them; the root has. */
static void to_root_group(void)
{
	char path[PATH_MAX], tid[16], line[2 * PATH_MAX];
	FILE *mounts = setmntent("/proc/self/mounts", "re");
	struct mntent m;

	(void)snprintf(tid, sizeof(tid), "%d", gettid());
	while (mounts != NULL && getmntent_r(mounts, &m, line, sizeof(line)) != NULL) {
		KRG_AUTO_FD int fd = -EBADF;

		if (strcmp(m.mnt_type, "cgroup") != 0 || hasmntopt(&m, "cpu") == NULL)
			continue;
		(void)snprintf(path, sizeof(path), "%s/tasks", m.mnt_dir);
		fd = open(path, O_WRONLY | O_CLOEXEC);
		if (fd >= 0 && write(fd, tid, strlen(tid)) > 0)
			break;
	}
	if (mounts != NULL)
		(void)endmntent(mounts);
}

/* Before whoever runs on the processor. */
static void come_first(const struct again_cpu *c)
{
	struct sched_param prio = {.sched_priority = sched_get_priority_min(SCHED_FIFO)};

	if (sched_setscheduler(0, SCHED_FIFO, &prio) == 0)
		return;
	to_root_group();
	if (sched_setscheduler(0, SCHED_FIFO, &prio) < 0 && c->index == 0)
		LOG_I("epm",
		      "no real-time priority (%s): a signal that comes just as a call goes to the "
		      "gate can make it fail with EINTR",
		      strerror(errno));
}

static void bind_to(int cpu)
{
	size_t size = CPU_ALLOC_SIZE(cpu + 1);
	cpu_set_t *set = CPU_ALLOC(cpu + 1);

	if (set == NULL)
		return;
	CPU_ZERO_S(size, set);
	CPU_SET_S(cpu, size, set);
	(void)sched_setaffinity(0, size, set);
	CPU_FREE(set);
}

static void tell_by_signal(int fd)
{
	struct f_owner_ex me = {.type = F_OWNER_TID, .pid = gettid()};

	(void)fcntl(fd, F_SETOWN_EX, &me);
	(void)fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_ASYNC);
}

/* Several tasks may be on their way to a stop, as others run before them: nobody is waited for alone. */
static void *again_main(void *ctx)
{
	struct again_cpu *c = ctx;
	sigset_t io, open;

	again_mine = c;
	bind_to(c->cpu);
	come_first(c);
	(void)sigemptyset(&io);
	(void)sigaddset(&io, SIGIO);
	(void)pthread_sigmask(SIG_BLOCK, &io, &open);
	(void)sigdelset(&open, SIGIO);
	tell_by_signal(perf_buffer__buffer_fd(c->again->rings, c->index));
	while (!atomic_load(&c->again->ends)) {
		int status;
		pid_t tid;

		if (c->ntold == 0) {
			(void)sigsuspend(&open);
			continue;
		}
		(void)pthread_sigmask(SIG_UNBLOCK, &io, NULL);
		tid = waitpid(-1, &status, __WALL | __WNOTHREAD);
		(void)pthread_sigmask(SIG_BLOCK, &io, NULL);
		if (tid < 0) /* again, now that nobody is added */
			tid = waitpid(-1, &status, __WALL | __WNOTHREAD | WNOHANG);
		if (tid > 0)
			goes_on(c, tid, status);
		else if (tid < 0 && errno == ECHILD)
			c->ntold =
				0; /* a first thread's number went to another that executed: nobody hears of its end */
	}
	return NULL;
}

/* ---- into the kernel ---- */

static int attach(struct gate_again *g, const struct stat *pid_ns, struct krg_err *err)
{
	struct prog p = {0};
	KRG_AUTO_FD int prog = -EBADF;

	deliver(&p, g->map, pid_ns);
	/* some of the helpers are for programs under the GPL: this is one */
	prog = bpf_prog_load(BPF_PROG_TYPE_RAW_TRACEPOINT, "krg_deliver", "GPL", p.insn, p.n, NULL);
	if (prog < 0)
		return krg_err_set(err, prog, "load the BPF program");
	g->link = bpf_raw_tracepoint_open(SIGNAL_DELIVER, prog);
	return g->link < 0 ? krg_err_set(err, g->link, "BPF at " SIGNAL_DELIVER) : 0;
}

static int threads_start(struct gate_again *g, struct krg_err *err)
{
	pthread_attr_t attr;
	int r = 0;

	(void)pthread_attr_init(&attr);
	(void)pthread_attr_setstacksize(&attr, STACK_BYTES);
	while (r == 0 && g->running < g->ncpu) {
		struct again_cpu *c = &g->cpu[g->running];

		r = pthread_create(&c->thread, &attr, again_main, c);
		g->running += r == 0;
	}
	(void)pthread_attr_destroy(&attr);
	return r == 0 ? 0 : krg_err_set(err, -r, "a thread for each processor");
}

static bool cpu_is_online(int cpu)
{
	char path[64], c = '1';
	KRG_AUTO_FD int fd = -EBADF;

	(void)snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu%d/online", cpu);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	/* the first processor may have no such file */
	return (fd >= 0 ? read(fd, &c, 1) == 1 : cpu == 0) && c == '1';
}

/* One for each processor that is online now. */
static int rings_make(struct gate_again *g, struct krg_err *err)
{
	struct perf_event_attr attr = {.type = PERF_TYPE_SOFTWARE,
				       .size = sizeof(attr),
				       .config = PERF_COUNT_SW_BPF_OUTPUT,
				       .sample_type = PERF_SAMPLE_RAW,
				       .sample_period = 1,
				       .wakeup_events = 1};
	int possible = libbpf_num_possible_cpus();
	KRG_AUTO_FREE int *cpus = krg_xalloc((size_t)KRG_MAX(possible, 1) * sizeof(*cpus));
	LIBBPF_OPTS(perf_buffer_raw_opts, opts, .cpus = cpus, .map_keys = cpus);

	for (int cpu = 0; cpu < possible; cpu++)
		if (cpu_is_online(cpu))
			cpus[opts.cpu_cnt++] = cpu;
	g->map = bpf_map_create(BPF_MAP_TYPE_PERF_EVENT_ARRAY, "krg_again", sizeof(int),
				sizeof(int), (u32)possible, NULL);
	if (g->map < 0)
		return krg_err_set(err, g->map, "make a BPF map");
	g->rings = perf_buffer__new_raw(g->map, RING_PAGES, &attr, unread, NULL, &opts);
	if (g->rings == NULL)
		return krg_err_set(err, -errno, "a ring for each processor");
	g->cpu = krg_xalloc((size_t)opts.cpu_cnt * sizeof(*g->cpu));
	for (int i = 0; i < opts.cpu_cnt; i++)
		g->cpu[i] = (struct again_cpu){.again = g, .cpu = cpus[i], .index = (unsigned)i};
	g->ncpu = (unsigned)opts.cpu_cnt;
	return 0;
}

static int start(struct epm *e, struct gate_again *g, struct krg_err *err)
{
	struct stat own, worlds;
	int r;

	if (fstatat(e->world_proc, "1/ns/pid", &worlds, 0) < 0 ||
	    stat("/proc/self/ns/pid", &own) < 0)
		return krg_err_set(err, -errno, "pid namespaces");
	if (own.st_ino != INIT_PID_NS)
		return krg_err_set(err, -EOPNOTSUPP, "krgd is in a pid namespace of its own");
	if (sigaction(SIGIO, &(struct sigaction){.sa_handler = on_sigio}, NULL) < 0)
		return krg_err_set(err, -errno, "handle SIGIO");
	r = rings_make(g, err);
	if (r == 0)
		r = threads_start(g, err);
	return r == 0 ? attach(g, &worlds, err) : r;
}

static int quiet(enum libbpf_print_level level, const char *format, va_list args)
{
	(void)level;
	(void)format;
	(void)args;
	return 0;
}

void gate_again_start(struct epm *e)
{
	struct krg_err err = {0};

	(void)libbpf_set_print(quiet);
	if (start(e, &e->again, &err) == 0)
		return;
	gate_again_stop(e);
	LOG_I("epm",
	      "a signal that comes just as a call goes to the gate can make it fail with EINTR: %s",
	      err.text);
}

bool epm_makes_again(const struct epm *e)
{
	return e->again.link >= 0;
}

static void fd_close(int *fd)
{
	if (*fd >= 0)
		(void)close(*fd);
	*fd = -EBADF;
}

void gate_again_stop(struct epm *e)
{
	struct gate_again *g = &e->again;

	fd_close(&g->link);
	atomic_store(&g->ends, true);
	while (g->running > 0) {
		pthread_t t = g->cpu[--g->running].thread;

		(void)pthread_kill(t, SIGIO);
		(void)pthread_join(t, NULL);
	}
	perf_buffer__free(TAKE_PTR(g->rings));
	free(TAKE_PTR(g->cpu));
	fd_close(&g->map);
}
