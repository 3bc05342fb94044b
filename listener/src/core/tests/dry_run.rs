//! What a dry run says is what happens then, and nothing happens by saying it.

use super::live::{listen_on, stack_with};
use super::*;
use crate::api::Stack;
use crate::core::dry_run::{Belongs, DryRun, Peek};
use crate::inet_hashtables::BucketOf;

/// Everything that a dry run could have touched.
fn state(stack: &Stack, core: &Core) -> String {
    let slots: Vec<_> = stack
        .listeners()
        .iter()
        .filter_map(|row| stack.net.listeners.get(stack.listener_id(row.fd)?))
        .map(|slot| format!("{slot:?}"))
        .collect();
    let flows = &core.flows;
    let (requests, conns) = (&flows.table.requests, &flows.table.conns);
    format!(
        "{:?} {slots:?} {:?} {:?} {:?} {} {:?} {:?}",
        stack.snmp(),
        (requests.in_use(), conns.in_use(), flows.tw_count, flows.cookies),
        flows.rst_limit,
        flows.challenges,
        flows.fresh.len(),
        requests,
        conns,
    )
}

fn dry(stack: &Stack, core: &mut Core, seg: &Segment, now: Nanos) -> DryRun {
    let peek = Peek { ticket: 7, flow: seg.flow, dev: seg.dev };
    stack.peek(CoreId(0), peek);
    assert!(stack.peeked(CoreId(0), 7).is_none(), "no tick has passed");
    let before = state(stack, core);
    core.tick(now, 8, |_| true);
    let peeked = stack.peeked(CoreId(0), 7).expect("the core answers at its next tick");
    let dry = stack.dry_run(CoreId(0), seg, &peeked);
    assert_eq!(state(stack, core), before, "{seg:?}");
    dry
}

/// Segments on eight flows, with numbers near those in use, so that most states are met.
fn segment(random: &mut u64, ours: &mut [SegSeq; 8]) -> (usize, Segment) {
    let mut pick = |below: u64| crate::config::splitmix64(random) % below;
    let which = pick(8) as usize;
    let flags = [SYN, SYN, ACK, ACK, ACK, FIN | ACK, RST, SYN | ACK, 0, PSH | ACK, SYN | FIN, RST | ACK]
        [pick(12) as usize];
    let offset = [0, 1, 1, 1, 2, 100, u32::MAX][pick(7) as usize];
    let ack = ours[which].plus([1, 1, 1, 1, 0, 2, 77][pick(7) as usize]);
    let dport = [80, 80, 80, 81, 82, 83][pick(6) as usize];
    let mut seg = seg(which as u16, flags, IRS.plus(offset), if flags & ACK == 0 { SegSeq(0) } else { ack });
    seg.flow.dport = TcpPort(dport);
    seg.payload_len = if pick(4) == 0 && flags & SYN == 0 { 10 } else { 0 };
    if pick(2) == 0 {
        seg.options = syn_full(0, 7 + pick(3) as u32).options;
    }
    (which, seg)
}

#[test]
fn it_says_what_then_happens_and_touches_nothing() {
    let mut met = std::collections::BTreeSet::new();
    for seed in 0..40 {
        let sysctl = Sysctl {
            tcp_syncookies: seed as u8 % 3,
            tcp_abort_on_overflow: seed % 5 == 0,
            ..Sysctl::default()
        };
        let limits = Limits { requests_per_core: 6, connections_per_core: 6, ..Limits::TINY };
        let (stack, mut core) = stack_with(sysctl, limits);
        listen_on(&stack, 80, if seed % 4 == 3 { 2000 } else { 2 }, Then::Queue);
        listen_on(&stack, 81, 8, Then::Close);
        let discard = listen_on(&stack, 82, 8, Then::Discard);
        core.set_rst_limit(2, 3);
        let (mut random, mut ours, mut now) = (seed, [SegSeq(0); 8], Nanos::from_secs(1000));
        for step in 0..250 {
            now = now + Nanos(crate::config::splitmix64(&mut random) % 700_000_000);
            core.tick(now, usize::MAX, |_| true);
            match step {
                150 => drop(stack.close(discard, false)),
                220 => stack.drain(),
                _ => {}
            }
            let (which, seg) = segment(&mut random, &mut ours);
            core.tick(now, 8, |_| true);
            let said = dry(&stack, &mut core, &seg, now);
            let snmp = stack.snmp();
            let mut found = [Found::default()];
            core.lookup_burst(&[seg], 1, &mut found);
            let verdict = core.rcv(&seg, found[0], now);
            assert_eq!(said.verdict, verdict, "seed {seed}, step {step}: {seg:?} {:?}", said.belongs);
            let grown = stack.snmp().into_iter().zip(snmp).filter(|(after, before)| after.1 != before.1);
            let grown: Vec<_> = grown.map(|(after, _)| after.0).collect();
            assert_eq!(said.counters, grown, "seed {seed}, step {step}: {seg:?}");
            if let Verdict::Reply(Outcome::SynAck, synack) = verdict {
                ours[which] = synack.seq;
            }
            met.insert(match verdict {
                Verdict::Drop(reason) => reason.name(),
                Verdict::Consume(outcome) | Verdict::Reply(outcome, _) => outcome.name(),
            });
        }
    }
    for wanted in [
        "synack",
        "rst",
        "accept",
        "other",
        "listen_overflow",
        "accept_overflow",
        "request_table_full",
        "draining",
        "rst_limit",
        "tcp_invalid_sequence",
    ] {
        assert!(met.contains(wanted), "{wanted} was never met: {met:?}");
    }
}

#[test]
fn it_says_who_would_answer_and_why() {
    let (stack, mut core) = stack_with(Sysctl::default(), Limits::TINY);
    let now = Nanos::from_secs(1000);
    let nobody = dry(&stack, &mut core, &syn(1), now);
    assert_eq!((nobody.belongs, nobody.tried[0].found, nobody.tried[1].found), (Belongs::Nobody, None, None));
    let fd = listen_on(&stack, 80, 8, Then::Queue);
    let id = stack.listener_id(fd).expect("it listens");
    let exact = dry(&stack, &mut core, &syn(1), now);
    assert_eq!((exact.belongs, exact.tried[0].found), (Belongs::Listener(id), Some(id)));
    let BucketOf::Hashed { first, second, displaced: false, buckets } = exact.tried[0].bucket else {
        panic!("{:?}", exact.tried[0])
    };
    assert!(first < buckets && second < buckets && first != second);
    assert_eq!(exact.tried[1].bucket, BucketOf::Port(80));
    let rows = stack.rows_of(&[id, ListenerId(77), id]);
    assert_eq!(rows.iter().map(|row| row.map(|row| row.fd)).collect::<Vec<_>>(), [Some(fd), None, Some(fd)]);
    let mut found = [Found::default()];
    core.lookup_burst(&[syn(1)], 1, &mut found);
    core.rcv(&syn(1), found[0], now);
    assert_eq!(dry(&stack, &mut core, &syn(1), now).belongs, Belongs::Request(id));
}
