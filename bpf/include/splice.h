/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Structs, bounds and maps of the splice. nodeagent/splice/abi.py mirrors the structs; tests/contract compares.
 *
 * The maps are made anew at each start of the agent: what they describe dies with it. Only workers' access needs
 * their pins. */
#ifndef MESH_SPLICE_H
#define MESH_SPLICE_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"

/* Same-node flows at a time; further ones are relayed. */
#define MESH_MAX_SPLICES 65536
/* Connections that the agent is opening; the least recent goes first, and its flow is relayed. */
#define MESH_MAX_DIALS 8192
/* What a message costs in the kernel beside its bytes (its scatter list, the page that it keeps): without it a flood of
 * one-byte messages would hold a thousand times the limit. */
#define MESH_SPLICE_MESSAGE 4096
#define MESH_SPLICE_COUNTERS 16
/* Threads that are told apart: a power of two. */
#define MESH_SPLICE_THREADS 16384
/* Looks at the receiver's progress in one wait: a bound for the verifier; the clock ends it before. */
#define MESH_SPLICE_LOOKS 65536
/* Waits for the relay's rest take at most this part of a sender's time. */
#define MESH_SPLICE_WAIT_SHARE 16
/* ... and last this many times longer than others: the relay is slow. */
#define MESH_SPLICE_WAIT_LONGER 5
/* ... and are not tried with more than this in the relay: it could not be through in time. */
#define MESH_SPLICE_WAIT_REST (2 << 20)
/* A PASS holds for this many bytes. The kernel keeps a verdict until all of its bytes are sent: without this a
 * non-blocking sender of large buffers, whose sends always end in EAGAIN, would never be asked again. */
#define MESH_SPLICE_STEP (32 << 10)
/* Nanoseconds that a reader waits for the message of a sender that knocked: it is on its way. */
#define MESH_SPLICE_ENTRY 4000
/* ... that one waits that found nothing: less than its sleeping and being woken take, */
#define MESH_SPLICE_MOMENT 20000
/* ... once that was long enough so many times in a row. */
#define MESH_SPLICE_PROMPT 4
/* Exchanges in a row (a send, and then what came after it, by one thread on one socket with no other socket between) after
 * which a thread waits for the answer at the end of its send, if the thread at the other end does: at least, */
#define MESH_SPLICE_EXCHANGES 8
/* ... and at most, when waiting turned out to be no gain. */
#define MESH_SPLICE_EXCHANGES_MOST 1024
/* Waits in a row that took more than half of what sleeping did: then there are no more. */
#define MESH_SPLICE_GAINLESS 4
/* Unsent bytes that an application's socket may hold before it counts as full (TCP_NOTSENT_LOWAT, unless the
 * application set its own): they would have to be relayed before the next splice. */
#define MESH_SPLICE_UNSENT (64 << 10)
/* Cost that a direction of a leg may have queued, however large the limit of flows is: the agent reads at once, and what
 * it does not read at once is bulk, which TCP carries better. */
#define MESH_SPLICE_LEG_LIMIT (1 << 20)
/* In the place of the time of a send that it does not matter of. */
#define MESH_SPLICE_UNTIMED 1
/* In the place of a cookie: the agent's accepted socket of the leg whose client has the rest of it. */
#define MESH_SPLICE_AGENT_END (1ULL << 63)

enum mesh_splice_role {
	MESH_SPLICE_CLIENT = 1, /* a captured socket */
	MESH_SPLICE_SERVER = 2, /* the socket that answered the agent's dial */
	MESH_SPLICE_DIAL = 3, /* the agent's own socket, before it connects */
	MESH_SPLICE_TRIAL = 4, /* a client of the self-test, before it connects */
};

/* What the thread that sends on a socket does there (splice_exchange.h). Nothing is decided by it. */
struct mesh_splice_exchange {
	__u64 sent; /* CLOCK_MONOTONIC nanoseconds of the last send, or MESH_SPLICE_UNTIMED; 0: something was received since */
	__u64 took; /* nanoseconds from send to receive, `count` exchanges together */
	__u32 thread; /* its number */
	__u32 count; /* exchanges in a row, `needed` at most */
	__u32 needed; /* ... before it waits; 0: none yet */
	__u32 answered; /* waits since then that ended with something to read */
	__u32 gainless; /* ... of them, the last in a row that took too long to be a gain */
	__u32 pad;
};

/* What is remembered in a socket. */
struct mesh_splice_socket {
	__u64 flow; /* 0: none yet */
	__u64 read; /* bytes that recvmsg() gave so far; atomic */
	__u32 base; /* the sequence number of the first byte that it sends */
	__u32 role;
	struct mesh_splice_exchange exchange;
};

enum mesh_splice_flag {
	MESH_SPLICE_ENABLED = 1 << 0, /* user space authorized both ends */
	MESH_SPLICE_ENROLLED = 1 << 1, /* both sockets are in the hash */
	MESH_SPLICE_FORGOTTEN = 1 << 2, /* no more redirects; goes when nothing of it is queued */
	MESH_SPLICE_BROKEN = 1 << 3, /* bytes wait where their reader does not look: to be reset */
	MESH_SPLICE_ENTERING = 1 << 4, /* ... or on their way there */
	MESH_SPLICE_LEG = 1 << 5, /* of one connection only, whose other end is the agent's */
	MESH_SPLICE_LEFT = 1 << 6, /* its sockets were taken out of the hash again */
	MESH_SPLICE_OUT_ULP = 1 << 8, /* out for good: a socket of it became, or wants to become, a TLS socket */
	MESH_SPLICE_OUT_ZEROCOPY = 1 << 9, /* ... waits for completions of MSG_ZEROCOPY */
	MESH_SPLICE_OUT_LOWAT = 1 << 10, /* ... waits for more than one byte (SO_RCVLOWAT) */
	MESH_SPLICE_OUT_OPTION = 1 << 11, /* ... asks for control messages that redirected bytes do not carry */
	MESH_SPLICE_OUT_SPLICE = 1 << 12, /* ... reads with splice(2) */
	MESH_SPLICE_OUT_FIONREAD = 1 << 13, /* ... asks how much there is to read */
	MESH_SPLICE_OUT_WAITALL = 1 << 14, /* ... reads with MSG_WAITALL or MSG_TRUNC */
	MESH_SPLICE_OUT_BLOCKING = 1 << 15, /* ... blocks in recv(): redirected sockets return EAGAIN for no reason */
	MESH_SPLICE_OUT_COUNT = 1 << 16, /* more was read than was sent: the counts cannot be trusted */
	MESH_SPLICE_OUT_REFUSED = 1 << 17, /* the kernel did not take a socket of it into the hash */
	MESH_SPLICE_OUT_BULK = 1 << 18, /* ... a leg of which more is sent than is read: TCP does that better */
	MESH_SPLICE_OUT = 0x27ff00,
	MESH_SPLICE_IN_CLIENT = 1 << 19, /* the client's socket was put into the hash */
	MESH_SPLICE_IN_SERVER = 1 << 20, /* ... the server's */
	MESH_SPLICE_OUT_URGENT = 1 << 21, /* out for good: a program sends or reads urgent data (MSG_OOB) */
};

enum mesh_splice_reader {
	MESH_SPLICE_READ = 1 << 0, /* a recvmsg() returned */
	MESH_SPLICE_READY = 1 << 1, /* ... that returned after both sockets entered the hash */
	MESH_SPLICE_BLOCKS = 1 << 2, /* ... that was ready to wait */
	MESH_SPLICE_SUSPECT = 1 << 3, /* somebody read TCP's queue, and no recvmsg() returned since: splice(2) perhaps */
};

/* One direction. Offsets count the bytes of its stream. `charged` of all directions sums up to the node's total. */
struct mesh_splice_way {
	__u64 consumed; /* offset up to which the reader has read; atomic */
	__u64 redirected; /* bytes that did not take TCP; written under the sender's socket lock */
	__u64 tail; /* offset after the last redirected byte */
	__s64 charged; /* of the node's cap; atomic */
	__u64 messages; /* redirected messages */
	__u64 read_messages; /* of them, known to be read */
	__u64 mark; /* offset: when it is read, `mark_messages` messages are */
	__u64 mark_messages;
	__u64 retry; /* CLOCK_MONOTONIC nanoseconds: no wait for the relay's rest before that */
	__u64 active; /* CLOCK_MONOTONIC_COARSE nanoseconds of the last redirect */
	__u64 socket; /* address of the reader's struct sock: only looked at, because it may be gone */
	__u32 spliced; /* 1: SPLICED, 0: PASS (sticky until everything is read) */
	__u32 reader; /* enum mesh_splice_reader; atomic */
	__u32 switches; /* times that it became SPLICED */
	/* Turns at the reader's socket (splice_turn.h). Nothing is decided by them. */
	__u32 knocked; /* the sender waits for the reader to come out */
	__u64 dry; /* CLOCK_MONOTONIC nanoseconds: since then the reader has found nothing; 0: there was more */
	__u64 calm; /* ...: the sender does not wait for the reader before that */
	__u32 prompt; /* times in a row, MESH_SPLICE_PROMPT at most, that more came within a moment of `dry` */
	__u32 sender; /* processor of the last redirect */
	__u32 receiver; /* ... of the last read */
	__u32 patient; /* 1: whoever reads it has done nothing but exchanges, and would wait for the next message */
};

struct mesh_splice_end {
	__u64 cookie; /* 0: not known yet */
	struct mesh_endpoint app;
	struct mesh_endpoint agent;
	__s32 netns; /* the network namespace that it is in: its id in the agent's, or -1 for the agent's */
	__u32 pad;
};

struct mesh_splice_flow {
	struct mesh_splice_way way[2]; /* client to server, server to client */
	struct mesh_splice_end end[2]; /* client, server */
	__u32 flags; /* enum mesh_splice_flag; atomic */
	__u32 owner; /* the worker's process id */
};

/* The agent's connection to a server, as the server's end will see it. */
struct mesh_splice_dial {
	__u64 netns;
	struct mesh_endpoint agent;
	struct mesh_endpoint app;
};

enum mesh_splice_switch {
	MESH_SPLICE_STOPPED = 1, /* kill switch: everything passes */
	MESH_SPLICE_ALLOW_BLOCKING = 2, /* readers that block may be spliced as well */
	MESH_SPLICE_NO_LEGS = 4, /* no leg is joined */
	MESH_SPLICE_SEES_RINGS = 8, /* requests to io_uring are watched */
};

struct mesh_splice_config {
	__u64 limit; /* cost (bytes and messages) that a direction may have queued */
	__u64 cap; /* ... and the node */
	__u64 memory; /* pages of TCP memory above which nothing is redirected */
	__u32 flags; /* enum mesh_splice_switch */
	__s32 ioctl_call; /* number of ioctl(2) */
	__u32 pad;
	__u32 patience; /* nanoseconds that a sender may be held for its receiver to catch up, or to answer; 0 on one CPU: nobody
			 * waits */
};

enum mesh_splice_operation {
	MESH_SPLICE_PREPARE = 1,
	MESH_SPLICE_ENABLE = 2,
	MESH_SPLICE_DISABLE = 3,
	MESH_SPLICE_FORGET = 4,
	MESH_SPLICE_RELEASE = 5, /* drop a forgotten flow whose reader is gone */
	MESH_SPLICE_PREPARE_ACCEPTED = 6, /* a leg: the application is its client */
	MESH_SPLICE_PREPARE_DIALLED = 7, /* ... its server */
	MESH_SPLICE_LEAVE = 8, /* a flow that is out: whether its sockets may be taken out of the hash: nothing is queued */
	MESH_SPLICE_PARTED = 9, /* ... they were */
};

/* What user space asks of mesh_splice_control, after 16 zero bytes of packet. */
struct mesh_splice_request {
	__u32 operation;
	__u32 owner;
	__u64 flow;
	struct mesh_endpoint app;
	struct mesh_endpoint agent;
	__s32 netns[2]; /* of the client and of the server, as in struct mesh_splice_end */
};

enum mesh_splice_answer {
	MESH_SPLICE_DONE = 0,
	MESH_SPLICE_UNKNOWN = 1, /* no such flow */
	MESH_SPLICE_NO_SOCKET = 2, /* the socket is gone, or is not the one that it was said to be */
	MESH_SPLICE_WAITING = 3, /* not now: nobody was seen reading, or the server has not answered; ask again */
	MESH_SPLICE_IS_OUT = 4, /* see its flags */
	MESH_SPLICE_REFUSED = 5, /* the kernel does not take the socket into the hash */
	MESH_SPLICE_MALFORMED = 6,
	MESH_SPLICE_FULL = 7,
	MESH_SPLICE_MARKED = 8, /* both sockets wait to be put into the hash: run mesh_splice_admit, and ask again */
};

/* Index of the counters. Append only. */
enum mesh_splice_count {
	MESH_SPLICE_COUNT_SPLICED = 0, /* a direction became SPLICED */
	MESH_SPLICE_COUNT_LIMIT = 1, /* ... and PASS, because its limit was reached */
	MESH_SPLICE_COUNT_CAP = 2, /* ... the node's cap */
	MESH_SPLICE_COUNT_MEMORY = 3, /* ... TCP memory is short */
	MESH_SPLICE_COUNT_GONE = 4, /* ... the receiver has left the hash */
	MESH_SPLICE_COUNT_BROKEN = 5, /* a flow has to be reset */
	MESH_SPLICE_COUNT_ENROLLED = 6,
	MESH_SPLICE_COUNT_DENIED_ULP = 7, /* TCP_ULP was answered as on a kernel without TLS */
	MESH_SPLICE_COUNT_BYTES = 8,
	MESH_SPLICE_COUNT_LEGS = 9, /* a leg was enrolled */
	MESH_SPLICE_COUNT_BULK = 10, /* ... and left, because it was bulk */
	MESH_SPLICE_COUNT_ANSWERED = 11, /* a thread waited for the answer, busily, and there it was */
	MESH_SPLICE_COUNT_UNANSWERED = 12, /* ... and it did not come in time */
	MESH_SPLICE_COUNT_END,
};

_Static_assert(sizeof(struct mesh_splice_socket) == 24 + 40, "mesh_splice_socket");
_Static_assert(sizeof(struct mesh_splice_way) == 136, "mesh_splice_way");
_Static_assert(sizeof(struct mesh_splice_exchange) == 40, "mesh_splice_exchange");
_Static_assert(sizeof(struct mesh_splice_flow) == 2 * 136 + 2 * 56 + 8, "mesh_splice_flow");
_Static_assert(sizeof(struct mesh_splice_request) == 64, "mesh_splice_request");
_Static_assert(MESH_SPLICE_COUNT_END <= MESH_SPLICE_COUNTERS, "more counters than slots");

/* Of the main object, from its pin: for whom the agent dialled a server's socket. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct mesh_client);
} mesh_client_v2 SEC(".maps");

/* Of the main object, from its pin: the mark of a captured socket. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct mesh_origin);
} mesh_origin_v2 SEC(".maps");

/* In the socket. Writer: sockops, control, the agent (role DIAL). Reader: all. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct mesh_splice_socket);
} mesh_spl_sock SEC(".maps");

/* Cookies of sockets that were asked for IORING_OP_SEND_ZC: that takes no socket option, and the kernel refuses it for a
 * socket in the hash. Sockets of anybody, since one may ask before the agent knows of its flow; the least recent goes
 * first. Writer: the io_uring tracepoint. Reader: control. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MESH_MAX_DIALS);
	__type(key, __u64);
	__type(value, __u32);
} mesh_spl_zcopy SEC(".maps");

/* Processes that asked io_uring for an urgent send; the least recent goes first. Writer: the io_uring tracepoint. Reader:
 * the verdict. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MESH_MAX_DIALS);
	__type(key, __u32);
	__type(value, __u32);
} mesh_spl_oob SEC(".maps");

/* Key: cookie of the client's socket. Writer: control, programs. Reader: programs, workers. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MESH_MAX_SPLICES);
	__type(key, __u64);
	__type(value, struct mesh_splice_flow);
} mesh_spl_flow SEC(".maps");

/* Cookie of a server's socket -> flow, for whoever has no socket to look into. Writer: sockops, control. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MESH_MAX_SPLICES);
	__type(key, __u64);
	__type(value, __u64);
} mesh_spl_server SEC(".maps");

/* Dial -> flow. Writer: sockops (the agent's end). Reader: sockops (the server's end), which takes it out. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MESH_MAX_DIALS);
	__type(key, struct mesh_splice_dial);
	__type(value, __u64);
} mesh_spl_dial SEC(".maps");

/* In a socket that control let in, until mesh_splice_admit has put it into the hash. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, __u32);
} mesh_spl_enter SEC(".maps");

/* Cookie -> socket. Sockets come in by control's leave alone, both ends of an authorized flow, and never one with a ULP. */
struct {
	__uint(type, BPF_MAP_TYPE_SOCKHASH);
	__uint(max_entries, 2 * MESH_MAX_SPLICES);
	__type(key, __u64);
	__type(value, __u64);
} mesh_spl_hash SEC(".maps");

/* Number of a thread, cut -> address of the spliced socket that it sent on last; 0: it has received from another one since.
 * Threads that share an entry never wait. Writer, reader: the tracepoints. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MESH_SPLICE_THREADS);
	__type(key, __u32);
	__type(value, __u64);
} mesh_spl_talk SEC(".maps");

/* Flow -> enum mesh_splice_flag: why it has to be reset. Writer: programs. Reader: workers, which take it out. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MESH_MAX_SPLICES);
	__type(key, __u64);
	__type(value, __u32);
} mesh_spl_broken SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct mesh_splice_config);
} mesh_spl_config SEC(".maps");

/* One entry: cost of everything that is redirected and not read, on the whole node. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __s64);
} mesh_spl_total SEC(".maps");

/* Index: enum mesh_splice_count. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, MESH_SPLICE_COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} mesh_spl_count SEC(".maps");

#endif
