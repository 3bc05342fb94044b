//! ARP and neighbour discovery, from the asking and from the asked side: the sources of the flows are addresses that
//! somebody may want to reply to, and the server's MAC address has to be found out.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use dataplane::io::{Frame, PacketIo, TxOffload};
use dataplane::wire::arp::{self, ArpPacket};
use dataplane::wire::checksum::{Sum, pseudo_v6};
use dataplane::wire::ether::{ETHERTYPE_ARP, ETHERTYPE_IPV6, EtherHeader, MacAddr};
use dataplane::wire::ndp::{self, Advertisement, Solicitation};
use dataplane::wire::vlan::{self, Tci};
use dataplane::wire::{ipv6, ndp::solicited_node};
use listener::types::InetAddr;

/// How long one question may go without an answer before it is asked again.
const ASK_EVERY: Duration = Duration::from_millis(200);

/// Octets of an ICMPv6 neighbour message with one link address.
const ND_LEN: usize = 32;

/// Where the packet begins, behind MAC addresses and tags, and its EtherType.
pub fn packet(frame: &[u8]) -> Option<(u16, usize)> {
    let header = EtherHeader::parse(frame)?;
    let (_, ethertype, l2_len) = vlan::Tags::read(frame, header.ethertype, None).ok()?;
    Some((ethertype, l2_len))
}

/// Makes a question for the MAC address of one of `owns` its answer; false if it is none.
pub fn answer<F: Frame>(frame: &mut F, mac: MacAddr, owns: impl Fn(InetAddr) -> bool) -> bool {
    let bytes = frame.bytes();
    let (Some(header), Some((ethertype, at))) = (EtherHeader::parse(bytes), packet(bytes)) else {
        return false;
    };
    let reply = match ethertype {
        ETHERTYPE_ARP => match ArpPacket::parse(&bytes[at..]) {
            Some(ask) if ask.op == arp::REQUEST && owns(InetAddr::v4(ask.tpa)) => {
                let reply = ArpPacket { op: arp::REPLY, sha: mac, spa: ask.tpa, tha: ask.sha, tpa: ask.spa };
                reply.emit().to_vec()
            }
            _ => return false,
        },
        ETHERTYPE_IPV6 => match solicitation(&bytes[at..]) {
            Some((target, from)) if owns(target) => {
                let solicited = !from.is_any();
                let dst = if solicited { from } else { ndp::ALL_NODES };
                let message = Advertisement { target, mac, dst, solicited }.emit();
                [&header_v6(target, dst, message.len())[..], &message].concat()
            }
            _ => return false,
        },
        _ => return false,
    };
    if !frame.set_len(at + reply.len()) {
        return false;
    }
    let bytes = frame.bytes_mut();
    bytes[..6].copy_from_slice(&header.src.0);
    bytes[6..12].copy_from_slice(&mac.0);
    bytes[at..].copy_from_slice(&reply);
    frame.set_tx_offload(TxOffload::default());
    true
}

/// The address that `packet` solicits, and who asks.
fn solicitation(packet: &[u8]) -> Option<(InetAddr, InetAddr)> {
    let ip = ipv6::Ipv6Packet::parse(packet).ok()?;
    let message = packet.get(usize::from(ip.header_len)..ip.total_len as usize)?;
    if ip.protocol != ipv6::PROTO_ICMPV6 || ip.hop_limit != ndp::HOP_LIMIT {
        return None;
    }
    Solicitation::parse(message).map(|asked| (asked.target, ip.src))
}

fn header_v6(src: InetAddr, dst: InetAddr, len: usize) -> [u8; ipv6::HEADER_LEN] {
    let mut header = [0; ipv6::HEADER_LEN];
    header[0] = 0x60;
    header[4..6].copy_from_slice(&(len as u16).to_be_bytes());
    header[6..8].copy_from_slice(&[ipv6::PROTO_ICMPV6, ndp::HOP_LIMIT]);
    for (at, addr) in [(8, src), (24, dst)] {
        header[at..at + 8].copy_from_slice(&addr.hi().to_be_bytes());
        header[at + 8..at + 16].copy_from_slice(&addr.lo().to_be_bytes());
    }
    header
}

/// A question for the MAC address of `target`, from `source` at `mac`.
fn question(target: InetAddr, source: InetAddr, mac: MacAddr, tag: Option<u16>) -> Vec<u8> {
    let v4 = target.as_v4().zip(source.as_v4());
    let group = solicited_node(target);
    let (dst, ethertype) = match v4 {
        Some(_) => (MacAddr::BROADCAST, ETHERTYPE_ARP),
        None => (MacAddr::ipv6_group(group.lo() as u32), ETHERTYPE_IPV6),
    };
    let first = if tag.is_some() { vlan::TPID_8021Q } else { ethertype };
    let mut frame = EtherHeader { dst, src: mac, ethertype: first }.emit().to_vec();
    if let Some(tci) = tag {
        frame.extend(vlan::emit(Tci(tci), ethertype));
    }
    if let Some((tpa, spa)) = v4 {
        frame.extend(ArpPacket { op: arp::REQUEST, sha: mac, spa, tha: MacAddr([0; 6]), tpa }.emit());
        return frame;
    }
    let mut message = vec![ndp::SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
    message.extend(target.hi().to_be_bytes());
    message.extend(target.lo().to_be_bytes());
    message.extend([1, 1]);
    message.extend(mac.0);
    let halves = |addr: InetAddr| (addr.hi(), addr.lo());
    let pseudo = pseudo_v6(halves(source), halves(group), ipv6::PROTO_ICMPV6, ND_LEN as u32);
    let sum = pseudo.plus(Sum::of(&message)).checksum();
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    frame.extend(header_v6(source, group, message.len()));
    frame.extend(message);
    frame
}

/// The MAC address of `target`, if `frame` tells it.
fn learn(frame: &[u8], target: InetAddr) -> Option<MacAddr> {
    let (ethertype, at) = packet(frame)?;
    match ethertype {
        ETHERTYPE_ARP => {
            let said = ArpPacket::parse(&frame[at..])?;
            (InetAddr::v4(said.spa) == target && said.op == arp::REPLY).then_some(said.sha)
        }
        ETHERTYPE_IPV6 => {
            let ip = ipv6::Ipv6Packet::parse(&frame[at..]).ok()?;
            let message = frame.get(at + usize::from(ip.header_len)..)?;
            let advertised = [target.hi().to_be_bytes(), target.lo().to_be_bytes()].concat();
            let ours = ip.protocol == ipv6::PROTO_ICMPV6
                && message.first() == Some(&ndp::ADVERTISEMENT)
                && message.get(8..24) == Some(&advertised);
            // Of an advertisement without its link address the sender's will do: the link is one hop long.
            if ours { EtherHeader::parse(frame).map(|header| header.src) } else { None }
        }
        _ => None,
    }
}

/// Asks for the MAC address of `target` until it is told, `patience` at most; answers questions for `source` meanwhile.
///
/// # Errors
/// Nobody answered.
pub fn resolve<I: PacketIo>(
    queues: &mut [I],
    target: InetAddr,
    (source, mac, tag): (InetAddr, MacAddr, Option<u16>),
    patience: Duration,
) -> anyhow::Result<MacAddr> {
    let frame = question(target, source, mac, tag);
    let (begin, mut asked) = (Instant::now(), None::<Instant>);
    while begin.elapsed() < patience {
        if asked.is_none_or(|asked| asked.elapsed() >= ASK_EVERY) {
            asked = Some(Instant::now());
            let io = queues.first_mut().context("the device has no queue")?;
            let mut buffer = io.alloc().context("the device has no buffer")?;
            anyhow::ensure!(buffer.set_len(frame.len()), "a buffer holds no {} octets", frame.len());
            buffer.bytes_mut().copy_from_slice(&frame);
            buffer.set_tx_offload(TxOffload::default());
            // What is not taken is asked again.
            let _ = io.tx_burst(&mut [Some(buffer)]);
        }
        for io in &mut *queues {
            let mut burst = [const { None }; 32];
            let received = io.rx_burst(&mut burst);
            for slot in &mut burst[..received] {
                let Some(mut frame) = slot.take() else { continue };
                if let Some(mac) = learn(frame.bytes(), target) {
                    return Ok(mac);
                }
                if answer(&mut frame, mac, |addr| addr == source) {
                    let _ = io.tx_burst(&mut [Some(frame)]);
                }
            }
        }
        std::thread::yield_now();
    }
    bail!(
        "nobody answered who has {target}, asked from {source} for {patience:?}; see that the server is up and on this \
         wire (and that it would answer {source}), or give its MAC address with --to-mac, or its router with --via"
    )
}
