//! The control side of captures: one at a time, owned by the client that began it.

use std::sync::Arc;

use super::proto::{self, Captured, CapturedFrame, Refusal};
use super::server::Peer;
use super::service::Desk;
use crate::capture::filter::Filter;
use crate::capture::{Ending, Record, Rings, SNAPLEN_MAX, Session, Tap, Wanted};
use crate::hex;

/// Octets of frames in one reply, so that none keeps the control thread long.
const REPLY_OCTETS: usize = 256 * 1024;

/// The workers' taps, and who has them open.
#[derive(Debug, Default)]
pub struct Captures {
    taps: Vec<Arc<Tap>>,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    client: u64,
    rings: Vec<Rings>,
}

impl Captures {
    /// On these taps, one a worker.
    pub fn new(taps: Vec<Arc<Tap>>) -> Self {
        Self { taps, open: None }
    }

    /// The client is gone, and with it its capture.
    pub fn gone(&mut self, client: u64) {
        if self.open.take_if(|open| open.client == client).is_some() {
            self.taps.iter().for_each(|tap| tap.stop());
        }
    }
}

impl<D> Desk<D> {
    /// Begins a capture for `peer`, or changes the one it has.
    ///
    /// # Errors
    /// Another client has one, or it cannot be understood.
    pub fn capture(&mut self, peer: Peer, wanted: &proto::Capture) -> Result<(), Refusal> {
        if self.captures.open.as_ref().is_some_and(|open| open.client != peer.client) {
            let message = "another client captures; end that one first";
            return Err(Refusal { errno: Some("EBUSY".into()), message: message.into() });
        }
        if !(14..=SNAPLEN_MAX).contains(&wanted.snaplen) || wanted.sample == 0 {
            return Err(Refusal::new(format!(
                "snaplen must be from 14 to {SNAPLEN_MAX}, and sample above 0"
            )));
        }
        let wanted = Wanted {
            filter: Filter::parse(&wanted.filter).map_err(Refusal::new)?,
            verdict: wanted.verdict.parse().map_err(|error: String| Refusal::new(error))?,
            snaplen: wanted.snaplen,
            sample: wanted.sample,
        };
        let begin = |tap: &Arc<Tap>| {
            let (session, rings) = Session::new(wanted.clone());
            tap.start(session);
            rings
        };
        let rings = self.captures.taps.iter().map(begin).collect();
        self.captures.open = Some(Open { client: peer.client, rings });
        Ok(())
    }

    /// What `peer`'s capture has taken since the last time.
    ///
    /// # Errors
    /// It has none.
    pub fn captured(&mut self, peer: Peer) -> Result<Captured, Refusal> {
        let captures = &self.captures;
        let Some(open) = captures.open.as_ref().filter(|open| open.client == peer.client) else {
            return Err(Refusal::new("this client has begun no capture"));
        };
        let mut captured = Captured {
            missed: captures.taps.iter().map(|tap| tap.missed()).sum(),
            workers: u16::try_from(captures.taps.len()).unwrap_or(u16::MAX),
            frames: Vec::new(),
            devices: self.ports.clone(),
        };
        let share = REPLY_OCTETS / open.rings.len().max(1);
        for (core, rings) in (0u16..).zip(&open.rings) {
            let mut octets = 0;
            while octets < share
                && let Some(record) = rings.full.pop()
            {
                octets += record.octets().len() + 64;
                captured.frames.push(self.captured_frame(core, &record));
                // Its place is still there.
                let _ = rings.empty.push(record);
            }
        }
        captured.frames.sort_by_key(|frame| frame.unix_ns);
        Ok(captured)
    }

    fn captured_frame(&self, core: u16, record: &Record) -> CapturedFrame {
        let (verdict, name) = match record.ending {
            Ending::Drop(reason) => ("drop", reason.name()),
            Ending::Reply(outcome) => ("reply", outcome.name()),
            Ending::Consume(outcome) => ("consume", outcome.name()),
        };
        let device = usize::from(record.dev.0).checked_sub(1).and_then(|place| self.ports.get(place));
        CapturedFrame {
            // Workers count Unix time.
            unix_ns: record.at.0,
            device: device.cloned().unwrap_or_default(),
            core,
            len: record.len,
            verdict: verdict.into(),
            name: name.into(),
            octets: hex::encode(record.octets()),
        }
    }
}
