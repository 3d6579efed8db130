#include "gate_filter.h"
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#ifndef SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
#define SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV (1UL << 5)
#endif

#define PROG_MAX 192

/* A small assembler: jumps to the two ends are patched when their places are known. */
struct prog {
	struct sock_filter insn[PROG_MAX];
	unsigned n;
};

enum { TO_ALLOW = 254, TO_NOTIFY = 255 };

static void emit(struct prog *p, u16 code, u32 k, u8 jt, u8 jf)
{
	ASSERT(p->n < PROG_MAX);
	p->insn[p->n++] = (struct sock_filter){code, jt, jf, k};
}

static void load(struct prog *p, u32 offset)
{
	emit(p, BPF_LD | BPF_W | BPF_ABS, offset, 0, 0);
}

#define NR_OFFSET   ((u32)offsetof(struct seccomp_data, nr))
#define ARG_LOW(i)  ((u32)(offsetof(struct seccomp_data, args) + 8 * (i)))
#define ARG_HIGH(i) (ARG_LOW(i) + 4)

/* if (A == k) goto there */
static void when_eq(struct prog *p, u32 k, u8 there)
{
	emit(p, BPF_JMP | BPF_JEQ | BPF_K, k, there, 0);
}

/* The pid in argument `arg` is not an ordinary pid of this node: zero, negative (groups,
 * everybody), or another node's. */
static void notify_foreign_pid(struct prog *p, u32 arg, u32 low, u32 high)
{
	load(p, ARG_LOW(arg));
	when_eq(p, 0, TO_NOTIFY);
	/* negative as an int: unsigned it is past every pid */
	emit(p, BPF_JMP | BPF_JGE | BPF_K, high, TO_NOTIFY, 0);
	emit(p, BPF_JMP | BPF_JGE | BPF_K, low, TO_ALLOW, 0);
	/* below low: node-local (krginit …) under 32768, else another node's */
	emit(p, BPF_JMP | BPF_JGE | BPF_K, 32768, TO_NOTIFY, TO_ALLOW);
}

/* thread: the thread's number follows the process's, and may be another node's */
static void signal_to_pid(struct prog *p, u32 nr, bool thread, u32 sig_arg, u32 low, u32 high)
{
	unsigned skip = p->n;

	emit(p, BPF_JMP | BPF_JEQ | BPF_K, nr, 0, 0); /* jf: over the block, below */
	/* SIGSTOP does not reach a deputy's code: krgd must see it */
	load(p, ARG_LOW(sig_arg));
	when_eq(p, SIGSTOP, TO_NOTIFY);
	if (thread) {
		load(p, ARG_LOW(1));
		emit(p, BPF_JMP | BPF_JGE | BPF_K, high, TO_NOTIFY, 0);
		emit(p, BPF_JMP | BPF_JGE | BPF_K, low, 1, 0);
		emit(p, BPF_JMP | BPF_JGE | BPF_K, 32768, TO_NOTIFY, 0);
	}
	notify_foreign_pid(p, 0, low, high);
	p->insn[skip].jf = (u8)(p->n - skip - 1);
}

static void always(struct prog *p, u32 nr)
{
	when_eq(p, nr, TO_NOTIFY);
}

/* execve, unless the magic is in an argument that it does not have */
static void exec_call(struct prog *p, u32 nr, u32 spare_arg)
{
	unsigned skip = p->n;

	emit(p, BPF_JMP | BPF_JEQ | BPF_K, nr, 0, 0);
	load(p, ARG_LOW(spare_arg));
	emit(p, BPF_JMP | BPF_JEQ | BPF_K, (u32)EXEC_MAGIC, 0, TO_NOTIFY);
	load(p, ARG_HIGH(spare_arg));
	emit(p, BPF_JMP | BPF_JEQ | BPF_K, (u32)(EXEC_MAGIC >> 32), TO_ALLOW, TO_NOTIFY);
	p->insn[skip].jf = (u8)(p->n - skip - 1);
}

/* A call on a standard descriptor: a stand-in there must look, and have its offset, as what it stands for. */
static void standard_call(struct prog *p, u32 nr)
{
	unsigned skip = p->n;

	emit(p, BPF_JMP | BPF_JEQ | BPF_K, nr, 0, 0);
	load(p, ARG_LOW(0));
	emit(p, BPF_JMP | BPF_JGT | BPF_K, 2, TO_ALLOW, TO_NOTIFY);
	p->insn[skip].jf = (u8)(p->n - skip - 1);
}

/* The kin of fstat: with an empty path. */
static void standard_stat(struct prog *p, u32 nr, u32 flags_arg)
{
	unsigned skip = p->n;

	emit(p, BPF_JMP | BPF_JEQ | BPF_K, nr, 0, 0);
	load(p, ARG_LOW(0));
	emit(p, BPF_JMP | BPF_JGT | BPF_K, 2, TO_ALLOW, 0);
	load(p, ARG_LOW(flags_arg));
	emit(p, BPF_JMP | BPF_JSET | BPF_K, AT_EMPTY_PATH, TO_NOTIFY, TO_ALLOW);
	p->insn[skip].jf = (u8)(p->n - skip - 1);
}

/* /dev/tty may be the path.  Most files are opened only to be read, and with O_CLOEXEC (libraries) or
 * O_NOCTTY (the compiler): no terminal is looked for like that. */
static void tty_open(struct prog *p, u32 nr, u32 flags_arg)
{
	unsigned skip = p->n;

	emit(p, BPF_JMP | BPF_JEQ | BPF_K, nr, 0, 0);
	load(p, ARG_LOW(flags_arg));
	emit(p, BPF_JMP | BPF_JSET | BPF_K, O_ACCMODE, TO_NOTIFY, 0);
	emit(p, BPF_JMP | BPF_JSET | BPF_K, O_CLOEXEC | O_NOCTTY | O_DIRECTORY | O_PATH, TO_ALLOW,
	     TO_NOTIFY);
	p->insn[skip].jf = (u8)(p->n - skip - 1);
}

/* What belongs to the open file description, and a stand-in's kernel does not know. */
static void shared_fcntl(struct prog *p)
{
	unsigned skip = p->n;

	emit(p, BPF_JMP | BPF_JEQ | BPF_K, SYS_fcntl, 0, 0);
	load(p, ARG_LOW(1));
	when_eq(p, F_GETFL, TO_NOTIFY);
	when_eq(p, F_SETFL, TO_NOTIFY);
	when_eq(p, F_GETPIPE_SZ, TO_NOTIFY);
	emit(p, BPF_JMP | BPF_JEQ | BPF_K, F_SETPIPE_SZ, TO_NOTIFY, TO_ALLOW);
	p->insn[skip].jf = (u8)(p->n - skip - 1);
}

/* With a place for usage: only who asks for that pays. */
static void usage_call(struct prog *p, u32 nr, u32 arg)
{
	unsigned skip = p->n;

	emit(p, BPF_JMP | BPF_JEQ | BPF_K, nr, 0, 0);
	load(p, ARG_LOW(arg));
	emit(p, BPF_JMP | BPF_JEQ | BPF_K, 0, 0, TO_NOTIFY);
	load(p, ARG_HIGH(arg));
	emit(p, BPF_JMP | BPF_JEQ | BPF_K, 0, TO_ALLOW, TO_NOTIFY);
	p->insn[skip].jf = (u8)(p->n - skip - 1);
}

/* Of its children. */
static void getrusage_call(struct prog *p)
{
	unsigned skip = p->n;

	emit(p, BPF_JMP | BPF_JEQ | BPF_K, SYS_getrusage, 0, 0);
	load(p, ARG_LOW(0));
	emit(p, BPF_JMP | BPF_JEQ | BPF_K, (u32)RUSAGE_CHILDREN, TO_NOTIFY, TO_ALLOW);
	p->insn[skip].jf = (u8)(p->n - skip - 1);
}

static void tty_ioctl(struct prog *p)
{
	unsigned skip = p->n;

	emit(p, BPF_JMP | BPF_JEQ | BPF_K, SYS_ioctl, 0, 0);
	load(p, ARG_LOW(1));
	/* the type in its second byte; the newer ones have a size and a direction above it */
	emit(p, BPF_ALU | BPF_AND | BPF_K, 0x0000ff00u, 0, 0);
	emit(p, BPF_JMP | BPF_JEQ | BPF_K, 0x5400, TO_NOTIFY, TO_ALLOW);
	p->insn[skip].jf = (u8)(p->n - skip - 1);
}

/* What is to be known when the process moves. */
static void prctl_call(struct prog *p)
{
	unsigned skip = p->n;

	emit(p, BPF_JMP | BPF_JEQ | BPF_K, SYS_prctl, 0, 0);
	load(p, ARG_LOW(2));
	when_eq(p, (u32)EXEC_MAGIC, TO_ALLOW); /* our own */
	load(p, ARG_LOW(0));
	when_eq(p, PR_SET_PDEATHSIG, TO_NOTIFY);
	emit(p, BPF_JMP | BPF_JEQ | BPF_K, PR_SET_CHILD_SUBREAPER, TO_NOTIFY, TO_ALLOW);
	p->insn[skip].jf = (u8)(p->n - skip - 1);
}

static void patch_ends(struct prog *p)
{
	unsigned allow = p->n, notify = p->n + 1;

	emit(p, BPF_RET | BPF_K, SECCOMP_RET_ALLOW, 0, 0);
	emit(p, BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF, 0, 0);
	for (unsigned i = 0; i < allow; i++) {
		struct sock_filter *f = &p->insn[i];

		if (BPF_CLASS(f->code) != BPF_JMP)
			continue;
		f->jt = f->jt == TO_ALLOW    ? (u8)(allow - i - 1)
			: f->jt == TO_NOTIFY ? (u8)(notify - i - 1)
					     : f->jt;
		f->jf = f->jf == TO_ALLOW    ? (u8)(allow - i - 1)
			: f->jf == TO_NOTIFY ? (u8)(notify - i - 1)
					     : f->jf;
	}
}

static const u32 socket_calls[] = {SYS_getsockname, SYS_getpeername, SYS_getsockopt,
				   SYS_setsockopt,  SYS_shutdown,    SYS_recvfrom,
				   SYS_sendto,	    SYS_recvmsg,     SYS_sendmsg};

static void build(struct prog *p, enum nursery_class class, u32 low, u32 high)
{
	load(p, (u32)offsetof(struct seccomp_data, arch));
	/* 32-bit and x32 programs run, but are not part of the cluster */
	emit(p, BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 0, TO_ALLOW);
	load(p, NR_OFFSET);
	if (class == NURSERY_AWAY) {
		tty_open(p, SYS_openat, 2);
		tty_open(p, SYS_open, 1);
	}
	if (class != NURSERY_PLAIN) {
		exec_call(p, SYS_execve, 5);
		exec_call(p, SYS_execveat, 5);
		tty_ioctl(p);
		shared_fcntl(p);
		standard_call(p, SYS_fstat);
		standard_stat(p, SYS_newfstatat, 3);
		standard_stat(p, SYS_statx, 2);
		standard_call(p, SYS_lseek);
		for (unsigned i = 0; i < KRG_NELEM(socket_calls); i++)
			standard_call(p, socket_calls[i]);
		usage_call(p, SYS_wait4, 3);
		usage_call(p, SYS_waitid, 4);
		usage_call(p, SYS_times, 0);
		getrusage_call(p);
		always(p, SYS_getppid);
		always(p, SYS_setpgid);
		always(p, SYS_setsid);
		prctl_call(p);
	}
	signal_to_pid(p, SYS_kill, false, 1, low, high);
	signal_to_pid(p, SYS_tkill, false, 1, low, high);
	signal_to_pid(p, SYS_tgkill, true, 2, low, high);
	signal_to_pid(p, SYS_rt_sigqueueinfo, false, 1, low, high);
	signal_to_pid(p, SYS_rt_tgsigqueueinfo, true, 2, low, high);
	patch_ends(p);
}

int gate_filter_install(enum nursery_class class, i32 low, i32 high, int *ret_listener)
{
	struct prog p = {.n = 0};
	struct sock_fprog fprog;
	long fd;

	ASSERT(low > 0 && high > low);
	build(&p, class, (u32)low, (u32)high);
	fprog = (struct sock_fprog){(u16)p.n, p.insn};
	fd = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER,
		     SECCOMP_FILTER_FLAG_NEW_LISTENER | SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV,
		     &fprog);
	if (fd < 0)
		return -errno;
	(void)fcntl((int)fd, F_SETFD, FD_CLOEXEC);
	*ret_listener = (int)fd;
	return 0;
}
