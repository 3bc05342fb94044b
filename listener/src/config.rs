//! What a [`crate::Stack`] is built from.

use crate::conn_shared::CONNECTIONS_PER_CORE_MAX;
use crate::inet_hashtables::LISTENER_IDS;
use crate::limits::{CORES_MAX, Limits};
use crate::syncookies::CookieKey;
use crate::sysctl::Sysctl;
use crate::types::{DevIndex, InetAddr};

/// A device: what `SO_BINDTODEVICE` names, and whose addresses are local.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Name, at most 15 bytes are compared (IFNAMSIZ).
    pub name: String,
    /// Number, from 1, unique.
    pub index: DevIndex,
    /// Own addresses with the prefix length of their subnet (IPv4: 0 to 32, whose broadcast address can be bound to).
    pub addresses: Vec<(InetAddr, u8)>,
    /// Prefixes that are local as a whole, as `ip route add local … dev` does; 127.0.0.0/8 on a loopback.
    pub any_ip: Vec<(InetAddr, u8)>,
    /// Octets of an IP packet at most; the advertised MSS comes from it.
    pub mtu: u16,
}

/// Keys of the keyed hashes. All 128 bytes should be random, and stay the same while connections are to survive.
///
/// `cookies` and `timestamps` are only what a core starts with: see [`crate::Stack::set_cookie_keys`].
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    /// Buckets of the listening hash.
    pub listen_hash: [u8; 16],
    /// Selection inside a reuseport group.
    pub reuseport: [u8; 16],
    /// Buckets of the established hash.
    pub established: [u8; 16],
    /// Initial sequence numbers (RFC 6528).
    pub isn: [u8; 16],
    /// SYN cookies: key 0 and key 1.
    pub cookies: [[u8; 16]; 2],
    /// Timestamp offsets.
    pub timestamps: [u8; 16],
    /// Ephemeral ports, and buckets of the bind table.
    pub ports: [u8; 16],
}

impl Secret {
    /// From 128 random bytes.
    pub fn from_bytes(bytes: &[u8; 128]) -> Self {
        let key = |index: usize| -> [u8; 16] { std::array::from_fn(|byte| bytes[index * 16 + byte]) };
        Self {
            listen_hash: key(0),
            reuseport: key(1),
            established: key(2),
            isn: key(3),
            cookies: [key(4), key(5)],
            timestamps: key(6),
            ports: key(7),
        }
    }

    /// The part that SYN-ACKs with cookies are made with.
    pub(crate) fn cookie_key(&self) -> CookieKey {
        let parts = [self.cookies[0], self.cookies[1], self.timestamps];
        CookieKey::from_bytes(&std::array::from_fn(|byte| parts[byte / 16][byte % 16]))
    }

    /// The same keys for the same seed: for tests and recorded runs, never for a wire.
    pub fn from_seed(seed: u64) -> Self {
        let mut state = seed;
        let mut bytes = [0; 128];
        for chunk in bytes.chunks_exact_mut(8) {
            chunk.copy_from_slice(&splitmix64(&mut state).to_le_bytes());
        }
        Self::from_bytes(&bytes)
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// The next number of Vigna's SplitMix64, a generator that any 64-bit state starts well.
pub(crate) fn splitmix64(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// Everything that a [`crate::Stack`] and its cores are built from.
#[derive(Clone, Debug)]
pub struct StackConfig {
    /// Knobs.
    pub sysctl: Sysctl,
    /// Devices, with distinct names and indices.
    pub devices: Vec<Device>,
    /// Workers, from 1 to [`crate::limits::CORES_MAX`].
    pub cores: u16,
    /// Fixed sizes.
    pub limits: Limits,
    /// Keys; the caller draws them, because randomness is input and output.
    pub secret: Secret,
}

/// What is wrong with a [`StackConfig`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigError {
    /// `cores` is 0 or above [`CORES_MAX`].
    Cores(u16),
    /// A device has no name, or the name of another.
    DeviceName(String),
    /// A device has index 0, or that of another; the name is given.
    DeviceIndex(String),
    /// A prefix length is longer than its address; the device's name is given.
    PrefixLen(String),
    /// `ip_local_port_range` is empty or begins at 0.
    PortRange,
    /// `limits.listeners_max` is 0, or beyond what the listening hash can name.
    ListenersMax(u32),
    /// `limits.connections_per_core` is 0 or above [`CONNECTIONS_PER_CORE_MAX`].
    ConnectionsPerCore(u32),
}

impl std::fmt::Display for ConfigError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cores(cores) => write!(f, "{cores} cores: there must be 1 to {CORES_MAX}"),
            Self::DeviceName(name) => write!(f, "device name {name:?} is empty or used twice"),
            Self::DeviceIndex(name) => write!(f, "the index of device {name:?} is 0 or used twice"),
            Self::PrefixLen(name) => write!(f, "device {name:?} has a prefix longer than its address"),
            Self::PortRange => {
                write!(f, "ip_local_port_range must begin above 0 and not end before it begins")
            }
            Self::ListenersMax(max) => write!(f, "listeners_max is {max}: it must be 1 to {LISTENER_IDS}"),
            Self::ConnectionsPerCore(max) => {
                write!(f, "connections_per_core is {max}: it must be 1 to {CONNECTIONS_PER_CORE_MAX}")
            }
        }
    }
}

impl std::error::Error for ConfigError {}

impl StackConfig {
    /// Looks for values that no stack can be built from.
    ///
    /// # Errors
    /// The first one found.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.cores == 0 || self.cores > CORES_MAX {
            return Err(ConfigError::Cores(self.cores));
        }
        for (place, device) in self.devices.iter().enumerate() {
            let name = || device.name.clone();
            let earlier = &self.devices[..place];
            if device.name.is_empty() || earlier.iter().any(|other| other.name == device.name) {
                return Err(ConfigError::DeviceName(name()));
            }
            if device.index == DevIndex::NONE || earlier.iter().any(|other| other.index == device.index) {
                return Err(ConfigError::DeviceIndex(name()));
            }
            let too_long = |&(addr, len): &(InetAddr, u8)| len > if addr.is_v4() { 32 } else { 128 };
            if device.addresses.iter().chain(&device.any_ip).any(too_long) {
                return Err(ConfigError::PrefixLen(name()));
            }
        }
        let (first, last) = self.sysctl.ip_local_port_range;
        if first.0 == 0 || first > last {
            return Err(ConfigError::PortRange);
        }
        let Limits { listeners_max, connections_per_core, .. } = self.limits;
        if !(1..=LISTENER_IDS).contains(&listeners_max) {
            return Err(ConfigError::ListenersMax(listeners_max));
        }
        if !(1..=CONNECTIONS_PER_CORE_MAX).contains(&connections_per_core) {
            return Err(ConfigError::ConnectionsPerCore(connections_per_core));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::TcpPort;

    #[test]
    fn nonsense_is_refused_by_name() {
        let device = |name: &str, index| Device {
            name: name.to_owned(),
            index: DevIndex(index),
            addresses: vec![(InetAddr::v4(0x7f00_0001), 8)],
            any_ip: Vec::new(),
            mtu: 1500,
        };
        let good = StackConfig {
            sysctl: Sysctl::default(),
            devices: vec![device("lo", 1), device("d0", 2)],
            cores: 1,
            limits: Limits::TINY,
            secret: Secret::from_seed(1),
        };
        assert_eq!(good.check(), Ok(()));
        let wrong = |spoil: &dyn Fn(&mut StackConfig)| {
            let mut config = good.clone();
            spoil(&mut config);
            config.check().expect_err("it was spoilt")
        };
        assert_eq!(wrong(&|config| config.cores = 0), ConfigError::Cores(0));
        assert_eq!(
            wrong(&|config| config.devices[1].index = DevIndex(1)),
            ConfigError::DeviceIndex("d0".into())
        );
        assert_eq!(
            wrong(&|config| config.devices[1].name = "lo".into()),
            ConfigError::DeviceName("lo".into())
        );
        assert_eq!(
            wrong(&|config| config.devices[0].addresses[0].1 = 33),
            ConfigError::PrefixLen("lo".into())
        );
        assert_eq!(
            wrong(&|config| config.sysctl.ip_local_port_range = (TcpPort(9), TcpPort(8))),
            ConfigError::PortRange
        );
        assert_eq!(wrong(&|config| config.limits.listeners_max = 0), ConfigError::ListenersMax(0));
        assert_eq!(
            wrong(&|config| config.limits.connections_per_core = 0),
            ConfigError::ConnectionsPerCore(0)
        );
    }

    #[test]
    fn keys_differ_and_stay_out_of_logs() {
        let secret = Secret::from_seed(1);
        assert_eq!(secret, Secret::from_seed(1));
        assert_ne!(secret, Secret::from_seed(2));
        let keys = [
            secret.listen_hash,
            secret.reuseport,
            secret.established,
            secret.isn,
            secret.cookies[0],
            secret.cookies[1],
            secret.timestamps,
            secret.ports,
        ];
        for (index, key) in keys.iter().enumerate() {
            assert!(!keys[index + 1..].contains(key));
        }
        assert_eq!(format!("{secret:?}"), "Secret(…)");
    }
}
