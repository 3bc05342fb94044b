//! Ports, one or many, and an address with them: `443`, `80,443,8000-8100`, `198.18.0.1:1-1024`.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use serde::Serialize;

use super::value::deserialize_from_str;

/// Port numbers from 1 to 65535, each once: ranges in ascending order, none of which touches the next. A million listeners have one
/// each, so the first range is kept where no memory must be taken for it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ports {
    first: (u16, u16),
    more: Box<[(u16, u16)]>,
}

impl Ports {
    /// `port` alone.
    pub fn one(port: u16) -> Self {
        Self { first: (port, port), more: Box::default() }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.ranges().map(|(first, last)| usize::from(last - first) + 1).sum()
    }

    /// The only one, if there is but one.
    pub fn only(&self) -> Option<u16> {
        let (first, last) = self.first;
        (first == last && self.more.is_empty()).then_some(first)
    }

    /// True if `port` is one of them.
    pub fn contains(&self, port: u16) -> bool {
        let within = |(first, last): (u16, u16)| (first..=last).contains(&port);
        let at = self.more.partition_point(|(_, last)| *last < port);
        within(self.first) || self.more.get(at).copied().is_some_and(within)
    }

    /// Each of them, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        self.ranges().flat_map(|(first, last)| first..=last)
    }

    /// The ranges, first and last port of each, ascending.
    pub fn ranges(&self) -> impl Iterator<Item = (u16, u16)> + '_ {
        std::iter::once(self.first).chain(self.more.iter().copied())
    }
}

/// One number or range of a list.
fn range(text: &str) -> Result<(u16, u16), String> {
    const NEXT: &str = "give ports from 1 to 65535 such as 80, 8000-8100 or 80,443,8000-8100";
    let port = |digits: &str| match digits.parse::<u32>() {
        _ if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            Err(format!("\"{text}\" is no port or range of ports; {NEXT}"))
        }
        Ok(0) => Err(format!("port 0 is none to listen on; {NEXT}")),
        Ok(port) => u16::try_from(port).map_err(|_| format!("port {port} is beyond 65535; {NEXT}")),
        Err(_) => Err(format!("port {digits} is beyond 65535; {NEXT}")),
    };
    let Some((first, last)) = text.split_once('-') else {
        let only = port(text)?;
        return Ok((only, only));
    };
    let (first, last) = (port(first)?, port(last)?);
    if first > last {
        return Err(format!("the range {text} ends before it begins; write {last}-{first}"));
    }
    Ok((first, last))
}

impl FromStr for Ports {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if !text.contains(',') {
            return Ok(Self { first: range(text)?, more: Box::default() });
        }
        let mut ranges = text.split(',').map(range).collect::<Result<Vec<_>, _>>()?;
        ranges.sort_unstable();
        if let Some(pair) = ranges.windows(2).find(|pair| pair[1].0 <= pair[0].1) {
            return Err(format!("port {} is listed twice; list it once", pair[1].0));
        }
        ranges.dedup_by(|next, range| {
            let touches = u32::from(range.1) + 1 == u32::from(next.0);
            if touches {
                range.1 = next.1;
            }
            touches
        });
        let first = ranges.remove(0);
        Ok(Self { first, more: ranges.into() })
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (first, last)) in self.ranges().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            match first == last {
                true => write!(f, "{comma}{first}")?,
                false => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

/// A local address to listen on, without an IPv6 scope, and the ports there: a listener for each.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ListenAddr {
    /// The address; `0.0.0.0` or `::` for every address.
    pub ip: IpAddr,
    /// The ports.
    pub ports: Ports,
}

impl ListenAddr {
    /// The address of each listener, ascending.
    pub fn each(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.ports.iter().map(|port| SocketAddr::new(self.ip, port))
    }

    /// True for the address of one of the listeners.
    pub fn contains(&self, addr: SocketAddr) -> bool {
        self.ip == addr.ip() && self.ports.contains(addr.port())
    }
}

impl From<SocketAddr> for ListenAddr {
    fn from(addr: SocketAddr) -> Self {
        Self { ip: addr.ip(), ports: Ports::one(addr.port()) }
    }
}

impl FromStr for ListenAddr {
    type Err = String;

    /// `*` stands for every address of both families, as `ss` shows it.
    fn from_str(text: &str) -> Result<Self, String> {
        let none = || {
            format!(
                "\"{text}\" is no address with a port; write one such as \"198.18.0.1:80\", \"[2001:db8::1]:80\" or, \
                 with several ports, \"0.0.0.0:80,443,8000-8100\""
            )
        };
        let (ip, ports) = text.rsplit_once(':').ok_or_else(none)?;
        if ip.contains('/') {
            return Err(format!(
                "\"{text}\": a listener has one address, or every address of its port; write \"0.0.0.0:{ports}\", with \
                 device to keep it to one port, and the prefix in any_ip"
            ));
        }
        let bracketed = ip.strip_prefix('[').and_then(|ip| ip.strip_suffix(']'));
        if bracketed.is_some_and(|ip| ip.contains('%')) {
            return Err(format!(
                "\"{text}\": an IPv6 scope is not taken; name the port with \"device\" instead"
            ));
        }
        let ip = match bracketed {
            Some(ip) => ip.parse::<Ipv6Addr>().map(IpAddr::V6).ok(),
            None if ip == "*" => Some(Ipv6Addr::UNSPECIFIED.into()),
            None => ip.parse::<std::net::Ipv4Addr>().map(IpAddr::V4).ok(),
        };
        let ip = ip.ok_or_else(none)?;
        let ports = ports.parse().map_err(|error| format!("\"{text}\": {error}"))?;
        Ok(Self { ip, ports })
    }
}

impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ip {
            IpAddr::V4(ip) => write!(f, "{ip}:{}", self.ports),
            IpAddr::V6(ip) => write!(f, "[{ip}]:{}", self.ports),
        }
    }
}

impl Serialize for ListenAddr {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

deserialize_from_str!(ListenAddr, "an address with a port or several, such as \"198.18.0.1:80,8000-8100\"");

impl schemars::JsonSchema for ListenAddr {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ListenAddr".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "description": "An address with ports, such as `198.18.0.1:80` or `[::]:80,443,8000-8100`."
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_numbers_lists_and_ranges() {
        let ports = |text: &str| text.parse::<Ports>();
        for (text, shown, count) in [
            ("80", "80", 1),
            ("1-65535", "1-65535", 65_535),
            ("443,80,8000-8100", "80,443,8000-8100", 103),
            ("81,80,82-90", "80-90", 11),
            ("65535", "65535", 1),
            ("7-7", "7", 1),
        ] {
            let ports = ports(text).expect(text);
            assert_eq!(
                (ports.to_string().as_str(), ports.count(), ports.iter().count()),
                (shown, count, count)
            );
            let few = (0..=u16::MAX).filter(|port| ports.contains(*port)).count();
            assert_eq!(few, count, "{text}");
        }
        for (text, wanted) in [
            ("", "\"\" is no port or range of ports"),
            ("80,", "\"\" is no port or range of ports"),
            ("-80", "\"-80\" is no port or range of ports"),
            ("80-", "\"80-\" is no port or range of ports"),
            ("1-2-3", "\"1-2-3\" is no port or range of ports"),
            ("+80", "\"+80\" is no port or range of ports"),
            ("8 0", "\"8 0\" is no port or range of ports"),
            ("0", "port 0 is none to listen on"),
            ("0-5", "port 0 is none to listen on"),
            ("65536", "port 65536 is beyond 65535"),
            ("1-70000", "port 70000 is beyond 65535"),
            ("99999999999", "port 99999999999 is beyond 65535"),
            ("90-80", "the range 90-80 ends before it begins; write 80-90"),
            ("80,80", "port 80 is listed twice"),
            ("1-10,5-20", "port 5 is listed twice"),
        ] {
            let message = ports(text).expect_err(text);
            assert!(message.starts_with(wanted), "{text}: {message}");
        }
    }

    #[test]
    fn addresses_have_ports_behind_them() {
        let addr = |text: &str| text.parse::<ListenAddr>();
        for (text, shown) in [
            ("198.18.0.1:80", "198.18.0.1:80"),
            ("[2001:db8::1]:1-3,5", "[2001:db8::1]:1-3,5"),
            ("*:80", "[::]:80"),
            ("[::]:80", "[::]:80"),
            ("0.0.0.0:1-65535", "0.0.0.0:1-65535"),
        ] {
            let parsed = addr(text).expect(text);
            assert_eq!(parsed.to_string(), shown);
            assert_eq!(addr(shown).as_ref(), Ok(&parsed));
            assert!(parsed.each().all(|one| parsed.contains(one)));
        }
        let two = addr("198.18.0.1:80,82").expect("two");
        assert_eq!(
            two.each().map(|one| one.to_string()).collect::<Vec<_>>(),
            ["198.18.0.1:80", "198.18.0.1:82"]
        );
        for text in
            ["80", ":80", "198.18.0.1", "198.18.0.256:80", "::1:80", "[198.18.0.1]:80", "[::1]", "**:80"]
        {
            assert!(addr(text).is_err_and(|error| error.contains("is no address with a port")), "{text}");
        }
        for (text, wanted) in [
            ("[fe80::1%2]:80", "an IPv6 scope is not taken"),
            ("198.19.0.0/16:1-65535", "write \"0.0.0.0:1-65535\""),
            ("198.18.0.1:", "is no port or range"),
            ("198.18.0.1:5-4", "the range 5-4 ends before it begins"),
        ] {
            let error = addr(text).expect_err(text);
            assert!(error.starts_with(&format!("\"{text}\": ")) && error.contains(wanted), "{error}");
        }
    }
}
