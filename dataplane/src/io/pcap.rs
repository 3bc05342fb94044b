//! Packet I/O on files: replays the frames of a capture file ([`crate::savefile`]), and writes what is sent into a pcap file.
//!
//! The file is read once, at the start, so that replaying makes no system call. Writing goes through a buffer and makes
//! one now and then: a recorded run is for looking at, not for measuring. There is no clock here, so the recorded time of
//! a frame is its number in microseconds.

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pcap_file::PcapError;
use pcap_file::pcap::{PcapPacket, PcapWriter};

use super::mem::{BUFFER_LEN, MemFrame, Pool, pool};
use super::{Capabilities, Frame, PacketIo, Sent};
use crate::savefile::{Record, Savefile, SavefileError};
use crate::wire::ether::MacAddr;

/// Frames that may be out at a time.
const BUFFERS: usize = 512;

/// What to replay and where to record.
#[derive(Clone, Debug, Default)]
pub struct PcapConfig {
    /// The file to replay; without one no frame ever comes.
    pub rx: Option<PathBuf>,
    /// The port's MAC address, for packets of captures that had none.
    pub mac: MacAddr,
    /// Begin again at the file's end.
    pub looped: bool,
    /// The file to write, which is replaced if it is there; without one, what is sent is forgotten.
    pub tx: Option<PathBuf>,
}

/// Why a file cannot be replayed or written.
#[derive(Debug, thiserror::Error)]
pub enum PcapIoError {
    /// It cannot be read, or holds what is not understood.
    #[error(transparent)]
    Savefile(#[from] SavefileError),
    /// There is nothing to replay.
    #[error("{}: no frame in it that can be replayed; record some", path.display())]
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
    fn push(&mut self, frame: &[u8]) {
        self.bytes.extend_from_slice(frame);
        self.ends.push(self.bytes.len());
    }

    fn get(&self, index: usize) -> Option<&[u8]> {
        let end = *self.ends.get(index)?;
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        Some(&self.bytes[start..end])
    }

    /// Reads the file at `path`; what came to the host that captured it comes to `mac`. Frames that cannot be replayed are
    /// left out, and the log says so.
    fn load(path: &Path, mac: MacAddr) -> Result<Self, PcapIoError> {
        let mut frames = Self::default();
        let (mut left_out, mut first) = (0u64, None);
        let mut leave_out = |number: u64, why: String| {
            left_out += 1;
            first.get_or_insert_with(|| format!("frame {number} {why}"));
        };
        for record in Savefile::open(path)? {
            match record {
                Ok(Record::Packet(packet)) if packet.frame.len() > BUFFER_LEN => {
                    let len = packet.frame.len();
                    leave_out(packet.number, format!("has {len} octets, and {BUFFER_LEN} are the most"));
                }
                Ok(Record::Packet(mut packet)) => {
                    packet.address(mac.0);
                    frames.push(&packet.frame);
                }
                Ok(Record::Unusable { number, why }) => leave_out(number, why),
                Err(error) if frames.ends.is_empty() => return Err(error.into()),
                Err(error) => {
                    tracing::warn!(%error, frames = frames.ends.len(), "not the whole file is replayed")
                }
            }
        }
        if let Some(first) = first {
            tracing::warn!(file = %path.display(), left_out, first, "frames that cannot be replayed");
        }
        if frames.ends.is_empty() { Err(PcapIoError::Empty { path: path.to_owned() }) } else { Ok(frames) }
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
        let frames =
            config.rx.as_deref().map(|path| Frames::load(path, config.mac)).transpose()?.unwrap_or_default();
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
