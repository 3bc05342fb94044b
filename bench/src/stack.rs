//! The stack that packet benches run in their own process: the same addresses and listeners as the server of
//! `hearken-bench packets`.

use std::net::{IpAddr, SocketAddr};

use anyhow::Context;
use dataplane::local::LocalTable;
use dataplane::wire::ether::MacAddr;
use listener::config::{Device, Secret, StackConfig};
use listener::limits::Limits;
use listener::sockaddr::{Caller, Family};
use listener::sysctl::Sysctl;
use listener::types::{DevIndex, InetAddr, SockFd};
use listener::{Core, Stack};

use crate::frames::{Kind, MIX_PORTS, OPEN_PORT, SERVER_MAC, SERVER_V4, SERVER_V6};

fn addresses() -> Vec<(InetAddr, u8)> {
    vec![(SERVER_V4.into(), 24), (SERVER_V6.into(), 64)]
}

/// The addresses of the device.
pub fn local_table() -> LocalTable {
    LocalTable::new(MacAddr(SERVER_MAC), &addresses(), &[])
}

/// A stack with one core and the listeners of [`Kind::Mix`]; every SYN gets a cookie, but for [`Kind::Requests`].
///
/// # Errors
/// What the listen API says.
pub fn for_kind(kind: Kind) -> anyhow::Result<(Stack, Core)> {
    let sysctl = Sysctl { tcp_syncookies: if kind == Kind::Requests { 1 } else { 2 }, ..Sysctl::default() };
    let device =
        Device { name: "pcap".into(), index: DevIndex(1), addresses: addresses(), any_ip: vec![], mtu: 1500 };
    let limits = Limits { listeners_max: 1 << 10, requests_per_core: 1 << 16, connections_per_core: 1 << 16 };
    let config =
        StackConfig { sysctl, devices: vec![device], cores: 1, limits, secret: Secret::from_seed(1) };
    let (stack, mut cores) = Stack::new(config)?;
    for port in OPEN_PORT..OPEN_PORT + MIX_PORTS {
        for (family, addr) in [(Family::Inet, IpAddr::V4(SERVER_V4)), (Family::Inet6, IpAddr::V6(SERVER_V6))]
        {
            open(&stack, family, SocketAddr::new(addr, port))
                .with_context(|| format!("{addr} port {port}"))?;
        }
    }
    let core = cores.pop().context("a stack has the cores that were asked for")?;
    Ok((stack, core))
}

/// A listener at `addr`.
///
/// # Errors
/// What the listen API says.
pub fn open(stack: &Stack, family: Family, addr: SocketAddr) -> anyhow::Result<SockFd> {
    let fail = |error: listener::error::ListenError| anyhow::anyhow!("{error:?}");
    let fd = stack.socket(family, 0).map_err(fail)?;
    stack.bind(fd, addr.into(), Caller::ROOT).map_err(fail)?;
    stack.listen(fd, 4096).map_err(fail)?;
    Ok(fd)
}
