//! One list of names: the page made from it is up to date, and every device's books balance under it.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use dataplane::names;

#[test]
fn the_page_is_made_from_the_lists() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("COUNTERS.md");
    let page = names::page();
    if std::env::var_os("HEARKEN_BLESS").is_some() {
        fs::write(&file, &page).expect("a file");
    }
    let found = fs::read_to_string(&file).unwrap_or_default();
    assert!(
        found == page,
        "dataplane/COUNTERS.md is older than the source; HEARKEN_BLESS=1 cargo test -p dataplane --test counters \
         writes it anew"
    );
}

#[test]
fn names_are_unique_in_their_group_and_have_unit_and_sentence() {
    for group in names::groups() {
        let unique: HashSet<_> = group.names.iter().map(|counter| counter.name).collect();
        assert_eq!(unique.len(), group.names.len(), "{}", group.title);
        for counter in group.names {
            assert!(counter.sentence.ends_with('.') && !counter.unit.is_empty(), "{counter:?}");
            let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
            assert!(counter.name.chars().all(plain), "{counter:?} is no part of a metric's name");
        }
    }
}

#[cfg(feature = "dpdk")]
#[test]
fn the_devices_names_are_those_of_the_binding() {
    let binding = dpdk::PortCounters::default().named().map(|(name, _)| name);
    let (drivers, kernels) = names::DEVICE_COUNTERS.split_at(binding.len());
    assert!(drivers.iter().map(|counter| counter.name).eq(binding));
    assert!(kernels.iter().map(|counter| counter.name).eq(["ring_full", "interface_dropped"]));
}

/// The books on devices without a wire; those on packet sockets and taps are checked in `wire.rs`, in memory in `sim.rs`.
mod books {
    use std::collections::BTreeMap;
    use std::fs::File;
    use std::path::{Path, PathBuf};
    use std::process::{Child, Command, Stdio};
    use std::time::{Duration, Instant};

    use assert_cmd::cargo::cargo_bin;
    use dataplane::control::client::Client;
    use dataplane::control::proto::{Request, Stats};
    use etherparse::PacketBuilder;
    use pcap_file::pcap::{PcapPacket, PcapWriter};

    /// SYNs to a listener and to a closed port, a ping, and what is dropped: a wrong checksum, another protocol,
    /// another host's address, a stub of a frame.
    fn frames() -> Vec<Vec<u8>> {
        let to = |mac: [u8; 6], ip: [u8; 4]| {
            PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], mac).ipv4([198, 18, 0, 2], ip, 64)
        };
        let ours = [2, 0, 0, 0, 0, 1];
        let (mut frames, addr) = (Vec::new(), [198, 18, 0, 1]);
        let syn = |sport, dport, ip| {
            let mut frame = Vec::new();
            to(ours, ip).tcp(sport, dport, 1000, 64_240).syn().write(&mut frame, &[]).expect("a frame");
            frame
        };
        for sport in 40_000..40_050 {
            frames.push(syn(sport, 80, addr));
            frames.push(syn(sport, 81, addr));
        }
        let mut ping = Vec::new();
        to(ours, addr).icmpv4_echo_request(1, 1).write(&mut ping, &[0; 8]).expect("a frame");
        frames.push(ping);
        let mut broken = syn(50_000, 80, addr);
        broken[14 + 20 + 16] ^= 0x55;
        frames.push(broken);
        let mut udp = Vec::new();
        to(ours, addr).udp(1, 2).write(&mut udp, &[0; 8]).expect("a frame");
        frames.push(udp);
        frames.push(syn(50_001, 80, [198, 18, 0, 77]));
        frames.push(vec![0; 14]);
        frames
    }

    fn write(path: &Path, frames: &[Vec<u8>]) {
        let mut writer = PcapWriter::new(File::create(path).expect("a file")).expect("a header");
        for frame in frames {
            let len = u32::try_from(frame.len()).expect("a short frame");
            writer.write_packet(&PcapPacket::new(Duration::ZERO, len, frame)).expect("a frame");
        }
    }

    /// Killed when dropped, also by a failing test.
    struct Server(Child);

    impl Drop for Server {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    fn stats_of(socket: &Path) -> Option<Stats> {
        Client::connect(socket).ok()?.call(&Request::Stats {}).ok()
    }

    /// Runs hearken on `device` until `frames` frames came in, checks the law, and returns the totals.
    fn balance(device: impl FnOnce(&Path) -> String, promiscuous: bool, frames: u64) -> Stats {
        let dir = tempfile::tempdir().expect("a directory");
        let (socket, file): (PathBuf, PathBuf) = (dir.path().join("h.sock"), dir.path().join("h.toml"));
        let text = format!(
            "[control]\nsocket = {socket:?}\n[eal]\nhuge = \"never\"\n[workers]\ncores = [0]\nidle = \"yield\"\n\
             [[port]]\nname = \"p0\"\ndevice = {:?}\npromiscuous = {promiscuous}\naddresses = [\"198.18.0.1/24\"]\n\
             [[listener]]\naddr = \"198.18.0.1:80\"\n",
            device(dir.path())
        );
        std::fs::write(&file, text).expect("a file");
        let mut command = Command::new(cargo_bin("hearken"));
        command.args(["run", "--for", "60s", "--config"]).arg(&file).env("HEARKEN_LOG", "warn");
        let child = command.stdout(Stdio::null()).stderr(Stdio::inherit()).spawn().expect("hearken starts");
        let (_server, begun) = (Server(child), Instant::now());
        let stats = loop {
            match stats_of(&socket) {
                Some(stats) if stats.total.rx_frames >= frames => break stats,
                seen => {
                    assert!(begun.elapsed() < Duration::from_secs(30), "{frames} frames wanted: {seen:?}")
                }
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        for core in stats.cores.iter().chain([&stats.total]) {
            let sum = |map: &BTreeMap<String, u64>| map.values().sum::<u64>();
            assert_eq!(core.rx_frames, sum(&core.outcomes) + sum(&core.drops), "{core:?}");
        }
        stats
    }

    /// What became of [`frames`], by name.
    #[track_caller]
    fn as_expected(stats: &Stats) {
        let total = &stats.total;
        assert_eq!(total.rx_frames, 105);
        assert_eq!((total.outcomes["synack"], total.outcomes["rst"], total.outcomes["other"]), (50, 50, 1));
        let dropped: Vec<(&str, u64)> = total
            .drops
            .iter()
            .filter(|(_, count)| **count > 0)
            .map(|(name, count)| (&**name, *count))
            .collect();
        let wanted = [("ip_noproto", 1), ("ip_not_local", 1), ("otherhost", 1), ("tcp_csum", 1)];
        assert_eq!(dropped, wanted);
    }

    #[test]
    fn balance_on_capture_files() {
        let device = |dir: &Path| {
            write(&dir.join("in.pcap"), &frames());
            format!("pcap:{},{}", dir.join("in.pcap").display(), dir.join("out.pcap").display())
        };
        as_expected(&balance(device, false, 105));
    }

    #[cfg(feature = "dpdk")]
    #[test]
    fn balance_on_dpdks_capture_files() {
        // Its port has a MAC address of its own, which the frames do not carry.
        let device = |dir: &Path| {
            write(&dir.join("in.pcap"), &frames());
            format!("net_pcap0,rx_pcap={}", dir.join("in.pcap").display())
        };
        let stats = balance(device, true, 105);
        assert_eq!(stats.devices[0].counters["ipackets"], 105, "{:?}", stats.devices);
        assert_eq!(stats.total.drops["otherhost"], 105, "{:?}", stats.total);
        assert_eq!(stats.devices[0].counters["rx_q0_packets"], 105, "each queue is there too");
    }

    #[cfg(feature = "dpdk")]
    #[test]
    fn balance_on_a_ring_that_returns_what_is_sent() {
        // The announcement of our own address comes back.
        let stats = balance(|_| "net_ring0".into(), false, 1);
        assert_eq!(stats.total.rx_frames, stats.total.tx_frames, "{:?}", stats.total);
        assert_eq!(stats.devices[0].counters["ipackets"], stats.total.rx_frames, "{:?}", stats.devices);
    }
}
