/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Taking turns at the receiver's socket: what verdict and reader do for each other, beside what they decide.
 *
 * Its reader holds the socket's lock as long as it copies, its sender needs it to queue a message. The kernel has whoever
 * comes second sleep, hands the lock to nobody, and has the reader sleep again when it has read everything meanwhile: on
 * two processors the two put each other to sleep at every message, and that takes longer than the copies. So they wait
 * for each other busily, where both are on processors of their own:
 *
 *   a sender that finds the reader inside   knocks, and waits until it is out
 *   a reader that comes out                 waits for the message of whoever knocked
 *   a reader that finds nothing             waits a moment, if lately more came within a moment each time
 *
 * Each wait ends by the clock, and nothing is decided by how it ended. Small messages to and fro are splice_exchange.h's. */
#ifndef MESH_SPLICE_TURN_H
#define MESH_SPLICE_TURN_H

#include "splice_state.h"

struct mesh_splice_sight {
	__u64 socket;
	__u64 last; /* message in its queue */
	__u64 deadline;
};

/* The queue of redirected messages of a socket in a map: the address of its list, or 0. */
static __always_inline __u64 mesh_splice_queue(struct sock *sk)
{
	/* The lowest bits of the pointer say what it points to: for a socket in a map, an sk_psock. */
	__u64 psock = (__u64)BPF_CORE_READ(sk, sk_user_data) & ~7ULL;

	return psock ? psock + bpf_core_field_offset(struct sk_psock, ingress_msg) : 0;
}

/* Whether redirected bytes wait in the socket. */
static __always_inline bool mesh_splice_holds(struct sock *sk)
{
	__u64 list = mesh_splice_queue(sk), next = 0;

	if (!list)
		return false;
	bpf_probe_read_kernel(&next, sizeof(next), (void *)list);
	return next && next != list;
}

static __always_inline __u64 mesh_splice_last(struct sock *sk)
{
	__u64 list = mesh_splice_queue(sk), last = 0;

	if (list)
		bpf_probe_read_kernel(&last, sizeof(last), (void *)(list + bpf_core_field_offset(struct list_head, prev)));
	return last;
}

static __always_inline bool mesh_splice_inside(struct sock *sk)
{
	return BPF_CORE_READ(sk, sk_lock.owned);
}

static long mesh_splice_sees_free(__u32 index, void *context)
{
	struct mesh_splice_sight *sight = context;

	return !mesh_splice_inside((struct sock *)sight->socket) || bpf_ktime_get_ns() > sight->deadline;
}

static long mesh_splice_sees_message(__u32 index, void *context)
{
	struct mesh_splice_sight *sight = context;
	struct sock *sk = (struct sock *)sight->socket;

	return (mesh_splice_last(sk) != sight->last && !mesh_splice_inside(sk)) || bpf_ktime_get_ns() > sight->deadline;
}

/* The sender is about to queue a message: until nobody reads. Where that takes too long (a reader with a very large
 * buffer, or one that does not run) it is not tried for a while. */
static __always_inline void mesh_splice_knock(struct mesh_splice_way *way, const struct mesh_splice_config *config)
{
	struct mesh_splice_sight sight = { .socket = way->socket };
	__u32 here = bpf_get_smp_processor_id();
	__u64 began, now;

	if (!config->patience || !sight.socket)
		return;
	way->sender = here;
	if (way->dry) {
		now = bpf_ktime_get_ns();
		way->prompt = now - way->dry > MESH_SPLICE_MOMENT ? 0 : way->prompt + (way->prompt < MESH_SPLICE_PROMPT);
		way->dry = 0;
	}
	if (way->receiver == here || !mesh_splice_inside((struct sock *)sight.socket))
		return;
	began = bpf_ktime_get_ns();
	if (began < way->calm)
		return;
	*(volatile __u32 *)&way->knocked = 1;
	sight.deadline = began + config->patience;
	bpf_loop(MESH_SPLICE_LOOKS, mesh_splice_sees_free, &sight, 0);
	now = bpf_ktime_get_ns();
	if (now > sight.deadline)
		way->calm = now + (now - began) * MESH_SPLICE_WAIT_SHARE;
}

/* The reader has come out, with something or with nothing. */
static __always_inline void mesh_splice_yield(struct mesh_splice_way *way, struct sock *sk, bool nothing)
{
	struct mesh_splice_sight sight = { .socket = (__u64)sk };
	__u32 here = bpf_get_smp_processor_id();

	if (way->receiver != here)
		way->receiver = here;
	if (way->knocked) {
		way->knocked = 0;
		sight.last = mesh_splice_last(sk);
		sight.deadline = bpf_ktime_get_ns() + MESH_SPLICE_ENTRY;
	} else if (nothing) {
		way->dry = bpf_ktime_get_ns();
		if (way->prompt < MESH_SPLICE_PROMPT || way->sender == here)
			return;
		sight.last = mesh_splice_queue(sk); /* what the last one is while there is none */
		sight.deadline = way->dry + MESH_SPLICE_MOMENT;
	} else {
		return;
	}
	bpf_loop(MESH_SPLICE_LOOKS, mesh_splice_sees_message, &sight, 0);
}

#endif
