//! A running hearken with metrics on a free port of loopback.
#![allow(dead_code, reason = "each test uses its own part of it")]

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use assert_cmd::cargo::cargo_bin;
use pcap_file::pcap::{PcapPacket, PcapWriter};

/// A hearken on a capture file, with a listener on 198.18.0.1:7000; killed when dropped.
pub struct Server {
    pub child: Child,
    pub metrics: SocketAddr,
    pub dir: tempfile::TempDir,
}

impl Server {
    /// On one frame, to nobody.
    pub fn start(envs: &[(&str, &Path)]) -> Self {
        Self::on(&[vec![0; 60]], envs)
    }

    /// On `frames`.
    pub fn on(frames: &[Vec<u8>], envs: &[(&str, &Path)]) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let path = |name: &str| dir.path().join(name);
        let file = fs::File::create(path("in.pcap")).expect("a file");
        let mut writer = PcapWriter::new(std::io::BufWriter::new(file)).expect("a header");
        for frame in frames {
            let len = u32::try_from(frame.len()).expect("a short frame");
            writer.write_packet(&PcapPacket::new(Duration::ZERO, len, frame)).expect("a frame");
        }
        // Written out before hearken reads it.
        drop(writer);
        let text = format!(
            "[control]\nsocket = {:?}\n[metrics]\nlisten = \"127.0.0.1:0\"\n[[port]]\nname = \"p0\"\ndevice = \"pcap:{}\"\n\
             addresses = [\"198.18.0.1/24\"]\n[workers]\ncores = [0]\nidle = \"yield\"\n[[listener]]\naddr = \"198.18.0.1:7000\"\n",
            path("h.sock"),
            path("in.pcap").display()
        );
        fs::write(path("h.toml"), text).expect("a file");
        let log = fs::File::create(path("log")).expect("a file");
        let mut command = Command::new(cargo_bin("hearken"));
        command.args(["run", "--for", "120s", "--config"]).arg(path("h.toml")).envs(envs.iter().copied());
        let child = command.stdout(Stdio::null()).stderr(log).spawn().expect("hearken starts");
        let metrics = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut server = Self { child, metrics, dir };
        let begun = Instant::now();
        while server.metrics.port() == 0 {
            let log = fs::read_to_string(server.dir.path().join("log")).expect("its log");
            assert!(begun.elapsed() < Duration::from_secs(30), "no metrics: {log}");
            let addr = log.split("metrics on http://").nth(1).and_then(|rest| rest.split_once("/metrics"));
            if let Some((addr, _)) = addr {
                server.metrics = addr.parse().expect("an address");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        server
    }

    /// Status line and body of `GET path`.
    pub fn get(&self, path: &str) -> (String, String) {
        let (head, body) = get(self.metrics, path, "*/*");
        (head.lines().next().unwrap_or_default().to_owned(), body)
    }

    /// Its control socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("h.sock")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Head and body of what `addr` answers to `GET path`.
pub fn get(addr: SocketAddr, path: &str, accept: &str) -> (String, String) {
    let mut stream = TcpStream::connect(addr).expect("it listens");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
    // 1.0: an answer in one piece, after which the connection ends.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: hearken\r\nAccept: {accept}\r\n\r\n").expect("it takes it");
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("an answer to its end");
    let text = String::from_utf8_lossy(&bytes);
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    (head.to_owned(), body.to_owned())
}
