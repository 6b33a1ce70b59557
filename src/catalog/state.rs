//! The small file beside the catalog: whose it is, how far it got, whether its last writer finished.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::Path,
};

use crate::{
    error::{Error, Result},
    format::{DomainId, SnapshotId, VaultId, is_name, unhex},
    sys,
};

/// What the catalog has absorbed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// The vault it belongs to.
    pub vault: VaultId,
    /// The dedup domain whose chunks and stored packs it knows.
    pub domain: DomainId,
    /// Which of the `g<N>` folders is valid.
    pub generation: u64,
    /// Whether a writer began and did not finish.
    pub dirty: bool,
    /// Newest receipt absorbed, by sealer.
    pub heads: BTreeMap<String, (u64, SnapshotId)>,
    /// Numbers of this host's committed seals: directory records of others do not count.
    pub committed: BTreeSet<u64>,
    /// Names of the condemnations whose packs were dropped, and what took their place taken in.
    pub honoured: BTreeSet<String>,
}

/// Committed seals remembered; older directory records are read again, which costs time only.
const COMMITTED_MAX: usize = 4096;

impl State {
    pub(super) fn new(vault: VaultId, domain: DomainId, generation: u64) -> Self {
        Self { vault, domain, generation, dirty: false, heads: BTreeMap::new(), committed: BTreeSet::new(), honoured: BTreeSet::new() }
    }

    /// Notes that this host's seal `seq` is committed.
    pub fn note_committed(&mut self, seq: u64) {
        self.committed.insert(seq);
        while self.committed.len() > COMMITTED_MAX {
            self.committed.pop_first();
        }
    }

    pub(super) fn load(dir: &Path) -> Result<Option<Self>> {
        match fs::read_to_string(dir.join("state")) {
            Ok(text) => Self::parse(&text).map(Some).ok_or_else(|| Error::corrupt("its state file cannot be understood")),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io("its state file cannot be read", e)),
        }
    }

    pub(super) fn save(&self, dir: &Path) -> Result<()> {
        sys::replace_durably(&dir.join("state"), self.text().as_bytes()).map_err(|e| Error::io("cannot note the catalog's state", e))
    }

    fn text(&self) -> String {
        let mut text = format!(
            "coffre-catalog 2\nvault {}\ndomain {}\ngeneration {}\ndirty {}\n",
            self.vault,
            self.domain,
            self.generation,
            u8::from(self.dirty)
        );
        for (sealer, (seq, id)) in &self.heads {
            text.push_str(&format!("head {sealer} {seq} {id}\n"));
        }
        for seq in &self.committed {
            text.push_str(&format!("committed {seq}\n"));
        }
        for name in &self.honoured {
            text.push_str(&format!("honoured {name}\n"));
        }
        text + "end\n"
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        if lines.next()? != "coffre-catalog 2" || lines.next_back()? != "end" {
            return None;
        }
        let mut state = Self::new(VaultId([0; 16]), DomainId([0; 16]), 0);
        for line in lines {
            match line.split(' ').collect::<Vec<_>>().as_slice() {
                ["vault", id] => state.vault = VaultId(unhex(id)?),
                ["domain", id] => state.domain = DomainId(unhex(id)?),
                ["generation", n] => state.generation = n.parse().ok()?,
                ["dirty", n] => state.dirty = *n != "0",
                ["head", sealer, seq, id] if is_name(sealer) => {
                    state.heads.insert((*sealer).to_owned(), (seq.parse().ok()?, SnapshotId::from_bytes(unhex(id)?)));
                }
                ["committed", seq] => drop(state.committed.insert(seq.parse().ok()?)),
                ["honoured", name] => drop(state.honoured.insert((*name).to_owned())),
                _ => return None,
            }
        }
        Some(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_noted_is_read_and_a_torn_file_is_refused() {
        let mut state = State::new(VaultId([3; 16]), DomainId([4; 16]), 7);
        state.heads.insert("web".into(), (4, SnapshotId::from_bytes([9; 32])));
        state.note_committed(4);
        state.honoured.insert("0000000003.1a2b3c4d5e6f7081".into());
        assert_eq!(State::parse(&state.text()), Some(state.clone()));
        let text = state.text();
        assert_eq!(State::parse(&text[..text.len() - 5]), None);
    }
}
