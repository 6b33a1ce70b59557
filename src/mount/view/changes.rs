//! `changes/A..B/`: what differs between two snapshots, as files.
//!
//! Directories stand there only where they hold something; those of `added` and `modified` are as in B, those of `removed` as in A.

use std::sync::Arc;

use super::{Node, Views, Way, node};
use crate::{
    error::Result,
    format::{ChunkId, Content},
    mount::{
        doors::Door,
        inode::{AT, CHANGES, Mounted},
        list::SnapshotList,
        listing::Listing,
    },
    pack::Weigh,
    vault::{Differing, Kind, Pair, Side, Spot, is_same, kinds},
};

/// The two directories at one path, in A and in B, if they are there.
pub(super) type DirPair = (Option<ChunkId>, Option<ChunkId>);

/// Which kinds of changes there are below a pair of directories, as bits.
pub(super) struct Kinds(u8);

impl Weigh for Kinds {
    fn weight(&self) -> u64 {
        128
    }
}

const NAMES: [(&[u8], Kind); 3] = [(b"added", Kind::Added), (b"modified", Kind::Modified), (b"removed", Kind::Removed)];

fn side(mounted: &Mounted) -> Side {
    let manifest = &mounted.snapshot.manifest;
    Side { keys: mounted.keys.clone(), domain: manifest.domain, root: manifest.root }
}

/// One comparison, as a directory looks at it.
struct Compared {
    old: Arc<Mounted>,
    new: Arc<Mounted>,
    kind: Kind,
    sides: (Side, Side),
}

impl Compared {
    /// `None` for what compares nothing.
    fn of(door: &Door) -> Option<Self> {
        match door {
            Door::Changes { old, new, kind: Some(kind), .. } => {
                Some(Self { old: old.clone(), new: new.clone(), kind: *kind, sides: (side(old), side(new)) })
            }
            _ => None,
        }
    }

    /// Orders what belongs to the side that is shown, then the other side's.
    fn shown_first<T>(&self, old: T, new: T) -> (T, T) {
        if self.kind == Kind::Removed { (old, new) } else { (new, old) }
    }
}

impl Views {
    /// `changes/NAME/`: the first way to cut it at `..` so that both sides name a snapshot.
    pub(super) fn changes(&self, list: &SnapshotList, name: &[u8]) -> Result<Option<Node>> {
        let Ok(text) = std::str::from_utf8(name) else { return Ok(None) };
        for (at, dots) in text.match_indices("..") {
            if let Some(old) = self.chosen(list, &text[..at])?
                && let Some(new) = self.chosen(list, &text[at + dots.len()..])?
            {
                let (number, door) = self.doors.number(Door::Changes { name: name.into(), old, new, kind: None })?;
                return Ok(Some(node::change(number, door)));
            }
        }
        Ok(None)
    }

    /// The directory above one behind a door.
    pub(super) fn above_door(&self, list: &SnapshotList, door: &Door) -> Result<Node> {
        match door {
            Door::At { .. } => Ok(self.top(list, AT)),
            Door::Changes { kind: None, .. } => Ok(self.top(list, CHANGES)),
            Door::Changes { name, old, new, .. } => {
                let (number, door) =
                    self.doors.number(Door::Changes { name: name.clone(), old: old.clone(), new: new.clone(), kind: None })?;
                Ok(node::change(number, door))
            }
        }
    }

    /// `added`, `modified` or `removed` in `changes/A..B/`.
    pub(super) fn kind_of_change(&self, door: &Door, name: &[u8]) -> Result<Option<Node>> {
        let (Some((_, kind)), Door::Changes { name, old, new, .. }) = (NAMES.iter().find(|(n, _)| *n == name), door) else {
            return Ok(None);
        };
        let wanted = Door::Changes { name: name.clone(), old: old.clone(), new: new.clone(), kind: Some(*kind) };
        let (number, door) = self.doors.number(wanted)?;
        Ok(door.shows().cloned().map(|mounted| Node::Root(Way::Door(number, door), mounted)))
    }

    /// Lists the three of them.
    pub(super) fn list_kinds(&self, door: &Door, skip: usize, mut tell: impl FnMut(usize, &[u8], Node) -> bool) -> Result<()> {
        for (n, (name, _)) in NAMES.iter().enumerate().skip(skip) {
            if let Some(node) = self.kind_of_change(door, name)?
                && !tell(n, name, node)
            {
                break;
            }
        }
        Ok(())
    }

    /// The two directories at the place of entry `index` of the side that is shown, and that entry.
    fn pair_at(&self, compared: &Compared, index: u64) -> Result<(DirPair, Option<Spot>)> {
        let (shown, other) = compared.shown_first(&compared.old, &compared.new);
        let mut way = if index == 0 { Vec::new() } else { shown.way_to(&self.dirs, index)? };
        let mut beside = Some(*other.root());
        for spot in &way {
            let Some(dir) = beside else { break };
            let held = self.dirs.named(&other.keys, &dir, &spot.entry().name)?;
            beside = match held.as_ref().map(|held| &held.entry().content) {
                Some(Content::Dir { node, .. }) => Some(*node),
                _ => None,
            };
        }
        let spot = way.pop();
        let here = match spot.as_ref().map(|spot| &spot.entry().content) {
            None => Some(*shown.root()),
            Some(Content::Dir { node, .. }) => Some(*node),
            Some(_) => None,
        };
        let pair = if compared.kind == Kind::Removed { (here, beside) } else { (beside, here) };
        Ok((pair, spot))
    }

    /// Whether a name belongs into the directory: as what it is, or for what is below it.
    fn belongs(&self, compared: &Compared, pair: &Pair) -> Result<bool> {
        if pair.is(compared.kind) {
            return Ok(true);
        }
        let Some(dirs) = pair.dirs() else { return Ok(false) };
        if compared.shown_first(dirs.0, dirs.1).0.is_none() {
            return Ok(false);
        }
        let sides = (&compared.sides.0, &compared.sides.1);
        let found = self.kinds.get(dirs, || Ok(Kinds(kinds(&self.dirs, sides, dirs)?)))?;
        Ok(found.0 & compared.kind.bit() != 0)
    }

    /// The child `name` of a directory of `changes/A..B/`, which is entry `index` of the side that is shown.
    pub(super) fn changed_child(&self, way: &Way, door: &Door, shown: &Arc<Mounted>, index: u64, name: &[u8]) -> Result<Option<Node>> {
        let Some(compared) = Compared::of(door) else { return Ok(None) };
        let (dirs, _) = self.pair_at(&compared, index)?;
        let held = |side: &Side, dir: Option<ChunkId>| match dir {
            Some(dir) => self.dirs.named(&side.keys, &dir, name),
            None => Ok(None),
        };
        let pair = Pair { old: held(&compared.sides.0, dirs.0)?, new: held(&compared.sides.1, dirs.1)? };
        let one_domain = compared.sides.0.domain == compared.sides.1.domain;
        match (&pair.old, &pair.new) {
            (None, None) => return Ok(None),
            (Some(old), Some(new)) if is_same(old.entry(), new.entry(), one_domain) => return Ok(None),
            _ => (),
        }
        if !self.belongs(&compared, &pair)? {
            return Ok(None);
        }
        let Some(dir) = compared.shown_first(dirs.0, dirs.1).0 else { return Ok(None) };
        self.entry_child(way, shown, self.dirs.dir(&shown.keys, &dir)?, index, name)
    }

    /// Lists a directory of `changes/A..B/`, which has the number `ino` and is entry `index` of the side that is shown.
    #[expect(clippy::too_many_arguments, reason = "what a directory is, and how it is told")]
    pub(super) fn list_changed(
        &self,
        way: &Way,
        door: &Door,
        shown: &Arc<Mounted>,
        index: u64,
        ino: u64,
        skip: usize,
        mut tell: impl FnMut(usize, &[u8], Node) -> bool,
    ) -> Result<()> {
        // Nothing about it depends on the list of snapshots.
        let listing = self.listings.get((0, ino), || self.changed_names(way, door, shown, index))?;
        for n in skip.. {
            let Some(listed) = listing.get(n) else { break };
            if !tell(n, listed.name, self.node(listed.ino)?) {
                break;
            }
        }
        Ok(())
    }

    fn changed_names(&self, way: &Way, door: &Door, shown: &Arc<Mounted>, index: u64) -> Result<Listing> {
        let mut listing = Listing::default();
        let Some(compared) = Compared::of(door) else { return Ok(listing) };
        let (dirs, _) = self.pair_at(&compared, index)?;
        let Some(dir) = compared.shown_first(dirs.0, dirs.1).0 else { return Ok(listing) };
        let dir = self.dirs.dir(&shown.keys, &dir)?;
        let mut differing = Differing::new(&self.dirs, &compared.sides.0, &compared.sides.1, dirs.0, dirs.1);
        while let Some(pair) = differing.next_pair()? {
            let Some(name) = pair.entry().map(|entry| entry.name.clone()) else { continue };
            if self.belongs(&compared, &pair)?
                && let Some(node) = self.entry_child(way, shown, dir.clone(), index, &name)?
            {
                listing.push(&name, node.ino(), None);
            }
        }
        Ok(listing)
    }
}
