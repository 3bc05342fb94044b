//! Sends forged SYNs with the options of Linux by one end of a veth, as fast as it carries them:
//! `flood IFACE SERVER_MAC SECONDS [PORT]`, from 198.19.0.0/16 to 198.18.0.1, port 9 if none is given. For wires of one's own: it
//! sends whatever it is told to.

use std::error::Error;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use hearken_bpf::flood::{Flood, Template};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("flood: {error}; usage: flood IFACE SERVER_MAC SECONDS [PORT]");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [iface, mac, seconds, rest @ ..] = &args[..] else { return Err("wanted three words".into()) };
    let port = rest.first().map_or(Ok(9), |port| port.parse())?;
    let ifindex = rustix::net::netdevice::name_to_index(
        rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)?,
        iface,
    )?;
    let octets: Result<Vec<u8>, _> = mac.split(':').map(|octet| u8::from_str_radix(octet, 16)).collect();
    let template = Template { frame: syn(&octets?, port), hosts: 65_536, forge_ack: false };
    let flood = Flood::with_sink(ifindex, &template)?;
    let begin = Instant::now();
    let sent = flood.run(u64::MAX, None, Duration::from_secs(seconds.parse()?))?;
    let rate = sent as f64 / begin.elapsed().as_secs_f64();
    let syn_acks = flood.answers()?.syn_acks;
    let answered = syn_acks as f64 / begin.elapsed().as_secs_f64();
    println!(
        "{sent} frames in {:?}, {rate:.0} a second; {syn_acks} SYN-ACKs came back, {answered:.0} a second",
        begin.elapsed()
    );
    Ok(())
}

/// A SYN with MSS, SACK, timestamps and window scale.
fn syn(server: &[u8], port: u16) -> Vec<u8> {
    let mut ip = vec![0x45, 0, 0, 60, 0, 1, 0x40, 0, 64, 6, 0, 0, 198, 19, 0, 0, 198, 18, 0, 1];
    let header = !fold(sum(&ip));
    ip[10..12].copy_from_slice(&header.to_be_bytes());
    let mut tcp = vec![4, 0];
    tcp.extend(port.to_be_bytes());
    tcp.extend([0, 0, 0, 7, 0, 0, 0, 0, 0xa0, 2, 0xfa, 0xf0, 0, 0, 0, 0]);
    tcp.extend([2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 3, 0xe8, 0, 0, 0, 0, 1, 3, 3, 7]);
    let segment = !fold(sum(&ip[12..20]) + 6 + 40 + sum(&tcp));
    tcp[16..18].copy_from_slice(&segment.to_be_bytes());
    [server, &[2, 0, 0, 0, 0, 9, 8, 0], &ip, &tcp].concat()
}

fn sum(octets: &[u8]) -> u32 {
    octets.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum()
}

fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    (sum + (sum >> 16)) as u16
}
