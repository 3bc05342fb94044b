//! Where hearken differs from Linux on the wire, and why.

use super::compare::Known;

const fn known(
    cases: &'static str,
    label: &'static str,
    field: &'static str,
    kernel: &'static str,
    hearken: &'static str,
    why: &'static str,
) -> Known {
    Known { cases, label, field, kernel, hearken, why }
}

const LABEL: &str = "Linux hashes the flow into a label; RFC 6437 leaves 0 to those who do not label, and nothing answers by it";
const WINDOW: &str = "Linux learns from segments of 536 octets and more how much of its buffer they fill, and moves the window by it; \
     hearken's stays as large as it was";
const ONE_ACK: &str = "Linux puts the ACK of a FIN off by 40 ms; hearken acknowledges at once";
const HOLE: &str = "hearken does not keep data out of order: the peer sends it again";
const SACK: &str =
    "hearken does not keep data out of order, so it has no blocks to name, nor duplicates to report";
const UNREAD: &str = "hearken takes no data before accept: the peer probes until somebody does";
const NO_ICMP: &str = "hearken sends no ICMP errors: answers to what was forged would hit others";
const NO_FRAGMENTS: &str = "hearken does not reassemble";
const NO_RECORD: &str = "hearken echoes no IP options: what records a route learns nothing";
const NEIGHBOUR: &str =
    "both are right by RFC 4861 section 7.2.4; hearken names its link address also where it may be left out";
const FORGED: &str =
    "nobody can be answered there, and an answer to a forged source must not reach a whole subnet";
const COUNTED: &str =
    "what hearken refuses before it looks at TCP stands under its drop reason, not under InSegs";
const FOLLOWS: &str = "follows from the differences of these cases above";

/// Of the cases with nothing but defaults.
pub const WITH_DEFAULTS: &[Known] = &[
    known("v6/*", "*", "flow label", "not 0", "0", LABEL),
    known("*/listen/a SYN with data *", "the data again", "window", "63*", "64*", WINDOW),
    // Data out of order.
    known("*/data/with a hole*", "first*", "window", "64*", "64*", HOLE),
    known("*/request one by one/data behind *", "first", "window", "64*", "64*", HOLE),
    known("*/established matrix/A at 5 acks 0 with 20 octets", "data", "window", "64*", "64*", HOLE),
    known("*/request matrix/A at * acks 0 with 10 octets", "data", "window", "64*", "64*", HOLE),
    known("*/data/with a hole*", "first*", "ack", "isn+201", "isn+101", HOLE),
    known("*/request one by one/data behind *", "first", "ack", "isn+201", "isn+101", HOLE),
    known("*/established matrix/A at 5 acks 0 with 20 octets", "data", "ack", "isn+26", "isn+6", HOLE),
    known("*/request matrix/A at * acks 0 with 10 octets", "data", "ack", "isn+1*", "isn+6", HOLE),
    known("*/data/with a hole and SACK", "*", "options", "*sack isn*", "", SACK),
    known(
        "*/established with timestamps/*",
        "out of window",
        "options",
        "*sack isn*",
        "nop, nop, ts *",
        SACK,
    ),
    // Before accept.
    known("*/queued/*", "*", "window", "64*", "0", UNREAD),
    known("*/queued/*", "*", "ack", "isn+1*", "isn+1", UNREAD),
    known(
        "*/ends/the server closes, data is there already",
        "final ACK",
        "replies",
        "flags=A * | flags=RA *",
        "flags=RA *",
        "a program closes some time after the data was acknowledged, hearken with it",
    ),
    // Below TCP.
    known("v4/IP options/*", "*", "ip options", "8 octets: *", "0 octets: []", NO_RECORD),
    known("*", "*", "replies", "ICMP 12/*", "silence", NO_ICMP),
    known("*", "*", "replies", "ICMP 3/*", "silence", NO_ICMP),
    known("v6/*", "*", "replies", "ICMP 4/*", "silence", NO_ICMP),
    known("v4/addresses/from the subnet's broadcast, *", "*", "replies", "flags=*", "silence", FORGED),
    known("v6/addresses/from ::, *", "*", "replies", "flags=*", "silence", FORGED),
    known("v6/addresses/from a mapped address, *", "*", "replies", "flags=*", "silence", FORGED),
    known(
        "v6/addresses/to all nodes by unicast, listener",
        "ACK",
        "replies",
        "flags=R *",
        "silence",
        "Linux answers from a multicast address, which RFC 4291 section 2.7 forbids",
    ),
    known("*/fragments/a SYN in two", "both", "replies", "flags=SA *", "silence", NO_FRAGMENTS),
    known("v6/NDP/*", "*", "icmp", "[40, *", "[60, *", NEIGHBOUR),
    known(
        "v4/echo/requests",
        "*",
        "df",
        "false",
        "true",
        "hearken's identification is always 0, so nobody may take its packets apart",
    ),
    known(
        "v4/echo/other messages",
        "timestamp",
        "replies",
        "ICMP 14/0",
        "silence",
        "RFC 1122 section 3.2.2.8 leaves it open, and nobody asks any more",
    ),
    // Counters.
    known("counters/addresses", "*", "*", "*", "*", FOLLOWS),
    known("counters/fragments", "*", "*", "*", "*", FOLLOWS),
    known("counters/queued", "*", "*", "*", "*", FOLLOWS),
    known("counters/*", "*", "InSegs", "*", "*", COUNTED),
    known("counters/*", "*", "OutSegs", "*", "*", FOLLOWS),
    known(
        "counters/time-wait*",
        "*",
        "TWRecycled",
        "0",
        "*",
        "Linux counts by this name what connect() takes over; hearken, which never connects, what a SYN takes over",
    ),
];

/// Of the cases in which every SYN gets a cookie.
pub const WITH_COOKIES: &[Known] = &[
    known("v6/*", "*", "flow label", "not 0", "0", LABEL),
    known("counters/*", "*", "InSegs", "*", "*", COUNTED),
];

/// Of the cases in which an overflow is answered by a RST.
pub const WITH_ABORT_ON_OVERFLOW: &[Known] = &[
    known("v6/*", "*", "flow label", "not 0", "0", LABEL),
    known("*", "data", "window", "64*", "0", UNREAD),
    known("*", "data", "ack", "isn+6", "isn+1", UNREAD),
    known("counters/*", "*", "TCPZeroWindowDrop", "0", "*", UNREAD),
];

/// Of the cases with all options forbidden.
pub const WITHOUT_OPTIONS: &[Known] = &[
    known("v6/*", "*", "flow label", "not 0", "0", LABEL),
    known("counters/*", "*", "InSegs", "*", "*", COUNTED),
];
