/* rng.h - random numbers with their state in the caller's hands: one seed, one run.
 *
 * Source   xoshiro256**, Blackman and Vigna 2018 (seeded by splitmix64).  Not for secrets: those
 *          come from krg_rng_secret() (getrandom(2)).
 * Threads  one struct, one thread at a time.
 */
#ifndef KRG_BASE_RNG_H
#define KRG_BASE_RNG_H
#include "base.h"

struct krg_rng {
	u64 s[4];
};

void krg_rng_init(struct krg_rng *r, u64 seed);
u64 krg_rng_u64(struct krg_rng *r);
/* 0 to n - 1, without bias; n > 0 */
u64 krg_rng_below(struct krg_rng *r, u64 n);
/* true once in n */
bool krg_rng_once_in(struct krg_rng *r, u64 n);
int krg_rng_secret(void *p, size_t n) KRG_MUST_CHECK;
#endif
