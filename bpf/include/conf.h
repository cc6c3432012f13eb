/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Every bound of the kernel side, with its reason. A changed capacity makes a pinned map incompatible: give the
 * map a new version. */
#ifndef MESH_CONF_H
#define MESH_CONF_H

/* Cgroups on one node. */
#define MESH_MAX_CGROUPS 65536
/* (address, port) pairs of the whole mesh; allocated as they come. When full: MESH_CONFIG_INCOMPLETE. */
#define MESH_MAX_DESTINATIONS (1 << 20)
/* Network namespaces that one agent serves. */
#define MESH_MAX_LISTENERS 4096
/* Connections between handshake and accept(); far above what listen backlogs can hold. The least recent goes
 * first, and the agent refuses a flow without a record. */
#define MESH_MAX_FLOWS 32768
/* Connections that the agent is opening to workloads, until the server's socket has the client's address; the least recent
 * goes first, and its server sees the agent's address. */
#define MESH_MAX_DIALS 16384
/* Resolvers that one UDP socket may ask through the agent; C libraries read three from resolv.conf. Ports of the
 * agent's in each namespace. */
#define MESH_DNS_SLOTS 4
/* UDP sockets that ask, the least recent goes first; a socket that was forgotten gets no answer and asks anew. */
#define MESH_MAX_ASKERS 65536
/* (namespace, address, port) of workloads of one node; allocated as they come. */
#define MESH_MAX_PORTS 262144
/* Addresses of one host. */
#define MESH_MAX_LOCALS 16384
/* Workers of an agent (MAX_WORKERS in config.py). */
#define MESH_MAX_WORKERS 256
/* Sockets of workers: at least 14 for each worker and namespace; a worker that finds no room says so. */
#define MESH_MAX_STEERS 262144
/* Ports of the agent: some ten for each network namespace. */
#define MESH_MAX_DOORS 65536
/* (cgroup, destination, protocol) that was refused, until the agent has told of it; the least recent goes first. */
#define MESH_MAX_REFUSED 8192
/* Slots for counters, so that a new counter does not change the map. */
#define MESH_MAX_COUNTERS 64
/* Levels of the cgroup tree below which nothing can be enrolled (the loader refuses it). */
#define MESH_MAX_DEPTH 32

#endif
