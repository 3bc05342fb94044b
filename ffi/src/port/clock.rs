//! The clock by which a device stamps frames.

use dpdk_sys as sys;

use super::Started;
use crate::{DpdkError, Eal, RxTimestampField};

impl Eal {
    /// Where drivers leave the time of arrival in mbufs, the same for all of them; made where there is none yet.
    ///
    /// # Errors
    /// ENOENT: no room is left in the mbuf.
    ///
    /// # Source
    /// `rte_mbuf_dyn_rx_timestamp_register` (rte_mbuf_dyn.h).
    pub fn rx_timestamp_field(&self) -> Result<RxTimestampField, DpdkError> {
        const CALL: &str = "rte_mbuf_dyn_rx_timestamp_register";
        let _one_at_a_time = self.state();
        let (mut offset, mut flag) = (0, 0);
        // SAFETY: an int and a u64 of ours to write to; the EAL runs while `self` lives, and its lock is held.
        if unsafe { sys::rte_mbuf_dyn_rx_timestamp_register(&mut offset, &mut flag) } < 0 {
            return Err(DpdkError::from_rte_errno(CALL));
        }
        let offset = usize::try_from(offset).map_err(|_| DpdkError::from_rc(CALL, offset))?;
        // SAFETY: the call above has just given it for that.
        Ok(unsafe { RxTimestampField::new(offset, flag) })
    }
}

impl Started {
    /// The device's clock now, in ticks of a rate that only the driver knows. Not of every driver the clock of its stamps:
    /// net_igc, and net_ice where it has this call, answer with the machine's, see [`Started::timesync_read_time`].
    ///
    /// # Errors
    /// ENOTSUP: the driver has no such clock.
    pub fn read_clock(&self) -> Result<u64, DpdkError> {
        let _one_at_a_time = self.port.eal.state();
        let mut clock = 0;
        // SAFETY: DPDK writes one u64 to `clock`, which is ours; the port is open.
        let rc = unsafe { sys::rte_eth_read_clock(self.port.id.0, &mut clock) };
        DpdkError::check("rte_eth_read_clock", &self.port.name, rc).map(|()| clock)
    }

    /// The device's PTP clock now, in ns.
    ///
    /// # Errors
    /// ENOTSUP: the driver has none.
    pub fn timesync_read_time(&self) -> Result<u64, DpdkError> {
        const EINVAL: i32 = 22;
        const CALL: &str = "rte_eth_timesync_read_time";
        let _one_at_a_time = self.port.eal.state();
        let mut time = sys::timespec::default();
        // SAFETY: DPDK writes one timespec to `time`, which is ours; the port is open.
        let rc = unsafe { sys::rte_eth_timesync_read_time(self.port.id.0, &mut time) };
        DpdkError::check(CALL, &self.port.name, rc)?;
        let part = |part: i64| u64::try_from(part).map_err(|_| DpdkError::from_rc(CALL, EINVAL));
        // 64 bits of ns last until the year 2554.
        Ok(part(time.tv_sec)?.wrapping_mul(1_000_000_000).wrapping_add(part(time.tv_nsec)?))
    }
}
