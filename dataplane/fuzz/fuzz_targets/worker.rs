//! A whole worker. The input is a list of steps: two octets of length, one of [`step`] bits, a frame of that length.
#![no_main]

use dataplane::clock::VirtualClock;
use dataplane::io::mem::{Mem, MemConfig};
use dataplane::io::{Csum, Frame, RxMeta};
use dataplane::worker::{Port, Worker, WorkerConfig};
use libfuzzer_sys::fuzz_target;
use listener::limits::Limits;
use listener::segment::flag;
use listener::sysctl::Sysctl;
use listener::types::{CoreId, Then};

#[path = "../../tests/common/mod.rs"]
mod common;

mod step {
    /// The device says that the checksums are good.
    pub const GOOD: u8 = 1;
    /// The octets of an IPv4 segment's acknowledgement are those that the last SYN-ACK asks for.
    pub const ACK: u8 = 2;
    /// A second passes first.
    pub const SECOND: u8 = 4;
    /// A minute passes first.
    pub const MINUTE: u8 = 8;
    /// One connection is accepted and closed first.
    pub const ACCEPT: u8 = 16;
    /// The worker does not turn behind it, so that the next frame is in the same burst.
    pub const BURST: u8 = 32;
}

const BUFFERS: usize = 96;
const LIMITS: Limits = Limits { listeners_max: 16, requests_per_core: 64, connections_per_core: 64 };

fuzz_target!(|input: &[u8]| {
    let (stack, core) = common::stack(Sysctl::default(), LIMITS);
    let queue = common::listen(&stack, common::QUEUE, 4, Then::Queue);
    common::listen(&stack, common::DISCARD, 4, Then::Discard);
    common::listen(&stack, common::CLOSE, 4, Then::Close);
    common::listen(&stack, common::RESET, 4, Then::Reset);
    let (io, wire) = Mem::new(MemConfig { ring: 32, buffers: BUFFERS, ..MemConfig::default() });
    let ports = vec![Port::new(io, common::DEV, common::local(), false)];
    let mut worker = Worker::new(WorkerConfig::new(CoreId(0)), core, ports);
    let stats = worker.stats();
    let mut clock = VirtualClock::default();
    let (mut rest, mut sent, mut wanted) = (input, 0, [0; 4]);

    while let Some(([hi, lo, bits], behind)) = rest.split_first_chunk() {
        let len = usize::from(u16::from_be_bytes([*hi, *lo])).min(behind.len());
        let (bytes, behind) = behind.split_at(len);
        rest = behind;
        if bits & step::SECOND != 0 {
            clock.advance(1_000_000_000);
        }
        if bits & step::MINUTE != 0 {
            clock.advance(60_000_000_000);
        }
        if bits & step::ACCEPT != 0
            && let Ok(accepted) = stack.accept(queue)
        {
            stack.close(accepted.fd, false).expect("it was just opened");
        }
        let mut bytes = bytes.to_vec();
        if let (true, Some(ack)) = (bits & step::ACK != 0, bytes.get_mut(42..46)) {
            ack.copy_from_slice(&wanted);
        }
        let word = if bits & step::GOOD != 0 { Csum::Good } else { Csum::Unknown };
        let meta = RxMeta { ip_csum: word, l4_csum: word, ..RxMeta::default() };
        sent += u64::from(wire.send_with(&bytes, meta));
        if bits & step::BURST == 0 {
            while worker.poll(&mut clock) > 0 {}
        }
        while let Some(frame) = wire.recv() {
            let bytes = frame.bytes();
            assert_eq!(bytes[6..12], common::OUR_MAC);
            etherparse::SlicedPacket::from_ethernet(bytes).expect("answers are whole");
            let syn_ack = bytes.len() >= 54 && bytes[47] == flag::SYN | flag::ACK;
            if bytes[12..14] == [8, 0] && syn_ack {
                let seq = u32::from_be_bytes([bytes[38], bytes[39], bytes[40], bytes[41]]);
                wanted = seq.wrapping_add(1).to_be_bytes();
            }
        }
    }
    while worker.poll(&mut clock) > 0 {}
    while wire.recv().is_some() {}
    let counters = stats.snapshot();
    assert_eq!(counters.rx_frames, sent);
    assert_eq!(counters.rx_frames, counters.handled() + counters.dropped());
    worker.finish();
    while wire.recv().is_some() {}
    assert_eq!(wire.free_buffers(), BUFFERS, "a buffer is lost");
});
