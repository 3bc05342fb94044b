//! The client's end of the control socket: asks one thing at a time and waits for the reply.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::proto::{self, Refusal, ReplyLine, Request, VERSION};

/// How long a server may take: one that still starts answers once its workers run.
const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes of the longest reply that is read: all counters of all cores, several times over.
const REPLY_MAX: u64 = 16 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The file is not there.
    #[error(
        "no server listens at {}: there is no such socket; start one with \"hearken run\", or say where it \
         is with --socket PATH or --config FILE", .0.display()
    )]
    NoSocket(PathBuf),
    /// The file is there, and nobody behind it.
    #[error(
        "no server listens at {}: the socket was left by a run that was killed; start one with \
         \"hearken run\"", .0.display()
    )]
    Stale(PathBuf),
    /// Not ours to ask.
    #[error("no right to use {}: it belongs to another user; run this as root or as the server's user", .0.display())]
    NoRight(PathBuf),
    /// The server said no.
    #[error("{0}")]
    Refused(#[from] Refusal),
    /// The connection failed in between.
    #[error("the server at {} did not answer: {error}; is it alive? (see its log)", path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// It answered something else.
    #[error("the server at {} answered something that this version does not understand: {found}", path.display())]
    NotUnderstood {
        /// The socket.
        path: PathBuf,
        /// What it was.
        found: String,
    },
}

/// A connection to a server.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Connects to the server at `path`.
    ///
    /// # Errors
    /// Nobody there, or no right.
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        let stream = UnixStream::connect(path).and_then(|stream| {
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            Ok(stream)
        });
        let path = path.to_owned();
        match stream {
            Ok(stream) => Ok(Self { path, stream: BufReader::new(stream) }),
            Err(error) => Err(match error.kind() {
                ErrorKind::NotFound => ClientError::NoSocket(path),
                ErrorKind::ConnectionRefused => ClientError::Stale(path),
                ErrorKind::PermissionDenied => ClientError::NoRight(path),
                _ => ClientError::Io { path, error },
            }),
        }
    }

    /// Sends `request` and waits for what [`Request`] names as its reply.
    ///
    /// # Errors
    /// [`ClientError::Refused`] is the server's answer; all others mean that there was none.
    pub fn call<T: DeserializeOwned>(&mut self, request: &Request) -> Result<T, ClientError> {
        let line = self.exchange(&proto::request_line(request)).map_err(|error| {
            let path = self.path.clone();
            ClientError::Io { path, error }
        })?;
        let not_understood = |found: String| ClientError::NotUnderstood { path: self.path.clone(), found };
        let reply: ReplyLine<T> =
            serde_json::from_slice(&line).map_err(|error| not_understood(error.to_string()))?;
        match reply {
            ReplyLine { v: VERSION, ok: Some(reply), .. } => Ok(reply),
            ReplyLine { v: VERSION, error: Some(refusal), .. } => Err(refusal.into()),
            ReplyLine { v, .. } => Err(not_understood(format!("version {v}"))),
        }
    }

    fn exchange(&mut self, request: &[u8]) -> io::Result<Vec<u8>> {
        match self.stream.get_mut().write_all(request) {
            // Turned away: why, is there to be read.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
            written => written?,
        }
        let mut line = Vec::new();
        self.stream.by_ref().take(REPLY_MAX).read_until(b'\n', &mut line)?;
        match line.last() {
            Some(b'\n') => Ok(line),
            _ => Err(io::Error::new(ErrorKind::UnexpectedEof, "it closed the connection")),
        }
    }
}
