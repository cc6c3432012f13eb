/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* What `nodeagent trace` attaches to the kernel's tracepoints. BCC compiles it on the node, with the headers of the running
 * kernel: it reads struct sock, whose layout is nobody's interface. It only looks: nothing here decides, and the one map
 * of the agent that it opens (the flow records) is read without taking a record out.
 *
 * probe.py defines, where they apply: CAPTURE_PORT, OWN_PORT, FILTER_PORT, FILTER_CGROUPS, FLOW_PIN (path of the pinned
 * map), FLOW_ENTRIES, HAVE_<event> for each tracepoint that exists, HAVE_RESET_REASON. Addresses are 16 bytes (IPv4 as ::ffff:a.b.c.d), ports
 * numbers in host order. */
#include <linux/tcp.h>
#include <net/inet_sock.h>
#include <net/net_namespace.h>
#include <net/sock.h>
#include <net/tcp_states.h>

#define RING_PAGES 512 /* 2 MiB: some ten thousand events until they are read */
#define MAX_SOCKETS 65536
#define MAX_CALLS 16384 /* threads inside connect() at one time */
#define MAX_CGROUPS 65536
#define LOOPBACK4 0x7f000001
#define MAPPED 0x0000ffff
#define READ(to, from) bpf_probe_read_kernel(&(to), sizeof(to), &(from))

enum kind {
	CONNECT = 1, /* the socket sends its SYN; `asked` is what the program gave to connect() */
	CONNECT_FAILED = 2,
	STATE = 3,
	RETRANSMIT = 4,
	RESET_SENT = 5,
	RESET_RECEIVED = 6,
	DESTROY = 7,
	ACCEPT = 8, /* a connection arrived; the program has not asked for it yet */
};

enum flag {
	ASKED = 1, /* `asked` is known: what the program, or for the agent's socket its client, wanted */
	SINCE = 2, /* `duration` is known: the trace saw the socket from its beginning */
	CLIENT = 4, /* the socket's side, where the trace saw its beginning */
	SERVER = 8,
};

struct end {
	u32 word[4];
	u16 port;
	u16 pad;
};

struct event {
	u64 time; /* CLOCK_MONOTONIC nanoseconds */
	u64 socket; /* tells sockets apart for as long as they live */
	u64 netns; /* cookie of the network namespace */
	u64 cgroup; /* of the process that made the socket, or connects it */
	u64 client_cgroup; /* the enrolled cgroup of the flow record, on the agent's socket */
	u64 duration;
	u64 sent;
	u64 received;
	struct end local;
	struct end remote;
	struct end asked;
	u32 pid;
	u32 client_pid;
	u32 retransmits;
	u32 reason; /* of a reset, where the kernel says it */
	s32 error;
	u8 kind;
	u8 flags;
	u8 old_state;
	u8 state;
	char comm[16];
};

/* What is known of a socket from its earlier events. */
struct known {
	u64 since;
	u64 cgroup;
	u64 client_cgroup;
	struct end local;
	struct end remote;
	struct end asked;
	u32 pid;
	u32 client_pid;
	u32 flags;
	char comm[16];
};

/* A thread inside connect(). */
struct call {
	struct end asked;
	u32 started; /* its socket has sent the SYN */
};

BPF_RINGBUF_OUTPUT(events, RING_PAGES);
BPF_TABLE("lru_hash", u64, struct known, sockets, MAX_SOCKETS);
BPF_TABLE("lru_hash", u64, struct call, calls, MAX_CALLS);
BPF_ARRAY(lost, u64, 1);
#ifdef FILTER_CGROUPS
BPF_HASH(cgroups, u64, u8, MAX_CGROUPS);
#endif

#ifdef FLOW_PIN
/* Mirrors of mesh_flow_key and mesh_flow (bpf/include/abi.h); probe.py has compared the sizes with the map's. */
struct flow_key {
	u64 netns;
	u32 word[4];
	__be16 port;
	u16 pad[3];
};

struct flow {
	u64 cookie;
	u64 cgroup;
	u64 ktime;
	u32 word[4];
	__be16 port;
	u16 pad;
	u32 pid;
	u32 uid;
	u32 pad2;
};

BPF_TABLE_PINNED("lru_hash", struct flow_key, struct flow, flows, FLOW_ENTRIES, FLOW_PIN);
#endif

static inline void set_v4(struct end *end, u32 ip)
{
	end->word[0] = 0;
	end->word[1] = 0;
	end->word[2] = bpf_htonl(MAPPED);
	end->word[3] = ip;
}

static inline bool is_v4(const struct end *end)
{
	return !end->word[0] && !end->word[1] && end->word[2] == bpf_htonl(MAPPED);
}

static inline bool full(u8 state)
{
	return state != TCP_TIME_WAIT && state != TCP_NEW_SYN_RECV;
}

/* Both ends of a socket of either family. An AF_INET6 socket that speaks IPv4 has its IPv4 addresses in the fields of
 * that family before it has them in the others. */
static inline void read_ends(struct sock *sk, u8 state, struct event *event)
{
	u32 source, destination;
	u16 family, port;

	READ(family, sk->__sk_common.skc_family);
	READ(source, sk->__sk_common.skc_rcv_saddr);
	READ(destination, sk->__sk_common.skc_daddr);
	READ(port, sk->__sk_common.skc_dport);
	event->remote.port = bpf_ntohs(port);
	set_v4(&event->local, source);
	set_v4(&event->remote, destination);
	if (family == AF_INET6) {
		struct end remote = {};

		bpf_probe_read_kernel(remote.word, sizeof(remote.word), &sk->__sk_common.skc_v6_daddr);
		if (!is_v4(&remote)) {
			bpf_probe_read_kernel(event->remote.word, sizeof(remote.word), &sk->__sk_common.skc_v6_daddr);
			bpf_probe_read_kernel(event->local.word, sizeof(remote.word), &sk->__sk_common.skc_v6_rcv_saddr);
		}
	}
	if (full(state)) { /* skc_num is zero once a closed socket has given up its port */
		READ(port, ((struct inet_sock *)sk)->inet_sport);
		event->local.port = bpf_ntohs(port);
	} else {
		READ(port, sk->__sk_common.skc_num);
		event->local.port = port;
	}
}

static inline u64 cgroup_of(struct sock *sk)
{
	struct kernfs_node *node = NULL;
	struct cgroup *cgroup = NULL;
	u64 id = 0;

	READ(cgroup, sk->sk_cgrp_data.cgroup);
	if (!cgroup)
		return 0;
	READ(node, cgroup->kn);
	if (node)
		READ(id, node->id);
	return id;
}

static inline u64 netns_of(struct sock *sk)
{
	struct net *net = NULL;
	u64 cookie = 0;

	READ(net, sk->__sk_common.skc_net.net);
	if (net)
		READ(cookie, net->net_cookie);
	return cookie;
}

static inline void this_process(struct event *event)
{
	event->pid = bpf_get_current_pid_tgid() >> 32;
	bpf_get_current_comm(event->comm, sizeof(event->comm));
}

static inline bool wanted(const struct event *event)
{
#ifdef OWN_PORT /* how the trace itself asks the agent for names: seen, it would never end */
	if ((event->remote.port == OWN_PORT || event->local.port == OWN_PORT) && is_v4(&event->remote) &&
	    event->remote.word[3] == bpf_htonl(LOOPBACK4))
		return false;
#endif
#ifdef FILTER_PORT
	if (event->local.port != FILTER_PORT && event->remote.port != FILTER_PORT && event->asked.port != FILTER_PORT)
		return false;
#endif
#ifdef FILTER_CGROUPS
	{
		u64 own = event->cgroup, client = event->client_cgroup;

		if (!cgroups.lookup(&own) && !cgroups.lookup(&client))
			return false;
	}
#endif
	return true;
}

static inline struct event *begin(u8 kind)
{
	struct event *event = events.ringbuf_reserve(sizeof(*event));

	if (!event) {
		lost.increment(0);
		return NULL;
	}
	__builtin_memset(event, 0, sizeof(*event));
	event->time = bpf_ktime_get_ns();
	event->kind = kind;
	return event;
}

static inline void end(struct event *event)
{
	if (wanted(event))
		events.ringbuf_submit(event, 0);
	else
		events.ringbuf_discard(event, 0);
}

/* What the socket says of itself, then what its earlier events said. */
static inline struct known *fill(struct event *event, struct sock *sk)
{
	struct known *known;
	u64 key = (u64)sk;
	u8 state = 0;

	bpf_probe_read_kernel(&state, 1, (void *)&sk->__sk_common.skc_state);
	event->socket = key;
	event->old_state = event->state = state;
	event->netns = netns_of(sk);
	read_ends(sk, state, event);
	if (!full(state))
		return NULL;
	event->cgroup = cgroup_of(sk);
	known = sockets.lookup(&key);
	if (!known)
		return NULL;
	event->cgroup = known->cgroup;
	event->client_cgroup = known->client_cgroup;
	event->client_pid = known->client_pid;
	event->asked = known->asked;
	event->pid = known->pid;
	event->flags = known->flags;
	if (known->since)
		event->duration = event->time - known->since;
	__builtin_memcpy(event->comm, known->comm, sizeof(event->comm));
	if (!event->remote.port)
		event->remote = known->remote;
	if (!event->local.port)
		event->local = known->local;
	return known;
}

static inline void remember(const struct event *event, u64 since)
{
	struct known known = {};
	u64 key = event->socket;

	known.since = since;
	known.cgroup = event->cgroup;
	known.client_cgroup = event->client_cgroup;
	known.client_pid = event->client_pid;
	known.local = event->local;
	known.remote = event->remote;
	known.asked = event->asked;
	known.pid = event->pid;
	known.flags = event->flags;
	__builtin_memcpy(known.comm, event->comm, sizeof(known.comm));
	sockets.update(&key, &known);
}

#ifdef HAVE_sys_enter_connect
TRACEPOINT_PROBE(syscalls, sys_enter_connect)
{
	u64 thread = bpf_get_current_pid_tgid();
	void *address = (void *)args->uservaddr;
	struct call call = {};
	u16 family = 0, port = 0;
	u32 ip = 0;

	bpf_probe_read_user(&family, sizeof(family), address);
	if (family == AF_INET) {
		bpf_probe_read_user(&ip, sizeof(ip), address + 4);
		set_v4(&call.asked, ip);
	} else if (family == AF_INET6) {
		bpf_probe_read_user(call.asked.word, sizeof(call.asked.word), address + 8);
	} else {
		return 0;
	}
	bpf_probe_read_user(&port, sizeof(port), address + 2);
	call.asked.port = bpf_ntohs(port);
	calls.update(&thread, &call);
	return 0;
}

TRACEPOINT_PROBE(syscalls, sys_exit_connect)
{
	u64 thread = bpf_get_current_pid_tgid();
	struct call *call = calls.lookup(&thread);
	long result = args->ret;
	struct event *event;

	if (!call)
		return 0;
	/* under way, interrupted, asked again about the same connection: no failure */
	if (result < 0 && result != -EINPROGRESS && result != -EALREADY && result != -EISCONN && result != -EINTR &&
	    result != -512 /* ERESTARTSYS */) {
		event = begin(CONNECT_FAILED);
		if (event) {
			event->asked = call->asked;
			event->remote = call->asked;
			event->flags = ASKED;
			event->error = -result;
			event->cgroup = bpf_get_current_cgroup_id();
			event->state = call->started ? TCP_SYN_SENT : TCP_CLOSE;
			this_process(event);
			end(event);
		}
	}
	calls.delete(&thread);
	return 0;
}
#endif

/* The program that connects: the only time at which what it asked for and what it gets can be seen together. */
static inline void on_connect(struct event *event)
{
	u64 thread = bpf_get_current_pid_tgid();
	struct call *call = calls.lookup(&thread);

	event->kind = CONNECT;
	event->flags = SINCE | CLIENT;
	event->cgroup = bpf_get_current_cgroup_id();
	event->client_cgroup = 0;
	event->client_pid = 0;
	this_process(event);
	__builtin_memset(&event->asked, 0, sizeof(event->asked));
	if (call) {
		event->asked = call->asked;
		event->flags |= ASKED;
		call->started = 1;
	}
	event->duration = 0;
	remember(event, event->time);
}

/* A connection arrived. On the agent's capture port the kernel has left a record of who asks for what; the worker takes it
 * when it has accepted, which is later than this. */
static inline void on_accept(struct event *event, struct sock *sk)
{
	event->kind = ACCEPT;
	event->flags = SINCE | SERVER;
	event->cgroup = cgroup_of(sk);
	event->client_cgroup = 0;
	event->client_pid = 0;
	event->pid = 0;
	__builtin_memset(event->comm, 0, sizeof(event->comm));
	__builtin_memset(&event->asked, 0, sizeof(event->asked));
#if defined(FLOW_PIN) && defined(CAPTURE_PORT)
	if (event->local.port == CAPTURE_PORT) {
		struct flow_key key = {};
		struct flow *flow;

		key.netns = event->netns;
		key.port = bpf_htons(event->remote.port);
		__builtin_memcpy(key.word, event->remote.word, sizeof(key.word));
		flow = flows.lookup(&key);
		if (flow) {
			event->client_cgroup = flow->cgroup;
			event->client_pid = flow->pid;
			event->asked.port = bpf_ntohs(flow->port);
			__builtin_memcpy(event->asked.word, flow->word, sizeof(flow->word));
			event->flags |= ASKED;
		}
	}
#endif
	event->duration = 0;
	remember(event, event->time);
}

TRACEPOINT_PROBE(sock, inet_sock_set_state)
{
	struct sock *sk = (struct sock *)args->skaddr;
	int old = args->oldstate, state = args->newstate;
	struct event *event;
	struct known *known;

	if (args->protocol != IPPROTO_TCP)
		return 0;
	if (old == TCP_LISTEN && state == TCP_SYN_RECV) /* a copy of the listener, which has no addresses yet */
		return 0;
	event = begin(STATE);
	if (!event)
		return 0;
	known = fill(event, sk);
	event->old_state = old;
	event->state = state;
	if (state == TCP_SYN_SENT) {
		on_connect(event);
	} else if (old == TCP_SYN_RECV && state == TCP_ESTABLISHED) {
		on_accept(event, sk);
	} else if (known && event->local.port) {
		known->local = event->local;
		known->remote = event->remote;
	}
	/* these are steps that only a program takes (close, shutdown, listen), so it is the one that runs now */
	if (!event->pid && (state == TCP_FIN_WAIT1 || state == TCP_LAST_ACK || state == TCP_LISTEN)) {
		this_process(event);
		if (known) {
			known->pid = event->pid;
			__builtin_memcpy(known->comm, event->comm, sizeof(known->comm));
		}
	}
	end(event);
	return 0;
}

#ifdef HAVE_tcp_retransmit_skb
TRACEPOINT_PROBE(tcp, tcp_retransmit_skb)
{
	struct event *event = begin(RETRANSMIT);

	if (event) {
		fill(event, (struct sock *)args->skaddr);
		end(event);
	}
	return 0;
}
#endif

#ifdef HAVE_tcp_send_reset
/* An answer to a segment that belongs to no socket: its ends are the segment's, seen from here. */
static inline void fill_from_segment(struct event *event, struct sk_buff *skb)
{
	u16 network = 0, transport = 0, port = 0;
	unsigned char *head = NULL;
	u8 version = 0;

	READ(head, skb->head);
	READ(network, skb->network_header);
	READ(transport, skb->transport_header);
	bpf_probe_read_kernel(&version, 1, head + network);
	if (version >> 4 == 4) {
		u32 ip = 0;

		bpf_probe_read_kernel(&ip, sizeof(ip), head + network + 12);
		set_v4(&event->remote, ip);
		bpf_probe_read_kernel(&ip, sizeof(ip), head + network + 16);
		set_v4(&event->local, ip);
	} else {
		bpf_probe_read_kernel(event->remote.word, sizeof(event->remote.word), head + network + 8);
		bpf_probe_read_kernel(event->local.word, sizeof(event->local.word), head + network + 24);
	}
	bpf_probe_read_kernel(&port, sizeof(port), head + transport);
	event->remote.port = bpf_ntohs(port);
	bpf_probe_read_kernel(&port, sizeof(port), head + transport + 2);
	event->local.port = bpf_ntohs(port);
}

TRACEPOINT_PROBE(tcp, tcp_send_reset)
{
	struct event *event = begin(RESET_SENT);

	if (!event)
		return 0;
	if (args->skaddr)
		fill(event, (struct sock *)args->skaddr);
	else if (args->skbaddr)
		fill_from_segment(event, (struct sk_buff *)args->skbaddr);
#ifdef HAVE_RESET_REASON
	event->reason = args->reason;
#endif
	end(event);
	return 0;
}
#endif

#ifdef HAVE_tcp_receive_reset
TRACEPOINT_PROBE(tcp, tcp_receive_reset)
{
	struct event *event = begin(RESET_RECEIVED);

	if (event) {
		fill(event, (struct sock *)args->skaddr);
		end(event);
	}
	return 0;
}
#endif

#ifdef HAVE_tcp_destroy_sock
TRACEPOINT_PROBE(tcp, tcp_destroy_sock)
{
	struct sock *sk = (struct sock *)args->skaddr;
	struct tcp_sock *tcp = (struct tcp_sock *)sk;
	struct event *event = begin(DESTROY);
	unsigned long bits = 0;
	u64 key = (u64)sk, again = 0;

	if (!event)
		return 0;
	fill(event, sk);
	sockets.delete(&key);
	if (!event->remote.port) { /* never connected: a listener, or a socket that nothing became of */
		events.ringbuf_discard(event, 0);
		return 0;
	}
	READ(event->sent, tcp->bytes_sent);
	READ(again, tcp->bytes_retrans);
	event->sent -= again;
	READ(event->received, tcp->bytes_received);
	READ(bits, sk->sk_flags);
	if (bits & (1UL << SOCK_DONE) && event->received) /* the other side's FIN was counted as a byte */
		event->received--;
	READ(event->retransmits, tcp->total_retrans);
	READ(event->error, sk->sk_err);
	end(event);
	return 0;
}
#endif
