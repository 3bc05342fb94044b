//! Packet I/O on files: replays the frames of a pcap or pcapng file, and writes what is sent into a pcap file.
//!
//! The file is read once, at the start, so that replaying makes no system call. Writing goes through a buffer and makes
//! one now and then: a recorded run is for looking at, not for measuring. There is no clock here, so the recorded time of
//! a frame is its number in microseconds.

use std::fs::File;
use std::io::{BufWriter, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use pcap_file::pcap::{PcapPacket, PcapReader, PcapWriter};
use pcap_file::pcapng::{Block, PcapNgReader};
use pcap_file::{DataLink, PcapError};

use super::mem::{BUFFER_LEN, MemFrame, Pool, pool};
use super::{Capabilities, Frame, PacketIo, Sent};

/// The first octets of a pcapng file (its section header block).
const PCAPNG_MAGIC: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];
/// Frames that may be out at a time.
const BUFFERS: usize = 512;

/// What to replay and where to record.
#[derive(Clone, Debug, Default)]
pub struct PcapConfig {
    /// The file to replay; without one no frame ever comes.
    pub rx: Option<PathBuf>,
    /// Begin again at the file's end.
    pub looped: bool,
    /// The file to write, which is replaced if it is there; without one, what is sent is forgotten.
    pub tx: Option<PathBuf>,
}

/// Why a file cannot be replayed or written.
#[derive(Debug, thiserror::Error)]
pub enum PcapIoError {
    /// It cannot be opened.
    #[error("{}: {source}; give the path of a pcap or pcapng file that can be read", path.display())]
    Open {
        /// Its path.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is no capture, or a broken one.
    #[error("{}: not a whole pcap or pcapng file, behind frame {frames}: {source}; record it again", path.display())]
    Format {
        /// Its path.
        path: PathBuf,
        /// Frames that could be read.
        frames: usize,
        /// What the reader said.
        source: PcapError,
    },
    /// Its frames are not Ethernet frames.
    #[error("{}: link type {found:?}, and Ethernet is wanted; record it on an Ethernet interface", path.display())]
    LinkType {
        /// Its path.
        path: PathBuf,
        /// What it holds.
        found: DataLink,
    },
    /// A frame does not fit into a buffer.
    #[error(
        "{}: frame {frame} has {len} octets, and {BUFFER_LEN} are the most; switch segmentation offloads off and record \
         it again",
        path.display()
    )]
    TooLong {
        /// Its path.
        path: PathBuf,
        /// The frame's number, from 1.
        frame: usize,
        /// Its octets.
        len: usize,
    },
    /// There is nothing to replay.
    #[error("{}: no frame in it; record some", path.display())]
    Empty {
        /// Its path.
        path: PathBuf,
    },
    /// The file to write cannot be made.
    #[error("{}: {source}; give the path of a file that can be written", path.display())]
    Create {
        /// Its path.
        path: PathBuf,
        /// What the writer said.
        source: PcapError,
    },
}

/// The frames of a file, one behind the other.
#[derive(Debug, Default)]
struct Frames {
    bytes: Vec<u8>,
    /// Where each frame ends.
    ends: Vec<usize>,
}

impl Frames {
    fn push(&mut self, path: &Path, frame: &[u8]) -> Result<(), PcapIoError> {
        if frame.len() > BUFFER_LEN {
            let (path, frame, len) = (path.to_owned(), self.ends.len() + 1, frame.len());
            return Err(PcapIoError::TooLong { path, frame, len });
        }
        self.bytes.extend_from_slice(frame);
        self.ends.push(self.bytes.len());
        Ok(())
    }

    fn get(&self, index: usize) -> Option<&[u8]> {
        let end = *self.ends.get(index)?;
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        Some(&self.bytes[start..end])
    }

    /// Reads the file at `path`, of either kind.
    fn load(path: &Path) -> Result<Self, PcapIoError> {
        let mut file = Vec::new();
        File::open(path)
            .and_then(|mut from| from.read_to_end(&mut file))
            .map_err(|source| PcapIoError::Open { path: path.to_owned(), source })?;
        let mut frames = Self::default();
        if file.starts_with(&PCAPNG_MAGIC) {
            frames.load_pcapng(path, &file)?;
        } else {
            frames.load_pcap(path, &file)?;
        }
        if frames.ends.is_empty() { Err(PcapIoError::Empty { path: path.to_owned() }) } else { Ok(frames) }
    }

    fn load_pcap(&mut self, path: &Path, file: &[u8]) -> Result<(), PcapIoError> {
        let mut reader = PcapReader::new(file).map_err(|source| self.broken(path, source))?;
        check_link(path, reader.header().datalink)?;
        while let Some(packet) = reader.next_packet() {
            let packet = packet.map_err(|source| self.broken(path, source))?;
            self.push(path, &packet.data)?;
        }
        Ok(())
    }

    fn load_pcapng(&mut self, path: &Path, file: &[u8]) -> Result<(), PcapIoError> {
        let mut reader = PcapNgReader::new(file).map_err(|source| self.broken(path, source))?;
        while let Some(block) = reader.next_block() {
            match block.map_err(|source| self.broken(path, source))? {
                Block::InterfaceDescription(interface) => check_link(path, interface.linktype)?,
                Block::EnhancedPacket(packet) => self.push(path, &packet.data)?,
                Block::SimplePacket(packet) => self.push(path, &packet.data)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn broken(&self, path: &Path, source: PcapError) -> PcapIoError {
        PcapIoError::Format { path: path.to_owned(), frames: self.ends.len(), source }
    }
}

fn check_link(path: &Path, found: DataLink) -> Result<(), PcapIoError> {
    if found == DataLink::ETHERNET {
        Ok(())
    } else {
        Err(PcapIoError::LinkType { path: path.to_owned(), found })
    }
}

/// A file to replay and a file to write.
#[derive(Debug)]
pub struct Pcap {
    frames: Frames,
    next: usize,
    looped: bool,
    writer: Option<PcapWriter<BufWriter<File>>>,
    written: u64,
    pool: Pool,
}

impl Pcap {
    /// Reads the one file and begins the other.
    ///
    /// # Errors
    /// Any of [`PcapIoError`].
    pub fn open(config: &PcapConfig) -> Result<Self, PcapIoError> {
        let frames = config.rx.as_deref().map(Frames::load).transpose()?.unwrap_or_default();
        let writer = config.tx.as_deref().map(create).transpose()?;
        Ok(Self { frames, next: 0, looped: config.looped, writer, written: 0, pool: pool(BUFFERS) })
    }

    /// Frames of the file to replay.
    pub fn frames(&self) -> usize {
        self.frames.ends.len()
    }

    /// False if the file can no longer be written.
    fn write(&mut self, bytes: &[u8]) -> bool {
        let Some(writer) = &mut self.writer else { return true };
        let at = Duration::from_micros(self.written);
        // A frame is at most `BUFFER_LEN` octets long.
        let packet = PcapPacket::new(at, bytes.len() as u32, bytes);
        let written = writer.write_packet(&packet).is_ok();
        self.written += u64::from(written);
        written
    }
}

fn create(path: &Path) -> Result<PcapWriter<BufWriter<File>>, PcapIoError> {
    let failed = |source| PcapIoError::Create { path: path.to_owned(), source };
    let file = File::create(path).map_err(|source| failed(PcapError::IoError(source)))?;
    PcapWriter::new(BufWriter::new(file)).map_err(failed)
}

impl PacketIo for Pcap {
    type Frame = MemFrame;

    fn rx_burst(&mut self, into: &mut [Option<MemFrame>]) -> usize {
        let mut received = 0;
        for slot in into {
            if self.next == self.frames.ends.len() && self.looped {
                self.next = 0;
            }
            let Some(bytes) = self.frames.get(self.next) else { break };
            let Some(mut frame) = MemFrame::alloc(&self.pool) else { break };
            // No frame that is longer than a buffer was loaded.
            if frame.fill(bytes) {
                *slot = Some(frame);
                received += 1;
            }
            self.next += 1;
        }
        received
    }

    fn tx_burst(&mut self, from: &mut [Option<MemFrame>]) -> Sent {
        let mut sent = 0;
        for slot in from {
            let Some(frame) = slot.take() else { break };
            if !self.write(frame.bytes()) {
                *slot = Some(frame);
                break;
            }
            sent += 1;
        }
        Sent::all(sent)
    }

    fn alloc(&mut self) -> Option<MemFrame> {
        MemFrame::alloc(&self.pool)
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::default()
    }

    fn exhausted(&self) -> bool {
        !self.looped && self.next == self.frames.ends.len()
    }
}

#[cfg(test)]
mod tests;
