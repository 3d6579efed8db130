// part: krgd
/* A client's epm_run record, from bytes to the environment of the program. */
#include "krgd.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const gid_t groups[] = {1, 2};
	struct door_peer peer = {.uid = size % 2 ? 1000 : 0, .groups = groups, .ngroups = 2};
	KRG_AUTO_BUF struct krg_buf env = {0};
	KRG_AUTO_FREE char *text = krg_xalloc(size + 1);
	struct krg_rd rd = krg_rd_make(data, size);
	struct krgd_limits limits = {.nice = 0};
	struct rec_epm_run run;
	struct krg_err err;

	memcpy(text, data, size);
	(void)!krgd_limits_parse(text, &limits);
	if (rec_epm_run_decode(&rd, &run) < 0 || krgd_run_check(&run, &peer, &limits, &err) < 0)
		return 0;
	krgd_run_env(&run, "/run/krg/krgd.sock", &env);
	ASSERT(env.len > 0 && env.data[env.len - 1] == '\0');
	return 0;
}
