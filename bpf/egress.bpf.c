/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* cgroup/sock_create: processes whose egress policy is REGISTRY_ONLY get sockets of TCP and UDP, over which connect and
 * sendmsg decide, and no others: raw sockets, ping and SCTP would pass by those hooks. Fails closed (EPERM). What was
 * opened before the policy stays. */
#include "include/egress.h"

SEC("cgroup/sock_create")
int mesh_socket(struct bpf_sock *ctx)
{
	struct mesh_endpoint nowhere = {};
	__u64 cgroup_id;

	if (ctx->type == 1 /* SOCK_STREAM */ && (ctx->protocol == MESH_PROTOCOL_TCP || ctx->protocol == 262 /* MPTCP */))
		return 1;
	if (ctx->type == 2 /* SOCK_DGRAM */ && ctx->protocol == MESH_PROTOCOL_UDP)
		return 1;
	cgroup_id = mesh_enrolled_cgroup();
	if (!mesh_is_confined(cgroup_id))
		return 1;
	mesh_count(MESH_COUNT_EGRESS_REFUSED);
	/* whatever its number, a raw socket is "other": of TCP or UDP it forges packets */
	mesh_count_egress(cgroup_id, 0, true);
	mesh_note_refused(cgroup_id, &nowhere, ctx->type == 3 /* SOCK_RAW */ ? 255 : ctx->protocol, 0);
	return 0;
}
