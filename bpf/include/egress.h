/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Enrolled processes that leave the mesh: counted by workload, and refused where the egress policy is REGISTRY_ONLY. */
#ifndef MESH_EGRESS_H
#define MESH_EGRESS_H

#include "addr.h"
#include "count.h"
#include "decide.h"
#include "enrolled.h"
#include "peek.h"

#define MESH_PROTOCOL_TCP 6
#define MESH_PROTOCOL_UDP 17

static __always_inline bool mesh_is_confined(__u64 cgroup_id)
{
	struct mesh_cgroup *cgroup = cgroup_id ? bpf_map_lookup_elem(&mesh_cgroup_v1, &cgroup_id) : NULL;

	return cgroup && cgroup->flags & MESH_CGROUP_REGISTRY_ONLY;
}

/* This CPU's counts of a cgroup; NULL if there is no room. */
static __always_inline struct mesh_egress *mesh_egress_of(__u64 cgroup_id)
{
	struct mesh_egress *counts = bpf_map_lookup_elem(&mesh_egress_v1, &cgroup_id);
	struct mesh_egress none = {};

	if (counts)
		return counts;
	bpf_map_update_elem(&mesh_egress_v1, &cgroup_id, &none, BPF_NOEXIST);
	return bpf_map_lookup_elem(&mesh_egress_v1, &cgroup_id);
}

/* One connection or datagram of the cgroup left the mesh, or was kept from it. */
static __always_inline void mesh_count_egress(__u64 cgroup_id, __u32 protocol, bool refused)
{
	struct mesh_egress *counts = mesh_egress_of(cgroup_id);

	if (!counts) {
		mesh_count(MESH_COUNT_EGRESS_NOT_NOTED);
	} else if (protocol == MESH_PROTOCOL_TCP) {
		counts->tcp_allowed += !refused;
		counts->tcp_refused += refused;
	} else if (protocol == MESH_PROTOCOL_UDP) {
		counts->udp_allowed += !refused;
		counts->udp_refused += refused;
	} else if (refused) {
		counts->other_refused++;
	}
}

/* Tell the agent whom a cgroup wanted to reach. */
static __always_inline void mesh_note_refused(__u64 cgroup_id, const struct mesh_endpoint *to, __u32 protocol, __u32 pid)
{
	struct mesh_refused_key key = { .cgroup_id = cgroup_id, .to = *to, .protocol = protocol };
	struct mesh_refused first = { .count = 1, .ktime = bpf_ktime_get_ns(), .pid = pid };
	struct mesh_refused *note = bpf_map_lookup_elem(&mesh_refused_v1, &key);

	if (note) {
		__sync_fetch_and_add(&note->count, 1);
		note->ktime = first.ktime;
		note->pid = pid;
	} else if (bpf_map_update_elem(&mesh_refused_v1, &key, &first, BPF_ANY)) {
		mesh_count(MESH_COUNT_EGRESS_NOT_NOTED);
	}
}

/* Whether what the socket sends to that address leaves the network namespace. */
static __always_inline bool mesh_is_outside(struct bpf_sock_addr *ctx, const struct mesh_addr *addr)
{
	struct bpf_sock *sk = ctx->sk;

	return !mesh_is_inside(addr) || (sk && mesh_bound_outside(ctx, sk, !mesh_is_v4(addr)));
}

/* Whether a datagram, or a connect() for such, may go where it wants to. */
static __always_inline bool mesh_datagram_may_leave(struct bpf_sock_addr *ctx, const struct mesh_endpoint *to)
{
	struct mesh_facts facts = { .outside = mesh_is_outside(ctx, &to->addr) };
	struct mesh_decision decision;
	__u64 cgroup_id;

	cgroup_id = facts.outside ? mesh_enrolled_cgroup() : 0;
	if (!cgroup_id)
		return true;
	facts.enrolled = true;
	facts.confined = mesh_is_confined(cgroup_id);
	facts.known = bpf_map_lookup_elem(&mesh_dest_v1, to) != NULL;
	decision = mesh_decide_datagram(&facts);
	if (decision.reason != MESH_COUNT_END)
		mesh_count(decision.reason);
	if (!facts.known)
		mesh_count_egress(cgroup_id, ctx->protocol, decision.verdict == MESH_VERDICT_REFUSE);
	if (decision.reason == MESH_COUNT_EGRESS_REFUSED)
		mesh_note_refused(cgroup_id, to, ctx->protocol, bpf_get_current_pid_tgid() >> 32);
	return decision.verdict != MESH_VERDICT_REFUSE;
}

#endif
