/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* What the agent asks for, as one atomic step each: it runs this program (BPF_PROG_TEST_RUN) with a request as its
 * packet. Only here are sockets let into the hash. */
#include "include/splice_state.h"

#define MESH_SPLICE_OFFSET 16 /* of the request: the kernel insists on an Ethernet header */

/* The application's socket, in whatever network namespace; release it. Whether it is the one that is meant is told by
 * what is stored in it: a namespace's id may be another's by now. */
static __always_inline struct bpf_sock *mesh_splice_find(struct __sk_buff *skb, const struct mesh_splice_end *end)
{
	struct bpf_sock_tuple tuple = {};
	__u64 netns = (__s64)end->netns; /* the kernel takes what is negative for its caller's */

	if (mesh_is_v4(&end->app.addr)) {
		tuple.ipv4.saddr = end->agent.addr.word[3];
		tuple.ipv4.daddr = end->app.addr.word[3];
		tuple.ipv4.sport = end->agent.port;
		tuple.ipv4.dport = end->app.port;
		return bpf_sk_lookup_tcp(skb, &tuple, sizeof(tuple.ipv4), netns, 0);
	}
	__builtin_memcpy(tuple.ipv6.saddr, &end->agent.addr, sizeof(tuple.ipv6.saddr));
	__builtin_memcpy(tuple.ipv6.daddr, &end->app.addr, sizeof(tuple.ipv6.daddr));
	tuple.ipv6.sport = end->agent.port;
	tuple.ipv6.dport = end->app.port;
	return bpf_sk_lookup_tcp(skb, &tuple, sizeof(tuple.ipv6), netns, 0);
}

/* 0, or the reason (enum mesh_splice_flag) why this socket's reader would miss something. */
static __always_inline __u32 mesh_splice_unsuited(const struct tcp_sock *tp, __u32 reader, bool allow_blocking)
{
	const struct sock *sk = &tp->inet_conn.icsk_inet.sk;

	if (tp->inet_conn.icsk_ulp_ops)
		return MESH_SPLICE_OUT_ULP;
	if (sk->__sk_common.skc_flags & (1UL << bpf_core_enum_value(enum sock_flags, SOCK_ZEROCOPY)))
		return MESH_SPLICE_OUT_ZEROCOPY;
	if (sk->sk_rcvlowat > 1)
		return MESH_SPLICE_OUT_LOWAT;
	if (sk->sk_peek_off >= 0 || BPF_CORE_READ_BITFIELD(tp, recvmsg_inq))
		return MESH_SPLICE_OUT_OPTION;
	if (allow_blocking)
		return 0;
	if (reader & MESH_SPLICE_BLOCKS)
		return MESH_SPLICE_OUT_BLOCKING;
	/* Nobody was seen reading: then the descriptor says how it will be done. */
	if (!(reader & MESH_SPLICE_READ) && !(sk->sk_socket->file->f_flags & O_NONBLOCK))
		return MESH_SPLICE_OUT_BLOCKING;
	return 0;
}

/* Mark one end to be put into the hash, or only see whether it can be. */
static __always_inline int mesh_splice_enter(struct __sk_buff *skb, struct mesh_splice_flow *flow, __u32 role,
					     bool allow_blocking, bool mark)
{
	struct mesh_splice_end *end = role == MESH_SPLICE_CLIENT ? &flow->end[0] : &flow->end[1];
	__u32 why, reader = mesh_splice_inward(flow, role)->reader;
	struct bpf_sock *sk = mesh_splice_find(skb, end);
	int answer = MESH_SPLICE_NO_SOCKET;
	struct mesh_splice_socket *mine;
	struct tcp_sock *tp;
	__u64 cookie = end->cookie;

	if (!sk)
		return answer;
	mine = bpf_sk_storage_get(&mesh_spl_sock, sk, 0, 0);
	tp = bpf_skc_to_tcp_sock(sk);
	if (!mine || !tp || mine->flow != flow->end[0].cookie || mine->role != role)
		goto release;
	if (mark) {
		answer = bpf_sk_storage_get(&mesh_spl_enter, sk, 0, BPF_SK_STORAGE_GET_F_CREATE) ? MESH_SPLICE_DONE :
												   MESH_SPLICE_REFUSED;
		goto release;
	}
	why = mesh_splice_unsuited(tp, reader, allow_blocking);
	if (bpf_map_lookup_elem(&mesh_spl_zcopy, &cookie))
		why = MESH_SPLICE_OUT_ZEROCOPY;
	if (why == MESH_SPLICE_OUT_BLOCKING && !(reader & MESH_SPLICE_READ)) {
		answer = MESH_SPLICE_WAITING; /* it may yet be seen reading another way */
	} else if (why) {
		mesh_splice_out(flow, why);
		answer = MESH_SPLICE_IS_OUT;
	} else {
		/* A process is inside the socket right now. */
		answer = tp->inet_conn.icsk_inet.sk.sk_lock.owned ? MESH_SPLICE_WAITING : MESH_SPLICE_DONE;
	}
release:
	bpf_sk_release(sk);
	return answer;
}

/* Authorized: both sockets into the hash as soon as somebody was seen reading. */
static __always_inline int mesh_splice_enable(struct __sk_buff *skb, struct mesh_splice_flow *flow)
{
	struct mesh_splice_config *config = mesh_splice_config();
	__u32 flags = __sync_fetch_and_or(&flow->flags, MESH_SPLICE_ENABLED);
	bool blocking;
	int answer;

	if (flags & (MESH_SPLICE_OUT | MESH_SPLICE_BROKEN | MESH_SPLICE_FORGOTTEN))
		return MESH_SPLICE_IS_OUT;
	if (flags & MESH_SPLICE_ENROLLED)
		return MESH_SPLICE_DONE;
	if (!config || config->flags & MESH_SPLICE_STOPPED || !flow->end[1].cookie)
		return MESH_SPLICE_WAITING;
	if (flags & MESH_SPLICE_LEG && config->flags & MESH_SPLICE_NO_LEGS)
		return MESH_SPLICE_IS_OUT;
	if (!((flow->way[0].reader | flow->way[1].reader) & MESH_SPLICE_READ))
		return MESH_SPLICE_WAITING;
	blocking = config->flags & MESH_SPLICE_ALLOW_BLOCKING;
	if ((answer = mesh_splice_enter(skb, flow, MESH_SPLICE_CLIENT, blocking, false)) ||
	    (answer = mesh_splice_enter(skb, flow, MESH_SPLICE_SERVER, blocking, false)))
		return answer;
	/* Said first: a TCP_ULP that comes from here on is refused (mesh_splice_option), one that came before is seen. */
	if (__sync_fetch_and_or(&flow->flags, MESH_SPLICE_ENTERING) & MESH_SPLICE_OUT)
		return MESH_SPLICE_IS_OUT;
	if ((answer = mesh_splice_enter(skb, flow, MESH_SPLICE_CLIENT, blocking, true)) ||
	    (answer = mesh_splice_enter(skb, flow, MESH_SPLICE_SERVER, blocking, true))) {
		mesh_splice_out(flow, MESH_SPLICE_OUT_REFUSED);
		return answer;
	}
	return MESH_SPLICE_MARKED;
}

/* One end into the hash. The flag of the flow comes last: what it promises is true by then. */
static __always_inline void mesh_splice_insert(struct mesh_splice_flow *flow, __u32 role, struct sock *sk)
{
	const __u32 barred = MESH_SPLICE_OUT | MESH_SPLICE_FORGOTTEN | MESH_SPLICE_BROKEN;
	const __u32 both = MESH_SPLICE_IN_CLIENT | MESH_SPLICE_IN_SERVER;
	bool client = role == MESH_SPLICE_CLIENT;
	__u64 cookie = client ? flow->end[0].cookie : flow->end[1].cookie;
	__u32 in = client ? MESH_SPLICE_IN_CLIENT : MESH_SPLICE_IN_SERVER;
	__u32 flags = *(const volatile __u32 *)&flow->flags;

	if (!(flags & MESH_SPLICE_ENTERING) || flags & barred)
		return;
	mesh_splice_inward(flow, role)->socket = (__u64)sk;
	if (bpf_map_update_elem(&mesh_spl_hash, &cookie, sk, BPF_ANY)) {
		mesh_splice_out(flow, MESH_SPLICE_OUT_REFUSED);
		return;
	}
	flags = __sync_fetch_and_or(&flow->flags, in) | in;
	if ((flags & both) != both || __sync_fetch_and_or(&flow->flags, MESH_SPLICE_ENROLLED) & MESH_SPLICE_ENROLLED)
		return;
	mesh_splice_count(flags & MESH_SPLICE_LEG ? MESH_SPLICE_COUNT_LEGS : MESH_SPLICE_COUNT_ENROLLED, 1);
}

/* Puts all marked sockets into the hash, also those of other workers. A program of its own because Linux 7 lets none but
 * iterators (and programs that choose a listener) change a map of sockets; of control it takes nothing but the mark. */
SEC("iter/bpf_sk_storage_map")
int mesh_splice_admit(struct bpf_iter__bpf_sk_storage_map *ctx)
{
	struct mesh_splice_socket *mine;
	struct mesh_splice_flow *flow;
	struct sock *sk = ctx->sk;

	if (!sk)
		return 0;
	mine = bpf_sk_storage_get(&mesh_spl_sock, sk, 0, 0);
	if (mesh_splice_serves(mine)) {
		flow = mesh_splice_flow_of(mine);
		if (flow)
			mesh_splice_insert(flow, mine->role, sk);
	}
	bpf_sk_storage_delete(&mesh_spl_enter, sk);
	return 0;
}

static const struct mesh_splice_flow mesh_splice_blank = {};

/* The counts of a leg that is some messages old. What the agent has read follows from the application's numbers: its own
 * socket is read by nobody else, and not now. What the application has read was counted from the beginning. Nothing of the
 * agent's may be on its way, so that the application's socket is still. */
static __always_inline int mesh_splice_join(struct mesh_splice_flow *flow, const struct tcp_sock *app,
					    const struct mesh_splice_socket *theirs, const struct tcp_sock *agent,
					    struct mesh_splice_socket *ours, __u32 agents)
{
	struct mesh_splice_way *inward = mesh_splice_inward(flow, agents);
	struct mesh_splice_way *outward = agents == MESH_SPLICE_CLIENT ? &flow->way[0] : &flow->way[1];

	if (agent->write_seq != agent->snd_una)
		return MESH_SPLICE_WAITING;
	if (agent->bytes_received >> 31 || app->bytes_received >> 31)
		return MESH_SPLICE_REFUSED;
	ours->base = agent->write_seq - (__u32)app->bytes_received;
	ours->read = (__u32)(agent->copied_seq - theirs->base);
	ours->role = agents;
	inward->consumed = ours->read;
	inward->reader = MESH_SPLICE_READ;
	outward->consumed = *(const volatile __u64 *)&theirs->read;
	return MESH_SPLICE_DONE;
}

/* The flow of a leg: `apps` is the role of the application's end, the other end is the agent's. */
static __always_inline int mesh_splice_prepare_leg(struct __sk_buff *skb, struct mesh_splice_flow *flow, __u32 apps)
{
	__u32 agents = apps == MESH_SPLICE_CLIENT ? MESH_SPLICE_SERVER : MESH_SPLICE_CLIENT;
	struct mesh_splice_socket *theirs, *ours;
	struct bpf_sock *app, *agent = NULL;
	int answer = MESH_SPLICE_NO_SOCKET;
	__u64 id = flow->end[0].cookie, cookie;
	struct tcp_sock *to, *from;

	app = mesh_splice_find(skb, apps == MESH_SPLICE_CLIENT ? &flow->end[0] : &flow->end[1]);
	if (!app)
		return answer;
	agent = mesh_splice_find(skb, agents == MESH_SPLICE_CLIENT ? &flow->end[0] : &flow->end[1]);
	if (!agent)
		goto release;
	theirs = bpf_sk_storage_get(&mesh_spl_sock, app, 0, 0);
	ours = bpf_sk_storage_get(&mesh_spl_sock, agent, 0, BPF_SK_STORAGE_GET_F_CREATE);
	to = bpf_skc_to_tcp_sock(app);
	from = bpf_skc_to_tcp_sock(agent);
	if (!theirs || !ours || !to || !from || theirs->role != apps || theirs->flow || ours->flow)
		goto release;
	if (apps == MESH_SPLICE_SERVER) {
		cookie = to->inet_conn.icsk_inet.sk.__sk_common.skc_cookie.counter;
		if (!cookie)
			goto release;
		flow->end[1].cookie = cookie;
	} else {
		flow->end[1].cookie = id | MESH_SPLICE_AGENT_END;
	}
	flow->flags = MESH_SPLICE_LEG;
	answer = mesh_splice_join(flow, to, theirs, from, ours, agents);
	if (answer != MESH_SPLICE_DONE)
		goto release;
	cookie = flow->end[1].cookie;
	if (apps == MESH_SPLICE_SERVER && bpf_map_update_elem(&mesh_spl_server, &cookie, &id, BPF_ANY)) {
		answer = MESH_SPLICE_FULL;
		goto release;
	}
	ours->flow = id;
	theirs->flow = id;
release:
	if (agent)
		bpf_sk_release(agent);
	bpf_sk_release(app);
	return answer;
}

/* The flow between two applications: its client's end is there already. */
static __always_inline int mesh_splice_prepare_both(struct __sk_buff *skb, struct mesh_splice_flow *flow)
{
	struct bpf_sock *sk = mesh_splice_find(skb, &flow->end[0]);
	int answer = MESH_SPLICE_NO_SOCKET;
	struct mesh_splice_socket *mine;

	if (!sk)
		return answer;
	mine = bpf_sk_storage_get(&mesh_spl_sock, sk, 0, 0);
	if (mine && mine->role == MESH_SPLICE_CLIENT && !mine->flow) {
		mine->flow = flow->end[0].cookie;
		answer = MESH_SPLICE_DONE;
	}
	bpf_sk_release(sk);
	return answer;
}

/* A flow is filled in where it lies (it would not fit on the stack): nobody finds it before a socket names it. */
static __always_inline int mesh_splice_prepare(struct __sk_buff *skb, const struct mesh_splice_request *request)
{
	struct mesh_splice_flow *flow;
	__u64 id = request->flow;
	int answer;

	if (bpf_map_update_elem(&mesh_spl_flow, &id, &mesh_splice_blank, BPF_NOEXIST))
		return MESH_SPLICE_FULL;
	flow = bpf_map_lookup_elem(&mesh_spl_flow, &id);
	if (!flow)
		return MESH_SPLICE_FULL;
	flow->owner = request->owner;
	flow->end[0].cookie = id;
	flow->end[0].app = request->app;
	flow->end[0].agent = request->agent;
	flow->end[0].netns = request->netns[0];
	flow->end[1].netns = request->netns[1];
	if (request->operation == MESH_SPLICE_PREPARE) {
		answer = mesh_splice_prepare_both(skb, flow);
	} else {
		flow->end[1].app = request->agent;
		flow->end[1].agent = request->app;
		answer = mesh_splice_prepare_leg(skb, flow, request->operation == MESH_SPLICE_PREPARE_ACCEPTED ?
								    MESH_SPLICE_CLIENT : MESH_SPLICE_SERVER);
	}
	if (answer != MESH_SPLICE_DONE)
		bpf_map_delete_elem(&mesh_spl_flow, &id);
	return answer;
}

static __always_inline bool mesh_splice_queued(const struct mesh_splice_way *way)
{
	return way->charged && *(const volatile __u64 *)&way->tail > *(const volatile __u64 *)&way->consumed;
}

/* Nothing more is redirected. It is kept as long as its bytes wait in the kernel: they count against the cap. */
static __always_inline int mesh_splice_forget(struct mesh_splice_flow *flow, __u64 id, bool release)
{
	__u64 server = flow->end[1].cookie;

	__sync_fetch_and_or(&flow->flags, MESH_SPLICE_FORGOTTEN);
	if (!release && (mesh_splice_queued(&flow->way[0]) || mesh_splice_queued(&flow->way[1])))
		return MESH_SPLICE_WAITING;
	mesh_splice_discharge(&flow->way[0]);
	mesh_splice_discharge(&flow->way[1]);
	if (server)
		bpf_map_delete_elem(&mesh_spl_server, &server);
	bpf_map_delete_elem(&mesh_spl_broken, &id);
	bpf_map_delete_elem(&mesh_spl_flow, &id);
	return MESH_SPLICE_DONE;
}

/* A flow that is out, and of which nothing is queued: user space may take its sockets out of the hash, and TCP carries it
 * as if it had never been in. Whoever is about to redirect has said so in the tail, or sees that the flow is out. */
static __always_inline int mesh_splice_leave(struct mesh_splice_flow *flow, bool parted)
{
	int i;

	if (!(flow->flags & MESH_SPLICE_OUT))
		return MESH_SPLICE_REFUSED;
	for (i = 0; i < 2; i++)
		if (*(const volatile __u64 *)&flow->way[i].tail > *(const volatile __u64 *)&flow->way[i].consumed)
			return MESH_SPLICE_WAITING;
	if (parted)
		__sync_fetch_and_or(&flow->flags, MESH_SPLICE_LEFT);
	return MESH_SPLICE_DONE;
}

SEC("tc")
int mesh_splice_control(struct __sk_buff *skb)
{
	struct mesh_splice_request request = {};
	struct mesh_splice_flow *flow;
	__u64 id;

	if (bpf_skb_load_bytes(skb, MESH_SPLICE_OFFSET, &request, sizeof(request)))
		return MESH_SPLICE_MALFORMED;
	if (request.operation == MESH_SPLICE_PREPARE || request.operation == MESH_SPLICE_PREPARE_ACCEPTED ||
	    request.operation == MESH_SPLICE_PREPARE_DIALLED)
		return mesh_splice_prepare(skb, &request);
	id = request.flow;
	flow = bpf_map_lookup_elem(&mesh_spl_flow, &id);
	if (!flow)
		return MESH_SPLICE_UNKNOWN;
	if (request.operation == MESH_SPLICE_ENABLE)
		return mesh_splice_enable(skb, flow);
	if (request.operation == MESH_SPLICE_DISABLE) {
		__sync_fetch_and_and(&flow->flags, ~MESH_SPLICE_ENABLED);
		return MESH_SPLICE_DONE;
	}
	if (request.operation == MESH_SPLICE_LEAVE || request.operation == MESH_SPLICE_PARTED)
		return mesh_splice_leave(flow, request.operation == MESH_SPLICE_PARTED);
	if (request.operation == MESH_SPLICE_FORGET || request.operation == MESH_SPLICE_RELEASE)
		return mesh_splice_forget(flow, id, request.operation == MESH_SPLICE_RELEASE);
	return MESH_SPLICE_MALFORMED;
}
