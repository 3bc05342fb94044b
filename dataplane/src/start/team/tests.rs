use listener::columns::{Columns, Sets};
use listener::drop_reason::DropReason;
use listener::segment::{Originated, Segment, Verdict};
use listener::types::{CoreId, DevIndex, Nanos};

use super::*;
use crate::clock::RealClock;
use crate::io::mem::Mem;
use crate::worker::WorkerConfig;

/// Panics in its hundredth turn, if told to.
struct Moody {
    turns: u32,
    panics: bool,
}

impl Protocol for Moody {
    type Found = ();

    fn lookup_burst(&mut self, _segs: &[Segment], _set: u64, _found: &mut [()]) {}

    fn lookup_columns(&mut self, _columns: &Columns, _sets: Sets, _dev: DevIndex) {}

    fn found_row(&self, _row: usize) {}

    fn rcv(&mut self, _seg: &Segment, _found: (), _now: Nanos) -> Verdict {
        Verdict::Drop(DropReason::NoSocketRst)
    }

    fn count_bad_segment(&mut self, _checksum: bool) {}

    fn tick(&mut self, _now: Nanos, _budget: usize, _send: impl FnMut(&Originated) -> bool) -> bool {
        self.turns += 1;
        assert!(!self.panics || self.turns < 100, "had enough");
        thread::yield_now();
        false
    }
}

fn workers(panics: &[bool]) -> Vec<(usize, Worker<Mem, Moody>)> {
    let cpu = crate::start::cores::allowed()[0];
    let worker = |(number, panics): (u16, &bool)| {
        let protocol = Moody { turns: 0, panics: *panics };
        (cpu, Worker::new(WorkerConfig::new(CoreId(number)), protocol, Vec::new()))
    };
    (0..).zip(panics).map(worker).collect()
}

#[test]
fn workers_run_until_they_are_told_to_stop() {
    let workers = workers(&[false, false]);
    let stats: Vec<_> = workers.iter().map(|(_, worker)| worker.stats()).collect();
    let mut team = Team::start(workers, RealClock::begin(), |_| Ok(())).expect("two threads");
    let begun = Instant::now();
    while stats.iter().any(|stats| stats.snapshot().turns_idle == 0) {
        assert!(begun.elapsed() < Duration::from_secs(10), "a worker does not turn");
        thread::yield_now();
    }
    assert_eq!(team.failure(), None);
    assert_eq!(team.stop(), Ok(()));
}

#[test]
fn a_panic_wakes_the_control_thread() {
    let mut team = Team::start(workers(&[false, true]), RealClock::begin(), |_| Ok(())).expect("two threads");
    let mut fds = [rustix::event::PollFd::new(&team.wake, rustix::event::PollFlags::IN)];
    let limit = rustix::event::Timespec { tv_sec: 10, tv_nsec: 0 };
    assert_eq!(rustix::event::poll(&mut fds, Some(&limit)), Ok(1), "nobody is woken");
    let cpu = crate::start::cores::allowed()[0];
    let why = format!("worker 1 on core {cpu}: panicked: had enough");
    assert_eq!(team.failure(), Some(why.as_str()));
    assert_eq!(team.stop(), Err(why));
}

#[test]
fn a_worker_that_cannot_begin_is_an_error_at_start() {
    let error = Team::start(workers(&[false]), RealClock::begin(), |_| Err::<(), _>("no room".to_owned()))
        .expect_err("not entered");
    assert!(error.ends_with(": no room"), "{error}");
    let mut far_away = workers(&[false]);
    far_away[0].0 = 100_000;
    let error = Team::start(far_away, RealClock::begin(), |_| Ok(())).expect_err("not pinned");
    assert!(error.starts_with("worker 0 on core 100000: cannot be pinned there"), "{error}");
}
