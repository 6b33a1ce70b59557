//! Snapshots: what there is. With an owner's key everything; without, what this host sealed itself.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{
    error::Result,
    format::Stats,
    ops::{chain::doubts, pins},
    sys,
    vault::{Finding, Journal, OwnerKeys, SignerList, Snapshot, StateDir, Vault, from_manifest, not_offered, sort},
};

/// Which snapshots to show.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Of this host.
    pub host: Option<String>,
    /// With this tag.
    pub tag: Option<String>,
    /// With a source at or above this path.
    pub path: Option<Vec<u8>>,
    /// At or after this moment.
    pub since_ns: Option<i128>,
    /// At or before this moment.
    pub until_ns: Option<i128>,
    /// The newest so many.
    pub last: Option<usize>,
    /// Those of revoked sealers that do not count, in place of those that do.
    pub revoked: bool,
}

/// One snapshot, for people and scripts.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Id.
    pub id: String,
    /// Sealer and number.
    pub snapshot: String,
    /// When it was sealed.
    pub time: String,
    /// The same, in ns since 1970.
    pub time_ns: i64,
    /// Host.
    pub host: String,
    /// Tags.
    pub tags: Vec<String>,
    /// Free facts.
    pub labels: BTreeMap<String, String>,
    /// Paths.
    pub paths: Vec<String>,
    /// Counts.
    pub stats: Stats,
    /// Entries that could not be taken as they were.
    pub problems: usize,
    /// What looked like an accident or an attack.
    pub suspicions: Vec<String>,
    /// Whether this one is kept in any case: by hand, or since the one after it looked suspicious.
    pub pinned: bool,
    /// Name of its directory in a mount.
    pub directory: String,
}

/// Lists snapshots, oldest first, with what was wrong on the way.
///
/// Without `owner`, only snapshots that this host sealed and remembers; the findings then say how many more there are.
pub fn run(vault: &Vault, owner: Option<&OwnerKeys>, state: &StateDir, filter: &Filter) -> Result<(Vec<Row>, Vec<Finding>)> {
    let pinned = owner.map(|owner| owner.sign.public()).or(state.pinned_owner()?);
    let journal = Journal::load(vault, pinned.as_deref())?;
    let (mut snapshots, mut findings) = match owner {
        Some(owner) if filter.revoked => vault.revoked_snapshots(owner)?,
        Some(owner) => vault.snapshots_but(owner, |id| journal.is_forgotten(id))?,
        None => own(vault, state, &journal, filter.revoked)?,
    };
    findings.extend(journal.findings.iter().cloned());
    findings.extend(doubts(&SignerList::load(&*vault.store, pinned.as_deref())?, state)?);
    let keep = |s: &Snapshot| {
        let m = &s.manifest;
        filter.host.as_ref().is_none_or(|host| m.host == *host || s.key.sealer == *host)
            && filter.tag.as_ref().is_none_or(|tag| m.tags.contains(tag))
            && filter.path.as_ref().is_none_or(|path| m.sources.iter().any(|source| is_below(path, source)))
            && filter.since_ns.is_none_or(|since| m.time_ns >= since)
            && filter.until_ns.is_none_or(|until| m.time_ns <= until)
    };
    let pinned = pins::of(&journal, &snapshots);
    snapshots.retain(keep);
    if let Some(last) = filter.last {
        snapshots.drain(..snapshots.len().saturating_sub(last));
    }
    let rows = snapshots.iter().map(|s| Row { pinned: pinned.contains_key(&s.id), ..row(s) });
    Ok((rows.collect(), findings))
}

/// Whether `path` is `source` or lies below it.
fn is_below(path: &[u8], source: &[u8]) -> bool {
    let source = source.strip_suffix(b"/").unwrap_or(source);
    path.strip_prefix(source).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

fn own(vault: &Vault, state: &StateDir, journal: &Journal, revoked: bool) -> Result<(Vec<Snapshot>, Vec<Finding>)> {
    let signers = SignerList::load(&*vault.store, state.pinned_owner()?.as_deref())?;
    let mut chain = vault.chain(&signers, |_| 0)?;
    let mut snapshots = Vec::new();
    let mut hidden = 0;
    chain.findings.extend(not_offered(&chain, &signers));
    let which = if revoked { &chain.revoked } else { &chain.committed };
    for committed in which.iter().filter(|committed| !journal.is_forgotten(&committed.id)) {
        match state.manifest(&committed.key, &committed.id).map(|cbor| from_manifest(vault, committed, &cbor)) {
            Some(Ok(snapshot)) => snapshots.push(snapshot),
            Some(Err(_)) | None => hidden += 1,
        }
    }
    if hidden > 0 {
        chain.findings.push(Finding::new(
            "snaps",
            format!("{hidden} snapshots that this host did not seal, or does not remember, need an owner's key to be shown"),
        ));
    }
    sort(&mut snapshots);
    Ok((snapshots, chain.findings))
}

/// One snapshot as a row.
pub fn row(s: &Snapshot) -> Row {
    let m = &s.manifest;
    Row {
        id: s.id.to_string(),
        snapshot: s.key.to_string(),
        time: sys::utc_text(m.time_ns),
        time_ns: i64::try_from(m.time_ns).unwrap_or(i64::MAX),
        host: m.host.clone(),
        tags: m.tags.clone(),
        labels: m.labels.clone(),
        paths: m.sources.iter().map(|p| String::from_utf8_lossy(p).into_owned()).collect(),
        stats: m.stats,
        problems: m.problems.len(),
        suspicions: m.suspicions.iter().map(|s| s.text.clone()).collect(),
        pinned: false,
        directory: s.dir_name(),
    }
}
