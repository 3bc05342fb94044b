//! The keys of SYN cookies while a server runs: which ones are in use, and how they change.
//!
//! # Protocol
//! A change loses no handshake: first all cores learn the new generation, then it becomes the one that cookies are made
//! with, and the one before is still checked. In between the control thread waits until every core has it
//! ([`Stack::cookie_keys_taken`]); that is a few turns of a worker.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use listener::Stack;
use listener::syncookies::{CookieKey, CookieKeys};
use serde::{Deserialize, Serialize};

use super::proto::Refusal;
use crate::start::cookie_secret::{self, SecretError};

/// How long all workers may take to learn a generation: a turn takes microseconds, a preempted one milliseconds.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often they are asked meanwhile.
const PAUSE: Duration = Duration::from_micros(100);

/// Reply to `cookie_keys`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
        Ok(Self { file, keys, rotations: 0, since: Instant::now() })
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

    /// Takes what is in the file now, or draws a new generation and keeps the one before. `first` hears of the keys before any worker
    /// makes cookies with them.
    ///
    /// # Errors
    /// The file says nothing new or nothing usable, or a worker does not answer. Nothing has changed then, but that the
    /// workers may know the new generation already.
    pub fn rotate(
        &mut self,
        stack: &Stack,
        first: impl FnOnce(CookieKeys) -> Result<(), Refusal>,
    ) -> Result<CookieKeysReply, Refusal> {
        let next = self.next()?;
        let old = Some(self.keys.current).filter(|old| *old != next.current);
        first(CookieKeys { other: next.other.or(old), ..next })?;
        let known = next.current == self.keys.current || Some(next.current) == self.keys.other;
        if !known {
            give(stack, CookieKeys { other: Some(next.current), ..self.keys })?;
        }
        give(stack, next)?;
        (self.keys, self.rotations, self.since) = (next, self.rotations + 1, Instant::now());
        Ok(self.show())
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

/// Gives all cores `keys`, and waits until they have them.
fn give(stack: &Stack, keys: CookieKeys) -> Result<(), Refusal> {
    stack.set_cookie_keys(keys);
    let deadline = Instant::now() + PATIENCE;
    while !stack.cookie_keys_taken() {
        if Instant::now() > deadline {
            return Err(Refusal::new(format!(
                "a worker has not taken the keys within {} s; see \"hearken stats\" for late cores, then try again",
                PATIENCE.as_secs()
            )));
        }
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
