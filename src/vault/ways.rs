//! The files of the ways in: `keys/owner-NNNN[-NAME]-KIND.age`, and what their names say.

use crate::{
    error::Result,
    store::{self, Store},
};

/// The file of one way in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WayFile {
    /// Its number, from 1.
    pub number: u32,
    /// What somebody called it.
    pub name: Option<String>,
    /// `passphrase`, `age`, `ssh` or `plugin`.
    pub kind: String,
    file: String,
}

impl WayFile {
    /// Reads a file name such as `owner-0003-desk-ssh.age`.
    pub fn parse(file: &str) -> Option<Self> {
        let inner = file.strip_prefix("owner-")?.strip_suffix(".age")?;
        let (number, rest) = inner.split_once('-')?;
        let (name, kind) = match rest.rsplit_once('-') {
            Some((name, kind)) => (Some(name.to_owned()), kind),
            None => (None, rest),
        };
        let number = number.parse().ok().filter(|_| number.len() >= 4)?;
        Some(Self { number, name, kind: kind.to_owned(), file: file.to_owned() })
    }

    /// The name of the file.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// Where it lies in the vault.
    pub fn path(&self) -> String {
        format!("keys/{}", self.file)
    }
}

/// The ways in that the vault has, by number. One whose first copy is gone counts.
pub fn way_files(store: &dyn Store) -> Result<Vec<WayFile>> {
    let mut ways = Vec::new();
    for folder in ["keys", "parity/keys"] {
        ways.extend(store::list_all(store, folder)?.iter().filter_map(|(key, _)| WayFile::parse(key.file_name())));
    }
    ways.sort();
    ways.dedup();
    Ok(ways)
}
