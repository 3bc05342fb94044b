//! What becomes of a frame that does not come to a worker: for `hearken why`.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use hearken_bpf::Endpoint;
use hearken_bpf::handover::{Checked, Verdict};
use listener::Stack;
use listener::segment::{Segment, flag};

use super::{KernelSide, endpoints};

/// What the kernel's path does with a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    /// `handover` if the kernel makes a connection of it by hearken's word, `kernel` if it is the kernel's matter alone.
    pub verdict: &'static str,
    /// In words.
    pub sentence: String,
    /// The counter that would grow, of [`hearken_bpf::handover::COUNTERS`].
    pub counter: Option<&'static str>,
}

impl KernelSide {
    /// What becomes of `frame`, an Ethernet frame that is read as `seg` if it is TCP; none if it comes to a worker. What the kernel
    /// knows of the flow is not looked at: where it has a connection, the segment is the connection's.
    pub fn way(&self, stack: &Stack, frame: &[u8], seg: Option<&Segment>) -> Option<Way> {
        let Some(seg) = seg else {
            return Some(kernel(
                "hearken takes nothing but the SYNs of the listeners that it stands in front of",
            ));
        };
        let addr = IpAddr::from(seg.flow.daddr);
        let claimed = is_claimed(&endpoints(stack), SocketAddr::new(addr, seg.flow.dport.0));
        match seg.flags & (flag::SYN | flag::ACK | flag::RST | flag::FIN) {
            flag::SYN if claimed => None,
            _ if !claimed => Some(kernel(&format!(
                "hearken stands in front of no listener at {}",
                SocketAddr::new(addr, seg.flow.dport.0)
            ))),
            flags if flags & (flag::SYN | flag::ACK | flag::RST) != flag::ACK => {
                Some(kernel("only SYNs come to a worker, and only ACKs end a handshake"))
            }
            _ => Some(match self.handover.check(frame) {
                Ok(Some(checked)) => judged(&checked),
                Ok(None) => kernel("the hand-over reads no TCP segment in it"),
                Err(error) => kernel(&format!("what the hand-over would say is not known: {error}")),
            }),
        }
    }
}

/// As `is_claimed` in `packet.h`: the address itself, or any of its family.
fn is_claimed(claimed: &HashSet<Endpoint>, at: SocketAddr) -> bool {
    let any = match at.ip() {
        IpAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    claimed.contains(&Endpoint(at)) || claimed.contains(&Endpoint(SocketAddr::new(any, at.port())))
}

fn kernel(why: &str) -> Way {
    Way { verdict: "kernel", sentence: format!("It stays on the kernel's path: {why}."), counter: None }
}

/// What the hand-over does with an ACK at a claimed listener that belongs to no connection.
fn judged(checked: &Checked) -> Way {
    let refused = |counter, why: &str| Way {
        verdict: "kernel",
        sentence: format!("{why} Unless the kernel knows the connection, it answers with a RST."),
        counter: Some(counter),
    };
    match checked.verdict {
        Verdict::Good => Way {
            verdict: "handover",
            sentence: format!(
                "Its cookie is good, and the kernel makes a connection of its listener: {}.",
                options(checked)
            ),
            counter: Some("handed_over_to_kernel"),
        },
        Verdict::Bad => refused("handover_bad_cookie", "It acknowledges no cookie that hearken made."),
        Verdict::Outdated => {
            refused("handover_outdated_cookie", "It acknowledges a cookie that is too old to count.")
        }
        Verdict::Timestamp => refused(
            "handover_bad_timestamp",
            "It acknowledges a cookie that hearken made, but echoes a timestamp of another time.",
        ),
    }
}

fn options(checked: &Checked) -> String {
    let wscale =
        checked.wscale.map_or_else(|| "no window scale".to_owned(), |shift| format!("window scale {shift}"));
    let has = |on, name: &str| if on { name.to_owned() } else { format!("no {name}") };
    let rtt =
        if checked.rtt_ms > 0 { format!("; {} ms since the SYN-ACK", checked.rtt_ms) } else { String::new() };
    format!("MSS {}, {wscale}, {}, {}{rtt}", checked.mss, has(checked.sack, "SACK"), has(checked.ecn, "ECN"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: Checked =
        Checked { verdict: Verdict::Good, mss: 1460, wscale: Some(7), sack: true, ecn: false, rtt_ms: 31 };

    #[test]
    fn a_good_cookie_says_what_the_connection_gets() {
        let way = judged(&GOOD);
        assert_eq!((way.verdict, way.counter), ("handover", Some("handed_over_to_kernel")));
        assert_eq!(
            way.sentence,
            "Its cookie is good, and the kernel makes a connection of its listener: MSS 1460, window scale 7, SACK, no ECN; 31 ms \
             since the SYN-ACK."
        );
        let bare = judged(&Checked { wscale: None, sack: false, ecn: true, rtt_ms: 0, ..GOOD });
        assert!(bare.sentence.ends_with("MSS 1460, no window scale, no SACK, ECN."), "{}", bare.sentence);
    }

    #[test]
    fn every_refusal_has_a_counter_that_exists() {
        for verdict in [Verdict::Bad, Verdict::Outdated, Verdict::Timestamp] {
            let way = judged(&Checked { verdict, ..GOOD });
            let counter = way.counter.expect("it is counted");
            assert!(
                way.verdict == "kernel" && hearken_bpf::handover::COUNTERS.contains(&counter),
                "{counter}"
            );
        }
    }

    #[test]
    fn claimed_is_an_address_or_any_of_its_family() {
        let at = |text: &str| text.parse::<SocketAddr>().expect("an address");
        let set: HashSet<Endpoint> =
            ["0.0.0.0:80", "198.18.0.1:443", "[::]:81"].map(|text| Endpoint(at(text))).into();
        assert!(is_claimed(&set, at("198.18.0.9:80")) && is_claimed(&set, at("198.18.0.1:443")));
        assert!(is_claimed(&set, at("[2001:db8::1]:81")));
        assert!(!is_claimed(&set, at("[2001:db8::1]:80")) && !is_claimed(&set, at("198.18.0.2:443")));
        assert!(!is_claimed(&set, at("198.18.0.1:81")));
    }
}
