//! On a connection: `tcp_rcv_established`, `tcp_validate_incoming`, `tcp_data_queue`.

use std::time::Duration;

use super::{CLOSE, Cases, DISCARD, QUEUE, RESET, all_flags, letters, main_flags, plain};
use crate::parity::frame::{ACK, FIN, PSH, RST, SYN, Tcp, URG, option};
use crate::parity::talk::{ISN, PUSH, TSVAL, Talk};

/// The window of a connection with an MSS of 1460: no more than 65,535 in whole segments.
const WINDOW: i32 = 64_240;

pub fn add(cases: &mut Cases) {
    cases.group("established");
    for flags in all_flags().filter(|flags| flags & FIN == 0) {
        cases.add(format!("flags {}", letters(flags)), DISCARD, move |talk| {
            talk.handshake(plain());
            talk.send("segment", &Tcp { seq: ISN.wrapping_add(1), ..talk.tcp(flags) });
            and_then(talk);
        });
    }
    cases.group("established matrix");
    for flags in main_flags() {
        for (offset, ack) in offsets().into_iter().flat_map(|offset| acks().map(|ack| (offset, ack))) {
            for len in [0, 20] {
                let dport = if flags & FIN == 0 { DISCARD } else { QUEUE };
                if dport == QUEUE && len > 0 {
                    continue;
                }
                let name = format!("{} at {offset} acks {ack} with {len} octets", letters(flags));
                cases.add(name, dport, move |talk| {
                    talk.handshake(plain());
                    let tcp = talk.data(flags, offset, len);
                    let tcp = Tcp { ack: tcp.ack.wrapping_add_signed(ack), ..tcp };
                    if (flags, offset, ack) == (FIN | ACK, 0, 0) {
                        talk.send_for_ack("segment", &tcp);
                    } else {
                        talk.send("segment", &tcp);
                    }
                    if dport == DISCARD {
                        and_then(talk);
                    } else {
                        talk.send("ACK", &talk.tcp(ACK));
                    }
                });
            }
        }
    }
    add_data(cases);
    add_ends(cases);
    add_closed_by_server(cases);
    add_timestamps(cases);
    add_queued(cases);
}

fn offsets() -> [i32; 8] {
    [-1000, -10, -1, 0, 5, WINDOW - 1, WINDOW, WINDOW + 5]
}

fn acks() -> [i32; 4] {
    [-200_000, -1, 0, 1000]
}

/// Shows what became of the connection.
fn and_then(talk: &mut Talk<'_>) {
    talk.send("data", &talk.data(PUSH, 0, 5));
}

fn add_data(cases: &mut Cases) {
    cases.group("data");
    cases.add("in order", DISCARD, |talk| {
        talk.handshake(plain());
        for n in 0..3 {
            talk.send("data", &talk.data(PUSH, n * 100, 100));
        }
    });
    cases.add("repeated", DISCARD, |talk| {
        talk.handshake(plain());
        for _ in 0..3 {
            talk.send("data", &talk.data(PUSH, 0, 100));
        }
    });
    cases.add("overlapping", DISCARD, |talk| {
        talk.handshake(plain());
        talk.send("first", &talk.data(PUSH, 0, 100));
        talk.send("half of it again, and more", &talk.data(PUSH, 50, 100));
    });
    cases.add("with a hole", DISCARD, |talk| {
        talk.handshake(plain());
        talk.send("second", &talk.data(PUSH, 100, 100));
        talk.send("first", &talk.data(PUSH, 0, 100));
        talk.send("second again", &talk.data(PUSH, 100, 100));
    });
    cases.add("with a hole and SACK", DISCARD, |talk| {
        talk.handshake([plain(), option::sack_permitted()].concat());
        talk.send("second", &talk.data(PUSH, 100, 100));
        talk.send("third", &talk.data(PUSH, 300, 100));
        talk.send("first", &talk.data(PUSH, 0, 100));
        talk.send("first again", &talk.data(PUSH, 0, 100));
    });
    cases.add("without the ACK bit", DISCARD, |talk| {
        talk.handshake(plain());
        talk.send("data", &talk.data(PSH, 0, 10));
        and_then(talk);
    });
    cases.add("urgent", DISCARD, |talk| {
        talk.handshake(plain());
        talk.send("data", &Tcp { urgent: 5, ..talk.data(PUSH | URG, 0, 10) });
        talk.send("data", &talk.data(PUSH, 10, 10));
    });
    cases.add("across the end of the window", DISCARD, |talk| {
        talk.handshake(plain());
        talk.send("data", &talk.data(PUSH, WINDOW - 10, 20));
        talk.send("data", &talk.data(PUSH, WINDOW, 20));
        and_then(talk);
    });
    cases.add("one octet at a time behind the window's start", DISCARD, |talk| {
        talk.handshake(plain());
        talk.send("keep-alive", &talk.data(ACK, -1, 1));
        talk.send("keep-alive without data", &talk.data(ACK, -1, 0));
    });
    cases.add("windows of the peer", DISCARD, |talk| {
        talk.handshake(plain());
        for window in [0, 1, 65535] {
            talk.send("ACK", &Tcp { window, ..talk.tcp(ACK) });
        }
        and_then(talk);
    });
}

fn add_ends(cases: &mut Cases) {
    cases.group("ends");
    cases.add("the peer closes", DISCARD, move |talk| {
        talk.handshake(plain());
        talk.fin_and_wait();
        talk.send("last ACK", &last(talk, ACK, 2));
        talk.send("nobody is there any more", &last(talk, ACK, 2));
    });
    cases.add("the peer closes with data", DISCARD, move |talk| {
        talk.handshake(plain());
        talk.send("data", &talk.data(PUSH, 0, 10));
        talk.fin_and_wait();
        talk.send("data after the FIN", &Tcp { payload: vec![0; 3], ..last(talk, PUSH, 12) });
        talk.send("last ACK", &last(talk, ACK, 12));
        talk.send("nobody is there any more", &last(talk, ACK, 12));
    });
    cases.add("a FIN out of order", DISCARD, |talk| {
        talk.handshake(plain());
        talk.send("FIN", &talk.data(FIN | ACK, 10, 0));
        talk.send("ACK", &talk.tcp(ACK));
    });
    cases.add("the peer resets", DISCARD, move |talk| {
        talk.handshake(plain());
        talk.send("RST", &Tcp { seq: ISN.wrapping_add(1), ..talk.tcp(RST) });
        talk.send("nobody is there any more", &talk.tcp(ACK));
        talk.forget();
        talk.syn(plain());
    });
    cases.add("RSTs that are not exact", DISCARD, |talk| {
        talk.handshake(plain());
        for offset in [10, -10, WINDOW, WINDOW - 1] {
            talk.send("RST", &talk.data(RST, offset, 0));
        }
        talk.send("with ACK", &talk.data(RST | ACK, 10, 0));
        and_then(talk);
    });
    cases.add("SYNs", DISCARD, |talk| {
        talk.handshake(plain());
        talk.syn(plain());
        talk.send("in the window", &Tcp { seq: ISN.wrapping_add(100), ..talk.tcp(SYN) });
        talk.send("SYN and ACK", &talk.tcp(SYN | ACK));
        and_then(talk);
    });
}

/// A segment `seq` octets behind our ISN that acknowledges the server's FIN.
fn last(talk: &Talk<'_>, flags: u16, seq: u32) -> Tcp {
    let tcp = talk.tcp(flags);
    Tcp { seq: ISN.wrapping_add(seq), ack: tcp.ack.wrapping_add(1), ..tcp }
}

fn add_closed_by_server(cases: &mut Cases) {
    cases.add("the server closes", CLOSE, move |talk| {
        talk.syn(plain());
        closed_by_server(talk, FIN);
        talk.send("FIN", &last(talk, FIN | ACK, 1));
        talk.send("FIN again", &last(talk, FIN | ACK, 1));
    });
    cases.add("the server closes, then data comes", CLOSE, move |talk| {
        talk.syn(plain());
        closed_by_server(talk, FIN);
        talk.send("data", &Tcp { payload: vec![0; 10], ..last(talk, PUSH, 1) });
        talk.send("ACK", &last(talk, ACK, 11));
    });
    cases.add("the server closes, data is there already", CLOSE, |talk| {
        talk.syn(plain());
        let data = talk.data(PUSH, 0, 10);
        talk.send_and_wait("final ACK", &data, FIN | RST, Duration::from_secs(2));
        talk.send("ACK", &talk.data(ACK, 10, 0));
    });
    cases.add("both close at once", CLOSE, move |talk| {
        talk.syn(plain());
        closed_by_server(talk, FIN);
        talk.send("FIN", &talk.tcp(FIN | ACK));
        talk.send("its ACK", &last(talk, ACK, 2));
        talk.send("again", &last(talk, ACK, 2));
    });
    cases.add("the server resets", RESET, |talk| {
        talk.syn(plain());
        closed_by_server(talk, RST);
        talk.send("nobody is there any more", &talk.tcp(ACK));
    });
}

/// Final ACK, and what the server then sends by itself.
fn closed_by_server(talk: &mut Talk<'_>, flags: u16) {
    let ack = talk.tcp(ACK);
    talk.send_and_wait("final ACK", &ack, flags, Duration::from_secs(2));
}

fn add_timestamps(cases: &mut Cases) {
    cases.group("established with timestamps");
    let ts = |value: u32, echo: u32| [vec![1, 1], option::timestamps(value, echo)].concat();
    let echo = |talk: &Talk<'_>| talk.origin.tsval.expect("timestamps were agreed on");
    for (name, value) in [
        ("older", TSVAL - 10),
        ("the same", TSVAL + 1),
        ("newer", TSVAL + 10),
        ("half the circle ahead", TSVAL.wrapping_add(0x8000_0000)),
    ] {
        for flags in [PUSH, ACK, RST, RST | ACK, SYN, FIN | ACK] {
            let dport = if flags & FIN == 0 { DISCARD } else { QUEUE };
            let len = if flags == PUSH { 10 } else { 0 };
            cases.add(format!("{name}, {}", letters(flags)), dport, move |talk| {
                talk.timestamps = true;
                talk.handshake(option::all(TSVAL));
                let options = ts(value, echo(talk));
                let tcp = Tcp { options, ..talk.data(flags, 0, len) };
                if flags & FIN == 0 {
                    talk.send("segment", &tcp)
                } else {
                    talk.send_for_ack("segment", &tcp)
                }
                let options = ts(TSVAL + 5, echo(talk));
                talk.send("out of window", &Tcp { options, ..talk.data(PUSH, -1000, 5) });
            });
        }
    }
    cases.add("none all of a sudden", DISCARD, |talk| {
        talk.timestamps = true;
        talk.handshake(option::all(TSVAL));
        talk.timestamps = false;
        talk.send("data", &talk.data(PUSH, 0, 10));
        talk.send("ACK", &talk.data(ACK, 10, 0));
    });
    cases.add("an echo of the future", DISCARD, move |talk| {
        talk.timestamps = true;
        talk.handshake(option::all(TSVAL));
        let options = ts(TSVAL + 2, echo(talk).wrapping_add(100_000));
        talk.send("data", &Tcp { options, ..talk.data(PUSH, 0, 10) });
    });
}

/// Before accept: a connection that nobody reads from.
fn add_queued(cases: &mut Cases) {
    cases.group("queued");
    cases.add("data", QUEUE, |talk| {
        talk.handshake(plain());
        talk.send("data", &talk.data(PUSH, 0, 10));
        talk.send("again", &talk.data(PUSH, 0, 10));
    });
    cases.add("data with the final ACK", QUEUE, |talk| {
        talk.syn(plain());
        talk.send("data", &talk.data(PUSH, 0, 10));
    });
    cases.add("FIN", QUEUE, |talk| {
        talk.handshake(plain());
        talk.send_for_ack("FIN", &talk.tcp(FIN | ACK));
        talk.send("FIN again", &talk.tcp(FIN | ACK));
        let ack = talk.tcp(ACK);
        talk.send("ACK", &Tcp { seq: ISN.wrapping_add(2), ..ack });
        talk.send("RST", &Tcp { seq: ISN.wrapping_add(2), ..talk.tcp(RST) });
        talk.send("ACK", &talk.tcp(ACK));
    });
    cases.add("FIN with data", QUEUE, |talk| {
        talk.handshake(plain());
        talk.send_for_ack("FIN", &talk.data(FIN | PUSH, 0, 10));
    });
    cases.add("RST", QUEUE, |talk| {
        talk.handshake(plain());
        talk.send("RST", &Tcp { seq: ISN.wrapping_add(1), ..talk.tcp(RST) });
        talk.send("nobody is there any more", &talk.tcp(ACK));
        talk.forget();
        talk.syn(plain());
    });
}
