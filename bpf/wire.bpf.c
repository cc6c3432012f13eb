/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* cgroup_skb/egress, on cgroups whose egress policy is REGISTRY_ONLY: a packet for loopback that would leave by another
 * interface (SO_BINDTODEVICE, IP_UNICAST_IF, IP_PKTINFO) is refused (EPERM). The hooks on addresses let loopback pass and do
 * not see every way to name an interface. An object of its own: nobody else pays for a look at each packet. */
#include <stdbool.h>
#include <stddef.h>

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "include/addr.h"
#include "include/count.h"
#include "include/peek.h"

#define MESH_IP_DESTINATION 16 /* offset in the header of the packet */
#define MESH_IP6_DESTINATION 24

SEC("cgroup_skb/egress")
int mesh_wire(struct __sk_buff *skb)
{
	struct mesh_addr to = {};

	if (skb->ifindex == MESH_LOOPBACK_INTERFACE)
		return 1;
	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		mesh_set_v4(&to, 0);
		if (bpf_skb_load_bytes(skb, MESH_IP_DESTINATION, &to.word[3], sizeof(to.word[3])))
			return 1;
	} else if (skb->protocol != bpf_htons(ETH_P_IPV6) ||
		   bpf_skb_load_bytes(skb, MESH_IP6_DESTINATION, &to, sizeof(to))) {
		return 1;
	}
	if (!mesh_stays_inside(&to))
		return 1;
	mesh_count(MESH_COUNT_EGRESS_REFUSED);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
