/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Every map. All are pinned and survive a restart of the agent; names fit the kernel's 15 characters. */
#ifndef MESH_MAPS_H
#define MESH_MAPS_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "conf.h"

/* Key: cgroup id. Writer: agent (capture). Reader: connect, post_bind. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MESH_MAX_CGROUPS);
	__type(key, __u64);
	__type(value, struct mesh_cgroup);
} mesh_cgroup_v1 SEC(".maps");

/* The id that stands for this user of this cgroup wherever else an enrolled cgroup's does (its top bit is set, which no
 * cgroup's is); it has an entry of its own in mesh_cgroup_v1. Writer: agent. Reader: connect, sendmsg, post_bind. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MESH_MAX_CGROUPS);
	__type(key, struct mesh_user_key);
	__type(value, __u64);
} mesh_user_v1 SEC(".maps");

/* Key: address and port of a service or workload. Writer: agent. Reader: connect. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MESH_MAX_DESTINATIONS);
	__type(key, struct mesh_endpoint);
	__type(value, struct mesh_destination);
} mesh_dest_v1 SEC(".maps");

/* Key: netns cookie. Writer: agent. Reader: connect, sockops. It stays when the agent dies: connections are then refused,
 * because no worker's socket is in mesh_steer_v2. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MESH_MAX_LISTENERS);
	__type(key, __u64);
	__type(value, struct mesh_listener);
} mesh_listen_v2 SEC(".maps");

/* One entry of switches. Writer: agent. Reader: connect. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct mesh_config);
} mesh_config_v1 SEC(".maps");

/* The original destination, in the socket itself: it dies with the socket and nothing can evict it. Writer:
 * connect. Reader: sockops, getpeername. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct mesh_origin);
} mesh_origin_v2 SEC(".maps");

/* Key: the client's end. Writer: sockops. Reader: agent's workers, which take each record out once. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MESH_MAX_FLOWS);
	__type(key, struct mesh_flow_key);
	__type(value, struct mesh_flow);
} mesh_flow_v2 SEC(".maps");

/* Connections that the agent is opening. Writer: sockops (the agent's end). Reader: sockops (the server's end), which takes
 * it out; what nobody took goes when the agent's socket closes. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MESH_MAX_DIALS);
	__type(key, struct mesh_dial_key);
	__type(value, struct mesh_client);
} mesh_dial_v2 SEC(".maps");

/* For whom the agent speaks, in the socket itself. Writer: the agent's workers (their own socket, before it connects), sockops
 * (the server's). Reader: sockops, getpeername. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct mesh_client);
} mesh_client_v2 SEC(".maps");

/* Key: netns cookie. Writer: agent. Reader: connect, sendmsg, recvmsg. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MESH_MAX_LISTENERS);
	__type(key, __u64);
	__type(value, struct mesh_dns);
} mesh_dns_v2 SEC(".maps");

/* In a UDP socket: whom it asks through the agent. Writer: connect, sendmsg. Reader: recvmsg, getpeername, sock_release. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct mesh_resolvers);
} mesh_resolv_v2 SEC(".maps");

/* Writer: connect, sendmsg; sock_release takes out what a socket leaves. Reader: agent's workers. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MESH_MAX_ASKERS);
	__type(key, struct mesh_asker);
	__type(value, struct mesh_asked);
} mesh_asker_v2 SEC(".maps");

/* How plaintext to a port is met. Writer: agent. Reader: connect, sk_lookup. It stays when the agent dies: STRICT goes on
 * refusing. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MESH_MAX_PORTS);
	__type(key, struct mesh_port_key);
	__type(value, struct mesh_port);
} mesh_port_v1 SEC(".maps");

/* Which addresses and ports are a cgroup's own workload's. Writer: agent. Reader: sockops. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MESH_MAX_PORTS);
	__type(key, struct mesh_own_key);
	__type(value, __u32); /* 1 */
} mesh_own_v2 SEC(".maps");

/* Addresses of the host itself. Writer: agent. Reader: sk_lookup. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MESH_MAX_LOCALS);
	__type(key, struct mesh_addr);
	__type(value, __u32); /* 1 */
} mesh_local_v1 SEC(".maps");

/* The workers' own sockets, which alone are given what is captured, asked, or arrives at the agent's ports. Writer: agent's
 * workers. Reader: connect, sendmsg (does a live agent serve this namespace?), sk_lookup (steers past SO_REUSEPORT groups). A
 * socket leaves it when it is closed, however its worker ends. */
struct {
	__uint(type, BPF_MAP_TYPE_SOCKHASH);
	__uint(max_entries, MESH_MAX_STEERS);
	__type(key, struct mesh_steer_key);
	__type(value, __u64);
} mesh_steer_v2 SEC(".maps");

/* The agent's ports. Writer: agent. Reader: post_bind, connect, sendmsg, sk_lookup. They stay when the agent dies, so that
 * nobody else can take them. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MESH_MAX_DOORS);
	__type(key, struct mesh_door_key);
	__type(value, struct mesh_door);
} mesh_door_v1 SEC(".maps");

/* In a socket: it is the agent's own, and may be bound to its ports. Writer: agent, before it binds. Reader: post_bind,
 * connect, sendmsg. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, __u32); /* 1 */
} mesh_ours_v1 SEC(".maps");

/* Index: enum mesh_crew. Writer: agent, its workers. Reader: connect, sendmsg, sk_lookup. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MESH_CREW_END);
	__type(key, __u32);
	__type(value, __u32);
} mesh_crew_v1 SEC(".maps");

/* A listener of the manager's, from its first complete look at who is enrolled on. Writer: agent. Reader: connect. The kernel
 * takes it out when the manager ends, however it does: a map that holds one says that somebody watches the node. */
struct {
	__uint(type, BPF_MAP_TYPE_SOCKMAP);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} mesh_alive_v1 SEC(".maps");

/* Key: id of an enrolled cgroup. Writer: connect, sendmsg, sock_create. Reader: agent (metrics). */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MESH_MAX_CGROUPS);
	__type(key, __u64);
	__type(value, struct mesh_egress);
} mesh_egress_v1 SEC(".maps");

/* What was refused, to whom, how often. Writer: connect, sendmsg, sock_create. Reader: agent (access log, status). */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MESH_MAX_REFUSED);
	__type(key, struct mesh_refused_key);
	__type(value, struct mesh_refused);
} mesh_refused_v1 SEC(".maps");

/* Index: enum mesh_count. Writer: all hooks. Reader: agent (metrics). */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, MESH_MAX_COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} mesh_count_v1 SEC(".maps");

_Static_assert(MESH_COUNT_END <= MESH_MAX_COUNTERS, "more counters than slots");

#endif
