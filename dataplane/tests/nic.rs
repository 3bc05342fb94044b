//! hearken on NICs: DPDK's drivers of emulated PCI cards in a virtual machine, with Linux's own TCP on the other end of each wire.
//!
//! `make nic-test` runs it; it prints a table of cards and checks. `nic/image` fetches QEMU and a kernel as packages, and needs
//! the network for that the first time. An emulated card shows that hearken gets along with the driver, not how fast.

#![cfg(feature = "dpdk")]

mod lab;
#[path = "nic/suite.rs"]
mod suite;
#[path = "nic/vm.rs"]
mod vm;

use std::path::Path;

use suite::{Outcome, Suite};
use vm::{Card, Vm};

const HEARKEN: &str = env!("CARGO_BIN_EXE_hearken");

/// With an IOMMU, below vfio-pci.
const WITH_IOMMU: [Card; 3] = [
    Card {
        name: "igb",
        device: "igb",
        driver: "vfio-pci",
        pmd: "net_e1000_igb",
        queues: 2,
        interrupts: true,
        jumbo: true,
    },
    Card {
        name: "virtio",
        device: "virtio-net-pci,mq=on,rss=on,hash=on,host_mtu=9000,iommu_platform=on,disable-legacy=on",
        driver: "vfio-pci",
        pmd: "net_virtio",
        queues: 2,
        interrupts: true,
        jumbo: false,
    },
    Card {
        name: "vmxnet3",
        device: "vmxnet3",
        driver: "vfio-pci",
        pmd: "net_vmxnet3",
        queues: 1,
        interrupts: true,
        jumbo: true,
    },
];

/// Without, below uio_pci_generic.
const WITHOUT_IOMMU: [Card; 3] = [
    Card {
        name: "e1000",
        device: "e1000",
        driver: "uio_pci_generic",
        pmd: "net_e1000_em",
        queues: 1,
        interrupts: true,
        jumbo: true,
    },
    Card {
        name: "e1000e",
        device: "e1000e",
        driver: "uio_pci_generic",
        pmd: "net_e1000_em",
        queues: 1,
        interrupts: true,
        jumbo: true,
    },
    Card {
        name: "vmxnet3",
        device: "vmxnet3",
        driver: "uio_pci_generic",
        pmd: "net_vmxnet3",
        queues: 1,
        interrupts: false,
        jumbo: true,
    },
];

/// All checks of all cards of a machine; a line of each.
fn on(cards: &[Card], iommu: bool) -> Vec<Outcome> {
    let vm = Vm::boot(cards, iommu).expect("a virtual machine");
    println!(
        "booted in {:.1} s, {} an IOMMU",
        vm.booted_in.as_secs_f64(),
        if iommu { "with" } else { "without" }
    );
    let outcomes = (0..cards.len()).flat_map(|card| Suite::new(&vm, cards, card, iommu).run()).collect();
    drop(vm);
    outcomes
}

#[test]
fn every_card_serves() {
    // It fetches packages and takes longer than all else: a step of its own, of CI too.
    if std::env::var_os("HEARKEN_NIC_TEST").is_none() {
        eprintln!("NOT RUN: the cards of a virtual machine; make nic-test");
        return;
    }
    if let Err(error) = vm::image(Path::new(HEARKEN)) {
        println!("NOT RUN: the cards of a virtual machine: {error}");
        // Whoever asks for this test wants it; the whole suite runs without the machine's packages too.
        assert!(std::env::var_os("CI").is_some(), "there is no machine to run it in");
        return;
    }
    let outcomes = [on(&WITH_IOMMU, true), on(&WITHOUT_IOMMU, false)].concat();
    let failed: Vec<&Outcome> = outcomes.iter().filter(|outcome| outcome.result.is_err()).collect();
    for outcome in &failed {
        println!("\n{}: {}", outcome.title(), outcome.result.as_ref().expect_err("it failed"));
    }
    assert!(failed.is_empty(), "{} of {} checks failed", failed.len(), outcomes.len());
}
