//! The names at the top of a mount, and what each number there is. Everything a mount answers, without a kernel.

use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    sync::{Arc, RwLock},
};

use crate::{
    error::{Error, Result},
    format::{Content, Entry},
    mount::inode::{DirNode, Mounted, Place, ROOT, SNAPSHOTS, Spot, Tree, View, serial},
    vault::{FileReader, Reader, SignerList, Snapshot},
};

/// All snapshots, in order of time.
#[derive(Default)]
pub struct SnapshotList {
    snapshots: Vec<Arc<Mounted>>,
}

/// What a number stands for.
pub enum Node {
    /// A directory of the mount itself.
    Top {
        /// Its number.
        ino: u64,
        /// When it changed last, ns since 1970.
        mtime_ns: i128,
    },
    /// The root of a snapshot.
    Root(View, Arc<Mounted>),
    /// An entry of a snapshot.
    Entry(View, Arc<Mounted>, Spot),
}

/// One name of a directory listing.
pub struct Listed {
    /// The name.
    pub name: Vec<u8>,
    /// What it is.
    pub node: Node,
}

/// The mounted vault.
pub struct Views {
    reader: Arc<Reader>,
    tree: Tree,
    list: RwLock<Arc<SnapshotList>>,
    /// Which host `latest` prefers.
    host: String,
}

/// Names at the top of the mount.
const LATEST: &[u8] = b"latest";
const SNAPSHOTS_NAME: &[u8] = b"snapshots";

impl Views {
    /// Shows the vault of `reader`; `latest` is the newest snapshot of `host` if it has one. Directories take at most `dirs_bytes` decoded.
    pub fn new(reader: Arc<Reader>, host: String, dirs_bytes: u64) -> Self {
        Self { tree: Tree::new(reader.clone(), dirs_bytes), reader, list: RwLock::default(), host }
    }

    fn list(&self) -> Arc<SnapshotList> {
        self.list.read().expect("nobody panics while holding the list").clone()
    }

    /// Takes up the snapshots that are there now. Returns what went wrong, one line each.
    pub fn update(&self, signers: &SignerList, snapshots: Vec<Snapshot>) -> Vec<String> {
        let old = self.list();
        let mut problems = Vec::new();
        let mut mounted: Vec<Arc<Mounted>> = Vec::with_capacity(snapshots.len());
        for snapshot in snapshots {
            let known = old.snapshots.iter().find(|m| m.snapshot.id == snapshot.id);
            let number = serial(signers.signers.ordinal(&snapshot.key.sealer).unwrap_or(0), snapshot.key.seq);
            if mounted.iter().any(|m| m.serial == number) {
                problems.push(format!("snapshot {} has the number of another one and is not shown", snapshot.id.short()));
                continue;
            }
            let keys = self.reader.keys(&snapshot);
            mounted.push(known.cloned().unwrap_or_else(|| Arc::new(Mounted::new(snapshot, keys, number))));
        }
        *self.list.write().expect("nobody panics while holding the list") = Arc::new(SnapshotList { snapshots: mounted });
        problems
    }

    /// Ids of the snapshots shown, and of the one that is `latest`.
    pub fn shown(&self) -> (Vec<String>, Option<String>) {
        let list = self.list();
        (list.snapshots.iter().map(|m| m.snapshot.dir_name()).collect(), self.latest(&list).map(|m| m.snapshot.dir_name()))
    }

    /// Whether any snapshot shown has extended attributes.
    pub fn has_xattrs(&self) -> bool {
        self.list().snapshots.iter().any(|m| m.snapshot.manifest.stats.with_xattrs > 0)
    }

    /// Logical bytes and entries of the newest snapshot of each host, for `df`.
    pub fn totals(&self) -> (u64, u64) {
        let list = self.list();
        let mut newest = std::collections::HashMap::new();
        for m in &list.snapshots {
            newest.insert(&m.snapshot.manifest.host, m.snapshot.manifest.stats);
        }
        newest.values().fold((0, 0), |(bytes, entries), s| (bytes + s.logical_bytes, entries + s.entries()))
    }

    fn latest(&self, list: &SnapshotList) -> Option<Arc<Mounted>> {
        let of_host = list.snapshots.iter().rev().find(|m| m.snapshot.manifest.host == self.host);
        of_host.or(list.snapshots.last()).cloned()
    }

    /// What number `ino` stands for.
    pub fn node(&self, ino: u64) -> Result<Node> {
        let unknown = || Error::not_found(format!("no inode {ino}"));
        match Place::of(ino).ok_or_else(unknown)? {
            Place::Top(ino @ (ROOT | SNAPSHOTS)) => Ok(self.top(ino)),
            Place::Top(_) => Err(unknown()),
            Place::In(view, serial, index) => {
                let mounted = self.list().snapshots.iter().find(|m| m.serial == serial).cloned().ok_or_else(unknown)?;
                match index {
                    0 => Ok(Node::Root(view, mounted)),
                    index => {
                        let (spot, _) = self.tree.locate(&mounted, index)?;
                        Ok(Node::Entry(view, mounted, spot))
                    }
                }
            }
        }
    }

    fn top(&self, ino: u64) -> Node {
        let mtime_ns = self.list().snapshots.last().map_or(0, |m| m.snapshot.manifest.time_ns);
        Node::Top { ino, mtime_ns }
    }

    /// The child `name` of directory `parent`; `None` if there is none.
    pub fn lookup(&self, parent: u64, name: &OsStr) -> Result<Option<Node>> {
        let name = name.as_bytes();
        if name == b"." {
            return self.node(parent).map(Some);
        }
        if name == b".." {
            return self.parent(parent).map(Some);
        }
        match self.node(parent)? {
            Node::Top { ino: ROOT, .. } => Ok(match name {
                SNAPSHOTS_NAME => Some(self.top(SNAPSHOTS)),
                LATEST => self.latest(&self.list()).map(|m| Node::Root(View::Latest, m)),
                _ => None,
            }),
            Node::Top { .. } => {
                let list = self.list();
                let found = list.snapshots.iter().find(|m| m.snapshot.dir_name().as_bytes() == name);
                Ok(found.map(|m| Node::Root(View::Snapshots, m.clone())))
            }
            Node::Root(view, mounted) => {
                let dir = self.tree.root(&mounted)?;
                self.child(view, mounted, dir, 0, name)
            }
            Node::Entry(view, mounted, spot) => match self.dir_of(&mounted, spot.entry())? {
                Some(dir) => self.child(view, mounted, dir, spot.index, name),
                None => Ok(None),
            },
        }
    }

    fn child(&self, view: View, mounted: Arc<Mounted>, dir: Arc<DirNode>, base: u64, name: &[u8]) -> Result<Option<Node>> {
        let spot = self.tree.find(&mounted, &dir, base, name)?;
        Ok(spot.map(|spot| Node::Entry(view, mounted, spot)))
    }

    fn dir_of(&self, mounted: &Mounted, entry: &Entry) -> Result<Option<Arc<DirNode>>> {
        match &entry.content {
            Content::Dir { node, .. } => self.tree.dir(mounted, node).map(Some),
            _ => Ok(None),
        }
    }

    /// The directory above `ino`, for handles that outlived a mount.
    fn parent(&self, ino: u64) -> Result<Node> {
        match self.node(ino)? {
            Node::Top { .. } => Ok(self.top(ROOT)),
            Node::Root(View::Snapshots, _) => Ok(self.top(SNAPSHOTS)),
            Node::Root(View::Latest, _) => Ok(self.top(ROOT)),
            Node::Entry(view, mounted, spot) => self.tree.locate(&mounted, spot.index).map(|(_, above)| match above {
                Some(spot) => Node::Entry(view, mounted, spot),
                None => Node::Root(view, mounted),
            }),
        }
    }

    /// The number of the directory that holds entry `ino`.
    pub fn dir_of_entry(&self, ino: u64) -> Result<Option<u64>> {
        match Place::of(ino) {
            Some(Place::In(_, _, index)) if index > 0 => self.parent(ino).map(|node| Some(node.ino())),
            _ => Ok(None),
        }
    }

    /// Lists directory `ino` from cookie `from` on, handing each name with the cookie after it to `each` until that returns false.
    ///
    /// Cookies count names in the fixed order of the listing, so they hold across requests and mounts.
    pub fn list_dir(&self, ino: u64, from: u64, mut each: impl FnMut(Listed, u64) -> bool) -> Result<()> {
        let node = self.node(ino)?;
        let skip = usize::try_from(from).unwrap_or(usize::MAX);
        for (n, dots) in [".", ".."].iter().enumerate().skip(skip) {
            let node = if *dots == "." { self.node(ino)? } else { self.parent(ino)? };
            if !each(Listed { name: dots.as_bytes().to_vec(), node }, n as u64 + 1) {
                return Ok(());
            }
        }
        let skip = skip.saturating_sub(2);
        match node {
            Node::Top { ino: ROOT, .. } => {
                let latest = self.latest(&self.list()).map(|m| (LATEST, Node::Root(View::Latest, m)));
                let names = latest.into_iter().chain([(SNAPSHOTS_NAME, self.top(SNAPSHOTS))]);
                for (n, (name, node)) in names.enumerate().skip(skip) {
                    if !each(Listed { name: name.to_vec(), node }, n as u64 + 3) {
                        break;
                    }
                }
            }
            Node::Top { .. } => {
                for (n, m) in self.list().snapshots.iter().enumerate().skip(skip) {
                    let listed = Listed { name: m.snapshot.dir_name().into_bytes(), node: Node::Root(View::Snapshots, m.clone()) };
                    if !each(listed, n as u64 + 3) {
                        break;
                    }
                }
            }
            Node::Root(view, mounted) => {
                let dir = self.tree.root(&mounted)?;
                self.list_entries(view, &mounted, &dir, 0, skip, each)?;
            }
            Node::Entry(view, mounted, spot) => match self.dir_of(&mounted, spot.entry())? {
                Some(dir) => self.list_entries(view, &mounted, &dir, spot.index, skip, each)?,
                None => return Err(Error::usage("not a directory")),
            },
        }
        Ok(())
    }

    fn list_entries(
        &self,
        view: View,
        mounted: &Arc<Mounted>,
        dir: &Arc<DirNode>,
        base: u64,
        skip: usize,
        mut each: impl FnMut(Listed, u64) -> bool,
    ) -> Result<()> {
        for at in skip.. {
            let Some(spot) = self.tree.at(mounted, dir, base, at)? else { break };
            let name = spot.entry().name.to_vec();
            if !each(Listed { name, node: Node::Entry(view, mounted.clone(), spot) }, at as u64 + 3) {
                break;
            }
        }
        Ok(())
    }

    /// Fills `out` from the file `ino` at `offset`; returns how many bytes there were before its end.
    pub fn read(&self, ino: u64, offset: u64, out: &mut [u8]) -> Result<usize> {
        match self.node(ino)? {
            Node::Entry(_, mounted, spot) => match FileReader::new(&mounted.keys, spot.entry()) {
                Some(file) => self.reader.read_file(&file, offset, out).map_err(|e| {
                    let path = self.tree.path(&mounted, spot.index).unwrap_or_else(|_| spot.entry().name.to_vec());
                    let (path, snapshot) = (String::from_utf8_lossy(&path).into_owned(), mounted.snapshot.dir_name());
                    e.while_doing(format!("cannot read {path} in snapshot {snapshot} at byte {offset}"))
                }),
                None => Err(Error::usage("not a regular file")),
            },
            _ => Err(Error::usage("not a regular file")),
        }
    }
}

impl Node {
    /// Its number.
    pub fn ino(&self) -> u64 {
        match self {
            Node::Top { ino, .. } => *ino,
            Node::Root(view, m) => Place::In(*view, m.serial, 0).ino(),
            Node::Entry(view, m, spot) => Place::In(*view, m.serial, m.shown(spot.entry(), spot.index)).ino(),
        }
    }

    /// Its entry, unless it is a directory that the mount made up.
    pub fn entry(&self) -> Option<&Entry> {
        match self {
            Node::Entry(_, _, spot) => Some(spot.entry()),
            _ => None,
        }
    }
}
