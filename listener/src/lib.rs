#![doc = include_str!("../README.md")]
//!
//! # Kernel and library
//!
//! Two doors: [`Stack`] for control (the system calls, any thread, one lock) and [`Core`] for the packet path (one per
//! worker, no lock). Both follow Linux v6.18; `tests/replay.rs` holds them to recorded kernels, `tests/live_kernel.rs`
//! to the running one.
//!
//! # Kernel function → ours
//! | Linux v6.18 | here | departure |
//! |---|---|---|
//! | `__sys_socket`, `inet_create`, `inet6_create` | [`Stack::socket`] | 1 |
//! | `inet_bind_sk`, `__inet_bind` | [`Stack::bind`], `af_inet.rs` `inet_bind` | 2 |
//! | `inet6_bind_sk`, `__inet6_bind` | [`Stack::bind`], `af_inet.rs` `inet6_bind` | 2, 3 |
//! | `inet_addr_valid_or_nonlocal`, `ipv6_chk_addr` | `devices.rs` | 3 |
//! | `inet_csk_get_port`, `inet_csk_find_open_port` | `inet_connection_sock.rs` `get_port`, `find_open_port` | 4 |
//! | `inet_bind_conflict`, `inet_csk_bind_conflict`, `inet_rcv_saddr_equal` | `inet_connection_sock.rs` `conflict`, `bind_conflict`, `overlap` | 4 |
//! | `inet_csk_update_fastreuse`, `sk_reuseport_match` | `inet_connection_sock.rs` `update_fastreuse`, `bind_table.rs` `Strict` | 5 |
//! | `inet_bind_hash`, `inet_put_port`, bhash, bhash2 | `bind_table.rs` `link`, `unlink` | 4 |
//! | `__sys_listen`, `inet_listen`, `__inet_listen_sk` | [`Stack::listen`], `af_inet.rs` `inet_listen` | 6 |
//! | `inet_csk_listen_start` | `inet_connection_sock.rs` `listen_start` | 7 |
//! | `inet_csk_listen_stop` | `inet_connection_sock.rs` `listen_stop` | 8, 9 |
//! | `inet_csk_accept` | [`Stack::accept`] | 10 |
//! | `inet_shutdown`, `tcp_disconnect` of a listener | [`Stack::shutdown`], `af_inet.rs` `inet_shutdown` | 8 |
//! | `__tcp_close` | [`Stack::close`] | 11 |
//! | `sk_setsockopt`, `do_tcp_setsockopt`, `do_ip_setsockopt`, `do_ipv6_setsockopt` and their getters | [`Stack::setsockopt`], [`Stack::getsockopt`], [`sockopt`] | 12 |
//! | `tcp_get_info` of a listener | [`Stack::tcp_info`] | |
//! | `inet_hash`, `inet_unhash`, `__inet_lookup_listener`, `compute_score` | [`inet_hashtables`] | 13 |
//! | `reuseport_add_sock`, `reuseport_detach_sock`, `reuseport_stop_listen_sock`, `reuseport_select_sock`, `reuseport_migrate_sock` | [`sock_reuseport`] | 9, 13 |
//! | `reuseport_attach_prog` | [`Stack::set_selector`], [`sock_reuseport::Select`] | 14 |
//! | request queue and accept queue | [`listen_sock`], [`conn_shared`] | 18 |
//! | `tcp_v4_rcv`, `tcp_v6_rcv`, `tcp_v4_send_reset` | `tcp_ipv4.rs` | 15 |
//! | `tcp_conn_request` | `tcp_input.rs`, for many at once `core/columns/answer.rs` | 15, 16 |
//! | `tcp_check_req`, `tcp_v4_syn_recv_sock` | `tcp_minisocks.rs` | |
//! | `tcp_timewait_state_process` | `tcp_timewait.rs` | |
//! | `tcp_rcv_state_process`, `tcp_validate_incoming` | `tcp_input/rcv_state.rs` | 10 |
//! | `tcp_v4_err`, `tcp_v6_err` | [`icmp`] | |
//! | `tcp_make_synack`, `secure_tcp_seq` | `tcp_output.rs` | |
//! | `tcp_select_initial_window`, `tcp_select_window` | `tcp_window.rs` | 10 |
//! | `tcp_synack_rtt_meas`, `tcp_rtt_estimator`, `tcp_set_rto` | `tcp_rtt.rs` | |
//! | `reqsk_timer_handler`, `tcp_write_timer_handler` | `tcp_timer.rs` | |
//! | `cookie_init_sequence`, `cookie_v4_check`, `cookie_v6_check` | [`syncookies`] | 17 |
//! | SNMP counters | [`snmp`], [`Stack::snmp`] | |
//!
//! # Departures, and why
//! 1. One type of socket: stream, TCP. So the errors of other types and protocols do not exist, nor does connect():
//!    the socket states it makes (connecting, connected by us) cannot come up.
//! 2. `caller` and `uid` are arguments: there is no process to take them from. They stand for capabilities as well, so
//!    SO_BINDTODEVICE on a bound socket asks for no CAP_NET_RAW. accept() has none: a connection stays with its
//!    listener's owner, where the kernel gives it to the user who accepts.
//! 3. A prefix that is local as a whole (`any_ip`) counts as assigned for IPv6, too. The kernel wants IP_FREEBIND
//!    there; a responder for a prefix would set it everywhere.
//! 4. Owners are chained by (address, port) and counted by class per port, so that no bind walks all owners of a port.
//!    Answers are the kernel's. Ports of connections that the host opens itself do not exist here.
//! 5. `fastreuse` is left out: in v6.18 it never becomes positive. `fastreuseport` is STRICT or nothing, as there.
//! 6. No Fast Open: `tcp_fastopen` and TCP_FASTOPEN have no effect.
//! 7. A listener takes a slot of a fixed number: ENOBUFS beyond [`limits::Limits::listeners_max`].
//! 8. A shutdown and another listen() make a new listener: half-open handshakes from before die at their next event.
//!    In the kernel the socket is the same and takes them back.
//! 9. Under `tcp_migrate_req` the last [`limits::PARKED_MAX`] closed members are kept for handshakes to find their heirs
//!    by: nobody tells the control side when the last one has. TCPMigrateReqFailure also counts handshakes whose closed
//!    listener is forgotten already or was in no group.
//! 10. No data is kept. Before [`Stack::discard`] a connection's peer meets a closed window; after it, data is
//!     acknowledged in order and dropped, as `then = discard` does.
//! 11. Ends of connections are orders to their core, carried out at its next tick. Until then a reset child counts as
//!     gone for bind() as it would in the kernel, but its peer has not heard of it.
//! 12. An accepted connection knows SO_REUSEADDR, SO_REUSEPORT, SO_ERROR and SO_ACCEPTCONN, the options that its port
//!     and its state answer. SO_INCOMING_CPU keeps no negative number but -1.
//! 13. No namespaces, no VRF, no BPF `sk_lookup`. The hash inside a group is ours: any keyed hash has the same effect.
//! 14. A rule is a Rust object, given to one member for its group.
//! 15. No routes: an answer goes back where the segment came from. So a member of a reuseport group that is bound to
//!     another device can answer, where the kernel finds no way and drops.
//! 16. No saved SYN, no metrics of known peers; a full request table sends cookies. See `tcp_input.rs`.
//! 17. Two generations of keys at a time, so that they can change. Where keys are shared every ACK at a listener is
//!     tested, whether it sent a cookie or not. See [`syncookies`].
//! 18. Of a large SYN queue cores take places some at a time: one may find it full at seven eighths while others are
//!     busy. See [`listen_sock::Credits`].
#![deny(unsafe_code)]

mod af_inet;
pub mod api;
mod bind_table;
// The one door to `unsafe`. It trusts `sync::epoch`, which is safe code, with the lifetime of what readers look at.
#[allow(unsafe_code)]
mod bucket;
pub mod columns;
pub mod config;
pub mod conn_shared;
mod control;
pub mod core;
mod devices;
pub mod drop_reason;
pub mod ehash;
pub mod error;
mod flow_hash;
pub mod icmp;
mod inet_connection_sock;
pub mod inet_hashtables;
pub mod limits;
pub mod listen_sock;
pub mod live;
#[cfg(feature = "oracle")]
pub mod oracle;
mod ratelimit;
pub mod request_sock;
pub mod segment;
pub mod siphash;
pub mod snmp;
mod sock;
pub mod sock_reuseport;
pub mod sockaddr;
pub mod sockopt;
pub mod sync;
pub mod syncookies;
pub mod sysctl;
mod tcp;
mod tcp_input;
mod tcp_ipv4;
mod tcp_minisocks;
mod tcp_output;
mod tcp_rtt;
mod tcp_timer;
mod tcp_timewait;
mod tcp_window;
pub mod timer;
pub mod types;
pub mod vector;

pub use api::Stack;
pub use core::Core;
