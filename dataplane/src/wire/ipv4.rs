//! IPv4 headers (RFC 791).

use listener::drop_reason::DropReason;
use zerocopy::byteorder::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::checksum::Sum;

/// Octets of a header without options.
pub const HEADER_LEN: usize = 20;
/// TTL of everything that is sent (`ip_default_ttl`).
pub const TTL: u8 = 64;

/// ICMP.
pub const PROTO_ICMP: u8 = 1;
/// TCP.
pub const PROTO_TCP: u8 = 6;

const DONT_FRAGMENT: u16 = 0x4000;
const MORE_FRAGMENTS: u16 = 0x2000;
const FRAGMENT_OFFSET: u16 = 0x1fff;

/// End of option list, no operation, loose and strict source routing (RFC 791 §3.1).
const OPT_END: u8 = 0;
const OPT_NOP: u8 = 1;
const OPT_RECORD_ROUTE: u8 = 7;
const OPT_TIMESTAMP: u8 = 68;
/// What a timestamp option asks for.
const TS_AND_ADDRESS: u8 = 1;
const TS_PRESPECIFIED: u8 = 3;
const OPT_LSRR: u8 = 131;
const OPT_SSRR: u8 = 137;
/// Labels (FIPS 188) of a domain that nobody here has agreed on, domain 0 included.
const OPT_CIPSO: u8 = 134;
/// RFC 2113, and the octets that it has at least.
const OPT_ROUTER_ALERT: u8 = 148;
const ROUTER_ALERT_LEN: usize = 4;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Raw {
    version_ihl: u8,
    tos: u8,
    total_len: U16,
    id: U16,
    fragment: U16,
    ttl: u8,
    protocol: u8,
    checksum: U16,
    src: U32,
    dst: U32,
}

/// What a header said, lengths found consistent. Addresses are big-endian numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv4Packet {
    /// Source.
    pub src: u32,
    /// Destination.
    pub dst: u32,
    /// Protocol of the payload.
    pub protocol: u8,
    /// DSCP and ECN.
    pub tos: u8,
    /// Octets of the header, options included: 20 to 60.
    pub header_len: u8,
    /// Octets of header and payload; the frame may be longer (padding), never shorter.
    pub total_len: u16,
    /// It is a part of a larger packet.
    pub fragment: bool,
}

impl Ipv4Packet {
    /// Reads the header at the start of `bytes`, in the kernel's order of checks; the header's checksum is checked only
    /// if `verify` asks for it.
    ///
    /// # Errors
    /// `IpTruncated`, `IpHeader` or `IpCsum`.
    ///
    /// # Source
    /// Linux v6.18 `ip_rcv_core`.
    #[inline(always)]
    pub fn parse(bytes: &[u8], verify: bool) -> Result<Self, DropReason> {
        let (raw, _) = Raw::ref_from_prefix(bytes).map_err(|_| DropReason::IpTruncated)?;
        let header_len = raw.version_ihl << 2 & 0x3c;
        if raw.version_ihl >> 4 != 4 || usize::from(header_len) < HEADER_LEN {
            return Err(DropReason::IpHeader);
        }
        let header = bytes.get(..usize::from(header_len)).ok_or(DropReason::IpTruncated)?;
        // Without options its length is known, and the sum needs no loop.
        let sum = match <&[u8; HEADER_LEN]>::try_from(header) {
            Ok(fixed) => Sum::of(fixed),
            Err(_) => Sum::of(header),
        };
        if verify && !sum.is_whole() {
            return Err(DropReason::IpCsum);
        }
        let total_len = raw.total_len.get();
        if bytes.len() < usize::from(total_len) {
            return Err(DropReason::IpTruncated);
        }
        if total_len < u16::from(header_len) {
            return Err(DropReason::IpHeader);
        }
        let fragment = raw.fragment.get() & (MORE_FRAGMENTS | FRAGMENT_OFFSET) != 0;
        let (src, dst, protocol, tos) = (raw.src.get(), raw.dst.get(), raw.protocol, raw.tos);
        Ok(Self { src, dst, protocol, tos, header_len, total_len, fragment })
    }
}

/// Looks through the options of a header: `options` is what follows its first 20 octets.
///
/// # Errors
/// `IpOptions` if they are malformed, ask for source routing (`accept_source_route` = 0), ask twice to record the same, or
/// bear labels. What they ask to record is not recorded.
///
/// # Source
/// Linux v6.18 `ip_options_compile`, `ip_rcv_options`, `cipso_v4_validate`.
#[cold]
pub fn check_options(mut options: &[u8]) -> Result<(), DropReason> {
    let (mut route_seen, mut times_seen) = (false, false);
    while let Some((&kind, rest)) = options.split_first() {
        match kind {
            OPT_END => return Ok(()),
            OPT_NOP => options = rest,
            OPT_LSRR | OPT_SSRR | OPT_CIPSO => return Err(DropReason::IpOptions),
            _ => {
                let len = rest.first().copied().map_or(0, usize::from);
                if len < 2 {
                    return Err(DropReason::IpOptions);
                }
                let (option, rest) = options.split_at_checked(len).ok_or(DropReason::IpOptions)?;
                let sound = match (kind, option) {
                    (OPT_RECORD_ROUTE, [_, _, pointer, ..]) => {
                        !std::mem::replace(&mut route_seen, true) && slot_is_whole(*pointer, 4, 4, len)
                    }
                    (OPT_TIMESTAMP, [_, _, pointer, mode, ..]) => {
                        let full = usize::from(*pointer) > len;
                        let (mode, overflow) = (mode & 0xf, mode >> 4);
                        let slot = if matches!(mode, TS_AND_ADDRESS | TS_PRESPECIFIED) { 8 } else { 4 };
                        // The count of those who found it full must not wrap.
                        !std::mem::replace(&mut times_seen, true)
                            && slot_is_whole(*pointer, 5, slot, len)
                            && !(full && overflow == 15 && mode != TS_PRESPECIFIED)
                    }
                    (OPT_RECORD_ROUTE | OPT_TIMESTAMP, _) => false,
                    (OPT_ROUTER_ALERT, _) => len >= ROUTER_ALERT_LEN,
                    _ => true,
                };
                if !sound {
                    return Err(DropReason::IpOptions);
                }
                options = rest;
            }
        }
    }
    Ok(())
}

/// Whether an option that is filled on the way points at a whole slot of `slot` octets, or behind its end.
fn slot_is_whole(pointer: u8, first: u8, slot: usize, len: usize) -> bool {
    let pointer = usize::from(pointer);
    pointer >= usize::from(first) && (pointer > len || pointer + slot - 1 <= len)
}

/// A header to send: DF, id 0, TTL 64, no options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv4Out {
    /// Source.
    pub src: u32,
    /// Destination.
    pub dst: u32,
    /// Protocol of the payload.
    pub protocol: u8,
    /// DSCP and ECN.
    pub tos: u8,
    /// Octets of payload.
    pub payload_len: u16,
}

impl Ipv4Out {
    /// The header's octets; its checksum is 0 if the device fills it in (`offload`).
    #[inline(always)]
    pub fn emit(&self, offload: bool) -> [u8; HEADER_LEN] {
        let total_len = HEADER_LEN as u16 + self.payload_len;
        let checksum = if offload {
            0
        } else {
            Sum::ZERO
                .word(0x4500 | u16::from(self.tos))
                .word(total_len)
                .word(DONT_FRAGMENT)
                .word(u16::from_be_bytes([TTL, self.protocol]))
                .word32(self.src)
                .word32(self.dst)
                .checksum()
        };
        let raw = Raw {
            version_ihl: 0x45,
            tos: self.tos,
            total_len: total_len.into(),
            id: 0.into(),
            fragment: DONT_FRAGMENT.into(),
            ttl: TTL,
            protocol: self.protocol,
            checksum: checksum.into(),
            src: self.src.into(),
            dst: self.dst.into(),
        };
        zerocopy::transmute!(raw)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: [u8; 20] = [0x45, 0, 0, 0x28, 0, 0, 0x40, 0, 64, 6, 0, 0, 198, 18, 0, 2, 198, 18, 0, 1];

    fn packet(edit: impl FnOnce(&mut [u8; 40])) -> Result<Ipv4Packet, DropReason> {
        let mut bytes = [0; 40];
        bytes[..20].copy_from_slice(&HEADER);
        edit(&mut bytes);
        let header_len = usize::from(bytes[0] & 0xf) * 4;
        let sum = Sum::of(&bytes[..header_len.min(40)]).checksum();
        bytes[10..12].copy_from_slice(&sum.to_be_bytes());
        Ipv4Packet::parse(&bytes, true)
    }

    #[test]
    fn headers_and_their_faults() {
        let good = packet(|_| ()).expect("well formed");
        assert_eq!((good.src, good.dst), (0xc612_0002, 0xc612_0001));
        assert_eq!((good.header_len, good.total_len, good.fragment), (20, 40, false));
        assert_eq!(packet(|bytes| bytes[0] = 0x65), Err(DropReason::IpHeader));
        assert_eq!(packet(|bytes| bytes[0] = 0x44), Err(DropReason::IpHeader));
        assert_eq!(packet(|bytes| bytes[0] = 0x4f), Err(DropReason::IpTruncated));
        assert_eq!(packet(|bytes| bytes[3] = 41), Err(DropReason::IpTruncated));
        assert_eq!(packet(|bytes| bytes[3] = 19), Err(DropReason::IpHeader));
        assert_eq!(packet(|bytes| bytes[6] = 0x20).map(|packet| packet.fragment), Ok(true));
        assert_eq!(packet(|bytes| bytes[7] = 1).map(|packet| packet.fragment), Ok(true));
        assert_eq!(Ipv4Packet::parse(&HEADER[..19], true), Err(DropReason::IpTruncated));
        let mut long = [0; 40];
        long[..20].copy_from_slice(&HEADER);
        assert_eq!(Ipv4Packet::parse(&long, true), Err(DropReason::IpCsum));
        assert!(Ipv4Packet::parse(&long, false).is_ok());
    }

    #[test]
    fn options_that_are_refused() {
        assert_eq!(check_options(&[1, 1, 0, 131]), Ok(()));
        assert_eq!(check_options(&[7, 7, 4, 0, 0, 0, 0, 1]), Ok(()));
        assert_eq!(check_options(&[7, 7, 8, 0, 0, 0, 0, 1]), Ok(()), "full");
        assert_eq!(check_options(&[68, 8, 5, 0, 0, 0, 0, 0]), Ok(()));
        assert_eq!(check_options(&[68, 8, 9, 0xe0, 0, 0, 0, 0]), Ok(()), "full, and many saw it");
        assert_eq!(check_options(&[148, 4, 0, 0]), Ok(()));
        assert_eq!(check_options(&[68, 8, 5, 2, 0, 0, 0, 0]), Ok(()), "of no kind that is known");
        assert_eq!(check_options(&[68, 8, 9, 0xf3, 0, 0, 0, 0]), Ok(()), "full, and nobody counts");
        for bad in [
            &[131, 7, 4, 1, 2, 3, 4, 0][..],
            &[137, 3, 4, 0],
            &[7, 0, 0, 0],
            &[7, 1, 0, 0],
            &[1, 1, 1, 7],
            &[7, 5, 0, 0],
            &[7, 7, 3, 0, 0, 0, 0, 0],
            &[7, 7, 5, 0, 0, 0, 0, 0],
            &[68, 8, 4, 0, 0, 0, 0, 0],
            &[68, 8, 5, 1, 0, 0, 0, 0],
            &[68, 8, 9, 0xf0, 0, 0, 0, 0],
            &[7, 3, 4, 7, 3, 4, 0, 0],
            &[68, 4, 5, 0, 68, 4, 5, 0],
            &[148, 3, 0, 0],
            &[134, 8, 0, 0, 0, 0, 1, 2],
            &[134, 10, 0, 0, 0, 3, 1, 4, 0, 0],
        ] {
            assert_eq!(check_options(bad), Err(DropReason::IpOptions), "{bad:?}");
        }
    }
}
