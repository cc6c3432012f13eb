/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* The agent's ports, and the sockets that serve them. A port number proves nothing: whoever comes first has it. What proves
 * that a live agent is there is a socket that one of its workers put into mesh_steer_v2; the kernel takes it out when the
 * socket closes. */
#ifndef MESH_DOORS_H
#define MESH_DOORS_H

#include "addr.h"
#include "maps.h"

#define MESH_TCP 6
#define MESH_UDP 17

static __always_inline const struct mesh_door *mesh_door_of(__u64 netns, __be16 port, __u8 protocol)
{
	struct mesh_door_key key = { .netns = netns, .port = port, .protocol = protocol };

	return bpf_map_lookup_elem(&mesh_door_v1, &key);
}

static __always_inline __u32 mesh_crew_of(__u32 index)
{
	__u32 *count = bpf_map_lookup_elem(&mesh_crew_v1, &index);

	return count ? *count : 0;
}

/* The socket of the first worker that has one for this key. Release it. */
static __always_inline struct bpf_sock *mesh_first_worker(struct mesh_steer_key *key)
{
	__u32 workers = mesh_crew_of(MESH_CREW_WORKERS);
	struct bpf_sock *found;
	__u64 worker;

	for (worker = 0; worker < MESH_MAX_WORKERS; worker++) {
		/* In a register: before 6.3 the verifier forgets half a word that it finds in memory, and sees no end. */
		asm volatile("" : "+r"(worker));
		if (worker >= workers)
			break;
		key->worker = worker;
		found = bpf_map_lookup_elem(&mesh_steer_v2, key);
		if (found)
			return found;
	}
	return NULL;
}

/* Whether a worker of a live agent takes what is sent to `at`, in the namespace. A function of its own, as
 * mesh_enrolled_cgroup(). */
__attribute__((noinline)) int mesh_is_served(__u64 netns, const struct mesh_endpoint *at, __u32 protocol)
{
	struct mesh_steer_key key = { .netns = netns, .protocol = protocol };
	struct bpf_sock *found;

	if (!at)
		return false;
	key.at = *at;
	found = mesh_first_worker(&key);
	if (!found)
		return false;
	bpf_sk_release(found);
	return true;
}

#endif
