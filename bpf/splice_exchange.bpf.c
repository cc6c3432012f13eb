/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* What happens at the end of a send: the thread may wait for the answer. */
#include "include/splice_exchange.h"

/* Runs for every sendmsg() on the node, its socket unlocked again; the first lines are all that sockets of others see of
 * it. */
SEC("tp_btf/sock_send_length")
int BPF_PROG(mesh_splice_awaiting, struct sock *sk, int length)
{
	struct mesh_splice_socket *mine = bpf_sk_storage_get(&mesh_spl_sock, sk, 0, 0);
	struct mesh_splice_config *config;
	struct mesh_splice_flow *flow;
	struct mesh_splice_way *inward, *outward;
	struct task_struct *task;
	struct rq *processor;

	if (length <= 0 || !mesh_splice_serves(mine))
		return 0;
	config = mesh_splice_config();
	if (!config || !config->patience || !mesh_splice_asked(&mine->exchange, sk))
		return 0;
	task = bpf_get_current_task_btf();
	processor = mesh_splice_processor(task);
	if (!processor || !mesh_splice_undisturbed(processor, task))
		return 0;
	flow = mesh_splice_flow_of(mine);
	if (!flow)
		return 0;
	inward = mesh_splice_inward(flow, mine->role);
	outward = mesh_splice_outward(flow, mine->role);
	if (!outward->spliced || !outward->patient)
		return 0;
	mesh_splice_await(&mine->exchange, sk, task, processor);
	if (!mine->exchange.count)
		inward->patient = 0;
	return 0;
}
