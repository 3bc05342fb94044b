//! `hearken-bench pcap`: the test frames as a file, for DPDK's `net_pcap`, Pktgen and tcpreplay.

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use pcap_file::pcap::{PcapPacket, PcapWriter};

use crate::frames::{self, FRAMES, FRAMES_MAX, Kind, SERVER_MAC};

/// Write the frames of a bench to a file
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to write
    #[arg(long, value_enum)]
    kind: Kind,
    /// Where to
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// How many
    #[arg(long, default_value_t = FRAMES, value_name = "FRAMES", value_parser = frame_count)]
    count: usize,
    /// MAC address that they go to; default: that of net_pcap0
    #[arg(long, value_name = "MAC")]
    mac: Option<dataplane::wire::ether::MacAddr>,
}

fn frame_count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count @ 1..=FRAMES_MAX) => Ok(count),
        _ => Err(format!("wanted a number of frames from 1 to {FRAMES_MAX}")),
    }
}

impl Args {
    /// Writes the file and says so.
    ///
    /// # Errors
    /// What the file system says.
    pub fn run(&self) -> anyhow::Result<()> {
        let mac = self.mac.map_or(SERVER_MAC, |mac| mac.0);
        write(&self.out, &frames::frames(self.kind, self.count, mac))?;
        crate::output::sayln!("{}: {} frames", self.out.display(), self.count);
        Ok(())
    }
}

/// Writes `frames` to `file`, a microsecond apart.
///
/// # Errors
/// What the file system says.
pub fn write(file: &Path, frames: &[Vec<u8>]) -> anyhow::Result<()> {
    let what = || format!("cannot write {}", file.display());
    let out = BufWriter::new(File::create(file).with_context(what)?);
    let mut writer = PcapWriter::new(out).with_context(what)?;
    for (at, frame) in (0..).zip(frames) {
        let len = u32::try_from(frame.len()).with_context(what)?;
        writer.write_packet(&PcapPacket::new(Duration::from_micros(at), len, frame)).with_context(what)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use dataplane::savefile::{Record, Savefile};

    #[test]
    fn what_is_written_is_read_again() {
        let read = |file: &Path| {
            let packets = Savefile::open(file).expect("just written").map(|record| match record {
                Ok(Record::Packet(packet)) => packet.frame,
                other => panic!("{other:?}"),
            });
            packets.collect::<Vec<_>>()
        };
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("mix.pcap");
        let frames = frames::frames(Kind::Mix, 100, SERVER_MAC);
        write(&file, &frames).expect("the directory is writable");
        assert_eq!(read(&file), frames);
    }
}
