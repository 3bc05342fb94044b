//! `[sysctl]`: the knobs of [`listener::sysctl::Sysctl`] by the same names.

use std::fmt;
use std::str::FromStr;

use listener::sysctl::Sysctl as Values;
use listener::types::TcpPort;
use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};
use toml::Spanned;

use super::value::deserialize_from_str;
use super::{Config, ConfigError};

macro_rules! knobs {
    ($($name:ident: $type:ty,)*) => {
        /// `[sysctl]`: what is not given has the kernel's default, because a listener is to behave as it would there.
        /// For the meaning of each knob see [`listener::sysctl::Sysctl`].
        #[derive(Clone, Debug, Default, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct Sysctl {
            $(#[doc = concat!("See [`listener::sysctl::Sysctl::", stringify!($name), "`].")]
            pub $name: Option<Spanned<$type>>,)*
        }

        impl Sysctl {
            /// All knobs, with defaults for those that are not given.
            pub fn values(&self) -> Values {
                let mut values = Values::default();
                $(if let Some(given) = &self.$name {
                    values.$name = given.get_ref().clone().into();
                })*
                values
            }
        }
    };
}

knobs! {
    somaxconn: u32,
    tcp_max_syn_backlog: u32,
    tcp_syncookies: u8,
    tcp_synack_retries: u8,
    tcp_abort_on_overflow: Switch,
    tcp_migrate_req: Switch,
    tcp_timestamps: u8,
    tcp_sack: Switch,
    tcp_window_scaling: Switch,
    tcp_ecn: u8,
    tcp_fastopen: u32,
    tcp_rmem: [u32; 3],
    rmem_max: u32,
    tcp_invalid_ratelimit: u32,
    tcp_challenge_ack_limit: u32,
    tcp_rfc1337: Switch,
    tcp_max_tw_buckets: u32,
    tcp_reflect_tos: Switch,
    tcp_fin_timeout: u32,
    tcp_retries2: u8,
    tcp_orphan_retries: u8,
    ip_local_port_range: PortRange,
    ip_local_reserved_ports: ReservedPorts,
    ip_unprivileged_port_start: u16,
    ip_autobind_reuse: Switch,
    ip_nonlocal_bind: Switch,
    ipv6_ip_nonlocal_bind: Switch,
    bindv6only: Switch,
}

/// The value of the kernel's knob `name`, as far as it can be read.
fn kernels<T: FromStr>(dir: &std::path::Path, name: &str) -> Option<Spanned<T>> {
    let text = std::fs::read_to_string(dir.join(name)).ok()?;
    text.trim().parse().ok().map(super::default_value)
}

impl Sysctl {
    /// Fills in what SYN-ACKs go by and what is not given, from the kernel's own knobs in `dir`.
    pub(super) fn follow(&mut self, dir: &std::path::Path) {
        let switch = |name: &str| {
            kernels::<u8>(dir, name).map(|knob| super::default_value(Switch(*knob.get_ref() != 0)))
        };
        let mode = |name: &str| kernels::<u8>(dir, name).filter(|mode| *mode.get_ref() <= 2);
        self.tcp_timestamps = self.tcp_timestamps.take().or_else(|| mode("tcp_timestamps"));
        self.tcp_sack = self.tcp_sack.take().or_else(|| switch("tcp_sack"));
        self.tcp_window_scaling = self.tcp_window_scaling.take().or_else(|| switch("tcp_window_scaling"));
        self.tcp_ecn = self.tcp_ecn.take().or_else(|| mode("tcp_ecn"));
        self.tcp_reflect_tos = self.tcp_reflect_tos.take().or_else(|| switch("tcp_reflect_tos"));
        let rmem = || {
            let text = std::fs::read_to_string(dir.join("tcp_rmem")).ok()?;
            let mut numbers = text.split_ascii_whitespace().map_while(|number| number.parse().ok());
            Some(super::default_value([numbers.next()?, numbers.next()?, numbers.next()?]))
        };
        self.tcp_rmem = self.tcp_rmem.take().or_else(rmem);
        self.rmem_max = self.rmem_max.take().or_else(|| kernels(&dir.join("../core"), "rmem_max"));
    }

    /// Ranges that the kernel enforces too.
    pub(super) fn check(&self, config: &Config) -> Result<(), ConfigError> {
        let modes = [
            ("tcp_syncookies", &self.tcp_syncookies),
            ("tcp_timestamps", &self.tcp_timestamps),
            ("tcp_ecn", &self.tcp_ecn),
        ];
        for (name, mode) in modes {
            if let Some(mode) = mode.as_ref().filter(|mode| *mode.get_ref() > 2) {
                let found = mode.get_ref();
                return Err(config.error(mode, format!("{name} must be from 0 to 2, found {found}")));
            }
        }
        if let Some(range) = self.ip_local_port_range.as_ref().filter(|range| !range.get_ref().is_range()) {
            let PortRange([low, high]) = range.get_ref();
            let message =
                format!("ip_local_port_range must be two ports, the lower first, found [{low}, {high}]");
            return Err(config.error(range, message));
        }
        if let Some(rmem) = self.tcp_rmem.as_ref().filter(|rmem| !rmem.get_ref().is_sorted()) {
            let found = rmem.get_ref();
            return Err(
                config.error(rmem, format!("tcp_rmem must be three sizes that grow, found {found:?}"))
            );
        }
        Ok(())
    }
}

/// 0 or 1 as in `/proc/sys`, or `false` or `true`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Switch(pub bool);

impl From<Switch> for bool {
    fn from(switch: Switch) -> Self {
        switch.0
    }
}

impl<'de> Deserialize<'de> for Switch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;

        impl Visitor<'_> for Reader {
            type Value = Switch;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("0 or 1")
            }

            fn visit_bool<E: de::Error>(self, on: bool) -> Result<Switch, E> {
                Ok(Switch(on))
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Switch, E> {
                match number {
                    0 | 1 => Ok(Switch(number == 1)),
                    _ => Err(E::invalid_value(de::Unexpected::Signed(number), &self)),
                }
            }
        }

        deserializer.deserialize_any(Reader)
    }
}

/// First and last port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct PortRange(pub [u16; 2]);

impl PortRange {
    fn is_range(self) -> bool {
        self.0[0] > 0 && self.0[0] <= self.0[1]
    }
}

impl From<PortRange> for (TcpPort, TcpPort) {
    fn from(range: PortRange) -> Self {
        (TcpPort(range.0[0]), TcpPort(range.0[1]))
    }
}

/// Ports and ranges as in `/proc/sys`: `80,8000-8080`; may be empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReservedPorts(pub Vec<(TcpPort, TcpPort)>);

impl FromStr for ReservedPorts {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let range = |part: &str| {
            let (low, high) = part.split_once('-').unwrap_or((part, part));
            match (low.trim().parse(), high.trim().parse()) {
                (Ok(low), Ok(high)) if low <= high => Ok((TcpPort(low), TcpPort(high))),
                _ => Err(format!("\"{part}\" is no port or range; write them such as \"80,8000-8080\"")),
            }
        };
        text.split(',').filter(|part| !part.trim().is_empty()).map(range).collect::<Result<_, _>>().map(Self)
    }
}

impl From<ReservedPorts> for Vec<(TcpPort, TcpPort)> {
    fn from(ports: ReservedPorts) -> Self {
        ports.0
    }
}

deserialize_from_str!(ReservedPorts, "ports and ranges such as \"80,8000-8080\"");
