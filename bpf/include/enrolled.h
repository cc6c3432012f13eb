/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
#ifndef MESH_ENROLLED_H
#define MESH_ENROLLED_H

#include "count.h"
#include "maps.h"

/* The id of the enrolled cgroup that the current process belongs to, the nearest, or 0. Nested cgroups inherit. From the
 * root down: a process sits a few levels deep, and below it there is nothing to ask for. */
static __always_inline __u64 mesh_enrolled_cgroup(void)
{
	__u64 nearest = 0;

	for (int level = 0; level < MESH_MAX_DEPTH; level++) {
		__u64 id = bpf_get_current_ancestor_cgroup_id(level);

		if (!id)
			return nearest;
		if (bpf_map_lookup_elem(&mesh_cgroup_v1, &id))
			nearest = id;
	}
	if (bpf_get_current_ancestor_cgroup_id(MESH_MAX_DEPTH))
		mesh_count(MESH_COUNT_DEPTH_EXCEEDED);
	return nearest;
}

#endif
