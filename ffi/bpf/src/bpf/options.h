/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/* TCP options, one by one. */
#ifndef HEARKEN_OPTIONS_H
#define HEARKEN_OPTIONS_H

#include "packet.h"

/* Octets of TCP options at the most. */
#define OPTIONS_MAX 40

/* A walk over the options of a segment. */
struct walk {
	__u8 options[64];
	__u32 len;
	__u32 next;
	/* What was found. */
	__u32 has_stamps;
	__u32 tsval;
	__u32 tsecr;
	__u32 mss;
	__u32 wscale; /* 15: none */
	__u32 sack;
	__u32 odd; /* an option that breaks the list, or MD5 or AO: for somebody who knows more */
};

/* One option; 1 ends the walk. A function of its own for bpf_loop: the verifier would follow an inlined loop option by option. */
static int read_option(__u32 index, struct walk *walk)
{
	__u32 at = walk->next;
	__u8 kind, size;

	if (at >= walk->len || at >= OPTIONS_MAX)
		return 1;
	kind = walk->options[at];
	if (kind == 0)
		return 1;
	if (kind == 1) {
		walk->next = at + 1;
		return 0;
	}
	size = walk->options[at + 1];
	if (size < 2 || at + size > walk->len) {
		walk->odd = 1;
		return 1;
	}
	if (kind == 8 && size == 10) {
		__be32 words[2];

		__builtin_memcpy(words, walk->options + at + 2, 8);
		walk->has_stamps = 1;
		walk->tsval = bpf_ntohl(words[0]);
		walk->tsecr = bpf_ntohl(words[1]);
	} else if (kind == 2 && size == 4) {
		walk->mss = walk->options[at + 2] << 8 | walk->options[at + 3];
	} else if (kind == 3 && size == 3) {
		walk->wscale = walk->options[at + 2];
	} else if (kind == 4 && size == 2) {
		walk->sack = 1;
	} else if (kind == 19 || kind == 29) {
		walk->odd = 1;
	}
	walk->next = at + size;
	return 0;
}

#endif
