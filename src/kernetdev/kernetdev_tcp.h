/* kernetdev_tcp.h - TCP addresses and socket options, for the files of this folder only. */
#ifndef KRG_KERNETDEV_TCP_H
#define KRG_KERNETDEV_TCP_H
#include "base.h"
#include <sys/socket.h>

/* numeric IPv4 or IPv6, else -EINVAL */
int kd_tcp_addr(const char *addr, u16 port, struct sockaddr_storage *ret, socklen_t *ret_len);
void kd_tcp_setup(int fd);
#endif
