//! Every number that hearken publishes: its name, its unit, one sentence. The names are the same in `hearken stats`, in
//! JSON, in Prometheus' metrics, in DPDK's telemetry and on the page [`page`] (`COUNTERS.md`), which a test renews.
//!
//! Each list stands where its numbers are counted: [`CORE_COUNTERS`], [`Outcome`], [`DropReason`], [`Mib`]; those of the
//! devices are here, for they are counted by DPDK.

use std::fmt::Write as _;

use listener::drop_reason::DropReason;
use listener::segment::Outcome;
use listener::snmp::Mib;

use crate::stats::CORE_COUNTERS;

/// A number that is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name {
    /// What every page calls it.
    pub name: &'static str,
    /// What is counted, in the plural.
    pub unit: &'static str,
    /// What one of them is.
    pub sentence: &'static str,
}

/// What every DPDK driver counts since the port's start, by DPDK's names; then what the kernel counts in front of drivers that
/// read from its sockets.
pub const DEVICE_COUNTERS: [Name; 10] = [
    Name { name: "ipackets", unit: "frames", sentence: "Frames received." },
    Name { name: "opackets", unit: "frames", sentence: "Frames sent." },
    Name { name: "ibytes", unit: "bytes", sentence: "Octets received." },
    Name { name: "obytes", unit: "bytes", sentence: "Octets sent." },
    Name {
        name: "imissed",
        unit: "frames",
        sentence: "Lost in the device because no descriptor was free: the worker was too slow.",
    },
    Name { name: "ierrors", unit: "frames", sentence: "Received with an error and lost in the device." },
    Name { name: "oerrors", unit: "frames", sentence: "Could not be sent." },
    Name {
        name: "rx_nombuf",
        unit: "frames",
        sentence: "Lost because no mbuf was free: the pool was too small.",
    },
    Name {
        name: "ring_full",
        unit: "frames",
        sentence: "Lost by the kernel because the ring of the driver's socket was full: the worker was too slow (net_af_packet, net_af_xdp).",
    },
    Name {
        name: "interface_dropped",
        unit: "frames",
        sentence: "Dropped by the kernel at the interface below: on its way to hearken, or, of a frame for no protocol, anyway.",
    },
];

/// What is said of the link of each port.
pub const LINK: [Name; 2] = [
    Name {
        name: "up",
        unit: "0 or 1",
        sentence: "1 if frames can pass, by the driver's account and by that of the kernel's interface below, if there is one.",
    },
    Name { name: "changes", unit: "changes", sentence: "How often that has changed since the start." },
];

/// What the programs on the kernel's path count, in front of the kernel's listeners: first those of the claim, then those of
/// the hand-over.
pub const KERNEL_COUNTERS: [Name; 14] = [
    Name { name: "claim_redirected", unit: "frames", sentence: "SYNs that came to hearken." },
    Name {
        name: "claim_no_listener",
        unit: "frames",
        sentence: "SYNs to a claimed address where the kernel has no listener any more: left to the kernel.",
    },
    Name {
        name: "claim_known_flow",
        unit: "frames",
        sentence: "SYNs of a flow that the kernel knows, such as one in TIME-WAIT: left to the kernel.",
    },
    Name {
        name: "claim_accept_queue_full",
        unit: "frames",
        sentence: "SYNs to a listener whose accept queue is full: left to the kernel, which drops them (ListenOverflows).",
    },
    Name {
        name: "claim_left_to_kernel",
        unit: "frames",
        sentence: "SYNs to a listener with MPTCP, TCP Fast Open, MD5 or AO keys: left to the kernel.",
    },
    Name {
        name: "claim_other_vlan",
        unit: "frames",
        sentence: "SYNs that came by another VLAN than their address is in: left to the kernel.",
    },
    Name {
        name: "claim_answered",
        unit: "frames",
        sentence: "SYNs beyond kernel.redirect_per_ms that were answered where they arrived, with the same cookies.",
    },
    Name {
        name: "handed_over_to_kernel",
        unit: "segments",
        sentence: "Verified ACKs that the kernel made a connection of its listener from.",
    },
    Name {
        name: "handover_bad_cookie",
        unit: "segments",
        sentence: "ACKs at a claimed listener without a cookie of hearken's: the kernel answers them (RST).",
    },
    Name {
        name: "handover_outdated_cookie",
        unit: "segments",
        sentence: "ACKs with a cookie that is too old: the kernel answers them (RST).",
    },
    Name {
        name: "handover_bad_timestamp",
        unit: "segments",
        sentence: "ACKs with a cookie of hearken's and a timestamp that is not: the kernel answers them (RST).",
    },
    Name {
        name: "handover_refused",
        unit: "segments",
        sentence: "Verified ACKs that the kernel did not take; see net.ipv4.tcp_syncookies and \"hearken doctor\".",
    },
    Name {
        name: "handover_accept_queue_full",
        unit: "segments",
        sentence: "Verified ACKs that met a full accept queue: the kernel drops them (ListenOverflows), the client's data repeats them.",
    },
    Name {
        name: "handover_left_to_kernel",
        unit: "segments",
        sentence: "Verified ACKs at a listener that has MPTCP, TCP Fast Open, MD5 or AO keys by now.",
    },
];

/// The sentence of a device counter that every driver has; none for a driver's own.
pub fn device_sentence(name: &str) -> Option<&'static str> {
    DEVICE_COUNTERS.iter().find(|counter| counter.name == name).map(|counter| counter.sentence)
}

/// Numbers that belong together.
#[derive(Clone, Debug)]
pub struct Group {
    /// Headline.
    pub title: &'static str,
    /// How to read them.
    pub about: &'static str,
    /// Where they stand in `hearken stats --json`, and in DPDK's telemetry as `/hearken/…`.
    pub json: &'static str,
    /// The Prometheus metric; `NAME` stands for the counter's name.
    pub metric: &'static str,
    /// The numbers.
    pub names: Vec<Name>,
}

/// All groups, in the order in which `hearken stats` shows them.
pub fn groups() -> Vec<Group> {
    let outcomes = Outcome::ALL.iter().map(|outcome| Name {
        name: outcome.name(),
        unit: "frames",
        sentence: outcome.sentence(),
    });
    let drops = DropReason::ALL.iter().map(|reason| Name {
        name: reason.name(),
        unit: "frames",
        sentence: reason.sentence(),
    });
    let snmp = Mib::ALL.iter().map(|counter| Name {
        name: counter.name(),
        unit: counter.unit(),
        sentence: counter.sentence(),
    });
    vec![
        Group {
            title: "Each core",
            about: "Counted by the worker. `rx_frames` is at any turn's end exactly the sum of all outcomes and all \
                    drops.",
            json: "cores[].NAME",
            metric: "hearken_NAME_total{core}",
            names: CORE_COUNTERS.to_vec(),
        },
        Group {
            title: "Outcomes",
            about: "Frames in that were answered or handled, each under one outcome. Latency is kept per outcome.",
            json: "cores[].outcomes.NAME",
            metric: "hearken_outcomes_total{core,outcome=\"NAME\"}",
            names: outcomes.collect(),
        },
        Group {
            title: "Drop reasons",
            about: "Frames in that got no answer, each under one reason.",
            json: "cores[].drops.NAME",
            metric: "hearken_drops_total{core,reason=\"NAME\"}",
            names: drops.collect(),
        },
        Group {
            title: "The kernel's counters",
            about: "What `nstat` would show of a Linux listener, by the kernel's names. They count the same frames \
                    again, by other questions. `CurrEstab` is a gauge and has no `_total`; `core=\"control\"` is what \
                    the control thread counted, such as connections that `close` reset.",
            json: "cores[].snmp.NAME",
            metric: "hearken_snmp_NAME_total{core}",
            names: snmp.collect(),
        },
        device_group(),
        link_group(),
        Group {
            title: "Beside the kernel",
            about: "Counted by the programs on the kernel's path, where hearken stands in front of the kernel's \
                    listeners. `rtt_below_ms[n]` counts round trips from SYN-ACK to verified ACK below 2^n ms, as far as \
                    clients have timestamps; in Prometheus `hearken_handover_rtt_total{below_ms}`.",
            json: "kernel.counters.NAME",
            metric: "hearken_kernel_NAME_total",
            names: KERNEL_COUNTERS.to_vec(),
        },
    ]
}

fn device_group() -> Group {
    Group {
        title: "Each device",
        about: "By the device's own account, for all its queues. A frame that is lost here never reached a \
                worker. What else the driver counts (xstats, per queue too, such as `rx_q0_packets`) stands \
                beside these under the driver's names; in Prometheus as `hearken_device_xstat{port,xstat}`. Some drivers \
                never count `imissed` (virtio, memif, vhost and others): `losses_uncounted` is there then, and the start \
                says so.",
        json: "devices[].NAME",
        metric: "hearken_device_NAME_total{port}",
        names: DEVICE_COUNTERS.to_vec(),
    }
}

fn link_group() -> Group {
    Group {
        title: "The link of each port",
        about: "`up` is a gauge and has no `_total`; in JSON it is true or false, and `seconds` is for how long it has \
                been so.",
        json: "devices[].link.NAME",
        metric: "hearken_link_NAME_total{port}",
        names: LINK.to_vec(),
    }
}

/// The page `COUNTERS.md`.
pub fn page() -> String {
    let mut page = String::from(
        "# What hearken counts\n\nMade from the source by `HEARKEN_BLESS=1 cargo test -p dataplane --test counters`; do \
         not edit. The names are the same in `hearken stats`, its JSON, Prometheus' metrics and DPDK's telemetry. All \
         numbers count from the start.\n",
    );
    for group in groups() {
        let Group { title, about, json, metric, names } = group;
        // Writing to a String cannot fail.
        let _ = write!(page, "\n## {title}\n{about}\n\nJSON: `{json}`. Prometheus: `{metric}`.\n\n");
        page += "| name | unit | what it is |\n|---|---|---|\n";
        for Name { name, unit, sentence } in names {
            let _ = writeln!(page, "| `{name}` | {unit} | {sentence} |");
        }
    }
    page
}
