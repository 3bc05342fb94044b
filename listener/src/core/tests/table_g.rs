//! Table g: what arrives where nobody listens, and what a listener has no use for.

use super::*;

/// What a row says.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Row {
    /// RST+ACK that acknowledges the segment's end.
    RstAck,
    /// RST at SEG.ACK.
    Rst,
    Handshake,
    Nothing,
}

const URG: u8 = flag::URG;

/// (control bits, octets of data, no listener, LISTEN)
const TABLE: [(u8, u16, Row, Row); 16] = [
    (SYN, 0, Row::RstAck, Row::Handshake),
    (SYN, 10, Row::RstAck, Row::Handshake),
    (SYN | FIN, 0, Row::RstAck, Row::Nothing),
    (SYN | RST, 0, Row::Nothing, Row::Nothing),
    (RST, 0, Row::Nothing, Row::Nothing),
    (RST | ACK, 0, Row::Nothing, Row::Nothing),
    (ACK, 0, Row::Rst, Row::Rst),
    (FIN | ACK, 0, Row::Rst, Row::Rst),
    (PSH | ACK, 7, Row::Rst, Row::Rst),
    (SYN | ACK, 0, Row::Rst, Row::Rst),
    (SYN | FIN | ACK, 0, Row::Rst, Row::Rst),
    (FIN, 0, Row::RstAck, Row::Nothing),
    (PSH, 3, Row::RstAck, Row::Nothing),
    (0, 0, Row::RstAck, Row::Nothing),
    (FIN | PSH | URG, 0, Row::RstAck, Row::Nothing),
    (SYN | PSH | URG, 0, Row::RstAck, Row::Handshake),
];

fn check(world: &mut World, flow: FlowKey, listens: bool) {
    for (port, (bits, len, closed, listen)) in (4000..).zip(TABLE) {
        let flow = FlowKey { sport: TcpPort(port), ..flow };
        let ack = if bits & ACK == 0 { SegSeq(0) } else { SegSeq(0xabcd) };
        let segment = Segment { flow, tos: 0x20, ..data(seg(port, bits, SegSeq(0xffff_fff8), ack), len) };
        let end = SegSeq(0xffff_fff8).plus(segment.seg_len());
        let verdict = world.rcv(segment);
        let what = format!("flags {bits:#x}, {len} octets, listens: {listens}, {verdict:?}");
        let plain = OutSegment { tos: 0x20, ..OutSegment::default() };
        match if listens { listen } else { closed } {
            Row::Nothing => assert!(matches!(verdict, Verdict::Drop(_)), "{what}"),
            Row::Handshake => assert!(
                matches!(verdict, Verdict::Reply(Outcome::SynAck, out) if out.ack == SegSeq(0xffff_fff9)),
                "{what}"
            ),
            Row::Rst => {
                let rst = OutSegment { flags: RST, seq: ack, ..plain };
                assert_eq!(verdict, Verdict::Reply(Outcome::Rst, rst), "{what}");
            }
            Row::RstAck => {
                let rst = OutSegment { flags: RST | ACK, ack: end, ..plain };
                assert_eq!(verdict, Verdict::Reply(Outcome::Rst, rst), "{what}");
            }
        }
    }
}

#[test]
fn every_row_without_a_listener() {
    for flow in [flow(1), flow6(1)] {
        let mut world = World::new();
        check(&mut world, flow, false);
        assert_eq!(world.core.in_use(), (0, 0));
        assert_eq!(world.count(Mib::OutRsts), 13);
    }
}

#[test]
fn every_row_at_a_listener() {
    let mut world = World::new();
    world.listen_backlog(64, Then::Queue);
    check(&mut world, flow(1), true);
    let mut world = World::new();
    world.listen(ListenParams { backlog: Backlog(64), v6_family: true, ..ListenParams::default() });
    check(&mut world, flow6(1), true);
    assert_eq!(world.core.in_use(), (3, 0));
}

#[test]
fn silent_rows_name_their_reason() {
    let mut world = World::new();
    assert_eq!(world.dropped(flags(syn(1), SYN | RST)), DropReason::NoSocketRst);
    world.listen_backlog(4, Then::Queue);
    assert_eq!(world.dropped(flags(syn(1), RST)), DropReason::ListenRst);
    assert_eq!(world.dropped(flags(syn(1), FIN)), DropReason::ListenFlags);
    assert_eq!(world.dropped(flags(syn(1), SYN | FIN)), DropReason::ListenFlags);
}

#[test]
fn rsts_are_limited_when_asked() {
    let mut world = World::new();
    for port in 0..1000 {
        world.reply(syn(port));
    }
    world.core.set_rst_limit(10, 3);
    let sent = |world: &mut World| {
        (0..100).filter(|&port| matches!(world.rcv(syn(port)), Verdict::Reply(Outcome::Rst, _))).count()
    };
    assert_eq!(sent(&mut world), 3);
    assert_eq!(world.dropped(syn(1)), DropReason::RstLimit);
    world.now = world.now + Nanos::from_millis(99);
    assert_eq!(sent(&mut world), 0);
    world.now = world.now + Nanos::from_millis(1);
    assert_eq!(sent(&mut world), 1);
    world.now = world.now + Nanos::from_secs(60);
    assert_eq!(sent(&mut world), 3, "tokens do not pile up");
}

#[test]
fn bad_segments_are_counted() {
    let mut world = World::new();
    world.core.count_bad_segment(true);
    world.core.count_bad_segment(false);
    assert_eq!(world.count(Mib::InSegs), 2);
    assert_eq!(world.counts(), [("InErrs", 2), ("InCsumErrors", 1)]);
}
