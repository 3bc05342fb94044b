//! Capture files (pcap and pcapng): the one reader of `hearken why`, of `pcap:` devices and of `hearken-load replay`.
//!
//! What it hands out are Ethernet frames, whole, whatever the file holds of them:
//!
//! | in the file | out of the reader |
//! |---|---|
//! | Ethernet | the frame, without a frame check sequence that the file announces |
//! | Linux cooked (SLL, SLL2), raw IP, BSD loopback | an Ethernet frame made of the packet, see [`Link`] |
//! | another link type | [`Record::Unusable`], or [`Cause::LinkType`] if it is the whole file's |
//! | a frame that the capture cut in its data | the frame filled up with zeros, its checksum made to fit |
//! | a checksum that the sender left to its device | the one that it would have had on a wire |
//! | a frame that the capture cut in its headers | [`Record::Unusable`]: what became of it nobody can tell |
//!
//! The snapshot length in a file's header is not looked at: it is often wrong, and each frame says its own lengths.
//! A file that ends inside a frame, or is broken from some place on, gives what lies before that and then the error.
//!
//! # Limits
//! A frame has at most [`LEN_MAX`] octets, which is the most that libpcap captures; a block of pcapng at most
//! [`BLOCK_MAX`].

mod layout;
mod link;
mod retarget;

use std::fs::File;
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};

use pcap_parser::traits::{PcapNGPacketBlock, PcapReaderIterator};
use pcap_parser::{Block, LegacyPcapReader, PcapBlockOwned, PcapError, PcapNGOption, PcapNGReader};

pub use link::Link;
use link::Made;
pub use retarget::{Retarget, To};

/// Octets of the longest frame.
pub const LEN_MAX: usize = 256 << 10;
/// Octets of the longest block.
pub const BLOCK_MAX: usize = 16 << 20;

/// Octets that are read at a time.
const READ: usize = 1 << 20;
/// How a pcapng file begins, in either byte order.
const PCAPNG_MAGIC: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];
/// How a file begins that gzip(1) or zstd(1) has made, and what makes a capture of it.
const COMPRESSED: [(&[u8], &str); 2] = [(&[0x1f, 0x8b], "gunzip"), (&[0x28, 0xb5, 0x2f, 0xfd], "unzstd")];
/// In the link type of a pcap file: the bits that hold the type, the one that says that frames have a check sequence, and the
/// place of its length in units of two octets.
const LINK_TYPE: u32 = 0x03ff_ffff;
const FCS_PRESENT: u32 = 0x0400_0000;
const FCS_SHIFT: u32 = 28;
/// The block that came before the enhanced one, in either byte order: types of blocks are handed out as little-endian.
const OBSOLETE_PACKET: [u32; 2] = [2, 2u32.swap_bytes()];
/// Octets in front of its data.
const OBSOLETE_HEADER: usize = 20;
/// Options of an enhanced packet block and of an interface: its flags, with the length of the check sequence in octets;
/// the same length in bits.
const EPB_FLAGS: u16 = 2;
const IF_FCSLEN: u16 = 13;

/// Why a file cannot be read, or not to its end.
#[derive(Debug, thiserror::Error)]
#[error("{}: {cause}", path.display())]
pub struct SavefileError {
    /// The file.
    pub path: PathBuf,
    /// Why.
    pub cause: Cause,
}

/// See [`SavefileError`].
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// It cannot be opened, or its beginning not read.
    #[error("cannot read it: {0}; give the path of a pcap or pcapng file that can be read")]
    Open(std::io::Error),
    /// There is nothing in it, not even a header.
    #[error("is empty: a capture file has a header at least; was it written to its end?")]
    Empty,
    /// It is something else.
    #[error("is no capture file; give one in the format pcap or pcapng")]
    Format,
    /// It is packed.
    #[error("is compressed; unpack it with {0} first")]
    Compressed(&'static str),
    /// No frame of it can be read as one of Ethernet.
    #[error("holds frames of link type {0}; {can}", can = link::CAN_READ)]
    LinkType(String),
    /// It ends inside a frame.
    #[error(
        "ends in the middle of a frame behind frame {0}, as a capture does that was killed; the frames before that were read"
    )]
    Cut(u64),
    /// It makes no sense from some place on.
    #[error("is broken behind frame {0}; the frames before that were read")]
    Broken(u64),
    /// The system fails to read on.
    #[error("cannot be read on behind frame {0}; is the disk or the network below it in order?")]
    Read(u64),
}

/// One frame of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// It can be used.
    Packet(Packet),
    /// It cannot.
    Unusable {
        /// Its number.
        number: u64,
        /// Why not: the end of a sentence that names the frame.
        why: String,
    },
}

/// A frame, whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Its place in the file, from 1, as Wireshark and `tcpdump -#` count.
    pub number: u64,
    /// An Ethernet frame, as long as it was on the wire.
    pub frame: Vec<u8>,
    /// Of it, how many octets the capture kept.
    pub kept: usize,
    /// What it was in the file.
    pub link: Link,
    /// Its sender had left the checksum to its device, and so it is not as it stands in the file but as on a wire.
    pub completed: bool,
    /// It came to the host that captured, whose MAC address the file does not tell: zeros stand in its place.
    pub to_host: bool,
}

impl Packet {
    /// What is not as it stands in the file, for people; none if all is.
    pub fn note(&self) -> Option<String> {
        let made = (self.link != Link::Ethernet)
            .then(|| format!("made an Ethernet frame of a packet of link type {}", self.link));
        let filled = (self.kept < self.frame.len()).then(|| {
            let (kept, len) = (self.kept, self.frame.len());
            format!("the capture kept {kept} of its {len} octets: zeros stand for the rest, and a checksum that fits")
        });
        let completed = self.completed.then(|| {
            "its sender left the checksum to the device, as offloading does: it is filled in".to_owned()
        });
        let notes: Vec<String> = made.into_iter().chain(filled).chain(completed).collect();
        (!notes.is_empty()).then(|| notes.join("; "))
    }

    /// Sends it to the MAC address `mac` if it came to the host that captured.
    pub fn address(&mut self, mac: [u8; 6]) {
        if let Some(dst) = self.frame.first_chunk_mut().filter(|_| self.to_host) {
            *dst = mac;
        }
    }
}

/// An interface that a file describes.
#[derive(Clone, Debug)]
struct Interface {
    /// What its frames are; otherwise what they are called.
    link: Result<Link, String>,
    /// Octets of a check sequence behind each frame.
    fcs: usize,
    /// The most that is kept of a frame; 0 for all. Simple packet blocks have no other length.
    snaplen: usize,
}

/// What a file says of a frame.
struct Captured<'a> {
    interface: usize,
    octets: &'a [u8],
    /// Octets on the wire.
    len: usize,
    /// Octets of a check sequence, if the frame says so itself.
    fcs: Option<usize>,
}

/// A file, read from its beginning to its end.
pub struct Savefile {
    path: PathBuf,
    blocks: Box<dyn PcapReaderIterator + Send>,
    interfaces: Vec<Interface>,
    big_endian: bool,
    number: u64,
    /// Octets of the longest block that there is room for.
    room: usize,
    over: bool,
}

impl std::fmt::Debug for Savefile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Savefile")
            .field("path", &self.path)
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}

/// What a block is to the reader.
enum Step {
    /// Of no interest.
    Next,
    Record(Record),
    End,
    Fail(Cause),
}

impl Savefile {
    /// Opens the file at `path`.
    ///
    /// # Errors
    /// It cannot be read, is no capture, or one of frames that are not understood.
    pub fn open(path: &Path) -> Result<Self, SavefileError> {
        let fail = |cause| SavefileError { path: path.to_owned(), cause };
        let mut file = File::open(path).map_err(|error| fail(Cause::Open(error)))?;
        let mut head = Vec::new();
        file.by_ref().take(READ as u64).read_to_end(&mut head).map_err(|error| fail(Cause::Open(error)))?;
        if head.is_empty() {
            return Err(fail(Cause::Empty));
        }
        if let Some((_, tool)) = COMPRESSED.iter().find(|(magic, _)| head.starts_with(magic)) {
            return Err(fail(Cause::Compressed(tool)));
        }
        let pcapng = head.starts_with(&PCAPNG_MAGIC);
        let from = Cursor::new(head).chain(file);
        let blocks: Result<Box<dyn PcapReaderIterator + Send>, PcapError<_>> = if pcapng {
            PcapNGReader::new(READ, from).map(|reader| Box::new(reader) as Box<_>)
        } else {
            LegacyPcapReader::new(READ, from).map(|reader| Box::new(reader) as Box<_>)
        };
        let blocks = blocks.map_err(|_| fail(Cause::Format))?;
        let path = path.to_owned();
        let mut file = Self {
            path,
            blocks,
            interfaces: Vec::new(),
            big_endian: false,
            number: 0,
            room: READ,
            over: false,
        };
        // The header of a pcap file is its first block.
        if !pcapng && let Step::Fail(cause) = file.step() {
            return Err(SavefileError { path: file.path, cause });
        }
        Ok(file)
    }

    /// Frames so far.
    pub const fn number(&self) -> u64 {
        self.number
    }

    /// Reads one block.
    fn step(&mut self) -> Step {
        let Self { blocks, interfaces, big_endian, number, room, .. } = self;
        loop {
            let error = match blocks.next() {
                Ok((len, block)) => {
                    let step = read(block, interfaces, big_endian, number);
                    blocks.consume(len);
                    return step;
                }
                Err(PcapError::UnexpectedEof) => PcapError::UnexpectedEof,
                Err(PcapError::Incomplete(more)) => PcapError::Incomplete::<()>(more),
                Err(PcapError::BufferTooSmall) => PcapError::BufferTooSmall,
                Err(PcapError::Eof) => PcapError::Eof,
                Err(PcapError::ReadError) => PcapError::ReadError,
                Err(_) => PcapError::HeaderNotRecognized,
            };
            match error {
                PcapError::Eof => return Step::End,
                PcapError::UnexpectedEof if blocks.data().is_empty() => return Step::End,
                PcapError::UnexpectedEof => return Step::Fail(Cause::Cut(*number)),
                PcapError::ReadError => return Step::Fail(Cause::Read(*number)),
                PcapError::BufferTooSmall if *room >= BLOCK_MAX => {
                    return Step::Fail(Cause::Broken(*number));
                }
                PcapError::BufferTooSmall => {
                    *room *= 2;
                    blocks.grow(*room);
                }
                PcapError::Incomplete(_) if blocks.refill().is_err() => {
                    return Step::Fail(Cause::Read(*number));
                }
                PcapError::Incomplete(_) => {}
                _ => return Step::Fail(Cause::Broken(*number)),
            }
        }
    }
}

impl Iterator for Savefile {
    type Item = Result<Record, SavefileError>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.over {
            match self.step() {
                Step::Next => {}
                Step::Record(record) => return Some(Ok(record)),
                Step::End => self.over = true,
                Step::Fail(cause) => {
                    self.over = true;
                    return Some(Err(SavefileError { path: self.path.clone(), cause }));
                }
            }
        }
        None
    }
}

/// Takes one block in.
fn read(
    block: PcapBlockOwned<'_>,
    interfaces: &mut Vec<Interface>,
    big_endian: &mut bool,
    number: &mut u64,
) -> Step {
    let mut frame = |captured: Captured<'_>| {
        *number += 1;
        Step::Record(record(*number, interfaces, &captured))
    };
    match block {
        PcapBlockOwned::LegacyHeader(header) => {
            let word = header.network.0 as u32;
            let fcs = if word & FCS_PRESENT == 0 { 0 } else { 2 * (word >> FCS_SHIFT) as usize };
            match Link::of(word & LINK_TYPE) {
                Ok(link) => interfaces.push(Interface { link: Ok(link), fcs, snaplen: 0 }),
                Err(name) => return Step::Fail(Cause::LinkType(name)),
            }
            Step::Next
        }
        PcapBlockOwned::Legacy(block) => {
            frame(Captured { interface: 0, octets: block.data, len: block.origlen as usize, fcs: None })
        }
        PcapBlockOwned::NG(Block::SectionHeader(section)) => {
            *big_endian = section.big_endian();
            interfaces.clear();
            Step::Next
        }
        PcapBlockOwned::NG(Block::InterfaceDescription(described)) => {
            let bits = option(&described.options, IF_FCSLEN).and_then(<[u8]>::first).copied();
            interfaces.push(Interface {
                link: Link::of(described.linktype.0 as u32),
                fcs: usize::from(bits.unwrap_or(0)) / 8,
                snaplen: described.snaplen as usize,
            });
            Step::Next
        }
        PcapBlockOwned::NG(Block::EnhancedPacket(block)) => {
            let flags = option(&block.options, EPB_FLAGS).and_then(|flags| flags.first_chunk::<4>());
            let flags = flags.map(|flags| word(*flags, *big_endian));
            let fcs = flags.map(|flags| (flags >> 5 & 0xf) as usize).filter(|fcs| *fcs > 0);
            let (interface, octets, len) =
                (block.if_id as usize, block.packet_data(), block.origlen as usize);
            frame(Captured { interface, octets, len, fcs })
        }
        PcapBlockOwned::NG(Block::SimplePacket(block)) => {
            let len = block.origlen as usize;
            let snaplen = interfaces.first().map_or(0, |interface| interface.snaplen);
            let kept = if snaplen == 0 { len } else { len.min(snaplen) };
            let octets = &block.data[..kept.min(block.data.len())];
            frame(Captured { interface: 0, octets, len, fcs: None })
        }
        PcapBlockOwned::NG(Block::Unknown(block)) if OBSOLETE_PACKET.contains(&block.block_type) => {
            match obsolete(block.data, *big_endian) {
                Some(captured) => frame(captured),
                None => Step::Fail(Cause::Broken(*number)),
            }
        }
        PcapBlockOwned::NG(_) => Step::Next,
    }
}

/// The value of the option `code`, without padding.
fn option<'a>(options: &'a [PcapNGOption<'_>], code: u16) -> Option<&'a [u8]> {
    options.iter().find(|option| option.code.0 == code).and_then(|option| option.as_bytes().ok())
}

fn word(octets: [u8; 4], big_endian: bool) -> u32 {
    if big_endian { u32::from_be_bytes(octets) } else { u32::from_le_bytes(octets) }
}

/// A packet block of the first drafts of pcapng.
fn obsolete(data: &[u8], big_endian: bool) -> Option<Captured<'_>> {
    let (header, octets) = data.split_at_checked(OBSOLETE_HEADER)?;
    let word = |at: usize| Some(word(*header.get(at..)?.first_chunk()?, big_endian) as usize);
    let both = word(0)?;
    let interface = if big_endian { both >> 16 } else { both & 0xffff };
    Some(Captured { interface, octets: octets.get(..word(12)?)?, len: word(16)?, fcs: None })
}

/// The frame that `captured` is.
fn record(number: u64, interfaces: &[Interface], captured: &Captured<'_>) -> Record {
    let unusable = |why: String| Record::Unusable { number, why };
    let Some(interface) = interfaces.get(captured.interface) else {
        return unusable(format!("is of interface {}, which the file does not describe", captured.interface));
    };
    let link = match &interface.link {
        Ok(link) => *link,
        Err(name) => return unusable(format!("is of link type {name}; {}", link::CAN_READ)),
    };
    // Files are seen that say 0, or less than they hold.
    let len = captured.len.max(captured.octets.len());
    if len > LEN_MAX {
        return unusable(format!("had {len} octets on the wire, and no frame has more than {LEN_MAX}"));
    }
    let fcs = check_sequence(captured.fcs.unwrap_or(interface.fcs), link, captured.octets, len);
    let len = len - fcs;
    let octets = &captured.octets[..captured.octets.len().min(len)];
    let Made { mut frame, to_host } = match link.frame(octets) {
        Ok(made) => made,
        Err(why) => return unusable(why),
    };
    let (kept, missing) = (frame.len(), len - octets.len());
    if let Err(why) = layout::fill(&mut frame, kept + missing) {
        return unusable(why);
    }
    let completed = layout::complete(&mut frame);
    Record::Packet(Packet { number, frame, kept, link, completed, to_host })
}

/// Octets of the check sequence behind a frame that had `len` octets: `told`, unless a packet reaches into them, as in files
/// that announce what is not there.
fn check_sequence(told: usize, link: Link, octets: &[u8], len: usize) -> usize {
    let packet = (link == Link::Ethernet).then(|| layout::Packet::read(octets).0).flatten();
    let end = packet.map_or(0, |packet| packet.end);
    if end <= len.saturating_sub(told) { told.min(len) } else { 0 }
}

#[cfg(test)]
mod tests;
