#include "fault.h"
#include "log.h"
#include <signal.h>
#include <stdatomic.h>

static const char *const names[] = {
#define KRG_FAULT_POINT(name, what) #name,
#include "fault_points.def"
#undef KRG_FAULT_POINT
};

static atomic_int armed = -1; /* a point, KRG_FAULT_NR: any, -1: none */
static atomic_uint countdown;
static atomic_bool fired, kills;

bool krg_fault_hit(enum krg_fault point)
{
	int at = atomic_load_explicit(&armed, memory_order_relaxed);

	ASSERT(point < KRG_FAULT_NR);
	if (at < 0 || (at != (int)point && at != KRG_FAULT_NR))
		return false;
	if (atomic_fetch_sub(&countdown, 1) != 1)
		return false;
	atomic_store(&armed, -1);
	atomic_store(&fired, true);
	LOG_W("fault", "fault %s", names[point]);
	if (atomic_load(&kills))
		(void)raise(SIGKILL);
	return true;
}

int krg_fault_arm(const char *spec)
{
	const char *colon = strchr(spec, ':');
	size_t n = colon != NULL ? (size_t)(colon - spec) : strlen(spec);
	unsigned long nth = 1;
	bool kill_ = false;

	if (colon != NULL) {
		char *end;

		nth = strtoul(colon + 1, &end, 10);
		if (end == colon + 1) {
			nth = 1;
			end = (char *)(uintptr_t)colon;
		}
		if (strcmp(end, ":kill") == 0)
			kill_ = true;
		else if (*end != '\0')
			return -EINVAL;
		if (nth == 0 || nth > 1000000)
			return -EINVAL;
	}
	for (int i = 0; i < KRG_FAULT_NR; i++) {
		if (strlen(names[i]) != n || strncmp(names[i], spec, n) != 0)
			continue;
		atomic_store(&fired, false);
		atomic_store(&kills, kill_);
		atomic_store(&countdown, (unsigned)nth);
		atomic_store(&armed, i);
		return 0;
	}
	return -EINVAL;
}

void krg_fault_arm_env(void)
{
	const char *spec = getenv("KRG_FAULT");

	if (spec != NULL && *spec != '\0' && krg_fault_arm(spec) < 0)
		LOG_W("fault", "KRG_FAULT=%s: no such fault point", spec);
}

void krg_fault_disarm(void)
{
	atomic_store(&armed, -1);
}

void krg_fault_arm_nth(unsigned nth)
{
	ASSERT(nth > 0);
	atomic_store(&fired, false);
	atomic_store(&kills, false);
	atomic_store(&countdown, nth);
	atomic_store(&armed, KRG_FAULT_NR);
}

bool krg_fault_fired(void)
{
	return atomic_load(&fired);
}

const char *krg_fault_name(enum krg_fault point)
{
	ASSERT(point < KRG_FAULT_NR);
	return names[point];
}
