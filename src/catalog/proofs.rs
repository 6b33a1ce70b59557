//! The proof ledger: when each pack was last read, how deep, and in which copy of the vault.
//!
//! A text file beside the catalog and not in sled, since whoever verifies does not wait for who seals. Lost, it costs that what was read
//! lately is read again; two that write at the same moment may lose one of their notes, no more.

use std::{collections::BTreeMap, fs, io, path::Path};

use crate::{
    catalog::PackStart,
    error::{Error, Result},
    format::{Digest, digest, hex, unhex},
    sys,
};

/// Proofs kept; at about 70 bytes each, and one or two a pack.
const PROOFS_MAX: usize = 4_000_000;

/// What a clock may be ahead of itself later, in seconds: it is put right by so much without anybody noticing.
const AHEAD_SECS_MAX: u64 = 3600;

/// How deep a pack was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProofDepth {
    /// Its hash is its name.
    Pack,
    /// Every chunk in it is what its id says.
    Chunks,
}

/// Which copy: the start of a hash of where it is.
type CopyName = [u8; 8];

/// When packs were last found to be whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proofs {
    /// Seconds since 1970.
    last: BTreeMap<(CopyName, PackStart, ProofDepth), u64>,
}

fn start(pack: &Digest) -> PackStart {
    pack.as_bytes()[..16].try_into().expect("16 of 32 bytes")
}

fn copy_name(place: &str) -> CopyName {
    digest(place.as_bytes()).as_bytes()[..8].try_into().expect("8 of 32 bytes")
}

impl Proofs {
    /// Reads the ledger in `dir`; an empty one if there is none. Lines that make no sense are passed over.
    pub fn load(dir: &Path) -> Result<Self> {
        match fs::read_to_string(dir.join("proofs")) {
            Ok(text) => Ok(Self::parse(&text)),
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData) => Ok(Self::default()),
            Err(e) => Err(Error::io("cannot read the proof ledger", e)),
        }
    }

    /// Adds to the ledger in `dir` what is in this one.
    pub fn save(&self, dir: &Path) -> Result<()> {
        let mut all = Self::load(dir)?;
        for (key, secs) in &self.last {
            let last = all.last.entry(*key).or_insert(*secs);
            // One from the future was noted by a clock that has been put right since.
            *last = if *last > secs.saturating_add(AHEAD_SECS_MAX) { *secs } else { (*last).max(*secs) };
        }
        let failed = |e| Error::io("cannot keep the proof ledger", e);
        sys::create_private_dir(dir).map_err(failed)?;
        sys::replace_durably(&dir.join("proofs"), all.text().as_bytes()).map_err(failed)
    }

    /// Notes that a pack was whole in the copy at `place`. A deeper look counts as a shallower one, too.
    pub fn note(&mut self, place: &str, pack: &Digest, depth: ProofDepth, secs: u64) {
        for each in [ProofDepth::Pack, ProofDepth::Chunks].into_iter().filter(|each| *each <= depth) {
            self.last.insert((copy_name(place), start(pack), each), secs);
        }
    }

    /// When a pack was last read at least so deep in the copy at `place`, in seconds since 1970. What lies after `now_secs` says nothing: the
    /// clock was ahead, and a pack would not be due for as long as it was.
    pub fn last(&self, place: &str, pack: &Digest, depth: ProofDepth, now_secs: u64) -> Option<u64> {
        let last = self.last.get(&(copy_name(place), start(pack), depth)).copied();
        last.filter(|secs| *secs <= now_secs.saturating_add(AHEAD_SECS_MAX))
    }

    fn text(&self) -> String {
        let mut text = "coffre-proofs 1\n".to_owned();
        for ((copy, pack, depth), secs) in self.last.iter().take(PROOFS_MAX) {
            let depth = if *depth == ProofDepth::Pack { "pack" } else { "chunks" };
            text.push_str(&format!("{} {} {depth} {secs}\n", hex(copy), hex(pack)));
        }
        text
    }

    fn parse(text: &str) -> Self {
        let line = |line: &str| {
            let mut words = line.split(' ');
            let (copy, pack) = (unhex(words.next()?)?, unhex(words.next()?)?);
            let depth = match words.next()? {
                "pack" => ProofDepth::Pack,
                "chunks" => ProofDepth::Chunks,
                _ => return None,
            };
            Some(((copy, pack, depth), words.next()?.parse().ok()?))
        };
        Self { last: text.lines().skip(1).filter_map(line).take(PROOFS_MAX).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_is_remembered_by_copy_and_depth_and_the_newest_counts() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (digest(b"a"), digest(b"b"));
        assert_eq!(Proofs::load(dir.path()).unwrap(), Proofs::default());
        let mut old = Proofs::default();
        old.note("/here", &a, ProofDepth::Chunks, 100);
        old.note("/here", &b, ProofDepth::Pack, 100);
        old.save(dir.path()).unwrap();
        let mut new = Proofs::default();
        new.note("/here", &a, ProofDepth::Pack, 200);
        new.note("/there", &b, ProofDepth::Pack, 50);
        new.save(dir.path()).unwrap();
        let all = Proofs::load(dir.path()).unwrap();
        let asked = |place, pack| [ProofDepth::Pack, ProofDepth::Chunks].map(|depth| all.last(place, pack, depth, 200));
        assert_eq!(asked("/here", &a), [Some(200), Some(100)]);
        assert_eq!(asked("/here", &b), [Some(100), None]);
        assert_eq!(asked("/there", &b), [Some(50), None]);
        assert_eq!(asked("/there", &a), [None, None]);
        // A clock that was years ahead is put right.
        let mut ahead = Proofs::default();
        ahead.note("/here", &b, ProofDepth::Pack, 1_000_000);
        ahead.save(dir.path()).unwrap();
        let last = |secs| Proofs::load(dir.path()).unwrap().last("/here", &b, ProofDepth::Pack, secs);
        assert_eq!((last(300), last(1_000_000)), (None, Some(1_000_000)));
        let mut right = Proofs::default();
        right.note("/here", &b, ProofDepth::Pack, 300);
        right.save(dir.path()).unwrap();
        assert_eq!(last(300), Some(300));
        assert_eq!(Proofs::parse("nonsense\nab cd ef\n"), Proofs::default());
    }
}
