//! SYN, SYN-ACK, final ACK: kernel-listen e.2 to e.7.

use super::*;
use crate::types::TcpState;

#[test]
fn three_segments_make_a_child() {
    let mut world = World::new();
    let listener = world.listen_backlog(4, Then::Queue);
    let synack = world.reply(syn(4000));
    let expected = OutSegment {
        flags: SYN | ACK,
        tos: 0,
        wnd: 64_240,
        seq: synack.seq,
        ack: SegSeq(1001),
        options: TcpOptions { mss: 1460, ..TcpOptions::default() },
    };
    assert_eq!(synack, expected);
    assert_eq!((world.slot(listener.id).qlen(), world.core.in_use()), (1, (1, 0)));

    assert_eq!(world.rcv(ack_of(4000, &synack)), Verdict::Consume(Outcome::Accept));
    let slot = world.slot(listener.id);
    assert_eq!((slot.qlen(), slot.young(), slot.ack_backlog()), (0, 0, 1));
    assert_eq!(world.core.in_use(), (0, 1));
    let children = world.accept_all(listener);
    let info = world.shared.child(children[0]).expect("alive");
    assert_eq!((info.flow, info.state), (flow(4000), TcpState::Established));
    assert_eq!(world.counts(), [("PassiveOpens", 1), ("CurrEstab", 1)]);
}
