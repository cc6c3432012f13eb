/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* cgroup/getpeername4|6, which accept() asks as well: a captured socket shows the destination that its application asked
 * for; a server's socket shows the client for whom the agent connected. Fails open: without a record the kernel's own
 * answer stands (nothing is let through by an address that is shown). */
#include "include/addr.h"
#include "include/count.h"
#include "include/dns.h"

static __always_inline const struct mesh_endpoint *mesh_recall(struct bpf_sock_addr *ctx, enum mesh_count *shown)
{
	const struct mesh_origin *origin;
	const struct mesh_client *client;
	struct bpf_sock *sk = ctx->sk;

	if (!sk)
		return NULL;
	origin = bpf_sk_storage_get(&mesh_origin_v2, sk, 0, 0);
	*shown = MESH_COUNT_PEER_SHOWN;
	if (origin)
		return &origin->destination;
	client = bpf_sk_storage_get(&mesh_client_v2, sk, 0, 0);
	*shown = MESH_COUNT_CLIENT_SHOWN;
	return client && client->role == MESH_CLIENT_OF_SERVER ? &client->client : NULL;
}

/* An AF_INET socket cannot show an IPv6 client: it goes on showing the agent. */
SEC("cgroup/getpeername4")
int mesh_peername4(struct bpf_sock_addr *ctx)
{
	enum mesh_count shown;
	const struct mesh_endpoint *peer = mesh_recall(ctx, &shown);

	if (peer && mesh_is_v4(&peer->addr)) {
		mesh_write4(ctx, peer);
		mesh_count(shown);
	} else if (!peer) {
		struct mesh_endpoint asked;

		mesh_read4(ctx, &asked);
		if (mesh_unask(ctx, &asked))
			mesh_write4(ctx, &asked);
	}
	return 1;
}

/* An AF_INET6 socket shows an IPv4 client as v4-mapped, as it would without the agent. */
SEC("cgroup/getpeername6")
int mesh_peername6(struct bpf_sock_addr *ctx)
{
	enum mesh_count shown;
	const struct mesh_endpoint *peer = mesh_recall(ctx, &shown);

	if (peer) {
		mesh_write6(ctx, peer);
		mesh_count(shown);
	} else if (!peer) {
		struct mesh_endpoint asked;

		mesh_read6(ctx, &asked);
		if (mesh_unask(ctx, &asked))
			mesh_write6(ctx, &asked);
	}
	return 1;
}
