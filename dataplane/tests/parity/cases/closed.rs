//! Nobody listens: `tcp_v4_send_reset`, `tcp_v6_send_reset`.

use super::{CLOSED, Cases, all_flags, letters};
use crate::parity::frame::{ACK, AE, FIN, RST, SYN, Tcp, option};
use crate::parity::talk::PUSH;

pub fn add(cases: &mut Cases) {
    cases.group("closed");
    for len in [0, 10] {
        for flags in all_flags() {
            cases.add(format!("flags {} with {len} octets", letters(flags)), CLOSED, move |talk| {
                let tcp = Tcp { payload: vec![0; len], ..talk.tcp(flags) };
                talk.send("segment", &tcp);
            });
        }
    }
    for flags in [SYN, ACK, RST, SYN | AE] {
        cases.add(format!("reserved bits with {}", letters(flags)), CLOSED, move |talk| {
            for reserved in [0x200, 0x400, 0x800, 0xf00] {
                talk.send("segment", &talk.tcp(flags | reserved));
            }
        });
    }
    cases.add("numbers at their limits", CLOSED, |talk| {
        for number in [0, 1, u32::MAX] {
            talk.send("SYN", &Tcp { seq: number, ..talk.tcp(SYN) });
            talk.send("ACK", &Tcp { ack: number, ..talk.tcp(ACK) });
            talk.send("FIN", &Tcp { seq: number, payload: vec![0; 1], ..talk.tcp(FIN) });
            talk.send("no ACK bit", &Tcp { ack: number, seq: number, ..talk.tcp(0) });
        }
    });
    cases.add("large segments", CLOSED, |talk| {
        for len in [1, 2, 535, 1220, 1440] {
            talk.send("SYN", &Tcp { payload: vec![1; len], ..talk.tcp(SYN) });
            talk.send("data", &Tcp { payload: vec![1; len], ..talk.tcp(PUSH) });
        }
    });
    cases.add("options are not echoed", CLOSED, |talk| {
        talk.send("SYN", &Tcp { options: option::all(1), ..talk.tcp(SYN) });
        let options = [option::nop(), option::nop(), option::timestamps(1, 2)].concat();
        talk.send("ACK", &Tcp { options, ..talk.tcp(ACK) });
    });
    // Not AO (RFC 5925): whether Linux knows it depends on how it was built.
    cases.add("MD5 option", CLOSED, |talk| {
        let options = [&[19, 18][..], &[7; 16], &[1, 1]].concat();
        talk.send("SYN", &Tcp { options: options.clone(), ..talk.tcp(SYN) });
        talk.send("ACK", &Tcp { options, ..talk.tcp(ACK) });
        talk.send("of a wrong length", &Tcp { options: vec![19, 4, 1, 1], ..talk.tcp(SYN) });
    });
    cases.add("a list of options that breaks", CLOSED, |talk| {
        for left in [16, 20] {
            for fault in [&[254, 0], &[254, 1], &[254, 40], &[19, 4]] {
                let options = [&fault[..], &vec![1; left - 2]].concat();
                let name = format!("{fault:?} with {left} left");
                for (flags, which) in [(SYN, "SYN"), (ACK, "ACK"), (FIN, "FIN")] {
                    let segment = Tcp { options: options.clone(), ..talk.tcp(flags) };
                    talk.send(&format!("{which}, {name}"), &segment);
                }
            }
        }
    });
    cases.add("TOS comes back", CLOSED, |talk| {
        for tos in [0x04, 0x10, 0xb8, 0x01, 0x02, 0x03, 0xff] {
            let syn = talk.tcp(SYN);
            talk.send_in(&format!("SYN, TOS {tos:#04x}"), &syn, |_, ip| ip.tos = tos);
        }
    });
    cases.add("port 0", 0, |talk| {
        talk.send("to port 0", &talk.tcp(SYN));
        talk.sport = 0;
        talk.send("from port 0 to port 0", &talk.tcp(SYN));
        talk.dport = CLOSED;
        talk.send("from port 0", &talk.tcp(SYN));
    });
}
