//! Revoke: takes back a sealer's right to seal, from a moment on. What it sealed before stays.
//!
//! The moment decides once, here, by what the manifests say; from then on only hashes count. For whoever has the sealer's key
//! can write any time into a manifest, but cannot put a snapshot before one that is named by its hash.

use std::collections::HashSet;

use serde::Serialize;

use crate::{
    error::{Error, Result},
    format::{Revocation, SnapshotId, words_of},
    sys,
    vault::{Committed, OwnerKeys, SignerList, StateDir, Vault, load_snapshot},
};

const SECOND_NS: i128 = 1_000_000_000;

/// What counts no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// Snapshots that say they were sealed then or later, and all that come after one of these.
    Moment(i128),
    /// Those after this number, whatever time they tell; the moment is only told to OpenSSH.
    After(u64, i128),
}

/// One snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    /// Sealer and number.
    pub snapshot: String,
    /// Its id.
    pub id: String,
    /// Its id in words.
    pub words: String,
    /// When it says that it was sealed; `None` if its manifest cannot be read.
    pub time: Option<String>,
}

/// What was done, or would be.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The sealer.
    pub sealer: String,
    /// From when on its signature does not count.
    pub since: String,
    /// Its newest snapshots that count.
    pub last: Vec<Row>,
    /// How many count.
    pub kept: u64,
    /// Those that do not.
    pub set_aside: Vec<Row>,
    /// The new list of signers; `None` if nothing was written.
    pub list: Option<String>,
}

/// Revokes `sealer`, and remembers in `state` that there is such a list; with `dry_run` only says what that would do.
///
/// # Errors
/// `NotFound` if the vault has no such sealer, or no such snapshot.
pub fn run(vault: &Vault, state: &StateDir, owner: &OwnerKeys, sealer: &str, from: From, dry_run: bool) -> Result<Report> {
    let signers = SignerList::load(&*vault.store, Some(&owner.sign.public()))?;
    let chain = vault.chain(&signers, |_| 0)?;
    // One that is revoked already can be revoked from another moment on.
    let mut mine: Vec<&Committed> = chain.committed.iter().chain(&chain.revoked).filter(|c| c.key.sealer == sealer).collect();
    mine.sort_by_key(|c| c.key.seq);
    let times: Vec<Option<i128>> = mine.iter().map(|c| load_snapshot(vault, owner, c).ok().map(|s| s.manifest.time_ns)).collect();
    let (cut, since_ns) = match from {
        From::Moment(ns) => (times.iter().position(|t| t.is_some_and(|t| t >= ns)), ns),
        From::After(seq, ns) if mine.iter().any(|c| c.key.seq == seq) => {
            let cut = mine.iter().position(|c| c.key.seq > seq);
            let first = cut.and_then(|n| times[n]).unwrap_or(ns).min(ns);
            // OpenSSH takes the second that it is told for a good one still.
            (cut, first - SECOND_NS)
        }
        From::After(seq, _) => {
            return Err(Error::not_found(format!("sealer {sealer} has no snapshot {seq}")).hint("coffre snapshots lists what there is"));
        }
    };
    let (kept, aside) = mine.split_at(cut.unwrap_or(mine.len()));
    let named: HashSet<SnapshotId> = kept.iter().flat_map(|c| c.receipt.previous_all().map(|(_, id)| id)).collect();
    let row = |c: &&Committed| Row {
        snapshot: c.key.to_string(),
        id: c.id.to_string(),
        words: words_of(&c.id),
        time: mine.iter().position(|m| m.id == c.id).and_then(|n| times[n]).map(sys::utc_text),
    };
    let last: Vec<&Committed> = kept.iter().filter(|c| !named.contains(&c.id)).copied().collect();
    let revocation = Revocation { since: sys::utc_stamp(since_ns), last: last.iter().map(|c| (c.key.seq, c.id)).collect() };
    let mut report = Report {
        sealer: sealer.to_owned(),
        since: revocation.since_text(),
        last: last.iter().map(row).collect(),
        kept: kept.len() as u64,
        set_aside: aside.iter().map(row).collect(),
        list: None,
    };
    if dry_run {
        signers.revoked(sealer, revocation)?;
    } else {
        let list = signers.revoke(vault, owner, sealer, &revocation)?;
        state.saw_signers(list.number)?;
        report.list = Some(list.key.to_string());
    }
    Ok(report)
}
