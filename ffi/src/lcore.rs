//! Threads that DPDK knows.

mod usage;

use std::marker::PhantomData;

use dpdk_sys as sys;

pub use usage::LcoreUsage;

use crate::{DpdkError, Eal, LcoreId};

/// This thread's registration with DPDK; dropping it gives the lcore id back.
///
/// `!Send`, since both ends must happen on the thread itself.
#[derive(Debug)]
pub struct Lcore {
    id: LcoreId,
    owned: bool,
    _eal: Eal,
    _not_send: PhantomData<*const ()>,
}

impl Eal {
    /// Registers the calling thread, so that pools give it a cache of its own.
    ///
    /// Pin the thread before: DPDK reads its affinity here to learn the NUMA node. A thread that has an id
    /// already (the one that started the EAL) keeps it.
    ///
    /// # Errors
    /// ENOMEM: all lcore ids (`RTE_MAX_LCORE` of the installed build) are taken.
    pub fn register_thread(&self) -> Result<Lcore, DpdkError> {
        let owned = current().is_none();
        // SAFETY: the EAL is up for as long as `self` lives; a thread that has an id is not registered twice.
        if owned && unsafe { sys::rte_thread_register() } < 0 {
            return Err(DpdkError::from_rte_errno("rte_thread_register"));
        }
        let Some(id) = current() else { return Err(DpdkError::from_rte_errno("rte_thread_register")) };
        Ok(Lcore { id, owned, _eal: self.clone(), _not_send: PhantomData })
    }
}

impl Lcore {
    /// The id that DPDK gave this thread.
    pub fn id(&self) -> LcoreId {
        self.id
    }
}

impl Drop for Lcore {
    fn drop(&mut self) {
        if self.owned {
            // SAFETY: `!Send` keeps us on the thread that registered; `_eal` is still alive.
            unsafe { sys::rte_thread_unregister() };
        }
    }
}

/// The calling thread's lcore id, if DPDK knows the thread.
pub(crate) fn current() -> Option<LcoreId> {
    // SAFETY: reads a thread-local int.
    let id = unsafe { sys::shim_rte_lcore_id() };
    (id != sys::LCORE_ID_ANY).then_some(LcoreId(id))
}
