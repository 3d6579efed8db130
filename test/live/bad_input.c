/* bad_input - sends what nobody should send; bad_input.sh looks at whether the daemon lives.
 *
 *	bad_input door PATH SEED             garbage, truncated and hostile messages to a door
 *	bad_input link ADDR PORT SEED        the same to the port of a node, before a handshake
 *	bad_input peer ADDR PORT KEY CLUSTER NODE SEED   and after one, as a node that has the key
 *	bad_input channel PID SEED           over the channel of a deputy, as a process that may take it
 *	bad_input without CALL… -- CMD…      CMD on a kernel that does not have those system calls
 */
#include "kernetdev_frame.h"
#include "kernetdev_shake.h"
#include "comm_msg.h"
#include "rng.h"
#include "vessel_proto.h"
#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>

#define MUST(e)                                                                                    \
	do {                                                                                       \
		if (!(e)) {                                                                        \
			(void)fprintf(stderr, "bad_input: %s: %s\n", #e, strerror(errno));         \
			exit(2);                                                                   \
		}                                                                                  \
	} while (0)

static struct krg_rng rng;

static void random_bytes(u8 *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		p[i] = (u8)krg_rng_below(&rng, 256);
}

static void put(int fd, const void *p, size_t n)
{
	(void)!send(fd, p, n, MSG_NOSIGNAL); /* it may have hung up already */
}

/* What it says, until it hangs up or says nothing for ms. */
static size_t hear(int fd, char *text, size_t room, int ms)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	size_t at = 0;
	ssize_t n;

	while (at + 1 < room && poll(&p, 1, ms) == 1 &&
	       (n = recv(fd, text + at, room - 1 - at, 0)) > 0)
		at += (size_t)n;
	text[at] = '\0';
	return at;
}

/* ---- the door ---- */

static const char *door_path;

static int door(void)
{
	struct sockaddr_un to = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	(void)snprintf(to.sun_path, sizeof(to.sun_path), "%s", door_path);
	MUST(fd >= 0 && connect(fd, (struct sockaddr *)&to, sizeof(to)) == 0);
	return fd;
}

/* A whole message; its answer must be a refusal, in words. */
static void door_refused(const void *text, size_t n)
{
	u8 head[4] = {(u8)n, (u8)(n >> 8), (u8)(n >> 16), (u8)(n >> 24)};
	char answer[4096];
	int fd = door();

	put(fd, head, 4);
	put(fd, text, n);
	(void)shutdown(fd, SHUT_WR);
	MUST(hear(fd, answer, sizeof(answer), 5000) > 4);
	if (strstr(answer + 4, "\"ok\":false") == NULL ||
	    strstr(answer + 4, "\"error\":\"") == NULL) {
		(void)fprintf(stderr, "bad_input: '%.*s': %s\n", (int)KRG_MIN(n, (size_t)60),
			      (const char *)text, answer + 4);
		exit(1);
	}
	(void)close(fd);
}

static void door_broken(const void *bytes, size_t n)
{
	int fd = door();

	put(fd, bytes, n);
	(void)close(fd);
}

static void door_texts(void)
{
	static const char *const text[] = {
		"x",
		"{",
		"[]",
		"7",
		"{}",
		"{\"op\":7}",
		"{\"op\":null}",
		"{\"op\":\"nothing\"}",
		"{\"op\":\"version of another client\",\"protocol\":99}",
		"{\"op\":\"run\"}",
		"{\"op\":\"kill\"}",
		"{\"op\":\"kill\",\"pid\":-1,\"signal\":9000}",
		"{\"op\":\"kill\",\"pid\":\"x\"}",
		"{\"op\":\"node.del\",\"nodes\":[-7,1e9,\"x\"]}",
		"{\"op\":\"node.del\",\"nodes\":{}}",
		"{\"op\":\"node.add\"}",
		"{\"op\":\"ps\",\"op\":\"ps\"}",
		"{\"op\":\"\\ud800\"}",
		"\xff\xfe{\"op\":\"ps\"}",
	};

	for (size_t i = 0; i < KRG_NELEM(text); i++)
		door_refused(text[i], strlen(text[i]));
	door_refused("{\"op\":\"ps\"}\0junk", 16);
}

static void door_shapes(void)
{
	static char deep[40000], *text;
	const u8 heads[][8] = {{0}, {255, 255, 255, 255}, {1, 0, 1, 0}, {200, 0, 0, 0, '{'}};

	memset(deep, '[', sizeof(deep));
	door_refused(deep, sizeof(deep));
	text = deep;
	memset(text, 'a', sizeof(deep));
	memcpy(text, "{\"op\":\"", 7);
	memcpy(text + sizeof(deep) - 2, "\"}", 2);
	door_refused(text, sizeof(deep));
	for (size_t i = 0; i < KRG_NELEM(heads); i++)
		for (size_t n = 1; n <= 5; n++)
			door_broken(heads[i], n);
}

/* More descriptors than there is room for, on the wrong bytes; and messages that never end. */
static void door_fds(void)
{
	static int held[100];
	int fds[100];

	for (unsigned i = 0; i < 100; i++)
		fds[i] = open("/dev/null", O_RDONLY | O_CLOEXEC);
	for (unsigned n = 1; n <= 100; n += 9) {
		int fd = door();

		(void)!krg_send_fds(fd, "\10\0\0\0", 4, fds, n);
		(void)!krg_send_fds(fd, "{\"op\":", 6, fds, n);
		(void)close(fd);
	}
	for (unsigned i = 0; i < 100; i++) {
		held[i] = door();
		put(held[i], "\377", 1 + i % 2);
		(void)close(fds[i]);
	}
	for (unsigned i = 0; i < 100; i++)
		(void)close(held[i]);
}

static void door_random(void)
{
	static const char good[] = "{\"op\":\"node.ls\",\"args\":[1,2,{\"a\":\"b\"}]}";
	u8 b[300];

	for (unsigned i = 0; i < 300; i++) {
		size_t n = 1 + krg_rng_below(&rng, sizeof(b));

		random_bytes(b, n);
		door_broken(b, n);
		n = sizeof(good) - 1;
		b[0] = (u8)n;
		b[1] = b[2] = b[3] = 0;
		memcpy(b + 4, good, n);
		for (unsigned k = 0; k < 3; k++)
			b[4 + krg_rng_below(&rng, n)] = (u8)krg_rng_below(&rng, 256);
		door_broken(b, n + 4 - krg_rng_below(&rng, 5));
	}
}

static int do_door(char **argv)
{
	door_path = argv[0];
	krg_rng_init(&rng, strtoull(argv[1], NULL, 10));
	door_texts();
	door_shapes();
	door_fds();
	door_random();
	return 0;
}

/* ---- the port ---- */

static struct sockaddr_in node;

static void node_set(const char *addr, const char *port)
{
	node = (struct sockaddr_in){.sin_family = AF_INET,
				    .sin_port = htons((u16)strtoul(port, NULL, 10))};
	MUST(inet_pton(AF_INET, addr, &node.sin_addr) == 1);
}

static int dial(void)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	MUST(fd >= 0 && connect(fd, (struct sockaddr *)&node, sizeof(node)) == 0);
	return fd;
}

/* The reason comes back, if one is due. */
static void link_bytes(const void *p, size_t n, const char *reason)
{
	char text[600];
	int fd = dial();
	size_t got;

	put(fd, p, n);
	if (reason != NULL) {
		got = hear(fd, text, sizeof(text), 5000);
		if (got == 0 || memmem(text, got, reason, strlen(reason)) == NULL) {
			(void)fprintf(stderr, "bad_input: %zu bytes, and not \"%s\"\n", got,
				      reason);
			exit(1);
		}
	}
	(void)close(fd);
}

static int do_link(char **argv)
{
	static const u8 version[] = {0x4b, 0x52, 0x47, 0x31, 9, 0, 5, 0};
	static int held[600];
	u8 b[1000] = {0x4b, 0x52, 0x47, 0x31, 1, 0};

	node_set(argv[0], argv[1]);
	krg_rng_init(&rng, strtoull(argv[2], NULL, 10));
	link_bytes("GET / HTTP/1.1\r\nHost: x\r\n\r\n", 27, "not a Kerrighed node");
	link_bytes("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 11, "not a Kerrighed node");
	link_bytes(version, sizeof(version), "protocol version 9, this is version 1");
	link_bytes(b, 8, "a handshake of 0 bytes");
	b[6] = b[7] = 255;
	link_bytes(b, 8, "a handshake of 65535 bytes");
	b[6] = 200;
	b[7] = 0;
	link_bytes(b, 208, "a broken HELLO");
	for (unsigned i = 0; i < 500; i++) {
		size_t n = 1 + krg_rng_below(&rng, sizeof(b));

		random_bytes(b, n);
		if (i % 2 == 0 && n >= 8) /* past the first look */
			memcpy(b, "\x4b\x52\x47\x31\x01\0\x50\0", 8);
		link_bytes(b, n, NULL);
	}
	/* more than it keeps in handshakes, none of which says anything */
	for (unsigned i = 0; i < KRG_NELEM(held); i++)
		held[i] = dial();
	for (unsigned i = 0; i < KRG_NELEM(held); i++)
		(void)close(held[i]);
	return 0;
}

/* ---- a node that has the key ---- */

static u8 key[32];
static const char *cluster;
static nodeid self;

static int handshake(u8 kind, u8 chan, u16 op)
{
	struct kd_shake s = {
		.kind = kind, .chan = chan, .op = op, .peer = 0, .incarnation = krg_rng_u64(&rng)};
	struct krg_err err = {0};
	u8 buf[KD_SHAKE_FRAME];
	int fd = dial();
	ssize_t n;

	MUST(kd_shake_connector_start(&s, self, cluster, key, &err) == 0);
	while (s.state != KD_SHAKE_DONE) {
		if (s.state == KD_SHAKE_RESPOND)
			kd_shake_proof(&s, 0);
		put(fd, s.out, s.out_len);
		s.out_len = 0;
		n = recv(fd, buf, kd_shake_want(&s), 0);
		if (n <= 0 || kd_shake_in(&s, buf, (size_t)n, &err) < 0) {
			(void)close(fd); /* refused: also well */
			return -1;
		}
	}
	return fd;
}

static void frame(int fd, u64 seq, const u8 *body, u32 len, u32 claimed)
{
	struct kd_frame f = {.len = claimed, .type = KD_FRAME_COUNTED, .seq = seq};
	u8 b[KERNETDEV_HEADER];

	kd_frame_pack(&f, b);
	put(fd, b, sizeof(b));
	put(fd, body, len);
}

/* Messages with a good head and any op, and a body that is nothing. */
static void any_ops(int fd)
{
	u8 b[400];

	for (u64 seq = 1; seq < 200; seq++) {
		u32 len = (u32)(COMM_MSG_HEADER + krg_rng_below(&rng, sizeof(b) - COMM_MSG_HEADER));

		random_bytes(b, sizeof(b));
		b[0] = (u8)(1 + krg_rng_below(&rng, 5)); /* kind */
		b[1] = 0;
		b[2] = (u8)krg_rng_below(&rng, 24); /* op */
		b[3] = (u8)krg_rng_below(&rng, 8);  /* service */
		memset(b + 4, 0, 4);
		memset(b + 16, 0, 8);
		b[16] = (u8)krg_rng_below(&rng, 4); /* view */
		frame(fd, seq, b, len, len);
	}
}

static int do_peer(char **argv)
{
	char text[80];
	u8 b[2000];
	int fd;

	node_set(argv[0], argv[1]);
	MUST(krg_read_file(argv[2], text, sizeof(text)) >= 64);
	for (unsigned i = 0; i < 32; i++)
		key[i] = (u8)strtoul((char[]){text[2 * i], text[2 * i + 1], 0}, NULL, 16);
	cluster = argv[3];
	self = (nodeid)strtoul(argv[4], NULL, 10);
	krg_rng_init(&rng, strtoull(argv[5], NULL, 10));
	for (unsigned i = 0; i < 60; i++) {
		fd = handshake(i % 5 == 4 ? KD_SHAKE_RAW : KD_SHAKE_LINK, (u8)(i % 2),
			       (u16)(0x300 + i));
		if (fd < 0)
			continue;
		random_bytes(b, sizeof(b));
		switch (i % 4) {
		case 0:
			put(fd, b, 1 + krg_rng_below(&rng, sizeof(b)));
			break;
		case 1: /* more than it may be, less than it says, out of order */
			frame(fd, 1, b, 100, KERNETDEV_MSG_MAX + 1);
			break;
		case 2:
			frame(fd, 1 + krg_rng_u64(&rng) % 3, b, 100, 5000);
			break;
		default:
			any_ops(fd);
		}
		(void)hear(fd, text, sizeof(text), 20);
		(void)close(fd);
	}
	/* nor does a link with a channel that is not there do harm */
	fd = handshake(KD_SHAKE_LINK, 200, 0);
	if (fd >= 0)
		(void)close(fd);
	return 0;
}

/* ---- a deputy's channel ---- */

/* The only socket that its vessel has.  Who may trace it may take it (pidfd_getfd(2)). */
static int channel_take(pid_t pid)
{
	int pidfd = (int)syscall(SYS_pidfd_open, pid, 0), type, fd;
	socklen_t len = sizeof(type);

	MUST(pidfd >= 0);
	for (int i = 0; i < 1024; i++) {
		fd = (int)syscall(SYS_pidfd_getfd, pidfd, i, 0);
		if (fd >= 0 && getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) == 0 &&
		    type == SOCK_SEQPACKET)
			return fd;
		if (fd >= 0)
			(void)close(fd);
	}
	return -1;
}

static int do_channel(char **argv)
{
	int fd = channel_take((pid_t)strtol(argv[0], NULL, 10));
	struct vessel_msg m;

	krg_rng_init(&rng, strtoull(argv[1], NULL, 10));
	if (fd < 0) {
		(void)fprintf(stderr, "bad_input: no channel\n");
		return 1;
	}
	for (unsigned i = 0; i < 2000; i++) {
		random_bytes((u8 *)&m, sizeof(m));
		if (i % 2 == 0)
			m.type = 1 + (u32)krg_rng_below(&rng, 8);
		if (i % 4 == 0)
			m.value = (i32)krg_rng_below(&rng, 70) - 3;
		if (m.type == VESSEL_SIGNAL && m.value > 0 && m.value < 65)
			m.value = 0; /* that would be a signal, and well */
		(void)!send(fd, &m, i % 7 == 6 ? krg_rng_below(&rng, sizeof(m)) : sizeof(m),
			    MSG_NOSIGNAL | MSG_DONTWAIT);
	}
	return 0;
}

/* ---- a kernel without ---- */

static const struct {
	const char *name;
	long nr;
} calls[] = {
	{"clone3", SYS_clone3},
	{"pidfd_open", SYS_pidfd_open},
	{"pidfd_getfd", SYS_pidfd_getfd},
	{"fsopen", SYS_fsopen},
	{"fsmount", SYS_fsmount},
	{"seccomp", SYS_seccomp},
	{"unshare", SYS_unshare},
	{"userfaultfd", SYS_userfaultfd},
	{"kcmp", SYS_kcmp},
	{"close_range", SYS_close_range},
	{"process_vm_readv", SYS_process_vm_readv},
};

static void take_away(const char *name)
{
	struct sock_filter f[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = {.len = KRG_NELEM(f), .filter = f};

	for (size_t i = 0; i < KRG_NELEM(calls); i++) {
		if (strcmp(calls[i].name, name) != 0)
			continue;
		f[1].k = (u32)calls[i].nr;
		MUST(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog, 0, 0) == 0);
		return;
	}
	(void)fprintf(stderr, "bad_input: what is %s?\n", name);
	exit(2);
}

static int do_without(char **argv)
{
	for (; *argv != NULL && strcmp(*argv, "--") != 0; argv++)
		take_away(*argv);
	MUST(*argv != NULL);
	(void)execvp(argv[1], argv + 1);
	return 127;
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		int args;
		int (*run)(char **argv);
	} all[] = {
		{"door", 2, do_door},	    {"link", 3, do_link},	{"peer", 6, do_peer},
		{"channel", 2, do_channel}, {"without", 3, do_without},
	};

	for (size_t i = 0; argc > 1 && i < KRG_NELEM(all); i++)
		if (strcmp(argv[1], all[i].name) == 0 && argc - 2 >= all[i].args)
			return all[i].run(argv + 2);
	(void)fprintf(stderr, "bad_input: door, link, peer, channel, without\n");
	return 2;
}
