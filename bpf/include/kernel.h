/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* The fields of kernel structures that the splice reads, found on the running kernel by CO-RE. */
#ifndef MESH_KERNEL_H
#define MESH_KERNEL_H

#include <stdbool.h>

#include <linux/types.h>

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

typedef struct {
	__s64 counter;
} atomic64_t;

struct proto {
	atomic64_t *memory_allocated; /* atomic_long_t: the same width and field on every 64-bit kernel */
};

struct sock_common {
	atomic64_t skc_cookie;
	volatile unsigned char skc_state;
	unsigned long skc_flags;
	struct proto *skc_prot;
};

struct inode {
	unsigned short i_mode;
};

struct file {
	unsigned int f_flags;
	struct inode *f_inode;
	void *private_data;
};

struct sock;

struct socket {
	struct file *file;
	struct sock *sk;
};

typedef struct {
	int owned;
} socket_lock_t;

struct sock {
	struct sock_common __sk_common;
	socket_lock_t sk_lock;
	int sk_rcvlowat;
	int sk_rcvbuf;
	int sk_sndbuf;
	int sk_peek_off;
	__u8 sk_shutdown;
	int sk_err;
	struct socket *sk_socket;
	void *sk_user_data;
};

struct list_head {
	struct list_head *next;
	struct list_head *prev;
};

struct sk_psock {
	struct list_head ingress_msg;
};

struct inet_sock {
	struct sock sk;
};

struct tcp_ulp_ops;

struct inet_connection_sock {
	struct inet_sock icsk_inet;
	const struct tcp_ulp_ops *icsk_ulp_ops;
};

struct tcp_sock {
	struct inet_connection_sock inet_conn;
	__u32 write_seq;
	__u32 snd_una;
	__u32 snd_nxt;
	__u32 notsent_lowat;
	__u32 data_segs_out;
	__u32 copied_seq;
	__u32 rcv_nxt;
	__u64 bytes_received;
	__u8 recvmsg_inq : 1;
	__u64 bytes_acked;
};

struct sk_msg {
	struct sock *sk_redir;
};

/* What an iterator over a map of socket storage is shown. */
struct bpf_iter__bpf_sk_storage_map {
	struct sock *sk;
};

struct fdtable {
	unsigned int max_fds;
	struct file **fd;
};

struct files_struct {
	struct fdtable *fdt;
};

struct thread_info {
	unsigned long flags;
	unsigned int status; /* x86 */
};

struct io_uring_task;

/* What runs on a processor, and waits to. */
struct rt_rq {
	unsigned int rt_nr_running; /* of real-time threads */
};

struct rq {
	unsigned int nr_running;
	struct rt_rq rt;
};

struct cfs_rq {
	struct rq *rq;
};

struct sched_entity {
	struct cfs_rq *cfs_rq;
};

struct task_struct {
	struct thread_info thread_info;
	unsigned int flags;
	struct io_uring_task *io_uring;
	int prio;
	struct sched_entity se;
	struct files_struct *files;
};

struct io_cqe {
	__u64 user_data;
	__s32 res;
	union {
		__u32 flags;
		int fd;
	};
};

struct io_kiocb {
	struct io_cqe cqe; /* of a request that begins: its descriptor */
	__u8 opcode;
};

/* The request of a send; it begins where its io_kiocb does. */
struct io_sr_msg {
	unsigned int msg_flags;
};

#if defined(__TARGET_ARCH_x86)
struct pt_regs {
	unsigned long r10;
	unsigned long dx;
	unsigned long si;
	unsigned long di;
	unsigned long orig_ax;
};
#define MESH_FIRST_ARGUMENT(regs) BPF_CORE_READ(regs, di)
#define MESH_SECOND_ARGUMENT(regs) BPF_CORE_READ(regs, si)
#else
struct pt_regs {
	unsigned long regs[31];
	int syscallno;
};
#define MESH_FIRST_ARGUMENT(regs) BPF_CORE_READ(regs, regs[0])
#define MESH_SECOND_ARGUMENT(regs) BPF_CORE_READ(regs, regs[1])
#endif

enum sock_flags {
	SOCK_ZEROCOPY = 18,
};

#pragma clang attribute pop

#endif
