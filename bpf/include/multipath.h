/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Multipath TCP: connect and sockops see the subflow, getpeername() the socket of the application, which holds it. */
#ifndef MESH_MULTIPATH_H
#define MESH_MULTIPATH_H

#include <linux/bpf.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

struct mptcp_sock {
	__u64 write_seq; /* any field: CO-RE looks for a structure, not for a mere name */
} __attribute__((preserve_access_index));

/* Whether this kernel can tell (5.19, with MPTCP); where it cannot, the verifier leaves the code out. */
#define mesh_knows_multipath() \
	(bpf_core_type_exists(struct mptcp_sock) && \
	 bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_skc_to_mptcp_sock))

#endif
