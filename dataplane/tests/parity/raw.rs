//! A raw packet socket on one device: frames out and in, exactly as they stand.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Instant;

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt,
    socket, sockopt,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::lab::Namespace;

/// Longer than any frame of the tests.
const FRAME_MAX: usize = 4096;
/// Octets that the socket holds for us: a full accept queue's worth of answers and then some.
const RECEIVE_BUFFER: usize = 8 << 20;

/// A socket that sees every frame that arrives on its device.
pub struct RawSocket {
    fd: OwnedFd,
    mac: [u8; 6],
}

impl RawSocket {
    /// Opens one on `device` of `namespace`.
    ///
    /// # Errors
    /// No such device, or no right (CAP_NET_RAW).
    pub fn open(namespace: &Namespace, device: &str) -> io::Result<Self> {
        namespace.enter(|| {
            let link = link_address(device)?;
            let mac = link.addr().ok_or_else(|| io::Error::other(format!("{device} has no MAC address")))?;
            let fd =
                socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)?;
            setsockopt(&fd, sockopt::RcvBufForce, &RECEIVE_BUFFER)?;
            bind(fd.as_raw_fd(), &link)?;
            Ok(Self { fd, mac })
        })?
    }

    /// The device's MAC address.
    pub fn mac(&self) -> [u8; 6] {
        self.mac
    }

    /// Sends one frame.
    ///
    /// # Errors
    /// The device is down, or its queue is full.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        send(self.fd.as_raw_fd(), frame, MsgFlags::empty())?;
        Ok(())
    }

    /// The next frame; `None` when none comes until `deadline`.
    ///
    /// # Errors
    /// The device went away.
    pub fn recv(&self, deadline: Instant) -> io::Result<Option<Vec<u8>>> {
        let mut frame = vec![0; FRAME_MAX];
        loop {
            match recv(self.fd.as_raw_fd(), &mut frame, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC) {
                Ok(len) => {
                    frame.truncate(len);
                    return Ok(Some(frame));
                }
                Err(nix::errno::Errno::EAGAIN) => {}
                Err(error) => return Err(error.into()),
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            let left = Timespec { tv_sec: left.as_secs() as _, tv_nsec: left.subsec_nanos().into() };
            match poll(&mut [PollFd::new(&self.fd.as_fd(), PollFlags::IN)], Some(&left)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// The device as the packet family addresses it.
fn link_address(device: &str) -> io::Result<LinkAddr> {
    getifaddrs()?
        .filter(|interface| interface.interface_name == device)
        .find_map(|interface| interface.address?.as_link_addr().copied())
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("no device {device}")))
}
