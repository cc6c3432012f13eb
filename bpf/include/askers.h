/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Who asks: the records by which the agent knows whose a question is, one for each resolver that a UDP socket asks. A record
 * is the socket's that wrote it, and goes when that is closed, connects elsewhere, or asks from elsewhere. */
#ifndef MESH_ASKERS_H
#define MESH_ASKERS_H

#include <stdbool.h>

#include "maps.h"

static __always_inline bool mesh_same(const struct mesh_endpoint *one, const struct mesh_endpoint *other)
{
	return one->port == other->port && one->addr.word[0] == other->addr.word[0] &&
	       one->addr.word[1] == other->addr.word[1] && one->addr.word[2] == other->addr.word[2] &&
	       one->addr.word[3] == other->addr.word[3];
}

/* Take out the records of this socket, and forget whom it asks. */
static __always_inline void mesh_forget_asker(struct mesh_resolvers *resolvers)
{
	struct mesh_asker key = { .netns = resolvers->netns, .from = resolvers->from };

	for (__u32 slot = 0; slot < MESH_DNS_SLOTS; slot++) {
		struct mesh_asked *asked;

		if (slot >= resolvers->used)
			break;
		key.slot = slot;
		asked = bpf_map_lookup_elem(&mesh_asker_v2, &key);
		if (asked && asked->cookie == resolvers->cookie)
			bpf_map_delete_elem(&mesh_asker_v2, &key);
	}
	resolvers->used = 0;
}

/* The place of this resolver among those that the socket asks; MESH_DNS_SLOTS if there is none left. */
static __always_inline __u32 mesh_slot(struct mesh_resolvers *resolvers, const struct mesh_endpoint *to)
{
	for (__u32 slot = 0; slot < MESH_DNS_SLOTS; slot++) {
		struct mesh_endpoint *have = &resolvers->slot[slot];

		if (slot >= resolvers->used) {
			*have = *to;
			resolvers->used = slot + 1;
			return slot;
		}
		if (mesh_same(have, to))
			return slot;
	}
	return MESH_DNS_SLOTS;
}

enum mesh_noted {
	MESH_NOTED,
	MESH_NOTED_NO_ROOM,
	MESH_NOTED_SHARED, /* another socket that lives asks somebody else from the same address and port */
};

static __always_inline enum mesh_noted mesh_note_asker(const struct mesh_resolvers *resolvers, __u32 slot,
						       const struct mesh_asked *asked)
{
	struct mesh_asker key = { .netns = resolvers->netns, .from = resolvers->from, .slot = slot };
	struct mesh_asked *have = bpf_map_lookup_elem(&mesh_asker_v2, &key);

	if (have && have->cookie != asked->cookie &&
	    (have->cgroup_id != asked->cgroup_id || have->scope != asked->scope || !mesh_same(&have->resolver, &asked->resolver)))
		return MESH_NOTED_SHARED;
	return bpf_map_update_elem(&mesh_asker_v2, &key, asked, BPF_ANY) ? MESH_NOTED_NO_ROOM : MESH_NOTED;
}

#endif
