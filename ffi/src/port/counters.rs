//! What the device counts.

use dpdk_sys as sys;

use super::{Started, string_at};
use crate::DpdkError;

/// The counters that every driver has, by DPDK's names, since the port's start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortCounters {
    /// Frames received.
    pub ipackets: u64,
    /// Frames sent.
    pub opackets: u64,
    /// Bytes received.
    pub ibytes: u64,
    /// Bytes sent.
    pub obytes: u64,
    /// Frames that the device dropped for want of a free descriptor: the worker was too slow.
    pub imissed: u64,
    /// Frames received with an error.
    pub ierrors: u64,
    /// Frames that could not be sent.
    pub oerrors: u64,
    /// Frames dropped for want of an mbuf: the pool is too small.
    pub rx_nombuf: u64,
}

impl PortCounters {
    /// The counters with their names, in DPDK's order.
    pub const fn named(&self) -> [(&'static str, u64); 8] {
        [
            ("ipackets", self.ipackets),
            ("opackets", self.opackets),
            ("ibytes", self.ibytes),
            ("obytes", self.obytes),
            ("imissed", self.imissed),
            ("ierrors", self.ierrors),
            ("oerrors", self.oerrors),
            ("rx_nombuf", self.rx_nombuf),
        ]
    }
}

impl Started {
    /// The counters that every driver has.
    ///
    /// # Errors
    /// ENOTSUP: the driver keeps none.
    pub fn counters(&self) -> Result<PortCounters, DpdkError> {
        let _one_at_a_time = self.port.eal.state();
        let mut stats = sys::rte_eth_stats::default();
        // SAFETY: DPDK writes one struct of the headers that we were built with; the port is open.
        let rc = unsafe { sys::rte_eth_stats_get(self.port.id.0, &mut stats) };
        DpdkError::check("rte_eth_stats_get", &self.port.name, rc)?;
        Ok(PortCounters {
            ipackets: stats.ipackets,
            opackets: stats.opackets,
            ibytes: stats.ibytes,
            obytes: stats.obytes,
            imissed: stats.imissed,
            ierrors: stats.ierrors,
            oerrors: stats.oerrors,
            rx_nombuf: stats.rx_nombuf,
        })
    }

    /// All counters of the driver, its own names included, in its order.
    ///
    /// # Errors
    /// ENOTSUP: the driver keeps none. EAGAIN: their number changed between the two calls that it takes.
    pub fn xcounters(&self) -> Result<Vec<(String, u64)>, DpdkError> {
        const CALL: &str = "rte_eth_xstats_get";
        const EAGAIN: i32 = 11;
        let _one_at_a_time = self.port.eal.state();
        let id = self.port.id.0;
        // SAFETY: a null array with length 0 asks for the number.
        let count = unsafe { sys::rte_eth_xstats_get(id, std::ptr::null_mut(), 0) };
        DpdkError::check(CALL, &self.port.name, count)?;
        let len = count.unsigned_abs();
        let mut names = vec![sys::rte_eth_xstat_name::default(); len as usize];
        let mut values = vec![sys::rte_eth_xstat::default(); len as usize];
        // SAFETY: both arrays have `len` elements; the port is open.
        let (named, valued) = unsafe {
            (
                sys::rte_eth_xstats_get_names(id, names.as_mut_ptr(), len),
                sys::rte_eth_xstats_get(id, values.as_mut_ptr(), len),
            )
        };
        DpdkError::check("rte_eth_xstats_get_names", &self.port.name, named)?;
        DpdkError::check(CALL, &self.port.name, valued)?;
        if named != count || valued != count {
            return Err(DpdkError::from_rc(CALL, EAGAIN).on(&self.port.name));
        }
        Ok(values
            .iter()
            .filter_map(|x| {
                let name = names.get(usize::try_from(x.id).ok()?)?;
                Some((string_at(name.name.as_ptr()), x.value))
            })
            .collect())
    }
}
