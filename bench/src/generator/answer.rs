//! What came back, read by no code of the server's packet path but the header formats.

use dataplane::io::{Csum, RxMeta};
use dataplane::wire::checksum::{Sum, pseudo_v4, pseudo_v6};
use dataplane::wire::ether::{ETHERTYPE_IPV4, ETHERTYPE_IPV6};
use dataplane::wire::ipv4::{Ipv4Packet, PROTO_TCP};
use dataplane::wire::ipv6::Ipv6Packet;
use dataplane::wire::tcp::TcpHeader;
use listener::segment::{TcpOptions, flag};
use listener::types::InetAddr;

use super::template::Offer;

/// A TCP segment that came in.
#[derive(Clone, Copy, Debug)]
pub struct Heard {
    /// The server's end.
    pub src: (InetAddr, u16),
    /// Ours.
    pub dst: (InetAddr, u16),
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// Control bits.
    pub flags: u8,
    /// Octets of data.
    pub data: u32,
    /// Options.
    pub options: TcpOptions,
    /// Both checksums are right and the options well formed.
    pub whole: bool,
}

/// The segment in the packet of type `ethertype` at `at`; none if it holds none.
#[inline]
pub fn hear(frame: &[u8], (ethertype, at): (u16, usize), meta: RxMeta) -> Option<Heard> {
    let packet = frame.get(at..)?;
    let verify = meta.l4_csum != Csum::Good && meta.l4_csum != Csum::None;
    let (src, dst, segment, ip_whole, pseudo) = match ethertype {
        ETHERTYPE_IPV4 => {
            let ip = Ipv4Packet::parse(packet, false).ok()?;
            if ip.protocol != PROTO_TCP || ip.fragment {
                return None;
            }
            let ip_whole = meta.ip_csum == Csum::Good
                || (meta.ip_csum != Csum::Bad && Sum::of(&packet[..usize::from(ip.header_len)]).is_whole());
            let segment = &packet[usize::from(ip.header_len)..usize::from(ip.total_len)];
            let pseudo = pseudo_v4(ip.src, ip.dst, PROTO_TCP, segment.len() as u16);
            (InetAddr::v4(ip.src), InetAddr::v4(ip.dst), segment, ip_whole, pseudo)
        }
        ETHERTYPE_IPV6 => {
            let ip = Ipv6Packet::parse(packet).ok()?;
            if ip.protocol != PROTO_TCP {
                return None;
            }
            let segment = &packet[usize::from(ip.header_len)..ip.total_len as usize];
            let halves = |addr: InetAddr| (addr.hi(), addr.lo());
            let pseudo = pseudo_v6(halves(ip.src), halves(ip.dst), PROTO_TCP, segment.len() as u32);
            (ip.src, ip.dst, segment, true, pseudo)
        }
        _ => return None,
    };
    let tcp = TcpHeader::parse(segment).ok()?;
    let mut options = TcpOptions::default();
    let whole = ip_whole
        && (!verify || (meta.l4_csum != Csum::Bad && pseudo.plus(Sum::of(segment)).is_whole()))
        && tcp.read_options(segment, &mut options).is_ok();
    let data = segment.len() as u32 - u32::from(tcp.header_len);
    let TcpHeader { sport, dport, seq, ack, flags, .. } = tcp;
    Some(Heard { src: (src, sport), dst: (dst, dport), seq, ack, flags, data, options, whole })
}

impl Heard {
    /// The control bits that tell answers apart.
    pub const fn kind(&self) -> u8 {
        self.flags & (flag::SYN | flag::ACK | flag::RST | flag::FIN)
    }

    /// Whether a SYN-ACK to a SYN with `offer` and `tsval` may have these options: an MSS, and nothing that was not
    /// offered.
    pub fn options_fit(&self, offer: &Offer, tsval: u32) -> bool {
        let TcpOptions { mss, wscale, sack_perm, timestamps } = self.options;
        let echo = match timestamps {
            Some((_, echo)) => offer.timestamps && echo == tsval,
            None => true,
        };
        mss != 0 && (wscale.is_none() || offer.wscale.is_some()) && (!sack_perm || offer.sack) && echo
    }
}
