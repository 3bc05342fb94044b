//! Finds libdpdk, compiles the shim for its static inlines, and has bindgen write the bindings.

use std::env;
use std::fmt::{self, Display};
use std::panic;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

/// Oldest release with `rte_dev_name` and the `RTE_ETH_` spelling of the constants.
const OLDEST: (u32, u32) = (22, 11);
const PACKAGES: &str = "libdpdk-dev libclang-dev pkg-config";

const FUNCTIONS: &[&str] = &[
    "shim_.*",
    "rte_eal_(init|cleanup)",
    "rte_(version|strerror|openlog_stream|log_cur_msg_loglevel|get_tsc_hz)",
    "rte_thread_(register|unregister)",
    "rte_(dev_probe|dev_remove|get_main_lcore)",
    "rte_pktmbuf_(pool_create|free_bulk)",
    "rte_mempool_(in_use_count|avail_count)",
    "rte_eth_(find_next|macaddr_get|promiscuous_enable|allmulticast_enable|add_rx_callback|remove_rx_callback)",
    "rte_eth_(stats_get|xstats_get|xstats_get_names)",
    "rte_eth_(read_clock|timesync_read_time)",
    "rte_mbuf_dyn_rx_timestamp_register",
    "rte_eth_dev_(info_get|configure|start|stop|close|socket_id|get_name_by_port|get_port_by_name)",
    "rte_eth_dev_(adjust_nb_rx_tx_desc|is_removed|get_mtu|set_mtu|rss_reta_query|rss_hash_conf_get)",
    "rte_eth_dev_rx_intr_(ctl_q|ctl_q_get_fd|enable|disable)",
    "rte_epoll_(ctl|wait)",
    "rte_eth_(rx|tx)_queue_setup",
    "rte_hash_(create|free|free_key_with_position|add_key_data|del_key|lookup_data|lookup_bulk_data|count)",
    "rte_ring_(create|free)",
    "rte_(telemetry_register_cmd|tel_data_start_dict)",
    "fopencookie",
];
const TYPES: &[&str] = &["shim_.*", "rte_eth_rss_reta_entry64", "rte_eth_conf"];
const VARS: &[&str] = &[
    "SHIM_.*",
    "RTE_ETH_(MQ_RX_NONE|MQ_RX_RSS|RETA_GROUP_SIZE|NAME_MAX_LEN)",
    "RTE_PKTMBUF_HEADROOM",
    "RTE_EPOLL_PER_THREAD",
    "RTE_INTR_EVENT_ADD",
    "RTE_MBUF_(L2|L3|L4)_LEN_(BITS|OFS)",
    "RTE_MAX_ETHPORTS",
    "RTE_MEMPOOL_CACHE_MAX_SIZE",
    "RTE_HASH_(EXTRA_FLAGS_RW_CONCURRENCY_LF|LOOKUP_BULK_MAX)",
    "RTE_LOG_(ERR|WARNING|NOTICE|INFO|DEBUG)",
    "RING_F_(SP_ENQ|SC_DEQ)",
    "SOCKET_ID_ANY",
    "LCORE_ID_ANY",
];
/// Reached through offsets that the compiler computes (bindings.h), for their layout differs by release;
/// the others are packed and aligned at once, which Rust cannot spell.
const OPAQUE: &[&str] = &[
    "rte_mbuf",
    "rte_mempool",
    "rte_hash",
    "rte_ring",
    "rte_tel_data",
    "rte_eth_rxtx_callback",
    "_IO_FILE",
    "rte_arp_.*",
    "rte_ether_hdr",
    "rte_l2tpv2.*",
    "rte_gtp_psc.*",
];
/// What only an opaque type refers to.
const BLOCKED: &[&str] = &[
    "rte_(mbuf|mempool|hash|ring|eth_rxtx_callback)__bindgen_ty.*",
    "rte_mbuf_sched",
    "_IO_.*data",
    "_IO_codecvt",
    "_IO_marker",
];

fn main() -> ExitCode {
    println!("cargo::rerun-if-changed=bindings.h");
    println!("cargo::rerun-if-changed=shim.c");
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(wrong) => {
            for line in wrong.to_string().lines() {
                println!("cargo::error={line}");
            }
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<(), Wrong> {
    let version = installed_version()?;
    require_libclang()?;
    let cflags = cflags()?;
    // Once more, now to tell Cargo what to link: before, its many lines would have hidden an error's two.
    pkg_config::probe_library("libdpdk").map_err(|e| Wrong::new(e, format!("apt-get install {PACKAGES}")))?;

    let mut shim = cc::Build::new();
    shim.file("shim.c").define("ALLOW_EXPERIMENTAL_API", None).warnings(false);
    for flag in &cflags {
        shim.flag(flag);
    }
    shim.try_compile("dpdk_shim").map_err(|e| {
        Wrong::new(
            format!("the C compiler refused shim.c: {e}"),
            format!("install gcc; if it is there, its words above say what it misses in libdpdk {version}"),
        )
    })?;

    // A driver, and so not among the libraries that pkg-config names; its header is there if it is.
    if has_header(&cflags, "rte_eth_ring.h") {
        println!("cargo::rustc-link-lib=rte_net_ring");
    }
    println!("cargo::metadata=version={version}");

    let mut bindings = bindgen::Builder::default()
        .header("bindings.h")
        .clang_args(&cflags)
        .clang_args(["-DALLOW_EXPERIMENTAL_API", "-D_GNU_SOURCE"])
        .use_core()
        .derive_default(true)
        .prepend_enum_name(false)
        .generate_comments(false)
        .formatter(bindgen::Formatter::None);
    bindings = FUNCTIONS.iter().fold(bindings, |b, name| b.allowlist_function(name));
    bindings = TYPES.iter().fold(bindings, |b, name| b.allowlist_type(name));
    bindings = VARS.iter().fold(bindings, |b, name| b.allowlist_var(name));
    bindings = OPAQUE.iter().fold(bindings, |b, name| b.opaque_type(name));
    bindings = BLOCKED.iter().fold(bindings, |b, name| b.blocklist_type(name));
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default()).join("bindings.rs");
    bindings
        .generate()
        .map_err(|e| Wrong::new(e, format!("bindgen could not read the headers of libdpdk {version}")))?
        .write_to_file(&out)
        .map_err(|e| Wrong::new(e, format!("cannot write {}", out.display())))
}

/// Whether the compiler finds `header` where `cflags` or its defaults point.
fn has_header(cflags: &[String], header: &str) -> bool {
    let named = cflags.iter().filter_map(|flag| flag.strip_prefix("-I"));
    named.chain(["/usr/include", "/usr/local/include"]).any(|dir| PathBuf::from(dir).join(header).exists())
}

/// The version pkg-config reports, at least [`OLDEST`].
fn installed_version() -> Result<String, Wrong> {
    let found =
        pkg_config::Config::new().cargo_metadata(false).env_metadata(false).probe("libdpdk").map_err(
            |e| match e {
                pkg_config::Error::Command { .. } => {
                    Wrong::new("pkg-config cannot be run", format!("apt-get install {PACKAGES}"))
                }
                _ => Wrong::new(
                    "pkg-config does not know libdpdk",
                    format!(
                        "apt-get install {PACKAGES}\n\
                 a DPDK of your own: PKG_CONFIG_PATH=<prefix>/lib/<triplet>/pkgconfig\n\
                 pkg-config said: {}",
                        e.to_string()
                            .lines()
                            .map(str::trim)
                            .filter(|l| l.starts_with("Package"))
                            .collect::<Vec<_>>()
                            .join(", ")
                    ),
                ),
            },
        )?;
    let mut parts = found.version.split(['.', '-']).map(|n| n.parse::<u32>().unwrap_or(0));
    let number = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    if number < OLDEST {
        return Err(Wrong::new(
            format!(
                "libdpdk {} is too old, {}.{} is the oldest that works",
                found.version, OLDEST.0, OLDEST.1
            ),
            format!(
                "apt-get install {PACKAGES} (Debian 12 has 22.11), or point PKG_CONFIG_PATH at a newer one"
            ),
        ));
    }
    Ok(found.version)
}

/// `pkg-config --cflags`, whole: the pkg-config crate drops `-include rte_config.h` and `-march`,
/// without which the headers do not parse and the inlines do not compile.
fn cflags() -> Result<Vec<String>, Wrong> {
    let program = env::var_os("PKG_CONFIG").unwrap_or_else(|| "pkg-config".into());
    let output = Command::new(program)
        .args(["--cflags", "libdpdk"])
        .output()
        .map_err(|e| Wrong::new(e, format!("apt-get install {PACKAGES}")))?;
    if !output.status.success() {
        return Err(Wrong::new("pkg-config --cflags libdpdk failed", format!("apt-get install {PACKAGES}")));
    }
    Ok(String::from_utf8_lossy(&output.stdout).split_whitespace().map(String::from).collect())
}

/// bindgen panics where libclang cannot be loaded; asked first, so that the answer is a sentence.
fn require_libclang() -> Result<(), Wrong> {
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| ()));
    let loaded = panic::catch_unwind(bindgen::clang_version);
    panic::set_hook(hook);
    loaded.map(|_| ()).map_err(|_| {
        Wrong::new(
            "libclang, with which bindgen reads DPDK's headers, cannot be loaded",
            format!("apt-get install {PACKAGES}, or set LIBCLANG_PATH to the directory of libclang.so"),
        )
    })
}

/// What is wrong, and what to do about it.
struct Wrong {
    what: String,
    next: String,
}

impl Wrong {
    fn new(what: impl Display, next: impl Display) -> Self {
        Self { what: what.to_string(), next: next.to_string() }
    }
}

impl Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n{}", self.what, self.next)
    }
}
