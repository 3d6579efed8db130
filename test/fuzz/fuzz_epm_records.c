// part: epm
/* fuzz_epm_records - everything that another node may send to epm: decoded within its bounds, and
 * what was accepted says the same once encoded again. */
#include "epm_impl.h"

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);

/* Decode; what is accepted must survive a second journey. */
#define JOURNEY(name)                                                                              \
	do {                                                                                       \
		struct krg_rd rd_ = krg_rd_make(data, size);                                       \
		struct krg_buf one_ = {0}, two_ = {0};                                             \
		struct rec_##name a_, b_;                                                          \
		if (rec_##name##_decode(&rd_, &a_) == 0) {                                         \
			struct krg_rd again_;                                                      \
			rec_##name##_encode(&a_, &one_);                                           \
			again_ = krg_rd_make(one_.data, one_.len);                                 \
			ASSERT(rec_##name##_decode(&again_, &b_) == 0);                            \
			rec_##name##_encode(&b_, &two_);                                           \
			ASSERT(one_.len == two_.len &&                                             \
			       memcmp(one_.data, two_.data, one_.len) == 0);                       \
		}                                                                                  \
		krg_buf_fini(&one_);                                                               \
		krg_buf_fini(&two_);                                                               \
	} while (0)

static void fds(struct krg_slice records)
{
	struct krg_rd rd = krg_rd_slice(records);
	struct rec_stream_ref ref;
	struct rec_epm_fd fd;

	while (krg_rd_left(&rd) > 0 && rec_epm_fd_decode(&rd, &fd) == 0) {
		struct krg_rd sub = krg_rd_slice(fd.ref);
		char *path = krg_slice_strdup(fd.path);

		ASSERT(path != NULL && strlen(path) == fd.path.len);
		free(path);
		if (rec_stream_ref_decode(&sub, &ref) == 0)
			ASSERT(!sub.bad);
	}
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	struct krg_rd rd = krg_rd_make(data, size);
	struct rec_epm_prepare p;

	JOURNEY(epm_prepare);
	JOURNEY(epm_spawn);
	JOURNEY(epm_fd);
	JOURNEY(epm_which);
	JOURNEY(epm_commit);
	JOURNEY(epm_timer);
	JOURNEY(epm_onward);
	JOURNEY(epm_signal);
	JOURNEY(epm_child);
	JOURNEY(epm_kin);
	JOURNEY(epm_ended);
	JOURNEY(epm_kill);
	JOURNEY(epm_count);
	JOURNEY(epm_call);
	JOURNEY(epm_value);
	JOURNEY(epm_caps_ask);
	JOURNEY(epm_caps);
	JOURNEY(epm_tty);
	JOURNEY(epm_tty_r);
	JOURNEY(epm_tty_open);
	JOURNEY(epm_tty_signal);
	JOURNEY(epm_run);
	JOURNEY(epm_proc);
	if (rec_epm_prepare_decode(&rd, &p) == 0) {
		struct krg_rd sub = krg_rd_slice(p.spawn);
		struct rec_epm_spawn s;

		if (rec_epm_spawn_decode(&sub, &s) == 0)
			ASSERT(memchr(s.path.data, 0, s.path.len) == NULL);
		fds(p.fds);
	}
	return 0;
}
