//! What systemd hears of the run: datagrams (sd_notify(3)) that wait for nobody. The `sd-notify` crate's would wait for
//! room in the receiver's queue, and the control thread with them.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// The other end, if systemd started us with `Type=notify`; else nothing is sent.
#[derive(Debug)]
pub(super) struct Notifier {
    socket: Option<UnixDatagram>,
    /// The last one was not sent; said once.
    failed: bool,
}

impl Notifier {
    /// To the socket that `NOTIFY_SOCKET` names.
    pub(super) fn from_env() -> Self {
        let socket = env::var_os("NOTIFY_SOCKET").map(|name: OsString| open(&name)).transpose();
        let socket = socket.unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot notify systemd");
            None
        });
        Self { socket, failed: false }
    }

    /// Sends `state`, such as `READY=1`. It is lost if it cannot be sent now.
    pub(super) fn send(&mut self, state: &str) {
        let Some(socket) = &self.socket else { return };
        let sent = socket.send(state.as_bytes());
        if let Err(error) = &sent
            && !self.failed
        {
            tracing::warn!(%error, state, "cannot notify systemd");
        }
        self.failed = sent.is_err();
    }
}

fn open(name: &OsStr) -> io::Result<UnixDatagram> {
    let addr = match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.connect_addr(&addr)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receiver_that_does_not_read_is_not_waited_for() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("notify");
        let receiver = UnixDatagram::bind(&path).expect("a socket");
        let socket = open(path.as_os_str()).expect("it is there");
        let mut notifier = Notifier { socket: Some(socket), failed: false };
        // As many as the kernel's default queue has places, and far beyond.
        (0..2000).for_each(|_| notifier.send("WATCHDOG=1"));
        assert!(notifier.failed);
        let mut text = [0; 64];
        let len = receiver.recv(&mut text).expect("the first is there");
        assert_eq!(&text[..len], b"WATCHDOG=1");
        notifier.send("STOPPING=1");
        assert!(!notifier.failed, "there is room again");
    }

    #[test]
    fn names_without_a_file_are_reached_too() {
        let name = format!("hearken-test-{}", std::process::id());
        let addr = SocketAddr::from_abstract_name(&name).expect("a name");
        let receiver = UnixDatagram::bind_addr(&addr).expect("a socket");
        let socket = open(OsStr::new(&format!("@{name}"))).expect("it is there");
        Notifier { socket: Some(socket), failed: false }.send("READY=1");
        let mut text = [0; 64];
        let len = receiver.recv(&mut text).expect("a datagram");
        assert_eq!(&text[..len], b"READY=1");
    }
}
