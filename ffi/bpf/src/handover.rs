//! The tc program that hands verified handshakes to the kernel (`src/bpf/handover.bpf.c`).

use std::collections::HashSet;
use std::os::fd::AsFd;

use libbpf_rs::{
    MapCore, MapFlags, MapHandle, Object, ObjectBuilder, OpenObject, Program, ProgramInput, TC_INGRESS,
    TcHook, TcHookBuilder,
};

use crate::maps::{Entries, map_of, maps_of, sums};
use crate::{BpfError, Endpoint};

static OBJECT: &crate::Aligned<[u8]> =
    &crate::Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/handover.bpf.o")));

/// At most 15 octets: the kernel keeps no more of a name.
const PROGRAM: &str = "hearken_accept";
/// First of all filters; those behind it see every segment too.
const PRIORITY: u32 = 1;
/// Ours among the filters of that priority: "hk".
const HANDLE: u32 = 0x686b;

/// Names of [`Handover::counters`], in their order.
pub const COUNTERS: [&str; 7] = [
    "handed_over_to_kernel",
    "handover_bad_cookie",
    "handover_outdated_cookie",
    "handover_bad_timestamp",
    "handover_refused",
    "handover_accept_queue_full",
    "handover_left_to_kernel",
];

/// Buckets of [`Handover::round_trips`]: bucket `n` counts round trips below `2^n` ms, the last one all longer ones.
pub const RTT_BUCKETS: usize = 18;

/// One generation of the keys of cookies: two SipHash keys as pairs of words.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct CookieKey {
    /// Of the cookies' hash.
    pub hash: [u64; 2],
    /// Of the timestamps' offsets.
    pub timestamps: [u64; 2],
}

impl std::fmt::Debug for CookieKey {
    /// A secret does not show.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CookieKey(..)")
    }
}

/// What the program goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Settings {
    /// Checks cookies.
    pub current: CookieKey,
    /// Checks them as well: the generation before, or the next.
    pub other: Option<CookieKey>,
    /// hearken's clock less `CLOCK_MONOTONIC`, in ns modulo 2^64.
    pub clock_offset_ns: u64,
    /// `CLOCK_MONOTONIC` in ns from which on nothing is handed over; 0: never.
    pub expires_ns: u64,
    /// Others make cookies with these keys too.
    pub shared: bool,
    /// The window scale that SYN-ACKs announce.
    pub rcv_wscale: u8,
    /// Timestamps have a keyed offset (`tcp_timestamps = 1`).
    pub random_offsets: bool,
}

impl Settings {
    /// `struct settings` of `cookie.h`.
    fn octets(&self) -> Vec<u8> {
        let other = self.other.unwrap_or_default();
        let keys = [self.current, other];
        let words = keys.iter().flat_map(|key| [key.hash, key.timestamps]).flatten();
        let words = words.chain([self.clock_offset_ns, self.expires_ns]).flat_map(u64::to_ne_bytes);
        let generations = 1 + u32::from(self.other.is_some());
        let numbers = [generations, self.shared.into(), self.rcv_wscale.into(), self.random_offsets.into()];
        words.chain(numbers.into_iter().flat_map(u32::to_ne_bytes)).collect()
    }
}

/// The program, loaded, and the interfaces that it is on.
pub struct Handover {
    object: Object,
    settings: MapHandle,
    claims: Entries<Endpoint>,
    counters: MapHandle,
    rtt: MapHandle,
    hooks: Vec<(u32, TcHook)>,
}

impl Handover {
    /// Loads the program; it is on no interface yet.
    ///
    /// # Errors
    /// What the kernel lacks, or why it refuses.
    pub fn load() -> Result<Self, BpfError> {
        crate::support::handover()?;
        let object = open()?.load().map_err(|source| BpfError::Load { program: PROGRAM, source })?;
        Ok(Self {
            settings: map_of(&object, "settings")?,
            claims: Entries::new(map_of(&object, "claims")?, "claims"),
            counters: map_of(&object, "counters")?,
            rtt: map_of(&object, "rtt")?,
            object,
            hooks: Vec::new(),
        })
    }

    /// Puts the program on the ingress of `ifindex`, in place of one that an earlier hearken left there.
    ///
    /// # Errors
    /// The kernel refuses, or another program has our place.
    pub fn attach(&mut self, ifindex: u32) -> Result<(), BpfError> {
        let err = |source| BpfError::Attach { program: PROGRAM, ifindex, source };
        let program = self.object.progs().find(|program| program.name() == PROGRAM);
        let program = program.ok_or_else(|| err(crate::error::missing("no such program")))?;
        let index = i32::try_from(ifindex).unwrap_or(i32::MAX);
        let mut builder = TcHookBuilder::new(program.as_fd());
        builder.ifindex(index).replace(true).handle(HANDLE).priority(PRIORITY);
        let mut hook = builder.hook(TC_INGRESS);
        // The queueing discipline may be there already: others have filters too.
        match hook.create() {
            Ok(_) => {}
            Err(error) if error.kind() == libbpf_rs::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(err(error)),
        }
        if let Ok(id) = hook.query()
            && let Ok(found) = libbpf_rs::ProgramHandle::from_prog_id(id)
            && found.name() != PROGRAM
        {
            let name = found.name().to_string_lossy().into_owned();
            return Err(BpfError::ForeignFilter { name, id });
        }
        let hook = hook.attach().map_err(err)?;
        self.hooks.retain(|(other, _)| *other != ifindex);
        self.hooks.push((ifindex, hook));
        Ok(())
    }

    /// Interfaces that the program is on.
    pub fn interfaces(&self) -> impl Iterator<Item = u32> {
        self.hooks.iter().map(|(ifindex, _)| *ifindex)
    }

    /// Forgets an interface that has gone.
    pub fn forget(&mut self, ifindex: u32) {
        self.hooks.retain(|(other, _)| *other != ifindex);
    }

    /// Takes the program off all its interfaces, but where a later hearken has put its own in the place.
    pub fn detach(&mut self) {
        let program = self.object.progs().find(|program| program.name() == PROGRAM);
        let own = program.and_then(|program| Program::id_from_fd(program.as_fd()).ok());
        for (_, mut hook) in self.hooks.drain(..) {
            // An interface that has gone has no program either.
            if own.is_some() && hook.query().ok() == own {
                let _ = hook.detach();
            }
        }
    }

    /// The key that makes cookies by the program that another hearken has on `ifindex`, or had when it was killed: its handshakes
    /// may be in flight.
    pub fn keys_left_on(ifindex: u32) -> Option<CookieKey> {
        let stdin = std::io::stdin();
        let mut builder = TcHookBuilder::new(stdin.as_fd());
        builder.ifindex(i32::try_from(ifindex).ok()?).handle(HANDLE).priority(PRIORITY);
        let id = builder.hook(TC_INGRESS).query().ok().filter(|id| *id != 0)?;
        let map = maps_of(id).find(|map| map.name() == "settings")?;
        let value = map.lookup(&0u32.to_ne_bytes(), MapFlags::ANY).ok()??;
        let word = |at: usize| Some(u64::from_ne_bytes(*value.get(at * 8..)?.first_chunk()?));
        let key = CookieKey { hash: [word(0)?, word(1)?], timestamps: [word(2)?, word(3)?] };
        (key != CookieKey::default()).then_some(key)
    }

    /// Changes what the program goes by, as a whole.
    ///
    /// # Errors
    /// The map cannot be written.
    pub fn set(&self, settings: &Settings) -> Result<(), BpfError> {
        let written = self.settings.update(&0u32.to_ne_bytes(), &settings.octets(), MapFlags::ANY);
        written.map_err(|source| BpfError::Map { map: "settings", source })
    }

    /// Looks for cookies at these endpoints and no others.
    ///
    /// # Errors
    /// The map is full: it holds 131,072.
    pub fn set_claims(&mut self, endpoints: &HashSet<Endpoint>) -> Result<(), BpfError> {
        self.claims.set(endpoints)
    }

    /// Segments since the program was loaded, in the order of [`COUNTERS`].
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn counters(&self) -> Result<Vec<u64>, BpfError> {
        sums(&self.counters, "counters", COUNTERS.len())
    }

    /// Round trips from SYN-ACK to verified ACK of clients with timestamps; see [`RTT_BUCKETS`].
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn round_trips(&self) -> Result<Vec<u64>, BpfError> {
        sums(&self.rtt, "rtt", RTT_BUCKETS)
    }

    /// What the program says of the cookie in `frame`, an Ethernet frame with an ACK: for tests of the program itself
    /// (`BPF_PROG_TEST_RUN`). None if it is no segment that is looked at.
    ///
    /// # Errors
    /// The kernel does not run it.
    pub fn check(&self, frame: &[u8]) -> Result<Option<Checked>, BpfError> {
        let err = |source| BpfError::Load { program: "hearken_check", source };
        let program = self.object.progs_mut().find(|program| program.name() == "hearken_check");
        let program = program.ok_or_else(|| err(crate::error::missing("no such program")))?;
        let input = ProgramInput { data_in: Some(frame), ..ProgramInput::default() };
        if program.test_run(input).map_err(err)?.return_value != 0 {
            return Ok(None);
        }
        let map = map_of(&self.object, "checked")?;
        let value = map.lookup(&0u32.to_ne_bytes(), MapFlags::ANY);
        let value = value.map_err(|source| BpfError::Map { map: "checked", source })?.unwrap_or_default();
        let mut words =
            value.chunks_exact(4).map(|word| u32::from_ne_bytes([word[0], word[1], word[2], word[3]]));
        let mut word = || words.next().unwrap_or_default();
        let verdict = match word() {
            0 => Verdict::Good,
            2 => Verdict::Outdated,
            3 => Verdict::Timestamp,
            _ => Verdict::Bad,
        };
        let [mss, wscale, sack, ecn, rtt_ms] = [word(), word(), word(), word(), word()];
        let wscale = (wscale < 15).then_some(wscale as u8);
        Ok(Some(Checked { verdict, mss: mss as u16, wscale, sack: sack != 0, ecn: ecn != 0, rtt_ms }))
    }

    /// Instructions of the program as the kernel runs it, before translation to machine code.
    pub fn instructions(&self) -> usize {
        let program = self.object.progs().find(|program| program.name() == PROGRAM);
        program.map_or(0, |program| program.insn_cnt())
    }
}

/// What [`Handover::check`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A cookie of ours.
    Good,
    /// None.
    Bad,
    /// One of the epoch before the oldest that counts.
    Outdated,
    /// One whose timestamp is not ours.
    Timestamp,
}

/// What a cookie says; the fields mean something if the verdict is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checked {
    /// The verdict.
    pub verdict: Verdict,
    /// The client's MSS, rounded down to an entry of the table.
    pub mss: u16,
    /// The client's window scale.
    pub wscale: Option<u8>,
    /// SACK permitted.
    pub sack: bool,
    /// ECN agreed.
    pub ecn: bool,
    /// Since the SYN-ACK, in ms.
    pub rtt_ms: u32,
}

fn open() -> Result<OpenObject, BpfError> {
    let opened = ObjectBuilder::default().open_memory(&OBJECT.0);
    opened.map_err(|source| BpfError::Load { program: PROGRAM, source })
}
