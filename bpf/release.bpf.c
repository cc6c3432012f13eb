/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* cgroup/sock_release: a socket is closed, and what is said of it goes with it, before its address and port are another's. A
 * hook that refuses nothing. */
#include "include/askers.h"

SEC("cgroup/sock_release")
int mesh_release(struct bpf_sock *ctx)
{
	struct mesh_resolvers *resolvers = bpf_sk_storage_get(&mesh_resolv_v2, ctx, 0, 0);

	if (resolvers)
		mesh_forget_asker(resolvers);
	return 1;
}
