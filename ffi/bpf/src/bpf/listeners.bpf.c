// SPDX-License-Identifier: MIT OR GPL-2.0
/*
 * The kernel's own listeners: an iterator that lists them, and a tracepoint that tells when one comes or goes.
 */
#include "kernel.h"
#include <bpf/bpf_tracing.h>

/* One listener, in the order of `read_row` in listeners.rs. All numbers in host order but the address. */
struct row {
	__u8 addr[16];
	__u64 inode; /* of its socket; 0: the socket is being closed */
	__u32 bound_dev;
	__u32 uid;
	__u32 ack_backlog;
	__u32 max_ack_backlog;
	__u16 port;
	__u8 family;
	__u8 v6only;
	__u8 reuseport;
	__u8 left; /* enum left */
	__u8 pad[2];
};

struct seq_file;

struct bpf_iter_meta {
	struct seq_file *seq;
} CORE;

struct bpf_iter__tcp {
	struct bpf_iter_meta *meta;
	struct sock_common *sk_common;
	__u32 uid;
} CORE;

SEC("iter/tcp")
int hearken_listeners(struct bpf_iter__tcp *ctx)
{
	struct sock_common *skc = ctx->sk_common;
	struct row row = {};
	struct tcp_sock *tp;
	struct sock *sk;

	if (!skc || skc->skc_state != BPF_TCP_LISTEN)
		return 0;
	tp = bpf_skc_to_tcp_sock(skc);
	if (!tp)
		return 0;
	sk = &tp->inet_conn.icsk_inet.sk;
	row.family = skc->skc_family;
	row.port = skc->skc_num;
	if (row.family == AF_INET6) {
		BPF_CORE_READ_INTO(&row.addr, skc, skc_v6_rcv_saddr);
	} else {
		__be32 addr = skc->skc_rcv_saddr;

		row.addr[10] = row.addr[11] = 0xff;
		__builtin_memcpy(row.addr + 12, &addr, 4);
	}
	row.v6only = BPF_CORE_READ_BITFIELD(skc, skc_ipv6only);
	row.reuseport = BPF_CORE_READ_BITFIELD(skc, skc_reuseport);
	row.bound_dev = skc->skc_bound_dev_if;
	row.uid = ctx->uid;
	row.ack_backlog = sk->sk_ack_backlog;
	row.max_ack_backlog = sk->sk_max_ack_backlog;
	row.left = left_to_kernel(tp);
	if (sk->sk_socket) {
		struct socket_alloc *alloc =
			(void *)sk->sk_socket - bpf_core_field_offset(struct socket_alloc, socket);

		row.inode = BPF_CORE_READ(alloc, vfs_inode.i_ino);
	}
	bpf_seq_write(ctx->meta->seq, &row, sizeof(row));
	return 0;
}

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} changes SEC(".maps");

/*
 * One note is enough, however many listeners change before it is read: a full ring already says that something did. So
 * nothing is lost by a note that finds no room.
 */
SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(hearken_changes, const struct sock *sk, const int old, const int new)
{
	__u32 note = 1;

	if (old == BPF_TCP_LISTEN || new == BPF_TCP_LISTEN)
		bpf_ringbuf_output(&changes, &note, sizeof(note), 0);
	return 0;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
