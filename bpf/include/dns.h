/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* DNS questions of enrolled workloads: UDP and TCP to port 53, whatever the resolver.
 *
 * A UDP socket is sent to one of the agent's ports on loopback, one for each resolver that it asks: the port
 * tells the agent which resolver was meant (musl asks all of them from one socket at once), and tells recvmsg
 * which address to show. The agent knows the asking socket by its own port, which a socket that is about to
 * connect has not got yet: it is given one. */
#ifndef MESH_DNS_H
#define MESH_DNS_H

#include <linux/in.h>
#include <linux/in6.h>

#include "alive.h"
#include "count.h"
#include "enrolled.h"

#define MESH_DNS_PORT 53
#define MESH_SOCK_DGRAM 2
#define MESH_IPPROTO_UDP 17
#define MESH_FIRST_PORT 32768 /* the kernel's default range of ephemeral ports (ip_local_port_range) */
#define MESH_EPHEMERAL_PORTS 28232
#define MESH_BIND_TRIES 8

static __always_inline bool mesh_cgroup_asks(__u64 cgroup_id)
{
	struct mesh_cgroup *cgroup = cgroup_id ? bpf_map_lookup_elem(&mesh_cgroup_v1, &cgroup_id) : NULL;

	return cgroup && !(cgroup->flags & MESH_CGROUP_NO_DNS);
}

/* The place of this resolver among those that the socket asks; MESH_DNS_SLOTS if there is none left. */
static __always_inline __u32 mesh_slot(struct mesh_resolvers *resolvers, const struct mesh_endpoint *to)
{
	for (__u32 slot = 0; slot < MESH_DNS_SLOTS; slot++) {
		struct mesh_endpoint *have = &resolvers->slot[slot];

		if (slot >= resolvers->used) {
			*have = *to;
			resolvers->used = slot + 1;
			return slot;
		}
		if (have->port == to->port && have->addr.word[0] == to->addr.word[0] &&
		    have->addr.word[1] == to->addr.word[1] && have->addr.word[2] == to->addr.word[2] &&
		    have->addr.word[3] == to->addr.word[3])
			return slot;
	}
	return MESH_DNS_SLOTS;
}

/* A port for a socket that has none, so that the agent can tell who asks. */
static __always_inline __be16 mesh_take_port(struct bpf_sock_addr *ctx)
{
	for (int tries = 0; tries < MESH_BIND_TRIES; tries++) {
		__be16 port = bpf_htons(MESH_FIRST_PORT + bpf_get_prandom_u32() % MESH_EPHEMERAL_PORTS);

		if (ctx->family == MESH_AF_INET6) {
			struct sockaddr_in6 any = { .sin6_family = MESH_AF_INET6, .sin6_port = port };

			if (!bpf_bind(ctx, (struct sockaddr *)&any, sizeof(any)))
				return port;
		} else {
			struct sockaddr_in any = { .sin_family = MESH_AF_INET, .sin_port = port };

			if (!bpf_bind(ctx, (struct sockaddr *)&any, sizeof(any)))
				return port;
		}
	}
	return 0;
}

/* Whether the question to `to` goes to the agent; then `to` is where it goes instead. */
static __always_inline bool mesh_ask(struct bpf_sock_addr *ctx, struct mesh_endpoint *to, bool connecting)
{
	struct mesh_endpoint resolver = *to;
	bool v6 = !mesh_is_v4(&to->addr);
	struct mesh_resolvers *resolvers;
	struct mesh_asker asker = {};
	struct mesh_asked asked = {};
	struct bpf_sock *sk = ctx->sk;
	struct mesh_dns *dns;
	__u64 cgroup_id;
	__be16 port;
	__u32 slot;

	if (to->port != bpf_htons(MESH_DNS_PORT) || ctx->protocol != MESH_IPPROTO_UDP || !sk)
		return false;
	cgroup_id = mesh_enrolled_cgroup();
	if (!mesh_cgroup_asks(cgroup_id))
		return false;
	asker.netns = bpf_get_netns_cookie(ctx);
	dns = bpf_map_lookup_elem(&mesh_dns_v1, &asker.netns);
	if (!dns)
		return false;
	if (!mesh_udp_alive(ctx, v6, dns->port)) {
		mesh_count(MESH_COUNT_DNS_NO_AGENT);
		return false;
	}
	resolvers = bpf_sk_storage_get(&mesh_resolv_v1, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!resolvers) {
		mesh_count(MESH_COUNT_DNS_NO_ROOM);
		return false;
	}
	if (connecting)
		resolvers->used = 0; /* connected sockets hear from one resolver only */
	slot = mesh_slot(resolvers, to);
	if (slot >= MESH_DNS_SLOTS) {
		mesh_count(MESH_COUNT_DNS_NO_SLOT);
		return false;
	}
	port = bpf_htons((__u16)sk->src_port); /* host order in this context */
	if (!port && connecting)
		port = mesh_take_port(ctx);
	asker.port = port;
	asker.slot = slot;
	asker.v6 = v6;
	asked.cgroup_id = cgroup_id;
	asked.resolver = resolver;
	asked.pid = bpf_get_current_pid_tgid() >> 32;
	if (!port || bpf_map_update_elem(&mesh_asker_v1, &asker, &asked, BPF_ANY)) {
		mesh_count(MESH_COUNT_DNS_NO_ROOM);
		return false;
	}
	mesh_count(MESH_COUNT_DNS_TAKEN);
	mesh_loopback_like(&resolver.addr, bpf_htons(bpf_ntohs(dns->port) + slot), to);
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

	resolvers = sk ? bpf_sk_storage_get(&mesh_resolv_v1, sk, 0, 0) : NULL;
	if (!resolvers || !mesh_is_loopback(&from->addr))
		return false;
	netns = bpf_get_netns_cookie(ctx);
	dns = bpf_map_lookup_elem(&mesh_dns_v1, &netns);
	if (!dns)
		return false;
	slot = (__u32)bpf_ntohs(from->port) - bpf_ntohs(dns->port);
	if (slot >= MESH_DNS_SLOTS || slot >= resolvers->used)
		return false;
	*from = resolvers->slot[slot];
	return true;
}

#endif
