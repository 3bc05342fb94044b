//! A virtual machine with emulated NICs (QEMU without KVM), each on a tap in a namespace of the test's own. The guest is the
//! kernel, busybox and hearken (`image`, `init`); its second serial line is a shell.

use std::cell::RefCell;
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::lab::{Namespace, run};

/// Slot of the first card on the guest's PCI bus; the others follow.
const SLOT: usize = 3;
/// How long the guest may take to boot, and a command in it.
const PATIENCE: Duration = Duration::from_secs(90);

/// An emulated NIC.
#[derive(Clone, Copy)]
pub struct Card {
    /// For people.
    pub name: &'static str,
    /// QEMU's device, with its properties.
    pub device: &'static str,
    /// The guest kernel's driver that gives it to DPDK.
    pub driver: &'static str,
    /// DPDK's driver by its name in `rte_eth_dev_info`.
    pub pmd: &'static str,
    /// Receive queues that the device has and spreads flows over.
    pub queues: usize,
    /// It raises receive interrupts with this kernel driver.
    pub interrupts: bool,
    /// Frames of 9,000 octets: the device takes them.
    pub jumbo: bool,
}

impl Card {
    /// Queues of the tap: those of a virtio device are its own, other cards' are QEMU's affair.
    fn tap_queues(&self) -> usize {
        if self.device.contains("mq=on") { self.queues } else { 1 }
    }
}

/// A running machine; ended when dropped.
pub struct Vm {
    qemu: Child,
    shell: RefCell<BufReader<UnixStream>>,
    monitor: PathBuf,
    /// The other ends of the cards' wires: `tap0`, `tap1`, … with addresses that end in 2.
    pub host: Namespace,
    dir: tempfile::TempDir,
    /// From the start of QEMU until the guest's shell answered.
    pub booted_in: Duration,
}

/// The PCI address of card number `card` in the guest.
pub fn pci(card: usize) -> String {
    format!("0000:00:{:02x}.0", SLOT + card)
}

fn image_dir() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("nic-vm")
}

/// Makes what the machine boots: QEMU, kernel, and the guest's files with `hearken` among them.
///
/// # Errors
/// A package cannot be had.
pub fn image(hearken: &Path) -> io::Result<()> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/nic/image");
    run(Command::new("bash").arg(script).arg(image_dir()).arg(hearken))?;
    Ok(())
}

fn wires(host: &Namespace, cards: &[Card]) -> io::Result<()> {
    host.enter(|| {
        for which in ["all", "default"] {
            fs::write(format!("/proc/sys/net/ipv6/conf/{which}/disable_ipv6"), "0")?;
        }
        io::Result::Ok(())
    })??;
    for (card, queues) in cards.iter().map(Card::tap_queues).enumerate() {
        let multi_queue = if queues > 1 { "multi_queue" } else { "" };
        host.ip(&format!("tuntap add dev tap{card} mode tap vnet_hdr {multi_queue}"))?;
        host.ip(&format!("link set tap{card} mtu 9000 up"))?;
        host.ip(&format!("addr add 198.18.{card}.2/24 dev tap{card}"))?;
        host.ip(&format!("addr add 2001:db8:{card}::2/64 dev tap{card} nodad"))?;
    }
    Ok(())
}

impl Vm {
    /// Boots one with `cards`, and with an IOMMU if `iommu` says so; [`image`] has been made.
    ///
    /// # Errors
    /// There is no right to make namespaces and taps, or the guest does not come up.
    pub fn boot(cards: &[Card], iommu: bool) -> io::Result<Self> {
        let image = image_dir();
        let host = Namespace::new()?;
        wires(&host, cards)?;
        let dir = tempfile::tempdir()?;
        let file = |name: &str| dir.path().join(name);
        let root = image.join("root");
        let binds: Vec<String> =
            (0..).zip(cards).map(|(at, card)| format!("{}:{}", pci(at), card.driver)).collect();
        let iommu_words = if iommu { "intel_iommu=on iommu=pt" } else { "" };
        let append = format!("console=ttyS0 panic=-1 hugepages=64 {iommu_words} bind={}", binds.join(","));
        let mut qemu = host.command(root.join("usr/bin/qemu-system-x86_64"));
        qemu.env("LD_LIBRARY_PATH", root.join("usr/lib/x86_64-linux-gnu"));
        for folder in ["usr/share/qemu", "usr/share/seabios"] {
            qemu.arg("-L").arg(root.join(folder));
        }
        let fixed = "-machine q35,kernel-irqchip=split -accel tcg,thread=multi -cpu max -smp 2 -m 768 -display none -nodefaults -no-reboot";
        qemu.args(fixed.split_whitespace());
        qemu.arg("-kernel").arg(image.join("vmlinuz")).arg("-initrd").arg(image.join("initramfs"));
        qemu.args(["-append", &append]);
        if iommu {
            qemu.args(["-device", "intel-iommu,intremap=on,caching-mode=on"]);
        }
        for (at, card) in cards.iter().enumerate() {
            let queues = card.tap_queues();
            let tap = format!("tap,id=n{at},ifname=tap{at},script=no,downscript=no,queues={queues}");
            qemu.args(["-netdev", &tap]);
            qemu.args(["-device", &format!("{},netdev=n{at},addr={},romfile=", card.device, SLOT + at)]);
        }
        qemu.args(["-serial", &format!("file:{}", file("console").display())]);
        qemu.args(["-serial", &format!("unix:{},server=on,wait=off", file("shell").display())]);
        qemu.args(["-monitor", &format!("unix:{},server=on,wait=off", file("monitor").display())]);
        let log = fs::File::create(file("qemu"))?;
        let begun = Instant::now();
        let mut qemu = qemu.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn()?;
        let shell = match first_words(&mut qemu, &file("shell")) {
            Ok(shell) => RefCell::new(shell),
            Err(error) => {
                let _ = qemu.kill();
                let _ = qemu.wait();
                let said = [file("qemu"), file("console")].map(|file| tail(&file)).concat();
                return Err(io::Error::other(format!("the VM did not come up: {error}\n{said}")));
            }
        };
        let monitor = file("monitor");
        Ok(Self { qemu, shell, monitor, host, dir, booted_in: begun.elapsed() })
    }

    /// Runs a line of shell in the guest: its exit code, and what it printed.
    pub fn sh(&self, line: &str) -> (i32, String) {
        assert!(!line.contains('\n'), "one line: {line}");
        let mut shell = self.shell.borrow_mut();
        writeln!(shell.get_mut(), "{line}").expect("the guest is there");
        let mut said = String::new();
        loop {
            let mut read = String::new();
            shell.read_line(&mut read).unwrap_or_else(|error| {
                panic!("the guest is silent after {line}: {error}; it had said {said}\n{}", self.console())
            });
            let code = read.trim_end().strip_prefix("<<<").and_then(|rest| rest.strip_suffix(">>>"));
            match code.and_then(|code| code.parse().ok()) {
                Some(code) => return (code, said),
                None => said += &read,
            }
        }
    }

    /// The same, if it exits with 0.
    ///
    /// # Errors
    /// What it printed otherwise.
    pub fn ok(&self, line: &str) -> Result<String, String> {
        let (code, said) = self.sh(line);
        if code == 0 { Ok(said) } else { Err(format!("{line}: exit code {code}: {said}")) }
    }

    /// Writes a file in the guest.
    pub fn put(&self, file: &str, text: &str) -> Result<(), String> {
        self.ok(&format!(": >{file}"))?;
        for line in text.lines() {
            self.ok(&format!("echo '{line}' >>{file}"))?;
        }
        Ok(())
    }

    /// Plugs the cable of a card in, or pulls it.
    pub fn set_link(&self, card: usize, up: bool) -> io::Result<()> {
        let mut monitor = UnixStream::connect(&self.monitor)?;
        monitor.set_read_timeout(Some(PATIENCE))?;
        writeln!(monitor, "set_link n{card} {}", if up { "on" } else { "off" })?;
        // The prompt comes again when it is done.
        let mut reader = BufReader::new(monitor);
        for _ in 0..2 {
            reader.read_until(b')', &mut Vec::new())?;
        }
        Ok(())
    }

    /// The end of the guest kernel's log.
    pub fn console(&self) -> String {
        tail(&self.dir.path().join("console"))
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

/// The guest's shell, once it says that it is ready.
fn first_words(qemu: &mut Child, socket: &Path) -> io::Result<BufReader<UnixStream>> {
    let deadline = Instant::now() + PATIENCE;
    let stream = loop {
        match UnixStream::connect(socket) {
            Ok(stream) => break stream,
            Err(error) if qemu.try_wait()?.is_some() || Instant::now() > deadline => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut shell = BufReader::new(stream);
    let mut line = String::new();
    while line.trim_end() != "ready" {
        line.clear();
        if shell.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(shell)
}

fn tail(file: &Path) -> String {
    let text = fs::read(file).map(|octets| String::from_utf8_lossy(&octets).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n") + "\n"
}
