//! Roads into the states of a connection, and what to send there: conversations by the thousand that no script expects anything
//! of, but that hearken answers them as Linux does.

use std::fmt::Write;

/// How a connection gets into a state, with the numbers that are next then.
pub struct Road {
    pub name: &'static str,
    /// Lines of a script, after the handshake and accept.
    lines: &'static str,
    /// What the peer sends next, and acknowledges.
    seq: i64,
    ack: i64,
    /// A program still holds it.
    held: bool,
}

const fn road(name: &'static str, lines: &'static str, seq: i64, ack: i64, held: bool) -> Road {
    Road { name, lines, seq, ack, held }
}

/// `{ts}` is where options of the peer's stand.
pub const ROADS: &[Road] = &[
    road("established", "", 1, 1, true),
    road("established, shut for reading", "+0 shutdown(4, SHUT_RD) = 0\n", 1, 1, true),
    road("FIN-WAIT-1 by close", "+0 close(4) = 0\n", 1, 1, false),
    road("FIN-WAIT-1 by shutdown", "+0 shutdown(4, SHUT_WR) = 0\n", 1, 1, true),
    road("FIN-WAIT-1 by shutdown of both", "+0 shutdown(4, SHUT_RDWR) = 0\n", 1, 1, true),
    road("FIN-WAIT-2 by close", "+0 close(4) = 0\n+0 < . 1:1(0) ack 2 win 32792{ts}\n", 1, 2, false),
    road(
        "FIN-WAIT-2 by shutdown",
        "+0 shutdown(4, SHUT_WR) = 0\n+0 < . 1:1(0) ack 2 win 32792{ts}\n",
        1,
        2,
        true,
    ),
    road(
        "FIN-WAIT-2 by shutdown of both",
        "+0 shutdown(4, SHUT_RDWR) = 0\n+0 < . 1:1(0) ack 2 win 32792{ts}\n",
        1,
        2,
        true,
    ),
    road(
        "FIN-WAIT-2 by shutdown, then close",
        "+0 shutdown(4, SHUT_WR) = 0\n+0 < . 1:1(0) ack 2 win 32792{ts}\n+0 close(4) = 0\n",
        1,
        2,
        false,
    ),
    road(
        "FIN-WAIT-2 by shutdown, then of the other half",
        "+0 shutdown(4, SHUT_WR) = 0\n+0 < . 1:1(0) ack 2 win 32792{ts}\n+0 shutdown(4, SHUT_RD) = 0\n",
        1,
        2,
        true,
    ),
    road("CLOSING by close", "+0 close(4) = 0\n+0 < F. 1:1(0) ack 1 win 32792{ts}\n", 2, 1, false),
    road(
        "CLOSING by shutdown",
        "+0 shutdown(4, SHUT_WR) = 0\n+0 < F. 1:1(0) ack 1 win 32792{ts}\n+0 read(4, ..., 100) = 0\n",
        2,
        1,
        true,
    ),
    road("CLOSE-WAIT", "+0 < F. 1:1(0) ack 1 win 32792{ts}\n+0 read(4, ..., 100) = 0\n", 2, 1, true),
    road(
        "CLOSE-WAIT with data",
        "+0 < FP. 1:11(10) ack 1 win 32792{ts}\n+0 read(4, ..., 100) = 10\n",
        12,
        1,
        true,
    ),
    road("LAST-ACK by close", "+0 < F. 1:1(0) ack 1 win 32792{ts}\n+0 close(4) = 0\n", 2, 1, false),
    road(
        "LAST-ACK by shutdown",
        "+0 < F. 1:1(0) ack 1 win 32792{ts}\n+0 read(4, ..., 100) = 0\n+0 shutdown(4, SHUT_WR) = 0\n",
        2,
        1,
        true,
    ),
    road(
        "TIME-WAIT by close and FIN-WAIT-2",
        "+0 close(4) = 0\n+0 < . 1:1(0) ack 2 win 32792{ts}\n+0 < F. 1:1(0) ack 2 win 32792{ts}\n",
        2,
        2,
        false,
    ),
    road(
        "TIME-WAIT by close and one FIN",
        "+0 close(4) = 0\n+0 < F. 1:1(0) ack 2 win 32792{ts}\n",
        2,
        2,
        false,
    ),
    road(
        "TIME-WAIT by close and CLOSING",
        "+0 close(4) = 0\n+0 < F. 1:1(0) ack 1 win 32792{ts}\n+0 < . 2:2(0) ack 2 win 32792{ts}\n",
        2,
        2,
        false,
    ),
    road(
        "TIME-WAIT by shutdown and FIN-WAIT-2",
        "+0 shutdown(4, SHUT_WR) = 0\n+0 < . 1:1(0) ack 2 win 32792{ts}\n+0 < F. 1:1(0) ack 2 win 32792{ts}\n",
        2,
        2,
        true,
    ),
];

/// One segment, by where it stands from what the peer would send next.
#[derive(Clone, Copy)]
pub struct Probe {
    pub flags: &'static str,
    pub seq: i64,
    pub len: i64,
    pub ack: i64,
    /// Added to the peer's clock.
    pub clock: i64,
}

const fn probe(flags: &'static str, seq: i64, len: i64, ack: i64) -> Probe {
    Probe { flags, seq, len, ack, clock: 0 }
}

/// What is sent in each state.
pub const PROBES: &[Probe] = &[
    probe(".", 0, 0, 0),
    probe(".", -1, 0, 0),
    probe(".", 5, 0, 0),
    probe(".", 0, 0, 1),
    probe(".", 0, 0, 1000),
    probe(".", 0, 0, -1),
    probe(".", 0, 0, -200_000),
    probe(".", 70_000, 0, 0),
    probe("P.", 0, 10, 0),
    probe("P.", 0, 10, 1),
    probe("P.", -1, 10, 0),
    probe("P.", -5, 5, 0),
    probe("P.", 5, 10, 0),
    probe("P.", 64_235, 10, 0),
    probe("P.", 70_000, 10, 0),
    probe("F.", 0, 0, 0),
    probe("F.", 0, 0, 1),
    probe("F.", -1, 0, 0),
    probe("F.", -1, 0, 1),
    probe("F.", 5, 0, 0),
    probe("F.", 5, 0, 1),
    probe("FP.", 0, 10, 0),
    probe("FP.", 0, 10, 1),
    probe("R", 0, 0, 0),
    probe("R", -1, 0, 0),
    probe("R", -2, 0, 0),
    probe("R", -1, 10, 0),
    probe("R", 5, 0, 0),
    probe("R", 70_000, 0, 0),
    probe("R.", 0, 0, 0),
    probe("R.", 0, 0, 1000),
    probe("S", 0, 0, 0),
    probe("S", -1, 0, 0),
    probe("S", 5, 0, 0),
    probe("S", 70_000, 0, 0),
    probe("S.", 0, 0, 0),
    probe("P", 0, 10, 0),
    probe("F", 0, 0, 0),
];

/// The same with timestamps that are older, or newer.
pub const OLD: &[Probe] = &[
    Probe { clock: -10, ..probe(".", 0, 0, 0) },
    Probe { clock: -2000, ..probe(".", 0, 0, 0) },
    Probe { clock: -10, ..probe(".", 0, 0, 1) },
    Probe { clock: -10, ..probe(".", -1, 0, 0) },
    Probe { clock: -10, ..probe("P.", 0, 10, 0) },
    Probe { clock: -10, ..probe("F.", 0, 0, 0) },
    Probe { clock: -10, ..probe("F.", 0, 0, 1) },
    Probe { clock: -10, ..probe("R", 0, 0, 0) },
    Probe { clock: -10, ..probe("R", 5, 0, 0) },
    Probe { clock: -10, ..probe("S", 0, 0, 0) },
    Probe { clock: 10, ..probe(".", 0, 0, 0) },
    Probe { clock: 10, ..probe("F.", 0, 0, 1) },
    Probe { clock: 10, ..probe("S", -5, 0, 0) },
];

/// A conversation as a script: the handshake, the road, the probe, and what shows the state afterwards. `full`: with
/// timestamps and window scaling.
pub fn conversation(road: &Road, probe: Probe, full: bool) -> String {
    let ts = |clock: i64| {
        if full { format!(" <nop,nop,TS val {} ecr 1000>", 6010 + clock) } else { String::new() }
    };
    let segment = |flags: &str, seq: i64, len: i64, ack: i64, clock: i64| {
        let ack = if flags.contains('.') { format!(" ack {}", ack as u32) } else { String::new() };
        let (seq, end) = (seq as u32, (seq + len) as u32);
        format!("+0 < {flags} {seq}:{end}({len}){ack} win 32792{}\n", ts(clock))
    };
    let mut text = String::from("`sysctl -q net.ipv4.tcp_rmem=\"4096 131072 33554432\"`\n");
    text += "+0 socket(..., SOCK_STREAM|SOCK_NONBLOCK, IPPROTO_TCP) = 3\n+0 bind(3, ..., ...) = 0\n+0 listen(3, 10) = 0\n";
    text += match full {
        true => "+0 < S 0:0(0) win 32792 <mss 1000,nop,nop,TS val 6000 ecr 0,nop,wscale 7>\n",
        false => "+0 < S 0:0(0) win 32792 <mss 1000>\n",
    };
    // A long round trip, for the FIN not to go out again meanwhile.
    let _ = write!(text, "+.4 < . 1:1(0) ack 1 win 32792{}\n+0 accept(3, ..., ...) = 4\n", ts(0));
    text += &road.lines.replace("{ts}", &ts(0));
    let Probe { flags, seq, len, ack, clock } = probe;
    text += &segment(flags, road.seq + seq, len, road.ack + ack, clock);
    text += &segment(".", road.seq, 0, road.ack, 20);
    if road.held {
        text += "+0 read(4, ..., 100) = 0\n+0 getsockopt(4, SOL_SOCKET, SO_ERROR, [0], [4]) = 0\n";
    }
    text
}
