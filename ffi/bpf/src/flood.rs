//! A flood for tests and benches: forged segments as fast as a veth carries them (`src/bpf/flood.bpf.c`). The kernel itself makes
//! the frames, by `BPF_PROG_TEST_RUN` on live frames (Linux 5.18), on the thread that asks.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use libbpf_rs::{Link, MapCore, MapFlags, MapHandle, Object, ObjectBuilder, ProgramInput, Xdp, XdpFlags};

use crate::BpfError;
use crate::maps::{map_of, sums};

static OBJECT: &crate::Aligned<[u8]> =
    &crate::Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/flood.bpf.o")));

/// `BPF_F_TEST_XDP_LIVE_FRAMES`
const LIVE_FRAMES: u32 = 1 << 1;
/// Frames of one call at the most.
const REPEAT: u32 = 65_536;

/// Octets of a template at the most.
const FRAME_MAX: usize = 128;

/// What is sent.
#[derive(Clone, Debug)]
pub struct Template {
    /// At most 128 octets: an Ethernet frame with IPv4 without options or IPv6, and TCP, all checksums right. Its source address, source port and
    /// sequence number are changed in each copy.
    pub frame: Vec<u8>,
    /// Sources: a power of two; the number stands in the last bits of the address.
    pub hosts: u32,
    /// The ACK number is random as well.
    pub forge_ack: bool,
}

/// A sender on one interface of this thread's network namespace.
pub struct Flood {
    object: Object,
    sent: MapHandle,
    answers: MapHandle,
    frame: Vec<u8>,
    /// Detaches the sink when it is dropped.
    _sink: Option<Link>,
}

/// What came back to the forged sources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answers {
    /// SYN-ACKs.
    pub syn_acks: u64,
    /// Other TCP segments.
    pub others: u64,
}

impl Flood {
    /// Makes one that sends by the interface `ifindex`. A veth takes frames in this way if it has GRO (`ethtool -K IFACE gro on`) or
    /// an XDP program, and its peer has too; GRO disturbs the wire less.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn new(ifindex: u32, template: &Template) -> Result<Self, BpfError> {
        let load = |source| BpfError::Load { program: "hearken_flood", source };
        let object =
            ObjectBuilder::default().open_memory(&OBJECT.0).and_then(|open| open.load()).map_err(load)?;
        let len = u32::try_from(template.frame.len()).unwrap_or(u32::MAX);
        let settings = [ifindex, template.hosts, template.forge_ack.into(), len];
        let mut settings: Vec<u8> = settings.into_iter().flat_map(u32::to_ne_bytes).collect();
        settings.extend(&template.frame);
        settings.resize(4 * 4 + FRAME_MAX, 0);
        let written = map_of(&object, "flood")?.update(&0u32.to_ne_bytes(), &settings, MapFlags::ANY);
        written.map_err(|source| BpfError::Map { map: "flood", source })?;
        let (sent, answers) = (map_of(&object, "sent")?, map_of(&object, "answers")?);
        Ok(Self { object, sent, answers, frame: template.frame.clone(), _sink: None })
    }

    /// As [`Flood::new`], and what is answered to the forged sources is counted and dropped by an XDP program on the interface,
    /// as if they were far away. Without it this machine takes its own answers in, at the cost of the side that answers.
    ///
    /// # Errors
    /// The kernel refuses, or there is an XDP program on the interface.
    pub fn with_sink(ifindex: u32, template: &Template) -> Result<Self, BpfError> {
        let mut flood = Self::new(ifindex, template)?;
        let err = |source| BpfError::Load { program: "hearken_sink", source };
        let index = i32::try_from(ifindex).map_err(|_| err(crate::error::missing("no such interface")))?;
        let program = flood.object.progs_mut().find(|program| program.name() == "hearken_sink");
        let program = program.ok_or_else(|| err(crate::error::missing("no such program")))?;
        let link = program.attach_xdp(index).map_err(err)?;
        flood._sink = Some(link);
        Ok(flood)
    }

    /// What the sink has counted; nothing without one.
    ///
    /// # Errors
    /// The kernel does not read the map.
    pub fn answers(&self) -> Result<Answers, BpfError> {
        let [syn_acks, others] = sums(&self.answers, "answers", 2)?[..] else {
            return Err(BpfError::Map { map: "answers", source: crate::error::missing("two counters") });
        };
        Ok(Answers { syn_acks, others })
    }

    /// Puts the program on `ifindex` too, an interface that carries nothing. The kernel changes its XDP dispatcher for each call that runs a
    /// program which is on no interface, and waits some 20 ms for that; with this a call takes as long as its frames do.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn park(&self, ifindex: u32) -> Result<(), BpfError> {
        let err = |source| BpfError::Attach { program: "hearken_flood", ifindex, source };
        let program = self.object.progs().find(|program| program.name() == "hearken_flood");
        let program = program.ok_or_else(|| err(crate::error::missing("no such program")))?;
        let index = i32::try_from(ifindex).unwrap_or(i32::MAX);
        Xdp::new(program.as_fd()).attach(index, XdpFlags::UPDATE_IF_NOEXIST).map_err(err)
    }

    /// Sends `frames` frames, or as many as go in `patience`, at `rate` a second at the most (none: as fast as it goes). Returns how many
    /// were given to the interface.
    ///
    /// # Errors
    /// The kernel does not run the program.
    pub fn run(&self, frames: u64, rate: Option<u64>, patience: Duration) -> Result<u64, BpfError> {
        let err = |source| BpfError::Load { program: "hearken_flood", source };
        let program = self.object.progs_mut().find(|program| program.name() == "hearken_flood");
        let program = program.ok_or_else(|| err(crate::error::missing("no such program")))?;
        let begin = Instant::now();
        let (before, mut asked) = (self.sent()?, 0);
        while asked < frames && begin.elapsed() < patience {
            // A slice of a hundredth of a second, so that a rate is kept evenly and the end is not overrun.
            let slice = rate.map_or(u64::from(REPEAT), |rate| (rate / 100).max(1));
            let repeat = slice.min(frames - asked).min(REPEAT.into()) as u32;
            let input = ProgramInput {
                data_in: Some(&self.frame),
                flags: LIVE_FRAMES,
                repeat,
                ..ProgramInput::default()
            };
            program.test_run(input).map_err(err)?;
            asked += u64::from(repeat);
            if let Some(rate) = rate {
                let due = Duration::from_secs_f64(asked as f64 / rate as f64);
                std::thread::sleep(due.saturating_sub(begin.elapsed()));
            }
        }
        Ok(self.sent()? - before)
    }

    fn sent(&self) -> Result<u64, BpfError> {
        sums(&self.sent, "sent", 1).map(|sums| sums[0])
    }
}
