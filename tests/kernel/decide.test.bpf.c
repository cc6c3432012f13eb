/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* The pure headers of bpf/include behind a tc program, so that BPF_PROG_TEST_RUN can ask them. After the
 * Ethernet header comes struct question; the answer replaces it, and the program's result is 0. */
#include <stdbool.h>
#include <stddef.h>

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "include/addr.h"
#include "include/decide.h"

#define OFFSET 14 /* of the question: an Ethernet header is what the kernel insists on */

struct question {
	__u8 known, incomplete, enrolled, listener, resolver, confined, outside, sealed, served, pad[3];
	struct mesh_addr addr;
};

struct answer {
	__u8 verdict, reason, concerned, v4, datagram_verdict, datagram_reason, inside, pad;
	struct mesh_addr loopback_like; /* of question.addr */
	__u32 is_loopback;
};

SEC("tc")
int ask(struct __sk_buff *skb)
{
	struct mesh_endpoint to = {};
	struct mesh_decision decision;
	struct mesh_facts facts = {};
	struct answer answer = {};
	struct question question;

	if (bpf_skb_load_bytes(skb, OFFSET, &question, sizeof(question)))
		return 1;
	facts.known = question.known;
	facts.incomplete = question.incomplete;
	facts.enrolled = question.enrolled;
	facts.listener = question.listener;
	facts.resolver = question.resolver;
	facts.confined = question.confined;
	facts.outside = question.outside;
	facts.sealed = question.sealed;
	facts.served = question.served;
	decision = mesh_decide(&facts);
	answer.verdict = decision.verdict;
	answer.reason = decision.reason;
	answer.concerned = mesh_concerned(&facts);
	decision = mesh_decide_datagram(&facts);
	answer.datagram_verdict = decision.verdict;
	answer.datagram_reason = decision.reason;
	answer.inside = mesh_is_inside(&question.addr);
	answer.v4 = mesh_is_v4(&question.addr);
	mesh_loopback_like(&question.addr, bpf_htons(15001), &to);
	answer.loopback_like = to.addr;
	answer.is_loopback = mesh_is_loopback(&question.addr);
	return bpf_skb_store_bytes(skb, OFFSET, &answer, sizeof(answer), 0) ? 2 : 0;
}

struct arrival {
	__u8 mode, agent, own, probe, listener, pad[3];
};

SEC("tc")
int ask_arrival(struct __sk_buff *skb)
{
	struct mesh_arrival_decision decision;
	struct mesh_arrival facts = {};
	struct arrival question;

	if (bpf_skb_load_bytes(skb, OFFSET, &question, sizeof(question)))
		return 0xffff;
	facts.mode = question.mode;
	facts.agent = question.agent;
	facts.own = question.own;
	facts.probe = question.probe;
	facts.listener = question.listener;
	decision = mesh_decide_arrival(&facts);
	return decision.verdict << 8 | decision.reason;
}

char LICENSE[] SEC("license") = "GPL";
