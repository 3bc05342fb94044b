//! `io::dpdk` on a ring: what is sent on a queue comes back on it.
#![cfg(feature = "dpdk")]

use std::sync::OnceLock;

use dataplane::io::dpdk::DpdkIo;
use dataplane::io::{ALLOC_ROOM, Capabilities, Csum, Frame, PacketIo, RxMeta, TxOffload};
use dpdk::{Eal, Mbuf, Memory, Mempool, NumaNode, PortConfig};

fn ring(name: &str, queues: u16) -> (Vec<DpdkIo>, Mempool) {
    static EAL: OnceLock<Eal> = OnceLock::new();
    let eal = EAL.get_or_init(|| {
        Eal::builder().memory(Memory::NoHuge { mb: 128 }).start().expect("the EAL starts without hugepages")
    });
    let pool = eal.mempool(2047, NumaNode::ANY).expect("it fits");
    let port_id = eal.attach(name).expect("a virtual device")[0];
    let config = PortConfig { queues, ..Default::default() };
    let configured = eal.open(port_id).and_then(|port| port.configure(&config)).expect("it configures");
    let mut started = configured.start(&pool).expect("it starts");
    (DpdkIo::take_all(&mut started, &pool), pool)
}

fn frames(io: &mut DpdkIo, lens: &[usize]) -> Vec<Option<Mbuf>> {
    lens.iter()
        .map(|&len| {
            let mut frame = io.alloc()?;
            assert!(frame.set_len(len), "{len} octets fit");
            frame.bytes_mut().fill(len as u8);
            Some(frame)
        })
        .collect()
}

#[test]
fn each_queue_gets_its_own_frames_back() {
    let (mut ios, pool) = ring("net_ring_io0", 2);
    assert_eq!(ios.len(), 2);
    for (io, lens) in ios.iter_mut().zip([[60, 61, 1514], [64, 65, 66]]) {
        let mut out = frames(io, &lens);
        assert_eq!(io.tx_burst(&mut out).taken(), 3);
        assert!(out.iter().all(Option::is_none));
    }
    for (io, lens) in ios.iter_mut().zip([[60, 61, 1514], [64, 65, 66]]) {
        let mut into: [Option<Mbuf>; 32] = std::array::from_fn(|_| None);
        assert_eq!(io.rx_burst(&mut into), 3);
        for (frame, len) in into.iter().flatten().zip(lens) {
            assert_eq!(frame.bytes(), vec![len as u8; len]);
        }
        assert!(!io.exhausted());
    }
    drop(ios);
    assert_eq!(pool.in_use(), 0);
}

#[test]
fn a_ring_promises_nothing() {
    let (mut ios, _pool) = ring("net_ring_caps0", 1);
    assert_eq!(ios[0].capabilities(), Capabilities::default());
    let mut out = frames(&mut ios[0], &[60]);
    assert_eq!(ios[0].tx_burst(&mut out).taken(), 1);
    assert_eq!(ios[0].rx_burst(&mut out), 1);
    let meta = out[0].as_ref().expect("received").rx_meta();
    assert_eq!(meta, RxMeta { ip_csum: Csum::Unknown, l4_csum: Csum::Unknown, ..Default::default() });
}

#[test]
fn a_fresh_frame_is_empty_and_has_room() {
    let (mut ios, pool) = ring("net_ring_alloc0", 1);
    let mut frame = ios[0].alloc().expect("the pool has one");
    assert!(frame.bytes().is_empty());
    assert!(frame.set_len(ALLOC_ROOM));
    assert!(!frame.set_len(4096), "more than an mbuf holds");
    assert_eq!(frame.bytes().len(), ALLOC_ROOM);
    drop(frame);
    let all: Vec<Mbuf> = std::iter::from_fn(|| ios[0].alloc()).collect();
    assert_eq!((all.len(), pool.available()), (2047, 0), "and then there is none");
}

#[test]
fn what_is_asked_of_the_device_is_on_the_mbuf() {
    let (mut ios, _pool) = ring("net_ring_ask0", 1);
    let mut frame = ios[0].alloc().expect("the pool has one");
    frame.set_tx_offload(TxOffload {
        ip_csum: true,
        tcp_csum: true,
        l2_len: 14,
        l3_len: 20,
        vlan_tci: Some(5),
        ..Default::default()
    });
    let asked = frame.ol_flags();
    assert_eq!(asked.count_ones(), 4, "IP checksum, TCP checksum, IPv4, VLAN: {asked:#x}");
    frame.set_tx_offload(TxOffload {
        tcp_csum: true,
        ipv6: true,
        l2_len: 14,
        l3_len: 40,
        ..Default::default()
    });
    assert_eq!((frame.ol_flags() & !asked).count_ones(), 1, "IPv6 in place of IPv4");
    frame.set_tx_offload(TxOffload::default());
    assert_eq!(frame.ol_flags(), 0);
}
