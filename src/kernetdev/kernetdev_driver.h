/* kernetdev_driver.h - what a network must be able to do, as a table.  A *pipe* is one byte
 * connection to another node.
 *
 * The driver calls kd_on_accept(), kd_on_event() and kd_on_tick() on its one I/O context: a thread
 * (tcp), or the loop of the simulator.
 *
 * Threads  write, read, interest, shutdown, wait_readable, poke: any; the rest: the I/O context
 *          (open, start, stop, free: the owner).
 */
#ifndef KRG_KERNETDEV_DRIVER_H
#define KRG_KERNETDEV_DRIVER_H
#include "kernetdev.h"
#include <sys/uio.h>

struct kd_conn;

struct kernetdev_driver {
	const char *name;
	/* The listener; the owner gets its port from port(). */
	int (*open)(struct kernetdev *kd, void *driver_ctx, const char *addr, u16 port,
		    void **ret_net, struct krg_err *err);
	int (*start)(void *net, struct krg_err *err);
	void (*stop)(void *net);
	void (*free)(void *net);
	u16 (*port)(void *net);
	/* An address as this driver understands it, or -EINVAL. */
	int (*addr_check)(const char *addr, u16 port);
	/* Begins to connect; the first event says how it went.  conn is what kd_on_event() gets. */
	int (*connect)(void *net, const char *addr, u16 port, struct kd_conn *conn,
		       void **ret_pipe);
	void (*attach)(void *pipe, struct kd_conn *conn); /* after kd_on_accept() */
	/* Bytes, or -EAGAIN, or the errno of the broken connection; read: 0 at the end. */
	ssize_t (*write)(void *pipe, const struct iovec *iov, int n);
	ssize_t (*read)(void *pipe, void *p, size_t n);
	/* Which events to tell of; the link's lock is held. */
	void (*interest)(void *pipe, bool in, bool out);
	void (*shutdown)(void *pipe);
	void (*close)(void *pipe);
	/* As read(), but waits for bytes, for the link's kick_fd, or until the deadline; -EAGAIN when
	 * there are none.  It may notice a kick some milliseconds late.  NULL: cannot wait. */
	ssize_t (*read_wait)(void *pipe, void *p, size_t n, int kick_fd, u64 deadline_ns);
	/* The socket itself, for a raw connection; the pipe is gone.  NULL: none. */
	int (*detach)(void *pipe);
	/* A tick soon. */
	void (*poke)(void *net);
	bool (*on_io)(void *net);
	/* who is there, for logs */
	void (*name_get)(void *pipe, char *name, size_t max);
};

extern const struct kernetdev_driver kernetdev_tcp, kernetdev_sim;

/* Upcalls of the driver, on the I/O context. */
void kd_on_accept(struct kernetdev *kd, void *pipe);
void kd_on_event(struct kd_conn *conn, bool in, bool out);
/* After the events of a round.  due: the time it returned last has come.  Returns when the next is
 * wanted (UINT64_MAX: not). */
u64 kd_on_tick(struct kernetdev *kd, bool due);

/* The simulated network: any number of nodes in one process and one thread, in virtual time, all
 * choices from one seed.
 *
 *	sim = kernetdev_sim_new(&(struct kernetdev_sim_config){.seed = 1, …});
 *	config.driver = &kernetdev_sim; config.driver_ctx = sim; … kernetdev_start()
 *	kernetdev_sim_run(sim, until_ns);
 *
 * It is the clock (krg_clock_set()) from new to free.  Addresses are "sim", ports are the node's
 * number + 1. */
struct kernetdev_sim_config {
	u64 seed;
	u64 delay_min_ns, delay_max_ns; /* of each piece of a stream */
	u64 break_mean_ns;		/* a connection breaks about this often; 0: never */
};
struct kernetdev_simnet;
struct kernetdev_simnet *kernetdev_sim_new(const struct kernetdev_sim_config *config);
void kernetdev_sim_free(struct kernetdev_simnet *sim);
/* Runs all that happens up to this time (or for this long).  Returns the number of events. */
u64 kernetdev_sim_run(struct kernetdev_simnet *sim, u64 until_ns);
u64 kernetdev_sim_now(const struct kernetdev_simnet *sim);
/* Nodes of different sides do not hear each other: bytes under way are held for ever and
 * connections stay open, as with a pulled cable.  side: up to 63. */
void kernetdev_sim_partition(struct kernetdev_simnet *sim, nodeid node, u8 side);
void kernetdev_sim_heal(struct kernetdev_simnet *sim);
/* Breaks one connection at random, if there is one. */
void kernetdev_sim_break_one(struct kernetdev_simnet *sim);
void kernetdev_sim_quiet(struct kernetdev_simnet *sim); /* no more breaks by themselves */
/* Something of the test's own at a time. */
void kernetdev_sim_at(struct kernetdev_simnet *sim, u64 time_ns, void (*fn)(void *), void *ctx);
#endif
