//! What is asked of hearken on one card.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::lab::run;
use crate::vm::{Card, Vm, pci};

const CLOSE: u16 = 80;
const DISCARD: u16 = 9;
/// Opened by a reload.
const LATER: u16 = 81;
/// Connections of each family.
const CONNECTIONS: usize = 100;
const PATIENCE: Duration = Duration::from_secs(20);

/// What came of a check.
#[derive(Clone, Debug)]
pub struct Outcome {
    card: String,
    check: &'static str,
    /// What was seen, or what was wrong.
    pub result: Result<String, String>,
}

impl Outcome {
    /// `igb on vfio-pci, link`
    pub fn title(&self) -> String {
        format!("{}, {}", self.card, self.check)
    }
}

/// One card of a running machine.
pub struct Suite<'a> {
    vm: &'a Vm,
    card: &'a Card,
    at: usize,
    iommu: bool,
}

type Checked = Result<String, String>;
/// Its name, and what it does.
type Check<'a> = (&'static str, fn(&Suite<'a>) -> Checked);

/// Says what was wanted where something else was found.
fn wanted(right: bool, what: impl FnOnce() -> String) -> Result<(), String> {
    if right { Ok(()) } else { Err(what()) }
}

impl<'a> Suite<'a> {
    pub fn new(vm: &'a Vm, cards: &'a [Card], at: usize, iommu: bool) -> Self {
        Self { vm, card: &cards[at], at, iommu }
    }

    /// The checks in their order, each said as it ends.
    pub fn run(&self) -> Vec<Outcome> {
        let checks: [Check<'a>; 15] = [
            ("check", Self::check),
            ("doctor", Self::doctor),
            ("start", Self::start),
            ("rss", Self::rss),
            ("ping", Self::ping),
            ("connect", Self::connect),
            ("1 MB", Self::megabyte),
            ("queues", Self::queues),
            ("capture", Self::capture),
            ("reload", Self::reload),
            ("link", Self::link),
            ("second", Self::second),
            ("drain", Self::drain),
            ("interrupts", Self::interrupts),
            ("jumbo", Self::jumbo),
        ];
        let card = format!("{} on {}", self.card.name, self.card.driver);
        let mut outcomes = Vec::new();
        for (check, look) in checks {
            let begun = Instant::now();
            let result = look(self);
            let (word, said) = match &result {
                Ok(said) => ("ok", said.as_str()),
                Err(said) => ("FAIL", said.lines().next().unwrap_or_default()),
            };
            println!("{card:26} {check:11} {word:5} {:5.1} s  {said}", begun.elapsed().as_secs_f64());
            let dead = check == "start" && result.is_err();
            outcomes.push(Outcome { card: card.clone(), check, result });
            if dead {
                break;
            }
        }
        outcomes
    }

    fn v4(&self) -> Ipv4Addr {
        Ipv4Addr::new(198, 18, self.at as u8, 1)
    }

    fn v6(&self) -> Ipv6Addr {
        Ipv6Addr::new(0x2001, 0xdb8, self.at as u16, 0, 0, 0, 0, 1)
    }

    fn config(&self, more: &str, idle: &str) -> String {
        let cores = if self.card.queues > 1 { "0, 1" } else { "1" };
        let (v4, v6, pci) = (self.v4(), self.v6(), pci(self.at));
        let mut text = format!(
            "[control]\nsocket = \"/run/h.sock\"\ndrain_seconds = 2\n[workers]\ncores = [{cores}]\nidle = \"{idle}\"\n\
             [[port]]\nname = \"nic\"\ndevice = \"{pci}\"\naddresses = [\"{v4}/24\", \"{v6}/64\"]\n{more}\n"
        );
        for (port, then) in [(CLOSE, "close"), (DISCARD, "discard")] {
            text += &format!("[[listener]]\naddr = \"[::]:{port}\"\nbacklog = 4096\nthen = \"{then}\"\n");
        }
        text
    }

    fn check(&self) -> Checked {
        self.vm.put("/c/h.toml", &self.config("", "adaptive"))?;
        let said = self.vm.ok("hearken check --config /c/h.toml")?;
        wanted(said.ends_with("ok\n"), || said.clone())?;
        Ok("the configuration is good".into())
    }

    /// Nothing fails, and what it says of the card is what the card is on.
    fn doctor(&self) -> Checked {
        let (code, said) = self.vm.sh("hearken doctor --config /c/h.toml");
        let pci = pci(self.at);
        let line = said.lines().find(|line| line.contains("nic ") && line.contains(&pci)).unwrap_or_default();
        let right = line.starts_with("ok") && line.contains(&format!("on {}", self.card.driver));
        wanted(right && code != 1 && !said.contains("FAIL"), || said.clone())?;
        let iommu = said.lines().find(|line| line.get(6..).is_some_and(|rest| rest.starts_with("iommu")));
        let named = iommu.is_some_and(|line| self.iommu == line.contains("groups"));
        wanted(named && (self.iommu || said.contains("uio_pci_generic")), || said.clone())?;
        Ok(line[21..].to_owned())
    }

    /// Starts hearken with `config`, and waits until it answers.
    fn begin(&self, config: &str) -> Result<(), String> {
        self.vm.put("/c/h.toml", config)?;
        self.vm.ok("hearken run --config /c/h.toml >/c/out 2>/c/log & echo $! >/c/pid")?;
        let begun = Instant::now();
        while self.vm.sh("hearken ss --socket /run/h.sock >/dev/null").0 != 0 {
            let ended = self.vm.sh("kill -0 $(cat /c/pid)").0 != 0;
            if ended || begun.elapsed() > PATIENCE {
                return Err(format!("hearken does not come up: {}", self.vm.sh("cat /c/out /c/log").1));
            }
        }
        Ok(())
    }

    /// Ends it as systemd does; its exit code is 0.
    fn end(&self) -> Result<(), String> {
        self.vm.ok("kill -TERM $(cat /c/pid); wait $(cat /c/pid)").map(|_| ())
    }

    fn start(&self) -> Checked {
        self.begin(&self.config("", "adaptive"))?;
        let log = self.vm.ok("cat /c/log")?;
        let stats = self.stats()?;
        wanted(stats["devices"][0]["link"]["up"] == true, || format!("the link is not up: {log}"))?;
        wanted(log.contains(self.card.pmd), || format!("another driver: {log}"))?;
        wanted(!log.contains("panicked") && !log.contains("ERROR"), || log.clone())?;
        Ok(format!("{}, link up", self.card.pmd))
    }

    /// The key that the device has is read back, and is the one that was asked for.
    fn rss(&self) -> Checked {
        let log = self.vm.ok("cat /c/log")?;
        let words = log.split("rss=").nth(1).unwrap_or_default();
        let said: String = words.chars().take_while(|letter| *letter != '\n').take(80).collect();
        if self.card.queues == 1 {
            return Ok("one queue".into());
        }
        wanted(words.trim_start_matches('"').starts_with("symmetric, key "), || {
            format!("no symmetric key: {said}")
        })?;
        let key = words.split("key ").nth(1).unwrap_or_default();
        let same = key.as_bytes().chunks(4).take(10).all(|pair| pair == &key.as_bytes()[..4]);
        wanted(same, || format!("the key is another: {said}"))?;
        Ok(said.trim_matches('"').to_owned())
    }

    fn pings(&self, octets: &str) -> Result<(), String> {
        for target in [IpAddr::from(self.v4()), self.v6().into()] {
            let mut ping = self.vm.host.command("ping");
            let words = ["-M", "do", "-c", "3", "-i", "0.2", "-W", "10", "-s", octets, &target.to_string()];
            let said = run(ping.args(words)).map_err(|error| error.to_string())?;
            wanted(said.contains(" 0% packet loss"), || said.clone())?;
        }
        Ok(())
    }

    fn ping(&self) -> Checked {
        self.pings("1400")?;
        Ok("ARP, neighbour discovery, 1,400 octets".into())
    }

    /// Makes `count` connections one after the other; how many came to their end.
    fn connections(&self, target: IpAddr, port: u16, count: usize) -> io::Result<usize> {
        self.vm.host.enter(|| {
            let one = || -> io::Result<()> {
                let mut stream = TcpStream::connect_timeout(&SocketAddr::new(target, port), PATIENCE)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.read_to_end(&mut Vec::new()).map(|_| ())
            };
            (0..count).filter(|_| one().is_ok()).count()
        })
    }

    fn connect(&self) -> Checked {
        for target in [IpAddr::from(self.v4()), self.v6().into()] {
            let done = self.connections(target, CLOSE, CONNECTIONS).map_err(|error| error.to_string())?;
            wanted(done == CONNECTIONS, || format!("{done} of {CONNECTIONS} to {target}"))?;
        }
        Ok(format!("{} of {}", 2 * CONNECTIONS, 2 * CONNECTIONS))
    }

    fn megabyte(&self) -> Checked {
        let target = SocketAddr::new(self.v4().into(), DISCARD);
        let sent = self.vm.host.enter(|| -> io::Result<()> {
            let mut stream = TcpStream::connect_timeout(&target, PATIENCE)?;
            stream.set_write_timeout(Some(PATIENCE))?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.write_all(&vec![7; 1 << 20])?;
            stream.shutdown(Shutdown::Write)?;
            stream.read_to_end(&mut Vec::new()).map(|_| ())
        });
        sent.and_then(|sent| sent).map_err(|error| error.to_string())?;
        let lost = self.stats()?["devices"][0]["imissed"].as_u64().unwrap_or_default();
        Ok(format!("taken to its end, {lost} missed by the device"))
    }

    fn stats(&self) -> Result<Value, String> {
        let said = self.vm.ok("hearken stats --all --json --socket /run/h.sock")?;
        serde_json::from_str(&said).map_err(|error| format!("{error}: {said}"))
    }

    /// Every queue has had its share, and no segment had to be handed over: both directions of a flow meet on one.
    fn queues(&self) -> Checked {
        let stats = self.stats()?;
        let cores = stats["cores"].as_array().cloned().unwrap_or_default();
        let frames: Vec<u64> =
            cores.iter().map(|core| core["rx_frames"].as_u64().unwrap_or_default()).collect();
        wanted(frames.len() == self.card.queues, || format!("{} workers: {frames:?}", frames.len()))?;
        let least = frames.iter().min().copied().unwrap_or_default();
        wanted(least * 10 > frames.iter().sum::<u64>() / frames.len() as u64, || format!("{frames:?}"))?;
        let handed = stats["total"]["handed_over"].as_u64().unwrap_or_default();
        wanted(handed == 0, || format!("{handed} segments came to another core than their flow's"))?;
        Ok(format!("frames {frames:?}"))
    }

    fn capture(&self) -> Checked {
        self.vm.ok("hearken capture --count 5 --out /c/f.pcapng --socket /run/h.sock >/c/cap 2>&1 & echo $! >/c/cappid")?;
        let begun = Instant::now();
        while self.vm.sh("kill -0 $(cat /c/cappid)").0 == 0 {
            wanted(begun.elapsed() < PATIENCE, || "the capture does not end".into())?;
            self.connections(self.v4().into(), CLOSE, 1).map_err(|error| error.to_string())?;
        }
        let said = self.vm.ok("hearken why --pcap /c/f.pcapng --socket /run/h.sock")?;
        let answers = said.lines().filter(|line| line.starts_with("verdict")).count();
        wanted(answers == 5, || format!("{answers} of 5 frames are explained: {said}"))?;
        Ok("5 frames, explained".into())
    }

    fn reload(&self) -> Checked {
        let more = format!("[[listener]]\naddr = \"[::]:{LATER}\"\nthen = \"close\"\n");
        self.vm.put("/c/h.toml", &(self.config("", "adaptive") + &more))?;
        let said = self.vm.ok("hearken reload --socket /run/h.sock")?;
        let done = self.connections(self.v6().into(), LATER, 3).map_err(|error| error.to_string())?;
        wanted(done == 3, || format!("{done} of 3 to the new listener: {said}"))?;
        Ok("a listener more".into())
    }

    fn link(&self) -> Checked {
        let until = |up: bool| -> Result<(), String> {
            let begun = Instant::now();
            loop {
                let link = self.stats()?["devices"][0]["link"].clone();
                if link["up"] == up {
                    return Ok(());
                }
                wanted(begun.elapsed() < PATIENCE, || format!("wanted up = {up}, found {link}"))?;
            }
        };
        for up in [false, true] {
            self.vm.set_link(self.at, up).map_err(|error| error.to_string())?;
            until(up)?;
        }
        let done = self.connections(self.v4().into(), CLOSE, 3).map_err(|error| error.to_string())?;
        wanted(done == 3, || format!("{done} of 3 after the link came back"))?;
        Ok("down and up, seen; serves again".into())
    }

    /// A second hearken on the card is refused by name, and the first one is none the worse.
    fn second(&self) -> Checked {
        self.vm.ok("sed s,/run/h.sock,/run/second.sock, /c/h.toml >/c/second.toml")?;
        let (code, said) = self.vm.sh("hearken run --config /c/second.toml");
        wanted(code == 1 && said.contains(&pci(self.at)), || format!("exit code {code}: {said}"))?;
        let done = self.connections(self.v4().into(), CLOSE, 3).map_err(|error| error.to_string())?;
        wanted(done == 3, || format!("{done} of 3 at the first one: {said}"))?;
        Ok(said.lines().last().unwrap_or_default().chars().take(80).collect())
    }

    fn drain(&self) -> Checked {
        self.end()?;
        let log = self.vm.ok("cat /c/out /c/log")?;
        wanted(!log.contains("panicked"), || log.clone())?;
        Ok("exit code 0".into())
    }

    /// Where the driver raises interrupts the workers sleep; where it does not a start says so and what to do.
    fn interrupts(&self) -> Checked {
        let begun = self.begin(&self.config("", "interrupt"));
        if !self.card.interrupts {
            let said = begun.err().ok_or("it started, without interrupts")?;
            wanted(said.contains("interrupt") && said.contains("vfio-pci"), || said.clone())?;
            return Ok("refused, and vfio-pci advised".into());
        }
        begun?;
        let done = self.connections(self.v4().into(), CLOSE, 20).map_err(|error| error.to_string())?;
        wanted(done == 20, || format!("{done} of 20"))?;
        let turns = |stats: Value| stats["total"]["turns_idle"].as_u64().unwrap_or_default();
        let before = turns(self.stats()?);
        self.vm.ok("sleep 1")?;
        let idle = turns(self.stats()?) - before;
        self.end()?;
        wanted(idle < 5_000, || format!("{idle} turns in a second without a frame: they do not sleep"))?;
        Ok(format!("20 of 20, {idle} turns in an idle second"))
    }

    /// Frames of 9,000 octets both ways, or a line that says what is taken instead.
    fn jumbo(&self) -> Checked {
        self.begin(&self.config("mtu = 9000", "adaptive"))?;
        let log = self.vm.ok("cat /c/log")?;
        let took = log.contains("mtu=9000");
        let checked = if took {
            self.pings("8900").and_then(|()| self.megabyte()).map(|_| "9,000 octets".to_owned())
        } else {
            self.pings("1400").map(|()| "clamped, and said".to_owned())
        };
        let stats = self.stats()?;
        self.end()?;
        let scattered = stats["total"]["drops"]["multi_segment"].as_u64().unwrap_or_default();
        wanted(scattered == 0, || format!("{scattered} frames dropped as multi_segment"))?;
        wanted(took || !self.card.jumbo, || format!("no jumbo frames: {log}"))?;
        wanted(took || log.contains("mtu 9000") || log.contains("MTU 9000"), || log.clone())?;
        checked
    }
}
