//! `hearken-bench observe`: what it costs a worker to be looked at.
//!
//! # How it is measured
//! One hearken on `net_pcap` with `infinite_rx=1`, as in [`crate::packets`], and in it one look after the other, round by
//! round, each round beginning with another one. A rate is the port's own counter over the time that the worker had the CPU, and a
//! look's ratio is to the rate without any in the same round. `plain, again` is looked at by nobody either: what its ratio
//! is off from 1 is the measurement's own error.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use dataplane::control::client::Client;
use dataplane::control::proto::{self, Captured, Latency, Request};
use serde::Serialize;

use crate::frames::{self, FRAMES, Kind, SERVER_MAC};
use crate::packets::on_cpu::OnCpu;
use crate::packets::server::{Server, Setup, beside_us};
use crate::packets::{Job, Memory, median, spread};
use crate::{machine, pcap};

/// A scrape that asks for all there is, native histograms included.
const SCRAPE: &[u8] = b"GET /metrics HTTP/1.0\r\nAccept: application/vnd.google.protobuf; \
    proto=io.prometheus.client.MetricFamily; encoding=delimited\r\n\r\n";

/// What a worker loses by snapshots, scrapes and captures
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How long each look is measured in each round
    #[arg(long = "for", alias = "seconds", default_value_t = 1.0, value_parser = crate::time::seconds, value_name = "TIME")]
    seconds: f64,
    /// How often each look has its turn
    #[arg(long, default_value_t = 15, value_name = "ROUNDS")]
    rounds: usize,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Memory; default: hugepages if enough are free
    #[arg(long, value_enum)]
    memory: Option<Memory>,
    /// CPU of those who look, CPU of the worker
    #[arg(long, value_delimiter = ',', default_values_t = [0, 1], value_name = "CPU,CPU")]
    cpus: Vec<usize>,
    /// hearken's binary; default: the one beside this
    #[arg(long, value_name = "FILE")]
    hearken: Option<PathBuf>,
}

/// Who looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    Nobody,
    /// `hearken latency`, so often a second.
    Snapshots(u32),
    /// Prometheus, once a second.
    Scrape,
    /// `hearken capture` with this filter, one frame of `sample` of what it takes.
    Capture {
        filter: &'static str,
        sample: u32,
    },
}

const LOOKS: [(&str, Look); 6] = [
    ("plain", Look::Nobody),
    ("plain, again", Look::Nobody),
    ("10 snapshots a second", Look::Snapshots(10)),
    ("a scrape a second", Look::Scrape),
    ("capture that takes nothing", Look::Capture { filter: "port 9", sample: 1 }),
    ("capture, 1 frame of 1,000", Look::Capture { filter: "", sample: 1000 }),
];

impl Look {
    /// Time from one look to the next.
    fn every(self) -> Duration {
        match self {
            Self::Nobody => Duration::MAX,
            Self::Snapshots(a_second) => Duration::from_secs(1) / a_second,
            Self::Scrape => Duration::from_secs(1),
            // As often as `hearken capture` does.
            Self::Capture { .. } => Duration::from_millis(50),
        }
    }

    /// Looks until `over` is closed, and says in `begun` once it does; returns what it has seen.
    fn run(self, place: &Place, begun: &Sender<()>, over: &Receiver<()>) -> anyhow::Result<Seen> {
        let mut client = Client::connect(&place.socket)?;
        if let Self::Capture { filter, sample } = self {
            let (filter, verdict, snaplen) = (filter.to_owned(), "any".to_owned(), proto::SNAPLEN_DEFAULT);
            let capture = proto::Capture { filter, verdict, snaplen, sample };
            let _: serde_json::Value = client.call(&Request::Capture(capture))?;
        }
        begun.send(())?;
        let mut seen = Seen::default();
        if self == Self::Nobody {
            // Until it is over.
            let _ = over.recv();
            return Ok(seen);
        }
        let mut due = Instant::now();
        loop {
            self.once(&mut client, place, &mut seen)?;
            due += self.every();
            let wait = due.saturating_duration_since(Instant::now());
            if over.recv_timeout(wait) == Err(RecvTimeoutError::Disconnected) {
                return Ok(seen);
            }
        }
    }

    fn once(self, client: &mut Client, place: &Place, seen: &mut Seen) -> anyhow::Result<()> {
        match self {
            Self::Nobody => {}
            Self::Snapshots(_) => {
                let latency: Latency = client.call(&Request::Latency { core: None })?;
                // A worker that had no CPU for so long has answered nothing.
                seen.looks += u64::from(latency.cores.iter().all(|core| !core.late));
            }
            Self::Scrape => {
                ensure!(scrape(place.metrics)? > 1000, "the page is empty");
                seen.looks += 1;
            }
            Self::Capture { .. } => {
                let captured: Captured = client.call(&Request::Captured {})?;
                seen.frames += captured.frames.len() as u64;
                seen.missed = captured.missed;
                seen.looks += 1;
            }
        }
        Ok(())
    }
}

/// What a look brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Seen {
    looks: u64,
    frames: u64,
    missed: u64,
}

/// Octets of one page.
fn scrape(metrics: SocketAddr) -> anyhow::Result<usize> {
    let mut stream = TcpStream::connect(metrics)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(SCRAPE)?;
    let mut page = Vec::new();
    stream.read_to_end(&mut page).context("the page")?;
    ensure!(page.starts_with(b"HTTP/1.1 200 "), "no page: {}", String::from_utf8_lossy(&page));
    Ok(page.len())
}

/// Where a hearken is looked at.
struct Place {
    socket: PathBuf,
    metrics: SocketAddr,
}

/// One turn of one look.
#[derive(Clone, Copy, Debug)]
struct Sample {
    /// Frames per second that the worker had the CPU.
    pps: f64,
    /// What the other threads of hearken had of a CPU.
    control_share: f64,
    seen: Seen,
}

fn turn(server: &mut Server, place: &Place, look: Look, job: &Job<'_>) -> anyhow::Result<Sample> {
    let (begun, begins) = channel();
    let (goes_on, over) = channel::<()>();
    thread::scope(|scope| {
        let looking = scope.spawn(move || {
            core_affinity::set_for_current(core_affinity::CoreId { id: job.cpus[0] });
            look.run(place, &begun, &over)
        });
        // An error is the thread's to tell.
        let _ = begins.recv();
        thread::sleep(job.warm_up);
        let from = Count::of(server)?;
        thread::sleep(job.measure);
        let to = Count::of(server)?;
        drop(goes_on);
        let seen = looking.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        let (busy, _) = to.on_cpu.busiest_since(&from.on_cpu);
        let pps = (to.frames - from.frames) as f64 / busy.as_secs_f64();
        Ok(Sample { pps, control_share: to.on_cpu.others_since(&from.on_cpu), seen })
    })
}

/// Time and frames at one moment.
struct Count {
    on_cpu: OnCpu,
    frames: u64,
}

impl Count {
    fn of(server: &mut Server) -> anyhow::Result<Self> {
        let (_, (on_cpu, frames, _)) = server.count()?;
        Ok(Self { on_cpu, frames })
    }
}

/// What is said of one look.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Row {
    look: &'static str,
    /// Median of the rounds, millions of frames a second.
    mpps: f64,
    mpps_min: f64,
    mpps_max: f64,
    /// Median, least and greatest of the rounds' ratios to `plain`.
    ratio: f64,
    ratio_min: f64,
    ratio_max: f64,
    /// Quartiles of the same.
    ratio_p25: f64,
    ratio_p75: f64,
    /// Median of what hearken's other threads took of a CPU.
    control_share: f64,
    /// Looks, frames that came out of them, and frames that found no place, in all rounds.
    looks: u64,
    frames: u64,
    missed: u64,
}

#[derive(Debug, Serialize)]
struct Report {
    bench: &'static str,
    machine: machine::Machine,
    memory: Memory,
    seconds: f64,
    rounds: usize,
    rows: Vec<Row>,
}

impl Args {
    /// Runs the rounds and prints the table, or JSON.
    ///
    /// # Errors
    /// hearken does not run, or does not answer who looks.
    pub fn run(&self) -> anyhow::Result<()> {
        ensure!(self.cpus.len() == 2, "--cpus wants two numbers, such as 0,1");
        ensure!(self.rounds > 0 && self.seconds > 0.0, "--rounds and --for want more than 0");
        let memory = self.memory.unwrap_or_else(Memory::here);
        let dir = tempfile::Builder::new().prefix("hearken-observe").tempdir()?;
        let file = dir.path().join("syn.pcap");
        pcap::write(&file, &frames::frames(Kind::Syn, FRAMES, SERVER_MAC))?;
        let hearken = self.hearken.clone().unwrap_or_else(beside_us);
        let job = Job {
            hearken: &hearken,
            pcap: &file,
            memory,
            burst: 32,
            cpus: [self.cpus[0], self.cpus[1]],
            warm_up: Duration::from_millis(100),
            measure: Duration::from_secs_f64(self.seconds),
        };
        let samples = self.rounds(&job)?;
        let rows = LOOKS.iter().zip(&samples).map(|((name, _), own)| row(name, own, &samples[0])).collect();
        let machine = machine::Machine::here();
        let report =
            Report { bench: "observe", machine, memory, seconds: self.seconds, rounds: self.rounds, rows };
        if self.json {
            crate::output::sayln!("{}", serde_json::to_string_pretty(&report)?);
        } else {
            crate::output::say!("{}", table(&report));
        }
        Ok(())
    }

    /// The samples of each look, by round.
    fn rounds(&self, job: &Job<'_>) -> anyhow::Result<[Vec<Sample>; LOOKS.len()]> {
        let metrics = free_address()?;
        let extra = format!("[metrics]\nlisten = \"{metrics}\"\n");
        let mut server = Server::start_with(job, &job.device(), Setup::COOKIES, &extra)?;
        let place = Place { socket: server.socket(), metrics };
        thread::sleep(Duration::from_millis(500));
        let mut samples: [Vec<Sample>; LOOKS.len()] = Default::default();
        for round in 0..self.rounds {
            for step in 0..LOOKS.len() {
                let at = (round + step) % LOOKS.len();
                let (name, look) = LOOKS[at];
                let sample = turn(&mut server, &place, look, job).context(name)?;
                check(name, look, sample.seen)?;
                samples[at].push(sample);
            }
            let own = |samples: &Vec<Sample>| format!("{:.3}", samples[round].pps / 1e6);
            let rates: Vec<String> = samples.iter().map(own).collect();
            crate::output::noteln!("round {}/{}: {} Mpps", round + 1, self.rounds, rates.join(", "));
        }
        server.stop()?;
        Ok(samples)
    }
}

/// A look that saw nothing of what it should have would cost nothing.
fn check(name: &str, look: Look, seen: Seen) -> anyhow::Result<()> {
    let good = match look {
        Look::Nobody => seen == Seen::default(),
        Look::Snapshots(_) | Look::Scrape => seen.looks > 0,
        Look::Capture { filter, .. } => filter.is_empty() == (seen.frames > 0),
    };
    ensure!(good, "{name}: {seen:?} is not what it should see");
    Ok(())
}

/// An address of loopback that nobody listens on.
fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr())?)
}

fn row(look: &'static str, own: &[Sample], plain: &[Sample]) -> Row {
    let rates: Vec<f64> = own.iter().map(|sample| sample.pps).collect();
    let mut ratios: Vec<f64> = own.iter().zip(plain).map(|(own, plain)| own.pps / plain.pps).collect();
    ratios.sort_by(f64::total_cmp);
    let quartile = |quarters: usize| ratios[(ratios.len() - 1) * quarters / 4];
    let ((mpps_min, mpps_max), (ratio_min, ratio_max)) = (spread(&rates), spread(&ratios));
    let sum = |of: fn(&Seen) -> u64| own.iter().map(|sample| of(&sample.seen)).sum();
    Row {
        look,
        mpps: median(&rates) / 1e6,
        mpps_min: mpps_min / 1e6,
        mpps_max: mpps_max / 1e6,
        ratio: median(&ratios),
        ratio_min,
        ratio_max,
        ratio_p25: quartile(1),
        ratio_p75: quartile(3),
        control_share: median(&own.iter().map(|sample| sample.control_share).collect::<Vec<_>>()),
        looks: sum(|seen| seen.looks),
        frames: sum(|seen| seen.frames),
        missed: sum(|seen| seen.missed),
    }
}

fn table(report: &Report) -> String {
    let Report { machine, memory, seconds, rounds, rows, .. } = report;
    let mut out = comfy_table::Table::new();
    out.load_style(comfy_table::presets::NOTHING);
    out.set_header([
        "looked at by",
        "Mpps",
        "to plain",
        "quartiles",
        "least, greatest",
        "control CPU",
        "frames",
        "missed",
    ]);
    for row in rows {
        out.add_row([
            row.look.to_owned(),
            format!("{:.2}", row.mpps),
            format!("{:.4}", row.ratio),
            format!("{:.4}, {:.4}", row.ratio_p25, row.ratio_p75),
            format!("{:.4}, {:.4}", row.ratio_min, row.ratio_max),
            format!("{:.1} %", row.control_share * 100.0),
            row.frames.to_string(),
            row.missed.to_string(),
        ]);
    }
    for column in 1..=7 {
        if let Some(column) = out.column_mut(column) {
            column.set_cell_alignment(comfy_table::CellAlignment::Right);
        }
    }
    format!(
        "{machine}\none worker, net_pcap with infinite_rx=1, SYNs answered by cookies, {memory}; medians of {rounds} rounds of \
         {seconds} s\n{out}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(rates: [f64; 5]) -> Vec<Sample> {
        let seen = Seen { looks: 2, frames: 3, missed: 1 };
        rates.map(|pps| Sample { pps, control_share: 0.25, seen }).to_vec()
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        let plain = samples([10e6, 20e6, 10e6, 10e6, 10e6]);
        let row = row("x", &samples([9e6, 20e6, 8e6, 11e6, 10e6]), &plain);
        assert_eq!((row.mpps, row.mpps_min, row.mpps_max), (10.0, 8.0, 20.0));
        assert_eq!((row.ratio, row.ratio_min, row.ratio_max), (1.0, 0.8, 1.1));
        assert_eq!((row.ratio_p25, row.ratio_p75), (0.9, 1.0));
        assert_eq!((row.looks, row.frames, row.missed, row.control_share), (10, 15, 5, 0.25));
    }

    #[test]
    fn a_look_that_sees_nothing_is_no_look() {
        let seen = |looks, frames| Seen { looks, frames, missed: 0 };
        for (_, look) in LOOKS {
            let (nothing, frames) =
                (check("", look, seen(0, 0)).is_ok(), check("", look, seen(20, 7)).is_ok());
            let wanted = match look {
                Look::Nobody => (true, false),
                Look::Snapshots(_) | Look::Scrape => (false, true),
                Look::Capture { filter: "", .. } => (false, true),
                Look::Capture { .. } => (true, false),
            };
            assert_eq!((nothing, frames), wanted, "{look:?}");
        }
    }
}
