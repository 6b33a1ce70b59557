//! What a machine remembers of the owner's decisions: each names the ones before it, so only of the newest could nobody say that it was taken away.

use crate::{
    error::{Error, Result},
    vault::{Journal, OwnerKeys, StateDir, Vault},
};

/// Looks whether the newest decisions that this machine saw are still there.
///
/// # Errors
/// `Corrupt` if one is gone: by what is left, a prune might delete what somebody undeleted.
pub fn check(vault: &Vault, owner: &OwnerKeys, state: &StateDir) -> Result<()> {
    let seen = state.decisions_seen(&vault.store.describe())?;
    if seen.is_empty() {
        return Ok(());
    }
    let journal = Journal::load(vault, Some(&owner.sign.public()))?;
    match seen.iter().find(|name| !journal.records.contains(*name)) {
        Some(name) => Err(Error::corrupt(format!("gc/{name}.txt, a decision of the owner's that this machine saw, is gone or not signed any more"))
            .hint("bring it and its signature back from a copy of the vault; if the vault was put back to before it on purpose: coffre head --accept")),
        None => Ok(()),
    }
}

/// Remembers the newest decisions that count.
///
/// Cost: a listing, and two small reads for each decision.
pub fn remember(vault: &Vault, owner: &OwnerKeys, state: &StateDir) -> Result<()> {
    let journal = Journal::load(vault, Some(&owner.sign.public()))?;
    state.create()?;
    state.saw_decisions(
        &vault.store.describe(),
        &journal.newest().filter_map(|(_, key)| Journal::record_at(key.as_str()).map(str::to_owned)).collect(),
    )
}
