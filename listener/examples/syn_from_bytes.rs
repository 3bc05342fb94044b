//! From bytes to bytes: reads a SYN out of an Ethernet frame, lets a [`Core`] answer it, writes the SYN-ACK as an Ethernet
//! frame; then the client's ACK, and accept(). `cargo run -p hearken-listener --example syn_from_bytes`
//!
//! Headers are read and written by the crate etherparse; any parser will do, as long as it has checked lengths and checksums.

use std::error::Error;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TcpOptionElement, TransportSlice};
use listener::config::{Device, Secret, StackConfig};
use listener::core::Found;
use listener::limits::Limits;
use listener::segment::{FlowKey, OutSegment, Segment, TcpOptions, Verdict, flag};
use listener::sockaddr::{Caller, Family};
use listener::sysctl::Sysctl;
use listener::types::{DevIndex, Nanos, SegSeq, TcpPort};
use listener::{Core, Stack};

const SERVER: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
const CLIENT: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);
const SERVER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

fn main() -> Result<(), Box<dyn Error>> {
    let (stack, mut cores) = host()?;
    let core = &mut cores[0];
    let fd = stack.socket(Family::Inet, 0)?;
    stack.bind(fd, SocketAddr::from((SERVER, 80)).into(), Caller::ROOT)?;
    stack.listen(fd, 128)?;

    let syn = client(1000, None)?;
    show("client", &syn)?;
    let syn_ack = answer(core, &syn, Nanos(0))?.ok_or("the SYN was not answered")?;
    show("server", &syn_ack)?;

    let iss = segment(&syn_ack)?.seq;
    let ack = client(1001, Some(iss.0.wrapping_add(1)))?;
    show("client", &ack)?;
    if answer(core, &ack, Nanos(1_000_000))?.is_some() {
        return Err("the ACK was answered".into());
    }
    let accepted = stack.accept(fd)?;
    println!("accept() = fd {}, peer port {}", accepted.fd.0, accepted.peer.port.0);
    Ok(())
}

/// A host with one address and one worker.
fn host() -> Result<(Stack, Vec<Core>), Box<dyn Error>> {
    let device = Device {
        name: "d0".to_owned(),
        index: DevIndex(1),
        addresses: vec![(IpAddr::from(SERVER).into(), 24)],
        any_ip: Vec::new(),
        mtu: 1500,
    };
    let secret = Secret::from_seed(1);
    let (sysctl, devices, limits) = (Sysctl::default(), vec![device], Limits::TINY);
    Ok(Stack::new(StackConfig { sysctl, devices, cores: 1, limits, secret })?)
}

/// A frame of the client's: a SYN, or an ACK of everything before `ack`.
fn client(seq: u32, ack: Option<u32>) -> Result<Vec<u8>, Box<dyn Error>> {
    let ip = PacketBuilder::ethernet2(CLIENT_MAC, SERVER_MAC).ipv4(CLIENT.octets(), SERVER.octets(), 64);
    let tcp = ip.tcp(40_000, 80, seq, 64_240);
    let tcp = match ack {
        Some(ack) => tcp.ack(ack),
        None => tcp.syn().options(&[TcpOptionElement::MaximumSegmentSize(1460)])?,
    };
    let mut frame = Vec::new();
    tcp.write(&mut frame, &[])?;
    Ok(frame)
}

/// The answer to `frame`, if it gets one.
fn answer(core: &mut Core, frame: &[u8], now: Nanos) -> Result<Option<Vec<u8>>, Box<dyn Error>> {
    let seg = segment(frame)?;
    let mut found = [Found::default()];
    core.lookup_burst(&[seg], 1, &mut found);
    match core.rcv(&seg, found[0], now) {
        Verdict::Reply(_, out) => Ok(Some(emit(&seg.flow, &out)?)),
        Verdict::Consume(outcome) => {
            println!("        no answer: {}", outcome.sentence());
            Ok(None)
        }
        Verdict::Drop(reason) => Err(reason.sentence().into()),
    }
}

/// Reads an Ethernet frame.
fn segment(frame: &[u8]) -> Result<Segment, Box<dyn Error>> {
    let packet = SlicedPacket::from_ethernet(frame)?;
    let (Some(NetSlice::Ipv4(ip)), Some(TransportSlice::Tcp(tcp))) = (packet.net, packet.transport) else {
        return Err("no TCP over IPv4".into());
    };
    let mut options = TcpOptions::default();
    for option in tcp.options_iterator() {
        match option? {
            TcpOptionElement::MaximumSegmentSize(mss) => options.mss = mss,
            TcpOptionElement::WindowScale(scale) => options.wscale = Some(scale),
            TcpOptionElement::SelectiveAcknowledgementPermitted => options.sack_perm = true,
            TcpOptionElement::Timestamp(value, echo) => options.timestamps = Some((value, echo)),
            _ => {}
        }
    }
    let header = ip.header();
    let bits = [
        (tcp.fin(), flag::FIN),
        (tcp.syn(), flag::SYN),
        (tcp.rst(), flag::RST),
        (tcp.psh(), flag::PSH),
        (tcp.ack(), flag::ACK),
        (tcp.urg(), flag::URG),
        (tcp.ece(), flag::ECE),
        (tcp.cwr(), flag::CWR),
    ];
    Ok(Segment {
        flow: FlowKey {
            saddr: IpAddr::from(header.source_addr()).into(),
            daddr: IpAddr::from(header.destination_addr()).into(),
            sport: TcpPort(tcp.source_port()),
            dport: TcpPort(tcp.destination_port()),
        },
        dev: DevIndex(1),
        flags: bits.iter().filter(|(set, _)| *set).fold(0, |flags, (_, bit)| flags | bit),
        wnd: tcp.window_size(),
        payload_len: u16::try_from(tcp.payload().len())?,
        seq: SegSeq(tcp.sequence_number()),
        ack: SegSeq(if tcp.ack() { tcp.acknowledgment_number() } else { 0 }),
        options,
        ..Segment::default()
    })
}

/// Writes the answer to a segment of `flow`: its ends turned round.
fn emit(flow: &FlowKey, out: &OutSegment) -> Result<Vec<u8>, Box<dyn Error>> {
    let ip = PacketBuilder::ethernet2(SERVER_MAC, CLIENT_MAC).ipv4(SERVER.octets(), CLIENT.octets(), 64);
    let mut tcp = ip.tcp(flow.dport.0, flow.sport.0, out.seq.0, out.wnd);
    if out.flags & flag::SYN != 0 {
        tcp = tcp.syn();
    }
    if out.flags & flag::RST != 0 {
        tcp = tcp.rst();
    }
    if out.flags & flag::ACK != 0 {
        tcp = tcp.ack(out.ack.0);
    }
    if out.options.mss != 0 {
        tcp = tcp.options(&[TcpOptionElement::MaximumSegmentSize(out.options.mss)])?;
    }
    let mut frame = Vec::new();
    tcp.write(&mut frame, &[])?;
    Ok(frame)
}

fn show(who: &str, frame: &[u8]) -> Result<(), Box<dyn Error>> {
    let seg = segment(frame)?;
    let names = [(flag::SYN, "SYN"), (flag::ACK, "ACK"), (flag::RST, "RST"), (flag::FIN, "FIN")];
    let flags: Vec<_> = names.iter().filter(|(bit, _)| seg.has(*bit)).map(|(_, name)| *name).collect();
    println!("{who}: {} seq {} ack {}, {} octets", flags.join(" "), seg.seq.0, seg.ack.0, frame.len());
    let hex: Vec<_> = frame.iter().map(|octet| format!("{octet:02x}")).collect();
    hex.chunks(32).for_each(|line| println!("        {}", line.concat()));
    Ok(())
}
