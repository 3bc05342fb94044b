//! Frames of a capture file as a stream: sent over and over in their order, their answers found by addresses, ports and
//! sequence number.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use anyhow::ensure;
use dataplane::io::{Csum, RxMeta};
use dataplane::savefile::{Record, Retarget, Savefile};
use dataplane::wire::ether::{HEADER_LEN, MacAddr};
use listener::segment::flag;
use listener::types::InetAddr;

use super::answer::{Heard, hear};
use super::neighbour;
use super::space::Acked;
use super::targets::{Expect, Target};
use super::template::{Ends, Offer};

/// No device has checked what stands in a file.
const UNCHECKED: RxMeta =
    RxMeta { ip_csum: Csum::Unknown, l4_csum: Csum::Unknown, vlan_tci: None, chained: false };

/// A SYN of the file.
#[derive(Clone, Copy, Debug)]
struct Syn {
    ends: Ends,
    isn: u32,
    /// Sequence numbers that it takes.
    seq_len: u32,
    offer: Offer,
    tsval: u32,
    /// Its first frame.
    frame: usize,
}

/// The frames of a file that can be sent, and why others cannot.
#[derive(Clone, Debug, Default)]
pub struct Frames {
    frames: Vec<Vec<u8>>,
    /// Numbers in the file.
    numbers: Vec<u64>,
    /// How many are left out, and the number of the first one and why.
    left_out: u64,
    first_left_out: Option<(u64, String)>,
    /// Frames that the capture cut, filled up again.
    filled: u64,
    /// Why the file was not read to its end.
    ended: Option<String>,
}

impl Frames {
    /// Reads `file`, its packets sent to `to` if that says anything.
    ///
    /// # Errors
    /// It cannot be read, or nothing of it can be sent.
    pub fn read(file: &Path, to: &Retarget) -> anyhow::Result<Self> {
        let mut all = Self::default();
        for record in Savefile::open(file)? {
            match record {
                Ok(Record::Packet(mut packet)) => match to.apply(&mut packet.frame) {
                    Ok(()) if packet.frame.len() < HEADER_LEN => {
                        let why = format!("has {} octets, and a header has {HEADER_LEN}", packet.frame.len());
                        all.leave_out(packet.number, &why);
                    }
                    Ok(()) => {
                        all.filled += u64::from(packet.kept < packet.frame.len());
                        all.frames.push(packet.frame);
                        all.numbers.push(packet.number);
                    }
                    Err(why) => all.leave_out(packet.number, &why),
                },
                Ok(Record::Unusable { number, why }) => all.leave_out(number, &why),
                Err(error) if all.frames.is_empty() => return Err(error.into()),
                Err(error) => all.ended = Some(error.to_string()),
            }
        }
        all.not_empty(file)?;
        Ok(all)
    }

    fn not_empty(&self, file: &Path) -> anyhow::Result<()> {
        let why = |(number, why): &(u64, String)| format!(" that can be sent: frame {number} {why}");
        let why = self.first_left_out.as_ref().map_or(String::new(), why);
        ensure!(!self.frames.is_empty(), "{} holds no frame{why}", file.display());
        Ok(())
    }

    fn leave_out(&mut self, number: u64, why: &str) {
        self.left_out += 1;
        if self.first_left_out.as_ref().is_none_or(|(first, _)| number < *first) {
            self.first_left_out = Some((number, why.to_owned()));
        }
    }

    /// Leaves out what `fits` has something against: the end of a sentence that names the frame.
    ///
    /// # Errors
    /// Nothing is left.
    pub fn keep(
        &mut self,
        file: &Path,
        mut fits: impl FnMut(&[u8]) -> Result<(), String>,
    ) -> anyhow::Result<()> {
        let frames = std::mem::take(&mut self.frames).into_iter().zip(std::mem::take(&mut self.numbers));
        for (frame, number) in frames {
            match fits(&frame) {
                Ok(()) => {
                    self.frames.push(frame);
                    self.numbers.push(number);
                }
                Err(why) => self.leave_out(number, &why),
            }
        }
        self.not_empty(file)
    }

    /// Sends all to the MAC address `dst`, from `src` if there is one: answers then come to it.
    pub fn address(&mut self, src: Option<MacAddr>, dst: MacAddr) {
        for frame in &mut self.frames {
            frame[..6].copy_from_slice(&dst.0);
            if let Some(src) = src {
                frame[6..12].copy_from_slice(&src.0);
            }
        }
    }

    /// What is not sent, for people.
    pub fn notes(&self) -> Vec<String> {
        let left_out = self.first_left_out.as_ref().map(|(first, why)| match self.left_out {
            1 => format!("One frame of the file is left out: frame {first} {why}."),
            more => format!("{more} frames of the file are left out; the first, frame {first}, {why}."),
        });
        let ended = self.ended.as_ref().map(|why| format!("{why}."));
        let heard = self.frames.iter().filter_map(|frame| hear(frame, neighbour::packet(frame)?, UNCHECKED));
        let broken = heard.filter(|heard| heard.kind() == flag::SYN && !heard.whole).count();
        let broken = (broken > 0).then(|| {
            format!("SYNs of the file with a wrong checksum or broken options, to which no answer is expected: {broken}.")
        });
        let filled = (self.filled > 0).then(|| {
            format!(
                "Frames that the capture cut, with zeros for what is missing and a checksum that fits: {}.",
                self.filled
            )
        });
        left_out.into_iter().chain(ended).chain(broken).chain(filled).collect()
    }

    /// Where TCP segments go and come from, SYNs before others, each destination once.
    pub fn targets(&self) -> Vec<(InetAddr, InetAddr)> {
        let heard = self.frames.iter().filter_map(|frame| hear(frame, neighbour::packet(frame)?, UNCHECKED));
        let (syns, others): (Vec<Heard>, Vec<Heard>) = heard.partition(|heard| heard.kind() == flag::SYN);
        let mut seen = HashSet::new();
        let ends = syns.iter().chain(&others).map(|heard| (heard.dst.0, heard.src.0));
        ends.filter(|(dst, _)| seen.insert(*dst)).collect()
    }
}

/// The frames of a file.
#[derive(Debug)]
pub struct Replay {
    frames: Vec<Vec<u8>>,
    syns: Vec<Syn>,
    /// Of each frame the SYN that it is.
    numbers: Vec<Option<usize>>,
    /// Our end and the server's end → the SYNs between them.
    places: HashMap<Key, Vec<usize>>,
    sources: HashSet<InetAddr>,
}

/// Our end and the server's.
type Key = (InetAddr, u16, InetAddr, u16);

impl Replay {
    /// Reads `file`; its frames go to `dst` if there is one, else where they say.
    ///
    /// # Errors
    /// What the file system says, or that it holds no frame.
    pub fn read(file: &Path, dst: Option<MacAddr>) -> anyhow::Result<Self> {
        let mut frames = Frames::read(file, &Retarget::default())?;
        if let Some(dst) = dst {
            frames.address(None, dst);
        }
        Ok(Self::new(frames))
    }

    /// Of `frames`, at least one.
    pub fn new(frames: Frames) -> Self {
        let frames = frames.frames;
        let (mut syns, mut numbers) = (Vec::<Syn>::new(), Vec::with_capacity(frames.len()));
        let (mut places, mut sources) = (HashMap::<Key, Vec<usize>>::new(), HashSet::new());
        for (place, frame) in frames.iter().enumerate() {
            let Some(syn) = syn(frame, place) else {
                numbers.push(None);
                continue;
            };
            let Ends { src, dst } = syn.ends;
            let known = places.entry((src.0, src.1, dst.0, dst.1)).or_default();
            // A SYN that the capture has twice is a copy too.
            let same = |number: &&usize| syns[**number].isn == syn.isn;
            let number = known.iter().find(same).copied().unwrap_or_else(|| {
                known.push(syns.len());
                syns.len()
            });
            if number == syns.len() {
                syns.push(syn);
                sources.insert(src.0);
            }
            numbers.push(Some(number));
        }
        Self { frames, syns, numbers, places, sources }
    }

    /// Different sources.
    pub fn sources(&self) -> u64 {
        self.places.len() as u64
    }

    /// Different SYNs.
    pub fn syns(&self) -> usize {
        self.syns.len()
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

    fn syn(&self, flow: u64) -> Option<&Syn> {
        self.numbers[self.place(flow)].map(|number| &self.syns[number])
    }

    /// The frame of `flow`.
    #[inline]
    pub fn frame(&self, flow: u64) -> &[u8] {
        &self.frames[self.place(flow)]
    }

    /// True if it is a SYN.
    #[inline]
    pub fn is_syn(&self, flow: u64) -> bool {
        self.numbers[self.place(flow)].is_some()
    }

    /// Which SYN it is a copy of; behind the last one if it is none.
    #[inline]
    pub fn syn_number(&self, flow: u64) -> usize {
        self.numbers[self.place(flow)].unwrap_or(self.syns.len())
    }

    /// True if `addr` is the source of some SYN.
    pub fn has_source(&self, addr: InetAddr) -> bool {
        self.sources.contains(&addr)
    }

    /// True if `heard` came to the source of some SYN, from where that went.
    pub fn owns(&self, heard: &Heard) -> bool {
        self.places.contains_key(&key(heard))
    }

    /// The first flow with the SYN that `heard` answers: the one whose sequence number lies least before what it acknowledges.
    pub fn acked(&self, heard: &Heard) -> Option<Acked> {
        let between = self.places.get(&key(heard))?.iter().map(|number| &self.syns[*number]);
        let behind = |syn: &&Syn| heard.ack.wrapping_sub(syn.isn).wrapping_sub(1);
        let syn = between.min_by_key(behind)?;
        let octets = heard.ack.wrapping_sub(syn.isn);
        // A RST acknowledges the data of a SYN too.
        let whole = heard.flags & flag::RST != 0 && octets == syn.seq_len;
        Some(Acked { flow: syn.frame as u64, octets: if whole { 1 } else { octets } })
    }

    /// Both ends of `flow`; what it meets is not known.
    pub fn ends(&self, flow: u64) -> Option<(Ends, Target)> {
        let ends = self.syn(flow)?.ends;
        Some((ends, Target { addr: ends.dst.0, port: ends.dst.1, expect: Expect::Any }))
    }

    /// What the SYN of `flow` offers, and its time stamp.
    pub fn offer(&self, flow: u64) -> Option<(Offer, u32)> {
        self.syn(flow).map(|syn| (syn.offer, syn.tsval))
    }
}

fn key(heard: &Heard) -> Key {
    (heard.dst.0, heard.dst.1, heard.src.0, heard.src.1)
}

fn syn(bytes: &[u8], frame: usize) -> Option<Syn> {
    let heard = hear(bytes, neighbour::packet(bytes)?, UNCHECKED)?;
    let options = heard.options;
    let offer = Offer {
        mss: (options.mss != 0).then_some(options.mss),
        wscale: options.wscale,
        sack: options.sack_perm,
        timestamps: options.timestamps.is_some(),
    };
    let tsval = options.timestamps.map_or(0, |(val, _)| val);
    let ends = Ends { src: heard.src, dst: heard.dst };
    let seq_len = 1 + heard.data;
    let syn = Syn { ends, isn: heard.seq, seq_len, offer, tsval, frame };
    (heard.kind() == flag::SYN && heard.whole).then_some(syn)
}

#[cfg(test)]
mod tests;
