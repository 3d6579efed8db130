#include "rng.h"
#include <sys/random.h>

static u64 rotl(u64 x, int k)
{
	return x << k | x >> (64 - k);
}

void krg_rng_init(struct krg_rng *r, u64 seed)
{
	for (int i = 0; i < 4; i++) {
		u64 z = (seed += 0x9e3779b97f4a7c15ull);

		z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
		z = (z ^ z >> 27) * 0x94d049bb133111ebull;
		r->s[i] = z ^ z >> 31;
	}
}

u64 krg_rng_u64(struct krg_rng *r)
{
	u64 result = rotl(r->s[1] * 5, 7) * 9, t = r->s[1] << 17;

	r->s[2] ^= r->s[0];
	r->s[3] ^= r->s[1];
	r->s[1] ^= r->s[2];
	r->s[0] ^= r->s[3];
	r->s[2] ^= t;
	r->s[3] = rotl(r->s[3], 45);
	return result;
}

u64 krg_rng_below(struct krg_rng *r, u64 n)
{
	u64 limit, x;

	ASSERT(n > 0);
	limit = UINT64_MAX - UINT64_MAX % n;
	do
		x = krg_rng_u64(r);
	while (x >= limit);
	return x % n;
}

bool krg_rng_once_in(struct krg_rng *r, u64 n)
{
	return krg_rng_below(r, n) == 0;
}

int krg_rng_secret(void *p, size_t n)
{
	u8 *at = p;

	while (n > 0) {
		ssize_t got = getrandom(at, n, 0);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return -errno;
		at += got;
		n -= (size_t)got;
	}
	return 0;
}
