//! What a stream is asked to be, on the command line or in a scenario file; and the values that both are made of.

#![allow(
    rustdoc::broken_intra_doc_links,
    reason = "the comments are what --help prints, defaults in brackets"
)]

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use anyhow::{bail, ensure};
use listener::types::InetAddr;
use serde::{Deserialize, Serialize};

use super::plan::{End, Mode, Stream};
use super::schedule::Schedule;
use super::space::Space;
use super::targets::{Choice, Expect, Targets};
use super::template::{Link, Offer};

/// Octets of data that fit in one segment with every option, over both families.
const DATA_MAX: u16 = 1380;

macro_rules! from_text {
    ($($name:ty)*) => { $(
        impl TryFrom<String> for $name {
            type Error = String;

            fn try_from(text: String) -> Result<Self, String> {
                text.parse()
            }
        }
    )* };
}

from_text!(Net Ports Rate);

/// An address, or all addresses of a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Net {
    /// The address as it was written.
    pub addr: InetAddr,
    /// Bits of the prefix.
    pub len: u8,
}

impl FromStr for Net {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wanted = || {
            format!("\"{text}\" is no address; write one such as 198.18.0.1, 198.19.0.0/16 or 2001:db8::/64")
        };
        let (addr, len) = match text.split_once('/') {
            Some((addr, len)) => (addr, Some(len)),
            None => (text, None),
        };
        let addr: IpAddr = addr.parse().map_err(|_| wanted())?;
        let width = if addr.is_ipv4() { 32 } else { 128 };
        let len = len.map_or(Ok(width), |len| len.parse::<u8>().map_err(|_| wanted()))?;
        if len > width {
            return Err(format!("\"{text}\": the prefix length must be a number from 0 to {width}"));
        }
        Ok(Self { addr: addr.into(), len })
    }
}

/// A range of TCP ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Ports(pub u16, pub u16);

impl FromStr for Ports {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (low, high) = text.split_once('-').unwrap_or((text, text));
        match (low.parse(), high.parse()) {
            (Ok(low), Ok(high)) if low <= high => Ok(Self(low, high)),
            _ => Err(format!("\"{text}\" is no range of ports; write 80 or 80-95")),
        }
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == self.1 { write!(f, "{}", self.0) } else { write!(f, "{}-{}", self.0, self.1) }
    }
}

/// A number a second, with a suffix if one likes: `250000`, `250k`, `5M`, `1.5G`.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
#[serde(try_from = "String")]
pub struct Rate(pub f64);

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, factor) = match text.char_indices().last() {
            Some((at, 'k' | 'K')) => (&text[..at], 1e3),
            Some((at, 'M')) => (&text[..at], 1e6),
            Some((at, 'G')) => (&text[..at], 1e9),
            _ => (text, 1.0),
        };
        match number.parse::<f64>() {
            Ok(number) if number > 0.0 && (number * factor).is_finite() => Ok(Self(number * factor)),
            _ => Err(format!("\"{text}\" is no rate; write a number a second such as 250000, 250k or 5M")),
        }
    }
}

/// Which TCP options a SYN carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum TcpOption {
    /// Maximum segment size
    Mss,
    /// Window scale
    Ws,
    /// SACK permitted
    Sack,
    /// Time stamps
    Ts,
}

/// The manner of a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Manner {
    /// SYNs alone: a flood
    #[default]
    Syn,
    /// Whole connections
    Connect,
}

/// A stream. What is not said has the default that its line names.
#[derive(Clone, Debug, Default, Deserialize, clap::Args)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Spec {
    /// Its name in tables
    #[arg(skip)]
    pub name: Option<String>,
    /// syn or connect
    #[arg(skip)]
    #[serde(default)]
    pub mode: Manner,
    /// Where to: an address, or all of a prefix [198.18.0.1]
    #[arg(long, value_name = "ADDR[/LEN]")]
    pub to: Option<Net>,
    /// Ports that are open [80]
    #[arg(long, value_name = "PORT[-PORT]")]
    pub port: Option<Ports>,
    /// What those ports should answer [open]
    #[arg(long, value_enum)]
    pub expect: Option<Expect>,
    /// Percent of the SYNs that go there; the others go to closed ports [100]
    #[arg(long, value_name = "PERCENT")]
    pub hit: Option<f64>,
    /// Ports that are closed [9000-9999]
    #[arg(long, value_name = "PORT[-PORT]")]
    pub closed_port: Option<Ports>,
    /// Choose among the open ones by Zipf's law with this exponent, not all alike
    #[arg(long, value_name = "EXPONENT")]
    pub zipf: Option<f64>,
    /// Where from: an address, or all of a prefix [198.19.0.0/16, 2001:db8:1::/64]
    #[arg(long, value_name = "ADDR[/LEN]")]
    pub from: Option<Net>,
    /// Source ports; the first power of two of them are used [1024-65535]
    #[arg(long, value_name = "PORT-PORT")]
    pub from_port: Option<Ports>,
    /// TCP options of the SYNs [mss,sack,ts,ws]
    #[arg(long, value_enum, value_delimiter = ',', num_args = 0..)]
    pub options: Option<Vec<TcpOption>>,
    /// MSS that is offered [1460, 1440 over IPv6]
    #[arg(long, value_name = "OCTETS")]
    pub mss: Option<u16>,
    /// SYNs a second, held against the clock [100k]
    #[arg(long, value_name = "RATE")]
    pub rate: Option<Rate>,
    /// Climb to the rate in so many seconds [0]
    #[arg(long, value_name = "SECONDS")]
    pub ramp: Option<f64>,
    /// Climb from this rate [1]
    #[arg(long, value_name = "RATE")]
    pub ramp_from: Option<Rate>,
    /// connect: octets of data after the handshake [0]
    #[arg(long, value_name = "OCTETS")]
    pub data: Option<u16>,
    /// connect: how connections end [fin]
    #[arg(long, value_enum)]
    pub end: Option<End>,
}

impl Spec {
    /// Where to.
    pub fn to(&self) -> Net {
        self.to.unwrap_or(Net { addr: InetAddr::v4(0xc612_0001), len: 32 })
    }

    /// Where from.
    pub fn from(&self) -> Net {
        let v4 = Net { addr: InetAddr::v4(0xc613_0000), len: 16 };
        let v6 = Net { addr: InetAddr::v6(0x2001_0db8_0001_0000, 0), len: 64 };
        self.from.unwrap_or(if self.to().addr.is_v4() { v4 } else { v6 })
    }

    /// Ports that are open.
    pub fn port(&self) -> Ports {
        self.port.unwrap_or(Ports(80, 80))
    }

    /// SYNs a second.
    pub fn rate(&self) -> f64 {
        self.rate.map_or(1e5, |rate| rate.0)
    }

    /// Its name.
    pub fn name(&self) -> String {
        let manner = match self.mode {
            Manner::Syn => "syn",
            Manner::Connect => "connect",
        };
        self.name.clone().unwrap_or_else(|| manner.to_owned())
    }

    /// The schedule of a run of `seconds` at `scale` times its rate.
    pub fn schedule(&self, seconds: f64, scale: f64) -> Schedule {
        let from = self.ramp_from.map_or(1.0, |rate| rate.0);
        Schedule::new(from * scale, self.rate() * scale, self.ramp.unwrap_or(0.0), seconds)
    }

    /// The stream whose frames are made from `link`, for `seconds`.
    ///
    /// # Errors
    /// Values that do not go together.
    pub fn stream(&self, link: &Link, seconds: f64, seed: u64) -> anyhow::Result<Stream> {
        let (to, from) = (self.to(), self.from());
        ensure!(
            to.addr.is_v4() == from.addr.is_v4(),
            "--to {} and --from {} are of two families",
            to.addr,
            from.addr
        );
        let percent = self.hit.unwrap_or(100.0);
        ensure!((0.0..=100.0).contains(&percent), "--hit {percent} is no percentage");
        let data = self.data.unwrap_or(0);
        ensure!(data <= DATA_MAX, "--data {data}: one segment holds {DATA_MAX} octets");
        let end = self.end.unwrap_or(End::Fin);
        let mode = match self.mode {
            Manner::Connect => Mode::Connect { data, end },
            Manner::Syn if self.data.is_some() || self.end.is_some() => {
                bail!("data and end are for connections; a SYN has neither")
            }
            Manner::Syn => Mode::Syn,
        };
        let choice = match self.zipf {
            Some(exponent) if exponent > 0.0 => Choice::Zipf(exponent),
            Some(exponent) => bail!("--zipf {exponent}: the exponent is greater than 0"),
            None => Choice::Uniform,
        };
        let (ports, closed) = (self.port(), self.closed_port.unwrap_or(Ports(9000, 9999)));
        ensure!(
            percent == 100.0 || ports.1 < closed.0 || closed.1 < ports.0,
            "ports {ports} should be open and ports {closed} closed, and some are in both"
        );
        let from_port = self.from_port.unwrap_or(Ports(1024, 65535));
        let space = Space::new(from.addr, from.len, (from_port.0, from_port.1), seed);
        let expect = self.expect.unwrap_or(Expect::Open);
        let closed = ((closed.0, closed.1), percent);
        let targets = Targets::new((to.addr, to.len), (ports.0, ports.1), expect, closed, choice, seed);
        Ok(Stream::new(
            &self.name(),
            link,
            (self.schedule(seconds, 1.0), 0),
            (space, targets),
            (self.offer(), mode),
        ))
    }

    fn offer(&self) -> Offer {
        let all = [TcpOption::Mss, TcpOption::Sack, TcpOption::Ts, TcpOption::Ws];
        let has = |option| self.options.as_deref().unwrap_or(&all).contains(&option);
        let mss = self.mss.unwrap_or(if self.to().addr.is_v4() { 1460 } else { 1440 });
        Offer {
            mss: has(TcpOption::Mss).then_some(mss),
            wscale: has(TcpOption::Ws).then_some(7),
            sack: has(TcpOption::Sack),
            timestamps: has(TcpOption::Ts),
        }
    }
}

/// Refuses streams whose sources overlap: an answer could not be told to which it belongs.
///
/// # Errors
/// Two such streams.
pub fn disjoint(specs: &[Spec]) -> anyhow::Result<()> {
    for (at, one) in specs.iter().enumerate() {
        for other in &specs[at + 1..] {
            let (a, b) = (one.from(), other.from());
            ensure!(
                !a.addr.same_prefix(b.addr, a.len.min(b.len)),
                "streams \"{}\" and \"{}\" have sources in common; give each its own with from",
                one.name(),
                other.name()
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use dataplane::wire::ether::MacAddr;

    #[test]
    fn values_and_what_is_said_of_wrong_ones() {
        assert_eq!("5M".parse(), Ok(Rate(5e6)));
        assert_eq!("1.5k".parse(), Ok(Rate(1500.0)));
        assert_eq!("80-95".parse(), Ok(Ports(80, 95)));
        assert_eq!("198.19.0.0/16".parse(), Ok(Net { addr: InetAddr::v4(0xc613_0000), len: 16 }));
        for bad in ["0", "-1", "M", "five"] {
            assert!(bad.parse::<Rate>().expect_err(bad).contains("such as 250000"), "{bad}");
        }
        assert!("95-80".parse::<Ports>().is_err() && "70000".parse::<Ports>().is_err());
        assert!("198.18.0.1/33".parse::<Net>().is_err() && "host".parse::<Net>().is_err());
    }

    #[test]
    fn streams_that_make_no_sense_are_refused() {
        let link = Link { src: MacAddr([2; 6]), dst: MacAddr([2; 6]), vlan: None };
        let refused = |spec: Spec| spec.stream(&link, 1.0, 1).expect_err("refused").to_string();
        assert!(Spec::default().stream(&link, 1.0, 1).is_ok());
        let v6 = "2001:db8::1".parse().ok();
        assert!(Spec { to: v6, ..Spec::default() }.stream(&link, 1.0, 1).is_ok());
        let from = "198.19.0.0/16".parse().ok();
        assert!(refused(Spec { to: v6, from, ..Spec::default() }).contains("two families"));
        assert!(refused(Spec { data: Some(1), ..Spec::default() }).contains("connections"));
        let both = Spec { hit: Some(50.0), closed_port: Some(Ports(1, 99)), ..Spec::default() };
        assert!(refused(both).contains("some are in both"));
        assert!(refused(Spec { zipf: Some(0.0), ..Spec::default() }).contains("greater than 0"));
        let two = [Spec::default(), Spec { from: "198.19.3.0/24".parse().ok(), ..Spec::default() }];
        assert!(disjoint(&two).is_err() && disjoint(&two[..1]).is_ok());
    }
}
