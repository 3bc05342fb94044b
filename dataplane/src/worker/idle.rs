//! What a worker does when no device has a frame.

use std::time::Duration;

use super::Worker;
use crate::clock::Clock;
use crate::io::PacketIo;
use crate::protocol::Protocol;

/// What a worker does when no device has a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Idle {
    /// Asks again at once.
    #[default]
    Spin,
    /// Tells the processor that it spins, so that a sibling thread or the power budget gains.
    Pause,
    /// Offers the core to the kernel's scheduler: for machines with more threads than cores. A system call.
    Yield,
    /// Sleeps until a device raises an interrupt: for boxes that are idle most of the time. System calls.
    Interrupt,
    /// Polls while frames come, then sleeps: until the next one comes where every device can tell (`net_af_xdp`), else for moments that
    /// grow to 100 µs. For machines without a core to give. System calls while it is idle.
    Adaptive,
}

/// Idle turns before a worker sleeps: frames that follow each other closely are polled for.
const TURNS_BEFORE_SLEEP: u32 = 256;
/// The same where a frame ends the sleep and a turn is a system call: a server on the same core gets it at once.
const TURNS_BEFORE_WAIT: u32 = 8;
/// The first sleep of [`Idle::Adaptive`], and the longest: what a frame waits at most that comes to an idle worker.
const NAP_MIN: Duration = Duration::from_micros(10);
/// See [`NAP_MIN`].
const NAP_MAX: Duration = Duration::from_micros(100);
/// So many sleeps of one length before it doubles.
const NAPS: u32 = 16;
/// How late the kernel may end a sleep, in nanoseconds, in place of its usual 50 µs.
const TIMER_SLACK_NS: u64 = 1_000;
/// How long a worker sleeps at most, and so how late it may see what no device tells: a command of the control side, a
/// segment from another worker.
const SLEEP_MAX: Duration = Duration::from_millis(10);

impl<I: PacketIo, P: Protocol> Worker<I, P> {
    /// Makes ready for [`Idle::Interrupt`] and [`Idle::Adaptive`], on the thread that will run.
    ///
    /// # Errors
    /// A device without receive interrupts.
    pub fn begin(&mut self) -> Result<(), String> {
        if self.config.idle == Idle::Interrupt {
            for port in &mut self.ports {
                port.io.add_interrupt()?;
            }
        }
        if self.config.idle == Idle::Adaptive {
            self.waits = self.ports.iter_mut().all(|port| port.io.add_interrupt().is_ok());
            let slack = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(TIMER_SLACK_NS));
            slack.map_err(|error| format!("cannot ask for timely ends of sleeps: {error}"))?;
        }
        Ok(())
    }

    /// After `turns` idle turns in a row.
    #[inline]
    pub(super) fn idle<C: Clock>(&mut self, turns: u32, clock: &mut C) {
        match self.config.idle {
            Idle::Spin => {}
            Idle::Pause => std::hint::spin_loop(),
            Idle::Yield => {
                std::thread::yield_now();
                self.slept(clock);
            }
            Idle::Interrupt if turns < TURNS_BEFORE_SLEEP => {}
            Idle::Interrupt => self.sleep(clock),
            Idle::Adaptive if self.waits && turns < TURNS_BEFORE_WAIT => {}
            Idle::Adaptive if self.waits => self.sleep(clock),
            Idle::Adaptive if turns < TURNS_BEFORE_SLEEP => std::hint::spin_loop(),
            Idle::Adaptive => self.nap(turns - TURNS_BEFORE_SLEEP, clock),
        }
    }

    /// Sleeps for the `naps`-th time in a row.
    #[cold]
    fn nap<C: Clock>(&mut self, naps: u32, clock: &mut C) {
        let wanted = NAP_MIN.saturating_mul(1 << (naps / NAPS).min(8)).min(NAP_MAX);
        let timer = self.protocol.next_timer().map(|at| Duration::from_nanos(at.since(clock.now())));
        std::thread::sleep(timer.map_or(wanted, |timer| timer.min(wanted)));
        self.slept(clock);
    }

    /// The time since the last turn was not the worker's, by its own choice.
    fn slept<C: Clock>(&mut self, clock: &mut C) {
        let woken = clock.now();
        if let Some(before) = self.turned.replace(woken) {
            self.stats.slept(woken.since(before));
        }
    }

    /// Sleeps until a frame comes or a timer is due.
    #[cold]
    fn sleep<C: Clock>(&mut self, clock: &mut C) {
        self.ports.iter_mut().for_each(|port| port.io.arm_interrupt(true));
        // What came before the interrupt was armed raises none.
        if self.poll(clock) == 0 {
            let now = clock.now();
            let timer = self.protocol.next_timer().map(|at| Duration::from_nanos(at.since(now)));
            let limit = timer.map_or(SLEEP_MAX, |timer| timer.min(SLEEP_MAX));
            if !limit.is_zero() {
                I::wait(limit);
            }
            self.slept(clock);
        }
        self.ports.iter_mut().for_each(|port| port.io.arm_interrupt(false));
    }
}
