//! `hearken capture`

use std::borrow::Cow;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use pcap_file::DataLink;
use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};

use super::{CliError, Done, ServerArgs, Span};
use crate::control::proto::{Capture, Captured, CapturedFrame, Request, SNAPLEN_DEFAULT};
use crate::hex;

/// How often the server is asked for frames.
const ASK_EVERY: Duration = Duration::from_millis(50);
/// Power of ten of a second in which times are written: nanoseconds.
const TIME_RESOLUTION: u8 = 9;

/// Write frames that come in to a pcapng file, each with its verdict as a comment
#[derive(Debug, Args)]
#[command(after_help = "\
The filter: tcp, udp, icmp, icmp6, arp, ip, ip6, vlan, flags LETTERS, [src|dst] host ADDR, [src|dst] net ADDR/LEN, \
[src|dst] port N[-M], joined by and, or, not and ( ).

A frame is copied as it came in, before an answer is written over it. In Wireshark the verdict is the column or field \
frame.comment; with tshark: tshark -r F.pcapng -T fields -e frame.number -e frame.comment")]
pub(super) struct CaptureArgs {
    /// Which frames, such as 'port 80 and not src net 198.18.0.0/16' [default: all]
    #[arg(long, default_value = "", hide_default_value = true, value_name = "EXPRESSION")]
    filter: String,
    /// Only with this verdict: any, drop, reply, consume, an outcome or a drop reason (names as in hearken stats --all)
    #[arg(long, default_value = "any", value_name = "NAME")]
    verdict: String,
    /// End after so many frames
    #[arg(long, value_name = "FRAMES")]
    count: Option<u64>,
    /// End after this time
    #[arg(long = "for", value_name = "TIME")]
    duration: Option<Span>,
    /// Octets of each frame to keep
    #[arg(long, default_value_t = SNAPLEN_DEFAULT, value_name = "OCTETS")]
    snaplen: usize,
    /// Keep one frame of so many, on each core
    #[arg(long, default_value_t = 1, value_name = "NUMBER")]
    sample: u32,
    /// The file; - for standard output
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    server: ServerArgs,
}

impl CaptureArgs {
    pub(super) fn run(self, out: &mut impl Write) -> Done {
        let Self { filter, verdict, count, duration, snaplen, sample, out: path, server } = self;
        let mut server = server.connect()?;
        let super::Empty {} = server.call(&Request::Capture(Capture { filter, verdict, snaplen, sample }))?;
        let failed = |error: &dyn std::fmt::Display| {
            CliError::Run(format!("cannot write {}: {error}", path.display()))
        };
        let to: Box<dyn Write + '_> = if path.as_os_str() == "-" {
            Box::new(out)
        } else {
            Box::new(BufWriter::new(File::create(&path).map_err(|error| failed(&error))?))
        };
        let mut file = Frames::new(to, snaplen).map_err(|error| failed(&error))?;
        let end = duration.map(|span| Instant::now() + span.0);
        let (mut written, mut missed) = (0, 0);
        // Without an end, until it is interrupted: what was written is whole after each round.
        while count.is_none_or(|count| written < count) && end.is_none_or(|end| Instant::now() < end) {
            let captured: Captured = server.call(&Request::Captured {})?;
            missed = captured.missed;
            let left =
                count.map_or(usize::MAX, |count| usize::try_from(count - written).unwrap_or(usize::MAX));
            for frame in captured.frames.iter().take(left) {
                file.write(frame).map_err(|error| failed(&error))?;
                written += 1;
            }
            file.flush().map_err(|error| failed(&error))?;
            if captured.frames.is_empty() {
                std::thread::sleep(ASK_EVERY);
            }
        }
        eprintln!("{written} frames written to {}, {missed} missed", path.display());
        Ok(())
    }
}

/// A pcapng file with an interface for each port.
struct Frames<W: Write> {
    writer: PcapNgWriter<W>,
    interfaces: Vec<String>,
    snaplen: u32,
}

impl<W: Write> Frames<W> {
    fn new(to: W, snaplen: usize) -> Result<Self, pcap_file::PcapError> {
        let snaplen = u32::try_from(snaplen).unwrap_or(u32::MAX);
        Ok(Self { writer: PcapNgWriter::new(to)?, interfaces: Vec::new(), snaplen })
    }

    fn write(&mut self, frame: &CapturedFrame) -> Result<(), pcap_file::PcapError> {
        let interface = self.interface(&frame.device)?;
        let comment = format!("{} {}, core {}", frame.verdict, frame.name, frame.core);
        self.writer.write_pcapng_block(EnhancedPacketBlock {
            interface_id: interface,
            timestamp: Duration::from_nanos(frame.unix_ns),
            original_len: u32::try_from(frame.len).unwrap_or(u32::MAX),
            data: Cow::Owned(hex::decode(&frame.octets).unwrap_or_default()),
            options: vec![EnhancedPacketOption::Comment(Cow::Owned(comment))],
        })?;
        Ok(())
    }

    /// The number of the interface `name`, which is described before its first frame.
    fn interface(&mut self, name: &str) -> Result<u32, pcap_file::PcapError> {
        let known = self.interfaces.iter().position(|known| known == name);
        if known.is_none() {
            self.writer.write_pcapng_block(InterfaceDescriptionBlock {
                linktype: DataLink::ETHERNET,
                snaplen: self.snaplen,
                options: vec![
                    InterfaceDescriptionOption::IfName(Cow::Borrowed(name)),
                    InterfaceDescriptionOption::IfTsResol(TIME_RESOLUTION),
                ],
            })?;
            self.interfaces.push(name.to_owned());
        }
        Ok(known.unwrap_or(self.interfaces.len() - 1) as u32)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.writer.get_mut().flush()
    }
}
