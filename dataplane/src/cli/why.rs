//! `hearken why`

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use clap::Args;
use etherparse::{PacketBuilder, TcpOptionElement};
use serde::Serialize;

use super::{CliError, Done, ServerArgs};
use crate::control::client::{Client, ClientError};
use crate::control::proto::{self, AskWhy, LINE_MAX, Request, Why};
use crate::hex;
use crate::savefile::{Record, Retarget, Savefile, To};
use crate::summary::parse_flags;

/// The MAC address that segments made here come from.
const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// The errno with which a server refuses a frame that is too long for it.
const TOO_LONG: &str = "EMSGSIZE";

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
    /// Try each frame of this file instead, one by one (pcap or pcapng; Ethernet, Linux cooked, raw IP or BSD loopback)
    #[arg(long, value_name = "FILE", conflicts_with_all = ["src", "dst", "flags", "seq", "ack", "len"])]
    pcap: Option<PathBuf>,
    /// Read the file's frames as if they were sent to the port's own MAC address
    #[arg(long, requires = "pcap")]
    to_us: bool,
    /// Read the file's packets as if they were sent to this address, and port if there is one, and to the port's own MAC
    /// address; once for each family
    #[arg(long, requires = "pcap", value_name = "ADDR[:PORT]")]
    to: Vec<To>,
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

/// A frame of a file, and what would become of it or why that is not known; as JSON.
#[derive(Serialize)]
struct Explained {
    /// Its place in the file, from 1.
    number: u64,
    /// What is not as it stands in the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
    #[serde(flatten)]
    why: Option<Why>,
    /// Why it is not tried: the end of a sentence that names the frame.
    #[serde(skip_serializing_if = "Option::is_none")]
    not_tried: Option<String>,
}

impl WhyArgs {
    pub(super) fn run(&self, out: &mut impl Write) -> Done {
        match (&self.pcap, self.src, self.dst) {
            (Some(file), ..) => self.explain_file(file, out),
            (None, Some(src), Some(dst)) => {
                let ask = self.ask(&self.segment(src, dst)?, true);
                let why: Why = self.server.connect()?.call(&ask)?;
                super::print(out, self.json, &why, || text(&why))
            }
            _ => Err(CliError::Usage("give SRC:PORT and DST:PORT, or --pcap FILE".into())),
        }
    }

    fn ask(&self, frame: &[u8], to_us: bool) -> Request {
        let (device, core) = (self.device.clone(), self.core);
        Request::Why(AskWhy { frame: hex::encode(frame), to_us, device, core })
    }

    /// Explains the frames of `file`, each by a request of its own; those that cannot be tried are named.
    fn explain_file(&self, file: &Path, out: &mut impl Write) -> Done {
        let retarget = Retarget::new(&self.to).map_err(CliError::Usage)?;
        let mut frames = Savefile::open(file).map_err(|error| CliError::Usage(error.to_string()))?;
        let mut server = self.server.connect()?;
        let (mut explained, mut ended) = (0, None);
        for record in &mut frames {
            let record = match record {
                Ok(record) => record,
                Err(error) => {
                    ended = Some(error);
                    break;
                }
            };
            let answer = self.explain(record, &retarget, &mut server)?;
            explained += u64::from(answer.why.is_some());
            if answer.number > 1 && !self.json {
                writeln!(out)?;
            }
            super::print(out, self.json, &answer, || answer.text())?;
        }
        out.flush()?;
        let number = frames.number();
        match ended {
            Some(error) if number == 0 => return Err(CliError::Usage(error.to_string())),
            // What could be read has been explained. Who does not read this has closed stderr.
            Some(error) => drop(writeln!(std::io::stderr(), "hearken: {error}")),
            None if number == 0 => {
                let _ = writeln!(
                    std::io::stderr(),
                    "hearken: {}: holds no frame, so there is nothing to explain",
                    file.display()
                );
            }
            None => {}
        }
        if number > 0 && explained == 0 {
            let (file, which) =
                (file.display(), if number == 1 { "its frame" } else { "none of its frames" });
            let can = if number == 1 { "cannot" } else { "can" };
            return Err(CliError::Run(format!("{file}: {which} {can} be tried; see above")));
        }
        Ok(())
    }

    /// What would become of the frame of `record`, or why it is not tried.
    fn explain(
        &self,
        record: Record,
        retarget: &Retarget,
        server: &mut Client,
    ) -> Result<Explained, CliError> {
        let not_tried = |number: u64, note: Option<String>, why: String| {
            Ok(Explained { number, note, why: None, not_tried: Some(why) })
        };
        let mut packet = match record {
            Record::Packet(packet) => packet,
            Record::Unusable { number, why } => return not_tried(number, None, why),
        };
        let (number, note) = (packet.number, packet.note());
        if let Err(why) = retarget.apply(&mut packet.frame) {
            return not_tried(number, note, why);
        }
        let to_us = self.to_us || packet.to_host || !retarget.is_empty();
        let ask = self.ask(&packet.frame, to_us);
        if proto::request_line(&ask).len() > LINE_MAX {
            let why = format!("has {} octets, more than the server takes in a request", packet.frame.len());
            return not_tried(number, note, why);
        }
        match server.call(&ask) {
            Ok(why) => Ok(Explained { number, note, why: Some(why), not_tried: None }),
            Err(ClientError::Refused(refusal)) if refusal.errno.as_deref() == Some(TOO_LONG) => {
                not_tried(number, note, refusal.message)
            }
            Err(error) => Err(error.into()),
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

impl Explained {
    fn text(&self) -> String {
        let number = self.number;
        let head = match (&self.not_tried, &self.note) {
            (Some(why), _) => format!("file      frame {number}, not tried: it {why}\n"),
            (None, Some(note)) => format!("file      frame {number}: {note}\n"),
            (None, None) => format!("file      frame {number}\n"),
        };
        head + &self.why.as_ref().map(text).unwrap_or_default()
    }
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
    let kept = matches!(&*why.verdict, "handover" | "kernel");
    let place = if kept { "before the workers".to_owned() } else { format!("core {}", why.core) };
    let mut lines = vec![format!("frame     {} on {}, {place}", why.frame, why.device)];
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
    let name = if name.is_empty() { name } else { format!(" {name}") };
    lines.push(format!("verdict   {}{name}: {}", why.verdict, why.sentence));
    if let Some(reply) = &why.reply {
        lines.push(format!("answer    {reply}"));
    }
    if !why.counters.is_empty() {
        lines.push(format!("counters  {} would grow", why.counters.join(", ")));
    }
    lines.join("\n") + "\n"
}
