/* lab_net.c - bridge, veth pairs and addresses by rtnetlink(7); all inside the lab's own network
 * namespaces. */
#include "lab_impl.h"
#include <arpa/inet.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#define BRIDGE "br0"
#define PREFIX 24

struct nl_msg {
	union {
		struct nlmsghdr h;
		char room[1024];
	};
};

static struct rtattr *nl_put(struct nl_msg *m, u16 type, const void *p, size_t n)
{
	struct rtattr *a = (struct rtattr *)(m->room + NLMSG_ALIGN(m->h.nlmsg_len));

	ASSERT(NLMSG_ALIGN(m->h.nlmsg_len) + RTA_SPACE(n) <= sizeof(m->room));
	a->rta_type = type;
	a->rta_len = (u16)RTA_LENGTH(n);
	if (n > 0)
		memcpy(RTA_DATA(a), p, n);
	m->h.nlmsg_len = NLMSG_ALIGN(m->h.nlmsg_len) + (u32)RTA_SPACE(n);
	return a;
}

static void nl_put_str(struct nl_msg *m, u16 type, const char *s)
{
	(void)nl_put(m, type, s, strlen(s) + 1);
}

static void nl_end(struct nl_msg *m, struct rtattr *nest)
{
	nest->rta_len = (u16)(m->room + m->h.nlmsg_len - (char *)nest);
}

static struct ifinfomsg *nl_newlink(struct nl_msg *m)
{
	*m = (struct nl_msg){
		.h = {.nlmsg_len = NLMSG_LENGTH(sizeof(struct ifinfomsg)),
		      .nlmsg_type = RTM_NEWLINK,
		      .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL}};
	return NLMSG_DATA(&m->h);
}

/* 0 or what the kernel answered */
static int nl_do(struct nl_msg *m)
{
	KRG_AUTO_FD int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	union {
		struct nlmsghdr h;
		char room[2048];
	} ans;
	ssize_t n;

	if (fd < 0)
		return -errno;
	if (send(fd, m->room, m->h.nlmsg_len, 0) < 0)
		return -errno;
	do
		n = recv(fd, ans.room, sizeof(ans.room), 0);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	if ((size_t)n < NLMSG_LENGTH(sizeof(struct nlmsgerr)) || ans.h.nlmsg_type != NLMSG_ERROR)
		return -EPROTO;
	return ((struct nlmsgerr *)NLMSG_DATA(&ans.h))->error;
}

static int link_up(const char *name)
{
	KRG_AUTO_FD int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct ifreq ifr = {.ifr_flags = IFF_UP};

	if (fd < 0)
		return -errno;
	(void)snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "%s", name);
	return ioctl(fd, SIOCSIFFLAGS, &ifr) < 0 ? -errno : 0;
}

void lab_net_addr(unsigned node, char *ret, size_t max)
{
	(void)snprintf(ret, max, "10.77.0.%u", node + 1);
}

/* A locally administered address (IEEE 802), so that all nodes know each other's. */
static void node_mac(unsigned node, u8 *mac)
{
	const u8 all[6] = {0x02, 'k', 'r', 'g', (u8)(node >> 8), (u8)node};

	memcpy(mac, all, sizeof(all));
}

int lab_net_bridge(struct krg_err *err)
{
	struct ifinfomsg *ifi;
	struct rtattr *info;
	struct nl_msg m;
	int r;

	ifi = nl_newlink(&m);
	ifi->ifi_flags = ifi->ifi_change = IFF_UP;
	nl_put_str(&m, IFLA_IFNAME, BRIDGE);
	info = nl_put(&m, IFLA_LINKINFO, NULL, 0);
	nl_put_str(&m, IFLA_INFO_KIND, "bridge");
	nl_end(&m, info);
	r = nl_do(&m);
	if (r == 0)
		r = link_up("lo");
	return r < 0 ? krg_err_set(err, r, "lab: network: bridge") : 0;
}

int lab_net_attach(unsigned node, pid_t pid, struct krg_err *err)
{
	u32 bridge = if_nametoindex(BRIDGE), ns = (u32)pid;
	struct rtattr *info, *data, *peer;
	struct ifinfomsg *ifi, none = {0};
	struct nl_msg m;
	char port[IFNAMSIZ];
	u8 mac[6];
	int r;

	if (bridge == 0)
		return krg_err_set(err, -errno, "lab: network: no bridge");
	(void)snprintf(port, sizeof(port), "node%u", node);
	ifi = nl_newlink(&m);
	ifi->ifi_flags = ifi->ifi_change = IFF_UP;
	nl_put_str(&m, IFLA_IFNAME, port);
	(void)nl_put(&m, IFLA_MASTER, &bridge, sizeof(bridge));
	info = nl_put(&m, IFLA_LINKINFO, NULL, 0);
	nl_put_str(&m, IFLA_INFO_KIND, "veth");
	data = nl_put(&m, IFLA_INFO_DATA, NULL, 0);
	peer = nl_put(&m, VETH_INFO_PEER, &none, sizeof(none));
	nl_put_str(&m, IFLA_IFNAME, "eth0");
	node_mac(node, mac);
	(void)nl_put(&m, IFLA_ADDRESS, mac, sizeof(mac));
	(void)nl_put(&m, IFLA_NET_NS_PID, &ns, sizeof(ns));
	nl_end(&m, peer);
	nl_end(&m, data);
	nl_end(&m, info);
	r = nl_do(&m);
	return r < 0 ? krg_err_set(err, r, "lab: network: link of node %u", node) : 0;
}

void lab_net_detach(unsigned node)
{
	struct ifinfomsg *ifi;
	struct nl_msg m;
	char port[IFNAMSIZ];

	(void)snprintf(port, sizeof(port), "node%u", node);
	ifi = nl_newlink(&m);
	m.h.nlmsg_type = RTM_DELLINK;
	m.h.nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
	ifi->ifi_index = (int)if_nametoindex(port);
	if (ifi->ifi_index != 0)
		(void)nl_do(&m);
}

static int addr_add(unsigned node)
{
	struct nl_msg m = {
		.h = {.nlmsg_len = NLMSG_LENGTH(sizeof(struct ifaddrmsg)),
		      .nlmsg_type = RTM_NEWADDR,
		      .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL}};
	struct ifaddrmsg *ifa = NLMSG_DATA(&m.h);
	struct in_addr addr, brd;
	char text[32];

	lab_net_addr(node, text, sizeof(text));
	if (inet_pton(AF_INET, text, &addr) != 1)
		return -EINVAL;
	brd.s_addr = addr.s_addr | htonl(0xff);
	*ifa = (struct ifaddrmsg){.ifa_family = AF_INET,
				  .ifa_prefixlen = PREFIX,
				  .ifa_index = if_nametoindex("eth0")};
	(void)nl_put(&m, IFA_LOCAL, &addr, sizeof(addr));
	(void)nl_put(&m, IFA_ADDRESS, &addr, sizeof(addr));
	(void)nl_put(&m, IFA_BROADCAST, &brd, sizeof(brd));
	return nl_do(&m);
}

/* The kernel's table of neighbours has one limit for all namespaces (arp(7): gc_thresh3, 1024),
 * which 33 nodes that all talk to each other reach.  Permanent entries do not count. */
static int neighbour_add(unsigned node)
{
	struct nl_msg m = {
		.h = {.nlmsg_len = NLMSG_LENGTH(sizeof(struct ndmsg)),
		      .nlmsg_type = RTM_NEWNEIGH,
		      .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE}};
	struct ndmsg *nd = NLMSG_DATA(&m.h);
	struct in_addr addr;
	char text[32];
	u8 mac[6];

	lab_net_addr(node, text, sizeof(text));
	if (inet_pton(AF_INET, text, &addr) != 1)
		return -EINVAL;
	node_mac(node, mac);
	*nd = (struct ndmsg){.ndm_family = AF_INET,
			     .ndm_ifindex = (int)if_nametoindex("eth0"),
			     .ndm_state = NUD_PERMANENT};
	(void)nl_put(&m, NDA_DST, &addr, sizeof(addr));
	(void)nl_put(&m, NDA_LLADDR, mac, sizeof(mac));
	return nl_do(&m);
}

int lab_net_address(unsigned node, unsigned nodes)
{
	int r = link_up("lo");

	if (r == 0)
		r = addr_add(node);
	if (r == 0)
		r = link_up("eth0");
	for (unsigned i = 0; i < nodes && r == 0; i++)
		if (i != node)
			r = neighbour_add(i);
	return r;
}
