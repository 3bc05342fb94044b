//! `[[listener]]` blocks, of which a file may have a million.
//!
//! # How they are read
//! The TOML reader keeps a document's tokens and tables until its end, which for 1,000,000 blocks is gigabytes of memory and
//! several times the work. So blocks that stand by themselves are cut out and read some hundred at a time; the rest of the
//! file, with blanks in their places so that every octet stays where it is, is read as a document of its own. A file that
//! cannot be cut so (it has strings over several lines, or listeners in another form), or that has any mistake, is read as a
//! whole: what is accepted, and what an error says, is what the TOML reader alone says.

use std::borrow::Cow;
use std::ops::Range;
use std::path::PathBuf;

use serde::Deserialize;
use toml::Spanned;

use super::check::{Check, also};
use super::{Config, ConfigError, Control, Listener, Source, default_socket};

/// Octets of blocks that are read at a time: some hundred blocks, whose tokens fit in a cache.
const PIECE: usize = 16 * 1024;
/// Fewer are not worth a thread.
const PIECES_OF_A_THREAD: usize = 16;

/// A piece: nothing but listeners.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Piece {
    listener: Vec<Listener>,
}

/// What a client needs to find its server.
#[derive(Deserialize)]
struct SocketOnly {
    name: Option<String>,
    #[serde(default)]
    control: Control,
}

impl Source {
    /// The configuration that the text says, unchecked.
    pub(super) fn read(&self) -> Result<Config, ConfigError> {
        if let Some(config) = self.read_in_pieces() {
            return Ok(config);
        }
        toml::from_str(&self.text).map_err(|error| ConfigError::from_toml(self, &error))
    }

    /// The control socket that the text names.
    pub(super) fn read_socket(&self) -> Result<PathBuf, ConfigError> {
        let text = self.without_listeners();
        let found: SocketOnly =
            toml::from_str(&text).map_err(|error| ConfigError::from_toml(self, &error))?;
        let default = || default_socket(found.name.as_deref().unwrap_or("hearken"));
        Ok(found.control.socket.unwrap_or_else(default))
    }

    /// The text with blanks in place of its listeners, or the text itself where they cannot be told by their lines.
    pub(super) fn without_listeners(&self) -> Cow<'_, str> {
        let blocks = self.blocks();
        if blocks.is_empty() {
            return Cow::Borrowed(&self.text);
        }
        Cow::Owned(self.blanked(&blocks))
    }

    fn blanked(&self, blocks: &[Range<usize>]) -> String {
        let mut rest = String::with_capacity(self.text.len());
        for block in blocks {
            rest += &self.text[rest.len()..block.start];
            rest.extend(std::iter::repeat_n(' ', block.len()));
        }
        rest += &self.text[rest.len()..];
        rest
    }

    /// None: it has to be read as a whole.
    fn read_in_pieces(&self) -> Option<Config> {
        let blocks = self.blocks();
        if blocks.is_empty() {
            return None;
        }
        let mut config: Config = toml::from_str(&self.blanked(&blocks)).ok()?;
        if !config.listener.is_empty() {
            return None;
        }
        config.listener = self.read_pieces(&self.pieces(&blocks))?;
        Some(config)
    }

    fn pieces(&self, blocks: &[Range<usize>]) -> Vec<Range<usize>> {
        let mut pieces = Vec::new();
        for block in blocks {
            let mut start = block.start;
            while start < block.end {
                let end = self.piece_end(start, block.end);
                pieces.push(start..end);
                start = end;
            }
        }
        pieces
    }

    /// The listeners of the pieces in their order, read on as many threads as there are CPUs; none if one cannot be read.
    fn read_pieces(&self, pieces: &[Range<usize>]) -> Option<Vec<Listener>> {
        let read = |pieces: &[Range<usize>]| -> Option<Vec<Listener>> {
            let mut listeners = Vec::new();
            for piece in pieces {
                let Piece { listener } = toml::from_str(&self.text[piece.clone()]).ok()?;
                listeners.extend(listener.into_iter().map(|listener| listener.moved_by(piece.start)));
            }
            Some(listeners)
        };
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let share = pieces.len().div_ceil(threads).max(PIECES_OF_A_THREAD);
        if pieces.len() <= share {
            return read(pieces);
        }
        std::thread::scope(|scope| {
            let shares: Vec<_> = pieces.chunks(share).map(|share| scope.spawn(move || read(share))).collect();
            let mut all = Vec::new();
            for share in shares {
                all.append(&mut share.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
            }
            Some(all)
        })
    }

    /// Where the piece that begins at `start` ends: before the first header after [`PIECE`] octets.
    fn piece_end(&self, start: usize, end: usize) -> usize {
        let mut at = start;
        for line in self.text[start..end].split_inclusive('\n') {
            if at - start >= PIECE && is_header(line) {
                return at;
            }
            at += line.len();
        }
        end
    }

    /// Runs of `[[listener]]` blocks, each from its first header to the next header of another kind; none where a line may
    /// be part of a longer string.
    fn blocks(&self) -> Vec<Range<usize>> {
        let (mut blocks, mut open, mut at) = (Vec::new(), None, 0);
        if self.text.contains("\"\"\"") || self.text.contains("'''") {
            return blocks;
        }
        for line in self.text.split_inclusive('\n') {
            if is_header(line) {
                open.get_or_insert(at);
            } else if line.trim_start().starts_with('[')
                && let Some(start) = open.take()
            {
                blocks.push(start..at);
            }
            at += line.len();
        }
        blocks.extend(open.map(|start| start..at));
        blocks
    }
}

/// True for a line that is `[[listener]]`, perhaps with a comment behind it.
fn is_header(line: &str) -> bool {
    let rest = line.trim_start().strip_prefix("[[listener]]").map(str::trim_start);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('#'))
}

impl Listener {
    /// The same, read from a text that begins at `offset` of the file.
    fn moved_by(self, offset: usize) -> Self {
        fn moved<T>(value: Spanned<T>, offset: usize) -> Spanned<T> {
            let span = value.span();
            Spanned::new(span.start + offset..span.end + offset, value.into_inner())
        }
        Self {
            addr: moved(self.addr, offset),
            v6only: self.v6only.map(|v6only| moved(v6only, offset)),
            device: self.device.map(|device| moved(device, offset)),
            ..self
        }
    }
}

/// A range of ports of one `[[listener]]`; sorted by address, device and first port.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Claim<'a> {
    ip: std::net::IpAddr,
    device: Option<&'a str>,
    first: u16,
    index: usize,
    last: u16,
}

/// Two equal entries are a slip of the pen; the rest of the kernel's conflict rules is the stack's business.
pub(super) fn apart(config: &Config) -> Check {
    let mut claims = Vec::with_capacity(config.listener.len());
    for (index, listener) in config.listener.iter().enumerate() {
        let (addr, device) = (listener.addr.get_ref(), listener.device.as_ref());
        let device = device.map(|device| device.get_ref().as_str());
        claims.extend(addr.ports.ranges().map(|(first, last)| Claim {
            ip: addr.ip,
            device,
            first,
            index,
            last,
        }));
    }
    claims.sort_unstable();
    // Of the claims so far on this address, the one that reaches farthest: of all, and of those that do not share.
    let (mut farthest, mut unshared): (Option<&Claim<'_>>, Option<&Claim<'_>>) = (None, None);
    for claim in &claims {
        let shares = config.listener[claim.index].reuseport;
        let before = if shares { unshared } else { farthest };
        let here = |other: &&Claim<'_>| (other.ip, other.device) == (claim.ip, claim.device);
        if let Some(other) = before.filter(here).filter(|other| other.last >= claim.first) {
            return Err(twice(config, claim, other));
        }
        let farther =
            |known: Option<&Claim<'_>>| known.filter(here).is_none_or(|known| known.last < claim.last);
        if farther(farthest) {
            farthest = Some(claim);
        }
        if !shares && farther(unshared) {
            unshared = Some(claim);
        }
    }
    Ok(())
}

fn twice(config: &Config, one: &Claim<'_>, other: &Claim<'_>) -> ConfigError {
    let (earlier, later) = (one.index.min(other.index), one.index.max(other.index));
    let (earlier, later) = (&config.listener[earlier].addr, &config.listener[later].addr);
    let at = super::ListenAddr::from(std::net::SocketAddr::new(one.ip, one.first));
    let line = also(config.place(earlier));
    let message = format!(
        "listener {at} is there already, {line}; remove one, or set reuseport = true in both to share it"
    );
    config.error(later, message)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const HEAD: &str = "[[port]]\nname = \"p0\"\ndevice = \"net_ring0\"\n";

    fn source(text: &str) -> Source {
        Source { file: "h.toml".into(), text: text.to_owned() }
    }

    /// What the pieces give must be what the whole gives, places included.
    #[track_caller]
    fn agree(text: &str, in_pieces: bool) {
        let source = source(text);
        let whole = toml::from_str::<Config>(text).map_err(|error| ConfigError::from_toml(&source, &error));
        let shown = |config: &Result<Config, ConfigError>| {
            let rows = config.as_ref().map(|config| {
                let rows = config.listener.iter().map(|listener| {
                    let device =
                        listener.device.as_ref().map(|device| (device.get_ref().clone(), device.span()));
                    format!(
                        "{} {:?} {device:?} {:?}",
                        listener.addr.get_ref(),
                        listener.addr.span(),
                        listener.v6only
                    )
                });
                (rows.collect::<Vec<_>>(), config.port.len(), config.limits.rst_per_second)
            });
            format!("{rows:?}")
        };
        assert_eq!(shown(&source.read()), shown(&whole), "{text}");
        assert_eq!(source.read_in_pieces().is_some(), in_pieces, "{text}");
    }

    #[test]
    fn pieces_say_what_the_whole_says() {
        let one = "[[listener]] # a comment\n# another\n\naddr = \"198.18.0.1:80\"\ndevice = \"p0\"\n";
        let two = "  [[listener]]\r\n\taddr = \"[::]:81-82\"\r\n\tv6only = true\r\n";
        agree(&format!("{HEAD}{one}{two}[limits]\nrst_per_second = 7\n{one}"), true);
        agree(&format!("{one}{HEAD}{two}"), true);
        agree(&format!("{HEAD}{one}[[listener]]\naddr = \"198.18.0.1:80\""), true);
        let many: String =
            (1..3000).map(|port| format!("[[listener]]\naddr = \"198.18.0.1:{port}\"\n")).collect();
        agree(&format!("{HEAD}{many}[limits]\nrst_per_second = 7\n"), true);
        for whole in [
            HEAD.to_owned(),
            format!("listener = [{{ addr = \"198.18.0.1:80\" }}]\n{HEAD}"),
            format!("{HEAD}[[ listener ]]\naddr = \"198.18.0.1:80\"\n{one}"),
            format!("{HEAD}[eal]\nargs = [\"\"\"\n{one}\"\"\"]\n"),
            format!("{HEAD}{one}[[listener]]\naddr = \"198.18.0.1:0\"\n"),
            format!("{HEAD}{one}port = 5\n"),
            format!("{HEAD}{one}[listener.x]\na = 1\n"),
            format!("{HEAD}{one}addr = \"198.18.0.1:81\"\n"),
            format!("{HEAD}{one}[[listener]]\n"),
            format!("{HEAD}[eal]\nargs = [\n{one}]\n"),
            format!("{HEAD}{one}{HEAD}mtuu = 1\n"),
        ] {
            agree(&whole, false);
        }
    }

    #[test]
    fn a_socket_is_found_without_the_listeners() {
        let read = |text: &str| source(text).read_socket().map_err(|error| error.to_string());
        let broken = "[[listener]]\naddr = 5\n[control]\nsocket = \"/x.sock\"\n[[listener]]\nadr = \"\"\n";
        assert_eq!(read(broken), Ok("/x.sock".into()));
        assert_eq!(read("name = \"edge\"\n"), Ok(default_socket("edge")));
        assert_eq!(
            read("[[listener]]\naddr = \"198.18.0.1:80\"\n[control]\nsocket = 5\n"),
            Err("h.toml:4: invalid type: integer `5`, expected path string".into())
        );
    }

    #[test]
    fn overlaps_are_found_and_named() {
        let listen =
            |addr: &str, shared: bool| format!("[[listener]]\naddr = \"{addr}\"\nreuseport = {shared}\n");
        let check = |text: String| {
            Config::parse(Path::new("h.toml"), format!("{HEAD}{text}"))
                .map(drop)
                .map_err(|error| error.to_string())
        };
        let twice = |at: &str, line| {
            Err(format!(
                "h.toml:{line}: listener {at} is there already, line 5; remove one, or set reuseport = true in both to \
                 share it"
            ))
        };
        let pair = |a: &str, b: &str| check(listen(a, false) + &listen(b, false));
        assert_eq!(pair("198.18.0.1:1-80", "198.18.0.1:80-90"), twice("198.18.0.1:80", 8));
        assert_eq!(pair("198.18.0.1:80", "198.18.0.1:1-65535"), twice("198.18.0.1:80", 8));
        assert_eq!(pair("198.18.0.1:1-79,81-90", "198.18.0.1:80"), Ok(()));
        assert_eq!(pair("198.18.0.1:80", "198.18.0.2:80"), Ok(()));
        // One that does not share, between two that do, and reaching over the nearer one.
        let three = listen("198.18.0.1:1-100", false) + &listen("198.18.0.1:2-3", true);
        assert_eq!(check(three), twice("198.18.0.1:2", 8));
        let three = listen("198.18.0.1:1-100", true)
            + &listen("198.18.0.1:2-3", true)
            + &listen("198.18.0.1:50", false);
        assert_eq!(check(three), twice("198.18.0.1:50", 11));
        assert_eq!(check(listen("198.18.0.1:1-100", true) + &listen("198.18.0.1:2-3", true)), Ok(()));
    }
}
