use std::os::unix::fs::symlink;

use super::*;

/// A machine made of files.
struct Fixture(tempfile::TempDir);

impl Fixture {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory"))
    }

    fn file(&self, path: &str, text: &str) -> &Self {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
        fs::write(path, text).expect("a file");
        self
    }

    fn link(&self, path: &str, to: &str) -> &Self {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
        symlink(to, path).expect("a link");
        self
    }

    /// A PCI device with its class, driver and IOMMU group.
    fn pci(&self, pci: &str, class: &str, driver: &str, group: &str) -> &Self {
        let dir = format!("sys/bus/pci/devices/{pci}");
        self.file(&format!("{dir}/class"), class);
        if !driver.is_empty() {
            self.file(&format!("sys/bus/pci/drivers/{driver}/bind"), "");
            self.link(&format!("{dir}/driver"), &format!("../../drivers/{driver}"));
        }
        if !group.is_empty() {
            self.link(&format!("{dir}/iommu_group"), &format!("../../../../kernel/iommu_groups/{group}"));
            self.file(&format!("sys/kernel/iommu_groups/{group}/devices/{pci}"), "");
        }
        self
    }

    fn examine(&self, device: &str) -> Vec<Finding> {
        let text = format!("[[port]]\nname = \"p0\"\ndevice = \"{device}\"\n[eal]\nhuge = \"require\"\n");
        let config = Config::parse(Path::new("h.toml"), text).expect("a configuration");
        examine_in(self.0.path(), Some(&config))
    }
}

#[track_caller]
fn of<'a>(findings: &'a [Finding], check: &str) -> &'a Finding {
    findings.iter().find(|finding| finding.check == check).unwrap_or_else(|| panic!("no {check}"))
}

#[test]
fn an_empty_root_is_examined_without_a_panic() {
    let findings = examine_in(Fixture::new().0.path(), None);
    assert!(findings.len() > 10);
    for finding in &findings {
        assert!(finding.grade == Grade::Ok || finding.next.is_some(), "{finding:?}");
    }
}

#[test]
fn nics_are_judged_by_driver_and_group() {
    let fixture = Fixture::new();
    fixture
        .pci("0000:01:00.0", "0x020000", "vfio-pci", "7")
        .pci("0000:01:00.1", "0x020000", "ixgbe", "7")
        .pci("0000:02:00.0", "0x020000", "mlx5_core", "8")
        .pci("0000:03:00.0", "0x020000", "", "")
        .pci("0000:04:00.0", "0x010601", "ahci", "");
    let nic = |device: &str| {
        let findings = fixture.examine(device);
        let of_device = findings.into_iter().find(|f| f.check == "nic" && f.found.starts_with(device));
        of_device.unwrap_or_else(|| panic!("{device}"))
    };
    let shared_group = nic("0000:01:00.0");
    assert_eq!(shared_group.grade, Grade::Fail);
    assert_eq!(
        shared_group.found,
        "0000:01:00.0, IOMMU group 7: on vfio-pci; its group holds 0000:01:00.1 too, on a driver of the kernel"
    );
    assert_eq!(shared_group.next.as_deref(), Some("dpdk-devbind.py --bind=vfio-pci 0000:01:00.1"));
    assert_eq!(nic("0000:01:00.1").next.as_deref(), Some("dpdk-devbind.py --bind=vfio-pci 0000:01:00.1"));
    fixture
        .file("sys/bus/pci/devices/0000:01:00.1/net/enp1s0f1/address", "")
        .file("sys/bus/pci/devices/0000:02:00.0/net/enp2s0/address", "");
    assert_eq!(
        nic("0000:02:00.0").found,
        "0000:02:00.0, IOMMU group 8: on mlx5_core enp2s0, which DPDK shares with the kernel"
    );
    assert_eq!(nic("0000:02:00.0").grade, Grade::Ok);
    assert_eq!((nic("0000:03:00.0").grade, nic("0000:09:00.0").grade), (Grade::Fail, Grade::Fail));
    let findings = fixture.examine("net_ring0");
    assert!(findings.iter().filter(|f| f.check == "nic").all(|f| f.grade != Grade::Fail), "none is wanted");
    assert!(!findings.iter().any(|f| f.found.contains("0000:04:00.0")), "a disk is no NIC");
}

#[test]
fn uio_is_a_way_to_run() {
    let fixture = Fixture::new();
    let pci = "0000:00:04.0";
    fixture.pci(pci, "0x020000", "e1000", "");
    let line = |check: &str| {
        let findings = fixture.examine(pci);
        let Finding { grade, found, next, .. } = of(&findings, check);
        (*grade, found.clone(), next.clone().unwrap_or_default())
    };
    // Without an IOMMU and without vfio's unsafe mode, uio is the way that is left.
    let bind = format!("dpdk-devbind.py --bind=uio_pci_generic {pci}");
    assert_eq!((line("nic").0, line("nic").2), (Grade::Fail, bind.clone()));
    assert!(line("iommu").2.contains("modprobe uio_pci_generic; dpdk-devbind.py --bind=uio_pci_generic PCI"));
    assert_eq!(line("vfio").0, Grade::Warn);
    fixture.file("sys/module/vfio/parameters/enable_unsafe_noiommu_mode", "N\n");
    assert!(line("nic").2.contains("--bind=vfio-pci"), "this kernel has the mode");
    let fixture = Fixture::new();
    fixture.pci(pci, "0x020000", "uio_pci_generic", "");
    let grades = |fixture: &Fixture| {
        let findings = fixture.examine(pci);
        ["nic", "iommu", "vfio"].map(|check| of(&findings, check).grade)
    };
    assert_eq!(grades(&fixture), [Grade::Ok; 3]);
    #[cfg(feature = "dpdk")]
    {
        let text = format!("[[port]]\nname = \"p0\"\ndevice = \"{pci}\"\n");
        let config = Config::parse(Path::new("h.toml"), text).expect("a configuration");
        let findings = examine_in(fixture.0.path(), Some(&config));
        let pages = of(&findings, "hugepages");
        assert_eq!(pages.grade, Grade::Fail, "huge = auto has nowhere to go: {pages:?}");
        assert!(pages.found.contains("0000:00:04.0 on uio takes nothing else"), "{pages:?}");
    }
}

#[test]
fn drivers_are_found_where_only_runtime_packages_are() {
    let fixture = Fixture::new();
    let dir = "usr/lib/x86_64-linux-gnu/dpdk/pmds-23.0";
    for name in
        ["librte_net_tap.so.23", "librte_net_tap.so.23.0", "librte_net_igc.so.23", "librte_bus_pci.so.23"]
    {
        fixture.file(&format!("{dir}/{name}"), "");
    }
    let findings = fixture.examine("net_ring0");
    assert_eq!(of(&findings, "drivers").found, format!("2 for networks in /{dir}: igc tap"));
}

/// Two virtio NICs with an interface each, and a disk of virtio's.
fn virtio() -> Fixture {
    let fixture = Fixture::new();
    for (pci, class, device) in [
        ("0000:00:03.0", "0x020000", "virtio2/net/eth0"),
        ("0000:00:04.0", "0x020000", "virtio3/net/eth1"),
        ("0000:00:05.0", "0x010000", "virtio4/block/vda"),
    ] {
        fixture.pci(pci, class, "virtio-pci", "");
        fixture.file(&format!("sys/bus/pci/devices/{pci}/{device}/address"), "");
    }
    fixture.file("sys/kernel/iommu_groups/0/type", "");
    fixture.file("sys/class/net/eth0/operstate", "up\n").file("sys/class/net/eth1/operstate", "down\n");
    fixture
}

#[test]
fn virtio_nics_have_their_interface_and_what_to_do() {
    let fixture = virtio();
    let nics = |device: &str| -> Vec<(Grade, String, String)> {
        let nics = fixture.examine(device).into_iter().filter(|finding| finding.check == "nic");
        nics.map(|nic| (nic.grade, nic.found, nic.next.unwrap_or_default())).collect()
    };
    let bind = |pci: &str| format!("dpdk-devbind.py --bind=vfio-pci {pci}");
    let idle = (
        Grade::Ok,
        format!("0000:00:04.0: on virtio-pci eth1 (down); for DPDK: {}", bind("0000:00:04.0")),
        String::new(),
    );
    let eth0 = "0000:00:03.0: on virtio-pci eth0 (up)";
    let free = (Grade::Ok, format!("{eth0}; for DPDK: {}", bind("0000:00:03.0")), String::new());
    assert_eq!(nics("net_ring0"), [free, idle.clone()]);
    assert_eq!(
        nics("0000:00:03.0"),
        [(Grade::Fail, eth0.to_owned(), bind("0000:00:03.0")), idle.clone()],
        "what is configured is to be bound"
    );
    assert!(fixture.examine("0000:00:03.0").iter().all(|finding| !finding.found.contains("0000:00:05.0")));
}

#[test]
fn the_nic_with_the_default_route_is_left_to_the_kernel() {
    const IPV4: &str = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\n\
        eth1\t00000000\t0112C6C6\t0003\t0\t0\t0\t00000080\n\
        eth0\t00000000\t0112C6C6\t0003\t0\t0\t0\t00000000\n";
    let ipv6 = |destination: &str, interface: &str| {
        let zeros = "0".repeat(32);
        format!("{destination} {zeros} 00 {zeros} 00000400 00000001 00000000 00000003 {interface}\n")
    };
    let default = format!("{} 00", "0".repeat(32));
    let only_ipv6 = ipv6("20010db8000000000000000000000000 40", "eth1") + &ipv6(&default, "eth0");
    for (file, routes) in [("proc/net/route", IPV4), ("proc/net/ipv6_route", &only_ipv6)] {
        let fixture = virtio();
        fixture.file(file, routes);
        let of = |device: &str, pci: &str| {
            let findings = fixture.examine(device).into_iter();
            let mut nics = findings.filter(|finding| finding.check == "nic");
            nics.find(|nic| nic.found.starts_with(pci)).expect("it is there")
        };
        let eth0 = "0000:00:03.0: on virtio-pci eth0 (up), with this machine's default route";
        let left = of("net_ring0", "0000:00:03.0");
        assert_eq!((left.grade, left.found), (Grade::Ok, format!("{eth0}: not for DPDK")), "{file}");
        let wanted = of("0000:00:03.0", "0000:00:03.0");
        assert_eq!((wanted.grade, wanted.found.as_str()), (Grade::Fail, eth0), "{file}");
        let next =
            "configure another NIC; or, from a console, dpdk-devbind.py --bind=vfio-pci 0000:00:03.0 --force";
        assert_eq!(wanted.next.as_deref(), Some(next), "{file}");
        assert!(
            of("net_ring0", "0000:00:04.0")
                .found
                .ends_with("for DPDK: dpdk-devbind.py --bind=vfio-pci 0000:00:04.0")
        );
    }
}

#[cfg(feature = "dpdk")]
#[test]
fn hugepages_are_counted_against_the_need() {
    let fixture = Fixture::new();
    for (node, free) in [("node0", "3"), ("node1", "5")] {
        let dir = format!("sys/devices/system/node/{node}/hugepages/hugepages-2048kB");
        fixture.file(&format!("{dir}/nr_hugepages"), "10\n").file(&format!("{dir}/free_hugepages"), free);
    }
    let findings = fixture.examine("net_ring0");
    let pages = of(&findings, "hugepages");
    assert_eq!(pages.grade, Grade::Fail, "huge = require");
    assert!(
        pages.found.starts_with("node0: 3 of 10 pages of 2 MB free; node1: 5 of 10 pages of 2 MB free; "),
        "{pages:?}"
    );
    assert!(pages.next.as_ref().is_some_and(|next| next.starts_with("sysctl vm.nr_hugepages=")), "{pages:?}");
}

#[test]
fn files_of_dead_programs_are_named_with_their_owner() {
    let fixture = Fixture::new();
    fixture.file("proc/mounts", "proc /proc proc rw 0 0\nnodev /dev/hugepages hugetlbfs rw 0 0\n");
    assert_eq!(of(&fixture.examine("net_ring0"), "stale files").grade, Grade::Ok);
    fixture.file("dev/hugepages/rtemap_0", "").file("dev/hugepages/rtemap_1", "");
    let findings = fixture.examine("net_ring0");
    let stale = of(&findings, "stale files");
    let uid = rustix::process::geteuid().as_raw();
    assert!(
        stale.found.starts_with(&format!("/dev/hugepages/rtemap_0 of user {uid} and 1 more")),
        "{stale:?}"
    );
    assert!(stale.next.as_ref().is_some_and(|next| next.contains("rm /dev/hugepages/rtemap_*")), "{stale:?}");
}

#[test]
fn the_kernels_settings_are_read() {
    let fixture = Fixture::new();
    fixture
        .file("proc/cmdline", "quiet isolcpus=1-3 nohz_full=1-3 rcu_nocbs=1-3\n")
        .file("proc/cpuinfo", "processor\t: 0\nmodel name\t: A CPU\nflags\t\t: fpu sse4_2 avx2\n")
        .file("proc/self/status", "Name:\thearken\nCapEff:\t0000000000003000\n")
        .file("sys/kernel/mm/transparent_hugepage/enabled", "always madvise [never]\n")
        .file("sys/devices/system/clocksource/clocksource0/current_clocksource", "hpet\n")
        .file("sys/devices/system/clocksource/clocksource0/available_clocksource", "tsc hpet acpi_pm\n");
    let findings = fixture.examine("net_ring0");
    let line = |check: &str| {
        let Finding { grade, found, next, .. } = of(&findings, check);
        (*grade, found.clone(), next.clone().unwrap_or_default())
    };
    assert_eq!(line("command line").0, Grade::Ok);
    assert_eq!(line("cpu"), (Grade::Ok, "A CPU: sse4_2 avx2".into(), String::new()));
    let (grade, found, next) = line("capabilities");
    assert_eq!(grade, Grade::Warn);
    assert!(found.starts_with("without cap_net_bind_service cap_ipc_lock,"), "{found}");
    assert!(next.contains("setcap cap_net_bind_service,cap_ipc_lock+ep"), "{next}");
    assert_eq!(line("thp").0, Grade::Warn);
    assert_eq!(
        line("clock source").2,
        "echo tsc > /sys/devices/system/clocksource/clocksource0/current_clocksource"
    );
    let text = text(&findings);
    assert!(text.contains("warn  thp            never: "), "{text}");
}
