/* base_rec.c - typed records: what is written is read, everything else is -EBADMSG. */
#include "rec.h"
#include "rng.h"
#include "tap.h"

#define REC_ALL(F)                                                                                 \
	F(u8, a)                                                                                   \
	F(u16, b) F(u32, c) F(u64, d) F(i32, e) F(i64, f) F(str, name, 8) F(bytes, blob, 16)
KRG_RECORD(all, 7, REC_ALL)
#define REC_OLD(F) F(u8, a) F(u16, b)
KRG_RECORD(old, 7, REC_OLD)

static const struct rec_all sample = {
	.a = 200,
	.b = 60000,
	.c = 4000000000u,
	.d = 1ull << 63,
	.e = -5,
	.f = INT64_MIN,
	.name = {(const u8 *)"krg", 3},
	.blob = {(const u8 *)"\0\1\2", 3},
};

static bool slice_eq(struct krg_slice a, struct krg_slice b)
{
	return a.len == b.len && (a.len == 0 || memcmp(a.data, b.data, a.len) == 0);
}

static bool all_eq(const struct rec_all *x, const struct rec_all *y)
{
	return x->a == y->a && x->b == y->b && x->c == y->c && x->d == y->d && x->e == y->e &&
	       x->f == y->f && slice_eq(x->name, y->name) && slice_eq(x->blob, y->blob);
}

static void round_trip(void)
{
	KRG_AUTO_BUF struct krg_buf b = {0};
	struct rec_all got;
	struct krg_rd r;

	rec_all_encode(&sample, &b);
	rec_all_encode(&sample, &b);
	r = krg_rd_slice(krg_buf_slice(&b));
	tap_eq(krg_rec_peek(&r), 7, "peek");
	tap_ok(rec_all_decode(&r, &got) == 0 && all_eq(&got, &sample), "first of two");
	tap_ok(rec_all_decode(&r, &got) == 0 && all_eq(&got, &sample), "second of two");
	tap_ok(krg_rd_left(&r) == 0 && krg_rec_peek(&r) == 0, "nothing left");
	tap_ok(rec_all_decode(&r, &got) == -EBADMSG, "a third one is not there");
}

static void truncated(void)
{
	KRG_AUTO_BUF struct krg_buf b = {0};
	const struct rec_all untouched = {.a = 1};
	unsigned wrong = 0;

	rec_all_encode(&sample, &b);
	for (size_t n = 0; n < b.len; n++) {
		struct rec_all got = untouched;
		/* its own allocation, so that a sanitizer sees a read past the end */
		KRG_AUTO_FREE u8 *cut = krg_xalloc(n);
		struct krg_rd r;

		memcpy(cut, b.data, n);
		r = krg_rd_make(cut, n);
		wrong += rec_all_decode(&r, &got) != -EBADMSG || krg_rd_ok(&r);
		wrong += !all_eq(&got, &untouched);
	}
	tap_eq(wrong, 0, "every truncation is refused, the result untouched");
	/* the length says less than the fields need, though more bytes follow */
	for (size_t len = 0; len < b.len - 8; len++) {
		struct krg_rd r = krg_rd_slice(krg_buf_slice(&b));
		struct rec_all got;

		b.data[4] = (u8)len;
		wrong += rec_all_decode(&r, &got) != -EBADMSG;
	}
	tap_eq(wrong, 0, "a record shorter than its fields is refused");
}

static void versions(void)
{
	KRG_AUTO_BUF struct krg_buf b = {0};
	struct rec_all all;
	struct rec_old old;
	struct krg_rd r;

	rec_all_encode(&sample, &b);
	krg_buf_put_u8(&b, 0x5a);
	r = krg_rd_slice(krg_buf_slice(&b));
	tap_ok(rec_old_decode(&r, &old) == 0 && old.a == 200 && old.b == 60000,
	       "a newer writer: what was added at the end is skipped");
	tap_eq(krg_rd_u8(&r), 0x5a, "and the cursor stands behind it");
	b.data[2] = REC_REQUIRED;
	r = krg_rd_slice(krg_buf_slice(&b));
	tap_eq(rec_old_decode(&r, &old), -EBADMSG, "unless it is required");
	r = krg_rd_slice(krg_buf_slice(&b));
	tap_eq(rec_all_decode(&r, &all), 0, "required, and all is known: good");
	b.data[2] = 2;
	r = krg_rd_slice(krg_buf_slice(&b));
	tap_eq(rec_all_decode(&r, &all), -EBADMSG, "unknown flags are refused");
	b.data[2] = 0;
	b.data[0] = 8;
	r = krg_rd_slice(krg_buf_slice(&b));
	tap_eq(rec_all_decode(&r, &all), -EBADMSG, "another type is refused");
	tap_ok(!krg_rd_ok(&r), "and the cursor is bad");
	krg_buf_reset(&b);
	rec_old_encode(&(struct rec_old){.a = 1}, &b);
	r = krg_rd_slice(krg_buf_slice(&b));
	tap_eq(rec_all_decode(&r, &all), -EBADMSG, "an older writer: fields are missing");
}

static void limits(void)
{
	KRG_AUTO_BUF struct krg_buf b = {0};
	struct rec_all v = sample, got;
	struct krg_rd r;

	v.name = krg_slice_str("12345678");
	v.blob = krg_slice_str("1234567890123456");
	rec_all_encode(&v, &b);
	r = krg_rd_slice(krg_buf_slice(&b));
	tap_ok(rec_all_decode(&r, &got) == 0 && all_eq(&got, &v), "str and bytes at their maximum");
	b.data[8 + 27 + 4] = '\0';
	r = krg_rd_slice(krg_buf_slice(&b));
	tap_eq(rec_all_decode(&r, &got), -EBADMSG, "a NUL inside a str is refused");
	b.data[8 + 27 + 4] = '1';
	/* the same bytes, one moved from blob to name: the sum is right, the maximum is not */
	b.data[8 + 27] = 9;
	r = krg_rd_slice(krg_buf_slice(&b));
	tap_eq(rec_all_decode(&r, &got), -EBADMSG, "an oversized str is refused");
	b.data[8 + 27] = 8;
	memset(&b.data[4], 0xff, 4);
	r = krg_rd_slice(krg_buf_slice(&b));
	tap_eq(rec_all_decode(&r, &got), -EBADMSG, "a length of 4 GiB is refused");
}

static void nested(void)
{
	KRG_AUTO_BUF struct krg_buf b = {0};
	struct krg_rd r, in;
	struct rec_old old;
	u16 flags;
	size_t at = krg_rec_begin(&b, 9, REC_REQUIRED);

	for (u8 i = 0; i < 3; i++)
		rec_old_encode(&(struct rec_old){.a = i}, &b);
	krg_rec_end(&b, at);
	r = krg_rd_slice(krg_buf_slice(&b));
	tap_eq(krg_rec_enter(&r, 9, &in, &flags), 0, "enter");
	for (u8 i = 0; i < 3; i++)
		tap_ok(rec_old_decode(&in, &old) == 0 && old.a == i, "inner record %d", i);
	tap_eq(krg_rec_leave(&r, &in, flags), 0, "leave");
	tap_eq(krg_rd_left(&r), 0, "at the end");
}

/* Seeded mutations: a record decodes to something within its limits, or is refused. */
static void mutations(void)
{
	KRG_AUTO_BUF struct krg_buf b = {0};
	struct krg_rng rng;
	unsigned wrong = 0, good = 0;

	krg_rng_init(&rng, 42);
	rec_all_encode(&sample, &b);
	for (int i = 0; i < 50000; i++) {
		KRG_AUTO_FREE u8 *m = krg_xalloc(b.len);
		struct rec_all got;
		struct krg_rd r = krg_rd_make(m, b.len);

		memcpy(m, b.data, b.len);
		for (u64 k = krg_rng_below(&rng, 4); k > 0; k--)
			m[krg_rng_below(&rng, b.len)] = (u8)krg_rng_u64(&rng);
		if (rec_all_decode(&r, &got) < 0)
			continue;
		good++;
		wrong += got.name.len > 8 || got.blob.len > 16;
		wrong += got.name.len > 0 && memchr(got.name.data, 0, got.name.len) != NULL;
	}
	tap_eq(wrong, 0, "50,000 mutations stay within the limits");
	tap_ok(good > 1000, "%u of them still decode", good);
}

int main(void)
{
	round_trip();
	truncated();
	versions();
	limits();
	nested();
	mutations();
	return tap_done();
}
