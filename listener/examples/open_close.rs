//! How fast listeners open and close, what one costs, and how long a bind to port 0 takes among taken ports:
//! `cargo run --release -p hearken-listener --example open_close [-- LISTENERS]`, 1,000,000 by default.
//!
//! Memory is counted from before the stack is built, so that tables of a fixed size count as well: what the allocator
//! holds, and, because the listening hash maps pages of its own, what the process has resident.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use listener::Stack;
use listener::config::{Device, Secret, StackConfig};
use listener::error::ListenError;
use listener::limits::Limits;
use listener::sockaddr::{Caller, Family, SockAddr};
use listener::sysctl::Sysctl;
use listener::types::{DevIndex, SockFd};

const TAKEN: u16 = 20_000;
const BINDS: u32 = 1000;
/// Listeners per address: few ports on many addresses, as a responder for a prefix has them.
const PORTS: u32 = 50;

fn main() -> ExitCode {
    let listeners = match std::env::args().nth(1).map(|word| word.parse::<u32>()) {
        None => 1_000_000,
        Some(Ok(listeners)) => listeners,
        Some(Err(error)) => {
            eprintln!("LISTENERS: {error}; wanted a number up to 4194303");
            return ExitCode::from(2);
        }
    };
    match measure(listeners) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(listeners: u32) -> Result<(), ListenError> {
    let resident = resident_bytes();
    let mut opened = None;
    let allocated = allocation_counter::measure(|| opened = Some(open_all(listeners)));
    let Some((stack, fds, opening)) = opened.transpose()? else { return Ok(()) };
    println!("opened {listeners} listeners in {opening:.2?}: {:.0} per second", rate(listeners, opening));
    let each =
        |bytes: i64| (bytes - (fds.capacity() * size_of::<SockFd>()) as i64) / i64::from(listeners.max(1));
    println!("bytes per listener: {} allocated", each(allocated.bytes_current));
    if let (Some(before), Some(now)) = (resident, resident_bytes()) {
        println!("bytes per listener: {} resident", each(now - before));
    }

    let wildcard = stack.socket(Family::Inet, 0)?;
    let began = Instant::now();
    let refused = stack.bind(wildcard, at(Ipv4Addr::UNSPECIFIED, 1), Caller::ROOT);
    println!(
        "bind to the wildcard of a port with {} owners: {:?} after {:.2?}",
        listeners / PORTS,
        refused,
        began.elapsed()
    );

    let began = Instant::now();
    fds.iter().try_for_each(|&fd| stack.close(fd, false))?;
    let closing = began.elapsed();
    println!("closed them in {closing:.2?}: {:.0} per second", rate(listeners, closing));
    autobind(&stack)
}

fn open_all(listeners: u32) -> Result<(Stack, Vec<SockFd>, Duration), ListenError> {
    let stack = stack(listeners);
    let mut fds = Vec::with_capacity(listeners as usize);
    let began = Instant::now();
    for number in 0..listeners {
        fds.push(open(&stack, number)?);
    }
    Ok((stack, fds, began.elapsed()))
}

/// Resident memory of this process, where there is a procfs to ask.
fn resident_bytes() -> Option<i64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().trim_end_matches(" kB").trim().parse::<i64>().ok().map(|kilobytes| kilobytes * 1024)
}

fn rate(count: u32, time: Duration) -> f64 {
    f64::from(count) / time.as_secs_f64()
}

/// A stack to which the whole of 198.18.0.0/15 is local.
fn stack(listeners: u32) -> Stack {
    let prefix = IpAddr::from(Ipv4Addr::new(198, 18, 0, 0)).into();
    let device = Device {
        name: "d0".to_owned(),
        index: DevIndex(1),
        addresses: Vec::new(),
        any_ip: vec![(prefix, 15)],
        mtu: 1500,
    };
    let limits = Limits { listeners_max: listeners.max(1), requests_per_core: 16, connections_per_core: 16 };
    let secret = Secret::from_seed(42);
    let config = StackConfig { sysctl: Sysctl::default(), devices: vec![device], cores: 1, limits, secret };
    match Stack::new(config) {
        Ok((stack, _)) => stack,
        Err(error) => {
            eprintln!("{error}");
            std::process::exit(2);
        }
    }
}

fn at(addr: Ipv4Addr, port: u16) -> SockAddr {
    SocketAddr::new(addr.into(), port).into()
}

fn open(stack: &Stack, number: u32) -> Result<SockFd, ListenError> {
    let addr = Ipv4Addr::from_bits(0xc612_0000 + number / PORTS);
    let fd = stack.socket(Family::Inet, 0)?;
    stack.bind(fd, at(addr, 1 + (number % PORTS) as u16), Caller::ROOT)?;
    stack.listen(fd, 128)?;
    Ok(fd)
}

fn autobind(stack: &Stack) -> Result<(), ListenError> {
    let addr = Ipv4Addr::new(198, 18, 0, 1);
    for port in 0..TAKEN {
        let fd = stack.socket(Family::Inet, 0)?;
        stack.bind(fd, at(addr, 32_768 + port), Caller::ROOT)?;
    }
    let (mut slowest, began) = (Duration::ZERO, Instant::now());
    for _ in 0..BINDS {
        let one = Instant::now();
        let fd = stack.socket(Family::Inet, 0)?;
        stack.bind(fd, at(addr, 0), Caller::ROOT)?;
        stack.close(fd, false)?;
        slowest = slowest.max(one.elapsed());
    }
    let mean = began.elapsed() / BINDS;
    println!("bind to port 0 with {TAKEN} ports taken: {mean:.2?} on average, {slowest:.2?} at most");
    Ok(())
}
