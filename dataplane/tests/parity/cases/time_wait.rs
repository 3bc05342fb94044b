//! After the server closed first: `tcp_timewait_state_process`.

use std::time::Duration;

use super::{CLOSE, Cases, letters, main_flags, plain};
use crate::parity::frame::{ACK, FIN, RST, SYN, Tcp, option};
use crate::parity::talk::{ISN, PUSH, TSVAL, Talk};

pub fn add(cases: &mut Cases) {
    cases.group("time-wait");
    for flags in main_flags() {
        for offset in [-5, 0, 1, 5, 100_000] {
            cases.add(format!("{} at {offset}", letters(flags)), CLOSE, move |talk| {
                enter(talk, plain());
                let tcp = talk.tcp(flags);
                let tcp = Tcp { seq: ISN.wrapping_add(2).wrapping_add_signed(offset), ..tcp };
                let ack = if flags & ACK == 0 { 0 } else { tcp.ack.wrapping_add(1) };
                talk.send("segment", &Tcp { ack, ..tcp });
                let ack = talk.tcp(ACK);
                talk.send("ACK", &Tcp { seq: ISN.wrapping_add(2), ack: ack.ack.wrapping_add(1), ..ack });
            });
        }
    }
    cases.group("time-wait with timestamps");
    for (name, value) in [("newer", TSVAL + 1000), ("the same", TSVAL + 1), ("older", TSVAL - 1000)] {
        for offset in [-1000, 1000] {
            cases.add(format!("a SYN at {offset} with a timestamp {name}"), CLOSE, move |talk| {
                talk.timestamps = true;
                enter(talk, option::all(TSVAL));
                let seq = ISN.wrapping_add_signed(offset);
                talk.send("SYN", &Tcp { seq, options: option::all(value), ..talk.tcp(SYN) });
            });
        }
    }
    cases.add("a RST that is too old", CLOSE, move |talk| {
        talk.timestamps = true;
        enter(talk, option::all(TSVAL));
        let options = [vec![1, 1], option::timestamps(TSVAL - 1000, 0)].concat();
        talk.send("RST", &Tcp { seq: ISN.wrapping_add(2), options, ..talk.tcp(RST) });
        talk.send("data", &Tcp { seq: ISN.wrapping_add(2), ..talk.data(PUSH, 1, 5) });
    });
}

/// Handshake, the server's FIN, ours with the ACK of it.
fn enter(talk: &mut Talk<'_>, options: Vec<u8>) {
    talk.syn(options);
    let ack = talk.tcp(ACK);
    talk.send_and_wait("final ACK", &ack, FIN, Duration::from_secs(2));
    let fin = talk.tcp(FIN | ACK);
    talk.send("FIN", &Tcp { ack: fin.ack.wrapping_add(1), ..fin });
}
