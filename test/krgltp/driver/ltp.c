/* ltp.c - exit statuses of the Linux Test Project's programs (tst_res_flags.h, tst_test.h there). */
#include "krgltp.h"
#include <sys/wait.h>

#define LTP_FAIL 1
#define LTP_BROK 2
#define LTP_CONF 32

enum how ltp_how(int status)
{
	int code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;

	if (code < 0 || code >= 126 || (code & (LTP_FAIL | LTP_BROK)) != 0)
		return HOW_FAIL;
	return (code & LTP_CONF) != 0 ? HOW_SKIP : HOW_PASS; /* 4, WARN, alone is no failure */
}

enum how run_worst(const struct run *run)
{
	unsigned n[4] = {0};

	for (unsigned i = 0; i < run->n; i++)
		n[run->one[i].how]++;
	if (n[HOW_LATE] > 0)
		return HOW_LATE;
	if (n[HOW_FAIL] > 0)
		return HOW_FAIL;
	return n[HOW_PASS] > 0 || run->n == 0 ? HOW_PASS : HOW_SKIP;
}

const char *how_name(enum how how)
{
	static const char *const names[] = {"pass", "fail", "skip", "too late"};

	return names[how];
}
