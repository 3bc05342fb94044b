//! The short way of a RST that ends a half-open request: as a row of columns.

use super::Core;
use crate::columns::{Answers, Columns, rows};
use crate::core::What;
use crate::ehash::Kind;
use crate::limits::BURST_MAX;
use crate::snmp::Mib;
use crate::tcp_minisocks::reqsk_queue_drop_from;
use crate::types::{Nanos, SegSeq};

impl Core {
    /// Takes the rows `set`, which are RSTs without options, data or other flags, in order, up to the first that only
    /// [`Core::rcv`] can take. Returns those that ended a request, each as [`Core::rcv`] would have, and adds them to
    /// [`Answers::ended`].
    ///
    /// # Source
    /// Linux v6.18 `tcp_check_req`: what of it is left for such a segment, whose number is exactly the next one.
    #[inline(never)]
    pub fn end_requests(&mut self, columns: &Columns, set: u64, now: Nanos, answers: &mut Answers) -> u64 {
        let Self { env, flows, columns: own, .. } = self;
        let mut ended = 0u64;
        for row in rows(set) {
            let What::Flow { id, generation } = own.flow[row % BURST_MAX] else { break };
            let Kind::Request(index) = id.kind() else { break };
            if own.known >> row & 1 == 0 || !flows.table.is_current(id, generation) {
                break;
            }
            let request = &flows.table.requests.entry(index).body;
            if SegSeq(columns.seq[row]) != request.irs.plus(1) {
                break;
            }
            let Some(slot) = env.listening(request.listener) else { break };
            reqsk_queue_drop_from(env, flows, Some(slot), index, now);
            ended |= 1 << row;
        }
        let count = u64::from(ended.count_ones());
        if count != 0 {
            let snmp = env.snmp();
            snmp.add(Mib::InSegs, count);
            snmp.add(Mib::AttemptFails, count);
            snmp.add(Mib::EmbryonicRsts, count);
        }
        answers.ended |= ended;
        ended
    }
}
