/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Shared steps of the splice's programs. */
#ifndef MESH_SPLICE_STATE_H
#define MESH_SPLICE_STATE_H

#include "kernel.h"
#include "splice.h"

static __always_inline void mesh_splice_count(enum mesh_splice_count what, __u64 by)
{
	__u32 index = what;
	__u64 *slot = bpf_map_lookup_elem(&mesh_spl_count, &index);

	if (slot)
		*slot += by;
}

static __always_inline struct mesh_splice_config *mesh_splice_config(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&mesh_spl_config, &zero);
}

static __always_inline __s64 *mesh_splice_total(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&mesh_spl_total, &zero);
}

/* Every change of `charged` is a change of the node's total by the same amount, so their sums stay equal whoever
 * comes first. */
static __always_inline void mesh_splice_charge(struct mesh_splice_way *way, __s64 cost)
{
	__s64 *total = mesh_splice_total();

	if (!total || !cost)
		return;
	__sync_fetch_and_add(&way->charged, cost);
	__sync_fetch_and_add(total, cost);
}

static __always_inline void mesh_splice_discharge(struct mesh_splice_way *way)
{
	__s64 *total = mesh_splice_total();

	if (total)
		__sync_fetch_and_add(total, -__sync_lock_test_and_set(&way->charged, 0));
}

/* Bytes that were ever put into a socket's TCP stream. Its 64 bits come from acknowledged and outstanding bytes (which
 * may count the SYN), the lower 32 from the sequence numbers, exactly. */
static __always_inline __u64 mesh_splice_sent(const struct tcp_sock *tp, __u32 base)
{
	__u32 exact = tp->write_seq - base;
	__u64 about = tp->bytes_acked + (__u32)(tp->write_seq - tp->snd_una);

	return about + (__s64)(__s32)(exact - (__u32)about);
}

/* The flow is out for good; if redirected bytes wait for a reader that does not see them, it has to be reset. */
static __always_inline __u32 mesh_splice_out(struct mesh_splice_flow *flow, __u32 why)
{
	if (flow->flags & why)
		return flow->flags;
	return __sync_fetch_and_or(&flow->flags, why);
}

static __always_inline void mesh_splice_break(struct mesh_splice_flow *flow, __u32 why)
{
	__u64 id = flow->end[0].cookie;

	if (__sync_fetch_and_or(&flow->flags, MESH_SPLICE_BROKEN) & MESH_SPLICE_BROKEN)
		return;
	bpf_map_update_elem(&mesh_spl_broken, &id, &why, BPF_ANY);
	mesh_splice_count(MESH_SPLICE_COUNT_BROKEN, 1);
}

/* The flow of a socket; NULL if it is over. A copy of its number: the entry of the socket may change meanwhile. */
static __always_inline struct mesh_splice_flow *mesh_splice_flow_of(struct mesh_splice_socket *mine)
{
	__u64 id = mine->flow;

	return bpf_map_lookup_elem(&mesh_spl_flow, &id);
}

/* The direction that a socket reads. */
static __always_inline struct mesh_splice_way *mesh_splice_inward(struct mesh_splice_flow *flow, __u32 role)
{
	return role == MESH_SPLICE_CLIENT ? &flow->way[1] : &flow->way[0];
}

/* ... and the one that it sends. */
static __always_inline struct mesh_splice_way *mesh_splice_outward(struct mesh_splice_flow *flow, __u32 role)
{
	return role == MESH_SPLICE_CLIENT ? &flow->way[0] : &flow->way[1];
}

#endif
