//! One EAL per test process: ordinary pages, no PCI, no files.
#![allow(dead_code, reason = "each test binary uses its own part")]

use std::sync::OnceLock;

use dpdk::{Eal, Mbuf, Memory, Mempool, NumaNode, Port, PortConfig, Started};

pub fn eal() -> &'static Eal {
    static EAL: OnceLock<Eal> = OnceLock::new();
    EAL.get_or_init(|| {
        Eal::builder().memory(Memory::NoHuge { mb: 256 }).start().expect("the EAL starts without hugepages")
    })
}

pub fn pool(mbufs: u32) -> Mempool {
    eal().mempool(mbufs, NumaNode::ANY).expect("256 MB hold a few small pools")
}

pub fn open(device: &str) -> Port {
    let ports = eal().attach(device).expect("the device attaches");
    assert_eq!(ports.len(), 1, "{device}");
    eal().open(ports[0]).expect("nobody else has it")
}

pub fn start(device: &str, config: &PortConfig, pool: &Mempool) -> Started {
    open(device).configure(config).expect("it configures").start(pool).expect("it starts")
}

pub fn frame(pool: &Mempool, bytes: &[u8]) -> Mbuf {
    let mut mbuf = pool.alloc().expect("the pool has one");
    assert!(mbuf.copy_from(bytes));
    mbuf
}

pub fn no_slots<const N: usize>() -> [Option<Mbuf>; N] {
    std::array::from_fn(|_| None)
}
