// part: door
/* A client's bytes as a message of the door: what is accepted, packs and parses to the same again. */
#include "door_wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	KRG_AUTO_BUF struct krg_buf b = {0};
	json_t *j = NULL, *again = NULL;
	struct krg_err err;

	if (size > DOOR_REQUEST_MAX || door_parse(data, size, &j, &err) < 0)
		return 0;
	(void)!door_answer_check(j, &err);
	door_pack(j, &b);
	ASSERT(b.len > sizeof(u32));
	ASSERT(door_parse(b.data + sizeof(u32), b.len - sizeof(u32), &again, &err) == 0);
	ASSERT(json_equal(j, again));
	json_decref(j);
	json_decref(again);
	return 0;
}
