/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/*
 * A SYN answered where it arrives: the SYN-ACK that hearken would send, with a rich cookie. Only for what is plain: untagged, no IP
 * options, no data, a right checksum, options that are well formed. Everything else is hearken's, which knows more.
 */
#ifndef HEARKEN_ANSWER_H
#define HEARKEN_ANSWER_H

#include "cookie.h"
#include "options.h"

/* What answers go by; one entry, written as a whole. */
struct answering {
	struct cookie_key key;
	__u64 clock_offset_ns;
	__u64 expires_ns; /* CLOCK_MONOTONIC from which on nothing is answered here */
	__u32 redirect_per_ms; /* SYNs that go to the socket first, per millisecond and CPU; 0: all */
	__u32 rcv_wscale;
	__u32 random_offsets;
	__u32 timestamps; /* 1: tcp_timestamps is on */
	__u32 sack;
	__u32 wscale;
	__u32 ecn;
	__u32 mss[2]; /* to announce: over IPv4, IPv6 */
	__u32 window[8]; /* by bit 0: window scaling, bit 1: timestamps, bit 2: IPv6 */
	/* 1: answers go back by redirection: a veth wakes a peer without a program by that only, and not by XDP_TX */
	__u32 by_redirect;
};

#define TH_ECE 0x40
#define TH_CWR 0x80
#define ETH_LEN 14
#define TCP_LEN 20

struct synack {
	struct tcp tcp;
	__u8 options[OPTIONS_MAX];
};

/* The ones' complement sum of the pseudo-header. */
static __always_inline __u64 pseudo(const struct segment *seg, __u32 len)
{
	__u64 sum = bpf_htonl(len) + (__u64)bpf_htonl(6);

	for (int i = seg->v4 ? 3 : 0; i < 4; i++)
		sum += (__u64)seg->src.words[i] + seg->dst.words[i];
	return sum;
}

static __always_inline __u16 fold64(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

/* Writes the options of the SYN-ACK in Linux's order; returns their octets. */
static __always_inline __u32 write_options(__u8 *to, __u32 mss, bool stamps, bool sack, bool wscale, __u32 tsval, __u32 tsecr,
					   __u32 rcv_wscale)
{
	__be32 words[2] = { bpf_htonl(tsval), bpf_htonl(tsecr) };
	__u32 at = 4;

	to[0] = 2;
	to[1] = 4;
	to[2] = mss >> 8;
	to[3] = mss;
	if (stamps) {
		to[4] = sack ? 4 : 1;
		to[5] = sack ? 2 : 1;
		to[6] = 8;
		to[7] = 10;
		__builtin_memcpy(to + 8, words, 8);
		at = 16;
		if (wscale) {
			to[16] = 1;
			to[17] = 3;
			to[18] = 3;
			to[19] = rcv_wscale;
			at = 20;
		}
		return at;
	}
	if (sack) {
		to[4] = 1;
		to[5] = 1;
		to[6] = 4;
		to[7] = 2;
		at = 8;
		if (wscale) {
			to[8] = 1;
			to[9] = 3;
			to[10] = 3;
			to[11] = rcv_wscale;
			at = 12;
		}
		return at;
	}
	if (wscale) {
		to[4] = 1;
		to[5] = 3;
		to[6] = 3;
		to[7] = rcv_wscale;
		at = 8;
	}
	return at;
}

/* The ones' complement sum of a segment with room for options, which are 0 beyond its end. */
static __always_inline __u64 sum_of(const struct synack *syn)
{
	const __be32 *words = (const __be32 *)syn;
	__u64 sum = 0;

	for (__u32 i = 0; i < sizeof(*syn) / 4; i++)
		sum += words[i];
	return sum;
}

/* Reads the options in the layout that Linux sends, the commonest: MSS, SACK, timestamps, NOP, window scale. */
static __always_inline bool read_linux(const struct synack *syn, __u32 len, struct walk *walk)
{
	const __be32 *words = (const __be32 *)syn->options;

	if (len != 20 || (words[0] & bpf_htonl(0xffff0000)) != bpf_htonl(0x02040000) || words[1] != bpf_htonl(0x0402080a) ||
	    (words[4] & bpf_htonl(0xffffff00)) != bpf_htonl(0x01030300))
		return false;
	walk->mss = bpf_ntohl(words[0]) & 0xffff;
	walk->sack = 1;
	walk->has_stamps = 1;
	walk->tsval = bpf_ntohl(words[2]);
	walk->wscale = bpf_ntohl(words[4]) & 0xff;
	return true;
}

/* Reads the SYN's header and options; false unless it is plain and whole. */
static __always_inline bool read_syn(struct xdp_md *ctx, const struct segment *seg, __u32 at, struct walk *walk)
{
	__u32 frame = bpf_xdp_get_buff_len(ctx), len = (seg->tcp->off >> 4) * 4;
	struct synack copy __attribute__((aligned(8))) = {};

	/* No data, and at most the padding of a short frame. */
	if (len < TCP_LEN || frame < at + len || (frame > at + len && frame > 60) || seg->vid)
		return false;
	if (len > TCP_LEN + OPTIONS_MAX)
		return false;
	if (bpf_xdp_load_bytes(ctx, at, &copy, len))
		return false;
	if (fold64(pseudo(seg, len) + sum_of(&copy)) != 0xffff)
		return false;
	walk->wscale = 15;
	if (read_linux(&copy, len - TCP_LEN, walk))
		return true;
	__builtin_memcpy(walk->options, copy.options, OPTIONS_MAX);
	walk->len = len - TCP_LEN;
	bpf_loop(OPTIONS_MAX, read_option, walk, 0);
	return !walk->odd;
}

/* The ones' complement sum of a header without options. */
static __always_inline __u64 sum_of_ipv4(const struct ipv4 *ip)
{
	const __be32 *words = (const __be32 *)ip;

	return (__u64)words[0] + words[1] + words[2] + words[3] + words[4];
}

/* True unless it is an IPv4 header with a wrong checksum. */
static __always_inline bool is_header_whole(struct xdp_md *ctx, const struct segment *seg)
{
	const struct ipv4 *ip = (void *)(long)ctx->data + ETH_LEN;

	return !seg->v4 || ((void *)(ip + 1) <= (void *)(long)ctx->data_end && fold64(sum_of_ipv4(ip)) == 0xffff);
}

/* Turns the addresses of the frame round and cuts or grows it to its new length; false if that cannot be. */
static __always_inline bool turn_round(struct xdp_md *ctx, bool v4, __u32 tcp_len)
{
	__u32 head = ETH_LEN + (v4 ? sizeof(struct ipv4) : sizeof(struct ipv6));
	int delta = (int)(head + tcp_len) - (int)bpf_xdp_get_buff_len(ctx);
	void *data, *end;
	struct eth *eth;
	__u8 mac[6];

	if (delta && bpf_xdp_adjust_tail(ctx, delta))
		return false;
	data = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	eth = data;
	if (v4) {
		struct ipv4 *ip = (void *)(eth + 1);
		__be32 src;

		if ((void *)(ip + 1) > end)
			return false;
		src = ip->src;
		ip->src = ip->dst;
		ip->dst = src;
		ip->tos = 0;
		ip->len = bpf_htons(sizeof(*ip) + tcp_len);
		ip->id = 0;
		ip->frag = bpf_htons(0x4000);
		ip->ttl = 64;
		ip->csum = 0;
		ip->csum = ~fold64(sum_of_ipv4(ip));
	} else {
		struct ipv6 *ip = (void *)(eth + 1);
		__be32 src[4];

		if ((void *)(ip + 1) > end)
			return false;
		__builtin_memcpy(src, ip->src, 16);
		__builtin_memcpy(ip->src, ip->dst, 16);
		__builtin_memcpy(ip->dst, src, 16);
		ip->ver_flow = bpf_htonl(6 << 28);
		ip->len = bpf_htons(tcp_len);
		ip->hops = 64;
	}
	__builtin_memcpy(mac, eth->src, 6);
	__builtin_memcpy(eth->src, eth->dst, 6);
	__builtin_memcpy(eth->dst, mac, 6);
	return true;
}

/* Makes the frame a SYN-ACK; false, with the frame as it was, if this SYN is not for here. */
static __always_inline bool answer(struct xdp_md *ctx, const struct segment *seg, const struct answering *set, __u64 now_ns)
{
	__u32 at = ETH_LEN + (seg->v4 ? sizeof(struct ipv4) : sizeof(struct ipv6));
	__u64 clock_ns = now_ns + set->clock_offset_ns;
	__u32 isn, mss, wscale, sack, ecn, tsval = 0, len, window, cookie;
	struct walk walk = {};
	struct synack out __attribute__((aligned(8))) = {};
	bool stamps;

	if (set->expires_ns && now_ns > set->expires_ns)
		return false;
	/* IP options would move the segment. */
	if ((void *)seg->tcp != (void *)(long)ctx->data + at || !is_header_whole(ctx, seg) || !read_syn(ctx, seg, at, &walk))
		return false;
	stamps = walk.has_stamps && set->timestamps;
	sack = walk.sack && set->sack;
	wscale = set->wscale ? walk.wscale : 15;
	if (walk.wscale != 15 && wscale > 14)
		wscale = set->wscale ? 14 : 15;
	/* A SYN that asks for ECN may be marked or use AccECN: those are for hearken. */
	ecn = (seg->tcp->flags & (TH_ECE | TH_CWR)) == (TH_ECE | TH_CWR);
	if (ecn && (seg->tcp->off & 0xf))
		return false;
	ecn = ecn && set->ecn;
	mss = walk.mss ? walk.mss : mss_of(seg->v4, 0);

	isn = bpf_ntohl(seg->tcp->seq);
	cookie = cookie_attributes(seg->v4, mss, wscale, sack, ecn);
	cookie |= cookie_hash(&set->key.hash, seg, isn, clock_ns / EPOCH_NS, cookie, stamps) << 8;
	if (stamps) {
		tsval = clock_ns / NS_PER_MS;
		if (set->random_offsets)
			tsval += timestamp_offset(&set->key.timestamps, seg);
	}
	len = TCP_LEN + write_options(out.options, seg->v4 ? set->mss[0] : set->mss[1], stamps, sack, wscale < 15, tsval, walk.tsval, set->rcv_wscale);
	window = (wscale < 15 ? 1 : 0) | (stamps ? 2 : 0) | (seg->v4 ? 0 : 4);
	window = set->window[window & 7];
	out.tcp.src = seg->tcp->dst;
	out.tcp.dst = seg->tcp->src;
	out.tcp.seq = bpf_htonl(cookie);
	out.tcp.ack = bpf_htonl(isn + 1);
	out.tcp.off = len / 4 << 4;
	out.tcp.flags = TH_SYN | TH_ACK | (ecn ? TH_ECE : 0);
	out.tcp.window = bpf_htons(window);
	out.tcp.csum = ~fold64(pseudo(seg, len) + sum_of(&out));
	if (!turn_round(ctx, seg->v4, len))
		return false;
	return bpf_xdp_store_bytes(ctx, at, &out, len) == 0;
}

#endif
