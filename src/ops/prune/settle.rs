//! Settling: condemnations that are due are carried out. The only place in coffre that deletes objects of a vault.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::{
    error::{Error, Result},
    event::Event,
    format::{Decision, Digest, Digester, Line, SnapshotKey},
    ops::prune::{
        Context, Options,
        facts::Facts,
        table::Holds,
        wait::{Waiting, reasons},
    },
    store::{Key, Store},
    sys,
    vault::{Condemnation, Journal},
};

/// Bytes read at once when what takes the place of something is looked at once more.
const STEP: usize = 1 << 20;

/// What was carried out, and what waits.
#[derive(Default)]
pub struct Settled {
    /// Records that were carried out.
    pub records: Vec<String>,
    /// Objects that were deleted.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Objects that were condemned and are needed after all.
    pub spared: u64,
    /// What could not be carried out yet.
    pub waiting: Vec<Waiting>,
}

/// One condemnation with what of it is to be deleted.
struct Due<'a> {
    condemnation: &'a Condemnation,
    lines: Vec<Line>,
}

/// Deletes what is due; `facts` are marked from all wanted snapshots. With `only_look`, tells what waits and changes nothing.
///
/// # Errors
/// `Conflict` if a snapshot was brought back meanwhile; nothing was deleted, and the next prune takes it into account.
pub fn run(context: &Context, facts: &Facts, options: &Options, only_look: bool) -> Result<Settled> {
    settle(context, facts, options.shorten.then_some(options.grace_secs), options.force, only_look)
}

/// Tells what waits.
pub fn look(context: &Context, facts: &Facts) -> Result<Settled> {
    settle(context, facts, None, false, true)
}

fn settle(context: &Context, facts: &Facts, grace_max: Option<u64>, force: bool, only_look: bool) -> Result<Settled> {
    let (mut settled, mut due) = (Settled::default(), Vec::new());
    let now_ns = context.clock.now_ns();
    for condemnation in &facts.journal.condemnations {
        let mut lines = facts.journal.condemned(context.vault, condemnation)?;
        if condemnation.settled {
            // What is there all the same came from a copy of the vault.
            lines.retain(|line| facts.condemned.contains_key(&line.path) && !line.path.starts_with("snaps/"));
            if lines.is_empty() {
                continue;
            }
        }
        let reasons = reasons(context, facts, condemnation, now_ns, grace_max, force)?;
        if !only_look && reasons.is_empty() {
            due.push(Due { condemnation, lines });
            continue;
        }
        let lens: Vec<u64> =
            lines.iter().map(|line| facts.len(context, &line.path)).collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();
        settled.waiting.push(Waiting {
            record: condemnation.record.clone(),
            since: sys::utc_text(condemnation.time_ns),
            due: sys::utc_text(condemnation.due_ns()),
            due_ns: i64::try_from(condemnation.due_ns()).unwrap_or(i64::MAX),
            objects: lens.len() as u64,
            bytes: lens.iter().sum(),
            reasons,
        });
    }
    if due.is_empty() {
        return Ok(settled);
    }
    let spared = needed(facts);
    for due in &mut due {
        // A snapshot that came back needs its manifest.
        let before = due.lines.len();
        due.lines.retain(|line| !spared.contains(&line.path) && !is_wanted_manifest(facts, line));
        settled.spared += (before - due.lines.len()) as u64;
    }
    check_fresh(context, facts, &due)?;
    say_gone(context, facts, &due, &spared)?;
    delete(context, facts, &due, &mut settled)?;
    settled.records = due.iter().map(|due| due.condemnation.record.clone()).collect();
    let decisions = settled.records.iter().map(|record| Decision::Settled(record.clone())).collect();
    Journal::append(context.vault, &context.reader.owner, now_ns, decisions)?;
    Ok(settled)
}

/// Condemned objects that a wanted snapshot needs: packs with something live that is nowhere else, and the segments that name them.
fn needed(facts: &Facts) -> BTreeSet<String> {
    let is_condemned = |path: &str| facts.condemned.contains_key(path);
    let packs: HashSet<Digest> = (0..facts.table.packs.len())
        .filter(|n| facts.table.holds(*n) != Holds::Nothing)
        .map(|n| facts.table.packs[n].digest)
        .filter(|pack| is_condemned(Key::pack(pack).as_str()))
        .collect();
    let segments = facts.segments.iter().filter(|(key, held)| is_condemned(key.as_str()) && held.iter().any(|pack| packs.contains(pack)));
    let segments = segments.map(|(key, _)| key.as_str().to_owned());
    packs.iter().map(|pack| Key::pack(pack).as_str().to_owned()).chain(segments).collect()
}

fn is_wanted_manifest(facts: &Facts, line: &Line) -> bool {
    let Some((key, "age")) = SnapshotKey::parse(&line.path) else { return false };
    facts.live.iter().any(|s| s.key == key)
}

/// Reads what was written in place of what goes, once more: after this there is no other copy in this vault.
fn check_fresh(context: &Context, facts: &Facts, due: &[Due]) -> Result<()> {
    let holds: HashMap<Digest, Holds> = (0..facts.table.packs.len()).map(|n| (facts.table.packs[n].digest, facts.table.holds(n))).collect();
    for due in due {
        for line in facts.journal.fresh(context.vault, due.condemnation)? {
            let Some(key) = Key::parse(&line.path).filter(|key| facts.there.contains_key(key)) else { continue };
            if holds.get(&line.digest).is_some_and(|holds| *holds == Holds::Nothing) || facts.condemned.contains_key(&line.path) {
                continue;
            }
            context.cancel.check()?;
            if hash(&*context.vault.store, &key)? != line.digest {
                return Err(Error::corrupt(format!("{key} is damaged, so what it replaces is not deleted"))
                    .hint("bring it back from a copy of the vault, or coffre undelete what needs it"));
            }
        }
    }
    Ok(())
}

fn hash(store: &dyn Store, key: &Key) -> Result<Digest> {
    let len = store.stat(key)?.unwrap_or(0);
    let (mut hash, mut buf, mut at) = (Digester::default(), vec![0; STEP], 0);
    while at < len {
        let n = STEP.min(usize::try_from(len - at).unwrap_or(STEP));
        store.get(key, at, &mut buf[..n])?;
        hash.update(&buf[..n]);
        at += n as u64;
    }
    Ok(hash.finish())
}

/// Writes down which snapshots cannot come back and what is spared, and looks whether somebody brought one back in the meantime.
fn say_gone(context: &Context, facts: &Facts, due: &[Due], spared: &BTreeSet<String>) -> Result<()> {
    let paths: HashSet<&str> = due.iter().flat_map(|due| &due.lines).map(|line| line.path.as_str()).collect();
    let going: Vec<_> = facts.chain.committed.iter().filter(|c| paths.contains(c.key.manifest().as_str())).collect();
    let gone = going.iter().filter(|c| !facts.journal.is_gone(&c.id)).map(|c| Decision::Gone(c.key.clone(), c.id));
    let mut decisions: Vec<Decision> = gone.chain(spared.iter().map(|path| Decision::Spare(path.clone()))).collect();
    let wanted = facts.live.iter().map(|s| s.key.manifest()).filter(|path| facts.condemned.contains_key(path));
    decisions.extend(wanted.map(Decision::Spare));
    if !decisions.is_empty() {
        Journal::append(context.vault, &context.reader.owner, context.clock.now_ns(), decisions)?;
    }
    let after = Journal::load(context.vault, Some(&context.reader.owner.sign.public()))?;
    let back = |forgotten: &&crate::format::SnapshotId| !after.is_forgotten(forgotten);
    match facts.journal.forgotten.keys().find(back) {
        Some(id) => Err(Error::conflict(format!("snapshot {} was brought back meanwhile; nothing was deleted", id.short()))
            .hint("run the same command again: it plans anew")),
        None => Ok(()),
    }
}

/// Manifests first, then segments, then packs: whoever opens the vault meanwhile is not led to what goes.
fn delete(context: &Context, facts: &Facts, due: &[Due], settled: &mut Settled) -> Result<()> {
    let mut lines: Vec<&Line> = due.iter().flat_map(|due| &due.lines).collect();
    lines.sort_by_key(|line| (!line.path.starts_with("snaps/"), &line.path));
    lines.dedup();
    for line in lines {
        context.cancel.check()?;
        let Some(key) = Key::parse(&line.path) else { continue };
        if let Some(len) = facts.len(context, &line.path)? {
            context.vault.delete(&key)?;
            settled.objects += 1;
            settled.bytes += len;
        }
    }
    if settled.objects > 0 {
        context.sink.send(Event::Note(format!("deleted {} objects", settled.objects)));
    }
    Ok(())
}
