//! Comparisons and load for hearken.
#![forbid(unsafe_code)]
