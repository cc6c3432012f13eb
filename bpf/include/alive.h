/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Whether an agent lives (mesh_watched), and whether it listens on its loopback port of a namespace now. DNS is not a matter of admission, so while no agent answers,
 * questions go to the resolver that was asked (and names of the mesh are unknown), instead of nowhere. */
#ifndef MESH_ALIVE_H
#define MESH_ALIVE_H

#include "addr.h"
#include "maps.h"

/* Whether a manager lives that has looked at the whole node, in whatever namespace it does. */
static __always_inline bool mesh_watched(void)
{
	__u32 zero = 0;
	struct bpf_sock *found = bpf_map_lookup_elem(&mesh_alive_v1, &zero);

	if (!found)
		return false;
	bpf_sk_release(found);
	return true;
}

static __always_inline __u32 mesh_tuple(struct bpf_sock_tuple *tuple, bool v6, __be16 port)
{
	__builtin_memset(tuple, 0, sizeof(*tuple));
	if (v6) {
		tuple->ipv6.saddr[3] = bpf_htonl(1);
		tuple->ipv6.daddr[3] = bpf_htonl(1);
		tuple->ipv6.sport = bpf_htons(1);
		tuple->ipv6.dport = port;
		return sizeof(tuple->ipv6);
	}
	tuple->ipv4.saddr = bpf_htonl(MESH_LOOPBACK4);
	tuple->ipv4.daddr = bpf_htonl(MESH_LOOPBACK4);
	tuple->ipv4.sport = bpf_htons(1);
	tuple->ipv4.dport = port;
	return sizeof(tuple->ipv4);
}

static __always_inline bool mesh_udp_alive(struct bpf_sock_addr *ctx, bool v6, __be16 port)
{
	struct bpf_sock_tuple tuple;
	__u32 size = mesh_tuple(&tuple, v6, port);
	struct bpf_sock *found;

	if (size == sizeof(tuple.ipv6))
		found = bpf_sk_lookup_udp(ctx, &tuple, sizeof(tuple.ipv6), BPF_F_CURRENT_NETNS, 0);
	else
		found = bpf_sk_lookup_udp(ctx, &tuple, sizeof(tuple.ipv4), BPF_F_CURRENT_NETNS, 0);
	if (!found)
		return false;
	bpf_sk_release(found);
	return true;
}

static __always_inline bool mesh_tcp_alive(struct bpf_sock_addr *ctx, bool v6, __be16 port)
{
	struct bpf_sock_tuple tuple;
	__u32 size = mesh_tuple(&tuple, v6, port);
	struct bpf_sock *found;

	if (size == sizeof(tuple.ipv6))
		found = bpf_skc_lookup_tcp(ctx, &tuple, sizeof(tuple.ipv6), BPF_F_CURRENT_NETNS, 0);
	else
		found = bpf_skc_lookup_tcp(ctx, &tuple, sizeof(tuple.ipv4), BPF_F_CURRENT_NETNS, 0);
	if (!found)
		return false;
	bpf_sk_release(found);
	return true;
}

#endif
