//! What differs between two configurations, key by key, as they are written; and which of it can change while a server
//! runs.

use std::collections::BTreeMap;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Config, Place, Source};

/// Keys that a running server takes over. The listeners do not stand here: they are compared with what runs.
const LIVE: [&str; 5] =
    ["sysctl.", "kernel.", "limits.rst_per_second", "control.drain_seconds", "control.readers"];

/// A key with another value than before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Such as `sysctl.tcp_syncookies`, or `port "wan".mtu`.
    pub key: String,
    /// The old value as it was written; none: it was not given.
    pub from: Option<String>,
    /// The new value; none: it is not given any more.
    pub to: Option<String>,
    /// Where the new value stands, if there is one.
    pub place: Option<Place>,
}

impl Difference {
    /// True if a running server can take the new value over.
    pub fn is_live(&self) -> bool {
        LIVE.iter().any(|live| self.key.starts_with(live))
    }
}

impl Config {
    /// What `new` says otherwise, its listeners aside.
    pub fn differences(&self, new: &Self) -> Vec<Difference> {
        let (old, new_keys) = (self.source.keys(), new.source.keys());
        let mut names: Vec<&String> = old.keys().chain(new_keys.keys()).collect();
        names.sort_unstable();
        names.dedup();
        let mut differences = Vec::new();
        for key in names {
            let (from, to) = (old.get(key), new_keys.get(key));
            if from.map(|(text, _)| text) != to.map(|(text, _)| text) {
                differences.push(Difference {
                    key: key.clone(),
                    from: from.map(|(text, _)| text.clone()),
                    to: to.map(|(text, _)| text.clone()),
                    place: to.map(|(_, place)| place.clone()),
                });
            }
        }
        differences
    }
}

impl Source {
    /// Every key with its value as text and its place, but for the listeners'.
    fn keys(&self) -> BTreeMap<String, (String, Place)> {
        let mut keys = BTreeMap::new();
        let text = self.without_listeners();
        if let Ok(root) = DeTable::parse(&text) {
            for (name, value) in root.get_ref().iter().filter(|(name, _)| name.get_ref() != "listener") {
                self.collect(name.get_ref().to_string(), value, &mut keys);
            }
        }
        keys
    }

    fn collect(
        &self,
        name: String,
        value: &Spanned<DeValue<'_>>,
        keys: &mut BTreeMap<String, (String, Place)>,
    ) {
        match value.get_ref() {
            DeValue::Table(table) => {
                for (key, value) in table.iter() {
                    self.collect(format!("{name}.{}", key.get_ref()), value, keys);
                }
            }
            DeValue::Array(items) if items.iter().any(|item| item.get_ref().is_table()) => {
                for (index, item) in items.iter().enumerate() {
                    let own = item.get_ref().get("name").and_then(|own| own.get_ref().as_str());
                    let own = own.map_or_else(|| index.to_string(), str::to_owned);
                    self.collect(format!("{name} \"{own}\""), item, keys);
                }
            }
            _ => {
                let written = self.text.get(value.span()).unwrap_or_default();
                let text = written.split_whitespace().collect::<Vec<_>>().join(" ");
                keys.insert(name, (text, self.place(value.span())));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn config(text: &str) -> Config {
        let port = "[[port]]\nname = \"wan\"\ndevice = \"net_ring0\"\naddresses = [\"198.18.0.1/24\"]\n";
        Config::parse(Path::new("h.toml"), format!("{port}{text}")).expect("a configuration")
    }

    fn line(difference: &Difference) -> String {
        let or = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
        let place = difference.place.as_ref().map(ToString::to_string).unwrap_or_default();
        let live = if difference.is_live() { "live" } else { "restart" };
        format!("{} {} > {} {live} {place}", difference.key, or(&difference.from), or(&difference.to))
    }

    #[test]
    fn keys_are_compared_one_by_one() {
        let old = config("mtu = 1500\n[sysctl]\ntcp_ecn = 1\nsomaxconn = 9\n[workers]\ncores = [1,\n 2]\n");
        let new = config(
            "mtu = 9000\n[limits]\nrst_per_second = 5\n[workers]\n# moved\ncores = [1, 2]\n[sysctl]\nsomaxconn = 9\n\
             tcp_sack = 0\n[[listener]]\naddr = \"198.18.0.1:80\"\n",
        );
        let found: Vec<String> = old.differences(&new).iter().map(line).collect();
        assert_eq!(
            found,
            [
                "limits.rst_per_second - > 5 live h.toml:7",
                "port \"wan\".mtu 1500 > 9000 restart h.toml:5",
                "sysctl.tcp_ecn 1 > - live ",
                "sysctl.tcp_sack - > 0 live h.toml:13",
            ]
        );
        assert_eq!(old.differences(&old), []);
        let two = config("[[port]]\nname = \"lan\"\ndevice = \"net_ring1\"\n");
        let found: Vec<String> = config("").differences(&two).iter().map(line).collect();
        assert_eq!(
            found,
            [
                "port \"lan\".device - > \"net_ring1\" restart h.toml:7",
                "port \"lan\".name - > \"lan\" restart h.toml:6"
            ]
        );
    }
}
