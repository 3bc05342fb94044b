//! The end of the EAL: refused while anything of it is alive, then once and for all. One test: the order is
//! the point, and a process has one EAL.

use dpdk::{Eal, Memory, NumaNode};

#[test]
fn stop_waits_for_every_handle_and_every_mbuf() {
    let eal = Eal::builder().memory(Memory::NoHuge { mb: 64 }).start().expect("it starts");
    let pool = eal.mempool(255, NumaNode::ANY).expect("a small pool");
    let refused = eal.clone().stop().expect_err("the pool and a clone are alive");
    assert!(refused.to_string().contains("2 other handles"), "{refused}");
    drop(pool);
    eal.stop().expect("nothing is left");
    let refused = Eal::builder().start().expect_err("no second life");
    assert_eq!(refused.errno, 114);
}
