/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* From and to each hook's context: the only file that knows that there are two families. The verifier lets a
 * hook touch the fields of its own family only, hence the pairs. */
#ifndef MESH_ADDR_H
#define MESH_ADDR_H

#include <linux/bpf.h>
#include <bpf/bpf_endian.h>

#include "abi.h"

#define MESH_AF_INET 2
#define MESH_AF_INET6 10
#define MESH_LOOPBACK4 0x7f000001
#define MESH_MAPPED 0x0000ffff

static __always_inline void mesh_set_v4(struct mesh_addr *addr, __be32 ip)
{
	addr->word[0] = 0;
	addr->word[1] = 0;
	addr->word[2] = bpf_htonl(MESH_MAPPED);
	addr->word[3] = ip;
}

static __always_inline bool mesh_is_v4(const struct mesh_addr *addr)
{
	return !addr->word[0] && !addr->word[1] && addr->word[2] == bpf_htonl(MESH_MAPPED);
}

/* Whether this is exactly the address to which connections are redirected (127.0.0.1 or ::1). */
static __always_inline bool mesh_is_loopback(const struct mesh_addr *addr)
{
	if (mesh_is_v4(addr))
		return addr->word[3] == bpf_htonl(MESH_LOOPBACK4);
	return !addr->word[0] && !addr->word[1] && !addr->word[2] && addr->word[3] == bpf_htonl(1);
}

static __always_inline void mesh_read4(const struct bpf_sock_addr *ctx, struct mesh_endpoint *to)
{
	mesh_set_v4(&to->addr, ctx->user_ip4);
	to->port = (__be16)ctx->user_port;
	to->pad = 0;
}

static __always_inline void mesh_read6(const struct bpf_sock_addr *ctx, struct mesh_endpoint *to)
{
	to->addr.word[0] = ctx->user_ip6[0];
	to->addr.word[1] = ctx->user_ip6[1];
	to->addr.word[2] = ctx->user_ip6[2];
	to->addr.word[3] = ctx->user_ip6[3];
	to->port = (__be16)ctx->user_port;
	to->pad = 0;
}

static __always_inline void mesh_write4(struct bpf_sock_addr *ctx, const struct mesh_endpoint *to)
{
	ctx->user_ip4 = to->addr.word[3];
	ctx->user_port = to->port;
}

static __always_inline void mesh_write6(struct bpf_sock_addr *ctx, const struct mesh_endpoint *to)
{
	ctx->user_ip6[0] = to->addr.word[0];
	ctx->user_ip6[1] = to->addr.word[1];
	ctx->user_ip6[2] = to->addr.word[2];
	ctx->user_ip6[3] = to->addr.word[3];
	ctx->user_port = to->port;
}

/* Loopback of the family in which the application's packets travel: a v4-mapped destination is IPv4 on an
 * AF_INET6 socket too. */
static __always_inline void mesh_loopback_like(const struct mesh_addr *like, __be16 port, struct mesh_endpoint *to)
{
	if (mesh_is_v4(like)) {
		mesh_set_v4(&to->addr, bpf_htonl(MESH_LOOPBACK4));
	} else {
		to->addr.word[0] = 0;
		to->addr.word[1] = 0;
		to->addr.word[2] = 0;
		to->addr.word[3] = bpf_htonl(1);
	}
	to->port = port;
	to->pad = 0;
}

/* Both ends of a connection in sockops; false for a family that is neither. An AF_INET6 socket that speaks IPv4
 * carries v4-mapped addresses here, which are what our keys use already. */
static __always_inline bool mesh_read_ends(const struct bpf_sock_ops *ctx, struct mesh_endpoint *local,
					   struct mesh_endpoint *remote)
{
	/* Volatile: merged with the other branch's loads they would become a load through a computed context
	 * pointer, which the verifier refuses. */
	__be32 local4 = *(const volatile __u32 *)&ctx->local_ip4;
	__be32 remote4 = *(const volatile __u32 *)&ctx->remote_ip4;

	if (ctx->family == MESH_AF_INET) {
		mesh_set_v4(&local->addr, local4);
		mesh_set_v4(&remote->addr, remote4);
	} else if (ctx->family == MESH_AF_INET6) {
		local->addr.word[0] = ctx->local_ip6[0];
		local->addr.word[1] = ctx->local_ip6[1];
		local->addr.word[2] = ctx->local_ip6[2];
		local->addr.word[3] = ctx->local_ip6[3];
		remote->addr.word[0] = ctx->remote_ip6[0];
		remote->addr.word[1] = ctx->remote_ip6[1];
		remote->addr.word[2] = ctx->remote_ip6[2];
		remote->addr.word[3] = ctx->remote_ip6[3];
	} else {
		return false;
	}
	local->port = bpf_htons((__u16)ctx->local_port); /* host order in this context */
	local->pad = 0;
	remote->port = bpf_htons((__u16)bpf_ntohl(ctx->remote_port)); /* network order, in the upper half */
	remote->pad = 0;
	return true;
}

/* Both ends of a connection that arrives. */
static __always_inline void mesh_read_arrival(const struct bpf_sk_lookup *ctx, struct mesh_endpoint *local,
					      struct mesh_endpoint *remote)
{
	if (ctx->family == MESH_AF_INET) {
		mesh_set_v4(&local->addr, *(const volatile __u32 *)&ctx->local_ip4);
		mesh_set_v4(&remote->addr, *(const volatile __u32 *)&ctx->remote_ip4);
	} else {
		local->addr.word[0] = ctx->local_ip6[0];
		local->addr.word[1] = ctx->local_ip6[1];
		local->addr.word[2] = ctx->local_ip6[2];
		local->addr.word[3] = ctx->local_ip6[3];
		remote->addr.word[0] = ctx->remote_ip6[0];
		remote->addr.word[1] = ctx->remote_ip6[1];
		remote->addr.word[2] = ctx->remote_ip6[2];
		remote->addr.word[3] = ctx->remote_ip6[3];
	}
	local->port = bpf_htons((__u16)ctx->local_port); /* host order in this context */
	local->pad = 0;
	remote->port = ctx->remote_port;
	remote->pad = 0;
}

/* Any address that reaches nobody but the namespace itself: loopback, and the unspecified address, which connect() and
 * sendmsg() take for it. */
static __always_inline bool mesh_is_inside(const struct mesh_addr *addr)
{
	if (mesh_is_v4(addr))
		return !addr->word[3] || (addr->word[3] & bpf_htonl(0xff000000)) == bpf_htonl(0x7f000000);
	return !addr->word[0] && !addr->word[1] && !addr->word[2] && (!addr->word[3] || addr->word[3] == bpf_htonl(1));
}

/* Any address that never leaves the namespace (127.0.0.0/8 or ::1). */
static __always_inline bool mesh_stays_inside(const struct mesh_addr *addr)
{
	if (mesh_is_v4(addr))
		return (addr->word[3] & bpf_htonl(0xff000000)) == bpf_htonl(0x7f000000);
	return mesh_is_loopback(addr);
}

#endif
