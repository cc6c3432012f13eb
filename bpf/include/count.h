/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
#ifndef MESH_COUNT_H
#define MESH_COUNT_H

#include "maps.h"

static __always_inline void mesh_count(enum mesh_count reason)
{
	__u32 index = reason;
	__u64 *slot = bpf_map_lookup_elem(&mesh_count_v1, &index);

	if (slot)
		*slot += 1; /* this CPU's own slot; a hook interrupted by softirq may lose one, which a statistic can bear */
}

#endif
