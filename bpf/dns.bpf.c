/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* cgroup/sendmsg4|6 and cgroup/recvmsg4|6: datagrams of sockets that are not connected. DNS questions (include/dns.h) fail
 * open: one that cannot be taken goes where it was going, as all others do, if the egress policy lets it
 * (include/egress.h). */
#include "include/dns.h"
#include "include/egress.h"

SEC("cgroup/sendmsg4")
int mesh_sendmsg4(struct bpf_sock_addr *ctx)
{
	struct mesh_endpoint to;

	mesh_read4(ctx, &to);
	if (!mesh_ask(ctx, &to, false))
		return mesh_datagram_may_leave(ctx, &to);
	mesh_write4(ctx, &to);
	return 1;
}

SEC("cgroup/sendmsg6")
int mesh_sendmsg6(struct bpf_sock_addr *ctx)
{
	struct mesh_endpoint to;

	mesh_read6(ctx, &to);
	if (!mesh_ask(ctx, &to, false))
		return mesh_datagram_may_leave(ctx, &to);
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
