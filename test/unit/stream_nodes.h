/* stream_nodes.h - a few nodes in one process for the tests of the stream part: comm over
 * 127.0.0.1 and a stream each.
 *
 *	struct nodes n;
 *	nodes_start(&n, 3);
 *	… n.stream[1] …
 *	nodes_stop(&n);
 */
#ifndef KRG_TEST_STREAM_NODES_H
#define KRG_TEST_STREAM_NODES_H
#include "comm.h"
#include "stream.h"
#include "tap.h"
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>

#define NODES_MAX 3

struct nodes {
	unsigned nr;
	struct comm *comm[NODES_MAX];
	struct stream *stream[NODES_MAX];
	bool down[NODES_MAX];
};

#define MUST(e)                                                                                    \
	do {                                                                                       \
		if (!(e)) {                                                                        \
			printf("Bail out! %s:%d %s: %s\n", __FILE__, __LINE__, #e,                 \
			       strerror(errno));                                                   \
			exit(1);                                                                   \
		}                                                                                  \
	} while (0)

__attribute__((unused)) static void nodes_view(struct nodes *n, u64 view)
{
	nodeid members[NODES_MAX];
	unsigned nr = 0;

	for (unsigned i = 0; i < n->nr; i++)
		if (!n->down[i])
			members[nr++] = (nodeid)i;
	for (unsigned i = 0; i < n->nr; i++)
		if (!n->down[i])
			comm_view_set(n->comm[i], view, members, nr);
}

__attribute__((unused)) static void nodes_start(struct nodes *n, unsigned nr)
{
	struct krg_err err = {0};

	*n = (struct nodes){.nr = nr};
	for (unsigned i = 0; i < nr; i++) {
		struct comm_config cc = {
			.self = (nodeid)i,
			.listen_addr = "127.0.0.1",
			.cluster = "test",
			.workers = 4,
		};
		struct stream_config sc = {.run_dir = "/tmp"};

		MUST(comm_new(&cc, &n->comm[i], &err) == 0);
		MUST(comm_start(n->comm[i], &err) == 0);
		MUST(stream_new(n->comm[i], &sc, &n->stream[i], &err) == 0);
		MUST(stream_start(n->stream[i], &err) == 0);
	}
	for (unsigned i = 0; i < nr; i++)
		for (unsigned j = 0; j < nr; j++)
			if (i != j)
				MUST(comm_peer_set(n->comm[i], (nodeid)j, "127.0.0.1",
						   comm_port(n->comm[j])) == 0);
	nodes_view(n, 1);
}

__attribute__((unused)) static void nodes_kill(struct nodes *n, unsigned i)
{
	stream_stop(n->stream[i]);
	comm_stop(n->comm[i]);
	stream_free(n->stream[i]);
	comm_free(n->comm[i]);
	n->down[i] = true;
}

/* The others see it. */
__attribute__((unused)) static void nodes_down(struct nodes *n, unsigned i, u64 view)
{
	nodes_kill(n, i);
	nodes_view(n, view);
	for (unsigned j = 0; j < n->nr; j++)
		if (!n->down[j])
			stream_node_down(n->stream[j], (nodeid)i);
}

__attribute__((unused)) static void nodes_stop(struct nodes *n)
{
	for (unsigned i = 0; i < n->nr; i++)
		if (!n->down[i])
			stream_stop(n->stream[i]);
	for (unsigned i = 0; i < n->nr; i++)
		if (!n->down[i])
			comm_stop(n->comm[i]);
	for (unsigned i = 0; i < n->nr; i++)
		if (!n->down[i]) {
			stream_free(n->stream[i]);
			comm_free(n->comm[i]);
		}
}

/* fd of node `from`, as a descriptor on node `to`. */
__attribute__((unused)) static int move_fd(struct nodes *n, int fd, enum stream_kind kind,
					   unsigned from, unsigned to)
{
	struct rec_stream_ref ref;
	struct krg_err err = {0};
	int got = -EBADF;

	if (stream_export(n->stream[from], fd, kind, (nodeid)to, &ref, &err) < 0 ||
	    stream_import(n->stream[to], &ref, &got, &err) < 0) {
		printf("Bail out! move_fd: %s\n", err.text);
		exit(1);
	}
	return got;
}

/* As the end of a process is told: once stream_settled() has said so, a message goes from node 1 to node 0, and there
 * look() says what is seen then. */
#define OP_END COMM_OP(COMM_SVC_TEST, 1)
struct ending {
	struct nodes *n;
	long (*look)(void *arg);
	void *arg;
	_Atomic long seen;
};

__attribute__((unused)) static void ending_heard(void *ctx, struct comm_req *req)
{
	struct ending *e = ctx;

	e->seen = e->look(e->arg);
	comm_req_done(req);
}

__attribute__((unused)) static void ending_tell(void *ctx)
{
	struct ending *e = ctx;
	KRG_AUTO_BUF struct krg_buf b = {0};

	MUST(comm_try_send(e->n->comm[1], 0, OP_END, &b) == 0);
}

__attribute__((unused)) static void ending_begin(struct ending *e)
{
	comm_register(e->n->comm[1], OP_END, COMM_INLINE, ending_heard, e);
	comm_register(e->n->comm[0], OP_END, COMM_INLINE, ending_heard, e);
}

/* What look() saw; -1: nothing. */
__attribute__((unused)) static long ending_look(struct ending *e, const struct rec_stream_ref *ref)
{
	e->seen = -1;
	stream_settled(e->n->stream[1], ref, ending_tell, e);
	for (int i = 0; i < 5000 && e->seen == -1; i++)
		(void)poll(NULL, 0, 1);
	return e->seen;
}

/* Within five seconds cond holds; polled, as what it waits for is in another thread or process. */
#define WITHIN(cond)                                                                               \
	({                                                                                         \
		bool met_ = false;                                                                 \
		for (int i_ = 0; i_ < 5000 && !(met_ = (cond)); i_++)                              \
			(void)poll(NULL, 0, 1);                                                    \
		met_;                                                                              \
	})

/* Run the body in a child process, as a program would be; its exit status. */
#define IN_CHILD(...)                                                                              \
	({                                                                                         \
		int st_ = -1;                                                                      \
		pid_t pid_;                                                                        \
		(void)fflush(stdout);                                                              \
		pid_ = fork();                                                                     \
		if (pid_ == 0) {                                                                   \
			__VA_ARGS__;                                                               \
			_exit(0);                                                                  \
		}                                                                                  \
		MUST(waitpid(pid_, &st_, 0) == pid_);                                              \
		st_;                                                                               \
	})
#endif
