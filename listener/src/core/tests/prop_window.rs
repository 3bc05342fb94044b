//! Sequence space and window against a model in plain integers: no wrapping, no modulus.

use super::*;
use crate::types::TcpState;
use proptest::prelude::*;

/// What a segment does to a connection whose RCV.NXT is 0 and whose window is `wnd`.
#[derive(Debug, PartialEq)]
struct Expected {
    /// RCV.NXT afterwards.
    rcv_nxt: i64,
    answered: bool,
    fin: bool,
}

/// RFC 9293 §3.10.7.4 for a receiver that keeps nothing out of order.
fn model(at: i64, len: i64, fin: bool, wnd: i64) -> Expected {
    let end = at + len + i64::from(fin);
    let nothing = Expected { rcv_nxt: 0, answered: true, fin: false };
    if end < 0 || at > wnd || at > 0 || end <= 0 {
        // Out of window, out of order, or all of it known; but an empty segment in the window needs no answer.
        let empty_inside = at == end && (0..=wnd).contains(&at);
        return Expected { answered: !empty_inside, ..nothing };
    }
    Expected { rcv_nxt: end, answered: true, fin }
}

proptest! {
    #[test]
    fn data_in_order_is_taken_and_nothing_else(
        rcv_nxt: u32,
        at in prop_oneof![-80_000i64..150_000, -1500i64..1500, -2i64..=2, 64_230i64..64_250],
        len in prop_oneof![Just(0i64), 1i64..=1460],
        fin: bool,
    ) {
        let mut world = World::new();
        world.listen_backlog(4, Then::Discard);
        let next = world.connect(4000).seq.plus(1);
        world.core.flows.table.conns.entry_mut(0).body.rcv_nxt = SegSeq(rcv_nxt);
        let bits = if fin { FIN | ACK } else { ACK };
        let verdict = world.rcv(data(seg(4000, bits, SegSeq(rcv_nxt).plus(at as u32), next), len as u16));
        let conn = world.core.flows.table.conns.entry(0).body;
        let seen = Expected {
            rcv_nxt: i64::from(conn.rcv_nxt.distance_from(SegSeq(rcv_nxt)) as i32),
            answered: matches!(verdict, Verdict::Reply(..)),
            fin: conn.state == TcpState::LastAck,
        };
        prop_assert_eq!(&seen, &model(at, len, fin, 64_240));
        if let Verdict::Reply(_, out) = verdict {
            prop_assert_eq!(out.ack, conn.rcv_nxt);
            prop_assert_eq!(out.flags & FIN != 0, seen.fin);
        }
    }

    /// Only the exact number resets; inside the window it is challenged, outside ignored (RFC 5961 §3.2).
    #[test]
    fn a_reset_must_be_exact(rcv_nxt: u32, at in prop_oneof![-70_000i64..140_000, -2i64..=2, 64_238i64..=64_242]) {
        let mut world = World::new();
        world.listen_backlog(4, Then::Discard);
        world.connect(4000);
        world.core.flows.table.conns.entry_mut(0).body.rcv_nxt = SegSeq(rcv_nxt);
        let verdict = world.rcv(seg(4000, RST, SegSeq(rcv_nxt).plus(at as u32), SegSeq(0)));
        let challenged = matches!(verdict, Verdict::Reply(Outcome::Other, out) if out.flags == ACK);
        prop_assert_eq!(world.core.in_use().1 == 0, at == 0);
        prop_assert_eq!(challenged, at != 0 && (0..=64_240).contains(&at));
    }

    /// Of all acknowledgements only that of our FIN moves LAST-ACK on.
    #[test]
    fn only_our_fins_number_ends_last_ack(iss: u32, ack in prop_oneof![-5i64..5, -100_000i64..100_000]) {
        let mut world = World::new();
        world.listen_backlog(4, Then::Discard);
        let next = world.connect(4000).seq.plus(1);
        world.reply(seg(4000, FIN | ACK, SegSeq(1001), next));
        let conn = &mut world.core.flows.table.conns.entry_mut(0).body;
        conn.snd_start = SegSeq(iss);
        world.rcv(seg(4000, ACK, SegSeq(1002), SegSeq(iss).plus(ack as u32)));
        prop_assert_eq!(world.core.in_use().1 == 0, ack == 1);
    }
}
