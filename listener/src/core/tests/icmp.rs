//! ICMP errors: `tcp_v4_err`.

use super::*;
use crate::icmp::IcmpError;

fn error(flow: FlowKey, seq: SegSeq, fatal: bool) -> IcmpError {
    IcmpError { flow, dev: DEV, seq, fatal }
}

#[test]
fn only_a_fatal_error_with_the_right_number_ends_a_request() {
    let mut world = World::new();
    let listener = world.listen_backlog(4, Then::Queue);
    let (flow, synack) = (syn(4000).flow, world.reply(syn(4000)));
    for (seq, fatal, verdict, left) in [
        (synack.seq.plus(1), true, Verdict::Drop(DropReason::IcmpOutOfWindow), 1),
        (synack.seq, false, Verdict::Consume(Outcome::Other), 1),
        (synack.seq, true, Verdict::Consume(Outcome::Other), 0),
        (synack.seq, true, Verdict::Drop(DropReason::IcmpNoSocket), 0),
    ] {
        assert_eq!(world.core.icmp_err(&error(flow, seq, fatal), world.now), verdict);
        assert_eq!(world.core.in_use().0, left);
    }
    assert_eq!(world.slot(listener.id).qlen(), 0);
    assert_eq!(world.counts(), [("ListenDrops", 1), ("OutOfWindowIcmps", 1)]);
    assert_eq!(world.core.next_timer(), None);
}

#[test]
fn a_connection_takes_no_notice() {
    let mut world = World::new();
    world.listen_backlog(4, Then::Close);
    let (flow, synack) = (syn(4000).flow, world.connect(4000));
    let fin = synack.seq.plus(1);
    for (seq, verdict) in [
        (fin, Verdict::Consume(Outcome::Other)),
        (fin.plus(1), Verdict::Consume(Outcome::Other)),
        (synack.seq, Verdict::Drop(DropReason::IcmpOutOfWindow)),
        (fin.plus(2), Verdict::Drop(DropReason::IcmpOutOfWindow)),
    ] {
        assert_eq!(world.core.icmp_err(&error(flow, seq, true), world.now), verdict);
        assert_eq!(world.core.in_use(), (0, 1));
    }
}
