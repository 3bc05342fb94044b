//! The time stamp counter and its rate.

use dpdk_sys as sys;

/// The CPU's time stamp counter now, in ticks of [`tsc_hz`]. Not serialising.
#[inline]
pub fn rdtsc() -> u64 {
    // Without a call where the compiler knows the counter.
    #[cfg(target_arch = "x86_64")]
    // SAFETY: reads a counter register; no memory, no state.
    return unsafe { std::arch::x86_64::_rdtsc() };
    #[cfg(not(target_arch = "x86_64"))]
    // SAFETY: as above.
    return unsafe { sys::shim_rte_rdtsc() };
}

/// Ticks per second of [`rdtsc`]; 0 until the EAL has started, which measures it.
pub fn tsc_hz() -> u64 {
    // SAFETY: reads one word that `rte_eal_init` wrote, or its initial 0.
    unsafe { sys::rte_get_tsc_hz() }
}
