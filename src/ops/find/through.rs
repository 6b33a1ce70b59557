//! What stood where in the snapshots of one host: the first one whole, of every other one what differs from the one before.
//!
//! In order of time, so each object is read once, by all cores; what they find is put together in order.

use std::collections::BTreeMap;

use super::Wanted;
use crate::{
    error::{Error, ErrorKind, Result},
    format::Entry,
    ops::{
        look::Look,
        row::{Facet, facets},
    },
    sys::{self, Cancel},
    vault::{Go, Side, walk_changes},
};

/// Threads that compare snapshots.
const THREADS_MAX: usize = 4;

/// A path at which something wanted stood, and the snapshots that have it there.
pub struct Sighting {
    /// The entry, as it was last.
    pub entry: Entry,
    /// How many different ones there were.
    pub versions: usize,
    /// The first snapshot.
    pub first: usize,
    /// The last one.
    pub last: usize,
    /// How many.
    pub count: usize,
    /// It stands there still, since the snapshot of this place among those looked at.
    since: Option<usize>,
}

/// Something wanted came to a path, or left it.
struct Step {
    path: Vec<u8>,
    new: Option<Entry>,
}

/// What a comparison found.
#[derive(Default)]
struct Steps {
    steps: Vec<Step>,
    unreadable: usize,
    reason: Option<String>,
}

/// Everything wanted in the snapshots of one host.
#[derive(Default)]
pub struct Seen {
    /// By path.
    pub sightings: BTreeMap<Vec<u8>, Sighting>,
    /// Directories that could not be read.
    pub unreadable: usize,
    /// Why the first of them.
    pub reason: Option<String>,
}

/// Looks through the snapshots with the numbers `among`, in order, of one host.
pub fn look_through(look: &Look, among: &[usize], wanted: &Wanted, cancel: &Cancel) -> Result<Seen> {
    let pairs: Vec<(Option<usize>, usize)> =
        std::iter::once(None).chain(among.iter().copied().map(Some)).zip(among.iter().copied()).collect();
    let mut seen = Seen::default();
    for (at, steps) in sys::in_parallel(&pairs, THREADS_MAX, |pair| compare(look, *pair, wanted, cancel)).into_iter().enumerate() {
        let steps = steps?;
        seen.unreadable += steps.unreadable;
        seen.reason = seen.reason.or(steps.reason);
        for step in steps.steps {
            take(look, among, at, step, &mut seen.sightings);
        }
    }
    for sighting in seen.sightings.values_mut() {
        leave(among, among.len(), sighting);
    }
    Ok(seen)
}

/// Takes one step up, found in the snapshot of place `at`.
fn take(look: &Look, among: &[usize], at: usize, step: Step, sightings: &mut BTreeMap<Vec<u8>, Sighting>) {
    let Some(entry) = step.new else {
        if let Some(sighting) = sightings.get_mut(&step.path) {
            leave(among, at, sighting);
        }
        return;
    };
    match sightings.get_mut(&step.path) {
        Some(sighting) => {
            leave(among, at, sighting);
            let one_domain = look.line.domain(sighting.last) == look.line.domain(among[at]);
            sighting.versions += usize::from(!is_one_version(&sighting.entry, &entry, one_domain));
            (sighting.entry, sighting.since) = (entry, Some(at));
        }
        None => {
            let n = among[at];
            sightings.insert(step.path, Sighting { entry, versions: 1, first: n, last: n, count: 0, since: Some(at) });
        }
    }
}

/// Notes that the snapshot of place `at` no longer has it like this.
fn leave(among: &[usize], at: usize, sighting: &mut Sighting) {
    if let Some(since) = sighting.since.take() {
        sighting.count += at - since;
        sighting.last = among[at - 1];
    }
}

/// What of what is wanted comes and goes from one snapshot to the next; everything, if there is no one before.
fn compare(look: &Look, (old, new): (Option<usize>, usize), wanted: &Wanted, cancel: &Cancel) -> Result<Steps> {
    let mut found = Steps::default();
    let new_side = look.side(new);
    let old_side = old.map_or_else(|| new_side.clone(), |old| look.side(old));
    let sides: (&Side, &Side) = (&old_side, &new_side);
    let mut unreadable = |e: Error| match e.kind() {
        ErrorKind::Corrupt | ErrorKind::Missing => {
            found.unreadable += 1;
            found.reason.get_or_insert_with(|| e.chain());
            Ok(())
        }
        _ => Err(e),
    };
    let steps = &mut found.steps;
    walk_changes(
        &look.dirs,
        sides,
        (old.map(|_| old_side.root), Some(new_side.root)),
        |path, pair| {
            cancel.check()?;
            let above = &path[..path.iter().rposition(|b| *b == b'/').unwrap_or(0)];
            let is_wanted = |entry: &Entry| wanted.is(above, entry);
            let new = pair.new.as_ref().map(|held| held.entry()).filter(|entry| is_wanted(entry));
            if new.is_some() || pair.old.as_ref().is_some_and(|held| is_wanted(held.entry())) {
                steps.push(Step { path: path.to_vec(), new: new.cloned() });
            }
            Ok(Go::In)
        },
        |_, e| unreadable(e),
    )?;
    Ok(found)
}

/// Whether two entries of one path are told as one; directories are, whatever is in them.
fn is_one_version(a: &Entry, b: &Entry, one_domain: bool) -> bool {
    let dirs = a.is_dir() && b.is_dir();
    facets(a, b, one_domain).iter().all(|facet| dirs && matches!(facet, Facet::Content | Facet::Time))
}
