//! What stood where in the snapshots of one host: the first one whole, of every other one what differs from the one before.
//!
//! In order of time, so each object is read once, by all cores; what they find is put together in order. `trees` says what differs.

use std::collections::BTreeMap;

use super::{
    Wanted,
    trees::{Step, Steps, Trees},
};
use crate::{
    error::Result,
    format::Entry,
    ops::{
        look::Look,
        row::{Facet, facets},
    },
    sys::{self, Cancel},
};

/// Threads that compare snapshots.
const THREADS_MAX: usize = 4;
/// Snapshots that are compared before what was found is put together: what they found is in memory.
const PAIRS_MAX: usize = 128;

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
    let trees = Trees::new(look, wanted, cancel);
    let pairs: Vec<(Option<usize>, usize)> =
        std::iter::once(None).chain(among.iter().copied().map(Some)).zip(among.iter().copied()).collect();
    let mut seen = Seen::default();
    for (block, pairs) in pairs.chunks(PAIRS_MAX).enumerate() {
        let compared = sys::in_parallel(pairs, THREADS_MAX, |(old, new)| trees.compare(*old, *new));
        for (n, found) in compared.into_iter().enumerate() {
            let Steps { steps, unreadable, reason } = found?;
            seen.unreadable += unreadable;
            seen.reason = seen.reason.or(reason);
            for step in steps {
                take(look, among, block * PAIRS_MAX + n, step, &mut seen.sightings);
            }
        }
    }
    for sighting in seen.sightings.values_mut() {
        leave(among, among.len(), sighting);
    }
    Ok(seen)
}

/// Takes one step up, found in the snapshot of place `at`.
fn take(look: &Look, among: &[usize], at: usize, step: Step, sightings: &mut BTreeMap<Vec<u8>, Sighting>) {
    let (path, entry) = match step {
        Step::Came(path, entry) => (path, *entry),
        Step::Left(path) => {
            if let Some(sighting) = sightings.get_mut(&path) {
                leave(among, at, sighting);
            }
            return;
        }
        Step::Anew(dir) => {
            let from = [&dir[..], b"/"].concat();
            sightings.range_mut(from.clone()..).take_while(|(path, _)| path.starts_with(&from)).for_each(|(_, s)| leave(among, at, s));
            return;
        }
    };
    match sightings.get_mut(&path) {
        Some(sighting) => {
            leave(among, at, sighting);
            let one_domain = look.line.domain(sighting.last) == look.line.domain(among[at]);
            sighting.versions += usize::from(!is_one_version(&sighting.entry, &entry, one_domain));
            (sighting.entry, sighting.since) = (entry, Some(at));
        }
        None => {
            let n = among[at];
            sightings.insert(path, Sighting { entry, versions: 1, first: n, last: n, count: 0, since: Some(at) });
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

/// Whether two entries of one path are told as one; directories are, whatever is in them.
fn is_one_version(a: &Entry, b: &Entry, one_domain: bool) -> bool {
    let dirs = a.is_dir() && b.is_dir();
    facets(a, b, one_domain).iter().all(|facet| dirs && matches!(facet, Facet::Content | Facet::Time))
}
