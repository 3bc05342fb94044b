//! Scripts in packetdrill's notation, read line by line: the passive side's part of it.
//!
//! A line is a time and an event: a segment to the server (`<`), one from it (`>`), a call of a program on the server, or
//! knobs between backticks. What is not known is an error that names the line: a script is never half run.

use std::fmt;
use std::time::Duration;

/// When an event is to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Any time.
    Any,
    /// From the first to the second, after the event before (`true`) or after the beginning.
    At(Duration, Duration, bool),
}

/// What happens.
#[derive(Clone, Debug)]
pub enum What {
    /// Sent to the server.
    In(Packet),
    /// Expected from it.
    Out(Tcp),
    /// Made by a program on it.
    Call(Call),
    /// Set on it: `net.ipv4.tcp_rmem`, `4096 131072 33554432`.
    Sysctls(Vec<(String, String)>),
}

/// One event.
#[derive(Clone, Debug)]
pub struct Event {
    pub line: usize,
    pub text: String,
    pub when: When,
    pub what: What,
}

/// A packet to the server.
#[derive(Clone, Debug)]
pub enum Packet {
    Tcp(Tcp),
    /// An ICMP error by its name, about a segment of the server's with this number.
    Icmp {
        code: String,
        seq: u32,
    },
}

/// A segment; numbers count from each side's first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tcp {
    /// Letters as they stand, `.` for ACK.
    pub flags: String,
    pub seq: u32,
    pub len: u32,
    pub ack: Option<u32>,
    pub window: Option<u16>,
    /// `None`: whatever there is.
    pub options: Option<Vec<Opt>>,
}

impl fmt::Display for Tcp {
    /// As a script has it, but for the value of a clock.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { flags, seq, len, ack, window, options } = self;
        write!(f, "{flags} {seq}:{}({len})", seq.wrapping_add(*len))?;
        ack.map_or(Ok(()), |ack| write!(f, " ack {ack}"))?;
        window.map_or(Ok(()), |window| write!(f, " win {window}"))?;
        let options: Vec<_> = options.iter().flatten().map(Opt::to_string).collect();
        if options.is_empty() { Ok(()) } else { write!(f, " <{}>", options.join(",")) }
    }
}

impl fmt::Display for Opt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nop => write!(f, "nop"),
            Self::End => write!(f, "eol"),
            Self::Mss(mss) => write!(f, "mss {mss}"),
            Self::SackOk => write!(f, "sackOK"),
            Self::WindowScale(shift) => write!(f, "wscale {shift}"),
            Self::Sack(from, to) => write!(f, "sack {from}:{to}"),
            Self::Timestamps(_, echo) => write!(f, "TS val _ ecr {echo}"),
        }
    }
}

/// A TCP option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opt {
    Nop,
    End,
    Mss(u16),
    SackOk,
    WindowScale(u8),
    /// The first block.
    Sack(u32, u32),
    Timestamps(u32, u32),
}

/// A system call and its result.
#[derive(Clone, Debug)]
pub struct Call {
    pub name: String,
    pub args: Vec<String>,
    pub result: i64,
    /// The errno's name where the result is -1.
    pub errno: Option<String>,
}

/// What `./defaults.sh` of the scripts sets, as far as a listener goes by it.
const DEFAULTS: [(&str, &str); 8] = [
    ("net.ipv4.tcp_rmem", "4096 540000 15728640"),
    ("net.ipv4.tcp_synack_retries", "5"),
    ("net.ipv4.tcp_timestamps", "1"),
    ("net.ipv4.tcp_sack", "1"),
    ("net.ipv4.tcp_window_scaling", "1"),
    ("net.ipv4.tcp_ecn", "0"),
    ("net.ipv4.tcp_fastopen", "3"),
    ("net.ipv4.tcp_syncookies", "1"),
];

/// A whole script.
#[derive(Debug)]
pub struct Script {
    /// `ipv4`, `ipv6` or `ipv4-mapped-ipv6` if it is for one of them alone.
    pub only: Option<String>,
    pub events: Vec<Event>,
}

/// Reads a script.
///
/// # Errors
/// The line that is not understood, and why.
pub fn parse(text: &str) -> Result<Script, String> {
    let mut script = Script { only: None, events: Vec::new() };
    let mut lines = text.lines().enumerate();
    while let Some((number, first)) = lines.next() {
        let mut line = without_comment(first).trim().to_owned();
        if let Some(option) = line.strip_prefix("--") {
            match option.split_once('=') {
                Some(("ip_version", version)) => script.only = Some(version.to_owned()),
                _ => return Err(format!("line {}: no option is known by --{option}", number + 1)),
            }
            continue;
        }
        if line.is_empty() {
            continue;
        }
        // Commands go on up to the second backtick, a call up to its result.
        while line.matches('`').count() == 1 {
            let (_, next) = lines.next().ok_or("a backtick without its second")?;
            line = format!("{line}\n{next}");
        }
        let event = event(&line).map_err(|why| format!("line {}: {why}: {line}", number + 1))?;
        script.events.push(Event { line: number + 1, text: line, ..event });
    }
    Ok(script)
}

fn without_comment(line: &str) -> &str {
    let line = line.split("//").next().unwrap_or_default();
    if line.starts_with('#') { "" } else { line }
}

fn event(line: &str) -> Result<Event, String> {
    let now = When::At(Duration::ZERO, Duration::ZERO, true);
    let (when, rest) = match line.split_once(char::is_whitespace) {
        _ if line.starts_with('`') => (now, line),
        Some((time, rest)) => (when(time)?, rest.trim()),
        None => return Err("a time without an event".into()),
    };
    let what = if let Some(commands) = rest.strip_prefix('`') {
        What::Sysctls(sysctls(commands.trim_end_matches('`'))?)
    } else if let Some(packet) = rest.strip_prefix('<') {
        What::In(packet_in(packet.trim())?)
    } else if let Some(packet) = rest.strip_prefix('>') {
        What::Out(tcp(packet.trim())?)
    } else {
        What::Call(call(rest)?)
    };
    Ok(Event { line: 0, text: String::new(), when, what })
}

/// `0`, `+.1`, `+0~+.06`, `.2~.25`, `*`.
fn when(text: &str) -> Result<When, String> {
    if text == "*" {
        return Ok(When::Any);
    }
    let (from, to) = text.split_once('~').unwrap_or((text, text));
    let relative = from.starts_with('+');
    let seconds = |text: &str| {
        let number: f64 = text.trim_start_matches('+').parse().map_err(|_| format!("{text} is no time"))?;
        Duration::try_from_secs_f64(number).map_err(|error| error.to_string())
    };
    Ok(When::At(seconds(from)?, seconds(to)?, relative))
}

/// `./defaults.sh`, and lines such as `sysctl -q net.ipv4.tcp_rmem="4096 16384 33554432"`.
fn sysctls(commands: &str) -> Result<Vec<(String, String)>, String> {
    let mut all = Vec::new();
    for command in commands.split(['\n', ';']).map(str::trim).filter(|command| !command.is_empty()) {
        if command.ends_with("defaults.sh") {
            all.extend(DEFAULTS.map(|(name, value)| (name.to_owned(), value.to_owned())));
            continue;
        }
        let settings = command.strip_prefix("sysctl").ok_or(format!("no command is known by {command}"))?;
        let settings = settings.trim().trim_start_matches("-q").trim_start_matches("-w").trim();
        let mut rest = settings;
        while let Some((name, value)) = rest.split_once('=') {
            let value = value.trim_start();
            let (value, left) = match value.strip_prefix(['"', '\'']) {
                Some(quoted) => quoted.split_once(['"', '\'']).ok_or("a quote without its second")?,
                None => value.split_once(char::is_whitespace).unwrap_or((value, "")),
            };
            all.push((name.trim().to_owned(), value.to_owned()));
            rest = left.trim_start();
        }
    }
    Ok(all)
}

fn packet_in(text: &str) -> Result<Packet, String> {
    let Some(icmp) = text.strip_prefix("icmp ") else { return tcp(text).map(Packet::Tcp) };
    let (names, quoted) = icmp.split_once('[').ok_or("an ICMP error quotes a segment")?;
    let code = names.split_whitespace().nth(1).ok_or("an ICMP error has a code")?.to_owned();
    let (seq, _) = numbers(quoted.trim_end_matches(']'))?;
    Ok(Packet::Icmp { code, seq })
}

/// `1:11(10)`
fn numbers(text: &str) -> Result<(u32, u32), String> {
    let wrong = || format!("{text} is no range of sequence numbers");
    let (seq, rest) = text.split_once(':').ok_or_else(wrong)?;
    let (end, len) = rest.split_once('(').ok_or_else(wrong)?;
    let number = |text: &str| text.parse::<u32>().map_err(|_| wrong());
    let (seq, end, len) = (number(seq)?, number(end)?, number(len.trim_end_matches(')'))?);
    if seq.wrapping_add(len) == end { Ok((seq, len)) } else { Err(wrong()) }
}

/// `P. 1:11(10) ack 1 win 1000 <nop,nop,TS val 110 ecr 1000>`
fn tcp(text: &str) -> Result<Tcp, String> {
    let (head, options) = match text.split_once('<') {
        Some((head, options)) => (head, Some(options.trim().trim_end_matches('>'))),
        None => (text, None),
    };
    let mut words = head.split_whitespace();
    let flags = words.next().ok_or("a segment has flags")?.to_owned();
    if let Some(letter) = flags.chars().find(|letter| !"SFRP.EWUA-".contains(*letter)) {
        return Err(format!("no flag is known by {letter}"));
    }
    let (seq, len) = numbers(words.next().ok_or("a segment has numbers")?)?;
    let mut segment = Tcp { flags, seq, len, ..Tcp::default() };
    while let Some(word) = words.next() {
        let value = words.next().ok_or(format!("{word} without its value"))?;
        match word {
            "ack" => segment.ack = Some(value.parse().map_err(|_| format!("{value} is no number"))?),
            "win" => segment.window = Some(value.parse().map_err(|_| format!("{value} is no window"))?),
            _ => return Err(format!("no field is known by {word}")),
        }
    }
    segment.options = match options.map(str::trim) {
        None => None,
        Some("...") => None,
        Some("") => Some(Vec::new()),
        Some(options) => Some(options.split(',').map(option).collect::<Result<_, _>>()?),
    };
    Ok(segment)
}

fn option(text: &str) -> Result<Opt, String> {
    let words: Vec<_> = text.split_whitespace().collect();
    let wrong = || format!("no option is known by {text}");
    let number = |text: &str| text.parse::<u32>().map_err(|_| wrong());
    match words[..] {
        ["nop"] => Ok(Opt::Nop),
        ["eol"] => Ok(Opt::End),
        ["sackOK"] => Ok(Opt::SackOk),
        ["mss", mss] => Ok(Opt::Mss(mss.parse().map_err(|_| wrong())?)),
        ["wscale", shift] => Ok(Opt::WindowScale(shift.parse().map_err(|_| wrong())?)),
        ["sack", block] => {
            let (from, to) = block.split_once(':').ok_or_else(wrong)?;
            Ok(Opt::Sack(number(from)?, number(to)?))
        }
        ["TS", "val", value, "ecr", echo] => Ok(Opt::Timestamps(number(value)?, number(echo)?)),
        _ => Err(wrong()),
    }
}

/// `getsockopt(4, SOL_SOCKET, SO_ERROR, [EPIPE], [4]) = 0`, `read(4, ..., 10) = -1 ETIMEDOUT (Connection timed out)`
fn call(text: &str) -> Result<Call, String> {
    let (name, rest) = text.split_once('(').ok_or("neither packet nor call")?;
    let mut depth = 1;
    let end = rest.char_indices().find(|(_, letter)| {
        depth += match letter {
            '(' => 1,
            ')' => -1,
            _ => 0,
        };
        depth == 0
    });
    let (end, _) = end.ok_or("a call without its end")?;
    let (args, result) = (&rest[..end], rest[end + 1..].trim());
    let mut words = result.strip_prefix('=').ok_or("a call without a result")?.split_whitespace();
    let result = words.next().ok_or("a call without a result")?;
    let result = result.parse().map_err(|_| format!("{result} is no result"))?;
    let errno = words.next().filter(|_| result == -1).map(str::to_owned);
    Ok(Call { name: name.trim().to_owned(), args: split_args(args), result, errno })
}

/// At commas outside of brackets.
fn split_args(text: &str) -> Vec<String> {
    let (mut args, mut depth) = (vec![String::new()], 0);
    for letter in text.chars() {
        depth += match letter {
            '[' | '{' | '(' => 1,
            ']' | '}' | ')' => -1,
            _ => 0,
        };
        match (letter, args.last_mut()) {
            (',', _) if depth == 0 => args.push(String::new()),
            (_, Some(arg)) => arg.push(letter),
            (_, None) => {}
        }
    }
    args.iter().map(|arg| arg.trim().to_owned()).collect()
}
