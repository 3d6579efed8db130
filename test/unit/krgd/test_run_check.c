/* What a client may ask of `run`: its record is checked, and nobody but root gets more than the asking
 * process has. */
#include "krgd.h"
#include "tap.h"
#include <sys/resource.h>

static struct rec_epm_run good;
static struct krg_buf limits;
static struct krgd_limits have;

static void set_good(void)
{
	static const char argv[] = "sh\0-c\0true", env[] = "A=1\0B=2";

	krg_buf_reset(&limits);
	for (unsigned i = 0; i < 16; i++) {
		krg_buf_put_u64(&limits, 10);
		krg_buf_put_u64(&limits, 100 + i);
		have.cur_max[2 * i] = 10;
		have.cur_max[2 * i + 1] = 100 + i;
	}
	have.nice = 0;
	good = (struct rec_epm_run){.uid = 0,
				    .gid = 0,
				    .node = -1,
				    .caps = 1,
				    .umask = 022,
				    .cwd = krg_slice_str("/tmp"),
				    .argv = {(const u8 *)argv, sizeof(argv)},
				    .env = {(const u8 *)env, sizeof(env)},
				    .limits = krg_buf_slice(&limits)};
}

static int check(struct rec_epm_run run, uid_t uid)
{
	static const gid_t groups[] = {100, 200};
	struct door_peer peer = {.pid = 1, .uid = uid, .gid = 77, .groups = groups, .ngroups = 2};
	struct krg_err err;
	int r = krgd_run_check(&run, &peer, &have, &err);

	good = run;
	return r;
}

#define BAD(what, ...)                                                                             \
	do {                                                                                       \
		struct rec_epm_run run;                                                            \
		set_good();                                                                        \
		run = good;                                                                        \
		__VA_ARGS__;                                                                       \
		tap_eq(check(run, 0), -EINVAL, "%s", what);                                        \
	} while (0)

static void test_fields(void)
{
	static const u8 odd[] = {1, 2, 3};

	set_good();
	tap_eq(check(good, 0), 0, "a good record");
	tap_ok(good.uid == 0 && good.gid == 0, "root says whose it is");
	BAD("no arguments", run.argv.len = 0);
	BAD("an empty name", run.argv = (struct krg_slice){(const u8 *)"\0\0", 2});
	BAD("arguments without an end", run.argv.len--);
	BAD("an environment without an end", run.env.len--);
	BAD("no directory", run.cwd.len = 0);
	BAD("a relative directory", run.cwd = krg_slice_str("tmp"));
	BAD("half a group", run.groups = (struct krg_slice){odd, 3});
	BAD("node -2", run.node = -2);
	BAD("node 127", run.node = 127);
	BAD("an umask", run.umask = 01000);
	BAD("nice 20", run.nice = 20);
	BAD("nice -21", run.nice = -21);
	BAD("a session flag", run.new_session = 2);
	BAD("limits cut short", run.limits.len -= 8);
	BAD("a limit above its maximum", limits.data[0] = 200);
}

static void test_privileges(void)
{
	struct rec_epm_run run;

	set_good();
	tap_eq(check(good, 1000), 0, "somebody's record");
	tap_ok(good.uid == 1000 && good.gid == 77, "it is theirs, whatever they say");
	tap_ok(good.groups.len == 8 && memcmp(good.groups.data, (gid_t[]){100, 200}, 8) == 0,
	       "with the groups that the kernel says");
	set_good();
	run = good;
	run.nice = -1;
	tap_eq(check(run, 1000), -EPERM, "a better nice value");
	tap_eq(check(run, 0), 0, "root may");
	run.nice = 5;
	tap_eq(check(run, 1000), 0, "a worse one is fine");
	set_good();
	limits.data[8] = 101; /* the maximum of the first, 100 */
	tap_eq(check(good, 1000), -EPERM, "a higher limit");
	set_good();
	limits.data[8] = 99;
	tap_eq(check(good, 1000), 0, "a lower one is fine");
}

static void test_limits(void)
{
	struct krgd_limits mine;
	char text[4096];

	tap_ok(krg_read_file("/proc/self/limits", text, sizeof(text)) > 0, "/proc/self/limits");
	tap_eq(krgd_limits_parse(text, &mine), 0, "is understood");
	for (int i = 0; i < 16; i++) {
		struct rlimit lim;

		(void)getrlimit((__rlimit_resource_t)i, &lim);
		tap_ok(mine.cur_max[2 * i] == lim.rlim_cur &&
			       mine.cur_max[2 * i + 1] == lim.rlim_max,
		       "limit %d", i);
	}
	text[200] = '\0';
	tap_eq(krgd_limits_parse(text, &mine), -EBADMSG, "cut off");
	tap_eq(krgd_limits_parse("", &mine), -EBADMSG, "empty");
}

static void test_env(void)
{
	static const char in[] = "A=1\0KRG_SOCKET=/old\0KRG_SOCKETS=2",
			  want[] = "A=1\0KRG_SOCKETS=2\0KRG_SOCKET=/new";
	struct rec_epm_run run = {.env = {(const u8 *)in, sizeof(in)}};
	KRG_AUTO_BUF struct krg_buf out = {0};

	krgd_run_env(&run, "/new", &out);
	tap_ok(out.len == sizeof(want) && memcmp(out.data, want, sizeof(want)) == 0,
	       "KRG_SOCKET is the daemon's");
}

int main(void)
{
	test_fields();
	test_privileges();
	test_limits();
	test_env();
	krg_buf_fini(&limits);
	return tap_done();
}
