#include "log.h"
#include <stdarg.h>
#include <stdatomic.h>
#include <time.h>

static atomic_int log_fd = STDERR_FILENO;
static atomic_int log_level = KRG_LOG_INFO;
static atomic_int log_node = KRG_NODE_NONE;

void krg_log_init(int fd, nodeid node, enum krg_log_level level)
{
	atomic_store(&log_fd, fd);
	atomic_store(&log_node, node);
	atomic_store(&log_level, (int)level);
}

void krg_log_set_level(enum krg_log_level level)
{
	atomic_store(&log_level, (int)level);
}

void krg_log(enum krg_log_level level, const char *part, const char *fmt, ...)
{
	static const char letter[] = "EWID";
	int saved_errno = errno;
	char line[1024];
	struct timespec ts;
	struct tm tm;
	va_list ap;
	size_t n;
	int r;

	if ((int)level > atomic_load(&log_level))
		return;
	(void)clock_gettime(CLOCK_REALTIME, &ts);
	(void)gmtime_r(&ts.tv_sec, &tm);
	r = snprintf(line, sizeof(line), "%02d:%02d:%02d.%06ld %d %c %s: ", tm.tm_hour, tm.tm_min,
		     tm.tm_sec, ts.tv_nsec / 1000, atomic_load(&log_node), letter[level], part);
	n = r > 0 ? KRG_MIN((size_t)r, sizeof(line) - 2) : 0;
	va_start(ap, fmt);
	(void)vsnprintf(line + n, sizeof(line) - n - 1, fmt, ap);
	va_end(ap);
	n = strlen(line);
	krg_one_line(line);
	line[n++] = '\n';
	r = (int)write(atomic_load(&log_fd), line, n);
	(void)r;
	errno = saved_errno;
}
