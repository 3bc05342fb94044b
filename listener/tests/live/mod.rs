//! Parts of the comparison with a running kernel.

pub mod ops;
pub mod run;
