//! Segments that came to another core than their flow's.
//!
//! A device spreads frames as it likes: what steers a flow's segments to one core today may steer them to another after
//! a failover, or when fragments, tunnels or a rule come in between. Entries are per core, so the final ACK, the data or
//! the RST of a flow may meet a core that does not know it.
//!
//! # Protocol
//! A core that hands off does not answer such a segment but says [`DropReason::HandoffFull`], which is what becomes of the
//! segment unless somebody takes it: the worker gives it to the next core ([`Core::rcv_handed_over`]), that one to the
//! next, and the last one that is asked says what a single core would have said. So no core needs to know how a device
//! spreads frames, and nothing is shared but the rings. SYNs are answered where they are: they open flows, and no
//! flood of them crosses cores.
//!
//! # Departure
//! A repeated SYN at another core than the first makes a second request with another ISN. The ACK of either SYN-ACK finds
//! its request; the other one times out.

use super::{Core, What, count_out};
use crate::drop_reason::DropReason;
use crate::segment::{Segment, Verdict, flag};
use crate::tcp_ipv4;
use crate::types::Nanos;

/// What a core says of a segment that another one may know.
pub(crate) const STRAY: Verdict = Verdict::Drop(DropReason::HandoffFull);

impl super::Flows {
    /// True if another core may know the flow of a segment that this one does not.
    #[inline]
    pub fn is_stray(&self, seg: &Segment) -> bool {
        self.hands_off && !seg.has(flag::SYN) && seg.flags & (flag::RST | flag::ACK) != 0
    }
}

impl Core {
    /// Whether segments of unknown flows are said to be strays instead of being answered; off to start with. For cores
    /// whose worker can ask others.
    pub fn set_hand_off(&mut self, on: bool) {
        self.flows.hands_off = on;
    }

    /// A stray of another core; with `last`, nobody else is left to be asked. What came in was counted where it came in,
    /// and a cookie in it was looked for there.
    pub fn rcv_handed_over(&mut self, seg: &Segment, last: bool, now: Nanos) -> Verdict {
        let Self { env, flows, .. } = self;
        let hash = flows.table.hash(&seg.flow);
        let mut verdict = STRAY;
        match flows.table.lookup(hash, &seg.flow, seg.dev) {
            Some(id) => {
                let what = What::Flow { id, generation: flows.table.head(id).generation };
                let hands_off = std::mem::replace(&mut flows.hands_off, !last);
                let found = super::Found { burst: 0, hash, what };
                tcp_ipv4::tcp_v4_rcv(env, flows, seg, found, now, &mut verdict);
                flows.hands_off = hands_off;
            }
            None if last => tcp_ipv4::unknown(flows, seg, now, &mut verdict),
            None => {}
        }
        if let Verdict::Reply(_, segment) = &verdict {
            count_out(self.env.snmp(), segment);
        }
        verdict
    }
}
