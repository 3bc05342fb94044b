//! Ports, queues, pools and mbufs on DPDK's virtual devices.

mod common;

use std::thread;
use std::time::Duration;

use common::{eal, frame, no_slots, open, pool, start};
use dpdk::{Eal, Mbuf, NumaNode, PortConfig, TxRequest};

#[test]
fn frames_go_round_a_ring_and_are_counted() {
    let pool = pool(1023);
    let mut started = start("net_ring_round0", &PortConfig::default(), &pool);
    let (mut rx, mut tx) = (started.rx.remove(0), started.tx.remove(0));
    let before = pool.in_use();
    let mut slots: [Option<Mbuf>; 8] = no_slots();
    for (index, slot) in slots.iter_mut().take(5).enumerate() {
        *slot = Some(frame(&pool, &[index as u8; 60]));
    }
    assert_eq!(tx.tx_burst(&mut slots).done, 5, "the burst ends at the first empty slot");
    assert!(slots.iter().all(Option::is_none), "what was taken is gone from the slots");
    assert_eq!(rx.rx_burst(&mut slots), 5);
    for (index, slot) in slots.iter().take(5).enumerate() {
        let mbuf = slot.as_ref().expect("a prefix is filled");
        assert_eq!(mbuf.data(), [index as u8; 60]);
        assert!(mbuf.is_contiguous() && mbuf.pkt_len() == 60);
    }
    assert!(slots[5..].iter().all(Option::is_none));
    drop(slots);
    assert_eq!(pool.in_use(), before, "no mbuf is lost and none is freed twice");

    let counters = started.counters().expect("net_ring counts");
    assert_eq!((counters.ipackets, counters.opackets), (5, 5));
    let xcounters = started.xcounters().expect("every driver has the generic ones");
    assert!(xcounters.contains(&("rx_good_packets".to_owned(), 5)), "{xcounters:?}");
}

#[test]
fn what_a_full_ring_refuses_stays_with_the_caller() {
    let pool = pool(4095);
    let mut started = start("net_ring_full0", &PortConfig::default(), &pool);
    let mut tx = started.tx.remove(0);
    let mut sent = 0;
    let (last, left) = loop {
        let mut slots: [Option<Mbuf>; 64] = no_slots();
        assert!(pool.alloc_bulk(&mut slots), "the pool is larger than the ring");
        let taken = tx.tx_burst(&mut slots).done;
        sent += taken as u32;
        if taken < slots.len() {
            break (taken, slots);
        }
    };
    assert!(left[..last].iter().all(Option::is_none) && left[last..].iter().all(Option::is_some));
    assert_eq!(pool.in_use(), sent + (64 - last) as u32);
    drop(left);
    assert_eq!(pool.in_use(), sent);

    let mut rx = started.rx.remove(0);
    loop {
        let mut slots: [Option<Mbuf>; 32] = no_slots();
        if rx.rx_burst(&mut slots) == 0 {
            break;
        }
    }
    assert_eq!(pool.in_use(), 0, "all came back");
}

#[test]
fn null_device_fills_bursts_and_swallows_them() {
    let pool = pool(1023);
    let mut started = start("net_null_burst0,size=100", &PortConfig::default(), &pool);
    let (mut rx, mut tx) = (started.rx.remove(0), started.tx.remove(0));
    for _ in 0..100 {
        let mut slots: [Option<Mbuf>; 32] = no_slots();
        assert_eq!(rx.rx_burst(&mut slots), 32);
        assert!(slots.iter().flatten().all(|mbuf| mbuf.len() == 100));
        assert_eq!(tx.tx_burst(&mut slots).done, 32);
    }
    assert_eq!(pool.in_use(), 0);
    assert_eq!(started.counters().expect("net_null counts").opackets, 3200);
}

#[test]
fn an_empty_pool_gives_nothing_and_recovers() {
    let pool = pool(63);
    let mut all: Vec<Option<Mbuf>> = (0..63).map(|_| None).collect();
    assert!(pool.alloc_bulk(&mut all));
    assert!(pool.alloc().is_none());
    assert!(!pool.alloc_bulk(&mut [None]));
    all.pop();
    assert!(pool.alloc().is_some());
    drop(all);
    assert_eq!((pool.in_use(), pool.available()), (0, 63));
}

#[test]
fn mbuf_lengths_keep_to_the_buffer() {
    let pool = pool(63);
    let mut mbuf = pool.alloc().expect("the pool has one");
    assert!(mbuf.is_empty());
    assert_eq!(mbuf.tailroom(), usize::from(pool.data_room()));
    assert!(!mbuf.set_len(2049), "one more than there is room for");
    assert_eq!(mbuf.len(), 0, "a refusal changes nothing");
    assert!(mbuf.set_len(2048));
    assert_eq!((mbuf.tailroom(), mbuf.pkt_len()), (0, 2048));
    assert!(mbuf.copy_from(b"0123456789"));
    let headroom = mbuf.headroom();
    assert!(!mbuf.prepend(headroom + 1));
    assert!(mbuf.prepend(4));
    mbuf.data_mut()[..4].copy_from_slice(b"abcd");
    assert_eq!(mbuf.data(), b"abcd0123456789");
    assert!(!mbuf.trim_front(15));
    assert!(mbuf.trim_front(6));
    assert_eq!((mbuf.data(), mbuf.headroom()), (&b"23456789"[..], headroom + 2));
}

#[test]
fn a_frame_is_rewritten_where_there_is_room() {
    let pool = pool(63);
    let mut mbuf = frame(&pool, &[7; 60]);
    assert!(mbuf.rewrite::<64>(65, TxRequest::default()).is_none(), "longer than what is written");
    assert!(mbuf.set_len(2048) && mbuf.trim_front(2048 - 63));
    assert!(mbuf.room::<64>().is_none() && mbuf.rewrite::<64>(58, TxRequest::default()).is_none());
    assert_eq!(mbuf.len(), 63, "a refusal changes nothing");
    let mut mbuf = frame(&pool, &[7; 60]);
    assert!(mbuf.is_unmarked());
    mbuf.rewrite::<64>(54, TxRequest { tcp_checksum: true, ..TxRequest::default() })
        .expect("room")
        .copy_from_slice(&[9; 64]);
    assert_eq!((mbuf.data(), mbuf.pkt_len()), (&[9; 54][..], 54));
    assert_ne!(mbuf.ol_flags() & dpdk_sys::SHIM_MBUF_F_TX_TCP_CKSUM, 0);
    assert_eq!(mbuf.room::<64>(), Some(&[9; 64]));
}

#[test]
fn frames_are_given_back_together() {
    let pool = pool(63);
    let mut slots: [Option<Mbuf>; 8] = no_slots();
    for slot in slots.iter_mut().step_by(2) {
        *slot = Some(frame(&pool, &[1; 60]));
    }
    assert_eq!(pool.in_use(), 4);
    Mbuf::free(&mut slots);
    assert!(slots.iter().all(Option::is_none));
    assert_eq!((pool.in_use(), pool.available()), (0, 63));
}

#[test]
fn a_request_replaces_all_marks_of_arrival() {
    let pool = pool(63);
    let mut mbuf = frame(&pool, &[0; 60]);
    assert_eq!(mbuf.ol_flags(), 0);
    mbuf.request_tx(TxRequest {
        l2_len: 14,
        l3_len: 20,
        ipv4_checksum: true,
        tcp_checksum: true,
        vlan_tci: Some(7),
        ..Default::default()
    });
    let wanted = dpdk_sys::SHIM_MBUF_F_TX_IP_CKSUM
        | dpdk_sys::SHIM_MBUF_F_TX_TCP_CKSUM
        | dpdk_sys::SHIM_MBUF_F_TX_IPV4
        | dpdk_sys::SHIM_MBUF_F_TX_VLAN;
    assert_eq!(mbuf.ol_flags(), wanted);
    mbuf.request_tx(TxRequest::default());
    assert_eq!(mbuf.ol_flags(), 0);
}

#[test]
fn too_many_queues_are_clamped_and_told() {
    let pool = pool(1023);
    let config = PortConfig { queues: 64, ..Default::default() };
    let configured = open("net_ring_queues0").configure(&config).expect("clamped, not refused");
    assert_eq!(configured.config().queues, 16);
    assert!(configured.clamps().iter().any(|c| c.contains("64 queue pairs")), "{:?}", configured.clamps());
    let started = configured.start(&pool).expect("it starts");
    assert_eq!((started.rx.len(), started.tx.len()), (16, 16));
}

#[test]
fn a_device_without_rss_goes_without() {
    let pool = pool(1023);
    let config = PortConfig { queues: 2, ..Default::default() };
    let started = start("net_ring_rss0", &config, &pool);
    assert!(!started.offloads().rss && started.reta().is_empty() && started.rss().is_none());
    assert!(started.clamps().iter().any(|c| c.contains("no RSS")), "{:?}", started.clamps());
    assert!(started.clamps().iter().any(|c| c.contains("TCP transmit checksum")), "{:?}", started.clamps());
}

#[test]
fn the_reta_is_read_back() {
    let pool = pool(1023);
    let config = PortConfig { queues: 2, ..Default::default() };
    let started = start("net_null_rss0", &config, &pool);
    assert!(started.offloads().rss, "net_null lists RSS");
    let info = eal().port_info(started.id()).expect("it is open");
    assert_eq!(started.reta().len(), usize::from(info.capabilities.reta_size));
    assert!(started.reta().iter().all(|queue_id| queue_id.0 < 2), "{:?}", started.reta());
    // net_null takes any key and keeps its own, of which older releases do not tell.
    let rss = started.rss().expect("it runs");
    assert_eq!(rss.key.len(), usize::from(info.capabilities.rss_key_len));
    assert!(!rss.symmetric || !rss.key.is_empty(), "what is not told is not claimed: {rss:?}");
}

#[test]
fn port_facts() {
    let pool = pool(1023);
    let started = start("net_null_facts0", &PortConfig::default(), &pool);
    let info = eal().port_info(started.id()).expect("it is open");
    assert_eq!((info.name.as_str(), info.driver.as_str()), ("net_null_facts0", "net_null"));
    assert_eq!(eal().port_by_name("net_null_facts0").ok(), Some(started.id()));
    assert!(eal().ports().contains(&started.id()));
    assert!(started.wait_for_link(Duration::from_secs(1)).expect("it has a link").up);
    assert_eq!(started.mtu().ok(), Some(1500));
    assert_eq!(started.mac().expect("it has one").to_string().len(), 17);
}

#[test]
fn a_port_has_one_owner_and_its_name_is_free_afterwards() {
    let port = open("net_null_owner0");
    let refused = eal().open(port.id()).expect_err("taken");
    assert!(refused.to_string().contains("net_null_owner0"), "{refused}");
    drop(port);
    assert!(eal().port_by_name("net_null_owner0").is_err(), "closed with its owner");
    drop(open("net_null_owner0"));
}

#[test]
fn a_queue_keeps_its_port_running() {
    let pool = pool(1023);
    let mut started = start("net_null_last0", &PortConfig::default(), &pool);
    let mut rx = started.rx.remove(0);
    drop(started);
    let mut slots: [Option<Mbuf>; 4] = no_slots();
    assert_eq!(rx.rx_burst(&mut slots), 4);
    drop(rx);
    assert!(eal().port_by_name("net_null_last0").is_err(), "closed after its last queue");
}

#[test]
fn an_unknown_device_is_named() {
    let error = eal().attach("net_nosuch0,queues=4").expect_err("there is no such driver");
    assert_eq!(error.subject(), "net_nosuch0,queues=4");
    assert!(error.to_string().contains("net_nosuch0,queues=4"), "{error}");
    assert!(!error.hints().is_empty(), "DPDK's own words come along: {error:?}");
    let error = eal().port_by_name("net_nosuch0").expect_err("there is no such port");
    assert!(error.to_string().contains("ports there are"), "{error}");
    assert!(eal().attach("nul\0byte").is_err());
}

#[test]
fn a_second_start_is_refused() {
    eal();
    let error = Eal::builder().start().expect_err("once per process");
    assert_eq!((error.call, error.errno), ("rte_eal_init", 114));
    assert!(error.to_string().contains("once per process"), "{error}");
}

#[test]
fn a_pool_that_does_not_fit_says_so() {
    let error = eal().mempool(1 << 20, dpdk::NumaNode::ANY).expect_err("2.4 GB in 256 MB");
    // ENOMEM, or ENOBUFS if the pools of other tests have left pieces that hold some.
    assert!(error.to_string().contains("1048576 mbufs") && [12, 105].contains(&error.errno), "{error}");
}

#[test]
fn registered_threads_have_ids_of_their_own() {
    let pool = pool(2047);
    let id = |_| {
        let lcore = eal().register_thread().expect("ids are left");
        drop(pool.alloc().expect("the pool has one"));
        let again = eal().register_thread().expect("a known thread stays known");
        assert_eq!(lcore.id(), again.id());
        drop(again);
        thread::sleep(Duration::from_millis(100));
        lcore.id()
    };
    let (first, second) = thread::scope(|scope| {
        let (a, b) = (scope.spawn(|| id(0)), scope.spawn(|| id(1)));
        (a.join().expect("no panic"), b.join().expect("no panic"))
    });
    assert_ne!(first, second);
    assert_eq!(pool.in_use(), 0, "what was in their caches counts as available");
}

#[test]
fn the_clock_runs() {
    eal();
    let start = dpdk::rdtsc();
    thread::sleep(Duration::from_millis(20));
    let ms = (dpdk::rdtsc() - start) * 1000 / dpdk::tsc_hz();
    assert!((15..5000).contains(&ms), "{ms} ms");
    assert!(dpdk::version().starts_with("DPDK "), "{}", dpdk::version());
}

#[test]
fn a_ring_pair_joins_two_ports_crosswise_queue_by_queue() {
    let pool = pool(1023);
    let ids = eal().ring_pair("pair", 2, 256, NumaNode::ANY).expect("net_ring is built in");
    let config = PortConfig { queues: 2, ..PortConfig::default() };
    let [mut a, mut b] = ids.map(|id| {
        let port = eal().open(id).expect("free");
        port.configure(&config).expect("two queues").start(&pool).expect("it starts")
    });
    for queue in 0..2 {
        let mut slots: [Option<Mbuf>; 4] = no_slots();
        slots[0] = Some(frame(&pool, &[queue as u8; 60]));
        assert_eq!(a.tx[queue].tx_burst(&mut slots[..1]).done, 1);
        assert_eq!(a.rx[queue].rx_burst(&mut slots), 0, "a port does not hear itself");
        assert_eq!(b.rx[1 - queue].rx_burst(&mut slots), 0, "queues do not mix");
        assert_eq!(b.rx[queue].rx_burst(&mut slots), 1);
        assert_eq!(slots[0].as_ref().map(|mbuf| mbuf.data()[0]), Some(queue as u8));
        assert_eq!(b.tx[queue].tx_burst(&mut slots[..1]).done, 1);
        assert_eq!(a.rx[queue].rx_burst(&mut slots), 1);
    }
    let error = eal().ring_pair("pair", 1, 256, NumaNode::ANY).expect_err("the name is taken");
    assert_eq!(error.errno, 17, "{error}");
    let error = eal().ring_pair("odd", 1, 100, NumaNode::ANY).expect_err("no power of two");
    assert_eq!(error.errno, 22, "{error}");
}

#[test]
fn a_time_stamp_is_read_where_drivers_leave_it() {
    let pool = pool(63);
    let field = eal().rx_timestamp_field().expect("an mbuf has room");
    assert_eq!(eal().rx_timestamp_field().ok(), Some(field), "one for all");
    let mut mbuf = frame(&pool, &[1; 60]);
    assert_eq!(mbuf.rx_timestamp(field), None);
    mbuf.set_rx_timestamp(field, u64::MAX - 1);
    assert_eq!(mbuf.rx_timestamp(field), Some(u64::MAX - 1));
    assert_eq!(mbuf.data(), [1; 60], "and nothing else has changed");
    mbuf.request_tx(TxRequest::default());
    assert_eq!(mbuf.rx_timestamp(field), None, "an answer has no time of arrival");
    // The member is the pool's memory: the next user of the mbuf starts without.
    drop(mbuf);
    let all: Vec<Mbuf> = std::iter::from_fn(|| pool.alloc()).collect();
    assert!(all.len() == 63 && all.iter().all(|mbuf| mbuf.rx_timestamp(field).is_none()));
}

#[test]
fn a_device_without_a_clock_says_so() {
    const ENOTSUP: i32 = 95;
    let pool = pool(1023);
    let config = PortConfig { rx_timestamp: true, ..Default::default() };
    let started = start("net_ring_clock0", &config, &pool);
    assert!(!started.offloads().rx_timestamp);
    assert_eq!(started.read_clock().expect_err("a ring has none").errno, ENOTSUP);
    assert_eq!(started.timesync_read_time().expect_err("a ring has none").errno, ENOTSUP);
}
