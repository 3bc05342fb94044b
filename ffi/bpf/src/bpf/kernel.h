/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/*
 * The few fields of kernel structures that the programs read. CO-RE finds each field by its name in the running kernel's
 * BTF, so neither order nor size matters here, and no generated vmlinux.h is needed.
 */
#ifndef HEARKEN_KERNEL_H
#define HEARKEN_KERNEL_H

#include <linux/bpf.h>
#include <linux/types.h>
#include <stdbool.h>

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>

#define CORE __attribute__((preserve_access_index))

struct inode {
	unsigned long i_ino;
} CORE;

struct socket {
	short type;
} CORE;

struct socket_alloc {
	struct socket socket;
	struct inode vfs_inode;
} CORE;

struct in6_addr {
	union {
		__u8 u6_addr8[16];
	} in6_u;
} CORE;

struct sock_common {
	__be32 skc_rcv_saddr;
	__u16 skc_num;
	unsigned short skc_family;
	volatile unsigned char skc_state;
	unsigned char skc_reuseport : 1;
	unsigned char skc_ipv6only : 1;
	int skc_bound_dev_if;
	struct in6_addr skc_v6_rcv_saddr;
} CORE;

struct sock {
	struct sock_common __sk_common;
	__u32 sk_ack_backlog;
	__u32 sk_max_ack_backlog;
	struct socket *sk_socket;
} CORE;

struct inet_sock {
	struct sock sk;
} CORE;

struct fastopen_queue {
	int max_qlen;
} CORE;

struct request_sock_queue {
	struct fastopen_queue fastopenq;
} CORE;

struct inet_connection_sock {
	struct inet_sock icsk_inet;
	struct request_sock_queue icsk_accept_queue;
} CORE;

struct tcp_sock {
	struct inet_connection_sock inet_conn;
	bool is_mptcp;
	void *md5sig_info;
	void *ao_info;
} CORE;

enum {
	AF_INET = 2,
	AF_INET6 = 10,
};

/* What a listener has that a cookie of ours cannot carry: its SYNs are left to the kernel. */
enum left {
	LEFT_MPTCP = 1,
	LEFT_MD5 = 2,
	LEFT_AO = 4,
	LEFT_FASTOPEN = 8,
};

static __always_inline __u32 left_to_kernel(struct tcp_sock *tp)
{
	__u32 left = 0;

	if (bpf_core_field_exists(tp->is_mptcp) && tp->is_mptcp)
		left |= LEFT_MPTCP;
	if (bpf_core_field_exists(tp->md5sig_info) && tp->md5sig_info)
		left |= LEFT_MD5;
	if (bpf_core_field_exists(tp->ao_info) && tp->ao_info)
		left |= LEFT_AO;
	if (tp->inet_conn.icsk_accept_queue.fastopenq.max_qlen)
		left |= LEFT_FASTOPEN;
	return left;
}

/* An address in the form that both families share: IPv4 as ::ffff:a.b.c.d. In network byte order. */
struct addr {
	__be32 words[4];
};

/* An address and port that hearken answers SYNs for. The address is all zero (IPv6) or ::ffff:0.0.0.0 for "any". */
struct endpoint {
	struct addr addr;
	__u16 port; /* host order */
	__u16 pad;
};

#define V4_MAPPED bpf_htonl(0xffff)

#endif
