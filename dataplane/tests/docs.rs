//! The documentation names only what is there: links, anchors, images and paths of README, the book and the pages beside them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use pulldown_cmark::{Event, HeadingLevel, Options, Parser, Tag, TagEnd};

const README_LINES_MAX: usize = 150;
/// Paths in backticks that begin with one of these are looked up in the repository.
const TOP_FOLDERS: [&str; 8] =
    ["dataplane/", "listener/", "ffi/", "configs/", "bench/", ".ci/", "docs/", ".github/"];
/// Files that are listed as paths without being pages of the book.
const PAGES_BESIDE: [&str; 7] = [
    "README.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "CHANGELOG.md",
    "configs/pktgen/README.md",
    "listener/README.md",
    "dataplane/COUNTERS.md",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_path_buf()
}

/// The Markdown files below `dir`, from the root.
fn markdown_below(dir: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root().join(dir)).expect("a folder of the book") {
        let entry = entry.expect("an entry");
        let name = format!("{dir}/{}", entry.file_name().to_string_lossy());
        if entry.path().is_dir() {
            found.extend(markdown_below(&name));
        } else if name.ends_with(".md") {
            found.push(name);
        }
    }
    found
}

fn pages() -> Vec<String> {
    let beside = PAGES_BESIDE.iter().map(|page| page.to_string());
    beside.chain(markdown_below("docs/src")).collect()
}

fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// What a page links to, shows, quotes as code, and which anchors its headings make.
#[derive(Default)]
struct Page {
    links: Vec<String>,
    code: Vec<String>,
    anchors: BTreeSet<String>,
    titles: usize,
}

impl Page {
    fn of(name: &str) -> Self {
        let text = read(name);
        let (mut page, mut heading) = (Self::default(), None::<String>);
        for event in Parser::new_ext(&text, Options::ENABLE_TABLES) {
            match event {
                Event::Start(Tag::Heading { level, .. }) => {
                    page.titles += usize::from(level == HeadingLevel::H1);
                    heading = Some(String::new());
                }
                Event::End(TagEnd::Heading(_)) => {
                    page.anchors.extend(heading.take().as_deref().map(anchor));
                }
                Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                    page.links.push(dest_url.to_string());
                }
                Event::Code(code) => {
                    if let Some(heading) = &mut heading {
                        heading.push_str(&code);
                    }
                    page.code.push(code.to_string());
                }
                Event::Text(words) => {
                    if let Some(heading) = &mut heading {
                        heading.push_str(&words);
                    }
                }
                _ => {}
            }
        }
        page
    }
}

/// The anchor that mdBook and GitHub make of a heading.
fn anchor(heading: &str) -> String {
    heading
        .trim()
        .chars()
        .filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c))
        .map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() })
        .collect()
}

/// What is wrong with the link `link` of page `name`.
fn fault(name: &str, link: &str) -> Option<String> {
    if link.starts_with("http://") || link.starts_with("https://") || link.starts_with("mailto:") {
        return None;
    }
    let (path, fragment) = link.split_once('#').unwrap_or((link, ""));
    let target = if path.is_empty() {
        name.to_owned()
    } else {
        Path::new(name).parent().expect("a folder").join(path).display().to_string()
    };
    if !root().join(&target).exists() {
        return Some(format!("{name}: {link}: no such file"));
    }
    let missing = !fragment.is_empty() && !Page::of(&target).anchors.contains(fragment);
    missing.then(|| format!("{name}: {link}: no such heading"))
}

#[test]
fn links_lead_somewhere() {
    let mut links = 0;
    let mut faults = Vec::new();
    for name in pages() {
        let page = Page::of(&name);
        links += page.links.len();
        faults.extend(page.links.iter().filter_map(|link| fault(&name, link)));
    }
    assert!(faults.is_empty(), "{faults:#?}");
    assert!(links > 60, "only {links} links found");
    assert!(fault("README.md", "docs/src/no-such-page.md").is_some());
    assert!(fault("README.md", "docs/src/limits.md#no-such-heading").is_some());
}

#[test]
fn paths_in_backticks_exist() {
    let mut paths = 0;
    let mut missing = Vec::new();
    for name in pages() {
        for word in Page::of(&name).code {
            let looks_like_one = TOP_FOLDERS.iter().any(|top| word.starts_with(top));
            if looks_like_one && !word.contains(['{', '*', '…', ' ', '<']) {
                paths += 1;
                if !root().join(&word).exists() {
                    missing.push(format!("{name}: {word}"));
                }
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
    assert!(paths > 30, "only {paths} paths found");
}

/// mdBook shows what the summary lists, and nothing else.
#[test]
fn the_summary_lists_every_page_once() {
    let mut listed: Vec<_> =
        Page::of("docs/src/SUMMARY.md").links.iter().map(|link| format!("docs/src/{link}")).collect();
    listed.sort();
    let mut there = markdown_below("docs/src");
    there.retain(|page| page != "docs/src/SUMMARY.md");
    there.sort();
    assert_eq!(listed, there);
    for page in there {
        assert_eq!(Page::of(&page).titles, 1, "{page} has one title");
    }
}

#[test]
fn the_readme_is_short_and_names_the_commands() {
    let readme = read("README.md");
    let lines = readme.lines().count();
    assert!(lines <= README_LINES_MAX, "{lines} lines; the book has room");
    for command in ["make demo", "make test", "hearken shield"] {
        assert!(readme.contains(command), "{command}");
    }
}

/// The book can only show images in its own folder: those of the benches are copies. `HEARKEN_BLESS=1` copies them.
#[test]
fn images_of_the_benches_are_the_newest() {
    for name in ["shield.svg", "lookup.svg", "kernel.svg"] {
        let (source, copy) =
            (root().join("bench/results").join(name), root().join("docs/src/images").join(name));
        if std::env::var_os("HEARKEN_BLESS").is_some() {
            fs::copy(&source, &copy).expect("a copy");
        }
        assert!(
            fs::read(&source).expect("the bench's") == fs::read(&copy).expect("the book's"),
            "{name}: copy it with HEARKEN_BLESS=1 cargo test -p dataplane --test docs"
        );
    }
}
