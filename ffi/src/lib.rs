//! Safe handles for the part of DPDK that a poll-mode packet server needs.
