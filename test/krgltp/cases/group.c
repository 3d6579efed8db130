/* group.c - process groups and sessions of processes that are anywhere. */
#include "case.h"

static char *number(long n)
{
	static char text[16][24];
	static unsigned next;
	char *t = text[next++ % NELEM(text)];

	(void)snprintf(t, sizeof(text[0]), "%ld", n);
	return t;
}

static int r_ids(int argc, char **argv)
{
	(void)argc;
	(void)argv;
	answer("ready");
	while (asked()[0] != '\0')
		answer("%d %d %d", getpid(), getpgrp(), getsid(0));
	return 0;
}

static struct chat teller(void (*prepare)(void *), void *arg)
{
	struct chat c = chat_with(prepare, arg, "ids", NULL);

	expect_line(&c, "ready");
	return c;
}

static void is_in(const struct chat *c, pid_t group, pid_t session)
{
	char want[64];

	(void)snprintf(want, sizeof(want), "%d %d %d", c->pid, group, session);
	tell(c, "?");
	expect_line(c, want);
	EQ(getpgid(c->pid), group);
	EQ(getsid(c->pid), session);
}

static void lead(void *arg)
{
	(void)OK(setpgid(0, *(pid_t *)arg));
}

static void new_session(void *arg)
{
	(void)arg;
	(void)OK(setsid());
}

static void c_inherited(void)
{
	struct chat c = teller(NULL, NULL);

	is_in(&c, getpgrp(), getsid(0));
	BYE(&c);
}

static void c_leads(void)
{
	pid_t group = 0;
	struct chat c = teller(lead, &group);

	is_in(&c, c.pid, getsid(0));
	BYE(&c);
}

static void c_joins(void)
{
	pid_t group = 0;
	struct chat a = teller(lead, &group), b;

	group = a.pid;
	b = teller(lead, &group);
	is_in(&b, a.pid, getsid(0));
	BYE(&a);
	is_in(&b, group, getsid(0)); /* the group is there without its leader */
	BYE(&b);
	FAILS(getpgid(group), ESRCH);
	FAILS(setpgid(0, group), EPERM);
}

static void c_session(void)
{
	struct chat c = teller(new_session, NULL);

	is_in(&c, c.pid, c.pid);
	FAILS(setpgid(0, c.pid), EPERM); /* a group of another session */
	BYE(&c);
}

/* Both do it, as shells do: one of the two is first. */
static void c_both(void)
{
	for (int i = 0; i < 4; i++) {
		pid_t group = 0;
		struct chat c = chat_with(lead, &group, "ids", NULL);

		if (setpgid(c.pid, c.pid) < 0)
			EQ(errno, EACCES); /* it has executed already */
		expect_line(&c, "ready");
		is_in(&c, c.pid, getsid(0));
		BYE(&c);
	}
}

static void c_errors(void)
{
	struct chat c = teller(NULL, NULL), s = teller(new_session, NULL);
	pid_t gone = spawn("exit", "0", NULL);

	EXITS(gone, 0);
	FAILS(setpgid(c.pid, c.pid), EACCES); /* it has executed */
	FAILS(setpgid(c.pid, 0), EACCES);
	FAILS(setpgid(s.pid, getpgrp()), EPERM); /* leads a session */
	FAILS(setpgid(gone, 0), ESRCH);
	FAILS(setpgid(0, gone), EPERM);
	FAILS(setpgid(0, -1), EINVAL);
	FAILS(setpgid(-1, 0), EINVAL);
	FAILS(setpgid(getppid(), 0), ESRCH); /* no child of ours */
	FAILS(getpgid(gone), ESRCH);
	FAILS(getsid(gone), ESRCH);
	BYE(&c);
	BYE(&s);
}

/* What an executed program does to itself. */
static int r_moves(int argc, char **argv)
{
	pid_t other = atoi(argv[0]), was = getpgrp(), sid = getsid(0);

	(void)argc;
	FAILS(setpgid(0, getppid() + 100000000), EPERM);
	(void)OK(setpgid(0, 0));
	EQ(getpgrp(), getpid());
	(void)OK(setpgid(0, other));
	EQ(getpgrp(), other);
	(void)OK(setpgid(getpid(), was));
	EQ(getpgrp(), was);
	EQ(getsid(0), sid);
	answer("%d", getpgrp());
	(void)asked();
	(void)OK(setsid());
	EQ(getpgrp(), getpid());
	EQ(getsid(0), getpid());
	FAILS(setsid(), EPERM);
	FAILS(setpgid(0, 0), EPERM);
	answer("done");
	(void)asked();
	return 0;
}

static void c_moves(void)
{
	pid_t group = 0;
	struct chat other = teller(lead, &group), c;

	c = chat_with(NULL, NULL, "moves", number(other.pid), NULL);
	expect_line(&c, number(getpgrp()));
	EQ(getpgid(c.pid), getpgrp());
	tell(&c, "go on");
	expect_line(&c, "done");
	EQ(getpgid(c.pid), c.pid);
	EQ(getsid(c.pid), c.pid);
	BYE(&c);
	BYE(&other);
}

static void c_setsid_leader(void)
{
	pid_t group = 0;

	/* a group's leader cannot make a session */
	EXITS(spawn_with(lead, &group, "setsid_fails", NULL), 0);
}

static int r_setsid_fails(int argc, char **argv)
{
	(void)argc;
	(void)argv;
	FAILS(setsid(), EPERM);
	return 0;
}

/* Of a process that is not here: its parent. */
static int r_of_parent(int argc, char **argv)
{
	(void)argc;
	(void)argv;
	EQ(getsid(getppid()), getsid(0));
	EQ(getpgid(getppid()), getpgrp());
	return 0;
}

static void c_of_parent(void)
{
	EXITS(spawn("of_parent", NULL), 0);
}

static void c_pipeline(void)
{
	/* a shell with job control makes a group of each pipeline */
	EQ(system("set -m; /bin/echo text | /bin/cat | /bin/grep -q text && exit 3"), 3 << 8);
}

/* A program makes children and puts them into groups: as a shell that was executed elsewhere. */
static int r_shell(int argc, char **argv)
{
	(void)argc;
	(void)argv;
	c_leads();
	c_joins();
	c_both();
	return 0;
}

static void c_shell(void)
{
	EXITS(spawn("shell", NULL), 0);
}

/* The last of a group's members with a parent in another group of the session ends: those left get SIGHUP and
 * SIGCONT when one of them is stopped. */
static int r_orphans_group(int argc, char **argv)
{
	pid_t group = 0;
	struct chat c;
	int status;

	(void)argc;
	(void)argv;
	c = chat_with(lead, &group, "hold", NULL);
	expect_line(&c, "ready");
	(void)OK(kill(c.pid, SIGSTOP));
	EQ(waitpid(c.pid, &status, WUNTRACED), c.pid);
	answer("%d", c.pid);
	(void)asked();
	return 0; /* the group is an orphan, and stopped */
}

static void c_orphaned(void)
{
	struct chat c;
	int status;
	pid_t pid;

	(void)OK(prctl(PR_SET_CHILD_SUBREAPER, 1));
	/* in a session of its own, so that we do not count */
	c = chat_with(new_session, NULL, "orphans_group", NULL);
	pid = (pid_t)atoi(hear(&c));
	CHECK(pid > 0, "it did not start");
	(void)mind(pid);
	leave(&c);
	EXITS(c.pid, 0);
	EQ(waitpid(pid, &status, 0), pid);
	EQ(status, SIGHUP);
}

const struct sub subs[] = {{"inherited", c_inherited},
			   {"leads", c_leads},
			   {"joins", c_joins},
			   {"session", c_session},
			   {"both", c_both},
			   {"errors", c_errors},
			   {"moves", c_moves},
			   {"setsid_leader", c_setsid_leader},
			   {"of_parent", c_of_parent},
			   {"pipeline", c_pipeline},
			   {"shell", c_shell},
			   {"orphaned", c_orphaned},
			   {NULL, NULL}};
const struct role roles[] = {{"ids", r_ids},
			     {"moves", r_moves},
			     {"setsid_fails", r_setsid_fails},
			     {"of_parent", r_of_parent},
			     {"shell", r_shell},
			     {"orphans_group", r_orphans_group},
			     {NULL, NULL}};
