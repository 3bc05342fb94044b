/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/* Ethernet, one VLAN tag, IPv4 with options or IPv6 without extension headers, TCP. */
#ifndef HEARKEN_PACKET_H
#define HEARKEN_PACKET_H

#include "kernel.h"

#define P_IPV4 bpf_htons(0x0800)
#define P_IPV6 bpf_htons(0x86dd)
#define P_8021Q bpf_htons(0x8100)

struct eth {
	__u8 dst[6];
	__u8 src[6];
	__be16 proto;
} __attribute__((packed));

struct vlan {
	__be16 tci;
	__be16 proto;
} __attribute__((packed));

struct ipv4 {
	__u8 ver_ihl;
	__u8 tos;
	__be16 len;
	__be16 id;
	__be16 frag;
	__u8 ttl;
	__u8 proto;
	__be16 csum;
	__be32 src;
	__be32 dst;
} __attribute__((packed));

struct ipv6 {
	__be32 ver_flow;
	__be16 len;
	__u8 next;
	__u8 hops;
	__be32 src[4];
	__be32 dst[4];
} __attribute__((packed));

struct tcp {
	__be16 src;
	__be16 dst;
	__be32 seq;
	__be32 ack;
	__u8 off;
	__u8 flags;
	__be16 window;
	__be16 csum;
	__be16 urg;
} __attribute__((packed));

enum {
	TH_FIN = 0x01,
	TH_SYN = 0x02,
	TH_RST = 0x04,
	TH_ACK = 0x10,
};

/* What is read of a segment. */
struct segment {
	struct addr src;
	struct addr dst;
	struct tcp *tcp;
	__u16 vid; /* 0: untagged */
	bool v4;
};

/* Reads the segment between data and end; false for anything that is not a whole TCP header without fragmentation. */
static __always_inline bool read_segment(void *data, void *end, struct segment *seg)
{
	struct eth *eth = data;
	void *at = eth + 1;
	__be16 proto;

	if (at > end)
		return false;
	proto = eth->proto;
	if (proto == P_8021Q) {
		struct vlan *vlan = at;

		at = vlan + 1;
		if (at > end)
			return false;
		seg->vid = bpf_ntohs(vlan->tci) & 0xfff;
		proto = vlan->proto;
	}
	if (proto == P_IPV4) {
		struct ipv4 *ip = at;
		__u32 ihl;

		if ((void *)(ip + 1) > end)
			return false;
		ihl = (ip->ver_ihl & 0xf) * 4;
		if (ip->ver_ihl >> 4 != 4 || ihl < sizeof(*ip) || ip->proto != 6 || ip->frag & bpf_htons(0x3fff))
			return false;
		seg->v4 = true;
		seg->src.words[2] = V4_MAPPED;
		seg->src.words[3] = ip->src;
		seg->dst.words[2] = V4_MAPPED;
		seg->dst.words[3] = ip->dst;
		at += ihl;
	} else if (proto == P_IPV6) {
		struct ipv6 *ip = at;

		if ((void *)(ip + 1) > end || ip->next != 6)
			return false;
		__builtin_memcpy(&seg->src, ip->src, 16);
		__builtin_memcpy(&seg->dst, ip->dst, 16);
		at = ip + 1;
	} else {
		return false;
	}
	seg->tcp = at;
	return (void *)(seg->tcp + 1) <= end;
}

/* The tuple that bpf_skc_lookup_tcp takes, and its size. */
static __always_inline __u32 tuple_of(const struct segment *seg, struct bpf_sock_tuple *tuple)
{
	if (seg->v4) {
		tuple->ipv4.saddr = seg->src.words[3];
		tuple->ipv4.daddr = seg->dst.words[3];
		tuple->ipv4.sport = seg->tcp->src;
		tuple->ipv4.dport = seg->tcp->dst;
		return sizeof(tuple->ipv4);
	}
	__builtin_memcpy(tuple->ipv6.saddr, &seg->src, 16);
	__builtin_memcpy(tuple->ipv6.daddr, &seg->dst, 16);
	tuple->ipv6.sport = seg->tcp->src;
	tuple->ipv6.dport = seg->tcp->dst;
	return sizeof(tuple->ipv6);
}

/* True if claims holds the segment's destination: exactly, or as any address of its family, or of both families. */
static __always_inline bool is_claimed(void *claims, const struct segment *seg)
{
	struct endpoint at = { .addr = seg->dst, .port = bpf_ntohs(seg->tcp->dst) };

	if (bpf_map_lookup_elem(claims, &at))
		return true;
	at.addr.words[0] = at.addr.words[1] = at.addr.words[2] = at.addr.words[3] = 0;
	if (seg->v4) {
		at.addr.words[2] = V4_MAPPED;
		if (bpf_map_lookup_elem(claims, &at))
			return true;
		return false;
	}
	return bpf_map_lookup_elem(claims, &at) != NULL;
}

#endif
