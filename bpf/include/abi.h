/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Every struct and enum that crosses to user space. nodeagent/loader/abi.py mirrors it field by field;
 * tests/contract compares the mirror with this object's BTF.
 *
 * Fixed widths only, padding spelled out and always zero, ports and addresses in network order (__be*). A map
 * whose layout or *meaning* changes gets a new version in its name (maps.h); enums only grow at the end. */
#ifndef MESH_ABI_H
#define MESH_ABI_H

#include <linux/types.h>

#define MESH_ABI 1

/* An address of either family: IPv6, or IPv4 as ::ffff:a.b.c.d. */
struct mesh_addr {
	__be32 word[4];
};

/* An address and a port: the key of mesh destinations. */
struct mesh_endpoint {
	struct mesh_addr addr;
	__be16 port;
	__u16 pad;
};

enum mesh_cgroup_flag {
	MESH_CGROUP_NO_DNS = 1, /* its DNS questions are none of the agent's business */
	MESH_CGROUP_REGISTRY_ONLY = 2, /* its processes reach what the registry names, and themselves; nothing else */
	MESH_CGROUP_BY_USER = 4, /* some users are workloads of their own in here (mesh_user_v1) */
	MESH_CGROUP_ONLY_USERS = 8, /* ... and whoever is none of them is not enrolled by this cgroup */
	MESH_CGROUP_LEFT = 16, /* nobody's for now: neither it nor what is below it is captured */
};

enum mesh_dest_flag {
	MESH_DEST_SERVICE = 1, /* a virtual address of a service */
	MESH_DEST_WORKLOAD = 2, /* an address of a workload itself */
	MESH_DEST_EXTERNAL = 4, /* an address of a service outside the mesh */
};

/* `tag` tells a reader of the map which object made the entry (CRC-32 of its uid); no decision rests on it. */
struct mesh_destination {
	__u32 tag;
	__u32 flags; /* enum mesh_dest_flag */
};

/* An enrolled cgroup; the key is the cgroup's id. */
struct mesh_cgroup {
	__u32 tag;
	__u32 flags; /* enum mesh_cgroup_flag */
};

/* A user of a cgroup that several workloads share. */
struct mesh_user_key {
	__u64 cgroup_id;
	__u32 uid; /* real, as the host counts */
	__u32 pad;
};

/* Where connections of a network namespace are taken to; the key is the namespace's cookie. */
struct mesh_listener {
	__be16 port;
	__u16 flags; /* enum mesh_listener_flag */
	__u32 pad;
};

enum mesh_listener_flag {
	MESH_LISTENER_V4_ONLY = 1, /* the namespace has no ::1: IPv6 sockets are taken to ::ffff:127.0.0.1 */
};

/* Where DNS questions of a network namespace are taken to: UDP ports `port` to `port` + MESH_DNS_SLOTS - 1. The
 * key is the namespace's cookie. */
struct mesh_dns {
	__be16 port;
	__u16 pad;
	__u32 pad2;
	struct mesh_addr source[2]; /* IPv4, IPv6: what an unbound socket that connects to a resolver is bound to; all zero: none */
};

/* A port of the agent's in a network namespace. */
struct mesh_door_key {
	__u64 netns; /* cookie of the network namespace */
	__be16 port;
	__u8 protocol; /* IPPROTO_TCP or IPPROTO_UDP */
	__u8 pad[5];
};

enum mesh_door_flag {
	MESH_DOOR_STEERED = 1, /* what arrives goes to a worker's own socket (mesh_steer_v2), or is refused */
	MESH_DOOR_RESERVED = 2, /* the agent added it to ip_local_reserved_ports; unloading removes it from there */
};

/* Only a socket that the agent marked (mesh_ours_v1) may be bound to it. */
struct mesh_door {
	__u32 flags; /* enum mesh_door_flag */
};

/* Index of the crew map: how many workers there are. */
enum mesh_crew {
	MESH_CREW_WORKERS = 0, /* numbers that a worker can have */
	MESH_CREW_SPREAD = 1, /* new connections go to the first so many workers */
	MESH_CREW_END,
};

/* The resolvers that one UDP socket asks, each with a port of the agent's of its own, so that the agent knows
 * which one was meant and the socket is shown the one that it asked. */
struct mesh_resolvers {
	struct mesh_endpoint slot[4]; /* MESH_DNS_SLOTS */
	__u32 used;
	__u32 pad;
	/* Where the socket asks from: with a slot, the keys of its records, which go when it does. */
	__u64 netns;
	__u64 cookie; /* of the socket */
	struct mesh_endpoint from;
	__u32 pad2;
};

/* One way of a UDP socket to the agent's DNS listener, as the agent sees it. Two sockets can have all of this in common
 * only if both asked for that (SO_REUSEADDR, SO_REUSEPORT): the record names the one that it is about. */
struct mesh_asker {
	__u64 netns; /* cookie of the network namespace */
	struct mesh_endpoint from; /* of the asking socket */
	__u32 slot;
};

/* Who asks, and whom it meant to ask. */
struct mesh_asked {
	__u64 cgroup_id;
	__u64 cookie; /* of the asking socket */
	struct mesh_endpoint resolver;
	__u32 pid;
	__u32 scope; /* interface of a link-local resolver; 0: none */
	__u32 pad;
};

enum mesh_config_flag {
	MESH_CONFIG_INCOMPLETE = 1, /* not every mesh destination fits: refuse what is not known (fail closed) */
	MESH_CONFIG_SEALED = 2, /* no agent has said yet who is enrolled: nobody but the agent reaches mesh destinations */
	MESH_CONFIG_SEALED_ALONE = 4, /* ... and so it is whenever no agent lives */
};

struct mesh_config {
	__u32 flags; /* enum mesh_config_flag */
	__u32 pad;
};

/* What a captured socket remembers until it is closed or connects elsewhere. */
struct mesh_origin {
	struct mesh_endpoint destination; /* what the application asked for */
	__u32 pid;
	__u64 cgroup_id; /* the enrolled cgroup, perhaps an ancestor of the process's own */
	__u32 uid;
	__u32 scope; /* interface of a link-local destination; 0: none */
};

/* The client's end as the agent sees it after accept(). */
struct mesh_flow_key {
	__u64 netns; /* cookie of the network namespace */
	struct mesh_addr addr;
	__be16 port;
	__u16 pad[3];
};

struct mesh_flow {
	__u64 cookie; /* of the client's socket */
	__u64 cgroup_id;
	__u64 ktime; /* CLOCK_MONOTONIC nanoseconds when the handshake was done */
	struct mesh_endpoint destination;
	__u32 pid;
	__u32 uid;
	__u32 scope; /* interface of a link-local destination; 0: none */
};

/* A connection that the agent opens to a workload of its own node. The key is the whole connection: the kernel gives a
 * local port to several at once, and nobody else can have the same four while the agent's socket holds them. */
struct mesh_dial_key {
	__u64 netns; /* cookie of the network namespace */
	struct mesh_endpoint agent;
	struct mesh_endpoint app;
};

enum mesh_client_role {
	MESH_CLIENT_OF_DIAL = 1, /* in the agent's socket, before it connects; and on the way to the server's */
	MESH_CLIENT_OF_SERVER = 2, /* in the server's socket: getpeername() shows it */
	MESH_CLIENT_OWN = 3, /* on its way: a workload's process connects to an address and port of the workload itself */
	MESH_CLIENT_ENROLLED = 4, /* a workload's process connects to a port of a workload, past the agent; on its way: of another */
	MESH_CLIENT_OUTWARD = 5, /* in the agent's socket, and on its way: to a host that is registered as outside the mesh */
};

/* For whom the agent speaks. */
struct mesh_client {
	struct mesh_endpoint client; /* port 0: not known, the agent's own address is shown */
	__u32 role; /* enum mesh_client_role */
	__u64 cgroup_id; /* of MESH_CLIENT_ENROLLED: the enrolled cgroup; else 0 */
};

/* A port of a workload of this node. Address ::, for every port: all addresses of the namespace, because a server may
 * listen on any of them. */
struct mesh_port_key {
	__u64 netns; /* cookie of the network namespace */
	struct mesh_endpoint at;
	__u32 pad;
};

/* How plaintext from outside the mesh is met; whatever else it says is STRICT. */
enum mesh_port_mode {
	MESH_PORT_STRICT = 1, /* refused */
	MESH_PORT_PERMISSIVE = 2, /* to the agent, which applies policy */
	MESH_PORT_DISABLE = 3, /* let in */
};

enum mesh_port_flag {
	MESH_PORT_PROBES = 1, /* programs of the node itself that are in no workload are let in */
};

struct mesh_port {
	__u32 mode; /* enum mesh_port_mode */
	__u32 flags; /* enum mesh_port_flag */
};

/* A cgroup, and where the workload that it belongs to listens. Address ::, for every address that no workload claims. */
struct mesh_own_key {
	__u64 cgroup_id;
	__u64 netns; /* cookie of the network namespace */
	struct mesh_endpoint at;
	__u32 pad;
};

/* A socket of an agent's worker. Address :: or 0.0.0.0, for every address of the family (:: for both); then port 0, for
 * plaintext to ports of workloads. */
struct mesh_steer_key {
	__u64 netns; /* cookie of the network namespace */
	struct mesh_endpoint at; /* what it is met at */
	__u16 worker;
	__u8 protocol; /* IPPROTO_TCP or IPPROTO_UDP */
	__u8 pad;
};

/* How often the processes of an enrolled cgroup wanted out of the mesh (loopback is not out). The key is its id; one of
 * them a CPU. */
struct mesh_egress {
	__u64 tcp_allowed; /* connect() */
	__u64 tcp_refused;
	__u64 udp_allowed; /* connect(), and each datagram of a socket that is not connected */
	__u64 udp_refused;
	__u64 other_refused; /* socket() of any other protocol, and raw ones */
};

/* What an enrolled cgroup was refused. */
struct mesh_refused_key {
	__u64 cgroup_id;
	struct mesh_endpoint to; /* all zero for a socket() */
	__u32 protocol; /* IPPROTO_* */
};

struct mesh_refused {
	__u64 count;
	__u64 ktime; /* CLOCK_MONOTONIC nanoseconds of the last time */
	__u32 pid; /* of the last time; 0: not known */
	__u32 pad;
};

/* What becomes of a connection that arrives. */
enum mesh_arrival_verdict {
	MESH_ARRIVAL_PASS = 0,
	MESH_ARRIVAL_STEER = 1,
	MESH_ARRIVAL_REFUSE = 2,
};

/* What became of a connect(). */
enum mesh_verdict {
	MESH_VERDICT_PASS = 0,
	MESH_VERDICT_CAPTURE = 1,
	MESH_VERDICT_REFUSE = 2,
	MESH_VERDICT_NOBODY = 3, /* it goes to where nobody can listen: ECONNREFUSED */
};

/* Index of the counters map: reasons of decisions, and events of the other hooks. Append only. */
enum mesh_count {
	MESH_COUNT_PASSED_NOT_MESH = 0, /* the destination is not in the mesh */
	MESH_COUNT_PASSED_NOT_ENROLLED = 1, /* the process is in no enrolled cgroup */
	MESH_COUNT_CAPTURED = 2,
	MESH_COUNT_REFUSED_NO_LISTENER = 3, /* no agent serves this network namespace */
	MESH_COUNT_REFUSED_NO_STORAGE = 4, /* the original destination could not be remembered */
	MESH_COUNT_REFUSED_INCOMPLETE = 5, /* not every mesh destination fits into the map */
	MESH_COUNT_FLOW_RECORDED = 6,
	MESH_COUNT_FLOW_NOT_RECORDED = 7, /* the flow map took no record: the agent will refuse the flow */
	MESH_COUNT_FLOW_FORGOTTEN = 8, /* a stale record was removed before a connection could adopt it */
	MESH_COUNT_PEER_SHOWN = 9, /* getpeername() answered with the original destination */
	MESH_COUNT_BIND_REFUSED = 10, /* somebody else wanted a port of the agent's */
	MESH_COUNT_DEPTH_EXCEEDED = 11, /* a process sits deeper than MESH_MAX_DEPTH; enrolled ancestors still hold */
	MESH_COUNT_CLIENT_TOLD = 12, /* a server's socket was given its client's address */
	MESH_COUNT_CLIENT_SHOWN = 13, /* getpeername() or accept() answered with it */
	MESH_COUNT_DIAL_NOT_RECORDED = 14, /* the server will see the agent's address */
	MESH_COUNT_DNS_TAKEN = 15, /* a UDP socket's questions go to the agent (once for each resolver it asks) */
	MESH_COUNT_DNS_TCP = 16, /* a TCP connection to a resolver goes to the agent */
	MESH_COUNT_DNS_NO_AGENT = 17, /* no agent answers: the question goes to the resolver itself */
	MESH_COUNT_DNS_NO_SLOT = 18, /* one socket asks more resolvers than there are slots: it asks them itself */
	MESH_COUNT_DNS_NO_ROOM = 19, /* no port, or no room to remember: the question goes to the resolver itself */
	MESH_COUNT_INBOUND_OWN = 20, /* a workload connected to a port of its own */
	MESH_COUNT_INBOUND_PROBE = 21, /* a health check of the node itself was let in */
	MESH_COUNT_INBOUND_STEERED = 22, /* plaintext went to the agent (PERMISSIVE) */
	MESH_COUNT_INBOUND_REFUSED = 23, /* plaintext was refused (STRICT) */
	MESH_COUNT_INBOUND_NO_AGENT = 24, /* plaintext was refused, because no agent could decide about it (PERMISSIVE) */
	MESH_COUNT_EGRESS_REFUSED = 25, /* an enrolled process wanted out of the mesh, and may not (REGISTRY_ONLY) */
	MESH_COUNT_EGRESS_TO_MESH = 26, /* ... by UDP to an address of the mesh, which carries TCP; C libraries do it to sort addresses */
	MESH_COUNT_EGRESS_NOT_NOTED = 27, /* no room to count it by workload */
	MESH_COUNT_REFUSED_SEALED = 28, /* the node was sealed, and no agent has said yet who is enrolled */
	MESH_COUNT_REFUSED_NO_AGENT = 29, /* no worker of a live agent listens in this network namespace */
	MESH_COUNT_DOOR_NOBODY = 30, /* something arrived at a port of the agent's at which no worker listens */
	MESH_COUNT_DNS_SHARED = 31, /* another socket asks from the same address and port: the question goes to the resolver itself */
	MESH_COUNT_DNS_STRAY = 32, /* a datagram to the agent's DNS ports themselves was refused */
	MESH_COUNT_END, /* not a counter */
};

_Static_assert(sizeof(struct mesh_endpoint) == 20, "mesh_endpoint");
_Static_assert(sizeof(struct mesh_dns) == 40, "mesh_dns");
_Static_assert(sizeof(struct mesh_door_key) == 16, "mesh_door_key");
_Static_assert(sizeof(struct mesh_resolvers) == 128, "mesh_resolvers");
_Static_assert(sizeof(struct mesh_asker) == 32, "mesh_asker");
_Static_assert(sizeof(struct mesh_asked) == 48, "mesh_asked");
_Static_assert(sizeof(struct mesh_origin) == 40, "mesh_origin");
_Static_assert(sizeof(struct mesh_flow_key) == 32, "mesh_flow_key");
_Static_assert(sizeof(struct mesh_flow) == 56, "mesh_flow");
_Static_assert(sizeof(struct mesh_dial_key) == 48, "mesh_dial_key");
_Static_assert(sizeof(struct mesh_client) == 32, "mesh_client");
_Static_assert(sizeof(struct mesh_port_key) == 32, "mesh_port_key");
_Static_assert(sizeof(struct mesh_own_key) == 40, "mesh_own_key");
_Static_assert(sizeof(struct mesh_user_key) == 16, "mesh_user_key");
_Static_assert(sizeof(struct mesh_steer_key) == 32, "mesh_steer_key");
_Static_assert(sizeof(struct mesh_egress) == 40, "mesh_egress");
_Static_assert(sizeof(struct mesh_refused_key) == 32, "mesh_refused_key");
_Static_assert(sizeof(struct mesh_refused) == 24, "mesh_refused");

#endif
