/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* cgroup/connect4|6: connections of enrolled workloads to mesh destinations go to the agent's listener on
 * loopback; others are let go or refused as the egress policy says. Fails closed: a connection that should be captured and
 * cannot be is refused (EPERM), and counted. */
#include "include/addr.h"
#include "include/alive.h"
#include "include/count.h"
#include "include/decide.h"
#include "include/dns.h"
#include "include/egress.h"
#include "include/multipath.h"

#define MESH_SOCK_STREAM 1
#define MESH_IPPROTO_MPTCP 262

static __always_inline bool mesh_remember_in(void *sk, const struct mesh_origin *known)
{
	struct mesh_origin *origin = bpf_sk_storage_get(&mesh_origin_v2, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);

	if (!origin)
		return false;
	*origin = *known;
	return true;
}

/* Keep the original destination in the socket; false if there is no room for it. */
static __always_inline bool mesh_remember(struct bpf_sock_addr *ctx, const struct mesh_endpoint *to,
					  __u64 cgroup_id)
{
	struct mesh_origin origin = { .destination = *to, .cgroup_id = cgroup_id };
	struct bpf_sock *sk = ctx->sk;

	if (!sk)
		return false;
	origin.pid = bpf_get_current_pid_tgid() >> 32;
	origin.uid = (__u32)bpf_get_current_uid_gid();
	origin.scope = mesh_is_link_local(&to->addr) ? mesh_scope_of(ctx) : 0;
	if (mesh_knows_multipath()) {
		struct mptcp_sock *whole = bpf_skc_to_mptcp_sock(sk);

		if (whole && !mesh_remember_in(whole, &origin))
			return false;
	}
	return mesh_remember_in(sk, &origin);
}

/* A socket may connect again after a failure, then to somewhere else. */
static __always_inline void mesh_forget(struct bpf_sock_addr *ctx)
{
	struct bpf_sock *sk = ctx->sk;

	if (!sk)
		return;
	if (mesh_knows_multipath()) {
		struct mptcp_sock *whole = bpf_skc_to_mptcp_sock(sk);

		if (whole)
			bpf_sk_storage_delete(&mesh_origin_v2, whole);
	}
	bpf_sk_storage_delete(&mesh_origin_v2, sk);
}

/* Whether the agent marked the socket before it connects. */
static __always_inline bool mesh_is_agents(const struct mesh_client *mine)
{
	return mine->role == MESH_CLIENT_OF_DIAL || mine->role == MESH_CLIENT_OUTWARD;
}

/* A connect() that goes where it wants to: if that is a port of a workload of this namespace, sk_lookup, which knows no
 * cgroup, is told that an enrolled process comes. Whether it comes to its own workload is known once the kernel has chosen the
 * addresses (sockops). */
static __always_inline void mesh_announce(struct bpf_sock_addr *ctx, const struct mesh_endpoint *to, __u64 netns)
{
	struct mesh_port_key key = { .netns = netns, .at.port = to->port };
	struct bpf_sock *sk = ctx->sk;
	struct mesh_client *mine;
	__u64 cgroup_id = 0;

	if (!sk)
		return;
	if (bpf_map_lookup_elem(&mesh_port_v1, &key))
		cgroup_id = mesh_enrolled_cgroup();
	mine = bpf_sk_storage_get(&mesh_client_v2, sk, 0, cgroup_id ? BPF_SK_STORAGE_GET_F_CREATE : 0);
	if (!mine || mesh_is_agents(mine))
		return; /* the agent's own mark stays */
	if (!cgroup_id) {
		bpf_sk_storage_delete(&mesh_client_v2, sk); /* of an earlier connect() */
		return;
	}
	mine->client = (struct mesh_endpoint){};
	mine->role = MESH_CLIENT_ENROLLED;
	mine->cgroup_id = cgroup_id;
}

/* While the node is sealed: whether it is somebody else than the agent, which marks its sockets before they connect. */
static __always_inline bool mesh_is_sealed_for(struct bpf_sock_addr *ctx, const struct mesh_config *config)
{
	struct bpf_sock *sk = ctx->sk;
	struct mesh_client *mine;

	if (!config || !(config->flags & (MESH_CONFIG_SEALED | MESH_CONFIG_SEALED_ALONE)))
		return false;
	if (!(config->flags & MESH_CONFIG_SEALED) && mesh_watched())
		return false;
	mine = sk ? bpf_sk_storage_get(&mesh_client_v2, sk, 0, 0) : NULL;
	return !mine || !mesh_is_agents(mine);
}

/* A connect() of a socket that sends datagrams. */
static __always_inline enum mesh_verdict mesh_outbound_datagrams(struct bpf_sock_addr *ctx, struct mesh_endpoint *to,
								 struct bpf_sock *sk)
{
	struct mesh_addr source = {};

	if (ctx->type == MESH_SOCK_DGRAM) {
		if (sk && to->port == bpf_htons(MESH_DNS_PORT))
			mesh_bound_to(sk, &source);
		if (mesh_ask(ctx, to, &source, true))
			return MESH_VERDICT_CAPTURE;
		mesh_asks_no_more(ctx);
		if (mesh_is_stray(ctx, to))
			return MESH_VERDICT_REFUSE;
	}
	return mesh_datagram_may_leave(ctx, to) ? MESH_VERDICT_PASS : MESH_VERDICT_REFUSE;
}

/* Where captured connections of this namespace go: the agent's port on loopback. */
static __always_inline void mesh_gate(const struct mesh_listener *listener, struct mesh_endpoint *to)
{
	struct mesh_addr asked = to->addr;

	if (listener->flags & MESH_LISTENER_V4_ONLY)
		mesh_set_v4(&asked, 0);
	mesh_loopback_like(&asked, listener->port, to);
}

/* Decide over a connect() to `to`; on capture `to` becomes where it goes instead. */
static __always_inline enum mesh_verdict mesh_outbound(struct bpf_sock_addr *ctx, struct mesh_endpoint *to)
{
	struct mesh_listener *listener = NULL;
	struct mesh_endpoint gate = {};
	struct mesh_facts facts = {};
	struct mesh_decision decision;
	struct mesh_config *config;
	__u64 cgroup_id = 0, netns = bpf_get_netns_cookie(ctx);
	struct bpf_sock *sk = ctx->sk;
	__u32 zero = 0;

	/* Loaded here: loaded in both branches it would be through a computed context pointer, which the verifier refuses. */
	asm volatile("" : "+r"(sk));

	if (ctx->type != MESH_SOCK_STREAM || (ctx->protocol != MESH_TCP && ctx->protocol != MESH_IPPROTO_MPTCP))
		return mesh_outbound_datagrams(ctx, to, sk);

	config = bpf_map_lookup_elem(&mesh_config_v1, &zero);
	facts.known = bpf_map_lookup_elem(&mesh_dest_v1, to) != NULL;
	facts.incomplete = config && (config->flags & MESH_CONFIG_INCOMPLETE);
	facts.resolver = to->port == bpf_htons(MESH_DNS_PORT);
	facts.outside = mesh_is_outside(ctx, &to->addr);
	if (mesh_concerned(&facts))
		cgroup_id = mesh_enrolled_cgroup();
	facts.enrolled = cgroup_id != 0;
	facts.sealed = facts.known && !facts.enrolled && mesh_is_sealed_for(ctx, config);
	facts.confined = facts.enrolled && mesh_is_confined(cgroup_id);
	if (facts.enrolled)
		listener = bpf_map_lookup_elem(&mesh_listen_v2, &netns);
	facts.listener = listener != NULL;
	if (listener && (facts.known || facts.resolver)) {
		gate = *to;
		mesh_gate(listener, &gate);
		facts.served = mesh_is_served(netns, &gate, MESH_TCP);
	}
	if (facts.resolver && !facts.known)
		facts.resolver = facts.served && mesh_cgroup_asks(cgroup_id) && bpf_map_lookup_elem(&mesh_dns_v2, &netns);

	decision = mesh_decide(&facts);
	if (decision.verdict == MESH_VERDICT_CAPTURE && !mesh_remember(ctx, to, cgroup_id)) {
		decision.verdict = MESH_VERDICT_REFUSE;
		decision.reason = MESH_COUNT_REFUSED_NO_STORAGE;
	}
	mesh_count(decision.reason);
	if (facts.enrolled && facts.outside && !facts.known && decision.verdict != MESH_VERDICT_CAPTURE)
		mesh_count_egress(cgroup_id, MESH_TCP, decision.verdict == MESH_VERDICT_REFUSE);
	if (decision.reason == MESH_COUNT_EGRESS_REFUSED)
		mesh_note_refused(cgroup_id, to, MESH_TCP, bpf_get_current_pid_tgid() >> 32);
	if (decision.verdict == MESH_VERDICT_CAPTURE) {
		*to = gate;
		return decision.verdict;
	}
	mesh_forget(ctx);
	if (decision.verdict == MESH_VERDICT_NOBODY)
		mesh_loopback_like(&to->addr, 0, to); /* nobody can listen on port 0 */
	else
		mesh_announce(ctx, to, netns);
	return decision.verdict;
}

SEC("cgroup/connect4")
int mesh_connect4(struct bpf_sock_addr *ctx)
{
	struct mesh_endpoint to;
	enum mesh_verdict verdict;

	mesh_read4(ctx, &to);
	verdict = mesh_outbound(ctx, &to);
	if (verdict == MESH_VERDICT_CAPTURE || verdict == MESH_VERDICT_NOBODY)
		mesh_write4(ctx, &to);
	return verdict != MESH_VERDICT_REFUSE;
}

SEC("cgroup/connect6")
int mesh_connect6(struct bpf_sock_addr *ctx)
{
	struct mesh_endpoint to;
	enum mesh_verdict verdict;

	mesh_read6(ctx, &to);
	verdict = mesh_outbound(ctx, &to);
	if (verdict == MESH_VERDICT_CAPTURE || verdict == MESH_VERDICT_NOBODY)
		mesh_write6(ctx, &to);
	return verdict != MESH_VERDICT_REFUSE;
}
