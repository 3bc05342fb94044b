//! Without `--config`: the machine's configuration file, which each test lays over this machine's /etc where nobody else
//! sees it.

mod lab;

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use lab::{run, skip};

const FILE: &str = "/etc/hearken/hearken.toml";
/// Lays the folder $0 over /etc, so that /etc/hearken is its own alone, and an empty one over /run, where servers are found.
const OVERLAY: &str = "mount -t overlay overlay -o lowerdir=\"$0\":/etc /etc && mount --bind \"$0/hearken\" /etc/hearken \
                       && mount -t tmpfs none /run && exec \"$@\"";

/// A machine as far as hearken looks: what its /etc/hearken has.
struct Machine {
    dir: tempfile::TempDir,
}

impl Machine {
    /// With an empty /etc/hearken; none if this process may not make one.
    fn new() -> Option<Self> {
        let machine = Self { dir: tempfile::tempdir().expect("a directory") };
        fs::create_dir(machine.path("hearken")).expect("a directory");
        if let Err(error) = run(&mut machine.command("true")) {
            skip("the machine's configuration file", error);
            return None;
        }
        Some(machine)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", OVERLAY]).arg(self.dir.path()).arg(program);
        command
    }

    fn hearken(&self, args: &str) -> Output {
        let mut command = self.command(env!("CARGO_BIN_EXE_hearken"));
        command.args(args.split_whitespace()).output().expect("it runs")
    }

    /// Exit code and what is said on stderr.
    fn said(&self, args: &str) -> (Option<i32>, String) {
        let output = self.hearken(args);
        (output.status.code(), String::from_utf8(output.stderr).expect("UTF-8"))
    }

    /// A file with one listener, of this backlog.
    fn write(&self, backlog: u32) {
        fs::write(self.path("in.pcap"), capture()).expect("a file");
        let text = format!(
            "[control]\nsocket = {:?}\n[[port]]\nname = \"p0\"\ndevice = \"pcap:{}\"\naddresses = [\"198.18.0.1/24\"]\n\
             [workers]\ncores = [0]\nidle = \"yield\"\n[[listener]]\naddr = \"198.18.0.1:80\"\nbacklog = {backlog}\n",
            self.path("h.sock"),
            self.path("in.pcap").display()
        );
        fs::write(self.path("hearken/hearken.toml"), text).expect("a file");
    }
}

/// A capture file of one frame, to nobody.
fn capture() -> Vec<u8> {
    let mut writer = pcap_file::pcap::PcapWriter::new(Vec::new()).expect("a header");
    writer.write_packet(&pcap_file::pcap::PcapPacket::new(Duration::ZERO, 60, &[0; 60])).expect("a frame");
    writer.into_writer()
}

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn without_a_file_run_and_check_say_which_and_what_to_do() {
    let Some(machine) = Machine::new() else { return };
    for args in ["run", "check"] {
        let (code, said) = machine.said(args);
        assert_eq!(code, Some(2), "{args}: {said}");
        for wanted in [FILE, "--config FILE", "configs/"] {
            assert!(said.contains(wanted), "{args} does not say {wanted}: {said}");
        }
    }
    // The doctor looks at the machine alone, and who asks a server looks where servers are by default.
    let doctor = machine.hearken("doctor");
    assert!(String::from_utf8_lossy(&doctor.stdout).contains("clock source"), "{doctor:?}");
    let (code, said) = machine.said("ss");
    assert!(code == Some(1) && said.contains("no server listens at /run/hearken/hearken.sock"), "{said}");
}

#[test]
fn with_one_everything_finds_it() {
    let Some(machine) = Machine::new() else { return };
    machine.write(128);
    let check = machine.hearken("check");
    assert!(check.status.success() && check.stdout.ends_with(b"\nok\n"), "{check:?}");
    let mut command = machine.command(env!("CARGO_BIN_EXE_hearken"));
    let log = fs::File::create(machine.path("log")).expect("a file");
    let child = command.args(["run", "--for", "60s"]).stdout(Stdio::null()).stderr(log).spawn();
    let (_server, begun) = (Server(child.expect("it starts")), Instant::now());
    // Neither the server nor those who ask it are told where its socket is.
    let ss = loop {
        let ss = machine.hearken("ss");
        if ss.status.success() {
            break String::from_utf8(ss.stdout).expect("UTF-8");
        }
        let log = fs::read_to_string(machine.path("log")).expect("a log");
        assert!(begun.elapsed() < Duration::from_secs(30), "{ss:?}\n{log}");
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(ss.contains("128") && ss.contains("198.18.0.1:80"), "{ss}");
    machine.write(256);
    let reload = machine.hearken("reload");
    let text = String::from_utf8_lossy(&reload.stdout);
    assert!(reload.status.success() && text.contains(&format!("{FILE}: 1 change applied")), "{reload:?}");
}

#[test]
fn a_broken_one_is_refused_by_line_and_named_to_those_who_find_no_server() {
    let Some(machine) = Machine::new() else { return };
    fs::write(machine.path("hearken/hearken.toml"), "name = \"x\"\nnonsense = 1\n").expect("a file");
    for args in ["run", "check", "doctor"] {
        let (code, said) = machine.said(args);
        assert!(code == Some(2) && said.contains(&format!("{FILE}:2: unknown field")), "{args}: {said}");
    }
    let (code, said) = machine.said("ss");
    assert!(code == Some(1) && said.contains("no server listens at /run/hearken/x.sock"), "{said}");
    assert!(said.contains(&format!("{FILE}:2: unknown field")), "{said}");
}
