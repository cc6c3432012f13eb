/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* cgroup/getpeername4|6: a captured socket shows the destination that its application asked for. Fails open:
 * without a record the kernel's own answer stands (nothing is let through by an address that is shown). */
#include "include/addr.h"
#include "include/count.h"

static __always_inline const struct mesh_origin *mesh_recall(struct bpf_sock_addr *ctx)
{
	struct bpf_sock *sk = ctx->sk;

	return sk ? bpf_sk_storage_get(&mesh_origin_v1, sk, 0, 0) : NULL;
}

SEC("cgroup/getpeername4")
int mesh_peername4(struct bpf_sock_addr *ctx)
{
	const struct mesh_origin *origin = mesh_recall(ctx);

	if (origin) {
		mesh_write4(ctx, &origin->destination);
		mesh_count(MESH_COUNT_PEER_SHOWN);
	}
	return 1;
}

SEC("cgroup/getpeername6")
int mesh_peername6(struct bpf_sock_addr *ctx)
{
	const struct mesh_origin *origin = mesh_recall(ctx);

	if (origin) {
		mesh_write6(ctx, &origin->destination);
		mesh_count(MESH_COUNT_PEER_SHOWN);
	}
	return 1;
}
