//! The interpreter of packetdrill's notation, and the hosts that scripts run on.

pub mod kernel;
pub mod mem;
pub mod run;
pub mod script;
pub mod walk;
