/* log.h - one line per event for people: time (UTC), node, level, part, text.
 *
 *	LOG_W("epm", "pid %d: %s", pid, err.text);
 *
 * Errors   a log that cannot be written is dropped, never waited for.
 * Threads  any; a line is one write(2).  errno is kept.
 * Limits   a line is 1,023 bytes; control characters in it become '?'.
 */
#ifndef KRG_BASE_LOG_H
#define KRG_BASE_LOG_H
#include "base.h"

enum krg_log_level { KRG_LOG_ERROR, KRG_LOG_WARN, KRG_LOG_INFO, KRG_LOG_DEBUG };

/* fd stays the caller's and must outlive the process.  Lines above level are dropped. */
void krg_log_init(int fd, nodeid node, enum krg_log_level level);
void krg_log_set_level(enum krg_log_level level);
void krg_log(enum krg_log_level level, const char *part, const char *fmt, ...) KRG_PRINTF(3, 4);

#define LOG_E(part, ...) krg_log(KRG_LOG_ERROR, part, __VA_ARGS__)
#define LOG_W(part, ...) krg_log(KRG_LOG_WARN, part, __VA_ARGS__)
#define LOG_I(part, ...) krg_log(KRG_LOG_INFO, part, __VA_ARGS__)
#define LOG_D(part, ...) krg_log(KRG_LOG_DEBUG, part, __VA_ARGS__)
#endif
