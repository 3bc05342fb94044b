//! `[control]`

use std::fmt;
use std::path::PathBuf;

use serde::Deserialize;
use serde::de::{self, Deserializer, SeqAccess, Visitor};

/// `[control]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Control {
    /// Path of the Unix socket, created with mode 0600. Default `/run/hearken/NAME.sock`, where root's daemons keep
    /// theirs; `$XDG_RUNTIME_DIR/hearken/NAME.sock` for anybody else, who cannot write to `/run`.
    /// Example: `socket = "/run/hearken/edge.sock"`.
    pub socket: Option<PathBuf>,
    /// How long SIGTERM waits for handshakes and connections to end, in seconds. Default 10: longer than a handshake
    /// takes with retransmissions, shorter than service managers wait. 0 for not at all.
    /// Example: `drain_seconds = 30`.
    pub drain_seconds: DrainSeconds,
    /// Users beside root and the server's own who may ask for what changes nothing: `"nobody"`, `"all"`, or a list of
    /// user ids. Default `nobody`, because listeners and counters tell about others' traffic.
    /// Example: `readers = [998]`.
    pub readers: Readers,
}

/// `control.drain_seconds`
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(transparent)]
pub struct DrainSeconds(pub u32);

impl Default for DrainSeconds {
    fn default() -> Self {
        Self(10)
    }
}

/// Who may read on the control socket beside root and the server's user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Readers {
    /// Nobody else.
    #[default]
    Nobody,
    /// Everybody on this machine.
    All,
    /// These user ids.
    Uids(Vec<u32>),
}

impl Readers {
    /// True if `uid` is one of them.
    pub fn contains(&self, uid: u32) -> bool {
        match self {
            Self::Nobody => false,
            Self::All => true,
            Self::Uids(uids) => uids.contains(&uid),
        }
    }
}

impl<'de> Deserialize<'de> for Readers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;

        impl<'de> Visitor<'de> for Reader {
            type Value = Readers;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"nobody\", \"all\" or a list of user ids such as [998]")
            }

            fn visit_str<E: de::Error>(self, word: &str) -> Result<Readers, E> {
                match word {
                    "nobody" => Ok(Readers::Nobody),
                    "all" => Ok(Readers::All),
                    _ => Err(E::invalid_value(de::Unexpected::Str(word), &self)),
                }
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Readers, A::Error> {
                let mut uids = Vec::new();
                while let Some(uid) = seq.next_element()? {
                    uids.push(uid);
                }
                Ok(Readers::Uids(uids))
            }
        }

        deserializer.deserialize_any(Reader)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_are_words_or_user_ids() {
        let read = |text: &str| toml::from_str::<Control>(text).map(|control| control.readers);
        assert_eq!(read("").expect("a default"), Readers::Nobody);
        assert_eq!(read("readers = \"all\"").expect("a word"), Readers::All);
        let some = read("readers = [998, 1001]").expect("user ids");
        assert!(some.contains(998) && !some.contains(999) && Readers::All.contains(1));
        for bad in ["readers = \"root\"", "readers = 5", "readers = [-1]", "readers = [\"root\"]"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
