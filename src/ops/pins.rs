//! Pins: snapshots that nothing forgets.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{
    error::{Error, Result},
    format::{Decision, SnapshotId},
    vault::{Journal, OwnerKeys, Selector, Snapshot, Vault, select},
};

/// Why a snapshot is pinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Pinned {
    /// Somebody said so.
    ByHand,
    /// The one sealed after it looked like an accident or an attack.
    BeforeSuspicious,
    /// The one sealed after it cannot be read, so nobody knows whether it looked like that.
    BeforeUnreadable,
}

/// The snapshots among `all` that are pinned. What was said by hand counts most; a sealer's manifests pin snapshots of its own only.
pub fn of(journal: &Journal, all: &[Snapshot]) -> BTreeMap<SnapshotId, Pinned> {
    let sealers: BTreeMap<SnapshotId, &str> = all.iter().map(|s| (s.id, s.key.sealer.as_str())).collect();
    let mut pinned = BTreeMap::new();
    for s in all {
        let own = s.manifest.pins.iter().filter(|id| sealers.get(id) == Some(&s.key.sealer.as_str()));
        pinned.extend(own.map(|id| (*id, Pinned::BeforeSuspicious)));
    }
    for (id, by_hand) in &journal.pins {
        match by_hand {
            true => drop(pinned.insert(*id, Pinned::ByHand)),
            false => drop(pinned.remove(id)),
        }
    }
    pinned
}

/// What was pinned, or no longer is.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Ids of the snapshots that were named.
    pub snapshots: Vec<String>,
    /// Whether they are pinned now.
    pub pinned: bool,
    /// The record that says so; `None` if all of it was so already.
    pub record: Option<String>,
}

/// Pins snapshots, or unpins them.
pub fn run(vault: &Vault, owner: &OwnerKeys, now_ns: i128, named: &[Selector], pin: bool) -> Result<Report> {
    let journal = Journal::load(vault, Some(&owner.sign.public()))?;
    let (snapshots, _) = vault.snapshots_but(owner, |id| journal.is_forgotten(id))?;
    let pinned = of(&journal, &snapshots);
    let find = |selector: &Selector| {
        select(&snapshots, selector).map_err(|e| {
            match journal.forgotten.iter().find(|(id, forgotten)| !forgotten.gone && selector.names(&forgotten.key, id)) {
                Some((id, _)) => Error::not_found(format!("snapshot {} is forgotten", id.short()))
                    .hint(format!("coffre undelete {} brings it back, and then it can be pinned", id.short())),
                None => e,
            }
        })
    };
    let named: Vec<&Snapshot> = named.iter().map(find).collect::<Result<_>>()?;
    let decisions: Vec<Decision> = named
        .iter()
        .filter(|s| match pin {
            true => pinned.get(&s.id) != Some(&Pinned::ByHand),
            false => pinned.contains_key(&s.id),
        })
        .map(|s| if pin { Decision::Pin(s.key.clone(), s.id) } else { Decision::Unpin(s.key.clone(), s.id) })
        .collect();
    let record = match decisions.is_empty() {
        true => None,
        false => {
            let record = Journal::append(vault, owner, now_ns, decisions)?;
            // Somebody may have forgotten one of them at the same moment.
            let journal = Journal::load(vault, Some(&owner.sign.public()))?;
            let lost = named.iter().filter(|s| pin && journal.is_forgotten(&s.id));
            let back: Vec<Decision> = lost.map(|s| Decision::Undelete(s.key.clone(), s.id)).collect();
            if !back.is_empty() {
                Journal::append(vault, owner, now_ns, back)?;
            }
            Some(record)
        }
    };
    Ok(Report { snapshots: named.iter().map(|s| s.id.to_string()).collect(), pinned: pin, record })
}
