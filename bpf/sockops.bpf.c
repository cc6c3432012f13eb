/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* sockops: when a captured connection's handshake is done, leave the agent a record of who asks for what. On
 * loopback this runs before the agent's accept() returns.
 *
 * A hook that can refuse nothing: if the record cannot be written, the agent finds none and refuses (fail
 * closed there). A connection to the capture port that was not captured removes any record under its key, so
 * that it can never pass for a captured one. */
#include "include/addr.h"
#include "include/count.h"

static __always_inline void mesh_record(struct bpf_sock_ops *ctx, const struct mesh_flow_key *key,
					const struct mesh_origin *origin)
{
	struct mesh_flow flow = {};

	flow.cookie = bpf_get_socket_cookie(ctx);
	flow.cgroup_id = origin->cgroup_id;
	flow.ktime = bpf_ktime_get_ns();
	flow.destination = origin->destination;
	flow.pid = origin->pid;
	flow.uid = origin->uid;
	if (bpf_map_update_elem(&mesh_flow_v1, key, &flow, BPF_ANY)) {
		bpf_map_delete_elem(&mesh_flow_v1, key);
		mesh_count(MESH_COUNT_FLOW_NOT_RECORDED);
	} else {
		mesh_count(MESH_COUNT_FLOW_RECORDED);
	}
}

static __always_inline void mesh_established(struct bpf_sock_ops *ctx)
{
	struct mesh_endpoint local, remote;
	struct bpf_sock *sk = ctx->sk;
	struct mesh_listener *listener;
	struct mesh_origin *origin;
	struct mesh_flow_key key = {};

	if (!sk || !mesh_read_ends(ctx, &local, &remote))
		return;
	key.netns = bpf_get_netns_cookie(ctx);
	key.addr = local.addr;
	key.port = local.port;
	/* Exactly the agent's listener: elsewhere (where another program on connect sent it, say) the same source port may
	 * belong to another connection, whose record must stay as it is. */
	listener = bpf_map_lookup_elem(&mesh_listen_v1, &key.netns);
	if (!listener || remote.port != listener->port || !mesh_is_loopback(&remote.addr))
		return;
	origin = bpf_sk_storage_get(&mesh_origin_v1, sk, 0, 0);
	if (origin)
		mesh_record(ctx, &key, origin);
	else if (!bpf_map_delete_elem(&mesh_flow_v1, &key))
		mesh_count(MESH_COUNT_FLOW_FORGOTTEN);
}

SEC("sockops")
int mesh_sockops(struct bpf_sock_ops *ctx)
{
	if (ctx->op == BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB)
		mesh_established(ctx);
	return 1;
}
