//! The log's forms: text, JSON, priorities for the journal; more and less of it.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use assert_cmd::cargo::cargo_bin;

const FILE: &str =
    "name = \"log\"\n[control]\nsocket = \"SOCKET\"\n[[port]]\nname = \"p0\"\ndevice = \"pcap:IN,OUT\"\n";

/// Standard error of a `hearken run` on a capture, under the journal or not.
fn stderr_of(args: &[&str], journal: bool) -> String {
    let dir = tempfile::tempdir().expect("a folder");
    let path = |name: &str| dir.path().join(name).display().to_string();
    // A pcap file with one frame of 60 zeros.
    let mut capture =
        vec![0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 1, 0, 0, 0];
    capture.extend([0, 0, 0, 0, 0, 0, 0, 0, 60, 0, 0, 0, 60, 0, 0, 0]);
    capture.extend([0; 60]);
    fs::write(path("in.pcap"), capture).expect("a capture");
    let text = FILE.replace("SOCKET", &path("s")).replace("IN", &path("in.pcap"));
    fs::write(path("h.toml"), text.replace("OUT", &path("out.pcap"))).expect("a file");
    let log: PathBuf = dir.path().join("log");
    let file = File::create(&log).expect("a file");
    let meta = file.metadata().expect("its status");
    let mut command = Command::new(cargo_bin("hearken"));
    command.args(["run", "--for", "100ms", "--config", &path("h.toml")]).args(args).env_remove("HEARKEN_LOG");
    match journal {
        true => command.env("JOURNAL_STREAM", format!("{}:{}", meta.dev(), meta.ino())),
        false => command.env_remove("JOURNAL_STREAM"),
    };
    let status = command.stdout(Stdio::null()).stderr(file).status().expect("hearken");
    let said = fs::read_to_string(&log).expect("UTF-8");
    assert!(status.success(), "{said}");
    said
}

#[test]
fn json_is_one_object_a_line() {
    let said = stderr_of(&["--log", "json"], false);
    assert!(said.lines().count() > 0, "nothing was logged");
    for line in said.lines() {
        let object: serde_json::Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        assert!(object["level"].is_string() && object["fields"]["message"].is_string(), "{line}");
    }
}

#[test]
fn lines_for_the_journal_have_their_priority() {
    for form in ["text", "json"] {
        let said = stderr_of(&["--log", form], true);
        assert!(said.lines().any(|line| line.starts_with("<6>")), "{said}");
        for line in said.lines() {
            let bytes = line.as_bytes();
            assert!(bytes[0] == b'<' && bytes[1].is_ascii_digit() && bytes[2] == b'>', "{line}");
        }
    }
    assert!(!stderr_of(&[], false).contains("<6>"));
}

#[test]
fn less_and_more_can_be_asked_for() {
    let (usual, less) = (stderr_of(&[], false), stderr_of(&["-q"], false));
    assert!(usual.contains("INFO"), "{usual}");
    assert!(!less.contains("INFO"), "{less}");
}

#[test]
fn a_command_that_fails_says_so_in_the_form_that_was_asked_for() {
    let output = Command::new(cargo_bin("hearken"))
        .args(["check", "--config", "/nowhere.toml", "--log", "json"])
        .output()
        .expect("hearken");
    assert_eq!(output.status.code(), Some(2));
    let object: serde_json::Value = serde_json::from_slice(&output.stderr).expect("one JSON object");
    assert_eq!(object["level"], "ERROR");
    assert!(object["fields"]["message"].as_str().expect("words").contains("/nowhere.toml"));
}
