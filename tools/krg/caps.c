#include "caps.h"

#define IN_WORLD "/run/krg/world/krgd.sock"

static const struct {
	const char *name;
	unsigned bit;
} table[] = {
	{"CHANGE_KERRIGHED_CAP", EPM_CAP_CHANGE_KERRIGHED_CAP},
	{"CAN_MIGRATE", EPM_CAP_CAN_MIGRATE},
	{"DISTANT_FORK", EPM_CAP_DISTANT_FORK},
	{"FORK_DELAY", EPM_CAP_FORK_DELAY},
	{"CHECKPOINTABLE", EPM_CAP_CHECKPOINTABLE},
	{"USE_REMOTE_MEMORY", EPM_CAP_USE_REMOTE_MEMORY},
	{"USE_INTRA_CLUSTER_KERSTREAMS", EPM_CAP_USE_INTRA_CLUSTER_KERSTREAMS},
	{"USE_INTER_CLUSTER_KERSTREAMS", EPM_CAP_USE_INTER_CLUSTER_KERSTREAMS},
	{"USE_WORLD_VISIBLE_KERSTREAMS", EPM_CAP_USE_WORLD_VISIBLE_KERSTREAMS},
	{"SEE_LOCAL_PROC_STAT", EPM_CAP_SEE_LOCAL_PROC_STAT},
	{"DEBUG", EPM_CAP_DEBUG},
	{"DISTANT_EXEC", EPM_CAP_DISTANT_EXEC},
};

static const char *const set_key[EPM_CAPS_NR] = {"effective", "permitted", "inheritable_effective",
						 "inheritable_permitted"};

const char *caps_name(unsigned bit)
{
	for (unsigned i = 0; i < KRG_NELEM(table); i++)
		if (table[i].bit == bit)
			return table[i].name;
	return NULL;
}

static int bit_of(const char *name, size_t len, u32 *ret)
{
	for (unsigned i = 0; i < KRG_NELEM(table); i++) {
		if (strlen(table[i].name) == len && strncasecmp(table[i].name, name, len) == 0) {
			*ret = 1u << table[i].bit;
			return 0;
		}
	}
	return -EINVAL;
}

int caps_parse(const char *text, u32 *ret_drop, u32 *ret_add)
{
	u32 drop = 0, add = 0, bit;
	char sign = 0, *end;

	if (text[0] >= '0' && text[0] <= '7') {
		unsigned long v = strtoul(text, &end, 8);

		if (*end != '\0' || v > UINT32_MAX)
			return -EINVAL;
		*ret_drop = UINT32_MAX;
		*ret_add = (u32)v;
		return 0;
	}
	for (const char *at = text;; at++) {
		size_t len;

		if (*at == '+' || *at == '-') {
			if (sign == 0 && at != text)
				return -EINVAL; /* some have one, some not */
			sign = *at++;
		}
		len = strcspn(at, ",");
		if (bit_of(at, len, &bit) < 0)
			return -EINVAL;
		drop = sign == '-' ? drop | bit : drop & ~bit;
		add = sign == '-' ? add & ~bit : add | bit;
		at += len;
		if (*at == '\0')
			break;
	}
	*ret_drop = sign == 0 ? UINT32_MAX : drop;
	*ret_add = add;
	return 0;
}

static json_t *words(const u32 *set)
{
	json_t *a = json_array();

	for (unsigned i = 0; i < EPM_CAPS_NR; i++)
		(void)json_array_append_new(a, json_integer(set[i]));
	return a;
}

int caps_ask(const struct cmd_common *common, i64 pid, const struct epm_caps_change *change,
	     struct epm_caps *ret, i64 *ret_node)
{
	json_t *answer = NULL, *req = json_pack("{s:s, s:I}", "op", "caps", "pid", (json_int_t)pid);
	int r;

	if (change != NULL) {
		(void)json_object_set_new(req, "drop", words(change->drop));
		(void)json_object_set_new(req, "add", words(change->add));
	}
	r = conn_ask(common, req, &answer);
	if (r != CMD_OK)
		return r;
	for (unsigned i = 0; i < EPM_CAPS_NR; i++)
		ret->set[i] = (u32)conn_int(answer, set_key[i], 0);
	*ret_node = conn_int(answer, "node", -1);
	json_decref(answer);
	return CMD_OK;
}

i64 caps_caller(void)
{
	if (access(IN_WORLD, F_OK) == 0)
		return getppid();
	(void)cmd_failf("which process? who called this is no process of the cluster");
	return -1;
}

int caps_json(i64 pid, i64 node, const struct epm_caps *caps)
{
	json_t *j = json_pack("{s:I, s:I}", "pid", (json_int_t)pid, "node", (json_int_t)node);
	int r;

	for (unsigned i = 0; i < EPM_CAPS_NR; i++) {
		json_t *names = json_array();

		for (unsigned bit = 0; bit < 32; bit++)
			if ((caps->set[i] >> bit & 1) != 0 && caps_name(bit) != NULL)
				(void)json_array_append_new(names, json_string(caps_name(bit)));
		(void)json_object_set_new(j, set_key[i], names);
	}
	r = cmd_json(j);
	json_decref(j);
	return r;
}
