//! One frame through the stages that need no TCP. The first octet says what the device said about it; the rest is the
//! frame. Whatever is answered must be a whole frame from us.
#![no_main]

use dataplane::burst::{BURST_MAX, Fate, Head, Lanes, Plain};
use dataplane::io::mem::{Mem, MemConfig};
use dataplane::io::{Csum, Frame, PacketIo, RxMeta};
use dataplane::stage::{self, parse::Columns};
use libfuzzer_sys::fuzz_target;
use listener::segment::Segment;
use listener::vector::Vectors;

#[path = "../../tests/common/mod.rs"]
mod common;

fn word(bits: u8) -> Csum {
    [Csum::Unknown, Csum::Good, Csum::Bad, Csum::None][usize::from(bits & 3)]
}

fuzz_target!(|input: &[u8]| {
    let Some((&said, bytes)) = input.split_first() else { return };
    let vlan_tci = (said & 0x10 != 0).then_some(5);
    let chained = said & 0x20 != 0;
    let meta = RxMeta { ip_csum: word(said), l4_csum: word(said >> 2), vlan_tci, chained };
    let (mut io, peer) = Mem::new(MemConfig { ring: 1, buffers: 1, ..MemConfig::default() });
    if !peer.send_with(bytes, meta) {
        return;
    }
    let mut frames = [None];
    assert_eq!(io.rx_burst(&mut frames), 1);
    let local = common::local();
    let (mut heads, mut segs) = ([Head::default(); BURST_MAX], [Segment::default(); BURST_MAX]);
    let (mut fates, mut lanes) = ([Fate::Pending; BURST_MAX], Lanes::EMPTY);
    let mut plain = Box::new(Plain::EMPTY);
    let columns = Columns {
        heads: &mut heads,
        plain: &mut plain,
        segs: &mut segs,
        fates: &mut fates,
        lanes: &mut lanes,
    };
    stage::parse(&frames, Vectors::best(), &local, common::DEV, columns);
    let dropped = matches!(fates[0], Fate::Drop(_));
    let lanes_of = [&lanes.arp, &lanes.ndp, &lanes.echo, &lanes.tcp];
    let on: usize = lanes_of.iter().map(|lane| lane.iter().count()).sum();
    assert_eq!(on, usize::from(!dropped), "a frame is on one lane or dropped");
    stage::neighbour(&mut frames, &heads, &mut fates, &lanes, &local);
    stage::echo(&mut frames, &heads, &mut fates, &lanes, &local);
    if let (Fate::Ready(_), Some(frame)) = (fates[0], &frames[0]) {
        assert_eq!(frame.bytes()[6..12], common::OUR_MAC);
        etherparse::SlicedPacket::from_ethernet(frame.bytes()).expect("answers are whole");
    }
});
