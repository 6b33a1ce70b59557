//! Which other copies of a vault this host knows of, and what was found when they were last checked.
//!
//! A text file in the state directory: a place is a matter of who asks, and none of the vault's.

use crate::{
    error::{Error, Result},
    format::is_name,
    vault::StateDir,
};

/// Most copies that are kept.
const COPIES_MAX: usize = 64;
const FILE: &str = "copies";

/// Another copy of a vault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownCopy {
    /// What it is called here.
    pub name: String,
    /// Where it is: a directory or a URL.
    pub place: String,
    /// What the last check found.
    pub checked: Option<Checked>,
}

/// The outcome of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checked {
    /// When, in seconds since 1970.
    pub secs: u64,
    /// Things that were wrong.
    pub findings: u64,
}

impl StateDir {
    /// The copies that were added, in that order. Lines that make no sense are passed over.
    pub fn copies(&self) -> Result<Vec<KnownCopy>> {
        let text = self.read(FILE)?.unwrap_or_default();
        Ok(text.lines().filter_map(parse).take(COPIES_MAX).collect())
    }

    /// Keeps the copies.
    ///
    /// # Errors
    /// `Usage` if a name or a place cannot be kept, or there are too many.
    pub fn keep_copies(&self, copies: &[KnownCopy]) -> Result<()> {
        if copies.len() > COPIES_MAX {
            return Err(Error::usage(format!("more than {COPIES_MAX} copies")));
        }
        let mut text = String::new();
        for copy in copies {
            if !is_name(&copy.name) || copy.place.contains('\n') {
                return Err(Error::usage(format!("{} is no name for a copy", copy.name)).hint("use letters, digits, `.`, `_` and `-`"));
            }
            let checked = copy.checked.map_or_else(|| "- -".to_owned(), |c| format!("{} {}", c.secs, c.findings));
            text.push_str(&format!("{} {checked} {}\n", copy.name, copy.place));
        }
        self.create()?;
        self.write(FILE, text.as_bytes())
    }
}

fn parse(line: &str) -> Option<KnownCopy> {
    let mut words = line.splitn(4, ' ');
    let (name, secs, findings, place) = (words.next()?, words.next()?, words.next()?, words.next()?);
    let checked = secs.parse().ok().zip(findings.parse().ok()).map(|(secs, findings)| Checked { secs, findings });
    Some(KnownCopy { name: name.to_owned(), place: place.to_owned(), checked })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::VaultId;

    #[test]
    fn copies_are_kept_with_what_was_found() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::new(dir.path(), VaultId([1; 16]));
        assert_eq!(state.copies().unwrap(), []);
        let copy = |name: &str, place: &str, checked| KnownCopy { name: name.to_owned(), place: place.to_owned(), checked };
        let copies = [copy("usb", "/media/my disk/vault", None), copy("far", "s3://b/x?region=y", Some(Checked { secs: 7, findings: 2 }))];
        state.keep_copies(&copies).unwrap();
        assert_eq!(state.copies().unwrap(), copies);
        assert!(state.keep_copies(&[copy("a b", "/x", None)]).is_err());
        assert!(state.keep_copies(&[copy("a", "/x\n/y", None)]).is_err());
    }
}
