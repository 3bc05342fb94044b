//! Values that stand in a configuration as one string or number. Each is read by `FromStr`, which the command line
//! uses as well, and its errors say what a good value looks like.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use listener::types::{InetAddr, Then};
use serde::de::{self, Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

use super::QUEUES_MAX;
use crate::wire::ether::MacAddr;

/// Reads a type from a TOML string through its `FromStr`. By a visitor, because the reader gives an error the line of
/// the value only inside a visitor's call.
macro_rules! deserialize_from_str {
    ($type:ty, $expecting:literal) => {
        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Reader;

                impl serde::de::Visitor<'_> for Reader {
                    type Value = $type;

                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str($expecting)
                    }

                    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<$type, E> {
                        text.parse().map_err(E::custom)
                    }
                }

                deserializer.deserialize_str(Reader)
            }
        }
    };
}
pub(super) use deserialize_from_str;

/// An address and the length of its prefix, `198.18.0.1/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// The address, host bits included.
    pub addr: InetAddr,
    /// Bits of the prefix: 0 to 32 for IPv4, 0 to 128 for IPv6.
    pub len: u8,
}

impl Prefix {
    /// The address with all bits beyond the prefix cleared.
    pub fn network(self) -> InetAddr {
        match IpAddr::from(self.addr) {
            IpAddr::V4(addr) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.len)).unwrap_or(0);
                InetAddr::v4(addr.to_bits() & mask)
            }
            IpAddr::V6(addr) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.len)).unwrap_or(0);
                std::net::Ipv6Addr::from_bits(addr.to_bits() & mask).into()
            }
        }
    }
}

impl FromStr for Prefix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some((addr, len)) = text.split_once('/') else {
            return Err(format!(
                "\"{text}\" has no prefix length; write an address with one, such as \"198.18.0.1/24\""
            ));
        };
        let addr: IpAddr = addr.parse().map_err(|_| {
            format!("\"{addr}\" is no IP address; write an address with its prefix length, such as \"198.18.0.1/24\"")
        })?;
        let bits = if addr.is_ipv4() { 32 } else { 128 };
        match len.parse::<u8>() {
            Ok(len) if len <= bits => Ok(Self { addr: addr.into(), len }),
            _ => Err(format!("\"{text}\": the prefix length must be a number from 0 to {bits}")),
        }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.len)
    }
}

deserialize_from_str!(Prefix, "an address with its prefix length, such as \"198.18.0.1/24\"");

/// A MAC address that one device can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mac(pub MacAddr);

impl FromStr for Mac {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse::<MacAddr>() {
            Ok(mac) if mac.0[0] & 1 == 0 && mac.0 != [0; 6] => Ok(Self(mac)),
            _ => {
                Err(format!("\"{text}\" is no device's MAC address; write one such as \"02:00:00:00:00:01\""))
            }
        }
    }
}

deserialize_from_str!(Mac, "a MAC address such as \"02:00:00:00:00:01\"");

/// When to use hugepages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Huge {
    /// When enough are free, else start without and say so.
    #[default]
    Auto,
    /// Refuse to start without.
    Require,
    /// Start without, even when some are free.
    Never,
}

/// What a worker does without frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Idle {
    /// Adaptive beside the kernel; else yield if it must share its core, else spin.
    #[default]
    Auto,
    /// Asks again at once: the shortest latency.
    Spin,
    /// Asks again after the processor's pause: a sibling thread gains.
    Pause,
    /// Offers the core to other threads first: a system call each time.
    Yield,
    /// Sleeps until a device raises an interrupt, where its driver can.
    Interrupt,
    /// Sleeps while nothing comes, until a frame does where the device can tell (`net_af_xdp`), else for up to 100 µs at a time: on a core
    /// that others need too.
    Adaptive,
}

/// Whether the device does checksums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Offloads {
    /// What the device can do, it does.
    #[default]
    Auto,
    /// All in software: for devices whose checksums are wrong.
    Off,
}

/// [`Then`] by its names.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum, schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum ThenName {
    /// It waits for accept
    #[default]
    Queue,
    /// Data is acknowledged and dropped
    Discard,
    /// Closed at once
    Close,
    /// Reset at once
    Reset,
    /// Made by the kernel's own listener, once hearken has verified the handshake
    Kernel,
}

/// The word for `then` in files, in JSON and on the command line.
pub const fn then_name(then: ThenName) -> &'static str {
    match then {
        ThenName::Queue => "queue",
        ThenName::Discard => "discard",
        ThenName::Close => "close",
        ThenName::Reset => "reset",
        ThenName::Kernel => "kernel",
    }
}

impl From<ThenName> for Then {
    fn from(name: ThenName) -> Self {
        match name {
            ThenName::Queue => Self::Queue,
            ThenName::Discard => Self::Discard,
            ThenName::Close => Self::Close,
            ThenName::Reset => Self::Reset,
            ThenName::Kernel => Self::Kernel,
        }
    }
}

impl From<Then> for ThenName {
    fn from(then: Then) -> Self {
        match then {
            Then::Queue => Self::Queue,
            Then::Discard => Self::Discard,
            Then::Close => Self::Close,
            Then::Reset => Self::Reset,
            Then::Kernel => Self::Kernel,
        }
    }
}

/// How many receive queues a port gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Queues {
    /// One for each worker, as many as the device has.
    #[default]
    Auto,
    /// This many.
    Fixed(u16),
}

impl<'de> Deserialize<'de> for Queues {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;

        impl Visitor<'_> for Reader {
            type Value = Queues;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "\"auto\" or a number from 1 to {QUEUES_MAX}")
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Queues, E> {
                match u16::try_from(number) {
                    Ok(queues @ 1..=QUEUES_MAX) => Ok(Queues::Fixed(queues)),
                    _ => Err(E::invalid_value(de::Unexpected::Signed(number), &self)),
                }
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Queues, E> {
                match text {
                    "auto" => Ok(Queues::Auto),
                    _ => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
                }
            }
        }

        deserializer.deserialize_any(Reader)
    }
}

/// Which cores the workers are pinned to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Cores {
    /// Those this process may use but the first.
    #[default]
    Auto,
    /// These, by the numbers that the kernel gives them.
    These(Vec<usize>),
}

impl<'de> Deserialize<'de> for Cores {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;

        impl<'de> Visitor<'de> for Reader {
            type Value = Cores;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"auto\" or a list of core numbers such as [1, 2]")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Cores, E> {
                match text {
                    "auto" => Ok(Cores::Auto),
                    _ => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
                }
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Cores, A::Error> {
                let mut cores = Vec::new();
                while let Some(core) = list.next_element::<usize>()? {
                    if cores.contains(&core) {
                        return Err(de::Error::custom(format_args!(
                            "core {core} is listed twice; one worker runs on each core, remove one"
                        )));
                    }
                    cores.push(core);
                }
                match cores.len() {
                    0 => Err(de::Error::invalid_length(0, &self)),
                    count if count > usize::from(QUEUES_MAX) => Err(de::Error::custom(format_args!(
                        "{count} cores are more than the {QUEUES_MAX} that one server takes; list fewer"
                    ))),
                    _ => Ok(Cores::These(cores)),
                }
            }
        }

        deserializer.deserialize_any(Reader)
    }
}
