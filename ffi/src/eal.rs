//! DPDK's environment: started once per process, stopped when nothing of it is in use.

use std::collections::BTreeSet;
use std::ffi::{CStr, CString, c_char, c_int};
use std::fmt;
use std::fs;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};

use dpdk_sys as sys;

use crate::{DpdkError, PortId, hugepages_free_mb, lcore, log};

const EALREADY: i32 = 114;
const EBUSY: i32 = 16;
const EINVAL: i32 = 22;

/// Whether this process has called `rte_eal_init` with success: it works once.
static STARTED: Mutex<bool> = Mutex::new(false);

/// Where DPDK takes its memory from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// Hugepages without files in hugetlbfs (`--in-memory`): nothing stays behind.
    Hugepages {
        /// Reserved at start, in megabytes; `None` takes pages as they are asked for.
        mb: Option<u32>,
    },
    /// Ordinary pages (`--no-huge -m`): slower, and only virtual devices work without an IOMMU.
    NoHuge {
        /// All that this process will ever get, in megabytes.
        mb: u32,
    },
}

impl Memory {
    /// Hugepages if `mb` megabytes of them are free, else ordinary pages; and the reason, for the user.
    pub fn choose(mb: u32) -> (Self, String) {
        let free = hugepages_free_mb();
        if free >= u64::from(mb) {
            (Self::Hugepages { mb: None }, format!("hugepages: {free} MB free, {mb} MB wanted"))
        } else {
            let why = format!(
                "no hugepages: {free} MB free, {mb} MB wanted; running on ordinary pages (slower). \
                 To change that: sysctl vm.nr_hugepages={}",
                mb.div_ceil(2)
            );
            (Self::NoHuge { mb }, why)
        }
    }
}

/// Which PCI devices DPDK may take at start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pci {
    /// No bus scan (`--no-pci`); [`Eal::attach`] then takes virtual devices only.
    Off,
    /// Exactly these addresses, each with its device arguments, if any (`--allow`).
    Allow(Vec<String>),
    /// Whatever is bound to a driver that DPDK can use.
    All,
}

/// How to start DPDK; see [`Eal::builder`].
#[derive(Clone, Debug)]
pub struct EalBuilder {
    memory: Memory,
    pci: Pci,
    file_prefix: Option<String>,
    vdevs: Vec<String>,
    lcores: Option<String>,
    main_lcore: Option<u32>,
    telemetry: bool,
    log_level: Option<String>,
    args: Vec<String>,
}

impl EalBuilder {
    /// Default: [`Memory::Hugepages`] on demand.
    pub fn memory(mut self, memory: Memory) -> Self {
        self.memory = memory;
        self
    }

    /// Default: [`Pci::Off`].
    pub fn pci(mut self, pci: Pci) -> Self {
        self.pci = pci;
        self
    }

    /// `--file-prefix`. Default: `rust`, in every process: both kinds of [`Memory`] share no files, so they
    /// do not meet, and DPDK, which makes a directory per prefix and never removes it, makes one.
    pub fn file_prefix(mut self, prefix: &str) -> Self {
        self.file_prefix = Some(prefix.to_owned());
        self
    }

    /// A virtual device to create at start (`net_ring0`, `net_tap0,iface=x`); may be called repeatedly.
    pub fn vdev(mut self, device: &str) -> Self {
        self.vdevs.push(device.to_owned());
        self
    }

    /// `--lcores`. Default: one lcore, 0, over all CPUs that this thread may use. DPDK pins the calling
    /// thread to its lcore's CPUs; with the default that changes nothing.
    pub fn lcores(mut self, map: &str) -> Self {
        self.lcores = Some(map.to_owned());
        self
    }

    /// `--main-lcore`. Default: DPDK's, the lowest.
    pub fn main_lcore(mut self, lcore: u32) -> Self {
        self.main_lcore = Some(lcore);
        self
    }

    /// Whether to open DPDK's telemetry socket. Default: no.
    pub fn telemetry(mut self, on: bool) -> Self {
        self.telemetry = on;
        self
    }

    /// `--log-level`: `warning`, `debug`, `pmd.net.*:debug`. Default: DPDK's. What it prints goes to
    /// `tracing`, target `dpdk`.
    pub fn log_level(mut self, level: &str) -> Self {
        self.log_level = Some(level.to_owned());
        self
    }

    /// One more argument for `rte_eal_init`, as it stands.
    pub fn arg(mut self, arg: &str) -> Self {
        self.args.push(arg.to_owned());
        self
    }

    /// The arguments of `rte_eal_init`, without the program's name.
    fn to_args(&self) -> Vec<String> {
        let prefix = self.file_prefix.as_deref().unwrap_or("rust");
        let mut args = vec![format!("--file-prefix={prefix}")];
        match self.memory {
            Memory::Hugepages { mb } => {
                args.push("--in-memory".into());
                args.extend(mb.into_iter().flat_map(|mb| ["-m".into(), mb.to_string()]));
            }
            // Not with --in-memory: DPDK refuses the two together.
            Memory::NoHuge { mb } => {
                args.extend(["--no-huge".into(), "--no-shconf".into(), "-m".into(), mb.to_string()]);
            }
        }
        match &self.pci {
            Pci::Off => args.push("--no-pci".into()),
            Pci::Allow(devices) if devices.is_empty() => args.push("--no-pci".into()),
            Pci::Allow(devices) => args.extend(devices.iter().map(|device| format!("--allow={device}"))),
            Pci::All => {}
        }
        args.extend(self.vdevs.iter().map(|device| format!("--vdev={device}")));
        let lcores = self.lcores.clone().or_else(|| Some(format!("0@({})", cpus_allowed()?)));
        args.extend(lcores.map(|map| format!("--lcores={map}")));
        args.extend(self.main_lcore.map(|lcore| format!("--main-lcore={lcore}")));
        if !self.telemetry {
            args.push("--no-telemetry".into());
        }
        args.extend(self.log_level.iter().map(|level| format!("--log-level={level}")));
        args.extend(self.args.iter().cloned());
        args
    }

    /// Starts DPDK. The calling thread becomes its main lcore and should be the one that stops it.
    ///
    /// # Errors
    /// EALREADY if this process has started it before (also if it has stopped since); else what
    /// `rte_eal_init` said, with the lines that it printed.
    pub fn start(self) -> Result<Eal, DpdkError> {
        const CALL: &str = "rte_eal_init";
        let mut started = STARTED.lock().unwrap_or_else(PoisonError::into_inner);
        if *started {
            return Err(DpdkError::from_rc(CALL, EALREADY)
                .hint(["DPDK starts once per process: share the first Eal, or use a process each".into()]));
        }
        let args = self.to_args();
        tracing::debug!(?args, "starting the EAL");
        let mut argv = Vec::with_capacity(args.len() + 2);
        for arg in std::iter::once("dpdk").chain(args.iter().map(String::as_str)) {
            let arg = CString::new(arg).map_err(|_| {
                DpdkError::from_rc(CALL, EINVAL).on(arg).hint(["an argument holds a NUL byte".into()])
            })?;
            argv.push(arg.into_raw());
        }
        let argc = c_int::try_from(argv.len()).unwrap_or(c_int::MAX);
        argv.push(std::ptr::null_mut());
        // Some releases keep pointers into the arguments: never freed, once per process.
        let argv: *mut *mut c_char = Vec::leak(argv).as_mut_ptr();
        log::install();
        // SAFETY:
        // - Bounds: `argc` C strings, then a null pointer, as for main().
        // - Aliasing: leaked above, nobody else holds them.
        // - Race: `STARTED` is locked, and no other function of DPDK that needs the EAL can be reached
        //   without the handle that this call leads to.
        let (rc, printed) = log::captured(|| unsafe { sys::rte_eal_init(argc, argv) });
        if rc < 0 {
            let mut error = DpdkError::from_rte_errno(CALL).on(&args.join(" ")).hint(printed);
            if let Memory::Hugepages { .. } = self.memory {
                error = error.hint([format!("{} MB of hugepages are free", hugepages_free_mb())]);
            }
            return Err(error);
        }
        *started = true;
        Ok(Eal(Arc::new(Running { main: thread::current().id(), state: Mutex::default() })))
    }
}

/// The running EAL. Clones share it; it stops when the last handle of any kind is gone.
#[derive(Clone)]
pub struct Eal(Arc<Running>);

struct Running {
    main: ThreadId,
    state: Mutex<State>,
}

/// What the EAL's handles have made. The lock also keeps DPDK's control calls, which mostly may not run
/// at the same time, one after the other.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) pools: Vec<PoolPtr>,
    pub(crate) taken: BTreeSet<PortId>,
    /// Ports that [`Eal::attach`] brought in, each with a device of its own: it goes with the port.
    pub(crate) attached: BTreeSet<PortId>,
}

pub(crate) struct PoolPtr(pub(crate) NonNull<sys::rte_mempool>);

// SAFETY: DPDK's pools are made to be used from any thread; this pointer is only counted through.
unsafe impl Send for PoolPtr {}

impl Eal {
    /// A start with hugepages (no files), no PCI, no telemetry; change what should differ.
    pub fn builder() -> EalBuilder {
        EalBuilder {
            memory: Memory::Hugepages { mb: None },
            pci: Pci::Off,
            file_prefix: None,
            vdevs: Vec::new(),
            lcores: None,
            main_lcore: None,
            telemetry: false,
            log_level: None,
            args: Vec::new(),
        }
    }

    /// Stops DPDK now and says how it went; dropping the last handle does the same and logs.
    ///
    /// # Errors
    /// EBUSY: other handles are alive, an mbuf is, or this is not the thread that started the EAL. DPDK
    /// then goes on (in the first case) or is left to the end of the process.
    pub fn stop(self) -> Result<(), DpdkError> {
        match Arc::try_unwrap(self.0) {
            Ok(running) => {
                let stopped = running.stop();
                std::mem::forget(running);
                stopped
            }
            Err(shared) => Err(DpdkError::from_rc("rte_eal_cleanup", EBUSY).hint([format!(
                "{} other handles (pools, ports, queues, registered threads) still use the EAL",
                Arc::strong_count(&shared) - 1
            )])),
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Eal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Eal").field(&version()).finish()
    }
}

impl Running {
    fn stop(&self) -> Result<(), DpdkError> {
        const CALL: &str = "rte_eal_cleanup";
        let busy = |why: String| Err(DpdkError::from_rc(CALL, EBUSY).hint([why]));
        if thread::current().id() != self.main || lcore::current().is_none() {
            return busy("only the thread that started the EAL can stop it".into());
        }
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: pools are never freed before this function is done.
        let in_use: u32 =
            state.pools.iter().map(|pool| unsafe { sys::rte_mempool_in_use_count(pool.0.as_ptr()) }).sum();
        if in_use > 0 {
            return busy(format!("{in_use} mbufs are still out of their pools"));
        }
        // SAFETY:
        // - Lifetime: we are the last handle, so no port, queue, pool or registered thread is left, and no
        //   mbuf either, for all pools are whole. An mbuf freed elsewhere a moment ago was freed by a
        //   thread without a cache, whose last store is the one that made the count.
        // - Race: this is the main lcore, the only thread that still may use a cache, and it is here.
        DpdkError::check(CALL, "", unsafe { sys::rte_eal_cleanup() })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            // Nothing is lost by it: some drivers (net_af_xdp) keep mbufs past their close.
            tracing::info!(%error, "the EAL is left to the end of the process");
        }
    }
}

/// DPDK's name and version at run time, such as `DPDK 22.11.11`.
pub fn version() -> String {
    // SAFETY: answers with a static string.
    unsafe { CStr::from_ptr(sys::rte_version()) }.to_string_lossy().into_owned()
}

/// The CPUs that this thread may run on, in the kernel's list form (`0-3,8`).
fn cpus_allowed() -> Option<String> {
    let status = fs::read_to_string("/proc/thread-self/status").ok()?;
    status.lines().find_map(|line| Some(line.strip_prefix("Cpus_allowed_list:")?.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_huge_and_in_memory_exclude_each_other() {
        let huge = Eal::builder().to_args();
        assert!(huge.contains(&"--in-memory".into()) && !huge.contains(&"--no-huge".into()));
        let plain = Eal::builder().memory(Memory::NoHuge { mb: 64 }).to_args();
        assert!(plain.contains(&"--no-huge".into()) && !plain.contains(&"--in-memory".into()));
        assert!(plain.windows(2).any(|pair| pair == ["-m", "64"]), "{plain:?}");
    }

    #[test]
    fn an_empty_allow_list_allows_nothing() {
        let args = Eal::builder().pci(Pci::Allow(Vec::new())).to_args();
        assert!(args.contains(&"--no-pci".into()), "{args:?}");
        let args = Eal::builder().pci(Pci::Allow(vec!["0000:01:00.0".into()])).to_args();
        assert!(args.contains(&"--allow=0000:01:00.0".into()) && !args.contains(&"--no-pci".into()));
    }

    #[test]
    fn what_was_asked_for_is_passed_on() {
        let args = Eal::builder()
            .file_prefix("x")
            .vdev("net_ring0")
            .lcores("0@1")
            .main_lcore(0)
            .telemetry(true)
            .log_level("debug")
            .arg("--iova-mode=va")
            .to_args();
        for wanted in ["--file-prefix=x", "--vdev=net_ring0", "--lcores=0@1", "--main-lcore=0"] {
            assert!(args.contains(&wanted.into()), "{wanted} in {args:?}");
        }
        assert!(args.ends_with(&["--log-level=debug".into(), "--iova-mode=va".into()]), "{args:?}");
        assert!(!args.contains(&"--no-telemetry".into()));
    }

    #[test]
    fn more_than_all_hugepages_falls_back() {
        let (memory, why) = Memory::choose(u32::MAX);
        assert_eq!(memory, Memory::NoHuge { mb: u32::MAX });
        assert!(why.contains("nr_hugepages"), "{why}");
        assert_eq!(Memory::choose(0).0, Memory::Hugepages { mb: None });
    }
}
