//! `history/`: all that ever stood at a path.
//!
//! A path that never was a directory lists its versions. One that ever was lists the names that ever stood in it, and its versions in
//! `@versions/`; so the way down is that of the tree, and no name can be taken for a version. A name that begins like the reserved
//! one is shown with one more `@` (`names::escaped`).

use std::sync::Arc;

use super::{Node, Views, What};
use crate::{
    error::{Error, Result},
    event::Event,
    mount::{
        guard::Guard,
        inode::{HISTORY, Mounted, Place},
        list::SnapshotList,
        listing::Listing,
        names::{VERSIONS, of_versions, unescaped},
        view::union::Union,
    },
    vault::{Past, parts_of},
};

/// The last name of a path.
fn last_name(path: &[u8]) -> &[u8] {
    parts_of(path).last().unwrap_or_default()
}

fn joined(path: &[u8], name: &[u8]) -> Vec<u8> {
    [path, b"/", name].concat()
}

impl Views {
    /// The history of `path`.
    pub(super) fn past(&self, list: &SnapshotList, path: &[u8]) -> Result<Arc<Past>> {
        let key = |path: &[u8]| (list.generation, Box::from(path));
        if let Some(past) = self.pasts.peek(&key(path)) {
            return Ok(past);
        }
        // From the longest part of the way that is known; a loop, as paths may be thousands of names deep.
        let ends: Vec<usize> = (1..=path.len()).filter(|n| *n == path.len() || path[*n] == b'/').collect();
        let known = ends.iter().rposition(|end| self.pasts.peek(&key(&path[..*end])).is_some());
        let mut past = match known {
            Some(at) => self.pasts.get(key(&path[..ends[at]]), || Past::of(&self.dirs, &list.line, &path[..ends[at]]))?,
            None => self.pasts.get(key(&[]), || Ok(Past::of_root(&list.line)))?,
        };
        for end in &ends[known.map_or(0, |at| at + 1)..] {
            let path = &path[..*end];
            past = self.pasts.get(key(path), || {
                let child = past.child(&self.dirs, &list.line, last_name(path))?;
                self.say_unreadable(path, &child, past.unreadable);
                Ok(child)
            })?;
        }
        Ok(past)
    }

    fn say_unreadable(&self, path: &[u8], past: &Past, before: usize) {
        if past.unreadable > before {
            let (shown, n) = (String::from_utf8_lossy(path), past.unreadable - before);
            let why = past.reason.as_deref().unwrap_or_default();
            self.sink.send(Event::Warning(format!("the history of {shown} is not whole: {n} directories cannot be read: {why}")));
        }
    }

    /// The snapshot in which `path` stood first, and its number there; `None` if it never stood anywhere.
    fn origin(&self, list: &SnapshotList, path: &[u8], past: &Past) -> Result<Option<(u32, u64)>> {
        let Some(first) = past.versions.first() else { return Ok(None) };
        let mounted = &list.all[first.first];
        let spot = self.dirs.place(&mounted.keys, mounted.root(), parts_of(path))?;
        Ok(spot.map(|spot| (mounted.serial, spot.index)))
    }

    fn path_made(&self, list: &SnapshotList, ino: u64, path: &[u8], past: &Past) -> Node {
        Node::Made { ino, what: What::Path(path.to_vec()), changed_ns: list.changed_ns, guard: Guard::of_past(past) }
    }

    /// `history/PATH/`, where the path is that of an entry of a snapshot.
    pub(super) fn path_at(&self, list: &SnapshotList, ino: u64, mounted: &Mounted, index: u64) -> Result<Node> {
        let path = mounted.path(&self.dirs, index)?;
        let past = self.past(list, &path)?;
        match past.versions.is_empty() {
            false => Ok(self.path_made(list, ino, &path, &past)),
            true => Err(Error::not_found(format!("{} is in no snapshot any more", String::from_utf8_lossy(&path)))),
        }
    }

    /// `history/PATH/@versions/`, where the path is that of an entry of a snapshot.
    pub(super) fn versions_at(&self, list: &SnapshotList, ino: u64, mounted: &Mounted, index: u64) -> Result<Node> {
        let path = mounted.path(&self.dirs, index)?;
        match self.past(list, &path)?.was_dir() {
            true => Ok(Node::Made { ino, what: What::Versions(path), changed_ns: list.changed_ns, guard: None }),
            false => Err(Error::not_found(format!("{} is a directory in no snapshot any more", String::from_utf8_lossy(&path)))),
        }
    }

    /// `history/PATH/`; an error if nothing ever stood there.
    pub(super) fn path_node(&self, list: &SnapshotList, path: &[u8]) -> Result<Node> {
        let past = self.past(list, path)?;
        match self.origin(list, path, &past)? {
            Some((serial, index)) => Ok(self.path_made(list, Place::Path(serial, index).ino(), path, &past)),
            None => Err(Error::not_found(format!("{} is in no snapshot", String::from_utf8_lossy(path)))),
        }
    }

    /// `history/PATH/@versions/`; an error if nothing ever stood there.
    pub(super) fn versions_node(&self, list: &SnapshotList, path: &[u8]) -> Result<Node> {
        match self.origin(list, path, &*self.past(list, path)?)? {
            Some((serial, index)) => {
                let ino = Place::Versions(serial, index).ino();
                Ok(Node::Made { ino, what: What::Versions(path.to_vec()), changed_ns: list.changed_ns, guard: None })
            }
            None => Err(Error::not_found(format!("{} is in no snapshot", String::from_utf8_lossy(path)))),
        }
    }

    /// How many versions the path of `node` has; `None` for what has no path in a snapshot.
    pub fn versions_of(&self, node: &Node) -> Result<Option<usize>> {
        let path = match node {
            Node::Entry(_, mounted, spot) => mounted.path(&self.dirs, spot.index)?,
            Node::Made { what: What::Path(path) | What::Versions(path), .. } => path.clone(),
            Node::Made { .. } | Node::Root(..) | Node::Link { .. } => return Ok(None),
        };
        Ok(Some(self.past(&self.list(), &path)?.versions.len()))
    }

    /// The directory above `history/PATH/`.
    pub(super) fn path_above(&self, list: &SnapshotList, path: &[u8]) -> Result<Node> {
        match path.iter().rposition(|b| *b == b'/') {
            Some(0) | None => Ok(self.top(list, HISTORY)),
            Some(at) => self.path_node(list, &path[..at]),
        }
    }

    /// `NAME` in `history/PATH/`, which has the number `ino`.
    pub(super) fn path_child(&self, list: &SnapshotList, ino: u64, path: &[u8], name: &[u8]) -> Result<Option<Node>> {
        let past = self.past(list, path)?;
        if !past.was_dir() {
            return self.version_named(list, ino, path, name);
        }
        if name == VERSIONS {
            return if path.is_empty() { Ok(None) } else { self.versions_node(list, path).map(Some) };
        }
        let Some(name) = unescaped(name) else { return Ok(None) };
        let path = joined(path, name);
        match self.past(list, &path)?.versions.is_empty() {
            true => Ok(None),
            false => self.path_node(list, &path).map(Some),
        }
    }

    /// The version called `name` of `path`, from the directory that has the number `ino`.
    pub(super) fn version_named(&self, list: &SnapshotList, ino: u64, path: &[u8], name: &[u8]) -> Result<Option<Node>> {
        let found = self.versions(list, ino, path)?.find(name);
        found.map(|ino| self.node(ino)).transpose()
    }

    /// The versions of `path`, as directory `ino` lists them.
    fn versions(&self, list: &SnapshotList, ino: u64, path: &[u8]) -> Result<Arc<Listing>> {
        self.listings.get((list.generation, ino), || {
            let past = self.past(list, path)?;
            let depth = parts_of(path).count();
            let mut listing = Listing::default();
            for (version, name) in past.versions.iter().zip(of_versions(&list.line, &past, last_name(path))) {
                let mounted = &list.all[version.first];
                let Some(spot) = self.dirs.place(&mounted.keys, mounted.root(), parts_of(path))? else { continue };
                let ino = match version.node {
                    None => mounted.shown(spot.entry(), spot.index),
                    Some(_) if Place::has_versions(depth, spot.index + spot.entry().span()) => {
                        Place::Version(mounted.serial, spot.index, depth as u8).ino()
                    }
                    Some(_) => continue,
                };
                listing.push(&name, ino, None);
            }
            Ok(listing)
        })
    }

    /// Lists `history/PATH/`, which has the number `ino`.
    pub(super) fn list_path(
        &self,
        list: &SnapshotList,
        ino: u64,
        path: &[u8],
        skip: usize,
        mut tell: impl FnMut(usize, &[u8], Node) -> bool,
    ) -> Result<()> {
        if !path.is_empty() && !self.past(list, path)?.was_dir() {
            return self.list_versions(list, ino, path, skip, tell);
        }
        let listing = self.listings.get((list.generation, ino), || self.names_at(list, path))?;
        for n in skip.. {
            let Some(listed) = listing.get(n) else { break };
            let (what, guard) = match unescaped(listed.name) {
                Some(name) => (What::Path(joined(path, name)), listed.guard),
                None => (What::Versions(path.to_vec()), None),
            };
            if !tell(n, listed.name, Node::Made { ino: listed.ino, what, changed_ns: list.changed_ns, guard }) {
                break;
            }
        }
        Ok(())
    }

    /// Lists the versions of `path`, from the directory that has the number `ino`.
    pub(super) fn list_versions(
        &self,
        list: &SnapshotList,
        ino: u64,
        path: &[u8],
        skip: usize,
        mut tell: impl FnMut(usize, &[u8], Node) -> bool,
    ) -> Result<()> {
        let listing = self.versions(list, ino, path)?;
        for n in skip.. {
            let Some(listed) = listing.get(n) else { break };
            if !tell(n, listed.name, self.node(listed.ino)?) {
                break;
            }
        }
        Ok(())
    }

    /// What `history/PATH/` lists: `@versions`, then all names that ever stood in the directory.
    fn names_at(&self, list: &SnapshotList, path: &[u8]) -> Result<Listing> {
        let past = self.past(list, path)?;
        let mut listing = Listing::default();
        if let Some((serial, index)) = self.origin(list, path, &past)?.filter(|_| !path.is_empty()) {
            listing.push(VERSIONS, Place::Versions(serial, index).ino(), None);
        }
        let mut names = Union::default();
        // The snapshot looked into last, and the directory's own number there.
        let mut base: Option<(usize, u64)> = None;
        let damage = past.each_name(&self.dirs, &list.line, |version, entry, number| {
            if !names.has(&entry.name) {
                let mounted = &list.all[version.first];
                let own = match base {
                    Some((first, own)) if first == version.first => own,
                    _ => self.dirs.place(&mounted.keys, mounted.root(), parts_of(path))?.map_or(0, |spot| spot.index),
                };
                base = Some((version.first, own));
                names.add(&entry.name, Place::Path(mounted.serial, own + number).ino());
            }
            if entry.is_dir() {
                names.guard(&entry.name, Guard::of_entry(entry));
            }
            Ok(())
        })?;
        self.say_unreadable(path, &damage, 0);
        Ok(names.finish(listing))
    }
}
