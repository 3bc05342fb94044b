//! `take`, `[kernel]` and `[shield]`: hearken beside the kernel, in front of the kernel's own listeners.

use std::net::SocketAddr;
use std::str::FromStr;

use serde::de::{self, Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use toml::Spanned;

use super::value::deserialize_from_str;
use super::{Config, ConfigError, Device, ListenAddr, Port, Ports, default_value};

/// Which frames of an interface come to hearken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Take {
    /// All that the device receives.
    #[default]
    All,
    /// Only SYNs to listeners with `then = "kernel"`; everything else goes the kernel's way. For `net_af_xdp`.
    Claimed,
}

/// `[kernel]`: which of the kernel's listeners hearken stands in front of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Kernel {
    /// The listeners to follow: `"all"`, or a list of ports and addresses with ports. Default: none.
    /// Example: `adopt = ["443", "198.18.0.1:8000-8100"]`.
    pub adopt: Adopt,
    /// Of those, the ones to leave to the kernel. Default: none.
    /// Example: `except = ["22"]`.
    pub except: Vec<Pattern>,
    /// SYNs that come to hearken per millisecond and CPU; those beyond are answered where they arrive, with the same cookies, so that
    /// a flood overruns no ring. 0: all come to hearken. Default 64; on a veth 0, because its driver loses such answers unless the
    /// peer has GRO (`ethtool -K PEER gro on`).
    /// Example: `redirect_per_ms = 128`.
    pub redirect_per_ms: Option<u32>,
}

/// `[shield]`: the short form of a `[[port]]` with `take = "claimed"` and `[kernel] adopt = "all"`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shield {
    /// The interface, such as `"eth0"`.
    /// Example: `interface = "eth0"`.
    pub interface: Spanned<String>,
    /// Listeners to leave to the kernel. Default: none.
    /// Example: `except = ["22"]`.
    #[serde(default)]
    pub except: Vec<Pattern>,
    /// As `redirect_per_ms` of `[kernel]`. Default: the same.
    /// Example: `redirect_per_ms = 128`.
    #[serde(default)]
    pub redirect_per_ms: Option<u32>,
}

/// Which listeners of the kernel are followed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Adopt {
    /// None.
    #[default]
    None,
    /// Every one.
    All,
    /// Those that one of these names.
    These(Vec<Pattern>),
}

/// A name for listeners: ports at every address, or one address with its ports.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Pattern {
    /// `"443"`, `"80,443,8000-8100"`
    Ports(Ports),
    /// `"198.18.0.1:443"`, `"[2001:db8::1]:443"`, `"0.0.0.0:1-1024"`
    Addr(ListenAddr),
}

impl Pattern {
    /// True for a listener at `addr`.
    pub fn names(&self, addr: SocketAddr) -> bool {
        match self {
            Self::Ports(ports) => ports.contains(addr.port()),
            Self::Addr(wanted) => {
                wanted.ports.contains(addr.port()) && wanted.ip.to_canonical() == addr.ip().to_canonical()
            }
        }
    }
}

impl FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = match text.contains([':', '/']) {
            true => text.parse().map(Self::Addr),
            false => text.parse().map(Self::Ports),
        };
        parsed.map_err(|error| {
            format!(
                "{error}. A listener is named by ports such as \"443\" or \"8000-8100\", or by an address with them such \
                 as \"198.18.0.1:443\" or \"[2001:db8::1]:443\""
            )
        })
    }
}

impl std::fmt::Display for Pattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ports(ports) => ports.fmt(f),
            Self::Addr(addr) => addr.fmt(f),
        }
    }
}

impl Serialize for Pattern {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

deserialize_from_str!(
    Pattern,
    "ports such as \"443\" or \"8000-8100\", or an address with ports such as \"198.18.0.1:443\""
);

impl Kernel {
    /// True for a listener that hearken is to stand in front of.
    pub fn wants(&self, addr: SocketAddr) -> bool {
        let named = |list: &[Pattern]| list.iter().any(|pattern| pattern.names(addr));
        let adopted = match &self.adopt {
            Adopt::None => false,
            Adopt::All => true,
            Adopt::These(list) => named(list),
        };
        adopted && !named(&self.except)
    }
}

impl<'de> Deserialize<'de> for Adopt {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;

        impl<'de> Visitor<'de> for Reader {
            type Value = Adopt;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("\"all\" or a list such as [\"443\", \"[2001:db8::1]:80\"]")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Adopt, E> {
                match text {
                    "all" => Ok(Adopt::All),
                    _ => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
                }
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Adopt, A::Error> {
                let mut patterns = Vec::new();
                while let Some(pattern) = list.next_element()? {
                    patterns.push(pattern);
                }
                Ok(Adopt::These(patterns))
            }
        }

        deserializer.deserialize_any(Reader)
    }
}

impl Port {
    /// The port beside the kernel on `interface`; its addresses are the kernel's.
    fn beside(interface: &Spanned<String>) -> Result<Self, String> {
        let name = interface.get_ref();
        let device: Device = format!("net_af_xdp0,iface={name}").parse()?;
        Ok(Self {
            name: interface.clone(),
            device: Spanned::new(interface.span(), device),
            mac: None,
            addresses: Vec::new(),
            any_ip: Vec::new(),
            take: default_value(Take::Claimed),
            queues: super::queues_default(),
            rx_descriptors: super::descriptors_default(),
            tx_descriptors: super::descriptors_default(),
            mtu: super::mtu_default(),
            promiscuous: false,
            offloads: super::Offloads::default(),
            rx_timestamps: false,
        })
    }

    /// True if only claimed SYNs come to hearken here.
    pub fn is_beside_kernel(&self) -> bool {
        *self.take.get_ref() == Take::Claimed
    }

    /// The interface of a port beside the kernel.
    pub fn interface(&self) -> Option<&str> {
        match self.device.get_ref() {
            Device::Dpdk(device) => device.arg("iface"),
            _ => None,
        }
    }
}

impl Config {
    /// As [`Config::parse`], with the kernel's knobs: for a configuration that is in no file.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse_beside_kernel(text: String) -> Result<Self, ConfigError> {
        let mut config = Self::parse(std::path::Path::new("hearken shield"), text)?;
        config.follow_kernel();
        Ok(config)
    }

    /// Writes `[shield]` out as what it stands for.
    pub(super) fn expand_shield(&mut self) -> Result<(), ConfigError> {
        let Some(shield) = self.shield.take() else { return Ok(()) };
        if !self.port.is_empty() || self.kernel != Kernel::default() {
            let message = "[shield] stands for a [[port]] and [kernel]; keep the one or the other";
            return Err(self.error(&shield.interface, message));
        }
        let port =
            Port::beside(&shield.interface).map_err(|message| self.error(&shield.interface, message))?;
        self.port.push(port);
        let Shield { except, redirect_per_ms, .. } = shield;
        self.kernel = Kernel { adopt: Adopt::All, except, redirect_per_ms };
        Ok(())
    }

    /// Where hearken is beside the kernel, knobs that are not given have the kernel's own values, so that SYN-ACKs say what the
    /// kernel's would.
    pub(super) fn follow_kernel(&mut self) {
        if self.port.iter().any(Port::is_beside_kernel) {
            self.sysctl.follow(std::path::Path::new("/proc/sys/net/ipv4"));
        }
    }

    /// What `take`, `[kernel]` and `then = "kernel"` ask of each other.
    pub(super) fn check_kernel(&self) -> Result<(), ConfigError> {
        let beside = self.port.iter().filter(|port| port.is_beside_kernel());
        for port in beside {
            let driver = match port.device.get_ref() {
                Device::Dpdk(device) => device.driver(),
                _ => None,
            };
            if driver.as_deref() != Some("net_af_xdp") {
                let message = "take = \"claimed\" needs device = \"net_af_xdp0,iface=…\", which shares an interface with the kernel";
                return Err(self.error(&port.take, message));
            }
            let own =
                matches!(port.device.get_ref(), Device::Dpdk(device) if device.arg("xdp_prog").is_some());
            if own {
                let message = "take = \"claimed\" brings its own xdp_prog; remove that argument";
                return Err(self.error(&port.device, message));
            }
            if let Some(prefix) = port.addresses.iter().chain(&port.any_ip).next() {
                let message =
                    "with take = \"claimed\" the addresses are the kernel's; remove addresses and any_ip";
                return Err(self.error(prefix, message));
            }
        }
        if self.port.iter().any(Port::is_beside_kernel) {
            return Ok(());
        }
        if let Some(listener) = self.listener.iter().find(|listener| listener.then == super::ThenName::Kernel)
        {
            let message = "then = \"kernel\" needs a [[port]] with take = \"claimed\", or [shield]";
            return Err(self.error(&listener.addr, message));
        }
        if self.kernel.adopt != Adopt::None {
            return Err(self.file_error(
                "[kernel] adopt needs a [[port]] with take = \"claimed\"; add it, or write [shield] instead",
            ));
        }
        Ok(())
    }
}
