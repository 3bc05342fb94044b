//! The worker threads: std's, pinned, watched. One that ends before it is told to, by a panic or else, wakes the
//! control thread, and with it the run ends.

use std::any::Any;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::io::PacketIo;
use crate::protocol::Protocol;
use crate::worker::Worker;

/// How long all workers may take to begin.
const BEGIN_PATIENCE: Duration = Duration::from_secs(20);

/// What a worker tells the control thread.
enum News {
    Begun,
    Ended(Result<(), String>),
}

/// The threads.
#[derive(Debug)]
pub struct Team {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    news: Receiver<News>,
    wake: UnixStream,
    failure: Option<String>,
}

impl Team {
    /// Starts one thread for each worker, pinned to the core beside it, and waits until all poll. Each thread calls
    /// `enter` with its worker's place after it is pinned, and keeps what it gets until its worker has ended. Each has its
    /// own copy of `clock`.
    ///
    /// # Errors
    /// A thread that cannot start, be pinned, or enter; then none is left.
    pub fn start<I, P, C, G, E>(
        workers: Vec<(usize, Worker<I, P>)>,
        clock: C,
        enter: E,
    ) -> Result<Self, String>
    where
        C: Clock + Copy + Send + 'static,
        I: PacketIo + 'static,
        P: Protocol + 'static,
        E: Fn(usize) -> Result<G, String> + Clone + Send + 'static,
    {
        let (wake, waker) =
            UnixStream::pair().map_err(|error| format!("cannot make a socket pair: {error}"))?;
        let nonblocking = wake.set_nonblocking(true).and_then(|()| waker.set_nonblocking(true));
        nonblocking.map_err(|error| format!("cannot set up a socket pair: {error}"))?;
        let (waker, (sender, news)) = (Arc::new(waker), mpsc::channel());
        let stop = Arc::new(AtomicBool::new(false));
        let count = workers.len();
        let mut team = Self { stop, threads: Vec::with_capacity(count), news, wake, failure: None };
        for (number, (cpu, worker)) in workers.into_iter().enumerate() {
            let (enter, stop) = (enter.clone(), Arc::clone(&team.stop));
            let (sender, waker) = (sender.clone(), Arc::clone(&waker));
            let (mut worker, mut clock) = (worker, clock);
            let body = move || {
                let run = || {
                    pin(cpu)?;
                    let _entered = enter(number)?;
                    worker.begin()?;
                    let _ = sender.send(News::Begun);
                    worker.run(&stop, &mut clock);
                    Ok(())
                };
                let ended =
                    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| Err(panic_text(&*panic)));
                report(&sender, &waker, ended.map_err(|why| format!("worker {number} on core {cpu}: {why}")));
            };
            match thread::Builder::new().name(format!("worker-{number}")).spawn(body) {
                Ok(thread) => team.threads.push(thread),
                Err(error) => {
                    let _ = team.stop();
                    return Err(format!("cannot start a thread: {error}"));
                }
            }
        }
        team.wait_until_begun(count)?;
        Ok(team)
    }

    fn wait_until_begun(&mut self, count: usize) -> Result<(), String> {
        let begin = Instant::now();
        for _ in 0..count {
            let left = BEGIN_PATIENCE.saturating_sub(begin.elapsed());
            let failure = match self.news.recv_timeout(left) {
                Ok(News::Begun) => continue,
                Ok(News::Ended(Err(why))) => why,
                Ok(News::Ended(Ok(()))) | Err(RecvTimeoutError::Disconnected) => {
                    "a worker ended at once".into()
                }
                Err(RecvTimeoutError::Timeout) => format!("not all workers began within {BEGIN_PATIENCE:?}"),
            };
            let _ = self.stop();
            return Err(failure);
        }
        Ok(())
    }

    /// Becomes readable when a worker has ended.
    pub fn wake_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// Why the run must end, if a worker has ended by itself.
    pub fn failure(&mut self) -> Option<&str> {
        drain(&self.wake);
        while let Ok(news) = self.news.try_recv() {
            match news {
                News::Begun => {}
                News::Ended(Err(why)) => self.fail(why),
                News::Ended(Ok(())) if self.stop.load(Ordering::Relaxed) => {}
                News::Ended(Ok(())) => self.fail("a worker ended by itself".into()),
            }
        }
        self.failure.as_deref()
    }

    /// The first failure is the cause.
    fn fail(&mut self, why: String) {
        self.failure.get_or_insert(why);
    }

    /// Tells all workers to end and waits for them.
    ///
    /// # Errors
    /// What a worker ended by, if not by this.
    pub fn stop(&mut self) -> Result<(), String> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // Panics were caught and are in the news.
            let _ = thread.join();
        }
        self.failure().map_or(Ok(()), |why| Err(why.to_owned()))
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        let _ = self.stop();
    }
}

fn report(sender: &Sender<News>, waker: &UnixStream, ended: Result<(), String>) {
    let _ = sender.send(News::Ended(ended));
    // A full buffer has woken the reader already.
    let _ = (&*waker).write(&[1]);
}

/// Takes out whatever is there to be read; true if there was something.
pub(super) fn drain(mut stream: &UnixStream) -> bool {
    let (mut bytes, mut any) = ([0; 64], false);
    loop {
        match stream.read(&mut bytes) {
            Ok(0) => return any,
            Ok(_) => any = true,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return any,
        }
    }
}

/// Pins this thread.
pub(super) fn pin(cpu: usize) -> Result<(), String> {
    // core_affinity aborts the process on a number beyond the kernel's CPU set.
    if super::cores::allowed().contains(&cpu)
        && core_affinity::set_for_current(core_affinity::CoreId { id: cpu })
    {
        return Ok(());
    }
    Err("cannot be pinned there: the core is none that this process may use (see \"taskset -p $$\")".into())
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("panicked: {}", text.unwrap_or("no text"))
}

#[cfg(test)]
mod tests;
