//! How long a port's frames may be: what of `mtu` its driver and its interface allow, and the room that one frame needs, so
//! that it never takes two buffers.
//!
//! # What drivers do (DPDK 22.11)
//! - `net_af_packet` takes no MTU above 1500 from DPDK, and does not mind it either: frames are as long as the interface's MTU
//!   and `framesz` allow. So DPDK is not asked; the interface's MTU counts, which stays as the operator has set it. The driver
//!   copies what lies in a frame of its ring without looking how long the buffer is: buffers are never shorter.
//! - `net_tap` takes 1504 at most, and drops longer frames when it sends.
//! - `net_af_xdp` wants a buffer with all its headers in one page.
//! - `net_e1000_em` rounds the buffer down to a power of two, others to 1,024 octets at most.

use crate::config::{Device, DpdkDevice, Port};

/// Ethernet header and two tags, what a frame is longer than the MTU.
const LINK_HEADER: u32 = 14 + 2 * 4;
/// What a frame of a packet socket's ring holds before the frame itself: its header, an address and alignment.
const RING_HEADER: u32 = 80;
/// Room of a buffer that takes an ordinary frame: DPDK's own.
const ROOM_DEFAULT: u32 = 2048;
/// `framesz` of net_af_packet, if it is not given.
pub const FRAMESZ_DEFAULT: u32 = 2048;
/// The most that net_tap takes: its frames end at 1,522 octets, of which DPDK counts 18 as the link's.
const TAP_MTU_MAX: u16 = 1504;

/// The octets of IP that a frame of a port may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mtu {
    /// So many, as far as it is known before the device is asked.
    pub octets: u16,
    /// Why it is less than what was configured, and what to do.
    pub clamp: Option<String>,
}

/// What of `port.mtu` its driver and interface allow.
pub fn mtu(port: &Port) -> Mtu {
    fitted(port, interface_mtu)
}

fn fitted(port: &Port, interface_mtu: impl Fn(&str) -> Option<u16>) -> Mtu {
    let wanted = *port.mtu.get_ref();
    let whole = Mtu { octets: wanted, clamp: None };
    let Device::Dpdk(device) = port.device.get_ref() else { return whole };
    let clamp = |octets: u16, why: String| Mtu {
        octets,
        clamp: Some(format!("mtu {wanted} asked for, {why}: using {octets}")),
    };
    match device.driver().as_deref() {
        Some("net_tap") if wanted > TAP_MTU_MAX => {
            clamp(TAP_MTU_MAX, format!("DPDK's driver net_tap takes {TAP_MTU_MAX} at most"))
        }
        Some("net_af_packet") => {
            let interface = device.arg("iface").unwrap_or_default();
            let framesz = framesz(device, wanted);
            let holds = framesz.saturating_sub(RING_HEADER + LINK_HEADER);
            match interface_mtu(interface) {
                Some(has) if has < wanted && u32::from(has) <= holds => {
                    let why = format!(
                        "the interface {interface} has {has} (to change that: ip link set dev {interface} mtu {wanted})"
                    );
                    clamp(has, why)
                }
                _ if holds < wanted.into() => {
                    let why = format!("framesz={framesz} holds {holds} (left out, it follows from mtu)");
                    clamp(u16::try_from(holds).unwrap_or(wanted), why)
                }
                _ => whole,
            }
        }
        _ => whole,
    }
}

/// `framesz` of a net_af_packet: as given, or what frames of `mtu` need. A block must hold whole frames, and blocks are powers
/// of two.
fn framesz(device: &DpdkDevice, mtu: u16) -> u32 {
    let given = device.arg("framesz").and_then(|octets| octets.parse().ok());
    let own = || match device.arg("blocksz") {
        Some(_) => FRAMESZ_DEFAULT,
        None => (u32::from(mtu) + LINK_HEADER + RING_HEADER).next_power_of_two().max(FRAMESZ_DEFAULT),
    };
    given.unwrap_or_else(own)
}

/// The device string of `device` as DPDK gets it for frames of `mtu`.
pub fn devargs(device: &DpdkDevice, mtu: u16) -> String {
    let framesz = framesz(device, mtu);
    let packet = device.driver().as_deref() == Some("net_af_packet");
    if !packet || device.arg("framesz").is_some() || framesz == FRAMESZ_DEFAULT {
        return device.devargs().to_owned();
    }
    format!("{},framesz={framesz},blocksz={framesz}", device.devargs())
}

/// Octets that a buffer must hold so that no frame of `mtu` needs two. `driver` is DPDK's name for it, once it is known.
pub fn room(device: &Device, driver: Option<&str>, mtu: u16) -> u16 {
    let frame = u32::from(mtu) + LINK_HEADER;
    let virtual_device = match device {
        Device::Dpdk(device) => Some(device),
        _ => None,
    };
    let known = virtual_device.and_then(DpdkDevice::driver);
    let room = match (driver.or(known.as_deref()), virtual_device) {
        (Some("net_af_packet"), Some(device)) => framesz(device, mtu).max(frame),
        (Some("net_af_xdp"), _) => frame.next_multiple_of(64),
        (Some("net_e1000_em"), _) => frame.next_power_of_two(),
        _ => frame.next_multiple_of(1024),
    };
    // The configuration allows no MTU and no framesz that would not fit.
    u16::try_from(room.max(ROOM_DEFAULT)).unwrap_or(u16::MAX - 1024)
}

/// The MTU of an interface of this network namespace; none if it cannot be told.
#[cfg(feature = "kernel")]
fn interface_mtu(name: &str) -> Option<u16> {
    crate::kernel::mtu(name).ok()
}

#[cfg(not(feature = "kernel"))]
fn interface_mtu(name: &str) -> Option<u16> {
    let text = std::fs::read_to_string(format!("/sys/class/net/{name}/mtu")).ok()?;
    Some(text.trim().parse::<u32>().ok()?.try_into().unwrap_or(u16::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn port(device: &str, mtu: u16) -> Port {
        let text = format!("[[port]]\nname = \"p0\"\ndevice = \"{device}\"\nmtu = {mtu}\n");
        Config::parse(std::path::Path::new("h.toml"), text).expect("a configuration").port.remove(0)
    }

    #[test]
    fn an_mtu_is_what_driver_and_interface_allow() {
        let fit = |device: &str, mtu: u16, interface: u16| {
            let fitted = fitted(&port(device, mtu), |_| Some(interface));
            (fitted.octets, fitted.clamp.unwrap_or_default())
        };
        let packet = "net_af_packet0,iface=x";
        assert_eq!(fit(packet, 9000, 9000), (9000, String::new()));
        assert_eq!(fit(packet, 1500, 9000), (1500, String::new()));
        assert_eq!(
            fit(packet, 9000, 1500),
            (
                1500,
                "mtu 9000 asked for, the interface x has 1500 (to change that: ip link set dev x mtu 9000): using 1500"
                    .into()
            )
        );
        assert_eq!(
            fit("net_af_packet0,iface=x,framesz=4096", 9000, 9000),
            (
                3994,
                "mtu 9000 asked for, framesz=4096 holds 3994 (left out, it follows from mtu): using 3994"
                    .into()
            )
        );
        assert_eq!(fit("net_af_packet0,iface=x,framesz=4096", 9000, 1500).0, 1500);
        assert_eq!(fit("net_tap0", 1500, 1500), (1500, String::new()));
        assert_eq!(
            fit("net_tap0", 9000, 1500),
            (1504, "mtu 9000 asked for, DPDK's driver net_tap takes 1504 at most: using 1504".into())
        );
        assert_eq!(fit("0000:01:00.0", 9000, 1500), (9000, String::new()));
        let unknown = super::fitted(&port(packet, 9000), |_| None);
        assert_eq!(unknown, Mtu { octets: 9000, clamp: None });
    }

    #[test]
    fn a_frame_fits_one_buffer() {
        let room = |device: &str, driver, mtu| super::room(port(device, mtu).device.get_ref(), driver, mtu);
        assert_eq!(room("net_ring0", None, 1500), 2048);
        assert_eq!(room("net_ring0", None, 9000), 9216);
        assert_eq!(room("0000:01:00.0", Some("net_ixgbe"), 9710), 10_240);
        assert_eq!(room("0000:01:00.0", Some("net_e1000_em"), 9000), 16_384);
        assert_eq!(room("net_af_xdp0,iface=x", None, 3400), 3456);
        assert_eq!(room("net_af_packet0,iface=x", None, 1500), 2048);
        assert_eq!(room("net_af_packet0,iface=x", None, 9000), 16_384);
        assert_eq!(room("net_af_packet0,iface=x,framesz=32768,blocksz=32768", None, 1500), 32_768);
    }

    #[test]
    fn a_ring_holds_the_frames() {
        let devargs = |device: &str, mtu| match port(device, mtu).device.get_ref() {
            Device::Dpdk(device) => super::devargs(device, mtu),
            other => panic!("{other:?}"),
        };
        assert_eq!(devargs("net_af_packet0,iface=x", 1500), "net_af_packet0,iface=x");
        assert_eq!(
            devargs("net_af_packet0,iface=x", 9000),
            "net_af_packet0,iface=x,framesz=16384,blocksz=16384"
        );
        let given = "net_af_packet0,iface=x,framesz=4096";
        assert_eq!(devargs(given, 9000), given);
        assert_eq!(devargs("net_tap0", 9000), "net_tap0");
    }
}
