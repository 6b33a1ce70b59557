//! What a condemnation waits for: its grace, and that every sealer knows of it. Pure but for the moment a receipt came.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::{
    error::Result,
    format::SnapshotKey,
    ops::{
        forget::wrong_clock,
        prune::{Context, facts::Facts},
    },
    store::{self, Key},
    sys,
    vault::{Committed, Condemnation, load_snapshot},
};

/// For so long a manifest without a receipt counts as a seal that is about to end, in ns.
const AT_WORK_NS: i128 = 86_400_000_000_000;

/// A condemnation that is not carried out yet.
#[derive(Clone, Debug, Serialize)]
pub struct Waiting {
    /// The record that condemns.
    pub record: String,
    /// When that was.
    pub since: String,
    /// The earliest moment at which it may be carried out.
    pub due: String,
    /// The same, in ns since 1970.
    pub due_ns: i64,
    /// Objects that are still there and go.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Objects that were condemned with them, are needed again, and stay.
    pub wanted: u64,
    /// What it waits for, in words. Empty if the next `prune` carries it out.
    pub reasons: Vec<String>,
}

/// Why the condemnation cannot be carried out now; with `grace_max`, its grace is no longer than so many seconds.
pub fn reasons(
    context: &Context,
    facts: &Facts,
    condemnation: &Condemnation,
    now_ns: i128,
    grace_max: Option<u64>,
    force: bool,
) -> Result<Vec<String>> {
    let mut reasons = Vec::new();
    let due_ns = due_ns(context, condemnation)?;
    let shortened_ns = grace_max.map_or(0, |secs| i128::from(condemnation.grace_secs.saturating_sub(secs)) * 1_000_000_000);
    if now_ns < due_ns - shortened_ns {
        reasons.push(format!("its grace: until {}", sys::utc_text(due_ns)));
    }
    if force {
        return Ok(reasons);
    }
    let began_ns = due_ns - i128::from(condemnation.grace_secs) * 1_000_000_000;
    let newest: BTreeMap<&str, &Committed> = facts.chain.committed.iter().map(|c| (c.key.sealer.as_str(), c)).collect();
    for (sealer, head) in &newest {
        let knows = head.receipt.lines.iter().any(|line| line.digest == condemnation.digest && line.path == condemnation.key().as_str());
        if !knows && came_ns(context, head)? > began_ns {
            reasons.push(format!("{sealer}: its newest snapshot {} does not say that it knows of this", head.key));
        }
    }
    if now_ns < began_ns + AT_WORK_NS {
        let heads = newest.iter().map(|(sealer, head)| (*sealer, head.key.seq)).collect();
        reasons.extend(at_work(context, &heads)?.into_iter().map(|key| format!("{}: a seal seems to be at work ({key})", key.sealer)));
    }
    Ok(reasons)
}

/// The earliest moment at which a condemnation may be carried out, ns since 1970. Its grace begins when the record says, or when the record came
/// to the store if that was later: a clock that was behind makes no grace shorter.
pub fn due_ns(context: &Context, condemnation: &Condemnation) -> Result<i128> {
    let stored = context.vault.store.stored_ns(&Key::fixed(format!("{}.sig", condemnation.key())))?;
    Ok(condemnation.due_ns() + stored.map_or(0, |stored| (stored - condemnation.time_ns).max(0)))
}

/// What makes this machine's clock look wrong, held against the newest receipts: nothing is deleted by such a clock.
pub fn clock_is_wrong(context: &Context, facts: &Facts, now_ns: i128) -> Result<Option<String>> {
    let heads: BTreeMap<&str, &Committed> = facts.chain.committed.iter().map(|c| (c.key.sealer.as_str(), c)).collect();
    let mut newest = None;
    for head in heads.values() {
        newest = newest.max(Some((came_ns(context, head)?, &head.key)));
    }
    let wrong = newest.filter(|(came, _)| *came > i128::MIN).and_then(|(came, key)| wrong_clock(came, key, now_ns));
    Ok(wrong.map(|text| format!("{text}: set it, or seal first; --force if it is right")))
}

/// When a receipt came, by the store or by its sealer, whichever is earlier.
fn came_ns(context: &Context, committed: &Committed) -> Result<i128> {
    let stored = context.vault.store.stored_ns(&Key::signature(&committed.key))?;
    // The newest receipt of a sealer is kept with its manifest unless somebody forced it away.
    let said = load_snapshot(context.vault, &context.reader.owner, committed).ok().map(|s| s.manifest.time_ns);
    Ok(stored.into_iter().chain(said).min().unwrap_or(i128::MIN))
}

/// Manifests without a receipt that are newer than their sealer's newest snapshot.
fn at_work(context: &Context, heads: &BTreeMap<&str, u64>) -> Result<BTreeSet<SnapshotKey>> {
    let keys = store::list_all(&*context.vault.store, "snaps")?;
    let places = keys.iter().filter_map(|(key, _)| SnapshotKey::parse(key.as_str()));
    let newer = places.filter(|(place, suffix)| *suffix == "age" && heads.get(place.sealer.as_str()).is_none_or(|seq| place.seq > *seq));
    Ok(newer.map(|(place, _)| place).collect())
}
