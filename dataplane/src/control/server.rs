//! The server's end of the control socket: one thread, many clients, none of whom can hold it up.
//!
//! Everything is nonblocking and goes round by round ([`Server::turn`]): in one round each client gets at most one
//! read, one request and one write, and while a reply waits to be read nothing more is read from that client. So a
//! client costs at most one line and one reply of memory, and time only in its turn. What needs the workers' answer is
//! asked in one round and told in a later one ([`Service::call`]), so none of them can hold up the others either.

use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::task::Poll;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::proto::{self, CLIENTS_MAX, LINE_MAX, PATIENCE, READERS_MAX, Refusal, Reply, Request};
use crate::config::Readers;

/// Connections that one round takes in, so that a storm of them leaves time for those that are served.
const ACCEPTS_MAX: usize = 16;
/// Bytes that one round reads from one client.
const READ_MAX: usize = 16 * 1024;
/// How long a client is safe from being sent away for another one: time to say something.
const GRACE: Duration = Duration::from_millis(100);
/// How soon a request is looked at again that is under way.
const LOOK_EVERY: Duration = Duration::from_micros(200);
/// Bytes of a Unix socket's path, less its final zero and our `.new`.
const PATH_MAX: usize = 103;

/// Who is asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The connection: a number that is not used again.
    pub client: u64,
    /// The process's user when it connected.
    pub uid: u32,
}

/// What requests do.
pub trait Service {
    /// A round begins.
    fn round(&mut self) {}

    /// Fulfils one request, or begins to; never waits. What is pending is called again with the same request, every round
    /// and some thousand times a second, until it is ready or its client is gone. An error is what the client is told
    /// instead.
    fn call(&mut self, peer: Peer, request: &Request) -> Poll<Result<Reply, Refusal>>;

    /// The client is gone and says nothing more.
    fn gone(&mut self, client: u64);
}

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another server answers there.
    #[error(
        "the control socket {} is in use by another server; stop that one, or give this one another name or \
         control.socket", .0.display()
    )]
    InUse(PathBuf),
    /// A file that is no socket.
    #[error("{} is there and is no socket; remove it, or set control.socket to another path", .0.display())]
    NotASocket(PathBuf),
    /// More than fits into a socket's address.
    #[error("the control socket's path {} is longer than {PATH_MAX} bytes; set control.socket to a shorter one", .0.display())]
    TooLong(PathBuf),
    /// The system said no.
    #[error("cannot {doing} {}: {error}; run as a user who may, or set control.socket to another path", path.display())]
    Io {
        /// What could not be done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

/// The control socket and its clients. Dropping it removes the socket's file.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
    inode: u64,
    uid: u32,
    readers: Readers,
    clients: Vec<Client>,
    next_client: u64,
    accept_again: Option<Instant>,
    patience: Duration,
}

impl Server {
    /// Takes the path. Who connects from now on waits until the first [`Server::turn`].
    ///
    /// # Errors
    /// A server answers there already, or the system refuses; a socket that nobody answers on is replaced.
    pub fn bind(path: &Path) -> Result<Self, BindError> {
        let io = |doing, path: &Path| {
            let path = path.to_owned();
            move |error| BindError::Io { doing, path, error }
        };
        if path.as_os_str().len() > PATH_MAX {
            return Err(BindError::TooLong(path.to_owned()));
        }
        if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty() && !dir.exists()) {
            fs::DirBuilder::new().recursive(true).mode(0o755).create(dir).map_err(io("create", dir))?;
        }
        refuse_if_taken(path)?;
        // Under another name until the mode is right, then in one step to the name that clients know.
        let mut new = path.as_os_str().to_owned();
        new.push(".new");
        let new = PathBuf::from(new);
        match fs::remove_file(&new) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(io("replace", &new)(error)),
            _ => {}
        }
        let listener = UnixListener::bind(&new).map_err(io("create", &new))?;
        let inode = listener
            .set_nonblocking(true)
            .and_then(|()| fs::set_permissions(&new, fs::Permissions::from_mode(0o600)))
            .and_then(|()| fs::rename(&new, path))
            .and_then(|()| fs::symlink_metadata(path))
            .map_err(io("set up", path))?
            .ino();
        let uid = rustix::process::geteuid().as_raw();
        let (path, clients) = (path.to_owned(), Vec::with_capacity(CLIENTS_MAX));
        let (next_client, accept_again, patience) = (1, None, PATIENCE);
        let readers = Readers::Nobody;
        Ok(Self { listener, path, inode, uid, readers, clients, next_client, accept_again, patience })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Who may read from now on, beside root and this process's user. Clients that are there keep what they may.
    ///
    /// # Errors
    /// The socket's mode cannot be changed; then nobody else can connect.
    pub fn set_readers(&mut self, readers: &Readers) -> io::Result<()> {
        if self.readers == *readers {
            return Ok(());
        }
        self.readers = readers.clone();
        let mode = if self.readers == Readers::Nobody { 0o600 } else { 0o666 };
        fs::set_permissions(&self.path, fs::Permissions::from_mode(mode))
    }

    /// One round: waits until a client or one of `others` has something, or `timeout` has passed; then serves each
    /// client at most once.
    ///
    /// # Errors
    /// Only what makes waiting itself impossible.
    pub fn turn(
        &mut self,
        service: &mut impl Service,
        others: &[BorrowedFd<'_>],
        timeout: Duration,
    ) -> io::Result<()> {
        let (clients_ready, may_accept) = self.wait(others, timeout)?;
        service.round();
        for (client, ready) in self.clients.iter_mut().zip(clients_ready) {
            client.serve(service, ready);
        }
        if may_accept {
            self.accept(service);
        }
        let now = Instant::now();
        self.clients.retain(|client| {
            let keep = !client.is_over(now, self.patience);
            if !keep {
                service.gone(client.peer.client);
            }
            keep
        });
        Ok(())
    }

    /// Which clients have something, and whether somebody wants in.
    fn wait(&self, others: &[BorrowedFd<'_>], timeout: Duration) -> io::Result<(Vec<PollFlags>, bool)> {
        let accepting = self.accept_again.is_none_or(|at| Instant::now() >= at);
        let listener_flags = if accepting { PollFlags::IN } else { PollFlags::empty() };
        let mut fds = Vec::with_capacity(self.clients.len() + 1 + others.len());
        fds.extend(
            self.clients.iter().map(|client| PollFd::from_borrowed_fd(client.stream.as_fd(), client.wants())),
        );
        fds.push(PollFd::from_borrowed_fd(self.listener.as_fd(), listener_flags));
        fds.extend(others.iter().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)));
        let pending = self.clients.iter().any(Client::has_question);
        let again = self.accept_again.map_or(timeout, |at| at.saturating_duration_since(Instant::now()));
        let under_way = self.clients.iter().any(|client| client.asked.is_some());
        let again = if under_way { again.min(LOOK_EVERY) } else { again };
        let timeout = if pending { Duration::ZERO } else { timeout.min(again) };
        let timeout = Timespec {
            tv_sec: timeout.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        };
        match poll(&mut fds, Some(&timeout)) {
            // A signal is a reason to look round, as the caller does next.
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let flags = fds[..self.clients.len()].iter().map(PollFd::revents).collect();
        Ok((flags, fds[self.clients.len()].revents().contains(PollFlags::IN)))
    }

    fn accept(&mut self, service: &mut impl Service) {
        self.accept_again = None;
        for _ in 0..ACCEPTS_MAX {
            if self.clients.len() >= CLIENTS_MAX && !self.evict(service) {
                self.accept_again = Some(Instant::now() + GRACE);
                return;
            }
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error)
                    if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::ConnectionAborted) =>
                {
                    continue;
                }
                Err(error) => {
                    // No descriptor left, say. The connection still waits, so polling for it would spin.
                    tracing::warn!(%error, "cannot take in a control client; trying again in a second");
                    self.accept_again = Some(Instant::now() + Duration::from_secs(1));
                    return;
                }
            };
            let Ok(credentials) = rustix::net::sockopt::socket_peercred(&stream) else { continue };
            let uid = credentials.uid.as_raw();
            if stream.set_nonblocking(true).is_err() {
                continue;
            }
            let peer = Peer { client: self.next_client, uid };
            self.next_client += 1;
            let owner = uid == 0 || uid == self.uid;
            let mut client = Client::new(stream, peer, owner);
            if !owner && !self.readers.contains(uid) {
                client.refuse(
                    "only root and the user that runs the server may ask, and whom control.readers names",
                );
                tracing::warn!(uid, "refused a control client");
            } else if !owner && self.clients.iter().filter(|client| !client.owner).count() >= READERS_MAX {
                client.refuse(&format!("{READERS_MAX} readers are served already; try again later"));
            }
            self.clients.push(client);
        }
    }

    /// Sends away whoever has said nothing for longest; false if all were busy just now.
    fn evict(&mut self, service: &mut impl Service) -> bool {
        let Some(index) = (0..self.clients.len()).min_by_key(|index| self.clients[*index].progress) else {
            return true;
        };
        if self.clients[index].progress.elapsed() < GRACE {
            return false;
        }
        let client = self.clients.swap_remove(index);
        tracing::debug!(uid = client.peer.uid, "sent an idle control client away for a new one");
        service.gone(client.peer.client);
        true
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Only our own: another server may have replaced it if somebody removed it.
        if fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn refuse_if_taken(path: &Path) -> Result<(), BindError> {
    let io = |doing, error| BindError::Io { doing, path: path.to_owned(), error };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io("look at", error)),
        Ok(found) if !found.file_type().is_socket() => return Err(BindError::NotASocket(path.to_owned())),
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(BindError::InUse(path.to_owned())),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            tracing::info!(path = %path.display(), "replacing the control socket that an earlier run left behind");
            Ok(())
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(io("connect to", error)),
    }
}

/// One connection.
#[derive(Debug)]
struct Client {
    stream: UnixStream,
    peer: Peer,
    /// May change things.
    owner: bool,
    /// Bytes of lines that are not answered yet; at most [`LINE_MAX`] and one read.
    input: Vec<u8>,
    /// A request that is under way.
    asked: Option<Request>,
    /// What is left to send of the reply.
    output: Vec<u8>,
    sent: usize,
    /// When it last brought a whole line to its end, or took some of its reply.
    progress: Instant,
    /// Nothing more is read; it goes once its reply is sent.
    leaving: bool,
    /// It goes now.
    broken: bool,
}

impl Client {
    fn new(stream: UnixStream, peer: Peer, owner: bool) -> Self {
        let (input, asked, output, progress) = (Vec::new(), None, Vec::new(), Instant::now());
        Self { stream, peer, owner, input, asked, output, sent: 0, progress, leaving: false, broken: false }
    }

    /// What to wait for.
    fn wants(&self) -> PollFlags {
        match &self.asked {
            Some(_) => PollFlags::empty(),
            None if self.output.is_empty() => PollFlags::IN,
            None => PollFlags::OUT,
        }
    }

    /// It has asked something that nobody has looked at yet.
    fn has_question(&self) -> bool {
        self.has_line() && self.output.is_empty() && self.asked.is_none()
    }

    fn has_line(&self) -> bool {
        self.input.contains(&b'\n')
    }

    fn serve(&mut self, service: &mut impl Service, ready: PollFlags) {
        let idle = self.output.is_empty() && !self.leaving && self.asked.is_none();
        if idle && !self.has_line() && !ready.is_empty() {
            self.read();
        }
        if self.output.is_empty() && !self.leaving {
            self.answer(service);
        }
        // Nobody is there any more to read what it asked for.
        if self.asked.is_some() && ready.contains(PollFlags::HUP) {
            self.broken = true;
        }
        if !self.output.is_empty() {
            self.write();
        }
        // A hang-up is seen by reading, which waits for the writing; after one the reply goes nowhere.
        if ready.intersects(PollFlags::ERR | PollFlags::NVAL) {
            self.broken = true;
        }
    }

    fn read(&mut self) {
        let mut chunk = [0; READ_MAX];
        match self.stream.read(&mut chunk) {
            Ok(0) => self.leaving = true,
            Ok(count) => {
                if self.input.is_empty() {
                    self.progress = Instant::now();
                }
                self.input.extend_from_slice(&chunk[..count]);
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(_) => self.broken = true,
        }
    }

    fn answer(&mut self, service: &mut impl Service) {
        let request = match self.asked.take() {
            Some(request) => Ok(request),
            None => match self.next_request() {
                Some(request) => request,
                None => return,
            },
        };
        let reply = match request {
            Ok(request) => match service.call(self.peer, &request) {
                Poll::Ready(reply) => reply,
                Poll::Pending => {
                    self.asked = Some(request);
                    return;
                }
            },
            Err(refusal) => Err(refusal),
        };
        self.progress = Instant::now();
        self.output = proto::reply_line(&reply);
        self.sent = 0;
    }

    /// The next line as a request, or why it is none or none of this client's; none if there is no whole line.
    fn next_request(&mut self) -> Option<Result<Request, Refusal>> {
        let end = self.input.iter().position(|byte| *byte == b'\n');
        if end.unwrap_or(self.input.len()) > LINE_MAX {
            self.refuse(&format!("the request is longer than {LINE_MAX} bytes"));
            return None;
        }
        let end = end?;
        let request = proto::parse_request(&self.input[..end]).and_then(|request| {
            if request.is_for_owner() && !self.owner {
                let message =
                    "only root and the user that runs the server may do this; run it as one of them";
                return Err(Refusal { errno: Some("EPERM".into()), message: message.into() });
            }
            Ok(request)
        });
        self.input.drain(..=end);
        self.progress = Instant::now();
        Some(request)
    }

    /// Answers with `message` and ends.
    fn refuse(&mut self, message: &str) {
        self.input = Vec::new();
        self.output = proto::reply_line(&Err(Refusal::new(message)));
        self.sent = 0;
        self.leaving = true;
    }

    fn write(&mut self) {
        match self.stream.write(&self.output[self.sent..]) {
            Ok(count) => {
                self.sent += count;
                self.progress = Instant::now();
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(_) => self.broken = true,
        }
        if self.sent == self.output.len() {
            self.output = Vec::new();
            self.sent = 0;
        }
    }

    fn is_over(&self, now: Instant, patience: Duration) -> bool {
        let waited_for = self.asked.is_none() && (!self.output.is_empty() || !self.input.is_empty());
        let too_slow = waited_for && now.duration_since(self.progress) > patience;
        self.broken || too_slow || (self.leaving && self.output.is_empty())
    }
}

#[cfg(test)]
mod tests;
