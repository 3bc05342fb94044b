// SPDX-License-Identifier: MIT OR GPL-2.0
/*
 * tc ingress: turns an ACK that ends one of hearken's handshakes into a connection of the kernel's listener.
 *
 * The kernel makes a request from the attributes that the cookie holds, and the listener's child from that, as it does for
 * cookies of its own (bpf_sk_assign_tcp_reqsk, Linux 6.9). A segment with a wrong or outdated cookie goes on as it came; the
 * kernel answers it as it answers any ACK without a connection. Every path ends in TC_ACT_UNSPEC, so filters of others see
 * all segments as well.
 *
 * The program and its maps outlive hearken: handshakes that were in flight when it was killed still end well.
 */
#include "cookie.h"
#include "options.h"

#define TC_ACT_UNSPEC (-1)
#define CLAIMS_MAX 131072

/* The attributes of a request; the layout is the kernel's ABI for this function. */
struct bpf_tcp_req_attrs {
	__u32 rcv_tsval;
	__u32 rcv_tsecr;
	__u16 mss;
	__u8 rcv_wscale;
	__u8 snd_wscale;
	__u8 ecn_ok;
	__u8 wscale_ok;
	__u8 sack_ok;
	__u8 tstamp_ok;
	__u8 usec_ts_ok;
	__u8 reserved[3];
};

struct tcp_sock;
extern int bpf_sk_assign_tcp_reqsk(struct __sk_buff *skb, struct sock *sk, struct bpf_tcp_req_attrs *attrs,
				   int attrs__sz) __ksym;

/* Counters, in the order of `Handover::COUNTERS` in handover.rs. */
enum counter {
	HANDED_OVER,
	HANDOVER_BAD_COOKIE,
	HANDOVER_OUTDATED_COOKIE,
	HANDOVER_BAD_TIMESTAMP,
	HANDOVER_REFUSED,
	HANDOVER_ACCEPT_QUEUE_FULL,
	HANDOVER_LEFT_TO_KERNEL,
	COUNTERS,
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct settings);
} settings SEC(".maps");

/* Where a cookie of ours may come back to. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, CLAIMS_MAX);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct endpoint);
	__type(value, __u32);
} claims SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

/* Round trips from SYN-ACK to verified ACK: bucket n counts those below 2^n ms, the last one all others. */
#define RTT_BUCKETS 18
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, RTT_BUCKETS);
	__type(key, __u32);
	__type(value, __u64);
} rtt SEC(".maps");

/*
 * Flows that were handed over a moment ago. The kernel takes segments through tc by the batch, before TCP sees the first of them: the
 * data behind a client's ACK meets a listener here too. Handed over once more it would be lost with a second child of the
 * same flow, and sent again after 200 ms; left alone, it meets the connection that the ACK has made by then.
 */
#define RECENT 16
#define RECENT_NS NS_PER_MS

struct recent {
	struct {
		__u64 at_ns;
		__u64 numbers; /* ACK number, ports */
		__be32 src;
	} flows[RECENT];
	__u32 next;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct recent);
} recent SEC(".maps");

static __always_inline __u64 numbers_of(const struct segment *seg)
{
	return (__u64)seg->tcp->ack << 32 | (__u32)seg->tcp->src << 16 | seg->tcp->dst;
}

static __always_inline bool is_recent(const struct segment *seg, __u64 now_ns)
{
	__u32 zero = 0;
	struct recent *all = bpf_map_lookup_elem(&recent, &zero);
	__u64 numbers = numbers_of(seg);

	if (!all)
		return false;
	for (int i = 0; i < RECENT; i++) {
		if (all->flows[i].numbers == numbers && all->flows[i].src == seg->src.words[3] &&
		    now_ns - all->flows[i].at_ns < RECENT_NS)
			return true;
	}
	return false;
}

static __always_inline void remember(const struct segment *seg, __u64 now_ns)
{
	__u32 zero = 0, at;
	struct recent *all = bpf_map_lookup_elem(&recent, &zero);

	if (!all)
		return;
	at = all->next++ % RECENT;
	all->flows[at].at_ns = now_ns;
	all->flows[at].numbers = numbers_of(seg);
	all->flows[at].src = seg->src.words[3];
}

static __always_inline void count_in(void *map, __u32 index)
{
	__u64 *count = bpf_map_lookup_elem(map, &index);

	if (count)
		*count += 1;
}

static __always_inline void record_rtt(__u32 ms)
{
	__u32 bucket = 0;

	for (int i = 0; i < RTT_BUCKETS - 1; i++) {
		if (ms < 1U << i)
			break;
		bucket = i + 1;
	}
	count_in(&rtt, bucket);
}

/* The timestamp option, wherever it stands among the options. */
static __always_inline void read_stamps(struct __sk_buff *skb, const struct segment *seg, __u32 at, struct stamps *out)
{
	__u32 len = (seg->tcp->off >> 4) * 4;
	struct walk walk = {};

	if (len <= sizeof(struct tcp))
		return;
	len -= sizeof(struct tcp);
	if (len > OPTIONS_MAX || len == 0)
		return;
	if (bpf_skb_load_bytes(skb, at + sizeof(struct tcp), walk.options, len))
		return;
	walk.len = len;
	bpf_loop(OPTIONS_MAX, read_option, &walk, 0);
	out->present = walk.has_stamps;
	out->tsval = walk.tsval;
	out->tsecr = walk.tsecr;
}

/* The whole check of a segment that may end a handshake: where it is none, COUNTERS. */
static __always_inline __u32 check(struct __sk_buff *skb, const struct settings *set, const struct segment *seg,
				   struct stamps *stamps, struct cookie *cookie)
{
	__u32 at = (void *)seg->tcp - (void *)(long)skb->data;

	read_stamps(skb, seg, at, stamps);
	return cookie_check(set, seg, stamps, bpf_ktime_get_ns(), cookie);
}

static __always_inline __u32 hand_over(struct __sk_buff *skb, const struct settings *set, struct tcp_sock *tp,
				       const struct stamps *stamps, const struct cookie *cookie)
{
	struct bpf_tcp_req_attrs attrs = {
		.rcv_tsval = stamps->tsval,
		.rcv_tsecr = stamps->tsecr,
		.mss = cookie->mss,
		.ecn_ok = cookie->ecn,
		.sack_ok = cookie->sack,
		.tstamp_ok = stamps->present,
	};

	if (cookie->snd_wscale < 15) {
		attrs.wscale_ok = 1;
		attrs.snd_wscale = cookie->snd_wscale;
		attrs.rcv_wscale = set->rcv_wscale;
	}
	if (left_to_kernel(tp))
		return HANDOVER_LEFT_TO_KERNEL;
	if (bpf_sk_assign_tcp_reqsk(skb, (struct sock *)tp, &attrs, sizeof(attrs)))
		return HANDOVER_REFUSED;
	if (stamps->present)
		record_rtt(cookie->rtt_ms);
	/* The kernel will drop the ACK, and count ListenOverflows; the client's data repeats it. */
	if (tp->inet_conn.icsk_inet.sk.sk_ack_backlog > tp->inet_conn.icsk_inet.sk.sk_max_ack_backlog)
		return HANDOVER_ACCEPT_QUEUE_FULL;
	return HANDED_OVER;
}

SEC("tc")
int hearken_accept(struct __sk_buff *skb)
{
	struct segment seg = {};
	struct bpf_sock_tuple tuple = {};
	struct stamps stamps = {};
	struct cookie cookie = {};
	struct settings *set;
	struct tcp_sock *tp;
	struct bpf_sock *skc;
	__u32 zero = 0, size, count;
	__u64 now_ns;

	/* Headers may lie in pages of the skb: the packet's linear part must hold them. */
	bpf_skb_pull_data(skb, skb->len < 14 + 60 + 20 ? skb->len : 14 + 60 + 20);
	if (!read_segment((void *)(long)skb->data, (void *)(long)skb->data_end, &seg))
		return TC_ACT_UNSPEC;
	if ((seg.tcp->flags & (TH_SYN | TH_ACK | TH_RST)) != TH_ACK)
		return TC_ACT_UNSPEC;
	if (!is_claimed(&claims, &seg))
		return TC_ACT_UNSPEC;
	set = bpf_map_lookup_elem(&settings, &zero);
	now_ns = bpf_ktime_get_ns();
	if (!set || (set->expires_ns && now_ns > set->expires_ns))
		return TC_ACT_UNSPEC;
	size = tuple_of(&seg, &tuple);
	skc = bpf_skc_lookup_tcp(skb, &tuple, size, BPF_F_CURRENT_NETNS, 0);
	if (!skc)
		return TC_ACT_UNSPEC;
	/* Connections, requests and TIME-WAIT entries are the kernel's own business. */
	if (skc->state != BPF_TCP_LISTEN || is_recent(&seg, now_ns))
		goto release;
	switch (check(skb, set, &seg, &stamps, &cookie)) {
	case COOKIE_GOOD:
		tp = bpf_skc_to_tcp_sock(skc);
		count = tp ? hand_over(skb, set, tp, &stamps, &cookie) : HANDOVER_REFUSED;
		if (count == HANDED_OVER)
			remember(&seg, now_ns);
		break;
	case COOKIE_OUTDATED:
		count = HANDOVER_OUTDATED_COOKIE;
		break;
	case COOKIE_TIMESTAMP:
		count = HANDOVER_BAD_TIMESTAMP;
		break;
	default:
		count = HANDOVER_BAD_COOKIE;
	}
	count_in(&counters, count);
release:
	bpf_sk_release(skc);
	return TC_ACT_UNSPEC;
}

/* For tests (BPF_PROG_TEST_RUN): what the cookie of an ACK says, without a socket. */
struct checked {
	__u32 verdict;
	struct cookie cookie;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct checked);
} checked SEC(".maps");

SEC("tc")
int hearken_check(struct __sk_buff *skb)
{
	struct segment seg = {};
	struct stamps stamps = {};
	struct checked out = {};
	struct settings *set;
	__u32 zero = 0;

	if (!read_segment((void *)(long)skb->data, (void *)(long)skb->data_end, &seg))
		return 1;
	set = bpf_map_lookup_elem(&settings, &zero);
	if (!set)
		return 2;
	out.verdict = check(skb, set, &seg, &stamps, &out.cookie);
	bpf_map_update_elem(&checked, &zero, &out, BPF_ANY);
	return 0;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
