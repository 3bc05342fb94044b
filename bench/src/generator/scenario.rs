//! What users want to know of a server before they rely on it, each a command: `hearken-load scenario NAME`.
//!
//! All run against a hearken in this process, so that each takes no more than a machine with two cores. Parts of a
//! scenario run one after the other on the same server and differ in one thing.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use listener::Stack;
use listener::types::{SockFd, Then};

use super::cli::RunArgs;
use super::device::{self, OwnSetup, SELF};
use super::find_max;
use super::plan::End;
use super::report::{Parts, Report};
use super::session::Session;
use super::spec::{Manner, Net, Ports, Rate, Spec};
use super::targets::Expect;

/// Where listeners are opened one by one.
const SERVER: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
/// A prefix with 256 addresses of the server's.
const MANY: &str = "198.18.1.0/24";
/// Listeners on each of those addresses.
const MANY_PORTS: Ports = Ports(1000, 1255);
/// Listeners that a churn opens and closes in a second, if it can.
const CHURN: f64 = 20_000.0;

/// Which.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Scenario {
    /// Clients connect, alone and then during a flood of SYNs from forged addresses
    Flood,
    /// The same SYNs to one listener and to 65,536
    Listeners,
    /// Connections to an accept queue of 16 that nobody empties, then to one that is emptied
    Overflow,
    /// SYNs to all ports, ten of which are open
    Scan,
    /// SYNs to one listener while nothing changes, then while others open and close
    Churn,
    /// SYNs to ports on which nobody listens
    Closed,
    /// The largest rate of SYNs and of connections, then half of each: latency per core
    Overview,
}

fn parse<T: std::str::FromStr<Err = String>>(text: &str) -> Option<T> {
    text.parse().ok()
}

/// A stream of SYNs to the server's port 80.
fn syns(name: &str, rate: f64) -> Spec {
    Spec {
        name: Some(name.into()),
        rate: Some(Rate(rate)),
        from: parse("198.19.128.0/17"),
        ..Spec::default()
    }
}

/// Clients that connect to the server's port 80.
fn clients(rate: f64) -> Spec {
    Spec { mode: Manner::Connect, from: parse("198.19.1.0/24"), ..syns("clients", rate) }
}

/// Runs `scenario` and shows what came of it.
///
/// # Errors
/// A server that does not start, or a file that cannot be written.
pub fn run(scenario: Scenario, args: &RunArgs) -> anyhow::Result<()> {
    ensure!(args.hgrm.is_none(), "--hgrm: a scenario has several histograms; use --json or --report");
    ensure!(args.device == SELF, "scenarios bring their own server; for others use syn, connect or mix");
    let syncookies =
        if matches!(scenario, Scenario::Flood | Scenario::Overflow) { 1 } else { args.syncookies };
    let local: Vec<Net> = [parse("198.18.0.1"), parse(MANY)].into_iter().flatten().collect();
    let extra = "[limits]\nconnections_per_core = 262144\nlisteners_max = 131072\n".to_owned();
    let wire = device::open_self(&OwnSetup { syncookies, local, extra }, &args.cores)?;
    let stack = Arc::clone(wire.own.as_ref().context("it is a server in this process")?.stack());
    let mut stage =
        Stage { session: Session::open(wire, &[syns("syn", 1000.0)], args)?, stack, args, parts: Vec::new() };
    let (title, what) = match scenario {
        Scenario::Flood => stage.flood()?,
        Scenario::Listeners => stage.listeners()?,
        Scenario::Overflow => stage.overflow()?,
        Scenario::Scan => stage.scan()?,
        Scenario::Churn => stage.churn()?,
        Scenario::Closed => stage.closed()?,
        Scenario::Overview => stage.overview()?,
    };
    let Stage { session, stack, parts, .. } = stage;
    drop(stack);
    session.close()?;
    let mut what = what;
    if args.search.find_max {
        what += " With --find-max the rates are those that the search for the largest begins with.";
    }
    let parts = Parts { title: title.to_owned(), what, parts };
    super::cli::publish_parts(&parts, args)
}

/// A server, and what was measured on it so far.
struct Stage<'a> {
    session: Session,
    stack: Arc<Stack>,
    args: &'a RunArgs,
    parts: Vec<Report>,
}

/// Title, and what is done. What came of it is said by the numbers' own sentences.
type Told = (&'static str, String);

impl Stage<'_> {
    fn listen(&self, port: u16, backlog: i32, then: Then) -> anyhow::Result<SockFd> {
        device::listen(&self.stack, SocketAddr::from((SERVER, port)), backlog, then)
    }

    /// The rate that was asked for, or `rate`.
    fn part(&mut self, title: &str, specs: &[Spec]) -> anyhow::Result<()> {
        ensure!(!self.session.interrupted(), "interrupted; the server has ended");
        crate::output::noteln!("{title}");
        self.session.load(specs)?;
        let (report, _) = if self.args.search.find_max {
            find_max::find(&mut self.session, title, &self.args.search)?
        } else {
            self.session.measure(title, (self.args.seconds, 1.0))?
        };
        self.parts.push(report);
        Ok(())
    }

    /// What the server does with a SYN.
    fn cookies(&self) -> String {
        let what = match self.args.syncookies {
            0 => "a SYN takes a request entry, and finds none once the queue is full",
            1 => "a SYN takes a request entry, or gets a cookie once the queue is full",
            _ => "every SYN gets a cookie and takes no memory",
        };
        format!("tcp_syncookies = {}: {what}.", self.args.syncookies)
    }

    fn flood(&mut self) -> anyhow::Result<Told> {
        self.listen(80, 128, Then::Close)?;
        let flood = syns("flood", 200e3);
        self.part("clients alone", &[clients(2e3)])?;
        self.part("clients in a flood", &[clients(2e3), flood])?;
        Ok((
            "Legitimate clients during a SYN flood",
            "2,000 clients a second connect to one listener with a backlog of 128, first alone, then during a flood of 200,000 \
             SYNs a second whose senders never answer. A client sends each segment once: what is lost stays lost. The \
             server makes request entries until its queue is full, then sends cookies (tcp_syncookies = 1)."
                .to_owned(),
        ))
    }

    fn listeners(&mut self) -> anyhow::Result<Told> {
        self.listen(80, 4096, Then::Queue)?;
        let many: Net = parse(MANY).context("a prefix")?;
        let start = Instant::now();
        for addr in 0..256u32 {
            for port in MANY_PORTS.0..=MANY_PORTS.1 {
                let addr = Ipv4Addr::from(many.addr.as_v4().unwrap_or_default() + addr);
                device::listen(&self.stack, SocketAddr::from((addr, port)), 16, Then::Queue)?;
            }
        }
        crate::output::noteln!("65,536 listeners opened in {:.2} s", start.elapsed().as_secs_f64());
        self.part("one listener", &[syns("one", 200e3)])?;
        let all = Spec { to: Some(many), port: Some(MANY_PORTS), ..syns("many", 200e3) };
        self.part("65,536 listeners, all alike", std::slice::from_ref(&all))?;
        self.part(
            "65,536 listeners, by Zipf's law",
            &[Spec { name: Some("zipf".into()), zipf: Some(1.0), ..all }],
        )?;
        Ok((
            "One listener against 65,536",
            format!(
                "The same 200,000 SYNs a second go to one listener, then to all of 65,536 listeners on 256 addresses and 256 \
                 ports, evenly and as skewed as real services are. {}",
                self.cookies()
            ),
        ))
    }

    fn overflow(&mut self) -> anyhow::Result<Told> {
        let full = self.listen(80, 16, Then::Queue)?;
        let open = |name: &str| Spec { end: Some(End::Open), name: Some(name.into()), ..clients(2e3) };
        self.part("nobody accepts", &[open("to a full queue")])?;
        self.stack.close(full, true).map_err(|error| anyhow::anyhow!("{}", error.sentence()))?;
        let emptied = self.listen(80, 16, Then::Queue)?;
        let (stack, stop) = (Arc::clone(&self.stack), AtomicBool::new(false));
        let accepted = AtomicU64::new(0);
        std::thread::scope(|scope| {
            let accepting = scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    match stack.accept(emptied) {
                        Ok(child) => {
                            accepted.fetch_add(1, Ordering::Relaxed);
                            // It is of no more use, and the table of connections is finite.
                            let _ = stack.close(child.fd, true);
                        }
                        Err(_) => std::thread::sleep(Duration::from_micros(200)),
                    }
                    stack.flush();
                }
            });
            let done = self.part("accepted at once", &[open("to a queue that is emptied")]);
            stop.store(true, Ordering::Relaxed);
            accepting.join().ok();
            done
        })?;
        let note = format!("{} connections were accepted.", accepted.load(Ordering::Relaxed));
        if let Some(part) = self.parts.last_mut() {
            part.notes.push(note);
        }
        Ok((
            "An accept queue overflows",
            "2,000 clients a second connect to a listener with a backlog of 16: first nobody accepts, then somebody does at once. \
             By Linux's rule 17 connections may wait, and a SYN that finds the queue full is dropped and counted \
             (ListenOverflows, ListenDrops): its client meets silence, not a RST, so that it tries again."
                .to_owned(),
        ))
    }

    fn scan(&mut self) -> anyhow::Result<Told> {
        for port in [22, 25, 53, 80, 110, 143, 443, 993, 5432, 8080] {
            self.listen(port, 128, Then::Queue)?;
        }
        let scan = Spec { port: Some(Ports(1, 65535)), expect: Some(Expect::Any), ..syns("scan", 100e3) };
        self.part("all ports, ten of them open", &[scan])?;
        Ok((
            "A port scan",
            "100,000 SYNs a second go to all ports of one address, ten of which are open. Due are a SYN-ACK from where somebody \
             listens, a RST from elsewhere."
                .to_owned(),
        ))
    }

    fn churn(&mut self) -> anyhow::Result<Told> {
        self.listen(80, 4096, Then::Queue)?;
        let still = syns("syn", 200e3);
        self.part("nothing changes", std::slice::from_ref(&still))?;
        let (stack, stop) = (Arc::clone(&self.stack), AtomicBool::new(false));
        let changes = std::thread::scope(|scope| {
            let changing = scope.spawn(|| churn(&stack, &stop));
            let done = self.part("listeners open and close", &[still]);
            stop.store(true, Ordering::Relaxed);
            let changes = changing.join().map_err(|_| anyhow::anyhow!("the churn panicked"))?;
            done.and(changes)
        })?;
        if let Some(part) = self.parts.last_mut() {
            part.notes.push(format!("{changes} listeners were opened and closed meanwhile."));
        }
        Ok((
            "Listeners come and go under load",
            "200,000 SYNs a second go to one listener; then the same while a thread opens and closes up to 20,000 other listeners a \
             second. None of that may cost a SYN its answer: the two parts should not differ."
                .to_owned(),
        ))
    }

    fn overview(&mut self) -> anyhow::Result<Told> {
        self.listen(80, 4096, Then::Close)?;
        for (name, spec) in [("SYNs", syns("syn", 250e3)), ("connections", clients(25e3))] {
            ensure!(!self.session.interrupted(), "interrupted; the server has ended");
            self.session.load(std::slice::from_ref(&spec))?;
            let (most, _) = find_max::find(&mut self.session, &format!("{name}: most"), &self.args.search)?;
            let scale = most.streams.iter().map(|stream| stream.due_rate).sum::<f64>() / spec.rate() / 2.0;
            self.parts.push(most);
            let title = format!("{name}: half of it");
            crate::output::noteln!("{title}");
            let (half, _) = self.session.measure(&title, (self.args.seconds, scale))?;
            self.parts.push(half);
        }
        Ok((
            "What this machine does",
            format!(
                "The largest rate at which at most {} % of the SYNs stay without a right answer, then half of that rate, at which \
                 latency means something; first SYNs alone, then whole connections. {}",
                self.args.search.loss,
                self.cookies()
            ),
        ))
    }

    fn closed(&mut self) -> anyhow::Result<Told> {
        let closed =
            Spec { port: Some(Ports(1, 65535)), expect: Some(Expect::Closed), ..syns("closed", 200e3) };
        self.part("closed ports only", &[closed])?;
        Ok((
            "Closed ports only",
            "200,000 SYNs a second go to ports on which nobody listens; due is a RST that acknowledges the SYN.".to_owned(),
        ))
    }
}

/// Opens and closes listeners on ports of their own until `stop`; how many.
fn churn(stack: &Stack, stop: &AtomicBool) -> anyhow::Result<u64> {
    let (begin, mut done) = (Instant::now(), 0u64);
    while !stop.load(Ordering::Relaxed) {
        if done as f64 >= begin.elapsed().as_secs_f64() * CHURN {
            std::thread::sleep(Duration::from_micros(500));
            continue;
        }
        let addr = SocketAddr::from((SERVER, 20_000 + (done % 1000) as u16));
        let fd = device::listen(stack, addr, 16, Then::Queue)?;
        if let Err(error) = stack.close(fd, false) {
            bail!("cannot close {addr}: {}", error.sentence());
        }
        done += 1;
    }
    Ok(done)
}
