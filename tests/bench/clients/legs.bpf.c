/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* The least that a redirect can cost: each message goes to the socket that its sender's storage names, or takes TCP if
 * it names none. No flow control: for measuring only (tests/bench/micro_legs.py). */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

/* The cookie of the socket at the other end. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, __u64);
} legs_peer SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_SOCKHASH);
	__uint(max_entries, 64);
	__type(key, __u64);
	__type(value, __u64);
} legs_hash SEC(".maps");

SEC("sk_msg")
int legs_verdict(struct sk_msg_md *msg)
{
	__u64 *peer = msg->sk ? bpf_sk_storage_get(&legs_peer, msg->sk, 0, 0) : 0;

	if (peer)
		bpf_msg_redirect_hash(msg, &legs_hash, peer, BPF_F_INGRESS);
	return SK_PASS;
}

char LICENSE[] SEC("license") = "GPL";
