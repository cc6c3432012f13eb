/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* What the contexts of hooks on addresses do not show of a socket, read from the kernel's own structures (CO-RE). Where the
 * kernel does not let programs read (lockdown), or the structures are others, the answer is the usual case's. */
#ifndef MESH_PEEK_H
#define MESH_PEEK_H

#include <stdbool.h>

#include <linux/bpf.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

#define MESH_FIRST_PORT 32768 /* the kernel's default range of ephemeral ports (ip_local_port_range) */
#define MESH_LAST_PORT 60999
#define MESH_LOOPBACK_INTERFACE 1
#define MESH_SCOPE_OFFSET 24 /* of sin6_scope_id in struct sockaddr_in6 */

/* Whether bpf_probe_read_kernel() may be called; the loader writes 0 where it may not. */
const volatile __u32 mesh_peeks SEC(".rodata.peek") = 1;

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct bpf_sock_addr_kern {
	void *sk;
	void *uaddr;
};

struct ipv6_pinfo___mesh {
	int ucast_oif;
};

struct inet_sock___mesh {
	int uc_index;
	struct ipv6_pinfo___mesh *pinet6;
};

/* Until 6.7 a pair of numbers, then two halves of one. */
struct local_ports___pair {
	int range[2];
};

struct local_ports___one {
	__u32 range;
};

struct netns_ipv4___pair {
	struct local_ports___pair ip_local_ports;
	unsigned long *sysctl_local_reserved_ports;
};

struct netns_ipv4___one {
	struct local_ports___one ip_local_ports;
};

struct net___pair {
	struct netns_ipv4___pair ipv4;
};

struct net___one {
	struct netns_ipv4___one ipv4;
};

struct netns_ipv4___reserved {
	unsigned long *sysctl_local_reserved_ports;
};

struct net___reserved {
	struct netns_ipv4___reserved ipv4;
};

struct possible_net___mesh {
	void *net;
};

struct sock_common___mesh {
	struct possible_net___mesh skc_net;
};

struct sock___mesh {
	struct sock_common___mesh __sk_common;
};

#pragma clang attribute pop

struct mesh_range {
	__u32 first;
	__u32 last;
};

/* The socket, as an address to read from. */
static __always_inline void *mesh_kernels_socket(struct bpf_sock_addr *ctx)
{
	struct bpf_sock_addr_kern *kern = (void *)ctx;

	return BPF_CORE_READ(kern, sk);
}

static __always_inline void *mesh_net_of(struct bpf_sock_addr *ctx)
{
	struct sock___mesh *sk = mesh_kernels_socket(ctx);

	return BPF_CORE_READ(sk, __sk_common.skc_net.net);
}

/* The ephemeral ports of the socket's network namespace. */
static __always_inline struct mesh_range mesh_ephemeral(struct bpf_sock_addr *ctx)
{
	struct mesh_range range = { MESH_FIRST_PORT, MESH_LAST_PORT };

	if (!mesh_peeks)
		return range;
	if (bpf_core_field_exists(((struct net___one *)0)->ipv4.ip_local_ports.range)) {
		struct net___one *net = mesh_net_of(ctx);
		__u32 both = BPF_CORE_READ(net, ipv4.ip_local_ports.range);

		range.first = both & 0xffff;
		range.last = both >> 16;
	} else if (bpf_core_field_exists(((struct net___pair *)0)->ipv4.ip_local_ports.range)) {
		struct net___pair *net = mesh_net_of(ctx);

		range.first = BPF_CORE_READ(net, ipv4.ip_local_ports.range[0]) & 0xffff;
		range.last = BPF_CORE_READ(net, ipv4.ip_local_ports.range[1]) & 0xffff;
	}
	if (!range.first || range.last < range.first)
		range = (struct mesh_range){ MESH_FIRST_PORT, MESH_LAST_PORT };
	return range;
}

/* Whether somebody wants that port to be given to nobody who did not ask for it (ip_local_reserved_ports). */
static __always_inline bool mesh_is_reserved(struct bpf_sock_addr *ctx, __u32 port)
{
	struct net___reserved *net;
	unsigned char bits = 0;
	unsigned char *map;

	if (!mesh_peeks || !bpf_core_field_exists(((struct net___reserved *)0)->ipv4.sysctl_local_reserved_ports))
		return false;
	net = mesh_net_of(ctx);
	map = (void *)BPF_CORE_READ(net, ipv4.sysctl_local_reserved_ports);
	if (!map || bpf_probe_read_kernel(&bits, sizeof(bits), map + (port >> 3)))
		return false;
	return bits >> (port & 7) & 1;
}

/* The interface that connect() or sendmsg() names for a link-local address; 0: none. */
static __always_inline __u32 mesh_scope_of(struct bpf_sock_addr *ctx)
{
	struct bpf_sock_addr_kern *kern = (void *)ctx;
	struct bpf_sock *sk = ctx->sk;
	__u32 scope = 0;
	char *address;

	if (sk && sk->bound_dev_if)
		return sk->bound_dev_if;
	if (!mesh_peeks)
		return 0;
	address = BPF_CORE_READ(kern, uaddr);
	if (!address || bpf_probe_read_kernel(&scope, sizeof(scope), address + MESH_SCOPE_OFFSET))
		return 0;
	return scope;
}

/* Whether what the socket sends leaves by another interface than loopback, wherever it goes: it is bound to one, or prefers
 * one (IP_UNICAST_IF). */
static __always_inline bool mesh_bound_outside(struct bpf_sock_addr *ctx, struct bpf_sock *sk, bool v6)
{
	struct inet_sock___mesh *inet;
	__s32 preferred;

	if (sk->bound_dev_if && sk->bound_dev_if != MESH_LOOPBACK_INTERFACE)
		return true;
	if (!mesh_peeks)
		return false;
	inet = mesh_kernels_socket(ctx);
	preferred = v6 ? BPF_CORE_READ(inet, pinet6, ucast_oif) : BPF_CORE_READ(inet, uc_index);
	return preferred && preferred != MESH_LOOPBACK_INTERFACE;
}

#endif
