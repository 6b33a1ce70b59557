//! Heads: the newest snapshot of each sealer, in words that one compares by eye.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::{
    error::Result,
    format::words_of,
    ops::chain::doubts,
    vault::{Finding, SignerList, StateDir, Trouble, Vault, links, not_offered},
};

/// The newest snapshot of a sealer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Head {
    /// Who sealed it.
    pub sealer: String,
    /// Its number.
    pub seq: u64,
    /// Its id, in six words: the first 66 bits.
    pub words: String,
    /// Its id: the BLAKE3 of its receipt.
    pub id: String,
    /// How many snapshots of this sealer count.
    pub snapshots: u64,
    /// When the sealer was revoked, if it was.
    pub revoked: Option<String>,
}

/// Returns the head of each sealer that has one, and what is wrong with the chains. Needs no secret.
pub fn run(vault: &Vault, state: &StateDir) -> Result<(Vec<Head>, Vec<Finding>)> {
    let signers = SignerList::load(&*vault.store, state.pinned_owner()?.as_deref())?;
    let chain = vault.chain(&signers, |_| 0)?;
    let head = |(sealer, (seq, id)): (String, (u64, crate::format::SnapshotId))| Head {
        seq,
        words: words_of(&id),
        id: id.to_string(),
        snapshots: chain.committed.iter().filter(|c| c.key.sealer == sealer).count() as u64,
        revoked: signers.signers.revoked(&sealer).map(|r| r.since_text()),
        sealer,
    };
    let links = links(&chain, &signers);
    let broken = links.damage.into_iter().filter(|f| f.kind != Trouble::Revoked).chain(links.forks);
    let lists = doubts(&signers, state)?;
    let findings = chain.findings.iter().cloned().chain(broken).chain(not_offered(&chain, &signers)).chain(lists).collect();
    Ok((chain.heads().into_iter().map(head).collect(), findings))
}

/// Takes the vault as it is now for what this host remembers of it: for a vault that was put back from an older copy.
pub fn accept(vault: &Vault, state: &StateDir) -> Result<()> {
    let signers = SignerList::load(&*vault.store, state.pinned_owner()?.as_deref())?;
    let chain = vault.chain(&signers, |_| 0)?;
    state.create()?;
    state.keep_heads(&chain.heads())?;
    state.keep_signers_seen(signers.number)?;
    state.keep_decisions_seen(&vault.store.describe(), &BTreeSet::new())?;
    state.keep_lost(&[])?;
    state.keep_foreign(&[])
}
