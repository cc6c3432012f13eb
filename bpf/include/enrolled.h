/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
#ifndef MESH_ENROLLED_H
#define MESH_ENROLLED_H

#include "count.h"
#include "maps.h"

/* The id of the enrolled cgroup that the current process belongs to, the nearest, or 0. Nested cgroups inherit. From the
 * root down: a process sits a few levels deep, and below it there is nothing to ask for. Where several workloads share a
 * cgroup, the id that stands for the process's real user in it. */
static __always_inline __u64 mesh_nearest_cgroup(void)
{
	struct mesh_user_key user = { .uid = (__u32)bpf_get_current_uid_gid() };
	__u64 nearest = 0;

	for (int level = 0; level < MESH_MAX_DEPTH; level++) {
		__u64 id = bpf_get_current_ancestor_cgroup_id(level);
		struct mesh_cgroup *cgroup;
		__u64 *own = NULL;

		if (!id)
			return nearest;
		cgroup = bpf_map_lookup_elem(&mesh_cgroup_v1, &id);
		if (!cgroup)
			continue;
		if (cgroup->flags & MESH_CGROUP_BY_USER) {
			user.cgroup_id = id;
			own = bpf_map_lookup_elem(&mesh_user_v1, &user);
		}
		if (own)
			nearest = *own;
		else if (!(cgroup->flags & MESH_CGROUP_ONLY_USERS))
			nearest = id;
	}
	if (bpf_get_current_ancestor_cgroup_id(MESH_MAX_DEPTH))
		mesh_count(MESH_COUNT_DEPTH_EXCEEDED);
	return nearest;
}

/* ... unless it has left the mesh: then 0, whatever is above it. A function of its own, which the verifier looks at once: the
 * walk would count anew for each way that leads to it. */
__attribute__((noinline)) __u64 mesh_enrolled_cgroup(void)
{
	__u64 nearest = mesh_nearest_cgroup();
	struct mesh_cgroup *cgroup = nearest ? bpf_map_lookup_elem(&mesh_cgroup_v1, &nearest) : NULL;

	return cgroup && cgroup->flags & MESH_CGROUP_LEFT ? 0 : nearest;
}

#endif
