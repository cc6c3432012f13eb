/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* What happens to the sockets of flows: they come to be (sockops), are read (tp_btf), or do what a spliced socket
 * cannot (setsockopt, splice(2), FIONREAD). None of these refuses a connection; without them a flow is relayed. */
#include "include/splice_exchange.h"
#include "include/splice_turn.h"

static __always_inline void mesh_splice_mark(struct bpf_sock_ops *ctx, struct bpf_sock *sk, __u64 flow, __u32 role,
					     bool leg)
{
	struct mesh_splice_socket *mine;
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);
	int unsent = MESH_SPLICE_UNSENT;
	__u32 base;

	/* Bytes that were sent with the SYN would have to be counted: such a connection is relayed. */
	if (!tp || ctx->data_segs_out || tp->write_seq != tp->snd_una)
		return;
	if (!leg && !tp->notsent_lowat)
		bpf_setsockopt(ctx, SOL_TCP, TCP_NOTSENT_LOWAT, &unsent, sizeof(unsent));
	base = tp->write_seq;
	mine = bpf_sk_storage_get(&mesh_spl_sock, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!mine)
		return;
	mine->flow = flow;
	mine->base = base;
	mine->role = role;
}

/* The agent's socket is about to send its SYN: from now on its addresses are known. */
static __always_inline void mesh_splice_dialling(struct bpf_sock_ops *ctx, struct bpf_sock *sk)
{
	struct mesh_splice_socket *mine = bpf_sk_storage_get(&mesh_spl_sock, sk, 0, 0);
	struct mesh_splice_dial dial = {};
	__u64 id;

	if (!mine || mine->role != MESH_SPLICE_DIAL || !mesh_read_ends(ctx, &dial.agent, &dial.app))
		return;
	id = mine->flow;
	dial.netns = bpf_get_netns_cookie(ctx);
	bpf_map_update_elem(&mesh_spl_dial, &dial, &id, BPF_ANY);
	bpf_sk_storage_delete(&mesh_spl_sock, sk); /* the agent's own reads are none of the flow's */
}

/* Whether the agent dialled it for a client elsewhere: then it may become a leg (the program before us told the socket).
 */
static __always_inline bool mesh_splice_served(struct bpf_sock *sk)
{
	struct mesh_client *client = bpf_sk_storage_get(&mesh_client_v2, sk, 0, 0);

	return client && client->role == MESH_CLIENT_OF_SERVER;
}

static __always_inline void mesh_splice_answered(struct bpf_sock_ops *ctx, struct bpf_sock *sk)
{
	__u64 cookie = bpf_get_socket_cookie(ctx);
	struct mesh_splice_dial dial = {};
	struct mesh_splice_flow *flow;
	__u64 id, *found;

	if (!mesh_read_ends(ctx, &dial.app, &dial.agent))
		return;
	dial.netns = bpf_get_netns_cookie(ctx);
	found = bpf_map_lookup_elem(&mesh_spl_dial, &dial);
	if (!found) {
		if (mesh_splice_served(sk))
			mesh_splice_mark(ctx, sk, 0, MESH_SPLICE_SERVER, true);
		return;
	}
	id = *found;
	bpf_map_delete_elem(&mesh_spl_dial, &dial);
	flow = bpf_map_lookup_elem(&mesh_spl_flow, &id);
	if (!flow) /* as the self-test does for its legs */
		mesh_splice_mark(ctx, sk, 0, MESH_SPLICE_SERVER, true);
	if (!flow || flow->end[1].cookie)
		return;
	mesh_splice_mark(ctx, sk, id, MESH_SPLICE_SERVER, false);
	if (bpf_map_update_elem(&mesh_spl_server, &cookie, &id, BPF_ANY))
		return;
	flow->end[1].app = dial.app;
	flow->end[1].agent = dial.agent;
	__sync_lock_test_and_set(&flow->end[1].cookie, cookie);
}

/* Captured by connect, or a client of the self-test, which connect would not take for one. */
static __always_inline bool mesh_splice_captured(struct bpf_sock *sk)
{
	struct mesh_splice_socket *mine;

	if (bpf_sk_storage_get(&mesh_origin_v2, sk, 0, 0))
		return true;
	mine = bpf_sk_storage_get(&mesh_spl_sock, sk, 0, 0);
	return mine && mine->role == MESH_SPLICE_TRIAL;
}

SEC("sockops")
int mesh_splice_sockops(struct bpf_sock_ops *ctx)
{
	struct bpf_sock *sk = ctx->sk;

	if (!sk)
		return 1;
	if (ctx->op == BPF_SOCK_OPS_TCP_CONNECT_CB)
		mesh_splice_dialling(ctx, sk);
	else if (ctx->op == BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB)
		mesh_splice_answered(ctx, sk);
	else if (ctx->op == BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB && mesh_splice_captured(sk))
		mesh_splice_mark(ctx, sk, 0, MESH_SPLICE_CLIENT, false);
	return 1;
}

/* Whether it is an end of a flow by now. */
static __always_inline bool mesh_splice_serves(const struct mesh_splice_socket *mine)
{
	return mine && mine->flow && (mine->role == MESH_SPLICE_CLIENT || mine->role == MESH_SPLICE_SERVER);
}

/* Readers may overtake each other on the way here: the highest counts. One that loses every race leaves the count too low,
 * which delays the next SPLICED until the next read, and harms nothing. */
static __always_inline void mesh_splice_consume(struct mesh_splice_way *way, __u64 consumed)
{
	__u64 before;
	int i;

	for (i = 0; i < 8; i++) {
		before = *(const volatile __u64 *)&way->consumed;
		if (before >= consumed || __sync_val_compare_and_swap(&way->consumed, before, consumed) == before)
			return;
	}
}

/* Runs for every recvmsg() on the node; the first lines are all that sockets of others see of it. */
SEC("tp_btf/sock_recv_length")
int BPF_PROG(mesh_splice_received, struct sock *sk, int length, int flags)
{
	struct mesh_splice_socket *mine = bpf_sk_storage_get(&mesh_spl_sock, sk, 0, 0);
	bool stays = length > 0 && mesh_splice_stays(sk);
	struct mesh_splice_flow *flow;
	struct mesh_splice_way *way;
	__u64 consumed = 0;
	__u32 saw;

	if (!mine)
		return 0;
	/* Counted from the first byte on, whether or not there is a flow yet. */
	if (length > 0 && !(flags & (MSG_PEEK | MSG_ERRQUEUE | MSG_OOB)))
		consumed = __sync_fetch_and_add(&mine->read, length) + length;
	if (!mesh_splice_serves(mine))
		return 0;
	flow = mesh_splice_flow_of(mine);
	if (!flow)
		return 0;
	way = mesh_splice_inward(flow, mine->role);
	if (way->reader & MESH_SPLICE_SUSPECT)
		__sync_fetch_and_and(&way->reader, ~MESH_SPLICE_SUSPECT);
	/* Redirected bytes were given out as urgent ones. */
	if (flags & MSG_OOB && length > 0 && way->tail > way->consumed) {
		mesh_splice_out(flow, MESH_SPLICE_OUT_URGENT);
		mesh_splice_break(flow, MESH_SPLICE_OUT_URGENT);
	}
	if (flags & (MSG_PEEK | MSG_ERRQUEUE | MSG_OOB))
		return 0;
	if (flags & (MSG_WAITALL | MSG_TRUNC)) {
		mesh_splice_out(flow, MESH_SPLICE_OUT_WAITALL);
		if (way->tail > way->consumed)
			mesh_splice_break(flow, MESH_SPLICE_OUT_WAITALL);
	}
	saw = MESH_SPLICE_READ;
	if (!(flags & MSG_DONTWAIT))
		saw |= MESH_SPLICE_BLOCKS;
	if (flow->flags & MESH_SPLICE_ENROLLED)
		saw |= MESH_SPLICE_READY;
	if ((way->reader & saw) != saw)
		__sync_fetch_and_or(&way->reader, saw);
	if (length > 0) {
		mesh_splice_consume(way, consumed);
		if (way->charged && consumed >= way->tail)
			mesh_splice_discharge(way);
	}
	if (!way->spliced || !length || flow->flags & MESH_SPLICE_LEG)
		return 0;
	if (stays)
		mesh_splice_exchanged(&mine->exchange, way);
	mesh_splice_yield(way, sk, length < 0);
	return 0;
}

/* A socket wants something of which redirected bytes know nothing. Before it is in the hash: it stays out. After:
 * TLS and zero copy are not to be had (applications then go on without), the rest is granted and nothing more is
 * redirected. */
static __always_inline __u32 mesh_splice_unfit(__s32 level, __s32 option)
{
	if (level == SOL_TCP && option == TCP_ULP)
		return MESH_SPLICE_OUT_ULP;
	if (level == SOL_TCP && option == TCP_INQ)
		return MESH_SPLICE_OUT_OPTION;
	if (level != SOL_SOCKET)
		return 0;
	if (option == SO_ZEROCOPY)
		return MESH_SPLICE_OUT_ZEROCOPY;
	if (option == SO_RCVLOWAT)
		return MESH_SPLICE_OUT_LOWAT;
	return option == SO_PEEK_OFF ? MESH_SPLICE_OUT_OPTION : 0;
}

SEC("cgroup/setsockopt")
int mesh_splice_option(struct bpf_sockopt *ctx)
{
	__u32 why = mesh_splice_unfit(ctx->level, ctx->optname);
	struct mesh_splice_socket *mine;
	struct mesh_splice_flow *flow;
	struct bpf_sock *sk = ctx->sk;

	ctx->optlen = 0; /* the value stays the caller's own: the copy that we are shown is cut at a page */
	if (!why || !sk)
		return 1;
	mine = bpf_sk_storage_get(&mesh_spl_sock, sk, 0, 0);
	if (!mesh_splice_serves(mine))
		return 1;
	flow = mesh_splice_flow_of(mine);
	if (!flow || (mesh_splice_out(flow, why) & (MESH_SPLICE_ENTERING | MESH_SPLICE_LEFT)) != MESH_SPLICE_ENTERING)
		return 1;
	if (why == MESH_SPLICE_OUT_ULP || why == MESH_SPLICE_OUT_ZEROCOPY) {
		mesh_splice_count(MESH_SPLICE_COUNT_DENIED_ULP, 1);
		bpf_set_retval(why == MESH_SPLICE_OUT_ULP ? -ENOENT : -EOPNOTSUPP);
		return 0;
	}
	return 1;
}

/* The cookie of the socket that a file descriptor of the current process is; 0: none, or it has no cookie yet. */
static __always_inline __u64 mesh_splice_cookie(unsigned int number)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	struct fdtable *table = BPF_CORE_READ(task, files, fdt);
	struct file **files, *file = NULL;
	struct socket *socket;

	if (number >= BPF_CORE_READ(table, max_fds))
		return 0;
	files = BPF_CORE_READ(table, fd);
	bpf_probe_read_kernel(&file, sizeof(file), files + number);
	if (!file || (BPF_CORE_READ(file, f_inode, i_mode) & S_IFMT) != S_IFSOCK)
		return 0;
	socket = BPF_CORE_READ(file, private_data);
	return BPF_CORE_READ(socket, sk, __sk_common.skc_cookie.counter);
}

/* The flow of a file descriptor of the current process, and the role of its socket. */
static __always_inline struct mesh_splice_flow *mesh_splice_of(unsigned int number, __u32 *role)
{
	__u64 cookie = mesh_splice_cookie(number), id, *server;

	if (!cookie)
		return NULL;
	server = bpf_map_lookup_elem(&mesh_spl_server, &cookie);
	*role = server ? MESH_SPLICE_SERVER : MESH_SPLICE_CLIENT;
	id = server ? *server : cookie;
	return bpf_map_lookup_elem(&mesh_spl_flow, &id);
}

/* TCP's own queue is read, by recvmsg() or by splice(2), which does not see redirected bytes: it would block, or find
 * nothing where poll() says there is something. recvmsg() comes here only when no redirected bytes wait, and its
 * return (above) takes the suspicion away. Runs for every TCP read on the node. */
SEC("tp_btf/tcp_rcv_space_adjust")
int BPF_PROG(mesh_splice_reading, struct sock *sk)
{
	struct mesh_splice_socket *mine = bpf_sk_storage_get(&mesh_spl_sock, sk, 0, 0);
	struct mesh_splice_flow *flow;
	struct mesh_splice_way *way;

	if (!mesh_splice_serves(mine))
		return 0;
	flow = mesh_splice_flow_of(mine);
	if (!flow)
		return 0;
	way = mesh_splice_inward(flow, mine->role);
	__sync_fetch_and_or(&way->reader, MESH_SPLICE_SUSPECT);
	if (flow->flags & MESH_SPLICE_ENTERING && mesh_splice_holds(sk)) {
		mesh_splice_out(flow, MESH_SPLICE_OUT_SPLICE);
		mesh_splice_break(flow, MESH_SPLICE_OUT_SPLICE);
	}
	return 0;
}

/* FIONREAD, where the kernel's answer leaves redirected bytes out: attached only then, because it costs every system
 * call on the node. */
SEC("tp_btf/sys_enter")
int BPF_PROG(mesh_splice_asking, struct pt_regs *regs, long call)
{
	struct mesh_splice_config *config = mesh_splice_config();
	struct mesh_splice_flow *flow;
	struct mesh_splice_way *way;
	__u32 role = 0;

	if (!config || call != config->ioctl_call || (__u32)MESH_SECOND_ARGUMENT(regs) != FIONREAD)
		return 0;
	flow = mesh_splice_of(MESH_FIRST_ARGUMENT(regs), &role);
	if (!flow)
		return 0;
	mesh_splice_out(flow, MESH_SPLICE_OUT_FIONREAD);
	way = mesh_splice_inward(flow, role);
	if (*(volatile __u64 *)&way->tail > *(volatile __u64 *)&way->consumed)
		mesh_splice_break(flow, MESH_SPLICE_OUT_FIONREAD);
	return 0;
}

/* From now on nothing that this process sends is redirected: its requests name sockets in too many ways. */
static __always_inline void mesh_splice_ring_urgent(void)
{
	__u32 process = bpf_get_current_pid_tgid() >> 32, yes = 1;

	mesh_splice_urgent_rings = 1;
	bpf_map_update_elem(&mesh_spl_oob, &process, &yes, BPF_ANY);
}

/* Somebody asks io_uring for a zero-copy send, or for one of urgent data. Runs for every io_uring request on the node;
 * loaded and attached only where the kernel has the tracepoint. */
SEC("?tp_btf/io_uring_submit_req")
int BPF_PROG(mesh_splice_ring, struct io_kiocb *request)
{
	struct io_sr_msg *send = (struct io_sr_msg *)request;
	__u8 operation;
	__u64 cookie;
	__u32 yes = 1;

	if (!bpf_core_field_exists(request->opcode) || !bpf_core_field_exists(request->cqe.fd))
		return 0;
	operation = BPF_CORE_READ(request, opcode);
	if (operation == IORING_OP_SEND || operation == IORING_OP_SENDMSG || operation == IORING_OP_SEND_ZC ||
	    operation == IORING_OP_SENDMSG_ZC) {
		if (!bpf_core_field_exists(send->msg_flags) || BPF_CORE_READ(send, msg_flags) & MSG_OOB)
			mesh_splice_ring_urgent();
	}
	if (operation != IORING_OP_SEND_ZC && operation != IORING_OP_SENDMSG_ZC)
		return 0;
	cookie = mesh_splice_cookie(BPF_CORE_READ(request, cqe.fd));
	if (cookie)
		bpf_map_update_elem(&mesh_spl_zcopy, &cookie, &yes, BPF_ANY);
	return 0;
}
