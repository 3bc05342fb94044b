//! `docs/src/configuration.md` is made from the structures that read the file, their documentation included:
//! `HEARKEN_BLESS=1 cargo test -p dataplane --test config_reference`.
//!
//! Each field's documentation states its default (`Default 1500, Ethernet's.`) and an example (``Example: `mtu = 9000` ``). Both
//! are tried: an example must be accepted, and a default that is written out must give the configuration that leaving the key out gives.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use dataplane::config::Config;
use quote::ToTokens;
use syn::{Attribute, Expr, Fields, Item, Lit, Meta, Type};

const PAGE: &str = "docs/src/configuration.md";
const HEAD: &str = "# Configuration

Generated from the source by `HEARKEN_BLESS=1 cargo test -p dataplane --test config_reference`; do not edit.

hearken reads one [TOML](https://toml.io) file: `--config FILE`, else `/etc/hearken/hearken.toml`. A key that is not listed here is
refused with its line. `hearken check` says what is wrong with a file and whether this machine can run it. Which keys `hearken reload` changes
without a restart is in [Changing a running server](changing-a-running-server.md). The repository has a commented file per kind of device in
`configs`.
";
/// Smallest files that accept any key.
const BASES: [&str; 4] = [
    "[[port]]\nname = \"p0\"\ndevice = \"net_ring0\"\n",
    "[[port]]\nname = \"p0\"\ndevice = \"pcap:in.pcap,out.pcap\"\n",
    "[[port]]\nname = \"p0\"\ndevice = \"net_af_xdp0,iface=eth0\"\ntake = \"claimed\"\n",
    "[[port]]\nname = \"p0\"\ndevice = \"net_af_xdp0,iface=eth0\"\n",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_path_buf()
}

/// One key of the file.
struct Key {
    name: String,
    doc: String,
    kind: String,
    required: bool,
    optional: bool,
    default: Option<String>,
    example: Option<String>,
}

/// Structures and the words of enumerations, by name.
#[derive(Default)]
struct Source {
    structs: BTreeMap<String, (String, Vec<syn::Field>)>,
    words: BTreeMap<String, Vec<String>>,
    /// The macro call that makes `Sysctl`: names and types.
    knobs: String,
}

fn doc_of(attrs: &[Attribute]) -> String {
    let lines = attrs.iter().filter_map(|attr| match &attr.meta {
        Meta::NameValue(pair) if pair.path.is_ident("doc") => match &pair.value {
            Expr::Lit(lit) => match &lit.lit {
                Lit::Str(text) => Some(text.value().trim().to_owned()),
                _ => None,
            },
            _ => None,
        },
        _ => None,
    });
    lines.collect::<Vec<_>>().join(" ")
}

fn has_serde(attrs: &[Attribute], word: &str) -> bool {
    attrs
        .iter()
        .any(|attr| attr.path().is_ident("serde") && attr.to_token_stream().to_string().contains(word))
}

impl Source {
    fn read() -> Self {
        let mut source = Self::default();
        let mut dirs = vec![root().join("dataplane/src")];
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(dir).expect("a folder").map(|entry| entry.expect("an entry").path()) {
                let shown = entry.display().to_string();
                if entry.is_dir() {
                    dirs.push(entry);
                } else if shown.contains("/config") && shown.ends_with(".rs") && !shown.ends_with("tests.rs")
                {
                    source.take(&syn::parse_file(&fs::read_to_string(&entry).expect("UTF-8")).expect("Rust"));
                }
            }
        }
        source
    }

    fn take(&mut self, file: &syn::File) {
        for item in &file.items {
            match item {
                Item::Struct(item) => {
                    if let Fields::Named(fields) = &item.fields {
                        let fields = fields.named.iter().cloned().collect();
                        self.structs.insert(item.ident.to_string(), (doc_of(&item.attrs), fields));
                    }
                }
                Item::Enum(item) if has_serde(&item.attrs, "rename_all") => {
                    let words = item.variants.iter().map(|word| word.ident.to_string().to_lowercase());
                    self.words.insert(item.ident.to_string(), words.collect());
                }
                Item::Macro(item) if item.mac.path.is_ident("knobs") => {
                    self.knobs = item.mac.tokens.to_string();
                }
                _ => {}
            }
        }
    }

    /// The keys of the structure `name`.
    fn keys(&self, name: &str) -> Vec<Key> {
        let (_, fields) = self.structs.get(name).unwrap_or_else(|| panic!("no structure {name}"));
        let fields = fields.iter().filter(|field| !has_serde(&field.attrs, "skip"));
        fields.map(|field| self.key(name, field)).collect()
    }

    fn key(&self, section: &str, field: &syn::Field) -> Key {
        let name = field.ident.as_ref().expect("a name").to_string();
        let text = doc_of(&field.attrs);
        let (doc, example) = match text.split_once("Example: `") {
            Some((doc, rest)) => {
                let (example, after) = rest.split_once('`').expect("the end of an example");
                let doc = format!("{}{}", doc.trim(), after.trim_start_matches('.'));
                (doc.trim().to_owned(), Some(example.to_owned()))
            }
            None => (text, None),
        };
        let (kind, optional) = self.kind(&field.ty);
        let defaults = has_serde(&field.attrs, "default");
        // The structures whose keys all have defaults say so once, at their head.
        let required = !defaults && !optional && ["Port", "Listener", "Shield"].contains(&section);
        Key { default: stated_default(&doc), name, doc, kind, required, optional, example }
    }

    /// A field's type in words, and whether it may be absent.
    fn kind(&self, ty: &Type) -> (String, bool) {
        let Type::Path(path) = ty else { return ("numbers".into(), false) };
        let last = path.path.segments.last().expect("a type");
        let inner = || match &last.arguments {
            syn::PathArguments::AngleBracketed(arguments) => match arguments.args.first() {
                Some(syn::GenericArgument::Type(ty)) => self.kind(ty),
                _ => panic!("{}", ty.to_token_stream()),
            },
            _ => panic!("{}", ty.to_token_stream()),
        };
        let name = last.ident.to_string();
        let words = match name.as_str() {
            "Option" => return (inner().0, true),
            "Spanned" => return inner(),
            "Vec" => return (format!("list of {}s", inner().0), false),
            "String" => "string",
            "PathBuf" => "path",
            "bool" => "true or false",
            "u8" | "u16" | "u32" | "u64" | "i32" | "usize" | "DrainSeconds" | "f64" => "number",
            "SocketAddr" => "address:port",
            "Device" => "device string",
            "Mac" => "MAC address",
            "Prefix" => "address/length",
            "IpAddr" | "InetAddr" => "address",
            "ListenAddr" => "address:ports",
            "Pattern" => "ports or address:port",
            "Queues" => "`\"auto\"` or number",
            "Cores" => "`\"auto\"` or list of numbers",
            "Readers" => "`\"nobody\"`, `\"all\"` or list of user ids",
            "Adopt" => "`\"all\"` or list of ports or addresses with ports",
            other => {
                let words = self.words.get(other);
                let words = words.unwrap_or_else(|| panic!("type {other}: give it words here"));
                let words: Vec<_> = words.iter().map(|word| format!("`\"{word}\"`")).collect();
                return (words.join(", "), false);
            }
        };
        (words.to_owned(), false)
    }
}

/// What the documentation states behind `Default`: a literal in backticks, a number, `true`, `false`, or a few words.
fn stated_default(doc: &str) -> Option<String> {
    let rest = doc.split("Default").nth(1)?.trim_start_matches(':').trim_start();
    if let Some(code) = rest.strip_prefix('`') {
        return Some(format!("`{}`", code.split('`').next()?));
    }
    let end = rest.find([';', ':', '(']).into_iter().chain(rest.find(". ")).chain(rest.find(", ")).min();
    Some(rest[..end.unwrap_or(rest.len())].trim_end_matches('.').to_owned())
}

/// The default as TOML, if it is a literal.
fn as_toml(default: &str) -> Option<String> {
    let bare = default.trim_matches('`').replace(',', "");
    if bare.parse::<i64>().is_ok() || bare == "true" || bare == "false" {
        return Some(bare);
    }
    (default.starts_with('`') && !bare.contains('=')).then(|| format!("\"{bare}\""))
}

/// The configuration of `base` with `line` in `section`.
fn with(base: &str, section: &str, line: &str) -> Result<Config, String> {
    let text = match section {
        "" => format!("{line}\n{base}"),
        "port" => format!("{base}{line}\n"),
        "listener" => format!("{base}[[listener]]\naddr = \"[::]:80\"\n{line}\n"),
        "shield" => format!("[shield]\ninterface = \"eth0\"\n{line}\n"),
        _ => format!("{base}[{section}]\n{line}\n"),
    };
    Config::parse(Path::new("example.toml"), text).map_err(|error| error.to_string())
}

/// What `config` says, without where it says it.
fn meaning(config: &Config) -> String {
    let text = format!("{config:?}");
    let text = text.split("source: Source").next().expect("a beginning");
    let mut parts = text.split("span: ");
    let mut bare = parts.next().expect("a beginning").to_owned();
    for part in parts {
        bare.push_str(part.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.'));
    }
    bare
}

/// What is wrong with what the documentation of `key` states.
fn faults(section: &str, key: &Key) -> Vec<String> {
    let shown = format!("{section}.{}", key.name);
    let mut faults = Vec::new();
    match &key.example {
        None => faults.push(format!("{shown}: no example; add: Example: `{} = …`.", key.name)),
        Some(example) if key.required => assert!(example.starts_with(&key.name), "{shown}: {example}"),
        Some(example) => {
            let tried: Vec<_> = BASES.iter().map(|base| with(base, section, example)).collect();
            if tried.iter().all(Result::is_err) || !example.starts_with(&key.name) {
                faults.push(format!("{shown}: {example}: {:?}", tried[0].as_ref().err()));
            }
        }
    }
    match &key.default {
        None if !key.required => {
            faults.push(format!("{shown}: no default; say what it is when left out: Default …."));
        }
        Some(default) if !key.optional => {
            let given = as_toml(default).map(|value| format!("{} = {value}", key.name));
            let without = meaning(&with(BASES[3], section, "").expect("a base"));
            if let Some(given) = given
                && with(BASES[3], section, &given).map(|config| meaning(&config)) != Ok(without)
            {
                faults.push(format!("{shown}: {given} is not the default"));
            }
        }
        _ => {}
    }
    faults
}

fn cell(text: &str) -> String {
    // Links of rustdoc lead nowhere in the book.
    let text = text.replace('|', "\\|").replace("[`", "`").replace("`]", "`");
    text.replace('<', "&lt;").replace("crate::", "")
}

fn section(page: &mut String, title: &str, doc: &str, keys: &[Key]) {
    let _ = write!(
        page,
        "\n## {title}\n\n{}\n\n| key | type | default | what it is | example |\n|---|---|---|---|---|\n",
        cell(doc).trim()
    );
    for key in keys {
        let default = match (&key.default, key.required) {
            (_, true) => "required".to_owned(),
            (Some(default), _) => default.clone(),
            (None, _) => String::new(),
        };
        let example = key.example.as_deref().unwrap_or_default();
        let _ = writeln!(
            page,
            "| `{}` | {} | {} | {} | `{}` |",
            key.name,
            cell(&key.kind),
            cell(&default),
            cell(&key.doc),
            example.replace('|', "\\|")
        );
    }
}

/// The knobs' documentation and defaults, from the library.
fn sysctls(knobs: &str) -> Vec<Key> {
    let path = ["listener/src/sysctl.rs", "listener/src/ground/sysctl.rs"].map(|path| root().join(path));
    let path = path.iter().find(|path| path.exists()).expect("listener's sysctl.rs");
    let file = syn::parse_file(&fs::read_to_string(path).expect("UTF-8")).expect("Rust");
    let (mut docs, mut defaults) = (BTreeMap::new(), BTreeMap::new());
    for item in &file.items {
        match item {
            Item::Struct(item) if item.ident == "Sysctl" => {
                docs.extend(
                    item.fields.iter().map(|field| {
                        (field.ident.as_ref().expect("a name").to_string(), doc_of(&field.attrs))
                    }),
                );
            }
            Item::Impl(item) => {
                let text = item.to_token_stream().to_string();
                let Some(fields) = text.split_once("Self {").map(|(_, rest)| rest.to_owned()) else {
                    continue;
                };
                for name in docs.keys() {
                    let Some((_, rest)) = fields.split_once(&format!(" {name} : ")) else { continue };
                    let end = rest.find(" , ").map(|_| value_end(rest)).unwrap_or(rest.len());
                    defaults.entry(name.clone()).or_insert_with(|| toml_of(&rest[..end]));
                }
            }
            _ => {}
        }
    }
    // `tcp_rmem : [u32 ; 3] ,` and so on.
    let pairs = knobs.split(',').filter_map(|knob| knob.split_once(':'));
    let pairs = pairs.map(|(name, ty)| (name.trim(), ty.trim())).filter(|(name, _)| docs.contains_key(*name));
    let key = |(name, ty): (&str, &str)| Key {
        name: name.to_owned(),
        doc: docs[name].clone(),
        kind: knob_kind(ty).to_owned(),
        required: false,
        optional: true,
        default: defaults.get(name).map(|value| format!("`{value}`")),
        example: defaults.get(name).map(|value| format!("{name} = {value}")),
    };
    pairs.map(key).collect()
}

fn knob_kind(ty: &str) -> &'static str {
    match ty {
        "Switch" => "0 or 1",
        "PortRange" => "two ports",
        "ReservedPorts" => "string of ports and ranges",
        _ if ty.starts_with('[') => "three numbers",
        _ => "number",
    }
}

/// Where the value ends that `text` begins with: at the first comma outside brackets.
fn value_end(text: &str) -> usize {
    let mut depth = 0;
    for (at, c) in text.char_indices() {
        match c {
            '(' | '[' => depth += 1,
            ')' | ']' => depth -= 1,
            ',' | '}' if depth == 0 => return at,
            _ => {}
        }
    }
    text.len()
}

/// A default of the source as it would be written in the file.
fn toml_of(expression: &str) -> String {
    let text = expression
        .trim()
        .replace(['_', ' '], "")
        .replace("TcpPort", "")
        .replace("u32::MAX", &u32::MAX.to_string());
    match text.as_str() {
        "false" => "0".into(),
        "true" => "1".into(),
        "Vec::new()" => "\"\"".into(),
        _ if text.starts_with("((") => format!("[{}]", text.replace(['(', ')'], "")),
        _ => text,
    }
    .replace(',', ", ")
}

#[test]
fn the_configuration_reference_is_what_the_source_says() {
    let source = Source::read();
    let mut page = HEAD.to_owned();
    let mut all_faults = Vec::new();
    let (_, top) = &source.structs["Config"];
    let mut plain = Vec::new();
    let mut sections = String::new();
    for field in top.iter().filter(|field| !has_serde(&field.attrs, "skip")) {
        let name = field.ident.as_ref().expect("a name").to_string();
        let mut ty = field.ty.to_token_stream().to_string().replace(' ', "");
        let many = ty.starts_with("Vec<");
        ty = ty.trim_start_matches("Vec<").trim_start_matches("Option<").trim_end_matches('>').to_owned();
        let title = if many { format!("`[[{name}]]`") } else { format!("`[{name}]`") };
        let doc = doc_of(&field.attrs);
        if ty == "Sysctl" {
            let keys = sysctls(&source.knobs);
            assert!(keys.len() > 20, "{}", source.knobs);
            for key in &keys {
                let example = key.example.as_deref().unwrap_or_default();
                if let Err(error) = with(BASES[0], "sysctl", example) {
                    all_faults.push(format!("sysctl.{}: {example}: {error}", key.name));
                }
                if key.default.is_none() {
                    all_faults.push(format!("sysctl.{}: no default found", key.name));
                }
            }
            section(&mut sections, &title, &doc, &keys);
        } else if source.structs.contains_key(&ty) {
            let keys = source.keys(&ty);
            all_faults.extend(keys.iter().flat_map(|key| faults(&name, key)));
            section(&mut sections, &title, &doc, &keys);
        } else {
            plain.push(source.key("Config", field));
        }
    }
    all_faults.extend(plain.iter().flat_map(|key| faults("", key)));
    section(&mut page, "Top of the file", &source.structs["Config"].0, &plain);
    page += &sections;
    assert!(all_faults.is_empty(), "{all_faults:#?}");
    if std::env::var_os("HEARKEN_BLESS").is_some() {
        fs::write(root().join(PAGE), &page).expect("the page");
    }
    let written = fs::read_to_string(root().join(PAGE)).unwrap_or_default();
    assert!(
        written == page,
        "{PAGE} is not what the source says; write it with HEARKEN_BLESS=1 cargo test -p dataplane --test config_reference"
    );
}

#[test]
fn defaults_are_found_in_sentences() {
    assert_eq!(stated_default("What. Default `auto`: because.").as_deref(), Some("`auto`"));
    assert_eq!(stated_default("What. Default 1024: room.").as_deref(), Some("1024"));
    assert_eq!(stated_default("What. Default 1,048,576, for.").as_deref(), Some("1,048,576"));
    assert_eq!(as_toml("1,048,576").as_deref(), Some("1048576"));
    assert_eq!(as_toml("none"), None);
}
