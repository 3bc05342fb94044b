use listener::types::TcpPort;

use super::*;

const PORT: &str = "[[port]]\nname = \"p0\"\ndevice = \"net_ring0\"\n";

fn parse(text: &str) -> Result<Config, String> {
    Config::parse(Path::new("h.toml"), text.to_owned()).map_err(|error| error.to_string())
}

/// The message for `PORT` (lines 1 to 3) followed by `text` (from line 4).
#[track_caller]
fn refused(text: &str) -> String {
    parse(&format!("{PORT}{text}")).expect_err("a configuration that must be refused")
}

#[test]
fn a_port_is_all_that_is_needed() {
    let config = parse(PORT).expect("a minimal configuration");
    assert_eq!(config.name(), "hearken");
    assert_eq!(config.eal.huge, Huge::Auto);
    assert_eq!(*config.workers.burst.get_ref(), 32);
    assert_eq!(*config.port[0].mtu.get_ref(), 1500);
    assert_eq!(config.port[0].queues.get_ref(), &Queues::Auto);
    assert_eq!(config.place(&config.port[0].mtu).line, None);
    assert_eq!(config.place(&config.port[0].device).to_string(), "h.toml:3");
}

#[test]
fn everything_that_may_stand_in_a_file_is_read() {
    let config = parse(
        r#"
name = "edge"
[control]
socket = "/tmp/edge.sock"
[eal]
huge = "never"
memory_mib = 256
file_prefix = "edge"
args = ["--log-level=lib.eal:debug"]
[[port]]
name = "wan"
device = "0000:01:00.0,rxq_pkt_pad_en=1"
addresses = ["198.18.0.1/24", "2001:db8::1/64"]
any_ip = ["198.19.0.0/16"]
queues = 2
rx_descriptors = 512
tx_descriptors = 256
mtu = 9000
promiscuous = true
offloads = "off"
rx_timestamps = true
[workers]
cores = [2, 3]
burst = 64
idle = "pause"
[[listener]]
addr = "[::]:443"
backlog = -1
reuseport = true
v6only = true
device = "wan"
then = "discard"
defer_accept = 30
[limits]
listeners_max = 10
requests_per_core = 20
connections_per_core = 30
rst_per_second = 40
"#,
    )
    .expect("a full configuration");
    assert_eq!(config.socket(), PathBuf::from("/tmp/edge.sock"));
    let port = &config.port[0];
    assert_eq!(port.addresses[0].get_ref().to_string(), "198.18.0.1/24");
    assert_eq!(port.any_ip[0].get_ref().len, 16);
    assert_eq!(port.queues.get_ref(), &Queues::Fixed(2));
    assert_eq!(port.offloads, Offloads::Off);
    assert!(port.rx_timestamps);
    assert_eq!(config.workers.cores.get_ref(), &Cores::These(vec![2, 3]));
    let listener = &config.listener[0];
    assert_eq!((listener.backlog, listener.then, listener.defer_accept), (-1, ThenName::Discard, 30));
    assert_eq!(listener.addr.get_ref().to_string(), "[::]:443");
    assert_eq!(config.limits.rst_per_second, 40);
}

#[test]
fn unknown_and_missing_keys_are_refused_with_their_line() {
    assert_eq!(
        refused("mtuu = 1500\n"),
        "h.toml:4: unknown field `mtuu`, expected one of `name`, `device`, `mac`, `addresses`, `any_ip`, `take`, `queues`, \
         `rx_descriptors`, `tx_descriptors`, `mtu`, `promiscuous`, `offloads`, `rx_timestamps`; correct or remove it"
    );
    assert_eq!(parse("[[port]]\nname = \"p0\"\n").unwrap_err(), "h.toml:1: missing field `device`; add it");
    assert_eq!(
        refused("[worker]\n"),
        "h.toml:4: unknown field `worker`, expected one of `name`, `control`, `metrics`, `eal`, `port`, `kernel`, \
         `shield`, `workers`, `cookies`, `listener`, `sysctl`, `limits`; correct or remove it"
    );
    assert_eq!(
        refused("[eal]\nhuge = \"maybe\"\n"),
        "h.toml:5: unknown variant `maybe`, expected one of `auto`, `require`, `never`; correct or remove it"
    );
    assert_eq!(
        parse("name = \"x\"\n").unwrap_err(),
        "h.toml: no [[port]]; add one with name, device and addresses"
    );
}

#[test]
fn what_is_not_toml_is_refused_with_its_line() {
    let message = refused("mtu = = 5\n");
    assert!(message.starts_with("h.toml:4: "), "{message}");
    let message = refused("offloads = \"auto\n");
    assert!(message.starts_with("h.toml:4: "), "{message}");
    let message = parse("").unwrap_err();
    assert!(message.starts_with("h.toml: no [[port]]"), "{message}");
}

#[test]
fn addresses_are_checked() {
    assert_eq!(
        refused("addresses = [\n  \"198.18.0.1/24\",\n  \"198.18.0.256/24\",\n]\n"),
        "h.toml:6: \"198.18.0.256\" is no IP address; write an address with its prefix length, such as \"198.18.0.1/24\""
    );
    assert_eq!(
        refused("addresses = [\"198.18.0.1\"]\n"),
        "h.toml:4: \"198.18.0.1\" has no prefix length; write an address with one, such as \"198.18.0.1/24\""
    );
    assert_eq!(
        refused("addresses = [\"198.18.0.1/33\"]\n"),
        "h.toml:4: \"198.18.0.1/33\": the prefix length must be a number from 0 to 32"
    );
    for address in
        ["0.0.0.0/0", "224.0.0.1/4", "127.0.0.1/8", "::/0", "::1/128", "ff02::1/16", "255.255.255.255/32"]
    {
        assert_eq!(
            refused(&format!("addresses = [\"{address}\"]\n")),
            format!("h.toml:4: {address} cannot be a port's own; give a unicast address")
        );
    }
    assert_eq!(
        refused("any_ip = [\"198.19.1.0/16\"]\n"),
        "h.toml:4: 198.19.1.0/16 has bits set beyond its prefix; write \"198.19.0.0/16\""
    );
    assert_eq!(
        refused("any_ip = [\"2001:db8::1/32\"]\n"),
        "h.toml:4: 2001:db8::1/32 has bits set beyond its prefix; write \"2001:db8::/32\""
    );
    parse(&format!("{PORT}any_ip = [\"0.0.0.0/0\", \"::/0\"]\n")).expect("the whole Internet is a prefix");
}

#[test]
fn devices_are_checked() {
    assert_eq!(
        device("eth1").unwrap_err(),
        "h.toml:3: \"eth1\" is no device; wanted a PCI address such as \"0000:01:00.0\", a virtual device such as \
         \"net_af_packet0,iface=eth1,qpairs=2\", or \"pcap:IN.pcap,OUT.pcap\""
    );
    assert_eq!(
        device("net_af_packet0").unwrap_err(),
        "h.toml:3: \"net_af_packet0\" names no interface; add it, such as \"net_af_packet0,iface=eth1\" (see \"ip link\")"
    );
    assert_eq!(
        device("pcap:a.pcap,a.pcap").unwrap_err(),
        "h.toml:3: \"pcap:a.pcap,a.pcap\" wants two different files; write \"pcap:IN.pcap,OUT.pcap\""
    );
    assert_eq!(device("ring_pair"), Ok(Device::RingPair { queues: 1 }));
    assert_eq!(device("ring_pair,queues=2"), Ok(Device::RingPair { queues: 2 }));
    assert_eq!(
        device("ring_pair,queues=17").unwrap_err(),
        "h.toml:3: \"ring_pair,queues=17\" wants 1 to 16 queues; write \"ring_pair,queues=2\""
    );
    assert!(device("net_tap0 ,iface=x").is_err());
    let Ok(Device::Dpdk(pci)) = device("01:00.0,a=b") else { panic!("a PCI device") };
    assert_eq!(
        (pci.name(), pci.pci(), pci.driver()),
        ("0000:01:00.0".into(), Some("0000:01:00.0".into()), None)
    );
    let Ok(Device::Dpdk(vdev)) = device("net_af_packet12,iface=eth1,qpairs=2") else {
        panic!("a virtual device")
    };
    assert_eq!(vdev.driver().as_deref(), Some("net_af_packet"));
    assert_eq!((vdev.arg("iface"), vdev.arg("qpairs"), vdev.arg("if")), (Some("eth1"), Some("2"), None));
    assert_eq!(vdev.pci(), None);
    let af_packet = |rest: &str| {
        parse(&format!("[[port]]\nname = \"p\"\ndevice = \"net_af_packet0,iface=eth1{rest}")).map(drop)
    };
    assert_eq!(af_packet(",qpairs=2\"\nqueues = 2"), Ok(()));
    assert_eq!(
        af_packet("\"\nqueues = 2").unwrap_err(),
        "h.toml:4: queues = 2, and the device string says qpairs=1; make them equal, or leave queues out"
    );
    assert_eq!(af_packet(",qpairs=0\"").unwrap_err(), "h.toml:3: qpairs must be from 1 to 128, found 0");
    assert_eq!(
        refused("mac = \"02:00:00:00:00:01\"\n"),
        "h.toml:4: mac is for pcap: files; a device has its own, remove it"
    );
    assert_eq!(
        refused("mac = \"01:00:5e:00:00:01\"\n"),
        "h.toml:4: \"01:00:5e:00:00:01\" is no device's MAC address; write one such as \"02:00:00:00:00:01\""
    );
    for not_pci in ["0000:01:00.8", "0000:1:00.0", "0000:01:0g.0", "01.0", "1:2:3:4.0"] {
        assert!(device(not_pci).is_err(), "{not_pci}");
    }
}

/// The device string `text`, checked in a configuration that is right otherwise.
fn device(text: &str) -> Result<Device, String> {
    parse(&format!("[[port]]\nname = \"p\"\ndevice = \"{text}\"\n"))
        .map(|c| c.port[0].device.get_ref().clone())
}

#[test]
fn drivers_that_dpdk_has_not_are_refused_with_the_nearest() {
    for (bad, nearest) in
        [("net_rign0", "net_ring"), ("net_af_paket0,iface=x", "net_af_packet"), ("eth_tpa1", "net_tap")]
    {
        let message = device(bad).unwrap_err();
        assert!(
            message.starts_with("h.toml:3: DPDK has no driver \"")
                && message.contains(&format!("the nearest are {nearest}, ")),
            "{message}"
        );
    }
    for good in ["eth_ring0", "net_tun3", "virtio_user0,path=/dev/vhost-net", "net_memif", "net_null0"] {
        assert!(device(good).is_ok(), "{good}");
    }
    let plugin = "[[port]]\nname = \"p\"\ndevice = \"net_own0\"\n[eal]\nargs = [\"-d/lib/own.so\"]\n";
    assert!(parse(plugin).is_ok());
}

#[test]
fn rings_of_packet_sockets_hold_whole_frames() {
    let af_packet = |rest: &str| {
        parse(&format!("[[port]]\nname = \"p\"\ndevice = \"net_af_packet0,iface=eth1{rest}")).map(drop)
    };
    for ring in [",framesz=16384,blocksz=16384", ",framesz=1024", ",blocksz=65536"] {
        assert_eq!(af_packet(&format!("{ring}\"")), Ok(()), "{ring}");
    }
    for ring in [
        ",framesz=3000",
        ",framesz=8192",
        ",framesz=x",
        ",framesz=0",
        ",blocksz=1000",
        ",framesz=65536,blocksz=65536",
    ] {
        let message = af_packet(&format!("{ring}\"")).unwrap_err();
        assert!(
            message.starts_with("h.toml:3: framesz=") && message.contains("make no ring"),
            "{ring}: {message}"
        );
    }
}

#[test]
fn ports_are_told_apart() {
    assert_eq!(
        refused("[[port]]\nname = \"p0\"\ndevice = \"net_ring1\"\n"),
        "h.toml:5: port \"p0\" is there already, line 2; give another name"
    );
    assert_eq!(
        refused("[[port]]\nname = \"p1\"\ndevice = \"net_ring0,nodeaction=x\"\n"),
        "h.toml:6: device net_ring0 is there already, line 3; use each once"
    );
    assert_eq!(
        refused("[[port]]\nname = \"p1\"\ndevice = \"pcap:a.pcap\"\n"),
        "h.toml:6: pcap: files and DPDK devices do not mix (the other kind: line 3); for files through DPDK use \
         \"net_pcap0,rx_pcap=IN.pcap,tx_pcap=OUT.pcap\""
    );
    assert_eq!(
        refused("[[port]]\nname = \"a b\"\ndevice = \"net_ring1\"\n"),
        "h.toml:5: \"a b\" is no name; use up to 15 letters, digits, - _ ."
    );
}

#[test]
fn numbers_have_their_ranges() {
    assert_eq!(
        refused("queues = 0\n"),
        "h.toml:4: invalid value: integer `0`, expected \"auto\" or a number from 1 to 128"
    );
    assert_eq!(refused("mtu = 100\n"), "h.toml:4: mtu must be from 576 to 9710, found 100");
    assert_eq!(refused("rx_descriptors = 8\n"), "h.toml:4: rx_descriptors must be from 32 to 32768, found 8");
    assert_eq!(
        refused("[workers]\nburst = 30\n"),
        "h.toml:5: burst must be a multiple of 4 from 4 to 64, found 30"
    );
    assert_eq!(
        refused("[workers]\ncores = [1, 1]\n"),
        "h.toml:5: core 1 is listed twice; one worker runs on each core, remove one"
    );
    assert_eq!(
        refused("[workers]\ncores = []\n"),
        "h.toml:5: invalid length 0, expected \"auto\" or a list of core numbers such as [1, 2]"
    );
    assert_eq!(
        refused("[limits]\nlisteners_max = 0\n"),
        "h.toml:5: listeners_max must be from 1 to 16777216, found 0"
    );
    assert_eq!(
        refused("[eal]\nmemory_mib = 1\n"),
        "h.toml:5: memory_mib must be from 16 to 1048576; or leave it out, it is computed"
    );
}

#[test]
fn listeners_are_checked() {
    assert_eq!(
        refused("[[listener]]\naddr = \"198.18.0.1:0\"\n"),
        "h.toml:5: \"198.18.0.1:0\": port 0 is none to listen on; give ports from 1 to 65535 such as 80, 8000-8100 or \
         80,443,8000-8100"
    );
    assert_eq!(
        refused("[[listener]]\naddr = \"198.18.0.1\"\n"),
        "h.toml:5: \"198.18.0.1\" is no address with a port; write one such as \"198.18.0.1:80\", \"[2001:db8::1]:80\" or, \
         with several ports, \"0.0.0.0:80,443,8000-8100\""
    );
    assert_eq!(
        refused("[[listener]]\naddr = \"198.18.0.1:80\"\nv6only = true\n"),
        "h.toml:6: v6only on the IPv4 address 198.18.0.1:80; remove it"
    );
    assert_eq!(
        refused("[[listener]]\naddr = \"198.18.0.1:80\"\ndevice = \"p1\"\n"),
        "h.toml:6: no port is named \"p1\"; there are: p0"
    );
    let twice = "[[listener]]\naddr = \"198.18.0.1:80\"\n[[listener]]\naddr = \"198.18.0.1:80\"\n";
    assert_eq!(
        refused(twice),
        "h.toml:7: listener 198.18.0.1:80 is there already, line 5; remove one, or set reuseport = true in both to \
         share it"
    );
    parse(&format!("{PORT}{}", twice.replace("80\"", "80\"\nreuseport = true"))).expect("a reuseport group");
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let error = Config::load(Path::new("/nonexistent/h.toml")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "/nonexistent/h.toml: cannot read it: No such file or directory (os error 2); give the path of a \
         configuration file with --config"
    );
}

#[test]
fn sysctls_have_the_kernels_names_values_and_defaults() {
    let config = parse(&format!(
        "{PORT}[sysctl]\nsomaxconn = 128\ntcp_syncookies = 2\ntcp_sack = 0\ntcp_rfc1337 = true\n\
         ip_local_port_range = [40000, 40001]\nip_local_reserved_ports = \"80,8000-8080\"\n"
    ))
    .expect("sysctls");
    let wanted = listener::sysctl::Sysctl {
        somaxconn: 128,
        tcp_syncookies: 2,
        tcp_sack: false,
        tcp_rfc1337: true,
        ip_local_port_range: (TcpPort(40000), TcpPort(40001)),
        ip_local_reserved_ports: vec![(TcpPort(80), TcpPort(80)), (TcpPort(8000), TcpPort(8080))],
        ..Default::default()
    };
    assert_eq!(config.sysctl.values(), wanted);
    assert_eq!(parse(PORT).expect("defaults").sysctl.values(), listener::sysctl::Sysctl::default());

    let refusals = [
        ("tcp_syncookies = 3", "tcp_syncookies must be from 0 to 2, found 3"),
        ("tcp_sack = 2", "invalid value: integer `2`, expected 0 or 1"),
        ("tcp_synack_retries = 300", "invalid value: integer `300`, expected u8"),
        (
            "ip_local_port_range = [2, 1]",
            "ip_local_port_range must be two ports, the lower first, found [2, 1]",
        ),
        (
            "ip_local_reserved_ports = \"9-8\"",
            "\"9-8\" is no port or range; write them such as \"80,8000-8080\"",
        ),
        ("tcp_rmem = [4096, 4095, 4096]", "tcp_rmem must be three sizes that grow, found [4096, 4095, 4096]"),
    ];
    for (line, message) in refusals {
        assert_eq!(refused(&format!("[sysctl]\n{line}\n")), format!("h.toml:5: {message}"));
    }
    // Every knob of the stack can be set: the message that lists them names each.
    let message = refused("[sysctl]\ntcp_mem = 1\n");
    assert!(message.starts_with("h.toml:5: unknown field `tcp_mem`, expected one of"));
    let knobs = format!("{:#?}", listener::sysctl::Sysctl::default());
    let fields = knobs.lines().filter_map(|line| line.strip_prefix("    ")?.split_once(':'));
    let knobs: Vec<&str> = fields.map(|(name, _)| name).filter(|name| !name.starts_with(' ')).collect();
    assert!(knobs.len() > 20 && knobs.contains(&"somaxconn"), "{knobs:?}");
    for knob in knobs {
        assert!(message.contains(&format!("`{knob}`")), "{knob} cannot be set");
    }
}
