//! Octets ↔ values, without state: one file a protocol.
//!
//! Network byte order exists only here. Parsers take a slice of any length, never panic and never read past it;
//! emitters write arrays of known length, or into a slice that their caller has sized.

pub mod arp;
pub mod checksum;
pub mod ether;
pub mod icmp;
pub mod ipv4;
pub mod ipv6;
pub mod ndp;
pub mod tcp;
pub mod tcp4;
pub mod vlan;

#[cfg(test)]
mod prop;
