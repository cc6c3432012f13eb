/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Whether the message that a spliced socket sends may be urgent data. The verdict does not see the flags of a send, and a
 * redirected urgent byte would be an ordinary byte of the stream. It runs in the system call that sends: the flags are in
 * that call's registers. io_uring has none: its requests are seen when they are submitted (mesh_splice_ring).
 * Fails to "may be": the flow is relayed. */
#ifndef MESH_SPLICE_URGENT_H
#define MESH_SPLICE_URGENT_H

#include "kernel.h"
#include "splice.h"

#define PF_IO_WORKER 0x10
#define PF_KTHREAD 0x200000

/* Numbers of system calls. */
#if defined(__TARGET_ARCH_x86)
#define MESH_TS_COMPAT 2
#define MESH_SENDTO 44
#define MESH_SENDMSG 46
#define MESH_SENDMMSG 307
#define MESH_COMPAT_WRITE 4
#define MESH_COMPAT_WRITEV 146
#define MESH_COMPAT_SENDMMSG 345
#define MESH_COMPAT_SENDTO 369
#define MESH_COMPAT_SENDMSG 370
#else
#define MESH_SENDTO 206
#define MESH_SENDMSG 211
#define MESH_SENDMMSG 269
#define MESH_TIF_32BIT (1UL << 22)
#endif

enum mesh_splice_flags_at {
	MESH_FLAGS_UNKNOWN,
	MESH_FLAGS_NONE,
	MESH_FLAGS_THIRD,
	MESH_FLAGS_FOURTH,
};

/* Set once a program of this host submitted an urgent send to io_uring. */
static volatile __u32 mesh_splice_urgent_rings;

/* Whether this process is one of those. */
static __always_inline bool mesh_splice_urgent_ring(void)
{
	__u32 process = bpf_get_current_pid_tgid() >> 32;

	return mesh_splice_urgent_rings && bpf_map_lookup_elem(&mesh_spl_oob, &process);
}

/* A system call that is none of the three carries no flags: it writes, or io_uring sends in its course. */
static __always_inline enum mesh_splice_flags_at mesh_splice_flags_of(__u64 call)
{
	if (call == MESH_SENDTO || call == MESH_SENDMMSG)
		return MESH_FLAGS_FOURTH;
	return call == MESH_SENDMSG ? MESH_FLAGS_THIRD : MESH_FLAGS_NONE;
}

#if defined(__TARGET_ARCH_x86)
/* Of a 32-bit program; socketcall(2) has its flags in memory. */
static __always_inline enum mesh_splice_flags_at mesh_splice_flags_of_compat(__u64 call)
{
	if (call == MESH_COMPAT_SENDTO || call == MESH_COMPAT_SENDMMSG)
		return MESH_FLAGS_FOURTH;
	if (call == MESH_COMPAT_SENDMSG)
		return MESH_FLAGS_THIRD;
	return call == MESH_COMPAT_WRITE || call == MESH_COMPAT_WRITEV ? MESH_FLAGS_NONE : MESH_FLAGS_UNKNOWN;
}

static __always_inline bool mesh_splice_flags(const struct task_struct *task, const struct pt_regs *regs, __u64 *flags)
{
	bool compat = task->thread_info.status & MESH_TS_COMPAT;
	enum mesh_splice_flags_at at = compat ? mesh_splice_flags_of_compat(regs->orig_ax) :
						mesh_splice_flags_of(regs->orig_ax);

	*flags = 0;
	if (at == MESH_FLAGS_THIRD)
		*flags = regs->dx;
	else if (at == MESH_FLAGS_FOURTH)
		*flags = compat ? regs->si : regs->r10;
	return at != MESH_FLAGS_UNKNOWN;
}
#else
static __always_inline bool mesh_splice_flags(const struct task_struct *task, const struct pt_regs *regs, __u64 *flags)
{
	enum mesh_splice_flags_at at = mesh_splice_flags_of((__u32)regs->syscallno);

	*flags = 0;
	if (at == MESH_FLAGS_THIRD)
		*flags = regs->regs[2];
	else if (at == MESH_FLAGS_FOURTH)
		*flags = regs->regs[3];
	return !(task->thread_info.flags & MESH_TIF_32BIT);
}
#endif

/* `rings`: submissions to io_uring are watched. Without that, a task that has ever set up io_uring may send unseen. */
static __always_inline bool mesh_splice_may_be_urgent(bool rings)
{
	struct task_struct *task = bpf_get_current_task_btf();
	__u64 flags;

	if (mesh_splice_urgent_ring() || (!rings && task->io_uring))
		return true;
	if (task->flags & (PF_IO_WORKER | PF_KTHREAD))
		return !(task->flags & PF_IO_WORKER); /* a worker of io_uring; nothing else of the kernel sends here */
	return !mesh_splice_flags(task, (struct pt_regs *)bpf_task_pt_regs(task), &flags) || flags & MSG_OOB;
}

#endif
