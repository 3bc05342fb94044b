//! Newtypes that keep addresses, ports, ids and times apart. All numbers are in host order: network byte order
//! exists only where bytes are read and written, outside this crate.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An IPv4 or IPv6 address in one 16-byte form: IPv4 stands as its mapped address `::ffff:a.b.c.d`.
///
/// So one key type serves both families and, as in the kernel, a mapped IPv6 address *is* its IPv4 address.
/// The two wildcards stay distinct: [`InetAddr::ANY_V4`] is `::ffff:0.0.0.0`, [`InetAddr::ANY_V6`] is `::`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
#[repr(C)] // the vector lookup reads it
pub struct InetAddr {
    hi: u64,
    lo: u64,
}

impl InetAddr {
    /// `0.0.0.0`
    pub const ANY_V4: Self = Self::v4(0);
    /// `::`
    pub const ANY_V6: Self = Self { hi: 0, lo: 0 };

    const MAPPED: u64 = 0xffff << 32;

    /// The IPv4 address whose four bytes, read as a big-endian number, are `addr`.
    #[inline]
    pub const fn v4(addr: u32) -> Self {
        Self { hi: 0, lo: Self::MAPPED | addr as u64 }
    }

    /// The IPv6 address whose upper and lower eight bytes, read as big-endian numbers, are `hi` and `lo`.
    #[inline]
    pub const fn v6(hi: u64, lo: u64) -> Self {
        Self { hi, lo }
    }

    /// Upper eight bytes as a big-endian number; 0 for IPv4.
    #[inline]
    pub const fn hi(self) -> u64 {
        self.hi
    }

    /// Lower eight bytes as a big-endian number.
    #[inline]
    pub const fn lo(self) -> u64 {
        self.lo
    }

    /// True for IPv4, which includes mapped IPv6.
    #[inline]
    pub const fn is_v4(self) -> bool {
        self.hi == 0 && self.lo >> 32 == 0xffff
    }

    /// The IPv4 address as a number, if it is one.
    #[inline]
    pub const fn as_v4(self) -> Option<u32> {
        if self.is_v4() { Some(self.lo as u32) } else { None }
    }

    /// True for both wildcards, `0.0.0.0` and `::`.
    #[inline]
    pub const fn is_any(self) -> bool {
        self.hi == 0 && (self.lo == 0 || self.lo == Self::MAPPED)
    }

    /// True for 224.0.0.0/4 and ff00::/8.
    #[inline]
    pub const fn is_multicast(self) -> bool {
        match self.as_v4() {
            Some(addr) => addr >> 28 == 0xe,
            None => self.hi >> 56 == 0xff,
        }
    }

    /// True if the first `prefix_len` bits (0 to 32 for IPv4, 0 to 128 for IPv6) of both are equal.
    pub fn same_prefix(self, other: Self, prefix_len: u8) -> bool {
        if self.is_v4() != other.is_v4() {
            return false;
        }
        let bits = u32::from(prefix_len) + if self.is_v4() { 96 } else { 0 };
        let differ = (u128::from(self.hi ^ other.hi) << 64) | u128::from(self.lo ^ other.lo);
        bits == 0 || differ >> (128 - bits.min(128)) == 0
    }
}

impl From<Ipv4Addr> for InetAddr {
    fn from(addr: Ipv4Addr) -> Self {
        Self::v4(addr.to_bits())
    }
}

impl From<Ipv6Addr> for InetAddr {
    fn from(addr: Ipv6Addr) -> Self {
        let bits = addr.to_bits();
        Self { hi: (bits >> 64) as u64, lo: bits as u64 }
    }
}

impl From<IpAddr> for InetAddr {
    fn from(addr: IpAddr) -> Self {
        match addr {
            IpAddr::V4(v4) => v4.into(),
            IpAddr::V6(v6) => v6.into(),
        }
    }
}

impl From<InetAddr> for IpAddr {
    fn from(addr: InetAddr) -> Self {
        match addr.as_v4() {
            Some(v4) => Self::V4(Ipv4Addr::from_bits(v4)),
            None => Self::V6(Ipv6Addr::from_bits((u128::from(addr.hi) << 64) | u128::from(addr.lo))),
        }
    }
}

impl fmt::Display for InetAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        IpAddr::from(*self).fmt(f)
    }
}

impl fmt::Debug for InetAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A TCP port in host order; 0 means "none" or "choose one".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct TcpPort(pub u16);

impl fmt::Display for TcpPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Finished handshakes that may wait for `accept`; the queue holds one more (both queue tests are strict).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Backlog(pub u32);

/// A descriptor of [`crate::Stack`]; the lowest free number is given out, as open(2) does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SockFd(pub u32);

/// The slot of a listener in [`crate::listen_sock::ListenSocks`]. A slot is used again; see [`ListenerRef`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ListenerId(pub u32);

/// A listener for as long as it listens: its slot and the slot's generation when it was published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ListenerRef {
    /// Slot.
    pub id: ListenerId,
    /// Generation of the slot; another number there means that this listener is gone.
    pub generation: u32,
}

/// A device by the number that the configuration gave it, from 1; 0 is "no device" (not bound).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct DevIndex(pub u16);

impl DevIndex {
    /// Not bound to a device.
    pub const NONE: Self = Self(0);
}

/// A worker by its number, from 0. What the kernel calls a CPU is a worker here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct CoreId(pub u16);

/// Where a frame came from, so that an answer can go back there without a neighbour table. Opaque to this crate:
/// the packet path packs the peer's MAC address and the VLAN tags into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Route(pub [u16; 6]);

/// Nanoseconds of a monotonic clock. Only differences have a meaning, but in SYN cookies, whose minutes are counted
/// from 0: machines that are to check each other's must count alike, as from the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Nanos(pub u64);

impl Nanos {
    /// From milliseconds.
    pub const fn from_millis(ms: u64) -> Self {
        Self(ms * 1_000_000)
    }

    /// From seconds.
    pub const fn from_secs(secs: u64) -> Self {
        Self(secs * 1_000_000_000)
    }

    /// Whole milliseconds.
    #[inline]
    pub const fn as_millis(self) -> u64 {
        self.0 / 1_000_000
    }

    /// Nanoseconds from `earlier` to here; 0 if `earlier` is later.
    #[inline]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl std::ops::Add for Nanos {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0.wrapping_add(other.0))
    }
}

/// A TCP sequence number: 32 bits, compared modulo 2^32 (RFC 9293 §3.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct SegSeq(pub u32);

impl SegSeq {
    /// `self < other` in sequence space.
    #[inline]
    pub const fn before(self, other: Self) -> bool {
        (self.0.wrapping_sub(other.0) as i32) < 0
    }

    /// `self > other` in sequence space.
    #[inline]
    pub const fn after(self, other: Self) -> bool {
        other.before(self)
    }

    /// The number `count` octets further.
    #[inline]
    pub const fn plus(self, count: u32) -> Self {
        Self(self.0.wrapping_add(count))
    }

    /// Octets from `earlier` to here, modulo 2^32.
    #[inline]
    pub const fn distance_from(self, earlier: Self) -> u32 {
        self.0.wrapping_sub(earlier.0)
    }
}

/// TCP states by their RFC 9293 §3.3.2 names; the numbers are the kernel's (`tcp_states.h`, v6.18).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum TcpState {
    Established = 1,
    SynSent = 2,
    SynRecv = 3,
    FinWait1 = 4,
    FinWait2 = 5,
    TimeWait = 6,
    Close = 7,
    CloseWait = 8,
    LastAck = 9,
    Listen = 10,
    Closing = 11,
}

impl TcpState {
    /// The state with this number; `Close` for a number that is none.
    pub const fn from_u8(number: u8) -> Self {
        match number {
            1 => Self::Established,
            2 => Self::SynSent,
            3 => Self::SynRecv,
            4 => Self::FinWait1,
            5 => Self::FinWait2,
            6 => Self::TimeWait,
            8 => Self::CloseWait,
            9 => Self::LastAck,
            10 => Self::Listen,
            11 => Self::Closing,
            _ => Self::Close,
        }
    }

    /// As `ss` prints it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Established => "ESTAB",
            Self::SynSent => "SYN-SENT",
            Self::SynRecv => "SYN-RECV",
            Self::FinWait1 => "FIN-WAIT-1",
            Self::FinWait2 => "FIN-WAIT-2",
            Self::TimeWait => "TIME-WAIT",
            Self::Close => "UNCONN",
            Self::CloseWait => "CLOSE-WAIT",
            Self::LastAck => "LAST-ACK",
            Self::Listen => "LISTEN",
            Self::Closing => "CLOSING",
        }
    }
}

/// What becomes of a connection once its handshake is done; chosen per listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum Then {
    /// It waits for `accept`, and takes no data until then.
    #[default]
    Queue = 0,
    /// Data is acknowledged in order and dropped, a FIN is answered (RFC 863).
    Discard = 1,
    /// Closed at once with a FIN; data still on its way is acknowledged and dropped.
    Close = 2,
    /// Reset at once.
    Reset = 3,
    /// The kernel's: SYNs get a rich cookie ([`crate::syncookies::rich`]), and whoever sits on the kernel's path makes a
    /// connection of its own listener from the ACK. Nothing but SYNs is answered here.
    Kernel = 4,
}

impl Then {
    /// The action with this number; `Queue` for a number that is none.
    pub const fn from_u8(number: u8) -> Self {
        match number {
            1 => Self::Discard,
            2 => Self::Close,
            3 => Self::Reset,
            4 => Self::Kernel,
            _ => Self::Queue,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(text: &str) -> InetAddr {
        text.parse::<IpAddr>().expect("a test address").into()
    }

    #[test]
    fn mapped_is_its_ipv4_address() {
        assert_eq!(addr("::ffff:198.18.0.1"), addr("198.18.0.1"));
        assert_eq!(addr("198.18.0.1").to_string(), "198.18.0.1");
        assert_eq!(addr("2001:db8::1").to_string(), "2001:db8::1");
        assert_ne!(InetAddr::ANY_V4, InetAddr::ANY_V6);
        assert!(InetAddr::ANY_V4.is_any() && InetAddr::ANY_V6.is_any() && !addr("::1").is_any());
    }

    #[test]
    fn prefixes_compare_their_bits_only() {
        assert!(addr("198.18.7.1").same_prefix(addr("198.19.0.0"), 15));
        assert!(!addr("198.18.7.1").same_prefix(addr("198.19.0.0"), 16));
        assert!(addr("198.18.7.1").same_prefix(addr("10.0.0.0"), 0));
        assert!(!addr("198.18.7.1").same_prefix(addr("2001:db8::"), 0));
        assert!(addr("2001:db8::1").same_prefix(addr("2001:db8::"), 127));
        assert!(!addr("2001:db8::1").same_prefix(addr("2001:db8::"), 128));
    }

    #[test]
    fn sequence_numbers_wrap() {
        assert!(SegSeq(u32::MAX).before(SegSeq(0)));
        assert!(SegSeq(5).after(SegSeq(u32::MAX)));
        assert!(!SegSeq(5).before(SegSeq(5)));
        assert_eq!(SegSeq(u32::MAX).plus(2), SegSeq(1));
        assert_eq!(SegSeq(1).distance_from(SegSeq(u32::MAX)), 2);
    }
}
