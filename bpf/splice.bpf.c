/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* The splice: bytes of an authorized same-node flow go from socket to socket (an object of its own, loaded only where
 * the kernel can do it).
 *
 * A direction is PASS (bytes take TCP to the agent, which relays them) or SPLICED (bytes go straight into the
 * receiver's queue). Redirected bytes are read before TCP's, so:
 *
 *   unread = (bytes in the sender's TCP stream + redirected bytes) - bytes that the receiver has read
 *   PASS -> SPLICED  only when unread == 0, and the flow is enabled, and the receiver is seen to read by recvmsg
 *   SPLICED -> PASS  when the queue reaches its limit, the node's cap is reached, memory is short, the flow is out
 *
 * All of it is decided under the sender's socket lock. Bytes in TCP are taken from its sequence numbers, never added
 * up: partial sends, errors, sends in progress in other threads and a verdict that the kernel remembers from a failed
 * send are all in there. Redirected bytes are counted before they are queued; a redirect that fails leaves the count
 * too high, which only delays the next SPLICED.
 *
 * A sender that outruns its receiver is held for microseconds at a time (mesh_splice_brake) before bytes go the long
 * way, and while the relay's rest gets through (mesh_splice_rejoin). */
#include <stdbool.h>
#include <stddef.h>

#include <linux/bpf.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "include/addr.h"
#include "include/kernel.h"
#include "include/splice.h"

#define MSG_OOB 1
#define MSG_PEEK 2
#define MSG_TRUNC 0x20
#define MSG_DONTWAIT 0x40
#define MSG_WAITALL 0x100
#define MSG_ERRQUEUE 0x2000
#define SEND_SHUTDOWN 2
#define O_NONBLOCK 04000
#define TCP_ESTABLISHED 1
#define MAX_RT_PRIO 100
#define S_IFMT 00170000
#define S_IFSOCK 0140000
#define FIONREAD 0x541B
#define SOL_SOCKET 1
#define SOL_TCP 6
#define SO_RCVLOWAT 18
#define SO_PEEK_OFF 42
#define SO_ZEROCOPY 60
#define TCP_NOTSENT_LOWAT 25
#define TCP_ULP 31
#define TCP_INQ 36
#define IORING_OP_SENDMSG 9
#define IORING_OP_SEND 26
#define IORING_OP_SEND_ZC 47
#define IORING_OP_SENDMSG_ZC 48
#define ENOENT 2
#define EOPNOTSUPP 95

/* Named in .rodata so that BTF describes the enums, which the contract tests read. */
struct mesh_splice_vocabulary {
	enum mesh_splice_role roles;
	enum mesh_splice_flag flags;
	enum mesh_splice_reader readers;
	enum mesh_splice_switch switches;
	enum mesh_splice_operation operations;
	enum mesh_splice_answer answers;
	enum mesh_splice_count counts;
	struct mesh_splice_request request;
};

const volatile struct mesh_splice_vocabulary mesh_splice_vocabulary = {};

#include "splice_move.bpf.c"
#include "splice_watch.bpf.c"
#include "splice_exchange.bpf.c"
#include "splice_control.bpf.c"

char LICENSE[] SEC("license") = "GPL";
