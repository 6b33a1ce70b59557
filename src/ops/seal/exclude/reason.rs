//! Why something is left out: a value, so that a dry run says exactly what a seal does.

use crate::{
    event::Rule,
    ops::patterns::{Origin, Pattern, Patterns},
};

/// Why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A pattern fits.
    Pattern {
        /// Where the pattern is from.
        origin: Origin,
        /// Which line of its file, from 1; 0 if it is from no file.
        line: u32,
        /// The pattern as written.
        pattern: String,
    },
    /// It is tagged as a cache.
    Cache,
    /// A file of this name marks it.
    Present(String),
    /// It is longer than is wanted: so many bytes.
    Larger(u64),
    /// It is on another file system than the source.
    OtherFileSystem,
    /// It has the nodump flag.
    Nodump,
    /// It is the vault, or this host's state of it.
    Vault,
    /// A vault is mounted there.
    Mount,
    /// The kernel makes it up: a file system of this type.
    Kernel(String),
}

impl Reason {
    /// The reason that `pattern` is.
    pub(super) fn pattern(patterns: &Patterns, pattern: &Pattern) -> Self {
        let text = String::from_utf8_lossy(&pattern.text).into_owned();
        Self::Pattern { origin: patterns.origin.clone(), line: pattern.line, pattern: text }
    }

    /// The reason in words.
    pub fn rule(&self) -> Rule {
        let option = |name: &str, text: String| Rule { option: Some(name.to_owned()), text, ..Rule::default() };
        let never = |text: String| Rule { text, ..Rule::default() };
        match self {
            Self::Pattern { origin, line, pattern } => {
                let (name, file, text) = match origin {
                    Origin::Option(name) => ((*name).to_owned(), None, format!("{name} {pattern}")),
                    Origin::Preset(name) => (format!("--preset {name}"), None, format!("--preset {name}: {pattern}")),
                    Origin::File(file) => ("--exclude-file".to_owned(), Some(file), format!("{file}:{line}: {pattern}")),
                    Origin::IgnoreFile(file) => ("--ignore-file".to_owned(), Some(file), format!("{file}:{line}: {pattern}")),
                };
                let line = (*line > 0).then_some(*line);
                Rule { option: Some(name), file: file.map(|f| f.to_string()), line, pattern: Some(pattern.clone()), text }
            }
            Self::Cache => option("--exclude-caches", "--exclude-caches: CACHEDIR.TAG".to_owned()),
            Self::Present(name) => option("--exclude-if-present", format!("--exclude-if-present {name}")),
            Self::Larger(size) => option("--exclude-larger-than", format!("--exclude-larger-than: {size} bytes")),
            Self::OtherFileSystem => option("--one-file-system", "--one-file-system".to_owned()),
            Self::Nodump => option("--exclude-nodump", "--exclude-nodump".to_owned()),
            Self::Vault => never("never sealed: the vault, or this host's state directory".to_owned()),
            Self::Mount => never("never sealed: a mounted vault".to_owned()),
            Self::Kernel(kind) => never(format!("never sealed: made up by the kernel ({kind})")),
        }
    }
}
