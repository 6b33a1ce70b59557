//! One path through many snapshots: its distinct versions.
//!
//! Goes down name by name. What a directory was through time is a short list; a name in it is looked for once in each
//! directory that differs from the one before, so equal directories cost nothing, however many snapshots hold them.
//!
//! A version begins where the entry differs from the one before it on the same host: in type, mode, owner, mtime, size, content, link
//! target, device or extended attributes; for a directory in what it holds, all the way down. Not in ctime, inode number or names of
//! owners. A time of absence between two equal ones begins none, so sealing one path today and another tomorrow does no harm.

use std::{collections::HashSet, sync::Arc};

use crate::{
    error::{Error, ErrorKind, Result},
    format::{ChunkId, Content, Data, DomainId, DomainKeys, Entry},
    pack::Weigh,
    vault::{
        Reader, Snapshot,
        dirs::{Dirs, Held, parts_of},
    },
};

/// The extended attribute that holds an access list.
const ACL: &[u8] = b"system.posix_acl_access";

/// Snapshots in order of time, each with its keys and its host.
#[derive(Default)]
pub struct Timeline {
    moments: Vec<Moment>,
    hosts: Vec<String>,
}

/// One snapshot of a timeline.
struct Moment {
    snapshot: Arc<Snapshot>,
    keys: Arc<DomainKeys>,
    host: usize,
}

impl Timeline {
    /// Takes snapshots, which are in order of time.
    pub fn new(reader: &Reader, snapshots: impl Iterator<Item = Arc<Snapshot>>) -> Self {
        let mut line = Self::default();
        for snapshot in snapshots {
            let host = line.hosts.iter().position(|h| *h == snapshot.manifest.host).unwrap_or_else(|| {
                line.hosts.push(snapshot.manifest.host.clone());
                line.hosts.len() - 1
            });
            line.moments.push(Moment { keys: reader.keys(&snapshot), snapshot, host });
        }
        line
    }

    /// How many snapshots there are.
    pub fn len(&self) -> usize {
        self.moments.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.moments.is_empty()
    }

    /// The host, by its number, of snapshot number `n`.
    pub fn host_of(&self, n: usize) -> usize {
        self.moments[n].host
    }

    /// Snapshot number `n`.
    pub fn snapshot(&self, n: usize) -> &Arc<Snapshot> {
        &self.moments[n].snapshot
    }

    /// The keys of snapshot number `n`.
    pub fn keys(&self, n: usize) -> &DomainKeys {
        &self.moments[n].keys
    }

    /// Host number `n`.
    pub fn host(&self, n: usize) -> &str {
        &self.hosts[n]
    }

    /// The domain of snapshot number `n`.
    pub fn domain(&self, n: usize) -> DomainId {
        self.moments[n].snapshot.manifest.domain
    }
}

/// What stood at a path for a while.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// The snapshot of the timeline in which it stood first.
    pub first: usize,
    /// The last one in which it still stood.
    pub last: usize,
    /// In how many of its host's snapshots it stood; fewer than there are from first to last if it was away for a while.
    pub held: usize,
    /// The host, by its number in the timeline.
    pub host: usize,
    /// Type and permission bits.
    pub mode: u32,
    /// Numeric owner.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
    /// Modification time, ns since 1970.
    pub mtime_ns: i128,
    /// Size as `stat` shows it.
    pub size: u64,
    /// Whether an access list narrows or widens what the mode says.
    pub has_acl: bool,
    /// The node, if it is a directory.
    pub node: Option<ChunkId>,
}

/// Every version of one path, in order of their first snapshots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Past {
    /// The versions.
    pub versions: Vec<Version>,
    /// How many directories on the way could not be read, being damaged or gone.
    pub unreadable: usize,
    /// The reason for the first of them.
    pub reason: Option<String>,
}

impl Weigh for Past {
    fn weight(&self) -> u64 {
        (64 + self.versions.len() * size_of::<Version>()) as u64 + self.reason.as_ref().map_or(0, |r| r.len() as u64)
    }
}

/// What a host's entry of the name was where it was last looked at.
#[derive(Default)]
struct Before {
    /// The directory that was looked into last, and whether the name was there.
    dir: Option<(ChunkId, bool)>,
    /// The entry that was found last: itself, its domain, its version.
    found: Option<(Held, DomainId, usize)>,
}

impl Past {
    /// The versions of the root of all snapshots: costs nothing.
    pub fn of_root(line: &Timeline) -> Self {
        let mut past = Self::default();
        let mut last: Vec<Option<usize>> = vec![None; line.hosts.len()];
        for (n, moment) in line.moments.iter().enumerate() {
            let root = moment.snapshot.manifest.root;
            match last[moment.host] {
                Some(at) if past.versions[at].node == Some(root) => past.versions[at].stood_on(n, 1),
                _ => {
                    last[moment.host] = Some(past.versions.len());
                    past.versions.push(Version {
                        first: n,
                        last: n,
                        held: 1,
                        host: moment.host,
                        mode: 0o040_755,
                        uid: 0,
                        gid: 0,
                        mtime_ns: moment.snapshot.manifest.time_ns,
                        size: 0,
                        has_acl: false,
                        node: Some(root),
                    });
                }
            }
        }
        past
    }

    /// The versions of `path`.
    pub fn of(dirs: &Dirs, line: &Timeline, path: &[u8]) -> Result<Self> {
        parts_of(path).try_fold(Self::of_root(line), |past, name| past.child(dirs, line, name))
    }

    /// The versions of the entry `name` in the directory that this is the past of.
    ///
    /// A directory that is damaged or gone is counted, and passed over.
    ///
    /// Cost: one look by name into each directory that differs from the one before.
    pub fn child(&self, dirs: &Dirs, line: &Timeline, name: &[u8]) -> Result<Self> {
        let mut past = Self { versions: Vec::new(), unreadable: self.unreadable, reason: self.reason.clone() };
        let mut before: Vec<Before> = std::iter::repeat_with(Before::default).take(line.hosts.len()).collect();
        for parent in &self.versions {
            let Some(node) = parent.node else { continue };
            let before = &mut before[parent.host];
            if let Some((dir, was_there)) = before.dir
                && dir == node
            {
                if was_there && let Some((_, _, at)) = before.found {
                    past.versions[at].stood_on(parent.last, parent.held);
                }
                continue;
            }
            let held = match dirs.named(line.keys(parent.first), &node, name) {
                Ok(held) => held,
                Err(e) => {
                    past.pass_over(e)?;
                    continue;
                }
            };
            before.dir = Some((node, held.is_some()));
            let Some(held) = held else { continue };
            let domain = line.domain(parent.first);
            match &before.found {
                Some((old, its, at)) if is_same(old.entry(), held.entry(), *its == domain) => {
                    past.versions[*at].stood_on(parent.last, parent.held);
                }
                _ => {
                    let at = past.versions.len();
                    past.versions.push(Version::of(held.entry(), parent));
                    before.found = Some((held, domain, at));
                }
            }
        }
        Ok(past)
    }

    /// Whether it was ever a directory.
    pub fn was_dir(&self) -> bool {
        self.versions.iter().any(|v| v.node.is_some())
    }

    /// How many hosts have it.
    pub fn hosts(&self) -> usize {
        self.versions.iter().map(|v| v.host).collect::<HashSet<_>>().len()
    }

    /// Calls `each` with what ever stood in this directory: the version of the directory, the entry, and the numbers between the
    /// directory's own and the entry's. A name comes once for each part of the directory that differs, its oldest snapshot first.
    ///
    /// # Errors
    /// As for reading a directory; what is damaged or gone is counted in the answer, and passed over.
    ///
    /// Cost: every distinct part is read once.
    pub fn each_name(&self, dirs: &Dirs, line: &Timeline, mut each: impl FnMut(&Version, &Entry, u64) -> Result<()>) -> Result<Self> {
        let mut damage = Self::default();
        let (mut seen_dirs, mut seen_parts) = (HashSet::new(), HashSet::new());
        for version in &self.versions {
            let Some(node) = version.node.filter(|node| seen_dirs.insert(*node)) else { continue };
            let keys = line.keys(version.first);
            let parts = match dirs.dir(keys, &node).and_then(|dir| dirs.parts(keys, &dir)) {
                Ok(parts) => parts,
                Err(e) => {
                    damage.pass_over(e)?;
                    continue;
                }
            };
            for (part, before) in parts {
                if !seen_parts.insert(part) {
                    continue;
                }
                match dirs.node(keys, &part) {
                    Ok(node) => dirs.each_of(&node, |entry, start| each(version, entry, 1 + before + start))?,
                    Err(e) => damage.pass_over(e)?,
                }
            }
        }
        Ok(damage)
    }

    fn pass_over(&mut self, e: Error) -> Result<()> {
        if !matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::Missing) {
            return Err(e);
        }
        self.unreadable += 1;
        self.reason.get_or_insert_with(|| e.chain());
        Ok(())
    }
}

impl Version {
    /// Notes that it still stood in snapshot `last`, and in `held` more of its host.
    fn stood_on(&mut self, last: usize, held: usize) {
        self.last = last;
        self.held += held;
    }

    /// `entry`, found in the directory `parent`.
    fn of(entry: &Entry, parent: &Version) -> Self {
        Self {
            first: parent.first,
            last: parent.last,
            held: parent.held,
            host: parent.host,
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            mtime_ns: entry.mtime_ns,
            size: entry.size(),
            has_acl: has_acl(entry),
            node: match entry.content {
                Content::Dir { node, .. } => Some(node),
                _ => None,
            },
        }
    }
}

/// Whether an access list narrows or widens what the mode of `entry` says.
pub fn has_acl(entry: &Entry) -> bool {
    entry.xattrs.iter().any(|(name, _)| **name == *ACL)
}

/// Whether two entries are one version. Those of two domains name their content differently: there, size and mtime decide, and
/// directories always differ.
pub fn is_same(a: &Entry, b: &Entry, one_domain: bool) -> bool {
    let content = || match (&a.content, &b.content) {
        (Content::File { size, data, holes }, Content::File { size: other, data: data_b, holes: holes_b }) => {
            let compared = one_domain || matches!((data, data_b), (Data::Inline(_), Data::Inline(_)));
            size == other && holes == holes_b && (!compared || data == data_b)
        }
        (Content::Dir { .. }, Content::Dir { .. }) => one_domain && a.content == b.content,
        (a, b) => a == b,
    };
    a.mode == b.mode && a.uid == b.uid && a.gid == b.gid && a.mtime_ns == b.mtime_ns && a.xattrs == b.xattrs && content()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{ChunkList, ChunkRef, HardLink};

    fn file(size: u64, chunk: u8) -> Entry {
        let data = Data::Chunks(ChunkList::pack(&[ChunkRef { id: ChunkId::from_bytes([chunk; 32]), len: 300 }]));
        Entry {
            name: b"name"[..].into(),
            mode: 0o100_644,
            uid: 0,
            gid: 0,
            mtime_ns: 5,
            ctime_ns: 6,
            source_inode: 7,
            hard_link: None,
            xattrs: Vec::new(),
            user: None,
            group: None,
            content: Content::File { size, data, holes: Vec::new() },
        }
    }

    #[test]
    fn a_version_is_what_a_person_would_call_one() {
        let one = file(300, 1);
        let with = |change: &dyn Fn(&mut Entry)| {
            let mut other = one.clone();
            change(&mut other);
            is_same(&one, &other, true)
        };
        assert!(with(&|e| (e.ctime_ns, e.source_inode, e.hard_link) = (0, 0, Some(HardLink { group: 1, nlink: 2 }))));
        assert!(with(&|e| e.user = Some(b"ada"[..].into())));
        assert!(!with(&|e| e.mode = 0o100_600));
        assert!(!with(&|e| e.mtime_ns = 6));
        assert!(!with(&|e| e.gid = 1));
        assert!(!with(&|e| e.xattrs.push((b"user.a"[..].into(), b""[..].into()))));
        assert!(!with(&|e| e.content = Content::Symlink(b"x"[..].into())));
        // The same content has other ids in another domain.
        assert!(!is_same(&one, &file(300, 2), true));
        assert!(is_same(&one, &file(300, 2), false) && !is_same(&one, &file(301, 2), false));
        let dir = Content::Dir { node: ChunkId::from_bytes([1; 32]), below: 3 };
        let dir = Entry { content: dir, ..one.clone() };
        assert!(is_same(&dir, &dir, true) && !is_same(&dir, &dir, false));
    }
}
