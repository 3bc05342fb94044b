//! At a half-open request: `tcp_check_req`.

use super::{Cases, DEFER, DISCARD, QUEUE, all_flags, letters, main_flags, plain};
use crate::parity::frame::{ACK, FIN, RST, SYN, Tcp, option};
use crate::parity::talk::{ISN, PUSH, TSVAL, Talk};

/// The window of a connection with an MSS of 1460: no more than 65,535 in whole segments.
const WINDOW: i32 = 64_240;

pub fn add(cases: &mut Cases) {
    cases.group("request");
    for flags in all_flags().filter(|flags| flags & FIN == 0) {
        cases.add(format!("flags {}", letters(flags)), DISCARD, move |talk| {
            talk.syn(plain());
            talk.send("segment", &Tcp { seq: ISN.wrapping_add(1), ..talk.tcp(flags) });
            and_then(talk);
        });
    }
    cases.group("request matrix");
    for flags in main_flags() {
        for (offset, ack) in offsets().into_iter().flat_map(|offset| acks().map(|ack| (offset, ack))) {
            for len in [0, 10] {
                // What a program answers to a FIN comes when it comes; a queue has no program.
                let dport = if flags & FIN == 0 { DISCARD } else { QUEUE };
                if dport == QUEUE && len > 0 {
                    continue;
                }
                let name = format!("{} at {offset} acks {ack} with {len} octets", letters(flags));
                cases.add(name, dport, move |talk| {
                    talk.syn(plain());
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
                        talk.send("final ACK", &talk.tcp(ACK));
                    }
                });
            }
        }
    }
    add_single(cases);
    add_final_acks(cases);
    add_resets_and_answers(cases);
    add_timestamps(cases);
    add_deferred(cases);
}

fn offsets() -> [i32; 8] {
    [-1000, -1, 0, 1, 5, WINDOW - 1, WINDOW, WINDOW + 5]
}

fn acks() -> [i32; 3] {
    [-1, 0, 1000]
}

/// Shows what became of the request.
fn and_then(talk: &mut Talk<'_>) {
    talk.send("final ACK", &talk.tcp(ACK));
    talk.send("data", &talk.data(PUSH, 0, 5));
}

fn add_single(cases: &mut Cases) {
    cases.group("request one by one");
    cases.add("duplicate SYNs", QUEUE, |talk| {
        for _ in 0..3 {
            talk.syn(plain());
        }
        talk.send("final ACK", &talk.tcp(ACK));
        talk.send("again", &talk.tcp(ACK));
    });
    cases.add("a duplicate SYN with other options", QUEUE, |talk| {
        talk.syn(plain());
        talk.syn(option::all(TSVAL));
        talk.send("final ACK", &talk.tcp(ACK));
    });
    cases.add("a duplicate SYN with data", QUEUE, |talk| {
        talk.syn(plain());
        talk.send("SYN", &Tcp { payload: vec![0; 10], ..talk.tcp(SYN) });
    });
    cases.add("another SYN", QUEUE, |talk| {
        talk.syn(plain());
        talk.send("SYN in the window", &Tcp { seq: ISN.wrapping_add(100), ..talk.tcp(SYN) });
        talk.forget();
        talk.syn(plain());
        talk.send("SYN before", &Tcp { seq: ISN.wrapping_sub(100_000), ..talk.tcp(SYN) });
        talk.send("final ACK", &talk.tcp(ACK));
    });
    cases.add("out of window, twice", QUEUE, |talk| {
        talk.syn(plain());
        talk.send("first", &talk.data(PUSH, -5000, 10));
        talk.send("second", &talk.data(PUSH, -5000, 10));
        talk.send("duplicate SYN", &talk.tcp(SYN));
        talk.send("final ACK", &talk.tcp(ACK));
    });
}

fn add_final_acks(cases: &mut Cases) {
    cases.add("wrong ACK, then the right one", DISCARD, |talk| {
        talk.syn(plain());
        let ack = talk.tcp(ACK);
        talk.send("wrong", &Tcp { ack: ack.ack.wrapping_add(5), ..ack });
        and_then(talk);
    });
    cases.add("data with the final ACK", DISCARD, |talk| {
        talk.syn(plain());
        talk.send("data", &talk.data(PUSH, 0, 100));
        talk.send("more", &talk.data(PUSH, 100, 100));
    });
    cases.add("data behind a lost final ACK's data", DISCARD, |talk| {
        talk.syn(plain());
        talk.send("second", &talk.data(PUSH, 100, 100));
        talk.send("first", &talk.data(PUSH, 0, 100));
    });
    cases.add("FIN with the final ACK", QUEUE, |talk| {
        talk.syn(plain());
        talk.send_for_ack("FIN", &talk.tcp(FIN | ACK));
        talk.send("again", &talk.tcp(FIN | ACK));
    });
    cases.add("FIN with the final ACK, until both are closed", DISCARD, |talk| {
        talk.syn(plain());
        talk.fin_and_wait();
        let ack = talk.tcp(ACK);
        talk.send("last ACK", &Tcp { seq: ISN.wrapping_add(2), ack: ack.ack.wrapping_add(1), ..ack.clone() });
        talk.send(
            "nobody is there any more",
            &Tcp { seq: ISN.wrapping_add(2), ack: ack.ack.wrapping_add(1), ..ack },
        );
    });
}

fn add_resets_and_answers(cases: &mut Cases) {
    cases.add("RST, then the final ACK", QUEUE, |talk| {
        talk.syn(plain());
        talk.send("RST", &Tcp { seq: ISN.wrapping_add(1), ..talk.tcp(RST) });
        talk.send("final ACK", &talk.tcp(ACK));
        talk.forget();
        talk.syn(plain());
    });
    cases.add("RSTs in the window, twice", QUEUE, |talk| {
        talk.syn(plain());
        for _ in 0..2 {
            talk.send("RST", &talk.data(RST, 5, 0));
        }
        talk.send("with data", &talk.data(RST, 5, 10));
        talk.send("out of window", &talk.data(ACK, -5000, 0));
        talk.send("duplicate SYN", &talk.tcp(SYN));
        talk.send("RST with ACK", &talk.data(RST | ACK, 5, 0));
        talk.send("final ACK", &talk.tcp(ACK));
    });
    cases.add("TOS of answers", QUEUE, |talk| {
        talk.syn(plain());
        for tos in [0x10, 0x03] {
            let tcp = talk.data(PUSH, -5000, 10);
            talk.send_in("out of window", &tcp, |_, ip| ip.tos = tos);
            let wrong = Tcp { ack: tcp.ack.wrapping_add(9), ..tcp };
            talk.send_in("wrong ACK", &wrong, |_, ip| ip.tos = tos);
        }
        let tcp = talk.tcp(ACK);
        talk.send_in("final ACK", &tcp, |_, ip| ip.tos = 0x10);
        let tcp = talk.data(PUSH, -5000, 10);
        talk.send_in("out of window", &tcp, |_, ip| ip.tos = 0xb8);
    });
    cases.add("a wide window is scaled", QUEUE, |talk| {
        talk.syn([plain(), option::window_scale(14)].concat());
        talk.send("far away", &talk.data(PUSH, -1000, 1));
        talk.send("final ACK", &Tcp { window: 65535, ..talk.tcp(ACK) });
        talk.send("far away", &talk.data(PUSH, -1000, 1));
    });
}

fn add_timestamps(cases: &mut Cases) {
    cases.group("request with timestamps");
    let ts = |value: u32, echo: u32| [vec![1, 1], option::timestamps(value, echo)].concat();
    let echo = |talk: &Talk<'_>, add: i32| {
        talk.origin.tsval.expect("timestamps were agreed on").wrapping_add_signed(add)
    };
    for (name, value, add) in [
        ("older", TSVAL - 1, 0),
        ("much older", TSVAL - 1_000_000, 0),
        ("the same", TSVAL, 0),
        ("newer", TSVAL + 1, 0),
        ("half the circle ahead", TSVAL + 0x7fff_ffff, 0),
        ("half the circle ahead and one", TSVAL.wrapping_add(0x8000_0001), 0),
        ("echo of the future", TSVAL + 1, 100_000),
        ("echo of the past", TSVAL + 1, -100_000),
    ] {
        cases.add(name, DISCARD, move |talk| {
            talk.syn(option::all(TSVAL));
            // Of what answers a wrong segment, Linux does not remember the TSval: its echo is not believed.
            let synack = echo(talk, 0);
            let options = ts(value, echo(talk, add));
            talk.send("final ACK", &Tcp { options: options.clone(), ..talk.tcp(ACK) });
            talk.send("and once more", &Tcp { options, ..talk.tcp(ACK) });
            let options = ts(TSVAL + 2, synack);
            talk.send("data", &Tcp { options, ..talk.data(PUSH, 0, 5) });
        });
    }
    cases.add("echo of 0", DISCARD, move |talk| {
        talk.syn(option::all(TSVAL));
        talk.send("final ACK", &Tcp { options: ts(TSVAL, 0), ..talk.tcp(ACK) });
        talk.send("data", &Tcp { options: ts(TSVAL, 0), ..talk.data(PUSH, 0, 5) });
    });
    cases.add("no timestamps in the final ACK", DISCARD, |talk| {
        talk.syn(option::all(TSVAL));
        and_then(talk);
    });
    cases.add("timestamps that were not agreed on", DISCARD, move |talk| {
        talk.syn(plain());
        talk.send("final ACK", &Tcp { options: ts(1, 1), ..talk.tcp(ACK) });
        talk.send("data", &Tcp { options: ts(1, 1), ..talk.data(PUSH, 0, 5) });
    });
    cases.add("an older RST", QUEUE, move |talk| {
        talk.syn(option::all(TSVAL));
        let options = ts(TSVAL - 5, echo(talk, 0));
        let seq = ISN.wrapping_add(1);
        talk.send("RST", &Tcp { seq, options: options.clone(), ..talk.tcp(RST) });
        talk.send("RST and ACK", &Tcp { seq, options, ..talk.tcp(RST | ACK) });
        talk.send("final ACK", &talk.tcp(ACK));
    });
    cases.add("a RST with an echo of the future", QUEUE, move |talk| {
        talk.syn(option::all(TSVAL));
        let options = ts(TSVAL + 1, echo(talk, 100_000));
        let seq = ISN.wrapping_add(1);
        talk.send("RST", &Tcp { seq, options, ..talk.tcp(RST | ACK) });
        talk.send("final ACK", &talk.tcp(ACK));
    });
    cases.add("a duplicate SYN with a newer timestamp", QUEUE, |talk| {
        talk.syn(option::all(TSVAL));
        talk.syn(option::all(TSVAL + 500));
        talk.timestamps = true;
        talk.send("final ACK", &talk.tcp(ACK));
    });
}

fn add_deferred(cases: &mut Cases) {
    cases.group("request, deferred");
    cases.add("bare ACKs", DEFER, |talk| {
        talk.handshake(plain());
        talk.send("again", &talk.tcp(ACK));
        talk.syn(plain());
    });
    cases.add("data", DEFER, |talk| {
        talk.handshake(plain());
        talk.send("far away", &talk.data(PUSH, 1 << 30, 1));
        talk.send("another ACK", &Tcp { ack: talk.tcp(ACK).ack.wrapping_add(9), ..talk.tcp(ACK) });
    });
    cases.add("a FIN", DEFER, |talk| {
        talk.handshake(plain());
        talk.send_for_ack("FIN", &talk.tcp(FIN | ACK));
    });
    cases.add("a RST", DEFER, |talk| {
        talk.handshake(plain());
        talk.send("RST", &Tcp { seq: ISN.wrapping_add(1), ..talk.tcp(RST) });
        talk.send("ACK", &talk.tcp(ACK));
    });
}
