// SPDX-License-Identifier: MIT OR GPL-2.0
/*
 * XDP: sends the SYNs that hearken answers to its AF_XDP socket; everything else goes the kernel's way.
 *
 * A SYN is taken if its destination is local and claimed, and the kernel's own lookup finds a listener there that would
 * take it. So what only the kernel can answer stays with it, without delay: a SYN that meets a TIME-WAIT or an established
 * connection, one at a listener whose accept queue is full (the kernel drops it and counts ListenOverflows), one at a
 * listener with MPTCP, TCP Fast Open, MD5 or AO, one at a port that is no longer listened to (the kernel resets it).
 *
 * More SYNs in a millisecond than the socket gets are answered here, with the cookie that hearken would give them (answer.h): a
 * flood then costs the CPU that it arrives on, and no client's SYN is lost in front of a full ring.
 *
 * If hearken dies its socket closes, the entry of xsks_map goes, and bpf_redirect_map answers XDP_PASS: the kernel answers
 * SYNs itself.
 */
#include "answer.h"

#define QUEUES_MAX 64
#define CLAIMS_MAX 131072
#define LOCALS_MAX 65536

/* Counters, in the order of `Claim::COUNTERS` in claim.rs. */
enum counter {
	CLAIM_REDIRECTED,
	CLAIM_NO_LISTENER,
	CLAIM_KNOWN_FLOW,
	CLAIM_ACCEPT_QUEUE_FULL,
	CLAIM_LEFT_TO_KERNEL,
	CLAIM_OTHER_VLAN,
	CLAIM_ANSWERED,
	COUNTERS,
};

/* Found by this name by DPDK's driver, which puts its sockets in. */
struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, QUEUES_MAX);
	__type(key, __u32);
	__type(value, __u32);
} xsks_map SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, CLAIMS_MAX);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct endpoint);
	__type(value, __u32);
} claims SEC(".maps");

/* Addresses and prefixes of this host; the value is the VLAN that they are in, 0 for none. */
struct local_key {
	__u32 prefix_len;
	struct addr addr;
};

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, LOCALS_MAX);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct local_key);
	__type(value, __u32);
} locals SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} claim_counters SEC(".maps");

static __always_inline void note(__u32 counter)
{
	__u64 *count = bpf_map_lookup_elem(&claim_counters, &counter);

	if (count)
		*count += 1;
}

static __always_inline int pass(__u32 counter)
{
	note(counter);
	return XDP_PASS;
}

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct answering);
} answering SEC(".maps");

/* SYNs that were redirected in this millisecond, by CPU. */
struct slice {
	__u64 ms;
	__u64 redirected;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct slice);
} slices SEC(".maps");

/* True if this millisecond's share of the socket is used up. */
static __always_inline bool is_beyond(const struct answering *set, __u64 now_ns)
{
	__u32 zero = 0;
	struct slice *slice = bpf_map_lookup_elem(&slices, &zero);

	if (!slice || !set->redirect_per_ms)
		return false;
	if (slice->ms != now_ns / NS_PER_MS) {
		slice->ms = now_ns / NS_PER_MS;
		slice->redirected = 0;
	}
	return slice->redirected++ >= set->redirect_per_ms;
}

/* Who the program belongs to: found by a later start, to name it or to replace what is left of it. */
struct owner {
	__u64 pid;
	__u64 start_ticks; /* since boot: field 22 of /proc/PID/stat */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct owner);
} hearken_owner SEC(".maps");

static __always_inline bool is_local(const struct addr *addr, __u32 **vid)
{
	struct local_key key = { .prefix_len = 128, .addr = *addr };

	*vid = bpf_map_lookup_elem(&locals, &key);
	return *vid != NULL;
}

SEC("xdp")
int hearken_claim(struct xdp_md *ctx)
{
	struct segment seg = {};
	struct bpf_sock_tuple tuple = {};
	struct bpf_sock *skc;
	struct tcp_sock *tp;
	__u32 size, *vid, verdict, zero = 0;
	struct answering *set;
	__u64 now_ns;

	/* An array keeps the map with the program while nobody has it open. */
	if (!bpf_map_lookup_elem(&hearken_owner, &zero))
		return XDP_PASS;
	if (!read_segment((void *)(long)ctx->data, (void *)(long)ctx->data_end, &seg))
		return XDP_PASS;
	if ((seg.tcp->flags & (TH_SYN | TH_ACK | TH_RST | TH_FIN)) != TH_SYN)
		return XDP_PASS;
	if (!is_claimed(&claims, &seg) || !is_local(&seg.dst, &vid))
		return XDP_PASS;
	if (*vid != seg.vid)
		return pass(CLAIM_OTHER_VLAN);
	/* A source of our own: the kernel knows what it is. */
	if (is_local(&seg.src, &vid))
		return XDP_PASS;

	size = tuple_of(&seg, &tuple);
	skc = bpf_skc_lookup_tcp(ctx, &tuple, size, BPF_F_CURRENT_NETNS, 0);
	if (!skc)
		return pass(CLAIM_NO_LISTENER);
	if (skc->state != BPF_TCP_LISTEN) {
		bpf_sk_release(skc);
		return pass(CLAIM_KNOWN_FLOW);
	}
	verdict = COUNTERS;
	tp = bpf_skc_to_tcp_sock(skc);
	if (!tp || left_to_kernel(tp))
		verdict = CLAIM_LEFT_TO_KERNEL;
	else if (tp->inet_conn.icsk_inet.sk.sk_ack_backlog > tp->inet_conn.icsk_inet.sk.sk_max_ack_backlog)
		verdict = CLAIM_ACCEPT_QUEUE_FULL; /* sk_acceptq_is_full() */
	bpf_sk_release(skc);
	if (verdict != COUNTERS)
		return pass(verdict);

	set = bpf_map_lookup_elem(&answering, &zero);
	now_ns = bpf_ktime_get_ns();
	if (set && is_beyond(set, now_ns) && answer(ctx, &seg, set, now_ns)) {
		note(CLAIM_ANSWERED);
		return set->by_redirect ? bpf_redirect(ctx->ingress_ifindex, 0) : XDP_TX;
	}
	verdict = bpf_redirect_map(&xsks_map, ctx->rx_queue_index, XDP_PASS);
	if (verdict == XDP_REDIRECT)
		note(CLAIM_REDIRECTED);
	return verdict;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
