//! What is wrong with a configuration, and where.

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;

use super::Source;

/// A file, and a line of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub file: PathBuf,
    /// Line from 1; none for the file as a whole.
    pub line: Option<usize>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        self.line.map_or(Ok(()), |line| write!(f, ":{line}"))
    }
}

/// Why a configuration is refused: `FILE:LINE: what was found; what to do`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {message}")]
pub struct ConfigError {
    /// Where.
    pub place: Place,
    /// What was wanted, what was found, what to do.
    pub message: String,
}

impl Source {
    /// The line of a byte range; the empty range at 0 is that of defaults, which stand on no line.
    pub(super) fn place(&self, span: Range<usize>) -> Place {
        let line = (span != (0..0)).then(|| {
            let before = self.text.as_bytes().get(..span.start).unwrap_or(self.text.as_bytes());
            before.iter().filter(|byte| **byte == b'\n').count() + 1
        });
        Place { file: self.file.clone(), line }
    }
}

impl ConfigError {
    /// Rewords what the TOML reader says so that it ends with the next step.
    pub(super) fn from_toml(source: &Source, error: &toml::de::Error) -> Self {
        let found = error.message().trim_end().replace('\n', ", ");
        let step = if found.starts_with("unknown field") || found.starts_with("unknown variant") {
            "; correct or remove it"
        } else if found.starts_with("missing field") {
            "; add it"
        } else {
            ""
        };
        // A span at the very end of the text, as of an unclosed string, belongs to the last line with text.
        let last = source.text.trim_end().len();
        let place = match error.span() {
            Some(span) => source.place(span.start.min(last)..span.end.max(1)),
            None => source.place(0..0),
        };
        Self { place, message: format!("{found}{step}") }
    }
}
