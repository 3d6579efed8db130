/* base_buf.c - the growing buffer and the bounded cursor. */
#include "buf.h"
#include "rng.h"
#include "tap.h"

static void integers(void)
{
	KRG_AUTO_BUF struct krg_buf b = {0};
	struct krg_rd r;
	static const u8 want[] = {1, 3, 2, 7, 6, 5, 4, 15, 14, 13, 12, 11, 10, 9, 8};

	krg_buf_put_u8(&b, 1);
	krg_buf_put_u16(&b, 0x0203);
	krg_buf_put_u32(&b, 0x04050607);
	krg_buf_put_u64(&b, 0x08090a0b0c0d0e0full);
	tap_ok(b.len == sizeof(want) && memcmp(b.data, want, sizeof(want)) == 0, "little-endian");
	r = krg_rd_slice(krg_buf_slice(&b));
	tap_eq(krg_rd_left(&r), 15, "left");
	tap_eq(krg_rd_u8(&r), 1, "u8");
	tap_eq(krg_rd_u16(&r), 0x0203, "u16");
	tap_eq(krg_rd_u32(&r), 0x04050607, "u32");
	tap_eq(krg_rd_u64(&r), 0x08090a0b0c0d0e0fll, "u64");
	tap_ok(krg_rd_ok(&r) && krg_rd_left(&r) == 0, "all read");
	tap_eq(krg_rd_u8(&r), 0, "past the end reads 0");
	tap_ok(!krg_rd_ok(&r), "and is bad");
}

/* Every length short of what a get needs: bad, zero, and it stays so. */
static void short_reads(void)
{
	u8 bytes[8] = {1, 1, 1, 1, 1, 1, 1, 1};
	unsigned wrong = 0;

	for (size_t n = 0; n < 8; n++) {
		struct krg_rd r = krg_rd_make(bytes, n);

		wrong += krg_rd_u64(&r) != 0 || krg_rd_ok(&r);
		wrong += krg_rd_left(&r) != 0;
		wrong += krg_rd_u8(&r) != 0; /* a byte would be there, but bad sticks */
		wrong += krg_rd_raw(&r, 0).len != 0 || krg_rd_ok(&r);
	}
	tap_eq(wrong, 0, "short reads are bad and stay bad");
}

static void nothing(void)
{
	KRG_AUTO_BUF struct krg_buf b = {0};
	struct krg_rd r = krg_rd_make(NULL, 0);

	tap_ok(krg_rd_ok(&r) && krg_rd_left(&r) == 0, "no bytes at all is a good cursor");
	tap_ok(krg_rd_raw(&r, 0).data != NULL, "its slices are not NULL");
	krg_buf_put(&b, NULL, 0);
	tap_eq(b.len, 0, "put of nothing");
	tap_ok(krg_buf_grow(&b, 0) != NULL, "grow by nothing");
	krg_buf_put_bytes(&b, NULL, 0);
	r = krg_rd_slice(krg_buf_slice(&b));
	tap_eq(krg_rd_bytes(&r, 0).len, 0, "bytes of nothing");
	tap_ok(krg_rd_ok(&r), "are good");
}

static void strings(void)
{
	KRG_AUTO_BUF struct krg_buf b = {0};
	char s[6];
	struct krg_rd r;

	krg_buf_put_str(&b, "hello");
	r = krg_rd_slice(krg_buf_slice(&b));
	krg_rd_str(&r, s, sizeof(s));
	tap_ok(krg_rd_ok(&r) && strcmp(s, "hello") == 0, "a string that just fits");
	r = krg_rd_slice(krg_buf_slice(&b));
	krg_rd_str(&r, s, sizeof(s) - 1);
	tap_ok(!krg_rd_ok(&r) && s[0] == '\0', "one byte too long is bad, and empty");
	b.data[6] = '\0';
	r = krg_rd_slice(krg_buf_slice(&b));
	krg_rd_str(&r, s, sizeof(s));
	tap_ok(!krg_rd_ok(&r) && s[0] == '\0', "a NUL inside is bad");
	krg_buf_reset(&b);
	krg_buf_put_u32(&b, 0xffffffff);
	krg_buf_put(&b, "abc", 3);
	r = krg_rd_slice(krg_buf_slice(&b));
	tap_eq(krg_rd_bytes(&r, SIZE_MAX).len, 0, "a length past the end: empty");
	tap_ok(!krg_rd_ok(&r), "and bad");
}

static void duplicates(void)
{
	KRG_AUTO_FREE char *p = krg_slice_strdup(krg_slice_str("abc"));
	KRG_AUTO_FREE char *empty = krg_slice_strdup((struct krg_slice){NULL, 0});

	tap_ok(p != NULL && strcmp(p, "abc") == 0, "strdup");
	tap_ok(empty != NULL && *empty == '\0', "strdup of the empty slice");
	tap_ok(krg_slice_strdup((struct krg_slice){(const u8 *)"a\0b", 3}) == NULL,
	       "strdup refuses a NUL inside");
}

static void growing(void)
{
	KRG_AUTO_BUF struct krg_buf b = {0};
	struct krg_rd r;
	struct krg_rng rng;
	unsigned wrong = 0;

	for (int i = 0; i < 20000; i++)
		krg_buf_printf(&b, "%05d", i);
	tap_eq(b.len, 100000, "printf appends without NULs");
	r = krg_rd_slice(krg_buf_slice(&b));
	for (int i = 0; i < 20000; i++) {
		KRG_AUTO_FREE char *digits = krg_slice_strdup(krg_rd_raw(&r, 5));

		wrong += digits == NULL || strtol(digits, NULL, 10) != i;
	}
	tap_eq(wrong, 0, "what was written is read");
	krg_buf_reset(&b);
	tap_ok(b.len == 0 && b.room > 0, "reset keeps the memory");
	krg_rng_init(&rng, 1);
	for (int i = 0; i < 1000; i++) {
		size_t n = krg_rng_below(&rng, 300), before = b.len;
		u8 *p = krg_buf_grow(&b, n);

		wrong += p != b.data + before || b.len != before + n || b.room < b.len;
		memset(p, i, n);
	}
	tap_eq(wrong, 0, "grow by random lengths");
	krg_buf_fini(&b);
	tap_ok(b.data == NULL && b.len == 0, "fini");
}

int main(void)
{
	integers();
	short_reads();
	nothing();
	strings();
	duplicates();
	growing();
	return tap_done();
}
