//! The ways in and the sealers, as rows. Without an owner's key what everybody can see; with one, the rest.

use std::collections::HashMap;

use serde::Serialize;

use crate::{
    error::Result,
    vault::{OwnerKeys, SealerKeys, SignerList, Standing, StateDir, Vault, WayFile, way_files},
};

/// One way in.
#[derive(Clone, Debug, Serialize)]
pub struct WayRow {
    /// Its number.
    pub number: u32,
    /// `passphrase`, `age`, `ssh` or `plugin`.
    pub kind: String,
    /// The name that somebody gave it.
    pub name: Option<String>,
    /// Its file.
    pub file: String,
    /// The public key, or `a passphrase`. Only an owner knows.
    pub what: Option<String>,
    /// When it was added. Only an owner knows.
    pub added: Option<String>,
    /// What it is worth: `current`, `behind` (without the keys of the current epoch), `unproven` (no card of an owner) or `removed` (its file
    /// came back). Only an owner knows.
    pub standing: Option<&'static str>,
}

/// One sealer.
#[derive(Clone, Debug, Serialize)]
pub struct SealerRow {
    /// Its name.
    pub name: String,
    /// Its public key.
    pub key: String,
    /// Its dedup domain: the first digits. Only an owner knows.
    pub domain: Option<String>,
    /// Whether this host is that sealer.
    pub here: bool,
    /// Since when it is revoked, if it is.
    pub revoked: Option<String>,
}

/// Everybody.
#[derive(Clone, Debug, Serialize)]
pub struct Listed {
    /// The owner's public key.
    pub owner: Option<String>,
    /// The epoch of the keys. Only an owner knows.
    pub epoch: Option<u32>,
    /// The ways in, by number.
    pub ways: Vec<WayRow>,
    /// The sealers, in the order in which they came.
    pub sealers: Vec<SealerRow>,
}

/// Lists ways in and sealers.
pub fn list(vault: &Vault, owner: Option<&OwnerKeys>, state: &StateDir) -> Result<Listed> {
    let pinned = match owner {
        Some(owner) => Some(owner.sign.public()),
        None => state.pinned_owner()?,
    };
    let signers = SignerList::load(&*vault.store, pinned.as_deref())?.signers;
    let here = state.sealer()?.map(|keys| keys.name);
    let kept: HashMap<String, SealerKeys> = match owner {
        Some(owner) => vault.sealers(owner)?.into_iter().map(|keys| (keys.name.clone(), keys)).collect(),
        None => HashMap::new(),
    };
    let sealers = signers.0.iter().filter(|s| !s.owner).map(|s| SealerRow {
        name: s.name.clone(),
        key: s.key.clone(),
        domain: kept.get(&s.name).map(|keys| keys.domain.short()),
        here: here.as_ref() == Some(&s.name),
        revoked: s.revoked.as_ref().map(|r| r.since_text()),
    });
    let row = |file: &WayFile, standing: Option<&Standing>| {
        let card = standing.and_then(Standing::card);
        WayRow {
            number: file.number,
            kind: file.kind.clone(),
            name: file.name.clone(),
            file: file.path(),
            what: card.map(|card| card.what.clone()),
            added: card.map(|card| card.added.clone()),
            standing: standing.map(word),
        }
    };
    let ways = match owner {
        Some(owner) => vault.ways(owner)?.iter().map(|(file, standing)| row(file, Some(standing))).collect(),
        None => way_files(&*vault.store)?.iter().map(|file| row(file, None)).collect(),
    };
    let epoch = owner.map(OwnerKeys::epoch);
    Ok(Listed { epoch, owner: signers.owner().map(str::to_owned), ways, sealers: sealers.collect() })
}

fn word(standing: &Standing) -> &'static str {
    match standing {
        Standing::Counts(_) => "current",
        Standing::Behind(_) => "behind",
        Standing::Unproven { .. } => "unproven",
        Standing::Removed => "removed",
    }
}
