//! Configuration in, stack and listeners out.

use std::fs::File;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::sync::Arc;

use listener::config::{Device, Secret, StackConfig};
use listener::limits::Limits;
use listener::sockaddr::Caller;
use listener::types::InetAddr;
use listener::{Core, Stack};
use rustix::thread::CapabilitySet;

use crate::config::{Config, ConfigError, Listener, Prefix, Spanned};
use crate::control::listeners::{Opened, close_each, open, open_each, refuse_listen};
use crate::control::proto::Listen;
use crate::control::service::dev_index;

/// The prefixes as the stack takes them.
pub fn prefixes(list: &[Spanned<Prefix>]) -> Vec<(InetAddr, u8)> {
    list.iter().map(|prefix| (prefix.get_ref().addr, prefix.get_ref().len)).collect()
}

/// Names of the ports, in the order of their device numbers.
pub fn port_names(config: &Config) -> Vec<String> {
    config.port.iter().map(|port| port.name.get_ref().clone()).collect()
}

/// A stack for `cores` workers. `mtus` are those of the ports, which may be less than was asked for.
///
/// # Errors
/// What the stack finds wrong with the values.
pub fn build(
    config: &Config,
    mtus: &[u16],
    cores: u16,
    secret: Secret,
) -> Result<(Stack, Vec<Core>), ConfigError> {
    let limits = Limits {
        listeners_max: *config.limits.listeners_max.get_ref(),
        requests_per_core: *config.limits.requests_per_core.get_ref(),
        connections_per_core: *config.limits.connections_per_core.get_ref(),
    };
    with_limits(config, mtus, cores, limits, secret)
}

fn with_limits(
    config: &Config,
    mtus: &[u16],
    cores: u16,
    limits: Limits,
    secret: Secret,
) -> Result<(Stack, Vec<Core>), ConfigError> {
    let device = |(place, port): (usize, &crate::config::Port)| Device {
        name: port.name.get_ref().clone(),
        index: dev_index(place),
        addresses: prefixes(&port.addresses),
        any_ip: match port.is_beside_kernel() {
            // What is local is the kernel's to say, and the claim has asked it.
            true => vec![(InetAddr::ANY_V4, 0), (InetAddr::ANY_V6, 0)],
            false => prefixes(&port.any_ip),
        },
        mtu: mtus.get(place).copied().unwrap_or(*port.mtu.get_ref()),
    };
    let devices = config.port.iter().enumerate().map(device).collect();
    let stack = StackConfig { sysctl: config.sysctl.values(), devices, cores, limits, secret };
    Stack::new(stack).map_err(|error| config.file_error(format!("{error}; correct it")))
}

/// Opens the configured listeners, all of them or none.
///
/// # Errors
/// The first that the stack refuses, with its line.
pub fn open_listeners(stack: &Stack, config: &Config) -> Result<Vec<Opened>, ConfigError> {
    let (caller, mut opened) = (caller(), Vec::with_capacity(config.listeners()));
    for listener in &config.listener {
        match open_each(stack, &Arc::new(listen_of(listener)), caller) {
            Ok(each) => opened.extend(each),
            Err((addr, error)) => {
                close_each(stack, &opened);
                let refusal = refuse_listen(error, addr, &port_names(config));
                return Err(config.error(&listener.addr, refusal.to_string()));
            }
        }
    }
    Ok(opened)
}

/// This process, as the one that opens what the configuration says.
pub fn caller() -> Caller {
    let uid = rustix::process::geteuid().as_raw();
    let cap_net_bind_service = super::machine::capabilities().contains(CapabilitySet::NET_BIND_SERVICE);
    Caller { uid, cap_net_bind_service }
}

/// What a listener of the configuration asks of the stack.
pub fn listen_of(listener: &Listener) -> Listen {
    Listen {
        addr: listener.addr.get_ref().clone(),
        backlog: listener.backlog,
        reuseport: listener.reuseport,
        v6only: listener.v6only.as_ref().map(|v6only| *v6only.get_ref()),
        device: listener.device.as_ref().map(|device| device.get_ref().clone()),
        then: listener.then,
        defer_accept: listener.defer_accept,
    }
}

/// Opens the listeners on a stack that is thrown away: the kernel's own rules, before anything is started.
///
/// # Errors
/// As [`open_listeners`].
pub fn rehearse(config: &Config) -> Result<(), ConfigError> {
    rehearse_beside(config, &[])
}

/// As [`rehearse`], with `others` there already.
///
/// # Errors
/// As [`open_listeners`].
pub fn rehearse_beside(config: &Config, others: &[(SocketAddr, Listen, Caller)]) -> Result<(), ConfigError> {
    let listeners_max = *config.limits.listeners_max.get_ref();
    let limits = Limits { listeners_max, requests_per_core: 1, connections_per_core: 1 };
    let (stack, _cores) = with_limits(config, &[], 1, limits, Secret::from_seed(0))?;
    for (addr, listen, caller) in others {
        // One that the new knobs would refuse stays open all the same.
        let _ = open(&stack, *addr, listen, *caller);
    }
    open_listeners(&stack, config).map(drop)
}

/// Keys from the kernel's generator.
///
/// # Errors
/// There is none to be read.
pub fn random_secret() -> io::Result<Secret> {
    let mut bytes = [0; 128];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(Secret::from_bytes(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rehearsal(listeners: &str) -> Result<(), String> {
        let text = format!(
            "[[port]]\nname = \"p0\"\ndevice = \"net_ring0\"\naddresses = [\"198.18.0.1/24\"]\n\
             any_ip = [\"198.19.0.0/16\"]\n{listeners}"
        );
        let config = Config::parse(std::path::Path::new("h.toml"), text).expect("a configuration");
        rehearse(&config).map_err(|error| error.to_string())
    }

    #[test]
    fn listeners_obey_the_kernels_rules_before_anything_starts() {
        assert_eq!(
            rehearsal("[[listener]]\naddr = \"198.18.0.1:8080\"\n[[listener]]\naddr = \"198.19.7.7:8080\"\n"),
            Ok(())
        );
        assert_eq!(
            rehearsal("[[listener]]\naddr = \"198.18.0.9:8080\"\n"),
            Err("h.toml:7: EADDRNOTAVAIL: cannot listen on 198.18.0.9:8080: The address is none of this host's. Next: \
                 add the address to addresses (or its prefix to any_ip) of a [[port]], or set sysctl.ip_nonlocal_bind."
                .into())
        );
        assert_eq!(
            rehearsal("[[listener]]\naddr = \"198.18.0.1:8080\"\n[[listener]]\naddr = \"0.0.0.0:8080\"\n"),
            Err("h.toml:9: EADDRINUSE: cannot listen on 0.0.0.0:8080: Another socket holds the port on an overlapping \
                 address. Next: see \"hearken ss\"; close that one, or give both reuseport."
                .into())
        );
    }

    #[test]
    fn keys_are_drawn_anew() {
        assert_ne!(random_secret().expect("a generator"), random_secret().expect("a generator"));
    }
}
