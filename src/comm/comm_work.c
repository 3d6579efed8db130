/* Workers: threads for handlers that may wait. */
#include "comm_impl.h"
#include "log.h"
#include <pthread.h>
#include <sys/socket.h>

static _Thread_local struct comm *worker_of;

static struct job *job_next(struct comm *c)
{
	KRG_GUARD(workers, &c->work_lock);
	while (c->jobs == NULL && !c->work_stop) {
		u64 until = krg_clock_now_ns() + COMM_SHRINK_NS;
		int r;

		c->idle++;
		r = krg_cond_wait_until(&c->work_cond, &c->work_lock, until);
		c->idle--;
		if (r < 0 && c->jobs == NULL && c->workers > c->config.workers)
			break; /* one of those made for a crowd */
	}
	if (c->jobs == NULL || c->work_stop) {
		c->workers--;
		krg_cond_broadcast(&c->work_end);
		return NULL;
	}
	struct job *j = c->jobs;

	c->jobs = j->next;
	c->jobs_nr--;
	return j;
}

static void *worker_main(void *arg)
{
	struct comm *c = arg;
	struct job *j;

	worker_of = c;
	(void)pthread_setname_np(pthread_self(), "krg-work");
	while ((j = job_next(c)) != NULL)
		j->run(j);
	return NULL;
}

static void worker_add_locked(struct comm *c)
{
	pthread_attr_t attr;
	pthread_t t;

	(void)pthread_attr_init(&attr);
	(void)pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	if (pthread_create(&t, &attr, worker_main, c) == 0)
		c->workers++;
	else
		LOG_E("comm", "no thread for a worker, %u there", c->workers);
	(void)pthread_attr_destroy(&attr);
}

void comm_workers_start(struct comm *c)
{
	if (kernetdev_is_simulated(c->kd))
		return;
	KRG_GUARD(workers, &c->work_lock);
	while (c->workers < c->config.workers) {
		unsigned had = c->workers;

		worker_add_locked(c);
		if (c->workers == had)
			return;
	}
}

void comm_workers_stop(struct comm *c)
{
	KRG_GUARD(workers, &c->work_lock);
	c->work_stop = true;
	krg_cond_broadcast(&c->work_cond);
	while (c->workers > 0)
		krg_cond_wait(&c->work_end, &c->work_lock);
}

/* The queue has no limit of its own: what is in it takes room in its sender's window, or in
 * own_bytes. */
void comm_job_queue(struct comm *c, struct job *j)
{
	bool look = false;

	j->next = NULL;
	j->queued_ns = krg_clock_now_ns();
	workers_lock(&c->work_lock);
	if (c->jobs == NULL)
		c->jobs_last = &c->jobs;
	*c->jobs_last = j;
	c->jobs_last = &j->next;
	c->jobs_nr++;
	if (c->idle >= c->jobs_nr)
		krg_cond_signal(&c->work_cond);
	else if (c->idle > 0)
		krg_cond_broadcast(&c->work_cond);
	else if (kernetdev_is_simulated(c->kd))
		look = true;
	else if (c->waiting >= c->workers && c->workers < COMM_WORKERS_MAX && !c->work_stop)
		worker_add_locked(c); /* they all wait for other nodes, maybe for this answer */
	else
		look = c->workers < COMM_WORKERS_MAX; /* they may wait for something else */
	workers_unlock(&c->work_lock);
	if (look)
		kernetdev_poke(c->kd);
}

void comm_worker_wait_begin(struct comm *c)
{
	if (worker_of != c)
		return;
	KRG_GUARD(workers, &c->work_lock);
	c->waiting++;
	if (c->jobs != NULL && c->idle == 0 && c->waiting >= c->workers &&
	    c->workers < COMM_WORKERS_MAX && !c->work_stop)
		worker_add_locked(c);
}

void comm_worker_wait_end(struct comm *c)
{
	if (worker_of != c)
		return;
	KRG_GUARD(workers, &c->work_lock);
	c->waiting--;
}

static u64 sim_work(struct comm *c)
{
	for (;;) {
		struct job *j;

		workers_lock(&c->work_lock);
		j = c->jobs;
		if (j != NULL) {
			c->jobs = j->next;
			c->jobs_nr--;
		}
		workers_unlock(&c->work_lock);
		if (j == NULL)
			return UINT64_MAX;
		j->run(j);
	}
}

/* On the I/O thread: one more worker for jobs that wait too long.  Returns when to look again. */
u64 comm_workers_work(struct comm *c, u64 now)
{
	if (kernetdev_is_simulated(c->kd))
		return sim_work(c);
	KRG_GUARD(workers, &c->work_lock);
	if (c->jobs == NULL || c->idle > 0 || c->workers >= COMM_WORKERS_MAX || c->work_stop)
		return UINT64_MAX;
	if (now >= c->jobs->queued_ns + COMM_GROW_NS) {
		worker_add_locked(c);
		return now + COMM_GROW_NS;
	}
	return c->jobs->queued_ns + COMM_GROW_NS;
}

/* --- raw connections --- */

struct raw_job {
	struct job job;
	const struct raw_op *op;
	nodeid from;
	u64 tag;
	int fd;
};

static const struct raw_op *raw_op(const struct comm *c, u16 op)
{
	return op < COMM_OPS ? atomic_load(&c->raw_ops[op]) : NULL;
}

int comm_raw_check(void *ctx, nodeid from, u16 op)
{
	const struct comm *c = ctx;

	return raw_op(c, op) == NULL ? -ENOSYS : comm_is_member(c, from) ? 0 : -EHOSTDOWN;
}

static void raw_run(struct job *j)
{
	struct raw_job *rj = (struct raw_job *)(void *)((u8 *)j - offsetof(struct raw_job, job));

	rj->op->handler(rj->op->ctx, rj->from, rj->tag, rj->fd);
	free(rj);
}

static void raw_drop(struct job *j)
{
	struct raw_job *rj = (struct raw_job *)(void *)((u8 *)j - offsetof(struct raw_job, job));

	(void)close(rj->fd);
	free(rj);
}

void comm_raw_ready(void *ctx, nodeid from, u16 op, u64 tag, int fd)
{
	struct comm *c = ctx;
	struct raw_job *rj = krg_xalloc(sizeof(*rj));

	rj->job.run = raw_run;
	rj->job.drop = raw_drop;
	rj->op = raw_op(c, op);
	rj->from = from;
	rj->tag = tag;
	rj->fd = fd;
	comm_job_queue(c, &rj->job);
}

void comm_raw_register(struct comm *c, u16 op, comm_raw_handler handler, void *ctx)
{
	struct raw_op *o = krg_xalloc(sizeof(*o));

	ASSERT(op < COMM_OPS);
	o->handler = handler;
	o->ctx = ctx;
	ASSERT(atomic_exchange(&c->raw_ops[op], o) == NULL);
}

static int raw_own(struct comm *c, u16 op, u64 tag, int *ret_fd, struct krg_err *err)
{
	int fds[2];

	if (raw_op(c, op) == NULL)
		return krg_err_set(err, -ENOSYS, "raw op %#x", op);
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
		return krg_err_set(err, -errno, "socketpair");
	comm_raw_ready(c, c->config.self, op, tag, fds[1]);
	*ret_fd = fds[0];
	return 0;
}

int comm_raw_connect(struct comm *c, nodeid to, u16 op, u64 tag, int *ret_fd, struct krg_err *err)
{
	int r;

	krg_assert_no_locks();
	if (to == c->config.self)
		return raw_own(c, op, tag, ret_fd, err);
	if (!comm_is_member(c, to))
		return krg_err_set(err, -EHOSTDOWN, "raw connection to node %u", to);
	comm_worker_wait_begin(c);
	r = kernetdev_raw_connect(c->kd, to, op, tag, COMM_RAW_MS, ret_fd, err);
	comm_worker_wait_end(c);
	return r;
}
