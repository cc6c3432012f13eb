/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* cgroup/post_bind4|6: while the agent is down, nobody else may take the capture port and be handed the
 * plaintext of enrolled workloads. Allowed is the agent's own user, outside enrolled cgroups (root inside a
 * container is not the agent). Fails closed (EPERM). */
#include "include/count.h"
#include "include/enrolled.h"

#include <bpf/bpf_endian.h>

/* Whether the current process may have a port that belongs to the agent of that user. */
static __always_inline int mesh_admit(__u32 uid)
{
	if ((__u32)bpf_get_current_uid_gid() == uid && !mesh_enrolled_cgroup())
		return 1;
	mesh_count(MESH_COUNT_BIND_REFUSED);
	return 0;
}

/* The agent's DNS ports: nobody else may answer the questions of enrolled workloads. */
static __always_inline int mesh_guard_dns(struct bpf_sock *ctx, __u64 netns)
{
	struct mesh_dns *dns = bpf_map_lookup_elem(&mesh_dns_v1, &netns);

	if (!dns || (__u32)ctx->src_port - bpf_ntohs(dns->port) >= MESH_DNS_SLOTS)
		return 1;
	return mesh_admit(dns->uid);
}

static __always_inline int mesh_guard(struct bpf_sock *ctx)
{
	__u64 netns = bpf_get_netns_cookie(ctx);
	struct mesh_listener *listener;

	if (ctx->type == 2 /* SOCK_DGRAM */)
		return mesh_guard_dns(ctx, netns);
	if (ctx->type != 1 /* SOCK_STREAM */)
		return 1;
	listener = bpf_map_lookup_elem(&mesh_listen_v1, &netns);
	if (!listener || bpf_htons((__u16)ctx->src_port) != listener->port)
		return 1;
	return mesh_admit(listener->uid);
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
