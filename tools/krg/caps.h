/* caps.h - Kerrighed capabilities as people write them, for krg run, krg caps and krgcapset.
 *
 *	"+CAP,CAP,-CAP"   a sign holds until the next one: what comes, what goes
 *	"CAP,CAP", "0201" these, and no others (octal)
 *
 * Threads  one.
 */
#ifndef KRG_TOOLS_CAPS_H
#define KRG_TOOLS_CAPS_H
#include "conn.h"
#include "epm.h"

/* new = (old & ~*ret_drop) | *ret_add.  -EINVAL. */
int caps_parse(const char *text, u32 *ret_drop, u32 *ret_add) KRG_MUST_CHECK;
/* Of a bit; NULL: it has none. */
const char *caps_name(unsigned bit);

/* Ask the daemon about pid; change NULL: only look.  CMD_OK, or CMD_FAIL (said). */
int caps_ask(const struct cmd_common *common, i64 pid, const struct epm_caps_change *change,
	     struct epm_caps *ret, i64 *ret_node) KRG_MUST_CHECK;
/* The process that called us, if we run in the world; -1 (said): we do not. */
i64 caps_caller(void);
/* The --json output. */
int caps_json(i64 pid, i64 node, const struct epm_caps *caps);
#endif
