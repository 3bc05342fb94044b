//! The trap of the vector drivers, on a real port, a real pool, and `rte_eth_rx_burst` itself.

use std::ffi::c_void;

use super::*;
use crate::{Eal, Memory, NumaNode, PortConfig};

/// The mbufs that "still belong to the NIC's ring".
struct NicRing([*mut sys::rte_mbuf; 4]);

/// Does what a vector driver does: leaves pointers of the ring behind the count.
unsafe extern "C" fn scribble(
    _port_id: u16,
    _queue_id: u16,
    pkts: *mut *mut sys::rte_mbuf,
    count: u16,
    room: u16,
    ring: *mut c_void,
) -> u16 {
    // SAFETY: `ring` is the test's, which outlives the port; DPDK passes `room` slots.
    unsafe {
        let ring = &*ring.cast::<NicRing>();
        for index in count..room {
            *pkts.add(usize::from(index)) = ring.0[usize::from(index) % ring.0.len()];
        }
    }
    count
}

/// A driver that stops in front of a frame of odd length, as ixgbe's and virtio's do in front of one that they cannot send.
unsafe extern "C" fn rejects_odd(_txq: *mut c_void, pkts: *mut *mut sys::rte_mbuf, count: u16) -> u16 {
    let odd = |index: &u16| {
        // SAFETY: bounds: DPDK passes `count` frames; `Mbuf` is a pointer to one, and is not dropped here.
        let mbuf = unsafe { &*pkts.add(usize::from(*index)).cast::<Mbuf>() };
        mbuf.data().len() % 2 == 1
    };
    (0..count).find(odd).unwrap_or(count)
}

/// What a queue does of 12 frames, the last of which is not there, of the given lengths; and the lengths that came through.
fn rejected(
    pool: &crate::Mempool,
    (rx, tx): (&mut RxQueue, &mut TxQueue),
    lens: &[usize],
) -> (TxBurst, Vec<usize>) {
    tx.prepare = true;
    let mut slots: [Option<Mbuf>; 16] = std::array::from_fn(|slot| {
        let mut mbuf = lens.get(slot).map(|_| pool.alloc().expect("a buffer"))?;
        assert!(mbuf.set_len(lens[slot]));
        Some(mbuf)
    });
    let burst = tx.tx_burst(&mut slots);
    assert!(slots[..burst.done].iter().all(Option::is_none), "what it is done with is gone");
    slots.fill_with(|| None);
    let received = rx.rx_burst(&mut slots);
    (burst, slots[..received].iter().flatten().map(|mbuf| mbuf.data().len()).collect())
}

#[test]
fn slots_past_the_count_are_forgotten_and_rejected_frames_are_freed() {
    let eal = Eal::builder().memory(Memory::NoHuge { mb: 64 }).start().expect("one EAL in this binary");
    let pool = eal.mempool(255, NumaNode::ANY).expect("a small pool");
    let port_id = eal.attach("net_ring0").expect("a virtual device")[0];
    let configured = eal.open(port_id).and_then(|port| port.configure(&PortConfig::default()));
    let mut started = configured.and_then(|port| port.start(&pool)).expect("it starts");
    let (mut rx, mut tx) = (started.rx.remove(0), started.tx.remove(0));

    // SAFETY: an alloc from a pool that lives; the four are freed below.
    let mut ring = NicRing(std::array::from_fn(|_| unsafe { sys::shim_rte_pktmbuf_alloc(pool.as_ptr()) }));
    assert!(ring.0.iter().all(|mbuf| !mbuf.is_null()));
    // SAFETY: `scribble` keeps to rte_rx_callback_fn's contract; `ring` outlives the queue.
    let callback =
        unsafe { sys::rte_eth_add_rx_callback(port_id.0, 0, Some(scribble), (&raw mut ring).cast()) };
    assert!(!callback.is_null());

    let mut slots: [Option<Mbuf>; 32] = std::array::from_fn(|_| None);
    for slot in &mut slots[..5] {
        *slot = pool.alloc();
    }
    assert_eq!(tx.tx_burst(&mut slots), TxBurst { done: 5, rejected: 0 });
    assert_eq!(pool.in_use(), 4 + 5);
    assert_eq!(rx.rx_burst(&mut slots), 5);
    assert!(slots[..5].iter().all(Option::is_some), "what was received is there");
    assert!(slots[5..].iter().all(Option::is_none), "what was not is not");
    assert_eq!(pool.in_use(), 4 + 5, "nothing of the ring was freed");
    slots.fill_with(|| None);
    assert_eq!(rx.rx_burst(&mut slots), 0, "an idle turn scribbles on all slots");
    assert!(slots.iter().all(Option::is_none));
    assert_eq!(pool.in_use(), 4, "the ring still owns its four");

    // SAFETY: a driver's callback of the right type; nobody else sends on the port.
    unsafe { sys::shim_set_tx_pkt_prepare(port_id.0, Some(rejects_odd)) };
    let queues = (&mut rx, &mut tx);
    let (burst, through) = rejected(&pool, queues, &[60, 61, 62, 63, 65, 64, 67]);
    assert_eq!((burst, through), (TxBurst { done: 7, rejected: 0b101_1010 }, vec![60, 62, 64]));
    let (burst, through) = rejected(&pool, (&mut rx, &mut tx), &[61]);
    assert_eq!((burst, through), (TxBurst { done: 1, rejected: 1 }, vec![]));
    let (burst, through) = rejected(&pool, (&mut rx, &mut tx), &[]);
    assert_eq!((burst, through), (TxBurst { done: 0, rejected: 0 }, vec![]));
    assert_eq!(pool.in_use(), 4, "what was rejected is freed");

    drop((rx, tx, started));
    for mbuf in ring.0 {
        // SAFETY: allocated above, never handed out, freed once.
        unsafe { sys::shim_rte_pktmbuf_free(mbuf) };
    }
    assert_eq!(pool.in_use(), 0);
}
