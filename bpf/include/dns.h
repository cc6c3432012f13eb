/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* DNS questions of enrolled workloads: UDP and TCP to port 53, whatever the resolver.
 *
 * A UDP socket is sent to one of the agent's ports on loopback, one for each resolver that it asks: the port
 * tells the agent which resolver was meant (musl asks all of them from one socket at once), and tells recvmsg
 * which address to show. The agent knows the asking socket by its own address and port, which a socket that is about to
 * connect has not got yet: it is given them. DNS is not a matter of admission, so while no agent answers, questions go to the
 * resolver that was asked (and names of the mesh are unknown), instead of nowhere. */
#ifndef MESH_DNS_H
#define MESH_DNS_H

#include <linux/in.h>
#include <linux/in6.h>

#include "addr.h"
#include "askers.h"
#include "count.h"
#include "doors.h"
#include "enrolled.h"
#include "peek.h"

#define MESH_DNS_PORT 53
#define MESH_SOCK_DGRAM 2
#define MESH_BIND_TRIES 16

static __always_inline bool mesh_cgroup_asks(__u64 cgroup_id)
{
	struct mesh_cgroup *cgroup = cgroup_id ? bpf_map_lookup_elem(&mesh_cgroup_v1, &cgroup_id) : NULL;

	return cgroup && !(cgroup->flags & MESH_CGROUP_NO_DNS);
}

/* Bind the socket to this address and port; for AF_INET6 sockets too, whatever they speak. */
static __always_inline bool mesh_bind(struct bpf_sock_addr *ctx, const struct mesh_addr *addr, __be16 port)
{
	if (ctx->family == MESH_AF_INET6) {
		struct sockaddr_in6 at = { .sin6_family = MESH_AF_INET6, .sin6_port = port };

		__builtin_memcpy(&at.sin6_addr, addr, sizeof(*addr));
		return !bpf_bind(ctx, (struct sockaddr *)&at, sizeof(at));
	} else {
		struct sockaddr_in at = { .sin_family = MESH_AF_INET, .sin_port = port };

		at.sin_addr.s_addr = addr->word[3];
		return !bpf_bind(ctx, (struct sockaddr *)&at, sizeof(at));
	}
}

#define MESH_BOUND_TO_SOURCE (1 << 16)

/* Bind a socket that has none to a port (host order; 0: none was free), so that the agent can tell who asks; and to `source`,
 * if it can be (MESH_BOUND_TO_SOURCE): the namespace's own address, not loopback, so that the socket may connect to anywhere
 * afterwards. A function of its own, as mesh_enrolled_cgroup(). */
__attribute__((noinline)) __u32 mesh_take_port(struct bpf_sock_addr *ctx, __u64 netns, const struct mesh_addr *source)
{
	struct mesh_range range = mesh_ephemeral(ctx);
	__u32 size = range.last - range.first + 1;
	struct mesh_addr any = {};

	if (!source)
		return 0;
	for (__u32 tries = 0; tries < MESH_BIND_TRIES; tries++) {
		__u32 port = range.first + bpf_get_prandom_u32() % size;
		/* the last tries without it: the namespace may have lost the address */
		bool bound = source->word[3] && tries < MESH_BIND_TRIES / 2;

		if (mesh_is_reserved(ctx, port) || mesh_door_of(netns, bpf_htons((__u16)port), MESH_UDP))
			continue;
		if (mesh_bind(ctx, bound ? source : &any, bpf_htons((__u16)port)))
			return port | (bound ? MESH_BOUND_TO_SOURCE : 0);
	}
	return 0;
}

static __always_inline bool mesh_is_zero(const struct mesh_addr *addr)
{
	return !addr->word[0] && !addr->word[1] && !addr->word[3] &&
	       (!addr->word[2] || addr->word[2] == bpf_htonl(MESH_MAPPED));
}

/* The address that the socket is bound to; all zero: none. */
static __always_inline void mesh_bound_to(struct bpf_sock *sk, struct mesh_addr *addr)
{
	__be32 v4 = sk->src_ip4;

	/* Loaded here: merged with the other branch's it would be through a computed pointer, which the verifier refuses. */
	asm volatile("" : "+r"(v4));
	if (sk->family == MESH_AF_INET6) {
		addr->word[0] = sk->src_ip6[0];
		addr->word[1] = sk->src_ip6[1];
		addr->word[2] = sk->src_ip6[2];
		addr->word[3] = sk->src_ip6[3];
	} else {
		mesh_set_v4(addr, v4);
	}
}

/* The socket asks from there from now on. */
static __always_inline void mesh_asks_from(struct bpf_sock_addr *ctx, struct mesh_resolvers *resolvers, __u64 netns,
					   const struct mesh_endpoint *from)
{
	if (!mesh_same(&resolvers->from, from) || resolvers->netns != netns)
		mesh_forget_asker(resolvers);
	resolvers->from = *from;
	resolvers->netns = netns;
	resolvers->cookie = bpf_get_socket_cookie(ctx);
}

static __always_inline bool mesh_is_link_local(const struct mesh_addr *addr)
{
	return (addr->word[0] & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000);
}

/* The agent's DNS record of the namespace, if it takes this question now. */
static __always_inline struct mesh_dns *mesh_takes(struct bpf_sock_addr *ctx, const struct mesh_endpoint *to, __u64 cgroup_id,
						   __u64 netns, bool connecting)
{
	struct mesh_endpoint gate = {};
	struct mesh_dns *dns;

	if (!mesh_cgroup_asks(cgroup_id))
		return NULL;
	dns = bpf_map_lookup_elem(&mesh_dns_v2, &netns);
	if (!dns)
		return NULL;
	/* sendmsg() has chosen the interface already, by the scope, and loopback is not there */
	if (!connecting && mesh_is_link_local(&to->addr))
		return NULL;
	mesh_loopback_like(&to->addr, dns->port, &gate);
	if (mesh_is_served(netns, &gate, MESH_UDP))
		return dns;
	mesh_count(MESH_COUNT_DNS_NO_AGENT);
	return NULL;
}

/* Where the socket will ask from. `source`: what the datagram says; all zero: the socket's own choice. */
static __always_inline bool mesh_from(struct bpf_sock_addr *ctx, struct bpf_sock *sk, const struct mesh_endpoint *to,
				      const struct mesh_addr *source, struct mesh_dns *dns, __u64 netns, bool connecting,
				      struct mesh_endpoint *from)
{
	struct mesh_addr own = mesh_is_v4(&to->addr) ? dns->source[0] : dns->source[1];
	__u32 taken;

	from->addr = *source;
	from->port = bpf_htons((__u16)sk->src_port); /* host order in this context */
	from->pad = 0;
	if (!from->port) {
		if (!mesh_is_zero(source))
			own = *source;
		taken = connecting ? mesh_take_port(ctx, netns, &own) : 0;
		if (!taken)
			return false;
		from->port = bpf_htons((__u16)taken);
		if (taken & MESH_BOUND_TO_SOURCE)
			from->addr = own;
	}
	if (mesh_is_zero(&from->addr))
		mesh_loopback_like(&to->addr, from->port, from);
	return true;
}

/* Whether the question to `to` goes to the agent; then `to` is where it goes instead. `source`: where from, if that is said. */
static __always_inline bool mesh_ask(struct bpf_sock_addr *ctx, struct mesh_endpoint *to, const struct mesh_addr *source,
				     bool connecting)
{
	struct mesh_resolvers *resolvers;
	struct mesh_endpoint from = {};
	struct mesh_asked asked = {};
	struct bpf_sock *sk = ctx->sk;
	enum mesh_noted noted;
	struct mesh_dns *dns;
	__u64 netns;
	__u32 slot;

	if (to->port != bpf_htons(MESH_DNS_PORT) || ctx->protocol != MESH_UDP || !sk)
		return false;
	asked.cgroup_id = mesh_enrolled_cgroup();
	netns = bpf_get_netns_cookie(ctx);
	dns = mesh_takes(ctx, to, asked.cgroup_id, netns, connecting);
	if (!dns)
		return false;
	resolvers = bpf_sk_storage_get(&mesh_resolv_v2, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!resolvers || !mesh_from(ctx, sk, to, source, dns, netns, connecting, &from)) {
		mesh_count(MESH_COUNT_DNS_NO_ROOM);
		return false;
	}
	if (connecting)
		mesh_forget_asker(resolvers); /* connected sockets hear from one resolver only */
	mesh_asks_from(ctx, resolvers, netns, &from);
	slot = mesh_slot(resolvers, to);
	if (slot >= MESH_DNS_SLOTS) {
		mesh_count(MESH_COUNT_DNS_NO_SLOT);
		return false;
	}
	asked.cookie = resolvers->cookie;
	asked.resolver = *to;
	asked.pid = bpf_get_current_pid_tgid() >> 32;
	asked.scope = mesh_is_link_local(&to->addr) ? mesh_scope_of(ctx) : 0;
	noted = mesh_note_asker(resolvers, slot, &asked);
	if (noted != MESH_NOTED) {
		mesh_count(noted == MESH_NOTED_SHARED ? MESH_COUNT_DNS_SHARED : MESH_COUNT_DNS_NO_ROOM);
		return false;
	}
	mesh_count(MESH_COUNT_DNS_TAKEN);
	mesh_loopback_like(&to->addr, bpf_htons(bpf_ntohs(dns->port) + slot), to);
	return true;
}

/* A UDP socket that asked connects to somewhere that is no resolver: it asks nobody any more. */
static __always_inline void mesh_asks_no_more(struct bpf_sock_addr *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	struct mesh_resolvers *resolvers = sk ? bpf_sk_storage_get(&mesh_resolv_v2, sk, 0, 0) : NULL;

	if (resolvers)
		mesh_forget_asker(resolvers);
}

/* Whether somebody but the agent sends to a DNS port of the agent's itself: only what the hooks send there is a question, and
 * has a record. */
static __always_inline bool mesh_is_stray(struct bpf_sock_addr *ctx, const struct mesh_endpoint *to)
{
	struct bpf_sock *sk = ctx->sk;
	const struct mesh_door *door;

	if (ctx->protocol != MESH_UDP || !mesh_is_inside(&to->addr))
		return false;
	door = mesh_door_of(bpf_get_netns_cookie(ctx), to->port, MESH_UDP);
	if (!door || !(door->flags & MESH_DOOR_STEERED))
		return false;
	if (sk && bpf_sk_storage_get(&mesh_ours_v1, sk, 0, 0))
		return false;
	mesh_count(MESH_COUNT_DNS_STRAY);
	return true;
}

/* Whether `from`, the sender of a datagram, is the agent speaking for a resolver; then `from` is that resolver. */
static __always_inline bool mesh_unask(struct bpf_sock_addr *ctx, struct mesh_endpoint *from)
{
	struct mesh_resolvers *resolvers;
	struct bpf_sock *sk = ctx->sk;
	struct mesh_dns *dns;
	__u64 netns;
	__u32 slot;

	resolvers = sk ? bpf_sk_storage_get(&mesh_resolv_v2, sk, 0, 0) : NULL;
	if (!resolvers || !mesh_is_loopback(&from->addr))
		return false;
	netns = bpf_get_netns_cookie(ctx);
	dns = bpf_map_lookup_elem(&mesh_dns_v2, &netns);
	if (!dns)
		return false;
	slot = (__u32)bpf_ntohs(from->port) - bpf_ntohs(dns->port);
	if (slot >= MESH_DNS_SLOTS || slot >= resolvers->used)
		return false;
	*from = resolvers->slot[slot];
	return true;
}

#endif
