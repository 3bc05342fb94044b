// SPDX-License-Identifier: MIT OR GPL-2.0
/*
 * A sender for tests and benches, and the end of what comes back. Run on live frames (BPF_F_TEST_XDP_LIVE_FRAMES) it gives each copy of a SYN or ACK another source and
 * sends it out by an interface. Attached to that interface, the sink counts and drops what is answered, as if the forged hosts
 * were far away: else the machine under test would pay for taking its own answers in. Frames are untagged IPv4 or IPv6 with a TCP header; the template's checksum is right, and each
 * change is added to it (RFC 1624).
 */
#include "packet.h"

struct flood {
	__u32 ifindex;
	__u32 hosts; /* sources: the template's, with its last octets replaced by a number below this; a power of two */
	__u32 forge_ack; /* 1: the ACK number is random as well */
	__u32 len;
	__u8 frame[128];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct flood);
} flood SEC(".maps");

/* Frames that were given to the interface. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} sent SEC(".maps");

/* SYN-ACKs to forged sources, and other segments to them. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u64);
} answers SEC(".maps");

/* The ones' complement difference that replacing `from` by `to` makes in a sum. */
static __always_inline __u32 change(__be32 from, __be32 to)
{
	__u32 sum = (~from & 0xffff) + (~from >> 16) + (to & 0xffff) + (to >> 16);

	return sum;
}

static __always_inline __be16 folded(__be16 csum, __u32 sum)
{
	sum += (__u16)~csum;
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

SEC("xdp")
int hearken_flood(struct xdp_md *ctx)
{
	void *data, *end;
	__u32 zero = 0, random = bpf_get_prandom_u32(), tcp_sum = 0;
	struct flood *set = bpf_map_lookup_elem(&flood, &zero);
	struct eth *eth;
	struct tcp *tcp;
	__u32 len;
	__be32 before, after;
	__u64 *count;

	if (!set)
		return XDP_ABORTED;
	/* A buffer comes back as its last reader left it. */
	len = set->len;
	if (len < 54 || len > sizeof(set->frame) || bpf_xdp_store_bytes(ctx, 0, set->frame, len))
		return XDP_ABORTED;
	data = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	eth = data;
	if ((void *)(eth + 1) > end)
		return XDP_ABORTED;
	if (eth->proto == P_IPV4) {
		struct ipv4 *ip = (void *)(eth + 1);

		tcp = (void *)(ip + 1);
		if ((void *)(tcp + 1) > end)
			return XDP_ABORTED;
		before = ip->src;
		after = (before & ~bpf_htonl(set->hosts - 1)) | bpf_htonl(random & (set->hosts - 1));
		ip->src = after;
		ip->csum = folded(ip->csum, change(before, after));
	} else {
		struct ipv6 *ip = (void *)(eth + 1);

		tcp = (void *)(ip + 1);
		if ((void *)(tcp + 1) > end)
			return XDP_ABORTED;
		before = ip->src[3];
		after = (before & ~bpf_htonl(set->hosts - 1)) | bpf_htonl(random & (set->hosts - 1));
		ip->src[3] = after;
	}
	tcp_sum += change(before, after);
	random = bpf_get_prandom_u32();
	before = tcp->src;
	tcp->src = bpf_htons(1024 + (random & 0x7fff));
	tcp_sum += change(before, tcp->src);
	before = tcp->seq;
	tcp->seq = random ^ 0x5bd1e995;
	tcp_sum += change(before, tcp->seq);
	if (set->forge_ack) {
		before = tcp->ack;
		tcp->ack = bpf_get_prandom_u32();
		tcp_sum += change(before, tcp->ack);
	}
	tcp_sum = (tcp_sum & 0xffff) + (tcp_sum >> 16);
	tcp->csum = folded(tcp->csum, tcp_sum);
	count = bpf_map_lookup_elem(&sent, &zero);
	if (count)
		*count += 1;
	return bpf_redirect(set->ifindex, 0);
}

/* True if it is one of the sources that are forged from the template's. */
static __always_inline bool is_forged(const struct flood *set, const struct segment *seg)
{
	__be32 source[4] = {}, mask = ~bpf_htonl(set->hosts - 1);

	if (seg->v4)
		__builtin_memcpy(source + 3, set->frame + 26, 4);
	else
		__builtin_memcpy(source, set->frame + 22, 16);
	for (int i = seg->v4 ? 3 : 0; i < 3; i++) {
		if (seg->dst.words[i] != source[i])
			return false;
	}
	return (seg->dst.words[3] & mask) == (source[3] & mask);
}

SEC("xdp")
int hearken_sink(struct xdp_md *ctx)
{
	struct segment seg = {};
	__u32 zero = 0, kind;
	struct flood *set = bpf_map_lookup_elem(&flood, &zero);
	__u64 *count;

	if (!set || !read_segment((void *)(long)ctx->data, (void *)(long)ctx->data_end, &seg))
		return XDP_PASS;
	kind = (seg.tcp->flags & (TH_SYN | TH_ACK)) == (TH_SYN | TH_ACK) ? 0 : 1;
	if (!is_forged(set, &seg))
		return XDP_PASS;
	count = bpf_map_lookup_elem(&answers, &kind);
	if (count)
		*count += 1;
	return XDP_DROP;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
