//! The XDP program that sends claimed SYNs to hearken (`src/bpf/claim.bpf.c`).
//!
//! DPDK's `net_af_xdp` loads and attaches it (`xdp_prog=FILE`) and puts its sockets into `xsks_map`; [`Claim::find`] then
//! finds the program on the interface and takes its other maps over. Until [`Claim::set`] is called nothing is claimed.

use std::collections::HashSet;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::Path;

use libbpf_rs::{MapCore, MapFlags, MapHandle, Xdp, XdpFlags};

use crate::maps::{Entries, Entry, maps_of, sums};
use crate::{BpfError, CookieKey, Endpoint, octets};

static OBJECT: &crate::Aligned<[u8]> =
    &crate::Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/claim.bpf.o")));

/// The program's name, by which a later start knows it.
const PROGRAM: &str = "hearken_claim";

/// The object file, for DPDK to load.
pub fn object() -> &'static [u8] {
    &OBJECT.0
}

/// Names of [`Claim::counters`], in their order.
pub const COUNTERS: [&str; 7] = [
    "claim_redirected",
    "claim_no_listener",
    "claim_known_flow",
    "claim_accept_queue_full",
    "claim_left_to_kernel",
    "claim_other_vlan",
    "claim_answered",
];

/// What SYNs are answered with where they arrive, beyond those that go to hearken's socket (`src/bpf/answer.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Answering {
    /// Makes cookies.
    pub key: CookieKey,
    /// hearken's clock less `CLOCK_MONOTONIC`, in ns modulo 2^64.
    pub clock_offset_ns: u64,
    /// `CLOCK_MONOTONIC` in ns from which on nothing is answered here; 0: never.
    pub expires_ns: u64,
    /// SYNs that go to the socket first, per millisecond and CPU; 0: all.
    pub redirect_per_ms: u32,
    /// The window scale that SYN-ACKs announce.
    pub rcv_wscale: u8,
    /// Timestamps have a keyed offset.
    pub random_offsets: bool,
    /// The options and ECN that may be agreed.
    pub timestamps: bool,
    /// SACK.
    pub sack: bool,
    /// Window scaling.
    pub wscale: bool,
    /// ECN.
    pub ecn: bool,
    /// The MSS to announce over IPv4 and IPv6.
    pub mss: [u16; 2],
    /// The window by bit 0, window scaling, bit 1, timestamps, and bit 2, IPv6.
    pub windows: [u16; 8],
    /// Answers go back by redirection, as a veth wants it, and not by `XDP_TX`.
    pub by_redirect: bool,
}

impl Answering {
    /// `struct answering` of `answer.h`.
    fn octets(&self) -> Vec<u8> {
        let words = [self.key.hash, self.key.timestamps].into_iter().flatten();
        let words = words.chain([self.clock_offset_ns, self.expires_ns]).flat_map(u64::to_ne_bytes);
        let numbers = [
            self.redirect_per_ms,
            self.rcv_wscale.into(),
            self.random_offsets.into(),
            self.timestamps.into(),
            self.sack.into(),
            self.wscale.into(),
            self.ecn.into(),
        ];
        let numbers = numbers.into_iter().chain(self.mss.map(u32::from)).chain(self.windows.map(u32::from));
        words.chain(numbers.chain([self.by_redirect.into()]).flat_map(u32::to_ne_bytes)).collect()
    }
}

/// An address or prefix of this host, with the VLAN of the interface that it is in (0: none).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Local {
    /// The address.
    pub addr: IpAddr,
    /// Bits of the prefix: 32 or 128 for one address.
    pub prefix_len: u8,
    /// VLAN identifier.
    pub vid: u16,
}

impl Entry for Local {
    fn key(&self) -> Vec<u8> {
        let len = u32::from(self.prefix_len) + if self.addr.is_ipv4() { 96 } else { 0 };
        [&len.to_ne_bytes()[..], &octets(self.addr)].concat()
    }

    fn value(&self) -> u32 {
        self.vid.into()
    }
}

/// What is on an interface's XDP hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attached {
    /// Nothing.
    Nothing,
    /// The program of a hearken that runs.
    Running {
        /// Its process.
        pid: u64,
    },
    /// The program of a hearken that has gone.
    LeftOver,
    /// Somebody else's.
    Foreign {
        /// The program's name.
        name: String,
        /// The program's number.
        id: u32,
    },
}

/// The program on one interface.
pub struct Claim {
    ifindex: u32,
    claims: Entries<Endpoint>,
    locals: Entries<Local>,
    answering: MapHandle,
    counters: MapHandle,
}

impl Claim {
    /// What is on the interface `ifindex`.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn attached(ifindex: u32) -> Result<Attached, BpfError> {
        let Some((name, id)) = on(ifindex)? else { return Ok(Attached::Nothing) };
        if name != PROGRAM {
            return Ok(Attached::Foreign { name, id });
        }
        let owner = maps_of(id).find(|map| map.name() == "hearken_owner");
        let value = owner.and_then(|map| map.lookup(&0u32.to_ne_bytes(), MapFlags::ANY).ok().flatten());
        let word = |at: usize| {
            let bytes = value.as_deref().and_then(|value| value.get(at..)?.first_chunk());
            bytes.map_or(0, |bytes| u64::from_ne_bytes(*bytes))
        };
        let (pid, start) = (word(0), word(8));
        let runs = pid != 0 && start_ticks(pid) == Some(start);
        Ok(if runs { Attached::Running { pid } } else { Attached::LeftOver })
    }

    /// Makes the interface free for a start: removes what a hearken that has gone left there.
    ///
    /// Returns true if there was something.
    ///
    /// # Errors
    /// A running hearken or somebody else has the interface.
    pub fn clear(ifindex: u32) -> Result<bool, BpfError> {
        match Self::attached(ifindex)? {
            Attached::Nothing => Ok(false),
            Attached::Running { pid } => Err(BpfError::Taken { pid }),
            Attached::Foreign { name, id } => Err(BpfError::Foreign { name, id }),
            Attached::LeftOver => detach(ifindex).map(|()| true),
        }
    }

    /// The program that was put on the interface `ifindex` by this process, and claims it as this process's.
    ///
    /// # Errors
    /// It is not there, or its maps are not.
    pub fn find(ifindex: u32) -> Result<Self, BpfError> {
        let missing = |map| BpfError::Map {
            map,
            source: crate::error::missing("the claim program is not on the interface"),
        };
        let (name, id) = on(ifindex)?.ok_or_else(|| missing("claims"))?;
        if name != PROGRAM {
            return Err(BpfError::Foreign { name, id });
        }
        let mut all: Vec<MapHandle> = maps_of(id).collect();
        let mut take = |name: &'static str| {
            let at = all.iter().position(|map| map.name() == name).ok_or_else(|| missing(name))?;
            Ok::<_, BpfError>(all.swap_remove(at))
        };
        let pid = u64::from(std::process::id());
        let owner = [pid.to_ne_bytes(), start_ticks(pid).unwrap_or_default().to_ne_bytes()].concat();
        let written = take("hearken_owner")?.update(&0u32.to_ne_bytes(), &owner, MapFlags::ANY);
        written.map_err(|source| BpfError::Map { map: "hearken_owner", source })?;
        Ok(Self {
            ifindex,
            claims: Entries::new(take("claims")?, "claims"),
            locals: Entries::new(take("locals")?, "locals"),
            answering: take("answering")?,
            counters: take("claim_counters")?,
        })
    }

    /// The interface.
    pub fn ifindex(&self) -> u32 {
        self.ifindex
    }

    /// How the program runs: `native` in the driver, `generic` behind it (slower, for drivers without XDP), or `offloaded`.
    pub fn mode(&self) -> &'static str {
        let stdin = std::io::stdin();
        let index = i32::try_from(self.ifindex).unwrap_or(i32::MAX);
        match Xdp::new(stdin.as_fd()).query(index, XdpFlags::NONE).map(|found| found.attach_mode) {
            Ok(1) => "native",
            Ok(2) => "generic",
            Ok(3) => "offloaded",
            _ => "unknown",
        }
    }

    /// Claims these endpoints and no others.
    ///
    /// # Errors
    /// The map is full: it holds 131,072.
    pub fn set(&mut self, endpoints: &HashSet<Endpoint>) -> Result<(), BpfError> {
        self.claims.set(endpoints)
    }

    /// Changes what is answered where it arrives, as a whole.
    ///
    /// # Errors
    /// The map cannot be written.
    pub fn set_answering(&self, answering: &Answering) -> Result<(), BpfError> {
        let written = self.answering.update(&0u32.to_ne_bytes(), &answering.octets(), MapFlags::ANY);
        written.map_err(|source| BpfError::Map { map: "answering", source })
    }

    /// Says what is local: SYNs to other addresses are forwarded or dropped by the kernel.
    ///
    /// # Errors
    /// The map is full: it holds 65,536.
    pub fn set_locals(&mut self, locals: &HashSet<Local>) -> Result<(), BpfError> {
        self.locals.set(locals)
    }

    /// SYNs since the program was attached, in the order of [`COUNTERS`].
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn counters(&self) -> Result<Vec<u64>, BpfError> {
        sums(&self.counters, "claim_counters", COUNTERS.len())
    }
}

/// Name and number of the XDP program on the interface.
fn on(ifindex: u32) -> Result<Option<(String, u32)>, BpfError> {
    let err = |source| BpfError::Attach { program: PROGRAM, ifindex, source };
    let index = i32::try_from(ifindex).unwrap_or(i32::MAX);
    // A query needs no program; the type wants some descriptor.
    let stdin = std::io::stdin();
    let id = Xdp::new(stdin.as_fd()).query_id(index, XdpFlags::NONE).map_err(err)?;
    if id == 0 {
        return Ok(None);
    }
    let info = libbpf_rs::ProgramHandle::from_prog_id(id).map_err(err)?;
    Ok(Some((info.name().to_string_lossy().into_owned(), id)))
}

fn detach(ifindex: u32) -> Result<(), BpfError> {
    let stdin = std::io::stdin();
    let index = i32::try_from(ifindex).unwrap_or(i32::MAX);
    let detached = Xdp::new(stdin.as_fd()).detach(index, XdpFlags::NONE);
    detached.map_err(|source| BpfError::Attach { program: PROGRAM, ifindex, source })
}

/// When process `pid` began, in clock ticks since boot: with the number it tells one process from a later one.
fn start_ticks(pid: u64) -> Option<u64> {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")).ok()?;
    // Behind the name, which may contain blanks and parentheses: field 3 on.
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?.parse().ok()
}
