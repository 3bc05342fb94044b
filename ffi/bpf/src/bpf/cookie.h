/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/*
 * Rich SYN cookies: the layout of `listener/src/syncookies/rich.rs`, where the security argument stands. Checked against it
 * over random cases by `ffi/bpf/tests/cookie.rs`.
 */
#ifndef HEARKEN_COOKIE_H
#define HEARKEN_COOKIE_H

#include "packet.h"

#define EPOCH_NS 64000000000ULL
#define NS_PER_MS 1000000ULL

struct sip_key {
	__u64 k0;
	__u64 k1;
};

/* One generation of keys. */
struct cookie_key {
	struct sip_key hash;
	struct sip_key timestamps;
};

/* All that user space decides; one entry, written as a whole. */
struct settings {
	struct cookie_key keys[2];
	/* hearken's clock is CLOCK_MONOTONIC plus this, modulo 2^64. */
	__u64 clock_offset_ns;
	/* CLOCK_MONOTONIC from which on nothing is handed over; 0: never. */
	__u64 expires_ns;
	__u32 generations; /* 1 or 2 */
	__u32 shared; /* 1: a cookie may be from a clock that is already in the next epoch */
	__u32 rcv_wscale; /* that SYN-ACKs announce */
	__u32 random_offsets; /* 1: TSval is the clock plus a keyed offset (tcp_timestamps = 1) */
};

/* What a cookie says about the SYN. */
struct cookie {
	__u32 mss;
	__u32 snd_wscale; /* 15: no window scaling */
	__u32 sack;
	__u32 ecn;
	__u32 rtt_ms; /* since the SYN-ACK, with timestamps */
};

/* The timestamp option of a segment. */
struct stamps {
	__u32 present;
	__u32 tsval;
	__u32 tsecr;
};

enum verdict {
	COOKIE_GOOD,
	COOKIE_BAD,
	COOKIE_OUTDATED,
	COOKIE_TIMESTAMP,
};

#define ROTL(x, b) (((x) << (b)) | ((x) >> (64 - (b))))

struct sip {
	__u64 v0, v1, v2, v3;
};

static __always_inline void sip_round(struct sip *s)
{
	s->v0 += s->v1;
	s->v1 = ROTL(s->v1, 13) ^ s->v0;
	s->v0 = ROTL(s->v0, 32);
	s->v2 += s->v3;
	s->v3 = ROTL(s->v3, 16) ^ s->v2;
	s->v0 += s->v3;
	s->v3 = ROTL(s->v3, 21) ^ s->v0;
	s->v2 += s->v1;
	s->v1 = ROTL(s->v1, 17) ^ s->v2;
	s->v2 = ROTL(s->v2, 32);
}

static __always_inline struct sip sip_start(const struct sip_key *key)
{
	struct sip s = {
		key->k0 ^ 0x736f6d6570736575ULL,
		key->k1 ^ 0x646f72616e646f6dULL,
		key->k0 ^ 0x6c7967656e657261ULL,
		key->k1 ^ 0x7465646279746573ULL,
	};

	return s;
}

static __always_inline void sip_word(struct sip *s, __u64 word)
{
	s->v3 ^= word;
	sip_round(s);
	sip_round(s);
	s->v0 ^= word;
}

/* SipHash-2-4 of `octets` octets, of which `last` holds those that fill no word. */
static __always_inline __u64 sip_end(struct sip *s, __u64 octets, __u64 last)
{
	sip_word(s, octets << 56 | last);
	s->v2 ^= 0xff;
	sip_round(s);
	sip_round(s);
	sip_round(s);
	sip_round(s);
	return s->v0 ^ s->v1 ^ s->v2 ^ s->v3;
}

static __always_inline __u64 pair(__be32 high, __be32 low)
{
	return (__u64)bpf_ntohl(high) << 32 | bpf_ntohl(low);
}

/* The 24 bits of the cookie that attr makes in this epoch. */
static __always_inline __u32 cookie_hash(const struct sip_key *key, const struct segment *seg, __u32 isn, __u32 epoch,
					 __u32 attr, bool timestamps)
{
	struct sip s = sip_start(key);
	__u64 ports = (__u64)bpf_ntohs(seg->tcp->src) << 48 | (__u64)bpf_ntohs(seg->tcp->dst) << 32;
	__u64 octets;

	if (seg->v4) {
		sip_word(&s, pair(seg->src.words[3], seg->dst.words[3]));
		octets = 24;
	} else {
		sip_word(&s, pair(seg->src.words[0], seg->src.words[1]));
		sip_word(&s, pair(seg->src.words[2], seg->src.words[3]));
		sip_word(&s, pair(seg->dst.words[0], seg->dst.words[1]));
		sip_word(&s, pair(seg->dst.words[2], seg->dst.words[3]));
		octets = 48;
	}
	sip_word(&s, ports | isn);
	sip_word(&s, (__u64)epoch << 32 | (timestamps ? 0x100 : 0) | attr);
	return sip_end(&s, octets, 0) & 0xffffff;
}

/* Entry `index` of the four MSS of a family, packed into one word: a table would become a section of its own. */
#define MSS_V4 (536ULL | 1300ULL << 16 | 1440ULL << 32 | 1460ULL << 48)
#define MSS_V6 (1220ULL | 1420ULL << 16 | 1440ULL << 32 | 8940ULL << 48)

static __always_inline __u32 mss_of(bool v4, __u32 index)
{
	return (v4 ? MSS_V4 : MSS_V6) >> (index * 16) & 0xffff;
}

/* The attributes of a SYN in a cookie's low octet. */
static __always_inline __u32 cookie_attributes(bool v4, __u32 mss, __u32 wscale, __u32 sack, __u32 ecn)
{
	__u32 index = (mss >= mss_of(v4, 1)) + (mss >= mss_of(v4, 2)) + (mss >= mss_of(v4, 3));

	return index | wscale << 2 | sack << 6 | ecn << 7;
}

/* The offset of the timestamps of a pair of hosts: `secure_tcp_ts_off` in listener/src/tcp_output.rs. */
static __always_inline __u32 timestamp_offset(const struct sip_key *key, const struct segment *seg)
{
	struct sip s = sip_start(key);

	if (seg->v4) {
		sip_word(&s, pair(seg->src.words[3], seg->dst.words[3]));
		return sip_end(&s, 12, 0);
	}
	sip_word(&s, pair(seg->src.words[0], seg->src.words[1]));
	sip_word(&s, pair(seg->src.words[2], seg->src.words[3]));
	sip_word(&s, pair(seg->dst.words[0], seg->dst.words[1]));
	sip_word(&s, pair(seg->dst.words[2], seg->dst.words[3]));
	return sip_end(&s, 32, 0);
}

/* The age in epochs of a cookie of this generation: -1 if it is none. `newest` is the newest that may be. */
static __always_inline int cookie_age(const struct sip_key *key, const struct segment *seg, __u32 cookie, __u32 isn,
				      __u32 newest, __u32 ages, bool timestamps)
{
	__u32 attr = cookie & 0xff, hash = cookie >> 8;

	for (__u32 age = 0; age < 4; age++) {
		if (age > ages)
			break;
		if (cookie_hash(key, seg, isn, newest - age, attr, timestamps) == hash)
			return age;
	}
	return -1;
}

/*
 * Checks the ACK of a handshake: its ACK number less one is the cookie, its sequence number less one the client's ISN. One
 * epoch more than counts is looked at, to tell an outdated cookie from a forged one.
 */
static __always_inline enum verdict cookie_check(const struct settings *set, const struct segment *seg,
						 const struct stamps *stamps, __u64 now_ns, struct cookie *out)
{
	__u32 cookie = bpf_ntohl(seg->tcp->ack) - 1, isn = bpf_ntohl(seg->tcp->seq) - 1, attr = cookie & 0xff;
	__u64 clock_ns = now_ns + set->clock_offset_ns;
	__u32 ahead = set->shared ? 1 : 0, newest = clock_ns / EPOCH_NS + ahead, ages = 2 + ahead;
	int age;

	for (int generation = 0; generation < 2; generation++) {
		const struct cookie_key *key = &set->keys[generation];

		if (generation >= set->generations)
			break;
		age = cookie_age(&key->hash, seg, cookie, isn, newest, ages, stamps->present);
		if (age < 0)
			continue;
		if (age >= ages)
			return COOKIE_OUTDATED;
		if (stamps->present) {
			__u32 off = set->random_offsets ? timestamp_offset(&key->timestamps, seg) : 0;
			/* Clocks of two threads: a TSval may seem to be a little ahead. */
			__s32 rtt = (__u32)(clock_ns / NS_PER_MS) - (stamps->tsecr - off);

			if (rtt < -1000 * (__s32)(1 + 64 * ahead) || rtt > 3 * 64000)
				return COOKIE_TIMESTAMP;
			out->rtt_ms = rtt < 0 ? 0 : rtt;
		}
		out->mss = mss_of(seg->v4, attr & 3);
		out->snd_wscale = attr >> 2 & 0xf;
		out->sack = attr >> 6 & 1;
		out->ecn = attr >> 7;
		return COOKIE_GOOD;
	}
	return COOKIE_BAD;
}

#endif
