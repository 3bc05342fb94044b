//! The short way against the long one: two worlds, one of which never sees a column.

use crate::columns::{Answers, Columns, Sets};
use crate::config::splitmix64;
use crate::core::Found;
use crate::core::tests::{ACK, DEV, FIN, PSH, RST, SYN, World, flow6, seg};
use crate::drop_reason::DropReason;
use crate::limits::{BURST_MAX, Limits};
use crate::listen_sock::ListenParams;
use crate::segment::{Originated, OutSegment, Segment, TcpOptions, Verdict, flag};
use crate::snmp::Mib;
use crate::sysctl::Sysctl;
use crate::types::{Backlog, Nanos, Route, SegSeq, TcpPort, Then};

struct Twins {
    dice: u64,
    columns: World,
    segments: World,
    /// What was sent last to each port, so that some segments fit: SEQ behind it, and ACK.
    last: Vec<(SegSeq, SegSeq)>,
    /// SYNs with all options among twenty of this burst.
    full: u64,
    short: u64,
    /// Of these, SYNs with all options.
    filled: u64,
    /// Of these, RSTs that ended a request.
    ended: u64,
}

const PEERS: u64 = 300;

impl Twins {
    fn new(seed: u64) -> Self {
        let mut dice = seed;
        let mut below = |sides: u64| splitmix64(&mut dice) % sides;
        let sysctl = Sysctl {
            tcp_syncookies: below(3) as u8,
            tcp_reflect_tos: below(4) == 0,
            tcp_ecn: below(2) as u8,
            tcp_timestamps: [1, 1, 1, 2, 0][below(5) as usize],
            tcp_sack: below(8) != 0,
            tcp_window_scaling: below(8) != 0,
            ..Sysctl::default()
        };
        let limits = Limits { requests_per_core: if below(4) == 0 { 64 } else { 1024 }, ..Limits::TINY };
        let (backlog, clamp) = ([3, 40, 1100][below(3) as usize], [0, 0, 1400][below(3) as usize]);
        let rst_limit = [0, 0, 2000][below(3) as usize];
        let world = || {
            let mut world = World::with(sysctl.clone(), limits);
            let params =
                ListenParams { backlog: Backlog(backlog), then: Then::Reset, ..ListenParams::default() };
            world.listen(params);
            let other = world.listen_at(TcpPort(82), ListenParams { backlog: Backlog(1 << 11), ..params });
            world.slot(other.id).set_mss_clamp(clamp);
            world.slot(other.id).set_tos(0x48);
            world.core.set_rst_limit(rst_limit, 3);
            world
        };
        let last = vec![(SegSeq(0), SegSeq(0)); PEERS as usize];
        Self { columns: world(), segments: world(), dice, last, full: 0, short: 0, filled: 0, ended: 0 }
    }

    fn below(&mut self, sides: u64) -> u64 {
        splitmix64(&mut self.dice) % sides
    }

    fn segment(&mut self, focus: u64) -> Segment {
        let peer = self.below(PEERS);
        let (seq, ack) = self.last[peer as usize];
        let flags = match self.below(10) {
            0 => ACK,
            1 => RST,
            2 => [SYN | ACK, SYN | FIN, PSH | ACK, SYN | flag::ECE | flag::CWR][self.below(4) as usize],
            _ => SYN,
        };
        let mut segment = match flags {
            SYN => seg(peer as u16, SYN, SegSeq(self.below(1 << 32) as u32), SegSeq(0)),
            _ => seg(peer as u16, flags, seq, if flags & ACK == 0 { SegSeq(0) } else { ack }),
        };
        segment.flow.dport = TcpPort(if self.below(8) == 0 { 80 + self.below(3) } else { focus } as u16);
        segment.route = Route([self.below(1 << 16) as u16; 6]);
        segment.tos = if self.below(4) == 0 { self.below(256) as u8 } else { 0 };
        if flags & SYN != 0 {
            segment.options.mss = [0, 1460, 1300, 9000, self.below(1 << 16) as u16][self.below(5) as usize];
            segment.options.sack_perm = self.below(16) == 0;
            // Now one by one, now in runs.
            if self.below(20) < self.full {
                let timestamps = Some((self.below(1 << 32) as u32, u32::from(self.below(16) == 0)));
                let wscale = Some([7, 7, 14, self.below(256) as u8][self.below(4) as usize]);
                segment.options = TcpOptions { wscale, sack_perm: true, timestamps, ..segment.options };
            }
        }
        if self.below(12) == 0 {
            segment.flow = flow6(peer as u16);
        }
        segment
    }

    /// Answers a burst both ways; the answers must be the same.
    fn burst(&mut self) {
        let (count, focus) = (1 + self.below(BURST_MAX as u64) as usize, 80 + self.below(3));
        self.full = [0, 1, 10, 19, 20][self.below(5) as usize];
        let segs: Vec<_> = (0..count).map(|_| self.segment(focus)).collect();
        let long = self.segments.long(&segs);
        let (short, [answered, filled, ended]) = self.columns.short(&segs);
        self.short += u64::from(answered);
        self.filled += u64::from(filled);
        self.ended += u64::from(ended);
        for (at, (long, short)) in long.iter().zip(&short).enumerate() {
            assert_eq!(long, short, "{at}: {:?}", segs[at]);
            if let Verdict::Reply(_, out) = long {
                let syn = u32::from(out.flags & SYN != 0);
                self.last[usize::from(segs[at].flow.sport.0)] = (out.ack, out.seq.plus(syn));
            }
        }
    }

    /// Lets time pass, and compares all that can be seen.
    fn tick(&mut self) {
        let time = Nanos(self.below(300_000_000));
        let tick = |world: &mut World| {
            let mut sent: Vec<Originated> = Vec::new();
            world.now = world.now + time;
            world.core.tick(world.now, usize::MAX, |originated| {
                sent.push(*originated);
                true
            });
            sent
        };
        assert_eq!(tick(&mut self.segments), tick(&mut self.columns));
        let counts = |world: &World| {
            Mib::ALL.iter().map(|&counter| (counter.name(), world.count(counter))).collect::<Vec<_>>()
        };
        assert_eq!(counts(&self.segments), counts(&self.columns));
        assert_eq!(self.segments.core.in_use(), self.columns.core.in_use());
    }
}

impl World {
    fn long(&mut self, segs: &[Segment]) -> Vec<Verdict> {
        let mut found = vec![Found::default(); segs.len()];
        self.core.lookup_burst(segs, u64::MAX >> (BURST_MAX - segs.len()), &mut found);
        segs.iter().zip(found).map(|(seg, found)| self.core.rcv(seg, found, self.now)).collect()
    }

    /// As the packet path does it; and how many rows were answered as such, how many of them of SYNs with all options,
    /// and how many ended a request as such.
    fn short(&mut self, segs: &[Segment]) -> (Vec<Verdict>, [u32; 3]) {
        let (mut columns, mut plain, mut opens, mut syns, mut resets) = (Columns::EMPTY, 0, 0, 0, 0);
        let mut full = 0;
        for (row, seg) in segs.iter().enumerate() {
            let (Some(saddr), Some(daddr)) = (seg.flow.saddr.as_v4(), seg.flow.daddr.as_v4()) else {
                continue;
            };
            (columns.saddr[row], columns.daddr[row]) = (saddr, daddr);
            columns.ports[row] = u32::from(seg.flow.sport.0) << 16 | u32::from(seg.flow.dport.0);
            columns.seq[row] = seg.seq.0;
            columns.mss[row] = u32::from(seg.options.mss);
            columns.tos[row] = u32::from(seg.tos);
            plain |= 1 << row;
            let simple = seg.options == TcpOptions { mss: seg.options.mss, ..TcpOptions::default() };
            opens |= u64::from(seg.flags & (SYN | ACK | RST | FIN) == SYN) << row;
            syns |= u64::from(seg.flags == SYN && simple) << row;
            if let TcpOptions {
                wscale: Some(wscale), sack_perm: true, timestamps: Some((tsval, 0)), ..
            } = seg.options
            {
                (columns.tsval[row], columns.wscale[row]) = (tsval, u32::from(wscale));
                full |= u64::from(seg.flags == SYN) << row;
            }
            resets |= u64::from(seg.flags == RST && seg.options == TcpOptions::default()) << row;
        }
        let (mut found, mut answers) = (vec![Found::default(); segs.len()], Answers::EMPTY);
        let all = u64::MAX >> (BURST_MAX - segs.len());
        self.core.lookup_burst(segs, all & !plain, &mut found);
        if plain != 0 {
            self.core.lookup_columns(&columns, Sets { rows: plain, opens, syns, full }, DEV);
        }
        let (mut rest, mut verdicts, mut short) = (all, vec![None; segs.len()], 0);
        let (mut filled, mut ended) = (0, 0);
        while rest != 0 {
            let first_full = full >> rest.trailing_zeros() & 1 == 1;
            let others = rest & !if first_full { full } else { syns };
            let run = rest & !(others | others.wrapping_neg());
            let route = |row: usize| segs[row].route;
            let answered = self.core.answer_syns(&columns, run, route, self.now, &mut answers);
            assert_eq!(answered & !run, 0, "nobody asked for those");
            short += answered.count_ones();
            filled += (answered & full).count_ones();
            for row in crate::columns::rows(answered) {
                verdicts[row] =
                    Some(Verdict::Reply(answers.outcome(row).expect("an answer"), written(&answers, row)));
            }
            rest &= !answered;
            let others = rest & !resets;
            let run = rest & !(others | others.wrapping_neg());
            let done = self.core.end_requests(&columns, run, self.now, &mut answers);
            assert_eq!(done & !run, 0, "nobody asked for those");
            ended += done.count_ones();
            for row in crate::columns::rows(done) {
                verdicts[row] = Some(Verdict::Drop(DropReason::ReqRst));
            }
            rest &= !done;
            let Some(row) = crate::columns::rows(rest).next() else { break };
            rest &= rest - 1;
            let found = if plain >> row & 1 == 1 { self.core.found_row(row) } else { found[row] };
            verdicts[row] = Some(self.core.rcv(&segs[row], found, self.now));
        }
        assert_eq!(answers.ended.count_ones(), ended);
        (verdicts.into_iter().flatten().collect(), [short, filled, ended])
    }
}

/// The answer of a row.
fn written(answers: &Answers, row: usize) -> OutSegment {
    let (control, option) = (answers.control[row], answers.option[row]);
    let full = answers.full >> row & 1 == 1;
    assert_eq!(control >> 28, if full { 10 } else { 5 + u32::from(option != 0) });
    assert!(option == 0 || option >> 16 == 0x0204);
    let mut options = TcpOptions { mss: option as u16, ..TcpOptions::default() };
    if full {
        options.wscale = Some(answers.wscale[row] as u8);
        options.sack_perm = true;
        options.timestamps = Some((answers.tsval[row], answers.tsecr[row]));
    }
    OutSegment {
        flags: (control >> 16) as u8,
        tos: answers.tos[row] as u8,
        wnd: control as u16,
        seq: SegSeq(answers.seq[row]),
        ack: SegSeq(answers.ack[row]),
        options,
    }
}

#[test]
fn rows_that_were_not_looked_up_have_nothing() {
    let mut world = World::new();
    world.listen(ListenParams::default());
    let mut columns = Columns::EMPTY;
    (columns.daddr[3], columns.ports[3]) = (0xc612_0001, 80);
    world.core.lookup_burst(&[], 0, &mut []);
    world.core.lookup_columns(&columns, Sets { rows: 1 << 3, opens: 1 << 3, syns: 0, full: 0 }, DEV);
    assert!(world.core.found_row(3).listener().is_some());
    assert_eq!(world.core.found_row(2), Found::default());
    world.core.lookup_burst(&[], 0, &mut []);
    assert_eq!(world.core.found_row(3), Found::default(), "of an earlier burst");
}

#[test]
fn rows_are_answered_as_segments_are() {
    let (mut short, mut filled, mut ended) = (0, 0, 0);
    for seed in 0..60 {
        let mut twins = Twins::new(seed);
        for turn in 0..200 {
            twins.burst();
            if twins.below(3) == 0 {
                twins.tick();
            }
            if turn == 190 {
                let drain = |world: &World| world.shared.push(crate::conn_shared::Command::Drain);
                assert!(drain(&twins.columns).is_ok() && drain(&twins.segments).is_ok());
                twins.tick();
            }
        }
        short += twins.short;
        filled += twins.filled;
        ended += twins.ended;
    }
    assert!(short > 60_000, "most are answered as rows: {short}");
    assert!(filled > 10_000, "also those with all options: {filled}");
    assert!(ended > 1_000, "and many a request is ended by a row: {ended}");
}
