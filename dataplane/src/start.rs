//! Configuration in, running workers out.
pub mod cores;
pub mod machine;
pub mod team;
