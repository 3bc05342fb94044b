// SPDX-License-Identifier: MIT OR GPL-2.0
/* Programs for measurements on a veth: what the wire itself costs. */
#include "kernel.h"

/* Frames that were dropped here. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} met SEC(".maps");

static __always_inline void count(void)
{
	__u32 zero = 0;
	__u64 *number = bpf_map_lookup_elem(&met, &zero);

	if (number)
		*number += 1;
}

SEC("xdp")
int hearken_drop(struct xdp_md *ctx)
{
	count();
	return XDP_DROP;
}

SEC("xdp")
int hearken_pass(struct xdp_md *ctx)
{
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
