//! Every file in `configs/` is a configuration that hearken takes as it stands.

use std::path::{Path, PathBuf};

use dataplane::config::{Adopt, Config, Device};
use dataplane::start::stack;

fn configs() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs");
    let entries =
        std::fs::read_dir(dir).expect("the directory configs").map(|entry| entry.expect("an entry").path());
    let mut files: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|ext| ext == "toml")).collect();
    files.sort_unstable();
    files
}

#[test]
fn every_config_is_right_and_its_listeners_open() {
    let files = configs();
    for file in &files {
        let config = Config::load(file).unwrap_or_else(|error| panic!("{error}"));
        stack::rehearse(&config).unwrap_or_else(|error| panic!("{error}"));
        let listens = !config.listener.is_empty() || config.kernel.adopt == Adopt::All;
        assert!(listens, "{} listens on nothing", file.display());
    }
    let names: Vec<&str> = files.iter().filter_map(|path| path.file_stem()?.to_str()).collect();
    for kind in
        ["af_packet", "tap", "ring", "pcap", "mlx5", "ice", "i40e", "ixgbe", "virtio", "ena", "shield"]
    {
        assert!(names.contains(&kind), "there is no configs/{kind}.toml");
    }
}

/// What a comment offers must be right as well: each `# key = …` line is tried in place.
#[test]
fn keys_that_comments_offer_exist() {
    for file in configs() {
        let text = std::fs::read_to_string(&file).expect("a file");
        for (number, line) in text.lines().enumerate() {
            let offered = line.strip_prefix("# ").filter(|rest| {
                let key = rest.split_once(" = ").map_or("", |(key, _)| key);
                !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
            });
            let Some(offered) = offered else { continue };
            // A commented section begins with its header, which then has to come along.
            let header = text.lines().nth(number.wrapping_sub(1)).and_then(|line| line.strip_prefix("# ["));
            let header = header.map(|rest| format!("[{rest}\n")).unwrap_or_default();
            let key = offered.split(" = ").next().unwrap_or_default();
            let tried: String = text
                .lines()
                .enumerate()
                .filter(|(_, other)| !header.is_empty() || !other.starts_with(&format!("{key} = ")))
                .map(
                    |(at, other)| {
                        if at == number { format!("{header}{offered}\n") } else { format!("{other}\n") }
                    },
                )
                .collect();
            let tried = if offered.contains("net_pcap") {
                tried.replace("mac = \"02:00:00:00:00:01\"\n", "")
            } else {
                tried
            };
            Config::parse(&file, tried).unwrap_or_else(|error| panic!("with \"{offered}\": {error}"));
        }
    }
}

#[test]
fn the_pcap_config_needs_no_dpdk() {
    let file = configs().into_iter().find(|path| path.ends_with("pcap.toml")).expect("configs/pcap.toml");
    let config = Config::load(&file).expect("a configuration");
    assert!(matches!(config.port[0].device.get_ref(), Device::Pcap { .. }));
}
