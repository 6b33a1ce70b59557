//! A walk through all snapshots of one host at once, in order of paths.
//!
//! A directory, through time, is a list of nodes, each with the snapshots that hold it. Neighbours are compared, so what they have in
//! common is read once; what comes of a directory is its entries that are wanted, and the directories in it, again as such lists.

use std::collections::BTreeMap;

use super::Wanted;
use crate::{
    error::{Error, ErrorKind, Result},
    format::{ChunkId, Content, DIR_DEPTH_MAX, Entry},
    ops::{
        look::Look,
        row::{Facet, facets},
    },
    sys::Cancel,
    vault::{Differing, Held, Side},
};

/// A node that a directory was for a while.
#[derive(Clone, Copy)]
struct Run {
    node: ChunkId,
    /// A snapshot that has it, for its keys.
    first: usize,
    last: usize,
    /// How many snapshots have it.
    count: usize,
}

/// A path at which something wanted stood, and the snapshots that have it there.
pub struct Sighting {
    /// The entry, as it was last.
    pub held: Held,
    /// How many different ones there were.
    pub versions: usize,
    /// The first snapshot.
    pub first: usize,
    /// The last one.
    pub last: usize,
    /// How many.
    pub count: usize,
}

/// What stood at one name.
#[derive(Default)]
struct Name {
    sighting: Option<Sighting>,
    runs: Vec<Run>,
    /// What stands there now, if it is wanted or a directory: in which run of the directory above it began.
    now: Option<Now>,
}

struct Now {
    held: Held,
    since: usize,
    wanted: bool,
}

/// A directory that was looked through: what is yet to be told of it, the next one last.
struct Level {
    names: Vec<(Box<[u8]>, Name)>,
    path_len: usize,
}

/// The walk.
pub struct Walk<'a> {
    look: &'a Look,
    wanted: &'a Wanted,
    levels: Vec<Level>,
    path: Vec<u8>,
    top: Vec<Run>,
    unreadable: usize,
    reason: Option<String>,
}

impl<'a> Walk<'a> {
    /// Walks through the snapshots with the numbers `among`, in order, of one host.
    pub fn new(look: &'a Look, among: &[usize], wanted: &'a Wanted) -> Self {
        let mut top: Vec<Run> = Vec::new();
        for n in among {
            let node = look.line.snapshot(*n).manifest.root;
            match top.last_mut() {
                Some(run) if run.node == node => (run.last, run.count) = (*n, run.count + 1),
                _ => top.push(Run { node, first: *n, last: *n, count: 1 }),
            }
        }
        Self { look, wanted, levels: Vec::new(), path: Vec::new(), top, unreadable: 0, reason: None }
    }

    /// Directories that could not be read, and why the first of them.
    pub fn unreadable(&self) -> Option<(usize, String)> {
        self.reason.clone().map(|reason| (self.unreadable, reason))
    }

    /// The next sighting with its path.
    pub fn next(&mut self, cancel: &Cancel) -> Result<Option<(Vec<u8>, Sighting)>> {
        if !self.top.is_empty() {
            let top = std::mem::take(&mut self.top);
            self.enter(&top, cancel)?;
        }
        loop {
            let Some(level) = self.levels.last_mut() else { return Ok(None) };
            self.path.truncate(level.path_len);
            let Some((name, mut at)) = level.names.pop() else {
                self.levels.pop();
                continue;
            };
            self.path.push(b'/');
            self.path.extend_from_slice(&name);
            let Some(sighting) = at.sighting.take() else {
                self.enter(&at.runs, cancel)?;
                continue;
            };
            // What is below a name is told after it.
            if !at.runs.is_empty() {
                level.names.push((name, at));
            }
            return Ok(Some((self.path.clone(), sighting)));
        }
    }

    /// Looks through a directory.
    fn enter(&mut self, runs: &[Run], cancel: &Cancel) -> Result<()> {
        cancel.check()?;
        if runs.is_empty() {
            return Ok(());
        }
        if self.levels.len() > DIR_DEPTH_MAX {
            return Err(Error::corrupt("directories are nested too deep"));
        }
        let mut names: BTreeMap<Box<[u8]>, Name> = BTreeMap::new();
        // How many snapshots the runs before each one have.
        let before: Vec<usize> = runs
            .iter()
            .scan(0, |sum, run| {
                *sum += run.count;
                Some(*sum - run.count)
            })
            .chain([runs.iter().map(|run| run.count).sum()])
            .collect();
        let mut old: Option<usize> = None;
        for at in 0..runs.len() {
            match self.compare(runs, old, at, &before, &mut names) {
                Ok(()) => old = Some(at),
                Err(e) if matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::Missing) => {
                    self.unreadable += 1;
                    self.reason.get_or_insert_with(|| e.chain());
                    // What it holds is not known, so everything is taken to end before it.
                    names.values_mut().for_each(|name| match at.checked_sub(1) {
                        Some(last) => self.end(name, runs, last, &before),
                        None => name.now = None,
                    });
                    old = None;
                }
                Err(e) => return Err(e),
            }
        }
        names.values_mut().for_each(|name| self.end(name, runs, runs.len() - 1, &before));
        let mut names: Vec<(Box<[u8]>, Name)> = names.into_iter().collect();
        names.reverse();
        self.levels.push(Level { names, path_len: self.path.len() });
        Ok(())
    }

    /// Notes what changes from run `old` (nothing, if none) to run `new`.
    fn compare(
        &self,
        runs: &[Run],
        old: Option<usize>,
        new: usize,
        before: &[usize],
        names: &mut BTreeMap<Box<[u8]>, Name>,
    ) -> Result<()> {
        let side = |n: usize| Side { root: runs[n].node, ..self.look.side(runs[n].first) };
        let (old_side, new_side) = (side(old.unwrap_or(new)), side(new));
        let mut differing = Differing::new(&self.look.dirs, &old_side, &new_side, old.map(|n| runs[n].node), Some(runs[new].node));
        while let Some(pair) = differing.next_pair()? {
            if let Some(was) = &pair.old
                && let Some(name) = names.get_mut(&was.entry().name)
            {
                self.end(name, runs, old.unwrap_or(new), before);
            }
            let Some(held) = pair.new else { continue };
            let wanted = self.wanted.is(&self.path, held.entry());
            if wanted || held.entry().is_dir() {
                let name = held.entry().name.clone();
                names.entry(name).or_default().now = Some(Now { held, since: new, wanted });
            }
        }
        Ok(())
    }

    /// Ends what stands at a name: run `last` of the directory was the last one to have it.
    fn end(&self, name: &mut Name, runs: &[Run], last: usize, before: &[usize]) {
        let Some(now) = name.now.take() else { return };
        let count = before[last + 1] - before[now.since];
        if count == 0 {
            return;
        }
        let (first, last) = (runs[now.since].first, runs[last].last);
        if let Content::Dir { node, .. } = now.held.entry().content {
            match name.runs.last_mut() {
                Some(run) if run.node == node => (run.last, run.count) = (last, run.count + count),
                _ => name.runs.push(Run { node, first, last, count }),
            }
        }
        if !now.wanted {
            return;
        }
        match &mut name.sighting {
            Some(seen) => {
                let one_domain = self.look.line.domain(seen.last) == self.look.line.domain(first);
                seen.versions += usize::from(!is_one_version(seen.held.entry(), now.held.entry(), one_domain));
                (seen.held, seen.last, seen.count) = (now.held, last, seen.count + count);
            }
            None => name.sighting = Some(Sighting { held: now.held, versions: 1, first, last, count }),
        }
    }
}

/// Whether two entries of one path are told as one; directories are, whatever is in them.
fn is_one_version(a: &Entry, b: &Entry, one_domain: bool) -> bool {
    let dirs = a.is_dir() && b.is_dir();
    facets(a, b, one_domain).iter().all(|facet| dirs && matches!(facet, Facet::Content | Facet::Time))
}
