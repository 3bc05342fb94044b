//! Which interfaces the hand-over sits on.

use super::net::Net;

/// The interfaces `bases` and the VLAN interfaces on top of them: a tagged segment reaches the kernel's listener through its VLAN
/// interface, whose ingress is the place where the lookup goes by the right interface.
pub(super) fn interfaces(net: &Net, bases: impl Iterator<Item = u32>) -> Vec<u32> {
    let mut all = Vec::new();
    for base in bases {
        all.push(base);
        all.extend(net.vlans_of(base).map(|link| link.index));
    }
    all
}
