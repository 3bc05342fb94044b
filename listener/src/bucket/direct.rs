//! The any-address listeners, by port: one 32-bit word each, no hash, no probe, no growth.
//!
//! ```text
//!   31   25     24         23    22     21    0
//!  [ 0 ... | OCCUPIED | IPV6 | IPV4 | number  ]
//! ```
//! The word's place is its port, so port and answer are one load, as in a bucket. With neither family's bit set the
//! number is that of a node; nodes live as they do in a table.

use super::slab::Slab;
use super::{Full, simd};
use crate::sync::epoch::{self, Guard};
use crate::sync::{Arc, AtomicU32, AtomicUsize, Mutex, Ordering, lock};
use crate::types::{ListenerId, TcpPort};

const NUMBER: u32 = Wilds::NUMBER;
const IPV4: u32 = Wilds::IPV4;
const IPV6: u32 = Wilds::IPV6;
const OCCUPIED: u32 = Wilds::OCCUPIED;

const PORTS: usize = if cfg!(loom) { 4 } else { 1 << 16 };
const STRIPES: usize = if cfg!(loom) { 1 } else { 64 };

/// What a port holds.
#[derive(Debug)]
pub(crate) enum Wild<N> {
    /// One listener, and which families it takes: not neither.
    One { id: ListenerId, ipv4: bool, ipv6: bool },
    /// What `N` says.
    List(N),
}

/// The words as they are, for passes over many lanes, under a guard.
#[derive(Clone, Copy)]
pub(crate) struct Wilds<'g>(&'g [AtomicU32; PORTS]);

impl Wilds<'_> {
    pub(super) const NUMBER: u32 = (1 << 22) - 1;
    pub(super) const IPV4: u32 = 1 << 22;
    pub(super) const IPV6: u32 = 1 << 23;
    pub(super) const OCCUPIED: u32 = 1 << 24;

    /// The word of `port`. Acquire.
    #[inline(always)]
    pub(super) fn word(self, port: TcpPort) -> u32 {
        self.0[usize::from(port.0) % PORTS].load(Ordering::Acquire)
    }

    /// True if the word is one listener that takes IPv4.
    #[inline(always)]
    pub(super) const fn is_one_v4(word: u32) -> bool {
        word & Self::IPV4 != 0
    }

    /// The listener of such a word.
    #[inline(always)]
    pub(super) const fn id(word: u32) -> ListenerId {
        ListenerId(word & Self::NUMBER)
    }

    /// True if the word names a node.
    #[inline(always)]
    pub(super) const fn is_list(word: u32) -> bool {
        word & (Self::OCCUPIED | Self::IPV4 | Self::IPV6) == Self::OCCUPIED
    }
}

/// The wildcard's listeners; see the module's head.
pub(crate) struct Direct<N> {
    words: Box<[AtomicU32; PORTS]>,
    ports: AtomicUsize,
    stripes: Box<[Mutex<()>]>,
    nodes: Arc<Slab<N>>,
}

impl<N: Send + Sync + 'static> Direct<N> {
    /// No listeners. 256 KiB, of which only the ports in use are touched.
    pub(crate) fn new(lists_max: u32) -> Self {
        Self {
            words: Box::new(std::array::from_fn(|_| AtomicU32::new(0))),
            ports: AtomicUsize::new(0),
            stripes: (0..STRIPES).map(|_| Mutex::new(())).collect(),
            nodes: Arc::new(Slab::new(lists_max)),
        }
    }

    /// Ports with listeners; a hint while writers are at work, but never 0 while one stays.
    #[inline]
    pub(crate) fn ports(&self) -> usize {
        self.ports.load(Ordering::Relaxed)
    }

    /// The words, unless no port has listeners.
    #[inline]
    pub(crate) fn wilds<'g>(&'g self, _guard: &'g Guard) -> Option<Wilds<'g>> {
        (self.ports() > 0).then_some(Wilds(&self.words))
    }

    #[inline]
    fn word(&self, port: TcpPort) -> &AtomicU32 {
        &self.words[usize::from(port.0) % PORTS]
    }

    /// Asks for the port's line.
    #[inline]
    pub(crate) fn prefetch(&self, port: TcpPort) {
        simd::prefetch(std::ptr::from_ref(self.word(port)).cast());
    }

    /// What the port holds.
    #[inline]
    pub(crate) fn find<'g>(&'g self, port: TcpPort, _guard: &'g Guard) -> Option<Wild<&'g N>> {
        // SAFETY: loaded just now, under the guard, which the answer does not outlive.
        unsafe { self.held(self.word(port).load(Ordering::Acquire)) }
    }

    /// What a port's word says.
    ///
    /// # Safety
    /// Lifetime: `word` was loaded (Acquire, or under its stripe's lock) from this table, under a guard or that lock, which the
    /// answer does not outlive.
    #[inline]
    unsafe fn held(&self, word: u32) -> Option<Wild<&N>> {
        let number = word & NUMBER;
        if word & (IPV4 | IPV6) != 0 {
            return Some(Wild::One {
                id: ListenerId(number),
                ipv4: word & IPV4 != 0,
                ipv6: word & IPV6 != 0,
            });
        }
        if word & OCCUPIED == 0 {
            return None;
        }
        // SAFETY: lifetime: the caller's word; the node is released after its word was overwritten, which takes the lock, and
        // guards are gone.
        unsafe { self.nodes.get(number) }.map(Wild::List)
    }

    /// Edits what `port` holds, as [`super::Table::update`].
    ///
    /// # Errors
    /// [`Full`], from this function or from `edit`; all is then as before.
    pub(crate) fn update<R>(
        &self,
        port: TcpPort,
        edit: impl FnOnce(Option<Wild<&N>>) -> Result<(Option<Wild<N>>, R), Full>,
    ) -> Result<R, Full> {
        let stripe = lock(&self.stripes[usize::from(port.0) % STRIPES]);
        let old = self.word(port).load(Ordering::Relaxed);
        // SAFETY: loaded just now, under the stripe's lock, which is held beyond `edit`.
        let (new, result) = edit(unsafe { self.held(old) })?;
        let new = self.payload(new)?;
        if old == 0 && new != 0 {
            self.ports.fetch_add(1, Ordering::Relaxed);
        }
        self.word(port).store(new, Ordering::Release);
        if old != 0 && new == 0 {
            self.ports.fetch_sub(1, Ordering::Relaxed);
        }
        drop(stripe);
        if old != 0 && old & (IPV4 | IPV6) == 0 {
            let (nodes, number) = (Arc::clone(&self.nodes), old & NUMBER);
            epoch::defer(move || {
                // SAFETY: the only word that named the node was overwritten before, so references to it live under
                // guards that are gone by now. Each word is overwritten once.
                unsafe { nodes.release(number) }
            });
        }
        Ok(result)
    }

    fn payload(&self, held: Option<Wild<N>>) -> Result<u32, Full> {
        match held {
            None => Ok(0),
            Some(Wild::One { id, ipv4, ipv6 }) if id.0 <= NUMBER && (ipv4 || ipv6) => {
                let family = if ipv4 { IPV4 } else { 0 } | if ipv6 { IPV6 } else { 0 };
                Ok(OCCUPIED | family | id.0)
            }
            Some(Wild::One { .. }) => Err(Full),
            Some(Wild::List(node)) => {
                self.nodes.insert(node).map(|number| OCCUPIED | number).map_err(|_| Full)
            }
        }
    }
}
