//! IPv4 and TCP headers without IPv4 options, as the one block of 40 octets that answers begin with: written a few words at
//! a time. [`crate::wire::ipv4`] and [`crate::wire::tcp`] read the same octets header by header.

use zerocopy::byteorder::network_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::ipv4::{PROTO_TCP, TTL};

/// Octets of both headers.
pub const HEADERS_LEN: usize = 40;

/// Version 4 and five words of header.
const VERSION_IHL: u32 = 0x45;
/// Id 0, DF, our TTL, TCP, and room for the checksum.
const ID_TO_PROTOCOL: u64 = 0x4000 << 32 | (TTL as u64) << 24 | (PROTO_TCP as u64) << 16;

/// Both headers.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Headers {
    /// Version, header length, TOS, total length.
    version_to_len: U32,
    /// Identification, flags and fragment offset, TTL, protocol, header checksum.
    id_to_checksum: U64,
    /// Source, destination.
    addrs: U64,
    /// Source, destination.
    ports: U32,
    seq: U32,
    ack: U32,
    /// Data offset, reserved bits, control bits, window.
    offset_to_window: U32,
    /// Checksum, urgent pointer.
    checksum_urgent: U32,
}

const _: () = assert!(size_of::<Headers>() == HEADERS_LEN);

/// What the fixed parts of both headers are to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Fields {
    /// Source address in the upper half, destination in the lower.
    pub addrs: u64,
    /// Source port in the upper half, destination in the lower.
    pub ports: u32,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// Octets of both headers with TCP options and data.
    pub total_len: u16,
    /// DSCP and ECN.
    pub tos: u8,
    /// Octets of the TCP header, options included: a multiple of 4.
    pub tcp_header_len: u8,
    /// Control bits.
    pub flags: u8,
    /// Window, unscaled.
    pub wnd: u16,
}

impl Headers {
    /// Writes both headers, DF set, id 0, with the IPv4 header's checksum or 0 in its place.
    ///
    /// `fields` has its lengths right.
    #[inline(always)]
    pub fn write(&mut self, fields: &Fields, ip_checksum: bool, tcp_checksum: TcpChecksum) {
        let Fields { addrs, ports, seq, ack, total_len, tos, tcp_header_len, flags, wnd } = *fields;
        let start = VERSION_IHL << 24 | u32::from(tos) << 16 | u32::from(total_len);
        let control = u32::from(tcp_header_len) << 26 | u32::from(flags) << 16 | u32::from(wnd);
        let both = (addrs >> 32) + (addrs & 0xffff_ffff);
        let ip = both + u64::from(start) + (ID_TO_PROTOCOL >> 32) + (ID_TO_PROTOCOL & 0xffff_ffff);
        let ip_field = if ip_checksum { u64::from(!fold(ip)) } else { 0 };
        let pseudo = both + u64::from(PROTO_TCP) + u64::from(total_len) - 20;
        let tcp_field = match tcp_checksum {
            TcpChecksum::Pseudo => fold(pseudo),
            TcpChecksum::Whole { rest } => {
                let words = [ports, seq, ack, control].map(u64::from);
                !fold(pseudo + words.iter().sum::<u64>() + rest)
            }
        };
        self.version_to_len = start.into();
        self.id_to_checksum = (ID_TO_PROTOCOL | ip_field).into();
        self.addrs = addrs.into();
        self.ports = ports.into();
        self.seq = seq.into();
        self.ack = ack.into();
        self.offset_to_window = control.into();
        self.checksum_urgent = (u32::from(tcp_field) << 16).into();
    }
}

/// What goes into the checksum field of a TCP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcpChecksum {
    /// The sum of the pseudo-header, for a device that completes it.
    Pseudo,
    /// The checksum, when what follows the header sums up to `rest`.
    Whole {
        /// The sum of the options' and data's words, not folded.
        rest: u64,
    },
}

/// The words of `sum`, a number below 2^48, as one.
#[inline(always)]
const fn fold(sum: u64) -> u16 {
    let sum = (sum >> 32) + (sum >> 16 & 0xffff) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    ((sum >> 16) + sum) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::checksum::{Sum, pseudo_v4};
    use crate::wire::ipv4::Ipv4Packet;
    use crate::wire::tcp::TcpHeader;
    use proptest::prelude::*;

    proptest! {
        /// What is written is whole by RFC 1071, and reads as it was given.
        #[test]
        fn headers_are_written(
            (addrs, ports, seq, ack) in any::<(u64, u32, u32, u32)>(),
            (tos, flags, wnd) in any::<(u8, u8, u16)>(),
            (words, rest) in (5u8..16, prop::collection::vec(any::<u8>(), 110..200)),
        ) {
            let rest = &rest[..usize::from(words) * 4 - 20 + rest.len() % 60];
            let fields = Fields {
                addrs, ports, seq, ack, tos, flags, wnd,
                total_len: (HEADERS_LEN + rest.len()) as u16,
                tcp_header_len: words * 4,
            };
            let mut bytes = [0xaa; HEADERS_LEN];
            let sum = Sum::of(rest);
            let headers = Headers::mut_from_bytes(&mut bytes).expect("no alignment, and the size");
            headers.write(&fields, true, TcpChecksum::Whole { rest: u64::from(sum.folded()) });
            let ip = Ipv4Packet::parse(&[&bytes[..], rest].concat(), true).map(|ip| (ip.src, ip.dst, ip.tos, ip.total_len));
            prop_assert_eq!(ip, Ok(((addrs >> 32) as u32, addrs as u32, tos, fields.total_len)));
            let tcp = TcpHeader::parse(&[&bytes[20..], rest].concat()).expect("well formed");
            let read = (tcp.sport, tcp.dport, tcp.seq, tcp.ack, tcp.reserved, tcp.flags, tcp.wnd);
            prop_assert_eq!(read, ((ports >> 16) as u16, ports as u16, seq, ack, 0, flags, wnd));
            let tcp_len = (20 + rest.len()) as u16;
            let (src, dst) = ((addrs >> 32) as u32, addrs as u32);
            let pseudo = pseudo_v4(src, dst, PROTO_TCP, tcp_len);
            prop_assert!(Sum::of(&bytes[..20]).is_whole());
            prop_assert!(pseudo.plus(Sum::of(&bytes[20..])).plus(sum).is_whole());

            let headers = Headers::mut_from_bytes(&mut bytes).expect("no alignment, and the size");
            headers.write(&fields, false, TcpChecksum::Pseudo);
            prop_assert_eq!([bytes[10], bytes[11]], [0, 0]);
            prop_assert_eq!(u16::from_be_bytes([bytes[36], bytes[37]]), pseudo.folded());
        }
    }
}
