//! What prune planned and did, for people and scripts.

use serde::Serialize;

use crate::{
    error::Result,
    format::{Line, SnapshotId},
    ops::prune::{
        Context, Options, Waiting,
        facts::Facts,
        mark::Tally,
        plan::{Plan, Totals},
        settle::Settled,
        wait::due_ns,
    },
    store::Key,
    sys,
    vault::load_snapshot,
};

/// Objects that nothing names.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Loose {
    /// How many.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// A prune.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Whether nothing was changed.
    pub dry_run: bool,
    /// Wanted snapshots, from which everything else follows.
    pub snapshots: u64,
    /// Forgotten snapshots whose objects go now.
    pub forgotten: u64,
    /// Chunks that the index knows.
    pub chunks: u64,
    /// Directory nodes that were read.
    pub nodes: u64,
    /// The plan.
    pub plan: Totals,
    /// Objects that are condemned: packs, segments, manifests.
    pub condemned_objects: u64,
    /// Their bytes.
    pub condemned_bytes: u64,
    /// Objects that take their place.
    pub written_objects: u64,
    /// Their bytes.
    pub written_bytes: u64,
    /// Bytes of all packs once what is condemned is deleted: as planned in a dry run, else what is there.
    pub bytes_after: u64,
    /// The record that condemns; `None` if nothing goes.
    pub record: Option<String>,
    /// How long what is condemned can still come back, in seconds.
    pub grace_secs: u64,
    /// Objects that were deleted, of earlier condemnations mostly.
    pub deleted_objects: u64,
    /// Their bytes.
    pub deleted_bytes: u64,
    /// Objects that were condemned and are needed after all.
    pub spared_objects: u64,
    /// Records that were carried out.
    pub settled: Vec<String>,
    /// What was condemned and waits.
    pub waiting: Vec<Waiting>,
    /// What seals that died left; it goes when it is old enough.
    pub loose: Loose,
    /// How long it took, in seconds.
    pub seconds: f64,
}

pub(super) fn of(context: &Context, facts: &Facts, plan: &Plan, tally: &Tally, goes: &[Line], options: &Options) -> Result<Report> {
    let len = |path: &str| facts.len(context, path).map(|len| len.unwrap_or(0));
    Ok(Report {
        dry_run: options.dry_run,
        snapshots: facts.live.len() as u64,
        forgotten: goes.iter().filter(|line| line.path.starts_with("snaps/")).count() as u64,
        chunks: facts.table.chunks() as u64,
        nodes: tally.nodes,
        plan: plan.totals.clone(),
        condemned_objects: goes.len() as u64,
        condemned_bytes: goes.iter().map(|line| len(&line.path)).sum::<Result<_>>()?,
        written_objects: 0,
        written_bytes: 0,
        bytes_after: plan.totals.bytes_after,
        record: None,
        grace_secs: options.grace_secs,
        deleted_objects: 0,
        deleted_bytes: 0,
        spared_objects: 0,
        settled: Vec::new(),
        waiting: Vec::new(),
        loose: Loose { objects: facts.loose.len() as u64, bytes: facts.loose.iter().map(|path| len(path)).sum::<Result<_>>()? },
        seconds: 0.0,
    })
}

impl Report {
    pub(super) fn written(&mut self, context: &Context, fresh: &[Line]) -> Result<()> {
        self.bytes_after -= self.plan.bytes_written;
        for line in fresh {
            if let Some(key) = Key::parse(&line.path) {
                let len = context.vault.store.stat(&key)?.unwrap_or(0);
                self.written_bytes += len;
                self.bytes_after += if line.path.starts_with("packs/") { len } else { 0 };
            }
        }
        self.written_objects = fresh.len() as u64;
        Ok(())
    }

    pub(super) fn settled(&mut self, settled: Settled) {
        self.deleted_objects = settled.objects;
        self.deleted_bytes = settled.bytes;
        self.spared_objects = settled.spared;
        self.settled = settled.records;
        self.waiting = settled.waiting;
    }
}

/// A forgotten snapshot that can still come back.
#[derive(Clone, Debug, Serialize)]
pub struct Pending {
    /// Id.
    pub id: String,
    /// Sealer and number.
    pub snapshot: String,
    /// When it was sealed, by the sealer's clock; `None` if its manifest cannot be read.
    pub time: Option<String>,
    /// The host that was sealed.
    pub host: Option<String>,
    /// When it was forgotten.
    pub forgotten: String,
    /// Until when it can come back for certain; `None` if no prune has condemned its objects yet.
    pub until: Option<String>,
}

/// What waits.
#[derive(Clone, Debug, Serialize)]
pub struct List {
    /// Forgotten snapshots that can still come back.
    pub snapshots: Vec<Pending>,
    /// What is condemned and not deleted yet.
    pub waiting: Vec<Waiting>,
}

pub(super) fn list(context: &Context, facts: &Facts, waiting: Vec<Waiting>) -> Result<List> {
    let mut due: Vec<(u64, i128)> = Vec::new();
    for condemnation in facts.journal.condemnations.iter().filter(|c| !c.settled) {
        due.push((condemnation.seq, due_ns(context, condemnation)?));
    }
    // What was condemned before it was forgotten (again) does not take it along.
    let until = |forgotten: u64| due.iter().filter(|(seq, _)| *seq >= forgotten).map(|(_, due)| *due).min();
    let forgotten = facts.journal.forgotten.iter().filter(|(_, forgotten)| !forgotten.gone);
    let mut rows: Vec<_> = forgotten.collect();
    rows.sort_by_key(|(_, forgotten)| forgotten.key.clone());
    let owner = &context.reader.owner;
    let manifest = |id: &SnapshotId| {
        let committed = facts.chain.committed.iter().find(|c| c.id == *id)?;
        load_snapshot(context.vault, owner, committed).ok().map(|s| s.manifest)
    };
    let snapshots = rows
        .into_iter()
        .map(|(id, forgotten)| {
            let manifest = manifest(id);
            Pending {
                id: id.to_string(),
                snapshot: forgotten.key.to_string(),
                time: manifest.as_ref().map(|m| sys::utc_text(m.time_ns)),
                host: manifest.map(|m| m.host),
                forgotten: sys::utc_text(forgotten.since_ns),
                until: until(forgotten.seq).map(sys::utc_text),
            }
        })
        .collect();
    Ok(List { snapshots, waiting })
}
