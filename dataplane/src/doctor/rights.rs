//! Capabilities, the kernel's command line, the clock.

use super::{Finding, Grade, Machine};

/// Those that devices may need, by their numbers (capability.h).
const WANTED: [(&str, u32); 4] =
    [("cap_net_bind_service", 10), ("cap_net_admin", 12), ("cap_net_raw", 13), ("cap_ipc_lock", 14)];

pub(super) fn capabilities(machine: &Machine<'_>) -> Finding {
    const CHECK: &str = "capabilities";
    let effective =
        machine.field("proc/self/status", "CapEff").and_then(|bits| u64::from_str_radix(&bits, 16).ok());
    let Some(effective) = effective else {
        return Finding::ok(CHECK, "the kernel does not say");
    };
    let (has, lacks): (Vec<_>, Vec<_>) = WANTED.iter().partition(|(_, bit)| effective & (1 << bit) != 0);
    if lacks.is_empty() {
        return Finding::ok(CHECK, names(&has).join(" "));
    }
    let lacks = names(&lacks);
    Finding::warn(
        CHECK,
        format!(
            "without {}, so some devices and listeners below port 1024 are out of reach",
            lacks.join(" ")
        ),
        format!("run as root, or: setcap {}+ep $(command -v hearken)", lacks.join(",")),
    )
}

fn names(list: &[&(&'static str, u32)]) -> Vec<&'static str> {
    list.iter().map(|(name, _)| *name).collect()
}

pub(super) fn command_line(machine: &Machine<'_>) -> Finding {
    const CHECK: &str = "command line";
    let line = machine.read("proc/cmdline").unwrap_or_default();
    let value = |key: &str| line.split(' ').find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
    let set: Vec<String> = ["isolcpus", "nohz_full", "rcu_nocbs"]
        .iter()
        .filter_map(|key| Some(format!("{key}={}", value(key)?)))
        .collect();
    if set.len() == 3 {
        return Finding::ok(CHECK, set.join(" "));
    }
    let cores = wanted_cores(machine);
    let found = if set.is_empty() { "no core is kept free".to_owned() } else { set.join(" ") };
    Finding {
        check: CHECK,
        grade: Grade::Warn,
        found: found + "; the scheduler and its tick then show in the latency's tail",
        next: Some(format!(
            "add to the kernel's command line: isolcpus={cores} nohz_full={cores} rcu_nocbs={cores}"
        )),
    }
}

/// The workers' cores as the kernel's parameters take them.
fn wanted_cores(machine: &Machine<'_>) -> String {
    let allowed = crate::start::cores::allowed();
    let chosen = machine.config.and_then(|config| crate::start::cores::choose(config, &allowed).ok());
    let cores = chosen.unwrap_or_else(|| allowed.iter().copied().skip(1).collect());
    let cores: Vec<String> = cores.iter().map(usize::to_string).collect();
    if cores.is_empty() { "1".into() } else { cores.join(",") }
}

pub(super) fn clock_source(machine: &Machine<'_>) -> Finding {
    const CHECK: &str = "clock source";
    let dir = "sys/devices/system/clocksource/clocksource0";
    let Some(current) = machine.read(&format!("{dir}/current_clocksource")) else {
        return Finding::ok(CHECK, "the kernel does not say");
    };
    // Those that are read without a system call.
    if matches!(current.as_str(), "tsc" | "kvm-clock" | "arch_sys_counter" | "hyperv_clocksource_tsc_page") {
        return Finding::ok(CHECK, current);
    }
    let available = machine.read(&format!("{dir}/available_clocksource")).unwrap_or_default();
    let next = match available.split(' ').any(|name| name == "tsc") {
        true => format!("echo tsc > /{dir}/current_clocksource"),
        false => "add tsc=reliable to the kernel's command line, if the machine's TSC can be trusted".into(),
    };
    Finding::warn(CHECK, format!("{current}: each burst then costs two system calls"), next)
}
