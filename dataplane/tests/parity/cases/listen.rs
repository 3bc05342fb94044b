//! At a listener: `tcp_v4_do_rcv` in LISTEN, `tcp_conn_request`, `tcp_parse_options`, `cookie_v4_check`.

use super::{ANY, CLOSED, Cases, DISCARD, QUEUE, all_flags, letters, plain};
use crate::parity::compare::Families;
use crate::parity::frame::{ACK, AE, CWR, ECE, FIN, RST, SYN, Tcp, option};
use crate::parity::talk::{PUSH, TSVAL, Talk};

pub fn add(cases: &mut Cases) {
    cases.group("listen");
    for len in [0, 10] {
        for flags in all_flags() {
            cases.add(format!("flags {} with {len} octets", letters(flags)), DISCARD, move |talk| {
                let tcp = Tcp { payload: vec![0; len], ..talk.tcp(flags) };
                talk.send("segment", &tcp);
            });
        }
    }
    add_ecn(cases);
    cases.add("reserved bits", QUEUE, |talk| {
        for reserved in [0x200, 0x400, 0x800] {
            talk.send("SYN", &talk.tcp(SYN | reserved));
            talk.clean_up();
        }
    });
    cases.add("TOS", QUEUE, |talk| {
        for tos in [0x04, 0x10, 0xb8, 0xfc] {
            let syn = talk.tcp(SYN);
            talk.send_in(&format!("SYN, TOS {tos:#04x}"), &syn, |_, ip| ip.tos = tos);
            talk.clean_up();
        }
    });
    cases.add("windows", QUEUE, |talk| {
        for window in [0, 1, 65535] {
            talk.send("SYN", &Tcp { window, ..talk.tcp(SYN) });
            talk.clean_up();
        }
    });
    cases.add("a SYN with data answers only for the SYN", DISCARD, |talk| {
        talk.send("SYN", &Tcp { payload: vec![0; 1000], options: plain(), ..talk.tcp(SYN) });
        talk.send("final ACK", &talk.tcp(ACK));
        talk.send("the data again", &talk.data(PUSH, 0, 1000));
    });
    cases.add("on the wildcard of both families", ANY, |talk| {
        talk.handshake(option::all(TSVAL));
        talk.send("duplicate ACK", &talk.tcp(ACK));
    });
    cases.add_for(Families::V4, "to another port of the same address", CLOSED + 1, |talk| talk.syn(plain()));
    cases.add("a cookie that nobody sent", QUEUE, |talk| {
        talk.send("ACK", &Tcp { ack: 0x0102_0304, ..talk.tcp(ACK) });
        talk.send("data", &Tcp { ack: 0x0102_0304, payload: vec![0; 5], ..talk.tcp(PUSH) });
    });
    add_options(cases, "options", QUEUE);
}

/// ECN on the SYN, with each codepoint in the IP header (`tcp_ecn_create_request`).
fn add_ecn(cases: &mut Cases) {
    for (name, options) in [("timestamps", option::all(TSVAL)), ("no options", Vec::new())] {
        for bits in [0, ECE, CWR, ECE | CWR, AE, AE | ECE | CWR] {
            let options = options.clone();
            cases.add(format!("ECN bits {} with {name}", letters(bits)), QUEUE, move |talk| {
                for codepoint in 0..4 {
                    let syn = Tcp { options: options.clone(), ..talk.tcp(SYN | bits) };
                    talk.send_in(&format!("SYN, codepoint {codepoint}"), &syn, |_, ip| ip.tos = codepoint);
                    talk.clean_up();
                }
            });
        }
    }
}

/// What the SYN may carry, by name: lists that systems send, and values at their limits.
fn whole_sets() -> Vec<(&'static str, Vec<u8>)> {
    let (mss, sack, ts, ws) = (option::mss, option::sack_permitted, option::timestamps, option::window_scale);
    let nop = option::nop;
    vec![
        ("nothing", Vec::new()),
        ("mss", mss(1460)),
        ("mss, sack", [mss(1460), sack()].concat()),
        ("mss, sack, ts", [mss(1460), sack(), ts(TSVAL, 0)].concat()),
        ("mss, ts", [mss(1460), ts(TSVAL, 0)].concat()),
        ("mss, ws", [mss(1460), ws(7)].concat()),
        ("mss, sack, ws", [mss(1460), sack(), ws(7)].concat()),
        ("all as Linux sends them", option::all(TSVAL)),
        ("all but mss", [sack(), ts(TSVAL, 0), nop(), ws(7)].concat()),
        ("sack alone", sack()),
        ("ts alone", ts(TSVAL, 0)),
        ("ws alone", ws(7)),
        ("ts, ws", [ts(TSVAL, 0), ws(0)].concat()),
        ("sack, ws", [sack(), ws(7)].concat()),
        ("as Windows sends them", [mss(1460), nop(), ws(8), nop(), nop(), sack()].concat()),
        (
            "as macOS sends them",
            [mss(1460), nop(), ws(6), nop(), nop(), ts(TSVAL, 0), sack(), vec![0, 0]].concat(),
        ),
        ("ws 0", [mss(1460), ws(0)].concat()),
        ("ws 14", [mss(1460), ws(14)].concat()),
        ("ws 15", [mss(1460), ws(15)].concat()),
        ("ws 255", [mss(1460), ws(255)].concat()),
        ("mss 0", mss(0)),
        ("mss 1", mss(1)),
        ("mss 47", mss(47)),
        ("mss 48", mss(48)),
        ("mss 88", [mss(88), sack(), ts(TSVAL, 0)].concat()),
        ("mss 535", mss(535)),
        ("mss 536", mss(536)),
        ("mss 1220", mss(1220)),
        ("mss 1300", [mss(1300), sack(), ts(TSVAL, 0), nop(), ws(7)].concat()),
        ("mss 1461", mss(1461)),
        ("mss 8960", [mss(8960), sack(), ts(TSVAL, 0), nop(), ws(7)].concat()),
        ("mss 65535", mss(65535)),
        ("mss twice", [mss(1000), mss(500)].concat()),
        ("ts twice", [ts(1, 0), ts(TSVAL, 0)].concat()),
        ("ws twice", [ws(3), ws(5)].concat()),
        ("ts value 0", ts(0, 0)),
        ("ts with an echo", ts(TSVAL, 77)),
    ]
}

/// Lists that break, and options that hearken does not have.
fn odd_sets() -> Vec<(&'static str, Vec<u8>)> {
    let (mss, sack) = (option::mss, option::sack_permitted);
    vec![
        ("mss of length 3", vec![2, 3, 5, 1]),
        ("mss of length 5", vec![2, 5, 5, 180, 0, 1, 1, 1]),
        ("sack of length 3", vec![4, 3, 0, 1]),
        ("ts of length 9", vec![8, 9, 0, 0, 0, 1, 0, 0, 0, 1, 1, 1]),
        ("ws of length 2", vec![3, 2, 1, 1]),
        ("length 0", [vec![254, 0], mss(1000), vec![1, 1]].concat()),
        ("length 1", [vec![254, 1], mss(1000), vec![1, 1]].concat()),
        ("length beyond the end", [mss(1000), vec![254, 40, 1, 1]].concat()),
        ("kind without length", [mss(1000), vec![1, 1, 1, 254]].concat()),
        ("mss behind the end", [vec![0, 0, 0, 0], mss(1000)].concat()),
        ("nops", vec![1; 40]),
        ("unknown kinds", [vec![254, 4, 1, 1, 253, 2], mss(1000), vec![1, 1]].concat()),
        ("sack blocks", [mss(1460), vec![5, 10, 0, 0, 0, 1, 0, 0, 0, 2]].concat()),
        ("fast open without cookie", [mss(1460), sack(), vec![34, 2]].concat()),
        ("fast open with cookie", [mss(1460), vec![34, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1, 1]].concat()),
        ("fast open with data", [mss(1460), vec![34, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1, 1]].concat()),
        ("md5", [mss(1460), vec![19, 18], vec![7; 16]].concat()),
        ("md5 of a wrong length", [mss(1460), vec![19, 4, 7, 7]].concat()),
        ("length 0, 19 left", [mss(1460), vec![1, 254, 0], vec![1; 17]].concat()),
        ("length 0, 18 left", [mss(1460), vec![1, 1, 254, 0], vec![1; 16]].concat()),
        ("length 0, 17 left", [mss(1460), vec![1, 1, 1, 254, 0], vec![1; 15]].concat()),
        ("length 1, 36 left", [mss(1460), vec![254, 1], vec![1; 34]].concat()),
        ("length beyond the end, 36 left", [mss(1460), vec![254, 37], vec![1; 34]].concat()),
        ("md5 of 4 octets, 20 left", [mss(1460), vec![19, 4], vec![1; 18]].concat()),
        ("md5 of 4 octets, 16 left", [mss(1460), vec![19, 4], vec![1; 14]].concat()),
        ("length 0 behind the end", [mss(1460), vec![0, 254, 0], vec![1; 33]].concat()),
        ("multipath", [mss(1460), vec![30, 12, 1, 0, 1, 2, 3, 4, 5, 6, 7, 8]].concat()),
        ("user timeout", [mss(1460), vec![28, 4, 0, 60]].concat()),
    ]
}

/// Every set of options: SYN-ACK, duplicate SYN-ACK, and what the connection then answers.
pub fn add_options(cases: &mut Cases, group: &'static str, dport: u16) {
    cases.group(group);
    for (name, options) in whole_sets().into_iter().chain(odd_sets()) {
        cases.add(name, dport, move |talk| {
            let len = if name.ends_with("data") { 100 } else { 0 };
            talk.send("SYN", &Tcp { options: options.clone(), payload: vec![0; len], ..talk.tcp(SYN) });
            talk.timestamps = true;
            talk.send("the same again", &Tcp { options: options.clone(), ..talk.tcp(SYN) });
            talk.send("final ACK", &talk.tcp(ACK));
            // Beyond the window: answered with all that was agreed on.
            talk.send("far away", &talk.data(PUSH, 1 << 30, 1));
        });
    }
}

/// Every SYN gets a cookie.
pub fn add_cookies(cases: &mut Cases) {
    add_options(cases, "options with cookies", QUEUE);
    cases.group("cookies");
    add_ecn(cases);
    for mss in [1, 535, 536, 1219, 1220, 1299, 1300, 1419, 1420, 1439, 1440, 1459, 1460, 8939, 8940, 9000] {
        cases.add(format!("a connection with mss {mss}"), DISCARD, move |talk| {
            talk.handshake(option::mss(mss));
            talk.send("data", &talk.data(PUSH, 0, 5));
        });
    }
    cases.add("a connection with timestamps", DISCARD, |talk| {
        talk.timestamps = true;
        talk.handshake(option::all(TSVAL));
        talk.send("data", &talk.data(PUSH, 0, 5));
    });
    cases.add("a final ACK without the timestamps", DISCARD, |talk| {
        talk.handshake(option::all(TSVAL));
        talk.send("data", &talk.data(PUSH, 0, 5));
    });
    cases.add("a final ACK with data", DISCARD, |talk| {
        talk.syn(plain());
        talk.send("data", &talk.data(PUSH, 0, 5));
        talk.send("more", &talk.data(PUSH, 5, 5));
    });
    cases.add("wrong cookies", QUEUE, |talk| {
        talk.syn(plain());
        let right = talk.tcp(ACK);
        let wrong = |change: &dyn Fn(&mut Tcp)| {
            let mut tcp = right.clone();
            change(&mut tcp);
            tcp
        };
        talk.send("another number", &wrong(&|tcp| tcp.ack = tcp.ack.wrapping_add(1)));
        talk.send("another minute", &wrong(&|tcp| tcp.ack = tcp.ack.wrapping_sub(3 << 24)));
        talk.send("another sequence", &wrong(&|tcp| tcp.seq = tcp.seq.wrapping_add(1)));
        talk.send("another port", &wrong(&|tcp| tcp.dport = DISCARD));
        talk.send("a RST with it", &wrong(&|tcp| tcp.flags |= RST));
        talk.send("a SYN with it", &wrong(&|tcp| tcp.flags |= SYN));
        talk.send("the right one", &right);
        talk.send("and again", &right);
    });
    cases.add("a FIN with the cookie", QUEUE, |talk: &mut Talk<'_>| {
        talk.syn(plain());
        talk.send_for_ack("FIN", &talk.tcp(FIN | ACK));
        talk.send("ACK", &Tcp { seq: talk.tcp(ACK).seq.wrapping_add(1), ..talk.tcp(ACK) });
    });
    cases.add("a duplicate SYN", QUEUE, |talk| {
        talk.syn(plain());
        talk.syn(plain());
        talk.send("final ACK", &talk.tcp(ACK));
        talk.syn(plain());
    });
}
