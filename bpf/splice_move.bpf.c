/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* sk_msg: for each message that a spliced socket sends, where it goes. Fails to PASS: the agent relays. */
#include "include/splice_turn.h"
#include "include/splice_urgent.h"

extern void *bpf_cast_to_kern_ctx(void *ctx) __ksym;

/* Messages that may be unread: exact when the reader just passed the mark, at most twice as many otherwise. */
static __always_inline __u64 mesh_splice_waiting(struct mesh_splice_way *way, __u64 consumed)
{
	if (consumed >= way->mark) {
		way->read_messages = way->mark_messages;
		way->mark = way->tail;
		way->mark_messages = way->messages;
	}
	return way->messages - way->read_messages;
}

static __always_inline bool mesh_splice_may(const struct mesh_splice_flow *flow,
					    const struct mesh_splice_config *config)
{
	const __u32 needed = MESH_SPLICE_ENABLED | MESH_SPLICE_ENROLLED;
	const __u32 barred = MESH_SPLICE_OUT | MESH_SPLICE_FORGOTTEN | MESH_SPLICE_BROKEN;
	__u32 flags = *(const volatile __u32 *)&flow->flags;

	return !(config->flags & MESH_SPLICE_STOPPED) && (flags & needed) == needed && !(flags & barred);
}

static __always_inline bool mesh_splice_reader_ready(const struct mesh_splice_way *way,
						     const struct mesh_splice_config *config)
{
	__u32 reader = *(const volatile __u32 *)&way->reader;

	if (!(reader & MESH_SPLICE_READY) || reader & MESH_SPLICE_SUSPECT)
		return false;
	return !(reader & MESH_SPLICE_BLOCKS) || (config->flags & MESH_SPLICE_ALLOW_BLOCKING);
}

struct mesh_splice_wait {
	struct mesh_splice_way *way;
	__u64 until; /* offset */
	__u64 deadline;
};

static long mesh_splice_look(__u32 index, void *context)
{
	struct mesh_splice_wait *wait = context;

	return *(const volatile __u64 *)&wait->way->consumed >= wait->until || bpf_ktime_get_ns() > wait->deadline;
}

/* Hold the sender for its receiver to read up to `until`; how far that is read then. The sender spins (it can be
 * preempted, and so can be overtaken on its own CPU): a receiver that is merely a little slower never lets the queue
 * reach its limit, and so nothing of a bulk transfer takes the long way. */
static __always_inline __u64 mesh_splice_hold(struct mesh_splice_way *way, __u64 until, __u64 now, __u64 nanoseconds)
{
	struct mesh_splice_wait wait = { .way = way, .until = until, .deadline = now + nanoseconds };

	bpf_loop(MESH_SPLICE_LOOKS, mesh_splice_look, &wait, 0);
	return *(const volatile __u64 *)&way->consumed;
}

/* Cost that a direction may have queued. The kernel drops what arrives for a socket while its reader is inside, if more
 * than twice its receive buffer and half its send buffer and 64 KiB wait there (tcp_add_backlog), and redirected bytes
 * count. A reset is sent once only: a reader that misses it waits for ever. So a receive buffer and 64 KiB are left to
 * what arrives; and nothing is queued for a socket that cannot be looked at. */
static __always_inline __u64 mesh_splice_limit(const struct mesh_splice_flow *flow, const struct mesh_splice_way *way,
					       const struct mesh_splice_config *config)
{
	struct sock *reader = (struct sock *)way->socket;
	__u64 room = (__u64)BPF_CORE_READ(reader, sk_rcvbuf) + ((__u64)BPF_CORE_READ(reader, sk_sndbuf) >> 1);
	__u64 limit = config->limit;

	if (flow->flags & MESH_SPLICE_LEG && limit > MESH_SPLICE_LEG_LIMIT)
		limit = MESH_SPLICE_LEG_LIMIT;
	return room < limit ? room : limit;
}

/* SPLICED and the queue is half full: hold the sender for as long as a slow receiver takes for this message. */
static __always_inline __u64 mesh_splice_brake(struct mesh_splice_way *way, const struct mesh_splice_config *config,
					       __u64 limit, __u64 sent, __u64 consumed, __u32 size)
{
	__u64 cost = sent - consumed + mesh_splice_waiting(way, consumed) * MESH_SPLICE_MESSAGE;
	__u64 time = 2ULL * (size + MESH_SPLICE_MESSAGE);

	if (!config->patience || cost <= limit / 2 || cost > limit)
		return consumed;
	if (time > config->patience)
		time = config->patience;
	return mesh_splice_hold(way, consumed + (cost - limit / 2), bpf_ktime_get_ns(), time);
}

/* PASS, but only bytes in the relay are unread: hold the sender so that they can get through, now and then. A sender
 * that never pauses would otherwise never get back to SPLICED. */
static __always_inline __u64 mesh_splice_rejoin(struct mesh_splice_way *way, const struct mesh_splice_config *config,
						const struct tcp_sock *tp, __u64 sent, __u64 consumed)
{
	__u64 now, after;

	/* What the sender's own socket still has to transmit would not move: we hold its lock. */
	if (tp->snd_nxt != tp->write_seq)
		return consumed;
	if (!config->patience || way->tail > consumed || sent - consumed > MESH_SPLICE_WAIT_REST)
		return consumed;
	now = bpf_ktime_get_ns();
	if (now < way->retry)
		return consumed;
	consumed = mesh_splice_hold(way, sent, now, (__u64)config->patience * MESH_SPLICE_WAIT_LONGER);
	after = bpf_ktime_get_ns();
	way->retry = after + (after - now) * MESH_SPLICE_WAIT_SHARE;
	return consumed;
}

/* A leg of which more is sent than is read: out for good, and user space is told, which has it leave the hash. */
static __always_inline void mesh_splice_bulk(struct mesh_splice_flow *flow)
{
	__u32 why = MESH_SPLICE_OUT_BULK;
	__u64 id = flow->end[0].cookie;

	if (mesh_splice_out(flow, why) & MESH_SPLICE_OUT_BULK)
		return;
	bpf_map_update_elem(&mesh_spl_broken, &id, &why, BPF_NOEXIST);
	mesh_splice_count(MESH_SPLICE_COUNT_BULK, 1);
}

/* Whether the queue has room for `size` bytes more; keeps what is charged near what is queued. */
static __always_inline bool mesh_splice_room(struct mesh_splice_flow *flow, struct mesh_splice_way *way,
					     const struct mesh_splice_config *config, const struct tcp_sock *tp,
					     __u64 limit, __u64 unread, __u64 messages, __u32 size)
{
	__u64 cost = unread + messages * MESH_SPLICE_MESSAGE;
	__s64 *total = mesh_splice_total();

	if (cost + size + MESH_SPLICE_MESSAGE > limit) {
		mesh_splice_count(MESH_SPLICE_COUNT_LIMIT, 1);
		if (flow->flags & MESH_SPLICE_LEG)
			mesh_splice_bulk(flow);
		return false;
	}
	if (way->charged > (__s64)cost)
		mesh_splice_charge(way, (__s64)cost - way->charged);
	if (!total || *total + size + MESH_SPLICE_MESSAGE > (__s64)config->cap) {
		mesh_splice_count(MESH_SPLICE_COUNT_CAP, 1);
		return false;
	}
	if (tp->inet_conn.icsk_inet.sk.__sk_common.skc_prot->memory_allocated->counter > (__s64)config->memory) {
		mesh_splice_count(MESH_SPLICE_COUNT_MEMORY, 1);
		return false;
	}
	return true;
}

/* Decide one message and, if it is to be redirected, count it before it is queued. */
static __always_inline bool mesh_splice_move(struct sk_msg_md *msg, struct mesh_splice_flow *flow,
					     struct mesh_splice_way *way, const struct mesh_splice_socket *mine,
					     const struct tcp_sock *tp, __u64 *receiver)
{
	struct mesh_splice_config *config = mesh_splice_config();
	__u64 consumed = *(const volatile __u64 *)&way->consumed;
	__u64 sent = mesh_splice_sent(tp, mine->base) + way->redirected;
	__u32 size = msg->size;
	__u64 messages, limit, unread = sent - consumed;

	if ((__s64)unread < 0)
		mesh_splice_out(flow, MESH_SPLICE_OUT_COUNT);
	if (!config || !mesh_splice_may(flow, config) || tp->inet_conn.icsk_inet.sk.sk_shutdown & SEND_SHUTDOWN)
		return false;
	if (!mesh_splice_reader_ready(way, config))
		return false;
	limit = mesh_splice_limit(flow, way, config);
	/* Nobody is held for a leg: the sender may be the agent, and others wait for it. */
	if (!(flow->flags & MESH_SPLICE_LEG)) {
		if (way->spliced)
			consumed = mesh_splice_brake(way, config, limit, sent, consumed, size);
		else if (unread)
			consumed = mesh_splice_rejoin(way, config, tp, sent, consumed);
	}
	unread = sent - consumed;
	if (!way->spliced && unread)
		return false;
	messages = mesh_splice_waiting(way, consumed);
	if (!mesh_splice_room(flow, way, config, tp, limit, unread, messages, size))
		return false;
	/* Said before it is looked at again: whoever puts the flow out reads the tail after that, so one of the two
	 * sees the other. */
	mesh_splice_charge(way, size + MESH_SPLICE_MESSAGE);
	__sync_lock_test_and_set(&way->tail, sent + size);
	if (!mesh_splice_may(flow, config) || !mesh_splice_reader_ready(way, config) ||
	    bpf_msg_redirect_hash(msg, &mesh_spl_hash, receiver, BPF_F_INGRESS) != SK_PASS) {
		/* The tail stays: these bytes come there by TCP. */
		mesh_splice_charge(way, -(__s64)(size + MESH_SPLICE_MESSAGE));
		mesh_splice_count(MESH_SPLICE_COUNT_GONE, 1);
		return false;
	}
	if (!(flow->flags & MESH_SPLICE_LEG))
		mesh_splice_knock(way, config);
	way->redirected += size;
	way->messages++;
	way->active = bpf_ktime_get_coarse_ns();
	mesh_splice_count(MESH_SPLICE_COUNT_BYTES, size);
	return true;
}

SEC("sk_msg")
int mesh_splice_verdict(struct sk_msg_md *msg)
{
	struct sk_msg *kernel = bpf_cast_to_kern_ctx(msg);
	struct mesh_splice_config *config;
	struct mesh_splice_socket *mine;
	struct mesh_splice_flow *flow;
	struct mesh_splice_way *way;
	struct bpf_sock *sk = msg->sk;
	struct tcp_sock *tp;
	bool spliced, client;
	__u64 receiver;

	if (!sk)
		return SK_PASS;
	/* The rest of a message of which memory was short for a part: the kernel sends it where the part went, and it is
	 * counted already. */
	if (kernel->sk_redir)
		return SK_PASS;
	mine = bpf_sk_storage_get(&mesh_spl_sock, sk, 0, 0);
	tp = bpf_skc_to_tcp_sock(sk);
	if (!mine || !tp)
		return SK_PASS;
	flow = mesh_splice_flow_of(mine);
	if (!flow)
		return SK_PASS;
	config = mesh_splice_config();
	if (mesh_splice_may_be_urgent(config && config->flags & MESH_SPLICE_SEES_RINGS))
		mesh_splice_out(flow, MESH_SPLICE_OUT_URGENT);
	client = mine->role == MESH_SPLICE_CLIENT;
	way = client ? &flow->way[0] : &flow->way[1];
	receiver = client ? flow->end[1].cookie : flow->end[0].cookie;
	spliced = mesh_splice_move(msg, flow, way, mine, tp, &receiver);
	if (spliced && !way->spliced) {
		way->switches++;
		mesh_splice_count(MESH_SPLICE_COUNT_SPLICED, 1);
	}
	way->spliced = spliced;
	bpf_msg_apply_bytes(msg, spliced || msg->size <= MESH_SPLICE_STEP ? 0 : MESH_SPLICE_STEP); /* 0: all of it */
	return SK_PASS;
}
