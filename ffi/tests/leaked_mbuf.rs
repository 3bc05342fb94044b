//! An mbuf that outlives every handle stays valid: the EAL then is left running. One EAL a process, so a
//! test binary of its own.

use dpdk::{Eal, Memory, NumaNode};

#[test]
fn an_mbuf_in_hand_keeps_its_memory() {
    let eal = Eal::builder().memory(Memory::NoHuge { mb: 64 }).start().expect("it starts");
    let pool = eal.mempool(255, NumaNode::ANY).expect("a small pool");
    let mut mbuf = pool.alloc().expect("the pool has one");
    drop(pool);
    let refused = eal.stop().expect_err("an mbuf is out");
    assert!(refused.to_string().contains("1 mbufs are still out"), "{refused}");
    assert!(mbuf.copy_from(&[7; 64]));
    assert_eq!(mbuf.data(), [7; 64]);
}
