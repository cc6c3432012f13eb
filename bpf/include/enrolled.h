/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
#ifndef MESH_ENROLLED_H
#define MESH_ENROLLED_H

#include "count.h"
#include "maps.h"

/* The id of the enrolled cgroup that the current process belongs to, nearest first, or 0. Nested cgroups
 * inherit. */
static __always_inline __u64 mesh_enrolled_cgroup(void)
{
	if (bpf_get_current_ancestor_cgroup_id(MESH_MAX_DEPTH))
		mesh_count(MESH_COUNT_DEPTH_EXCEEDED);
	for (int level = MESH_MAX_DEPTH - 1; level >= 0; level--) {
		__u64 id = bpf_get_current_ancestor_cgroup_id(level);

		if (id && bpf_map_lookup_elem(&mesh_cgroup_v1, &id))
			return id;
	}
	return 0;
}

#endif
