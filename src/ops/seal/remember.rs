//! What a host remembers of a vault: heads, so that it notices when the vault is rolled back, or when another machine seals as it does.

use crate::{
    error::Result,
    event::Event,
    format::{SnapshotId, SnapshotKey},
    ops::seal::{Context, refresh::Refreshed},
    vault::{NewSnapshot, SignerList, StateDir, may_seal},
};

/// Just before the commit: tells what does not fit this host's memory, and notes snapshots that are gone, so that verify names them
/// until somebody accepts it. Returns those that are gone.
///
/// # Errors
/// `WrongKey` if this sealer was revoked meanwhile.
pub fn check(context: &Context, refreshed: &Refreshed) -> Result<Vec<SnapshotKey>> {
    let Context { vault, sealer, state, sink, .. } = context;
    let signers = SignerList::load(&*vault.store, state.pinned_owner()?.as_deref())?;
    may_seal(&signers, &sealer.name, &sealer.sign.public())?;
    let mut gone: Vec<(SnapshotKey, SnapshotId)> = Vec::new();
    let mut foreign: Vec<(SnapshotKey, SnapshotId)> = Vec::new();
    for (name, (seq, id)) in state.heads()? {
        let key = SnapshotKey { sealer: name.clone(), seq };
        // Its receipt stands under its hash, or it is not the one that was seen.
        let there = refreshed.head(&name) == Some((seq, id)) || vault.receipt_id(&key)? == Some(id);
        match refreshed.head(&name) {
            _ if !there => gone.push((key, id)),
            Some((newer, newest)) if name == sealer.name && newer > seq && !made_here(state, &name, newer, &newest) => {
                foreign.push((SnapshotKey { sealer: name.clone(), seq: newer }, newest));
                sink.send(Event::Warning(format!(
                    "snapshot {name}/{newer} is signed with this host's key, and was not made here: another machine seals as {name}, or this host's state was put back"
                )));
            }
            _ => (),
        }
    }
    if !gone.is_empty() {
        let names: Vec<String> = gone.iter().map(|(key, id)| format!("{key} ({})", id.short())).collect();
        sink.send(Event::Warning(format!(
            "the vault was rolled back: this host remembers {}, and it is gone or was changed; coffre verify names it until coffre head --accept",
            names.join(", ")
        )));
        state.keep_lost(&added(state.lost()?, &gone))?;
    }
    if !foreign.is_empty() {
        state.keep_foreign(&added(state.foreign()?, &foreign))?;
    }
    Ok(gone.into_iter().map(|(key, _)| key).collect())
}

/// What was known before, and `more`. Bounded: who rolls a vault back again and again is told about all the same.
fn added(mut known: Vec<(SnapshotKey, SnapshotId)>, more: &[(SnapshotKey, SnapshotId)]) -> Vec<(SnapshotKey, SnapshotId)> {
    let fresh: Vec<_> = more.iter().filter(|one| !known.contains(one)).cloned().collect();
    known.extend(fresh);
    known.split_off(known.len().saturating_sub(LOST_MAX))
}

/// Whether this host kept the manifest of that snapshot, as it does of all that it makes.
fn made_here(state: &StateDir, sealer: &str, seq: u64, id: &SnapshotId) -> bool {
    state.manifest(&SnapshotKey { sealer: sealer.to_owned(), seq }, id).is_some()
}

/// Most lost, and most foreign, snapshots remembered.
const LOST_MAX: usize = 1000;

/// Keeps the new head, the newest ones seen of the other sealers, and the manifest in the state directory.
pub fn remember(state: &StateDir, refreshed: &Refreshed, new: &NewSnapshot, gone: &[SnapshotKey]) -> Result<()> {
    let mut heads = refreshed.heads().clone();
    for (sealer, (seq, id)) in state.heads()? {
        let key = SnapshotKey { sealer, seq };
        let newer = heads.get(&key.sealer).is_none_or(|(known, _)| *known < seq);
        // Seen by a verify while this seal ran.
        if newer && !gone.contains(&key) {
            heads.insert(key.sealer, (seq, id));
        }
    }
    heads.insert(new.key.sealer.clone(), (new.key.seq, new.id));
    state.keep_heads(&heads)?;
    state.keep_signers_seen(refreshed.signers())?;
    state.keep_manifest(&new.key, &new.id, &new.manifest_bytes)
}
