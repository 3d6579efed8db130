/* krgd_ops.c - the door's questions about this node and the cluster. */
#include "krgd.h"
#include "kernetdev.h"
#include <linux/seccomp.h>
#include <sys/syscall.h>
#include <sys/utsname.h>

#define PS_MS 2000

/* ---- version ---- */

static bool has_filter_flag(unsigned long flag)
{
	/* without a filter a known flag is a bad address, an unknown one an invalid argument */
	return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flag, NULL) < 0 && errno == EFAULT;
}

static json_t *features(const struct krgd *k)
{
	u32 notify = SECCOMP_RET_USER_NOTIF;

	return json_pack("{s:b, s:b, s:b, s:b, s:b, s:b, s:b}", "seccomp_notify",
			 syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &notify) == 0,
			 "seccomp_wait_killable",
			 has_filter_flag(SECCOMP_FILTER_FLAG_NEW_LISTENER |
					 1UL << 5 /* SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV */),
			 "pidfd_getfd",
			 !(syscall(SYS_pidfd_getfd, -1, 0, 0) < 0 && errno == ENOSYS), "kcmp",
			 syscall(SYS_kcmp, getpid(), getpid(), 0 /* KCMP_FILE */, 0UL, 0UL) >= 0,
			 "time_namespace", access("/proc/self/ns/time", F_OK) == 0, "fuse",
			 access("/dev/fuse", R_OK | W_OK) == 0, "bpf_signal_deliver",
			 epm_makes_again(k->epm));
}

static int op_version(void *ctx, struct door_req *req, json_t *answer, struct krg_err *err)
{
	struct krgd *k = ctx;
	struct utsname un;

	(void)req;
	(void)err;
	(void)uname(&un);
	(void)json_object_set_new(answer, "version", json_string(KRG_VERSION));
	(void)json_object_set_new(answer, "protocol", json_integer(KRGD_PROTOCOL));
	(void)json_object_set_new(answer, "node", json_integer(k->config.node));
	(void)json_object_set_new(answer, "cluster", json_string(k->config.cluster));
	(void)json_object_set_new(answer, "kernel", json_string(un.release));
	(void)json_object_set_new(answer, "features", features(k));
	return 0;
}

/* ---- processes ---- */

json_t *krgd_json_text(const void *p, size_t n)
{
	json_t *j = json_stringn(p, n);
	char *text;

	if (j != NULL)
		return j;
	text = krg_xalloc(n + 1);
	for (size_t i = 0; i < n; i++) {
		u8 c = ((const u8 *)p)[i];

		text[i] = c < 0x80 ? (char)c : '?';
	}
	j = json_stringn(text, n);
	free(text);
	return j;
}

static json_t *proc_json(const struct rec_epm_proc *p)
{
	KRG_AUTO_FREE char *cmd = krg_xalloc(p->cmdline.len + 1);
	size_t n = p->cmdline.len;
	char state[2] = {(char)p->state, '\0'};
	json_t *j;

	memcpy(cmd, p->cmdline.data != NULL ? (const char *)p->cmdline.data : "", n);
	while (n > 0 && cmd[n - 1] == '\0')
		n--;
	for (size_t i = 0; i < n; i++)
		if (cmd[i] == '\0' || cmd[i] == '\n')
			cmd[i] = ' ';
	j = json_pack("{s:i, s:i, s:i, s:i, s:I, s:i, s:i, s:i, s:I, s:I, s:I}", "pid", p->pid,
		      "ppid", p->ppid, "pgid", p->pgid, "sid", p->sid, "uid", (json_int_t)p->uid,
		      "node", (int)p->node, "home", (int)p->home, "threads", (int)p->threads,
		      "cpu_ns", (json_int_t)p->cpu_ns, "rss", (json_int_t)p->rss, "start_ns",
		      (json_int_t)p->start_ns);
	(void)json_object_set_new(j, "state", krgd_json_text(state, strlen(state)));
	(void)json_object_set_new(j, "comm", krgd_json_text(p->comm.data, p->comm.len));
	(void)json_object_set_new(j, "cmdline",
				  n > 0 ? krgd_json_text(cmd, n)
					: krgd_json_text(p->comm.data, p->comm.len));
	return j;
}

static bool pid_wanted(const json_t *pids, i32 pid)
{
	const json_t *p;
	size_t i;

	if (!json_is_array(pids))
		return true;
	json_array_foreach((json_t *)(uintptr_t)pids, i,
			   p) if (json_is_integer(p) && json_integer_value(p) == pid) return true;
	return false;
}

/* Members of the view that no process record and no empty answer came from are not known here: the
 * error names them. */
static void put_missing(json_t *answer, int code, const struct krg_err *err)
{
	json_t *missing = json_array();
	const char *at = code < 0 ? strstr(err->text, "node") : NULL;

	for (; at != NULL && *at != '\0';) {
		char *end;
		unsigned long n;

		at += strcspn(at, "0123456789");
		if (*at == '\0')
			break;
		n = strtoul(at, &end, 10);
		(void)json_array_append_new(missing, json_integer((json_int_t)n));
		at = end;
	}
	(void)json_object_set_new(answer, "missing", missing);
}

static int op_ps(void *ctx, struct door_req *req, json_t *answer, struct krg_err *err)
{
	KRG_AUTO_BUF struct krg_buf b = {0};
	const json_t *pids = json_object_get(req->body, "pids");
	struct krgd *k = ctx;
	struct rec_epm_proc p;
	json_t *procs;
	unsigned count = 0;
	struct krg_rd rd;
	int r = epm_list_all(k->epm, PS_MS, &b, &count, err);

	if (r < 0 && r != -EAGAIN)
		return r;
	procs = json_array();
	rd = krg_rd_slice(krg_buf_slice(&b));
	while (krg_rd_left(&rd) > 0 && rec_epm_proc_decode(&rd, &p) == 0)
		if (pid_wanted(pids, p.pid))
			(void)json_array_append_new(procs, proc_json(&p));
	(void)json_object_set_new(answer, "procs", procs);
	put_missing(answer, r, err);
	return 0;
}

static int op_kill(void *ctx, struct door_req *req, json_t *answer, struct krg_err *err)
{
	const json_t *pid = json_object_get(req->body, "pid");
	const json_t *sig = json_object_get(req->body, "sig");
	struct krgd *k = ctx;

	(void)answer;
	if (!json_is_integer(pid) || json_integer_value(pid) < 1 ||
	    json_integer_value(pid) > INT32_MAX)
		return krg_err_set(err, -EINVAL, "kill: pid");
	if (!json_is_integer(sig) || json_integer_value(sig) < 0 || json_integer_value(sig) > 64)
		return krg_err_set(err, -EINVAL, "kill: sig");
	return epm_kill(k->epm, (pid_t)json_integer_value(pid), (int)json_integer_value(sig),
			req->peer->uid, err);
}

static int migrate_how(const json_t *how, enum epm_migrate_how *ret)
{
	static const char *const name[] = {"post", "post-sync", "stop-copy"};
	const char *s = json_string_value(how);

	*ret = EPM_MIGRATE_POST;
	if (how == NULL)
		return 0;
	for (unsigned i = 0; s != NULL && i < KRG_NELEM(name); i++)
		if (strcmp(s, name[i]) == 0) {
			*ret = (enum epm_migrate_how)i;
			return 0;
		}
	return -EINVAL;
}

static int op_migrate(void *ctx, struct door_req *req, json_t *answer, struct krg_err *err)
{
	const json_t *pid = json_object_get(req->body, "pid");
	const json_t *to = json_object_get(req->body, "to");
	struct krgd *k = ctx;
	enum epm_migrate_how how;
	u64 stood_ns = 0;
	int r;

	if (!json_is_integer(pid) || json_integer_value(pid) < 1 ||
	    json_integer_value(pid) > INT32_MAX)
		return krg_err_set(err, -EINVAL, "migrate: pid");
	if (!json_is_integer(to) || json_integer_value(to) < 0 ||
	    json_integer_value(to) >= KRG_NODES_MAX)
		return krg_err_set(err, -EINVAL, "migrate: to which node");
	if (migrate_how(json_object_get(req->body, "how"), &how) < 0)
		return krg_err_set(err, -EINVAL, "migrate: how");
	r = epm_migrate(k->epm, (pid_t)json_integer_value(pid), (nodeid)json_integer_value(to),
			req->peer->uid, how, &stood_ns, err);
	(void)json_object_set_new(answer, "stood_us", json_integer((json_int_t)(stood_ns / 1000)));
	return r;
}

/* ---- Kerrighed capabilities ---- */

static int masks_read(const json_t *a, const char *what, u32 *ret, struct krg_err *err)
{
	if (!json_is_array(a) || json_array_size(a) != EPM_CAPS_NR)
		return krg_err_set(err, -EINVAL, "caps: %s", what);
	for (size_t i = 0; i < EPM_CAPS_NR; i++) {
		const json_t *v = json_array_get(a, i);

		if (!json_is_integer(v) || json_integer_value(v) < 0 ||
		    json_integer_value(v) > UINT32_MAX)
			return krg_err_set(err, -EINVAL, "caps: %s", what);
		ret[i] = (u32)json_integer_value(v);
	}
	return 0;
}

static int op_caps(void *ctx, struct door_req *req, json_t *answer, struct krg_err *err)
{
	const json_t *pid = json_object_get(req->body, "pid");
	const json_t *drop = json_object_get(req->body, "drop");
	const json_t *add = json_object_get(req->body, "add");
	bool changes = drop != NULL || add != NULL;
	struct epm_caps_change change = {0};
	struct krgd *k = ctx;
	struct epm_caps caps;
	nodeid node;
	int r = 0;

	if (!json_is_integer(pid) || json_integer_value(pid) < 1 ||
	    json_integer_value(pid) > INT32_MAX)
		return krg_err_set(err, -EINVAL, "caps: pid");
	if (changes)
		r = masks_read(drop, "drop", change.drop, err);
	if (changes && r == 0)
		r = masks_read(add, "add", change.add, err);
	if (r == 0)
		r = epm_caps(k->epm, (pid_t)json_integer_value(pid), req->peer->uid, req->peer->pid,
			     changes ? &change : NULL, &caps, &node, err);
	if (r < 0)
		return r;
	(void)json_object_update_new(
		answer,
		json_pack("{s:i, s:I, s:I, s:I, s:I}", "node", (int)node, "effective",
			  (json_int_t)caps.set[EPM_CAPS_EFFECTIVE], "permitted",
			  (json_int_t)caps.set[EPM_CAPS_PERMITTED], "inheritable_effective",
			  (json_int_t)caps.set[EPM_CAPS_INH_EFFECTIVE], "inheritable_permitted",
			  (json_int_t)caps.set[EPM_CAPS_INH_PERMITTED]));
	return 0;
}

/* ---- stat ---- */

struct stat_put {
	json_t *services;
};

static void put_service(void *arg, const struct service_info *info)
{
	struct stat_put *p = arg;

	(void)json_array_append_new(p->services,
				    json_pack("{s:s, s:s, s:{}}", "name", info->name, "state",
					      service_state_name(info->state), "counters"));
}

static void put_counter(void *arg, const char *service, const char *name, const char *unit,
			u64 value)
{
	struct stat_put *p = arg;
	json_t *s, *counters;
	size_t i;

	json_array_foreach(p->services, i, s)
	{
		if (strcmp(json_string_value(json_object_get(s, "name")), service) != 0)
			continue;
		counters = json_object_get(s, "counters");
		(void)json_object_set_new(
			counters, name,
			json_pack("{s:I, s:s}", "value", (json_int_t)value, "unit", unit));
	}
}

static void put_link_value(json_t *counters, const char *name, const char *unit, u64 value)
{
	(void)json_object_set_new(
		counters, name, json_pack("{s:I, s:s}", "value", (json_int_t)value, "unit", unit));
}

static json_t *link_json(nodeid node, unsigned chan, const struct kernetdev_stat *st)
{
	json_t *c = json_object();

	put_link_value(c, "messages_in", "1", st->messages_in);
	put_link_value(c, "messages_out", "1", st->messages_out);
	put_link_value(c, "bytes_in", "bytes", st->bytes_in);
	put_link_value(c, "bytes_out", "bytes", st->bytes_out);
	put_link_value(c, "connects", "1", st->connects);
	put_link_value(c, "resent", "1", st->resent);
	put_link_value(c, "queued_bytes", "bytes", st->queued_bytes);
	return json_pack("{s:i, s:s, s:b, s:o}", "node", (int)node, "channel",
			 chan == COMM_CHAN_BULK ? "bulk" : "call", "up", (int)st->up, "counters",
			 c);
}

static int op_stat(void *ctx, struct door_req *req, json_t *answer, struct krg_err *err)
{
	struct stat_put put = {.services = json_array()};
	json_t *links = json_array();
	struct krgd *k = ctx;

	(void)req;
	(void)err;
	service_list(k->services, put_service, put_counter, &put);
	for (nodeid node = 0; node < KRG_NODES_MAX; node++) {
		for (unsigned chan = 0; chan < COMM_CHAN_NR; chan++) {
			struct kernetdev_stat st;

			if (kernetdev_stat_get(comm_kernetdev(k->comm), node, (u8)chan, &st) == 0)
				(void)json_array_append_new(links, link_json(node, chan, &st));
		}
	}
	(void)json_object_set_new(answer, "services", put.services);
	(void)json_object_set_new(answer, "links", links);
	return 0;
}

const struct door_op krgd_ops[] = {
	{"version", 0, op_version},
	{"node.ls", 0, krgd_op_node_ls},
	{"node.add", DOOR_ROOT, krgd_op_node_add},
	{"node.del", DOOR_ROOT, krgd_op_node_del},
	{"ps", 0, op_ps},
	{"kill", 0, op_kill},
	{"migrate", 0, op_migrate},
	{"caps", 0, op_caps},
	{"run", 0, krgd_op_run},
	{"signal", 0, krgd_op_signal},
	{"stat", 0, op_stat},
	{"trace", 0, krgd_op_trace},
	{"execs", 0, krgd_op_execs},
};
const unsigned krgd_ops_nr = KRG_NELEM(krgd_ops);
