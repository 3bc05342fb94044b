use super::*;
use crate::listen_sock::ListenParams;
use crate::types::Backlog;
use proptest::prelude::*;

const CORES: usize = 3;

/// Some cores and the listeners that they share: the first with a queue that is counted one by one.
struct Bench {
    socks: ListenSocks,
    listeners: Vec<ListenerRef>,
    cores: Vec<Credits>,
    /// Requests by core and listener.
    requests: Vec<Vec<u32>>,
    now: Nanos,
}

impl Bench {
    fn new(backlogs: &[u32]) -> Self {
        let socks = ListenSocks::new(100);
        let open = |&backlog: &u32| {
            let id = socks.alloc().expect("room");
            let params = ListenParams { backlog: Backlog(backlog), ..ListenParams::default() };
            socks.get(id).expect("just made").open(id, &params)
        };
        let listeners: Vec<_> = backlogs.iter().map(open).collect();
        let requests = vec![vec![0; listeners.len()]; CORES];
        let cores = (0..CORES).map(|_| Credits::new(CORES as u16)).collect();
        Self { socks, listeners, cores, requests, now: Nanos(5) }
    }

    fn slot(&self, listener: usize) -> &ListenSock {
        self.socks.get(self.listeners[listener].id).expect("never freed")
    }

    fn take(&mut self, core: usize, listener: usize) -> Result<(), Refused> {
        let full = self.cores[core].request_queue_is_full(self.slot(listener), self.listeners[listener]);
        let taken = self.take_late(core, listener);
        assert_eq!(taken.is_err(), full, "nobody else came between");
        self.requests[core][listener] += u32::from(taken.is_ok());
        taken
    }

    /// Whatever the core thought before.
    fn take_late(&mut self, core: usize, listener: usize) -> Result<(), Refused> {
        let at = self.listeners[listener];
        let slot = self.socks.get(at.id).expect("never freed");
        self.cores[core].take(&self.socks, slot, at, self.now)
    }

    fn give(&mut self, core: usize, listener: usize) {
        if self.requests[core][listener] == 0 {
            return;
        }
        let at = self.listeners[listener];
        let slot = self.socks.get(at.id).expect("never freed");
        self.cores[core].give(&self.socks, slot, at, self.now);
        self.requests[core][listener] -= 1;
    }

    fn sweep(&mut self, core: usize) {
        self.cores[core].sweep(&self.socks, self.now);
    }

    fn all(&self, listener: usize) -> u32 {
        self.requests.iter().map(|core| core[listener]).sum()
    }

    fn check(&self) {
        for (index, &at) in self.listeners.iter().enumerate() {
            let slot = self.slot(index);
            let in_hand: u32 = self.cores.iter().map(|core| core.in_hand(at)).sum();
            let (all, places) = (self.all(index), slot.request_places());
            assert_eq!((slot.qlen(), slot.young()), (all + in_hand, all + in_hand), "listener {index}");
            assert!(slot.qlen() <= places, "over the limit: {} of {places}", slot.qlen());
            assert!(in_hand <= places / 8, "{in_hand} of {places} in hand");
            assert!(places >= PLACES_MIN || in_hand == 0, "small queues are exact");
        }
    }

    /// Lets every core idle; then nothing is in hand.
    fn idle(&mut self) {
        for _ in 0..2 {
            self.now = self.now + CREDIT_IDLE;
            (0..CORES).for_each(|core| self.sweep(core));
        }
        for index in 0..self.listeners.len() {
            assert_eq!(self.slot(index).qlen(), self.all(index), "all is given back");
        }
        assert!(self.cores.iter().all(|core| core.next_sweep().is_none()));
    }
}

#[test]
fn a_small_queue_is_exact_and_a_large_one_is_filled_to_the_last_place() {
    for (backlog, exact) in [(5, true), (1022, true), (1023, false), (4096, false)] {
        let mut bench = Bench::new(&[backlog]);
        bench.take(1, 0).expect("room");
        bench.take(2, 0).expect("room");
        let in_hand = bench.slot(0).qlen() - 2;
        assert_eq!(in_hand == 0, exact, "{in_hand} in hand of {backlog}");
        let mut taken = 2;
        while bench.take(0, 0).is_ok() {
            taken += 1;
        }
        assert_eq!(taken, backlog + 1 - in_hand, "the others have some in hand");
        bench.check();
        bench.idle();
        for _ in 0..in_hand {
            bench.take(0, 0).expect("they have given it back");
        }
        assert_eq!((bench.take(0, 0), bench.take(1, 0)), (Err(Refused::Full), Err(Refused::Full)));
        assert_eq!(bench.all(0), backlog + 1);
    }
}

#[test]
fn most_requests_do_not_touch_the_shared_count() {
    let mut bench = Bench::new(&[4096]);
    bench.take(0, 0).expect("room");
    let before = bench.slot(0).qlen();
    for _ in 0..1000 {
        bench.take(0, 0).expect("room");
        bench.give(0, 0);
    }
    assert_eq!(bench.slot(0).qlen(), before);
    for _ in 0..before - 1 {
        bench.take(0, 0).expect("in hand");
    }
    assert_eq!(bench.slot(0).qlen(), before);
}

#[test]
fn a_lowered_backlog_holds_at_once() {
    let mut bench = Bench::new(&[4096]);
    for _ in 0..2100 {
        bench.take(0, 0).expect("room");
    }
    assert!(bench.cores[0].in_hand(bench.listeners[0]) > 0);
    for backlog in [2000, 10] {
        bench.slot(0).set_max_ack_backlog(Backlog(backlog));
        assert_eq!(bench.take(0, 0), Err(Refused::Full));
    }
    while bench.all(0) > 0 {
        bench.give(0, 0);
    }
    bench.idle();
    assert_eq!(bench.slot(0).qlen(), 0);
}

#[test]
fn places_die_with_their_listener() {
    let mut bench = Bench::new(&[4096]);
    bench.take(0, 0).expect("room");
    let (old, params) =
        (bench.listeners[0], ListenParams { backlog: Backlog(4096), ..ListenParams::default() });
    bench.slot(0).close(&[], |_| panic!("no children"));
    assert_eq!(bench.take_late(1, 0), Err(Refused::Gone));
    let new = bench.slot(0).open(old.id, &params);
    bench.give(0, 0);
    assert_eq!(bench.slot(0).qlen(), 0, "the next listener's count is its own");
    bench.listeners[0] = new;
    bench.take(0, 0).expect("room");
    bench.check();
    bench.idle();
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Take(usize, usize, u32),
    Give(usize, usize, u32),
    Pass(u64),
    Sweep(usize),
}

fn op(listeners: usize) -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0..CORES, 0..listeners, 1..300u32).prop_map(|(core, at, times)| Op::Take(core, at, times)),
        3 => (0..CORES, 0..listeners, 1..300u32).prop_map(|(core, at, times)| Op::Give(core, at, times)),
        1 => (1..20_000_000u64).prop_map(Op::Pass),
        2 => (0..CORES).prop_map(Op::Sweep),
    ]
}

proptest! {
    /// Two listeners of 66 meet in one share.
    #[test]
    fn never_over_the_limit_and_nothing_is_lost(
        backlogs in prop::collection::vec(prop_oneof![0..5u32, 1000..1050u32, 1020..6000u32], 66),
        ops in prop::collection::vec(op(66), 1..200),
        few: bool,
    ) {
        let mut bench = Bench::new(&backlogs);
        for op in ops {
            // Most of the time the same few, among them two of one share.
            let at = |listener: usize| if few { [0, 1, 64][listener % 3] } else { listener };
            match op {
                Op::Take(core, listener, times) => (0..times).for_each(|_| {
                    let _ = bench.take(core, at(listener));
                }),
                Op::Give(core, listener, times) => (0..times).for_each(|_| bench.give(core, at(listener))),
                Op::Pass(ns) => bench.now = bench.now + Nanos(ns),
                Op::Sweep(core) => bench.sweep(core),
            }
            bench.check();
        }
        bench.idle();
    }
}
