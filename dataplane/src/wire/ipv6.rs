//! IPv6 headers and the extension headers in front of TCP and ICMPv6 (RFC 8200).

use listener::drop_reason::DropReason;
use listener::types::InetAddr;
use zerocopy::byteorder::network_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Octets of the fixed header.
pub const HEADER_LEN: usize = 40;
/// Hop limit of everything that is sent, neighbour discovery aside.
pub const HOP_LIMIT: u8 = 64;

/// ICMPv6.
pub const PROTO_ICMPV6: u8 = 58;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;

/// Routing headers that only a node which takes part may pass, even used up (`rpl_seg_enabled`, `seg6_enabled` = 0).
const ROUTING_RPL: u8 = 3;
const ROUTING_SEGMENT: u8 = 4;

const OPT_PAD1: u8 = 0;
const OPT_PADN: u8 = 1;
/// Octets of padding at a stretch: more is no alignment but a hidden channel (`ip6_parse_tlv`).
const PAD_MAX: usize = 7;
/// Options that count, padding aside, in one header (`max_hbh_opts_number`, `max_dst_opts_number`).
const OPTIONS_MAX: usize = 8;
/// Router alert (RFC 2711), and the octets of its value.
const OPT_ROUTER_ALERT: u8 = 5;
const ROUTER_ALERT_LEN: usize = 2;
/// RFC 5570: labels of a domain that nobody here has agreed on (`calipso_validate`).
const OPT_CALIPSO: u8 = 7;
/// RFC 9486; stands on a boundary of four octets.
const OPT_IOAM: u8 = 0x31;
/// The two bits that tell a node what to do with an option it does not know; zero is "skip it" (RFC 8200 §4.2).
const OPT_ACTION: u8 = 0xc0;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Raw {
    version_class_flow: U32,
    payload_len: U16,
    next_header: u8,
    hop_limit: u8,
    src: [U64; 2],
    dst: [U64; 2],
}

/// What a header and the extension headers behind it said, lengths found consistent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv6Packet {
    /// Source, as it stands there: a mapped address is not turned away here.
    pub src: InetAddr,
    /// Destination, likewise.
    pub dst: InetAddr,
    /// Protocol behind the extension headers.
    pub protocol: u8,
    /// Traffic class.
    pub tclass: u8,
    /// Hop limit.
    pub hop_limit: u8,
    /// Octets of the header and the extension headers: where `protocol` begins.
    pub header_len: u16,
    /// Octets of headers and payload; the frame may be longer (padding), never shorter.
    pub total_len: u32,
}

impl Ipv6Packet {
    /// Reads the header at the start of `bytes`.
    ///
    /// # Errors
    /// `IpTruncated`, `IpHeader`, `IpFragment` or `Ipv6Ext`.
    ///
    /// # Source
    /// Linux v6.18 `ip6_rcv_core`; extension headers as in `skip_extensions`.
    #[inline]
    pub fn parse(bytes: &[u8]) -> Result<Self, DropReason> {
        let (raw, _) = Raw::ref_from_prefix(bytes).map_err(|_| DropReason::IpTruncated)?;
        let first = raw.version_class_flow.get();
        if first >> 28 != 6 {
            return Err(DropReason::IpHeader);
        }
        let total_len = HEADER_LEN as u32 + u32::from(raw.payload_len.get());
        let packet = bytes.get(..total_len as usize).ok_or(DropReason::IpTruncated)?;
        let (protocol, header_len) = match raw.next_header {
            HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION => skip_extensions(packet, raw.next_header)?,
            protocol => (protocol, HEADER_LEN as u16),
        };
        Ok(Self {
            src: InetAddr::v6(raw.src[0].get(), raw.src[1].get()),
            dst: InetAddr::v6(raw.dst[0].get(), raw.dst[1].get()),
            protocol,
            tclass: (first >> 20) as u8,
            hop_limit: raw.hop_limit,
            header_len,
            total_len,
        })
    }
}

/// Walks over hop-by-hop options (only in front), destination options, used-up routing headers and fragment headers of
/// whole packets (RFC 6946), and returns the protocol behind them and its offset.
///
/// # Errors
/// `IpFragment` for any other fragment header; `Ipv6Ext` for one that is malformed, a routing header with segments left, or an
/// option that must not be skipped.
///
/// # Source
/// RFC 8200 §4; Linux v6.18 `ipv6_parse_hopopts`, `ipv6_rthdr_rcv`, `ip6_parse_tlv`.
#[cold]
fn skip_extensions(packet: &[u8], first: u8) -> Result<(u8, u16), DropReason> {
    let (mut kind, mut at) = (first, HEADER_LEN);
    loop {
        match kind {
            HOP_BY_HOP if at != HEADER_LEN => return Err(DropReason::Ipv6Ext),
            HOP_BY_HOP | DESTINATION | ROUTING => {
                let [next, len8] =
                    *packet.get(at..).and_then(<[u8]>::first_chunk).ok_or(DropReason::Ipv6Ext)?;
                let end = at + 8 + usize::from(len8) * 8;
                let body = packet.get(at + 2..end).ok_or(DropReason::Ipv6Ext)?;
                // Body of a routing header: type, segments left. The shortest one has six octets here.
                let understood = if kind == ROUTING {
                    body[1] == 0 && !matches!(body[0], ROUTING_RPL | ROUTING_SEGMENT)
                } else {
                    options_may_be_skipped(kind, at + 2, body)
                };
                if !understood {
                    return Err(DropReason::Ipv6Ext);
                }
                (kind, at) = (next, end);
            }
            FRAGMENT => {
                let [next, _, hi, lo] =
                    *packet.get(at..).and_then(<[u8]>::first_chunk).ok_or(DropReason::Ipv6Ext)?;
                // Offset and "more fragments"; two bits between them are reserved.
                if u16::from_be_bytes([hi, lo]) & 0xfff9 != 0 || packet.len() < at + 8 {
                    return Err(DropReason::IpFragment);
                }
                (kind, at) = (next, at + 8);
            }
            // A packet is at most 65,575 octets long, and so may be the way to its end.
            _ => return u16::try_from(at).map(|at| (kind, at)).map_err(|_| DropReason::Ipv6Ext),
        }
    }
}

/// Whether a node like us may go on behind the `options` of a header of this kind. They begin `at` octets into the packet.
///
/// # Source
/// Linux v6.18 `ip6_parse_tlv`, `ipv6_hop_ra`, `ipv6_hop_ioam`, `ipv6_hop_calipso`.
fn options_may_be_skipped(header: u8, mut at: usize, mut options: &[u8]) -> bool {
    let (mut padding, mut count) = (0, 0);
    while let Some((&kind, rest)) = options.split_first() {
        let before = options.len();
        if kind == OPT_PAD1 {
            padding += 1;
            options = rest;
        } else {
            let Some((&len, rest)) = rest.split_first() else { return false };
            let Some((value, rest)) = rest.split_at_checked(usize::from(len)) else { return false };
            if kind == OPT_PADN {
                padding += 2 + value.len();
                if value.iter().any(|octet| *octet != 0) {
                    return false;
                }
            } else {
                padding = 0;
                count += 1;
                if count > OPTIONS_MAX || !option_may_be_skipped(header, kind, at, value) {
                    return false;
                }
            }
            options = rest;
        }
        if padding > PAD_MAX {
            return false;
        }
        at += before - options.len();
    }
    true
}

/// The same of one option that is no padding. Only in front of all other headers the kernel knows some by name.
fn option_may_be_skipped(header: u8, kind: u8, at: usize, value: &[u8]) -> bool {
    match (header, kind) {
        (HOP_BY_HOP, OPT_ROUTER_ALERT) => value.len() == ROUTER_ALERT_LEN,
        (HOP_BY_HOP, OPT_CALIPSO) => false,
        (HOP_BY_HOP, OPT_IOAM) => at.is_multiple_of(4),
        _ => kind & OPT_ACTION == 0,
    }
}

/// A header to send, flow label 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv6Out {
    /// Source.
    pub src: InetAddr,
    /// Destination.
    pub dst: InetAddr,
    /// Protocol of the payload.
    pub protocol: u8,
    /// Traffic class.
    pub tclass: u8,
    /// Hop limit.
    pub hop_limit: u8,
    /// Octets of payload.
    pub payload_len: u16,
}

impl Ipv6Out {
    /// The header's octets.
    #[inline]
    pub fn emit(&self) -> [u8; HEADER_LEN] {
        let raw = Raw {
            version_class_flow: (6 << 28 | u32::from(self.tclass) << 20).into(),
            payload_len: self.payload_len.into(),
            next_header: self.protocol,
            hop_limit: self.hop_limit,
            src: [self.src.hi().into(), self.src.lo().into()],
            dst: [self.dst.hi().into(), self.dst.lo().into()],
        };
        zerocopy::transmute!(raw)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A packet from ::2 to ::1 with `next` and `payload`.
    fn packet(next: u8, payload: &[u8]) -> Result<(u8, u16), DropReason> {
        let out = Ipv6Out {
            src: InetAddr::v6(0, 2),
            dst: InetAddr::v6(0, 1),
            protocol: next,
            tclass: 0xb8,
            hop_limit: 255,
            payload_len: payload.len() as u16,
        };
        let mut bytes = out.emit().to_vec();
        bytes.extend_from_slice(payload);
        let parsed = Ipv6Packet::parse(&bytes)?;
        assert_eq!((parsed.src, parsed.dst, parsed.tclass, parsed.hop_limit), (out.src, out.dst, 0xb8, 255));
        assert_eq!(parsed.total_len as usize, bytes.len());
        Ok((parsed.protocol, parsed.header_len))
    }

    #[test]
    fn extension_headers() {
        let ext = Err(DropReason::Ipv6Ext);
        assert_eq!(packet(6, &[]), Ok((6, 40)));
        assert_eq!(packet(HOP_BY_HOP, &[6, 0, 1, 4, 0, 0, 0, 0]), Ok((6, 48)));
        assert_eq!(packet(HOP_BY_HOP, &[58, 0, 5, 2, 0, 0, 0, 0]), Ok((58, 48)), "router alert, two Pad1");
        assert_eq!(packet(DESTINATION, &[60, 0, 1, 4, 0, 0, 0, 0, 6, 0, 1, 4, 0, 0, 0, 0]), Ok((6, 56)));
        assert_eq!(
            packet(DESTINATION, &[0, 0, 1, 4, 0, 0, 0, 0, 6, 0, 1, 4, 0, 0, 0, 0]),
            ext,
            "not in front"
        );
        assert_eq!(packet(HOP_BY_HOP, &[6, 0, 0xc2, 4, 0, 1, 0, 0]), ext, "jumbo");
        assert_eq!(packet(HOP_BY_HOP, &[6, 0, 1, 5, 0, 0, 0, 0]), ext, "option past its header");
        assert_eq!(packet(HOP_BY_HOP, &[6, 1, 1, 4, 0, 0, 0, 0]), ext, "header past the packet");
        assert_eq!(packet(HOP_BY_HOP, &[6]), ext);
        assert_eq!(packet(HOP_BY_HOP, &[6, 0, 1, 4, 0, 0, 0, 1]), ext, "padding that says something");
        assert_eq!(
            packet(HOP_BY_HOP, &[6, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            ext,
            "long padding"
        );
        assert_eq!(packet(HOP_BY_HOP, &[6, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), ext, "the same");
        let split = [6, 1, 1, 5, 0, 0, 0, 0, 0, 5, 2, 0, 0, 1, 1, 0];
        assert_eq!(packet(HOP_BY_HOP, &split), Ok((6, 56)), "something between");
        assert_eq!(packet(ROUTING, &[6, 0, 2, 0, 0, 0, 0, 0]), Ok((6, 48)));
        assert_eq!(packet(ROUTING, &[6, 0, 4, 0, 0, 0, 0, 0]), ext, "segment routing");
        assert_eq!(packet(ROUTING, &[6, 0, 0, 1, 0, 0, 0, 0]), ext, "segments left");
        let fragment = Err(DropReason::IpFragment);
        assert_eq!(packet(FRAGMENT, &[6, 0, 0, 0, 0, 0, 0, 1]), Ok((6, 48)), "whole");
        assert_eq!(packet(FRAGMENT, &[6, 0, 0, 1, 0, 0, 0, 1]), fragment, "the first");
        assert_eq!(packet(FRAGMENT, &[6, 0, 0, 8, 0, 0, 0, 1]), fragment, "the last");
        assert_eq!(packet(FRAGMENT, &[6, 0, 0, 0, 0, 0, 0]), fragment, "cut");
        assert_eq!(packet(51, &[]), Ok((51, 40)));
    }

    /// What Linux v6.18.44 did with a SYN behind such options.
    #[test]
    fn options_that_are_counted_and_known() {
        let with = |kind: u8, options: &[u8]| {
            let mut header = vec![6, 0];
            header.extend_from_slice(options);
            let padding = (8 - header.len() % 8) % 8;
            match padding {
                0 => {}
                1 => header.push(OPT_PAD1),
                _ => header.extend([&[OPT_PADN, padding as u8 - 2][..], &vec![0; padding - 2]].concat()),
            }
            header[1] = (header.len() / 8 - 1) as u8;
            packet(kind, &header).is_ok()
        };
        for kind in [HOP_BY_HOP, DESTINATION] {
            for count in 0..=12 {
                assert_eq!(with(kind, &[0x1e, 0].repeat(count)), count <= 8, "{count} in {kind}");
            }
            assert!(with(kind, &[0x1e, 0, 0].repeat(8)), "padding does not count");
        }
        for (padding, at) in [(&[][..], 2), (&[0], 3), (&[1, 0], 4), (&[1, 1, 0], 5)] {
            for len in [0u8, 2, 4, 8, 12, 20] {
                let option = |kind: u8| [padding, &[kind, len], &vec![0; usize::from(len)]].concat();
                for (kind, in_front) in [
                    (0x05, len == 2),
                    (0x07, false),
                    (0x31, at == 4),
                    (0x11, true),
                    (0x1f, true),
                    (0x3e, true),
                ] {
                    let option = option(kind);
                    assert_eq!(with(HOP_BY_HOP, &option), in_front, "{kind:#x} of {len} at {at}, hop by hop");
                    assert!(with(DESTINATION, &option), "{kind:#x} of {len} at {at}, destination");
                }
                assert!(!with(DESTINATION, &option(0xc9)), "home address of {len} at {at}");
            }
        }
    }

    #[test]
    fn lengths_and_version() {
        let out = Ipv6Out {
            src: InetAddr::ANY_V6,
            dst: InetAddr::ANY_V6,
            protocol: 6,
            tclass: 0,
            hop_limit: 1,
            payload_len: 4,
        };
        let mut bytes = out.emit().to_vec();
        bytes.extend_from_slice(&[0; 4]);
        assert!(Ipv6Packet::parse(&bytes).is_ok());
        assert_eq!(Ipv6Packet::parse(&bytes[..43]), Err(DropReason::IpTruncated));
        assert_eq!(Ipv6Packet::parse(&bytes[..39]), Err(DropReason::IpTruncated));
        bytes[0] = 0x40;
        assert_eq!(Ipv6Packet::parse(&bytes), Err(DropReason::IpHeader));
    }
}
