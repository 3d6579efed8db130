/* ghost_calls.c - system calls made by a stopped process.
 *
 * A traced call costs two stops (15 us and more), and a process has hundreds of things to ask for or to set:
 * so a page of code is mapped into it that makes a list of calls in one go (the `blob`).  Only mapping that
 * page, and taking it away, are single calls, through an instruction of the vdso.
 *
 * Meanwhile all signals are blocked but SIGTRAP, with which the blob says that it is through: one that is
 * blocked, or ignored, would be forced, and lose its disposition (kernel/signal.c, force_sig_info_to_task).
 */
#include "ghost_impl.h"
#include <elf.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define CALL_SIZE 64
_Static_assert(sizeof(struct ghost_call) == CALL_SIZE, "the blob's idea of a call");
#define TRAP_MASK (~(1ull << (SIGTRAP - 1)))

/* rbx: the next call; r12: how many are left.  rcx and r11 are the call instruction's. */
extern const u8 ghost_blob[], ghost_blob_end[];
asm(".pushsection .rodata\n"
    "ghost_blob:\n"
    "0:	test %r12, %r12\n"
    "	jz 2f\n"
    "	movl 0(%rbx), %eax\n" /* without GHOST_MAY_FAIL */
    "	mov 8(%rbx), %rdi\n"
    "	mov 16(%rbx), %rsi\n"
    "	mov 24(%rbx), %rdx\n"
    "	mov 32(%rbx), %r10\n"
    "	mov 40(%rbx), %r8\n"
    "	mov 48(%rbx), %r9\n"
    "	syscall\n"
    "	mov %rax, 56(%rbx)\n"
    "	cmp $-4095, %rax\n"
    "	jb 1f\n"
    "	cmpl $0, 4(%rbx)\n"
    "	je 2f\n"
    "1:	add $64, %rbx\n"
    "	dec %r12\n"
    "	jmp 0b\n"
    "2:	int3\n"
    "ghost_blob_end:\n"
    ".popsection\n");

int ghost_wait(pid_t tid, int *ret_status)
{
	pid_t r;

	do
		r = waitpid(tid, ret_status, __WALL);
	while (r < 0 && errno == EINTR);
	return r == tid && WIFSTOPPED(*ret_status) ? 0 : -ESRCH;
}

static void cloned(struct ghost *g, pid_t tid)
{
	unsigned long child = 0;

	if (ptrace(PTRACE_GETEVENTMSG, tid, 0, &child) == 0)
		g->cloned = (pid_t)child;
}

/* Until it stops for what we wait for.  Signals that cannot be blocked are kept. */
static int run_until(struct ghost *g, pid_t tid, long how, int want)
{
	for (;;) {
		int status, r;

		if (ptrace((enum __ptrace_request)how, tid, 0, 0) < 0)
			return -ESRCH;
		r = ghost_wait(tid, &status);
		if (r < 0)
			return r;
		if (status >> 16 == 0 && WSTOPSIG(status) == want)
			return 0;
		if (status >> 16 == PTRACE_EVENT_CLONE)
			cloned(g, tid);
		else if (status >> 16 == 0 && WSTOPSIG(status) == SIGSTOP)
			g->stop_seen = true;
		else if (status >> 16 == 0)
			return -EFAULT; /* a fault in what it runs for us */
	}
}

static struct user_regs_struct regs_from(const struct ghost_thread *t)
{
	struct user_regs_struct r = t->regs;

	r.orig_rax = ~0ull;
	r.eflags &= ~0x500ull; /* DF, TF */
	return r;
}

int ghost_call_one(struct ghost *g, struct ghost_thread *t, u64 nr, const u64 a[6], i64 *ret)
{
	struct user_regs_struct r = regs_from(t);
	int e;

	r.rip = g->insn;
	r.rax = nr;
	r.rdi = a[0];
	r.rsi = a[1];
	r.rdx = a[2];
	r.r10 = a[3];
	r.r8 = a[4];
	r.r9 = a[5];
	if (ptrace(PTRACE_SETREGS, t->tid, 0, &r) < 0)
		return -ESRCH;
	e = run_until(g, t->tid, PTRACE_SYSCALL, SIGTRAP | 0x80);
	if (e == 0)
		e = run_until(g, t->tid, PTRACE_SYSCALL, SIGTRAP | 0x80);
	if (e == 0 && ptrace(PTRACE_GETREGS, t->tid, 0, &r) < 0)
		e = -ESRCH;
	if (e == 0)
		*ret = (i64)r.rax;
	return e;
}

int ghost_find_insn(struct ghost *g, const struct ghost_maps *m, struct krg_err *err)
{
	static const u8 insn[] = {0x0f, 0x05};

	for (unsigned i = 0; i < m->n; i++) {
		const struct ghost_area *a = &m->area[i];
		u8 text[4 * GHOST_PAGE];
		size_t n = KRG_MIN(a->end - a->start, sizeof(text));
		const u8 *at;

		if (a->kind != GHOST_VDSO || pread(g->mem, text, n, (off_t)a->start) != (ssize_t)n)
			continue;
		at = memmem(text, n, insn, sizeof(insn));
		if (at != NULL) {
			g->insn = a->start + (u64)(at - text);
			return 0;
		}
	}
	return krg_err_set(err, -EOPNOTSUPP, "pid %d has no vdso", g->shown);
}

static int trap_disposition(struct ghost *g, void *handler)
{
	struct {
		u64 handler, flags, restorer, mask;
	} sa = {.handler = (u64)(uintptr_t)handler};
	u64 at = g->scratch.at + GHOST_PAGE;
	i64 ret = 0;
	int r;

	if (pwrite(g->mem, &sa, sizeof(sa), (off_t)at) != sizeof(sa))
		return -EFAULT;
	r = ghost_call_one(g, &g->thread[0], SYS_rt_sigaction, (u64[6]){SIGTRAP, at, 0, 8}, &ret);
	return r < 0 ? r : (int)ret;
}

/* at: a free place, or 0 for one of the kernel's choice. */
int ghost_scratch_begin(struct ghost *g, u64 at, struct krg_err *err)
{
	struct ghost_thread *t = &g->thread[0];
	u64 flags = MAP_PRIVATE | MAP_ANONYMOUS | (at != 0 ? MAP_FIXED_NOREPLACE : 0),
	    mask = TRAP_MASK;
	i64 got = 0, data = 0;
	int r = 0;

	for (unsigned i = 0; i < g->nthreads; i++)
		if (ptrace(PTRACE_SETSIGMASK, g->thread[i].tid, sizeof(mask), &mask) < 0)
			return krg_err_set(err, -ESRCH, "thread %d is gone", g->thread[i].tid);
	/* reserve; then the code's page, which nobody may write (memory deny write execute), and data */
	r = ghost_call_one(g, t, SYS_mmap,
			   (u64[6]){at, GHOST_SCRATCH, PROT_READ | PROT_WRITE, flags, ~0ull, 0},
			   &got);
	if (r == 0 && got < 0 && got > -4096)
		r = (int)got;
	if (r == 0)
		r = ghost_call_one(g, t, SYS_mmap,
				   (u64[6]){(u64)got, GHOST_PAGE, PROT_READ | PROT_EXEC,
					    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, ~0ull, 0},
				   &data);
	if (r == 0 && data != got)
		r = data < 0 ? (int)data : -ENOMEM;
	if (r < 0)
		return krg_err_set(err, r, "memory in pid %d for its calls", g->shown);
	g->scratch.at = (u64)got;
	/* /proc/PID/mem writes where the process itself may not */
	if (pwrite(g->mem, ghost_blob, (size_t)(ghost_blob_end - ghost_blob), (off_t)got) < 0)
		return krg_err_set(err, -errno, "write to pid %d", g->shown);
	if (g->trap_ignored) {
		r = trap_disposition(g, SIG_DFL);
		if (r < 0)
			return krg_err_set(err, r, "disposition of SIGTRAP of pid %d", g->shown);
	}
	return 0;
}

int ghost_scratch_end(struct ghost *g)
{
	i64 ret = 0;
	int r = 0;

	if (g->scratch.at == 0)
		return 0;
	if (g->trap_ignored)
		r = trap_disposition(g, SIG_IGN);
	if (r == 0)
		r = ghost_call_one(g, &g->thread[0], SYS_munmap,
				   (u64[6]){g->scratch.at, GHOST_SCRATCH}, &ret);
	g->scratch.at = 0;
	return r < 0 ? r : (int)ret;
}

void ghost_list_init(struct ghost_list *l, const struct ghost *g)
{
	ASSERT(g->scratch.at != 0);
	*l = (struct ghost_list){.base = g->scratch.at + GHOST_PAGE,
				 .data = krg_xalloc(GHOST_SCRATCH - GHOST_PAGE)};
}

void ghost_list_fini(struct ghost_list *l)
{
	free(l->data);
	l->data = NULL;
}

/* The last quarter of the last page is the blob's stack, which it does not use. */
#define LIST_ROOM (GHOST_SCRATCH - 2 * GHOST_PAGE)

bool ghost_list_full(const struct ghost_list *l, size_t more)
{
	return l->n + 8 > GHOST_LIST_CALLS ||
	       (l->n + 8) * CALL_SIZE + l->used + more + 64 > LIST_ROOM;
}

u64 ghost_list_data(struct ghost_list *l, const void *p, size_t size, void **ret_here)
{
	u32 room = (u32)((size + 63) & ~63ull);
	u8 *here;

	ASSERT(l->n * CALL_SIZE + l->used + room <= LIST_ROOM);
	l->used += room;
	here = l->data + LIST_ROOM - l->used;
	if (p != NULL)
		memcpy(here, p, size);
	else
		memset(here, 0, size);
	if (ret_here != NULL)
		*ret_here = here;
	return l->base + LIST_ROOM - l->used;
}

struct ghost_call *ghost_list_add(struct ghost_list *l, u64 nr, u64 a0, u64 a1, u64 a2, u64 a3,
				  u64 a4, u64 a5)
{
	struct ghost_call *c = (struct ghost_call *)(void *)l->data + l->n;

	ASSERT((l->n + 1) * CALL_SIZE + l->used <= LIST_ROOM);
	l->n++;
	*c = (struct ghost_call){.nr = nr, .a = {a0, a1, a2, a3, a4, a5}};
	return c;
}

static int list_move(struct ghost *g, const struct ghost_list *l, bool in)
{
	struct {
		size_t at, n;
	} part[2] = {{0, l->n * CALL_SIZE}, {LIST_ROOM - l->used, l->used}};

	for (unsigned i = 0; i < KRG_NELEM(part); i++) {
		off_t there = (off_t)(l->base + part[i].at);
		ssize_t n = in ? pwrite(g->mem, l->data + part[i].at, part[i].n, there)
			       : pread(g->mem, l->data + part[i].at, part[i].n, there);

		if (n != (ssize_t)part[i].n)
			return -EFAULT;
	}
	return 0;
}

int ghost_list_run(struct ghost *g, struct ghost_thread *t, struct ghost_list *l,
		   const struct ghost_call **ret_failed)
{
	struct user_regs_struct regs = regs_from(t);
	const struct ghost_call *c;
	int r;

	*ret_failed = NULL;
	if (l->n == 0)
		return 0;
	r = list_move(g, l, true);
	if (r < 0)
		return r;
	regs.rip = g->scratch.at;
	regs.rbx = l->base;
	regs.r12 = l->n;
	regs.rsp = g->scratch.at + GHOST_SCRATCH - 64;
	if (ptrace(PTRACE_SETREGS, t->tid, 0, &regs) < 0)
		return -ESRCH;
	r = run_until(g, t->tid, PTRACE_CONT, SIGTRAP);
	if (r == 0)
		r = list_move(g, l, false);
	if (r == 0 && ptrace(PTRACE_GETREGS, t->tid, 0, &regs) < 0)
		r = -ESRCH;
	if (r < 0 || regs.r12 == 0)
		return r;
	c = (const struct ghost_call *)(const void *)l->data +
	    (l->n - KRG_MIN(regs.r12, (u64)l->n));
	*ret_failed = c;
	return c->ret < 0 && c->ret > -4096 ? (int)c->ret : -EPROTO;
}
