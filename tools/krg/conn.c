#include "conn.h"
#include "lab.h"

static const char *env(const char *name)
{
	const char *v = getenv(name);

	return v != NULL && v[0] != '\0' ? v : NULL;
}

/* The only lab that is up. */
static int only_lab(char *ret, size_t max, struct krg_err *err)
{
	struct lab_info lab[LAB_NAME_MAX];
	unsigned n = KRG_MIN(lab_list(lab, KRG_NELEM(lab)), (unsigned)KRG_NELEM(lab)), up = 0;

	for (unsigned i = 0; i < n; i++) {
		if (lab[i].phase != LAB_UP)
			continue;
		if (up++ == 0)
			memcpy(ret, lab[i].name, KRG_MIN(max, sizeof(lab[i].name)));
	}
	if (up == 1)
		return 0;
	if (up > 1)
		(void)krg_err_set(err, 0, "%u labs are up: which? (--lab NAME)", up);
	else
		(void)krg_err_set(err, 0, "no daemon at " DOOR_DEFAULT " and no lab is up");
	return up > 1 ? -EMLINK : -ENOENT;
}

static int lab_path_of(const char *lab, int node, char *ret, size_t max, struct krg_err *err)
{
	if (!lab_name_ok(lab))
		return krg_err_set(err, -EINVAL, "lab: name '%s'", lab);
	lab_socket(lab, (unsigned)node, ret, max);
	return 0;
}

static int node_env(void)
{
	long n;

	return env("KRG_NODE") != NULL && cmd_number(env("KRG_NODE"), 0, KRG_NODES_MAX - 1, &n)
		       ? (int)n
		       : 0;
}

int conn_path(const struct cmd_common *common, char *ret, size_t max, struct krg_err *err)
{
	char lab[LAB_NAME_MAX + 1];
	const char *path = common->socket;
	int node = common->node, r;

	if (path == NULL && common->lab != NULL)
		return lab_path_of(common->lab, node >= 0 ? node : 0, ret, max, err);
	if (path == NULL && node < 0)
		path = env("KRG_SOCKET");
	if (path == NULL && env("KRG_LAB") != NULL)
		return lab_path_of(env("KRG_LAB"), node >= 0 ? node : node_env(), ret, max, err);
	if (path == NULL && node < 0 && access(DOOR_DEFAULT, F_OK) == 0)
		path = DOOR_DEFAULT;
	if (path != NULL) {
		(void)snprintf(ret, max, "%s", path);
		return 0;
	}
	r = only_lab(lab, sizeof(lab), err);
	return r < 0 ? r : lab_path_of(lab, node >= 0 ? node : node_env(), ret, max, err);
}

int conn_open(const struct cmd_common *common, int *ret_fd, struct krg_err *err)
{
	char path[4096];
	int r = conn_path(common, path, sizeof(path), err);

	return r < 0 ? r : door_connect(path, ret_fd, err);
}

int conn_ask(const struct cmd_common *common, json_t *req, json_t **ret)
{
	KRG_AUTO_FD int fd = -EBADF;
	struct krg_err err = {.node = KRG_NODE_NONE};
	int r = conn_open(common, &fd, &err);

	if (r < 0)
		json_decref(req);
	else
		r = door_call(fd, req, NULL, 0, ret, &err);
	return r < 0 ? cmd_fail(&err) : CMD_OK;
}

int conn_listing(const struct cmd *cmd, int argc, char **argv, const char *op,
		 void (*print)(const json_t *answer))
{
	struct cmd_common common = {.node = -1};
	json_t *answer = NULL;
	int r = cmd_getopt_none(cmd, &common, argc, argv);

	if (r != CMD_OK)
		return r < 0 ? CMD_OK : r;
	if (optind < argc)
		return cmd_usage(cmd, "what is '%s'?", argv[optind]);
	r = conn_ask(&common, json_pack("{s:s}", "op", op), &answer);
	if (r != CMD_OK)
		return r;
	(void)json_object_del(answer, "ok");
	if (common.json)
		r = cmd_json(answer);
	else
		print(answer);
	json_decref(answer);
	return r;
}

i64 conn_int(const json_t *j, const char *key, i64 none)
{
	const json_t *v = json_object_get(j, key);

	return json_is_integer(v) ? json_integer_value(v) : none;
}

double conn_real(const json_t *j, const char *key, double none)
{
	const json_t *v = json_object_get(j, key);

	return json_is_number(v) ? json_number_value(v) : none;
}

const char *conn_str(const json_t *j, const char *key, const char *none)
{
	const char *v = json_string_value(json_object_get(j, key));

	return v != NULL ? v : none;
}
