/* tap.h - tests that speak TAP (Test Anything Protocol, testanything.org).
 *
 * int main(void) { tap_ok(cond, "what %d", n); …; return tap_done(); }
 *
 * Threads  any: the counters are atomic.
 */
#ifndef KRG_TEST_TAP_H
#define KRG_TEST_TAP_H
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>

static atomic_int tap_count, tap_failed;

__attribute__((format(printf, 4, 5), unused)) static bool tap_check(bool ok, const char *file,
								    int line, const char *fmt, ...)
{
	char what[256];
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(what, sizeof(what), fmt, ap);
	va_end(ap);
	printf("%sok %d - %s\n", ok ? "" : "not ", atomic_fetch_add(&tap_count, 1) + 1, what);
	if (!ok) {
		atomic_fetch_add(&tap_failed, 1);
		printf("# failed at %s:%d\n", file, line);
	}
	(void)fflush(stdout);
	return ok;
}

#define tap_ok(cond, ...) tap_check((cond), __FILE__, __LINE__, __VA_ARGS__)
#define tap_eq(got, want, ...)                                                                     \
	({                                                                                         \
		long long got_ = (long long)(got), want_ = (long long)(want);                      \
		if (!tap_check(got_ == want_, __FILE__, __LINE__, __VA_ARGS__))                    \
			printf("# got %lld, want %lld\n", got_, want_);                            \
		got_ == want_;                                                                     \
	})

__attribute__((unused)) static int tap_done(void)
{
	printf("1..%d\n", atomic_load(&tap_count));
	return atomic_load(&tap_failed) != 0 || atomic_load(&tap_count) == 0;
}

__attribute__((unused)) static int tap_skip_all(const char *why)
{
	printf("1..0 # SKIP %s\n", why);
	return 77;
}
#endif
