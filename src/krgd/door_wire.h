/* door_wire.h - the messages of the door (DOOR.md), for both ends.
 *
 *	r = door_connect(path, &fd, &err);
 *	r = door_call(fd, json_pack("{s:s}", "op", "version"), NULL, 0, &answer, &err);
 *
 * Errors     negative errno and text; -EBADMSG: bytes that are no message; -ECONNRESET: the other
 *            end closed.  door_call() gives the errno and text of a refused request.
 * Ownership  json_t arguments named `j` are taken (freed) by the call; results are the caller's.
 * Threads    any; one socket, one thread at a time in each direction.
 * Blocking   door_send(), door_recv(), door_call() wait for the other end.
 * Limits     DOOR_REQUEST_MAX, DOOR_ANSWER_MAX bytes; DOOR_DEPTH_MAX nested values; DOOR_FDS_MAX
 *            descriptors a message.
 */
#ifndef KRG_DOOR_WIRE_H
#define KRG_DOOR_WIRE_H
#include "buf.h"
#include "err.h"
#include <jansson.h>

#define DOOR_REQUEST_MAX (64u << 10)
#define DOOR_ANSWER_MAX	 (16u << 20)
#define DOOR_DEPTH_MAX	 32
#define DOOR_FDS_MAX	 16
#define DOOR_SOCKET_NAME "krgd.sock"
#define DOOR_DEFAULT	 "/run/krg/" DOOR_SOCKET_NAME

/* Text from elsewhere as an object.  -EBADMSG: not UTF-8, not JSON, not an object, too deep, a key
 * twice. */
int door_parse(const void *text, size_t n, json_t **ret, struct krg_err *err) KRG_MUST_CHECK;
/* Appends length and text. */
void door_pack(const json_t *j, struct krg_buf *ret);

int door_connect(const char *path, int *ret_fd, struct krg_err *err) KRG_MUST_CHECK;
int door_send(int fd, json_t *j, const int *fds, unsigned nfds, struct krg_err *err) KRG_MUST_CHECK;
int door_recv(int fd, json_t **ret, struct krg_err *err) KRG_MUST_CHECK;
/* {"ok":true,…} is 0, {"ok":false,…} the error it tells. */
int door_answer_check(const json_t *answer, struct krg_err *err) KRG_MUST_CHECK;
int door_call(int fd, json_t *j, const int *fds, unsigned nfds, json_t **ret,
	      struct krg_err *err) KRG_MUST_CHECK;
#endif
