/* view_msg.h - the messages of the membership protocol as bytes.
 *
 * Errors     -EBADMSG; nothing is kept of a bad message.
 * Ownership  a decoded message has references to its views: vsm_msg_fini().
 */
#ifndef KRG_HOTPLUG_VIEW_MSG_H
#define KRG_HOTPLUG_VIEW_MSG_H
#include "buf.h"
#include "view_sm.h"

void vsm_msg_encode(const struct vsm_msg *m, struct krg_buf *b);
int vsm_msg_decode(struct krg_slice s, struct vsm_msg *ret) KRG_MUST_CHECK;
void vsm_msg_fini(struct vsm_msg *m);
#define AUTO_VSM_MSG __attribute__((cleanup(vsm_msg_fini)))
#endif
