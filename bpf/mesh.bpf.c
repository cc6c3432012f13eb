/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* The one object: every hook over one set of maps. */
#include <stdbool.h>
#include <stddef.h>

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "include/maps.h"

/* Named in .rodata so that BTF describes the enums, which the contract tests read. */
struct mesh_vocabulary {
	__u32 abi;
	enum mesh_count counts;
	enum mesh_verdict verdicts;
	enum mesh_dest_flag dest_flags;
	enum mesh_cgroup_flag cgroup_flags;
	enum mesh_config_flag config_flags;
	enum mesh_listener_flag listener_flags;
	enum mesh_door_flag door_flags;
	enum mesh_crew crew;
	enum mesh_client_role client_roles;
	enum mesh_port_mode port_modes;
	enum mesh_port_flag port_flags;
	struct mesh_steer_key steer_key;
	__u32 max_depth;
};

const volatile struct mesh_vocabulary mesh_vocabulary = {
	.abi = MESH_ABI,
	.max_depth = MESH_MAX_DEPTH,
};

#include "bind.bpf.c"
#include "release.bpf.c"
#include "egress.bpf.c"
#include "connect.bpf.c"
#include "dns.bpf.c"
#include "peername.bpf.c"
#include "sockops.bpf.c"

char LICENSE[] SEC("license") = "GPL";
