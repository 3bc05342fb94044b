//! Raw bindings to the installed libdpdk, as bindgen wrote them at build time.
//!
//! Functions `shim_rte_*` are DPDK's static inlines, compiled by `shim.c`; constants `SHIM_*` are macros
//! and member offsets that the C compiler evaluated (`bindings.h`). Nothing else is written by hand.
#![no_std]
#![allow(missing_docs, non_camel_case_types, non_snake_case, non_upper_case_globals)]
#![allow(clippy::all, clippy::undocumented_unsafe_blocks, unsafe_op_in_unsafe_fn)]

include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
