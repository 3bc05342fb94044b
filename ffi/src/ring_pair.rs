//! Two ports joined crosswise by DPDK rings: what one sends the other receives, queue by queue. A wire for a client
//! and a server in one process, where there is no NIC and no right to make an interface.

use std::ffi::CString;
use std::ptr;

use dpdk_sys as sys;

use crate::{DpdkError, Eal, NumaNode, PortId};

const EINVAL: i32 = 22;
const ENAMETOOLONG: i32 = 36;

impl Eal {
    /// Makes the ports `NAME_a` and `NAME_b`, each with `queues` queue pairs (at most 16, the driver's own limit):
    /// frames sent on queue q of one arrive on queue q of the other. A ring holds `frames` frames, a power of two.
    ///
    /// The rings live until the EAL stops, as pools do.
    ///
    /// # Errors
    /// EEXIST: the name is taken. EINVAL: `frames` is no power of two. ENOMEM. ENOTSUP: this libdpdk was built without
    /// `net_ring`.
    pub fn ring_pair(
        &self,
        name: &str,
        queues: u16,
        frames: u32,
        node: NumaNode,
    ) -> Result<[PortId; 2], DpdkError> {
        const QUEUES_MAX: u16 = 16;
        if queues == 0 || queues > QUEUES_MAX || !frames.is_power_of_two() {
            let hint = format!(
                "wanted 1 to {QUEUES_MAX} queues of a power of two of frames, found {queues} of {frames}"
            );
            return Err(DpdkError::from_rc("rte_ring_create", EINVAL).on(name).hint([hint]));
        }
        let _one_at_a_time = self.state();
        let mut to_a = rings(&format!("{name}_to_a"), queues, frames, node)?;
        let mut to_b = rings(&format!("{name}_to_b"), queues, frames, node)?;
        let a = port(&format!("{name}_a"), &mut to_a, &mut to_b, node)?;
        let b = port(&format!("{name}_b"), &mut to_b, &mut to_a, node)?;
        Ok([a, b])
    }
}

fn c_string(call: &'static str, name: &str) -> Result<CString, DpdkError> {
    CString::new(name).map_err(|_| DpdkError::from_rc(call, EINVAL).on(name))
}

fn rings(name: &str, queues: u16, frames: u32, node: NumaNode) -> Result<Vec<*mut sys::rte_ring>, DpdkError> {
    const CALL: &str = "rte_ring_create";
    let one_each_side = sys::RING_F_SP_ENQ | sys::RING_F_SC_DEQ;
    (0..queues)
        .map(|queue| {
            let name = format!("{name}{queue}");
            let c_name = c_string(CALL, &name)?;
            // SAFETY: a C string that DPDK copies; the EAL runs while its handle, our caller's `self`, lives.
            let ring =
                unsafe { sys::rte_ring_create(c_name.as_ptr(), frames, node.socket_id(), one_each_side) };
            if ring.is_null() { Err(DpdkError::from_rte_errno(CALL).on(&name)) } else { Ok(ring) }
        })
        .collect()
}

fn port(
    name: &str,
    rx: &mut [*mut sys::rte_ring],
    tx: &mut [*mut sys::rte_ring],
    node: NumaNode,
) -> Result<PortId, DpdkError> {
    const CALL: &str = "rte_eth_from_rings";
    // The driver puts a prefix before the name and cuts it off without a word.
    if name.len() + "net_ring_".len() >= sys::RTE_ETH_NAME_MAX_LEN as usize {
        return Err(DpdkError::from_rc(CALL, ENAMETOOLONG).on(name));
    }
    let c_name = c_string(CALL, name)?;
    let (queues, node) = (rx.len() as u32, u32::try_from(node.socket_id()).unwrap_or(0));
    // SAFETY:
    // - Bounds: both arrays hold `queues` pointers; DPDK reads so many of each and copies them.
    // - Lifetime: rings are never freed, so they outlive the port.
    // - Race: each ring has one producer (a queue of one port) and one consumer (the same queue of the other),
    //   and queues are neither Clone nor Sync.
    let rc = unsafe {
        let (rx, tx) = (ptr::from_mut(rx).cast(), ptr::from_mut(tx).cast());
        sys::shim_rte_eth_from_rings(c_name.as_ptr(), rx, tx, queues, node)
    };
    match u16::try_from(rc) {
        Ok(id) => Ok(PortId(id)),
        Err(_) => Err(DpdkError::from_rte_errno(CALL).on(name)),
    }
}
