//! The log, and whatever else goes to standard error: written by a thread of its own, so that nobody who logs waits for
//! its reader, and a log that cannot be written ends nothing.
//!
//! # Protocol
//! Lines wait in a bounded queue. One that finds it full, or that cannot be written, is lost and counted; how many were
//! lost stands in front of the next line that can be written.
//!
//! # Form
//! Text for people, or one JSON object a line ([`Format`]). Where standard error is the journal's, each line begins with its
//! priority, `<6>` for information, as sd-daemon(3) has it, and carries no time, which the journal has itself.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt;
use std::io::{self, ErrorKind, IsTerminal, Write, stderr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender, bounded};
use rustix::event::{PollFd, PollFlags, poll};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::{FmtContext, MakeWriter};
use tracing_subscriber::registry::LookupSpan;

/// Lines that may wait: several starts' worth.
const LINES_MAX: usize = 4096;

/// Where lines go once the log is installed.
static QUEUE: OnceLock<Sender<Message>> = OnceLock::new();
/// Lines that nobody will read, since the last that said so.
static LOST: AtomicU64 = AtomicU64::new(0);

/// Whether what goes to standard error is JSON.
static JSON: AtomicBool = AtomicBool::new(false);
/// Whether it goes to the journal.
static JOURNAL: AtomicBool = AtomicBool::new(false);

/// How lines of the log look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people
    #[default]
    Text,
    /// One JSON object a line, for programs
    Json,
}

/// What is logged, and how.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// How lines look.
    pub format: Format,
    /// Steps above `info` (1: debug, 2: trace) or below it (-1: warn, -2: error, -3: nothing). 0: what `HEARKEN_LOG` asks for,
    /// else `info`.
    pub verbosity: i8,
}

impl Options {
    fn filter(self) -> EnvFilter {
        let level = match self.verbosity {
            0 => {
                return EnvFilter::try_from_env("HEARKEN_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
            }
            2.. => "trace",
            1 => "debug",
            -1 => "warn",
            -2 => "error",
            _ => "off",
        };
        EnvFilter::new(level)
    }
}

enum Message {
    Line(Vec<u8>),
    /// Answered when all lines before it are written or lost.
    Flush(Sender<()>),
}

/// Sends the log of this process to standard error from now on. What panics say goes there too.
///
/// # Errors
/// Standard error cannot be had, or there is no thread for it.
pub fn install(options: Options) -> io::Result<()> {
    let to = stderr().as_fd().try_clone_to_owned()?;
    JOURNAL.store(is_journal(&to, std::env::var("JOURNAL_STREAM").ok().as_deref()), Ordering::Relaxed);
    JSON.store(options.format == Format::Json, Ordering::Relaxed);
    let (sender, receiver) = bounded(LINES_MAX);
    thread::Builder::new().name("log".into()).spawn(move || write_all(&receiver, &LOST, &mut Patient(to)))?;
    // A second call finds the first one's queue, and its own ends with its thread.
    let _ = QUEUE.set(sender);
    let log = tracing_subscriber::fmt().with_env_filter(options.filter()).with_writer(Lines);
    // A second call finds the first one's subscriber.
    let _ = match (options.format, JOURNAL.load(Ordering::Relaxed)) {
        (Format::Json, _) => log.json().map_event_format(Prioritized).try_init(),
        (Format::Text, true) => {
            log.with_ansi(false).without_time().with_level(false).map_event_format(Prioritized).try_init()
        }
        (Format::Text, false) => log.with_ansi(stderr().is_terminal()).try_init(),
    };
    std::panic::set_hook(Box::new(|panic| {
        let trace = Backtrace::capture();
        match trace.status() {
            BacktraceStatus::Captured => tracing::error!("{panic}\n{trace}"),
            _ => tracing::error!("{panic}"),
        }
    }));
    Ok(())
}

/// True if `to` is the stream that `JOURNAL_STREAM` names by device and inode (systemd.exec(5)).
fn is_journal(to: &OwnedFd, stream: Option<&str>) -> bool {
    let Ok(stat) = rustix::fs::fstat(to) else { return false };
    stream.is_some_and(|stream| stream == format!("{}:{}", stat.st_dev, stat.st_ino))
}

/// The priority of syslog(3) for `level`, as the journal reads it in front of a line.
fn priority(level: Level) -> &'static str {
    match level {
        Level::ERROR => "<3>",
        Level::WARN => "<4>",
        Level::INFO => "<6>",
        Level::DEBUG | Level::TRACE => "<7>",
    }
}

/// `inner`, with the priority in front of each line of an event where the journal reads it.
struct Prioritized<F>(F);

impl<S, N, F> FormatEvent<S, N> for Prioritized<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        if !JOURNAL.load(Ordering::Relaxed) {
            return self.0.format_event(context, writer, event);
        }
        let mut text = String::new();
        self.0.format_event(context, Writer::new(&mut text), event)?;
        let priority = priority(*event.metadata().level());
        text.lines().try_for_each(|line| writeln!(writer, "{priority}{line}"))
    }
}

/// `text` as it goes to standard error: JSON or lines with their priority, where that is asked for.
fn framed(text: &str, level: Level) -> String {
    let priority = if JOURNAL.load(Ordering::Relaxed) { priority(level) } else { "" };
    if JSON.load(Ordering::Relaxed) {
        let line = serde_json::json!({"level": level.as_str(), "fields": {"message": text}});
        return format!("{priority}{line}\n");
    }
    text.lines().map(|line| format!("{priority}{line}\n")).collect()
}

/// Writes `text` to standard error, behind what is logged already, as an error. Never waits, once the log is installed.
pub fn say(text: impl fmt::Display) {
    let line = framed(&text.to_string(), Level::ERROR).into_bytes();
    match QUEUE.get() {
        Some(queue) => enqueue(queue, line),
        None => {
            // Nobody is left to tell.
            let _ = stderr().write_all(&line);
        }
    }
}

/// Waits until all that was logged before is written, `limit` at most.
pub fn flush(limit: Duration) {
    let Some(queue) = QUEUE.get() else { return };
    let until = Instant::now() + limit;
    let (sender, done) = bounded(1);
    if queue.send_deadline(Message::Flush(sender), until).is_ok() {
        let _ = done.recv_deadline(until);
    }
}

fn enqueue(queue: &Sender<Message>, line: Vec<u8>) {
    if queue.try_send(Message::Line(line)).is_err() {
        LOST.fetch_add(1, Ordering::Relaxed);
    }
}

/// What `tracing` writes to: each event is one line, written at once.
#[derive(Clone, Copy, Debug)]
struct Lines;

impl MakeWriter<'_> for Lines {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        Self
    }
}

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if let Some(queue) = QUEUE.get() {
            enqueue(queue, line.to_vec());
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The thread: writes lines until all senders are gone.
fn write_all(messages: &Receiver<Message>, lost: &AtomicU64, to: &mut impl Write) {
    for message in messages {
        match message {
            Message::Line(line) => {
                let before = lost.swap(0, Ordering::Relaxed);
                if before > 0 {
                    let told = format!("{before} lines of the log are lost: they could not be written");
                    let told = framed(&told, Level::WARN);
                    if to.write_all(told.as_bytes()).is_err() {
                        lost.fetch_add(before, Ordering::Relaxed);
                    }
                }
                if to.write_all(&line).is_err() {
                    lost.fetch_add(1, Ordering::Relaxed);
                }
            }
            Message::Flush(done) => {
                let _ = done.send(());
            }
        }
    }
}

/// A descriptor that waits for its reader, also if somebody has made it nonblocking.
struct Patient(OwnedFd);

impl Write for Patient {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        loop {
            match rustix::io::write(&self.0, octets).map_err(io::Error::from) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    poll(&mut [PollFd::new(&self.0, PollFlags::OUT)], None)?;
                }
                written => return written,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes nothing while it is full.
    #[derive(Default)]
    struct Disk {
        full: bool,
        text: String,
    }

    impl Write for Disk {
        fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
            if self.full {
                return Err(ErrorKind::StorageFull.into());
            }
            self.text += std::str::from_utf8(octets).expect("UTF-8");
            Ok(octets.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn log(disk: &mut Disk, lost: &AtomicU64, lines: &[&str]) {
        let (sender, receiver) = bounded(lines.len() + 1);
        for line in lines {
            sender.send(Message::Line(format!("{line}\n").into())).expect("room");
        }
        let (done, flushed) = bounded(1);
        sender.send(Message::Flush(done)).expect("room");
        drop(sender);
        write_all(&receiver, lost, disk);
        flushed.try_recv().expect("all is written or lost");
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted_and_told() {
        let (mut disk, lost) = (Disk::default(), AtomicU64::new(0));
        log(&mut disk, &lost, &["one"]);
        disk.full = true;
        log(&mut disk, &lost, &["two", "three"]);
        assert_eq!(lost.load(Ordering::Relaxed), 2);
        disk.full = false;
        log(&mut disk, &lost, &["four", "five"]);
        assert_eq!(disk.text, "one\n2 lines of the log are lost: they could not be written\nfour\nfive\n");
    }

    #[test]
    fn the_journal_is_known_by_its_stream() {
        let file: OwnedFd = tempfile::tempfile().expect("a file").into();
        let stat = rustix::fs::fstat(&file).expect("its status");
        assert!(is_journal(&file, Some(&format!("{}:{}", stat.st_dev, stat.st_ino))));
        assert!(!is_journal(&file, Some(&format!("{}:{}", stat.st_dev, stat.st_ino + 1))));
        assert!(!is_journal(&file, Some("")) && !is_journal(&file, None));
    }

    #[test]
    fn a_full_queue_loses_lines_and_holds_up_nobody() {
        let (queue, _nobody_reads) = bounded(1);
        let before = LOST.load(Ordering::Relaxed);
        (0..3).for_each(|_| enqueue(&queue, b"line\n".to_vec()));
        assert_eq!(LOST.load(Ordering::Relaxed) - before, 2);
    }
}
