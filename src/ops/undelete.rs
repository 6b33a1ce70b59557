//! Undelete: forgotten snapshots come back, until their objects are deleted.

use serde::Serialize;

use crate::{
    error::{Error, Result},
    format::{Decision, SnapshotId},
    vault::{Forgotten, Journal, OwnerKeys, Vault},
};

/// Shortest id prefix, in digits.
const PREFIX_MIN: usize = 4;

/// What came back.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Ids of the snapshots.
    pub snapshots: Vec<String>,
    /// The record that says so.
    pub record: String,
}

/// Brings back the snapshots whose ids start with the `named` texts, or that have these places (`host1/41`).
///
/// # Errors
/// `NotFound` if none is forgotten that is called so, or its deletion has begun; nothing is changed then.
pub fn run(vault: &Vault, owner: &OwnerKeys, now_ns: i128, named: &[String]) -> Result<Report> {
    let key = owner.sign.public();
    let journal = Journal::load(vault, Some(&key))?;
    let found: Vec<(SnapshotId, Forgotten)> = named.iter().map(|name| find(&journal, name)).collect::<Result<_>>()?;
    let decisions = found.iter().map(|(id, forgotten)| Decision::Undelete(forgotten.key.clone(), *id)).collect();
    let record = Journal::append(vault, owner, now_ns, decisions)?;
    vault.store.refresh();
    // Who deletes says so first, and looks again before the first object goes. So either we see that here, or they see this.
    let after = Journal::load(vault, Some(&key))?;
    for (id, forgotten) in &found {
        if after.is_said_gone_beside(&record, id) {
            // Written at the same moment, and perhaps read before ours came. Deletion has the last word, or half a snapshot would stay.
            let again = vec![Decision::Forget(forgotten.key.clone(), *id), Decision::Gone(forgotten.key.clone(), *id)];
            Journal::append(vault, owner, now_ns, again)?;
            return Err(gone(id));
        }
        if after.is_gone(id) || Journal::is_unsigned_gone(vault, id)? {
            return Err(gone(id));
        }
    }
    Ok(Report { snapshots: found.iter().map(|(id, _)| id.to_string()).collect(), record })
}

fn find(journal: &Journal, name: &str) -> Result<(SnapshotId, Forgotten)> {
    let is_prefix = name.len() >= PREFIX_MIN && name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let fits =
        |id: &SnapshotId, forgotten: &Forgotten| (is_prefix && id.to_string().starts_with(name)) || forgotten.key.to_string() == name;
    let mut fitting = journal.forgotten.iter().filter(|(id, forgotten)| fits(id, forgotten));
    match (fitting.next(), fitting.next()) {
        (Some((id, forgotten)), None) if forgotten.gone => Err(gone(id).hint(format!("it was forgotten as {}", forgotten.key))),
        (Some((id, forgotten)), None) => Ok((*id, forgotten.clone())),
        (Some(_), Some(_)) => Err(Error::usage(format!("several forgotten snapshots start with `{name}`")).hint("give more digits")),
        (None, _) => Err(Error::not_found(format!("no forgotten snapshot `{name}`")).hint(
            "name it by the first digits of its id, or its place: coffre prune --list shows what is forgotten and can still come back",
        )),
    }
}

fn gone(id: &SnapshotId) -> Error {
    Error::not_found(format!("snapshot {} cannot come back: its objects are being deleted, or are deleted", id.short()))
}
