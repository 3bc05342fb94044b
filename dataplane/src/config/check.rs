//! What one value cannot know alone: names that must exist, values that exclude each other, things given twice.

use std::net::IpAddr;

use listener::types::InetAddr;

use super::{
    BURST_MAX, Config, ConfigError, Device, DpdkDevice, Idle, Listener, Place, Port, QUEUES_MAX, Queues,
};

pub(super) type Check = Result<(), ConfigError>;

/// All checks, in the order of the sections.
pub(super) fn check(config: &Config) -> Check {
    names(config)?;
    if config.port.is_empty() {
        return Err(config.file_error("no [[port]]; add one with name, device and addresses"));
    }
    for (index, port) in config.port.iter().enumerate() {
        port_alone(config, port)?;
        for earlier in &config.port[..index] {
            ports_apart(config, port, earlier)?;
        }
    }
    burst(config)?;
    if let Some(port) = config.port.iter().find(|port| {
        config.workers.idle == Idle::Interrupt && matches!(port.device.get_ref(), Device::Pcap { .. })
    }) {
        let message = "a file raises no interrupts; set workers.idle to \"spin\", \"pause\" or \"yield\"";
        return Err(config.error(&port.device, message));
    }
    config.sysctl.check(config)?;
    cookies(config)?;
    config.listener.iter().try_for_each(|listener| listener_alone(config, listener))?;
    super::listeners::apart(config)?;
    limits(config)
}

/// A name goes into file names, command lines and log lines.
fn name_is_plain(name: &str, len_max: usize) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    !name.is_empty() && name.len() <= len_max && name.bytes().all(plain) && !name.starts_with('.')
}

fn names(config: &Config) -> Check {
    let servers = config.name.iter().chain(&config.eal.file_prefix).map(|name| (name, 32));
    // A port's name is what SO_BINDTODEVICE takes: IFNAMSIZ less its final zero.
    let ports = config.port.iter().map(|port| (&port.name, 15));
    for (name, len_max) in servers.chain(ports) {
        if !name_is_plain(name.get_ref(), len_max) {
            let found = name.get_ref();
            let message = format!("\"{found}\" is no name; use up to {len_max} letters, digits, - _ .");
            return Err(config.error(name, message));
        }
    }
    match &config.eal.memory_mib {
        Some(memory) if !(16..=1 << 20).contains(memory.get_ref()) => {
            Err(config
                .error(memory, "memory_mib must be from 16 to 1048576; or leave it out, it is computed"))
        }
        _ => Ok(()),
    }
}

fn port_alone(config: &Config, port: &Port) -> Check {
    for address in &port.addresses {
        let found = address.get_ref();
        let loopback = IpAddr::from(found.addr).is_loopback();
        if found.addr.is_any() || found.addr.is_multicast() || loopback || is_broadcast(found.addr) {
            return Err(
                config.error(address, format!("{found} cannot be a port's own; give a unicast address"))
            );
        }
    }
    for prefix in &port.any_ip {
        let found = prefix.get_ref();
        if found.addr != found.network() {
            let network = found.network();
            let len = found.len;
            return Err(config.error(
                prefix,
                format!("{found} has bits set beyond its prefix; write \"{network}/{len}\""),
            ));
        }
    }
    port_device(config, port)?;
    for (key, descriptors) in
        [("rx_descriptors", &port.rx_descriptors), ("tx_descriptors", &port.tx_descriptors)]
    {
        if !(32..=32_768).contains(descriptors.get_ref()) {
            let found = descriptors.get_ref();
            return Err(config.error(descriptors, format!("{key} must be from 32 to 32768, found {found}")));
        }
    }
    // Below 576 the default MSS does not fit (RFC 9293 §3.7.1); 9710 is what common NICs take at most.
    if !(576..=9710).contains(port.mtu.get_ref()) {
        let found = port.mtu.get_ref();
        return Err(config.error(&port.mtu, format!("mtu must be from 576 to 9710, found {found}")));
    }
    Ok(())
}

fn port_device(config: &Config, port: &Port) -> Check {
    let device = match port.device.get_ref() {
        Device::Dpdk(device) => device,
        Device::Pcap { .. } if matches!(port.queues.get_ref(), Queues::Fixed(2..)) => {
            return Err(config.error(&port.queues, "a pcap: file is one queue; remove queues"));
        }
        Device::RingPair { .. } if matches!(port.queues.get_ref(), Queues::Fixed(_)) => {
            return Err(
                config.error(&port.queues, "write the queues of a ring pair as \"ring_pair,queues=2\"")
            );
        }
        Device::Pcap { .. } | Device::RingPair { .. } => return Ok(()),
    };
    if let Some(mac) = &port.mac {
        return Err(config.error(mac, "mac is for pcap: files; a device has its own, remove it"));
    }
    // A plugin of somebody else's may bring any driver.
    let plugin = config.eal.args.iter().any(|arg| arg.starts_with("-d"));
    if let Some(driver) = device.driver().filter(|_| !plugin)
        && let Some(nearest) = super::device::nearest_drivers(&driver)
    {
        let message = format!(
            "DPDK has no driver \"{driver}\"; the nearest are {nearest}. One of a plugin of your own wants eal.args = [\"-d…\"]"
        );
        return Err(config.error(&port.device, message));
    }
    if device.driver().as_deref() == Some("net_af_packet") {
        packet_ring(config, port, device)?;
    }
    // The driver opens all its sockets at once and the kernel spreads frames over all of them: those of a queue that
    // nobody polls would be lost.
    let key = match device.driver().as_deref() {
        Some("net_af_packet") => "qpairs",
        Some("net_af_xdp") => "queue_count",
        _ => return Ok(()),
    };
    let found = device.arg(key).unwrap_or("1");
    let Ok(pairs @ 1..=QUEUES_MAX) = found.parse::<u16>() else {
        return Err(
            config.error(&port.device, format!("{key} must be from 1 to {QUEUES_MAX}, found {found}"))
        );
    };
    match port.queues.get_ref() {
        Queues::Fixed(queues) if *queues != pairs => {
            let message = format!(
                "queues = {queues}, and the device string says {key}={pairs}; make them equal, or leave queues out"
            );
            Err(config.error(&port.queues, message))
        }
        _ => Ok(()),
    }
}

/// The driver takes the frames of a packet socket's ring to lie one behind the other, which the kernel does only where a block
/// holds whole frames.
fn packet_ring(config: &Config, port: &Port, device: &DpdkDevice) -> Check {
    let (framesz, blocksz) = (device.arg("framesz"), device.arg("blocksz"));
    if framesz.is_none() && blocksz.is_none() {
        return Ok(());
    }
    let (framesz, blocksz) = (framesz.unwrap_or("2048"), blocksz.unwrap_or("4096"));
    let number = |text: &str| text.parse::<u32>().unwrap_or_default();
    let (frame, block) = (number(framesz), number(blocksz));
    let fits = (512..=32_768).contains(&frame)
        && frame.is_multiple_of(16)
        && block > 0
        && block.is_multiple_of(frame);
    if fits && block.is_multiple_of(4096) {
        return Ok(());
    }
    let message = format!(
        "framesz={framesz} and blocksz={blocksz} make no ring: framesz must be a multiple of 16 from 512 to 32768, blocksz one of \
         4096 and of framesz; leave both out, they follow from mtu"
    );
    Err(config.error(&port.device, message))
}

fn is_broadcast(addr: InetAddr) -> bool {
    addr.as_v4() == Some(u32::MAX)
}

fn ports_apart(config: &Config, port: &Port, earlier: &Port) -> Check {
    if port.name.get_ref() == earlier.name.get_ref() {
        let (name, line) = (port.name.get_ref(), also(config.place(&earlier.name)));
        return Err(
            config.error(&port.name, format!("port \"{name}\" is there already, {line}; give another name"))
        );
    }
    match (port.device.get_ref(), earlier.device.get_ref()) {
        (Device::Dpdk(device), Device::Dpdk(other)) if device.name() == other.name() => {
            let (name, line) = (device.name(), also(config.place(&earlier.device)));
            Err(config.error(&port.device, format!("device {name} is there already, {line}; use each once")))
        }
        (device, other) if is_file(device) != is_file(other) => {
            let line = also(config.place(&earlier.device));
            let message = format!(
                "pcap: files and DPDK devices do not mix (the other kind: {line}); for files through DPDK use \
                 \"net_pcap0,rx_pcap=IN.pcap,tx_pcap=OUT.pcap\""
            );
            Err(config.error(&port.device, message))
        }
        _ => Ok(()),
    }
}

fn is_file(device: &Device) -> bool {
    matches!(device, Device::Pcap { .. })
}

/// `line 12`, or `by default` where there is none.
pub(super) fn also(place: Place) -> String {
    place.line.map_or_else(|| "by default".to_owned(), |line| format!("line {line}"))
}

fn burst(config: &Config) -> Check {
    let burst = &config.workers.burst;
    if !(4..=BURST_MAX).contains(burst.get_ref()) || !burst.get_ref().is_multiple_of(4) {
        let found = burst.get_ref();
        return Err(config
            .error(burst, format!("burst must be a multiple of 4 from 4 to {BURST_MAX}, found {found}")));
    }
    Ok(())
}

fn listener_alone(config: &Config, listener: &Listener) -> Check {
    if let Some(v6only) = &listener.v6only
        && *v6only.get_ref()
        && listener.addr.get_ref().ip.is_ipv4()
    {
        let addr = listener.addr.get_ref();
        return Err(config.error(v6only, format!("v6only on the IPv4 address {addr}; remove it")));
    }
    if let Some(device) = &listener.device
        && !config.port.iter().any(|port| port.name.get_ref() == device.get_ref())
    {
        let known: Vec<&str> = config.port.iter().map(|port| port.name.get_ref().as_str()).collect();
        let (found, known) = (device.get_ref(), known.join(", "));
        return Err(config.error(device, format!("no port is named \"{found}\"; there are: {known}")));
    }
    Ok(())
}

fn cookies(config: &Config) -> Check {
    let never = config.sysctl.tcp_syncookies.as_ref().is_some_and(|mode| *mode.get_ref() == 0);
    match &config.cookies.secret_file {
        Some(file) if never => {
            Err(config.error(file, "secret_file with tcp_syncookies = 0, which makes no cookies; remove one"))
        }
        _ => Ok(()),
    }
}

fn limits(config: &Config) -> Check {
    let limits = &config.limits;
    let entries = [
        ("listeners_max", &limits.listeners_max, 1 << 24),
        ("requests_per_core", &limits.requests_per_core, 1 << 24),
        ("connections_per_core", &limits.connections_per_core, 1 << 24),
    ];
    for (key, value, most) in entries {
        if !(1..=most).contains(value.get_ref()) {
            let found = value.get_ref();
            return Err(config.error(value, format!("{key} must be from 1 to {most}, found {found}")));
        }
    }
    Ok(())
}
