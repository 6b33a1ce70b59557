//! Which entries of a snapshot are wanted: patterns by the rules of gitignore, on paths as they stand in the snapshot.

use std::{ffi::OsString, os::unix::ffi::OsStrExt};

use crate::{
    error::{Error, Result},
    ops::patterns::{Anchoring, Origin, Patterns},
    vault::Snapshot,
};

/// What is taken, and what is not.
pub struct Wanted {
    include: Patterns,
    exclude: Patterns,
}

/// What becomes of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It is restored.
    Yes,
    /// It is a directory that is restored if something in it is.
    Perhaps,
    /// It is as if it were not there.
    No,
}

impl Wanted {
    /// Reads patterns as they were typed.
    ///
    /// # Errors
    /// `Usage` for one that can fit nothing.
    pub fn new(include: &[OsString], exclude: &[OsString]) -> Result<Self> {
        let read = |option, texts: &[OsString]| {
            let mut patterns = Patterns::new(Origin::Option(option), 0);
            for text in texts {
                Patterns::check_typed(text.as_bytes())?;
                patterns.add(text.as_bytes(), 0, Anchoring::Stored);
            }
            Ok(patterns)
        };
        Ok(Self { include: read("--include", include)?, exclude: read("--exclude", exclude)? })
    }

    /// Whether everything is.
    pub fn is_all(&self) -> bool {
        self.include.is_empty() && self.exclude.is_empty()
    }

    /// What becomes of the entry `name` at the absolute `path`; `within` says that a directory above it was asked for.
    pub fn taken(&self, path: &[u8], name: &[u8], is_dir: bool, within: bool) -> Taken {
        let fits = |patterns: &Patterns| !patterns.is_empty() && patterns.last_fitting(path, name, is_dir).is_some_and(|p| !p.negated);
        match () {
            () if fits(&self.exclude) => Taken::No,
            () if within || self.include.is_empty() || fits(&self.include) => Taken::Yes,
            () if is_dir => Taken::Perhaps,
            () => Taken::No,
        }
    }

    /// The error for patterns that take nothing of `path`: most likely one of them was mistyped.
    pub fn fits_nothing(&self, snapshot: &Snapshot, path: &[u8]) -> Error {
        let path = if path.is_empty() { "/".into() } else { String::from_utf8_lossy(path) };
        Error::not_found(format!("nothing in {}:{path} fits the patterns", snapshot.id.short()))
            .hint("the rules are those of gitignore, on paths in the snapshot; coffre ls -r shows them")
    }

    /// Whether an entry that the snapshot lacks may be deleted: patterns leave alone what they do not take.
    pub fn may_go(&self, path: &[u8], name: &[u8], is_dir: bool, within: bool) -> bool {
        self.taken(path, name, is_dir, within) == Taken::Yes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_is_taken_with_all_below_but_what_is_excluded() {
        let words = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
        let wanted = Wanted::new(&words(&["/srv/site", "*.conf"]), &words(&["*.log", "!keep.log"])).unwrap();
        for (path, is_dir, within, taken) in [
            ("/srv", true, false, Taken::Perhaps),
            ("/srv/site", true, false, Taken::Yes),
            ("/srv/site/x", false, true, Taken::Yes),
            ("/srv/site/x.log", false, true, Taken::No),
            ("/srv/site/keep.log", false, true, Taken::Yes),
            ("/srv/other", false, false, Taken::No),
            ("/etc/a/b.conf", false, false, Taken::Yes),
        ] {
            let name = path.rsplit('/').next().unwrap();
            assert_eq!(wanted.taken(path.as_bytes(), name.as_bytes(), is_dir, within), taken, "{path}");
        }
        assert!(Wanted::new(&[], &[]).unwrap().is_all());
        assert!(Wanted::new(&words(&["a{b"]), &[]).is_err());
    }
}
