//! A raw packet socket on one device: frames out and in, exactly as they stand; on request all of them in one VLAN.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Instant;

use nix::ifaddrs::getifaddrs;
use nix::libc;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, bind, send, setsockopt, socket,
    sockopt,
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
    /// The tag that is put into what goes out, and taken out of what comes with it.
    pub tci: Option<u16>,
}

/// Where a VLAN tag stands in a frame, and how many octets it has.
const TAG_AT: usize = 12;
const TAG_LEN: usize = 4;

/// Stands for a tag that is missing.
const NO_TAG: u16 = 0x0fff;

/// The TPID of a customer's tag.
const TPID_8021Q: u16 = 0x8100;

fn tag(tpid: u16, tci: u16) -> [u8; TAG_LEN] {
    let ([t0, t1], [hi, lo]) = (tpid.to_be_bytes(), tci.to_be_bytes());
    [t0, t1, hi, lo]
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
            set_auxdata(&fd)?;
            bind(fd.as_raw_fd(), &link)?;
            Ok(Self { fd, mac, tci: None })
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
        match self.tci {
            Some(tci) if frame.len() >= TAG_AT => {
                let tagged = [&frame[..TAG_AT], &tag(TPID_8021Q, tci), &frame[TAG_AT..]].concat();
                send(self.fd.as_raw_fd(), &tagged, MsgFlags::empty())?;
            }
            _ => {
                send(self.fd.as_raw_fd(), frame, MsgFlags::empty())?;
            }
        }
        Ok(())
    }

    /// The next frame; `None` when none comes until `deadline`.
    ///
    /// # Errors
    /// The device went away.
    pub fn recv(&self, deadline: Instant) -> io::Result<Option<Vec<u8>>> {
        loop {
            match recv_tagged(&self.fd) {
                Ok((frame, found)) if found == self.tci.map(|tci| (TPID_8021Q, tci)) => {
                    return Ok(Some(frame));
                }
                // Another tag shows, and so does none where there should be one.
                Ok((mut frame, found)) => {
                    let (tpid, tci) = found.unwrap_or((TPID_8021Q, NO_TAG));
                    frame.splice(TAG_AT..TAG_AT, tag(tpid, tci));
                    return Ok(Some(frame));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
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

/// Asks for the tag of each frame, which the kernel takes out before anybody sees it; no crate in use can.
fn set_auxdata(fd: &OwnedFd) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY:
    // - Bounds: the kernel reads as many octets from `on` as it has.
    // - Lifetime: `fd` is open and `on` alive until the call returns; neither is kept.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_AUXDATA,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A frame, and TPID and TCI of the tag that it came with.
type Tagged = (Vec<u8>, Option<(u16, u16)>);

/// The next frame that is there.
fn recv_tagged(fd: &OwnedFd) -> io::Result<Tagged> {
    let mut frame = vec![0u8; FRAME_MAX];
    let mut control = [0u64; 8];
    let mut part = libc::iovec { iov_base: frame.as_mut_ptr().cast(), iov_len: frame.len() };
    // SAFETY:
    // - A `msghdr` of zeros is one without address, parts and control data.
    // - Bounds: the kernel writes at most `frame.len()` octets to `frame` and the size of `control` to it, which is
    //   aligned for a `cmsghdr`.
    // - The pointer that CMSG_FIRSTHDR gives is null or a `cmsghdr` in `control`, whose data the kernel wrote: a
    //   `tpacket_auxdata` if level and type say so. It is read unaligned.
    // - Lifetime: all of it lives until this function returns.
    unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control);
        let len = libc::recvmsg(fd.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT);
        let Ok(len) = usize::try_from(len) else { return Err(io::Error::last_os_error()) };
        frame.truncate(len);
        let head = libc::CMSG_FIRSTHDR(&raw const message);
        if head.is_null()
            || (*head).cmsg_level != libc::SOL_PACKET
            || (*head).cmsg_type != libc::PACKET_AUXDATA
        {
            return Ok((frame, None));
        }
        let aux = libc::CMSG_DATA(head).cast::<libc::tpacket_auxdata>().read_unaligned();
        let tagged = aux.tp_status & libc::TP_STATUS_VLAN_VALID != 0;
        Ok((frame, tagged.then_some((aux.tp_vlan_tpid, aux.tp_vlan_tci))))
    }
}

/// The device as the packet family addresses it.
fn link_address(device: &str) -> io::Result<LinkAddr> {
    getifaddrs()?
        .filter(|interface| interface.interface_name == device)
        .find_map(|interface| interface.address?.as_link_addr().copied())
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("no device {device}")))
}
