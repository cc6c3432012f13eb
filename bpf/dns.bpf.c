/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* cgroup/sendmsg4|6 and cgroup/recvmsg4|6: datagrams of sockets that are not connected. DNS questions (include/dns.h) fail
 * open: one that cannot be taken goes where it was going, as all others do, if the egress policy lets it
 * (include/egress.h). */
#include "include/dns.h"
#include "include/egress.h"

/* Whether the socket asks through the agent, and sends to it already: it is connected (then it comes by only because it names
 * a source, with IP_PKTINFO, or speaks IPv4 as an IPv6 socket). `from` is where its record says that it asks from: from
 * elsewhere the question would be taken for another socket's. */
static __always_inline bool mesh_asks_on(struct bpf_sock_addr *ctx, const struct mesh_endpoint *to, struct mesh_addr *from)
{
	struct bpf_sock *sk = ctx->sk;
	struct mesh_resolvers *resolvers = sk ? bpf_sk_storage_get(&mesh_resolv_v2, sk, 0, 0) : NULL;
	struct mesh_endpoint resolver = *to;

	if (!resolvers || !resolvers->used || (to->port && !mesh_unask(ctx, &resolver)))
		return false;
	*from = resolvers->from.addr;
	return true;
}

SEC("cgroup/sendmsg4")
int mesh_sendmsg4(struct bpf_sock_addr *ctx)
{
	struct mesh_endpoint to;
	struct mesh_addr from;

	mesh_read4(ctx, &to);
	if (mesh_asks_on(ctx, &to, &from)) {
		if (mesh_is_v4(&from))
			ctx->msg_src_ip4 = from.word[3];
		return 1;
	}
	mesh_set_v4(&from, ctx->msg_src_ip4);
	if (!mesh_ask(ctx, &to, &from, false)) {
		if (mesh_is_stray(ctx, &to))
			return 0;
		return mesh_datagram_may_leave(ctx, &to);
	}
	mesh_write4(ctx, &to);
	return 1;
}

SEC("cgroup/sendmsg6")
int mesh_sendmsg6(struct bpf_sock_addr *ctx)
{
	struct mesh_endpoint to;
	struct mesh_addr from;

	mesh_read6(ctx, &to);
	if (mesh_asks_on(ctx, &to, &from)) {
		if (!mesh_is_v4(&from)) {
			ctx->msg_src_ip6[0] = from.word[0];
			ctx->msg_src_ip6[1] = from.word[1];
			ctx->msg_src_ip6[2] = from.word[2];
			ctx->msg_src_ip6[3] = from.word[3];
		}
		return 1;
	}
	from.word[0] = ctx->msg_src_ip6[0];
	from.word[1] = ctx->msg_src_ip6[1];
	from.word[2] = ctx->msg_src_ip6[2];
	from.word[3] = ctx->msg_src_ip6[3];
	if (!mesh_ask(ctx, &to, &from, false)) {
		if (mesh_is_stray(ctx, &to))
			return 0;
		return mesh_datagram_may_leave(ctx, &to);
	}
	mesh_write6(ctx, &to);
	return 1;
}

SEC("cgroup/recvmsg4")
int mesh_recvmsg4(struct bpf_sock_addr *ctx)
{
	struct mesh_endpoint from;

	mesh_read4(ctx, &from);
	if (mesh_unask(ctx, &from))
		mesh_write4(ctx, &from);
	return 1;
}

SEC("cgroup/recvmsg6")
int mesh_recvmsg6(struct bpf_sock_addr *ctx)
{
	struct mesh_endpoint from;

	mesh_read6(ctx, &from);
	if (mesh_unask(ctx, &from))
		mesh_write6(ctx, &from);
	return 1;
}
