//! What each name in a mount is, and each number. Everything a mount answers, without a kernel.
//!
//! Beside this file: `node` what a number can stand for, `listing` what a directory lists; `groups`, `history` and `changes` what belongs to
//! those views alone.

mod changes;
mod groups;
mod history;
mod listing;
mod node;
mod union;

use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    sync::{Arc, RwLock},
};

pub use node::{Listed, Node, Way, What};

use groups::{group, group_named, groups_of, link};

use crate::{
    error::{Error, ErrorKind, Result},
    event::Sink,
    format::{ChunkId, Content, Entry},
    mount::{
        doors::{Door, Doors},
        inode::{AT, CHANGES, HISTORY, HOSTS, Made, Mounted, Place, ROOT, SNAPSHOTS, TAGS, serial},
        list::SnapshotList,
        listing::Listings,
        onward::Onward,
    },
    pack::Bounded,
    sys::Clock,
    vault::{Dir, Dirs, FileReader, Past, Reader, Selector, SignerList, Snapshot, Timeline, select},
};

/// Bytes of histories kept.
const PASTS_BYTES_MAX: u64 = 24 << 20;
/// Bytes kept of what is known about pairs of directories.
const KINDS_BYTES_MAX: u64 = 24 << 20;

/// The mounted vault.
pub struct Views {
    reader: Arc<Reader>,
    dirs: Dirs,
    list: RwLock<Arc<SnapshotList>>,
    /// Which host `latest` prefers.
    host: String,
    clock: Arc<dyn Clock>,
    sink: Arc<dyn Sink>,
    doors: Doors,
    /// Histories, by generation of the list and path.
    pasts: Bounded<(u64, Box<[u8]>), Past>,
    /// By generation of the list and number of the directory.
    listings: Listings<(u64, u64)>,
    kinds: Bounded<changes::DirPair, changes::Kinds>,
    pub(in crate::mount) onward: Onward,
}

/// Directories at the top, by name, in the order in which they are listed.
const TOPS: [(&[u8], u64); 6] =
    [(b"at", AT), (b"changes", CHANGES), (b"history", HISTORY), (b"hosts", HOSTS), (b"snapshots", SNAPSHOTS), (b"tags", TAGS)];
const LATEST: &[u8] = b"latest";

/// What `lookup` found.
pub struct Found {
    /// What the name stands for; `None` if nothing has it.
    pub node: Option<Node>,
    /// Whether that stays so for ever.
    pub fixed: bool,
}

impl Views {
    /// Shows the vault of `reader`; `latest` is the newest snapshot of `host` if it has one. Directories take at most `dirs_bytes` decoded.
    pub fn new(reader: Arc<Reader>, host: String, dirs_bytes: u64, clock: Arc<dyn Clock>, sink: Arc<dyn Sink>) -> Self {
        Self {
            dirs: Dirs::new(reader.clone(), dirs_bytes),
            reader,
            list: RwLock::default(),
            host,
            clock,
            sink,
            doors: Doors::default(),
            pasts: Bounded::new(PASTS_BYTES_MAX, 1 << 11),
            listings: Listings::default(),
            kinds: Bounded::new(KINDS_BYTES_MAX, 128),
            onward: Onward::default(),
        }
    }

    fn list(&self) -> Arc<SnapshotList> {
        self.list.read().expect("nobody panics while holding the list").clone()
    }

    /// Takes up the snapshots that are there now. Returns what went wrong, one line each.
    pub fn update(&self, signers: &SignerList, snapshots: Vec<Snapshot>) -> Vec<String> {
        let old = self.list();
        let mut problems = Vec::new();
        let mut mounted: Vec<Arc<Mounted>> = Vec::with_capacity(snapshots.len());
        let mut taken = std::collections::HashSet::new();
        for snapshot in snapshots {
            let number = serial(signers.signers.ordinal(&snapshot.key.sealer).unwrap_or(0), snapshot.key.seq);
            if !taken.insert(number) {
                problems.push(format!("snapshot {} has the number of another one and is not shown", snapshot.id.short()));
                continue;
            }
            let known = old.by_serial(number).filter(|m| m.snapshot.id == snapshot.id).cloned();
            let keys = self.reader.keys(&snapshot);
            mounted.push(known.unwrap_or_else(|| Arc::new(Mounted::new(snapshot, keys, number))));
        }
        let line = Timeline::new(&self.reader, mounted.iter().map(|m| m.snapshot.clone()));
        let (next, more) = old.next(mounted, line);
        *self.list.write().expect("nobody panics while holding the list") = Arc::new(next);
        problems.extend(more);
        problems
    }

    /// The names of the snapshots shown.
    pub fn shown(&self) -> Vec<String> {
        self.list().all.iter().map(|m| m.name.clone()).collect()
    }

    /// The directories whose listing can change with the list of snapshots, but for those below `history/`.
    pub fn moving_dirs(&self) -> Vec<u64> {
        let list = self.list();
        let hosts = list.hosts.iter().map(|g| Place::Made(Made::Host(g.hash)).ino());
        let tags = list.tags.iter().map(|g| Place::Made(Made::Tag(g.hash)).ino());
        [ROOT, SNAPSHOTS, HOSTS, TAGS, AT, HISTORY].into_iter().chain(hosts).chain(tags).collect()
    }

    /// Whether any snapshot shown has extended attributes.
    pub fn has_xattrs(&self) -> bool {
        self.list().all.iter().any(|m| m.snapshot.manifest.stats.with_xattrs > 0)
    }

    /// Nodes of directories decoded so far.
    pub fn loads(&self) -> u64 {
        self.dirs.loads()
    }

    /// Logical bytes and entries of the newest snapshot of each host, for `df`.
    pub fn totals(&self) -> (u64, u64) {
        let list = self.list();
        let mut newest = std::collections::HashMap::new();
        for m in &list.all {
            newest.insert(&m.snapshot.manifest.host, m.snapshot.manifest.stats);
        }
        newest.values().fold((0, 0), |(bytes, entries), s| (bytes + s.logical_bytes, entries + s.entries()))
    }

    /// What number `ino` stands for.
    ///
    /// # Errors
    /// `NotFound` if it stands for nothing, or no longer does.
    pub fn node(&self, ino: u64) -> Result<Node> {
        let unknown = || Error::not_found(format!("no inode {ino}"));
        let list = self.list();
        let of = |serial: u32| list.by_serial(serial).cloned().ok_or_else(unknown);
        match Place::of(ino).ok_or_else(unknown)? {
            Place::Made(Made::Top(top)) => Ok(self.top(&list, top)),
            Place::Made(Made::Link(serial)) => Ok(link(&list, &*of(serial)?)),
            Place::Made(Made::Host(hash)) => group(&list, true, hash).ok_or_else(unknown),
            Place::Made(Made::Tag(hash)) => group(&list, false, hash).ok_or_else(unknown),
            Place::Snapshot(serial, index) => self.entry(Way::Snapshots, of(serial)?, index),
            Place::Linked(serial, folded) => {
                let mounted = of(serial)?;
                let index = mounted.first_name(&self.dirs, folded)?;
                self.entry(Way::Snapshots, mounted, index)
            }
            Place::Latest(serial, index) => self.entry(Way::Latest, of(serial)?, index),
            Place::Version(serial, index, depth) => self.entry(Way::Version(depth), of(serial)?, index),
            Place::Path(serial, index) => self.path_at(&list, ino, &*of(serial)?, index),
            Place::Versions(serial, index) => self.versions_at(&list, ino, &*of(serial)?, index),
            Place::Door(number, index) => {
                let door = self.doors.door(number).ok_or_else(unknown)?;
                match door.shows().cloned() {
                    Some(mounted) => self.entry(Way::Door(number, door), mounted, index),
                    None => Ok(node::change(number, door)),
                }
            }
        }
    }

    fn entry(&self, way: Way, mounted: Arc<Mounted>, index: u64) -> Result<Node> {
        match index {
            0 => Ok(Node::Root(way, mounted)),
            index => match mounted.way_to(&self.dirs, index)?.pop() {
                Some(spot) => Ok(Node::Entry(way, mounted, spot)),
                None => Err(Error::not_found(format!("no entry {index}"))),
            },
        }
    }

    fn top(&self, list: &SnapshotList, ino: u64) -> Node {
        Node::Made { ino, what: What::Top(ino), changed_ns: list.changed_ns, guard: None }
    }

    /// The child `name` of directory `parent`.
    pub fn lookup(&self, parent: u64, name: &OsStr) -> Result<Found> {
        let name = name.as_bytes();
        let node = self.node(parent)?;
        let fixed = node.is_fixed();
        let node = match name {
            b"." => Some(node),
            b".." => Some(self.above(&node)?),
            name => self.child(&node, name)?,
        };
        Ok(Found { node, fixed })
    }

    fn child(&self, parent: &Node, name: &[u8]) -> Result<Option<Node>> {
        let list = self.list();
        match parent {
            Node::Link { .. } => Ok(None),
            Node::Made { what, ino, .. } => match what {
                What::Top(ROOT) if name == LATEST => Ok(list.latest(&self.host).map(|m| Node::Root(Way::Latest, m.clone()))),
                What::Top(ROOT) => Ok(TOPS.iter().find(|(top, _)| *top == name).map(|(_, ino)| self.top(&list, *ino))),
                What::Top(SNAPSHOTS) => Ok(list.by_name(name).map(|m| Node::Root(Way::Snapshots, m.clone()))),
                What::Top(HOSTS) => Ok(group_named(&list, true, name)),
                What::Top(TAGS) => Ok(group_named(&list, false, name)),
                What::Top(AT) => self.at(&list, name),
                What::Top(CHANGES) => self.changes(&list, name),
                What::Top(HISTORY) => self.path_child(&list, *ino, &[], name),
                What::Top(_) => Ok(None),
                What::Group { list, hosts, at } => {
                    let group = &groups_of(list, *hosts)[*at];
                    let members = group.members.iter().map(|n| &list.all[*n]);
                    Ok(members.into_iter().find(|m| m.name.as_bytes() == name).map(|m| link(list, m)))
                }
                What::Path(path) => self.path_child(&list, *ino, path, name),
                What::Versions(path) => self.version_named(&list, *ino, path, name),
                What::Change(_, door) => self.kind_of_change(door, name),
            },
            Node::Root(way, mounted) => match way.change() {
                Some(door) => self.changed_child(way, door, mounted, 0, name),
                None => self.entry_child(way, mounted, self.dirs.dir(&mounted.keys, mounted.root())?, 0, name),
            },
            Node::Entry(way, mounted, spot) => match (self.dir_of(mounted, spot.entry())?, way.change()) {
                (None, _) => Ok(None),
                (Some(_), Some(door)) => self.changed_child(way, door, mounted, spot.index, name),
                (Some(dir), None) => self.entry_child(way, mounted, dir, spot.index, name),
            },
        }
    }

    fn entry_child(&self, way: &Way, mounted: &Arc<Mounted>, dir: Dir, base: u64, name: &[u8]) -> Result<Option<Node>> {
        let spot = self.dirs.find(&mounted.keys, &dir, base, name)?;
        Ok(spot.map(|spot| Node::Entry(way.clone(), mounted.clone(), spot)))
    }

    /// Decodes the directory whose node is `id`, unless it is.
    pub(in crate::mount) fn decode_dir(&self, mounted: &Mounted, id: &ChunkId) -> Result<()> {
        self.dirs.dir(&mounted.keys, id).map(drop)
    }

    fn dir_of(&self, mounted: &Mounted, entry: &Entry) -> Result<Option<Dir>> {
        match &entry.content {
            Content::Dir { node, .. } => self.dirs.dir(&mounted.keys, node).map(Some),
            _ => Ok(None),
        }
    }

    /// The snapshot that `text` names, as on the command line; `None` if it names none.
    fn chosen(&self, list: &SnapshotList, text: &str) -> Result<Option<Arc<Mounted>>> {
        let chosen = Selector::parse(text, self.clock.now_ns()).and_then(|selector| select(&list.snapshots, &selector));
        match chosen {
            Ok(snapshot) => Ok(list.by_name(snapshot.dir_name().as_bytes()).cloned()),
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::Usage) => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn at(&self, list: &SnapshotList, name: &[u8]) -> Result<Option<Node>> {
        let Ok(text) = std::str::from_utf8(name) else { return Ok(None) };
        let Some(mounted) = self.chosen(list, text)? else { return Ok(None) };
        let (number, door) = self.doors.number(Door::At { name: name.into(), mounted: mounted.clone() })?;
        Ok(Some(Node::Root(Way::Door(number, door), mounted)))
    }

    /// The directory above `node`, for handles that outlived a mount, and for listings.
    fn above(&self, node: &Node) -> Result<Node> {
        let list = self.list();
        let top = |ino| Ok(self.top(&list, ino));
        match node {
            Node::Link { .. } => top(HOSTS),
            Node::Made { what, .. } => match what {
                What::Top(_) => top(ROOT),
                What::Group { hosts, .. } => top(if *hosts { HOSTS } else { TAGS }),
                What::Path(path) => self.path_above(&list, path),
                What::Versions(path) => self.path_node(&list, path),
                What::Change(..) => top(CHANGES),
            },
            Node::Root(way, _) => match way {
                Way::Latest => top(ROOT),
                Way::Snapshots | Way::Version(_) => top(SNAPSHOTS),
                Way::Door(_, door) => self.above_door(&list, door),
            },
            Node::Entry(way, mounted, spot) => {
                let mut up = mounted.way_to(&self.dirs, spot.index)?;
                up.pop();
                match (up.pop(), way) {
                    (above, Way::Version(depth)) if up.len() + usize::from(above.is_some()) + 1 == usize::from(*depth) => {
                        self.versions_node(&list, &mounted.path(&self.dirs, spot.index)?)
                    }
                    (Some(above), _) => Ok(Node::Entry(way.clone(), mounted.clone(), above)),
                    (None, _) => Ok(Node::Root(way.clone(), mounted.clone())),
                }
            }
        }
    }

    /// The directory in `snapshots/` that holds the entry `ino`.
    pub fn dir_of_entry(&self, ino: u64) -> Result<Option<u64>> {
        match Place::of(ino) {
            Some(Place::Snapshot(..) | Place::Linked(..)) => match self.node(ino)? {
                node @ Node::Entry(..) => self.above(&node).map(|above| Some(above.ino())),
                _ => Ok(None),
            },
            _ => Ok(None),
        }
    }

    /// The directory in `snapshots/` that has the same entries as directory `ino`; `None` if none has.
    pub fn same_dir(&self, ino: u64) -> Option<u64> {
        let (serial, index) = match Place::of(ino)? {
            Place::Snapshot(serial, index) | Place::Latest(serial, index) | Place::Version(serial, index, _) => (serial, index),
            Place::Door(number, index) => match &*self.doors.door(number)? {
                Door::At { mounted, .. } => (mounted.serial, index),
                Door::Changes { .. } => return None,
            },
            _ => return None,
        };
        Some(Place::Snapshot(serial, index).ino())
    }

    /// The kernel was told number `ino` once more, and holds it.
    pub fn told(&self, ino: u64) {
        if let Some(Place::Door(number, 0)) = Place::of(ino) {
            self.doors.told(number);
        }
    }

    /// The kernel forgets number `ino` so many times.
    pub fn forgotten(&self, ino: u64, times: u64) {
        if let Some(Place::Door(number, 0)) = Place::of(ino) {
            self.doors.forgotten(number, times);
        }
    }

    /// Fills `out` from the file `ino` at `offset`; returns how many bytes there were before its end.
    pub fn read(&self, ino: u64, offset: u64, out: &mut [u8]) -> Result<usize> {
        self.read_node(&self.node(ino)?, offset, out)
    }

    /// The same of a file that was found already.
    pub fn read_node(&self, node: &Node, offset: u64, out: &mut [u8]) -> Result<usize> {
        match node {
            Node::Entry(_, mounted, spot) => match FileReader::new(&mounted.keys, spot.entry()) {
                Some(file) => self.reader.read_file(&file, offset, out).map_err(|e| {
                    let path = mounted.path(&self.dirs, spot.index).unwrap_or_else(|_| spot.entry().name.to_vec());
                    let (path, snapshot) = (String::from_utf8_lossy(&path).into_owned(), &mounted.name);
                    e.while_doing(format!("cannot read {path} in snapshot {snapshot} at byte {offset}"))
                }),
                None => Err(Error::usage("not a regular file")),
            },
            _ => Err(Error::usage("not a regular file")),
        }
    }
}
