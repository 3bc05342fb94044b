//! The kernel's own listeners in this network namespace (`src/bpf/listeners.bpf.c`).

use std::io::Read;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use libbpf_rs::{Iter, Link, MapHandle, Object, ObjectBuilder, RingBuffer, RingBufferBuilder};

use crate::BpfError;
use crate::maps::map_of;

static OBJECT: &crate::Aligned<[u8]> =
    &crate::Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/listeners.bpf.o")));

/// Octets of `struct row`.
const ROW_LEN: usize = 48;

/// Why the kernel keeps a listener's SYNs: what a cookie of ours cannot carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Left {
    /// Multipath TCP.
    pub mptcp: bool,
    /// TCP_MD5SIG keys.
    pub md5: bool,
    /// TCP-AO keys.
    pub ao: bool,
    /// TCP_FASTOPEN.
    pub fastopen: bool,
}

impl Left {
    /// The reason for people; none if there is none.
    pub fn reason(self) -> Option<&'static str> {
        match self {
            Self { mptcp: true, .. } => Some("it speaks MPTCP"),
            Self { md5: true, .. } => Some("it has MD5 keys"),
            Self { ao: true, .. } => Some("it has TCP-AO keys"),
            Self { fastopen: true, .. } => Some("it takes TCP Fast Open"),
            _ => None,
        }
    }
}

/// A listener of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelListener {
    /// Local address and port. An IPv6 one may serve IPv4 as well: see `v6only`.
    pub addr: SocketAddr,
    /// `IPV6_V6ONLY`; false for IPv4.
    pub v6only: bool,
    /// `SO_REUSEPORT`
    pub reuseport: bool,
    /// The interface that it is bound to; 0: none.
    pub bound_dev: u32,
    /// The socket's user.
    pub uid: u32,
    /// The socket's inode, by which /proc tells its process.
    pub inode: u64,
    /// Connections that wait for accept.
    pub recv_q: u32,
    /// How many may.
    pub backlog: u32,
    /// Why its SYNs stay with the kernel.
    pub left: Left,
}

/// The kernel's listeners, and word of changes.
pub struct Listeners {
    iterator: Link,
    // Attached as long as it is held.
    _tracepoint: Link,
    _object: Object,
    map: MapHandle,
    ring: RingBuffer<'static>,
    changed: Arc<AtomicBool>,
}

impl Listeners {
    /// Loads the programs and begins to watch.
    ///
    /// # Errors
    /// What the kernel lacks, or why it refuses.
    pub fn watch() -> Result<Self, BpfError> {
        crate::support::btf()?;
        let load = |source| BpfError::Load { program: "hearken_listeners", source };
        let opened = ObjectBuilder::default().open_memory(&OBJECT.0).map_err(load)?;
        let object = opened.load().map_err(load)?;
        let link = |name: &str| {
            let program = object.progs_mut().find(|program| program.name() == name);
            let program = program.ok_or_else(|| load(crate::error::missing("no such program")))?;
            program.attach().map_err(load)
        };
        let (iterator, tracepoint) = (link("hearken_listeners")?, link("hearken_changes")?);
        let map = map_of(&object, "changes")?;
        let changed = Arc::new(AtomicBool::new(true));
        let note = Arc::clone(&changed);
        let mut builder = RingBufferBuilder::new();
        let heard = move |_: &[u8]| {
            note.store(true, Ordering::Relaxed);
            0
        };
        builder.add(&map, heard).map_err(load)?;
        let ring = builder.build().map_err(load)?;
        Ok(Self { iterator, _tracepoint: tracepoint, _object: object, map, ring, changed })
    }

    /// Becomes readable when a listener has come or gone, in any network namespace.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.map.as_fd()
    }

    /// True if a listener has come or gone since the last call; the first call says so too.
    pub fn changed(&self) -> bool {
        // An error here leaves notes unread, and the next call reads them.
        let _ = self.ring.consume();
        self.changed.swap(false, Ordering::Relaxed)
    }

    /// All listeners of this thread's network namespace.
    ///
    /// # Errors
    /// The kernel does not list them.
    pub fn list(&self) -> Result<Vec<KernelListener>, BpfError> {
        let mut iter =
            Iter::new(&self.iterator).map_err(|source| BpfError::List(std::io::Error::other(source)))?;
        let (mut octets, mut piece) = (Vec::new(), vec![0; 64 * 1024]);
        loop {
            match iter.read(&mut piece) {
                Ok(0) => break,
                Ok(read) => octets.extend_from_slice(&piece[..read]),
                // Many connections and no listener among them: the kernel wants to be asked on.
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(BpfError::List(error)),
            }
        }
        Ok(octets.chunks_exact(ROW_LEN).filter_map(read_row).collect())
    }
}

/// `struct row`.
fn read_row(row: &[u8]) -> Option<KernelListener> {
    let word = |at: usize| Some(u32::from_ne_bytes(*row.get(at..)?.first_chunk()?));
    let addr: [u8; 16] = *row.first_chunk()?;
    let inode = u64::from_ne_bytes(*row.get(16..)?.first_chunk()?);
    let port = u16::from_ne_bytes(*row.get(40..)?.first_chunk()?);
    let [family, v6only, reuseport, left] = *row.get(42..)?.first_chunk()?;
    let addr = Ipv6Addr::from(addr);
    let ip = match addr.to_ipv4_mapped() {
        Some(v4) if family == 2 => IpAddr::V4(v4),
        _ => IpAddr::V6(addr),
    };
    let bit = |bit: u8| left & bit != 0;
    Some(KernelListener {
        addr: SocketAddr::new(ip, port),
        v6only: v6only != 0,
        reuseport: reuseport != 0,
        bound_dev: word(24)?,
        uid: word(28)?,
        inode,
        recv_q: word(32)?,
        backlog: word(36)?,
        left: Left { mptcp: bit(1), md5: bit(2), ao: bit(4), fastopen: bit(8) },
    })
}
