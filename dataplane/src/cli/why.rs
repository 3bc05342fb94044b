//! `hearken why`

use std::fs::File;
use std::io::{BufReader, Read, Seek, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use clap::Args;
use etherparse::{PacketBuilder, TcpOptionElement};
use pcap_file::DataLink;
use pcap_file::pcap::PcapReader;
use pcap_file::pcapng::{Block, PcapNgReader};

use super::{CliError, Done, ServerArgs};
use crate::control::proto::{AskWhy, Request, Why};
use crate::hex;
use crate::summary::parse_flags;

/// The MAC address that segments made here come from.
const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// How a pcapng file begins.
const PCAPNG_MAGIC: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];

/// Say what would become of a segment, and why; changes nothing
#[derive(Debug, Args)]
pub(super) struct WhyArgs {
    /// Where the segment comes from
    #[arg(value_name = "SRC:PORT", required_unless_present = "pcap")]
    src: Option<SocketAddr>,
    /// Where it goes
    #[arg(value_name = "DST:PORT", required_unless_present = "pcap")]
    dst: Option<SocketAddr>,
    /// Its TCP flags by their letters: S F R P A U E W, such as SA
    #[arg(long, default_value = "S", value_name = "LETTERS", value_parser = parse_flags)]
    flags: u8,
    /// Its sequence number
    #[arg(long, default_value_t = 1000, value_name = "NUMBER")]
    seq: u32,
    /// Its acknowledgement number
    #[arg(long, default_value_t = 0, value_name = "NUMBER")]
    ack: u32,
    /// Octets of data in it
    #[arg(long, default_value_t = 0, value_name = "OCTETS", value_parser = clap::value_parser!(u16).range(..=1460))]
    len: u16,
    /// Try each frame of this file instead, one by one (pcap or pcapng, Ethernet)
    #[arg(long, value_name = "FILE", conflicts_with_all = ["src", "dst", "flags", "seq", "ack", "len"])]
    pcap: Option<PathBuf>,
    /// Read the file's frames as if they were sent to the port's own MAC address
    #[arg(long, requires = "pcap")]
    to_us: bool,
    /// The port it comes in on [default: the one with its address]
    #[arg(long, value_name = "NAME")]
    device: Option<String>,
    /// The worker that takes it, by its number [default: the one that knows the connection, or the first]
    #[arg(long, value_name = "NUMBER")]
    core: Option<u16>,
    /// Print JSON, one line a frame
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

impl WhyArgs {
    pub(super) fn run(&self, out: &mut impl Write) -> Done {
        let mut server = self.server.connect()?;
        let mut first = true;
        for frame in self.frames()? {
            let ask = AskWhy {
                frame: hex::encode(&frame),
                to_us: self.to_us || self.pcap.is_none(),
                device: self.device.clone(),
                core: self.core,
            };
            let why: Why = server.call(&Request::Why(ask))?;
            if !std::mem::take(&mut first) && !self.json {
                writeln!(out)?;
            }
            super::print(out, self.json, &why, || text(&why))?;
        }
        Ok(())
    }

    fn frames(&self) -> Result<Vec<Vec<u8>>, CliError> {
        match (&self.pcap, self.src, self.dst) {
            (Some(file), ..) => {
                let cannot = |error| CliError::Usage(format!("{}: {error}", file.display()));
                read_frames(file).map_err(cannot)
            }
            (None, Some(src), Some(dst)) => Ok(vec![self.segment(src, dst)?]),
            _ => Err(CliError::Usage("give SRC:PORT and DST:PORT, or --pcap FILE".into())),
        }
    }

    /// The segment in a frame; a SYN with the options that Linux sends.
    fn segment(&self, src: SocketAddr, dst: SocketAddr) -> Result<Vec<u8>, CliError> {
        let link = PacketBuilder::ethernet2(PEER_MAC, [0; 6]);
        let net = match (src.ip(), dst.ip()) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => link.ipv4(src.octets(), dst.octets(), 64),
            (IpAddr::V6(src), IpAddr::V6(dst)) => link.ipv6(src.octets(), dst.octets(), 64),
            _ => return Err(CliError::Usage(format!("{src} and {dst} are of two families"))),
        };
        let mut tcp = net.tcp(src.port(), dst.port(), self.seq, 64_240);
        let has = |bit: u8| self.flags & bit != 0;
        tcp = if has(0x01) { tcp.fin() } else { tcp };
        tcp = if has(0x02) { tcp.syn() } else { tcp };
        tcp = if has(0x04) { tcp.rst() } else { tcp };
        tcp = if has(0x08) { tcp.psh() } else { tcp };
        tcp = if has(0x10) { tcp.ack(self.ack) } else { tcp };
        tcp = if has(0x20) { tcp.urg(0) } else { tcp };
        tcp = if has(0x40) { tcp.ece() } else { tcp };
        tcp = if has(0x80) { tcp.cwr() } else { tcp };
        let options = [
            TcpOptionElement::MaximumSegmentSize(1460),
            TcpOptionElement::SelectiveAcknowledgementPermitted,
            TcpOptionElement::Timestamp(1, 0),
            TcpOptionElement::Noop,
            TcpOptionElement::WindowScale(7),
        ];
        let made = if has(0x02) { tcp.options(&options) } else { Ok(tcp) };
        let mut frame = Vec::new();
        let made = made.map_err(|error| error.to_string()).and_then(|tcp| {
            tcp.write(&mut frame, &vec![0; usize::from(self.len)]).map_err(|error| error.to_string())
        });
        made.map_err(|error| CliError::Usage(format!("this segment cannot be made: {error}")))?;
        Ok(frame)
    }
}

/// The Ethernet frames of a file.
fn read_frames(path: &Path) -> Result<Vec<Vec<u8>>, String> {
    let wrong = |error: pcap_file::PcapError| format!("is no capture file that can be read: {error}");
    let mut file = File::open(path).map_err(|error| format!("cannot open it: {error}"))?;
    let mut magic = [0; 4];
    let whole = file.read_exact(&mut magic).and_then(|()| file.rewind());
    whole.map_err(|error| format!("cannot read it: {error}"))?;
    let mut frames = Vec::new();
    if magic == PCAPNG_MAGIC {
        let mut reader = PcapNgReader::new(BufReader::new(file)).map_err(wrong)?;
        while let Some(block) = reader.next_block() {
            match block.map_err(wrong)? {
                Block::EnhancedPacket(packet) => frames.push(packet.data.into_owned()),
                Block::SimplePacket(packet) => frames.push(packet.data.into_owned()),
                _ => {}
            }
        }
    } else {
        let mut reader = PcapReader::new(BufReader::new(file)).map_err(wrong)?;
        if reader.header().datalink != DataLink::ETHERNET {
            return Err(format!("holds {:?} and not Ethernet frames", reader.header().datalink));
        }
        while let Some(packet) = reader.next_packet() {
            frames.push(packet.map_err(wrong)?.data.into_owned());
        }
    }
    Ok(frames)
}

/// Where a segment goes that its worker does not know.
fn handed_over(why: &Why) -> Option<String> {
    let (last, between) = why.handed_to.split_last()?;
    let over = match between {
        [] => String::new(),
        [one] => format!(", past core {one},"),
        more => format!(", past cores {},", more.iter().map(u16::to_string).collect::<Vec<_>>().join(", ")),
    };
    let end = if why.owner == Some(*last) {
        "whose flow it is"
    } else {
        "the last that is asked: nobody knows the flow"
    };
    Some(format!("handed    core {} does not know the flow: over to{over} core {last}, {end}", why.core))
}

fn text(why: &Why) -> String {
    let mut lines = vec![format!("frame     {} on {}, core {}", why.frame, why.device, why.core)];
    lines.extend(handed_over(why));
    for tried in &why.tried {
        let count = match tried.candidates.len() {
            0 => "no listener".to_owned(),
            1 => "1 listener".to_owned(),
            more => format!("{more} listeners"),
        };
        lines.push(format!("lookup    {}: {count}, {}", tried.key, tried.bucket));
        for candidate in tried.candidates.iter().filter(|_| tried.candidates.len() > 1) {
            let fd = candidate.fd.map_or_else(|| "closed".to_owned(), |fd| format!("fd={fd}"));
            let reuseport = if candidate.reuseport { " reuseport" } else { "" };
            let chosen = if candidate.chosen { "  <- this one" } else { "" };
            lines.push(format!("          {fd} score {}{reuseport}{chosen}", candidate.score));
        }
    }
    if let Some(belongs) = &why.belongs {
        lines.push(format!("belongs   to {belongs}"));
    }
    if let Some(listener) = &why.listener {
        let chosen = why.tried.last().and_then(|tried| {
            let how = if tried.kind == "exact" { "exact address" } else { "any-address" };
            tried.chosen_by.as_ref().map(|by| format!(": {how}, {by}"))
        });
        lines.push(format!("listener  fd={} {}{}", listener.fd, listener.local, chosen.unwrap_or_default()));
        lines.push(format!(
            "queues    {} of {} wait for accept, {} half-open",
            listener.recv_q, listener.send_q, listener.half_open
        ));
    }
    let name = why.reason.as_ref().or(why.outcome.as_ref()).cloned().unwrap_or_default();
    lines.push(format!("verdict   {} {name}: {}", why.verdict, why.sentence));
    if let Some(reply) = &why.reply {
        lines.push(format!("answer    {reply}"));
    }
    if !why.counters.is_empty() {
        lines.push(format!("counters  {} would grow", why.counters.join(", ")));
    }
    lines.join("\n") + "\n"
}
