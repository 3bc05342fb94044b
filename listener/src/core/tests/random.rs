//! Random segments at one core, by seed, and what must hold whatever comes.

use super::*;
use crate::config::splitmix64;
use crate::conn_shared::ChildInfo;
use crate::types::TcpState;
use std::collections::VecDeque;

struct Dice(u64);

impl Dice {
    fn below(&mut self, sides: u64) -> u64 {
        splitmix64(&mut self.0) % sides
    }

    fn one_in(&mut self, sides: u64) -> bool {
        self.below(sides) == 0
    }
}

/// A world under fire: one listener, a few ports, and what the control side holds.
struct Storm {
    world: World,
    listener: ListenerRef,
    dice: Dice,
    /// What we sent last to each port: (SEQ end, ACK), so that some segments fit.
    last: Vec<(SegSeq, SegSeq)>,
    held: VecDeque<ChildRef>,
}

const PORTS: u64 = 24;
const FLAGS: [u8; 12] =
    [SYN, ACK, ACK, ACK, ACK | PSH, FIN | ACK, RST, RST | ACK, SYN | ACK, FIN, 0, SYN | FIN];

impl Storm {
    fn new(seed: u64) -> Self {
        let mut dice = Dice(seed);
        let world = World::with_sysctl(|sysctl| {
            sysctl.tcp_syncookies = dice.below(3) as u8;
            sysctl.tcp_abort_on_overflow = dice.one_in(2);
            sysctl.tcp_max_tw_buckets = dice.below(20) as u32;
        });
        let listener = Self::listen(&world, &mut dice);
        let last = vec![(SegSeq(0), SegSeq(0)); PORTS as usize];
        Self { world, listener, dice, last, held: VecDeque::new() }
    }

    fn listen(world: &World, dice: &mut Dice) -> ListenerRef {
        let then = Then::from_u8(dice.below(4) as u8);
        // Some so large that places in the SYN queue are taken in batches.
        let backlog = if dice.one_in(3) { 1024 + dice.below(1000) } else { dice.below(12) };
        let (backlog, defer) = (Backlog(backlog as u32), dice.below(3) as u8);
        world.listen(ListenParams { backlog, then, defer, ..ListenParams::default() })
    }

    fn segment(&mut self) -> Segment {
        let dice = &mut self.dice;
        let port = dice.below(PORTS);
        let (seq, ack) = self.last[port as usize];
        let near = |dice: &mut Dice, exact: SegSeq| match dice.below(4) {
            0 => SegSeq(dice.below(1 << 32) as u32),
            1 => exact.plus(dice.below(5) as u32).plus(u32::MAX - 2),
            _ => exact,
        };
        let mut bits = FLAGS[dice.below(12) as usize];
        if dice.one_in(50) {
            bits = dice.below(256) as u8;
        }
        let (seq, ack) = (near(dice, seq), near(dice, ack));
        let mut segment = seg(port as u16, bits, seq, if bits & ACK == 0 { SegSeq(0) } else { ack });
        if dice.one_in(3) {
            segment.payload_len = dice.below(1500) as u16;
        }
        if dice.one_in(2) {
            let ms = self.world.now.as_millis() as u32;
            segment.options.timestamps = Some((ms.wrapping_sub(dice.below(3) as u32), dice.below(2) as u32));
        }
        if bits & SYN != 0 {
            segment.options.mss = dice.below(2000) as u16;
            segment.options.wscale = dice.one_in(2).then(|| dice.below(17) as u8);
        }
        segment
    }

    fn sent(&mut self, port: u16, out: &OutSegment) {
        let syn_fin = u32::from(out.flags & SYN != 0) + u32::from(out.flags & FIN != 0);
        if out.flags & RST == 0 {
            self.last[usize::from(port)] = (out.ack, out.seq.plus(syn_fin));
        }
    }

    /// A burst of segments, all looked up before the first is answered.
    fn burst(&mut self) {
        let count = 1 + self.dice.below(8) as usize;
        let segs: Vec<_> = (0..count).map(|_| self.segment()).collect();
        let set = (1 << count) - 1;
        let mut found = vec![Found::default(); count];
        if !self.dice.one_in(8) {
            self.world.core.lookup_burst(&segs, set, &mut found);
        }
        for (segment, found) in segs.iter().zip(found) {
            if let Verdict::Reply(_, out) = self.world.core.rcv(segment, found, self.world.now) {
                self.sent(segment.flow.sport.0, &out);
            }
        }
    }

    fn tick(&mut self) {
        let mut sent = Vec::new();
        let (room, dice) = (self.dice.below(6), &mut self.dice);
        self.world.core.tick(self.world.now, 1 + dice.below(40) as usize, |out| {
            let took = sent.len() as u64 != room;
            if took {
                sent.push((out.flow.sport.0, out.segment));
            }
            took
        });
        sent.iter().for_each(|(port, out)| self.sent(*port, out));
    }

    fn control(&mut self) {
        match self.dice.below(6) {
            0 | 1 => self.held.extend(self.world.accept_all(self.listener)),
            2 => {
                let child = self.held.front().copied();
                self.command(child.map(Command::Close));
            }
            3 => {
                let child = self.held.pop_front();
                self.command(child.map(Command::Release));
            }
            4 => {
                let child = self.held.pop_back();
                self.command(child.map(Command::Reset));
            }
            _ if self.dice.one_in(20) => {
                for child in self.world.unlisten(self.listener) {
                    self.command(Some(Command::Reset(child)));
                }
                self.listener = Self::listen(&self.world, &mut self.dice);
            }
            _ => {}
        }
    }

    fn command(&mut self, command: Option<Command>) {
        if let Some(command) = command {
            self.world.shared.push(command).expect("the ring holds 4096");
        }
    }

    /// What holds at any time.
    fn check(&self) {
        let (requests, conns) = self.world.core.in_use();
        let slot = self.world.slot(self.listener.id);
        let in_hand = self.world.core.flows.credits.in_hand(self.listener);
        assert!(slot.qlen() - in_hand <= requests && slot.young() <= slot.qlen());
        let infos: Vec<ChildInfo> = (0..self.world.shared.capacity())
            .filter_map(|index| self.world.shared.child(self.world.shared.child_ref(index)))
            .collect();
        assert_eq!(infos.len() as u32, conns, "records and slots go in step");
        let alive = infos.iter().filter(|info| info.state != TcpState::Close).count() as u32;
        assert_eq!(self.world.shared.children_on_port(TcpPort(80)), alive);
        let counted = |info: &&ChildInfo| matches!(info.state, TcpState::Established | TcpState::CloseWait);
        assert_eq!(self.world.count(Mib::CurrEstab), infos.iter().filter(counted).count() as u64);
    }

    /// Nobody sends any more: everything must come to rest.
    fn settle(&mut self) {
        self.held.extend(self.world.accept_all(self.listener));
        assert_eq!(self.world.slot(self.listener.id).ack_backlog(), 0);
        while let Some(child) = self.held.pop_front() {
            self.command(Some(Command::Release(child)));
        }
        self.world.tick();
        self.world.pass(Nanos::from_secs(1000));
        assert_eq!(self.world.core.in_use(), (0, 0), "something leaked");
        assert_eq!(self.world.core.next_timer(), None);
        let slot = self.world.slot(self.listener.id);
        assert_eq!((slot.qlen(), slot.young(), slot.ack_backlog()), (0, 0, 0));
        assert_eq!(self.world.shared.children_on_port(TcpPort(80)), 0);
        assert_eq!(self.world.count(Mib::CurrEstab), 0);
    }
}

/// 10^5 segments in all, over twenty worlds of different temper.
#[test]
fn nothing_leaks_whatever_comes() {
    for seed in 1..=20 {
        let mut storm = Storm::new(seed);
        let mut made = 0;
        while storm.world.count(Mib::InSegs) < 5_000 {
            storm.burst();
            if storm.dice.one_in(4) {
                storm.world.now = storm.world.now + Nanos(storm.dice.below(400_000_000));
                storm.tick();
            }
            storm.control();
            if storm.dice.one_in(16) {
                storm.check();
            }
            made = storm.world.count(Mib::PassiveOpens);
        }
        storm.settle();
        assert!(made > 20, "seed {seed} made {made} connections: it tests too little");
    }
}
