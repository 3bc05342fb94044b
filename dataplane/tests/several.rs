//! Several hearkens behind one address: with one `cookies.secret_file` each takes the handshakes that another began, also
//! one that was started again, and whatever generation of keys they have just come to.

#![cfg(feature = "dpdk")]

mod lab;
#[path = "parity/mod.rs"]
mod parity;

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use lab::skip;
use parity::frame::{ACK, option};
use parity::server::{Server, Setup, Then};
use parity::talk::{PUSH, TSVAL, Talk};

const PORT: u16 = 7000;

/// The file with the keys, and servers that read it.
struct Several {
    _dir: tempfile::TempDir,
    file: PathBuf,
    setup: Setup,
    servers: Vec<Server>,
    sport: u16,
}

impl Several {
    fn start(count: usize) -> io::Result<Self> {
        let dir = tempfile::tempdir()?;
        let file = dir.path().join("cookie-secret");
        write(&file, &['1']);
        let mut setup = Setup::default().listen(PORT, 4096, Then::Discard, 0).sysctl("tcp_syncookies", "2");
        setup.secret_file = Some(file.clone());
        let servers = (0..count).map(|_| Server::hearken(program(), &setup)).collect::<io::Result<_>>()?;
        Ok(Self { _dir: dir, file, setup, servers, sport: 2000 })
    }

    /// A SYN at server `first`, with or without options.
    fn syn(&mut self, first: usize, v6: bool, options: bool) -> Handshake {
        self.sport += 1;
        let mut talk = Talk::new(&self.servers[first], v6, self.sport, PORT);
        talk.syn(if options { option::all(TSVAL) } else { option::mss(1460) });
        assert_eq!(talk.trace[0].replies.len(), 1, "a SYN-ACK: {:?}", talk.trace);
        Handshake { v6, sport: self.sport, options, iss: talk.origin.iss, tsval: talk.origin.tsval }
    }

    /// The final ACK and data behind it, at server `second`: true if it takes both.
    fn finish(&self, second: usize, shake: &Handshake) -> bool {
        let mut talk = Talk::new(&self.servers[second], shake.v6, shake.sport, PORT);
        (talk.origin.iss, talk.origin.tsval, talk.timestamps) = (shake.iss, shake.tsval, shake.options);
        talk.send("final ACK", &talk.tcp(ACK));
        let refused = format!("{:?}", talk.trace).contains("\"flags\", \"R\"");
        talk.send("data", &talk.data(PUSH, 0, 100));
        let said = format!("{:?}", talk.trace.last());
        let taken = said.contains("\"flags\", \"A\"") && said.contains("isn+101");
        // Timestamps go on where those of the SYN-ACK were, whoever sends them.
        assert_eq!(taken && shake.options, said.contains("ts "), "{said}");
        talk.clean_up();
        assert_ne!(taken, refused, "{said}");
        taken
    }

    fn rotate(&self, server: usize) -> String {
        let hearken = self.servers[server].hearken.as_ref().expect("it runs");
        hearken.ctl("cookie-keys rotate").expect("the keys change")
    }
}

/// One that has come to the SYN-ACK.
struct Handshake {
    v6: bool,
    sport: u16,
    options: bool,
    iss: Option<u32>,
    tsval: Option<u32>,
}

fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_hearken"))
}

fn write(file: &Path, generations: &[char]) {
    let text: String = generations.iter().map(|digit| digit.to_string().repeat(96) + "\n").collect();
    fs::write(file, text).expect("a file");
    fs::set_permissions(file, Permissions::from_mode(0o600)).expect("our own");
}

#[test]
fn one_secret_for_all() {
    let mut several = match Several::start(2) {
        Ok(several) => several,
        Err(error) => return skip("several hearkens behind one address", error),
    };
    // Begun here, ended there.
    for (v6, options) in [(false, false), (false, true), (true, false), (true, true)] {
        for (first, second) in [(0, 1), (1, 0)] {
            let shake = several.syn(first, v6, options);
            assert!(several.finish(second, &shake), "v6 {v6}, options {options}, {first} then {second}");
        }
    }
    // Begun before a restart, ended after it.
    let before: Vec<_> = [false, true].map(|v6| several.syn(0, v6, true)).into();
    let setup = several.setup.clone();
    several.servers[0].restart(program(), &setup);
    for shake in &before {
        assert!(several.finish(0, shake), "a restart loses no handshake");
    }
    // Keys change on one after the other: all learn the new generation before anybody uses it.
    let old = several.syn(0, false, true);
    for generations in [&['1', '2'], &['2', '1']] {
        write(&several.file, generations);
        for turned in 0..2 {
            several.rotate(turned);
            for (first, second) in [(0, 1), (1, 0)] {
                let shake = several.syn(first, false, true);
                assert!(several.finish(second, &shake), "{generations:?}, {turned}: {first} then {second}");
            }
        }
    }
    assert!(several.finish(1, &old), "the generation before is still good");
    // Only the last generation is kept.
    let [old, last] = [several.syn(0, false, true), several.syn(1, true, false)];
    write(&several.file, &['3', '2']);
    let said = several.rotate(0);
    assert!(said.contains("rotations  3"), "{said}");
    assert!(several.finish(0, &old), "one generation back");
    write(&several.file, &['4', '3']);
    several.rotate(0);
    assert!(!several.finish(0, &last), "two generations back");
    assert!(several.finish(1, &last), "the other knows it still");
    let unread = several.servers[0].hearken.as_ref().expect("it runs").ctl("cookie-keys rotate");
    assert!(unread.expect_err("nothing new").to_string().contains("in use already"));
}
