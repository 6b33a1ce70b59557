//! What the owner condemned: that it is gone is no damage. While it waits, an undelete needs it, so what is left of it must be what it was.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use crate::{
    error::{Error, ErrorKind, Result},
    format::{Digest, Line, SnapshotId},
    ops::verify::DamagedFile,
    store::Key,
    vault::{Chain, Finding, Journal, StateDir, Trouble, Vault},
};

/// Said of what is damaged and waits.
const WAITING: &str = "; it waits to be deleted by a prune, and until then coffre undelete needs it";

/// The owner's decisions, as far as they say what should be there.
#[derive(Default)]
pub struct Pruned {
    /// Paths of objects that were condemned and not spared.
    condemned: HashSet<String>,
    /// Those of them that nobody has begun to delete.
    waiting: HashSet<String>,
    /// What took their place.
    fresh: Vec<Line>,
    /// Snapshots that are not wanted.
    forgotten: HashSet<SnapshotId>,
    /// The decisions themselves.
    decisions: Vec<(Key, Digest)>,
    journal: Journal,
}

impl Pruned {
    /// Reads `gc/`. What is wrong there is noted in `damage`.
    ///
    /// `owner` is the owner's public key as this host knows it.
    pub fn load(vault: &Vault, owner: Option<&str>, damage: &mut Vec<Finding>) -> Result<Self> {
        let journal = match Journal::load(vault, owner) {
            Ok(journal) => journal,
            // That there are no signers is a finding of its own.
            Err(e) if is_damage(&e) => return Ok(Self::default()),
            Err(e) => return Err(e),
        };
        damage.extend(journal.findings.iter().cloned());
        let mut pruned = Self { forgotten: journal.forgotten.keys().copied().collect(), ..Self::default() };
        pruned.decisions = journal.objects().collect();
        for condemnation in &journal.condemnations {
            match journal.condemned(vault, condemnation) {
                Ok(lines) => {
                    // What a repair gave up in the same record, nobody needs.
                    let given_up = |line: &&Line| journal.loose.get(&line.path) == Some(&condemnation.time_ns);
                    if !condemnation.settled {
                        pruned.waiting.extend(lines.iter().filter(|line| !given_up(line)).map(|line| line.path.clone()));
                    }
                    pruned.condemned.extend(lines.into_iter().map(|line| line.path));
                }
                Err(e) if is_damage(&e) => damage.push(Finding::new(Journal::list_key(&condemnation.list).as_str(), e.chain())),
                Err(e) => return Err(e),
            }
            match journal.fresh(vault, condemnation) {
                Ok(lines) => pruned.fresh.extend(lines),
                Err(e) if is_damage(&e) => {
                    let list = condemnation.fresh.as_ref().map(|list| Journal::list_key(list).to_string());
                    damage.push(Finding::new(list.unwrap_or_default(), e.chain()));
                }
                Err(e) => return Err(e),
            }
        }
        for deletion in &journal.deletions {
            match journal.going(vault, deletion) {
                Ok(lines) => lines.iter().for_each(|line| {
                    pruned.waiting.remove(&line.path);
                }),
                Err(e) if is_damage(&e) => damage.push(Finding::new(Journal::list_key(&deletion.list).as_str(), e.chain())),
                Err(e) => return Err(e),
            }
        }
        pruned.journal = journal;
        Ok(pruned)
    }

    /// Decisions that somebody saw and that do not count any more: the receipts in `chain`, and what this host remembers.
    pub fn taken_away(&self, chain: &Chain, place: &str, state: Option<&StateDir>) -> Result<Vec<Finding>> {
        let mut findings: BTreeMap<String, Finding> = BTreeMap::new();
        let named = chain.committed.iter().flat_map(|c| c.receipt.lines.iter().map(|line| (&c.key, Journal::record_at(&line.path))));
        for (key, name) in named.filter_map(|(key, name)| Some((key, name?))) {
            if let Some(finding) = self.journal.is_taken_away(name, &format!("the receipt of {key} names it")) {
                findings.entry(name.to_owned()).or_insert(finding);
            }
        }
        for name in state.map(|state| state.decisions_seen(place)).transpose()?.into_iter().flatten() {
            let who = "this machine saw it; if the vault was put back on purpose: coffre head --accept";
            if let Some(finding) = self.journal.is_taken_away(&name, who) {
                findings.entry(name).or_insert(finding);
            }
        }
        Ok(findings.into_values().collect())
    }

    /// The newest decisions that count.
    pub fn newest(&self) -> BTreeSet<String> {
        self.journal.newest().filter_map(|(_, key)| Journal::record_at(key.as_str()).map(str::to_owned)).collect()
    }

    /// Whether the object may be gone.
    pub fn is_condemned(&self, path: &str) -> bool {
        self.condemned.contains(path)
    }

    /// Whether somebody has begun to delete the object, or has deleted it.
    pub fn is_going(&self, path: &str) -> bool {
        self.condemned.contains(path) && !self.waiting.contains(path)
    }

    /// Whether the snapshot is not wanted.
    pub fn is_forgotten(&self, id: &SnapshotId) -> bool {
        self.forgotten.contains(id)
    }

    /// Takes what was condemned out of what should be there, and puts in what took its place, and what says so. Returns what of the former
    /// waits to be deleted: it may be there, and then an undelete needs it. What nothing ever named is not in it.
    pub fn apply(&self, listed: &mut BTreeMap<Key, Digest>) -> BTreeMap<Key, Digest> {
        listed.extend(self.decisions.iter().cloned());
        listed.extend(self.fresh.iter().filter_map(|line| Some((Key::parse(&line.path)?, line.digest))));
        let mut waiting = BTreeMap::new();
        listed.retain(|key, digest| {
            if self.waiting.contains(key.as_str()) {
                waiting.insert(key.clone(), *digest);
            }
            !self.is_condemned(key.as_str())
        });
        waiting
    }

    /// Takes out of what was found what was condemned and deleted meanwhile, and says of what still waits who needs it.
    pub fn excuse(&self, damage: &mut Vec<Finding>) {
        damage.retain_mut(|finding| {
            let object = belongs_to(&finding.object);
            if self.waiting.contains(&object) && finding.kind != Trouble::Deleted {
                if !finding.text.ends_with(WAITING) {
                    finding.text.push_str(WAITING);
                }
                return true;
            }
            !self.is_condemned(&object)
        });
    }

    /// Takes out of a list what can be read no more in snapshots that were forgotten meanwhile.
    pub fn excuse_files(&self, files: &mut Vec<DamagedFile>) {
        let ids: HashSet<String> = self.forgotten.iter().map(ToString::to_string).collect();
        files.retain(|file| !ids.contains(&file.snapshot));
    }
}

/// The object that a second copy or a sidecar belongs to; of any other object, itself.
fn belongs_to(path: &str) -> String {
    match path.strip_prefix("parity/") {
        Some(rest) => rest.strip_suffix(".par").map_or_else(|| rest.to_owned(), |stem| format!("packs/{stem}.age")),
        None => path.to_owned(),
    }
}

fn is_damage(e: &Error) -> bool {
    matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::Missing | ErrorKind::Unsupported)
}
