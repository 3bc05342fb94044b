//! The keys of SYN cookies while a server runs: which ones are in use, and how they change.
//!
//! # Protocol
//! A change loses no handshake: first all cores learn the new generation, then it becomes the one that cookies are made
//! with, and the one before is still checked. In between every core must have it
//! ([`Stack::cookie_keys_taken`]); that is a few turns of a worker, for which the control thread does not wait: it looks again
//! in its next round ([`CookieDesk::turn`]).

use std::path::PathBuf;
use std::task::Poll;
use std::time::{Duration, Instant};

use listener::Stack;
use listener::syncookies::{CookieKey, CookieKeys};
use serde::{Deserialize, Serialize};

use super::proto::Refusal;
use crate::start::cookie_secret::{self, SecretError};

/// How long all workers may take to learn a generation: a turn takes microseconds, a preempted one milliseconds.
const PATIENCE: Duration = Duration::from_secs(1);

/// Reply to `cookie_keys`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct CookieKeysReply {
    /// The file they come from; none: they are random.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// How often they have changed since the start.
    pub rotations: u32,
    /// Whole seconds since they changed last.
    pub age_s: u64,
    /// What tells the generation that makes cookies from others: eight hexadecimal digits, which give nothing away.
    pub current: String,
    /// The same of the one that is only checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub other: Option<String>,
}

/// The keys in use.
#[derive(Debug)]
pub struct CookieDesk {
    file: Option<PathBuf>,
    keys: CookieKeys,
    rotations: u32,
    since: Instant,
    change: Option<Change>,
}

/// A change of keys that is under way.
#[derive(Debug)]
struct Change {
    /// Who waits for it.
    client: Option<u64>,
    next: CookieKeys,
    /// The workers are only to know the new generation yet.
    learning: bool,
    until: Instant,
    ended: Option<Result<CookieKeysReply, Refusal>>,
}

/// Why there are no keys to begin with.
#[derive(Debug, thiserror::Error)]
pub enum CookieKeysError {
    /// The file.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The generator.
    #[error("no random numbers: {0}; is /dev/urandom there?")]
    Random(#[from] std::io::Error),
}

impl CookieDesk {
    /// Takes the keys from `file`, or draws them.
    ///
    /// # Errors
    /// The file, or the random numbers.
    pub fn open(file: Option<PathBuf>) -> Result<Self, CookieKeysError> {
        let keys = match &file {
            Some(file) => cookie_secret::read(file)?,
            None => CookieKeys { current: cookie_secret::random()?, other: None, shared: false },
        };
        Ok(Self { file, keys, rotations: 0, since: Instant::now(), change: None })
    }

    /// What the cores begin with.
    pub fn keys(&self) -> CookieKeys {
        self.keys
    }

    /// What is in use.
    pub fn show(&self) -> CookieKeysReply {
        let name = |key: &CookieKey| format!("{:08x}", key.fingerprint());
        CookieKeysReply {
            file: self.file.clone(),
            rotations: self.rotations,
            age_s: self.since.elapsed().as_secs(),
            current: name(&self.keys.current),
            other: self.keys.other.as_ref().map(name),
        }
    }

    /// Takes what is in the file now, or draws a new generation and keeps the one before, for `client`: begins at the first
    /// call, to be called again until it is ready. `first` hears of the keys before any worker makes cookies with them.
    ///
    /// An error: the file says nothing new or nothing usable, or a worker does not answer. Nothing has changed then, but that
    /// the workers may know the new generation already.
    pub fn rotate(
        &mut self,
        stack: &Stack,
        client: u64,
        first: impl FnOnce(CookieKeys) -> Result<(), Refusal>,
    ) -> Poll<Result<CookieKeysReply, Refusal>> {
        match &mut self.change {
            None => match self.begin(stack, client, first) {
                Ok(()) => Poll::Pending,
                Err(refusal) => Poll::Ready(Err(refusal)),
            },
            Some(change) if change.client != Some(client) => Poll::Pending,
            Some(change) => match change.ended.take() {
                Some(ended) => {
                    self.change = None;
                    Poll::Ready(ended)
                }
                None => Poll::Pending,
            },
        }
    }

    fn begin(
        &mut self,
        stack: &Stack,
        client: u64,
        first: impl FnOnce(CookieKeys) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        let next = self.next()?;
        let old = Some(self.keys.current).filter(|old| *old != next.current);
        first(CookieKeys { other: next.other.or(old), ..next })?;
        let known = next.current == self.keys.current || Some(next.current) == self.keys.other;
        let given = if known { next } else { CookieKeys { other: Some(next.current), ..self.keys } };
        stack.set_cookie_keys(given);
        let until = Instant::now() + PATIENCE;
        self.change = Some(Change { client: Some(client), next, learning: !known, until, ended: None });
        Ok(())
    }

    /// One round: goes on with a change as far as the workers have taken it.
    pub fn turn(&mut self, stack: &Stack) {
        let Some(change) = self.change.as_mut().filter(|change| change.ended.is_none()) else { return };
        if !stack.cookie_keys_taken() {
            if Instant::now() > change.until {
                change.ended = Some(Err(Refusal::new(format!(
                    "a worker has not taken the keys within {} s; see \"hearken stats\" for late cores, then try again",
                    PATIENCE.as_secs()
                ))));
            }
        } else if std::mem::take(&mut change.learning) {
            stack.set_cookie_keys(change.next);
            change.until = Instant::now() + PATIENCE;
        } else {
            (self.keys, self.rotations, self.since) = (change.next, self.rotations + 1, Instant::now());
            let reply = self.show();
            tracing::info!(current = reply.current, "cookie keys changed");
            if let Some(change) = &mut self.change {
                change.ended = Some(Ok(reply));
            }
        }
        // Nobody waits for it.
        self.change.take_if(|change| change.client.is_none() && change.ended.is_some());
    }

    /// The client does not wait any more; a change that it began goes on.
    pub fn gone(&mut self, client: u64) {
        if let Some(change) = self.change.as_mut().filter(|change| change.client == Some(client)) {
            change.client = None;
        }
        self.change.take_if(|change| change.client.is_none() && change.ended.is_some());
    }

    fn next(&self) -> Result<CookieKeys, Refusal> {
        let Some(file) = &self.file else {
            let current = cookie_secret::random().map_err(CookieKeysError::from);
            let current = current.map_err(|error| Refusal::new(error.to_string()))?;
            return Ok(CookieKeys { current, other: Some(self.keys.current), shared: false });
        };
        let next = cookie_secret::read(file).map_err(|error| Refusal::new(error.to_string()))?;
        if next == self.keys {
            return Err(Refusal::new(format!(
                "{} holds what is in use already; write a new first line above the old one, then try again",
                file.display()
            )));
        }
        Ok(next)
    }
}

#[cfg(test)]
mod tests;
