//! Settling: condemnations that are due are carried out. The only place in coffre that deletes objects of a vault.
//!
//! First what is about to go is written down, then the journal is read once more: whoever finds that another record came looks at everything
//! anew. So of two owners at work at once, one knows what the other deletes. What is spared is written down last, if it is still there.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::{
    error::{Error, ErrorKind, Result},
    event::Event,
    format::{Decision, Digest, Digester, Line, SnapshotId},
    ops::prune::{
        Context, Options,
        facts::{Facts, root},
        mark::mark,
        table::Holds,
        wait::{Waiting, clock_is_wrong, due_ns, reasons},
    },
    store::{Key, Store},
    sys,
    vault::{Committed, Condemnation, Journal, load_snapshot},
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
    /// What a dry run found that it would spare.
    pub would_spare: BTreeSet<String>,
    /// Whether the facts must be gathered anew before anything else is decided.
    pub is_stale: bool,
}

/// One condemnation with what of it is to be deleted.
struct Due<'a> {
    condemnation: &'a Condemnation,
    lines: Vec<Line>,
    /// What of it stays.
    spared: Vec<Line>,
}

/// What settling does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// It deletes what is due.
    Delete,
    /// It finds out what it would spare.
    Plan,
    /// It tells what waits.
    Look,
}

/// Deletes what is due, and adds it up in `settled`; `facts` are marked from all wanted snapshots.
///
/// # Errors
/// `Conflict` if a decision was written meanwhile; nothing was deleted, and it is to be done anew.
pub fn run(context: &Context, facts: &Facts, options: &Options, how: How, settled: &mut Settled) -> Result<()> {
    settle(context, facts, options.shorten.then_some(options.grace_secs), options.force, how, settled)
}

/// Tells what waits.
pub fn look(context: &Context, facts: &Facts) -> Result<Settled> {
    let mut settled = Settled::default();
    settle(context, facts, None, false, How::Look, &mut settled)?;
    Ok(settled)
}

fn settle(context: &Context, facts: &Facts, grace_max: Option<u64>, force: bool, how: How, settled: &mut Settled) -> Result<()> {
    settled.waiting.clear();
    settled.is_stale = false;
    let wanted = needed(facts, &[]);
    let mut due = Vec::new();
    let now_ns = context.clock.now_ns();
    let clock = if force { None } else { clock_is_wrong(context, facts, now_ns)? };
    for condemnation in &facts.journal.condemnations {
        let mut lines = facts.journal.condemned(context.vault, condemnation)?;
        if condemnation.settled {
            // What is there all the same came from a copy of the vault.
            lines.retain(|line| facts.condemned.contains_key(&line.path) && !line.path.starts_with("snaps/"));
            if lines.is_empty() {
                continue;
            }
        }
        let mut reasons = reasons(context, facts, condemnation, now_ns, grace_max, force)?;
        reasons.extend(clock.clone().filter(|_| reasons.is_empty()));
        let is_due = reasons.is_empty();
        if is_due && how == How::Delete {
            due.push(Due { condemnation, lines, spared: Vec::new() });
            continue;
        }
        let (stays, goes): (Vec<&Line>, Vec<&Line>) = lines.iter().partition(|line| wanted.contains(&line.path));
        let lens: Vec<u64> =
            goes.iter().map(|line| facts.len(context, &line.path)).collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();
        let due_ns = due_ns(context, condemnation)?;
        settled.waiting.push(Waiting {
            record: condemnation.record.clone(),
            since: sys::utc_text(condemnation.time_ns),
            due: sys::utc_text(due_ns),
            due_ns: i64::try_from(due_ns).unwrap_or(i64::MAX),
            objects: lens.len() as u64,
            bytes: lens.iter().sum(),
            wanted: stays.len() as u64,
            reasons,
        });
        if is_due && how == How::Plan {
            due.push(Due { condemnation, lines, spared: Vec::new() });
        }
    }
    if due.is_empty() {
        return Ok(());
    }
    let still = can_come_back(facts, &due);
    mark_too(context, facts, &still)?;
    let needed = needed(facts, &still);
    for due in &mut due {
        let lines = std::mem::take(&mut due.lines);
        (due.spared, due.lines) = lines.into_iter().partition(|line| needed.contains(&line.path));
    }
    if how == How::Plan {
        settled.is_stale = !still.is_empty();
        settled.would_spare = due.into_iter().flat_map(|due| due.spared).map(|line| line.path).collect();
        return Ok(());
    }
    check_fresh(context, facts, &due)?;
    let intent = announce(context, facts, &due)?;
    delete(context, facts, &due, settled)?;
    let mut decisions = Vec::new();
    for line in due.iter().flat_map(|due| &due.spared) {
        // Another owner may have judged otherwise in the meantime.
        if let Some(key) = Key::parse(&line.path)
            && context.vault.store.stat(&key)?.is_some()
        {
            decisions.push(Decision::Spare(line.path.clone()));
            settled.spared += 1;
        }
    }
    settled.is_stale = !decisions.is_empty() || !still.is_empty();
    decisions.extend(due.iter().map(|due| Decision::Settled(due.condemnation.record.clone())));
    decisions.extend(intent.into_iter().chain(ended(context, facts, &due)?).map(Decision::Settled));
    settled.records.extend(due.iter().map(|due| due.condemnation.record.clone()));
    Journal::append(context.vault, &context.reader.owner, now_ns, decisions)?;
    Ok(())
}

/// Forgotten snapshots that were not wanted when some of what is due was condemned, and that can still come back afterwards: forgotten
/// again since, or condemned with a longer grace.
fn can_come_back<'a>(facts: &'a Facts, due: &[Due]) -> Vec<&'a Committed> {
    let newest = due.iter().map(|due| due.condemnation.seq).max().unwrap_or(0);
    let goes =
        |seq: u64, manifest: &str| due.iter().any(|due| seq <= due.condemnation.seq && due.lines.iter().any(|line| line.path == manifest));
    let stays = |c: &&Committed| {
        let forgotten = facts.journal.forgotten.get(&c.id).filter(|f| !f.gone && f.first <= newest);
        forgotten.is_some_and(|f| !goes(f.seq, &c.key.manifest()))
    };
    facts.chain.committed.iter().filter(stays).collect()
}

/// Marks what these snapshots need, as far as it can be read: nobody wants them now, so they stop nothing.
fn mark_too(context: &Context, facts: &Facts, snapshots: &[&Committed]) -> Result<()> {
    for committed in snapshots {
        let marked = load_snapshot(context.vault, &context.reader.owner, committed)
            .and_then(|snapshot| mark(&facts.table, context.reader, vec![root(&snapshot)], context.workers, context.cancel));
        match marked {
            Err(e) if matches!(e.kind(), ErrorKind::Unavailable | ErrorKind::Cancelled) => return Err(e),
            _ => (),
        }
    }
    Ok(())
}

/// Condemned objects that must stay: packs with something live that is nowhere else, the segments that name them, and the manifests of what
/// is wanted or can come back.
fn needed(facts: &Facts, still: &[&Committed]) -> BTreeSet<String> {
    let is_condemned = |path: &str| facts.condemned.contains_key(path);
    let packs: HashSet<Digest> = (0..facts.table.packs.len())
        .filter(|n| facts.table.holds(*n) != Holds::Nothing)
        .map(|n| facts.table.packs[n].digest)
        .filter(|pack| is_condemned(Key::pack(pack).as_str()))
        .collect();
    let segments = facts.segments.iter().filter(|(key, held)| is_condemned(key.as_str()) && held.iter().any(|pack| packs.contains(pack)));
    let segments = segments.map(|(key, _)| key.as_str().to_owned());
    let manifests = facts.live.iter().map(|s| s.key.manifest()).chain(still.iter().map(|c| c.key.manifest()));
    packs.iter().map(|pack| Key::pack(pack).as_str().to_owned()).chain(segments).chain(manifests).collect()
}

/// Deletions that died, and of which nothing is left to do after this.
fn ended(context: &Context, facts: &Facts, due: &[Due]) -> Result<Vec<String>> {
    let done: HashSet<&str> = due.iter().flat_map(|due| due.lines.iter().chain(&due.spared)).map(|line| line.path.as_str()).collect();
    let mut ended = Vec::new();
    for deletion in &facts.journal.deletions {
        let lines = facts.journal.going(context.vault, deletion)?;
        if lines.iter().all(|line| done.contains(line.path.as_str()) || !facts.condemned.contains_key(&line.path)) {
            ended.push(deletion.record.clone());
        }
    }
    Ok(ended)
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
    // Another owner may delete it this moment; that is no damage, and everything is looked at anew.
    let len = store.stat(key)?.ok_or_else(|| Error::missing(format!("{key} is not in the vault any more")))?;
    let (mut hash, mut buf, mut at) = (Digester::default(), vec![0; STEP], 0);
    while at < len {
        let n = STEP.min(usize::try_from(len - at).unwrap_or(STEP));
        store.get(key, at, &mut buf[..n])?;
        hash.update(&buf[..n]);
        at += n as u64;
    }
    Ok(hash.finish())
}

/// Writes down which snapshots cannot come back and what is being deleted, and looks whether anybody decided something in the meantime.
/// Returns the name of the record; `None` if nothing is to be deleted.
fn announce(context: &Context, facts: &Facts, due: &[Due]) -> Result<Option<String>> {
    let mut lines: Vec<Line> = due.iter().flat_map(|due| due.lines.clone()).collect();
    lines.sort_by(|a, b| a.path.cmp(&b.path));
    lines.dedup();
    if lines.is_empty() {
        return Ok(None);
    }
    let paths: HashSet<&str> = lines.iter().map(|line| line.path.as_str()).collect();
    let is_going = |id: &SnapshotId| facts.journal.forgotten.get(id).is_some_and(|forgotten| !forgotten.gone);
    let going = facts.chain.committed.iter().filter(|c| is_going(&c.id) && paths.contains(c.key.manifest().as_str()));
    let mut decisions: Vec<Decision> = going.map(|c| Decision::Gone(c.key.clone(), c.id)).collect();
    decisions.push(Decision::Delete(Journal::put_list(context.vault, lines)?));
    let own = Journal::append(context.vault, &context.reader.owner, context.clock.now_ns(), decisions)?;
    context.vault.store.refresh();
    let after = Journal::load(context.vault, Some(&context.reader.owner.sign.public()))?;
    match after.records.iter().find(|name| **name != own && !facts.journal.records.contains(*name)) {
        Some(name) => Err(Error::conflict(format!("nothing was deleted: another owner wrote gc/{name}.txt in the meantime"))
            .hint("run the same command again: it plans anew")),
        None => Ok(Some(own)),
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
            context.vault.delete(&key).map_err(|e| match e.kind() {
                ErrorKind::Unavailable | ErrorKind::Cancelled => e,
                _ => {
                    e.hint("what is left is condemned, and nothing wanted needs it: it goes with the next prune by somebody who may delete")
                }
            })?;
            settled.objects += 1;
            settled.bytes += len;
        }
    }
    if settled.objects > 0 {
        context.sink.send(Event::Note(format!("deleted {} objects", settled.objects)));
    }
    Ok(())
}
