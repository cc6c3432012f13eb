/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* sk_lookup: what arrives at a port of the agent's goes to a worker's very own socket, or nowhere, whoever else may be bound
 * there.
 *
 * A connection arrives at a port of a workload. From the agent, which has authenticated the client: let in. From
 * elsewhere it is plaintext from outside the mesh, met as the port's mode says (include/decide.h): refused with a reset,
 * given to the agent, or let in. Other ports, and other UDP, are untouched; so are connections that stand.
 *
 * An object of its own, loaded once for each network namespace: the context names none, and the helper that would is not to
 * be had here. Pinned, it goes on refusing when the agent is dead. */
#include <stdbool.h>
#include <stddef.h>

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "include/addr.h"
#include "include/count.h"
#include "include/decide.h"
#include "include/doors.h"

/* Cookie of the namespace that this program is attached to; written by the loader. */
const volatile __u64 mesh_netns = 0;

static __always_inline const struct mesh_port *mesh_port_of(const struct mesh_endpoint *at)
{
	struct mesh_port_key key = { .netns = mesh_netns, .at = *at };
	const struct mesh_port *found = bpf_map_lookup_elem(&mesh_port_v1, &key);

	if (found)
		return found;
	__builtin_memset(&key.at.addr, 0, sizeof(key.at.addr));
	return bpf_map_lookup_elem(&mesh_port_v1, &key);
}

/* A worker's socket for this key: of one by chance, as spread; else of any. Not of its SO_REUSEPORT group, which others may
 * have joined. Release it. */
static __always_inline struct bpf_sock *mesh_any_worker(struct mesh_steer_key *key)
{
	__u32 spread = mesh_crew_of(MESH_CREW_SPREAD);
	struct bpf_sock *found;

	if (spread) {
		key->worker = bpf_get_prandom_u32() % spread;
		found = bpf_map_lookup_elem(&mesh_steer_v2, key);
		if (found)
			return found;
	}
	return mesh_first_worker(key);
}

/* Give what arrives to the worker's socket; false if there is none, or it went meanwhile. */
static __always_inline bool mesh_give(struct bpf_sk_lookup *ctx, struct bpf_sock *found)
{
	long error;

	if (!found)
		return false;
	error = bpf_sk_assign(ctx, found, BPF_SK_LOOKUP_F_REPLACE | BPF_SK_LOOKUP_F_NO_REUSEPORT);
	bpf_sk_release(found);
	return !error;
}

/* The same for what arrives at a port of the agent's: at the address itself, or at any of its family, or of both. */
static __always_inline bool mesh_enter(struct bpf_sk_lookup *ctx, const struct mesh_endpoint *local, __u8 protocol)
{
	struct mesh_steer_key key = { .netns = mesh_netns, .at = *local, .protocol = protocol };

	if (mesh_give(ctx, mesh_any_worker(&key)))
		return true;
	if (mesh_is_v4(&local->addr)) {
		mesh_set_v4(&key.at.addr, 0);
		if (mesh_give(ctx, mesh_any_worker(&key)))
			return true;
	}
	__builtin_memset(&key.at.addr, 0, sizeof(key.at.addr));
	return mesh_give(ctx, mesh_any_worker(&key));
}

SEC("sk_lookup")
int mesh_inbound(struct bpf_sk_lookup *ctx)
{
	struct mesh_arrival_decision decision;
	struct mesh_endpoint local, remote;
	struct mesh_arrival facts = {};
	struct mesh_steer_key steer = { .netns = mesh_netns, .protocol = MESH_TCP };
	const struct mesh_door *door;
	struct bpf_sock *listener = NULL;
	struct mesh_dial_key dial = {};
	const struct mesh_client *from;
	const struct mesh_port *port;
	__u32 role;

	mesh_read_arrival(ctx, &local, &remote);
	door = mesh_door_of(mesh_netns, local.port, ctx->protocol);
	if (door && door->flags & MESH_DOOR_STEERED) {
		if (mesh_enter(ctx, &local, ctx->protocol))
			return SK_PASS;
		mesh_count(MESH_COUNT_DOOR_NOBODY);
		return SK_DROP;
	}
	if (ctx->protocol != MESH_TCP)
		return SK_PASS;
	port = mesh_port_of(&local);
	if (!port)
		return SK_PASS;
	dial.netns = mesh_netns;
	dial.agent = remote;
	dial.app = local;
	from = bpf_map_lookup_elem(&mesh_dial_v2, &dial);
	role = from ? from->role : 0;
	facts.mode = port->mode;
	facts.agent = role == MESH_CLIENT_OF_DIAL;
	facts.own = role == MESH_CLIENT_OWN;
	facts.probe = port->flags & MESH_PORT_PROBES && role != MESH_CLIENT_ENROLLED && role != MESH_CLIENT_OUTWARD &&
		      (mesh_stays_inside(&remote.addr) || bpf_map_lookup_elem(&mesh_local_v1, &remote.addr));
	if (facts.mode == MESH_PORT_PERMISSIVE && !facts.agent && !facts.own && !facts.probe) {
		if (ctx->family == MESH_AF_INET)
			mesh_set_v4(&steer.at.addr, 0);
		listener = mesh_any_worker(&steer);
	}
	facts.listener = listener != NULL;
	decision = mesh_decide_arrival(&facts);
	if (!mesh_give(ctx, listener) && decision.verdict == MESH_ARRIVAL_STEER) {
		decision.verdict = MESH_ARRIVAL_REFUSE;
		decision.reason = MESH_COUNT_INBOUND_NO_AGENT;
	}
	if (decision.reason != MESH_COUNT_END)
		mesh_count(decision.reason);
	return decision.verdict == MESH_ARRIVAL_REFUSE ? SK_DROP : SK_PASS;
}

char LICENSE[] SEC("license") = "GPL";
