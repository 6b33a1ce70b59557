//! What of what is wanted comes and goes from one tree to the next.
//!
//! Only directories that differ are read, each node once while it is remembered, and only names, directories and what is wanted in it.

use std::collections::HashSet;

use super::Wanted;
use crate::{
    error::{Error, ErrorKind, Result},
    format::{ChunkId, DIR_DEPTH_MAX, Entry, Scan},
    ops::look::Look,
    pack::{Bounded, Weigh},
    sys::Cancel,
    vault::{Side, is_same},
};

/// Bytes of nodes remembered, as far as they matter: those of the few snapshots that are being compared.
const SCANS_BYTES_MAX: u64 = 24 << 20;
/// Deepest nesting of a directory's parts; two levels hold 16 million entries.
const PARTS_DEPTH_MAX: usize = 8;

/// Something wanted came to a path or left it, or nothing is known any more of what is below a directory.
pub enum Step {
    /// It is here, new or changed.
    Came(Vec<u8>, Box<Entry>),
    /// It is not here any more.
    Left(Vec<u8>),
    /// The older directory cannot be read: what is here now comes anew.
    Anew(Vec<u8>),
}

/// What a comparison found.
#[derive(Default)]
pub struct Steps {
    /// In order: what begins anew, before what comes there.
    pub steps: Vec<Step>,
    /// Directories that could not be read.
    pub unreadable: usize,
    /// Why the first of them.
    pub reason: Option<String>,
}

impl Steps {
    /// Notes a directory that cannot be read.
    fn pass_over(&mut self, e: Error) -> Result<()> {
        if !matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::Missing) {
            return Err(e);
        }
        self.unreadable += 1;
        self.reason.get_or_insert_with(|| e.chain());
        Ok(())
    }
}

struct Scanned(Scan);

impl Weigh for Scanned {
    fn weight(&self) -> u64 {
        match &self.0 {
            Scan::Leaf { dirs, wanted } => {
                let dirs: usize = dirs.iter().map(|(name, _)| 64 + name.len()).sum();
                let wanted: usize = wanted.iter().map(|entry| entry.memory()).sum();
                (128 + dirs + wanted) as u64
            }
            Scan::Split(parts) => (128 + parts.len() * 32) as u64,
        }
    }
}

/// A directory, as far as it differs from another one.
#[derive(Default)]
struct Part {
    dirs: Vec<(Box<[u8]>, ChunkId)>,
    wanted: Vec<Entry>,
}

/// A directory of which the path, the depth, and the nodes in the older and the newer tree are known.
type Place = (Vec<u8>, usize, Option<ChunkId>, Option<ChunkId>);

/// The trees of a vault, looked through for something. Shared by threads.
pub struct Trees<'a> {
    look: &'a Look,
    wanted: &'a Wanted,
    cancel: &'a Cancel,
    scans: Bounded<ChunkId, Scanned>,
}

impl<'a> Trees<'a> {
    /// Looks for what is `wanted`.
    pub fn new(look: &'a Look, wanted: &'a Wanted, cancel: &'a Cancel) -> Self {
        Self { look, wanted, cancel, scans: Bounded::new(SCANS_BYTES_MAX, 1 << 10) }
    }

    /// What differs between two snapshots, by their numbers in the timeline; everything, if there is no older one.
    pub fn compare(&self, old: Option<usize>, new: usize) -> Result<Steps> {
        let new_side = self.look.side(new);
        let old_side = old.map_or_else(|| new_side.clone(), |old| self.look.side(old));
        let sides = (&old_side, &new_side);
        let mut found = Steps::default();
        let mut waiting: Vec<Place> = vec![(Vec::new(), 0, old.map(|_| old_side.root), Some(new_side.root))];
        while let Some(place) = waiting.pop() {
            self.cancel.check()?;
            self.directory(sides, place, &mut waiting, &mut found)?;
        }
        Ok(found)
    }

    fn directory(&self, sides: (&Side, &Side), place: Place, waiting: &mut Vec<Place>, found: &mut Steps) -> Result<()> {
        let one_domain = sides.0.domain == sides.1.domain;
        let (path, depth, old, new) = place;
        if old == new && one_domain {
            return Ok(());
        }
        if depth > DIR_DEPTH_MAX {
            return Err(Error::corrupt("directories are nested too deep"));
        }
        let (old, new) = self.differing(sides, old, new)?;
        let new = match new {
            Ok(new) => new,
            // What stood here is taken to stand here still.
            Err(e) => return found.pass_over(e),
        };
        let old = old.or_else(|e| {
            found.pass_over(e)?;
            found.steps.push(Step::Anew(path.clone()));
            Ok(Part::default())
        })?;
        let below = |name: &[u8]| [&path[..], b"/", name].concat();
        for (old, new) in merged(&old.wanted, &new.wanted, |entry| &entry.name) {
            let is_here = |entry: &&Entry| self.wanted.is(&path, entry);
            match (old.filter(is_here), new.filter(is_here)) {
                (Some(old), Some(new)) if is_same(old, new, one_domain) => (),
                (_, Some(new)) => found.steps.push(Step::Came(below(&new.name), Box::new(new.clone()))),
                (Some(old), None) => found.steps.push(Step::Left(below(&old.name))),
                (None, None) => (),
            }
        }
        for (old, new) in merged(&old.dirs, &new.dirs, |(name, _)| name) {
            if let Some((name, _)) = old.or(new) {
                waiting.push((below(name), depth + 1, old.map(|(_, id)| *id), new.map(|(_, id)| *id)));
            }
        }
        Ok(())
    }

    /// Those parts of two directories that are not the same, put together; each as far as it can be read.
    #[allow(clippy::type_complexity)] // the two sides of one comparison, and what is wrong with all of it
    fn differing(&self, sides: (&Side, &Side), old: Option<ChunkId>, new: Option<ChunkId>) -> Result<(Result<Part>, Result<Part>)> {
        let mut parts = (Ok(Part::default()), Ok(Part::default()));
        let mut ids: (Vec<ChunkId>, Vec<ChunkId>) = (old.into_iter().collect(), new.into_iter().collect());
        for _ in 0..=PARTS_DEPTH_MAX {
            if sides.0.domain == sides.1.domain {
                drop_common(&mut ids);
            }
            ids = (self.level(sides.0, &ids.0, &mut parts.0), self.level(sides.1, &ids.1, &mut parts.1));
            if ids.0.is_empty() && ids.1.is_empty() {
                return Ok(parts);
            }
        }
        Err(Error::corrupt("a directory node is nested too deep"))
    }

    /// Adds the leaves among `ids` to `part`, and returns the parts of the others.
    fn level(&self, side: &Side, ids: &[ChunkId], part: &mut Result<Part>) -> Vec<ChunkId> {
        let mut more = Vec::new();
        for id in ids {
            let (Ok(so_far), scanned) = (&mut *part, self.scanned(side, id)) else { return Vec::new() };
            match scanned.as_deref().map(|scanned| &scanned.0) {
                Ok(Scan::Leaf { dirs, wanted }) => {
                    so_far.dirs.extend(dirs.iter().cloned());
                    so_far.wanted.extend(wanted.iter().cloned());
                }
                Ok(Scan::Split(parts)) => more.extend(parts),
                Err(_) => {
                    *part = scanned.map(|_| Part::default());
                    return Vec::new();
                }
            }
        }
        more
    }

    fn scanned(&self, side: &Side, id: &ChunkId) -> Result<std::sync::Arc<Scanned>> {
        let read = |bytes: &[u8]| Scan::of(bytes, |name| self.wanted.may_be_named(name)).map(Scanned);
        self.scans.get(*id, || self.look.dirs.reader().with_chunk(id, &side.keys.tree, read)?)
    }
}

/// Takes out of both lists what is in both: equal parts hold the same names, and no other part holds those.
fn drop_common(ids: &mut (Vec<ChunkId>, Vec<ChunkId>)) {
    let new: HashSet<ChunkId> = ids.1.iter().copied().collect();
    let common: HashSet<ChunkId> = ids.0.iter().copied().filter(|id| new.contains(id)).collect();
    ids.0.retain(|id| !common.contains(id));
    ids.1.retain(|id| !common.contains(id));
}

/// Pairs of what has one name in two lists, which are in order of names.
fn merged<'x, T>(old: &'x [T], new: &'x [T], name: impl Fn(&T) -> &[u8]) -> Vec<(Option<&'x T>, Option<&'x T>)> {
    let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
    let mut pairs = Vec::new();
    loop {
        let order = match (old.peek(), new.peek()) {
            (None, None) => return pairs,
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some(a), Some(b)) => name(a).cmp(name(b)),
        };
        pairs.push((old.next_if(|_| order.is_le()), new.next_if(|_| order.is_ge())));
    }
}
