//! What each name in a mount is, and each number. Everything a mount answers, without a kernel.
//!
//! `history` and `changes` beside this file hold what belongs to these two; `node` what a number can stand for.

mod changes;
mod history;
mod node;
mod union;

use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    sync::{Arc, RwLock},
};

pub use node::{Listed, Node, Way, What};

use crate::{
    error::{Error, ErrorKind, Result},
    event::Sink,
    format::{Content, Entry},
    mount::{
        doors::{Door, Doors},
        inode::{AT, CHANGES, HISTORY, HOSTS, Made, Mounted, Place, ROOT, SNAPSHOTS, TAGS, hashed, serial},
        list::{Group, SnapshotList},
        listing::Listings,
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
                    let group = if *hosts { &list.hosts[*at] } else { &list.tags[*at] };
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

    /// Lists directory `ino` from cookie `from` on, handing each name with the cookie after it to `each` until that returns false.
    ///
    /// Cookies count names in the order of the listing. Below a snapshot they hold across requests and mounts.
    pub fn list_dir(&self, ino: u64, from: u64, mut each: impl FnMut(Listed, u64) -> bool) -> Result<()> {
        let node = self.node(ino)?;
        let skip = usize::try_from(from).unwrap_or(usize::MAX);
        let fixed = node.is_fixed();
        for (n, dots) in [".", ".."].iter().enumerate().skip(skip) {
            let node = if *dots == "." { self.node(ino)? } else { self.above(&node)? };
            if !each(Listed { name: dots.as_bytes().to_vec(), node, fixed }, n as u64 + 1) {
                return Ok(());
            }
        }
        let skip = skip.saturating_sub(2);
        let mut tell = |n: usize, name: &[u8], node: Node| each(Listed { name: name.to_vec(), node, fixed }, n as u64 + 3);
        let list = self.list();
        match &node {
            Node::Link { .. } => return Err(not_a_dir()),
            Node::Made { what, ino, .. } => match what {
                What::Top(ROOT) => {
                    let latest = list.latest(&self.host).map(|m| (LATEST, Node::Root(Way::Latest, m.clone())));
                    let mut names: Vec<_> = TOPS.iter().map(|(name, ino)| (*name, self.top(&list, *ino))).chain(latest).collect();
                    names.sort_by_key(|(name, _)| *name);
                    let names = names.into_iter().enumerate().skip(skip);
                    names.map(|(n, (name, node))| tell(n, name, node)).take_while(|more| *more).for_each(drop);
                }
                What::Top(SNAPSHOTS) => {
                    let all = list.all.iter().enumerate().skip(skip);
                    all.map(|(n, m)| tell(n, m.name.as_bytes(), Node::Root(Way::Snapshots, m.clone()))).take_while(|more| *more).for_each(drop);
                }
                What::Top(top @ (HOSTS | TAGS)) => {
                    let groups = if *top == HOSTS { &list.hosts } else { &list.tags };
                    let nodes = (skip..groups.len()).map(|at| (at, &groups[at].name, group_node(&list, *top == HOSTS, at)));
                    nodes.map(|(n, name, node)| tell(n, name.as_bytes(), node)).take_while(|more| *more).for_each(drop);
                }
                What::Top(AT) => {
                    for (n, day) in list.days.iter().enumerate().skip(skip) {
                        // A day whose snapshots a clock put in another order may have none at its end.
                        if let Some(node) = self.at(&list, day.as_bytes())?
                            && !tell(n, day.as_bytes(), node)
                        {
                            break;
                        }
                    }
                }
                What::Top(HISTORY) => self.list_path(&list, *ino, &[], skip, tell)?,
                What::Top(_) => (),
                What::Group { list, hosts, at } => {
                    let group = if *hosts { &list.hosts[*at] } else { &list.tags[*at] };
                    let members = group.members.iter().map(|n| &list.all[*n]).enumerate().skip(skip);
                    members.map(|(n, m)| tell(n, m.name.as_bytes(), link(list, m))).take_while(|more| *more).for_each(drop);
                }
                What::Path(path) => self.list_path(&list, *ino, path, skip, tell)?,
                What::Versions(path) => self.list_versions(&list, *ino, path, skip, tell)?,
                What::Change(_, door) => self.list_kinds(door, skip, tell)?,
            },
            Node::Root(way, mounted) => match way.change() {
                Some(door) => self.list_changed(way, door, mounted, 0, ino, skip, tell)?,
                None => self.list_entries(way, mounted, self.dirs.dir(&mounted.keys, mounted.root())?, 0, skip, tell)?,
            },
            Node::Entry(way, mounted, spot) => match (self.dir_of(mounted, spot.entry())?, way.change()) {
                (None, _) => return Err(not_a_dir()),
                (Some(_), Some(door)) => self.list_changed(way, door, mounted, spot.index, ino, skip, tell)?,
                (Some(dir), None) => self.list_entries(way, mounted, dir, spot.index, skip, tell)?,
            },
        }
        Ok(())
    }

    fn list_entries(
        &self,
        way: &Way,
        mounted: &Arc<Mounted>,
        dir: Dir,
        base: u64,
        skip: usize,
        mut tell: impl FnMut(usize, &[u8], Node) -> bool,
    ) -> Result<()> {
        for at in skip.. {
            let Some(spot) = self.dirs.at(&mounted.keys, &dir, base, at)? else { break };
            let name = spot.entry().name.clone();
            if !tell(at, &name, Node::Entry(way.clone(), mounted.clone(), spot)) {
                break;
            }
        }
        Ok(())
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

fn not_a_dir() -> Error {
    Error::usage("not a directory")
}

fn groups_of(list: &SnapshotList, hosts: bool) -> &[Group] {
    if hosts { &list.hosts } else { &list.tags }
}

fn group_node(list: &Arc<SnapshotList>, hosts: bool, at: usize) -> Node {
    let group = &groups_of(list, hosts)[at];
    let ino = Place::Made(if hosts { Made::Host(group.hash) } else { Made::Tag(group.hash) }).ino();
    let newest = group.members.last().map_or(0, |n| list.all[*n].snapshot.manifest.time_ns);
    // Not older than what the whole list says: its time must change when its names do.
    let changed_ns = newest.max(list.changed_ns);
    Node::Made { ino, what: What::Group { list: list.clone(), hosts, at }, changed_ns, guard: None }
}

fn group(list: &Arc<SnapshotList>, hosts: bool, hash: u64) -> Option<Node> {
    groups_of(list, hosts).iter().position(|g| g.hash == hash).map(|at| group_node(list, hosts, at))
}

fn group_named(list: &Arc<SnapshotList>, hosts: bool, name: &[u8]) -> Option<Node> {
    groups_of(list, hosts).iter().position(|g| g.name.as_bytes() == name).map(|at| group_node(list, hosts, at))
}

fn link(list: &SnapshotList, mounted: &Mounted) -> Node {
    let manifest = &mounted.snapshot.manifest;
    let mut hashes: Vec<u64> = manifest.tags.iter().map(|tag| hashed(tag)).collect();
    hashes.sort_unstable();
    hashes.dedup();
    let tags = hashes.iter().filter(|hash| list.tags.iter().any(|g| g.hash == **hash)).count();
    Node::Link {
        ino: Place::Made(Made::Link(mounted.serial)).ino(),
        target: format!("../../snapshots/{}", mounted.name).into_bytes(),
        time_ns: manifest.time_ns,
        names: 1 + tags as u32,
    }
}
