/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Whether an agent lives. Whether one serves a network namespace is another question (doors.h). */
#ifndef MESH_ALIVE_H
#define MESH_ALIVE_H

#include "maps.h"

/* Whether a manager lives that has looked at the whole node, in whatever namespace it does. */
static __always_inline bool mesh_watched(void)
{
	__u32 zero = 0;
	struct bpf_sock *found = bpf_map_lookup_elem(&mesh_alive_v1, &zero);

	if (!found)
		return false;
	bpf_sk_release(found);
	return true;
}

#endif
