// part: base
/* fuzz_base_rec.c - records and cursors over any bytes.
 *
 * Whatever decodes keeps its limits, and encoding it again and decoding that gives the same.
 */
#include "rec.h"

#define REC_ALL(F)                                                                                 \
	F(u8, a)                                                                                   \
	F(u16, b) F(u32, c) F(u64, d) F(i32, e) F(i64, f) F(str, name, 24) F(bytes, blob, 300)
KRG_RECORD(all, 7, REC_ALL)
#define REC_SMALL(F) F(u8, a) F(str, name, 24)
KRG_RECORD(small, 8, REC_SMALL)

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);

static bool same(struct krg_slice a, struct krg_slice b)
{
	return a.len == b.len && memcmp(a.data, b.data, a.len) == 0;
}

static void again(const struct rec_all *v)
{
	KRG_AUTO_BUF struct krg_buf b = {0};
	struct rec_all w;
	struct krg_rd r;

	ASSERT(v->name.len <= 24 && v->blob.len <= 300);
	ASSERT(memchr(v->name.data, 0, v->name.len) == NULL);
	rec_all_encode(v, &b);
	r = krg_rd_slice(krg_buf_slice(&b));
	ASSERT(rec_all_decode(&r, &w) == 0 && krg_rd_left(&r) == 0);
	ASSERT(v->a == w.a && v->b == w.b && v->c == w.c && v->d == w.d && v->e == w.e &&
	       v->f == w.f);
	ASSERT(same(v->name, w.name) && same(v->blob, w.blob));
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	struct krg_rd r = krg_rd_make(data, size), in;
	struct rec_small small;
	struct rec_all all;
	char text[16];
	u16 flags;

	while (krg_rd_ok(&r) && krg_rd_left(&r) > 0) {
		switch (krg_rec_peek(&r)) {
		case REC_TYPE_all:
			if (rec_all_decode(&r, &all) == 0)
				again(&all);
			break;
		case REC_TYPE_small:
			if (rec_small_decode(&r, &small) == 0)
				free(krg_slice_strdup(small.name));
			break;
		case 9: /* a record of records */
			if (krg_rec_enter(&r, 9, &in, &flags) < 0)
				break;
			while (krg_rec_peek(&in) != 0 && rec_small_decode(&in, &small) == 0)
				;
			(void)krg_rec_leave(&r, &in, flags);
			break;
		default:
			krg_rd_str(&r, text, sizeof(text));
			ASSERT(strlen(text) < sizeof(text));
		}
	}
	return 0;
}
