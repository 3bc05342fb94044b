//! Compiles the BPF programs with clang: one object each, read by `include_bytes!`.

use std::env;
use std::path::PathBuf;
use std::process::Command;

const PROGRAMS: [&str; 5] = ["claim", "flood", "handover", "listeners", "wire"];

fn main() {
    println!("cargo:rerun-if-changed=src/bpf");
    println!("cargo:rerun-if-env-changed=CLANG");
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".into());
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let arch = env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets the architecture");
    for program in PROGRAMS {
        let source = format!("src/bpf/{program}.bpf.c");
        let object = out.join(format!("{program}.bpf.o"));
        let status = Command::new(&clang)
            // `-g`: the types that CO-RE relocates by. v3: atomic operations and 32-bit registers (kernel 5.12).
            .args(["-target", "bpf", "-mcpu=v3", "-O2", "-g", "-Wall", "-Werror"])
            // Debian keeps `asm/types.h` in the architecture's own folder.
            .arg(format!("-I/usr/include/{arch}-linux-gnu"))
            .args(["-c", &source, "-o"])
            .arg(&object)
            .status();
        match status {
            Ok(status) if status.success() => {}
            Ok(status) => {
                panic!("{clang} could not compile {source}: {status}; it needs clang 14 and libbpf-dev")
            }
            Err(error) => panic!(
                "cannot run {clang}: {error}. Next: apt-get install clang libbpf-dev, or set CLANG, or build without the \
                 feature \"kernel\" (--no-default-features)"
            ),
        }
    }
}
