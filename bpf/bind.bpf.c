/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* cgroup/post_bind4|6: nobody but the agent is bound to a port of the agent's, in any network namespace that it serves, also
 * while it is down; and nobody joins a SO_REUSEPORT group of its. The agent marks its sockets before it binds them
 * (mesh_ours_v1), which takes the map: neither user nor capabilities count. Fails closed (EPERM).
 *
 * listen() and sendto() without bind() do not come by here. They take none of these ports either, which are in
 * ip_local_reserved_ports; and who had one all the same would be given nothing (inbound.bpf.c). */
#include "include/count.h"
#include "include/doors.h"

#include <bpf/bpf_endian.h>

static __always_inline int mesh_guard(struct bpf_sock *ctx)
{
	__u8 protocol = ctx->type == 1 /* SOCK_STREAM */ ? MESH_TCP : MESH_UDP;

	if (ctx->type != 1 && ctx->type != 2 /* SOCK_DGRAM */)
		return 1;
	if (!mesh_door_of(bpf_get_netns_cookie(ctx), bpf_htons((__u16)ctx->src_port), protocol))
		return 1;
	if (bpf_sk_storage_get(&mesh_ours_v1, ctx, 0, 0))
		return 1;
	mesh_count(MESH_COUNT_BIND_REFUSED);
	return 0;
}

SEC("cgroup/post_bind4")
int mesh_post_bind4(struct bpf_sock *ctx)
{
	return mesh_guard(ctx);
}

SEC("cgroup/post_bind6")
int mesh_post_bind6(struct bpf_sock *ctx)
{
	return mesh_guard(ctx);
}
