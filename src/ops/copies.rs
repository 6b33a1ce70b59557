//! Copies: how far each known copy is behind the vault, how much of it was read lately, and whether it is whole. Needs no key.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde::Serialize;

use crate::{
    catalog::{ProofDepth, Proofs},
    error::{Error, ErrorKind, Result},
    event::Sink,
    format::SnapshotKey,
    ops::{
        copy,
        repair::{self, Repaired, Scope},
        verify::{self, Depth, Extent},
    },
    store::{Key, Store},
    sys::{self, Cancel, Clock},
    vault::{Checked, Finding, KnownCopy, StateDir, Trouble, Vault},
};

/// The name of the vault itself among its copies.
pub const VAULT: &str = "vault";
/// What was read within this time was read lately, in seconds: 30 days.
const LATELY_SECS: u64 = 30 * 86_400;

/// A place where a copy is, or the vault.
pub struct Place {
    /// What this host knows of it.
    pub known: KnownCopy,
    /// Its store.
    pub store: Arc<dyn Store>,
}

/// What looking at copies works with.
pub struct Context<'a> {
    /// The vault.
    pub vault: &'a Vault,
    /// Its copies.
    pub copies: &'a [Place],
    /// This host's memory.
    pub state: &'a StateDir,
    /// Time.
    pub clock: &'a dyn Clock,
    /// Where events go.
    pub sink: &'a dyn Sink,
    /// Stops the work.
    pub cancel: &'a Cancel,
}

/// A copy at a glance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Row {
    /// What it is called.
    pub name: String,
    /// Where it is.
    pub place: String,
    /// Why nothing more is known: it cannot be reached, or is no copy of this vault.
    pub error: Option<String>,
    /// Snapshots in it.
    pub snapshots: u64,
    /// Snapshots that the vault has and it has not.
    pub snapshots_lacking: u64,
    /// Snapshots that it has and the vault has lost.
    pub snapshots_ahead: u64,
    /// Objects that the vault has and it has not.
    pub objects_lacking: u64,
    /// Bytes of those.
    pub bytes_lacking: u64,
    /// How long ago the oldest snapshot came into the vault that it has not, in seconds; `None` if it has all, or nobody can tell.
    pub behind_secs: Option<u64>,
    /// When it was last checked.
    pub checked: Option<String>,
    /// What was wrong then.
    pub findings: Option<u64>,
    /// Packs in it.
    pub packs: u64,
    /// Those of them that this host has read and found whole, ever.
    pub packs_read: u64,
    /// The same within 30 days.
    pub packs_read_lately: u64,
}

/// Looks at the vault and each of its copies. A copy that cannot be reached is a row that says so.
///
/// Cost: listings of everything, and the receipts that a copy lacks.
pub fn list(context: &Context) -> Result<Vec<Row>> {
    let ledger = Proofs::load(&context.state.catalog())?;
    let now = now_secs(context.clock);
    let mut rows = Vec::new();
    for place in context.copies {
        context.cancel.check()?;
        let mut row = Row {
            name: place.known.name.clone(),
            place: place.known.place.clone(),
            checked: place.known.checked.map(|c| sys::utc_text(i128::from(c.secs) * 1_000_000_000)),
            findings: place.known.checked.map(|c| c.findings),
            ..Row::default()
        };
        match fill(context, place, (&ledger, now), &mut row) {
            Err(e) if e.kind() == ErrorKind::Cancelled => return Err(e),
            Err(e) => row.error = Some(e.chain()),
            Ok(()) => (),
        }
        rows.push(row);
    }
    Ok(rows)
}

/// Places of all snapshots that have a signature.
fn signed(store: &Arc<dyn Store>) -> Result<BTreeSet<SnapshotKey>> {
    let mut signed = BTreeSet::new();
    store.list("snaps", &mut |key, _| {
        signed.extend(SnapshotKey::parse(key.as_str()).filter(|(_, suffix)| *suffix == "b3.sig").map(|(place, _)| place));
        Ok(())
    })?;
    Ok(signed)
}

fn fill(context: &Context, place: &Place, ledger: (&Proofs, u64), row: &mut Row) -> Result<()> {
    same_vault(context.vault, &place.store)?;
    let (ledger, now) = ledger;
    let signed = signed(&place.store)?;
    row.snapshots = signed.len() as u64;
    let name = place.store.describe();
    place.store.list("packs", &mut |key, _| {
        if let Some(pack) = key.digest() {
            let last = ledger.last(&name, &pack, ProofDepth::Pack, now);
            row.packs += 1;
            row.packs_read += u64::from(last.is_some());
            row.packs_read_lately += u64::from(last.is_some_and(|secs| secs.saturating_add(LATELY_SECS) >= now));
        }
        Ok(())
    })?;
    if place.known.name == VAULT {
        return Ok(());
    }
    // Signatures are never deleted, whatever is forgotten.
    row.snapshots_ahead = signed.difference(&self::signed(&context.vault.store)?).count() as u64;
    let (from, to) = (&context.vault.store, &place.store);
    let look = copy::Context { from, to, clock: context.clock, sink: context.sink, cancel: context.cancel, workers: 1 };
    let lacking = copy::run(&look, &copy::Options { dry_run: true, ..copy::Options::default() })?;
    (row.snapshots_lacking, row.objects_lacking, row.bytes_lacking) = (lacking.snapshots, lacking.objects, lacking.bytes);
    // Each sealer's first one that is lacking came before its others.
    let mut first: BTreeMap<&str, &SnapshotKey> = BTreeMap::new();
    for snapshot in &lacking.lacking {
        let earliest = first.entry(&snapshot.sealer).or_insert(snapshot);
        *earliest = snapshot.min(*earliest);
    }
    for snapshot in first.into_values() {
        if let Some(ns) = context.vault.store.stored_ns(&Key::signature(snapshot))? {
            let behind = now.saturating_sub(u64::try_from(ns / 1_000_000_000).unwrap_or(0));
            row.behind_secs = row.behind_secs.max(Some(behind));
        }
    }
    Ok(())
}

/// Fails unless a copy of this vault is in `store`.
///
/// # Errors
/// `NoVault` if there is none, `Conflict` if it is another one.
pub fn same_vault(vault: &Vault, store: &Arc<dyn Store>) -> Result<()> {
    let there = Vault::open(store.clone())?;
    match there.config.id == vault.config.id {
        true => Ok(()),
        false => Err(Error::conflict(format!("{} holds another vault: {}, not {}", store.describe(), there.config.id, vault.config.id))),
    }
}

/// How to check.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How deep: at most `Depth::Packs`, as that needs no key.
    pub depth: Depth,
    /// How much of the packs.
    pub extent: Extent,
    /// Put right first what can be, each from all the others.
    pub repair: bool,
}

/// What a check of one copy found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct CheckRow {
    /// What it is called.
    pub name: String,
    /// Where it is.
    pub place: String,
    /// Why it was not checked.
    pub error: Option<String>,
    /// Snapshots in it.
    pub snapshots: u64,
    /// Objects looked at.
    pub objects: u64,
    /// Packs in it, and those that were read now and are whole.
    pub packs: u64,
    /// See `packs`.
    pub packs_read: u64,
    /// Bytes read.
    pub bytes: u64,
    /// What was put right.
    pub repaired: Vec<Repaired>,
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// How long it took.
    pub seconds: f64,
}

/// Checks the vault and its copies, one after the other, and notes in the state directory what was found.
pub fn check(context: &Context, options: &Options, wanted: impl Fn(&str) -> bool) -> Result<Vec<CheckRow>> {
    let mut rows = Vec::new();
    for place in context.copies.iter().filter(|place| wanted(&place.known.name)) {
        let mut row = CheckRow { name: place.known.name.clone(), place: place.known.place.clone(), ..CheckRow::default() };
        match check_one(context, options, place, &mut row) {
            Err(e) if e.kind() == ErrorKind::Cancelled => return Err(e),
            Err(e) => row.error = Some(e.chain()),
            Ok(()) => note(context, &row)?,
        }
        rows.push(row);
    }
    Ok(rows)
}

fn check_one(context: &Context, options: &Options, place: &Place, row: &mut CheckRow) -> Result<()> {
    let mut known = Vec::new();
    if options.repair {
        let others: Vec<Arc<dyn Store>> =
            context.copies.iter().filter(|other| other.known.name != place.known.name).map(|other| other.store.clone()).collect();
        // One that cannot be reached is no help, and keeps nobody from being helped by the others.
        let others: Vec<Arc<dyn Store>> = others.into_iter().filter(|other| same_vault(context.vault, other).is_ok()).collect();
        let owner = context.state.pinned_owner()?;
        let work = repair::Context {
            store: place.store.clone(),
            from: &others,
            owner,
            clock: context.clock,
            sink: context.sink,
            cancel: context.cancel,
            workers: sys::available_cores(),
        };
        let done = repair::run(&work, &Scope::Everything)?;
        (row.repaired, known) = (done.repaired, done.lost);
    }
    same_vault(context.vault, &place.store)?;
    let vault = Vault::open(place.store.clone())?;
    let work = verify::Context {
        vault: &vault,
        reader: None,
        state: context.state,
        expect: &[],
        clock: context.clock,
        sink: context.sink,
        cancel: context.cancel,
        workers: sys::available_cores(),
    };
    let report = verify::run_some(&work, options.depth, options.extent, known)?;
    row.findings = report.damage;
    if place.known.name != VAULT {
        // That a copy is behind is told by `list`; it is no rollback.
        row.findings.retain(|finding| finding.kind != Trouble::RolledBack);
    }
    (row.snapshots, row.objects, row.bytes) = (report.snapshots, report.objects, report.bytes);
    (row.packs, row.packs_read, row.seconds) = (report.packs, report.packs_read, report.seconds);
    Ok(())
}

/// Remembers what was found. The vault itself is no copy of itself, and nothing is noted of it but what the ledger has.
fn note(context: &Context, row: &CheckRow) -> Result<()> {
    let mut copies = context.state.copies()?;
    if let Some(copy) = copies.iter_mut().find(|copy| copy.name == row.name && copy.place == row.place) {
        copy.checked = Some(Checked { secs: now_secs(context.clock), findings: row.findings.len() as u64 });
        context.state.keep_copies(&copies)?;
    }
    Ok(())
}

fn now_secs(clock: &dyn Clock) -> u64 {
    u64::try_from(clock.now_ns() / 1_000_000_000).unwrap_or(0)
}
