//! ICMP errors about segments of ours.
//!
//! # Departures from the kernel
//! On a connection an error changes nothing: it is not remembered for when our FIN times out, takes back no timeout, and
//! lowers no MSS, as no data is sent. An error counts at the core where it comes in, which need not be its flow's.

use crate::core::{Core, Env, Flows};
use crate::drop_reason::DropReason;
use crate::ehash::Kind;
use crate::segment::{FlowKey, Outcome, Verdict};
use crate::snmp::Mib;
use crate::tcp_minisocks::reqsk_queue_drop;
use crate::types::{DevIndex, Nanos, SegSeq};

/// What an ICMP error says of the segment that it quotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IcmpError {
    /// The flow of the segment; `saddr` is the peer, which it was sent to.
    pub flow: FlowKey,
    /// Where the error came in.
    pub dev: DevIndex,
    /// The segment's number.
    pub seq: SegSeq,
    /// It ends a half-open handshake: the peer cannot be reached, or wants nothing of this.
    pub fatal: bool,
}

impl Core {
    /// Hears of an error. It must quote a number that is out: whoever cannot see the flow does not know one.
    pub fn icmp_err(&mut self, error: &IcmpError, now: Nanos) -> Verdict {
        let (env, flows) = self.halves();
        tcp_v4_err(env, flows, error, now)
    }
}

/// # Source
/// Linux v6.18 `tcp_v4_err`, `tcp_v6_err`, `tcp_req_err`.
#[cold]
fn tcp_v4_err(env: &Env, flows: &mut Flows, error: &IcmpError, now: Nanos) -> Verdict {
    let hash = flows.table.hash(&error.flow);
    let Some(id) = flows.table.lookup(hash, &error.flow, error.dev) else {
        return Verdict::Drop(DropReason::IcmpNoSocket);
    };
    let sent = match id.kind() {
        Kind::Request(index) => flows.table.requests.entry(index).body.iss == error.seq,
        Kind::Conn(index) => {
            let conn = &flows.table.conns.entry(index).body;
            let out = !error.seq.before(conn.snd_una()) && !error.seq.after(conn.snd_nxt());
            // Time-wait entries are not asked.
            out || conn.is_time_wait()
        }
    };
    if !sent {
        env.snmp().inc(Mib::OutOfWindowIcmps);
        return Verdict::Drop(DropReason::IcmpOutOfWindow);
    }
    if let Kind::Request(index) = id.kind()
        && error.fatal
    {
        reqsk_queue_drop(env, flows, index, now);
        env.snmp().inc(Mib::ListenDrops);
    }
    Verdict::Consume(Outcome::Other)
}
