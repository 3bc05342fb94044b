/* The static inlines and thread-local variables of DPDK as functions that Rust can call. */
#define _GNU_SOURCE
#include "bindings.h"

#include <errno.h>
#include <linux/if_packet.h>
#include <linux/if_xdp.h>
#include <sys/socket.h>

#ifndef SOL_XDP
#define SOL_XDP 283
#endif

/* Installed only where the driver was built. */
#if __has_include(<rte_eth_ring.h>)
#include <rte_eth_ring.h>
#define HAS_ETH_RING
#endif

uint16_t shim_rte_eth_rx_burst(uint16_t port_id, uint16_t queue_id, struct rte_mbuf **pkts, uint16_t room)
{
	return rte_eth_rx_burst(port_id, queue_id, pkts, room);
}

uint16_t shim_rte_eth_tx_burst(uint16_t port_id, uint16_t queue_id, struct rte_mbuf **pkts, uint16_t count)
{
	return rte_eth_tx_burst(port_id, queue_id, pkts, count);
}

/* For tests: the virtual devices prepare nothing, so that one which rejects has to be put in their place. */
void shim_set_tx_pkt_prepare(uint16_t port_id, eth_tx_prep_t prepare)
{
	rte_eth_fp_ops[port_id].tx_pkt_prepare = prepare;
}

uint16_t shim_rte_eth_tx_prepare(uint16_t port_id, uint16_t queue_id, struct rte_mbuf **pkts, uint16_t count)
{
	return rte_eth_tx_prepare(port_id, queue_id, pkts, count);
}

struct rte_mbuf *shim_rte_pktmbuf_alloc(struct rte_mempool *pool)
{
	return rte_pktmbuf_alloc(pool);
}

int shim_rte_pktmbuf_alloc_bulk(struct rte_mempool *pool, struct rte_mbuf **pkts, unsigned int count)
{
	return rte_pktmbuf_alloc_bulk(pool, pkts, count);
}

void shim_rte_pktmbuf_free(struct rte_mbuf *mbuf)
{
	rte_pktmbuf_free(mbuf);
}

uint16_t shim_rte_pktmbuf_data_room_size(struct rte_mempool *pool)
{
	return rte_pktmbuf_data_room_size(pool);
}

int shim_rte_errno(void)
{
	return rte_errno;
}

unsigned int shim_rte_lcore_id(void)
{
	return rte_lcore_id();
}

uint64_t shim_rte_rdtsc(void)
{
	return rte_rdtsc();
}

/* The link's bit-fields became a union in later releases. */
int shim_rte_eth_link_get_nowait(uint16_t port_id, struct shim_link *link)
{
	struct rte_eth_link now = {0};
	int rc = rte_eth_link_get_nowait(port_id, &now);

	link->speed_mbps = now.link_speed;
	link->up = now.link_status == RTE_ETH_LINK_UP;
	link->full_duplex = now.link_duplex == RTE_ETH_LINK_FULL_DUPLEX;
	return rc;
}

/*
 * Frames that the kernel lost because the ring of a socket was full: of a packet socket those since it was asked last, of
 * an XDP socket all. -ENOTSOCK and the like: it is neither.
 */
int shim_socket_losses(int fd, uint64_t *lost, int *since_last)
{
	int domain = 0;
	socklen_t len = sizeof(domain);

	if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) < 0)
		return -errno;
	if (domain == AF_PACKET) {
		struct tpacket_stats stats = {0};

		len = sizeof(stats);
		if (getsockopt(fd, SOL_PACKET, PACKET_STATISTICS, &stats, &len) < 0)
			return -errno;
		*lost = stats.tp_drops;
		*since_last = 1;
		return 0;
	}
	if (domain == AF_XDP) {
		struct xdp_statistics stats = {0};

		len = sizeof(stats);
		if (getsockopt(fd, SOL_XDP, XDP_STATISTICS, &stats, &len) < 0)
			return -errno;
		/* Kernels before 5.9 say less, and leave it 0. */
		*lost = stats.rx_ring_full;
		*since_last = 0;
		return 0;
	}
	return -EPROTONOSUPPORT;
}

int shim_rte_eth_from_rings(const char *name, struct rte_ring *rx[], struct rte_ring *tx[],
			    unsigned int queues, unsigned int numa_node)
{
#ifdef HAS_ETH_RING
	return rte_eth_from_rings(name, rx, queues, tx, queues, numa_node);
#else
	(void)name, (void)rx, (void)tx, (void)queues, (void)numa_node;
	rte_errno = ENOTSUP;
	return -1;
#endif
}

/* The name of this function changed in 23.03; the old one went in a later release. */
int shim_rte_tel_data_add_dict_uint(struct rte_tel_data *data, const char *name, uint64_t value)
{
#if RTE_VERSION >= RTE_VERSION_NUM(23, 3, 0, 0)
	return rte_tel_data_add_dict_uint(data, name, value);
#else
	return rte_tel_data_add_dict_u64(data, name, value);
#endif
}

/* The callback came in 23.03. */
#if RTE_VERSION >= RTE_VERSION_NUM(23, 3, 0, 0)
static shim_lcore_usage_cb lcore_usage;

static int ask_lcore_usage(unsigned int lcore_id, struct rte_lcore_usage *usage)
{
	return lcore_usage(lcore_id, &usage->total_cycles, &usage->busy_cycles);
}

int shim_rte_lcore_register_usage_cb(shim_lcore_usage_cb cb)
{
	lcore_usage = cb;
	rte_lcore_register_usage_cb(ask_lcore_usage);
	return 0;
}
#else
int shim_rte_lcore_register_usage_cb(shim_lcore_usage_cb cb)
{
	(void)cb;
	return -ENOTSUP;
}
#endif
