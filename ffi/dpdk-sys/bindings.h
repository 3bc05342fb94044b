/* What bindgen reads: the headers, the prototypes of shim.c, and constants that a macro hides from bindgen. */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <rte_config.h>
#include <rte_cycles.h>
#include <rte_dev.h>
#include <rte_eal.h>
#include <rte_epoll.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_hash.h>
#include <rte_lcore.h>
#include <rte_log.h>
#include <rte_mbuf.h>
#include <rte_mbuf_dyn.h>
#include <rte_mempool.h>
#include <rte_ring.h>
#include <rte_telemetry.h>
#include <rte_version.h>

/* The anonymous unions of rte_mbuf move between releases, the members' names do not. */
enum shim_mbuf_offset {
	SHIM_MBUF_BUF_ADDR = offsetof(struct rte_mbuf, buf_addr),
	SHIM_MBUF_DATA_OFF = offsetof(struct rte_mbuf, data_off),
	SHIM_MBUF_NB_SEGS = offsetof(struct rte_mbuf, nb_segs),
	SHIM_MBUF_PORT = offsetof(struct rte_mbuf, port),
	SHIM_MBUF_OL_FLAGS = offsetof(struct rte_mbuf, ol_flags),
	SHIM_MBUF_PKT_LEN = offsetof(struct rte_mbuf, pkt_len),
	SHIM_MBUF_DATA_LEN = offsetof(struct rte_mbuf, data_len),
	SHIM_MBUF_VLAN_TCI = offsetof(struct rte_mbuf, vlan_tci),
	SHIM_MBUF_RSS = offsetof(struct rte_mbuf, hash.rss),
	SHIM_MBUF_BUF_LEN = offsetof(struct rte_mbuf, buf_len),
	SHIM_MBUF_TX_OFFLOAD = offsetof(struct rte_mbuf, tx_offload),
};

#define SHIM_CONST(name) static const uint64_t SHIM_##name = RTE_##name
SHIM_CONST(ETH_RX_OFFLOAD_VLAN_STRIP);
SHIM_CONST(ETH_RX_OFFLOAD_IPV4_CKSUM);
SHIM_CONST(ETH_RX_OFFLOAD_TCP_CKSUM);
SHIM_CONST(ETH_RX_OFFLOAD_SCATTER);
SHIM_CONST(ETH_RX_OFFLOAD_RSS_HASH);
SHIM_CONST(ETH_RX_OFFLOAD_TIMESTAMP);
SHIM_CONST(ETH_TX_OFFLOAD_VLAN_INSERT);
SHIM_CONST(ETH_TX_OFFLOAD_IPV4_CKSUM);
SHIM_CONST(ETH_TX_OFFLOAD_TCP_CKSUM);
SHIM_CONST(ETH_TX_OFFLOAD_MULTI_SEGS);
SHIM_CONST(ETH_RSS_IP);
SHIM_CONST(ETH_RSS_TCP);
SHIM_CONST(MBUF_F_RX_VLAN);
SHIM_CONST(MBUF_F_RX_VLAN_STRIPPED);
SHIM_CONST(MBUF_F_RX_RSS_HASH);
SHIM_CONST(MBUF_F_RX_IP_CKSUM_MASK);
SHIM_CONST(MBUF_F_RX_IP_CKSUM_UNKNOWN);
SHIM_CONST(MBUF_F_RX_IP_CKSUM_BAD);
SHIM_CONST(MBUF_F_RX_IP_CKSUM_GOOD);
SHIM_CONST(MBUF_F_RX_IP_CKSUM_NONE);
SHIM_CONST(MBUF_F_RX_L4_CKSUM_MASK);
SHIM_CONST(MBUF_F_RX_L4_CKSUM_UNKNOWN);
SHIM_CONST(MBUF_F_RX_L4_CKSUM_BAD);
SHIM_CONST(MBUF_F_RX_L4_CKSUM_GOOD);
SHIM_CONST(MBUF_F_RX_L4_CKSUM_NONE);
SHIM_CONST(MBUF_F_INDIRECT);
SHIM_CONST(MBUF_F_EXTERNAL);
SHIM_CONST(MBUF_F_TX_VLAN);
SHIM_CONST(MBUF_F_TX_IP_CKSUM);
SHIM_CONST(MBUF_F_TX_IPV4);
SHIM_CONST(MBUF_F_TX_IPV6);
SHIM_CONST(MBUF_F_TX_TCP_CKSUM);
#undef SHIM_CONST

struct shim_link {
	uint32_t speed_mbps;
	uint8_t up;
	uint8_t full_duplex;
};

uint16_t shim_rte_eth_rx_burst(uint16_t port_id, uint16_t queue_id, struct rte_mbuf **pkts, uint16_t room);
uint16_t shim_rte_eth_tx_burst(uint16_t port_id, uint16_t queue_id, struct rte_mbuf **pkts, uint16_t count);
void shim_set_tx_pkt_prepare(uint16_t port_id, uint16_t (*prepare)(void *txq, struct rte_mbuf **pkts, uint16_t count));
uint16_t shim_rte_eth_tx_prepare(uint16_t port_id, uint16_t queue_id, struct rte_mbuf **pkts, uint16_t count);
struct rte_mbuf *shim_rte_pktmbuf_alloc(struct rte_mempool *pool);
int shim_rte_pktmbuf_alloc_bulk(struct rte_mempool *pool, struct rte_mbuf **pkts, unsigned int count);
void shim_rte_pktmbuf_free(struct rte_mbuf *mbuf);
uint16_t shim_rte_pktmbuf_data_room_size(struct rte_mempool *pool);
int shim_rte_errno(void);
unsigned int shim_rte_lcore_id(void);
uint64_t shim_rte_rdtsc(void);
int shim_rte_eth_link_get_nowait(uint16_t port_id, struct shim_link *link);
int shim_socket_losses(int fd, uint64_t *lost, int *since_last);
int shim_rte_tel_data_add_dict_uint(struct rte_tel_data *data, const char *name, uint64_t value);
typedef int (*shim_lcore_usage_cb)(unsigned int lcore_id, uint64_t *total_cycles, uint64_t *busy_cycles);
int shim_rte_lcore_register_usage_cb(shim_lcore_usage_cb cb);
int shim_rte_eth_from_rings(const char *name, struct rte_ring *rx[], struct rte_ring *tx[],
			    unsigned int queues, unsigned int numa_node);
