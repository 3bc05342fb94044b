//! Which frames a capture takes: a small expression over addresses, ports and protocols, and a verdict.
//!
//! ```text
//! expression = term { "or" term }        term = factor { "and" factor }
//! factor     = "not" factor | "(" expression ")" | test
//! test       = tcp | udp | icmp | icmp6 | arp | ip | ip6 | vlan | flags LETTERS
//!            | [src | dst] host ADDR | [src | dst] net ADDR/LEN | [src | dst] port N[-M]
//! ```

use std::net::IpAddr;
use std::str::FromStr;

use listener::drop_reason::DropReason;
use listener::segment::Outcome;

use super::Ending;
use crate::summary::{PROTO_UDP, Summary, parse_flags};
use crate::wire::ether::{ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6};
use crate::wire::ipv4::{PROTO_ICMP, PROTO_TCP};
use crate::wire::ipv6::PROTO_ICMPV6;

/// Characters of an expression at most.
const TEXT_MAX: usize = 2000;
/// How deep parentheses and "not" may nest: a worker's stack pays for it.
const DEPTH_MAX: usize = 32;
/// What an expression is made of, for messages.
const WANTED: &str = "tcp, udp, icmp, icmp6, arp, ip, ip6, vlan, flags LETTERS, [src|dst] host ADDR, [src|dst] net ADDR/LEN, \
     [src|dst] port N, not, and, or, ( )";

/// An expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Filter {
    /// Everything.
    All,
    /// One test.
    Is(Test),
    /// The opposite.
    Not(Box<Filter>),
    /// All of them.
    And(Vec<Filter>),
    /// One of them.
    Or(Vec<Filter>),
}

/// Which end of a frame is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Where it comes from.
    Src,
    /// Where it goes.
    Dst,
    /// One of the two.
    Either,
}

impl End {
    fn holds<T: Copy>(self, ends: Option<(T, T)>, test: impl Fn(T) -> bool) -> bool {
        ends.is_some_and(|(src, dst)| match self {
            Self::Src => test(src),
            Self::Dst => test(dst),
            Self::Either => test(src) || test(dst),
        })
    }
}

/// What is asked of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Test {
    Protocol(u8),
    Ethertype(u16),
    Vlan,
    /// All of these TCP flags are set.
    Flags(u8),
    /// The first bits of an address.
    Net(End, IpAddr, u8),
    /// From this port to that one.
    Ports(End, u16, u16),
}

impl Test {
    fn matches(self, frame: &Summary) -> bool {
        match self {
            Self::Protocol(number) => frame.protocol == Some(number),
            Self::Ethertype(ethertype) => frame.ethertype == ethertype,
            Self::Vlan => frame.vid.is_some(),
            Self::Flags(flags) => frame.tcp.is_some_and(|tcp| tcp.flags & flags == flags),
            Self::Net(end, net, len) => end.holds(frame.ends, |addr| in_net(addr, net, len)),
            Self::Ports(end, low, high) => end.holds(frame.ports, |port| (low..=high).contains(&port)),
        }
    }
}

fn in_net(addr: IpAddr, net: IpAddr, len: u8) -> bool {
    match (addr, net) {
        (IpAddr::V4(addr), IpAddr::V4(net)) => {
            (addr.to_bits() ^ net.to_bits()).checked_shr(32 - u32::from(len)).unwrap_or(0) == 0
        }
        (IpAddr::V6(addr), IpAddr::V6(net)) => {
            (addr.to_bits() ^ net.to_bits()).checked_shr(128 - u32::from(len)).unwrap_or(0) == 0
        }
        _ => false,
    }
}

impl Filter {
    /// True if `frame` is wanted.
    pub fn matches(&self, frame: &Summary) -> bool {
        match self {
            Self::All => true,
            Self::Is(test) => test.matches(frame),
            Self::Not(other) => !other.matches(frame),
            Self::And(all) => all.iter().all(|filter| filter.matches(frame)),
            Self::Or(any) => any.iter().any(|filter| filter.matches(frame)),
        }
    }

    /// Reads an expression; an empty one is everything.
    ///
    /// # Errors
    /// What was found where something else was wanted.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > TEXT_MAX {
            return Err(format!("the filter is longer than {TEXT_MAX} characters"));
        }
        let spaced = text.replace('(', " ( ").replace(')', " ) ");
        let mut words = Words { words: spaced.split_whitespace().collect(), at: 0, depth: 0 };
        if words.words.is_empty() {
            return Ok(Self::All);
        }
        let filter = words.expression()?;
        match words.next() {
            None => Ok(filter),
            Some(word) => Err(format!("\"{word}\" stands where \"and\" or \"or\" or the end was wanted")),
        }
    }
}

struct Words<'a> {
    words: Vec<&'a str>,
    at: usize,
    depth: usize,
}

impl<'a> Words<'a> {
    fn next(&mut self) -> Option<&'a str> {
        let word = self.words.get(self.at).copied();
        self.at += 1;
        word
    }

    /// Takes the next word if it is one of `words`.
    fn take(&mut self, words: [&str; 2]) -> bool {
        let found = self.words.get(self.at).is_some_and(|word| words.contains(word));
        self.at += usize::from(found);
        found
    }

    fn expression(&mut self) -> Result<Filter, String> {
        let mut any = vec![self.term()?];
        while self.take(["or", "||"]) {
            any.push(self.term()?);
        }
        Ok(if any.len() == 1 { any.remove(0) } else { Filter::Or(any) })
    }

    fn term(&mut self) -> Result<Filter, String> {
        let mut all = vec![self.factor()?];
        while self.take(["and", "&&"]) {
            all.push(self.factor()?);
        }
        Ok(if all.len() == 1 { all.remove(0) } else { Filter::And(all) })
    }

    fn factor(&mut self) -> Result<Filter, String> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(format!("the filter nests deeper than {DEPTH_MAX}"));
        }
        let factor = if self.take(["not", "!"]) {
            Filter::Not(Box::new(self.factor()?))
        } else if self.take(["(", "("]) {
            let inner = self.expression()?;
            if !self.take([")", ")"]) {
                return Err("a \")\" is missing".into());
            }
            inner
        } else {
            Filter::Is(self.test()?)
        };
        self.depth -= 1;
        Ok(factor)
    }

    fn test(&mut self) -> Result<Test, String> {
        let mut word =
            self.next().ok_or_else(|| format!("the filter ends too early; wanted one of: {WANTED}"))?;
        let end = match word {
            "src" => End::Src,
            "dst" => End::Dst,
            _ => End::Either,
        };
        if end != End::Either {
            word = self.next().unwrap_or_default();
        }
        match word {
            "host" | "net" => self.net(end),
            "port" => self.ports(end),
            _ if end != End::Either => Err(format!("\"{word}\" behind src or dst; wanted host, net or port")),
            "tcp" => Ok(Test::Protocol(PROTO_TCP)),
            "udp" => Ok(Test::Protocol(PROTO_UDP)),
            "icmp" => Ok(Test::Protocol(PROTO_ICMP)),
            "icmp6" => Ok(Test::Protocol(PROTO_ICMPV6)),
            "arp" => Ok(Test::Ethertype(ETHERTYPE_ARP)),
            "ip" => Ok(Test::Ethertype(ETHERTYPE_IPV4)),
            "ip6" => Ok(Test::Ethertype(ETHERTYPE_IPV6)),
            "vlan" => Ok(Test::Vlan),
            "flags" => Ok(Test::Flags(parse_flags(self.next().unwrap_or_default())?)),
            other => Err(format!("\"{other}\" is nothing that can be filtered by; wanted one of: {WANTED}")),
        }
    }

    fn net(&mut self, end: End) -> Result<Test, String> {
        let word = self.next().unwrap_or_default();
        let (addr, len) = word.split_once('/').map_or((word, None), |(addr, len)| (addr, Some(len)));
        let wrong = || format!("\"{word}\" is no address; write one such as 198.18.0.1 or 2001:db8::/32");
        let addr: IpAddr = addr.parse().map_err(|_| wrong())?;
        let bits = if addr.is_ipv4() { 32 } else { 128 };
        let len = len.map_or(Ok(bits), str::parse).ok().filter(|len| *len <= bits).ok_or_else(wrong)?;
        Ok(Test::Net(end, addr, len))
    }

    fn ports(&mut self, end: End) -> Result<Test, String> {
        let word = self.next().unwrap_or_default();
        let (low, high) = word.split_once('-').unwrap_or((word, word));
        match (low.parse(), high.parse()) {
            (Ok(low), Ok(high)) if low <= high => Ok(Test::Ports(end, low, high)),
            _ => Err(format!("\"{word}\" is no port; write one such as 80, or a range such as 8000-8080")),
        }
    }
}

/// Which verdicts are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WantedVerdict {
    /// All.
    Any,
    /// Every drop.
    Drop,
    /// Every answer.
    Reply,
    /// Everything that was handled without an answer.
    Consume,
    /// This outcome.
    Outcome(Outcome),
    /// This drop.
    Reason(DropReason),
}

impl WantedVerdict {
    /// True if `ending` is one of them.
    pub fn matches(self, ending: Ending) -> bool {
        match (self, ending) {
            (Self::Any, _)
            | (Self::Drop, Ending::Drop(_))
            | (Self::Reply, Ending::Reply(_))
            | (Self::Consume, Ending::Consume(_)) => true,
            (Self::Outcome(wanted), Ending::Reply(found) | Ending::Consume(found)) => wanted == found,
            (Self::Reason(wanted), Ending::Drop(found)) => wanted == found,
            _ => false,
        }
    }
}

impl FromStr for WantedVerdict {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let outcome = Outcome::ALL.into_iter().find(|outcome| outcome.name() == text).map(Self::Outcome);
        let reason = DropReason::ALL.iter().find(|reason| reason.name() == text).map(|r| Self::Reason(*r));
        match text {
            "any" => Ok(Self::Any),
            "drop" => Ok(Self::Drop),
            "reply" => Ok(Self::Reply),
            "consume" => Ok(Self::Consume),
            _ => outcome.or(reason).ok_or_else(|| {
                format!("\"{text}\" is no verdict; write any, drop, reply, consume, or a name that \"hearken stats --all\" shows under outcomes or drops")
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::summary::TcpSummary;

    fn frame() -> Summary {
        Summary {
            ethertype: ETHERTYPE_IPV4,
            ends: Some((
                "198.18.0.2".parse().expect("an address"),
                "198.18.0.1".parse().expect("an address"),
            )),
            protocol: Some(PROTO_TCP),
            ports: Some((40_000, 80)),
            tcp: Some(TcpSummary { flags: 0x12, ..TcpSummary::default() }),
            ..Summary::default()
        }
    }

    #[test]
    fn expressions_choose_frames() {
        for (text, wanted) in [
            ("", true),
            ("tcp", true),
            ("udp or arp", false),
            ("port 80", true),
            ("src port 80", false),
            ("dst port 80 and src host 198.18.0.2", true),
            ("not (port 80-90)", false),
            ("! port 81 && ( udp || ip )", true),
            ("arp or tcp and port 81", false),
            ("tcp or arp and port 81", true),
            ("net 198.18.0.0/15 and not dst net 198.18.0.2/32", true),
            ("net 0.0.0.0/0", true),
            ("net ::/0", false),
            ("host 2001:db8::1", false),
            ("flags S", true),
            ("flags SA and not flags F", true),
            ("vlan or ip6 or icmp or icmp6", false),
        ] {
            let filter = Filter::parse(text).expect("an expression");
            assert_eq!(filter.matches(&frame()), wanted, "{text}: {filter:?}");
        }
    }

    #[test]
    fn what_is_no_expression_is_said() {
        for (text, said) in [
            ("port", "\"\" is no port"),
            ("port 99999", "\"99999\" is no port"),
            ("port 90-80", "is no port"),
            ("host x", "\"x\" is no address"),
            ("net 198.18.0.0/33", "is no address"),
            ("src tcp", "\"tcp\" behind src or dst"),
            ("tcp udp", "\"udp\" stands where"),
            ("(tcp", "a \")\" is missing"),
            ("tcp and", "ends too early"),
            ("greater 5", "nothing that can be filtered by"),
            ("flags Q", "is no flag"),
        ] {
            let error = Filter::parse(text).expect_err(text);
            assert!(error.contains(said), "{text}: {error}");
        }
        assert!(Filter::parse(&"(".repeat(100)).expect_err("deep").contains("nests deeper"));
        assert!(Filter::parse(&"not ".repeat(100)).expect_err("deep").contains("nests deeper"));
        assert!(Filter::parse(&"tcp or ".repeat(1000)).expect_err("long").contains("longer than"));
    }

    #[test]
    fn verdicts_have_names() {
        let parse = |text: &str| text.parse::<WantedVerdict>();
        assert_eq!(parse("tcp_csum"), Ok(WantedVerdict::Reason(DropReason::TcpCsum)));
        assert!(parse("synack").expect("an outcome").matches(Ending::Reply(Outcome::SynAck)));
        assert!(!parse("consume").expect("a word").matches(Ending::Drop(DropReason::TcpCsum)));
        assert!(parse("dropped").is_err());
    }
}
