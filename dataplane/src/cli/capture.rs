//! `hearken capture`

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::{DataLink, PcapError};
use signal_hook::consts::{SIGINT, SIGTERM};

use super::{CliError, Done, ServerArgs, Span};
use crate::capture::filter::{Filter, WantedVerdict};
use crate::control::proto::{Capture, Captured, CapturedFrame, Request, SNAPLEN_DEFAULT};
use crate::hex;
use crate::log;

/// How often the server is asked for frames.
const ASK_EVERY: Duration = Duration::from_millis(50);
/// How long a frame of one worker waits for older ones of others: far longer than a burst takes, also one during which the
/// worker is put aside.
const SETTLED: Duration = Duration::from_secs(1);
/// Frames that wait at most.
const HELD_MAX: usize = 1 << 17;
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
        // The server reads both again; a mistake in them is the command line's.
        Filter::parse(&filter).map_err(CliError::Usage)?;
        verdict.parse::<WantedVerdict>().map_err(CliError::Usage)?;
        let mut server = server.connect()?;
        let super::Empty {} = server.call(&Request::Capture(Capture { filter, verdict, snaplen, sample }))?;
        let failed = |error: std::io::Error| match path.to_str() {
            Some("-") => CliError::from(error),
            _ => CliError::Run(format!("cannot write {}: {error}", path.display())),
        };
        let to: Box<dyn Write + '_> = if path.as_os_str() == "-" {
            Box::new(out)
        } else {
            Box::new(BufWriter::new(File::create(&path).map_err(failed)?))
        };
        let mut file = Frames::new(to, snaplen).map_err(failed)?;
        let end = duration.map(|span| Instant::now() + span.0);
        let interrupted = interrupted()?;
        let count = count.unwrap_or(u64::MAX);
        let (mut written, mut missed, mut held) = (0, 0, Held::default());
        loop {
            let captured: Captured = server.call(&Request::Captured {})?;
            missed = captured.missed.max(missed);
            // Before any frame: a file without one is to be readable too.
            file.describe(&captured.devices).map_err(failed)?;
            let (now, idle) = (Instant::now(), captured.frames.is_empty());
            held.add(captured, now);
            let over = written + held.frames.len() as u64 >= count
                || end.is_some_and(|end| now >= end)
                || interrupted.load(Ordering::Relaxed);
            let left = usize::try_from(count - written).unwrap_or(usize::MAX);
            for frame in held.take(now, over).take(left) {
                file.write(&frame).map_err(failed)?;
                written += 1;
            }
            // What was written is whole after each round.
            file.flush().map_err(failed)?;
            if over {
                break;
            }
            if idle {
                std::thread::sleep(ASK_EVERY);
            }
        }
        log::say(format_args!("{written} frames written to {}, {missed} missed", path.display()));
        Ok(())
    }
}

/// Raised by SIGINT and SIGTERM: what is held is to be written before the end.
fn interrupted() -> Result<Arc<AtomicBool>, CliError> {
    let raised = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&raised))
            .map_err(|error| CliError::Run(format!("cannot take signals: {error}")))?;
    }
    Ok(raised)
}

/// Frames in the order of their times. A worker's frames come in order; what another one has taken before them may still
/// be on its way, so they are held until that would have come.
#[derive(Default)]
struct Held {
    /// With when they came here.
    frames: Vec<(CapturedFrame, Instant)>,
    several: bool,
}

impl Held {
    fn add(&mut self, captured: Captured, now: Instant) {
        self.several = captured.workers > 1;
        self.frames.extend(captured.frames.into_iter().map(|frame| (frame, now)));
        // Stable: frames of one burst have the same time.
        self.frames.sort_by_key(|(frame, _)| frame.unix_ns);
    }

    /// The frames that nothing will come before, or all of them.
    fn take(&mut self, now: Instant, all: bool) -> impl Iterator<Item = CapturedFrame> {
        let settled = |(_, came): &(CapturedFrame, Instant)| now.duration_since(*came) >= SETTLED;
        let ready = if all || !self.several {
            self.frames.len()
        } else {
            // Whatever is older than one that has been here for long enough has been on its way for longer.
            let waited = self.frames.iter().rposition(settled).map_or(0, |last| last + 1);
            waited.max(self.frames.len().saturating_sub(HELD_MAX))
        };
        self.frames.drain(..ready).map(|(frame, _)| frame)
    }
}

/// Why a file cannot be written; the library calls every such cause an error of reading.
fn cause(error: PcapError) -> io::Error {
    match error {
        PcapError::IoError(error) => error,
        error => io::Error::other(error.to_string()),
    }
}

/// A pcapng file with an interface for each port.
struct Frames<W: Write> {
    writer: PcapNgWriter<W>,
    interfaces: Vec<String>,
    snaplen: u32,
}

impl<W: Write> Frames<W> {
    fn new(to: W, snaplen: usize) -> io::Result<Self> {
        let snaplen = u32::try_from(snaplen).unwrap_or(u32::MAX);
        Ok(Self { writer: PcapNgWriter::new(to).map_err(cause)?, interfaces: Vec::new(), snaplen })
    }

    /// Describes the interfaces `names`, where they are not described yet.
    fn describe(&mut self, names: &[String]) -> io::Result<()> {
        names.iter().try_for_each(|name| self.interface(name).map(drop))
    }

    fn write(&mut self, frame: &CapturedFrame) -> io::Result<()> {
        let interface = self.interface(&frame.device)?;
        let comment = format!("{} {}, core {}", frame.verdict, frame.name, frame.core);
        let written = self.writer.write_pcapng_block(EnhancedPacketBlock {
            interface_id: interface,
            timestamp: Duration::from_nanos(frame.unix_ns),
            original_len: u32::try_from(frame.len).unwrap_or(u32::MAX),
            data: Cow::Owned(hex::decode(&frame.octets).unwrap_or_default()),
            options: vec![EnhancedPacketOption::Comment(Cow::Owned(comment))],
        });
        written.map(drop).map_err(cause)
    }

    /// The number of the interface `name`, which is described before its first frame.
    fn interface(&mut self, name: &str) -> io::Result<u32> {
        let known = self.interfaces.iter().position(|known| known == name);
        if known.is_none() {
            let described = self.writer.write_pcapng_block(InterfaceDescriptionBlock {
                linktype: DataLink::ETHERNET,
                snaplen: self.snaplen,
                options: vec![
                    InterfaceDescriptionOption::IfName(Cow::Borrowed(name)),
                    InterfaceDescriptionOption::IfTsResol(TIME_RESOLUTION),
                ],
            });
            described.map_err(cause)?;
            self.interfaces.push(name.to_owned());
        }
        Ok(known.unwrap_or(self.interfaces.len() - 1) as u32)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.get_mut().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn captured(workers: u16, frames: &[(u16, u64)]) -> Captured {
        let frame =
            |&(core, unix_ns): &(u16, u64)| CapturedFrame { core, unix_ns, ..CapturedFrame::default() };
        Captured { workers, frames: frames.iter().map(frame).collect(), ..Captured::default() }
    }

    fn taken(held: &mut Held, now: Instant, all: bool) -> Vec<u64> {
        held.take(now, all).map(|frame| frame.unix_ns).collect()
    }

    #[test]
    fn frames_of_several_workers_wait_for_older_ones() {
        let (mut held, start) = (Held::default(), Instant::now());
        held.add(captured(2, &[(0, 10), (0, 30), (0, 50)]), start);
        assert!(taken(&mut held, start, false).is_empty());
        let later = start + SETTLED / 2;
        held.add(captured(2, &[(1, 20), (1, 40), (1, 60)]), later);
        assert!(taken(&mut held, later, false).is_empty());
        assert_eq!(taken(&mut held, start + SETTLED, false), [10, 20, 30, 40, 50], "60 came later");
        assert_eq!(taken(&mut held, start + SETTLED, true), [60]);
    }

    #[test]
    fn frames_of_one_worker_do_not_wait() {
        let (mut held, now) = (Held::default(), Instant::now());
        held.add(captured(1, &[(0, 10), (0, 30)]), now);
        assert_eq!(taken(&mut held, now, false), [10, 30]);
    }

    #[test]
    fn memory_is_bounded() {
        let (mut held, now) = (Held::default(), Instant::now());
        let frames: Vec<_> = (0..HELD_MAX as u64 + 7).map(|number| (0, number)).collect();
        held.add(captured(2, &frames), now);
        assert_eq!(taken(&mut held, now, false), (0..7).collect::<Vec<_>>());
    }
}
