/* conn.h - which daemon is meant, and one question to it.
 *
 * In this order: --socket; --lab (and --node); --node of the lab that KRG_LAB names, or of the only
 * lab; KRG_SOCKET; KRG_LAB (and KRG_NODE); the machine's own daemon; the only lab that is up.
 *
 * Errors  said on stderr, as one line; the caller returns CMD_FAIL.
 */
#ifndef KRG_CONN_H
#define KRG_CONN_H
#include "cmd.h"
#include "door_wire.h"

/* The path of the door; -ENOENT: none is named and no lab is up; -EMLINK: several labs. */
int conn_path(const struct cmd_common *common, char *ret, size_t max,
	      struct krg_err *err) KRG_MUST_CHECK;
int conn_open(const struct cmd_common *common, int *ret_fd, struct krg_err *err) KRG_MUST_CHECK;
/* Takes req.  CMD_OK and the answer (the caller's), or CMD_FAIL (said). */
int conn_ask(const struct cmd_common *common, json_t *req, json_t **ret) KRG_MUST_CHECK;
/* A whole command without options or arguments of its own: asks for op, prints the answer, as JSON if that is
 * wanted.  Returns the exit status. */
int conn_listing(const struct cmd *cmd, int argc, char **argv, const char *op,
		 void (*print)(const json_t *answer));

/* Fields of an answer, with what stands for "it is not there". */
i64 conn_int(const json_t *j, const char *key, i64 none);
double conn_real(const json_t *j, const char *key, double none);
const char *conn_str(const json_t *j, const char *key, const char *none);
#endif
