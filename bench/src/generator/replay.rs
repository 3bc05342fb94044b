//! Frames of a capture file as a stream: sent over and over in their order, their answers found by addresses and ports.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, ensure};
use dataplane::io::{Csum, RxMeta};
use dataplane::wire::ether::MacAddr;
use listener::segment::flag;
use listener::types::InetAddr;

use super::answer::{Heard, hear};
use super::neighbour;
use super::space::Acked;
use super::targets::{Expect, Target};
use super::template::{Ends, Offer};
use crate::pcap;

/// What is said of a SYN: that its checksums are somebody else's affair.
const UNCHECKED: RxMeta = RxMeta { ip_csum: Csum::Good, l4_csum: Csum::Good, vlan_tci: None, chained: false };

/// A SYN of the file.
#[derive(Clone, Copy, Debug)]
struct Syn {
    ends: Ends,
    isn: u32,
    offer: Offer,
    tsval: u32,
}

/// The frames of a file.
#[derive(Debug)]
pub struct Replay {
    frames: Vec<Vec<u8>>,
    /// Of those that are SYNs, what is needed to judge an answer.
    syns: Vec<Option<Syn>>,
    /// Our end and the server's end → the SYN.
    places: HashMap<(InetAddr, u16, InetAddr, u16), usize>,
}

impl Replay {
    /// Reads `file`; its frames go to `dst` if there is one, else where they say.
    ///
    /// # Errors
    /// What the file system says, or that it holds no frame.
    pub fn read(file: &Path, dst: Option<MacAddr>) -> anyhow::Result<Self> {
        let mut frames = pcap::read(file)?;
        frames.retain(|frame| frame.len() >= 14);
        ensure!(!frames.is_empty(), "{} holds no frame", file.display());
        if let Some(mac) = dst {
            frames.iter_mut().for_each(|frame| frame[..6].copy_from_slice(&mac.0));
        }
        let syns: Vec<Option<Syn>> = frames.iter().map(|frame| syn(frame)).collect();
        let mut places = HashMap::new();
        for (place, syn) in syns.iter().enumerate() {
            if let Some(Syn { ends: Ends { src, dst }, .. }) = syn {
                places.insert((src.0, src.1, dst.0, dst.1), place);
            }
        }
        Ok(Self { frames, syns, places })
    }

    /// The destination address of the first SYN, to ask for its MAC address; and its source.
    ///
    /// # Errors
    /// There is none.
    pub fn first(&self) -> anyhow::Result<(InetAddr, InetAddr)> {
        let first = self.syns.iter().flatten().next().context("the file holds no SYN")?;
        Ok((first.ends.dst.0, first.ends.src.0))
    }

    /// Different sources.
    pub fn sources(&self) -> u64 {
        self.places.len() as u64
    }

    /// Frames.
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// Never: a file without frames is none.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    fn place(&self, flow: u64) -> usize {
        (flow % self.frames.len() as u64) as usize
    }

    /// The frame of `flow`.
    #[inline]
    pub fn frame(&self, flow: u64) -> &[u8] {
        &self.frames[self.place(flow)]
    }

    /// True if it is a SYN.
    #[inline]
    pub fn is_syn(&self, flow: u64) -> bool {
        self.syns[self.place(flow)].is_some()
    }

    /// True if `addr` is the source of some SYN.
    pub fn owns(&self, heard: &Heard) -> bool {
        self.places.contains_key(&key(heard))
    }

    /// The last flow below `limit` that `heard` answers.
    pub fn acked(&self, heard: &Heard, limit: u64) -> Option<Acked> {
        let place = *self.places.get(&key(heard))?;
        let syn = self.syns[place]?;
        let frames = self.frames.len() as u64;
        let rounds = limit.checked_sub(place as u64 + 1)? / frames;
        Some(Acked { flow: rounds * frames + place as u64, octets: heard.ack.wrapping_sub(syn.isn) })
    }

    /// Both ends of `flow`; what it meets is not known.
    pub fn ends(&self, flow: u64) -> Option<(Ends, Target)> {
        let ends = self.syns[self.place(flow)]?.ends;
        Some((ends, Target { addr: ends.dst.0, port: ends.dst.1, expect: Expect::Any }))
    }

    /// What the SYN of `flow` offers, and its time stamp.
    pub fn offer(&self, flow: u64) -> Option<(Offer, u32)> {
        self.syns[self.place(flow)].map(|syn| (syn.offer, syn.tsval))
    }
}

fn key(heard: &Heard) -> (InetAddr, u16, InetAddr, u16) {
    (heard.dst.0, heard.dst.1, heard.src.0, heard.src.1)
}

fn syn(frame: &[u8]) -> Option<Syn> {
    let heard = hear(frame, neighbour::packet(frame)?, UNCHECKED)?;
    let options = heard.options;
    let offer = Offer {
        mss: (options.mss != 0).then_some(options.mss),
        wscale: options.wscale,
        sack: options.sack_perm,
        timestamps: options.timestamps.is_some(),
    };
    let tsval = options.timestamps.map_or(0, |(val, _)| val);
    let ends = Ends { src: heard.src, dst: heard.dst };
    (heard.kind() == flag::SYN && heard.whole).then_some(Syn { ends, isn: heard.seq, offer, tsval })
}
