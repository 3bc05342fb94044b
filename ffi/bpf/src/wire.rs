//! Programs for measurements on a veth (`src/bpf/wire.bpf.c`): what the wire itself costs.

use std::os::fd::AsFd;

use libbpf_rs::{Object, ObjectBuilder, Xdp, XdpFlags};

use crate::BpfError;
use crate::maps::{map_of, sums};

static OBJECT: &crate::Aligned<[u8]> =
    &crate::Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/wire.bpf.o")));

fn load(program: &'static str) -> Result<Object, BpfError> {
    let opened = ObjectBuilder::default().open_memory(&OBJECT.0).and_then(|open| open.load());
    opened.map_err(|source| BpfError::Load { program, source })
}

fn index(ifindex: u32) -> i32 {
    i32::try_from(ifindex).unwrap_or(i32::MAX)
}

/// What an XDP program of a measurement does with every frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Does {
    /// Drops it: what is left is the wire's cost.
    Drop,
    /// Passes it on: what a veth pays for any XDP program.
    Pass,
}

/// Where an XDP program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Behind the driver.
    Generic,
    /// In it.
    Native,
}

/// An XDP program on one interface; off when dropped.
pub struct OnXdp {
    object: Object,
    program: &'static str,
    ifindex: u32,
}

impl OnXdp {
    /// Puts it on the interface `ifindex` of this thread's network namespace.
    ///
    /// # Errors
    /// The kernel refuses, or another program is there.
    pub fn attach(ifindex: u32, does: Does) -> Result<Self, BpfError> {
        Self::attached(ifindex, does, XdpFlags::NONE)
    }

    /// As [`OnXdp::attach`], in the mode that is said and no other.
    ///
    /// # Errors
    /// As there, and where the driver has no such mode.
    pub fn attach_as(ifindex: u32, does: Does, mode: Mode) -> Result<Self, BpfError> {
        let mode = match mode {
            Mode::Generic => XdpFlags::SKB_MODE,
            Mode::Native => XdpFlags::DRV_MODE,
        };
        Self::attached(ifindex, does, mode)
    }

    fn attached(ifindex: u32, does: Does, mode: XdpFlags) -> Result<Self, BpfError> {
        let program = match does {
            Does::Drop => "hearken_drop",
            Does::Pass => "hearken_pass",
        };
        let err = |source| BpfError::Attach { program, ifindex, source };
        let object = load(program)?;
        let found = object.progs().find(|found| found.name() == program);
        let found = found.ok_or_else(|| err(crate::error::missing("no such program")))?;
        Xdp::new(found.as_fd()).attach(index(ifindex), mode | XdpFlags::UPDATE_IF_NOEXIST).map_err(err)?;
        Ok(Self { object, program, ifindex })
    }

    /// Frames that were dropped.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn dropped(&self) -> Result<u64, BpfError> {
        sums(&map_of(&self.object, "met")?, "met", 1).map(|sums| sums[0])
    }
}

impl Drop for OnXdp {
    fn drop(&mut self) {
        let found = self.object.progs().find(|found| found.name() == self.program);
        // The interface may have gone, or be in a namespace that this thread has left; its program goes with it.
        if let Some(found) = found {
            let _ = Xdp::new(found.as_fd()).detach(index(self.ifindex), XdpFlags::NONE);
        }
    }
}
