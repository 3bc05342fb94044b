//! What a [`crate::Stack`] is built from.

use crate::limits::Limits;
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
/// Two boxes with the same `cookies` can check each other's SYN cookies.
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

#[cfg(test)]
mod tests {
    use super::*;

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
