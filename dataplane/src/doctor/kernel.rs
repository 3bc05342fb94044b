//! What hearken beside the kernel needs: the kernel's own abilities, and each interface's.

use super::{Finding, Machine};
use crate::config::Port;

/// Findings for every port with `take = "claimed"`; none where there is no such port.
pub(super) fn beside(machine: &Machine<'_>) -> Vec<Finding> {
    let ports = machine.config.iter().flat_map(|config| &config.port);
    let names: Vec<&str> = ports.filter(|port| port.is_beside_kernel()).filter_map(Port::interface).collect();
    if names.is_empty() {
        return Vec::new();
    }
    let mut findings = vec![hand_over(), syncookies(machine)];
    for name in names {
        findings.push(interface(name));
        findings.extend(driver(name));
        findings.extend(queues(machine, name));
    }
    findings
}

#[cfg(feature = "kernel")]
fn hand_over() -> Finding {
    const CHECK: &str = "hand-over";
    match hearken_bpf::support::handover() {
        Ok(()) => {
            Finding::ok(CHECK, "the kernel makes connections of verified ACKs (bpf_sk_assign_tcp_reqsk)")
        }
        Err(error) => Finding::fail(
            CHECK,
            error.to_string(),
            "run a kernel of 6.9 or newer: Debian 13 has 6.12, Debian 12 has one in its backports",
        ),
    }
}

#[cfg(not(feature = "kernel"))]
fn hand_over() -> Finding {
    let next = "build hearken with the feature \"kernel\", which is on by default and needs clang";
    Finding::fail("hand-over", "this hearken was built without it", next)
}

fn syncookies(machine: &Machine<'_>) -> Finding {
    const CHECK: &str = "syncookies";
    match machine.number("proc/sys/net/ipv4/tcp_syncookies") {
        Some(0) => Finding::fail(
            CHECK,
            "net.ipv4.tcp_syncookies is 0: the kernel takes no handshake that hearken has verified",
            "sysctl -w net.ipv4.tcp_syncookies=1",
        ),
        Some(mode) => Finding::ok(CHECK, format!("net.ipv4.tcp_syncookies is {mode}")),
        None => Finding::ok(CHECK, "the kernel does not say"),
    }
}

/// Who has the interface's XDP hook.
#[cfg(feature = "kernel")]
fn interface(name: &str) -> Finding {
    use hearken_bpf::{Claim, claim::Attached};
    const CHECK: &str = "xdp";
    let attached = crate::kernel::net::Net::read()
        .map_err(|error| error.to_string())
        .and_then(|net| net.link(name))
        .and_then(|link| Claim::attached(link.index).map_err(|error| error.to_string()));
    match attached {
        Ok(Attached::Nothing) => Finding::ok(CHECK, format!("{name}: no program is on it")),
        Ok(Attached::LeftOver) => {
            Finding::ok(CHECK, format!("{name}: what a killed hearken left, which a start replaces"))
        }
        Ok(Attached::Running { pid }) => {
            Finding::ok(CHECK, format!("{name}: the hearken that runs as process {pid}"))
        }
        Ok(Attached::Foreign { name: program, id }) => Finding::fail(
            CHECK,
            format!("{name}: the program \"{program}\" (id {id}), which is not hearken's"),
            format!("ip link set dev {name} xdp off, if it can be spared"),
        ),
        Err(error) => Finding::fail(CHECK, error, "ip link"),
    }
}

#[cfg(not(feature = "kernel"))]
fn interface(name: &str) -> Finding {
    Finding::ok("xdp", format!("{name}: not looked at"))
}

/// How the interface's driver runs an XDP program, and what that costs all else that comes in.
#[cfg(feature = "kernel")]
fn driver(name: &str) -> Option<Finding> {
    const CHECK: &str = "xdp mode";
    let link = crate::kernel::net::Net::read().ok()?.link(name).ok()?;
    let driver = hearken_bpf::support::xdp_driver(link.index).ok()?;
    let measure = "measure it: hearken-load throughput";
    Some(match (driver.native, driver.zero_copy) {
        (true, _) if link.is_veth => Finding::warn(
            CHECK,
            format!(
                "{name} is a veth: it makes an XDP frame of every frame that it receives, which halves what one stream brings in"
            ),
            format!("hearken on the host's NIC, if that is yours; {measure}"),
        ),
        (true, true) => Finding::ok(CHECK, format!("{name}: native, AF_XDP without a copy")),
        (true, false) => Finding::ok(CHECK, format!("{name}: native, AF_XDP with a copy")),
        (false, _) => Finding::warn(
            CHECK,
            format!("{name}: its driver runs no XDP programs: generic, behind it, slower for SYNs"),
            format!("a NIC whose driver runs them (ip -d link shows the mode); {measure}"),
        ),
    })
}

#[cfg(not(feature = "kernel"))]
fn driver(_name: &str) -> Option<Finding> {
    None
}

/// SYNs of a queue that no worker polls stay with the kernel.
fn queues(machine: &Machine<'_>, name: &str) -> Option<Finding> {
    let rx = machine.list(&format!("sys/class/net/{name}/queues"));
    let rx = rx.iter().filter(|queue| queue.starts_with("rx-")).count();
    let port = machine.config?.port.iter().find(|port| port.interface() == Some(name))?;
    let polled = match port.device.get_ref() {
        crate::config::Device::Dpdk(device) => device.arg("queue_count").and_then(|count| count.parse().ok()),
        _ => None,
    };
    let polled: usize = polled.unwrap_or(1);
    if rx <= polled {
        return Some(Finding::ok("xdp queues", format!("{name}: {rx} receive queues, {polled} polled")));
    }
    Some(Finding::warn(
        "xdp queues",
        format!(
            "{name}: {rx} receive queues, {polled} polled; SYNs of the others are answered by the kernel"
        ),
        format!(
            "ethtool -L {name} combined {polled}, or device = \"net_af_xdp0,iface={name},queue_count={rx}\""
        ),
    ))
}
