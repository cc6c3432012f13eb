/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* sk_lookup: a connection arrives at a port of a workload. From the agent, which has authenticated the client: let in. From
 * elsewhere it is plaintext from outside the mesh, met as the port's mode says (include/decide.h): refused with a reset,
 * given to the agent, or let in. Ports outside the mesh, and UDP, are untouched; so are connections that stand.
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

#define MESH_IPPROTO_TCP 6

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

/* A listener of any worker; its SO_REUSEPORT group then chooses. Release it. */
static __always_inline struct bpf_sock *mesh_steer(bool v6)
{
	struct mesh_steer_key key = { .netns = mesh_netns, .v6 = v6 };
	struct bpf_sock *found;
	__u64 worker;

	for (worker = 0; worker < MESH_MAX_WORKERS; worker++) {
		/* In a register: before 6.3 the verifier forgets half a word that it finds in memory, and sees no end. */
		asm volatile("" : "+r"(worker));
		key.worker = worker;
		found = bpf_map_lookup_elem(&mesh_steer_v1, &key);
		if (found)
			return found;
	}
	return NULL;
}

SEC("sk_lookup")
int mesh_inbound(struct bpf_sk_lookup *ctx)
{
	struct mesh_arrival_decision decision;
	struct mesh_endpoint local, remote;
	struct mesh_arrival facts = {};
	struct bpf_sock *listener = NULL;
	struct mesh_dial_key dial = {};
	const struct mesh_client *from;
	const struct mesh_port *port;
	__u32 role;

	if (ctx->protocol != MESH_IPPROTO_TCP)
		return SK_PASS;
	mesh_read_arrival(ctx, &local, &remote);
	port = mesh_port_of(&local);
	if (!port)
		return SK_PASS;
	dial.netns = mesh_netns;
	dial.agent = remote;
	dial.app = local;
	from = bpf_map_lookup_elem(&mesh_dial_v1, &dial);
	role = from ? from->role : 0;
	facts.mode = port->mode;
	facts.agent = role == MESH_CLIENT_OF_DIAL;
	facts.own = role == MESH_CLIENT_OWN;
	facts.probe = port->flags & MESH_PORT_PROBES && role != MESH_CLIENT_ENROLLED && role != MESH_CLIENT_OUTWARD &&
		      (mesh_stays_inside(&remote.addr) || bpf_map_lookup_elem(&mesh_local_v1, &remote.addr));
	if (facts.mode == MESH_PORT_PERMISSIVE && !facts.agent && !facts.own && !facts.probe)
		listener = mesh_steer(ctx->family != MESH_AF_INET);
	facts.listener = listener != NULL;
	decision = mesh_decide_arrival(&facts);
	if (decision.verdict == MESH_ARRIVAL_STEER &&
	    (!listener || bpf_sk_assign(ctx, listener, BPF_SK_LOOKUP_F_REPLACE))) {
		decision.verdict = MESH_ARRIVAL_REFUSE;
		decision.reason = MESH_COUNT_INBOUND_NO_AGENT;
	}
	if (listener)
		bpf_sk_release(listener);
	if (decision.reason != MESH_COUNT_END)
		mesh_count(decision.reason);
	return decision.verdict == MESH_ARRIVAL_REFUSE ? SK_DROP : SK_PASS;
}

char LICENSE[] SEC("license") = "GPL";
