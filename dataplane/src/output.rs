//! Standard output: for a server with a bound on how long it waits for whoever reads.

use std::fs::File;
use std::io::{self, ErrorKind, Write, stdout};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Octets of one write: what a pipe that is ready takes without waiting (`PIPE_BUF`).
const CHUNK: usize = 4096;

/// A file, socket, pipe or terminal that is written without a buffer.
#[derive(Debug)]
pub struct Output {
    file: File,
    /// Nothing is written any more after this time.
    until: Option<Duration>,
    spent: Duration,
}

impl Output {
    /// Standard output. With `patience` it fails (`TimedOut`) once its readers have kept it waiting for so long, all waits
    /// together.
    ///
    /// # Errors
    /// There is no descriptor left.
    pub fn stdout(patience: Option<Duration>) -> io::Result<Self> {
        Ok(Self::new(stdout().as_fd().try_clone_to_owned()?.into(), patience))
    }

    fn new(file: File, patience: Option<Duration>) -> Self {
        Self { file, until: patience, spent: Duration::ZERO }
    }

    /// Waits until something can be written.
    fn wait(&mut self) -> io::Result<()> {
        let left = self.until.map(|until| until.saturating_sub(self.spent));
        let timeout = left.map(|left| Timespec {
            tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        });
        let begun = Instant::now();
        let ready = poll(&mut [PollFd::new(&self.file, PollFlags::OUT)], timeout.as_ref());
        self.spent += begun.elapsed();
        match ready {
            Ok(0) => Err(io::Error::new(ErrorKind::TimedOut, "nobody reads it")),
            Ok(_) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl Write for Output {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        if self.until.is_some() {
            self.wait()?;
        }
        match self.file.write(&octets[..octets.len().min(CHUNK)]) {
            // Somebody has made it nonblocking.
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.wait()?;
                Err(ErrorKind::Interrupted.into())
            }
            written => written,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::OwnedFd;

    use super::*;

    #[test]
    fn a_reader_that_does_not_read_is_not_waited_for() {
        let (mut reader, writer) = io::pipe().expect("a pipe");
        let mut output = Output::new(File::from(OwnedFd::from(writer)), Some(Duration::from_millis(50)));
        let error = output.write_all(&[b'x'; 1 << 20]).expect_err("a pipe holds less");
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert_eq!(output.write(b"y").map_err(|error| error.kind()), Err(ErrorKind::TimedOut), "it stays so");
        drop(output);
        let mut held = Vec::new();
        reader.read_to_end(&mut held).expect("a pipe");
        assert!(!held.is_empty() && held.len().is_multiple_of(CHUNK));
    }

    #[test]
    fn a_reader_that_is_gone_is_a_broken_pipe() {
        let (reader, writer) = io::pipe().expect("a pipe");
        drop(reader);
        for patience in [None, Some(Duration::from_secs(1))] {
            let file = File::from(OwnedFd::from(writer.try_clone().expect("a descriptor")));
            let error = Output::new(file, patience).write_all(b"x").expect_err("nobody reads");
            assert_eq!(error.kind(), ErrorKind::BrokenPipe);
        }
    }

    #[test]
    fn who_waits_for_ever_gets_everything() {
        let (mut reader, writer) = io::pipe().expect("a pipe");
        let mut output = Output::new(File::from(OwnedFd::from(writer)), None);
        let writer = std::thread::spawn(move || output.write_all(&[b'x'; 1 << 20]));
        let mut all = Vec::new();
        reader.read_to_end(&mut all).expect("a pipe");
        writer.join().expect("no panic").expect("written");
        assert_eq!(all.len(), 1 << 20);
    }
}
