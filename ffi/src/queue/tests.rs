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

#[test]
fn slots_past_the_count_are_forgotten_not_freed() {
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
    assert_eq!(tx.tx_burst(&mut slots), 5);
    assert_eq!(pool.in_use(), 4 + 5);
    assert_eq!(rx.rx_burst(&mut slots), 5);
    assert!(slots[..5].iter().all(Option::is_some), "what was received is there");
    assert!(slots[5..].iter().all(Option::is_none), "what was not is not");
    assert_eq!(pool.in_use(), 4 + 5, "nothing of the ring was freed");
    slots.fill_with(|| None);
    assert_eq!(rx.rx_burst(&mut slots), 0, "an idle turn scribbles on all slots");
    assert!(slots.iter().all(Option::is_none));
    assert_eq!(pool.in_use(), 4, "the ring still owns its four");

    drop((rx, tx, started));
    for mbuf in ring.0 {
        // SAFETY: allocated above, never handed out, freed once.
        unsafe { sys::shim_rte_pktmbuf_free(mbuf) };
    }
    assert_eq!(pool.in_use(), 0);
}
