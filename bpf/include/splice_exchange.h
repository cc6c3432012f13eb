/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Exchanges: a thread sends on a spliced socket, receives the answer on the same one, sends again.
 *
 * It and the thread at the other end do hardly anything but sleep and be woken, and where a processor that idles is dear
 * to wake (a virtual machine's) that takes many times longer than what they do. So a thread that has done nothing but
 * such exchanges waits for the answer, busily, at the end of its send: then nobody was asleep, and whatever it does next
 * (recv, poll, epoll_wait) finds something. A thread that serves other sockets between is none of these.
 *
 *   both ends  have exchanged, promptly and on this socket alone, so many times   one of them alone would gain too little
 *   a wait     takes as long as an exchange took before, at the most; ends when anybody else wants the processor, or the
 *              kernel anything of the thread, and is not begun then; a real-time thread minds only its like
 *   it pays    while it takes less than half of that; otherwise it is over, and comes back later each time
 *
 * Each wait ends by the clock, and nothing is decided by how it ended, but whether there is another. */
#ifndef MESH_SPLICE_EXCHANGE_H
#define MESH_SPLICE_EXCHANGE_H

#include "splice_turn.h"

struct mesh_splice_answer_sight {
	struct sock *sk;
	struct task_struct *task;
	struct rq *processor;
	unsigned long wanted; /* when the wait began */
	__u64 deadline;
	__u64 seen; /* nanoseconds of the last look */
	bool here;
};

/* The queue of the processor that the current thread is on. NULL, and nobody waits, where groups of threads do not share
 * processors by weight: no cgroup has a cpu controller there. */
static __always_inline struct rq *mesh_splice_processor(struct task_struct *task)
{
	if (!bpf_core_field_exists(task->se.cfs_rq) || !bpf_core_field_exists(((struct cfs_rq *)0)->rq))
		return NULL;
	return task->se.cfs_rq->rq;
}

/* Whether nobody else wants it for whom the current thread makes room: a real-time one does so for its like only. */
static __always_inline bool mesh_splice_undisturbed(struct rq *processor, struct task_struct *task)
{
	if (task->prio < MAX_RT_PRIO)
		return processor->rt.rt_nr_running == 1;
	return processor->nr_running == 1;
}

/* Whether a reader would find something (redirected bytes, relayed bytes, an end, an error), and not be made to sleep
 * for the socket's lock. */
static __always_inline bool mesh_splice_readable(struct sock *sk)
{
	struct tcp_sock *tp = (struct tcp_sock *)sk;

	if (mesh_splice_inside(sk))
		return false;
	return mesh_splice_holds(sk) || BPF_CORE_READ(tp, rcv_nxt) != BPF_CORE_READ(tp, copied_seq) ||
	       BPF_CORE_READ(sk, __sk_common.skc_state) != TCP_ESTABLISHED || BPF_CORE_READ(sk, sk_shutdown) ||
	       BPF_CORE_READ(sk, sk_err);
}

/* What the kernel wants of a thread before it goes on: a signal, another thread's turn, task work. */
static __always_inline unsigned long mesh_splice_wanted(struct task_struct *task)
{
	return task->thread_info.flags;
}

static long mesh_splice_sees_answer(__u32 index, void *context)
{
	struct mesh_splice_answer_sight *sight = context;

	sight->here = mesh_splice_readable(sight->sk);
	sight->seen = bpf_ktime_get_ns();
	return sight->here || sight->seen > sight->deadline || !mesh_splice_undisturbed(sight->processor, sight->task) ||
	       mesh_splice_wanted(sight->task) != sight->wanted;
}

static __always_inline __u32 mesh_splice_thread(void)
{
	return (__u32)bpf_get_current_pid_tgid();
}

/* The socket that the current thread sent on last, if it has received from no other since. */
static __always_inline __u64 *mesh_splice_talk(void)
{
	__u32 index = mesh_splice_thread() & (MESH_SPLICE_THREADS - 1);

	return bpf_map_lookup_elem(&mesh_spl_talk, &index);
}

/* The current thread has received something, from a socket of whatever kind: whether it sent on that one last. */
static __always_inline bool mesh_splice_stays(struct sock *sk)
{
	__u64 *talk = mesh_splice_talk();

	if (!talk || *talk == (__u64)sk)
		return talk;
	if (*talk)
		*talk = 0;
	return false;
}

/* Count from nothing again. */
static __always_inline void mesh_splice_anew(struct mesh_splice_exchange *exchange)
{
	exchange->took = 0;
	exchange->count = 0;
	exchange->answered = 0;
	exchange->gainless = 0;
}

/* The thread has received something from `inward`, on the socket that it sent on last. */
static __always_inline void mesh_splice_exchanged(struct mesh_splice_exchange *exchange, struct mesh_splice_way *inward)
{
	struct mesh_splice_config *config = mesh_splice_config();
	__u64 took, sent = exchange->sent;
	__u32 patient;

	if (!config || !sent || exchange->thread != mesh_splice_thread()) /* `sent`: more of the same answer */
		return;
	exchange->sent = 0;
	if (exchange->count < exchange->needed) {
		took = bpf_ktime_get_ns() - sent;
		exchange->took += took;
		exchange->count++;
		if (took > config->patience)
			mesh_splice_anew(exchange);
	}
	patient = exchange->count == exchange->needed;
	if (inward->patient != patient)
		inward->patient = patient;
}

/* The thread has sent something: whether it has done nothing but exchanges, time after time. */
static __always_inline bool mesh_splice_asked(struct mesh_splice_exchange *exchange, struct sock *sk)
{
	__u64 *talk = mesh_splice_talk();
	__u32 thread = mesh_splice_thread();

	if (!talk)
		return false;
	if (!exchange->needed)
		exchange->needed = MESH_SPLICE_EXCHANGES;
	if (*talk != (__u64)sk || exchange->thread != thread || exchange->sent) { /* `sent`: a second message, no answer */
		mesh_splice_anew(exchange);
		exchange->thread = thread;
		*talk = (__u64)sk;
	}
	if (exchange->count == exchange->needed) {
		exchange->sent = MESH_SPLICE_UNTIMED;
		return true;
	}
	exchange->sent = bpf_ktime_get_ns();
	return false;
}

/* Waiting was in vain, or no gain. It was worth while if it went well for longer than it took to find out. */
static __always_inline void mesh_splice_despair(struct mesh_splice_exchange *exchange)
{
	if (exchange->answered >= exchange->needed)
		exchange->needed = MESH_SPLICE_EXCHANGES;
	else if (exchange->needed < MESH_SPLICE_EXCHANGES_MOST)
		exchange->needed *= 2;
	mesh_splice_anew(exchange);
}

/* Wait for the answer to what was sent just now. */
static __always_inline void mesh_splice_await(struct mesh_splice_exchange *exchange, struct sock *sk,
					      struct task_struct *task, struct rq *processor)
{
	struct mesh_splice_answer_sight sight = { .sk = sk, .task = task, .processor = processor };
	__u64 usual, gain;

	exchange->sent = bpf_ktime_get_ns();
	usual = exchange->took / exchange->needed;
	if (usual < MESH_SPLICE_MOMENT)
		usual = MESH_SPLICE_MOMENT;
	gain = usual / 2 > MESH_SPLICE_MOMENT ? usual / 2 : MESH_SPLICE_MOMENT;
	sight.wanted = mesh_splice_wanted(sight.task);
	sight.deadline = exchange->sent + usual;
	bpf_loop(MESH_SPLICE_LOOKS, mesh_splice_sees_answer, &sight, 0);
	if (!sight.here && sight.seen <= sight.deadline) /* others want to go on */
		return;
	mesh_splice_count(sight.here ? MESH_SPLICE_COUNT_ANSWERED : MESH_SPLICE_COUNT_UNANSWERED, 1);
	exchange->answered += sight.here;
	if (sight.here && sight.seen - exchange->sent <= gain)
		exchange->gainless = 0;
	else if (!sight.here || ++exchange->gainless >= MESH_SPLICE_GAINLESS)
		mesh_splice_despair(exchange);
}

#endif
