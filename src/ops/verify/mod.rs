//! Verify: is everything there, is it what it was, does it open. Three depths, each including those before.
//!
//! `snapshots`: signatures, chains, every named object there. `packs`: every object read and held against its name; no
//! owner's key needed. `chunks`: everything decrypted, decompressed, every id and every tree checked.

mod beside;
mod chain;
mod chunks;
mod extent;
mod held;
mod objects;
mod pruned;

pub(in crate::ops) use objects::listed;
pub(in crate::ops) use pruned::Pruned;

use beside::Beside;
pub(in crate::ops) use beside::{check as check_sidecar, check_signatures, find as find_beside};
pub use extent::{Extent, Sample};

use std::collections::{BTreeSet, HashSet};

use serde::Serialize;

use crate::{
    error::{Error, Result},
    event::{Event, HowFar, Sink},
    format::{Digest, SnapshotId},
    ops::{chain::taken_away, repair::Repaired},
    store::Key,
    sys::{self, Cancel, Clock},
    vault::{Chain, Expected, Finding, Reader, StateDir, Vault, load_snapshot, settle},
};

/// How much to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Depth {
    /// Receipts, and that every object is there.
    Snapshots,
    /// Every object read.
    Packs,
    /// Every chunk and tree decoded.
    Chunks,
}

/// A file that cannot be read whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DamagedFile {
    /// Snapshot id.
    pub snapshot: String,
    /// Path in the snapshot.
    pub path: String,
    /// What is wrong.
    pub text: String,
}

/// What was found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// How deep.
    pub depth: Depth,
    /// Committed snapshots.
    pub snapshots: u64,
    /// Objects looked at.
    pub objects: u64,
    /// Packs that are there, and those of them that were read and are whole, where packs were read.
    pub packs: u64,
    /// See `packs`.
    pub packs_read: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Chunks checked.
    pub chunks: u64,
    /// Objects that no receipt names: left by seals that never finished, taken over by the next one.
    pub unreferenced: u64,
    /// Snapshots that do not follow from one another, though nothing is missing: two machines seal under one name.
    pub forks: Vec<Finding>,
    /// Snapshots that this host remembered when it last sealed and that were gone by then; until `coffre head --accept`.
    pub lost: Vec<Finding>,
    /// What is worth a word, and nothing wrong by itself.
    pub notices: Vec<Finding>,
    /// Objects that were damaged and are whole again.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub repaired: Vec<Repaired>,
    /// Damage and tampering, by object.
    pub damage: Vec<Finding>,
    /// Files that the damage reaches; only known where an owner's key was given.
    pub damaged_files: Vec<DamagedFile>,
    /// More such files, not listed.
    pub damaged_files_more: u64,
    /// How long it took.
    pub seconds: f64,
}

impl Report {
    /// How many objects are damaged or missing.
    pub fn damaged_objects(&self) -> usize {
        self.damage.iter().filter(|f| f.kind.is_damage()).map(|f| &f.object).collect::<std::collections::BTreeSet<_>>().len()
    }

    /// Whether nothing is wrong. A fork whose branches all count is a thing to look into, and no fault of the vault: two users of
    /// one machine make one, too.
    pub fn is_clean(&self) -> bool {
        self.damage.is_empty() && self.damaged_files.is_empty() && self.lost.is_empty()
    }
}

/// What a verify works with.
pub struct Context<'a> {
    /// The vault.
    pub vault: &'a Vault,
    /// Its content, if an owner's key was given; needed for `Depth::Chunks`.
    pub reader: Option<&'a Reader>,
    /// This host's memory of the vault, to notice a rollback.
    pub state: &'a StateDir,
    /// Snapshots that must be there: heads that somebody wrote down elsewhere.
    pub expect: &'a [Expected],
    /// Time.
    pub clock: &'a dyn Clock,
    /// Where events go.
    pub sink: &'a dyn Sink,
    /// Stops the work.
    pub cancel: &'a Cancel,
    /// Threads.
    pub workers: usize,
}

impl Context<'_> {
    /// The owner's public key: that of the keys that opened the vault, or the one that this host knows.
    fn owner(&self) -> Result<Option<String>> {
        match self.reader {
            Some(reader) => Ok(Some(reader.owner.sign.public())),
            None => self.state.pinned_owner(),
        }
    }

    /// Tells how far the work is that began at `began` of the monotonic clock.
    fn told(&self, began: std::time::Duration, entries: u64, bytes: u64, total: u64) {
        let elapsed_ms = u64::try_from((self.clock.monotonic() - began).as_millis()).unwrap_or(u64::MAX);
        let how_far = HowFar { elapsed_ms, entries, bytes, bytes_total: Some(total), bytes_read: bytes, current: None };
        self.sink.send(Event::Progress(how_far));
    }
}

/// Most damaged files listed one by one.
const DAMAGED_FILES_MAX: usize = 10_000;

/// Verifies. Damage is in the report, not an error.
pub fn run(context: &Context, depth: Depth) -> Result<Report> {
    run_knowing(context, depth, Vec::new())
}

/// The same, where some damage is known already: it is reported, and followed to the files.
pub fn run_knowing(context: &Context, depth: Depth, known: Vec<Finding>) -> Result<Report> {
    run_some(context, depth, Extent::default(), known)
}

/// The same for a part of the packs. What is read and whole is noted in this host's proof ledger.
pub fn run_some(context: &Context, depth: Depth, extent: Extent, known: Vec<Finding>) -> Result<Report> {
    let began = context.clock.monotonic();
    let mut report = Report {
        depth,
        snapshots: 0,
        objects: 0,
        packs: 0,
        packs_read: 0,
        bytes: 0,
        chunks: 0,
        unreferenced: 0,
        forks: Vec::new(),
        lost: Vec::new(),
        notices: Vec::new(),
        repaired: Vec::new(),
        damage: known,
        damaged_files: Vec::new(),
        damaged_files_more: 0,
        seconds: 0.0,
    };
    let (chain, signers) = chain::walk(context, &mut report)?;
    // After the chain: what a receipt names and is gone by now was condemned by now.
    let owner = context.owner()?;
    let pruned = Pruned::load(context.vault, owner.as_deref(), &mut report.damage)?;
    let taken = taken_away(context.vault, &chain, &report.damage, |id| pruned.is_forgotten(id))?;
    report.notices.retain(|notice| taken.iter().all(|f| f.object != notice.object));
    report.damage.extend(taken);
    report.damage.extend(pruned.taken_away(&chain, &context.vault.store.describe(), Some(context.state))?);
    report.snapshots -= chain.committed.iter().filter(|committed| pruned.is_forgotten(&committed.id)).count() as u64;
    let mut listed = objects::listed(&chain);
    let mut waiting = pruned.apply(&mut listed);
    if let Some(id) = extent.snapshot {
        let packs = packs_of(context, &chain, &id)?;
        waiting.clear();
        listed.retain(|key, _| !key.as_str().starts_with("packs/") || key.digest().is_some_and(|pack| packs.contains(&pack)));
    }
    objects::present(context, &listed, &pruned, &mut report)?;
    let mut read = None;
    if depth >= Depth::Packs {
        let mut all = listed.clone();
        all.extend(waiting);
        let mut beside = Beside::default();
        if context.vault.config.parity > 0 {
            beside = beside::find(&*context.vault.store, &all)?;
            all.append(&mut beside.copies);
            let copies = beside::check_signatures(&*context.vault.store, &listed, &report.damage, context.cancel)?;
            report.damage.extend(copies);
        }
        let sizes = objects::sizes(context, &all)?;
        let chosen = extent::choose(context, extent, depth, &sizes)?;
        let whole = objects::reread(context, &all, &sizes, &beside.sidecars, &chosen, &mut report)?;
        report.packs = sizes.keys().filter(|key| key.as_str().starts_with("packs/")).count() as u64;
        report.packs_read = whole.len() as u64;
        read = Some((chosen, whole));
    }
    if let Some(reader) = context.reader {
        let decoded = read.as_ref().filter(|_| extent != Extent::default()).map(|(_, whole)| whole.iter().copied().collect());
        chunks::run(context, reader, &chain, &listed, &pruned, (depth, decoded.as_ref(), extent.snapshot), &mut report)?;
    }
    if let Some((mut chosen, whole)) = read {
        let hurt: BTreeSet<&str> = report.damage.iter().map(|f| f.object.as_str()).collect();
        chosen.note(context, depth, whole.into_iter().filter(|pack| !hurt.contains(Key::pack(pack).as_str())));
    }
    held::check(context, &chain, &mut report)?;
    if !report.is_clean() {
        // A prune may have gone on meanwhile.
        let pruned = Pruned::load(context.vault, owner.as_deref(), &mut Vec::new())?;
        pruned.excuse(&mut report.damage);
        pruned.excuse_files(&mut report.damaged_files);
    }
    settle(&mut report.damage);
    if report.is_clean() && report.forks.is_empty() {
        chain::remember(context, &chain, signers, &pruned.newest());
    }
    report.seconds = (context.clock.monotonic() - began).as_secs_f64();
    Ok(report)
}

/// Objects of a vault on a server that are read at once, 1 MiB of each: while one waits for its answer, others fill the line.
const WORKERS_FAR: usize = 8;

/// The packs that a snapshot needs.
fn packs_of(context: &Context, chain: &Chain, id: &SnapshotId) -> Result<HashSet<Digest>> {
    let reader = context.reader.ok_or_else(|| {
        Error::usage("what a snapshot needs, only an owner's key tells")
            .hint("give it, or leave --snapshot out: every pack is checked then")
    })?;
    let committed = chain.committed.iter().find(|c| c.id == *id);
    let committed = committed.ok_or_else(|| Error::not_found(format!("no snapshot {} counts in this vault", id.short())))?;
    chunks::packs_of(context, reader, &load_snapshot(context.vault, &reader.owner, committed)?)
}

/// Runs `work` on every item, on several threads; stops early when the person wants to.
fn in_parallel<T: Sync>(context: &Context, items: &[T], work: impl Fn(&T) -> Result<()> + Sync) -> Result<()> {
    use std::sync::atomic::{AtomicUsize, Ordering};
    let next = AtomicUsize::new(0);
    let workers = if context.vault.store.is_far() { context.workers.max(WORKERS_FAR) } else { context.workers };
    sys::share(workers.clamp(1, items.len().max(1)), || {
        while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
            context.cancel.check()?;
            work(item)?;
        }
        Ok(())
    })
}
