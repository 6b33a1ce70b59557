//! Prune: frees what no wanted snapshot needs, in two phases with a grace between them (docs/FORMAT.md section 7.1).
//!
//! gather → settle what is due → mark → plan → compact → condemn. Only `settle` deletes what somebody may know of, and only what a signed
//! record condemned. Whoever is interrupted begins again: what was written and not signed is loose, and goes later.

mod compact;
mod condemn;
mod estimate;
mod facts;
mod mark;
mod plan;
mod report;
mod settle;
mod table;
mod wait;

use std::{collections::BTreeSet, time::Duration};

pub use mark::{Item, Need, Tally, Trees, mark};
pub use plan::{Fate, Limits, Plan, Totals, plan};
pub use report::{List, Loose, Pending, Report};
pub use table::{Holds, Marked, Pack, Rank, Table, TableBuilder};
pub use wait::Waiting;

use crate::{
    error::{ErrorKind, Result},
    event::{Event, Sink},
    format::{Decision, Digest, Line, PACK_LEN_META_MAX},
    sys::{Cancel, Clock},
    vault::{Journal, Reader, Vault},
};

use facts::Facts;
use plan::in_place;
use settle::{How, Settled};

/// Least time for which a loose object is left alone, in ns: a seal may be about to name it.
const LOOSE_NS: i128 = 86_400_000_000_000;

/// How to prune.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Most of what is left that may be dead, in parts of 1,000.
    pub max_unused_permille: u64,
    /// Most bytes of content packs that are read to be written anew.
    pub max_rewrite: Option<u64>,
    /// Whether small packs become larger ones.
    pub repack_small: bool,
    /// How long what is condemned can still come back, in seconds.
    pub grace_secs: u64,
    /// Whether that also holds for what was condemned before, with a longer grace.
    pub shorten: bool,
    /// Plan only.
    pub dry_run: bool,
    /// Do not wait for sealers that do not say that they know.
    pub force: bool,
}

/// What a prune works with.
pub struct Context<'a> {
    /// The vault.
    pub vault: &'a Vault,
    /// Its content, by an owner's key.
    pub reader: &'a Reader,
    /// Time.
    pub clock: &'a dyn Clock,
    /// Where events go.
    pub sink: &'a dyn Sink,
    /// Stops the work.
    pub cancel: &'a Cancel,
    /// Threads.
    pub workers: usize,
}

/// Writes that were begun longer ago, and are still unfinished, belong to nobody: a day, in ns.
const UNFINISHED_NS: i128 = 86_400_000_000_000;

/// Bytes that are to stay free beside what is written: records, lists, and a file system's own.
const ROOM_SPARE: u64 = 1 << 20;

/// How often it is all done anew because the vault changed under it.
const TRIES_MAX: usize = 6;

/// Prunes: deletes what is due, plans, and condemns. With a grace of nothing, deletes what it condemned if no sealer is in the way.
///
/// # Errors
/// `Corrupt` or `Missing` if a record, receipt, manifest or node cannot be read; `Conflict` if others decided something again and again.
/// Nothing that a wanted snapshot needs is deleted in any case.
pub fn run(context: &Context, options: &Options) -> Result<Report> {
    let began = context.clock.monotonic();
    let mut settled = Settled::default();
    let mut before = None;
    for _ in 1..TRIES_MAX {
        match once(context, options, &mut settled) {
            // Another owner prunes: what was listed a moment ago is gone, or what was planned is out of date. What is damaged fails alike
            // twice.
            Err(e) if matches!(e.kind(), ErrorKind::Missing | ErrorKind::Conflict) && before.as_ref() != Some(&e.chain()) => {
                before = Some(e.chain());
                context.vault.store.refresh();
            }
            result => return finish(context, result?, settled, began),
        }
    }
    let report = once(context, options, &mut settled)?;
    finish(context, report, settled, began)
}

/// Stores what takes the place of what goes. What cannot be stored whole is taken away again.
fn write(context: &Context, facts: &Facts, plan: &Plan, goes: &[Line]) -> Result<Vec<Line>> {
    if goes.is_empty() {
        return Ok(Vec::new());
    }
    let packs = compact::run(context, facts, plan)?;
    let names: Vec<Digest> = packs.iter().map(|(_, pack)| pack.digest).collect();
    condemn::segments(context, facts, goes, packs).inspect_err(|_| compact::take_away(context, names.into_iter()))
}

fn finish(context: &Context, mut report: Report, settled: Settled, began: Duration) -> Result<Report> {
    report.settled(settled);
    report.seconds = (context.clock.monotonic() - began).as_secs_f64();
    Ok(report)
}

fn once(context: &Context, options: &Options, settled: &mut Settled) -> Result<Report> {
    let (mut facts, mut tally) = look(context, &BTreeSet::new())?;
    let how = if options.dry_run { How::Plan } else { How::Delete };
    settle::run(context, &facts, options, how, settled)?;
    if settled.is_stale || !settled.would_spare.is_empty() {
        // What was spared is judged like everything else.
        (facts, tally) = look(context, &settled.would_spare)?;
    }
    let limits = limits(context, options);
    let mut plan = plan(&facts.table, &limits);
    if let Some(text) = lacks_room(context, &facts, &plan)? {
        context.sink.send(Event::Warning(text));
        plan = in_place(&facts.table, &limits);
    }
    let now_ns = context.clock.now_ns();
    let (condemned_loose, noted_loose) = loose(&facts, options, now_ns);
    let mut goes = condemn::goes(&facts, &plan, &condemned_loose, &tally);
    let mut written = if options.dry_run { Ok(Vec::new()) } else { write(context, &facts, &plan, &goes) };
    if written.as_ref().is_err_and(|e| e.kind() == ErrorKind::Full) {
        let text = "no room is left to write packs anew, so only what is wholly dead goes; prune again when that is deleted";
        context.sink.send(Event::Warning(text.to_owned()));
        plan = in_place(&facts.table, &limits);
        goes = condemn::goes(&facts, &plan, &condemned_loose, &tally);
        written = write(context, &facts, &plan, &goes);
    }
    let fresh = written?;
    let mut report = report::of(context, &facts, &plan, &tally, &goes, options)?;
    if !options.dry_run {
        report.written(context, &fresh)?;
        let fresh = fresh.into_iter().chain(condemn::keepers(&facts, &plan)).collect();
        let verdict = condemn::Verdict { goes, fresh };
        let mut decisions = condemn::decisions(context, &verdict, options.grace_secs)?;
        decisions.extend(noted_loose.into_iter().map(Decision::Loose));
        if !decisions.is_empty() {
            let record = Journal::append(context.vault, &context.reader.owner, context.clock.now_ns(), decisions)?;
            report.record = (!verdict.goes.is_empty()).then_some(record);
        }
        // The facts are older than the condemnation: what is condemned is not weak in them. So they are gathered again.
        if options.grace_secs == 0 && report.record.is_some() {
            drop(facts);
            settle_now(context, options, settled)?;
        } else if report.record.is_some() {
            settle::run(context, &Facts { journal: journal(context)?, ..facts }, options, How::Look, settled)?;
        }
        context.vault.store.tidy(now_ns - UNFINISHED_NS)?;
    }
    Ok(report)
}

/// What to say if the store has no room for what the plan writes: it is better not begun. `None` if it has, or cannot tell.
fn lacks_room(context: &Context, facts: &Facts, plan: &Plan) -> Result<Option<String>> {
    let packs = plan.totals.bytes_written;
    if packs == 0 {
        return Ok(None);
    }
    let sidecars = packs * u64::from(context.vault.config.parity) / 100;
    let segments: u64 = facts.segments.iter().filter_map(|(key, _)| facts.there.get(key)).sum();
    let needs = packs + sidecars + 2 * segments + ROOM_SPARE;
    let lacks = context.vault.store.room()?.filter(|free| *free < needs);
    Ok(lacks.map(|free| {
        let mib = |n: u64| n.div_ceil(1 << 20);
        format!(
            "writing packs anew takes up to {} MiB, and {} MiB are free where the vault lies, so only what is wholly dead goes; make room, or write less at a time (--max-rewrite)",
            mib(needs),
            free >> 20
        )
    }))
}

/// Deletes what was condemned a moment ago. What it condemned is condemned, whatever comes between.
fn settle_now(context: &Context, options: &Options, settled: &mut Settled) -> Result<()> {
    let mut before = None;
    for _ in 1..TRIES_MAX {
        match look(context, &BTreeSet::new()).and_then(|(facts, _)| settle::run(context, &facts, options, How::Delete, settled)) {
            Err(e) if matches!(e.kind(), ErrorKind::Missing | ErrorKind::Conflict) && before.as_ref() != Some(&e.chain()) => {
                before = Some(e.chain());
                context.vault.store.refresh();
            }
            result => return result,
        }
    }
    let (facts, _) = look(context, &BTreeSet::new())?;
    settle::run(context, &facts, options, How::Delete, settled)
}

fn journal(context: &Context) -> Result<Journal> {
    Journal::load(context.vault, Some(&context.reader.owner.sign.public()))
}

/// Gathers the facts, and marks what wanted snapshots need. What is `spared` counts as if a record said so.
fn look(context: &Context, spared: &BTreeSet<String>) -> Result<(Facts, Tally)> {
    let mut facts = facts::gather(context, spared)?;
    let tally = mark(&facts.table, context.reader, facts.roots(), context.workers, context.cancel)?;
    if !tally.missing.is_empty() {
        let text =
            format!("{} or more chunks of content are in no pack: coffre verify --depth chunks names the files", tally.missing.len());
        context.sink.send(Event::Warning(text));
    }
    facts.keepers = facts.table.join();
    Ok((facts, tally))
}

fn limits(context: &Context, options: &Options) -> Limits {
    Limits {
        max_unused_permille: options.max_unused_permille,
        max_rewrite: options.max_rewrite,
        repack_small: options.repack_small,
        pack_len: u64::from(context.vault.config.pack_len_max),
        meta_pack_len: u64::from(PACK_LEN_META_MAX),
    }
}

/// Loose objects that were loose before, for long enough, and those that are only noted.
fn loose(facts: &Facts, options: &Options, now_ns: i128) -> (BTreeSet<String>, Vec<String>) {
    let wait = LOOSE_NS.max(i128::from(options.grace_secs) * 1_000_000_000);
    let needed: BTreeSet<String> = (0..facts.table.packs.len())
        .filter(|n| facts.table.holds(*n) != Holds::Nothing)
        .map(|n| crate::store::Key::pack(&facts.table.packs[n].digest).as_str().to_owned())
        .collect();
    let is_old = |path: &&String| facts.journal.loose.get(*path).is_some_and(|since| now_ns >= since + wait);
    let old = facts.loose.iter().filter(|path| !needed.contains(*path)).filter(is_old).cloned().collect();
    let new = facts.loose.iter().filter(|path| !facts.journal.loose.contains_key(*path)).cloned().collect();
    (old, new)
}

/// What waits: forgotten snapshots that can still come back, and what is condemned.
pub fn list(context: &Context) -> Result<List> {
    let mut facts = facts::gather(context, &BTreeSet::new())?;
    if facts.live.iter().any(|s| facts.condemned.contains_key(&s.key.manifest())) {
        // Something came back: what it needs does not wait to be deleted.
        (facts, _) = look(context, &BTreeSet::new())?;
    }
    let settled = settle::look(context, &facts)?;
    report::list(context, &facts, settled.waiting)
}
