/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* sockops: when a captured connection's handshake is done, leave the agent a record of who asks for what. On
 * loopback this runs before the agent's accept() returns. And when the agent connects to a workload for somebody, put
 * that client's address into the server's socket, before the server's accept() returns.
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
	flow.scope = origin->scope;
	if (bpf_map_update_elem(&mesh_flow_v2, key, &flow, BPF_ANY)) {
		bpf_map_delete_elem(&mesh_flow_v2, key);
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
	listener = bpf_map_lookup_elem(&mesh_listen_v2, &key.netns);
	if (!listener || remote.port != listener->port || !mesh_is_loopback(&remote.addr))
		return;
	origin = bpf_sk_storage_get(&mesh_origin_v2, sk, 0, 0);
	if (origin)
		mesh_record(ctx, &key, origin);
	else if (!bpf_map_delete_elem(&mesh_flow_v2, &key))
		mesh_count(MESH_COUNT_FLOW_FORGOTTEN);
}

static __always_inline bool mesh_dial_of(struct bpf_sock_ops *ctx, struct mesh_dial_key *key, bool dials)
{
	key->netns = bpf_get_netns_cookie(ctx);
	return dials ? mesh_read_ends(ctx, &key->agent, &key->app) : mesh_read_ends(ctx, &key->app, &key->agent);
}

/* Whether the workload of that cgroup listens there. A claim of the address itself goes before one of every address. */
static __always_inline bool mesh_is_own(__u64 cgroup_id, __u64 netns, const struct mesh_endpoint *at)
{
	struct mesh_own_key own = { .cgroup_id = cgroup_id, .netns = netns, .at = *at };
	struct mesh_port_key port = { .netns = netns, .at = *at };

	if (bpf_map_lookup_elem(&mesh_own_v2, &own))
		return true;
	if (bpf_map_lookup_elem(&mesh_port_v1, &port))
		return false;
	__builtin_memset(&own.at.addr, 0, sizeof(own.at.addr));
	return bpf_map_lookup_elem(&mesh_own_v2, &own) != NULL;
}

/* A socket that the agent, or connect, marked is about to send its SYN: from now on its addresses are known. */
static __always_inline void mesh_dialling(struct bpf_sock_ops *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	struct mesh_dial_key key = {};
	struct mesh_client *mine, client;

	if (!sk)
		return;
	mine = bpf_sk_storage_get(&mesh_client_v2, sk, 0, 0);
	if (!mine || mine->role == MESH_CLIENT_OF_SERVER || !mesh_dial_of(ctx, &key, true))
		return;
	client = *mine;
	if (client.role == MESH_CLIENT_ENROLLED && mesh_is_own(client.cgroup_id, key.netns, &key.app))
		client.role = MESH_CLIENT_OWN;
	bpf_sk_storage_delete(&mesh_client_v2, sk);
	if (bpf_map_update_elem(&mesh_dial_v2, &key, &client, BPF_ANY))
		mesh_count(MESH_COUNT_DIAL_NOT_RECORDED);
	else /* the record must not outlive the socket: somebody else may connect from that port then */
		bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG);
}

/* A server's socket is there: if the agent is at the other end, it is told for whom. */
static __always_inline void mesh_answered(struct bpf_sock_ops *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	struct mesh_client *found, *mine, client;
	struct mesh_dial_key key = {};

	if (!sk || !mesh_dial_of(ctx, &key, false))
		return;
	found = bpf_map_lookup_elem(&mesh_dial_v2, &key);
	if (!found)
		return;
	client = *found;
	bpf_map_delete_elem(&mesh_dial_v2, &key);
	if (!client.client.port)
		return;
	mine = bpf_sk_storage_get(&mesh_client_v2, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!mine) {
		mesh_count(MESH_COUNT_DIAL_NOT_RECORDED);
		return;
	}
	mine->client = client.client;
	mine->role = MESH_CLIENT_OF_SERVER;
	mine->cgroup_id = 0;
	mesh_count(MESH_COUNT_CLIENT_TOLD);
}

/* Called before the kernel gives the port of the agent's socket to others. */
static __always_inline void mesh_dial_closed(struct bpf_sock_ops *ctx)
{
	struct mesh_dial_key key = {};

	if (mesh_dial_of(ctx, &key, true))
		bpf_map_delete_elem(&mesh_dial_v2, &key);
}

SEC("sockops")
int mesh_sockops(struct bpf_sock_ops *ctx)
{
	switch (ctx->op) {
	case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
		mesh_established(ctx);
		break;
	case BPF_SOCK_OPS_TCP_CONNECT_CB:
		mesh_dialling(ctx);
		break;
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
		mesh_answered(ctx);
		break;
	case BPF_SOCK_OPS_STATE_CB:
		if (ctx->args[1] == BPF_TCP_CLOSE)
			mesh_dial_closed(ctx);
		break;
	}
	return 1;
}
