//! Queues that are full: both tests of `tcp_conn_request`, `tcp_v4_syn_recv_sock`, `tcp_check_req`.

use super::{Cases, SMALL, plain};
use crate::parity::compare::ATTEMPTS;
use crate::parity::frame::{ACK, SYN, Tcp, option};
use crate::parity::talk::{PUSH, TSVAL, Talk};

/// The port of a listener that one case fills.
pub fn port(slot: u16) -> u16 {
    SMALL + slot * ATTEMPTS
}

/// Connections of one case, each from a port of its own so far away from other cases' that it is its alone.
fn next(talk: &mut Talk<'_>) -> u16 {
    talk.forget();
    talk.sport = talk.sport.wrapping_add(FAR);
    talk.sport
}

const FAR: u16 = 30_000 / 8;

/// Adds the cases; returns the backlog that each one's listener has.
pub fn add(cases: &mut Cases) -> Vec<i32> {
    cases.group("overflow");
    let mut backlogs = Vec::new();
    let mut slot = |backlog: i32| {
        backlogs.push(backlog);
        port(backlogs.len() as u16 - 1)
    };
    for backlog in [0, 1, 2] {
        cases.add(format!("children beyond a backlog of {backlog}"), slot(backlog), move |talk| {
            for _ in 0..backlog + 3 {
                talk.handshake(plain());
                talk.send("data", &talk.data(PUSH, -1000, 5));
                next(talk);
            }
        });
        cases.add(format!("requests beyond a backlog of {backlog}"), slot(backlog), move |talk| {
            for _ in 0..backlog + 3 {
                talk.syn(option::all(TSVAL));
                next(talk);
            }
        });
    }
    cases.add("a final ACK that meets a full queue", slot(0), |talk| {
        talk.syn(plain());
        let (iss, first) = (talk.origin.iss, talk.sport);
        next(talk);
        talk.handshake(plain());
        (talk.sport, talk.origin.iss) = (first, iss);
        talk.send("the other's final ACK", &talk.tcp(ACK));
        talk.send("its data", &talk.data(PUSH, 0, 5));
        talk.send("its SYN again", &talk.tcp(SYN));
    });
    cases.add("a cookie's ACK that meets a full queue", slot(0), |talk| {
        talk.syn(plain());
        next(talk);
        talk.syn(plain());
        let (iss, second) = (talk.origin.iss, talk.sport);
        next(talk);
        talk.syn(plain());
        talk.send("final ACK", &talk.tcp(ACK));
        (talk.sport, talk.origin.iss) = (second, iss);
        talk.send("the other's final ACK", &talk.tcp(ACK));
        talk.send("and data", &talk.data(PUSH, 0, 5));
    });
    cases.add("a wrong cookie", slot(0), |talk| {
        talk.syn(plain());
        next(talk);
        talk.syn(plain());
        let ack = talk.tcp(ACK);
        talk.send("wrong", &Tcp { ack: ack.ack.wrapping_add(7), ..ack });
        talk.send("right", &talk.tcp(ACK));
    });
    backlogs
}

/// The same where nothing gets a cookie and an overflow is answered by a RST.
pub fn add_without_cookies(cases: &mut Cases) -> Vec<i32> {
    cases.group("overflow without cookies");
    cases.add("children and requests beyond a backlog of 1", port(0), |talk| {
        let mut waiting = Vec::new();
        for _ in 0..4 {
            talk.syn(plain());
            waiting.push((talk.sport, talk.origin.iss));
            next(talk);
        }
        for (sport, iss) in waiting {
            (talk.sport, talk.origin.iss) = (sport, iss);
            talk.send("final ACK", &talk.tcp(ACK));
            talk.send("again", &talk.tcp(ACK));
        }
        next(talk);
        talk.syn(plain());
    });
    cases.add("a final ACK that meets a full queue", port(1), |talk| {
        talk.syn(plain());
        let (iss, first) = (talk.origin.iss, talk.sport);
        next(talk);
        talk.syn(plain());
        let (second_iss, second) = (talk.origin.iss, talk.sport);
        next(talk);
        talk.handshake(plain());
        next(talk);
        talk.handshake(plain());
        for (sport, iss) in [(first, iss), (second, second_iss)] {
            (talk.sport, talk.origin.iss) = (sport, iss);
            talk.send("final ACK", &talk.tcp(ACK));
            talk.send("data", &talk.data(PUSH, 0, 5));
        }
    });
    vec![1, 1]
}
