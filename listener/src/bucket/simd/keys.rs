//! Where the passes over a burst find its keys: in rows, or in columns.

use super::{Isa, Located, STEP};
use crate::bucket::{LANES, Mix};
use crate::inet_hashtables::ListenKey;
use crate::types::TcpPort;

/// The keys of a burst, [`LANES`] at most, in steps of [`STEP`]. What stands in the last step's lanes beyond the keys is
/// looked up like a key, and its answer is dropped.
///
/// # Safety
/// Bounds, the duty of who implements it: `locate` leaves the writing of places to `I`, whose duty it is there.
pub(crate) unsafe trait Keys: Copy {
    fn len(self) -> usize;

    /// The first [`LANES`] keys, of so many: with their number known the loops over them are unrolled.
    #[cfg_attr(any(loom, hearken_portable), allow(dead_code, reason = "the portable set does not ask"))]
    fn whole(self) -> Self;

    /// [`Isa::locate`] of step `at`, or the like of it.
    ///
    /// # Safety
    /// The machine has the instruction set of `I`.
    unsafe fn locate<I: Isa>(self, at: usize, mix: &Mix, bits: u32, lanes: Located<'_>) -> u64;

    /// Our ports in step `at`, a whole one, by lane.
    fn ports(self, at: usize) -> impl Fn(usize) -> TcpPort;

    /// Our port in key number `key`.
    fn port(self, key: usize) -> TcpPort;

    /// True if some key is not IPv4.
    fn other_family(self) -> bool;
}

// SAFETY: `locate` calls the one of `I`.
unsafe impl Keys for &[ListenKey] {
    #[inline(always)]
    fn len(self) -> usize {
        <[ListenKey]>::len(self)
    }

    #[inline(always)]
    fn whole(self) -> Self {
        &self[..LANES]
    }

    #[inline(always)]
    unsafe fn locate<I: Isa>(self, at: usize, mix: &Mix, bits: u32, lanes: Located<'_>) -> u64 {
        let keys = &self[at * STEP..];
        let padded;
        let keys = match keys.first_chunk() {
            Some(keys) => keys,
            None => {
                padded = std::array::from_fn(|lane| keys[lane % keys.len()]);
                &padded
            }
        };
        // SAFETY: the caller's word on the instruction set.
        unsafe { I::locate(keys, mix, bits, lanes) }
    }

    #[inline(always)]
    fn ports(self, at: usize) -> impl Fn(usize) -> TcpPort {
        let keys = &self.as_chunks::<STEP>().0[at];
        |lane| keys[lane].flow.dport
    }

    #[inline(always)]
    fn port(self, key: usize) -> TcpPort {
        self[key].flow.dport
    }

    #[inline(always)]
    fn other_family(self) -> bool {
        self.iter().any(|key| !key.flow.is_v4())
    }
}

/// IPv4 keys in columns, which are equally long: our address, and both ports, ours in the lower half.
#[derive(Clone, Copy)]
pub(crate) struct Columns<'a> {
    pub(crate) daddr: &'a [u32],
    pub(crate) ports: &'a [u32],
}

/// Step `at` of a column.
#[inline(always)]
fn step<'a>(column: &'a [u32], at: usize, padded: &'a mut [u32; STEP]) -> &'a [u32; STEP] {
    let column = &column[at * STEP..];
    match column.first_chunk() {
        Some(words) => words,
        None => {
            *padded = std::array::from_fn(|lane| column[lane % column.len()]);
            padded
        }
    }
}

// SAFETY: `locate` calls the one of `I`.
unsafe impl Keys for Columns<'_> {
    #[inline(always)]
    fn len(self) -> usize {
        self.daddr.len()
    }

    #[inline(always)]
    fn whole(self) -> Self {
        Self { daddr: &self.daddr[..LANES], ports: &self.ports[..LANES] }
    }

    #[inline(always)]
    unsafe fn locate<I: Isa>(self, at: usize, mix: &Mix, bits: u32, lanes: Located<'_>) -> u64 {
        let (mut daddr, mut ports) = ([0; STEP], [0; STEP]);
        let (daddr, ports) = (step(self.daddr, at, &mut daddr), step(self.ports, at, &mut ports));
        // SAFETY: the caller's word on the instruction set.
        unsafe { I::locate_columns(daddr, ports, mix, bits, lanes) };
        0
    }

    #[inline(always)]
    fn ports(self, at: usize) -> impl Fn(usize) -> TcpPort {
        let ports = &self.ports.as_chunks::<STEP>().0[at];
        |lane| TcpPort(ports[lane] as u16)
    }

    #[inline(always)]
    fn port(self, key: usize) -> TcpPort {
        TcpPort(self.ports[key] as u16)
    }

    #[inline(always)]
    fn other_family(self) -> bool {
        false
    }
}
