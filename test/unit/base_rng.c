/* base_rng.c - the generator against its published values, its range, its secrets. */
#include "rng.h"
#include "tap.h"

int main(void)
{
	struct krg_rng r = {{1, 2, 3, 4}}, a, b;
	/* xoshiro256** from state 1 2 3 4, as the authors' C code gives it (also the test vector of
	 * Rust's rand_xoshiro). */
	static const u64 want[] = {11520,
				   0,
				   1509978240,
				   1215971899390074240,
				   1216172134540287360,
				   607988272756665600,
				   16172922978634559625u,
				   8476171486693032832,
				   10595114339597558777u,
				   2904607092377533576};
	unsigned wrong = 0, count[7] = {0};
	u8 x[32] = {0}, y[32] = {0};

	for (unsigned i = 0; i < KRG_NELEM(want); i++)
		wrong += krg_rng_u64(&r) != want[i];
	tap_eq(wrong, 0, "xoshiro256** gives the published values");
	krg_rng_init(&a, 0);
	/* splitmix64 from 0: its published first values */
	tap_ok(a.s[0] == 0xe220a8397b1dcdafull && a.s[1] == 0x6e789e6aa1b965f4ull,
	       "seeded by splitmix64");
	krg_rng_init(&a, 99);
	krg_rng_init(&b, 99);
	for (int i = 0; i < 1000; i++)
		wrong += krg_rng_u64(&a) != krg_rng_u64(&b);
	tap_eq(wrong, 0, "one seed, one sequence");
	for (int i = 0; i < 70000; i++) {
		u64 v = krg_rng_below(&a, 7);

		if (v < 7)
			count[v]++;
		else
			wrong++;
	}
	tap_eq(wrong, 0, "below 7");
	for (int i = 0; i < 7; i++)
		wrong += count[i] < 9500 || count[i] > 10500;
	tap_eq(wrong, 0, "evenly");
	for (int i = 0; i < 1000; i++) {
		wrong += krg_rng_below(&a, 1) != 0;
		wrong += krg_rng_below(&a, 1ull << 63) >= 1ull << 63;
		wrong += krg_rng_below(&a, UINT64_MAX) == UINT64_MAX;
		wrong += !krg_rng_once_in(&a, 1);
	}
	tap_eq(wrong, 0, "the ends of the range");
	tap_ok(krg_rng_secret(x, sizeof(x)) == 0 && krg_rng_secret(y, sizeof(y)) == 0 &&
		       memcmp(x, y, sizeof(x)) != 0,
	       "two secrets differ");
	return tap_done();
}
