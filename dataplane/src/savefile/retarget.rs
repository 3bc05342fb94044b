//! Sends captured packets somewhere else: destination address and port, with the checksums brought up to date. A checksum that was
//! wrong stays wrong.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use super::layout::Packet;
use crate::summary::PROTO_UDP;
use crate::wire::checksum;
use crate::wire::ipv4::PROTO_TCP;

/// `ADDR` or `ADDR:PORT`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct To {
    /// Destination address.
    pub addr: IpAddr,
    /// Destination port of TCP and UDP; none: as it was.
    pub port: Option<u16>,
}

impl FromStr for To {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
        let addr = bare.parse().map(|addr| Self { addr, port: None });
        let both = || text.parse::<SocketAddr>().map(|to| Self { addr: to.ip(), port: Some(to.port()) });
        addr.or_else(|_| both()).map_err(|_| {
            format!(
                "\"{text}\" is no address; write one such as 198.18.0.1, 198.18.0.1:80 or [2001:db8::1]:80"
            )
        })
    }
}

/// Where packets are to go, of each family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Retarget {
    v4: Option<To>,
    v6: Option<To>,
}

impl Retarget {
    /// To `wanted`, one of a family at most.
    ///
    /// # Errors
    /// Two of a family.
    pub fn new(wanted: &[To]) -> Result<Self, String> {
        let mut retarget = Self::default();
        for to in wanted {
            let place = if to.addr.is_ipv4() { &mut retarget.v4 } else { &mut retarget.v6 };
            if let Some(first) = place.replace(*to) {
                return Err(format!("--to {} and --to {} are of one family; give one", first.addr, to.addr));
            }
        }
        Ok(retarget)
    }

    /// Nothing is to change.
    pub const fn is_empty(&self) -> bool {
        self.v4.is_none() && self.v6.is_none()
    }

    /// Sends the packet in `frame` there; what holds no IP packet stays as it is.
    ///
    /// # Errors
    /// There is no address of its family: the end of a sentence that names the frame.
    pub fn apply(&self, frame: &mut [u8]) -> Result<(), String> {
        let (Some(packet), _) = Packet::read(frame) else { return Ok(()) };
        if self.is_empty() {
            return Ok(());
        }
        let (to, family) = if packet.v6 { (self.v6, "IPv6") } else { (self.v4, "IPv4") };
        let to = to.ok_or_else(|| format!("is of {family}, and no --to is"))?;
        let mut change = Change { frame, packet };
        match to.addr {
            IpAddr::V4(addr) => change.write(packet.at + 16, &addr.octets(), true),
            IpAddr::V6(addr) => change.write(packet.at + 24, &addr.octets(), true),
        }
        if let (Some(port), Some((at, PROTO_TCP | PROTO_UDP))) = (to.port, packet.transport) {
            change.write(at + 2, &port.to_be_bytes(), false);
        }
        Ok(())
    }
}

struct Change<'a> {
    frame: &'a mut [u8],
    packet: Packet,
}

impl Change<'_> {
    /// Writes `new`, an even number of octets, at an even place of its header: all that is in a sum with it follows.
    fn write(&mut self, at: usize, new: &[u8], is_address: bool) {
        let Some(old) = self.frame.get_mut(at..at + new.len()) else { return };
        let before = old.to_vec();
        old.copy_from_slice(new);
        let words = || before.chunks_exact(2).zip(new.chunks_exact(2));
        if is_address && !self.packet.v6 {
            self.update(self.packet.at + 10, words(), false);
        }
        if let Some((field, with_addresses)) = self.packet.checksum()
            && (with_addresses || !is_address)
        {
            let udp = matches!(self.packet.transport, Some((_, PROTO_UDP)));
            self.update(field, words(), udp);
        }
    }

    fn update<'a>(&mut self, field: usize, words: impl Iterator<Item = (&'a [u8], &'a [u8])>, udp: bool) {
        let Some(place) = self.frame.get_mut(field..).and_then(|rest| rest.first_chunk_mut::<2>()) else {
            return;
        };
        let mut sum = u16::from_be_bytes(*place);
        // Of UDP, 0 means that there is none.
        if udp && sum == 0 {
            return;
        }
        let word = |octets: &[u8]| octets.first_chunk().map_or(0, |octets| u16::from_be_bytes(*octets));
        for (old, new) in words {
            sum = checksum::update(sum, word(old), word(new));
        }
        *place = if udp && sum == 0 { 0xffff } else { sum }.to_be_bytes();
    }
}
